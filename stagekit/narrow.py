"""bfloat16 on NumPy arrays, which have no such type: bits in a dtype of their own.

Only what moves elements sees that dtype; what computes is given float32, and its result is rounded
to nearest even. The bits are those of ml_dtypes, which is used at the border where it is present.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])


def widened(x: Array) -> Array:
    """bfloat16 as float32, exactly.

    >>> float(widened(narrowed(np.float32([1.0])))[0])
    1.0
    """
    return np.asarray(np.left_shift(x.view("<u2"), 16, dtype=np.uint32)).view(np.float32)


def narrowed(x: Array) -> Array:
    """float32 as bfloat16: to nearest, ties to even; a NaN keeps its sign and becomes quiet."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    even = (bits >> 16) & 1
    rounded = (bits + (even + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) & 0x8000 | 0x7FC0
    out = np.where(bits << 1 > 0xFF000000, quiet, rounded).astype("<u2")
    return out.reshape(np.shape(x)).view(BFLOAT16)


def converted(x: Array, target: np.dtype[Any]) -> Array:
    """A copy of an array in another dtype. A complex one keeps its real part, its truth as bool."""
    if x.dtype == target:
        return x.copy()
    if x.dtype == BFLOAT16:
        x = widened(x)
    if x.dtype.kind == "c" and target.kind not in "cb":
        x = x.real
    return narrowed(x.astype(np.float32)) if target == BFLOAT16 else x.astype(target)


def imported(x: Array) -> Array:
    """An array of ml_dtypes' bfloat16 as one of ours; all others as they are."""
    return x.view(BFLOAT16) if x.dtype.name == "bfloat16" else x


def exported(x: Array) -> Array:
    """An array for others: ours of bfloat16 as one of ml_dtypes, as float32 where that is missing.

    >>> exported(narrowed(np.float32([1.5]))).tolist()
    [1.5]
    """
    if x.dtype != BFLOAT16:
        return x
    try:
        import ml_dtypes
    except ImportError:
        return widened(x)
    return x.view(ml_dtypes.bfloat16)
