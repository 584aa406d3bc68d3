"""`TensorSpec`, tensors that stand for specs in a trace without values, and fixed signatures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count, repeat
from typing import Any, NamedTuple

import numpy as np

from stagekit import tree
from stagekit.errors import DeviceError, DTypeError, RetraceError, ShapeError
from stagekit.op import current, weak_type
from stagekit.placement import devices
from stagekit.source import here
from stagekit.staging.signature import Call, Names, take_apart
from stagekit.staging.transaction import Copies
from stagekit.tensor import Tensor
from stagekit.types import RANK, WEAK, DType, default_float
from stagekit.types import dtype as as_dtype


class TensorSpec:
    """A tensor argument without its values: shape (None or a name is symbolic), dtype, device.

    Equal names are equal sizes. Immutable; raises ShapeError for a name that is no identifier or a
    negative size, DeviceError for a device that does not exist.

    Source: `tf.TensorSpec`.

    >>> TensorSpec(("n", 3))
    TensorSpec(('n', 3), float32)
    """

    __slots__ = ("device", "dtype", "shape")

    def __init__(self, shape: Any, dtype: Any = default_float, device: str | None = None) -> None:
        self.shape: tuple[int | str | None, ...] = (
            tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        )
        self.dtype: DType = as_dtype(dtype)
        self.device = device
        for n in self.shape:
            if isinstance(n, str) and not n.isidentifier():
                raise ShapeError(f"TensorSpec: {n!r} is no name", fix="use an identifier")
            if not isinstance(n, (str, type(None))) and n < 0:
                raise ShapeError(f"TensorSpec: {n} is no size", fix="use None for any size")
        if device is not None and device not in devices():
            raise DeviceError(f"TensorSpec: no device {device!r} here", fix="use 'cpu'")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorSpec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.dtype, self.device

    def __repr__(self) -> str:
        device = f", {self.device!r}" if self.device else ""
        return f"TensorSpec({self.shape}, {self.dtype}{device})"


# ----- tensors that stand for specs ---------------------------------------------------------------

# Sizes while tracing: unlike each other and unlike sizes that programs are likely to use.
_HINTS = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83)


class Stand(NamedTuple):
    """Arguments with tensors for specs, and by identity of these the sizes that are symbolic."""

    arguments: dict[str, Any]
    sizes: dict[int, tuple[int | str, ...]]


def stand_ins(arguments: Mapping[str, Any]) -> Stand:
    """Tensors of the specs' types, without memory; a named size gets a value of its own."""
    hints: dict[str, int] = {}
    sizes: dict[int, tuple[int | str, ...]] = {}
    specs = [leaf for leaf in tree.leaves(dict(arguments)) if isinstance(leaf, TensorSpec)]
    named = {n for spec in specs for n in spec.shape if isinstance(n, str)}
    unnamed = (name for k in count() if (name := f"n{k}") not in named)

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, TensorSpec):
            return leaf
        wanted = tuple(next(unnamed) if n is None else n for n in leaf.shape)
        for n in wanted:
            if isinstance(n, str):
                hints.setdefault(n, _HINTS[len(hints) % len(_HINTS)] + 100 * (len(hints) // 20))
        shape = tuple(hints[n] if isinstance(n, str) else n for n in wanted)
        cell = Tensor(np.broadcast_to(np.zeros((), leaf.dtype.numpy), shape))
        sizes[id(cell)] = wanted
        return cell

    return Stand({k: tree.map(stand_in, v) for k, v in arguments.items()}, sizes)


# ----- fixed signatures ---------------------------------------------------------------------------


class Signature:
    """The specs that every call must fit in data type, rank and size; Python numbers are weak.

    Raises TypeError where a leaf of the specs is no TensorSpec.
    """

    def __init__(self, function: str, specs: Any) -> None:
        self.function = function
        self.specs: list[Any] = tree.leaves(list(specs) if isinstance(specs, tuple) else [specs])
        for spec in self.specs:
            if not isinstance(spec, TensorSpec):
                raise TypeError(f"function: signature holds {spec!r}\n  fix: give TensorSpecs")

    def fit(self, call: Call, static: frozenset[str]) -> Call:
        """The call with Python numbers as tensors where the signature has tensors."""
        env: dict[str, Any] = {}
        given, extra = iter(self.specs), 0

        def fitted(leaf: Any) -> Any:
            nonlocal extra
            path = next(paths)
            if not isinstance(leaf, Tensor) and weak_type(leaf) in (None, bool):
                return leaf
            spec = next(given, None)
            if spec is None:
                extra += isinstance(leaf, Tensor)
                return leaf
            cell = leaf if isinstance(leaf, Tensor) else self._tensor(path, leaf, spec)
            self._fit(path, cell, spec, env)
            return cell

        copies, arguments = call.copies or Copies(), dict(call.arguments)
        for name, value in call.arguments.items():
            if name not in static:
                paths = iter(tree.paths(tree.flatten(value)[1], name))
                arguments[name] = copies.replace(value, fitted)
        missing = sum(1 for _ in given)
        if extra or missing:
            raise RetraceError(
                f"{self.function}: {len(self.specs) + extra - missing} tensors for a signature of "
                f"{len(self.specs)}",
                fix="call it as its signature says",
            ).located(here())
        return take_apart(arguments, static, call.key[0])._replace(copies=copies)

    def _tensor(self, path: str, number: Any, spec: TensorSpec) -> Tensor:
        weak = weak_type(number) or bool
        if weak in (float, complex) and RANK[WEAK[weak].kind] > RANK[spec.dtype.kind]:
            raise DTypeError(
                f"{self.function}: {path} is a {weak.__name__}, the signature says {spec.dtype}",
                fix="round it, or cast it to an integer",
            ).located(here())
        cell: Tensor = current().constant(number, spec.dtype)
        return cell

    def _fit(self, path: str, cell: Tensor, spec: TensorSpec, env: dict[str, Any]) -> None:
        if cell.dtype is not spec.dtype:
            raise DTypeError(
                f"{self.function}: {path} is {cell.dtype}, the signature says {spec.dtype}",
                fix=f"cast with astype(sk.{spec.dtype})",
            ).located(here())
        fits = cell.ndim == len(spec.shape) and all(
            n is None or (env.setdefault(n, m) == m if isinstance(n, str) else n == m)
            for n, m in zip(spec.shape, cell.shape, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"{self.function}: {path} has shape {cell.shape}, the signature says {spec.shape}",
                fix="call it with such sizes, or widen the signature with None",
            ).located(here())

    def shapes(
        self, names: Names, now: Sequence[Sequence[int]], fixed: Collection[str]
    ) -> tuple[tuple[int | str, ...], ...]:
        """The sizes of a trace for this signature: symbolic where it says None or a name."""
        rows = zip(self.specs, names.sizes, now, strict=True)
        return tuple(
            tuple(map(_size, spec.shape, own, sizes, repeat(fixed))) for spec, own, sizes in rows
        )


def _size(wanted: Any, name: str, now: int, fixed: Collection[str]) -> int | str:
    chosen = name if wanted is None else wanted
    return now if chosen in fixed else chosen
