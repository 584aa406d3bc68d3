"""Normalizations: statistics in two passes (of 16-bit types in float32), then a scale and shift."""

from __future__ import annotations

import math
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.nn.functional.operands import (
    Shape,
    along_channels,
    floating,
    require_shape,
)
from stagekit.ops.reduction import widened
from stagekit.source import here
from stagekit.symbolic import product
from stagekit.tensor import Variable
from stagekit.types import normalize_axis, same_shape, shape_text


def _standardized(x: Any, mean: Any, var: Any, eps: float) -> Any:
    return (x - mean) * ops.rsqrt(var + eps)


def _moments(x: Any, axes: Shape) -> tuple[Any, Any]:
    """The mean and the variance over `axes`, which stay as 1."""
    mean = ops.mean(x, axis=axes, keepdims=True)
    return mean, ops.mean(ops.square(x - mean), axis=axes, keepdims=True)


def _scaled(x: Any, weight: Any, bias: Any, like: Any) -> Any:
    """x weight + bias, each optional, in the type of `like`."""
    x = ops.astype(x, like.dtype, copy=False)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


# ----- over the last axes -------------------------------------------------------------------------


def _last_axes(op: str, x: Any, normalized_shape: Any) -> Shape:
    given = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    lead = x.ndim - len(given)
    if not given or lead < 0 or not same_shape(x.shape[lead:], tuple(given)):
        raise ShapeError(
            f"{op}: the last axes of {shape_text(x.shape)} are not {shape_text(tuple(given))}",
            fix="normalized_shape names the sizes of the last axes",
        ).located(here())
    return tuple(range(lead, x.ndim))


def _parameter(op: str, name: str, parameter: Any, shape: Shape) -> Any:
    if parameter is None:
        return None
    parameter = ops.asarray(parameter)
    require_shape(op, name, parameter, shape)
    return parameter


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """(x - mean) / sqrt(variance + eps) over the last axes, times `weight`, plus `bias`. Source:
    `torch.nn.functional.layer_norm`, Ba et al. 2016.

    `normalized_shape` (an int or a tuple) is the shape of these axes, and of the parameters;
    ShapeError where one does not fit.

    >>> import stagekit as sk
    >>> sk.nn.functional.layer_norm(sk.asarray([[1.0, 3.0], [4.0, 4.0]]), 2, eps=0.0).shape
    (2, 2)
    """
    x = floating("layer_norm", x)
    axes = _last_axes("layer_norm", x, normalized_shape)
    shape = tuple(x.shape[k] for k in axes)
    weight = _parameter("layer_norm", "weight", weight, shape)
    bias = _parameter("layer_norm", "bias", bias, shape)
    wide = widened(x)
    return _scaled(_standardized(wide, *_moments(wide, axes), eps), weight, bias, x)


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """x / sqrt(mean of squares + eps) over the last axes, times `weight`. Source:
    `torch.nn.functional.rms_norm`, Zhang and Sennrich 2019.

    `eps` is that of the data type unless given. Raises ShapeError as `layer_norm`.

    >>> import stagekit as sk
    >>> sk.nn.functional.rms_norm(sk.asarray([3.0, 3.0]), 2)
    tensor([1., 1.], dtype=float32)
    """
    x = floating("rms_norm", x)
    axes = _last_axes("rms_norm", x, normalized_shape)
    weight = _parameter("rms_norm", "weight", weight, tuple(x.shape[k] for k in axes))
    wide = widened(x)
    eps = ops.finfo(wide.dtype).eps if eps is None else eps
    squares = ops.mean(ops.square(wide), axis=axes, keepdims=True)
    return _scaled(wide * ops.rsqrt(squares + eps), weight, None, x)


def normalize(x: Any, p: float = 2.0, axis: Any = 1, eps: float = 1e-12) -> Any:
    """x / max(norm, eps) with the p-norm along `axis`. Source: `torch.nn.functional.normalize`.

    The gradient of the norm is 0 at 0. Raises ArgumentError for p < 1.

    >>> import stagekit as sk
    >>> sk.nn.functional.normalize(sk.asarray([[3e30, 0.0], [0.0, 0.0]]))
    tensor([[1., 0.],
            [0., 0.]], dtype=float32)
    """
    x = floating("normalize", x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(normalize_axis("normalize", a, x.ndim) for a in axes)
    if not p >= 1:
        raise ArgumentError(f"normalize: p is {p!r}", fix="use 1 or more").located(here())
    if any(x.shape[a] == 0 for a in axes):
        return ops.alias(x)
    wide = widened(x)
    norm = _norm(wide, p, axes)
    return _scaled(wide / ops.maximum(norm, eps), None, None, x)


def _norm(x: Any, p: float, axes: Shape) -> Any:
    """The p-norm, scaled so that no power overflows."""
    size = ops.abs(x)
    if p == 1:
        return ops.sum(size, axis=axes, keepdims=True)
    if p == math.inf:
        return ops.max(size, axis=axes, keepdims=True)
    top = ops.stop_gradient(ops.max(size, axis=axes, keepdims=True))
    top = ops.where(ops.isfinite(top) & (top > 0), top, 1.0)
    if p == 2:
        return top * ops.root(ops.sum(ops.square(x / top), axis=axes, keepdims=True))
    powers = ops.sum((size / top) ** p, axis=axes, keepdims=True)
    zero = powers == 0
    return top * ops.where(zero, 0.0, ops.where(zero, 1.0, powers) ** (1 / p))


# ----- over batches, groups and instances ---------------------------------------------------------


def _with_channels(op: str, x: Any) -> Any:
    x = floating(op, x)
    if x.ndim < 2:
        raise ShapeError(
            f"{op}: input {shape_text(x.shape)} has no channels", fix="give (batch, channels, ...)"
        ).located(here())
    return x


def _optional(op: str, name: str, parameter: Any, x: Any) -> Any:
    return None if parameter is None else along_channels(op, name, parameter, x)


def _update(running: Any, seen: Any, momentum: float) -> None:
    """Move a running statistic toward one just seen, where it is a Variable."""
    if isinstance(running, Variable):
        seen = ops.stop_gradient(ops.reshape(seen, running.shape))
        running.assign(ops.astype(running * (1 - momentum) + seen * momentum, running.dtype))


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(variance + eps) for each channel (axis 1), times `weight`, plus `bias`.
    Source: `torch.nn.functional.batch_norm`, Ioffe and Szegedy 2015.

    Statistics are the running ones, or with `training` those of the batch, toward which the running
    ones move by `momentum` where they are Variables (the variance unbiased). Raises ShapeError for
    parameters that are not one number a channel, and for a training batch with fewer than two
    values a channel; ArgumentError where running statistics are missing.

    >>> import stagekit as sk
    >>> mean, var = sk.Variable(sk.zeros(1)), sk.Variable(sk.ones(1))
    >>> y = sk.nn.functional.batch_norm(sk.asarray([[1.0], [3.0]]), mean, var, training=True)
    >>> mean.value
    tensor([0.2], dtype=float32)
    """
    op = "batch_norm"
    x = _with_channels(op, x)
    mean, var = (_optional(op, f"running_{n}", s, x) for n, s in
                 (("mean", running_mean), ("var", running_var)))  # fmt: skip
    weight, bias = _optional(op, "weight", weight, x), _optional(op, "bias", bias, x)
    wide = widened(x)
    if not training:
        if mean is None or var is None:
            raise ArgumentError(
                "batch_norm: running statistics are missing", fix="give both, or training=True"
            ).located(here())
        return _scaled(_standardized(wide, mean, var, eps), weight, bias, x)
    axes = (0, *range(2, x.ndim))
    count = product(x.shape[k] for k in axes)
    if count < 2:
        raise ShapeError(
            f"batch_norm: input {shape_text(x.shape)} has fewer than two values a channel",
            fix="give a larger batch in training",
        ).located(here())
    mean, var = _moments(wide, axes)
    _update(running_mean, mean, momentum)
    _update(running_var, var * (count / (count - 1)), momentum)
    return _scaled(_standardized(wide, mean, var, eps), weight, bias, x)


def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`batch_norm` of each instance by itself: statistics over all axes after the channels. Source:
    `torch.nn.functional.instance_norm`, Ulyanov et al. 2016.

    Running statistics that are Variables move toward the mean over the batch; without
    `use_input_stats` they are what is used. Raises as `batch_norm`.

    >>> import stagekit as sk
    >>> sk.nn.functional.instance_norm(sk.asarray([[[1.0, 3.0]]]), eps=0.0)
    tensor([[[-1.,  1.]]], dtype=float32)
    """
    op = "instance_norm"
    x = _with_channels(op, x)
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    _optional(op, "running_mean", running_mean, x)
    _optional(op, "running_var", running_var, x)
    weight, bias = _optional(op, "weight", weight, x), _optional(op, "bias", bias, x)
    wide, axes = widened(x), tuple(range(2, x.ndim))
    count = product(x.shape[2:])
    if count < 2:
        raise ShapeError(
            f"instance_norm: input {shape_text(x.shape)} has fewer than two values a channel",
            fix="give larger instances",
        ).located(here())
    mean, var = _moments(wide, axes)
    _update(running_mean, ops.mean(mean, axis=0), momentum)
    _update(running_var, ops.mean(var, axis=0) * (count / (count - 1)), momentum)
    return _scaled(_standardized(wide, mean, var, eps), weight, bias, x)


def group_norm(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """(x - mean) / sqrt(variance + eps) over groups of channels of one instance, times `weight`,
    plus `bias` (one number a channel). Source: `torch.nn.functional.group_norm`, Wu and He 2018.

    Raises ShapeError where the channels are no `num_groups` equal groups.

    >>> import stagekit as sk
    >>> sk.nn.functional.group_norm(sk.asarray([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0)
    tensor([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    op = "group_norm"
    x = _with_channels(op, x)
    channels = x.shape[1]
    if num_groups < 1 or channels % num_groups != 0:
        raise ShapeError(
            f"group_norm: {shape_text(x.shape)} has no {num_groups} equal groups of channels",
            fix="num_groups must divide the size of axis 1",
        ).located(here())
    weight, bias = _optional(op, "weight", weight, x), _optional(op, "bias", bias, x)
    wide = widened(x)
    grouped = ops.reshape(wide, (x.shape[0], num_groups, channels // num_groups, *x.shape[2:]))
    moments = _moments(grouped, tuple(range(2, grouped.ndim)))
    return _scaled(ops.reshape(_standardized(grouped, *moments, eps), x.shape), weight, bias, x)
