"""Folds as CUDA C: accumulators of a thread, and how those of a team of threads become one.

A long sum of floats is added up in more precision: float32 in float64, float64 with what each
addition loses added up apart. The order of a fold depends on the sizes alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from stagekit.kernels.cuda.words import (
    c_type,
    combined,
    converted,
    instruction,
    literal,
    shuffled,
)
from stagekit.kernels.llvm.loops import neutral_of
from stagekit.types import DType, float32, float64, int64

_LONG = 64  # terms of a thread from which a sum of floats needs more precision
_NOWHERE = (1 << 63) - 1  # where the extremum of no term is


class Accumulator:
    """What a thread knows of a fold: one variable, or two.

    `terms` is how many one thread takes at most, `place` the index of a term.
    """

    def __init__(self, name: str, op: str, type: DType, terms: int, place: str) -> None:
        self.op, self.type, self.place = op, type, place
        self.is_arg = op.startswith("arg")
        wide = op == "add" and type in (float32, float64) and terms > _LONG
        self.with_lost = wide and type is float64
        self.slots: list[tuple[str, DType]] = [(name, float64 if wide else type)]
        if self.is_arg:
            self.slots.append((f"{name}_at", int64))
        elif self.with_lost:
            self.slots.append((f"{name}_lost", float64))

    def declarations(self) -> list[str]:
        """Statements with which it begins."""
        first = [neutral_of(self.op, self.type), _NOWHERE if self.is_arg else 0.0]
        return [
            f"{c_type(kind)} {name} = {literal(value, kind)};"
            for (name, kind), value in zip(self.slots, first, strict=False)
        ]

    def step(self, term: str) -> str:
        """The statement that takes one more term."""
        name, kind = self.slots[0]
        if self.is_arg:
            nowhere = f"{self.slots[1][0]} == {literal(_NOWHERE, int64)}"
            better = f"{self._precedes(term, name)} || {nowhere}"
            return f"if ({better}) {{ {name} = {term}; {self.slots[1][0]} = {self.place}; }}"
        if self.with_lost:
            return f"add_exactly({name}, {self.slots[1][0]}, {term});"
        return f"{name} = {combined(self.op, kind, name, converted(term, self.type, kind))};"

    def merge(self, other: Sequence[str]) -> list[str]:
        """The statements that take another accumulator, whose variables are `other`."""
        name, kind = self.slots[0]
        if self.is_arg:
            at, level = self.slots[1][0], f"!({self._precedes(name, other[0])})"
            wins = f"{self._precedes(other[0], name)} || ({level} && {other[1]} < {at})"
            return [f"if ({wins}) {{ {name} = {other[0]}; {at} = {other[1]}; }}"]
        if self.with_lost:
            lost = self.slots[1][0]
            return [f"add_exactly({name}, {lost}, {other[0]});", f"{lost} = {lost} + {other[1]};"]
        return [f"{name} = {combined(self.op, kind, name, other[0])};"]

    def _precedes(self, a: str, b: str) -> str:
        """Whether a term comes before another: a NaN first, else the more extreme one."""
        better = instruction("gt" if self.op == "argmax" else "lt", self.type, a, b)
        if self.type.kind != "float":
            return better
        nan, number = instruction("ne", self.type, a, a), instruction("eq", self.type, b, b)
        return f"{better} || ({nan} && {number})"

    @property
    def result(self) -> str:
        """What the fold is, when all has been merged."""
        names = [name for name, _ in self.slots]
        if self.is_arg:
            return names[1]
        if self.with_lost:
            return " + ".join(names)
        return converted(*self.slots[0], self.type)


def within_warp(folds: Sequence[Accumulator]) -> list[str]:
    """Statements after which lane 0 of each warp has the folds of all its lanes."""
    body: list[str] = []
    for fold in folds:
        others = [f"{name}_of" for name, _ in fold.slots]
        for (name, kind), other in zip(fold.slots, others, strict=True):
            found = shuffled("__shfl_down_sync", name, kind, "k")
            body.append(f"const {c_type(kind)} {other} = {found};")
        body += fold.merge(others)
    return ["for (int k = 16; k > 0; k /= 2) {", *(f"  {line}" for line in body), "}"]


def to_all_lanes(folds: Sequence[Accumulator]) -> list[str]:
    """Statements that give all lanes of a warp what lane 0 has."""
    return [
        f"{name} = {shuffled('__shfl_sync', name, kind, '0')};"
        for fold in folds for name, kind in fold.slots
    ]  # fmt: skip


def across_warps(folds: Sequence[Accumulator], warps: int) -> list[str]:
    """Statements after which all threads of a block have the folds of all its warps."""
    slots = [slot for fold in folds for slot in fold.slots]
    out = [f"__shared__ {c_type(kind)} {name}_shared[{warps}];" for name, kind in slots]
    out.append("__syncthreads();  // the results of an earlier row have been read")
    out.append("if (thread % 32 == 0) {")
    out += [f"  {name}_shared[thread / 32] = {name};" for name, _ in slots]
    out += ["}", "__syncthreads();"]
    out += [f"{name} = {name}_shared[0];" for name, _ in slots]
    out.append(f"for (int k = 1; k < {warps}; k++) {{")
    for fold in folds:
        out += [f"  {line}" for line in fold.merge([f"{n}_shared[k]" for n, _ in fold.slots])]
    return [*out, "}"]
