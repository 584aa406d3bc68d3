"""`NativePlan`: a graph as machine code. Kernels, products of matrices and library calls, in order.

Everything between two library calls is one native function `i64 NAME(ptr block)`. The words of a
block: pointers of the inputs, of the outputs, of the arena, the values of the symbolic sizes, and
pointers of what library calls gave. It returns 0, or the number of a check that failed.
"""

from __future__ import annotations

import ctypes
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from stagekit.evaluation import FAILURES, Array, explain, quietly, scalar, type_of
from stagekit.graph import Graph
from stagekit.kernels import blas, engine, llvm, threads
from stagekit.kernels.aliasing import may_overwrite
from stagekit.kernels.arena import Arenas
from stagekit.kernels.emit import Emitter, memory_type
from stagekit.kernels.entry import CallType, Operand, Result
from stagekit.kernels.ir import Check, Kernel, Loop, every
from stagekit.kernels.lower import CannotLower, Lowering, flat
from stagekit.kernels.matmul import Matmul, flattened
from stagekit.kernels.matmul import write as write_matmul
from stagekit.kernels.memory import Arena, Lifetime, allocate
from stagekit.kernels.partition import Cluster, Partition, kind_of
from stagekit.kernels.schedule import Scheduled, Target, count, product, schedule
from stagekit.node import Node, is_projection
from stagekit.plan import Env, Plan, concrete, cost
from stagekit.settings import config
from stagekit.symbolic import Expr, evaluate
from stagekit.types import DType

_LONG = 1 << 20  # operations, or bytes, from which other threads of Python may run meanwhile
_PARALLEL = 1 << 15  # elements (times their cost) from which a second thread pays

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
class LibraryStep(Step):
    """A node that NumPy evaluates, with the nodes that take its several results."""

    node: Node
    results: tuple[Node, ...]


@dataclass(eq=False)
class Layout:
    """Where each buffer lies: the number of an input, output or library result, or the arena."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    arena: Arena = field(default_factory=lambda: allocate({}))


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
        targets = [self._target(node, axes[node], lowering) for node in cluster.roots]
        targets = self._with_checks(targets, lowering)
        inner = frozenset(f"i{label.root.serial}" for label in cluster.inner)
        name = f"kernel{len(self.steps)}"
        for scheduled in schedule(name, targets, inner, self.types):
            for part in scheduled.partials:
                self.types[part.name], self.sizes[part.name] = part.type, part.size
            reads, writes = _touched(scheduled.kernel)
            nodes = tuple(cluster.nodes)
            self.steps.append(KernelStep(scheduled.kernel.name, reads, writes, nodes, scheduled))

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


def has_checks(step: Step) -> bool:
    """Whether something may fail in a step."""
    return isinstance(step, KernelStep) and bool(step.scheduled.kernel.checks)


def _touched(kernel: Kernel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The buffers that a kernel reads and writes."""
    written = {s.buffer for stage in kernel.stages for s in (*stage.stores, *stage.columns)}
    names = [b.name for b in kernel.buffers]
    return tuple(n for n in names if n not in written), tuple(n for n in names if n in written)


# ----- code ---------------------------------------------------------------------------------------


class Code:
    """The LLVM module of a plan: kernels, each once, and one function for each native stretch."""

    def __init__(self, steps: Steps, layout: Layout, width: int) -> None:
        self.steps, self.layout, self.width = steps, layout, width
        self.symbols = steps.graph.symbols
        self.functions: dict[str, llvm.Written] = {}
        self.known: dict[str, str] = {}  # the name of a function by its text without the name
        self.ranges: list[tuple[int, int]] = []

    def stretch(self, name: str, steps: Sequence[Step]) -> None:
        """A function that runs native steps in order."""
        e = Emitter()
        layout = self.layout
        arena_word = len(layout.inputs) + len(layout.outputs)
        for k, symbol in enumerate(self.symbols, arena_word + 1):
            e.scopes[0].names[symbol] = self._word(e, "%block", k, "i64")
        self.arena = self._word(e, "%block", arena_word, "ptr")
        self.first_host = arena_word + 1 + len(self.symbols)
        self.pointers: dict[str, str] = {}
        e.do("%error = alloca i64")
        e.do("store i64 0, ptr %error")
        for step in steps:
            self._run(e, step)
            if has_checks(step):
                self._stop_where_one_failed(e)
        e.do("ret i64 0")
        text = "\n".join([f"define i64 @{name}(ptr %block) {{\nentry:", *e.lines, "}"])
        self.functions[name] = llvm.Written(text, tuple(e.declared))

    def _stop_where_one_failed(self, e: Emitter) -> None:
        """Nothing after a failed check is run: the steps that follow may write in place."""
        found = e.emit("load i64, ptr %error")
        failed = e.emit(f"icmp ne i64 {found}, 0")
        n = e.fresh_block()
        e.do(f"br i1 {failed}, label %stop{n}, label %go{n}")
        e.label(f"stop{n}")
        e.do(f"ret i64 {found}")
        e.label(f"go{n}")

    def text(self) -> str:
        """The module."""
        constants = [
            f"@{name} = internal constant [{array.nbytes} x i8] c\"{_quoted(array)}\", align 64"
            for name, array in self.steps.constants.items()
        ]
        return "\n".join([llvm.module(self.functions.values()), *constants, ""])

    def _word(self, e: Emitter, block: str, k: int, kind: str) -> str:
        return e.emit(f"load {kind}, ptr {e.emit(f'getelementptr i64, ptr {block}, i64 {k}')}")

    def pointer(self, e: Emitter, name: str) -> str:
        """The pointer to a buffer."""
        if name in self.pointers:
            return self.pointers[name]
        layout = self.layout
        if name in layout.inputs:
            found = self._word(e, "%block", layout.inputs[name], "ptr")
        elif name in layout.outputs:
            found = self._word(e, "%block", len(layout.inputs) + layout.outputs[name], "ptr")
        elif name in layout.hosts:
            found = self._word(e, "%block", self.first_host + layout.hosts[name], "ptr")
        elif name in self.steps.constants:
            return f"@{name}"
        else:
            offset = e.index(layout.arena.offsets[name])
            found = e.emit(f"getelementptr i8, ptr {self.arena}, i64 {offset}")
        self.pointers[name] = found
        return found

    def _run(self, e: Emitter, step: Step) -> None:
        if isinstance(step, KernelStep):
            self._run_kernel(e, step)
        elif isinstance(step, MatmulStep):
            self._run_matmul(e, step)

    def _arguments(self, e: Emitter, words: Sequence[tuple[str, str]]) -> str:
        block = e.emit(f"alloca [{len(words)} x i64], align 64")
        for k, (kind, word) in enumerate(words):
            at = e.emit(f"getelementptr i64, ptr {block}, i64 {k}")
            e.do(f"store {kind} {word}, ptr {at}")
        return block

    def _run_kernel(self, e: Emitter, step: KernelStep) -> None:
        kernel, rows, chunks, _ = step.scheduled
        name = self._function(kernel.name, llvm.function(kernel, self.width))
        words = [("ptr", self.pointer(e, b.name)) for b in kernel.buffers]
        words += [("i64", e.index(Expr.named(n))) for n in kernel.sizes]
        words.append(("ptr", "%error"))
        if kernel.flat is None and not kernel.rows:
            args = self._arguments(e, words)
            e.do(f"call void @{name}(ptr {args}, i64 0, i64 1)")
            return
        self._chunked(e, name, words, rows, chunks, kernel.grain, _cost(step.scheduled))

    def _run_matmul(self, e: Emitter, step: MatmulStep) -> None:
        op = step.product
        inner = Emitter()
        sizes = sorted({n for v in (op.x, op.y) for x in (*v.shape, *v.strides) for n in x.names}
                       | {n for x in op.shape for n in x.names})  # fmt: skip
        for k, n in enumerate(sizes, 3):
            inner.scopes[0].names[n] = self._word(inner, "%args", k, "i64")
        write_matmul(inner, op)
        inner.do("ret void")
        head = f"define void @{op.name}(ptr %args, i64 %begin, i64 %end) {{\nentry:"
        text = "\n".join([head, *inner.lines, "}"])
        name = self._function(op.name, llvm.Written(text, tuple(inner.declared)))
        words = []
        for view in (op.x, op.y):
            pointer = self.pointer(e, self.steps.buffers[view.base])
            if view.offset.constant != 0:
                kind = memory_type(op.type)
                at = e.index(view.offset)
                pointer = e.emit(f"getelementptr {kind}, ptr {pointer}, i64 {at}")
            words.append(("ptr", pointer))
        words.append(("ptr", self.pointer(e, op.out)))
        words += [("i64", e.index(Expr.named(n))) for n in sizes]
        batched = op.batch.constant != 1
        rows = op.batch if batched else op.shape[-2] if op.by_rows else op.shape[-1]
        work = product(op.shape) * op.x.shape[-1]
        self._chunked(e, name, words, rows, op.chunks, op.grain, count(work) // 16)

    def _function(self, name: str, written: llvm.Written) -> str:
        """The name under which a function is in the module: equal ones are there once."""
        text = written.text.replace(f"@{name}(", "@(", 1)
        known = self.known.get(text)
        if known is not None:
            return known
        self.known[text] = name
        self.functions[name] = written
        return name

    def _chunked(
        self, e: Emitter, name: str, words: list[tuple[str, str]], rows: Expr, chunks: Expr,
        grain: int, cost: int,
    ) -> None:  # fmt: skip
        """Run a function over all its rows, chunk by chunk, in parallel where that pays."""
        total = e.index(rows)
        args = self._arguments(e, [*words, ("i64", total)])
        task = self._task(name, len(words), grain)
        n = e.index(chunks)
        if chunks.constant == 1:
            e.do(f"call void @{task}(ptr {args}, i64 0)")
        elif cost >= _PARALLEL:
            e.declared["declare void @sk_parallel(ptr, ptr, i64)"] = None
            e.do(f"call void @sk_parallel(ptr @{task}, ptr {args}, i64 {n})")
        else:
            e.loop("0", n, "1", [], lambda k, _: e.do(f"call void @{task}(ptr {args}, i64 {k})"))

    def _task(self, name: str, words: int, grain: int) -> str:
        """`void TASK(ptr args, i64 chunk)`: one chunk of the rows."""
        e = Emitter()
        total = self._word(e, "%args", words, "i64")
        begin = e.emit(f"mul i64 %chunk, {grain}")
        stop = e.emit(f"add i64 {begin}, {grain}")
        end = e.call("i64", "llvm.smin.i64", ("i64", stop), ("i64", total))
        e.do(f"call void @{name}(ptr %args, i64 {begin}, i64 {end})")
        e.do("ret void")
        task = f"{name}_task{grain}"  # equal functions may run in chunks of several sizes
        if task in self.functions:
            return task
        head = f"define internal void @{task}(ptr %args, i64 %chunk) {{\nentry:"
        self.functions[task] = llvm.Written("\n".join([head, *e.lines, "}"]), tuple(e.declared))
        return task


def _cost(scheduled: Scheduled) -> int:
    """About how many elementary operations a kernel takes."""
    kernel = scheduled.kernel
    rows = count(scheduled.rows)
    per_row = 0
    for stage in kernel.stages:
        width = 1
        for loop in stage.loops:
            width *= 1 if kernel.flat is not None else count(loop.extent)
        per_row += width * max(1, len(stage.roots))
    return rows * max(1, per_row)


def _quoted(array: Array) -> str:
    return "".join(f"\\{byte:02X}" for byte in np.ascontiguousarray(array).tobytes())


# ----- the plan -----------------------------------------------------------------------------------


def _lifetimes(steps: Steps, layout: Layout) -> dict[str, Lifetime]:
    elsewhere = {*layout.inputs, *layout.outputs, *layout.hosts, *steps.constants}
    found: dict[str, Lifetime] = {}
    for k, step in enumerate(steps.steps):
        for name in (*step.reads, *step.writes):
            if name in elsewhere:
                continue
            size = steps.sizes[name] * steps.types[name].itemsize
            life = found.get(name) or Lifetime(Expr.of(size), k, k)
            found[name] = life._replace(last=k)
    return found


class NativePlan:
    """A graph in machine code; `plan(arrays, env)` gives the outputs as NumPy arrays.

    Where a check fails the NumPy plan runs and raises its error, with the user's line.
    """

    def __init__(self, graph: Graph, numbers: tuple[Node, ...] = ()) -> None:
        self.graph = graph
        self.numbers = numbers
        self.steps = Steps(graph)
        self.layout = self._laid_out()
        self.symbols = graph.symbols
        self.stretches = self._stretches()
        code = Code(self.steps, self.layout, engine.vector_bytes() // 4)
        for k, stretch in enumerate(self.stretches):
            if not isinstance(stretch, LibraryStep):
                code.stretch(f"plan{k}", stretch)
        self.text = code.text()
        threads.start()
        blas.start()
        self.library = engine.load(engine.compile_ir(self.text))
        signature = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self.entries = [
            None if isinstance(s, LibraryStep) else signature(self.library.address(f"plan{k}"))
            for k, s in enumerate(self.stretches)
        ]

    # ----- layout

    def _laid_out(self) -> Layout:
        steps, layout = self.steps, Layout()
        for k, node in enumerate(self.graph.inputs):
            layout.inputs[steps.buffers[node]] = k
        library = {w for s in steps.steps if isinstance(s, LibraryStep) for w in s.writes}
        for node in self.graph.outputs:
            name = steps.buffers.get(node)
            if name and name not in (*layout.inputs, *steps.constants, *library):
                layout.outputs.setdefault(name, len(layout.outputs))
        for name in sorted(library):
            layout.hosts[name] = len(layout.hosts)
        layout.arena = allocate(_lifetimes(steps, layout))
        self.output_types = {}
        for node in self.graph.outputs:
            name = steps.buffers.get(node)
            if name in layout.outputs:
                self.output_types.setdefault(name, node.type)
        return layout

    def _stretches(self) -> list[Any]:
        """Native steps in a row together, library steps alone."""
        found: list[Any] = []
        for step in self.steps.steps:
            if isinstance(step, LibraryStep):
                found.append(step)
            elif found and not isinstance(found[-1], LibraryStep):
                found[-1].append(step)
            else:
                found.append([step])
        return found

    # ----- calls

    @cached_property
    def address(self) -> int | None:
        """Where the code lies, None where it is not one function, or none at all."""
        alone = len(self.entries) == 1 and self.entries[0] is not None
        return self.library.address("plan0") if alone else None

    @cached_property
    def arenas(self) -> Arenas:
        """The arenas of calls that do not come through here."""
        return Arenas()

    def call_type(
        self, operands: Sequence[Operand], written: Sequence[int | None], single: bool, env: Env
    ) -> CallType | None:
        """How cells like `operands` are given to the code; None where it does not give the outputs.

        `written` tells for each output which operand's new value it is, None if it is returned.
        """
        names = [self.steps.buffers.get(node, "") for node in self.graph.outputs]
        inputs, outputs = self.layout.inputs, self.layout.outputs
        if not all(name in inputs or name in outputs for name in names):
            return None
        shown = {inputs[name] for name in names if name in inputs}
        results: list[Result] = []
        owners: dict[str, int] = {}  # those that are written come first, and own their buffers
        rows = list(zip(self.graph.outputs, names, written, strict=True))
        for node, name, cell in sorted(rows, key=lambda row: row[2] is None):
            shape = tuple(int(n) for n in concrete(node.type.shape, env))
            result = Result(node.type.dtype.numpy, shape, cell)
            if name in inputs:
                result = replace(result, view_of=inputs[name])
            elif name in owners:
                result = replace(result, view_of=owners[name])
            else:
                owners[name] = len(operands) + len(results)
                here = cell is not None and cell not in shown and self._may_be_in_place(
                    result, name, operands[cell], cell
                )
                result = replace(result, in_place=here, output=outputs[name])
            results.append(result)
        words = tuple(_as_word(env[n]) for n in self.symbols)
        arena = int(evaluate(self.layout.arena.size, env))
        work = cost(self.graph, env)
        is_long = max(work.flops, work.bytes) > _LONG
        return CallType(tuple(operands), tuple(results), single, words, arena, is_long)

    def _may_be_in_place(self, result: Result, name: str, operand: Operand, place: int) -> bool:
        """Whether a result may lie where an operand did: never where a check may yet fail."""
        alike = (result.dtype, result.shape) == (operand.dtype, operand.shape)
        given = next(buffer for buffer, k in self.layout.inputs.items() if k == place)
        steps = self.steps.steps
        checked = max((k for k, step in enumerate(steps) if has_checks(step)), default=-1)
        return alike and may_overwrite(steps, name, given, checked)

    @cached_property
    def referee(self) -> Plan:
        """The plan on NumPy, which words the errors."""
        return Plan(self.graph)

    def __call__(self, arrays: Sequence[Array], env: Env) -> list[Array]:
        arrays = [*arrays, *map(partial(_number, env=env), self.numbers)]
        if config.trap is not None:
            return self.referee(arrays, env)
        given = [np.ascontiguousarray(a) if a.ndim else a for a in arrays]
        outputs = {
            name: np.empty(concrete(type_.shape, env), type_.dtype.numpy)
            for name, type_ in self.output_types.items()
        }
        arena = _aligned(int(evaluate(self.layout.arena.size, env)))
        words = [a.ctypes.data for a in given]
        words += [outputs[name].ctypes.data for name in self.layout.outputs]
        words += [arena.ctypes.data, *(_as_word(env[n]) for n in self.symbols)]
        hosts: list[Array | None] = [None] * len(self.layout.hosts)
        block = (ctypes.c_int64 * (len(words) + len(hosts)))(*words)
        memory = _Memory(self, given, outputs, arena, hosts, env)
        for stretch, entry in zip(self.stretches, self.entries, strict=True):
            if entry is None:
                for name, array in memory.evaluated(stretch):
                    at = self.layout.hosts[name]
                    hosts[at] = array
                    block[len(words) + at] = array.ctypes.data
            elif entry(block):
                return self.referee(arrays, env)
        return [self._output(node, arrays, memory) for node in self.graph.outputs]

    def _output(self, node: Node, arrays: Sequence[Array], memory: _Memory) -> Array:
        if node in self.graph.inputs:
            return arrays[self.graph.inputs.index(node)]
        return memory.array(node)

    def __str__(self) -> str:
        lines = [f"plan {self.graph.name}: {len(self.steps.steps)} steps, native"]
        for step in self.steps.steps:
            reads, writes = ", ".join(step.reads), ", ".join(step.writes)
            lines.append(f"  {writes} = {step.name}({reads})")
        for name, offset in self.layout.arena.offsets.items():
            lines.append(f"  {name} lies at {offset}")
        return "\n".join([*lines, f"  arena: {self.layout.arena.size} bytes"])


@dataclass(frozen=True, eq=False)
class _Memory:
    """The buffers of one call as NumPy arrays, for library calls and results."""

    plan: NativePlan
    inputs: Sequence[Array]
    outputs: Mapping[str, Array]
    arena: Array
    hosts: Sequence[Array | None]
    env: Env

    def array(self, node: Node) -> Array:
        """The elements of a node that lies in memory."""
        steps, layout = self.plan.steps, self.plan.layout
        name, type_ = steps.buffers[node], node.type
        shape = concrete(type_.shape, self.env)
        if name in layout.inputs:
            return self.inputs[layout.inputs[name]].reshape(shape)
        if name in self.outputs:
            return self.outputs[name].reshape(shape)
        if name in layout.hosts:
            found = self.hosts[layout.hosts[name]]
            assert found is not None
            return found.reshape(shape)
        if name in steps.constants:
            return steps.constants[name].reshape(shape)
        start = int(evaluate(layout.arena.offsets[name], self.env))
        return np.ndarray(shape, type_.dtype.numpy, self.arena.data, start)

    def evaluated(self, step: LibraryStep) -> list[tuple[str, Array]]:
        """What NumPy gives for a step: each result's buffer, and its array."""
        node = step.node
        assert node.op is not None
        operands = [self.array(x) for x in node.inputs]
        attrs = {key: concrete(value, self.env) for key, value in node.attrs}
        try:
            found = quietly(node.op.numpy, *operands, **attrs)
        except FAILURES as error:
            types = [type_of(array) for array in operands]
            line = self.plan.graph.line(node)
            raise explain(node.op, types, attrs, error, line) from None
        results = found if node.is_several else (found,)
        buffers = self.plan.steps.buffers
        places = [dict(n.attrs)["index"] if is_projection(n) else 0 for n in step.results]
        return [
            (buffers[n], self._own(results[k])) for n, k in zip(step.results, places, strict=True)
        ]

    def _own(self, result: Any) -> Array:
        """A contiguous result that is no view of memory which later steps write to."""
        array = np.asarray(result)
        if array.base is not None and np.may_share_memory(array, self.arena):
            return array.copy()
        return array if array.flags.c_contiguous else array.copy()


def _number(node: Node, env: Env) -> Array:
    """The value of a `number`."""
    return scalar(evaluate(dict(node.attrs)["expr"], env), node.type.dtype)


def _as_word(value: Any) -> int:
    """A size as a word of a block; the names of floats occur in library steps alone."""
    return value if isinstance(value, int) else 0


def _aligned(size: int) -> Array:
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
