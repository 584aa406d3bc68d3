"""How a value leaves a tensor: the one way for `bool`, `int`, `item`, `numpy`, formatting, ...

Eagerly it is the buffer. While staging the interpreter decides: guard, run eagerly with a warning,
or refuse.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from stagekit.errors import ShapeError
from stagekit.op import Cell, current
from stagekit.source import here
from stagekit.types import shape_text


def on_host(x: Any, why: str) -> np.ndarray[Any, Any]:
    """The elements as a read-only NumPy array; `why` says in a warning what needs them.

    >>> import stagekit as sk
    >>> on_host(sk.asarray([1, 2]), "an example")
    array([1, 2])
    """
    return current().leave(x, why)


def scalar(x: Any, why: str) -> Any:
    """The one element as a Python scalar; ShapeError where there is not exactly one.

    >>> import stagekit as sk
    >>> scalar(sk.asarray([2.5]), "an example")
    2.5
    """
    if x.size != 1:
        raise ShapeError(
            f"{why}: a tensor of shape {shape_text(x.shape)} is no scalar",
            fix="use any(), all(), or index it",
        ).located(here())
    return on_host(x, why).item()


def host_integers(op: str, x: Any) -> list[int]:
    """A list or tensor of integers as Python ints.

    >>> import stagekit as sk
    >>> host_integers("repeat", sk.asarray([1, 2]))
    [1, 2]
    """
    if isinstance(x, Cell):
        return [operator.index(n) for n in on_host(x, op).reshape(-1).tolist()]
    return [operator.index(n) for n in x]
