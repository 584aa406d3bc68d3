"""Functions with a derivative of their own: `custom_vjp`, `custom_jvp`, and `checkpoint`.

A call runs unseen by tapes, under a spy that notes what it reads from outside; its results then
pass through the op `custom`, whose rule is the call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, final

import stagekit.ops as ops
from stagekit import tree
from stagekit.autodiff.batch import plus
from stagekit.autodiff.gradients import aligned, fitted, fresh, linearize, named, push_through
from stagekit.autodiff.tape import is_inexact, is_tensor
from stagekit.errors import ArgumentError, ShapeError, TraceError, boundary
from stagekit.op import Cell, Op, Overlay, current, using
from stagekit.source import attributed, here
from stagekit.tensor import Tensor, Variable

# ----- functions with a derivative of their own ---------------------------------------------------


class _Frame(NamedTuple):
    """A tree with its tensors taken out, to be filled with others."""

    spec: tree.Spec
    leaves: list[Any]
    places: list[int]

    @classmethod
    def of(cls, obj: Any) -> tuple[_Frame, list[Any]]:
        """The frame of a tree, and the tensors that were in it."""
        leaves, spec = tree.flatten(obj)
        places = [k for k, leaf in enumerate(leaves) if is_tensor(leaf)]
        rest = [None if is_tensor(leaf) else leaf for leaf in leaves]
        return cls(spec, rest, places), [leaves[k] for k in places]

    def filled(self, tensors: Iterable[Any]) -> Any:
        leaves = list(self.leaves)
        for k, tensor in zip(self.places, tensors, strict=True):
            leaves[k] = tensor
        return tree.unflatten(self.spec, leaves)


class _Call:
    """One call whose results have a derivative of their own; see `tape.Rule`.

    `cells` are its tensors and `xs` their values when it began, which every tape counts as read.
    """

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.name = getattr(fn, "__name__", "function")
        self.serial = current().base.serial()
        self.args, self.cells = _Frame.of((args, kwargs))
        self.xs = [Tensor(current().read(cell)) for cell in self.cells]

    def __repr__(self) -> str:
        return repr(f"{self.name} {self.serial}")  # how a graph prints it: no two calls alike

    def marked(self, results: Sequence[Any], saved: Sequence[Any] = ()) -> list[Any]:
        """The results with this derivative attached."""
        xs = [*self.xs, *saved]
        return [
            ops.custom(y, *xs, rule=self, index=k) if xs and is_inexact(y) else y
            for k, y in enumerate(results)
        ]

    def vjp(self, i: int, ct: Any, index: int, xs: Sequence[Any]) -> Any:
        """The cotangent of one x for that of one result."""
        return None if i < 0 else self.pull({index: ct}, xs, [i], [None])[0]

    def jvp(self, tangents: Sequence[Any], index: int, xs: Sequence[Any]) -> Any:
        """The tangent of one result."""
        return self.push(tangents, xs)[index]

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> list[Any]:
        raise TraceError(f"{self.name} has no reverse mode")

    def push(self, tangents: Sequence[Any], xs: Sequence[Any]) -> dict[int, Any]:
        raise TraceError(
            f"{self.name} has only a vjp: forward mode cannot differentiate it",
            fix="use reverse mode (grad, vjp), or define it with custom_jvp",
        ).located(here())


@final
class _Spy(Overlay):
    """Runs a function unseen by tapes; notes the tensors from outside that it reads or writes.

    `held` has for each its cell and a tensor of the value it held at first, which every tape counts
    as read. What it writes to them is kept here until `commit`. `transparent` says that derivatives
    flow through the function's own ops.
    """

    def __init__(self, call: _Call, transparent: bool) -> None:
        self.outside = current()
        super().__init__(self.outside.primal(), call.cells, call.xs)
        self.transparent = transparent
        self.held = dict(self.cells)
        self.made: dict[int, Any] = {}  # values by identity; kept alive, so that ids stay unique
        self.flowing: set[int] = set()  # those through which a derivative flows

    def _seen(self, cell: Any) -> Any:
        pair = self.cells.get(id(cell))
        if pair is None:
            if id(self.below.read(cell)) in self.made:
                return cell
            pair = (cell, Tensor(self.outside.read(cell)))
            self.cells[id(cell)] = self.held[id(cell)] = pair
        return pair[1]

    def write(self, cell: Any, value: Any) -> None:
        if self._seen(cell) is cell:
            self.below.write(cell, value)
        else:
            super().write(cell, value)

    def written(self) -> list[Any]:
        """The tensors from outside that the function wrote to."""
        return [cell for key, (cell, x) in self.held.items() if self.cells[key][1] is not x]

    def commit(self, marked: dict[int, Any]) -> None:
        """Write outside what was written here, connected as in `marked` (by the cell's id)."""
        for cell in self.written():
            new = marked.get(id(cell))
            value = self.read(cell) if new is None else self.outside.read(new)
            self.outside.write(cell, value)

    def _made(self, cell: Any) -> Any:
        value = self.below.read(cell)
        self.made[id(value)] = value
        return cell

    def _result(self, out: Any, flows: bool) -> Any:
        value = self.below.read(self._made(out))
        if flows:
            self.flowing.add(id(value))
        return out

    def constant(self, value: Any, dtype: Any) -> Any:
        return self._made(self.below.constant(value, dtype))

    def lift(self, obj: Any, target: Any = None) -> Any:
        return obj if isinstance(obj, Cell) else self._made(self.below.lift(obj, target))

    def literal(self, array: Any) -> Any:
        return self._made(self.below.literal(array))

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        out = super().apply(op, args, attrs)
        flows = self.transparent and op.vjp is not None and any(map(self.differentiates, args))
        if op.several:
            return tuple([self._result(each, flows) for each in out])
        return self._result(out, flows)

    def differentiates(self, cell: Any) -> bool:
        seen = self._seen(cell)
        known = id(self.below.read(seen)) in self.flowing
        return self.transparent and (known or self.outside.differentiates(seen))


def _is_plain() -> bool:
    """Whether ops only run here: nothing differentiates them, and no graph is made of them."""
    interpreter = current()
    return interpreter.primal() is interpreter and not interpreter.base.traces


class _Custom:
    """A function that takes all its arguments by position, as its rule expects them."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__wrapped__ = fn
        self.name = getattr(fn, "__name__", "function")

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments, defaults included."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.kwargs:
            raise ArgumentError(
                f"{self.name}: {', '.join(bound.kwargs)} cannot be given by position",
                fix="a function with a derivative of its own has no keyword-only arguments",
            ).located(here())
        return bound.args


@final
class _VjpCall(_Call):
    """Results of `fn`, or of `fwd` with the residuals it saved, differentiated by `bwd`."""

    def __init__(self, fn: Any, fwd: Any, bwd: Any, args: tuple[Any, ...]) -> None:
        super().__init__(fn, args, {})
        self.fn, self.fwd, self.bwd = fn, fwd, bwd
        self.out: tree.Spec | None = None
        self.saved: _Frame | None = None

    def run(self, args: tuple[Any, ...]) -> Any:
        spy = _Spy(self, transparent=False)
        saved: list[Any] = []
        with using(spy):
            if spy.outside.primal() is spy.outside:
                out = self.fn(*args)
            else:
                out, residuals = self._forward(args)
                self.saved, saved = _Frame.of(residuals)
            leaves, self.out = tree.flatten(out)
            results, saved = _as_seen(leaves), _as_seen(saved)
        spy.commit({})
        return tree.unflatten(self.out, self.marked(results, self._connected(saved, args)))

    def _forward(self, args: tuple[Any, ...]) -> tuple[Any, Any]:
        pair = self.fwd(*args)
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise ArgumentError(
                f"{self.name}: fwd gives {type(pair).__name__}", fix="return (out, residuals)"
            ).located(here())
        return pair

    def _connected(self, saved: list[Any], args: tuple[Any, ...]) -> list[Any]:
        """Residuals with their own derivative, by which that of `bwd` is differentiated in turn."""
        known = {id(x._value): x for x in self.xs}
        again = _Recompute(lambda *xs: self._forward(xs)[1], args, {})
        return [
            known.get(id(value), mark)
            for value, mark in zip((r._value for r in saved), again.marked(saved), strict=True)
        ]

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> list[Any]:
        own = len(self.cells)
        args, _ = self.args.filled(xs[:own])
        assert self.out is not None
        with attributed(None):
            if self.saved is None:
                out, residuals = self._forward(args)
                cts = {k: ops.zeros_like(y) for k, y in _floats(tree.leaves(out)).items()} | cts
            else:
                residuals = self.saved.filled(xs[own:])
            ct = tree.unflatten(self.out, [cts.get(k) for k in range(self.out.num_leaves)])
            shares = self._backward(residuals, ct, args, xs)
        return plus(so_far, [shares[i] if i < own else None for i in wanted])

    def _backward(self, residuals: Any, ct: Any, args: Any, xs: Sequence[Any]) -> list[Any]:
        """The cotangents that `bwd` gives for the tensors of the arguments."""
        given = self.bwd(residuals, ct)
        if not isinstance(given, tuple) or len(given) != len(args):
            count = len(given) if isinstance(given, tuple) else type(given).__name__
            raise ShapeError(
                f"{self.name}: bwd gives {count} cotangents for {len(args)} arguments",
                fix="return a tuple with one for each argument, None for zero",
            ).located(here())
        found: list[Any] = []
        for arg, c in zip(args, given, strict=True):
            leaves, spec = tree.flatten(arg)
            parts = [None] * len(leaves) if c is None else aligned(self.name, "cotangent", spec, c)
            found += [part for leaf, part in zip(leaves, parts, strict=True) if is_tensor(leaf)]
        return [
            None if c is None else fitted(self.name, "cotangent", c, x.dtype, x.shape)
            for c, x in zip(found, xs, strict=False)
        ]


def _floats(leaves: Sequence[Any]) -> dict[int, Any]:
    """The float tensors among the leaves of a result, by their place."""
    return {k: leaf for k, leaf in enumerate(leaves) if is_inexact(leaf)}


def _as_seen(leaves: Sequence[Any]) -> list[Any]:
    """Each tensor as one of the value that it holds here, whatever is written to it later."""
    return [Tensor(current().read(leaf)) if is_tensor(leaf) else leaf for leaf in leaves]


@final
class custom_vjp(_Custom):
    """A function whose reverse-mode derivative is given: `f.defvjp(fwd, bwd)`.

    `fwd(*args) -> (out, residuals)` runs in place of `fn` where a gradient may be asked for;
    `bwd(residuals, ct) -> tuple` gives one cotangent an argument (None for zero). `ct` is None for
    a result that has none (integers). Gradients flow through the arguments alone. Raises TraceError
    in forward mode, ShapeError for cotangents that do not fit. Source: `jax.custom_vjp`.

    >>> import stagekit as sk
    >>> @sk.custom_vjp
    ... def double(x): return x * 2
    >>> double.defvjp(lambda x: (x * 2, None), lambda res, ct: (ct * 10,))
    >>> sk.grad(double)(1.0).item()
    10.0
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__(fn)
        functools.update_wrapper(self, fn)
        self._rules: tuple[Any, Any] | None = None

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Give the forward rule with residuals and the backward rule."""
        self._rules = (fwd, bwd)

    @boundary
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fn = self.__wrapped__
        if self._rules is None:
            raise TraceError(f"{self.name} has no vjp", fix="call defvjp(fwd, bwd)").located(here())
        args = self.positional(args, kwargs)
        return fn(*args) if _is_plain() else _VjpCall(fn, *self._rules, args).run(args)


@final
class _JvpCall(_Call):
    def __init__(self, fn: Any, rule: Any, args: tuple[Any, ...]) -> None:
        super().__init__(fn, args, {})
        self.fn, self.rule = fn, rule
        self.out: tree.Spec | None = None

    def run(self, args: tuple[Any, ...]) -> Any:
        spy = _Spy(self, transparent=False)
        with using(spy):
            leaves, self.out = tree.flatten(self.fn(*args))
            results = _as_seen(leaves)
        spy.commit({})
        return tree.unflatten(self.out, self.marked(results))

    def push(self, tangents: Sequence[Any], xs: Sequence[Any]) -> dict[int, Any]:
        args, _ = self.args.filled(xs)
        moved, _ = self._still().filled(
            ops.zeros_like(x) if t is None else t for t, x in zip(tangents, xs, strict=True)
        )
        with attributed(None):
            return self._tangents(self.rule(args, moved))

    def _still(self) -> _Frame:
        """The tangents of what is no tensor: 0 for a Python float, else None."""
        still = [0.0 if isinstance(leaf, float) else None for leaf in self.args.leaves]
        return self.args._replace(leaves=still)

    def _tangents(self, pair: Any) -> dict[int, Any]:
        assert self.out is not None
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise ArgumentError(
                f"{self.name}: its rule gives {type(pair).__name__}", fix="return (out, tangent)"
            ).located(here())
        results, tangents = (
            aligned(self.name, what, self.out, obj)
            for what, obj in zip(("result", "tangent"), pair, strict=True)
        )
        return {
            k: fitted(self.name, "tangent", tangents[k], y.dtype, y.shape)
            for k, y in _floats(results).items()
        }

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> list[Any]:
        """The transpose of the push, which is linear in the tangents."""

        def push(*moved: Any) -> dict[int, Any]:
            known = dict(zip(wanted, moved, strict=True))
            return self.push([known.get(k) for k in range(len(xs))], xs)

        return _transposed(push, [ops.zeros_like(xs[k]) for k in wanted], cts, so_far)


def _transposed(
    fn: Callable[..., dict[int, Any]],
    primals: Sequence[Any],
    cts: dict[int, Any],
    so_far: Sequence[Any],
) -> list[Any]:
    """The cotangents of the primals of `fn`, for those of some of the results it gives by index.

    They are added to those so far in the order in which `fn` uses its primals.
    """
    linear = linearize("vjp", fn, tuple(primals), {}, range(len(primals)), False)
    return linear.pull([cts.get(k) for k in linear.out], so_far)


@final
class custom_jvp(_Custom):
    """A function whose forward-mode derivative is given: `f.defjvp(rule)`; reverse mode follows.

    `rule(primals, tangents) -> (out, tangent)`, linear in the tangents; the tangent of a Python
    float is 0.0, of anything else that is no tensor None. Gradients flow through the arguments
    alone. Raises ShapeError for a tangent that does not fit. Source: `jax.custom_jvp`.

    >>> import stagekit as sk
    >>> @sk.custom_jvp
    ... def double(x): return x * 2
    >>> double.defjvp(lambda primals, tangents: (primals[0] * 2, tangents[0] * 10))
    >>> sk.grad(double)(1.0).item()
    10.0
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__(fn)
        functools.update_wrapper(self, fn)
        self._rule: Callable[..., Any] | None = None

    def defjvp(self, rule: Callable[..., Any]) -> None:
        """Give the rule `(primals, tangents) -> (out, tangent)`."""
        self._rule = rule

    @boundary
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fn = self.__wrapped__
        if self._rule is None:
            raise TraceError(f"{self.name} has no jvp", fix="call defjvp(rule)").located(here())
        args = self.positional(args, kwargs)
        return fn(*args) if _is_plain() else _JvpCall(fn, self._rule, args).run(args)


# ----- checkpoint ---------------------------------------------------------------------------------


@final
class _Again(Overlay):
    """Stand-ins take the place of the tensors that a function read when it ran first.

    A Variable's stand-in is a Variable, so that its reads are one source and its assignments are
    not differentiated.
    """

    def write(self, cell: Any, value: Any) -> None:
        if type(cell) is Variable and id(cell) in self.cells:
            self.below.write(self._seen(cell), value)
        else:
            super().write(cell, value)


def _stand_in(cell: Any, tensor: Any) -> Any:
    """A tensor in place of `cell`, connected to what `tensor` is."""
    if not isinstance(cell, Variable):
        return tensor
    variable = Variable.__new__(Variable)
    Cell.__init__(variable, current().read(tensor))
    variable.name = cell.name
    return variable


@final
class _Recompute(_Call):
    """Differentiates by running the function again, on operands behind barriers."""

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        super().__init__(fn, args, kwargs)
        self.fn, self.given = fn, self.cells
        self.written: list[Any] = []

    def run(self) -> Any:
        spy = _Spy(self, transparent=True)
        with using(spy):
            leaves, spec = self._called()
            self.written = [c for c in spy.written() if not isinstance(c, Variable)]
            results = _as_seen([*leaves, *self.written])
        self.cells, self.xs = ([pair[k] for pair in spy.held.values()] for k in (0, 1))
        marked = self.marked(results)
        after = marked[len(leaves) :]
        spy.commit({id(c): x for c, x in zip(self.written, after, strict=True)})
        kept = [y if id(y) in spy.held else m for y, m in zip(leaves, marked, strict=False)]
        return tree.unflatten(spec, kept)

    def _called(self) -> tuple[list[Any], tree.Spec]:
        args, kwargs = self.args.filled(self.given)
        return tree.flatten(self.fn(*args, **kwargs))

    def _again(self, stand_ins: Sequence[Any]) -> dict[int, Any]:
        """The float results by index, then what the function leaves in tensors from outside."""
        with using(_Again(current(), self.cells, stand_ins)), attributed(None):
            leaves, _ = self._called()
            return _floats(_as_seen([*leaves, *self.written]))

    def pull(
        self, cts: dict[int, Any], xs: Sequence[Any], wanted: Sequence[int], so_far: Sequence[Any]
    ) -> list[Any]:
        serial = current().base.serial()
        behind = [ops.barrier(x, serial=serial) for x in xs]
        return _transposed(*self._of_stand_ins(behind, wanted), cts, so_far)

    def push(self, tangents: Sequence[Any], xs: Sequence[Any]) -> dict[int, Any]:
        moving = [k for k, tangent in enumerate(tangents) if tangent is not None]
        again, primals = self._of_stand_ins(xs, moving)
        inputs = fresh("jvp", tuple(primals), range(len(primals)))
        pushed: dict[int, Any] = push_through("jvp", again, inputs, [tangents[k] for k in moving])[
            1
        ]
        return pushed

    def _of_stand_ins(
        self, xs: Sequence[Any], chosen: Sequence[int]
    ) -> tuple[Callable[..., dict[int, Any]], list[Any]]:
        """The function again, as one of the chosen operands alone; and these operands."""
        stand_ins = [_stand_in(cell, x) for cell, x in zip(self.cells, xs, strict=True)]

        def again(*moved: Any) -> dict[int, Any]:
            tensors = list(stand_ins)
            for k, tensor in zip(chosen, moved, strict=True):
                tensors[k] = tensor
            return self._again(tensors)

        return again, [stand_ins[k] for k in chosen]


def checkpoint(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, whose inner values are not kept for the backward but computed again there.

    The results and gradients are the same to the bit; memory falls, time rises by one forward.
    Gradients also flow to tensors and Variables that `fn` closes over. `fn` must do the same again:
    its other effects happen twice. Source: Chen et al. 2016.

    >>> import stagekit as sk
    >>> sk.grad(sk.checkpoint(lambda x: sk.sin(x) ** 2))(0.0).item()
    0.0
    """

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs) if _is_plain() else _Recompute(fn, args, kwargs).run()

    return named(checkpointed, fn, "checkpoint")
