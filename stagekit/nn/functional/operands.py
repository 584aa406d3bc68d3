"""What neural functions ask of their operands: floats, a rank, an argument for each axis."""

from __future__ import annotations

import operator
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.source import here
from stagekit.types import as_integer, default_float, same_shape, shape_text

Shape = tuple[Any, ...]


def floating(op: str, x: Any) -> Any:
    """A tensor of real numbers; integers and bool become the default float, complex is refused."""
    x = ops.asarray(x)
    if x.dtype.kind == "complex":
        raise DTypeError(
            f"{op}: an operand is {x.dtype}", fix="take sk.real or sk.abs first"
        ).located(here())
    return x if x.dtype.kind == "float" else ops.astype(x, default_float)


def per_axis(op: str, name: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """One int of at least `least` for each of `rank` axes, from an int or a tuple of them."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    found = tuple(operator.index(as_integer(op, name, v)) for v in values)
    found = found * rank if len(found) == 1 else found
    if len(found) != rank or any(v < least for v in found):
        raise ArgumentError(
            f"{op}: {name} is {value!r}", fix=f"give an int, or {rank}, of at least {least}"
        ).located(here())
    return found


def batched(op: str, x: Any, rank: int) -> tuple[Any, bool]:
    """(batch, channels, *sizes), and whether the batch was missing and is of one."""
    x = ops.asarray(x)
    if x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{op}: input {shape_text(x.shape)} has {x.ndim} axes",
            fix=f"give (batch, channels, *sizes) with {rank} sizes; the batch may be missing",
        ).located(here())
    return (ops.expand_dims(x, axis=0), True) if x.ndim == rank + 1 else (x, False)


def require_shape(op: str, name: str, x: Any, shape: Shape) -> None:
    """ShapeError unless a parameter has the shape that the input asks for."""
    if not same_shape(x.shape, shape):
        raise ShapeError(
            f"{op}: {name} has the shape {shape_text(x.shape)}, not {shape_text(shape)}",
            fix=f"give a {name} that fits the input",
        ).located(here())


def along_channels(op: str, name: str, parameter: Any, x: Any) -> Any:
    """A parameter with one number a channel, shaped to broadcast with (batch, channels, ...)."""
    parameter = ops.asarray(parameter)
    require_shape(op, name, parameter, (x.shape[1],))
    return ops.reshape(parameter, (x.shape[1], *(1,) * (x.ndim - 2)))


def require_fit(op: str, window: Any, size: Any) -> None:
    """ShapeError for a window that is larger than its padded axis."""
    if size < window:
        raise ShapeError(
            f"{op}: a window of {shape_text((window,))} is larger than the padded input "
            f"{shape_text((size,))}",
            fix="give a larger input, more padding or a smaller window",
        ).located(here())
