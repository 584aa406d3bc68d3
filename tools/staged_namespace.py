"""The namespace of stagekit with every function wrapped in `sk.function`, a module for the public
conformance suite of the array API standard; `tools/conformance.py` runs it.

Not wrapped: what gives no tensor (the inspection functions), and what has a result whose size
depends on the data, which a graph cannot hold.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import stagekit as sk

INSPECTION = {
    "__array_namespace_info__", "broadcast_shapes", "can_cast", "finfo", "from_dlpack", "iinfo",
    "isdtype", "result_type",
}  # fmt: skip
DATA_DEPENDENT = {"nonzero", "repeat", "unique_all", "unique_counts", "unique_inverse"}
DATA_DEPENDENT |= {"unique_values"}


def staged(function: Any) -> Any:
    """`function` as a staged one, each call made twice: traced, and replayed."""
    inner = sk.function(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        inner(*args, **kwargs)
        return inner(*args, **kwargs)

    call.inner = inner  # type: ignore[attr-defined]
    return call


def _wrapped(name: str, value: Any) -> Any:
    plain = name in INSPECTION | DATA_DEPENDENT or isinstance(value, type)
    if plain or not callable(value) or isinstance(value, sk.types.DType):
        return value
    return staged(value)


def _extension(module: Any) -> SimpleNamespace:
    return SimpleNamespace(**{n: _wrapped(n, getattr(module, n)) for n in module.__all__})


_STANDARD = [name for name in sk.__all__ if name in sk.PUBLIC["stagekit.ops"].split()]
linalg, fft = _extension(sk.linalg), _extension(sk.fft)


def __getattr__(name: str) -> Any:
    value = getattr(sk, name)
    if name in _STANDARD:
        value = _wrapped(name, value)
    globals()[name] = value
    return value
