"""Operators and methods of `Tensor`: each is an op of this folder under NumPy's name.

A test holds this list against `tensor.pyi` and against every dunder of Python's data model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    StagekitWarning,
    TraceError,
    hide_frames,
)
from stagekit.op import Cell, current, weak_type
from stagekit.placement import as_device
from stagekit.source import here, stack_level
from stagekit.symbolic import Dim
from stagekit.tensor import Tensor, Variable, describe, own
from stagekit.types import shape_text


def _is_operand(obj: Any) -> bool:
    if isinstance(obj, Cell) or weak_type(obj) is not None:
        return True
    return isinstance(obj, (np.ndarray, np.generic))


def _operator(name: str, function: str) -> None:
    """Attach `x op y` and its reflection."""
    op: Callable[..., Any] = getattr(ops, function)

    def forward(self: Any, other: Any) -> Any:
        try:
            return op(self, other) if _is_operand(other) else NotImplemented
        except Exception as error:
            hide_frames(error)
            raise

    def reflected(self: Any, other: Any) -> Any:
        try:
            return op(other, self) if _is_operand(other) else NotImplemented
        except Exception as error:
            hide_frames(error)
            raise

    _attach(f"__{name}__", forward)
    _attach(f"__r{name}__", reflected)


def _attach(name: str, function: Any) -> None:
    setattr(Tensor, name, function)


_BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
for _name, _function in _BINARY.items():
    _operator(_name, _function)

_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def _comparison(name: str, function: str) -> None:
    op: Callable[..., Any] = getattr(ops, function)

    def compare(self: Any, other: Any) -> Any:
        try:
            return op(self, other) if _is_operand(other) else NotImplemented
        except Exception as error:
            hide_frames(error)
            raise

    _attach(f"__{name}__", compare)


for _name, _function in _COMPARISONS.items():
    _comparison(_name, _function)


def _unary(name: str, function: str) -> None:
    op: Callable[..., Any] = getattr(ops, function)
    _attach(f"__{name}__", lambda self: op(self))


_UNARY = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}
for _name, _function in _UNARY.items():
    _unary(_name, _function)

_attach("__divmod__", lambda self, other: (self // other, self % other))
_attach("__rdivmod__", lambda self, other: (other // self, other % self))
_attach("__getitem__", ops.getitem)
_attach("__setitem__", ops.setitem)


def _round(self: Any, digits: int | None = None) -> Any:
    """To `digits` decimals, half to even, as `numpy.round`."""
    if not digits:
        return ops.round(self)
    scale = 10.0**digits
    return ops.round(self * scale) / scale


_attach("__round__", _round)

# ----- methods under NumPy's names ----------------------------------------------------------------


def _method(name: str) -> None:
    op: Callable[..., Any] = getattr(ops, name)

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        return op(self, *args, **keywords)

    method.__name__ = name
    method.__doc__ = op.__doc__
    _attach(name, method)


for _name in (
    "astype", "clip", "diagonal", "nonzero", "repeat", "squeeze", "swapaxes", "take", "trace",
):  # fmt: skip
    _method(_name)


def _with_axis(name: str) -> None:
    """A reduction as a method: `axis` may be given by position."""
    op: Callable[..., Any] = getattr(ops, name)

    def method(self: Any, axis: Any = None, **keywords: Any) -> Any:
        return op(self, axis=axis, **keywords)

    method.__name__ = name
    method.__doc__ = op.__doc__
    _attach(name, method)


for _name in ("all", "any", "argmax", "argmin", "max", "mean", "min", "prod", "std", "sum", "var"):
    _with_axis(_name)


def _spread(args: tuple[Any, ...]) -> Any:
    """`f(2, 3)` and `f((2, 3))` alike."""
    return args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def _named(name: str, function: Any, meaning: str, example: str, result: str) -> None:
    """A method of its own: documented by a line and an example on `x`, the numbers 0 to 3."""
    function.__name__ = name
    function.__doc__ = f"""{meaning}, as `numpy.ndarray.{name}`.

    >>> import stagekit as sk
    >>> x = sk.asarray([[0.0, 1.0], [2.0, 3.0]])
    >>> {example}
    {result}
    """
    _attach(name, function)


def _transpose(self: Any, *axes: Any) -> Any:
    return ops.transpose(self, _spread(axes) or None)


_ROW = "tensor([0., 1., 2., 3.], dtype=float32)"
_named("reshape", lambda self, *shape: ops.reshape(self, _spread(shape)),
       "The elements in another shape, given as one tuple or several sizes",
       "x.reshape(4)", _ROW)  # fmt: skip
_named("ravel", lambda self: ops.reshape(self, -1), "The elements in a row", "x.ravel()", _ROW)
_named("flatten", lambda self: ops.reshape(self, -1), "The elements in a row", "x.flatten()", _ROW)
_named("transpose", _transpose,
       "The axes in another order, reversed where none is given",
       "x.transpose().tolist()", "[[0.0, 2.0], [1.0, 3.0]]")  # fmt: skip


def _argsort(self: Any, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Any:
    return ops.argsort(self, axis=axis, descending=descending, stable=stable)


def _running(name: str) -> Callable[..., Any]:
    op: Callable[..., Any] = getattr(ops, name)

    def running(self: Any, axis: int | None = None, *, dtype: Any = None) -> Any:
        flat = ops.reshape(self, -1) if axis is None else self
        return op(flat, axis=axis or 0, dtype=dtype)

    return running


_named("argsort", _argsort, "The places of the elements in sorted order, NaN last",
       "x.argsort().tolist()", "[[0, 1], [0, 1]]")  # fmt: skip
_named("conj", lambda self: ops.conj(self), "The complex conjugate, of a real number itself",
       "(x * 1j).conj()[1]", "tensor([0.-2.j, 0.-3.j], dtype=complex64)")  # fmt: skip
_named("cumsum", _running("cumulative_sum"),
       "The sums of all elements up to each, along `axis` or in a row",
       "x.cumsum()", "tensor([0., 1., 3., 6.], dtype=float32)")  # fmt: skip
_named("cumprod", _running("cumulative_prod"),
       "The products of all elements up to each, along `axis` or in a row",
       "x.cumprod(0).tolist()", "[[0.0, 1.0], [0.0, 3.0]]")  # fmt: skip
_named("copy", lambda self: ops.alias(self), "A tensor of the same value",
       "x.copy() is x", "False")  # fmt: skip
_named("fill", lambda self, value: ops.setitem(self, ..., value), "Every element replaced in place",
       "x.fill(5); x.tolist()", "[[5.0, 5.0], [5.0, 5.0]]")  # fmt: skip
_named("round", lambda self, decimals=0: _round(self, decimals),
       "Rounded to `decimals`, half to even",
       "(x[0] / 2).round().tolist()", "[0.0, 0.0]")  # fmt: skip
_named("dot", lambda self, other: self * other if self.ndim == 0 else ops.matmul(self, other),
       "The product of matrices", "x.dot(x).tolist()", "[[2.0, 3.0], [6.0, 11.0]]")  # fmt: skip
_attach("at", property(ops.At))


def _transposed(self: Any) -> Any:
    """`x.T` of a matrix."""
    if self.ndim != 2:
        raise ShapeError(
            f"T: shape {shape_text(self.shape)} is not 2-d",
            fix="use .mT to swap the last two axes, or permute_dims",
        ).located(here())
    return ops.permute_dims(self, (1, 0))


_attach("T", property(_transposed))
_attach("mT", property(ops.matrix_transpose))
_attach("real", property(ops.real))
_attach("imag", property(ops.imag))


def _to_device(self: Any, device: str, /, *, stream: Any = None) -> Any:
    """This tensor on `device`. As `to_device` of the Array API standard.

    >>> import stagekit as sk
    >>> sk.ones(1).to_device("cpu").device
    'cpu'
    """
    as_device(device)
    return self


_attach("to_device", _to_device)

# ----- Variable -----------------------------------------------------------------------------------


def _assign(self: Any, value: Any) -> None:
    """Replace the value by one of the same shape and data type. Source: `tf.Variable.assign`.

    >>> import stagekit as sk
    >>> v = sk.Variable(sk.ones(2))
    >>> v.assign(sk.full(2, 3.0)); v.tolist()
    [3.0, 3.0]
    """
    fresh = ops.asarray(value)
    if fresh.dtype is not self.dtype:
        weak = weak_type(value) is not None and ops.can_cast(fresh.dtype, self.dtype)
        if not weak and weak_type(value) is None:
            raise DTypeError(
                f"assign: {describe(fresh)} to a variable of {describe(self)}",
                fix=f"cast with astype(sk.{self.dtype})",
            ).located(here())
        fresh = ops.astype(fresh, self.dtype)
    if tuple(fresh.shape) != tuple(self.shape):
        if weak_type(value) is None:
            raise ShapeError(
                f"assign: {describe(fresh)} to a variable of {describe(self)}",
                fix="the shapes must be equal",
            ).located(here())
        fresh = ops.broadcast_to(fresh, self.shape)
    current().write(self, own(fresh))


def _assign_add(self: Any, value: Any) -> None:
    """Add to the value. Source: `tf.Variable.assign_add`.

    >>> import stagekit as sk
    >>> v = sk.Variable(sk.ones(2))
    >>> v.assign_add(sk.full(2, 3.0)); v.tolist()
    [4.0, 4.0]
    """
    _assign(self, ops.astype(self + value, self.dtype, copy=False))


def _assign_sub(self: Any, value: Any) -> None:
    """Subtract from the value. Source: `tf.Variable.assign_sub`.

    >>> import stagekit as sk
    >>> v = sk.Variable(sk.ones(2))
    >>> v.assign_sub(sk.full(2, 3.0)); v.tolist()
    [-2.0, -2.0]
    """
    _assign(self, ops.astype(self - value, self.dtype, copy=False))


for _method_of_variable in (_assign, _assign_add, _assign_sub):
    setattr(Variable, _method_of_variable.__name__.removeprefix("_"), _method_of_variable)

# ----- ways out: every one goes through `ops.on_host` ---------------------------------------------


def _numpy(self: Any) -> np.ndarray[Any, Any]:
    """The elements as a read-only NumPy array that shares the buffer. As `torch.Tensor.numpy`.

    >>> import stagekit as sk
    >>> sk.ones(2).numpy()
    array([1., 1.], dtype=float32)
    """
    return ops.on_host(self, "numpy()")


def _item(self: Any) -> Any:
    """The one element as a Python scalar. As `numpy.ndarray.item`.

    >>> import stagekit as sk
    >>> sk.ones(1).item()
    1.0
    """
    return ops.scalar(self, "item()")


def _float(self: Any) -> float:
    """The one element; also what `math.exp(x)` takes, where a derivative would end unseen."""
    if current().differentiates(self):
        warnings.warn(
            f"float() of a tensor ({describe(self)}) whose derivative is taken: none flows through "
            "it. Use an op of stagekit; for the plain value, x.item().",
            StagekitWarning,
            stacklevel=stack_level(),
        )
    return float(ops.scalar(self, "float()"))


def _integral(self: Any, why: str) -> Any:
    if self.dtype.kind == "float":
        raise DTypeError(
            f"{why}: a {self.dtype} tensor is no index", fix="cast with astype(sk.int64)"
        ).located(here())
    return ops.scalar(self, why)


def _array(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
    if current().differentiates(self):
        raise TraceError(
            f"np.asarray: NumPy would lose the derivative of a tensor ({describe(self)})",
            fix="use an op of stagekit; for the plain values, x.numpy() or stop_gradient(x)",
        ).located(here())
    array = ops.on_host(self, "np.asarray")
    if dtype is not None and np.dtype(dtype) != array.dtype:
        if copy is False:
            raise ArgumentError(
                f"np.asarray: {array.dtype} to {np.dtype(dtype)} needs a copy", fix="leave copy out"
            ).located(here())
        return array.astype(dtype)
    return array.copy() if copy else array


def _length(self: Any) -> int:
    if self.ndim == 0:
        raise ArgumentError("len(): a 0-d tensor has no length", fix="use x.size").located(here())
    n = self.shape[0]
    return n.__index__() if isinstance(n, Dim) else n


def _iterate(self: Any) -> Iterator[Any]:
    if self.ndim == 0:
        raise ArgumentError(
            "iter(): a 0-d tensor has nothing to go through", fix="use x.item()"
        ).located(here())
    return iter([self[i] for i in range(_length(self))])


def _format(self: Any, spec: str) -> str:
    return format(_item(self), spec) if spec else str(self)


def _contains(self: Any, value: Any) -> bool:
    return bool(ops.any(ops.equal(self, value)))


_attach("numpy", _numpy)
_attach("item", _item)
_named("tolist", lambda self: ops.on_host(self, "tolist()").tolist(),
       "The elements as Python numbers in lists",
       "x.tolist()", "[[0.0, 1.0], [2.0, 3.0]]")  # fmt: skip
_attach("__array__", _array)
_attach("__bool__", lambda self: bool(ops.scalar(self, "bool()")))
_attach("__int__", lambda self: int(ops.scalar(self, "int()")))
_attach("__float__", _float)
_attach("__complex__", lambda self: complex(ops.scalar(self, "complex()")))
_attach("__index__", lambda self: _integral(self, "index"))
_attach("__len__", _length)
_attach("__iter__", _iterate)
_attach("__format__", _format)
_attach("__contains__", _contains)
