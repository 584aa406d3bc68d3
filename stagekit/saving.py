"""`sk.save` and `sk.load`: a pytree as one safetensors file, written whole or not at all.

Buffers are named by their paths (`['layers'][0].w`). The metadata entry `stagekit.tree` holds the
rest as JSON: the containers, and for each path its kind, with the value of a scalar; no code.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import stagekit.ops as ops
from stagekit import tree
from stagekit.errors import ArtifactError, DTypeError
from stagekit.export.safetensors import Contents, as_complex, read, strict_json, write
from stagekit.narrow import exported
from stagekit.random import Generator
from stagekit.source import here
from stagekit.tensor import Tensor, Variable
from stagekit.types import dtype, shape_text

_ENTRY = "stagekit.tree"
_PROGRAM = "stagekit.program"
_VERSION = 1
_NESTING = 256  # of the JSON text: a tree can be half as deep

_SCALARS: dict[str, type] = {
    "bool": bool, "int": int, "float": float, "complex": complex, "str": str,
}  # fmt: skip
_ARRAYS: dict[str, type] = {
    "variable": Variable,
    "tensor": Tensor,
    "array": np.ndarray,
    "scalar": np.generic,
}


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a pytree of tensors, Variables, generators, NumPy arrays and scalars to one file.

    The file is replaced only when all is written. An object that occurs twice is stored once. Any
    safetensors reader finds the buffers, named by their paths. Raises DTypeError naming the path
    of a leaf that is none of these, or of a dict key that is not str, int or bool.
    Source: `torch.save`; the format is that of safetensors.

    >>> import tempfile, stagekit as sk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sk.save(f"{folder}/state.safetensors", {"w": sk.ones(2), "step": 7})
    ...     sk.load(f"{folder}/state.safetensors")
    {'w': tensor([1., 1.], dtype=float32), 'step': 7}
    """
    leaves, spec, paths = _flattened(tree)
    buffers: dict[str, np.ndarray[Any, Any]] = {}
    records: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    for where, leaf in zip(paths, leaves, strict=True):
        kind = _kind(leaf, where)
        if kind in _SCALARS:
            records[where] = {"kind": kind, "value": leaf if kind == "str" else repr(leaf)}
        elif id(leaf) in first:
            records[where] = {"kind": "same", "as": first[id(leaf)]}
        else:
            first[id(leaf)] = where
            records[where] = {"kind": kind, **({"name": leaf.name} if kind == "variable" else {})}
            buffers[where] = _buffer(leaf, where)
            if buffers[where].dtype.kind == "c":
                records[where]["complex"] = True
    structure = _structure(spec, iter(paths))
    text = json.dumps({"version": _VERSION, "structure": structure, "leaves": records})
    _require_readable(os.fspath(path), text)
    write(path, buffers, {_ENTRY: text})


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Read what `save` wrote.

    Without `like` the containers come back as dict, list, tuple and None (a namedtuple as a tuple,
    a dataclass as a dict), Variables as new Variables with their names, generators as generators.
    With `like`, a tree of the same paths, the result is a new tree of its structure and classes
    with the file's values; `like` stays as it is, and its Variables have new ones in their places.
    A file of another writer loads as a dict of its tensors.

    Raises ArtifactError for a file that is not well-formed, and for one that does not fit `like`,
    listing every path that is missing, extra, or of another shape or type. Source: `torch.load`.

    >>> import tempfile, stagekit as sk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sk.save(f"{folder}/state.safetensors", [sk.ones(2), 7])
    ...     sk.load(f"{folder}/state.safetensors", like=[sk.zeros(2), 0])
    [tensor([1., 1.], dtype=float32), 7]
    """
    path = os.fspath(path)
    contents = read(path)
    if _PROGRAM in contents.metadata:
        raise ArtifactError(f"{path} is a program", fix="open it with sk.export.load")
    try:
        structure, leaves = _parsed(contents)
        if like is None:
            return _built(structure, leaves)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: its entry {_ENTRY} is malformed: {error!r}") from None
    return _filled(path, like, leaves)


def _flattened(whole: Any) -> tuple[list[Any], tree.Spec, list[str]]:
    leaves, spec = tree.flatten(whole)
    return leaves, spec, tree.paths(spec, "")


# ----- writing ------------------------------------------------------------------------------------


def _kind(leaf: Any, where: str) -> str:
    """What a leaf is: a scalar by its exact type, or a kind of array."""
    for kind, cls in _SCALARS.items():
        if type(leaf) is cls:
            return kind
    for kind, cls in _ARRAYS.items():
        if isinstance(leaf, cls):
            return kind
    raise DTypeError(
        f"save: {where or 'the root'} is a {type(leaf).__name__}, which a file cannot hold",
        fix="give tensors, Variables, NumPy arrays, bool, int, float, complex, str or None; "
        "sk.register_pytree makes a class a container",
    ).located(here())


def _buffer(leaf: Any, where: str) -> np.ndarray[Any, Any]:
    if isinstance(leaf, Tensor):
        return ops.on_host(leaf, "sk.save")
    try:
        dtype(leaf.dtype)
    except DTypeError as error:
        message = f"save: {where or 'the root'} is an array of {leaf.dtype}"
        raise DTypeError(message, error.fix).located(here()) from None
    return np.asarray(leaf)


def _structure(spec: tree.Spec, paths: Iterator[str]) -> Any:
    """The containers as JSON: a leaf is its path, None is null, all else a kind with children."""
    cls: Any = spec.type
    if cls is None:
        return next(paths)
    if cls is type(None):
        return None
    children = [_structure(child, paths) for child in spec.children()]
    if cls is Generator:
        return {"generator": children}
    if issubclass(cls, dict) or hasattr(cls, "__dataclass_fields__"):
        keys = [_key(entry) for entry in spec.entries()]
        return {"dict": [list(item) for item in zip(keys, children, strict=True)]}
    return {"list" if issubclass(cls, (list, deque)) else "tuple": children}


def _key(key: Any) -> Any:
    if type(key) in (str, int, bool):
        return key
    raise DTypeError(
        f"save: a file cannot hold the dict key {key!r}", fix="use str, int or bool as keys"
    ).located(here())


def _require_readable(path: str, text: str) -> None:
    """Raise for what `load` would refuse: a tree too deep, text that is not Unicode."""
    try:
        strict_json(text, nesting=_NESTING)
    except ValueError as error:
        raise ArtifactError(f"{path} cannot hold this tree: {error}").located(here()) from None


# ----- reading ------------------------------------------------------------------------------------


class _Leaf(NamedTuple):
    """A leaf of a file: where it is stored, what it is, its buffer or value, a Variable's name."""

    source: str
    kind: str
    value: Any
    name: str | None


def _parsed(contents: Contents) -> tuple[Any, dict[str, _Leaf]]:
    """The containers and the leaves by path; any fault raises a builtin error."""
    if _ENTRY not in contents.metadata:
        plain = {name: _Leaf(name, "tensor", a, None) for name, a in contents.tensors.items()}
        return {"dict": [[name, name] for name in plain]}, plain
    document = strict_json(contents.metadata[_ENTRY], nesting=_NESTING)
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']} is unknown, this reads {_VERSION}")
    records: dict[str, Any] = document["leaves"]
    leaves = {path: _leaf(path, records, contents) for path in records}
    unused = contents.tensors.keys() - {leaf.source for leaf in leaves.values()}
    if unused:
        raise ValueError(f"no leaf owns the buffers {sorted(unused)}")
    return document["structure"], leaves


def _leaf(path: str, records: dict[str, Any], contents: Contents) -> _Leaf:
    source = records[path]["as"] if records[path]["kind"] == "same" else path
    record = records[source]
    kind, name = record["kind"], record.get("name")
    if not isinstance(name, str | None):
        raise ValueError(f"the name {name!r} is no text")
    if kind in _ARRAYS:
        value: Any = contents.tensors[source]
        if record.get("complex"):
            value = as_complex(value)
    else:
        value = _scalar(kind, record["value"])
    return _Leaf(source, kind, value, name)


def _scalar(kind: str, text: Any) -> Any:
    if not isinstance(text, str):
        raise ValueError(f"the value {text!r} is no text")
    if kind == "str":
        return text
    if kind == "bool":
        return {"True": True, "False": False}[text]
    return {"int": int, "float": float, "complex": complex}[kind](text)


def _built(node: Any, leaves: dict[str, _Leaf]) -> Any:
    """Builtin containers around new leaves; a leaf stored once is one object."""
    made: dict[str, Any] = {}

    def build(node: Any) -> Any:
        if node is None:
            return None
        if isinstance(node, str):
            leaf = leaves[node]
            if leaf.source not in made:
                made[leaf.source] = _made(leaf.kind, leaf.value, leaf.name)
            return made[leaf.source]
        ((kind, children),) = node.items()
        if kind == "dict":
            items = {_key(key): build(child) for key, child in children}
            if len(items) < len(children):
                raise ValueError("a dict has a key twice")
            return items
        return _CONTAINERS[kind](map(build, children))

    return build(node)


def _generator(children: Iterator[Any]) -> Generator:
    (state,) = children
    if not isinstance(state, Variable) or _described(state) != "uint64 (3,)":
        raise ValueError(f"a generator's state is a Variable of uint64 (3,), not {state!r}")
    return Generator.of(state)


_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "generator": _generator}


def _made(kind: str, value: Any, name: str | None) -> Any:
    """A leaf with a buffer of its own."""
    if kind == "variable":
        return Variable(value, name)
    if kind == "tensor":
        return ops.asarray(value)
    if kind == "array":
        return exported(np.array(value))
    return exported(value.copy())[()] if kind == "scalar" else value


# ----- reading into a given structure -------------------------------------------------------------


def _filled(path: str, like: Any, leaves: dict[str, _Leaf]) -> Any:
    """A tree of the structure and classes of `like` with the values of the file."""
    flat, spec, paths = _flattened(like)
    wanted = dict(zip(paths, flat, strict=True))
    _require_fit(path, wanted, leaves)
    made: dict[tuple[int, str], Any] = {}
    for where, old in wanted.items():
        leaf = leaves[where]
        name = old.name if isinstance(old, Variable) else None
        if (id(old), leaf.source) not in made:
            made[id(old), leaf.source] = _made(_kind(old, where), leaf.value, name)
    return tree.unflatten(spec, [made[id(o), leaves[w].source] for w, o in wanted.items()])


def _require_fit(path: str, wanted: dict[str, Any], leaves: dict[str, _Leaf]) -> None:
    """Raise ArtifactError listing every path in which the file and `like` differ."""
    faults = [
        f"missing in the file: {where or 'the root'}" for where in wanted if where not in leaves
    ]
    faults += [
        f"only in the file: {where or 'the root'}" for where in leaves if where not in wanted
    ]
    owner: dict[int, str] = {}
    for where, old in wanted.items():
        leaf = leaves.get(where)
        if leaf is None:
            continue
        expected, found = _described(old), _described(leaf.value)
        if expected != found:
            faults.append(f"{where or 'the root'}: {found} in the file, {expected} in `like`")
        elif leaf.kind in _ARRAYS and owner.setdefault(id(old), leaf.source) != leaf.source:
            faults.append(f"{where}: one object with {owner[id(old)]} in `like`, two in the file")
    if faults:
        raise ArtifactError(
            "\n  ".join([f"load: {path} does not fit `like`:", *faults]),
            fix="load it without `like` to see what it holds",
        ).located(here())


def _described(value: Any) -> str:
    """`float32 (3, 4)` of a tensor or array, `int` of a scalar."""
    if hasattr(value, "dtype"):
        return f"{dtype(value.dtype)} {shape_text(tuple(value.shape))}"
    return type(value).__name__
