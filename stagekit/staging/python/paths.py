"""Access paths (`model.layers[1].w`) and guards on what they lead to.

A path starts from a global, a closure cell or an argument of the call and is read again at every
call. A guard states what was found there. `compile_guards` checks many of them in one function.
Nothing here runs user code: no `__eq__`, `__hash__`, `__getattr__` or property.
"""

from __future__ import annotations

import builtins
import hashlib
import math
import operator
import sys
import types
import weakref
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = (LookupError, AttributeError)
Step = tuple[str, Any]  # (".", name), ("[]", key) or ("()", None): what a weak reference refers to
Arguments = Mapping[str, object]

SCALARS = frozenset([bool, int, float, complex, str, bytes, type(None)])
CONTAINERS = (list, tuple, dict, set, frozenset, deque, bytearray)
MISSING: Any = object()


# ------------------------------------------------------------------ looking without running code


def in_classes(classes: Iterable[type], name: str) -> Any:
    """The first entry `name` in the dictionaries of `classes`, or MISSING."""
    for cls in classes:
        found = cls.__dict__.get(name, MISSING)
        if found is not MISSING:
            return found
    return MISSING


def module_name(cls: type) -> str:
    """The name of the module a class says it comes from, the empty string if it says none."""
    name: object = cls.__module__
    return name if isinstance(name, str) else ""


def instance_dict(obj: object) -> dict[str, Any] | None:
    """`obj.__dict__` where that is a plain dictionary, else None."""
    try:
        found = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


def _is_data(descriptor: object) -> bool:
    kind = type(descriptor).__mro__
    return any(in_classes(kind, name) is not MISSING for name in ("__set__", "__delete__"))


def peek(obj: object, name: str) -> Any:
    """`obj.name` without running user code; AttributeError where it would have to run some."""
    cls = type(obj)
    if name == "__class__":
        return cls
    if issubclass(cls, types.ModuleType):
        found = types.ModuleType.__getattribute__(obj, "__dict__").get(name, MISSING)
    elif issubclass(cls, type):
        found = in_classes(type.__dict__["__mro__"].__get__(obj), name)
        found = _class_special(obj, name) if found is MISSING else unwrap(found)
    else:
        found = _peek_instance(obj, cls, name)
    if found is MISSING:
        raise AttributeError(name)
    return found


def _class_special(obj: Any, name: str) -> Any:
    found = in_classes(type(obj).__mro__, name)
    return found.__get__(obj) if type(found) in _FIELDS else MISSING


_Record = namedtuple("_Record", "field")

# A slot, a C getter, a field of a namedtuple: reading one runs no Python code.
_FIELDS = frozenset(
    [types.MemberDescriptorType, types.GetSetDescriptorType, type(in_classes((_Record,), "field"))]
)


def _peek_instance(obj: object, cls: type, name: str) -> Any:
    found = in_classes(cls.__mro__, name)
    if type(found) in _FIELDS:
        return found.__get__(obj, cls)
    if found is not MISSING and _is_data(found):
        return MISSING
    own = instance_dict(obj)
    if own is not None and name in own:
        return own[name]
    return MISSING if found is MISSING else unwrap(found)


def unwrap(found: Any) -> Any:
    """What a class attribute gives when it is read from the class; MISSING if code would run."""
    if type(found) in (staticmethod, classmethod):
        return found.__func__
    if type(found) in _PLAIN_DESCRIPTORS or in_classes(type(found).__mro__, "__get__") is MISSING:
        return found
    return MISSING


_PLAIN_DESCRIPTORS = frozenset(
    [types.FunctionType, types.BuiltinFunctionType, types.MethodType]
    + [types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType]
    + [type]
)


def pick(obj: Any, key: Any) -> Any:
    """`obj[key]` of a builtin container or a class inheriting from one; LookupError otherwise."""
    cls = type(obj)
    if issubclass(cls, dict):
        found = dict.get(obj, key, MISSING)
        if found is MISSING:
            raise KeyError(key)
        return found
    for kind in (list, tuple, deque):
        if issubclass(cls, kind) and type(key) is int:
            return kind.__getitem__(obj, key)
    if cls is types.MappingProxyType:
        return obj[key]
    raise LookupError(key)


def referent(obj: Any, _: object = None) -> Any:
    """What a weak reference refers to; LookupError when it is gone."""
    found = obj() if type(obj) is weakref.ref else None
    if found is None:
        raise LookupError("no live weak reference")
    return found


def is_array(obj: object) -> bool:
    """Whether an object is a NumPy array or scalar; NumPy is not imported for it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(type(obj), (numpy.ndarray, numpy.generic))


def array_state(obj: Any) -> tuple[object, ...]:
    """Data type, shape and content of a NumPy array, comparable; a long content as its digest."""
    if not is_array(obj) or obj.dtype.hasobject:
        raise LookupError("no array of numbers")
    content = obj.tobytes()
    if len(content) > 4096:
        content = hashlib.blake2b(content).digest()
    return obj.dtype.str, obj.shape, content


_STEPS: dict[str, Callable[[Any, Any], Any]] = {".": peek, "[]": pick, "()": referent}


def size(obj: Any) -> int:
    """`len` of a builtin container, by its base class; LookupError for any other object."""
    for kind in CONTAINERS:
        if issubclass(type(obj), kind):
            return kind.__len__(obj)
    raise LookupError("no builtin container")


def same_value(a: Any, b: Any) -> bool:
    """Equality of type and value of scalars and tuples; NaN equals NaN, -0.0 is not 0.0."""
    if a is b:
        return True
    cls = type(a)
    if cls is not type(b):
        return False
    if cls is float:
        signs = math.copysign(1, a) == math.copysign(1, b)
        return bool(a == b and signs) or bool(a != a and b != b)
    if cls is complex:
        return same_value(a.real, b.real) and same_value(a.imag, b.imag)
    if cls in (tuple, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    if cls in SCALARS or cls is range:
        return bool(a == b)
    if type(cls) is type and module_name(cls) == "numpy":
        return bool(a.tobytes() == b.tobytes())
    return False


# ------------------------------------------------------------------ paths


@dataclass(frozen=True, eq=False, slots=True)
class Path:
    """A way from a root to an object. `holder` is the globals dictionary or the cell; None for an
    argument, which is looked up in the arguments of the call."""

    kind: str  # "global", "cell" or "argument"
    name: str
    holder: Any = None
    steps: tuple[Step, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.kind, self.name, id(self.holder), self.steps

    def __str__(self) -> str:
        return ("cell " if self.kind == "cell" else "") + self.notation

    def __repr__(self) -> str:
        return f"<Path {self}>"

    @property
    def notation(self) -> str:
        """The path as the user would write it: `model.layers[1].w`."""
        forms = {".": ".{}", "[]": "[{}]", "()": "()"}
        steps = (forms[how].format(k if how == "." else _key_text(k)) for how, k in self.steps)
        return self.name + "".join(steps)

    def attr(self, name: str) -> Path:
        return Path(self.kind, self.name, self.holder, (*self.steps, (".", name)))

    def item(self, key: object) -> Path:
        return Path(self.kind, self.name, self.holder, (*self.steps, ("[]", key)))

    def call(self) -> Path:
        return Path(self.kind, self.name, self.holder, (*self.steps, ("()", None)))

    def read(self, arguments: Arguments) -> object:
        """The object the path leads to now; LookupError or AttributeError when there is none."""
        obj = self.start(arguments)
        for how, key in self.steps:
            obj = _STEPS[how](obj, key)
        return obj

    def start(self, arguments: Arguments) -> Any:
        """The root's object; LookupError when the name is unbound."""
        if self.kind == "argument":
            return arguments[self.name]
        if self.kind == "cell":
            try:
                return self.holder.cell_contents
            except ValueError:
                raise LookupError(f"the closure variable {self.name} is unbound") from None
        found = self.holder.get(self.name, MISSING)
        if found is MISSING:
            found = builtins.__dict__[self.name]
        return found


def _key_text(key: object) -> str:
    return repr(key) if type(key) in SCALARS or type(key) is tuple else type(key).__name__


# ------------------------------------------------------------------ guards


class _Strong:
    """Holds an object of a type that cannot be referred to weakly."""

    __slots__ = ("obj",)

    def __init__(self, obj: object) -> None:
        self.obj = obj

    def __call__(self) -> object:
        return self.obj


def hold(obj: object) -> Callable[[], object]:
    """A weak reference where the type allows one."""
    try:
        return weakref.ref(obj)
    except TypeError:
        return _Strong(obj)


@dataclass(frozen=True, eq=False, slots=True)
class Guard:
    """What was found at a path. `kind` tells how `value` is compared:

    number, string, none, tuple   by type and value (`tuple`: a tuple or list of scalars)
    length, empty, keys           of a builtin container
    identity, type                `value()` gives the object or class, held weakly where possible
    array                         dtype, shape and bytes of a NumPy array
    missing                       True: there was nothing; False: there was something
    alias                         `value` is a path that led to the same object
    """

    path: Path
    kind: str
    value: Any

    def holds(self, arguments: Arguments) -> bool:
        """Whether the path leads to the same thing in this call."""
        try:
            now = self.path.read(arguments)
            return bool(_CHECKS[self.kind](self.value, now, arguments))
        except ABSENT:
            return self.kind == "missing" and self.value is True

    def changed(self, arguments: Arguments) -> str | None:
        """What changed, as `global lr: 0.1 -> 0.2`; None if the guard holds."""
        if self.holds(arguments):
            return None
        before, now = self._before(), self._now(arguments)
        if self.kind == "identity" and before == now:
            now = f"another {now}"
        return f"{self.place}: {before} -> {now}"

    @property
    def place(self) -> str:
        """The kind of place and its path: `closure c`, `attribute model.scale`."""
        names = {"global": "global", "cell": "closure", "argument": "argument"}
        kind = names[self.path.kind]
        if self.path.steps:
            kind = "attribute" if self.path.steps[-1][0] == "." else "element"
        return f"{kind} {self.path.notation}"

    def _before(self) -> str:
        if self.kind == "missing":
            return "absent" if self.value else "present"
        if self.kind == "array":
            return "an array"
        if self.kind == "alias":
            return f"the same object as {self.value.notation}"
        if self.kind in ("identity", "type"):
            held = self.value()
            return "a dropped object" if held is None else describe(held)
        if self.kind in ("length", "keys", "empty"):
            return f"{self.kind} {describe(self.value)}"
        return describe(self.value)

    def _now(self, arguments: Arguments) -> str:
        try:
            now = self.path.read(arguments)
            if self.kind in ("length", "keys", "empty"):
                return f"{self.kind} {describe(_measure(self.kind, now))}"
        except ABSENT:
            return "absent"
        if self.kind == "array" and is_array(now):
            return "an array of other values, shape or type"
        if self.kind == "type":
            return describe(type(now))
        return {"missing": "present", "alias": "another object"}.get(self.kind) or describe(now)


def _measure(kind: str, obj: object) -> object:
    if kind == "keys":
        return keys_of(obj)
    return size(obj) if kind == "length" else size(obj) == 0


def keys_of(obj: Any) -> Any:
    """The keys of a dictionary in order, or the elements of a set; for the kind "keys"."""
    if issubclass(type(obj), dict):
        return tuple(dict.keys(obj))
    if issubclass(type(obj), (set, frozenset)):
        return frozenset(obj)
    raise LookupError("no dictionary or set")


def _same_keys(before: Any, now: Any, _: Arguments) -> bool:
    found = keys_of(now)
    if type(before) is not type(found) or len(before) != len(found):
        return False
    if type(before) is frozenset:
        return all(type(k) in SCALARS for k in found) and before == found
    return all(map(same_value, before, found))


def _value_check(before: object, now: object, _: Arguments) -> bool:
    return same_value(before, now)


_CHECKS: dict[str, Callable[[Any, Any, Arguments], object]] = {
    "number": _value_check,
    "string": _value_check,
    "none": _value_check,
    "tuple": _value_check,
    "length": lambda before, now, _: size(now) == before,
    "empty": lambda before, now, _: (size(now) == 0) is before,
    "keys": _same_keys,
    "identity": lambda before, now, _: now is not None and before() is now,
    "type": lambda before, now, _: before() is type(now),
    "array": lambda before, now, _: array_state(now) == before,
    "missing": lambda before, now, _: not before,
    "alias": lambda before, now, arguments: before.read(arguments) is now,
}


def describe(obj: Any) -> str:
    """A short text for a value that runs no user code."""
    cls = type(obj)
    plain = cls in (tuple, list, frozenset) and all(type(e) in SCALARS for e in obj)
    if cls in SCALARS or plain:
        text = repr(obj)
        return text if len(text) <= 60 else text[:57] + "..."
    if issubclass(cls, type):
        return f"class {type.__dict__['__name__'].__get__(obj)}"
    if cls in (types.FunctionType, types.BuiltinFunctionType):
        return f"function {obj.__name__}"
    if cls is types.ModuleType:
        return f"module {obj.__name__}"
    return f"object of class {cls.__name__}"


# ------------------------------------------------------------------ all guards in one function


class _Place:
    """A node of the tree of paths: its guards, the places one step further, and whether what is
    there is asked for.
    """

    __slots__ = ("after", "guards", "path", "wanted")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.guards: list[Guard] = []
        self.after: dict[Any, _Place] = {}
        self.wanted = False


def compile_guards(guards: Sequence[Guard]) -> Callable[[Arguments], int]:
    """One function of the call's arguments: -1 if all guards hold, else the first one's index.

    The function made here walks each shared prefix once. It may only be too strict: whatever it
    cannot confirm is decided by `Guard.holds`, so it never disagrees with the guards.
    """
    held = tuple(guards)

    def slow(arguments: Arguments) -> int:
        return next((i for i, g in enumerate(held) if not g.holds(arguments)), -1)

    writer = Writer("slow(a)", "a", lambda name: f"a[{name!r}]")
    writer.bound["slow"] = slow
    writer.write(held)
    body = "".join(f"        {line}\n" for line in writer.lines)
    source = f"def check(a):\n    try:\n{body}        return -1\n    except GONE:\n"
    source += "        return slow(a)\n"
    exec(compile(source, "<guards>", "exec"), writer.bound)
    return writer.bound["check"]  # type: ignore[no-any-return]


class Writer:
    """Writes source that checks guards and reads paths, each shared prefix once.

    `miss` is the text of what is returned where a guard may not hold, `arguments` that of all
    arguments of the call and `argument` gives that of one. What the lines refer to is in `bound`:
    constants under names made here. They raise one of `GONE` where a path leads nowhere.
    """

    def __init__(self, miss: str, arguments: str, argument: Callable[[str], str]) -> None:
        self.miss, self.arguments, self.argument = miss, arguments, argument
        self.bound: dict[str, Any] = {"peek": peek, "referent": referent, "same": operator.is_}
        self.bound["PLAIN"] = frozenset([dict, list, tuple, OrderedDict, deque])
        self.bound["GONE"] = (*ABSENT, ValueError, TypeError)
        self.bound["holds"] = Guard.holds
        self.lines: list[str] = []
        self.count = 0
        self.found: dict[Path, str] = {}

    def write(self, guards: Sequence[Guard], paths: Sequence[Path] = ()) -> list[str]:
        """Lines for guards and paths; what names the objects at the paths afterwards."""
        roots: dict[Path, _Place] = {}
        for guard in guards:
            _place_of(guard.path, roots).guards.append(guard)
        for path in paths:
            _place_of(path, roots).wanted = True
        for place in roots.values():
            self.start(place.path, place)
        return [self.found.get(path) or self._by_reading(path) for path in paths]

    def _by_reading(self, path: Path) -> str:
        text = self.variable(f"{self.constant(path.read)}({self.arguments})")
        self.found[path] = text
        return text

    def constant(self, value: object) -> str:
        """A name for an object."""
        name = f"_c{len(self.bound)}"
        self.bound[name] = value
        return name

    def name(self) -> str:
        """A name that nothing has yet."""
        self.count += 1
        return f"_v{self.count}"

    def variable(self, expression: str) -> str:
        """A name for the value of an expression."""
        name = self.name()
        self.lines.append(f"{name} = {expression}")
        return name

    def require(self, condition: str) -> None:
        """Miss where the condition does not hold."""
        self.lines.append(f"if not ({condition}): return {self.miss}")

    def start(self, path: Path, place: _Place) -> None:
        if any(g.kind == "missing" for g in place.guards):
            return self._by_method(place)
        if path.kind == "argument":
            expression = self.argument(path.name)
        elif path.kind == "cell":
            expression = f"{self.constant(path.holder)}.cell_contents"
        elif path.name in path.holder:
            expression = f"{self.constant(path.holder)}[{self.constant(path.name)}]"
        else:
            expression = f"{self.constant(path.start)}({self.arguments})"
        return self.place(self.variable(expression), place)

    def _by_method(self, place: _Place) -> None:
        for guard in place.guards:
            self.require(f"holds({self.constant(guard)}, {self.arguments})")
        for after in place.after.values():
            self._by_method(after)

    def _presence(self, v: str, how: str, key: Any, known: Guard | None, place: _Place) -> None:
        """Whether an entry or attribute exists."""
        alone = len(place.guards) == 1 and not place.after
        cls: Any = known.value() if known is not None and known.kind == "type" else None
        there = "not in" if place.guards[0].value else "in"
        if alone and how == "[]" and type(key) is str:
            self.require(f"type({v}) is dict and {self.constant(key)} {there} {v}")
        elif alone and cls is not None and _is_plain(cls, key) and key.isidentifier():
            self.require(f"hasattr({v}, {key!r}) is {not place.guards[0].value}")
        else:
            self._by_method(place)

    def place(self, v: str, place: _Place) -> None:
        if place.wanted:
            self.found[place.path] = v
        for guard in place.guards:
            self.guard(v, guard)
        known = next((g for g in place.guards if g.kind in ("type", "identity")), None)
        checked = False
        for (how, key, _), after in place.after.items():
            if any(g.kind == "missing" for g in after.guards):
                self._presence(v, how, key, known, after)
            elif how == "." and _is_method(known, key, after):
                held = self.held(after.guards[0].value)
                self.require(f"getattr({v}.{key}, '__func__', None) is {held}")
            elif how == ".":
                self.place(self.variable(self.attribute(v, key, known)), after)
            elif how == "()":
                self.place(self.variable(f"referent({v})"), after)
            else:
                if not checked:
                    self.require(f"type({v}) in PLAIN")
                checked = True
                self.place(self.variable(f"{v}[{self.constant(key)}]"), after)

    def attribute(self, v: str, name: str, known: Guard | None) -> str:
        if name == "__class__":
            return f"type({v})"
        cls = known.value() if known is not None else None
        plain = name.isidentifier() and known is not None and cls is not None
        if plain and known is not None and known.kind == "type" and _is_plain(cls, name):
            return f"{v}.{name}"
        if plain and type(cls) is types.ModuleType:
            return f"{v}.__dict__[{name!r}]"
        if plain and type(cls) is type and _is_class_value(cls, name):
            return f"{v}.{name}"
        return f"peek({v}, {name!r})"

    def guard(self, v: str, guard: Guard) -> None:
        kind, value = guard.kind, guard.value
        if kind == "identity":
            self.require(f"{v} is {self.held(value)} and {v} is not None")
        elif kind == "type":
            self.require(f"type({v}) is {self.held(value)}")
        elif kind == "none":
            self.require(f"{v} is None")
        elif kind in ("number", "string"):
            self.scalar(v, value)
        elif kind in ("length", "empty", "keys", "tuple"):
            self._container(v, guard)
        else:
            self.require(f"holds({self.constant(guard)}, {self.arguments})")

    def _container(self, v: str, guard: Guard) -> None:
        """The quick test of an ordinary container, and `holds` where that says no."""
        quick = f"type({v}) in PLAIN and len({v}) == {guard.value}"
        if guard.kind == "empty":
            quick = f"type({v}) in PLAIN and (not {v}) is {guard.value}"
        elif guard.kind == "keys":
            names = all(type(key) is str for key in guard.value)
            quick = f"type({v}) is dict and (*{v},) == {self.constant(guard.value)}"
            quick = quick if names and type(guard.value) is tuple else "False"
        elif guard.kind == "tuple" and type(guard.value) in (list, tuple):
            kind, value = type(guard.value).__name__, self.constant(guard.value)
            quick = f"type({v}) is {kind} and len({v}) == {len(guard.value)}"
            quick += f" and all(map(same, {v}, {value}))"
        self.require(f"({quick}) or holds({self.constant(guard)}, {self.arguments})")

    def held(self, value: Callable[[], object]) -> str:
        """The text of what `value()`, made by `hold`, gives."""
        name = self.constant(value)
        if isinstance(value, _Strong):
            self.bound[name] = value.obj
            return name
        return f"{name}()"

    def scalar(self, v: str, value: Any) -> None:
        """Miss where `v` is not this value of this type."""
        if value is True or value is False:
            return self.require(f"{v} is {value}")
        name, cls = self.constant(value), self.constant(type(value))
        ordinary = type(value) in (int, str, bytes) or (type(value) is float and value != 0.0)
        if ordinary and value == value:
            return self.require(f"{v} is {name} or type({v}) is {cls} and {v} == {name}")
        same = self.constant(same_value)
        return self.require(f"{v} is {name} or {same}({name}, {v})")


def _place_of(path: Path, roots: dict[Path, _Place]) -> _Place:
    """The place of a path in the trees of `roots`."""
    start = now = Path(path.kind, path.name, path.holder)
    place = roots.setdefault(start, _Place(start))
    for step in path.steps:
        now = Path(now.kind, now.name, now.holder, (*now.steps, step))
        place = place.after.setdefault((*step, type(step[1])), _Place(now))
    return place


def _is_plain(cls: Any, name: str) -> bool:
    """Whether `obj.name` on an instance of `cls` reads its dictionary or a slot and no more."""
    if _has_own_lookup(cls):
        return False
    found = in_classes(cls.__mro__, name)
    readable = in_classes(type(found).__mro__, "__get__") is MISSING
    return found is MISSING or type(found) in _FIELDS or readable


def _is_method(known: Guard | None, name: str, place: _Place) -> bool:
    """Whether a place is a method of an instance of a known class, and nothing follows it."""
    cls: Any = known.value() if known is not None and known.kind == "type" else None
    alone = not place.after and [g.kind for g in place.guards] == ["identity"]
    if cls is None or not alone or _has_own_lookup(cls):
        return False
    return type(in_classes(cls.__mro__, name)) is types.FunctionType


def _has_own_lookup(cls: Any) -> bool:
    found = in_classes(cls.__mro__, "__getattribute__")
    own = found is not object.__dict__["__getattribute__"]
    return own or in_classes(cls.__mro__, "__getattr__") is not MISSING


def _is_class_value(cls: Any, name: str) -> bool:
    found = in_classes(cls.__mro__, name)
    if type(found) is types.FunctionType:
        return True
    return found is not MISSING and in_classes(type(found).__mro__, "__get__") is MISSING
