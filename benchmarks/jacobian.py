"""The Jacobian of an MLP with 100 results: the gradients of all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

import stagekit as sk
from benchmarks.timing import Comparison, goal, interleave, peer, ratio

SIZES = (64, 128, 128, 100)


def network(xp: Any, weights: list[Any], x: Any) -> Any:
    """A tanh network of one example."""
    for w in weights[:-1]:
        x = xp.tanh(xp.matmul(x, w))
    return xp.matmul(x, weights[-1])


def _arrays() -> tuple[list[Any], Any]:
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, n**-0.5, (n, m)).astype("f") for n, m in pairwise(SIZES)]
    return weights, rng.normal(0, 1, SIZES[0]).astype("f")


def _stagekit() -> dict[str, Callable[[], Any]]:
    arrays, array = _arrays()
    weights, x = [sk.asarray(w) for w in arrays], sk.asarray(array)
    gradient = sk.grad(lambda x: sk.sum(network(sk, weights, x)))
    jacobian = sk.jacobian(lambda x: network(sk, weights, x), mode="rev")
    forward = sk.jacobian(lambda x: network(sk, weights, x), mode="fwd")
    staged = sk.function(jacobian)
    return {
        "stagekit, one gradient": lambda: gradient(x),
        "stagekit, reverse": lambda: jacobian(x),
        "stagekit, forward": lambda: forward(x),
        "stagekit, staged": lambda: staged(x),
    }


def _jax() -> dict[str, Callable[[], Any]]:
    jax = peer("jax")
    if not jax:
        return {}
    arrays, array = _arrays()
    weights, x = [jax.numpy.asarray(w) for w in arrays], jax.numpy.asarray(array)
    jacobian = jax.jit(jax.jacrev(lambda x: network(jax.numpy, weights, x)))
    return {"jax jit": lambda: jacobian(x).block_until_ready()}


def _torch() -> dict[str, Callable[[], Any]]:
    torch = peer("torch")
    if not torch:
        return {}
    torch.set_num_threads(1)
    arrays, array = _arrays()
    weights, x = [torch.tensor(w) for w in arrays], torch.tensor(array)
    jacobian = torch.func.jacrev(lambda x: network(torch, weights, x))
    return {"torch eager": lambda: jacobian(x)}


def compare() -> Iterator[Comparison]:
    """All that are installed, after a check that they agree."""
    runs = {**_stagekit(), **_torch(), **_jax()}
    expected = np.asarray(runs["stagekit, reverse"]())
    for name, run in runs.items():
        if name != "stagekit, one gradient":
            np.testing.assert_allclose(expected, np.asarray(run()), rtol=1e-3, atol=1e-5)
    found = Comparison("Jacobian of an MLP of 100 results", interleave(runs))
    value = ratio(found["stagekit, reverse"], found["stagekit, one gradient"])
    wish = goal("within 5 x of one gradient", value, 5.0)
    yield Comparison(found.title, found.timings, [wish])
