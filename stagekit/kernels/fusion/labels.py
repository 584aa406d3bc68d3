"""Labels: which axes of nodes are one loop of a kernel.

Each axis of a node in a kernel has a label; labels that are found to be the same loop are united,
on trial while a node may yet be refused. No node may have one loop for two of its axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from stagekit.node import Node


class Label:
    """One loop of a kernel: labels that are the same loop have the same root."""

    __slots__ = ("extent", "parent", "serial")

    def __init__(self, serial: int, extent: Any) -> None:
        self.serial, self.extent, self.parent = serial, extent, self

    @property
    def root(self) -> Label:
        label = self
        while label.parent is not label:
            label = label.parent
        return label

    def __repr__(self) -> str:
        return f"i{self.root.serial}"


Axes = tuple[Label | None, ...]


def elements(shape: Iterable[Any]) -> int:
    """How many elements a shape has; symbolic sizes count as many."""
    return math.prod(n if isinstance(n, int) else 4096 for n in shape)


class Trial:
    """Labels that are made one on trial: undone where the node is refused after all."""

    def __init__(self, apart: Sequence[set[frozenset[Label]]]) -> None:
        self.apart = apart  # the labels of each node, pair by pair
        self.made: list[Label] = []
        self.soft: set[Any] = set()  # nodes that are only read
        self.refusal: str | None = None

    def unite(self, a: Label, b: Label, of: Node | None) -> bool:
        """Make two labels one loop, which no node may have twice. What is only read, as `of` may
        be, can be read by other loops as well.
        """
        a, b = a.root, b.root
        if a is b:
            return True
        for pairs in self.apart:
            for pair in pairs:
                if {label.root for label in pair} == {a, b}:
                    if of not in self.soft:
                        self.refusal = self.refusal or "the same loop would stand for two axes"
                    return False
        b.parent = a
        self.made.append(b)
        return True

    def undo(self) -> None:
        for label in reversed(self.made):
            label.parent = label


def united(a: Label, b: Label, of: Node | None) -> bool:
    b.root.parent = a.root
    return True


def twice(axes: Axes) -> bool:
    roots = [label.root for label in axes if label is not None]
    return len(set(roots)) < len(roots)


def leads(axes: Axes, out: Axes) -> bool:
    """Whether a node has the outermost axes of another: it is computed once a row."""
    mine = {label.root for label in axes if label is not None}
    shown = [label.root for label in out if label is not None]
    k = 0
    while k < len(shown) and shown[k] in mine:
        k += 1
    return k > 0 and not mine & set(shown[k:])
