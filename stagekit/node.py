"""Graph nodes: immutable, typed, and hash-consed within one trace.

Equal nodes are the same object, so common subexpressions and dead code need no pass. Source lines
live in a side table of the trace, never in a node's identity. An op with several results is one
node, and each of them that is used a node `out` of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stagekit.op import Op
from stagekit.symbolic import Expr, Formula, names, strip
from stagekit.types import TensorType

Attrs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Node:
    """One value: an op applied to nodes; or an input (a name); or a constant (an array).

    `serial` is the place in the order of the trace; operands have smaller ones. `types` are those
    of its results: one, save for an op with several.
    """

    serial: int
    op: Op | None
    inputs: tuple[Node, ...]
    attrs: Attrs
    types: tuple[TensorType, ...]
    name: str = ""
    constant: np.ndarray[Any, Any] | None = None

    @property
    def type(self) -> TensorType:
        """The type of its one result; ValueError where it has several."""
        if self.is_several:
            raise ValueError(f"{self!r} has several results: take one with out")
        return self.types[0]

    @property
    def is_several(self) -> bool:
        """Whether it is several results in one, of which only `out` takes one."""
        return self.op is not None and self.op.several

    @property
    def type_text(self) -> str:
        """Its type as it prints: `f32[n]`, of several results `(f32[n], f32[])`."""
        return f"({', '.join(map(str, self.types))})" if self.is_several else str(self.types[0])

    def __repr__(self) -> str:
        what = self.op.name if self.op else (self.name or "constant")
        return f"<node {what}: {self.type_text}>"


def is_projection(node: Node) -> bool:
    """Whether it is one of the several results of its operand."""
    return bool(node.inputs) and node.inputs[0].is_several


def operand_types(nodes: Iterable[Node]) -> list[TensorType]:
    """What a type rule is told of operands; each of several results counts as one."""
    return [type_ for node in nodes for type_ in node.types]


def as_types(inferred: Any) -> tuple[TensorType, ...]:
    """What a type rule gives, as one type for each result."""
    return inferred if isinstance(inferred, tuple) else (inferred,)


def freeze(value: Any) -> Any:
    """An attribute as immutable, hashable data: numbers of a trace become expressions."""
    if isinstance(value, (list, tuple)) and not isinstance(value, Formula):
        return tuple(freeze(item) for item in value)
    return strip(value)


class Interned:
    """The nodes of one trace, each once: the same op on the same nodes is the same node.

    Keys tell `0.0` from `-0.0` and `1` from `True` (attributes by type, constants by bytes).
    """

    def __init__(self) -> None:
        self._nodes: dict[Any, Node] = {}
        self._serial = 0

    def input(self, name: str, type: TensorType) -> Node:
        """A new input; inputs are never merged."""
        return self._made(None, (), (), (type.stripped(),), name)

    def apply(
        self, op: Op, inputs: tuple[Node, ...], attrs: Mapping[str, Any], inferred: Any
    ) -> Node:
        """An op on nodes, of the type that its rule gave (a tuple of them for several results)."""
        types = as_types(inferred)
        frozen = tuple(sorted((key, freeze(value)) for key, value in attrs.items()))
        key = (op.name, tuple(map(id, inputs)), _exact(frozen), *[t.device for t in types])
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = self._made(
                op, inputs, frozen, tuple([t.stripped() for t in types])
            )
        return node

    def constant(self, array: np.ndarray[Any, Any], type: TensorType) -> Node:
        key = ("constant", type, array.tobytes())
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = self._made(None, (), (), (type,), constant=array)
        return node

    def _made(self, *fields: Any, **more: Any) -> Node:
        self._serial += 1
        return Node(self._serial, *fields, **more)


def _exact(value: Any) -> Any:
    """A hashable stand-in under which equal means identical: type and sign of zero included."""
    if isinstance(value, float):
        return float, value.hex()
    if isinstance(value, tuple):
        return type(value), tuple(_exact(item) for item in value)
    return type(value), value


def reachable(roots: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes needed for `roots`, themselves included, in the order of the trace."""
    found: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return tuple(sorted(found, key=lambda node: node.serial))


def attribute_names(value: Any) -> frozenset[str]:
    """The symbolic names in an attribute."""
    if isinstance(value, (Expr, Formula)):
        return names(value)
    if isinstance(value, tuple):
        return frozenset().union(*(attribute_names(item) for item in value))
    return frozenset()
