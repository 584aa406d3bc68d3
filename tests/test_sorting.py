"""Sorting, folds, sets and einsum: derivatives, stages, symbolic sizes, batching, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk
import stagekit.ops as ops
from stagekit.op import OPS
from stagekit.ops import products
from stagekit.testing import check_grads
from tests.samples import samples
from tests.samples.products import EINSUMS

RNG = np.random.default_rng(0)
NAN, INF = math.nan, math.inf

# ----- derivatives --------------------------------------------------------------------------------

X = RNG.permutation(12).reshape(3, 4) * 0.5 - 2.0

SMOOTH: dict[str, Callable[[Any], Any]] = {
    "sort": lambda x: sk.sort(x * x, axis=0, descending=True),
    "topk": lambda x: sk.topk(x, 2, axis=0).values ** 2,
    "topk of the smallest": lambda x: sk.topk(x, 3, largest=False).values ** 2,
    "unique": lambda x: sk.unique(x, size=9) ** 2,
    "unique_values": lambda x: sk.unique_values(x) ** 2,
    "cumulative_sum": lambda x: sk.cumulative_sum(x, axis=1, include_initial=True) ** 2,
    "cumulative_prod": lambda x: sk.cumulative_prod(x - x[0, 1], axis=1, include_initial=True),
    "cumulative_max": lambda x: sk.cumulative_max(x, axis=1) ** 2,
    "cumulative_min": lambda x: sk.cumulative_min(x * x, axis=0),
    "diff": lambda x: sk.diff(x, n=2, prepend=1.5) ** 2,
    "diagonal": lambda x: sk.diagonal(x, 1) ** 2,
    "trace": lambda x: sk.trace(x * x),
    "diag": lambda x: sk.diag(x[0], -1) ** 2,
    "kron": lambda x: sk.kron(x, x[:2]),
    "outer": lambda x: sk.outer(x, x[0]),
    "tensordot": lambda x: sk.tensordot(x, x, axes=((0,), (0,))),
    "sinc": lambda x: sk.sinc(x),
    "xlogy": lambda x: sk.xlogy(x, x * x + 1),
    "logit": lambda x: sk.logit(sk.sigmoid(x)),
    "lgamma": lambda x: sk.lgamma(x + 3.0),
    "nan_to_num": lambda x: sk.nan_to_num(x * x),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_to_second_order(name: str) -> None:
    check_grads(SMOOTH[name], [X + 0.07])


@pytest.mark.parametrize(("subscripts", "shapes"), [EINSUMS[k] for k in (0, 4, 6, 12, 14, 19, 27)])
def test_einsum_has_derivatives(subscripts: str, shapes: Any) -> None:
    check_grads(lambda *xs: sk.einsum(subscripts, *xs), [RNG.uniform(-1, 1, s) for s in shapes])


def weighted(f: Callable[[Any], Any], x: Any) -> list[float]:
    """The gradient of sum of f(x) times 1, 2, 3, ..."""
    found = sk.grad(lambda v: sk.sum(f(v) * sk.arange(1.0, f(v).size + 1)))(sk.asarray(x))
    return found.tolist()


def test_ties_follow_the_order_of_argsort() -> None:
    assert weighted(sk.sort, [2.0, 1.0, 2.0, 1.0]) == [3, 1, 4, 2]
    assert weighted(lambda x: sk.sort(x, descending=True), [2.0, 1.0, 2.0, 1.0]) == [1, 3, 2, 4]
    assert weighted(lambda x: sk.topk(x, 2).values, [1.0, 2.0, 2.0, 2.0]) == [0, 1, 2, 0]
    assert weighted(sk.sort, [NAN, 1.0, NAN]) == [2, 1, 3]
    assert weighted(sk.unique_values, [2.0, 1.0, 2.0]) == [2, 1, 0]


def test_ties_of_running_extrema_share() -> None:
    assert weighted(sk.cumulative_max, [1.0, 1.0, 0.0, 1.0]) == pytest.approx(
        [1 + 2 / 2 + 3 / 2 + 4 / 3, 2 / 2 + 3 / 2 + 4 / 3, 0, 4 / 3]
    )


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_running_products_with_zeros_to_third_order(zeros: int) -> None:
    x = np.array([2.0, -3.0, 5.0, 0.5])
    x[:zeros] = 0.0
    check_grads(sk.cumulative_prod, (x,), order=3)
    others = [[np.delete(x, [i, j]).prod() if i != j else 0.0 for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(sk.hessian(lambda v: sk.cumulative_prod(v)[-1])(x), others)


def test_derivatives_of_sinc_at_zero() -> None:
    f: Any = lambda x: sk.sinc(x)
    found = []
    for _ in range(4):
        f = sk.grad(f)
        found.append(f(sk.asarray(0.0, dtype=sk.float64)).item())
    np.testing.assert_allclose(found, [0, -(math.pi**2) / 3, 0, math.pi**4 / 5], atol=1e-12)


def test_xlogy_at_zero_has_the_slope_of_its_factor() -> None:
    slopes = sk.grad(lambda x, y: sk.sum(sk.xlogy(x, y)), (0, 1))(
        sk.asarray([0.0, 0.0]), sk.asarray([2.0, 0.0])
    )
    np.testing.assert_allclose(slopes[0], [math.log(2), 0], rtol=1e-6)
    assert slopes[1].tolist() == [0, 0]


# ----- order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("descending", [False, True])
def test_large_orders_are_stable(kind: str, descending: bool) -> None:
    x = RNG.integers(-40, 40, 5000).astype(kind)
    if kind != "int32":
        x[::9], x[::7] = NAN, -0.0
    keys = -x.astype("f8") if descending else x.astype("f8")
    order = np.argsort(keys, kind="stable")
    assert np.array_equal(sk.argsort(sk.asarray(x), descending=descending).numpy(), order)
    bits = sk.sort(sk.asarray(x), descending=descending).numpy()
    numbers = bits == bits
    np.testing.assert_array_equal(np.signbit(bits[numbers]), np.signbit(x[order][numbers]))
    np.testing.assert_array_equal(bits, x[order])
    for k in (1, 100, 4000):
        found = sk.topk(sk.asarray(x), k, largest=descending)
        assert np.array_equal(found.indices.numpy(), order[:k])
    scarce = np.where(np.arange(len(x)) % 1999 == 5, 7, x[0] * 0 - 100).astype(kind)
    for row in (scarce, np.full(5000, NAN if kind != "int32" else 3, kind)):
        places = np.argsort(-row.astype("f8"), kind="stable")
        assert np.array_equal(sk.topk(sk.asarray(row), 5).indices.numpy(), places[:5])


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7])
def test_long_running_sums_keep_8_eps(kind: str, value: float) -> None:
    """The worst case: the rounding errors all have one sign."""
    x = np.full(2**20, value, kind)
    got = sk.cumulative_sum(sk.asarray(x)).numpy().astype("f8")
    exact = float(x[0]) * np.arange(1, len(x) + 1)
    assert (np.abs(got - exact) <= 8 * np.finfo(kind).eps * np.abs(exact)).all()


def test_running_sums_of_infinities() -> None:
    x = np.array([1.0, INF, 2.0, -INF, 1.0])
    np.testing.assert_array_equal(sk.cumulative_sum(x).numpy(), [1, INF, INF, NAN, NAN])


# ----- staging ------------------------------------------------------------------------------------

STAGED: dict[str, Callable[[Any], Any]] = {
    "sort": lambda x: sk.sort(x, axis=0, descending=True),
    "topk": lambda x: sk.topk(x, x.shape[0] // 2 + 1, axis=0),
    "searchsorted": lambda x: sk.searchsorted(sk.sort(x[:, 0]), x),
    "isin": lambda x: sk.isin(x, x[:1]),
    "nonzero": lambda x: sk.nonzero(x > 0, size=4, fill_value=(9, 8)),
    "argwhere": lambda x: sk.argwhere(x > 0, size=x.shape[0]),
    "unique": lambda x: sk.unique(x, size=5, fill_value=0.5),
    "unique of some": lambda x: sk.unique(x, size=5),
    "cumulative_prod": lambda x: sk.cumulative_prod(x, axis=0, include_initial=True),
    "gradient of cumulative_prod": sk.grad(lambda x: sk.sum(sk.cumulative_prod(x, axis=0))),
    "gradient of cumulative_max": sk.grad(lambda x: sk.sum(sk.cumulative_max(x, axis=0) * x)),
    "gradient of sort": sk.grad(lambda x: sk.sum(sk.sort(x, axis=0) * x)),
    "diff": lambda x: sk.diff(x, axis=0, append=x[:1]),
    "einsum": lambda x: sk.einsum("ij,kj,kl->il", x, x, x),
    "diagonals": lambda x: (sk.diagonal(x), sk.trace(x, 1), sk.diag(x[:, 0], 1), sk.diag(x)),
    "einsum of a diagonal": lambda x: sk.einsum("ii->i", x @ x.T),
    "tensordot": lambda x: sk.tensordot(x, x, axes=((0,), (0,))),
    "kron": lambda x: sk.kron(x, x),
    "polygamma": lambda x: sk.digamma(x) + sk.lgamma(x),
}


@pytest.mark.parametrize("name", STAGED)
def test_traced_at_one_size_and_called_at_others(name: str) -> None:
    f = STAGED[name]
    staged = sk.function(f, dynamic=True)
    for n in (5, 2, 7, 1, 4):
        x = sk.asarray(np.random.default_rng(n).integers(-2, 3, (n, 3)).astype("f4"))
        with np.errstate(all="ignore"):
            want, got = f(x), staged(x)
        for a, b in zip(_leaves(want), _leaves(got), strict=True):
            np.testing.assert_array_equal(a, b)
    info = staged.cache_info()
    assert info.traces <= (2 if name in ("diagonals", "polygamma") else 1) + (n == 1)


def _leaves(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, tuple):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [tree.numpy()]


def test_sizes_that_depend_on_data_run_eagerly() -> None:
    f = sk.function(lambda x: sk.unique_counts(x))
    for values in ([1, 2, 1], [3, 3, 3]):
        with pytest.warns(sk.StagekitWarning) if values == [1, 2, 1] else _nothing():
            found = f(sk.asarray(values))
        assert found.values.tolist() == sorted(set(values))
        assert type(found).__name__ == "UniqueCounts"


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *details: object) -> None: ...


# ----- batching rules -----------------------------------------------------------------------------

OURS = [n for n, op in OPS.items() if op.family in ("sorting", "cumulative")] + ["polygamma"]


@pytest.mark.parametrize("name", OURS)
def test_a_batching_rule_is_the_op_on_every_lane(name: str) -> None:
    op = OPS[name]
    assert op.batch is not None
    for sample in samples(name)[::7]:
        args = [ops.asarray(a) for a in sample.operands()]
        others = [ops.flip(a) if name != "searchsorted" else ops.alias(a) for a in args]
        for mapped in {(True,) * len(args), (False,) * (len(args) - 1) + (True,)}:
            seconds = [b if m else a for a, b, m in zip(args, others, mapped, strict=True)]
            pairs = zip(args, seconds, mapped, strict=True)
            given = [ops.stack([a, b]) if m else a for a, b, m in pairs]
            got = op.batch(2, given, mapped, sample.attrs)
            for lane, operands in enumerate((args, seconds)):
                want = op(*operands, **sample.attrs)
                np.testing.assert_array_equal(got[lane], want, err_msg=str(sample))


# ----- einsum -------------------------------------------------------------------------------------


def test_the_cheapest_pair_comes_first() -> None:
    shapes = [(2, 900), (900, 2), (2, 900), (900, 1)]
    xs = [sk.zeros(s) for s in shapes]
    graph = sk.function(lambda *a: sk.einsum("ij,jk,kl,lm->im", *a)).trace(*xs).graph
    assert "900,900" not in str(graph)
    assert graph.count("matmul") == 3


def test_a_sum_over_one_operand_is_taken_first() -> None:
    graph = sk.function(lambda x, y: sk.einsum("ij,jk->k", x, y)).trace(
        sk.zeros((5, 4)), sk.zeros((4, 3))
    ).graph  # fmt: skip
    assert "5,3" not in str(graph)


def test_half_precision_adds_up_in_single() -> None:
    x = sk.ones((1, 3000), dtype=sk.float16)
    assert sk.einsum("ij,kj->ik", x, x).item() == 3000
    assert sk.einsum("ij->i", x).item() == 3000


def test_the_result_is_another_object_than_the_operand() -> None:
    x = sk.ones((2, 2))
    assert sk.einsum("ij->ij", x) is not x
    assert isinstance(products.einsum("ij->ij", x), sk.Tensor)


# ----- errors, eager and staged alike -------------------------------------------------------------

M, V = sk.ones((2, 3)), sk.ones(4)

ERRORS: list[tuple[Callable[[Any, Any], Any], type[Exception], str]] = [
    (lambda m, v: sk.sort(m, axis=2), sk.ShapeError, "sort: axis 2 does not exist"),
    (lambda m, v: sk.argsort(v[0]), sk.ShapeError, "argsort: axis -1 does not exist .* 0 axes"),
    (lambda m, v: sk.topk(v, 5), sk.ShapeError, r"topk: k = 5 of axis 0 of shape \(4,\)"),
    (lambda m, v: sk.topk(v, -1), sk.ShapeError, "topk: k = -1"),
    (lambda m, v: sk.topk(v, 1.5), sk.ArgumentError, "topk: k is 1.5"),
    (lambda m, v: sk.searchsorted(m, v), sk.ShapeError, r"searchsorted: .*\(2, 3\)"),
    (lambda m, v: sk.searchsorted(v, m, side="top"), sk.ArgumentError, "side is 'top'"),
    (lambda m, v: sk.searchsorted(v, m, sorter=[9]), sk.BoundsError, "index 9 is out of bounds"),
    (lambda m, v: sk.cumulative_sum(m), sk.ShapeError, "cumulative_sum: axis is missing"),
    (lambda m, v: sk.cumulative_prod(v[0]), sk.ShapeError, "cumulative_prod: axis is missing"),
    (lambda m, v: sk.cumulative_max(m, axis=5), sk.ShapeError, "cumulative_max: axis 5"),
    (lambda m, v: sk.diff(v, n=-1), sk.ArgumentError, "diff: n is -1"),
    (lambda m, v: sk.diff(m, prepend=v), sk.ShapeError, "concat: axis 1 does not exist"),
    (lambda m, v: sk.nonzero(v[0]), sk.ShapeError, "nonzero: a 0-d tensor"),
    (lambda m, v: sk.nonzero(m, size=-1), sk.ShapeError, "nonzero: .*negative"),
    (lambda m, v: sk.nonzero(m, size=2, fill_value=(1,)), sk.ShapeError, "1 fill values"),
    (lambda m, v: sk.unique(v[:0], size=2), sk.ShapeError, "unique: 2 elements of none"),
    (lambda m, v: sk.einsum("ij,jk", m, m), sk.ShapeError, r"'ij,jk' gives 'j' the sizes \(3, 2\)"),
    (lambda m, v: sk.einsum("ij,j", m), sk.ShapeError, "'ij,j' names 2 operands, 1 are given"),
    (lambda m, v: sk.einsum("i", m), sk.ShapeError, "names 1 axes in 'i', the operand has 2"),
    (lambda m, v: sk.einsum("ijk...", m), sk.ShapeError, "names 3 axes"),
    (lambda m, v: sk.einsum("ij->ii", m), sk.ShapeError, "has 'i' in the result twice"),
    (lambda m, v: sk.einsum("ij->k", m), sk.ShapeError, "'ij->k' has 'k' in the result"),
    (lambda m, v: sk.einsum("...->", m), sk.ShapeError, "that the result lacks"),
    (lambda m, v: sk.einsum("i$", m), sk.ShapeError, "other signs than letters"),
    (lambda m, v: sk.einsum("ij,kl", m > 0, m > 0), sk.DTypeError, "einsum: bool operands"),
    (lambda m, v: sk.tensordot(m, v, axes=1), sk.ShapeError, r"axes 1 of shapes \(2, 3\) and"),
    (lambda m, v: sk.tensordot(m, v, axes=3), sk.ShapeError, "axes 3 .* do not pair up"),
    (lambda m, v: sk.tensordot(m, m, axes=((0, 0), (0, 0))), sk.ShapeError, "do not pair up"),
    (lambda m, v: sk.vecdot(m, v), sk.ShapeError, r"vecdot: axis -1 of shapes \(2, 3\) and \(4,\)"),
    (lambda m, v: sk.diagonal(v), sk.ShapeError, "diagonal: axis 1 does not exist"),
    (lambda m, v: sk.trace(m, 0, 1, -1), sk.ShapeError, "diagonal: axes 1 and -1 are one"),
    (lambda m, v: sk.diag(v[0]), sk.ShapeError, r"diag: shape \(\) has 0 axes"),
    (lambda m, v: sk.polygamma(-1, v), sk.ArgumentError, "polygamma: n is -1"),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(ERRORS)))
def test_errors_are_one_in_both_stages(k: int) -> None:
    call, kind, text = ERRORS[k]
    with pytest.raises(kind, match=text) as eager:
        call(M, V)
    with pytest.raises(kind) as staged:
        sk.function(call)(M, V)
    assert str(staged.value) == str(eager.value)
    assert eager.value.location.lineno == call.__code__.co_firstlineno  # type: ignore[attr-defined]


@pytest.mark.parametrize("invert", [False, True])
def test_complex_numbers_are_found_without_an_order(invert: bool) -> None:
    x, known = np.array([[1 + 1j, 2], [1 - 1j, complex(NAN, 0)]]), np.array([2, 1 + 1j, NAN])
    expected = np.isin(x, known, invert=invert)

    def found(x: Any, known: Any) -> Any:
        return sk.isin(x, known, invert=invert)

    for run in (found, sk.function(found)):
        assert np.array_equal(run(x, known).numpy(), expected)
    assert sk.isin(2, known).item() and not sk.isin(sk.asarray([1j]), [1, 2]).numpy().any()


def test_a_python_number_takes_the_type_of_what_it_is_sought_in() -> None:
    x = sk.asarray([0, 7], dtype=sk.uint64)
    for f in (sk.isin, sk.function(sk.isin)):
        assert f(x, 7).tolist() == [False, True]
        assert f(7, x).item() is True
        assert f(3, 4).item() is False
