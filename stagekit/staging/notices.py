"""What a staged function tells its user, each thing once: warnings that name a line and a cure."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from stagekit.errors import StagekitWarning
from stagekit.source import stack_level
from stagekit.staging.python.paths import Path
from stagekit.staging.trace import Entry, line_of
from stagekit.symbolic import same

_LARGE = 1_000_000


class Notices:
    """The warnings of one function; `of` looks at a finished trace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._told: set[Any] = set()
        self._values: dict[Path, list[Any]] = {}

    def of(self, entry: Entry) -> None:
        """Warn of what a trace lost, fixed or froze."""
        self._effects(entry)
        if entry.eager is not None and not entry.effects:
            self._left(entry.eager)
        self._fixed(entry)
        self._numbers(entry)
        self._constants(entry)

    def refused(self, error: Exception, names: Iterable[str]) -> None:
        """Warn of sizes or numbers that Python took plain only."""
        text = str(error).partition("\n")[0]
        self._tell(
            ("refused", type(error), text),
            f"a symbolic size or number ({', '.join(names)}) was refused, so each value costs a "
            f"trace: {type(error).__name__}: {text}. Use tensor arithmetic there, or int(...).",
        )

    def _tell(self, key: Any, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            warnings.warn(f"{self.name}: {text}", StagekitWarning, stacklevel=stack_level())

    def _effects(self, entry: Entry) -> None:
        for effect in entry.effects:
            at = line_of(effect)
            self._tell(
                ("effect", effect.path, at),
                f"{effect.text} at {at}: a side effect that a graph cannot repeat, so such calls "
                "run eagerly.",
            )

    def _left(self, left: Any) -> None:
        if left.line is None:
            what, cure = left.why, "Return tensors and containers of tensors."
        else:
            what = f"{left.why} at {left.line} needs a value of the trace"
            cure = "Return the value, or use where(...)."
        self._tell(("left", left), f"{what}, so such calls run eagerly. {cure}")

    def _fixed(self, entry: Entry) -> None:
        for fixed in entry.facts.fixed:
            self._tell(
                ("fixed", fixed.location, str(fixed.expr)),
                f"Python needs the plain value of {fixed.expr} at {fixed.location}, so each value "
                "costs a trace. Use x.shape[0] and tensor arithmetic instead.",
            )

    def _numbers(self, entry: Entry) -> None:
        """A captured number that keeps changing costs a trace each time."""
        for guard in entry.guards:
            if guard.kind != "number":
                continue
            known = self._values.setdefault(guard.path, [])
            if len(known) < 3 and not any(same(guard.value, old) for old in known):
                known.append(guard.value)
            if len(known) == 3:
                self._tell(
                    ("values", guard.path),
                    f"{guard.path} has had 3 values ({', '.join(map(repr, known))}) and each costs "
                    "a trace. Pass it as an argument, or make it a Variable.",
                )

    def _constants(self, entry: Entry) -> None:
        for constant in entry.constants:
            if constant.nbytes > _LARGE:
                self._tell(
                    ("constant", constant.line),
                    f"NumPy computed an array of {constant.nbytes} bytes at {constant.line}, which "
                    "is a constant of the trace. Compute it outside and pass it, or use sk's ops.",
                )
