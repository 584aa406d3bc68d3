"""Symbolic values: what a variable of a code object may stand for, without running it.

A value is a set of expressions. An expression is a tuple: a root such as `("global", "cfg")`, or
a step on another expression such as `("attr", base, "lr")`. Values are bounded in size and
expressions in depth; beyond the bounds they become `WILD`, any object the trace has met.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import CodeType
from typing import Any

Expr = tuple[Any, ...]
Value = frozenset[Expr]

EMPTY: Value = frozenset()
WILD: Expr = ("wild",)
FRESH: Expr = ("fresh",)  # made inside the call
SLICE: Expr = ("slice",)
ANY: Value = frozenset([WILD])
NEW: Value = frozenset([FRESH])

CHAINS = frozenset(["attr", "getattr", "item", "each", "values", "items", "enumerate", "result"])

MAX_DEPTH = 10
MAX_ALTERNATIVES = 16

PARTS = frozenset(["display", "bag"])  # tuples and lists that the code itself builds


def constant(value: object) -> Value:
    """A constant as an expression; what a key or a name cannot be is just a new object."""
    if isinstance(value, (str, int, float, bytes, tuple, type(None))):
        return frozenset([("const", type(value), value)])
    if isinstance(value, CodeType):
        return frozenset([("code", value)])
    return frozenset([SLICE]) if isinstance(value, slice) else NEW


def root(expr: Expr) -> Expr:
    """The innermost expression of a chain: what it starts from."""
    while expr[0] in CHAINS:
        expr = expr[1]
    return expr


def depth(expr: Expr) -> int:
    """The number of steps of a chain."""
    steps = 0
    while expr[0] in CHAINS:
        expr, steps = expr[1], steps + 1
    return steps


def bounded(exprs: Iterable[Expr]) -> Value:
    """A value of bounded size: beyond the bounds the rest is WILD."""
    value = frozenset(exprs)
    if len(value) > MAX_ALTERNATIVES:
        return frozenset(sorted(value, key=depth)[: MAX_ALTERNATIVES - 1]) | ANY
    return value


def chain(expr: Expr) -> Expr:
    """The expression, or WILD where it is too deep."""
    return expr if depth(expr) <= MAX_DEPTH else WILD


def inside(expr: Expr) -> Value:
    """The elements of a tuple or list built in the code."""
    if expr[0] == "bag":
        return expr[1]  # type: ignore[no-any-return]
    return EMPTY.union(*expr[1])


def component(expr: Expr, key: Expr) -> Value:
    """One element of a tuple built in the code, or all where the key is not known."""
    if expr[0] == "display" and key[:2] == ("const", int) and -len(expr[1]) <= key[2] < len(expr[1]):
        return expr[1][key[2]]  # type: ignore[no-any-return]
    return inside(expr)


def const_item(value: object, key: Expr) -> Value:
    """An element of a constant."""
    if isinstance(value, tuple) and key[:2] == ("const", int) and -len(value) <= key[2] < len(value):
        return constant(value[key[2]])
    return const_each(value)


def const_each(value: object) -> Value:
    """All elements of a constant tuple."""
    if not isinstance(value, tuple):
        return NEW
    return bounded(EMPTY.union(*(constant(v) for v in value[:MAX_ALTERNATIVES]))) or NEW


