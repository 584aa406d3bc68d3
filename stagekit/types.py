"""Data types, tensor types, promotion and broadcasting: the rules every stage shares.

Sizes are ints, or `Dim`s while a trace is polymorphic; the rules are plain Python on both.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from stagekit.errors import ArgumentError, AxisError, DTypeError, ShapeError
from stagekit.narrow import BFLOAT16, exported
from stagekit.source import here
from stagekit.symbolic import Dim, Number, plain, strip

# ----- data types ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DType:
    """A data type: `sk.float32`, `sk.int64`, ...; equal to the NumPy dtype of the same name.

    >>> float32.itemsize, float32 == np.dtype("float32"), int8
    (4, True, int8)
    """

    name: str
    kind: str  # "bool", "uint", "int", "float", "complex"
    numpy: np.dtype[Any]  # of the buffers

    @cached_property
    def lowest(self) -> int:
        """The smallest number of an integer type."""
        return int(np.iinfo(self.numpy).min)

    @cached_property
    def highest(self) -> int:
        """The largest number of an integer type."""
        return int(np.iinfo(self.numpy).max)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    @cached_property
    def inexact(self) -> bool:
        """Whether it holds real or complex numbers, in which one can differentiate."""
        return self.kind in ("float", "complex")

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype that others know; lets `np.dtype(sk.float32)` work."""
        found: np.dtype[Any] = exported(np.empty(0, self.numpy)).dtype
        return found

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self is other
        if isinstance(other, (np.dtype, type)):
            try:
                return bool(np.dtype(other) == self.dtype)
            except TypeError:
                return False
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.dtype)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        return _named, (self.name,)


def _declare(kind: str, *names: str) -> list[DType]:
    return [DType(name, kind, np.dtype(name)) for name in names]


(bool_,) = _declare("bool", "bool")
uint8, uint16, uint32, uint64 = _declare("uint", "uint8", "uint16", "uint32", "uint64")
int8, int16, int32, int64 = _declare("int", "int8", "int16", "int32", "int64")
float16, float32, float64 = _declare("float", "float16", "float32", "float64")
bfloat16 = DType("bfloat16", "float", BFLOAT16)
complex64, complex128 = _declare("complex", "complex64", "complex128")

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64, float16, bfloat16, float32,
        float64, complex64, complex128,
    )
}  # fmt: skip
SHORT = {d.name: d.kind[0] + str(8 * d.itemsize) for d in DTYPES.values()}
SHORT |= {"bool": "bool", "bfloat16": "bf16"}
LONG = {short: name for name, short in SHORT.items()}

default_float = float32
default_int = int64
default_complex = complex64
WEAK: dict[type, DType] = {
    bool: bool_, int: default_int, float: default_float, complex: default_complex,
}  # fmt: skip
RANK = {"bool": 0, "uint": 1, "int": 1, "float": 2, "complex": 3}
INEXACT = "fcV"  # the kinds of NumPy's that hold real or complex numbers; V is bfloat16

_OF_NUMPY: dict[Any, DType] = {d.numpy: d for d in DTYPES.values()}


def _named(name: str) -> DType:
    return DTYPES[name]


def dtype(obj: Any) -> DType:
    """The `DType` of a NumPy dtype, a name, a Python scalar type or a `DType`.

    Raises DTypeError for a type stagekit does not compute with.

    >>> dtype("float32"), dtype(np.int8), dtype(float)
    (float32, int8, float32)
    """
    if isinstance(obj, DType):
        return obj
    if isinstance(obj, np.dtype):
        found = _OF_NUMPY.get(obj)
        if found is not None:
            return found
    if isinstance(obj, type) and obj in WEAK:
        return WEAK[obj]
    if isinstance(obj, str) and obj in DTYPES:
        return DTYPES[obj]
    try:
        found = np.dtype(obj)
        return bfloat16 if found.name == "bfloat16" else _OF_NUMPY[found.newbyteorder("=")]
    except (KeyError, TypeError, ValueError):
        raise DTypeError(
            f"dtype: {obj!r} is not supported", fix=f"use one of {', '.join(DTYPES)}"
        ).located(here()) from None


def promote(operands: Sequence[DType | type], op: str = "result_type") -> DType:
    """The common type of strong (`DType`) and weak (`bool`, `int`, `float`, `complex`) operands.

    Within a kind as NumPy; between kinds the higher kind's own type wins, so integers never widen
    a float; a complex number is as wide as the widest of its real peers. A Python scalar takes the
    tensors' type unless its kind is higher. bfloat16 with float16 is float32.
    Raises DTypeError naming `op` where there is none (uint64 with a signed integer).

    >>> promote([int64, float16]), promote([int8, int]), promote([int8, float]), promote([int])
    (float16, int8, float32, int64)
    >>> promote([complex64, float64]), promote([float64, complex])
    (complex128, complex128)
    """
    strong = [d for d in operands if isinstance(d, DType)]
    weak = [WEAK[d] for d in operands if not isinstance(d, DType)]
    result = _promote_strong(strong, op) if strong else None
    for d in weak:
        if result is None or RANK[d.kind] > RANK[result.kind]:
            real = result is not None and result.kind == "float"
            result = complex_of(result) if real and d.kind == "complex" else d
    assert result is not None, "promote needs an operand"
    return result


def complex_of(d: DType | None) -> DType:
    """The complex type whose parts hold the numbers of a real type.

    >>> complex_of(float64), complex_of(float16)
    (complex128, complex64)
    """
    return complex128 if d is float64 else complex64


def real_of(d: DType) -> DType:
    """The type of the parts of a complex type; any other type is its own.

    >>> real_of(complex64), real_of(int8)
    (float32, int8)
    """
    return {complex64: float32, complex128: float64}.get(d, d)


def widest(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The NumPy dtype in which a long fold of another is computed.

    >>> widest(np.dtype("float32")), widest(np.dtype("int8"))
    (dtype('float64'), dtype('int8'))
    """
    return {"f": float64.numpy, "c": complex128.numpy}.get(kind.kind, kind)


def _promote_strong(strong: Sequence[DType], op: str) -> DType:
    rank = max(RANK[d.kind] for d in strong)
    peers = [d for d in strong if RANK[d.kind] >= min(rank, 2)]
    if bfloat16 in peers:
        if all(d is bfloat16 for d in peers):
            return bfloat16
        peers = [float32 if d is bfloat16 else d for d in peers]
    result = _OF_NUMPY[np.result_type(*(d.numpy for d in peers))]
    if RANK[result.kind] != rank:
        found = " and ".join(dict.fromkeys(d.name for d in strong))
        raise DTypeError(
            f"{op}: {found} have no common integer type", fix="cast one with astype"
        ).located(here())
    return result


def require_in_range(value: Any, target: DType) -> None:
    """DTypeError for a Python number that `target` does not hold; floats round, or overflow to inf.

    >>> require_in_range(-128, int8)
    """
    if target.kind == "bool" or isinstance(value, bool):
        return
    if isinstance(value, complex):
        fits = target.kind == "complex"
    elif target.inexact:
        fits = isinstance(value, float) or value.bit_length() <= 1023
    else:
        fits = target.lowest - 1 < value < target.highest + 1
    if fits:
        return
    raise DTypeError(
        f"Python {type(value).__name__} {value} is out of bounds for {target}",
        fix="use a wider data type",
    ).located(here())


# ----- tensor types -------------------------------------------------------------------------------

Shape = tuple[Any, ...]  # of int, Dim (while tracing) or Expr (in a graph)


@dataclass(frozen=True)
class TensorType:
    """What a value is: data type, shape, device. Prints as `f32[n,3]`.

    >>> print(TensorType(float32, (4, 3)))
    f32[4,3]
    """

    dtype: DType
    shape: Shape
    device: str = "cpu"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def with_shape(self, shape: Iterable[Any]) -> TensorType:
        return replace(self, shape=tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return replace(self, dtype=dtype)

    def stripped(self) -> TensorType:
        """This type as data: expressions for sizes, no trace."""
        if any(isinstance(size, Number) for size in self.shape):
            return replace(self, shape=tuple(strip(size) for size in self.shape))
        return self

    def __str__(self) -> str:
        sizes = ",".join(str(size).replace(" ", "") for size in plain_or_expr(self.shape))
        at = "" if self.device == "cpu" else f"@{self.device}"
        return f"{SHORT[self.dtype.name]}[{sizes}]{at}"


def plain_or_expr(shape: Shape) -> Shape:
    """Sizes for printing a type: a Dim shows its expression."""
    return tuple(size.expr if isinstance(size, Number) else size for size in shape)


def shape_text(shape: Shape) -> str:
    """A shape in a message: the sizes as they are now.

    >>> shape_text((4,)), shape_text(())
    ('(4,)', '()')
    """
    return str(plain(shape))


# ----- shapes -------------------------------------------------------------------------------------


def _broadcast_size(n: Any, m: Any) -> Any:
    """The size two axes broadcast to, or None; asks nothing of a size that is the literal 1."""
    if isinstance(n, int) and n == 1:
        return m
    if isinstance(m, int) and m == 1:
        return n
    if _value(n) != 1 and _value(m) != 1:
        equal = n == m
        return (n if isinstance(n, int) else m) if equal else None
    if _value(n) == _value(m):
        return n if n == m else None
    if m == 1:
        return n
    return m if n == 1 else None


def _value(size: Any) -> Any:
    return size.value if isinstance(size, Number) else size


def broadcast_shapes(op: str, *shapes: Shape) -> Shape:
    """The common shape by NumPy's broadcasting rule; ShapeError naming `op` where there is none.

    >>> broadcast_shapes("add", (3, 1), (4,))
    (3, 4)
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Any] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            common = _broadcast_size(result[axis], size)
            if common is None:
                listed = " and ".join(shape_text(s) for s in shapes)
                raise ShapeError(
                    f"{op}: shapes {listed} do not broadcast",
                    fix="sizes must be equal, or one of them 1, counted from the last axis",
                )
            result[axis] = common
    return tuple(result)


def same_size(n: Any, m: Any) -> bool:
    """Whether two sizes are equal; recorded as a fact where they are symbolic."""
    return bool(n == m)


def known_same(a: Shape, b: Shape) -> bool:
    """Whether two shapes are equal for all sizes: asks nothing, so a trace relies on nothing.

    >>> known_same((2, 3), (2, 3)), known_same((1, 3), (2, 3))
    (True, False)
    """
    return len(a) == len(b) and all(map(_known_equal, a, b))


def _known_equal(n: Any, m: Any) -> bool:
    return n is m or bool(strip(n) == strip(m))


def same_shape(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(same_size(n, m) for n, m in zip(a, b, strict=True))


def as_integer(op: str, name: str, value: Any) -> Any:
    """An int of what counts as one (a `Dim` stays); ArgumentError for anything else.

    >>> as_integer("sum", "axis", np.int8(1))
    1
    """
    if isinstance(value, (int, Dim)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(
            f"{op}: {name} is {value!r}, which is no integer", fix="give a Python int"
        ).located(here()) from None


def normalize_axis(op: str, axis: int, ndim: int) -> int:
    """A non-negative axis; AxisError where it does not exist.

    >>> normalize_axis("sum", -1, 3)
    2
    """
    axis = as_integer(op, "axis", axis)
    if not -ndim <= axis < ndim:
        raise AxisError(
            f"{op}: axis {axis} does not exist in a tensor of {ndim} axes",
            fix=f"use an axis from {-ndim} to {ndim - 1}" if ndim else "a 0-d tensor has no axes",
        ).located(here())
    return axis % ndim


def normalize_axes(op: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes as a sorted tuple of non-negative ints; None means all of them."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int:
        return (normalize_axis(op, axis, ndim),)
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(sorted(normalize_axis(op, a, ndim) for a in axes))
    if len(set(found)) != len(found):
        error = ShapeError(
            f"{op}: axis {tuple(axes)} names an axis twice", fix="name each axis once"
        )
        raise error.located(here())
    return found
