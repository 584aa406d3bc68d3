"""`@sk.function`: a call is matched against the traces made so far, else traced, and explained.

call -> Call (key, sizes, numbers) -> Entry whose pattern, guards and facts hold -> its plan
                                   -> none: trace, pack, remember
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from stagekit.eager.interpreter import EAGER
from stagekit.errors import (
    BoundsError,
    CheckError,
    DeviceError,
    TraceError,
    boundary,
    hide_frames,
)
from stagekit.op import current, using
from stagekit.placement import as_device
from stagekit.settings import config
from stagekit.source import here
from stagekit.staging.ambient import no_retrace, require_trace, run_eagerly, runs_eagerly
from stagekit.staging.cache import Cache, CacheInfo, Family, Way
from stagekit.staging.concrete import ConcreteFunction
from stagekit.staging.direct import Given, are_ordered, direct, varying
from stagekit.staging.interpreter import Staging
from stagekit.staging.notices import Notices
from stagekit.staging.record import record
from stagekit.staging.report import Cause, Report, cause_of
from stagekit.staging.signature import (
    Call,
    Name,
    Pattern,
    Shown,
    binding,
    generalize,
    names_of,
    shown,
    take_apart,
)
from stagekit.staging.specs import Signature, TensorSpec, stand_ins
from stagekit.staging.trace import Entry, Finished, Tracer
from stagekit.staging.transaction import undoing
from stagekit.staging.verify import arrays_of, compare

__all__ = [
    "CacheInfo",
    "ConcreteFunction",
    "Function",
    "TensorSpec",
    "function",
    "no_retrace",
    "run_eagerly",
]


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

    def validate(self) -> None:
        """Raise ValueError or DeviceError for a value that an option does not have."""
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                kind = DeviceError if name == "device" else ValueError
                listed = ", ".join(map(repr, allowed))
                raise kind(f"function: {name}={getattr(self, name)!r}\n  fix: use one of {listed}")
        for name in ("max_traces", "max_paths"):
            if getattr(self, name) < 1:
                raise ValueError(f"function: {name}={getattr(self, name)}\n  fix: use 1 or more")


_CHOICES: dict[str, tuple[Any, ...]] = {
    "verify": (None, "first", "always"),
    "dynamic": ("auto", True, False),
    "control": ("speculate", "error"),
    "compile": ("now", "background"),
    "device": (None, "cpu"),
}


class Function:
    """A staged function: call it as the Python function it wraps; see `sk.function`."""

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        options.validate()
        self.python_function = self.__wrapped__ = fn
        self.options = options
        functools.update_wrapper(self, fn, updated=())
        self._binding = binding(fn)
        self._static = self._named("static", options.static)
        self._named("donate", options.donate)
        wanted = options.signature
        self._signature = None if wanted is None else Signature(self.name, wanted)
        self._cache = Cache(options.max_traces)
        self._notices = Notices(self.name)

    def _named(self, what: str, places: Any) -> frozenset[str]:
        """The parameters meant by names or positions. Raises ValueError for any other."""
        known = self._binding.names
        found = set()
        for place in places if isinstance(places, (tuple, list)) else (places,):
            if isinstance(place, int) and -len(known) <= place < len(known):
                found.add(known[place])
            elif place in known:
                found.add(place)
            else:
                raise ValueError(
                    f"function: {what}={place!r} is no parameter of {self.name}\n"
                    f"  fix: use one of {', '.join(known)}"
                )
        return frozenset(found)

    @property
    def name(self) -> str:
        """The name in graphs and reports."""
        return self.options.name or str(getattr(self.python_function, "__name__", "function"))

    def __repr__(self) -> str:
        return f"<staged function {self.name}>"

    def __reduce__(self) -> str:
        return str(vars(self)["__qualname__"])  # as a Python function: a copy is itself

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else Bound(self, (instance,))

    # ----- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            for way in self._cache.direct:
                try:
                    out = way(*args, **kwargs) if kwargs else way(*args)
                except TypeError as error:
                    if _is_from_inside(error):
                        raise
                    break  # it has no such parameters
                if out is not NotImplemented:
                    return out
            return self._called(self._binding.bind(*args, **kwargs))
        except Exception as error:
            hide_frames(error)
            raise

    def _called(self, arguments: dict[str, Any]) -> Any:
        """A call that no direct way took: find the entry that is right for it, or make one."""
        interpreter = current()
        if interpreter.base.traces or interpreter.batch is not None or runs_eagerly():
            return self._inline(arguments)
        call = self._taken_apart(arguments)
        family = self._cache.families.get(call.key)
        if family is None:
            return self._miss(call)
        for entry in family.entries:
            matched = entry.match(call)
            if matched is not None:
                return self._hit(family, entry, Given(arguments, call, *matched))
        return self._miss(call) if family.eager is None else self._eagerly(call)

    def _taken_apart(self, arguments: dict[str, Any]) -> Call:
        ambient = config.trap, self.options.fastmath, self.options.device or as_device(None)
        call = take_apart(arguments, self._static, ambient)
        return call if self._signature is None else self._signature.fit(call, self._static)

    def _run_python(self, call: Call) -> Any:
        """The Python function itself, on the caller's own containers."""
        try:
            return self._binding.call(self.python_function, call.arguments)
        finally:
            if call.copies is not None:
                call.copies.settle()

    def _inline(self, arguments: dict[str, Any]) -> Any:
        """The Python function in a trace or a `vmap`, or where staging is off; asks no cache."""
        with _strict(self.options.control):
            return self._run_python(self._taken_apart(arguments))

    def _eagerly(self, call: Call) -> Any:
        """The Python function as a transaction."""
        with undoing():
            return self._run_python(call)

    def _hit(self, family: Family, entry: Entry, given: Given) -> Any:
        _, call, cells, env = given
        self._cache.used(family, entry)
        if entry.eager is not None:
            return self._eagerly(call)
        if self.options.verify == "always":
            return self._verified(entry, call, cells, env)
        try:
            out = entry.run(cells, env, call.arguments)
        except (BoundsError, CheckError):  # eager Python may catch it, and words it itself
            return self._eagerly(call)
        self._find_way(entry, given)
        return out

    def _find_way(self, entry: Entry, given: Given) -> None:
        """Make a direct way for such calls: an entry's n-th when n in a row had the same sizes."""
        if entry.concrete is None or entry.concrete.native is None or not are_ordered(given.cells):
            return
        free = varying(entry)
        numbers = zip(entry.pattern.numbers, given.call.numbers, strict=True)
        fixed = [None if type(n) is Name and n.name in free else value for n, value in numbers]
        sizes = fixed, [cell._value.shape for cell in given.cells]
        if self._cache.way(entry, sizes) is not None:
            return
        entry.repeats = entry.repeats + 1 if entry.sizes == sizes else 1
        entry.sizes = sizes
        if entry.repeats <= entry.ways:
            return
        entry.ways += 1
        options = self._static, self.options.device
        call = direct(self.name, self._binding, *options, entry, given, self._cache.hits)
        self._cache.add_way(Way(entry, sizes, call))

    def _verified(self, entry: Entry, call: Call, cells: list[Any], env: Any) -> Any:
        """The staged result, after an eager run that left nothing behind gave the same."""
        with using(EAGER), undoing() as undo:
            out = self._run_python(call)
            expected = arrays_of(out) + [cell._value for cell, _ in undo.before.values()]
            written = [cell for cell, _ in undo.before.values()]
            undo.undo()
        result = entry.run(cells, env, call.arguments)
        compare(self.name, expected, arrays_of(result) + [cell._value for cell in written])
        return result

    # ----- tracing

    def _miss(self, call: Call) -> Any:
        self._cache.misses += 1
        known = shown(call, self._static)
        cause = cause_of(call, known, self._cache.history, here())
        require_trace(self.name, cause)
        family = self._cache.families.get(call.key) or Family()
        result, entry, again = self._traced(call, known, family, cause)
        family.fixed.update(name for fixed in entry.facts.fixed for name in fixed.expr.names)
        if self._cache.add(call, family, entry):
            self._notices.of(entry)
        record(self.name, self._cache.misses, entry)
        return self._eagerly(call) if again else result

    def _traced(self, call: Call, known: Shown, family: Family, cause: Cause) -> Finished:
        """A trace with symbolic sizes and numbers; where Python refuses those, with plain ones."""
        pattern = self._pattern(call, known, family)
        sizes = functools.partial(family.sizes, self.options.dynamic)
        tracer = self._tracer(call, known, pattern, sizes)
        try:
            return tracer.run(cause)
        except Exception as error:
            if not tracer.repeatable:
                raise
            refusal = error
        plain = Pattern(call.shapes, call.numbers)
        finished = self._tracer(call, known, plain, lambda name, shape: shape).run(cause)
        family.fixed.update(tracer.env)
        self._notices.refused(refusal, tracer.env)
        return finished

    def _pattern(self, call: Call, known: Shown, family: Family) -> Pattern:
        """Which sizes and numbers of a new trace are symbolic."""
        names = names_of(known.leaves)
        fixed = frozenset(family.fixed)
        pattern = generalize(call, family.seen, fixed, names, self.options.dynamic)
        if self._signature is None:
            return pattern
        return Pattern(self._signature.shapes(names, call.shapes, fixed), pattern.numbers)

    def _tracer(
        self, call: Call, known: Shown, pattern: Pattern, sizes: Any, concolic: bool = True
    ) -> Tracer:
        return Tracer(
            self.python_function,
            self.name,
            self._binding,
            call,
            known,
            pattern,
            self.options.control if concolic else "error",
            concolic,
            concolic and self.options.verify is not None,
            sizes,
            self.options.compile == "background",
        )

    @boundary
    def trace(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The concrete function for tensors or `TensorSpec`s; commits no state.

        Raises DataDependentError where Python needs a value. What Python does besides is reported.
        """
        entry = self._entry_of(self._binding.bind(*args, **kwargs))
        assert entry.concrete is not None
        return entry.concrete

    def _entry_of(self, arguments: dict[str, Any]) -> Entry:
        """The trace for arguments with specs among them."""
        stand = stand_ins(arguments)
        call = self._taken_apart(stand.arguments)
        known = shown(call, self._static)
        shapes = tuple(
            stand.sizes.get(id(cell), shape)
            for cell, shape in zip(call.cells, call.shapes, strict=True)
        )
        pattern = Pattern(shapes, call.numbers)
        tracer = self._tracer(call, known, pattern, lambda name, shape: shape, concolic=False)
        with using(EAGER):
            entry = tracer.run(Cause("specs", "", "", "", here())).entry
        self._notices.of(entry)
        if entry.concrete is None:
            raise TraceError(
                f"{self.name} cannot be traced without values: {entry.eager and entry.eager.why}",
                fix="return tensors and containers of tensors",
            )
        return entry

    # ----- looking in

    @property
    def _history(self) -> list[Entry]:
        return self._cache.history

    def cache_info(self) -> CacheInfo:
        """(hits, misses, maxsize, currsize, traces, evictions)."""
        return self._cache.info()

    def cache_clear(self) -> None:
        """Forget every trace and what was learned of sizes."""
        self._cache.clear()
        self._notices = Notices(self.name)

    def explain(self) -> Report:
        """A report of each trace, what caused it, and what ran eagerly and why; it prints.

        What a trace became is told by its concrete function (`trace`): `print(c.optimized)`,
        `c.log`, `print(c.plan)`, `print(c.plan.decisions)` (why each op stands in its kernel) and
        `c.kernels()`; how long each kernel takes by `sk.profile()`.
        """
        families = list(self._cache.families.values())
        eager = tuple(f.eager for f in families if f.eager is not None)
        return Report(self.name, tuple(self._cache.history), eager, self.cache_info())


def _is_from_inside(error: Exception) -> bool:
    """Whether a function that was called had begun to run."""
    traceback = error.__traceback__
    return traceback is not None and traceback.tb_next is not None


@contextmanager
def _strict(control: str) -> Iterator[None]:
    """Let an inlined function with `control="error"` refuse Python branches for its own part."""
    base = current().base
    if control != "error" or not isinstance(base, Staging):
        yield
        return
    before, base.control = base.control, control
    try:
        yield
    finally:
        base.control = before


class Bound:
    """A staged function with its first arguments given: a method, a callable object, a partial."""

    def __init__(
        self, function: Function, args: tuple[Any, ...], keywords: Mapping[str, Any] | None = None
    ) -> None:
        self.__func__, self.args = function, args
        self.keywords = dict(keywords) if keywords else {}
        self.__doc__ = function.__doc__

    @property
    def __name__(self) -> str:
        return self.__func__.name

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return functools.partial(self.__func__.python_function, *self.args, **self.keywords)

    @property
    def __self__(self) -> Any:
        return self.args[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self.keywords:
                kwargs = {**self.keywords, **kwargs}
            if kwargs:
                return self.__func__(*self.args, *args, **kwargs)
            return self.__func__(*self.args, *args)
        except Exception as error:
            hide_frames(error)
            raise

    def trace(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """As `Function.trace`, with the given arguments."""
        return self.__func__.trace(*self.args, *args, **{**self.keywords, **kwargs})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__func__, name)

    def __repr__(self) -> str:
        return f"<staged function {self.__func__.name} of {', '.join(map(repr, self.args))}>"


# ----- the decorator ------------------------------------------------------------------------------


def function(fn: Any = None, /, **options: Any) -> Any:
    """Stage a function: the first call of a kind runs eagerly and is traced, others run the graph.

    Options: `signature` (TensorSpecs that every call must fit), `static`, `donate` (argument names
    or positions), `verify` (None, "first": hold the first result against the plan's, "always": run
    every call in both stages), `dynamic` ("auto": the second size seen makes a dimension symbolic;
    True: at once; False: never), `control` ("speculate": a Python branch on a tensor makes such
    calls run eagerly, "error": it raises DataDependentError), `compile` ("now", or "background":
    the eager result at once; at which call compiled code takes over, and with it its rounding, may
    vary), `max_traces`, `max_paths`, `fastmath`, `cuda_graphs`, `device`, `name`.

    Raises ValueError for an option it does not know, TypeError for what has no Python code.
    Source: `tf.function`.

    >>> import stagekit as sk
    >>> @sk.function
    ... def double(x):
    ...     return x * 2
    >>> double(sk.asarray([1.0, 2.0]))
    tensor([2., 4.], dtype=float32)
    """
    if fn is None:
        return functools.partial(function, **options)
    if isinstance(fn, Function):
        return Function(fn.python_function, Options(**options))
    if isinstance(fn, Bound):
        return Bound(function(fn.__func__, **options), fn.args, fn.keywords)
    if isinstance(fn, (staticmethod, classmethod)):
        return type(fn)(function(fn.__func__, **options))
    if isinstance(fn, functools.partial):
        inner = function(fn.func, **options)
        if isinstance(inner, Bound):
            return Bound(inner.__func__, inner.args + fn.args, inner.keywords | fn.keywords)
        return Bound(inner, fn.args, fn.keywords)
    if inspect.ismethod(fn):
        return Bound(function(fn.__func__, **options), (fn.__self__,))
    if isinstance(fn, types.FunctionType):
        return Function(fn, Options(**options))
    call = inspect.getattr_static(type(fn), "__call__", None)
    if isinstance(call, types.FunctionType) and not isinstance(fn, type):
        return Bound(Function(call, Options(**options)), (fn,))
    raise TypeError(
        f"function: {type(fn).__name__} has no Python code to trace\n  fix: wrap it in a lambda"
    )
