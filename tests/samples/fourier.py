"""Samples of the Fourier transforms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.samples.base import COMPLEX, FLOATS, Sample, generator, laid_out, random

_SHAPES = [((4,), 0), ((5,), 0), ((1,), 0), ((2, 6, 3), 1), ((0, 4), 1), ((3, 2), 1)]


@generator("dft")
def _dft(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for inverse in (False, True):
        for shape, axis in _SHAPES:
            attrs = {"axis": axis, "inverse": inverse}
            yield Sample(name, (random(rng, "complex128", shape),), attrs, True, f"{shape}")
        attrs = {"axis": 0, "inverse": inverse}
        for kind in (*COMPLEX, *FLOATS, "int8"):
            yield Sample(name, (random(rng, kind, (6, 2)),), attrs, False, kind)
        for layout, x in laid_out(random(rng, "complex64", (3, 4))):
            yield Sample(name, (x,), attrs, False, layout)


@generator("rdft")
def _rdft(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in _SHAPES:
        yield Sample(name, (random(rng, "float64", shape),), {"axis": axis}, True, f"{shape}")
    for kind in (*FLOATS, "int8"):
        yield Sample(name, (random(rng, kind, (6, 2)),), {"axis": 0}, False, kind)
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x,), {"axis": 0}, False, layout)


@generator("irdft")
def _irdft(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in _SHAPES:
        for size in (2 * shape[axis] - 2, 2 * shape[axis] - 1):
            if size > 0:
                attrs = {"axis": axis, "size": size}
                yield Sample(name, (random(rng, "complex128", shape),), attrs, True, f"{shape}")
    for kind in (*COMPLEX, "float32"):
        args = (random(rng, kind, (4, 2)),)
        yield Sample(name, args, {"axis": 0, "size": 7}, False, kind)
    for layout, x in laid_out(random(rng, "complex64", (3, 4))):
        yield Sample(name, (x,), {"axis": 0, "size": 4}, False, layout)
