"""The rewrite rules, one file a phase, in the order in which `optimize` applies them."""

from stagekit.graph import Graph
from stagekit.staging.rewrite import Fired, apply_rules
from stagekit.staging.rules import canonicalize

PHASES = {"canonicalize": canonicalize.RULES}


def optimize(graph: Graph) -> tuple[Graph, list[Fired]]:
    """The rewritten graph, and each rule that fired with the user's line, in order."""
    log: list[Fired] = []
    for rules in PHASES.values():
        graph, fired = apply_rules(graph, rules)
        log += fired
    return graph, log


__all__ = ["PHASES", "optimize"]
