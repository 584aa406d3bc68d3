"""Scratch memory of a plan: an arena for each call in flight, kept for the next one.

Machine code takes and gives arenas through the list at `Arenas.address`; others by `taking`. Both
keep lists of their own, which are touched under the GIL.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

HUGE = 1 << 21  # from here on an arena begins on a huge page


class Arenas:
    """The arenas of one plan. Their memory is freed with this object.

    >>> arenas = Arenas()
    >>> with arenas.taking(1000) as first, arenas.taking(1000) as second:
    ...     first != second, first % 64, second % 64
    (True, 0, 0)
    >>> with arenas.taking(500) as third:
    ...     third in (first, second)
    True
    """

    def __init__(self) -> None:
        self._head = np.zeros(1, np.int64)
        self._free: list[np.ndarray[Any, Any]] = []
        weakref.finalize(self, _free_all, self._head).atexit = False

    @property
    def address(self) -> int:
        """Where the address of the first free arena lies. An arena that is free begins with the
        address of the next one, or 0, and its own capacity; `free` of the C library frees it.
        """
        return int(self._head.ctypes.data)

    @contextmanager
    def taking(self, size: int) -> Iterator[int]:
        """The address of an arena of at least `size` bytes, on a line of the cache."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        alignment = HUGE if size >= HUGE else 64
        if memory.size < size + alignment:
            memory = np.empty(size + alignment, np.uint8)
        try:
            yield int(memory.ctypes.data) + -int(memory.ctypes.data) % alignment
        finally:
            self._free.append(memory)


def _free_all(head: np.ndarray[Any, Any]) -> None:
    """Free what is on the list of machine code."""
    if not head[0]:
        return
    free = ctypes.CDLL(None).free
    free.argtypes, free.restype = [ctypes.c_void_p], None
    while head[0]:
        arena = int(head[0])
        head[0] = ctypes.c_int64.from_address(arena).value
        free(arena)
