"""Ops that move elements: each is linear, so it says its transpose, and the derivatives follow."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.op import Op, Speller
from stagekit.ops.batching import Mapped, along_axis, behind, ranked, spread
from stagekit.source import here
from stagekit.symbolic import Dim, maximum, product
from stagekit.types import (
    DType,
    TensorType,
    as_integer,
    broadcast_shapes,
    known_same,
    normalize_axes,
    normalize_axis,
    promote,
    same_shape,
    same_size,
    shape_text,
)

Index = Sequence[Any]
Shape = tuple[Any, ...]


def linear(
    name: str,
    transpose: Callable[..., Any],
    *,
    moves: bool = True,
    family: str = "movement",
    **facts: Any,
) -> Op:
    """Declare an op linear in its one operand: `transpose(ct, x, **attrs)` is its vjp."""

    def vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
        return transpose(ct, xs[0], **attrs)

    def jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
        return op(tangents[0], **attrs)

    op = Op(name, vjp=vjp, jvp=jvp, moves=moves, family=family, **facts)
    return op


# ----- reshape ------------------------------------------------------------------------------------


def _reshape_type(x: TensorType, *, shape: Shape) -> TensorType:
    if not same_size(product(x.shape), product(shape)):
        raise ShapeError(
            f"reshape: shape {shape_text(x.shape)} does not fit {shape_text(shape)}",
            fix="keep the number of elements, or give one size as -1",
        )
    return x.with_shape(shape)


def _reshape_element(e: Speller, out: TensorType, idx: Index, x: Any, *, shape: Shape) -> Any:
    flat: Any = 0
    for i, size in zip(idx, shape, strict=True):
        flat = flat * size + i
    source: list[Any] = []
    for size in reversed(x.shape):
        source.append(flat % size)
        flat = flat // size
    return x(*reversed(source))


_reshape: Op = linear(
    "reshape",
    lambda ct, x, *, shape: _reshape(ct, shape=x.shape),
    batch=lambda size, args, mapped, attrs: _reshape(*args, shape=(size, *attrs["shape"])),
    infer=_reshape_type,
    evaluate=lambda xp, x, *, shape: x.reshape(shape),
    element=_reshape_element,
    doc="""The elements in another shape, in the same order. As `numpy.reshape`.

    >>> _reshape(ops.asarray([1, 2]), shape=(2, 1))
    tensor([[1],
            [2]], dtype=int64)
    """,
)


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
    """`x` in another shape of as many elements, one size may be -1; as `numpy.reshape`.

    Raises ShapeError where the elements do not fit.

    >>> import stagekit as sk
    >>> sk.reshape(sk.arange(6), (2, -1)).shape
    (2, 3)
    """
    x = ops.asarray(x)
    wanted = shape if isinstance(shape, (tuple, list)) else (shape,)
    sizes = [n if isinstance(n, (int, Dim)) else as_integer("reshape", "a size", n) for n in wanted]
    for k, n in enumerate(sizes):
        if n < 0:
            sizes[k] = _missing(x, sizes, k)
    return _reshape(x, shape=tuple(sizes))


def _missing(x: Any, sizes: Sequence[Any], hole: int) -> Any:
    """The size that was given as -1."""
    others = [*sizes[:hole], *sizes[hole + 1 :]]
    if sizes[hole] != -1 or any(n < 0 for n in others):
        raise ShapeError(
            f"reshape: shape {shape_text(tuple(sizes))} has a negative size",
            fix="one size at most may be -1",
        ).located(here())
    known = product(others)
    if known == 0 or x.size % known != 0:
        raise ShapeError(
            f"reshape: shape {shape_text(x.shape)} does not fit {shape_text(tuple(sizes))}",
            fix="the known sizes must divide the number of elements",
        ).located(here())
    return x.size // known


def expand_dims(x: Any, /, axis: Any) -> Any:
    """`x` with axes of size 1 inserted at `axis` (an int or a tuple), as `numpy.expand_dims`.

    >>> import stagekit as sk
    >>> sk.expand_dims(sk.zeros(3), axis=-1).shape
    (3, 1)
    """
    x = ops.asarray(x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    places = normalize_axes("expand_dims", axes, x.ndim + len(axes))
    sizes = iter(x.shape)
    return _reshape(
        x, shape=tuple(1 if k in places else next(sizes) for k in range(x.ndim + len(axes)))
    )


def squeeze(x: Any, /, axis: Any = None) -> Any:
    """`x` without the axes of size 1 (all of them, or those named), as `numpy.squeeze`.

    Raises ShapeError where a named axis has another size.

    >>> import stagekit as sk
    >>> sk.squeeze(sk.zeros((1, 3, 1)), axis=0).shape
    (3, 1)
    """
    x = ops.asarray(x)
    if axis is None:
        places = tuple(k for k, n in enumerate(x.shape) if n == 1)
    else:
        places = normalize_axes("squeeze", axis, x.ndim)
        for k in places:
            if x.shape[k] != 1:
                raise ShapeError(
                    f"squeeze: axis {k} of shape {shape_text(x.shape)} is not 1",
                    fix="name axes of size 1",
                ).located(here())
    return _reshape(x, shape=tuple(n for k, n in enumerate(x.shape) if k not in places))


# ----- permute, broadcast, flip -------------------------------------------------------------------


def _inverse(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=lambda k: axes[k]))


_permute: Op = linear(
    "permute",
    lambda ct, x, *, axes: _permute(ct, axes=_inverse(axes)),
    batch=lambda size, args, mapped, attrs: _permute(*args, axes=(0, *behind(attrs["axes"]))),
    infer=lambda x, *, axes: x.with_shape(x.shape[a] for a in axes),
    evaluate=lambda xp, x, *, axes: x.transpose(axes),
    element=lambda e, out, idx, x, *, axes: x(*(idx[k] for k in _inverse(axes))),
    doc="""The axes in another order. As `numpy.transpose`.

    >>> _permute(ops.asarray([[1, 2]]), axes=(1, 0))
    tensor([[1],
            [2]], dtype=int64)
    """,
)


def permute_dims(x: Any, /, axes: Any = None) -> Any:
    """The axes of `x` in the order `axes`, reversed without it, as `numpy.transpose`.

    Raises ShapeError if `axes` is no permutation.

    >>> import stagekit as sk
    >>> sk.permute_dims(sk.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    x = ops.asarray(x)
    axes = range(x.ndim)[::-1] if axes is None else axes
    axes = axes if isinstance(axes, (tuple, list, range)) else (axes,)
    order = tuple(normalize_axis("permute_dims", a, x.ndim) for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(
            f"permute_dims: axes {tuple(axes)} are no permutation of {x.ndim} axes",
            fix="name each axis once",
        ).located(here())
    return _permute(x, axes=order)


transpose = permute_dims


def matrix_transpose(x: Any, /) -> Any:
    """The last two axes swapped, as `numpy.matrix_transpose`.

    >>> import stagekit as sk
    >>> sk.matrix_transpose(sk.zeros((5, 2, 3))).shape
    (5, 3, 2)
    """
    x = ops.asarray(x)
    if x.ndim < 2:
        raise ShapeError(
            f"matrix_transpose: shape {shape_text(x.shape)} has fewer than 2 axes",
            fix="give a matrix or a stack of matrices",
        ).located(here())
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, /, axis1: int, axis2: int) -> Any:
    """Two axes exchanged, as `numpy.swapaxes`.

    >>> import stagekit as sk
    >>> sk.swapaxes(sk.zeros((2, 3, 4)), 0, 2).shape
    (4, 3, 2)
    """
    x = ops.asarray(x)
    order = list(range(x.ndim))
    a, b = (normalize_axis("swapaxes", k, x.ndim) for k in (axis1, axis2))
    order[a], order[b] = order[b], order[a]
    return permute_dims(x, order)


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """Axes moved to new places, the others keep their order, as `numpy.moveaxis`.

    >>> import stagekit as sk
    >>> sk.moveaxis(sk.zeros((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    x = ops.asarray(x)
    pair = [a if isinstance(a, (tuple, list)) else (a,) for a in (source, destination)]
    if len(pair[0]) != len(pair[1]):
        raise ShapeError(
            f"moveaxis: {len(pair[0])} axes go to {len(pair[1])} places", fix="pair them up"
        ).located(here())
    old, new = ([normalize_axis("moveaxis", a, x.ndim) for a in axes] for axes in pair)
    order = [a for a in range(x.ndim) if a not in old]
    for place, axis in sorted(zip(new, old, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, order)


def _broadcast_type(x: TensorType, *, shape: Shape) -> TensorType:
    fits = len(shape) >= len(x.shape)
    if not fits or not same_shape(broadcast_shapes("broadcast_to", x.shape, shape), shape):
        raise ShapeError(
            f"broadcast_to: shape {shape_text(x.shape)} does not broadcast to {shape_text(shape)}",
            fix="sizes must be equal or 1, counted from the last axis",
        )
    return x.with_shape(shape)


def _broadcast_batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: Any) -> Any:
    shape = attrs["shape"]
    return _broadcast_to(*ranked(args, mapped, len(shape)), shape=(size, *shape))


_broadcast_to: Op = linear(
    "broadcast_to",
    lambda ct, x, *, shape: ops.unbroadcast(ct, x),
    batch=_broadcast_batch,
    infer=_broadcast_type,
    evaluate=lambda xp, x, *, shape: xp.broadcast_to(x, shape),
    element=lambda e, out, idx, x, *, shape: x(*ops.aligned(out, idx, x.shape)),
    doc="""The elements repeated to a shape. As `numpy.broadcast_to`.

    >>> _broadcast_to(ops.asarray([1]), shape=(3,))
    tensor([1, 1, 1], dtype=int64)
    """,
)


def broadcast_to(x: Any, /, shape: Any) -> Any:
    """`x` repeated to `shape` by broadcasting, as `numpy.broadcast_to`; else ShapeError.

    >>> import stagekit as sk
    >>> sk.broadcast_to(sk.zeros(3), (2, 3)).shape
    (2, 3)
    """
    x, sizes = ops.asarray(x), ops.as_shape("broadcast_to", shape)
    return ops.alias(x) if known_same(x.shape, sizes) else _broadcast_to(x, shape=sizes)


def broadcast_arrays(*arrays: Any) -> tuple[Any, ...]:
    """All operands in their common shape, as `numpy.broadcast_arrays`.

    >>> import stagekit as sk
    >>> [x.shape for x in sk.broadcast_arrays(sk.zeros((2, 1)), sk.zeros(3))]
    [(2, 3), (2, 3)]
    """
    tensors = [ops.asarray(x) for x in arrays]
    shape = located_shapes("broadcast_arrays", *(x.shape for x in tensors))
    return tuple(broadcast_to(x, shape) for x in tensors)


def located_shapes(op: str, *shapes: Shape) -> Shape:
    """The common shape; the error names the user's line.

    >>> located_shapes("add", (3, 1), (4,))
    (3, 4)
    """
    try:
        return broadcast_shapes(op, *shapes)
    except ShapeError as error:
        raise error.located(here()) from None


_flip: Op = linear(
    "flip",
    lambda ct, x, *, axes: _flip(ct, axes=axes),
    batch=lambda size, args, mapped, attrs: _flip(*args, axes=behind(attrs["axes"])),
    infer=lambda x, *, axes: x,
    evaluate=lambda xp, x, *, axes: xp.flip(x, axes),
    element=lambda e, out, idx, x, *, axes: x(
        *(x.shape[k] - 1 - i if k in axes else i for k, i in enumerate(idx))
    ),
    doc="""The order of the elements reversed along `axes`. As `numpy.flip`.

    >>> _flip(ops.asarray([1, 2, 3]), axes=(0,))
    tensor([3, 2, 1], dtype=int64)
    """,
)


def flip(x: Any, /, *, axis: Any = None) -> Any:
    """The order of elements reversed along `axis` (None: all axes), as `numpy.flip`.

    >>> import stagekit as sk
    >>> sk.flip(sk.arange(3))
    tensor([2, 1, 0], dtype=int64)
    """
    x = ops.asarray(x)
    return _flip(x, axes=normalize_axes("flip", axis, x.ndim))


# ----- slice and pad: transposes of each other ----------------------------------------------------


def _slice_evaluate(xp: Any, x: Any, *, starts: Shape, sizes: Shape, strides: Shape) -> Any:
    parts = zip(starts, sizes, strides, strict=True)
    return x[tuple(builtins.slice(s, s + (n - 1) * d + 1 if n else s, d) for s, n, d in parts)]


def _slice_transpose(ct: Any, x: Any, *, starts: Shape, sizes: Shape, strides: Shape) -> Any:
    interior = tuple(d - 1 for d in strides)
    high = tuple(
        total - s - n - gap * maximum(n - 1, 0)
        for total, s, n, gap in zip(x.shape, starts, sizes, interior, strict=True)
    )
    zero = ops.zeros((), dtype=ct.dtype)
    return _pad(ct, zero, low=starts, high=high, interior=interior)


def _slice_batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: Any) -> Any:
    whole = {"starts": 0, "sizes": size, "strides": 1}
    return slice(*args, **{key: (whole[key], *attrs[key]) for key in whole})


slice: Op = linear(
    "slice",
    _slice_transpose,
    batch=_slice_batch,
    infer=lambda x, *, starts, sizes, strides: x.with_shape(sizes),
    evaluate=_slice_evaluate,
    element=lambda e, out, idx, x, *, starts, sizes, strides: x(
        *(s + i * d for i, s, d in zip(idx, starts, strides, strict=True))
    ),
    doc="""`sizes[k]` elements of axis k from `starts[k]` in steps of `strides[k]`, all > 0.

    >>> slice(ops.asarray([1, 2, 3, 4]), starts=(1,), sizes=(2,), strides=(2,))
    tensor([2, 4], dtype=int64)
    """,
)


def _padded(n: Any, low: Any, high: Any, gap: Any) -> Any:
    return low + n + gap * maximum(n - 1, 0) + high


def _pad_type(
    x: TensorType, value: TensorType, *, low: Shape, high: Shape, interior: Shape
) -> TensorType:
    parts = zip(x.shape, low, high, interior, strict=True)
    return x.with_shape(_padded(*part) for part in parts)


def _pad_evaluate(xp: Any, x: Any, value: Any, *, low: Shape, high: Shape, interior: Shape) -> Any:
    parts = list(zip(x.shape, low, high, interior, strict=True))
    out = xp.full([_padded(*part) for part in parts], value, x.dtype)
    out[
        tuple(builtins.slice(s, s + n + gap * max(n - 1, 0), gap + 1) for n, s, _, gap in parts)
    ] = x
    return out


def _pad_element(
    e: Speller, out: TensorType, idx: Index, x: Any, value: Any, **attrs: Shape
) -> Any:
    def inside(axis: int) -> Any:
        if axis == len(idx):
            return x(*source)
        i, n = idx[axis] - attrs["low"][axis], x.shape[axis]
        step = attrs["interior"][axis] + 1
        source.append(i // step)
        fits = (i >= 0) & (i % step == 0) & (i // step < n)
        return e.select(fits, lambda: inside(axis + 1), lambda: value())

    source: list[Any] = []
    return inside(0)


def _pad_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    strides = tuple(gap + 1 for gap in attrs["interior"])
    inner = slice(ct, starts=attrs["low"], sizes=xs[0].shape, strides=strides)
    return inner if i == 0 else ops.sum(ct) - ops.sum(inner)


def _pad_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, value = (ops.zeros_like(p) if t is None else t for t, p in zip(tangents, xs, strict=True))
    return _pad(x, value, **attrs)


def _pad_batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: Any) -> Any:
    """Where each lane has a value of its own, that one is chosen outside of a padded mask."""
    (x, value), widths = args, {key: (0, *width) for key, width in attrs.items()}
    x = spread(size, x, mapped[0])
    if not mapped[1]:
        return _pad(x, value, **widths)
    inside = _pad(ops.full(x.shape, True), False, **widths)
    padded = _pad(x, ops.zeros((), dtype=x.dtype), **widths)
    return ops.where(inside, padded, *ranked([value], [True], x.ndim - 1))


def common(name: str, operands: Sequence[Any]) -> Sequence[DType]:
    """All operands in their common type."""
    return [promote(operands, name)] * len(operands)


def _like_first(name: str, operands: Sequence[Any]) -> Sequence[DType]:
    if not isinstance(operands[0], DType):
        return common(name, operands)
    return [operands[0]] * len(operands)


_pad = Op(
    "pad",
    infer=_pad_type,
    evaluate=_pad_evaluate,
    element=_pad_element,
    dtypes=_like_first,
    vjp=_pad_vjp,
    jvp=_pad_jvp,
    moves=True,
    batch=_pad_batch,
    family="movement",
    doc="""`x` with `value` around it (`low`, `high`) and between its elements (`interior`).

    >>> _pad(ops.asarray([1, 2]), 0, low=(1,), high=(0,), interior=(1,))
    tensor([0, 1, 0, 2], dtype=int64)
    """,
)


def pad(x: Any, /, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Any:
    """`x` with elements added around it, as `numpy.pad`.

    `pad_width` is an int, a pair, or a pair an axis; `mode` is "constant", "edge", "reflect",
    "symmetric" or "wrap". Raises ShapeError for negative widths.

    >>> import stagekit as sk
    >>> sk.pad(sk.ones(2), (1, 2))
    tensor([0., 1., 1., 0., 0.], dtype=float32)
    """
    x = ops.asarray(x)
    widths = _widths(x, pad_width)
    if mode == "constant":
        low, high = (tuple(w[k] for w in widths) for k in (0, 1))
        return _pad(x, constant_values, low=low, high=high, interior=(0,) * x.ndim)
    if mode not in _MODES:
        raise ArgumentError(
            f"pad: mode is {mode!r}", fix=f"use one of constant, {', '.join(_MODES)}"
        ).located(here())
    for axis, (before, after) in enumerate(widths):
        if before or after:
            if x.shape[axis] == 0:
                raise ShapeError(
                    f"pad: axis {axis} of shape {shape_text(x.shape)} has nothing to repeat",
                    fix="use mode='constant'",
                ).located(here())
            x = ops.take(x, _MODES[mode](x.shape[axis], before, after), axis=axis)
    return x


def _widths(x: Any, given: Any) -> list[tuple[int, int]]:
    width = given
    if not isinstance(width, (tuple, list)):
        width = (width, width)
    if not any(isinstance(w, (tuple, list)) for w in width):
        width = [width] * max(x.ndim, 1)
    width = [w if isinstance(w, (tuple, list)) else (w,) for w in width]
    pairs = [(_width(w[0]), _width(w[-1])) for w in (width * x.ndim if len(width) == 1 else width)]
    if (len(pairs) != x.ndim and x.ndim) or any(n < 0 for pair in pairs for n in pair):
        raise ShapeError(
            f"pad: pad_width {given} does not fit shape {shape_text(x.shape)}",
            fix="give a pair of widths of 0 or more for each axis",
        ).located(here())
    return pairs[: x.ndim]


def _width(n: Any) -> int:
    return int(as_integer("pad", "a width", n))


def _places(n: Any, low: int, high: int) -> Any:
    return ops.arange(-low, n + high)


def _reflected(n: Any, low: int, high: int) -> Any:
    """0 1 2 3 2 1 0 1 ...: a triangle wave of period 2 (n - 1)."""
    period = maximum(2 * (n - 1), 1)
    k = _places(n, low, high) % period
    return ops.minimum(k, period - k)


def _symmetric(n: Any, low: int, high: int) -> Any:
    """0 1 2 2 1 0 0 1 ...: a triangle wave of period 2 n."""
    k = _places(n, low, high) % (2 * n)
    return ops.minimum(k, 2 * n - 1 - k)


_MODES: dict[str, Callable[[Any, int, int], Any]] = {
    "edge": lambda n, low, high: ops.clip(_places(n, low, high), 0, n - 1),
    "reflect": _reflected,
    "symmetric": _symmetric,
    "wrap": lambda n, low, high: _places(n, low, high) % n,
}

# ----- concat, and what is made of it -------------------------------------------------------------


def _concat_type(*xs: TensorType, axis: int) -> TensorType:
    first, *rest = xs
    total = first.shape[axis]
    for x in rest:
        if len(x.shape) != len(first.shape) or not all(
            k == axis or same_size(n, m)
            for k, (n, m) in enumerate(zip(first.shape, x.shape, strict=True))
        ):
            shapes = " and ".join(shape_text(t.shape) for t in (first, x))
            raise ShapeError(
                f"concat: shapes {shapes} differ beside axis {axis}",
                fix="all axes but the one joined must be equal",
            )
        total = total + x.shape[axis]
    sizes = (*first.shape[:axis], total, *first.shape[axis + 1 :])
    return first.with_shape(sizes)


def _concat_element(e: Speller, out: TensorType, idx: Index, *xs: Any, axis: int) -> Any:
    i, first = idx[axis], xs[0]
    if len(xs) == 1:
        return first(*idx)
    n = first.shape[axis]
    rest = (*idx[:axis], i - n, *idx[axis + 1 :])
    return e.select(
        i < n, lambda: first(*idx), lambda: _concat_element(e, out, rest, *xs[1:], axis=axis)
    )


def _concat_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    axis = attrs["axis"]
    starts: list[Any] = [0] * ct.ndim
    for x in xs[:i]:
        starts[axis] = starts[axis] + x.shape[axis]
    return slice(ct, starts=tuple(starts), sizes=xs[i].shape, strides=(1,) * ct.ndim)


def _concat_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    parts = [ops.zeros_like(x) if t is None else t for t, x in zip(tangents, xs, strict=True)]
    return _concat(*parts, **attrs)


_concat: Op = Op(
    "concat",
    infer=_concat_type,
    evaluate=lambda xp, *xs, axis: xp.concatenate(xs, axis),
    element=_concat_element,
    dtypes=common,
    vjp=_concat_vjp,
    jvp=_concat_jvp,
    moves=True,
    batch=along_axis("concat"),
    family="movement",
    doc="""Operands joined along `axis`, in their common type. As `numpy.concatenate`.

    >>> _concat(ops.asarray([1]), ops.asarray([2, 3]), axis=0)
    tensor([1, 2, 3], dtype=int64)
    """,
)


def _tensors(op: str, arrays: Any) -> list[Any]:
    tensors = [ops.asarray(x) for x in arrays]
    if not tensors:
        raise ShapeError(f"{op}: no tensors were given", fix="give at least one").located(here())
    return tensors


def concat(arrays: Any, /, *, axis: int | None = 0) -> Any:
    """Tensors joined along an axis (None: flattened first), as `numpy.concatenate`.

    Raises ShapeError where the other axes differ.

    >>> import stagekit as sk
    >>> sk.concat([sk.zeros(1), sk.ones(2)])
    tensor([0., 1., 1.], dtype=float32)
    """
    tensors = _tensors("concat", arrays)
    if axis is None:
        return concat([reshape(x, -1) for x in tensors])
    return _concat(*tensors, axis=normalize_axis("concat", axis, tensors[0].ndim))


def stack(arrays: Any, /, *, axis: int = 0) -> Any:
    """Tensors of one shape joined along a new axis, as `numpy.stack`.

    >>> import stagekit as sk
    >>> sk.stack([sk.zeros(3), sk.ones(3)], axis=1).shape
    (3, 2)
    """
    tensors = _tensors("stack", arrays)
    for x in tensors[1:]:
        if not same_shape(x.shape, tensors[0].shape):
            shapes = " and ".join(shape_text(t.shape) for t in (tensors[0], x))
            raise ShapeError(f"stack: shapes {shapes} differ", fix="give one shape").located(here())
    return concat([expand_dims(x, axis=axis) for x in tensors], axis=axis)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices of `x` along an axis, as the standard's `unstack`.

    >>> import stagekit as sk
    >>> len(sk.unstack(sk.zeros((3, 2))))
    3
    """
    x = ops.asarray(x)
    axis = normalize_axis("unstack", axis, x.ndim)
    lead = (builtins.slice(None),) * axis
    return tuple(x[(*lead, i)] for i in range(x.shape[axis]))


def split(x: Any, /, indices_or_sections: Any, *, axis: int = 0) -> list[Any]:
    """`x` cut along an axis: into so many equal parts, or at the given indices; as `numpy.split`.

    Raises ShapeError where equal parts do not fit.

    >>> import stagekit as sk
    >>> [part.shape for part in sk.split(sk.arange(6), 3)]
    [(2,), (2,), (2,)]
    """
    x = ops.asarray(x)
    axis = normalize_axis("split", axis, x.ndim)
    size, cuts = x.shape[axis], indices_or_sections
    if not isinstance(cuts, (tuple, list)):
        if cuts < 1 or size % cuts != 0:
            raise ShapeError(
                f"split: axis {axis} of shape {shape_text(x.shape)} has no {cuts} equal parts",
                fix="give the indices to cut at",
            ).located(here())
        cuts = [(size // cuts) * k for k in range(1, cuts)]
    lead = (builtins.slice(None),) * axis
    edges = zip([0, *cuts], [*cuts, size], strict=True)
    return [x[(*lead, builtins.slice(a, b))] for a, b in edges]


def tile(x: Any, repetitions: Any, /) -> Any:
    """`x` repeated as a whole along each axis, as `numpy.tile`.

    >>> import stagekit as sk
    >>> sk.tile(sk.arange(2), 2)
    tensor([0, 1, 0, 1], dtype=int64)
    """
    x = ops.asarray(x)
    times = ops.as_shape("tile", repetitions)
    times = (1,) * (x.ndim - len(times)) + times
    shape = (1,) * (len(times) - x.ndim) + tuple(x.shape)
    rows = reshape(x, tuple(m for n in shape for m in (1, n)))
    wide = broadcast_to(rows, tuple(m for t, n in zip(times, shape, strict=True) for m in (t, n)))
    return reshape(wide, tuple(t * n for t, n in zip(times, shape, strict=True)))


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    """Each element (or slice along `axis`) repeated `repeats` times, as `numpy.repeat`.

    `repeats` is an int, or a list of ints, one an element (or one for all).

    >>> import stagekit as sk
    >>> sk.repeat(sk.arange(2), 2)
    tensor([0, 0, 1, 1], dtype=int64)
    """
    x = ops.asarray(x)
    if axis is None:
        return repeat(reshape(x, -1), repeats, axis=0)
    axis = normalize_axis("repeat", axis, x.ndim)
    if not isinstance(repeats, (int, Dim)):
        counts = ops.host_integers("repeat", repeats)
        if len(counts) == 1:
            return repeat(x, counts[0], axis=axis)
        if not same_size(x.shape[axis], len(counts)) or min(counts, default=0) < 0:
            raise ShapeError(
                f"repeat: {len(counts)} counts for axis {axis} of shape {shape_text(x.shape)}",
                fix="give one count of 0 or more for each element of the axis",
            ).located(here())
        places = [k for k, times in enumerate(counts) for _ in range(times)]
        return ops.take(x, ops.asarray(places, dtype=int), axis=axis)
    if repeats < 0:
        raise ShapeError(
            f"repeat: {repeats} times shape {shape_text(x.shape)}",
            fix="give 0 or more",
        ).located(here())
    shape = list(x.shape)
    wide = broadcast_to(
        expand_dims(x, axis=axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :])
    )
    shape[axis] = shape[axis] * repeats
    return reshape(wide, tuple(shape))


def roll(x: Any, /, shift: Any, *, axis: Any = None) -> Any:
    """Elements shifted along axes, those falling off the end coming back in front; `numpy.roll`.

    >>> import stagekit as sk
    >>> sk.roll(sk.arange(4), 1)
    tensor([3, 0, 1, 2], dtype=int64)
    """
    x = ops.asarray(x)
    if axis is None:
        return reshape(roll(reshape(x, -1), shift, axis=0), x.shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,) * len(axes)
    if len(axes) != len(shifts):
        raise ShapeError(
            f"roll: {len(shifts)} shifts of {len(axes)} axes", fix="pair them up"
        ).located(here())
    for a, s in zip(axes, shifts, strict=True):
        a, s = normalize_axis("roll", a, x.ndim), as_integer("roll", "shift", s)
        n = x.shape[a]
        lead, cut = (builtins.slice(None),) * a, n - s % maximum(n, 1)
        x = concat([x[(*lead, builtins.slice(cut, n))], x[(*lead, builtins.slice(0, cut))]], axis=a)
    return x
