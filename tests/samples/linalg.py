"""Samples of the decompositions of matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.samples.base import FLOATS, LAYOUTS, Sample, generator, random


def symmetric(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices of which eigenvalues are apart: 1, 2, ... and a little noise."""
    x = random(rng, kind, shape, -0.2, 0.2)
    return x + np.swapaxes(x, -1, -2) + np.diag(np.arange(shape[-1], dtype=kind))


@generator("eigh")
def _eigh(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in FLOATS:
        yield Sample(name, (symmetric(rng, kind, (2, 3, 3)),), {}, False, kind)
    for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 0), (0, 2, 2)):
        x = symmetric(rng, "float64", shape)
        yield Sample(name, (x,), {}, True, f"shape {shape}")
    for layout, lay in LAYOUTS.items():
        yield Sample(name, (lay(symmetric(rng, "float32", (3, 3))),), {}, False, layout)
