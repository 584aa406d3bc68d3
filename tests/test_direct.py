"""The direct way of a staged call: who takes it, what sends a call the long way, what both give.

Each graph gets a plan that looks like machine code and calls back (`callback_plan`), so that all
kinds of calls are tried, whatever the code generator makes of their ops.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import callback_plan
import numpy as np
import pytest

import stagekit as sk
from stagekit.kernels.machine import engine
from stagekit.kernels.machine.entry import by_ctypes
from stagekit.settings import config
from stagekit.staged import Function
from stagekit.staging import direct

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")


@pytest.fixture(autouse=True, params=["native", "ctypes"])
def _plans(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ctypes":
        monkeypatch.setattr(direct, "entry", by_ctypes)
    elif not engine.available():
        pytest.skip("could not import 'llvmlite'")
    callback_plan.install(monkeypatch)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that let other threads run."""
    monkeypatch.setattr(callback_plan.CallbackPlan, "shares", True)


def x3(start: float = 1.0) -> Any:
    return sk.asarray([start, start + 1, start + 2], dtype=sk.float32)


@contextmanager
def directly() -> Iterator[None]:
    """Every staged call in the block goes the direct way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Function, "_called", _refuse)
        yield


@contextmanager
def the_long_way() -> Iterator[None]:
    """No plan is called directly in the block."""
    before = callback_plan.CallbackPlan.direct
    yield
    assert callback_plan.CallbackPlan.direct == before


def _refuse(self: Any, arguments: Any) -> Any:
    raise AssertionError(f"{self.name} did not go the direct way")


def ready(f: Any, *args: Any, **kwargs: Any) -> Any:
    """The function, called twice: then its direct way is made."""
    f(*args, **kwargs)
    f(*args, **kwargs)
    return f


# ----- arguments and results ----------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "one": (lambda x: x * 2, (x3(),)),
    "two": (lambda x, y: x - y, (x3(), x3(5))),
    "the same twice": (lambda x, y: x - y, (HELD := x3(), HELD)),
    "no tensor": (lambda: sk.ones(3) * 2, ()),
    "a Variable": (lambda v: v * 2, (sk.Variable(x3()),)),
    "an int": (lambda x, n: x * n, (x3(), 3)),
    "a float": (lambda x, n: x * n, (x3(), 0.5)),
    "a bool": (lambda x, flag: x * 2 if flag else x, (x3(), True)),
    "a string": (lambda x, mode: x * 2 if mode == "twice" else x, (x3(), "twice")),
    "None": (lambda x, mask: x * 2 if mask is None else x, (x3(), None)),
    "a type": (lambda x, t: x.astype(t), (x3(), sk.float64)),
    "a function": (lambda x, f: f(x), (x3(), sk.exp)),
    "a tuple": (lambda p: p[0] * p[1], ((x3(), x3(4)),)),
    "a list": (lambda p: p[0] * p[1][0], ([x3(), (x3(4),)],)),
    "a dict": (lambda p: p["a"] * p["b"]["c"], ({"a": x3(), "b": {"c": x3(4)}},)),
    "an empty tuple": (lambda x, p: x * 2, (x3(), ())),
    "arguments": (lambda *xs: xs[0] + xs[1], (x3(), x3(7))),
    "an array": (lambda x, y: x * y, (x3(), np.arange(3, dtype=np.float32))),
    "an array in a list": (lambda x, y: x * y[0], (x3(), [np.arange(3, dtype=np.float32)])),
    "a NumPy scalar": (lambda x, y: x * y, (x3(), np.float32(2))),
    "several results": (lambda x: (x * 2, x + 1), (x3(),)),
    "one in a tuple": (lambda x: (x * 2,), (x3(),)),
    "a dict of results": (lambda x: {"a": x * 2, "b": [x + 1, None]}, (x3(),)),
    "a named tuple": (lambda x: Pair(x * 2, x), (x3(),)),
    "the argument": (lambda x: (x * 2, x), (x3(),)),
    "a constant": (lambda x: (x * 2, 5, "text"), (x3(),)),
    "a size": (lambda x: (x * 2, x.shape[0]), (x3(),)),
    "no result": (lambda x: None, (x3(),)),
    "an empty tensor": (lambda x: x * 2, (sk.zeros((0, 3)),)),
    "a scalar": (lambda x: x * 2, (sk.asarray(3.0),)),
    "one result twice": (lambda x: [y := x * 2, y], (x3(),)),
    "a name of our own": (lambda type, _v1, call: type + _v1 * call, (x3(), x3(2), x3(3))),
}

NOT_DIRECT = {"a name of our own"}


def plain(value: Any) -> Any:
    return sk.tree.map(lambda x: x.tolist() if isinstance(x, sk.Tensor) else x, value)


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_goes_the_direct_way_and_gives_the_same(kind: str) -> None:
    fn, args = CALLS[kind]
    f = sk.function(fn, name="f")
    expected = fn(*args)
    ready(f, *args)
    for _ in range(2):
        if kind in NOT_DIRECT:
            out = f(*args)
        else:
            with directly():
                out = f(*args)
        assert type(out) is type(expected)
        assert plain(out) == plain(expected)
    assert f.cache_info()[:2] == (3, 1)


def test_the_argument_is_the_callers_own_object() -> None:
    x = x3()
    f = ready(sk.function(lambda x: (x * 2, x)), x)
    with directly():
        assert f(x)[1] is x


def test_keywords_and_defaults() -> None:
    def fn(x: Any, y: Any = 3.0, *, scale: Any = None) -> Any:
        return x * y if scale is None else x * y * scale

    f, x, y = sk.function(fn), x3(), x3(4)
    for args, kwargs in (
        ((x,), {}), ((x, y), {}), ((x,), {"y": y}), ((), {"y": y, "x": x}),
        ((x,), {"scale": y}), ((x, y), {"scale": x3(9)}),
    ):  # fmt: skip
        ready(f, *args, **kwargs)
        with directly():
            assert f(*args, **kwargs).tolist() == fn(*args, **kwargs).tolist()


def test_wrong_parameters_raise_what_python_raises() -> None:
    f = ready(sk.function(lambda x: x * 2, name="f"), x3())
    for call in (lambda: f(), lambda: f(x3(), x3()), lambda: f(x3(), y=1), lambda: f(z=x3())):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("other", [True, 4, 3.0, "3", None, np.float32(3)])
def test_another_number_or_type_is_another_call(other: Any) -> None:
    def fn(x: Any, n: Any) -> Any:
        return x * 2 if n is None or n == "3" else x * n

    f = ready(sk.function(fn), x3(), 3)
    assert plain(f(x3(), other)) == plain(fn(x3(), other))
    assert f.cache_info().misses == 2


def test_signed_zeros_and_nan_are_told_apart() -> None:
    f = ready(sk.function(lambda x, n: x * n, dynamic=False), x3(), 0.0)
    with directly():
        assert f(x3(), 0.0).tolist() == [0, 0, 0]
    assert str(f(x3(), -0.0).tolist()) == "[-0.0, -0.0, -0.0]"
    ready(f, x3(), float("nan"))
    with directly():
        assert np.isnan(f(x3(), float("nan")).numpy()).all()


VARYING: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "a rate": (lambda x, n: x * n, [0.5, 0.25, 1e-30, -0.0, 3.0]),
    "arithmetic": (lambda x, n: x * (1 - 0.9**n) + n // 2, [3, 4, 5, 100, 2]),
    "a formula of floats": (lambda x, n: x / (n * 2.0 + 1), [0.1, 0.2, 0.3, 7.0, 1e10]),
    "a number in a result": (lambda x, n: (x * n, n * 2, {"n": n}), [1.5, 2.5, 3.5, 4.5, 0.5]),
    "a branch": (lambda x, n: x * n if n < 10 else x - n, [1.0, 2.0, 3.0, 4.0, 9.5]),
    "an integer type": (lambda x, n: x.astype(sk.int8) + n, [1, 2, 3, 127, -128]),
    "two": (lambda x, n: x * n + sk.asarray(n) * n, [1.0, 2.0, 3.0, 0.1, 0.7]),
}


@pytest.mark.parametrize("kind", VARYING)
def test_a_number_that_varies_goes_the_direct_way(kind: str) -> None:
    fn, values = VARYING[kind]
    f = sk.function(fn)
    for k, n in enumerate(values):
        if k < 3:
            assert plain(f(x3(), n)) == plain(fn(x3(), n))
            f(x3(), n)
            continue
        with directly():
            assert str(plain(f(x3(), n))) == str(plain(fn(x3(), n)))
    assert f.cache_info().traces == 2


def test_a_number_outside_of_what_a_trace_relied_on_is_another_call() -> None:
    fn = VARYING["a branch"][0]
    f = sk.function(fn)
    for n in (1.0, 2.0, 3.0, 20.0, 21.0, 22.0):
        for _ in range(2):
            assert plain(f(x3(), n)) == plain(fn(x3(), n))
    with directly():
        for n in (5.0, 25.0):
            assert plain(f(x3(), n)) == plain(fn(x3(), n))
    whole = sk.function(VARYING["an integer type"][0])
    for n in (1, 2, 3, 3):
        whole(x3(), n)
    with pytest.raises(sk.StagekitError):
        whole(x3(), 128)


def test_a_number_that_is_a_size_has_a_way_for_each_value() -> None:
    f = sk.function(lambda x, n: sk.sum(sk.broadcast_to(x, (n, 3))))
    for n in (2, 3, 4, 4):
        assert f(x3(), n).item() == 6 * n
    with directly():
        assert f(x3(), 4).item() == 24
    assert f(x3(), 5).item() == 30


def test_another_structure_is_another_call() -> None:
    f = sk.function(lambda p: sk.tree.leaves(p)[0] * len(sk.tree.leaves(p)))
    a, b = x3(), x3(2)
    for tree in ((a, b), [a, b], {"a": a, "b": b}, {"b": b, "a": a}, (a, b, a), (a, (b,)), ()):
        expected = plain(sk.tree.leaves(tree)[0] * len(sk.tree.leaves(tree))) if tree else None
        if tree:
            assert plain(ready(f, tree)(tree)) == expected


def test_one_cell_twice_is_another_call() -> None:
    f = sk.function(lambda x, y: x * 2 if x is y else x + y)
    x, y = x3(), x3(1)
    ready(f, x, y)
    assert f(x, x).tolist() == [2, 4, 6] and f.cache_info().traces == 2
    ready(f, x, x)
    with directly():
        assert f(y, y).tolist() == [2, 4, 6]
        assert f(x, y).tolist() == [2, 4, 6]


# ----- captures -----------------------------------------------------------------------------------

SCALE = x3(2)
FACTOR = 3.0
LAYERS: list[Any] = [{"w": sk.Variable(x3())}]


class Model:
    def __init__(self) -> None:
        self.w = sk.Variable(x3())
        self.rate = 0.5

    def step(self, x: Any) -> Any:
        self.w.assign_sub(self.rate * x)
        return self.w.sum()

    @sk.function
    def staged(self, x: Any) -> Any:
        return self.step(x)


def test_globals_closures_elements_and_attributes_are_read_each_time() -> None:
    global SCALE
    bias, model = x3(7), Model()

    def fn(x: Any) -> Any:
        return x * SCALE + bias - LAYERS[0]["w"] * model.w

    f = ready(sk.function(fn), x3())
    for change in range(5):
        with directly():
            assert f(x3()).tolist() == fn(x3()).tolist()
        if change == 0:
            SCALE = x3(3)
        elif change == 1:
            bias = x3(1)
        elif change == 2:
            LAYERS[0]["w"] = sk.Variable(x3(5))
        elif change == 3:
            model.w.assign(x3(6))


def test_a_guard_that_fails_makes_another_trace() -> None:
    global FACTOR
    f = ready(sk.function(lambda x: x * FACTOR), x3())
    with directly():
        f(x3())
    FACTOR = 4.0
    assert f(x3()).tolist() == [4, 8, 12] and f.cache_info().misses == 2
    FACTOR = 3.0
    with directly():
        assert f(x3()).tolist() == [3, 6, 9]


def test_a_captured_array_is_seen_as_it_is_now() -> None:
    array = np.ones(3, np.float32)
    f = ready(sk.function(lambda x: x * array), x3())
    array[0] = 5
    with directly():
        assert f(x3()).tolist() == [5, 2, 3]


def test_methods_are_bound_to_their_objects() -> None:
    one, two = Model(), Model()
    ready(one.staged, x3())
    with directly():
        assert one.staged(x3()).item() == 6 - 1.5 * 6
    assert two.staged(x3()).item() == 3
    two.rate = 1.0
    assert two.staged(x3()).item() == 3 - 6
    with directly():
        one.staged(x3())
    dead = weakref.ref(one)
    del one
    gc.collect()
    assert dead() is None
    assert all(way.entry is not None for way in Model.__dict__["staged"]._cache.ways)


def test_a_capture_of_another_kind_is_another_call() -> None:
    holder = {"w": x3()}
    f = ready(sk.function(lambda x: x + holder["w"]), x3())
    for w in (sk.asarray([1, 2, 3]), sk.ones((2, 3)), np.ones(3), sk.Variable(x3()), 1.0):
        holder["w"] = w
        assert plain(f(x3())) == plain(x3() + w)


# ----- ambient state ------------------------------------------------------------------------------


def test_tapes_traces_and_maps_take_the_long_way() -> None:
    f = ready(sk.function(lambda x: x * x), x3())
    with the_long_way():
        with sk.GradientTape() as tape:
            x = x3()
            tape.watch(x)
            y = f(x)
        assert tape.gradient(y, x).tolist() == [2, 4, 6]
        assert sk.jvp(f, (x3(),), (x3(),))[1].tolist() == [2, 8, 18]
        assert sk.vmap(f)(sk.ones((2, 3))).shape == (2, 3)
        with sk.run_eagerly():
            assert f(x3()).tolist() == [1, 4, 9]
        config.disable = True
        try:
            assert f(x3()).tolist() == [1, 4, 9]
        finally:
            config.disable = False
        assert sk.function(lambda x: f(x) + 1)(x3()).tolist() == [2, 5, 10]
    with directly():
        f(x3())


def test_a_trap_takes_the_long_way() -> None:
    f = ready(sk.function(lambda x: sk.log(x)), x3())
    config.trap = "nan"
    try:
        with pytest.raises(sk.CheckError):
            f(x3(-5))
        ready(f, x3())
    finally:
        config.trap = None
    with directly():
        assert np.isnan(f(x3(-5)).numpy()[0])


def test_a_plan_that_fails_is_run_again_as_python() -> None:
    v = sk.Variable(x3())

    def fn(x: Any, k: Any) -> Any:
        v.assign_add(x)
        return sk.take(x, k)

    f = ready(sk.function(fn), x3(), sk.asarray(1))
    before = v.tolist()
    with pytest.raises(sk.BoundsError, match="index 7"):
        f(x3(), sk.asarray(7))
    assert v.tolist() == before
    with directly():
        assert f(x3(), sk.asarray(2)).item() == 3


def test_verify_always_has_no_direct_way() -> None:
    f = ready(sk.function(lambda x: x * 2, verify="always"), x3())
    with the_long_way():
        f(x3())


# ----- sizes, the cache ---------------------------------------------------------------------------


def test_each_size_that_comes_twice_has_a_way() -> None:
    f = sk.function(lambda x: sk.sum(x * 2) / x.shape[0])
    for n in (2, 3, 4, 4, 5, 5):
        f(sk.ones(n))
    with directly():
        for n in (4, 5, 4):
            assert f(sk.ones(n)).item() == 2
    for n in range(2, 40):
        for _ in range(2):
            assert f(sk.ones(n)).item() == 2
    assert f.cache_info().traces == 2 and len(f._cache.direct) == 2


def test_a_fact_about_sizes_holds_on_the_direct_way_too() -> None:
    f = sk.function(lambda x, y: x + y)
    for n, m in ((2, 2), (3, 3), (4, 4), (4, 4)):
        f(sk.ones(n), sk.ones(m))
    with directly():
        f(sk.ones(4), sk.ones(4))
    with pytest.raises(sk.ShapeError):
        f(sk.ones(4), sk.ones(3))
    assert f(sk.ones(4), sk.ones(1)).tolist() == [2, 2, 2, 2]


def test_the_least_recently_used_entry_goes_though_hits_were_direct() -> None:
    f = sk.function(lambda x, mode: x * 2, max_traces=3)
    for mode in ("a", "b", "c"):
        ready(f, x3(), mode)
    with directly():
        f(x3(), "a")
        f(x3(), "c")
    f(x3(), "d")  # "b" goes
    info = f.cache_info()
    f(x3(), "a"), f(x3(), "c"), f(x3(), "d")
    assert f.cache_info().misses == info.misses
    f(x3(), "b")
    assert f.cache_info().misses == info.misses + 1 and f.cache_info().evictions == 2
    assert len(f._cache.direct) <= 3


def test_a_cleared_cache_has_no_ways() -> None:
    f = ready(sk.function(lambda x: x * 2), x3())
    f.cache_clear()
    with the_long_way():
        f(x3())
    assert f.cache_info()[:2] == (0, 1)


def test_what_a_dropped_function_held_is_dropped() -> None:
    def made() -> list[weakref.ref[Any]]:
        w = sk.Variable(x3())
        f = ready(sk.function(lambda x: x * w), x3())
        with directly():
            f(x3())
        return [weakref.ref(f), weakref.ref(w), weakref.ref(f.python_function)]

    refs = made()
    gc.collect()
    assert [r() for r in refs] == [None] * 3


# ----- state --------------------------------------------------------------------------------------


def test_snapshots_keep_their_bits() -> None:
    w = sk.Variable(x3())
    step = ready(sk.function(lambda x: w.assign_add(x)), x3())
    kept = []
    for k in range(40):
        with directly():
            step(x3())
        take = (lambda: w.value, w.numpy, lambda: w[:2], lambda: np.asarray(w), lambda: None)[k % 5]
        held = take()
        if held is not None:
            kept.append((held, held.tolist()))
    for held, before in kept:
        assert held.tolist() == before


def test_a_written_argument_is_committed() -> None:
    def fn(x: Any) -> Any:
        x[0] = 9.0
        return x * 2

    f, x = sk.function(fn), x3()
    ready(f, x3())
    y = x
    before = x[:2]
    with directly():
        assert f(x).tolist() == [18, 4, 6]
    assert y.tolist() == [9, 2, 3] and before.tolist() == [1, 2]


def test_draws_are_those_of_eager_code() -> None:
    generator = sk.random.Generator(3)
    f = sk.function(lambda x: x + sk.random.normal(shape=3, generator=generator))
    other = sk.random.Generator(3)
    for k in range(5):
        out = f(x3(0)) if k < 2 else None
        if out is None:
            with directly():
                out = f(x3(0))
        expected = x3(0) + sk.random.normal(shape=3, generator=other)
        assert out.tolist() == expected.tolist()


def test_no_number_is_drawn_twice_in_threads(shared: None) -> None:
    generator = sk.random.Generator(5)
    f = sk.function(lambda: sk.random.randint(0, 1 << 60, shape=4, generator=generator))
    ready(f)
    drawn: list[int] = []

    def work(staged: bool) -> None:
        for _ in range(100):
            if staged:
                drawn.extend(f().tolist())
            else:
                drawn.extend(sk.random.randint(0, 1 << 60, shape=4, generator=generator).tolist())

    threads = [threading.Thread(target=work, args=(k % 2 == 0,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == len(drawn) == 1600


def test_a_commit_is_never_torn(shared: None) -> None:
    """Two Variables that every writer sets to one number are never seen to hold two."""
    a, b = sk.Variable(sk.zeros(())), sk.Variable(sk.zeros(()))

    def fn(k: Any) -> None:
        a.assign(k)
        b.assign(k)

    f = sk.function(fn)
    ready(f, sk.asarray(0.0))
    long = sk.function(fn, verify="first", name="long")
    stop, torn = threading.Event(), []
    read = sk.function(lambda: (a + 0, b + 0))
    ready(read)

    def write(g: Any, start: int) -> None:
        for k in range(start, start + 300):
            g(sk.asarray(float(k)))

    def watch() -> None:
        while not stop.is_set():
            x, y = read()
            if x.item() != y.item():
                torn.append((x.item(), y.item()))

    threads = [threading.Thread(target=write, args=(g, n)) for g, n in ((f, 1), (long, 1000))]
    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    assert a.item() == b.item() and torn == []


def test_a_trace_sees_nothing_of_the_way_of_a_function_called_in_it() -> None:
    w, factor = x3(), 2.0
    f = ready(sk.function(lambda x: x * w * factor), x3())
    g = ready(sk.function(lambda x: f(x) + 1), x3())
    (entry,) = g._history
    assert sorted(guard.place for guard in entry.guards) == ["closure f", "closure factor"]
    assert [str(capture.path) for capture in entry.captures] == ["cell w"]
