"""log |gamma| and digamma in machine instructions, with the method and the polynomials of
stagekit/ops/gamma.py, and its bounds: float32 in float64, float64 within 4 ulp of the larger of the
result and the operand. polygamma of higher orders, a sum of many quotients, has no spelling.
"""

from __future__ import annotations

from stagekit.kernels.ir import (
    Value,
    convert,
    copysign,
    equal,
    fma,
    like,
    select,
    unary,
)
from stagekit.kernels.scalars.scalar_math import log, polynomial
from stagekit.kernels.scalars.trigonometry import sine_and_cosine
from stagekit.ops import gamma
from stagekit.types import float32, float64

INF, NAN, PI = float("inf"), float("nan"), 3.141592653589793


def lgamma(x: Value) -> Value:
    """By gamma(x) gamma(1 - x) = pi / sin(pi x) on the left of -1/2."""
    if x.type is float32:
        return convert(lgamma(convert(x, float64)), float32)
    left = x < -0.5
    out = _lgamma_right(select(left, 1.0 - x, x))
    sine, _, turn = _half_turn(x)
    pole = equal(turn, 0.0) | equal(x, -INF)
    return select(left, select(pole, INF, log(PI / sine) - out), out)


def _lgamma_right(x: Value) -> Value:
    """For x >= -1/2: a polynomial on [0.75, 2.75], shifted there from both sides; then Stirling."""
    big, low = x >= 13.0, x < 0.75
    y, factor = select(big, 2.0, x), like(x, 1.0)
    for _ in range(11):
        above = y >= 2.75
        y = select(above, y - 1.0, y)
        factor = select(above, factor * y, factor)
    for _ in range(2):
        below = y < 0.75
        factor = select(below, factor * y, factor)
        y = select(below, y + 1.0, y)
    logarithm = log(select(big, x, unary("abs", factor)))
    shape = polynomial(y - 1.75, {"float64": gamma.LGAMMA})
    near = fma((y - 1.0) * (y - 2.0), shape, select(low, -logarithm, logarithm))
    inverse = 1.0 / x
    tail = fma(polynomial(inverse * inverse, {"float64": gamma.STIRLING}), inverse,
               gamma.HALF_LOG_2PI - 0.5)  # fmt: skip
    return select(big, fma(x - 0.5, logarithm - 1.0, tail), near)


def digamma(x: Value) -> Value:
    """By digamma(1 - x) - digamma(x) = pi / tan(pi x) on the left of -1/4."""
    if x.type is float32:
        return convert(digamma(convert(x, float64)), float32)
    left = x < -0.25
    out = _digamma_right(select(left, 1.0 - x, x))
    sine, cosine, turn = _half_turn(x)
    reflected = out - copysign(cosine / sine, turn) * PI
    return select(left, select(equal(turn, 0.0), NAN, reflected), out)


def _digamma_right(x: Value) -> Value:
    """For x >= -1/4: a polynomial on [1, 2], shifted there from both sides; then its asymptote."""
    big, low = x >= 12.0, x < 1.0
    y, above, below = select(big, 1.5, x), like(x, 0.0), like(x, 1.0)  # the steps as a fraction
    for _ in range(10):
        over = y >= 2.0
        y = select(over, y - 1.0, y)
        above = select(over, fma(above, y, below), above)
        below = select(over, below * y, below)
    for _ in range(2):
        under = y < 1.0
        above = select(under, fma(above, y, below), above)
        below = select(under, below * y, below)
        y = select(under, y + 1.0, y)
    steps = above / below
    shape = polynomial(fma(y, 2.0, -3.0), {"float64": gamma.DIGAMMA})
    near = fma((y - gamma.ROOT) - gamma.ROOT_LOW, shape, select(low, -steps, steps))
    terms = tuple(b / (2 * k + 2) for k, b in enumerate(gamma.BERNOULLI[:8]))
    inverse = 1.0 / x
    s = inverse * inverse
    tail = fma(s, polynomial(s, {"float64": terms[::-1]}), inverse * 0.5)
    return select(big, log(x) - tail, near)


def _half_turn(x: Value) -> tuple[Value, Value, Value]:
    """|sin(pi x)| and |cos(pi x)|, and x less the nearest integer."""
    turn = x - unary("rint", x)
    size = unary("abs", turn)
    beside = size > 0.25
    r = select(beside, 0.5 - size, size) * PI
    sine, cosine = sine_and_cosine(r, like(r, 0.0))
    return select(beside, cosine, sine), select(beside, sine, cosine), turn


def polygamma(order: Value, x: Value) -> Value:
    """digamma, where the order is 0; KeyError for others."""
    if order.op != "constant" or order.attr != 0:
        raise KeyError("polygamma of an order above 0: a sum of quotients")
    return digamma(x)
