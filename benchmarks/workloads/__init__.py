"""The workloads of native CPU code, a module each, in the order of the table.

A module has a `TITLE`; `TOLERANCE`, the largest difference allowed between two contenders'
results, as a share of the largest element; `contenders()`, which gives a maker of `Work` for each
contender by name; and, where memory should be the limit, `TRAFFIC`, the bytes that must be read
and written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NAMES = (
    "black_scholes",
    "bias_gelu",
    "softmax_xent",
    "layer_norm",
    "mlp_adam",
    "tiny_sgd",
    "cnn_sgd",
    "transformer_adam",
    "gru_sgd",
    "theano_mlp",
    "leapfrog",
    "one_op",
    "gemm",
)


@dataclass(frozen=True)
class Work:
    """A contender's workload: `step` waits for, and gives, its tensors; `state` those it writes."""

    step: Callable[[], Any]
    state: Callable[[], Any] = tuple


@dataclass(frozen=True)
class Report:
    """Seconds of each of the first calls, what the last of them gave, and bytes of peak memory."""

    first: list[float]
    arrays: list[np.ndarray]
    peak: int


# Sets a contender up, in its process.
Make = Callable[[], Work]
