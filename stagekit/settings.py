"""Process-wide configuration: `sk.config`, read once from `STAGEKIT_*` variables at import.

Everything here that can change what a trace means is part of a signature's key (see `ambient`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field


def _default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "stagekit")


def _variable(name: str, default: str = "") -> str:
    return os.environ.get(f"STAGEKIT_{name}", default)


@dataclass
class Config:
    """The settings object `sk.config`; assign to its fields.

    disable        run every staged function eagerly (`STAGEKIT_DISABLE=1`)
    traceback      "filtered" or "full": show the framework's own frames (`STAGEKIT_TRACEBACK`)
    log            loggers to print: trace, rewrite, codegen, cache (`STAGEKIT_LOG=trace,cache`)
    dump           folder into which every trace writes its graphs, or empty (`STAGEKIT_DUMP`)
    cache_dir      folder for compiled code (`STAGEKIT_CACHE_DIR`)
    num_threads    worker threads of native code, 0 for one a core (`STAGEKIT_NUM_THREADS`)
    sync_errors    check a GPU's error word after each call (`STAGEKIT_SYNC_ERRORS`)
    warn_float64   warn where float64 enters float32 arithmetic, naming the line
    trap           None, or "nan": raise CheckError at the operation that makes a NaN

    >>> Config().traceback
    'filtered'
    """

    disable: bool = field(default_factory=lambda: _variable("DISABLE") not in ("", "0"))
    traceback: str = field(default_factory=lambda: _variable("TRACEBACK", "filtered"))
    log: str = field(default_factory=lambda: _variable("LOG"))
    dump: str = field(default_factory=lambda: _variable("DUMP"))
    cache_dir: str = field(default_factory=lambda: _variable("CACHE_DIR") or _default_cache())
    num_threads: int = field(default_factory=lambda: int(_variable("NUM_THREADS", "0")))
    sync_errors: bool = field(default_factory=lambda: _variable("SYNC_ERRORS") not in ("", "0"))
    warn_float64: bool = False
    trap: str | None = None


config = Config()
