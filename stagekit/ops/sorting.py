"""Sorting, and what sorting answers: the order, the few largest, a place in sorted data.

One order everywhere, ascending and descending: stable, -0.0 equal to 0.0, NaN last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.op import Op
from stagekit.types import default_int, normalize_axis

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


def _deeper(op: Any) -> Any:
    """The batching rule of an op of one operand along an axis."""
    return lambda size, args, mapped, attrs: op()(*args, **{**attrs, "axis": attrs["axis"] + 1})


_argsort: Op = Op(
    "argsort",
    infer=lambda x, *, axis, descending: x.with_dtype(default_int),
    evaluate=_argsort_evaluate,
    library="a sorting network or merge is no function of one element",
    nondifferentiable=_INDEX,
    batch=_deeper(lambda: _argsort),
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
    evaluate=_sort_evaluate,
    library="a sorting network or merge is no function of one element",
    vjp=_sort_vjp,
    jvp=_sort_jvp,
    batch=_deeper(lambda: _sort),
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
