"""`Tensor`: a cell that holds an immutable buffer. It knows no op: `ops` attaches all methods.

No buffer that can change is ever aliased: every op gives a new cell, `x[i] = v` puts a new buffer
in.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from stagekit.op import Cell, current
from stagekit.types import DType, dtype, shape_text


class Tensor(Cell):
    """An n-dimensional array of one data type. Make one with `sk.asarray`; see its methods below.

    Source: the array object of the Array API standard, and `numpy.ndarray`.

    >>> import stagekit as sk
    >>> x = sk.asarray([[1.0, 2.0], [3.0, 4.0]])
    >>> x.shape, x.dtype, (x + 1).sum().item()
    ((2, 2), float32, 14.0)
    """

    __slots__ = ()
    __hash__ = object.__hash__

    def __init__(self, value: Any) -> None:
        if type(value) is not np.ndarray and not hasattr(value, "leaked"):
            raise TypeError(
                f"Tensor: {type(value).__name__} is no buffer\n  fix: make tensors with sk.asarray"
            )
        self._value = value

    @property
    def dtype(self) -> DType:
        """The data type of the elements."""
        return dtype(self._value.dtype)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes: ints, or `Dim`s inside a trace that holds for many sizes."""
        return current().shape(self)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(current().shape(self))

    @property
    def size(self) -> Any:
        """The number of elements."""
        total: Any = 1
        for size in self.shape:
            total = total * size
        return total

    @property
    def nbytes(self) -> Any:
        """The bytes of the elements."""
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> str:
        """Where the buffer lives: "cpu" or "cuda:0"."""
        return "cpu"

    def __repr__(self) -> str:
        array = self.numpy()  # type: ignore[attr-defined]
        text = np.array2string(array, separator=", ", prefix="tensor(")
        return f"tensor({text}, dtype={self.dtype})"


@final
class Variable(Tensor):
    """A tensor with a name whose value is meant to change: parameters, counters, statistics.

    Usable wherever a Tensor is. In a staged call all writes are committed together at its end.
    Source: `tf.Variable`.

    >>> import stagekit as sk
    >>> v = sk.Variable(sk.zeros(2), name="v")
    >>> v.assign_add(sk.ones(2))
    >>> v.value
    tensor([1., 1.], dtype=float32)
    """

    __slots__ = ("name",)

    def __init__(self, value: Any, name: str | None = None) -> None:
        super().__init__(own(current().lift(value)))
        self.name = name
        current().base.created(self)

    @property
    def value(self) -> Tensor:
        """A snapshot: no later write changes it."""
        snapshot = Tensor(current().read(self))
        current().base.created(snapshot)
        return snapshot

    def __repr__(self) -> str:
        named = f"{self.name!r}, " if self.name else ""
        return f"Variable({named}{super().__repr__()})"


def own(cell: Cell) -> Any:
    """What a cell holds, as a value that no tape follows: one that goes into a Variable."""
    interpreter = current()
    return interpreter.own(Tensor(interpreter.read(cell)))


def describe(cell: Cell) -> str:
    """A tensor in a message: `float32 (3, 4)`."""
    return f"{dtype(cell._value.dtype)} {shape_text(current().shape(cell))}"
