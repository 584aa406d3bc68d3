"""erf, erfc, sigmoid, softplus and rsqrt on NumPy arrays: within 2 ulp in the dtype of the input.

Made of IEEE + - * / and sqrt for float64, so that the bits are the same on every machine; float16
and float32 are computed in float64 (there with NumPy's exp and log1p) and rounded once. Arrays of
any layout, 0-d and zero-size included. NaN, infinities and -0.0 as in the limit. Callers set
NumPy's error state. The coefficients are fitted by tools/fit_special.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stagekit.errors import DTypeError

Array = np.ndarray[Any, np.dtype[Any]]
Kernel = Callable[[Array], Array]

BLOCK = 8192  # elements at a time: the temporaries stay in the cache

# Made by: python tools/fit_special.py
# erf(x)/x - 1 in s = x^2 <= 1: error below 2^-62
ERF = (
    5.957176147748911e-11,
    -1.1372848856791674e-09,
    1.4659775274047436e-08,
    -1.6350312701054695e-07,
    1.6461000484121368e-06,
    -1.4925595266831182e-05,
    0.0001205533111164271,
    -0.000854832698083379,
    0.0052239776248180145,
    -0.026866170645076792,
    0.11283791670954879,
    -0.3761263890318375,
    0.1283791670955126,
)
# erf(x)/x in w = x^2/8 - 1, |x| <= 4: error below 2^-34
ERF_NARROW = (
    -3.5566795785810666e-05,
    9.725663769924159e-05,
    -7.775892249416875e-05,
    0.0001587696196752785,
    -0.0006622194966461363,
    0.0014372159312613072,
    -0.0025422212206154073,
    0.0047476391993702015,
    -0.008622341358686591,
    0.014397091965097183,
    -0.02246919993772733,
    0.03304775025622779,
    -0.04576578772582612,
    0.059888903555390775,
    -0.07472781257074841,
    0.09020883714494014,
    -0.10771044414410302,
    0.13167512166462025,
    -0.1765762332932892,
    0.35353099561954215,
)
ERFC_K = 3.75
ERFC_CENTRE = 1.1875
# (1 + 2x) exp(x^2) erfc(x) - ERFC_CENTRE in t = (x - K) / (x + K), x <= 28: error below 2^-60
ERFC = (
    3.093226583830838e-10,
    -6.255766439518075e-11,
    -5.1561861565166395e-09,
    -2.551993504058055e-09,
    3.941838305010959e-08,
    2.166247267241668e-08,
    -2.6021705136960196e-07,
    -5.606223945821546e-08,
    1.7531716883552848e-06,
    -9.740244744013555e-07,
    -1.1445047946585976e-05,
    2.238432573107579e-05,
    5.164943471278954e-05,
    -0.000290154075774528,
    0.00029371358546110594,
    0.001755625847022551,
    -0.009746579546082752,
    0.028362277420151644,
    -0.058693398590679784,
    0.09230432116026986,
    -0.10880393014170199,
    0.08227673849014927,
    0.0035854154854636057,
    -0.140240598585547,
    0.05001263083782758,
)
# the same, x <= 10.125: error below 2^-36
ERFC_NARROW = (
    3.2640893468441694e-05,
    4.3924490885831056e-05,
    -0.00030292824500358653,
    0.000293606491651739,
    0.0017609318195763114,
    -0.009745578812435112,
    0.028361244390263912,
    -0.05869364170255054,
    0.09230442307185674,
    -0.10880390901648862,
    0.08227673377340768,
    0.0035854148860316815,
    -0.14024059851621254,
    0.050012630840237805,
)
# (x - log(1 + x)) / x^2 in w = 2x - 1, x <= 1: error below 2^-59
LOG1P = (
    -7.1899594317561195e-12,
    2.2468028666163728e-11,
    -3.078944349560745e-11,
    9.702361600260708e-11,
    -4.0042334266603774e-10,
    1.2644338392501607e-09,
    -3.877903094203453e-09,
    1.23247162527636e-08,
    -3.941508891858519e-08,
    1.2621557663825822e-07,
    -4.0597736246597543e-07,
    1.312979850250323e-06,
    -4.272730849707335e-06,
    1.4006511381725468e-05,
    -4.632040673833343e-05,
    0.0001548421984843993,
    -0.0005246482024121479,
    0.0018089489478340815,
    -0.006385430763196963,
    0.02330759159091604,
    -0.08961246846801828,
    0.37813956756734246,
)
# 1/7! ... 1/2!
EXP = (
    0.0001984126984126984,
    0.001388888888888889,
    0.008333333333333333,
    0.041666666666666664,
    0.16666666666666666,
    0.5,
)
# log(2)/16 in two parts, the first of 36 bits
STEP, STEP_LOW = 0.04332169878489367, 1.0291218489310676e-13
# 2^(j/16), its first 40 bits
POWER = (
    1.0,
    1.0442737824268988,
    1.090507732666083,
    1.1387886347565654,
    1.189207115003228,
    1.2418578120741586,
    1.2968395546504325,
    1.3542555469375657,
    1.4142135623733338,
    1.4768261459394125,
    1.5422108254078921,
    1.6104903319501318,
    1.6817928305081296,
    1.7562521603740606,
    1.834008086409085,
    1.9152065613980085,
)
# the rest of 2^(j/16)
POWER_LOW = (
    0.0,
    5.15006957718203e-13,
    -8.253702643271395e-13,
    1.2621046372417805e-13,
    -5.068880128915318e-13,
    -6.745249294863268e-13,
    5.771193107029513e-13,
    -6.729401880439719e-13,
    -2.3879462322754317e-13,
    8.678460058011832e-14,
    4.8707266826678835e-14,
    -8.774955714711539e-13,
    -7.00468738438268e-13,
    -7.611393042760528e-13,
    2.5738252818035376e-13,
    -8.611951773598333e-13,
)
# End of what the script makes


def erf(x: Array) -> Array:
    """The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.

    >>> erf(np.array([0.0, 0.5, -np.inf]))
    array([ 0.        ,  0.52049988, -1.        ])
    """
    return evaluated("erf", x, _erf_narrow, _erf)


def erfc(x: Array) -> Array:
    """1 - erf(x), without cancellation: accurate until it underflows.

    >>> erfc(np.array([0.0, 10.0]))
    array([1.00000000e+00, 2.08848758e-45])
    """
    return evaluated("erfc", x, _erfc_narrow, _erfc)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)).

    >>> sigmoid(np.array([0.0, -1000.0, 2.0], np.float32))
    array([0.5      , 0.       , 0.8807971], dtype=float32)
    """
    return evaluated("sigmoid", x, _sigmoid_narrow, _sigmoid)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow.

    >>> softplus(np.array([-1e4, 0.0, 1e4]))
    array([0.00000000e+00, 6.93147181e-01, 1.00000000e+04])
    """
    return evaluated("softplus", x, _softplus_narrow, _softplus)


def rsqrt(x: Array) -> Array:
    """1 / sqrt(x); infinity of the sign of a zero, NaN below zero.

    >>> rsqrt(np.array([4.0, np.inf]))
    array([0.5, 0. ])
    """
    return evaluated("rsqrt", x, _rsqrt, _rsqrt)


def evaluated(name: str, x: Array, narrow: Kernel, wide: Kernel) -> Array:
    """Run a kernel over float64 blocks; round its results once to the input's dtype.

    >>> evaluated("square", np.array([3.0]), np.square, np.square)
    array([9.])
    """
    x = np.asarray(x)
    if x.dtype.name not in ("float16", "float32", "float64"):
        raise DTypeError(
            f"{name}: {x.dtype} is not float16, float32 or float64", fix="cast the operand"
        )
    out = np.empty_like(x, dtype=x.dtype.newbyteorder("="), subok=False)
    kernel = wide if x.dtype.itemsize == 8 else narrow
    blocks = np.nditer(
        [x, out],
        flags=["buffered", "external_loop", "zerosize_ok"],
        op_flags=[["readonly"], ["writeonly"]],
        op_dtypes=[np.float64, np.float64],
        casting="same_kind",
        buffersize=BLOCK,
    )
    with blocks:
        for block, result in blocks:
            result[...] = kernel(block)
    return out


# Kernels for float16 and float32. Their relative errors, below 2^-32, are far below half an ulp.


def _erf_narrow(x: Array) -> Array:
    x = np.clip(x, -4.0, 4.0)  # beyond 4 erf rounds to 1
    return x * horner(ERF_NARROW, x * x * 0.125 - 1.0)


def _erfc_narrow(x: Array) -> Array:
    a = np.minimum(np.abs(x), 10.125)  # beyond, erfc rounds to 0
    scaled = ERFC_CENTRE + horner(ERFC_NARROW, (a - ERFC_K) / (a + ERFC_K))
    result: Array = np.exp(-a * a) * scaled / (1.0 + 2.0 * a)
    return np.where(x < 0.0, 2.0 - result, result)


def _sigmoid_narrow(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(np.minimum(-x, 700.0)))


def _softplus_narrow(x: Array) -> Array:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _rsqrt(x: Array) -> Array:
    return np.reciprocal(np.sqrt(x))


# Kernels for float64. The leading term of each result is exact or known as a pair (high, low), so
# that what rounds is small beside it; where two terms remain, each costs half an ulp.


def _erf(x: Array) -> Array:
    a = np.fmin(np.abs(x), 6.0)  # beyond 6 erf rounds to 1; NaN is put back below
    result = x + x * horner(ERF, x * x)
    large = a >= 1.0
    result[large] = np.copysign(1.0 - _erfc_of_positive(a[large]), x[large])
    return np.where(np.isnan(x), x, result)


def _erfc(x: Array) -> Array:
    result = 1.0 - (x + x * horner(ERF, x * x))
    large = ~(np.abs(x) < 0.5)
    of_positive = _erfc_of_positive(np.fmin(np.abs(x[large]), LARGEST))
    result[large] = np.where(x[large] < 0.0, 2.0 - of_positive, of_positive)
    return np.where(np.isnan(x), x, result)


def _erfc_of_positive(a: Array) -> Array:
    """exp(-a^2) (ERFC_CENTRE + w(t)) / (1 + 2a), for finite a from 0 to 28."""
    short = a * SPLITTER
    short -= short - a  # 26 bits of a: its square is exact
    power, rest, exponent = _exp(-short * short, -(a - short) * (a + short))
    w = horner(ERFC, (a - ERFC_K) / (a + ERFC_K))
    high, low = _fast_two_sum(power * ERFC_CENTRE, power * w + rest * (ERFC_CENTRE + w))
    divisor, divisor_low = _two_sum(1.0, 2.0 * a)
    quotient = _quotient(high, low, divisor, divisor_low)
    return _scale(quotient, exponent)


def _sigmoid(x: Array) -> Array:
    e, e_low = _exp_pair(-np.fmin(np.abs(x), 746.0))
    one, one_low = _fast_two_sum(1.0, e)
    high, low = np.where(x < 0.0, e, 1.0), np.where(x < 0.0, e_low, 0.0)
    return np.where(np.isnan(x), x, _quotient(high, low, one, one_low + e_low))


def _softplus(x: Array) -> Array:
    e, e_low = _exp_pair(-np.fmin(np.abs(x), 746.0))
    high, low = _two_sum(np.fmax(x, 0.0), e)
    rest = e_low / (1.0 + e) - e * e * horner(LOG1P, 2.0 * e - 1.0)
    return np.where(x < 40.0, high + (low + rest), x)  # from 40 on it rounds to x


# Arithmetic


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """A polynomial, the coefficient of the highest power first.

    >>> horner((2.0, 1.0), np.array([3.0]))
    array([7.])
    """
    first, second, *rest = coefficients
    result = first * x
    result += second
    for coefficient in rest:
        result *= x
        result += coefficient
    return result


def _two_sum(x: Any, y: Any) -> tuple[Array, Array]:
    """x + y rounded, and its error (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _fast_two_sum(x: Any, y: Any) -> tuple[Array, Array]:
    """x + y rounded, and its error, for |x| >= |y| (Dekker)."""
    total = x + y
    return total, (x - total) + y


def _quotient(high: Array, low: Array, divisor: Array, divisor_low: Array) -> Array:
    """(high + low) / (divisor + divisor_low) within 1.1 ulp."""
    quotient = high / divisor
    return quotient + (low - quotient * divisor_low) / divisor


def _exp(y: Array, y_low: Array | float) -> tuple[Array, Array, Array]:
    """exp(y + y_low) as (power + rest) * 2**exponent, for finite y.

    power has 40 bits and |rest| < 0.05, with an error of some 2^-58.
    """
    k = np.rint(y * (1.0 / STEP))
    r = (y - k * STEP) - k * STEP_LOW + y_low
    index = k.astype(np.int64)
    power, power_low = np.take(_POWER, index & 15), np.take(_POWER_LOW, index & 15)
    rest = power_low + (power + power_low) * (r + r * r * horner(EXP, r))
    return power, rest, index >> 4


def _exp_pair(y: Array) -> tuple[Array, Array]:
    """exp(y) rounded, and its error, for finite y <= 0."""
    power, rest, exponent = _exp(y, 0.0)
    high, low = _fast_two_sum(power, rest)
    return _scale(high, exponent), _scale(low, exponent)


def _scale(x: Array, exponent: Array) -> Array:
    """x * 2**exponent, rounded once though the power itself may underflow."""
    half = exponent >> 1
    result: Array = x * _power_of_two(half) * _power_of_two(exponent - half)
    return result


def _power_of_two(exponent: Array) -> Array:
    bits: Array = (exponent + 1023) << 52
    return bits.view(np.float64)


LARGEST = 28.0  # erfc is 0 beyond it
SPLITTER = 2.0**27 + 1.0
_POWER, _POWER_LOW = np.array(POWER), np.array(POWER_LOW)


# ----- complex numbers, where NumPy misses special values of the Array API standard ---------------


def _of_parts(real: Array, imag: Array, kind: Any) -> Array:
    out = np.empty(np.shape(real), kind)
    out.real, out.imag = real, imag
    return out


def complex_expm1(z: Array) -> Array:
    """exp(z) - 1 of complex numbers, accurate near 0.

    >>> complex_expm1(np.array([0j, complex("inf+0j")]))
    array([ 0.+0.j, inf+0.j])
    """
    x, y = z.real, z.imag
    half, flat = np.sin(y / 2), y == 0
    real = np.where(flat, np.expm1(x) + 0.0, np.expm1(x) * np.cos(y) - 2 * half * half)
    imag = np.where(flat, y, np.exp(x) * np.sin(y))
    least, most = np.isneginf(x), np.isposinf(x) & ~np.isfinite(y)
    real = np.where(least, -1, np.where(most, np.inf, real))
    imag = np.where(least & ~np.isfinite(y), 0, np.where(most, np.nan, imag))
    return _of_parts(real, imag, z.dtype)


def complex_tanh(z: Array) -> Array:
    """The hyperbolic tangent of complex numbers: 1 + 0j at inf + 1j.

    >>> complex_tanh(np.array([complex("inf+2j")]))
    array([1.+0.j])
    """
    out = np.tanh(z)
    edge = np.isinf(z.real) & np.isfinite(z.imag)
    return np.where(edge, _of_parts(np.sign(z.real), np.copysign(0, z.imag), z.dtype), out)
