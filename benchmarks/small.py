"""The cost of a call: an eager add of two 4-vectors, and a staged call of one small op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

import stagekit as sk
from benchmarks.timing import Comparison, goal, interleave, peer, ratio

X, Y = np.asarray([1, 2, 3, 4], "float32"), np.asarray([5, 6, 7, 8], "float32")


def compare() -> Iterator[Comparison]:
    """Both comparisons."""
    yield _eager()
    yield _staged()


def _eager() -> Comparison:
    a, b = sk.asarray(X), sk.asarray(Y)
    runs: dict[str, Callable[[], object]] = {"stagekit eager": lambda: a + b}
    torch, jax = peer("torch"), peer("jax")
    if torch:
        torch.set_num_threads(1)
        p, q = torch.tensor(X), torch.tensor(Y)
        runs["torch eager"] = lambda: p + q
    if jax:
        u, v = jax.numpy.asarray(X), jax.numpy.asarray(Y)
        runs["jax eager"] = lambda: (u + v).block_until_ready()
    runs["NumPy"] = lambda: X + Y
    found = Comparison("eager add of two 4-vectors", interleave(runs))
    value = ratio(found["stagekit eager"], found["torch eager"])
    wish = goal("within 1.5 x of torch's eager add", value, 1.5)
    return Comparison(found.title, found.timings, [wish])


def _staged() -> Comparison:
    a, b = sk.asarray(X), sk.asarray(Y)
    add = sk.function(lambda a, b: a + b)
    runs: dict[str, Callable[[], object]] = {"stagekit staged": lambda: add(a, b)}
    jax = peer("jax")
    if jax:
        jitted = jax.jit(lambda a, b: a + b)
        u, v = jax.numpy.asarray(X), jax.numpy.asarray(Y)
        runs["jax jit"] = lambda: jitted(u, v).block_until_ready()
    runs["NumPy"] = lambda: X + Y
    found = Comparison("staged call of one add of two 4-vectors", interleave(runs))
    ours, bare = found["stagekit staged"], found["NumPy"]
    assert ours is not None and bare is not None
    beyond = median(a - b for a, b in zip(ours.samples, bare.samples, strict=True))
    wish = goal("less than 10 us beyond the op", beyond * 1e6, 10, "us")
    return Comparison(found.title, found.timings, [wish])
