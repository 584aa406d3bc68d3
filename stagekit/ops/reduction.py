"""Reductions: folds over axes, and the statistics made of them.

A primitive takes `axes` and drops them. Sums are blocked, so that errors do not grow with length.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import ShapeError
from stagekit.op import OPS, Op, Speller
from stagekit.ops.batching import Mapped, along_axis, behind
from stagekit.ops.elementwise import logical, number, ordered
from stagekit.symbolic import product
from stagekit.types import (
    TensorType,
    bool_,
    default_float,
    default_int,
    float32,
    normalize_axes,
    normalize_axis,
    real_of,
    shape_text,
    widest,
)

Axes = tuple[int, ...]

# ----- the family ---------------------------------------------------------------------------------


def _dropped(x: TensorType, *, axes: Axes) -> TensorType:
    return x.with_shape(n for k, n in enumerate(x.shape) if k not in axes)


def _nonempty(name: str) -> Callable[..., TensorType]:
    """The type of a reduction that has no value for no elements."""

    def infer(x: TensorType, *, axes: Axes) -> TensorType:
        for k in axes:
            if x.shape[k] == 0:
                raise ShapeError(
                    f"{name}: axis {k} of shape {shape_text(x.shape)} is empty",
                    fix=f"{name} of nothing has no value; test the size first",
                )
        return _dropped(x, axes=axes)

    return infer


def _merged(x: Any, idx: Sequence[Any], ks: Sequence[Any], axes: Axes) -> list[Any]:
    """The operand's indices: `ks` on the folded axes, `idx` on the others."""
    outer, inner = iter(idx), iter(ks)
    return [next(inner if k in axes else outer) for k in range(len(x.shape))]


def restored(x: Any, like: Any, axes: Axes) -> Any:
    """A reduced tensor with its axes back as size 1."""
    return ops.reshape(x, tuple(1 if k in axes else n for k, n in enumerate(like.shape)))


def _spread(x: Any, like: Any, axes: Axes) -> Any:
    """A reduced tensor repeated over the axes it was reduced by."""
    one = tuple([1 if k in axes else n for k, n in enumerate(like.shape)])
    return OPS["broadcast_to"](OPS["reshape"](x, shape=one), shape=like.shape)


def reduction(name: str, fold: str, evaluate: Callable[..., Any], **facts: Any) -> Op:
    """Declare a fold of the scalar op `fold` over `axes`."""

    def element(e: Speller, out: TensorType, idx: Sequence[Any], x: Any, *, axes: Axes) -> Any:
        extents = [x.shape[k] for k in axes]
        return e.reduce(fold, x.dtype, extents, lambda *ks: x(*_merged(x, idx, ks, axes)))

    def batch(size: Any, args: Any, mapped: Mapped, attrs: dict[str, Axes]) -> Any:
        return OPS[name](*args, axes=behind(attrs["axes"]))

    facts.setdefault("infer", _dropped)
    facts |= {"batch": batch, "family": "reduction"}
    doc = _DOC.format(name=name, attrs="axes=(0,)", result=_EXAMPLES[name])
    return Op(name, evaluate=evaluate, element=element, doc=doc, **facts)


_DOC = """The primitive of `{name}`, which says what it means. As `numpy.{name}`.

>>> from stagekit.op import OPS
>>> OPS["{name}"](ops.asarray([2, 3, 0]), {attrs})
{result}
"""
_EXAMPLES = {
    "sum": "tensor(5, dtype=int64)",
    "prod": "tensor(0, dtype=int64)",
    "max": "tensor(3, dtype=int64)",
    "min": "tensor(0, dtype=int64)",
    "any": "tensor(True, dtype=bool)",
    "all": "tensor(False, dtype=bool)",
    "argmax": "tensor(1, dtype=int64)",
    "argmin": "tensor(2, dtype=int64)",
}


# ----- sum ----------------------------------------------------------------------------------------

_BLOCK = 16
_FEW = 32
_MANY = 1 << 14


def _fold_sum(xp: Any, x: Any, axes: Axes) -> Any:
    """Blocked summation: partial sums of 16 along every axis that NumPy adds one by one."""
    for axis in sorted(axes, reverse=True):
        while x.shape[axis] > _FEW:
            n = x.shape[axis]
            whole = n // _BLOCK * _BLOCK
            head = _axis(x, axis, 0, whole)
            shape = (*x.shape[:axis], n // _BLOCK, _BLOCK, *x.shape[axis + 1 :])
            partial = head.reshape(shape).sum(axis=axis + 1)
            x = xp.concatenate([partial, _axis(x, axis, whole, n)], axis) if whole < n else partial
        x = x.sum(axis=axis)
    return x


def _axis(x: Any, axis: int, start: int, stop: int) -> Any:
    return x[(*(slice(None),) * axis, slice(start, stop))]


def _is_pairwise(x: Any, axes: Axes) -> bool:
    """Whether NumPy sums pairwise itself: the folded axes are one contiguous stretch of memory."""
    if x.flags.c_contiguous and axes == tuple(range(x.ndim - len(axes), x.ndim)):
        return True
    return bool(x.flags.f_contiguous) and axes == tuple(range(len(axes)))


def _is_short(x: Any, axes: Axes) -> bool:
    """Whether few elements are folded into each of many results, the innermost axis among them:
    NumPy's loops run along that axis and would be short, as for the windows of a pool."""
    if x.ndim - 1 not in axes or x.size < _MANY:
        return False
    return bool(0 < math.prod([x.shape[k] for k in axes]) <= _FEW)


def _by_slices(ufunc: Any, x: Any, axes: Axes) -> Any:
    """A fold of whole slices, one for each place along `axes`."""
    index: list[Any] = [slice(None)] * x.ndim
    out: Any = None
    for place in np.ndindex(*(x.shape[k] for k in axes)):
        for k, i in zip(axes, place, strict=True):
            index[k] = i
        part = x[tuple(index)]
        out = part.copy() if out is None else ufunc(out, part, out=out)
    return out


def _sum_evaluate(xp: Any, x: Any, *, axes: Axes) -> Any:
    if x.dtype.kind not in "fc":
        return x.sum(axis=axes, dtype=x.dtype)
    if x.dtype.itemsize == 2:
        return _sum_evaluate(xp, x.astype(np.float32), axes=axes).astype(x.dtype)
    if _is_short(x, axes):
        return _by_slices(xp.add, x, axes)
    if x.size <= _FEW or _is_pairwise(x, axes) or math.prod(x.shape[k] for k in axes) <= _FEW:
        return x.sum(axis=axes)
    return _fold_sum(xp, x, axes)


_sum: Op = reduction(
    "sum",
    "add",
    _sum_evaluate,
    dtypes=number,
    vjp=lambda i, ct, out, xs, attrs: _spread(ct, xs[0], attrs["axes"]),
    jvp=lambda tangents, out, xs, attrs: _sum(tangents[0], **attrs),
)

# ----- product ------------------------------------------------------------------------------------


def _others(x: Any, axes: Axes) -> Any:
    """For each element the product of the others along `axes`: right at any zeros, at any order.

    Needs the number of elements as a plain int.
    """
    rest = tuple(k for k in range(x.ndim) if k not in axes)
    moved = ops.permute_dims(x, rest + axes)
    rows = ops.reshape(moved, (*(x.shape[k] for k in rest), product(x.shape[k] for k in axes)))
    left = _exclusive_products(rows)
    right = ops.flip(_exclusive_products(ops.flip(rows, axis=-1)), axis=-1)
    back = sorted(range(x.ndim), key=(rest + axes).__getitem__)
    return ops.permute_dims(ops.reshape(left * right, moved.shape), back)


def _exclusive_products(x: Any) -> Any:
    """The product of all earlier elements of the last axis, in log2(n) doubling steps."""
    n = int(x.shape[-1])
    out, step = _shifted(x, builtins.min(1, n)), 1
    while step < n:
        out, step = out * _shifted(out, step), 2 * step
    return out


def _shifted(x: Any, step: int) -> Any:
    ones = ops.ones((*x.shape[:-1], step), dtype=x.dtype)
    return ops.concat([ones, x[..., : x.shape[-1] - step]], axis=-1)


def _prod_evaluate(xp: Any, x: Any, *, axes: Axes) -> Any:
    """Floats are multiplied in float64, so that the error does not grow with the length."""
    return x.prod(axis=axes, dtype=widest(x.dtype)).astype(x.dtype)


_prod = reduction(
    "prod",
    "multiply",
    _prod_evaluate,
    dtypes=number,
    vjp=lambda i, ct, out, xs, attrs: (
        _spread(ct, xs[0], attrs["axes"]) * ops.conj(_others(xs[0], attrs["axes"]))
    ),
    jvp=lambda tangents, out, xs, attrs: _sum(tangents[0] * _others(xs[0], attrs["axes"]), **attrs),
)

# ----- extrema ------------------------------------------------------------------------------------


def _winners(x: Any, out: Any, axes: Axes) -> Any:
    """1/k at each of the k elements equal to the extremum: ties share equally."""
    mask = ops.astype(x == _spread(out, x, axes), x.dtype)
    return mask / restored(_sum(mask, axes=axes), x, axes)


def _extremum(name: str, fold: str, evaluate: Callable[..., Any]) -> Op:
    return reduction(
        name,
        fold,
        evaluate,
        infer=_nonempty(name),
        dtypes=ordered,
        vjp=lambda i, ct, out, xs, attrs: (
            _spread(ct, xs[0], attrs["axes"]) * _winners(xs[0], out, attrs["axes"])
        ),
        jvp=lambda tangents, out, xs, attrs: _sum(
            tangents[0] * _winners(xs[0], out, attrs["axes"]), **attrs
        ),
    )


def _max_evaluate(xp: Any, x: Any, *, axes: Axes) -> Any:
    return _by_slices(xp.maximum, x, axes) if _is_short(x, axes) else x.max(axis=axes)


def _min_evaluate(xp: Any, x: Any, *, axes: Axes) -> Any:
    return _by_slices(xp.minimum, x, axes) if _is_short(x, axes) else x.min(axis=axes)


_max = _extremum("max", "maximum", _max_evaluate)
_min = _extremum("min", "minimum", _min_evaluate)

_TEST = "the result is bool"
_any = reduction(
    "any",
    "logical_or",
    lambda xp, x, *, axes: x.any(axis=axes),
    dtypes=logical,
    nondifferentiable=_TEST,
)
_all = reduction(
    "all",
    "logical_and",
    lambda xp, x, *, axes: x.all(axis=axes),
    dtypes=logical,
    nondifferentiable=_TEST,
)


def _arg(name: str, evaluate: Callable[..., Any]) -> Op:
    """The place of the first extremum along one axis; a NaN counts as extreme."""

    def infer(x: TensorType, *, axis: int) -> TensorType:
        return _nonempty(name)(x, axes=(axis,)).with_dtype(default_int)

    def element(e: Speller, out: TensorType, idx: Sequence[Any], x: Any, *, axis: int) -> Any:
        return e.argreduce(name, x.shape[axis], lambda k: x(*_merged(x, idx, (k,), (axis,))))

    return Op(
        name,
        infer=infer,
        evaluate=evaluate,
        element=element,
        dtypes=ordered,
        nondifferentiable="the result is an index",
        batch=along_axis(name),
        family="reduction",
        doc=_DOC.format(name=name, attrs="axis=0", result=_EXAMPLES[name]),
    )


_argmax = _arg("argmax", lambda xp, x, *, axis: x.argmax(axis))
_argmin = _arg("argmin", lambda xp, x, *, axis: x.argmin(axis))

# ----- public -------------------------------------------------------------------------------------


def _reduce(op: Op, x: Any, axis: Any, keepdims: bool) -> Any:
    x = ops.asarray(x)
    axes = normalize_axes(op.name, axis, x.ndim)
    out = op(x, axes=axes)
    return restored(out, x, axes) if keepdims else out


def accumulator(x: Any, dtype: Any) -> Any:
    """The operand in the type it is summed in: small integers and bool widen to 64 bits."""
    x = ops.asarray(x)
    if dtype is None and not x.dtype.inexact:
        dtype = "uint64" if x.dtype.kind == "uint" else default_int
    return x if dtype is None else ops.astype(x, dtype, copy=False)


def sum(x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """The sum over `axis` (an int, a tuple, None: all), as `numpy.sum`; error <= 8 eps sum |x|.

    bool and integers add up in 64 bits, float16 in float32.

    >>> import stagekit as sk
    >>> sk.sum(sk.ones((2, 3)), axis=0)
    tensor([2., 2., 2.], dtype=float32)
    """
    return _reduce(_sum, accumulator(x, dtype), axis, keepdims)


def prod(x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """The product over `axis`, as `numpy.prod`. Its gradient needs the size as a plain int.

    >>> import stagekit as sk
    >>> sk.prod(sk.asarray([2.0, 3.0])).item()
    6.0
    """
    return _reduce(_prod, accumulator(x, dtype), axis, keepdims)


def max(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element over `axis`, NaN if one is there, as `numpy.max`.

    Ties share the gradient. Raises ShapeError for an empty axis.

    >>> import stagekit as sk
    >>> sk.max(sk.asarray([2.0, 3.0])).item()
    3.0
    """
    return _reduce(_max, x, axis, keepdims)


def min(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element over `axis`, NaN if one is there, as `numpy.min`.

    >>> import stagekit as sk
    >>> sk.min(sk.asarray([2.0, 3.0])).item()
    2.0
    """
    return _reduce(_min, x, axis, keepdims)


def any(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether any element is true, as `numpy.any`.

    >>> import stagekit as sk
    >>> sk.any(sk.asarray([0.0, 3.0])).item()
    True
    """
    return _reduce(_any, x, axis, keepdims)


def all(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether all elements are true, as `numpy.all`.

    >>> import stagekit as sk
    >>> sk.all(sk.asarray([0.0, 3.0])).item()
    False
    """
    return _reduce(_all, x, axis, keepdims)


def _arg_reduce(op: Op, x: Any, axis: int | None, keepdims: bool) -> Any:
    x = ops.asarray(x)
    if axis is None:
        out = op(ops.reshape(x, -1), axis=0)
        return ops.reshape(out, (1,) * x.ndim) if keepdims else out
    axis = normalize_axis(op.name, axis, x.ndim)
    out = op(x, axis=axis)
    return restored(out, x, (axis,)) if keepdims else out


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """The index of the first largest element along `axis` (None: of all), as `numpy.argmax`.

    >>> import stagekit as sk
    >>> sk.argmax(sk.asarray([2.0, 3.0, 3.0])).item()
    1
    """
    return _arg_reduce(_argmax, x, axis, keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """The index of the first smallest element along `axis` (None: of all), as `numpy.argmin`.

    >>> import stagekit as sk
    >>> sk.argmin(sk.asarray([2.0, 3.0])).item()
    0
    """
    return _arg_reduce(_argmin, x, axis, keepdims)


def count_nonzero(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """How many elements are not zero, as `numpy.count_nonzero`.

    >>> import stagekit as sk
    >>> sk.count_nonzero(sk.asarray([0, 3, 4])).item()
    2
    """
    return sum(ops.astype(x, bool_), axis=axis, keepdims=keepdims)


def _inexact(x: Any) -> Any:
    x = ops.asarray(x)
    return x if x.dtype.inexact else ops.astype(x, default_float)


def widened(x: Any) -> Any:
    """Floats of 16 bits in float32: a mean is in range where the sum it divides is not."""
    return ops.astype(x, float32) if x.dtype.itemsize == 2 else x


def _count(x: Any, axes: Axes) -> Any:
    return product(x.shape[k] for k in axes)


def mean(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean over `axis`, as `numpy.mean`; integers give float32. NaN of nothing.

    >>> import stagekit as sk
    >>> sk.mean(sk.asarray([1, 2])).item()
    1.5
    """
    x = _inexact(x)
    axes = normalize_axes("mean", axis, x.ndim)
    out = sum(widened(x), axis=axes, keepdims=keepdims) / _count(x, axes)
    return ops.astype(out, x.dtype, copy=False)


def var(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The variance over `axis`, divided by n - correction, as `numpy.var`. Two passes.

    Of complex numbers the mean of |x - mean|**2.

    >>> import stagekit as sk
    >>> sk.var(sk.asarray([1.0, 3.0])).item()
    1.0
    """
    x = _inexact(x)
    axes = normalize_axes("var", axis, x.ndim)
    wide = widened(x)
    deviation = wide - mean(wide, axis=axes, keepdims=True)
    squares = sum(ops.real(deviation * ops.conj(deviation)), axis=axes, keepdims=keepdims)
    out = squares / ops.maximum_size(_count(x, axes) - correction, 0)
    return ops.astype(out, real_of(x.dtype), copy=False)


def std(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The standard deviation, as `numpy.std`. Its gradient is 0 where it is 0.

    >>> import stagekit as sk
    >>> sk.std(sk.asarray([1.0, 3.0])).item()
    1.0
    """
    return root(var(x, axis=axis, correction=correction, keepdims=keepdims))


def root(x: Any) -> Any:
    """sqrt(x), with derivative 0 at 0.

    >>> root(ops.asarray(4.0))
    tensor(2., dtype=float32)
    """
    zero = x == 0
    return ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, x)))


def logsumexp(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis` without overflow, as `scipy.special.logsumexp`.

    All -inf gives -inf with gradient 0; so does nothing at all.

    >>> import stagekit as sk
    >>> sk.logsumexp(sk.asarray([1e4, 1e4])).item() - 1e4 < 0.7
    True
    """
    x = _inexact(x)
    axes = normalize_axes("logsumexp", axis, x.ndim)
    if builtins.any(x.shape[k] == 0 for k in axes):
        return sum(x, axis=axes, keepdims=keepdims) - math.inf
    top = ops.stop_gradient(max(x, axis=axes, keepdims=True))
    top = ops.where(ops.isfinite(top), top, 0.0)
    total = sum(ops.exp(x - top), axis=axes, keepdims=True)
    empty = total == 0
    out = ops.where(empty, -math.inf, ops.log(ops.where(empty, 1.0, total))) + top
    return out if keepdims else ops.reshape(out, _dropped_shape(x, axes))


def _dropped_shape(x: Any, axes: Axes) -> tuple[Any, ...]:
    return tuple(n for k, n in enumerate(x.shape) if k not in axes)


def total(terms: Sequence[Any]) -> Any:
    """The sum of one or more tensors.

    >>> total([ops.asarray(1.0), ops.asarray(2.0)])
    tensor(3., dtype=float32)
    """
    out = terms[0]
    for term in terms[1:]:
        out = out + term
    return out
