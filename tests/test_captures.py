"""What a staged function reads besides its arguments: found by path, read again at every call."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

import stagekit as sk

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")

X = sk.asarray([1.0, 2.0])


def traces(f: Any) -> int:
    return int(f.cache_info().traces)


W = sk.asarray(2.0)
ARRAY = np.asarray([2.0, 3.0], np.float32)
RATE = 2.0
TABLE: dict[str, Any] = {}
ROWS: list[Any] = []


class Model:
    pass


# ----- tensors ------------------------------------------------------------------------------------


def test_rebinding_a_global_is_seen() -> None:
    global W

    @sk.function
    def f(x: Any) -> Any:
        return x * W

    W = sk.asarray(2.0)
    assert f(X).tolist() == [2.0, 4.0]
    W = sk.asarray(3.0)
    assert f(X).tolist() == [3.0, 6.0]
    assert traces(f) == 1


def test_rebinding_a_closure_cell_is_seen() -> None:
    w = sk.asarray(2.0)

    @sk.function
    def f(x: Any) -> Any:
        return x * w

    assert f(X).tolist() == [2.0, 4.0]
    w = sk.asarray(3.0)
    assert f(X).tolist() == [3.0, 6.0]
    assert traces(f) == 1


def test_rebinding_an_attribute_is_seen() -> None:
    model: Any = Model()
    model.inner = Model()
    model.inner.w = sk.asarray(2.0)

    @sk.function
    def f(x: Any) -> Any:
        return x * model.inner.w

    assert f(X).tolist() == [2.0, 4.0]
    model.inner.w = sk.asarray(3.0)
    assert f(X).tolist() == [3.0, 6.0]
    model.inner = Model()
    model.inner.w = sk.asarray(4.0)
    assert f(X).tolist() == [4.0, 8.0]
    assert traces(f) == 1


def test_rebinding_a_list_element_and_a_dict_entry_is_seen() -> None:
    ROWS[:] = [sk.asarray(2.0), sk.asarray(1.0)]
    TABLE["w"] = sk.asarray(1.0)

    @sk.function
    def f(x: Any) -> Any:
        return x * ROWS[0] * TABLE["w"]

    assert f(X).tolist() == [2.0, 4.0]
    ROWS[0] = sk.asarray(3.0)
    assert f(X).tolist() == [3.0, 6.0]
    TABLE["w"] = sk.asarray(2.0)
    assert f(X).tolist() == [6.0, 12.0]
    assert traces(f) == 1


def test_the_layers_of_a_loop_are_captured_each() -> None:
    layers = [sk.asarray(2.0), sk.asarray(3.0)]

    @sk.function
    def f(x: Any) -> Any:
        for w in layers:
            x = x * w
        return x

    assert f(X).tolist() == [6.0, 12.0]
    layers[1] = sk.asarray(5.0)
    assert f(X).tolist() == [10.0, 20.0]
    assert traces(f) == 1
    layers.append(sk.asarray(2.0))
    assert f(X).tolist() == [20.0, 40.0]
    assert traces(f) == 2


def test_a_helper_two_calls_deep_reads_by_path_too() -> None:
    holder: Any = Model()
    holder.w = sk.asarray(2.0)

    def inner(x: Any) -> Any:
        return x * holder.w

    def outer(x: Any) -> Any:
        return inner(x)

    f = sk.function(lambda x: outer(x))
    assert f(X).tolist() == [2.0, 4.0]
    holder.w = sk.asarray(3.0)
    assert f(X).tolist() == [3.0, 6.0]
    assert traces(f) == 1


def test_writing_into_a_captured_array_is_seen() -> None:
    @sk.function
    def f(x: Any) -> Any:
        return x * ARRAY

    assert f(X).tolist() == [2.0, 6.0]
    ARRAY[0] = 5.0
    assert f(X).tolist() == [5.0, 6.0]
    ARRAY[0] = 2.0
    assert traces(f) == 1


def test_writing_into_a_captured_tensor_is_seen() -> None:
    w = sk.asarray([2.0, 3.0])
    f = sk.function(lambda x: x * w)
    assert f(X).tolist() == [2.0, 6.0]
    w[0] = 5.0
    assert f(X).tolist() == [5.0, 6.0]
    assert traces(f) == 1


def test_another_dtype_rank_or_kind_makes_a_new_trace() -> None:
    w: Any = sk.asarray(2.0)

    @sk.function
    def f(x: Any) -> Any:
        return x * w

    f(X)
    for other in (
        sk.asarray(2, dtype=sk.int32),
        sk.asarray([2.0, 2.0]),
        sk.Variable(2.0),
        np.asarray([2.0, 2.0], np.float32),
        2.0,
    ):
        w = other
        assert f(X).tolist() == [2.0, 4.0]
        assert f(X).tolist() == [2.0, 4.0]
    assert traces(f) == 6


def test_the_second_size_of_a_captured_tensor_is_symbolic() -> None:
    w = sk.ones(2)

    @sk.function
    def f(x: Any) -> Any:
        return x * sk.sum(w) / w.shape[0]

    for n in (2, 3, 4, 5, 9):
        w = sk.ones(n) * 3
        assert f(X).tolist() == [3.0, 6.0]
    assert traces(f) == 2


def test_a_capture_that_is_also_an_argument() -> None:
    w = sk.asarray([1.0, 2.0])

    @sk.function
    def f(x: Any) -> Any:
        x[0] = 10.0
        return w * 1

    assert f(w).tolist() == [10.0, 2.0]
    w = sk.asarray([1.0, 2.0])
    assert f(sk.asarray([5.0, 6.0])).tolist() == [1.0, 2.0]
    assert f(w).tolist() == [10.0, 2.0]
    v = w = sk.asarray([3.0, 4.0])
    assert f(v).tolist() == [10.0, 4.0]


def test_a_tensor_without_a_path_is_held_by_identity() -> None:
    w = sk.asarray([3.0, 4.0])
    hidden = weakref.ref(w)
    f = sk.function(lambda x: x * hidden())
    for _ in range(2):
        assert f(X).tolist() == [3.0, 8.0]
    w[0] = 5.0
    assert f(X).tolist() == [5.0, 8.0]
    assert traces(f) == 1
    assert "captures held, held by identity (test_captures.py:" in str(f.explain())


# ----- numbers and other guards -------------------------------------------------------------------


def test_rebinding_a_number_is_seen() -> None:
    global RATE
    rate, model = 2.0, Model()
    model.rate = 2.0  # type: ignore[attr-defined]
    rows, table = [2.0], {"rate": 2.0}

    @sk.function
    def f(x: Any) -> Any:
        return x * RATE * rate * model.rate * rows[0] * table["rate"]  # type: ignore[attr-defined]

    RATE = 2.0
    assert f(X).tolist() == [32.0, 64.0]
    RATE = 3.0
    assert f(X).tolist() == [48.0, 96.0]
    rate = 1.0
    assert f(X).tolist() == [24.0, 48.0]
    model.rate = 1.0  # type: ignore[attr-defined]
    assert f(X).tolist() == [12.0, 24.0]
    rows[0] = 1.0
    assert f(X).tolist() == [6.0, 12.0]
    table["rate"] = 1.0
    assert f(X).tolist() == [3.0, 6.0]
    RATE = 2.0
    assert f(X).tolist() == [2.0, 4.0]
    assert traces(f) == 7


@pytest.mark.parametrize(
    "values", [(True, False), ("a", "b"), (None, 1.0), ((1, 2), (1, 3)), (0.0, -0.0), (1, 1.0)]
)
def test_other_scalars_are_guards(values: tuple[Any, Any]) -> None:
    mode: Any = None

    @sk.function
    def f(x: Any) -> Any:
        return x * 2, mode

    for mode in (*values, *values):
        assert repr(f(X)[1]) == repr(mode)
    assert traces(f) == 2


def test_the_third_value_of_a_number_warns_once() -> None:
    model: Any = Model()
    model.step = 0

    @sk.function
    def f(x: Any) -> Any:
        return x * model.step

    with pytest.warns(sk.StagekitWarning) as record:
        for step in range(6):
            model.step = step
            assert f(X).tolist() == [step, 2.0 * step]
    assert len(record) == 1
    text = str(record[0].message)
    assert "model.step has had 3 values (0, 1, 2)" in text and "make it a Variable" in text


def test_a_changed_helper_and_a_changed_class_are_seen() -> None:
    def helper(x: Any) -> Any:
        return x * 2

    @sk.function
    def f(x: Any) -> Any:
        return helper(x)

    assert f(X).tolist() == [2.0, 4.0]

    def helper(x: Any) -> Any:  # type: ignore[no-redef]  # noqa: F811
        return x * 3

    assert f(X).tolist() == [3.0, 6.0]


def test_what_did_not_exist_and_then_does_is_seen() -> None:
    model: Any = Model()
    table: dict[str, Any] = {}

    @sk.function
    def f(x: Any) -> Any:
        return x * getattr(model, "scale", 1.0) * table.get("scale", 1.0)

    assert f(X).tolist() == [1.0, 2.0]
    model.scale = 2.0
    assert f(X).tolist() == [2.0, 4.0]
    table["scale"] = 2.0
    assert f(X).tolist() == [4.0, 8.0]
    del model.scale
    assert f(X).tolist() == [2.0, 4.0]


# ----- constants ----------------------------------------------------------------------------------


def test_an_array_made_during_the_trace_is_listed_as_a_constant() -> None:
    @sk.function
    def f(x: Any) -> Any:
        return x * np.arange(2, dtype=np.float32)

    for _ in range(2):
        assert f(X).tolist() == [0.0, 2.0]
    assert "constant computed by NumPy: shape (2,), 8 bytes (test_captures.py:" in str(f.explain())


def test_a_large_constant_warns() -> None:
    @sk.function
    def f(x: Any) -> Any:
        return sk.sum(x * np.ones((500_001, 1), np.float32))

    with pytest.warns(sk.StagekitWarning, match=r"2000004 bytes at test_captures.py:\d+ in f"):
        f(X)


def test_the_result_may_be_a_capture_itself() -> None:
    w, items = sk.asarray(2.0), [1, 2]

    @sk.function
    def f(x: Any) -> Any:
        return w, items, x

    for _ in range(2):
        a, b, c = f(X)
        assert a is w and c is X
        assert b == [1, 2]


def test_specs_and_captures_together() -> None:
    w = sk.asarray([2.0, 3.0])
    f = sk.function(lambda x: x @ w)
    concrete = f.trace(sk.TensorSpec(("n", 2)))
    assert "f32[2]" in str(concrete.graph)
    assert concrete(sk.ones((3, 2)), w).tolist() == [5.0, 5.0, 5.0]
