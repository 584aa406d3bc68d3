"""Quotients and remainders of scalars, rounded down, without a trap and without a branch.

Of integers `x // 0 == x % 0 == 0` and `MIN // -1 == MIN`. Of floats the remainder is exact before
its one rounding, whatever the quotient: long division, 50 bits of the quotient a step.
"""

from __future__ import annotations

from stagekit.kernels.ir import Value, bits, convert, copysign, equal, fma, like, select, unary
from stagekit.kernels.ir import unequal as differs
from stagekit.types import float32, float64, int64

INF = float("inf")
STEP = 50  # bits of a quotient that a float64 product by a reciprocal finds to within 1

# ----- integers -----------------------------------------------------------------------------------


def integer_floor_divide(x: Value, y: Value) -> Value:
    """x // y of integers.

    A constant power of two is a shift, which rounds down.
    """
    shift = _power_of_two(y)
    if shift is not None:
        return x >> shift
    q = x.body.make("quotient", x, _divisor(x, y))
    if x.type.kind == "int":
        r = x - q * y
        q = select(_beside(r, y), q - 1, q)
    return select(equal(y, 0), 0, q)


def integer_remainder(x: Value, y: Value) -> Value:
    """x % y of integers, with the sign of y."""
    if _power_of_two(y) is not None:
        return x & (y - 1)
    r = x.body.make("modulus", x, _divisor(x, y))
    return select(_beside(r, y), r + y, r) if x.type.kind == "int" else r


def _power_of_two(y: Value) -> int | None:
    """The exponent of a constant power of two."""
    if y.op != "constant" or y.attr <= 0 or y.attr & (y.attr - 1):
        return None
    return int(y.attr).bit_length() - 1


def _divisor(x: Value, y: Value) -> Value:
    """y, and 1 where the machine would trap: the quotient of MIN by -1 is MIN, as it is by 1."""
    if y.op == "constant" and y.attr not in (0, -1):
        return y
    traps = equal(y, 0)
    if x.type.kind == "int":
        traps = traps | (equal(x, x.type.lowest) & equal(y, -1))
    return select(traps, 1, y)


def _beside(rest: Value, y: Value) -> Value:
    """Whether a truncated remainder has the other sign than the divisor, and is not 0."""
    return differs(rest, 0) & ((rest ^ y) < 0)


# ----- floats -------------------------------------------------------------------------------------


def float_remainder(x: Value, y: Value) -> Value:
    """x % y with the sign of y: C's remainder, plus y where the signs differ, rounded once."""
    rest = fmod(x, y)
    return select(equal(rest, 0.0), copysign(like(y, 0.0), y), _down(rest, y, rest + y, rest))


def float_floor_divide(x: Value, y: Value) -> Value:
    """(x - x % y) / y to the nearest integer, each step rounded; x / y where one is infinite."""
    plain = x / y
    rest = fmod(x, y)
    q = (x - rest) / y
    q = _down(rest, y, q - 1.0, q)
    whole = unary("floor", q)
    near = select(q - whole > 0.5, whole + 1.0, whole)  # of an infinite q the gap is NaN
    near = select(equal(q, 0.0), copysign(like(x, 0.0), plain), near)
    finite = (unary("abs", x) < INF) & (unary("abs", y) < INF) & differs(y, 0.0)
    return select(finite, near, plain)


def _down(rest: Value, y: Value, then: Value, otherwise: Value) -> Value:
    """`then` where a remainder is not 0 and has the other sign than the divisor."""
    other = ((rest < 0.0) & (y > 0.0)) | ((rest > 0.0) & (y < 0.0))
    return select(other, then, otherwise)


def fmod(x: Value, y: Value) -> Value:
    """x - y trunc(x / y), exact, with the sign of x; NaN of an infinite x and of y = 0."""
    size = unary("abs", y)
    found = _fmod_narrow(x, y) if x.type is float32 else _fmod(unary("abs", x), size)
    return select(equal(size, INF) & (unary("abs", x) < INF), x, copysign(found, x))


def _fmod_narrow(x: Value, y: Value) -> Value:
    """|x| mod |y| of float32 in float64, which has room for every power of two that is needed."""
    r, divisor = (unary("abs", convert(v, float64)) for v in (x, y))
    inverse = 1.0 / divisor
    for k in reversed(range(6)):  # quotients are below 2^277
        scale = 2.0 ** (STEP * k)
        r = fma(-unary("trunc", r * (inverse * (1.0 / scale))), divisor * scale, r)
    return convert(_settled(r, divisor), x.type)


def _fmod(x: Value, y: Value) -> Value:
    """x mod y of positive float64, by significands: quotients are below 2^2098.

    First the bits of the exponents' difference that STEP leaves over, then STEP at a time.
    """
    r, exponent = _significand(x)
    divisor, unit = _significand(y)
    inverse, ahead = 1.0 / divisor, exponent - unit
    far = select(ahead > 0, ahead, 0)
    steps = far.body.make("quotient", far, like(far, STEP))
    r = _step(r * power_of_two(far - steps * STEP), divisor, inverse)
    for k in range(2098 // STEP):
        r = select(steps > k, _step(r * 2.0**STEP, divisor, inverse), r)
    half = unit >> 1
    rest = _settled(r, divisor) * power_of_two(half) * power_of_two(unit - half)
    whole = (x < INF) & (y > 0.0)  # of others there is no remainder, only NaN
    return select(whole, select(x < y, x, rest), (x - x) / (y - y))


def _step(r: Value, divisor: Value, inverse: Value) -> Value:
    """What is left of r, between -divisor and 2 divisor: the quotient may be off by one."""
    return fma(-unary("trunc", r * inverse), divisor, r)


def _settled(r: Value, divisor: Value) -> Value:
    """A remainder that is off by one divisor at most."""
    r = select(r < 0.0, r + divisor, r)
    return select(r < divisor, r, r - divisor)


def _significand(x: Value) -> tuple[Value, Value]:
    """A positive float64 as a number in [1, 2) and an exponent."""
    small = x < 2.0**-1022
    whole = bits(select(small, x * 2.0**54, x), int64)
    exponent = (whole >> 52) - select(small, like(whole, 1023 + 54), 1023)
    return bits((whole & ((1 << 52) - 1)) | (1023 << 52), float64), exponent


def power_of_two(n: Value) -> Value:
    """2^n of an int64 for -1022 <= n <= 1023, as float64."""
    return bits((n + 1023) << 52, float64)
