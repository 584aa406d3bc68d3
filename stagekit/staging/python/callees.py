"""Builtin functions and container methods whose meaning the bytecode scan knows.

A model gets the machine, the callee's expression, the positional and then all arguments; it
records how they are used and gives the value of the call. A callee without a model is left to
`reads`, which knows the object behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from stagekit.staging.python.symbols import (
    ANY,
    EMPTY,
    FRESH,
    NEW,
    Expr,
    Value,
    as_key,
    bounded,
    nested,
)


class Machine(Protocol):
    """What a model needs of the symbolic machine."""

    parameters: tuple[str, ...]

    def read(self, value: Value, use: str, callee: Value = ...) -> Value: ...
    def write(self, kind: str, bases: Value, names: Iterable[object]) -> None: ...
    def keep(self, value: Value) -> None: ...
    def attr(self, value: Value, name: str) -> Value: ...
    def item(self, value: Value, keys: Value) -> Value: ...
    def each(self, value: Value) -> Value: ...


Model = Callable[[Machine, Expr, "list[Value]", "list[Value]"], Value]


def _passed(m: Machine, value: Value, function: Value) -> Value:
    """The elements of `value`, each of which is passed to a function."""
    return m.read(m.each(m.read(value, "deep")), "escape", function)


def _len(m: Machine, _: Expr, args: list[Value], __: list[Value]) -> Value:
    for value in args:
        m.read(value, "len")
    return NEW


def _plain(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for value in every:
        m.read(value, "content")
        m.read(value, "deep")
    return NEW


def _nothing(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    return NEW


def _globals(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    return frozenset([("globals",)])


def _identity(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for value in args:
        m.read(value, "compare")
    return NEW


def _collect(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    if not args:
        return frozenset([("bag", EMPTY)])
    m.each(args[0])
    return m.read(args[0], "iter")


def _sorted(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for function in every[1:]:
        _passed(m, args[0], function)
    return m.read(args[0], "deep") if args else NEW


def _pick(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for value in args:
        m.read(value, "content")
        m.read(value, "deep")
    for function in every[len(args) :]:
        _passed(m, bounded(EMPTY.union(*args)), function)
    return m.each(args[0]) if len(args) == 1 else bounded(EMPTY.union(*args))


def _next(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    if args:
        m.read(args[0], "next")
    return bounded(EMPTY.union(m.each(args[0]), *args[1:])) if args else NEW


def _enumerate(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for value in args[:1]:
        m.each(value)  # the values it gives may be used where they are not seen
    return frozenset(("enumerate", e) for v in args[:1] for e in m.read(v, "iter"))


def _zip(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for value in args:
        m.each(value)
    return frozenset([("zip", tuple(nested(m.read(v, "iter")) for v in args))])


def _filter(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    if len(args) < 2:
        return NEW
    _passed(m, args[1], args[0])
    return args[1]


def _map(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    m.read(args[0] if args else EMPTY, "escape", frozenset([callee]))
    for value in args[1:]:
        m.keep(_passed(m, value, args[0]))
    return frozenset([("bag", ANY)])


def _getattr(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    if len(args) < 2:
        return ANY
    names = [k[2] for k in args[1] if k[:2] == ("const", str)]
    found = [m.attr(args[0], name) for name in names]
    if len(names) < len(args[1]) or not names:
        keys = frozenset(map(as_key, args[1])) or NEW
        found.append(bounded(("getattr", e, k) for e in args[0] for k in keys) | ANY)
    use = "get" if len(args) > 2 else "load"
    return bounded(m.read(EMPTY.union(*found), use).union(*args[2:]))


def _hasattr(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    for key in args[1] if len(args) > 1 else ():
        if key[:2] == ("const", str):
            m.read(m.attr(args[0], key[2]), "has")
    return NEW


def _setattr(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    names = [k[2] if k[:2] == ("const", str) else None for k in args[1]] if len(args) > 1 else []
    m.write("attr", args[0] if args else EMPTY, names or [None])
    m.keep(EMPTY.union(*args[2:]))
    return NEW


def _vars(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    return m.attr(args[0], "__dict__") if args else NEW


def _type(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    return m.attr(args[0], "__class__") if len(args) == 1 else NEW


def _super(m: Machine, _: Expr, args: list[Value], every: list[Value]) -> Value:
    if len(args) > 1:
        return args[1]
    first = m.parameters[:1]
    return frozenset(("local", name) for name in first) or ANY


def _get(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    if not args:
        return _popitem(m, callee, args, every)
    for key in args[:1]:
        m.read(key, "compare")
    found = m.read(m.item(frozenset([callee[1]]), args[0]), "get")
    return bounded(found.union([("result", callee)], *args[1:]))


def _popitem(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    return bounded(m.each(frozenset([callee[1]])) | {("result", callee)})


def _items(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    m.read(frozenset([callee[1]]), "iter")
    m.each(frozenset([("values", callee[1])]))
    return frozenset([("items", callee[1]), ("result", callee)])


def _values(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    m.read(frozenset([callee[1]]), "iter")
    m.each(frozenset([("values", callee[1])]))
    return frozenset([("values", callee[1]), ("result", callee)])


def _same(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    m.read(frozenset([callee[1]]), "iter")
    return frozenset([callee[1], ("result", callee)])


def _store(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    for value in every:
        m.keep(value)
        m.keep(m.each(value) if callee[2] in ("extend", "update", "extendleft") else EMPTY)
    m.write("inplace", frozenset([callee[1]]), [callee[2]])
    return frozenset([("result", callee), FRESH])


def _setdefault(m: Machine, callee: Expr, args: list[Value], every: list[Value]) -> Value:
    return bounded(_get(m, callee, args, every) | _store(m, callee, args, every))


_FUNCTIONS: dict[str, Model] = {
    **dict.fromkeys(["len"], _len),
    **dict.fromkeys(["list", "tuple", "iter", "reversed", "deque"], _collect),
    **dict.fromkeys(["sorted", "set", "frozenset"], _sorted),
    **dict.fromkeys(["min", "max"], _pick),
    **dict.fromkeys(["range", "isinstance", "issubclass", "callable"], _nothing),
    **dict.fromkeys(["sum", "any", "all", "str", "repr", "print", "int", "float", "bool"], _plain),
    **dict.fromkeys(["abs", "round", "dict", "bytes", "format", "slice", "complex"], _plain),
    **dict.fromkeys(["id", "hash"], _identity),
    "globals": _globals,
    "next": _next,
    "enumerate": _enumerate,
    "zip": _zip,
    "filter": _filter,
    "map": _map,
    "getattr": _getattr,
    "hasattr": _hasattr,
    "setattr": _setattr,
    "delattr": _setattr,
    "vars": _vars,
    "type": _type,
    "super": _super,
}

_METHODS: dict[str, Model] = {
    **dict.fromkeys(["get", "pop", "__getitem__"], _get),
    **dict.fromkeys(["popitem", "popleft"], _popitem),
    **dict.fromkeys(["append", "appendleft", "extend", "extendleft", "insert", "add"], _store),
    "update": _store,
    "setdefault": _setdefault,
    **dict.fromkeys(["copy", "keys"], _same),
    "items": _items,
    "values": _values,
}


def model_of(callee: Expr) -> Model | None:
    if callee[0] == "global":
        return _FUNCTIONS.get(callee[1])
    if callee[0] == "attr" and callee[1][0] not in ("const", "fresh"):
        return _METHODS.get(callee[2])
    return None
