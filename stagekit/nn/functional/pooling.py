"""Pooling: sliding windows of the last axes, and an ordinary reduction of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError
from stagekit.nn.functional.operands import Shape, batched, floating, per_axis, require_fit
from stagekit.op import OPS
from stagekit.source import here
from stagekit.symbolic import maximum, minimum, product

# ----- windows ------------------------------------------------------------------------------------


def _steps(
    op: str, rank: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> list[tuple[int, int, int, int]]:
    """For each axis the window, the step, the padding on either side and the spacing."""
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    steps = kernel if stride is None else per_axis(op, "stride", stride, rank, 1)
    around = per_axis(op, "padding", padding, rank, 0)
    spacing = per_axis(op, "dilation", dilation, rank, 1)
    if any(2 * p > d * (k - 1) + 1 for k, p, d in zip(kernel, around, spacing, strict=True)):
        raise ArgumentError(
            f"{op}: padding {around} is more than half of the window {kernel}",
            fix="use less padding: each window must hold something of the input",
        ).located(here())
    return list(zip(kernel, steps, around, spacing, strict=True))


def _count(op: str, n: Any, step: tuple[int, int, int, int], ceil_mode: bool) -> Any:
    """How many windows there are along an axis; with `ceil_mode` also one that hangs over the end,
    if it begins before it."""
    k, s, p, d = step
    more = s - 1 if ceil_mode else 0
    room = n + 2 * p - (d * (k - 1) + 1)
    require_fit(op, d * (k - 1) + 1, n + 2 * p + more)
    count = (room + more) // s + 1
    return minimum(count, (n + p - 1) // s + 1) if ceil_mode else count


def _windows(
    op: str, x: Any, steps: list[tuple[int, int, int, int]], ceil_mode: bool, fill: Any
) -> tuple[Any, Shape]:
    """The windows of the last axes, padded with `fill`, and the number of them along each."""
    rank = len(steps)
    lead, sizes = x.ndim - rank, x.shape[x.ndim - rank :]
    extent = tuple(_count(op, n, step, ceil_mode) for n, step in zip(sizes, steps, strict=True))
    low = [0] * lead + [p for _, _, p, _ in steps]
    high: list[Any] = [0] * lead
    for n, t, (k, s, p, d) in zip(sizes, extent, steps, strict=True):
        over = s * (t - 1) + d * (k - 1) + 1 - n - p
        high.append(maximum(over, p) if ceil_mode else p)
    if ceil_mode or any(low):
        none = (0,) * x.ndim
        x = OPS["pad"](x, fill, low=tuple(low), high=tuple(high), interior=none)
    kernel, stride, _, spacing = zip(*steps, strict=True)
    return ops.windows(x, extent=extent, window=kernel, stride=stride, spacing=spacing), extent


def _inner(x: Any, rank: int) -> Shape:
    return tuple(range(x.ndim - rank, x.ndim))


def _lowest(op: str, x: Any) -> Any:
    """What is less than every number of the type."""
    if x.dtype.kind == "float":
        return -math.inf
    if x.dtype.kind not in ("int", "uint"):
        raise DTypeError(f"{op}: input is {x.dtype}", fix="give real numbers").located(here())
    return x.dtype.lowest


# ----- max and mean -------------------------------------------------------------------------------


def _max_pool(
    rank: int, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    op = f"max_pool{rank}d"
    x, single = batched(op, x, rank)
    steps = _steps(op, rank, kernel_size, stride, padding, dilation)
    seen, _ = _windows(op, x, steps, ceil_mode, _lowest(op, x))
    out = ops.max(seen, axis=_inner(seen, rank))
    return ops.squeeze(out, axis=0) if single else out


def max_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """The largest element of each window of (batch, channels, n). Source:
    `torch.nn.functional.max_pool1d`.

    The batch may be missing; `stride` is the window unless given; padding counts as -inf. Ties
    share the gradient. With `ceil_mode` a last window may hang over the end. Raises ShapeError
    for other ranks and a window larger than the padded input, ArgumentError for more padding than
    half of the window.

    >>> import stagekit as sk
    >>> sk.nn.functional.max_pool1d(sk.asarray([[[1.0, 4.0, 2.0, 3.0]]]), 2)
    tensor([[[4., 3.]]], dtype=float32)
    """
    return _max_pool(1, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """`max_pool1d` over two axes. Source: `torch.nn.functional.max_pool2d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.max_pool2d(sk.ones((1, 3, 8, 9)), 3, stride=2, padding=1).shape
    (1, 3, 4, 5)
    """
    return _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """`max_pool1d` over three axes. Source: `torch.nn.functional.max_pool3d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.max_pool3d(sk.ones((1, 1, 4, 4, 4)), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _max_pool(3, x, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool(
    rank: int,
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Any:
    op = f"avg_pool{rank}d"
    x, single = batched(op, floating(op, x), rank)
    steps = _steps(op, rank, kernel_size, stride, padding, 1)
    seen, extent = _windows(op, x, steps, ceil_mode, 0.0)
    total = ops.sum(seen, axis=_inner(seen, rank))
    whole = not ceil_mode and (count_include_pad or not any(p for _, _, p, _ in steps))
    if whole:
        out = total / product(k for k, _, _, _ in steps)
    else:
        out = total
        for axis, (n, t, (k, s, p, _)) in enumerate(zip(x.shape[2:], extent, steps, strict=True)):
            edge = p if count_include_pad else 0
            first = s * ops.arange(t) - p
            length = ops.clip(first + k, None, n + edge) - ops.clip(first, -edge, None)
            out = out / ops.reshape(ops.astype(length, x.dtype), (t, *(1,) * (rank - 1 - axis)))
    return ops.squeeze(out, axis=0) if single else out


def avg_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window of (batch, channels, n). Source: `torch.nn.functional.avg_pool1d`.

    Arguments and errors as `max_pool1d`; padding counts as zeros, or without `count_include_pad`
    not at all. What hangs over the end by `ceil_mode` never counts.

    >>> import stagekit as sk
    >>> sk.nn.functional.avg_pool1d(sk.asarray([[[1.0, 3.0, 5.0]]]), 2, 1)
    tensor([[[2., 4.]]], dtype=float32)
    """
    return _avg_pool(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """`avg_pool1d` over two axes. Source: `torch.nn.functional.avg_pool2d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.avg_pool2d(sk.ones((1, 3, 8, 8)), 2).shape
    (1, 3, 4, 4)
    """
    return _avg_pool(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool3d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """`avg_pool1d` over three axes. Source: `torch.nn.functional.avg_pool3d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.avg_pool3d(sk.ones((1, 1, 4, 4, 4)), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _avg_pool(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


# ----- to a given size ----------------------------------------------------------------------------


def _adaptive(
    op: str, rank: int, x: Any, output_size: Any, fill: Any, reduce: Callable[..., Any]
) -> Any:
    """Windows from floor(i n / m) to ceil((i + 1) n / m) of an axis of n, for i < m."""
    x, single = batched(op, x, rank)
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    if len(given) != rank:
        raise ArgumentError(
            f"{op}: output_size is {output_size!r}", fix=f"give an int, or {rank}"
        ).located(here())
    sizes = x.shape[2:]
    wanted = [n if m is None else per_axis(op, "output_size", m, 1, 1)[0]
              for m, n in zip(given, sizes, strict=True)]  # fmt: skip
    counts: list[Any] = []
    for axis, (n, m) in enumerate(zip(sizes, wanted, strict=True)):
        require_fit(op, 1, n)
        x, count = _split(x, 2 + 2 * axis, m, fill)
        counts.append(ops.reshape(count, (m if count.ndim else 1, *(1,) * (rank - 1 - axis))))
    out = reduce(x, tuple(range(3, 3 + 2 * rank, 2)), counts)
    return ops.squeeze(out, axis=0) if single else out


def _split(x: Any, axis: int, m: Any, fill: Any) -> tuple[Any, Any]:
    """An axis as m windows (padded with `fill`), and how many elements each has."""
    lead, n, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    if n % m == 0:
        return ops.reshape(x, (*lead, m, n // m, *rest)), ops.asarray(n // m)
    window = ops.arange(m)
    start, stop = window * n // m, ((window + 1) * n + m - 1) // m
    place = ops.expand_dims(start, axis=1) + ops.arange((n + m - 2) // m + 1)
    inside = place < ops.expand_dims(stop, axis=1)
    seen = ops.take(x, ops.minimum(place, n - 1), axis=axis)
    inside = ops.reshape(inside, (*inside.shape, *(1,) * len(rest)))
    return ops.where(inside, seen, fill), stop - start


def _adaptive_avg(rank: int, x: Any, output_size: Any) -> Any:
    def mean(x: Any, axes: Shape, counts: list[Any]) -> Any:
        out = ops.sum(x, axis=axes)
        for count in counts:
            out = out / ops.astype(count, out.dtype)
        return out

    op = f"adaptive_avg_pool{rank}d"
    return _adaptive(op, rank, floating(op, x), output_size, 0.0, mean)


def _adaptive_max(rank: int, x: Any, output_size: Any) -> Any:
    op, x = f"adaptive_max_pool{rank}d", ops.asarray(x)
    largest = lambda x, axes, counts: ops.max(x, axis=axes)
    return _adaptive(op, rank, x, output_size, _lowest(op, x), largest)


def adaptive_avg_pool1d(x: Any, output_size: Any) -> Any:
    """The means of `output_size` windows that cover (batch, channels, n) as evenly as can be.
    Source: `torch.nn.functional.adaptive_avg_pool1d`.

    The batch may be missing; a size of None stays. Raises ShapeError, ArgumentError.

    >>> import stagekit as sk
    >>> sk.nn.functional.adaptive_avg_pool1d(sk.asarray([[[1.0, 3.0, 5.0]]]), 2)
    tensor([[[2., 4.]]], dtype=float32)
    """
    return _adaptive_avg(1, x, output_size)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """`adaptive_avg_pool1d` over two axes. Source: `torch.nn.functional.adaptive_avg_pool2d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.adaptive_avg_pool2d(sk.ones((1, 3, 7, 9)), (1, None)).shape
    (1, 3, 1, 9)
    """
    return _adaptive_avg(2, x, output_size)


def adaptive_avg_pool3d(x: Any, output_size: Any) -> Any:
    """`adaptive_avg_pool1d` over three axes. Source: `torch.nn.functional.adaptive_avg_pool3d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.adaptive_avg_pool3d(sk.ones((1, 1, 4, 5, 6)), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _adaptive_avg(3, x, output_size)


def adaptive_max_pool1d(x: Any, output_size: Any) -> Any:
    """The maxima of the windows of `adaptive_avg_pool1d`. Source:
    `torch.nn.functional.adaptive_max_pool1d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.adaptive_max_pool1d(sk.asarray([[[1.0, 3.0, 5.0]]]), 2)
    tensor([[[3., 5.]]], dtype=float32)
    """
    return _adaptive_max(1, x, output_size)


def adaptive_max_pool2d(x: Any, output_size: Any) -> Any:
    """`adaptive_max_pool1d` over two axes. Source: `torch.nn.functional.adaptive_max_pool2d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.adaptive_max_pool2d(sk.ones((1, 3, 7, 9)), 2).shape
    (1, 3, 2, 2)
    """
    return _adaptive_max(2, x, output_size)


def adaptive_max_pool3d(x: Any, output_size: Any) -> Any:
    """`adaptive_max_pool1d` over three axes. Source: `torch.nn.functional.adaptive_max_pool3d`.

    >>> import stagekit as sk
    >>> sk.nn.functional.adaptive_max_pool3d(sk.ones((1, 1, 4, 5, 6)), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _adaptive_max(3, x, output_size)
