"""The text of one generated kernel, as `ConcreteFunction.kernels` lists it."""

from __future__ import annotations

from typing import NamedTuple


class Listing(NamedTuple):
    """A kernel's name, the backend that generated it ("cpu" or "cuda"), and its source.

    >>> print(Listing("kernel0", "cuda", "// the source"))
    // the source
    """

    name: str
    backend: str
    source: str

    def __str__(self) -> str:
        return self.source
