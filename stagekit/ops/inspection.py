"""What a program may ask of the library without a tensor, as the array API standard says it."""

from __future__ import annotations

from typing import Any

import stagekit.ops as ops
from stagekit.placement import as_device
from stagekit.placement import devices as found_devices
from stagekit.types import DTYPES, DType, default_complex, default_float, default_int

VERSION = "2025.12"

# The standard has no other types of 16 bits than the integers.
_STANDARD = {name: d for name, d in DTYPES.items() if name not in ("float16", "bfloat16")}
_MAX_DIMENSIONS = 64  # of NumPy


class Info:
    """The functions of `__array_namespace_info__()`."""

    def capabilities(self) -> dict[str, Any]:
        """What is supported: everything; at most 64 axes.

        >>> Info().capabilities()["boolean indexing"]
        True
        """
        return {
            "boolean indexing": True,
            "data-dependent shapes": True,
            "max dimensions": _MAX_DIMENSIONS,
        }

    def default_device(self) -> str:
        """The device on which tensors are made.

        >>> Info().default_device()
        'cpu'
        """
        return as_device(None)

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """The types of Python numbers and of indices. Raises DeviceError.

        >>> Info().default_dtypes()["real floating"]
        float32
        """
        as_device(device)
        return {
            "real floating": default_float,
            "complex floating": default_complex,
            "integral": default_int,
            "indexing": default_int,
        }

    def devices(self) -> tuple[str, ...]:
        """The devices that exist here.

        >>> Info().devices()
        ('cpu',)
        """
        return tuple(found_devices())

    def dtypes(self, *, device: str | None = None, kind: Any = None) -> dict[str, DType]:
        """The types of the standard by name, of one kind or of a tuple of kinds.

        Raises ArgumentError for a kind that is not the standard's, DeviceError.

        >>> Info().dtypes(kind="real floating")
        {'float32': float32, 'float64': float64}
        """
        as_device(device)
        return {n: d for n, d in _STANDARD.items() if kind is None or ops.isdtype(d, kind)}


def array_namespace_info() -> Info:
    """What this library offers, for code written to the array API standard.

    >>> import stagekit as sk
    >>> sk.__array_namespace_info__().default_dtypes()["indexing"]
    int64
    """
    return Info()


def broadcast_shapes(*shapes: Any) -> tuple[Any, ...]:
    """The common shape of shapes by broadcasting, as `numpy.broadcast_shapes`; else ShapeError.

    >>> import stagekit as sk
    >>> sk.broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    sizes = [ops.as_shape("broadcast_shapes", shape) for shape in shapes]
    return ops.located_shapes("broadcast_shapes", *sizes)
