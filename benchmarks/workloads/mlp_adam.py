"""A step of Adam on a classifier 784-256-256-10 with relu, batch 128."""

from __future__ import annotations

from benchmarks.workloads import Make, mlp

TITLE = "MLP 784-256-256-10, batch 128, Adam step"
TOLERANCE = 1e-4


def contenders() -> dict[str, Make]:
    """All that differentiate, and NumPy by hand."""
    return mlp.contenders((784, 256, 256, 10), 128, adam=True, activation="relu")
