"""Measures the functions of stagekit/kernels/scalars/scalar_math.py in units in the last place.

    python tools/ulp.py [--quick] [NAME ...]    # a run of everything writes docs/scalar_math.md

Each function is compiled to a loop over vectors, as kernels are. float64 is compared at 10^7
arguments with long double where NumPy has the function, else at 10^4 with mpmath. float32 is
compared with float64 functions of NumPy and SciPy at 10^7 arguments, and then with the function of
float64 itself, at all 2^32 (of two operands at 10^8 pairs). `--quick` takes samples.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np
import scipy.special

from stagekit.kernels.ir import (
    Body,
    Buffer,
    Kernel,
    Loop,
    Stage,
    Store,
    Value,
    bits,
    convert,
    copysign,
    equal,
    like,
    select,
    unary,
    unequal,
)
from stagekit.kernels.llvm import printer
from stagekit.kernels.machine import engine
from stagekit.kernels.scalars.spelling import spell
from stagekit.symbolic import Expr
from stagekit.types import DType, float32, float64, int64

Array = np.ndarray[Any, Any]
PAGE = Path(__file__).parents[1] / "docs" / "scalar_math.md"
BLOCK = 1 << 15
I, N = Expr.named("i"), Expr.named("n")

# ----- compilation --------------------------------------------------------------------------------


def operands_of(*types: DType) -> list[Value]:
    """Elements of the buffers x, y, ... of one kernel."""
    body = Body()
    return [body.load("xyz"[k], I, t) for k, t in enumerate(types)]


class Compiled:
    """A loop in machine code that computes a value for arrays in the place of its operands."""

    def __init__(self, root: Value, operands: list[Value]) -> None:
        flat = Loop("i", N)
        buffers = [Buffer(v.attr.buffer, v.type) for v in operands]
        stage = Stage((flat,), (), (Store("out", I, root),))
        kernel = Kernel("f", (*buffers, Buffer("out", root.type)), ("n",), (), (stage,), BLOCK,
                        root.body, flat=flat)  # fmt: skip
        lanes = engine.vector_bytes() // min(v.type.itemsize for v in operands)
        self.text = printer.module([printer.function(kernel, lanes)])
        self.library = engine.load(engine.compile_ir(self.text))
        address = self.library.address("f")
        kinds = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self.call = ctypes.CFUNCTYPE(None, *kinds)(address)
        self.kind = root.type.numpy

    def __call__(self, *arrays: Array) -> Array:
        out, n = np.empty(arrays[0].shape, self.kind), arrays[0].size
        error = ctypes.c_int64(0)
        words = [a.ctypes.data for a in arrays] + [out.ctypes.data, n, ctypes.addressof(error)]
        block = (ctypes.c_int64 * len(words))(*words)
        self.call(ctypes.addressof(block), 0, n)
        return out

    @property
    def instructions(self) -> int:
        """Those of the loop, for one vector."""
        lines = engine.assembly(self.text).splitlines()
        starts = [k for k, line in enumerate(lines) if line and not line[0].isspace()]
        blocks = [lines[a + 1 : b] for a, b in zip(starts, [*starts[1:], len(lines)])]
        code = [[x for x in b if x.startswith("\t") and not x.startswith("\t.")] for b in blocks]
        return max(map(len, code))


# ----- the error ----------------------------------------------------------------------------------


def ulps_of_float32(got: Value, want: Value) -> Value:
    """|got - want| in units of the last place of `want`, a float64; infinite where a NaN, an
    infinity or the sign of a zero is wrong.
    """
    wide, size = convert(got, float64), unary("abs", want)
    unit = bits(bits(want, int64) & 0x7FF0000000000000, float64) * 2.0**-23
    unit = select(unit < 2.0**-149, 2.0**-149, unit)
    infinite = equal(unary("abs", wide), float("inf"))
    near = select(infinite, copysign(like(wide, 2.0**128), wide), wide)
    off = unary("abs", near - want) / unit
    wrong = like(off, float("inf"))
    far = size >= 2.0**128 - 2.0**103  # rounds to infinity
    off = select(far, select(infinite & equal(wide < 0.0, want < 0.0), 0.0, wrong), off)
    bare = equal(want, 0.0) & equal(wide, 0.0)
    signs = equal(bits(want, int64) < 0, bits(wide, int64) < 0)
    off = select(bare, select(signs, 0.0, wrong), off)
    nan, expected = unequal(wide, wide), unequal(want, want)
    return convert(select(nan | expected, select(nan & expected, 0.0, wrong), off), float32)


def ulps(got: Array, want: Array) -> Array:
    """The same for arrays, with `want` in long double."""
    info, want = np.finfo(got.dtype), want.astype(np.longdouble)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(want)
        unit = np.ldexp(np.longdouble(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
        top = np.longdouble(info.max) * (1 + np.longdouble(info.epsneg) / 2)
        off = np.abs(got - want) / unit
        far = np.abs(want) >= top
        off = np.where(far | np.isinf(got), np.inf, off)
        off = np.where(far & (got == np.copysign(np.inf, want)), 0, off)
        signs = np.signbit(got) == np.signbit(want)
        off = np.where((want == 0) & (got == 0), np.where(signs, 0, np.inf), off)
        off = np.where(np.isnan(got) | np.isnan(want), np.inf, off)
        return np.where(np.isnan(got) & np.isnan(want), 0, off)


# ----- arguments and references -------------------------------------------------------------------


class Case(NamedTuple):
    """What a function is, by NumPy or SciPy, and by mpmath where NumPy has no long double."""

    reference: Callable[..., Array]
    exact: Callable[..., Any] | None = None


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


CASES: dict[str, Case] = {
    "exp": Case(np.exp),
    "exp2": Case(np.exp2),
    "expm1": Case(np.expm1),
    "log": Case(np.log),
    "log1p": Case(np.log1p),
    "log2": Case(np.log2),
    "log10": Case(np.log10),
    "sigmoid": Case(lambda x: 1 / (1 + np.exp(-x))),
    "softplus": Case(_softplus),
    "sin": Case(np.sin),
    "cos": Case(np.cos),
    "tan": Case(np.tan),
    "sinh": Case(np.sinh),
    "cosh": Case(np.cosh),
    "tanh": Case(np.tanh),
    "asin": Case(np.arcsin),
    "acos": Case(np.arccos),
    "atan": Case(np.arctan),
    "asinh": Case(np.arcsinh),
    "acosh": Case(np.arccosh),
    "atanh": Case(np.arctanh),
    "rsqrt": Case(lambda x: 1 / np.sqrt(x)),
    "erf": Case(scipy.special.erf, mp.erf),
    "erfc": Case(scipy.special.erfc, lambda x: 0 if x > 30 else mp.erfc(max(x, -30))),
}
PAIRS: dict[str, Case] = {
    "power": Case(np.power),
    "hypot": Case(np.hypot),
    "atan2": Case(np.arctan2),
}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e-45, -1e-45, 1.0, -1.0]


def every_float32(step: int) -> Iterator[Array]:
    """Blocks of arguments by their bits, one of so many."""
    for start in range(0, 1 << 32, BLOCK * step):
        end = min(start + BLOCK * step, 1 << 32)
        yield np.arange(start, end, step, dtype=np.int64).astype(np.uint32).view(np.float32)


def some_float64(count: int) -> Array:
    """Random bits, and ranges in which functions are not trivial."""
    rng, n = np.random.default_rng(0), count // 8
    return np.concatenate([
        np.array(EDGES), rng.integers(0, 1 << 64, n, dtype=np.uint64).view(np.float64),
        *(rng.uniform(-w, w, n) for w in (1.0, 2.0, 10.0, 750.0)), rng.uniform(0.5, 2.0, n),
        rng.normal(size=n) * np.exp(rng.uniform(-30.0, 30.0, n)),
        rng.normal(size=n) * np.exp(rng.uniform(-3.0, 3.0, n)),
    ])  # fmt: skip


def some_pairs(count: int, kind: Any, seed: int = 0) -> tuple[Array, ...]:
    """Random bits, and ranges in which functions are not trivial."""
    rng, n = np.random.default_rng(seed), count // 4
    layout = np.dtype(f"u{np.dtype(kind).itemsize}")
    random = [rng.integers(0, 2**63, n).astype(layout) << 1 for _ in "xy"]
    x = [rng.normal(size=n), np.exp(rng.uniform(-5, 5, n)), rng.uniform(0.9, 1.1, n)]
    y = [rng.normal(size=n), rng.uniform(-30, 30, n), rng.uniform(-3000, 3000, n)]
    found = ([bare.view(kind), *(a.astype(kind) for a in v)] for bare, v in zip(random, (x, y)))
    return tuple(map(np.concatenate, found))


class Worst(NamedTuple):
    """The greatest error, and where."""

    ulps: float
    at: tuple[float, ...]


def worst_of_float32(name: str, quick: bool = False) -> Worst:
    """Of a sample by NumPy; then of all arguments (of two operands, of many pairs) by float64."""
    case = CASES.get(name) or PAIRS[name]
    count = 1 if name in CASES else 2
    *xs, want = operands_of(*[float32] * count, float64)
    got = spell(name, *xs)
    by_numpy = Compiled(ulps_of_float32(got, want), [*xs, want])
    wide = spell(name, *(convert(x, float64) for x in xs))
    by_float64 = Compiled(ulps_of_float32(got, wide), xs)

    def found(off: Array, arrays: tuple[Array, ...]) -> Worst:
        k = int(np.argmax(off))
        return Worst(float(off[k]), tuple(float(a[k]) for a in arrays))

    def sampled(arrays: tuple[Array, ...]) -> Worst:
        with np.errstate(all="ignore"):
            exact = case.reference(*(a.astype(np.float64) for a in arrays))
        return found(by_numpy(*arrays, exact), arrays)

    def dense(arrays: tuple[Array, ...]) -> Worst:
        return found(by_float64(*arrays), arrays)

    def blocks(step: int) -> Iterator[tuple[Array, ...]]:
        if count == 1:
            yield (np.array(EDGES).astype(np.float32),)
            yield from ((block,) for block in every_float32(step))
            return
        for seed in range(1 + 10**8 // step // BLOCK):
            yield some_pairs(BLOCK, np.float32, seed)

    worst = max(map(sampled, blocks(16411 if quick else 401)))
    with ThreadPoolExecutor(2) as pool:
        every = blocks(16411 if quick else 1)
        while many := [b for b, _ in zip(every, range(256))]:
            worst = max(worst, *pool.map(dense, many))
    return worst


def worst_of_float64(name: str, quick: bool = False) -> Worst:
    """Of a sample, by long double or by mpmath."""
    case = CASES.get(name) or PAIRS[name]
    count = 1 if name in CASES else 2
    xs = operands_of(*[float64] * count)
    function = Compiled(spell(name, *xs), xs)
    size = 10**4 if case.exact else 10**7
    size = min(size // 10, 50_000) if quick else size
    arrays = (some_float64(size),) if count == 1 else some_pairs(size // 4, np.float64)
    worst = Worst(-1.0, ())
    for block in zip(*(np.array_split(a, max(1, size // BLOCK)) for a in arrays)):
        got = function(*map(np.ascontiguousarray, block))
        off = ulps(got, _exactly(case, *block))
        k = int(np.argmax(off))
        worst = max(worst, Worst(float(off[k]), tuple(float(a[k]) for a in block)))
    return worst


def _exactly(case: Case, *arrays: Array) -> Array:
    if case.exact is None:
        with np.errstate(all="ignore"):
            return case.reference(*(a.astype(np.longdouble) for a in arrays))
    with mp.workdps(30), np.errstate(invalid="ignore"):
        found = [mp.nstr(case.exact(*map(mp.mpf, map(float, xs))), 25) for xs in zip(*arrays)]
        want = np.array([np.longdouble(v) for v in found])
        return np.where(want == 0, np.copysign(want, case.reference(*arrays)), want)  # -0.0


# ----- the table ----------------------------------------------------------------------------------


def row(name: str, quick: bool) -> str:
    cells = [f"`{name}`"]
    for kind, worst in ((float32, worst_of_float32), (float64, worst_of_float64)):
        found = worst(name, quick)
        xs = operands_of(*[kind] * len(found.at))
        count = Compiled(spell(name, *xs), xs).instructions
        at = ", ".join(f"{x!r}" for x in found.at)
        cells += [f"{found.ulps:.3f}", at, str(count)]
    return f"| {' | '.join(cells)} |"


HEAD = """# Scalar mathematics

The greatest error of each function of `stagekit/kernels/scalars/scalar_math.py` and
`stagekit/kernels/scalars/trigonometry.py`, in units in the last place of the exact value, at which
argument, and how many instructions its loop has for one vector of 64 bytes (loads, stores and the
loop's own included). Written by `make ulp`.

float64: at 10^7 arguments against long double (`erf`, `erfc`: at 10^4 against mpmath; two operands:
at 2 500 000 pairs). float32: at 10^7 arguments against NumPy's float64, and at all 2^32 (two
operands: at 10^8 pairs) against the same function of float64.

| function | float32: ulp | at | instructions | float64: ulp | at | instructions |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    quick = "--quick" in sys.argv[1:]
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    rows = []
    for name in names or [*CASES, *PAIRS]:
        rows.append(row(name, quick))
        print(rows[-1], flush=True)
    if not names and not quick:
        PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
