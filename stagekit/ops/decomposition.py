"""Decompositions of matrices: cholesky, eigh, svd, qr, and the pseudo-inverse.

A decomposition is a choice (a sign, a basis), and so are its derivatives: where the choice is not
continuous they are NaN, where a function does not depend on it they are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.op import Op
from stagekit.ops.linalg import (
    LAPACK,
    adjoint,
    batched,
    called,
    chain,
    column,
    diagonal,
    eps,
    hermitian,
    inexact,
    inv,
    is_diagonal,
    poisoned,
    real,
    require_matrix,
    require_square,
    row,
    solve_triangular,
    square,
    symmetric,
    undefined,
)
from stagekit.symbolic import minimum
from stagekit.types import (
    DType,
    TensorType,
    broadcast_shapes,
    complex64,
    complex128,
    float64,
    real_of,
)

# ----- choices ------------------------------------------------------------------------------------


def _invariant(x: Any, m: Any, ct: Any) -> Any:
    """`x`, but NaN where a gradient `m = q.mH @ ct` turns the columns of q among themselves.

    Then the function depends on the choice of q within its span, and has no derivative.
    """
    return _unmoved(x, ops.sum(ops.abs(m - adjoint(m)), axis=(-2, -1)), ct)


def _unphased(x: Any, m: Any, ct: Any) -> Any:
    """`x`, but NaN where a gradient `m = q.mH @ ct` turns the phases of complex columns of q."""
    if m.dtype.kind != "complex":
        return x
    return _unmoved(x, ops.sum(ops.abs(ops.imag(diagonal(m))), axis=-1), ct)


def _unmoved(x: Any, turned: Any, ct: Any) -> Any:
    """`x`, but NaN where what is `turned` is more than rounding of the gradient `ct`."""
    return poisoned(x, turned > eps(ct) ** 0.5 * ops.sum(ops.abs(ct), axis=(-2, -1)))


def _rounding(s: Any) -> Any:
    """How far from 0 a computed value of a spectrum may be that is 0."""
    return column(8 * eps(s) * ops.sum(ops.abs(s), axis=-1))


def _equal(w: Any) -> Any:
    """Which values of a spectrum are equal to rounding."""
    gaps = ops.abs(row(w) - column(w))
    return gaps <= column(_rounding(w))


def _shared(ct: Any, equal: Any) -> Any:
    """The mean of `ct` over equal values: they share a gradient equally."""
    weights = ops.astype(equal, ct.dtype)
    means = ops.sum(weights * row(ct), axis=-1) / ops.sum(weights, axis=-1)
    alone = ops.sum(weights, axis=-1) == 1
    return ops.where(alone, ct, means)


def _over_gaps(m: Any, gaps: Any, equal: Any, flow: Any) -> Any:
    """m / gaps with 0 on the diagonal; undefined where values are equal, if there is any flow."""
    inner = ops.where(equal, undefined(flow), m / ops.where(equal, 1.0, gaps))
    return ops.where(is_diagonal(m), 0.0, inner)


# ----- cholesky -----------------------------------------------------------------------------------


def _half(x: Any) -> Any:
    """The lower triangle with half the diagonal."""
    return ops.tril(ops.where(is_diagonal(x), x * 0.5, x))


def _under(factor: Any, x: Any) -> Any:
    """factor^-T @ x @ factor^-1 for a lower triangular factor."""
    upper = {"lower": False, "unit_diagonal": False}
    left = solve_triangular(adjoint(factor), x, **upper)
    return adjoint(solve_triangular(adjoint(factor), adjoint(left), **upper))


def _cholesky_value(xp: Any, x: Any) -> Any:
    return called("cholesky", xp.linalg.cholesky, hermitian(xp, x))


def _cholesky_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    inner = _half(chain(adjoint(out), ct))
    return symmetric(_under(out, inner))


def _cholesky_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    lower = {"lower": True, "unit_diagonal": False}
    left = solve_triangular(out, symmetric(tangents[0]), **lower)
    return chain(out, _half(adjoint(solve_triangular(out, adjoint(left), **lower))))


cholesky: Op = Op(
    "cholesky",
    infer=square("cholesky"),
    evaluate=_cholesky_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=_cholesky_vjp,
    jvp=_cholesky_jvp,
    batch=batched(lambda: cholesky, 2),
    checks=True,
    family="linalg",
    doc="""The lower factor of the symmetric part. Raises LinAlgError where it is not positive.

    >>> cholesky(ops.asarray([[4.0]]))
    tensor([[2.]], dtype=float32)
    """,
)

# ----- eigenvalues --------------------------------------------------------------------------------


def _eigh_type(x: TensorType) -> tuple[TensorType, TensorType]:
    require_square("eigh", x)
    return x.with_shape(x.shape[:-1]).with_dtype(real_of(x.dtype)), x


def _eigh_value(xp: Any, x: Any) -> Any:
    return called("eigh", lambda x: tuple(xp.linalg.eigh(x)), hermitian(xp, x))


def _eigh_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (ct_w, ct_v), (w, v) = cts, outs
    equal, parts = _equal(w), []
    if ct_w is not None:
        parts.append(chain(v * row(_shared(ct_w, equal)), adjoint(v)))
    if ct_v is not None:
        inner = chain(adjoint(v), ct_v)
        turned = _over_gaps(inner, row(w) - column(w), equal, inner)
        parts.append(_unphased(chain(v, turned, adjoint(v)), inner, ct_v))
    return symmetric(ops.total(parts))


def _eigh_jvp(tangents: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (t,), (w, v) = tangents, outs
    inner, equal = chain(adjoint(v), symmetric(t), v), _equal(w)
    turned = _over_gaps(inner, row(w) - column(w), equal, inner)
    return _shared(real(diagonal(inner)), equal), chain(v, turned)


eigh: Op = Op(
    "eigh",
    several=True,
    infer=_eigh_type,
    evaluate=_eigh_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=_eigh_vjp,
    jvp=_eigh_jvp,
    batch=batched(lambda: eigh, 2),
    checks=True,
    family="linalg",
    doc="""The ascending eigenvalues and the eigenvectors (columns) of the symmetric part of x.

    >>> eigh(ops.asarray([[2.0, 0.0], [0.0, 1.0]]))[0]
    tensor([1., 2.], dtype=float32)
    """,
)


def _eig_type(x: TensorType) -> tuple[TensorType, TensorType]:
    require_square("eig", x)
    out = x.with_dtype(complex128 if real_of(x.dtype) is float64 else complex64)
    return out.with_shape(x.shape[:-1]), out


def _eig_value(xp: Any, x: Any) -> Any:
    kind = np.complex128 if x.dtype in (np.float64, np.complex128) else np.complex64
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    found = called("eig", lambda x: tuple(xp.linalg.eig(x)), wide)
    return tuple(each.astype(kind) for each in found)


def _inverse_vectors(v: Any) -> Any:
    """The inverse of eigenvectors, NaN where they are linearly dependent to half the digits."""
    inverse = inv(v, checked=False)
    return poisoned(inverse, ops.sum(ops.abs(inverse), axis=(-2, -1)) > eps(v) ** -0.5)


def _apart(m: Any, equal: Any) -> Any:
    """Undefined where different eigenvalues are equal and anything flows between them, else 0."""
    different = ops.logical_and(equal, ops.logical_not(is_diagonal(m)))
    return ops.where(different, undefined(m), 0.0)


def _eig_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (ct_w, ct_v), (w, v) = cts, outs
    gaps, equal = ops.conj(row(w) - column(w)), _equal(w)
    inner = ops.zeros_like(v)
    if ct_w is not None:
        apart = _apart(row(ct_w) - column(ct_w), equal)
        inner = inner + ops.where(is_diagonal(v), row(ct_w + ops.sum(apart, axis=-1)), 0.0)
    if ct_v is not None:
        flow = chain(adjoint(v), ct_v)
        scaled = row(ops.real(diagonal(flow))) * chain(adjoint(v), v)
        inner = _unphased(inner + _over_gaps(flow - scaled, gaps, equal, flow), flow, ct_v)
    left = adjoint(_inverse_vectors(v))
    grown = chain(left, inner, adjoint(v))
    return grown if xs[0].dtype.kind == "complex" else ops.real(grown)


def _eig_jvp(tangents: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (t,), (w, v) = tangents, outs
    inner, equal = chain(_inverse_vectors(v), t, v), _equal(w)
    own = diagonal(inner)
    apart = _apart(row(own) - column(own), equal) + _apart(inner, equal)
    moved = own + ops.sum(apart, axis=-1)
    turned = chain(v, _over_gaps(inner, row(w) - column(w), equal, inner))
    return moved, turned - v * row(ops.real(diagonal(chain(adjoint(v), turned))))


eig: Op = Op(
    "eig",
    several=True,
    infer=_eig_type,
    evaluate=_eig_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=_eig_vjp,
    jvp=_eig_jvp,
    batch=batched(lambda: eig, 2),
    checks=True,
    family="linalg",
    doc="""The complex eigenvalues, and eigenvectors (columns) of length 1.

    >>> eig(ops.asarray([[3.0]]))[0]
    tensor([3.+0.j], dtype=complex64)
    """,
)

# ----- singular values ----------------------------------------------------------------------------


def _svd_type(x: TensorType, *, full_matrices: bool) -> tuple[TensorType, ...]:
    require_matrix("svd", x)
    *batch, m, n = x.shape
    k = minimum(m, n)
    left, right = ((m, m), (n, n)) if full_matrices else ((m, k), (k, n))
    s = x.with_shape((*batch, k)).with_dtype(real_of(x.dtype))
    return x.with_shape((*batch, *left)), s, x.with_shape((*batch, *right))


def _completed(ct: Any, q: Any, k: Any) -> tuple[Any, Any]:
    """The first k columns of an orthogonal q, and the cotangent of all as one of these alone.

    The others are a basis of what is left, and turn with the first ones.
    """
    first, others = q[..., :k], q[..., k:]
    if ct is None:
        return first, None
    known, rest = ct[..., :k], ct[..., k:]
    moved = known - chain(others, adjoint(rest), first)
    return first, _invariant(moved, chain(adjoint(others), rest), rest)


def _is_null(s: Any) -> Any:
    """Which singular values are 0 to rounding."""
    return s <= _rounding(s)


def _square_gaps(s: Any) -> Any:
    """s[j] ** 2 - s[i] ** 2"""
    return (row(s) - column(s)) * (row(s) + column(s))


def _over(x: Any, s: Any) -> Any:
    """Columns over singular values, undefined where these are 0."""
    null = row(_is_null(s))
    return ops.where(null, undefined(x), x / ops.where(null, 1.0, row(s)))


def _over_values(m: Any, s: Any) -> Any:
    """The imaginary diagonal over singular values, as an imaginary number."""
    phase = ops.imag(diagonal(m))
    null = _is_null(s)
    return ops.where(null, undefined(phase), phase / ops.where(null, 1.0, s)) * 1j


def _rejected(x: Any, q: Any) -> Any:
    """What of the columns of x is not in the span of those of q; exactly 0 where q spans all."""
    if q.shape[-2] == q.shape[-1]:
        return ops.zeros_like(x)
    return x - chain(q, chain(adjoint(q), x))


def _svd_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (ct_u, ct_s, ct_vh), (u, s, vh) = cts, outs
    u, ct_u = _completed(ct_u, u, s.shape[-1])
    v, ct_v = _completed(None if ct_vh is None else adjoint(ct_vh), adjoint(vh), s.shape[-1])
    equal, parts = _equal(s), []
    gaps = _square_gaps(s)
    if ct_s is not None:
        shared = ops.where(_is_null(s), 0.0, _shared(ct_s, equal))
        parts.append(chain(u * row(shared), adjoint(v)))
    if ct_u is not None:
        inner = chain(adjoint(u), ct_u)
        turned = _over_gaps(inner, gaps, equal, inner)
        turned = (turned + adjoint(turned)) * row(s)
        parts.append(chain(u, turned, adjoint(v)))
        parts.append(chain(_over(_rejected(ct_u, u), s), adjoint(v)))
    if ct_v is not None:
        inner = chain(adjoint(v), ct_v)
        turned = _over_gaps(inner, gaps, equal, inner)
        turned = column(s) * (turned + adjoint(turned))
        parts.append(chain(u, turned, adjoint(v)))
        parts.append(chain(u, adjoint(_over(_rejected(ct_v, v), s))))
    grown = ops.total(parts)
    if grown.dtype.kind != "complex":
        return grown
    turned = [(chain(adjoint(q), ct), ct) for q, ct in ((u, ct_u), (v, ct_v)) if ct is not None]
    if turned:
        phases, cts = zip(*turned, strict=True)
        grown = _unphased(grown, ops.total(phases), ops.concat(cts, axis=-2))
    if ct_u is not None:  # of a pair of columns only that of u turns
        grown = grown + chain(u * row(_over_values(turned[0][0], s)), adjoint(v))
    return grown


def _svd_jvp(tangents: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (t,), (u, s, vh) = tangents, outs
    k = s.shape[-1]
    u1, v1 = u[..., :k], adjoint(vh)[..., :k]
    inner, equal = chain(adjoint(u1), t, v1), _equal(s)
    gaps = _square_gaps(s)
    ts = ops.where(_is_null(s), 0.0, _shared(real(diagonal(inner)), equal))
    left = inner * row(s) + column(s) * adjoint(inner)
    right = column(s) * inner + adjoint(inner) * row(s)
    flow = undefined(inner) + undefined(adjoint(inner))
    tu = chain(u1, _over_gaps(left, gaps, equal, flow)) + _over(_rejected(chain(t, v1), u1), s)
    if t.dtype.kind == "complex":
        tu = tu + u1 * row(_over_values(inner, s))
    tv = chain(v1, _over_gaps(right, gaps, equal, flow))
    tv = tv + _over(_rejected(chain(adjoint(t), u1), v1), s)
    return _extended(tu, u1, u), ts, adjoint(_extended(tv, v1, adjoint(vh)))


def _extended(tangent: Any, first: Any, q: Any) -> Any:
    """The tangent of all columns of an orthogonal q, of that of the first ones."""
    others = q[..., first.shape[-1] :]
    return ops.concat([tangent, -chain(first, adjoint(tangent), others)], axis=-1)


svd: Op = Op(
    "svd",
    several=True,
    infer=_svd_type,
    evaluate=lambda xp, x, *, full_matrices: called(
        "svd", lambda x: tuple(xp.linalg.svd(x, full_matrices=full_matrices)), x
    ),
    library=LAPACK,
    dtypes=inexact,
    vjp=_svd_vjp,
    jvp=_svd_jvp,
    batch=batched(lambda: svd, 2),
    checks=True,
    family="linalg",
    doc="""Left singular vectors (columns), descending singular values, right ones (rows).

    >>> svd(ops.asarray([[0.0, 3.0]]), full_matrices=False)[1]
    tensor([3.], dtype=float32)
    """,
)

# ----- qr -----------------------------------------------------------------------------------------


def _qr_type(x: TensorType, *, complete: bool) -> tuple[TensorType, TensorType]:
    require_matrix("qr", x)
    *batch, m, n = x.shape
    k = m if complete else minimum(m, n)
    return x.with_shape((*batch, m, k)), x.with_shape((*batch, k, n))


def _sound(r: Any) -> Any:
    """A triangular factor, NaN where it has not full rank to rounding."""
    sizes = ops.abs(diagonal(r))
    return poisoned(r, ops.any(sizes <= _rounding(sizes), axis=-1))


def _qr_parts(q: Any, r: Any) -> tuple[Any, Any, Any]:
    """The first k columns of q, and the square and the right part of r."""
    k = minimum(q.shape[-2], r.shape[-1])
    return q[..., :k], _sound(r[..., :k, :k]), r[..., :k, k:]


_UPPER = {"lower": False, "unit_diagonal": False}


def _qr_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (ct_q, ct_r), (q, r) = cts, outs
    q1, r1, _ = _qr_parts(q, r)
    k = r1.shape[-1]
    ct_q = ops.zeros_like(q1) if ct_q is None else _completed(ct_q, q, k)[1]
    ct_r = ops.zeros_like(r) if ct_r is None else ct_r
    ct_r1, ct_r2 = ct_r[..., :k, :k], ct_r[..., :k, k:]
    ct_q = ct_q + chain(xs[0][..., k:], adjoint(ct_r2))
    inner = chain(r1, adjoint(ops.triu(ct_r1))) - chain(adjoint(ct_q), q1)
    lower = ops.tril(inner, k=-1)
    inner = lower + adjoint(lower) + ops.where(is_diagonal(inner), real(inner), 0.0)
    grown = solve_triangular(r1, adjoint(ct_q + chain(q1, inner)), **_UPPER)
    return ops.concat([adjoint(grown), chain(q1, ct_r2)], axis=-1)


def _qr_jvp(tangents: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    (t,), (q, r) = tangents, outs
    q1, r1, r2 = _qr_parts(q, r)
    k = r1.shape[-1]
    moved = _right_quotient(t[..., :k], r1)
    inner = chain(adjoint(q1), moved)
    lower = ops.tril(inner, k=-1)
    turned = lower - adjoint(lower) + _imaginary_diagonal(inner)
    tq = chain(q1, turned - inner) + moved
    tr1 = chain(inner - turned, r1)
    tr2 = chain(adjoint(q1), t[..., k:]) - chain(turned, r2)
    tr = ops.concat([ops.triu(tr1), tr2], axis=-1)
    zeros = ops.zeros((*r.shape[:-2], r.shape[-2] - k, r.shape[-1]), dtype=r.dtype)
    return _extended(tq, q1, q), ops.concat([tr, zeros], axis=-2)


def _imaginary_diagonal(x: Any) -> Any:
    """What turns the phases of q, so that the diagonal of r stays real; 0 for real matrices."""
    if x.dtype.kind != "complex":
        return ops.zeros_like(x)
    return ops.where(is_diagonal(x), ops.imag(x) * 1j, 0.0)


def _right_quotient(x: Any, r: Any) -> Any:
    """x @ r^-1 for an upper triangular r."""
    transposed = {"lower": True, "unit_diagonal": False}
    return adjoint(solve_triangular(adjoint(r), adjoint(x), **transposed))


qr: Op = Op(
    "qr",
    several=True,
    infer=_qr_type,
    evaluate=lambda xp, x, *, complete: called(
        "qr", lambda x: tuple(xp.linalg.qr(x, mode="complete" if complete else "reduced")), x
    ),
    library=LAPACK,
    dtypes=inexact,
    vjp=_qr_vjp,
    jvp=_qr_jvp,
    batch=batched(lambda: qr, 2),
    family="linalg",
    doc="""An orthogonal and an upper triangular factor.

    >>> [abs(each).item() for each in qr(ops.asarray([[-3.0]]), complete=False)]
    [1.0, 3.0]
    """,
)

# ----- pseudo-inverse -----------------------------------------------------------------------------


def _pinv_dtypes(op: str, operands: Sequence[Any]) -> list[DType]:
    """A matrix, and a tolerance of real numbers."""
    kind = inexact(op, operands[:1])[0]
    return [kind, real_of(kind)]


def _pinv_type(x: TensorType, rtol: TensorType) -> TensorType:
    require_matrix("pinv", x)
    *batch, m, n = x.shape
    shape = broadcast_shapes("pinv", tuple(batch), rtol.shape)
    return x.with_shape((*shape, n, m))


def _pinv_value(xp: Any, x: Any, rtol: Any) -> Any:
    def function(x: Any, rtol: Any) -> Any:
        u, s, vh = xp.linalg.svd(x, full_matrices=False)
        kept = s > (rtol * s.max(axis=-1, initial=0.0))[..., None]
        inverse = xp.where(kept, 1 / xp.where(kept, s, 1), 0).astype(s.dtype)
        columns = xp.swapaxes(vh.conj(), -1, -2) * inverse[..., None, :]
        return columns @ xp.swapaxes(u.conj(), -1, -2)

    return called("pinv", function, x, rtol)


def _of_its_rank(xs: Any, p: Any) -> Any:
    """The pseudo-inverse, NaN where `rtol` leaves out singular values that are not 0."""
    x, rtol = xs
    s = svd(x, full_matrices=False)[1]
    relative = s / column(ops.where(ops.sum(s, axis=-1) == 0, 1.0, _largest(s)))
    rounding = eps(x) * ops.maximum_size(*x.shape[-2:])
    dropped = ops.logical_and(relative <= column(rtol), relative > rounding)
    return poisoned(p, ops.any(dropped, axis=-1))


def _largest(s: Any) -> Any:
    """The first of descending values; 0 where there is none."""
    return ops.sum(s[..., :1], axis=-1)


def _pinv_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    if i == 1:
        return None
    x, p = xs[0], _of_its_rank(xs, out)
    ct, ph = adjoint(ct), adjoint(p)
    left = chain(ct, p, ph)
    right = chain(ph, p, ct)
    grown = left - chain(x, p, left) + right - chain(right, p, x) - chain(ph, adjoint(ct), ph)
    return ops.unbroadcast(grown, x)


def _pinv_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    if tangents[0] is None:
        return None
    x, p = xs[0], _of_its_rank(xs, out)
    t, th, ph = tangents[0], adjoint(tangents[0]), adjoint(p)
    left, right = chain(p, ph, th), chain(th, ph, p)
    return left - chain(left, x, p) + right - chain(p, x, right) - chain(p, t, p)


pinv: Op = Op(
    "pinv",
    infer=_pinv_type,
    evaluate=_pinv_value,
    library=LAPACK,
    dtypes=_pinv_dtypes,
    vjp=_pinv_vjp,
    jvp=_pinv_jvp,
    batch=batched(lambda: pinv, 2, 0),
    checks=True,
    family="linalg",
    doc="""The pseudo-inverse; singular values up to rtol times the largest count as 0.

    >>> pinv(ops.asarray([[2.0, 0.0]]), ops.asarray(1e-6))
    tensor([[0.5],
            [0. ]], dtype=float32)
    """,
)
