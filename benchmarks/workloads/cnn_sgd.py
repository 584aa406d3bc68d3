"""An SGD step on a network like LeNet, 64 images of 28x28: two convolutions of 3x3, each pooled.

28x28 -> 16 channels, relu, max of 2x2 -> 32 channels, relu, max of 2x2 -> 128, relu -> 10 classes.
NumPy and HIPS autograd have no convolution, and are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads import Make
from benchmarks.workloads.softmax_xent import mean_cross_entropy
from benchmarks.workloads.training import Loss, Task, training

BATCH, SIZE, CHANNELS, HIDDEN, CLASSES = 64, 28, (1, 16, 32), 128, 10

TITLE = "LeNet-like CNN, batch 64, SGD step"
TOLERANCE = 1e-4


def parameters() -> list[np.ndarray]:
    """A weight and a bias for each layer."""
    a, b, c = CHANNELS
    flat = c * (SIZE // 4) ** 2
    shapes = ((b, a, 3, 3), (c, b, 3, 3), (flat, HIDDEN), (HIDDEN, CLASSES))
    inputs = (9 * a, 9 * b, flat, HIDDEN)
    draw, found = np.random.default_rng(0), []
    for shape, n, m in zip(shapes, inputs, (b, c, HIDDEN, CLASSES)):
        found += [draw.normal(0, (2 / n) ** 0.5, shape).astype("float32"), np.zeros(m, "float32")]
    return found


def batch() -> list[np.ndarray]:
    """Images and their classes."""
    draw = np.random.default_rng(1)
    images = draw.standard_normal((BATCH, CHANNELS[0], SIZE, SIZE)).astype("float32")
    return [images, draw.integers(0, CLASSES, BATCH)]


def network(functional: Any, product: Any) -> Loss:
    """The loss, where there are functions of torch's names; `product` is x @ weight + bias."""
    F = functional

    def loss(parameters: Any, x: Any, labels: Any) -> Any:
        w1, b1, w2, b2, w3, b3, w4, b4 = parameters
        x = F.max_pool2d(F.relu(F.conv2d(x, w1, b1, padding=1)), 2)
        x = F.max_pool2d(F.relu(F.conv2d(x, w2, b2, padding=1)), 2)
        x = F.relu(product(x.reshape((BATCH, -1)), w3, b3))
        return F.cross_entropy(product(x, w4, b4), labels)

    return loss


def _jax(jax: Any) -> Loss:
    jnp, lax = jax.numpy, jax.lax
    cross_entropy = mean_cross_entropy(jnp, jax.nn.logsumexp)

    def layer(x: Any, weight: Any, bias: Any) -> Any:
        x = lax.conv_general_dilated(x, weight, (1, 1), "SAME") + bias[:, None, None]
        window = (1, 1, 2, 2)
        return lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, window, window, "VALID")

    def loss(parameters: Any, x: Any, labels: Any) -> Any:
        w1, b1, w2, b2, w3, b3, w4, b4 = parameters
        x = layer(layer(x, w1, b1), w2, b2).reshape((BATCH, -1))
        return cross_entropy(jax.nn.relu(x @ w3 + b3) @ w4 + b4, labels)

    return loss


def contenders() -> dict[str, Make]:
    """All that have a convolution."""
    return training(
        Task(parameters, batch, adam=False),
        stagekit=lambda sk: network(sk.nn.functional, lambda x, w, b: x @ w + b),
        torch=lambda torch: network(torch.nn.functional, lambda x, w, b: torch.addmm(b, x, w)),
        jax=_jax,
    )
