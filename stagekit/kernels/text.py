"""Kernels as text for people: rows, stages, folds and stores, with the scalar expressions.

    kernel0(in0: f32, b2: f32)
      for i0 < 4096, in 256 chunks of 16:
        for i1 < 1000:
          max0 = max of in0[1000*i0 + i1]

What is used once and is short stands where it is used; everything else has a line and a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stagekit.kernels.ir import Kernel, Loop, Stage, Value, arguments, operands
from stagekit.kernels.sizes import product
from stagekit.symbolic import Expr
from stagekit.types import SHORT, DType

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^",
    "shift_left": "<<", "shift_right": ">>", "eq": "==", "ne": "!=", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=",
}  # fmt: skip
_FOLDS = {"add": "sum", "mul": "product", "or": "any", "and": "all"}
_JOINS = {"add": "+=", "mul": "*=", "or": "|=", "and": "&=", "max": "max=", "min": "min="}
_SHORT = 48  # columns of an expression that stands where it is used


def nest(kernel: Kernel) -> str:
    """The loop nest of a kernel."""
    return "\n".join(_Printer(kernel).lines)


def short(type: DType) -> str:
    """A type as graphs print it: `f32`."""
    return SHORT[type.name]


class _Printer:
    """The lines of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.body = kernel, kernel.body
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}  # what has a name, or stands where it is used
        self.count = 0
        given = [f"{b.name}: {short(b.type)}" for b in kernel.buffers]
        self._line(0, f"{kernel.name}({', '.join([*given, *kernel.sizes])})")
        depth = 1
        for k, loop in enumerate(kernel.rows):
            self._line(depth, f"for {_loop(loop)}{self._chunks(kernel.rows) if k == 0 else ''}:")
            depth += 1
        for scratch in kernel.scratch:
            self._line(depth, f"{scratch.name}: {short(scratch.type)}[{scratch.width}]")
        for stage in kernel.stages:
            self._stage(depth, stage)
        for check in kernel.checks:
            self._forget()
            found = self._values(depth, [check.bad])
            self._line(depth, f"check {check.number} fails where {found[0]}")

    def _line(self, depth: int, text: str) -> None:
        self.lines.append("  " * depth + text)

    def _chunks(self, loops: Sequence[Loop]) -> str:
        grain = self.kernel.grain
        chunks = Expr.of((product(loop.extent for loop in loops) + (grain - 1)) // grain)
        return "" if chunks.constant == 1 else f", in {chunks} chunks of {grain}"

    def _stage(self, depth: int, stage: Stage) -> None:
        self._forget()
        for loop in stage.loops:
            chunks = self._chunks([loop]) if loop == self.kernel.flat else ""
            self._line(depth, f"for {_loop(loop)}{chunks}:")
            depth += 1
        texts = iter(self._values(depth, stage.roots))
        for folded in stage.folds:
            name = self._fold_name(folded.fold)
            self._line(depth, f"{name} = {_folding(folded.fold)} of {next(texts)}")
        for store in stage.stores:
            self._line(depth, f"{store.buffer}[{self._index(store.offset)}] = {next(texts)}")
        for column in stage.columns:
            place = f"{column.buffer}[chunk][{self._index(column.offset)}]"
            self._line(depth, f"{place} {_JOINS[column.op]} {next(texts)}")
        for folded in stage.folds:
            self.names[folded.fold] = self._fold_name(folded.fold)

    # ----- values

    def _forget(self) -> None:
        """Names of values hold in one stage, those of folds from then on."""
        self.names = {v: name for v, name in self.names.items() if v.op == "fold"}

    def _fold_name(self, fold: Value) -> str:
        if fold not in self.names:
            self.names[fold] = f"{_folding(fold)}{self.count}"
            self.count += 1
        return self.names[fold]

    def _values(self, depth: int, roots: Sequence[Value]) -> list[str]:
        """Lines for what needs lines, and the texts of some values."""
        order = operands(roots)
        uses = Counter(a for value in order if value.op != "fold" for a in arguments(value))
        uses.update(roots)
        for value in order:
            if value in self.names:
                continue
            text = self._nested(depth, value) if value.op == "fold" else self._text(value)
            leaf = value.op in ("constant", "number")
            if leaf or value.op == "fold" or (uses[value] == 1 and len(text) <= _SHORT):
                self.names[value] = text
            else:
                self.names[value] = f"v{self.count}"
                self._line(depth, f"v{self.count} = {_bare(text)}")
                self.count += 1
        return [_bare(self.names[root]) for root in roots]

    def _nested(self, depth: int, fold: Value) -> str:
        """A fold inside of a stage's loops: a loop of its own."""
        for loop in fold.attr.loops:
            self._line(depth, f"for {_loop(loop)}:")
            depth += 1
        before = dict(self.names)
        (text,) = self._values(depth, fold.args)
        self.names = before
        name = f"{_folding(fold)}{self.count}"
        self.count += 1
        self._line(depth, f"{name} = {_folding(fold)} of {text}")
        return name

    def _text(self, value: Value) -> str:
        op, args = value.op, [self.names[a] for a in value.args]
        if op == "constant":
            return _number(value.attr)
        if op == "load":
            buffer, offset, guard = value.attr
            element = f"{buffer}[{self._index(offset)}]"
            return element if guard is None else f"({element} if {self.names[guard]} else 0)"
        if op == "number":
            return f"({self._index(value.attr)})"
        if op == "test":
            relation, left, right = value.attr
            return f"({self._index(left)} {_INFIX[relation]} {self._index(right)})"
        if op == "xor" and args[1] == "True":
            return f"(not {args[0]})"
        if op in _INFIX:
            return f"({args[0]} {_INFIX[op]} {args[1]})"
        if op in ("convert", "bits"):
            name = short(value.type) if op == "convert" else f"bits_{short(value.type)}"
            return f"{name}({_bare(args[0])})"
        return f"-{args[0]}" if op == "neg" else f"{op}({', '.join(map(_bare, args))})"

    def _index(self, expr: Expr) -> str:
        """An index, with the values that it goes through."""
        known = {n: self.names[self.body.dynamic[n]] for n in expr.names if n in self.body.dynamic}
        return str(expr.evaluate({n: Expr.named(known.get(n, n)) for n in expr.names}))


def _loop(loop: Loop) -> str:
    return f"{loop.name} < {loop.extent}"


def _folding(fold: Value) -> str:
    op: str = fold.attr.op
    return _FOLDS.get(op, op)


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _bare(text: str) -> str:
    """A text without the parentheses around the whole of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for k, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if k == len(text) - 1 else text
    return text
