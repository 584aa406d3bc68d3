"""LLVM IR as text: instructions, blocks, loops, and indices.

An `Emitter` writes one function. It knows what is computed already at each depth of the loops, so
that an index or a value is written once, as far outside as it can be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagekit.symbolic import Call, Expr
from stagekit.types import DType, bool_

_FLOATS = {"float16": "half", "float32": "float", "float64": "double"}


def scalar_type(type: DType) -> str:
    """LLVM's name of a type in registers."""
    if type is bool_:
        return "i1"
    return _FLOATS.get(type.name) or f"i{8 * type.itemsize}"


def memory_type(type: DType) -> str:
    """LLVM's name of a type in memory."""
    return "i8" if type is bool_ else scalar_type(type)


def literal(value: Any, type: DType) -> str:
    """A constant as LLVM writes it; floats as the bits of the double they equal."""
    if type is bool_:
        return "true" if value else "false"
    if type.kind != "float":
        return str(int(value))
    if type.name == "float16":
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


@dataclass
class Scope:
    """What is known at one depth of the loops: names of indices, values, indices computed."""

    names: dict[str, str]
    values: dict[Any, str] = field(default_factory=dict)
    exprs: dict[Any, str] = field(default_factory=dict)


class Emitter:
    """Writes one LLVM function."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scopes: list[Scope] = [Scope({})]
        self.count = 0
        self.block = "entry"
        self.declared: dict[str, None] = {}

    def emit(self, text: str) -> str:
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.block = name

    def call(self, result: str, name: str, *args: tuple[str, str]) -> str:
        """Call an intrinsic with arguments given as (type, name); its name, "" for no result."""
        kinds = ", ".join(kind for kind, _ in args)
        self.declared[f"declare {result} @{name}({kinds})"] = None
        text = f"call {result} @{name}({', '.join(f'{kind} {a}' for kind, a in args)})"
        if result != "void":
            return self.emit(text)
        self.do(text)
        return ""

    def fresh_block(self) -> int:
        self.count += 1
        return self.count

    def loop(
        self,
        begin: str,
        end: str,
        step: str,
        carried: Sequence[tuple[str, str]],
        body: Callable[[str, list[str]], list[str] | None],
    ) -> list[str]:
        """A loop `for (i = begin; i < end; i += step)` with values carried from turn to turn."""
        n = self.fresh_block()
        before = self.block
        self.do(f"br label %head{n}")
        self.label(f"head{n}")
        i = f"%i{n}"
        place = len(self.lines)
        self.lines.append("")  # the phis, when the last block of the body is known
        names = [f"%c{n}_{k}" for k in range(len(carried))]
        more = self.emit(f"icmp slt i64 {i}, {end}")
        self.do(f"br i1 {more}, label %body{n}, label %done{n}")
        self.label(f"body{n}")
        self.scopes.append(Scope({}))
        after = body(i, names) or []
        self.scopes.pop()
        following = self.emit(f"add nsw i64 {i}, {step}")
        last = self.block
        self.do(f"br label %head{n}")
        phis = [f"  {i} = phi i64 [ {begin}, %{before} ], [ {following}, %{last} ]"]
        for name, (kind, first), then in zip(names, carried, after, strict=True):
            phis.append(f"  {name} = phi {kind} [ {first}, %{before} ], [ {then}, %{last} ]")
        self.lines[place] = "\n".join(phis)
        self.label(f"done{n}")
        return names

    # ----- indices

    def name_of(self, name: str) -> str:
        """The i64 (of the vector loop: of lane 0) that a name stands for."""
        for scope in reversed(self.scopes):
            if name in scope.names:
                return scope.names[name]
        raise KeyError(name)

    def index(self, expr: Expr) -> str:
        """An index as an i64, for lane 0."""
        for scope in self.scopes:
            if expr in scope.exprs:
                return scope.exprs[expr]
        total: str | None = None
        for monomial, c in expr.terms:
            term = str(c) if not monomial else None
            for atom in monomial:
                factor = self.atom(atom)
                if term is None:
                    term = factor if c == 1 else self.emit(f"mul nsw i64 {factor}, {c}")
                else:
                    term = self.emit(f"mul nsw i64 {term}, {factor}")
            assert term is not None
            total = term if total is None else self.emit(f"add nsw i64 {total}, {term}")
        result = total or "0"
        self.scopes[-1].exprs[expr] = result
        return result

    def atom(self, atom: Any) -> str:
        if isinstance(atom, str):
            return self.name_of(atom)
        return self.call_of(atom, self.index(atom.left), self.index(atom.right), "i64")

    def call_of(self, atom: Call, left: str, right: str, kind: str) -> str:
        """Floor division and remainder (divisors are positive, or the result is not used)."""
        if atom.op in ("max", "min"):
            name = f"llvm.s{atom.op}.{suffix(kind)}"
            return self.call(kind, name, (kind, left), (kind, right))
        one, zero = (self.all_of(kind, k) for k in ("1", "0"))
        positive = self.emit(f"icmp sgt {kind} {right}, {zero}")
        flag = kind.replace("i64", "i1")
        divisor = self.emit(f"select {flag} {positive}, {kind} {right}, {kind} {one}")
        rest = self.emit(f"srem {kind} {left}, {divisor}")
        below = self.emit(f"icmp slt {kind} {rest}, {zero}")
        if atom.op == "%":
            more = self.emit(f"add {kind} {rest}, {divisor}")
            return self.emit(f"select {flag} {below}, {kind} {more}, {kind} {rest}")
        quotient = self.emit(f"sdiv {kind} {left}, {divisor}")
        less = self.emit(f"sub {kind} {quotient}, {one}")
        return self.emit(f"select {flag} {below}, {kind} {less}, {kind} {quotient}")

    def all_of(self, kind: str, value: str) -> str:
        return f"splat (i64 {value})" if kind.startswith("<") else value

    def names(self) -> set[str]:
        return {n for scope in self.scopes for n in scope.names}


def suffix(kind: str) -> str:
    """How the names of intrinsics spell a type: `v16f32`."""
    if kind.startswith("<"):
        count, _, element = kind[1:-1].split(" ")
        return f"v{count}{suffix(element)}"
    return {"float": "f32", "double": "f64", "half": "f16"}.get(kind, kind)
