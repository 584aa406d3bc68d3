"""The text of one generated kernel, as `ConcreteFunction.kernels` lists it."""

from __future__ import annotations

from typing import NamedTuple

from stagekit.kernels.machine import engine


class Listing(NamedTuple):
    """A kernel's name, the backend that generated it ("cpu" or "cuda"), its source there, and its
    `loops`: what it does, as a loop nest, which is what prints where it is known.

    >>> print(Listing("kernel0", "cuda", "// the source"))
    // the source
    """

    name: str
    backend: str
    source: str
    loops: str = ""

    @property
    def llvm(self) -> str:
        """The source as LLVM IR. Raises AttributeError for another backend."""
        if self.backend != "cpu":
            raise AttributeError(f"{self.name} for {self.backend} has no LLVM IR, only its source")
        return self.source

    @property
    def assembly(self) -> str:
        """The instructions of this CPU that the LLVM IR becomes; compiled when asked for."""
        return engine.assembly(self.llvm)

    def __str__(self) -> str:
        return self.loops or self.source
