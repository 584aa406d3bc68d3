"""The SGD step by which Theano was measured (Bergstra et al. 2010): 784-500-10, tanh, batch 60."""

from __future__ import annotations

from benchmarks.workloads import Make, mlp

TITLE = "Theano's MLP 784-500-10, batch 60, SGD step"
TOLERANCE = 1e-5


def contenders() -> dict[str, Make]:
    """All that differentiate, and NumPy by hand."""
    return mlp.contenders((784, 500, 10), 60, adam=False, activation="tanh")
