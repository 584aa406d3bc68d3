"""Process-wide configuration: `sk.config`, read once from `STAGEKIT_*` variables at import.

Everything here that can change what a trace means is part of a signature's key (see `ambient`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def _variable(name: str, default: str = "") -> str:
    return os.environ.get(f"STAGEKIT_{name}", default)


def _threads() -> int:
    given = _variable("NUM_THREADS")
    if given:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _user_cache() -> str:
    """The user's cache folder, as the XDG base directory specification has it."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(home if os.path.isabs(home) else "~/.cache", "stagekit")


@dataclass
class Config:
    """The settings object `sk.config`; assign to its fields.

    disable        run every staged function eagerly (`STAGEKIT_DISABLE=1`)
    traceback      "filtered" or "full": show the framework's own frames (`STAGEKIT_TRACEBACK`)
    log            what to print to stderr: trace, rewrite, codegen, cache (`STAGEKIT_LOG=trace`)
    dump           folder into which every trace writes its graphs, plan and kernels, or empty
                   (`STAGEKIT_DUMP`)
    cache_dir      folder of compiled code, empty or "off" for none (`STAGEKIT_CACHE_DIR`)
    warn_float64   warn where float64 enters float32 arithmetic, naming the line
    trap           None, or "nan": raise CheckError at the operation that makes a NaN
    num_threads    threads that share a parallel loop of native code, the caller's among them; by
                   default the cores that this process may use (`STAGEKIT_NUM_THREADS`)

    Source: `docs/footguns.md`, `docs/boundary.md` and `docs/cache.md` say what each is for.

    >>> Config().traceback
    'filtered'
    """

    disable: bool = field(default_factory=lambda: _variable("DISABLE") not in ("", "0"))
    traceback: str = field(default_factory=lambda: _variable("TRACEBACK", "filtered"))
    log: str = field(default_factory=lambda: _variable("LOG"))
    dump: str = field(default_factory=lambda: _variable("DUMP"))
    cache_dir: str = field(default_factory=lambda: _variable("CACHE_DIR", _user_cache()))
    warn_float64: bool = False
    trap: str | None = None
    num_threads: int = field(default_factory=_threads)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for act in _watching.get(name, ()):
            if self is config:
                act(value)


_watching: dict[str, list[Callable[[Any], None]]] = {}


def when_set(name: str, act: Callable[[Any], None]) -> None:
    """Call `act` with the value of a setting of `config` now and whenever it is assigned.

    >>> seen = []
    >>> when_set("trap", seen.append)
    >>> config.trap = "nan"
    >>> config.trap = None
    >>> seen
    [None, 'nan', None]
    """
    _watching.setdefault(name, []).append(act)
    act(getattr(config, name))


config = Config()


def log(subject: str, text: str) -> None:
    """A line for the standard logger `stagekit.<subject>`, and for stderr if `config.log` asks."""
    logging.getLogger(f"stagekit.{subject}").info(text)
    if subject in config.log.split(","):
        print(f"stagekit.{subject}: {text}", file=sys.stderr)
