"""Reading and writing by index: `gather` and `scatter`, and NumPy's `x[...]` and `x.at[...]`.

Indices count from the end where negative and are checked in every stage; of several writes to one
place the last wins (`set`), or all take part (`add`, `multiply`, `min`, `max`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import stagekit.ops as ops
from stagekit.errors import BoundsError, DTypeError, ShapeError, hide_frames
from stagekit.op import OPS, Cell, Op, Speller, current, weak_type
from stagekit.ops.batching import Mapped, spread
from stagekit.source import here
from stagekit.symbolic import Dim, product
from stagekit.tensor import Tensor
from stagekit.types import (
    RANK,
    DType,
    TensorType,
    bool_,
    default_int,
    known_same,
    normalize_axis,
    promote,
    same_shape,
    same_size,
    shape_text,
    widest,
)

Axes = tuple[int, ...]

# ----- gather -------------------------------------------------------------------------------------


def _adjacent(axes: Axes) -> bool:
    return axes == tuple(range(axes[0], axes[0] + len(axes)))


def _place(axes: Axes) -> int:
    """Where the index axes stand in the result: at the indexed axes if adjacent, else in front."""
    return axes[0] if _adjacent(axes) else 0


def _gathered(x_shape: Sequence[Any], index_shape: Sequence[Any], axes: Axes) -> tuple[Any, ...]:
    rest = [n for k, n in enumerate(x_shape) if k not in axes]
    place = _place(axes)
    return (*rest[:place], *index_shape, *rest[place:])


def _gather_type(x: TensorType, *indices: TensorType, axes: Axes) -> TensorType:
    return x.with_shape(_gathered(x.shape, indices[0].shape, axes))


def _key(ndim: int, indices: Sequence[Any], axes: Axes) -> tuple[Any, ...]:
    """NumPy's own index tuple for the gathered axes."""
    by_axis = dict(zip(axes, indices, strict=True))
    return tuple(by_axis.get(k, slice(None)) for k in range(ndim))


def _checked(op: str, shape: Sequence[int], indices: Sequence[Any], axes: Axes) -> None:
    for index, axis in zip(indices, axes, strict=True):
        n = shape[axis]
        outside = (index < -n) | (index >= n)
        if outside.any():
            found = index[outside].flat[0] if index.ndim else index[()]
            raise BoundsError(
                f"{op}: index {int(found)} is out of bounds for axis {axis} of size {n}",
                fix=f"indices go from {-n} to {n - 1}" if n else "the axis is empty",
            )


def _gather_evaluate(xp: Any, x: Any, *indices: Any, axes: Axes) -> Any:
    _checked("index", x.shape, indices, axes)
    out = x[_key(x.ndim, indices, axes)]
    return out if indices[0].ndim else xp.array(out)


def _split_index(idx: Sequence[Any], rank: int, axes: Axes) -> tuple[Sequence[Any], list[Any]]:
    """The result's indices as (those of the index arrays, those of the untouched axes)."""
    place = _place(axes)
    return idx[place : place + rank], [*idx[:place], *idx[place + rank :]]


def _gather_element(
    e: Speller, out: TensorType, idx: Sequence[Any], x: Any, *indices: Any, axes: Axes
) -> Any:
    at, rest = _split_index(idx, len(indices[0].shape), axes)
    by_axis = {
        axis: e.index(index(*at), x.shape[axis]) for axis, index in zip(axes, indices, strict=True)
    }
    others = iter(rest)
    return x(*(by_axis[k] if k in by_axis else next(others) for k in range(len(x.shape))))


def _index_dtypes(first: int) -> Any:
    """The first operands in their common type, then integer indices."""

    def rule(name: str, operands: Sequence[Any]) -> list[DType]:
        for d in operands[first:]:
            kind = promote([d])
            if RANK[kind.kind] != 1:
                raise DTypeError(f"index: indices are {kind}", fix="use integers, or a bool mask")
        lead = operands[0] if isinstance(operands[0], DType) else promote(operands[:first])
        return [*[lead] * first, *(promote([d]) for d in operands[first:])]

    return rule


def _gather_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, *indices = xs
    return _scatter(ops.zeros_like(x), ct, *indices, mode="add", **attrs) if i == 0 else None


def _gather_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    return gather(tangents[0], *xs[1:], **attrs) if tangents[0] is not None else None


# Under `vmap` the mapped axis of `x` goes last: the indexed axes keep their numbers, errors theirs.


def _last(x: Any) -> Any:
    """The first axis moved to the end."""
    return OPS["permute"](x, axes=(*range(1, x.ndim), 0))


def _first(x: Any) -> Any:
    """The last axis moved to the front."""
    return OPS["permute"](x, axes=(x.ndim - 1, *range(x.ndim - 1)))


def _order(ndim: int, rank: int, axes: Axes, wider: Axes) -> tuple[int, ...]:
    """From what `wider` axes gather, with an index axis for the lanes, to lanes of what `axes` do.

    `ndim` counts all axes of the result, `rank` those of an index without the lanes.
    """
    at, place = _place(wider), _place(axes)
    index = range(at + 1, at + 1 + rank)
    rest = [k for k in range(ndim) if k != at and k not in index]
    return (at, *rest[:place], *index, *rest[place:])


def _indices_of_lanes(
    size: Any, indices: Sequence[Any], mapped: Mapped, rank: int
) -> tuple[list[Any], Any]:
    """Every index with the lanes in front, and one more that says the lane."""
    wide = [spread(size, index, m) for index, m in zip(indices, mapped, strict=True)]
    lane = OPS["reshape"](ops.iota(size=size, dtype=default_int), shape=(size, *(1,) * rank))
    return wide, OPS["broadcast_to"](lane, shape=wide[0].shape)


def _gather_batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: Any) -> Any:
    (x, *indices), axes = args, attrs["axes"]
    if not any(mapped[1:]):
        return _first(gather(_last(x), *indices, axes=axes))
    rank = indices[0].ndim - mapped[1]
    wide, lane = _indices_of_lanes(size, indices, mapped[1:], rank)
    wider = axes
    if mapped[0]:
        x, wide, wider = _last(x), [*wide, lane], (*axes, x.ndim - 1)
    out = gather(x, *wide, axes=wider)
    return OPS["permute"](out, axes=_order(out.ndim, rank, axes, wider))


gather: Op = Op(
    "gather",
    infer=_gather_type,
    evaluate=_gather_evaluate,
    element=_gather_element,
    dtypes=_index_dtypes(1),
    vjp=_gather_vjp,
    jvp=_gather_jvp,
    moves=True,
    batch=_gather_batch,
    checks=True,
    family="indexing",
    doc="""Elements of `x` at index tensors of one shape, one for each of `axes`.

    Negative indices count from the end. Raises BoundsError.

    >>> gather(ops.asarray([10, 20, 30]), ops.asarray([2, 0]), axes=(0,))
    tensor([30, 10], dtype=int64)
    """,
)

# ----- scatter ------------------------------------------------------------------------------------

_AT = {"add": "add", "multiply": "multiply", "min": "minimum", "max": "maximum"}


def _scatter_type(
    x: TensorType, updates: TensorType, *indices: TensorType, axes: Axes, mode: str
) -> TensorType:
    expected = _gathered(x.shape, indices[0].shape, axes)
    if not same_shape(updates.shape, expected):
        raise ShapeError(
            f"scatter: updates of shape {shape_text(updates.shape)} do not fit "
            f"{shape_text(expected)}",
            fix="updates must broadcast to the shape that reading there would give",
        )
    if x.dtype.kind == "complex" and mode in ("min", "max"):
        raise DTypeError(f"scatter: {x.dtype} has no {mode}", fix="take sk.real or sk.abs first")
    return x


def _scatter_evaluate(xp: Any, x: Any, updates: Any, *indices: Any, axes: Axes, mode: str) -> Any:
    _checked("index", x.shape, indices, axes)
    if x.dtype.kind == "c" and mode in ("min", "max"):
        raise TypeError("NumPy would order them by parts; the type rule words the error")
    folds = mode in ("add", "multiply") and indices[0].size > 1
    # In float64 the error does not grow with the number of updates of one place.
    out = xp.array(x, widest(x.dtype) if folds else x.dtype, order="C")
    key = _key(x.ndim, indices, axes)
    if mode == "set":
        out[key] = updates
    else:
        getattr(xp, _AT[mode]).at(out, key, updates)
    return out.astype(x.dtype, copy=False)


def _scatter_element(
    e: Speller,
    out: TensorType,
    idx: Sequence[Any],
    x: Any,
    updates: Any,
    *indices: Any,
    axes: Axes,
    mode: str,
) -> Any:
    """x[idx] combined with every update whose index is idx, in order."""
    rest = [i for k, i in enumerate(idx) if k not in axes]
    place = _place(axes)

    def hit(ks: Sequence[Any]) -> Any:
        pairs = zip(axes, indices, strict=True)
        return [(e.index(index(*ks), x.shape[axis]), idx[axis]) for axis, index in pairs]

    def update(ks: Sequence[Any]) -> Any:
        return updates(*rest[:place], *ks, *rest[place:])

    return e.scatter(mode, indices[0].shape, x(*idx), hit, update)


def _scatter_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, updates, *indices = xs
    axes, mode = attrs["axes"], attrs["mode"]
    if i > 1:
        return None
    if mode == "add":
        return ct if i == 0 else gather(ct, *indices, axes=axes)
    if mode == "set":
        if i == 0:
            return _scatter(ct, ops.zeros_like(updates), *indices, axes=axes, mode="set")
        return ops.where(_wins(x, updates, indices, axes), gather(ct, *indices, axes=axes), 0.0)
    share = (_share_multiply if mode == "multiply" else _share_extremum)(
        out, x, updates, indices, axes
    )
    own = ct if i == 0 else gather(ct, *indices, axes=axes)
    return own * ops.conj(share[i])


def _scatter_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, updates, *indices = xs
    axes, mode = attrs["axes"], attrs["mode"]
    tx = ops.zeros_like(x) if tangents[0] is None else tangents[0]
    tu = ops.zeros_like(updates) if tangents[1] is None else tangents[1]
    if mode in ("add", "set"):
        return _scatter(tx, tu, *indices, **attrs)
    share = (_share_multiply if mode == "multiply" else _share_extremum)(
        out, x, updates, indices, axes
    )
    return _scatter(tx * share[0], tu * share[1], *indices, axes=axes, mode="add")


def _wins(x: Any, updates: Any, indices: Sequence[Any], axes: Axes) -> Any:
    """Where an update is the last one written to its place, shaped to broadcast with updates."""
    shape = indices[0].shape
    serial = ops.reshape(ops.iota(size=product(shape), dtype=default_int), shape)
    board = ops.zeros(tuple(x.shape[a] for a in axes), dtype=default_int)
    flat = tuple(range(len(axes)))
    board = _scatter(board, serial, *indices, axes=flat, mode="set")
    last = gather(board, *indices, axes=flat) == serial
    place = _place(axes)
    tail = updates.ndim - place - len(shape)
    return ops.reshape(last, (1,) * place + tuple(shape) + (1,) * tail)


def _share_extremum(
    out: Any, x: Any, updates: Any, indices: Sequence[Any], axes: Axes
) -> tuple[Any, Any]:
    """1/k for each of the k values (old or written) equal to the extremum."""
    old = ops.astype(x == out, out.dtype)
    written = ops.astype(updates == gather(out, *indices, axes=axes), out.dtype)
    count = _scatter(old, written, *indices, axes=axes, mode="add")
    return old / count, written / gather(count, *indices, axes=axes)


def _share_multiply(
    out: Any, x: Any, updates: Any, indices: Sequence[Any], axes: Axes
) -> tuple[Any, Any]:
    """The product of the other factors: right with any zeros (first order), any repeats."""
    zero = updates == 0
    ones, none = ops.ones_like(x), ops.zeros_like(x)
    nonzero = _scatter(ones, ops.where(zero, 1.0, updates), *indices, axes=axes, mode="multiply")
    zeros = _scatter(none, ops.astype(zero, x.dtype), *indices, axes=axes, mode="add")
    product_here, zeros_here, x_here = (gather(t, *indices, axes=axes) for t in (nonzero, zeros, x))
    alone = ops.where(zero, zeros_here == 1, zeros_here == 0)
    others = product_here / ops.where(zero, 1.0, updates)
    return ops.where(zeros == 0, nonzero, 0.0), ops.where(alone, x_here * others, 0.0)


def _scatter_batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: Any) -> Any:
    x, updates, *indices = args
    axes, mode = attrs["axes"], attrs["mode"]
    x, updates = (spread(size, t, m) for t, m in zip((x, updates), mapped, strict=False))
    x = _last(x)
    if not any(mapped[2:]):
        return _first(_scatter(x, _last(updates), *indices, axes=axes, mode=mode))
    rank = indices[0].ndim - mapped[2]
    wide, lane = _indices_of_lanes(size, indices, mapped[2:], rank)
    wider = (*axes, x.ndim - 1)
    order = _order(updates.ndim, rank, axes, wider)
    back = sorted(range(updates.ndim), key=order.__getitem__)
    updates = OPS["permute"](updates, axes=tuple(back))
    return _first(_scatter(x, updates, *wide, lane, axes=wider, mode=mode))


_scatter: Op = Op(
    "scatter",
    infer=_scatter_type,
    evaluate=_scatter_evaluate,
    element=_scatter_element,
    dtypes=_index_dtypes(2),
    vjp=_scatter_vjp,
    jvp=_scatter_jvp,
    batch=_scatter_batch,
    checks=True,
    family="indexing",
    doc="""`x` with `updates` combined into it at index tensors, one for each of `axes`.

    `mode` is "set" (the last one wins), "add", "multiply", "min" or "max". Raises BoundsError.

    >>> x, two = ops.asarray([0, 0]), ops.asarray([1, 1])
    >>> _scatter(x, ops.asarray([5, 6]), two, axes=(0,), mode="add")
    tensor([ 0, 11], dtype=int64)
    """,
)

# ----- NumPy's index expressions ------------------------------------------------------------------


@dataclass
class _Plan:
    """An index expression as steps: slice, flip, reshape, then gather."""

    starts: list[Any] = field(default_factory=list)
    sizes: list[Any] = field(default_factory=list)
    strides: list[Any] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)
    shape: list[Any] = field(default_factory=list)  # integers dropped, None axes added
    axes: list[int] = field(default_factory=list)  # of that shape, to be gathered
    indices: list[Any] = field(default_factory=list)
    separator: int | None = None  # an axis of that shape that is no axis of the result

    def slice(self, start: Any, size: Any, stride: Any) -> None:
        self.starts.append(start)
        self.sizes.append(size)
        self.strides.append(stride)

    def gather(self, size: Any, index: Any) -> None:
        self.axes.append(len(self.shape))
        self.indices.append(index)
        self.shape.append(size)


def _is_integer(item: Any) -> bool:
    return isinstance(item, (int, np.integer, Dim)) and not isinstance(item, (bool, np.bool_))


def _is_array(item: Any) -> bool:
    return isinstance(item, (Cell, np.ndarray, list, bool, np.bool_))


def _axes_used(item: Any) -> int:
    """How many axes of the tensor an item of a key stands for."""
    if item is None or item is Ellipsis or item is _SEPARATOR:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is bool_ else 1


def _items(x: Any, key: Any) -> list[Any]:
    """The key as a list, one item an axis, the ellipsis written out and masks as index arrays."""
    parts = [ops.asarray(item) if _is_array(item) else item for item in _flat(key)]
    used = sum(_axes_used(part) for part in parts)
    if used > x.ndim:
        raise BoundsError(
            f"index: {used} indices for shape {shape_text(x.shape)}", fix=f"give at most {x.ndim}"
        ).located(here())
    dots = [k for k, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise BoundsError("index: two ellipses", fix="use `...` once").located(here())
    gap: list[Any] = [slice(None)] * (x.ndim - used) or [_SEPARATOR] * len(dots)
    where = dots[0] if dots else len(parts)
    items: list[Any] = []
    axis = 0
    for part in [*parts[:where], *gap, *parts[where + 1 :]]:
        items += _unmasked(x, axis, part)
        axis += _axes_used(part)
    return items


def _unmasked(x: Any, axis: int, part: Any) -> list[Any]:
    """An item; for a mask of the axes from `axis` on, one index array for each of them."""
    if not isinstance(part, Tensor) or part.dtype is not bool_:
        return [part]
    if part.ndim == 0:
        return [_New(nonzero(ops.reshape(part, (1,)))[0])]
    _require_mask(x.shape[axis : axis + part.ndim], x, part)
    return list(nonzero(part))


class _New(NamedTuple):
    """A 0-d mask: an axis of size 1 that was not there, gathered at one place or at none."""

    index: Any


# An ellipsis that stands for no axis: NumPy counts the index arrays around it as not adjacent.
_SEPARATOR = object()


def _plan(x: Any, key: Any) -> _Plan:
    items = _items(x, key)
    mixed = any(isinstance(item, (Cell, _New)) for item in items)
    plan = _Plan()
    for k, item in enumerate(items):
        if item is not _SEPARATOR:
            _add(plan, x, item, mixed)
        elif plan.axes and any(_is_integer(i) or isinstance(i, (Cell, _New)) for i in items[k:]):
            plan.separator = len(plan.shape)
            plan.shape.append(1)
    if plan.indices:
        common = ops.located_shapes("index", *(index.shape for index in plan.indices))
        plan.indices = [ops.broadcast_to(index, common) for index in plan.indices]
    return plan


def _add(plan: _Plan, x: Any, item: Any, mixed: bool) -> None:
    """One item more; among index arrays (`mixed`) an integer counts as one of them."""
    axis = len(plan.starts)
    if item is None:
        plan.shape.append(1)
    elif isinstance(item, _New):
        plan.gather(1, item.index)
    elif isinstance(item, slice):
        start, size, stride = _slice_bounds(item, x.shape[axis])
        if stride < 0:
            plan.flips.append(axis)
            start, stride = start + (size - 1) * stride if size != 0 else 0, -stride
        plan.slice(start, size, stride)
        plan.shape.append(size)
    elif isinstance(item, Cell):
        plan.slice(0, x.shape[axis], 1)
        plan.gather(x.shape[axis], item)
    elif not _is_integer(item):
        raise DTypeError(
            f"index: {type(item).__name__} is no index",
            fix="use integers, slices, None, `...`, integer or bool tensors",
        ).located(here())
    elif mixed:
        plan.slice(0, x.shape[axis], 1)
        plan.gather(x.shape[axis], ops.asarray(_in_bounds(item, x.shape[axis], axis)))
    else:
        plan.slice(_in_bounds(item, x.shape[axis], axis), 1, 1)


def _in_bounds(i: Any, n: Any, axis: int) -> Any:
    i = i if isinstance(i, Dim) else operator.index(i)
    if not (-n <= i and i < n):
        plain = (i.value if isinstance(i, Dim) else i), (n.value if isinstance(n, Dim) else n)
        raise BoundsError(
            f"index: index {plain[0]} is out of bounds for axis {axis} of size {plain[1]}",
            fix=f"indices go from {-plain[1]} to {plain[1] - 1}" if plain[1] else "it is empty",
        ).located(here())
    return i + n if i < 0 else i


def _slice_bounds(item: slice, n: Any) -> tuple[Any, Any, Any]:
    """(start, size, step) of a slice of an axis of size n: `slice.indices`, symbolic where n is."""
    step = 1 if item.step is None else _bound(item.step)
    if step == 0:
        raise ShapeError("index: the slice step is 0", fix="use another step").located(here())
    if step > 0:
        start = _clamped(item.start, 0, 0, n)
        stop = _clamped(item.stop, n, 0, n, n)
        span = stop - start
        return start, (0 if span < 0 else -(-span // step)), step
    start = _clamped(item.start, n - 1, -1, n - 1, n)
    stop = _clamped(item.stop, -1, -1, n - 1, n)
    span = start - stop
    return start, (0 if span < 0 else -(-span // -step)), step


def _bound(value: Any) -> Any:
    if isinstance(value, Cell):
        return operator.index(value)  # type: ignore[arg-type]
    return value if isinstance(value, Dim) else operator.index(value)


def _clamped(value: Any, default: Any, low: Any, high: Any, n: Any = None) -> Any:
    if value is None:
        return default
    value = _bound(value)
    value = value + (high if n is None else n) if value < 0 else value
    if value < low:
        return low
    return high if value > high else value


def getitem(x: Any, key: Any) -> Any:
    """`x[key]` as NumPy: integers, slices, None, `...`, integer tensors, bool masks.

    Raises BoundsError, DTypeError.

    >>> import stagekit as sk
    >>> sk.arange(6)[1:4]
    tensor([1, 2, 3], dtype=int64)
    """
    try:
        if type(key) is int and x.ndim:
            return _row(x, key)
        plan = _plan(x, key)
        out = x
        if not known_same(tuple(plan.sizes), x.shape) or any(d != 1 for d in plan.strides):
            starts, sizes, strides = (tuple(v) for v in (plan.starts, plan.sizes, plan.strides))
            out = ops.slice(out, starts=starts, sizes=sizes, strides=strides)
        if plan.flips:
            out = ops.flip(out, axis=tuple(plan.flips))
        if not known_same(tuple(plan.shape), out.shape):
            out = ops.reshape(out, tuple(plan.shape))
        if plan.indices:
            out = gather(out, *plan.indices, axes=tuple(plan.axes))
        if plan.separator is not None:
            kept = sum(k not in plan.axes for k in range(plan.separator))
            out = ops.squeeze(out, axis=plan.indices[0].ndim + kept)
        return ops.alias(x) if out is x else out
    except Exception as error:
        hide_frames(error)
        raise


def _row(x: Any, i: int) -> Any:
    """`x[i]`, the most frequent of all keys, without a plan."""
    n, *rest = x.shape
    start, zeros = _in_bounds(i, n, 0), (0,) * len(rest)
    sizes, strides = (1, *rest), (1,) * x.ndim
    return ops.reshape(ops.slice(x, starts=(start, *zeros), sizes=sizes, strides=strides), rest)


def _flat(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _update(x: Any, key: Any, value: Any, mode: str) -> Any:
    """`x` with `value` combined in at `key`: whole masks by `where`, all else by `scatter`."""
    x = ops.asarray(x)
    if weak_type(value) is not None and x.dtype.inexact:
        value = ops.asarray(value, dtype=x.dtype)  # not by way of the default float
    if mode == "set" and isinstance(key, (Cell, np.ndarray)):
        mask = ops.asarray(key)
        value_rank = ops.asarray(value).ndim
        if mask.dtype is bool_ and value_rank == 0 and mask.ndim <= x.ndim:
            _require_mask(x.shape[: mask.ndim], x, mask)
            if known_same(mask.shape, x.shape[: mask.ndim]):
                tail = (1,) * (x.ndim - mask.ndim)
                fitted = ops.reshape(mask, (*mask.shape, *tail))
                return ops.where(fitted, ops.astype(value, x.dtype), x)
    value = ops.astype(ops.asarray(value), x.dtype, copy=False)
    index = getitem(ops.reshape(ops.iota(size=x.size, dtype=default_int), x.shape), key)
    if not _broadcasts(value.shape, index.shape):
        raise ShapeError(
            f"index: a value of shape {shape_text(value.shape)} does not fit the selected "
            f"{shape_text(index.shape)}",
            fix="the value must broadcast to the shape of `x[key]`",
        ).located(here())
    value = ops.broadcast_to(_without_lead(value, index.ndim), index.shape)
    flat = _scatter(ops.reshape(x, -1), value, index, axes=(0,), mode=mode)
    return ops.reshape(flat, x.shape)


def _require_mask(sizes: tuple[Any, ...], x: Any, mask: Any) -> None:
    """BoundsError for a mask of other sizes than the axes it selects from, or 0."""
    pairs = zip(mask.shape, sizes, strict=False)
    if len(mask.shape) != len(sizes) or not all(same_size(m, n) or m == 0 for m, n in pairs):
        raise BoundsError(
            f"index: a mask of shape {shape_text(mask.shape)} does not fit shape "
            f"{shape_text(x.shape)}",
            fix="a mask must have the shape of the axes it selects from",
        ).located(here())


def _broadcasts(shape: Sequence[Any], target: Sequence[Any]) -> bool:
    lead = len(shape) - len(target)
    if any(n != 1 for n in shape[: max(lead, 0)]):
        return False
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return all((isinstance(n, int) and n == 1) or n == m or n == 1 for n, m in pairs)


def _without_lead(value: Any, ndim: int) -> Any:
    extra = value.ndim - ndim
    return ops.reshape(value, value.shape[extra:]) if extra > 0 else value


class At:
    """`x.at[key]`: the value of `x` with a part changed; `x` stays as it is.

    >>> import stagekit as sk
    >>> sk.zeros(3).at[1].add(5)
    tensor([0., 5., 0.], dtype=float32)
    """

    __slots__ = ("_key", "_x")

    def __init__(self, x: Any, key: Any = None) -> None:
        self._x, self._key = x, key

    def __getitem__(self, key: Any) -> At:
        return At(self._x, key)

    def set(self, value: Any, /) -> Any:
        """The elements replaced; of several writes to one place the last wins."""
        return _update(self._x, self._key, value, "set")

    def add(self, value: Any, /) -> Any:
        """`value` added; repeated places add up, as `numpy.add.at`."""
        return _update(self._x, self._key, value, "add")

    def multiply(self, value: Any, /) -> Any:
        """Multiplied by `value`; repeated places multiply up, as `numpy.multiply.at`."""
        return _update(self._x, self._key, value, "multiply")

    def min(self, value: Any, /) -> Any:
        """The smaller of the element and `value`, as `numpy.minimum.at`."""
        return _update(self._x, self._key, value, "min")

    def max(self, value: Any, /) -> Any:
        """The larger of the element and `value`, as `numpy.maximum.at`."""
        return _update(self._x, self._key, value, "max")


def setitem(x: Any, key: Any, value: Any) -> None:
    """`x[key] = value`: a new buffer goes into the cell `x`; slices taken keep the old one.

    >>> import stagekit as sk
    >>> x = sk.zeros(2)
    >>> x[0] = 5
    >>> x
    tensor([5., 0.], dtype=float32)
    """
    try:
        interpreter = current()
        interpreter.write(x, interpreter.read(At(x)[key].set(value)))
    except Exception as error:
        hide_frames(error)
        raise


# ----- take and friends ---------------------------------------------------------------------------


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    """Slices of `x` along `axis` at integer `indices` of any shape, as `numpy.take`.

    `axis` may be left out for a 1-d `x`. Raises BoundsError.

    >>> import stagekit as sk
    >>> sk.take(sk.asarray([10, 20, 30]), sk.asarray([2, 0]))
    tensor([30, 10], dtype=int64)
    """
    x = ops.asarray(x)
    if axis is None and x.ndim != 1:
        raise ShapeError("take: axis is missing", fix=f"name one of {x.ndim} axes").located(here())
    return gather(x, indices, axes=(normalize_axis("take", axis or 0, x.ndim),))


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """Elements of `x` at `indices` along one axis, the other axes matched; `numpy.take_along_axis`.

    Raises BoundsError, and ShapeError where the ranks differ.

    >>> import stagekit as sk
    >>> sk.take_along_axis(sk.asarray([[1, 2], [3, 4]]), sk.asarray([[1], [0]]), axis=1)
    tensor([[2],
            [3]], dtype=int64)
    """
    x, indices = ops.asarray(x), ops.asarray(indices)
    axis = normalize_axis("take_along_axis", axis, x.ndim)
    if indices.ndim != x.ndim:
        raise ShapeError(
            f"take_along_axis: shapes {shape_text(x.shape)} and {shape_text(indices.shape)} "
            "differ in rank",
            fix="give indices as many axes as x has",
        ).located(here())
    grids = [
        indices
        if k == axis
        else ops.reshape(ops.iota(size=n, dtype=default_int), _column(k, x.ndim, n))
        for k, n in enumerate(x.shape)
    ]
    return gather(x, *ops.broadcast_arrays(*grids), axes=tuple(range(x.ndim)))


def _column(axis: int, ndim: int, n: Any) -> tuple[Any, ...]:
    return tuple(n if k == axis else 1 for k in range(ndim))


def nonzero(x: Any, /, *, size: Any = None, fill_value: Any = 0) -> tuple[Any, ...]:
    """The indices of the elements that are not zero, one tensor an axis, as `numpy.nonzero`.

    The result's size depends on the data: a staged call runs eagerly from here. With `size` it does
    not, as in `jax.numpy.nonzero`: further indices are dropped, missing ones are `fill_value`, a
    number or one an axis. Raises ShapeError for a 0-d tensor.

    >>> import stagekit as sk
    >>> sk.nonzero(sk.asarray([0, 3, 4]))[0], sk.nonzero(sk.asarray([0, 3, 4]), size=3)[0]
    (tensor([1, 2], dtype=int64), tensor([1, 2, 0], dtype=int64))
    """
    x = ops.asarray(x)
    if x.ndim == 0:
        raise ShapeError(
            "nonzero: a 0-d tensor has no axes", fix="reshape it to (1,), or use `x != 0`"
        ).located(here())
    if size is None:
        array = ops.on_host(x, "a size that depends on the data")
        return tuple(ops.asarray(index) for index in np.nonzero(array))
    fills = fill_value if isinstance(fill_value, tuple) else (fill_value,) * x.ndim
    if len(fills) != x.ndim:
        raise ShapeError(
            f"nonzero: {len(fills)} fill values for shape {shape_text(x.shape)}",
            fix="give one number, or one an axis",
        ).located(here())
    places, there = _first_nonzero(x, *ops.as_shape("nonzero", size))
    found = []
    for n, fill in zip(reversed(x.shape), reversed(fills), strict=True):
        found.append(ops.where(there, places % n, fill))
        places = places // n
    return tuple(reversed(found))


def _first_nonzero(x: Any, size: Any) -> tuple[Any, Any]:
    """The places in the flat tensor of `size` elements that are not zero, and which of them exist.

    Each is written to the slot of its rank, all others to one slot more.
    """
    mask = ops.astype(ops.reshape(x, -1), bool_)
    rank = ops.cumulative_sum(mask) - 1
    slot = ops.where(ops.logical_and(mask, rank < size), rank, size)
    board = ops.zeros(size + 1, dtype=default_int)
    serial = ops.iota(size=mask.size, dtype=default_int)
    board = _scatter(board, serial, slot, axes=(0,), mode="set")
    there = ops.iota(size=size, dtype=default_int) < ops.count_nonzero(mask)
    return board[:size], there


def flatnonzero(x: Any, /, *, size: Any = None, fill_value: Any = 0) -> Any:
    """The places of the elements of the flat tensor that are not zero; see `nonzero`.

    As `numpy.flatnonzero`.

    >>> import stagekit as sk
    >>> sk.flatnonzero(sk.asarray([[0, 3], [4, 0]]))
    tensor([1, 2], dtype=int64)
    """
    return nonzero(ops.reshape(x, -1), size=size, fill_value=fill_value)[0]


def argwhere(x: Any, /, *, size: Any = None, fill_value: Any = 0) -> Any:
    """The indices of the elements that are not zero, one row each, as `numpy.argwhere`.

    >>> import stagekit as sk
    >>> sk.argwhere(sk.asarray([[0, 3], [4, 0]]))
    tensor([[0, 1],
            [1, 0]], dtype=int64)
    """
    return ops.stack(nonzero(x, size=size, fill_value=fill_value), axis=-1)
