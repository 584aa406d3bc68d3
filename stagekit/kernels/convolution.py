"""Convolutions as LLVM code: float32 and float64, one or two spatial axes, NCHW in memory.

`product` writes x * w (also the derivative in x, which reads the same weights in another order). A
call packs the weights, [block of outputs][channel][tap][output of the block], and then, for some
rows of some image, copies the channels to a padded scratch. There every tap is one offset from an
output's place: rows lie apart by the padded width, so an image's outputs are one run of places (with
a few to leave out at the end of each row), strides are planes of their own, and a dilated input is
some convolutions without holes, one for each residue of the output. The inner loop keeps 8 outputs
of 2 or 3 vectors of places in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from stagekit.kernels.vectors import Index, Lanes, Vectors
from stagekit.types import DType

TERMS = 128  # what one register adds up before its total is added to others
SPAN = 384 << 10  # bytes of padded input that stay in a core's cache
PARTS = 16  # chunks at most, each with scratch of its own
MOST_TAPS = 512
MOST_STRIDE = 16
MOST_DILATION = 8


class Tap(NamedTuple):
    """An element of the kernel along one axis, and its first place in the input."""

    number: int
    place: int


class Residue(NamedTuple):
    """The outputs first, first + step, ... of an axis, and the taps that hit the input there."""

    first: int
    length: int
    taps: tuple[Tap, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: out[t] is the sum of x[(offset + stride t + spacing k) / dilation] w[k].

    >>> [r.taps for r in Axis(5, 9, 3, -1, 1, 1, 2).residues]
    [(Tap(number=1, place=0),), (Tap(number=0, place=0), Tap(number=2, place=1))]
    """

    size: int
    extent: int
    taps: int
    offset: int
    stride: int
    spacing: int
    dilation: int

    @property
    def step(self) -> int:
        """The distance of two outputs that read the input alike."""
        return self.dilation // math.gcd(self.stride, self.dilation)

    @property
    def phases(self) -> int:
        """How far apart in the input two such outputs read."""
        return self.stride // math.gcd(self.stride, self.dilation)

    @property
    def residues(self) -> tuple[Residue, ...]:
        """All outputs, by what they read."""
        found = []
        for first in range(min(self.step, self.extent)):
            places = [self.offset + self.stride * first + self.spacing * k for k in range(self.taps)]
            taps = [Tap(k, p // self.dilation) for k, p in enumerate(places) if p % self.dilation == 0]
            count = -(-(self.extent - first) // self.step)
            found.append(Residue(first, count, tuple(taps)))
        return tuple(found)

    @property
    def low(self) -> int:
        """The first place of the input that is read."""
        return min((tap.place for r in self.residues for tap in r.taps), default=0)

    @property
    def reach(self) -> int:
        """How many places of one phase the first output's window touches, less one."""
        taps = [tap.place for r in self.residues for tap in r.taps]
        return (max(taps) - min(taps)) // self.phases if taps else 0

    @property
    def count(self) -> int:
        """The most outputs of a residue."""
        return max((r.length for r in self.residues), default=0)


@dataclass(frozen=True)
class Problem:
    """A convolution: the type, channels and outputs of *each* group, and two axes."""

    dtype: DType
    groups: int
    channels: int
    outputs: int
    rows: Axis
    columns: Axis

    @property
    def input(self) -> int:
        """Elements of one channel of the input."""
        return self.rows.size * self.columns.size

    @property
    def output(self) -> int:
        """Elements of one channel of the result."""
        return self.rows.extent * self.columns.extent

    @property
    def taps(self) -> int:
        """The taps of a kernel."""
        return self.rows.taps * self.columns.taps

    @property
    def refusal(self) -> str:
        """Why there is no kernel for it; empty where there is one."""
        axes = (self.rows, self.columns)
        sizes = [n for a in axes for n in (a.size, a.extent, a.taps)]
        if self.dtype.name not in ("float32", "float64"):
            return f"convolution of {self.dtype}"
        if 0 in (self.groups, self.channels, self.outputs, *sizes):
            return "an operand of a convolution is empty"
        if self.taps > MOST_TAPS:
            return f"more than {MOST_TAPS} taps"
        if max(a.phases for a in axes) > MOST_STRIDE:
            return f"a stride of more than {MOST_STRIDE}"
        if max(a.step for a in axes) > MOST_DILATION:
            return f"an input dilated by more than {MOST_DILATION}"
        return ""


@dataclass(frozen=True)
class Weights:
    """Where a kernel lies: elements from the start to the next group, output, channel, tap."""

    start: int
    group: int
    output: int
    channel: int
    row: int
    column: int

    @staticmethod
    def plain(p: Problem) -> Weights:
        """(groups outputs, channels, rows, columns) as it is."""
        inner = p.channels * p.taps
        return Weights(0, p.outputs * inner, inner, p.taps, p.columns.taps, 1)

    @staticmethod
    def exchanged(p: Problem) -> Weights:
        """Outputs and channels exchanged in each group, taps in reverse: of the derivative in x."""
        inner = p.outputs * p.taps
        return Weights(p.taps - 1, p.channels * inner, p.taps, inner, -p.columns.taps, -1)


class Place(NamedTuple):
    """Where a vector of outputs will be written, as an epilogue may ask."""

    frame: str  # pointer to the words
    batch: Index
    channel: Index  # of all groups
    offset: Index  # elements from the start of `out`
    lanes: Lanes
    mask: str  # the lanes that are written


Epilogue = Callable[[Vectors, str, Place], str]


@dataclass(frozen=True)
class Code:
    """The LLVM text of a call `void @NAME(ptr %frame)`, and what it asks for.

    `frame` holds pointers to the operands, the result and `scratch` bytes, then the batch's size.
    Texts of several kernels make one module if each declaration is taken once.
    """

    name: str
    text: str
    declarations: frozenset[str]
    scratch: int


# ----- the padded scratch -------------------------------------------------------------------------


@dataclass(frozen=True)
class Scratch:
    """The layout of some channels of a band of one image, padded, in planes of one phase each.

    A band is `height` by `width` outputs of each residue; `rows` times `columns` bands make an image.
    """

    problem: Problem
    lanes: Lanes
    height: int
    width: int

    @property
    def rows(self) -> int:
        """How many bands lie above each other."""
        return -(-self.problem.rows.count // self.height)

    @property
    def columns(self) -> int:
        """How many bands lie beside each other."""
        return -(-self.problem.columns.count // self.width)

    @property
    def lines(self) -> int:
        """The rows of one phase."""
        return self.height + self.problem.rows.reach

    @property
    def pitch(self) -> int:
        """From one row to the next."""
        return self.width + self.problem.columns.reach

    @property
    def plane(self) -> int:
        """From one phase to the next: a vector may be written beyond the last row."""
        return self.lines * self.pitch + self.lanes.count

    @property
    def channel(self) -> int:
        """From one channel to the next: an odd number of cache lines, for the cache's sake."""
        line = 64 // self.lanes.bytes
        size = self.problem.rows.phases * self.problem.columns.phases * self.plane
        return (-(-size // line) | 1) * line

    def offset(self, row: Tap, column: Tap) -> int:
        """From an output's place to what a tap reads there."""
        rows, columns = self.problem.rows, self.problem.columns
        y, x = row.place - rows.low, column.place - columns.low
        phase = y % rows.phases * columns.phases + x % columns.phases
        return phase * self.plane + y // rows.phases * self.pitch + x // columns.phases

    def bytes(self, channels: int, places: int) -> int:
        """The size for some channels, where `places` from the first one on may be read at each tap."""
        beyond = max(0, places - self.height * self.pitch) + self.lanes.count
        return lines((channels * self.channel + beyond) * self.lanes.bytes)


def bands(p: Problem, lanes: Lanes, channels: int, span: int, places: int) -> Scratch:
    """The scratch of a band of at most `places` outputs whose channels fit in about `span` bytes."""
    wide = min(p.columns.count, max(places, lanes.count))
    area = max(1, span // (channels * p.rows.phases * p.columns.phases * lanes.bytes))
    if (wide + p.columns.reach) * (1 + p.rows.reach) > area:
        wide = min(wide, max(4 * lanes.count, area // (1 + p.rows.reach) - p.columns.reach))
    high = area // (wide + p.columns.reach) - p.rows.reach
    high = max(1, min(p.rows.count, places // wide, high))
    return Scratch(p, lanes, _even(p.rows.count, high), _even(p.columns.count, wide))


def _even(size: int, most: int) -> int:
    """The size of parts of about one size.

    >>> _even(28, 20)
    14
    """
    return -(-size // -(-size // most))


def lines(bytes: int) -> int:
    """Bytes up to a whole number of cache lines."""
    return -(-bytes // 64) * 64


class Band(NamedTuple):
    """A band of an image, and the first output of each residue in it."""

    image: Index
    row: Index
    column: Index

    @staticmethod
    def of(w: Vectors, s: Scratch, unit: Index) -> Band:
        """The band of a number: images one after the other."""
        image, k = w.quotient(unit, s.rows * s.columns), w.modulus(unit, s.rows * s.columns)
        row, column = w.quotient(k, s.columns), w.modulus(k, s.columns)
        return Band(image, w.mul(row, s.height), w.mul(column, s.width))

    def height(self, w: Vectors, s: Scratch, residue: Residue) -> Index:
        """The rows of a residue in this band."""
        return w.greatest(0, w.least(s.height, w.sub(residue.length, self.row)))

    def width(self, w: Vectors, s: Scratch, residue: Residue) -> Index:
        """The columns of a residue in this band."""
        return w.greatest(0, w.least(s.width, w.sub(residue.length, self.column)))


def fill(w: Vectors, s: Scratch, x: str, to: str, channels: Index, band: Band) -> None:
    """Copy channels of an image (from `x` on) to the scratch, zeros where there is no input.

    Rows are written in order, each up to a vector too far: what follows is written later.
    """
    rows, columns, count = s.problem.rows, s.problem.columns, s.lanes.count
    top = w.add(w.mul(band.row, rows.phases), rows.low)
    left = w.add(w.mul(band.column, columns.phases), columns.low)

    def line(source: str, target: str, phase: int, i: Index) -> None:
        y = w.add(w.mul(i, rows.phases), top, phase)
        inside = w.emit(f"icmp ult i64 {y}, {rows.size}")
        width = w.emit(f"select i1 {inside}, i64 {columns.size}, i64 0")
        read, write = w.at(source, w.mul(y, columns.size)), w.at(target, w.mul(i, s.pitch))

        def vectors(j: Index) -> None:
            column = w.add(w.mul(j, columns.phases), left)
            places = [w.add(column, k * count) for k in range(columns.phases)]
            parts = [w.load(w.at(read, at), w.within(at, width)) for at in places]
            for k in range(columns.phases):
                lanes = [divmod(columns.phases * l + k, count) for l in range(count)]
                w.store(w.pick(parts, lanes), w.at(write, w.add(j, k * s.plane)))

        w.each(0, s.pitch, count, vectors)

    def channel(c: Index) -> None:
        source, target = w.at(x, w.mul(c, s.problem.input)), w.at(to, w.mul(c, s.channel))
        for phase in range(rows.phases):
            plane = w.at(target, phase * columns.phases * s.plane)
            w.each(0, s.lines, 1, lambda i: line(source, plane, phase, i))

    w.each(0, channels, 1, channel)


def shares(w: Vectors, units: Index, parts: Index, part: Index) -> tuple[Index, Index]:
    """The first unit of a part, and the first of the next."""
    first = w.quotient(w.mul(units, part), parts)
    return first, w.quotient(w.mul(units, w.add(part, 1)), parts)


def table(name: str, numbers: Sequence[int]) -> str:
    """A constant of i64."""
    row = ", ".join(f"i64 {k}" for k in numbers or [0])
    return f"@{name} = internal constant [{max(1, len(numbers))} x i64] [{row}]"


def entry(w: Vectors, name: str, k: Index) -> str:
    """An entry of such a constant."""
    return w.emit(f"load i64, ptr {w.byte(f'@{name}', w.mul(k, 8))}, align 8")


# ----- the weights, packed ------------------------------------------------------------------------


class Block(NamedTuple):
    """`outputs` of a group that are computed together, from `first` on, `repeats` times."""

    first: int
    outputs: int
    repeats: int


def blocks(size: int, most: int) -> list[Block]:
    """A number of outputs in blocks of the most, and a smaller one at the end.

    >>> blocks(19, 8)
    [Block(first=0, outputs=8, repeats=2), Block(first=16, outputs=3, repeats=1)]
    """
    full, rest = divmod(size, most)
    found = [Block(0, most, full)] if full else []
    return found + ([Block(full * most, rest, 1)] if rest else [])


def _pack(name: str, p: Problem, lanes: Lanes, weights: Weights, found: list[Block]) -> Vectors:
    """`void @NAME.pack(ptr %frame, i64 %group)`: a group's weights, block by block, to the start
    of the scratch; the tables `@NAME.taps` says where the taps lie.
    """
    w = Vectors(f"{name}.pack", "ptr %frame, i64 %group", lanes)
    taps = sum(map(len, residues(p)))
    source = w.at(w.word("%frame", 1), w.add(w.mul("%group", weights.group), weights.start))
    target = w.at(w.word("%frame", 3), w.mul("%group", p.outputs * p.channels * taps))

    def one(block: Block, b: Index) -> None:
        o = w.add(w.mul(b, block.outputs), block.first)
        start, to = w.at(source, w.mul(o, weights.output)), w.at(target, w.mul(o, p.channels * taps))

        def tap(c: Index, k: Index) -> None:
            at = w.add(w.mul(c, weights.channel), entry(w, f"{name}.taps", k))
            write = w.at(to, w.mul(w.add(w.mul(c, taps), k), block.outputs))
            for i in range(block.outputs):
                value = w.scalar(w.at(start, w.add(at, i * weights.output)))
                w.put(value, w.at(write, i))

        w.each(0, p.channels, 1, lambda c: w.each(0, taps, 1, lambda k: tap(c, k)))

    for block in found:
        w.each(0, block.repeats, 1, partial(one, block))
    return w


def residues(p: Problem) -> list[list[tuple[Tap, Tap]]]:
    """The taps of each residue of rows and columns: their order in the packed weights."""
    return [
        [(y, x) for y in rows.taps for x in columns.taps]
        for rows in p.rows.residues
        for columns in p.columns.residues
    ]


# ----- the product --------------------------------------------------------------------------------


class Sums(NamedTuple):
    """The results of one block, before they are written: `vectors` of places are computed at a
    time, `room` is the elements for each output.
    """

    block: Block
    vectors: int
    room: int


def _sums(s: Scratch, block: Block) -> Sums:
    """As many vectors of places at a time as registers hold and the rows make use of."""
    needed = -(-((s.height - 1) * s.pitch + s.width) // s.lanes.count)
    most = max(1, min(8, (s.lanes.registers - 2) // (block.outputs + 1)))

    def cycles(n: int) -> int:
        return -(-needed // n) * (block.outputs * n + n + block.outputs)

    vectors = min(range(most, 0, -1), key=cycles)
    return Sums(block, vectors, -(-needed // vectors) * vectors * s.lanes.count)


def product(
    name: str, p: Problem, lanes: Lanes, weights: Weights, epilogue: Epilogue | None = None
) -> Code:
    """`void @NAME(ptr %frame)`: the convolution. Frame: x, w, out, scratch, batch.

    Raises ValueError where `p.refusal` says why.
    """
    if p.refusal:
        raise ValueError(p.refusal)
    s = bands(p, lanes, p.channels, SPAN, 1 << 16)
    task = _Product(name, s, epilogue)
    packing = _pack(name, p, lanes, weights, [sums.block for sums in task.sums])
    driver = Vectors(name, "ptr %frame", lanes, linkage="")
    parallel(driver, f"{name}.pack", p.groups)
    parts = driver.least(driver.mul(driver.word("%frame", 4, "i64"), s.rows * s.columns), PARTS)
    parallel(driver, f"{name}.task", parts)
    taps = [tap for residue in residues(p) for tap in residue]
    tables = [
        table(f"{name}.taps", [weights.row * y.number + weights.column * x.number for y, x in taps]),
        table(f"{name}.offsets", [s.offset(y, x) for y, x in taps]),
    ]
    return module(name, tables, [packing, task.writer, driver], task.packed + PARTS * task.each)


def module(name: str, tables: list[str], writers: list[Vectors], scratch: int) -> Code:
    """The functions of one kernel, the last of which is called."""
    text = "\n".join([*tables, *(w.text() for w in writers)])
    return Code(name, text, frozenset().union(*(w.declared for w in writers)), scratch)


def parallel(w: Vectors, task: str, chunks: Index) -> None:
    """Call a task for each chunk."""
    w.call("void", "sk_parallel", ("ptr", f"@{task}"), ("ptr", "%frame"), ("i64", str(chunks)))


class _Product:
    """Writes the task of `product`: some bands of images."""

    def __init__(self, name: str, s: Scratch, epilogue: Epilogue | None) -> None:
        self.name, self.s, self.p, self.epilogue = name, s, s.problem, epilogue
        self.writer = w = Vectors(f"{name}.task", "ptr %frame, i64 %part", s.lanes)
        self.residues = [len(taps) for taps in residues(self.p)]
        self.taps = sum(self.residues)
        size = 8 if s.lanes.registers == 32 else 4
        self.sums = [_sums(s, block) for block in blocks(self.p.outputs, size)]
        self.inputs = s.bytes(self.p.channels, max(sums.room for sums in self.sums))
        most = max(sums.block.outputs * sums.room for sums in self.sums)
        results = lines(most * len(self.p.columns.residues) * s.lanes.bytes)
        self.each = self.inputs + results
        weights = self.p.groups * self.p.outputs * self.p.channels * self.taps
        self.packed = lines(weights * s.lanes.bytes)
        self.x, self.out, self.weights = (w.word("%frame", k) for k in (0, 2, 3))
        self.scratch = w.byte(self.weights, w.add(w.mul("%part", self.each), self.packed))
        self.results = w.byte(self.scratch, self.inputs)
        units = w.mul(w.word("%frame", 4, "i64"), s.rows * s.columns)
        first, last = shares(w, units, w.least(units, PARTS), "%part")
        w.each(first, last, 1, lambda unit: self.unit(Band.of(w, s, unit)))

    def unit(self, band: Band) -> None:
        """A band of an image: each group's channels, then its outputs block by block."""
        w, p, s = self.writer, self.p, self.s

        def group(g: Index) -> None:
            first = w.mul(w.add(w.mul(band.image, p.groups), g), p.channels)
            fill(w, s, w.at(self.x, w.mul(first, p.input)), self.scratch, p.channels, band)
            for sums in self.sums:
                repeats = sums.block.repeats
                w.each(0, repeats, 1, partial(self.block, band, g, sums))

        w.each(0, p.groups, 1, group)

    def block(self, band: Band, g: Index, sums: Sums, b: Index) -> None:
        """A block's outputs: all residues of columns, then the rows they make."""
        w, p, s, outputs = self.writer, self.p, self.s, sums.block.outputs
        o = w.add(w.mul(g, p.outputs), w.mul(b, outputs), sums.block.first)
        weights = w.at(self.weights, w.mul(o, p.channels * self.taps))
        columns, before = p.columns.residues, 0
        for k, rows in enumerate(p.rows.residues):
            height = band.height(w, s, rows)
            for j, residue in enumerate(columns):
                taps = range(before, before + self.residues[k * len(columns) + j])
                before = taps.stop
                to = w.at(self.results, j * outputs * sums.room)
                packed, width = w.at(weights, taps.start * outputs), band.width(w, s, residue)
                self.accumulate(sums, packed, taps, to, height, width)
            self.write(band, o, rows, height, sums)

    def accumulate(
        self, sums: Sums, weights: str, taps: range, to: str, height: Index, width: Index
    ) -> None:
        """The sums of one residue, some vectors of places at a time.

        A register adds up the terms of a stretch of channels; the totals add up in memory.
        """
        w, p, s = self.writer, self.p, self.s
        count, room = s.lanes.count, sums.room
        shape = [divmod(i, sums.vectors) for i in range(sums.block.outputs * sums.vectors)]
        stretch = max(1, TERMS // max(1, len(taps)))

        def tile(place: Index) -> None:
            base = w.at(to, place)

            def products(c: str, found: list[str]) -> list[str]:
                return self.products(sums, weights, taps, place, c, found)

            def some(first: Index) -> None:
                end = w.least(w.add(first, stretch), p.channels)
                found = w.sums(first, end, 1, ["zeroinitializer"] * len(shape), products)
                for (o, v), value in zip(shape, found, strict=True):
                    at = w.at(base, o * room + v * count)
                    w.store(value if first == 0 else w.fadd(w.load(at), value), at)

            some(0)
            if stretch < p.channels:
                w.each(stretch, p.channels, stretch, some)

        places = w.add(w.mul(height, s.pitch), w.sub(width, s.pitch))
        w.each(0, places, sums.vectors * count, tile)

    def products(
        self, sums: Sums, weights: str, taps: range, place: Index, c: Index, found: list[str]
    ) -> list[str]:
        """The sums with the products of one channel's taps."""
        w, s = self.writer, self.s
        outputs, vectors = sums.block.outputs, sums.vectors
        source = w.at(self.scratch, w.add(w.mul(c, s.channel), place))
        factors = w.at(weights, w.mul(c, self.taps * outputs))

        def tap(k: str, found: list[str]) -> list[str]:
            read = w.at(source, entry(w, f"{self.name}.offsets", w.add(k, taps.start)))
            xs = [w.load(w.at(read, v * s.lanes.count)) for v in range(vectors)]
            factor, out = w.at(factors, w.mul(k, outputs)), []
            for o in range(outputs):
                weight = w.splat(w.scalar(w.at(factor, o)))
                out += [w.fma(x, weight, found[o * vectors + v]) for v, x in enumerate(xs)]
            return out

        return w.sums(0, len(taps), 1, found, tap)

    def write(self, band: Band, o: Index, rows: Residue, height: Index, sums: Sums) -> None:
        """Copy the rows of a residue, of all outputs of a block, to the result."""
        w, p, s = self.writer, self.p, self.s
        first = w.mul(w.mul(band.image, p.groups * p.outputs), p.output)
        left = w.mul(band.column, p.columns.step)

        def output(i: Index) -> None:
            channel = w.add(o, i)
            plane = w.add(first, w.mul(channel, p.output))
            source = w.at(self.results, w.mul(i, sums.room))

            def line(j: Index) -> None:
                row = w.add(w.mul(w.add(j, band.row), p.rows.step), rows.first)
                place = w.add(plane, w.mul(row, p.columns.extent), left)
                read = w.at(source, w.mul(j, s.pitch))
                self.line(band, sums, read, place, channel)

            w.each(0, height, 1, line)

        w.each(0, sums.block.outputs, 1, output)

    def line(self, band: Band, sums: Sums, source: str, place: Index, channel: Index) -> None:
        """One row: the residues of its columns, interleaved."""
        w, columns, count = self.writer, self.p.columns, self.s.lanes.count
        step = len(columns.residues)
        width = count // step * step
        lanes = [(l % step, l // step) if l < width else (0, 0) for l in range(count)]
        left = w.mul(band.column, columns.step)
        size = w.least(w.sub(columns.extent, left), self.s.width * columns.step)

        def vector(t: Index) -> None:
            read = w.at(source, w.quotient(t, step))
            parts = [w.at(read, k * sums.block.outputs * sums.room) for k in range(step)]
            value = w.pick([w.load(part) for part in parts], lanes)
            mask, at = w.within(0, w.least(w.sub(size, t), width)), w.add(place, t)
            if self.epilogue is not None:
                seen = Place("%frame", band.image, channel, at, self.s.lanes, mask)
                value = self.epilogue(w, value, seen)
            w.store(value, w.at(self.out, at), mask)

        w.each(0, size, width, vector)
