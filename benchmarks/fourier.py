"""Eager Fourier transforms against torch and NumPy, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import stagekit as sk
from benchmarks.timing import Comparison, interleave, peer

RNG = np.random.default_rng(0)
X = RNG.standard_normal(2**18).astype("float32")
Z = (RNG.standard_normal(2**18) + 1j * RNG.standard_normal(2**18)).astype("complex64")
PICTURE = RNG.standard_normal((64, 32, 32)).astype("float32")

CASES: dict[str, tuple[np.ndarray, str, dict[str, Any], str, dict[str, Any]]] = {
    "fft of 2^18 complex64": (Z, "fft", {}, "fft", {}),
    "rfft of 2^18 float32": (X, "rfft", {}, "rfft", {}),
    "rfftn of 64 pictures of 32x32": (PICTURE, "rfftn", {"axes": (1, 2)}, "rfftn", {"dim": (1, 2)}),
}


def compare() -> Iterator[Comparison]:
    """One comparison for each transform."""
    torch = peer("torch")
    if torch:
        torch.set_num_threads(1)
    for title, (array, name, ours, theirs, other) in CASES.items():
        runs: dict[str, Callable[[], object]] = {"stagekit eager": _ours(array, name, ours)}
        if torch:
            runs["torch eager"] = _torch(torch, array, theirs, other)
        runs["NumPy"] = lambda a=array, n=name, k=ours: getattr(np.fft, n)(a, **k)
        yield Comparison(title, interleave(runs))


def _ours(array: np.ndarray, name: str, keywords: dict[str, Any]) -> Callable[[], object]:
    x, function = sk.asarray(array), getattr(sk.fft, name)
    return lambda: function(x, **keywords)


def _torch(
    torch: Any, array: np.ndarray, name: str, keywords: dict[str, Any]
) -> Callable[[], object]:
    x, function = torch.tensor(array), getattr(torch.fft, name)
    return lambda: function(x, **keywords)
