"""Fits the coefficients of stagekit/ops/special.py and gamma.py, at 50 digits, and writes them in.

    python tools/fit_special.py            # rewrite the blocks between the two marks
    python tools/fit_special.py --check    # exit 1 if a block is not what this script makes

Every polynomial interpolates at Chebyshev nodes (mpmath.chebyfit), which is within a small factor
of the minimax polynomial; its error bound is printed beside it. Coefficients go from the highest
power down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import mpmath as mp

FOLDER = Path(__file__).parents[1] / "stagekit" / "ops"
BEGIN = "# Made by: python tools/fit_special.py\n"
END = "# End of what the script makes\n"

K = mp.mpf("3.75")  # t = (x - K) / (x + K) takes [0, inf) to [-1, 1)
CENTRE = mp.mpf("1.1875")  # near the middle of (1 + 2x) exp(x^2) erfc(x), and 5 bits long
LARGEST = 28  # erfc is 0 beyond it, in double
LARGEST_NARROW = mp.mpf("10.125")  # the same in single
SLICES = 16  # of an octave, in the table of exp


def erf_over_x(s: mp.mpf) -> mp.mpf:
    """erf(x) / x as a function of s = x^2."""
    x = mp.sqrt(s)
    return mp.erf(x) / x if x else 2 / mp.sqrt(mp.pi)


def scaled_erfc(t: mp.mpf) -> mp.mpf:
    """(1 + 2x) exp(x^2) erfc(x) - CENTRE as a function of t."""
    x = K * (1 + t) / (1 - t)
    return (1 + 2 * x) * mp.exp(x * x) * mp.erfc(x) - CENTRE


def log1p_rest(w: mp.mpf) -> mp.mpf:
    """(x - log(1 + x)) / x^2 as a function of w = 2x - 1."""
    x = (w + 1) / 2
    return (x - mp.log1p(x)) / x**2 if x > mp.mpf(10) ** -20 else 1 / mp.mpf(2) - x / 3


def lgamma_rest(w: mp.mpf) -> mp.mpf:
    """log(gamma(x)) / ((x - 1) (x - 2)) as a function of w = x - 7/4."""
    x = w + mp.mpf("1.75")
    return mp.loggamma(x) / ((x - 1) * (x - 2))


def digamma_rest(w: mp.mpf) -> mp.mpf:
    """digamma(x) / (x - its root) as a function of w = 2x - 3."""
    x = (w + 3) / 2
    return mp.digamma(x) / (x - digamma_root())


def digamma_root() -> mp.mpf:
    return mp.findroot(mp.digamma, 1.46)


def shortened(value: mp.mpf, bits: int) -> mp.mpf:
    with mp.workprec(bits):
        return +value


def tuple_of(name: str, values: Iterable[mp.mpf], comment: str) -> str:
    lines = "".join(f"    {float(value)!r},\n" for value in values)
    return f"# {comment}\n{name} = (\n{lines})\n"


def fitted(
    name: str, f: Callable[[mp.mpf], mp.mpf], low: object, high: object, terms: int, what: str
) -> str:
    coefficients, error = mp.chebyfit(f, [low, high], terms, error=True)
    bits = int(mp.floor(-mp.log(error, 2)))
    return tuple_of(name, coefficients, f"{what}: error below 2^-{bits}")


def block() -> str:
    mp.mp.dps = 50
    table = [mp.mpf(2) ** (mp.mpf(j) / SLICES) for j in range(SLICES)]
    heads = [shortened(value, 40) for value in table]
    step = mp.log(2) / SLICES
    head = shortened(step, 36)
    top = (LARGEST - K) / (LARGEST + K)
    parts = [
        fitted("ERF", lambda s: erf_over_x(s) - 1, 0, 1, 13, "erf(x)/x - 1 in s = x^2 <= 1"),
        fitted(
            "ERF_NARROW",
            lambda w: erf_over_x(8 * (w + 1)),
            -1,
            1,
            20,
            "erf(x)/x in w = x^2/8 - 1, |x| <= 4",
        ),
        f"ERFC_K = {float(K)!r}\nERFC_CENTRE = {float(CENTRE)!r}\n",
        fitted(
            "ERFC",
            scaled_erfc,
            -1,
            top,
            25,
            "(1 + 2x) exp(x^2) erfc(x) - ERFC_CENTRE in t = (x - K) / (x + K), x <= 28",
        ),
        fitted(
            "ERFC_NARROW",
            scaled_erfc,
            -1,
            (LARGEST_NARROW - K) / (LARGEST_NARROW + K),
            14,
            "the same, x <= 10.125",
        ),
        fitted("LOG1P", log1p_rest, -1, 1, 22, "(x - log(1 + x)) / x^2 in w = 2x - 1, x <= 1"),
        tuple_of("EXP", (1 / mp.factorial(n) for n in range(7, 1, -1)), "1/7! ... 1/2!"),
        f"# log(2)/{SLICES} in two parts, the first of 36 bits\n"
        f"STEP, STEP_LOW = {float(head)!r}, {float(step - head)!r}\n",
        tuple_of("POWER", heads, f"2^(j/{SLICES}), its first 40 bits"),
        tuple_of("POWER_LOW", (t - h for t, h in zip(table, heads)), f"the rest of 2^(j/{SLICES})"),
    ]
    return "".join(parts)


def gamma_block() -> str:
    mp.mp.dps = 50
    root = digamma_root()
    head = shortened(root, 40)
    rest = "log(gamma(x)) / ((x - 1) (x - 2)) in w = x - 7/4, |w| <= 1"
    stirling = (mp.bernoulli(2 * k) / (2 * k * (2 * k - 1)) for k in range(8, 0, -1))
    parts = [
        fitted("LGAMMA", lgamma_rest, -1, 1, 36, rest),
        fitted("DIGAMMA", digamma_rest, -1, 1, 26, "digamma(x) / (x - ROOT) in w = 2x - 3"),
        "# the root of digamma in two parts, the first of 40 bits\n"
        f"ROOT, ROOT_LOW = {float(head)!r}, {float(root - head)!r}\n",
        tuple_of("STIRLING", stirling, "B(2k) / (2k (2k - 1)), k = 8 ... 1"),
        tuple_of("BERNOULLI", (mp.bernoulli(2 * k) for k in range(1, 12)), "B(2), B(4), ... B(22)"),
        f"HALF_LOG_2PI = {float(mp.log(2 * mp.pi) / 2)!r}\n",
    ]
    return "".join(parts)


def main() -> int:
    different = 0
    for name, make in (("special.py", block), ("gamma.py", gamma_block)):
        text = (FOLDER / name).read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        old, _, after = rest.partition(END)
        new = make()
        different |= old != new
        if "--check" not in sys.argv[1:]:
            (FOLDER / name).write_text(before + BEGIN + new + END + after, encoding="utf-8")
    return int("--check" in sys.argv[1:] and different)


if __name__ == "__main__":
    sys.exit(main())
