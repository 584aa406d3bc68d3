"""How ops are evaluated on arrays, for eager calls, replayed graphs and the minimal runtime alike.

NumPy's warnings are off inside an evaluation, which has its own context, and untouched outside.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stagekit.errors import BoundsError, CheckError, DTypeError, ShapeError, StagekitError
from stagekit.narrow import narrowed
from stagekit.op import Op
from stagekit.source import Location, here
from stagekit.symbolic import Number
from stagekit.types import DType, TensorType, bfloat16, dtype, require_in_range

Array = np.ndarray[Any, Any]

FAILURES = (
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    CheckError,
)


class _Quiet(threading.local):
    """A thread's context in which NumPy's floating-point warnings are off."""

    def __init__(self) -> None:
        context = contextvars.copy_context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


quiet = _Quiet()


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call with NumPy's warnings off; also right where a finalizer calls it within a call."""
    try:
        return quiet.run(function, *args, **kwargs)
    except RuntimeError as error:
        if "cannot enter context" not in str(error):
            raise
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)


def type_of(array: Array) -> TensorType:
    """The type of an array."""
    return TensorType(dtype(array.dtype), array.shape)


def explain(
    op: Op,
    types: Sequence[TensorType],
    attrs: Mapping[str, Any],
    error: Exception,
    line: Location | None = None,
) -> Exception:
    """The contract's error for an evaluation that raised: its own, or the type rule's."""
    line = line or here()
    if isinstance(error, StagekitError):
        return error.located(line)
    try:
        op.infer(*types, **attrs)
    except StagekitError as known:
        return known.located(line)
    if isinstance(error, MemoryError):
        return error
    listed = ", ".join(map(str, types))
    kind = {IndexError: BoundsError, TypeError: DTypeError}.get(type(error), ShapeError)
    return kind(f"{op.name}: {error} (operands {listed})").located(line)


def spring(trap: str, op: Op, out: Array, line: Location | None = None) -> None:
    """Raise CheckError where the trap `"nan"` is set and the result holds one."""
    if trap == "nan" and out.dtype.kind in "fc" and bool(np.isnan(out).any()):
        raise CheckError(
            f"{op.name}: the result holds NaN", fix="look at its operands, or unset sk.config.trap"
        ).located(line or here())


def scalar(value: Any, target: DType) -> Array:
    """A Python scalar as a 0-d array; a number outside an integer type's range is refused."""
    if isinstance(value, Number):
        value.facts.require_open()
        value = value.value
    require_in_range(value, target)
    if target is bfloat16:
        return narrowed(np.asarray(value, np.float32))
    return np.asarray(quietly(target.numpy.type, value))


def present(value: Any) -> Any:
    """An attribute with the numbers of a trace as what they are now."""
    if isinstance(value, Number):
        return value.value
    return tuple(present(item) for item in value) if type(value) is tuple else value
