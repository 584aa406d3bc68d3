"""One trace of one call: run the Python function under `Staging` and `Watch`, and pack what came out.

The result is an `Entry` that later calls are matched against, or the reason why there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stagekit import tree
from stagekit.eager.interpreter import as_array
from stagekit.graph import Graph
from stagekit.node import Node
from stagekit.op import current, using
from stagekit.source import Location, is_framework
from stagekit.staging.concrete import ConcreteFunction, symbol
from stagekit.staging.interpreter import (
    Capture,
    Constant,
    Left,
    Staging,
    Traced,
    is_cell,
    is_traced,
    symbolic_shape,
)
from stagekit.staging.paths import Guard, compile_guards
from stagekit.staging.signature import (
    Binding,
    Call,
    Leaf,
    Name,
    Names,
    Pattern,
    bind_shape,
)
from stagekit.staging.watch import Effect, Watch
from stagekit.symbolic import Facts, Number, evaluate, strip
from stagekit.tensor import Tensor, Variable

Arguments = Mapping[str, Any]

# ----- what a trace leaves ------------------------------------------------------------------------


class Bound(NamedTuple):
    """A captured tensor: read again by `path` at each call, or held by identity."""

    path: Any
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
        if isinstance(obj, (np.ndarray, np.generic)):
            return Tensor(as_array(obj)) if self.kind is np.ndarray else None
        return obj if type(obj) is self.kind else None


class Output(NamedTuple):
    """Where a leaf of the result comes from: "node", "cell", "number" or "constant"."""

    kind: str
    value: Any


@dataclass(eq=False)
class Entry:
    """A trace and the calls it is right for; `eager` names why such calls run eagerly instead."""

    pattern: Pattern
    guards: tuple[Guard, ...]
    captures: tuple[Bound, ...]
    facts: Facts
    leaves: list[Leaf]
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
    verified: bool = False
    check: Callable[[Arguments], int] = field(init=False)
    single: int | None = field(init=False)  # the one output that is the whole result

    def __post_init__(self) -> None:
        self.check = compile_guards(self.guards) if self.guards else _always
        whole = self.spec is not None and self.spec.is_leaf() and self.outputs[0].kind == "node"
        self.single = self.outputs[0].value if whole else None

    # ----- matching

    def match(self, call: Call) -> tuple[list[Any], dict[str, Any]] | None:
        """The cells to run on and the values of the names, None where this trace is not right."""
        env = {} if self.eager else self.pattern.bind(call.shapes, call.numbers)
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
        if self.facts.known and not self.eager and not self.facts.hold(env):
            return None
        return cells, env

    # ----- running

    def run(self, cells: list[Any], env: dict[str, Any]) -> Any:
        """The result of a call: run the graph, commit the writes, rebuild the result's structure."""
        assert self.concrete is not None and self.spec is not None
        inputs = cells if len(self.take) == len(cells) else [cells[k] for k in self.take]
        results = self.concrete.run(inputs, env)
        if self.writes:
            interpreter = current()
            first = len(results) - len(self.writes)
            for place, result in zip(self.writes, results[first:], strict=True):
                interpreter.write(cells[place], written_value(cells[place], result))
        if self.single is not None:
            return results[self.single]
        return tree.unflatten(self.spec, [_leaf(o, results, cells, env) for o in self.outputs])


def _is_open(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and type(leaf._value) is Traced


def _always(arguments: Arguments) -> int:
    return -1


def written_value(cell: Any, result: Any) -> Any:
    """What goes into a cell: a Variable's value is followed by no tape."""
    value = current().read(result)
    return value.view() if isinstance(cell, Variable) else value


def _leaf(output: Output, results: list[Any], cells: list[Any], env: dict[str, Any]) -> Any:
    kind, value = output
    if kind == "node":
        return results[value]
    if kind == "cell":
        return cells[value]
    return evaluate(value, env) if kind == "number" else value


class Finished(NamedTuple):
    """A finished trace: the call's own result, and the entry for later calls."""

    result: Any
    entry: Entry


# ----- tracing ------------------------------------------------------------------------------------


@dataclass(eq=False)
class Tracer:
    """Makes one trace. `concolic` is False where the arguments are specs without values."""

    fn: Callable[..., Any]
    name: str
    binding: Binding
    call: Call
    leaves: list[Leaf]
    names: Names
    pattern: Pattern
    control: str
    concolic: bool
    shapes_before: Callable[[str, tuple[int, ...]], tuple[int | str, ...]]

    def __post_init__(self) -> None:
        self.facts = Facts()
        self.env: dict[str, Any] = {}
        self.watch: Watch | None = None
        self.staging = Staging(
            concolic=self.concolic,
            control=self.control,
            facts=self.facts,
            sizes=self._captured_sizes,
            path_of=self._path_of,
        )
        self.capture_shapes: dict[int, tuple[int | str, ...]] = {}

    def _path_of(self, obj: Any) -> Any:
        return None if self.watch is None else self.watch.path_of(obj)

    def _captured_sizes(self, cell: Any, name: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
        wanted = self.shapes_before(name, shape)
        self.capture_shapes[id(cell)] = wanted
        self._note(wanted, shape)
        return symbolic_shape(wanted, shape, self.facts)

    def _note(self, wanted: Sequence[Any], shape: Sequence[int]) -> None:
        for want, size in zip(wanted, shape, strict=True):
            if isinstance(want, str):
                self.env.setdefault(want, size)

    def run(self, cause: Any) -> Finished:
        """Run the function once; exceptions leave every cell as before the call."""
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
        )
        try:
            with using(self.staging), self.watch:
                out = self.binding.call(self.fn, arguments)
            return self._finish(out, cause, start)
        finally:
            self.staging.close()

    def _symbolic_arguments(self) -> dict[str, Any]:
        """The arguments with each symbolic number as a `Dim` or `Number`."""
        renewed: list[Any] = []
        for wanted, value in zip(self.pattern.numbers, self.call.numbers, strict=True):
            if type(wanted) is Name:
                self.env[wanted.name] = value
                value = symbol(wanted.name, value, self.facts)
            renewed.append(value)
        if not any(isinstance(x, Number) for x in renewed):
            return self.call.arguments
        fresh = iter(renewed)
        return {
            name: tree.map(lambda x: next(fresh) if type(x) in (int, float) else x, value)
            if name in self._numbered()
            else value
            for name, value in self.call.arguments.items()
        }

    def _numbered(self) -> set[str]:
        return {leaf.path.split("[")[0].split(".")[0] for leaf in self.leaves if leaf.kind == "number"}

    def _bind_arguments(self) -> None:
        paths = [leaf.path for leaf in self.leaves if leaf.kind == "tensor"]
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

    # ----- packing

    def _finish(self, out: Any, cause: Any, start: float) -> Finished:
        assert self.watch is not None
        staging, effects = self.staging, self.watch.effects()
        left = staging.left
        packed = None if left else self._pack(out)
        if packed is None and left is None:
            left = Left("returns an object made in the call", None)
        entry = Entry(
            self.pattern,
            self.watch.guards(),
            self._bound(),
            self.facts,
            self.leaves,
            cause,
            0.0,
            effects,
            staging.constants,
            eager=left,
            **(packed or {}),
        )
        if self.concolic:
            out = self._release(out, settle=bool(left or effects))
        if entry.concrete is not None:
            assert entry.concrete.plan is not None
        entry.ms = (time.perf_counter() - start) * 1e3
        return Finished(out, entry)

    def _release(self, out: Any, settle: bool) -> Any:
        """The call's result and writes with values of the interpreter that made the call.

        What the trace computed is known as arrays. Under a tape the graph runs once more, so that
        the tape sees it. Tensors left elsewhere get their values too where the call counts as eager.
        """
        results = [x for x in tree.leaves(out) if _is_open(x)]
        cells = list({id(x): x for x in (*results, *(self.staging.alive() if settle else ()))}.values())
        written = list(self.staging.written.values())
        interpreter = current()
        if interpreter is interpreter.base:
            values = [self.staging.now(cell).view() for cell in (*cells, *written)]
        else:
            values = self._run_under_tape([*cells, *written])
        for cell, value in zip(cells, values, strict=False):
            cell._value = value
        for cell, value in zip(written, values[len(cells) :], strict=True):
            interpreter.write(cell, value)
        return tree.map(lambda x: x.value if isinstance(x, Number) else x, out)

    def _run_under_tape(self, cells: list[Any]) -> list[Any]:
        staging = self.staging
        nodes = tuple(staging.read(cell).node for cell in cells)
        inputs = tuple(staging.inputs)
        graph = Graph(self.name, inputs, nodes, tuple(staging.checks), staging.lines)
        places = self._places()
        given = [*self.call.cells, *(self._as_cell(c.cell) for c in staging.captures)]
        taken = [given[k] for k in dict.fromkeys(places.values())]
        results = ConcreteFunction(graph, self.env, self.facts).run(taken, self.env)
        pairs = zip(cells, results, strict=True)
        return [written_value(cell, result) for cell, result in pairs]

    def _as_cell(self, obj: Any) -> Any:
        return obj if isinstance(obj, Tensor) else Tensor(as_array(obj))

    def _bound(self) -> tuple[Bound, ...]:
        return tuple(self._capture(capture) for capture in self.staging.captures)

    def _capture(self, capture: Capture) -> Bound:
        cell, value, line = capture
        path = self._path_of(cell)
        kind = type(cell) if isinstance(cell, Tensor) else np.ndarray
        shape = self.capture_shapes[id(cell)]
        held = cell if path is None else None
        return Bound(path, held, kind, value.dtype, shape, value.node.name, line)

    def _pack(self, out: Any) -> dict[str, Any] | None:
        """Graph, outputs and writes; None where the result cannot be made again from a graph."""
        staging = self.staging
        flat, spec = tree.flatten(out)
        with using(staging):
            cells = self._places()
            nodes: list[Node] = []
            known: dict[int, int] = {}
            outputs = []
            for leaf in flat:
                output = self._output(leaf, cells, nodes, known)
                if output is None:
                    return None
                outputs.append(output)
            writes = [cells[id(cell)] for cell in staging.written.values()]
            nodes += [staging.read(cell).node for cell in staging.written.values()]
        graph = Graph(
            self.name, tuple(staging.inputs), tuple(nodes), tuple(staging.checks), staging.lines
        )
        return {
            "concrete": ConcreteFunction(graph, self.env, self.facts),
            "take": tuple(dict.fromkeys(cells.values())),
            "spec": spec,
            "outputs": tuple(outputs),
            "writes": tuple(writes),
        }

    def _places(self) -> dict[int, int]:
        """For each outer cell its place among the cells of a call."""
        places: dict[int, int] = {}
        for k, cell in enumerate(self.call.cells):
            places.setdefault(id(cell), k)
        first = len(self.call.cells)
        for k, capture in enumerate(self.staging.captures):
            places.setdefault(id(capture.cell), first + k)
        return places

    def _output(
        self, leaf: Any, cells: dict[int, int], nodes: list[Node], known: dict[int, int]
    ) -> Output | None:
        if isinstance(leaf, Tensor):
            if type(leaf._value) is not Traced:
                self.staging.read(leaf)
                cells.update({k: v for k, v in self._places().items() if k not in cells})
                return Output("cell", cells[id(leaf)])
            if isinstance(leaf, Variable):
                return None
            if id(leaf) not in known:
                known[id(leaf)] = len(nodes)
                nodes.append(self.staging.read(leaf).node)
            return Output("node", known[id(leaf)])
        if isinstance(leaf, Number):
            return Output("number", strip(leaf))
        if isinstance(leaf, (bool, int, float, complex, str, bytes, np.generic)):
            return Output("constant", leaf)
        if isinstance(leaf, type) or callable(leaf) or self._path_of(leaf) is not None:
            return Output("constant", leaf)
        return None
