"""The values that docs/equality.md defines, eager, staged and in the runtime; the derivatives, in
both stages.

tests/test_ops.py takes its tolerances from the same page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.errors import ShapeError
from stagekit.export import runtime
from stagekit.nn import functional
from stagekit.op import OPS

PAGE = (Path(__file__).parents[1] / "docs" / "equality.md").read_text(encoding="utf-8")
INF, NAN = math.inf, math.nan
STAGES: dict[str, Callable[[Any], Any]] = {"eager": lambda f: f, "staged": sk.function}


@pytest.fixture(params=list(STAGES))
def stage(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return STAGES[request.param]


def same(got: sk.Tensor, want: Any) -> None:
    assert np.array_equal(got.numpy(), np.asarray(want, got.numpy().dtype), equal_nan=True), got


def test_the_page_names_no_op_that_is_not_there() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Op by op")[1], re.MULTILINE)
    assert sorted(named) == sorted(OPS)


# ----- values -------------------------------------------------------------------------------------

X = sk.asarray([-2, -1, 0, 1, 2])
LEAST = np.iinfo(np.int64).min
I8 = sk.asarray([127, -128, 1], dtype=sk.int8)
UNSORTED = sk.asarray([2.0, NAN, -1.0, INF, 0.0, NAN, -INF])
NONE, INFINITE = sk.asarray([[False]]), sk.full((1, 1, 3), INF)
VALUES: list[tuple[Callable[[], Any], Any]] = [
    (lambda: X // 0, [0] * 5),
    (lambda: X % 0, [0] * 5),
    (lambda: sk.full((1,), LEAST) // -1, [LEAST]),
    (lambda: sk.full((1,), LEAST) % -1, [0]),
    (lambda: sk.abs(sk.full((1,), LEAST)), [LEAST]),
    (lambda: X << 64, [0] * 5),
    (lambda: X << -1, [0] * 5),
    (lambda: X >> 64, [-1, -1, 0, 0, 0]),
    (lambda: X >> -1, [-1, -1, 0, 0, 0]),
    (lambda: X ** sk.asarray(-1), [0, -1, 0, 1, 0]),
    (lambda: X ** sk.asarray(-2), [0, 1, 0, 1, 0]),
    (lambda: sk.sum(sk.full((2,), 100, dtype=sk.int8)), 200),
    (lambda: sk.round(sk.asarray([0.5, 1.5, 2.5, -0.5])), [0, 2, 2, -0.0]),
    (lambda: sk.maximum(sk.asarray([NAN, 1.0]), sk.asarray([1.0, NAN])), [NAN, NAN]),
    (lambda: sk.min(sk.asarray([1.0, NAN])), NAN),
    (lambda: sk.argmin(sk.asarray([1.0, NAN, NAN, 0.0])), 1),
    (lambda: sk.asarray([7.0, -7.0]) % -3.0, [-2, -1]),
    (lambda: sk.asarray([1.0, -1.0]) % INF, [1, INF]),
    (lambda: sk.asarray([1.0, -1.0, 0.0]) // 0.0, [INF, -INF, NAN]),
    (lambda: sk.asarray([NAN, 0.0, INF]) ** 0.0, [1, 1, 1]),
    (lambda: 1.0 ** sk.asarray([NAN, INF]), [1, 1]),
    (lambda: sk.sign(sk.asarray([NAN, -0.0, -3.0])), [NAN, 0, -1]),
    (lambda: sk.logsumexp(sk.full((2,), -INF)), -INF),
    (lambda: functional.softmax(sk.full((2,), -INF)), [NAN, NAN]),
    (lambda: functional.log_softmax(sk.full((2,), -INF)), [NAN, NAN]),
    (lambda: functional.softmax(sk.asarray([-INF, 0.0])), [0, 1]),
    (lambda: functional.cross_entropy(sk.asarray([[-INF, 0.0]]), sk.asarray([[0.0, 1.0]])), 0),
    (lambda: functional.attention(sk.ones((1, 1)), sk.ones((1, 1)), sk.ones((1, 1)), NONE), [[0]]),
    (lambda: functional.conv1d(sk.ones((1, 1, 1)), INFINITE, padding=1), [[[NAN]]]),
    (lambda: functional.conv_transpose1d(sk.ones((1, 1, 2)), INFINITE[..., :1], None, 2),
     [[[INF, 0, INF]]]),
    (lambda: functional.max_pool1d(sk.full((1, 1, 2), -INF), 2, 2, 1), [[[-INF, -INF]]]),
    (lambda: I8 + I8, [-2, 0, 2]),
    (lambda: I8 * 2 - 1, [-3, -1, 1]),
    (lambda: -I8, [-127, -128, -1]),
    (lambda: sk.asarray([0, 1], dtype=sk.uint8) - 1, [255, 0]),
    (lambda: sk.astype(sk.asarray([-1, 300]), sk.uint8), [255, 44]),
    (lambda: sk.astype(sk.asarray([1.9, -1.9]), sk.int8), [1, -1]),
    (lambda: sk.astype(sk.asarray([65520.0, 1e-8]), sk.float16), [INF, 0]),
    (lambda: sk.astype(sk.asarray([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38]), sk.bfloat16),
     [1, 1 + 2**-6, INF]),
    (lambda: sk.astype(sk.asarray([0.0, -0.0, NAN, 2.0]), sk.bool), [False, False, True, True]),
    (lambda: sk.astype(sk.asarray([0j, 1j]), sk.bool), [False, True]),
    (lambda: sk.astype(sk.asarray([True, False]), sk.complex64), [1, 0]),
    (lambda: sk.sort(UNSORTED), [-INF, -1, 0, 2, INF, NAN, NAN]),
    (lambda: sk.sort(UNSORTED, descending=True), [INF, 2, 0, -1, -INF, NAN, NAN]),
    (lambda: sk.argsort(sk.asarray([1.0, NAN, 0.0, -0.0, NAN])), [2, 3, 0, 1, 4]),
    (lambda: sk.topk(UNSORTED, 2).values, [INF, 2]),
    (lambda: sk.searchsorted(sk.asarray([0.0, 1.0]), sk.asarray([NAN, -INF])), [2, 0]),
    (lambda: sk.sum(sk.zeros((0, 2)), axis=0), [0, 0]),
    (lambda: sk.prod(sk.zeros((0,))), 1),
    (lambda: sk.mean(sk.zeros((0,))), NAN),
    (lambda: sk.var(sk.zeros((0,))), NAN),
    (lambda: sk.all(sk.zeros((0,))), True),
    (lambda: sk.any(sk.zeros((0,))), False),
    (lambda: sk.logsumexp(sk.zeros((0, 2)), axis=0), [-INF, -INF]),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(VALUES)))
def test_values(k: int, stage: Callable[[Any], Any]) -> None:
    call, want = VALUES[k]
    same(stage(call)(), want)


@pytest.mark.parametrize("k", range(len(VALUES)))
def test_values_in_the_runtime(k: int, tmp_path: Path) -> None:
    call, want = VALUES[k]
    sk.export.save(tmp_path / "f", call)
    same(sk.asarray(runtime.load(tmp_path / "f")()), want)


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_there_is_no_extremum_of_nothing(name: str, stage: Callable[[Any], Any]) -> None:
    with pytest.raises(ShapeError, match=f"{name}: axis 0 .* is empty"):
        stage(lambda x: getattr(sk, name)(x, axis=0))(sk.zeros((0, 2)))


# ----- derivatives --------------------------------------------------------------------------------

# (function of one tensor, its argument, the gradient of the sum of its result)
DERIVATIVES: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (sk.abs, [0.0, -0.0, -1.0], [0, 0, -1]),
    (functional.relu, [0.0, -1.0, 2.0], [0, 0, 1]),
    (lambda x: sk.hypot(x, 0.0), [0.0, -2.0], [0, -1]),
    (lambda x: functional.normalize(x, axis=0, eps=1.0), [0.0, 0.0], [1, 1]),
    (functional.hardtanh, [-1.0, 1.0, 0.5], [0, 0, 1]),
    (lambda x: 6 * functional.hardsigmoid(x), [-3.0, 3.0, 0.5], [0, 0, 1]),
    (lambda x: functional.leaky_relu(x, 0.5), [0.0, 1.0], [0.5, 1]),
    (lambda x: functional.elu(x, 0.5), [0.0, 1.0], [0.5, 1]),
    (lambda x: functional.binary_cross_entropy(x, sk.asarray([1.0, 0.0]), reduction="none"),
     [0.0, 0.0], [0, 1]),
    (lambda x: functional.max_pool1d(x[None], 3, 3), [2.0, 1.0, 2.0], [0.5, 0, 0.5]),
    (lambda x: sk.std(x), [3.0, 3.0], [0, 0]),
    (lambda x: sk.maximum(x, 1.0), [0.0, 1.0, 2.0], [0, 0.5, 1]),
    (lambda x: sk.minimum(1.0, x), [0.0, 1.0, 2.0], [1, 0.5, 0]),
    (lambda x: sk.max(x), [2.0, 1.0, 2.0], [0.5, 0, 0.5]),
    (lambda x: sk.min(x), [2.0, 1.0, 2.0, 1.0], [0, 0.5, 0, 0.5]),
    (lambda x: sk.clip(x, 0.0, 1.0), [-1.0, 0.0, 0.5, 1.0], [0, 0.5, 1, 0.5]),
    (lambda x: x**0.0, [0.0, 2.0, -1.0], [0, 0, 0]),
    (lambda x: x**0, [0.0, 2.0, -1.0], [0, 0, 0]),
    (lambda x: x**1.0, [0.0, 2.0, -1.0], [1, 1, 1]),
    (lambda x: x**2.0, [0.0, 2.0, -1.0], [0, 4, -2]),
    (lambda x: x**0.5, [0.0], [INF]),
    (lambda x: x**0.5, [4.0], [0.25]),
    (lambda y: 0.0**y, [0.0, 1.0, 2.0], [0, 0, 0]),
    (lambda y: (-2.0) ** y, [2.0], [NAN]),
    (lambda x: sk.prod(x), [2.0, 0.0, 3.0], [0, 6, 0]),
    (lambda x: sk.prod(x), [2.0, 0.0, 0.0], [0, 0, 0]),
    (lambda x: sk.logaddexp(x, -INF), [-INF], [0.5]),
    (lambda x: sk.logaddexp(x, INF), [INF], [0.5]),
    (lambda x: sk.copysign(2.0, x), [1.0, -1.0], [0, 0]),
    (lambda x: sk.copysign(x, -2.0), [1.0, -1.0], [-1, 1]),
    (lambda x: sk.logsumexp(x), [-INF, -INF], [0, 0]),
    (lambda x: sk.zeros(2).at[sk.asarray([0, 0, 1])].set(x), [1.0, 2.0, 3.0], [0, 1, 1]),
    (lambda x: sk.full(1, 1.0, dtype="f8").at[sk.asarray([0, 0])].max(x), [1.0, 1.0], [1 / 3] * 2),
    (lambda x: sk.ones(1).at[sk.asarray([0, 0])].min(x), [1.0, 0.5], [0, 1]),
    (lambda x: x.at[sk.asarray([0, 0])].add(1.0), [1.0, 2.0], [1, 1]),
    (lambda x: sk.zeros(1).at[sk.asarray([0, 0])].multiply(x), [0.0, 2.0], [0, 0]),
    (lambda x: sk.ones(1).at[sk.asarray([0, 0])].multiply(x), [0.0, 2.0], [2, 0]),
    (lambda x: sk.floor(x) + sk.sign(x) + sk.round(x), [0.5, -2.5], [0, 0]),
    (lambda x: sk.where(x > 0, sk.log(sk.where(x > 0, x, 1.0)), 0.0), [0.0, 2.0], [0, 0.5]),
    (sk.sigmoid, [1000.0, -1000.0], [0, 0]),
    (sk.softplus, [1000.0, -1000.0], [1, 0]),
    (lambda x: sk.sum(functional.softmax(x) ** 2), [1e4, -1e4], [0, 0]),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(DERIVATIVES)))
def test_derivatives_in_reverse(k: int, stage: Callable[[Any], Any]) -> None:
    f, x, want = DERIVATIVES[k]
    gradient = stage(sk.grad(lambda x: sk.sum(f(x))))(sk.asarray(x, dtype=sk.float64))
    np.testing.assert_allclose(gradient.numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("k", range(len(DERIVATIVES)))
def test_derivatives_forward(k: int) -> None:
    f, x, want = DERIVATIVES[k]
    x = sk.asarray(x, dtype=sk.float64)
    total = lambda x: sk.sum(f(x))
    for i, expected in enumerate(want):
        tangent = sk.zeros_like(x).at[i].set(1.0)
        _, got = sk.jvp(total, (x,), (tangent,))
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_the_products_of_the_others_at_any_order() -> None:
    """d3 prod / dx0 dx1 dx2 = x3, with zeros everywhere."""

    def partial(f: Any, i: int) -> Any:
        gradient = sk.grad(f)
        return lambda x: gradient(x)[i]

    third = partial(partial(partial(lambda x: sk.prod(x), 0), 1), 2)
    assert third(sk.asarray([0.0, 0.0, 0.0, 5.0])).item() == 5.0
