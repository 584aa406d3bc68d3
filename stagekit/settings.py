"""Process-wide configuration: `sk.config`, read once from `STAGEKIT_*` variables at import.

Everything here that can change what a trace means is part of a signature's key (see `ambient`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field


def _variable(name: str, default: str = "") -> str:
    return os.environ.get(f"STAGEKIT_{name}", default)


@dataclass
class Config:
    """The settings object `sk.config`; assign to its fields.

    disable        run every staged function eagerly (`STAGEKIT_DISABLE=1`)
    traceback      "filtered" or "full": show the framework's own frames (`STAGEKIT_TRACEBACK`)
    log            what to print to stderr: trace, rewrite (`STAGEKIT_LOG=trace,rewrite`)
    dump           folder into which every trace writes its graphs, or empty (`STAGEKIT_DUMP`)
    warn_float64   warn where float64 enters float32 arithmetic, naming the line
    trap           None, or "nan": raise CheckError at the operation that makes a NaN

    Source: `docs/footguns.md` and `docs/boundary.md` say what each is for.

    >>> Config().traceback
    'filtered'
    """

    disable: bool = field(default_factory=lambda: _variable("DISABLE") not in ("", "0"))
    traceback: str = field(default_factory=lambda: _variable("TRACEBACK", "filtered"))
    log: str = field(default_factory=lambda: _variable("LOG"))
    dump: str = field(default_factory=lambda: _variable("DUMP"))
    warn_float64: bool = False
    trap: str | None = None


config = Config()
