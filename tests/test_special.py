"""erf, erfc, sigmoid, softplus, rsqrt: at most 2 ulp from mpmath, everywhere, in every dtype.

float64 is measured against mpmath; float16 (every value) and float32 (random bits) against the
float64 functions so measured, rounded, and against the C library's erf and erfc.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest

from stagekit.errors import DTypeError
from stagekit.ops import gamma, special

BOUND = 2.0  # ulp of the exact result, float64
NARROW_BOUND = 0.51  # float16 and float32: computed in float64 and rounded once

NAMES = ["erf", "erfc", "sigmoid", "softplus", "rsqrt"]
EXACT: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)) if x < 99 else x,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
}
Array = np.ndarray


def call(name: str, x: Array) -> Array:
    with np.errstate(all="ignore"):
        return getattr(special, name)(x)


def points(name: str, n: int) -> Array:
    """Random points of every region: around zero, denormal, the middle, both tails, the seams."""
    draw = np.random.default_rng([n, *name.encode()])
    tiny = np.exp2(draw.uniform(-1074, 0, n)) * draw.choice([-1.0, 1.0], n)
    if name == "rsqrt":
        return np.exp2(draw.uniform(-1074, 1024, 3 * n))
    tail, end = {"erf": (5, 6), "erfc": (26, 27.3)}.get(name, (700, 746))
    sign = 1 if name.startswith("erf") else -1
    regions = [(-1, 1), (-7, 7), (-0.51, 0.51), (0, 28), (-40, 40), (sign * tail, sign * end)]
    seams = [1.0, 0.5, 28.0, 3.75, 6.0, 40.0, 26.5, 27.2, 708.4, 745.13, 1e4]
    near = [s * seam * (1 + k * 2.0**-52) for seam in seams for s in (-1, 1) for k in range(-3, 4)]
    return np.concatenate([tiny, near, *(draw.uniform(*sorted(r), n) for r in regions)])


def ulps(got: float, exact: mpmath.mpf) -> float:
    """The distance in units of the last place of the exact value as a double."""
    exponent = int(mpmath.floor(mpmath.log(abs(exact), 2))) if exact else -1074
    unit = mpmath.ldexp(1, max(exponent - 52, -1074))
    return float(abs(mpmath.mpf(got) - exact) / unit)


def worst(name: str, x: Array, y: Array) -> tuple[float, float]:
    with mpmath.workprec(140):
        exact = EXACT[name]
        errors = [(ulps(b, exact(mpmath.mpf(a))), a) for a, b in zip(x.tolist(), y.tolist())]
    return max(errors)


@pytest.mark.parametrize("name", NAMES)
def test_float64_against_mpmath(name: str, full: bool) -> None:
    x = points(name, 20_000 if full else 700)
    error, at = worst(name, x, call(name, x))
    assert error <= BOUND, f"{name}({at!r}) is {error:.2f} ulp off"


@pytest.mark.parametrize("name", NAMES)
def test_the_measure_sees_three_ulp(name: str) -> None:
    x = np.array([0.75, 1.5])
    y = call(name, x)
    assert worst(name, x, y)[0] <= BOUND < worst(name, x, y + 3 * np.spacing(y))[0]


def every_float16() -> Array:
    return np.arange(2**16, dtype=np.uint16).view(np.float16)


def some_float32(full: bool) -> Array:
    draw = np.random.default_rng(0)
    n = 20_000_000 if full else 200_000
    bits = draw.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    return np.concatenate([bits, draw.uniform(-12, 12, n).astype(np.float32)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_dtypes_are_rounded_once(name: str, dtype: str, full: bool) -> None:
    x = every_float16() if dtype == "float16" else some_float32(full)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = x.astype(np.float64)
    got, want = call(name, x), call(name, wide)
    assert got.dtype == x.dtype
    rounded = want.astype(x.dtype)
    finite = np.isfinite(rounded)
    assert np.array_equal(got[~finite], rounded[~finite], equal_nan=True)
    error = np.abs(got[finite].astype(np.float64) - want[finite])
    with np.errstate(over="ignore"):  # the unit above the largest float16 is infinite
        unit = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    # The unit of the rounded value may be that of the binade above or below the exact value's.
    assert (error <= NARROW_BOUND * unit).all(), x[finite][np.argmax(error / unit)]


@pytest.mark.parametrize("name", ["erf", "erfc"])
def test_every_float16_against_the_c_library(name: str) -> None:
    x = every_float16()
    x = x[~np.isnan(x)]
    want = np.array([getattr(math, name)(v) for v in x.tolist()]).astype(np.float16)
    assert np.array_equal(call(name, x), want)


INF, NAN = math.inf, math.nan
SPECIAL = {
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (NAN, NAN), (6.0, 1.0)],
    "erfc": [(0.0, 1.0), (-0.0, 1.0), (INF, 0.0), (-INF, 2.0), (NAN, NAN), (-9.0, 2.0)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (NAN, NAN), (-1e4, 0.0)],
    "softplus": [(INF, INF), (-INF, 0.0), (NAN, NAN), (1e4, 1e4), (-1e4, 0.0), (64.0, 64.0)],
    "rsqrt": [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-1.0, NAN), (-INF, NAN), (NAN, NAN)],
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, dtype: str) -> None:
    x, want = np.array(SPECIAL[name], dtype).T
    got = call(name, x)
    assert np.array_equal(got, want, equal_nan=True), got
    assert np.array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(want[~np.isnan(want)]))


@pytest.mark.parametrize(
    ("x", "want"),
    [
        (26.6, 1.08851258854423e-309),  # mpmath; the last results are denormal
        (27.22601111110715, 5e-324),
        (27.23, 0.0),
    ],
)
def test_erfc_underflows_gradually(x: float, want: float) -> None:
    assert call("erfc", np.array(x)) == pytest.approx(want, rel=1e-5, abs=0)


def test_erf_is_odd_to_the_bit() -> None:
    x = points("erf", 500)
    assert call("erf", -x).tobytes() == (-call("erf", x)).tobytes()


# Layouts

LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "transposed": lambda x: x.transpose(2, 0, 1),
    "reversed": lambda x: x[::-1, :, ::-1],
    "every other": lambda x: x[:, ::2, ::3],
    "broadcast": lambda x: np.broadcast_to(x[0, 0], (4, 3, x.shape[2])),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "unaligned": lambda x: np.frombuffer(b"!" + x.tobytes(), x.dtype, x.size, 1),
    "0-d": lambda x: x[1, 2, 3],
    "0-d array": lambda x: x[1, 2, 3, ...],
    "zero-size": lambda x: x[:, :0],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_layouts(name: str, dtype: str, layout: str) -> None:
    base = np.random.default_rng(5).uniform(0.1, 9, (6, 7, 8)).astype(dtype)
    x = LAYOUTS[layout](base)
    before = x.tobytes()
    got = call(name, x)
    want = [call(name, np.array([v], dtype))[0] for v in np.asarray(x).ravel().tolist()]
    assert type(got) is np.ndarray
    assert got.shape == np.shape(x)
    assert got.dtype == np.dtype(dtype)
    assert got.dtype.isnative
    assert got.ravel().tolist() == [float(v) for v in want]
    assert x.tobytes() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [special.BLOCK - 1, special.BLOCK, 2 * special.BLOCK + 1])
def test_results_do_not_depend_on_the_place_in_the_array(name: str, size: int) -> None:
    x = np.random.default_rng(size).uniform(0.01, 30, size)
    assert np.array_equal(call(name, x)[::-1], call(name, x[::-1]))


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128", "longdouble"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(DTypeError, match=r"erf: .* is not float16, float32 or float64"):
        special.erf(np.ones(2, dtype))


# What is committed


def test_the_coefficients_are_what_the_script_makes() -> None:
    script = Path(__file__).parents[1] / "tools" / "fit_special.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


def test_float64_bits_are_the_same_on_every_machine(golden: Callable[[str, str], None]) -> None:
    lines = []
    for name in NAMES:
        x = np.linspace(-30 if name != "rsqrt" else 0.01, 750, 100_003)
        digest = hashlib.sha256(call(name, x).astype("<f8").tobytes()).hexdigest()
        lines.append(f"{name} {digest}")
    golden("special_float64", "\n".join(lines))


# ----- gamma.py -----------------------------------------------------------------------------------


def gamma_points(name: str, n: int) -> Array:
    """Random points on both sides of 0: near roots, poles and seams, and far out."""
    draw = np.random.default_rng([n, *name.encode()])
    roots = [1.0, 2.0, 1.4616321449683622, 0.75, 2.75, 12.0, 13.0, -0.25, -0.5, -2.4570247, -0.504]
    near = [r * (1 + s * 10.0**-k) for r in roots for s in (-1, 1) for k in (3, 6, 9, 12, 15)]
    poles = -draw.integers(1, 20, n) + draw.choice([-1, 1], n) * 10 ** draw.uniform(-14, -3, n)
    wide = 10 ** draw.uniform(-300, 300, n)
    spans = [draw.uniform(*span, n) for span in ((0, 3), (3, 14), (-30, 0))]
    return np.concatenate([near, poles, wide, -(10 ** draw.uniform(-300, 0, n)), *spans])


@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_log_gamma_and_digamma_against_mpmath(name: str, full: bool) -> None:
    exact = mpmath.digamma if name == "digamma" else lambda a: mpmath.re(mpmath.loggamma(a))
    x = gamma_points(name, 3000 if full else 80)
    with np.errstate(all="ignore"):
        y = gamma.lgamma(x) if name == "lgamma" else gamma.polygamma(0, x)
    with mpmath.workprec(140):
        for a, b in zip(x.tolist(), y.tolist()):
            want = exact(mpmath.mpf(a))
            off = float(abs(mpmath.mpf(b) - want))
            size = float(abs(want)) if a > 0 else max(float(abs(want)), abs(a))
            assert off <= 4 * np.spacing(2.0 ** math.floor(math.log2(size))), (a, b)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_polygamma_against_mpmath(n: int, full: bool) -> None:
    x = gamma_points("polygamma", 300 if full else 15)
    x = x[(np.abs(x) > 1e-12) & (np.abs(x) < 1e12)]
    with np.errstate(all="ignore"):
        y = gamma.polygamma(n, x)
    with mpmath.workprec(300):
        for a, b in zip(x.tolist(), y.tolist()):
            want = mpmath.polygamma(n, mpmath.mpf(a))
            size = float(abs(want))
            if a < 0:
                size = max(size, float(abs(mpmath.polygamma(n, 1 - mpmath.mpf(a)))), _steep(n, a))
            bound = 4 * (1 if n < 4 and a > 0 else n + 1) * np.spacing(size)
            assert float(abs(mpmath.mpf(b) - want)) <= bound, (a, b)


def _steep(n: int, a: float) -> float:
    """The size of the pole at 0, or of the terms of the polynomial in the cotangent."""
    if a >= -0.5:
        return float(math.factorial(n) / abs(a) ** (n + 1))
    cotangent = abs(float(mpmath.cot(mpmath.pi * mpmath.mpf(a))))
    powers = np.abs(gamma._cotangent(n))
    return float(math.pi ** (n + 1) * np.polyval(powers, cotangent))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_gamma_at_its_poles_and_ends(dtype: str) -> None:
    x = np.array([0.0, -0.0, -1.0, -5.0, np.inf, -np.inf, np.nan, 1.0, 2.0], dtype)
    inf, nan = np.inf, np.nan
    with np.errstate(all="ignore"):
        found = [gamma.lgamma(x), *(gamma.polygamma(n, x) for n in range(3))]
    assert all(y.dtype == dtype for y in found)
    np.testing.assert_array_equal(found[0], [inf, inf, inf, inf, inf, inf, nan, 0, 0])
    np.testing.assert_array_equal(found[1][:7], [-inf, inf, nan, nan, inf, nan, nan])
    np.testing.assert_array_equal(found[2][:7], [inf, inf, inf, inf, 0, nan, nan])
    np.testing.assert_array_equal(found[3][:7], [-inf, -inf, nan, nan, -0.0, nan, nan])
