"""The derivative of a convolution in its kernel, as LLVM code: what `convolution.py` reads, summed
over images and places instead of channels.

dw[o, c, k] is the sum over images and outputs t of ct[n, o, t] x[n, c, place(t, k)]. The input lies
in the same padded scratch. Either outputs are lanes: the cotangent is transposed and single places
of the input are multiplied by vectors of it, a product of matrices of which none holds windows. Or
columns are (for few outputs in a group), and both are read in rows. The images are shared out among
a number of parts that no number of threads changes; their totals are added at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from stagekit.kernels.llvm.vectors import Index, Lanes, Vectors
from stagekit.kernels.products.convolution import (
    PARTS,
    Band,
    Block,
    Code,
    Problem,
    bands,
    blocks,
    entry,
    fill,
    lines,
    module,
    parallel,
    shares,
    table,
)

PLACES = 128  # that a register adds up before its total is added to others
SPAN = 192 << 10  # bytes of padded input that stay in a core's cache
TOTALS = 32 << 20  # bytes of the parts' totals, about
CHUNKS = 8  # pieces of work at least, where there is enough of it


Size = tuple[Index, Index]  # rows and columns of a band


class Tile(NamedTuple):
    """What registers hold at a time: channels or outputs (columns as lanes), taps, and vectors of
    outputs.
    """

    rows: int
    taps: int
    vectors: int


def kernel_gradient(name: str, p: Problem, lanes: Lanes, exchanged: bool = False) -> Code:
    """`void @NAME(ptr %frame)`: the derivative of `p` in its kernel, for the cotangent ct of the
    result. Frame: x, ct, dw, scratch, batch. `exchanged`: axes 0 and 1 of dw are.

    Raises ValueError where `p.refusal` says why.
    """
    if p.refusal:
        raise ValueError(p.refusal)
    by_outputs, by_columns = ByOutputs.cycles(p, lanes), ByColumns.cycles(p, lanes)
    return (ByOutputs if by_outputs <= by_columns else ByColumns)(name, p, lanes).code(exchanged)


def _tap_counts(p: Problem) -> list[int]:
    """How many taps a tile may have: all, or some, whose places are then read from a table."""
    return sorted({min(p.taps, n) for n in (1, 2, 3, 4, 5, p.taps)})


class Reads(NamedTuple):
    """Some taps: where each reads beside an output's place, and its number in the kernel."""

    offsets: list[Index]
    numbers: list[Index]


class _Gradient:
    """Writes the tasks of one derivative: a chunk is some images, and some channels of a group.

    Totals lie as [part][group][channel][tap], `row` elements each: vectors of some outputs.
    """

    tile: Tile
    row: int
    outputs: int  # whose totals lie in one vector

    def __init__(self, name: str, p: Problem, lanes: Lanes, places: int) -> None:
        self.name, self.p, self.lanes = name, p, lanes
        self.s = bands(p, lanes, p.channels, SPAN, places)
        self.writer = Vectors(f"{name}.task", "ptr %frame, i64 %chunk", lanes)
        taps = [tap for residue in p.residues for tap in residue]
        self.offsets = [self.s.offset(y, x) for y, x in taps]
        self.numbers = [y.number * p.columns.taps + x.number for y, x in taps]

    def code(self, exchanged: bool) -> Code:
        """The whole."""
        p, bytes = self.p, self.lanes.bytes
        self.totals = lines(p.groups * p.channels * p.taps * self.row * bytes)
        self.parts = max(1, min(PARTS, TOTALS // self.totals, 4 * PARTS // p.groups))
        wanted = -(-CHUNKS // (self.parts * p.groups))
        split = max(n for n in range(1, wanted + 1) if p.channels % n == 0)
        self.channels, self.pieces = p.channels // split, p.groups * split
        self.inputs = self.s.bytes(self.channels, self.s.places)
        self.each = self.inputs + self.extra()
        self.task()
        gather, driver = self.gather(exchanged), Vectors(self.name, "ptr %frame", self.lanes, "")
        parallel(driver, f"{self.name}.task", driver.mul(self.used(driver), self.pieces))
        parallel(driver, f"{self.name}.gather", p.groups * p.channels)
        tables = [
            table(f"{self.name}.offsets", self.offsets), table(f"{self.name}.numbers", self.numbers)
        ]  # fmt: skip
        scratch = self.parts * (self.totals + self.pieces * self.each)
        return module(self.name, tables, [self.writer, gather, driver], scratch)

    def used(self, w: Vectors) -> Index:
        """The parts that have some images."""
        return w.least(self.units(w), self.parts)

    def units(self, w: Vectors) -> Index:
        """The bands of all images."""
        return w.mul(w.word("%frame", 4, "i64"), self.s.rows * self.s.columns)

    def task(self) -> None:
        """One chunk: its totals from zero on, band by band."""
        w, p = self.writer, self.p
        part, piece = w.quotient("%chunk", self.pieces), w.modulus("%chunk", self.pieces)
        split = self.pieces // p.groups
        self.group = w.quotient(piece, split)
        first = w.mul(w.modulus(piece, split), self.channels)
        self.channel = w.add(w.mul(self.group, p.channels), first)
        self.x, self.ct, scratch = (w.word("%frame", k) for k in (0, 1, 3))
        self.scratch = w.byte(scratch, w.add(w.mul("%chunk", self.each), self.parts * self.totals))
        row = w.mul(self.channel, p.taps * self.row)
        self.total = w.at(w.byte(scratch, w.mul(part, self.totals)), row)
        size = w.mul(self.channels, p.taps * self.row)
        zero = lambda i: w.store("zeroinitializer", w.at(self.total, i))
        w.each(0, size, self.lanes.count, zero)
        first, last = shares(w, self.units(w), self.used(w), part)
        w.each(first, last, 1, lambda unit: self.unit(Band.of(w, self.s, unit)))

    def unit(self, band: Band) -> None:
        """One band of an image."""
        w, p = self.writer, self.p
        channel = w.add(w.mul(band.image, p.groups * p.channels), self.channel)
        fill(w, self.s, w.at(self.x, w.mul(channel, p.input)), self.scratch, self.channels, band)
        o = w.mul(w.add(w.mul(band.image, p.groups), self.group), p.outputs)
        self.band(band, w.at(self.ct, w.mul(o, p.output)))

    def taps(self, which: range, size: int, body: Callable[[Reads], None]) -> None:
        """Some taps at a time; where there are many, their places come from the tables."""
        w = self.writer
        for block in blocks(len(which), size):
            first = which.start + block.first
            if block.repeats == 1:
                some = slice(first, first + block.size)
                body(Reads([*self.offsets[some]], [*self.numbers[some]]))
                continue

            def loaded(k: Index, first: int = first, size: int = block.size) -> None:
                at = [w.add(w.mul(k, size), first + i) for i in range(size)]
                tables = [f"{self.name}.{what}" for what in ("offsets", "numbers")]
                offsets, numbers = ([entry(w, name, i) for i in at] for name in tables)
                body(Reads([*offsets], [*numbers]))

            w.each(0, block.repeats, 1, loaded)

    def add(self, at: str, value: str) -> None:
        """Add to a total."""
        w = self.writer
        w.store(w.fadd(w.load(at), value), at)

    def gather(self, exchanged: bool) -> Vectors:
        """`void @NAME.gather(ptr %frame, i64 %channel)`: a channel's totals, added up."""
        w, p = Vectors(f"{self.name}.gather", "ptr %frame, i64 %channel", self.lanes), self.p
        source = w.at(w.word("%frame", 3), w.mul("%channel", p.taps * self.row))
        group, channel = w.quotient("%channel", p.channels), w.modulus("%channel", p.channels)
        output = p.taps if exchanged else p.channels * p.taps
        inner = p.groups * p.outputs * p.taps if exchanged else p.taps
        start = w.add(w.mul(group, p.outputs * output), w.mul(channel, inner))
        result, parts = w.at(w.word("%frame", 2), start), self.used(w)

        def vector(k: Index, block: Block, b: Index) -> None:
            o = w.add(w.mul(b, block.size), block.first)
            v = w.mul(w.quotient(o, self.outputs), self.lanes.count)
            at = w.at(source, w.add(w.mul(k, self.row), v))

            def add(part: str, old: list[str]) -> list[str]:
                return [w.fadd(old[0], w.load(w.byte(at, w.mul(part, self.totals))))]

            (total,) = w.sums(0, parts, 1, ["zeroinitializer"], add)
            to = w.at(result, w.add(w.mul(o, output), k))
            for l, value in enumerate(self.results(w, total, block.size)):
                w.put(value, w.at(to, l * output))

        def tap(k: Index) -> None:
            for block in blocks(p.outputs, self.outputs):
                w.each(0, block.repeats, 1, partial(vector, k, block))

        w.each(0, p.taps, 1, tap)
        return w

    def extra(self) -> int:
        """Bytes of scratch beside the input."""
        return 0

    def band(self, band: Band, ct: str) -> None:
        """Add one band's products to the totals; `ct` is its image's cotangent."""
        raise NotImplementedError

    def results(self, w: Vectors, total: str, outputs: int) -> list[str]:
        """The sums of the outputs that one vector of totals has."""
        raise NotImplementedError


class ByOutputs(_Gradient):
    """Outputs as lanes: for each place, elements of the input times vectors of the cotangent."""

    def __init__(self, name: str, p: Problem, lanes: Lanes) -> None:
        super().__init__(name, p, lanes, PLACES)
        self.vectors = -(-p.outputs // lanes.count)
        self.row, self.outputs = self.vectors * lanes.count, lanes.count
        self.tile = self.tiles(p, lanes)[1]
        self.places = self.s.height * p.rows.step * self.s.width * p.columns.step + lanes.count
        self.panel = self.places * self.tile.vectors * lanes.count

    @staticmethod
    def tiles(p: Problem, lanes: Lanes) -> tuple[float, Tile]:
        """The cycles of one place, and the tile that needs fewest."""
        vectors = -(-p.outputs // lanes.count)

        def cycles(tile: Tile) -> float:
            rows, taps = blocks(p.channels, tile.rows), blocks(p.taps, tile.taps)
            each = sum(
                c.repeats * k.repeats
                * (max(tile.vectors * c.size * k.size, tile.vectors + c.size * k.size) + 2)
                for c in rows
                for k in taps
            )  # fmt: skip
            return vectors // tile.vectors * each * (1 + 0.03 * len(rows) * len(taps))

        found = [
            Tile(rows, taps, v)
            for v in (1, 2, 3, 4)
            if vectors % v == 0
            for taps in _tap_counts(p)
            for rows in range(1, min(p.channels, 24) + 1)
            if rows * taps * v + v + 1 < lanes.registers
        ]
        best = min(found, key=cycles)
        return cycles(best), best

    @staticmethod
    def cycles(p: Problem, lanes: Lanes) -> float:
        """About what one image takes."""
        vectors = -(-p.outputs // lanes.count)
        transposing = 6 * vectors * p.output
        return ByOutputs.tiles(p, lanes)[0] * p.rows.count * p.columns.count + transposing

    def extra(self) -> int:
        return lines(self.vectors // self.tile.vectors * self.panel * self.lanes.bytes)

    def band(self, band: Band, ct: str) -> None:
        w, p, s = self.writer, self.p, self.s
        panels = w.byte(self.scratch, self.inputs)
        self.transpose(band, ct, panels)
        before = 0
        for rows in p.rows.residues:
            height = band.height(w, s, rows)
            for columns in p.columns.residues:
                taps = range(before, before + len(rows.taps) * len(columns.taps))
                before = taps.stop
                place = rows.first * s.width * p.columns.step + columns.first
                first = w.at(panels, place * self.tile.vectors * self.lanes.count)
                body = partial(self.multiply, first, taps, (height, band.width(w, s, columns)))
                w.each(0, self.vectors // self.tile.vectors, 1, body)

    def transpose(self, band: Band, ct: str, panels: str) -> None:
        """The band's cotangent, as [panel][place][outputs of the panel]; its rows in order, each up
        to a vector too far.
        """
        w, p, s, count = self.writer, self.p, self.s, self.lanes.count
        top, left = w.mul(band.row, p.rows.step), w.mul(band.column, p.columns.step)
        pitch, size = s.width * p.columns.step, self.tile.vectors * count
        height = w.least(s.height * p.rows.step, w.sub(p.rows.extent, top))
        width = w.least(pitch, w.sub(p.columns.extent, left))
        if pitch == p.columns.extent:  # the rows follow each other: one long row
            height, width = 1, w.mul(height, pitch)

        def line(i: Index) -> None:
            read = w.at(ct, w.add(w.mul(w.add(top, i), p.columns.extent), left))
            row = w.mul(i, pitch)

            def vector(j: Index) -> None:
                mask = w.within(0, w.least(w.sub(width, j), count))
                to = w.at(panels, w.mul(w.add(row, j), size))
                for block in blocks(p.outputs, count):
                    some = partial(self.square, w.at(read, j), mask, to, block)
                    w.each(0, block.repeats, 1, some)

            w.each(0, width, count, vector)

        w.each(0, height, 1, line)

    def square(self, ct: str, mask: str, panels: str, block: Block, b: Index) -> None:
        """A vector of places of as many outputs, transposed."""
        w, count = self.writer, self.lanes.count
        o = w.add(w.mul(b, block.size), block.first)
        first = w.at(ct, w.mul(o, self.p.output))
        rows = [w.load(w.at(first, k * self.p.output), mask) for k in range(block.size)]
        rows += ["zeroinitializer"] * (count - block.size)
        size = self.tile.vectors * count
        panel, k = w.quotient(o, size), w.modulus(o, size)
        to = w.at(panels, w.add(w.mul(panel, self.panel), k))
        for l, value in enumerate(w.transpose(rows)):
            w.store(value, w.at(to, l * size))

    def multiply(self, panels: str, taps: range, size: Size, k: Index) -> None:
        """The products of all channels and a residue's taps with the outputs of a panel."""
        w = self.writer
        ct = w.at(panels, w.mul(k, self.panel))
        total = w.at(self.total, w.mul(k, self.tile.vectors * self.lanes.count))

        def some(reads: Reads) -> None:
            for block in blocks(self.channels, self.tile.rows):
                w.each(0, block.repeats, 1, partial(self.products, ct, total, block, reads, size))

        self.taps(taps, self.tile.taps, some)

    def products(
        self, ct: str, total: str, channels: Block, reads: Reads, size: Size, b: Index
    ) -> None:
        """The products of one tile, over all places of the band."""
        w, p, s, count = self.writer, self.p, self.s, self.lanes.count
        vectors = self.tile.vectors
        c = w.add(w.mul(b, channels.size), channels.first)
        x = w.at(self.scratch, w.mul(c, s.channel))

        def row(i: str, sums: list[str]) -> list[str]:
            source = w.at(x, w.mul(i, s.pitch))
            line = w.at(ct, w.mul(i, p.rows.step * s.width * p.columns.step * vectors * count))

            def place(j: str, sums: list[str]) -> list[str]:
                at, factor = w.at(source, j), w.at(line, w.mul(j, p.columns.step * vectors * count))
                cts = [w.load(w.at(factor, v * count)) for v in range(vectors)]
                old, out = iter(sums), []
                for r in range(channels.size):
                    for offset in reads.offsets:
                        value = w.splat(w.scalar(w.at(w.at(at, offset), r * s.channel)))
                        out += [w.fma(value, ct, next(old)) for ct in cts]
                return out

            return w.sums(0, size[1], 1, sums, place)

        zeros = ["zeroinitializer"] * (channels.size * len(reads.offsets) * vectors)
        found = iter(w.sums(0, size[0], 1, zeros, row))
        for r in range(channels.size):
            for number in reads.numbers:
                tap = w.add(w.mul(w.add(c, r), p.taps), number)
                at = w.at(total, w.mul(tap, self.row))
                for v in range(vectors):
                    self.add(w.at(at, v * count), next(found))

    def results(self, w: Vectors, total: str, outputs: int) -> list[str]:
        take = f"extractelement {self.lanes.vector} {total}, i32"
        return [w.emit(f"{take} {l}") for l in range(outputs)]


class ByColumns(_Gradient):
    """Columns as lanes: rows of the input times rows of the cotangent, lane by lane."""

    def __init__(self, name: str, p: Problem, lanes: Lanes) -> None:
        super().__init__(name, p, lanes, PLACES * lanes.count)
        self.row, self.outputs = p.outputs * lanes.count, 1
        self.tile = self.tiles(p, lanes)[1]

    @staticmethod
    def tiles(p: Problem, lanes: Lanes) -> tuple[int, Tile]:
        """The cycles of one vector of places, and the tile that needs fewest."""

        def cycles(tile: Tile) -> int:
            return p.channels * sum(
                o.repeats * k.repeats * (max(o.size * k.size, 4) + o.size + k.size + 3)
                for o in blocks(p.outputs, tile.rows)
                for k in blocks(p.taps, tile.taps)
            )

        found = [
            Tile(rows, taps, 1)
            for rows in range(1, min(p.outputs, 8) + 1)
            for taps in _tap_counts(p)
            if rows * taps + rows + 1 < lanes.registers
        ]
        best = min(found, key=cycles)
        return cycles(best), best

    @staticmethod
    def cycles(p: Problem, lanes: Lanes) -> float:
        """About what one image takes; dilated inputs would need the cotangent in pieces."""
        if max(p.rows.step, p.columns.step) > 1:
            return float("inf")
        vectors = p.rows.extent * -(-p.columns.extent // lanes.count)
        return ByColumns.tiles(p, lanes)[0] * vectors

    def band(self, band: Band, ct: str) -> None:
        w, p, s = self.writer, self.p, self.s
        (rows,), (columns,) = p.rows.residues, p.columns.residues
        height, width = band.height(w, s, rows), band.width(w, s, columns)
        source = w.at(ct, w.add(w.mul(band.row, p.columns.extent), band.column))

        def channel(c: Index) -> None:
            def some(reads: Reads) -> None:
                for block in blocks(p.outputs, self.tile.rows):
                    body = partial(self.products, source, c, block, reads, (height, width))
                    w.each(0, block.repeats, 1, body)

            self.taps(range(len(self.offsets)), self.tile.taps, some)

        w.each(0, self.channels, 1, channel)

    def products(
        self, source: str, c: Index, block: Block, reads: Reads, size: Size, b: Index
    ) -> None:
        """The products of one tile, over all places of the band."""
        w, p, s, count = self.writer, self.p, self.s, self.lanes.count
        outputs, (height, width) = block.size, size
        o = w.add(w.mul(b, outputs), block.first)
        x, ct = w.at(self.scratch, w.mul(c, s.channel)), w.at(source, w.mul(o, p.output))

        def row(i: str, sums: list[str]) -> list[str]:
            read, line = w.at(x, w.mul(i, s.pitch)), w.at(ct, w.mul(i, p.columns.extent))

            def vector(j: str, sums: list[str]) -> list[str]:
                mask = "" if s.width % count == 0 and s.columns == 1 else w.within(
                    0, w.least(w.sub(width, j), count)
                )
                at, factor = w.at(read, j), w.at(line, j)
                cts = [w.load(w.at(factor, k * p.output), mask) for k in range(outputs)]
                old, out = iter(sums), []
                for offset in reads.offsets:
                    value = w.load(w.at(at, offset), mask)
                    out += [w.fma(value, ct, next(old)) for ct in cts]
                return out

            return w.sums(0, width, count, sums, vector)

        zeros = ["zeroinitializer"] * (len(reads.offsets) * outputs)
        found = iter(w.sums(0, height, 1, zeros, row))
        for number in reads.numbers:
            tap = w.mul(w.add(w.mul(c, p.taps), number), self.row)
            at = w.at(self.total, w.add(tap, w.mul(o, count)))
            for v in range(outputs):
                self.add(w.at(at, v * count), next(found))

    def results(self, w: Vectors, total: str, outputs: int) -> list[str]:
        return [w.total(total)]
