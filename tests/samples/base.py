"""Sample operands of ops, sample calls of functions made of ops, and the registries of both.

A file of this folder is a family: `@generator("name")` yields the `Sample`s of an op, `@rows` the
calls of public functions. A `smooth` sample is differentiable in all float operands around its
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
COMPLEX = ["complex64", "complex128"]
REAL = ["bool", *INTEGERS, *FLOATS]
ALL = ["bool", *INTEGERS, *FLOATS, *COMPLEX]  # bfloat16 has a file of tests of its own


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

    def results(self) -> tuple[Tensor, ...]:
        """The results of the call, of which an op may have several."""
        out: Any = self.call()
        return out if OPS[self.op].several else (out,)

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
        raise KeyError(f"op {op_name} has no samples: add it to tests/samples/")
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
    if kind.kind == "complex":
        parts = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.5, -3.7, 7.0])
        pairs = np.stack(np.broadcast_arrays(parts[:, None], parts), axis=-1)
        return np.ascontiguousarray(pairs).view("complex128").astype(name).ravel()
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
    if kind == "complex":
        parts = rng.uniform(low, high, (2, *np.empty(shape, "?").shape))
        return np.asarray(parts[0] + 1j * parts[1]).astype(name)
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
    "softplus", "real", "imag", "conj", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin",
    "acos", "atan", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "isfinite", "isinf",
    "isnan", "signbit", "logical_not", "bitwise_invert",
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
    "lgamma": ((0.3, 3.0),),
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
    main = "float64" if "float64" in kinds else kinds[-1]
    for kind in kinds:
        smooth = differentiable and kind == main
        yield Sample(name, _drawn(name, rng, kind, *[(2, 3)] * arity), {}, smooth, kind)
        yield Sample(name, _crossed(name, kind), note=f"special {kind}")
    for kind in dict.fromkeys([main, kinds[0], "float32" if "float32" in kinds else kinds[-1]]):
        smooth = differentiable and kind == main
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


# What an op without an element rule means, in Python on arrays: (*arrays, **attrs) -> array.
DEFINITIONS: dict[str, Callable[..., np.ndarray]] = {}


def definition(name: str) -> Callable[..., Any]:
    def register(function: Callable[..., np.ndarray]) -> Any:
        DEFINITIONS[name] = function
        return function

    return register


def laid_out(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "contiguous", x
    for layout, lay in LAYOUTS.items():
        yield layout, lay(x)


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
    """Float arrays in float64, complex ones in complex128."""
    if isinstance(obj, np.ndarray) and obj.dtype.kind in "fc":
        return obj.astype("float64" if obj.dtype.kind == "f" else "complex128")
    if isinstance(obj, (list, tuple)):
        return type(obj)(map(widened, obj))
    return obj


def numpys(function: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy function called with stagekit's data types."""

    def call(*args: Any, dtype: Any = None, **keywords: Any) -> Any:
        args = tuple(a.numpy if isinstance(a, DType) else a for a in args)
        return function(*args, **keywords, **({} if dtype is None else {"dtype": dtype.numpy}))

    return call


Rows = Callable[[np.random.Generator], Iterator[tuple[Any, ...]]]
ROWS: list[Rows] = []


def rows(function: Rows) -> Rows:
    """Register calls `(name, args, keywords, referee)` of public functions."""
    ROWS.append(function)
    return function


def composites() -> list[Composite]:
    """Sample calls of every public function that is no primitive."""
    return [Composite(*row) for make in ROWS for row in make(np.random.default_rng(7))]
