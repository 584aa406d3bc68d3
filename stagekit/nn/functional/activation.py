"""Activations, softmax among them: stable values and gradients for every input."""

from __future__ import annotations

import math
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.nn.functional.operands import along_channels, floating
from stagekit.ops.reduction import widened
from stagekit.source import here
from stagekit.types import normalize_axis, shape_text

# ----- piecewise linear ---------------------------------------------------------------------------


def relu(x: Any, /) -> Any:
    """max(x, 0), with derivative 0 at 0. Source: `torch.nn.functional.relu`.

    >>> import stagekit as sk
    >>> sk.nn.functional.relu(sk.asarray([-1.0, 2.0]))
    tensor([0., 2.], dtype=float32)
    """
    x = ops.asarray(x)
    return ops.where(x <= 0, 0, x)


def hardtanh(x: Any, /, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x limited to [min_val, max_val], with derivative 0 at both. Source:
    `torch.nn.functional.hardtanh`. Raises ArgumentError where `min_val` is the larger one.

    >>> import stagekit as sk
    >>> sk.nn.functional.hardtanh(sk.asarray([-3.0, 0.5, 3.0]))
    tensor([-1. ,  0.5,  1. ], dtype=float32)
    """
    if min_val > max_val:
        raise ArgumentError(
            f"hardtanh: min_val {min_val} is above max_val {max_val}", fix="exchange them"
        ).located(here())
    x = floating("hardtanh", x)
    return ops.where(x <= min_val, min_val, ops.where(x >= max_val, max_val, x))


def relu6(x: Any, /) -> Any:
    """x limited to [0, 6], with derivative 0 at both. Source: `torch.nn.functional.relu6`.

    >>> import stagekit as sk
    >>> sk.nn.functional.relu6(sk.asarray([-3.0, 0.5, 9.0]))
    tensor([0. , 0.5, 6. ], dtype=float32)
    """
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Any, /) -> Any:
    """relu6(x + 3) / 6. Source: `torch.nn.functional.hardsigmoid`.

    >>> import stagekit as sk
    >>> sk.nn.functional.hardsigmoid(sk.asarray([-9.0, 0.0, 9.0]))
    tensor([0. , 0.5, 1. ], dtype=float32)
    """
    return relu6(floating("hardsigmoid", x) + 3.0) / 6.0


def hardswish(x: Any, /) -> Any:
    """x relu6(x + 3) / 6. Source: `torch.nn.functional.hardswish`.

    >>> import stagekit as sk
    >>> sk.nn.functional.hardswish(sk.asarray([-9.0, 0.0, 9.0]))
    tensor([-0.,  0.,  9.], dtype=float32)
    """
    x = floating("hardswish", x)
    return x * hardsigmoid(x)


def leaky_relu(x: Any, /, negative_slope: float = 0.01) -> Any:
    """x where it is positive, negative_slope x elsewhere. Source: `torch.nn.functional.leaky_relu`.

    >>> import stagekit as sk
    >>> sk.nn.functional.leaky_relu(sk.asarray([-1.0, 2.0]), 0.5)
    tensor([-0.5,  2. ], dtype=float32)
    """
    x = floating("leaky_relu", x)
    return ops.where(x > 0, x, negative_slope * x)


def prelu(x: Any, weight: Any) -> Any:
    """`leaky_relu` with a slope for all of `x`, or one a channel (axis 1). Source:
    `torch.nn.functional.prelu`.

    Raises ShapeError for a `weight` that is neither one number nor one a channel.

    >>> import stagekit as sk
    >>> sk.nn.functional.prelu(sk.asarray([-1.0, 2.0]), sk.asarray(0.5))
    tensor([-0.5,  2. ], dtype=float32)
    """
    x, weight = floating("prelu", x), ops.asarray(weight)
    if weight.ndim == 1 and weight.shape[0] == 1:
        weight = ops.reshape(weight, ())
    elif weight.ndim and x.ndim > 1:
        weight = along_channels("prelu", "weight", weight, x)
    elif weight.ndim:
        raise ShapeError(
            f"prelu: a weight of shape {shape_text(weight.shape)} for input {shape_text(x.shape)}",
            fix="give one number; an input of one axis has no channels",
        ).located(here())
    return ops.where(x > 0, x, weight * x)


# ----- exponential --------------------------------------------------------------------------------


def elu(x: Any, /, alpha: float = 1.0) -> Any:
    """x where it is positive, alpha (exp(x) - 1) elsewhere. Source: `torch.nn.functional.elu`.

    >>> import stagekit as sk
    >>> sk.nn.functional.elu(sk.asarray([-1e4, 2.0]))
    tensor([-1.,  2.], dtype=float32)
    """
    return _negative_exponential("elu", x, 1.0, alpha, 1.0)


def celu(x: Any, /, alpha: float = 1.0) -> Any:
    """x where it is positive, alpha (exp(x / alpha) - 1) elsewhere. Source:
    `torch.nn.functional.celu`. Raises ArgumentError where `alpha` is 0.

    >>> import stagekit as sk
    >>> sk.nn.functional.celu(sk.asarray([-1e4, 2.0]), 2.0)
    tensor([-2.,  2.], dtype=float32)
    """
    if alpha == 0:
        raise ArgumentError("celu: alpha is 0", fix="x is divided by it").located(here())
    return _negative_exponential("celu", x, 1.0, alpha, alpha)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(x: Any, /) -> Any:
    """A scaled `elu` that keeps mean 0 and variance 1. Source: `torch.nn.functional.selu`,
    Klambauer et al. 2017.

    >>> import stagekit as sk
    >>> sk.nn.functional.selu(sk.asarray([-1e4, 1.0]))
    tensor([-1.7580993,  1.050701 ], dtype=float32)
    """
    return _negative_exponential("selu", x, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, 1.0)


def _negative_exponential(
    op: str, x: Any, slope: float, height: float, width: float
) -> Any:
    """slope x above 0, height (exp(x / width) - 1) elsewhere; no branch overflows for the other."""
    x = floating(op, x)
    positive = x > 0
    below = ops.where(positive, 0.0, x)
    return ops.where(positive, x * slope, height * ops.expm1(below / width))


def logsigmoid(x: Any, /) -> Any:
    """log(sigmoid(x)) without overflow. Source: `torch.nn.functional.logsigmoid`.

    >>> import stagekit as sk
    >>> sk.nn.functional.logsigmoid(sk.asarray([-1000.0, 1000.0]))
    tensor([-1000.,    -0.], dtype=float32)
    """
    return -ops.softplus(-floating("logsigmoid", x))


def silu(x: Any, /) -> Any:
    """x sigmoid(x). Source: `torch.nn.functional.silu`.

    >>> import stagekit as sk
    >>> sk.nn.functional.silu(sk.asarray([0.0, 1000.0]))
    tensor([   0., 1000.], dtype=float32)
    """
    x = floating("silu", x)
    return x * ops.sigmoid(x)


def mish(x: Any, /) -> Any:
    """x tanh(softplus(x)). Source: `torch.nn.functional.mish`.

    >>> import stagekit as sk
    >>> sk.nn.functional.mish(sk.asarray([0.0, 1000.0]))
    tensor([   0., 1000.], dtype=float32)
    """
    x = floating("mish", x)
    return x * ops.tanh(ops.softplus(x))


def softsign(x: Any, /) -> Any:
    """x / (1 + |x|). Source: `torch.nn.functional.softsign`.

    >>> import stagekit as sk
    >>> sk.nn.functional.softsign(sk.asarray([-1.0, 0.0, 3.0]))
    tensor([-0.5 ,  0.  ,  0.75], dtype=float32)
    """
    x = floating("softsign", x)
    size = ops.abs(x)
    far = size > 1
    near = ops.where(far, 0.0, x)
    # Far out the derivative of x / (1 + |x|) would be a difference of nearly equal numbers.
    beyond = ops.sign(x) * (1.0 - 1.0 / (1.0 + size))
    return ops.where(far, beyond, near / (1.0 + ops.abs(near)))


_ROOT_HALF = math.sqrt(0.5)
_ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)


def gelu(x: Any, /, approximate: str = "none") -> Any:
    """x times the normal distribution function of x, or its "tanh" approximation. Source:
    `torch.nn.functional.gelu`, Hendrycks and Gimpel 2016.

    >>> import stagekit as sk
    >>> sk.nn.functional.gelu(sk.asarray([-1e4, 1e4]))
    tensor([   -0., 10000.], dtype=float32)
    """
    x = floating("gelu", x)
    if approximate == "none":
        return x * (0.5 * ops.erfc(x * -_ROOT_HALF))
    if approximate != "tanh":
        raise ArgumentError(
            f"gelu: approximate is {approximate!r}", fix="use 'none' or 'tanh'"
        ).located(here())
    z = ops.clip(x, -20.0, 20.0)  # where the factor is 0 or 1, so that the cube does not overflow
    return x * ops.sigmoid(2 * _ROOT_TWO_OVER_PI * (z + 0.044715 * (z * z * z)))


def glu(x: Any, /, axis: int = -1) -> Any:
    """The first half of `x` times the sigmoid of the second. Source: `torch.nn.functional.glu`.

    Raises ShapeError for an odd size.

    >>> import stagekit as sk
    >>> sk.nn.functional.glu(sk.asarray([3.0, 0.0]))
    tensor([1.5], dtype=float32)
    """
    x = floating("glu", x)
    axis = normalize_axis("glu", axis, x.ndim)
    if x.shape[axis] % 2 != 0:
        raise ShapeError(
            f"glu: axis {axis} of shape {shape_text(x.shape)} has no halves", fix="give an even one"
        ).located(here())
    value, gate = ops.split(x, 2, axis=axis)
    return value * ops.sigmoid(gate)


# ----- softmax ------------------------------------------------------------------------------------


def _shifted(x: Any, axis: int) -> Any:
    """x minus its (finite) maximum along `axis`, which no gradient sees: the results do not depend
    on it."""
    if x.shape[axis] == 0:
        return x
    top = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    return x - ops.where(ops.isfinite(top), top, 0.0)


def softmax(x: Any, /, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along `axis`. Source: `torch.nn.functional.softmax`.

    >>> import stagekit as sk
    >>> sk.nn.functional.softmax(sk.asarray([0.0, 0.0]))
    tensor([0.5, 0.5], dtype=float32)
    """
    x = floating("softmax", x)
    axis = normalize_axis("softmax", axis, x.ndim)
    e = ops.exp(_shifted(widened(x), axis))
    return ops.astype(e / ops.sum(e, axis=axis, keepdims=True), x.dtype, copy=False)


def log_softmax(x: Any, /, axis: int = -1) -> Any:
    """x - logsumexp(x) along `axis`. Source: `torch.nn.functional.log_softmax`.

    >>> import stagekit as sk
    >>> sk.nn.functional.log_softmax(sk.asarray([1e4, 1e4]))
    tensor([-0.6931472, -0.6931472], dtype=float32)
    """
    x = floating("log_softmax", x)
    axis = normalize_axis("log_softmax", axis, x.ndim)
    s = _shifted(widened(x), axis)
    out = s - ops.log(ops.sum(ops.exp(s), axis=axis, keepdims=True))
    return ops.astype(out, x.dtype, copy=False)
