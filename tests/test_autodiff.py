"""Differentiation: both modes, any order, tapes, trees, rules of one's own, checkpoint, errors."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stagekit as sk
from stagekit import tree
from stagekit.errors import (
    ArgumentError,
    BoundsError,
    DTypeError,
    ShapeError,
    StagekitError,
    TraceError,
)
from stagekit.op import current
from stagekit.testing import check_grads
from tests.classes import near

F64 = sk.float64
Function = Callable[..., Any]


def f64(value: Any) -> Any:
    return sk.asarray(value, dtype=F64)


def cubic(x: Any) -> Any:
    return x * x * x


EAGER = current()


@pytest.fixture(autouse=True)
def _nothing_stays_installed() -> Iterator[None]:
    assert current() is EAGER
    yield
    assert current() is EAGER


# ----- the lecture's example ----------------------------------------------------------------------


def lecture(x1: Any, x2: Any) -> Any:
    """Baydin et al. 2018, section 3: f = ln x1 + x1 x2 - sin x2 at (2, 5)."""
    return sk.log(x1) + x1 * x2 - sk.sin(x2)


VALUE, GRADIENT = 11.652071, (5.5, 1.716338)


def close(found: Any, expected: Any) -> bool:
    return bool(np.allclose(np.asarray(found), expected, rtol=0, atol=5e-7))


@pytest.mark.parametrize("staged", [False, True])
def test_lecture_example(staged: bool) -> None:
    f = sk.function(lecture) if staged else lecture
    x1, x2 = f64(2.0), f64(5.0)
    assert close(f(x1, x2), VALUE)
    assert close(sk.grad(f, (0, 1))(x1, x2), GRADIENT)
    pushed = [sk.jvp(f, (x1, x2), t) for t in ((1.0, 0.0), (0.0, 1.0))]
    assert close([y for y, _ in pushed], [VALUE] * 2)
    assert close([t for _, t in pushed], GRADIENT)
    with sk.GradientTape() as tape:
        tape.watch([x1, x2])
        y = f(x1, x2)
    assert close(y, VALUE)
    assert close(tape.gradient(y, [x1, x2]), GRADIENT)


def test_lecture_example_inside_a_staged_function() -> None:
    @sk.function
    def both(x1: Any, x2: Any) -> Any:
        with sk.GradientTape() as tape:
            tape.watch([x1, x2])
            y = lecture(x1, x2)
        return y, tape.gradient(y, [x1, x2]), sk.grad(lecture, (0, 1))(x1, x2)

    for _ in range(2):
        y, by_tape, by_grad = both(f64(2.0), f64(5.0))
        assert close(y, VALUE) and close(by_tape, GRADIENT) and close(by_grad, GRADIENT)


# ----- higher orders ------------------------------------------------------------------------------


def test_grad_three_times_inside_and_outside_a_staged_function() -> None:
    def f(x: Any) -> Any:
        return sk.sin(x) * x**3 + sk.exp(-x)

    def thrice(g: Function) -> Function:
        return sk.grad(sk.grad(sk.grad(g)))

    x = 1.3
    sin, cos = math.sin(x), math.cos(x)
    exact = 6 * sin + 18 * x * cos - 9 * x**2 * sin - x**3 * cos - math.exp(-x)
    found = [
        thrice(f),
        thrice(sk.function(f)),
        sk.function(thrice(f)),
        sk.function(thrice(sk.function(f))),
    ]
    for g in found:
        for _ in range(2):
            assert g(f64(x)).item() == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("outer", ["fwd", "rev"])
@pytest.mark.parametrize("middle", ["fwd", "rev"])
@pytest.mark.parametrize("inner", ["fwd", "rev"])
def test_modes_nest_in_any_order(inner: str, middle: str, outer: str) -> None:
    def derivative(f: Function, mode: str) -> Function:
        if mode == "rev":
            return sk.grad(f)
        return lambda x: sk.jvp(f, (x,), (1.0,))[1]

    f = derivative(derivative(derivative(lambda x: sk.exp(2 * x) + x**4, inner), middle), outer)
    assert f(f64(0.5)).item() == pytest.approx(8 * math.exp(1) + 12, rel=1e-14)


def test_tapes_nest() -> None:
    x = f64(2.0)
    with sk.GradientTape() as outer:
        outer.watch(x)
        with sk.GradientTape() as inner:
            inner.watch(x)
            y = cubic(x)
        first = inner.gradient(y, x)
    assert (first.item(), outer.gradient(first, x).item()) == (12, 12)


def test_a_tape_around_grad_and_jvp_and_back() -> None:
    x = f64(2.0)
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = sk.grad(cubic)(x) + sk.jvp(cubic, (x,), (1.0,))[1]
    assert tape.gradient(y, x).item() == 24

    def by_tape(x: Any) -> Any:
        with sk.GradientTape() as tape:
            tape.watch(x)
            y = cubic(x)
        return tape.gradient(y, x)

    assert sk.grad(by_tape)(x).item() == 12
    assert sk.jvp(by_tape, (x,), (1.0,))[1].item() == 12
    assert sk.grad(sk.grad(by_tape))(x).item() == 6


# ----- perturbation confusion ---------------------------------------------------------------------


def derivative(f: Function) -> Function:
    """d/dx by forward mode."""
    return lambda x: sk.jvp(f, (x,), (1.0,))[1]


D = [pytest.param(sk.grad, id="rev"), pytest.param(derivative, id="fwd")]


@pytest.mark.parametrize("inner", D)
@pytest.mark.parametrize("outer", D)
def test_perturbation_confusion(outer: Any, inner: Any) -> None:
    """Siskind and Pearlmutter 2005: d/dx (x d/dy (x + y)) = 1, and not 2."""
    assert outer(lambda x: x * inner(lambda y: x + y)(f64(1.0)))(f64(1.0)).item() == 1


@pytest.mark.parametrize("inner", D)
@pytest.mark.parametrize("outer", D)
def test_perturbation_confusion_at_the_same_value(outer: Any, inner: Any) -> None:
    """The inner function is differentiated at the outer variable itself."""
    assert outer(lambda x: x * inner(lambda y: x * y)(x))(f64(3.0)).item() == 6
    assert outer(lambda x: inner(lambda y: x * y)(x))(f64(3.0)).item() == 1
    assert outer(lambda x: inner(lambda y: x)(x))(f64(3.0)).item() == 0
    assert outer(lambda x: inner(lambda y: y * y * x)(x))(f64(3.0)).item() == 12


@pytest.mark.parametrize("inner", D)
@pytest.mark.parametrize("outer", D)
def test_perturbation_confusion_of_a_shift(outer: Any, inner: Any) -> None:
    """Manzyuk et al. 2019: a derivative that gives a function, which is differentiated in turn."""

    def shift(u: Any) -> Function:
        return lambda f: lambda x: f(x + u)

    shifted = lambda f: lambda x: outer(lambda u: shift(u)(f)(x))(f64(0.0))
    assert shifted(lambda x: inner(cubic)(x))(f64(2.0)).item() == 12
    twice = shifted(shifted(cubic))
    assert twice(f64(2.0)).item() == 12


@pytest.mark.parametrize("inner", D)
def test_two_tapes_over_one_value_never_mix(inner: Any) -> None:
    x = f64(3.0)
    with sk.GradientTape() as a, sk.GradientTape() as b:
        a.watch(x)
        y = x * x
        b.watch(y)
        z = y * inner(lambda v: v * x)(x)
    assert a.gradient(z, x).item() == 27
    assert b.gradient(z, y).item() == 3
    assert b.gradient is not a.gradient


def test_equal_values_are_different_variables() -> None:
    ones = sk.ones(3)
    a, b = sk.Variable(ones), sk.Variable(ones)
    with sk.GradientTape() as tape:
        y = sk.sum(a * 2 + b * 5)
    g = tape.gradient(y, [a, b, ones])
    assert (g[0].tolist(), g[1].tolist(), g[2]) == ([2] * 3, [5] * 3, None)
    with sk.GradientTape() as tape:
        tape.watch(ones)
        b.assign(ones)
        y = sk.sum(ones * 2 + b * 5)
    g = tape.gradient(y, [ones, b])
    assert (g[0].tolist(), g[1].tolist()) == ([2] * 3, [5] * 3)
    assert [x.item() for x in sk.grad(lambda x, y: x * 2 + y * 3, (0, 1))(f64(1.0), f64(1.0))] == [
        2,
        3,
    ]
    one = f64(1.0)
    assert [x.item() for x in sk.grad(lambda x, y: x * 2 + y * 3, (0, 1))(one, one)] == [2, 3]


# ----- the tape -----------------------------------------------------------------------------------


def test_unconnected_and_integer_sources_give_none() -> None:
    x, y, n = f64([1.0, 2.0]), f64(3.0), sk.asarray([1, 2])
    v, w = sk.Variable(1.0), sk.Variable(2)
    with sk.GradientTape() as tape:
        tape.watch((x, y, n))
        z = sk.sum(x * n) + w
    g = tape.gradient(z, {"x": x, "y": y, "n": n, "v": v, "w": w})
    assert g["x"].tolist() == [1, 2]
    assert [g[k] for k in "ynvw"] == [None] * 4


def test_not_watched_gives_none_and_grad_gives_zeros() -> None:
    x = f64([1.0, 2.0])
    with sk.GradientTape() as tape:
        y = x * x
    assert tape.gradient(y, x) is None
    assert sk.grad(lambda a, b: sk.sum(a), (0, 1))(x, x)[1].tolist() == [0, 0]
    assert sk.vjp(lambda a, b: a, x, x)[1](x)[1].tolist() == [0, 0]
    assert sk.jvp(lambda a: 3 * x, (x,), (x,))[1].tolist() == [0, 0]


def test_a_target_is_summed_also_a_tree_of_them() -> None:
    x = f64([1.0, 2.0])
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = {"a": x * x, "b": [sk.sum(x) * 3, sk.asarray(3)]}
    assert tape.gradient(y, x).tolist() == [5, 7]


def test_sources_keep_their_structure() -> None:
    class Pair(NamedTuple):
        a: Any
        b: Any

    x, v = f64(3.0), sk.Variable(f64(4.0))
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = x * v
    g = tape.gradient(y, Pair({"x": x}, [v, None]))
    assert isinstance(g, Pair)
    assert (g.a["x"].item(), g.b[0].item(), g.b[1]) == (4, 3, None)


def test_a_tape_serves_once_a_persistent_one_often() -> None:
    x = f64(3.0)
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = x * x
    assert tape.gradient(y, x).item() == 6
    for again in (tape.gradient, tape.jacobian):
        with pytest.raises(TraceError, match=r"(?s)used.*persistent=True"):
            again(y, x)
    with sk.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        z = y * y
        assert tape.gradient(y, x).item() == 6
        u = z * x
    assert tape.gradient(z, x).item() == 108
    assert tape.gradient(z, y).item() == 18
    assert tape.gradient(u, x).item() == 5 * 81
    assert tape.jacobian(u, x).item() == 5 * 81


def test_a_used_tape_keeps_nothing_alive() -> None:
    x = f64([1.0, 2.0])
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = sk.exp(x)
        z = sk.sum(y * y)
    held = weakref.ref(y._value)
    tape.gradient(z, x)
    del y, z
    assert held() is None


def test_a_tape_may_be_entered_again() -> None:
    x = f64(3.0)
    tape = sk.GradientTape()
    for power in (2, 3):
        with tape:
            tape.watch(x)
            y = x**power
        assert tape.gradient(y, x).item() == power * 3.0 ** (power - 1)


def test_stop_recording() -> None:
    x = f64(3.0)
    with sk.GradientTape() as outer, sk.GradientTape() as tape:
        outer.watch(x)
        tape.watch(x)
        y = x * x
        with tape.stop_recording():
            hidden = x * y
        z = y + hidden
    assert tape.gradient(z, x).item() == 6
    assert outer.gradient(z, x).item() == 6 + 27


def test_watched_is_the_value_held_then() -> None:
    x = f64([1.0, 2.0])
    with sk.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        x[0] = x[1] * 10
        z = x * x
    assert tape.gradient(y, x).tolist() == [2, 4]
    assert tape.gradient(z, x).tolist() == [0, 2 * 20 * 10 + 4]
    with sk.GradientTape() as tape:
        tape.watch(x)
        x[:] = 7.0
        y = x * x
    assert tape.gradient(y, x).tolist() == [0, 0]


def test_an_intermediate_is_a_source() -> None:
    x = f64(3.0)
    with sk.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        z = sk.exp(y) + y * x
    assert tape.gradient(z, y).item() == pytest.approx(math.exp(9) + 3, rel=1e-14)
    both = tape.gradient(z, [x, y])
    assert both[0].item() == pytest.approx(6 * math.exp(9) + 27, rel=1e-14)
    assert both[1].item() == pytest.approx(math.exp(9) + 3, rel=1e-14)
    assert tape.gradient(y, y).item() == 1
    assert tape.gradient(x, x).item() == 1
    assert tape.gradient(y, z) is None


def test_only_what_the_sources_need_is_pulled() -> None:
    """The gradient for one source does not compute that of the others."""
    pulled = []
    note = sk.custom_vjp(lambda x: x * 1.0)
    note.defvjp(lambda x: (x * 1.0, None), lambda _, ct: (pulled.append(1) or ct,))
    x, v = f64(3.0), sk.Variable(f64(4.0))
    with sk.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = note(v * 2.0) * x
    assert tape.gradient(y, x).item() == 8
    assert pulled == []
    assert tape.gradient(y, v).item() == 6
    assert pulled == [1]


def test_tape_jacobian() -> None:
    x, w = f64([1.0, 2.0]), f64([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with sk.GradientTape(persistent=True) as tape:
        tape.watch((x, w))
        y = w @ (x * x)
        n = f64(1.0) * 2
        nothing = y[:0]
    j = tape.jacobian(y, {"x": x, "w": w, "n": n})
    np.testing.assert_array_equal(j["x"], w.numpy() * 2 * x.numpy())
    assert j["w"].shape == (3, 3, 2)
    np.testing.assert_array_equal(j["w"], np.einsum("ik,l->ikl", np.eye(3), [1.0, 4.0]))
    assert j["n"] is None
    empty = tape.jacobian(nothing, [x, n])
    assert (empty[0].shape, empty[1]) == ((0, 2), None)


def test_variables_are_watched_by_themselves() -> None:
    v = sk.Variable(f64([1.0, 2.0]), name="v")
    with sk.GradientTape() as tape:
        y = sk.sum(v * v) + v[0] + v.value[1] * 10
    assert tape.gradient(y, v).tolist() == [3, 14]


def test_reads_after_an_assign_count_and_the_assign_is_not_differentiated() -> None:
    v, x = sk.Variable(f64(2.0)), f64(5.0)
    with sk.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = v * 10
        v.assign(x * v)
        z = v * v
        v.assign_add(x)
        u = v * 3
        v[...] = x * 7
        w = v * x
    assert tape.gradient(y, [v, x])[0].item() == 10
    assert tape.gradient(z, v).item() == 20
    assert tape.gradient([y, z, u], v).item() == 33
    assert tape.gradient([y, z, u], x) is None
    assert [g.item() for g in tape.gradient(w, [v, x])] == [5, 35]


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_assigns_in_functions_are_not_differentiated_in_either_mode(mode: str) -> None:
    def f(v: Any, x: Any) -> Any:
        before = v * v
        v.assign(v * x)
        return before + 3 * v + x

    v = sk.Variable(f64(2.0))
    by_v, by_x = sk.jacobian(f, (0, 1), mode=mode)(v, f64(5.0))
    # forward mode runs the function once for each input: the second time v is 10
    assert (by_v.item(), by_x.item()) == (7, 1)
    assert v.value.item() == (10 if mode == "rev" else 50)


def test_a_variable_made_inside_is_a_source_of_its_own() -> None:
    x = f64(3.0)
    with sk.GradientTape() as tape:
        tape.watch(x)
        v = sk.Variable(x * 2)
        y = v * v * x
    g = tape.gradient(y, [x, v])
    assert (g[0].item(), g[1].item()) == (36, 36)


def test_a_variable_watched_and_never_read() -> None:
    v = sk.Variable(f64(3.0))
    before = v.value
    with sk.GradientTape() as tape:
        tape.watch(v)
        y = before * 2
    assert tape.gradient(y, v).item() == 2
    assert sk.grad(lambda v: v)(v).item() == 1


def test_tapes_are_per_thread() -> None:
    v = sk.Variable(f64(3.0))
    seen: list[Any] = []

    def work() -> None:
        with sk.GradientTape() as tape:
            y = v * v
        seen.append((current() is EAGER, tape.gradient(y, v).item()))

    with sk.GradientTape() as tape:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        y = v * 2
    assert seen == [(True, 6)]
    assert tape.gradient(y, v).item() == 2


def test_what_a_tape_is_not_for() -> None:
    tape = sk.GradientTape()
    for call in (lambda: tape.gradient(f64(1.0), f64(1.0)), lambda: tape.watch(f64(1.0))):
        with pytest.raises(TraceError, match="recorded nothing"):
            call()
    with tape:
        with pytest.raises(TraceError, match="recording already"):
            tape.__enter__()
        with pytest.raises(DTypeError, match=r"watch: tensor\['x'\] is float"):
            tape.watch({"x": 3.0})
    with pytest.raises(DTypeError, match="gradient: target is float"):
        tape.gradient(3.0, f64(1.0))
    with pytest.raises(DTypeError, match=r"gradient: sources\[0\] is float"):
        tape.gradient(f64(1.0), [1.0])


# ----- tapes that end in another order ------------------------------------------------------------


def test_ending_out_of_order_raises_and_leaves_the_right_interpreter() -> None:
    x = f64(3.0)
    a, b = sk.GradientTape(), sk.GradientTape()
    a.__enter__()
    b.__enter__()
    b.watch(x)
    with pytest.raises(TraceError, match="last first"):
        a.__exit__(None, None, None)
    y = x * x
    b.__exit__(None, None, None)
    assert current() is EAGER
    assert b.gradient(y, x).item() == 6


def test_a_generator_that_yields_inside_a_tape() -> None:
    def steps(x: Any) -> Iterator[Any]:
        with sk.GradientTape() as tape:
            tape.watch(x)
            y = x * x
            yield y
        yield tape.gradient(y, x)

    x = f64(3.0)
    found = list(steps(x))
    assert [v.item() for v in found] == [9, 6]
    assert current() is EAGER

    running = steps(x)
    next(running)
    with pytest.raises(TraceError, match="last first"), sk.GradientTape() as tape:
        tape.watch(x)
        z = cubic(x)
        next(running)
    assert current() is EAGER
    assert tape.gradient(z, x).item() == 27


def test_a_generator_dropped_inside_a_tape() -> None:
    def endless(x: Any) -> Iterator[Any]:
        with sk.GradientTape() as tape:
            tape.watch(x)
            while True:
                yield x * x

    running = endless(f64(3.0))
    next(running)
    with sk.GradientTape():
        del running
        gc.collect()
    assert current() is EAGER


def test_an_error_inside_ends_the_tape() -> None:
    x = f64(3.0)
    with pytest.raises(ZeroDivisionError), sk.GradientTape(), sk.GradientTape():
        1 / 0
    assert current() is EAGER
    with pytest.raises(ZeroDivisionError):
        sk.grad(lambda x: 1 / 0)(x)
    with pytest.raises(ZeroDivisionError):
        sk.jvp(lambda x: 1 / 0, (x,), (x,))


def test_tapes_on_a_stack() -> None:
    x = f64(3.0)
    with contextlib.ExitStack() as stack:
        tapes = [stack.enter_context(sk.GradientTape()) for _ in range(5)]
        tapes[0].watch(x)
        y = x * x
    assert tapes[0].gradient(y, x).item() == 6


# ----- functions of trees -------------------------------------------------------------------------


@dataclass
class Affine:
    w: Any
    b: Any


def affine(p: Affine, x: Any) -> Any:
    return sk.sum((x @ p.w + p.b) ** 2)


W, B, X = np.arange(6.0).reshape(3, 2), np.array([1.0, -1.0]), np.ones((4, 3))


def test_grad_of_trees_and_argnums() -> None:
    p = Affine(f64(W), f64(B))
    residual = 2 * (X @ W + B)
    g = sk.grad(affine)(p, X)
    assert isinstance(g, Affine)
    np.testing.assert_allclose(g.w, X.T @ residual)
    np.testing.assert_allclose(g.b, residual.sum(0))
    both = sk.grad(affine, (1, 0))(p, X)
    np.testing.assert_allclose(both[0], residual @ W.T)
    np.testing.assert_allclose(both[1].w, g.w)
    np.testing.assert_array_equal(sk.grad(affine, -1)(p, X), both[0])
    assert isinstance(sk.grad(affine, (0,))(p, X), tuple)
    np.testing.assert_array_equal(sk.grad(affine)(p, x=X).w, g.w)
    assert sk.grad(lambda x, *, k: x * k)(f64(2.0), k=5).item() == 5


def test_value_and_grad_and_aux() -> None:
    x = f64(3.0)
    value, g = sk.value_and_grad(cubic)(x)
    assert (value.item(), g.item()) == (27, 27)
    with_aux = lambda x: (cubic(x), {"x": x * 2, "name": "a"})
    (value, aux), g = sk.value_and_grad(with_aux, has_aux=True)(x)
    assert (value.item(), aux["x"].item(), aux["name"], g.item()) == (27, 6, "a", 27)
    g, aux = sk.grad(with_aux, has_aux=True)(x)
    assert (g.item(), aux["x"].item()) == (27, 6)
    out, pullback, aux = sk.vjp(with_aux, x, has_aux=True)
    assert (out.item(), pullback(2.0)[0].item(), aux["x"].item()) == (27, 54, 6)
    out, tangent, aux = sk.jvp(with_aux, (x,), (2.0,), has_aux=True)
    assert (out.item(), tangent.item(), aux["x"].item()) == (27, 54, 6)


def test_aux_of_an_inner_gradient_is_differentiated_by_the_outer() -> None:
    def f(x: Any) -> Any:
        g, aux = sk.grad(lambda v: (cubic(v), v * 5), has_aux=True)(x)
        return g + aux

    assert sk.grad(f)(f64(2.0)).item() == 12 + 5


def test_vjp_of_trees() -> None:
    out, pullback = sk.vjp(lambda p, x: {"y": x @ p["w"], "n": [sk.sum(x), 3]}, {"w": W}, X)
    ct = {"n": [10.0, 0], "y": np.ones((4, 2))}  # in another order
    by_p, by_x = pullback(ct)
    np.testing.assert_array_equal(by_p["w"], X.T @ np.ones((4, 2)))
    np.testing.assert_array_equal(by_x, np.ones((4, 2)) @ W.T + 10)
    again = pullback(ct)
    np.testing.assert_array_equal(again[1], by_x)
    assert out["n"][1] == 3


def test_jvp_of_trees() -> None:
    f = lambda p, x: {"y": x @ p["w"], "n": (sk.argmax(x), 3)}
    out, tangent = sk.jvp(f, ({"w": W}, X), ({"w": W * 2}, X * 0))
    np.testing.assert_array_equal(tangent["y"], X @ (2 * W))
    np.testing.assert_array_equal(out["y"], X @ W)
    assert tangent["n"][0].item() == 0
    assert tangent["n"][1] is None


def test_hvp_is_hessian_times_direction() -> None:
    f = lambda p: sk.sum(sk.sin(p["a"]) * p["b"] ** 3)
    p, t = (
        {"a": f64([1.0, 2.0]), "b": f64([0.5, -1.0])},
        {"a": f64([3.0, 1.0]), "b": f64([1.0, 2.0])},
    )
    (got,) = sk.hvp(f, (p,), (t,))
    h = sk.hessian(f)(p)
    for k in "ab":
        want = sum(np.asarray(h[k][j]) @ np.asarray(t[j]) for j in "ab")
        np.testing.assert_allclose(got[k], want, rtol=1e-14)
    got = sk.hvp(lambda x, y: x * x * y, (f64(3.0), f64(5.0)), (1.0, 10.0))
    assert [g.item() for g in got] == [10 + 60, 6]


@pytest.mark.parametrize("mode", ["rev", "fwd", None])
def test_jacobians_of_trees(mode: str | None) -> None:
    f = lambda p, x: {"y": p["w"] @ x, "z": [sk.sum(x * x)]}
    p, x = {"w": f64(W)}, f64([2.0, 3.0])
    j = sk.jacobian(f, mode=mode)(p, x)
    np.testing.assert_array_equal(j["y"]["w"], np.einsum("ik,l->ikl", np.eye(3), x.numpy()))
    assert j["z"][0]["w"].shape == (3, 2)
    j = sk.jacobian(f, (0, 1), mode=mode)(p, x)
    assert isinstance(j["y"], tuple)
    np.testing.assert_array_equal(j["y"][1], W)
    np.testing.assert_array_equal(j["z"][0][1], [4, 6])
    np.testing.assert_array_equal(j["y"][0]["w"], np.einsum("ik,l->ikl", np.eye(3), x.numpy()))


@pytest.mark.parametrize("mode", ["rev", "fwd", None])
def test_jacobians_of_zero_size(mode: str | None) -> None:
    empty = f64(np.zeros((0, 2)))
    assert sk.jacobian(lambda x: x * 2, mode=mode)(empty).shape == (0, 2, 0, 2)
    assert sk.jacobian(lambda x: sk.sum(x), mode=mode)(empty).shape == (0, 2)
    assert sk.jacobian(lambda x: x[:0], mode=mode)(f64([1.0, 2.0])).shape == (0, 2)


def test_hessian_of_trees() -> None:
    h = sk.hessian(lambda p: sk.sum(p["a"] ** 2) * p["b"])({"a": f64([1.0, 2.0]), "b": f64(3.0)})
    np.testing.assert_array_equal(h["a"]["a"], 6 * np.eye(2))
    np.testing.assert_array_equal(h["a"]["b"], [2, 4])
    np.testing.assert_array_equal(h["b"]["a"], [2, 4])
    assert h["b"]["b"].item() == 0
    pair = sk.hessian(lambda x, y: x * x * y, (0, 1))(f64(3.0), f64(5.0))
    assert [[e.item() for e in row] for row in pair] == [[10, 6], [6, 0]]


def test_variables_inside_argument_trees() -> None:
    p = {"w": sk.Variable(f64(W)), "b": sk.Variable(f64(B))}
    f = lambda p, x: sk.sum((x @ p["w"] + p["b"]) ** 2)
    residual = 2 * (X @ W + B)
    g = sk.grad(f)(p, X)
    np.testing.assert_allclose(g["w"], X.T @ residual)
    assert type(g["w"]) is sk.Tensor
    tangent = sk.jvp(lambda p: f(p, X), (p,), ({"w": W * 0, "b": np.ones(2)},))[1]
    assert tangent.item() == pytest.approx(residual.sum())
    h = sk.hessian(lambda b: f({"w": p["w"], "b": b}, X))(p["b"])
    np.testing.assert_allclose(h, 8 * np.eye(2))
    (again,) = sk.hvp(lambda p: f(p, X), (p,), ({"w": W * 0, "b": np.ones(2)},))
    np.testing.assert_allclose(again["b"], [8, 8])


def test_the_name_and_documentation_of_a_gradient() -> None:
    def loss(x: Any) -> Any:
        """The loss."""
        return x

    for make in (sk.grad, sk.value_and_grad, sk.jacobian, sk.hessian, sk.checkpoint):
        made = make(loss)
        assert made.__name__ == f"{make.__name__}(loss)"
        assert made.__doc__ == "The loss."


def test_arguments_are_not_written_through() -> None:
    """The function works on tensors of its own; the caller's stay as they are."""

    def f(x: Any) -> Any:
        x[0] = x[1] * 2
        return sk.sum(x * x)

    x = f64([1.0, 3.0])
    assert sk.grad(f)(x).tolist() == [0, 2 * 6 * 2 + 6]
    assert sk.jacobian(f, mode="fwd")(x).tolist() == [0, 30]
    assert x.tolist() == [1, 3]


# ----- errors -------------------------------------------------------------------------------------


def fails(call: Function, kind: type[StagekitError], *said: str) -> None:
    """`call` raises `kind`, whose text has all of `said` and names a line of this file."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    for part in said:
        assert part in text, text
    assert "fix:" in text
    assert caught.value.location is not None
    assert caught.value.location.filename == __file__


def test_integers_have_no_derivative() -> None:
    n = sk.asarray([1, 2])
    for call, name in (
        (lambda: sk.grad(sk.sum)(n), "grad"),
        (lambda: sk.vjp(sk.sum, n), "vjp"),
        (lambda: sk.jvp(sk.sum, (n,), (n,)), "jvp"),
        (lambda: sk.jacobian(sk.sum)(n), "jacobian"),
        (lambda: sk.jacobian(sk.sum, mode="fwd")(n), "jacobian"),
        (lambda: sk.hvp(sk.sum, (n,), (n,)), "hvp"),
    ):
        fails(call, DTypeError, f"{name}: argument 0 is int64, which has no derivative")
    fails(lambda: sk.grad(cubic)(3), DTypeError, "argument 0 is int64")
    fails(lambda: sk.grad(cubic)(True), DTypeError, "argument 0 is bool")
    fails(lambda: sk.grad(cubic)(sk.Variable(3)), DTypeError, "argument 0 is int64")
    tree = {"w": [1.0, n]}
    fails(lambda: sk.grad(lambda x, p: x, 1)(1.0, tree), DTypeError, "argument 1['w'][1] is int64")
    fails(lambda: sk.grad(lambda p: p)("x"), DTypeError, "argument 0 is str, not a tensor")
    fails(lambda: sk.grad(lambda x, p: x, -1)(1.0, [n]), DTypeError, "argument 1[0] is int64")


def test_grad_needs_a_scalar_float() -> None:
    x = f64([1.0, 2.0])
    fails(
        lambda: sk.grad(cubic)(x), ShapeError, "gives shape (2,), not a scalar", "vjp or jacobian"
    )
    fails(lambda: sk.grad(sk.argmax)(x), DTypeError, "gives int64")
    fails(lambda: sk.grad(lambda x: 3.0)(x), DTypeError, "gives float, not a float tensor")
    fails(lambda: sk.grad(lambda x: (x, x))(x), DTypeError, "gives tuple")
    fails(lambda: sk.jacobian(sk.argmax)(x), DTypeError, "jacobian: the function gives int64")
    fails(lambda: sk.jacobian(lambda x: 3, mode="fwd")(x), DTypeError, "gives int")


def test_cotangents_and_tangents_must_fit() -> None:
    x = f64([1.0, 2.0])
    pullback = sk.vjp(lambda x: {"y": x * x}, x)[1]
    fails(lambda: pullback({"y": 1.0}), ShapeError, "cotangent of shape ()", "shape (2,)")
    fails(lambda: pullback({"z": x}), ShapeError, "cotangent", "{'y': *}")
    fails(lambda: pullback(x), ShapeError, "structure")
    fails(lambda: sk.jvp(cubic, (x,), (1.0,)), ShapeError, "tangent of shape ()", "shape (2,)")
    fails(lambda: sk.jvp(cubic, (x,), (x, x)), ShapeError, "2 tangents for 1 primals")
    fails(lambda: sk.jvp(cubic, (x,), ({"x": x},)), ShapeError, "tangent")
    fails(lambda: sk.hvp(lambda x: sk.sum(x), (x,), (1.0,)), ShapeError, "hvp", "(2,)")


def test_argnums_modes_and_aux() -> None:
    fails(lambda: sk.grad(cubic, 1)(1.0), BoundsError, "argument 1 of 1")
    fails(lambda: sk.grad(cubic, (0, -2))(1.0), BoundsError, "argument -2 of 1")
    fails(lambda: sk.jacobian(cubic, mode="back"), ArgumentError, "mode is 'back'")
    for call in (
        lambda: sk.grad(cubic, has_aux=True)(1.0),
        lambda: sk.vjp(cubic, 1.0, has_aux=True),
        lambda: sk.jvp(cubic, (1.0,), (1.0,), has_aux=True),
    ):
        fails(call, ArgumentError, "has_aux", "(out, aux)")


def test_an_error_inside_names_its_own_line() -> None:
    def wrong(x: Any) -> Any:
        return sk.sum(x @ x)  # the line

    line = wrong.__code__.co_firstlineno + 1
    x = f64(np.ones((2, 3)))
    for call in (
        lambda: sk.grad(wrong)(x),
        lambda: sk.jvp(wrong, (x,), (x,)),
        lambda: sk.grad(sk.checkpoint(wrong))(x),
        lambda: sk.hessian(wrong)(x),
    ):
        with pytest.raises(ShapeError) as caught:
            call()
        assert caught.value.location is not None
        assert caught.value.location[:2] == (__file__, line)


# ----- stop_gradient ------------------------------------------------------------------------------


def test_stop_gradient_in_both_modes_and_orders() -> None:
    f = lambda x: x * sk.stop_gradient(x) ** 2
    assert sk.grad(f)(f64(3.0)).item() == 9
    assert sk.jvp(f, (f64(3.0),), (1.0,))[1].item() == 9
    assert sk.grad(sk.grad(f))(f64(3.0)).item() == 0
    assert sk.hessian(f)(f64(3.0)).item() == 0
    assert (
        sk.grad(lambda x: sk.grad(lambda y: y * y * sk.stop_gradient(x))(x))(f64(3.0)).item() == 6
    )
    assert sk.grad(lambda x: sk.stop_gradient(x))(f64(3.0)).item() == 0
    v = sk.Variable(f64(3.0))
    with sk.GradientTape() as tape:
        y = sk.stop_gradient(v) * v
    assert tape.gradient(y, v).item() == 3


# ----- custom_vjp ---------------------------------------------------------------------------------


def make_vjp(fn: Function, fwd: Function, bwd: Function) -> Any:
    f = sk.custom_vjp(fn)
    f.defvjp(fwd, bwd)
    return f


def clipped(low: float, high: float) -> Any:
    """The identity whose gradient is clipped."""
    return make_vjp(lambda x: x, lambda x: (x, ()), lambda _, ct: (sk.clip(ct, low, high),))


def test_custom_vjp() -> None:
    f = clipped(-1.0, 1.0)
    assert f(3.0) == 3.0
    assert sk.grad(lambda x: f(x) * 5)(f64(3.0)).item() == 1
    assert sk.grad(lambda x: x + f(x) * 5 + x * x)(f64(3.0)).item() == 1 + 1 + 6
    assert sk.grad(lambda x: sk.sum(f(x) * f64([0.5, -9.0])))(f64([1.0, 1.0])).tolist() == [0.5, -1]
    with sk.GradientTape() as tape:
        x = f64(2.0)
        tape.watch(x)
        y = f(x * x) * 0.5
    assert tape.gradient(y, x).item() == 2


def test_custom_vjp_runs_its_forward_once_and_keeps_the_residuals() -> None:
    calls: list[str] = []

    def fwd(x: Any) -> Any:
        calls.append("fwd")
        y = sk.exp(x)
        return y, (y, "text", None)

    def bwd(residuals: Any, ct: Any) -> Any:
        calls.append("bwd")
        assert residuals[1:] == ("text", None)
        return (ct * residuals[0],)

    f = make_vjp(sk.exp, fwd, bwd)
    f(f64(1.0))
    assert calls == []
    assert sk.grad(f)(f64(1.0)).item() == pytest.approx(math.e)
    assert calls == ["fwd", "bwd"]


def test_custom_vjp_to_higher_orders() -> None:
    f = make_vjp(
        lambda x, y: sk.sin(x) * y,
        lambda x, y: (sk.sin(x) * y, (x, sk.cos(x), y)),
        lambda res, ct: (ct * res[1] * res[2], ct * sk.sin(res[0])),
    )
    check_grads(f, (np.array([0.5, 1.0]), np.array([2.0, -1.0])), order=3, modes=["rev"])
    wrong = make_vjp(cubic, lambda x: (cubic(x), x), lambda x, ct: (ct * x,))
    assert [g(f64(5.0)).item() for g in (sk.grad(wrong), sk.grad(sk.grad(wrong)))] == [5, 1]


def test_custom_vjp_of_trees_and_several_results() -> None:
    pulled: list[Any] = []

    def fn(p: Any, n: int, scale: float = 2.0) -> Any:
        return {"y": p["w"] * n, "s": (sk.sum(p["b"]) * scale, sk.argmax(p["w"]))}

    def fwd(p: Any, n: int, scale: float = 2.0) -> Any:
        return fn(p, n, scale), (n, scale, p["b"])

    def bwd(residuals: Any, ct: Any) -> Any:
        n, scale, b = residuals
        pulled.append(ct)
        return {"b": sk.ones_like(b) * ct["s"][0] * scale, "w": ct["y"] * n}, None, None

    f = make_vjp(fn, fwd, bwd)
    p = {"w": f64([1.0, 2.0]), "b": f64([3.0, 4.0])}
    total = lambda p: (lambda r: sk.sum(r["y"]) * 10 + r["s"][0])(f(p, 3, scale=4.0))
    g = sk.grad(total)(p)
    assert (g["w"].tolist(), g["b"].tolist()) == ([30, 30], [4, 4])
    assert len(pulled) == 1  # both results together
    assert pulled[0]["s"][1] is None
    g = sk.grad(lambda p: f(p, 3)["s"][0])(p)
    assert (g["w"].tolist(), g["b"].tolist()) == ([0, 0], [2, 2])
    assert pulled[1]["y"].tolist() == [0, 0]


def test_custom_vjp_with_none_for_zero_and_variables() -> None:
    f = make_vjp(lambda v, x: v * x, lambda v, x: (v * x, x), lambda x, ct: (ct * x * 100, None))
    v = sk.Variable(f64(3.0))
    with sk.GradientTape() as tape:
        x = f64(2.0)
        tape.watch(x)
        y = f(v, x)
    assert y.item() == 6
    g = tape.gradient(y, [v, x])
    assert (g[0].item(), g[1]) == (200, None)


def test_forward_mode_through_custom_vjp_raises_naming_the_function() -> None:
    @sk.custom_vjp
    def steep(x: Any) -> Any:
        return x * 2

    steep.defvjp(lambda x: (x * 2, None), lambda _, ct: (ct * 2,))
    x = f64(1.0)
    for call in (
        lambda: sk.jvp(steep, (x,), (x,)),
        lambda: sk.jacobian(steep, mode="fwd")(x),
        lambda: sk.hvp(steep, (x,), (x,)),
        lambda: sk.hessian(steep)(x),
    ):
        fails(call, TraceError, "steep has only a vjp", "custom_jvp")
    assert sk.jvp(lambda y: steep(x) * y, (x,), (x,))[1].item() == 2


@pytest.mark.parametrize(
    ("bwd", "said"),
    [
        (lambda _, ct: (ct,), ("1 cotangents for 2 arguments",)),
        (lambda _, ct: ct, ("Tensor cotangents for 2 arguments",)),
        (lambda _, ct: (ct, ct, ct), ("3 cotangents for 2 arguments",)),
        (lambda _, ct: (ct, sk.ones(3)), ("cotangent of shape (3,)", "shape (2,)")),
        (lambda _, ct: ({"a": ct}, ct), ("cotangent", "structure")),
    ],
)
def test_cotangents_of_custom_vjp_must_fit(bwd: Any, said: tuple[str, ...]) -> None:
    def product(x: Any, y: Any) -> Any:
        return x * y

    f = make_vjp(product, lambda x, y: (x * y, None), bwd)
    x = f64([1.0, 2.0])
    fails(lambda: sk.grad(lambda x: sk.sum(f(x, x)))(x), ShapeError, "product: ", *said)


def test_wrong_use_of_custom_rules() -> None:
    f, g = sk.custom_vjp(cubic), sk.custom_jvp(cubic)
    x = f64(1.0)
    fails(lambda: f(x), TraceError, "cubic has no vjp", "defvjp")
    fails(lambda: g(x), TraceError, "cubic has no jvp", "defjvp")
    f.defvjp(lambda x: x, lambda _, ct: (ct,))
    fails(lambda: sk.grad(f)(x), ArgumentError, "cubic: fwd gives Tensor", "(out, residuals)")
    g.defjvp(lambda p, t: t[0])
    fails(lambda: sk.grad(g)(x), ArgumentError, "cubic: its rule gives Tensor", "(out, tangent)")
    g.defjvp(lambda p, t: (p[0], sk.ones(3)))
    fails(lambda: sk.jvp(g, (x,), (x,)), ShapeError, "cubic: a tangent of shape (3,)")
    g.defjvp(lambda p, t: (p[0], (t[0], t[0])))
    fails(lambda: sk.jvp(g, (x,), (x,)), ShapeError, "cubic: the tangent")
    h = sk.custom_jvp(lambda x, *, k: x)
    h.defjvp(lambda p, t: (p[0], t[0]))
    fails(lambda: h(x, k=2), ArgumentError, "k cannot be given by position")
    assert f.__name__ == g.__name__ == "cubic"


# ----- custom_jvp ---------------------------------------------------------------------------------


def test_custom_jvp_in_both_modes_and_orders() -> None:
    @sk.custom_jvp
    def softer(x: Any) -> Any:
        return sk.log(1 + sk.exp(x))

    @softer.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return softer(x), t * sk.sigmoid(x)

    check_grads(softer, (np.array([0.5, -2.0]),), order=3)
    assert softer(0.0) is not None

    @sk.custom_jvp
    def tripled(x: Any) -> Any:
        return x * x

    tripled.defjvp(lambda p, t: (p[0] * p[0], 3 * p[0] * t[0]))
    x = f64(2.0)
    assert sk.grad(tripled)(x).item() == sk.jvp(tripled, (x,), (1.0,))[1].item() == 6
    assert sk.grad(sk.grad(tripled))(x).item() == 3


def test_custom_jvp_tangents_of_what_is_no_tensor() -> None:
    seen: list[Any] = []

    @sk.custom_jvp
    def f(p: Any, k: float, n: int, name: str) -> Any:
        return p["x"] * k * n, p["i"]

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (p, k, n, name), (t, tk, tn, tname) = primals, tangents
        seen.append((tk, tn, tname))
        return f(p, k, n, name), (t["x"] * k * n + tk, t["i"])

    p = {"x": f64([1.0, 2.0]), "i": sk.asarray([1, 2])}
    out, tangent = sk.jvp(lambda x: f({**p, "x": x}, 2.0, n=3, name="a"), (p["x"],), (p["x"],))
    assert (out[0].tolist(), tangent[0].tolist(), tangent[1].tolist()) == ([6, 12], [6, 12], [0, 0])
    assert sk.grad(lambda x: sk.sum(f({**p, "x": x}, 2.0, 3, "a")[0]))(p["x"]).tolist() == [6, 6]
    assert set(seen) == {(0.0, None, None)}


def test_a_custom_rule_runs_once_for_several_results() -> None:
    calls: list[int] = []

    @sk.custom_jvp
    def f(x: Any) -> Any:
        return x * 2, x * 3, x * 4

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        calls.append(1)
        return f(*primals), tuple(tangents[0] * k for k in (2, 3, 4))

    x = f64(1.0)
    assert [t.item() for t in sk.jvp(f, (x,), (x,))[1]] == [2, 3, 4]
    assert calls == [1]
    assert sk.grad(lambda x: sum(f(x)))(x).item() == 9
    assert calls == [1, 1]


# ----- checkpoint ---------------------------------------------------------------------------------


def identical(a: Any, b: Any) -> bool:
    """Equal to the bit, leaf by leaf."""
    xs, ys = ([x.numpy().tobytes() for x in tree.leaves(t)] for t in (a, b))
    return xs == ys


def draw(*shape: int, seed: int = 0) -> Any:
    return sk.asarray(np.random.default_rng([seed, *shape]).normal(size=shape).astype("f4"))


def block(x: Any, w: Any, b: Any) -> Any:
    h = sk.tanh(x @ w + b)
    return h * sk.sigmoid(h) + x, sk.sum(h * x)


def test_checkpoint_gives_the_same_bits_with_several_results() -> None:
    args = draw(4, 5), draw(5, 5), draw(5)

    def loss(f: Function) -> Function:
        def total(*args: Any) -> Any:
            y, s = f(*args)
            return sk.sum(y * y) * s + s

        return total

    plain, recomputed = loss(block), loss(sk.checkpoint(block))
    assert identical(plain(*args), recomputed(*args))
    g, h = (sk.grad(f, (0, 1, 2))(*args) for f in (plain, recomputed))
    assert identical(g, h)
    g, h = (sk.hvp(f, args, args) for f in (plain, recomputed))
    np.testing.assert_allclose(g[1], h[1], rtol=1e-4)
    for f in (plain, recomputed):
        out, tangent = sk.jvp(f, args, args)
        assert identical([out, tangent], list(sk.jvp(plain, args, args)))


def test_checkpoint_gives_the_same_bits_where_weights_are_shared() -> None:
    """The cotangents of a weight used in many steps are added in the same order."""
    w, xs = draw(16, 16), [draw(4, 16, seed=k) for k in range(6)]

    def step(h: Any, x: Any) -> Any:
        return sk.tanh((h @ w) * 0.3 + sk.sin(x @ w) + h)

    def loss(step: Function) -> Function:
        def total() -> Any:
            h = xs[0]
            for x in xs[1:]:
                h = step(h, x) + step(x, h)
            return sk.sum(h * h) + sk.sum(w * w)

        return total

    found = []
    for f in (loss(step), loss(sk.checkpoint(step))):
        with sk.GradientTape() as tape:
            tape.watch([w, xs])
            y = f()
        found.append(tape.gradient(y, [w, xs]))
    assert identical(*found)


def test_checkpoint_of_any_order_and_mode() -> None:
    f = sk.checkpoint(lambda x, y: sk.sin(x) * sk.exp(y))
    check_grads(f, (np.array([0.5, 1.0]), np.array([0.1, -1.0])), order=3)


def test_checkpoint_sees_what_it_closes_over() -> None:
    x, w, v = f64([1.0, 2.0]), f64([3.0, 4.0]), sk.Variable(f64([5.0, 6.0]))
    runs: list[int] = []

    @sk.checkpoint
    def f(y: Any) -> Any:
        runs.append(1)
        return sk.sum(y * w * v + y * y * x)

    with sk.GradientTape() as tape:
        tape.watch([x, w])
        z = f(x * 2)
    assert runs == [1]
    g = tape.gradient(z, [x, w, v])
    assert runs == [1, 1]
    np.testing.assert_allclose(g[0], 2 * w.numpy() * v.numpy() + 12 * x.numpy() ** 2)
    np.testing.assert_allclose(g[1], 2 * x.numpy() * v.numpy())
    np.testing.assert_allclose(g[2], 2 * x.numpy() * w.numpy())
    assert f(x).item() == pytest.approx((x * w * v + x * x * x).numpy().sum())
    assert sk.grad(lambda x: sk.checkpoint(lambda a: a * x)(x))(f64(3.0)).item() == 6
    assert sk.grad(lambda x: sk.checkpoint(lambda: x * x)())(f64(3.0)).item() == 6
    assert sk.grad(lambda x: sk.checkpoint(lambda a, b: a * b)(x, x))(f64(3.0)).item() == 6
    assert sk.jvp(lambda x: sk.checkpoint(lambda: x * x)(), (f64(3.0),), (1.0,))[1].item() == 6


@pytest.mark.parametrize("as_argument", [False, True])
def test_checkpoint_uses_the_values_that_its_forward_saw(as_argument: bool) -> None:
    """Variables and tensors are written between forward and backward."""
    v, w, x = sk.Variable(f64(3.0)), f64([2.0]), f64(5.0)

    def f(v: Any, w: Any, x: Any) -> Any:
        return sk.sum(sk.exp(v * w) * x)

    inner = sk.checkpoint(f) if as_argument else sk.checkpoint(lambda: f(v, w, x))
    with sk.GradientTape() as tape:
        tape.watch([w, x])
        y = inner(v, w, x) if as_argument else inner()
        v.assign(100.0)
        w[0] = 200.0
        x[...] = 300.0
    g = tape.gradient(y, [v, w, x])
    e = math.exp(6)
    assert [float(p.numpy().item()) for p in g] == pytest.approx([10 * e, 15 * e, e])


@pytest.mark.parametrize("wrap", [sk.checkpoint, lambda f: f], ids=["checkpoint", "plain"])
@pytest.mark.parametrize("as_argument", [False, True])
def test_checkpoint_of_a_function_that_assigns(wrap: Any, as_argument: bool) -> None:
    """The assignment happens once, is not differentiated, and reads after it count."""
    v, x = sk.Variable(f64(2.0)), f64(5.0)

    def f(v: Any, x: Any) -> Any:
        before = v * x
        v.assign(v * x)
        return before + v * v

    inner = wrap(f) if as_argument else wrap(lambda v_, x: f(v, x))
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = inner(v, x) * v
    assert (y.item(), v.value.item()) == (1100, 10)
    g = tape.gradient(y, [v, x])
    assert [p.item() for p in g] == [(5 + 20) * 10 + 110, 2 * 10]
    assert v.value.item() == 10
    v = sk.Variable(f64(2.0))
    inner = wrap(lambda x: f(v, x))
    _, pushed = sk.jvp(lambda v, x: inner(x) * v, (v, x), (1.0, 0.0))
    assert pushed.item() == (5 + 20) * 10 + 110


def test_checkpoint_of_a_function_that_writes_outside() -> None:
    for wrap in (sk.checkpoint, lambda f: f):
        x, y = f64([1.0, 2.0]), f64([0.0, 0.0])

        def f(x: Any, y: Any = y) -> Any:
            y[0] = x[0] * x[1]
            local = x * 0.0
            local[1] = y[0] * 3
            return local

        with sk.GradientTape() as tape:
            tape.watch(x)
            z = sk.sum(wrap(f)(x)) + y[0] * y[0]
        assert (z.item(), y.tolist()) == (10, [2, 0])
        assert tape.gradient(z, x).tolist() == [14, 7]
        assert y.tolist() == [2, 0]


def test_checkpoint_takes_the_branch_that_its_forward_took() -> None:
    """Values leave to Python as they were, also where they are written before the backward."""
    v, w = sk.Variable(f64(2.0)), sk.asarray(3)

    @sk.checkpoint
    def f(v: Any, x: Any) -> Any:
        return x * v if v.item() < 5 and w > 2 else x * 1000.0

    with sk.GradientTape() as tape:
        x = f64(7.0)
        tape.watch(x)
        y = f(v, x)
        v.assign(50.0)
        w[...] = 0
    assert [g.item() for g in tape.gradient(y, [x, v])] == [2, 7]


def test_numpy_in_a_checkpoint_is_refused_as_without_it() -> None:
    x = f64([1.0, 2.0])

    def f(x: Any) -> Any:
        return sk.sum(x * np.asarray(x * 2.0))

    for g in (f, sk.checkpoint(f)):
        fails(lambda: sk.grad(g)(x), TraceError, "NumPy would lose the derivative")
        fails(lambda: sk.jvp(g, (x,), (x,)), TraceError, "NumPy would lose the derivative")
    constant = sk.checkpoint(lambda x: sk.sum(x * np.asarray(sk.stop_gradient(x) + sk.ones(2))))
    assert sk.grad(constant)(x).tolist() == [2, 3]


def test_numpy_in_a_function_with_its_own_derivative() -> None:
    f = make_vjp(
        lambda x: sk.asarray(np.exp(np.asarray(x))),
        lambda x: (sk.asarray(np.exp(np.asarray(x))), x),
        lambda x, ct: (ct * sk.exp(x),),
    )
    assert sk.grad(f)(f64(1.0)).item() == pytest.approx(math.e)


def test_checkpoints_nest() -> None:
    v = sk.Variable(f64(2.0))
    inner = sk.checkpoint(lambda x: sk.sin(x) * v)
    outer = sk.checkpoint(lambda x: inner(inner(x)) * v)
    plain = lambda x: sk.sin(sk.sin(x) * v) * v * v
    for f in (outer, plain):
        with sk.GradientTape() as tape:
            x = f64(0.7)
            tape.watch(x)
            y = f(x)
            v.assign(2.0 + 0 * v)
        found = [g.item() for g in tape.gradient(y, [x, v])]
        inner_sin, slope = math.sin(0.7), math.cos(2 * math.sin(0.7))
        by_x, by_v = 8 * slope * math.cos(0.7), 4 * math.sin(2 * inner_sin) + 4 * slope * inner_sin
        assert found == pytest.approx([by_x, by_v])
    with sk.GradientTape() as tape:
        x = f64(0.7)
        tape.watch(x)
        y = outer(x)
    v.assign(100.0)
    assert [g.item() for g in tape.gradient(y, [x, v])] == pytest.approx(found)


def test_checkpoint_keeps_what_is_no_tensor_and_what_is_returned_unchanged() -> None:
    v, x = sk.Variable(f64(2.0)), sk.asarray(1.5, dtype=sk.float16)

    @sk.checkpoint
    def f(x: Any, k: float, n: Any, flag: bool = False) -> Any:
        assert type(k) is float and flag
        return {"y": x * k, "v": v, "x": x, "n": n, "same": n + 1, "text": "t"}

    n = sk.asarray([1, 2])
    with sk.GradientTape() as tape:
        tape.watch(x)
        out = f(x, 2.0, n, flag=True)
        y = out["y"] * out["x"] * out["v"]
    assert out["v"] is v and out["x"] is x and out["n"] is n and out["text"] == "t"
    assert out["y"].dtype == sk.float16
    assert out["same"].tolist() == [2, 3]
    g = tape.gradient(y, [x, v])
    assert [p.item() for p in g] == [2 * 2 * 1.5 * 2, 4.5]


def test_a_custom_function_inside_a_checkpoint() -> None:
    f = clipped(-1.0, 1.0)
    v = sk.Variable(f64(3.0))
    g = sk.checkpoint(lambda x: f(v * 1.0) * f(v) * x)
    with sk.GradientTape() as tape:
        x = f64(0.25)
        tape.watch(x)
        y = g(x)
        v.assign(50.0)
    assert [p.item() for p in tape.gradient(y, [x, v])] == [9, 1.5]


def live_at_the_end(every: int | None) -> tuple[int, list[Any]]:
    """Buffers of 64 layers that live when their forward has ended, and the gradients."""
    weights = [draw(8, 8, seed=k) * 0.3 for k in range(64)]
    made: list[weakref.ref[Any]] = []

    def layer(x: Any, w: Any) -> Any:
        for step in (lambda x: x @ w, sk.tanh, lambda x: x * 1.1 + 0.1):
            x = step(x)
            made.append(weakref.ref(x._value))
        return x

    def chain(x: Any, *ws: Any) -> Any:
        for w in ws:
            x = layer(x, w)
        return x

    with sk.GradientTape() as tape:
        tape.watch(weights)
        x, group = draw(4, 8), every or 64
        for k in range(0, 64, group):
            f = chain if every is None else sk.checkpoint(chain)
            x = f(x, *weights[k : k + group])
        y = sk.sum(x * x)
    gc.collect()
    live = sum(ref() is not None for ref in made)
    return live, tape.gradient(y, weights)


def test_checkpoint_frees_what_is_inside() -> None:
    kept, gradients = live_at_the_end(None)
    freed, same = live_at_the_end(8)
    assert kept >= 3 * 64
    assert freed * 4 <= kept
    assert freed <= 8
    assert identical(gradients, same)


def test_checkpoint_inside_a_staged_function() -> None:
    w, x = draw(5, 5), draw(4, 5)
    f = lambda x, w: sk.sum(block(x, w, sk.ones(5))[0])
    plain = sk.grad(f, (0, 1))(x, w)
    for staged in (
        sk.function(sk.grad(sk.checkpoint(f), (0, 1))),
        sk.grad(sk.function(sk.checkpoint(f)), (0, 1)),
    ):
        for _ in range(2):
            assert near(staged(x, w), plain)


# ----- across the border of a staged function -----------------------------------------------------


def sine(x: Any) -> Any:
    """sin with ten times its derivative."""
    return TENFOLD(x * x)


TENFOLD = make_vjp(sk.sin, lambda x: (sk.sin(x), sk.cos(x)), lambda c, ct: (10 * ct * c,))
SLOPED = sk.custom_jvp(sk.sin)
SLOPED.defjvp(lambda p, t: (sk.sin(p[0]), t[0] * sk.cos(p[0]) * 10))
CAPTURED = sk.Variable(f64([0.5, -1.5]))


def by_tape(f: Function) -> Function:
    def gradient(x: Any) -> Any:
        with sk.GradientTape() as tape:
            tape.watch(x)
            y = sk.sum(f(x))
        return tape.gradient(y, [x, CAPTURED])

    return gradient


BORDER: dict[str, tuple[Function, Function]] = {
    "grad of custom_vjp": (lambda f: sk.grad(lambda x: sk.sum(f(x))), sine),
    "grad of custom_jvp": (lambda f: sk.grad(lambda x: sk.sum(f(x))), lambda x: SLOPED(x * x)),
    "jvp of custom_jvp": (lambda f: lambda x: sk.jvp(f, (x,), (x,)), lambda x: SLOPED(x * x)),
    "grad of checkpoint": (
        lambda f: sk.grad(lambda x: sk.sum(f(x))), sk.checkpoint(lambda x: sk.exp(x) * x),
    ),
    "jvp of checkpoint": (
        lambda f: lambda x: sk.jvp(f, (x,), (x,)), sk.checkpoint(lambda x: sk.exp(x) * x),
    ),
    "hessian": (lambda f: sk.hessian(lambda x: sk.sum(f(x))), lambda x: x**3 * sk.sum(x)),
    "jacobian rev": (lambda f: sk.jacobian(f, mode="rev"), lambda x: x * sk.flip(x)),
    "jacobian fwd": (lambda f: sk.jacobian(f, mode="fwd"), lambda x: x * sk.flip(x)),
    "hvp": (
        lambda f: lambda x: sk.hvp(lambda v: sk.sum(f(v)), (x,), (x,)), lambda x: sk.sin(x) * x,
    ),
    "stop_gradient": (
        lambda f: sk.grad(lambda x: sk.sum(f(x))), lambda x: x * sk.stop_gradient(x),
    ),
    "tape and a captured Variable": (by_tape, lambda x: x * CAPTURED * CAPTURED),
    "tape and checkpoint": (by_tape, sk.checkpoint(lambda x: sk.exp(x * CAPTURED))),
    "grad of grad": (
        lambda f: sk.grad(lambda x: sk.sum(sk.grad(lambda y: sk.sum(f(y)))(x) ** 2)),
        lambda x: sk.tanh(x) * x,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BORDER)
def test_derivatives_inside_outside_and_across(name: str) -> None:
    """The derivative of a staged function, a staged derivative, and both, are the eager one."""
    derive, f = BORDER[name]
    x = f64([0.7, 1.3])
    eager = derive(f)(x)
    for staged in (
        derive(sk.function(f)),
        sk.function(derive(f)),
        sk.function(derive(sk.function(f))),
    ):
        for _ in range(2):
            for a, b in zip(tree.leaves(staged(x)), tree.leaves(eager), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("mode", ["rev", "fwd"])
@pytest.mark.parametrize("staged", ["eager", "staged", "staged checkpoint", "checkpoint of staged"])
def test_an_assign_is_not_differentiated_across_the_border(staged: str, mode: str) -> None:
    """Reads after an assignment inside count toward the Variable that is read outside."""
    wraps: dict[str, Function] = {
        "eager": lambda f: f,
        "staged": sk.function,
        "staged checkpoint": lambda f: sk.function(sk.checkpoint(f)),
        "checkpoint of staged": lambda f: sk.checkpoint(sk.function(f)),
    }
    v, x = sk.Variable(f64(2.0)), f64(5.0)

    def step(x: Any) -> Any:
        before = v * x
        v.assign(v * x)
        return before + v * v

    f = wraps[staged](step)
    for _ in range(3):
        v.assign(f64(2.0))
        if mode == "rev":
            by_v, by_x = sk.vjp(lambda v, x: f(x) * v, v, x)[1](1.0)
        else:
            by_v = sk.jvp(lambda v, x: f(x) * v, (v, x), (1.0, 0.0))[1]
            v.assign(f64(2.0))
            by_x = sk.jvp(lambda v, x: f(x) * v, (v, x), (0.0, 1.0))[1]
        assert (by_v.item(), by_x.item(), v.value.item()) == (360, 20, 10)


# ----- random compositions ------------------------------------------------------------------------

UNARY: list[Function] = [
    sk.sin, sk.cos, sk.tanh, sk.sigmoid, sk.softplus, sk.erf, sk.atan, sk.square, sk.negative,
    lambda x: sk.exp(-x * x), lambda x: sk.sqrt(x * x + 1), lambda x: sk.log(x * x + 1),
    lambda x: 1 / (x * x + 2), lambda x: x[::-1], lambda x: sk.roll(x, 1), lambda x: x - sk.mean(x),
    lambda x: sk.stack([x, x * 2])[1], lambda x: sk.concat([x[1:], x[:1]]), lambda x: x * sk.sum(x),
    lambda x: sk.broadcast_to(sk.sum(x), x.shape), lambda x: sk.repeat(x, 2)[::2],
    lambda x: x.at[0].add(sk.sum(x)), lambda x: x.at[np.array([0, 0, 1])].set(x),
    lambda x: sk.nn.functional.softmax(x), lambda x: sk.reshape(sk.tile(x, 2), (2, -1))[0],
    lambda x: sk.pad(x, (1, 0), "reflect")[:3], lambda x: x @ sk.tril(sk.ones((3, 3), dtype=F64)),
]  # fmt: skip
BINARY: list[Function] = [
    sk.add, sk.subtract, sk.multiply, sk.atan2, sk.logaddexp, sk.hypot,
    lambda x, y: x / (y * y + 1), lambda x, y: sk.where(sk.arange(3) > 0, x, y),
    lambda x, y: sk.matmul(x, y) + x, lambda x, y: sk.power(sk.sigmoid(x) + 0.5, y * 0.1),
]  # fmt: skip

STEPS = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=8,
)
POINTS = st.lists(st.floats(-1.5, 1.5).map(lambda x: round(x, 3) + 0.0137), min_size=6, max_size=6)


def composed(steps: list[tuple[int, int, int]]) -> Function:
    """A program on two vectors of three elements: each step takes earlier values."""

    def program(x: Any, y: Any) -> Any:
        values = [x, y]
        for k, i, j in steps:
            if k < len(UNARY):
                values.append(UNARY[k](values[-1 - i % len(values)]))
            else:
                operands = values[-1 - i % len(values)], values[-1 - j % len(values)]
                values.append(BINARY[k - len(UNARY)](*operands))
        return values[-1]

    return program


def moderate(f: Function, *xs: Any) -> bool:
    """Whether the values stay where differences are accurate."""
    y = f(*xs).numpy()
    return bool(np.all(np.isfinite(y)) and np.all(np.abs(y) < 1e3))


@given(STEPS, POINTS, POINTS)
def test_reverse_is_the_transpose_of_forward(steps: Any, at: Any, along: Any) -> None:
    f = composed(steps)
    xs, ts = [f64(at[:3]), f64(at[3:])], [f64(along[:3]), f64(along[3:])]
    out, tangent = sk.jvp(f, xs, ts)
    ct = f64(np.linspace(-1.0, 1.3, out.size)).reshape(out.shape)
    pulled = sk.vjp(f, *xs)[1](ct)
    lhs = sum((p * t).sum().item() for p, t in zip(pulled, ts, strict=True))
    rhs = (tangent * ct).sum().item()
    scale = sum(abs((p * t).numpy()).sum() for p, t in zip(pulled, ts, strict=True))
    assert lhs == pytest.approx(rhs, rel=1e-10, abs=1e-10 * (1 + scale))


@given(STEPS, POINTS)
def test_gradients_are_differences(steps: Any, at: Any) -> None:
    f = composed(steps)
    xs = [f64(at[:3]), f64(at[3:])]
    if moderate(f, *xs):
        check_grads(lambda x, y: sk.sum(f(x, y)), xs, order=1, rtol=1e-4, atol=1e-4)


@given(STEPS, POINTS)
def test_checkpoint_changes_no_bit(steps: Any, at: Any) -> None:
    f = composed(steps)
    total = lambda g: lambda x, y: sk.sum(g(x, y) * g(y, x))
    xs = [f64(at[:3]), f64(at[3:])]
    plain = sk.value_and_grad(total(f), (0, 1))(*xs)
    again = sk.value_and_grad(total(sk.checkpoint(f)), (0, 1))(*xs)
    assert identical(plain[0], again[0])
    assert identical(plain[1], again[1])


def test_a_value_given_twice_to_a_rule_gets_every_share() -> None:
    @sk.custom_vjp
    def double(x: Any) -> Any:
        return x * 2

    double.defvjp(lambda x: (x * 2, x), lambda saved, ct: (ct * 10 * saved,))

    @sk.custom_vjp
    def product(x: Any, y: Any) -> Any:
        return x * y

    product.defvjp(lambda x, y: (x * y, (x, y)), lambda r, ct: (ct * r[1], ct * r[0]))

    def twice(x: Any) -> Any:
        return double(x) + double(x + 1)

    def square(x: Any) -> Any:
        return product(x, x) + x * x + product(x, x)

    for stage in (lambda fn: fn, sk.function):
        for function, x, want in ((twice, 2.0, 50), (square, 3.0, 18)):
            assert sk.grad(stage(function))(f64(x)).item() == want
            assert stage(sk.grad(function))(f64(x)).item() == want


def test_lists_of_floats_are_rounded_once() -> None:
    def make() -> Any:
        return sk.asarray([-1.2, 0.1], dtype=sk.float64)

    assert make().tolist() == sk.function(make)().tolist() == [-1.2, 0.1]
    assert sk.asarray([0.1]).dtype is sk.float32


def test_a_tape_from_outside_is_refused_inside_a_staged_function() -> None:
    x = f64(2.0)
    for use in (
        lambda tape, y: tape.watch(y),
        lambda tape, y: tape.stop_recording().__enter__(),
        lambda tape, y: tape.gradient(y, x),
    ):

        def f(y: Any, use: Any = use) -> Any:
            use(tape, y)
            return y * y

        with sk.GradientTape() as tape:
            tape.watch(x)
            with pytest.raises(sk.TraceError, match=r"tape from outside .*\n  at test_autodiff"):
                sk.function(f)(x)
