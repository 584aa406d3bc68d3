"""Which Variables are updated in place: where it is right, it is done; elsewhere bits are kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk

pytest.importorskip("llvmlite")

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")

N = 37
RANDOM = np.random.default_rng(0)
X = sk.asarray(RANDOM.normal(size=(N, N)).astype(np.float32))
Y = sk.asarray(RANDOM.normal(size=(N, N)).astype(np.float32))


def adam(x: Any, w: Any, m: Any, v: Any) -> None:
    m.assign(0.9 * m + 0.1 * x)
    v.assign(0.99 * v + 0.01 * x * x)
    w.assign(w - 0.01 * m / (sk.sqrt(v) + 1e-8))


def sgd(x: Any, w: Any, *rest: Any) -> Any:
    loss = ((x @ w) ** 2).mean()
    w.assign_sub(0.01 * (x.T @ (x @ w)))
    return loss


def of_another_element(x: Any, w: Any, *rest: Any) -> None:
    w.assign(w[::-1] * 0.5 + x)


def of_all_elements(x: Any, w: Any, *rest: Any) -> None:
    w.assign(w - w.mean(axis=0, keepdims=True))


def of_its_row(x: Any, w: Any, *rest: Any) -> None:
    w.assign(sk.nn.functional.softmax(w, axis=-1) + x)


def a_product_of_itself(x: Any, w: Any, *rest: Any) -> None:
    w.assign(0.1 * (w @ w))


def transposed(x: Any, w: Any, *rest: Any) -> None:
    w.assign(w.T + x)


def swapped(x: Any, w: Any, m: Any, v: Any) -> None:
    old = w.value
    w.assign(m)
    m.assign(old)


def rotated(x: Any, w: Any, m: Any, v: Any) -> None:
    old = w * 0.5
    w.assign(m * 0.5)
    m.assign(v * 0.5)
    v.assign(old)


def read_after(x: Any, w: Any, m: Any, v: Any) -> Any:
    old = w.value
    w.assign(w * 0.5 + x)
    return (old @ x).sum() + w.sum()


def returned_before(x: Any, w: Any, *rest: Any) -> Any:
    old = w.value
    w.assign(w * 0.5 + x)
    return old


def returned_after(x: Any, w: Any, *rest: Any) -> Any:
    w.assign(w * 0.5 + x)
    return w.value


def two_get_one(x: Any, w: Any, m: Any, v: Any) -> None:
    new = w * 0.5 + x
    w.assign(new)
    m.assign(new)


def two_of_one_kernel(x: Any, w: Any, m: Any, v: Any) -> None:
    """Each reads the other's old value."""
    a, b = w + 0.1 * m, m - 0.1 * w
    w.assign(a)
    m.assign(b)


ROWS = sk.asarray([3, 0, 36])


def with_a_check(x: Any, w: Any, *rest: Any) -> Any:
    loss = (x @ sk.take(w, ROWS, axis=0).T).sum()
    w.assign(w * 0.5 + loss * 1e-3)
    return loss


def cumulative(x: Any, w: Any, *rest: Any) -> None:
    w.assign(sk.cumulative_sum(w, axis=0) * 0.1 + x)


def rolled(x: Any, w: Any, *rest: Any) -> None:
    w.assign(sk.roll(w, 1, axis=1) * 0.5 + w * 0.5)


def scattered(x: Any, w: Any, *rest: Any) -> None:
    w.assign(w.at[2].add(x[0]) * 0.5)


def scalar_of_it(x: Any, w: Any, *rest: Any) -> Any:
    w.assign(w * 0.5 + x)
    return (w * w).sum()


def of_a_part(x: Any, w: Any, *rest: Any) -> None:
    w.assign(sk.concat([w[1:], w[:1]], axis=0) * 0.5 + w * 0.25)


def guarded(x: Any, w: Any, *rest: Any) -> None:
    w.assign(sk.where(x > 0, w * 0.5, x))


STEPS: list[Callable[..., Any]] = [
    adam, sgd, of_another_element, of_all_elements, of_its_row, a_product_of_itself, transposed,
    swapped, rotated, read_after, returned_before, returned_after, two_get_one, two_of_one_kernel,
    with_a_check, cumulative, rolled, scattered, scalar_of_it, of_a_part, guarded,
]  # fmt: skip

IN_PLACE = {"adam": 3, "sgd": 1, "a_product_of_itself": 1, "two_of_one_kernel": 2}
# Of `rotated` the three products run side by side, and each reads what another would write.
IN_PLACE |= {"rotated": 0}
IN_PLACE |= {"with_a_check": 1, "guarded": 1}


def variables() -> list[Any]:
    return [sk.Variable(sk.abs(Y) * (k + 1)) for k in range(3)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_staged_step_is_the_eager_step(step: Any) -> None:
    mine, theirs = variables(), variables()
    staged = sk.function(lambda x: step(x, *mine))
    kept: list[tuple[Any, Any]] = []
    for _ in range(8):
        out, expected = staged(X), step(X, *theirs)
        pairs = [*zip(mine, theirs, strict=True), *([(out, expected)] if out is not None else [])]
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-3, atol=1e-4)
        if out is not None:
            kept.append((out, out.numpy().copy()))
        kept += [(v.value, v.numpy().copy()) for v in mine if len(kept) % 3 == 0]
    for held, before in kept:
        np.testing.assert_array_equal(held.numpy(), before)


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_step_that_may_is_in_place(name: str) -> None:
    step = next(step for step in STEPS if step.__name__ == name)
    mine = variables()
    staged = sk.function(lambda x: step(x, *mine))
    for _ in range(4):
        staged(X)
    assert len(staged._cache.direct) == 1
    before = {v._value.ctypes.data for v in mine if v._value.flags.owndata}
    staged(X)
    after = {v._value.ctypes.data for v in mine if v._value.flags.owndata}
    assert len(before & after) == IN_PLACE[name]


def test_a_failed_check_leaves_every_bit_as_it_was() -> None:
    rows = sk.Variable(ROWS)
    w = sk.Variable(X)

    @sk.function
    def step(x: Any) -> Any:
        loss = (x @ sk.take(w, rows, axis=0).T).sum()
        w.assign(w * 0.5 + loss * 1e-3)
        return loss

    for _ in range(4):
        step(X)
    assert len(step._cache.direct) == 1 and w._value.flags.owndata
    array, before = w._value, w.numpy().copy()
    del array
    rows.assign(sk.asarray([3, 99, 1]))
    for _ in range(3):
        with pytest.raises(sk.BoundsError):
            step(X)
        np.testing.assert_array_equal(w.numpy(), before)
    rows.assign(ROWS)
    step(X)
    assert not np.array_equal(w.numpy(), before)


HOLDERS: list[Callable[[Any], Any]] = [
    lambda v: v.value,
    lambda v: v.numpy(),
    lambda v: v.numpy()[3:7].T,
    np.asarray,
    np.from_dlpack,
    lambda v: v[2:5],
    lambda v: memoryview(v.numpy()),
    lambda v: v.value.reshape((-1,)),
]


def test_whatever_holds_a_buffer_keeps_its_bits(full: bool) -> None:
    """Holders taken and dropped at random points of many steps of Adam; so are results."""
    random = np.random.default_rng(1)
    mine, theirs = variables(), variables()
    step = sk.function(lambda x: (adam(x, *mine), mine[0] * 2)[1])
    held: list[tuple[Any, Any]] = []
    moved = 0
    for k in range(1000 if full else 200):
        before = [v._value.ctypes.data for v in mine]
        out = step(X)
        moved += [v._value.ctypes.data for v in mine] != before
        adam(X, *theirs)
        if random.random() < 0.2:
            take = HOLDERS[random.integers(len(HOLDERS))]
            got = take(mine[random.integers(3)])
            held += [(got, np.array(got)), (out, out.numpy().copy())]
            del got
        if held and random.random() < 0.3:
            del held[random.integers(len(held))]
        if k % 20 == 0:
            for holder, bits in held:
                np.testing.assert_array_equal(np.asarray(holder), bits)
    for holder, bits in held:
        np.testing.assert_array_equal(np.asarray(holder), bits)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-4)
    assert 10 < moved < k - 20


def test_threads_step_models_of_their_own(full: bool) -> None:
    """One function and its plan, each thread with arguments and Variables of its own."""
    step = sk.function(lambda x, w, m, v: (adam(x, w, m, v), w.sum())[1])
    alone = variables()
    steps = 400 if full else 60
    expected = [step(X, *alone).item() for _ in range(steps)]
    wrong: list[Any] = []

    def work() -> None:
        mine = variables()
        found = [step(X, *mine).item() for _ in range(steps)]
        if found != expected:
            wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_steps_on_where_its_parent_stood() -> None:
    mine = variables()
    step = sk.function(lambda x: (adam(x, *mine), mine[0].sum())[1])
    for _ in range(4):
        step(X)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(step(X).item()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        theirs = answer.read()
    os.waitpid(child, 0)
    assert theirs == repr(step(X).item())
