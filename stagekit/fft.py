"""`sk.fft`: the Fourier transforms of the Array API standard, with derivatives of any order.

Each cuts or pads its axes to the lengths asked for, transforms one axis after another, and scales:
`norm="backward"` (the default) divides the inverse by n, `"forward"` the forward transform,
`"ortho"` both by sqrt(n). float64 gives complex128, every other real type complex64.
"""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.ops.fourier import dft, irdft, rdft
from stagekit.placement import as_device
from stagekit.source import here
from stagekit.types import as_integer, default_float, normalize_axes, normalize_axis
from stagekit.types import dtype as as_dtype

__all__ = [
    "fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft",
    "irfftn", "rfft", "rfftfreq", "rfftn",
]  # fmt: skip

_NORMS = {"backward": (0, 1), "ortho": (0.5, 0.5), "forward": (1, 0)}

# ----- lengths and scales -------------------------------------------------------------------------


def _fitted(name: str, x: Any, n: Any, axis: int) -> Any:
    """`x` cut, or padded with zeros, to n elements along an axis."""
    size = x.shape[axis]
    if n is None or n is size:
        return x
    n = as_integer(name, "a length", n)
    if n < 1:
        raise ShapeError(f"{name}: a length of {n}", fix="transform 1 element or more").located(
            here()
        )
    if n <= size:
        return x[(slice(None),) * axis + (slice(0, n),)]
    width = [(0, n - size if k == axis else 0) for k in range(x.ndim)]
    return ops.pad(x, width)


def _scaled(name: str, y: Any, n: Any, norm: str, inverse: bool) -> Any:
    """A transform of n elements, scaled as `norm` says."""
    if norm not in _NORMS:
        raise ArgumentError(
            f"{name}: norm is {norm!r}", fix=f"use one of {', '.join(map(repr, _NORMS))}"
        ).located(here())
    power = _NORMS[norm][inverse]
    if power == 0:
        return y
    count = ops.asarray(n, dtype=ops.real(y).dtype if y.dtype.kind == "complex" else y.dtype)
    return y / (count if power == 1 else ops.sqrt(count))


def _axis(name: str, x: Any, axis: int) -> int:
    return normalize_axis(name, axis, x.ndim)


def _lengths(name: str, x: Any, s: Any, axes: Any) -> tuple[list[int], list[Any]]:
    """The axes to transform, in the order given, and a length (None: its own) for each."""
    if axes is None:
        count = x.ndim if s is None else min(len(s), x.ndim)
        order = list(range(x.ndim - count, x.ndim))
    else:
        order = [_axis(name, x, a) for a in axes]
        normalize_axes(name, tuple(order), x.ndim)
    lengths = [None] * len(order) if s is None else list(s)
    if len(lengths) != len(order):
        raise ShapeError(
            f"{name}: {len(lengths)} lengths for {len(order)} axes", fix="give one for each axis"
        ).located(here())
    return order, lengths


def _along(name: str, x: Any, axis: int, n: Any, norm: str, inverse: bool) -> Any:
    x = _fitted(name, x, n, axis)
    return _scaled(name, dft(x, axis=axis, inverse=inverse), x.shape[axis], norm, inverse)


def _along_all(name: str, x: Any, s: Any, axes: Any, norm: str, inverse: bool) -> Any:
    x = ops.asarray(x)
    for axis, n in zip(*_lengths(name, x, s, axes), strict=True):
        x = _along(name, x, axis, n, norm, inverse)
    return x


# ----- complex ------------------------------------------------------------------------------------


def fft(x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """The Fourier transform along `axis` of `n` elements (its size; else cut, or zeros are added).

    Complex of the shape of `x` with n on `axis`. Raises ShapeError for an axis that does not exist
    or n < 1, ArgumentError for an unknown `norm`. As `numpy.fft.fft`.

    >>> import stagekit as sk
    >>> sk.fft.fft(sk.asarray([1.0, 0.0, 0.0, 0.0]))
    tensor([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j], dtype=complex64)
    """
    x = ops.asarray(x)
    return _along("fft", x, _axis("fft", x, axis), n, norm, False)


def ifft(x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """The inverse of `fft`; as `numpy.fft.ifft`. Raises as `fft`.

    >>> import stagekit as sk
    >>> sk.fft.ifft(sk.fft.fft(sk.asarray([1.0, 2.0])))
    tensor([1.+0.j, 2.+0.j], dtype=complex64)
    """
    x = ops.asarray(x)
    return _along("ifft", x, _axis("ifft", x, axis), n, norm, True)


def fftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """`fft` along several axes (all), to the lengths `s`; as `numpy.fft.fftn`. Raises as `fft`.

    >>> import stagekit as sk
    >>> sk.fft.fftn(sk.ones((2, 2)))
    tensor([[4.+0.j, 0.+0.j],
            [0.+0.j, 0.+0.j]], dtype=complex64)
    """
    return _along_all("fftn", x, s, axes, norm, False)


def ifftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """The inverse of `fftn`; as `numpy.fft.ifftn`. Raises as `fft`.

    >>> import stagekit as sk
    >>> sk.fft.ifftn(sk.ones((2, 2)))
    tensor([[1.+0.j, 0.+0.j],
            [0.+0.j, 0.+0.j]], dtype=complex64)
    """
    return _along_all("ifftn", x, s, axes, norm, True)


# ----- real ---------------------------------------------------------------------------------------


def _real(name: str, x: Any) -> Any:
    """The operand, which must be real."""
    x = ops.asarray(x)
    if x.dtype.kind == "complex":
        raise DTypeError(
            f"{name}: the operand is {x.dtype}, not real", fix="use fft, or sk.real"
        ).located(here())
    return x


def rfft(x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """The first n // 2 + 1 results of `fft` for real `x`, which say all; as `numpy.fft.rfft`.

    Raises DTypeError for complex numbers, and as `fft`.

    >>> import stagekit as sk
    >>> sk.fft.rfft(sk.asarray([1.0, 2.0, 3.0, 4.0]))
    tensor([10.+0.j, -2.+2.j, -2.+0.j], dtype=complex64)
    """
    x = _real("rfft", x)
    axis = _axis("rfft", x, axis)
    x = _fitted("rfft", x, n, axis)
    return _scaled("rfft", rdft(x, axis=axis), x.shape[axis], norm, False)


def _real_inverse(name: str, x: Any, n: Any, axis: int) -> tuple[Any, Any]:
    """The unscaled inverse to n real numbers (2 (m - 1) for m given ones), and n."""
    n = 2 * (x.shape[axis] - 1) if n is None else as_integer(name, "a length", n)
    if n < 1:
        raise ShapeError(f"{name}: a length of {n}", fix="give n of 1 or more").located(here())
    return irdft(_fitted(name, x, n // 2 + 1, axis), axis=axis, size=n), n


def irfft(x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """The inverse of `rfft`: n real numbers, 2 (m - 1) unless given; as `numpy.fft.irfft`.

    The imaginary parts of the first result, and of the one at n / 2, count as 0. Raises as `fft`.

    >>> import stagekit as sk
    >>> sk.fft.irfft(sk.fft.rfft(sk.asarray([1.0, 2.0, 3.0])), n=3)
    tensor([1., 2., 3.], dtype=float32)
    """
    x = ops.asarray(x)
    out, n = _real_inverse("irfft", x, n, _axis("irfft", x, axis))
    return _scaled("irfft", out, n, norm, True)


def rfftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """`rfft` along the last of `axes`, then `fft` along the others; as `numpy.fft.rfftn`.

    >>> import stagekit as sk
    >>> sk.fft.rfftn(sk.ones((2, 2)))
    tensor([[4.+0.j, 0.+0.j],
            [0.+0.j, 0.+0.j]], dtype=complex64)
    """
    x = ops.asarray(x)
    order, lengths = _some_axes("rfftn", *_lengths("rfftn", x, s, axes))
    out = rfft(x, n=lengths[-1], axis=order[-1], norm=norm)
    for axis, n in zip(order[:-1], lengths[:-1], strict=True):
        out = _along("rfftn", out, axis, n, norm, False)
    return out


def irfftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """The inverse of `rfftn`; `s` are the lengths of the result. As `numpy.fft.irfftn`.

    >>> import stagekit as sk
    >>> sk.fft.irfftn(sk.fft.rfftn(sk.ones((2, 4))))
    tensor([[1., 1., 1., 1.],
            [1., 1., 1., 1.]], dtype=float32)
    """
    x = ops.asarray(x)
    order, lengths = _some_axes("irfftn", *_lengths("irfftn", x, s, axes))
    for axis, n in zip(order[:-1], lengths[:-1], strict=True):
        x = _along("irfftn", x, axis, n, norm, True)
    return irfft(x, n=lengths[-1], axis=order[-1], norm=norm)


def _some_axes(name: str, order: list[int], lengths: list[Any]) -> tuple[list[int], list[Any]]:
    if not order:
        raise ShapeError(f"{name}: no axes", fix="transform one axis or more").located(here())
    return order, lengths


# ----- Hermitian ----------------------------------------------------------------------------------


def hfft(x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """The `fft` of a signal with conjugate symmetry, given by its half: n real numbers.

    As `numpy.fft.hfft`. Raises as `fft`.

    >>> import stagekit as sk
    >>> sk.fft.hfft(sk.asarray([1.0, 2.0, 1.0]))
    tensor([ 6.,  0., -2.,  0.], dtype=float32)
    """
    x = ops.asarray(x)
    out, n = _real_inverse("hfft", ops.conj(x), n, _axis("hfft", x, axis))
    return _scaled("hfft", out, n, norm, False)


def ihfft(x: Any, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Any:
    """The inverse of `hfft`: the half, n // 2 + 1 elements, for n real ones.

    As `numpy.fft.ihfft`. Raises as `rfft`.

    >>> import stagekit as sk
    >>> sk.fft.ihfft(sk.asarray([6.0, 0.0, -2.0, 0.0]))
    tensor([1.-0.j, 2.-0.j, 1.-0.j], dtype=complex64)
    """
    x = _real("ihfft", x)
    axis = _axis("ihfft", x, axis)
    x = _fitted("ihfft", x, n, axis)
    return _scaled("ihfft", ops.conj(rdft(x, axis=axis)), x.shape[axis], norm, True)


# ----- frequencies, shifts ------------------------------------------------------------------------


def fftfreq(n: Any, /, *, d: float = 1.0, dtype: Any = None, device: str | None = None) -> Any:
    """The frequencies of `fft` of n samples, `d` apart, in cycles per unit of d.

    As `numpy.fft.fftfreq`.

    >>> import stagekit as sk
    >>> sk.fft.fftfreq(4)
    tensor([ 0.  ,  0.25, -0.5 , -0.25], dtype=float32)
    """
    k = _places("fftfreq", n, device)
    return _frequencies(ops.where(2 * k < n, k, k - n), n, d, dtype)


def rfftfreq(n: Any, /, *, d: float = 1.0, dtype: Any = None, device: str | None = None) -> Any:
    """The frequencies of `rfft`, none negative; as `numpy.fft.rfftfreq`.

    >>> import stagekit as sk
    >>> sk.fft.rfftfreq(4)
    tensor([0.  , 0.25, 0.5 ], dtype=float32)
    """
    k = _places("rfftfreq", n, device)[: n // 2 + 1]
    return _frequencies(k, n, d, dtype)


def _places(name: str, n: Any, device: str | None) -> Any:
    as_device(device)
    if as_integer(name, "n", n) < 1:
        raise ShapeError(f"{name}: n is {n}", fix="give 1 or more").located(here())
    return ops.arange(n)


def _frequencies(k: Any, n: Any, d: float, dtype: Any) -> Any:
    kind = default_float if dtype is None else as_dtype(dtype)
    return ops.astype(ops.astype(k, "float64") / (n * d), kind)


def fftshift(x: Any, /, *, axes: Any = None) -> Any:
    """The frequency 0 moved to the middle of `axes` (all); as `numpy.fft.fftshift`.

    >>> import stagekit as sk
    >>> sk.fft.fftshift(sk.asarray([0, 1, 2, -2, -1]))
    tensor([-2, -1,  0,  1,  2], dtype=int64)
    """
    return _shifted("fftshift", x, axes, 1)


def ifftshift(x: Any, /, *, axes: Any = None) -> Any:
    """The inverse of `fftshift`; as `numpy.fft.ifftshift`.

    >>> import stagekit as sk
    >>> sk.fft.ifftshift(sk.asarray([-2, -1, 0, 1, 2]))
    tensor([ 0,  1,  2, -2, -1], dtype=int64)
    """
    return _shifted("ifftshift", x, axes, -1)


def _shifted(name: str, x: Any, axes: Any, sign: int) -> Any:
    x = ops.asarray(x)
    for axis in normalize_axes(name, axes, x.ndim):
        x = ops.roll(x, sign * (x.shape[axis] // 2), axis=axis)
    return x
