"""Tensors from nothing (`full`, `iota`, `number`), casts, identities, and what is made of them."""

from __future__ import annotations

import builtins
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.narrow import converted, narrowed
from stagekit.op import Cell, Op, current, weak_type
from stagekit.ops.batching import pointwise
from stagekit.placement import as_device
from stagekit.source import here
from stagekit.symbolic import Dim, Number
from stagekit.tensor import Tensor
from stagekit.types import (
    RANK,
    DType,
    TensorType,
    as_integer,
    bfloat16,
    bool_,
    complex128,
    default_float,
    default_int,
    float64,
    promote,
    real_of,
    require_in_range,
    shape_text,
)
from stagekit.types import dtype as as_dtype

_CONSTANT = "it has no operands"

# ----- primitives ---------------------------------------------------------------------------------


def _full_evaluate(xp: Any, *, shape: Any, value: Any, dtype: DType) -> Any:
    if dtype is bfloat16:
        return xp.full(shape, narrowed(xp.asarray(value)))
    return xp.full(shape, value, dtype.numpy)


_full = Op(
    "full",
    infer=lambda *, shape, value, dtype: TensorType(dtype, shape),
    evaluate=_full_evaluate,
    element=lambda e, out, idx, *, shape, value, dtype: e.constant(value, dtype),
    nondifferentiable=_CONSTANT,
    batch=_CONSTANT,
    doc="""A tensor of `shape` filled with one number. As `numpy.full`.

    >>> _full(shape=(2,), value=1, dtype=default_int)
    tensor([1, 1], dtype=int64)
    """,
)

iota = Op(
    "iota",
    infer=lambda *, size, dtype: TensorType(dtype, (size,)),
    evaluate=lambda xp, *, size, dtype: converted(xp.arange(size), dtype.numpy),
    element=lambda e, out, idx, *, size, dtype: e.number(idx[0], dtype),
    nondifferentiable=_CONSTANT,
    batch=_CONSTANT,
    doc="""The numbers 0, 1, ..., size - 1. As `numpy.arange`.

    >>> iota(size=3, dtype=default_int)
    tensor([0, 1, 2], dtype=int64)
    """,
)

number = Op(
    "number",
    infer=lambda *, expr, dtype: TensorType(dtype, ()),
    evaluate=lambda xp, *, expr, dtype: converted(xp.asarray(expr), dtype.numpy),
    element=lambda e, out, idx, *, expr, dtype: e.constant(expr, dtype),
    nondifferentiable=_CONSTANT,
    batch=_CONSTANT,
    doc="""A size, or a Python number argument, as a 0-d tensor: the way it enters arithmetic.

    >>> number(expr=3, dtype=default_int)
    tensor(3, dtype=int64)
    """,
)


def _cast_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    target = xs[0].dtype
    return ops.astype(ct if target.kind == "complex" else ops.real(ct), target)


def _cast_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    return _astype(tangents[0], **attrs)


_astype = Op(
    "astype",
    infer=lambda x, *, dtype: x.with_dtype(dtype),
    evaluate=lambda xp, x, *, dtype: converted(x, dtype.numpy),
    element=lambda e, out, idx, x, *, dtype: e.cast(x(*idx), dtype),
    moves=True,
    vjp=_cast_vjp,
    jvp=_cast_jvp,
    batch=pointwise("astype"),
    doc="""The elements in another data type; float to float rounds to nearest even.

    >>> _astype(ops.asarray([1.7]), dtype=default_int)
    tensor([1], dtype=int64)
    """,
)


def _identity(name: str, *, differentiable: bool, transparent: bool = False, doc: str) -> Op:
    """An op whose value is its operand's: what it says, it says to interpreters."""
    return Op(
        name,
        infer=lambda x, **attrs: x,
        evaluate=lambda xp, x, **attrs: x.view(),
        element=lambda e, out, idx, x, **attrs: x(*idx),
        vjp=(lambda i, ct, out, xs, attrs: ct) if differentiable else None,
        jvp=(lambda tangents, out, xs, attrs: tangents[0]) if differentiable else None,
        nondifferentiable=None if differentiable else "asked for: its operand counts as constant",
        batch=pointwise(name),
        transparent=transparent,
        moves=True,
        doc=doc,
    )


alias: Op = _identity(
    "alias",
    differentiable=True,
    transparent=True,
    doc="""The operand as a value of its own: equal, and another object.

    >>> x = ops.asarray([1.0])
    >>> alias(x) is x
    False
    """,
)
barrier = _identity(
    "barrier",
    differentiable=True,
    doc="""The operand, never merged with another barrier of another `serial`.

    >>> barrier(ops.asarray([1.0]), serial=1)
    tensor([1.], dtype=float32)
    """,
)
stop_gradient = _identity(
    "stop_gradient",
    differentiable=False,
    doc="""The operand as a constant for differentiation, in reverse and forward mode.

    Source: `jax.lax.stop_gradient`.

    >>> import stagekit as sk
    >>> sk.grad(lambda x: x * sk.stop_gradient(x))(3.0)
    tensor(3., dtype=float32)
    """,
)

custom = Op(
    "custom",
    infer=lambda y, *xs, rule, index: y,
    evaluate=lambda xp, y, *xs, rule, index: y.view(),
    element=lambda e, out, idx, y, *xs, rule, index: y(*idx),
    moves=True,
    vjp=lambda i, ct, out, xs, attrs: attrs["rule"].vjp(i - 1, ct, attrs["index"], xs[1:]),
    jvp=lambda tangents, out, xs, attrs: attrs["rule"].jvp(tangents[1:], attrs["index"], xs[1:]),
    batch="`Batch` itself has the rule run with the mapped axis hidden: autodiff/batch.py",
    doc="""The first operand, with a derivative with respect to the others given by `rule`.

    `sk.custom_vjp` and `sk.custom_jvp` make such rules.

    >>> custom(ops.asarray(6.0), ops.asarray(2.0), rule=None, index=0)
    tensor(6., dtype=float32)
    """,
)

def _out_type(*xs: TensorType, index: int) -> TensorType:
    if not 0 <= index < len(xs):
        raise ArgumentError(f"out: there is no result {index} of {len(xs)}", fix="count from 0")
    return xs[index]


def _out_batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    x = args[attrs["index"]]
    return _out(x if mapped[attrs["index"]] else ops.broadcast_to(x, (size, *x.shape)), index=0)


_out: Op = Op(
    "out",
    infer=_out_type,
    evaluate=lambda xp, *xs, index: xs[index].view(),
    element=lambda e, out, idx, *xs, index: xs[index](*idx),
    vjp=lambda i, ct, out, xs, attrs: ct if i == attrs["index"] else None,
    jvp=lambda tangents, out, xs, attrs: tangents[attrs["index"]],
    batch=_out_batch,
    doc="""One of its operands: in a graph, of the several results of one node.

    >>> _out(ops.asarray([1.0]), ops.asarray([2.0]), index=1)
    tensor([2.], dtype=float32)
    """,
)

# ----- conversion ---------------------------------------------------------------------------------


def asarray(
    obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None
) -> Any:
    """A tensor of `obj`: a number, nested lists, a NumPy array or scalar, or a tensor.

    Python floats become float32, ints int64; NumPy types are kept. Arrays are copied;
    `copy=False` raises ValueError unless the array is read-only. As `numpy.asarray`.
    Raises DTypeError for what holds no numbers, ShapeError for ragged lists.

    >>> import stagekit as sk
    >>> sk.asarray([1, 2.5])
    tensor([1. , 2.5], dtype=float32)
    """
    as_device(device)
    if isinstance(obj, Cell) and dtype is None and not copy:
        return obj
    if copy is False:
        return _shared(obj, dtype)
    if weak_type(obj) is not None:
        kind = as_dtype(dtype) if dtype is not None else as_dtype(weak_type(obj))
        try:
            return current().constant(obj, kind)
        except DTypeError as error:
            raise error.within("asarray") from None
    if isinstance(obj, (list, tuple)) and _holds_trace(obj):
        exact = dtype if dtype is not None and as_dtype(dtype).inexact else None
        out = ops.stack([asarray(item, dtype=exact) for item in obj])
    else:
        out = current().lift(obj, None if dtype is None else as_dtype(dtype))
    if dtype is not None and as_dtype(dtype) is not out.dtype:
        return astype(out, dtype)
    return alias(out) if copy and out is obj else out


def _shared(obj: Any, dtype: Any) -> Any:
    """A tensor on the very buffer of a tensor or a read-only array; ArgumentError for all else."""
    found = getattr(obj, "dtype", None)
    if found is not None and (dtype is None or as_dtype(dtype) == as_dtype(found)):
        if isinstance(obj, Cell):
            return obj
        if isinstance(obj, np.ndarray) and found.isnative and not obj.flags.writeable:
            interpreter = current()
            traces = interpreter.base.traces
            return interpreter.lift(obj) if traces else interpreter.literal(obj)
    raise ArgumentError(
        "asarray: copy=False needs a tensor or a read-only array of the data type asked for",
        fix="leave copy out",
    ).located(here())


def _holds_trace(obj: Any) -> bool:
    """Whether nested lists hold tensors or numbers of a trace, to be stacked rather than read."""
    if isinstance(obj, (list, tuple)):
        return any(_holds_trace(item) for item in obj)
    return isinstance(obj, (Cell, Number))


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: str | None = None) -> Any:
    """The elements of `x` in another data type, as `numpy.ndarray.astype`.

    float to integer truncates; outside the integer's range (or NaN) the value is unspecified.
    Raises DTypeError for complex to real.

    >>> import stagekit as sk
    >>> sk.astype(sk.asarray([1.7, -1.7]), sk.int32)
    tensor([ 1, -1], dtype=int32)
    """
    as_device(device)
    x, target = asarray(x), as_dtype(dtype)
    if x.dtype is target:
        return alias(x) if copy else x
    if x.dtype.kind == "complex" and target.kind not in ("complex", "bool"):
        raise DTypeError(
            f"astype: {x.dtype} to {target} would lose the imaginary part",
            fix="take sk.real, sk.imag or sk.abs first",
        ).located(here())
    return _astype(x, dtype=target)


# ----- constants of a shape -----------------------------------------------------------------------


def as_shape(op: str, shape: Any) -> tuple[Any, ...]:
    """A shape as a tuple of sizes; ShapeError for a negative one.

    >>> as_shape("zeros", 3)
    (3,)
    """
    items = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    sizes = tuple(n if isinstance(n, Dim) else as_integer(op, "a size", n) for n in items)
    if any(n < 0 for n in sizes):
        raise ShapeError(
            f"{op}: shape {shape_text(sizes)} has a negative size", fix="sizes are 0 or more"
        ).located(here())
    return sizes


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Any:
    """A tensor of `shape` filled with `fill_value` (a number or a 0-d tensor), as `numpy.full`.

    >>> import stagekit as sk
    >>> sk.full((2,), 7)
    tensor([7, 7], dtype=int64)
    """
    as_device(device)
    return _filled("full", shape, fill_value, dtype)


def _filled(op: str, shape: Any, value: Any, dtype: Any) -> Any:
    sizes = as_shape(op, shape)
    if isinstance(value, (Number, complex)) or weak_type(value) is None:
        return ops.broadcast_to(asarray(value, dtype=dtype), sizes)
    kind = as_dtype(dtype if dtype is not None else type(value))
    try:
        require_in_range(value, kind)
    except DTypeError as error:
        raise error.within(op) from None
    return _full(shape=sizes, value=value, dtype=kind)


def zeros(shape: Any, *, dtype: Any = None, device: str | None = None) -> Any:
    """Zeros, float32 unless `dtype` says otherwise, as `numpy.zeros`.

    >>> import stagekit as sk
    >>> sk.zeros(2)
    tensor([0., 0.], dtype=float32)
    """
    as_device(device)
    return _filled("zeros", shape, 0, default_float if dtype is None else dtype)


def ones(shape: Any, *, dtype: Any = None, device: str | None = None) -> Any:
    """Ones, float32 unless `dtype` says otherwise, as `numpy.ones`.

    >>> import stagekit as sk
    >>> sk.ones(2, dtype=sk.int8)
    tensor([1, 1], dtype=int8)
    """
    as_device(device)
    return _filled("ones", shape, 1, default_float if dtype is None else dtype)


def empty(shape: Any, *, dtype: Any = None, device: str | None = None) -> Any:
    """A tensor of any values; here zeros, so that both stages agree. As `numpy.empty`.

    >>> import stagekit as sk
    >>> sk.empty((2, 0)).shape
    (2, 0)
    """
    return zeros(shape, dtype=dtype, device=device)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Any:
    """A tensor like `x` filled with `fill_value`, as `numpy.full_like`.

    >>> import stagekit as sk
    >>> sk.full_like(sk.zeros(2), 3)
    tensor([3., 3.], dtype=float32)
    """
    x = asarray(x)
    return full(x.shape, fill_value, dtype=x.dtype if dtype is None else dtype, device=device)


def zeros_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Any:
    """Zeros of the shape and type of `x`, as `numpy.zeros_like`.

    >>> import stagekit as sk
    >>> sk.zeros_like(sk.ones(1))
    tensor([0.], dtype=float32)
    """
    return full_like(x, 0, dtype=dtype, device=device)


def ones_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Any:
    """Ones of the shape and type of `x`, as `numpy.ones_like`.

    >>> import stagekit as sk
    >>> sk.ones_like(sk.zeros(1))
    tensor([1.], dtype=float32)
    """
    return full_like(x, 1, dtype=dtype, device=device)


def empty_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Any:
    """As `empty`, of the shape and type of `x`; as `numpy.empty_like`.

    >>> import stagekit as sk
    >>> sk.empty_like(sk.ones(3)).shape
    (3,)
    """
    return zeros_like(x, dtype=dtype, device=device)


# ----- sequences and matrices ---------------------------------------------------------------------


def arange(
    start: Any,
    /,
    stop: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
) -> Any:
    """`start, start + step, ...` below `stop`, as `numpy.arange`: int64 for integers.

    Python floats give float32, tensors and NumPy's numbers the type they have in common. Raises
    ShapeError for a step of 0, ArgumentError for what is no real number.

    >>> import stagekit as sk
    >>> sk.arange(1, 7, 2)
    tensor([1, 3, 5], dtype=int64)
    """
    as_device(device)
    if stop is None:
        start, stop = 0, start
    common = result_type(start, stop, step)
    whole = not common.inexact
    start, stop, step = map(_number, (start, stop, step))
    size = _steps(start, stop, step, whole)
    kind = as_dtype(dtype) if dtype is not None else (default_int if whole else common)
    count = iota(
        size=ops.maximum_size(size, 0), dtype=default_int if whole else as_dtype("float64")
    )
    return astype(count * step + start, kind, copy=False)


def _number(x: Any) -> Any:
    """The Python number that a tensor or an array of one element holds; others stay."""
    if isinstance(x, np.ndarray) and x.size != 1:
        raise ArgumentError(
            f"arange: an operand has the shape {x.shape}", fix="give numbers"
        ).located(here())
    return x.item() if isinstance(x, (Tensor, np.ndarray, np.generic)) else x


def _steps(start: Any, stop: Any, step: Any, whole: bool) -> Any:
    """How many steps `arange` takes; negative where there are none."""
    try:
        if step != 0:
            return -((start - stop) // step) if whole else math.ceil((stop - start) / step)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(
            f"arange: from {start!r} to {stop!r} by {step!r}", fix="give finite real numbers"
        ).located(here()) from None
    raise ShapeError("arange: the step is 0", fix="give a step other than 0").located(here())


def linspace(
    start: Any,
    stop: Any,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Any:
    """`num` evenly spaced numbers from `start` to `stop`, as `numpy.linspace`.

    Python numbers give float32 (or complex64), tensors and NumPy's the type they have in common.

    >>> import stagekit as sk
    >>> sk.linspace(0, 1, 3)
    tensor([0. , 0.5, 1. ], dtype=float32)
    """
    as_device(device)
    common = result_type(start, stop)
    wide = complex128 if common.kind == "complex" else float64
    start, stop = asarray(start, dtype=wide), asarray(stop, dtype=wide)
    (num,) = as_shape("linspace", num)
    steps = ops.maximum_size(num - 1 if endpoint else num, 1)
    count = iota(size=num, dtype=float64)
    values = count * ((stop - start) / steps) + start
    if endpoint:
        last = ops.logical_and(count == num - 1, count > 0)
        values = ops.where(last, stop, values)
    natural = common if common.inexact else default_float
    kind = natural if dtype is None else as_dtype(dtype)
    return astype(values if kind.inexact else ops.floor(values), kind, copy=False)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    device: str | None = None,
) -> Any:
    """Ones on the k-th diagonal, zeros elsewhere, as `numpy.eye`.

    >>> import stagekit as sk
    >>> sk.eye(2)
    tensor([[1., 0.],
            [0., 1.]], dtype=float32)
    """
    as_device(device)
    n_rows, n_cols = as_shape("eye", (n_rows, n_rows if n_cols is None else n_cols))
    hit = _offset(n_rows, n_cols) == _diagonal("eye", k)
    return astype(hit, default_float if dtype is None else dtype)


def _diagonal(op: str, k: Any) -> Any:
    """The number of a diagonal, as one that int64 holds: beyond, there is none."""
    k = as_integer(op, "k", k)
    return k if isinstance(k, Dim) else builtins.max(builtins.min(k, 2**62), -(2**62))


def _offset(n: Any, m: Any) -> Any:
    """column - row, of shape (n, m)."""
    rows = ops.expand_dims(iota(size=n, dtype=default_int), axis=1)
    return iota(size=m, dtype=default_int) - rows


def tril(x: Any, /, *, k: int = 0) -> Any:
    """`x` (..., n, m) with zeros above the k-th diagonal, as `numpy.tril`.

    >>> import stagekit as sk
    >>> sk.tril(sk.ones((2, 2)))
    tensor([[1., 0.],
            [1., 1.]], dtype=float32)
    """
    x = _matrix("tril", x)
    below = _offset(*x.shape[-2:]) <= _diagonal("tril", k)
    return ops.where(below, x, zeros((), dtype=x.dtype))


def triu(x: Any, /, *, k: int = 0) -> Any:
    """`x` (..., n, m) with zeros below the k-th diagonal, as `numpy.triu`.

    >>> import stagekit as sk
    >>> sk.triu(sk.ones((2, 2)))
    tensor([[1., 1.],
            [0., 1.]], dtype=float32)
    """
    x = _matrix("triu", x)
    above = _offset(*x.shape[-2:]) >= _diagonal("triu", k)
    return ops.where(above, x, zeros((), dtype=x.dtype))


def _matrix(op: str, x: Any) -> Any:
    x = asarray(x)
    if x.ndim < 2:
        raise ShapeError(
            f"{op}: shape {shape_text(x.shape)} has fewer than 2 axes", fix="give a matrix"
        ).located(here())
    return x


def meshgrid(*arrays: Any, indexing: str = "xy") -> tuple[Any, ...]:
    """Coordinate grids of 1-d tensors, as `numpy.meshgrid`.

    >>> import stagekit as sk
    >>> [g.shape for g in sk.meshgrid(sk.arange(2), sk.arange(3))]
    [(3, 2), (3, 2)]
    """
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"meshgrid: indexing is {indexing!r}", fix="use 'xy' or 'ij'").located(
            here()
        )
    arrays = tuple(ops.reshape(x, (1,)) if x.ndim == 0 else x for x in map(asarray, arrays))
    for x in arrays:
        if x.ndim != 1:
            raise ShapeError(
                f"meshgrid: an operand has the shape {shape_text(x.shape)}", fix="give 1-d tensors"
            ).located(here())
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[:2] = [1, 0]
    columns = []
    for axis, array in zip(order, arrays, strict=True):
        shape: list[Any] = [1] * len(arrays)
        shape[axis] = array.shape[0]
        columns.append(ops.reshape(array, tuple(shape)))
    return ops.broadcast_arrays(*columns)


# ----- type information ---------------------------------------------------------------------------


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The common type of tensors, data types and Python scalars, as `numpy.result_type`.

    Raises DTypeError where there is none.

    >>> import stagekit as sk
    >>> sk.result_type(sk.int8, sk.zeros(2), 1)
    float32
    """
    kinds: list[DType | type] = []
    for x in arrays_and_dtypes:
        weak = weak_type(x)
        kind = x if isinstance(x, type) else getattr(x, "dtype", x)
        kinds.append(as_dtype(kind) if weak is None else weak)
    return promote(kinds)


def can_cast(from_: Any, to: DType, /) -> bool:
    """Whether promotion alone turns `from_` into `to`, as `numpy.can_cast`.

    >>> import stagekit as sk
    >>> sk.can_cast(sk.int8, sk.int64), sk.can_cast(sk.float64, sk.float32)
    (True, False)
    """
    source = from_.dtype if isinstance(from_, Tensor) else as_dtype(from_)
    return bool(np.can_cast(source.numpy, as_dtype(to).numpy))


@dataclass(frozen=True)
class FloatLimits:
    """What `finfo` gives, in Python numbers."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntegerLimits:
    """What `iinfo` gives, in Python numbers."""

    bits: int
    max: int
    min: int
    dtype: DType


_MOST = 2.0**127 * (2 - 2.0**-7)
_BFLOAT16 = FloatLimits(16, 2.0**-7, _MOST, -_MOST, 2.0**-126, bfloat16)


def finfo(type: Any, /) -> FloatLimits:
    """Machine limits of a float type, or of the parts of a complex one, as `numpy.finfo`.

    Raises DTypeError for other types.

    >>> import stagekit as sk
    >>> sk.finfo(sk.float32).bits
    32
    """
    kind = real_of(type.dtype if isinstance(type, Tensor) else as_dtype(type))
    if kind is bfloat16:
        return _BFLOAT16
    if kind.kind != "float":
        error = DTypeError(f"finfo: {kind} is not a float type", fix="use iinfo for integers")
        raise error.located(here())
    info = np.finfo(kind.numpy)
    eps, most, least, normal = map(float, (info.eps, info.max, info.min, info.smallest_normal))
    return FloatLimits(info.bits, eps, most, least, normal, kind)


def iinfo(type: Any, /) -> IntegerLimits:
    """Machine limits of an integer type, as `numpy.iinfo`. Raises DTypeError for other types.

    >>> import stagekit as sk
    >>> sk.iinfo(sk.int8).max
    127
    """
    kind = type.dtype if isinstance(type, Tensor) else as_dtype(type)
    if RANK[kind.kind] != 1 or kind is bool_:
        error = DTypeError(f"iinfo: {kind} is not an integer type", fix="use finfo for floats")
        raise error.located(here())
    return IntegerLimits(8 * kind.itemsize, kind.highest, kind.lowest, kind)


_KINDS = {
    "bool": ("bool",),
    "signed integer": ("int",),
    "unsigned integer": ("uint",),
    "integral": ("int", "uint"),
    "real floating": ("float",),
    "complex floating": ("complex",),
    "numeric": ("int", "uint", "float", "complex"),
}


def isdtype(dtype: DType, kind: Any) -> bool:
    """Whether a type is of a kind (a name of the standard, a type, or a tuple of them).

    >>> import stagekit as sk
    >>> sk.isdtype(sk.float32, "real floating"), sk.isdtype(sk.int8, (sk.int8, "bool"))
    (True, True)
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if not isinstance(kind, str):
        return dtype is as_dtype(kind)
    if kind not in _KINDS:
        raise ArgumentError(
            f"isdtype: there is no kind {kind!r}", fix=f"use one of {', '.join(_KINDS)}"
        ).located(here())
    return dtype.kind in _KINDS[kind]
