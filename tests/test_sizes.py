"""Symbolic sizes and numbers: how few traces they cost, and that each gets eager's result."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.symbolic import Expr, maximum, minimum, parse_expr

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")

RNG = np.random.default_rng(0)


def traces(f: Any) -> int:
    return int(f.cache_info().traces)


def values(*shape: int) -> Any:
    return sk.asarray(RNG.standard_normal(shape).astype(np.float32))


def outcome(f: Callable[..., Any], *args: Any) -> Any:
    """The result as nested lists, or the class and first line of the error."""
    try:
        out = f(*args)
    except Exception as error:
        return type(error), str(error).splitlines()[0]
    return sk.asarray(out).tolist() if isinstance(out, sk.Tensor) else out


# ----- counting traces ----------------------------------------------------------------------------


def test_200_batch_sizes_of_a_training_step_cost_two_traces() -> None:
    w, b = sk.Variable(values(8, 3) * 0.1), sk.Variable(sk.zeros(3))

    @sk.function
    def step(x: Any, y: Any) -> Any:
        with sk.GradientTape() as tape:
            logits = x @ w + b
            loss = sk.nn.functional.cross_entropy(logits, y, reduction="sum") / x.shape[0]
        dw, db = tape.gradient(loss, (w, b))
        w.assign_sub(0.1 * dw)
        b.assign_sub(0.1 * db)
        return loss

    for n in RNG.integers(1, 500, 200).tolist():
        x, y = values(n, 8), sk.asarray(RNG.integers(0, 3, n))
        expected = np.asarray(sk.nn.functional.cross_entropy(x @ w + b, y)).item()
        assert math.isclose(step(x, y).item(), expected, rel_tol=1e-5)
    assert traces(step) == 2


def test_two_sizes_that_vary_independently_cost_at_most_three_traces() -> None:
    @sk.function
    def f(x: Any, y: Any) -> Any:
        return sk.sum(x) / x.shape[0] + sk.sum(y) / y.shape[0]

    for n, m in [*RNG.integers(1, 30, (100, 2)).tolist(), (7, 7), (8, 8), (1, 1), (1, 5), (5, 1)]:
        x, y = values(n), values(m)
        assert math.isclose(f(x, y).item(), (x.mean() + y.mean()).item(), abs_tol=1e-5)
    assert traces(f) <= 3


def test_the_same_where_they_meet_in_a_broadcast() -> None:
    f = sk.function(lambda x, y: x[:, None] * y[None, :])
    for n, m in [*RNG.integers(1, 9, (60, 2)).tolist(), (4, 4), (1, 1)]:
        x, y = values(n), values(m)
        assert f(x, y).tolist() == (x[:, None] * y[None, :]).tolist()
    assert traces(f) <= 3


def test_a_relation_of_sizes_costs_one_more_trace() -> None:
    f = sk.function(lambda x, y: x + y, name="f")
    for n, m in [(3, 3), (4, 4), (9, 9), (1, 5), (5, 1), (1, 7), (6, 1), (1, 1), (8, 8)]:
        x, y = values(n), values(m)
        assert f(x, y).tolist() == (x + y).tolist()
    assert traces(f) <= 5
    for n, m in [(3, 4), (5, 2)]:
        x, y = values(n), values(m)
        assert outcome(f, x, y) == outcome(lambda x, y: x + y, x, y)


def test_len_warns_once_and_names_the_line() -> None:
    @sk.function
    def f(x: Any) -> Any:
        return sk.sum(x) / len(x)

    f(values(3))
    with pytest.warns(
        sk.StagekitWarning, match=r"x_0 at test_sizes.py:\d+ in f.*x.shape\[0\]"
    ) as r:
        for n in range(4, 20):
            x = values(n)
            assert math.isclose(f(x).item(), x.mean().item(), abs_tol=1e-5)
    assert len(r) == 1
    assert traces(f) == 17
    assert "x_0 == 4" in str(f.explain())


@pytest.mark.parametrize("kind", [int, float])
def test_200_values_of_a_number_cost_two_traces(kind: type) -> None:
    @sk.function
    def f(x: Any, k: Any) -> Any:
        return x * k + (k * 2 - 1) / 4

    x = values(3)
    for value in RNG.permutation(200).tolist():
        k = kind(value) / 8 if kind is float else kind(value)
        np.testing.assert_allclose(f(x, k).numpy(), (x * k + (k * 2 - 1) / 4).numpy(), rtol=1e-6)
    assert traces(f) == 2


def test_numbers_of_one_value_stay_plain() -> None:
    f = sk.function(lambda x, k: x * k)
    for _ in range(5):
        f(values(3), 2)
    assert traces(f) == 1 and "number" not in str(f.trace(sk.TensorSpec((3,)), 2).graph)


def test_weak_numbers_keep_the_type_of_the_tensor() -> None:
    f = sk.function(lambda x, k: x * k)
    for dtype in (sk.float32, sk.float64, sk.int8):
        for k in (2, 3, 4):
            assert f(sk.ones(2, dtype=dtype), k).dtype == dtype
    assert traces(f) == 6


def test_a_number_too_large_for_the_type_raises_as_in_eager() -> None:
    def f(x: Any, k: Any) -> Any:
        return x + k

    staged = sk.function(f)
    x = sk.ones(2, dtype=sk.int8)
    for k in (1, 2, 3, 300, 4, -200):
        assert outcome(staged, x, k) == outcome(f, x, k)


# ----- arithmetic of sizes and numbers ------------------------------------------------------------

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, n: x.reshape((n + 0, 1)) * (n + 3),
    "multiply": lambda x, n: sk.ones((n * 2,)) * n,
    "floor": lambda x, n: sk.zeros((n // 2 + 1,)) + n // 3,
    "modulo": lambda x, n: sk.zeros((n % 3 + 1,)) + n % 4,
    "divide": lambda x, n: sk.sum(x) * (1 / n),
    "negative": lambda x, n: sk.sum(x) * -n,
    "power": lambda x, n: sk.sum(x) * n**2,
    "reflected": lambda x, n: sk.sum(x) * (100 - n) + 7 // n + 7 % n,
    "divmod": lambda x, n: sk.sum(x) * divmod(n, 4)[0],
    "slice": lambda x, n: x[: n // 2],
    "half": lambda x, n: x[n // 2 :],
    "split": lambda x, n: sk.concat([x[n // 2 :], x[: n // 2]]),
    "arange": lambda x, n: sk.arange(n) + x,
    "full": lambda x, n: sk.full((n, 2), n),
    "tile": lambda x, n: sk.tile(x, 2),
    "reshape": lambda x, n: sk.broadcast_to(x, (3, n)).reshape((n * 3,)),
    "numpy integer": lambda x, n: x * (n * np.int64(2)),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_of_sizes_stays_symbolic(name: str) -> None:
    def f(x: Any) -> Any:
        return ARITHMETIC[name](x, x.shape[0])

    staged = sk.function(f)
    for n in (6, 7, 8, 13, 20, 33):
        x = values(n)
        np.testing.assert_allclose(staged(x).numpy(), f(x).numpy(), rtol=1e-5)
        assert staged(x).dtype == f(x).dtype
    assert traces(staged) == 2


def test_comparisons_are_facts() -> None:
    @sk.function
    def f(x: Any) -> Any:
        n = x.shape[0]
        if n > 10:
            return x * 2
        return x + 1 if n != 3 else x

    for n in (1, 2, 3, 4, 5, 11, 12, 13, 3, 10, 100):
        x = values(n)
        expected = x * 2 if n > 10 else x + 1 if n != 3 else x
        assert f(x).tolist() == expected.tolist()
    assert traces(f) <= 4
    assert "10 < x_0" in str(f.explain())


def test_range_fixes_the_size() -> None:
    @sk.function
    def f(x: Any, k: int) -> Any:
        for _ in range(k):
            x = x * 2
        return x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in (1, 2, 3, 4, 2, 3):
            assert f(sk.ones(2), k).tolist() == [2.0**k] * 2
    assert len(caught) == 1 and "k at test_sizes.py" in str(caught[0].message)
    assert traces(f) == 4


FIXING: dict[str, Callable[[Any], Any]] = {
    "int": lambda n: int(n),
    "float": lambda n: float(n),
    "sqrt": lambda n: n**0.5,
    "math": lambda n: math.sqrt(n),
    "format": lambda n: len(f"{n}"),
    "str": lambda n: len(str(n)),
    "hash": lambda n: {n: 1}[n],
    "index": lambda n: list(range(50))[n],
    "round": lambda n: round(n),
}


FIXING |= {
    "and": lambda n: n & 6,
    "shift": lambda n: (n << 2) + (100 >> n),
    "invert": lambda n: ~n,
    "bits": lambda n: n.bit_length(),
    "bytes": lambda n: len(n.to_bytes(4, "big")),
    "divmod": lambda n: divmod(17, n)[1],
    "modular": lambda n: pow(n, 2, 5),
    "complex": lambda n: (n + 1j).real,
    "fraction": lambda n: float(Fraction(1, 2) + n),
    "decimal": lambda n: float(Decimal(2) * n),
    "real": lambda n: n.real + n.numerator,
    "percent": lambda n: len("%d" % n),  # noqa: UP031
    "repeated list": lambda n: len([1] * n),
    "gcd": lambda n: math.gcd(n, 6),
    "json": lambda n: len(json.dumps([n])),
    "numpy in": lambda n: n in np.arange(4),
    "numpy array": lambda n: float((np.arange(3) * n == n).sum()),
    "numpy scalar": lambda n: float(np.float32(2) * n + np.float64(3) / n),
    "chained": lambda n: 2 < n < 10,
    "string": lambda n: n == "a",
    "ceil": lambda n: math.ceil(n / 2),
}


@pytest.mark.parametrize("name", FIXING)
def test_what_needs_a_machine_integer_is_right_at_every_size(name: str) -> None:
    def f(x: Any) -> Any:
        return x * FIXING[name](x.shape[0])

    staged = sk.function(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in (2, 3, 10, 11, 3, 2):
            x = values(n)
            np.testing.assert_allclose(staged(x).numpy(), f(x).numpy(), rtol=1e-6)


def test_a_size_that_outlives_an_eager_call_is_a_number() -> None:
    kept: list[Any] = []

    @sk.function
    def f(x: Any) -> Any:
        kept.append(x.shape[0])
        return x * 1

    with pytest.warns(sk.StagekitWarning, match="kept"):
        f(values(3))
    f(values(4))
    assert kept == [3, 4] and kept[1] + 1 == 5 and sk.zeros(kept[1]).shape == (4,)


# ----- a trace made at one size is right at another -----------------------------------------------

BY_SIZE: dict[str, Callable[[Any], Any]] = {
    "broadcast": lambda x: x + sk.ones((3,)),
    "broadcast rows": lambda x: x[:, None] * x[None, :],
    "squeeze": lambda x: sk.squeeze(x, axis=0),
    "squeeze kept": lambda x: x[:, None].squeeze(1),
    "max": lambda x: sk.max(x),
    "min axis": lambda x: sk.min(x[:, None], axis=0),
    "argmax": lambda x: sk.argmax(x),
    "mean": lambda x: sk.mean(x),
    "var": lambda x: sk.var(x),
    "sum": lambda x: sk.sum(x),
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "third": lambda x: x[2],
    "slice": lambda x: x[1:],
    "slice to": lambda x: x[:3],
    "slice back": lambda x: x[-2:],
    "slice reversed": lambda x: x[::-1],
    "slice step": lambda x: x[::2],
    "slice both": lambda x: x[1:-1],
    "reshape": lambda x: x.reshape((-1, 2)),
    "reshape flat": lambda x: x.reshape((1, -1)),
    "matmul": lambda x: x @ x,
    "matmul fixed": lambda x: x @ sk.ones((2, 3)),
    "softmax": lambda x: sk.nn.functional.softmax(x),
    "logsumexp": lambda x: sk.logsumexp(x),
    "concat": lambda x: sk.concat([x, sk.ones(2)]),
    "stack": lambda x: sk.stack([x, sk.ones(2)]),
    "roll": lambda x: sk.roll(x, 1),
    "cross": lambda x: sk.where(x > 0, x, sk.zeros((1,))),
    "tril": lambda x: sk.tril(x[:, None] * x[None, :]),
    "take": lambda x: sk.take(x, sk.asarray([0, 1])),
    "broadcast_to": lambda x: sk.broadcast_to(x, (2, 5)),
    "unstack": lambda x: sk.unstack(x)[0],
    "divide": lambda x: sk.sum(x) / x.shape[0],
    "gradient": lambda x: sk.grad(lambda y: sk.sum(y * y) / y.shape[0])(x),
    "gradient max": lambda x: sk.grad(lambda y: sk.max(y))(x),
}
SIZES = (0, 1, 2, 3, 5)


@pytest.mark.parametrize("name", BY_SIZE)
@pytest.mark.parametrize("first", SIZES)
def test_a_trace_of_one_size_is_right_at_the_others(name: str, first: int) -> None:
    f = BY_SIZE[name]
    staged = sk.function(f, dynamic=True)
    for n in (first, *SIZES, first):
        x = values(n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sk.StagekitWarning)
            got, want = outcome(staged, x), outcome(f, x)
        if isinstance(want, tuple):
            assert got == want
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# ----- specs --------------------------------------------------------------------------------------


def test_named_sizes_are_symbolic_from_the_first_trace() -> None:
    @sk.function
    def f(x: Any, y: Any) -> Any:
        return x @ y / x.shape[0]

    n = sk.TensorSpec(("n", "k")), sk.TensorSpec(("k", 2))
    concrete = f.trace(*n)
    assert set(concrete.graph.symbols) == {"n", "k"}
    for shape in ((3, 4), (1, 1), (5, 2), (9, 9)):
        x, y = values(*shape), values(shape[1], 2)
        np.testing.assert_allclose(
            concrete(x, y).numpy(), (x @ y / shape[0]).numpy(), rtol=1e-5, atol=1e-6
        )


def test_captured_sizes_have_names_of_their_own() -> None:
    class Holder:
        pass

    model: Any = Holder()
    model_w = sk.ones(4)
    model.w = sk.ones(3)

    @sk.function
    def f(x: Any) -> Any:
        return sk.sum(model.w) + sk.sum(model_w) * 10 + sk.sum(x) * 100

    for n in range(1, 9):
        model.w, model_w = sk.ones(n), sk.ones(n + 5)
        assert f(sk.ones(n % 3)).item() == n + 10 * (n + 5) + 100 * (n % 3)
    assert traces(f) <= 3


# ----- size expressions as text -------------------------------------------------------------------


def test_a_printed_expression_is_read_as_the_same() -> None:
    """A graph, also one in a file, is its text: `(n - 2) // 2` is not `n - 2 // 2`."""
    n, m = Expr.named("n"), Expr.named("m")
    parts = [n, n - 2, n * 2, n * -1, n * m, n * m + 3, n // 3, (n - 1) % m, maximum(n - 1, m)]
    for a in parts:
        for b in [*parts, Expr.of(2), Expr.of(-3)]:
            for whole in (a // b, a % b, a * b - 1, (a + 1) // (b * 2), minimum(a, b) // 2):
                assert parse_expr(str(whole)) == whole, str(whole)
