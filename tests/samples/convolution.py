"""Samples of convolution, windows and fold: steps, padding, holes, groups, sizes 0 and 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stagekit.op import OPS
from stagekit.types import DTYPES
from tests.samples.base import (
    ALL,
    FLOATS,
    INF,
    NAN,
    Sample,
    accepts,
    generator,
    laid_out,
    random,
    special_values,
)

# (input, kernel, offset, extent, stride, spacing, dilation, groups)
_CONVOLVED: list[tuple[Any, ...]] = [
    ((2, 3, 5), (4, 3, 3), (-1,), (5,), (1,), (1,), (1,), 1),
    ((1, 2, 4, 5), (2, 2, 2, 3), (0, -1), (2, 3), (2, 2), (1, 1), (1, 1), 1),
    ((2, 4, 5), (6, 2, 2), (1,), (2,), (1,), (2,), (1,), 2),
    ((1, 2, 3), (2, 1, 3), (-2,), (7,), (1,), (1,), (2,), 2),
    ((1, 1, 3), (1, 1, 4), (-5,), (6,), (3,), (2,), (4,), 1),
    ((1, 2, 2), (1, 2, 6), (-3,), (2,), (1,), (1,), (1,), 1),
    ((1, 1, 2, 2, 2), (2, 1, 2, 1, 2), (0, 0, 0), (1, 2, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    ((2, 3), (4, 3), (), (), (), (), (), 1),
    ((0, 2, 3), (1, 2, 2), (0,), (2,), (1,), (1,), (1,), 1),
    ((1, 0, 3), (2, 0, 2), (0,), (2,), (1,), (1,), (1,), 1),
    ((1, 1, 0), (1, 1, 2), (-2,), (3,), (1,), (1,), (1,), 1),
    ((1, 1, 3), (1, 1, 0), (0,), (2,), (1,), (1,), (1,), 1),
    ((1, 1, 3), (2, 1, 2), (7,), (2,), (1,), (1,), (1,), 1),
]
_NAMES = ("offset", "extent", "stride", "spacing", "dilation", "groups")


@generator("convolution")
def _convolution(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, kernel, *steps in _CONVOLVED:
        args = (random(rng, "float64", shape), random(rng, "float64", kernel))
        yield Sample(name, args, dict(zip(_NAMES, steps)), True, f"shapes {shape} {kernel}")
    shape, kernel, *steps = _CONVOLVED[0]
    attrs = dict(zip(_NAMES, steps))
    for kind in [t for t in ALL if accepts(OPS[name], [DTYPES[t]] * 2)]:
        args = (random(rng, kind, shape), random(rng, kind, kernel))
        yield Sample(name, args, attrs, False, kind)
    for kind in FLOATS:
        x = np.resize(np.array([1, INF, 0, NAN, -0.0, -INF, 2], kind), (2, 3, 5))
        y = np.resize(np.array([0.5, 1, INF, -2, 0, 3, 1], kind), (4, 3, 3))
        yield Sample(name, (x, y), attrs, False, f"special {kind}")
    for (layout, x), (_, y) in zip(
        laid_out(random(rng, "float32", shape)), laid_out(random(rng, "float32", kernel))
    ):
        yield Sample(name, (x, y), attrs, False, layout)
    args = (random(rng, "float32", (1, 1, 9)), random(rng, "float32", (2, 1, 30)))
    steps = [(-25,), (3,), (2,), (1,), (1,), 1]
    yield Sample(name, args, dict(zip(_NAMES, steps)), False, "long kernel")
    mixed = (random(rng, "int8", shape), random(rng, "float16", kernel))
    yield Sample(name, mixed, attrs, False, "int8 with float16")


@generator("windows", "fold")
def _windows(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    # (lead, size, extent, window, stride, spacing)
    cases: list[tuple[Any, ...]] = [
        ((2,), (5,), (3,), (3,), (1,), (1,)),
        ((), (4, 6), (2, 2), (2, 2), (2, 3), (1, 2)),
        ((2, 1), (7,), (2,), (3,), (2,), (2,)),
        ((3,), (), (), (), (), ()),
        ((), (), (), (), (), ()),
        ((0,), (3,), (2,), (2,), (1,), (1,)),
        ((2,), (3,), (0,), (2,), (1,), (1,)),
        ((2,), (3,), (2,), (0,), (1,), (1,)),
        ((1,), (40,), (21,), (20,), (1,), (1,)),
        ((1,), (40,), (3,), (30,), (5,), (1,)),
    ]
    for lead, size, extent, window, stride, spacing in cases:
        steps = {"extent": extent, "stride": stride, "spacing": spacing}
        shape, attrs = (*lead, *size), steps | {"window": window}
        if name == "fold":
            shape, attrs = (*lead, *extent, *window), steps | {"extent": size}
        x = random(rng, "float64", shape)
        yield Sample(name, (x,), attrs, x.size < 100, f"shape {shape}")
        if (lead, size) == ((2,), (5,)):
            for kind in [t for t in ALL if accepts(OPS[name], [DTYPES[t]])]:
                yield Sample(name, (random(rng, kind, shape),), attrs, False, kind)
            for layout, laid in laid_out(random(rng, "float32", shape)):
                yield Sample(name, (laid,), attrs, False, layout)
            special = np.resize(special_values("float32"), shape)
            yield Sample(name, (special,), attrs, False, "special")
        if x.size > 300:
            yield Sample(name, (random(rng, "float32", shape, 0.9),), attrs, False, "overlaps")
            yield Sample(name, (random(rng, "float16", shape, 0.9),), attrs, False, "overlaps")
