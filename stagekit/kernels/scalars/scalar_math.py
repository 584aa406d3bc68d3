"""Exponentials, logarithms, hyperbolic functions, powers and erf of float32 and float64 in machine
instructions, once for every code generator: no branch, no table in memory, no call.

Every function is within 2 ulp of the exact value at every argument, and right at NaN, infinities,
zeros and denormals; `make ulp` measures it and writes docs/scalar_math.md. Polynomials stand in
`coefficients.py`, which tools/minimax.py fits. Two tricks recur: adding 1.5 * 2^(digits - 1) rounds
a small number to an integer, which then stands in the low bits of the sum; and a shift of an
integer into the exponent's place makes a power of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from stagekit.ops import special
from stagekit.types import float32, float64

Table = Mapping[str, tuple[float, ...]]
INF, NAN = float("inf"), float("nan")
DIGITS = {float32: 24, float64: 53}
BIAS = {float32: 127, float64: 1023}
ROOT_HALF = {float32: 0x3F3504F3, float64: 0x3FE6A09E667F3BCD}  # the bits of sqrt(1/2)

# ----- building blocks ----------------------------------------------------------------------------


def polynomial(x: Value, coefficients: Table) -> Value:
    """By Horner's rule, the highest power first."""
    first, *rest = coefficients[x.type.name]
    out = like(x, first)
    for c in rest:
        out = fma(out, x, c)
    return out


def clamped(x: Value, low: float, high: float) -> Value:
    """x between bounds; NaN stays."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def rounded(x: Value) -> tuple[Value, Value]:
    """The nearest integer of a small number, as a float and as an integer."""
    magic = like(x, 1.5 * 2.0 ** (DIGITS[x.type] - 1))
    shifted = x + magic
    return shifted - magic, low_bits(shifted)


def low_bits(shifted: Value) -> Value:
    """The integer in the low bits of a number that was added to 1.5 * 2^(digits - 1)."""
    digits, kind = DIGITS[shifted.type], INTEGER_OF[shifted.type]
    exponent = BIAS[shifted.type] + digits - 1
    return bits(shifted, kind) - ((exponent << (digits - 1)) | (1 << (digits - 2)))


def power_of_two(n: Value, like_: Value) -> Value:
    """2^n of an integer in the range of exponents, in the type of a float."""
    return bits((n + BIAS[like_.type]) << (DIGITS[like_.type] - 1), like_.type)


def scaled(x: Value, n: Value) -> Value:
    """x * 2^n, in two steps, so that a denormal result is rounded once."""
    half = n >> 1
    return x * power_of_two(half, x) * power_of_two(n - half, x)


def whole_number(n: Value, like_: Value) -> Value:
    """A small integer as a float."""
    if like_.type is float32:
        return convert(n, float32)
    magic = 1.5 * 2.0**52  # an instruction where there is none for 64 bits
    return bits(n + 0x4338000000000000, float64) - magic


# ----- exponentials -------------------------------------------------------------------------------


def _reduced(x: Value) -> tuple[Value, Value, Value]:
    """r, what r was rounded by, and n, with x = n log(2) + r, |r| <= log(2) / 2."""
    (head, low, _), magic = table.LN2[x.type.name], 1.5 * 2.0 ** (DIGITS[x.type] - 1)
    shifted = fma(x, table.LOG2E[x.type.name][0], magic)
    n = shifted - magic
    near = fma(n, -head, x)  # exact
    r = fma(n, -low, near)
    return r, fma(n, -low, near - r), low_bits(shifted)


def _less_one(r: Value, low: Value | None = None) -> Value:
    """exp(r) - 1."""
    if low is None:
        return fma(r * r, polynomial(r, table.EXP), r)
    return r + fma(r * r, polynomial(r, table.EXP), low)


def lowest(x: Value) -> float:
    """Where exp is 0."""
    return -104.0 if x.type is float32 else -746.0


def highest(x: Value) -> float:
    """Where exp is infinite."""
    return 89.0 if x.type is float32 else 710.0


def exp(x: Value) -> Value:
    """2^n times a polynomial of the rest of x after n log(2). Within 1.1 ulp."""
    r, _, n = _reduced(clamped(x, lowest(x), highest(x)))
    return scaled(_less_one(r) + 1.0, n)


def _exp_negative(x: Value) -> Value:
    """exp of x <= 0, within 0.6 ulp: the sum with 1 rounds, and little else."""
    r, low, n = _reduced(select(x < lowest(x), lowest(x), x))
    one = r + 1.0
    rest = fma(r * r, polynomial(r, table.EXP), low)
    return scaled(one + (rest + (r - (one - 1.0))), n)


def exp2(x: Value) -> Value:
    """As exp, without the product by a logarithm. Within 0.9 ulp."""
    bound = 151.0 if x.type is float32 else 1076.0
    x = clamped(x, -bound, bound)
    near, n = rounded(x)
    return scaled(_exp2_of(x - near), n)


def _exp2_of(r: Value) -> Value:
    return fma(r, polynomial(r, table.EXP2), 1.0)


def expm1(x: Value) -> Value:
    """2^n (exp(r) - 1) + 2^n - 1, at half the scale so that it overflows where it should.
    Within 1.7 ulp.
    """
    low = -18.0 if x.type is float32 else -38.0
    r, rest, n = _reduced(clamped(x, low, highest(x)))
    half = power_of_two(n - 1, x)
    out = fma(_less_one(r, rest), half, half - 0.5)
    return select(unary("abs", x) < tiny(x), x, out + out)


def tiny(x: Value) -> float:
    """Below this size x is the nearest number to x + x^2 / 2."""
    return float(2.0 ** -DIGITS[x.type])


def sigmoid(x: Value) -> Value:
    """1 / (1 + z) with z = exp(-|x|); on the left z - z q with q = z / (1 + z). Within 1.6 ulp."""
    z, left = _exp_negative(-unary("abs", x)), x < 0.0
    q = select(left, z, 1.0) / (z + 1.0)
    return select(left, fma(-z, q, z), q)


def tanh(x: Value) -> Value:
    """A polynomial up to 0.6; 1 - 2 / (exp(2|x|) + 1) beyond. Within 1.3 ulp."""
    y, s, bound = unary("abs", x), x * x, 10.0 if x.type is float32 else 20.0
    small = fma(x * s, polynomial(s, table.TANH), x)
    bounded = select(y > bound, bound, y)
    r, _, n = _reduced(bounded + bounded)
    scale = power_of_two(n, x)
    large = 1.0 - 2.0 / fma(_less_one(r), scale, scale + 1.0)
    return copysign(select(y > 0.6, large, small), x)


def _hyperbolic(x: Value) -> tuple[Value, Value, Value, Value]:
    """2^(n-2), 2^(-n-2), cosh(r) - 1 and sinh(r), of |x| = n log(2) + r."""
    y, bound = unary("abs", x), 89.5 if x.type is float32 else 710.6
    r, _, n = _reduced(select(y > bound, bound, y))
    low, least = -2 - n, -BIAS[x.type]
    down = power_of_two(select(low > least, low, least), x)
    s = r * r
    sinh_r = fma(r * s, polynomial(s, table.SINH), r)
    return power_of_two(n - 2, x), down, s * polynomial(s, table.COSH), sinh_r


def sinh(x: Value) -> Value:
    """sinh(n log 2) cosh(r) + cosh(n log 2) sinh(r), without a division. Within 1.8 ulp."""
    up, down, c, s = _hyperbolic(x)
    less = up - down
    out = less + fma(up + down, s, less * c)
    return select(unary("abs", x) < tiny(x), x, copysign(out + out, x))


def cosh(x: Value) -> Value:
    """(exp(|x|) + exp(-|x|)) / 2, each by cosh(r) and sinh(r), without a division. Within 1.6
    ulp.
    """
    up, down, c, s = _hyperbolic(x)
    out = up + fma(up, c + s, fma(down, c - s, down))
    return out + out


# ----- logarithms ---------------------------------------------------------------------------------


def _normal(x: Value) -> tuple[Value, Value]:
    """A denormal number times a power of two, and that power of two."""
    small = x < 2.0 ** (2 - BIAS[x.type])
    shift = DIGITS[x.type]
    return select(small, x * 2.0**shift, x), select(small, like(x, shift), 0.0)


def _octave(x: Value) -> tuple[Value, Value]:
    """n and x / 2^n, between sqrt(1/2) and sqrt(2), of a positive normal number."""
    whole, digits = bits(x, INTEGER_OF[x.type]), DIGITS[x.type]
    n = (whole - ROOT_HALF[x.type]) >> (digits - 1)
    return n, bits(whole - (n << (digits - 1)), x.type)


def _log_of(f: Value, n: Value, rest: Value | None = None) -> Value:
    """log(1 + f) + n log(2), plus something small."""
    head, low, _ = table.LN2[f.type.name]
    small = n * low if rest is None else fma(n, low, rest)
    return fma(n, head, f + fma(f * f, polynomial(f, table.LOG), small))


def _at_poles(x: Value, out: Value, pole: float) -> Value:
    """A logarithm where it is not finite: at its pole, to the left of it, at infinity, of NaN."""
    outside = select(equal(x, pole), like(x, -INF), NAN)
    return select(x > pole, select(x < INF, out, x), select(x < INF, outside, x))


def log(x: Value) -> Value:
    """n log(2) plus a polynomial of the significand. Within 0.9 ulp."""
    y, shift = _normal(x)
    n, m = _octave(y)
    return _at_poles(x, _log_of(m - 1.0, whole_number(n, x) - shift), 0.0)


def log1p(x: Value) -> Value:
    """As log of u = 1 + x, with the significand (1 + x) / 2^n - 1 rounded once. Within 1.5 ulp."""
    out = _log1p_of(x)
    return _at_poles(x, select(unary("abs", x) < tiny(x), x, out), -1.0)


def _log1p_of(x: Value, low: Value | None = None, doubled: Value | None = None) -> Value:
    """log(1 + x + low) of a finite x > -1, and log(2 + 2x) where a condition says so."""
    n, _ = _octave(x + 1.0)
    part, quarter = x * 0.25, power_of_two(2 - n, x)  # 4 / 2^n is no denormal
    less = fma(quarter, 0.25, -1.0)
    f = fma(part, quarter, less)
    k = whole_number(n, x)
    k = k if doubled is None else select(doubled, k + 1.0, k)
    if low is None:
        return _log_of(f, k)
    rest = fma(low * 0.25, quarter, fma(part, quarter, less - f))
    return _log_of(f, k, fma(-f, rest, rest))


def log2(x: Value) -> Value:
    """n plus a polynomial of the significand. Within 1.1 ulp."""
    y, shift = _normal(x)
    n, m = _octave(y)
    head, low, _ = table.LOG2E[x.type.name]
    f = m - 1.0
    out = fma(f, head, fma(f, low, f * f * polynomial(f, table.LOG2)))
    return _at_poles(x, whole_number(n, x) - shift + out, 0.0)


def log10(x: Value) -> Value:
    """n log10(2) plus a polynomial of the significand. Within 1.0 ulp."""
    y, shift = _normal(x)
    n, m = _octave(y)
    (head, low, _), (unit, rest, _) = table.LOG10E[x.type.name], table.LOG10_2[x.type.name]
    f, k = m - 1.0, whole_number(n, x) - shift
    small = fma(k, rest, fma(f, low, f * f * polynomial(f, table.LOG10)))
    return _at_poles(x, fma(k, unit, fma(f, head, small)), 0.0)


def _log1p_of_exp(z: Value) -> Value:
    """log(1 + z) of 0 <= z <= 1 by one polynomial."""
    return fma(z * z, polynomial(z, table.LOG1P), z)


def softplus(x: Value) -> Value:
    """max(x, 0) + log(1 + exp(-|x|)). Within 1.9 ulp."""
    return select(x < 0.0, 0.0, x) + _log1p_of_exp(_exp_negative(-unary("abs", x)))


def logaddexp(x: Value, y: Value) -> Value:
    """The greater one + log(1 + exp(-|x - y|))."""
    gap = select(equal(x, y), 0.0, unary("abs", x - y))
    return select(x > y, x, y) + _log1p_of_exp(_exp_negative(-gap))


def asinh(x: Value) -> Value:
    """log1p(u) with u = |x| + x^2 / (1 + sqrt(1 + x^2)); log(2 |x|) of large x. Within 1.9 ulp."""
    y, large = unary("abs", x), unary("abs", x) > _huge(x)
    square = y * y
    u = y + square / (unary("sqrt", square + 1.0) + 1.0)
    out = _log1p_of(select(large, y, u), None, large)
    return select((y < tiny(x)) | ~(y < INF), x, copysign(out, x))


def acosh(x: Value) -> Value:
    """log1p(t + sqrt(2t + t^2)) with t = x - 1; log(2x) of large x. Within 1.9 ulp."""
    t, large = x - 1.0, x > _huge(x)
    root = unary("sqrt", fma(t, t, t + t))
    u = root + t
    out = _log1p_of(select(large, x, u), select(large, 0.0, t - (u - root)), large)
    return select(x < 1.0, NAN, select(x < INF, out, x))


def _huge(x: Value) -> float:
    """Above this size x + 1 is x, and x^2 is finite."""
    return 2.0**30 if x.type is float32 else 2.0**60


def atanh(x: Value) -> Value:
    """log1p(u) / 2 with u = 2 |x| / (1 - |x|), of which 1 / (1 - |x|) is 1 + u / 2. Within 1.0
    ulp.
    """
    y = unary("abs", x)
    z, twice = 1.0 - y, y + y
    u = twice / z
    rest = fma(-u, z, twice) - u * ((1.0 - z) - y)
    out = _log1p_of(u, fma(rest, u * 0.5, rest)) * 0.5
    out = select(y < 1.0, select(y < tiny(x), y, out), select(equal(y, 1.0), like(x, INF), NAN))
    return copysign(out, x)


# ----- powers and roots ---------------------------------------------------------------------------


def rsqrt(x: Value) -> Value:
    """1 / sqrt(x). Within 1.6 ulp."""
    return 1.0 / unary("sqrt", x)


def hypot(x: Value, y: Value) -> Value:
    """sqrt(x^2 + y^2): of float32 in float64, of float64 scaled by the greater one's exponent.
    Within 1.2 ulp.
    """
    a, b = unary("abs", x), unary("abs", y)
    infinite = equal(a, INF) | equal(b, INF)
    if x.type is float32:
        c, d = convert(x, float64), convert(y, float64)
        return select(infinite, INF, convert(unary("sqrt", fma(c, c, d * d)), float32))
    large = select(a > b, a, b)
    up = large < 2.0**-500
    scale = select(up, 2.0**600, select(large > 2.0**500, like(x, 2.0**-600), 1.0))
    back = select(up, 2.0**-600, select(large > 2.0**500, like(x, 2.0**600), 1.0))
    c, d = a * scale, b * scale
    return select(infinite, INF, unary("sqrt", fma(c, c, d * d)) * back)


def power(x: Value, y: Value) -> Value:
    """x^y as IEEE 754's pow: 2^(y log2 |x|) with the logarithm in twice the digits. Within 0.9
    ulp.
    """
    if y.op == "constant" and y.attr in _POWERS:
        return _POWERS[y.attr](x)
    size = unary("abs", x)
    out = _narrow_power(size, y) if x.type is float32 else _wide_power(size, y)
    whole = equal(unary("trunc", y), y)
    half = y * 0.5
    odd = whole & unequal(unary("trunc", half), half)
    negative = bits(x, INTEGER_OF[x.type]) < 0
    out = select(negative & odd, -out, out)
    out = select((x < 0.0) & (x > -INF) & ~whole, NAN, out)
    one = equal(x, 1.0) | equal(y, 0.0) | (equal(x, -1.0) & equal(unary("abs", y), INF))
    return select(one, 1.0, out)


_POWERS: dict[float, Callable[[Value], Value]] = {
    -1.0: lambda x: 1.0 / x,
    0.0: lambda x: like(x, 1.0),
    0.5: lambda x: select(equal(x, -INF), INF, unary("sqrt", x) + 0.0),
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: x * x * (x * x),
}


def _log2_at_ends(x: Value, out: Value) -> Value:
    """log2 of 0, of infinity and of NaN, else what was found."""
    return select(x > 0.0, select(x < INF, out, x), select(equal(x, 0.0), -INF, x))


def _narrow_power(x: Value, y: Value) -> Value:
    """In float64, where a logarithm to 40 digits suffices and no result overflows."""
    x, y, narrow = convert(x, float64), convert(y, float64), x.type
    n, m = _octave(x)
    f = m - 1.0
    log_ = _log2_at_ends(x, fma(f, polynomial(f, table.POWER_LOG), whole_number(n, x)))
    t = clamped(y * log_, -300.0, 300.0)
    near, k = rounded(t)
    r = t - near
    return convert(fma(r, polynomial(r, table.POWER_EXP), 1.0) * power_of_two(k, x), narrow)


def _wide_power(x: Value, y: Value) -> Value:
    """The logarithm as a sum of two float64, by s = f / (2 + f) and its powers up to the third."""
    z, shift = _normal(x)
    n, m = _octave(z)
    head, low = _log_pair(m - 1.0)
    unit, rest, _ = table.LOG2E["float64"]
    product = head * unit
    low = fma(head, unit, -product) + fma(head, rest, low * unit)
    k = whole_number(n, x) - shift
    high = k + product
    low = (k - high) + product + low
    high = _log2_at_ends(x, high)
    t = y * high
    bounded = clamped(t, -1100.0, 1100.0)
    low = select(unary("abs", t) < 1100.0, fma(y, high, -t) + y * low, 0.0)
    near, whole = rounded(bounded)
    return scaled(_exp2_of((bounded - near) + low), whole)


def _log_pair(f: Value) -> tuple[Value, Value]:
    """log(1 + f) as a sum of two float64, to about 2^-65."""
    d = f + 2.0
    inverse = 1.0 / d
    s = f * inverse
    s_low = (fma(-s, d, f) - s * (f - (d - 2.0))) * inverse
    z = s * s
    z_low = fma(s + s, s_low, fma(s, s, -z))
    third, third_low = 2.0 / 3.0, 3.700743415417189e-17  # 2/3 in two parts
    rest = z * polynomial(z, table.ATANH)
    w = rest + third
    w_low = rest - (w - third) + third_low
    v = z * w
    v_low = fma(z, w, -v) + fma(z, w_low, z_low * w)
    g = v + 2.0
    g_low = (v - (g - 2.0)) + v_low
    high = s * g
    return high, fma(s, g, -high) + fma(s, g_low, s_low * g)


# ----- the error function -------------------------------------------------------------------------


def erf(x: Value) -> Value:
    """x times a polynomial of x^2 up to 1; 1 - erfc(|x|) beyond, for float32 as a power of two.
    Within 1.1 ulp.
    """
    y = unary("abs", x)
    s = x * x
    small = fma(x, polynomial(s, table.ERF), x)
    large, bound = y > 1.0, 4.0 if x.type is float32 else 6.0  # where erf rounds to 1
    y = select(y > bound, bound, y)
    if x.type is float32:
        t = -(y * polynomial(y, table.ERF_TAIL))
        near, n = rounded(t)
        tail = fma(-_exp2_of(t - near), power_of_two(n, x), 1.0)
    else:
        tail = 1.0 - _erfc_of_positive(y)
    return select(large, copysign(tail, x), small)


def erfc(x: Value) -> Value:
    """exp(-x^2) times a polynomial of (|x| - K) / (|x| + K), and 1 - erf(x) up to 1/2; float32
    in float64. Within 1.4 ulp.
    """
    if x.type is float32:
        return convert(_erfc_narrow(convert(x, float64)), float32)
    y = unary("abs", x)
    out = _erfc_of_positive(select(y > 28.0, 28.0, y))
    small = 1.0 - fma(x, polynomial(x * x, table.ERF), x)
    return select(y < 0.5, small, select(x < 0.0, 2.0 - out, out))


def _erfc_narrow(x: Value) -> Value:
    y = unary("abs", x)
    y = select(y > 10.125, 10.125, y)
    t = (y - special.ERFC_K) / (y + special.ERFC_K)
    w = polynomial(t, {"float64": special.ERFC_NARROW}) + special.ERFC_CENTRE
    r, _, n = _reduced(-(y * y))
    out = (_less_one(r) + 1.0) * w / (y + y + 1.0) * power_of_two(n, x)
    return select(x < 0.0, 2.0 - out, out)


def _erfc_of_positive(y: Value) -> Value:
    """For 0 <= y <= 28: the square, the product and the quotient in twice the digits."""
    square = y * y
    r, low, n = _reduced(-square)
    rest = _less_one(r, low)
    rest = fma(-fma(y, y, -square), rest + 1.0, rest)
    t = (y - special.ERFC_K) / (y + special.ERFC_K)
    centre, w = special.ERFC_CENTRE, polynomial(t, {"float64": special.ERFC})
    part = fma(rest, w + centre, w)
    high = part + centre
    low = part - (high - centre)
    twice = y + y
    d = twice + 1.0
    back = d - twice
    d_low = (twice - (d - back)) + (1.0 - back)
    inverse = 1.0 / d
    q = high * inverse
    return scaled(q + (fma(-q, d, high) + fma(-q, d_low, low)) * inverse, n)
