"""Elementwise functions made of ops, with stable values and derivatives: NumPy's and SciPy's."""

from __future__ import annotations

import math
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError
from stagekit.op import weak_type
from stagekit.ops.elementwise import polygamma_op
from stagekit.source import here
from stagekit.types import as_integer, default_float, float64, same_shape

# ----- special functions --------------------------------------------------------------------------


def digamma(x: Any, /) -> Any:
    """The derivative of `lgamma`, as `scipy.special.digamma`; NaN at negative integers.

    >>> import stagekit as sk
    >>> sk.digamma(sk.asarray([1.0]))
    tensor([-0.5772157], dtype=float32)
    """
    return polygamma_op(x, n=0)


def polygamma(n: int, x: Any, /) -> Any:
    """The n-th derivative of `digamma`, n >= 0, as `scipy.special.polygamma`. Else ArgumentError.

    >>> import stagekit as sk
    >>> sk.polygamma(1, sk.asarray([1.0]))
    tensor([1.644934], dtype=float32)
    """
    n = as_integer("polygamma", "n", n)
    if n < 0:
        raise ArgumentError(f"polygamma: n is {n}", fix="give 0 or more").located(here())
    return polygamma_op(x, n=n)


def logit(x: Any, /) -> Any:
    """log(x / (1 - x)), the inverse of `sigmoid`, as `scipy.special.logit`; NaN outside [0, 1].

    >>> import stagekit as sk
    >>> sk.logit(sk.asarray([0.5, 1.0]))
    tensor([ 0., inf], dtype=float32)
    """
    x = ops.asarray(x)
    middle = ops.logical_and(x > 0.3, x < 0.65)
    s = ops.where(middle, 2.0 * x - 1.0, 0.0)
    return ops.where(middle, ops.log1p(s) - ops.log1p(-s), ops.log(x / (1.0 - x)))


def xlogy(x: Any, y: Any, /) -> Any:
    """x log(y), and 0 where x is 0 and y no NaN, as `scipy.special.xlogy`.

    Where x is 0 and log(y) not finite, the gradient is 0.

    >>> import stagekit as sk
    >>> sk.xlogy(sk.asarray([0.0, 2.0]), sk.asarray([0.0, 1.0]))
    tensor([0., 0.], dtype=float32)
    """
    x, y = (a if weak_type(a) else ops.asarray(a) for a in (x, y))
    kind = ops.result_type(x, y)
    x, y = (ops.asarray(a, dtype=kind if kind.inexact else default_float) for a in (x, y))
    finite = ops.logical_and(y > 0, ops.isfinite(y))
    nothing = ops.logical_and(x == 0, ops.logical_not(ops.logical_or(finite, ops.isnan(y))))
    return ops.where(nothing, 0.0, x * ops.log(ops.where(nothing, 1.0, y)))


# Of sin(t) / t in t^2: below t = 1/2 the next term is beyond rounding, also of derivatives.
_SINC = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in reversed(range(11)))


def sinc(x: Any, /) -> Any:
    """sin(pi x) / (pi x), 1 at 0, as `numpy.sinc`.

    >>> import stagekit as sk
    >>> sk.sinc(sk.asarray([0.0, 0.5]))
    tensor([1.        , 0.63661975], dtype=float32)
    """
    t = math.pi * ops.asarray(x)
    small = ops.abs(t) < 0.5
    square = ops.where(small, t * t, 0.0)
    series: Any = _SINC[0]
    for coefficient in _SINC[1:]:
        series = square * series + coefficient
    away = ops.where(small, 1.0, t)
    return ops.where(small, series, ops.sin(away) / away)


def deg2rad(x: Any, /) -> Any:
    """Degrees in radians, as `numpy.deg2rad`.

    >>> import stagekit as sk
    >>> sk.deg2rad(180.0)
    tensor(3.1415927, dtype=float32)
    """
    return ops.multiply(x, math.pi / 180)


def rad2deg(x: Any, /) -> Any:
    """Radians in degrees, as `numpy.rad2deg`.

    >>> import stagekit as sk
    >>> sk.rad2deg(sk.pi)
    tensor(180., dtype=float32)
    """
    return ops.multiply(x, 180 / math.pi)


# ----- NaN, infinities, comparison ----------------------------------------------------------------


def nan_to_num(x: Any, /, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    """NaN and infinities as numbers, by default 0 and the largest of the type: `numpy.nan_to_num`.

    >>> import stagekit as sk
    >>> sk.nan_to_num(sk.asarray([sk.nan, sk.inf, 1.0]), posinf=9.0)
    tensor([0., 9., 1.], dtype=float32)
    """
    x = ops.asarray(x)
    if x.dtype.kind != "float":
        return ops.alias(x)
    limits = ops.finfo(x.dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    finite = ops.where(x == math.inf, high, ops.where(x == -math.inf, low, x))
    return ops.where(ops.isnan(x), nan, finite)


def isclose(
    x1: Any, x2: Any, /, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False
) -> Any:
    """Whether |x1 - x2| <= atol + rtol |x2|, as `numpy.isclose`; equal infinities are close.

    >>> import stagekit as sk
    >>> sk.isclose(sk.asarray([1.0, sk.inf]), sk.asarray([1.0000001, sk.inf]))
    tensor([ True,  True], dtype=bool)
    """
    # The difference of integers is taken in float64: in their own type it would wrap.
    x1, x2 = (x if x.dtype.inexact else ops.astype(x, float64) for x in map(ops.asarray, (x1, x2)))
    near = ops.abs(ops.subtract(x1, x2)) <= ops.add(atol, ops.multiply(rtol, ops.abs(x2)))
    close = ops.where(ops.isfinite(x2), near, ops.equal(x1, x2))
    both = ops.logical_and(ops.isnan(x1), ops.isnan(x2))
    return ops.logical_or(close, both) if equal_nan else close


def allclose(
    x1: Any, x2: Any, /, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether all elements are close, as a Python bool: `numpy.allclose`. A trace branches on it.

    >>> import stagekit as sk
    >>> sk.allclose(sk.ones(2), 1.0)
    True
    """
    return bool(ops.all(isclose(x1, x2, rtol, atol, equal_nan)))


def array_equal(x1: Any, x2: Any, /, equal_nan: bool = False) -> bool:
    """Whether shapes and all elements are equal, as a Python bool: `numpy.array_equal`.

    >>> import stagekit as sk
    >>> sk.array_equal(sk.ones(2), sk.ones(3))
    False
    """
    x1, x2 = ops.asarray(x1), ops.asarray(x2)
    if not same_shape(x1.shape, x2.shape):
        return False
    equal = ops.equal(x1, x2)
    if equal_nan:
        equal = ops.logical_or(equal, ops.logical_and(ops.isnan(x1), ops.isnan(x2)))
    return bool(ops.all(equal))
