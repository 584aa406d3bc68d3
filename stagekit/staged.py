"""`@sk.function`: a call is matched against the traces made so far, else traced, and explained.

    call -> Call (key, sizes, numbers) -> Entry whose pattern, guards and facts hold -> its plan
                                       -> none: trace, pack, remember
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from stagekit import tree
from stagekit.errors import (
    CheckError,
    DeviceError,
    DTypeError,
    RetraceError,
    ShapeError,
    StagekitWarning,
    TraceError,
    boundary,
    hide_frames,
)
from stagekit.eager.interpreter import EAGER
from stagekit.op import Overlay, current, using
from stagekit.settings import config
from stagekit.source import Location, here, stack_level
from stagekit.staging.concrete import ConcreteFunction
from stagekit.staging.interpreter import Left
from stagekit.staging.report import Cause, Report, cause_of
from stagekit.staging.signature import (
    Call,
    Leaf,
    Names,
    Pattern,
    binding,
    generalize,
    leaves_of,
    names_of,
    take_apart,
)
from stagekit.staging.trace import Entry, Tracer
from stagekit.tensor import Tensor
from stagekit.types import DType, default_float
from stagekit.types import dtype as as_dtype

__all__ = [
    "ConcreteFunction",
    "Function",
    "TensorSpec",
    "function",
    "no_retrace",
    "run_eagerly",
]

# ----- ambient switches ---------------------------------------------------------------------------

_eagerly: ContextVar[bool] = ContextVar("eagerly", default=False)
_forbidden: ContextVar[bool] = ContextVar("no_retrace", default=False)


class run_eagerly:
    """`sk.run_eagerly(True)` for the process, `with sk.run_eagerly():` for this thread.

    Staged functions then run as the plain Python they were made of.

    >>> import stagekit as sk
    >>> with sk.run_eagerly():
    ...     sk.function(lambda x: x + 1)(sk.zeros(()))
    tensor(1., dtype=float32)
    """

    def __init__(self, enabled: bool | None = None) -> None:
        if enabled is not None:
            config.disable = enabled

    def __enter__(self) -> Self:
        self._token = _eagerly.set(True)
        return self

    def __exit__(self, *exc: object) -> None:
        _eagerly.reset(self._token)


@contextmanager
def no_retrace() -> Iterator[None]:
    """A context in which a call that would need a trace raises RetraceError saying why.

    >>> import stagekit as sk
    >>> f = sk.function(lambda x: x + 1)
    >>> _ = f(sk.zeros(2))
    >>> with sk.no_retrace():
    ...     f(sk.zeros(2)).shape
    (2,)
    """
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


# ----- specs --------------------------------------------------------------------------------------


class TensorSpec:
    """A tensor argument without its values: shape (None or a name is symbolic), dtype, device.

    Equal names are equal sizes. Immutable; raises ShapeError for a name that is no identifier.

    >>> TensorSpec(("n", 3))
    TensorSpec(('n', 3), float32)
    """

    __slots__ = ("device", "dtype", "shape")

    def __init__(
        self, shape: Any, dtype: Any = default_float, device: str | None = None
    ) -> None:
        self.shape: tuple[int | str | None, ...] = (
            tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        )
        self.dtype: DType = as_dtype(dtype)
        self.device = device
        for n in self.shape:
            if isinstance(n, str) and not n.isidentifier():
                raise ShapeError(f"TensorSpec: {n!r} is no name", fix="use an identifier")
        if device not in (None, "cpu"):
            raise DeviceError(f"TensorSpec: no device {device!r}", fix="use 'cpu'")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorSpec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.dtype, self.device

    def __repr__(self) -> str:
        device = f", {self.device!r}" if self.device else ""
        return f"TensorSpec({self.shape}, {self.dtype}{device})"


_HINTS = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83)


class _Stand(NamedTuple):
    """Tensors standing for specs, and the pattern in which their sizes are symbolic."""

    arguments: dict[str, Any]
    names: dict[int, tuple[int | str, ...]]


def _stand_ins(arguments: Mapping[str, Any]) -> _Stand:
    """Uninitialized tensors of the specs' types; a named size gets a value of its own as a hint."""
    hints: dict[str, int] = {}
    names: dict[int, tuple[int | str, ...]] = {}
    count = iter(range(10**6))

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, TensorSpec):
            return leaf
        wanted = tuple(f"n{next(count)}" if n is None else n for n in leaf.shape)
        for n in wanted:
            if isinstance(n, str):
                hints.setdefault(n, _HINTS[len(hints) % len(_HINTS)] + 100 * (len(hints) // 20))
        shape = tuple(hints[n] if isinstance(n, str) else n for n in wanted)
        array = np.broadcast_to(np.zeros((), leaf.dtype.numpy), shape)
        cell = Tensor(array)
        names[id(cell)] = wanted
        return cell

    return _Stand({k: tree.map(stand_in, v) for k, v in arguments.items()}, names)


# ----- the cache ----------------------------------------------------------------------------------


class CacheInfo(NamedTuple):
    """As `functools.lru_cache`'s, with the number of paths recorded and signatures dropped."""

    hits: int
    misses: int
    maxsize: int
    currsize: int
    traces: int
    evictions: int


@dataclass(eq=False)
class Family:
    """The traces for one structure: those entries, every pattern seen, what must stay plain."""

    entries: list[Entry] = field(default_factory=list)
    seen: list[Pattern] = field(default_factory=list)
    fixed: set[str] = field(default_factory=set)
    captured: dict[str, list[tuple[int | str, ...]]] = field(default_factory=dict)
    lost: int = 0
    eager: Left | None = None


class Options(NamedTuple):
    """The arguments of `sk.function`."""

    signature: Any = None
    static: tuple[int | str, ...] = ()
    donate: tuple[int | str, ...] = ()
    verify: str | None = None
    dynamic: str | bool = "auto"
    control: str = "speculate"
    compile: str = "now"
    max_traces: int = 64
    max_paths: int = 64
    fastmath: bool = False
    cuda_graphs: bool = True
    device: str | None = None
    name: str | None = None


_CHOICES: dict[str, tuple[Any, ...]] = {
    "verify": (None, "first", "always"),
    "dynamic": ("auto", True, False),
    "control": ("speculate", "error"),
    "compile": ("now", "background"),
    "device": (None, "cpu"),
}

_LOST_LIMIT = 3


class Function:
    """A staged function: call it as the Python function it wraps; see `sk.function`."""

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(options, name) not in allowed:
                kind = DeviceError if name == "device" else ValueError
                listed = ", ".join(map(repr, allowed))
                raise kind(f"function: {name}={getattr(options, name)!r}\n  fix: use one of {listed}")
        self.python_function = self.__wrapped__ = fn
        self.options = options
        functools.update_wrapper(self, fn, updated=())
        self._binding = binding(fn)
        self._static = self._named("static", options.static)
        self._donate = self._named("donate", options.donate)
        self._families: OrderedDict[Any, Family] = OrderedDict()
        self._lock = threading.RLock()
        self._history: list[Entry] = []
        self._hits = self._misses = self._traces = self._evictions = 0
        self._values: dict[str, list[Any]] = {}
        self._warned: set[Any] = set()
        self._bounds: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def _named(self, what: str, places: Any) -> frozenset[str]:
        chosen = places if isinstance(places, (tuple, list)) else (places,)
        found = set()
        for place in chosen:
            known = self._binding.names
            if isinstance(place, int) and place < len(known):
                found.add(known[place])
            elif place in known:
                found.add(place)
            else:
                raise ValueError(
                    f"function: {what}={place!r} is no parameter of {self.__name__}\n"
                    f"  fix: use one of {', '.join(known)}"
                )
        return frozenset(found)

    @property
    def name(self) -> str:
        """The name in graphs and reports."""
        return self.options.name or getattr(self.python_function, "__name__", "function")

    def __repr__(self) -> str:
        return f"<staged function {self.name}>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else Bound(self, instance)

    # ----- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            arguments = self._binding.bind(*args, **kwargs)
            interpreter = current()
            if interpreter.base.traces or config.disable or _eagerly.get():
                return self._inline(arguments)
            call = take_apart(arguments, self._static, self._ambient())
            if self.options.signature is not None:
                call = self._fitted(call)
            family = self._families.get(call.key)
            if family is None:
                return self._miss(call)
            if family.eager is not None:
                return self._eagerly(call)
            for entry in family.entries:
                matched = entry.match(call)
                if matched is not None:
                    return self._hit(family, entry, call, *matched)
            return self._miss(call)
        except Exception as error:
            hide_frames(error)
            raise

    def _ambient(self) -> Any:
        return config.trap, self.options.fastmath

    def _inline(self, arguments: dict[str, Any]) -> Any:
        """The Python function itself, on tensors: in another trace, or where staging is off."""
        call = take_apart(arguments, self._static, None)
        return self._binding.call(self.python_function, call.arguments)

    def _hit(
        self, family: Family, entry: Entry, call: Call, cells: list[Any], env: dict[str, Any]
    ) -> Any:
        self._hits += 1
        if family.entries[0] is not entry:
            with self._lock:
                family.entries.remove(entry)
                family.entries.insert(0, entry)
        if len(self._families) > 1:
            self._families.move_to_end(call.key)
        if entry.eager is not None:
            return self._eagerly(call)
        if self.options.verify == "always":
            return self._verified(entry, call, cells, env)
        return entry.run(cells, env)

    def _eagerly(self, call: Call) -> Any:
        """Run the Python function as a transaction: its writes are seen only if it returns."""
        overlay = Overlay(current())
        with using(overlay):
            out = self._binding.call(self.python_function, call.arguments)
        interpreter = current()
        for cell, stand_in in overlay.cells.values():
            interpreter.write(cell, stand_in._value)
        return out

    # ----- tracing

    def _miss(self, call: Call) -> Any:
        with self._lock:
            self._misses += 1
            leaves = leaves_of(call.arguments, self._static)
            cause = self._cause(call, leaves)
            if _forbidden.get():
                raise RetraceError(
                    f"{self.name}: a trace is needed inside no_retrace(): {cause}",
                    fix="call it once before with such arguments, or leave the context out",
                ).located(here())
            family = self._family(call)
            return self._traced(call, leaves, family, cause)

    def _family(self, call: Call) -> Family:
        family = self._families.get(call.key)
        if family is None:
            family = self._families[call.key] = Family()
            self._forget_with(call.key)
        return family

    def _forget_with(self, key: Any) -> None:
        """Drop the family when an object that it is keyed by dies."""
        me = weakref.ref(self)

        def forget(_: Any, key: Any = key) -> None:
            function = me()
            if function is not None:
                function._families.pop(key, None)

        refs = [
            weakref.ref(part[1](), forget)
            for part in key
            if type(part) is tuple and len(part) == 2 and isinstance(part[1], weakref.ref)
        ]
        if refs:
            self._families[key].watchers = refs  # type: ignore[attr-defined]

    def _traced(self, call: Call, leaves: list[Leaf], family: Family, cause: Cause) -> Any:
        names = names_of(leaves)
        pattern = self._pattern(call, family, names)
        captured = functools.partial(self._captured, family)
        tracer = self._tracer(call, leaves, names, pattern, captured, concolic=True)
        finished = tracer.run(cause)
        self._traces += 1
        self._remember(family, finished.entry)
        return finished.result

    def _tracer(
        self,
        call: Call,
        leaves: list[Leaf],
        names: Names,
        pattern: Pattern,
        captured: Callable[[str, tuple[int, ...]], tuple[int | str, ...]],
        concolic: bool,
    ) -> Tracer:
        control = self.options.control if concolic else "error"
        return Tracer(
            self.python_function,
            self.name,
            self._binding,
            call,
            leaves,
            names,
            pattern,
            control,
            concolic,
            captured,
        )

    def _pattern(self, call: Call, family: Family, names: Names) -> Pattern:
        fixed = frozenset(family.fixed)
        return generalize(call, family.seen, fixed, names, self.options.dynamic)

    def _captured(
        self, family: Family, name: str, shape: tuple[int, ...]
    ) -> tuple[int | str, ...]:
        """The sizes of a captured tensor: symbolic from the second one seen."""
        earlier = [s for s in family.captured.get(name, []) if len(s) == len(shape)]
        family.captured.setdefault(name, []).append(shape)
        if self.options.dynamic is False:
            return shape
        base = "".join(c if c.isalnum() else "_" for c in name).strip("_") or "held"
        return tuple(
            f"{base}_{axis}"
            if any(s[axis] != n for s in earlier) and f"{base}_{axis}" not in family.fixed
            else n
            for axis, n in enumerate(shape)
        )

    def _remember(self, family: Family, entry: Entry) -> None:
        self._history.append(entry)
        del self._history[: -self.options.max_traces * 2]
        family.seen.append(entry.pattern)
        del family.seen[: -self.options.max_traces]
        self._warn_fixed(family, entry)
        self._warn_values(entry)
        if entry.effects:
            self._lose(family, entry)
            return
        if entry.eager is not None:
            self._warn_left(entry.eager)
        family.entries.insert(0, entry)
        self._evict()

    def _evict(self) -> None:
        """Drop the least recently used signature beyond `max_traces`."""
        while sum(len(f.entries) for f in self._families.values()) > self.options.max_traces:
            key, oldest = next(iter(self._families.items()))
            if oldest.entries:
                oldest.entries.pop()
            if not oldest.entries:
                del self._families[key]
            self._evictions += 1

    # ----- warnings

    def _warn(self, key: Any, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(text, StagekitWarning, stacklevel=stack_level())

    def _warn_left(self, left: Left) -> None:
        self._warn(
            ("left", left),
            f"{self.name} runs eagerly for such arguments: {left.why} at {left.line} needs a value "
            "of the trace. Return the value, or use where(...).",
        )

    def _lose(self, family: Family, entry: Entry) -> None:
        """A call with effects ran eagerly and is not remembered; after some, none is traced."""
        family.lost += 1
        for effect in entry.effects:
            at = Location(effect.filename, effect.lineno, effect.function)
            self._warn(
                ("effect", effect.kind, at),
                f"{self.name}: {effect.text} at {at}: a side effect that a graph cannot repeat, so "
                "such calls run eagerly.",
            )
        if family.lost >= _LOST_LIMIT:
            first = entry.effects[0]
            line = Location(first.filename, first.lineno, first.function)
            family.eager = Left(first.text, line)

    def _warn_fixed(self, family: Family, entry: Entry) -> None:
        for fixed in entry.facts.fixed:
            name = str(fixed.expr)
            family.fixed |= set(_names_in(fixed.expr))
            self._warn(
                ("fixed", fixed.location, name),
                f"{self.name}: Python needs the plain value of {name} at {fixed.location}, so each "
                "value costs a trace. Use x.shape[0] and tensor arithmetic instead.",
            )

    def _warn_values(self, entry: Entry) -> None:
        for guard in entry.guards:
            if guard.kind != "number":
                continue
            known = self._values.setdefault(str(guard.path), [])
            if guard.value not in known:
                known.append(guard.value)
            if len(known) == 3:
                self._warn(
                    ("values", str(guard.path)),
                    f"{self.name}: {guard.path} has had 3 values ({', '.join(map(repr, known))}) and "
                    "each costs a trace. Pass it as an argument, or make it a Variable.",
                )

    # ----- verification

    def _verified(self, entry: Entry, call: Call, cells: list[Any], env: Any) -> Any:
        """The staged result, after it was compared with an eager run that leaves nothing behind."""
        with using(Overlay(EAGER)):
            expected = self._binding.call(self.python_function, call.arguments)
        result = entry.run(cells, env)
        self._compare(expected, result)
        return result

    def _compare(self, expected: Any, result: Any) -> None:
        for k, (a, b) in enumerate(
            zip(tree.leaves(expected), tree.leaves(result), strict=True)
        ):
            if not isinstance(a, Tensor):
                continue
            want, got = np.asarray(a), np.asarray(b)
            tolerance = 0.0 if want.dtype.kind != "f" else 64 * float(np.finfo(want.dtype).eps)
            if not np.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True):
                raise CheckError(
                    f"{self.name}: result {k} differs between the stages by "
                    f"{np.max(np.abs(got - want))}",
                    fix="report it with explain() and the graph",
                ).located(here())

    # ----- specs and fixed signatures

    @boundary
    def trace(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The concrete function for tensors or `TensorSpec`s; commits no state, runs no effect.

        Raises DataDependentError where Python needs a value.
        """
        arguments = self._binding.bind(*args, **kwargs)
        entry = self._entry_of(arguments)
        assert entry.concrete is not None
        return entry.concrete

    def _entry_of(self, arguments: dict[str, Any]) -> Entry:
        stand = _stand_ins(arguments)
        call = take_apart(stand.arguments, self._static, self._ambient())
        leaves = leaves_of(call.arguments, self._static)
        shapes = tuple(
            stand.names.get(id(cell), shape)
            for cell, shape in zip(call.cells, call.shapes, strict=True)
        )
        pattern = Pattern(shapes, call.numbers)
        names = names_of(leaves)
        tracer = self._tracer(call, leaves, names, pattern, lambda name, shape: shape, False)
        with using(EAGER):
            entry = tracer.run(Cause("specs", "", "", "", here())).entry
        if entry.concrete is None:
            raise TraceError(
                f"{self.name} cannot be traced without values: {entry.eager and entry.eager.why}",
                fix="return tensors and containers of tensors",
            )
        return entry

    def _fitted(self, call: Call) -> Call:
        """The call, if it fits the fixed signature in structure, data type and rank."""
        signature = self.options.signature
        specs = signature if isinstance(signature, (tuple, list)) else (signature,)
        wanted = [s for s in tree.leaves(list(specs)) if isinstance(s, TensorSpec)]
        arguments = self._weak_fitted(call, wanted)
        call = take_apart(arguments, self._static, self._ambient())
        leaves = [x for x in leaves_of(call.arguments, self._static) if x.kind == "tensor"]
        if len(leaves) != len(wanted):
            raise RetraceError(
                f"{self.name}: {len(leaves)} tensors for a signature of {len(wanted)}",
                fix="call it as its signature says",
            ).located(here())
        env: dict[str, int] = {}
        for leaf, spec in zip(leaves, wanted, strict=True):
            self._fit(leaf, spec, env)
        return call

    def _weak_fitted(self, call: Call, wanted: Sequence[TensorSpec]) -> dict[str, Any]:
        """The arguments with Python numbers as tensors where the signature wants tensors."""
        specs = iter(wanted)

        def fit(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                next(specs, None)
                return leaf
            if type(leaf) in (int, float):
                spec = next(specs, None)
                return leaf if spec is None else Tensor(np.asarray(leaf, spec.dtype.numpy))
            return leaf

        return {
            k: v if k in self._static else tree.map(fit, v) for k, v in call.arguments.items()
        }

    def _fit(self, leaf: Leaf, spec: TensorSpec, env: dict[str, int]) -> None:
        if leaf.value.dtype != spec.dtype.name:
            raise DTypeError(
                f"{self.name}: {leaf.path} is {leaf.value.dtype}, the signature says {spec.dtype}",
                fix=f"cast with astype(sk.{spec.dtype})",
            ).located(here())
        sizes = zip(spec.shape, leaf.value.shape, strict=False)
        fits = len(leaf.value.shape) == len(spec.shape) and all(
            n is None or (env.setdefault(n, m) == m if isinstance(n, str) else n == m)
            for n, m in sizes
        )
        if not fits:
            raise ShapeError(
                f"{self.name}: {leaf.path} has shape {leaf.value.shape}, the signature says "
                f"{spec.shape}",
                fix="call it with such sizes, or widen the signature with None",
            ).located(here())

    # ----- looking in

    def _cause(self, call: Call, leaves: list[Leaf]) -> Cause:
        """Why this call needs a trace, against the nearest earlier one."""
        family = self._families.get(call.key)
        return cause_of(call, leaves, self._history, family.entries if family else (), here())

    def cache_info(self) -> CacheInfo:
        """(hits, misses, maxsize, currsize, traces, evictions)."""
        size = sum(len(f.entries) for f in self._families.values())
        return CacheInfo(
            self._hits, self._misses, self.options.max_traces, size, self._traces, self._evictions
        )

    def cache_clear(self) -> None:
        """Forget every trace and what was learned of sizes."""
        with self._lock:
            self._families.clear()
            self._history.clear()
            self._values.clear()
            self._warned.clear()
            self._hits = self._misses = self._traces = self._evictions = 0

    def explain(self) -> Report:
        """A report of each trace, what caused it, and what ran eagerly and why; it prints."""
        eager = [f.eager for f in self._families.values() if f.eager is not None]
        return Report(self.name, tuple(self._history), tuple(eager), self.cache_info())


def _names_in(expr: Any) -> frozenset[str]:
    names: frozenset[str] = expr.names
    return names


class Bound:
    """A staged method bound to its instance."""

    def __init__(self, function: Function, instance: Any) -> None:
        self.__func__, self.__self__ = function, instance
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = types.MethodType(function.python_function, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.__func__(self.__self__, *args, **kwargs)
        except Exception as error:
            hide_frames(error)
            raise

    def trace(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """As `Function.trace`, for this instance."""
        return self.__func__.trace(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __repr__(self) -> str:
        return f"<staged method {self.__func__.name} of {self.__self__!r}>"


# ----- the decorator ------------------------------------------------------------------------------


def function(fn: Any = None, /, **options: Any) -> Any:
    """Stage a function: the first call of a kind runs eagerly and is traced, later ones run the graph.

    Options: `signature` (TensorSpecs that every call must fit), `static`, `donate` (argument names or
    positions), `verify` (None, "first", "always": compare the stages), `dynamic` ("auto": the second
    size seen makes a dimension symbolic), `control` ("speculate", or "error": refuse Python branches
    on tensors), `compile`, `max_traces`, `max_paths`, `fastmath`, `cuda_graphs`, `device`, `name`.

    >>> import stagekit as sk
    >>> @sk.function
    ... def double(x):
    ...     return x * 2
    >>> double(sk.asarray([1.0, 2.0]))
    tensor([2., 4.], dtype=float32)
    """
    if fn is None:
        return functools.partial(function, **options)
    chosen = Options(**options)
    if isinstance(fn, Function):
        return Function(fn.python_function, chosen)
    if isinstance(fn, (staticmethod, classmethod)):
        return type(fn)(function(fn.__func__, **options))
    if inspect.ismethod(fn):
        return Bound(Function(fn.__func__, chosen), fn.__self__)
    if not inspect.isfunction(fn) and hasattr(type(fn), "__call__") and not inspect.isbuiltin(fn):
        inner = type(fn).__call__
        if inspect.isfunction(inner):
            return Bound(Function(inner, chosen), fn)
    if not inspect.isfunction(fn):
        raise TypeError(
            f"function: {type(fn).__name__} has no Python code to trace\n  fix: wrap it in a lambda"
        )
    return Function(fn, chosen)


