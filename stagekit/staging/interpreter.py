"""`Staging`: ops make graph nodes, and run at once as well where there are values (concolic).

Tensors from outside are bound to inputs when first read; writes to them wait for the commit.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from stagekit.eager.interpreter import as_array
from stagekit.errors import DataDependentError, LeakedTensorError, StagekitError
from stagekit.evaluation import FAILURES, Array, explain, present, quietly, scalar, spring
from stagekit.narrow import exported
from stagekit.node import Interned, Node, as_types
from stagekit.op import OPS, Interpreter, Op
from stagekit.settings import config
from stagekit.source import Location, here
from stagekit.symbolic import Dim, Expr, Facts, Number, names, strip
from stagekit.tensor import Tensor, Variable
from stagekit.types import DType, TensorType, dtype, require_in_range

Sizes = Callable[[Any, str | None, tuple[int, ...]], tuple[Any, ...]]


class Traced:
    """A value of a trace: its node, its type, and the array it is now, where there is one."""

    __slots__ = ("__weakref__", "array", "dtype", "line", "node", "shape", "trace", "type")

    def __init__(self, trace: Staging, node: Node, type: TensorType, array: Array | None) -> None:
        self.trace, self.node, self.type, self.array = trace, node, type, array
        self.dtype, self.shape = type.dtype.numpy, type.shape
        self.line = trace.line

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.leaked().located(here())

    def leaked(self) -> LeakedTensorError:
        """The error for using this value after, or outside of, its trace."""
        made = f" made at {self.line}" if self.line else ""
        return LeakedTensorError(
            f"a traced tensor ({self.type.stripped()}){made} is used outside of its trace",
            fix="return it from the staged function, or keep it in a Variable",
        )


class Settling(Facts):
    """The facts of a trace; once `settled` its numbers are plain and record nothing more."""

    settled = False

    def require_open(self) -> None:
        if not self.settled:
            super().require_open()

    def decide(self, left: Any, relation: str, right: Any, outcome: bool) -> bool:
        return outcome if self.settled else super().decide(left, relation, right, outcome)

    def fix(self, expr: Any, value: Any) -> Any:
        return value if self.settled else super().fix(expr, value)


class Capture(NamedTuple):
    """A tensor, Variable or array from outside, bound to an input when the trace first read it."""

    cell: Any  # the Tensor itself, or an ndarray
    value: Traced
    line: Location | None


class Left(NamedTuple):
    """A value that left the trace to Python: why, and the user's line."""

    why: str
    line: Location | None


@dataclass(eq=False)
class Constant:
    """An array that NumPy computed during the trace."""

    shape: tuple[int, ...]
    nbytes: int
    line: Location | None


@final
class _Assigned:
    """The derivative of a Variable's value after an assignment, as the op `custom` asks for it.

    None flows into what was assigned: the value counts as one more read of the Variable, `xs[0]`.
    """

    def __repr__(self) -> str:
        return "'assigned'"

    def vjp(self, i: int, ct: Any, index: int, xs: Sequence[Any]) -> Any:
        return ct if i == 0 else None

    def jvp(self, tangents: Sequence[Any], index: int, xs: Sequence[Any]) -> Any:
        return tangents[0]

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> Sequence[Any]:
        return [cts[0] if known is None else known + cts[0] for known in so_far]

    def push(self, tangents: Sequence[Any], xs: Sequence[Any]) -> dict[int, Any]:
        return {0: tangents[0]}


@final
class Staging(Interpreter):
    """The base interpreter of a trace.

    `sizes(name, shape)` says how an outer tensor's sizes are known: ints, or `Dim`s. `outer(array)`
    says whether an array was there before the trace (else NumPy computed it just now).
    """

    traces = True

    def __init__(
        self,
        *,
        concolic: bool,
        control: str,
        facts: Facts,
        sizes: Sizes = lambda cell, name, shape: shape,
        path_of: Callable[[Any], Any] = lambda obj: None,
    ) -> None:
        self.base = self.below = self
        self.concolic, self.control, self.facts = concolic, control, facts
        self.sizes, self.path_of = sizes, path_of
        self.numbers: set[str] = set()  # the names that are number arguments
        self.interned = Interned()
        self.inputs: list[Node] = []
        self.arrays: list[Array | None] = []
        self.captures: list[Capture] = []
        self.constants: list[Constant] = []
        self.written: dict[int, Any] = {}
        self.left: Left | None = None
        self.refused: DataDependentError | None = None  # raised, whether or not Python caught it
        self.closed = False
        self.line: Location | None = None
        self.lines: dict[Node, tuple[Location, ...]] = {}
        self.checks: list[Node] = []
        self._cells: dict[int, tuple[Any, Traced]] = {}
        self._sources: dict[int, Traced] = {}  # what each outer cell held at first
        self._assigned: set[int] = set()  # Variables not read since they were assigned
        self._arrays: dict[int, tuple[Any, Traced]] = {}
        self._names: set[str] = set()
        self._serial = 0
        self.made: list[weakref.ref[Any]] = []

    # ----- inputs

    def bind(self, cell: Any, name: str, shape: tuple[Any, ...], array: Array | None) -> Traced:
        """A new input of the graph for what `cell` holds now."""
        return self._bound(cell, self._unique(name), shape, array)

    def _bound(self, cell: Any, name: str, shape: tuple[Any, ...], array: Array | None) -> Traced:
        type = TensorType(dtype(cell.dtype), shape)
        node = self.interned.input(name, type)
        self.inputs.append(node)
        self.arrays.append(array)
        self.line = here()
        value = Traced(self, node, type, array)
        self._cells[id(cell)] = (cell, value)
        self._sources[id(cell)] = value
        return value

    def input(self, name: str, type: TensorType) -> Tensor:
        """A new input of the graph that is no cell from outside."""
        node = self.interned.input(self._unique(name), type)
        self.inputs.append(node)
        return self._tensor(node, type, None)

    def _unique(self, name: str) -> str:
        base = re.sub(r"\W+", "_", name).strip("_") or "input"
        base = f"v{base}" if base[0].isdigit() else base
        found, k = base, 1
        while found in self._names:
            k += 1
            found = f"{base}_{k}"
        self._names.add(found)
        return found

    def _capture(self, cell: Any, array: Array) -> Traced:
        path = self.path_of(cell)
        name = self._unique("held" if path is None else str(path))
        shape = self.sizes(cell, None if path is None else name, array.shape)
        value = self._bound(cell, name, shape, array if self.concolic else None)
        self.captures.append(Capture(cell, value, self.line))
        return value

    # ----- Interpreter

    def read(self, cell: Any) -> Traced:
        value = cell._value
        if type(value) is Traced:
            if value.trace is not self or self.closed:
                raise value.leaked().located(here())
            return value
        known = self._cells.get(id(cell))
        if known is None:
            return self._capture(cell, value)
        if id(cell) in self._assigned:
            return self._read_assigned(cell, known[1])
        return known[1]

    def _read_assigned(self, cell: Any, value: Traced) -> Traced:
        """A Variable's value after an assignment, through which no derivative flows."""
        self._assigned.discard(id(cell))
        pair = Tensor(value), Tensor(self._sources[id(cell)])
        value = self.apply(OPS["custom"], pair, {"rule": _Assigned(), "index": 0})._value
        self._cells[id(cell)] = (cell, value)
        return value

    def held(self, cell: Any) -> Traced:
        """What a cell holds, to be written into it in the end."""
        known = self._cells.get(id(cell))
        return self.read(cell) if known is None else known[1]

    def write(self, cell: Any, value: Traced) -> None:
        if type(cell._value) is Traced:
            cell._value = self._stopped(value) if type(cell) is Variable else value
            return
        self.read(cell)
        self._cells[id(cell)] = (cell, value)
        self.written[id(cell)] = cell
        if type(cell) is Variable and value.type.dtype.inexact:
            self._assigned.add(id(cell))

    def _stopped(self, value: Traced) -> Traced:
        """A value that goes into a Variable made in the trace: no derivative flows through it."""
        stopped: Traced = self.apply(OPS["stop_gradient"], (Tensor(value),), {})._value
        return stopped

    def shape(self, cell: Any) -> tuple[Any, ...]:
        return self.read(cell).shape

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        operands = [self.read(a) for a in args]
        self.line = here()
        types = [operand.type for operand in operands]
        try:
            inferred = op.infer(*types, **attrs)
        except StagekitError as error:
            raise error.located(self.line) from None
        arrays = self._evaluated(op, operands, types, attrs, len(as_types(inferred)))
        if op.transparent:
            node = operands[0].node
        else:
            node = self.interned.apply(op, tuple(x.node for x in operands), attrs, inferred)
            self._noted(node)
            if op.checks:
                self.checks.append(node)
        if not op.several:
            return self._tensor(node, inferred, arrays[0])
        return tuple([self._out(node, k, *each) for k, each in enumerate(zip(inferred, arrays))])

    def _out(self, node: Node, index: int, type_: TensorType, array: Array | None) -> Tensor:
        """One of several results."""
        out = self.interned.apply(OPS["out"], (node,), {"index": index}, type_)
        self._noted(out)
        return self._tensor(out, type_, array)

    def _evaluated(
        self,
        op: Op,
        operands: Sequence[Traced],
        types: list[TensorType],
        attrs: dict[str, Any],
        count: int,
    ) -> Sequence[Array | None]:
        """The arrays of the `count` results, where this trace has values."""
        if not self.concolic:
            return [None] * count
        arrays = [operand.array for operand in operands]
        now = {key: present(value) for key, value in attrs.items()}
        try:
            out = quietly(op.numpy, *arrays, **now)
        except FAILURES as error:
            if self.left is None:  # Python may catch it: a branch that depends on values
                self.left = Left(f"an error of {op.name}", self.line)
            raise explain(op, types, attrs, error, self.line) from None
        found = [np.asarray(each) for each in (out if op.several else (out,))]
        if config.trap is not None:
            for array in found:
                spring(config.trap, op, array, self.line)
        return found

    def _noted(self, node: Node) -> None:
        line, known = self.line, self.lines.get(node, ())
        if line is not None and line not in known and len(known) < 4:
            self.lines[node] = (*known, line)

    def _tensor(self, node: Node, type_: TensorType, array: Array | None) -> Tensor:
        tensor = Tensor(Traced(self, node, type_, array))
        self.created(tensor)
        return tensor

    def created(self, cell: Any) -> None:
        if type(cell) is Variable:
            cell._value = self._stopped(cell._value)
        self.made.append(weakref.ref(cell))

    def constant(self, value: Any, dtype: DType) -> Tensor:
        self.line = here()
        array = scalar(value, dtype)
        if isinstance(value, Number):
            expr = strip(value)
            if not isinstance(expr, (int, float)):
                self._require_range(value, dtype)
                type_ = TensorType(dtype, ())
                node = self.interned.apply(
                    OPS["number"], (), {"expr": value, "dtype": dtype}, type_
                )
                self._noted(node)
                return self._tensor(node, type_, array if self.concolic else None)
        return self.literal(array)

    def _require_range(self, value: Number, dtype: DType) -> None:
        """That the type holds the number is a fact; sizes always fit the widest type."""
        wide = dtype.itemsize == 8 and not names(value.expr) & self.numbers
        if dtype.kind in ("int", "uint") and not wide:
            require_in_range(value, dtype)

    def literal(self, array: Array) -> Tensor:
        type_ = TensorType(dtype(array.dtype), array.shape)
        node = self.interned.constant(array, type_)
        return self._tensor(node, type_, array if self.concolic else None)

    def lift(self, obj: Any, target: DType | None = None) -> Tensor:
        if isinstance(obj, Tensor):
            return obj
        if isinstance(obj, Number):
            return self.constant(obj, dtype(obj.weak))
        if isinstance(obj, (np.ndarray, np.generic)):
            return self._lift_array(obj)
        return self.literal(as_array(obj, target))

    def _lift_array(self, obj: Any) -> Tensor:
        known = self._arrays.get(id(obj))
        if known is None and self.path_of(obj) is not None:
            known = self._arrays[id(obj)] = (obj, self._capture(obj, as_array(obj)))
        if known is not None:
            value = known[1]
            return self._tensor(value.node, value.type, value.array)
        array = as_array(obj)
        if array.ndim:
            self.constants.append(Constant(array.shape, array.nbytes, here()))
        return self.literal(array)

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def leave(self, cell: Any, why: str) -> Array:
        """The elements, if the trace has them; the call then goes on eagerly."""
        value, line = self.read(cell), here()
        if value.array is None or self.control == "error":
            self.refused = DataDependentError(
                f"{why} needs the value of a traced tensor ({value.type.stripped()})",
                fix="use where(...), or keep the branch out of the staged function",
            ).located(line)
            raise self.refused
        if self.left is None:
            self.left = Left(why, line)
        view: Array = exported(value.array.view())
        view.flags.writeable = False
        return view

    # ----- the end of a trace

    def now(self, cell: Any) -> Array:
        """The array that a cell holds at this point."""
        array = self.held(cell).array
        assert array is not None, "a trace without values has no arrays"
        return array

    def is_as_found(self, cell: Any) -> bool:
        """Whether an outer cell still holds the array that this trace read from it."""
        return self._sources[id(cell)].array is cell._value

    def alive(self) -> list[Any]:
        """The tensors of this trace that something still holds."""
        found = [ref() for ref in self.made]
        return [cell for cell in found if cell is not None and type(cell._value) is Traced]

    def settle(self) -> None:
        """Give the tensors that outlive a broken trace the arrays they are."""
        for cell in self.alive():
            if cell._value.array is not None:
                cell._value = cell._value.array

    def close(self) -> None:
        """No value of this trace may be used from now on."""
        self.closed = True
        self.facts.closed = True


def symbolic_shape(names: Sequence[Any], shape: tuple[int, ...], facts: Facts) -> tuple[Any, ...]:
    """Sizes of an input: a name makes a `Dim` of the size now, an int stays."""
    return tuple(
        Dim(Expr.named(name), size, facts) if isinstance(name, str) else size
        for name, size in zip(names, shape, strict=True)
    )


def is_cell(obj: Any) -> bool:
    """What a trace binds by path: tensors, Variables, NumPy arrays and scalars."""
    return isinstance(obj, (Tensor, np.ndarray, np.generic))


def is_traced(obj: Any) -> bool:
    """What must not outlive a trace unseen: its tensors and numbers."""
    if isinstance(obj, Tensor):
        return type(obj._value) is Traced
    return isinstance(obj, Number)
