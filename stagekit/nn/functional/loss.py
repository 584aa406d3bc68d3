"""Losses: what training minimizes, and how the losses of elements become one number."""

from __future__ import annotations

import math
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.nn.functional.activation import log_softmax
from stagekit.nn.functional.operands import floating
from stagekit.source import here
from stagekit.types import same_shape, shape_text


def _reduced(op: str, losses: Any, reduction: str, count: Any = None) -> Any:
    """The losses, their sum, or their mean over `count` (all of them unless given)."""
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ArgumentError(
            f"{op}: reduction is {reduction!r}", fix="use 'mean', 'sum' or 'none'"
        ).located(here())
    total = ops.sum(losses)
    if reduction == "sum":
        return total
    return total / (losses.size if count is None else count)


def _pair(op: str, x: Any, target: Any) -> tuple[Any, Any]:
    """Two tensors of one shape: losses do not broadcast, since that hides mistakes."""
    x, target = floating(op, x), floating(op, target)
    if not same_shape(x.shape, target.shape):
        raise ShapeError(
            f"{op}: input {shape_text(x.shape)} and target {shape_text(target.shape)} differ",
            fix="give a target of the input's shape; broadcast it yourself if that is meant",
        ).located(here())
    return x, target


# ----- regression ---------------------------------------------------------------------------------


def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """(x - target)^2. Source: `torch.nn.functional.mse_loss`.

    `reduction` is "mean", "sum" or "none". Raises ShapeError where the shapes differ.

    >>> import stagekit as sk
    >>> sk.nn.functional.mse_loss(sk.asarray([1.0, 2.0]), sk.asarray([1.0, 4.0])).item()
    2.0
    """
    x, target = _pair("mse_loss", x, target)
    return _reduced("mse_loss", ops.square(x - target), reduction)


def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """|x - target|, with derivative 0 at 0. Source: `torch.nn.functional.l1_loss`.

    >>> import stagekit as sk
    >>> sk.nn.functional.l1_loss(sk.asarray([1.0, 2.0]), sk.asarray([1.0, 4.0])).item()
    1.0
    """
    x, target = _pair("l1_loss", x, target)
    return _reduced("l1_loss", ops.abs(x - target), reduction)


def huber_loss(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """(x - target)^2 / 2 up to a distance of `delta`, linear beyond. Source:
    `torch.nn.functional.huber_loss`, Huber 1964. Raises ArgumentError unless `delta` is positive.

    >>> import stagekit as sk
    >>> sk.nn.functional.huber_loss(sk.asarray([1.0, 2.0]), sk.asarray([1.5, 5.0]), "none")
    tensor([0.125, 2.5  ], dtype=float32)
    """
    if delta <= 0:
        raise ArgumentError(f"huber_loss: delta is {delta}", fix="give a positive one").located(
            here()
        )
    x, target = _pair("huber_loss", x, target)
    return _reduced("huber_loss", _huber(x - target, delta), reduction)


def _huber(difference: Any, delta: float) -> Any:
    size = ops.abs(difference)
    beyond = delta * (size - 0.5 * delta)
    return ops.where(size < delta, 0.5 * ops.square(difference), beyond)


def smooth_l1_loss(x: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """`huber_loss` divided by the distance `beta` at which it turns linear; `l1_loss` where that
    is 0. Source: `torch.nn.functional.smooth_l1_loss`.

    >>> import stagekit as sk
    >>> sk.nn.functional.smooth_l1_loss(sk.asarray([1.0, 2.0]), sk.asarray([1.5, 5.0]), "none")
    tensor([0.125, 2.5  ], dtype=float32)
    """
    x, target = _pair("smooth_l1_loss", x, target)
    difference = x - target
    losses = ops.abs(difference) if beta == 0 else _huber(difference, beta) / beta
    return _reduced("smooth_l1_loss", losses, reduction)


# ----- probabilities ------------------------------------------------------------------------------


def binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(target log(x) + (1 - target) log(1 - x)) of probabilities, both logarithms at least -100
    (constant below, so with derivative 0). Source: `torch.nn.functional.binary_cross_entropy`.

    >>> import stagekit as sk
    >>> sk.nn.functional.binary_cross_entropy(sk.asarray([0.5]), sk.asarray([1.0])).item()
    0.6931471824645996
    """
    x, target = _pair("binary_cross_entropy", x, target)
    none, all_ = (x >= 0) & (x < math.exp(-100)), x == 1
    log_x = ops.where(none, -100.0, ops.log(ops.where(none, 1.0, x)))
    log_rest = ops.where(all_, -100.0, ops.log1p(-ops.where(all_, 0.0, x)))
    losses = -(target * log_x + (1.0 - target) * log_rest)
    losses = losses if weight is None else losses * weight
    return _reduced("binary_cross_entropy", losses, reduction)


def binary_cross_entropy_with_logits(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """`binary_cross_entropy` of sigmoid(x), right for any x; `pos_weight` multiplies the first
    term. Source: `torch.nn.functional.binary_cross_entropy_with_logits`.

    >>> import stagekit as sk
    >>> loss = sk.nn.functional.binary_cross_entropy_with_logits
    >>> loss(sk.asarray([-1e4, 1e4]), sk.asarray([1.0, 1.0]), reduction="none")
    tensor([10000.,     0.], dtype=float32)
    """
    x, target = _pair("binary_cross_entropy_with_logits", x, target)
    hit = target * ops.softplus(-x)
    hit = hit if pos_weight is None else hit * pos_weight
    losses = hit + (1.0 - target) * ops.softplus(x)
    losses = losses if weight is None else losses * weight
    return _reduced("binary_cross_entropy_with_logits", losses, reduction)


def kl_div(x: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """target (log(target) - x) for log-probabilities `x`, 0 where the target is 0. Source:
    `torch.nn.functional.kl_div`.

    With `log_target` the target is given by its logarithm. `reduction` "batchmean" divides the sum
    by the size of the first axis, which is the divergence itself.

    >>> import stagekit as sk
    >>> sk.nn.functional.kl_div(sk.log(sk.asarray([0.5, 0.5])), sk.asarray([1.0, 0.0]), "sum")
    tensor(0.6931472, dtype=float32)
    """
    x, target = _pair("kl_div", x, target)
    if log_target:
        losses = ops.exp(target) * (target - x)
    else:
        zero = target == 0
        losses = ops.where(zero, 0.0, target * (ops.log(ops.where(zero, 1.0, target)) - x))
    if reduction == "batchmean":
        return ops.sum(losses) / (x.shape[0] if x.ndim else 1)
    return _reduced("kl_div", losses, reduction)


# ----- classes ------------------------------------------------------------------------------------


def nll_loss(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
) -> Any:
    """-x at the class `target`, for log-probabilities (n, classes, ...) or (classes,). Source:
    `torch.nn.functional.nll_loss`.

    `weight` has one factor a class; the mean is over the weights. Raises as `cross_entropy`.

    >>> import stagekit as sk
    >>> sk.nn.functional.nll_loss(sk.asarray([[-1.0, -2.0]]), sk.asarray([1])).item()
    2.0
    """
    x, labels = floating("nll_loss", x), ops.asarray(target)
    axis = 1 if x.ndim > 1 else 0
    index, kept = _classes("nll_loss", x, labels, axis, ignore_index)
    losses = -_picked(x, index, axis)
    count = None if kept is None else ops.astype(kept, x.dtype)
    if weight is not None:
        factor = ops.take(ops.asarray(weight), index, axis=0)
        losses, count = losses * factor, factor if count is None else factor * count
    losses = losses if kept is None else ops.where(kept, losses, 0.0)
    return _reduced("nll_loss", losses, reduction, None if count is None else ops.sum(count))


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
    logits, labels = floating("cross_entropy", logits), ops.asarray(labels)
    axis = 1 if logits.ndim > 1 else 0
    logp = log_softmax(logits, axis=axis)
    if labels.dtype.kind == "float":
        losses, count = _soft_losses(logp, labels, axis, label_smoothing), None
    else:
        losses, count = _hard_losses(logp, labels, axis, label_smoothing, ignore_index)
    return _reduced("cross_entropy", losses, reduction, count)


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
    index, kept = _classes("cross_entropy", logp, labels, axis, ignore)
    losses = -_picked(logp, index, axis)
    if smoothing:
        losses = losses * (1 - smoothing) - ops.mean(logp, axis=axis) * smoothing
    if kept is None:
        return losses, None
    return ops.where(kept, losses, 0.0), ops.sum(ops.astype(kept, logp.dtype))


def _classes(op: str, logp: Any, labels: Any, axis: int, ignore: int | None) -> tuple[Any, Any]:
    """Labels as indices, 0 where they are ignored, and which of them count (None: all)."""
    expected = (*logp.shape[:axis], *logp.shape[axis + 1 :])
    if labels.dtype.kind not in ("int", "uint"):
        raise DTypeError(
            f"{op}: labels are {labels.dtype}", fix="give class indices, which are integers"
        ).located(here())
    if not same_shape(labels.shape, expected):
        raise ShapeError(
            f"{op}: labels of shape {shape_text(labels.shape)} do not fit logits of shape "
            f"{shape_text(logp.shape)}",
            fix="class indices have the logits' shape without the class axis",
        ).located(here())
    kept = None if ignore is None else labels != ignore
    index = labels if kept is None else ops.where(kept, labels, 0)
    return ops.place(index, size=logp.shape[axis], what=f"{op}: a label"), kept


def _picked(logp: Any, index: Any, axis: int) -> Any:
    picked = ops.take_along_axis(logp, ops.expand_dims(index, axis=axis), axis=axis)
    return ops.squeeze(picked, axis=axis)
