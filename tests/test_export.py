"""Save, load, run: the results of a function and of its artifact are the same to the bit.

Every way is compared with eager: the minimal runtime, and the functions that `load` stages.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import stagekit as sk
from stagekit import tree
from stagekit.errors import (
    BoundsError,
    CheckError,
    DataDependentError,
    DTypeError,
    ExportError,
    ShapeError,
    TraceError,
)
from stagekit.export import runtime
from stagekit.nn import functional as F
from stagekit.op import OPS, weak_type
from stagekit.types import DTYPES
from tests.classes import admitted, near, outcome
from tests.samples import samples

Spec = sk.TensorSpec
STEPS = 1024  # eps by which native code may differ from eager after some steps of training


def bits(x: Any) -> tuple[Any, ...]:
    """What must agree: type, shape and bytes, any NaN for any other."""
    array = np.asarray(x)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.asarray(np.nan, array.dtype), array)
    return array.dtype, array.shape, array.tobytes()


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "model.stagekit")


def both(file: str, fn: Any, *specs: Any, **options: Any) -> tuple[Any, Any]:
    """A function in the runtime and loaded again."""
    sk.export.save(file, fn, *specs, **options)
    return runtime.load(file, verify=True), sk.export.load(file)


def agree(file: str, fn: Callable[..., Any], specs: Any, *calls: tuple[Any, ...]) -> None:
    """Eager, runtime and loaded, run eagerly, give the same bits; staged it gives what it may."""
    program, loaded = both(file, fn, *specs)
    for args in calls:
        expected = bits(fn(*map(sk.asarray, args)))
        assert bits(program(*args)) == expected
        assert admitted(fn, [*map(sk.asarray, args)], outcome(loaded, args))
        with sk.run_eagerly():
            assert bits(loaded(*args)) == expected


# ----- an MLP, whole ------------------------------------------------------------------------------

w1, b1 = sk.Variable(normal(8, 16)), sk.Variable(normal(16))
w2, b2 = sk.Variable(normal(16, 4)), sk.Variable(normal(4))


def mlp(x: Any) -> Any:
    return F.relu(x @ w1 + b1) @ w2 + b2


def test_mlp_at_any_batch_size(file: str) -> None:
    agree(file, mlp, [Spec(("batch", 8))], *[(normal(n, 8),) for n in (0, 1, 2, 5, 64)])


def test_staged_function_lambda_and_method(file: str) -> None:
    class Model:
        def __init__(self) -> None:
            self.layers = [sk.Variable(normal(3, 2)), sk.asarray(normal(2))]

        def __call__(self, x: Any) -> Any:
            return x @ self.layers[0] + self.layers[1]

        @sk.function
        def staged(self, x: Any) -> Any:
            return self(x)

    model, x = Model(), normal(4, 3)
    expected = bits(model(sk.asarray(x)))
    for fn in (model, model.staged, sk.function(model), lambda x: model(x)):
        program, loaded = both(file, fn, Spec(("n", 3)))
        assert bits(program(x)) == bits(loaded(x)) == expected
        assert len(program.state) == 2
        assert all("layers[" in name for name in program.state)


def test_captures_are_named_by_access_path_and_shared(file: str) -> None:
    scale = np.float32(3.0) * np.ones(4, "f4")
    model = {"w": sk.Variable(normal(8, 4))}

    def first(x: Any) -> Any:
        return x @ model["w"] * scale

    def second(x: Any) -> Any:
        return (x @ model["w"]).sum()

    sk.export.save(file, {"first": (first, [Spec((None, 8))]), "second": (second, Spec(("n", 8)))})
    program = runtime.load(file)
    assert set(program.state) == {"model['w']", "scale"}
    assert bits(program.state["model['w']"]) == bits(model["w"])
    assert bits(program["first"](normal(3, 8))) == bits(first(sk.asarray(normal(3, 8))))


def test_two_captures_of_one_notation_have_two_names(file: str) -> None:
    def made(value: float) -> Any:
        w = sk.Variable(sk.full((2,), value))
        return lambda x: x * w

    sk.export.save(file, {"a": (made(2.0), Spec((2,))), "b": (made(3.0), Spec((2,)))})
    program = runtime.load(file)
    assert list(program.state) == ["w", "w_2"]
    assert program["a"](np.ones(2, "f4"))[0] == 2.0
    assert program["b"](np.ones(2, "f4"))[0] == 3.0


# ----- state --------------------------------------------------------------------------------------


@dataclass
class Training:
    """Parameters, Adam's moments, the step count."""

    weights: list[Any]
    first: list[Any]
    second: list[Any]
    count: Any


def training() -> Training:
    shapes = [(8, 16), (16,), (16, 4), (4,)]
    zeros = [[sk.Variable(sk.zeros(s)) for s in shapes] for _ in range(2)]
    weights = [sk.Variable(normal(*s)) for s in shapes]
    return Training(weights, *zeros, sk.Variable(sk.zeros(())))


def loss_of(weights: list[Any], x: Any, y: Any) -> Any:
    v1, c1, v2, c2 = weights
    logits = F.relu(x @ v1 + c1) @ v2 + c2
    return F.cross_entropy(logits, y, reduction="sum") / x.shape[0]


def adam(state: Training, x: Any, y: Any) -> Any:
    loss, gradients = sk.value_and_grad(loss_of)(state.weights, x, y)
    state.count.assign_add(1)
    rate = 1e-2 * sk.sqrt(1 - 0.999**state.count) / (1 - 0.9**state.count)
    moments = zip(state.weights, gradients, state.first, state.second, strict=True)
    for p, g, m, v in moments:
        m.assign(0.9 * m + 0.1 * g)
        v.assign(0.999 * v + 0.001 * g * g)
        p.assign_sub(rate * m / (sk.sqrt(v) + 1e-8))
    return loss


def variables(state: Training) -> list[Any]:
    return [*state.weights, *state.first, *state.second, state.count]


BATCHES = [(n, normal(n, 8, seed=n), np.arange(n) * 7 % 4) for n in (5, 8, 3)]


def test_train_step_in_the_runtime_equals_the_framework(file: str) -> None:
    state = training()
    sk.export.save(file, adam, state, Spec(("n", 8)), Spec(("n",), sk.int64))
    program = runtime.load(file)
    assert str(program.signatures["default"]) == "default(x: f32[n,8], y: i64[n]) -> f32[]"
    assert len(program.state) == 13
    for _, x, y in BATCHES:
        assert bits(program(x, y)) == bits(adam(state, sk.asarray(x), sk.asarray(y)))
    assert all(name.startswith("state.") for name in program.state)
    assert not any(value.flags.writeable for value in program.state.values())
    assert sorted(map(bits, program.state.values())) == sorted(map(bits, variables(state)))


def test_train_step_loaded_and_fine_tuned_equals_the_original(file: str, tmp_path: Path) -> None:
    state = training()
    sk.export.save(file, adam, state, Spec(("n", 8)), Spec(("n",), sk.int64))
    loaded = sk.export.load(file)
    for _, x, y in BATCHES:
        assert near(loaded(x, y), adam(state, sk.asarray(x), sk.asarray(y)), STEPS)
    again = str(tmp_path / "again.stagekit")
    loaded.save(again)
    program = runtime.load(again)
    assert [bits(program.state[k]) for k in loaded.state] == list(map(bits, loaded.state.values()))
    _, x, y = BATCHES[0]
    assert near(program(x, y), adam(state, sk.asarray(x), sk.asarray(y)), STEPS)


def test_state_is_shared_by_functions_saved_back_and_set(file: str, tmp_path: Path) -> None:
    count = sk.Variable(sk.zeros((), dtype=sk.int64), name="count")

    def step(x: Any) -> Any:
        count.assign_add(1)
        return x + count

    sk.export.save(file, {"step": (step, [Spec((), sk.int64)]), "now": (lambda: count.value, ())})
    program = runtime.load(file)
    assert [int(program["step"](10)) for _ in range(3)] == [11, 12, 13]
    assert program["now"]() == program.state["count"] == 3
    program.save(tmp_path / "later.stagekit")
    assert runtime.load(file)["now"]() == 0
    later = runtime.load(tmp_path / "later.stagekit")
    assert later["now"]() == 3
    later.state["count"] = 40
    assert later["step"](0) == 41
    for wrong, error in ((np.zeros((), "f4"), DTypeError), (np.zeros(2, "i8"), ShapeError)):
        with pytest.raises(error, match="count"):
            later.state["count"] = wrong
    with pytest.raises(KeyError, match="no state 'nothing'; the program has count"):
        later.state["nothing"]
    loaded = sk.export.load(file)
    assert isinstance(loaded.state["count"], sk.Variable)
    assert int(loaded["step"](10)) == 11
    assert int(loaded["now"]()) == 1


def test_a_call_that_raises_leaves_the_state(file: str) -> None:
    count = sk.Variable(sk.zeros(()))
    table = sk.asarray([1.0, 2.0])

    def step(i: Any) -> Any:
        count.assign_add(1)
        return table[i]

    program, _ = both(file, step, Spec((), sk.int64))
    with pytest.raises(BoundsError):
        program(9)
    assert program.state["count"] == 0
    assert program(1) == 2
    assert program.state["count"] == 1


def test_setitem_on_a_captured_tensor_is_a_write(file: str) -> None:
    board = sk.zeros((3,))

    def put(x: Any) -> Any:
        board[1] = x
        return board * 2

    program, loaded = both(file, put, Spec(()))
    assert program(4.0).tolist() == [0, 8, 0]
    assert program.state["board"].tolist() == [0, 4, 0]
    assert np.asarray(loaded(4.0)).tolist() == [0, 8, 0]
    assert np.asarray(loaded.state["board"]).tolist() == [0, 4, 0]


def test_results_and_state_never_alias(file: str) -> None:
    w = sk.Variable(sk.ones((2, 3)))

    def fn(x: Any) -> Any:
        w.assign(x)
        return x, w, x, x.T, (x + 1).T, sk.asarray([1.0, 2.0])

    program, _ = both(file, fn, Spec((2, 3)))
    x = normal(2, 3)
    first = program(x)
    kept = [bits(r) for r in first]
    for result in first:
        result[...] = 7
    assert bits(x) == kept[0] == bits(program.state["w"])
    assert [bits(r) for r in program(x)] == kept


def test_results_of_every_kind(file: str) -> None:
    count = sk.Variable(sk.zeros(()))

    def fn(x: Any) -> Any:
        count.assign_add(1)
        y = x + 1
        return y, y, count, [], None, 3, count.value

    program, loaded = both(file, {"fn": (fn, [Spec((2,))]), "tick": (count.assign_add, (1.0,))})
    for run in (program, loaded):
        first, second, now, *rest, value = run["fn"](normal(2))
        assert first is not second
        assert bits(first) == bits(second)
        assert (float(now), rest, float(value)) == (1, [[], None, 3], 1)
        assert run["tick"](1.0) is None
        assert float(run.state["count"]) == 2


def test_freeze_makes_constants(file: str) -> None:
    program, loaded = both(file, mlp, Spec(("n", 8)), freeze=True)
    x = normal(3, 8)
    assert not program.state
    assert bits(program(x)) == bits(loaded(x)) == bits(mlp(sk.asarray(x)))
    count = sk.Variable(sk.zeros(()))
    with pytest.raises(ExportError, match="freeze"):
        sk.export.save(file, lambda: count.assign_add(1), freeze=True)


# ----- arguments and results ----------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Named:
    a: Any
    b: Any


def test_trees_of_arguments_and_results(file: str) -> None:
    def fn(params: Any, pair: Any, named: Any, *, flag: bool = True, scale: float = 2.0) -> Any:
        total = params["w"] * scale + params["deep"][0][1] + pair.left - named.b
        out = {"sum": total, "none": None, "pair": Pair(total, [1, "text", True])}
        return out, Named(named.a, total.shape[0] * 2 + 1), params["w"]

    n = Spec(("n",))
    specs = ({"w": n, "deep": [(None, n)]}, Pair(n, None), Named(Spec((), sk.int32), n))
    program, loaded = both(file, fn, *specs)
    x = [normal(5, seed=k) for k in range(4)]
    args = ({"deep": [(None, x[0])], "w": x[1]}, Pair(x[2], None), Named(np.int32(4), x[3]))
    expected = fn(args[0] and {"w": sk.asarray(x[1]), "deep": [(None, x[0])]}, *args[1:])
    for run in (program, loaded):
        out, named, w = run(*args)
        assert bits(out["sum"]) == bits(out["pair"][0]) == bits(expected[0]["sum"])
        assert out["none"] is None
        assert out["pair"][1] == [1, "text", True]
        assert bits(named["a"]) == bits(np.int32(4))
        assert named["b"] == 11
        assert bits(w) == bits(x[1])
    by_key = program(args[0], (x[2], None), {"a": 4, "b": x[3]}, scale=2.0)
    assert bits(by_key[2]) == bits(x[1])


def test_parameter_kinds(file: str) -> None:
    def fn(a: Any, /, b: Any, *rest: Any, c: Any, d: int = 3, **more: Any) -> Any:
        return a + 2 * b + 3 * rest[0] + 4 * c + d + 5 * more["e"]

    fn_ = lambda a, b, r, c, e: fn(a, b, r, c=c, e=e)
    one = Spec(())
    agree(file, fn_, [one] * 5, (1.0, 2.0, 3.0, 4.0, 5.0))
    rest = lambda *xs: xs[0] - xs[1]
    agree(file, rest, [one] * 2, (5.0, 3.0))
    program, loaded = both(file, lambda flag, x: x * (2 if flag else 3), False, one)
    assert program(False, 2.0) == np.asarray(loaded(False, 2.0)) == 6
    assert str(program.signatures["default"]) == "default(flag: False, x: f32[]) -> f32[]"


def test_wrong_calls_name_the_signature(file: str) -> None:
    def fn(x: Any, y: Any, k: int = 2) -> Any:
        return {"out": x["a"][0] * y * k}

    program, loaded = both(file, fn, {"a": [Spec(("n", 3))]}, Spec(("n", 1)))
    listing = "default(x: {'a': [f32[n,3]]}, y: f32[n,1], k: 2) -> {'out': f32[n,3]}"
    x, y = normal(4, 3), normal(4, 1)
    wrong: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        (({"a": [x]}, normal(5, 1)), ShapeError, r"y has shape \(5, 1\), the signature says f32"),
        (({"a": [normal(4, 2)]}, y), ShapeError, r"x\['a'\]\[0\] has shape \(4, 2\)"),
        (({"a": [x[0]]}, y), ShapeError, r"has shape \(3,\)"),
        (({"a": [x.astype("f8")]}, y), DTypeError, r"x\['a'\]\[0\] is float64"),
        (({"a": [2.0]}, y), DTypeError, r"is a Python float"),
        (({"a": [x, x]}, y), TypeError, r"x\['a'\] is a list of 2, not a list of 1"),
        (({"b": [x]}, y), TypeError, r"x is a dict with the keys \['b'\], not a dict with"),
        (({"a": [x]},), TypeError, "missing .*'y'"),
        (({"a": [x]}, y, 3), TypeError, "k is 3, and the program was made for 2"),
    ]
    for args, kind, text in wrong:
        for run in (program, loaded):
            if run is loaded and "Python float" in text:
                continue  # a float of a staged call is a 0-d tensor: a wrong shape
            with pytest.raises(kind, match=text) as caught:
                run(*args)
            from_binding = run is loaded and len(args) == 1  # Python's own words
            shown = str(caught.value)
            assert listing in shown or "the signature says" in shown or from_binding
    with pytest.raises(TypeError, match="x\\['a'\\]\\[0\\] is a str"):
        program({"a": ["text"]}, y)
    with pytest.raises(KeyError, match="no function 'train'; the program has default"):
        program["train"]


def test_several_functions_without_a_default(file: str) -> None:
    one = Spec(())
    sk.export.save(file, {"twice": (lambda x: x * 2, one), "half": (lambda x: x / 2, one)})
    for program in (runtime.load(file), sk.export.load(file)):
        assert list(program) == ["twice", "half"]
        assert len(program) == 2
        assert "half" in program
        assert program["half"](3.0) == 1.5
        with pytest.raises(TypeError, match=r"program\['twice'\].*twice, half"):
            program(1.0)
    sk.export.save(file, {"default": (lambda x: x, one), "half": (lambda x: x / 2, one)})
    assert runtime.load(file)(3.0) == 3


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(name: str, file: str) -> None:
    kind = DTYPES[name].dtype
    weight = sk.asarray(np.array([3, 1, 2], kind))

    def fn(x: Any, scalar: Any) -> Any:
        total = sk.astype(abs(x), sk.float64).sum()
        return sk.where(x == weight, scalar, sk.flip(x)), total, weight

    program, loaded = both(file, fn, Spec((3,), name), Spec((), name))
    x, scalar = np.array([1, 1, 0], kind), np.array(1, kind)
    expected = fn(sk.asarray(x), sk.asarray(scalar))
    for run in (program, loaded):
        assert list(map(bits, run(x, scalar))) == list(map(bits, expected))
    swapped = x if name == "bfloat16" else x.astype(x.dtype.newbyteorder(">"))[::-1][::-1]
    assert list(map(bits, program(swapped, scalar.item()))) == list(map(bits, expected))


def test_python_numbers_are_weak(file: str) -> None:
    program, loaded = both(file, lambda x, k: x * k, Spec(()), Spec((), sk.int8))
    assert program(2, 3) == program(2.0, True * 3) == np.asarray(loaded(2.0, 3)) == 6
    with pytest.raises(DTypeError, match="k is a Python float"):
        program(2, 3.0)
    with pytest.raises(DTypeError, match="out of bounds for int8"):
        program(2, 300)


# ----- what a graph can hold ----------------------------------------------------------------------


def test_constants_keep_their_bits(file: str) -> None:
    values = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e308, 0.1]
    table = [np.asarray(v, kind) for v in values for kind in ("f8", "f4", "f2") if abs(v) < 6e4]

    def fn(x: Any) -> Any:
        arrays = [sk.asarray(np.asarray(v)) for v in table]
        big = sk.asarray(np.arange(4000).reshape(40, 100) * 1.5)
        return [sk.where(x, a, a) for a in arrays], sk.full((2,), -0.0), big + 0, sk.arange(3) == 1

    program, loaded = both(file, fn, Spec((), sk.bool))
    expected = fn(sk.asarray(True))
    for run in (program, loaded):
        out = run(True)
        assert list(map(bits, out[0])) == list(map(bits, expected[0]))
        assert list(map(bits, out[1:])) == list(map(bits, expected[1:]))


def sizes(x: Any) -> Any:
    n, m = x.shape
    a = (x / n).reshape((n * m,))
    b = sk.flip(x, axis=0) * (1 / (2 * n)) + 0.5**n
    c = sk.pad(x, ((1, 2), (0, m)))
    d = x[: n - 1, ::2].sum() + x[n // 2 :].sum() * (m % 3)
    e = sk.concat([x, x], axis=0).reshape((2, n, m)).sum(axis=0) / (n * m - 1)
    f = sk.arange(n * 2) * sk.asarray(n + m)
    g = sk.roll(x, 1, axis=0)[-1:] + x.mean() ** (-2 if m == 3 else 2)
    return [a, b, c, d, e, f, g, n // 2 + m, n / m]


def test_size_arithmetic(file: str) -> None:
    program, loaded = both(file, sizes, Spec(("n", 3)))
    for n in (2, 3, 7, 40):
        x = normal(n, 3)
        expected = list(map(bits, sizes(sk.asarray(x))))
        assert list(map(bits, program(x))) == expected
        assert admitted(sizes, [sk.asarray(x)], outcome(loaded, [x]))


def test_sizes_that_the_program_was_not_made_for(file: str) -> None:
    def fn(x: Any, y: Any) -> Any:
        return x.max() + (y.sum() if y.shape[0] > x.shape[0] else y.mean())

    program, loaded = both(file, fn, Spec(("n",)), Spec(("m",)))
    line = f"test_export.py:{fn.__code__.co_firstlineno + 1} in fn"
    for run in (program, loaded):
        assert bits(run(normal(3), normal(9))) == bits(
            fn(sk.asarray(normal(3)), sk.asarray(normal(9)))
        )
        with pytest.raises(ShapeError, match="it was made for n < m, and m = 3, n = 9") as caught:
            run(normal(9), normal(3))
        assert line in str(caught.value)
        with pytest.raises(ShapeError, match="it was made for n != 0, and n = 0"):
            run(normal(0), normal(3))


def test_an_index_out_of_bounds_names_the_users_line(file: str) -> None:
    def look(x: Any, i: Any) -> Any:
        rows = x * 2
        return rows[i]

    program, loaded = both(file, look, Spec(("n", 2)), Spec(("k",), sk.int64))
    x, i = normal(4, 2), np.array([0, -1, 3])
    assert bits(program(x, i)) == bits(loaded(x, i)) == bits((x * 2)[i])
    text = "index: index 4 is out of bounds for axis 0 of size 4"
    line = f"test_export.py:{look.__code__.co_firstlineno + 2} in look"
    for run in (program, loaded):
        with pytest.raises(BoundsError, match=text) as caught:
            run(x, np.array([4]))
        assert line in str(caught.value)


def test_a_check_runs_though_its_result_is_unused(file: str) -> None:
    def fn(x: Any, i: Any) -> Any:
        x[i]
        return x

    program, _ = both(file, fn, Spec((3,)), Spec((), sk.int64))
    with pytest.raises(BoundsError):
        program(normal(3), 3)


def test_gradient_inside_an_exported_function(file: str) -> None:
    def fn(x: Any) -> Any:
        return sk.grad(lambda x: (sk.tanh(x) ** 2 / x.shape[0]).sum())(x)

    agree(file, fn, [Spec(("n", 4))], *[(normal(n, 4),) for n in (2, 3, 9)])


def test_gradient_of_a_loaded_function(file: str) -> None:
    staged = sk.function(mlp)
    _, loaded = both(file, mlp, Spec(("batch", 8)))

    def gradients(f: Any, x: Any) -> list[Any]:
        loss = lambda x: (f(x) ** 2).sum()
        slope = sk.grad(loss)
        twice = sk.grad(lambda x: (slope(x) ** 2).sum())
        return [slope(x), twice(x), sk.jvp(loss, (x,), (sk.ones_like(x),))[1]]

    for n in (6, 3):  # the file was saved at no size
        x = sk.asarray(normal(n, 8))
        assert list(map(bits, gradients(loaded, x))) == list(map(bits, gradients(staged, x)))


def test_gradient_with_respect_to_loaded_state(file: str) -> None:
    _, loaded = both(file, mlp, Spec(("batch", 8)))
    x = sk.asarray(normal(5, 8))
    with sk.GradientTape(persistent=True) as tape:
        ours, original = loaded(x).sum(), sk.function(mlp)(x).sum()
    pairs = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    for name, variable in pairs.items():
        assert bits(tape.gradient(ours, loaded.state[name])) == bits(
            tape.gradient(original, variable)
        )


def test_a_loaded_function_is_saved_again_by_tracing_it(file: str, tmp_path: Path) -> None:
    _, loaded = both(file, mlp, Spec(("batch", 8)))
    again = tmp_path / "again.stagekit"
    sk.export.save(again, loaded["default"], Spec((5, 8)))
    program = runtime.load(again)
    assert set(program.state) == {"w1", "b1", "w2", "b2"}
    assert bits(program(normal(5, 8))) == bits(mlp(sk.asarray(normal(5, 8))))
    with pytest.raises(ShapeError):
        program(normal(4, 8))


def test_loaded_functions_retrace_twice_for_many_sizes(file: str) -> None:
    _, loaded = both(file, mlp, Spec(("batch", 8)))
    for n in (3, 9, 2, 31, 7, 100):
        loaded(normal(n, 8))
    assert loaded["default"].cache_info().traces == 2


def test_identities_for_tapes_are_kept_and_own_derivatives_dropped(file: str) -> None:
    @sk.custom_vjp
    def clipped(x: Any) -> Any:
        return x * 3

    clipped.defvjp(lambda x: (clipped(x), None), lambda _, ct: (ct * 0,))

    def fn(x: Any) -> Any:
        y = sk.checkpoint(lambda x: sk.sin(x) * 2)(x)
        return clipped(y) + sk.stop_gradient(x)

    line = fn.__code__.co_firstlineno + 2
    with pytest.warns(sk.StagekitWarning, match=rf"derivative of its own at test_export.py:{line}"):
        program, loaded = both(file, fn, Spec(("n",)))
    x = normal(4)
    assert bits(program(x)) == bits(loaded(x)) == bits(fn(sk.asarray(x)))
    slope = sk.grad(lambda x: loaded(x).sum())(sk.asarray(x))
    assert bits(slope) == bits(sk.grad(lambda x: (sk.sin(x) * 2 * 3).sum())(sk.asarray(x)))


# ----- every op -----------------------------------------------------------------------------------

SHARE = 24  # samples of an op, unless all are asked for


def calls_of(name: str, full: bool) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Samples of an op as functions of their operands, contiguous as an artifact gets them."""
    found = {}
    drawn = samples(name)
    for k, sample in enumerate(drawn[:: 1 if full else max(1, len(drawn) // SHARE)]):
        args = [a if weak_type(a) else np.asarray(a, order="C") for a in sample.args]
        attrs = sample.attrs
        found[str(k)] = (lambda *xs, attrs=attrs: OPS[name](*xs, **attrs)), tuple(args)
    return found


@pytest.mark.filterwarnings("ignore:save:stagekit.errors.StagekitWarning")
@pytest.mark.parametrize("name", [n for n, op in OPS.items() if not op.transparent])
def test_every_op_runs_from_a_file_as_eager(name: str, file: str, full: bool) -> None:
    calls = calls_of(name, full)
    assert calls, "an op has samples"
    sk.export.save(file, calls)
    program = runtime.load(file)
    for key, (fn, args) in calls.items():
        expected = fn(*[a if weak_type(a) else sk.asarray(a) for a in args])
        pairs = zip(tree.leaves(program[key](*args)), tree.leaves(expected), strict=True)
        assert all(bits(got) == bits(want) for got, want in pairs), (name, key)


# ----- what cannot be saved -----------------------------------------------------------------------


class Opaque:
    """An object that a file cannot hold."""


def _prints(x: Any) -> Any:
    print("seen")
    return x


def _branches(x: Any) -> Any:
    return x if x.sum() > 0 else -x


def _counts(x: Any) -> Any:
    return x * len(x)


REFUSED: list[tuple[Callable[..., Any], Any, type[Exception], str]] = [
    (_prints, Spec((2,)), ExportError, "print"),
    (_branches, Spec((2,)), DataDependentError, "bool"),
    (_counts, Spec(("n",)), ExportError, "the plain value of the size n"),
    (lambda x: Opaque(), Spec((2,)), TraceError, "an object that the call made"),
    (lambda x: {1.5: x}, Spec((2,)), ExportError, r"the key 1.5"),
    (lambda x: [x, 1j], Spec((2,)), ExportError, "a result is complex"),
]


@pytest.mark.parametrize(("fn", "spec", "error", "text"), REFUSED)
def test_refused_with_the_old_file_left(
    fn: Any, spec: Any, error: Any, text: str, file: str, capsys: Any
) -> None:
    sk.export.save(file, mlp, Spec(("n", 8)))
    before = Path(file).read_bytes()
    with pytest.raises(error, match=text) as caught:
        sk.export.save(file, fn, spec)
    if fn in (_prints, _branches, _counts):
        assert f"test_export.py:{fn.__code__.co_firstlineno + 1} in {fn.__name__}" in str(
            caught.value
        )
    assert Path(file).read_bytes() == before
    assert os.listdir(Path(file).parent) == ["model.stagekit"]


def test_writing_to_an_argument_is_refused(file: str) -> None:
    def put(x: Any) -> Any:
        x[0] = 1.0
        return x.sum()

    with pytest.raises(ExportError, match="default writes to its argument x"):
        sk.export.save(file, put, Spec((3,)))


def test_specs_and_variables_in_one_parameter_are_refused(file: str) -> None:
    with pytest.raises(ExportError, match="p mixes specs with Variables"):
        sk.export.save(file, lambda p: p[0] * p[1], (w1, Spec((8, 16))))


def test_wrong_uses_of_save(file: str) -> None:
    with pytest.raises(TypeError, match="give the specs with each function"):
        sk.export.save(file, {"f": (mlp, ())}, Spec((2,)))
    with pytest.raises(TypeError, match="'f' is no pair"):
        sk.export.save(file, {"f": mlp})


# ----- limits and the command ---------------------------------------------------------------------


def test_limits(file: str) -> None:
    def fn(x: Any) -> Any:
        return (sk.broadcast_to(x, (1000, x.shape[0])).reshape(-1) + 1).sum()

    sk.export.save(file, fn, Spec(("n",)))
    x = normal(50)
    assert bits(runtime.load(file, max_bytes=10**6, max_steps=9)(x)) == bits(fn(sk.asarray(x)))
    with pytest.raises(CheckError, match="more than max_bytes=100000"):
        runtime.load(file, max_bytes=100_000)(x)
    with pytest.raises(CheckError, match="more than max_steps=2"):
        runtime.load(file, max_steps=2)(x)


def test_terabytes_are_not_begun(file: str) -> None:
    sk.export.save(file, lambda x: sk.ones((x.shape[0],) * 5).sum(), Spec(("n",)))
    with pytest.raises(CheckError, match="max_bytes"):
        runtime.load(file, max_bytes=2**30)(np.zeros(1000, "f4"))


def test_command(file: str, tmp_path: Path, capsys: Any) -> None:
    def fn(params: Any, x: Any) -> Any:
        return {"y": x @ params["w"] + params["b"][0], "n": x.shape[0]}

    sk.export.save(file, fn, {"w": Spec((3, 2)), "b": [Spec((2,))]}, Spec(("n", 3)))
    arrays = {"params/w": normal(3, 2), "params/b/0": normal(2), "x": normal(4, 3)}
    inputs = []
    for k, (name, array) in enumerate(arrays.items()):
        np.save(tmp_path / f"{k}.npy", array)
        inputs += ["--input", f"{name}={tmp_path / f'{k}.npy'}"]
    out = str(tmp_path / "out.npz")
    assert runtime.main([file, *inputs, "--output", out]) == 0
    w, b, x = arrays.values()
    with np.load(out) as found:
        assert bits(found["result/y"]) == bits(x @ w + b)
        assert found["result/n"] == 4
    assert runtime.main([file, *inputs]) == 0
    assert "result/n = 4" in capsys.readouterr().out
    assert runtime.main([file, "--describe"]) == 0
    text = capsys.readouterr().out
    assert "default(params: {'w': f32[3,2], 'b': [f32[2]]}, x: f32[n,3])" in text
    assert "1 matmul" in text
    with pytest.raises(SystemExit, match="missing: --input params/b/0"):
        runtime.main([file, *inputs[:2]])
    with pytest.raises(SystemExit, match=r"use \.npz"):
        runtime.main([file, *inputs, "--output", "out.npy"])
    Path(file).write_bytes(b"nothing")
    assert runtime.main([file, "--describe"]) == 1
    assert "ArtifactError" in capsys.readouterr().err


def test_program_text_and_attributes(file: str) -> None:
    program, loaded = both(file, mlp, Spec(("n", 8)))
    assert program.backend == loaded.backend == "numpy"
    assert "default(x: f32[n,8]) -> f32[n,4]" in repr(program)
    assert repr(program["default"]) == "<default(x: f32[n,8]) -> f32[n,4]>"
    assert "'w1': f32[8,16]" in repr(program.state)
    assert dir(sk.export) == ["load", "runtime", "save"]
    assert sys.modules["stagekit.export.runtime"] is sk.export.runtime
