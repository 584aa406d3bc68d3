"""One trace of one call: run the Python function under `Staging` and `Watch`, pack what came out.

The result is an `Entry` that later calls are matched against, or the reason why there is none.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stagekit import tree
from stagekit.eager.interpreter import as_array
from stagekit.graph import Graph
from stagekit.node import Node
from stagekit.op import OPS, current, using
from stagekit.random import ROOTS, holding, is_state
from stagekit.source import Location, is_framework
from stagekit.staging.concrete import ConcreteFunction, symbol
from stagekit.staging.interpreter import (
    Capture,
    Constant,
    Left,
    Settling,
    Staging,
    Traced,
    is_cell,
    is_traced,
    symbolic_shape,
)
from stagekit.staging.python.paths import Guard, Path, compile_guards
from stagekit.staging.python.watch import Effect, Watch
from stagekit.staging.signature import (
    Binding,
    Call,
    Name,
    Pattern,
    Shown,
    bind_shape,
)
from stagekit.staging.transaction import Copies, commit
from stagekit.staging.verify import compare
from stagekit.symbolic import Facts, Number, evaluate, strip
from stagekit.tensor import Tensor, Variable
from stagekit.types import DType

Arguments = Mapping[str, Any]

# ----- what a trace leaves ------------------------------------------------------------------------


class Bound(NamedTuple):
    """A captured tensor: read again by `path` at each call, or held by identity."""

    path: Path | None
    held: Any
    kind: type
    dtype: Any
    shape: tuple[int | str, ...]
    name: str
    line: Location | None

    def now(self, arguments: Arguments) -> Any:
        """The tensor that stands there now as a cell, None where it no longer fits."""
        obj = self.held
        if self.path is not None:
            try:
                obj = self.path.read(arguments)
            except (LookupError, AttributeError, ValueError):
                return None
        if self.kind is np.ndarray:
            return Tensor(as_array(obj)) if isinstance(obj, (np.ndarray, np.generic)) else None
        return obj if type(obj) is self.kind else None


class Output(NamedTuple):
    """Where a leaf of the result comes from: "node", "cell", "number", "path" or "constant"."""

    kind: str
    value: Any


@dataclass(eq=False)
class Entry:
    """A trace and the calls it is right for; `eager` names why such calls run eagerly instead."""

    pattern: Pattern
    guards: tuple[Guard, ...]
    captures: tuple[Bound, ...]
    facts: Facts
    shown: Shown
    cause: Any
    ms: float
    effects: tuple[Effect, ...]
    constants: list[Constant]
    eager: Left | None = None
    concrete: ConcreteFunction | None = None
    take: tuple[int, ...] = ()  # the cells that are the graph's inputs, each once
    spec: tree.Spec | None = None
    outputs: tuple[Output, ...] = ()
    writes: tuple[int, ...] = ()
    draws: tuple[int, ...] = ()  # the writes that are states of generators
    sizes: Any = None  # of the last call that had no direct way yet,
    repeats: int = 0  # how many such calls in a row had these,
    ways: int = 0  # and how many direct ways were made
    stamp: Any = field(default_factory=lambda: np.zeros(1, np.int64))  # the last hit; see `Tally`
    check: Callable[[Arguments], int] = field(init=False)
    single: int | None = field(init=False)  # the one output that is the whole result

    def __post_init__(self) -> None:
        self.check = compile_guards(self.guards) if self.guards else _always
        whole = self.spec is not None and self.spec.is_leaf() and self.outputs[0].kind == "node"
        self.single = self.outputs[0].value if whole else None

    # ----- matching

    def match(self, call: Call) -> tuple[list[Any], dict[str, Any]] | None:
        """The cells to run on and the values of the names, None where this trace is not right."""
        env = self.pattern.bind(call.shapes, call.numbers)
        if env is None or (self.check is not _always and self.check(call.arguments) != -1):
            return None
        cells = call.cells
        if self.captures:
            cells = [*cells]
            for bound in self.captures:
                cell = bound.now(call.arguments)
                if cell is None:
                    return None
                value = cell._value
                if value.dtype != bound.dtype or not bind_shape(bound.shape, value.shape, env):
                    return None
                cells.append(cell)
            if len(set(map(id, cells))) != len(self.take) and self.concrete is not None:
                return None
        if self.facts.known and not self.facts.hold(env):
            return None
        return cells, env

    # ----- running

    def run(self, cells: list[Any], env: dict[str, Any], arguments: Arguments) -> Any:
        """The result of a call: run the graph, commit its writes, rebuild the structure."""
        if not self.draws:
            return self._run(cells, env, arguments)
        with holding(cells[k] for k in self.draws):
            return self._run(cells, env, arguments)

    def _run(self, cells: list[Any], env: dict[str, Any], arguments: Arguments) -> Any:
        assert self.concrete is not None and self.spec is not None
        inputs = cells if len(self.take) == len(cells) else [cells[k] for k in self.take]
        results = self.concrete.run(inputs, env)
        if self.writes:
            first = len(results) - len(self.writes)
            written = [cells[k] for k in self.writes]
            pairs = zip(written, results[first:], strict=True)
            commit([(cell, written_value(cell, result)) for cell, result in pairs])
        if self.single is not None:
            return results[self.single]
        leaves = [_leaf(o, results, cells, env, arguments) for o in self.outputs]
        return tree.unflatten(self.spec, leaves)


def _always(arguments: Arguments) -> int:
    return -1


def written_value(cell: Any, result: Any) -> Any:
    """What goes into a cell: a Variable's value is followed by no tape."""
    value = current().read(result)
    return value.view() if isinstance(cell, Variable) else value


def _leaf(
    output: Output,
    results: list[Any],
    cells: list[Any],
    env: Mapping[str, Any],
    arguments: Arguments,
) -> Any:
    kind, value = output
    if kind == "node":
        return results[value]
    if kind == "cell":
        return cells[value]
    if kind == "path":
        return value.read(arguments)
    return evaluate(value, env) if kind == "number" else value


# ----- tracing ------------------------------------------------------------------------------------


class Finished(NamedTuple):
    """A finished trace: the call's own result, and the entry for later calls.

    `again` where the result holds what only an eager run can give: nothing was committed.
    """

    result: Any
    entry: Entry
    again: bool = False


@dataclass(eq=False)
class Tracer:
    """Makes one trace. `concolic` is False where the arguments are specs without values."""

    fn: Callable[..., Any]
    name: str
    binding: Binding
    call: Call
    shown: Shown
    pattern: Pattern
    control: str
    concolic: bool
    verify: bool
    shapes_before: Callable[[str, tuple[int, ...]], tuple[int | str, ...]]
    background: bool = False

    def __post_init__(self) -> None:
        self.facts = Settling()
        self.env: dict[str, Any] = {}
        self.repeatable = False  # the function raised, perhaps because a number is symbolic
        self.copies = self.call.copies or Copies()
        self.capture_shapes: dict[int, tuple[int | str, ...]] = {}
        self.staging = Staging(
            concolic=self.concolic,
            control=self.control,
            facts=self.facts,
            sizes=self._captured_sizes,
            path_of=lambda obj: self.watch.path_of(obj),
        )

    def run(self, cause: Any) -> Finished:
        """Run the function once; an exception leaves every cell as before the call."""
        start = time.perf_counter()
        arguments = self._symbolic_arguments()
        self._bind_arguments()
        self.watch = Watch(
            self.fn,
            arguments,
            is_tensor=is_cell,
            is_traced=is_traced,
            is_number=lambda obj: isinstance(obj, Number),
            internal=is_framework,
            roots=ROOTS,
        )
        try:
            out = self._called(arguments)
            return self._finish(out, cause, start)
        except BaseException:
            self.staging.settle()
            raise
        finally:
            self.staging.close()
            self.copies.settle()

    def _called(self, arguments: dict[str, Any]) -> Any:
        try:
            with using(self.staging), self.watch:
                out = self.binding.call(self.fn, arguments)
            if self.staging.refused is not None:  # Python caught it and went another way
                raise self.staging.refused
            return out
        except Exception:
            self.repeatable = bool(self.env) and not self.watch.effects()
            raise

    # ----- arguments

    def _symbolic_arguments(self) -> dict[str, Any]:
        """The arguments with each symbolic number as a `Dim` or `Number`."""
        renewed = iter([self._number(*pair) for pair in zip(
            self.pattern.numbers, self.call.numbers, strict=True
        )])  # fmt: skip
        if not any(type(n) is Name for n in self.pattern.numbers):
            return self.call.arguments

        def swap(leaf: Any) -> Any:
            return next(renewed) if type(leaf) in (int, float) else leaf

        return {
            name: self.copies.replace(value, swap) if name in self.shown.structures else value
            for name, value in self.call.arguments.items()
        }

    def _number(self, wanted: Any, value: Any) -> Any:
        if type(wanted) is not Name:
            return value
        self.env[wanted.name] = value
        self.staging.numbers.add(wanted.name)
        return symbol(wanted.name, value, self.facts)

    def _bind_arguments(self) -> None:
        paths = [leaf.path for leaf in self.shown.tensors]
        rows = zip(self.call.cells, paths, self.pattern.shapes, self.call.shapes, strict=True)
        bound: set[int] = set()
        with using(self.staging):
            for cell, path, wanted, shape in rows:
                self._note(wanted, shape)
                if id(cell) not in bound:
                    bound.add(id(cell))
                    sizes = symbolic_shape(wanted, shape, self.facts)
                    array = cell._value if self.concolic else None
                    self.staging.bind(cell, path, sizes, array)

    def _captured_sizes(
        self, cell: Any, name: str | None, shape: tuple[int, ...]
    ) -> tuple[Any, ...]:
        """The sizes of a captured tensor; one held by identity (no name) keeps those it has."""
        wanted: Sequence[Any] = shape if name is None else self.shapes_before(name, shape)
        wanted = tuple(self._apart(n) for n in wanted)
        self.capture_shapes[id(cell)] = wanted
        self._note(wanted, shape)
        return symbolic_shape(wanted, shape, self.facts)

    def _apart(self, size: int | str) -> int | str:
        """A size, under a name that no other size of this trace has."""
        while isinstance(size, str) and size in self.env:
            size += "_"
        return size

    def _note(self, wanted: Sequence[Any], shape: Sequence[int]) -> None:
        for want, size in zip(wanted, shape, strict=True):
            if isinstance(want, str):
                self.env.setdefault(want, size)

    # ----- the end of the call

    def _finish(self, out: Any, cause: Any, start: float) -> Finished:
        left, effects = self.staging.left, self.watch.effects()
        packed = None if left else self._pack(out)
        again = packed is None and left is None and not effects and self.concolic
        guards = tuple(guard for guard in self._guards(self.watch) if not _is_keyed(guard))
        captures = tuple(map(self._bound, self.staging.captures))
        del self.watch  # it keeps what it saw
        if packed is not None and not effects:
            effects = self._unseen(out)
        if left is None and effects:
            left = Left(effects[0].text, line_of(effects[0]))
        elif left is None and packed is None:
            left = Left("the result holds an object that the call made", None)
        entry = Entry(
            self.pattern,
            guards,
            captures,
            self.facts,
            self.shown,
            cause,
            0.0,
            effects,
            self.staging.constants,
            eager=left,
            **(packed or {}),
        )
        if self.verify and entry.eager is None:
            self._verify(out, entry.concrete)
        if again:
            return Finished(None, entry, again)
        if self.concolic:
            self.facts.settled = left is not None
            with holding(self._drawn()):
                if left is None and self._raced():
                    return Finished(None, entry, again=True)
                out = self._release(out, settle=left is not None)
        if entry.concrete is not None:
            assert entry.concrete.plan is not None  # compile now, or begin to
        entry.ms = (time.perf_counter() - start) * 1e3
        return Finished(out, entry)

    def _drawn(self) -> list[Any]:
        """The states of generators that the call advanced."""
        return [cell for cell in self.staging.written.values() if is_state(cell)]

    def _raced(self) -> bool:
        """Whether another thread drew, meanwhile, numbers that this call drew too."""
        return any(not self.staging.is_as_found(cell) for cell in self._drawn())

    def _later(self, cell: Any, value: Any) -> Any:
        """What goes into a cell: never a counter that another thread has already left behind."""
        if not is_state(cell) or self.staging.is_as_found(cell):
            return value
        same_stream = np.array_equal(cell._value[:2], value[:2])
        return cell._value if same_stream and cell._value[2] > value[2] else value

    def _unseen(self, out: Any) -> tuple[Effect, ...]:
        """A tensor of the trace that outlives it where Python is not watched: a cache in C, say.

        Rules of derivatives, which the graph holds, keep tensors too.
        """
        if any(node.op is OPS["custom"] for node in self.staging.lines):
            return ()
        results = {id(leaf) for leaf in tree.leaves(out)}
        for generation in (None, 1, 2):
            if generation is not None:
                gc.collect(generation)
            kept = next((x for x in self.staging.alive() if id(x) not in results), None)
            if kept is None:
                return ()
            line = kept._value.line
            del kept
        name, number, code = line or (self.name, 0, self.name)
        text = "a traced tensor made here outlives the call"
        return (Effect("leak", "a tensor", name, number, code, text),)

    def _verify(self, out: Any, concrete: Any) -> None:
        """Hold what the plan gives for this call's inputs against what the call computed."""
        staging = self.staging
        results = _open_cells(tree.leaves(out))
        expected = [staging.now(cell) for cell in (*results, *staging.written.values())]
        compare(self.name, expected, concrete.arrays(staging.arrays, self.env))

    def _release(self, out: Any, settle: bool) -> Any:
        """The call's result and writes with values of the interpreter that made the call.

        What the trace computed is known as arrays. Under a tape the graph runs once more, so that
        the tape sees it. Tensors left elsewhere get their values too where the call was eager.
        """
        staging = self.staging
        cells = _open_cells([*tree.leaves(out), *(staging.alive() if settle else ())])
        written = list(staging.written.values())
        interpreter = current()
        if interpreter is interpreter.base:
            values = [staging.now(cell).view() for cell in (*cells, *written)]
        else:
            values = self._run_under_tape([*cells, *written])
        for cell, value in zip(cells, values, strict=False):
            cell._value = value
        after = map(self._later, written, values[len(cells) :])
        commit(zip(written, after, strict=True))
        return tree.map(lambda x: x.value if isinstance(x, Number) else x, out)

    def _run_under_tape(self, cells: list[Any]) -> list[Any]:
        nodes = [self.staging.held(cell).node for cell in cells]
        captured = [
            c.cell if isinstance(c.cell, Tensor) else Tensor(as_array(c.cell))
            for c in self.staging.captures
        ]
        given = [*self.call.cells, *captured]
        taken = [given[k] for k in dict.fromkeys(self._places().values())]
        results = self._concrete(nodes).run(taken, self.env)
        return [written_value(c, result) for c, result in zip(cells, results, strict=True)]

    # ----- packing

    def _concrete(self, outputs: Sequence[Node]) -> ConcreteFunction:
        staging = self.staging
        inputs, checks = tuple(staging.inputs), tuple(staging.checks)
        graph = Graph(self.name, inputs, tuple(outputs), checks, staging.lines)
        return ConcreteFunction(graph, self.env, self.facts, self.background)

    def _guards(self, watch: Watch) -> tuple[Guard, ...]:
        """What must hold: for a constant that NumPy computed, every array it may be made of."""
        arrays = watch.array_guards() if self.staging.constants else ()
        return (*watch.guards(), *arrays)

    def _bound(self, capture: Capture) -> Bound:
        cell, value, line = capture
        path = self.watch.path_of(cell)
        kind = type(cell) if isinstance(cell, Tensor) else np.ndarray
        held = cell if path is None else None
        shape = self.capture_shapes[id(cell)]
        return Bound(path, held, kind, value.dtype, shape, value.node.name, line)

    def _pack(self, out: Any) -> dict[str, Any] | None:
        """Graph, outputs and writes; None where the result cannot be made again from a graph."""
        staging = self.staging
        flat, spec = tree.flatten(out)
        nodes: dict[int, Node] = {}
        with using(staging):
            for cell in (x for x in flat if isinstance(x, Tensor)):
                staging.read(cell)  # a tensor that was only returned is captured now
            places = self._places()
            found = [self._output(leaf, places, nodes) for leaf in flat]
            outputs = tuple(output for output in found if output is not None)
            if len(outputs) < len(found):
                return None
            written = list(staging.written.values())
            concrete = self._concrete([*nodes.values(), *(staging.held(c).node for c in written)])
        return {
            "concrete": concrete,
            "take": tuple(dict.fromkeys(places.values())),
            "spec": spec,
            "outputs": outputs,
            "writes": tuple(places[id(cell)] for cell in written),
            "draws": tuple(places[id(cell)] for cell in written if is_state(cell)),
        }

    def _places(self) -> dict[int, int]:
        """For each outer cell its place among the cells of a call."""
        cells = [*self.call.cells, *(capture.cell for capture in self.staging.captures)]
        places: dict[int, int] = {}
        for k, cell in enumerate(cells):
            places.setdefault(id(cell), k)
        return places

    def _output(self, leaf: Any, places: dict[int, int], nodes: dict[int, Node]) -> Output | None:
        if isinstance(leaf, Tensor):
            if type(leaf._value) is not Traced:
                return Output("cell", places[id(leaf)])
            if isinstance(leaf, Variable):
                return None
            nodes.setdefault(id(leaf), self.staging.read(leaf).node)
            return Output("node", list(nodes).index(id(leaf)))
        if isinstance(leaf, Number):
            return Output("number", strip(leaf))
        if isinstance(leaf, (bool, int, float, complex, str, bytes, DType)):
            return Output("constant", leaf)
        path = self.watch.path_of(leaf)
        return None if path is None else Output("path", path)


def _open_cells(leaves: Sequence[Any]) -> list[Any]:
    """The tensors among some leaves that hold a traced value, each once."""
    found = [x for x in leaves if isinstance(x, Tensor) and type(x._value) is Traced]
    return list({id(x): x for x in found}.values())


def _is_keyed(guard: Guard) -> bool:
    """Whether the key says it already: which object an argument is."""
    return guard.kind == "identity" and guard.path.kind == "argument" and not guard.path.steps


def line_of(effect: Effect) -> Location:
    """Where an effect happened."""
    return Location(effect.filename, effect.lineno, effect.function)
