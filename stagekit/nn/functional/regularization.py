"""Dropout: elements left out at random in training."""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit import random
from stagekit.errors import ArgumentError
from stagekit.nn.functional.operands import floating
from stagekit.source import here


def dropout(x: Any, p: float = 0.5, training: bool = True, generator: Any = None) -> Any:
    """Each element 0 with probability `p`, else divided by 1 - p; without `training` `x` itself.
    Source: `torch.nn.functional.dropout`, Srivastava et al. 2014.

    Draws one `sk.random.bernoulli` of the shape of `x` from `generator`, or from the default one.
    Raises ArgumentError for a `p` outside of [0, 1].

    >>> import stagekit as sk
    >>> sk.nn.functional.dropout(sk.ones(4), 0.5, generator=sk.random.Generator(0)).shape
    (4,)
    """
    x = floating("dropout", x)
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p is {p!r}", fix="give a probability").located(here())
    if not training:
        return ops.alias(x)
    kept = random.bernoulli(1.0 - p, shape=x.shape, generator=generator)
    return ops.where(kept, x / (1.0 - p), 0.0) if p < 1 else ops.zeros_like(x)
