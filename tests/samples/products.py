"""Sample calls of `einsum` and the products that are cases of it, with NumPy's as referees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.samples.base import random, rows

# Subscripts with the shapes of their operands.
EINSUMS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba", [(2, 3)]),
    ("ii", [(3, 3)]),
    ("ii->i", [(3, 3)]),
    ("iij->ji", [(3, 3, 2)]),
    ("ijiji->j", [(2, 3, 2, 3, 2)]),
    ("ij->", [(2, 3)]),
    ("ij->j", [(2, 3)]),
    ("i,i", [(4,), (4,)]),
    ("i,j->ji", [(2,), (3,)]),
    ("i,i->i", [(4,), (4,)]),
    ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]),
    ("bij,bjk->ikb", [(5, 2, 3), (5, 3, 4)]),
    ("...ij,...jk->...ik", [(5, 2, 3), (4, 1, 3, 2)]),
    ("...ij,jk", [(5, 2, 3), (3, 4)]),
    ("i...->...", [(2, 3, 4)]),
    ("...", [(2, 3)]),
    ("...,...", [(2, 3), (3,)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
    ("ij,jk,kl,lm,mn->in", [(2, 9), (9, 2), (2, 9), (9, 2), (2, 9)]),
    ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("ij,ij,ij->i", [(2, 3), (2, 3), (2, 3)]),
    ("ijk,ilm,njm,nlk,abc->", [(2, 3, 2), (2, 2, 2), (2, 3, 2), (2, 2, 2), (1, 2, 1)]),
    ("ij,kl->ijkl", [(2, 1), (1, 3)]),
    (",ij,->ij", [(), (2, 3), ()]),
    ("ij,jk->ik", [(2, 0), (0, 3)]),
    (" i j , j -> i ", [(2, 3), (3,)]),
    ("aab,bc->ac", [(2, 2, 3), (3, 2)]),
    ("i,i", [(1,), (4,)]),
]  # fmt: skip


@rows
def _einsum(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    for subscripts, shapes in EINSUMS:
        operands = [random(rng, "float32", shape) for shape in shapes]
        yield "einsum", (subscripts, *operands), {}, np.einsum
    k = rng.integers(-3, 4, (3, 3)).astype("int8")
    yield "einsum", ("ij,jk", k, k.astype("int32")), {}, np.einsum
    yield "einsum", ("ij,jk", k, random(rng, "float32", (3, 2))), {}, np.einsum
    yield "einsum", ("ij->ji", k == 0), {}, np.einsum


@rows
def _cases(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x, y = random(rng, "float32", (2, 3, 4)), random(rng, "float32", (4, 3, 2))
    for axes in (0, 1, ((1,), (1,)), ((2, 0), (0, 2)), ((-1, 1), (0, -2)), (2, 0)):
        yield "tensordot", (x, y), {"axes": axes}, np.tensordot
    yield "tensordot", (x, np.moveaxis(x, 0, -1)), {}, np.tensordot
    yield "tensordot", (x[0, 0, 0], y), {"axes": 0}, np.tensordot
    v, m = x[0, 0], random(rng, "float32", (4, 4))
    for pair in ((v, v), (m, v), (m, y[:, 0, 0]), (x, y[:, :, 0]), (x, m), (v, m[0, 0])):
        yield "dot", pair, {}, np.dot
    for pair in ((v, v), (m, v), (x, m), (m, m[0, 0])):
        yield "inner", pair, {}, np.inner
    for pair in ((v, v[:2]), (m, x), (m[0, 0], v)):
        yield "outer", pair, {}, np.outer
        yield "kron", pair, {}, np.kron
    for arguments in ((), (1,), (-1,), (9,), (0, 1, 2), (1, -1, 0), (-5, 2, 0)):
        yield "diagonal", (x, *arguments), {}, np.diagonal
        yield "trace", (x, *arguments), {}, np.trace
    yield "trace", (m.astype("int8"),), {}, np.trace
    for k in (0, 1, -2):
        yield "diag", (v, k), {}, np.diag
        yield "diag", (x[0], k), {}, np.diag
