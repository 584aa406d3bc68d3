"""Neural ops as stable compositions: torch's names and defaults, `axis` for `dim`."""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.ops import logsumexp, sigmoid, softplus
from stagekit.source import here
from stagekit.types import default_float, default_int, normalize_axis, same_shape, shape_text

__all__ = [
    "cross_entropy",
    "log_softmax",
    "logsumexp",
    "one_hot",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
]


def relu(x: Any, /) -> Any:
    """max(x, 0), with derivative 0 at 0. Source: `torch.nn.functional.relu`.

    >>> import stagekit as sk
    >>> sk.nn.functional.relu(sk.asarray([-1.0, 2.0]))
    tensor([0., 2.], dtype=float32)
    """
    x = ops.asarray(x)
    return ops.where(x <= 0, 0, x)


def _floating(op: str, x: Any) -> Any:
    x = ops.asarray(x)
    return x if x.dtype.kind == "float" else ops.astype(x, default_float)


def _shifted(x: Any, axis: int) -> Any:
    """x minus its (finite) maximum along `axis`, which no gradient sees: the results do not depend
    on it."""
    top = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    return x - ops.where(ops.isfinite(top), top, 0.0)


def softmax(x: Any, /, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along `axis`. Source: `torch.nn.functional.softmax`.

    >>> import stagekit as sk
    >>> sk.nn.functional.softmax(sk.asarray([0.0, 0.0]))
    tensor([0.5, 0.5], dtype=float32)
    """
    x = _floating("softmax", x)
    axis = normalize_axis("softmax", axis, x.ndim)
    e = ops.exp(_shifted(x, axis))
    return e / ops.sum(e, axis=axis, keepdims=True)


def log_softmax(x: Any, /, axis: int = -1) -> Any:
    """x - logsumexp(x) along `axis`. Source: `torch.nn.functional.log_softmax`.

    >>> import stagekit as sk
    >>> sk.nn.functional.log_softmax(sk.asarray([1e4, 1e4]))
    tensor([-0.6931472, -0.6931472], dtype=float32)
    """
    x = _floating("log_softmax", x)
    axis = normalize_axis("log_softmax", axis, x.ndim)
    s = _shifted(x, axis)
    return s - ops.log(ops.sum(ops.exp(s), axis=axis, keepdims=True))


def one_hot(indices: Any, num_classes: int, dtype: Any = None) -> Any:
    """1 at the index, 0 elsewhere, along a new last axis. Source: `torch.nn.functional.one_hot`.

    >>> import stagekit as sk
    >>> sk.nn.functional.one_hot(sk.asarray([1]), 3)
    tensor([[0., 1., 0.]], dtype=float32)
    """
    classes = ops.arange(num_classes)
    hit = ops.expand_dims(ops.asarray(indices), axis=-1) == classes
    return ops.astype(hit, default_float if dtype is None else dtype)


def cross_entropy(
    logits: Any,
    labels: Any,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Any:
    """-log softmax(logits) at the labels. Source: `torch.nn.functional.cross_entropy`.

    `logits` is (n, classes, ...) or (classes,); integer `labels` have its shape without the
    classes, float labels (probabilities) its shape. `reduction` is "mean" (over the labels not
    ignored), "sum" or "none". Raises ShapeError, and BoundsError for a label that is no class.

    >>> import stagekit as sk
    >>> sk.nn.functional.cross_entropy(sk.zeros((1, 2)), sk.asarray([1])).item()
    0.6931471824645996
    """
    logits, labels = _floating("cross_entropy", logits), ops.asarray(labels)
    axis = 1 if logits.ndim > 1 else 0
    logp = log_softmax(logits, axis=axis)
    if labels.dtype.kind == "float":
        losses, weights = _soft_losses(logp, labels, axis, label_smoothing), None
    else:
        losses, weights = _hard_losses(logp, labels, axis, label_smoothing, ignore_index)
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ArgumentError(
            f"cross_entropy: reduction is {reduction!r}", fix="use 'mean', 'sum' or 'none'"
        ).located(here())
    total = ops.sum(losses)
    if reduction == "sum":
        return total
    return total / (losses.size if weights is None else ops.sum(weights))


def _soft_losses(logp: Any, labels: Any, axis: int, smoothing: float) -> Any:
    if not same_shape(labels.shape, logp.shape):
        raise ShapeError(
            f"cross_entropy: probabilities of shape {shape_text(labels.shape)} do not fit logits "
            f"of shape {shape_text(logp.shape)}",
            fix="probabilities have the shape of the logits",
        ).located(here())
    if smoothing:
        labels = labels * (1 - smoothing) + smoothing / logp.shape[axis]
    return -ops.sum(ops.where(labels == 0, 0.0, labels * logp), axis=axis)


def _hard_losses(
    logp: Any, labels: Any, axis: int, smoothing: float, ignore: int | None
) -> tuple[Any, Any]:
    expected = (*logp.shape[:axis], *logp.shape[axis + 1 :])
    if labels.dtype.kind == "bool":
        raise DTypeError("cross_entropy: labels are bool", fix="give class indices").located(here())
    if not same_shape(labels.shape, expected):
        raise ShapeError(
            f"cross_entropy: labels of shape {shape_text(labels.shape)} do not fit logits of shape "
            f"{shape_text(logp.shape)}",
            fix="class indices have the logits' shape without the class axis",
        ).located(here())
    kept = None if ignore is None else labels != ignore
    index = ops.astype(labels if kept is None else ops.where(kept, labels, 0), default_int)
    # An index counts from the end where it is negative; a label does not: it is moved out of range.
    index = ops.where(index < 0, index - logp.shape[axis], index)
    picked = ops.take_along_axis(logp, ops.expand_dims(index, axis=axis), axis=axis)
    losses = -ops.squeeze(picked, axis=axis)
    if smoothing:
        losses = losses * (1 - smoothing) - ops.mean(logp, axis=axis) * smoothing
    if kept is None:
        return losses, None
    return ops.where(kept, losses, 0.0), ops.astype(kept, logp.dtype)
