"""Eager sort, argsort, topk and running sums of a million float32, against torch and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import stagekit as sk
from benchmarks.timing import Comparison, goal, interleave, peer, ratio

N, K = 1_000_000, 100
X = np.random.default_rng(0).standard_normal(N).astype("float32")

Call = Callable[[], object]


def compare() -> Iterator[Comparison]:
    """One comparison for each function; NumPy has no stable counterpart of topk."""
    x = sk.asarray(X)
    torch = peer("torch")
    t = None
    if torch:
        torch.set_num_threads(1)
        t = torch.tensor(X)
    cases: dict[str, tuple[Call, Call | None, Call]] = {
        "sort": (
            lambda: sk.sort(x),
            torch and (lambda: torch.sort(t, stable=True)),
            lambda: np.sort(X, kind="stable"),
        ),
        "argsort": (
            lambda: sk.argsort(x),
            torch and (lambda: torch.argsort(t, stable=True)),
            lambda: np.argsort(X, kind="stable"),
        ),
        f"topk, k = {K}": (
            lambda: sk.topk(x, K),
            torch and (lambda: torch.topk(t, K)),
            lambda: np.argpartition(X, N - K),
        ),
        "cumulative_sum": (
            lambda: sk.cumulative_sum(x),
            torch and (lambda: torch.cumsum(t, 0)),
            lambda: np.cumsum(X),
        ),
    }
    for name, (ours, theirs, bare) in cases.items():
        runs: dict[str, Call] = {"stagekit eager": ours}
        if theirs:
            runs["torch eager"] = theirs
        runs["NumPy"] = bare
        found = Comparison(f"{name} of {N:,} float32", interleave(runs))
        value = ratio(found["stagekit eager"], found["torch eager"])
        yield Comparison(found.title, found.timings, [goal("within 1.5 x of torch's", value, 1.5)])
