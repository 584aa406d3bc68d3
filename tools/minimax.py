"""Fits the polynomials of stagekit/kernels/scalars/scalar_math.py and writes its coefficients.py.

    python tools/minimax.py            # rewrite stagekit/kernels/scalars/coefficients.py
    python tools/minimax.py --check    # exit 1 if that file is not what this script makes

Least squares at Chebyshev nodes, reweighted by the error until it is even (Lawson), at 60 digits.
Coefficients are rounded one after the other from the lowest power on, and those left are fitted
anew, so that rounding costs little; the error that is left is printed beside each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import mpmath as mp
import numpy as np

FILE = Path(__file__).parents[1] / "stagekit" / "kernels" / "coefficients.py"
HEAD = '''"""Coefficients of scalar_math.py, the highest power first: made by tools/minimax.py."""

from __future__ import annotations
'''
Function = Callable[[mp.mpf], mp.mpf]
mp.mp.dps = 60
SINGLE, DOUBLE = np.float32, np.float64
LOG2E, LOG10E = 1 / mp.log(2), 1 / mp.log(10)
HALF = mp.log(2) / 2 * mp.mpf("1.0001")  # what is left of an argument of exp
LOW, HIGH = mp.sqrt(mp.mpf("0.5")) - mp.mpf("1.0001"), mp.sqrt(mp.mpf(2)) - mp.mpf("0.9999")
QUARTER = mp.pi / 4 * mp.mpf("1.0001")


def fit(
    g: Function, weight: Function, low: mp.mpf, high: mp.mpf, terms: int, kind: type
) -> tuple[list[float], int]:
    """Coefficients of P, lowest power first, and the bits that weight (P - g) stays below."""
    count = 5 * terms + 8
    mid, half = (mp.mpf(low) + high) / 2, (mp.mpf(high) - low) / 2
    xs = [mid + half * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]
    xs = [x for x in xs if abs(x) > mp.mpf(10) ** -20]  # where g would be 0 / 0
    values, weights = [g(x) for x in xs], [weight(x) for x in xs]
    powers = [[x**j for j in range(terms)] for x in xs]
    chosen: list[mp.mpf] = []
    bits = 0
    for k in range(terms):
        rest = [v - sum(c * p for c, p in zip(chosen, row)) for v, row in zip(values, powers)]
        found, worst = _even([row[k:] for row in powers], rest, weights, 12 if k == 0 else 4)
        bits = int(-mp.log(worst, 2)) if k == 0 else bits
        chosen.append(mp.mpf(float(kind(float(found[0])))) if kind is SINGLE else _double(found[0]))
        if kind is DOUBLE and k == 2:  # what rounding the others costs is out of sight
            chosen += [_double(c) for c in found[1:]]
            break
    error = max(abs(w * (sum(c * p for c, p in zip(chosen, row)) - v))
                for w, v, row in zip(weights, values, powers))  # fmt: skip
    return [float(c) for c in chosen], int(-mp.log(error, 2))


def _double(c: mp.mpf) -> mp.mpf:
    return mp.mpf(float(c))


def _even(
    rows: list[list[mp.mpf]], values: list[mp.mpf], weights: list[mp.mpf], rounds: int
) -> tuple[list[mp.mpf], mp.mpf]:
    """The weighted least squares of Lawson's iteration with the smallest greatest error."""
    best, worst = [], mp.inf
    shares = [mp.mpf(1) / len(rows)] * len(rows)
    for _ in range(rounds):
        n = len(rows[0])
        normal, right = mp.matrix(n, n), mp.matrix(n, 1)
        scaled = [w * w * s for w, s in zip(weights, shares)]
        for i in range(n):
            right[i] = mp.fsum(s * row[i] * v for s, row, v in zip(scaled, rows, values))
            for j in range(i, n):
                normal[i, j] = normal[j, i] = mp.fsum(
                    s * row[i] * row[j] for s, row in zip(scaled, rows)
                )
        found = list(mp.lu_solve(normal, right))
        errors = [abs(w * (mp.fdot(found, row) - v)) for w, row, v in zip(weights, rows, values)]
        if max(errors) < worst:
            best, worst = found, max(errors)
        shares = [s * e for s, e in zip(shares, errors)]
        total = mp.fsum(shares)
        shares = [s / total + mp.mpf(10) ** -30 for s in shares]
    return best, worst


def odd_rest(f: Function) -> tuple[Function, Function]:
    """(f(x) / x - 1) / x^2 as a function of s = x^2, and its share of f."""
    return (lambda s: (f(mp.sqrt(s)) / mp.sqrt(s) - 1) / s,
            lambda s: s * mp.sqrt(s) / f(mp.sqrt(s)))  # fmt: skip


def log_rest(scale: mp.mpf) -> Function:
    return lambda f: scale * (mp.log1p(f) - f) / f**2


def log_share(f: mp.mpf) -> mp.mpf:
    return f**2 / mp.log1p(f)


def atanh_rest(z: mp.mpf) -> mp.mpf:
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s - 2 * s**3 / 3) / s**5


# name, what it is, g, weight, interval, terms in float32 and in float64 (0: none)
FITS: list[tuple[str, str, Function, Function, mp.mpf, mp.mpf, int, int]] = [
    ("EXP", "(exp(r) - 1 - r) / r^2, |r| <= log(2)/2", lambda r: (mp.exp(r) - 1 - r) / r**2,
     lambda r: r, -HALF, HALF, 5, 11),
    ("EXP2", "(2^r - 1) / r, |r| <= 1/2", lambda r: mp.expm1(r * mp.log(2)) / r,
     lambda r: r, mp.mpf("-0.5"), mp.mpf("0.5"), 6, 12),
    ("LOG", "(log(1 + f) - f) / f^2", log_rest(mp.mpf(1)), log_share, LOW, HIGH, 9, 20),
    ("LOG2", "the same for log2", log_rest(LOG2E), log_share, LOW, HIGH, 9, 20),
    ("LOG10", "the same for log10", log_rest(LOG10E), log_share, LOW, HIGH, 9, 20),
    ("LOG1P", "the same of log(1 + z), 0 <= z <= 1", log_rest(mp.mpf(1)), log_share,
     mp.mpf(0), mp.mpf(1), 10, 23),
    ("SIN", "(sin(r) / r - 1) / s, s = r^2, |r| <= pi/4", *odd_rest(mp.sin), mp.mpf(0),
     QUARTER**2, 3, 7),
    ("COS", "(cos(r) - 1 + s/2) / s^2", lambda s: (mp.cos(mp.sqrt(s)) - 1 + s / 2) / s**2,
     lambda s: s**2, mp.mpf(0), QUARTER**2, 3, 7),
    ("TAN", "(tan(r) / r - 1) / s", *odd_rest(mp.tan), mp.mpf(0), QUARTER**2, 7, 15),
    ("ASIN", "(asin(x) / x - 1) / s, s <= 1/4", *odd_rest(mp.asin), mp.mpf(0), mp.mpf("0.25"),
     5, 12),
    ("ATAN", "(atan(t) / t - 1) / s, s <= 1", *odd_rest(mp.atan), mp.mpf(0), mp.mpf(1), 9, 20),
    ("TANH", "(tanh(x) / x - 1) / s, |x| <= 0.6", *odd_rest(mp.tanh), mp.mpf(0),
     mp.mpf("0.362"), 5, 11),
    ("SINH", "(sinh(r) / r - 1) / s, |r| <= log(2)/2", *odd_rest(mp.sinh), mp.mpf(0), HALF**2,
     2, 6),
    ("COSH", "(cosh(r) - 1) / s", lambda s: (mp.cosh(mp.sqrt(s)) - 1) / s,
     lambda s: s, mp.mpf(0), HALF**2, 3, 6),
    ("ERF", "erf(x) / x - 1, s = x^2 <= 1", lambda s: mp.erf(mp.sqrt(s)) / mp.sqrt(s) - 1,
     lambda s: 1, mp.mpf(0), mp.mpf(1), 7, 13),
    ("ERF_TAIL", "-log2(erfc(x)) / x, 1 <= x <= 4", lambda x: -mp.log(mp.erfc(x), 2) / x,
     lambda x: x * mp.erfc(x), mp.mpf("0.99"), mp.mpf("4"), 7, 0),
    ("POWER_LOG", "log2(1 + f) / f", lambda f: LOG2E * mp.log1p(f) / f,
     lambda f: f / mp.log1p(f), LOW, HIGH, 0, 15),
    ("POWER_EXP", "(2^r - 1) / r", lambda r: mp.expm1(r * mp.log(2)) / r,
     lambda r: r, mp.mpf("-0.5"), mp.mpf("0.5"), 0, 7),
    ("ATANH", "(log((1 + s) / (1 - s)) - 2s - 2/3 s^3) / s^5, z = s^2", atanh_rest,
     lambda z: z**2 / 2, mp.mpf(0), mp.mpf("0.0295"), 0, 7),
]  # fmt: skip


def made(name: str, what: str, g: Function, weight: Function, low: mp.mpf, high: mp.mpf,
         *terms: int) -> str:  # fmt: skip
    out, errors = "", []
    for kind, n in zip((SINGLE, DOUBLE), terms):
        if n:
            found, bits = fit(g, weight, low, high, n, kind)
            errors.append(f"2^-{bits}")
            listed = "".join(f"        {c!r},\n" for c in reversed(found))
            out += f'    "{np.dtype(kind).name}": (\n{listed}    ),\n'
    return f"\n# {what}: error {', '.join(errors)}\n{name} = {{\n{out}}}\n"


# A constant as its nearest number and what that leaves over, twice.
CONSTANTS = {
    "LN2": mp.log(2),
    "LOG2E": LOG2E,
    "LOG10E": LOG10E,
    "LOG10_2": mp.log10(2),
    "HALF_PI": mp.pi / 2,
}


def parts(value: mp.mpf, kind: type) -> str:
    found = []
    for _ in range(4 if value == CONSTANTS["HALF_PI"] else 3):
        found.append(mp.mpf(float(kind(float(value)))))
        value -= found[-1]
    return ", ".join(repr(float(c)) for c in found)


def turns() -> str:
    """1 / (2 pi) for arguments of any size: parts whose product with x is exact where it counts."""
    with mp.workdps(420):
        return _turns(1 / (2 * mp.pi))


def _turns(turn: mp.mpf) -> str:
    ahead = mp.floor(turn * 2**30) / 2**30
    chunks, rest = [], turn
    for _ in range(24):
        rest *= 2**53
        chunks.append(mp.floor(rest))
        rest -= chunks[-1]
    listed = "".join(f"    {float(c / mp.mpf(2) ** 53)!r},\n" for c in chunks)
    return (
        f"\n# 1 / (2 pi) in three parts\nTURN = ({parts(turn, DOUBLE)})\n"
        f"# the same without the bits above 2^-30\nTURN_FAR = ({parts(turn - ahead, DOUBLE)})\n"
        f"# 53 bits of 1 / (2 pi) at a time, each as a fraction\nTURN_BITS = (\n{listed})\n"
        f"# 2 / pi, and pi / 2 in four parts\nQUADRANTS = {float(2 / mp.pi)!r}\n"
    )


def constants() -> str:
    out = "\n# Constants in three parts, the greatest first\n"
    for name, value in CONSTANTS.items():
        out += f"{name} = {{\n"
        for kind in (SINGLE, DOUBLE):
            listed = "".join(f"        {part},\n" for part in parts(value, kind).split(", "))
            out += f'    "{np.dtype(kind).name}": (\n{listed}    ),\n'
        out += "}\n"
    return out


def main() -> int:
    text = HEAD + constants() + turns() + "".join(made(*row) for row in FITS)
    if "--check" in sys.argv[1:]:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
