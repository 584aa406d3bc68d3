"""What the rules `Op.batch` share: operands with one more axis in front, brought into line.

An operand marked as mapped has the mapped axis in front; a lane is one index of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stagekit.op import OPS

Mapped = Sequence[bool]


def behind(axes: Sequence[int]) -> tuple[int, ...]:
    """Axes of a lane as axes behind the mapped one.

    >>> behind((0, 2))
    (1, 3)
    """
    return tuple([axis + 1 for axis in axes])


def spread(size: Any, x: Any, mapped: bool) -> Any:
    """An operand with the mapped axis in front, repeated where it has none.

    >>> import stagekit as sk
    >>> spread(2, sk.ones(3), False).shape
    (2, 3)
    """
    return x if mapped else OPS["broadcast_to"](x, shape=(size, *x.shape))


def ranked(args: Sequence[Any], mapped: Mapped, rank: int = 0) -> list[Any]:
    """Operands that broadcast as their lanes do: mapped ones of lower rank get axes of size 1.

    >>> import stagekit as sk
    >>> [x.shape for x in ranked([sk.ones((5, 3)), sk.ones((2, 3))], [True, False])]
    [(5, 1, 3), (2, 3)]
    """
    lanes = [x.ndim - m for x, m in zip(args, mapped, strict=True)]
    rank = max(rank, *lanes)
    return [
        OPS["reshape"](x, shape=(x.shape[0], *(1,) * (rank - lane), *x.shape[1:]))
        if m and lane < rank
        else x
        for x, m, lane in zip(args, mapped, lanes, strict=True)
    ]


def pointwise(name: str) -> Callable[..., Any]:
    """The rule of an op on elements, whose operands broadcast."""

    def batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: dict[str, Any]) -> Any:
        return OPS[name](*ranked(args, mapped), **attrs)

    return batch


def along_axis(name: str) -> Callable[..., Any]:
    """The rule of an op along one `axis`, whose operands have one shape beside it."""

    def batch(size: Any, args: Sequence[Any], mapped: Mapped, attrs: dict[str, Any]) -> Any:
        parts = [spread(size, x, m) for x, m in zip(args, mapped, strict=True)]
        return OPS[name](*parts, **attrs | {"axis": attrs["axis"] + 1})

    return batch
