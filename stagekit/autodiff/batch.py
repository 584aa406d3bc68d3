"""`Batch`, the interpreter of `vmap`: one run of a function for all lanes of its operands at once.

As for a tape a value is known by identity. A mapped value is the whole array with the mapped axis
in front, which `shape` hides; rules (`Op.batch`) run under the interpreter below, so they nest with
tapes, with each other and with staging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final
from weakref import WeakValueDictionary

import stagekit.ops as ops
from stagekit.errors import DataDependentError, StagekitError, TraceError
from stagekit.op import OPS, Interpreter, Op, Over, current, using
from stagekit.ops.batching import spread
from stagekit.source import here
from stagekit.symbolic import plain
from stagekit.tensor import describe
from stagekit.types import TensorType, dtype


@final
class Batch(Over):
    """Runs ops on `size` lanes at once; what depends on no mapped operand is computed once.

    With `draws` each lane draws random numbers of its own; a Jacobian's lanes share them.
    """

    def __init__(self, below: Interpreter, size: Any, *, draws: bool = True) -> None:
        super().__init__(below)
        self.size, self.draws = size, draws
        self.batch = self
        # Values by identity, mapped ones and others that were made inside, while they live.
        self.values: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self.inside: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self.outer: dict[int, Any] = {}  # cells from outside that were written
        self._rules: dict[tuple[int, tuple[bool, ...]], Any] = {}

    def maps(self, cell: Any) -> bool:
        """Whether what a cell holds has the mapped axis."""
        return self._is_mapped(self.below.read(cell))

    def _is_mapped(self, value: Any) -> bool:
        return self.values.get(id(value)) is value

    def mark(self, cell: Any) -> Any:
        """Let what a cell holds have the mapped axis, in front."""
        value = self.below.read(cell)
        self.values[id(value)] = value
        return cell

    def entering(self, cell: Any) -> Any:
        """A tensor from below with the mapped axis in front, as a mapped value of its own."""
        with using(self.below):
            return self.mark(ops.alias(cell))

    def leaving(self, cell: Any) -> Any:
        """A result as a tensor for below with the mapped axis in front."""
        if self.maps(cell):
            return cell
        with using(self.below):
            return spread(self.size, cell, False)

    # ----- Interpreter

    def shape(self, cell: Any) -> tuple[Any, ...]:
        shape = self.below.shape(cell)
        return shape[1:] if self.maps(cell) else shape

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        mapped = tuple([self.maps(a) for a in args])
        if not any(mapped) and not (op.per_lane and self.draws):
            return self._made(self.below.apply(op, args, attrs))
        self._require_fit(op, args, attrs)
        with using(self.below):
            if op is ops.custom:
                out = self._with_rule(args, mapped, **attrs)
            elif callable(op.batch):
                out = op.batch(self.size, args, mapped, attrs)
            else:
                raise TraceError(
                    f"vmap: {op.name} has no batching rule", fix="call it in a loop, and stack"
                ).located(here())
        if op.counts and not any(mapped):
            return self._made(out)
        return tuple(map(self.mark, out)) if type(out) is tuple else self.mark(out)

    def _require_fit(self, op: Op, args: Sequence[Any], attrs: dict[str, Any]) -> None:
        """Raise what the op says of operands as the function sees them, in these sizes."""
        types = [TensorType(dtype(a._value.dtype), self.shape(a)) for a in args]
        try:
            op.infer(*types, **attrs)
        except StagekitError as error:
            raise error.located(here()) from None

    def _with_rule(
        self, args: Sequence[Any], mapped: tuple[bool, ...], *, rule: Any, index: int
    ) -> Any:
        """The result of a function with a derivative of its own; all of them have one rule."""
        key = (id(rule), mapped[1:])
        if key not in self._rules:
            self._rules[key] = BatchedRule(rule, self, mapped[1:])
        y = spread(self.size, args[0], mapped[0])
        return ops.custom(y, *args[1:], rule=self._rules[key], index=index)

    def _made(self, out: Any) -> Any:
        """Note a tensor, or several, as made inside."""
        for cell in out if type(out) is tuple else (out,):
            value = self.below.read(cell)
            self.inside[id(value)] = value
        return out

    def constant(self, value: Any, dtype: Any) -> Any:
        return self._made(self.below.constant(value, dtype))

    def lift(self, obj: Any, target: Any = None) -> Any:
        out = self.below.lift(obj, target)
        return out if out is obj else self._made(out)

    def literal(self, array: Any) -> Any:
        return self._made(self.below.literal(array))

    def primal(self) -> Interpreter:
        below = self.below.primal()
        return self if below is self.below else self.over(below, self.size)

    def over(self, below: Interpreter, size: Any) -> Batch:
        """This batch, with the values it knows, over another interpreter."""
        twin = Batch(below, size, draws=self.draws)
        twin.batch = self.batch
        twin.values, twin.inside, twin.outer = self.values, self.inside, self.outer
        return twin

    # ----- what a mapped value cannot do

    def write(self, cell: Any, value: Any) -> None:
        held = self.below.read(cell)
        known = self._is_mapped(held)
        if not known and (self.inside.get(id(held)) is not held or id(cell) in self.outer):
            self.outer[id(cell)] = cell
            if self._is_mapped(value):
                raise TraceError(
                    f"a mapped value is written into a tensor ({describe(cell)}) from outside of "
                    "vmap, which has no axis for it",
                    fix="return the value, map the tensor too (in_axes), or make it inside",
                ).located(here())
        self.below.write(cell, value)

    def own(self, cell: Any) -> Any:
        if self.maps(cell):
            raise TraceError(
                f"a mapped value ({describe(cell)}, in each of {_now(self.size)} lanes) goes into "
                "a Variable, which has no axis for it",
                fix="return it, and assign it outside of vmap",
            ).located(here())
        return self.below.own(cell)

    def leave(self, cell: Any, why: str) -> Any:
        if self.maps(cell):
            raise DataDependentError(
                f"{why} needs the value of a mapped tensor ({describe(cell)}), which has one in "
                f"each of {_now(self.size)} lanes",
                fix="use where(...) for a branch, or call the function in a loop instead of vmap",
            ).located(here())
        return self.below.leave(cell, why)


def _now(size: Any) -> Any:
    return plain((size,))[0]


@final
class BatchedRule:
    """The derivative of a call (see `tape.Rule`) whose operands `mapped` have a mapped axis."""

    def __init__(self, rule: Any, batch: Batch, mapped: tuple[bool, ...]) -> None:
        self.rule, self.batch, self.mapped = rule, batch, mapped

    def __repr__(self) -> str:
        return repr(f"vmap of {self.rule!r}")

    def _over(self, stacks: Sequence[Any]) -> Batch:
        """A batch for the interpreter that differentiates now, of the size there."""
        size = stacks[0].shape[0] if stacks else self.batch.size
        return self.batch.over(current(), size)

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> Sequence[Any]:
        """What flows into an operand that all lanes share is the sum of what flows in each."""
        batch = self._over(list(cts.values()))
        with using(batch):
            lanes = {k: batch.entering(ct) for k, ct in cts.items()}
            shares = self.rule.pull(lanes, self._operands(batch, xs), wanted, [None] * len(wanted))
        pairs = zip(wanted, shares, strict=True)
        return plus(so_far, [self._whole(batch, i, share) for i, share in pairs])

    def _operands(self, batch: Batch, xs: Sequence[Any]) -> list[Any]:
        return [batch.mark(x) if m else x for x, m in zip(xs, self.mapped, strict=True)]

    def _whole(self, batch: Batch, i: int, share: Any) -> Any:
        if share is None:
            return None
        stack = batch.leaving(share)
        return stack if self.mapped[i] else OPS["sum"](stack, axes=(0,))

    def push(self, tangents: Sequence[Any], xs: Sequence[Any]) -> Mapping[int, Any]:
        stacks = [x for x, m in zip(xs, self.mapped, strict=True) if m]
        batch = self._over(stacks)
        with using(batch):
            moved = [
                batch.entering(t) if m and t is not None else t
                for t, m in zip(tangents, self.mapped, strict=True)
            ]
            pushed = self.rule.push(moved, self._operands(batch, xs))
        return {k: None if t is None else batch.leaving(t) for k, t in pushed.items()}


def plus(so_far: Sequence[Any], shares: Sequence[Any]) -> list[Any]:
    """Cotangents with others added; None is zero."""
    return [
        a if b is None else b if a is None else a + b for a, b in zip(so_far, shares, strict=True)
    ]


def over_lanes(function: Callable[[Any], Sequence[Any]], stack: Any) -> list[Any]:
    """The results of a function for every row of a stack at once, stacked likewise.

    None stays None. All lanes are of one call: they share its random numbers.
    """
    batch = Batch(current(), stack.shape[0], draws=False)
    lane = batch.entering(stack)
    with using(batch):
        found = function(lane)
    return [None if x is None else batch.leaving(x) for x in found]
