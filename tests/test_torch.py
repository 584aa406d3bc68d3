"""Neural functions against torch in value, gradient and second derivative, over the product of
their options, in float32 and float64. With `pytest -s` the table of options is printed.

torch is no dependency; where it is missing the file is skipped.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.errors import StagekitError
from stagekit.nn import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own
G = torch.nn.functional

# What rounding may cost, relative to the largest element: values, and derivatives of two orders.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}
COUNTS: Counter[tuple[str, str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    """One thread, and the counts of what was compared."""
    torch.set_num_threads(1)
    yield
    for (name, options), count in sorted(COUNTS.items()):
        print(f"{name:34} {options:60} {count:5}")
    print(f"{sum(COUNTS.values())} comparisons")


def _torch_outcome(f: Callable[..., Any], args: Any, seeds: Any) -> Any:
    """The value, the gradient of <value, seed>, and that of <gradient, seed>; None for an error."""
    leaves = [torch.tensor(a, requires_grad=True) for a in args]
    try:
        out = f(*leaves)
    except (RuntimeError, ValueError):
        return None
    seed = torch.tensor(seeds(tuple(out.shape), 0))
    first = torch.autograd.grad((out * seed).sum(), leaves, create_graph=True)
    total = sum((g * torch.tensor(seeds(tuple(g.shape), 1 + k))).sum() for k, g in enumerate(first))
    second = [None] * len(leaves)
    if total.requires_grad:
        second = torch.autograd.grad(total, leaves, allow_unused=True)
    found = [
        out,
        *first,
        *(torch.zeros_like(x) if g is None else g for g, x in zip(second, leaves)),
    ]
    return [x.detach().numpy(force=True) for x in found]


def _our_outcome(f: Callable[..., Any], args: Any, seeds: Any) -> Any:
    places = tuple(range(len(args)))

    def total(*xs: Any) -> Any:
        out = f(*xs)
        return sk.sum(out * seeds(tuple(out.shape), 0)), out

    def of_gradients(*xs: Any) -> Any:
        grads, out = sk.grad(total, argnums=places, has_aux=True)(*xs)
        terms = [sk.sum(g * seeds(tuple(g.shape), 1 + k)) for k, g in enumerate(grads)]
        return sum(terms[1:], terms[0]), (out, *grads)

    try:
        second, first = sk.grad(of_gradients, argnums=places, has_aux=True)(*map(sk.asarray, args))
    except StagekitError:
        return None
    return [x.numpy() for x in (*first, *second)]


def agree(
    name: str,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    shapes: Any,
    *,
    low: float = -2.0,
    high: float = 2.0,
    options: str = "",
    kinds: tuple[str, ...] = ("float32", "float64"),
    error: type[StagekitError] | None = None,
) -> None:
    """Equal results for random operands, or an error of both."""
    for kind in kinds:
        rng = np.random.default_rng([1, *name.encode()])
        args = [rng.uniform(low, high, s).astype(kind) for s in shapes]
        drawn: dict[Any, np.ndarray] = {}

        def seeds(shape: Any, k: int, kind: str = kind, drawn: Any = drawn, rng: Any = rng) -> Any:
            return drawn.setdefault((shape, k), rng.uniform(-1, 1, shape).astype(kind))

        want = _torch_outcome(theirs, args, seeds)
        got = _our_outcome(ours, args, seeds)
        COUNTS[name, options] += 1
        assert (want is None) == (got is None), f"{name} {options}: {want} {got}"
        if want is None:
            assert error is not None, f"{name} {options}: an error"
            with pytest.raises(error):
                ours(*map(sk.asarray, args))
            continue
        for k, (w, g) in enumerate(zip(want, got, strict=True)):
            assert w.shape == g.shape, (name, options, k)
            assert str(g.dtype) == kind, (name, options, k)
            bound = TOLERANCE[kind] * max(1.0, float(np.abs(w).max(initial=0)))
            np.testing.assert_allclose(g, w, 0, bound, err_msg=f"{name} {options} {kind} part {k}")


# ----- convolution --------------------------------------------------------------------------------

RANKS = {1: ((9,), (3,)), 2: ((7, 6), (3, 2)), 3: ((4, 5, 3), (2, 3, 1))}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv(rank: int, stride: int) -> None:
    size, kernel = RANKS[rank]
    name = f"conv{rank}d"
    for padding, dilation, depthwise, bias in itertools.product(
        (0, 1, "same", "valid"), (1, 2), (False, True), (False, True)
    ):
        if bias and (padding != 1 or rank == 3):
            continue
        groups = 4 if depthwise else 1
        shapes = [(2, 4, *size), (4, 4 // groups, *kernel), *([(4,)] if bias else [])]
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        agree(
            name,
            lambda *xs, o=options: getattr(F, name)(*xs, **o),
            lambda *xs, o=options: getattr(G, name)(*xs, **o),
            shapes,
            options=f"stride={stride} padding={padding} dilation={dilation}",
            error=_error(padding, stride),
        )


def _error(padding: Any, stride: int) -> type[StagekitError]:
    if padding == "same" and stride > 1:
        return sk.errors.ArgumentError
    return sk.errors.ShapeError


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv_transpose(rank: int, stride: int) -> None:
    size, kernel = RANKS[rank]
    name = f"conv_transpose{rank}d"
    for padding, dilation, groups, more in itertools.product((0, 1), (1, 2), (1, 2), (0, 1)):
        options = {
            "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
            "output_padding": more,
        }  # fmt: skip
        agree(
            name,
            lambda *xs, o=options: getattr(F, name)(*xs, **o),
            lambda *xs, o=options: getattr(G, name)(*xs, **o),
            [(2, 4, *size), (4, 6 // groups, *kernel)],
            options=f"stride={stride} padding={padding} dilation={dilation}",
            error=sk.errors.ArgumentError
            if more >= max(stride, dilation)
            else sk.errors.ShapeError,
        )


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "avg_pool2d"])
def test_a_window_larger_than_the_input(name: str) -> None:
    for padding, size in itertools.product((0, 1, 2), (1, 2, 3, 4, 5)):
        convolves = name == "conv2d"
        window = () if convolves else (5,)
        agree(
            name,
            lambda *xs, p=padding: getattr(F, name)(*xs, *window, padding=p),
            lambda *xs, p=padding: getattr(G, name)(*xs, *window, padding=p),
            [(1, 2, size, 6), *([(3, 2, 5, 5)] if convolves else [])],
            options="window of 5",
            error=sk.errors.ShapeError,
        )


def test_sizes_of_one_and_an_empty_batch() -> None:
    for batch, channels, size in itertools.product((0, 1, 2), (1, 3), (1, 2)):
        shapes = [(batch, channels, size, size), (2, channels, 1, 1), (2,)]
        agree("conv2d", F.conv2d, G.conv2d, shapes, options="sizes 0 and 1")
        pool = [(batch, channels, size, size)]
        agree("max_pool2d", lambda x: F.max_pool2d(x, 1), lambda x: G.max_pool2d(x, 1), pool)
    agree("conv2d", F.conv2d, G.conv2d, [(3, 5, 6), (2, 3, 3, 3)], options="no batch")


# ----- pooling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kernel", [2, 3])
def test_pool(rank: int, kernel: int) -> None:
    size = {1: (9,), 2: (7, 6), 3: (4, 5, 3)}[rank]
    for stride, padding, ceil in itertools.product((None, 1, 2, 3), (0, 1), (False, True)):
        options: dict[str, Any] = {"stride": stride, "padding": padding, "ceil_mode": ceil}
        for dilation in (1, 2):
            both = options | {"dilation": dilation}
            _agree_pool(f"max_pool{rank}d", size, kernel, both)
        for counted in (True, False):
            both = options | {"count_include_pad": counted}
            _agree_pool(f"avg_pool{rank}d", size, kernel, both)


def _agree_pool(name: str, size: Any, kernel: int, options: dict[str, Any]) -> None:
    agree(
        name,
        lambda x: getattr(F, name)(x, kernel, **options),
        lambda x: getattr(G, name)(x, kernel, **options),
        [(2, 3, *size)],
        options=f"kernel={kernel} stride={options['stride']} padding={options['padding']}",
        error=sk.errors.ShapeError,
    )


@pytest.mark.parametrize("rank", RANKS)
def test_adaptive_pool(rank: int) -> None:
    size = {1: (9,), 2: (7, 6), 3: (4, 5, 3)}[rank]
    for kind, m in itertools.product(("avg", "max"), (1, 2, 3, 4, 9)):
        name = f"adaptive_{kind}_pool{rank}d"
        ours, theirs = getattr(F, name), getattr(G, name)
        shapes = [(2, 3, *size)]
        agree(name, lambda x: ours(x, m), lambda x: theirs(x, m), shapes, options=f"size={m}")


# ----- activations --------------------------------------------------------------------------------

ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (), "relu6": (), "leaky_relu": (0.2,), "elu": (0.7,), "selu": (), "celu": (2.0,),
    "silu": (), "mish": (), "hardtanh": (-0.5, 1.5), "hardsigmoid": (), "hardswish": (),
    "softsign": (), "logsigmoid": (), "tanh": (), "sigmoid": (), "softplus": (), "gelu": (),
    "glu": (), "softmax": (-1,), "log_softmax": (-1,),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    ours, theirs = getattr(F, name), getattr(G, name)
    extra = ACTIVATIONS[name]
    no_second = {"hardswish", "hardsigmoid"}
    for low, high in ((-2.0, 2.0), (-9.0, 9.0), (1.0, 15.0)):
        for shape in ((3, 4), (2, 6, 2)):
            run = _formula(name) if name in no_second else lambda x: theirs(x, *extra)
            agree(name, lambda x: ours(x, *extra), run, [shape], low=low, high=high)


def _formula(name: str) -> Callable[..., Any]:
    """Functions whose derivative torch cannot differentiate again, by one that it can."""
    gate = lambda x: G.relu6(x + 3) / 6
    return gate if name == "hardsigmoid" else lambda x: x * gate(x)


def test_activations_with_options() -> None:
    tanh = {"approximate": "tanh"}
    agree(
        "gelu", lambda x: F.gelu(x, **tanh), lambda x: G.gelu(x, **tanh), [(5, 4)], options="tanh"
    )
    agree("glu", lambda x: F.glu(x, 0), lambda x: G.glu(x, 0), [(4, 3)], options="axis=0")
    for weight in ((1,), (4,)):
        agree("prelu", F.prelu, G.prelu, [(3, 4, 2), weight], options=f"weight={weight}")
    for axis in (0, 1, -1):
        agree("softmax", lambda x: F.softmax(x, axis), lambda x: G.softmax(x, axis), [(3, 4, 2)])
    ours = lambda x: F.logsumexp(x, axis=1)
    agree("logsumexp", ours, lambda x: torch.logsumexp(x, 1), [(3, 4, 2)], low=-9, high=9)


# ----- normalization ------------------------------------------------------------------------------


def test_layer_and_rms_norm() -> None:
    for shape, eps in itertools.product(((5,), (4, 5)), (1e-5, 0.1)):
        rank = len(shape)
        for count in (0, 1, 2):
            shapes = [(3, 4, 5), *[shape] * count]
            agree(
                "layer_norm",
                lambda x, *p: F.layer_norm(x, shape, *p, eps=eps),
                lambda x, *p: G.layer_norm(x, shape, *p, eps=eps),
                shapes,
                options=f"axes={rank} eps={eps} parameters={count}",
            )
            if count < 2:
                agree(
                    "rms_norm",
                    lambda x, *p: F.rms_norm(x, shape, *p, eps=eps),
                    lambda x, *p: G.rms_norm(x, shape, *p, eps=eps),
                    shapes,
                    options=f"axes={rank} eps={eps} parameters={count}",
                )
    agree("rms_norm", lambda x: F.rms_norm(x, (5,)), lambda x: G.rms_norm(x, (5,)), [(3, 5)])


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 2)])
def test_batch_group_and_instance_norm(shape: tuple[int, ...]) -> None:
    c, options = [(4,)], f"{len(shape)} axes"
    agree(
        "batch_norm",
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        lambda x, w, b: G.batch_norm(x, None, None, w, b, True),
        [shape, *c * 2],
        options=f"training, {options}",
    )
    agree(
        "batch_norm",
        lambda x, m, v, w, b: F.batch_norm(x, m, v * v + 0.5, w, b),
        lambda x, m, v, w, b: (x - _wide(m, x)) / torch.sqrt(_wide(v * v + 0.5, x) + 1e-5)
        * _wide(w, x) + _wide(b, x),
        [shape, *c * 4],
        options=f"running, {options}",
    )  # fmt: skip
    for groups in (1, 2, 4):
        if groups * 2 > 4 * int(np.prod(shape[2:])):
            continue
        agree(
            "group_norm",
            lambda x, w, b: F.group_norm(x, groups, w, b),
            lambda x, w, b: G.group_norm(x, groups, w, b),
            [shape, *c * 2],
            options=f"groups={groups}, {options}",
        )
    if len(shape) > 2:
        agree(
            "instance_norm",
            lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
            lambda x, w, b: G.instance_norm(x, weight=w, bias=b),
            [shape, *c * 2],
            options=options,
        )


def _wide(parameter: Any, x: Any) -> Any:
    return parameter.reshape(-1, *(1,) * (x.ndim - 2))


@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("stage", [lambda f: f, sk.function], ids=["eager", "staged"])
def test_running_statistics(op: str, stage: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(0)
    mean, var = sk.Variable(sk.zeros(4)), sk.Variable(sk.ones(4))
    m, v = torch.zeros(4), torch.ones(4)
    run = stage(lambda x: getattr(F, op)(x, mean, var, None, None, True, 0.3))
    for n in (3, 5, 2):
        x = rng.uniform(-2, 2, (n, 4, 5)).astype("f4")
        want = getattr(G, op)(torch.tensor(x), m, v, None, None, True, 0.3)
        np.testing.assert_allclose(run(sk.asarray(x)).numpy(), want.numpy(), 0, 1e-5)
        np.testing.assert_allclose(mean.numpy(), m.numpy(), 0, 1e-6)
        np.testing.assert_allclose(var.numpy(), v.numpy(), 0, 1e-5)


def test_normalize() -> None:
    for p, axis in itertools.product((1.0, 2.0, 3.0, float("inf")), (0, 1, (0, 1))):
        if p == float("inf") and axis == (0, 1):
            continue
        agree(
            "normalize",
            lambda x: F.normalize(x, p, axis),
            lambda x: G.normalize(x, p, axis),
            [(3, 4, 2)],
            options=f"p={p} axis={axis}",
        )


# ----- losses -------------------------------------------------------------------------------------


def _loss(name: str, how: dict[str, Any]) -> Callable[..., Any]:
    return lambda x, y: getattr(F, name)(x, y, **how)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction: str) -> None:
    how: dict[str, Any] = {"reduction": reduction}
    two = [(4, 3), (4, 3)]
    rows: list[tuple[str, dict[str, Any]]] = [
        ("mse_loss", {}), ("l1_loss", {}), ("huber_loss", {"delta": 0.6}), ("huber_loss", {}),
        ("smooth_l1_loss", {"beta": 0.6}), ("smooth_l1_loss", {}),
        ("kl_div", {"log_target": True}),
    ]  # fmt: skip
    for name, more in rows:
        agree(
            name,
            lambda x, y: getattr(F, name)(x, y, **how, **more),
            lambda x, y: getattr(G, name)(x, y, **how, **more),
            two,
            options=reduction,
        )
    plain = {"mean": torch.mean, "sum": torch.sum, "none": torch.positive}[reduction]
    probabilities: dict[str, Callable[..., Any]] = {
        "kl_div": lambda x, y: G.kl_div(x, y, **how),
        "binary_cross_entropy": lambda x, y: plain(-y * x.log() - (1 - y) * torch.log1p(-x)),
        "binary_cross_entropy_with_logits": lambda x, y: G.binary_cross_entropy_with_logits(
            x, y, **how
        ),
    }
    for name, theirs in probabilities.items():
        agree(name, _loss(name, how), theirs, two, low=0.1, high=0.9, options=reduction)
    # torch adds 1e-12 to the denominator of this gradient, which shows in float64
    name, theirs = "binary_cross_entropy", lambda x, y: G.binary_cross_entropy(x, y, **how)
    kinds = ("float32",)
    agree(name, _loss(name, how), theirs, two, low=0.1, high=0.9, options=reduction, kinds=kinds)
    rng = np.random.default_rng(0)
    for shape, ignore, smoothing in itertools.product(
        ((5, 4), (2, 4, 3), (4,)), (None, 2), (0.0, 0.2)
    ):
        hard = rng.integers(0, 4, (*shape[:1], *shape[2:]) if len(shape) > 1 else ())
        index, labels = {} if ignore is None else {"ignore_index": ignore}, torch.tensor(hard)
        both = how | index | {"label_smoothing": smoothing}
        if not np.any(hard != ignore):
            continue
        agree(
            "cross_entropy",
            lambda x: F.cross_entropy(x, hard, **both),
            lambda x: G.cross_entropy(x, labels, **both),
            [shape],
            options=f"{reduction} ignore={ignore} smoothing={smoothing}",
        )
        if smoothing:
            both = how | {"label_smoothing": smoothing}
            agree(
                "cross_entropy",
                lambda x, y: F.cross_entropy(x, F.softmax(y, min(1, y.ndim - 1)), **both),
                lambda x, y: G.cross_entropy(x, G.softmax(y, min(1, y.ndim - 1)), **both),
                [shape, shape],
                options=f"{reduction} probabilities smoothing={smoothing}",
            )
        else:
            factors = rng.uniform(0.5, 2, 4)
            for kind in ("float32", "float64"):
                w = factors.astype(kind)
                agree(
                    "nll_loss",
                    lambda x: F.nll_loss(x, hard, w, **index, **how),
                    lambda x: G.nll_loss(x, labels, torch.tensor(w), **index, **how),
                    [shape],
                    options=f"{reduction} ignore={ignore}",
                    kinds=(kind,),
                )


# ----- attention and resampling -------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention(causal: bool, mask: str) -> None:
    if causal and mask != "none":
        return  # torch refuses both
    shapes: list[Any] = [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2)]
    hidden = np.random.default_rng(1).random((5, 6)) < 0.6
    hidden[:, 0] = True
    hidden[2] = False  # a query that sees nothing
    shapes += [(5, 6)] if mask == "float" else []
    given = {"bool": [hidden]}.get(mask, [])
    theirs = [torch.tensor(h) for h in given]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for scale in (None, 0.7):
            agree(
                "attention",
                lambda *xs: F.attention(*xs, *given, causal=causal, scale=scale),
                lambda *xs: G.scaled_dot_product_attention(
                    *xs,
                    *theirs,
                    is_causal=causal,
                    scale=scale,
                ),
                shapes,
                options=f"mask={mask} causal={causal} scale={scale}",
            )


@pytest.mark.parametrize("mode", ["nearest", "linear", "bilinear", "trilinear", "bicubic"])
def test_interpolate(mode: str) -> None:
    ranks = {"nearest": (1, 2, 3), "linear": (1,), "trilinear": (3,)}.get(mode, (2,))
    corners = (False,) if mode == "nearest" else (False, True)
    for rank, aligned, keywords in itertools.product(
        ranks, corners, ({"size": 4}, {"size": 7}, {"size": 1}, {"scale_factor": 2},
                         {"scale_factor": 0.7}, {"scale_factor": 2.3}),
    ):  # fmt: skip
        if mode == "nearest" and rank == 3 and keywords == {"scale_factor": 2.3}:
            continue  # torch's gradient is not the transpose of its values here
        theirs = keywords if mode == "nearest" else keywords | {"align_corners": aligned}
        agree(
            "interpolate",
            lambda x: F.interpolate(x, mode=mode, align_corners=aligned, **keywords),
            lambda x: G.interpolate(x, mode=mode, **theirs),
            [(2, 3, *(5, 4, 3)[:rank])],
            options=f"{mode} align_corners={aligned} {keywords}",
        )


def test_embedding_and_pixels() -> None:
    index = np.array([[0, 3], [1, 3]])
    places = torch.tensor(index)
    ours = lambda w: F.embedding(index, w) ** 2
    agree("embedding", ours, lambda w: G.embedding(places, w) ** 2, [(5, 3)])
    for name in ("pixel_shuffle", "pixel_unshuffle"):
        f, g = getattr(F, name), getattr(G, name)
        agree(name, lambda x: f(x, 2), lambda x: g(x, 2), [(2, 8, 4, 6)])
