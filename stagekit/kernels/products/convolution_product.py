"""Convolutions as LLVM code: `product` writes x * w, and so the derivative in x.

A call packs the weights, [block of outputs][channel][tap][output of the block]; the derivative in x
reads the same weights in another order. Then it takes the images band by band. Either columns are
lanes: an image's places are one run, with a few to leave out at the end of each row, and vectors of
it are multiplied by single weights. Or outputs are: single places are multiplied by vectors of
weights, and the results transposed. Some 24 sums stay in registers while channels and taps go by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from stagekit.kernels.llvm.vectors import Index, Lanes, Vectors
from stagekit.kernels.products.convolution import (
    PARTS,
    Band,
    Block,
    Code,
    Epilogue,
    Place,
    Problem,
    Residue,
    Scratch,
    Weights,
    bands,
    blocks,
    entry,
    even,
    fill,
    lines,
    module,
    parallel,
    shares,
    table,
)

TERMS = 128  # what one register adds up before its total is added to others
SPAN = 384 << 10  # bytes of padded input that stay in a core's cache
WORK = 1 << 25  # products that are worth a band of their own,
PLACES = 1 << 10  # in bands of no fewer places
WEIGHTS = 512 << 10  # bytes of weights that stay in a core's cache
SQUARE = 100  # cycles to transpose as many vectors as there are lanes


def product(
    name: str, p: Problem, lanes: Lanes, weights: Weights, epilogue: Epilogue | None = None
) -> Code:
    """`void @NAME(ptr %frame)`: the convolution. Frame: x, w, out, scratch, batch.

    Raises ValueError where `p.refusal` says why.
    """
    if p.refusal:
        raise ValueError(p.refusal)
    places = max(PLACES, WORK // (p.channels * p.outputs * p.taps))
    s = bands(p, lanes, p.channels, SPAN, places)
    ways = ByOutputs(name, s, epilogue), ByColumns(name, s, epilogue)
    return min(ways, key=lambda way: way.cycles()).code(weights)


class _Product:
    """Writes the tasks of one convolution: packing, and some pieces of bands of images.

    `blocks` are the outputs of a group, of which `row(block)` numbers are packed for each tap. A
    piece is some of them.
    """

    blocks: list[Block]
    places: int  # of a band that may be read
    results: int  # elements of a block's results

    def __init__(self, name: str, s: Scratch, epilogue: Epilogue | None) -> None:
        self.name, self.s, self.p, self.epilogue = name, s, s.problem, epilogue
        self.writer = Vectors(f"{name}.task", "ptr %frame, i64 %part", s.lanes)
        self.residues = [len(taps) for taps in self.p.residues]
        self.taps = sum(self.residues)

    def row(self, block: Block) -> int:
        """The packed numbers of one tap."""
        raise NotImplementedError

    def cycles(self) -> float:
        """About what a band takes; infinite where there is no such kernel."""
        raise NotImplementedError

    def code(self, weights: Weights) -> Code:
        """The whole."""
        p, s, name = self.p, self.s, self.name
        each = p.channels * self.taps
        self.group = sum(self.row(block) * block.repeats for block in self.blocks) * each
        self.repeats = sum(block.repeats for block in self.blocks)
        most = WEIGHTS // max(1, self.row(self.blocks[0]) * each * s.lanes.bytes)
        self.piece = even(self.repeats, max(1, most))
        self.pieces = -(-self.repeats // self.piece)
        self.packed = lines(p.groups * self.group * s.lanes.bytes)
        self.inputs = s.bytes(p.channels, self.places)
        self.each = self.inputs + lines(self.results * s.lanes.bytes)
        self.task()
        driver = Vectors(name, "ptr %frame", s.lanes, linkage="")
        parallel(driver, f"{name}.pack", p.groups * self.repeats)
        parallel(driver, f"{name}.task", self.parts(driver))
        taps = [tap for residue in p.residues for tap in residue]
        places = [weights.row * y.number + weights.column * x.number for y, x in taps]
        tables = [
            table(f"{name}.taps", places),
            table(f"{name}.offsets", [s.offset(y, x) for y, x in taps]),
        ]
        writers = [self.pack(weights), self.writer, driver]
        return module(name, tables, writers, self.packed + PARTS * self.each)

    def bands(self, w: Vectors) -> Index:
        """The bands of all images."""
        return w.mul(w.word("%frame", 4, "i64"), self.s.rows * self.s.columns)

    def parts(self, w: Vectors) -> Index:
        """How many chunks share all pieces of them."""
        return w.least(w.mul(self.bands(w), self.p.groups * self.pieces), PARTS)

    def pack(self, weights: Weights) -> Vectors:
        """`void @NAME.pack(ptr %frame, i64 %chunk)`: a block of weights, to the scratch."""
        w, p = Vectors(f"{self.name}.pack", "ptr %frame, i64 %chunk", self.s.lanes), self.p
        group, first = w.quotient("%chunk", self.repeats), w.modulus("%chunk", self.repeats)
        source = w.at(w.word("%frame", 1), w.add(w.mul(group, weights.group), weights.start))
        target = w.at(w.word("%frame", 3), w.mul(group, self.group))

        def taps(read: str, write: str, size: int, c: Index, i: Index) -> None:
            start = w.at(read, w.add(w.mul(c, weights.channel), w.mul(i, weights.output)))
            to = w.at(write, w.add(w.mul(c, self.taps * size), i))

            def copy(k: Index) -> None:
                value = w.scalar(w.at(start, entry(w, f"{self.name}.taps", k)))
                w.put(value, w.at(to, w.mul(k, size)))

            w.each(0, self.taps, 1, copy)

        def one(block: Block, b: Index) -> None:
            o, size = w.add(w.mul(b, block.size), block.first), self.row(block)
            write = w.at(target, w.mul(o, p.channels * self.taps))
            some = partial(taps, w.at(source, w.mul(o, weights.output)), write, size)
            if abs(weights.output) > abs(weights.channel):  # what lies together is read together
                w.each(0, block.size, 1, lambda i: w.each(0, p.channels, 1, lambda c: some(c, i)))
            else:
                w.each(0, p.channels, 1, lambda c: w.each(0, block.size, 1, partial(some, c)))
            if block.size < size:
                rest = partial(w.each, block.size, size, 1)
                rows = lambda k: rest(lambda i: w.put("0.0", w.at(write, w.add(w.mul(k, size), i))))
                w.each(0, p.channels * self.taps, 1, rows)

        self.some(w, first, 1, one)
        return w

    def some(
        self, w: Vectors, first: Index, count: int, body: Callable[[Block, Index], None]
    ) -> None:
        """Some blocks of a group, from one on."""
        before = 0
        for block in self.blocks:
            begin = w.sub(first, before)
            end = w.least(w.add(begin, count), block.repeats)
            w.each(w.greatest(begin, 0), end, 1, partial(body, block))
            before += block.repeats

    def task(self) -> None:
        """`void @NAME.task(ptr %frame, i64 %part)`: some bands of images."""
        w, p, s = self.writer, self.p, self.s
        self.x, self.out, self.weights = (w.word("%frame", k) for k in (0, 2, 3))
        self.scratch = w.byte(self.weights, w.add(w.mul("%part", self.each), self.packed))
        self.sums = w.byte(self.scratch, self.inputs)
        bands, parts = self.bands(w), self.parts(w)
        units = w.mul(bands, p.groups * self.pieces)

        def unit(k: Index) -> None:
            piece, band = w.quotient(k, bands), Band.of(w, s, w.modulus(k, bands))
            self.unit(band, w.quotient(piece, self.pieces), w.modulus(piece, self.pieces))

        w.each(*shares(w, units, parts, "%part"), 1, unit)

    def unit(self, band: Band, g: Index, piece: Index) -> None:
        """A group's channels in a band of an image, and some of its outputs block by block.

        The next unit is the next band, for which the weights are in the cache.
        """
        w, p = self.writer, self.p
        first = w.mul(w.add(w.mul(band.image, p.groups), g), p.channels)
        fill(w, self.s, w.at(self.x, w.mul(first, p.input)), self.scratch, p.channels, band)
        body = partial(self.block, band, g)
        self.some(w, w.mul(piece, self.piece), self.piece, body)

    def block(self, band: Band, g: Index, block: Block, b: Index) -> None:
        """A block's outputs: all residues of columns, then the rows they make."""
        w, p, s = self.writer, self.p, self.s
        first = w.add(w.mul(b, block.size), block.first)
        weights = w.at(self.weights, w.mul(g, self.group))
        weights = w.at(weights, w.mul(first, p.channels * self.taps))
        o, columns, before = w.add(w.mul(g, p.outputs), first), p.columns.residues, 0
        for k, rows in enumerate(p.rows.residues):
            height = band.height(w, s, rows)
            for j, residue in enumerate(columns):
                taps = range(before, before + self.residues[k * len(columns) + j])
                before = taps.stop
                packed = w.at(weights, taps.start * self.row(block))
                size = height, band.width(w, s, residue)
                self.accumulate(block, packed, taps, j, size)
            self.write(band, o, rows, height, block)

    def accumulate(
        self, block: Block, weights: str, taps: range, residue: int, size: tuple[Index, Index]
    ) -> None:
        """The sums of one residue of columns."""
        raise NotImplementedError

    def write(self, band: Band, o: Index, rows: Residue, height: Index, block: Block) -> None:
        """Copy the rows of a residue, of all outputs of a block, to the result."""
        raise NotImplementedError

    def stretches(self, taps: range, body: Callable[[Index, Index], None]) -> None:
        """Stretches of channels, each of which one register adds up."""
        w, channels = self.writer, self.p.channels
        step = max(1, TERMS // max(1, len(taps)))
        body(0, min(step, channels))
        if step < channels:
            w.each(step, channels, step, lambda c: body(c, w.least(w.add(c, step), channels)))

    def keep(self, first: Index, values: Sequence[str], places: Sequence[str]) -> None:
        """Results of a stretch, added to those of the stretches before."""
        w = self.writer
        for value, at in zip(values, places, strict=True):
            w.store(value if first == 0 else w.fadd(w.load(at), value), at)

    def put(self, value: str, band: Band, channel: Index, at: Index, mask: str) -> None:
        """Write a vector of the result."""
        w = self.writer
        if self.epilogue is not None:
            place = Place("%frame", band.image, channel, at, self.s.lanes, mask)
            value = self.epilogue(w, value, place)
        w.store(value, w.at(self.out, at), mask)

    def plane(self, band: Band, channel: Index) -> Index:
        """Where a channel of the result begins."""
        images = self.writer.mul(band.image, self.p.groups * self.p.outputs)
        return self.writer.mul(self.writer.add(images, channel), self.p.output)


class ByColumns(_Product):
    """Columns as lanes. Results lie as [residue of columns][output][place]."""

    def __init__(self, name: str, s: Scratch, epilogue: Epilogue | None) -> None:
        super().__init__(name, s, epilogue)
        self.blocks = blocks(self.p.outputs, 8 if s.lanes.registers == 32 else 4)
        rooms = [self.room(block) for block in self.blocks]
        self.places = max(rooms)
        most = max(b.size * room for b, room in zip(self.blocks, rooms, strict=True))
        # Rows are read back in whole vectors.
        self.results = most * len(self.p.columns.residues) + s.lanes.count

    def row(self, block: Block) -> int:
        return block.size

    def cycles(self) -> float:
        if len(self.p.columns.residues) > self.s.lanes.count:  # a vector cannot have one of each
            return float("inf")
        each = sum(b.size * b.repeats * self.room(b) for b in self.blocks) / self.s.lanes.count
        return each * (self.p.channels * self.taps + 8 * len(self.p.residues))

    def needed(self) -> int:
        """The vectors of a band's places."""
        return -(-self.s.places // self.s.lanes.count)

    def vectors(self, block: Block) -> int:
        """How many of them are computed at a time: what registers hold and rows make use of."""
        most = max(1, min(8, (self.s.lanes.registers - 2) // (block.size + 1)))

        def cycles(n: int) -> int:
            return -(-self.needed() // n) * (block.size * n + n + block.size)

        return min(range(most, 0, -1), key=cycles)

    def room(self, block: Block) -> int:
        """Elements for the results of one output."""
        vectors = self.vectors(block)
        return -(-self.needed() // vectors) * vectors * self.s.lanes.count

    def accumulate(
        self, block: Block, weights: str, taps: range, residue: int, size: tuple[Index, Index]
    ) -> None:
        w, s = self.writer, self.s
        count, room, vectors = s.lanes.count, self.room(block), self.vectors(block)
        sums = w.at(self.sums, residue * block.size * room)
        each = [(o, v) for o in range(block.size) for v in range(vectors)]

        def tile(place: Index) -> None:
            base = w.at(sums, place)
            body = partial(self.products, block, weights, taps, place)

            def some(first: Index, end: Index) -> None:
                found = w.sums(first, end, 1, ["zeroinitializer"] * len(each), body)
                self.keep(first, found, [w.at(base, o * room + v * count) for o, v in each])

            self.stretches(taps, some)

        places = w.add(w.mul(size[0], s.pitch), w.sub(size[1], s.pitch))
        w.each(0, places, vectors * count, tile)

    def products(
        self, block: Block, weights: str, taps: range, place: Index, c: str, sums: list[str]
    ) -> list[str]:
        """The sums with the products of one channel's taps."""
        w, s, vectors = self.writer, self.s, self.vectors(block)
        source = w.at(self.scratch, w.add(w.mul(c, s.channel), place))
        factors = w.at(weights, w.mul(c, self.taps * block.size))

        def tap(k: str, sums: list[str]) -> list[str]:
            read = w.at(source, entry(w, f"{self.name}.offsets", w.add(k, taps.start)))
            xs = [w.load(w.at(read, v * s.lanes.count)) for v in range(vectors)]
            factor, old, out = w.at(factors, w.mul(k, block.size)), iter(sums), []
            for o in range(block.size):
                weight = w.splat(w.scalar(w.at(factor, o)))
                out += [w.fma(x, weight, next(old)) for x in xs]
            return out

        return w.sums(0, len(taps), 1, sums, tap)

    def write(self, band: Band, o: Index, rows: Residue, height: Index, block: Block) -> None:
        w, p, s = self.writer, self.p, self.s
        left = w.mul(band.column, p.columns.step)

        def output(i: Index) -> None:
            channel = w.add(o, i)
            plane = w.add(self.plane(band, channel), left)
            source = w.at(self.sums, w.mul(i, self.room(block)))

            def line(j: Index) -> None:
                row = w.add(w.mul(w.add(j, band.row), p.rows.step), rows.first)
                place = w.add(plane, w.mul(row, p.columns.extent))
                self.line(band, block, w.at(source, w.mul(j, s.pitch)), place, channel)

            w.each(0, height, 1, line)

        w.each(0, block.size, 1, output)

    def line(self, band: Band, block: Block, source: str, place: Index, channel: Index) -> None:
        """One row: the residues of its columns, interleaved."""
        w, columns, count = self.writer, self.p.columns, self.s.lanes.count
        step = len(columns.residues)
        width = count // step * step
        lanes = [(l % step, l // step) if l < width else (0, 0) for l in range(count)]
        left = w.mul(band.column, columns.step)
        size = w.least(w.sub(columns.extent, left), self.s.width * columns.step)

        def vector(t: Index) -> None:
            read = w.at(source, w.quotient(t, step))
            parts = [w.at(read, k * block.size * self.room(block)) for k in range(step)]
            value = w.pick([w.load(part) for part in parts], lanes)
            mask = w.within(0, w.least(w.sub(size, t), width))
            self.put(value, band, channel, w.add(place, t), mask)

        w.each(0, size, width, vector)


class ByOutputs(_Product):
    """Outputs as lanes. Results lie as [place][output], places as in the result itself."""

    def __init__(self, name: str, s: Scratch, epilogue: Epilogue | None) -> None:
        super().__init__(name, s, epilogue)
        vectors = -(-self.p.outputs // s.lanes.count)
        self.vectors, self.most = self.shape(vectors)
        self.width = self.vectors * s.lanes.count
        self.blocks = blocks(self.p.outputs, self.width)
        self.places = s.places
        self.pitch = s.width * self.p.columns.step
        self.results = (s.height * self.pitch + s.lanes.count) * self.width

    def row(self, block: Block) -> int:
        return self.width

    def shape(self, vectors: int) -> tuple[int, int]:
        """The vectors of outputs, and the places, that registers hold."""
        registers, size = self.s.lanes.registers, self.s.width

        def cycles(n: int, places: int) -> float:
            tiles = blocks(size, places)
            each = sum(b.repeats * (max(b.size * n, 8) + n + 0.2 * b.size + 2) for b in tiles)
            return (each + 4 * len(tiles)) / n

        found = [
            (n, places)
            for n in (1, 2, 3, 4) if vectors % n == 0
            for places in range(1, min(size, 28) + 1)
            if n * places + n + 1 < registers
        ]  # fmt: skip
        return min(found, key=lambda shape: cycles(*shape))

    def cycles(self) -> float:
        p, s = self.p, self.s
        places = s.height * s.width
        tiles = sum(b.repeats * max(b.size, 8 / self.vectors) for b in blocks(s.width, self.most))
        each = s.height * tiles * p.channels * self.taps
        squares = SQUARE * len(p.residues) * (places / s.lanes.count + 1)
        return -(-p.outputs // s.lanes.count) * (each + squares)

    def accumulate(
        self, block: Block, weights: str, taps: range, residue: int, size: tuple[Index, Index]
    ) -> None:
        w, s, (height, width) = self.writer, self.s, size
        step = self.p.columns.step

        def some(first: Index, end: Index) -> None:
            def line(i: Index) -> None:
                row = w.mul(i, s.pitch)
                to = w.at(self.sums, w.mul(w.add(w.mul(i, self.pitch), residue), self.width))

                def tile(places: int, j: Index) -> None:
                    body = partial(self.products, weights, taps, w.add(row, j), places)
                    zeros = ["zeroinitializer"] * (places * self.vectors)
                    found = w.sums(first, end, 1, zeros, body)
                    base = w.at(to, w.mul(j, step * self.width))
                    at = [
                        w.at(base, k * step * self.width + v * s.lanes.count)
                        for k in range(places)
                        for v in range(self.vectors)
                    ]
                    self.keep(first, found, at)

                self.tiles(width, tile)

            w.each(0, height, 1, line)

        self.stretches(taps, some)

    def tiles(self, width: Index, tile: Callable[[int, Index], None]) -> None:
        """A row's places in tiles, and the rest: one tile if its size is known, else one by one."""
        w = self.writer
        if isinstance(width, int):
            for block in blocks(width, self.most):
                def some(j: Index, block: Block = block) -> None:
                    tile(block.size, w.add(j, block.first))

                w.each(0, block.repeats * block.size, block.size, some)
            return
        full = w.mul(w.quotient(width, self.most), self.most)
        w.each(0, full, self.most, partial(tile, self.most))
        w.each(full, width, 1, partial(tile, 1))

    def products(
        self, weights: str, taps: range, place: Index, places: int, c: str, sums: list[str]
    ) -> list[str]:
        """The sums with the products of one channel's taps."""
        w, s = self.writer, self.s
        source = w.at(self.scratch, w.add(w.mul(c, s.channel), place))
        factors = w.at(weights, w.mul(c, self.taps * self.width))

        def tap(k: str, sums: list[str]) -> list[str]:
            read = w.at(source, entry(w, f"{self.name}.offsets", w.add(k, taps.start)))
            factor, old, out = w.at(factors, w.mul(k, self.width)), iter(sums), []
            ws = [w.load(w.at(factor, v * s.lanes.count)) for v in range(self.vectors)]
            for i in range(places):
                x = w.splat(w.scalar(w.at(read, i)))
                out += [w.fma(x, weight, next(old)) for weight in ws]
            return out

        return w.sums(0, len(taps), 1, sums, tap)

    def write(self, band: Band, o: Index, rows: Residue, height: Index, block: Block) -> None:
        w, p, count = self.writer, self.p, self.s.lanes.count
        left = w.mul(band.column, p.columns.step)
        width = w.least(self.pitch, w.sub(p.columns.extent, left))
        if p.rows.step == 1 and self.pitch == p.columns.extent:  # rows follow each other: one row
            height, width = 1, w.mul(height, self.pitch)

        def line(i: Index) -> None:
            row = w.add(w.mul(w.add(i, band.row), p.rows.step), rows.first)
            place = w.add(w.mul(row, p.columns.extent), left)
            source = w.at(self.sums, w.mul(i, self.pitch * self.width))

            def vector(t: Index) -> None:
                mask = w.within(0, w.least(w.sub(width, t), count))
                read, at = w.at(source, w.mul(t, self.width)), w.add(place, t)
                for outputs in blocks(block.size, count):
                    body = partial(self.square, band, o, outputs, read, at, mask)
                    w.each(0, outputs.repeats, 1, body)

            w.each(0, width, count, vector)

        w.each(0, height, 1, line)

    def square(
        self, band: Band, o: Index, outputs: Block, read: str, place: Index, mask: str, b: Index
    ) -> None:
        """A vector of places of as many outputs, transposed back."""
        w, count = self.writer, self.s.lanes.count
        first = w.add(w.mul(b, outputs.size), outputs.first)
        at = w.at(read, first)
        rows = w.transpose([w.load(w.at(at, k * self.width)) for k in range(count)])
        channel = w.add(o, first)
        plane = w.add(self.plane(band, channel), place)
        for k in range(outputs.size):
            to = w.add(plane, k * self.p.output)
            self.put(rows[k], band, w.add(channel, k), to, mask)
