"""Multi-layer perceptrons as classifiers: the parts of the workloads with one.

Each library's mean cross-entropy is its own where it has one; NumPy's gradient is by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.timing import peer
from benchmarks.workloads import Make
from benchmarks.workloads.softmax_xent import mean_cross_entropy
from benchmarks.workloads.training import Loss, Task, training


def parameters(sizes: Sequence[int]) -> list[np.ndarray]:
    """A weight and a bias for each layer."""
    draw, found = np.random.default_rng(0), []
    for n, m in pairwise(sizes):
        found += [draw.normal(0, n**-0.5, (n, m)).astype("float32"), np.zeros(m, "float32")]
    return found


def batch(rows: int, features: int, classes: int) -> list[np.ndarray]:
    """Examples and their classes."""
    draw = np.random.default_rng(1)
    x = draw.standard_normal((rows, features)).astype("float32")
    return [x, draw.integers(0, classes, rows)]


def loss(
    layer: Callable[..., Any], active: Callable[..., Any], cross_entropy: Callable[..., Any]
) -> Loss:
    """Of the logits of a network, given a layer (of x, weight and bias) and its activation."""

    def of(parameters: Any, x: Any, labels: Any) -> Any:
        *hidden, last = zip(parameters[::2], parameters[1::2])
        for weight, bias in hidden:
            x = active(layer(x, weight, bias))
        return cross_entropy(layer(x, *last), labels)

    return of


def _layer(x: Any, weight: Any, bias: Any) -> Any:
    return x @ weight + bias


def _by_hand(active: Any, slope: Any) -> Loss:
    """The loss and its gradients; `slope` is the activation's, given what the activation gave."""

    def both(parameters: Any, x: Any, labels: Any) -> Any:
        weights, biases, kept = parameters[::2], parameters[1::2], [x]
        for weight, bias in zip(weights[:-1], biases[:-1]):
            kept.append(active(kept[-1] @ weight + bias))
        logits, rows = kept[-1] @ weights[-1] + biases[-1], np.arange(len(labels))
        logits -= logits.max(axis=1, keepdims=True)
        e = np.exp(logits)
        total = e.sum(axis=1, keepdims=True)
        value = np.mean(np.log(total[:, 0]) - logits[rows, labels])
        g = e / total
        g[rows, labels] -= 1
        g /= np.float32(len(labels))
        gradients = []
        for k in reversed(range(len(weights))):
            gradients += [g.sum(axis=0), kept[k].T @ g]
            if k:
                g = (g @ weights[k].T) * slope(kept[k])
        return value, gradients[::-1]

    return both


def contenders(sizes: Sequence[int], rows: int, adam: bool, activation: str) -> dict[str, Make]:
    """All that differentiate, and NumPy by hand; the activation is relu or tanh."""
    tanh = activation == "tanh"

    def torchs(torch: Any) -> Loss:
        layer = lambda x, weight, bias: torch.addmm(bias, x, weight)
        active = torch.tanh if tanh else torch.relu
        return loss(layer, active, torch.nn.functional.cross_entropy)

    def jaxs(jax: Any) -> Loss:
        active = jax.numpy.tanh if tanh else jax.nn.relu
        return loss(_layer, active, mean_cross_entropy(jax.numpy, jax.nn.logsumexp))

    def autograds(autograd: Any) -> Loss:
        anp = peer("autograd.numpy")
        logsumexp = peer("autograd.scipy.special").logsumexp
        active = anp.tanh if tanh else lambda x: anp.maximum(x, 0)
        return loss(_layer, active, mean_cross_entropy(anp, logsumexp))

    relu, step = (lambda x: np.maximum(x, 0)), (lambda h: h > 0)
    return training(
        Task(lambda: parameters(sizes), lambda: batch(rows, sizes[0], sizes[-1]), adam),
        stagekit=lambda sk: loss(
            _layer, sk.tanh if tanh else sk.nn.functional.relu, sk.nn.functional.cross_entropy
        ),
        torch=torchs,
        jax=jaxs,
        autograd=autograds,
        numpy=lambda np: _by_hand(np.tanh, lambda h: 1 - h * h) if tanh else _by_hand(relu, step),
    )
