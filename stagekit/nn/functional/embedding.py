"""Class indices as rows: of a table, or of zeros and a one."""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit.errors import DTypeError, ShapeError
from stagekit.source import here
from stagekit.types import default_float, default_int, shape_text


def one_hot(indices: Any, num_classes: int, dtype: Any = None) -> Any:
    """1 at the index, 0 elsewhere, along a new last axis. Source: `torch.nn.functional.one_hot`.

    (...) -> (..., num_classes), of the default float; `dtype` names another type. An index that is
    no class gives zeros only, as in `jax.nn.one_hot`. Raises DTypeError for indices that are no
    integers.

    >>> import stagekit as sk
    >>> sk.nn.functional.one_hot(sk.asarray([1]), 3)
    tensor([[0., 1., 0.]], dtype=float32)
    """
    indices = ops.asarray(indices)
    _require_integers("one_hot", indices)
    indices = ops.astype(indices, default_int, copy=False)
    hit = ops.expand_dims(indices, axis=-1) == ops.arange(num_classes)
    return ops.astype(hit, default_float if dtype is None else dtype)


def embedding(indices: Any, weight: Any) -> Any:
    """The rows of the table `weight` at integer `indices`. Source: `torch.nn.functional.embedding`.

    Raises BoundsError for an index that is no row (negative ones count from no end), ShapeError
    for a table that has not two axes, DTypeError for indices that are no integers.

    >>> import stagekit as sk
    >>> sk.nn.functional.embedding(sk.asarray([1, 1]), sk.asarray([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[3., 4.],
            [3., 4.]], dtype=float32)
    """
    indices, weight = ops.asarray(indices), ops.asarray(weight)
    if weight.ndim != 2:
        raise ShapeError(
            f"embedding: weight has the shape {shape_text(weight.shape)}",
            fix="give (rows, features)",
        ).located(here())
    _require_integers("embedding", indices)
    rows = ops.place(indices, size=weight.shape[0], what="embedding: an index")
    return ops.take(weight, rows, axis=0)


def _require_integers(op: str, indices: Any) -> None:
    if indices.dtype.kind not in ("int", "uint"):
        raise DTypeError(f"{op}: indices are {indices.dtype}", fix="give integers").located(here())
