"""Staged functions in threads: first calls at once, tapes of one's own, leaked values refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.op import current

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")


def at_once(n: int, task: Callable[[int], Any]) -> list[Any]:
    """The results of n threads that start together."""
    barrier = threading.Barrier(n)

    def run(k: int) -> Any:
        barrier.wait()
        return task(k)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def test_first_calls_from_8_threads_at_once() -> None:
    for _ in range(5):
        f = sk.function(lambda x: sk.sum(x * x) / x.shape[0])
        results = at_once(8, lambda k, f=f: f(sk.ones(4) * k).item())
        assert results == [float(k * k) for k in range(8)]
        assert f.cache_info().traces == 1 and f.cache_info().currsize == 1


def test_many_signatures_from_many_threads() -> None:
    f = sk.function(lambda x, mode: x * 2 if mode == "twice" else x * 3, max_traces=4)

    def work(k: int) -> None:
        for n in range(1, 30):
            mode = ("twice", "thrice", str(k), str(n))[n % 4]
            out = f(sk.ones(n % 5), mode)
            assert out.tolist() == [2.0 if mode == "twice" else 3.0] * (n % 5)

    at_once(8, work)
    assert f.cache_info().currsize <= 4


def test_each_thread_has_its_own_tape_device_and_interpreter() -> None:
    f = sk.function(lambda x: sk.sum(x**3))

    def work(k: int) -> float:
        x = sk.asarray([float(k)])
        before = current()
        for _ in range(20):
            with sk.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            g = tape.gradient(y, x)
            with sk.device("cpu"):
                assert g.tolist() == [3.0 * k * k]
        assert current() is before
        return float(g.item())

    assert at_once(8, work) == [3.0 * k * k for k in range(8)]


def test_commits_are_whole() -> None:
    a, b = sk.Variable(sk.zeros(100)), sk.Variable(sk.zeros(100))

    @sk.function
    def step(x: Any) -> Any:
        a.assign_add(x)
        b.assign(a * 2)
        return sk.sum(a)

    step(sk.ones(100))
    at_once(4, lambda k: [step(sk.ones(100)) for _ in range(25)])
    assert np.array_equal(b.numpy(), 2 * a.numpy())


def test_a_function_may_be_called_from_its_own_trace_in_another_thread() -> None:
    started: list[Any] = []

    @sk.function
    def f(x: Any, depth: int) -> Any:
        if depth == 1 and not started:
            started.append(None)
            with ThreadPoolExecutor(1) as pool:
                started[0] = pool.submit(f, np.ones(2, np.float32), 0).result(timeout=20).tolist()
        return x * (depth + 1)

    with pytest.warns(sk.StagekitWarning):
        assert f(sk.ones(2), 1).tolist() == [2.0, 2.0]
    assert started == [[1.0, 1.0]]


USES: dict[str, Callable[[Any], Any]] = {
    "add": lambda y: y + 1,
    "reshape": lambda y: y.reshape((2, 1)),
    "index": lambda y: y[0],
    "sum": lambda y: y.sum(),
    "stack": lambda y: sk.stack([y, y]),
    "numpy": lambda y: y.numpy(),
    "repr": lambda y: repr(y),
    "asarray": lambda y: np.asarray(y),
    "bool": lambda y: bool(y[0]),
    "assign": lambda y: sk.Variable(y),
    "setitem": lambda y: y.__setitem__(0, 1.0),
    "shape": lambda y: y + sk.ones(y.shape[0]),
    "where": lambda y: sk.where(sk.asarray([True, False]), y, 0.0),
    "save": lambda y: sk.asarray(y, copy=True),
    "staged": lambda y: sk.function(lambda z: z + 1)(y),
    "grad": lambda y: sk.grad(lambda z: sk.sum(z * z))(y),
}


@pytest.mark.parametrize("name", USES)
def test_a_thread_started_in_a_trace_may_not_touch_its_tensors(name: str) -> None:
    caught: list[BaseException] = []

    def use(y: Any) -> None:
        try:
            USES[name](y)
        except sk.LeakedTensorError as error:
            caught.append(error)

    def f(x: Any) -> Any:
        y = x * 2
        thread = threading.Thread(target=use, args=(y,))
        thread.start()
        thread.join()
        return y

    f.__code__ = f.__code__.replace(co_name="made_here")
    with pytest.warns(sk.StagekitWarning, match=r"`Thread.start` was called at test_threads.py"):
        assert sk.function(f)(sk.ones(2)).tolist() == [2.0, 2.0]
    assert len(caught) == 1
    assert "f32[2]" in str(caught[0])
    assert "made at test_threads.py:" in str(caught[0]) and "in made_here" in str(caught[0])


@pytest.mark.parametrize("name", USES)
def test_a_tensor_of_a_trace_without_values_may_not_be_used_later(name: str) -> None:
    kept: list[Any] = []

    def made_here(x: Any) -> Any:
        kept.append(x * 2)
        return x

    with pytest.warns(sk.StagekitWarning, match="kept"):
        sk.function(made_here).trace(sk.TensorSpec((2,)))
    with pytest.raises(sk.LeakedTensorError, match=r"made at test_threads.py:\d+ in made_here"):
        USES[name](kept[0])
