"""Convolutions over 1 to 3 axes and their transposes: arguments of torch for one primitive."""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.nn.functional.operands import (
    along_channels,
    batched,
    per_axis,
    require_fit,
)
from stagekit.source import here
from stagekit.types import as_integer, same_size, shape_text

# ----- convolution --------------------------------------------------------------------------------


def _padding(
    op: str, padding: Any, taps: Any, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[Any, Any]]:
    """The zeros before and after each axis."""
    if padding == "valid":
        return [(0, 0)] * len(stride)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(
                f"{op}: padding 'same' with stride {stride}", fix="use a stride of 1"
            ).located(here())
        spans = [d * (k - 1) for k, d in zip(taps, dilation, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    if isinstance(padding, str):
        raise ArgumentError(
            f"{op}: padding is {padding!r}", fix="use 'same', 'valid', an int or a tuple"
        ).located(here())
    return [(p, p) for p in per_axis(op, "padding", padding, len(stride), 0)]


def _kernel(op: str, weight: Any, rank: int, groups: Any) -> Any:
    weight = ops.asarray(weight)
    if weight.ndim != rank + 2:
        raise ShapeError(
            f"{op}: weight {shape_text(weight.shape)} has {weight.ndim} axes, not {rank + 2}",
            fix=f"a kernel has two axes of channels and {rank} of sizes",
        ).located(here())
    if as_integer(op, "groups", groups) < 1:
        raise ArgumentError(f"{op}: groups is {groups}", fix="give 1 or more").located(here())
    return weight


def _finished(op: str, out: Any, bias: Any, single: bool) -> Any:
    if bias is not None:
        out = out + along_channels(op, "bias", bias, out)
    return ops.squeeze(out, axis=0) if single else out


def _convolve(
    rank: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Any:
    op = f"conv{rank}d"
    weight, (x, single) = _kernel(op, weight, rank, groups), batched(op, x, rank)
    try:
        ops.require_channels(op, x, weight, groups)
    except ShapeError as error:
        raise error.located(here()) from None
    taps = weight.shape[2:]
    stride = per_axis(op, "stride", stride, rank, 1)
    dilation = per_axis(op, "dilation", dilation, rank, 1)
    around = _padding(op, padding, taps, stride, dilation)
    extent = []
    for n, k, s, d, (low, high) in zip(x.shape[2:], taps, stride, dilation, around, strict=True):
        require_fit(op, d * (k - 1) + 1, n + low + high)
        extent.append((n + low + high - d * (k - 1) - 1) // s + 1)
    out = ops.convolution(
        x,
        weight,
        offset=tuple(-low for low, _ in around),
        extent=tuple(extent),
        stride=stride,
        spacing=dilation,
        dilation=(1,) * rank,
        groups=groups,
    )
    return _finished(op, out, bias, single)


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Sums of products of `x` (batch, channels, n) with a kernel (outputs, channels / groups, k)
    sliding over it. Source: `torch.nn.functional.conv1d`.

    The batch may be missing. `padding` zeros are added on both sides; "same" keeps the size (for
    stride 1), "valid" adds none. Raises ShapeError for ranks, channels and groups that do not fit
    and for a kernel larger than the padded input, ArgumentError for other arguments.

    >>> import stagekit as sk
    >>> sk.nn.functional.conv1d(sk.ones((1, 1, 3)), sk.ones((1, 1, 2)), padding=1)
    tensor([[[1., 2., 2., 1.]]], dtype=float32)
    """
    return _convolve(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """`conv1d` over two axes: (batch, channels, h, w) with (outputs, channels / groups, kh, kw).
    Source: `torch.nn.functional.conv2d`.

    >>> import stagekit as sk
    >>> x, weight = sk.ones((1, 3, 8, 9)), sk.ones((4, 3, 3, 3))
    >>> sk.nn.functional.conv2d(x, weight, stride=2, padding=(1, 0)).shape
    (1, 4, 4, 4)
    """
    return _convolve(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """`conv1d` over three axes. Source: `torch.nn.functional.conv3d`.

    >>> import stagekit as sk
    >>> x, weight = sk.ones((1, 2, 4, 4, 4)), sk.ones((2, 1, 3, 3, 3))
    >>> sk.nn.functional.conv3d(x, weight, padding="same", groups=2).shape
    (1, 2, 4, 4, 4)
    """
    return _convolve(3, x, weight, bias, stride, padding, dilation, groups)


# ----- its transpose ------------------------------------------------------------------------------


def _transposed(
    rank: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> Any:
    op = f"conv_transpose{rank}d"
    weight, (x, single) = _kernel(op, weight, rank, groups), batched(op, x, rank)
    if not same_size(x.shape[1], weight.shape[0]) or weight.shape[0] % groups != 0:
        raise ShapeError(
            f"{op}: input {shape_text(x.shape)} and kernel {shape_text(weight.shape)} do not fit "
            f"in {groups} groups",
            fix="a kernel is (channels, outputs / groups, ...); groups must divide the channels",
        ).located(here())
    stride = per_axis(op, "stride", stride, rank, 1)
    dilation = per_axis(op, "dilation", dilation, rank, 1)
    padding = per_axis(op, "padding", padding, rank, 0)
    more = per_axis(op, "output_padding", output_padding, rank, 0)
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise ArgumentError(
            f"{op}: output_padding {more} with stride {stride} and dilation {dilation}",
            fix="it must be smaller than one of them",
        ).located(here())
    rows = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, more, strict=True)
    extent = tuple((n - 1) * s - 2 * p + d * (k - 1) + m + 1 for n, k, s, p, d, m in rows)
    if any(n < 1 for n in extent):
        raise ShapeError(
            f"{op}: input {shape_text(x.shape)} gives the sizes {shape_text(extent)}",
            fix="use less padding or a larger input",
        ).located(here())
    attrs = {
        "offset": tuple(-p for p in padding),
        "stride": stride,
        "spacing": dilation,
        "dilation": (1,) * rank,
        "groups": groups,
    }
    return _finished(op, ops.transposed(x, weight, attrs, extent), bias, single)


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The transpose of `conv1d` in its input: each element adds a scaled kernel (channels,
    outputs / groups, k) to the result. Source: `torch.nn.functional.conv_transpose1d`.

    The result has (n - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1 elements.
    Raises ShapeError and ArgumentError as `conv1d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.conv_transpose1d(sk.ones((1, 1, 2)), sk.ones((1, 1, 3)), stride=2)
    tensor([[[1., 1., 2., 1., 1.]]], dtype=float32)
    """
    return _transposed(1, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """`conv_transpose1d` over two axes. Source: `torch.nn.functional.conv_transpose2d`.

    >>> import stagekit as sk
    >>> x, weight = sk.ones((1, 4, 4, 5)), sk.ones((4, 3, 3, 3))
    >>> sk.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1).shape
    (1, 3, 8, 10)
    """
    return _transposed(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """`conv_transpose1d` over three axes. Source: `torch.nn.functional.conv_transpose3d`.

    >>> import stagekit as sk
    >>> x, weight = sk.ones((1, 2, 2, 2, 2)), sk.ones((2, 1, 2, 2, 2))
    >>> sk.nn.functional.conv_transpose3d(x, weight, stride=2).shape
    (1, 1, 4, 4, 4)
    """
    return _transposed(3, x, weight, bias, stride, padding, output_padding, groups, dilation)
