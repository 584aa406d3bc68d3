"""Sorting, and what sorting answers: the order, the few largest, a place in sorted data.

One order everywhere, ascending and descending: stable, -0.0 equal to 0.0, NaN last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.op import Op, Speller, weak_type
from stagekit.ops.batching import along_axis
from stagekit.ops.elementwise import ordered, real_numeric
from stagekit.source import here
from stagekit.symbolic import plain
from stagekit.types import (
    TensorType,
    as_integer,
    bool_,
    default_int,
    normalize_axis,
    shape_text,
)

_INDEX = "the result is an index"

# ----- the order of NumPy arrays ------------------------------------------------------------------


def _turned(xp: Any, x: Any, turn: bool) -> Any:
    """Keys whose ascending order is the descending one of `x`; NaN stays NaN."""
    if not turn:
        return x
    return xp.negative(x) if x.dtype.kind == "f" else xp.invert(x)


def _order(xp: Any, keys: Any, axis: int) -> Any:
    """The stable ascending order of keys along an axis."""
    if keys.dtype in (np.float16, np.float32, np.int32) and keys.shape[axis] > _FEW:
        return _packed_order(xp, keys, axis)
    return xp.argsort(keys, axis=axis, kind="stable").astype(np.int64, copy=False)


_FEW = 64


def _packed_order(xp: Any, keys: Any, axis: int) -> Any:
    """The same for keys of 32 bits, twice as fast: sort words of a key above and its place below.

    The bits of a float, all but the sign turned over where it is negative, are in its order.
    """
    if keys.dtype.kind == "f":
        floats = keys.astype(np.float32) + np.float32(0)  # no -0.0
        bits = xp.where(xp.isnan(floats), np.float32(np.nan), floats).view(np.int32)
        keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    shape = [1] * keys.ndim
    shape[axis] = keys.shape[axis]
    words = (keys.astype(np.int64) << 32) | xp.arange(keys.shape[axis]).reshape(shape)
    words.sort(axis=axis)
    return words & 0xFFFFFFFF


# ----- sort and argsort ---------------------------------------------------------------------------


def _argsort_evaluate(xp: Any, x: Any, *, axis: int, descending: bool) -> Any:
    return _order(xp, _turned(xp, x, descending), axis)


_argsort: Op = Op(
    "argsort",
    infer=lambda x, *, axis, descending: x.with_dtype(default_int),
    dtypes=ordered,
    evaluate=_argsort_evaluate,
    library="a sorting network or merge is no function of one element",
    nondifferentiable=_INDEX,
    batch=along_axis("argsort"),
    family="sorting",
    doc="""The places of the elements along `axis` in sorted order. As a stable `numpy.argsort`.

    >>> _argsort(ops.asarray([3, 1, 2]), axis=0, descending=False)
    tensor([1, 2, 0], dtype=int64)
    """,
)


def _sort_evaluate(xp: Any, x: Any, *, axis: int, descending: bool) -> Any:
    out = _turned(xp, xp.sort(_turned(xp, x, descending), axis=axis), descending)
    if x.dtype.kind == "f":
        source, target = xp.moveaxis(x, axis, -1), xp.moveaxis(out, axis, -1)
        zeros = source == 0
        if zeros.any():  # a fast sort mixes up -0.0 and 0.0
            target[target == 0] = source[zeros]
    return out


def _sort_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    ranks = _argsort(_argsort(xs[0], **attrs), axis=attrs["axis"], descending=False)
    return ops.take_along_axis(ct, ranks, axis=attrs["axis"])


def _sort_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    return ops.take_along_axis(tangents[0], _argsort(xs[0], **attrs), axis=attrs["axis"])


_sort: Op = Op(
    "sort",
    infer=lambda x, *, axis, descending: x,
    dtypes=ordered,
    evaluate=_sort_evaluate,
    library="a sorting network or merge is no function of one element",
    vjp=_sort_vjp,
    jvp=_sort_jvp,
    batch=along_axis("sort"),
    family="sorting",
    doc="""The elements along `axis` in sorted order. As a stable `numpy.sort`.

    >>> _sort(ops.asarray([3, 1, 2]), axis=0, descending=True)
    tensor([3, 2, 1], dtype=int64)
    """,
)


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The elements along `axis` in sorted order, as `numpy.sort`; always stable.

    NaN comes last in both directions, -0.0 and 0.0 are equal. The gradient follows `argsort`.
    Raises ShapeError for an axis that does not exist.

    >>> import stagekit as sk
    >>> sk.sort(sk.asarray([2.0, sk.nan, 1.0]), descending=True)
    tensor([ 2.,  1., nan], dtype=float32)
    """
    x = ops.asarray(x)
    return _sort(x, axis=normalize_axis("sort", axis, x.ndim), descending=bool(descending))


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The places of the elements along `axis` in sorted order, as `numpy.argsort`; always stable.

    NaN comes last in both directions, -0.0 and 0.0 are equal. The result is int64.
    Raises ShapeError for an axis that does not exist.

    >>> import stagekit as sk
    >>> sk.argsort(sk.asarray([1, 2, 1]), descending=True)
    tensor([1, 0, 2], dtype=int64)
    """
    x = ops.asarray(x)
    return _argsort(x, axis=normalize_axis("argsort", axis, x.ndim), descending=bool(descending))


# ----- the largest few ----------------------------------------------------------------------------


def _require_few(x: Any, k: Any, axis: int) -> None:
    if k < 0 or k > x.shape[axis]:
        raise ShapeError(
            f"topk: k = {plain((k,))[0]} of axis {axis} of shape {shape_text(x.shape)}",
            fix="give a k from 0 to the size of the axis",
        ).located(here())


def _argtopk_type(x: TensorType, *, k: Any, axis: int, largest: bool) -> TensorType:
    _require_few(x, k, axis)
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return TensorType(default_int, shape, x.device)


def _argtopk_evaluate(xp: Any, x: Any, *, k: int, axis: int, largest: bool) -> Any:
    keys = xp.moveaxis(_turned(xp, x, largest), axis, -1)
    n = keys.shape[-1]
    if n < _MANY or not 0 < _SAMPLED * k < n or not keys.size:
        return xp.moveaxis(_order(xp, keys, -1)[..., :k], -1, axis)
    rows = [_few_first(xp, row, k) for row in keys.reshape(-1, n)]
    return xp.moveaxis(xp.stack(rows).reshape(*keys.shape[:-1], k), -1, axis)


_MANY, _SAMPLED = 1024, 16


def _few_first(xp: Any, keys: Any, k: int) -> Any:
    """The first k of the order of a row: among all that are not above the k-th of a sample."""
    bound = xp.partition(keys[::_SAMPLED], k - 1)[k - 1]
    if bound != bound:
        return _order(xp, keys, -1)[:k]
    places = xp.flatnonzero(keys <= bound)
    return places[_order(xp, keys[places], -1)[:k]]


_argtopk: Op = Op(
    "argtopk",
    infer=_argtopk_type,
    dtypes=ordered,
    evaluate=_argtopk_evaluate,
    library="a selection is no function of one element",
    nondifferentiable=_INDEX,
    batch=along_axis("argtopk"),
    family="sorting",
    doc="""The first k of `argsort` along `axis`, descending for `largest`. As `dask.array.argtopk`.

    >>> _argtopk(ops.asarray([3, 1, 2]), k=2, axis=0, largest=True)
    tensor([0, 2], dtype=int64)
    """,
)


class TopK(NamedTuple):
    """What `topk` gives."""

    values: Any
    indices: Any


def topk(x: Any, /, k: Any, axis: int = -1, largest: bool = True) -> TopK:
    """The k largest (or smallest) elements along `axis`, in order, and their places: `torch.topk`.

    The first k of a stable `sort`: of equals the first ones, NaN last in both directions.
    Raises ShapeError for a k beyond the size of the axis.

    >>> import stagekit as sk
    >>> sk.topk(sk.asarray([3.0, 1.0, 2.0]), 2).values
    tensor([3., 2.], dtype=float32)
    """
    x = ops.asarray(x)
    axis, k = normalize_axis("topk", axis, x.ndim), as_integer("topk", "k", k)
    _require_few(x, k, axis)
    indices = _argtopk(x, k=k, axis=axis, largest=bool(largest))
    return TopK(ops.take_along_axis(x, indices, axis=axis), indices)


# ----- searching ----------------------------------------------------------------------------------


def _searchsorted_type(x1: TensorType, x2: TensorType, *, side: str) -> TensorType:
    if len(x1.shape) != 1:
        raise ShapeError(
            f"searchsorted: the sorted tensor has shape {shape_text(x1.shape)}",
            fix="give one axis",
        )
    return x2.with_dtype(default_int)


def _searchsorted_element(
    e: Speller, out: TensorType, idx: Sequence[Any], x1: Any, x2: Any, *, side: str
) -> Any:
    """How many elements come before the place: those below the value, or not above it."""

    def below(a: Any, b: Any) -> Any:
        nan = e.apply("logical_and", e.apply("isnan", b), e.apply("equal", a, a))
        return e.apply("logical_or", e.apply("less", a, b), nan)

    def counts(k: Any) -> Any:
        value = x2(*idx)
        if side == "left":
            return e.cast(below(x1(k), value), default_int)
        return e.cast(e.apply("logical_not", below(value, x1(k))), default_int)

    return e.reduce("add", default_int, list(x1.shape), counts)


def _searchsorted_batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    """With one sorted row for each place the elements before it are counted."""
    x1, x2 = args
    if not mapped[0]:
        return _searchsorted(x1, x2, **attrs)
    rank = x2.ndim - mapped[1]
    rows = ops.reshape(x1, (size, *(1,) * rank, x1.shape[1]))
    values = ops.expand_dims(x2, axis=-1)
    left = attrs["side"] == "left"
    before = _below(rows, values) if left else ops.logical_not(_below(values, rows))
    counts = ops.count_nonzero(before, axis=-1)
    return ops.broadcast_to(counts, (size, *x2.shape[mapped[1] :]))


def _below(a: Any, b: Any) -> Any:
    """a < b in the order of `sort`: NaN is above all else."""
    return ops.logical_or(a < b, ops.logical_and(ops.isnan(b), ops.equal(a, a)))


_searchsorted: Op = Op(
    "searchsorted",
    infer=_searchsorted_type,
    evaluate=lambda xp, x1, x2, *, side: xp.asarray(xp.searchsorted(x1, x2, side), np.int64),
    element=_searchsorted_element,
    dtypes=real_numeric,
    nondifferentiable=_INDEX,
    batch=_searchsorted_batch,
    family="sorting",
    doc="""Where to put values into a sorted row so that it stays sorted. As `numpy.searchsorted`.

    >>> _searchsorted(ops.asarray([1, 3]), ops.asarray([0, 3]), side="right")
    tensor([0, 2], dtype=int64)
    """,
)


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """For each element of `x2` its place in the sorted 1-d `x1`, as `numpy.searchsorted`.

    Before equals with side "left", after them with "right"; the order is that of `sort`, NaN last.
    `sorter` are indices that sort `x1`. Raises ShapeError, ArgumentError.

    >>> import stagekit as sk
    >>> sk.searchsorted(sk.asarray([1.0, 3.0]), sk.asarray([0.0, 3.0, 5.0]))
    tensor([0, 1, 2], dtype=int64)
    """
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: side is {side!r}", fix="use 'left' or 'right'").located(
            here()
        )
    x1 = ops.asarray(x1)
    if sorter is not None and x1.ndim == 1:
        x1 = ops.take(x1, sorter)
    return _searchsorted(x1, x2, side=side)


# ----- sets ---------------------------------------------------------------------------------------


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Any:
    """Whether each element of `x1` is one of `x2` (or none of them), as `numpy.isin`.

    NaN equals nothing.

    >>> import stagekit as sk
    >>> sk.isin(sk.asarray([1, 2, 3]), sk.asarray([3, 1]))
    tensor([ True, False,  True], dtype=bool)
    """
    if weak_type(x2) is not None:
        return ops.not_equal(x1, x2) if invert else ops.equal(x1, x2)
    if weak_type(x1) is not None:
        hit = ops.any(ops.equal(x2, x1))
        return ops.logical_not(hit) if invert else hit
    x1, known = ops.asarray(x1), ops.reshape(x2, -1)
    if known.size == 0:
        return ops.full(x1.shape, bool(invert))
    if "complex" in (x1.dtype.kind, known.dtype.kind):  # which have no order to search in
        found = ops.any(ops.equal(ops.expand_dims(x1, axis=-1), known), axis=-1)
        return ops.logical_not(found) if invert else found
    known = sort(known)
    places = ops.minimum(_searchsorted(known, x1, side="left"), known.size - 1)
    found = ops.take(known, places)
    return ops.not_equal(found, x1) if invert else ops.equal(found, x1)


class UniqueAll(NamedTuple):
    """What `unique_all` gives."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    """What `unique_counts` gives."""

    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    """What `unique_inverse` gives."""

    values: Any
    inverse_indices: Any


def unique_all(x: Any, /) -> UniqueAll:
    """The distinct elements in order, where each is first, which each element is, how often it is.

    As `numpy.unique_all`: each NaN is distinct, -0.0 equals 0.0. The gradient goes to the first.
    The sizes depend on the data: a staged call runs eagerly from here.

    >>> import stagekit as sk
    >>> sk.unique_all(sk.asarray([3, 1, 3])).counts
    tensor([1, 2], dtype=int64)
    """
    x = ops.asarray(x)
    flat = ops.reshape(x, -1)
    array = ops.on_host(flat, "a size that depends on the data")
    _, first, inverse, counts = np.unique(array, True, True, True, equal_nan=False)
    indices, places = ops.asarray(first), ops.reshape(ops.asarray(inverse), x.shape)
    return UniqueAll(ops.take(flat, indices), indices, places, ops.asarray(counts))


def unique_counts(x: Any, /) -> UniqueCounts:
    """The distinct elements in order, and how often each is there, as `numpy.unique_counts`.

    >>> import stagekit as sk
    >>> sk.unique_counts(sk.asarray([3, 1, 3])).values
    tensor([1, 3], dtype=int64)
    """
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The distinct elements in order, and which of them each element is: `numpy.unique_inverse`.

    >>> import stagekit as sk
    >>> sk.unique_inverse(sk.asarray([3, 1, 3])).inverse_indices
    tensor([1, 0, 1], dtype=int64)
    """
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Any:
    """The distinct elements in order, as `numpy.unique_values`; see `unique_all`.

    >>> import stagekit as sk
    >>> sk.unique_values(sk.asarray([3, 1, 3]))
    tensor([1, 3], dtype=int64)
    """
    return unique_all(x).values


def unique(x: Any, /, *, size: Any = None, fill_value: Any = None) -> Any:
    """The distinct elements in order; with `size` that many, which can be staged.

    Further ones are dropped; missing ones are `fill_value`, or the smallest element. As
    `jax.numpy.unique`.
    Raises ShapeError for a `size` of nothing without a `fill_value`.

    >>> import stagekit as sk
    >>> sk.unique(sk.asarray([3, 1, 3]), size=4)
    tensor([1, 3, 1, 1], dtype=int64)
    """
    if size is None:
        return unique_values(x)
    x = sort(ops.reshape(x, -1))
    (size,) = ops.as_shape("unique", size)
    if x.size == 0:
        if fill_value is None and size != 0:
            raise ShapeError(
                f"unique: {plain((size,))[0]} elements of none", fix="give a fill_value"
            ).located(here())
        return ops.full((size,), 0 if fill_value is None else fill_value, dtype=x.dtype)
    fresh = ops.concat([ops.ones((1,), dtype=bool_), ops.not_equal(x[1:], x[:-1])])
    (places,) = ops.nonzero(fresh, size=size)
    there = ops.iota(size=size, dtype=default_int) < ops.count_nonzero(fresh)
    fill = x[0] if fill_value is None else ops.astype(fill_value, x.dtype)
    return ops.where(there, ops.take(x, places), fill)
