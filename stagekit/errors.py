"""Every error and warning of stagekit.

An error says what failed (`message`), where in the user's code (`location`) and what to do (`fix`).
Rules and evaluations raise without a location; the interpreter that runs them adds it (`located`).
Where the user's code called the framework, `hide_frames` takes the framework out of the traceback.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import numpy

from stagekit.settings import config
from stagekit.source import Location, is_framework, is_package

P = ParamSpec("P")
R = TypeVar("R")


class StagekitError(Exception):
    """Base of all errors. `str(error)` is the message, the user's line and the cure.

    >>> print(StagekitError("add: nothing fits", fix="reshape one operand"))
    add: nothing fits
      fix: reshape one operand
    """

    def __init__(
        self, message: str, fix: str | None = None, location: Location | None = None
    ) -> None:
        super().__init__(message, fix, location)
        self.message = message
        self.fix = fix
        self.location = location

    def located(self, location: Location | None) -> Self:
        """This error, at the user's line unless it already names one."""
        if self.location is None and location is not None:
            self.location = location
            self.args = (self.message, self.fix, location)
        return self

    def within(self, op: str) -> Self:
        """This error, named as one of `op`."""
        self.message = f"{op}: {self.message}"
        self.args = (self.message, self.fix, self.location)
        return self

    def __str__(self) -> str:
        at = f"\n  at {self.location}" if self.location else ""
        cure = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.message}{at}{cure}"

    def _render_traceback_(self) -> list[str]:
        """The traceback as IPython and notebooks show it."""
        hide_frames(self)
        return "".join(traceback.format_exception(self)).splitlines()


class ShapeError(StagekitError, ValueError):
    """Shapes or axes do not fit an operation."""


class DTypeError(StagekitError, TypeError):
    """Data types do not fit an operation."""


class ArgumentError(StagekitError, ValueError, TypeError):
    """An argument that is neither a shape nor a data type has a wrong kind or value.

    It is both a ValueError and a TypeError: which of the two, Python and NumPy decide case by case.
    """


class BoundsError(StagekitError, IndexError):
    """An index lies outside its axis."""


class AxisError(ShapeError, BoundsError):
    """A tensor has no such axis: a ValueError and an IndexError, as NumPy's AxisError is."""


class LinAlgError(StagekitError, numpy.linalg.LinAlgError):
    """A matrix is singular, or not positive definite, or a decomposition does not converge."""


class TraceError(StagekitError):
    """A function cannot be traced as it is written."""


class LeakedTensorError(TraceError):
    """A traced value is used after, or outside of, the trace that made it."""


class RetraceError(TraceError):
    """A trace was needed inside `sk.no_retrace()`, or outside a fixed signature."""


class DataDependentError(TraceError):
    """Python asked for a value that only exists at run time."""


class ExportError(StagekitError):
    """A function cannot be written as an artifact."""


class ArtifactError(StagekitError, ValueError):
    """A file is not a valid artifact, or is from a writer this reader does not know."""


class DeviceError(StagekitError, ValueError):
    """A device does not exist here, or operands live on different devices."""


class CheckError(StagekitError, AssertionError):
    """A run-time check or trap was sprung."""


class StagekitWarning(UserWarning):
    """Something a user should know: a lost effect, a fixed size, an eager fallback."""


# ----- tracebacks ---------------------------------------------------------------------------------


def hide_frames(error: BaseException) -> None:
    """Take the framework's frames out of an error's traceback, unless `config.traceback` is "full".

    In `except Exception as error: hide_frames(error); raise` the re-raise adds no entry of its own:
    of a call that does this nothing is left, and a call that succeeds pays nothing. An error that
    is not the framework's own but arose in it (a bug) keeps the frames in which it arose.
    """
    if config.traceback == "full":
        return
    entries = list(_entries(error.__traceback__))
    shown = _users(entries)
    if not isinstance(error, StagekitError):
        last = max((k for k, user in enumerate(shown) if user), default=-1)
        shown[last + 1 :] = [True] * (len(shown) - last - 1)
    if all(shown):
        return
    error.__traceback__ = None
    for entry, show in zip(reversed(entries), reversed(shown), strict=True):
        if show:
            error.__traceback__ = TracebackType(
                error.__traceback__, entry.tb_frame, entry.tb_lasti, entry.tb_lineno
            )


def boundary(function: Callable[P, R]) -> Callable[P, R]:
    """A function that the user calls with code of theirs: its errors show their frames alone."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            hide_frames(error)
            raise

    return call


def _entries(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _users(entries: list[TracebackType]) -> list[bool]:
    """Which entries are the user's: NumPy's and the wrappers' only where the user called them."""
    found: list[bool] = []
    for entry in entries:
        filename = entry.tb_frame.f_code.co_filename
        helper = is_framework(filename) and bool(found) and not found[-1]
        found.append(not (is_package(filename) or helper))
    return found


def _show(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
    """`sys.excepthook` for errors that nobody caught: the one before, on a filtered traceback."""
    hide_frames(error)
    _show_before(kind, error, error.__traceback__)


_show_before, sys.excepthook = sys.excepthook, _show
