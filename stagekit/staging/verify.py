"""`verify=`: the staged result held against the eager one, as closely as docs/equality.md says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stagekit import tree
from stagekit.errors import CheckError
from stagekit.narrow import BFLOAT16, widened
from stagekit.source import here
from stagekit.tensor import Tensor

_ULPS = 64


def compare(name: str, expected: Sequence[Any], found: Sequence[Any]) -> None:
    """Raise CheckError naming the first result that differs between the stages."""
    for k, (want, got) in enumerate(zip(expected, found, strict=True)):
        if want.shape != got.shape or want.dtype != got.dtype:
            _refuse(name, k, f"{got.dtype} {got.shape} for {want.dtype} {want.shape}")
        exact = want.dtype.kind not in "fc"
        tolerance = 0.0 if exact else _ULPS * float(np.finfo(want.dtype).eps)
        if not np.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True):
            _refuse(name, k, f"largest difference {np.nanmax(np.abs(got - want))}")


def _refuse(name: str, k: int, what: str) -> None:
    raise CheckError(
        f"{name}: result {k} differs between the stages: {what}",
        fix="report it, with the text of explain() and of the graph",
    ).located(here())


def arrays_of(out: Any) -> list[Any]:
    """The arrays of the tensors in a result."""
    leaves = [x._value for x in tree.leaves(out) if isinstance(x, Tensor)]
    return [widened(x) if x.dtype == BFLOAT16 else x for x in leaves]
