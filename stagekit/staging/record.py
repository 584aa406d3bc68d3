"""What `STAGEKIT_LOG` and `STAGEKIT_DUMP` ask for: lines about traces and rewrites, and graphs.

The lines go to the standard loggers `stagekit.trace` and `stagekit.rewrite` in any case.
"""

from __future__ import annotations

import re
from pathlib import Path

from stagekit.settings import config, log
from stagekit.staging.trace import Entry


def record(name: str, number: int, entry: Entry) -> None:
    """Log and dump a finished trace, the `number`th of the function `name`."""
    staged = "eager" if entry.concrete is None else f"{len(entry.concrete.graph.nodes)} nodes"
    log("trace", f"{name}: trace {number}: {entry.cause} ({entry.cause.line}), {staged}")
    if entry.concrete is None:
        return
    for fired in entry.concrete.log:
        log("rewrite", f"{name}: {fired.rule} ({fired.line})")
    if config.dump:
        _dump(Path(config.dump), name, number, entry)


def _dump(folder: Path, name: str, number: int, entry: Entry) -> None:
    """`name-1.txt`: the graph as traced, as rewritten, and the plan."""
    assert entry.concrete is not None
    folder.mkdir(parents=True, exist_ok=True)
    parts = [entry.concrete.graph, entry.concrete.optimized, entry.concrete.plan]
    safe = re.sub(r"\W+", "_", name).strip("_") or "function"
    (folder / f"{safe}-{number}.txt").write_text("\n".join(map(str, parts)), encoding="utf-8")
