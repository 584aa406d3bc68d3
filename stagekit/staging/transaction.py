"""A call is a transaction: all its writes are committed together, or taken back if it raises.

`Undo` takes back what an eager run wrote; `Copies` lets a trace see other leaves in the caller's
containers, and hands what Python did to them back to the caller.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import optree

from stagekit.eager.interpreter import EAGER
from stagekit.op import Over, current, put, using
from stagekit.random import holding, is_state
from stagekit.symbolic import Number

# ----- tensors ------------------------------------------------------------------------------------

_committing = threading.RLock()


def commit(writes: Iterable[tuple[Any, Any]]) -> None:
    """Put each value into its cell: all at once, or under a tape one such commit after another."""
    interpreter = current()
    if interpreter is EAGER:
        put(list(writes))
        return
    with _committing:
        for cell, value in writes:
            interpreter.write(cell, value)


@final
class Undo(Over):
    """Remembers what each cell held before it was written.

    The state of a generator from which another thread drew meanwhile is not put back: what that
    thread drew would be drawn again.
    """

    def __init__(self, below: Any) -> None:
        super().__init__(below)
        self.before: dict[int, tuple[Any, Any]] = {}
        self.after: dict[int, Any] = {}  # what this call put last into the state of a generator
        self.shared: set[int] = set()

    def write(self, cell: Any, value: Any) -> None:
        key = id(cell)
        if key not in self.before:
            self.before[key] = (cell, self.below.read(cell))
        self._note_draw(cell)
        self.below.write(cell, value)
        if is_state(cell):
            self.after[key] = self.below.read(cell)

    def _note_draw(self, cell: Any) -> None:
        if id(cell) in self.after and self.below.read(cell) is not self.after[id(cell)]:
            self.shared.add(id(cell))

    def undo(self) -> None:
        """Put back everything."""
        drawn = [cell for cell, _ in self.before.values() if is_state(cell)]
        with holding(drawn):
            for cell in drawn:
                self._note_draw(cell)
            for key, (cell, value) in self.before.items():
                if key not in self.shared:
                    self.below.write(cell, value)


@contextmanager
def undoing() -> Iterator[Undo]:
    """Run what is inside as it is; an exception takes back its writes to tensors and Variables."""
    undo = Undo(current())
    try:
        with using(undo):
            yield undo
    except BaseException:
        undo.undo()
        raise


# ----- containers ---------------------------------------------------------------------------------


class Copies:
    """Copies of containers with some leaves replaced, and the way back.

    >>> copies, mine = Copies(), {"n": 1, "log": []}
    >>> copy = copies.replace(mine, lambda leaf: leaf + 1)
    >>> copy["new"] = 5
    >>> copies.settle()
    >>> mine
    {'n': 1, 'log': [], 'new': 5}
    """

    def __init__(self) -> None:
        self.leaves: dict[int, tuple[Any, Any]] = {}
        self.made: list[tuple[Any, Any, Any]] = []
        self._known: dict[int, Any] = {}

    def replace(self, node: Any, swap: Callable[[Any], Any]) -> Any:
        """`node` with `swap` on each leaf; a container that holds no other leaf stays itself."""
        if optree.tree_is_leaf(node, namespace="stagekit"):
            leaf = swap(node)
            if leaf is not node:
                self.leaves[id(leaf)] = (leaf, node)
            return leaf
        if id(node) in self._known:
            return self._known[id(node)]
        children, aux, _, unflatten = optree.tree_flatten_one_level(node, namespace="stagekit")
        renewed = [self.replace(child, swap) for child in children]
        if all(a is b for a, b in zip(children, renewed, strict=True)):
            return node
        copy = unflatten(aux, renewed)
        for name, value in getattr(node, "__dict__", {}).items():
            copy.__dict__.setdefault(name, value)
        self.made.append((node, copy, _contents(copy)))
        self._known[id(node)] = copy
        return copy

    def settle(self) -> None:
        """Do to each original what was done to its copy."""
        origin = {id(copy): node for node, copy, _ in self.made}
        origin |= {key: leaf for key, (_, leaf) in self.leaves.items()}

        def back(value: Any) -> Any:
            return origin.get(id(value), value.value if isinstance(value, Number) else value)

        for node, copy, before in self.made:
            now = _contents(copy)
            if now is not None and not _identical(before, now):
                _put_back(node, before, now, back)


def _contents(obj: Any) -> Any:
    """What can change in a container: its elements or its attributes."""
    if isinstance(obj, (list, deque)):
        return list(obj)
    if isinstance(obj, dict):
        return dict(obj)
    return dict(obj.__dict__) if hasattr(obj, "__dict__") else None


def _identical(before: Any, now: Any) -> bool:
    if isinstance(now, list):
        return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))
    return list(before) == list(now) and all(before[key] is now[key] for key in now)


def _put_back(node: Any, before: Any, now: Any, back: Callable[[Any], Any]) -> None:
    if isinstance(now, list):
        node.clear()
        node.extend(map(back, now))
    elif isinstance(node, dict):
        node.clear()
        node.update((key, back(value)) for key, value in now.items())
    else:
        for name in before.keys() - now.keys():
            object.__delattr__(node, name)
        for name, value in now.items():
            if before.get(name, now) is not value:
                object.__setattr__(node, name, back(value))
