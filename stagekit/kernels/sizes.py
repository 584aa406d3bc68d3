"""Arithmetic of extents and of places: what schedules and all printers of loops share."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from stagekit.kernels.ir import Loop
from stagekit.symbolic import Expr

MANY = 4096  # what a symbolic size counts as where a choice depends on it


def count(extent: Expr) -> int:
    """How large an extent is, as far as known."""
    if extent.constant is not None:
        return extent.constant
    return int(extent.evaluate(dict.fromkeys(extent.names, MANY)))


@functools.lru_cache(1 << 11)
def stride(expr: Expr, name: str) -> Expr | None:
    """By how much an index grows with a loop variable; None where it does so unevenly."""
    rate: dict[Any, int] = {}
    for monomial, c in expr.terms:
        times = sum(atom == name for atom in monomial)
        hidden = any(not isinstance(a, str) and name in a.left.names | a.right.names
                     for a in monomial)  # fmt: skip
        if hidden or times > 1:
            return None
        if times:
            rest = list(monomial)
            rest.remove(name)
            rate[tuple(rest)] = c
    return Expr(rate)


def row_major(loops: Sequence[Loop]) -> Expr:
    """The number of a place among those of some loops, the last loop fastest."""
    place: Any = Expr.of(0)
    for loop in loops:
        place = place * loop.extent + Expr.named(loop.name)
    return Expr.of(place)


def product(extents: Iterable[Expr]) -> Expr:
    """The product of extents."""
    total: Any = Expr.of(1)
    for extent in extents:
        total = total * extent
    return Expr.of(total)
