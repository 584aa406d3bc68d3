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
MAX_BUILT = 3  # alternatives that are tuples or lists built in the code

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
        return frozenset(sorted(value, key=_simplest)[: MAX_ALTERNATIVES - 1]) | ANY
    return value


def as_key(expr: Expr) -> Expr:
    """An expression used as a key; one that is not simple is an unknown key."""
    if expr[0] in PARTS or expr[0] == "zip" or depth(expr) > 3:
        return FRESH
    step = expr
    while step[0] in CHAINS:
        if step[0] in ("item", "getattr") and step[2][0] in CHAINS:
            return FRESH
        step = step[1]
    return expr


def widened(old: Value, more: Value) -> Value:
    """The union of two values where control flow joins, such that joining comes to an end."""
    united = old | more
    built = [expr for expr in united if expr[0] in PARTS]
    if len(built) > MAX_BUILT:
        elements = bounded(EMPTY.union(*map(inside, built)))
        united = united.difference(built) | {("bag", nested(elements, 0))}
    return united if len(united) <= MAX_ALTERNATIVES else old | ANY


def _simplest(expr: Expr) -> tuple[int, str]:
    return depth(expr), repr(expr)


def chain(expr: Expr) -> Expr:
    """The expression, or WILD where it is too deep."""
    return expr if depth(expr) <= MAX_DEPTH else WILD


def nested(value: Value, levels: int = 1) -> Value:
    """A value to put into a tuple or list; what is nested too deep becomes WILD."""
    if not any(expr[0] in PARTS or expr[0] == "zip" for expr in value):
        return value
    if levels == 0:
        return frozenset(e for e in value if e[0] not in PARTS and e[0] != "zip") | ANY
    kept = (_nested_expr(expr, levels) for expr in value)
    return bounded(kept)


def _nested_expr(expr: Expr, levels: int) -> Expr:
    if expr[0] == "bag":
        return ("bag", nested(expr[1], levels - 1))
    if expr[0] in ("display", "zip"):
        return (expr[0], tuple(nested(part, levels - 1) for part in expr[1]))
    return expr


def inside(expr: Expr) -> Value:
    """The elements of a tuple or list built in the code."""
    if expr[0] == "bag":
        return expr[1]  # type: ignore[no-any-return]
    return EMPTY.union(*expr[1])


def component(expr: Expr, key: Expr) -> Value:
    """One element of a tuple built in the code, or all where the key is not known."""
    known = expr[0] == "display" and key[:2] == ("const", int)
    if known and -len(expr[1]) <= key[2] < len(expr[1]):
        return expr[1][key[2]]  # type: ignore[no-any-return]
    return inside(expr)


def const_item(value: object, key: Expr) -> Value:
    """An element of a constant."""
    known = isinstance(value, tuple) and key[:2] == ("const", int)
    if isinstance(value, tuple) and known and -len(value) <= key[2] < len(value):
        return constant(value[key[2]])
    return const_each(value)


def const_each(value: object) -> Value:
    """All elements of a constant tuple."""
    if not isinstance(value, tuple):
        return NEW
    return bounded(EMPTY.union(*(constant(v) for v in value[:MAX_ALTERNATIVES]))) or NEW
