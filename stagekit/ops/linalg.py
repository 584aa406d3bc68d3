"""Linear algebra: LAPACK through `numpy.linalg`, with derivatives written in ops.

Matrices are the last two axes, all others a batch. float16 and bfloat16 are computed in
float32 and rounded once.
Derivatives that are undefined (of equal eigenvalues' vectors, of a factor of a matrix without full
rank) are NaN; docs/equality.md says where.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import DTypeError, LinAlgError, ShapeError
from stagekit.op import Op, Speller
from stagekit.types import (
    DType,
    TensorType,
    bfloat16,
    broadcast_shapes,
    promote,
    real_of,
    same_size,
    shape_text,
    widest,
)

LAPACK = "LAPACK, through numpy.linalg"

# ----- operands -----------------------------------------------------------------------------------


def inexact(op: str, operands: Sequence[Any]) -> list[DType]:
    """Operands of one float or complex type; all else is refused."""
    for d in operands:
        if not isinstance(d, DType) or not d.inexact:
            raise DTypeError(
                f"{op}: an operand is {d.name if isinstance(d, DType) else d.__name__}",
                fix="cast it to float32 or float64 with astype",
            )
    return [promote(operands, op)] * len(operands)


def require_matrix(op: str, x: TensorType) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{op}: shape {shape_text(x.shape)} is no matrix", fix="give two axes")


def require_square(op: str, x: TensorType) -> None:
    require_matrix(op, x)
    if not same_size(x.shape[-2], x.shape[-1]):
        raise ShapeError(
            f"{op}: shape {shape_text(x.shape)} is no square matrix",
            fix="the last two axes must be equal",
        )


def square(op: str) -> Callable[..., TensorType]:
    """The type rule of a square matrix for a square matrix."""

    def infer(x: TensorType, **attrs: Any) -> TensorType:
        require_square(op, x)
        return x

    return infer


def batched(op: Callable[[], Op], *cores: int) -> Callable[..., Any]:
    """The batching rule of an op that broadcasts all but the last `cores` axes of its operands."""

    def batch(size: Any, args: Sequence[Any], mapped: Sequence[bool], attrs: Any) -> Any:
        ranks = [x.ndim - m - core for x, m, core in zip(args, mapped, cores, strict=True)]
        grown = [
            ops.reshape(x, (size, *[1] * (max(ranks) - rank), *x.shape[1:])) if m else x
            for x, m, rank in zip(args, mapped, ranks, strict=True)
        ]
        return op()(*grown, **attrs)

    return batch


# ----- calling LAPACK -----------------------------------------------------------------------------

# What LAPACK says of the values of a matrix: what it means, and the cure.
_FAILED = {
    "Singular": ("a matrix is singular", "use pinv or lstsq, or add a multiple of the identity"),
    "positive": ("a matrix is not positive definite", "add a multiple of the identity"),
    "converge": ("no convergence", "look for NaN and infinities in the operand"),
}


def called(op: str, function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """A LAPACK call in a type that it has, with its results in the operands' type."""
    kind = arrays[0].dtype
    narrow = kind == np.float16
    wide = [x.astype(np.float32) for x in arrays] if narrow else arrays
    try:
        out = function(*wide, **options)
    except np.linalg.LinAlgError as error:
        for word, (text, fix) in _FAILED.items():
            if word in str(error):
                shapes = " and ".join(str(x.shape) for x in arrays)
                raise LinAlgError(f"{op}: {text} (shape {shapes})", fix=fix) from None
        raise  # of shapes, which the type rule words
    if not narrow:
        return out
    return tuple(x.astype(kind) for x in out) if isinstance(out, tuple) else out.astype(kind)


def hermitian(xp: Any, x: Any) -> Any:
    """The array (x + adjoint(x)) / 2."""
    half = x * 0.5
    return half + xp.swapaxes(half, -1, -2).conj()


# ----- what rules are made of ---------------------------------------------------------------------


def adjoint(x: Any) -> Any:
    """The conjugate transpose."""
    out = ops.matrix_transpose(x)
    return ops.conj(out) if x.dtype.kind == "complex" else out


def real(x: Any) -> Any:
    """The real part of a complex tensor; any other as it is."""
    return ops.real(x) if x.dtype.kind == "complex" else x


def chain(*xs: Any) -> Any:
    """The product of matrices, from the left."""
    out = xs[0]
    for x in xs[1:]:
        out = ops.matmul(out, x)
    return out


def conj(x: Any) -> Any:
    """The complex conjugate; any other tensor as it is."""
    return ops.conj(x) if x.dtype.kind == "complex" else x


def column(x: Any) -> Any:
    return ops.expand_dims(x, axis=-1)


def row(x: Any) -> Any:
    return ops.expand_dims(x, axis=-2)


def symmetric(x: Any) -> Any:
    return (x + adjoint(x)) * 0.5


def is_diagonal(x: Any) -> Any:
    return ops.eye(x.shape[-2], x.shape[-1], dtype=bool)


def diagonal(x: Any) -> Any:
    """The diagonal of a square matrix."""
    return ops.sum(ops.where(is_diagonal(x), x, 0.0), axis=-1)


def eps(x: Any) -> float:
    """The spacing of numbers above 1 in the type of the parts."""
    kind = real_of(x.dtype)
    return 2.0**-7 if kind is bfloat16 else float(np.finfo(kind.numpy).eps)


undefined: Op = Op(
    "undefined",
    infer=lambda x: x,
    evaluate=lambda xp, x: xp.where(x == 0, x, xp.asarray(xp.nan, x.dtype)),
    element=lambda e, out, idx, x: _undefined_element(e, x(*idx), x.dtype),
    dtypes=inexact,
    vjp=lambda i, ct, out, xs, attrs: undefined(ct),
    jvp=lambda tangents, out, xs, attrs: undefined(tangents[0]),
    batch=lambda size, args, mapped, attrs: undefined(*args),
    family="linalg",
    doc="""0 where the operand is 0, else NaN: what flows through a derivative that does not exist.

    It is linear, so its own derivatives are of the same kind.

    >>> undefined(ops.asarray([0.0, 2.0]))
    tensor([ 0., nan], dtype=float32)
    """,
)


def _undefined_element(e: Speller, x: Any, dtype: DType) -> Any:
    zero = e.apply("equal", x, e.constant(0.0, dtype))
    return e.select(zero, lambda: x, lambda: e.constant(float("nan"), dtype))


def poisoned(x: Any, bad: Any) -> Any:
    """A matrix, all NaN where the 0-d (of each matrix) `bad` is true."""
    return ops.where(column(column(bad)), float("nan"), x)


# ----- systems of equations -----------------------------------------------------------------------


def _system(op: str) -> Callable[..., TensorType]:
    def infer(a: TensorType, b: TensorType, **attrs: Any) -> TensorType:
        require_square(op, a)
        require_matrix(op, b)
        shapes = f"{shape_text(a.shape)} and {shape_text(b.shape)}"
        if not same_size(a.shape[-1], b.shape[-2]):
            raise ShapeError(
                f"{op}: shapes {shapes} do not fit",
                fix="the right side must have a row for each row of the matrix",
            )
        try:
            batch = broadcast_shapes(op, a.shape[:-2], b.shape[:-2])
        except ShapeError:
            raise ShapeError(
                f"{op}: shapes {shapes} do not fit",
                fix="the axes before the last two must broadcast",
            ) from None
        return b.with_shape((*batch, *b.shape[-2:]))

    return infer


def _solve_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    a, _ = xs
    ct_b = solve(adjoint(a), ct)
    return ops.unbroadcast(ct_b if i == 1 else -chain(ct_b, adjoint(out)), xs[i])


def _solve_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    (ta, tb), (a, _) = tangents, xs
    terms = [-chain(ta, out)] if ta is not None else []
    return solve(a, ops.total(terms if tb is None else [tb, *terms]))


solve: Op = Op(
    "solve",
    infer=_system("solve"),
    evaluate=lambda xp, a, b: called("solve", xp.linalg.solve, a, b),
    library=LAPACK,
    dtypes=inexact,
    vjp=_solve_vjp,
    jvp=_solve_jvp,
    batch=batched(lambda: solve, 2, 2),
    checks=True,
    family="linalg",
    doc="""The matrix x for which a @ x = b. Raises LinAlgError for a singular one.

    >>> solve(ops.asarray([[2.0]]), ops.asarray([[4.0]]))
    tensor([[2.]], dtype=float32)
    """,
)


def _inv_value(xp: Any, x: Any, *, checked: bool) -> Any:
    try:
        return called("inv", xp.linalg.inv, x)
    except LinAlgError:
        if checked:
            raise
    if x.ndim == 2:
        return xp.full_like(x, xp.nan)
    return xp.stack([_inv_value(xp, each, checked=False) for each in x])


inv: Op = Op(
    "inv",
    infer=square("inv"),
    evaluate=_inv_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=lambda i, ct, out, xs, attrs: -chain(adjoint(out), ct, adjoint(out)),
    jvp=lambda tangents, out, xs, attrs: -chain(out, tangents[0], out),
    batch=batched(lambda: inv, 2),
    checks=True,
    family="linalg",
    doc="""The inverse. Of a singular matrix LinAlgError where it is `checked`, else NaN.

    >>> inv(ops.asarray([[2.0]]), checked=True)
    tensor([[0.5]], dtype=float32)
    """,
)

_BLOCK = 32


def _substitute(xp: Any, a: Any, b: Any) -> Any:
    """Back substitution by blocks; `a` is upper triangular, and not singular."""
    n = a.shape[-1]
    if n <= _BLOCK:
        return xp.linalg.solve(a, b)
    half = n // 2
    low = _substitute(xp, a[..., half:, half:], b[..., half:, :])
    rest = b[..., :half, :] - a[..., :half, half:] @ low
    high = _substitute(xp, a[..., :half, :half], rest)
    return xp.concatenate([high, low], axis=-2)


def _triangular_value(xp: Any, a: Any, b: Any, *, lower: bool, unit_diagonal: bool) -> Any:
    if lower:  # in reverse order of rows and columns it is upper triangular
        a, b = a[..., ::-1, ::-1], b[..., ::-1, :]
    eye = xp.eye(a.shape[-1], dtype=a.dtype)
    a = xp.triu(a, 1) + eye if unit_diagonal else xp.triu(a)
    out = called("solve_triangular", lambda a, b: _substitute(xp, a, b), a, b)
    return out[..., ::-1, :] if lower else out


def _triangular_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    lower, unit = attrs["lower"], attrs["unit_diagonal"]
    ct_b = solve_triangular(adjoint(xs[0]), ct, lower=not lower, unit_diagonal=unit)
    if i == 1:
        return ops.unbroadcast(ct_b, xs[1])
    grown = ops.unbroadcast(-chain(ct_b, adjoint(out)), xs[0])
    return _triangle(grown, attrs)


def _triangle(x: Any, attrs: Any) -> Any:
    """The part of a matrix that the op reads."""
    k = 1 if attrs["unit_diagonal"] else 0
    return ops.tril(x, k=-k) if attrs["lower"] else ops.triu(x, k=k)


def _triangular_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    (ta, tb), (a, _) = tangents, xs
    terms = [-chain(_triangle(ta, attrs), out)] if ta is not None else []
    return solve_triangular(a, ops.total(terms if tb is None else [tb, *terms]), **attrs)


solve_triangular: Op = Op(
    "solve_triangular",
    infer=_system("solve_triangular"),
    evaluate=_triangular_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=_triangular_vjp,
    jvp=_triangular_jvp,
    batch=batched(lambda: solve_triangular, 2, 2),
    checks=True,
    family="linalg",
    doc="""The x for which a @ x = b, of which only the lower or the upper triangle is read.

    >>> solve_triangular(ops.eye(1), ops.asarray([[4.0]]), lower=True, unit_diagonal=False)
    tensor([[4.]], dtype=float32)
    """,
)

# ----- determinants -------------------------------------------------------------------------------


def _double(x: Any) -> Any:
    """An array in double precision."""
    return x.astype(widest(x.dtype))


def _without(xp: Any, s: Any, m: int) -> Any:
    """The product of all s but those at m different places, for all places; 0 where two agree."""
    n = s.shape[-1]
    places = [xp.arange(n).reshape([n if j == k else 1 for j in range(m)]) for k in range(m)]
    out = xp.ones((*s.shape[:-1], *[n] * m))
    for t in range(n):
        left_out = sum(place == t for place in places) > 0
        out = out * xp.where(left_out, 1.0, s[..., t].reshape(*s.shape[:-1], *[1] * m))
    for a, b in itertools.combinations(places, 2):
        out = out * (a != b)
    return out


def _is_odd(permutation: Sequence[int]) -> bool:
    pairs = itertools.combinations(permutation, 2)
    return sum(a > b for a, b in pairs) % 2 == 1


def _cofactor_value(xp: Any, x: Any, *directions: Any) -> Any:
    """By the singular values: exact also where some are 0, and no quotient of them is taken."""
    try:
        u, s, vh = xp.linalg.svd(_double(x))
    except np.linalg.LinAlgError:
        return xp.full_like(x, xp.nan)
    left, right = xp.swapaxes(u.conj(), -1, -2), xp.swapaxes(vh.conj(), -1, -2)
    turned = [left @ e @ right for e in directions]
    m, letters = len(turned) + 1, "abcdefghijklm"
    rest = _without(xp, s, m)
    core, eye = xp.zeros_like(u), xp.eye(x.shape[-1])
    for p in itertools.permutations(range(m)):
        on_diagonal = p[0] == 0
        out = "a" if on_diagonal else f"a{letters[p[0]]}"
        pairs = [f"...{letters[j]}{letters[p[j]]}" for j in range(1, m)]
        term = xp.einsum(f"{','.join([f'...{letters[:m]}', *pairs])}->...{out}", rest, *turned)
        term = term[..., None] * eye if on_diagonal else term
        core = core - term if _is_odd(p) else core + term
    sign = (xp.linalg.det(u) * xp.linalg.det(vh))[..., None, None]
    return (u.conj() @ (core * sign) @ vh.conj()).astype(x.dtype)


def _cofactor_type(x: TensorType, *directions: TensorType) -> TensorType:
    require_square("cofactor", x)
    for e in directions:
        if len(e.shape) != len(x.shape) or not all(map(same_size, e.shape, x.shape)):
            raise ShapeError("cofactor: a direction has another shape than the matrix")
    return x


def _cofactor_vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, *directions = xs
    rest = [e for k, e in enumerate(directions, 1) if k != i]
    return conj(cofactor(x, conj(ct), *rest))


def _cofactor_jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, *directions = xs
    terms = [] if tangents[0] is None else [cofactor(x, tangents[0], *directions)]
    for k, t in enumerate(tangents[1:]):
        if t is not None:
            terms.append(cofactor(x, *directions[:k], t, *directions[k + 1 :]))
    return ops.total(terms)


def _cofactor_batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    shape = next(x.shape for x, m in zip(args, mapped, strict=True) if m)
    return cofactor(*[x if m else ops.broadcast_to(x, shape) for x, m in zip(args, mapped)])


cofactor: Op = Op(
    "cofactor",
    infer=_cofactor_type,
    evaluate=_cofactor_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=_cofactor_vjp,
    jvp=_cofactor_jvp,
    batch=_cofactor_batch,
    family="linalg",
    doc="""The gradient of the determinant, also of a singular matrix; and its derivatives.

    With directions e, f, ... it is the derivative of the matrix of cofactors along all of them,
    symmetric in them. One op for every order, since the determinant is linear in each row.

    >>> cofactor(ops.asarray([[2.0, 0.0], [0.0, 0.0]]))
    tensor([[0., 0.],
            [0., 2.]], dtype=float32)
    """,
)


def _scalar_type(op: str) -> Callable[..., TensorType]:
    """The type rule of a number for each square matrix."""

    def infer(x: TensorType) -> TensorType:
        require_square(op, x)
        return x.with_shape(x.shape[:-2])

    return infer


det: Op = Op(
    "det",
    infer=_scalar_type("det"),
    evaluate=lambda xp, x: called("det", xp.linalg.det, x),
    library=LAPACK,
    dtypes=inexact,
    vjp=lambda i, ct, out, xs, attrs: column(column(ct)) * conj(cofactor(xs[0])),
    jvp=lambda tangents, out, xs, attrs: ops.sum(cofactor(xs[0]) * tangents[0], axis=(-2, -1)),
    batch=batched(lambda: det, 2),
    family="linalg",
    doc="""The determinant.

    >>> det(ops.asarray([[2.0, 1.0], [1.0, 3.0]]))
    tensor(5., dtype=float32)
    """,
)


def _slogdet_type(x: TensorType) -> tuple[TensorType, TensorType]:
    out = _scalar_type("slogdet")(x)
    return out, out.with_dtype(real_of(x.dtype))


def _slogdet_value(xp: Any, x: Any) -> Any:
    sign, log = called("slogdet", lambda x: tuple(map(xp.asarray, xp.linalg.slogdet(x))), x)
    return xp.where(xp.isnan(log), log, sign).astype(sign.dtype), log


def _slogdet_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    """The sign of a complex determinant turns with the imaginary part of trace(x^-1 dx)."""
    (ct_sign, ct_log), (sign, _), parts = cts, outs, []
    if ct_log is not None:
        parts.append(ct_log)
    if ct_sign is not None and sign.dtype.kind == "complex":
        parts.append(ops.imag(conj(sign) * ct_sign) * 1j)
    if not parts:
        return None
    return column(column(ops.total(parts))) * adjoint(inv(xs[0], checked=False))


def _slogdet_jvp(tangents: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    moved = _diagonal_sum(chain(inv(xs[0], checked=False), tangents[0]))
    if moved.dtype.kind != "complex":
        return None, moved
    return outs[0] * ops.imag(moved) * 1j, ops.real(moved)


def _diagonal_sum(x: Any) -> Any:
    return ops.sum(diagonal(x), axis=-1)


slogdet: Op = Op(
    "slogdet",
    several=True,
    infer=_slogdet_type,
    evaluate=_slogdet_value,
    library=LAPACK,
    dtypes=inexact,
    vjp=_slogdet_vjp,
    jvp=_slogdet_jvp,
    batch=batched(lambda: slogdet, 2),
    family="linalg",
    doc="""The sign of the determinant, and the logarithm of its absolute value.

    >>> slogdet(ops.asarray([[-1.0]]))[0]
    tensor(-1., dtype=float32)
    """,
)

# ----- functions of a matrix ----------------------------------------------------------------------

# Coefficients of the Pade approximant of order 13, and the norm up to which it is exact to rounding
# (Higham, The scaling and squaring method for the matrix exponential revisited, 2005).
_PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0,
    960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_PADE_NORM = 5.371920351148152


def _expm_value(xp: Any, x: Any) -> Any:
    a = _double(x)
    norm = xp.abs(a).sum(axis=-2).max(axis=-1, initial=0.0)
    finite = xp.isfinite(norm)
    ratio = xp.where(finite & (norm > _PADE_NORM), norm / _PADE_NORM, 1.0)
    squarings = xp.ceil(xp.log2(ratio))[..., None, None]
    a = xp.where(finite[..., None, None], a / 2.0**squarings, xp.nan)
    eye, c = xp.eye(a.shape[-1]), _PADE
    a2 = a @ a
    a4 = a2 @ a2
    a6 = a4 @ a2
    high = a6 @ (c[13] * a6 + c[11] * a4 + c[9] * a2)
    odd = a @ (high + c[7] * a6 + c[5] * a4 + c[3] * a2 + c[1] * eye)
    high = a6 @ (c[12] * a6 + c[10] * a4 + c[8] * a2)
    even = high + c[6] * a6 + c[4] * a4 + c[2] * a2 + c[0] * eye
    out = xp.linalg.solve(even - odd, even + odd)
    for k in range(int(squarings.max(initial=0.0))):
        out = xp.where(squarings > k, out @ out, out)
    return out.astype(x.dtype)


def _expm_along(x: Any, direction: Any) -> Any:
    """The derivative of expm along a direction: a block of expm([[x, d], [0, x]])."""
    n = x.shape[-1]
    top = ops.concat([x, direction], axis=-1)
    bottom = ops.concat([ops.zeros_like(x), x], axis=-1)
    return expm(ops.concat([top, bottom], axis=-2))[..., :n, n:]


expm: Op = Op(
    "expm",
    infer=square("expm"),
    evaluate=_expm_value,
    library="scaling and squaring: how many products there are depends on the values",
    dtypes=inexact,
    vjp=lambda i, ct, out, xs, attrs: _expm_along(adjoint(xs[0]), ct),
    jvp=lambda tangents, out, xs, attrs: _expm_along(xs[0], tangents[0]),
    batch=batched(lambda: expm, 2),
    family="linalg",
    doc="""The exponential of a matrix.

    >>> expm(ops.zeros((1, 1)))
    tensor([[1.]], dtype=float32)
    """,
)
