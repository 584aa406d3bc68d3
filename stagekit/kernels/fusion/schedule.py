"""Scheduling: from the values that a cluster stores to loop nests.

Loops over rows are independent of each other and run in parallel, in chunks. Inside a row there are
stages, one after the other: folds first, then what needs them. A fold over the rows themselves (a
bias gradient) keeps a partial result for each chunk of rows, and a second kernel folds the partial
results: the order of additions depends on sizes alone, never on threads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stagekit.kernels.ir import (
    Body,
    Buffer,
    Check,
    Column,
    Folded,
    Kernel,
    Loop,
    Scratch,
    Stage,
    Store,
    Value,
    every,
    operands,
    rebuilt,
)
from stagekit.kernels.sizes import MANY, count, product, row_major, stride
from stagekit.symbolic import Call, Expr
from stagekit.types import DType

_UNROLLED = 32  # folds of fewer elements are written out, if those are no stretch of memory
_SHORT_LOOP = 8  # turns of a loop that are too few for a vector
_SHORT = 4  # and if they are one
_CHUNK = 1 << 14  # elements that a chunk of rows has at least
_WIDE = 1 << 16  # columns from which partial results of chunks of rows are too many
_SCRATCH = 1 << 15  # elements that a row keeps at most of one value
_ROWS_OF_CHUNK = 64  # rows at most whose column folds are added one by one


class Target(NamedTuple):
    """A buffer to store a node's elements in, by the loops of its axes; and what is checked."""

    buffer: str
    loops: tuple[Loop, ...]
    offset: Expr
    value: Value
    checks: tuple[Check, ...] = ()

    @property
    def roots(self) -> list[Value]:
        """Its value and the conditions that are checked."""
        return [self.value, *(check.bad for check in self.checks)]

    def rebuilt(self, known: dict[Value, Value], place: Any = None) -> Target:
        """The same with values and indices replaced; see `ir.rebuilt`."""
        checks = tuple(Check(rebuilt(c.bad, known, place), c.number) for c in self.checks)
        offset = place(self.offset) if place is not None else self.offset
        value = rebuilt(self.value, known, place)
        return self._replace(offset=offset, value=value, checks=checks)


@dataclass(frozen=True, eq=False)
class Rows:
    """The loops that run in parallel. With `lanes` the folds are computed inside the vector's lanes
    (each lane one result), not by all lanes together.
    """

    loops: tuple[Loop, ...]
    lanes: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset(loop.name for loop in self.loops)


@dataclass(frozen=True, eq=False)
class Partial:
    """A buffer for the partial results of all chunks."""

    name: str
    type: DType
    size: Expr


class Scheduled(NamedTuple):
    """A kernel, how many rows and chunks of rows it has, and the partial results it writes."""

    kernel: Kernel
    rows: Expr
    chunks: Expr
    partials: tuple[Partial, ...]


def schedule(
    name: str, targets: Sequence[Target], inner: frozenset[str], types: Mapping[str, DType]
) -> list[Scheduled]:
    """The kernels that store `targets`, in order. `inner` names loops that rows must not be."""
    targets = _unrolled([_without_ones(t) for t in targets])
    groups, left = _flattened(_collapsed(targets, inner))
    while left:
        group, rows, left = _grouped(left, inner)
        groups.append((group, rows))
    out: list[Scheduled] = []
    for group, rows in groups:
        part = f"{name}_{len(out)}" if len(groups) > 1 else name
        out += _Scheduler(part, group, rows, types).run()
    return out


def _without_ones(target: Target) -> Target:
    return target._replace(loops=tuple(loop for loop in target.loops if loop.extent.constant != 1))


# ----- small folds are written out ----------------------------------------------------------------


def _unrolled(targets: Sequence[Target]) -> list[Target]:
    known: dict[Value, Value] = {}
    for target in targets:
        for value in every(target.value):
            if value.op == "fold" and value not in known and _is_small(value):
                known[value] = _written_out(value, known)
    if not known:
        return list(targets)
    folds = [v for v in known if v.op == "fold" and known[v] is not v]
    return [_spread_checks(t, folds).rebuilt(known) for t in targets]


def _spread_checks(target: Target, folds: Sequence[Value]) -> Target:
    """Checks inside of a fold that is written out hold for each of its terms."""
    checks = []
    for check in target.checks:
        bad = check.bad
        for fold in folds:
            if bad.names & _bound(fold):
                places = _places([loop.extent.constant or 0 for loop in fold.attr.loops])
                terms = [rebuilt(bad, {}, _placing(fold, place)) for place in places]
                bad = functools.reduce(lambda x, y: x | y, terms)
        checks.append(Check(bad, check.number))
    return target._replace(checks=tuple(checks))


def _is_small(fold: Value) -> bool:
    if fold.attr.op.startswith("arg"):
        return False
    extents = [loop.extent.constant for loop in fold.attr.loops]
    if any(n is None for n in extents) or fold.attr.op not in _COMBINE:
        return False
    total: int = math.prod(extents)
    if total <= _SHORT:
        return total > 0
    last = fold.attr.loops[-1]
    stretch = last.extent.constant == total
    return 0 < total <= _UNROLLED and not stretch and len(every(fold.args[0])) * total < 600


def _written_out(fold: Value, known: dict[Value, Value]) -> Value:
    body = rebuilt(fold.args[0], dict(known))
    terms = []
    for place in _places([loop.extent.constant or 0 for loop in fold.attr.loops]):
        terms.append(rebuilt(body, {}, _placing(fold, place)))
    combine = _COMBINE[fold.attr.op]
    while len(terms) > 1:
        pairs = [combine(*terms[k : k + 2]) for k in range(0, len(terms) - 1, 2)]
        terms = pairs + (terms[-1:] if len(terms) % 2 else [])
    return terms[0]


def _placing(fold: Value, place: Sequence[int]) -> Callable[[Expr], Expr]:
    """Indices with the variables of a fold's loops at one place."""
    env = {loop.name: Expr.of(k) for loop, k in zip(fold.attr.loops, place, strict=True)}
    return lambda expr: _at(expr, env)


def _at(expr: Expr, env: Mapping[str, Expr]) -> Expr:
    return Expr.of(expr.evaluate({name: env.get(name, Expr.named(name)) for name in expr.names}))


def _places(extents: Sequence[int]) -> Iterable[tuple[int, ...]]:
    if not extents:
        yield ()
        return
    for k in range(extents[0]):
        for rest in _places(extents[1:]):
            yield (k, *rest)


def _greater(x: Value, y: Value) -> Value:
    return x.body.make("select", (x > y) | x.body.make("ne", x, x), x, y)


def _lesser(x: Value, y: Value) -> Value:
    return x.body.make("select", (x < y) | x.body.make("ne", x, x), x, y)


_COMBINE: dict[str, Callable[[Value, Value], Value]] = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "max": _greater,
    "min": _lesser,
    "or": lambda x, y: x | y,
    "and": lambda x, y: x & y,
}


# ----- rows ---------------------------------------------------------------------------------------


def folds_of(value: Value) -> list[Value]:
    """The outermost folds under a value."""
    return [v for v in operands([value]) if v.op == "fold"]


def _bound(fold: Value) -> frozenset[str]:
    return frozenset(loop.name for loop in fold.attr.loops)


def _grouped(
    targets: Sequence[Target], inner: frozenset[str]
) -> tuple[list[Target], Rows, list[Target]]:
    """The targets that one choice of rows suits, the rows, and the other targets."""
    rows = _choose_rows(targets, inner)
    if not all(_fits(t, rows) for t in targets):
        tried = [_choose_rows([t], inner) for t in targets]
        rows = max([rows, *tried], key=lambda r: sum(_fits(t, r) for t in targets))
    group = [t for t in targets if _fits(t, rows)]
    if not group:
        return [targets[0]], Rows(()), list(targets[1:])
    return group, rows, [t for t in targets if not _fits(t, rows)]


def _loops_of(targets: Sequence[Target]) -> dict[str, Loop]:
    """Every loop of some targets, those of widest stride first as far as known."""
    found: dict[str, Loop] = {}
    for target in targets:
        for loop in target.loops:
            found.setdefault(loop.name, loop)
    for target in targets:
        for value in every(target.value):
            if value.op == "fold":
                for loop in value.attr.loops:
                    found.setdefault(loop.name, loop)
    return found


def _choose_rows(targets: Sequence[Target], inner: frozenset[str]) -> Rows:
    """Which loops run in parallel, outside of all others."""
    loops = _loops_of(targets)
    folds = [v for t in targets for v in every(t.value) if v.op == "fold"]
    stored = {loop.name for t in targets for loop in t.loops}
    order = _ordered(list(loops.values()), targets)
    if inner & loops.keys():
        free = [x for x in order if x.name not in inner and x.name in stored | _all_bound(folds)]
        shared = [x for x in free if all(x.name in f.names or x.name in _bound(f) for f in folds)]
        return Rows(tuple(shared or free))
    if not folds:
        return Rows(tuple(order[:-1]))
    unit = _unit_loop(targets, loops)
    bounds = [_bound(f) for f in folds]
    if all(unit in b for b in bounds):
        free = [x for x in order if x.name not in _all_bound(folds) and x.name in stored]
        return Rows(tuple(free if free or len(loops) == 1 else order[:1]))
    common = [x for x in order if all(x.name in b for b in bounds)]
    if not common or unit in _all_bound(folds):
        return Rows(tuple(order[:1]))
    folded = math.prod(count(x.extent) for x in common)
    kept = math.prod(count(x.extent) for n, x in loops.items() if n in stored)
    if folded <= _ROWS_OF_CHUNK or kept >= _WIDE:
        return Rows(tuple(x for x in order if x.name in stored)[:-1], lanes=True)
    return Rows(tuple(common))


def _all_bound(folds: Sequence[Value]) -> frozenset[str]:
    return frozenset().union(*map(_bound, folds))


def _fits(target: Target, rows: Rows) -> bool:
    """Whether a target is stored row by row, or is a fold over all rows."""
    names = rows.names
    stored = frozenset(loop.name for loop in target.loops)
    folds = [v for v in every(target.value) if v.op == "fold"]
    if names <= stored:
        outer = folds_of(target.value)
        if any(_bound(f) & stored and not f.names & stored <= names for f in outer):
            return False  # a row would have several values of what is folded over its own loops
        return (bool(stored) or not rows.lanes) and all(not names & _bound(f) for f in folds)
    if names & stored or rows.lanes:
        return False
    outer = folds_of(target.value)
    nested = [f for f in folds if f not in outer]
    return (
        bool(outer)
        and all(names <= _bound(f) and f.attr.op in _COMBINE for f in outer)
        and all(not names & _bound(f) for f in nested)
    )


def _accesses(targets: Sequence[Target]) -> list[Expr]:
    found = [t.offset for t in targets]
    for root in (root for t in targets for root in t.roots):
        found += [v.attr.offset for v in every(root) if v.op == "load"]
    return found


def _unit_loop(targets: Sequence[Target], loops: Mapping[str, Loop]) -> str | None:
    """The loop along which most accesses of many elements walk through memory."""
    votes: dict[str, float] = {}
    for offset in _accesses(targets):
        used = [name for name in offset.names if name in loops]
        weight = math.prod(min(count(loops[name].extent), 1 << 20) for name in used)
        for name in used:
            rate = stride(offset, name)
            if rate is not None and rate.constant == 1:
                votes[name] = votes.get(name, 0) + weight
    return max(votes, key=lambda n: votes[n]) if votes else None


def _ordered(loops: Sequence[Loop], targets: Sequence[Target]) -> list[Loop]:
    """Loops with the widest strides of the largest accesses outside."""
    names = {loop.name for loop in loops}

    def size(offset: Expr) -> int:
        return math.prod(count(loop.extent) for loop in loops if loop.name in offset.names)

    unit = _unit_loop(targets, {loop.name: loop for loop in loops})
    accesses = sorted((o for o in _accesses(targets) if o.names & names), key=size, reverse=True)
    order: list[str] = []
    if accesses:
        first = accesses[0]
        rates = {n: stride(first, n) for n in first.names & names}
        known = {n: math.inf if r is None else _magnitude(r) for n, r in rates.items()}
        order = sorted(known, key=lambda n: -known[n])
    order = [n for n in order if n != unit]
    rest = [loop.name for loop in loops if loop.name not in order and loop.name != unit]
    order = [*order, *rest, *([unit] if unit in names else [])]
    by_name = {loop.name: loop for loop in loops}
    return [by_name[n] for n in order]


def _magnitude(rate: Expr) -> float:
    return sum(abs(c) * float(MANY) ** len(m) for m, c in rate.terms)


# ----- loops that walk on -------------------------------------------------------------------------


def _collapsed(targets: list[Target], inner: frozenset[str]) -> list[Target]:
    """Two loops that walk through memory as one are made one."""
    while True:
        pair = _adjacent(targets, inner)
        if pair is None:
            return targets
        targets = _merged(targets, *pair)


def _adjacent(targets: Sequence[Target], inner: frozenset[str]) -> tuple[Loop, Loop] | None:
    loops = _loops_of(targets)
    values = [v for t in targets for root in t.roots for v in every(root)]
    fixed = {n for v in values if v.op in ("number", "test") for e in exprs_of(v) for n in e.names}
    body = targets[0].value.body
    for v in values:
        if v.op == "load":
            fixed |= {m for n in v.attr.offset.names if n in body.dynamic
                      for m in body.names(Expr.named(n))}  # fmt: skip
    sets = [{loop.name for loop in t.loops} for t in targets]
    sets += [set(_bound(v)) for v in values if v.op == "fold"]
    free = [loop for loop in _ordered(list(loops.values()), targets) if loop.name not in fixed]
    for a in free:
        for b in free:
            if a is b or (a.name in inner) != (b.name in inner):
                continue
            if any((a.name in s) != (b.name in s) for s in sets):
                continue
            if all(_walks_on(offset, a, b) for offset in _accesses(targets)):
                return a, b
    return None


def _walks_on(offset: Expr, a: Loop, b: Loop) -> bool:
    wide, narrow = stride(offset, a.name), stride(offset, b.name)
    return wide is not None and narrow is not None and wide == narrow * b.extent


def _merged(targets: Sequence[Target], outer: Loop, inside: Loop) -> list[Target]:
    known: dict[Value, Value] = {}
    whole = Loop(inside.name, outer.extent * inside.extent)

    def place(expr: Expr) -> Expr:
        return _at(expr, {outer.name: Expr.of(0)})

    def loops(old: Sequence[Loop]) -> tuple[Loop, ...]:
        return tuple(whole if x.name == whole.name else x for x in old if x.name != outer.name)

    for target in targets:
        for value in every(target.value):
            if value.op == "fold" and value not in known:
                inner = rebuilt(value.args[0], known, place)
                fold = value.attr
                known[value] = value.body.fold(fold.op, loops(fold.loops), inner, value.type)
    return [t._replace(loops=loops(t.loops)).rebuilt(known, place) for t in targets]


def _flattened(
    targets: Sequence[Target],
) -> tuple[list[tuple[list[Target], Rows]], list[Target]]:
    """Kernels of one loop, over all elements of a buffer, for targets whose own innermost loop is
    too short for a vector; and the other targets.
    """
    groups: dict[tuple[Loop, ...], list[Target]] = {}
    left = []
    for target in targets:
        loops = tuple(_ordered(target.loops, [target._replace(value=_nothing(target))]))
        if _is_short(target, loops):
            groups.setdefault(loops, []).append(target)
        else:
            left.append(target)
    flat = [([_in_one_loop(t, loops) for t in group], Rows(())) for loops, group in groups.items()]
    return flat, left


def _nothing(target: Target) -> Value:
    """A value that reads nothing, so that the order of loops is that of the stores alone."""
    return target.value.body.constant(0, target.value.type)


def _is_short(target: Target, loops: Sequence[Loop]) -> bool:
    """Whether a target has several loops, the innermost a short one, over a stretch of memory."""
    if len(loops) < 2 or any(v.op == "fold" for root in target.roots for v in every(root)):
        return False
    last = loops[-1].extent.constant
    total = product(loop.extent for loop in loops).constant
    if last is None or last >= _SHORT_LOOP or total is None or not 0 < total < 1 << 31:
        return False
    return target.offset == row_major(loops)


def _in_one_loop(target: Target, loops: Sequence[Loop]) -> Target:
    """The loops' variables as what they are of the place in memory."""
    name = loops[-1].name
    z: Any = Expr.named(name)
    left, env = z, {}
    for loop in reversed(loops):
        n = loop.extent.constant or 1
        env[loop.name] = left if loop is loops[0] else left % n
        left = left // n
    flat = Loop(name, product(loop.extent for loop in loops))

    def place(expr: Expr) -> Expr:
        return _put_together(_at(expr, env))

    moved = target._replace(loops=(flat,), offset=z).rebuilt({}, place)
    return moved._replace(offset=z)


def _put_together(expr: Expr) -> Expr:
    """n (x // n) + x % n is x."""
    for monomial, c in expr.terms:
        call = monomial[0] if len(monomial) == 1 else ""
        if isinstance(call, Call) and call.op == "%":
            n = call.right.constant
            whole = (Call("//", call.left, call.right),)
            if n is not None and dict(expr.terms).get(whole) == c * n:
                rest = expr - Expr({monomial: c}) - Expr({whole: c * n})
                return _put_together(rest + call.left * c)
    return expr


# ----- one kernel ---------------------------------------------------------------------------------


class _Scheduler:
    """Makes the kernel for targets that one choice of rows suits."""

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        rows: Rows,
        types: Mapping[str, DType],
    ) -> None:
        self.name, self.targets, self.rows, self.lanes = name, targets, rows.loops, rows.lanes
        self.types = dict(types)
        self.body: Body = targets[0].value.body
        self.loops = _loops_of(targets)
        self.flat = None if self.rows else self._flat_loop()
        self.parallel = self.rows or ((self.flat,) if self.flat is not None else ())
        self.names = {loop.name for loop in self.parallel}
        self.grain = self._grain()
        self.partials: list[Partial] = []
        self.ends: dict[tuple[Value, tuple[Loop, ...]], Value] = {}  # folds of partial results
        self.scratch: list[Scratch] = []

    def run(self) -> list[Scheduled]:
        length = product(loop.extent for loop in self.parallel)
        chunks = (length + (self.grain - 1)) // self.grain
        columns: list[tuple[tuple[Loop, ...], Column]] = []
        plain, finals = [], []
        for target in self.targets:
            if self.names <= {loop.name for loop in target.loops}:
                plain.append(target)
            else:
                finals.append(self._split(target, columns, chunks))
        kernel = self._kernel(self._stages(plain, columns))
        made = [Scheduled(kernel, length, chunks, tuple(self.partials))]
        by_loops: dict[tuple[Loop, ...], list[Target]] = {}
        for target in finals:
            by_loops.setdefault(target.loops, []).append(target)
        for k, group in enumerate(by_loops.values()):
            ends = _collapsed(group, frozenset())
            rows = Rows(tuple(_ordered(ends[0].loops, ends)[:-1]), lanes=True)
            made += _Scheduler(f"{self.name}_end{k}", ends, rows, self.types).run()
        return made

    def _flat_loop(self) -> Loop | None:
        """The one loop of a kernel whose rows would be single elements."""
        if self.lanes:
            stored = {loop for t in self.targets for loop in t.loops}
            return next(iter(stored)) if len(stored) == 1 else None
        if len(self.loops) != 1:
            return None
        for t in self.targets:
            folds = [v for v in every(t.value) if v.op == "fold"]
            if t.loops and folds:
                return None
            if any(f.attr.op not in _COMBINE or f not in folds_of(t.value) for f in folds):
                return None
        (loop,) = self.loops.values()
        return loop

    def _grain(self) -> int:
        """How many rows make a chunk; of nothing but sizes that the program itself fixes."""
        if self.flat is not None:
            return _CHUNK
        if not self.rows:
            return 1
        width = max(
            math.prod(count(x.extent) for n, x in _loops_of([t]).items() if n not in self.names)
            for t in self.targets
        )
        total = math.prod(count(loop.extent) for loop in self.rows)
        grain = max(1, _CHUNK // max(width, 1))
        if any(not self.names <= {loop.name for loop in t.loops} for t in self.targets):
            grain = min(max(grain, total // 64), _ROWS_OF_CHUNK)
        return max(1, min(grain, total))

    # ----- folds over rows

    def _split(
        self,
        target: Target,
        columns: list[tuple[tuple[Loop, ...], Column]],
        chunks: Expr,
    ) -> Target:
        """Partial results of a target's folds, and the target that folds those."""
        known: dict[Value, Value] = {}
        width = product(loop.extent for loop in target.loops)
        place = row_major(target.loops)
        for fold in folds_of(target.value):
            shared = self.ends.get((fold, target.loops))
            if shared is not None:
                known[fold] = shared
                continue
            name = f"{self.name}_partial{len(self.partials)}"
            self.partials.append(Partial(name, fold.type, chunks * width))
            self.types[name] = fold.type
            rest = [loop for loop in fold.attr.loops if loop.name not in self.names]
            inside = fold.args[0]
            if rest:
                inside = self.body.fold(fold.attr.op, rest, inside, fold.type)
            columns.append((target.loops, Column(name, place, width, inside, fold.attr.op)))
            q = Loop(f"q_{name}", chunks)
            loaded = self.body.load(name, Expr.named(q.name) * width + place, fold.type)
            end = self.body.fold(fold.attr.op, [q], loaded, fold.type)
            known[fold] = self.ends[fold, target.loops] = end
        return target._replace(value=rebuilt(target.value, known), checks=())

    # ----- stages

    def _stages(
        self, plain: Sequence[Target], columns: Sequence[tuple[tuple[Loop, ...], Column]]
    ) -> tuple[Stage, ...]:
        nests: dict[tuple[int, tuple[Loop, ...]], Stage] = {}

        def add(level: int, loops: Sequence[Loop], **more: Any) -> None:
            inside = [x for x in loops if x.name not in self.names]
            walks = self.flat is not None and "folds" not in more  # a fold is one for all lanes
            key = (level, tuple(_ordered(inside, self.targets)) + self.parallel * walks)
            stage = nests.get(key) or Stage(key[1], (), (), ())
            grown = {name: (*getattr(stage, name), item) for name, item in more.items()}
            nests[key] = replace(stage, **grown)

        depth = self._depths([t.value for t in plain] + [c.value for _, c in columns])
        for fold, level in depth.items():
            add(level, fold.attr.loops, folds=Folded(fold, fold.args[0]))
        for t in plain:
            add(_needs(t.value, depth), t.loops, stores=Store(t.buffer, t.offset, t.value))
        for loops, column in columns:
            add(_needs(column.value, depth), loops, columns=column)
        order = sorted(nests, key=lambda key: (key[0], -len(key[1])))
        return self._kept([nests[key] for key in order])

    def _depths(self, roots: Sequence[Value]) -> dict[Value, int]:
        """The folds that a row has one value of, and the stage in which each can be computed."""
        depth: dict[Value, int] = {}
        for root in roots:
            for value in every(root):
                if self.lanes and value.names & self.loops.keys():
                    continue  # each lane has its own
                if value.op == "fold" and value.names & self.loops.keys() <= self.names:
                    depth.setdefault(value, _needs(value.args[0], depth))
        return depth

    def _kept(self, stages: list[Stage]) -> tuple[Stage, ...]:
        """What is costly and needed in two stages is kept in scratch memory between them."""
        first: dict[Value, int] = {}
        again: dict[Value, int] = {}
        for k, stage in enumerate(stages):
            names = {loop.name for loop in stage.loops}
            for value in operands(stage.roots):
                if value.names & names and first.setdefault(value, k) < k and (
                    stages[first[value]].loops == stage.loops
                ):
                    again.setdefault(value, first[value])
        kept = [v for v in again if _is_costly(v) and self._is_small(stages[again[v]].loops)]
        inside = {a for v in kept for a in operands([v]) if a is not v}
        kept = [v for v in kept if v not in inside]
        loaded: dict[Value, Value] = {}
        for value in kept:
            loops = stages[again[value]].loops
            name = f"scratch{len(self.scratch)}"
            width = product(loop.extent for loop in loops)
            self.scratch.append(Scratch(name, value.type, width))
            loaded[value] = self.body.load(name, row_major(loops), value.type)
        return tuple(self._with_scratch(k, s, again, loaded) for k, s in enumerate(stages))

    def _is_small(self, loops: Sequence[Loop]) -> bool:
        """Whether a row of scratch memory certainly fits the nearest caches, and the stack."""
        width = product(loop.extent for loop in loops).constant
        return width is not None and width <= _SCRATCH

    def _with_scratch(
        self, k: int, stage: Stage, first: Mapping[Value, int], loaded: Mapping[Value, Value]
    ) -> Stage:
        """A stage that stores what it is the first to compute and loads what others have kept."""
        known = {v: x for v, x in loaded.items() if first[v] < k}
        if known:
            for value in [v for root in stage.roots for v in operands([root])]:
                if value.op == "fold":
                    known.setdefault(value, value)  # found by an earlier stage
            stage = replace(
                stage,
                folds=tuple(Folded(f, rebuilt(b, known)) for f, b in stage.folds),
                stores=tuple(s._replace(value=rebuilt(s.value, known)) for s in stage.stores),
                columns=tuple(c._replace(value=rebuilt(c.value, known)) for c in stage.columns),
            )
        mine = [
            Store(x.attr.buffer, x.attr.offset, v) for v, x in loaded.items() if first[v] == k
        ]
        return replace(stage, stores=(*stage.stores, *mine))

    # ----- the whole

    def _kernel(self, stages: tuple[Stage, ...]) -> Kernel:
        exprs: list[Expr] = [loop.extent for loop in self.parallel]
        exprs += [s.width for s in self.scratch]
        used: dict[str, None] = {}
        for stage in stages:
            exprs += [loop.extent for loop in stage.loops]
            exprs += [s.offset for s in stage.stores] + [c.offset for c in stage.columns]
            exprs += [c.width for c in stage.columns]
            used.update(dict.fromkeys(s.buffer for s in stage.stores))
            used.update(dict.fromkeys(c.buffer for c in stage.columns))
        checks = tuple(dict.fromkeys(c for t in self.targets for c in t.checks))
        roots = [root for stage in stages for root in stage.roots] + [c.bad for c in checks]
        for value in [v for root in roots for v in every(root)]:
            exprs += exprs_of(value)
            if value.op == "load":
                used.setdefault(value.attr.buffer)
        own = {s.name for s in self.scratch}
        variables = {loop.name for stage in stages for loop in stage.loops} | self.names
        variables |= {loop.name for root in roots for v in every(root) if v.op == "fold"
                      for loop in v.attr.loops}  # fmt: skip
        names = {n for expr in exprs for n in expr.names}
        sizes = sorted(names - variables - self.body.dynamic.keys())
        buffers = tuple(Buffer(n, self.types[n]) for n in used if n not in own)
        return Kernel(self.name, buffers, tuple(sizes), self.rows, stages, self.grain, self.body,
                      tuple(self.scratch), checks, self.flat)  # fmt: skip


def _needs(value: Value, depth: Mapping[Value, int]) -> int:
    """The first stage in which everything that a value is made of is there."""
    return max((depth[f] + 1 for f in folds_of(value) if f in depth), default=0)


def exprs_of(value: Value) -> list[Expr]:
    """The indices in a value."""
    if value.op == "load":
        return [value.attr.offset]
    if value.op == "number":
        return [value.attr]
    if value.op == "test":
        return [value.attr.left, value.attr.right]
    return [loop.extent for loop in value.attr.loops] if value.op == "fold" else []


def _is_costly(value: Value) -> bool:
    """Whether a value takes longer to compute than to load from the nearest cache."""
    own = [v for v in operands([value]) if v.op not in ("load", "constant", "fold", "number")]
    return len(own) >= 6 and value.type.kind == "float"
