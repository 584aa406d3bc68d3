"""The gradient of the mean cross-entropy of 4096 rows of 1000 logits, by the logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.timing import peer
from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

ROWS, CLASSES = 4096, 1000

TITLE = "softmax-cross-entropy gradient, 4096x1000"
TOLERANCE = 1e-5
TRAFFIC = 2 * 4 * ROWS * CLASSES


def data() -> list[np.ndarray]:
    """Logits, and a class for each row."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (ROWS, CLASSES)).astype("float32")
    return [logits, draw.integers(0, CLASSES, ROWS)]


def mean_cross_entropy(xp: Any, logsumexp: Any) -> Any:
    """For libraries without a cross-entropy: picked by an index each row, as their users write."""

    def loss(logits: Any, labels: Any) -> Any:
        picked = logits[xp.arange(len(labels)), labels]
        return xp.mean(logsumexp(logits, axis=-1) - picked)

    return loss


def _numpy(logits: Any, labels: Any) -> Any:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True) * ROWS
    p[np.arange(ROWS), labels] -= np.float32(1 / ROWS)
    return p


def _torch(torch: Any) -> Any:
    def gradient(logits: Any, labels: Any) -> Any:
        leaf = logits.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, labels)
        return torch.autograd.grad(loss, leaf)[0]

    return gradient


def contenders() -> dict[str, Make]:
    """All that differentiate, and NumPy by hand."""
    return pure(
        data,
        TRAFFIC,
        stagekit=lambda sk: sk.grad(sk.nn.functional.cross_entropy),
        torch=_torch,
        torch_compile=lambda torch: torch.func.grad(torch.nn.functional.cross_entropy),
        jax=lambda jax: jax.grad(mean_cross_entropy(jax.numpy, jax.nn.logsumexp)),
        numpy=lambda np: _numpy,
        autograd=lambda autograd: autograd.grad(
            mean_cross_entropy(peer("autograd.numpy"), peer("autograd.scipy.special").logsumexp)
        ),
    )
