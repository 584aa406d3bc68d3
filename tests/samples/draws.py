"""Samples of the primitives of random numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from stagekit.types import DTYPES
from tests.samples.base import Sample, definition, generator, laid_out

WORDS = ["uint32", "uint64"]
EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


def words(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, np.iinfo(name).max, shape, name, endpoint=True)


@generator("random_bits", "random_advance")
def _bits(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    whole = np.array([2**64 - 1] * 3, np.uint64)
    for kind in WORDS:
        for shape in ((), (0, 3), (1,), (3, 3)):
            attrs = {"shape": shape, "dtype": DTYPES[kind]}
            yield Sample(name, (words(rng, "uint64", (3,)),), attrs, note=f"{kind} {shape}")
        yield Sample(name, (whole,), {"shape": (5,), "dtype": DTYPES[kind]}, note="wrapping")
        attrs = {"shape": (3,), "dtype": DTYPES[kind]}
        yield Sample(name, (words(rng, "uint64", (2, 3)),), attrs, note="states of their own")
    for layout, state in laid_out(words(rng, "uint64", (2, 3))):
        yield Sample(name, (state,), {"shape": (2,), "dtype": DTYPES["uint64"]}, note=layout)


@generator("random_normal")
def _normal(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in WORDS:
        info = np.iinfo(kind)
        ends = [e for e in EDGES if e <= info.max] + [info.max - e for e in EDGES if e <= info.max]
        yield Sample(name, (np.array(ends, kind),), note=f"special {kind}")
        small = words(rng, kind, (20,)) >> np.arange(20, dtype=kind)
        yield Sample(name, (np.stack([small, ~small]),), note=f"tails {kind}")
        for shape in ((), (0, 2), (5, 6)):
            yield Sample(name, (words(rng, kind, shape),), note=f"{kind} {shape}")
    for layout, bits in laid_out(words(rng, "uint32", (3, 4))):
        yield Sample(name, (bits,), note=layout)


@generator("random_category")
def _category(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for batch, shape in (((), ()), ((), (4,)), ((3,), (3,)), ((3,), (2, 3)), ((2, 1), (3,))):
        args = rng.normal(size=(*batch, 5)), words(rng, "uint64", shape)
        yield Sample(name, args, note=f"{batch} {shape}")
    yield Sample(name, (np.zeros((0, 2)), words(rng, "uint64", (0,))), note="no row")
    logits = np.array([-np.inf, -40.0, 0.0, -np.inf])
    yield Sample(name, (logits, np.array(EDGES, np.uint64)), note="never drawn")


@definition("random_category")
def _defined(logits: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The formula of docs/random.md in Python's floats and integers, element by element."""
    shape = np.broadcast_shapes(logits.shape[:-1], words.shape)
    rows = np.broadcast_to(logits, (*shape, logits.shape[-1]))
    out = np.empty(shape, np.int64)
    for at in np.ndindex(shape):
        top = max(rows[at])
        weights = [_weight(float(logit - top)) for logit in rows[at]]
        limit = int(np.broadcast_to(words, shape)[at]) * sum(weights) >> 64
        out[at] = sum(total <= limit for total in itertools.accumulate(weights))
    return out


def _weight(y: float) -> int:
    if not y >= -28.125:
        return 0
    h, series = y / 64, 1 / math.factorial(14)
    for k in range(13, -1, -1):
        series = series * h + 1 / math.factorial(k)
    for _ in range(6):
        series *= series
    return int(series * 2.0**40 + 0.5)
