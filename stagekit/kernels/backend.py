"""Which code runs a graph: machine code where llvmlite is installed, else NumPy's own loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import count
from typing import Any

from stagekit.errors import StagekitWarning
from stagekit.graph import Graph
from stagekit.kernels.machine import engine
from stagekit.kernels.plan import NativePlan
from stagekit.node import Interned, Node
from stagekit.op import OPS
from stagekit.plan import Plan
from stagekit.source import stack_level
from stagekit.symbolic import Expr, Fact, names
from stagekit.types import TensorType


def plan(
    graph: Graph, facts: Iterable[Fact], optimized: Callable[[], Graph]
) -> Plan | NativePlan:
    """The plan for a traced graph, right where the facts hold that its trace has relied on.

    `optimized` rewrites it, and is asked only where no process has made this plan before. A failure
    of the code generator is a warning, and NumPy runs the graph.
    """
    if not engine.available():
        _say_once()
        return Plan(optimized())
    try:
        return NativePlan(lambda: fed(settled(optimized(), facts)), graph, facts)
    except Exception as error:
        warnings.warn(
            f"{graph.name}: no native code ({type(error).__name__}: {error}); NumPy runs it",
            StagekitWarning,
            stacklevel=stack_level(),
        )
        return Plan(optimized())


@cache
def _say_once() -> None:
    warnings.warn(
        "staged functions run on NumPy, without native code\n"
        '  fix: pip install "stagekit[cpu]"',
        StagekitWarning,
        stacklevel=stack_level(),
    )


# ----- numbers ------------------------------------------------------------------------------------


def fed(graph: Graph) -> tuple[Graph, tuple[Node, ...]]:
    """The graph with inputs for Python numbers, and the nodes that say what they are.

    Sizes stay: machine code knows them. A number is any name that is the size of no input.

    >>> text = "graph f(%x: f32[n])\\n  %0: f32[] = number(dtype=float32, expr=formula('lr'))\\n"
    >>> text += "  %1: f32[n] = multiply(%x, %0)\\n  return %1\\n"
    >>> print(str(fed(Graph.parse(text))[0]).splitlines()[0])
    graph f(%x: f32[n], %number0: f32[])
    """
    sizes = {name for node in graph.inputs for size in node.type.shape for name in names(size)}
    numbers = tuple(
        node for node in graph.nodes
        if node.op is OPS["number"] and not names(dict(node.attrs)["expr"]) <= sizes
    )  # fmt: skip
    if not numbers:
        return graph, ()
    interned = Interned()
    made = {node: interned.input(node.name, node.type) for node in graph.inputs}
    taken = {node.name for node in graph.inputs}
    free = (name for k in count() if (name := f"number{k}") not in taken)
    made |= {node: interned.input(next(free), node.type) for node in numbers}
    inputs = tuple(made.values())
    for node in graph.nodes:
        if node in made:
            continue
        if node.op is None:
            assert node.constant is not None
            made[node] = interned.constant(node.constant, node.type)
        else:
            operands = tuple(made[x] for x in node.inputs)
            made[node] = interned.apply(node.op, operands, dict(node.attrs), node.types)
    lines = {made[n]: found for n, found in graph.lines.items() if n in made}
    outputs, checks = (tuple(made[n] for n in nodes) for nodes in (graph.outputs, graph.checks))
    return Graph(graph.name, inputs, outputs, checks, lines), numbers


# ----- sizes that are known to be equal -----------------------------------------------------------


def settled(graph: Graph, facts: Iterable[Fact]) -> Graph:
    """The graph with each name replaced that the facts say is another expression.

    >>> n, m = Expr.named("n"), Expr.named("m")
    >>> text = "graph f(%x: f32[n], %y: f32[m])\\n  %0: f32[n] = add(%x, %y)\\n  return %0\\n"
    >>> print(str(settled(Graph.parse(text), [Fact(m, "==", n, True)])).splitlines()[0])
    graph f(%x: f32[n], %y: f32[n])
    """
    known = solved(facts)
    if not known:
        return graph
    interned = Interned()
    made: dict[Node, Node] = {}
    for node in graph.inputs:
        made[node] = interned.input(node.name, _retyped(node.type, known))
    for node in graph.nodes:
        types = tuple(_retyped(t, known) for t in node.types)
        if node.op is None:
            assert node.constant is not None
            made[node] = interned.constant(node.constant, types[0])
        else:
            attrs = {key: _replaced(value, known) for key, value in node.attrs}
            made[node] = interned.apply(node.op, tuple(made[x] for x in node.inputs), attrs, types)
    lines = {made[n]: found for n, found in graph.lines.items() if n in made}
    inputs, outputs, checks = (
        tuple(made[n] for n in nodes) for nodes in (graph.inputs, graph.outputs, graph.checks)
    )
    return Graph(graph.name, inputs, outputs, checks, lines)


def solved(facts: Iterable[Fact]) -> dict[str, Expr]:
    """What names are by the equalities among some facts, each in terms of names that stay."""
    known: dict[str, Expr] = {}
    for left, relation, right, outcome in facts:
        plain = isinstance(left, (int, Expr)) and isinstance(right, (int, Expr))
        if not (outcome and relation in ("==", "same") and plain):
            continue
        gap = _replaced(Expr.of(left), known)
        gap = Expr.of(gap) - _replaced(Expr.of(right), known)
        name = _alone(gap)
        if name is None:
            continue
        c = dict(gap.terms)[(name,)]
        value = Expr.of(Expr.named(name) - gap * c)
        known = {n: Expr.of(_replaced(e, {name: value})) for n, e in known.items()}
        known[name] = value
    return known


def _alone(gap: Expr) -> str | None:
    """A name that occurs once, by itself, so that the equation says what it is."""
    for monomial, c in gap.terms:
        if len(monomial) == 1 and isinstance(monomial[0], str) and c in (1, -1):
            rest = gap - Expr({monomial: c})
            if monomial[0] not in rest.names:
                return monomial[0]
    return None


def _replaced(value: Any, known: Mapping[str, Expr]) -> Any:
    """An attribute or size with names replaced; formulas of floats stay as they are."""
    if isinstance(value, Expr):
        if not value.names & known.keys():
            return value
        found = Expr.of(value.evaluate({n: known.get(n, Expr.named(n)) for n in names(value)}))
        return found if found.constant is None else found.constant
    return tuple(_replaced(v, known) for v in value) if type(value) is tuple else value


def _retyped(type_: TensorType, known: Mapping[str, Expr]) -> TensorType:
    return TensorType(type_.dtype, _replaced(type_.shape, known), type_.device)


def native(graph: Graph) -> NativePlan:
    """The machine code of a graph as it is, without rewriting; raises what the generator raises."""
    return NativePlan(lambda: fed(graph), graph, ())
