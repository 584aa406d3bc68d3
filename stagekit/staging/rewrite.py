"""Rewriting: rules replace a node by an equal one, in phases, each a fixpoint with a log.

A rule is a function whose docstring is its theorem. `@rule` functions return `lhs, rhs`, traced
once on scalars; `@rewrite(op)` functions look at a node. A result of another type is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stagekit.errors import StagekitError
from stagekit.graph import Graph
from stagekit.node import Interned, Node, operand_types
from stagekit.op import OPS, Op, using
from stagekit.source import Location
from stagekit.staging.interpreter import Staging
from stagekit.symbolic import Facts
from stagekit.types import TensorType, default_float

CLASSES = ("exact", "rounding", "stabilizing", "changes NaN")


class Fired(NamedTuple):
    """One application of a rule: its name, and the user's line of the node it replaced."""

    rule: str
    line: Location | None


class Builder:
    """Makes the nodes of a rewritten graph, each with the type its op's rule gives."""

    def __init__(self) -> None:
        self.interned = Interned()

    def apply(self, op: str, *inputs: Node, **attrs: Any) -> Node:
        rule = OPS[op]
        inferred = rule.infer(*operand_types(inputs), **attrs)
        return self.interned.apply(rule, inputs, attrs, inferred)

    def constant(self, value: Any, type: TensorType) -> Node:
        return self.interned.constant(np.array(value, type.dtype.numpy), type)


@dataclass(frozen=True)
class Rule:
    """A named theorem: `apply(node, build)` gives the better node, or None."""

    name: str
    theorem: str
    kind: str
    op: str
    apply: Callable[[Node, Builder], Node | None]
    sides: tuple[Callable[..., Any], int] | None = None  # of a traced rule, for its test


# ----- declaring rules ----------------------------------------------------------------------------


def rule(kind: str = "exact") -> Callable[[Callable[..., Any]], Rule]:
    """A rule on elementwise expressions: the function returns `lhs, rhs` in the tensor language."""

    def declare(function: Callable[..., Any]) -> Rule:
        count = function.__code__.co_argcount
        left, right, variables = _traced_sides(function, count)
        assert left.op is not None

        def apply(node: Node, build: Builder) -> Node | None:
            found: dict[Node, Node] = {}
            if not _matches(left, node, found, variables):
                return None
            return _instance(right, node, found, build)

        sides = (function, count)
        return Rule(_name(function), _theorem(function), kind, left.op.name, apply, sides)

    assert kind in CLASSES
    return declare


def rewrite(op: str, kind: str = "exact") -> Callable[[Callable[..., Node | None]], Rule]:
    """A rule that looks at one node of `op`: `(node, build) -> Node | None`."""

    def declare(function: Callable[..., Node | None]) -> Rule:
        return Rule(_name(function), _theorem(function), kind, op, function)

    assert kind in CLASSES
    return declare


def _name(function: Callable[..., Any]) -> str:
    return function.__name__


def _theorem(function: Callable[..., Any]) -> str:
    if not function.__doc__:
        raise TypeError(f"rule {function.__name__} states no theorem: give it a docstring")
    return function.__doc__.strip().splitlines()[0]


def _traced_sides(function: Callable[..., Any], count: int) -> tuple[Node, Node, set[Node]]:
    staging = Staging(concolic=False, control="error", facts=Facts())
    with using(staging):
        inputs = [staging.input(f"x{k}", TensorType(default_float, ())) for k in range(count)]
        left, right = function(*inputs)
        sides = [staging.read(side).node for side in (left, right)]
    return sides[0], sides[1], {staging.read(x).node for x in inputs}


def _matches(pattern: Node, node: Node, found: dict[Node, Node], variables: set[Node]) -> bool:
    if pattern in variables:
        return found.setdefault(pattern, node) is node
    if pattern.constant is not None:
        return node.constant is not None and _is_filled(node.constant, pattern.constant)
    return (
        pattern.op is node.op
        and pattern.attrs == node.attrs
        and all(
            _matches(p, n, found, variables)
            for p, n in zip(pattern.inputs, node.inputs, strict=True)
        )
    )


def _is_filled(array: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> bool:
    """Whether every element is the number `value`, signs of zeros included."""
    wanted = value.astype(array.dtype)
    if not array.size or not np.all(array == wanted):
        return False
    parts = (array.real, wanted.real), (array.imag, wanted.imag)
    return all(bool(np.all(np.signbit(a) == np.signbit(b))) for a, b in parts)


def _instance(
    pattern: Node, node: Node, found: Mapping[Node, Node], build: Builder
) -> Node:
    """The right side on the nodes found; its constants take the type of the replaced node."""
    if pattern in found:
        return found[pattern]
    if pattern.constant is not None:
        return build.constant(pattern.constant, TensorType(node.type.dtype, ()))
    assert pattern.op is not None
    inputs = [_instance(x, node, found, build) for x in pattern.inputs]
    return build.apply(pattern.op.name, *inputs, **dict(pattern.attrs))


# ----- the driver ---------------------------------------------------------------------------------

_MAX_PER_NODE = 32


def apply_rules(graph: Graph, rules: Iterable[Rule]) -> tuple[Graph, list[Fired]]:
    """The graph with every rule applied, operands first, until none fires; and what fired."""
    by_op: dict[str, list[Rule]] = {}
    for each in rules:
        by_op.setdefault(each.op, []).append(each)
    build, log = Builder(), list[Fired]()
    made: dict[Node, Node] = {n: build.interned.input(n.name, n.type) for n in graph.inputs}
    lines: dict[Node, tuple[Location, ...]] = {}
    for node in graph.nodes:
        fresh = _again(node, made, build)
        made[node] = _improved(fresh, by_op, build, log, graph.line(node))
        if node in graph.lines:
            lines.setdefault(made[node], graph.lines[node])
    inputs, outputs = tuple(made[n] for n in graph.inputs), tuple(made[n] for n in graph.outputs)
    checks = tuple(c for n in graph.checks if (c := made[n]).op is not None and c.op.checks)
    return Graph(graph.name, inputs, outputs, checks, lines), log


def _again(node: Node, made: Mapping[Node, Node], build: Builder) -> Node:
    if node.op is None:
        assert node.constant is not None
        return build.interned.constant(node.constant, node.type)
    inputs = tuple(made[x] for x in node.inputs)
    return build.interned.apply(node.op, inputs, dict(node.attrs), node.types)


def _improved(
    node: Node, by_op: Mapping[str, list[Rule]], build: Builder, log: list[Fired], line: Any
) -> Node:
    for _ in range(_MAX_PER_NODE):
        better = _first(node, by_op, build)
        if better is None:
            return node
        log.append(Fired(better[0].name, line))
        node = better[1]
    return node


def _first(
    node: Node, by_op: Mapping[str, list[Rule]], build: Builder
) -> tuple[Rule, Node] | None:
    """The first rule that gives another node of the same type."""
    op: Op | None = node.op
    for each in by_op.get(op.name, ()) if op is not None else ():
        try:
            better = each.apply(node, build)
        except StagekitError:  # the right side does not fit these types
            continue
        if better is not None and better is not node and better.types == node.types:
            return each, better
    return None
