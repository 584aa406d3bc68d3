"""What one run of each step of a plan takes: bytes of memory, operations, and from which lines.

A kernel counts each element that it reads or writes once, however often it does; operations count
as in `plan.cost`, for the first step that has the node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stagekit.graph import Graph
from stagekit.kernels.fusion.steps import ConvolutionStep, KernelStep, MatmulStep, Step, Steps
from stagekit.kernels.ir import Kernel, Loop, every
from stagekit.kernels.plan import NativePlan
from stagekit.node import Node
from stagekit.plan import Env, Plan, bytes_of, flops_of, is_view
from stagekit.source import Location
from stagekit.symbolic import Expr, evaluate


class Work(NamedTuple):
    """A step: its name, the ops in it, bytes and operations of one run, and the user's lines."""

    step: str
    ops: tuple[str, ...]
    bytes: int
    flops: int
    lines: tuple[Location, ...]


def work(plan: Plan | NativePlan, env: Env) -> list[Work]:
    """The work of each step of a plan for the sizes in `env`."""
    if isinstance(plan, NativePlan):
        return _native(plan.steps, env)
    found = []
    for step in plan.steps:
        node = step.node
        assert node.op is not None
        moved = 0 if is_view(node) else sum(bytes_of(x, env) for x in (node, *node.inputs))
        flops, lines = flops_of(node, env), _lines(plan.graph, [node])
        found.append(Work(f"s{step.result}", (node.op.name,), moved, flops, lines))
    return found


def _native(steps: Steps, env: Env) -> list[Work]:
    counted: set[Node] = set()
    found = []
    for step in steps.steps:
        nodes = [n for n in _nodes(step) if n not in counted and n.op is not None]
        counted.update(nodes)
        flops = sum(flops_of(n, env) for n in nodes)
        lines = _lines(steps.graph, step.nodes)
        found.append(Work(step.name, _ops(_nodes(step)), _moved(steps, step, env), flops, lines))
    return found


def _nodes(step: Step) -> Sequence[Node]:
    """The nodes whose operations are done in a step."""
    if not isinstance(step, ConvolutionStep):
        return step.nodes
    (node,) = step.nodes  # it may be the convolution with its axes exchanged
    while node.op is not None and node.op.name != "convolution":
        node = node.inputs[0]
    return [node]


def _ops(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n.op.name for n in nodes if n.op is not None and not is_view(n)))


def _lines(graph: Graph, nodes: Iterable[Node]) -> tuple[Location, ...]:
    return tuple(dict.fromkeys(line for n in nodes for line in graph.lines.get(n, ())))


# ----- bytes --------------------------------------------------------------------------------------


def _moved(steps: Steps, step: Step, env: Env) -> int:
    def size(name: str) -> int:
        return int(evaluate(steps.sizes[name], env))

    touched = {name: size(name) for name in (*step.reads, *step.writes)}
    if isinstance(step, KernelStep):
        for name, elements in _read(step.scheduled.kernel, env).items():
            if name in step.reads:
                touched[name] = min(elements, touched[name])
    elif isinstance(step, MatmulStep):
        for view in (step.product.x, step.product.y):
            name = steps.buffers[view.base]
            touched[name] = min(touched[name], _product(view.shape, env))
    elif isinstance(step, ConvolutionStep):
        del touched[step.writes[-1]]  # its scratch stays near
    return sum(n * steps.types[name].itemsize for name, n in touched.items())


def _read(kernel: Kernel, env: Env) -> dict[str, int]:
    """How many elements of each buffer a kernel may read: an index for each turn of its loops."""
    loops: dict[str, Loop] = {loop.name: loop for loop in kernel.rows}
    values = {v for s in kernel.stages for root in s.roots for v in every(root)}
    values |= {v for check in kernel.checks for v in every(check.bad)}
    loops |= {loop.name: loop for stage in kernel.stages for loop in stage.loops}
    loops |= {loop.name: loop for v in values if v.op == "fold" for loop in v.attr.loops}
    found: dict[str, int] = {}
    for buffer, offset in {v.attr[:2] for v in values if v.op == "load"}:
        extents = [loops[n].extent for n in kernel.body.names(offset) if n in loops]
        found[buffer] = found.get(buffer, 0) + _product(extents, env)
    return found


def _product(sizes: Iterable[Expr], env: Env) -> int:
    return math.prod(int(evaluate(n, env)) for n in sizes)
