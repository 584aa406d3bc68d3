"""What a call costs: the sum of two vectors of ten elements."""

from __future__ import annotations

import numpy as np

from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

TITLE = "one op: add of two 10-vectors"
TOLERANCE = 0.0


def data() -> list[np.ndarray]:
    """The two vectors."""
    return [np.arange(10, dtype="float32"), np.ones(10, "float32")]


def contenders() -> dict[str, Make]:
    """All but numexpr, which is made for large arrays."""
    add = lambda library: lambda x, y: x + y
    return pure(data, stagekit=add, torch=add, jax=add, numpy=add)
