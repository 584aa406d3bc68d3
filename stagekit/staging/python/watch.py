"""What a trace sees of Python: guards on what a function read, and the effects it had.

`with Watch(fn, arguments, ...) as watch:` runs a call under a profile function, which is told of
each function entered and each C function called. The bytecode of a user function is scanned once
(`bytecode`), its reads are followed before it runs (`reads`), and the objects that were there
before are compared afterwards (`outer`).
"""

from __future__ import annotations

import _thread
import builtins
import datetime
import gc
import io
import logging
import os
import random
import sys
import time
import types
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any

from stagekit.staging.python.bytecode import Read, Write, constants, scan
from stagekit.staging.python.origin import Origin
from stagekit.staging.python.outer import Change, Outer, content
from stagekit.staging.python.paths import (
    MISSING,
    SCALARS,
    Guard,
    Path,
    array_state,
    in_classes,
    instance_dict,
)
from stagekit.staging.python.reads import Env, Reader, Site, waits
from stagekit.staging.python.symbols import Expr

_GENERATOR = 0x20 | 0x80 | 0x200
_LIST_METHODS = "append extend insert pop remove clear sort reverse"
_SET_METHODS = "add discard update difference_update intersection_update"
_DICT_METHODS = "setdefault popitem move_to_end __setitem__ __delitem__ __iadd__ __ior__"
_DEQUE_METHODS = "appendleft extendleft popleft rotate symmetric_difference_update __setattr__"
_MUTATORS = frozenset(f"{_LIST_METHODS} {_SET_METHODS} {_DICT_METHODS} {_DEQUE_METHODS}".split())
_CLOCKS = (
    *("time", "perf_counter", "monotonic", "process_time", "thread_time", "clock_gettime"),
    *("sleep", "localtime", "gmtime", "ctime", "asctime", "strftime"),
)


@dataclass(frozen=True)
class Effect:
    """Something the function did to Python that replaying its graph would not do.

    `kind`: print, input, open, time, random, np.random, thread, mutation, attribute, global,
    nonlocal, iterator or leak. `path` names the thing as the user does; `text` is a sentence.
    """

    kind: str
    path: str
    filename: str
    lineno: int
    function: str
    text: str


@dataclass(eq=False)
class _Plan:
    """What entering a code object asks for. `local`: reads and writes that depend on the frame."""

    code: types.CodeType
    user: bool
    done: bool = True
    generator: bool = False
    collects: bool = False  # a hook of the garbage collector
    start: int = 0
    shared: tuple[tuple[Read, ...], tuple[Write, ...]] = ((), ())
    local: tuple[tuple[Read, ...], tuple[Write, ...]] = ((), ())
    names: tuple[str, ...] = ()  # the locals that the reads start from
    keys: frozenset[str] = frozenset()  # those of them whose scalar value matters
    seen: set[Any] = field(default_factory=set)


def is_tree(obj: object) -> bool:
    """Whether a signature keys `obj` by its parts: a scalar, builtin container or dataclass."""
    kind = type(obj)
    fields = in_classes(kind.__mro__, "__dataclass_fields__")
    return kind in SCALARS or issubclass(kind, (tuple, list, dict)) or fields is not MISSING


def _never(_: object) -> bool:
    return False


class Watch:
    """Watches one call of `fn`.

    `arguments` maps parameter names to the objects bound for this call. `is_tensor` names the
    leaves that the tracer binds by path, `is_number` numbers that the tracer follows by itself,
    `is_traced` what must not outlive the trace, `internal` the framework's own files, `is_tree`
    the argument objects whose structure and scalars the signature compares (they get no guards),
    `opaque` the arguments it compares as a whole whatever they are, `roots` the objects of the
    framework that a function may read through it.
    """

    def __init__(
        self,
        fn: Callable[..., object],
        arguments: Mapping[str, object],
        *,
        is_tensor: Callable[[object], bool],
        is_number: Callable[[object], bool] = _never,
        is_traced: Callable[[object], bool] = _never,
        internal: Callable[[str], bool] = _never,
        is_tree: Callable[[object], bool] = is_tree,
        opaque: Collection[str] = ("self",),
        roots: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self._origin = Origin(internal)
        self._outer = Outer(is_tensor, is_tree, self._origin.cls)
        self._reader = Reader(self._outer, self._origin, is_number, is_traced)
        self._nodes = self._outer.nodes
        self._is_tensor, self._is_traced = is_tensor, is_traced
        self._code = _code_of(fn)
        self._arguments = dict(arguments)
        self._muted: types.FrameType | None = None  # inside print and the like nothing is looked at
        self._until: tuple[str, ...] = _RETURN  # the events of that frame that end it
        self._plans: dict[int, _Plan] = {}
        self._alive: list[Any] = []  # what `seen` knows by id
        self._leaves: set[Any] = set(SCALARS)
        self._nested: dict[int, dict[str, list[Path]]] = {}  # cells an inner function inherits
        self._frames: set[int] = set()
        self._calls: dict[int, tuple[str, Site]] = {}  # mutating methods called, by receiver
        self._stores: dict[Any, Site] = {}
        self._effects: dict[Any, Effect] = {}
        self._guards: tuple[Guard, ...] = ()
        self._outer.index(fn)
        for name, value in roots.items():
            self._outer.add(value, Path("global", name, roots))
        for name, value in self._arguments.items():
            self._outer.add(value, Path("argument", name), keyed=name not in opaque)

    # ------------------------------------------------------------------ what was seen

    def path_of(self, obj: object) -> Path | None:
        """The access path of an outer object, those that were read first; None if none is known."""
        read = self._reader.tensors.get(id(obj)) or self._outer.tensors.get(id(obj))
        if read:
            return read[0]
        node = self._nodes.get(id(obj))
        return None if node is None else node.path

    def guards(self) -> tuple[Guard, ...]:
        """What must hold for the trace to be right again; after the `with` block."""
        return self._guards

    def array_guards(self) -> tuple[Guard, ...]:
        """Guards on the content of every outer NumPy array that was read: for a trace that holds
        a constant which NumPy computed, it is not known from which of them."""
        arrays = self._outer.arrays.values()
        return tuple(Guard(path, "array", array_state(a)) for a, path, _ in arrays if _numeric(a))

    def effects(self) -> tuple[Effect, ...]:
        """What the call did to Python, in the order of detection; after the `with` block."""
        return tuple(self._effects.values())

    # ------------------------------------------------------------------ the profile function

    def __enter__(self) -> Watch:
        self._random = _global_states()
        before: Any = sys.getprofile()
        self._before = before
        if hasattr(before, "disable"):  # cProfile: not a Python function, cannot be called
            before.disable()
        sys.setprofile(self._chained if callable(self._before) else self._event)
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self._before, "enable"):
            sys.setprofile(None)
            self._before.enable()
        else:
            sys.setprofile(self._before)
        self._reader.finish()
        self._guards = (*self._reader.guards.values(), *self._aliases())
        self._compare()

    def _chained(self, frame: types.FrameType, event: str, arg: Any) -> None:
        self._event(frame, event, arg)
        self._before(frame, event, arg)

    def _event(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if self._muted is not None:
            if frame is self._muted and event in self._until:
                self._muted = None
        elif event == "call":
            plan = self._plans.get(id(frame.f_code))
            if plan is None:
                plan = self._plan(frame)
            if not plan.done:
                self._enter(frame, plan)
        elif event == "c_call":
            self._c_call(frame, arg)
        elif event == "return" and id(arg) in self._nodes:
            plan = self._plans.get(id(frame.f_code)) or self._plan(frame)
            if plan.user:
                self._reader.note_returned(frame.f_code, arg)

    def _plan(self, frame: types.FrameType) -> _Plan:
        code, file = frame.f_code, frame.f_code.co_filename
        foreign = self._origin.file(file) or (
            file.startswith("<") and self._origin.generated(file, frame.f_globals)
        )
        plan = self._plans[id(code)] = _Plan(code, user=not foreign)
        plan.collects = any(code is getattr(hook, "__code__", None) for hook in gc.callbacks)
        plan.done = not plan.user and code not in _LOGGING and not plan.collects
        if plan.user:
            found = scan(code)
            plan.start, plan.generator = found.start, bool(code.co_flags & _GENERATOR)
            reads = [r for r in found.reads if r.use != "return" or code is self._code]
            plan.shared, plan.local = _split(tuple(reads), found.writes)
            roots = {e for r in plan.local[0] for e in _roots(r.expr)}
            roots |= {e for r in plan.local[0] for c in r.callee for e in _roots(c)}
            roots |= {e for w in plan.local[1] for e in _roots(w.base or ())}
            names = {e[1] for e in roots if e[0] in ("local", "free")}
            plan.names = tuple(sorted(names.union(code.co_freevars) - {"__class__"}))
            plan.keys = frozenset(n for r in plan.local[0] for n in _key_names(r.expr))
            self._name_stores(plan, found.writes)
            for child in constants(code):
                self._nested.setdefault(id(child), {})
        return plan

    def _enter(self, frame: types.FrameType, plan: _Plan) -> None:
        if plan.collects:  # the garbage collector ran it, not the user
            self._muted, self._until = frame, _RETURN
            return
        if not plan.user:
            self._act(frame.f_back, "print", f"logging.{plan.code.co_name}")
            self._muted, self._until = frame, _RETURN
            return
        if frame.f_back is not None and frame.f_back.f_code.co_filename in _IMPORT:
            return  # the body of a module that the call imports
        if plan.generator:
            self._resumed(frame, plan)
        if id(frame.f_globals) not in plan.seen:
            plan.seen.add(id(frame.f_globals))
            self._first(frame, plan)
            plan.done = not plan.names and not plan.generator
        if plan.names:
            values = frame.f_locals
            key = self._key(plan, values)
            if key not in plan.seen:
                plan.seen.add(key)
                self._follow(frame, plan, values)

    def _key(self, plan: _Plan, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """What tells two entries of a frame apart: nothing for tensors and for most scalars."""
        key: list[Any] = []
        leaves = self._leaves
        for name in plan.names:
            value = values.get(name)
            kind = type(value)
            if kind in leaves:
                scalar = name in plan.keys and kind in SCALARS
                key.append((kind, value) if scalar else 0)
            elif self._is_tensor(value):
                leaves.add(kind)
                key.append(0)
            else:
                key.append(id(value))
        return tuple(key)

    # ------------------------------------------------------------------ reads of a frame

    def _env(self, frame: types.FrameType, plan: _Plan, values: dict[str, Any]) -> Env:
        return Env(plan.code, frame.f_globals, values, {}, plan.code is self._code)

    def _first(self, frame: types.FrameType, plan: _Plan) -> None:
        """What does not depend on the frame's variables."""
        env = self._env(frame, plan, {})
        reads, writes = plan.shared
        for write in writes:
            if write.kind == "global":
                self._outer.note_global(frame.f_globals, str(write.name))
        self._reader.enter(reads, env)
        self._note_stores(writes, env)

    def _follow(self, frame: types.FrameType, plan: _Plan, values: Mapping[str, Any]) -> None:
        kept = {name: values[name] for name in plan.names if name in values}
        self._alive.append(kept)
        env = self._env(frame, plan, kept)
        env.cells = self._cells(plan.code, kept)
        for child in constants(plan.code):
            inherited = self._nested.setdefault(id(child), {})
            for name in child.co_freevars:
                known = inherited.setdefault(name, [])
                known += [p for p in env.cells.get(name, ()) if p not in known]
        reads, writes = plan.local
        self._reader.enter(reads, env)
        self._note_stores(writes, env)

    def _cells(self, code: types.CodeType, values: dict[str, Any]) -> dict[str, list[Path]]:
        """The outer closure cells behind the free variables of a frame."""
        found = {n: list(paths) for n, paths in self._nested.get(id(code), {}).items()}
        known = id(code) in self._nested or id(code) in self._outer.functions
        functions = self._outer.functions.get(id(code), [])
        if code.co_freevars and not known:
            functions = [f for f in gc.get_referrers(code) if type(f) is types.FunctionType]
        for function in functions:
            for name, cell in zip(code.co_freevars, function.__closure__ or ()):
                if name != "__class__":
                    found.setdefault(name, []).append(self._outer.note_cell(name, cell)[0])
            self._defaults(function)
        return {n: [p for p in found[n] if _holds(p, values.get(n, MISSING))] for n in found}

    def _defaults(self, function: Any) -> None:
        """The default arguments of an outer function are outer objects too."""
        node = self._nodes.get(id(function))
        if node is not None:
            for name in ("__defaults__", "__kwdefaults__"):
                self._outer.add(getattr(function, name), node.path.attr(name))

    def _note_stores(self, writes: tuple[Write, ...], env: Env) -> None:
        """Remember which line may write to which object, and copy what it may write."""
        for write in writes:
            if write.base is None or waits(write.base):
                continue
            for place in self._reader.evaluate(write.base, env):
                obj = place.obj
                if type(obj) is types.ModuleType and isinstance(write.name, str) and place.path:
                    self._outer.note_global(obj.__dict__, write.name, place.path.attr(write.name))
                if type(obj) not in SCALARS:
                    site = env.site(write.line)
                    self._stores.setdefault((write.kind, id(obj), _name(write.name)), site)
                    self._stores.setdefault((write.kind, id(obj), None), site)

    def _name_stores(self, plan: _Plan, writes: tuple[Write, ...]) -> None:
        for write in writes:
            site = Site(plan.code.co_filename, write.line, plan.code.co_name)
            self._stores.setdefault((write.kind, None, _name(write.name)), site)

    # ------------------------------------------------------------------ acts seen as they happen

    def _c_call(self, frame: types.FrameType, function: Any) -> None:
        act = _ACTS.get(function)
        if act is not None:
            self._act(frame, *act)
            self._muted, self._until = frame, _C_RETURN
            return
        receiver = getattr(function, "__self__", None)
        if receiver is sys.stdout or receiver is sys.stderr:
            self._act(frame, "print", f"sys.stdout.{function.__name__}")
        elif id(receiver) in self._nodes and function.__name__ in _MUTATORS:
            if id(receiver) not in self._calls:
                self._calls[id(receiver)] = function.__name__, self._site(frame)
        elif type(receiver) is random.Random and id(receiver) not in self._calls:
            self._calls[id(receiver)] = function.__name__, self._site(frame)

    def _act(self, frame: types.FrameType | None, kind: str, name: str) -> None:
        """A builtin with an effect was called: by the user, or for the user by pathlib."""
        near = frame
        if kind in ("random", "thread"):  # by the user, or for the user by uuid, threading ...
            return self._effect(kind, name, self._site(frame), f"`{name}` was called")
        while near is not None and near.f_globals.get("__name__", "").startswith("pathlib"):
            near = near.f_back
        if near is not None and not self._origin.file(near.f_code.co_filename):
            site = Site(near.f_code.co_filename, near.f_lineno or 0, near.f_code.co_name)
            self._effect(kind, name, site, f"`{name}` was called")
        return None

    def _site(self, frame: types.FrameType | None) -> Site:
        """The nearest line of the user's code."""
        while frame is not None:
            code = frame.f_code
            if not self._origin.file(code.co_filename):
                return Site(code.co_filename, frame.f_lineno or 0, code.co_name)
            frame = frame.f_back
        return self._start()

    def _start(self) -> Site:
        return Site(self._code.co_filename, self._code.co_firstlineno, self._code.co_name)

    def _resumed(self, frame: types.FrameType, plan: _Plan) -> None:
        """A generator runs on: was it made outside?"""
        known = self._outer.frames.get(id(frame))
        strange = frame.f_lasti > plan.start and id(frame) not in self._frames
        self._frames.add(id(frame))
        if known is None and not strange:
            return
        name = known.path.notation if known is not None else plan.code.co_name
        site = self._site(frame.f_back)
        self._effect("iterator", name, site, f"the generator `{name}` was advanced")

    # ------------------------------------------------------------------ what differs afterwards

    def _effect(self, kind: str, path: str, site: Site, text: str) -> None:
        effect = Effect(kind, path, *site, text)
        self._effects.setdefault((kind, path, site.filename, site.lineno), effect)

    def _compare(self) -> None:
        for change in self._outer.changes():
            self._changed(change)
        for function, site in self._reader.passed:
            if function in _ACTS:
                kind, name = _ACTS[function]
                self._effect(kind, name, site, f"`{name}` was passed on to be called")
        for obj, path, site in self._reader.advanced.values():
            text = f"the {type(obj).__name__} `{path.notation}` was advanced"
            self._effect("iterator", path.notation, site, text)
        for kind, now in _global_states().items():
            if self._random.get(kind, MISSING) != now:
                self._drawn(kind)

    def _drawn(self, kind: str) -> None:
        module = random if kind == "random" else sys.modules["numpy.random"]
        instance = getattr(random, "_inst", None) if kind == "random" else None
        call = self._calls.get(id(instance))
        site = call[1] if call else self._reader.lines.get(id(module), self._start())
        self._effect(kind, kind, site, f"the global state of `{kind}` was used")

    def _changed(self, change: Change) -> None:
        path = _change_path(change)
        kind = "attribute" if change.kind == "global" and change.path.steps else change.kind
        site, method = self._blame(change)
        leaked = any(self._traced(value, 3) for value in change.found)
        if leaked:
            self._effect("leak", path, site, f"a traced tensor was left in `{path}`")
            return
        text = {
            "global": f"the global `{path}` was written",
            "nonlocal": f"the variable `{path}` of an enclosing function was written",
            "attribute": f"`{path}` was written",
            "iterator": f"the iterator `{path}` was advanced",
        }.get(kind, f"the state of `{path}` was used")
        if kind == "mutation":
            name = change.path.notation
            by = f"`{name}.{method}(...)` changes" if method else "an assignment changes"
            text = f"{by} the {type(change.obj).__name__} `{name}`"
        known = kind == "iterator" and any(e.path == path for e in self._effects.values())
        if not known:
            self._effect(kind, path, site, text)

    def _blame(self, change: Change) -> tuple[Site, str | None]:
        """The line that made a change, and the method it called."""
        obj = change.obj
        call = self._calls.get(id(obj))
        if call is not None:
            return call[1], call[0]
        kind = _STORES.get(change.kind, ("deref",))
        targets = (None,) if change.kind == "global" else (id(obj), None)
        for target, how, name in product(targets, kind, (_name(change.key), None)):
            site = self._stores.get((how, target, name))
            if site is not None and (target is not None or name is not None):
                return site, None
        lines = self._reader.lines
        near = lines.get((id(obj), change.key)) or lines.get(id(obj))
        return near or self._stores.get((kind[0], None, None)) or self._start(), None

    def _traced(self, value: Any, depth: int) -> bool:
        """Whether a traced tensor is reachable from something put into an outer object."""
        if self._is_traced(value):
            return True
        known = type(value) in SCALARS or self._is_tensor(value) or id(value) in self._nodes
        if depth == 0 or known:
            return False
        inside = list((instance_dict(value) or {}).values())
        if issubclass(type(value), dict):
            inside += dict.values(value)
        elif issubclass(type(value), (list, tuple, set, frozenset)):
            inside += list(value)[:1000]
        elif type(value) is types.FunctionType:
            inside += [content(cell) for cell in value.__closure__ or ()]
        return any(self._traced(part, depth - 1) for part in inside)

    def _aliases(self) -> list[Guard]:
        """Paths that led to one tensor must lead to one tensor again."""
        out = []
        for key, paths in self._reader.tensors.items():
            known = [p for p in self._outer.tensors.get(key, ()) if p.kind == "argument"]
            first, *others = [*paths, *(p for p in known if p not in paths)]
            out += [Guard(first, "alias", other) for other in others]
        return out


def _numeric(array: Any) -> bool:
    return not array.dtype.hasobject


def _holds(path: Path, value: Any) -> bool:
    return content(path.holder) is value


def _name(key: object) -> object:
    if isinstance(key, tuple) and key[:1] == ("const",):
        key = key[2]
    return key if type(key) in (str, int, bool) else None


def _code_of(fn: Any) -> types.CodeType:
    for candidate in (fn, getattr(fn, "__func__", None), type(fn).__call__):
        code = getattr(candidate, "__code__", None)
        if isinstance(code, types.CodeType):
            return code
    raise TypeError(f"{fn!r} is not a Python function")


def _change_path(change: Change) -> str:
    if change.kind in ("global", "nonlocal"):
        return change.path.notation
    name = change.path.notation
    if issubclass(type(change.obj), type):
        name = change.obj.__qualname__
    if change.kind == "attribute":
        return f"{name}.{change.key}"
    return f"{name}[{change.key!r}]" if change.key is not None else name


def _roots(expr: Any) -> list[Expr]:
    """All roots in an expression, those of keys included."""
    if not isinstance(expr, tuple) or not expr or not isinstance(expr[0], str):
        return []
    if expr[0] in ("local", "free", "global", "import"):
        return [expr]
    return [r for part in expr[1:] for r in _roots(part)] if expr[0] != "const" else []


def _key_names(expr: Any) -> list[str]:
    """The variables whose value is a key in an expression."""
    if not isinstance(expr, tuple) or len(expr) < 2:
        return []
    found = _key_names(expr[1])
    if expr[0] in ("item", "getattr"):
        found += [r[1] for r in _roots(expr[2])]
    return found


def _split(
    reads: tuple[Read, ...], writes: tuple[Write, ...]
) -> tuple[tuple[tuple[Read, ...], tuple[Write, ...]], tuple[tuple[Read, ...], tuple[Write, ...]]]:
    """Reads and writes that depend on globals only, and those that depend on the frame."""

    def is_local(*exprs: Any) -> bool:
        return any(r[0] in ("local", "free") for e in exprs for r in _roots(e))

    local = {r for r in reads if is_local(r.expr, *r.callee)}
    own = {w for w in writes if is_local(w.base) or w.kind == "deref"}
    shared = tuple(r for r in reads if r not in local), tuple(w for w in writes if w not in own)
    return shared, (tuple(r for r in reads if r in local), tuple(w for w in writes if w in own))


def _global_states() -> dict[str, object]:
    """The states of Python's and NumPy's global random generators."""
    states: dict[str, object] = {"random": random.getstate()}
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    if numpy_random is not None:
        kind, keys, *rest = numpy_random.get_state()
        states["np.random"] = (kind, keys.tobytes(), *rest)
    return states


_IMPORT = frozenset(["<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"])
_LOGGING = frozenset(
    getattr(owner, name).__code__
    for owner in (logging, logging.Logger)
    for name in ("debug", "info", "warning", "error", "critical", "exception", "log")
)
_RETURN, _C_RETURN = ("return",), ("c_return", "c_exception")
_STORES = {"attribute": ("attr",), "mutation": ("item", "inplace"), "global": ("global", "attr")}

_ACTS: dict[Any, tuple[str, str]] = {
    builtins.print: ("print", "print"),
    builtins.input: ("input", "input"),
    warnings.warn: ("print", "warnings.warn"),
    io.open: ("open", "open"),
    os.urandom: ("random", "os.urandom"),
    **{
        getattr(_thread, name): ("thread", "Thread.start")
        for name in ("start_new_thread", "start_joinable_thread")
        if hasattr(_thread, name)
    },
    datetime.datetime.now: ("time", "datetime.now"),
    datetime.datetime.utcnow: ("time", "datetime.utcnow"),
    datetime.datetime.today: ("time", "datetime.today"),
    datetime.date.today: ("time", "date.today"),
    **{
        getattr(time, name): ("time", f"time.{name}")
        for clock in _CLOCKS
        for name in (clock, f"{clock}_ns")
        if hasattr(time, name)
    },
}

__all__ = ["Effect", "Watch", "is_tree"]
