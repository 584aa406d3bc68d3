"""CUDA C on the CPU: sources compiled by g++ behind `cuda_emulator.h`, and run on NumPy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.kernels.cuda.printer import THREADS, Source

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")

_ENTRY = """
extern "C" void run_{name}(unsigned blocks, unsigned threads, bool backwards, void **args) {{
  emulator::launch({name}, blocks, threads, backwards, args);
}}
"""


class Emulator:
    """Kernels, all in one library; their names must differ."""

    def __init__(self, sources: Sequence[Source], folder: Path) -> None:
        text = ['#include "cuda_emulator.h"\n', *(s.source for s in sources)]
        text += [_ENTRY.format(name=s.name) for s in sources]
        source, self.path = folder / "kernels.cpp", folder / "kernels.so"
        source.write_text("".join(text), encoding="utf-8")
        compiled(source, self.path)
        self.library = ctypes.CDLL(str(self.path))

    def run(
        self, source: Source, buffers: Mapping[str, np.ndarray[Any, Any]],
        sizes: Mapping[str, int] | None = None, blocks: int = 3, backwards: bool = False,
    ) -> int:  # fmt: skip
        """Run a kernel on arrays; the error word."""
        error = ctypes.c_int64(0)
        arguments: list[Any] = [
            ctypes.c_void_p(buffers[b.name].ctypes.data) for b in source.kernel.buffers
        ]
        arguments += [ctypes.c_int64((sizes or {})[n]) for n in source.kernel.sizes]
        if source.kernel.checks:
            arguments.append(ctypes.c_void_p(ctypes.addressof(error)))
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        entry = getattr(self.library, f"run_{source.name}")
        entry(ctypes.c_uint(blocks), ctypes.c_uint(THREADS), ctypes.c_bool(backwards), places)
        return error.value


def compiled(source: Path, library: Path) -> None:
    """Compile a translation unit to a library as the GPU would: no contraction."""
    assert COMPILER is not None
    command = [COMPILER, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
               f"-I{HERE}", str(source), "-o", str(library)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
