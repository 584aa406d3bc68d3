"""The objects that were there before a trace: found from roots, copied shallowly, compared after.

`Outer.add` walks an object breadth first within bounds and keeps for each list, dict, set,
instance or class what it held. That gives three things: the access path of an object, the value
of an attribute or element before the trace, and what the trace changed. No user code is run.
"""

from __future__ import annotations

import operator
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from stagekit.staging.python.paths import (
    CONTAINERS,
    MISSING,
    SCALARS,
    Path,
    array_state,
    in_classes,
    instance_dict,
    is_array,
    module_name,
    peek,
    same_value,
)

MAX_DEPTH = 40
MAX_OBJECTS = 20_000
MAX_ELEMENTS = 2_000  # children of one container that are walked; changes are seen beyond
MAX_BYTES = 1 << 24  # of one array
MAX_COPIED = 1_000_000  # elements of one container that are compared one by one

KEYS = SCALARS | {tuple}
_SET_LIKE = (set, frozenset)
_GENERATORS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
OPEN = frozenset(
    ["SimpleNamespace", "Namespace", "UserDict", "UserList", "ChainMap", "Random", "Generator"]
)


class _Indexed:
    """Iterated by index: its iterators have the type of iterators over the user's sequences."""

    def __getitem__(self, index: int) -> int:
        raise IndexError(index)


_ITERATORS = [iter([]), reversed([]), iter(()), iter(""), iter(range(0)), iter({}), iter(set())]
_ITERATORS += [iter({}.values()), iter({}.items()), iter(_Indexed())]
_REDUCIBLE = frozenset([*map(type, _ITERATORS), enumerate, zip, map, filter])


class Node:
    """One outer object: its path, and what it held before the trace.

    `keyed`: part of an argument whose structure and scalars the signature compares by itself.
    """

    __slots__ = ("attrs", "items", "keyed", "obj", "path", "token")

    def __init__(self, obj: Any, path: Path, keyed: bool) -> None:
        self.obj = obj
        self.path = path
        self.keyed = keyed
        self.attrs: dict[str, Any] | None = None
        self.items: dict[Any, Any] | tuple[Any, ...] | None = None
        self.token: object = None


@dataclass(frozen=True)
class Change:
    """A place that differs after the trace. `key` is the attribute, the key or None; `found` are
    the objects that were put there."""

    kind: str  # attribute, mutation, global, nonlocal, iterator, random, np.random
    path: Path
    obj: Any
    key: Any
    found: tuple[Any, ...]


def items_of(obj: Any) -> dict[Any, Any] | tuple[Any, ...] | None:
    """A copy of what a builtin container holds; a set's elements in no order."""
    cls = type(obj)
    if issubclass(cls, dict):
        ordinary = in_classes(cls.__mro__, "__iter__") is dict.__dict__["__iter__"]
        return dict.copy(obj) if ordinary else _plain_items(obj)
    for kind in CONTAINERS:
        if issubclass(cls, kind):
            if kind is bytearray:
                return (bytes(obj),)
            count = kind.__len__(obj)
            step = count // MAX_COPIED + 1
            return tuple(kind.__iter__(obj))[::step] if step == 1 else (count, *obj[::step])
    return dict(obj) if cls is types.MappingProxyType else None


def _plain_items(obj: Any) -> dict[Any, Any]:
    """The entries of a dictionary that iterates in its own way, where hashing runs no code."""
    return {key: value for key, value in dict.items(obj) if type(key) in KEYS}


def class_dict(cls: type) -> dict[str, Any]:
    """The attributes of a class, copied."""
    return dict(type.__dict__["__dict__"].__get__(cls))


def slots_of(cls: type) -> list[str]:
    """The names of the slots of a class and its bases."""
    found = (n for c in cls.__mro__ for n, v in c.__dict__.items() if type(v) is _MEMBER)
    return [name for name in found if not name.startswith("__")]


_MEMBER = types.MemberDescriptorType


def attributes_of(obj: Any) -> dict[str, Any]:
    """The instance dictionary and the slots, copied."""
    own = instance_dict(obj)
    found = {} if own is None else dict(own)
    for name in slots_of(type(obj)):
        try:
            found[name] = peek(obj, name)
        except AttributeError:
            continue  # an empty slot
    return found


def numpy_state(obj: Any) -> object:
    """The state of a NumPy generator as comparable bytes, None for other objects."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return None
    if isinstance(obj, numpy_random.RandomState):
        kind, keys, *rest = obj.get_state()
        return (kind, keys.tobytes(), *rest)
    return repr(obj.bit_generator.state) if isinstance(obj, numpy_random.Generator) else None


def progress(obj: Any) -> object:
    """How far an iterator or a random generator has come, comparable; None for other objects."""
    cls = type(obj)
    if cls in _GENERATORS:
        frame = getattr(obj, "gi_frame", None) or getattr(obj, "cr_frame", None)
        return (frame is None, frame and frame.f_lasti, frame and id(frame))
    if cls in _REDUCIBLE:
        return _position(obj)
    if module_name(cls) == "itertools" and cls.__name__ in ("count", "repeat"):
        return repr(obj)
    if issubclass(cls, random.Random):
        return random.Random.getstate(obj)
    return numpy_state(obj) if module_name(cls).startswith("numpy.random") else None


def _position(obj: Any) -> object:
    hint = getattr(obj, "__length_hint__", None)
    if hint is not None:
        return hint()
    return tuple(progress(part) for part in obj.__reduce__()[1])


def sources(obj: Any) -> tuple[Any, ...]:
    """What a builtin iterator iterates over."""
    if type(obj) not in _REDUCIBLE:
        return ()
    parts = obj.__reduce__()[1]
    return tuple(p for p in parts if type(p) not in SCALARS)


class Outer:
    """All outer objects met so far."""

    def __init__(
        self,
        is_tensor: Callable[[object], bool],
        is_tree: Callable[[object], bool],
        is_foreign: Callable[[type], bool],
    ) -> None:
        self.is_tensor = is_tensor
        self.is_tree = is_tree
        self.is_foreign = is_foreign
        self.nodes: dict[int, Node] = {}
        self.tensors: dict[int, list[Path]] = {}
        self.functions: dict[int, list[Any]] = {}  # by the id of their code
        self.globals: dict[tuple[int, str], tuple[Path, dict[str, Any], str, Any]] = {}
        self.cells: dict[int, tuple[Path, Any]] = {}
        self.frames: dict[int, Node] = {}  # generators by the id of their frame
        self.arrays: dict[int, tuple[Any, Path, object]] = {}
        self._held: list[Any] = []

    # ------------------------------------------------------------------ finding

    def add(self, obj: Any, path: Path, keyed: bool = False) -> None:
        """Walk everything reachable from `obj` that has not been walked."""
        queue = deque([(obj, path, keyed, 0)])
        while queue:
            obj, path, keyed, depth = queue.popleft()
            full = depth > 0 and len(self.nodes) > MAX_OBJECTS
            if type(obj) in SCALARS or full:
                continue
            if self.is_tensor(obj):
                self._tensor(obj, path)
                continue
            keyed = keyed and self.is_tree(obj)
            if self._enter(obj, path, keyed) and depth < MAX_DEPTH:
                node = self.nodes[id(obj)]
                queue.extend((v, p, keyed, depth + 1) for v, p in self._children(node))

    def _tensor(self, obj: Any, path: Path) -> None:
        paths = self.tensors.setdefault(id(obj), [])
        if not paths:
            self._held.append(obj)
        if len(paths) < 4 and path not in paths:
            paths.append(path)

    def _enter(self, obj: Any, path: Path, keyed: bool) -> bool:
        """Make the node of `obj`; False when its children need no walk."""
        node = self.nodes.get(id(obj))
        if node is not None:
            released = node.keyed and not keyed
            if released:
                node.keyed, node.path = False, path
            return released
        node = self.nodes[id(obj)] = Node(obj, path, keyed)
        self._copy(node)
        return node.attrs is not None or node.items is not None

    def _copy(self, node: Node) -> None:
        obj, cls = node.obj, type(node.obj)
        if cls in _GENERATORS:
            frame = progress_frame(obj)
            self.frames[id(frame)] = node
        node.token = progress(obj)
        node.items = items_of(obj)
        if issubclass(cls, type):
            node.attrs = None if self.is_foreign(obj) else class_dict(obj)
        elif issubclass(cls, types.FunctionType):
            self.index(obj)
            node.attrs = dict(obj.__dict__)
        elif cls is types.MethodType:
            node.attrs = {"__self__": obj.__self__, "__func__": obj.__func__}
        elif issubclass(cls, partial):
            node.attrs = {n: peek(obj, n) for n in ("func", "args", "keywords")}
        elif issubclass(cls, types.ModuleType) or cls in SCALARS:
            node.attrs = None
        elif not self.is_foreign(cls) or cls.__name__ in OPEN:
            node.attrs = attributes_of(obj)
        elif node.items is None:
            self._wrapper(obj)

    def index(self, function: Any) -> None:
        """Remember a function by its code, so that its closure is found when it is entered."""
        function = getattr(function, "__func__", function)
        if type(function) is not types.FunctionType:
            return
        known = self.functions.setdefault(id(function.__code__), [])
        if not any(f is function for f in known):
            known.append(function)
            self._held.append(function)

    def _wrapper(self, obj: Any) -> None:
        """A function inside a property, a static method, a cached or staged function."""
        for name in ("__wrapped__", "__func__", "fget", "fset", "func"):
            try:
                inside = peek(obj, name)
            except AttributeError:
                continue
            if type(inside) is types.FunctionType:
                self.index(inside)

    def _children(self, node: Node) -> Iterator[tuple[Any, Path]]:
        path = node.path
        for name, value in (node.attrs or {}).items():
            if type(value) not in SCALARS and name != "__dict__":
                yield value, path.attr(name)
        if isinstance(node.items, dict):
            for key, value in list(node.items.items())[:MAX_ELEMENTS]:
                if type(key) in KEYS and type(value) not in SCALARS:
                    yield value, path.item(key)
        elif node.items is not None and not issubclass(type(node.obj), _SET_LIKE):
            for index, value in enumerate(node.items[:MAX_ELEMENTS]):
                if type(value) not in SCALARS:
                    yield value, path.item(index)
        cls = type(node.obj)
        if not issubclass(cls, (type, types.ModuleType)) and not self.is_foreign(cls):
            yield from self._classes(cls, path.attr("__class__"))
        for source in sources(node.obj):
            yield source, path.attr("__reduce__")

    def _classes(self, cls: type, path: Path) -> Iterator[tuple[Any, Path]]:
        for index, base in enumerate(cls.__mro__):
            if id(base) not in self.nodes and not self.is_foreign(base):
                yield base, path if index == 0 else path.attr("__mro__").item(index)

    def note_global(self, namespace: dict[str, Any], name: str, path: Path | None = None) -> Any:
        """The value before the trace of a variable of a module; MISSING where there was none."""
        key = (id(namespace), name)
        if key not in self.globals:
            path = path or Path("global", name, namespace)
            value = namespace.get(name, MISSING)
            self.globals[key] = path, namespace, name, value
            if value is not MISSING:
                self.add(value, path)
        return self.globals[key][3]

    def note_cell(self, name: str, cell: Any) -> tuple[Path, Any]:
        """A closure cell and its content before the trace."""
        if id(cell) not in self.cells:
            value = content(cell)
            self.cells[id(cell)] = path, _ = Path("cell", name, cell), value
            if value is not MISSING:
                self.add(value, path)
        return self.cells[id(cell)]

    def note_array(self, array: Any, path: Path) -> None:
        """Remember what a NumPy array held before the trace."""
        if id(array) not in self.arrays and is_array(array):
            self.arrays[id(array)] = array, path, _sample(array)

    # ------------------------------------------------------------------ comparing

    def changes(self) -> Iterator[Change]:
        """Every place that differs from what it held before."""
        for path, namespace, name, value in self.globals.values():
            now = namespace.get(name, MISSING)
            if not _unchanged(value, now):
                yield Change("global", path, namespace, name, (now,))
        for path, value in self.cells.values():
            now = content(path.holder)
            if not _unchanged(value, now):
                yield Change("nonlocal", path, path.holder, path.name, (now,))
        for array, path, before in self.arrays.values():
            if _sample(array) != before:
                yield Change("mutation", path, array, None, ())
        for node in list(self.nodes.values()):
            yield from self._node_changes(node)

    def _node_changes(self, node: Node) -> Iterator[Change]:
        obj = node.obj
        if node.attrs is not None:
            yield from _attribute_changes(node, self._attributes_now(obj))
        if node.items is not None:
            yield from _item_changes(node, items_of(obj))
        if node.token is not None and progress(obj) != node.token:
            yield Change(_stream_kind(obj), node.path, obj, None, ())

    def _attributes_now(self, obj: Any) -> dict[str, Any]:
        cls = type(obj)
        if issubclass(cls, type):
            return class_dict(obj)
        if cls is types.MethodType or issubclass(cls, partial):
            return {n: peek(obj, n) for n in self.nodes[id(obj)].attrs or ()}
        return dict(obj.__dict__) if cls is types.FunctionType else attributes_of(obj)


def _sample(array: Any) -> object:
    """The content of an array, of a very large one some rows."""
    if array.dtype.hasobject or array.size == 0:
        return None
    step = -(-array.nbytes // MAX_BYTES) if array.ndim else 1
    return array_state(array[::step] if step > 1 else array)


def progress_frame(obj: Any) -> Any:
    """The frame of a generator or coroutine, None when it has finished."""
    names = ("gi_frame", "cr_frame", "ag_frame")
    return next((getattr(obj, n) for n in names if hasattr(obj, n)), None)


def content(cell: Any) -> Any:
    """What a closure cell holds, or MISSING."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _unchanged(before: Any, now: Any) -> bool:
    return before is now or same_value(before, now)


def _stream_kind(obj: Any) -> str:
    if issubclass(type(obj), random.Random):
        return "random"
    return "np.random" if module_name(type(obj)).startswith("numpy") else "iterator"


def _attribute_changes(node: Node, now: dict[str, Any]) -> Iterator[Change]:
    before = node.attrs or {}
    for name in [*before, *(n for n in now if n not in before)]:
        value = now.get(name, MISSING)
        if not _unchanged(before.get(name, MISSING), value) and name not in _QUIET:
            yield Change("attribute", node.path, node.obj, name, (value,))


# Written by the interpreter itself: abstract base class caches, annotations on first use.
_QUIET = frozenset(["_abc_impl", "__abstractmethods__", "__slotnames__"])
_QUIET |= {"__annotations__", "__annotate__", "__doc__"}


def _item_changes(node: Node, now: Any) -> Iterator[Change]:
    before: Any = node.items
    if isinstance(before, dict):
        if len(before) == len(now) and _same_items(before, now):
            return
        old = {_key(k): v for k, v in before.items()}
        found = [(k, v) for k, v in now.items() if not _unchanged(old.get(_key(k), MISSING), v)]
        key = found[0][0] if len(found) == 1 and type(found[0][0]) in KEYS else None
        yield Change("mutation", node.path, node.obj, key, tuple(v for _, v in found))
    elif issubclass(type(node.obj), _SET_LIKE):
        fresh = _not_in(before, now)
        if len(before) != len(now) or any(not _has_scalar(v, before) for v in fresh):
            yield Change("mutation", node.path, node.obj, None, fresh)
    elif len(before) != len(now) or not (
        all(map(operator.is_, before, now)) or all(map(_unchanged, before, now))
    ):
        yield Change("mutation", node.path, node.obj, None, _not_in(before, now))


def _not_in(before: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[Any, ...]:
    known = set(map(id, before))
    return tuple(v for v in now if id(v) not in known)


def _same_items(before: dict[Any, Any], now: dict[Any, Any]) -> bool:
    """Whether the same keys in the same order lead to the same values."""
    keys = all(map(operator.is_, before, now)) or all(map(_unchanged, before, now))
    return keys and all(map(_unchanged, before.values(), now.values()))


def _key(key: Any) -> Any:
    """A key to find an entry by without running the key's own `__hash__`."""
    return key if type(key) in KEYS else id(key)


def _has_scalar(value: Any, before: tuple[Any, ...]) -> bool:
    return type(value) in SCALARS and any(same_value(value, v) for v in before)
