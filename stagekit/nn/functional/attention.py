"""Scaled dot-product attention."""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit.errors import DTypeError, ShapeError
from stagekit.nn.functional.operands import floating
from stagekit.ops.reduction import widened
from stagekit.source import here
from stagekit.types import same_shape, same_size, shape_text


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None
) -> Any:
    """softmax(q k^T scale + mask) v over the last two axes, the others broadcast. Source:
    `torch.nn.functional.scaled_dot_product_attention`.

    `q` is (..., queries, features), `k` (..., keys, features), `v` (..., keys, values). A bool
    `mask` is True where attended, a float one is added; with `causal` query i sees the keys up to
    i. `scale` is features ** -0.5 unless given. A query that sees no key gets zeros, with gradient
    0. Raises ShapeError, and DTypeError for a mask of integers, which says neither.

    >>> import stagekit as sk
    >>> x = sk.asarray([[1.0], [3.0]])
    >>> sk.nn.functional.attention(sk.zeros((2, 1)), x, x, causal=True)
    tensor([[1.],
            [2.]], dtype=float32)
    """
    q, k, v = floating("attention", q), floating("attention", k), floating("attention", v)
    _require_fit(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = widened(ops.matmul(q * scale, ops.swapaxes(k, -1, -2)))
    if causal:
        rows, columns = (ops.arange(n) for n in scores.shape[-2:])
        scores = ops.where(ops.expand_dims(rows, axis=1) >= columns, scores, -float("inf"))
    if mask is not None:
        scores = _masked(scores, ops.asarray(mask))
    return ops.matmul(ops.astype(_weights(scores), v.dtype, copy=False), v)


def _masked(scores: Any, mask: Any) -> Any:
    if mask.dtype.kind not in ("bool", "float"):
        raise DTypeError(
            f"attention: mask is {mask.dtype}", fix="give bool (True: attended), or float to add"
        ).located(here())
    common = ops.located_shapes("attention", scores.shape, mask.shape)
    if not same_shape(common[-2:], scores.shape[-2:]):
        raise ShapeError(
            f"attention: mask {shape_text(mask.shape)} for scores {shape_text(scores.shape)}",
            fix="a mask broadcasts to (..., queries, keys)",
        ).located(here())
    if mask.dtype.kind == "bool":
        return ops.where(mask, scores, -float("inf"))
    return scores + mask


def _weights(scores: Any) -> Any:
    """The softmax along the last axis, and 0 where all is -inf or there is nothing."""
    if scores.shape[-1] == 0:
        return scores
    top = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
    e = ops.exp(scores - ops.where(ops.isinf(top), 0.0, top))
    total = ops.sum(e, axis=-1, keepdims=True)
    return e / ops.where(total == 0, 1.0, total)


def _require_fit(q: Any, k: Any, v: Any) -> None:
    ranked = min(q.ndim, k.ndim, v.ndim) >= 2
    if (
        not ranked
        or not same_size(q.shape[-1], k.shape[-1])
        or not same_size(k.shape[-2], v.shape[-2])
    ):
        shapes = ", ".join(shape_text(x.shape) for x in (q, k, v))
        raise ShapeError(
            f"attention: shapes {shapes} do not fit",
            fix="give (..., queries, features), (..., keys, features) and (..., keys, values)",
        ).located(here())
