"""Kernel code before it is anyone's language: scalar values, folds, and the loops around them.

A `Value` is one scalar of a loop body: an instruction of a machine that LLVM and CUDA C both have.
Equal values are one object, so common subexpressions need no pass. Indices are `Expr`s over the
names of loop variables and sizes; what a load reads is an offset in elements.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stagekit.symbolic import Expr
from stagekit.types import DType, bool_, float16, float32, float64, int32, int64

# What a machine can do to scalars. Comparisons give bool; `ne` is true of NaN, the others false.
# `div` is of floats only: `quotient` and `modulus` are of integers, truncate, and never trap, since
# whoever spells them makes sure of the divisor. `shift_right` is arithmetic where the type is
# signed. `convert` is a C cast that saturates, `bits` reinterprets as a type of the same width.
FLOAT_OPS = (
    "add", "sub", "mul", "div", "neg", "abs", "sqrt", "fma", "floor", "ceil", "trunc", "rint",
    "copysign",
)  # fmt: skip
INTEGER_OPS = (
    "add", "sub", "mul", "neg", "quotient", "modulus", "and", "or", "xor", "shift_left",
    "shift_right",
)  # fmt: skip
BOOL_OPS = ("and", "or", "xor")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
OTHER_OPS = ("select", "convert", "bits")


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """One scalar: an instruction on values, or a leaf.

    The leaves are `constant` (attr: a Python number), `load` (a `Load`), `number` (an `Expr` as a
    scalar), `test` (a `Test` of two `Expr`s), `fold` (a `Fold` of its one argument) and `local`
    (what an earlier stage of the kernel found: attr is its place).
    """

    serial: int
    op: str
    args: tuple[Value, ...]
    type: DType
    attr: Any
    names: frozenset[str]  # the loop variables it depends on, and other names of indices
    body: Body

    def __repr__(self) -> str:
        return f"<value {self.serial} {self.op}: {self.type}>"

    def _with(self, other: Any) -> Value:
        return other if isinstance(other, Value) else self.body.constant(other, self.type)

    def __add__(self, other: Any) -> Value:
        return self.body.make("add", self, self._with(other))

    def __radd__(self, other: Any) -> Value:
        return self.body.make("add", self._with(other), self)

    def __sub__(self, other: Any) -> Value:
        return self.body.make("sub", self, self._with(other))

    def __rsub__(self, other: Any) -> Value:
        return self.body.make("sub", self._with(other), self)

    def __mul__(self, other: Any) -> Value:
        return self.body.make("mul", self, self._with(other))

    def __rmul__(self, other: Any) -> Value:
        return self.body.make("mul", self._with(other), self)

    def __truediv__(self, other: Any) -> Value:
        return self.body.make("div", self, self._with(other))

    def __rtruediv__(self, other: Any) -> Value:
        return self.body.make("div", self._with(other), self)

    def __neg__(self) -> Value:
        return self.body.make("neg", self)

    def __and__(self, other: Any) -> Value:
        return self.body.make("and", self, self._with(other))

    def __or__(self, other: Any) -> Value:
        return self.body.make("or", self, self._with(other))

    __rand__, __ror__ = __and__, __or__

    def __xor__(self, other: Any) -> Value:
        return self.body.make("xor", self, self._with(other))

    def __invert__(self) -> Value:
        return self ^ (True if self.type is bool_ else -1 if self.type.kind == "int" else
                       self.type.highest)  # fmt: skip

    def __lshift__(self, other: Any) -> Value:
        return self.body.make("shift_left", self, self._with(other))

    def __rshift__(self, other: Any) -> Value:
        return self.body.make("shift_right", self, self._with(other))

    def __lt__(self, other: Any) -> Value:
        return self.body.make("lt", self, self._with(other))

    def __le__(self, other: Any) -> Value:
        return self.body.make("le", self, self._with(other))

    def __gt__(self, other: Any) -> Value:
        return self.body.make("gt", self, self._with(other))

    def __ge__(self, other: Any) -> Value:
        return self.body.make("ge", self, self._with(other))

    def __bool__(self) -> bool:
        raise TypeError("a value of a kernel is not known while the kernel is made: use select")


class Load(NamedTuple):
    """An element of a buffer; where `guard` (a bool value) is false, nothing is read."""

    buffer: str
    offset: Expr
    guard: Value | None


class Test(NamedTuple):
    """A comparison of two indices: `lt`, `le`, `eq` or `ne`."""

    relation: str
    left: Expr
    right: Expr


class Fold(NamedTuple):
    """A fold of a value over loops: "add", "mul", "min", "max", "or", "and", "argmin", "argmax"."""

    op: str
    loops: tuple[Loop, ...]


class Loop(NamedTuple):
    """A loop variable that runs from 0 to an extent."""

    name: str
    extent: Expr


class Body:
    """The values of one kernel, each once; and the meaning of the names that stand for values.

    >>> body = Body()
    >>> x = body.load("x", Expr.named("i"), float32)
    >>> (x + 1.0) * 2.0 is (x + 1.0) * 2.0
    True
    """

    def __init__(self) -> None:
        self._values: dict[Any, Value] = {}
        self.dynamic: dict[str, Value] = {}  # names of indices that are values: of a gather
        self.operands: dict[Value, tuple[Value, ...]] = {}  # found once: see `arguments`, `every`
        self.closures: dict[Value, tuple[Value, ...]] = {}

    def clear(self) -> None:
        """Forget all values, so that each goes with the last use of it, not by the collector."""
        for known in (self._values, self.dynamic, self.operands, self.closures):
            known.clear()

    def _made(
        self, op: str, args: tuple[Value, ...], type: DType, attr: Any, names: frozenset[str],
        key: Any = None,
    ) -> Value:  # fmt: skip
        full = (op, tuple(a.serial for a in args), type.name, attr if key is None else key)
        value = self._values.get(full)
        if value is None:
            serial = len(self._values)
            value = self._values[full] = Value(serial, op, args, type, attr, names, self)
        return value

    def make(self, op: str, *args: Value) -> Value:
        """An instruction; comparisons give bool, everything else the type of the last operand."""
        type_ = bool_ if op in COMPARISONS else args[-1].type
        for a in args[1:] if op == "select" else args:
            if a.type is not args[-1].type:
                raise TypeError(f"{op}: types {', '.join(str(a.type) for a in args)}")
        folded = _folded(self, op, args, type_)
        if folded is not None:
            return folded
        return self._made(op, args, type_, None, frozenset().union(*(a.names for a in args)))

    def constant(self, value: Any, type: DType) -> Value:
        """A number of a type; integers wrap."""
        exact = constant_bits(value, type)
        return self._made("constant", (), type, exact, frozenset(), key=_key(exact))

    def load(self, buffer: str, offset: Expr, type: DType, guard: Value | None = None) -> Value:
        """An element of a buffer."""
        names = self.names(offset) | (guard.names if guard is not None else frozenset())
        attr = Load(buffer, offset, guard)
        key = (buffer, offset, None if guard is None else guard.serial)
        return self._made("load", (), type, attr, names, key)

    def number(self, index: Expr, type: DType) -> Value:
        """An index as a scalar."""
        if index.constant is not None:
            return self.constant(index.constant, type)
        return self._made("number", (), type, index, self.names(index))

    def test(self, relation: str, left: Expr, right: Expr) -> Value:
        """A comparison of indices."""
        gap = (left - right).constant
        if gap is not None:
            return self.constant(_RELATIONS[relation](gap), bool_)
        names = self.names(left) | self.names(right)
        return self._made("test", (), bool_, Test(relation, left, right), names)

    def fold(self, op: str, loops: Sequence[Loop], body: Value, type: DType) -> Value:
        """A fold of `body` over loops, whose variables are bound by it."""
        bound = {loop.name for loop in loops}
        extents = [self.names(loop.extent) for loop in loops]
        names = body.names.union(*extents) - bound
        return self._made("fold", (body,), type, Fold(op, tuple(loops)), names)

    def local(self, place: int, value: Value) -> Value:
        """A value that an earlier stage found."""
        return self._made("local", (), value.type, place, value.names)

    def index(self, value: Value) -> Expr:
        """An integer value as an index."""
        if value.op == "number" and value.type is int64:
            return value.attr  # type: ignore[no-any-return]
        if value.op == "constant":
            return Expr.of(int(value.attr))
        name = f"@{value.serial}"
        self.dynamic[name] = value
        return Expr.named(name)

    def names(self, index: Expr) -> frozenset[str]:
        """The names in an index, and in the values that some of them stand for."""
        found = index.names
        for name in found:
            if name in self.dynamic:
                found |= self.dynamic[name].names
        return found


_RELATIONS = {
    "lt": lambda gap: gap < 0,
    "le": lambda gap: gap <= 0,
    "eq": lambda gap: gap == 0,
    "ne": lambda gap: gap != 0,
}


def _key(value: Any) -> Any:
    if isinstance(value, float):
        return "float", value.hex() if value == value else "nan"
    return type(value).__name__, value


def constant_bits(value: Any, type: DType) -> Any:
    """A number rounded to a type, as a Python number.

    >>> constant_bits(0.1, float32), constant_bits(-1, dtype("uint8"))
    (0.10000000149011612, 255)
    """
    if type is bool_:
        return bool(value)
    if type.kind in ("int", "uint"):
        span = 1 << (8 * type.itemsize)
        wrapped = int(value) % span
        return wrapped - span if type.kind == "int" and wrapped >= span // 2 else wrapped
    with np.errstate(all="ignore"):
        return float(type.numpy.type(value)) if math.isfinite(value) else float(value)


def _folded(body: Body, op: str, args: tuple[Value, ...], type: DType) -> Value | None:
    """What needs no instruction: exact identities, and arithmetic of constants in their type."""
    if op == "select":
        condition, then, otherwise = args
        if condition.op == "constant":
            return then if condition.attr else otherwise
        return then if then is otherwise else None
    if type is bool_ and op in ("and", "or"):
        for one, other in (args, args[::-1]):
            if one.op == "constant":
                return other if bool(one.attr) == (op == "and") else one
        return args[0] if args[0] is args[1] else None
    if type.kind in ("int", "uint") and len(args) == 2 and args[1].op == "constant":
        neutral = {"add": 0, "sub": 0, "mul": 1, "or": 0, "xor": 0, "shift_left": 0}
        if op in neutral and args[1].attr == neutral[op]:
            return args[0]
    if op in _EXACT and all(a.op == "constant" for a in args) and type is not float16:
        with np.errstate(all="ignore"):
            numbers = [a.type.numpy.type(a.attr) for a in args]
            return body.constant(_EXACT[op](*numbers).item(), type)
    return None


# Operations that NumPy's scalars do as a machine does: correctly rounded, integers wrap.
_EXACT: dict[str, Any] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": np.divide,
    "neg": operator.neg, "abs": abs, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "rint": np.rint, "copysign": np.copysign, "eq": np.equal,
    "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
}  # fmt: skip


# ----- words for rules of scalar mathematics ------------------------------------------------------


def fma(x: Value, y: Any, z: Any) -> Value:
    """x * y + z, rounded once."""
    return x.body.make("fma", x, x._with(y), x._with(z))


def select(condition: Value, then: Any, otherwise: Any) -> Value:
    """`then` where the condition holds; both are computed. One of them must be a value."""
    known = then if isinstance(then, Value) else otherwise
    return condition.body.make("select", condition, known._with(then), known._with(otherwise))


def equal(x: Value, y: Any) -> Value:
    """x == y: false of NaN."""
    return x.body.make("eq", x, x._with(y))


def unequal(x: Value, y: Any) -> Value:
    """x != y: true of NaN."""
    return x.body.make("ne", x, x._with(y))


def unary(op: str, x: Value) -> Value:
    """`abs`, `sqrt`, `floor`, `ceil`, `trunc` or `rint` (to the nearest even integer)."""
    return x.body.make(op, x)


def copysign(x: Value, y: Value) -> Value:
    """The size of x with the sign of y."""
    return x.body.make("copysign", x, y)


def convert(x: Value, target: DType) -> Value:
    """The number in another type: rounded to nearest even, or truncated and saturated (NaN: 0)."""
    if x.type is target:
        return x
    if x.op == "constant" and math.isfinite(x.attr):
        value = math.trunc(x.attr) if target.kind in ("int", "uint") else x.attr
        if not (x.type.kind == "float" and target.kind in ("int", "uint")) or (
            target.lowest <= value <= target.highest
        ):
            return x.body.constant(value, target)
    return x.body._made("convert", (x,), target, None, x.names)


def bits(x: Value, target: DType) -> Value:
    """The same bits as another type of the same width."""
    return x if x.type is target else x.body._made("bits", (x,), target, None, x.names)


def like(x: Value, value: Any) -> Value:
    """A constant of the type of x."""
    return x.body.constant(value, x.type)


INTEGER_OF = {float32: int32, float64: int64}

# ----- kernels ------------------------------------------------------------------------------------


class Buffer(NamedTuple):
    """A pointer that a kernel is given, to elements of a type."""

    name: str
    type: DType


class Store(NamedTuple):
    """A value written to an element of a buffer."""

    buffer: str
    offset: Expr
    value: Value


class Folded(NamedTuple):
    """A fold that a stage computes, and its body with what earlier stages have kept."""

    fold: Value
    body: Value


class Column(NamedTuple):
    """A fold over the rows of a chunk: `value` joins element `offset` of the chunk's own partial
    results, `width` elements in `buffer`.
    """

    buffer: str
    offset: Expr
    width: Expr
    value: Value
    op: str


@dataclass(frozen=True, eq=False)
class Stage:
    """One loop nest inside each row: folds that it computes, stores, and folds over the rows."""

    loops: tuple[Loop, ...]
    folds: tuple[Folded, ...]
    stores: tuple[Store, ...]
    columns: tuple[Column, ...] = ()

    @property
    def roots(self) -> list[Value]:
        """The values that the stage computes at each place of its loops."""
        folded = [x.body for x in self.folds]
        return [*folded, *(x.value for x in self.stores), *(x.value for x in self.columns)]


class Scratch(NamedTuple):
    """Elements that a row keeps from one stage for the next."""

    name: str
    type: DType
    width: Expr


class Check(NamedTuple):
    """A condition that must hold nowhere; where it does, the plan's error word gets the number."""

    bad: Value
    number: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """Loops over rows, which are independent of each other, around stages one after the other.

    `buffers` are the pointers it is given, and then the values of `sizes`. A chunk is `grain` rows;
    where `flat` is given, there are no rows, and a chunk is a stretch of that one loop.
    """

    name: str
    buffers: tuple[Buffer, ...]
    sizes: tuple[str, ...]
    rows: tuple[Loop, ...]
    stages: tuple[Stage, ...]
    grain: int
    body: Body
    scratch: tuple[Scratch, ...] = ()
    checks: tuple[Check, ...] = ()
    flat: Loop | None = None


def operands(roots: Iterable[Value]) -> list[Value]:
    """The values needed for some, operands first; what only a fold's body needs is left out."""
    found: set[Value] = set()
    order: list[Value] = []
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        value, done = stack.pop()
        if done:
            order.append(value)
        elif value not in found:
            found.add(value)
            stack.append((value, True))
            args = () if value.op == "fold" else arguments(value)
            stack += [(arg, False) for arg in reversed(args)]
    return order


def arguments(value: Value) -> tuple[Value, ...]:
    """The operands of a value, those hidden in its indices included."""
    found = value.body.operands.get(value)
    if found is None:
        found = value.body.operands[value] = (*value.args, *_hidden(value))
    return found


def _hidden(value: Value) -> list[Value]:
    dynamic = value.body.dynamic
    if value.op == "load":
        exprs: tuple[Expr, ...] = (value.attr.offset,)
    elif value.op in ("number", "test"):
        exprs = (value.attr,) if value.op == "number" else value.attr[1:]
    else:
        return []
    hidden = [dynamic[n] for e in exprs for n in sorted(e.names) if n in dynamic] if dynamic else []
    if value.op == "load" and value.attr.guard is not None:
        hidden.append(value.attr.guard)
    return hidden


def unwritten(root: Value, known: Callable[[Value], str | None]) -> list[Value]:
    """What a writer of code has still to write for a value, operands first; `known` gives the name
    of what is written. A fold's body is written with the fold.
    """
    order: list[Value] = []
    seen: set[Value] = set()
    stack: list[tuple[Value, bool]] = [(root, False)]
    while stack:
        value, done = stack.pop()
        if done:
            order.append(value)
        elif value not in seen and known(value) is None:
            seen.add(value)
            stack.append((value, True))
            if value.op != "fold":
                stack += [(a, False) for a in reversed(arguments(value))]
    return order


def every(root: Value) -> tuple[Value, ...]:
    """All values under one, those inside of folds included, operands first."""
    known = root.body.closures.get(root)
    if known is not None:
        return known
    found: set[Value] = set()
    order: list[Value] = []
    stack: list[tuple[Value, bool]] = [(root, False)]
    while stack:
        value, done = stack.pop()
        if done:
            order.append(value)
        elif value not in found:
            found.add(value)
            stack.append((value, True))
            stack += [(a, False) for a in arguments(value)]
    result = root.body.closures[root] = tuple(order)
    return result


def rebuilt(
    root: Value,
    known: dict[Value, Value],
    place: Any = None,
) -> Value:
    """A value with others in the place of those `known`, and `place(expr)` for its indices.

    `known` also remembers what was rebuilt, for the next call.
    """
    stack = [root]
    while stack:
        value = stack[-1]
        if value in known:
            stack.pop()
            continue
        missing = [a for a in arguments(value) if a not in known]
        if missing:
            stack += missing
            continue
        known[value] = _again(value, known, place or _same)
        stack.pop()
    return known[root]


def _same(expr: Expr) -> Expr:
    return expr


def _again(value: Value, known: dict[Value, Value], place: Any) -> Value:
    body, args = value.body, tuple(known[a] for a in value.args)

    def moved(expr: Expr) -> Expr:
        env = {name: Expr.named(name) for name in expr.names}
        for name in expr.names:
            if name in body.dynamic:
                env[name] = body.index(known[body.dynamic[name]])
        return Expr.of(place(Expr.of(expr.evaluate(env))))

    if value.op == "load":
        buffer, offset, guard = value.attr
        return body.load(buffer, moved(offset), value.type, None if guard is None else known[guard])
    if value.op == "number":
        return body.number(moved(value.attr), value.type)
    if value.op == "test":
        return body.test(value.attr.relation, *map(moved, value.attr[1:]))
    if value.op == "fold":
        return body.fold(value.attr.op, value.attr.loops, args[0], value.type)
    if value.op in ("convert", "bits"):
        return (convert if value.op == "convert" else bits)(args[0], value.type)
    return body.make(value.op, *args) if value.args else value
