"""Which code runs a graph: machine code where llvmlite is installed, else NumPy's own loops."""

from __future__ import annotations

import warnings
from functools import cache

from stagekit.errors import StagekitWarning
from stagekit.graph import Graph
from stagekit.kernels import engine
from stagekit.kernels.plan import NativePlan
from stagekit.plan import Plan
from stagekit.source import stack_level


def plan(graph: Graph) -> Plan | NativePlan:
    """The plan for a graph. A failure of the code generator is a warning, and NumPy runs it."""
    if not engine.available():
        _say_once()
        return Plan(graph)
    try:
        return NativePlan(graph)
    except Exception as error:
        warnings.warn(
            f"{graph.name}: no native code ({type(error).__name__}: {error}); NumPy runs it",
            StagekitWarning,
            stacklevel=stack_level(),
        )
        return Plan(graph)


@cache
def _say_once() -> None:
    warnings.warn(
        "staged functions run on NumPy, without native code\n"
        '  fix: pip install "stagekit[cpu]"',
        StagekitWarning,
        stacklevel=stack_level(),
    )
