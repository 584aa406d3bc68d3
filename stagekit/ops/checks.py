"""Ops that check values and give them unchanged; the error names what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stagekit.errors import BoundsError
from stagekit.op import Op, Speller
from stagekit.ops.elementwise import integer
from stagekit.types import TensorType, default_int


def _place_value(xp: Any, x: Any, *, size: int, what: str) -> Any:
    outside = (x < 0) | (x >= size)
    if outside.any():
        found = int(x[outside].flat[0]) if x.ndim else int(x)
        raise BoundsError(
            f"{what} is {found}, of {size}",
            fix=f"use 0 to {size - 1}; none counts from the end" if size else "there is none",
        )
    return x.astype(default_int.numpy)


def _place_element(
    e: Speller, out: TensorType, idx: Sequence[Any], x: Any, *, size: Any, what: str
) -> Any:
    """An index counts from the end where it is negative; here it is one that is too large."""
    value = e.cast(x(*idx), default_int)
    negative = e.apply("less", value, e.constant(0, default_int))
    checked = e.apply("where", negative, e.number(size, default_int), value)
    return e.number(e.index(checked, size), default_int)


place: Op = Op(
    "place",
    infer=lambda x, *, size, what: x.with_dtype(default_int),
    evaluate=_place_value,
    element=_place_element,
    dtypes=integer,
    nondifferentiable="integers have no derivative",
    batch=lambda size, args, mapped, attrs: place(*args, **attrs),
    checks=True,
    family="checks",
    doc="""Integers from 0 to `size` - 1 as they are, in int64; BoundsError for any other.

    `what` says in the error what they are. As the labels of `torch.nn.functional.nll_loss`.

    >>> import stagekit.ops as ops
    >>> ops.place(ops.asarray([0, 2]), size=3, what="f: a label")
    tensor([0, 2], dtype=int64)
    """,
)
