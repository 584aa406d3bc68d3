"""From the expressions a scan found to guards: chains are followed on the objects themselves.

`Reader.enter` follows the reads of one frame from its globals, closure cells and parameters.
Values are those before the trace, where `Outer` has a copy. Chains that start from an unknown
object or from a call's result wait until `finish`, and are then tried by name on every outer
object that the trace has touched.
"""

from __future__ import annotations

import enum
import sys
import types
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from stagekit.staging.python.bytecode import Read
from stagekit.staging.python.origin import Origin
from stagekit.staging.python.outer import KEYS, OPEN, Node, Outer, content, items_of, sources
from stagekit.staging.python.paths import (
    CONTAINERS,
    MISSING,
    SCALARS,
    Guard,
    Path,
    array_state,
    hold,
    in_classes,
    instance_dict,
    is_array,
    module_name,
    peek,
    pick,
    unwrap,
)
from stagekit.staging.python.symbols import CHAINS, FRESH, SLICE, WILD, Expr, root

MAX_PLACES = 2_000
MAX_GUARDS = 20_000
MAX_ROUNDS = 64
_SEQUENCES = (list, tuple)
_ARRAY_FACTS = frozenset(
    ["shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"]
)
_COPYING = frozenset(["copy", "dataclasses", "json", "pickle", "operator", "_operator", "pprint"])
_GENERATOR = 0x20 | 0x80 | 0x200


class Site(NamedTuple):
    """A line of the user's code."""

    filename: str
    lineno: int
    function: str


class Place(NamedTuple):
    """What a chain leads to. Without a path it was made inside the call, or is foreign.

    `keyed`: compared by the signature. `absent`: there was no such name; `obj` is MISSING."""

    obj: Any
    path: Path | None = None
    keyed: bool = False

    @property
    def absent(self) -> bool:
        return self.obj is MISSING

    @property
    def outer(self) -> bool:
        return self.path is not None and not self.keyed


@dataclass(eq=False)
class Env:
    """One entry of a frame: where the roots of its chains are found."""

    code: types.CodeType
    globals: dict[str, Any]
    locals: dict[str, Any]
    cells: dict[str, list[Path]]
    top: bool
    memo: dict[Expr, list[Place]] = field(default_factory=dict)

    def site(self, line: int) -> Site:
        return Site(self.code.co_filename, line, self.code.co_name)


def waits(expr: Expr) -> bool:
    """Whether an expression is known only after the trace: by name, or as a call's result."""
    while expr[0] in CHAINS and expr[0] != "result":
        expr = expr[1]
    return expr[0] in ("wild", "result")


class Reader:
    """Collects guards while frames are entered."""

    def __init__(
        self,
        outer: Outer,
        origin: Origin,
        is_number: Callable[[object], bool],
        is_traced: Callable[[object], bool],
    ) -> None:
        self.outer = outer
        self.origin = origin
        self.is_number = is_number
        self.is_traced = is_traced
        self.guards: dict[tuple[Path, str], Guard] = {}
        self.tensors: dict[int, list[Path]] = {}  # tensors at the end of a chain that was read
        self.touched: dict[int, Place] = {}
        self.lines: dict[Any, Site] = {}  # where an object, or its attribute, was first read
        self.advanced: dict[int, tuple[Any, Path, Site]] = {}  # iterators whose state is hidden
        self.passed: list[tuple[Any, Site]] = []  # builtin functions given to be called elsewhere
        self.returned: dict[int, tuple[types.CodeType, dict[int, Any]]] = {}
        self.drawn: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # what iterators iterate over
        self.waiting: dict[Any, tuple[Read, Env]] = {}
        self.unsettled = False  # a chain goes through what a user function will return

    # ------------------------------------------------------------------ entering and finishing

    def enter(self, reads: Iterable[Read], env: Env) -> None:
        """Follow the reads of a frame that is about to run."""
        self.unsettled = False
        for read in reads:
            waiting = waits(read.expr) or any(map(waits, read.callee))
            if not waiting:
                self._use(read, env, self.evaluate(read.expr, env))
            if waiting or self.unsettled:
                self.waiting.setdefault(self._waiting_key(read, env), (read, env))

    def _waiting_key(self, read: Read, env: Env) -> Any:
        by_name = root(read.expr) == WILD and not read.callee
        return (read.expr, read.use) if by_name else (read.expr, read.use, read.callee, id(env))

    def finish(self) -> None:
        """Follow what waited, until nothing more is found."""
        for _ in range(MAX_ROUNDS):
            known = len(self.guards), len(self.touched)
            for read, env in list(self.waiting.values()):
                env.memo.clear()
                places = self.evaluate(read.expr, env)
                if root(read.expr) == WILD:
                    places = [p for p in places if self._by_name(p)]
                self._use(read, env, places)
            if known == (len(self.guards), len(self.touched)):
                break
        self.waiting.clear()

    def _by_name(self, place: Place) -> bool:
        return not place.absent and type(place.obj) is not types.FunctionType

    def note_returned(self, code: types.CodeType, obj: Any) -> None:
        """A user function returned or yielded an outer object."""
        self.returned.setdefault(id(code), (code, {}))[1][id(obj)] = obj

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, expr: Expr, env: Env) -> list[Place]:
        """The places an expression leads to."""
        known = env.memo.get(expr)
        if known is None:
            env.memo[expr] = []  # a chain through itself leads nowhere
            step = getattr(self, "_eval_" + expr[0], None)
            known = [] if step is None else list(step(expr, env))[:MAX_PLACES]
            env.memo[expr] = known
        return known

    def _eval_const(self, expr: Expr, env: Env) -> list[Place]:
        return [Place(expr[2])]

    def _eval_code(self, expr: Expr, env: Env) -> list[Place]:
        return [Place(expr[1])]

    def _eval_global(self, expr: Expr, env: Env) -> list[Place]:
        name = expr[1]
        if name not in env.globals and self._builtin(env, name) is not MISSING:
            return [Place(self._builtin(env, name))]
        value, path = self.outer.note_global(env.globals, name), Path("global", name, env.globals)
        now = env.globals.get(name, MISSING)
        if now is not value and now is not MISSING and self.outer.nodes.get(id(now)):
            return [Place(value, path), self.by_identity(now)]
        return [Place(value, path)]

    def _builtin(self, env: Env, name: str) -> Any:
        found = env.globals.get("__builtins__", MISSING)
        namespace = found if type(found) is dict else instance_dict(found)
        return (namespace or {}).get(name, MISSING)

    def _eval_import(self, expr: Expr, env: Env) -> list[Place]:
        names = {expr[1], expr[1].partition(".")[0]}
        return [self._module(sys.modules[name], name) for name in names if name in sys.modules]

    def _module(self, module: Any, name: str) -> Place:
        if self.origin.module(module):
            return Place(module)
        return Place(module, Path("global", name, sys.modules))

    def _eval_free(self, expr: Expr, env: Env) -> list[Place]:
        paths = env.cells.get(expr[1], [])
        if not paths:
            return self._eval_local(expr, env)
        found = [Place(self.outer.cells[id(p.holder)][1], p) for p in paths]
        now = [content(p.holder) for p in paths]
        moved = [n for n, f in zip(now, found) if n is not f.obj and id(n) in self.outer.nodes]
        return found + [self.by_identity(n) for n in moved]

    def _eval_local(self, expr: Expr, env: Env) -> list[Place]:
        value = env.locals.get(expr[1], MISSING)
        return [] if value is MISSING else [self.by_identity(value)]

    def by_identity(self, obj: Any) -> Place:
        """An object met as a local variable: outer if it was seen from a root."""
        if type(obj) in SCALARS:
            return Place(obj)
        node = self.outer.nodes.get(id(obj))
        return Place(obj) if node is None else Place(obj, node.path, node.keyed)

    def _eval_wild(self, expr: Expr, env: Env) -> list[Place]:
        return list(self.touched.values())

    def _eval_attr(self, expr: Expr, env: Env) -> list[Place]:
        return self._each_base(expr, env, lambda base: self.attribute(base, expr[2]))

    def _eval_getattr(self, expr: Expr, env: Env) -> list[Place]:
        keys = self._keys(expr[2], env)
        out: list[Place] = []
        for base in self.evaluate(expr[1], env):
            names = self._attribute_names(base) if keys is None else keys
            out += [p for n in names if isinstance(n, str) for p in self.attribute(base, n)]
        return out

    def _each_base(
        self, expr: Expr, env: Env, step: Callable[[Place], Iterable[Place]]
    ) -> list[Place]:
        bases = self.evaluate(expr[1], env)
        out: list[Place] = []
        for base in bases:
            if not base.absent and len(out) < MAX_PLACES:
                out += step(base)
        return [p for p in out if not p.absent] if root(expr) == WILD else out

    def _eval_item(self, expr: Expr, env: Env) -> list[Place]:
        keys = self._keys(expr[2], env)
        if keys is None:
            return self._eval_each(("each", ("values", expr[1])), env)
        return self._each_base(expr, env, lambda b: [p for k in keys for p in self.element(b, k)])

    def _keys(self, expr: Expr, env: Env) -> list[Any] | None:
        """The values a key may have; None when unknown."""
        if expr in (FRESH, WILD, SLICE) or waits(expr):
            return None
        keys = [p.obj for p in self.evaluate(expr, env) if not p.absent]
        return keys if keys and all(_is_key(k) for k in keys) else None

    def _eval_each(self, expr: Expr, env: Env) -> list[Place]:
        inner = expr[1]
        if inner[0] == "values":
            return self._each_base(inner, env, self.values)
        if inner[0] == "result":
            return [p for b, lazy in self._results(inner, env) for p in self._drawn(b, lazy)]
        return self._each_base(expr, env, self.elements)

    def _drawn(self, place: Place, lazy: bool) -> list[Place]:
        return [place] if lazy else self.elements(place)

    def _eval_values(self, expr: Expr, env: Env) -> list[Place]:
        return self.evaluate(expr[1], env)

    _eval_items = _eval_enumerate = _eval_values

    def _eval_result(self, expr: Expr, env: Env) -> list[Place]:
        return [place for place, lazy in self._results(expr, env) if not lazy]

    def _results(self, expr: Expr, env: Env) -> list[tuple[Place, bool]]:
        """What user functions that this call may have entered returned; True: as a generator."""
        callees = self.evaluate(expr[1], env)
        weak = [c for c in callees if type(c.obj) is weakref.ref and c.obj() is not None]
        if weak:
            return [(self._referent(c), False) for c in weak]
        codes = {id(c) for c in map(self.code_of, callees) if c is not None}
        if callees and not codes:
            return []
        name = expr[1][2] if expr[1][0] == "attr" else expr[1][1] if len(expr[1]) > 1 else None
        out = []
        for key, (code, objects) in self.returned.items():
            if key in codes or (not callees and name in (code.co_name, None)):
                lazy = bool(code.co_flags & _GENERATOR)
                out += [(self.by_identity(obj), lazy) for obj in objects.values()]
        return out

    def _referent(self, place: Place) -> Place:
        obj = place.obj()
        path = None if place.path is None or self.outer.is_tensor(obj) else place.path.call()
        return Place(obj, path)

    def _given_by(self, function: Any) -> list[Place]:
        """What a property, `__getitem__` or generator of the user gave or will give."""
        code = function if type(function) is types.CodeType else self.code_of(Place(function))
        self.unsettled = True
        known = self.returned.get(id(code))
        return [] if known is None else [self.by_identity(obj) for obj in known[1].values()]

    def _method_gives(self, obj: Any, *names: str) -> list[Place]:
        found = [in_classes(type(obj).__mro__, name) for name in names]
        return [p for f in found if type(f) is types.FunctionType for p in self._given_by(f)]

    def code_of(self, place: Place) -> types.CodeType | None:
        """The code that calling this object enters, if it is the user's."""
        obj, cls = place.obj, type(place.obj)
        if cls is types.MethodType:
            return self.code_of(Place(obj.__func__))
        if cls is types.FunctionType:
            return None if self.origin.file(obj.__code__.co_filename) else obj.__code__
        if cls is types.CodeType:
            return place.obj  # type: ignore[no-any-return]
        if issubclass(cls, partial):
            return self.code_of(Place(obj.func))
        inside = MISSING if issubclass(cls, type) else in_classes(cls.__mro__, "__call__")
        if type(inside) is types.FunctionType and not self.origin.file(inside.__code__.co_filename):
            return inside.__code__
        wrapped = (instance_dict(obj) or {}).get("__wrapped__")
        return None if wrapped is None else self.code_of(Place(wrapped))

    # ------------------------------------------------------------------ steps

    def _node(self, place: Place) -> Node | None:
        if place.path is not None and id(place.obj) not in self.outer.nodes:
            self.outer.add(place.obj, place.path, place.keyed)
        return self.outer.nodes.get(id(place.obj))

    def _opaque(self, obj: Any) -> bool:
        """Whether an object's attributes are nobody's business: a tensor, or of a foreign class."""
        cls = type(obj)
        if cls in SCALARS or self.outer.is_tensor(obj):
            return True
        if issubclass(cls, type):
            return self.origin.cls(obj)
        if issubclass(cls, types.ModuleType):
            return self.origin.module(obj)
        known = (types.FunctionType, types.MethodType, partial)
        return self.origin.cls(cls) and cls.__name__ not in OPEN and not issubclass(cls, known)

    def attribute(self, base: Place, name: str) -> list[Place]:
        """`base.name` before the trace, and now where that is another outer object."""
        if name == "__class__":
            path = None if base.path is None else base.path.attr(name)
            return [Place(type(base.obj), path)]
        if name == "__dict__":
            return []
        if base.path is None or self._opaque(base.obj):
            now = [self.by_identity(v) for v in self._now(base.obj, name)]
            found = in_classes(type(base.obj).__mro__, name)
            return now if now or found is MISSING else self._computed(found)
        path = base.path.attr(name)
        if issubclass(type(base.obj), types.ModuleType):
            return [Place(self.outer.note_global(base.obj.__dict__, name, path), path)]
        node, now = self._node(base), self._now(base.obj, name)
        if node is not None and node.attrs is not None and name in node.attrs:
            before = node.attrs[name]
            if issubclass(type(base.obj), type):
                before = unwrap(before)
            if before is MISSING:
                return self._computed(node.attrs[name])
            moved = [self.by_identity(v) for v in now if v is not before]
            found = self._child(base, before, path)
            return [found, *(p for p in moved if p.path is not None)]
        if name in (instance_dict(base.obj) or {}) and node is not None and node.attrs is not None:
            return [Place(MISSING, path), *map(self.by_identity, now)]  # written by the call itself
        if now:
            return [Place(now[0], path)]
        found = in_classes(type(base.obj).__mro__, name)
        if found is MISSING:
            return [Place(MISSING, path), *self._method_gives(base.obj, "__getattr__")]
        return self._computed(found)

    def _computed(self, descriptor: Any) -> list[Place]:
        """What a property or another descriptor of the user gives."""
        getter = self._now(descriptor, "fget") or self._now(descriptor, "func")
        return self._given_by(getter[0]) if getter else self._method_gives(descriptor, "__get__")

    def _now(self, obj: Any, name: str) -> list[Any]:
        try:
            return [peek(obj, name)]
        except AttributeError:
            return []

    def _attribute_names(self, base: Place) -> list[str]:
        node = self._node(base)
        return list(node.attrs or ()) if node is not None else []

    def _items(self, place: Place) -> Any:
        """What a container held before the trace, or holds now if it was made inside."""
        node = self._node(place)
        return items_of(place.obj) if node is None or node.items is None else node.items

    def _contents(self, place: Place) -> Place:
        """The list or dictionary inside a UserList or UserDict."""
        if _is_user_container(type(place.obj)):
            return next(iter(self.attribute(place, "data")), place)
        return place

    def element(self, base: Place, key: Any) -> list[Place]:
        """`base[key]` of a container."""
        base = self._contents(base)
        if self.outer.is_tensor(base.obj):
            return []
        if type(base.obj) is ChainMap:
            maps = [m for place in self.attribute(base, "maps") for m in self.values(place)]
            return [p for m in maps for p in self.element(m, key)]
        if not _is_container(base.obj):
            return self._method_gives(base.obj, "__getitem__")
        path = None if base.path is None else base.path.item(key)
        try:
            now = [pick(base.obj, key)]
        except (LookupError, TypeError):
            now = []
        items = self._items(base)
        before = _before(items, key, now)
        if before is MISSING and path is None:
            return []
        moved = [self.by_identity(v) for v in now if v is not before]
        return [self._child(base, before, path), *(p for p in moved if p.path is not None)]

    def _child(self, base: Place, value: Any, path: Path | None) -> Place:
        if path is None:
            return Place(MISSING) if value is MISSING else self.by_identity(value)
        keyed = base.keyed and (self.outer.is_tree(value) or type(value) in SCALARS)
        return Place(value, path, keyed)

    def elements(self, base: Place) -> list[Place]:
        """What iteration over `base` gives."""
        base = self._contents(base)
        if issubclass(type(base.obj), dict):
            return [Place(key) for key in self._items(base) if type(key) not in SCALARS]
        return self.values(base)

    def values(self, base: Place) -> list[Place]:
        """The elements of a sequence or set, the values of a dictionary."""
        base = self._contents(base)
        if self.outer.is_tensor(base.obj):
            return []
        if not _is_container(base.obj):
            return self._drawn_from(base.obj)
        items = self._items(base)
        if items is None:
            return []
        pairs = items.items() if isinstance(items, dict) else enumerate(items)
        ordered = isinstance(items, dict) or not issubclass(type(base.obj), (set, frozenset))
        out = []
        for key, value in pairs:
            named = ordered and type(key) in KEYS
            path = base.path.item(key) if named and base.path is not None else None
            out.append(self._child(base, value, path))
            if len(out) >= MAX_PLACES:
                break
        return out

    def _drawn_from(self, obj: Any) -> list[Place]:
        """What an iterator, a generator or an iterable object of the user gives."""
        if type(obj) is types.GeneratorType:
            return self._given_by(obj.gi_code)
        known = self.drawn.setdefault(id(obj), (obj, sources(obj)))[1]  # before it is exhausted
        inner = [self.elements(self.by_identity(source)) for source in known]
        if type(obj) is zip or type(obj) is enumerate:
            columns = inner if type(obj) is zip else [[Place(None)] * len(inner[0]), inner[0]]
            rows = zip(*columns)
            return [Place(tuple(p.obj for p in row)) for row in islice(rows, MAX_PLACES)]
        given = self._method_gives(obj, "__iter__", "__next__", "__getitem__")
        return [p for places in inner for p in places] + given

    # ------------------------------------------------------------------ uses

    def _use(self, read: Read, env: Env, places: list[Place]) -> None:
        if read.use == "load" and read.expr[0] in ("each", "item") and self._whole(read, env):
            return
        if read.use == "escape" and not self._leaves(read, env):
            return
        if read.use == "return" and not env.top:
            return
        use = getattr(self, "_use_" + read.use)
        if read.use not in ("load", "get", "has", "same"):
            places = [self._contents(p) for p in places]
        self._note_lines(read, env, places)
        for place in places:
            use(place, read, env)

    def _note_lines(self, read: Read, env: Env, places: list[Place]) -> None:
        site = env.site(read.line)
        for place in places:
            if type(place.obj) not in SCALARS and not place.absent:
                self.lines.setdefault(id(place.obj), site)
        if read.expr[0] == "attr" and not waits(read.expr):
            for base in self.evaluate(read.expr[1], env):
                self.lines.setdefault((id(base.obj), read.expr[2]), site)
                if read.expr[2] not in _ARRAY_FACTS:
                    self._use_content(base, read, env)

    def _whole(self, read: Read, env: Env) -> bool:
        """One guard for all of a sequence of scalars that is read element by element."""
        expr = read.expr
        if expr[0] == "item" and self._keys(expr[2], env) is not None:
            return False
        inner = expr[1][1] if expr[1][0] == "values" else expr[1]
        if inner[0] == "result":
            return False
        bases = [b for b in self.evaluate(inner, env) if b.path is not None]
        scalars = [b for b in bases if self._is_scalars(b)]
        for base in scalars:
            self._sequence(base)
        return bool(scalars) and len(scalars) == len(bases)

    def _is_scalars(self, place: Place) -> bool:
        if type(place.obj) not in _SEQUENCES:
            return False
        items = self._items(place)
        return bool(items) and set(map(type, items)) <= SCALARS

    def _sequence(self, place: Place) -> None:
        value = self._items(place)
        self.guard(place, "tuple", list(value) if type(place.obj) is list else value)

    def _leaves(self, read: Read, env: Env) -> bool:
        """Whether an argument goes to code that is not scanned."""
        places = [p for c in read.callee for p in self.evaluate(c, env)]
        return not places or any(not self._is_user(p) for p in places)

    def _is_user(self, place: Place) -> bool:
        if issubclass(type(place.obj), type):
            return not self.origin.cls(place.obj)
        return self.code_of(place) is not None

    def _use_load(self, place: Place, read: Read, env: Env) -> None:
        if place.absent:
            self.guard(place, "missing", True)
        elif place.outer:
            self.touched.setdefault(id(place.obj), place)
            self._value(place)

    _use_get = _use_load

    def _value(self, place: Place) -> None:
        """The guard on what a load gave, by its type."""
        obj, cls = place.obj, type(place.obj)
        if cls in SCALARS:
            kinds = {str: "string", bytes: "string", type(None): "none"}
            self.guard(place, kinds.get(cls, "number"), obj)
        elif self.outer.is_tensor(obj):
            paths = self.tensors.setdefault(id(obj), [])
            if place.path is not None and place.path not in paths:
                self.outer.note_array(obj, place.path)
                paths.append(place.path)
        elif self.is_traced(obj) or self.is_number(obj):
            return
        elif cls is range or _is_numpy_scalar(obj):
            self.guard(place, "number", obj)
        elif cls is tuple and self._is_scalars(place):
            self.guard(place, "tuple", obj)
        elif self._is_instance(obj) and not _is_container(obj):
            self.guard(place, "type", hold(cls))
        elif not _is_container(obj):
            self.guard(place, "identity", hold(obj))

    def _is_instance(self, obj: Any) -> bool:
        """Whether an object is known by what is read from it, so that its class is enough."""
        cls = type(obj)
        if issubclass(cls, (type, enum.Enum, types.ModuleType)):
            return False
        return not self.origin.cls(cls) or cls.__name__ in OPEN

    def _use_has(self, place: Place, read: Read, env: Env) -> None:
        self.guard(place, "missing", place.absent)

    def _use_iter(self, place: Place, read: Read, env: Env) -> None:
        if place.outer and not place.absent and _is_container(place.obj):
            self._structure(place)
        else:
            self._use_content(place, read, env)
            self._use_next(place, read, env)

    def _structure(self, place: Place) -> None:
        """Guard the keys of a dictionary or set, the length of a sequence."""
        items = self._items(place)
        named = isinstance(items, dict) or issubclass(type(place.obj), (set, frozenset))
        if named and all(type(k) in KEYS for k in items):
            kind = tuple if isinstance(items, dict) else frozenset
            self.guard(place, "keys", kind(items))
        else:
            self.guard(place, "length", len(items))

    def _use_next(self, place: Place, read: Read, env: Env) -> None:
        if place.path is None or place.absent or not _hides_progress(place.obj):
            return
        node = self._node(place)
        if node is not None and node.token is None:
            self.advanced.setdefault(id(place.obj), (place.obj, place.path, env.site(read.line)))

    def _use_content(self, place: Place, read: Read, env: Env) -> None:
        """NumPy computes with an outer array, where the tracer cannot see it."""
        if place.outer and is_array(place.obj) and not place.obj.dtype.hasobject:
            self.guard(place, "array", array_state(place.obj))

    def _use_len(self, place: Place, read: Read, env: Env) -> None:
        if place.outer and _is_container(place.obj):
            self.guard(place, "length", len(self._items(place)))

    def _use_truth(self, place: Place, read: Read, env: Env) -> None:
        if place.outer and _is_container(place.obj):
            self.guard(place, "empty", not self._items(place))

    def _use_same(self, place: Place, read: Read, env: Env) -> None:
        if not place.outer or place.absent or type(place.obj) in SCALARS:
            return
        if _is_container(place.obj):
            self.guard(place, "type", hold(type(place.obj)))
        elif not self.outer.is_tensor(place.obj) and not self.is_number(place.obj):
            self.guard(place, "identity", hold(place.obj))

    def _use_compare(self, place: Place, read: Read, env: Env) -> None:
        if not place.outer or place.absent:
            return
        equality = in_classes(type(place.obj).__mro__, "__eq__")
        if _is_container(place.obj):
            self.deep(place)
        elif type(equality) is not types.FunctionType and not _is_numpy_scalar(place.obj):
            self._use_same(place, read, env)

    def _use_deep(self, place: Place, read: Read, env: Env) -> None:
        if type(place.obj) not in SCALARS:  # the load has guarded it
            self.deep(place)

    _use_return = _use_deep

    def _use_escape(self, place: Place, read: Read, env: Env) -> None:
        if type(place.obj) is types.BuiltinFunctionType:
            self.passed.append((place.obj, env.site(read.line)))
        callees = [p.obj for c in read.callee for p in self.evaluate(_maker(c), env)]
        copies = any(getattr(c, "__module__", None) in _COPYING for c in callees if _is_code(c))
        if any(self._computes(c) for c in callees):
            self._use_content(place, read, env)
        if type(place.obj) not in SCALARS:
            self.deep(place, attributes=copies)

    def _computes(self, callee: Any) -> bool:
        """Whether a callee is a function of NumPy or Python, which takes an array as it is."""
        if type(callee) is types.FunctionType:
            return not self.origin.internal(callee.__code__.co_filename)
        return type(callee) is types.BuiltinFunctionType or module_name(type(callee)) == "numpy"

    def _use_attributes(self, place: Place, read: Read, env: Env) -> None:
        self.deep(place, attributes=True)

    def deep(self, place: Place, attributes: bool = False, depth: int = 4) -> None:
        """Guard everything inside a container: it goes where reads are not seen."""
        if place.absent or not place.outer:
            return
        self._value(place)
        obj = place.obj
        if depth == 0 or self.outer.is_tensor(obj) or self.is_traced(obj):
            return
        if _is_container(obj):
            self._deep_container(place, attributes, depth)
        elif self._is_instance(obj) and (attributes or _is_dataclass(obj)):
            names = self._attribute_names(place)
            for child in [c for name in names for c in self.attribute(place, name)]:
                self.deep(child, attributes, depth - 1)

    def _deep_container(self, place: Place, attributes: bool, depth: int) -> None:
        if self._is_scalars(place):
            return self._sequence(place)
        self._structure(place)
        for child in self.values(place):
            self.deep(child, attributes, depth - 1)
        return None

    def guard(self, place: Place, kind: str, value: Any) -> None:
        """Record a guard; the first one for a path and kind is what was there before."""
        if place.outer and len(self.guards) < MAX_GUARDS:
            path: Any = place.path
            self.guards.setdefault((path, kind), Guard(path, kind, value))


def _is_container(obj: object) -> bool:
    cls = type(obj)
    return issubclass(cls, CONTAINERS) or cls is types.MappingProxyType or _is_user_container(cls)


def _is_user_container(cls: type) -> bool:
    return any(c.__name__ in ("UserDict", "UserList") for c in cls.__mro__[:-1])


def _is_dataclass(obj: object) -> bool:
    return in_classes(type(obj).__mro__, "__dataclass_fields__") is not MISSING


def _is_key(key: object) -> bool:
    return type(key) in KEYS or type(key).__hash__ is object.__hash__


def _before(items: Any, key: Any, now: list[Any]) -> Any:
    if isinstance(items, dict):
        return items.get(key, MISSING)
    if isinstance(items, tuple) and type(key) is int and -len(items) <= key < len(items):
        return items[key]
    return now[0] if now and items is None else MISSING


def _maker(callee: Expr) -> Expr:
    return callee[1] if callee[0] == "result" else callee


def _is_code(obj: object) -> bool:
    return issubclass(type(obj), (types.FunctionType, types.BuiltinFunctionType, type))


def _is_numpy_scalar(obj: object) -> bool:
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    return generic is not None and issubclass(type(obj), generic)


def _hides_progress(obj: object) -> bool:
    """An iterator written in C, which keeps its position to itself."""
    found = in_classes(type(obj).__mro__, "__next__")
    return found is not MISSING and type(found) is not types.FunctionType
