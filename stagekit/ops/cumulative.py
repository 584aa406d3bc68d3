"""Running folds along an axis: sums, products, extrema of all elements up to each; and differences.

Floats are folded in float64, so that the error does not grow with the length; sums of float64 carry
their rounding errors along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import stagekit.ops as ops
from stagekit.errors import ArgumentError, ShapeError
from stagekit.op import OPS, Op, Speller
from stagekit.ops.batching import along_axis
from stagekit.ops.elementwise import floating, number, ordered
from stagekit.ops.reduction import accumulator
from stagekit.source import here
from stagekit.types import TensorType, as_integer, normalize_axis, same_shape, shape_text, widest

Rule = Callable[..., Any]

# ----- the family ---------------------------------------------------------------------------------


def _cumulative(name: str, fold: str, evaluate: Rule, **facts: Any) -> Op:
    """Declare the fold of the scalar op `fold` over all elements up to each one along `axis`."""

    def element(e: Speller, out: Any, idx: Sequence[Any], x: Any, *, axis: int) -> Any:
        def each(k: Any) -> Any:
            return x(*idx[:axis], k, *idx[axis + 1 :])

        return e.reduce(fold, x.dtype, [idx[axis] + 1], each)

    return Op(
        name,
        infer=lambda x, *, axis: x,
        evaluate=evaluate,
        element=element,
        batch=along_axis(name),
        family="cumulative",
        doc=_DOC.format(name=name, result=_EXAMPLES[name]),
        **facts,
    )


_DOC = """The primitive of `{name}`, which says what it means.

>>> from stagekit.op import OPS
>>> OPS["{name}"](ops.asarray([2, 3, 1]), axis=0)
{result}
"""
_EXAMPLES = {
    "cumulative_sum": "tensor([2, 5, 6], dtype=int64)",
    "cumulative_prod": "tensor([2, 6, 6], dtype=int64)",
    "cumulative_max": "tensor([2, 3, 3], dtype=int64)",
    "cumulative_min": "tensor([2, 2, 1], dtype=int64)",
}

# ----- linear recurrences, of which derivatives are made ------------------------------------------


def _before(x: Any, axis: int, first: float) -> Any:
    """Each element's predecessor along an axis, `first` for the first one."""
    low = tuple(int(k == axis) for k in range(x.ndim))
    none = (0,) * x.ndim
    longer = OPS["pad"](x, first, low=low, high=none, interior=none)
    return ops.slice(longer, starts=none, sizes=x.shape, strides=(1,) * x.ndim)


def _after(x: Any, axis: int, last: float) -> Any:
    """Each element's successor along an axis, `last` for the last one."""
    return ops.flip(_before(ops.flip(x, axis=axis), axis, last), axis=axis)


def _backward(a: Any, b: Any, axis: int) -> Any:
    """y[k] = a[k + 1] y[k + 1] + b[k], the transpose of a recurrence."""
    a, b = ops.flip(_after(a, axis, 0), axis=axis), ops.flip(b, axis=axis)
    return ops.flip(_recurrence(a, b, axis=axis), axis=axis)


def _recurrence_type(a: TensorType, b: TensorType, *, axis: int) -> TensorType:
    if not same_shape(a.shape, b.shape):
        shapes = f"{shape_text(a.shape)} and {shape_text(b.shape)}"
        raise ShapeError(f"recurrence: shapes {shapes} differ", fix="give one shape")
    return b


def _recurrence_evaluate(xp: Any, a: Any, b: Any, *, axis: int) -> Any:
    """In log2(n) doubling steps: after each, y[k] is right for a start up to `step` before k."""
    factors, out = (xp.moveaxis(x.astype(widest(x.dtype)), axis, -1) for x in (a, b))
    step = 1
    while step < out.shape[-1]:
        out[..., step:] += factors[..., step:] * out[..., :-step]
        factors[..., step:] *= factors[..., :-step].copy()
        step *= 2
    return xp.ascontiguousarray(xp.moveaxis(out, -1, axis)).astype(b.dtype, copy=False)


def _recurrence_element(
    e: Speller, out: TensorType, idx: Sequence[Any], a: Any, b: Any, *, axis: int
) -> Any:
    """The sum over i <= k of b[i] a[i + 1] ... a[k]."""

    def at(k: Any) -> tuple[Any, ...]:
        return (*idx[:axis], k, *idx[axis + 1 :])

    def term(i: Any) -> Any:
        rest = e.reduce("multiply", a.dtype, [idx[axis] - i], lambda j: a(*at(i + 1 + j)))
        return e.apply("multiply", b(*at(i)), rest)

    return e.reduce("add", b.dtype, [idx[axis] + 1], term)


def _recurrence_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    grown = _backward(ops.conj(xs[0]), ct, **attrs)
    return grown * ops.conj(_before(out, first=0, **attrs)) if i == 0 else grown


def _recurrence_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    ta, tb = tangents
    terms = [] if ta is None else [ta * _before(out, first=0, **attrs)]
    return _recurrence(xs[0], ops.total(terms if tb is None else [*terms, tb]), **attrs)


_recurrence: Op = Op(
    "recurrence",
    infer=_recurrence_type,
    evaluate=_recurrence_evaluate,
    element=_recurrence_element,
    dtypes=floating,
    vjp=_recurrence_vjp,
    jvp=_recurrence_jvp,
    batch=along_axis("recurrence"),
    family="cumulative",
    doc="""y[k] = a[k] y[k - 1] + b[k] along `axis`, y[0] = b[0]; Blelloch 1990, section 1.4.

    >>> _recurrence(ops.asarray([9.0, 2.0, 3.0]), ops.ones(3), axis=0)
    tensor([ 1.,  3., 10.], dtype=float32)
    """,
)

# ----- sums ---------------------------------------------------------------------------------------


def _sum_evaluate(xp: Any, x: Any, *, axis: int) -> Any:
    """Of float64 with the errors that the additions made added at the end (Ogita, Rump, Oishi)."""
    out = x.cumsum(axis, dtype=widest(x.dtype))
    if x.dtype.kind not in "fc":
        return out
    if x.dtype != out.dtype:
        return out.astype(x.dtype)
    so_far = xp.zeros_like(out)
    lead = (slice(None),) * axis
    so_far[(*lead, slice(1, None))] = out[(*lead, slice(None, -1))]
    added = out - so_far
    errors = (so_far - (out - added)) + (x - added)
    return xp.where(xp.isfinite(out), out + errors.cumsum(axis), out)


_cumulative_sum: Op = _cumulative(
    "cumulative_sum",
    "add",
    _sum_evaluate,
    dtypes=number,
    vjp=lambda i, ct, out, xs, attrs: _from_the_end(ct, **attrs),
    jvp=lambda tangents, out, xs, attrs: _cumulative_sum(tangents[0], **attrs),
)


def _from_the_end(x: Any, *, axis: int) -> Any:
    return ops.flip(_cumulative_sum(ops.flip(x, axis=axis), axis=axis), axis=axis)


# ----- products -----------------------------------------------------------------------------------


def _prod_evaluate(xp: Any, x: Any, *, axis: int) -> Any:
    return x.cumprod(axis, dtype=widest(x.dtype)).astype(x.dtype, copy=False)


def _prod_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    """Without a quotient, so right at any zeros."""
    earlier = ops.conj(_before(out, first=1, **attrs))
    return earlier * _backward(ops.conj(xs[0]), ct, **attrs)


def _prod_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    return _recurrence(xs[0], tangents[0] * _before(out, first=1, **attrs), **attrs)


_cumulative_prod: Op = _cumulative(
    "cumulative_prod", "multiply", _prod_evaluate, dtypes=number, vjp=_prod_vjp, jvp=_prod_jvp
)

# ----- extrema ------------------------------------------------------------------------------------


def _shares(x: Any, out: Any, axis: int) -> tuple[Any, Any, Any]:
    """Where the extremum is that of the place before, where x is it, how often it was so far."""
    same = ops.astype(ops.equal(out, _before(out, axis, 0)), out.dtype)
    hit = ops.astype(ops.equal(x, out), out.dtype)
    return same, hit, _recurrence(same, hit, axis=axis)


def _extremum_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    same, hit, count = _shares(xs[0], out, **attrs)
    return hit * _backward(same, ct / count, **attrs)


def _extremum_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    same, hit, count = _shares(xs[0], out, **attrs)
    return _recurrence(same, hit * tangents[0], **attrs) / count


def _extremum(name: str, ufunc: str) -> Op:
    return _cumulative(
        name,
        ufunc,
        lambda xp, x, *, axis: getattr(xp, ufunc).accumulate(x, axis),
        dtypes=ordered,
        vjp=_extremum_vjp,
        jvp=_extremum_jvp,
    )


_cumulative_max = _extremum("cumulative_max", "maximum")
_cumulative_min = _extremum("cumulative_min", "minimum")

# ----- public -------------------------------------------------------------------------------------


def _along(op: Op, x: Any, axis: int | None) -> Any:
    return op(x, axis=_one_axis(op.name, x, axis))


def _one_axis(name: str, x: Any, axis: int | None) -> int:
    if axis is None and x.ndim != 1:
        raise ShapeError(
            f"{name}: axis is missing for shape {shape_text(x.shape)}",
            fix=f"name one of {x.ndim} axes" if x.ndim else "a 0-d tensor has no axes",
        ).located(here())
    return normalize_axis(name, axis or 0, x.ndim)


def _with_initial(op: Op, x: Any, axis: int | None, initial: int, include: bool) -> Any:
    out = _along(op, x, axis)
    if not include:
        return out
    shape = list(out.shape)
    place = _one_axis(op.name, x, axis)
    shape[place] = 1
    return ops.concat([ops.full(tuple(shape), initial, dtype=out.dtype), out], axis=place)


def cumulative_sum(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Any:
    """The sum of all elements up to each along `axis`, as `numpy.cumulative_sum`.

    `include_initial` puts a 0 in front. Types as in `sum`; error <= 8 eps sum |x|. `axis` may be
    left out for a 1-d `x`, else ShapeError.

    >>> import stagekit as sk
    >>> sk.cumulative_sum(sk.asarray([1.0, 2.0, 3.0]), include_initial=True)
    tensor([0., 1., 3., 6.], dtype=float32)
    """
    return _with_initial(_cumulative_sum, accumulator(x, dtype), axis, 0, include_initial)


def cumulative_prod(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Any:
    """The product of all elements up to each along `axis`, as `numpy.cumulative_prod`.

    `include_initial` puts a 1 in front. Types as in `prod`. Its gradient is right at zeros.

    >>> import stagekit as sk
    >>> sk.cumulative_prod(sk.asarray([1.0, 2.0, 3.0]))
    tensor([1., 2., 6.], dtype=float32)
    """
    return _with_initial(_cumulative_prod, accumulator(x, dtype), axis, 1, include_initial)


def cumulative_max(x: Any, /, *, axis: int | None = None) -> Any:
    """The largest of all elements up to each along `axis`, as `numpy.maximum.accumulate`.

    NaN from the first one on. Ties share the gradient.

    >>> import stagekit as sk
    >>> sk.cumulative_max(sk.asarray([1, 3, 2]))
    tensor([1, 3, 3], dtype=int64)
    """
    return _along(_cumulative_max, ops.asarray(x), axis)


def cumulative_min(x: Any, /, *, axis: int | None = None) -> Any:
    """The smallest of all elements up to each along `axis`, as `numpy.minimum.accumulate`.

    >>> import stagekit as sk
    >>> sk.cumulative_min(sk.asarray([3, 1, 2]))
    tensor([3, 1, 1], dtype=int64)
    """
    return _along(_cumulative_min, ops.asarray(x), axis)


def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    """The differences of neighbours along `axis`, `n` times over, as `numpy.diff`.

    `prepend` and `append` are joined to `x` first. Of bools it says which differ.
    Raises ArgumentError for a negative `n`, ShapeError for an axis that does not exist.

    >>> import stagekit as sk
    >>> sk.diff(sk.asarray([1, 4, 9]), prepend=sk.asarray([0]))
    tensor([1, 3, 5], dtype=int64)
    """
    x = ops.asarray(x)
    axis, n = normalize_axis("diff", axis, x.ndim), as_integer("diff", "n", n)
    if n < 0:
        raise ArgumentError(f"diff: n is {n}", fix="give 0 or more").located(here())
    joined = [_fitted(part, x, axis) for part in (prepend, x, append) if part is not None]
    out = ops.concat(joined, axis=axis) if len(joined) > 1 else x
    lead = (slice(None),) * axis
    minus = ops.not_equal if out.dtype.kind == "bool" else ops.subtract
    for _ in range(n):
        out = minus(out[(*lead, slice(1, None))], out[(*lead, slice(None, -1))])
    return out if n else ops.alias(out)


def _fitted(part: Any, x: Any, axis: int) -> Any:
    """A number as one slice of `x` along an axis."""
    part = ops.asarray(part)
    if part.ndim:
        return part
    return ops.broadcast_to(part, tuple(1 if k == axis else m for k, m in enumerate(x.shape)))
