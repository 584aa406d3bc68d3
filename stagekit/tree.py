"""Pytrees: nested tuples, lists, dicts, namedtuples, dataclasses and None, with tensors as leaves.

optree does the work. A dict keeps its insertion order, since the order of a loop over it depends on
it. A user's dataclass is structure; the package's own (data types, specs) are leaves.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from typing import Any

import optree

from stagekit.random import Generator

_NAMESPACE = "stagekit"
_insertion_order = optree.dict_insertion_ordered(True, namespace=_NAMESPACE)
_insertion_order.__enter__()  # for good: it ends when the object is dropped
_registering = threading.Lock()
_dataclasses: set[type] = set()
optree.register_pytree_node(
    Generator,  # type: ignore[arg-type]  # optree wants a Collection
    lambda generator: ((generator.state,), None, ("state",)),  # type: ignore[attr-defined]
    lambda _, children: Generator.of(*children),  # type: ignore[arg-type, return-value]
    path_entry_type=optree.GetAttrEntry,
    namespace=_NAMESPACE,
)

Spec = optree.PyTreeSpec


def register_pytree(
    cls: type,
    flatten: Callable[[Any], tuple[Iterable[Any], Any]],
    unflatten: Callable[[Any, Any], Any],
) -> None:
    """Let instances of `cls` be nested structure: `flatten(obj) -> (children, aux)` and back.

    `aux` is hashable; `unflatten(aux, children) -> obj`. Raises ValueError if registered before.
    Source: `optree.register_pytree_node`.

    >>> class Pair:
    ...     def __init__(self, a, b): self.a, self.b = a, b
    >>> register_pytree(Pair, lambda p: ((p.a, p.b), None), lambda aux, ab: Pair(*ab))
    >>> flatten(Pair(1, 2))[0]
    [1, 2]
    """
    optree.register_pytree_node(cls, flatten, unflatten, namespace=_NAMESPACE)


def flatten(tree: Any) -> tuple[list[Any], Spec]:
    """The leaves of a tree and its structure; a dataclass seen for the first time is registered."""
    while True:
        leaves, spec = optree.tree_flatten(tree, namespace=_NAMESPACE)
        fresh = [cls for cls in {type(x) for x in leaves} if _is_structure(cls)]
        if not fresh:
            return leaves, spec
        for cls in fresh:
            _register_dataclass(cls)


def _is_structure(cls: type) -> bool:
    return hasattr(cls, "__dataclass_fields__") and not cls.__module__.startswith("stagekit.")


def _register_dataclass(cls: type) -> None:
    names = tuple(field.name for field in dataclasses.fields(cls))

    def take(obj: Any) -> tuple[Any, Any, Any]:
        return tuple(getattr(obj, name) for name in names), None, names

    def make(aux: Any, children: Any) -> Any:
        obj: Any = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(obj, name, child)
        return obj

    with _registering:
        if cls not in _dataclasses:
            optree.register_pytree_node(cls, take, make, namespace=_NAMESPACE)
            _dataclasses.add(cls)


def unflatten(spec: Spec, leaves: Iterable[Any]) -> Any:
    """The tree of a structure with new leaves."""
    return optree.tree_unflatten(spec, leaves)


def flatten_as(spec: Spec, tree: Any) -> list[Any]:
    """What stands in `tree` where `spec` has leaves, in its order: dict entries go by key.

    Raises ValueError where the structures differ.

    >>> flatten_as(flatten({"a": 1, "b": 2})[1], {"b": 20, "a": 10})
    [10, 20]
    """
    flat, found = flatten(tree)
    if found == spec:
        return flat
    # Where they differ optree shows the leaves, which a tensor of a trace does not allow.
    spec.flatten_up_to(unflatten(found, range(len(flat))))
    return spec.flatten_up_to(tree)


def prefixed(prefix: Any, spec: Spec) -> list[Any]:
    """For each leaf of a structure what stands in `prefix`, a tree that may end above the leaves.

    None is a leaf of a prefix. Raises ValueError where it goes another way.

    >>> prefixed((0, {"a": None, "b": 1}), flatten(([5, 6], {"a": 7, "b": 8}))[1])
    [0, 0, None, 1]
    """
    flatten(prefix)  # registers what it holds
    full = unflatten(spec, range(spec.num_leaves))
    places = optree.tree_leaves(full, none_is_leaf=True, namespace=_NAMESPACE)
    found = optree.broadcast_prefix(prefix, full, none_is_leaf=True, namespace=_NAMESPACE)
    return [x for x, place in zip(found, places, strict=True) if place is not None]


def map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """A tree of the same structure with `function` applied to each leaf (and those of `rest`).

    Raises ValueError where the structures differ; the order of dict entries does not matter.

    >>> map(lambda a, b: a + b, {"a": 1, "b": 2}, {"b": 20, "a": 10})
    {'a': 11, 'b': 22}
    """
    leaves, spec = flatten(tree)
    others = [flatten_as(spec, other) for other in rest]
    return unflatten(spec, [function(*group) for group in zip(leaves, *others, strict=True)])


def outline(spec: Spec) -> str:
    """A structure in a message: containers with `*` for each leaf.

    >>> outline(flatten((1, {"a": [2, 3]}))[1])
    "(*, {'a': [*, *]})"
    """
    return str(spec).removeprefix("PyTreeSpec(").removesuffix(f", namespace={_NAMESPACE!r})")


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, in order."""
    return flatten(tree)[0]


def is_leaf(obj: Any) -> bool:
    """Whether a tree is one leaf, without structure.

    >>> is_leaf(1), is_leaf([1]), is_leaf(None)
    (True, False, False)
    """
    spec = flatten(obj)[1]
    return spec.num_nodes == spec.num_leaves == 1


def paths(spec: Spec, root: str) -> list[str]:
    """For each leaf how the user writes it: `args[0]['w']`, `model.layers[1].w`."""
    return [accessor.codify(root) for accessor in spec.accessors()]
