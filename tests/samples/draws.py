"""Samples of the primitives of random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stagekit.types import DTYPES
from tests.samples.base import Sample, generator, laid_out

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


@generator("random_order")
def _order(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in WORDS:
        for shape in ((0,), (1,), (7,), (2, 3)):
            yield Sample(name, (words(rng, kind, shape),), note=f"{kind} {shape}")
    yield Sample(name, (rng.integers(0, 3, 12).astype(np.uint64),), note="ties")
