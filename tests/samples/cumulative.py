"""Samples of running folds and differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stagekit.op import OPS
from stagekit.types import DTYPES, dtype
from tests.samples.base import (
    ALL,
    FLOATS,
    Sample,
    accepts,
    generator,
    laid_out,
    numpys,
    random,
    rows,
    special_values,
)

_SHAPES = [((5,), 0), ((2, 4), 1), ((3, 2), 0), ((2, 3, 2), 1), ((0, 3), 1), ((3, 0), 1), ((1,), 0)]


@generator("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min")
def _cumulative(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in _SHAPES:
        x = random(rng, "float64", shape)
        yield Sample(name, (x,), {"axis": axis}, True, f"shape {shape}")
    for kind in [t for t in ALL if accepts(OPS[name], [DTYPES[t]])]:
        extreme = np.resize(special_values(kind), (6, 5))
        for axis in (0, 1):
            yield Sample(name, (random(rng, kind, (3, 4)),), {"axis": axis}, False, kind)
            yield Sample(name, (extreme,), {"axis": axis}, False, f"special {kind}")
    for layout, x in laid_out(random(rng, "float32", (5, 4))):
        for axis in (0, 1):
            yield Sample(name, (x,), {"axis": axis}, False, layout)
    for kind in FLOATS:
        tall = random(rng, kind, (90, 2), 0.99, 1.01)
        yield Sample(name, (tall,), {"axis": 0}, False, f"long {kind}")
    ties = np.array([[0.0, 0.0, -1.0, 0.0], [2.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 0.0]])
    smooth = name in ("cumulative_sum", "cumulative_prod")
    yield Sample(name, (ties,), {"axis": 1}, smooth, "kink")


@generator("recurrence")
def _recurrence(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in _SHAPES:
        pair = (random(rng, "float64", shape), random(rng, "float64", shape))
        yield Sample(name, pair, {"axis": axis}, True, f"shape {shape}")
    for kind in FLOATS:
        pair = (random(rng, kind, (2, 9), -1, 1), random(rng, kind, (2, 9)))
        yield Sample(name, pair, {"axis": 1}, False, kind)
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, x), {"axis": 0}, False, layout)
    zeros = np.array([2.0, 0.0, 0.0, 3.0])
    yield Sample(name, (zeros, zeros + 1), {"axis": 0}, True, "zeros")


@rows
def _rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    m, k = random(rng, "float32", (3, 4)), random(rng, "int8", (3, 4))
    b = random(rng, "bool", (3, 4))
    for op, referee in (
        ("cumulative_sum", np.cumulative_sum),
        ("cumulative_prod", np.cumulative_prod),
    ):
        for keywords in ({"axis": 0}, {"axis": -1, "include_initial": True}):
            for x in (m, k, k.astype("uint8"), b):
                yield op, (x,), keywords, referee
        yield op, (m[0],), {}, referee
        yield op, (m[0, :0],), {"include_initial": True}, referee
        yield op, (m,), {"axis": 1, "dtype": dtype("float64")}, numpys(referee)
    for op, ufunc in (("cumulative_max", np.maximum), ("cumulative_min", np.minimum)):
        for x in (m, k, b):
            yield op, (x,), {"axis": 1}, ufunc.accumulate
        yield op, (m[0],), {}, ufunc.accumulate
    for x in (m, k, b):
        for keywords in ({}, {"axis": 0}, {"n": 2}, {"n": 0}, {"n": 5}, {"prepend": x[:, :1]}):
            yield "diff", (x,), keywords, _diff
    yield "diff", (m[0],), {"prepend": 1.5, "append": 2.5}, _diff


def _diff(x: Any, **keywords: Any) -> Any:
    """In the type of the narrow operand, which `expected` widens."""
    return np.diff(x, **keywords)
