"""Samples of polygamma, and calls of elementwise functions made of ops, with their referees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from tests.samples.base import FLOATS, INF, NAN, Sample, generator, laid_out, random, rows


@generator("polygamma")
def _polygamma(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for n in range(4):
        for shape in ((3,), (), (0, 2)):
            x = random(rng, "float64", shape, 0.4, 3)
            yield Sample(name, (x,), {"n": n}, True, f"shape {shape}")
        for kind in FLOATS:
            yield Sample(name, (random(rng, kind, 30, 0.1, 50),), {"n": n}, False, kind)
            special = np.array([0.0, -0.0, 1.0, 2.5, 100.0, INF, -INF, NAN, -1.0, -7.0], kind)
            yield Sample(name, (special,), {"n": n}, False, f"special {kind}")
    for layout, x in laid_out(random(rng, "float32", (3, 4), 1, 9)):
        yield Sample(name, (x,), {"n": 1}, False, layout)
    yield Sample(name, (np.array([1, 2, 9], "int8"),), {"n": 0}, False, "integers")


@rows
def _rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x, y = random(rng, "float32", (3, 4)), random(rng, "float32", (3, 4), 0.1, 3)
    odd = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0], "float32")
    yield "digamma", (np.concatenate([x, y]),), {}, scipy.special.digamma
    for n in range(4):
        yield "polygamma", (n, y), {}, scipy.special.polygamma
    share = np.linspace(0, 1, 41, dtype="float32")
    yield "logit", (share,), {}, scipy.special.logit
    yield "logit", (odd,), {}, scipy.special.logit
    yield "xlogy", (odd[:, None], odd), {}, scipy.special.xlogy
    yield "xlogy", (x, y), {}, scipy.special.xlogy
    yield "sinc", (np.linspace(-3, 3, 50, dtype="float32"),), {}, np.sinc
    yield "deg2rad", (x * 90,), {}, np.deg2rad
    yield "rad2deg", (x,), {}, np.rad2deg
    yield "nan_to_num", (odd,), {"posinf": 7.0, "neginf": -7.0, "nan": 2.0}, np.nan_to_num
    yield "nan_to_num", (np.arange(3),), {}, np.nan_to_num
    for equal_nan in (False, True):
        yield "isclose", (odd[:, None], odd), {"equal_nan": equal_nan}, np.isclose
        yield "allclose", (odd, odd), {"equal_nan": equal_nan}, np.allclose
        yield "array_equal", (odd, odd), {"equal_nan": equal_nan}, np.array_equal
    yield "isclose", (x, x + 0.01), {"rtol": 0.01, "atol": 0.001}, np.isclose
    yield "array_equal", (x, x[0]), {}, np.array_equal
    yield "array_equal", (x, x), {}, np.array_equal
