"""Gradients, Jacobians and products with them: functions of functions, for trees of tensors.

Each installs an interpreter of `tape.py` over the current one, runs the function, and reads off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import stagekit.ops as ops
from stagekit import tree
from stagekit.autodiff.batch import over_lanes
from stagekit.autodiff.tape import Dual, Tape, is_inexact, is_tensor, require_real, units
from stagekit.errors import ArgumentError, BoundsError, DTypeError, ShapeError, boundary
from stagekit.op import current, using, weak_type
from stagekit.ops import asarray
from stagekit.source import here
from stagekit.symbolic import product
from stagekit.tensor import Tensor, Variable
from stagekit.types import same_shape, shape_text

# ----- operands and results -----------------------------------------------------------------------


def _operand(name: str, leaf: Any, path: Callable[[], str]) -> Any:
    """An input leaf to differentiate: a float tensor as a fresh value, a Variable as it is."""
    if isinstance(leaf, Variable):
        return _require_float(name, leaf, path)
    if weak_type(leaf) is not None or hasattr(leaf, "__array__"):
        return ops.alias(_require_float(name, asarray(leaf), path))
    raise DTypeError(
        f"{name}: {path()} is {type(leaf).__name__}, not a tensor",
        fix="differentiate with respect to float tensors, or choose other argnums",
    ).located(here())


def _require_float(name: str, leaf: Any, path: Callable[[], str]) -> Any:
    if not leaf.dtype.inexact:
        raise DTypeError(
            f"{name}: {path()} is {leaf.dtype}, which has no derivative",
            fix="cast it to a float type, or choose other argnums",
        ).located(here())
    return leaf


def _path(spec: tree.Spec, root: str, k: int) -> str:
    return tree.paths(spec, root)[k]


class Inputs(NamedTuple):
    """Arguments with their differentiable leaves made fresh; `specs` are of the chosen ones."""

    args: tuple[Any, ...]
    leaves: list[Any]
    specs: list[tree.Spec]


def fresh(name: str, args: tuple[Any, ...], argnums: Sequence[int]) -> Inputs:
    renewed, leaves, specs = list(args), [], []
    for n in argnums:
        if not -len(args) <= n < len(args):
            raise BoundsError(
                f"{name}: argument {n} of {len(args)}", fix="argnums count arguments from 0"
            ).located(here())
        flat, spec = tree.flatten(args[n])
        path = functools.partial(_path, spec, f"argument {n % len(args)}")
        flat = [_operand(name, leaf, functools.partial(path, k)) for k, leaf in enumerate(flat)]
        renewed[n] = tree.unflatten(spec, flat)
        leaves += flat
        specs.append(spec)
    return Inputs(tuple(renewed), leaves, specs)


def _grouped(specs: Sequence[tree.Spec], flat: Sequence[Any]) -> tuple[Any, ...]:
    """Flat leaves as one tree for each spec."""
    ends = list(accumulate((spec.num_leaves for spec in specs), initial=0))
    return tuple(
        tree.unflatten(spec, flat[start:stop])
        for spec, start, stop in zip(specs, ends, ends[1:], strict=False)
    )


def aligned(name: str, what: str, spec: tree.Spec, obj: Any) -> list[Any]:
    """The leaves of a cotangent or tangent in the order of the tensors that it belongs to.

    None may stand for any of them.
    """
    try:
        found = tree.flatten_as(spec, obj)
        fits = all(leaf is None or tree.is_leaf(leaf) for leaf in found)
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"{name}: the {what} has not the structure {tree.outline(spec)}",
            fix=f"give one {what} for each tensor, in the same structure",
        ).located(here())
    return found


def fitted(name: str, what: str, given: Any, dtype: Any, shape: Any) -> Any:
    """A cotangent or tangent as a tensor of the type of what it belongs to, and of its shape."""
    given = ops.astype(asarray(given), dtype, copy=False)
    if not same_shape(given.shape, shape):
        raise ShapeError(
            f"{name}: a {what} of shape {shape_text(given.shape)} for a tensor of shape "
            f"{shape_text(shape)}",
            fix="they must be equal",
        ).located(here())
    return given


def _with_aux(name: str, out: Any) -> tuple[Any, Any]:
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ArgumentError(
            f"{name}: has_aux, and the function gives {type(out).__name__}",
            fix="return a tuple (out, aux)",
        ).located(here())
    return out


def named(inner: Callable[..., Any], fn: Callable[..., Any], what: str) -> Callable[..., Any]:
    wrapper = functools.update_wrapper(boundary(inner), fn)
    wrapper.__name__ = f"{what}({getattr(fn, '__name__', 'function')})"
    return wrapper


# ----- vjp, grad ----------------------------------------------------------------------------------


class Linear(NamedTuple):
    """A function run under a tape of its own, with the leaves of its result.

    `pull` takes a cotangent for each of them (None: zero), and what each input leaf has so far.
    """

    out: Any
    aux: Any
    leaves: list[Any]
    spec: tree.Spec
    inputs: Inputs
    pull: Callable[..., list[Any]]

    def gradients(self, cts: Sequence[Any]) -> list[Any]:
        """The cotangent of each input leaf, zeros where unconnected."""
        return [
            ops.zeros_like(leaf) if g is None else g
            for g, leaf in zip(self.pull(cts), self.inputs.leaves, strict=True)
        ]


def linearize(
    name: str, fn: Callable[..., Any], args: Any, kwargs: Any, argnums: Sequence[int], aux: bool
) -> Linear:
    inputs = fresh(name, args, argnums)
    tape = Tape(current())
    sources = [(leaf, tape.follow(leaf)) for leaf in inputs.leaves]
    with using(tape):
        out = fn(*inputs.args, **kwargs)
    out, extra = _with_aux(name, out) if aux else (out, None)
    leaves, spec = tree.flatten(out)
    read = tape.below.read
    results = [
        (read(leaf), leaf.dtype, leaf.shape) if is_inexact(leaf) else None for leaf in leaves
    ]

    def pull(cts: Sequence[Any], so_far: Sequence[Any] = ()) -> list[Any]:
        seeds = [
            (result[0], fitted(name, "cotangent", ct, *result[1:]))
            for result, ct in zip(results, cts, strict=True)
            if result is not None and ct is not None
        ]
        return tape.gradients(seeds, sources, so_far)

    return Linear(out, extra, leaves, spec, inputs, pull)


def vjp(fn: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """`(out, pullback)`: `pullback(ct)` is the tuple of cotangents, one tree a primal.

    Primals are trees of float tensors; `ct` has the structure and shapes of `out`. With `has_aux`
    `fn` returns `(out, aux)` and the result is `(out, pullback, aux)`. Raises DTypeError for an
    integer primal, ShapeError for a cotangent that does not fit. Source: reverse mode
    (Baydin et al. 2018), `jax.vjp`.

    >>> import stagekit as sk
    >>> out, pullback = sk.vjp(lambda x: x * x, sk.asarray(3.0))
    >>> pullback(1.0)[0].item()
    6.0
    """
    linear = linearize("vjp", fn, primals, {}, range(len(primals)), has_aux)

    @boundary
    def pullback(ct: Any) -> tuple[Any, ...]:
        cts = aligned("vjp", "cotangent", linear.spec, ct)
        return _grouped(linear.inputs.specs, linear.gradients(cts))

    return (linear.out, pullback, linear.aux) if has_aux else (linear.out, pullback)


def value_and_grad(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives `(fn(*args), gradient)`; see `grad`.

    With `has_aux` it gives `((out, aux), gradient)`.

    >>> import stagekit as sk
    >>> value, g = sk.value_and_grad(lambda x: x ** 2)(3.0)
    >>> value.item(), g.item()
    (9.0, 6.0)
    """
    return named(_gradient_of(fn, argnums, has_aux), fn, "value_and_grad")


def _gradient_of(
    fn: Callable[..., Any], argnums: int | tuple[int, ...], has_aux: bool
) -> Callable[..., Any]:
    chosen = argnums if isinstance(argnums, tuple) else (argnums,)

    def with_gradient(*args: Any, **kwargs: Any) -> Any:
        linear = linearize("grad", fn, args, kwargs, chosen, has_aux)
        found = _grouped(linear.inputs.specs, linear.gradients([_one_like(linear.out)]))
        gradient = found if isinstance(argnums, tuple) else found[0]
        return ((linear.out, linear.aux) if has_aux else linear.out), gradient

    return with_gradient


def _one_like(out: Any) -> Any:
    """The cotangent 1 of a scalar float result."""
    if not is_inexact(out):
        kind = out.dtype if isinstance(out, Tensor) else type(out).__name__
        raise DTypeError(
            f"grad: the function gives {kind}, not a float tensor",
            fix="return a float scalar",
        ).located(here())
    require_real("grad", "the function gives", out)
    if out.ndim:
        raise ShapeError(
            f"grad: the function gives shape {shape_text(out.shape)}, not a scalar",
            fix="sum it, or use vjp or jacobian",
        ).located(here())
    return ops.ones_like(out)


def grad(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient function of a scalar-valued `fn` with respect to the arguments `argnums`.

    Arguments are trees of float tensors or Variables; the gradient has their structure (a tuple of
    trees for a tuple of argnums), zeros where unconnected. With `has_aux` it gives
    `(gradient, aux)`. Raises ShapeError where `fn` gives no scalar, DTypeError for integers.
    Source: `jax.grad`.

    >>> import stagekit as sk
    >>> sk.grad(lambda x: sk.sin(x) * x)(sk.asarray(0.0)).item()
    0.0
    """
    inner = _gradient_of(fn, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        out, found = inner(*args, **kwargs)
        return (found, out[1]) if has_aux else found

    return named(gradient, fn, "grad")


# ----- jvp ----------------------------------------------------------------------------------------


@boundary
def jvp(
    fn: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    has_aux: bool = False,
) -> Any:
    """`(out, tangent)`: the value and its directional derivative, by forward mode.

    `tangents` has the structure and shapes of `primals`. With `has_aux`: `(out, tangent, aux)`.
    A result that is no tensor has the tangent None. Raises DTypeError for an integer primal,
    ShapeError for a tangent that does not fit. Source: `jax.jvp`.

    >>> import stagekit as sk
    >>> out, tangent = sk.jvp(lambda x: x * x, (3.0,), (1.0,))
    >>> tangent.item()
    6.0
    """
    inputs, moved = _directions("jvp", tuple(primals), tuple(tangents))
    out, tangent, aux = push_through("jvp", fn, inputs, moved, has_aux)
    return (out, tangent, aux) if has_aux else (out, tangent)


def _directions(
    name: str, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Inputs, list[Any]]:
    """The primals as inputs, and a tangent that fits for each of their leaves."""
    inputs = fresh(name, primals, range(len(primals)))
    if len(tangents) != len(primals):
        raise ShapeError(
            f"{name}: {len(tangents)} tangents for {len(primals)} primals",
            fix="give a tuple with one tangent for each primal",
        ).located(here())
    pairs = zip(inputs.specs, tangents, strict=True)
    flat = [leaf for spec, tangent in pairs for leaf in aligned(name, "tangent", spec, tangent)]
    return inputs, [
        None if tangent is None else fitted(name, "tangent", tangent, leaf.dtype, leaf.shape)
        for leaf, tangent in zip(inputs.leaves, flat, strict=True)
    ]


def push_through(
    name: str, fn: Callable[..., Any], inputs: Inputs, moved: Sequence[Any], has_aux: bool = False
) -> tuple[Any, Any, Any]:
    """(out, tangent, aux) for a tangent of each input leaf, None where it stays as it is."""
    dual = Dual(current())
    for leaf, tangent in zip(inputs.leaves, moved, strict=True):
        if tangent is not None:
            dual.follow(leaf, tangent)
    with using(dual):
        out = fn(*inputs.args)
    out, aux = _with_aux(name, out) if has_aux else (out, None)
    read = dual.below.read
    pushed = tree.map(lambda y: dual.tangent(read(y)) if is_tensor(y) else None, out)
    return out, pushed, aux


def hvp(fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of scalar `fn` times a direction, at the cost of a few gradients.

    Gives a tuple, one tree a primal. Forward over reverse. Raises as `grad` and `jvp` do.
    Source: Pearlmutter, "Fast exact multiplication by the Hessian", 1994.

    >>> import stagekit as sk
    >>> sk.hvp(lambda x: x ** 3, (2.0,), (1.0,))[0].item()
    12.0
    """
    primals = tuple(primals)
    gradient = grad(fn, argnums=tuple(range(len(primals))))
    return push_through("hvp", gradient, *_directions("hvp", primals, tuple(tangents)))[1]


# ----- jacobians ----------------------------------------------------------------------------------


def jacobian(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, mode: str | None = None
) -> Callable[..., Any]:
    """The Jacobian function: for each result and argument leaf a tensor `out.shape + in.shape`.

    `mode` is "rev" (one pass for all elements of an output), "fwd" (one for all of an input) or
    None: by whether there are fewer output or input elements. Trees of results hold trees of
    arguments. Raises DTypeError for integers and for results that are no tensors. Source:
    `jax.jacobian`.

    >>> import stagekit as sk
    >>> sk.jacobian(lambda x: x * x)(sk.asarray([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]], dtype=float32)
    """
    if mode not in (None, "rev", "fwd"):
        raise ArgumentError(f"jacobian: mode is {mode!r}", fix="use 'rev', 'fwd' or None").located(
            here()
        )
    chosen = argnums if isinstance(argnums, tuple) else (argnums,)

    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        if mode == "fwd":
            return shaped(*_forward_jacobian(fn, args, kwargs, chosen))
        linear = linearize("jacobian", fn, args, kwargs, chosen, False)
        for leaf in linear.inputs.leaves:
            require_real("jacobian", "an argument is", leaf)
        _require_results(linear.leaves)
        if mode is None and _elements(linear.leaves) > _elements(linear.inputs.leaves):
            return shaped(*_forward_jacobian(fn, args, kwargs, chosen))
        return shaped(_reverse_jacobian(linear), linear.spec, linear.inputs.specs)

    def shaped(rows: list[list[Any]], spec: tree.Spec, specs: list[tree.Spec]) -> Any:
        groups = [_grouped(specs, row) for row in rows]
        picked = groups if isinstance(argnums, tuple) else [group[0] for group in groups]
        return tree.unflatten(spec, picked)

    return named(jacobian_of, fn, "jacobian")


def _require_results(leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if not is_inexact(leaf):
            kind = leaf.dtype if is_tensor(leaf) else type(leaf).__name__
            raise DTypeError(
                f"jacobian: the function gives {kind}, not a float tensor",
                fix="return float tensors alone",
            ).located(here())
        require_real("jacobian", "the function gives", leaf)


def _elements(leaves: Sequence[Any]) -> Any:
    return sum(product(leaf.shape) for leaf in leaves)


def _alone(what: Any, k: int, count: int) -> list[Any]:
    """`what` in the k-th of so many places, None (zero) in the others."""
    return [what if j == k else None for j in range(count)]


def _reverse_jacobian(linear: Linear) -> list[list[Any]]:
    """For each result leaf the Jacobians with respect to each input leaf, by one pull."""
    ys, xs = linear.leaves, linear.inputs.leaves
    return [
        [
            ops.reshape(row, (*y.shape, *x.shape))
            for x, row in zip(xs, _pulled(linear, k, y), strict=True)
        ]
        for k, y in enumerate(ys)
    ]


def _pulled(linear: Linear, k: int, y: Any) -> list[Any]:
    """The gradients of every element of the k-th result, stacked."""
    count = len(linear.leaves)
    return over_lanes(lambda ct: linear.gradients(_alone(ct, k, count)), units(y))


def _forward_jacobian(
    fn: Callable[..., Any], args: Any, kwargs: Any, argnums: Sequence[int]
) -> tuple[list[list[Any]], tree.Spec, list[tree.Spec]]:
    """As `_reverse_jacobian`, by one push for each input leaf; and the structures."""
    call = functools.partial(fn, **kwargs)
    inputs = fresh("jacobian", args, argnums)
    xs, out = inputs.leaves, None
    for x in xs:
        require_real("jacobian", "an argument is", x)

    def pushed(k: int, tangent: Any) -> list[Any]:
        nonlocal out
        anew = fresh("jacobian", args, argnums)
        out, moved, _ = push_through("jacobian", call, anew, _alone(tangent, k, len(xs)))
        _require_results(tree.leaves(out))
        return tree.leaves(moved)

    columns = [over_lanes(functools.partial(pushed, k), units(x)) for k, x in enumerate(xs)]
    leaves, spec = tree.flatten(out if xs else call(*inputs.args))
    rows = [
        [
            ops.reshape(ops.moveaxis(column[k], 0, -1), (*y.shape, *x.shape))
            for x, column in zip(xs, columns, strict=True)
        ]
        for k, y in enumerate(leaves)
    ]
    return rows, spec, inputs.specs


def hessian(fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The Hessian function of a scalar `fn`: forward mode over reverse. Source: `jax.hessian`.

    For trees of arguments it is a tree of trees. Raises as `grad` does.

    >>> import stagekit as sk
    >>> sk.hessian(lambda x: sk.sum(x ** 3))(sk.asarray([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]], dtype=float32)
    """
    return named(jacobian(grad(fn, argnums), argnums, mode="fwd"), fn, "hessian")
