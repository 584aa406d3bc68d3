"""Scalar ops in machine instructions: each on special values, by an interpreter of instructions in
NumPy, against the reference, within its class of docs/equality.md; no instruction may trap.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest

from stagekit.kernels.ir import Body, Value, like, operands
from stagekit.kernels.reference import BOOL, FLOAT, INTEGER, TEST, Reference, apply, nearest
from stagekit.kernels.scalars.spelling import cast, spell
from stagekit.narrow import narrowed, widened
from stagekit.symbolic import Expr
from stagekit.types import DTYPES, DType, bool_, dtype
from tools import ulp

Array = np.ndarray[Any, Any]

# ----- an interpreter of instructions -------------------------------------------------------------

_INSTRUCTIONS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "abs": np.abs, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
    "rint": np.rint, "copysign": np.copysign, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "select": np.where,
}  # fmt: skip


def ran(root: Value, **loads: Array) -> Array:
    """What a value is, for arrays of the same shape in place of its loads."""
    shape = np.shape(next(iter(loads.values())))
    found: dict[Value, Array] = {}
    with np.errstate(all="ignore"):
        for value in operands([root]):
            args = [found[a] for a in value.args]
            out = _instruction(value, args, loads)
            assert value.type.numpy == out.dtype, value
            found[value] = np.broadcast_to(out, shape)
    return found[root]


def _instruction(value: Value, args: list[Array], loads: dict[str, Array]) -> Array:
    kind = value.type.numpy
    match value.op:
        case "constant":
            return np.asarray(value.attr, kind)
        case "load":
            return loads[value.attr.buffer]
        case "bits":
            assert args[0].dtype.itemsize == kind.itemsize
            return np.ascontiguousarray(args[0]).view(kind)
        case "convert":
            return _converted(args[0], kind)
        case "fma":
            return _fma(*args)
        case "shift_left" | "shift_right":
            assert ((args[1] >= 0) & (args[1] < 8 * kind.itemsize)).all(), "an undefined shift"
            return (np.left_shift if value.op == "shift_left" else np.right_shift)(*args)
        case "quotient" | "modulus":
            x, y = args
            assert (y != 0).all(), "a division by zero traps"
            assert kind.kind == "u" or not ((x == np.iinfo(kind).min) & (y == -1)).any()
            rest = np.fmod(x, y)
            return rest if value.op == "modulus" else (x - rest) // y
        case op:
            assert op not in ("add", "sub", "mul", "neg") or value.type is not bool_
            return _INSTRUCTIONS[op](*args)


def _converted(x: Array, kind: np.dtype[Any]) -> Array:
    if x.dtype.kind != "f" or kind.kind not in "iu":
        return x.astype(kind)
    info = np.iinfo(kind)
    high, low = x >= float(info.max), x <= float(info.min)
    inside = np.where(np.isnan(x) | high | low, 0, x).astype(kind)
    return np.where(high, info.max, np.where(low, info.min, inside)).astype(kind)


def _fma(x: Array, y: Array, z: Array) -> Array:
    """Exact fractions, rounded once; where nothing rounds as the machine does it."""
    rough = x * y + z
    out, kind = rough.copy(), dtype(x.dtype)
    plain = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    for k in np.flatnonzero(plain):
        exact = _fused(float(x.flat[k]), float(y.flat[k]), float(z.flat[k]), kind)
        out.flat[k] = exact or rough.flat[k]
    return out


@cache
def _fused(x: float, y: float, z: float, kind: DType) -> float:
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    return nearest(exact, kind) if exact else 0.0


def loaded(*types: DType) -> list[Value]:
    body = Body()
    return [body.load("xyz"[k], Expr.of(0), t) for k, t in enumerate(types)]


# ----- special values -----------------------------------------------------------------------------


def special(kind: DType) -> Array:
    """Zeros, ties, the ends of the range, what overflows and what traps."""
    if kind is bool_:
        return np.array([False, True])
    if kind.kind == "float":
        info = np.finfo(kind.numpy)
        some = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 7.0, 0.1, 1e-3, 100.7, 1e4, math.pi, math.inf,
                math.nan, float(info.max), float(info.tiny), float(info.smallest_subnormal),
                float(info.tiny) * 0.7, float(info.smallest_subnormal) * 19,
                1 - float(info.epsneg), 1 + float(info.eps)]  # fmt: skip
        with np.errstate(all="ignore"):
            return np.array([s * v for v in some for s in (1, -1)], kind.numpy)
    low, high, width = kind.lowest, kind.highest, 8 * kind.itemsize
    near = [0, 1, 2, 3, 5, 7, 8, 16, width - 1, width, width + 1, 100]
    some = sorted({low, low + 1, high, high - 1, low // 2, high // 2, *near, *(-n for n in near)})
    return np.array([n for n in some if low <= n <= high], kind.numpy)


def crossed(*types: DType) -> list[Array]:
    grid = np.meshgrid(*(special(t) for t in types), indexing="ij")
    return [np.ascontiguousarray(a.ravel()) for a in grid]


def same(got: Array, want: Array, zeros: bool = False) -> Array:
    """Equal to the bit, one NaN as good as another, and zeros alike where that is allowed."""
    if got.dtype.kind != "f":
        return got == want
    alike = got.view(f"u{got.itemsize}") == want.view(f"u{want.itemsize}")
    return alike | (np.isnan(got) & np.isnan(want)) | ((got == want) & zeros)


BINARY = {
    "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "maximum", "minimum",
    "copysign", "nextafter", "equal", "not_equal", "less", "less_equal", "greater",
    "greater_equal", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift",
    "bitwise_right_shift", "logical_and", "logical_or", "logical_xor",
}  # fmt: skip
ROUNDED = {
    "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "sigmoid", "softplus",
    "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh", "acosh", "atanh",
    "atan2", "hypot", "erf", "erfc", "rsqrt", "lgamma", "polygamma",
}  # fmt: skip
REAL = [t for t in DTYPES.values() if t.kind in ("float", "int", "uint") and t.name != "bfloat16"]
EXTRA = {
    "float": {"floor_divide", "nextafter"},
    "int": {"bitwise_left_shift", "bitwise_right_shift"},
    "uint": {"bitwise_left_shift", "bitwise_right_shift"},
    "bool": set(),
}
TABLES = {"float": FLOAT, "int": INTEGER, "uint": INTEGER, "bool": BOOL}
EXACT = [
    (name, kind)
    for kind in [bool_, *REAL]
    for name in sorted({*TABLES[kind.kind], *TEST} | EXTRA[kind.kind])
    if name not in ROUNDED and not (name == "power" and kind.kind == "float")
    and not (name == "signbit" and kind.kind != "float")
]  # fmt: skip


@pytest.mark.parametrize("name, kind", EXACT, ids=lambda v: str(v))
def test_an_op_is_the_reference_to_the_bit(name: str, kind: DType) -> None:
    types = [kind] * (2 if name in BINARY or name == "power" else 1)
    arrays = crossed(*types)
    values = loaded(*types)
    got = ran(spell(name, *values), **dict(zip("xyz", arrays)))
    want = np.array([apply(name, *xs) for xs in zip(*arrays)])
    right = same(got, want, name in ("maximum", "minimum", "nextafter"))
    assert right.all(), [(*(a[~right][:5] for a in arrays), got[~right][:5], want[~right][:5])]


@pytest.mark.parametrize("kind", [bool_, *REAL], ids=str)
def test_machine_code_is_the_reference_to_the_bit(kind: DType, full: bool) -> None:
    pytest.importorskip("llvmlite")
    if not full and kind.name not in ("bool", "int8", "uint32", "int64", "float16", "float32"):
        return
    for name in [name for name, k in EXACT if k is kind]:
        types = [kind] * (2 if name in BINARY or name == "power" else 1)
        arrays, values = crossed(*types), ulp.operands_of(*types)
        got = ulp.Compiled(spell(name, *values), values)(*arrays)
        want = np.array([apply(name, *xs) for xs in zip(*arrays)])
        right = same(got, want, name in ("maximum", "minimum", "nextafter"))
        assert right.all(), (name, [a[~right][:5] for a in arrays], got[~right][:5])


@pytest.mark.parametrize("kind", [t for t in REAL if t.kind != "float"], ids=str)
def test_a_constant_operand_changes_nothing(kind: DType) -> None:
    (x,) = arrays = [special(kind)]
    for name in ("floor_divide", "remainder", "power", "bitwise_left_shift", "bitwise_right_shift"):
        for n in special(kind):
            (value,) = loaded(kind)
            got = ran(spell(name, value, value.body.constant(int(n), kind)), x=arrays[0])
            assert (got == [apply(name, a, n) for a in x]).all(), (name, n)


@pytest.mark.parametrize("target", [bool_, *REAL], ids=str)
@pytest.mark.parametrize("kind", [bool_, *REAL], ids=str)
def test_a_cast_is_the_references(kind: DType, target: DType) -> None:
    x = special(kind)
    if kind.kind == "float" and target.kind in ("int", "uint"):
        with np.errstate(all="ignore"):
            whole = np.trunc(x.astype("f8"))
            x = x[(whole >= target.lowest) & (whole <= float(target.highest) * (1 - 2**-53))]
    if target.name == "float16" and kind.itemsize > 2:  # beside ties of 11 digits
        ties = [2049, 2051, 2**12 + 2, 2**12 + 6, 2**15 + 16, 65519, 65520, 2**17 - 1]
        near = [t + d for t in ties for d in (-1, 0, 1)] + [t * 2**40 + 1 for t in ties]
        near = near if kind.kind == "float" else [n for n in near if n <= kind.highest]
        nudged = np.array(near, kind.numpy)
        x = np.concatenate([x, nudged, np.nextafter(nudged, 0)] if kind.kind == "float" else
                           [x, nudged])  # fmt: skip
    (value,) = loaded(kind)
    got = ran(cast(value, target), x=x)
    with np.errstate(all="ignore"):
        want = np.array([Reference().cast(a, target) for a in x], target.numpy)
    assert same(got, want).all(), (x[~same(got, want)], got, want)


OPERAND = {"logaddexp", "lgamma", "polygamma"}  # docs/equality.md: ulp of the largest operand too
FUNCTIONS = sorted(ROUNDED | {"power"})
FLOATS = [t for t in REAL if t.kind == "float"]


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_near_the_reference(name: str, kind: DType) -> None:
    """Within 2 ulp, and half an ulp of the reference's; within 4 for the class `operand`."""
    types = [kind] * (2 if name in ("power", "atan2", "hypot", "logaddexp") else 1)
    arrays = crossed(*types)
    values = loaded(*types)
    first = [like(values[0], 0)] if name == "polygamma" else []
    got = ran(spell(name, *first, *values), **dict(zip("xyz", arrays)))
    zeros = [np.zeros_like(arrays[0])] * len(first)
    want = np.array([apply(name, *xs) for xs in zip(*zeros, *arrays)])
    with np.errstate(all="ignore"):
        size = np.abs(want)
        if name in OPERAND:
            size = np.maximum.reduce([size, *map(np.abs, arrays)])
        right = np.abs(got - want) <= (4 if name in OPERAND else 2.5) * np.spacing(size)
        if name not in OPERAND:
            right &= (got != 0) | (want != 0) | same(got, want)
    right |= same(got, want)
    assert right.all(), [(*(a[~right][:5] for a in arrays), got[~right][:5], want[~right][:5])]


@pytest.mark.parametrize("name", [*ulp.CASES, *ulp.PAIRS])
def test_machine_code_is_within_2_ulp_of_the_exact_value(name: str) -> None:
    """Of a sample: `make ulp` measures every float32, and writes docs/scalar_math.md."""
    pytest.importorskip("llvmlite")
    for worst in (ulp.worst_of_float32, ulp.worst_of_float64):
        found = worst(name, quick=True)
        assert found.ulps <= 2.0, found


def test_bfloat16_is_float32_rounded() -> None:
    """To nearest even from any type, with its own bits for what looks at bits."""
    kind = dtype("bfloat16")
    for source in [bool_, *REAL]:
        (value,), x = loaded(source), special(source)
        with np.errstate(over="ignore"):
            want = np.array([Reference().cast(a, kind) for a in x], kind.numpy)
        got = ran(cast(value, kind), x=x)
        nan = np.isnan(widened(got)) & np.isnan(widened(want))
        assert ((got.view("u2") == want.view("u2")) | nan).all(), (source, x, got, want)
    x, y = (narrowed(a) for a in crossed(dtype("float32"), dtype("float32")))
    for name in ("add", "divide", "maximum", "exp", "power", "less"):
        arrays = {"x": x} if name == "exp" else {"x": x, "y": y}
        got = ran(spell(name, *loaded(*[kind] * len(arrays))), **arrays)
        wide = spell(name, *loaded(*[dtype("float32")] * len(arrays)))
        found = ran(wide, **{k: widened(v) for k, v in arrays.items()})
        assert (got == (found if found.dtype == bool else narrowed(found))).all()
    (value,) = loaded(kind)
    above = ran(spell("nextafter", value, value.body.load("y", Expr.of(0), kind)), x=x, y=y)
    assert ((widened(above) > widened(x)) == (widened(y) > widened(x))).all()
    assert (ran(spell("signbit", value), x=x) == np.signbit(widened(x))).all()


def test_where_takes_either() -> None:
    for kind in REAL:
        condition, x, y = crossed(bool_, kind, kind)
        got = ran(spell("where", *loaded(bool_, kind, kind)), x=condition, y=x, z=y)
        assert same(got, np.where(condition, x, y)).all()


def test_what_has_no_spelling_is_a_key_error() -> None:
    for kind, name in itertools.product(("complex64", "complex128"), ("add", "abs", "conj")):
        with pytest.raises(KeyError, match=name):
            spell(name, *loaded(dtype(kind)))
    order, x = loaded(dtype("float32"), dtype("float32"))
    for n in (order, like(x, 1.0)):
        with pytest.raises(KeyError, match="order above 0"):
            spell("polygamma", n, x)
    with pytest.raises(KeyError, match="median"):
        spell("median", *loaded(dtype("float32")))


def test_a_long_chain_of_values_is_walked_without_recursion() -> None:
    (x,) = loaded(dtype("float32"))
    value = x
    for _ in range(3000):
        value = value + x
    assert len(operands([value])) == 3001
