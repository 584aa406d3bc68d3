"""What a plan of one native function needs to run, apart from its code: data that a file can hold.

A plan that has no library call, and whose outputs are all written by it or are its inputs, is kept
on disk under its graph as it was traced, so that another process needs no rewriting, no lowering
and no LLVM to run it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache as once
from pathlib import Path
from typing import Any, NamedTuple

from stagekit.graph import Graph, attribute_text, parse_type
from stagekit.kernels.code import Layout
from stagekit.kernels.fusion.aliasing import may_overwrite
from stagekit.kernels.fusion.steps import Steps, has_checks, times
from stagekit.kernels.machine import engine
from stagekit.kernels.machine.cache import key
from stagekit.node import Node
from stagekit.symbolic import Expr, Fact, parse_expr
from stagekit.types import TensorType


class Place(NamedTuple):
    """Where an output of a graph lies: the number of an input or of an output buffer."""

    kind: str
    number: int


class Program(NamedTuple):
    """Symbols, in the order of the block; the types of output buffers and of the graph's outputs,
    the latter with their places; the arena's bytes; which input an output buffer may overwrite;
    and the graph of the numbers that are inputs.
    """

    symbols: tuple[str, ...]
    buffers: tuple[TensorType, ...]
    types: tuple[TensorType, ...]
    places: tuple[Place, ...]
    arena: Expr
    overwrites: frozenset[tuple[int, int]]
    numbers: tuple[Node, ...]

    def data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "symbols": list(self.symbols),
            "buffers": list(map(str, self.buffers)),
            "types": list(map(str, self.types)),
            "places": [list(place) for place in self.places],
            "arena": str(self.arena),
            "overwrites": sorted(map(list, self.overwrites)),
            "numbers": str(Graph("numbers", (), self.numbers)),
        }

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Program:
        """The program that `data` gave; raises ValueError, TypeError or KeyError for other data."""
        return cls(
            tuple(data["symbols"]),
            tuple(map(parse_type, data["buffers"])),
            tuple(map(parse_type, data["types"])),
            tuple(Place(*place) for place in data["places"]),
            parse_expr(data["arena"]),
            frozenset((a, b) for a, b in data["overwrites"]),
            Graph.parse(data["numbers"]).outputs,
        )


def program_of(steps: Steps, layout: Layout, numbers: tuple[Node, ...]) -> Program | None:
    """The program of a plan, None where an output is a constant or a library call's result."""
    graph = steps.graph
    names = [steps.buffers.get(node, "") for node in graph.outputs]
    if not all(name in layout.inputs or name in layout.outputs for name in names):
        return None
    owners: dict[str, TensorType] = {}
    places = []
    for node, name in zip(graph.outputs, names, strict=True):
        if name in layout.inputs:
            places.append(Place("input", layout.inputs[name]))
        else:
            owners.setdefault(name, node.type)
            places.append(Place("output", layout.outputs[name]))
    return Program(
        graph.symbols,
        tuple(owners[name] for name in layout.outputs),
        tuple(node.type for node in graph.outputs),
        tuple(places),
        layout.arena.size,
        overwrites(steps, layout),
        numbers,
    )


def overwrites(steps: Steps, layout: Layout) -> frozenset[tuple[int, int]]:
    """Which output may lie in which input's buffer: never where a check may yet fail."""
    when = times(steps.steps)
    checked = max((t for t, step in zip(when, steps.steps) if has_checks(step)), default=-1)
    return frozenset(
        (out, given)
        for name, out in layout.outputs.items()
        for other, given in layout.inputs.items()
        if steps.types[name] is steps.types[other] and steps.sizes[name] == steps.sizes[other]
        and may_overwrite(steps.steps, name, other, checked, when)
    )  # fmt: skip


# ----- keys ---------------------------------------------------------------------------------------


def key_of(graph: Graph, facts: Iterable[Fact]) -> str:
    """What tells the code for a traced graph from all other: its nodes, what is known of its sizes,
    and everything that makes code.
    """
    return key("plan", toolchain(), *_rows(graph), *sorted(map(str, facts)))


def _rows(graph: Graph) -> list[str]:
    """A line for each node, without names and source lines."""
    numbers = {node: k for k, node in enumerate((*graph.inputs, *graph.nodes))}
    rows = []
    for node in (*graph.inputs, *graph.nodes):
        attrs = [
            f"{name}={attribute_text(value)}" for name, value in node.attrs
            if not (node.op is not None and node.op.name == "custom")
        ]  # fmt: skip
        data = "" if node.constant is None else hashlib.sha256(node.constant.tobytes()).hexdigest()
        name = node.op.name if node.op is not None else "leaf"
        rows.append(f"{name} {node.type_text} {[numbers[x] for x in node.inputs]} {attrs} {data}")
    ends: Sequence[Any] = (graph.outputs, graph.checks)
    return [*rows, *(str([numbers[node] for node in nodes]) for nodes in ends)]


@once
def toolchain() -> str:
    """The CPU, LLVM and this package's own sources: what code depends on beside a graph."""
    root = Path(__file__).parents[1]
    stamps = []
    for path in sorted(root.rglob("*.py")):
        stat = os.stat(path)
        stamps.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join([engine.target(), *stamps])
