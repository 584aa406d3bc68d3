"""Samples of sorting and what is made of it, and what the library ops mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.samples.base import (
    NAN,
    REAL,
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
    length = len(function([0] * x.shape[axis]))
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
    for kind in REAL:
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


@definition("argtopk")
def argtopk(x: np.ndarray, *, k: int, axis: int, largest: bool) -> np.ndarray:
    return _each_row(lambda row: _order(row, largest)[:k], x, axis, "int64")


@generator("argtopk")
def _argtopk(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis, k in (((5,), 0, 2), ((2, 4), 1, 1), ((3, 2), 0, 3), ((0, 3), 1, 1)):
        attrs = {"axis": axis, "k": k, "largest": True}
        yield Sample(name, (random(rng, "float64", shape),), attrs, False, f"shape {shape}")
    for kind, k in itertools.product(REAL, (0, 3, 40, 61)):
        extreme = rng.permutation(np.resize(special_values(kind), (61,)))
        attrs = {"axis": 0, "k": k, "largest": k != 3}
        yield Sample(name, (extreme,), attrs, False, f"special {kind}")
    for kind in ("float32", "int8", "float64"):
        many = random(rng, kind, (2, 1100))
        yield Sample(name, (many,), {"axis": 1, "k": 9, "largest": kind == "int8"}, False, "long")
    attrs = {"axis": 1, "k": 9, "largest": True}
    yield Sample(name, (np.zeros((0, 1100)),), attrs, False, "no rows")
    few = rng.integers(0, 3, (3, 40)).astype("float32")
    few[1, ::5] = NAN
    for layout, x in laid_out(few):
        attrs = {"axis": 1, "k": 7, "largest": True}
        yield Sample(name, (x,), attrs, False, f"kink {layout}")
        yield Sample(name, (x[::2],), attrs | {"largest": False}, False, f"kink {layout}")


@generator("searchsorted")
def _searchsorted(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind, side in itertools.product(REAL, ("left", "right")):
        known = np.sort(np.resize(special_values(kind), (31,)))
        for values in (special_values(kind), known[::7], np.zeros((2, 0), kind), known[5]):
            yield Sample(name, (known, values), {"side": side}, False, f"special {kind}")
        yield Sample(name, (known[:0], known), {"side": side}, False, f"nothing {kind}")
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (np.sort(x.ravel()), x), {"side": "left"}, False, layout)
    yield Sample(name, (np.array([1, 3], "int8"), 2.5), {"side": "left"}, False, "a Python scalar")


@rows
def _rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    m = random(rng, "float32", (3, 4))
    for op, referee in (("sort", np.sort), ("argsort", np.argsort)):
        for axis in (0, 1, -1):
            yield op, (m,), {"axis": axis}, referee
        yield op, (random(rng, "int8", (40,)),), {}, _stable(referee)
        yield op, (m[0, :0],), {}, referee
    for k, largest in ((2, True), (4, True), (0, False), (1, False)):
        yield "topk", (m, k), {"largest": largest}, _topk
    yield "topk", (m, 2, 0), {}, _topk
    ordered, order = np.sort(m[0]), np.argsort(m[0])
    for side in ("left", "right"):
        yield "searchsorted", (ordered, m), {"side": side}, np.searchsorted
        yield "searchsorted", (m[0], m), {"side": side, "sorter": order}, np.searchsorted
    few = rng.integers(-3, 3, (3, 4))
    for x in (few, few * 0.5, few == 0, few[0, 0], few[:, :0]):
        yield "unique_all", (np.asarray(x),), {}, _unique_all
        yield "unique_counts", (np.asarray(x),), {}, np.unique_counts
        yield "unique_inverse", (np.asarray(x),), {}, np.unique_inverse
        yield "unique_values", (np.asarray(x),), {}, lambda a: np.unique_all(a).values
        yield "unique", (np.asarray(x),), {}, np.unique
    yield "unique_all", (np.array([NAN, 0.0, NAN, -0.0]),), {}, _unique_all
    yield "unique", (few,), {"size": 2}, lambda a, size: np.unique(a)[:size]
    yield "unique", (few,), {"size": 9, "fill_value": 7}, _unique_filled
    yield "unique", (few * 1.0,), {"size": 9}, _unique_filled
    yield "unique", (few[:0],), {"size": 2, "fill_value": 7}, _unique_filled
    for invert in (False, True):
        yield "isin", (few, np.array([[1, 2]])), {"invert": invert}, np.isin
        yield "isin", (few, np.zeros((0,), int)), {"invert": invert}, np.isin
    yield "isin", (np.array([NAN, 0.0, 1.0]), np.array([NAN, -0.0])), {}, np.isin
    yield "isin", (few, 2), {}, np.isin
    for size in (0, 3, 40):
        yield "nonzero", (few,), {"size": size, "fill_value": (7, 8)}, _nonzero
        yield "flatnonzero", (few,), {"size": size}, lambda a, size: _nonzero(a.ravel(), size)[0]
        yield "argwhere", (few,), {"size": size}, lambda a, size: np.stack(_nonzero(a, size), -1)
    yield "flatnonzero", (few,), {}, np.flatnonzero
    yield "argwhere", (few,), {}, np.argwhere


def _topk(x: np.ndarray, k: int, axis: int = -1, largest: bool = True) -> tuple[Any, ...]:
    order = argtopk(x, k=k, axis=axis % x.ndim, largest=largest)
    return np.take_along_axis(x, order, axis), order


def _unique_all(x: np.ndarray) -> tuple[Any, ...]:
    values, first, inverse, counts = np.unique(x, True, True, True, equal_nan=False)
    return values, first, inverse.reshape(x.shape), counts


def _unique_filled(x: np.ndarray, size: int, fill_value: Any = None) -> np.ndarray:
    values = np.unique(x)[:size]
    fill = values[0] if fill_value is None else fill_value
    return np.concatenate([values, np.full(size - len(values), fill, x.dtype)])


def _nonzero(x: np.ndarray, size: int, fill_value: Any = (0, 0)) -> tuple[Any, ...]:
    found = [index[:size] for index in np.nonzero(x)]
    return tuple(
        np.concatenate([index, np.full(size - len(index), fill, "int64")])
        for index, fill in zip(found, fill_value)
    )


def _stable(referee: Any) -> Any:
    return lambda x: referee(x, kind="stable")
