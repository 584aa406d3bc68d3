"""What an op is and who runs it: `Op`, `Interpreter`, and the one `current` interpreter.

An op says its type (`infer`), its value (`evaluate`, and `element`: what is `out[i, j]`?) and its
derivative (`vjp`, `jvp`). Calling it promotes the operands and hands them to `current`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import Parameter, Signature, signature
from itertools import starmap
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from stagekit.errors import ArgumentError, DTypeError, StagekitWarning, hide_frames
from stagekit.settings import config
from stagekit.source import here, stack_level
from stagekit.symbolic import Number
from stagekit.types import WEAK, DType, bfloat16, dtype, float32, float64


class Cell:
    """What ops take and give: a place for one immutable value. `tensor.Tensor` is the one kind.

    `_value` is an array (eager) or a traced value (while staging); both have `dtype` and `shape`.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value


_put = Cell.__dict__["_value"].__set__


def put(writes: Sequence[tuple[Any, Any]]) -> None:
    """Give each cell its value, all at once: no other thread sees some of them, nor comes between.

    What runs here is C alone, under the GIL; what the cells held is dropped afterwards.
    """
    before = [cell._value for cell, _ in writes]
    deque(starmap(_put, writes), maxlen=0)
    del before


class Interpreter(ABC):
    """One way to run ops. `Eager`, `Staging` are bases; `Tape`, `Dual`, `Batch` stand over them.

    `base` is the bottom of the stack (itself, for a base), `below` the next one down; `traces` says
    whether the base makes a graph; `batch` is the innermost `Batch` of the stack, if there is one.
    """

    base: Interpreter
    below: Interpreter
    traces = False
    batch: Any = None

    @abstractmethod
    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        """The op's result for operands of the right types; a tuple where it has several."""

    @abstractmethod
    def constant(self, value: Any, dtype: DType) -> Any:
        """A Python scalar, `Number` or `Dim` as a 0-d tensor."""

    @abstractmethod
    def lift(self, obj: Any, target: DType | None = None) -> Any:
        """Anything array-like as a tensor; Python numbers in lists go straight to `target`."""

    @abstractmethod
    def literal(self, array: Any) -> Any:
        """An array that never changes, a constant of a graph, as a tensor."""

    @abstractmethod
    def read(self, cell: Any) -> Any:
        """The value a cell holds now, as this interpreter sees it."""

    @abstractmethod
    def write(self, cell: Any, value: Any) -> None:
        """Put a value into a cell."""

    @abstractmethod
    def leave(self, cell: Any, why: str) -> np.ndarray[Any, Any]:
        """The elements as a read-only NumPy array, for the Python operation `why`."""

    def created(self, cell: Any) -> None:
        """Told of each cell that is made to hold a value of this interpreter for long."""

    def differentiates(self, cell: Any) -> bool:
        """Whether a derivative flows through what the cell holds."""
        return False

    def primal(self) -> Interpreter:
        """This stack without the interpreters that differentiate."""
        return self

    def own(self, cell: Any) -> Any:
        """What a cell holds, as a value that no tape follows: one that goes into a Variable."""
        return self.read(self.apply(OPS["alias"], (cell,), {}))

    def serial(self) -> int:
        """A number that tells one barrier from another in a graph."""
        return 0

    @abstractmethod
    def shape(self, cell: Any) -> tuple[Any, ...]:
        """The sizes of a cell's value: ints, or `Dim`s in a polymorphic trace."""


current_variable: ContextVar[Interpreter | None] = ContextVar("current", default=None)
_bottom: list[Interpreter] = []


def install(interpreter: Interpreter) -> None:
    """Make `interpreter` the one that runs where no other was set, in every thread."""
    _bottom[:] = [interpreter]


def current() -> Interpreter:
    """The interpreter that runs ops here and now."""
    return current_variable.get() or _bottom[0]


@contextmanager
def using(interpreter: Interpreter) -> Iterator[None]:
    """Run ops under `interpreter`; the one before comes back at the end."""
    token = current_variable.set(interpreter)
    try:
        yield
    finally:
        current_variable.reset(token)


def switch(interpreter: Interpreter) -> None:
    """Run ops under `interpreter` until the next switch in this thread; see `using`."""
    current_variable.set(interpreter)


class Speller(Protocol):
    """How element rules speak: of scalars, folds and choices, to Python numbers or to kernel code.

    An input is a callable from indices to a scalar. `apply(op, *scalars)` is a scalar op; `reduce`
    folds `body(*ks)` over all `0 <= k < extent` with an associative op; `argreduce` gives the
    first index of the extremum; `select` evaluates only the branch taken; `index` makes an index of
    an integer scalar, wrapped and checked against an axis; `number` makes a scalar of an index.
    """

    def apply(self, op: str, *scalars: Any) -> Any: ...
    def constant(self, value: Any, dtype: DType) -> Any: ...
    def cast(self, scalar: Any, dtype: DType) -> Any: ...
    def select(
        self, condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]
    ) -> Any: ...
    def reduce(
        self, op: str, dtype: DType, extents: Sequence[Any], body: Callable[..., Any]
    ) -> Any: ...
    def argreduce(self, op: str, extent: Any, body: Callable[[Any], Any]) -> Any: ...
    def index(self, scalar: Any, size: Any) -> Any: ...
    def number(self, index: Any, dtype: DType) -> Any: ...
    def scatter(
        self, mode: str, extents: Sequence[Any], old: Any, hit: Callable[..., Any],
        update: Callable[..., Any],
    ) -> Any: ...



class Casts(NamedTuple):
    """Which operand goes to which type, one after the other; bfloat16 is computed in float32."""

    operands: tuple[tuple[int, DType], ...]
    rounds: bool  # the result, if it is float32, to bfloat16


NO_CASTS = ()
DTypeRule = Callable[[str, Sequence[Any]], Sequence[DType | None]]


def keep(op: str, operands: Sequence[Any]) -> Sequence[DType | None]:
    """Take each tensor in its own type; a Python scalar gets the default type of its kind."""
    return [d if isinstance(d, DType) else WEAK[d] for d in operands]


class Op:
    """A primitive: one declaration of type, value and derivative. See the module for each fact.

    infer(*types, **attrs) -> TensorType, raising ShapeError/DTypeError in the user's words
    several   True where it has several results: `infer` gives a tuple of types, `evaluate` one of
              arrays, a call one of tensors; `vjp` takes tuples for ct and out, where None is the
              cotangent of a result that has none, and `jvp` gives a tuple of tangents
    evaluate  name of a NumPy ufunc, or a function (xp, *arrays, **attrs) -> array
    element   (e: Speller, out: TensorType, idx, *inputs, **attrs) -> scalar; inputs are callables
              with `.shape` and `.dtype`; or `library`, the reason there is none
    dtypes    (name, operand types) -> the type each operand is cast to before anything else
    vjp       (i, ct, out, inputs, attrs) -> cotangent of input i, written in ops
    jvp       (tangents, out, inputs, attrs) -> tangent of the output; None marks a zero tangent
    nondifferentiable  the reason there is no derivative
    batch     (size, args, mapped, attrs) -> out for `sk.vmap`: operands marked in `mapped` have one
              more axis of that size in front, and so has the result (or each of several); or the
              reason there is no rule. It is asked only where an operand is mapped
    per_lane  True where `vmap` asks `batch` even if no operand is mapped: a draw is another a lane
    counts    True for a `per_lane` op whose result is then one for all lanes: a counter of draws
    checks    True where it can fail on values: never dropped as unused
    moves     True where results hold nothing but elements of operands, of any type: bfloat16 too,
              in which no other op computes
    transparent  True for an identity that only a tape sees: a graph never holds it
    """

    def __init__(
        self,
        name: str,
        *,
        infer: Callable[..., Any],
        several: bool = False,
        evaluate: str | Callable[..., Any],
        element: Callable[..., Any] | None = None,
        library: str | None = None,
        dtypes: DTypeRule = keep,
        vjp: Callable[..., Any] | None = None,
        jvp: Callable[..., Any] | None = None,
        nondifferentiable: str | None = None,
        batch: Callable[..., Any] | str | None = None,
        per_lane: bool = False,
        counts: bool = False,
        checks: bool = False,
        moves: bool = False,
        transparent: bool = False,
        family: str = "structural",
        version: int = 1,
        doc: str = "",
    ) -> None:
        if (element is None) == (library is None):
            raise TypeError(f"op {name}: give an element rule, or the reason for a library call")
        if (vjp is None) == (nondifferentiable is None):
            raise TypeError(f"op {name}: give a derivative, or the reason there is none")
        self.name, self.family, self.version = name, family, version
        self.infer, self.several, self.evaluate = infer, several, evaluate
        self.element, self.library = element, library
        self.dtypes, self.vjp, self.jvp = dtypes, vjp, jvp
        self.batch, self.per_lane, self.counts = batch, per_lane, counts
        self.nondifferentiable, self.checks = nondifferentiable, checks
        self.moves, self.transparent = moves, transparent
        self.__name__, self.__doc__ = name, doc or f"The op `{name}`."
        self.numpy = self.on(np)
        self.operands = _operands(self.numpy)
        self.__signature__: Signature | None = None
        self.bare = isinstance(self.numpy, np.ufunc)
        self._casts: dict[tuple[Any, ...], Casts | tuple[()]] = {}
        OPS[name] = self

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def on(self, xp: ModuleType) -> Callable[..., Any]:
        """The evaluation on arrays of one module (NumPy, or cupy)."""
        if isinstance(self.evaluate, str):
            function: Callable[..., Any] = getattr(xp, self.evaluate)
            return function
        return partial(self.evaluate, xp)

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        try:
            interpreter = current_variable.get() or _bottom[0]
            key = tuple([a._value.dtype if isinstance(a, Cell) else type(a) for a in args])
            casts = self._casts.get(key)
            if casts is None:
                casts, args = self._resolve(interpreter, key, args)
            if attrs and self.bare:
                raise self._misfit(f"has no argument {next(iter(attrs))!r}")
            if casts:
                args = self._cast(interpreter, args, casts.operands)
                if casts.rounds:
                    return _rounded(interpreter.apply(self, args, attrs))
            return interpreter.apply(self, args, attrs)
        except Exception as error:
            hide_frames(error)
            raise

    def _resolve(
        self, interpreter: Interpreter, key: tuple[Any, ...], args: tuple[Any, ...]
    ) -> tuple[Casts | tuple[()], tuple[Any, ...]]:
        if len(args) != self.operands and self.operands is not None:
            raise self._misfit(f"takes {self.operands} operands, {len(args)} are given")
        if any(not isinstance(a, Cell) and weak_type(a) is None for a in args):
            args = tuple(
                a if isinstance(a, Cell) or weak_type(a) else interpreter.lift(a) for a in args
            )
        operands = [dtype(a._value.dtype) if isinstance(a, Cell) else weak_type(a) for a in args]
        try:
            targets = self.dtypes(self.name, operands)
        except DTypeError as error:
            raise error.located(here()) from None
        casts = self._conversions(targets, operands)
        if all(type(k) is not type or k in WEAK or issubclass(k, Number) for k in key):
            self._casts[key] = casts
        return casts, args

    def _conversions(
        self, targets: Sequence[DType | None], operands: Sequence[Any]
    ) -> Casts | tuple[()]:
        pairs = list(enumerate(zip(targets, operands, strict=True)))
        found = tuple((k, t) for k, (t, d) in pairs if t is not None and t is not d)
        rounds = not self.moves and bfloat16 in targets
        if rounds:
            found += tuple((k, float32) for k, (t, d) in pairs if t is bfloat16)
        return Casts(found, rounds) if found else NO_CASTS

    def _misfit(self, text: str) -> ArgumentError:
        return ArgumentError(f"{self.name} {text}", fix=f"see help(sk.{self.name})").located(here())

    def _cast(
        self, interpreter: Interpreter, args: tuple[Any, ...], casts: Sequence[tuple[int, DType]]
    ) -> tuple[Any, ...]:
        cast = list(args)
        for k, target in casts:
            a = cast[k]
            if isinstance(a, Cell):
                if config.warn_float64 and target is float64:
                    self._warn_float64(a)
                cast[k] = OPS["astype"](a, dtype=target)
            else:
                cast[k] = self._constant(interpreter, a, target)
        return tuple(cast)

    def _warn_float64(self, cell: Cell) -> None:
        if cell._value.dtype.kind == "f":
            warnings.warn(
                f"{self.name}: {dtype(cell._value.dtype)} widens to float64 at {here()}",
                StagekitWarning,
                stacklevel=stack_level(),
            )

    def _constant(self, interpreter: Interpreter, value: Any, target: DType) -> Any:
        try:
            return interpreter.constant(value, target)
        except DTypeError as error:
            raise error.within(self.name) from None


def _rounded(out: Any) -> Any:
    """A result that was computed in float32 for bfloat16 operands."""
    if type(out) is tuple:
        return tuple(map(_rounded, out))
    return OPS["astype"](out, dtype=bfloat16) if dtype(out._value.dtype) is float32 else out


def _operands(function: Callable[..., Any]) -> int | None:
    """How many operands an evaluation takes; None where it takes any number."""
    if isinstance(function, np.ufunc):
        return function.nin
    try:
        kinds = [p.kind for p in signature(function).parameters.values()]
    except ValueError:  # a builtin of an older NumPy, which checks for itself
        return None
    if Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(k in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)


def weak_type(obj: Any) -> type | None:
    """`bool`, `int`, `float` or `complex` for a Python scalar (of just this type) or a trace's
    number."""
    if isinstance(obj, Number):
        return obj.weak
    kind = type(obj)
    return kind if kind in WEAK else None


OPS: dict[str, Op] = {}


class Over(Interpreter):
    """An interpreter over another: all that it does not say itself is said below."""

    def __init__(self, below: Interpreter) -> None:
        self.below = below
        self.base = below.base
        self.batch = below.batch

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return self.below.apply(op, args, attrs)

    def constant(self, value: Any, dtype: DType) -> Any:
        return self.below.constant(value, dtype)

    def lift(self, obj: Any, target: DType | None = None) -> Any:
        return self.below.lift(obj, target)

    def literal(self, array: Any) -> Any:
        return self.below.literal(array)

    def read(self, cell: Any) -> Any:
        return self.below.read(cell)

    def write(self, cell: Any, value: Any) -> None:
        self.below.write(cell, value)

    def leave(self, cell: Any, why: str) -> np.ndarray[Any, Any]:
        return self.below.leave(cell, why)

    def differentiates(self, cell: Any) -> bool:
        return self.below.differentiates(cell)

    def primal(self) -> Interpreter:
        return self.below.primal()

    def own(self, cell: Any) -> Any:
        return self.below.own(cell)

    def shape(self, cell: Any) -> tuple[Any, ...]:
        return self.below.shape(cell)


class Overlay(Over):
    """Reads and writes of some cells go to tensors of its own, and the cells stay as they are."""

    def __init__(
        self, below: Interpreter, cells: Sequence[Any] = (), stand_ins: Sequence[Any] = ()
    ) -> None:
        super().__init__(below)
        self.cells = {id(c): (c, t) for c, t in zip(cells, stand_ins, strict=True)}

    def _seen(self, cell: Any) -> Any:
        pair = self.cells.get(id(cell))
        return cell if pair is None else pair[1]

    def read(self, cell: Any) -> Any:
        return self.below.read(self._seen(cell))

    def write(self, cell: Any, value: Any) -> None:
        self.cells[id(cell)] = (cell, Cell(value))

    def shape(self, cell: Any) -> tuple[Any, ...]:
        return self.below.shape(self._seen(cell))

    def leave(self, cell: Any, why: str) -> np.ndarray[Any, Any]:
        return self.below.leave(self._seen(cell), why)

    def differentiates(self, cell: Any) -> bool:
        return self.below.differentiates(self._seen(cell))

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return self.below.apply(op, tuple([self._seen(a) for a in args]), attrs)
