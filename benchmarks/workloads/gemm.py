"""A product of two 1024 x 1024 matrices, where staging should gain nothing.

And ours followed by bias and gelu, which should cost at most 15 % more than the product alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

N = 1024

TITLE = "matrix product, 1024"
TOLERANCE = 1e-5


def data() -> list[np.ndarray]:
    """The two matrices."""
    draw = np.random.default_rng(0)
    return [draw.standard_normal((N, N)).astype("float32") for _ in range(2)]


def epilogue(sk: Any) -> Any:
    """The product, then gelu of it and a bias."""
    bias = sk.asarray(np.random.default_rng(1).standard_normal(N).astype("float32"))
    return lambda x, y: sk.nn.functional.gelu(x @ y + bias, approximate="tanh")


def contenders() -> dict[str, Make]:
    """All, and `stagekit epilogue`."""
    product = lambda library: lambda x, y: x @ y
    found = pure(data, stagekit=product, torch=product, jax=product, numpy=product)
    return found | {"stagekit epilogue": pure(data, stagekit=epilogue)["stagekit"]}
