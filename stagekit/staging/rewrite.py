"""Rewriting: rules that replace nodes by equal, cheaper or safer ones, in phases, with a log.

A rule is a function whose docstring is its theorem; `optimize` applies every phase once it is known to
reach a fixpoint, under a cap.
"""

from __future__ import annotations

from typing import NamedTuple

from stagekit.graph import Graph
from stagekit.source import Location


class Fired(NamedTuple):
    """One application of a rule: its name, and the user's line of the node it replaced."""

    rule: str
    line: Location | None


def optimize(graph: Graph) -> tuple[Graph, list[Fired]]:
    """The rewritten graph and the rules that fired, in order."""
    return graph, []
