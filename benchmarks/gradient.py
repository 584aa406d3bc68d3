"""The gradient of a 3-layer MLP at batch 32: one loss function, four libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import stagekit as sk
from benchmarks.timing import Comparison, goal, interleave, peer, ratio

BATCH, SIZES = 32, (64, 128, 64, 10)


def loss(xp: Any, parameters: Sequence[Any], x: Any, hot: Any) -> Any:
    """Mean cross-entropy of a tanh network, in functions that all the libraries spell alike."""
    for k in range(0, len(parameters), 2):
        x = xp.matmul(x, parameters[k]) + parameters[k + 1]
        if k < len(parameters) - 2:
            x = xp.tanh(x)
    z = x - xp.log(xp.sum(xp.exp(x), axis=1, keepdims=True))
    return -xp.sum(z * hot) / BATCH


def _arrays() -> tuple[list[Any], Any, Any]:
    draw = np.random.default_rng(0)
    parameters: list[Any] = []
    for n, m in pairwise(SIZES):
        parameters += [draw.normal(0, n**-0.5, (n, m)).astype("f"), np.zeros(m, "f")]
    hot = np.eye(SIZES[-1], dtype="f")[draw.integers(0, SIZES[-1], BATCH)]
    return parameters, draw.normal(0, 1, (BATCH, SIZES[0])).astype("f"), hot


def _by_tape(parameters: list[Any], x: Any, hot: Any) -> list[Any]:
    with sk.GradientTape() as tape:
        tape.watch(parameters)
        value = loss(sk, parameters, x, hot)
    gradients: list[Any] = tape.gradient(value, parameters)
    return gradients


def _stagekit() -> dict[str, Callable[[], Any]]:
    arrays, x, hot = _arrays()
    parameters = [sk.asarray(p) for p in arrays]
    given = sk.asarray(x), sk.asarray(hot)
    staged = sk.function(_by_tape)
    return {
        "stagekit eager, by tape": lambda: _by_tape(parameters, *given),
        "stagekit staged": lambda: staged(parameters, *given),
    }


def _autograd() -> dict[str, Callable[[], Any]]:
    autograd, anp = peer("autograd"), peer("autograd.numpy")
    if not autograd:
        return {}
    parameters, x, hot = _arrays()
    gradient = autograd.grad(lambda parameters: loss(anp, parameters, x, hot))
    return {"HIPS autograd": lambda: gradient(parameters)}


def _torch() -> dict[str, Callable[[], Any]]:
    torch = peer("torch")
    if not torch:
        return {}
    torch.set_num_threads(1)
    arrays, x, hot = _arrays()
    parameters = [torch.tensor(p, requires_grad=True) for p in arrays]
    given = torch.tensor(x), torch.tensor(hot)
    return {
        "torch eager": lambda: torch.autograd.grad(loss(torch, parameters, *given), parameters)
    }


def _jax() -> dict[str, Callable[[], Any]]:
    jax = peer("jax")
    if not jax:
        return {}
    arrays, x, hot = _arrays()
    parameters = [jax.numpy.asarray(p) for p in arrays]
    gradient = jax.jit(jax.grad(lambda parameters: loss(jax.numpy, parameters, x, hot)))
    return {"jax jit": lambda: jax.block_until_ready(gradient(parameters))}


def compare() -> Iterator[Comparison]:
    """All that are installed, after a check that they agree."""
    runs = {**_stagekit(), **_autograd(), **_torch(), **_jax()}
    expected = [np.asarray(g) for g in runs["stagekit eager, by tape"]()]
    for run in runs.values():
        for a, b in zip(expected, run(), strict=True):
            np.testing.assert_allclose(a, np.asarray(b), rtol=1e-3, atol=1e-5)
    found = Comparison("gradient of a 3-layer MLP, batch 32", interleave(runs))
    value = ratio(found["stagekit eager, by tape"], found["HIPS autograd"])
    wish = goal("the tape faster than HIPS autograd", value, 1.0)
    yield Comparison(found.title, found.timings, [wish])
