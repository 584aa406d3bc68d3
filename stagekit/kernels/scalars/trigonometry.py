"""Trigonometric functions and their inverses, as scalar_math.py has the others: within 2 ulp.

An argument of any size is reduced to a quarter turn. float32 is multiplied by 1 / (2 pi) in
float64, in parts that leave no error that counts. float64 subtracts multiples of pi / 2 in four
parts up to 2^48, and beyond takes the product with those bits of 1 / (2 pi) that count (Payne and
Hanek), found by a shift of the whole row of bits.
"""

from __future__ import annotations

from stagekit.kernels.ir import (
    INTEGER_OF,
    Value,
    bits,
    convert,
    copysign,
    equal,
    fma,
    like,
    select,
    unary,
    unequal,
)
from stagekit.kernels.scalars import coefficients as table
from stagekit.kernels.scalars.scalar_math import low_bits, polynomial, rounded, tiny
from stagekit.types import float32, float64, int64

MANY = 2.0**48  # from here on float64 needs the bits of 1 / (2 pi) far to the right

# ----- reduction ----------------------------------------------------------------------------------


def _reduced(x: Value) -> tuple[Value, Value, Value]:
    """r, what r was rounded by, and q, with x = 2 pi k + q pi / 2 + r, |r| <= pi / 4.

    Only the last two bits of the integer q count.
    """
    if x.type is float32:
        turns = _turns_of_float32(x)
        near = unary("rint", turns * 4.0)
        wide = fma(turns, 4.0, -near) * table.HALF_PI["float64"][0]
        r = convert(wide, float32)
        return r, convert(wide - convert(r, float64), float32), rounded(convert(near, float32))[1]
    magic = 1.5 * 2.0**52
    shifted = fma(x, table.QUADRANTS, magic)
    n = shifted - magic
    head, second, third, fourth = table.HALF_PI["float64"]
    product = n * second
    high, rest = _two_sum(fma(n, -head, x), -product)
    tail = fma(n, -third, fma(n, -fourth, rest - fma(n, second, -product)))
    r = high + tail
    far, far_r, far_low = _quarter(*_turns_of_float64(x))
    large = ~(unary("abs", x) < MANY)
    q = low_bits(select(large, far + magic, shifted))
    return select(large, far_r, r), select(large, far_low, (high - r) + tail), q


def _quarter(turns: Value, rest: Value, small: Value) -> tuple[Value, Value, Value]:
    """The nearest quarter of a fraction of a turn, and what is left in radians as a sum of two.

    The fraction is a sum of three, whose first comes close to a quarter without an error.
    """
    near = unary("rint", turns * 4.0)
    head, tail = fma(turns, 4.0, -near), rest * 4.0
    left = head + tail
    low = fma(small, 4.0, (head - left) + tail)
    unit, unit_low = table.HALF_PI["float64"][:2]
    r = left * unit
    return near, r, fma(left, unit, -r) + fma(left, unit_low, low * unit)


def _turns_of_float32(x: Value) -> Value:
    """x / (2 pi) less an integer, in float64.

    24 bits times 53 are exact where the difference to the nearest integer is; beyond 2^53 the bits
    of 1 / (2 pi) above 2^-30 only make whole turns.
    """
    far = unary("abs", x) >= 2.0**53
    wide = convert(x, float64)
    first, second, third = (
        select(far, wide.body.constant(b, float64), a)
        for a, b in zip(table.TURN, table.TURN_FAR)
    )  # fmt: skip
    out = fma(wide, first, -unary("rint", wide * first))
    out = out - unary("rint", out)
    out = fma(wide, second, out - unary("rint", fma(wide, second, out)))
    return fma(wide, third, out)


def _turns_of_float64(x: Value) -> tuple[Value, Value, Value]:
    """x / (2 pi) less an integer, for |x| >= 2^48: with five stretches of 53 bits of 1 / (2 pi).

    What stands before them makes whole turns. The result is a sum of three, as much of it cancels.
    """
    y, chunks = _aligned(x)
    high: list[Value] = []
    low: list[Value] = []
    for k, c in enumerate(chunks[:4]):
        scaled = y * 2.0 ** (-53 * k)
        product = scaled * c
        high.append(product)
        low.append(fma(scaled, c, -product))
    small = y * 2.0**-212 * chunks[4]
    high[0], low[0], high[1] = (v - unary("rint", v) for v in (high[0], low[0], high[1]))
    out, rests = high[0], []
    for term in (low[0], high[1], low[1], high[2]):
        out, rest = _two_sum(out, term)
        rests.append(rest)
    rest = (rests[0] + rests[1]) + (rests[2] + rests[3])
    rest, first = _two_sum(rest, high[3])
    rest, second = _two_sum(rest, low[2])
    out = out - unary("rint", out)
    small = first + (second + (low[3] + small))
    return out + (x - x), rest, small  # NaN of infinity


def _aligned(x: Value) -> tuple[Value, list[Value]]:
    """x divided by 2^(53 i), and five stretches of bits from the i-th on, so that
    the product by what stands before them is an integer.
    """
    exponent = ((bits(x, int64) >> 52) & 2047) - 1023 - 52
    exponent = select(exponent > 0, exponent, 0)
    i = (exponent * 1237) >> 16  # exponent // 53
    row, zero = [like(x, c) for c in table.TURN_BITS], like(x, 0.0)
    for k in (16, 8, 4, 2, 1):
        beyond = unequal(i & k, 0)
        row += [zero] * k
        row = [select(beyond, row[j + k], row[j]) for j in range(k + 4)]  # what is still read
    return bits(bits(x, int64) - ((i * 53) << 52), float64), row


def _two_sum(x: Value, y: Value) -> tuple[Value, Value]:
    """x + y rounded, and its error (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


# ----- functions ----------------------------------------------------------------------------------


def sine_and_cosine(r: Value, low: Value) -> tuple[Value, Value]:
    """Of r + low; for float32 the rounding of r is within the bound."""
    s = r * r
    cosine = fma(s * s, polynomial(s, table.COS), fma(s, -0.5, 1.0))
    sine = polynomial(s, table.SIN)
    if r.type is float32:
        return fma(r * s, sine, r), cosine
    return r + fma(r * s, sine, low), cosine


def _turned(out: Value, flips: Value) -> Value:
    """With the other sign where the second bit of a count of quarters is set."""
    kind = INTEGER_OF[out.type]
    width = 8 * out.type.itemsize
    return bits(bits(out, kind) ^ ((flips >> 1) << (width - 1)), out.type)


def _is_odd(q: Value) -> Value:
    return unequal(q & 1, 0)


def sin(x: Value) -> Value:
    """The sine or the cosine of the rest, after whole quarters of a turn. Within 1.9 ulp."""
    r, low, q = _reduced(x)
    sine, cosine = sine_and_cosine(r, low)
    out = _turned(select(_is_odd(q), cosine, sine), q)
    return select(unary("abs", x) < tiny(x), x, out)


def cos(x: Value) -> Value:
    """As sin, a quarter turn ahead. Within 1.9 ulp."""
    r, low, q = _reduced(x)
    sine, cosine = sine_and_cosine(r, low)
    return _turned(select(_is_odd(q), sine, cosine), q + 1 - (~q & 1))


def tan(x: Value) -> Value:
    """The tangent of the rest after whole quarters of a turn, or -1 over it. Within 1.8 ulp."""
    r, low, q = _reduced(x)
    s = r * r
    tangent = r + fma(r * s, polynomial(s, table.TAN), fma(low, s, low))
    odd = _is_odd(q)
    out = select(odd, -1.0, tangent) / select(odd, tangent, 1.0)
    return select(unary("abs", x) < tiny(x), x, out)


def _asin_of(x: Value, s: Value) -> Value:
    """asin(x) of |x| <= 1/2, less x; s = x^2."""
    return x * s * polynomial(s, table.ASIN)


def asin(x: Value) -> Value:
    """A polynomial up to 1/2; beyond pi/2 - 2 asin(sqrt((1 - |x|) / 2)). Within 1.8 ulp."""
    y = unary("abs", x)
    large = y > 0.5
    s = select(large, fma(y, -0.5, 0.5), y * y)
    z = select(large, unary("sqrt", s), y)
    rest = _asin_of(z, s)
    head, low = table.HALF_PI[x.type.name][:2]
    beyond = head - (z + z - (low - (rest + rest)))
    return copysign(select(large, beyond, z + rest), x)


def acos(x: Value) -> Value:
    """pi/2 - asin(x) up to 1/2; 2 asin(sqrt((1 - |x|) / 2)) beyond, or pi less that. Within 1.3
    ulp.
    """
    y = unary("abs", x)
    large = y > 0.5
    s = select(large, fma(y, -0.5, 0.5), y * y)
    z = select(large, unary("sqrt", s), x)
    rest = _asin_of(z, s)
    head, low = table.HALF_PI[x.type.name][:2]
    twice = z + z
    right = fma(rest, 2.0, twice)
    left = 2.0 * head - (twice - (2.0 * low - (rest + rest)))
    middle = head - (z - (low - rest))
    return select(large, select(x < 0.0, left, right), middle)


def _atan_of(t: Value) -> Value:
    """atan(t) of 0 <= t <= 1, less t."""
    s = t * t
    return t * s * polynomial(s, table.ATAN)


def atan(x: Value) -> Value:
    """A polynomial up to 1; beyond pi/2 - atan(1 / |x|). Within 1.3 ulp."""
    y = unary("abs", x)
    large = y > 1.0
    t = select(large, 1.0, y) / select(large, y, 1.0)
    rest = _atan_of(t)
    head, low = table.HALF_PI[x.type.name][:2]
    return copysign(select(large, head - (t - (low - rest)), t + rest), x)


def atan2(y: Value, x: Value) -> Value:
    """atan of the smaller over the larger, from the axis that is nearest. Within 1.6 ulp."""
    a, b = unary("abs", y), unary("abs", x)
    steep = a > b
    less, more = select(steep, b, a), select(steep, a, b)
    same = equal(a, b)  # 0 / 0 is 0, infinity over infinity 1
    t = select(same, select(equal(a, 0.0), a, 1.0), less / more)
    rest = _atan_of(t)
    head, low = table.HALF_PI[x.type.name][:2]
    left = bits(x, INTEGER_OF[x.type]) < 0
    plain = t + rest
    upright = select(left, head + (t + (low + rest)), head - (t - (low - rest)))
    out = select(steep, upright, select(left, 2.0 * head - (t - (2.0 * low - rest)), plain))
    nan = unequal(a, a) | unequal(b, b)
    return copysign(select(nan, a + b, out), y)
