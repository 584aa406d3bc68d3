"""State: Variables and written tensors, staged as eagerly; a call that raises changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit import tree

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")


def traces(f: Any) -> int:
    return int(f.cache_info().traces)


# ----- x[i] = v and x += v: eager equals staged ---------------------------------------------------

HELD = sk.asarray([1.0, 2.0, 3.0])


def alias_of_the_argument(x: Any) -> Any:
    y = x
    y[0] = 10.0
    return x * 2, y


def slice_taken_before(x: Any) -> Any:
    before = x[:2]
    x[0] = 10.0
    return before, x[:2]


def plus_equals_makes_another(x: Any) -> Any:
    y = x
    y += 1
    return x, y


def plus_equals_on_an_element(x: Any) -> Any:
    x[1] += 5.0
    return x


def captured(x: Any) -> Any:
    HELD[1] = x[0] * 7
    return HELD + x


def element_of_a_dict(x: Any) -> Any:
    d = {"x": x}
    d["x"][2] = -1.0
    return d


def returned_unchanged(x: Any) -> Any:
    return x


def returned_twice(x: Any) -> Any:
    y = x * 2
    return y, y


def two_results_of_one_node(x: Any) -> Any:
    return x * 2, x * 2


def written_twice(x: Any) -> Any:
    x[0] = 1.0
    x[0] = x[0] + 1.0
    x[...] = x * 2
    return sk.sum(x)


def swap(x: Any) -> Any:
    x[0], x[2] = x[2], x[0]
    return x


def fresh_tensor(x: Any) -> Any:
    y = sk.zeros((3,))
    y[1] = x[1]
    z = y
    z[2] = 4.0
    return y


def through_fill_and_at(x: Any) -> Any:
    y = x.at[0].add(5.0)
    x.fill(2.0)
    return y, x


WRITING: list[Callable[[Any], Any]] = [
    alias_of_the_argument,
    slice_taken_before,
    plus_equals_makes_another,
    plus_equals_on_an_element,
    captured,
    element_of_a_dict,
    returned_unchanged,
    returned_twice,
    two_results_of_one_node,
    written_twice,
    swap,
    fresh_tensor,
    through_fill_and_at,
]


def seen(f: Callable[[Any], Any], x: Any) -> Any:
    """Values of results and argument, and which of them are one object."""
    results = [*tree.leaves(f(x)), x, HELD]
    first = [next(k for k, other in enumerate(results) if other is y) for y in results]
    return [y.tolist() for y in results], first


@pytest.mark.parametrize("f", WRITING, ids=lambda f: f.__name__)
def test_writing_into_tensors_is_the_same_staged(f: Callable[[Any], Any]) -> None:
    def run(g: Callable[[Any], Any]) -> list[Any]:
        HELD[...] = sk.asarray([1.0, 2.0, 3.0])
        return [seen(g, sk.asarray([4.0, 5.0, 6.0]) + k) for k in range(3)]

    staged = sk.function(f)
    assert run(staged) == run(f)
    assert staged.cache_info()[:2] == (2, 1)


def test_a_write_is_seen_under_every_name_of_the_object_and_not_in_older_results() -> None:
    f = sk.function(lambda x: x.at[0].set(9.0))

    @sk.function
    def g(x: Any) -> None:
        x[0] = 9.0

    for _ in range(2):
        x = sk.asarray([1.0, 2.0])
        name, part, array = x, x[:1], x.numpy()
        f(x)
        g(x)
        assert name.tolist() == [9.0, 2.0]
        assert part.tolist() == [1.0] and array.tolist() == [1.0, 2.0]


def test_a_write_under_a_tape_has_a_gradient() -> None:
    def write(x: Any, v: Any) -> Any:
        x[0] = v * v
        return sk.sum(x * x)

    for f in (write, staged := sk.function(write)):
        for _ in range(2):
            x, v = sk.asarray([1.0, 2.0]), sk.asarray(3.0)
            with sk.GradientTape() as tape:
                tape.watch((x, v))
                y = f(x, v)
            dx, dv = tape.gradient(y, (x, v))
            assert dx.tolist() == [0.0, 4.0] and dv.item() == 108.0
            assert x.tolist() == [9.0, 2.0]
    assert traces(staged) == 1


def test_the_written_argument_carries_its_gradient_on() -> None:
    @sk.function
    def write(x: Any, v: Any) -> None:
        x[0] = v * v

    for _ in range(2):
        x, v = sk.asarray([1.0, 2.0]), sk.asarray(3.0)
        with sk.GradientTape() as tape:
            tape.watch(v)
            write(x, v)
            y = sk.sum(x * x)
        assert tape.gradient(y, v).item() == 108.0


def test_a_write_then_an_exception_commits_nothing() -> None:
    def f(x: Any, i: Any) -> Any:
        x[0] = 10.0
        HELD[0] = 10.0
        return sk.take(x, i, axis=0)

    HELD[...] = sk.asarray([1.0, 2.0, 3.0])
    staged = sk.function(f)
    good, bad = sk.asarray([0]), sk.asarray([7])
    for first in (bad, good, bad):
        x = sk.asarray([1.0, 2.0])
        if first is good:
            staged(x, first)
            HELD[...] = sk.asarray([1.0, 2.0, 3.0])
            continue
        with pytest.raises(sk.BoundsError):
            staged(x, first)
        assert x.tolist() == [1.0, 2.0] and HELD.tolist() == [1.0, 2.0, 3.0]
    assert traces(staged) == 1


def test_an_argument_in_a_dict_is_written_in_place() -> None:
    @sk.function
    def f(d: dict[str, Any]) -> Any:
        d["x"][0] = 7.0
        return d["x"] * 2

    for _ in range(2):
        d = {"x": sk.asarray([1.0, 2.0])}
        x = d["x"]
        assert f(d).tolist() == [14.0, 4.0]
        assert d["x"] is x and x.tolist() == [7.0, 2.0]


# ----- Variables ----------------------------------------------------------------------------------


def test_a_captured_variable_is_read_and_written() -> None:
    v = sk.Variable(sk.zeros(2))

    @sk.function
    def f(x: Any) -> Any:
        before = v.value
        v.assign_add(x)
        v.assign(v * 2)
        v.assign_sub(1.0)
        return before, v * 1

    expected = np.zeros(2)
    for k in range(1, 5):
        before, after = f(sk.ones(2) * k)
        assert before.tolist() == expected.tolist()
        expected = (expected + k) * 2 - 1
        assert after.tolist() == v.tolist() == expected.tolist()
    assert traces(f) == 1


def test_models_in_arguments_share_one_trace() -> None:
    @sk.function
    def step(model: dict[str, Any], x: Any) -> Any:
        with sk.GradientTape() as tape:
            loss = sk.sum((x @ model["w"] + model["b"]) ** 2)
        grads = tape.gradient(loss, model)
        for name, g in grads.items():
            model[name].assign_sub(0.1 * g)
        return loss

    def model(k: float) -> dict[str, Any]:
        return {"w": sk.Variable(sk.ones((2, 1)) * k), "b": sk.Variable(sk.zeros(1))}

    a, b = model(1.0), model(2.0)
    twin = copy.deepcopy(a)
    x = sk.ones((3, 2))
    assert [step(a, x).item(), step(b, x).item()] == [12.0, 48.0]
    with sk.run_eagerly():
        step(twin, x)
    assert twin["w"].tolist() == a["w"].tolist() != b["w"].tolist()
    assert traces(step) == 1


def test_all_writes_are_committed_together_or_not_at_all() -> None:
    a, b = sk.Variable(0.0), sk.Variable(0.0)

    def f(x: Any, i: Any) -> Any:
        a.assign_add(1.0)
        y = sk.take(x, i, axis=0)
        b.assign_add(1.0)
        return y

    staged = sk.function(f)
    x, good, bad = sk.asarray([1.0, 2.0]), sk.asarray([1]), sk.asarray([5])
    with pytest.raises(sk.BoundsError):
        staged(x, bad)  # traced
    assert (a.item(), b.item()) == (0.0, 0.0)
    staged(x, good)
    with pytest.raises(sk.BoundsError):
        staged(x, bad)  # replayed
    assert (a.item(), b.item()) == (1.0, 1.0)
    with pytest.raises(sk.BoundsError):
        f(x, bad)  # plain Python leaves what was written before the raise
    assert (a.item(), b.item()) == (2.0, 1.0)


def test_an_eager_call_of_a_staged_function_is_a_transaction_too() -> None:
    v = sk.Variable(0.0)

    @sk.function
    def f(x: Any) -> Any:
        v.assign_add(1.0)
        seen_inside = v.item()
        if float(x) < 0:
            raise ValueError("negative")
        return x * seen_inside

    with pytest.warns(sk.StagekitWarning):
        assert f(sk.asarray(2.0)).item() == 2.0
    assert f(sk.asarray(2.0)).item() == 4.0
    with pytest.raises(ValueError, match="negative"):
        f(sk.asarray(-2.0))
    assert v.item() == 2.0


def test_a_snapshot_never_changes() -> None:
    v = sk.Variable(sk.zeros(2))

    @sk.function
    def f() -> Any:
        v.assign_add(sk.ones(2))
        return v.value

    snapshot, view = v.value, v.numpy()
    first = f()
    second = f()
    assert snapshot.tolist() == view.tolist() == [0.0, 0.0]
    assert first.tolist() == [1.0, 1.0] and second.tolist() == v.tolist() == [2.0, 2.0]


def test_a_variable_made_in_the_call_is_new_each_time() -> None:
    @sk.function
    def f(x: Any) -> Any:
        total = sk.Variable(sk.zeros(()))
        for _ in range(3):
            total.assign_add(x)
        return total * 1

    assert f(sk.asarray(2.0)).item() == f(sk.asarray(2.0)).item() == 6.0
    assert f.cache_info().hits == 1


class Lazy:
    def __init__(self) -> None:
        self.w: Any = None

    @sk.function
    def __call__(self, x: Any) -> Any:
        if self.w is None:
            self.w = sk.Variable(sk.ones(2) * 2)
        self.w.assign_add(x)
        return self.w * 1


def test_a_variable_that_outlives_its_call() -> None:
    model = Lazy()
    with pytest.warns(sk.StagekitWarning, match="self.w"):
        assert model(sk.ones(2)).tolist() == [3.0, 3.0]
    w = model.w
    assert isinstance(w, sk.Variable) and w.tolist() == [3.0, 3.0]
    assert Lazy.__call__.cache_info().currsize == 0
    assert model(sk.ones(2)).tolist() == [4.0, 4.0]
    assert model(sk.ones(2)).tolist() == [5.0, 5.0]
    assert model.w is w and w.tolist() == [5.0, 5.0]
    assert Lazy.__call__.cache_info()[:2] == (1, 2)


def test_the_same_where_the_call_counts_as_eager() -> None:
    store: dict[str, Any] = {}

    @sk.function
    def f(x: Any) -> Any:
        if "w" not in store:
            store["w"] = sk.Variable(x * 2)
        store["w"].assign_add(x)
        return store["w"] * float(sk.sum(x))

    with pytest.warns(sk.StagekitWarning):
        assert f(sk.ones(2)).tolist() == [6.0, 6.0]
    w = store["w"]
    with pytest.warns(sk.StagekitWarning):
        assert f(sk.ones(2)).tolist() == [8.0, 8.0]
    assert f(sk.ones(2)).tolist() == [10.0, 10.0]
    assert store["w"] is w and w.tolist() == [5.0, 5.0]


def test_a_tensor_kept_outside_has_its_value_after_the_call() -> None:
    kept: list[Any] = []

    @sk.function
    def f(x: Any) -> Any:
        kept.append(x * 2)
        return x + 1

    with pytest.warns(sk.StagekitWarning):
        f(sk.ones(2))
    f(sk.ones(2))
    assert [k.tolist() for k in kept] == [[2.0, 2.0], [2.0, 2.0]]
    assert (kept[0] + kept[1]).tolist() == [4.0, 4.0]


def test_what_an_exception_left_outside_has_its_value() -> None:
    kept: list[Any] = []

    @sk.function
    def f(x: Any) -> Any:
        kept.append(x * 2)
        raise KeyError("stop")

    for _ in range(2):
        with pytest.raises(KeyError):
            f(sk.ones(2))
    assert [k.tolist() for k in kept] == [[2.0, 2.0]] * 2


def test_a_variable_in_one_call_as_argument_and_capture() -> None:
    v = sk.Variable(sk.ones(2))

    @sk.function
    def f(u: Any) -> Any:
        u.assign_add(sk.ones(2))
        return v * 1

    for k in range(2, 5):
        assert f(v).tolist() == [k, k]
    other = sk.Variable(sk.zeros(2))
    assert f(other).tolist() == [4.0, 4.0]
    assert f(v).tolist() == [5.0, 5.0]


def test_numpy_arguments_are_copied_not_written() -> None:
    @sk.function
    def f(x: Any) -> Any:
        x[0] = 5.0
        return x * 1

    array = np.ones(2, np.float32)
    for _ in range(2):
        assert f(array).tolist() == [5.0, 1.0]
    assert array.tolist() == [1.0, 1.0]


# ----- containers among the arguments -------------------------------------------------------------


def test_what_python_does_to_an_argument_container_happens_at_every_call() -> None:
    @sk.function
    def f(config: dict[str, Any], x: Any) -> Any:
        config["calls"] += 1
        config["log"].append(config["calls"])
        return x * config["calls"]

    config = {"calls": 0, "log": [], "data": np.ones(2)}
    log, data = config["log"], config["data"]
    with pytest.warns(sk.StagekitWarning):
        for k in range(1, 7):
            assert f(config, sk.ones(2)).tolist() == [k, k]
    assert config == {"calls": 6, "log": [1, 2, 3, 4, 5, 6], "data": data}
    assert config["log"] is log and config["data"] is data


def test_a_dataclass_as_self() -> None:
    @dataclasses.dataclass
    class Trainer:
        rate: float
        steps: int = 0

        def __post_init__(self) -> None:
            self.extra = 1.0

        @sk.function
        def step(self, x: Any) -> Any:
            return x * self.rate * self.extra

        @functools.partial(sk.function)
        def count(self, x: Any) -> Any:
            self.steps += 1
            return x * self.steps

    trainer = Trainer(2.0)
    for rate in (2.0, 3.0, 4.0, 5.0):
        trainer.rate = rate
        assert trainer.step(sk.ones(2)).tolist() == [rate, rate]
    assert traces(Trainer.step) == 2
    with pytest.warns(sk.StagekitWarning, match="self"):
        for k in range(1, 6):
            assert trainer.count(sk.ones(2)).tolist() == [k, k]
    assert trainer.steps == 5


def test_a_frozen_dataclass_of_numbers() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        rate: float
        n: int
        name: str = "adam"

    f = sk.function(lambda x, config: x * config.rate + config.n)
    for k in range(5):
        assert f(sk.ones(2), Config(0.5 * k, k)).tolist() == [1.5 * k] * 2
    assert traces(f) == 2


def test_an_optimizer_that_makes_its_state_at_the_first_step() -> None:
    class Momentum:
        def __init__(self, params: list[Any]) -> None:
            self.params, self.state = params, {}  # type: ignore[var-annotated]

        @sk.function
        def step(self, grads: list[Any]) -> None:
            for k, (p, g) in enumerate(zip(self.params, grads, strict=True)):
                if k not in self.state:
                    self.state[k] = sk.Variable(sk.zeros_like(p))
                self.state[k].assign(0.5 * self.state[k] + g)
                p.assign_sub(self.state[k])

    params = [sk.Variable(sk.zeros(2)), sk.Variable(sk.zeros(3))]
    optimizer = Momentum(params)
    with pytest.warns(sk.StagekitWarning, match=r"self\.state"):
        for _ in range(4):
            optimizer.step([sk.ones(2), sk.ones(3)])
    assert params[1].tolist() == [-(1 + 1.5 + 1.75 + 1.875)] * 3
    assert optimizer.step.cache_info()[:2] == (2, 2)
