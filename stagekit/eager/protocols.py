"""How others meet a tensor: NumPy's ufuncs and functions, DLPack, HTML, copy, pickle.

`np.exp(x)` is the op of that name, so it is staged, differentiated and checked like any other. What
has no counterpart is refused, naming the way out, `x.numpy()`: no tensor turns into an array
unasked.
"""

from __future__ import annotations

import copyreg
import html
import sys
from collections.abc import Callable
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import ArgumentError
from stagekit.op import Cell, weak_type
from stagekit.ops.inspection import VERSION
from stagekit.placement import as_device
from stagekit.source import here
from stagekit.tensor import Tensor, Variable
from stagekit.types import shape_text

# ----- ufuncs -------------------------------------------------------------------------------------

_NAMES = """
    absolute=abs add arccos=acos arccosh=acosh arcsin=asin arcsinh=asinh arctan=atan arctan2=atan2
    arctanh=atanh bitwise_and bitwise_or bitwise_xor ceil conjugate=conj copysign cos cosh divide
    equal exp exp2 expm1 fabs=abs floor floor_divide greater greater_equal hypot
    invert=bitwise_invert isfinite isinf isnan left_shift=bitwise_left_shift less less_equal log
    log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor matmul maximum minimum
    multiply negative nextafter not_equal positive power reciprocal remainder
    right_shift=bitwise_right_shift rint=round sign signbit sin sinh sqrt square subtract tan tanh
    trunc vecdot deg2rad rad2deg radians=deg2rad degrees=rad2deg
"""
_UFUNCS: dict[np.ufunc, Callable[..., Any]] = {
    getattr(np, name): getattr(ops, op or name)
    for name, _, op in (entry.partition("=") for entry in _NAMES.split())
}
_UFUNCS[np.divmod] = lambda x, y: (ops.floor_divide(x, y), ops.remainder(x, y))

_REDUCTIONS: dict[np.ufunc, Callable[..., Any]] = {
    np.add: ops.sum,
    np.multiply: ops.prod,
    np.maximum: ops.max,
    np.minimum: ops.min,
    np.logical_and: ops.all,
    np.logical_or: ops.any,
    np.logaddexp: ops.logsumexp,
}

_CURES = {
    "out": "use the result: a tensor's buffer never changes, and an array cannot hold a tensor",
    "where": "choose among the results with sk.where",
    "dtype": "use astype on an operand",
}


def _refusal(message: str, fix: str) -> ArgumentError:
    return ArgumentError(message, fix).located(here())


def _is_known(obj: Any) -> bool:
    """Whether ops take `obj` as an operand; any other type may bring a protocol of its own."""
    known = (Cell, np.ndarray, np.generic, list, tuple)
    return isinstance(obj, known) or weak_type(obj) is not None


def _says_nothing(value: Any) -> bool:
    """Whether an argument is what NumPy takes for none given: `out=(None,)`, `where=True`."""
    if isinstance(value, tuple):
        return all(item is None for item in value)
    return value is None or value is True or value is np._NoValue


def _given(name: str, function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords that `function` takes; those that say nothing are dropped, others refused."""
    taken = signature(function).parameters if keywords else {}
    for keyword in keywords.keys() - taken.keys():
        if not _says_nothing(keywords[keyword]):
            cure = _CURES.get(keyword, "leave it out, or call it on x.numpy()")
            raise _refusal(f"{name}: {keyword}= cannot be used with tensors", cure)
    return {keyword: value for keyword, value in keywords.items() if keyword in taken}


def __array_ufunc__(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
    """`np.add(x, y)` as `sk.add(x, y)`, `np.add.reduce(x)` as `sk.sum(x, axis=0)`."""
    if not all(map(_is_known, inputs)):
        return NotImplemented
    name = f"np.{ufunc.__name__}" if method == "__call__" else f"np.{ufunc.__name__}.{method}"
    if method == "__call__" and ufunc in _UFUNCS:
        function = _UFUNCS[ufunc]
        return function(*inputs, **_given(name, function, keywords))
    if method == "reduce" and ufunc in _REDUCTIONS:
        function = _REDUCTIONS[ufunc]
        return function(*inputs, **_given(name, function, {"axis": 0, **keywords}))
    if method == "at":
        raise _refusal(
            f"{name}: a tensor's buffer never changes", "use x.at[index].add, multiply, min or max"
        )
    raise _refusal(f"{name} has no counterpart for tensors", "call it on x.numpy()")


# ----- functions: NumPy's parameters on the left, the op on the right -----------------------------


def _pick(a: Any, indices: Any, axis: int | None = None) -> Any:
    return ops.take(ops.reshape(a, (-1,)) if axis is None else a, indices, axis=axis or 0)


def _spread(name: str) -> Callable[..., Any]:
    """`std` and `var`, whose correction NumPy also calls ddof."""
    op: Callable[..., Any] = getattr(ops, name)

    def spread(
        a: Any, axis: Any = None, *, ddof: Any = 0, keepdims: bool = False, correction: Any = None
    ) -> Any:
        correction = ddof if correction is None else correction
        return op(a, axis=axis, correction=correction, keepdims=keepdims)

    return spread


def _fold(name: str) -> Callable[..., Any]:
    op: Callable[..., Any] = getattr(ops, name)
    return lambda a, axis=None, keepdims=False: op(a, axis=axis, keepdims=keepdims)


def _total(name: str) -> Callable[..., Any]:
    """A reduction that can be told its accumulator's type."""
    op: Callable[..., Any] = getattr(ops, name)
    return lambda a, axis=None, dtype=None, keepdims=False: op(
        a, axis=axis, dtype=dtype, keepdims=keepdims
    )


def _mean(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    a = a if dtype is None else ops.astype(a, dtype)
    return ops.mean(a, axis=axis, keepdims=keepdims)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return ops.clip(a, a_min if min is None else min, a_max if max is None else max)


def _sorted(name: str) -> Callable[..., Any]:
    """`sort` and `argsort`, whose kind is always stable; `axis=None` flattens."""
    op: Callable[..., Any] = getattr(ops, name)

    def ordered(a: Any, axis: int | None = -1, kind: Any = None, *, stable: Any = None) -> Any:
        return op(ops.reshape(a, (-1,))) if axis is None else op(a, axis=axis)

    return ordered


def _unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False
) -> Any:
    values, *rest = ops.unique_all(ar)
    asked = zip((return_index, return_inverse, return_counts), rest, strict=True)
    found = [part for wanted, part in asked if wanted]
    return (values, *found) if found else values


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sort": _sorted("sort"),
    "argsort": _sorted("argsort"),
    "searchsorted": lambda a, v, side="left", sorter=None: ops.searchsorted(
        a, v, side=side, sorter=sorter
    ),
    "cumsum": lambda a, axis=None, dtype=None: ops.asarray(a).cumsum(axis, dtype=dtype),
    "cumprod": lambda a, axis=None, dtype=None: ops.asarray(a).cumprod(axis, dtype=dtype),
    "cumulative_sum": lambda x, *, axis=None, dtype=None, include_initial=False: (
        ops.cumulative_sum(x, axis=axis, dtype=dtype, include_initial=include_initial)
    ),
    "cumulative_prod": lambda x, *, axis=None, dtype=None, include_initial=False: (
        ops.cumulative_prod(x, axis=axis, dtype=dtype, include_initial=include_initial)
    ),
    "diff": lambda a, n=1, axis=-1, prepend=None, append=None: ops.diff(
        a, axis=axis, n=n, prepend=prepend, append=append
    ),
    "isin": lambda element, test_elements, invert=False: ops.isin(
        element, test_elements, invert=invert
    ),
    "unique": _unique,
    "unique_all": lambda x: ops.unique_all(x),
    "unique_counts": lambda x: ops.unique_counts(x),
    "unique_inverse": lambda x: ops.unique_inverse(x),
    "unique_values": lambda x: ops.unique_values(x),
    "argwhere": lambda a: ops.argwhere(a),
    "flatnonzero": lambda a: ops.flatnonzero(a),
    "all": _fold("all"),
    "any": _fold("any"),
    "argmax": _fold("argmax"),
    "argmin": _fold("argmin"),
    "count_nonzero": _fold("count_nonzero"),
    "max": _fold("max"),
    "amax": _fold("max"),
    "min": _fold("min"),
    "amin": _fold("min"),
    "sum": _total("sum"),
    "prod": _total("prod"),
    "mean": _mean,
    "std": _spread("std"),
    "var": _spread("var"),
    "clip": _clip,
    "round": lambda a, decimals=0: a.round(decimals),
    "around": lambda a, decimals=0: a.round(decimals),
    "real": lambda val: ops.real(val),
    "imag": lambda val: ops.imag(val),
    "angle": lambda z: ops.angle(z),
    "where": lambda condition, x, y: ops.where(condition, x, y),
    "isclose": lambda a, b, rtol=1e-5, atol=1e-8, equal_nan=False: ops.isclose(
        a, b, rtol, atol, equal_nan
    ),
    "allclose": lambda a, b, rtol=1e-5, atol=1e-8, equal_nan=False: ops.allclose(
        a, b, rtol, atol, equal_nan
    ),
    "array_equal": lambda a1, a2, equal_nan=False: ops.array_equal(a1, a2, equal_nan),
    "nan_to_num": lambda x, copy=True, nan=0.0, posinf=None, neginf=None: ops.nan_to_num(
        x, nan, posinf, neginf
    ),
    "sinc": lambda x: ops.sinc(x),
    "dot": lambda a, b: ops.dot(a, b),
    "inner": lambda a, b: ops.inner(a, b),
    "outer": lambda a, b: ops.outer(a, b),
    "kron": lambda a, b: ops.kron(a, b),
    "tensordot": lambda a, b, axes=2: ops.tensordot(a, b, axes=axes),
    "einsum": lambda subscripts, *operands, optimize=False: ops.einsum(subscripts, *operands),
    "diagonal": lambda a, offset=0, axis1=0, axis2=1: ops.diagonal(a, offset, axis1, axis2),
    "trace": lambda a, offset=0, axis1=0, axis2=1, dtype=None: ops.trace(
        a, offset, axis1, axis2, dtype
    ),
    "diag": lambda v, k=0: ops.diag(v, k),
    "take": _pick,
    "take_along_axis": lambda arr, indices, axis=-1: ops.take_along_axis(arr, indices, axis=axis),
    "nonzero": lambda a: ops.nonzero(a),
    "reshape": lambda a, shape, copy=None: ops.reshape(a, shape, copy=copy),
    "ravel": lambda a: ops.reshape(a, (-1,)),
    "transpose": lambda a, axes=None: ops.transpose(a, axes),
    "matrix_transpose": lambda x: ops.matrix_transpose(x),
    "swapaxes": lambda a, axis1, axis2: ops.swapaxes(a, axis1, axis2),
    "moveaxis": lambda a, source, destination: ops.moveaxis(a, source, destination),
    "expand_dims": lambda a, axis: ops.expand_dims(a, axis=axis),
    "squeeze": lambda a, axis=None: ops.squeeze(a, axis=axis),
    "broadcast_to": lambda array, shape: ops.broadcast_to(array, shape),
    "broadcast_arrays": lambda *args: ops.broadcast_arrays(*args),
    "flip": lambda m, axis=None: ops.flip(m, axis=axis),
    "roll": lambda a, shift, axis=None: ops.roll(a, shift, axis=axis),
    "tile": lambda A, reps: ops.tile(A, reps),
    "repeat": lambda a, repeats, axis=None: ops.repeat(a, repeats, axis=axis),
    "pad": lambda array, pad_width, mode="constant", constant_values=0: ops.pad(
        array, pad_width, mode, constant_values=constant_values
    ),
    "concatenate": lambda arrays, axis=0: ops.concat(arrays, axis=axis),
    "stack": lambda arrays, axis=0: ops.stack(arrays, axis=axis),
    "unstack": lambda x, axis=0: ops.unstack(x, axis=axis),
    "split": lambda ary, indices_or_sections, axis=0: ops.split(
        ary, indices_or_sections, axis=axis
    ),
    "tril": lambda m, k=0: ops.tril(m, k=k),
    "triu": lambda m, k=0: ops.triu(m, k=k),
    "meshgrid": lambda *xi, indexing="xy": ops.meshgrid(*xi, indexing=indexing),
    "zeros_like": lambda a, dtype=None: ops.zeros_like(a, dtype=dtype),
    "ones_like": lambda a, dtype=None: ops.ones_like(a, dtype=dtype),
    "empty_like": lambda prototype, dtype=None: ops.empty_like(prototype, dtype=dtype),
    "full_like": lambda a, fill_value, dtype=None: ops.full_like(a, fill_value, dtype=dtype),
    "copy": lambda a: ops.asarray(a, copy=True),
    "astype": lambda x, dtype, copy=True: ops.astype(x, dtype, copy=copy),
    "shape": lambda a: ops.asarray(a).shape,
    "ndim": lambda a: ops.asarray(a).ndim,
    "size": lambda a: ops.asarray(a).size,
    "result_type": lambda *arrays_and_dtypes: ops.result_type(*arrays_and_dtypes).numpy,
}
_COUNTERPARTS = {getattr(np, name): function for name, function in _FUNCTIONS.items()}


def __array_function__(self: Any, func: Any, types: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`np.concatenate([x, y])` as `sk.concat`, and so on: NumPy's parameters, a tensor's result."""
    if not all(issubclass(t, (Cell, np.ndarray, np.generic)) for t in types):
        return NotImplemented
    name = f"np.{func.__name__}"
    function = _COUNTERPARTS.get(func)
    if function is None:
        raise _refusal(f"{name} has no counterpart for tensors", "call it on x.numpy()")
    kwargs = _given(name, function, kwargs)
    try:
        bound = signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise _refusal(f"{name}: {error}", "leave it out, or call it on x.numpy()") from None
    return function(*bound.args, **bound.kwargs)


# ----- DLPack, the array namespace, notebooks -----------------------------------------------------

_CPU = (1, 0)  # kDLCPU, and its number
_VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", VERSION)


def __dlpack__(
    self: Any,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A read-only view; a copy for a consumer too old to know of read-only buffers."""
    array = ops.on_host(self, "DLPack")
    if copy is None and (max_version is None or max_version[0] < 1):
        copy = True
    return array.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)


def __dlpack_device__(self: Any) -> tuple[int, int]:
    """Where the buffer lives, in DLPack's terms."""
    return _CPU


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor of the array of another library; copied, since the other can write into its own.

    `copy=False` raises ValueError unless that array is read-only. As `numpy.from_dlpack`.

    >>> import stagekit as sk
    >>> sk.from_dlpack(np.arange(3))
    tensor([0, 1, 2], dtype=int64)
    """
    source = x if isinstance(x, Tensor) else np.from_dlpack(x)
    out: Tensor = ops.asarray(source, device=as_device(device), copy=copy)
    return out


def __array_namespace__(self: Any, *, api_version: str | None = None) -> ModuleType:
    """The module `stagekit`, for code written to the Python array API standard."""
    if api_version is not None and api_version not in _VERSIONS:
        raise ArgumentError(
            f"__array_namespace__: version {api_version!r} is unknown",
            fix=f"use one of {', '.join(_VERSIONS)}",
        ).located(here())
    return sys.modules["stagekit"]


def _repr_html_(self: Any) -> str:
    """The tensor in a notebook: its kind, type, shape, device, and a preview."""
    kind = f"Variable {self.name or ''}".strip() if isinstance(self, Variable) else "Tensor"
    facts = f"{kind}: {self.dtype} {shape_text(self.shape)} on {self.device}"
    preview = np.array2string(ops.on_host(self, "_repr_html_"), separator=", ", threshold=200)
    return f"<div><b>{html.escape(facts)}</b><pre>{html.escape(preview)}</pre></div>"


# ----- copies and pickles: by value, with class, name and attributes ------------------------------


def _state(cell: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """A tensor's own attributes, and its slots."""
    state: Any = object.__getstate__(cell)
    return state[0], state[1]


def __reduce_ex__(self: Any, protocol: Any) -> Any:
    """Everything by value; within one pickle or deepcopy an object stays one object."""
    attributes, slots = _state(self)
    slots = {**slots, "_value": ops.on_host(self, "a pickle or deep copy")}
    return copyreg.__newobj__, (type(self),), (attributes, slots)  # type: ignore[attr-defined]


def __copy__(self: Any) -> Any:
    """Another tensor of the same class, value and attributes; in a trace, still of that trace."""
    if isinstance(self, Variable):
        return Variable(self, self.name)
    plain = ops.alias(self)
    if type(self) is Tensor:
        return plain
    attributes, slots = _state(self)
    twin = copyreg.__newobj__(type(self))  # type: ignore[attr-defined]
    for name, value in {**(attributes or {}), **slots, "_value": plain._value}.items():
        setattr(twin, name, value)
    return twin


for _method in (
    __reduce_ex__,
    __copy__,
    __array_ufunc__,
    __array_function__,
    __dlpack__,
    __dlpack_device__,
    __array_namespace__,
    _repr_html_,
):
    setattr(Tensor, _method.__name__, _method)
Tensor.__array_priority__ = 1000
