"""The interpreters of differentiation: `Tape` (reverse) and `Dual` (forward), and `GradientTape`.

A derivative flows through a *value*, known by identity: two tapes over one value never mix. Rules
run under the interpreter below, so they nest with each other and with staging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, final

import stagekit.ops as ops
from stagekit import tree
from stagekit.autodiff.batch import over_lanes, plus
from stagekit.errors import DTypeError, TraceError, boundary
from stagekit.op import Cell, Interpreter, Op, Over, current, switch, using
from stagekit.source import Location, attributed, here
from stagekit.symbolic import product
from stagekit.tensor import Tensor, Variable, own
from stagekit.types import INEXACT


def is_tensor(obj: Any) -> bool:
    return isinstance(obj, Cell)


def is_inexact(obj: Any) -> bool:
    """Whether it is a tensor of real or complex numbers, which can have a derivative."""
    return isinstance(obj, Tensor) and obj.dtype.inexact


def require_real(name: str, what: str, x: Any) -> None:
    """DTypeError for a complex tensor, whose gradient or Jacobian could mean several things."""
    if x.dtype.kind == "complex":
        raise DTypeError(
            f"{name}: {what} {x.dtype}, not real",
            fix="take sk.real, sk.imag or sk.abs of it, or use vjp or jvp",
        ).located(here())


# ----- what a tape keeps --------------------------------------------------------------------------


@final
class Cotangents:
    """Cotangents of values while a tape is pulled, by identity.

    `wanted` values keep theirs; only what depends on one of them is `useful`.
    """

    def __init__(self, wanted: Iterable[Any], records: Iterable[Record | CallRecord]) -> None:
        self.known: dict[int, Any] = {}
        self.wanted = {id(value) for value in wanted}
        self.useful = set(self.wanted)
        for record in records:
            record.mark(self.useful)

    def add(self, value: Any, ct: Any) -> None:
        before = self.known.get(id(value))
        self.known[id(value)] = ct if before is None else before + ct

    def take(self, value: Any) -> Any:
        """The cotangent of a result, complete once everything after it has been pulled."""
        key = id(value)
        return self.known.get(key) if key in self.wanted else self.known.pop(key, None)


class Record(NamedTuple):
    """One op that a tape saw: what it took, what it gave, and the user's line (while staging)."""

    op: Op
    inputs: Sequence[Any]
    out: Any
    attrs: dict[str, Any]
    line: Location | None

    def mark(self, useful: set[int]) -> None:
        for value in self.inputs:
            if id(value) in useful:
                useful.add(id(self.out))
                return

    def pull(self, cts: Cotangents) -> None:
        ct = cts.take(self.out)
        if ct is None:
            return
        if self.line is None:
            self._share(ct, cts.known, cts.useful)
        else:
            with attributed(self.line):
                self._share(ct, cts.known, cts.useful)

    def _share(self, ct: Any, known: dict[int, Any], useful: set[int]) -> None:
        op, inputs, out, attrs, _ = self
        rule, result, cells = op.vjp, Tensor(out), [Tensor(value) for value in inputs]
        assert rule is not None
        for i, value in enumerate(inputs):
            key = id(value)
            if key in useful:
                share = rule(i, ct, result, cells, attrs)
                if share is not None:
                    so_far = known.get(key)
                    known[key] = share if so_far is None else so_far + share


@dataclass(slots=True)
class CallRecord:
    """A whole call that a tape saw as one entry: the cotangents of its results go back together.

    `pullback` takes those that there are (by the index of the result), the indices of the inputs
    wanted, and the cotangents that these have `so_far` (None: zero); it gives them with its own
    added.
    """

    inputs: Sequence[Any]
    outs: dict[int, Any]
    pullback: Callable[[dict[int, Any], list[int], list[Any]], Sequence[Any]]
    line: Location | None

    def mark(self, useful: set[int]) -> None:
        if any(id(value) in useful for value in self.inputs):
            useful.update(id(value) for value in self.outs.values())

    def pull(self, cts: Cotangents) -> None:
        taken = {index: cts.take(value) for index, value in self.outs.items()}
        given = {index: ct for index, ct in taken.items() if ct is not None}
        wanted = self._wanted(cts.useful)
        if not wanted or not given:
            return
        keys = [id(self.inputs[i]) for i in wanted]
        so_far = [cts.known.pop(key, None) for key in keys]  # once, where a value is given twice
        with attributed(self.line) if self.line else nullcontext():
            found = self.pullback(given, wanted, so_far)
        for key, ct in zip(keys, found, strict=True):
            if ct is not None:
                cts.known[key] = ct if key not in cts.known else cts.known[key] + ct

    def _wanted(self, useful: set[int]) -> list[int]:
        return [i for i, value in enumerate(self.inputs) if id(value) in useful]


class Rule(Protocol):
    """The derivative of a function of tensors `xs` with several results, each known by its index.

    The op `custom` attaches it to the results, one after the other.
    """

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> Sequence[Any]:
        """The cotangents of the `wanted` xs for those of the results, added to those `so_far`.

        None is zero. A result that was dropped from a graph as unused is missing.
        """

    def push(self, tangents: Sequence[Any], xs: Sequence[Any]) -> Mapping[int, Any]:
        """The tangents of the float results for those of the xs (None: zero)."""


# ----- reverse mode -------------------------------------------------------------------------------


@final
class Tape(Over):
    """Records the ops through which a gradient may flow; `pull` walks them backwards."""

    def __init__(self, below: Interpreter) -> None:
        super().__init__(below)
        self.values: dict[int, Any] = {}  # by identity; keeping them alive keeps ids unique
        self.variables: dict[int, tuple[Variable, dict[int, Any]]] = {}  # and their values read
        self.records: list[Record | CallRecord] = []
        self.calls: dict[tuple[int, ...], CallRecord] = {}  # by rule and operands
        self.recording = self.open = True

    def watch(self, value: Any) -> None:
        """Follow a value, if it is of a float or complex type."""
        if value.dtype.kind in INEXACT:
            self.values[id(value)] = value

    def follow(self, cell: Any) -> Any:
        """Watch the value that a cell holds now, and give it."""
        value = self.below.read(cell)
        self._count(cell, value)
        return value

    def _count(self, cell: Any, value: Any) -> None:
        if value.dtype.kind in INEXACT:
            self.values[id(value)] = value
            if type(cell) is Variable:
                self.variables.setdefault(id(cell), (cell, {}))[1][id(value)] = value

    def read(self, cell: Any) -> Any:
        value = self.below.read(cell)
        if type(cell) is Variable and self.recording:
            self._count(cell, value)
        return value

    def differentiates(self, cell: Any) -> bool:
        known = self.recording and id(self.below.read(cell)) in self.values
        return known or self.below.differentiates(cell)

    def write(self, cell: Any, value: Any) -> None:
        """A Variable takes a value of its own: an assignment is not differentiated."""
        self.below.write(cell, own(Tensor(value)) if type(cell) is Variable else value)

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        read = self.below.read
        inputs = [self.read(a) if type(a) is Variable else read(a) for a in args]
        out = self.below.apply(op, args, attrs)
        if self.recording and op.vjp is not None:
            values = self.values
            for value in inputs:
                if id(value) in values:
                    if op.several:
                        self._record_several(op, inputs, list(map(read, out)), attrs)
                    else:
                        self._record(op, inputs, read(out), attrs)
                    break
        return out

    def _record_several(
        self, op: Op, inputs: list[Any], outs: list[Any], attrs: dict[str, Any]
    ) -> None:
        """An op of several results: its rule takes their cotangents together."""
        rule = op.vjp
        assert rule is not None

        def share(i: int, cts: dict[int, Any]) -> Any:
            given = tuple([cts.get(k) for k in range(len(outs))])
            results = tuple([Tensor(value) for value in outs])
            return rule(i, given, results, [Tensor(value) for value in inputs], attrs)

        def pullback(cts: dict[int, Any], wanted: list[int], so_far: list[Any]) -> list[Any]:
            return plus(so_far, [share(i, cts) for i in wanted])

        self._note(inputs, outs, pullback, self._line())

    def _note(
        self, inputs: Sequence[Any], outs: Sequence[Any], pullback: Any, line: Location | None
    ) -> None:
        """A record of several results; each float one now depends on the inputs."""
        floats = {k: value for k, value in enumerate(outs) if value.dtype.kind in INEXACT}
        self.values.update((id(value), value) for value in floats.values())
        self.records.append(CallRecord(inputs, floats, pullback, line))

    def _line(self) -> Location | None:
        """The user's line, which a record keeps while staging."""
        return here() if self.base.traces else None

    def _record(self, op: Op, inputs: list[Any], out: Any, attrs: dict[str, Any]) -> None:
        if out.dtype.kind not in INEXACT:
            return
        line = self._line()
        self.values[id(out)] = out
        if op is ops.custom:
            self._record_rule(attrs["rule"], inputs[1:], attrs["index"], out, line)
        else:
            self.records.append(Record(op, inputs, out, attrs, line))

    def _record_rule(
        self, rule: Rule, inputs: list[Any], index: int, out: Any, line: Location | None
    ) -> None:
        """One more result of a call, which is recorded where its first result was."""

        def pullback(cts: dict[int, Any], wanted: list[int], so_far: list[Any]) -> Sequence[Any]:
            zeros = {k: ops.zeros_like(Tensor(y)) for k, y in outs.items() if k not in cts}
            return rule.pull(cts | zeros, [Tensor(value) for value in inputs], wanted, so_far)

        key = (id(rule), *map(id, inputs))
        call = self.calls.get(key)
        outs = {} if call is None else call.outs
        if call is None:
            self.calls[key] = CallRecord(inputs, outs, pullback, line)
            self.records.append(self.calls[key])
        outs[index] = out

    def record_call(
        self, inputs: Sequence[Any], outs: Sequence[Any], pullback: Callable[[list[Any]], list[Any]]
    ) -> None:
        """Note a call by its values; each float result now depends on the inputs.

        `pullback` takes one cotangent a result (None for integers), and gives one an input.
        """

        def pull(cts: dict[int, Any], wanted: list[int], so_far: list[Any]) -> list[Any]:
            shares = pullback([cts.get(k) for k in range(len(outs))])
            return plus(so_far, [shares[i] for i in wanted])

        self._note(inputs, outs, pull, None)

    def pull(
        self,
        seeds: Iterable[tuple[Any, Any]],
        wanted: Iterable[Any],
        so_far: Iterable[tuple[Any, Any]] = (),
    ) -> dict[int, Any]:
        """Cotangents of the `wanted` values (by id) for those of results, by the chain rule.

        They are added to what some of them have `so_far`.
        """
        cts = Cotangents(wanted, self.records)
        for value, ct in (*so_far, *seeds):
            if id(value) in cts.useful:
                cts.add(value, ct)
        with self.paused():
            for record in reversed(self.records):
                record.pull(cts)
        return cts.known

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is recorded inside."""
        was, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = was

    def gradients(
        self,
        seeds: Iterable[tuple[Any, Any]],
        sources: Sequence[tuple[Any, Any]],
        so_far: Sequence[Any] = (),
    ) -> list[Any]:
        """The cotangent of each source (its cell, its value when watched), None if unconnected.

        Every read of a Variable is the same source. They are added to those `so_far`.
        """
        groups = [
            list(self.variables[id(cell)][1].values()) if id(cell) in self.variables else [value]
            for cell, value in sources
        ]
        before = [(group[0], ct) for group, ct in zip(groups, so_far) if ct is not None]
        cts = self.pull(seeds, [value for group in groups for value in group], before)
        found = [[cts[id(value)] for value in group if id(value) in cts] for group in groups]
        return [ops.total(parts) if parts else None for parts in found]

    def forget(self) -> None:
        """Drop everything recorded."""
        self.recording = False
        for kept in (self.records, self.calls, self.values, self.variables):
            kept.clear()


# ----- forward mode -------------------------------------------------------------------------------


@final
class Dual(Over):
    """Carries a tangent beside each value that depends on the inputs."""

    def __init__(self, below: Interpreter) -> None:
        super().__init__(below)
        self.tangents: dict[int, tuple[Any, Any]] = {}  # id -> (value, tangent)
        self.variables: dict[int, tuple[Variable, Any]] = {}  # id -> (cell, tangent)
        self._joint: tuple[Any, list[Any], Mapping[int, Any]] | None = None  # key, values, tangents

    def follow(self, cell: Any, tangent: Any) -> None:
        """Give the value that a cell holds now a tangent; a Variable keeps it when assigned."""
        value = self.below.read(cell)
        self.tangents[id(value)] = (value, tangent)
        if type(cell) is Variable:
            self.variables[id(cell)] = (cell, tangent)

    def differentiates(self, cell: Any) -> bool:
        known = id(self.below.read(cell)) in self.tangents
        return known or self.below.differentiates(cell)

    def write(self, cell: Any, value: Any) -> None:
        """A Variable takes a value of its own: an assignment is not differentiated."""
        if type(cell) is not Variable:
            self.below.write(cell, value)
            return
        self.below.write(cell, own(Tensor(value)))
        if id(cell) in self.variables:
            self.follow(*self.variables[id(cell)])

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        inputs = [self.below.read(a) for a in args]
        out = self.below.apply(op, args, attrs)
        if op.jvp is not None:
            known = self.tangents
            for value in inputs:
                if id(value) in known:
                    if op.several:
                        self._push_several(op, inputs, out, attrs)
                    else:
                        self._push(op, inputs, self.below.read(out), attrs)
                    break
        return out

    def _tangents(self, inputs: list[Any]) -> list[Any]:
        pairs = [self.tangents.get(id(value)) for value in inputs]
        return [None if pair is None else pair[1] for pair in pairs]

    def _push_several(
        self, op: Op, inputs: list[Any], outs: tuple[Any, ...], attrs: dict[str, Any]
    ) -> None:
        """An op of several results: its rule gives a tangent for each."""
        assert op.jvp is not None
        tangents, values = self._tangents(inputs), [self.below.read(out) for out in outs]
        with using(self.below):
            cells = [Tensor(value) for value in inputs]
            pushed = op.jvp(tangents, tuple(map(Tensor, values)), cells, attrs)
        for value, tangent in zip(values, pushed, strict=True):
            if tangent is not None and value.dtype.kind in INEXACT:
                self.tangents[id(value)] = (value, tangent)

    def _push(self, op: Op, inputs: list[Any], out: Any, attrs: dict[str, Any]) -> None:
        if out.dtype.kind not in INEXACT:
            return
        tangents = self._tangents(inputs)
        with using(self.below):
            if op is ops.custom:
                tangent = self._push_joint(attrs["rule"], tangents[1:], inputs[1:], attrs["index"])
            else:
                assert op.jvp is not None
                cells = [Tensor(value) for value in inputs]
                tangent = op.jvp(tangents, Tensor(out), cells, attrs)
        if tangent is not None:
            self.tangents[id(out)] = (out, tangent)

    def _push_joint(self, rule: Rule, tangents: list[Any], inputs: list[Any], index: int) -> Any:
        """The tangent of one result of a call; all its results ask one after the other."""
        if all(tangent is None for tangent in tangents):
            return None
        key = (rule, *map(id, inputs))
        if self._joint is None or self._joint[0] != key:
            self._joint = (key, inputs, rule.push(tangents, [Tensor(value) for value in inputs]))
        return self._joint[2][index]

    def tangent(self, value: Any) -> Any:
        """The tangent of a value: zeros where it does not depend on the inputs."""
        pair = self.tangents.get(id(value))
        return ops.zeros_like(Tensor(value)) if pair is None else pair[1]


# ----- the tape as a context manager --------------------------------------------------------------


def units(like: Any) -> Any:
    """Every tensor of a shape and type that is 1 at one place and 0 elsewhere, stacked in order."""
    n = product(like.shape)
    return ops.reshape(ops.eye(n, dtype=like.dtype), (n, *like.shape))


@final
class GradientTape:
    """Records what runs inside `with`; `gradient` then differentiates it. Variables are watched.

    A tape serves one call of `gradient` or `jacobian`, a `persistent` one many. Raises TraceError
    where tapes end in another order than last begun, first ended. Source: `tf.GradientTape`.

    >>> import stagekit as sk
    >>> x = sk.asarray(3.0)
    >>> with sk.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = x * x
    >>> tape.gradient(y, x).item()
    6.0
    """

    def __init__(self, persistent: bool = False) -> None:
        self._persistent = persistent
        self._tape: Tape | None = None
        self._watched: dict[int, tuple[Any, Any]] = {}
        self._used = False

    def __enter__(self) -> Self:
        if self._tape is not None and self._tape.open:
            raise TraceError(
                "this GradientTape is recording already", fix="make another one"
            ).located(here())
        self._tape = Tape(current())
        self._watched, self._used = {}, False
        switch(self._tape)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        tape = self._active()
        tape.recording = tape.open = False
        if current() is tape:
            switch(_first_open(tape.below))
        elif kind is None:
            raise TraceError(
                "a GradientTape ends while another tape or device block, begun inside it, is open",
                fix="end them in the order in which they were begun, last first",
            ).located(here())

    def _active(self) -> Tape:
        if self._tape is None:
            raise TraceError("the tape has recorded nothing", fix="use it in `with`").located(
                here()
            )
        base = current().base
        if base.traces and self._tape.base is not base:
            raise TraceError(
                "a tape from outside is used inside a staged function, whose graph it cannot see",
                fix="begin the tape inside, or use stop_gradient",
            ).located(here())
        return self._tape

    def _beside(self) -> Tape:
        """The tape, where values are what they were when it began: of one lane, or of none."""
        tape = self._active()
        if current().batch is not tape.batch:
            raise TraceError(
                "a tape is used inside a vmap but begun outside of it, or the other way round",
                fix="begin and use the tape on the same side",
            ).located(here())
        return tape

    def watch(self, tensor: Any) -> None:
        """Follow the value that each tensor of a tree holds now. Raises DTypeError for others.

        >>> import stagekit as sk
        >>> x = sk.asarray(3.0)
        >>> with sk.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = x + x
        >>> tape.gradient(y, x).item()
        2.0
        """
        tape = self._beside()
        for leaf in _tensors("watch", "tensor", tensor)[0]:
            self._watched[id(leaf)] = (leaf, tape.follow(leaf))

    @contextmanager
    def stop_recording(self) -> Iterator[None]:
        """A context in which nothing is recorded.

        >>> import stagekit as sk
        >>> x = sk.asarray(3.0)
        >>> with sk.GradientTape() as tape:
        ...     tape.watch(x)
        ...     with tape.stop_recording():
        ...         y = x + x
        >>> tape.gradient(y, x) is None
        True
        """
        with self._active().paused():
            yield

    @boundary
    def gradient(self, target: Any, sources: Any) -> Any:
        """The gradient of the sum of `target` with respect to a tree of `sources`.

        None for a source that `target` does not depend on, and for integers. Raises TraceError the
        second time, unless persistent.

        >>> import stagekit as sk
        >>> x = sk.asarray(3.0)
        >>> with sk.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = x * x
        >>> tape.gradient(y, x).item()
        6.0
        """
        results = _tensors("gradient", "target", target)[0]
        for y in results:
            require_real("gradient", "a target is", y)
        leaves, spec = _tensors("gradient", "sources", sources)
        tape, sources = self._unused(), self._sources(leaves)
        floats = [y for y in results if is_inexact(y)]
        found = tape.gradients([(tape.below.read(y), ops.ones_like(y)) for y in floats], sources)
        self._finish()
        return tree.unflatten(spec, found)

    @boundary
    def jacobian(self, target: Any, sources: Any) -> Any:
        """d target / d source, of shape `target.shape + source.shape`, for a tree of `sources`.

        None where unconnected. One pass over the tape for all elements of the tensor `target`.

        >>> import stagekit as sk
        >>> x = sk.asarray(3.0)
        >>> with sk.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = sk.stack([x, x * x])
        >>> tape.jacobian(y, x).tolist()
        [1.0, 6.0]
        """
        leaves, spec = _tensors("jacobian", "sources", sources)
        for x in (target, *leaves):
            require_real("jacobian", "a target or source is", x)
        tape, pairs = self._unused(), self._sources(leaves)
        value = tape.below.read(target)
        rows = over_lanes(lambda ct: tape.gradients([(value, ct)], pairs), units(target))
        self._finish()
        found = [
            None if row is None else ops.reshape(row, (*target.shape, *x.shape))
            for x, row in zip(leaves, rows, strict=True)
        ]
        return tree.unflatten(spec, found)

    def _unused(self) -> Tape:
        tape = self._beside()
        if self._used:
            raise TraceError(
                "gradient: this tape has been used",
                fix="make it with GradientTape(persistent=True)",
            ).located(here())
        return tape

    def _sources(self, leaves: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Each source with the value it held when it was watched."""
        read = self._active().below.read
        return [self._watched.get(id(x)) or (x, read(x)) for x in leaves]

    def _finish(self) -> None:
        self._used = not self._persistent
        if self._used:
            self._active().forget()


def _first_open(interpreter: Interpreter) -> Interpreter:
    """The interpreter that runs after a tape ends: tapes that ended before it are passed over."""
    while isinstance(interpreter, Tape) and not interpreter.open:
        interpreter = interpreter.below
    return interpreter


def _tensors(op: str, name: str, obj: Any) -> tuple[list[Any], tree.Spec]:
    """The leaves of a tree and its structure; DTypeError for a leaf that is no tensor."""
    leaves, spec = tree.flatten(obj)
    for k, leaf in enumerate(leaves):
        if not is_tensor(leaf):
            raise DTypeError(
                f"{op}: {tree.paths(spec, name)[k]} is {type(leaf).__name__}, not a tensor",
                fix="make it one with asarray, before it is used",
            ).located(here())
    return leaves, spec
