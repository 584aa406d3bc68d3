"""What a call is to the cache: `Call`, and `Pattern`, the calls that one trace is right for.

Structure, data types and other objects are compared as they are; sizes and numbers are compared by
value at first, and become symbolic at the second value seen.
"""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stagekit import tree
from stagekit.errors import ArgumentError
from stagekit.op import current
from stagekit.source import here, is_framework
from stagekit.staging.transaction import Copies
from stagekit.symbolic import Number, same
from stagekit.tensor import Tensor, Variable
from stagekit.types import SHORT, dtype

Arguments = Mapping[str, Any]

# ----- binding ------------------------------------------------------------------------------------


class Binding(NamedTuple):
    """How calls of a function become a mapping of its parameters, and back.

    `header` is the text of the parameters, its defaults by the names of `defaults`.
    """

    bind: Callable[..., dict[str, Any]]
    call: Callable[[Callable[..., Any], Arguments], Any]
    names: tuple[str, ...]
    header: str
    defaults: dict[str, Any]


def binding(fn: Callable[..., Any]) -> Binding:
    """Compile the signature of `fn` into a binder: as fast as a call, with Python's own errors.

    >>> b = binding(lambda x, *rest, k=1: (x, rest, k))
    >>> b.bind(1, 2, k=3)
    {'x': 1, 'rest': (2,), 'k': 3}
    """
    parameters = list(_signature(fn).parameters.values())
    defaults: dict[str, Any] = {}
    declared: list[str] = []
    passed: list[str] = []
    for k, p in enumerate(parameters):
        star = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(p.kind.name, "")
        default = ""
        if p.default is not p.empty:
            defaults[f"_default{k}"] = p.default
            default = f"=_default{k}"
        if p.kind is p.KEYWORD_ONLY and not any(q.startswith("*") for q in declared):
            declared.append("*")
        declared.append(f"{star}{p.name}{default}")
        keyword = f"{p.name}=" if p.kind is p.KEYWORD_ONLY else star
        passed.append(f"{keyword}_m[{p.name!r}]")
        following = parameters[k + 1].kind if k + 1 < len(parameters) else None
        if p.kind is p.POSITIONAL_ONLY and following is not p.POSITIONAL_ONLY:
            declared.append("/")
    names = tuple(p.name for p in parameters)
    items = ", ".join(f"{name!r}: {name}" for name in names)
    header, scope = ", ".join(declared), dict(defaults)
    source = f"def bind({header}):\n    return {{{items}}}\n"
    source += f"def call(_fn, _m):\n    return _fn({', '.join(passed)})\n"
    exec(compile(source, "<stagekit signature>", "exec"), scope)
    bind = scope["bind"]
    bind.__name__ = getattr(fn, "__name__", "function")
    bind.__qualname__ = getattr(fn, "__qualname__", bind.__name__)
    return Binding(bind, scope["call"], names, header, defaults)


def _signature(fn: Any) -> inspect.Signature:
    """How a function is called; what the framework wrapped is called as what is inside."""
    while isinstance(fn, types.FunctionType) and is_framework(fn.__code__.co_filename):
        if not hasattr(fn, "__wrapped__"):
            break
        fn = fn.__wrapped__
    return inspect.signature(fn, follow_wrapped=not isinstance(fn, types.FunctionType))


# ----- calls --------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call taken apart: a hashable key, and the tensors, sizes and numbers beside it.

    `copies` says which containers among the arguments stand for the caller's own.
    """

    key: tuple[Any, ...]
    cells: list[Any]
    shapes: tuple[tuple[int, ...], ...]
    numbers: tuple[Any, ...]
    arguments: dict[str, Any]
    copies: Copies | None = None


_PLAIN = frozenset((bool, str, bytes, type(None)))


def take_apart(arguments: dict[str, Any], static: frozenset[str], ambient: Any) -> Call:
    """The call with these arguments; NumPy arrays among them become tensors.

    Raises TypeError naming the path of a leaf that cannot be hashed.
    """
    key: list[Any] = [ambient]
    cells: list[Any] = []
    shapes: list[Any] = []
    numbers: list[Any] = []
    copies: Copies | None = None
    for name, value in arguments.items():
        if name in static:
            key.append((type(value), _static_key(value, name)))
            continue
        kind = type(value)
        if kind is Tensor or kind is Variable:
            leaves: Sequence[Any] = (value,)
        elif kind is float or kind is int:
            key.append(kind)
            numbers.append(value)
            continue
        elif _is_array(value):
            leaves = (_as_cell(value),)
            arguments = {**arguments, name: leaves[0]}
        else:
            leaves, spec = tree.flatten(value)
            key.append(spec)
            if any(map(_is_array, leaves)):
                copies = copies or Copies()
                arguments = {**arguments, name: copies.replace(value, _as_cell)}
                leaves = tree.leaves(arguments[name])
        for position, leaf in enumerate(leaves):
            kind = type(leaf)
            if kind is Tensor or kind is Variable:
                array = leaf._value
                cells.append(leaf)
                shapes.append(array.shape)
                key += (kind, array.dtype, len(array.shape))
            elif kind is float or kind is int:
                key.append(kind)
                numbers.append(leaf)
            elif kind in _PLAIN:
                key.append((kind, leaf))
            else:
                key.append((kind, _static_key(leaf, name, position, arguments)))
    if len(cells) > len(set(map(id, cells))):
        key.append(same_places(cells))
    return Call(tuple(key), cells, tuple(shapes), tuple(numbers), arguments, copies)


def same_places(cells: Sequence[Any]) -> tuple[int, ...]:
    """For each cell the first place where the same one stands."""
    places: dict[int, int] = {}
    return tuple([places.setdefault(id(cell), k) for k, cell in enumerate(cells)])


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, np.generic))


def _as_cell(leaf: Any) -> Any:
    return current().lift(leaf) if _is_array(leaf) else leaf


def _static_key(leaf: Any, name: str, position: int = 0, arguments: Arguments | None = None) -> Any:
    """An object as a key: by value where it defines one, else by identity, held weakly."""
    try:
        return _exact(leaf)
    except TypeError:
        path = name
        if arguments is not None:
            path = tree.paths(tree.flatten(arguments[name])[1], name)[position]
        raise ArgumentError(
            f"{path} is a {type(leaf).__name__}, which cannot be hashed and so keys no trace",
            fix="pass a tuple, a tensor, or a hashable object, or register it as a pytree",
        ).located(here()) from None


def _exact(value: Any) -> Any:
    """What is equal for the same value of the same type only: NaN is NaN, -0.0 is not 0.0."""
    kind = type(value)
    if kind is float:
        return kind, value.hex()
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if isinstance(value, tuple):
        return kind, tuple(map(_exact, value))
    if isinstance(value, Number):
        value.facts.require_open()
        return kind  # in a trace, whose calls of staged functions ask no cache
    if kind is frozenset:
        return kind, frozenset(map(_exact, value))
    if kind is types.MethodType:
        return kind, _exact(value.__func__), _exact(value.__self__)
    if isinstance(value, types.FunctionType) or hashes_by_identity(kind):
        try:
            return weakref.ref(value)
        except TypeError:
            return _Identity(value)
    hash(value)
    return kind, value


def hashes_by_identity(cls: type) -> bool:
    """Whether the class leaves hashing to `object`."""
    found: object = cls.__hash__
    return found is object.__hash__


def weak_parts(key: Any) -> Iterator[weakref.ref[Any]]:
    """The objects that a key holds weakly."""
    if isinstance(key, weakref.ref):
        yield key
    elif isinstance(key, (tuple, frozenset)):
        for part in key:
            yield from weak_parts(part)


class _Identity:
    """An object compared by identity that cannot be held weakly."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.obj is self.obj

    def __hash__(self) -> int:
        return id(self.obj)


# ----- calls as they are shown --------------------------------------------------------------------


class Leaf(NamedTuple):
    """One leaf of a call as `explain()` and the names of inputs see it."""

    path: str
    kind: str  # "tensor", "number", "static"
    value: Any  # a TensorLeaf, the number, or a Described

    def __str__(self) -> str:
        return self.value.text if isinstance(self.value, Described) else str(self.value)


class TensorLeaf(NamedTuple):
    """A tensor leaf: its kind of cell, data type and sizes."""

    cell: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        sizes = ",".join(map(str, self.shape))
        variable = "Variable " if self.cell == "Variable" else ""
        return f"{variable}{SHORT[self.dtype]}[{sizes}]"


class Described(NamedTuple):
    """A static object without holding it: its identity or value, and how it prints."""

    identity: Any
    text: str
    type: str


class Shown(NamedTuple):
    """A call without its values: leaves by path, structures, which tensors are one."""

    leaves: list[Leaf]
    structures: dict[str, str]
    texts: dict[str, str]  # the structures with their leaves
    places: tuple[int, ...]
    ambient: tuple[Any, ...]

    @property
    def tensors(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves if leaf.kind == "tensor"]

    @property
    def numbers(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves if leaf.kind == "number"]


def shown(call: Call, static: frozenset[str]) -> Shown:
    """Every leaf with the path by which the user knows it, in the order of `take_apart`."""
    found: list[Leaf] = []
    structures, texts = {}, {}
    for name, value in call.arguments.items():
        if name in static:
            found.append(Leaf(name, "static", _described(value)))
            continue
        flat, spec = tree.flatten(value)
        own = [leaf_of(*pair) for pair in zip(tree.paths(spec, name), flat, strict=True)]
        found += own
        structures[name] = _structure(spec)
        texts[name] = _filled(structures[name], own)
    return Shown(found, structures, texts, same_places(call.cells), call.key[0])


def _structure(spec: tree.Spec) -> str:
    """`{'a': *, 'b': (*, None)}`."""
    text = str(spec).removeprefix("PyTreeSpec(").removesuffix(")")
    return text.removesuffix(", namespace='stagekit'")


def _filled(structure: str, leaves: Sequence[Leaf]) -> str:
    """A structure with its leaves: `{'a': f32[3], 'b': ('train', None)}`."""
    parts = structure.split("*")
    if len(parts) != len(leaves) + 1:  # a star in a key, or in a class's own text
        return structure
    return parts[0] + "".join(str(x) + part for x, part in zip(leaves, parts[1:], strict=True))


def leaf_of(path: str, leaf: Any) -> Leaf:
    """How a leaf is shown."""
    if isinstance(leaf, Tensor):
        array = leaf._value
        kind = TensorLeaf(type(leaf).__name__, dtype(array.dtype).name, tuple(array.shape))
        return Leaf(path, "tensor", kind)
    if type(leaf) in (int, float):
        return Leaf(path, "number", leaf)
    return Leaf(path, "static", _described(leaf))


def _described(value: Any) -> Described:
    kind = type(value)
    if kind in _PLAIN or isinstance(value, (int, float, complex, tuple)):
        return Described(repr(value), repr(value), kind.__name__)
    name = getattr(value, "__qualname__", None)
    return Described(id(value), name or f"<{kind.__name__}>", kind.__name__)


# ----- patterns -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """The sizes and numbers of a trace: plain where fixed, a name where symbolic."""

    shapes: tuple[tuple[int | str, ...], ...]
    numbers: tuple[Any, ...]  # a plain number, or a `Name`

    @property
    def symbolic(self) -> bool:
        names = any(isinstance(n, str) for shape in self.shapes for n in shape)
        return names or any(isinstance(n, Name) for n in self.numbers)

    def bind(self, shapes: Sequence[tuple[int, ...]], numbers: Sequence[Any]) -> Any:
        """The values of the names for a call, None where it does not fit."""
        if not numbers and shapes == self.shapes:
            return {}
        env: dict[str, Any] = {}
        for wanted, sizes in zip(self.shapes, shapes, strict=True):
            if wanted == sizes:
                continue
            if not bind_shape(wanted, sizes, env):
                return None
        for wanted_number, value in zip(self.numbers, numbers, strict=True):
            if type(wanted_number) is Name:
                env[wanted_number.name] = value
            elif not same(wanted_number, value):
                return None
        return env


class Name(NamedTuple):
    """A symbolic number in a pattern."""

    name: str


def bind_shape(wanted: Sequence[Any], sizes: Sequence[int], env: dict[str, Any]) -> bool:
    """Match sizes against ints and names, giving each new name its size."""
    if len(wanted) != len(sizes):
        return False
    for want, size in zip(wanted, sizes, strict=True):
        if want.__class__ is int:
            if want != size:
                return False
        elif env.setdefault(want, size) != size:
            return False
    return True


def generalize(
    call: Call, seen: Sequence[Pattern], fixed: frozenset[str], names: Names, dynamic: str | bool
) -> Pattern:
    """The pattern for a new trace: symbolic where an earlier one had another size or number.

    A name in `fixed` was needed as a plain value before and stays one.
    """

    def varies(place: Callable[[Pattern], Any], now: Any) -> bool:
        if dynamic is not True and (dynamic is False or not seen):
            return False
        earlier = (place(p) for p in seen)
        return dynamic is True or any(
            isinstance(old, (str, Name)) or not same(old, now) for old in earlier
        )

    shapes = tuple(
        tuple(
            name
            if (name := names.sizes[i][a]) not in fixed
            and varies(lambda p, i=i, a=a: p.shapes[i][a], n)  # type: ignore[misc]
            else n
            for a, n in enumerate(shape)
        )
        for i, shape in enumerate(call.shapes)
    )
    numbers = tuple(
        Name(name)
        if (name := names.numbers[i]) not in fixed and varies(lambda p, i=i: p.numbers[i], n)  # type: ignore[misc]
        else n
        for i, n in enumerate(call.numbers)
    )
    return Pattern(shapes, numbers)


class Names(NamedTuple):
    """Names for the sizes and numbers of a call, from the paths of its leaves."""

    sizes: list[list[str]]
    numbers: list[str]


def names_of(leaves: Sequence[Leaf]) -> Names:
    """`x_0` for axis 0 of `x`, the path itself for a number, made unique."""
    used: set[str] = set()

    def unique(text: str) -> str:
        base = "".join(c if c.isalnum() else "_" for c in text)
        base = base.replace("__", "_").strip("_") or "n"
        found, k = base, 1
        while found in used or found in SHORT:
            k += 1
            found = f"{base}_{k}"
        used.add(found)
        return found

    sizes = [
        [unique(f"{leaf.path}_{axis}") for axis in range(len(leaf.value.shape))]
        for leaf in leaves
        if leaf.kind == "tensor"
    ]
    return Names(sizes, [unique(leaf.path) for leaf in leaves if leaf.kind == "number"])
