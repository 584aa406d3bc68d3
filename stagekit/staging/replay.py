"""Run a graph by re-applying its ops under the current interpreter.

The same few lines evaluate a graph, inline it into another trace, and differentiate it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagekit.graph import Graph
from stagekit.node import Node, is_projection
from stagekit.op import current
from stagekit.plan import concrete
from stagekit.source import attributed


def replay(graph: Graph, inputs: Sequence[Any], env: Mapping[str, Any]) -> list[Any]:
    """The outputs for input tensors; `env` gives each symbolic name a plain number or a `Dim`."""
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    interpreter = current()
    for node in graph.nodes:
        if node.op is None:
            values[node] = interpreter.literal(node.constant)
            continue
        attrs = {key: concrete(value, env) for key, value in node.attrs}
        if is_projection(node):
            values[node] = values[node.inputs[0]][attrs["index"]]
            continue
        with attributed(graph.line(node)):
            values[node] = node.op(*(values[operand] for operand in node.inputs), **attrs)
    return [values[node] for node in graph.outputs]
