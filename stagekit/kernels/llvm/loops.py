"""Loops of a stage as LLVM writes them: vectors, accumulators, folds and stores.

The innermost loop walks in whole vectors, of a fold with several accumulators, and ends with one
masked vector. A long sum of floats adds stretches of a few vectors, and those in more precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagekit.kernels.ir import Column, Loop, Stage, Store, Value, operands
from stagekit.kernels.llvm.emit import Scope, literal, memory_type, scalar_type, suffix
from stagekit.symbolic import Expr
from stagekit.types import DType, bool_, float32, float64, int64

if TYPE_CHECKING:
    from stagekit.kernels.llvm.printer import Writer

_CHEAP, _MIDDLING = 10, 30  # instructions of a fold's body: four, two or one accumulators
_BLOCK = 64  # vectors of an accumulator that are added one by one

@dataclass(frozen=True)
class Stores:
    """What a stage writes at each place: its stores, and what joins running results of columns."""

    stores: tuple[Store, ...]
    columns: tuple[Column, ...]

    def write(self, w: Writer) -> None:
        for store in self.stores:
            w.store(store.buffer, store.offset, store.value)
        for column in self.columns:
            self._join(w, column)

    def _join(self, w: Writer, column: Column) -> None:
        type = column.value.type
        vector = w.vector is not None
        kind = memory_type(type)
        whole = f"<{w.width} x {kind}>" if vector else kind
        pointer = w.address(column.buffer, column.offset)
        name = w.wide(column.value) if vector else w.value(column.value)
        if w.mask is not None:
            old = w.call(
                whole, f"llvm.masked.load.{suffix(whole)}.p0",
                (f"ptr align {type.itemsize}", pointer), (f"<{w.width} x i1>", w.mask),
                (whole, "zeroinitializer"),
            )  # fmt: skip
        else:
            old = w.emit(f"load {whole}, ptr {pointer}, align {type.itemsize}")
        old = w.from_memory(old, type, whole)
        register = w.vector_of(type) if vector else scalar_type(type)
        w.put(column.buffer, column.offset, combine(w, column.op, type, register, old, name), type)


def neutral_of(op: str, type: DType) -> Any:
    """What changes nothing in a fold."""
    if op in ("max", "min", "argmax", "argmin"):
        low = op.endswith("max")
        if type is bool_:
            return not low
        if type.kind == "float":
            return -float("inf") if low else float("inf")
        return type.lowest if low else type.highest
    return {"add": 0, "mul": 1, "or": 0, "and": 1 if type is bool_ else -1}[op]


def combine(w: Writer, op: str, type: DType, kind: str, a: str, b: str) -> str:
    """One step of a fold: of `max` and `min` a NaN stays."""
    if op not in ("max", "min"):
        return w.arithmetic(op, type, kind, [a, b])
    flag = "i1" if not kind.startswith("<") else f"<{w.width} x i1>"
    better = w.emit(f"{comparison('gt' if op == 'max' else 'lt', type)} {kind} {b}, {a}")
    if type.kind == "float":
        nan = w.emit(f"fcmp uno {kind} {b}, {b}")
        better = w.emit(f"or {flag} {better}, {nan}")
    return w.emit(f"select {flag} {better}, {kind} {b}, {kind} {a}")


class Fold:
    """A fold in registers: how it begins, takes one more vector of terms, and ends as a scalar.

    A long sum of floats adds stretches of a few vectors, and those in twice the precision, so that
    its error does not grow with the length.
    """

    def __init__(
        self, op: str, body: Value, stage: Stage | None, lanes: bool = True, terms: int = 0
    ) -> None:
        self.op, self.body, self.type, self.lanes = op, body, body.type, lanes
        self.is_arg = op.startswith("arg")
        self.in_lanes = stage is None  # a result for each lane, not one for all
        self.loop = stage.loops[-1].name if stage is not None and stage.loops else ""
        long = self.in_lanes and terms > _BLOCK and self._is_float_sum
        self.nested_wide = long and body.type is float32
        self.with_lost = long and body.type is float64
        self.place: Any = None

    @property
    def _is_float_sum(self) -> bool:
        return self.op == "add" and self.type.kind == "float"

    def kind(self, w: Writer, type: DType | None = None) -> str:
        type = type or self.type
        return w.vector_of(type) if self.lanes else scalar_type(type)

    def slots(self, w: Writer) -> list[tuple[str, str]]:
        """The registers of one accumulator, with what they hold at first."""
        type = float64 if self.nested_wide else self.type
        first = literal(neutral_of(self.op, type), type)
        kind = self.kind(w, type)
        value = f"splat ({scalar_type(type)} {first})" if self.lanes else first
        if self.with_lost:
            return [(kind, value), (kind, value)]
        if not self.is_arg:
            return [(kind, value)]
        none = str((1 << 63) - 1)
        return [(kind, value), (self.kind(w, int64), f"splat (i64 {none})" if self.lanes else none)]

    def step(self, w: Writer, slots: list[str]) -> list[str]:
        name = w.wide(self.body) if self.lanes else w.value(self.body)
        if self.is_arg:
            return self._arg_step(w, slots, name)
        type = self.type
        if self.nested_wide:
            name = w.converted(name, type, float64, self.kind(w), self.kind(w, float64), "convert")
            type = float64
        if w.mask is not None and not self.in_lanes:
            neutral = literal(neutral_of(self.op, type), type)
            fill = f"splat ({scalar_type(type)} {neutral})"
            kind = self.kind(w, type)
            name = w.emit(f"select <{w.width} x i1> {w.mask}, {kind} {name}, {kind} {fill}")
        if self.with_lost:
            return _two_sum(w, self.kind(w), slots, name)
        return [combine(w, self.op, type, self.kind(w, type), slots[0], name)]

    def _place(self, w: Writer) -> str:
        """The index of each lane's term."""
        index = Expr.named(self.arg_loop)
        return w.indices(index) if self.lanes else w.index(index)

    def _arg_step(self, w: Writer, slots: list[str], name: str) -> list[str]:
        flag = f"<{w.width} x i1>" if self.lanes else "i1"
        better = self._precedes(w, name, slots[0], strict=True)
        places = self.kind(w, int64)
        none = str((1 << 63) - 1)
        none = f"splat (i64 {none})" if self.lanes else none
        first = w.emit(f"icmp eq {places} {slots[1]}, {none}")
        better = w.emit(f"or {flag} {better}, {first}")
        if w.mask is not None and not self.in_lanes:
            better = w.emit(f"and {flag} {better}, {w.mask}")
        kind = self.kind(w)
        at = self._place(w)
        return [
            w.emit(f"select {flag} {better}, {kind} {name}, {kind} {slots[0]}"),
            w.emit(f"select {flag} {better}, {places} {at}, {places} {slots[1]}"),
        ]

    def _precedes(self, w: Writer, a: str, b: str, strict: bool) -> str:
        """Whether a term comes before another: a NaN first, else the more extreme one."""
        kind = self.kind(w)
        flag = f"<{w.width} x i1>" if self.lanes else "i1"
        relation = "gt" if self.op == "argmax" else "lt"
        better = w.emit(f"{comparison(relation, self.type)} {kind} {a}, {b}")
        if self.type.kind != "float":
            return better
        nan = w.emit(f"fcmp uno {kind} {a}, {a}")
        other = w.emit(f"fcmp ord {kind} {b}, {b}")
        first = w.emit(f"and {flag} {nan}, {other}")
        return w.emit(f"or {flag} {better}, {first}")

    @property
    def arg_loop(self) -> str:
        return self.place or self.loop

    def merge(self, w: Writer, a: list[str], b: list[str]) -> list[str]:
        """Two accumulators as one."""
        if not self.is_arg:
            return [combine(w, self.op, self.type, self.kind(w), a[0], b[0])]
        kind, places = self.kind(w), self.kind(w, int64)
        flag = f"<{w.width} x i1>" if self.lanes else "i1"
        better = self._precedes(w, b[0], a[0], strict=True)
        worse = self._precedes(w, a[0], b[0], strict=True)
        earlier = w.emit(f"icmp slt {places} {b[1]}, {a[1]}")
        level = w.emit(f"xor {flag} {worse}, {'splat (i1 true)' if self.lanes else 'true'}")
        tie = w.emit(f"and {flag} {level}, {earlier}")
        wins = w.emit(f"or {flag} {better}, {tie}")
        return [
            w.emit(f"select {flag} {wins}, {kind} {b[0]}, {kind} {a[0]}"),
            w.emit(f"select {flag} {wins}, {places} {b[1]}, {places} {a[1]}"),
        ]

    def wide_slots(self, w: Writer) -> list[tuple[str, str]]:
        """The registers of a sum of sums: a double, or a double and what it has lost."""
        kind = self.kind(w, float64)
        zero = (kind, "zeroinitializer")
        return [zero] if self.type is float32 else [zero, zero]

    def widen(self, w: Writer, wide: list[str], slots: list[str]) -> list[str]:
        """Add a sum of a stretch to the sum of sums."""
        kind = self.kind(w, float64)
        if self.type is float32:
            term = w.emit(f"fpext {self.kind(w)} {slots[0]} to {kind}")
            return [w.emit(f"fadd {kind} {wide[0]}, {term}")]
        return _two_sum(w, kind, wide, slots[0])

    def narrow(self, w: Writer, wide: list[str]) -> str:
        """The scalar that a sum of sums is."""
        kind = self.kind(w, float64)
        if self.type is float32:
            total = _across(w, wide, lambda a, b: [w.emit(f"fadd {kind} {a[0]}, {b[0]}")], [kind])
            return w.emit(f"fptrunc double {total[0]} to float")
        first, lost = wide

        def merge(a: list[str], b: list[str]) -> list[str]:
            high, low = _two_sum(w, kind, [a[0], a[1]], b[0])
            return [high, w.emit(f"fadd {kind} {low}, {b[1]}")]

        total = _across(w, [first, lost], merge, [kind, kind])
        return w.emit(f"fadd double {total[0]}, {total[1]}")

    def finish(self, w: Writer, slots: list[str]) -> str:
        """The result: the scalar that all lanes make, or one a lane."""
        if isinstance(slots, _Wide):
            return self.narrow(w, list(slots))
        if self.in_lanes or not self.lanes:
            if self.nested_wide:
                old, new = self.kind(w, float64), self.kind(w)
                return w.emit(f"fptrunc {old} {slots[0]} to {new}")
            if self.with_lost:
                return w.emit(f"fadd {self.kind(w)} {slots[0]}, {slots[1]}")
            return slots[-1]
        kinds = [self.kind(w)] + [self.kind(w, int64)] * self.is_arg
        return _across(w, slots, lambda a, b: self.merge(w, a, b), kinds)[-1]


class _Wide(list[str]):
    """The registers of a sum of sums."""


def _two_sum(w: Writer, kind: str, wide: list[str], term: str) -> list[str]:
    """Knuth's exact sum of two floats: what rounding loses is added up apart."""
    total = w.emit(f"fadd {kind} {wide[0]}, {term}")
    part = w.emit(f"fsub {kind} {total}, {wide[0]}")
    rest = w.emit(f"fsub {kind} {total}, {part}")
    left = w.emit(f"fsub {kind} {wide[0]}, {rest}")
    right = w.emit(f"fsub {kind} {term}, {part}")
    lost = w.emit(f"fadd {kind} {left}, {right}")
    finite = w.emit(f"fcmp ord {kind} {lost}, {lost}")  # of infinities nothing is lost
    flag = f"<{w.width} x i1>" if kind.startswith("<") else "i1"
    zero = "zeroinitializer" if kind.startswith("<") else "0.0"
    lost = w.emit(f"select {flag} {finite}, {kind} {lost}, {kind} {zero}")
    return [total, w.emit(f"fadd {kind} {wide[1]}, {lost}")]


def _across(
    w: Writer, slots: Sequence[str], merge: Callable[[Any, Any], list[str]], kinds: Sequence[str]
) -> list[str]:
    """The lanes of some vectors folded into one scalar each, by halves."""
    now = list(slots)
    half = w.width // 2
    while half >= 1:
        lanes = [(k + half) % w.width for k in range(w.width)]
        order = f"<{w.width} x i32> <{', '.join(f'i32 {k}' for k in lanes)}>"
        other = [
            w.emit(f"shufflevector {kind} {name}, {kind} poison, {order}")
            for kind, name in zip(kinds, now, strict=True)
        ]
        now = merge(now, other)
        half //= 2
    return [
        w.emit(f"extractelement {kind} {name}, i64 0")
        for kind, name in zip(kinds, now, strict=True)
    ]


class Nest:
    """The loops of one stage: the innermost in vectors, with several accumulators for each fold."""

    def __init__(
        self, w: Writer, stage: Stage, folds: Sequence[Fold], stores: Stores
    ) -> None:
        self.w, self.stage, self.folds, self.stores = w, stage, folds, stores
        instructions = len(operands(stage.roots))
        self.copies = 1
        if folds and not stores.stores and not stores.columns:
            self.copies = 4 if instructions <= _CHEAP else 2 if instructions <= _MIDDLING else 1
        extents = [loop.extent.constant for loop in stage.loops]
        if w.kernel.flat is not None:
            extents = [w.kernel.grain]
        self.step = w.width * self.copies
        total = 1
        for n in extents:
            total = 1 << 62 if n is None else total * n
        self.long = total > _BLOCK * self.step
        for fold in folds:
            fold.place = stage.loops[-1].name

    def is_wide(self, fold: Fold) -> bool:
        return self.long and fold._is_float_sum and fold.type.name != "float16"

    def start(self) -> list[Any]:
        """For each fold what its registers hold at first."""
        w = self.w
        return [
            _Wide(v for _, v in f.wide_slots(w)) if self.is_wide(f)
            else [v for _ in range(self.copies) for _, v in f.slots(w)]
            for f in self.folds
        ]  # fmt: skip

    def kinds(self) -> list[list[str]]:
        w = self.w
        return [
            [k for k, _ in f.wide_slots(w)] if self.is_wide(f)
            else [k for _ in range(self.copies) for k, _ in f.slots(w)]
            for f in self.folds
        ]  # fmt: skip

    def _flat(self, state: Sequence[Any], kinds: Sequence[Sequence[str]]) -> list[Any]:
        return [(k, v) for ks, vs in zip(kinds, state, strict=True)
                for k, v in zip(ks, vs, strict=True)]  # fmt: skip

    def _shaped(self, names: Sequence[str], kinds: Sequence[Sequence[str]]) -> list[Any]:
        found = iter(names)
        return [
            (_Wide if self.is_wide(f) and len(ks) == len(f.wide_slots(self.w)) else list)(
                next(found) for _ in ks
            )
            for f, ks in zip(self.folds, kinds, strict=True)
        ]

    def loops(self, loops: Sequence[Loop], begin: str, end: str, state: list[Any]) -> list[Any]:
        """Run the nest; the folds' registers at its end, several accumulators merged into one."""
        state = self._nested(loops, begin, end, state)
        return [s if isinstance(s, _Wide) else self._merged(f, s)
                for f, s in zip(self.folds, state, strict=True)]  # fmt: skip

    def _merged(self, fold: Fold, slots: list[str]) -> list[str]:
        size = len(slots) // self.copies
        parts = [slots[k * size : (k + 1) * size] for k in range(self.copies)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [fold.merge(self.w, parts[k], parts[k + half]) for k in range(half)]
        return parts[0]

    def _nested(self, loops: Sequence[Loop], begin: str, end: str, state: list[Any]) -> list[Any]:
        if len(loops) == 1:
            return self._innermost(loops[0], begin, end, state)
        w, kinds = self.w, self.kinds()

        def turn(i: str, names: list[str]) -> list[str]:
            w.scopes[-1].names[loops[0].name] = i
            w.hoist(self.stage.roots)
            last = w.index(loops[1].extent)
            after = self._nested(loops[1:], "0", last, self._shaped(names, kinds))
            return [v for vs in after for v in vs]

        return self._shaped(w.loop(begin, end, "1", self._flat(state, kinds), turn), kinds)

    def _innermost(self, loop: Loop, begin: str, end: str, state: list[Any]) -> list[Any]:
        """Whole steps, whole vectors, and the masked rest."""
        w = self.w
        w.vector = loop.name
        constant = begin.isdigit() and end.isdigit()
        size = int(end) - int(begin) if constant else None
        length = None if constant else w.emit(f"sub i64 {end}, {begin}")

        def upto(step: int) -> str:
            if size is not None:
                return str(int(begin) + size // step * step)
            whole = w.emit(f"sdiv i64 {length}, {step}")
            return w.emit(f"add i64 {begin}, {w.emit(f'mul i64 {whole}, {step}')}")

        main = upto(self.step)
        if main != begin:
            state = self._blocks(loop, begin, main, state)
        full = upto(w.width)
        if self.copies > 1 and full != main:
            state = self._steps(loop, main, full, w.width, 1, state)
        if full != end:
            state = self._steps(loop, full, end, w.width, 1, state, masked=True)
        w.vector = None
        return state

    def _blocks(self, loop: Loop, begin: str, end: str, state: list[Any]) -> list[Any]:
        """The whole steps; where sums are long, in blocks that are added up in more precision."""
        w = self.w
        if not any(isinstance(s, _Wide) for s in state):
            return self._steps(loop, begin, end, self.step, self.copies, state)
        kinds = self.kinds()

        def block(i: str, names: list[str]) -> list[str]:
            before = self._shaped(names, kinds)
            stop = w.emit(f"add i64 {i}, {_BLOCK * self.step}")
            last = w.call("i64", "llvm.smin.i64", ("i64", stop), ("i64", end))
            short = [
                [v for _ in range(self.copies) for _, v in f.slots(w)]
                if isinstance(s, _Wide) else s
                for f, s in zip(self.folds, before, strict=True)
            ]  # fmt: skip
            after = self._steps(loop, i, last, self.step, self.copies, short)
            out: list[str] = []
            for f, old, new in zip(self.folds, before, after, strict=True):
                out += f.widen(w, old, self._merged(f, new)) if isinstance(old, _Wide) else new
            return out

        step = str(_BLOCK * self.step)
        return self._shaped(w.loop(begin, end, step, self._flat(state, kinds), block), kinds)

    def _steps(
        self, loop: Loop, begin: str, end: str, step: int, copies: int, state: list[Any],
        masked: bool = False,
    ) -> list[Any]:  # fmt: skip
        w = self.w
        shapes = [
            [k for k, _ in f.wide_slots(w)] if isinstance(s, _Wide)
            else [k for _ in range(self.copies) for k, _ in f.slots(w)]
            for f, s in zip(self.folds, state, strict=True)
        ]  # fmt: skip

        def turn(i: str, names: list[str]) -> list[str]:
            found = iter(names)
            now = [type(s)(next(found) for _ in s) for s in state]
            for copy in range(copies):
                place = i if copy == 0 else w.emit(f"add nsw i64 {i}, {copy * w.width}")
                w.scopes.append(Scope({loop.name: place}))
                if masked:
                    w.mask = self._mask(place, end)
                now = [self._step(f, s, copy) for f, s in zip(self.folds, now, strict=True)]
                self.stores.write(w)
                self._checks()
                w.mask = None
                w.scopes.pop()
            return [v for vs in now for v in vs]

        flat = self._flat(state, shapes)
        names = w.loop(begin, end, str(step), flat, turn)
        found = iter(names)
        return [type(s)(next(found) for _ in s) for s in state]

    def _checks(self) -> None:
        w = self.w
        for check in w.kernel.checks:
            here = check.bad.names & w.loops
            if here <= w.names() and here & {loop.name for loop in self.stage.loops}:
                w.check(check)

    def _step(self, fold: Fold, slots: Any, copy: int) -> Any:
        w = self.w
        if isinstance(slots, _Wide):
            one = fold.step(w, [v for _, v in fold.slots(w)])
            return _Wide(fold.widen(w, list(slots), one))
        size = len(slots) // self.copies
        mine = slots[copy * size : (copy + 1) * size]
        return [*slots[: copy * size], *fold.step(w, mine), *slots[(copy + 1) * size :]]

    def _mask(self, place: str, end: str) -> str:
        w = self.w
        left = w.emit(f"sub i64 {end}, {place}")
        lanes = ", ".join(f"i64 {k}" for k in range(w.width))
        return w.emit(f"icmp slt <{w.width} x i64> <{lanes}>, {w.splat(left, int64)}")


def comparison(op: str, type: DType) -> str:
    if type.kind == "float":
        return f"fcmp {'une' if op == 'ne' else 'o' + op}"
    if op in ("eq", "ne"):
        return f"icmp {op}"
    return f"icmp {'s' if type.kind == 'int' else 'u'}{op}"
