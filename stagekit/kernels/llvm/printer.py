"""Kernels as LLVM IR: explicit vectors, loops with their accumulators in registers.

`function(kernel, width)` is the text of `void @NAME(ptr args, i64 begin, i64 end)`, which computes
the rows (of a flat kernel the elements) from `begin` to `end`. `args` are 8-byte words: pointers of
the kernel's buffers, the values of its sizes, and the pointer to the plan's error word.

The innermost loop of each stage walks in vectors of `width` lanes; what does not depend on it is a
scalar, computed as far outside as its names allow. The last, partial vector is masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stagekit.kernels.ir import (
    COMPARISONS,
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
from stagekit.kernels.llvm.emit import Emitter, literal, memory_type, scalar_type, suffix
from stagekit.kernels.llvm.loops import Fold, Nest, Stores, comparison, neutral_of
from stagekit.kernels.sizes import count, product, stride
from stagekit.symbolic import Expr
from stagekit.types import DType, bool_, int64

HEAD = """
@zeros = internal constant [64 x i8] zeroinitializer, align 64
"""


class Written(NamedTuple):
    """The text of a kernel's function, and the declarations that it needs."""

    text: str
    declarations: tuple[str, ...]


def function(kernel: Kernel, width: int) -> Written:
    """The LLVM function of a kernel, with vectors of `width` lanes."""
    writer = Writer(kernel, width)
    return Written(writer.text(), tuple(writer.declared))


class Writer(Emitter):
    def __init__(self, kernel: Kernel, width: int) -> None:
        super().__init__()
        self.kernel, self.width = kernel, width
        self.vector: str | None = None  # the loop whose lanes are computed at once
        self.mask: str | None = None
        self.pointers: dict[str, str] = {}
        self.loops = {x.name for x in kernel.rows} | ({kernel.flat.name} if kernel.flat else set())
        self.loops |= {x.name for s in kernel.stages for x in s.loops}
        for root in (r for s in kernel.stages for r in s.roots):
            folds = (v for v in every(root) if v.op == "fold")
            self.loops |= {x.name for v in folds for x in v.attr.loops}
        self.has_checks = bool(kernel.checks)
        self.pending: list[Check] = []

    # ----- text

    def text(self) -> str:
        """The function."""
        kernel = self.kernel
        for k, buffer in enumerate(kernel.buffers):
            at = self.emit(f"getelementptr ptr, ptr %args, i64 {k}")
            self.pointers[buffer.name] = self.emit(f"load ptr, ptr {at}")
        for k, size in enumerate(kernel.sizes, len(kernel.buffers)):
            at = self.emit(f"getelementptr i64, ptr %args, i64 {k}")
            self.scopes[0].names[size] = self.emit(f"load i64, ptr {at}")
        for scratch in kernel.scratch:
            n = self.index(scratch.width)
            kind = memory_type(scratch.type)
            self.pointers[scratch.name] = self.emit(f"alloca {kind}, i64 {n}, align 64")
        if self.has_checks:
            self.do("%error = alloca i64")
            self.do("store i64 0, ptr %error")
        self.pending = list(kernel.checks)
        self._start_columns()
        if kernel.rows:
            self.loop("%begin", "%end", "1", [], lambda i, _: self._row(i))
        else:
            for stage in kernel.stages:
                flat = kernel.flat in stage.loops
                self._stage(stage, "%begin" if flat else "0", "%end" if flat else None)
        if self.has_checks:
            self._report()
        self.do("ret void")
        head = f"define void @{kernel.name}(ptr noalias %args, i64 %begin, i64 %end) {{\nentry:"
        return "\n".join([head, *self.lines, "}"])

    def _report(self) -> None:
        words = len(self.kernel.buffers) + len(self.kernel.sizes)
        at = self.emit(f"getelementptr ptr, ptr %args, i64 {words}")
        place = self.emit(f"load ptr, ptr {at}")
        found = self.emit("load i64, ptr %error")
        bad = self.emit(f"icmp ne i64 {found}, 0")
        n = self.fresh_block()
        self.do(f"br i1 {bad}, label %bad{n}, label %good{n}")
        self.label(f"bad{n}")
        self.do(f"store atomic i64 {found}, ptr {place} monotonic, align 8")
        self.do(f"br label %good{n}")
        self.label(f"good{n}")

    # ----- indices

    def atom(self, atom: Any) -> str:
        if isinstance(atom, str) and atom in self.kernel.body.dynamic:
            return self.scalar(self.kernel.body.dynamic[atom])
        return super().atom(atom)

    def indices(self, expr: Expr) -> str:
        """An index as one i64 a lane."""
        kind = f"<{self.width} x i64>"
        if not self._varies_expr(expr):
            return self.splat(self.index(expr), int64)
        for scope in self.scopes:
            if (expr, "lanes") in scope.exprs:
                return scope.exprs[expr, "lanes"]
        rate = stride(expr, self.vector or "")
        dynamic = any(
            self.varies(self.kernel.body.dynamic[n])
            for n in expr.names if n in self.kernel.body.dynamic
        )  # fmt: skip
        if rate is not None and not dynamic:
            steps = self.splat(self.index(rate), int64)
            lanes = ", ".join(f"i64 {k}" for k in range(self.width))
            offsets = self.emit(f"mul {kind} {steps}, <{lanes}>")
            result = self.emit(f"add {kind} {self.splat(self.index(expr), int64)}, {offsets}")
        else:
            result = self._lanes(expr, kind)
        self.scopes[-1].exprs[expr, "lanes"] = result
        return result

    def _lanes(self, expr: Expr, kind: str) -> str:
        total = None
        for monomial, c in expr.terms:
            term = f"splat (i64 {c})"
            for atom in monomial:
                term = self.emit(f"mul {kind} {term}, {self._atom_lanes(atom, kind)}")
            total = term if total is None else self.emit(f"add {kind} {total}, {term}")
        return total or "zeroinitializer"

    def _atom_lanes(self, atom: Any, kind: str) -> str:
        if isinstance(atom, str):
            dynamic = self.kernel.body.dynamic.get(atom)
            if dynamic is not None:
                return self.wide(dynamic)
            return self.indices(Expr.named(atom))
        if self._is_place(Expr({(atom,): 1})):
            narrow = self._place(Expr({(atom,): 1}))
            return self.emit(f"zext <{self.width} x i32> {narrow} to {kind}")
        return self.call_of(atom, self.indices(atom.left), self.indices(atom.right), kind)

    def _is_place(self, expr: Expr) -> bool:
        """Whether an index is made of quotients and remainders, by constants, of the place in a
        flat kernel's memory, which fits 32 bits.
        """
        flat = self.kernel.flat
        if flat is None or self.vector != flat.name or flat.extent.constant is None:
            return False
        if flat.extent.constant >= 1 << 31 or len(expr.terms) != 1 or expr.terms[0][1] != 1:
            return False
        ((monomial, _),) = expr.terms
        if len(monomial) != 1:
            return False
        atom = monomial[0]
        if isinstance(atom, str):
            return atom == flat.name
        divisor = atom.right.constant
        return atom.op in ("//", "%") and (divisor or 0) > 0 and self._is_place(atom.left)

    def _place(self, expr: Expr) -> str:
        """Such an index in 32 bits a lane: a division by a constant is a product there."""
        key = (expr, "place")
        for scope in self.scopes:
            if key in scope.exprs:
                return scope.exprs[key]
        kind = f"<{self.width} x i32>"
        ((monomial, _),) = expr.terms
        atom = monomial[0]
        if isinstance(atom, str):
            wide = self.indices(expr)
            found = self.emit(f"trunc <{self.width} x i64> {wide} to {kind}")
        else:
            how = "udiv" if atom.op == "//" else "urem"
            left = self._place(atom.left)
            found = self.emit(f"{how} {kind} {left}, splat (i32 {atom.right.constant})")
        self.scopes[-1].exprs[key] = found
        return found

    def _varies_expr(self, expr: Expr) -> bool:
        return self.vector is not None and self.vector in self.kernel.body.names(expr)

    # ----- values

    def varies(self, value: Value) -> bool:
        """Whether a value has one number a lane."""
        return self.vector is not None and self.vector in value.names

    def known(self, value: Value) -> str | None:
        for scope in reversed(self.scopes):
            if value in scope.values:
                return scope.values[value]
        return None

    def kind(self, value: Value) -> str:
        """The LLVM type of a value here: of one number, or of one a lane."""
        return self.vector_of(value.type) if self.varies(value) else scalar_type(value.type)

    def vector_of(self, type: DType) -> str:
        return f"<{self.width} x {scalar_type(type)}>"

    def splat(self, name: str, type: DType) -> str:
        """A scalar in every lane."""
        kind, vector = scalar_type(type), self.vector_of(type)
        if not name.startswith("%"):
            return f"splat ({kind} {name})"
        key = (name, "splat")
        for scope in self.scopes:
            if key in scope.exprs:
                return scope.exprs[key]
        one = self.emit(f"insertelement {vector} poison, {kind} {name}, i64 0")
        zeros = f"<{self.width} x i32> zeroinitializer"
        wide = self.emit(f"shufflevector {vector} {one}, {vector} poison, {zeros}")
        self.scopes[-1].exprs[key] = wide
        return wide

    def wide(self, value: Value) -> str:
        """A value, one number a lane."""
        name = self.value(value)
        return name if self.varies(value) else self.splat(name, value.type)

    def scalar(self, value: Value) -> str:
        """A value that is the same in all lanes."""
        if self.varies(value):
            raise AssertionError("an index of one number that has one a lane")
        return self.value(value)

    def value(self, value: Value) -> str:
        """Write what computes a value, unless that is done already."""
        for each in unwritten(value, self.known):
            self.scopes[-1].values[each] = self._instruction(each)
        found = self.known(value)
        assert found is not None
        return found

    def hoist(self, roots: Iterable[Value]) -> None:
        """Write everything that some values need and the names known here already decide."""
        names = self.names()
        ready: set[Value] = set()  # every fold that they need is computed, no index is missing
        for value in operands(roots):
            outside = value.names & self.loops - names
            if self.known(value) is not None:
                ready.add(value)
            elif value.op != "fold" and not outside and ready.issuperset(arguments(value)):
                ready.add(value)
                self.value(value)
            elif value.op == "load" and outside:
                self._base(value.attr.buffer, value.attr.offset)

    def _instruction(self, value: Value) -> str:
        op, type = value.op, value.type
        if op == "constant":
            return literal(value.attr, type)
        if op == "load":
            return self.load(value)
        if op == "fold":
            return self._nested(value)
        if op == "number":
            return self._number(value)
        if op == "test":
            return self._test(value)
        vary = self.varies(value)
        args = [self.wide(a) if vary else self.value(a) for a in value.args]
        kind = self.kind(value)
        kinds = [
            self.vector_of(a.type) if vary else scalar_type(a.type) for a in value.args
        ]
        if op in ("convert", "bits"):
            return self.converted(args[0], value.args[0].type, type, kinds[0], kind, op)
        if op == "select":
            return self.emit(
                f"select {kinds[0]} {args[0]}, {kind} {args[1]}, {kind} {args[2]}"
            )
        if op in COMPARISONS:
            return self.emit(f"{comparison(op, value.args[0].type)} {kinds[0]} "
                             f"{args[0]}, {args[1]}")  # fmt: skip
        return self.arithmetic(op, type, kind, args)

    def arithmetic(self, op: str, type: DType, kind: str, args: Sequence[str]) -> str:
        is_float = type.kind == "float"
        if is_float and op in _FLOAT_CALLS:
            name = f"llvm.{_FLOAT_CALLS[op]}.{suffix(kind)}"
            return self.call(kind, name, *((kind, a) for a in args))
        if op == "neg":
            if is_float:
                return self.emit(f"fneg {kind} {args[0]}")
            return self.emit(f"sub {kind} {self._zero(kind)}, {args[0]}")
        table = _FLOAT if is_float else _UNSIGNED if type.kind in ("uint", "bool") else _SIGNED
        return self.emit(f"{table[op]} {kind} {', '.join(args)}")

    def _zero(self, kind: str) -> str:
        return "zeroinitializer" if kind.startswith("<") else "0"

    def converted(
        self, name: str, old: DType, new: DType, old_kind: str, kind: str, op: str
    ) -> str:
        if op == "bits":
            return self.emit(f"bitcast {old_kind} {name} to {kind}")
        if old.kind == "float" and new.kind in ("int", "uint"):
            sign = "si" if new.kind == "int" else "ui"
            called = f"llvm.fpto{sign}.sat.{suffix(kind)}.{suffix(old_kind)}"
            return self.call(kind, called, (old_kind, name))
        if old.kind == "float":
            how = "fpext" if new.itemsize > old.itemsize else "fptrunc"
        elif new.kind == "float":
            how = "sitofp" if old.kind == "int" else "uitofp"
        elif old is not bool_ and new.itemsize <= old.itemsize:
            if new.itemsize == old.itemsize:
                return name
            how = "trunc"
        else:
            how = "sext" if old.kind == "int" else "zext"
        return self.emit(f"{how} {old_kind} {name} to {kind}")

    def _number(self, value: Value) -> str:
        vary = self.varies(value)
        name = self.indices(value.attr) if vary else self.index(value.attr)
        wide = f"<{self.width} x i64>" if vary else "i64"
        if value.type is int64:
            return name
        return self.converted(name, int64, value.type, wide, self.kind(value), "convert")

    def _test(self, value: Value) -> str:
        relation, left, right = value.attr
        compare = {"lt": "slt", "le": "sle", "eq": "eq", "ne": "ne"}[relation]
        if self.varies(value):
            sides = f"<{self.width} x i64> {self.indices(left)}, {self.indices(right)}"
        else:
            sides = f"i64 {self.index(left)}, {self.index(right)}"
        return self.emit(f"icmp {compare} {sides}")

    # ----- memory

    def _base(self, buffer: str, offset: Expr) -> tuple[str, Expr]:
        """A pointer with all of an offset that is known outside of the innermost loop, and the
        rest of the offset.
        """
        known = {n for scope in self.scopes for n in scope.names}
        apart = set(self.kernel.body.dynamic)
        if self.vector is not None:
            apart |= {self.vector, *self.scopes[-1].names}
        outer = {
            m: c for m, c in offset.terms if (names := Expr({m: 1}).names) <= known
            and not names & apart
        }  # fmt: skip
        fixed = Expr(outer)
        rest = Expr({m: c for m, c in offset.terms if m not in outer})
        key = (buffer, fixed)
        for scope in self.scopes:
            if key in scope.exprs:
                return scope.exprs[key], rest
        pointer = self.pointers[buffer]
        if fixed.terms:
            kind = self._memory(buffer)
            pointer = self.emit(f"getelementptr {kind}, ptr {pointer}, i64 {self.index(fixed)}")
        self.scopes[-1].exprs[key] = pointer
        return pointer, rest

    def _memory(self, buffer: str) -> str:
        types = {b.name: b.type for b in self.kernel.buffers}
        types |= {s.name: s.type for s in self.kernel.scratch}
        return memory_type(types[buffer])

    def address(self, buffer: str, offset: Expr) -> str:
        """A pointer to an element, for lane 0."""
        pointer, rest = self._base(buffer, offset)
        if not rest.terms:
            return pointer
        kind = self._memory(buffer)
        return self.emit(f"getelementptr {kind}, ptr {pointer}, i64 {self.index(rest)}")

    def _is_stretch(self, offset: Expr) -> bool:
        """Whether neighbouring lanes have neighbouring elements."""
        return self._step(offset) == 1

    def load(self, value: Value) -> str:
        buffer, offset, guard = value.attr
        kind = memory_type(value.type)
        if not self.varies(value):
            pointer = self.address(buffer, offset)
            if guard is not None:
                pointer = self.emit(f"select i1 {self.value(guard)}, ptr {pointer}, ptr @zeros")
            name = self.emit(f"load {kind}, ptr {pointer}")
            return self.from_memory(name, value.type, kind)
        vector = f"<{self.width} x {kind}>"
        mask = self._masked(guard)
        align = value.type.itemsize
        if self._varies_expr(offset) and self._is_stretch(offset):
            pointer = self.address(buffer, offset)
            if mask is None:
                name = self.emit(f"load {vector}, ptr {pointer}, align {align}")
            else:
                name = self.call(
                    vector, f"llvm.masked.load.{suffix(vector)}.p0",
                    (f"ptr align {align}", pointer), (f"<{self.width} x i1>", mask),
                    (vector, "zeroinitializer"),
                )  # fmt: skip
        elif mask is None and (step := self._step(offset)) in (2, 3, 4):
            name = self._every(buffer, offset, step, kind, align)
        else:
            pointers = self._pointers(buffer, offset)
            mask = mask or "splat (i1 true)"
            name = self.call(
                vector, f"llvm.masked.gather.{suffix(vector)}.v{self.width}p0",
                (f"<{self.width} x ptr> align {align}", pointers), (f"<{self.width} x i1>", mask),
                (vector, "zeroinitializer"),
            )  # fmt: skip
        return self.from_memory(name, value.type, vector)

    def _step(self, offset: Expr) -> int | None:
        """How far apart the elements of neighbouring lanes are, where that is one known number."""
        body = self.kernel.body
        if any(self.vector in body.dynamic[n].names for n in offset.names if n in body.dynamic):
            return None
        rate = stride(offset, self.vector or "")
        return None if rate is None else rate.constant

    def _every(self, buffer: str, offset: Expr, step: int, kind: str, align: int) -> str:
        """Every second (third, fourth) element of a stretch: loaded whole, up to the last one
        needed, and picked out, which is faster than a gather.
        """
        whole = self.width * step
        wide = f"<{whole} x {kind}>"
        needed = whole - step + 1
        mask = ", ".join(f"i1 {'true' if k < needed else 'false'}" for k in range(whole))
        pointer = self.address(buffer, offset)
        loaded = self.call(
            wide, f"llvm.masked.load.{suffix(wide)}.p0", (f"ptr align {align}", pointer),
            (f"<{whole} x i1>", f"<{mask}>"), (wide, "zeroinitializer"),
        )  # fmt: skip
        lanes = ", ".join(f"i32 {k * step}" for k in range(self.width))
        order = f"<{self.width} x i32> <{lanes}>"
        return self.emit(f"shufflevector {wide} {loaded}, {wide} poison, {order}")

    def _pointers(self, buffer: str, offset: Expr) -> str:
        pointer, rest = self._base(buffer, offset)
        kind = self._memory(buffer)
        places = self.indices(rest)
        return self.emit(
            f"getelementptr {kind}, ptr {pointer}, <{self.width} x i64> {places}"
        )

    def _masked(self, guard: Value | None) -> str | None:
        """The lanes that take part: those inside the loop, where the guard holds."""
        if guard is None:
            return self.mask
        name = self.wide(guard)
        if self.mask is None:
            return name
        return self.emit(f"and <{self.width} x i1> {name}, {self.mask}")

    def from_memory(self, name: str, type: DType, kind: str) -> str:
        if type is not bool_:
            return name
        return self.emit(f"icmp ne {kind} {name}, {self._zero(kind)}")

    def store(self, buffer: str, offset: Expr, value: Value) -> None:
        name = self.wide(value) if self.vector is not None else self.value(value)
        self.put(buffer, offset, name, value.type)

    def put(self, buffer: str, offset: Expr, name: str, type: DType) -> None:
        """Write to memory what a register holds."""
        kind = memory_type(type)
        whole = f"<{self.width} x {kind}>" if self.vector is not None else kind
        if type is bool_:
            flag = whole.replace("i8", "i1")
            name = self.emit(f"zext {flag} {name} to {whole}")
        align = type.itemsize
        if self.vector is None:
            self.do(f"store {kind} {name}, ptr {self.address(buffer, offset)}, align {align}")
        elif self._is_stretch(offset):
            pointer = self.address(buffer, offset)
            if self.mask is None:
                self.do(f"store {whole} {name}, ptr {pointer}, align {align}")
            else:
                self.call(
                    "void", f"llvm.masked.store.{suffix(whole)}.p0", (whole, name),
                    (f"ptr align {align}", pointer), (f"<{self.width} x i1>", self.mask),
                )  # fmt: skip
        else:
            pointers = self._pointers(buffer, offset)
            self.call(
                "void", f"llvm.masked.scatter.{suffix(whole)}.v{self.width}p0", (whole, name),
                (f"<{self.width} x ptr> align {align}", pointers),
                (f"<{self.width} x i1>", self.mask or "splat (i1 true)"),
            )  # fmt: skip

    # ----- rows and stages

    def _row(self, i: str) -> None:
        rows = self.kernel.rows
        names = self.scopes[-1].names
        left = i
        for loop in reversed(rows[1:]):
            n = self.index(loop.extent)
            names[loop.name] = self.emit(f"urem i64 {left}, {n}")
            left = self.emit(f"udiv i64 {left}, {n}")
        names[rows[0].name] = left
        for stage in self.kernel.stages:
            self._stage(stage, "0")

    def _stage(self, stage: Stage, begin: str, end: str | None = None) -> None:
        """The loops of a stage, the first from `begin` to `end`."""
        self.hoist(stage.roots)
        folds = [Fold(x.fold.attr.op, x.body, stage) for x in stage.folds]
        if self.kernel.flat is not None:
            folds += [Fold(c.op, c.value, stage) for c in stage.columns]
        stores = Stores(stage.stores, () if self.kernel.flat is not None else stage.columns)
        if stage.loops:
            last = end or self.index(stage.loops[0].extent)
            nest = Nest(self, stage, folds, stores)
            finals = nest.loops(stage.loops, begin, last, nest.start())
        else:
            finals = self._without_loops(stage, folds, stores)
        names = [f.finish(self, slots) for f, slots in zip(folds, finals, strict=True)]
        self.scopes[-1].values.update(
            {x.fold: name for x, name in zip(stage.folds, names, strict=False)}
        )
        if self.kernel.flat is not None:
            for column, name in zip(stage.columns, names[len(stage.folds) :], strict=True):
                self.put(column.buffer, column.offset, name, column.value.type)
        for check in [c for c in self.pending if c.bad.names & self.loops <= self.names()]:
            self.check(check)

    def _without_loops(self, stage: Stage, folds: Sequence[Any], stores: Stores) -> Any:
        assert not folds, "a fold has loops"
        stores.write(self)
        return []

    def _start_columns(self) -> None:
        """Move each pointer of partial results to those of this chunk, and set them to neutral."""
        columns = [c for s in self.kernel.stages for c in s.columns]
        for column in columns:
            kind = memory_type(column.value.type)
            chunk = self.emit(f"udiv i64 %begin, {self.kernel.grain}")
            width = self.index(column.width)
            at = self.emit(f"mul nsw i64 {chunk}, {width}")
            pointer = self.emit(
                f"getelementptr {kind}, ptr {self.pointers[column.buffer]}, i64 {at}"
            )
            self.pointers[column.buffer] = pointer
            if self.kernel.flat is not None:
                continue
            neutral = literal(neutral_of(column.op, column.value.type), column.value.type)
            if column.value.type is bool_:
                neutral = "1" if neutral == "true" else "0"

            def fill(i: str, _: Any, p: str = pointer, k: str = kind, v: str = neutral) -> None:
                place = self.emit(f"getelementptr {k}, ptr {p}, i64 {i}")
                self.do(f"store {k} {v}, ptr {place}")

            self.loop("0", width, "1", [], fill)

    def check(self, check: Check) -> None:
        """Note an error where the condition holds."""
        bad = self.value(check.bad)
        if self.varies(check.bad):
            kind = f"<{self.width} x i1>"
            if self.mask is not None:
                bad = self.emit(f"and {kind} {bad}, {self.mask}")
            bad = self.call("i1", f"llvm.vector.reduce.or.v{self.width}i1", (kind, bad))
        old = self.emit("load i64, ptr %error")
        new = self.emit(f"select i1 {bad}, i64 {check.number}, i64 {old}")
        self.do(f"store i64 {new}, ptr %error")

    # ----- folds inside of a vector's lanes

    def _nested(self, value: Value) -> str:
        """A fold that each lane has one of: loops inside, with an accumulator a lane."""
        fold, body = value.attr, value.args[0]
        terms = count(product(loop.extent for loop in fold.loops))
        folding = Fold(fold.op, body, None, lanes=self.varies(value), terms=terms)
        folding.place = fold.loops[-1].name

        def inside(loops: Sequence[Loop], carried: list[tuple[str, str]]) -> list[str]:
            loop, *rest = loops

            def turn(i: str, names: list[str]) -> list[str]:
                self.scopes[-1].names[loop.name] = i
                kept = [(kind, name) for (kind, _), name in zip(carried, names, strict=True)]
                if rest:
                    return inside(rest, kept)
                after = folding.step(self, [name for _, name in kept])
                for check in self.kernel.checks:
                    if check.bad.names & {x.name for x in fold.loops}:
                        self.check(check)
                return after

            return self.loop("0", self.index(loop.extent), "1", carried, turn)

        return folding.finish(self, inside(fold.loops, folding.slots(self)))


# ----- LLVM's words -------------------------------------------------------------------------------

_FLOAT_CALLS = {
    "abs": "fabs", "sqrt": "sqrt", "fma": "fma", "floor": "floor", "ceil": "ceil",
    "trunc": "trunc", "rint": "rint", "copysign": "copysign",
}  # fmt: skip
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {
    "add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor",
    "shift_left": "shl",
}  # fmt: skip
_SIGNED = {**_INTEGER, "quotient": "sdiv", "modulus": "srem", "shift_right": "ashr"}
_UNSIGNED = {**_INTEGER, "quotient": "udiv", "modulus": "urem", "shift_right": "lshr"}


def module(functions: Iterable[Written]) -> str:
    """Functions, with the declarations that they need, as one module."""
    parts = list(functions)
    declared = dict.fromkeys(d for part in parts for d in part.declarations)
    return "\n".join([HEAD, *declared, *(part.text for part in parts)])
