"""log |gamma| and its derivatives on NumPy arrays, computed in float64 and rounded once.

`lgamma` and `digamma` are within 4 ulp of the larger of the result and the operand, and of the
result itself for x > 0; `polygamma` of order 1 to 3 within 4 ulp for x > 0, of higher orders and on
the left within 4 (n + 1) ulp of the largest term of the reflection. Poles are infinite where both
sides agree on the sign, else NaN. The coefficients are fitted by tools/fit_special.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stagekit.ops.special import evaluated, horner

Array = np.ndarray[Any, np.dtype[Any]]

# Made by: python tools/fit_special.py
# log(gamma(x)) / ((x - 1) (x - 2)) in w = x - 7/4, |w| <= 1: error below 2^-64
LGAMMA = (
    -1.0188444421307028e-09,
    1.823900337376029e-09,
    5.90276019490218e-09,
    -1.0560470593188819e-08,
    -1.892158302047701e-08,
    3.385836740639039e-08,
    3.413474839296007e-08,
    -6.103752617894232e-08,
    -5.1810181401102467e-08,
    9.278116533094157e-08,
    3.007460205625046e-08,
    -5.337953093047845e-08,
    -8.250853299540617e-08,
    1.4921946701018156e-07,
    -1.4973399650702645e-07,
    2.743407468848109e-07,
    -5.658213811601189e-07,
    1.0381359175023338e-06,
    -1.8849856903612375e-06,
    3.477274932225269e-06,
    -6.4409491765394305e-06,
    1.1957038891426791e-05,
    -2.228072709646243e-05,
    4.170410771650919e-05,
    -7.84618270257749e-05,
    0.00014851691831344708,
    -0.00028319061696384357,
    0.0005448969795331367,
    -0.0010605660755702124,
    0.002095533880372224,
    -0.004226194125912246,
    0.008776370425248816,
    -0.019053957830247575,
    0.0445204471985097,
    -0.11948158662524275,
    0.4501393121092563,
)
# digamma(x) / (x - ROOT) in w = 2x - 3: error below 2^-65
DIGAMMA = (
    -1.144554373212095e-12,
    3.433664539844077e-12,
    -2.8613972952571842e-12,
    8.58421816639471e-12,
    -4.714164577575581e-11,
    1.414256211719143e-10,
    -3.884771924456138e-10,
    1.1654486433740295e-09,
    -3.5350823838202323e-09,
    1.0605674558297489e-08,
    -3.179100356116078e-08,
    9.538373093886315e-08,
    -2.862190194375788e-07,
    8.589268218905501e-07,
    -2.578131805991177e-06,
    7.741228754507418e-06,
    -2.3258233091317566e-05,
    6.995018926259813e-05,
    -0.00021074841281153398,
    0.0006368880302816882,
    -0.0019350666647411183,
    0.0059367952783073805,
    -0.018550615381739664,
    0.06013562106019672,
    -0.21181371064073024,
    0.9510558760318328,
)
# the root of digamma in two parts, the first of 40 bits
ROOT, ROOT_LOW = 1.461632144968462, -9.96025276570394e-14
# B(2k) / (2k (2k - 1)), k = 8 ... 1
STIRLING = (
    -0.029550653594771242,
    0.00641025641025641,
    -0.0019175269175269176,
    0.0008417508417508417,
    -0.0005952380952380953,
    0.0007936507936507937,
    -0.002777777777777778,
    0.08333333333333333,
)
# B(2), B(4), ... B(22)
BERNOULLI = (
    0.16666666666666666,
    -0.03333333333333333,
    0.023809523809523808,
    -0.03333333333333333,
    0.07575757575757576,
    -0.2531135531135531,
    1.1666666666666667,
    -7.092156862745098,
    54.971177944862156,
    -529.1242424242424,
    6192.123188405797,
)
HALF_LOG_2PI = 0.9189385332046728
# End of what the script makes


def lgamma(x: Array) -> Array:
    """The logarithm of the absolute value of the gamma function.

    >>> lgamma(np.array([1.0, 0.5, -1.0]))
    array([0.        , 0.57236494,        inf])
    """
    return evaluated("lgamma", x, _lgamma, _lgamma)


def polygamma(n: int, x: Array) -> Array:
    """The n-th derivative of digamma, which is that of log(gamma(x)).

    >>> polygamma(0, np.array([1.0, -1.0])), polygamma(1, np.array([1.0, 0.0]))
    (array([-0.57721566,         nan]), array([1.64493407,        inf]))
    """
    kernel = _digamma if n == 0 else lambda block: _polygamma(n, block)
    return evaluated("polygamma", x, kernel, kernel)


# ----- log |gamma| --------------------------------------------------------------------------------

_STIRLING_FROM = 13.0


def _lgamma(x: Array) -> Array:
    """By gamma(x) gamma(1 - x) = pi / sin(pi x) on the left of -1/2."""
    reflected = x < -0.5
    out = _lgamma_right(np.where(reflected, 1.0 - x, x))
    if reflected.any():
        y = x[reflected]
        sine = np.abs(np.sin(math.pi * (y - np.rint(y))))
        found = np.log(math.pi / sine) - out[reflected]
        out[reflected] = np.where(np.isinf(y), np.inf, found)
    return out


def _lgamma_right(x: Array) -> Array:
    """For x >= -1/2: a polynomial on [0.75, 2.75], shifted there from both sides; then Stirling."""
    big = x >= _STIRLING_FROM
    y, factor = np.where(big, 2.0, x), np.ones_like(x)
    for _ in range(int(_STIRLING_FROM) - 2):
        above = y >= 2.75
        y = np.where(above, y - 1.0, y)
        factor = np.where(above, factor * y, factor)
    logs = np.log(factor)
    for _ in range(2):
        below = y < 0.75
        logs = np.where(below, logs - np.log(np.abs(y)), logs)
        y = np.where(below, y + 1.0, y)
    out: Array = (y - 1.0) * (y - 2.0) * horner(LGAMMA, y - 1.75) + logs
    if big.any():
        z = x[big]
        tail = horner(STIRLING, 1.0 / (z * z)) / z + (HALF_LOG_2PI - 0.5)
        out[big] = (z - 0.5) * (np.log(z) - 1.0) + tail
    return out


# ----- digamma ------------------------------------------------------------------------------------

_ASYMPTOTIC_FROM = 12.0


def _digamma(x: Array) -> Array:
    """By digamma(1 - x) - digamma(x) = pi / tan(pi x) on the left of -1/4."""
    reflected = x < -0.25
    out = _digamma_right(np.where(reflected, 1.0 - x, x))
    if reflected.any():
        y = x[reflected]
        turn = y - np.rint(y)
        found = out[reflected] - math.pi * _cotangent_of(turn)
        out[reflected] = np.where(turn == 0.0, np.nan, found)
    return out


def _digamma_right(x: Array) -> Array:
    """For x >= -1/4: a polynomial on [1, 2], shifted there from both sides; then its asymptote."""
    big = x >= _ASYMPTOTIC_FROM
    y, steps = np.where(big, 1.5, x), np.zeros_like(x)
    for _ in range(int(_ASYMPTOTIC_FROM) - 2):
        above = y >= 2.0
        y = np.where(above, y - 1.0, y)
        steps = np.where(above, steps + 1.0 / y, steps)
    for _ in range(2):
        below = y < 1.0
        steps = np.where(below, steps - 1.0 / y, steps)
        y = np.where(below, y + 1.0, y)
    out: Array = ((y - ROOT) - ROOT_LOW) * horner(DIGAMMA, 2.0 * y - 3.0) + steps
    if big.any():
        z = x[big]
        terms = [b / (2 * k + 2) for k, b in enumerate(BERNOULLI[:8])]
        s = 1.0 / (z * z)
        out[big] = np.log(z) - (0.5 / z + s * horner(tuple(reversed(terms)), s))
    return out


def _cotangent_of(turn: Array) -> Array:
    """1 / tan(pi turn) for |turn| <= 1/2, with a small argument of tan near both ends."""
    beside = np.copysign(np.tan(math.pi * (0.5 - np.abs(turn))), turn)
    return np.where(np.abs(turn) > 0.25, beside, 1.0 / np.tan(math.pi * turn))


# ----- higher orders ------------------------------------------------------------------------------


def _polygamma(n: int, x: Array) -> Array:
    """For n > 0: on the left of -1/2 by the n-th derivative of pi / tan(pi x)."""
    reflected = x < -0.5
    sign = -1.0 if n % 2 == 0 else 1.0
    out = sign * _zeta(n, np.where(reflected, 1.0 - x, x))
    if reflected.any():
        y = x[reflected]
        turn = y - np.rint(y)
        slope = math.pi ** (n + 1) * horner(_cotangent(n), _cotangent_of(turn))
        pole = np.inf if n % 2 else np.nan
        out[reflected] = np.where(turn == 0.0, pole, -sign * out[reflected] - slope)
    return out


def _zeta(n: int, x: Array) -> Array:
    """n! times the sum of 1 / (x + k)^(n + 1) over all k >= 0, for x >= -1/2, the small ones first.

    The first ones one by one, the rest by Euler and Maclaurin.
    """
    first = 12 + n
    z = np.where(x < first, x + first, x)
    s = 1.0 / (z * z)
    terms = [b * _ratio(n, k) for k, b in enumerate(BERNOULLI, 1)]
    whole = math.factorial(n)
    tail = 1.0 / n + 0.5 / z + s * horner(tuple(reversed(terms)), s)
    out: Array = whole * tail / z**n
    for k in reversed(range(first)):
        out = np.where(x < first, out + whole / (x + k) ** (n + 1), out)
    return np.where(np.isposinf(x), 0.0, out)


def _ratio(n: int, k: int) -> float:
    """(2k + n - 1)! / ((2k)! n!)"""
    return math.factorial(2 * k + n - 1) / (math.factorial(2 * k) * math.factorial(n))


def _cotangent(n: int) -> tuple[float, ...]:
    """The n-th derivative of the cotangent as a polynomial in it, the highest power first."""
    powers = [0, 1]  # of a derivative in x: p -> -(1 + c^2) p'
    for _ in range(n):
        slopes = [k * a for k, a in enumerate(powers)][1:]
        powers = [0] * (len(slopes) + 2)
        for k, a in enumerate(slopes):
            powers[k] -= a
            powers[k + 2] -= a
    return tuple(map(float, reversed(powers)))
