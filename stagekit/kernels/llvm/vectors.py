"""`Vectors`: an `Emitter` of explicit vectors of one type of float.

Indices are i64: Python ints as long as they are known, else names; arithmetic on known ones is done
at once. Vectors have as many lanes as the CPU's registers hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stagekit.kernels.llvm.emit import Emitter, suffix
from stagekit.types import DType, float32

Index = int | str  # an i64 that is known, or the name of one


@dataclass(frozen=True)
class Lanes:
    """The vectors of a CPU for floats of a type: how wide, and how many there are.

    >>> from stagekit.types import float64
    >>> Lanes.of(float64, 64)
    Lanes(element='double', count=8, registers=32)
    """

    element: str
    count: int
    registers: int

    @staticmethod
    def of(dtype: DType, bytes: int) -> Lanes:
        """Registers of 64 bytes (AVX-512), of which there are 32, or of 32, of which 16."""
        element = "float" if dtype is float32 else "double"
        return Lanes(element, bytes // dtype.itemsize, 32 if bytes == 64 else 16)

    @property
    def bytes(self) -> int:
        """The bytes of one element."""
        return 4 if self.element == "float" else 8

    @property
    def vector(self) -> str:
        """The type of a vector."""
        return f"<{self.count} x {self.element}>"


class Vectors(Emitter):
    """Writes one function with vectors of floats; `text` is all of it, `declared` what it calls.

    >>> w = Vectors("f", "ptr %p, i64 %n", Lanes("float", 16, 32))
    >>> w.each(0, "%n", 16, lambda i: w.store(w.splat("0.0"), w.at("%p", i)))
    >>> print(w.text().splitlines()[0])
    define internal void @f(ptr %p, i64 %n) {
    """

    def __init__(self, name: str, parameters: str, lanes: Lanes, linkage: str = "internal") -> None:
        super().__init__()
        self.lanes = lanes
        self._head = f"define {linkage} void @{name}({parameters}) {{"

    def text(self) -> str:
        """The definition of the function."""
        return "\n".join([self._head, "entry:", *self.lines, "  ret void", "}", ""])

    # ----- indices --------------------------------------------------------------------------------

    def add(self, *terms: Index) -> Index:
        """The sum of indices."""
        known = sum(t for t in terms if isinstance(t, int))
        total: Index | None = None
        for term in terms:
            if isinstance(term, str):
                total = term if total is None else self.emit(f"add i64 {total}, {term}")
        if total is None or known == 0:
            return known if total is None else total
        return self.emit(f"add i64 {total}, {known}")

    def sub(self, x: Index, y: Index) -> Index:
        """The difference of two indices."""
        if isinstance(y, int):
            return self.add(x, -y)
        return self.emit(f"sub i64 {x}, {y}")

    def mul(self, x: Index, y: Index) -> Index:
        """The product of two indices."""
        if isinstance(x, int) and isinstance(y, int):
            return x * y
        if 0 in (x, y):
            return 0
        if 1 in (x, y):
            return y if x == 1 else x
        return self.emit(f"mul i64 {x}, {y}")

    def quotient(self, x: Index, y: Index) -> Index:
        """x // y of indices that are not negative."""
        if isinstance(x, int) and isinstance(y, int):
            return x // y
        return x if y == 1 else self.emit(f"udiv i64 {x}, {y}")

    def modulus(self, x: Index, y: Index) -> Index:
        """x % y of indices that are not negative."""
        if isinstance(x, int) and isinstance(y, int):
            return x % y
        return 0 if y == 1 else self.emit(f"urem i64 {x}, {y}")

    def least(self, x: Index, y: Index) -> Index:
        """The smaller of two indices."""
        if isinstance(x, int) and isinstance(y, int):
            return min(x, y)
        return self.call("i64", "llvm.smin.i64", ("i64", str(x)), ("i64", str(y)))

    def greatest(self, x: Index, y: Index) -> Index:
        """The larger of two indices."""
        if isinstance(x, int) and isinstance(y, int):
            return max(x, y)
        return self.call("i64", "llvm.smax.i64", ("i64", str(x)), ("i64", str(y)))

    # ----- memory ---------------------------------------------------------------------------------

    def at(self, pointer: str, index: Index) -> str:
        """The address of an element."""
        if index == 0:
            return pointer
        return self.emit(f"getelementptr {self.lanes.element}, ptr {pointer}, i64 {index}")

    def byte(self, pointer: str, offset: Index) -> str:
        """An address some bytes further."""
        return self.emit(f"getelementptr i8, ptr {pointer}, i64 {offset}") if offset else pointer

    def word(self, frame: str, k: int, type: str = "ptr") -> str:
        """A word of a frame."""
        return self.emit(f"load {type}, ptr {self.byte(frame, 8 * k)}, align 8")

    def scalar(self, address: str) -> str:
        """An element."""
        return self.emit(f"load {self.lanes.element}, ptr {address}, align {self.lanes.bytes}")

    def put(self, scalar: str, address: str) -> None:
        """Write an element."""
        lanes = self.lanes
        self.do(f"store {lanes.element} {scalar}, ptr {address}, align {lanes.bytes}")

    def load(self, address: str, mask: str = "") -> str:
        """A vector; 0 where a mask is false, of which nothing is read."""
        lanes = self.lanes
        if not mask:
            return self.emit(f"load {lanes.vector}, ptr {address}, align {lanes.bytes}")
        return self.call(
            lanes.vector, f"llvm.masked.load.{suffix(lanes.vector)}.p0",
            (f"ptr align {lanes.bytes}", address), (f"<{lanes.count} x i1>", mask),
            (lanes.vector, "zeroinitializer"),
        )  # fmt: skip

    def store(self, value: str, address: str, mask: str = "") -> None:
        """Write a vector, only where a mask is true."""
        lanes = self.lanes
        if not mask:
            self.do(f"store {lanes.vector} {value}, ptr {address}, align {lanes.bytes}")
            return
        self.call(
            "void", f"llvm.masked.store.{suffix(lanes.vector)}.p0", (lanes.vector, value),
            (f"ptr align {lanes.bytes}", address), (f"<{lanes.count} x i1>", mask),
        )  # fmt: skip

    # ----- vectors --------------------------------------------------------------------------------

    def splat(self, scalar: str) -> str:
        """A vector of one number."""
        return self._spread(self.lanes.element, scalar)

    def _spread(self, element: str, scalar: str) -> str:
        vector = f"<{self.lanes.count} x {element}>"
        one = self.emit(f"insertelement {vector} poison, {element} {scalar}, i32 0")
        zeros = f"<{self.lanes.count} x i32> zeroinitializer"
        return self.emit(f"shufflevector {vector} {one}, {vector} poison, {zeros}")

    def fma(self, x: str, y: str, z: str) -> str:
        """x * y + z, rounded once."""
        kind = self.lanes.vector
        return self.call(kind, f"llvm.fma.{suffix(kind)}", (kind, x), (kind, y), (kind, z))

    def fadd(self, x: str, y: str) -> str:
        """x + y of vectors."""
        return self.emit(f"fadd {self.lanes.vector} {x}, {y}")

    def total(self, x: str) -> str:
        """The sum of a vector's lanes, by halves."""
        kind, element = self.lanes.vector, self.lanes.element
        name = f"llvm.vector.reduce.fadd.{suffix(kind)}"
        self.declared[f"declare {element} @{name}({element}, {kind})"] = None
        return self.emit(f"call reassoc {element} @{name}({element} 0.0, {kind} {x})")

    def within(self, first: Index, size: Index) -> str:
        """A mask: the lanes l where 0 <= first + l < size (indices of less than 2^31)."""
        count = self.lanes.count
        kind = f"<{count} x i32>"
        numbers = ", ".join(f"i32 {k}" for k in range(count))
        places = self.emit(f"add {kind} {self._spread('i32', self._narrow(first))}, <{numbers}>")
        return self.emit(f"icmp ult {kind} {places}, {self._spread('i32', self._narrow(size))}")

    def _narrow(self, x: Index) -> str:
        return str(x) if isinstance(x, int) else self.emit(f"trunc i64 {x} to i32")

    def pick(self, sources: Sequence[str], lanes: Sequence[tuple[int, int]]) -> str:
        """A vector whose lane l is lane `lanes[l][1]` of the source `lanes[l][0]`."""
        count = self.lanes.count
        if len(sources) == 1:
            if [k for _, k in lanes] == list(range(count)):
                return sources[0]
            return self._shuffle(sources[0], "poison", [k for _, k in lanes])
        result = sources[0]
        for s, source in enumerate(sources[1:], 1):
            kept = [k if s == 1 and t == 0 else l for l, (t, k) in enumerate(lanes)]
            taken = [count + k if t == s else old for old, (t, k) in zip(kept, lanes)]
            result = self._shuffle(result, source, taken)
        return result

    def _shuffle(self, x: str, y: str, lanes: Sequence[int]) -> str:
        kind = self.lanes.vector
        order = ", ".join(f"i32 {lane}" for lane in lanes)
        mask = f"<{len(lanes)} x i32> <{order}>"
        return self.emit(f"shufflevector {kind} {x}, {kind} {y}, {mask}")

    def transpose(self, rows: Sequence[str]) -> list[str]:
        """As many vectors as there are lanes, with rows and lanes exchanged."""
        rows, count = list(rows), self.lanes.count
        half = count // 2
        while half:
            low = [l if not l & half else count + l - half for l in range(count)]
            high = [l + half if not l & half else count + l for l in range(count)]
            for i in range(count):
                if not i & half:
                    x, y = rows[i], rows[i + half]
                    rows[i], rows[i + half] = self._shuffle(x, y, low), self._shuffle(x, y, high)
            half //= 2
        return rows

    # ----- control --------------------------------------------------------------------------------

    def each(self, start: Index, end: Index, step: int, body: Callable[[Index], None]) -> None:
        """For i from `start` while i < `end`; once without a loop, where that is known."""
        if isinstance(start, int) and isinstance(end, int) and start < end <= start + step:
            body(start)
            return
        self.loop(str(start), str(end), str(step), [], lambda i, _: body(i))

    def sums(
        self, start: Index, end: Index, step: int, first: Sequence[str],
        body: Callable[[str, list[str]], list[str]],
    ) -> list[str]:  # fmt: skip
        """Such a loop with vectors carried along, which `body` replaces; the last ones."""
        carried = [(self.lanes.vector, value) for value in first]
        return self.loop(str(start), str(end), str(step), carried, body)
