"""The steps of a graph: kernels, products, convolutions and library calls, and their buffers.

The partition says what they are; here each kernel is lowered and scheduled, and each node that lies
in memory gets a buffer, by name.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stagekit.evaluation import Array
from stagekit.graph import Graph
from stagekit.kernels.fusion.lower import CannotLower, Lowering, flat
from stagekit.kernels.fusion.partition import Cluster, Partition, kind_of
from stagekit.kernels.fusion.schedule import Scheduled, Target, schedule
from stagekit.kernels.ir import Check, Kernel, Loop, every
from stagekit.kernels.llvm.vectors import Lanes
from stagekit.kernels.machine import blas, engine
from stagekit.kernels.products.convolution import Code as ConvolutionCode
from stagekit.kernels.products.convolution_nodes import Convolution
from stagekit.kernels.products.matmul import Matmul, flattened
from stagekit.kernels.sizes import product
from stagekit.node import Node
from stagekit.symbolic import Expr
from stagekit.types import DType, uint8

_SIDE_BY_SIDE = 64  # steps of one parallel loop
_refused: dict[Any, str] = {}  # kinds of nodes whose elements no kernel can say, and why


@dataclass(frozen=True, eq=False)
class Step:
    """One step: the buffers it reads and writes, by name."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class KernelStep(Step):
    """Rows of a kernel, in chunks."""

    scheduled: Scheduled


@dataclass(frozen=True, eq=False)
class MatmulStep(Step):
    """Products of matrices."""

    product: Matmul


@dataclass(frozen=True, eq=False)
class ConvolutionStep(Step):
    """A convolution, or a derivative of one; `scratch` is the buffer that it works in."""

    convolution: Convolution
    code: ConvolutionCode


@dataclass(frozen=True, eq=False)
class LibraryStep(Step):
    """A node that NumPy evaluates, with the nodes that take its several results."""

    node: Node
    results: tuple[Node, ...]


class Steps:
    """The steps of a graph, with the buffer of each node that lies in memory."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        mine: dict[Any, str] = {}
        while True:
            try:
                self._make(Partition(graph, ChainMap(mine, _refused), blas.available()))
                return
            except CannotLower as error:
                kind = kind_of(error.node)
                (mine if kind == error.node else _refused)[kind] = str(error)

    def _make(self, partition: Partition) -> None:
        self.partition = partition
        self.buffers: dict[Node, str] = {}
        self.types: dict[str, DType] = {}
        self.sizes: dict[str, Expr] = {}
        self.checks: list[Node] = []
        self.steps: list[Step] = []
        self.constants: dict[str, Array] = {}
        for k, node in enumerate(self.graph.inputs):
            self._named(node, f"in{k}")
        for node in self.graph.nodes:
            if node.constant is not None:
                name = f"constant{len(self.constants)}"
                self.constants[name] = node.constant
                self._named(node, name)
        for cluster in partition.clusters:
            for node in cluster.roots if cluster.kind == "kernel" else cluster.nodes:
                if not node.is_several:
                    self._named(node, self._place_of(cluster, node))
            getattr(self, f"_{cluster.kind}")(cluster)

    def _place_of(self, cluster: Cluster, node: Node) -> str:
        """A reshape lies where its operand does."""
        if cluster.kind == "reshape":
            return self.buffers[node.inputs[0]]
        return f"b{node.serial}"

    def _named(self, node: Node, name: str) -> None:
        self.buffers[node] = name
        self.types.setdefault(name, node.type.dtype)
        self.sizes.setdefault(name, product(map(Expr.of, node.type.shape)))

    def _reshape(self, cluster: Cluster) -> None:
        pass

    def _library(self, cluster: Cluster) -> None:
        node = cluster.nodes[0]
        results = [n for n in cluster.nodes if not n.is_several]
        reads = tuple(self.buffers[x] for x in node.inputs if x in self.buffers)
        writes = tuple(self.buffers[n] for n in results)
        self.steps.append(
            LibraryStep(f"library{len(self.steps)}", reads, writes, (node,), node, tuple(results))
        )

    def _convolution(self, cluster: Cluster) -> None:
        (node,) = cluster.nodes
        found = self.partition.convolutions[node]
        name = f"convolution{len(self.steps)}"
        lanes = Lanes.of(node.type.dtype, engine.vector_bytes())
        code = found.code(name, lanes)
        scratch = f"{name}_scratch"
        self.types[scratch], self.sizes[scratch] = uint8, Expr.of(code.scratch)
        reads = (self.buffers[found.x], self.buffers[found.w])
        writes = (self.buffers[node], scratch)
        self.steps.append(ConvolutionStep(name, reads, writes, (node,), found, code))

    def _matmul(self, cluster: Cluster) -> None:
        (node,) = cluster.nodes
        x, y = (self.partition.operand(v) for v in node.inputs)
        name = f"matmul{len(self.steps)}"
        out = self.buffers[node]
        shape = tuple(map(Expr.of, node.type.shape))
        op = flattened(Matmul(name, node.type.dtype, x, y, out, shape))
        reads = (self.buffers[x.base], self.buffers[y.base])
        self.steps.append(MatmulStep(name, reads, (out,), (node,), op))

    def _kernel(self, cluster: Cluster) -> None:
        labelled = {**cluster.external, **{n: self.partition.axes[n] for n in cluster.nodes}}
        axes = {
            node: tuple(None if label is None else f"i{label.root.serial}" for label in found)
            for node, found in labelled.items()
        }
        extents = {
            f"i{label.root.serial}": Expr.of(label.root.extent)
            for found in labelled.values() for label in found if label is not None
        }  # fmt: skip
        mine = set(cluster.nodes)
        memory = {
            node: name for node, name in self.buffers.items()
            if node not in mine and not (node.constant is not None and node.constant.size == 1)
        }  # fmt: skip
        lowering = Lowering(memory, axes, extents)
        targets = [t for node in cluster.roots for t in self._targets(node, axes[node], lowering)]
        targets = self._with_checks(targets, lowering)
        inner = frozenset(f"i{label.root.serial}" for label in cluster.inner)
        name = f"kernel{len(self.steps)}"
        for scheduled in schedule(name, targets, inner, self.types):
            for part in scheduled.partials:
                self.types[part.name], self.sizes[part.name] = part.type, part.size
            reads, writes = _touched(scheduled.kernel)
            nodes = tuple(cluster.nodes)
            self.steps.append(KernelStep(scheduled.kernel.name, reads, writes, nodes, scheduled))

    def _targets(
        self, node: Node, axes: Sequence[str | None], lowering: Lowering
    ) -> list[Target]:
        """What is stored for a node: of a concatenation each part, where it lies."""
        if node.op is None or node.op.name != "concat" or len(node.inputs) < 2:
            return [self._target(node, axes, lowering)]
        axis = dict(node.attrs)["axis"]
        found, start = [], Expr.of(0)
        for k, part in enumerate(node.inputs):
            own = list(axes)
            sizes = [Expr.of(n) for n in part.type.shape]
            own[axis] = None if sizes[axis].constant == 1 else f"part{node.serial}_{k}"
            loops = tuple(Loop(a, n) for a, n in zip(own, sizes, strict=True) if a is not None)
            lowering.extents.update({loop.name: loop.extent for loop in loops})
            idx = [Expr.of(0) if a is None else Expr.named(a) for a in own]
            value = lowering.element(part, tuple(idx))
            idx[axis] = idx[axis] + start
            place = flat(idx, node.type.shape)
            found.append(Target(self.buffers[node], loops, place, value))
            start = start + sizes[axis]
        return found

    def _target(
        self, node: Node, axes: Sequence[str | None], lowering: Lowering
    ) -> Target:
        idx = tuple(Expr.of(0) if a is None else Expr.named(a) for a in axes)
        loops = tuple(
            Loop(a, Expr.of(n)) for a, n in zip(axes, node.type.shape, strict=True)
            if a is not None
        )  # fmt: skip
        value = lowering.element(node, idx)
        return Target(self.buffers[node], loops, flat(idx, node.type.shape), value)

    def _with_checks(self, targets: list[Target], lowering: Lowering) -> list[Target]:
        """Each check with a target that has the checked index among its values."""
        for found in lowering.checks.values():
            self.checks.append(found.node)
            check = Check(found.bad, len(self.checks))
            mine = {v for v in every(found.bad) if v.op in ("load", "number")}
            shared = [len(mine.intersection(every(t.value))) for t in targets]
            k = shared.index(max(shared))
            targets[k] = targets[k]._replace(checks=(*targets[k].checks, check))
        return targets


def regions(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps in a row that do not need each other, and so may run side by side; others alone."""
    found: list[list[Step]] = []
    read: set[str] = set()
    written: set[str] = set()
    for step in steps:
        apart = (
            not found or not _in_chunks(step) or not _in_chunks(found[-1][0])
            or len(found[-1]) >= _SIDE_BY_SIDE or not written.isdisjoint(step.reads)
            or not written.isdisjoint(step.writes) or not read.isdisjoint(step.writes)
        )  # fmt: skip
        if apart:
            found.append([])
            read, written = set(), set()
        found[-1].append(step)
        read.update(step.reads)
        written.update(step.writes)
    return found


def _in_chunks(step: Step) -> bool:
    """Whether a step is chunks of rows, in any order."""
    if isinstance(step, MatmulStep):
        return True
    return isinstance(step, KernelStep) and bool(step.scheduled.kernel.rows or (
        step.scheduled.kernel.flat
    ))


def times(steps: Sequence[Step]) -> list[int]:
    """For each step the number of its region."""
    return [k for k, region in enumerate(regions(steps)) for _ in region]


def has_checks(step: Step) -> bool:
    """Whether something may fail in a step."""
    return isinstance(step, KernelStep) and bool(step.scheduled.kernel.checks)


def _touched(kernel: Kernel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The buffers that a kernel reads and writes."""
    written = {s.buffer for stage in kernel.stages for s in stage.stores}
    written |= {c.buffer for stage in kernel.stages for c in stage.columns}
    names = [b.name for b in kernel.buffers]
    return tuple(n for n in names if n not in written), tuple(n for n in names if n in written)
