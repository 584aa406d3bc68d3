"""Linear algebra: `sk.linalg`, the standard's extension (revision 2025.12) and what scipy adds.

Functions take real or complex numbers (cast integers: no cast is silent), matrices in the last two
axes, the others a batch; zero sizes are allowed. float16 and bfloat16 are computed in float32 and
rounded once. Errors and values are the same in both stages: both make the same call of LAPACK.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.op import OPS
from stagekit.ops import matmul, matrix_transpose, tensordot, vecdot
from stagekit.ops.linalg import adjoint, conj, eps, real
from stagekit.source import here
from stagekit.symbolic import maximum
from stagekit.types import as_integer, default_int, normalize_axes, real_of, same_size, shape_text

__all__ = [
    "EigResult", "EighResult", "LstsqResult", "QRResult", "SVDResult", "SlogdetResult",
    "cholesky", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh", "expm", "inv",
    "lstsq", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "norm",
    "outer", "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd", "svdvals",
    "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip

# ----- results ------------------------------------------------------------------------------------


class EigResult(NamedTuple):
    """Eigenvalues in LAPACK's order, and the eigenvectors in the columns of a matrix.

    Source: `numpy.linalg.eig`.

    >>> EigResult._fields
    ('eigenvalues', 'eigenvectors')
    """

    eigenvalues: Any
    eigenvectors: Any


class EighResult(NamedTuple):
    """Ascending eigenvalues, and the eigenvectors in the columns of a matrix.

    Source: `numpy.linalg.eigh`.

    >>> EighResult._fields
    ('eigenvalues', 'eigenvectors')
    """

    eigenvalues: Any
    eigenvectors: Any


class QRResult(NamedTuple):
    """An orthogonal matrix, and an upper triangular one.

    Source: `numpy.linalg.qr`.

    >>> QRResult._fields
    ('Q', 'R')
    """

    Q: Any
    R: Any


class SlogdetResult(NamedTuple):
    """The sign of a determinant, and the logarithm of its absolute value.

    Source: `numpy.linalg.slogdet`.

    >>> SlogdetResult._fields
    ('sign', 'logabsdet')
    """

    sign: Any
    logabsdet: Any


class SVDResult(NamedTuple):
    """Left singular vectors (columns), descending singular values, right ones (rows).

    Source: `numpy.linalg.svd`.

    >>> SVDResult._fields
    ('U', 'S', 'Vh')
    """

    U: Any
    S: Any
    Vh: Any


class LstsqResult(NamedTuple):
    """What `lstsq` gives.

    Source: `numpy.linalg.lstsq`.

    >>> LstsqResult._fields
    ('solution', 'residuals', 'rank', 'singular_values')
    """

    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


# ----- operands -----------------------------------------------------------------------------------


def _inexact(op: str, x: Any) -> Any:
    x = ops.asarray(x)
    if not x.dtype.inexact:
        raise DTypeError(
            f"{op}: an operand is {x.dtype}", fix="cast it to float32 or float64 with astype"
        ).located(here())
    return x


def _matrix(op: str, x: Any) -> Any:
    x = ops.asarray(x)
    if x.ndim < 2:
        raise ShapeError(
            f"{op}: shape {shape_text(x.shape)} is no matrix", fix="give two axes"
        ).located(here())
    return x


# ----- systems of equations -----------------------------------------------------------------------


def solve(x1: Any, x2: Any, /) -> Any:
    """The `x` for which `x1 @ x = x2`, for `x1` (..., M, M) and `x2` (M,) or (..., M, K).

    A vector `x2` is one right side for all matrices. As `numpy.linalg.solve`. Raises LinAlgError
    for a singular matrix, ShapeError where shapes do not fit, DTypeError for integers.

    >>> import stagekit as sk
    >>> sk.linalg.solve(sk.asarray([[2.0, 0.0], [0.0, 4.0]]), sk.asarray([2.0, 2.0]))
    tensor([1. , 0.5], dtype=float32)
    """
    b = ops.asarray(x2)
    return _of_columns(b, lambda b: OPS["solve"](x1, b))


def _of_columns(b: Any, function: Any) -> Any:
    """A function of a matrix on a matrix, or on a vector as its one column."""
    if b.ndim != 1:
        return function(b)
    return ops.squeeze(function(ops.expand_dims(b, axis=-1)), axis=-1)


def solve_triangular(a: Any, b: Any, /, *, lower: bool = False, unit_diagonal: bool = False) -> Any:
    """`solve` for a matrix of which only the upper (or `lower`) triangle is read.

    With `unit_diagonal` its diagonal counts as ones. As `scipy.linalg.solve_triangular`, batched.
    Raises LinAlgError where a number on the diagonal is 0, ShapeError, DTypeError.

    >>> import stagekit as sk
    >>> a = sk.asarray([[2.0, 1.0], [0.0, 1.0]])
    >>> sk.linalg.solve_triangular(a, sk.asarray([3.0, 1.0]))
    tensor([1., 1.], dtype=float32)
    """
    b, attrs = ops.asarray(b), {"lower": bool(lower), "unit_diagonal": bool(unit_diagonal)}
    return _of_columns(b, lambda b: OPS["solve_triangular"](a, b, **attrs))


def inv(x: Any, /) -> Any:
    """The inverse of each square matrix, as `numpy.linalg.inv`.

    Raises LinAlgError for a singular matrix, ShapeError for one that is not square, DTypeError.

    >>> import stagekit as sk
    >>> sk.linalg.inv(sk.asarray([[2.0]]))
    tensor([[0.5]], dtype=float32)
    """
    return OPS["inv"](x, checked=True)


def lstsq(a: Any, b: Any, /, *, rtol: Any = None) -> LstsqResult:
    """The `x` of least norm that minimizes `|a @ x - b|`, by the pseudo-inverse of `a`.

    `a` is (..., M, N), `b` (M,) or (..., M, K). Gives a named tuple `(solution, residuals, rank,
    singular_values)`, with the sums of squared residuals whatever the rank. As
    `numpy.linalg.lstsq`, batched; `rtol` as for `pinv`, whose errors it raises.

    >>> import stagekit as sk
    >>> a = sk.asarray([[1.0], [1.0]])
    >>> sk.linalg.lstsq(a, sk.asarray([1.0, 3.0])).residuals
    tensor(2., dtype=float32)
    """
    a, b = _matrix("lstsq", a), ops.asarray(b)
    if b.ndim == 0 or not same_size(a.shape[-2], b.shape[-1 if b.ndim == 1 else -2]):
        raise ShapeError(
            f"lstsq: shapes {shape_text(a.shape)} and {shape_text(b.shape)} do not fit",
            fix="the right side must have a row for each row of the matrix",
        ).located(here())
    inverse = pinv(a, rtol=rtol)
    solution = _of_columns(b, lambda b: ops.matmul(inverse, b))
    errors = _of_columns(solution, lambda x: ops.matmul(a, x)) - b
    residuals = ops.sum(real(errors * conj(errors)), axis=-1 if b.ndim == 1 else -2)
    return LstsqResult(solution, residuals, matrix_rank(a, rtol=rtol), svdvals(a))


def pinv(x: Any, /, *, rtol: Any = None) -> Any:
    """The pseudo-inverse of each matrix (..., M, N), as `numpy.linalg.pinv`.

    Singular values up to `rtol` (a float or a tensor that broadcasts to the batch; `max(M, N) *
    eps` if None) times the largest count as 0. The derivative is that at constant rank; it is NaN
    where `rtol` leaves out values that are not 0 to rounding. Raises LinAlgError where the values
    do not converge (NaN, infinities), ShapeError, DTypeError.

    >>> import stagekit as sk
    >>> sk.linalg.pinv(sk.asarray([[2.0, 0.0]]))
    tensor([[0.5],
            [0. ]], dtype=float32)
    """
    x = _matrix("pinv", _inexact("pinv", x))
    return OPS["pinv"](x, _tolerance(x, rtol))


def _tolerance(x: Any, rtol: Any) -> Any:
    if rtol is None:
        rtol = eps(x) * maximum(*x.shape[-2:])
    return ops.stop_gradient(ops.asarray(rtol, dtype=real_of(x.dtype)))


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Any:
    """The number of singular values above `rtol` (see `pinv`) times the largest one, as int64.

    As `numpy.linalg.matrix_rank`. It has no derivative. Raises as `svd` does.

    >>> import stagekit as sk
    >>> sk.linalg.matrix_rank(sk.ones((3, 3))).item()
    1
    """
    x = _matrix("matrix_rank", _inexact("matrix_rank", x))
    s = svdvals(x)
    largest = ops.sum(s[..., :1], axis=-1)
    least = ops.expand_dims(_tolerance(x, rtol) * largest, axis=-1)
    return ops.sum(ops.astype(s > least, default_int), axis=-1)


# ----- decompositions -----------------------------------------------------------------------------


def cholesky(x: Any, /, *, upper: bool = False) -> Any:
    """The triangular factor of each symmetric positive definite matrix: `L @ L.mT`, or `U.mT @ U`.

    Its diagonal is positive. Of the operand the symmetric part `(x + x.mT) / 2` is taken, and so
    the gradient is symmetric. As `numpy.linalg.cholesky`. Raises LinAlgError where a matrix is not
    positive definite, ShapeError where not square, DTypeError for integers.

    >>> import stagekit as sk
    >>> sk.linalg.cholesky(sk.asarray([[4.0, 2.0], [2.0, 2.0]]))
    tensor([[2., 0.],
            [1., 1.]], dtype=float32)
    """
    factor = OPS["cholesky"](x)
    return adjoint(factor) if upper else factor


def eig(x: Any, /) -> EigResult:
    """The complex eigenvalues and the eigenvectors (of length 1) of each square matrix.

    The order, and the phases of the vectors, are LAPACK's choice. Gradients that depend on the
    phases, or tell equal eigenvalues or their vectors apart, are NaN. As `numpy.linalg.eig`. Raises
    LinAlgError where there is no convergence, ShapeError, DTypeError for integers.

    >>> import stagekit as sk
    >>> sk.linalg.eig(sk.asarray([[2.0, 1.0], [0.0, 3.0]])).eigenvalues
    tensor([2.+0.j, 3.+0.j], dtype=complex64)
    """
    return EigResult(*OPS["eig"](x))


def eigvals(x: Any, /) -> Any:
    """The complex eigenvalues of each square matrix; see `eig`.

    >>> import stagekit as sk
    >>> sk.linalg.eigvals(sk.eye(1))
    tensor([1.+0.j], dtype=complex64)
    """
    return OPS["eig"](x)[0]


def eigh(x: Any, /) -> EighResult:
    """The ascending eigenvalues and the eigenvectors of each symmetric matrix.

    Of the operand the symmetric part is taken. The sign of an eigenvector is LAPACK's choice. Equal
    eigenvalues share a gradient equally; gradients that turn their eigenvectors into each other are
    NaN. As `numpy.linalg.eigh`. Raises LinAlgError where there is no convergence, ShapeError,
    DTypeError.

    >>> import stagekit as sk
    >>> sk.linalg.eigh(sk.asarray([[0.0, 1.0], [1.0, 0.0]])).eigenvalues
    tensor([-1.,  1.], dtype=float32)
    """
    return EighResult(*OPS["eigh"](x))


def eigvalsh(x: Any, /) -> Any:
    """The ascending eigenvalues of each symmetric matrix; see `eigh`.

    >>> import stagekit as sk
    >>> sk.linalg.eigvalsh(sk.eye(2))
    tensor([1., 1.], dtype=float32)
    """
    return OPS["eigh"](x)[0]


def qr(x: Any, /, *, mode: str = "reduced") -> QRResult:
    """An orthogonal and an upper triangular factor of each matrix (..., M, N).

    The signs of R's diagonal are LAPACK's choice. `mode="complete"` gives Q (..., M, M). Where the
    first min(M, N) columns are linearly dependent derivatives are NaN. As `numpy.linalg.qr`. Raises
    ArgumentError for another mode, ShapeError, DTypeError.

    >>> import stagekit as sk
    >>> q, r = sk.linalg.qr(sk.asarray([[3.0], [4.0]]))
    >>> sk.round(q @ r)
    tensor([[3.],
            [4.]], dtype=float32)
    """
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"qr: mode is {mode!r}", fix="use 'reduced' or 'complete'").located(
            here()
        )
    return QRResult(*OPS["qr"](x, complete=mode == "complete"))


def svd(x: Any, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular vectors U, descending singular values S, and Vh: each matrix is `U * S @ Vh`.

    `full_matrices=False` leaves out columns of U and rows of Vh beyond min(M, N). Signs are
    LAPACK's choice. Equal singular values share a gradient equally, those that are 0 have none;
    gradients of vectors are NaN where they turn vectors of equal values into each other, or
    those of the value 0. As `numpy.linalg.svd`. Raises LinAlgError where there is no convergence
    (NaN, infinities), ShapeError, DTypeError.

    >>> import stagekit as sk
    >>> sk.linalg.svd(sk.asarray([[3.0, 0.0], [0.0, 4.0]])).S
    tensor([4., 3.], dtype=float32)
    """
    return SVDResult(*OPS["svd"](x, full_matrices=bool(full_matrices)))


def svdvals(x: Any, /) -> Any:
    """The descending singular values of each matrix; see `svd`.

    >>> import stagekit as sk
    >>> sk.linalg.svdvals(sk.asarray([[0.0, 3.0]]))
    tensor([3.], dtype=float32)
    """
    return OPS["svd"](x, full_matrices=False)[1]


# ----- functions of a matrix ----------------------------------------------------------------------


def det(x: Any, /) -> Any:
    """The determinant of each square matrix, as `numpy.linalg.det`.

    Its derivatives of every order are right for singular matrices too. Raises ShapeError where a
    matrix is not square, DTypeError for integers.

    >>> import stagekit as sk
    >>> sk.grad(sk.linalg.det)(sk.asarray([[2.0, 0.0], [0.0, 0.0]]))
    tensor([[0., 0.],
            [0., 2.]], dtype=float32)
    """
    return OPS["det"](x)


def slogdet(x: Any, /) -> SlogdetResult:
    """The sign of the determinant and the logarithm of its absolute value, as `numpy.linalg`'s.

    0 and -inf for a singular matrix, with the gradient NaN. The sign has no derivative. Raises as
    `det` does.

    >>> import stagekit as sk
    >>> sk.linalg.slogdet(-sk.eye(3)).sign.item()
    -1.0
    """
    return SlogdetResult(*OPS["slogdet"](x))


def expm(x: Any, /) -> Any:
    """The exponential of each square matrix, as `scipy.linalg.expm`.

    Scaling and squaring of a Pade approximant (Higham 2005), computed in float64. Raises ShapeError
    where a matrix is not square, DTypeError for integers.

    >>> import stagekit as sk
    >>> sk.linalg.expm(sk.asarray([[0.0, 1.0], [0.0, 0.0]]))
    tensor([[1., 1.],
            [0., 1.]], dtype=float32)
    """
    return OPS["expm"](x)


def matrix_power(x: Any, n: int, /) -> Any:
    """Each square matrix to an integer power, as `numpy.linalg.matrix_power`.

    0 gives the identity, a negative power that of the inverse. Raises LinAlgError for a negative
    power of a singular matrix, ShapeError, DTypeError, ArgumentError where `n` is no integer.

    >>> import stagekit as sk
    >>> sk.linalg.matrix_power(sk.asarray([[1.0, 1.0], [0.0, 1.0]]), 3)
    tensor([[1., 3.],
            [0., 1.]], dtype=float32)
    """
    x, n = _matrix("matrix_power", _inexact("matrix_power", x)), int(_whole(n))
    if not same_size(x.shape[-2], x.shape[-1]):
        raise ShapeError(
            f"matrix_power: shape {shape_text(x.shape)} is no square matrix",
            fix="the last two axes must be equal",
        ).located(here())
    base, out = inv(x) if n < 0 else x, None
    for bit in reversed(bin(abs(n))[2:]):
        if bit == "1":
            out = base if out is None else ops.matmul(out, base)
        base = ops.matmul(base, base) if abs(n) > 1 else base
    if out is None:
        return ops.broadcast_to(ops.eye(x.shape[-1], dtype=x.dtype), x.shape)
    return ops.positive(out) if out is x else out


def _whole(n: Any) -> Any:
    return as_integer("matrix_power", "n", n)


# ----- norms --------------------------------------------------------------------------------------


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Any:
    """The norm `sum(|x| ** ord) ** (1 / ord)` over `axis` (an int, a tuple, None: all).

    `ord` is any number: inf and -inf are the largest and the smallest |x|, 0 counts what is not 0.
    No square overflows. For `ord >= 1` the gradient of a norm that is 0 is 0. As
    `numpy.linalg.vector_norm`. Raises DTypeError for integers, ShapeError for a wrong axis.

    >>> import stagekit as sk
    >>> sk.linalg.vector_norm(sk.asarray([3e30, 4e30])).item() > 4.9e30
    True
    """
    x = _inexact("vector_norm", x)
    axes = normalize_axes("vector_norm", axis, x.ndim)
    size = ops.abs(x)
    if ord == 0:
        out = ops.sum(ops.astype(x != 0, size.dtype), axis=axes, keepdims=True)
    elif ord == 1:
        out = ops.sum(size, axis=axes, keepdims=True)
    elif ord in (math.inf, -math.inf):
        empty = any(x.shape[k] == 0 for k in axes)
        if empty and ord > 0:
            out = ops.sum(size, axis=axes, keepdims=True)
        else:
            out = (ops.max if ord > 0 else ops.min)(size, axis=axes, keepdims=True)
    else:
        out = _power_norm(size, axes, float(ord))
    return out if keepdims else ops.squeeze(out, axis=axes)


def _power_norm(size: Any, axes: tuple[int, ...], ord: float) -> Any:
    """sum(size ** ord) ** (1 / ord), of numbers that are scaled to be near 1."""
    if any(size.shape[k] == 0 for k in axes):
        return ops.sum(size, axis=axes, keepdims=True)
    choose = ops.max if ord > 0 else ops.min
    scale = ops.stop_gradient(choose(size, axis=axes, keepdims=True))
    plain = ops.logical_or(scale == 0, ops.logical_not(ops.isfinite(scale)))
    scale = ops.where(plain, 1.0, scale)
    ratio = size / scale
    total = ops.sum(
        ops.square(ratio) if ord == 2 else ops.power(ratio, ord), axis=axes, keepdims=True
    )
    if ord == 2:
        return scale * ops.root(total)
    if ord < 1:  # the derivative at 0 is infinite, and infinity has this norm for ord < 0
        return scale * ops.power(total, 1 / ord)
    zero = total == 0
    return ops.where(zero, 0.0, scale * ops.power(ops.where(zero, 1.0, total), 1 / ord))


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """A norm of each matrix, as `numpy.linalg.matrix_norm`.

    "fro": that of all elements; "nuc": the sum of singular values; 2 and -2: the largest and the
    smallest of them; 1 and -1: of the sums |x| of columns; inf and -inf: of those of rows. Raises
    ArgumentError for another `ord`, ShapeError, DTypeError, LinAlgError as `svd` does.

    >>> import stagekit as sk
    >>> sk.linalg.matrix_norm(sk.ones((2, 2))).item()
    2.0
    """
    x = _matrix("matrix_norm", _inexact("matrix_norm", x))
    if ord == "fro" or ord is None:
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord in (1, -1, math.inf, -math.inf):
        axis = -2 if ord in (1, -1) else -1
        values = ops.sum(ops.abs(x), axis=axis)
    elif ord in (2, -2, "nuc"):
        values = svdvals(x)
    else:
        raise ArgumentError(
            f"matrix_norm: ord is {ord!r}", fix="use 'fro', 'nuc', 1, -1, 2, -2, inf or -inf"
        ).located(here())
    if ord == "nuc":
        out = ops.sum(values, axis=-1)
    elif ord > 0:
        out = vector_norm(values, axis=-1, ord=math.inf)
    else:
        out = ops.min(values, axis=-1)
    return ops.expand_dims(out, axis=(-2, -1)) if keepdims else out


def norm(x: Any, /, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """A vector norm over one axis, or a matrix norm over two, as `numpy.linalg.norm`.

    Without `ord` the norm of all elements, or of those over `axis`. Without `axis` the operand is
    a vector or a matrix. Raises as `vector_norm` and `matrix_norm` do.

    >>> import stagekit as sk
    >>> sk.linalg.norm(sk.asarray([3.0, 4.0])).item()
    5.0
    """
    x = _inexact("norm", x)
    if ord is None:
        return vector_norm(x, axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(axes)
    if len(axes) == 1:
        return vector_norm(x, axis=axes, keepdims=keepdims, ord=ord)
    if len(axes) != 2:
        raise ShapeError(
            f"norm: {len(axes)} axes have no norm of the kind {ord!r}", fix="give one or two axes"
        ).located(here())
    out = matrix_norm(ops.moveaxis(x, axes, (-2, -1)), ord=ord)
    return ops.expand_dims(out, axis=tuple(a % x.ndim for a in axes)) if keepdims else out


# ----- products and parts -------------------------------------------------------------------------


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """The cross product of vectors of 3 elements along `axis`, as `numpy.linalg.cross`.

    All other axes broadcast. Raises ShapeError where an axis has another size than 3.

    >>> import stagekit as sk
    >>> sk.linalg.cross(sk.asarray([1.0, 0.0, 0.0]), sk.asarray([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.], dtype=float32)
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    shapes = f"{shape_text(x.shape)} and {shape_text(y.shape)}"
    axis = as_integer("cross", "axis", axis)
    fits = all(-each.ndim <= axis < each.ndim and same_size(each.shape[axis], 3) for each in (x, y))
    if not fits:
        raise ShapeError(
            f"cross: axis {axis} of shapes {shapes} has not 3 elements in both",
            fix="give vectors of 3 elements, and an axis that both have",
        ).located(here())
    x, y = ops.moveaxis(x, axis, -1), ops.moveaxis(y, axis, -1)
    (a, b, c), (d, e, f) = ([each[..., k] for k in range(3)] for each in (x, y))
    parts = ops.broadcast_arrays(b * f - c * e, c * d - a * f, a * e - b * d)
    out = ops.stack(parts, axis=-1)
    return ops.moveaxis(out, -1, axis)


def outer(x1: Any, x2: Any, /) -> Any:
    """The products of all elements of two vectors: (N,) and (M,) give (N, M).

    As `numpy.linalg.outer`. Raises ShapeError for operands that are no vectors.

    >>> import stagekit as sk
    >>> sk.linalg.outer(sk.asarray([1, 2]), sk.asarray([3, 4]))
    tensor([[3, 4],
            [6, 8]], dtype=int64)
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    if x.ndim != 1 or y.ndim != 1:
        raise ShapeError(
            f"outer: shapes {shape_text(x.shape)} and {shape_text(y.shape)} are not of vectors",
            fix="give one axis each",
        ).located(here())
    return ops.outer(x, y)


def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """The diagonal of each matrix (..., M, N), `offset` columns to the right of the main one.

    As `numpy.linalg.diagonal`. Raises ShapeError for an operand that is no matrix.

    >>> import stagekit as sk
    >>> sk.linalg.diagonal(sk.asarray([[1, 2], [3, 4]]))
    tensor([1, 4], dtype=int64)
    """
    return ops.diagonal(_matrix("diagonal", x), offset, -2, -1)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """The sum of the diagonal (see `diagonal`) of each matrix, as `numpy.linalg.trace`.

    bool and integers add up in 64 bits. Raises ShapeError for an operand that is no matrix.

    >>> import stagekit as sk
    >>> sk.linalg.trace(sk.eye(3)).item()
    3.0
    """
    return ops.trace(_matrix("trace", x), offset, -2, -1, dtype)
