"""Kernels as CUDA C: the kernel IR of `ir.py` as one `__global__` function each.

`kernel_source(kernel)` is the text; `launch` runs it where cupy and a device are. The function is
given the kernel's buffers, the values of its sizes, and, where it checks something, a pointer to
the error word. Any number of blocks computes the same:

- Where nothing is folded over a row, each thread takes places of the whole grid, one by one.
- Else a row belongs to a team of threads: a block, or a warp where rows are short. Its folds go
  through the threads, by shuffles, and through shared memory.
- Where rows are folded, a block takes a chunk of rows (of a flat kernel a stretch) and keeps its
  own partial results, which a later kernel folds in a fixed order. There are no atomics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from stagekit.graph import Graph
from stagekit.kernels.cuda.folds import Accumulator, across_warps, to_all_lanes, within_warp
from stagekit.kernels.cuda.words import (
    c_type,
    combined,
    converted,
    inner,
    instruction,
    literal,
    memory_type,
    preamble,
    reinterpreted,
)
from stagekit.kernels.fusion.steps import KernelStep, Steps
from stagekit.kernels.ir import (
    Check,
    Kernel,
    Loop,
    Stage,
    Value,
    arguments,
    every,
    operands,
    unwritten,
)
from stagekit.kernels.listing import Listing
from stagekit.kernels.llvm.loops import neutral_of
from stagekit.kernels.sizes import product, row_major
from stagekit.symbolic import Expr
from stagekit.types import DType, bool_, int64

THREADS = 256  # of a block
WARP = 32
OPTIONS = ("--std=c++17", "--fmad=false")  # of the compiler: no contraction
_SHORT = 256  # elements of a row, at most, that one warp takes
_MOST_BLOCKS = 1 << 16


class Source(NamedTuple):
    """A kernel in CUDA C: its function's name, the text, and how many blocks have work."""

    name: str
    source: str
    kernel: Kernel
    blocks: tuple[Expr, ...]  # the largest of them

    @property
    def launch(self) -> str:
        """The launch shape in words."""
        counts = [str(n) for n in dict.fromkeys(self.blocks)]
        most = counts[0] if len(counts) == 1 else f"max({', '.join(counts)})"
        return f"{most} blocks of {THREADS} threads, or fewer"

    def grid(self, sizes: Mapping[str, int]) -> int:
        """How many blocks to launch at some sizes."""
        wanted = max(int(n.evaluate(sizes)) for n in self.blocks)
        return max(1, min(_MOST_BLOCKS, wanted))


def kernel_source(kernel: Kernel) -> Source:
    """The CUDA C function of a kernel."""
    writer = Writer(kernel)
    text = writer.text()
    return Source(kernel.name, preamble(text) + text, kernel, tuple(writer.blocks))


def listings(graph: Graph) -> list[Listing]:
    """The kernels of a graph, in the order in which they run."""
    kernels = [s.scheduled.kernel for s in Steps(graph).steps if isinstance(s, KernelStep)]
    return [Listing(kernel.name, "cuda", kernel_source(kernel).source) for kernel in kernels]


def launch(
    source: Source, buffers: Mapping[str, Any], sizes: Mapping[str, int], error: Any = None
) -> None:
    """Run a kernel on cupy arrays, on the current device and stream; it needs cupy.

    `error` is an array of one int64, 0 before, for the number of a check that failed.
    """
    arguments: list[Any] = [buffers[b.name] for b in source.kernel.buffers]
    arguments += [np.int64(sizes[n]) for n in source.kernel.sizes]
    if source.kernel.checks:
        arguments.append(error)
    _loaded(source.source, source.name)((source.grid(sizes),), (THREADS,), tuple(arguments))


@cache
def _loaded(source: str, name: str) -> Any:
    import cupy  # type: ignore[import-not-found, unused-ignore]

    return cupy.RawKernel(source, name, options=OPTIONS)


# ----- text ---------------------------------------------------------------------------------------


@dataclass
class Scope:
    """What is known at one depth of the loops: names of indices, values."""

    names: set[str]
    values: dict[Value, str] = field(default_factory=dict)


class Printer:
    """Writes values and indices, each once at a depth of the loops."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        self.scopes: list[Scope] = [Scope(set())]
        self.sizes = _identifiers(kernel.sizes)
        self.pointers = {b.name: b.name for b in kernel.buffers}
        self.numbers: dict[Value, int] = {}  # of values, in the order in which they are written
        self.pending: list[Check] = list(kernel.checks)
        self.loops = {x.name: x for x in (*kernel.rows, *([kernel.flat] if kernel.flat else []))}
        self.loops |= {x.name: x for s in kernel.stages for x in s.loops}
        roots = [r for s in kernel.stages for r in s.roots] + [c.bad for c in kernel.checks]
        for value in (v for root in roots for v in every(root) if v.op == "fold"):
            self.loops |= {x.name: x for x in value.attr.loops}

    def line(self, text: str) -> None:
        self.lines.append("  " * len(self.scopes) + text)

    @contextmanager
    def block(self, head: str, names: Iterable[str] = ()) -> Iterator[None]:
        """What is written meanwhile stands in a block, inside of which `names` are known."""
        self.line(f"{head} {{")
        self.scopes.append(Scope(set(names)))
        yield
        self.scopes.pop()
        self.line("}")

    @property
    def names(self) -> set[str]:
        """The loop variables known here."""
        return {n for scope in self.scopes for n in scope.names}

    # ----- indices

    def index(self, expr: Expr) -> str:
        """An index, as a 64-bit integer unless it is a constant."""
        terms = []
        for monomial, c in expr.terms:
            factors = [inner(self._atom(atom)) for atom in monomial]
            if c not in (1, -1) or not factors:
                factors.append(str(abs(c)) if abs(c) < 1 << 31 else f"{abs(c)}LL")
            terms.append((" - " if c < 0 else " + ") + " * ".join(factors))
        text = "".join(terms).removeprefix(" + ")
        return f"-{text.removeprefix(' - ')}" if text.startswith(" - ") else text or "0"

    def _atom(self, atom: Any) -> str:
        if isinstance(atom, str):
            dynamic = self.kernel.body.dynamic.get(atom)
            return self.sizes.get(atom, atom) if dynamic is None else self.value(dynamic)
        left, right = self.index(atom.left), self.index(atom.right)
        if atom.op in ("max", "min"):
            relation = ">" if atom.op == "max" else "<"
            left, right = inner(left), inner(right)
            return f"({left} {relation} {right} ? {left} : {right})"
        return f"{'floor_div' if atom.op == '//' else 'floor_mod'}({left}, {right})"

    # ----- values

    def known(self, value: Value) -> str | None:
        """How a value is named here, None if it is not written yet."""
        if value.op == "constant":
            return literal(value.attr, value.type)
        return next((s.values[value] for s in reversed(self.scopes) if value in s.values), None)

    def value(self, value: Value) -> str:
        """Write what computes a value, unless that is done already; its name."""
        for each in unwritten(value, self.known):
            self.scopes[-1].values[each] = self._written(each)
        found = self.known(value)
        assert found is not None
        return found

    def hoist(self, roots: Iterable[Value]) -> None:
        """Write everything that some values need and the names known here already decide."""
        for value in self._ready(roots):
            self.value(value)

    def _ready(self, roots: Iterable[Value]) -> list[Value]:
        names, ready = self.names, set[Value]()
        for value in operands(roots):
            known = value.names & self.loops.keys() <= names and value.op != "fold"
            if self.known(value) or (known and all(a in ready for a in arguments(value))):
                ready.add(value)
        return sorted(ready, key=lambda v: v.serial)

    def _written(self, value: Value) -> str:
        text = self._nested(value) if value.op == "fold" else self._text(value)
        return self.let(value, text)

    def let(self, value: Value, text: str) -> str:
        """Name an expression that is a value."""
        name = f"v{self.number(value)}"
        self.line(f"const {c_type(value.type)} {name} = {text};")
        return name

    def number(self, value: Value) -> int:
        """The number in a value's name."""
        return self.numbers.setdefault(value, len(self.numbers))

    def _text(self, value: Value) -> str:
        """The expression that a value is of names."""
        op, type = value.op, value.type
        if op == "load":
            return self._load(value)
        if op == "number":
            return converted(self.index(value.attr), int64, type)
        if op == "test":
            relation, left, right = value.attr
            sides = inner(self.index(left)), inner(self.index(right))
            return instruction(relation, int64, *sides)
        args = [self._name(a) for a in value.args]
        if op == "convert":
            return converted(args[0], value.args[0].type, type)
        if op == "bits":
            return reinterpreted(args[0], value.args[0].type, type)
        return instruction(op, type if op == "select" else value.args[0].type, *args)

    def _name(self, value: Value) -> str:
        found = self.known(value)
        assert found is not None
        return found

    def _load(self, value: Value) -> str:
        buffer, offset, guard = value.attr
        element = self.element(buffer, offset)
        if value.type is bool_:
            element = f"{element} != 0"
        if guard is None:
            return element
        return f"{self._name(guard)} ? {element} : {literal(0, value.type)}"

    def element(self, buffer: str, offset: Expr) -> str:
        """An element of a buffer."""
        return f"{self.pointers[buffer]}[{self.index(offset)}]"

    # ----- loops inside of a thread

    def _nested(self, value: Value) -> str:
        """A fold that each thread has one of."""
        fold, body = value.attr, value.args[0]
        terms = known_count(loop.extent for loop in fold.loops)
        place = fold.loops[-1].name
        folding = Accumulator(f"fold{self.number(value)}", fold.op, body.type, terms, place)
        self.hoist([body])
        for line in folding.declarations():
            self.line(line)
        self._inside(fold.loops, folding, body)
        return folding.result

    def _inside(self, loops: Sequence[Loop], folding: Accumulator, body: Value) -> None:
        if not loops:
            self.line(folding.step(self.value(body)))
            self.checks(self.scopes[-1].names)
            return
        name, end = loops[0].name, self.index(loops[0].extent)
        with self.block(f"for (long long {name} = 0; {name} < {end}; {name}++)", [name]):
            self._inside(loops[1:], folding, body)

    # ----- checks

    def checks(self, bound: Iterable[str]) -> None:
        """Test what can be tested here, and not outside of the loops over `bound`."""
        names, bound = self.names, set(bound)
        for check in list(self.pending):
            mine = check.bad.names & self.loops.keys()
            if mine <= names and mine & bound and check.bad in self._ready([check.bad]):
                self.check(check)

    def check(self, check: Check) -> None:
        """Note an error where the condition holds."""
        self.pending.remove(check)
        self.line(f"if ({self.value(check.bad)}) *error = {check.number};")


# ----- kernels ------------------------------------------------------------------------------------


class Writer(Printer):
    """Writes one kernel: its loops over the grid, and the stages inside."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.blocks: list[Expr] = []
        self.columns = [c for s in kernel.stages for c in s.columns]
        folds = bool(kernel.scratch) or any(s.folds for s in kernel.stages)
        self.chunked = bool(self.columns) or (folds and kernel.flat is not None)
        self.by_rows = folds and not self.chunked
        widths = [known_count(loop.extent for loop in s.loops) for s in kernel.stages]
        self.team = WARP if self.by_rows and max(widths) <= _SHORT else THREADS
        self.loops_here: tuple[Loop, ...] = ()  # of the stage
        self.place = ""  # the number of a row's element that a thread is at

    def text(self) -> str:
        """The function."""
        kernel = self.kernel
        written = {s.buffer for stage in kernel.stages for s in stage.stores}
        written |= {c.buffer for c in self.columns}
        parameters = [
            f"{'' if b.name in written else 'const '}{memory_type(b.type)} *{b.name}"
            for b in kernel.buffers
        ]
        parameters += [f"long long {name}" for name in self.sizes.values()]
        parameters += ["long long *error"] * bool(kernel.checks)
        if self.chunked:
            self._chunks()
        elif self.by_rows:
            self._rows()
        else:
            self._grid()
        head = f'extern "C" __global__ void __launch_bounds__({THREADS}) {kernel.name}('
        return "\n".join([head, "    " + ", ".join(parameters) + ") {", *self.lines, "}", ""])

    # ----- loops over the grid

    @contextmanager
    def _walk(
        self, loops: Sequence[Loop], start: str, step: str | int, end: str = "", name: str = "t"
    ) -> Iterator[str]:
        """The places of some loops from `start` on, the last loop fastest; yields their number."""
        if not loops:
            with self.block(f"if ({start} == 0)"):
                yield "0"
            return
        end = end or self.index(product(loop.extent for loop in loops))
        t = loops[0].name if len(loops) == 1 else name
        head = f"for (long long {t} = {start}; {t} < {end}; {t} += {step})"
        with self.block(head, [loop.name for loop in loops]):
            left = t
            for loop in reversed(loops[1:]):
                n = inner(self.index(loop.extent))
                self.line(f"const long long {loop.name} = {left} % {n};")
                left = f"{left} / {n}"
            if len(loops) > 1:
                self.line(f"const long long {loops[0].name} = {left};")
            yield t

    def _grid(self) -> None:
        """Every thread takes places of the whole grid."""
        self.line(f"const long long thread = blockIdx.x * {THREADS}LL + threadIdx.x;")
        step = f"gridDim.x * {THREADS}LL"
        for stage in self.kernel.stages:
            loops = stage.loops if self.kernel.flat else (*self.kernel.rows, *stage.loops)
            self.blocks.append(_parts(product(loop.extent for loop in loops), THREADS))
            with self._walk(loops, "thread", step):
                self._at_place(stage)
        self._last_checks(step)

    def _rows(self) -> None:
        """Every row belongs to a team."""
        rows = product(loop.extent for loop in self.kernel.rows)
        teams = THREADS // self.team
        self.blocks.append(_parts(rows, teams))
        start, step = "blockIdx.x", "gridDim.x"
        self.line(f"const int thread = threadIdx.x{f' % {WARP}' if teams > 1 else ''};"
                  f"  // of {self.team}, one row's")  # fmt: skip
        if teams > 1:
            start = f"blockIdx.x * {teams}LL + threadIdx.x / {WARP}"
            step = f"gridDim.x * {teams}LL"
        self._scratch()
        with self._walk(self.kernel.rows, start, step, name="row"):
            self._stages()

    def _chunks(self) -> None:
        """Every chunk of rows belongs to a block, which keeps its own partial results."""
        kernel = self.kernel
        loops = (kernel.flat,) if kernel.flat is not None else kernel.rows
        rows = product(loop.extent for loop in loops)
        chunks = _parts(rows, kernel.grain)
        self.blocks.append(chunks)
        self.line(f"const int thread = threadIdx.x;  // of {THREADS}, one chunk's")
        self._scratch()
        end = inner(self.index(rows))
        with self._walk((Loop("chunk", chunks),), "blockIdx.x", "gridDim.x"):
            self.line(f"const long long begin = chunk * {kernel.grain};")
            self.line(f"const long long end = begin + {kernel.grain} < {end} ? "
                      f"begin + {kernel.grain} : {end};")  # fmt: skip
            self._start_columns()
            if kernel.flat is not None:
                self._stages()
                return
            with self._walk(kernel.rows, "begin", 1, "end", name="row"):
                self._stages()

    def _scratch(self) -> None:
        """What a thread keeps of a row: nobody else needs it."""
        for name, type, width in self.kernel.scratch:
            assert width.constant is not None, "scratch of unknown size"
            self.line(f"{c_type(type)} {name}[{-(-width.constant // self.team)}];")

    def _start_columns(self) -> None:
        """Move each pointer of partial results to those of this chunk, and set them to neutral."""
        for column in self.columns:
            kind, name = memory_type(column.value.type), f"{column.buffer}_chunk"
            width = inner(self.index(column.width))
            self.line(f"{kind} *const {name} = {self.pointers[column.buffer]} + chunk * {width};")
            self.pointers[column.buffer] = name
            if self.kernel.flat is None:
                first = literal(neutral_of(column.op, column.value.type), column.value.type)
                self.line(f"for (long long t = thread; t < {width}; t += {THREADS}) "
                          f"{name}[t] = {first};")  # fmt: skip
        if self.kernel.flat is None:
            self.line("__syncthreads();")

    # ----- stages

    def _stages(self) -> None:
        for stage in self.kernel.stages:
            self._stage(stage)
        self._last_checks(self.team)

    def _last_checks(self, step: str | int) -> None:
        """Checks that no stage had a place for walk through their own loops."""
        for check in list(self.pending):
            names = (check.bad.names & self.loops.keys()) - self.names
            loops = [loop for name, loop in self.loops.items() if name in names]
            with self._walk(loops, "thread", step):
                self.check(check)

    def _stage(self, stage: Stage) -> None:
        """A stage's loops, walked by a team."""
        flat = self.kernel.flat in stage.loops
        self.loops_here = stage.loops
        self.hoist(stage.roots)
        terms = self.kernel.grain if flat else known_count(x.extent for x in stage.loops)
        folds = [
            self._folding(f"fold{self.number(x.fold)}", x.fold.attr.op, x.body.type, stage, terms)
            for x in stage.folds
        ]
        sums = [] if not flat else [
            self._folding(f"fold_{c.buffer}", c.op, c.value.type, stage, terms)
            for c in stage.columns
        ]  # fmt: skip
        for fold in (*folds, *sums):
            self.line(f"// {fold.op} over {', '.join(loop.name for loop in stage.loops)}")
            for line in fold.declarations():
                self.line(line)
        bodies = [x.body for x in stage.folds] + [c.value for c in stage.columns if flat]
        start, end = ("begin + thread", "end") if flat else ("thread", "")
        with self._walk(stage.loops, start, self.team, end) as self.place:
            for fold, body in zip([*folds, *sums], bodies, strict=True):
                self.line(fold.step(self.value(body)))
            self._at_place(stage)
        self._together([*folds, *sums])
        for x, fold in zip(stage.folds, folds, strict=True):
            self.scopes[-1].values[x.fold] = self.let(x.fold, fold.result)
        for c, fold in zip(stage.columns, sums, strict=False):
            self.line(f"if (thread == 0) {self.element(c.buffer, c.offset)} = {fold.result};")

    def _folding(self, name: str, op: str, type: DType, stage: Stage, terms: int) -> Accumulator:
        return Accumulator(name, op, type, -(-terms // self.team), stage.loops[-1].name)

    def _together(self, folds: Sequence[Accumulator]) -> None:
        """The folds of all threads of a team as one, which all of them have."""
        if not folds:
            return
        lines = within_warp(folds)
        if self.team == WARP:
            lines += to_all_lanes(folds)
        else:
            lines += across_warps(folds, THREADS // WARP)
        for line in lines:
            self.line(line)

    def _at_place(self, stage: Stage) -> None:
        """What a stage does at each place besides folding."""
        for store in stage.stores:
            name = self.value(store.value)
            self.line(f"{self.element(store.buffer, store.offset)} = {name};")
        if self.kernel.flat is None:
            for column in stage.columns:
                type, element = column.value.type, self.element(column.buffer, column.offset)
                name = self.value(column.value)
                self.line(f"{element} = {combined(column.op, type, element, name)};")
        self.checks(self.scopes[-1].names)

    def element(self, buffer: str, offset: Expr) -> str:
        """An element of a buffer; of scratch, a thread has those at which it is itself."""
        if any(s.name == buffer for s in self.kernel.scratch):
            assert offset == row_major(self.loops_here), "scratch of another place"
            return f"{buffer}[{self.place} / {self.team}]"
        return super().element(buffer, offset)


def known_count(extents: Iterable[Expr]) -> int:
    """How many places some loops have, many where that is not known."""
    total = product(extents).constant
    return 1 << 62 if total is None else total


def _parts(total: Expr, size: int) -> Expr:
    return Expr.of((total + (size - 1)) // size)


def _identifiers(names: Sequence[str]) -> dict[str, str]:
    """Names of sizes as C's, all different."""
    found: dict[str, str] = {}
    for name in names:
        text = "size_" + re.sub(r"\W", "_", name)
        while text in found.values():
            text += "_"
        found[name] = text
    return found
