"""Samples of sorting and what is made of it, and what the library ops mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.samples.base import (
    ALL,
    NAN,
    Sample,
    definition,
    generator,
    laid_out,
    random,
    rows,
    special_values,
)


def _rank(x: Any, descending: bool) -> tuple[bool, Any]:
    """A Python key: NaN last, then by value."""
    return x != x, 0 if x != x else (-x if descending else x)


def _each_row(function: Any, x: np.ndarray, axis: int, dtype: Any) -> np.ndarray:
    """`function` of the list of each row along `axis`."""
    moved = np.moveaxis(x, axis, -1)
    found = [function(row.tolist()) for row in moved.reshape(-1, x.shape[axis])]
    length = len(function(moved[(0,) * (x.ndim - 1)].tolist())) if found else x.shape[axis]
    shape = (*moved.shape[:-1], length)
    return np.moveaxis(np.array(found, dtype).reshape(shape), -1, axis)


def _order(row: list[Any], descending: bool) -> list[int]:
    return sorted(range(len(row)), key=lambda k: _rank(row[k], descending))


@definition("argsort")
def argsort(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    return _each_row(lambda row: _order(row, descending), x, axis, "int64")


@definition("sort")
def sort(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    return _each_row(lambda row: [row[k] for k in _order(row, descending)], x, axis, x.dtype)


def _distinct(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float64 numbers whose differences are far above the step of finite differences."""
    size = int(np.prod(shape))
    return rng.permutation(size).reshape(shape) * 0.37 - 1.0


@generator("sort", "argsort")
def _sort(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    smooth = name == "sort"
    for shape, axis in (((5,), 0), ((2, 4), 1), ((3, 2), 0), ((2, 3, 2), 1), ((0, 3), 1)):
        for descending in (False, True):
            attrs = {"axis": axis, "descending": descending}
            yield Sample(name, (_distinct(rng, *shape),), attrs, smooth, f"shape {shape}")
    for kind in ALL:
        for descending in (False, True):
            attrs = {"axis": 0, "descending": descending}
            extreme = np.resize(special_values(kind), (61,))
            yield Sample(name, (rng.permutation(extreme),), attrs, False, f"special {kind}")
            many = np.resize(rng.permutation(np.resize(special_values(kind), 150)), (2, 150))
            yield Sample(name, (many,), attrs | {"axis": 1}, False, f"special many {kind}")
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        for axis in (0, 1):
            yield Sample(name, (x,), {"axis": axis, "descending": axis == 0}, False, layout)
    for layout, x in laid_out(random(rng, "int8", (80, 2))):
        yield Sample(name, (x,), {"axis": 0, "descending": True}, False, f"long {layout}")
    ties = np.array([[0.0, -0.0, NAN, 0.0], [1.0, 1.0, -0.0, 0.0], [-NAN, 0.0, NAN, -0.0]])
    for axis in (0, 1):
        yield Sample(name, (ties,), {"axis": axis, "descending": True}, False, "kink")


@rows
def _rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    m = random(rng, "float32", (3, 4))
    for op, referee in (("sort", np.sort), ("argsort", np.argsort)):
        for axis in (0, 1, -1):
            yield op, (m,), {"axis": axis}, referee
        yield op, (random(rng, "int8", (40,)),), {}, _stable(referee)
        yield op, (m[0, :0],), {}, referee


def _stable(referee: Any) -> Any:
    return lambda x: referee(x, kind="stable")
