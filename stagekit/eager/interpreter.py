"""`Eager`: run the op's NumPy evaluation; if it raises, the type rule that words the error."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from stagekit.errors import DTypeError, ShapeError, StagekitError
from stagekit.evaluation import FAILURES, explain, quiet, quietly, scalar, spring, type_of
from stagekit.narrow import converted, exported, imported
from stagekit.op import Cell, Interpreter, Op, current, install, weak_type
from stagekit.settings import config
from stagekit.source import here
from stagekit.symbolic import Number
from stagekit.tensor import Tensor
from stagekit.types import WEAK, DType, default_float, dtype, promote, require_in_range


@final
class Eager(Interpreter):
    """The base interpreter of ordinary code: values are NumPy arrays."""

    def __init__(self) -> None:
        self.base = self.below = self

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        try:
            out = quiet.run(op.numpy, *[a._value for a in args], **attrs)
        except (*FAILURES, RuntimeError) as error:
            out = self._again(op, args, attrs, error)
        if type(out) is not np.ndarray:
            if op.several:
                return self._results(op, out)
            out = np.asarray(out)
        if config.trap is not None:
            spring(config.trap, op, out)
        return Tensor(out)

    def _results(self, op: Op, outs: Any) -> tuple[Tensor, ...]:
        """Several results as tensors."""
        arrays = [np.asarray(out) for out in outs]
        if config.trap is not None:
            for array in arrays:
                spring(config.trap, op, array)
        return tuple(map(Tensor, arrays))

    def _again(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any], error: Exception) -> Any:
        """The result after all (a nested call, a value of a trace), or the contract's error."""
        values = [self.read(a) for a in args]
        if isinstance(error, RuntimeError) and not isinstance(error, StagekitError):
            return quietly(op.numpy, *values, **attrs)
        raise explain(op, [type_of(v) for v in values], attrs, error) from None

    def constant(self, value: Any, dtype: DType) -> Tensor:
        return Tensor(scalar(value, dtype))

    def lift(self, obj: Any, target: DType | None = None) -> Tensor:
        return obj if isinstance(obj, Tensor) else Tensor(as_array(obj, target))

    def literal(self, array: np.ndarray[Any, Any]) -> Tensor:
        return Tensor(array)

    def read(self, cell: Any) -> Any:
        value = cell._value
        if type(value) is not np.ndarray:
            raise value.leaked().located(here())
        return value

    def write(self, cell: Any, value: Any) -> None:
        cell._value = value

    def leave(self, cell: Any, why: str) -> np.ndarray[Any, Any]:
        view = exported(self.read(cell).view())
        view.flags.writeable = False
        return view

    def shape(self, cell: Any) -> tuple[Any, ...]:
        shape: tuple[Any, ...] = cell._value.shape
        return shape


def as_array(obj: Any, target: DType | None = None) -> np.ndarray[Any, Any]:
    """A fresh array of a supported type: Python numbers by the defaults, NumPy's own types kept.

    Lists of floats go straight to a float `target`, without a rounding in between, and lists of
    integers to an integer one.
    """
    if isinstance(obj, Number):
        return scalar(obj, dtype(obj.weak))
    if isinstance(obj, (np.ndarray, np.generic)):
        return np.array(imported(np.asarray(obj)), dtype(obj.dtype).numpy, order="C")
    kinds = _kinds(obj)
    whole = target is not None and target.kind in ("int", "uint") and kinds <= {bool, int}
    try:
        # Of integers a list goes straight to its type: 2**63 is no int64.
        array = np.array(_plain(obj), object if whole else None)
    except ValueError:
        raise ShapeError(
            "asarray: nested lists of unequal lengths",
            fix="give rows of equal length, or stack tensors of one shape",
        ).located(here()) from None
    if not whole and array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise DTypeError(
            f"asarray: cannot make a tensor of {type(obj).__name__} (found {array.dtype})",
            fix="give numbers, NumPy arrays, tensors, or nested lists of numbers",
        ).located(here())
    if target is None or not (target.inexact or whole):
        target = promote(list(kinds)) if kinds else default_float
    if target.kind in ("int", "uint") and array.size:
        for extreme in (array.min(), array.max()):
            require_in_range(extreme if whole else extreme.item(), target)
    return converted(imported(array), target.numpy)


def _is_plain(items: Any) -> bool:
    """Whether a list holds Python numbers alone."""
    return set(map(type, items)) <= set(WEAK)


def _plain(obj: Any) -> Any:
    """Nested lists with tensors replaced by their arrays."""
    if isinstance(obj, Cell):
        return current().leave(obj, "a list of tensors as an operand")
    if isinstance(obj, (list, tuple)):
        return obj if _is_plain(obj) else [_plain(item) for item in obj]
    return obj.value if isinstance(obj, Number) else obj


def _kinds(obj: Any) -> set[DType | type]:
    """The types of what nested lists hold: weak for Python numbers, strong for all else."""
    if isinstance(obj, (list, tuple)):
        return set(map(type, obj)) if _is_plain(obj) else set().union(*map(_kinds, obj))
    if isinstance(obj, Cell):
        return {dtype(obj._value.dtype)}
    if isinstance(obj, (np.ndarray, np.generic)):
        return {dtype(obj.dtype)}
    kind = weak_type(obj)
    return {kind or next((kind for kind in WEAK if isinstance(obj, kind)), type(obj))}


EAGER = Eager()
install(EAGER)
