"""`ConcreteFunction`: one traced graph with its plan, runnable under any interpreter.

Eagerly it runs the plan; inside a trace it is inlined; under a tape or a dual it is one entry,
whose derivative is again a concrete function, so that the same rule gives every order.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import stagekit.ops as ops
from stagekit.autodiff import Batch, Dual, Tape
from stagekit.errors import ShapeError
from stagekit.graph import Graph
from stagekit.kernels import backend
from stagekit.kernels.backend import fed, settled
from stagekit.kernels.cuda import printer
from stagekit.kernels.listing import Listing
from stagekit.kernels.plan import NativePlan
from stagekit.kernels.report import listings
from stagekit.node import Interned, Node, reachable
from stagekit.op import current, using
from stagekit.plan import Cost, Plan, cost
from stagekit.source import Location, here
from stagekit.staging.ambient import require_trace
from stagekit.staging.interpreter import Staging
from stagekit.staging.measure import run
from stagekit.staging.replay import replay
from stagekit.staging.rewrite import Fired
from stagekit.staging.rules import optimize
from stagekit.staging.transaction import Undo
from stagekit.symbolic import Dim, Expr, Facts, Formula, Number
from stagekit.tensor import Tensor
from stagekit.types import TensorType

Env = Mapping[str, Any]


class ConcreteFunction:
    """A graph for one signature: `.graph`, `.optimized`, `.log`, `.plan`, `.cost()`, `.kernels()`.

    `env` holds the values its symbolic names had when it was traced. Calling it runs it on flat
    tensors, in the order of the graph's inputs. Source: `tf.types.experimental.ConcreteFunction`.

    >>> import stagekit as sk
    >>> c = sk.function(lambda x: x * x).trace(sk.TensorSpec(("n",)))
    >>> c.graph.count("multiply"), c(sk.full(2, 3.0)).tolist()
    (1, [9.0, 9.0])
    """

    def __init__(
        self, graph: Graph, env: Env, facts: Facts | None = None, background: bool = False
    ) -> None:
        self.graph = graph
        self.background = background  # whether calls run on NumPy until native code is there
        self._plan: Plan | NativePlan | None = None
        self._compiling: threading.Thread | None = None
        self.env = dict(env)
        self.facts = facts or Facts(closed=True)
        self.derivatives: list[Derivative] = []

    # ----- stages

    @cached_property
    def _optimized(self) -> tuple[Graph, list[Fired]]:
        return optimize(self.graph)

    @property
    def optimized(self) -> Graph:
        """The graph after all rewrites."""
        return self._optimized[0]

    @property
    def log(self) -> list[Fired]:
        """The rewrites that fired: records of `.rule` and `.line`."""
        return self._optimized[1]

    @property
    def plan(self) -> Plan | NativePlan:
        """The steps that a call runs: native code, or NumPy's where there is none (yet).

        It prints, and so do its `.decisions`: why each op stands in the step where it does.
        """
        if self._plan is None:
            if not self.background:
                self._compile()
            elif self._compiling is None:
                self._compiling = threading.Thread(target=self._compile, daemon=True)
                self._compiling.start()
        return self._plan or self._until_compiled

    def _compile(self) -> None:
        graph, mine = self.graph, weakref.ref(self)  # a plan must not keep what keeps it

        def optimized() -> Graph:
            concrete = mine()
            return optimize(graph)[0] if concrete is None else concrete.optimized

        self._plan = backend.plan(graph, self.facts.known, optimized)

    @cached_property
    def _until_compiled(self) -> Plan:
        return Plan(self.optimized)

    @property
    def native(self) -> NativePlan | None:
        """The plan, where it is one function of machine code."""
        plan = self.plan
        return plan if isinstance(plan, NativePlan) and plan.address is not None else None

    def cost(self) -> Cost:
        """`flops`, `bytes`, `peak_bytes` of one call at the sizes of the trace."""
        return cost(self.optimized, self.env)

    def kernels(self, backend: str = "cpu") -> list[Listing]:
        """The generated kernels, one after the other. For "cpu" none where NumPy runs the plan:
        each prints as a loop nest, and has that as `.loops`, and `.llvm` and `.assembly`; for
        "cuda", on every machine, as its CUDA C.

            kernel0(b5: f32, in0: f32)
              for i1 < 100:
                b5[i1] = (in0[i1] * 2) + 1
        """
        if backend == "cuda":
            return printer.listings(fed(settled(self.optimized, self.facts.known))[0])
        plan = self.plan
        if backend == "cpu" and isinstance(plan, NativePlan):
            return listings(plan.steps)
        return []

    def __repr__(self) -> str:
        inputs = ", ".join(f"{n.name}: {n.type}" for n in self.graph.inputs)
        outputs = ", ".join(str(n.type) for n in self.graph.outputs)
        return f"<concrete {self.graph.name}({inputs}) -> ({outputs})>"

    def _repr_html_(self) -> str:
        return self.graph._repr_html_()

    # ----- running

    def __call__(self, *inputs: Any) -> Any:
        """The outputs for tensors in the order of `graph.inputs`: one, or a tuple."""
        cells = [ops.asarray(x) for x in inputs]
        env = self.bind(cells)
        for fact in self.facts.known:
            if not fact.holds(env):
                raise ShapeError(
                    f"{self.graph.name}: this trace is for {fact}", fix="trace it for such sizes"
                ).located(here())
        out = self.run(cells, env)
        return out[0] if len(out) == 1 else tuple(out)

    def bind(self, cells: Sequence[Any]) -> dict[str, Any]:
        """The values of the symbolic names for these inputs, other names as they were traced."""
        env = dict(self.env)
        for node, cell in zip(self.graph.inputs, cells, strict=True):
            for size, now in zip(node.type.shape, cell.shape, strict=True):
                if isinstance(size, Expr) and str(size) in self.env:
                    env[str(size)] = now
        return env

    def run(self, cells: Sequence[Any], env: Env) -> list[Any]:
        """The outputs as tensors, under the current interpreter."""
        interpreter = current()
        if type(interpreter) is Undo:
            with using(interpreter.below):
                return self.run(cells, env)
        if interpreter is interpreter.base and not interpreter.traces:
            return [Tensor(array) for array in self.arrays([c._value for c in cells], env)]
        if type(interpreter) is Tape and not interpreter.base.traces:
            return self._run_taped(interpreter, cells, env)
        if type(interpreter) is Dual and not interpreter.base.traces:
            return self._run_dual(interpreter, cells, env)
        if type(interpreter) is Batch and not interpreter.base.traces:
            return self._run_batched(interpreter, cells, env)
        return replay(self.graph, cells, env)

    def arrays(self, arrays: Sequence[Any], env: Env) -> list[Any]:
        """The outputs as arrays, each an object of its own: tapes know values by identity."""
        outputs = run(self.plan, arrays, env)
        seen = set(map(id, arrays))
        for k, array in enumerate(outputs):
            if id(array) in seen:
                outputs[k] = array.view()
            seen.add(id(array))
        return outputs

    # ----- reverse mode

    def _run_taped(self, tape: Tape, cells: Sequence[Any], env: Env) -> list[Any]:
        values = [tape.read(cell) for cell in cells]
        mask = tuple(id(v) in tape.values for v in values)
        if not tape.recording or not any(mask):
            with using(tape.below):
                return self.run(cells, env)
        pair: _Vjp = self._variant("vjp", mask, env, self._make_vjp)
        with using(tape.below):
            results = pair.forward.run([Tensor(v) for v in values], env)
        outs, residuals = results[: pair.outputs], results[pair.outputs :]

        def pullback(cts: list[Any]) -> list[Any]:
            given = [
                ops.zeros_like(out) if ct is None else ct
                for ct, out, used in zip(cts, outs, pair.floats, strict=True)
                if used
            ]
            found = iter(pair.backward.run([*residuals, *given], env))
            return [next(found) if reached else None for reached in pair.reached]

        tape.record_call(values, [tape.below.read(out) for out in outs], pullback)
        return outs

    def _make_vjp(self, mask: tuple[bool, ...], env: Env) -> _Vjp:
        staging, dims, inputs = self._open(env)
        with using(staging):
            tape = Tape(staging)
            wanted = [staging.read(x) for x, m in zip(inputs, mask, strict=True) if m]
            for value in wanted:
                tape.watch(value)
            with using(tape):
                outs = replay(self.graph, inputs, dims)
            floats = [out.dtype.inexact for out in outs]
            cts = [
                staging.input(f"ct{k}", staging.read(out).type) if used else None
                for k, (out, used) in enumerate(zip(outs, floats, strict=True))
            ]
            seeds = [(staging.read(o), c) for o, c in zip(outs, cts, strict=True) if c is not None]
            pulled = tape.pull(seeds, wanted)
        found = iter([pulled.get(id(value)) for value in wanted])
        grads = [next(found) if m else None for m in mask]
        ct_nodes = [staging.read(c).node for c in cts if c is not None]
        return _split(self, staging, env, outs, ct_nodes, grads, floats)

    # ----- forward mode

    def _run_dual(self, dual: Dual, cells: Sequence[Any], env: Env) -> list[Any]:
        values = [dual.read(cell) for cell in cells]
        tangents = [dual.tangents.get(id(v)) for v in values]
        mask = tuple(t is not None for t in tangents)
        with using(dual.below):
            plain = [Tensor(v) for v in values]
            if not any(mask):
                return self.run(plain, env)
            pushed: _Jvp = self._variant("jvp", mask, env, self._make_jvp)
            moved = [pair[1] for pair in tangents if pair is not None]
            results = pushed.function.run([*plain, *moved], env)
            outs, out_tangents = results[: pushed.outputs], iter(results[pushed.outputs :])
            for out, reached in zip(outs, pushed.reached, strict=True):
                if reached:
                    value = dual.below.read(out)
                    dual.tangents[id(value)] = (value, next(out_tangents))
        return outs

    def _make_jvp(self, mask: tuple[bool, ...], env: Env) -> _Jvp:
        staging, dims, inputs = self._open(env)
        with using(staging):
            dual = Dual(staging)
            for k, (x, m) in enumerate(zip(inputs, mask, strict=True)):
                if m:
                    value = staging.read(x)
                    dual.tangents[id(value)] = (value, staging.input(f"t{k}", value.type))
            with using(dual):
                outs = replay(self.graph, inputs, dims)
            pairs = [dual.tangents.get(id(staging.read(out))) for out in outs]
            tangents = [pair[1] for pair in pairs if pair is not None]
            nodes = [staging.read(x).node for x in (*outs, *tangents)]
        graph = self._closed(staging, f"{self.graph.name}_jvp", nodes)
        function = ConcreteFunction(graph, env, staging.facts)
        return _Jvp(function, len(outs), [pair is not None for pair in pairs], staging.facts)

    # ----- vmap

    def _run_batched(self, batch: Batch, cells: Sequence[Any], env: Env) -> list[Any]:
        mask = tuple(map(batch.maps, cells))
        with using(batch.below):
            if not any(mask) and not (batch.draws and self._draws):
                return self.run(cells, env)
            env = {**env, self._lanes: batch.size}
            make = partial(self._make_batched, batch.draws)
            mapped: _Mapped = self._variant("vmap" if batch.draws else "lanes", mask, env, make)
            outs = mapped.function.run(cells, env)
        for out, reached in zip(outs, mapped.reached, strict=True):
            if reached:
                batch.mark(out)
        return outs

    @property
    def _draws(self) -> bool:
        """Whether lanes differ though no input does."""
        return any(node.op is not None and node.op.per_lane for node in self.graph.nodes)

    @property
    def _lanes(self) -> str:
        """A name for the number of lanes that no size of this graph has."""
        name = "lanes"
        while name in self.env:
            name += "_"
        return name

    def _make_batched(self, draws: bool, mask: tuple[bool, ...], env: Env) -> _Mapped:
        staging, dims, inputs = self._open(env, mask)
        with using(staging):
            size = symbol(self._lanes, env[self._lanes], staging.facts)
            batch = Batch(staging, size, draws=draws)
            for x, m in zip(inputs, mask, strict=True):
                if m:
                    batch.mark(x)
            with using(batch):
                outs = replay(self.graph, inputs, dims)
            reached = [batch.maps(out) for out in outs]
            nodes = [staging.read(out).node for out in outs]
        graph = self._closed(staging, f"{self.graph.name}_vmap", nodes)
        return _Mapped(ConcreteFunction(graph, env, staging.facts), reached, staging.facts)

    # ----- derived traces

    def _variant(self, mode: str, mask: tuple[bool, ...], env: Env, make: Any) -> Any:
        """The derivative for these inputs and sizes; made if there is none."""
        for known in self.derivatives:
            if known.mode == mode and known.mask == mask and known.variant.facts.hold(env):
                return known.variant
        start, name = time.perf_counter(), self.graph.name
        watched = tuple(n.name for n, m in zip(self.graph.inputs, mask, strict=True) if m)
        require_trace(name, watching(mode, watched))
        variant = make(mask, env)
        ms = (time.perf_counter() - start) * 1e3
        self.derivatives.append(Derivative(mode, mask, watched, variant, ms, here()))
        return variant

    def _open(
        self, env: Env, mapped: Sequence[bool] = ()
    ) -> tuple[Staging, dict[str, Any], list[Tensor]]:
        """A trace without values, its symbolic names, and fresh inputs like this graph's.

        Those `mapped` have an axis of the lanes in front.
        """
        facts = Facts()
        staging = Staging(concolic=False, control="error", facts=facts)
        dims = symbols(self.graph, env, facts)
        shapes = [tuple(_size(s, dims) for s in n.type.shape) for n in self.graph.inputs]
        if any(mapped):
            lanes = symbol(self._lanes, env[self._lanes], facts)
            shapes = [(lanes, *s) if m else s for s, m in zip(shapes, mapped, strict=True)]
        inputs = [
            staging.input(node.name, TensorType(node.type.dtype, shape, node.type.device))
            for node, shape in zip(self.graph.inputs, shapes, strict=True)
        ]
        return staging, dims, inputs

    def _closed(self, staging: Staging, name: str, outputs: Sequence[Node]) -> Graph:
        graph = Graph(
            name, tuple(staging.inputs), tuple(outputs), tuple(staging.checks), staging.lines
        )
        staging.close()
        return graph


class Derivative(NamedTuple):
    """A trace made from this one because some of its inputs are watched or mapped, and where."""

    mode: str
    mask: tuple[bool, ...]
    watched: tuple[str, ...]
    variant: Any
    ms: float
    line: Location | None


def watching(mode: str, watched: Sequence[str]) -> str:
    """Why a derivative was traced, as `explain()` says it."""
    if mode in ("vmap", "lanes"):
        return f"vmap of {', '.join(watched)}: not mapped -> mapped"
    if mode == "jvp":
        return f"jvp of {', '.join(watched)}: no tangent -> a tangent"
    return f"tape of {', '.join(watched)}: not watched -> watched"


class _Vjp(NamedTuple):
    """Forward with residuals, and backward; `reached` says which inputs get a cotangent."""

    forward: ConcreteFunction
    backward: ConcreteFunction
    outputs: int
    floats: list[bool]
    reached: list[bool]
    facts: Facts


class _Jvp(NamedTuple):
    """Outputs and the tangents of those `reached`."""

    function: ConcreteFunction
    outputs: int
    reached: list[bool]
    facts: Facts


class _Mapped(NamedTuple):
    """The function of all lanes at once; `reached` says which outputs have the mapped axis."""

    function: ConcreteFunction
    reached: list[bool]
    facts: Facts


def symbols(graph: Graph, env: Env, facts: Facts) -> dict[str, Any]:
    """Each symbolic name of a graph as a `Dim` or `Number` with its value in `env`."""
    return {name: symbol(name, env[name], facts) for name in graph.symbols}


def symbol(name: str, value: Any, facts: Facts) -> Number:
    """A named size or number with its value now."""
    if isinstance(value, float):
        return Number(Formula.named(name), value, facts)
    return Dim(Expr.named(name), value, facts)


def _size(size: Any, dims: Env) -> Any:
    return size.evaluate(dims) if isinstance(size, Expr) else size


def _split(
    whole: ConcreteFunction,
    staging: Staging,
    env: Env,
    outs: Sequence[Any],
    ct_nodes: Sequence[Node],
    grads: Sequence[Any],
    floats: list[bool],
) -> _Vjp:
    """Cut one graph of outputs and gradients into a forward that keeps what the backward needs."""
    out_nodes = [staging.read(out).node for out in outs]
    grad_nodes = [staging.read(g).node for g in grads if g is not None]
    late = _depending(grad_nodes, ct_nodes)
    used = [x for n in reachable(grad_nodes) if n in late for x in n.inputs if x not in late]
    kept = dict.fromkeys(n for n in (*used, *grad_nodes) if n not in late and not _is_free(n))
    residuals = [n for n in kept if n not in ct_nodes]
    inputs = tuple(n for n in staging.inputs if n not in ct_nodes)
    early = tuple(n for n in staging.checks if n not in late)
    name = whole.graph.name
    forward = Graph(f"{name}_forward", inputs, (*out_nodes, *residuals), early, staging.lines)
    backward = _rebuilt(f"{name}_backward", residuals, ct_nodes, grad_nodes, staging, late)
    staging.close()
    return _Vjp(
        ConcreteFunction(forward, env, staging.facts),
        ConcreteFunction(backward, env, staging.facts),
        len(out_nodes),
        floats,
        [g is not None for g in grads],
        staging.facts,
    )


def _is_free(node: Node) -> bool:
    """Whether a node costs nothing to make again: constants and fills."""
    return node.constant is not None or (node.op is not None and not node.inputs)


def _depending(roots: Sequence[Node], sources: Sequence[Node]) -> set[Node]:
    """The nodes that need one of `sources`."""
    late = set(sources)
    for node in reachable(roots):
        if any(x in late for x in node.inputs):
            late.add(node)
    return late


def _rebuilt(
    name: str,
    residuals: Sequence[Node],
    cts: Sequence[Node],
    outputs: Sequence[Node],
    staging: Staging,
    late: set[Node],
) -> Graph:
    """The backward as a graph of its own, whose inputs are the residuals and the cotangents."""
    interned, lines = Interned(), {}
    renamed = [(n, f"r{k}") for k, n in enumerate(residuals)] + [(n, n.name) for n in cts]
    made = {node: interned.input(name_, node.type) for node, name_ in renamed}
    inputs = tuple(made.values())
    for node in reachable(outputs):
        if node in made or not (node in late or _is_free(node)):
            continue
        if node.constant is not None:
            made[node] = interned.constant(node.constant, node.type)
        else:
            assert node.op is not None
            operands = tuple(made[x] for x in node.inputs)
            made[node] = interned.apply(node.op, operands, dict(node.attrs), node.types)
        if node in staging.lines:
            lines[made[node]] = staging.lines[node]
    checks = tuple(made[n] for n in staging.checks if n in late and n in made)
    return Graph(name, inputs, tuple(made[n] for n in outputs), checks, lines)
