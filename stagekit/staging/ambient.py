"""Switches around a call: run staged functions as plain Python, refuse new traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

from stagekit.errors import RetraceError
from stagekit.settings import config
from stagekit.source import here

eagerly_variable: ContextVar[bool] = ContextVar("eagerly", default=False)
_forbidden: ContextVar[bool] = ContextVar("no_retrace", default=False)


class run_eagerly:
    """`sk.run_eagerly(True)` for the process, `with sk.run_eagerly():` for this thread.

    Staged functions then run as the plain Python they were made of. Source:
    `tf.config.run_functions_eagerly`.

    >>> import stagekit as sk
    >>> with sk.run_eagerly():
    ...     sk.function(lambda x: x + 1)(sk.zeros(()))
    tensor(1., dtype=float32)
    """

    def __init__(self, enabled: bool | None = None) -> None:
        if enabled is not None:
            config.disable = enabled

    def __enter__(self) -> Self:
        self._token = eagerly_variable.set(True)
        return self

    def __exit__(self, *exc: object) -> None:
        eagerly_variable.reset(self._token)


def runs_eagerly() -> bool:
    """Whether staging is off here and now."""
    return config.disable or eagerly_variable.get()


@contextmanager
def no_retrace() -> Iterator[None]:
    """A context in which a call that would need a trace raises RetraceError saying why.

    The trace of a derivative counts too. Source: `docs/boundary.md`.

    >>> import stagekit as sk
    >>> f = sk.function(lambda x: x + 1)
    >>> _ = f(sk.zeros(2))
    >>> with sk.no_retrace():
    ...     f(sk.zeros(2)).shape
    (2,)
    """
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def require_trace(name: str, cause: object) -> None:
    """Raise RetraceError where traces are forbidden."""
    if _forbidden.get():
        raise RetraceError(
            f"{name}: a trace is needed inside no_retrace(): {cause}",
            fix="call it once before with such arguments, or leave the context out",
        ).located(here())
