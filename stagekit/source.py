"""The user's source lines: the one place that walks Python frames.

`here()` is the innermost frame outside the framework; `attributed(location)` makes everything run
inside it (the backward of an operation, a replay) count as done at that line.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import FrameType
from typing import NamedTuple

import numpy


class Location(NamedTuple):
    """A line of the user's code.

    >>> print(Location("/home/me/train.py", 12, "step"))
    train.py:12 in step
    """

    filename: str
    lineno: int
    function: str

    def __str__(self) -> str:
        return f"{os.path.basename(self.filename)}:{self.lineno} in {self.function}"

    @property
    def text(self) -> str:
        """The source line itself, empty where the source is not at hand."""
        return linecache.getline(self.filename, self.lineno).strip()


_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_NUMPY = os.path.dirname(os.path.abspath(numpy.__file__))
_OPTREE = os.path.join(os.path.dirname(_NUMPY), "optree")
_OWN = (_PACKAGE + os.sep, "<stagekit ")
_TRANSPARENT = (*_OWN, _NUMPY + os.sep, _OPTREE + os.sep)
_STANDARD = tuple(
    os.path.join(os.path.dirname(os.__file__), name)
    for name in ("functools.py", "contextlib.py", "copy.py", "threading.py")
)

_inherited: ContextVar[Location | None] = ContextVar("inherited", default=None)


@cache
def is_framework(filename: str) -> bool:
    """True for files whose frames are not the user's: stagekit, NumPy, optree, wrappers."""
    return filename.startswith(_TRANSPARENT) or filename in _STANDARD


def is_package(filename: str) -> bool:
    """True for the package's own files, and for code that it generates."""
    return filename.startswith(_OWN)


def user_frame() -> FrameType | None:
    """The innermost frame that runs the user's code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_framework(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def here() -> Location | None:
    """The user's line that is running now, or the line this work is attributed to."""
    inherited = _inherited.get()
    if inherited is not None:
        return inherited
    frame = user_frame()
    if frame is None:
        return None
    return Location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


@contextmanager
def attributed(location: Location | None) -> Iterator[None]:
    """Everything inside counts as done at `location`; None restores the walk over frames."""
    token = _inherited.set(location)
    try:
        yield
    finally:
        _inherited.reset(token)


def stack_level() -> int:
    """The `stacklevel` with which `warnings.warn`, called by the caller, points at the user."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_framework(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    return level
