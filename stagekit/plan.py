"""`Plan`: a graph made ready to run on arrays: a list of steps, buffers dropped at their last use.

Also `Cost`: operations, bytes moved and peak bytes, from the same order and lifetimes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from stagekit.evaluation import FAILURES, Array, explain, quietly, spring, type_of
from stagekit.graph import Graph
from stagekit.node import Node, attribute_names, is_projection
from stagekit.settings import config
from stagekit.symbolic import Expr, Formula, evaluate

Env = Mapping[str, Any]


def clock() -> int:
    """Nanoseconds, on the clock that native code reads too.

    >>> clock() <= clock()
    True
    """
    if hasattr(time, "CLOCK_MONOTONIC"):
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return time.monotonic_ns()


class Step(NamedTuple):
    """One evaluation: slots of operands and of the first result (others follow it), attributes,
    slots that are free afterwards.
    """

    node: Node
    function: Callable[..., Any]
    operands: tuple[int, ...]
    result: int
    attrs: dict[str, Any]
    symbolic: bool
    free: tuple[int, ...]


def concrete(value: Any, env: Env) -> Any:
    """An attribute with its expressions evaluated.

    >>> concrete((Expr.named("n"), 3), {"n": 5})
    (5, 3)
    """
    if isinstance(value, (Expr, Formula)):
        return evaluate(value, env)
    return tuple(concrete(v, env) for v in value) if type(value) is tuple else value


class Plan:
    """The steps of a graph in the order of the trace; `plan(arrays, env)` gives the outputs.

    `env` gives each symbolic name its value. Errors name the line that made the node.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        slots = {node: k for k, node in enumerate(graph.inputs)}
        ops = []
        self._template: list[Any] = [None] * len(graph.inputs)
        for node in graph.nodes:
            if is_projection(node):  # of a step of several results, which fill slots in a row
                slots[node] = slots[node.inputs[0]] + dict(node.attrs)["index"]
                continue
            slots[node] = len(self._template)
            self._template += [node.constant] * len(node.types)
            if node.op is not None:
                ops.append(node)
        self._outputs = tuple(slots[node] for node in graph.outputs)
        kept = {k for k, array in enumerate(self._template) if array is not None}
        dying = _dying(ops, slots, kept.union(self._outputs))
        self.steps = tuple(_step(node, slots, dying) for node in ops)

    def __call__(self, arrays: Sequence[Array], env: Env) -> list[Array]:
        return quietly(self._run, arrays, env)  # type: ignore[no-any-return]

    def timed(self, arrays: Sequence[Array], env: Env, times: Array) -> list[Array]:
        """As a call; row k of `times` becomes when step k began and ended, see `clock`."""
        clocked = copy.copy(self)
        clocked.steps = tuple(
            step._replace(function=partial(_clocked, step.function, row))
            for step, row in zip(self.steps, times, strict=True)
        )
        return clocked(arrays, env)

    def _run(self, arrays: Sequence[Array], env: Env) -> list[Array]:
        values = self._template.copy()
        values[: len(arrays)] = arrays
        trap = config.trap
        take = values.__getitem__
        for node, function, operands, result, attrs, symbolic, free in self.steps:
            if symbolic:
                attrs = {key: concrete(value, env) for key, value in attrs.items()}
            try:
                out = function(*map(take, operands), **attrs)
            except FAILURES as error:
                raise self._explained(node, [*map(take, operands)], attrs, error) from None
            if type(out) is np.ndarray:
                values[result] = out
            elif node.is_several:
                values[result : result + len(out)] = map(np.asarray, out)
            else:
                values[result] = np.asarray(out)
            if trap is not None:
                self._spring(trap, node, values[result : result + len(node.types)])
            for k in free:
                values[k] = None
        return [values[k] for k in self._outputs]

    def _spring(self, trap: str, node: Node, results: Sequence[Array]) -> None:
        assert node.op is not None
        for array in results:
            spring(trap, node.op, array, self.graph.line(node))

    def _explained(
        self, node: Node, arrays: list[Array], attrs: Any, error: Exception
    ) -> Exception:
        assert node.op is not None
        types = [type_of(array) for array in arrays]
        return explain(node.op, types, attrs, error, self.graph.line(node))

    @property
    def decisions(self) -> str:
        """Why nodes stand in the steps where they do."""
        return f"partition of {self.graph.name}: each op is a step of its own, run by NumPy"

    def __str__(self) -> str:
        lines = [f"plan {self.graph.name}: {len(self.steps)} steps on NumPy"]
        for step in self.steps:
            assert step.node.op is not None
            freed = f"  free {', '.join(f's{k}' for k in step.free)}" if step.free else ""
            operands = ", ".join(f"s{k}" for k in step.operands)
            slots = range(step.result, step.result + len(step.node.types))
            results = ", ".join(f"s{k}" for k in slots)
            lines.append(f"  {results} = {step.node.op.name}({operands}){freed}")
        return "\n".join([*lines, f"  return {', '.join(f's{k}' for k in self._outputs)}"])


def _clocked(function: Callable[..., Any], times: Array, *arrays: Array, **attrs: Any) -> Any:
    times[0] = clock()
    out = function(*arrays, **attrs)
    times[1] = clock()
    return out


def _dying(
    ops: Sequence[Node], slots: Mapping[Node, int], kept: Container[int]
) -> dict[Node, list[int]]:
    """For each op the slots that nothing needs after it."""
    last: dict[int, Node] = {}
    for node in ops:
        last.update((slots[node] + k, node) for k in range(len(node.types)))
        last.update((slots[operand], node) for operand in node.inputs)
    freed: dict[Node, list[int]] = {}
    for slot, user in last.items():
        if slot not in kept:
            freed.setdefault(user, []).append(slot)
    return freed


def _step(node: Node, slots: Mapping[Node, int], dying: Mapping[Node, list[int]]) -> Step:
    assert node.op is not None
    attrs = dict(node.attrs)
    return Step(
        node,
        node.op.numpy,
        tuple(slots[operand] for operand in node.inputs),
        slots[node],
        attrs,
        bool(attribute_names(tuple(attrs.values()))),
        tuple(dying.get(node, ())),
    )


# ----- cost ---------------------------------------------------------------------------------------

_VIEWS = {
    "alias", "barrier", "broadcast_to", "custom", "flip", "out", "permute", "reshape", "slice",
    "stop_gradient", "windows",
}  # fmt: skip


class Cost(NamedTuple):
    """An estimate: arithmetic operations, bytes moved, and peak bytes beside the arguments."""

    flops: int
    bytes: int
    peak_bytes: int


def cost(graph: Graph, env: Env) -> Cost:
    """The cost of one run for given sizes; a view (reshape, slice ...) has its operand's bytes."""
    sizes = {n: bytes_of(n, env) for n in (*graph.inputs, *graph.nodes)}
    ops = [node for node in graph.nodes if node.op is not None]
    flops = sum(flops_of(node, env) for node in ops)
    moved = sum(
        0 if is_view(node) else sizes[node] + sum(sizes[x] for x in node.inputs) for node in ops
    )
    return Cost(flops, moved, _peak(graph, ops, sizes))


def is_view(node: Node) -> bool:
    """Whether a node moves no bytes."""
    return node.op is not None and node.op.name in _VIEWS


def _owner(node: Node) -> Node:
    while is_view(node):
        node = node.inputs[0]
    return node


def _peak(graph: Graph, ops: Sequence[Node], sizes: Mapping[Node, int]) -> int:
    """The most bytes alive at once; a buffer dies after the last use of it or of a view of it."""
    last: dict[Node, int] = {}
    for k, node in enumerate(ops):
        for x in (node, *node.inputs):
            last[_owner(x)] = k
    for out in graph.outputs:
        last[_owner(out)] = len(ops)
    dying: dict[int, list[Node]] = {}
    for node, k in last.items():
        dying.setdefault(k, []).append(node)
    inputs = set(graph.inputs)
    alive = peak = 0
    for k, node in enumerate(ops):
        alive += 0 if is_view(node) else sizes[node]
        peak = max(peak, alive)
        alive -= sum(
            sizes[dead] for dead in dying.get(k, ()) if dead not in inputs and dead.constant is None
        )
    return peak


def _elements(node: Node, env: Env) -> int:
    return sum(math.prod(concrete(type_.shape, env)) for type_ in node.types)


def bytes_of(node: Node, env: Env) -> int:
    """The bytes of a node's results."""
    return sum(math.prod(concrete(t.shape, env)) * t.dtype.itemsize for t in node.types)


def flops_of(node: Node, env: Env) -> int:
    """2 n m k for a product of matrices, one an operand element for a fold, one an element else."""
    assert node.op is not None
    if is_view(node):
        return 0
    if node.op.name == "matmul":
        (inner,) = concrete(node.inputs[0].type.shape[-1:], env)
        return 2 * int(inner) * _elements(node, env)
    if node.op.name == "convolution":
        terms = concrete(node.inputs[1].type.shape[1:], env)
        return 2 * math.prod(map(int, terms)) * _elements(node, env)
    if node.op.family == "reduction":
        return _elements(node.inputs[0], env)
    return _elements(node, env) if node.op.family == "elementwise" else 0
