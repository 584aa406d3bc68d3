"""Discrete Fourier transforms along one axis, unscaled: NumPy's pocketfft, and linear, so that each
says its adjoint. `stagekit.fft` has the public functions: lengths, several axes, scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import stagekit.ops as ops
from stagekit.errors import DTypeError, ShapeError
from stagekit.op import Op
from stagekit.ops.batching import along_axis
from stagekit.ops.movement import linear
from stagekit.types import DType, TensorType, complex_of, default_int, promote, real_of, shape_text

POCKETFFT = "pocketfft, through numpy.fft"


def _complex(name: str, operands: Sequence[Any]) -> list[DType]:
    """A complex type; real numbers become one."""
    kind = promote(operands, name)
    return [kind if kind.kind == "complex" else complex_of(kind)]


def _real(name: str, operands: Sequence[Any]) -> list[DType]:
    """A float type of 32 or 64 bits; complex numbers are refused."""
    kind = promote(operands, name)
    if kind.kind == "complex":
        raise DTypeError(f"{name}: the operand is {kind}, not real", fix="use fft, or sk.real")
    return [real_of(complex_of(kind))]


def _require_some(name: str, x: TensorType, axis: int) -> None:
    if x.shape[axis] == 0:
        raise ShapeError(
            f"{name}: axis {axis} of shape {shape_text(x.shape)} is empty",
            fix="a transform needs one element or more",
        )


def _declare(name: str, adjoint: Callable[..., Any], **facts: Any) -> Op:
    """A linear op along `axis`."""
    return linear(
        name,
        adjoint,
        moves=False,
        library=POCKETFFT,
        batch=along_axis(name),
        family="fourier",
        **facts,
    )


# ----- complex to complex -------------------------------------------------------------------------


def _dft_type(x: TensorType, *, axis: int, inverse: bool) -> TensorType:
    _require_some("fft", x, axis)
    return x


def _dft_value(xp: Any, x: Any, *, axis: int, inverse: bool) -> Any:
    transform = xp.fft.ifft if inverse else xp.fft.fft
    return transform(x, axis=axis, norm="forward" if inverse else "backward")


dft: Op = _declare(
    "dft",
    lambda ct, x, *, axis, inverse: dft(ct, axis=axis, inverse=not inverse),
    infer=_dft_type,
    evaluate=_dft_value,
    dtypes=_complex,
    doc="""sum over j of x[j] exp(-2 pi i j k / n), with `inverse` of exp(2 pi i j k / n).

    The matrix of one is the conjugate transpose of the other's. As `numpy.fft.fft`.

    >>> dft(ops.asarray([1.0, 2.0]), axis=0, inverse=False)
    tensor([ 3.+0.j, -1.+0.j], dtype=complex64)
    """,
)

# ----- real to half of the complex result, and back -----------------------------------------------


def _rdft_type(x: TensorType, *, axis: int) -> TensorType:
    _require_some("rfft", x, axis)
    shape = list(x.shape)
    shape[axis] = shape[axis] // 2 + 1
    return TensorType(complex_of(x.dtype), tuple(shape), x.device)


def _irdft_type(y: TensorType, *, axis: int, size: Any) -> TensorType:
    if size < 1 or y.shape[axis] != size // 2 + 1:
        raise ShapeError(
            f"irfft: axis {axis} of shape {shape_text(y.shape)} is no half of {size} elements",
            fix="it has size // 2 + 1 elements, and size is 1 or more",
        )
    shape = list(y.shape)
    shape[axis] = size
    return TensorType(real_of(y.dtype), tuple(shape), y.device)


def _counts(like: Any, axis: int, size: Any) -> Any:
    """How often each element of the half stands in the whole: once at 0 and n / 2, else twice."""
    half = like.shape[axis]
    k = ops.iota(size=half, dtype=default_int)
    once = ops.logical_or(k == 0, 2 * k == size)
    shape = [half if a == axis else 1 for a in range(like.ndim)]
    return ops.reshape(ops.where(once, 1.0, 2.0), tuple(shape))


def _rdft_adjoint(ct: Any, x: Any, *, axis: int) -> Any:
    size = x.shape[axis]
    return irdft(ct / _counts(ct, axis, size), axis=axis, size=size)


def _irdft_adjoint(ct: Any, y: Any, *, axis: int, size: Any) -> Any:
    half = rdft(ct, axis=axis)
    return half * _counts(half, axis, size)


rdft: Op = _declare(
    "rdft",
    _rdft_adjoint,
    infer=_rdft_type,
    evaluate=lambda xp, x, *, axis: xp.fft.rfft(x, axis=axis),
    dtypes=_real,
    doc="""The first n // 2 + 1 results of `dft` for real numbers. As `numpy.fft.rfft`.

    >>> rdft(ops.asarray([1.0, 2.0]), axis=0)
    tensor([ 3.+0.j, -1.+0.j], dtype=complex64)
    """,
)
irdft: Op = _declare(
    "irdft",
    _irdft_adjoint,
    infer=_irdft_type,
    evaluate=lambda xp, y, *, axis, size: xp.fft.irfft(y, size, axis=axis, norm="forward"),
    dtypes=_complex,
    doc="""The inverse `dft` of a half of `size` elements whose rest is its conjugate. As
    `numpy.fft.irfft`.

    >>> irdft(ops.asarray([3 + 0j, -1 + 0j]), axis=0, size=2)
    tensor([2., 4.], dtype=float32)
    """,
)
