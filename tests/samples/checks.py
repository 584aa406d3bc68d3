"""Samples of the ops that check values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.samples.base import INTEGERS, Sample, generator, laid_out


@generator("place")
def _place(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    attrs = {"size": 5, "what": "an index"}
    for kind in INTEGERS:
        yield Sample(name, (rng.integers(0, 5, (2, 3)).astype(kind),), attrs, False, kind)
    for x in (np.array(4), np.zeros((0, 2), "int64"), rng.integers(0, 5, 4)):
        yield Sample(name, (x,), attrs, False, f"shape {x.shape}")
    for layout, x in laid_out(rng.integers(0, 5, (3, 4))):
        yield Sample(name, (x,), attrs, False, layout)
