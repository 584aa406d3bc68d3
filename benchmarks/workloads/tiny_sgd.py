"""Linear regression of 32 examples of 10 features: an SGD step that is all overhead."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.timing import peer
from benchmarks.workloads import Make
from benchmarks.workloads.training import Loss, Task, training

BATCH, FEATURES = 32, 10

TITLE = "linear regression 32x10, SGD step"
TOLERANCE = 1e-5


def parameters() -> list[np.ndarray]:
    """Weight and bias."""
    weight = np.random.default_rng(0).standard_normal((FEATURES, 1)).astype("float32")
    return [weight, np.zeros(1, "float32")]


def batch() -> list[np.ndarray]:
    """Examples and their targets."""
    draw = np.random.default_rng(1)
    return [draw.standard_normal((BATCH, n)).astype("float32") for n in (FEATURES, 1)]


def loss(xp: Any) -> Loss:
    """The mean square, in functions that all the libraries spell alike."""

    def mean_square(parameters: Any, x: Any, y: Any) -> Any:
        weight, bias = parameters
        return xp.mean(xp.square(x @ weight + bias - y))

    return mean_square


def _numpy(np: Any) -> Loss:
    def both(parameters: Any, x: Any, y: Any) -> Any:
        weight, bias = parameters
        apart = x @ weight + bias - y
        slope = apart * np.float32(2 / BATCH)
        return np.vdot(apart, apart) / BATCH, [x.T @ slope, slope.sum(axis=0)]

    return both


def contenders() -> dict[str, Make]:
    """All that differentiate, and NumPy by hand."""
    return training(
        Task(parameters, batch, adam=False),
        stagekit=loss,
        torch=loss,
        jax=lambda jax: loss(jax.numpy),
        autograd=lambda autograd: loss(peer("autograd.numpy")),
        numpy=_numpy,
    )
