"""Staged functions and derivatives in each other, in every order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")

X = sk.asarray(np.asarray([0.5, -1.2, 2.0]))


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-12)


def base(x: Any) -> Any:
    return sk.sum(sk.sin(x) * x**3)


def derivative(order: int, x: Any) -> Any:
    """d^k/dx^k of sin(x) x^3, elementwise, by hand."""
    s, c = np.sin(np.asarray(x)), np.cos(np.asarray(x))
    v = np.asarray(x)
    return [
        s * v**3,
        c * v**3 + 3 * s * v**2,
        -s * v**3 + 6 * c * v**2 + 6 * s * v,
        -c * v**3 - 9 * s * v**2 + 18 * c * v + 6 * s,
    ][order]


def summed(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: sk.sum(f(x))


# ----- the lecture example ------------------------------------------------------------------------


def lecture(x1: Any, x2: Any) -> Any:
    return sk.log(x1) + x1 * x2 - sk.sin(x2)


@pytest.mark.parametrize("stage", [lambda f: f, sk.function], ids=["eager", "staged"])
def test_the_lecture_example(stage: Any) -> None:
    f = stage(lecture)
    point = sk.asarray(2.0, dtype=sk.float64), sk.asarray(5.0, dtype=sk.float64)
    for _ in range(2):
        with sk.GradientTape() as tape:
            tape.watch(point)
            y = f(*point)
        for found in (tape.gradient(y, point), sk.grad(f, argnums=(0, 1))(*point)):
            assert [round(g.item(), 6) for g in found] == [5.5, 1.716338]
        assert round(y.item(), 6) == 11.652071
        out, moved = sk.jvp(f, point, (1.0, 0.0))
        assert (round(out.item(), 6), round(moved.item(), 6)) == (11.652071, 5.5)
        staged_grad = sk.function(sk.grad(f, argnums=(0, 1)))
        assert [round(g.item(), 6) for g in staged_grad(*point)] == [5.5, 1.716338]


# ----- every order of grad and function -----------------------------------------------------------

LAYERS = [
    *("g", "gg", "ggg", "s", "sg", "gs", "sgs", "gsg", "sgsg", "gsgs", "gsgsg"),
    *("sggg", "gggs", "gsgg", "ggsg", "sgsgsg"),
]


@pytest.mark.parametrize("layers", LAYERS)
def test_gradients_of_any_order_inside_outside_and_across(layers: str) -> None:
    f, order = base, 0
    for layer in layers:
        if layer == "s":
            f = sk.function(f)
        else:
            f, order = summed(sk.grad(f)), order + 1
    for _ in range(3):
        close(f(X), np.sum(derivative(order, X)))
        close(f(X * 2), np.sum(derivative(order, X * 2)))


@pytest.mark.parametrize("layers", ["j", "js", "sj", "jsj", "sjsj", "jsg", "gsj", "sjg", "sgj"])
def test_forward_mode_across_the_border(layers: str) -> None:
    def push(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: sk.sum(sk.jvp(f, (x,), (sk.ones_like(x),))[1])

    f, order = base, 0
    for layer in layers:
        if layer == "s":
            f = sk.function(f)
        else:
            f = push(f) if layer == "j" else summed(sk.grad(f))
            order += 1
    for _ in range(3):
        close(f(X), np.sum(derivative(order, X)))


@pytest.mark.parametrize("mode", ["rev", "fwd", None])
def test_jacobian_hessian_and_hvp_of_a_staged_function(mode: Any) -> None:
    f = sk.function(lambda x: sk.sin(x) * x**3)
    for _ in range(2):
        close(sk.jacobian(f, mode=mode)(X), np.diag(derivative(1, X)))
        close(sk.function(sk.jacobian(f, mode=mode))(X), np.diag(derivative(1, X)))
    g = sk.function(base)
    for _ in range(2):
        close(sk.hessian(g)(X), np.diag(derivative(2, X)))
        close(sk.hvp(g, (X,), (sk.ones_like(X),))[0], derivative(2, X))


def test_vjp_and_its_pullback_outside() -> None:
    f = sk.function(lambda x, y: (x * y, sk.sum(x)))
    for _ in range(2):
        (a, b), pullback = sk.vjp(f, X, X + 1)
        close(a, X * (X + 1))
        close(b, sk.sum(X))
        dx, dy = pullback((sk.ones_like(X), sk.asarray(2.0, dtype=sk.float64)))
        close(dx, X + 1 + 2)
        close(dy, X)


# ----- tapes --------------------------------------------------------------------------------------


def test_the_first_call_under_a_tape_and_later_ones() -> None:
    f = sk.function(lambda x: x * x * x)
    for k in range(3):
        x = X + k
        with sk.GradientTape() as tape:
            tape.watch(x)
            y = sk.sum(f(x) * x)
        close(tape.gradient(y, x), 4 * x**3)
    assert f.cache_info()[:2] == (2, 1)
    assert str(f.explain()).count("not watched -> watched") == 1


def test_which_inputs_are_watched_is_part_of_the_key() -> None:
    f = sk.function(lambda x, y: x * y)
    for _ in range(2):
        close(sk.grad(lambda x: sk.sum(f(x, X)))(X * 2), X)
        close(sk.grad(lambda y: sk.sum(f(X * 2, y)))(X), X * 2)
        close(sk.grad(lambda z: sk.sum(f(z, z)))(X), 2 * X)
    text = str(f.explain())
    assert "tape of x: not" in text and "tape of y: not" in text


def test_nested_and_persistent_tapes() -> None:
    f = sk.function(base)
    for _ in range(2):
        with sk.GradientTape(persistent=True) as outer:
            outer.watch(X)
            with sk.GradientTape() as inner:
                inner.watch(X)
                y = f(X)
            first = inner.gradient(y, X)
            total = sk.sum(first)
        close(first, derivative(1, X))
        close(outer.gradient(total, X), derivative(2, X))
        close(outer.gradient(y, X), derivative(1, X))


def test_integer_results_and_unused_inputs() -> None:
    f = sk.function(lambda x, k: (x * 2, sk.argmax(x), k + 1))
    k = sk.asarray(3)
    for _ in range(2):
        with sk.GradientTape() as tape:
            tape.watch(X)
            y, where, n = f(X, k)
        assert (where.item(), n.item()) == (2, 4)
        close(tape.gradient(y, X), np.full(3, 2.0))
        close(sk.grad(lambda x: sk.sum(f(X, k)[0]) + x)(sk.asarray(1.0)), 1.0)


def test_variables_written_under_a_tape() -> None:
    def run(f: Any, v: Any) -> list[Any]:
        found = []
        for _ in range(3):
            with sk.GradientTape() as tape:
                tape.watch(X)
                y = f(X)
            dx, dv = tape.gradient(y, (X, v))
            found.append([y.tolist(), dx.tolist(), dv.tolist(), v.tolist()])
        return found

    def stepping(v: Any) -> Callable[[Any], Any]:
        def step(x: Any) -> Any:
            a = v * x
            v.assign(a * 0.5)
            b = v * v
            v.assign_sub(1.0)
            return sk.sum(a + b * v)

        return step

    results = []
    for stage in (lambda f: f, sk.function):
        v = sk.Variable(sk.ones(3, dtype=sk.float64))
        results.append(run(stage(stepping(v)), v))
    for eager, staged in zip(*results, strict=True):
        for a, b in zip(eager, staged, strict=True):
            close(a, b)
    v = sk.Variable(sk.ones(3, dtype=sk.float64))
    assert "custom" in str(sk.function(stepping(v)).trace(X).graph)


def test_a_variable_made_in_the_call_takes_no_gradient_from_what_it_was_made_of() -> None:
    def f(x: Any) -> Any:
        v = sk.Variable(x * 2)
        v.assign_add(x)
        return sk.sum(v * x)

    staged = sk.function(f)
    for _ in range(2):
        close(sk.grad(f)(X), 3 * X)
        close(sk.grad(staged)(X), 3 * X)
        close(sk.function(sk.grad(f))(X), 3 * X)


def test_forward_mode_through_an_assigned_variable() -> None:
    for stage in (lambda f: f, sk.function):
        v = sk.Variable(sk.ones(3, dtype=sk.float64))

        def f(w: Any, x: Any) -> Any:
            w.assign(w * x)
            return sk.sum(w * x)

        staged = stage(f)
        for _ in range(2):
            v.assign(sk.ones(3, dtype=sk.float64))
            _, moved = sk.jvp(lambda w, x, g=staged: g(w, x), (v, X), (X * 0 + 1, X * 0 + 1))
            close(moved, np.sum(np.asarray(X)) * 2)


def test_a_training_loop_with_the_tape_outside_or_inside() -> None:
    def train(step_of: Callable[[Any, Any], Any]) -> Any:
        w = sk.Variable(sk.zeros(3, dtype=sk.float64))
        step = step_of(w, lambda x: sk.sum((w - x) ** 2))
        for _ in range(5):
            step(X)
        return w

    def outside(w: Any, loss: Any) -> Any:
        staged = sk.function(loss)

        def step(x: Any) -> None:
            with sk.GradientTape() as tape:
                y = staged(x)
            w.assign_sub(0.1 * tape.gradient(y, w))

        return step

    def inside(w: Any, loss: Any, stage: Any = sk.function) -> Any:
        @stage
        def step(x: Any) -> None:
            with sk.GradientTape() as tape:
                y = loss(x)
            w.assign_sub(0.1 * tape.gradient(y, w))

        return step

    eager = functools.partial(inside, stage=lambda f: f)
    expected = train(eager)
    close(train(outside), expected)
    close(train(inside), expected)


# ----- rules of one's own, checkpoints ------------------------------------------------------------


def test_custom_rules_inside_are_used_outside() -> None:
    @sk.custom_vjp
    def double(x: Any) -> Any:
        return x * 2

    double.defvjp(lambda x: (x * 2, x), lambda x, ct: (ct * 10 * x,))

    @sk.custom_jvp
    def triple(x: Any) -> Any:
        return x * 3

    triple.defjvp(lambda primals, tangents: (primals[0] * 3, tangents[0] * 30))
    f, g = sk.function(lambda x: sk.sum(double(x))), sk.function(lambda x: sk.sum(triple(x)))
    for _ in range(2):
        close(f(X) + g(X), 5 * sk.sum(X))
        close(sk.grad(f)(X), 10 * X)
        close(sk.grad(g)(X), np.full(3, 30.0))
        close(sk.function(sk.grad(f))(X), 10 * X)
        close(sk.grad(lambda x: sk.sum(sk.grad(f)(x)))(X), np.full(3, 10.0))
        close(sk.jvp(g, (X,), (sk.ones_like(X),))[1], 90.0)


def test_a_checkpoint_inside_and_around() -> None:
    w = sk.Variable(np.asarray([1.0, 2.0, 3.0]))

    def layer(x: Any) -> Any:
        return sk.sin(x * w) * x

    expected = sk.grad(lambda x: sk.sum(layer(layer(x))))(X)
    inside = sk.function(lambda x: sk.sum(sk.checkpoint(layer)(sk.checkpoint(layer)(x))))
    staged = sk.function(layer)
    again = sk.checkpoint(staged)
    for _ in range(2):
        close(sk.grad(inside)(X), expected)
        close(sk.function(sk.grad(inside))(X), expected)
        close(sk.grad(lambda x: sk.sum(again(again(x))))(X), expected)
        with sk.GradientTape() as tape:
            y = sk.sum(again(X))
        close(tape.gradient(y, w), sk.cos(X * w) * X * X)


def test_stop_gradient_inside() -> None:
    f = sk.function(lambda x: sk.sum(sk.stop_gradient(x) * x))
    for _ in range(2):
        close(sk.grad(f)(X), X)


# ----- sizes and eager calls under a derivative ---------------------------------------------------


def test_derivatives_at_many_sizes_cost_two_traces() -> None:
    f = sk.function(lambda x: sk.sum(x * x) / x.shape[0])
    for n in (3, 4, 5, 1, 9, 2):
        x = sk.arange(n, dtype=sk.float64)
        close(sk.grad(f)(x), 2 * x / n)
    assert f.cache_info().traces == 2


def test_an_eager_call_under_a_tape_keeps_its_gradient() -> None:
    v = sk.Variable(sk.ones(3, dtype=sk.float64))

    @sk.function
    def f(x: Any) -> Any:
        v.assign(v * 2)
        return sk.sum(x * v) * 2 if sk.sum(x).item() > -100 else x

    for k in (2.0, 4.0):
        with sk.GradientTape() as tape:
            tape.watch(X)
            if k == 2.0:
                with pytest.warns(sk.StagekitWarning):
                    y = f(X)
            else:
                y = f(X)
        dx, dv = tape.gradient(y, (X, v))
        close(dx, np.full(3, 2 * k))
        close(dv, 2 * X)


def test_a_staged_call_inside_an_eager_call_under_a_tape() -> None:
    inner = sk.function(lambda x: sk.sin(x))

    @sk.function
    def outer(x: Any) -> Any:
        return inner(x) * sk.sum(x).item()

    with pytest.warns(sk.StagekitWarning):
        outer(X)
    expected = np.cos(np.asarray(X)) * np.sum(np.asarray(X))
    close(sk.grad(lambda x: sk.sum(outer(x)))(X), expected)
    assert inner.cache_info().traces == 1
    close(sk.grad(lambda x: sk.sum(outer(x)))(X), expected)
    assert inner.cache_info().hits == 1
