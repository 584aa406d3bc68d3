"""What `STAGEKIT_LOG` and `STAGEKIT_DUMP` ask for: lines about traces and rewrites; graphs, plans
and kernels as text.

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
    """`name-1.txt`: the graph as traced and as rewritten, the plan, and why it is that; and for
    each kernel `name-1-kernel0.txt`, its loops, `.ll`, its LLVM IR, and `.s`, its assembly.
    """
    concrete = entry.concrete
    assert concrete is not None
    folder.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"\W+", "_", name).strip("_") or "function"
    parts = [concrete.graph, concrete.optimized, concrete.plan, concrete.plan.decisions]
    texts = {f"{safe}-{number}.txt": "\n".join(map(str, parts))}
    for kernel in concrete.kernels():
        stem = f"{safe}-{number}-{kernel.name}"
        texts[f"{stem}.txt"], texts[f"{stem}.ll"] = kernel.loops, kernel.llvm
        texts[f"{stem}.s"] = kernel.assembly
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
