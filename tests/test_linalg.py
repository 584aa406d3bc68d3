"""`sk.linalg`: NumPy and SciPy in float64 as referees, reconstruction, errors, both stages, and
derivatives where they are defined, and NaN where they are not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import stagekit as sk
from stagekit import linalg as la
from stagekit.errors import (
    ArgumentError,
    AxisError,
    DTypeError,
    LinAlgError,
    ShapeError,
    StagekitError,
)
from stagekit.export import runtime
from stagekit.op import OPS
from stagekit.testing import check_grads
from stagekit.verify import verify
from tests.classes import admitted, assert_stages_agree, outcome

Function = Callable[..., Any]
INF = math.inf


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    x = draw(*shape)
    return x @ np.swapaxes(x, -1, -2) + 0.5 * np.eye(shape[-1])


def symmetric(*shape: int) -> np.ndarray:
    x = draw(*shape)
    return x + np.swapaxes(x, -1, -2)


def of_rank(m: int, n: int, rank: int) -> np.ndarray:
    return draw(m, rank) @ draw(rank, n, seed=1)


def gradient(f: Function, x: Any) -> np.ndarray:
    """Of the sum of `f`; the same staged."""
    g = sk.grad(lambda x: sk.sum(f(x)))
    found, staged = g(x), sk.function(g)
    for _ in range(2):
        np.testing.assert_array_equal(staged(x), found)
    return np.asarray(found)


# ----- values -------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Function, Function, tuple[Any, ...]]] = {
    "solve": (la.solve, np.linalg.solve, (draw(2, 3, 3), draw(3, 2))),
    "solve vector": (la.solve, lambda a, b: np.linalg.solve(a, b), (draw(2, 3, 3), draw(3))),
    "inv": (la.inv, np.linalg.inv, (draw(2, 3, 3),)),
    "det": (la.det, np.linalg.det, (draw(2, 3, 3),)),
    "slogdet": (la.slogdet, np.linalg.slogdet, (draw(2, 3, 3),)),
    "pinv": (la.pinv, np.linalg.pinv, (draw(2, 3, 2),)),
    "pinv of low rank": (
        lambda x: la.pinv(x, rtol=1e-5), lambda x: np.linalg.pinv(x, 1e-5), (of_rank(4, 3, 2),),
    ),
    "pinv by tolerances": (
        lambda x: la.pinv(x, rtol=sk.asarray([1e-4, 0.9])),
        lambda x: np.linalg.pinv(x, np.array([1e-4, 0.9])), (draw(2, 3, 2),),
    ),
    "rank": (la.matrix_rank, np.linalg.matrix_rank, (draw(2, 3, 2),)),
    "rank of low rank": (
        lambda x: la.matrix_rank(x, rtol=1e-5), lambda x: 2, (of_rank(4, 3, 2),),
    ),
    "lstsq": (
        lambda a, b: la.lstsq(a, b)[0], lambda a, b: np.linalg.lstsq(a, b)[0],
        (draw(4, 2), draw(4, 3)),
    ),
    "lstsq residuals": (
        lambda a, b: la.lstsq(a, b)[1], lambda a, b: np.linalg.lstsq(a, b)[1],
        (draw(4, 2), draw(4, 3)),
    ),
    "lstsq wide": (
        lambda a, b: la.lstsq(a, b)[0], lambda a, b: np.linalg.lstsq(a, b)[0],
        (draw(2, 4), draw(2)),
    ),
    "cholesky": (la.cholesky, np.linalg.cholesky, (positive(2, 3, 3),)),
    "cholesky upper": (
        lambda x: la.cholesky(x, upper=True), lambda x: np.linalg.cholesky(x, upper=True),
        (positive(2, 3, 3),),
    ),
    "eigvalsh": (la.eigvalsh, np.linalg.eigvalsh, (symmetric(2, 4, 4),)),
    "svdvals": (la.svdvals, np.linalg.svdvals, (draw(2, 3, 4),)),
    "expm": (la.expm, scipy.linalg.expm, (draw(3, 4, 4),)),
    "expm large": (la.expm, scipy.linalg.expm, (draw(3, 3) * 8,)),
    "power 0": (
        lambda x: la.matrix_power(x, 0), lambda x: np.linalg.matrix_power(x, 0), (draw(2, 3, 3),),
    ),
    "power 1": (lambda x: la.matrix_power(x, 1), lambda x: x, (draw(2, 3, 3),)),
    "power 6": (
        lambda x: la.matrix_power(x, 6), lambda x: np.linalg.matrix_power(x, 6), (draw(2, 3, 3),),
    ),
    "power -3": (
        lambda x: la.matrix_power(x, -3), lambda x: np.linalg.matrix_power(x, -3), (draw(3, 3),),
    ),
    "cross": (la.cross, np.linalg.cross, (draw(2, 3), draw(3))),
    "cross axis": (
        lambda x, y: la.cross(x, y, axis=-2), lambda x, y: np.linalg.cross(x, y, axis=-2),
        (draw(3, 4), draw(2, 3, 1)),
    ),
    "outer": (la.outer, np.linalg.outer, (draw(2), draw(3))),
    "tensordot": (la.tensordot, np.linalg.tensordot, (draw(2, 3, 4), draw(3, 4, 2))),
    "matmul": (la.matmul, np.matmul, (draw(2, 3), draw(3, 2))),
    "vecdot": (la.vecdot, np.linalg.vecdot, (draw(2, 3), draw(3))),
    "matrix_transpose": (la.matrix_transpose, np.linalg.matrix_transpose, (draw(2, 3),)),
}  # fmt: skip

for _k in (-3, -2, -1, 0, 1, 2, 3, 5):
    for _shape in ((2, 3), (2, 4, 3), (0, 3)):
        for _name, _f, _g in (
            ("diagonal", la.diagonal, np.linalg.diagonal),
            ("trace", la.trace, np.linalg.trace),
        ):
            VALUES[f"{_name} {_k} {_shape}"] = (
                lambda x, _k=_k, _f=_f: _f(x, offset=_k),
                lambda x, _k=_k, _g=_g: _g(x, offset=_k),
                (draw(*_shape),),
            )
for _ord in ("fro", "nuc", 1, -1, 2, -2, INF, -INF):
    VALUES[f"matrix_norm {_ord}"] = (
        lambda x, _o=_ord: [la.matrix_norm(x, ord=_o, keepdims=k) for k in (False, True)],
        lambda x, _o=_ord: [np.linalg.matrix_norm(x, ord=_o, keepdims=k) for k in (False, True)],
        (draw(2, 3, 4),),
    )
    VALUES[f"norm {_ord}"] = (
        lambda x, _o=_ord: la.norm(x, _o, axis=(2, 0), keepdims=True),
        lambda x, _o=_ord: np.linalg.norm(x, _o, axis=(2, 0), keepdims=True),
        (draw(2, 3, 4),),
    )
for _p in (0, 1, 2, 3, 0.5, -1, -2, 2.5, INF, -INF):
    for _axis in (None, 1, (0, -1), ()):
        VALUES[f"vector_norm {_p} {_axis}"] = (
            lambda x, _p=_p, _a=_axis: la.vector_norm(x, axis=_a, ord=_p, keepdims=True),
            lambda x, _p=_p, _a=_axis: np.linalg.vector_norm(x, axis=_a, ord=_p, keepdims=True)
            if _a != () else np.abs(x) if _p != 0 else (x != 0) * 1.0,
            (draw(2, 3, 4),),
        )  # fmt: skip
VALUES["norm of all"] = (la.norm, np.linalg.norm, (draw(2, 3, 4),))
VALUES["norm of a vector"] = (lambda x: la.norm(x, 3), lambda x: np.linalg.norm(x, 3), (draw(5),))


def leaves(result: Any) -> list[np.ndarray]:
    if isinstance(result, (list, tuple)):
        return [leaf for each in result for leaf in leaves(each)]
    return [np.asarray(result)]


@pytest.mark.parametrize("name", VALUES)
def test_values_are_numpys_in_both_stages(name: str) -> None:
    f, referee, args = VALUES[name]
    want = leaves(referee(*args))
    for kind, tolerance in (("float64", 1e-11), ("float32", 2e-4)):
        xs = [sk.asarray(x.astype(kind)) for x in args]
        found = leaves(f(*xs))
        assert len(found) == len(want)
        for a, b in zip(found, want):
            assert a.shape == b.shape
            assert a.dtype == kind or name.startswith("rank")
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        assert_stages_agree(f, *xs)


def test_integers_where_the_standard_takes_numbers() -> None:
    x, y = sk.asarray([1, 2, 3]), sk.asarray([0, 1, 0])
    assert la.cross(x, y).tolist() == [-3, 0, 1]
    assert la.outer(x, y).tolist() == [[0, 1, 0], [0, 2, 0], [0, 3, 0]]
    assert la.trace(sk.asarray([[1, 2], [3, 4]], dtype=sk.int8)).dtype == sk.int64
    assert la.trace(sk.eye(2), dtype=sk.float64).dtype == sk.float64


# ----- decompositions give back the matrix --------------------------------------------------------

sizes = st.integers(0, 5)
batches = st.lists(st.integers(0, 3), max_size=2).map(tuple)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-10)


def is_orthogonal(q: Any) -> None:
    close(q.mT @ q, np.broadcast_to(np.eye(q.shape[-1]), (*q.shape[:-2], *q.shape[-1:] * 2)))


@settings(max_examples=60, deadline=None)
@given(batches, sizes, sizes)
def test_svd_and_qr_give_back_the_matrix(batch: Any, m: int, n: int) -> None:
    x, k = sk.asarray(draw(*batch, m, n)), min(m, n)
    for full in (False, True):
        u, s, vh = la.svd(x, full_matrices=full)
        assert u.shape == (*batch, m, m if full else k)
        assert vh.shape == (*batch, n if full else k, n)
        assert s.shape == (*batch, k)
        is_orthogonal(u), is_orthogonal(vh.mT)
        close(u[..., :k] * s[..., None, :] @ vh[..., :k, :], x)
        assert (np.diff(np.asarray(s), axis=-1) <= 0).all()
        q, r = la.qr(x, mode="complete" if full else "reduced")
        assert q.shape == (*batch, m, m if full else k)
        assert r.shape == (*batch, m if full else k, n)
        is_orthogonal(q)
        close(q @ r, x), close(sk.triu(r), r)
    close(x @ la.pinv(x) @ x, x)
    assert la.matrix_rank(x).shape == batch


@settings(max_examples=40, deadline=None)
@given(batches, sizes)
def test_square_decompositions_give_back_the_matrix(batch: Any, n: int) -> None:
    x, s = sk.asarray(positive(*batch, n, n)), sk.asarray(symmetric(*batch, n, n))
    low, up = la.cholesky(x), la.cholesky(x, upper=True)
    close(low @ low.mT, x), close(up.mT @ up, x), close(sk.tril(low), low)
    w, v = la.eigh(s)
    is_orthogonal(v)
    close(v * w[..., None, :] @ v.mT, s)
    assert (np.diff(np.asarray(w), axis=-1) >= 0).all()
    close(la.inv(x) @ x, np.broadcast_to(np.eye(n), x.shape))
    sign, log = la.slogdet(x)
    close(sign * sk.exp(log), la.det(x))
    close(la.expm(sk.zeros_like(x)), np.broadcast_to(np.eye(n), x.shape))


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(0, 70), st.integers(0, 3), st.booleans(), st.booleans())
def test_triangular_systems(batch: Any, n: int, k: int, lower: bool, unit: bool) -> None:
    a = draw(*batch, n, n) / (n + 1) + 2 * np.eye(n)
    b = sk.asarray(draw(n, k))
    x = la.solve_triangular(sk.asarray(a), b, lower=lower, unit_diagonal=unit)
    read = np.tril(a) if lower else np.triu(a)
    if unit:
        read[..., range(n), range(n)] = 1.0
    close(sk.asarray(read) @ x, np.broadcast_to(b, x.shape))


def test_only_the_triangle_is_read() -> None:
    a = np.array([[2.0, np.nan], [1.0, 4.0]])
    assert la.solve_triangular(a, np.array([2.0, 5.0]), lower=True).tolist() == [1, 1]
    g = sk.grad(lambda a: sk.sum(la.solve_triangular(a, np.ones((2, 1)), lower=True)))(a)
    assert np.isfinite(g.numpy()).all()


def test_half_precision_is_computed_in_float32() -> None:
    x = positive(3, 3).astype("float16")
    for name in ("inv", "det", "cholesky", "eigvalsh", "svdvals", "expm", "pinv"):
        out = getattr(la, name)(sk.asarray(x))
        assert out.dtype == sk.float16
        want = getattr(la, name)(sk.asarray(x.astype("float32")))
        assert np.abs(out.numpy() - want.numpy()).max() <= 1e-3 * np.abs(want.numpy()).max()


def test_of_a_matrix_that_is_not_symmetric_the_symmetric_part_is_taken() -> None:
    x = positive(3, 3) + np.triu(draw(3, 3), 1) * 0.1
    half = (x + x.T) / 2
    assert np.array_equal(la.eigvalsh(x), la.eigvalsh(half))
    assert np.array_equal(la.cholesky(x), la.cholesky(half))
    for f in (la.eigvalsh, la.cholesky):
        g = gradient(f, x)
        assert np.array_equal(g, g.T)


def test_norms_do_not_overflow_or_underflow() -> None:
    for scale in (1e200, 1e-200):
        x = np.array([3.0, 4.0]) * scale
        assert la.vector_norm(x).item() == pytest.approx(5 * scale, rel=1e-14)
        np.testing.assert_allclose(gradient(la.vector_norm, x), [0.6, 0.8], rtol=1e-14)
        assert la.vector_norm(x, ord=3).item() == pytest.approx(91 ** (1 / 3) * scale, rel=1e-14)
    assert la.vector_norm(np.array([INF, 1.0])).item() == INF
    assert math.isnan(la.vector_norm(np.array([math.nan, 1.0])).item())


# ----- the standard -------------------------------------------------------------------------------

SIGNATURES = {
    "cholesky": "(x, /, *, upper=False)",
    "cross": "(x1, x2, /, *, axis=-1)",
    "det": "(x, /)",
    "diagonal": "(x, /, *, offset=0)",
    "eig": "(x, /)",
    "eigh": "(x, /)",
    "eigvals": "(x, /)",
    "eigvalsh": "(x, /)",
    "inv": "(x, /)",
    "matmul": "(x1, x2, /)",
    "matrix_norm": "(x, /, *, keepdims=False, ord='fro')",
    "matrix_power": "(x, n, /)",
    "matrix_rank": "(x, /, *, rtol=None)",
    "matrix_transpose": "(x, /)",
    "outer": "(x1, x2, /)",
    "pinv": "(x, /, *, rtol=None)",
    "qr": "(x, /, *, mode='reduced')",
    "slogdet": "(x, /)",
    "solve": "(x1, x2, /)",
    "svd": "(x, /, *, full_matrices=True)",
    "svdvals": "(x, /)",
    "tensordot": "(x1, x2, /, *, axes=2)",
    "trace": "(x, /, *, offset=0, dtype=None)",
    "vecdot": "(x1, x2, /, *, axis=-1)",
    "vector_norm": "(x, /, *, axis=None, keepdims=False, ord=2)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_standards(name: str) -> None:
    signature = inspect.signature(getattr(la, name))
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    found = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    assert found == SIGNATURES[name]


def test_results_are_named() -> None:
    x = positive(2, 2)
    assert la.eigh(x)._fields == ("eigenvalues", "eigenvectors")
    assert la.eig(x)._fields == ("eigenvalues", "eigenvectors")
    assert la.qr(x)._fields == ("Q", "R")
    assert la.slogdet(x)._fields == ("sign", "logabsdet")
    assert la.svd(x)._fields == ("U", "S", "Vh")
    assert sk.function(la.svd)(x)._fields == ("U", "S", "Vh")


# ----- errors -------------------------------------------------------------------------------------

M, S, V, I = sk.ones((2, 3)), sk.eye(2), sk.ones(2), sk.ones((2, 2), dtype=sk.int32)
Z, N = sk.zeros((2, 2)), sk.full((2, 2), math.nan)

ERRORS: dict[str, tuple[Function, type[StagekitError], str]] = {
    "solve singular": (lambda: la.solve(Z, V), LinAlgError, "solve: a matrix is singular"),
    "inv singular": (lambda: la.inv(Z), LinAlgError, "inv: a matrix is singular"),
    "power singular": (lambda: la.matrix_power(Z, -1), LinAlgError, "inv: a matrix is singular"),
    "triangular": (lambda: la.solve_triangular(Z, V), LinAlgError, "triangular: a matrix is sing"),
    "cholesky": (lambda: la.cholesky(-S), LinAlgError, "cholesky: .* not positive definite"),
    "svd": (lambda: la.svd(N), LinAlgError, "svd: no convergence"),
    "pinv": (lambda: la.pinv(N), LinAlgError, "pinv: no convergence"),
    "rank": (lambda: la.matrix_rank(N), LinAlgError, "svd: no convergence"),
    "square det": (lambda: la.det(M), ShapeError, r"det: shape \(2, 3\) is no square matrix"),
    "square inv": (lambda: la.inv(M), ShapeError, r"inv: shape \(2, 3\) is no square matrix"),
    "square eigh": (lambda: la.eigh(M), ShapeError, "eigh: .* square"),
    "square cholesky": (lambda: la.cholesky(M), ShapeError, "cholesky: .* square"),
    "square power": (lambda: la.matrix_power(M, 2), ShapeError, "matrix_power: .* square"),
    "square solve": (lambda: la.solve(M, V), ShapeError, "solve: .* square"),
    "vector svd": (lambda: la.svd(V), ShapeError, r"svd: shape \(2,\) is no matrix"),
    "vector qr": (lambda: la.qr(V), ShapeError, "qr: .* no matrix"),
    "vector det": (lambda: la.det(V), ShapeError, "det: .* no matrix"),
    "vector pinv": (lambda: la.pinv(V), ShapeError, "pinv: .* no matrix"),
    "vector trace": (lambda: la.trace(V), ShapeError, "trace: .* no matrix"),
    "vector norm": (lambda: la.matrix_norm(V), ShapeError, "matrix_norm: .* no matrix"),
    "rows": (lambda: la.solve(S, sk.ones(3)), ShapeError, r"solve: shapes \(2, 2\) and \(3, 1\)"),
    "batch": (
        lambda: la.solve(sk.ones((2, 2, 2)), sk.ones((3, 2, 1))), ShapeError, "solve: shapes .*fit",
    ),
    "lstsq": (lambda: la.lstsq(M, sk.ones(3)), ShapeError, "lstsq: shapes"),
    "tolerance": (
        lambda: la.pinv(sk.ones((3, 2, 2)), rtol=V), ShapeError, "pinv: shapes .* do not broadcast",
    ),
    "cross": (lambda: la.cross(M, V), ShapeError, r"cross: axis -1 of shapes \(2, 3\) and \(2,\)"),
    "outer": (lambda: la.outer(M, V), ShapeError, "outer: .* not of vectors"),
    "norm axes": (lambda: la.norm(sk.ones((2, 2, 2)), 2), ShapeError, "norm: 3 axes"),
    "norm axis": (lambda: la.vector_norm(V, axis=1), AxisError, "vector_norm: axis 1"),
    "norm ord": (lambda: la.matrix_norm(M, ord=3), ArgumentError, "matrix_norm: ord is 3"),
    "mode": (lambda: la.qr(M, mode="full"), ArgumentError, "qr: mode is 'full'"),
    "n": (lambda: la.matrix_power(S, 1.5), ArgumentError, "matrix_power: n is 1.5"),
    "ints inv": (lambda: la.inv(I), DTypeError, "inv: an operand is int32"),
    "ints solve": (lambda: la.solve(I, V), DTypeError, "solve: an operand is int32"),
    "ints svd": (lambda: la.svd(I), DTypeError, "svd: an operand is int32"),
    "ints norm": (lambda: la.vector_norm(I), DTypeError, "vector_norm: an operand is int32"),
    "ints rank": (lambda: la.matrix_rank(I), DTypeError, "matrix_rank: an operand is int32"),
    "bool": (lambda: la.det(S > 0), DTypeError, "det: an operand is bool"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_the_same_in_both_stages(name: str) -> None:
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert type(caught.value) is kind
    assert caught.value.fix
    assert caught.value.location is not None
    assert caught.value.location.filename == __file__
    for _ in range(2):
        with pytest.raises(kind) as staged:
            sk.function(call)()
        assert str(staged.value) == str(caught.value)


def test_linalgerror_is_numpys_and_ours() -> None:
    assert issubclass(LinAlgError, np.linalg.LinAlgError)
    assert issubclass(LinAlgError, StagekitError)
    assert sk.LinAlgError is LinAlgError


@pytest.mark.parametrize("f", [la.inv, la.cholesky, la.svd, la.pinv])
def test_a_failure_is_raised_though_the_result_is_unused(f: Function) -> None:
    def unused(x: Any) -> Any:
        f(x)
        return x

    staged = sk.function(unused)
    assert staged(S).tolist() == staged(S).tolist() == S.tolist()
    bad = N if f in (la.svd, la.pinv) else -Z
    for call in (unused, staged):
        with pytest.raises(LinAlgError):
            call(bad)


# ----- derivatives --------------------------------------------------------------------------------


def projector(f: Function, k: int) -> Function:
    """Of the columns beyond k of an orthogonal factor: it does not depend on the basis."""

    def call(x: Any) -> Any:
        q = f(x)[..., k:]
        return q @ q.mT

    return call


def low_rank(x: Any) -> Any:
    r = la.svd(x, full_matrices=False)
    return (r.U * sk.tanh(r.S)[..., None, :]) @ r.Vh


SMOOTH: dict[str, tuple[Function, tuple[Any, ...]]] = {
    **{
        name: (VALUES[name][0], VALUES[name][2])
        for name in (
            "solve", "solve vector", "inv", "det", "pinv", "cholesky", "cholesky upper",
            "eigvalsh", "svdvals", "expm", "power 0", "power 1", "power 6", "power -3", "cross",
            "cross axis", "outer", "lstsq", "lstsq residuals", "lstsq wide", "diagonal 1 (2, 4, 3)",
            "trace -1 (2, 3)", "matrix_norm fro", "matrix_norm nuc", "matrix_norm 2",
            "matrix_norm -2", "matrix_norm 1", "matrix_norm -inf", "norm fro",
            "vector_norm 3 1", "vector_norm 0.5 None", "vector_norm -1 (0, -1)",
        )
    },
    "slogdet": (lambda x: la.slogdet(x).logabsdet, (draw(2, 3, 3),)),
    "triangular": (la.solve_triangular, (draw(2, 3, 3) + 2 * np.eye(3), draw(3, 2))),
    "triangular lower": (
        lambda a, b: la.solve_triangular(a, b, lower=True, unit_diagonal=True),
        (draw(3, 3), draw(2, 3, 2)),
    ),
    "eigh": (la.eigh, (symmetric(3, 3),)),
    "svd": (lambda x: la.svd(x, full_matrices=False), (draw(2, 3, 3),)),
    "svd tall": (lambda x: la.svd(x, full_matrices=False), (draw(4, 2),)),
    "svd wide": (lambda x: la.svd(x, full_matrices=False), (draw(2, 4),)),
    "svd complete": (lambda x: la.svd(x), (draw(3, 2),)),
    "svd of a function": (low_rank, (draw(3, 4),)),
    "null space": (projector(lambda x: la.svd(x).U, 2), (draw(4, 2),)),
    "null space of rows": (projector(lambda x: la.svd(x).Vh.mT, 2), (draw(2, 4),)),
    "qr": (la.qr, (draw(2, 3, 3),)),
    "qr tall": (la.qr, (draw(4, 2),)),
    "qr wide": (la.qr, (draw(2, 4),)),
    "qr complete": (lambda x: la.qr(x, mode="complete"), (draw(3, 2),)),
    "complement": (projector(lambda x: la.qr(x, mode="complete").Q, 2), (draw(4, 2),)),
    "pinv of constant rank": (lambda a, b: la.pinv(a @ b, rtol=1e-9), (draw(4, 2), draw(2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_to_second_order(name: str) -> None:
    f, args = SMOOTH[name]
    check_grads(f, args, order=2)


@pytest.mark.parametrize("name", ["solve", "svd", "qr", "cholesky", "pinv", "eigh", "expm", "det"])
def test_derivatives_of_a_staged_function_at_any_size(name: str) -> None:
    f, args = SMOOTH[name]
    staged = sk.function(lambda *xs: f(*xs), dynamic=True)
    for k in (1, 2):
        check_grads(staged, tuple(np.repeat(x[None], k, axis=0) for x in args), order=1)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_the_determinant_of_any_rank_to_third_order(rank: int) -> None:
    x = of_rank(4, 4, rank) if rank else np.zeros((4, 4))
    check_grads(la.det, (x,), order=3)
    cofactors = np.array(
        [
            [(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(4)]
            for i in range(4)
        ]
    )
    np.testing.assert_allclose(gradient(la.det, x), cofactors, rtol=1e-11, atol=1e-13)


def test_the_fourth_derivative_of_a_determinant() -> None:
    check_grads(la.det, (draw(2, 2),), order=4)
    check_grads(la.det, (np.zeros((1, 1)),), order=3)


@pytest.mark.parametrize("condition", [1e2, 1e5])
def test_ill_conditioned_matrices(condition: float) -> None:
    """Against the formulas in higher precision, within what the condition allows."""
    q, p = np.linalg.qr(draw(4, 4))[0], np.linalg.qr(draw(4, 4, seed=1))[0]
    a, b = (q * np.geomspace(1, 1 / condition, 4)) @ p, draw(4)
    long = np.longdouble
    inverse = (p.T.astype(long) / np.geomspace(1, 1 / condition, 4)) @ q.T.astype(long)
    want = -np.outer(inverse.T @ np.ones(4, long), inverse @ b.astype(long)).astype("f8")
    tolerance = {"rtol": 1e-14 * condition, "atol": 1e-14 * condition * np.abs(want).max()}
    np.testing.assert_allclose(gradient(lambda a: la.solve(a, b), a), want, **tolerance)
    np.testing.assert_allclose(gradient(lambda a: la.pinv(a) @ b, a), want, **tolerance)
    np.testing.assert_allclose(gradient(lambda a: la.inv(a) @ b, a), want, **tolerance)
    log = gradient(lambda x: la.slogdet(x).logabsdet, a)
    np.testing.assert_allclose(log, inverse.T.astype("f8"), rtol=1e-13 * condition, atol=1e-9)


@pytest.mark.parametrize("gap", [1e-2, 1e-5])
def test_eigenvalues_near_each_other(gap: float) -> None:
    q = np.linalg.qr(draw(3, 3))[0]
    x = (q * np.array([1.0, 1.0 + gap, 3.0])) @ q.T
    _, v = la.eigh(x)
    first = v.numpy()[:, 0] * np.sign(v.numpy()[0, 0] * q[0, 0])
    c = draw(3, 3, seed=2)

    def f(x: Any) -> Any:
        v = la.eigh(x).eigenvectors[:, :1]
        return sk.sum(v @ v.mT * c)

    sums = (c + c.T) @ first
    parts = [q[:, k] * (q[:, k] @ sums) / (1.0 - w) for k, w in ((1, 1.0 + gap), (2, 3.0))]
    want = np.outer(sum(parts), first)
    found = np.asarray(sk.grad(f)(x))
    np.testing.assert_allclose(found, (want + want.T) / 2, rtol=1e-10 / gap, atol=1e-12 / gap**2)


# ----- where derivatives are not, or are a matter of definition -----------------------------------

Q3 = np.linalg.qr(draw(3, 3, seed=5))[0]
TWICE = (Q3 * np.array([1.0, 1.0, 3.0])) @ Q3.T
EYE = np.eye(3)


@pytest.mark.parametrize("x", [EYE, 2 * EYE, TWICE, np.zeros((3, 3))])
def test_symmetric_functions_of_equal_eigenvalues(x: np.ndarray) -> None:
    close(gradient(la.eigvalsh, x), EYE)
    close(gradient(lambda x: la.eigvalsh(x) ** 2, x), 2 * x)
    close(sk.jvp(lambda x: sk.sum(la.eigvalsh(x)), (x,), (EYE,))[1], 3)


def test_equal_eigenvalues_share_a_gradient_as_ties_do() -> None:
    close(gradient(lambda x: la.eigvalsh(x)[-1], EYE), EYE / 3)
    pair = Q3[:, :2] @ Q3[:, :2].T / 2
    close(gradient(lambda x: la.eigvalsh(x)[0], TWICE), pair)
    close(gradient(lambda x: la.svdvals(x)[0], EYE), EYE / 3)
    close(gradient(lambda x: la.matrix_norm(x, ord=2), -2 * EYE), -EYE / 3)


def all_nan(f: Function, x: np.ndarray) -> None:
    assert np.isnan(gradient(f, x)).any(axis=(-2, -1)).all()
    assert np.isnan(np.asarray(sk.jvp(lambda x: sk.sum(f(x)), (x,), (draw(*x.shape),))[1])).all()


def test_vectors_of_equal_eigenvalues_have_no_derivative() -> None:
    for x in (EYE, TWICE, np.zeros((3, 3))):
        all_nan(lambda x: la.eigh(x).eigenvectors[:, 0], x)
        all_nan(lambda x: la.svd(x, full_matrices=False).U[:, -1], x)
    exponential = lambda x: (lambda w, v: (v * sk.exp(w)) @ v.mT)(*la.eigh(x))
    all_nan(exponential, EYE)


def test_a_simple_eigenvalue_beside_equal_ones() -> None:
    """Nothing flows through the choice of the others' vectors."""

    def f(x: Any) -> Any:
        v = la.eigh(x).eigenvectors[:, 2:]
        return v @ v.mT

    check_grads(f, (TWICE,), order=1)


LOW = of_rank(4, 3, 2)


def test_singular_values_that_are_0_have_no_gradient() -> None:
    u, _, vh = np.linalg.svd(LOW, full_matrices=False)
    for f in (la.svdvals, lambda x: la.matrix_norm(x, ord="nuc")):
        close(gradient(f, LOW), u[:, :2] @ vh[:2])
    close(gradient(lambda x: la.svdvals(x)[-1], LOW), np.zeros((4, 3)))
    check_grads(lambda x: la.svdvals(x)[:2], (LOW,), order=1)


def test_vectors_of_singular_values_that_are_0_have_no_derivative() -> None:
    all_nan(lambda x: la.svd(x, full_matrices=False).U[:, 2], LOW)

    def leading(x: Any) -> Any:
        r = la.svd(x, full_matrices=False)
        return (r.U[:, :1] * r.S[:1]) @ r.Vh[:1]

    check_grads(leading, (LOW,), order=1)


def test_functions_of_the_choice_of_a_basis_have_no_gradient() -> None:
    x = draw(4, 2)
    assert np.isnan(gradient(lambda x: la.svd(x).U[:, 2:], x)).all()
    assert np.isnan(gradient(lambda x: la.svd(x).Vh[2:], x.T)).all()
    assert np.isnan(gradient(lambda x: la.qr(x, mode="complete").Q[:, 2:], x)).all()


@pytest.mark.parametrize("x", [LOW, LOW.T, of_rank(3, 3, 1), np.zeros((2, 2))])
def test_qr_without_full_rank_has_no_derivative(x: np.ndarray) -> None:
    if np.linalg.matrix_rank(x[:, : min(x.shape)]) < min(x.shape):
        all_nan(lambda x: la.qr(x).R, x)
        assert np.isnan(gradient(lambda x: la.qr(x).Q, x)).any()


def test_a_singular_matrix_has_no_logarithm_of_a_determinant() -> None:
    x = np.ones((2, 2))
    sign, log = la.slogdet(x)
    assert (sign.item(), log.item()) == (0, -INF)
    assert np.isnan(gradient(lambda x: la.slogdet(x).logabsdet, x)).all()
    assert gradient(lambda x: la.slogdet(x).sign, EYE).tolist() == np.zeros((3, 3)).tolist()
    batch = np.stack([x, np.eye(2)])
    found = gradient(lambda x: la.slogdet(x).logabsdet, batch)
    assert np.isnan(found[0]).all()
    close(found[1], np.eye(2))


def test_a_pseudo_inverse_that_leaves_out_more_than_rounding_has_no_derivative() -> None:
    x = np.diag([4.0, 1.0])
    all_nan(lambda x: la.pinv(x, rtol=0.5), x)
    assert np.isfinite(gradient(lambda x: la.pinv(x, rtol=0.1), x)).all()
    assert gradient(la.pinv, np.zeros((2, 3))).tolist() == np.zeros((2, 3)).tolist()


@pytest.mark.parametrize("ord", [1, 2, 3, 1.5, INF, "fro", "nuc"])
def test_the_gradient_of_a_norm_that_is_0_is_0(ord: Any) -> None:
    x = np.zeros((3, 3))
    if isinstance(ord, str) or ord in (1, 2, INF):
        assert gradient(lambda x: la.matrix_norm(x, ord=ord), x).tolist() == x.tolist()
    if not isinstance(ord, str):
        assert gradient(lambda x: la.vector_norm(x, ord=ord), x).tolist() == x.tolist()


def test_the_rank_has_no_derivative() -> None:
    assert gradient(lambda x: sk.astype(la.matrix_rank(x), sk.float64), EYE).tolist() == [
        [0] * 3
    ] * 3


def test_nan_stays_nan() -> None:
    x = np.full((2, 2), math.nan)
    for f in (la.det, la.inv, la.expm, lambda x: la.slogdet(x)):
        assert all(np.isnan(leaf).all() for leaf in leaves(f(x)))
    assert np.isnan(gradient(la.det, x)).all()


# ----- sizes, graphs and files --------------------------------------------------------------------

SYMBOLIC: dict[str, Function] = {
    "solve": lambda x: la.solve(x, x[..., 0]) if x.ndim == 2 else la.solve(x, x),
    "inv": la.inv,
    "det": la.det,
    "slogdet": la.slogdet,
    "pinv": la.pinv,
    "eigh": la.eigh,
    "svd": la.svd,
    "qr": la.qr,
    "expm": la.expm,
    "norm": lambda x: (la.matrix_norm(x), la.vector_norm(x, axis=(-2, -1)), la.norm(x)),
    "trace": lambda x: (la.trace(x, offset=1), la.diagonal(x)),
    "rank": la.matrix_rank,
    "power": lambda x: la.matrix_power(x, 3),
    "gradient": sk.grad(lambda x: sk.sum(la.svdvals(x)) + sk.sum(la.det(x))),
    "gradient of qr": sk.grad(lambda x: sk.sum(la.qr(x).R)),
    "gradient of pinv": sk.grad(lambda x: sk.sum(la.pinv(x))),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_one_trace_for_every_size_of_batch_and_matrix(name: str) -> None:
    f = SYMBOLIC[name]
    staged = sk.function(lambda x: f(x), dynamic=True)
    for b, n in ((2, 3), (1, 1), (5, 2), (0, 3), (3, 4)):
        x = sk.asarray(draw(b, n, n) + 3 * np.eye(n))
        assert admitted(f, [x], outcome(staged, [x])), (b, n)
    for entry in staged._history:
        if entry.concrete is not None:
            verify(entry.concrete.graph, entry.concrete.env)


@pytest.mark.parametrize("name", [n for n in SYMBOLIC if not n.startswith("gradient")])
def test_a_file_runs_as_eager(name: str, tmp_path: Path) -> None:
    f = SYMBOLIC[name]
    sk.export.save(tmp_path / "f", lambda x: f(x), sk.TensorSpec(("b", 3, 3), sk.float64))
    for program in (runtime.load(tmp_path / "f"), sk.export.load(tmp_path / "f")):
        for b in (2, 5):
            x = draw(b, 3, 3) + 3 * np.eye(3)
            for want, got in zip(leaves(f(x)), leaves(program(x)), strict=True):
                assert np.array_equal(want, got)


def test_errors_of_a_file_are_those_of_eager(tmp_path: Path) -> None:
    sk.export.save(tmp_path / "f", la.inv, sk.TensorSpec((2, 2)))
    with pytest.raises(LinAlgError, match="inv: a matrix is singular"):
        runtime.load(tmp_path / "f")(np.zeros((2, 2), "f4"))


BATCHED = {
    "solve": [(3, 3), (3, 2)],
    "solve_triangular": [(3, 3), (2, 3, 2)],
    "pinv": [(3, 2), ()],
    "inv": [(3, 3)],
    "svd": [(3, 2)],
    "cofactor": [(3, 3), (3, 3)],
}
ATTRS: dict[str, dict[str, Any]] = {
    "solve_triangular": {"lower": True, "unit_diagonal": False},
    "inv": {"checked": True},
    "svd": {"full_matrices": False},
}


@pytest.mark.parametrize("name", BATCHED)
def test_batching_rules(name: str) -> None:
    """Each operand mapped or not: the rule is a loop."""
    op, shapes, attrs = OPS[name], BATCHED[name], ATTRS.get(name, {})
    for mapped in np.ndindex(*[2] * len(shapes)):
        if not any(mapped):
            continue
        grown = [(4, *s) if m else s for s, m in zip(shapes, mapped)]
        args = [sk.asarray(np.abs(draw(*s)) * 0.1 if not s[-1:] else draw(*s)) for s in grown]
        args = [sk.clip(a, 0.0, 1e-3) if a.ndim < 2 else a for a in args]
        assert op.batch is not None
        found = leaves(op.batch(4, args, [bool(m) for m in mapped], attrs))
        rows = [
            leaves(op(*[a[k] if m else a for a, m in zip(args, mapped)], **attrs)) for k in range(4)
        ]
        for j, each in enumerate(found):
            close(each, np.stack([row[j] for row in rows]))


# ----- complex numbers ----------------------------------------------------------------------------


def complex_draw(*shape: int, seed: int = 0) -> np.ndarray:
    return draw(*shape, seed=seed) + 1j * draw(*shape, seed=seed + 100)


def complex_positive(n: int) -> np.ndarray:
    x = complex_draw(n, n)
    return x @ x.conj().T + 0.5 * np.eye(n)


def adjoint(x: Any) -> Any:
    return sk.conj(x.mT)


def of_eigh(x: Any) -> Any:
    """A function of a Hermitian matrix, and its eigenvalues: no phase matters."""
    w, v = la.eigh(x)
    return w, (v * sk.exp(w / 4)[..., None, :]) @ adjoint(v)


def of_svd(x: Any) -> Any:
    r = la.svd(x, full_matrices=False)
    return r.S, (r.U * sk.tanh(r.S)[..., None, :]) @ r.Vh, r.U[..., :1] @ adjoint(r.U[..., :1])


def of_eig(x: Any) -> Any:
    w, v = la.eig(x)
    return sk.sum(w**2), sk.sum(sk.abs(w)), sk.abs(v)


COMPLEX: dict[str, tuple[Function, Function | None, tuple[Any, ...]]] = {
    "solve": (la.solve, np.linalg.solve, (complex_draw(2, 3, 3), complex_draw(3, 2))),
    "triangular": (
        lambda a, b: la.solve_triangular(a, b, lower=True),
        lambda a, b: np.linalg.solve(np.tril(a), b), (complex_draw(3, 3), complex_draw(3, 2)),
    ),
    "inv": (la.inv, np.linalg.inv, (complex_draw(2, 3, 3),)),
    "det": (la.det, np.linalg.det, (complex_draw(2, 3, 3),)),
    "slogdet": (la.slogdet, np.linalg.slogdet, (complex_draw(2, 3, 3),)),
    "expm": (la.expm, scipy.linalg.expm, (complex_draw(3, 3),)),
    "pinv": (la.pinv, np.linalg.pinv, (complex_draw(3, 2),)),
    "power": (lambda x: la.matrix_power(x, -2), lambda x: np.linalg.matrix_power(x, -2),
              (complex_draw(3, 3),)),
    "cholesky": (la.cholesky, np.linalg.cholesky, (complex_positive(3),)),
    "cholesky upper": (lambda x: la.cholesky(x, upper=True),
                       lambda x: np.linalg.cholesky(x, upper=True), (complex_positive(3),)),
    "qr": (la.qr, np.linalg.qr, (complex_draw(2, 3, 3),)),
    "qr tall": (la.qr, np.linalg.qr, (complex_draw(4, 2),)),
    "qr wide": (la.qr, np.linalg.qr, (complex_draw(2, 4),)),
    "eigvalsh": (la.eigvalsh, np.linalg.eigvalsh, (complex_positive(3),)),
    "svdvals": (la.svdvals, np.linalg.svdvals, (complex_draw(3, 4),)),
    "eigvals": (la.eigvals, np.linalg.eigvals, (complex_draw(3, 3),)),
    "eigvals of real": (la.eigvals, np.linalg.eigvals, (draw(3, 3),)),
    "norm": (la.norm, np.linalg.norm, (complex_draw(3, 2),)),
    "nuc": (lambda x: la.matrix_norm(x, ord="nuc"), lambda x: np.linalg.norm(x, "nuc"),
            (complex_draw(3, 2),)),
    "vector_norm": (lambda x: la.vector_norm(x, ord=3), lambda x: np.linalg.norm(x, 3),
                    (complex_draw(3),)),
    "lstsq": (lambda a, b: la.lstsq(a, b)[:2], lambda a, b: np.linalg.lstsq(a, b)[:2],
              (complex_draw(4, 2), complex_draw(4, 2))),
    "cross": (la.cross, np.linalg.cross, (complex_draw(2, 3), complex_draw(3))),
    "of eigh": (of_eigh, None, (complex_positive(3),)),
    "of svd": (of_svd, None, (complex_draw(3, 3),)),
    "of svd tall": (of_svd, None, (complex_draw(4, 2),)),
    "of svd wide": (of_svd, None, (complex_draw(2, 3),)),
    "of eig": (of_eig, None, (complex_draw(3, 3),)),
    "of eig of real": (of_eig, None, (draw(3, 3),)),
    "null space": (
        lambda x: (lambda u: u @ adjoint(u))(la.svd(x).U[:, 2:]), None, (complex_draw(4, 2),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_matrices(name: str) -> None:
    f, referee, args = COMPLEX[name]
    if referee is not None:
        for got, want in zip(leaves(f(*args)), leaves(referee(*args)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
        for leaf in leaves(f(*[x.astype("complex64") for x in args])):
            assert leaf.dtype in ("complex64", "float32")
    assert_stages_agree(f, *map(sk.asarray, args))
    check_grads(f, args, order=2)


def test_gradients_that_depend_on_a_phase_are_nan() -> None:
    x = complex_positive(3)
    for f in (
        lambda x: sk.real(la.eigh(x).eigenvectors[1, 0]),
        lambda x: sk.real(la.svd(x).U[1, 0]),
        lambda x: sk.real(la.svd(x).Vh[0, 1]),
        lambda x: sk.imag(la.eig(x).eigenvectors[1, 0]),
    ):
        _, pullback = sk.vjp(f, x)
        assert np.isnan(pullback(1.0)[0].numpy()).all()


def test_eigenvalues_of_a_matrix_without_a_basis_of_eigenvectors() -> None:
    x = np.array([[1.0, 1.0], [0.0, 1.0]])
    assert la.eigvals(x).tolist() == [1, 1]
    _, pullback = sk.vjp(lambda x: la.eigvals(x), x)
    assert np.isnan(pullback(np.array([1.0 + 0j, 0]))[0].numpy()).all()
    _, pullback = sk.vjp(la.eigvals, np.eye(2))
    close(pullback(np.array([1.0 + 0j, 1.0]))[0], np.eye(2))
    assert np.isnan(pullback(np.array([1.0 + 0j, 0]))[0].numpy()).all()


def test_bfloat16_is_computed_in_float32() -> None:
    x = sk.asarray(positive(3, 3), dtype=sk.bfloat16)
    for name in ("inv", "det", "cholesky", "eigvalsh", "svdvals", "expm", "pinv", "norm"):
        out = getattr(la, name)(x)
        assert out.dtype == sk.bfloat16
        if name != "norm":
            want = OPS["astype"](getattr(la, name)(sk.astype(x, sk.float32)), dtype=sk.bfloat16)
            close(sk.astype(out, sk.float32), sk.astype(want, sk.float32))
    assert la.matrix_rank(x).item() == 3


@pytest.mark.parametrize(
    "f",
    [
        la.det, la.slogdet, la.pinv, la.eigvals, la.svdvals, la.norm, la.trace, la.matrix_rank,
        lambda x: la.matrix_norm(x, ord=2), lambda x: la.solve(x, x[0]), lambda x: la.solve(EYE, x),
        lambda x: la.lstsq(x, x[:, 0]).solution, lambda x: la.matrix_power(x, 3),
        sk.grad(la.det), sk.grad(lambda x: sk.sum(la.inv(x))),
        sk.grad(lambda x: sk.sum(la.svdvals(x)) + sk.sum(la.qr(x).R)),
    ],
)  # fmt: skip
def test_functions_under_vmap_are_a_loop(f: Function) -> None:
    x = draw(4, 3, 3)
    for axis in (0, 2):
        found = leaves(sk.vmap(f, axis)(np.moveaxis(x, 0, axis)))
        wanted = zip(*[leaves(f(each)) for each in x])
        for a, b in zip(found, wanted, strict=True):
            close(a, np.stack(b))


@pytest.mark.parametrize("ord", [-2, -1, -0.5, 0.25, 0.5])
def test_a_norm_below_1_of_zeros_and_infinities_is_numpys(ord: float) -> None:
    for values in ([0.0, 0.0], [0.0, 2.0], [INF, INF], [INF, 2.0]):
        with np.errstate(all="ignore"):
            expected = np.linalg.vector_norm(np.array(values), ord=ord)
        assert la.vector_norm(sk.asarray(values), ord=ord).item() == pytest.approx(expected)


def test_a_norm_below_1_has_no_tangent_at_zero() -> None:
    def norm(x: Any) -> Any:
        return la.vector_norm(x, ord=0.5)

    assert np.isnan(sk.jvp(norm, (sk.zeros(2),), (sk.ones(2),))[1].item())
    assert np.isnan(sk.grad(norm)(sk.zeros(2)).numpy()).all()
