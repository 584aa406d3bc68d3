"""`sk.export.save`: trace functions from specs, and write them with the state they share.

What a function reads from outside becomes state, named by its access path; what it writes there is
recorded. Effects, plain sizes and objects that a file cannot hold are refused with the user's line.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stagekit import tree
from stagekit.eager.interpreter import as_array
from stagekit.errors import ArtifactError, ExportError, StagekitWarning
from stagekit.export.artifact import write_artifact
from stagekit.export.format import Exported, Known, Program
from stagekit.export.structure import (
    NONE,
    Branch,
    Computed,
    Fixed,
    Leaf,
    Parameter,
    Signature,
    Tree,
)
from stagekit.graph import Graph
from stagekit.node import Node, reachable
from stagekit.source import Location, here, stack_level
from stagekit.staged import Bound, Function, TensorSpec, function
from stagekit.staging.trace import Entry, Output
from stagekit.symbolic import Expr, Formula
from stagekit.tensor import Tensor, Variable

Array = np.ndarray[Any, Any]


def save(path: str | os.PathLike[str], fn: Any, /, *specs: Any, freeze: bool = False) -> None:
    """Write functions to one data-only file, to be run by `stagekit.export.runtime` or `load`.

    `fn` is a function, staged or not, and `specs` its arguments: `TensorSpec`s, tensors or arrays
    that stand for their type, in containers, and numbers, strings and None that stay as they are.
    Or `fn` maps names to pairs `(function, specs)`; these share what they capture. Tensors, arrays
    and Variables that a function captures become state; with `freeze=True` constants. A parameter
    made of Variables or other objects, as `self`, is bound and no longer a parameter.

    Raises ExportError for a print, a plain size or an object that a file cannot hold, and
    DataDependentError for a branch on a tensor. A failed call leaves the old file.
    Source: `tf.saved_model.save`.

    >>> import tempfile, stagekit as sk
    >>> w = sk.Variable(sk.ones((3, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sk.export.save(f"{folder}/m.stagekit", lambda x: x @ w, sk.TensorSpec(("n", 3)))
    ...     print(sk.export.load(f"{folder}/m.stagekit").signatures["default"])
    default(x: f32[n,3]) -> f32[n,2]
    """
    if isinstance(fn, Mapping) and specs:
        raise TypeError("save: give the specs with each function: {name: (function, specs)}")
    named = fn if isinstance(fn, Mapping) else {"default": (fn, specs)}
    store = _Store(freeze)
    exported = {name: _export(name, *_pair(name, pair), store) for name, pair in named.items()}
    try:
        write_artifact(path, Program(exported, store.types), store.values)
    except ArtifactError as error:
        raise ExportError(f"save: {error.message}").located(here()) from None


def _pair(name: str, pair: Any) -> tuple[Any, tuple[Any, ...]]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"save: {name!r} is no pair (function, specs)")
    fn, specs = pair
    return fn, tuple(specs) if isinstance(specs, (tuple, list)) else (specs,)


# ----- state --------------------------------------------------------------------------------------


class _Store:
    """The captured tensors of all functions, each once, by name."""

    def __init__(self, freeze: bool) -> None:
        self.freeze = freeze
        self.values: dict[str, Array] = {}
        self.types: dict[str, Any] = {}
        self._names: dict[int, tuple[Any, str]] = {}

    def name(self, obj: Any, wish: str, node: Node) -> str:
        """The name of a captured tensor, which is kept from now on."""
        known = self._names.get(id(obj))
        if known is not None:
            return known[1]
        found, k = wish, 1
        while found in self.values:
            k += 1
            found = f"{wish}_{k}"
        self._names[id(obj)] = (obj, found)
        self.values[found], self.types[found] = _array_of(obj), node.type
        return found


def _array_of(obj: Any) -> Array:
    return np.asarray(obj) if isinstance(obj, Tensor) else as_array(obj)


class _Cell(NamedTuple):
    """A tensor that a trace took as an input: an argument's place, or a captured object."""

    argument: int | None
    obj: Any
    path: str


# ----- one function -------------------------------------------------------------------------------


def _export(name: str, fn: Any, specs: tuple[Any, ...], store: _Store) -> Exported:
    staged = fn if isinstance(fn, (Function, Bound)) else function(fn)
    own = (staged.__self__,) if isinstance(staged, Bound) else ()
    staged = staged.__func__ if isinstance(staged, Bound) else staged
    given = staged._binding.bind(*own, *specs)
    arguments = {k: v if k in staged._static else tree.map(_as_spec, v) for k, v in given.items()}
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", StagekitWarning)
        entry = staged._entry_of(arguments)
    _require_pure(name, entry)  # refuses most of what a trace warns of
    for notice in notices:
        warnings.warn(notice.message, stacklevel=stack_level())
    cells = _cells(entry, arguments, staged)
    return _Packer(name, entry, cells, store).exported(_parameters(name, staged, arguments))


def _as_spec(leaf: Any) -> Any:
    """A tensor or array stands for its type; a Variable for itself."""
    if isinstance(leaf, Variable) or not isinstance(leaf, (Tensor, np.ndarray, np.generic)):
        return leaf
    return TensorSpec(tuple(leaf.shape), leaf.dtype)


def _require_pure(name: str, entry: Entry) -> None:
    for effect in entry.effects:
        raise ExportError(
            f"save: {name}: {effect.text} is a side effect, which a file cannot repeat",
            fix="move it out of the function",
        ).located(_line_of(effect))
    for fixed in entry.facts.fixed:
        raise ExportError(
            f"save: {name}: Python needs the plain value of the size {fixed.expr}",
            fix="use x.shape[0] and tensor arithmetic, or give the size in the spec",
        ).located(fixed.location)


def _cells(entry: Entry, arguments: Mapping[str, Any], staged: Function) -> list[_Cell]:
    """What the places of a trace's cells stand for: first the arguments, then the captures."""
    found: list[_Cell] = []
    places = iter(range(len(entry.pattern.shapes)))
    for name, value in arguments.items():
        if name in staged._static:
            continue
        flat, spec = tree.flatten(value)
        for leaf, path in zip(flat, tree.paths(spec, name), strict=True):
            if isinstance(leaf, TensorSpec):
                found.append(_Cell(next(places), None, path))
            elif isinstance(leaf, Tensor):
                found.append(_Cell(None, leaf, getattr(leaf, "name", None) or path))
    for bound in entry.captures:
        obj = bound.held if bound.path is None else bound.path.read(arguments)
        wish = bound.path.notation if bound.path else getattr(obj, "name", None) or bound.name
        found.append(_Cell(None, obj, wish))
    return found


def _line_of(effect: Any) -> Location:
    return Location(effect.filename, effect.lineno, effect.function)


class _Packer:
    """Makes a function of an artifact from a trace: arguments first, then the state it reads."""

    def __init__(self, name: str, entry: Entry, cells: Sequence[_Cell], store: _Store) -> None:
        assert entry.concrete is not None and entry.spec is not None
        self.name, self.entry, self.cells, self.store = name, entry, cells, store
        self.spec, self.old = entry.spec, entry.concrete.graph
        self.sizes = dict(entry.concrete.env)
        self.made: dict[Node, Node] = {}
        self.reads: dict[str, Node] = {}
        self.outputs: list[Node] = []
        self._count = 0

    def exported(self, parameters: Sequence[Parameter]) -> Exported:
        inputs = self._inputs()
        self._nodes()
        result = _structure(self.spec, iter([self._leaf(o) for o in self.entry.outputs]), "result")
        writes = [self._write(place, node) for place, node in self._writes().items()]
        graph = self._graph(inputs)
        signature = Signature(
            self.name,
            tuple(parameters),
            result,
            tuple(node.type for node in inputs),
            tuple(node.type for node in graph.outputs),
        )
        facts = tuple(Known(fact, line) for fact, line in self.entry.facts.known.items())
        return Exported(signature, graph, self.sizes, facts, tuple(self.reads), tuple(writes))

    # ----- nodes

    def _inputs(self) -> list[Node]:
        """The arguments as inputs; what was captured becomes state, or a constant."""
        arguments: dict[int, Node] = {}
        for place, node in zip(self.entry.take, self.old.inputs, strict=True):
            cell = self.cells[place]
            if cell.argument is not None:
                arguments[cell.argument] = self.made[node] = self._node(node)
            elif self.store.freeze:
                array = _array_of(cell.obj)
                self.made[node] = Node(self._next(), None, (), (), node.types, constant=array)
            else:
                name = self.store.name(cell.obj, cell.path, node)
                self.reads[name] = self.made[node] = self._node(node)
        return [arguments[k] for k in range(len(arguments))]

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _node(self, old: Node) -> Node:
        operands = tuple(self.made[x] for x in old.inputs)
        return Node(self._next(), old.op, operands, old.attrs, old.types, old.name, old.constant)

    def _nodes(self) -> None:
        """Every node again; one with a derivative of its own stays as its value alone."""
        for node in self.old.nodes:
            is_custom = node.op is not None and node.op.name == "custom"
            self.made[node] = self.made[node.inputs[0]] if is_custom else self._node(node)
            if is_custom:
                self._warn_of_rule(dict(node.attrs)["rule"], self.old.line(node))

    def _warn_of_rule(self, rule: Any, line: Location | None) -> None:
        """Warn of a rule of the user's (`bwd` of a vjp, `rule` of a jvp); others change nothing."""
        if not hasattr(rule, "bwd") and not hasattr(rule, "rule"):
            return
        warnings.warn(
            f"save: {self.name}: the derivative of its own at {line} is Python and is not stored. "
            "When loaded, the function differentiates its operations themselves.",
            StagekitWarning,
            stacklevel=stack_level(),
        )

    def _graph(self, inputs: Sequence[Node]) -> Graph:
        lines = {self.made[n]: found for n, found in self.old.lines.items() if n in self.made}
        checks = tuple(self.made[node] for node in self.old.checks)
        needed = set(reachable((*checks, *self.outputs)))
        self.reads = {name: node for name, node in self.reads.items() if node in needed}
        return Graph(self.name, (*inputs, *self.reads.values()), tuple(self.outputs), checks, lines)

    # ----- results

    def _place(self, old: Node) -> int:
        self.outputs.append(self.made[old])
        return len(self.outputs) - 1

    def _leaf(self, output: Output) -> Tree:
        kind, value = output
        if kind == "node":
            return Leaf(self._place(self.old.outputs[value]))
        if kind == "cell":
            return Leaf(self._place(self._writes().get(value) or self._input_of(value)))
        if isinstance(value, (Expr, Formula)):
            return Computed(value)
        return _fixed(value, f"{self.name}: a result")

    def _input_of(self, place: int) -> Node:
        return self.old.inputs[self.entry.take.index(place)]

    def _writes(self) -> dict[int, Node]:
        """For each cell that is written the node that it becomes."""
        places = self.entry.writes
        first = len(self.old.outputs) - len(places)
        return dict(zip(places, self.old.outputs[first:], strict=True))

    def _write(self, place: int, node: Node) -> tuple[str, int]:
        cell = self.cells[place]
        if cell.argument is not None:
            raise ExportError(
                f"save: {self.name} writes to its argument {cell.path}",
                fix="return the new value, or give the Variable itself in place of a spec",
            ).located(here())
        if self.store.freeze:
            raise ExportError(
                f"save: {self.name} writes to {cell.path}, which freeze=True makes a constant",
                fix="leave freeze out",
            ).located(here())
        return self.store.name(cell.obj, cell.path, self._input_of(place)), self._place(node)


# ----- parameters and structure -------------------------------------------------------------------


def _parameters(name: str, staged: Function, arguments: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that the file's function keeps, with the places of their tensors."""
    kinds = inspect.signature(staged.python_function).parameters
    places = iter(range(sum(_is_spec(leaf) for v in arguments.values() for leaf in tree.leaves(v))))
    found = []
    for key, value in arguments.items():
        flat, spec = tree.flatten(value)
        has_specs, is_bound = any(map(_is_spec, flat)), any(map(_is_bound, flat))
        if has_specs and is_bound:
            raise ExportError(
                f"save: {name}: {key} mixes specs with Variables or other objects",
                fix="give them in parameters of their own",
            ).located(here())
        if not is_bound:
            items = [Leaf(next(places)) if _is_spec(x) else _fixed(x, key) for x in flat]
            found.append(
                Parameter(key, kinds[key].kind.name.lower(), _structure(spec, iter(items), key))
            )
    return found


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, TensorSpec)


def _is_bound(leaf: Any) -> bool:
    """Whether a leaf belongs to the function rather than to its calls: a Variable, an object."""
    return not _is_spec(leaf) and type(leaf) not in (bool, int, float, str)


def _fixed(value: Any, path: str) -> Fixed:
    if type(value) in (bool, int, float, str):
        return Fixed(value)
    raise ExportError(
        f"save: {path} is {type(value).__name__} {value!r}, which a file cannot hold",
        fix="use tensors, bool, int, float, str and None",
    ).located(here())


_BRANCHES: dict[type, str] = {
    tuple: "tuple", list: "list", dict: "dict", OrderedDict: "dict", defaultdict: "dict",
}  # fmt: skip


def _structure(spec: tree.Spec, items: Iterator[Tree], path: str) -> Tree:
    """The containers of a spec around `items`."""
    cls: Any = spec.type
    if cls is None:
        return next(items)
    if cls is type(None):
        return NONE
    inside = tuple(_structure(child, items, path) for child in spec.children())
    if hasattr(cls, "__dataclass_fields__"):
        return Branch("dataclass", inside, tuple(spec.entries()), cls.__name__)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return Branch("namedtuple", inside, tuple(cls._fields), cls.__name__)
    if cls not in _BRANCHES:
        raise ExportError(
            f"save: {path} holds a {cls.__name__}, a container that a file cannot hold",
            fix="use dict, list, tuple, namedtuple or dataclass",
        ).located(here())
    kind = _BRANCHES[cls]
    keys = tuple(spec.entries()) if kind == "dict" else ()
    for key in keys:
        if type(key) not in (str, int, bool):
            raise ExportError(
                f"save: {path} has the key {key!r}, which a file cannot hold",
                fix="use str, int or bool",
            ).located(here())
    return Branch(kind, inside, keys)
