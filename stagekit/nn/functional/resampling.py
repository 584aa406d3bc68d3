"""Resampling of the axes after the channels: interpolation, and channels as pixels."""

from __future__ import annotations

import math
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.nn.functional.operands import floating, per_axis, require_fit
from stagekit.source import here
from stagekit.types import shape_text

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def interpolate(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Any:
    """The axes after the channels resampled to `size`, or to floor(n * scale_factor). Source:
    `torch.nn.functional.interpolate`.

    `mode` is "nearest", "linear" (3 axes), "bilinear" (4), "trilinear" (5) or "bicubic" (4, with
    the coefficient -0.75). With `align_corners` the outer pixels keep their centers, else their
    borders. Given `scale_factor`, that is the ratio of the grids, as in torch. "nearest" to a
    `size` computes places in integers, so exactly. Raises ShapeError, ArgumentError.

    >>> import stagekit as sk
    >>> sk.nn.functional.interpolate(sk.asarray([[[1.0, 3.0]]]), 4, mode="linear")
    tensor([[[1. , 1.5, 2.5, 3. ]]], dtype=float32)
    """
    x = ops.asarray(x)
    rank = x.ndim - 2
    _require_mode(x, rank, mode, align_corners)
    if (size is None) == (scale_factor is None):
        raise ArgumentError(
            "interpolate: size and scale_factor", fix="give one of the two"
        ).located(here())
    wanted, ratios = _grid(x, rank, size, scale_factor)
    for axis, (m, ratio) in enumerate(zip(wanted, ratios, strict=True), 2):
        require_fit("interpolate", 1, x.shape[axis])
        if mode == "nearest":
            x = ops.take(x, _nearest(x.shape[axis], m, ratio), axis=axis)
        else:
            x = _resampled(floating("interpolate", x), axis, m, ratio, mode, align_corners)
    return x


def _require_mode(x: Any, rank: int, mode: str, align_corners: bool) -> None:
    fitting = {"nearest", _LINEAR.get(rank), "bicubic" if rank == 2 else None}
    if rank not in _LINEAR:
        raise ShapeError(
            f"interpolate: input {shape_text(x.shape)}", fix="give (batch, channels, *sizes)"
        ).located(here())
    if mode not in fitting:
        listed = ", ".join(sorted(m for m in fitting if m))
        raise ArgumentError(
            f"interpolate: mode is {mode!r} for {x.ndim} axes", fix=f"use one of {listed}"
        ).located(here())
    if mode == "nearest" and align_corners:
        raise ArgumentError(
            "interpolate: align_corners with mode 'nearest'", fix="use a linear mode"
        ).located(here())


def _grid(x: Any, rank: int, size: Any, scale_factor: Any) -> tuple[Any, list[float | None]]:
    """The sizes of the result, and the ratios of the old grid to the new where these are given."""
    if size is not None:
        return per_axis("interpolate", "size", size, rank, 1), [None] * rank
    given = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * rank
    if len(given) != rank or any(not f > 0 for f in given):
        raise ArgumentError(
            f"interpolate: scale_factor is {scale_factor!r}",
            fix=f"give a positive number, or {rank}",
        ).located(here())
    wanted = tuple(_scaled(n, f) for n, f in zip(x.shape[2:], given, strict=True))
    if any(m < 1 for m in wanted):
        raise ShapeError(
            f"interpolate: input {shape_text(x.shape)} gives the sizes {shape_text(wanted)}",
            fix="use a larger scale_factor",
        ).located(here())
    return wanted, [1.0 / f for f in given]


def _scaled(n: Any, factor: Any) -> Any:
    """floor(n factor); a factor that is whole keeps a symbolic size symbolic."""
    whole = float(factor).is_integer()
    return n * int(factor) if whole else math.floor(float(n) * factor)


def _nearest(n: Any, m: Any, ratio: float | None) -> Any:
    place = ops.arange(m)
    if ratio is None:
        return place * n // m
    if (1.0 / ratio).is_integer():
        return place // int(1.0 / ratio)
    moved = ops.floor(ops.astype(place, "float64") * ratio)
    return ops.minimum(ops.astype(moved, place.dtype), n - 1)


def _sources(n: Any, m: Any, ratio: float | None, align_corners: bool) -> Any:
    """Where the centers of the new pixels lie among the old, in float64."""
    place = ops.astype(ops.arange(m), "float64")
    if align_corners:
        return place * ((n - 1) / (m - 1)) if m > 1 else place
    return (place + 0.5) * (n / m if ratio is None else ratio) - 0.5


def _resampled(
    x: Any, axis: int, m: Any, ratio: float | None, mode: str, align_corners: bool
) -> Any:
    """Each element of the new axis as a weighted sum of 2 or 4 neighbours in the old."""
    n = x.shape[axis]
    source = _sources(n, m, ratio, align_corners)
    source = source if mode == "bicubic" else ops.clip(source, 0.0, None)
    first = ops.floor(source)
    t = source - first
    weights = _cubic(t) if mode == "bicubic" else {0: 1.0 - t, 1: t}
    first = ops.astype(first, int)
    terms = []
    for step, weight in weights.items():
        seen = ops.take(x, ops.clip(first + step, 0, n - 1), axis=axis)
        weight = ops.astype(weight, x.dtype, copy=False)
        terms.append(seen * ops.reshape(weight, (m, *(1,) * (x.ndim - axis - 1))))
    return ops.total(terms)


def _cubic(t: Any, a: float = -0.75) -> dict[int, Any]:
    """The weights of the neighbours by the cubic convolution of Keys 1981."""

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return {-1: far(t + 1), 0: near(t), 1: near(1 - t), 2: far(2 - t)}


def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """(..., c r^2, h, w) as (..., c, h r, w r). Source: `torch.nn.functional.pixel_shuffle`.

    Raises ShapeError where the channels are no multiple of r^2.

    >>> import stagekit as sk
    >>> sk.nn.functional.pixel_shuffle(sk.ones((1, 8, 2, 3)), 2).shape
    (1, 2, 4, 6)
    """
    x, r = _pixels("pixel_shuffle", x), upscale_factor
    *lead, c, h, w = x.shape
    if r < 1 or c % (r * r) != 0:
        raise ShapeError(
            f"pixel_shuffle: {shape_text(x.shape)} by {r}", fix="give r * r channels for each"
        ).located(here())
    k = len(lead)
    parts = ops.reshape(x, (*lead, c // (r * r), r, r, h, w))
    parts = ops.permute_dims(parts, (*range(k + 1), k + 3, k + 1, k + 4, k + 2))
    return ops.reshape(parts, (*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    """(..., c, h r, w r) as (..., c r^2, h, w). Source: `torch.nn.functional.pixel_unshuffle`.

    Raises ShapeError where the sizes are no multiples of r.

    >>> import stagekit as sk
    >>> sk.nn.functional.pixel_unshuffle(sk.ones((1, 2, 4, 6)), 2).shape
    (1, 8, 2, 3)
    """
    x, r = _pixels("pixel_unshuffle", x), downscale_factor
    *lead, c, h, w = x.shape
    if r < 1 or h % r != 0 or w % r != 0:
        raise ShapeError(
            f"pixel_unshuffle: {shape_text(x.shape)} by {r}", fix="give sizes that r divides"
        ).located(here())
    k = len(lead)
    parts = ops.reshape(x, (*lead, c, h // r, r, w // r, r))
    parts = ops.permute_dims(parts, (*range(k + 1), k + 2, k + 4, k + 1, k + 3))
    return ops.reshape(parts, (*lead, c * r * r, h // r, w // r))


def _pixels(op: str, x: Any) -> Any:
    x = ops.asarray(x)
    if x.ndim < 3:
        raise ShapeError(
            f"{op}: input {shape_text(x.shape)}", fix="give (..., channels, height, width)"
        ).located(here())
    return x
