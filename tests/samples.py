"""Sample operands for every op of the registry, and for every public function made of ops.

`samples(name)` covers the operand types an op takes, broadcasting, 0-d, zero-size, layouts,
special values and kinks; `composites()` pairs functions with what NumPy or SciPy has for them.
A `smooth` sample is differentiable in all float operands around its values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.special

import stagekit.eager.interpreter  # noqa: F401  (installs the eager interpreter)
import stagekit.ops as ops
from stagekit.errors import DTypeError
from stagekit.nn import functional
from stagekit.op import OPS, Op, weak_type
from stagekit.tensor import Tensor
from stagekit.types import DTYPES, DType, dtype

INF, NAN = math.inf, math.nan
FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
ALL = ["bool", *INTEGERS, *FLOATS]


@dataclass(frozen=True)
class Sample:
    """One call of an op: arrays (of any layout) or Python scalars, and attributes."""

    op: str
    args: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    smooth: bool = False
    note: str = ""

    def tensors(self) -> list[Any]:
        """The operands as tensors that keep the layout; Python scalars stay as they are."""
        return [a if weak_type(a) else Tensor(np.asarray(a)) for a in self.args]

    def call(self) -> Tensor:
        return OPS[self.op](*self.tensors(), **self.attrs)

    def operands(self) -> list[np.ndarray]:
        """The operands as NumPy arrays of the types the op casts them to."""
        kinds = [weak_type(a) or dtype(a.dtype) for a in self.args]
        targets = OPS[self.op].dtypes(self.op, kinds)
        with np.errstate(all="ignore"):
            return [np.asarray(a, t.numpy) for a, t in zip(self.args, targets)]

    def __str__(self) -> str:
        shown = [repr(a) if weak_type(a) else f"{a.dtype}{list(a.shape)}" for a in self.args]
        shown += [f"{key}={value}" for key, value in self.attrs.items()]
        return f"{self.op}({', '.join(shown)}) [{self.note}]"


def samples(op_name: str, rng: np.random.Generator | None = None) -> list[Sample]:
    """All samples of an op; KeyError for an op that nobody wrote samples for."""
    rng = rng or np.random.default_rng([*op_name.encode()])
    if op_name in STRUCTURAL:
        return list(STRUCTURAL[op_name](op_name, rng))
    if op_name not in ARITY:
        raise KeyError(f"op {op_name} has no samples: add it to tests/samples.py")
    return list(_elementwise(op_name, rng))


def smooth_samples(op_name: str, rng: np.random.Generator | None = None) -> list[Sample]:
    """The samples at which derivatives can be measured by finite differences."""
    return [sample for sample in samples(op_name, rng) if sample.smooth]


# ----- values -------------------------------------------------------------------------------------


def special_values(name: str) -> np.ndarray:
    """The values of a type at which rules differ: zeros, extremes, ties, infinities, NaN."""
    kind = DTYPES[name]
    if kind.kind == "bool":
        return np.array([False, True])
    if kind.kind != "float":
        info = np.iinfo(name)
        values = {0, 1, 2, 3, 5, 7, 8 * kind.itemsize - 1, 8 * kind.itemsize, info.max, info.min}
        values |= {info.max - 1, info.max // 2} | (
            {-1, -2, -3, -7} if kind.kind == "int" else set()
        )
        return np.array(sorted(values), name)
    info = np.finfo(name)
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.7, 7.0, 100.0, INF]
    positive += [float(v) for v in (info.max, info.tiny, info.smallest_subnormal, info.eps)]
    return np.array([*positive, *(-v for v in positive), NAN], name)


def random(
    rng: np.random.Generator, name: str, shape: Any, low: float = -2, high: float = 2
) -> Any:
    """Ordinary values of a type; floats from [low, high)."""
    kind = DTYPES[name].kind
    if kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if kind != "float":
        return rng.integers(0 if kind == "uint" else -9, 10, shape).astype(name)
    return np.asarray(rng.uniform(low, high, shape)).astype(name)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "broadcast": lambda x: np.broadcast_to(x[..., :1], x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}

# ----- elementwise --------------------------------------------------------------------------------

_UNARY = [
    "negative", "positive", "abs", "sign", "floor", "ceil", "trunc", "round", "square", "sqrt",
    "reciprocal", "rsqrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sigmoid",
    "softplus", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh",
    "acosh", "atanh", "erf", "erfc", "isfinite", "isinf", "isnan", "signbit", "logical_not",
    "bitwise_invert",
]  # fmt: skip
_BINARY = [
    "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "maximum",
    "minimum", "logaddexp", "atan2", "hypot", "copysign", "nextafter", "equal", "not_equal",
    "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or",
    "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift",
    "bitwise_right_shift",
]  # fmt: skip
ARITY = dict.fromkeys(_UNARY, 1) | dict.fromkeys(_BINARY, 2) | {"where": 3}

# Where an op is smooth (and defined) around every point, if that is not [-2, 2).
DOMAIN: dict[str, tuple[tuple[float, float], ...]] = {
    **dict.fromkeys(["log", "log2", "log10", "sqrt", "rsqrt"], ((0.3, 3.0),)),
    **dict.fromkeys(["abs", "reciprocal"], ((0.4, 2.0),)),
    **dict.fromkeys(["asin", "acos", "atanh"], ((-0.8, 0.8),)),
    **dict.fromkeys(["atan2", "hypot", "copysign"], ((0.3, 2.0), (0.3, 2.0))),
    "log1p": ((-0.6, 2.0),),
    "acosh": ((1.3, 3.0),),
    "tan": ((-1.2, 1.2),),
    "divide": ((-2.0, 2.0), (0.5, 2.0)),
    "remainder": ((2.2, 2.8), (1.05, 1.09)),
    "power": ((0.4, 2.0), (-1.5, 2.0)),
}

# The points at which a derivative is a matter of definition; docs/equality.md says which.
KINKS: dict[str, tuple[tuple[float, ...], ...]] = {
    "abs": ((0.0, -0.0),),
    "maximum": ((1.0, -2.0, 0.0), (1.0, -2.0, -0.0)),
    "minimum": ((1.0, -2.0, 0.0), (1.0, -2.0, -0.0)),
    "hypot": ((0.0, 0.0), (0.0, -0.0)),
    "power": ((0.0, 0.0, 0.0, 0.0, -1.5, -2.0), (0.0, 1.0, 2.0, 3.0, 2.0, 3.0)),
}


def accepts(op: Op, kinds: Sequence[DType | type]) -> bool:
    """Whether an op takes operands of these types."""
    try:
        op.dtypes(op.name, kinds)
    except DTypeError:
        return False
    return True


def accepted_types(op_name: str) -> list[str]:
    """The types of which an op takes all its operands (`where`: both branches)."""
    lead = [DTYPES["bool"]] if op_name == "where" else []
    arity = ARITY[op_name] - len(lead)
    return [t for t in ALL if accepts(OPS[op_name], [*lead, *[DTYPES[t]] * arity])]


def _drawn(name: str, rng: np.random.Generator, kind: str, *shapes: Any) -> tuple[Any, ...]:
    """One operand for each shape, in the op's domain; the condition of `where` comes in front."""
    domain = DOMAIN.get(name, ((-2.0, 2.0),) * 3)
    lead = name == "where"
    drawn = [random(rng, kind, s, *d) for s, d in zip(shapes[lead:], domain)]
    return (random(rng, "bool", shapes[0]), *drawn) if lead else tuple(drawn)


def _elementwise(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    arity, op = ARITY[name], OPS[name]
    kinds = accepted_types(name)
    differentiable = op.vjp is not None
    for kind in kinds:
        smooth = differentiable and kind == "float64"
        yield Sample(name, _drawn(name, rng, kind, *[(2, 3)] * arity), {}, smooth, kind)
        yield Sample(name, _crossed(name, kind), note=f"special {kind}")
    main = "float64" if "float64" in kinds else kinds[-1]
    for kind in dict.fromkeys([main, kinds[0], "float32" if "float32" in kinds else kinds[-1]]):
        smooth = differentiable and kind == "float64"
        for shapes in _shapes(arity):
            args = _drawn(name, rng, kind, *shapes)
            yield Sample(name, args, {}, smooth, f"{kind} shapes {shapes}")
    for layout, lay in LAYOUTS.items():
        args = _drawn(name, rng, main, *[(3, 4)] * arity)
        yield Sample(name, tuple(map(lay, args)), {}, False, layout)
    if name in KINKS:
        yield Sample(name, tuple(np.array(k) for k in KINKS[name]), note="kink")
    if arity == 2:
        yield from _mixed(name, rng)


def _crossed(name: str, kind: str) -> tuple[np.ndarray, ...]:
    """Every special value with every other."""
    values = special_values(kind)
    if name == "where":
        return np.array([[True], [False]]), values, values[::-1].copy()
    if ARITY[name] == 1:
        return (values,)
    return values[:, None], values


def _shapes(arity: int) -> list[tuple[Any, ...]]:
    same = [(s,) * arity for s in ((), (0, 3), (1,), (5,))]
    if arity == 1:
        return same
    broadcast = [((2, 1, 3), (4, 1)), ((3,), ()), ((), (2, 0)), ((1, 3), (2, 1))]
    return same + [(*pair, ())[:arity] for pair in broadcast]


def _mixed(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    """Two operand types, and Python scalars."""
    pairs = [("int8", "float32"), ("float16", "float64"), ("uint8", "int16"), ("bool", "int32")]
    for a, b in [*pairs, *((b, a) for a, b in pairs)]:
        if accepts(OPS[name], [DTYPES[a], DTYPES[b]]):
            args = _drawn(name, rng, a, (3,), (3,))[0], _drawn(name, rng, b, (3,), (3,))[1]
            yield Sample(name, args, note=f"{a} with {b}")
    weak = [("float32", 2), ("float32", 1.5), ("float16", 3), ("int8", 2), ("bool", True)]
    for kind, number in weak:
        if accepts(OPS[name], [DTYPES[kind], type(number)]):
            x, y = _drawn(name, rng, kind, (3,), (3,))
            yield Sample(name, (x, number), note=f"{kind} with {number!r}")
            yield Sample(name, (number, y), note=f"{number!r} with {kind}")


# ----- structural ---------------------------------------------------------------------------------

Generator = Callable[[str, np.random.Generator], Iterator[Sample]]
STRUCTURAL: dict[str, Generator] = {}


def generator(*names: str) -> Callable[[Generator], Generator]:
    def register(function: Generator) -> Generator:
        STRUCTURAL.update(dict.fromkeys(names, function))
        return function

    return register


def _laid_out(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "contiguous", x
    for layout, lay in LAYOUTS.items():
        yield layout, lay(x)


@generator("full")
def _full(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in ALL:
        for shape, value in (((2, 3), 1), ((), 0), ((0, 2), 1)):
            yield Sample(name, (), {"shape": shape, "value": value, "dtype": DTYPES[kind]})
    for value in (-0.0, INF, NAN, 0.1):
        yield Sample(name, (), {"shape": (2,), "value": value, "dtype": DTYPES["float32"]})


@generator("iota")
def _iota(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind, size in itertools.product(ALL, (0, 1, 2, 5)):
        if (kind, size) != ("bool", 5):
            yield Sample(name, (), {"size": size, "dtype": DTYPES[kind]})
    yield Sample(name, (), {"size": 300, "dtype": DTYPES["uint8"]}, note="wraps")


@generator("number")
def _number(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind, value in itertools.product(["int64", "float32", "float64"], (0, 1, 7)):
        yield Sample(name, (), {"expr": value, "dtype": DTYPES[kind]})
    yield Sample(name, (), {"expr": 0.1, "dtype": DTYPES["float32"]})


@generator("astype")
def _astype(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for source, target in itertools.product(ALL, ALL):
        attrs = {"dtype": DTYPES[target]}
        values = special_values(source)
        if DTYPES[source].kind == "float" and DTYPES[target].kind in ("int", "uint"):
            limits = np.iinfo(target)
            values = values[np.isfinite(values)]
            wide = values.astype("float64")
            values = values[(wide > float(limits.min) - 1) & (wide < float(limits.max) * 0.99)]
        yield Sample(name, (values,), attrs, False, f"{source} to {target}")
    for layout, x in _laid_out(random(rng, "float64", (3, 4))):
        yield Sample(name, (x,), {"dtype": DTYPES["float32"]}, False, layout)
    big = np.array([2**53 + 1, 2**62 + 2**38 + 1, -(2**40) - 2**16 - 1, 2**24 + 1, 2**24 + 3])
    yield Sample(name, (big,), {"dtype": DTYPES["float32"]}, False, "rounded once")
    for shape in ((2, 3), (), (0, 2)):
        x = random(rng, "float64", shape)
        yield Sample(name, (x,), {"dtype": DTYPES["float64"]}, True, f"shape {shape}")


@generator("alias", "barrier", "stop_gradient")
def _identity(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    attrs = {"serial": 1} if name == "barrier" else {}
    smooth = OPS[name].vjp is not None
    for kind in ALL:
        yield Sample(name, (special_values(kind),), attrs, False, kind)
    for shape in ((2, 3), (), (0, 2)):
        yield Sample(name, (random(rng, "float64", shape),), attrs, smooth, f"shape {shape}")
    for layout, x in _laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x,), attrs, False, layout)


@generator("custom")
def _custom(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    """The value alone; the rule is what `sk.custom_vjp` and `sk.custom_jvp` make."""
    attrs = {"rule": None, "index": 0}
    for kind in ALL:
        args = (random(rng, kind, (2, 3)), random(rng, "float32", (4,)))
        yield Sample(name, args, attrs, False, kind)


def _movement(name: str, rng: np.random.Generator, *cases: tuple[Any, dict[str, Any]]) -> Any:
    """An op that moves elements: the cases in float64, the first in every type and layout."""
    for shape, attrs in cases:
        yield Sample(name, (random(rng, "float64", shape),), attrs, True, f"shape {shape}")
    shape, attrs = cases[0]
    for kind in ALL:
        yield Sample(name, (random(rng, kind, shape),), attrs, False, kind)
    for layout, x in _laid_out(random(rng, "float32", shape)):
        yield Sample(name, (x,), attrs, False, layout)
    special = np.resize(special_values("float32"), shape)
    yield Sample(name, (special,), attrs, False, "special")


@generator("reshape")
def _reshape(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 4), (2, 6)), ((2, 3), (6,)), ((6,), (1, 2, 3)), ((), (1, 1)), ((1,), ()),
        ((0, 3), (3, 0, 2)), ((2, 3, 4), (4, 6)), ((4,), (4,)),
    ]  # fmt: skip
    yield from _movement(name, rng, *((a, {"shape": b}) for a, b in pairs))


@generator("permute")
def _permute(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 4), (1, 0)),
        ((2, 3, 4), (2, 0, 1)),
        ((2, 3, 4), (0, 1, 2)),
        ((), ()),
        ((4,), (0,)),
    ]
    yield from _movement(name, rng, *((s, {"axes": a}) for s, a in [*pairs, ((0, 3), (1, 0))]))


@generator("broadcast_to")
def _broadcast_to(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 1), (3, 4)), ((3,), (2, 3)), ((), (2, 2)), ((1, 3), (0, 3)), ((2, 1, 3), (4, 2, 5, 3)),
        ((1,), (1,)), ((1, 1), (2, 3)), ((1, 2), (3, 2)), ((0, 3), (2, 0, 3)),
    ]  # fmt: skip
    yield from _movement(name, rng, *((a, {"shape": b}) for a, b in pairs))


@generator("flip")
def _flip(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 4), (0, 1)),
        ((3, 4), (1,)),
        ((2, 3, 4), (0, 2)),
        ((0, 3), (0,)),
        ((4,), ()),
        ((), ()),
    ]
    yield from _movement(name, rng, *((s, {"axes": a}) for s, a in pairs))


@generator("slice")
def _slice(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ((5, 6), (1, 0), (2, 3), (2, 2)),
        ((7,), (2,), (3,), (2,)),
        ((7,), (6,), (1,), (5,)),
        ((4, 3), (0, 3), (4, 0), (1, 1)),
        ((4, 0), (4, 0), (0, 0), (2, 1)),
        ((), (), (), ()),
        ((3,), (0,), (3,), (1,)),
    ]
    yield from _movement(
        name, rng, *((s, {"starts": a, "sizes": n, "strides": d}) for s, a, n, d in cases)
    )


@generator("pad")
def _pad(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ((3, 4), (1, 0), (0, 2), (0, 0)),
        ((3,), (2,), (1,), (2,)),
        ((2, 3), (0, 1), (3, 0), (1, 2)),
        ((0, 2), (1, 0), (1, 0), (0, 0)),
        ((0,), (0,), (0,), (3,)),
        ((1,), (0,), (0,), (3,)),
        ((), (), (), ()),
    ]
    for shape, low, high, interior in cases:
        attrs = {"low": low, "high": high, "interior": interior}
        x = random(rng, "float64", shape)
        yield Sample(name, (x, np.array(1.5)), attrs, True, f"shape {shape}")
    attrs = {"low": (1, 0), "high": (0, 2), "interior": (1, 0)}
    for kind in ALL:
        yield Sample(name, (random(rng, kind, (2, 3)), np.array(1, kind)), attrs, False, kind)
    for layout, x in _laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, np.array(NAN, "float32")), attrs, False, layout)
    yield Sample(name, (random(rng, "float16", (2, 3)), 0), attrs, False, "a Python scalar")


@generator("concat")
def _concat(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ([(2, 3), (1, 3)], 0), ([(2, 3), (2, 1), (2, 2)], 1), ([(3,)], 0), ([(0,), (2,), (0,)], 0),
        ([(2, 0), (2, 0)], 1), ([(2, 2, 2), (2, 2, 2)], 1), ([(0, 3), (0, 3)], 1),
    ]  # fmt: skip
    for shapes, axis in cases:
        args = tuple(random(rng, "float64", s) for s in shapes)
        yield Sample(name, args, {"axis": axis}, True, f"shapes {shapes}")
    for kind in ALL:
        args = (special_values(kind), random(rng, kind, (2,)))
        yield Sample(name, args, {"axis": 0}, False, kind)
    for a, b in (("int8", "float16"), ("bool", "uint8"), ("float32", "float64")):
        args = (random(rng, a, (2, 1)), random(rng, b, (2, 2)))
        yield Sample(name, args, {"axis": 1}, False, f"{a} with {b}")
    for layout, x in _laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, x), {"axis": 1}, False, layout)


_REDUCED: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 4), (0,)), ((3, 4), (1,)), ((3, 4), (0, 1)), ((2, 3, 4), (0, 2)), ((2, 3, 4), (1,)),
    ((5,), (0,)), ((), ()), ((2, 3), ()), ((1, 3), (0,)),
]  # fmt: skip
_EMPTY: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((0, 3), (0,)), ((2, 0), (0, 1))]


def _accepted_by(name: str) -> list[str]:
    return [t for t in ALL if accepts(OPS[name], [DTYPES[t]])]


@generator("sum", "prod", "max", "min", "any", "all")
def _reduction(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    smooth = OPS[name].vjp is not None
    cases = [*_REDUCED, ((0, 3), (1,))]
    cases += _EMPTY if name not in ("max", "min") else []
    for shape, axes in cases:
        x = random(rng, "float64", shape)
        yield Sample(name, (x,), {"axes": axes}, smooth, f"shape {shape}")
    for kind in _accepted_by(name):
        for axes in ((0,), (1,), (0, 1)):
            yield Sample(name, (random(rng, kind, (3, 4)),), {"axes": axes}, False, kind)
        extreme = np.resize(special_values(kind), (7, 5))
        yield Sample(name, (extreme,), {"axes": (0,)}, False, f"special {kind}")
        yield Sample(name, (extreme,), {"axes": (1,)}, False, f"special {kind}")
    for layout, x in _laid_out(random(rng, "float32", (5, 4))):
        for axes in ((0,), (1,), (0, 1)):
            yield Sample(name, (x,), {"axes": axes}, False, layout)
    tall = random(rng, "float32", (150, 3), 0.99, 1.01)
    for layout, x in _laid_out(tall):
        for axes in ((0,), (0, 1)):
            yield Sample(name, (x,), {"axes": axes}, False, f"long {layout}")
    if smooth:
        ties = np.array([[0.0, 0.0, -1.0], [2.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
        yield Sample(name, (ties,), {"axes": (1,)}, name in ("sum", "prod"), "kink")


@generator("argmax", "argmin")
def _arg(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axes in _REDUCED:
        if len(axes) == 1:
            x = random(rng, "float64", shape)
            yield Sample(name, (x,), {"axis": axes[0]}, False, f"shape {shape}")
    for kind in ALL:
        x = np.resize(special_values(kind), (7, 5))
        yield Sample(name, (x,), {"axis": 0}, False, f"special {kind}")
        yield Sample(name, (x,), {"axis": 1}, False, f"special {kind}")
    yield Sample(name, (np.zeros((0, 3)),), {"axis": 1}, False, "zero-size")
    for layout, x in _laid_out(random(rng, "int8", (3, 4))):
        yield Sample(name, (x,), {"axis": 1}, False, layout)


@generator("matmul")
def _matmul(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((2, 2, 3), (3, 2)), ((2, 1, 2, 3), (4, 3, 2)),
        ((2, 0), (0, 3)), ((0, 3), (3, 2)), ((2, 3), (5, 3, 2)), ((3, 2, 2), (3, 2, 2)),
        ((0, 2, 3), (3, 2)),
    ]  # fmt: skip
    for shapes in pairs:
        args = tuple(random(rng, "float64", s) for s in shapes)
        yield Sample(name, args, {}, True, f"shapes {shapes}")
    for kind in _accepted_by(name):
        args = (random(rng, kind, (3, 20)), random(rng, kind, (20, 2)))
        yield Sample(name, args, {}, False, kind)
    for kind in FLOATS:
        x = np.array([[1, INF], [0, NAN], [-0.0, -INF]], kind)
        y = np.array([[INF, 1, 0], [1, 2, -0.0]], kind)
        yield Sample(name, (x, y), {}, False, f"special {kind}")
    for (layout, x), (_, y) in zip(
        _laid_out(random(rng, "float32", (3, 4))), _laid_out(random(rng, "float32", (4, 2)))
    ):
        yield Sample(name, (x, y), {}, False, layout)
    for a, b in (("int8", "float16"), ("float32", "float64")):
        args = (random(rng, a, (2, 3)), random(rng, b, (3, 2)))
        yield Sample(name, args, {}, False, f"{a} with {b}")


# (shape, indices, axes): repeated, negative, 0-d, several axes, separated axes, none at all
_INDEXED: list[tuple[tuple[int, ...], tuple[Any, ...], tuple[int, ...]]] = [
    ((5,), ([0, 2, 2, -1],), (0,)),
    ((4, 3), ([3, 0, -4],), (0,)),
    ((4, 3), ([[0, 2], [1, 1]],), (1,)),
    ((4, 3), ([0, 3, 3], [2, 0, 0]), (0, 1)),
    ((2, 3, 4), ([0, 1, 1], [3, -1, 0]), (0, 2)),
    ((2, 3, 4), ([2, 0, 2], [1, 1, 1]), (1, 2)),
    ((4, 3), (2,), (0,)),
    ((4, 3), (1, -1), (0, 1)),
    ((4, 3), ([],), (0,)),
    ((0, 3), ([],), (0,)),
    ((0, 3), ([1],), (1,)),
]


def _index_arrays(indices: Sequence[Any], kind: str = "int64") -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(i, kind) for i in indices)


@generator("gather")
def _gather(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, indices, axes in _INDEXED:
        args = (random(rng, "float64", shape), *_index_arrays(indices))
        yield Sample(name, args, {"axes": axes}, True, f"shape {shape}")
    for kind in ALL:
        args = (random(rng, kind, (4, 3)), np.array([3, 0, 1]))
        yield Sample(name, args, {"axes": (0,)}, False, kind)
    for kind in INTEGERS:
        args = (random(rng, "float32", (4, 3)), np.array([3, 0, 1], kind))
        yield Sample(name, args, {"axes": (0,)}, False, f"{kind} indices")
    for layout, x in _laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, LAYOUTS["strided"](np.array([0, 2]))), {"axes": (1,)}, False, layout)


@generator("scatter")
def _scatter(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for mode in ("set", "add", "multiply", "min", "max"):
        for shape, indices, axes in _INDEXED:
            x = random(rng, "float64", shape)
            index = _index_arrays(indices)
            written = x[
                tuple(dict(zip(axes, index)).get(k, slice(None)) for k in range(len(shape)))
            ]
            args = (x, random(rng, "float64", written.shape), *index)
            yield Sample(name, args, {"axes": axes, "mode": mode}, True, f"{mode} shape {shape}")
        for kind in ALL:
            args = (random(rng, kind, (5,)), random(rng, kind, (4,)), np.array([1, 1, -1, 3]))
            yield Sample(name, args, {"axes": (0,), "mode": mode}, False, f"{mode} {kind}")
        ties = (np.array([1.0, 0.0, 2.0]), np.array([1.0, 0.0, 0.0, 1.0]), np.array([0, 1, 1, 0]))
        yield Sample(name, ties, {"axes": (0,), "mode": mode}, False, f"kink {mode}")
        for layout, x in _laid_out(random(rng, "float32", (3, 4))):
            args = (x, random(rng, "float32", (3, 2)), np.array([1, 1]))
            yield Sample(name, args, {"axes": (1,), "mode": mode}, False, f"{mode} {layout}")


# ----- public functions made of ops ---------------------------------------------------------------


@dataclass(frozen=True)
class Composite:
    """One call of a public function, and the NumPy or SciPy function that says what it should be.

    NumPy arrays among the arguments (also in lists) become tensors for stagekit.
    """

    name: str
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    referee: Callable[..., Any]
    note: str = ""

    def call(self) -> Any:
        function = getattr(ops, self.name, None) or getattr(functional, self.name)
        return function(*map(as_tensor, self.args), **self.keywords)

    def expected(self) -> Any:
        """The referee's answer for float64 operands."""
        return self.referee(*map(widened, self.args), **self.keywords)

    def __str__(self) -> str:
        return f"{self.name}{self.args}{self.keywords or ''}"


def as_tensor(obj: Any) -> Any:
    """NumPy arrays as tensors, also inside lists and tuples."""
    if isinstance(obj, np.ndarray):
        return Tensor(obj)
    if isinstance(obj, (list, tuple)):
        return type(obj)(map(as_tensor, obj))
    return obj


def widened(obj: Any) -> Any:
    """Float arrays in float64."""
    if isinstance(obj, np.ndarray) and obj.dtype.kind == "f":
        return obj.astype("float64")
    if isinstance(obj, (list, tuple)):
        return type(obj)(map(widened, obj))
    return obj


def _np(function: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy function called with stagekit's data types."""

    def call(*args: Any, dtype: Any = None, **keywords: Any) -> Any:
        args = tuple(a.numpy if isinstance(a, DType) else a for a in args)
        return function(*args, **keywords, **({} if dtype is None else {"dtype": dtype.numpy}))

    return call


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy.special.softmax(x, axis=axis)


def _log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy.special.log_softmax(x, axis=axis)


def _logsumexp(x: np.ndarray, **keywords: Any) -> Any:
    return np.reshape(scipy.special.logsumexp(x, **keywords), np.max(x, **keywords).shape)


def _cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Any:
    """By the definition in the manual of torch, one label after the other."""
    axis = 1 if logits.ndim > 1 else 0
    logp = np.moveaxis(scipy.special.log_softmax(logits, axis=axis), axis, -1)
    classes = logp.shape[-1]
    if labels.dtype.kind == "f":
        target = np.moveaxis(labels, axis, -1)
        weight = np.ones(target.shape[:-1])
        count: Any = weight.size
    else:
        kept = labels != ignore_index if ignore_index is not None else np.ones(labels.shape, bool)
        target = np.eye(classes)[np.where(kept, labels, 0)]
        weight = kept.astype(float)
        count = weight.sum()
    target = target * (1 - label_smoothing) + label_smoothing / classes
    losses = -np.where(target == 0, 0.0, target * logp).sum(-1) * weight
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / count}[reduction]


def _one_hot(indices: np.ndarray, classes: int, **keywords: Any) -> Any:
    hit = np.asarray(indices)[..., None] == np.arange(classes)
    return hit.astype(keywords["dtype"].numpy if keywords else "float32")


def _triangle(n: int) -> np.ndarray:
    return np.arange(n * n, dtype="float32").reshape(n, n)


def composites() -> list[Composite]:
    """Sample calls of every public function that is no primitive."""
    return [Composite(*row) for row in _rows()]  # type: ignore[arg-type]


def _rows() -> Iterator[tuple[Any, ...]]:
    rng = np.random.default_rng(7)
    x = random(rng, "float32", (2, 3, 4))
    m, v = random(rng, "float32", (3, 4)), random(rng, "float32", (5,))
    k, b = random(rng, "int32", (3, 4)), random(rng, "bool", (3, 4))
    empty = np.zeros((0, 3), "float32")
    yield from _creation_rows()
    for op, referee in (
        ("sum", np.sum), ("prod", np.prod), ("mean", np.mean), ("max", np.max), ("min", np.min),
        ("any", np.any), ("all", np.all), ("count_nonzero", np.count_nonzero),
        ("var", np.var), ("std", np.std), ("logsumexp", _logsumexp),
    ):  # fmt: skip
        for keywords in ({}, {"axis": 1}, {"axis": (0, 2)}, {"axis": -1, "keepdims": True}):
            yield op, (x,), keywords, referee
        yield op, (k,), {"axis": 0}, referee
        yield op, (v[2],), {}, referee
        yield op, (np.asarray(v[2]),), {"keepdims": True}, referee
    yield "sum", (b,), {"axis": 0}, np.sum
    yield "sum", (k.astype("int8"),), {}, np.sum
    yield "sum", (k.astype("uint8"),), {}, np.sum
    yield "sum", (m,), {"dtype": dtype("float64")}, _np(np.sum)
    yield "sum", (empty,), {"axis": 0}, np.sum
    yield "prod", (empty,), {}, np.prod
    for correction in (1, 0.5):
        yield "var", (m,), {"axis": 0, "correction": correction}, np.var
        yield "std", (m,), {"correction": correction}, np.std
    for op, referee in (("argmax", np.argmax), ("argmin", np.argmin)):
        for keywords in ({}, {"axis": 1}, {"axis": 0, "keepdims": True}, {"keepdims": True}):
            yield op, (m,), keywords, referee
    yield "logsumexp", (m * 1000,), {"axis": 0}, _logsumexp
    yield "logsumexp", (np.full((2, 3), -INF, "float32"),), {"axis": 1}, _logsumexp
    yield "logsumexp", (np.array([INF, 0], "float32"),), {}, _logsumexp
    yield from _movement_rows(x, m, v, k)
    yield from _product_rows(rng)
    yield from _indexing_rows(x, m, v)
    yield from _functional_rows(rng)


def _creation_rows() -> Iterator[tuple[Any, ...]]:
    for n in ((5,), (1, 7), (1, 8, 2), (5, 0, -2), (0, 5, -1), (2.0, 3.0, 0.25), (0,), (3, -3)):
        yield "arange", n, {}, np.arange
    yield "arange", (4,), {"dtype": dtype("float32")}, _np(np.arange)
    for row in ((0, 1, 5), (2, -2, 4), (0.5, 0.5, 3), (0, 1, 1), (0, 1, 0)):
        yield "linspace", row, {}, np.linspace
    yield "linspace", (0, 1, 4), {"endpoint": False}, np.linspace
    yield "linspace", (-3, 4, 6), {"dtype": dtype("int32")}, _np(np.linspace)
    for row, keywords in (((3,), {}), ((2, 4), {"k": 1}), ((3, 2), {"k": -1}), ((2, 2), {"k": 5})):
        yield "eye", row, keywords, np.eye
    like = np.ones((2, 3), "float32")
    for op, referee in (("tril", np.tril), ("triu", np.triu)):
        for k in (-1, 0, 2):
            yield op, (_triangle(4),), {"k": k}, referee
        yield op, (np.arange(24, dtype="int8").reshape(2, 3, 4),), {}, referee
    for op, referee in (("zeros", np.zeros), ("ones", np.ones)):
        yield op, ((2, 0),), {}, referee
        yield op, (3,), {"dtype": dtype("int8")}, _np(referee)
        yield f"{op}_like", (like,), {}, referee_like(referee)
    yield "full", ((2, 3), 7), {}, np.full
    yield "full", ((2,), 2.5), {"dtype": dtype("float64")}, _np(np.full)
    yield "full", ((2,), np.asarray(2.5)), {}, np.full
    yield "full_like", (like, 3), {}, np.full_like
    yield "empty", ((2, 3),), {}, np.zeros
    yield "empty_like", (like,), {}, np.zeros_like
    yield "asarray", ([[1, 2], [3, 4]],), {}, np.asarray
    yield "astype", (like, dtype("int8")), {}, _np(np.ndarray.astype)
    columns = (np.arange(3), np.arange(2), np.arange(4))
    yield "meshgrid", columns, {}, np.meshgrid
    yield "meshgrid", columns, {"indexing": "ij"}, np.meshgrid
    yield "meshgrid", columns[:1], {}, np.meshgrid


def referee_like(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: make(x.shape, x.dtype)


def _movement_rows(x: Any, m: Any, v: Any, k: Any) -> Iterator[tuple[Any, ...]]:
    yield "reshape", (x, (6, -1)), {}, np.reshape
    yield "reshape", (v, (5, 1)), {}, np.reshape
    yield "expand_dims", (x,), {"axis": -1}, np.expand_dims
    yield "expand_dims", (m,), {"axis": (0, 2)}, np.expand_dims
    yield "squeeze", (x[:1, :, :1],), {}, np.squeeze
    yield "squeeze", (x[:1, :, :1],), {"axis": -1}, np.squeeze
    yield "permute_dims", (x, (2, 0, 1)), {}, np.transpose
    yield "transpose", (x,), {}, np.transpose
    yield "matrix_transpose", (x,), {}, np.matrix_transpose
    yield "swapaxes", (x, 0, -1), {}, np.swapaxes
    yield "moveaxis", (x, 0, -1), {}, np.moveaxis
    yield "moveaxis", (x, (0, 1), (2, 0)), {}, np.moveaxis
    yield "broadcast_to", (v, (2, 5)), {}, np.broadcast_to
    yield "broadcast_arrays", (v, m[0, 0], np.ones((3, 1), "float32")), {}, np.broadcast_arrays
    for keywords in ({}, {"axis": 1}, {"axis": (0, -1)}):
        yield "flip", (x,), keywords, np.flip
    for shift, axis in ((1, None), (-7, None), (2, 1), (-1, -1), ((1, 2), (0, 2)), (5, 0)):
        yield "roll", (x, shift), {"axis": axis}, np.roll
    yield "roll", (np.zeros((0, 3), "float32"), 2), {"axis": 0}, np.roll
    yield "concat", ([m, m + 1],), {}, np.concatenate
    yield "concat", ([m, k],), {"axis": 1}, np.concatenate
    yield "concat", ([m, v],), {"axis": None}, np.concatenate
    for axis in (0, 1, -1):
        yield "stack", ([m, m + 1, m],), {"axis": axis}, np.stack
        yield "unstack", (x,), {"axis": axis}, np.unstack
    for cuts, axis in ((2, -1), (3, 1), ([1, 3], 2), ([0, 5], 2), ([3, 1], 2)):
        yield "split", (x, cuts), {"axis": axis}, np.split
    for times in (2, (2, 1), (1, 3, 2), (2, 1, 1, 3), 0):
        yield "tile", (m, times), {}, np.tile
    for times, axis in ((2, None), (3, 1), (0, 0), ([1, 0, 2], 0), (2, -1)):
        yield "repeat", (m, times), {"axis": axis}, np.repeat
    for width in (1, (1, 2), ((0, 1), (2, 0)), ((1, 1),)):
        yield "pad", (m, width), {}, np.pad
        for mode in ("edge", "reflect", "symmetric", "wrap"):
            yield "pad", (m, width, mode), {}, np.pad
    for mode in ("edge", "reflect", "symmetric", "wrap"):
        yield "pad", (m, ((7, 9), (0, 11)), mode), {}, np.pad
    yield "pad", (m, 1), {"constant_values": 2.5}, np.pad


def _product_rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    shapes = [
        ((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((4, 2, 3), (3, 2)),
        ((4, 1, 2, 3), (5, 3, 2)), ((2, 3), (4, 3, 2)), ((3,), (4, 3, 2)), ((4, 2, 3), (3,)),
        ((0,), (0,)), ((2, 0), (0,)),
    ]  # fmt: skip
    for a, b in shapes:
        yield "matmul", (random(rng, "float32", a), random(rng, "float32", b)), {}, np.matmul
    pair = (random(rng, "int8", (2, 3)), random(rng, "int32", (3, 2)))
    yield "matmul", pair, {}, np.matmul
    a, b = random(rng, "float32", (4, 3)), random(rng, "float32", (2, 1, 3))
    yield "vecdot", (a, b), {}, np.vecdot
    yield "vecdot", (a, a + 1), {"axis": 0}, np.vecdot
    yield "vecdot", (pair[0], pair[0] * 9), {}, np.vecdot
    x = random(rng, "float32", (3, 4))
    for bounds in ((-1, 1), (None, 0.5), (0, None), (None, None), (x - 1, 0.0)):
        yield "clip", (x, *bounds), {}, _clip


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    return x if low is None and high is None else np.clip(x, low, high)


def _indexing_rows(x: Any, m: Any, v: Any) -> Iterator[tuple[Any, ...]]:
    yield "take", (v, np.array([3, 0, 0, -1])), {}, np.take
    yield "take", (x, np.array([[1, 0], [2, 2]])), {"axis": 1}, np.take
    yield "take", (x, 1), {"axis": -1}, np.take
    yield "take_along_axis", (m, np.array([[0, 1], [3, 3], [2, -1]])), {"axis": 1}, _taken
    yield "take_along_axis", (m, np.array([[0, 1, 2, 2]])), {"axis": 0}, _taken
    yield "nonzero", (np.array([[0, 3], [4, 0]]),), {}, np.nonzero
    yield "getitem", (x, (0, slice(None, None, -1))), {}, lambda a, key: a[key]


def _taken(x: Any, indices: Any, axis: int) -> Any:
    """`np.take_along_axis` with the axes of `indices` broadcast."""
    shape = [n if k != axis % x.ndim else indices.shape[k] for k, n in enumerate(x.shape)]
    return np.take_along_axis(x, np.broadcast_to(indices, shape), axis)


def _functional_rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x = random(rng, "float32", (3, 4), -5, 5)
    yield "relu", (special_values("float32"),), {}, lambda a: np.maximum(a, 0)
    yield "relu", (random(rng, "int8", (4,)),), {}, lambda a: np.maximum(a, 0)
    for op, referee in (("softmax", _softmax), ("log_softmax", _log_softmax)):
        yield op, (x,), {}, referee
        yield op, (x * 1000,), {"axis": 0}, referee
        yield op, (np.array([-INF, 0, 1], "float32"),), {}, referee
    yield "one_hot", (np.array([[0, 2], [3, 1]]), 4), {}, _one_hot
    yield "one_hot", (np.array([5, -1]), 4), {"dtype": dtype("int8")}, _one_hot
    labels = np.array([1, 3, 0])
    for keywords in (
        {}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1},
        {"ignore_index": 3}, {"ignore_index": 3, "reduction": "none", "label_smoothing": 0.2},
        {"ignore_index": 3, "label_smoothing": 0.2},
    ):  # fmt: skip
        yield "cross_entropy", (x, labels), keywords, _cross_entropy
    yield "cross_entropy", (x[0], np.array(2)), {}, _cross_entropy
    volume = random(rng, "float32", (2, 3, 4))
    yield "cross_entropy", (volume, np.array([[0, 1, 2, 0]] * 2)), {}, _cross_entropy
    soft = np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 1], [0.25] * 4], "float32")
    yield "cross_entropy", (x, soft), {}, _cross_entropy
    yield "cross_entropy", (x, soft), {"label_smoothing": 0.1}, _cross_entropy
    dying = np.array([[0, -INF], [-INF, 0]], "float32")
    yield "cross_entropy", (dying, np.eye(2, dtype="float32")), {}, _cross_entropy
