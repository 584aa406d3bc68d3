"""`vmap`: a function of one example made into one of many, without a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import stagekit.ops as ops
from stagekit import tree
from stagekit.autodiff.batch import Batch
from stagekit.autodiff.gradients import named
from stagekit.autodiff.tape import is_tensor
from stagekit.errors import ArgumentError, ShapeError
from stagekit.op import current, using, weak_type
from stagekit.source import here
from stagekit.symbolic import Number
from stagekit.types import same_size, shape_text


def vmap(fn: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """`fn` for every index of an axis of its arguments at once, the results stacked along an axis.

    `in_axes` says for each argument which axis is mapped: an int (negative: from the end), None
    (every lane gets the argument as it is), or a tuple with one of these, or a tree of them, for
    each argument; keyword arguments are mapped over axis 0. `out_axes` says likewise where the
    mapped axis stands in the results; a result that depends on no mapped argument is repeated, and
    given as it is where its axis is None. `fn` runs once and sees shapes without the axis. It
    composes with itself, with derivatives and with staging; a staged `fn` runs as Python inside
    (stage the whole instead: `sk.function(sk.vmap(fn))`). Variables are shared: what is assigned
    to them must not depend on a mapped argument. A tensor that outlives the call is the stack of
    all lanes.

    Raises ShapeError where an axis does not exist or sizes disagree, ArgumentError where nothing
    is mapped, TraceError for a mapped value that goes into a tensor from outside or a Variable,
    DataDependentError where Python asks for its value. Source: `jax.vmap`.

    >>> import stagekit as sk
    >>> sk.vmap(sk.matmul, in_axes=(0, None))(sk.ones((4, 2, 3)), sk.ones((3, 5))).shape
    (4, 2, 5)
    """

    def mapped(*args: Any, **kwargs: Any) -> Any:
        entries = list(_entries(args, kwargs, in_axes))
        batch = Batch(current(), _size(entries))
        leaves, spec = tree.flatten((args, kwargs))
        for k, entry in enumerate(entries):
            if entry.axis is not None:
                front = ops.moveaxis(entry.tensor, entry.axis, 0) if entry.axis else entry.tensor
                leaves[k] = batch.entering(front)
        args, kwargs = tree.unflatten(spec, leaves)
        with using(batch):
            out = fn(*args, **kwargs)
        return _results(batch, out, out_axes)

    return named(mapped, fn, "vmap")


# ----- arguments ----------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A leaf of the arguments: how the user writes it, and its mapped axis, None for none."""

    path: str
    tensor: Any = None
    axis: int | None = None


def _entries(args: Any, kwargs: Any, in_axes: Any) -> Iterator[_Entry]:
    given = tree.flatten(args)[1]
    axes = list(in_axes) if isinstance(in_axes, (tuple, list)) else [in_axes] * len(args)
    found = _axes_of("in_axes", tuple(axes), given, "the arguments")
    found += [0] * len(tree.leaves(kwargs))
    paths = tree.paths(given, "args") + tree.paths(tree.flatten(kwargs)[1], "kwargs")
    for leaf, axis, path in zip(tree.leaves((args, kwargs)), found, paths, strict=True):
        yield _Entry(path) if axis is None else _entry(path, leaf, axis)


def _axes_of(name: str, axes: Any, spec: tree.Spec, what: str) -> list[Any]:
    """The axis of each leaf."""
    try:
        found = tree.prefixed(axes, spec)
    except ValueError:
        raise ArgumentError(
            f"vmap: {name}={axes!r} does not fit {what}, {tree.outline(spec)}",
            fix="give an int or None, or a tree of these that ends at the leaves or above",
        ).located(here()) from None
    for axis in found:
        if axis is not None and type(axis) is not int:
            raise ArgumentError(
                f"vmap: {name} holds {axis!r}", fix="an axis is an int, or None"
            ).located(here())
    return found


def _is_array(obj: Any) -> bool:
    return is_tensor(obj) or hasattr(obj, "__array__") or weak_type(obj) is not None


def _entry(path: str, leaf: Any, axis: int) -> _Entry:
    if not _is_array(leaf):
        raise ArgumentError(
            f"vmap: {path} is {type(leaf).__name__}, not a tensor, and has no axis to map",
            fix="in_axes says None for what every lane gets as it is",
        ).located(here())
    x = ops.asarray(leaf)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(
            f"vmap: {path} of shape {shape_text(x.shape)} has no axis {axis} to map",
            fix="in_axes says which axis, None for what every lane gets as it is",
        ).located(here())
    return _Entry(path, x, axis % x.ndim)


def _size(entries: Sequence[_Entry]) -> Any:
    """The one size of all mapped axes."""
    mapped = [entry for entry in entries if entry.axis is not None]
    if not mapped:
        raise ArgumentError(
            "vmap: no argument is mapped", fix="give an int for one of them in in_axes"
        ).located(here())
    sizes = [entry.tensor.shape[entry.axis] for entry in mapped]
    if not all(same_size(size, sizes[0]) for size in sizes):
        listed = ", ".join(
            f"{entry.path} has {shape_text((size,))[1:-2]} (axis {entry.axis})"
            for entry, size in zip(mapped, sizes, strict=True)
        )
        raise ShapeError(
            f"vmap: the mapped axes differ in size: {listed}",
            fix="they must be equal; in_axes says which axes are mapped",
        ).located(here())
    return sizes[0]


# ----- results ------------------------------------------------------------------------------------


def _results(batch: Batch, out: Any, out_axes: Any) -> Any:
    leaves, spec = tree.flatten(out)
    axes = _axes_of("out_axes", out_axes, spec, "the results")
    paths = tree.paths(spec, "out")
    found = [_result(batch, *each) for each in zip(paths, leaves, axes, strict=True)]
    return tree.unflatten(spec, found)


def _result(batch: Batch, path: str, leaf: Any, axis: int | None) -> Any:
    """A leaf of the result with the mapped axis at its place."""
    if axis is None:
        if is_tensor(leaf) and batch.maps(leaf):
            raise ArgumentError(
                f"vmap: {path} depends on a mapped argument, and out_axes says None for it",
                fix="give the axis along which the lanes are stacked",
            ).located(here())
        return leaf
    if not _is_array(leaf) and not isinstance(leaf, Number):
        raise ArgumentError(
            f"vmap: {path} is {type(leaf).__name__}, not a tensor, and cannot be stacked",
            fix="return tensors, or say None for it in out_axes",
        ).located(here())
    stack = batch.leaving(ops.asarray(leaf))
    if not -stack.ndim <= axis < stack.ndim:
        raise ShapeError(
            f"vmap: {path} of shape {shape_text(stack.shape[1:])} has no place {axis} for the "
            "mapped axis",
            fix=f"out_axes goes from {-stack.ndim} to {stack.ndim - 1}",
        ).located(here())
    return ops.moveaxis(stack, 0, axis) if axis % stack.ndim else stack
