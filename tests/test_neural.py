"""Neural functions: derivatives to second order in both modes; staged, symbolic and exported as
eager; right at the extremes; refused alike in both stages where operands do not fit.

Values are held against NumPy by tests/samples/neural.py, options against torch by test_torch.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.errors import ArgumentError, BoundsError, DTypeError, ShapeError, StagekitError
from stagekit.export import runtime
from stagekit.nn import functional as F
from stagekit.testing import check_grads

Function = Callable[..., Any]


def draw(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng([*shape, 5]).uniform(low, high, shape)


# ----- derivatives --------------------------------------------------------------------------------

LABELS, HIDDEN = np.array([1, 0, 3]), np.array([[True, False, True, True], [False] * 4])
X, XY, XYZ = draw(2, 4, 7), draw(2, 4, 5, 6), draw(1, 2, 3, 4, 3)

CALLS: dict[str, tuple[Function, list[np.ndarray]]] = {
    **{
        name: (getattr(F, name), [draw(3, 4) * 1.7])
        for name in (
            "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish",
            "hardtanh", "hardsigmoid", "hardswish", "softsign", "logsigmoid", "tanh", "sigmoid",
            "softplus", "glu", "softmax", "log_softmax", "logsumexp", "normalize",
        )
    },
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), [draw(5)]),
    "prelu": (F.prelu, [draw(2, 3, 2), draw(3)]),
    "normalize 3": (lambda x: F.normalize(x, 3.0, axis=(0, 1)), [draw(3, 4, low=0.5)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, 4, w, b), [draw(3, 4), draw(4), draw(4) + 1]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (3, 4), w), [draw(2, 3, 4), draw(3, 4)]),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        [draw(3, 4, 2), draw(4), draw(4) + 1],
    ),
    "batch_norm running": (F.batch_norm, [draw(3, 4), draw(4), draw(4, low=0.5), draw(4)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [draw(2, 4, 3), draw(4), draw(4) + 1]),
    "instance_norm": (lambda x, w: F.instance_norm(x, weight=w), [draw(2, 4, 3), draw(4)]),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, 2, 1), [X, draw(3, 4, 3), draw(3)]),
    "conv2d": (lambda x, w: F.conv2d(x, w, None, (2, 1), "valid", 2), [XY, draw(2, 4, 2, 3)]),
    "conv2d same": (lambda x, w: F.conv2d(x, w, padding="same", groups=4), [XY, draw(4, 1, 2, 3)]),
    "conv3d": (lambda x, w: F.conv3d(x, w, groups=2), [XYZ, draw(2, 1, 2, 3, 1)]),
    "conv_transpose1d": (
        lambda x, w, b: F.conv_transpose1d(x, w, b, 3, 1, 1, 2),
        [X, draw(4, 2, 3), draw(4)],
    ),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, dilation=(1, 2)), [XY, draw(4, 2, 3, 2)],
    ),
    "conv_transpose3d": (F.conv_transpose3d, [XYZ, draw(2, 1, 2, 3, 1)]),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True), [X]),
    "max_pool2d": (lambda x: F.max_pool2d(x, (2, 3), 1, dilation=2), [XY]),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), [XYZ]),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1, True), [X]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3), padding=1, count_include_pad=False), [XY]),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), [XYZ]),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 3), [X]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (2, None)), [XY]),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), [XYZ]),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 3), [X]),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (2, None)), [XY]),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, 2), [XYZ]),
    "attention": (
        lambda q, k, v: F.attention(q, k, v, HIDDEN, causal=True),
        [draw(2, 2, 3), draw(2, 4, 3), draw(2, 4, 2)],
    ),
    "attention float": (F.attention, [draw(2, 3), draw(4, 3), draw(4, 2), draw(2, 4)]),
    "dropout": (lambda x: F.dropout(x, 0.4, generator=sk.random.Generator(3)), [draw(3, 4)]),
    "embedding": (lambda w: F.embedding(LABELS, w), [draw(4, 2)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1), [draw(3, 4)]),
    "cross_entropy soft": (
        lambda x, y: F.cross_entropy(x, F.softmax(y)), [draw(3, 4), draw(3, 4) + 1],
    ),
    "nll_loss": (lambda x: F.nll_loss(x, LABELS, draw(4), ignore_index=0), [draw(3, 4)]),
    **{
        name: (getattr(F, name), [draw(3, 4, low=0.1, high=0.45), draw(3, 4, low=0.55, high=0.9)])
        for name in (
            "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy",
            "binary_cross_entropy_with_logits", "kl_div",
        )
    },
    "interpolate": (lambda x: F.interpolate(x, 5, mode="linear"), [X]),
    "interpolate bicubic": (lambda x: F.interpolate(x, (3, 8), None, "bicubic", True), [XY]),
    "interpolate nearest": (lambda x: F.interpolate(x, scale_factor=1.5), [XYZ]),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), [XY]),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), [draw(1, 2, 4)]),
}  # fmt: skip


def test_every_function_is_differentiated_here() -> None:
    named = {name.split()[0] for name in CALLS}
    assert set(F.__all__) - named == {"one_hot"}


@pytest.mark.parametrize("name", CALLS)
def test_derivatives(name: str) -> None:
    f, args = CALLS[name]
    check_grads(f, args)


@pytest.mark.parametrize("name", CALLS)
def test_staged_gradients_are_eagers(name: str) -> None:
    f, args = CALLS[name]
    total = lambda *xs: sk.sum(sk.sin(f(*xs)))
    run = sk.value_and_grad(total, argnums=tuple(range(len(args))))
    tensors = [sk.asarray(a.astype("f4")) for a in args]
    want, got = run(*tensors), sk.function(run)(*tensors)
    flat = lambda pair: [pair[0], *pair[1]]
    for w, g in zip(flat(want), flat(got), strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), 1e-5, 1e-6)


# ----- symbolic sizes, export, vmap ---------------------------------------------------------------

W3, W2, DEEP = (
    sk.asarray(draw(*s).astype("f4")) for s in ((4, 2, 3, 3), (2, 3, 2, 2), (2, 1, 3, 3))
)

SYMBOLIC: dict[str, Function] = {
    "conv2d": lambda x: F.conv2d(x, W3, padding=1),
    "conv2d strided": lambda x: F.conv2d(x, W3, None, 2, 1),
    "conv2d same": lambda x: F.conv2d(x, W3, padding="same", dilation=2),
    "depthwise": lambda x: F.conv2d(x, DEEP, padding=2, groups=2),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, W2, None, 2),
    "residual": lambda x: x + F.conv2d(x, W3, padding=1)[:, :2],
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d ceil": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "global mean": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive": lambda x: F.adaptive_max_pool2d(x, 3),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "group_norm": lambda x: F.group_norm(x, 1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "attention": lambda x: F.attention(x, x, x, causal=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, (3, 5), mode="bilinear"),
    "gradient": sk.grad(lambda x: sk.sum(F.conv2d(x, W3, None, 2, 1) ** 2)),
    "gradient of a pool": sk.grad(lambda x: sk.sum(F.max_pool2d(x, 3, 2, 1) ** 2)),
    "gradient of a kernel": lambda x: sk.grad(lambda w: sk.sum(F.conv2d(x, w, padding=1) ** 2))(W3),
}


def images(n: int, h: int, w: int) -> sk.Tensor:
    return sk.asarray(draw(n, 2, h, w).astype("f4"))


@pytest.mark.parametrize("name", SYMBOLIC)
def test_sizes_are_symbolic(name: str) -> None:
    f = SYMBOLIC[name]
    staged = sk.function(f, dynamic=True)
    for n, h, w in ((2, 5, 6), (3, 7, 8), (1, 6, 5), (4, 9, 12), (2, 1, 1), (1, 2, 9)):
        x = images(n, h, w)
        want = f(x)
        np.testing.assert_allclose(staged(x).numpy(), want.numpy(), 2e-5, 2e-5)
    assert staged.cache_info().traces <= 4, staged.explain()


@pytest.mark.parametrize("name", ["conv2d", "depthwise", "max_pool2d", "avg_pool2d", "group_norm"])
def test_an_empty_batch(name: str) -> None:
    f = SYMBOLIC[name]
    staged = sk.function(f, dynamic=True)
    for n in (2, 0, 1):
        assert staged(images(n, 4, 5)).shape == f(images(n, 4, 5)).shape
    total = lambda x: sk.sum(f(x))
    assert sk.grad(total)(images(0, 4, 5)).shape == (0, 2, 4, 5)


def network(x: Any) -> Any:
    h = F.relu(F.conv2d(x, W3, padding=1, stride=2))
    h = F.max_pool2d(F.batch_norm(h, sk.zeros(4), sk.ones(4)), 2, ceil_mode=True)
    return F.softmax(sk.mean(h, axis=(2, 3)))


@pytest.mark.parametrize("f", [network, sk.grad(lambda x: network(x)[0, 0])])
def test_export_at_any_size(tmp_path: Path, f: Function) -> None:
    file = str(tmp_path / "network.stagekit")
    sk.export.save(file, f, sk.TensorSpec(("n", 2, "h", "w")))
    program, loaded = runtime.load(file, verify=True), sk.export.load(file)
    for n, h, w in ((2, 8, 9), (1, 5, 5), (3, 12, 7)):
        x = images(n, h, w)
        want = f(x).numpy()
        np.testing.assert_array_equal(program(x.numpy()), want)
        np.testing.assert_allclose(loaded(x).numpy(), want, 1e-5, 1e-6)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_of_convolution(axes: Any, groups: int) -> None:
    shapes = [(2, 4, 6), (6, 4 // groups, 3)]
    x, w = (draw(*([3] if a == 0 else []), *s) for a, s in zip(axes, shapes))
    f = lambda x, w: F.conv1d(x, w, padding=1, groups=groups)
    got = sk.vmap(f, in_axes=axes)(x, w).numpy()
    for k in range(3):
        lane = [v if a is None else v[k] for a, v in zip(axes, (x, w))]
        np.testing.assert_allclose(got[k], f(*map(sk.asarray, lane)).numpy(), 1e-12, 1e-12)


# ----- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [lambda f: f, sk.function], ids=["eager", "staged"])
def test_running_statistics_move_in_training(stage: Function) -> None:
    mean, var = sk.Variable(sk.zeros(2)), sk.Variable(sk.ones(2))
    step = stage(
        sk.grad(lambda x: sk.sum(F.batch_norm(x, mean, var, training=True, momentum=0.5) ** 3))
    )
    x = draw(6, 2).astype("f4")
    gradient = step(sk.asarray(x)).numpy()
    np.testing.assert_allclose(mean.numpy(), 0.5 * x.mean(0), 1e-5, 1e-6)
    np.testing.assert_allclose(var.numpy(), 0.5 + 0.5 * x.var(0, ddof=1), 1e-5)
    plain = sk.grad(lambda x: sk.sum(F.batch_norm(x, None, None, training=True) ** 3))
    np.testing.assert_allclose(gradient, plain(sk.asarray(x)).numpy(), 1e-4, 1e-5)
    before = mean.numpy().copy()
    stage(lambda x: F.batch_norm(x, mean, var))(sk.asarray(x))
    assert np.array_equal(mean.numpy(), before)


def test_a_plain_tensor_of_statistics_is_not_written() -> None:
    mean, var = sk.zeros(2), sk.ones(2)
    F.batch_norm(sk.asarray(draw(4, 2)), mean, var, training=True)
    assert np.array_equal(mean.numpy(), np.zeros(2))


@pytest.mark.parametrize("stage", [lambda f: f, sk.function], ids=["eager", "staged"])
def test_dropout(stage: Function) -> None:
    generator = sk.random.Generator(7)
    step = stage(lambda x: F.dropout(x, 0.25, generator=generator))
    x = sk.ones((100, 100))
    first, second = step(x).numpy(), step(x).numpy()
    assert set(np.unique(first)) == {0, np.float32(1) / np.float32(0.75)}
    assert abs((first != 0).mean() - 0.75) < 0.02
    assert not np.array_equal(first, second)
    same = F.dropout(x, 0.25, generator=sk.random.Generator(7)).numpy()
    assert np.array_equal(first, same)
    gradient = sk.grad(lambda x: sk.sum(F.dropout(x, 0.25, generator=sk.random.Generator(7))))(x)
    assert np.array_equal(gradient.numpy(), same)
    assert np.array_equal(F.dropout(x, training=False).numpy(), x.numpy())


# ----- extremes -----------------------------------------------------------------------------------

# the function, and what its derivative is at -1e4, 0 and 1e4
EXTREME: dict[str, tuple[Function, list[float]]] = {
    "relu": (F.relu, [0, 0, 1]),
    "relu6": (F.relu6, [0, 0, 0]),
    "leaky_relu": (F.leaky_relu, [0.01, 0.01, 1]),
    "elu": (F.elu, [0, 1, 1]),
    "celu": (F.celu, [0, 1, 1]),
    "selu": (F.selu, [0, 1.7580993408473766, 1.0507009873554805]),
    "gelu": (F.gelu, [0, 0.5, 1]),
    "gelu tanh": (lambda x: F.gelu(x, "tanh"), [0, 0.5, 1]),
    "silu": (F.silu, [0, 0.5, 1]),
    "mish": (F.mish, [0, 0.6, 1]),
    "softplus": (F.softplus, [0, 0.5, 1]),
    "logsigmoid": (F.logsigmoid, [1, 0.5, 0]),
    "softsign": (F.softsign, [1 / 10001**2, 1, 1 / 10001**2]),
    "tanh": (F.tanh, [0, 1, 0]),
    "sigmoid": (F.sigmoid, [0, 0.25, 0]),
    "hardswish": (F.hardswish, [0, 0.5, 1]),
    "hardsigmoid": (F.hardsigmoid, [0, 1 / 6, 0]),
}  # fmt: skip


# eps, and what is as good as 0
PRECISION = {
    "float16": (2**-10, 2**-24), "bfloat16": (2**-7, 1e-9), "float32": (2**-23, 1e-12),
    "float64": (2**-52, 1e-30),
}  # fmt: skip


@pytest.mark.parametrize("kind", PRECISION)
@pytest.mark.parametrize("name", EXTREME)
def test_far_from_zero_values_and_derivatives_are_right(name: str, kind: str) -> None:
    f, slopes = EXTREME[name]
    x = sk.asarray([-1e4, 0.0, 1e4], dtype=kind)
    value, got = sk.value_and_grad(lambda x: sk.sum(sk.astype(f(x), "float64")))(x)
    assert math.isfinite(value.item())
    eps, tiny = PRECISION[kind]
    np.testing.assert_allclose(np.asarray(sk.astype(got, "float64")), slopes, 8 * eps, tiny)
    second = sk.grad(lambda x: sk.sum(sk.grad(lambda x: sk.sum(f(x)))(x)))(x)
    assert np.isfinite(np.asarray(sk.astype(second, "float64"))).all()


@pytest.mark.parametrize("scale", [1e4, 1e-4, 0.0])
def test_norms_and_losses_at_the_extremes(scale: float) -> None:
    x = sk.asarray((draw(3, 4) * scale).astype("f4"))
    for f in (
        lambda x: F.layer_norm(x, 4),
        lambda x: F.rms_norm(x, 4),
        lambda x: F.group_norm(x, 2),
        lambda x: F.normalize(x),
        lambda x: F.normalize(x, 3.0),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.softmax(x) ** 2,
        F.log_softmax,
        lambda x: F.logsumexp(x, axis=1),
        lambda x: F.cross_entropy(x, LABELS),
        lambda x: F.binary_cross_entropy_with_logits(x, sk.ones((3, 4)) * 0.3),
        lambda x: F.attention(x, x, x, causal=True),
    ):
        value, gradient = sk.value_and_grad(lambda x, f=f: sk.sum(f(x)))(x)
        assert np.isfinite(value.numpy())
        assert np.isfinite(gradient.numpy()).all()


def test_half_precision_is_normalized_in_single() -> None:
    x = draw(4, 64).astype("f2") * 300  # squares leave the range of float16
    for f in (lambda x: F.layer_norm(x, 64), lambda x: F.rms_norm(x, 64), F.normalize):
        got = f(sk.asarray(x))
        assert got.dtype == sk.float16
        want = f(sk.asarray(x.astype("f8"))).numpy()
        np.testing.assert_allclose(got.numpy(), want, 2e-3, 2e-3)


def test_the_norm_of_zero_has_no_slope() -> None:
    gradient = sk.grad(lambda x: sk.sum(F.normalize(x)))(sk.zeros((2, 3)))
    assert np.array_equal(gradient.numpy(), np.full((2, 3), np.float32(1e12)))


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    q, k, v = (sk.asarray(draw(*s)) for s in ((2, 3), (4, 3), (4, 2)))
    run = lambda q: F.attention(q, k, v, HIDDEN)
    assert np.array_equal(run(q).numpy()[1], np.zeros(2))
    gradient = sk.grad(lambda q: sk.sum(run(q)))(q).numpy()
    assert np.isfinite(gradient).all()
    assert np.array_equal(gradient[1], np.zeros(3))
    assert F.attention(q, k[:0], v[:0]).shape == (2, 2)


def test_pools_share_ties() -> None:
    gradient = sk.grad(lambda x: sk.sum(F.max_pool1d(x, 3, 3)))(sk.ones((1, 1, 3)))
    np.testing.assert_allclose(gradient.numpy(), np.full((1, 1, 3), 1 / 3), 1e-6)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [600, 6000])
def test_long_sums_keep_8_eps(kind: str, channels: int) -> None:
    """The worst case: positive terms."""
    x, w = draw(1, channels, 5, low=0.1, high=1), draw(2, channels, 3, low=0.1, high=1)
    x, w = (x / 40).astype(kind), (w / 40).astype(kind)
    exact = F.conv1d(x.astype("f8"), w.astype("f8"), padding=1).numpy()
    got = F.conv1d(sk.asarray(x), sk.asarray(w), padding=1).numpy()
    assert (np.abs(got - exact) <= 8 * float(np.finfo(kind).eps) * exact).all()


# ----- errors -------------------------------------------------------------------------------------

A, B, C = sk.ones((2, 4, 5, 6)), sk.ones((3, 4, 3, 3)), sk.ones(4)
I = sk.asarray([0, 7])

ERRORS: list[tuple[Function, type[StagekitError], str]] = [
    (lambda x: F.conv2d(x[0, 0], B), ShapeError, r"conv2d: input \(5, 6\) has 2 axes"),
    (lambda x: F.conv1d(x, B), ShapeError, r"conv1d: weight \(3, 4, 3, 3\) has 4 axes, not 3"),
    (lambda x: F.conv2d(x[:, 1:], B), ShapeError, r"conv2d: input \(2, 3, 5, 6\) and kernel"),
    (lambda x: F.conv2d(x, B, groups=2), ShapeError, r"conv2d: .* do not fit in 2 groups"),
    (lambda x: F.conv2d(x, B[:, :2], groups=2), ShapeError, r"conv2d: .* do not fit in 2 groups"),
    (lambda x: F.conv2d(x, B, groups=0), ArgumentError, "conv2d: groups is 0"),
    (lambda x: F.conv2d(x, B, C), ShapeError, r"conv2d: bias has the shape \(4,\), not \(3,\)"),
    (lambda x: F.conv2d(x, B, stride=0), ArgumentError, "conv2d: stride is 0"),
    (lambda x: F.conv2d(x, B, stride=(1, 2, 3)), ArgumentError, r"conv2d: stride is \(1, 2, 3\)"),
    (lambda x: F.conv2d(x, B, stride=1.5), ArgumentError, "conv2d: stride is 1.5"),
    (lambda x: F.conv2d(x, B, padding=-1), ArgumentError, "conv2d: padding is -1"),
    (lambda x: F.conv2d(x, B, padding="full"), ArgumentError, "conv2d: padding is 'full'"),
    (lambda x: F.conv2d(x, B, None, 2, "same"), ArgumentError, "conv2d: padding 'same' with stri"),
    (lambda x: F.conv2d(x, B, dilation=3), ShapeError, r"conv2d: a window of \(7,\) is larger .*5"),
    (lambda x: F.conv2d(x[:, :, :0], B), ShapeError, r"conv2d: a window of \(3,\) is larger .*\(0"),
    (lambda x: F.conv_transpose2d(x, B), ShapeError, r"conv_transpose2d: input .* do not fit"),
    (lambda x: F.conv_transpose2d(x, B[:, :, 0]), ShapeError, "conv_transpose2d: weight .* 3 axes"),
    (lambda x: F.conv_transpose2d(x[:, :3], B, padding=9), ShapeError, "transpose2d: .*the sizes"),
    (lambda x: F.conv_transpose2d(x[:, :3], B, output_padding=1), ArgumentError, "output_padding"),
    (lambda x: F.max_pool2d(x, 7), ShapeError, r"max_pool2d: a window of \(7,\) is larger"),
    (lambda x: F.max_pool2d(x, 3, padding=2), ArgumentError, r"max_pool2d: padding \(2, 2\)"),
    (lambda x: F.max_pool2d(x, 0), ArgumentError, "max_pool2d: kernel_size is 0"),
    (lambda x: F.max_pool1d(x, 2), ShapeError, r"max_pool1d: input \(2, 4, 5, 6\) has 4 axes"),
    (lambda x: F.max_pool2d(x > 0, 2), DTypeError, "max_pool2d: input is bool"),
    (lambda x: F.avg_pool2d(x, (2, 2, 2)), ArgumentError, "avg_pool2d: kernel_size"),
    (lambda x: F.avg_pool3d(x[0], 2), ShapeError, "avg_pool3d: input .* has 3 axes"),
    (lambda x: F.adaptive_avg_pool2d(x, 0), ArgumentError, "adaptive_avg_pool2d: output_size is 0"),
    (lambda x: F.adaptive_max_pool2d(x, (1,)), ArgumentError, "adaptive_max_pool2d: output_size"),
    (lambda x: F.adaptive_avg_pool2d(x[:, :, :0], 2), ShapeError, "adaptive_avg_pool2d: a window"),
    (lambda x: F.layer_norm(x, 5), ShapeError, r"layer_norm: the last axes of .* are not \(5,\)"),
    (lambda x: F.layer_norm(x, 6, C), ShapeError, r"layer_norm: weight has the shape \(4,\)"),
    (lambda x: F.rms_norm(x, (1, 2, 4, 5, 6)), ShapeError, "rms_norm: the last axes"),
    (lambda x: F.batch_norm(C, C, C), ShapeError, r"batch_norm: input \(4,\) has no channels"),
    (lambda x: F.batch_norm(x, C[:3], C), ShapeError, r"batch_norm: running_mean has the shape"),
    (lambda x: F.batch_norm(x, None, C), ArgumentError, "batch_norm: running statistics"),
    (lambda x: F.batch_norm(C[None], None, None, training=True), ShapeError, "fewer than two"),
    (lambda x: F.group_norm(x, 3), ShapeError, r"group_norm: \(2, 4, 5, 6\) has no 3 equal"),
    (lambda x: F.instance_norm(x[:, :, :1, :1]), ShapeError, "instance_norm: .* fewer than two"),
    (lambda x: F.dropout(x, 1.5), ArgumentError, "dropout: p is 1.5"),
    (lambda x: F.normalize(x, 0.5), ArgumentError, "normalize: p is 0.5"),
    (lambda x: F.attention(x, x[..., :5], x), ShapeError, "attention: shapes .* do not fit"),
    (lambda x: F.attention(C, C, C), ShapeError, "attention: shapes .* do not fit"),
    (lambda x: F.embedding(I, x[0, 0]), BoundsError, "is 7, of"),
    (lambda x: F.embedding(I - 1, x[0, 0]), BoundsError, "is -1, of"),
    (lambda x: F.embedding(I, x), ShapeError, r"embedding: weight has the shape \(2, 4, 5, 6\)"),
    (lambda x: F.embedding(C, x[0, 0]), DTypeError, "embedding: indices are float32"),
    (lambda x: F.mse_loss(x, C), ShapeError, r"mse_loss: input \(2, 4, 5, 6\) and target \(4,\)"),
    (lambda x: F.l1_loss(x, x, "max"), ArgumentError, "l1_loss: reduction is 'max'"),
    (lambda x: F.nll_loss(x, I), ShapeError, r"nll_loss: labels of shape \(2,\) do not fit"),
    (lambda x: F.nll_loss(x[:, :, 0, 0], I), BoundsError, "is 7, of"),
    (lambda x: F.glu(x, axis=2), ShapeError, r"glu: axis 2 of shape \(2, 4, 5, 6\) has no halves"),
    (lambda x: F.gelu(x, "fast"), ArgumentError, "gelu: approximate is 'fast'"),
    (lambda x: F.prelu(x, C[:3]), ShapeError, r"prelu: weight has the shape \(3,\), not \(4,\)"),
    (lambda x: F.prelu(C, C), ShapeError, r"prelu: a weight of shape \(4,\)"),
    (lambda x: F.interpolate(x), ArgumentError, "interpolate: size and scale_factor"),
    (lambda x: F.interpolate(x, 3, mode="linear"), ArgumentError, "interpolate: mode is 'linear'"),
    (lambda x: F.interpolate(x, 3, align_corners=True), ArgumentError, "interpolate: align_corn"),
    (lambda x: F.interpolate(x, scale_factor=0.1), ShapeError, "interpolate: .* the sizes"),
    (lambda x: F.interpolate(x, 0), ArgumentError, "interpolate: size is 0"),
    (lambda x: F.interpolate(C, 3), ShapeError, r"interpolate: input \(4,\)"),
    (lambda x: F.conv_transpose2d(x, B, padding=4), ShapeError, "conv_transpose2d: input"),
    (lambda x: F.conv_transpose1d(x[0, :, :1], B[:1, 0], padding=4), ShapeError, r"sizes \(0,\)"),
    (lambda x: F.hardtanh(x, 2, 1), ArgumentError, "hardtanh: min_val 2 is above max_val 1"),
    (lambda x: F.celu(x, 0), ArgumentError, "celu: alpha is 0"),
    (lambda x: F.huber_loss(x, x, delta=0), ArgumentError, "huber_loss: delta is 0"),
    (lambda x: F.nll_loss(x[0, 0], x[0, 0, :, 0]), DTypeError, "nll_loss: labels are float32"),
    (lambda x: F.attention(x, x, x, sk.ones((5, 5), dtype="int8")), DTypeError, "mask is int8"),
    (lambda x: F.attention(x[:, :, :1], x, x, sk.ones((5, 5))), ShapeError, r"mask \(5, 5\) for"),
    (lambda x: F.pixel_shuffle(x, 3), ShapeError, r"pixel_shuffle: \(2, 4, 5, 6\) by 3"),
    (lambda x: F.one_hot(x, 3), DTypeError, "one_hot: indices are float32"),
    (lambda x: F.softmax(x * 1j), DTypeError, "softmax: an operand is complex64"),
    (lambda x: F.celu(x * 1j), DTypeError, "celu: an operand is complex64"),
    (lambda x: F.avg_pool2d(x * 1j, 2), DTypeError, "avg_pool2d: an operand is complex64"),
    (lambda x: F.mse_loss(x, x * 1j), DTypeError, "mse_loss: an operand is complex64"),
    (lambda x: F.pixel_unshuffle(x, 2), ShapeError, r"pixel_unshuffle: \(2, 4, 5, 6\) by 2"),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(ERRORS)))
def test_errors_are_alike_in_both_stages(k: int) -> None:
    call, kind, text = ERRORS[k]
    found = []
    for run in (call, sk.function(call), sk.function(call, dynamic=True)):
        with pytest.raises(StagekitError) as caught:
            run(A)
        error = caught.value
        found.append((type(error), error.message, error.fix, str(error.location)))
        assert type(error) is kind, error
        assert re.search(text, error.message), error.message
        assert error.fix
        assert error.location is not None
        assert error.location.filename == __file__
        assert error.location.lineno == call.__code__.co_firstlineno
    assert len(set(found)) == 1, found


@pytest.mark.parametrize("kind", [sk.int8, sk.uint8, sk.int64, sk.uint64], ids=str)
def test_one_hot_compares_classes_in_no_narrow_type(kind: Any) -> None:
    hot = F.one_hot(sk.asarray([1, 44], dtype=kind), 301)  # 300 would wrap to 44 in uint8
    assert np.array_equal(hot.numpy(), np.eye(301)[[1, 44]])
    assert not F.one_hot(sk.asarray([2**63 + 1], dtype=sk.uint64), 3).numpy().any()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape, axis", [((0, 2), 0), ((2, 0), -1), ((0,), 0)])
def test_a_softmax_of_nothing_is_nothing(name: str, shape: tuple[int, ...], axis: int) -> None:
    def function(x: Any) -> Any:
        return getattr(F, name)(x, axis=axis)

    x = sk.zeros(shape)
    assert function(x).shape == sk.function(function)(x).shape == shape
    assert sk.grad(lambda x: sk.sum(function(x)))(x).shape == shape
