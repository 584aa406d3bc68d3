"""An SGD step on a GRU (Cho et al. 2014, as cuDNN and torch have it) unrolled over 64 tokens.

Batch 32, 64 features, 128 hidden; the loss is the mean square of the last state to a target. torch
has its own GRU, and its compiler is given the cell (it takes minutes for the whole step); JAX loops
by lax.scan, which is faster than unrolled and compiles sooner; the others unroll a Python loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.timing import peer
from benchmarks.workloads import Make
from benchmarks.workloads.training import Loss, Task, training

BATCH, TOKENS, FEATURES, HIDDEN = 32, 64, 64, 128

TITLE = "GRU, 64 tokens unrolled, batch 32, SGD step"
TOLERANCE = 1e-5


def parameters() -> list[np.ndarray]:
    """Weights and biases of input and state, for reset, update and candidate side by side."""
    draw, width = np.random.default_rng(0), HIDDEN**-0.5
    shapes = ((FEATURES, 3 * HIDDEN), (3 * HIDDEN,), (HIDDEN, 3 * HIDDEN), (3 * HIDDEN,))
    return [draw.uniform(-width, width, shape).astype("float32") for shape in shapes]


def batch() -> list[np.ndarray]:
    """Tokens first, and a target for the last state."""
    draw = np.random.default_rng(1)
    shapes = (TOKENS, BATCH, FEATURES), (BATCH, HIDDEN)
    return [draw.standard_normal(shape).astype("float32") for shape in shapes]


def cell(xp: Any, sigmoid: Any) -> Any:
    """The next state, given the input's part of the gates: it needs no earlier state."""

    def step(h: Any, gates: Any, weight: Any, bias: Any) -> Any:
        own, n = h @ weight + bias, HIDDEN
        reset = sigmoid(gates[:, :n] + own[:, :n])
        update = sigmoid(gates[:, n : 2 * n] + own[:, n : 2 * n])
        candidate = xp.tanh(gates[:, 2 * n :] + reset * own[:, 2 * n :])
        return candidate + update * (h - candidate)

    return step


def unrolled(xp: Any, sigmoid: Any, wrap: Any = lambda f: f) -> Loss:
    """The loss by a Python loop, in functions that all the libraries spell alike."""
    step = wrap(cell(xp, sigmoid))

    def loss(parameters: Any, x: Any, target: Any) -> Any:
        weight, bias, own, own_bias = parameters
        gates, h = x @ weight + bias, target * 0
        for t in range(TOKENS):
            h = step(h, gates[t], own, own_bias)
        return xp.mean(xp.square(h - target))

    return loss


def _torch(torch: Any) -> Loss:
    """torch's own GRU, whose weights are transposed."""

    def loss(parameters: Any, x: Any, target: Any) -> Any:
        weight, bias, own, own_bias = parameters
        flat = [weight.T, own.T, bias, own_bias]
        start = torch.zeros((1, BATCH, HIDDEN))
        last = torch.gru(x, start, flat, True, 1, 0.0, True, False, False)[1][0]
        return torch.mean(torch.square(last - target))

    return loss


def _torch_parts(torch: Any) -> Loss:
    return unrolled(torch, torch.sigmoid, torch.compile)


def _jax(jax: Any) -> Loss:
    jnp = jax.numpy
    step = cell(jnp, jax.nn.sigmoid)

    def loss(parameters: Any, x: Any, target: Any) -> Any:
        weight, bias, own, own_bias = parameters
        body = lambda h, gates: (step(h, gates, own, own_bias), None)
        h, _ = jax.lax.scan(body, jnp.zeros_like(target), x @ weight + bias)
        return jnp.mean(jnp.square(h - target))

    return loss


def _autograd(autograd: Any) -> Loss:
    anp = peer("autograd.numpy")
    return unrolled(anp, lambda x: 1 / (1 + anp.exp(-x)))


def contenders() -> dict[str, Make]:
    """All that differentiate."""
    return training(
        Task(parameters, batch, adam=False),
        stagekit=lambda sk: unrolled(sk, sk.sigmoid),
        torch=_torch,
        torch_parts=_torch_parts,
        jax=_jax,
        autograd=_autograd,
    )
