"""Sample calls of the neural functions, each with its definition in NumPy and SciPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special

from tests.samples.base import INF, random, rows, special_values

Array = np.ndarray
erf, expit = scipy.special.erf, scipy.special.expit

# ----- activations --------------------------------------------------------------------------------


def _gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + erf(x / np.sqrt(2)))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0, x))


def _elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _selu(x: Array) -> Array:
    return 1.0507009873554805 * _elu(x, 1.6732632423543772)


def _leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    return np.where(x > 0, x, negative_slope * x)


def _prelu(x: Array, weight: Array) -> Array:
    if weight.size > 1:
        weight = weight.reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x > 0, x, weight * x)


def _glu(x: Array, axis: int = -1) -> Array:
    a, b = np.split(x, 2, axis)
    return a * expit(b)


_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": lambda x: x * expit(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hardtanh": lambda x, low=-1.0, high=1.0: np.clip(x, low, high),
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "logsigmoid": lambda x: -_softplus(-x),
}


@rows
def _activations(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x = np.concatenate([random(rng, "float32", 40, -5, 5), [0, -0.0, 1e4, -1e4, 3, -3, 6, 1, -1]])
    x = x.astype("float32")
    for name, referee in _ACTIVATIONS.items():
        yield name, (x,), {}, referee
        yield name, (np.array([-2, 0, 3], "int32"),), {}, referee
    yield "leaky_relu", (x, 0.3), {}, _leaky_relu
    yield "elu", (x, 0.3), {}, _elu
    yield "celu", (x, 0.3), {}, _celu
    yield "hardtanh", (x, -2.0, 0.5), {}, _ACTIVATIONS["hardtanh"]
    yield "gelu", (x,), {"approximate": "tanh"}, _gelu
    volume = random(rng, "float32", (2, 4, 3))
    yield "glu", (volume,), {"axis": 1}, _glu
    yield "prelu", (volume, np.array([0.3], "float32")), {}, _prelu
    yield "prelu", (volume, np.array([0.1, 0.2, 0.3, 0.4], "float32")), {}, _prelu
    yield "prelu", (special_values("float32"), np.float32(0.25)), {}, _prelu


# ----- losses -------------------------------------------------------------------------------------


def _of_losses(losses: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Array, target: Array, *args: Any, reduction: str = "mean", **keywords: Any) -> Any:
        found = losses(x, target, *args, **keywords)
        if reduction == "batchmean":
            return found.sum() / x.shape[0]
        return {"none": lambda: found, "sum": found.sum, "mean": found.mean}[reduction]()

    return call


def _huber(x: Array, target: Array, delta: float = 1.0) -> Array:
    d = np.abs(x - target)
    return np.where(d < delta, d * d / 2, delta * (d - delta / 2))


def _smooth_l1(x: Array, target: Array, beta: float = 1.0) -> Array:
    return _huber(x, target, beta) / beta if beta else np.abs(x - target)


def _bce(x: Array, target: Array, weight: Any = None) -> Array:
    with np.errstate(all="ignore"):
        losses = -(target * np.maximum(np.log(x), -100))
        losses = losses - (1 - target) * np.maximum(np.log1p(-x), -100)
    return losses if weight is None else losses * weight


def _bce_logits(x: Array, target: Array, weight: Any = None, pos_weight: Any = None) -> Array:
    hit = target * _softplus(-x) * (1.0 if pos_weight is None else pos_weight)
    losses = hit + (1 - target) * _softplus(x)
    return losses if weight is None else losses * weight


def _kl(x: Array, target: Array, log_target: bool = False) -> Array:
    if log_target:
        return np.exp(target) * (target - x)
    return scipy.special.xlogy(target, target) - target * x


def _nll(
    x: Array, target: Array, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    losses, factors = np.zeros(target.shape), np.zeros(target.shape)
    for at in np.ndindex(target.shape):
        c = target[at]
        if c != ignore_index:
            factors[at] = 1.0 if weight is None else weight[c]
            losses[at] = -factors[at] * (x[(at[0], c, *at[1:])] if at else x[c])
    total = {"none": losses, "sum": losses.sum()}
    return losses.sum() / factors.sum() if reduction == "mean" else total[reduction]


@rows
def _losses(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x, y = (random(rng, "float32", (3, 4)) for _ in range(2))
    p, q = (random(rng, "float32", (3, 4), 0.1, 0.9) for _ in range(2))
    weight = random(rng, "float32", (4,), 0.5, 2)
    simple: list[tuple[str, Callable[..., Any], tuple[Any, ...], list[dict[str, Any]]]] = [
        ("mse_loss", lambda x, y: (x - y) ** 2, (x, y), []),
        ("l1_loss", lambda x, y: np.abs(x - y), (x, y), []),
        ("huber_loss", _huber, (x, y), [{"delta": 0.4}]),
        ("smooth_l1_loss", _smooth_l1, (x, y), [{"beta": 0.4}, {"beta": 0}]),
        ("binary_cross_entropy", _bce, (p, q), [{"weight": weight}]),
        ("binary_cross_entropy", _bce, (np.eye(3, dtype="f4"), np.eye(3, dtype="f4")), []),
        ("binary_cross_entropy", _bce, (np.eye(3, dtype="f4"), np.ones((3, 3), "f4")), []),
        ("binary_cross_entropy_with_logits", _bce_logits, (x * 9, q), []),
        ("kl_div", _kl, (np.log(p), q), [{"log_target": True}, {"reduction": "batchmean"}]),
        ("kl_div", _kl, (np.log(p[:, :3]), np.eye(3, dtype="f4")), []),
    ]
    for name, losses, args, more in simple:
        for keywords in [{}, {"reduction": "sum"}, {"reduction": "none"}, *more]:
            yield name, args, keywords, _of_losses(losses)
    keywords = {"pos_weight": weight, "weight": weight[::-1].copy()}
    for reduction in ("mean", "none"):
        more = keywords | {"reduction": reduction}
        yield "binary_cross_entropy_with_logits", (x, q), more, _of_losses(_bce_logits)
    labels = np.array([1, 3, 0])
    for reduction, weights in itertools.product(("mean", "sum", "none"), (None, weight)):
        for ignore in (-100, 3):
            yield "nll_loss", (x, labels, weights, ignore, reduction), {}, _nll
    yield "nll_loss", (random(rng, "float32", (2, 3, 4)), np.array([[0, 1, 2, 0]] * 2)), {}, _nll
    yield "nll_loss", (x[0], np.array(2)), {}, _nll


# ----- normalization ------------------------------------------------------------------------------


def _standardized(x: Array, axes: Any, eps: float) -> Array:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axes, keepdims=True) + eps)


def _affine(x: Array, weight: Any, bias: Any, channels: bool = False) -> Array:
    for parameter, combine in ((weight, np.multiply), (bias, np.add)):
        if parameter is not None:
            shape = (-1, *(1,) * (x.ndim - 2)) if channels else parameter.shape
            x = combine(x, parameter.reshape(shape))
    return x


def _layer_norm(
    x: Array, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    rank = len(shape) if isinstance(shape, tuple) else 1
    return _affine(_standardized(x, tuple(range(-rank, 0)), eps), weight, bias)


def _rms_norm(x: Array, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    axes = tuple(range(-len(shape) if isinstance(shape, tuple) else -1, 0))
    eps = float(np.finfo("f4").eps) if eps is None else eps
    return _affine(x / np.sqrt((x * x).mean(axes, keepdims=True) + eps), weight, None)


def _batch_norm(
    x: Array, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if training:
        return _affine(_standardized(x, (0, *range(2, x.ndim)), eps), weight, bias, True)
    mean, var = (s.reshape(-1, *(1,) * (x.ndim - 2)) for s in (mean, var))
    return _affine((x - mean) / np.sqrt(var + eps), weight, bias, True)


def _group_norm(
    x: Array, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    grouped = x.reshape(x.shape[0], groups, -1)
    return _affine(_standardized(grouped, -1, eps).reshape(x.shape), weight, bias, True)


def _instance_norm(
    x: Array, *args: Any, weight: Any = None, bias: Any = None, **keywords: Any
) -> Any:
    if keywords.get("use_input_stats", True):
        return _group_norm(x, x.shape[1], weight, bias)
    return _batch_norm(x, *args, weight, bias)


def _normalize(x: Array, p: float = 2.0, axis: Any = 1, eps: float = 1e-12) -> Any:
    norm = np.abs(x).max(axis, keepdims=True)
    if p != INF:
        norm = (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
    return x / np.maximum(norm, eps)


@rows
def _normalizations(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x = random(rng, "float32", (3, 4, 5))
    channel = [random(rng, "float32", (4,), 0.5, 2) for _ in range(4)]
    flat, square = random(rng, "float32", (5,)), random(rng, "float32", (4, 5))
    yield "layer_norm", (x, 5), {}, _layer_norm
    yield "layer_norm", (x, (5,), flat, flat + 1), {"eps": 0.1}, _layer_norm
    yield "layer_norm", (x, (4, 5), square, square + 1), {}, _layer_norm
    yield "layer_norm", (x * 1e4, 5), {}, _layer_norm
    yield "rms_norm", (x, 5), {}, _rms_norm
    yield "rms_norm", (x, (4, 5), square), {"eps": 0.1}, _rms_norm
    for args in ((x, *channel[:2]), (x, *channel), (x[:, :, 0], *channel)):
        yield "batch_norm", args, {}, _batch_norm
        yield "batch_norm", args, {"training": True, "eps": 0.1}, _batch_norm
    yield "group_norm", (x, 2), {}, _group_norm
    yield "group_norm", (x, 1, channel[0], channel[1]), {"eps": 0.1}, _group_norm
    yield "instance_norm", (x,), {}, _instance_norm
    yield "instance_norm", (x, *channel[:2]), {"use_input_stats": False}, _instance_norm
    for keywords in ({}, {"p": 1.0}, {"p": 3.0, "axis": -1}, {"p": INF}, {"axis": (0, 1)}):
        yield "normalize", (x,), keywords, _normalize
    yield "normalize", (np.zeros((2, 3), "f4"),), {}, _normalize


# ----- convolution and pooling --------------------------------------------------------------------


def _each(value: Any, rank: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * rank


def _conv(
    x: Array, w: Array, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Array:  # fmt: skip
    """One output after the other: the sum of a window times the kernel."""
    rank = w.ndim - 2
    s, d = _each(stride, rank), _each(dilation, rank)
    spans = [r * (k - 1) for r, k in zip(d, w.shape[2:])]
    padding = 0 if padding == "valid" else padding
    around = [(p, p) for p in _each(padding, rank)] if padding != "same" else [
        (n // 2, n - n // 2) for n in spans
    ]  # fmt: skip
    x = np.pad(x, [(0, 0), (0, 0), *around])
    sizes = [(n - k - 1) // step + 1 for n, k, step in zip(x.shape[2:], spans, s)]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    each = w.shape[0] // groups
    for o, *t in np.ndindex(w.shape[0], *sizes):
        lead = slice(o // each * w.shape[1], (o // each + 1) * w.shape[1])
        place = [slice(i * a, i * a + n + 1, r) for i, a, n, r in zip(t, s, spans, d)]
        out[(slice(None), o, *t)] = (x[(slice(None), lead, *place)] * w[o]).sum(
            tuple(range(1, x.ndim))
        )
    return out if bias is None else out + bias.reshape(-1, *(1,) * rank)


def _conv_transpose(
    x: Array, w: Array, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Array:  # fmt: skip
    """Each input adds a scaled kernel; then the padding is cut off."""
    rank = w.ndim - 2
    s, d, p, more = (_each(v, rank) for v in (stride, dilation, padding, output_padding))
    full = [(n - 1) * a + r * (k - 1) + 1 + m
            for n, a, r, k, m in zip(x.shape[2:], s, d, w.shape[2:], more)]  # fmt: skip
    out = np.zeros((x.shape[0], w.shape[1] * groups, *full))
    each = x.shape[1] // groups
    for c, *t in np.ndindex(x.shape[1], *x.shape[2:]):
        lead = slice(c // each * w.shape[1], (c // each + 1) * w.shape[1])
        place = [slice(i * a, i * a + r * (k - 1) + 1, r)
                 for i, a, r, k in zip(t, s, d, w.shape[2:])]  # fmt: skip
        scale = x[(slice(None), c, *t)].reshape(-1, *(1,) * (rank + 1))
        out[(slice(None), lead, *place)] += scale * w[c]
    out = out[(..., *(slice(q, n - q) for q, n in zip(p, full)))]
    return out if bias is None else out + bias.reshape(-1, *(1,) * rank)


@rows
def _convolutions(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    sizes = {1: (7,), 2: (6, 5), 3: (4, 3, 5)}
    for rank, size in sizes.items():
        x = random(rng, "float32", (2, 4, *size), -0.5, 0.5)
        kernel = (3, 2, 3)[:rank]
        w, grouped = (
            random(rng, "float32", (3, 4, *kernel)),
            random(rng, "float32", (6, 2, *kernel)),
        )
        bias = random(rng, "float32", (3,))
        name = f"conv{rank}d"
        yield name, (x, w), {}, _conv
        yield name, (x, w, bias, 2, 1), {}, _conv
        yield name, (x, w, None), {"padding": "same", "dilation": 2}, _conv
        yield name, (x, w), {"padding": "valid", "stride": (2, 1, 3)[:rank]}, _conv
        yield name, (x, grouped), {"groups": 2, "padding": (1, 2, 0)[:rank]}, _conv
        yield name, (x, random(rng, "float32", (4, 1, *kernel))), {"groups": 4}, _conv
        name = f"conv_transpose{rank}d"
        w, grouped = (
            random(rng, "float32", (4, 3, *kernel)),
            random(rng, "float32", (4, 2, *kernel)),
        )
        yield name, (x, w), {}, _conv_transpose
        yield name, (x, w, bias, 2, 1, 1), {}, _conv_transpose
        yield name, (x, grouped), {"groups": 2, "stride": 3, "padding": 1}, _conv_transpose
        yield name, (x, w), {"dilation": 2, "stride": 2, "output_padding": 1}, _conv_transpose


def _pooled(reduce: Callable[..., Any], fill: float) -> Callable[..., Any]:
    """One window after the other; what hangs over the padded end is left out."""

    def call(
        x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, count_include_pad: bool = True,
    ) -> Array:  # fmt: skip
        rank = x.ndim - 2
        k, p, d = (_each(v, rank) for v in (kernel_size, padding, dilation))
        s = k if stride is None else _each(stride, rank)
        counted = fill if count_include_pad else np.nan
        padded = np.pad(x, [(0, 0)] * 2 + [(q, q) for q in p], constant_values=counted)
        starts = []
        for n, a, b, q, r in zip(x.shape[2:], k, s, p, d):
            last = n + 2 * q - r * (a - 1) - 1
            more = [i for i in (last // b * b + b,) if ceil_mode and last % b and i < n + q]
            starts.append([*range(0, last + 1, b), *more])
        out = np.zeros((*x.shape[:2], *map(len, starts)))
        for t in np.ndindex(out.shape[2:]):
            place = [slice(i[j], i[j] + r * (a - 1) + 1, r) for i, j, a, r in zip(starts, t, k, d)]
            out[(..., *t)] = reduce(padded[(..., *place)], tuple(range(2, x.ndim)))
        return out

    return call


def _pooled_integers(x: Array, *args: Any) -> Array:
    return _pooled(np.max, -128)(x, *args).astype(x.dtype)


def _adaptive(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Array, output_size: Any) -> Array:
        rank = x.ndim - 2
        given = zip(_each(output_size, rank), x.shape[2:])
        sizes = [n if m is None else m for m, n in given]
        out = np.zeros((*x.shape[:2], *sizes))
        for t in np.ndindex(*sizes):
            place = [slice(i * n // m, -(-(i + 1) * n // m))
                     for i, n, m in zip(t, x.shape[2:], sizes)]  # fmt: skip
            out[(..., *t)] = reduce(x[(..., *place)], tuple(range(2, x.ndim)))
        return out

    return call


@rows
def _pools(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    for rank, size in {1: (9,), 2: (6, 7), 3: (4, 5, 3)}.items():
        x = random(rng, "float32", (2, 3, *size))
        for keywords in (
            {}, {"stride": 1}, {"padding": 1}, {"stride": 3, "ceil_mode": True},
            {"stride": (2, 1, 1)[:rank], "padding": 1, "ceil_mode": True},
        ):  # fmt: skip
            yield f"max_pool{rank}d", (x, 3), keywords, _pooled(np.max, -INF)
            yield f"avg_pool{rank}d", (x, 3), keywords, _pooled(np.nanmean, 0.0)
            keywords = keywords | {"count_include_pad": False}
            yield f"avg_pool{rank}d", (x, (2, 3, 2)[:rank]), keywords, _pooled(np.nanmean, 0.0)
        dilated = {"dilation": 2, "stride": 1, "padding": 1}
        yield f"max_pool{rank}d", (x, 2), dilated, _pooled(np.max, -INF)
        for m in (1, 2, 3, (2, None, 1)[:rank] if rank > 1 else 7):
            yield f"adaptive_avg_pool{rank}d", (x, m), {}, _adaptive(np.mean)
            yield f"adaptive_max_pool{rank}d", (x, m), {}, _adaptive(np.max)
    yield "max_pool2d", (random(rng, "int8", (1, 1, 4, 4)), 3, 2, 1), {}, _pooled_integers


# ----- attention, embedding, resampling -----------------------------------------------------------


def _attention(
    q: Array, k: Array, v: Array, mask: Any = None, causal: bool = False, scale: Any = None
) -> Array:
    scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -INF)
    if mask is not None:
        scores = np.where(mask, scores, -INF) if mask.dtype == bool else scores + mask
    with np.errstate(all="ignore"):
        return np.nan_to_num(scipy.special.softmax(scores, axis=-1), nan=0.0) @ v


def _interpolate(
    x: Array, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool = False,
) -> Array:  # fmt: skip
    """A matrix for each axis."""
    rank = x.ndim - 2
    for k in range(rank):
        n = x.shape[2 + k]
        f = None if scale_factor is None else _each(scale_factor, rank)[k]
        m = int(n * f) if f else _each(size, rank)[k]
        matrix = np.zeros((m, n))
        for i in range(m):
            ratio = 1 / f if f else n / m
            at = i * (n - 1) / max(m - 1, 1) if align_corners else (i + 0.5) * ratio - 0.5
            if mode == "nearest":
                matrix[i, min(int(i * ratio + 1e-9), n - 1)] = 1
                continue
            at = at if mode == "bicubic" else max(at, 0)
            for step in range(-1, 3):
                j = int(np.floor(at)) + step
                matrix[i, min(max(j, 0), n - 1)] += _weight(abs(at - j), mode)
        x = np.moveaxis(np.tensordot(matrix, x, (1, 2 + k)), 0, 2 + k)
    return x


def _weight(d: float, mode: str) -> float:
    if mode != "bicubic":
        return max(1 - d, 0)
    a = -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _pixel_shuffle(x: Array, r: int) -> Array:
    *lead, c, h, w = x.shape
    out = np.zeros((*lead, c // r**2, h * r, w * r))
    for i, j in np.ndindex(r, r):
        out[..., i::r, j::r] = x[..., i * r + j :: r * r, :, :]
    return out


def _pixel_unshuffle(x: Array, r: int) -> Array:
    *lead, c, h, w = x.shape
    out = np.zeros((*lead, c * r * r, h // r, w // r))
    for i, j in np.ndindex(r, r):
        out[..., i * r + j :: r * r, :, :] = x[..., i::r, j::r]
    return out


@rows
def _others(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    q, k, v = (random(rng, "float32", s) for s in ((2, 3, 4), (2, 5, 4), (2, 5, 6)))
    hidden = np.array([[True] * 5, [False] * 5, [True, False, True, False, True]])
    yield "attention", (q, k, v), {}, _attention
    yield "attention", (q, k, v), {"causal": True, "scale": 0.3}, _attention
    yield "attention", (q, k, v, hidden), {}, _attention
    yield "attention", (q, k[0], v, random(rng, "float32", (3, 5))), {"causal": True}, _attention
    yield "attention", (q * 1e4, k, v, hidden), {"causal": True}, _attention
    table = random(rng, "float32", (5, 3))
    yield "dropout", (table, 0.5, False), {}, lambda x, p, training: x
    yield "dropout", (table, 0.0), {}, lambda x, p: x
    yield "dropout", (table, 1.0), {}, lambda x, p: 0 * x
    yield "embedding", (np.array([[0, 4], [2, 2]]), table), {}, lambda i, w: w[i]
    yield "embedding", (np.array(3, "uint8"), table), {}, lambda i, w: w[i]
    for rank, linear in {1: "linear", 2: "bilinear", 3: "trilinear"}.items():
        x = random(rng, "float32", (1, 2, *(5, 4, 3)[:rank]))
        for mode in ("nearest", linear, *(["bicubic"] if rank == 2 else [])):
            aligned = [False] if mode == "nearest" else [False, True]
            for corners, keywords in itertools.product(
                aligned, ({"size": (7, 3, 4)[:rank]}, {"size": 1}, {"scale_factor": 2},
                          {"scale_factor": (0.5, 1.7, 3.0)[:rank]}),
            ):  # fmt: skip
                both = keywords | {"mode": mode, "align_corners": corners}
                yield "interpolate", (x,), both, _interpolate
    x = random(rng, "float32", (2, 8, 4, 6))
    yield "pixel_shuffle", (x, 2), {}, _pixel_shuffle
    yield "pixel_unshuffle", (x, 2), {}, _pixel_unshuffle
