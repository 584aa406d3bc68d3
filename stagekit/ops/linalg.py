"""Decompositions of matrices: LAPACK through `numpy.linalg`, with derivatives written in ops.

Matrices are the last two axes, the others are a batch. float16 is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import DTypeError, ShapeError
from stagekit.op import Op
from stagekit.types import DType, TensorType, promote, same_size, shape_text

LAPACK = "LAPACK, through numpy.linalg"


def floating(op: str, operands: Sequence[Any]) -> Sequence[DType | None]:
    """Operands of one float type; all else is refused."""
    for d in operands:
        if not isinstance(d, DType) or d.kind != "float":
            raise DTypeError(
                f"{op}: an operand is {d.name if isinstance(d, DType) else d.__name__}",
                fix="cast it to float32 or float64 with astype",
            )
    return [promote(operands, op)] * len(operands)


def _require_square(op: str, x: TensorType) -> None:
    if x.ndim < 2 or not same_size(x.shape[-2], x.shape[-1]):
        raise ShapeError(
            f"{op}: shape {shape_text(x.shape)} is no square matrix",
            fix="the last two axes must be equal",
        )


def _wide(x: Any) -> Any:
    """The operand in a type that LAPACK has."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _adjoint(x: Any) -> Any:
    return ops.matrix_transpose(x)


# ----- eigenvalues --------------------------------------------------------------------------------


def _eigh_type(x: TensorType) -> tuple[TensorType, TensorType]:
    _require_square("eigh", x)
    return x.with_shape(x.shape[:-1]), x


def _eigh_value(xp: Any, x: Any) -> Any:
    half = _wide(x) * 0.5
    found = xp.linalg.eigh(half + xp.swapaxes(half, -1, -2))
    return tuple(result.astype(x.dtype, copy=False) for result in found)


def _is_diagonal(x: Any) -> Any:
    return ops.eye(x.shape[-1], dtype=bool)


def _by_gaps(w: Any, m: Any) -> Any:
    """m[i, j] / (w[j] - w[i]), with 0 on the diagonal; infinite or NaN for equal ones."""
    gaps = ops.expand_dims(w, axis=-2) - ops.expand_dims(w, axis=-1)
    eye = _is_diagonal(m)
    return ops.where(eye, 0.0, m / ops.where(eye, 1.0, gaps))


def _symmetric(x: Any) -> Any:
    return (x + _adjoint(x)) * 0.5


def _eigh_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (ct_w, ct_v), (w, v) = cts, outs
    parts = []
    if ct_w is not None:
        parts.append(ops.matmul(v * ops.expand_dims(ct_w, axis=-2), _adjoint(v)))
    if ct_v is not None:
        turned = _by_gaps(w, ops.matmul(_adjoint(v), ct_v))
        parts.append(ops.matmul(ops.matmul(v, turned), _adjoint(v)))
    return _symmetric(ops.total(parts))


def _eigh_jvp(tangents: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (t,), (w, v) = tangents, outs
    inner = ops.matmul(ops.matmul(_adjoint(v), _symmetric(t)), v)
    moved = ops.sum(ops.where(_is_diagonal(inner), inner, 0.0), axis=-1)
    return moved, ops.matmul(v, _by_gaps(w, inner))


eigh: Op = Op(
    "eigh",
    several=True,
    infer=_eigh_type,
    evaluate=_eigh_value,
    library=LAPACK,
    dtypes=floating,
    vjp=_eigh_vjp,
    jvp=_eigh_jvp,
    batch=lambda size, args, mapped, attrs: eigh(*args),
    family="linalg",
    doc="""The ascending eigenvalues and the eigenvectors (columns) of the symmetric part of x.

    >>> eigh(ops.asarray([[2.0, 0.0], [0.0, 1.0]]))[0]
    tensor([1., 2.], dtype=float32)
    """,
)
