"""Lowering: asking nodes for their elements. The answer is the code of a kernel, fused.

`Lowering` is the `Speller` of kernel values. A node that lies in memory is a load; every other node
is its op's element rule, so whatever is asked for through it becomes one expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from stagekit.kernels.ir import Body, Loop, Value, select
from stagekit.kernels.scalars.spelling import cast, spell
from stagekit.node import Node
from stagekit.symbolic import Expr, Formula
from stagekit.types import DType, bool_, float32, float64, int64

Indices = tuple[Expr, ...]

_FOLDS = {
    "add": "add", "multiply": "mul", "maximum": "max", "minimum": "min",
    "logical_or": "or", "logical_and": "and",
}  # fmt: skip
_WIDE = {"add": {"float16": float32}, "mul": {"float16": float64, "float32": float64}}
_COMBINE = {"add": "add", "multiply": "multiply", "min": "minimum", "max": "maximum"}


class CannotLower(Exception):
    """An element rule asks for what kernels cannot say; its node then runs on NumPy."""

    def __init__(self, node: Node, why: str) -> None:
        super().__init__(why)
        self.node = node


class Check(NamedTuple):
    """A condition that must never hold, and the node whose evaluation would raise."""

    bad: Value
    node: Node


class Index:
    """An index while element rules compute with it: an `Expr` with what is known of its range."""

    __slots__ = ("expr", "lowering")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Expr, lowering: Lowering) -> None:
        self.expr, self.lowering = expr, lowering

    def _made(self, expr: Expr) -> Index:
        return Index(expr, self.lowering)

    def __add__(self, other: Any) -> Index:
        return self._made(self.expr + as_expr(other))

    def __radd__(self, other: Any) -> Index:
        return self._made(as_expr(other) + self.expr)

    def __sub__(self, other: Any) -> Index:
        return self._made(self.expr - as_expr(other))

    def __rsub__(self, other: Any) -> Index:
        return self._made(as_expr(other) - self.expr)

    def __mul__(self, other: Any) -> Index:
        return self._made(self.expr * as_expr(other))

    def __rmul__(self, other: Any) -> Index:
        return self._made(as_expr(other) * self.expr)

    def __floordiv__(self, other: Any) -> Index:
        return self._made(self.lowering.divided(self.expr, as_expr(other))[0])

    def __mod__(self, other: Any) -> Index:
        return self._made(self.lowering.divided(self.expr, as_expr(other))[1])

    def _test(self, relation: str, left: Any, right: Any) -> Value:
        return self.lowering.test(relation, as_expr(left), as_expr(right))

    def __lt__(self, other: Any) -> Value:
        return self._test("lt", self, other)

    def __le__(self, other: Any) -> Value:
        return self._test("le", self, other)

    def __gt__(self, other: Any) -> Value:
        return self._test("lt", other, self)

    def __ge__(self, other: Any) -> Value:
        return self._test("le", other, self)

    def __eq__(self, other: object) -> Any:
        return self._test("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return self._test("ne", self, other)


def as_expr(index: Any) -> Expr:
    """An index of any kind as an expression."""
    return index.expr if isinstance(index, Index) else Expr.of(index)


class Operand:
    """A node as element rules see it: a callable from indices, with `shape` and `dtype`."""

    def __init__(self, lowering: Lowering, node: Node) -> None:
        self.lowering, self.node = lowering, node
        self.shape: tuple[Any, ...] = node.type.shape
        self.dtype = node.type.dtype

    def __call__(self, *idx: Any) -> Value:
        return self.lowering.element(self.node, tuple(map(as_expr, idx)))


class Lowering:
    """The elements of nodes for one kernel.

    `buffers` names the nodes that lie in memory; `axes` gives a node its own loop variable for each
    axis, so that folds over the same axis of the same loops are loops over the same variable.
    """

    def __init__(
        self,
        buffers: Mapping[Node, str],
        axes: Mapping[Node, tuple[str | None, ...]],
        extents: Mapping[str, Expr],
    ) -> None:
        self.body = Body()
        self.buffers, self.axes = buffers, axes
        self.extents = dict(extents)  # of every loop variable: 0 <= name < extent
        self.checks: dict[int, Check] = {}
        self.read: dict[str, Node] = {}
        self._guard: Value | None = None
        self._memo: dict[Any, Value] = {}
        self._nodes: list[Node] = []
        self._fresh = 0
        self._whole: dict[int, Any] = {}  # values that are known to be an index below a size

    # ----- elements

    def element(self, node: Node, idx: Indices) -> Value:
        """The value of `node[idx]`."""
        key = (node, idx, None if self._guard is None else self._guard.serial)
        value = self._memo.get(key)
        if value is None:
            value = self._memo[key] = self._element(node, idx)
        return value

    def _element(self, node: Node, idx: Indices) -> Value:
        if node in self.buffers:
            return self._loaded(node, idx)
        if node.constant is not None:
            return self.body.constant(node.constant.reshape(()).item(), node.type.dtype)
        if node.op is None or node.op.element is None:
            raise CannotLower(node, "it has no element")
        attrs = dict(node.attrs)
        inputs = [Operand(self, x) for x in node.inputs]
        self._nodes.append(node)
        try:
            places = [Index(i, self) for i in idx]
            value = node.op.element(self, node.type, places, *inputs, **attrs)
        except (KeyError, TypeError, AttributeError) as error:
            raise CannotLower(node, f"{node.op.name}: {error!r}") from error
        finally:
            self._nodes.pop()
        if not isinstance(value, Value):
            raise CannotLower(node, f"{node.op.name} gives {type(value).__name__}")
        return value

    def _loaded(self, node: Node, idx: Indices) -> Value:
        self.read[self.buffers[node]] = node
        offset = flat(idx, node.type.shape)
        return self.body.load(self.buffers[node], offset, node.type.dtype, self._guard)

    # ----- what a speller says

    def apply(self, op: str, *scalars: Value) -> Value:
        return spell(op, *scalars)

    def constant(self, value: Any, dtype: DType) -> Value:
        if isinstance(value, Formula):
            raise CannotLower(self._nodes[-1], "a formula")
        if isinstance(value, Expr):
            return self.number(value, dtype)
        return self.body.constant(value, dtype)

    def number(self, index: Any, dtype: DType) -> Value:
        if dtype is bool_:
            return spell("not_equal", self.number(index, int64), self.body.constant(0, int64))
        value = self.body.number(as_expr(index), dtype)
        return value

    def cast(self, scalar: Value, dtype: DType) -> Value:
        return cast(scalar, dtype)

    def select(
        self, condition: Any, then: Callable[[], Value], otherwise: Callable[[], Value]
    ) -> Value:
        if isinstance(condition, bool):
            return then() if condition else otherwise()
        if condition.op == "constant":
            return then() if condition.attr else otherwise()
        with self._guarded(condition):
            first = then()
        with self._guarded(~condition):
            second = otherwise()
        return select(condition, first, second)

    @contextmanager
    def _guarded(self, condition: Value) -> Iterator[None]:
        before = self._guard
        self._guard = condition if before is None else before & condition
        try:
            yield
        finally:
            self._guard = before

    def index(self, scalar: Value, size: Any) -> Index:
        wide = cast(scalar, int64)
        if wide.op == "number" and self._within(wide.attr, Expr.of(size)):
            return Index(wide.attr, self)
        if self._whole.get(wide.serial) == size:
            return Index(self.body.index(wide), self)
        n = self.body.number(Expr.of(size), int64)
        wrapped = select(wide < 0, wide + n, wide)
        bad = (wrapped < 0) | (wrapped >= n)
        self._note(bad)
        inside = select(bad, 0, wrapped)
        self._whole[inside.serial] = size
        index = self.body.index(inside)
        if inside.op != "constant":
            self.extents[str(index)] = Expr.of(size)
        return Index(index, self)

    def _note(self, bad: Value) -> None:
        node = self._nodes[-1]
        if self._guard is not None:
            bad = bad & self._guard
        self.checks.setdefault(bad.serial, Check(bad, node))

    def reduce(
        self, op: str, dtype: DType, extents: Sequence[Any], body: Callable[..., Value]
    ) -> Value:
        name = _FOLDS[op]
        places, loops = self._loops(extents)
        value = body(*places)
        if not loops:
            return value
        wide = _WIDE.get(name, {}).get(dtype.name, dtype)
        return cast(self.body.fold(name, loops, cast(value, wide), wide), dtype)

    def argreduce(self, op: str, extent: Any, body: Callable[[Any], Value]) -> Value:
        places, loops = self._loops([extent])
        if not loops:
            return self.body.constant(0, int64)
        return self.body.fold(op, loops, body(*places), int64)

    def _loops(self, extents: Sequence[Any]) -> tuple[list[Index], list[Loop]]:
        """An index for each extent, and the loops they run in; an extent of 1 needs none.

        The variables are the operand's own where the node folds axes of it, else new ones.
        """
        node = self._nodes[-1]
        own: list[str | None] = [None] * len(extents)
        if node.op is not None and node.op.family == "reduction" and node.inputs[0] in self.axes:
            attrs = dict(node.attrs)
            axes = attrs["axes"] if "axes" in attrs else (attrs["axis"],)
            own = [self.axes[node.inputs[0]][k] for k in axes]
        places, loops = [], []
        for name, size in zip(own, extents, strict=True):
            extent = Expr.of(size)
            if extent.constant == 1:
                places.append(Index(Expr.of(0), self))
                continue
            loop = Loop(name or self._fresh_name(), extent)
            self.extents[loop.name] = extent
            places.append(Index(Expr.named(loop.name), self))
            loops.append(loop)
        return places, loops

    def _fresh_name(self) -> str:
        self._fresh += 1
        return f"k{self._fresh}"

    def scatter(
        self,
        mode: str,
        extents: Sequence[Any],
        old: Value,
        hit: Callable[..., Any],
        update: Callable[..., Value],
    ) -> Value:
        """An update that stands at its own place (its index is a loop variable) needs no loop."""
        places, loops = self._loops(extents)
        if mode == "set" and loops:
            raise CannotLower(self._nodes[-1], "the last of several writes wins")
        free = {loop.name for loop in loops}
        solved: dict[str, Index] = {}
        for found, wanted in hit(places):
            if str(found.expr) in free:
                solved.setdefault(str(found.expr), Index(as_expr(wanted), self))
        if free - solved.keys():
            raise CannotLower(self._nodes[-1], "a scatter with several updates for an element")
        ks = [solved.get(str(place.expr), place) for place in places]
        self.checks = {k: c for k, c in self.checks.items()
                       if not c.bad.names & free}  # fmt: skip
        condition: Any = True
        for found, wanted in hit(ks):
            condition = (found == wanted) & condition
        return self.select(
            condition,
            lambda: update(ks) if mode == "set" else spell(_COMBINE[mode], old, update(ks)),
            lambda: old,
        )

    # ----- indices

    def test(self, relation: str, left: Expr, right: Expr) -> Value:
        """A comparison of indices, decided now where their ranges decide it."""
        if relation in ("lt", "le"):
            gap = right - left - (1 if relation == "lt" else 0)
            if self._at_least_zero(gap):
                return self.body.constant(True, bool_)
            if self._at_least_zero(left - right - (0 if relation == "lt" else 1)):
                return self.body.constant(False, bool_)
        return self.body.test(relation, left, right)

    def _within(self, index: Expr, size: Expr) -> bool:
        return self._at_least_zero(index) and self._at_least_zero(size - 1 - index)

    def _at_least_zero(self, expr: Expr) -> bool:
        """Whether an expression is certainly >= 0 inside the loops; sizes are >= 0."""
        low: Any = Expr.of(0)
        for monomial, c in expr.terms:
            variables = [a for a in monomial if isinstance(a, str) and a in self.extents]
            if not variables:
                if any(not isinstance(a, str) for a in monomial):
                    return False
                low = low + Expr({monomial: c})
            elif c < 0:
                bound: Any = Expr.of(c)
                for a in monomial:
                    bound = bound * (self.extents[a] - 1 if a in variables else Expr.named(str(a)))
                low = low + bound
            elif any(not isinstance(a, str) for a in monomial):
                return False
        return all(c >= 0 for _, c in low.terms)

    def divided(self, expr: Expr, divisor: Expr) -> tuple[Expr, Expr]:
        """Quotient and remainder of indices >= 0, taken apart where the ranges allow it."""
        if divisor.constant == 1:
            return expr, Expr.of(0)
        whole, rest = _parted(expr, divisor)
        if self._within(rest, divisor):
            return whole, rest
        if not self._at_least_zero(rest):
            return expr // divisor, expr % divisor
        return whole + rest // divisor, rest % divisor


def _parted(expr: Expr, divisor: Expr) -> tuple[Expr, Expr]:
    """Those terms that the divisor divides, divided by it, and the others."""
    if len(divisor.terms) != 1:
        return Expr.of(0), expr
    ((factors, c),) = divisor.terms
    whole: dict[Any, int] = {}
    rest: dict[Any, int] = {}
    for monomial, k in expr.terms:
        left = list(monomial)
        for factor in factors:
            if factor in left:
                left.remove(factor)
        if len(left) == len(monomial) - len(factors) and k % c == 0:
            whole[tuple(left)] = k // c
        else:
            rest[monomial] = k
    return Expr(whole), Expr(rest)


def flat(idx: Sequence[Expr], shape: Sequence[Any]) -> Expr:
    """The offset of an element of a C-contiguous buffer."""
    offset: Any = Expr.of(0)
    for i, n in zip(idx, shape, strict=True):
        offset = offset * n + i
    return Expr.of(offset)
