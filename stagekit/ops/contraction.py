"""Products of matrices: one primitive, bilinear, so each operand says its transpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import ShapeError
from stagekit.op import OPS, Op, Speller
from stagekit.ops.batching import Mapped, ranked
from stagekit.ops.elementwise import number
from stagekit.source import here
from stagekit.symbolic import product
from stagekit.types import TensorType, broadcast_shapes, same_size, shape_text


def _infer(x: TensorType, y: TensorType) -> TensorType:
    if not same_size(x.shape[-1], y.shape[-2]):
        raise _misfit(x, y, "the last axis of the left must equal the last but one of the right")
    try:
        batch = broadcast_shapes("matmul", x.shape[:-2], y.shape[:-2])
    except ShapeError:
        raise _misfit(x, y, "the axes before the last two must broadcast") from None
    return x.with_shape((*batch, x.shape[-2], y.shape[-1]))


def _misfit(x: Any, y: Any, fix: str) -> ShapeError:
    shapes = f"{shape_text(x.shape)} and {shape_text(y.shape)}"
    return ShapeError(f"matmul: shapes {shapes} do not fit", fix=fix)


_STRETCH = 4096


def blocked_matmul(xp: Any, x: Any, y: Any) -> Any:
    """One library call for each stretch of the summed axis, so that errors do not grow with it."""
    if x.dtype == np.float16:
        wide = blocked_matmul(xp, x.astype(np.float32), y.astype(np.float32))
        return wide.astype(np.float16)
    k = x.shape[-1]
    if k <= _STRETCH or x.dtype.kind not in "fc":
        return xp.matmul(x, y)
    half = k // 2
    low = blocked_matmul(xp, x[..., :half], y[..., :half, :])
    return low + blocked_matmul(xp, x[..., half:], y[..., half:, :])


def _element(e: Speller, out: TensorType, idx: Sequence[Any], x: Any, y: Any) -> Any:
    batch = TensorType(out.dtype, out.shape[:-2])
    left = ops.aligned(batch, idx[:-2], x.shape[:-2])
    right = ops.aligned(batch, idx[:-2], y.shape[:-2])
    return e.reduce(
        "add",
        x.dtype,
        [x.shape[-1]],
        lambda k: e.apply("multiply", x(*left, idx[-2], k), y(*right, k, idx[-1])),
    )


def _adjoint(x: Any) -> Any:
    """The conjugate transpose, by the primitives themselves: rules run often."""
    n = x.ndim
    out = OPS["permute"](x, axes=(*range(n - 2), n - 1, n - 2))
    return OPS["conj"](out) if x.dtype.kind == "complex" else out


def _vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, y = xs
    if i == 1 and y.ndim == 2:  # all rows of the stack are rows of one matrix
        x, ct = _rows(x), _rows(ct)
    grown = _matmul(ct, _adjoint(y)) if i == 0 else _matmul(_adjoint(x), ct)
    return ops.unbroadcast(grown, xs[i])


def _rows(x: Any) -> Any:
    """A stack of matrices as one matrix, of all their rows."""
    if x.ndim == 2:
        return x
    return OPS["reshape"](x, shape=(product(x.shape[:-1]), x.shape[-1]))


def _jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    (tx, ty), (x, y) = tangents, xs
    terms = [_matmul(a, b) for a, b in ((tx, y), (x, ty)) if a is not None and b is not None]
    return ops.total(terms)


def _batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: Any) -> Any:
    """Axes that broadcast; of one matrix on the right all rows are one product, read once."""
    x, y = args
    if mapped[1] or y.ndim > 2:
        return _matmul(*ranked(args, mapped))
    return OPS["reshape"](_matmul(_rows(x), y), shape=(*x.shape[:-1], y.shape[-1]))


_matmul: Op = Op(
    "matmul",
    infer=_infer,
    evaluate=blocked_matmul,
    element=_element,
    dtypes=number,
    vjp=_vjp,
    jvp=_jvp,
    batch=_batch,
    family="contraction",
    doc="""Products of the last two axes, broadcast over the others. As `numpy.matmul`.

    >>> _matmul(ops.ones((2, 3)), ops.ones((3, 1)))
    tensor([[3.],
            [3.]], dtype=float32)
    """,
)


def matmul(x1: Any, x2: Any, /) -> Any:
    """The matrix product, as `numpy.matmul`: (..., n, k) and (..., k, m) give (..., n, m).

    A 1-d operand is a row on the left, a column on the right. Raises ShapeError.

    >>> import stagekit as sk
    >>> sk.matmul(sk.ones((2, 3)), sk.ones(3))
    tensor([3., 3.], dtype=float32)
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(
            f"matmul: shapes {shape_text(x.shape)} and {shape_text(y.shape)}: an operand is 0-d",
            fix="use multiply for scalars",
        ).located(here())
    if x.ndim > 1 and y.ndim > 1:
        return _matmul(x, y)
    if not same_size(x.shape[-1], y.shape[-1 if y.ndim == 1 else -2]):
        fix = "the last axis of the left must equal the last but one of the right"
        raise _misfit(x, y, fix).located(here())
    out = _matmul(
        ops.expand_dims(x, axis=0) if x.ndim == 1 else x,
        ops.expand_dims(y, axis=1) if y.ndim == 1 else y,
    )
    lost = ((x.ndim == 1) * [-2]) + ((y.ndim == 1) * [-1])
    return ops.squeeze(out, axis=tuple(lost))
