"""Where the buffers of a plan lie: lifetimes, and one arena that they share.

A buffer is born at the step that writes it and dies after the last one that reads it; two that are
never alive together may have the same place. Sizes may be symbolic: offsets are expressions of the
named sizes, and buffers of one symbolic size take each other's places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stagekit.symbolic import Expr

ALIGNMENT = 64  # bytes: a cache line, and a vector


class Lifetime(NamedTuple):
    """The bytes of a buffer, and the first and last step at which it is needed."""

    bytes: Expr
    first: int
    last: int


class Arena(NamedTuple):
    """The offset of each buffer in bytes, and how many bytes there are in all."""

    offsets: dict[str, Expr]
    size: Expr


def _aligned(size: Expr) -> Expr:
    if size.constant is not None:
        return Expr.of(-(-size.constant // ALIGNMENT) * ALIGNMENT)
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


def allocate(lifetimes: Mapping[str, Lifetime]) -> Arena:
    """Places for buffers: first those of known size, each in the lowest gap, then the others.

    >>> one = Lifetime(Expr.of(100), 0, 1)
    >>> arena = allocate({"a": one, "b": one._replace(first=2, last=3), "c": one})
    >>> {name: str(offset) for name, offset in arena.offsets.items()}, str(arena.size)
    ({'a': '0', 'b': '0', 'c': '128'}, '256')
    """
    offsets: dict[str, Expr] = {}
    known = [name for name, life in lifetimes.items() if life.bytes.constant is not None]
    placed: list[tuple[int, int, Lifetime]] = []
    for name in sorted(known, key=lambda n: -(lifetimes[n].bytes.constant or 0)):
        life = lifetimes[name]
        width = _aligned(life.bytes).constant or 0
        start = _lowest(width, life, placed)
        placed.append((start, start + width, life))
        offsets[name] = Expr.of(start)
    top: Any = Expr.of(max((stop for _, stop, _ in placed), default=0))
    regions: list[tuple[Expr, Expr, list[Lifetime]]] = []
    for name, life in lifetimes.items():
        if name in offsets:
            continue
        size = _aligned(life.bytes)
        for offset, extent, tenants in regions:
            if extent == size and not any(_overlap(life, other) for other in tenants):
                tenants.append(life)
                offsets[name] = offset
                break
        else:
            regions.append((Expr.of(top), size, [life]))
            offsets[name] = top
            top = top + size
    return Arena(offsets, Expr.of(top))


def _overlap(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def _lowest(size: int, life: Lifetime, placed: Sequence[tuple[int, int, Lifetime]]) -> int:
    start = 0
    for low, high, other in sorted(placed, key=lambda place: place[0]):
        if _overlap(life, other) and low < start + size and start < high:
            start = high
    return start
