"""The code of a plan: an LLVM module with its kernels, each once, and a function that runs them.

The words of the block that the function is given: pointers of the inputs, of the outputs, of the
arena, the values of the symbolic sizes, pointers of what library calls gave, and if it is timed the
pointer to when each step began and ended. It returns 0, or the number of a check that failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from stagekit.evaluation import Array
from stagekit.kernels.fusion.memory import Arena, Lifetime, allocate
from stagekit.kernels.fusion.schedule import Scheduled
from stagekit.kernels.fusion.steps import (
    ConvolutionStep,
    KernelStep,
    LibraryStep,
    MatmulStep,
    Step,
    Steps,
    has_checks,
    regions,
    times,
)
from stagekit.kernels.llvm import printer
from stagekit.kernels.llvm.emit import Emitter, memory_type
from stagekit.kernels.products.matmul import write as write_matmul
from stagekit.kernels.sizes import count, product
from stagekit.symbolic import Expr

_PARALLEL = 1 << 15  # elements (times their cost) from which a second thread pays

# ----- where buffers lie --------------------------------------------------------------------------


@dataclass(eq=False)
class Layout:
    """Where each buffer lies: the number of an input, output or library result, or the arena."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    arena: Arena = field(default_factory=lambda: allocate({}))


def laid_out(steps: Steps) -> Layout:
    """A place for each buffer of the steps of a graph."""
    layout, graph = Layout(), steps.graph
    for k, node in enumerate(graph.inputs):
        layout.inputs[steps.buffers[node]] = k
    library = {w for s in steps.steps if isinstance(s, LibraryStep) for w in s.writes}
    for node in graph.outputs:
        name = steps.buffers.get(node)
        if name and name not in (*layout.inputs, *steps.constants, *library):
            layout.outputs.setdefault(name, len(layout.outputs))
    for name in sorted(library):
        layout.hosts[name] = len(layout.hosts)
    layout.arena = allocate(_lifetimes(steps, layout))
    return layout


def _lifetimes(steps: Steps, layout: Layout) -> dict[str, Lifetime]:
    elsewhere = {*layout.inputs, *layout.outputs, *layout.hosts, *steps.constants}
    found: dict[str, Lifetime] = {}
    for k, step in zip(times(steps.steps), steps.steps, strict=True):
        for name in (*step.reads, *step.writes):
            if name in elsewhere:
                continue
            size = steps.sizes[name] * steps.types[name].itemsize
            life = found.get(name) or Lifetime(Expr.of(size), k, k)
            found[name] = life._replace(last=k)
    return found


# ----- in how many parts a step runs --------------------------------------------------------------


class Chunks(NamedTuple):
    """How many rows a step has, in how many chunks of how many, and about what they cost."""

    rows: Expr
    number: Expr
    grain: int
    cost: int


def chunks_of(step: KernelStep | MatmulStep) -> Chunks:
    """The chunks of a step's rows."""
    if isinstance(step, KernelStep):
        kernel, rows, number, _ = step.scheduled
        return Chunks(rows, number, kernel.grain, _cost(step.scheduled))
    op = step.product
    batched = op.batch.constant != 1
    rows = op.batch if batched else op.shape[-2] if op.by_rows else op.shape[-1]
    work = count(product(op.shape) * op.x.shape[-1]) // 16
    return Chunks(rows, op.chunks, op.grain, work)


def are_parallel(costs: Iterable[int]) -> bool:
    """Whether threads share the chunks of steps of some costs that run side by side."""
    return sum(costs) >= _PARALLEL


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


# ----- code ---------------------------------------------------------------------------------------


class Task(NamedTuple):
    """Chunks of work: `void NAME(ptr args, i64 chunk)`, how many there are, and about what cost."""

    name: str
    args: str
    chunks: str
    cost: int


class Code:
    """The LLVM module of a plan: kernels, each once, and one function for each native stretch."""

    def __init__(self, steps: Steps, layout: Layout, width: int, timed: bool = False) -> None:
        self.steps, self.layout, self.width, self.timed = steps, layout, width, timed
        self.symbols = steps.graph.symbols
        self.functions: dict[str, printer.Written] = {}
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
        for region in [[step] for step in steps] if self.timed else regions(steps):
            self._note_time(e, region[0], 0)
            tasks = [task for step in region if (task := self._run(e, step)) is not None]
            self._side_by_side(e, tasks)
            self._note_time(e, region[0], 1)
            if any(map(has_checks, region)):
                self._stop_where_one_failed(e)
        e.do("ret i64 0")
        text = "\n".join([f"define i64 @{name}(ptr %block) {{\nentry:", *e.lines, "}"])
        self.functions[name] = printer.Written(text, tuple(e.declared))

    def _note_time(self, e: Emitter, step: Step, end: int) -> None:
        """When a step begins or ends."""
        if not self.timed:
            return
        times = self._word(e, "%block", self.first_host + len(self.layout.hosts), "ptr")
        place = 2 * self.steps.steps.index(step) + end
        at = e.emit(f"getelementptr i64, ptr {times}, i64 {place}")
        e.do(f"store i64 {e.call('i64', 'sk_clock')}, ptr {at}")

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
        return "\n".join([printer.module(self.functions.values()), *constants, ""])

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

    def _run(self, e: Emitter, step: Step) -> Task | None:
        """Run a step, or give it as a task."""
        if isinstance(step, KernelStep):
            return self._run_kernel(e, step)
        if isinstance(step, MatmulStep):
            return self._run_matmul(e, step)
        if isinstance(step, ConvolutionStep):
            self._run_convolution(e, step)
        return None

    def _side_by_side(self, e: Emitter, tasks: Sequence[Task]) -> None:
        """Run tasks that do not need each other: as one parallel loop, where that pays."""
        if not are_parallel(task.cost for task in tasks):
            for task in tasks:
                self._in_turn(e, task)
            return
        e.declared["declare void @sk_parallel(ptr, ptr, i64)"] = None
        if len(tasks) == 1:
            ((name, args, n, _),) = tasks
            e.do(f"call void @sk_parallel(ptr @{name}, ptr {args}, i64 {n})")
            return
        words = [word for task in tasks for word in (("ptr", task.args), ("i64", task.chunks))]
        frame, total = self._arguments(e, words), tasks[0].chunks
        for task in tasks[1:]:
            total = e.emit(f"add i64 {total}, {task.chunks}")
        name = self._group(tasks)
        e.do(f"call void @sk_parallel(ptr @{name}, ptr {frame}, i64 {total})")

    def _in_turn(self, e: Emitter, task: Task) -> None:
        name, args, n, _ = task
        if n == "1":
            e.do(f"call void @{name}(ptr {args}, i64 0)")
        else:
            e.loop("0", n, "1", [], lambda k, _: e.do(f"call void @{name}(ptr {args}, i64 {k})"))

    def _group(self, tasks: Sequence[Task]) -> str:
        """`void GROUP(ptr frame, i64 chunk)`: a chunk of one of the tasks, counted through."""
        e = Emitter()
        left = "%chunk"
        for k, task in enumerate(tasks):
            n = self._word(e, "%frame", 2 * k + 1, "i64")
            mine = e.emit(f"icmp ult i64 {left}, {n}")
            block = e.fresh_block()
            e.do(f"br i1 {mine}, label %run{block}, label %next{block}")
            e.label(f"run{block}")
            args = self._word(e, "%frame", 2 * k, "ptr")
            e.do(f"call void @{task.name}(ptr {args}, i64 {left})")
            e.do("ret void")
            e.label(f"next{block}")
            left = e.emit(f"sub i64 {left}, {n}")
        e.do("ret void")
        name = f"group{len(self.functions)}"
        head = f"define internal void @{name}(ptr %frame, i64 %chunk) {{\nentry:"
        self.functions[name] = printer.Written("\n".join([head, *e.lines, "}"]), tuple(e.declared))
        return name

    def _arguments(self, e: Emitter, words: Sequence[tuple[str, str]]) -> str:
        block = e.emit(f"alloca [{len(words)} x i64], align 64")
        for k, (kind, word) in enumerate(words):
            at = e.emit(f"getelementptr i64, ptr {block}, i64 {k}")
            e.do(f"store {kind} {word}, ptr {at}")
        return block

    def _run_kernel(self, e: Emitter, step: KernelStep) -> Task | None:
        kernel = step.scheduled.kernel
        name = self._function(kernel.name, printer.function(kernel, self.width))
        words = [("ptr", self.pointer(e, b.name)) for b in kernel.buffers]
        words += [("i64", e.index(Expr.named(n))) for n in kernel.sizes]
        words.append(("ptr", "%error"))
        if kernel.flat is None and not kernel.rows:
            args = self._arguments(e, words)
            e.do(f"call void @{name}(ptr {args}, i64 0, i64 1)")
            return None
        return self._chunked(e, name, words, chunks_of(step))

    def _run_matmul(self, e: Emitter, step: MatmulStep) -> Task:
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
        name = self._function(op.name, printer.Written(text, tuple(inner.declared)))
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
        return self._chunked(e, name, words, chunks_of(step))

    def _run_convolution(self, e: Emitter, step: ConvolutionStep) -> None:
        """The kernel runs its own parallel loops."""
        names = (*step.reads, *step.writes)
        words = [("ptr", self.pointer(e, name)) for name in names]
        words.append(("i64", e.index(step.convolution.batch)))
        frame = self._arguments(e, words)
        code = step.code
        self.functions[code.name] = printer.Written(code.text, tuple(sorted(code.declarations)))
        e.do(f"call void @{code.name}(ptr {frame})")

    def _function(self, name: str, written: printer.Written) -> str:
        """The name under which a function is in the module: equal ones are there once."""
        text = written.text.replace(f"@{name}(", "@(", 1)
        known = self.known.get(text)
        if known is not None:
            return known
        self.known[text] = name
        self.functions[name] = written
        return name

    def _chunked(
        self, e: Emitter, name: str, words: list[tuple[str, str]], chunks: Chunks
    ) -> Task:
        """A function over all its rows, chunk by chunk."""
        args = self._arguments(e, [*words, ("i64", e.index(chunks.rows))])
        task = self._task(name, len(words), chunks.grain)
        return Task(task, args, e.index(chunks.number), chunks.cost)

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
        self.functions[task] = printer.Written("\n".join([head, *e.lines, "}"]), tuple(e.declared))
        return task


def _quoted(array: Array) -> str:
    return "".join(f"\\{byte:02X}" for byte in np.ascontiguousarray(array).tobytes())
