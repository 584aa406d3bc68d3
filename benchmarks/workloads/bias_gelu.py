"""gelu(x + bias) by tanh (Hendrycks and Gimpel 2016) of 4096 x 1024: elementwise, broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

SHAPE = (4096, 1024)
SLOPE, CUBE = (2 / np.pi) ** 0.5, 0.044715

TITLE = "bias + gelu, 4096x1024"
TOLERANCE = 1e-6
TRAFFIC = 2 * 4 * SHAPE[0] * SHAPE[1]


def data() -> list[np.ndarray]:
    """The matrix and a bias for each column."""
    draw = np.random.default_rng(0)
    return [draw.standard_normal(shape).astype("float32") for shape in (SHAPE, SHAPE[1:])]


def _numpy(x: Any, bias: Any) -> Any:
    x = x + bias
    return 0.5 * x * (1 + np.tanh(SLOPE * (x + CUBE * x * x * x)))


def _numexpr(numexpr: Any) -> Any:
    """Its constants are given as float32: a literal would make all float64."""
    constants = {"half": 0.5, "one": 1, "slope": SLOPE, "cube": CUBE}
    known = {name: np.float32(value) for name, value in constants.items()}
    text = "half * (x+b) * (one + tanh(slope * ((x+b) + cube * (x+b) * (x+b) * (x+b))))"
    return lambda x, bias: numexpr.evaluate(text, {"x": x, "b": bias, **known})


def contenders() -> dict[str, Make]:
    """All, each with its own gelu where it has one."""
    return pure(
        data,
        TRAFFIC,
        stagekit=lambda sk: lambda x, b: sk.nn.functional.gelu(x + b, approximate="tanh"),
        torch=lambda torch: lambda x, b: torch.nn.functional.gelu(x + b, approximate="tanh"),
        jax=lambda jax: lambda x, b: jax.nn.gelu(x + b, approximate=True),
        numpy=lambda np: _numpy,
        numexpr=_numexpr,
    )
