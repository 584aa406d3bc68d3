"""What kernels of convolutions share: the problem, and the padded scratch in which they read.

Convolutions of float32 and float64 along one or two axes, NCHW in memory. For a band of an image
its channels are copied to a padded scratch, where every tap is one offset from an output's place:
strides are planes of their own, and a dilated input is some convolutions without holes, one for
each residue of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from stagekit.kernels.llvm.vectors import Index, Lanes, Vectors
from stagekit.types import DType

PARTS = 16  # chunks at most, each with scratch of its own
MOST_TAPS = 512
MOST_SIZE = 1 << 30
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
    """One axis: out[t] is the sum over k of x[(offset + stride t + spacing k) / dilation] w[k].

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
            start = self.offset + self.stride * first
            places = [divmod(start + self.spacing * k, self.dilation) for k in range(self.taps)]
            taps = [Tap(k, place) for k, (place, hole) in enumerate(places) if not hole]
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
    def residues(self) -> list[list[tuple[Tap, Tap]]]:
        """The taps of each residue of rows and columns."""
        return [
            [(y, x) for y in rows.taps for x in columns.taps]
            for rows in self.rows.residues
            for columns in self.columns.residues
        ]

    @property
    def refusal(self) -> str:
        """Why there is no kernel for it; empty where there is one."""
        axes = (self.rows, self.columns)
        sizes = [n for a in axes for n in (a.size, a.extent, a.taps)]
        if self.dtype.name not in ("float32", "float64"):
            return f"convolution of {self.dtype}"
        if 0 in (self.groups, self.channels, self.outputs, *sizes):
            return "an operand of a convolution is empty"
        if max(sizes) > MOST_SIZE:
            return f"an axis of more than {MOST_SIZE} elements"
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

    A band is `height` by `width` outputs of each residue; `rows` by `columns` bands make an image.
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

    @property
    def places(self) -> int:
        """From a band's first output to its last, both counted."""
        return (self.height - 1) * self.pitch + self.width

    def bytes(self, channels: int, places: int) -> int:
        """The size for some channels, where so many places may be read at each tap."""
        beyond = max(0, places - self.places)
        return lines((channels * self.channel + beyond) * self.lanes.bytes)


def bands(p: Problem, lanes: Lanes, channels: int, span: int, places: int) -> Scratch:
    """The scratch of bands of at most `places` outputs, whose channels fit in some bytes."""
    wide = min(p.columns.count, max(places, lanes.count))
    area = max(1, span // (channels * p.rows.phases * p.columns.phases * lanes.bytes))
    if (wide + p.columns.reach) * (1 + p.rows.reach) > area:
        wide = min(wide, max(4 * lanes.count, area // (1 + p.rows.reach) - p.columns.reach))
    high = area // (wide + p.columns.reach) - p.rows.reach
    high = max(1, min(p.rows.count, places // wide, high))
    return Scratch(p, lanes, even(p.rows.count, high), even(p.columns.count, wide))


def even(size: int, most: int) -> int:
    """The size of parts of about one size.

    >>> even(28, 20)
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
            w.each(0, s.lines, 1, partial(line, source, plane, phase))

    w.each(0, channels, 1, channel)


# ----- words for both kernels ---------------------------------------------------------------------


class Block(NamedTuple):
    """`size` things that are computed together, from `first` on, `repeats` times."""

    first: int
    size: int
    repeats: int


def blocks(count: int, most: int) -> list[Block]:
    """A number of things in blocks of the most, and a smaller one at the end.

    >>> blocks(19, 8)
    [Block(first=0, size=8, repeats=2), Block(first=16, size=3, repeats=1)]
    """
    full, rest = divmod(count, most)
    found = [Block(0, most, full)] if full else []
    return found + ([Block(full * most, rest, 1)] if rest else [])


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


def parallel(w: Vectors, task: str, chunks: Index) -> None:
    """Call a task for each chunk."""
    w.call("void", "sk_parallel", ("ptr", f"@{task}"), ("ptr", "%frame"), ("i64", str(chunks)))


def module(name: str, tables: list[str], writers: list[Vectors], scratch: int) -> Code:
    """The functions of one kernel, the last of which is called."""
    text = "\n".join([*tables, *(w.text() for w in writers)])
    return Code(name, text, frozenset().union(*(w.declared for w in writers)), scratch)
