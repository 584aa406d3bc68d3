"""Sample calls of the functions made of ops, each with what NumPy or SciPy has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special

from stagekit.types import dtype
from tests.samples.base import INF, numpys, random, rows, special_values


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy.special.softmax(x, axis=axis)


def _log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy.special.log_softmax(x, axis=axis)


def _logsumexp(x: np.ndarray, **keywords: Any) -> Any:
    return np.reshape(scipy.special.logsumexp(x, **keywords), np.max(x, **keywords).shape)


def _cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Any:
    """By the definition in the manual of torch, one label after the other."""
    axis = 1 if logits.ndim > 1 else 0
    logp = np.moveaxis(scipy.special.log_softmax(logits, axis=axis), axis, -1)
    classes = logp.shape[-1]
    if labels.dtype.kind == "f":
        target = np.moveaxis(labels, axis, -1)
        weight = np.ones(target.shape[:-1])
        count: Any = weight.size
    else:
        kept = labels != ignore_index if ignore_index is not None else np.ones(labels.shape, bool)
        target = np.eye(classes)[np.where(kept, labels, 0)]
        weight = kept.astype(float)
        count = weight.sum()
    target = target * (1 - label_smoothing) + label_smoothing / classes
    losses = -np.where(target == 0, 0.0, target * logp).sum(-1) * weight
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / count}[reduction]


def _one_hot(indices: np.ndarray, classes: int, **keywords: Any) -> Any:
    hit = np.asarray(indices)[..., None] == np.arange(classes)
    return hit.astype(keywords["dtype"].numpy if keywords else "float32")


def _triangle(n: int) -> np.ndarray:
    return np.arange(n * n, dtype="float32").reshape(n, n)


@rows
def _core(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x = random(rng, "float32", (2, 3, 4))
    m, v = random(rng, "float32", (3, 4)), random(rng, "float32", (5,))
    k, b = random(rng, "int32", (3, 4)), random(rng, "bool", (3, 4))
    empty = np.zeros((0, 3), "float32")
    yield from _creation_rows()
    for op, referee in (
        ("sum", np.sum), ("prod", np.prod), ("mean", np.mean), ("max", np.max), ("min", np.min),
        ("any", np.any), ("all", np.all), ("count_nonzero", np.count_nonzero),
        ("var", np.var), ("std", np.std), ("logsumexp", _logsumexp),
    ):  # fmt: skip
        for keywords in ({}, {"axis": 1}, {"axis": (0, 2)}, {"axis": -1, "keepdims": True}):
            yield op, (x,), keywords, referee
        yield op, (k,), {"axis": 0}, referee
        yield op, (v[2],), {}, referee
        yield op, (np.asarray(v[2]),), {"keepdims": True}, referee
    yield "sum", (b,), {"axis": 0}, np.sum
    yield "sum", (k.astype("int8"),), {}, np.sum
    yield "sum", (k.astype("uint8"),), {}, np.sum
    yield "sum", (m,), {"dtype": dtype("float64")}, numpys(np.sum)
    yield "sum", (empty,), {"axis": 0}, np.sum
    yield "prod", (empty,), {}, np.prod
    for correction in (1, 0.5):
        yield "var", (m,), {"axis": 0, "correction": correction}, np.var
        yield "std", (m,), {"correction": correction}, np.std
    for op, referee in (("argmax", np.argmax), ("argmin", np.argmin)):
        for keywords in ({}, {"axis": 1}, {"axis": 0, "keepdims": True}, {"keepdims": True}):
            yield op, (m,), keywords, referee
    yield "logsumexp", (m * 1000,), {"axis": 0}, _logsumexp
    yield "logsumexp", (np.full((2, 3), -INF, "float32"),), {"axis": 1}, _logsumexp
    yield "logsumexp", (np.array([INF, 0], "float32"),), {}, _logsumexp
    yield from _movement_rows(x, m, v, k)
    yield from _product_rows(rng)
    yield from _indexing_rows(x, m, v)
    yield from _functional_rows(rng)
    yield from _complex_rows(rng)


def _creation_rows() -> Iterator[tuple[Any, ...]]:
    for n in ((5,), (1, 7), (1, 8, 2), (5, 0, -2), (0, 5, -1), (2.0, 3.0, 0.25), (0,), (3, -3)):
        yield "arange", n, {}, np.arange
    yield "arange", (4,), {"dtype": dtype("float32")}, numpys(np.arange)
    for row in ((0, 1, 5), (2, -2, 4), (0.5, 0.5, 3), (0, 1, 1), (0, 1, 0)):
        yield "linspace", row, {}, np.linspace
    yield "linspace", (0, 1, 4), {"endpoint": False}, np.linspace
    yield "linspace", (-3, 4, 6), {"dtype": dtype("int32")}, numpys(np.linspace)
    for row, keywords in (((3,), {}), ((2, 4), {"k": 1}), ((3, 2), {"k": -1}), ((2, 2), {"k": 5})):
        yield "eye", row, keywords, np.eye
    like = np.ones((2, 3), "float32")
    for op, referee in (("tril", np.tril), ("triu", np.triu)):
        for k in (-1, 0, 2):
            yield op, (_triangle(4),), {"k": k}, referee
        yield op, (np.arange(24, dtype="int8").reshape(2, 3, 4),), {}, referee
    for op, referee in (("zeros", np.zeros), ("ones", np.ones)):
        yield op, ((2, 0),), {}, referee
        yield op, (3,), {"dtype": dtype("int8")}, numpys(referee)
        yield f"{op}_like", (like,), {}, referee_like(referee)
    yield "full", ((2, 3), 7), {}, np.full
    yield "full", ((2,), 2.5), {"dtype": dtype("float64")}, numpys(np.full)
    yield "full", ((2,), np.asarray(2.5)), {}, np.full
    yield "full_like", (like, 3), {}, np.full_like
    yield "empty", ((2, 3),), {}, np.zeros
    yield "empty_like", (like,), {}, np.zeros_like
    yield "asarray", ([[1, 2], [3, 4]],), {}, np.asarray
    yield "astype", (like, dtype("int8")), {}, numpys(np.ndarray.astype)
    columns = (np.arange(3), np.arange(2), np.arange(4))
    yield "meshgrid", columns, {}, np.meshgrid
    yield "meshgrid", columns, {"indexing": "ij"}, np.meshgrid
    yield "meshgrid", columns[:1], {}, np.meshgrid


def referee_like(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: make(x.shape, x.dtype)


def _movement_rows(x: Any, m: Any, v: Any, k: Any) -> Iterator[tuple[Any, ...]]:
    yield "reshape", (x, (6, -1)), {}, np.reshape
    yield "reshape", (v, (5, 1)), {}, np.reshape
    yield "expand_dims", (x,), {"axis": -1}, np.expand_dims
    yield "expand_dims", (m,), {"axis": (0, 2)}, np.expand_dims
    yield "squeeze", (x[:1, :, :1],), {}, np.squeeze
    yield "squeeze", (x[:1, :, :1],), {"axis": -1}, np.squeeze
    yield "permute_dims", (x, (2, 0, 1)), {}, np.transpose
    yield "transpose", (x,), {}, np.transpose
    yield "matrix_transpose", (x,), {}, np.matrix_transpose
    yield "swapaxes", (x, 0, -1), {}, np.swapaxes
    yield "moveaxis", (x, 0, -1), {}, np.moveaxis
    yield "moveaxis", (x, (0, 1), (2, 0)), {}, np.moveaxis
    yield "broadcast_to", (v, (2, 5)), {}, np.broadcast_to
    yield "broadcast_arrays", (v, m[0, 0], np.ones((3, 1), "float32")), {}, np.broadcast_arrays
    for keywords in ({}, {"axis": 1}, {"axis": (0, -1)}):
        yield "flip", (x,), keywords, np.flip
    for shift, axis in ((1, None), (-7, None), (2, 1), (-1, -1), ((1, 2), (0, 2)), (5, 0)):
        yield "roll", (x, shift), {"axis": axis}, np.roll
    yield "roll", (np.zeros((0, 3), "float32"), 2), {"axis": 0}, np.roll
    yield "concat", ([m, m + 1],), {}, np.concatenate
    yield "concat", ([m, k],), {"axis": 1}, np.concatenate
    yield "concat", ([m, v],), {"axis": None}, np.concatenate
    for axis in (0, 1, -1):
        yield "stack", ([m, m + 1, m],), {"axis": axis}, np.stack
        yield "unstack", (x,), {"axis": axis}, np.unstack
    for cuts, axis in ((2, -1), (3, 1), ([1, 3], 2), ([0, 5], 2), ([3, 1], 2)):
        yield "split", (x, cuts), {"axis": axis}, np.split
    for times in (2, (2, 1), (1, 3, 2), (2, 1, 1, 3), 0):
        yield "tile", (m, times), {}, np.tile
    for times, axis in ((2, None), (3, 1), (0, 0), ([1, 0, 2], 0), (2, -1)):
        yield "repeat", (m, times), {"axis": axis}, np.repeat
    for width in (1, (1, 2), ((0, 1), (2, 0)), ((1, 1),)):
        yield "pad", (m, width), {}, np.pad
        for mode in ("edge", "reflect", "symmetric", "wrap"):
            yield "pad", (m, width, mode), {}, np.pad
    for mode in ("edge", "reflect", "symmetric", "wrap"):
        yield "pad", (m, ((7, 9), (0, 11)), mode), {}, np.pad
    yield "pad", (m, 1), {"constant_values": 2.5}, np.pad


def _product_rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    shapes = [
        ((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((4, 2, 3), (3, 2)),
        ((4, 1, 2, 3), (5, 3, 2)), ((2, 3), (4, 3, 2)), ((3,), (4, 3, 2)), ((4, 2, 3), (3,)),
        ((0,), (0,)), ((2, 0), (0,)),
    ]  # fmt: skip
    for a, b in shapes:
        yield "matmul", (random(rng, "float32", a), random(rng, "float32", b)), {}, np.matmul
    pair = (random(rng, "int8", (2, 3)), random(rng, "int32", (3, 2)))
    yield "matmul", pair, {}, np.matmul
    a, b = random(rng, "float32", (4, 3)), random(rng, "float32", (2, 1, 3))
    yield "vecdot", (a, b), {}, np.vecdot
    yield "vecdot", (a, a + 1), {"axis": 0}, np.vecdot
    yield "vecdot", (pair[0], pair[0] * 9), {}, np.vecdot
    yield "vecdot", (a[:, :0], b[..., :0]), {}, np.vecdot
    x = random(rng, "float32", (3, 4))
    for bounds in ((-1, 1), (None, 0.5), (0, None), (None, None), (x - 1, 0.0)):
        yield "clip", (x, *bounds), {}, _clip


def _complex_rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    for kind in ("complex64", "float32", "int8"):
        x = random(rng, kind, (2, 3))
        yield "real", (x,), {}, np.real
        yield "imag", (x,), {}, np.imag
        yield "conj", (x,), {}, np.conj
        yield "sign", (x,), {}, np.sign
        yield "angle", (x.astype("complex64"),), {}, np.angle
    z = random(rng, "complex64", (3, 4))
    for op, referee in (
        ("sum", np.sum), ("prod", np.prod), ("mean", np.mean), ("var", np.var), ("std", np.std),
        ("any", np.any), ("count_nonzero", np.count_nonzero),
    ):  # fmt: skip
        yield op, (z,), {"axis": 1}, referee
    yield "matmul", (z, z.T), {}, np.matmul


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    return x if low is None and high is None else np.clip(x, low, high)


def _indexing_rows(x: Any, m: Any, v: Any) -> Iterator[tuple[Any, ...]]:
    yield "take", (v, np.array([3, 0, 0, -1])), {}, np.take
    yield "take", (x, np.array([[1, 0], [2, 2]])), {"axis": 1}, np.take
    yield "take", (x, 1), {"axis": -1}, np.take
    yield "take_along_axis", (m, np.array([[0, 1], [3, 3], [2, -1]])), {"axis": 1}, _taken
    yield "take_along_axis", (m, np.array([[0, 1, 2, 2]])), {"axis": 0}, _taken
    yield "nonzero", (np.array([[0, 3], [4, 0]]),), {}, np.nonzero
    yield "getitem", (x, (0, slice(None, None, -1))), {}, lambda a, key: a[key]


def _taken(x: Any, indices: Any, axis: int) -> Any:
    """`np.take_along_axis` with the axes of `indices` broadcast."""
    shape = [n if k != axis % x.ndim else indices.shape[k] for k, n in enumerate(x.shape)]
    return np.take_along_axis(x, np.broadcast_to(indices, shape), axis)


def _functional_rows(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    x = random(rng, "float32", (3, 4), -5, 5)
    yield "relu", (special_values("float32"),), {}, lambda a: np.maximum(a, 0)
    yield "relu", (random(rng, "int8", (4,)),), {}, lambda a: np.maximum(a, 0)
    for op, referee in (("softmax", _softmax), ("log_softmax", _log_softmax)):
        yield op, (x,), {}, referee
        yield op, (x * 1000,), {"axis": 0}, referee
        yield op, (np.array([-INF, 0, 1], "float32"),), {}, referee
    yield "one_hot", (np.array([[0, 2], [3, 1]]), 4), {}, _one_hot
    yield "one_hot", (np.array([5, -1]), 4), {"dtype": dtype("int8")}, _one_hot
    labels = np.array([1, 3, 0])
    for keywords in (
        {}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1},
        {"ignore_index": 3}, {"ignore_index": 3, "reduction": "none", "label_smoothing": 0.2},
        {"ignore_index": 3, "label_smoothing": 0.2},
    ):  # fmt: skip
        yield "cross_entropy", (x, labels), keywords, _cross_entropy
    yield "cross_entropy", (x[0], np.array(2)), {}, _cross_entropy
    volume = random(rng, "float32", (2, 3, 4))
    yield "cross_entropy", (volume, np.array([[0, 1, 2, 0]] * 2)), {}, _cross_entropy
    soft = np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 1], [0.25] * 4], "float32")
    yield "cross_entropy", (x, soft), {}, _cross_entropy
    yield "cross_entropy", (x, soft), {"label_smoothing": 0.1}, _cross_entropy
    dying = np.array([[0, -INF], [-INF, 0]], "float32")
    yield "cross_entropy", (dying, np.eye(2, dtype="float32")), {}, _cross_entropy
