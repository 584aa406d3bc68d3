"""What an import costs beyond NumPy, each in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Comparison, Timing, goal, peer

PROGRAM = """
import numpy, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""

STATEMENTS = {
    "stagekit": "import stagekit",
    "stagekit, first tensor made": "import stagekit; stagekit.ones(3) + 1",
    "stagekit, first function staged": "import stagekit; stagekit.function(lambda x: x + 1)(1.0)",
    "torch": "import torch",
    "jax": "import jax",
    "autograd": "import autograd.numpy",
}


def _seconds(statement: str) -> float:
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(rounds: int = 7) -> Iterator[Comparison]:
    """Each statement in `rounds` processes, in turn."""
    known = {k: v for k, v in STATEMENTS.items() if peer(k.partition(",")[0])}
    samples: dict[str, list[float]] = {name: [] for name in known}
    for statement in known.values():
        _seconds(statement)
    for _ in range(rounds):
        for name, statement in known.items():
            samples[name].append(_seconds(statement))
    timings = [Timing(name, found) for name, found in samples.items()]
    ours = timings[0].median
    wish = goal("`import stagekit` in less than 150 ms beyond NumPy", ours * 1e3, 150, "ms")
    yield Comparison("import, beyond NumPy", timings, [wish])
