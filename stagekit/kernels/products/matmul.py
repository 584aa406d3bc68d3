"""Products of matrices: calls of cblas on rows or matrices in parallel, transposes folded in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from stagekit.kernels.llvm.emit import Emitter
from stagekit.kernels.sizes import product
from stagekit.symbolic import Expr
from stagekit.types import DType, float32

STRETCH = 4096  # terms of a sum that one call adds; more would make the error grow
_WORK = 1 << 18  # multiplications that are worth a chunk of their own
_CHUNKS = 4  # into which a product is cut: its rows, or else its columns
_NARROWEST, _WIDEST = 64, 256  # rows of a chunk: each chunk packs the whole other operand again


class View(NamedTuple):
    """A tensor as strides over a buffer: element idx lies at offset + sum of idx * strides."""

    base: Any  # the node that lies in memory
    offset: Expr
    shape: tuple[Expr, ...]
    strides: tuple[Expr, ...]


def row_major(shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """The strides of a tensor of a shape whose elements lie one after the other."""
    return tuple(product(shape[k + 1 :]) for k in range(len(shape)))


class Matmul(NamedTuple):
    """out[..., m, n] = the sum of x[..., m, k] y[..., k, n]; `out` is C-contiguous."""

    name: str
    type: DType
    x: View
    y: View
    out: str
    shape: tuple[Expr, ...]

    @property
    def batch(self) -> Expr:
        """How many products there are."""
        return product(self.shape[:-2])

    @property
    def by_rows(self) -> bool:
        """Whether a single product is cut into rows, not columns: along the longer side."""
        rows, columns = (_size(n) for n in self.shape[-2:])
        return rows >= columns

    @property
    def grain(self) -> int:
        """How many products, or rows (columns) of the one product, make a chunk."""
        rows, columns, terms = (_size(n) for n in (*self.shape[-2:], self.x.shape[-1]))
        if self.batch.constant != 1:
            return max(1, _WORK // max(rows * columns * terms, 1))
        cut, other = (rows, columns) if self.by_rows else (columns, rows)
        least = max(1, _WORK // max(other * terms, 1))
        even = min(max(-(-cut // _CHUNKS), _NARROWEST), _WIDEST)
        return -(-max(least, even) // 16) * 16

    @property
    def chunks(self) -> Expr:
        """How many chunks there are."""
        if self.batch.constant != 1:
            return (self.batch + (self.grain - 1)) // self.grain
        cut = self.shape[-2] if self.by_rows else self.shape[-1]
        return (cut + (self.grain - 1)) // self.grain


def _size(n: Expr) -> int:
    return 1024 if n.constant is None else n.constant


def flattened(op: Matmul) -> Matmul:
    """One product of all rows, where a stack of matrices is multiplied by a single one."""
    single = all(n.constant == 1 or s.constant == 0
                 for n, s in zip(op.y.shape[:-2], op.y.strides[:-2], strict=True))  # fmt: skip
    if len(op.shape) == 2 or not single or op.x.shape[:-1] != op.shape[:-1]:
        return op
    step = op.x.strides[-2]
    whole = step
    for n, s in zip(op.x.shape[-2::-1], op.x.strides[-2::-1], strict=True):
        if n.constant != 1 and s != whole:
            return op
        whole = whole * n
    rows = product(op.shape[:-1])
    x = op.x._replace(shape=(rows, op.x.shape[-1]), strides=(step, op.x.strides[-1]))
    y = op.y._replace(shape=op.y.shape[-2:], strides=op.y.strides[-2:])
    return op._replace(x=x, y=y, shape=(rows, op.shape[-1]))


def is_callable(view: View) -> bool:
    """Whether cblas can read matrices where they lie: one of the two strides is 1, none is 0."""
    sizes, steps = view.shape[-2:], view.strides[-2:]
    pairs = list(zip(sizes, steps, strict=True))
    if any(step.constant == 0 and size.constant != 1 for size, step in pairs):
        return False
    return any(step.constant == 1 or size.constant == 1 for size, step in pairs)


def write(e: Emitter, op: Matmul) -> None:
    """The body of `void @NAME(ptr args, i64 begin, i64 end)`: args are x, y, out and the sizes."""
    pointers = []
    for k in range(3):
        at = e.emit(f"getelementptr ptr, ptr %args, i64 {k}")
        pointers.append(e.emit(f"load ptr, ptr {at}"))
    if op.batch.constant == 1:
        _one(e, op, pointers, "%begin", "%end")
        return

    def turn(i: str, _: Any) -> None:
        left, places = i, []
        for n in reversed(op.shape[1:-2]):
            extent = e.index(n)
            places.append(e.emit(f"urem i64 {left}, {extent}"))
            left = e.emit(f"udiv i64 {left}, {extent}")
        places.append(left)
        moved = [_moved(e, p, op.type, _at(e, v, places[::-1])) for p, v in zip(
            pointers, (op.x, op.y), strict=False)]
        size = e.index(op.shape[-2] * op.shape[-1])
        out = _moved(e, pointers[2], op.type, e.emit(f"mul i64 {i}, {size}"))
        _one(e, op, [*moved, out], "0", e.index(op.shape[-2] if op.by_rows else op.shape[-1]))

    e.loop("%begin", "%end", "1", [], turn)


def _at(e: Emitter, view: View, places: Sequence[str]) -> str:
    """Where a matrix of a batch begins."""
    lead = len(places) - (len(view.shape) - 2)
    total = "0"
    for place, n, step in zip(places[lead:], view.shape[:-2], view.strides[:-2], strict=True):
        if n.constant == 1 or step.constant == 0:
            continue
        part = e.emit(f"mul i64 {place}, {e.index(step)}")
        total = e.emit(f"add i64 {total}, {part}")
    return total


def _moved(e: Emitter, pointer: str, type: DType, offset: str) -> str:
    kind = "float" if type is float32 else "double"
    return e.emit(f"getelementptr {kind}, ptr {pointer}, i64 {offset}")


def _one(e: Emitter, op: Matmul, pointers: Sequence[str], begin: str, end: str) -> None:
    """Rows (or columns) `begin` to `end` of one product."""
    size = e.emit(f"sub i64 {end}, {begin}")
    rows, columns = op.shape[-2:]
    x, y, out = pointers
    line = columns
    if op.by_rows:
        x = _moved(e, x, op.type, e.emit(f"mul i64 {begin}, {e.index(op.x.strides[-2])}"))
        out = _moved(e, out, op.type, e.emit(f"mul i64 {begin}, {e.index(line)}"))
        m, n = size, e.index(columns)
    else:
        y = _moved(e, y, op.type, e.emit(f"mul i64 {begin}, {e.index(op.y.strides[-1])}"))
        out = _moved(e, out, op.type, begin)
        m, n = e.index(rows), size
    terms = op.x.shape[-1]
    if terms.constant is not None and terms.constant <= STRETCH:
        _call(e, op, (m, n, e.index(terms)), (x, y, out), "0.0")
        return
    _call(e, op, (m, n, "0"), (x, y, out), "0.0")  # zeros, even where there is no term

    def stretch(k: str, _: Any) -> None:
        left = e.emit(f"sub i64 {e.index(terms)}, {k}")
        some = e.call("i64", "llvm.smin.i64", ("i64", left), ("i64", str(STRETCH)))
        a = _moved(e, x, op.type, e.emit(f"mul i64 {k}, {e.index(op.x.strides[-1])}"))
        b = _moved(e, y, op.type, e.emit(f"mul i64 {k}, {e.index(op.y.strides[-2])}"))
        _call(e, op, (m, n, some), (a, b, out), "1.0")

    e.loop("0", e.index(terms), str(STRETCH), [], stretch)


def _call(
    e: Emitter, op: Matmul, sizes: Sequence[str], pointers: Sequence[str], beta: str
) -> None:
    kind = "float" if op.type is float32 else "double"
    (flag_x, lda), (flag_y, ldb) = (_layout(e, v) for v in (op.x, op.y))
    ldc = e.index(op.shape[-1])
    ldc = e.call("i64", "llvm.smax.i64", ("i64", ldc), ("i64", "1"))
    x, y, out = pointers
    m, n, k = sizes
    name = "sk_sgemm" if op.type is float32 else "sk_dgemm"
    kinds = f"i32, i32, i32, i64, i64, i64, {kind}, ptr, i64, ptr, i64, {kind}, ptr, i64"
    e.declared[f"declare void @{name}({kinds})"] = None
    e.do(
        f"call void @{name}(i32 101, i32 {flag_x}, i32 {flag_y}, i64 {m}, i64 {n}, i64 {k}, "
        f"{kind} 1.0, ptr {x}, i64 {lda}, ptr {y}, i64 {ldb}, {kind} {beta}, ptr {out}, i64 {ldc})"
    )


def _layout(e: Emitter, view: View) -> tuple[int, str]:
    """cblas's flag (111: as it is, 112: transposed) and the distance of rows in memory."""
    rows, columns = view.shape[-2:]
    row, column = view.strides[-2:]
    plain = column.constant == 1 or (row.constant != 1 and columns.constant == 1)
    flag, line, least = (111, row, columns) if plain else (112, column, rows)
    distance = e.index(line)
    smallest = e.call("i64", "llvm.smax.i64", ("i64", e.index(least)), ("i64", "1"))
    return flag, e.call("i64", "llvm.smax.i64", ("i64", distance), ("i64", smallest))
