"""`Eager`: run the op's NumPy evaluation, and only if it raises, the type rule that words the error.

NumPy's warnings are off inside an op and untouched outside: evaluations run in a context of their own.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, final

import numpy as np

from stagekit.errors import (
    BoundsError,
    CheckError,
    DTypeError,
    ShapeError,
    StagekitError,
)
from stagekit.op import Cell, Interpreter, Op, current, install
from stagekit.settings import config
from stagekit.source import here
from stagekit.symbolic import Number
from stagekit.tensor import Tensor
from stagekit.types import DType, TensorType, dtype

_RAISED = (ValueError, TypeError, IndexError, OverflowError, ArithmeticError, MemoryError)


class _Quiet(threading.local):
    """A thread's context in which NumPy's floating-point warnings are off."""

    def __init__(self) -> None:
        context = contextvars.copy_context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


_quiet = _Quiet()


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call with NumPy's warnings off; also right where a finalizer calls it within a call."""
    try:
        return _quiet.run(function, *args, **kwargs)
    except RuntimeError as error:
        if "cannot enter context" not in str(error):
            raise
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)


@final
class Eager(Interpreter):
    """The base interpreter of ordinary code: values are NumPy arrays."""

    def __init__(self) -> None:
        self.base = self.below = self

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor:
        try:
            out = _quiet.run(op.numpy, *[a._value for a in args], **attrs)
        except (*_RAISED, RuntimeError) as error:
            out = self._again(op, args, attrs, error)
        if type(out) is not np.ndarray:
            out = np.asarray(out)
        if config.trap is not None:
            spring(config.trap, op, out)
        return Tensor(out)

    def _again(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any], error: Exception) -> Any:
        """The result after all (a nested call, a value of a trace), or the contract's error."""
        values = [self.read(a) for a in args]
        if isinstance(error, RuntimeError) and not isinstance(error, StagekitError):
            return quietly(op.numpy, *values, **attrs)
        raise explain(op, [type_of(v) for v in values], attrs, error) from None

    def constant(self, value: Any, dtype: DType) -> Tensor:
        return Tensor(scalar(value, dtype))

    def lift(self, obj: Any) -> Tensor:
        return obj if isinstance(obj, Tensor) else Tensor(as_array(obj))

    def read(self, cell: Any) -> Any:
        value = cell._value
        if type(value) is not np.ndarray:
            raise value.leaked().located(here())
        return value

    def write(self, cell: Any, value: Any) -> None:
        cell._value = value

    def leave(self, cell: Any, why: str) -> np.ndarray[Any, Any]:
        view: np.ndarray[Any, Any] = self.read(cell).view()
        view.flags.writeable = False
        return view

    def shape(self, cell: Any) -> tuple[Any, ...]:
        shape: tuple[Any, ...] = cell._value.shape
        return shape


def type_of(array: np.ndarray[Any, Any]) -> TensorType:
    return TensorType(dtype(array.dtype), array.shape)


def explain(op: Op, types: list[TensorType], attrs: dict[str, Any], error: Exception) -> Exception:
    """The contract's error for an evaluation that raised: the evaluation's own, or the type rule's."""
    if isinstance(error, StagekitError):
        return error.located(here())
    try:
        op.infer(*types, **attrs)
    except StagekitError as known:
        return known.located(here())
    if isinstance(error, MemoryError):
        return error
    listed = ", ".join(map(str, types))
    kind = {IndexError: BoundsError, TypeError: DTypeError}.get(type(error), ShapeError)
    return kind(f"{op.name}: {error} (operands {listed})").located(here())


def spring(trap: str, op: Op, out: np.ndarray[Any, Any]) -> None:
    """Raise CheckError where the trap `"nan"` is set and the result holds one."""
    if trap == "nan" and out.dtype.kind == "f" and bool(np.isnan(out).any()):
        raise CheckError(
            f"{op.name}: the result holds NaN", fix="look at its operands, or unset sk.config.trap"
        ).located(here())


def scalar(value: Any, target: DType) -> np.ndarray[Any, Any]:
    """A Python scalar as a 0-d array; an integer outside the type's range is refused."""
    if isinstance(value, Number):
        value.facts.require_open()
        value = value.value
    try:
        array = np.array(value, target.numpy)
    except OverflowError:
        raise DTypeError(
            f"Python integer {value} is out of bounds for {target}", fix="cast the tensor first"
        ).located(here()) from None
    return array


def as_array(obj: Any) -> np.ndarray[Any, Any]:
    """A fresh array of a supported type: Python numbers by the defaults, NumPy's own types kept."""
    if isinstance(obj, Number):
        return scalar(obj, dtype(obj.weak))
    if isinstance(obj, (np.ndarray, np.generic)):
        return np.array(obj, dtype(obj.dtype).numpy, order="C")
    try:
        array = np.array(_plain(obj))
    except ValueError as error:
        raise ShapeError(
            f"asarray: {error}", fix="give rows of equal length, or stack tensors of one shape"
        ).located(here()) from None
    if array.dtype == object:
        raise DTypeError(
            f"asarray: cannot make a tensor of {type(obj).__name__}",
            fix="give numbers, NumPy arrays, tensors, or nested lists of numbers",
        ).located(here())
    return array.astype(_default(obj, array.dtype).numpy)


def _plain(obj: Any) -> Any:
    """Nested lists with tensors replaced by their arrays."""
    if isinstance(obj, Cell):
        return current().base.read(obj)
    if isinstance(obj, (list, tuple)):
        return [_plain(item) for item in obj]
    return obj.value if isinstance(obj, Number) else obj


def _default(obj: Any, found: np.dtype[Any]) -> DType:
    """The type of a nested list: float32 for Python floats, int64 for ints, else what NumPy found."""
    strong = _strong(obj)
    if found.kind == "f" and not strong:
        return dtype(float)
    if found.kind == "f" and all(d.kind != "f" or d.itemsize < 8 for d in strong):
        return dtype(np.result_type(np.float32, *(d for d in strong if d.kind == "f")))
    return dtype(found)


def _strong(obj: Any) -> list[np.dtype[Any]]:
    """The data types of the NumPy scalars, arrays and tensors in a nested list."""
    if isinstance(obj, (list, tuple)):
        return [d for item in obj for d in _strong(item)]
    if isinstance(obj, Cell):
        return [obj._value.dtype]
    return [obj.dtype] if isinstance(obj, (np.ndarray, np.generic)) else []


EAGER = Eager()
install(EAGER)

