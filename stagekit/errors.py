"""Every error and warning of stagekit.

An error says what failed (`message`), where in the user's code (`location`) and what to do (`fix`).
Rules and evaluations raise without a location; the interpreter that runs them adds it once (`located`).
"""

from __future__ import annotations

from typing import Self

from stagekit.source import Location


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

    def __str__(self) -> str:
        at = f"\n  at {self.location}" if self.location else ""
        cure = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.message}{at}{cure}"


class ShapeError(StagekitError, ValueError):
    """Shapes or axes do not fit an operation."""


class DTypeError(StagekitError, TypeError):
    """Data types do not fit an operation."""


class BoundsError(StagekitError, IndexError):
    """An index lies outside its axis."""


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
