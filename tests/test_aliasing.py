"""What shares memory and what does not: no buffer that can change is ever shared."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import stagekit as sk

# Into a tensor

LAYOUTS: dict[str, Callable[[], np.ndarray]] = {
    "C": lambda: np.arange(12.0).reshape(3, 4),
    "Fortran": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": lambda: np.arange(24.0).reshape(3, 8)[:, ::2],
    "reversed": lambda: np.arange(12.0).reshape(3, 4)[::-1],
    "0-d": lambda: np.array(1.0),
    "big-endian": lambda: np.arange(3, dtype=">f8"),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_asarray_copies_an_array(make: Callable[[], np.ndarray]) -> None:
    array = make()
    for x in (sk.asarray(array), sk.asarray(array, copy=True), sk.Variable(array)):
        before = x.numpy().copy()
        array[...] = -1
        np.testing.assert_array_equal(x.numpy(), before)
        array[...] = before


def test_asarray_copies_what_nested_lists_hold() -> None:
    row = np.ones(2)
    x = sk.asarray([row, row])
    row[:] = 5
    assert x.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_an_operand_that_is_an_array_is_copied() -> None:
    array = np.ones(2, np.float32)
    same = [sk.positive(array), sk.reshape(array, (2, 1)), sk.astype(array, sk.float32, copy=False)]
    array[:] = 5
    assert [x.numpy().max() for x in same] == [1.0, 1.0, 1.0]


def test_copy_false_shares_a_read_only_array_and_refuses_any_other() -> None:
    array = np.ones(3)
    with pytest.raises(ValueError, match="read-only"):
        sk.asarray(array, copy=False)
    with pytest.raises(ValueError, match="copy"):
        sk.asarray([1.0, 2.0], copy=False)
    array.flags.writeable = False
    assert np.shares_memory(sk.asarray(array, copy=False).numpy(), array)
    with pytest.raises(ValueError, match="copy"):
        sk.asarray(array, dtype=sk.float32, copy=False)


def test_asarray_of_a_tensor_is_that_tensor_unless_a_copy_is_asked_for() -> None:
    x = sk.ones(2)
    assert sk.asarray(x) is x
    assert sk.asarray(x, copy=False) is x
    other = sk.asarray(x, copy=True)
    other[0] = 9
    assert x.tolist() == [1.0, 1.0]


# Out of a tensor


@pytest.mark.parametrize(
    "view", [lambda x: x.numpy(), lambda x: np.asarray(x), lambda x: np.from_dlpack(x)]
)
@pytest.mark.parametrize("make", [sk.ones, lambda n: sk.Variable(sk.ones(n))])
def test_views_are_read_only_and_share_the_buffer(
    view: Callable[[Any], np.ndarray], make: Callable[[int], sk.Tensor]
) -> None:
    x = make(3)
    array = view(x)
    assert np.shares_memory(array, x.numpy())
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2
    x[0] = 5
    assert array.tolist() == [1.0, 1.0, 1.0]


def test_np_array_is_a_private_copy() -> None:
    x = sk.ones(2)
    for array in (np.array(x), np.asarray(x, dtype=np.float64), np.asarray(x, copy=True)):
        array[0] = 5
    assert x.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype=np.float64, copy=False)


# Writes


def test_augmented_assignment_makes_a_new_tensor() -> None:
    x = y = sk.ones(2)
    x += 1
    assert (x.tolist(), y.tolist()) == ([2.0, 2.0], [1.0, 1.0])
    assert x is not y


def test_there_is_no_operator_in_place() -> None:
    operators = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"]
    operators += ["and", "or", "xor", "lshift", "rshift"]
    assert [name for name in operators if hasattr(sk.Tensor, f"__i{name}__")] == []


def test_augmented_assignment_to_an_item_writes_into_the_cell() -> None:
    x = y = sk.ones(2)
    x[0] += 4
    assert y.tolist() == [5.0, 1.0]


TAKEN: dict[str, Callable[[Any], Any]] = {
    "slice": lambda x: x[:],
    "row": lambda x: x[0],
    "ellipsis": lambda x: x[...],
    "reshape": lambda x: x.reshape(4),
    "same shape": lambda x: x.reshape(2, 2),
    "transpose": lambda x: x.T,
    "broadcast": lambda x: sk.broadcast_to(x, (3, 2, 2)),
    "same broadcast": lambda x: sk.broadcast_to(x, (2, 2)),
    "astype": lambda x: x.astype(x.dtype),
    "squeeze": lambda x: sk.squeeze(x, axis=()),
    "positive": lambda x: +x,
    "copy": lambda x: x.copy(),
    "copy.copy": copy.copy,
    "stop_gradient": lambda x: sk.stop_gradient(x),
    "concat of one": lambda x: sk.concat([x]),
    "broadcast_arrays": lambda x: sk.broadcast_arrays(x, x)[0],
    "flip of no axis": lambda x: sk.flip(x, axis=()),
    "roll by 0": lambda x: sk.roll(x, 0),
    "clip without bounds": lambda x: sk.clip(x),
    "real round": lambda x: round(x.astype(sk.int64), 0),
    "expand": lambda x: x[None],
    "where": lambda x: sk.where(True, x, x),
    "split": lambda x: sk.split(x, 1)[0],
    "tile once": lambda x: sk.tile(x, 1),
    "pad by 0": lambda x: sk.pad(x, 0),
    "sum over no axis": lambda x: sk.sum(x, axis=()),
    "numpy": lambda x: x.numpy(),
}


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("make", [sk.ones, lambda shape: sk.Variable(sk.ones(shape))])
def test_a_write_is_seen_by_every_name_of_the_object_and_by_nothing_else(
    take: Callable[[Any], Any], make: Callable[[Any], sk.Tensor]
) -> None:
    x = name = make((2, 2))
    holder = {"x": x}
    part = take(x)
    before = np.array(part)
    x[0, 0] = 7
    assert name.tolist() == holder["x"].tolist() == [[7.0, 1.0], [1.0, 1.0]]
    np.testing.assert_array_equal(np.asarray(part), before)


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_a_write_into_a_result_is_not_seen_by_its_source(take: Callable[[Any], Any]) -> None:
    x = sk.ones((2, 2))
    part = take(x)
    if isinstance(part, sk.Tensor):
        part[...] = 7
    assert x.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_writes_through_slices_do_not_reach_the_source() -> None:
    x = sk.zeros((2, 2))
    row = x[0]
    row[0] = 1
    assert (row.tolist(), x.tolist()) == ([1.0, 0.0], [[0.0, 0.0], [0.0, 0.0]])


def test_at_gives_a_new_tensor() -> None:
    x = sk.zeros(2)
    assert x.at[0].set(1).tolist() == [1.0, 0.0]
    assert x.tolist() == [0.0, 0.0]


def test_the_value_written_is_not_shared() -> None:
    x, v = sk.zeros(3), sk.ones(3)
    x[:] = v
    v[0] = 9
    x[1] = 5
    assert (x.tolist(), v.tolist()) == ([1.0, 5.0, 1.0], [9.0, 1.0, 1.0])


# Variables


def test_value_is_a_snapshot() -> None:
    v = sk.Variable(sk.zeros(2))
    snapshot, view, array = v.value, v.value[:1], v.value.numpy()
    v.assign_add(sk.ones(2))
    v[0] = 9
    v.assign(sk.ones(2))
    assert (snapshot.tolist(), view.tolist(), array.tolist()) == ([0.0, 0.0], [0.0], [0.0, 0.0])
    snapshot[0] = 5
    assert v.tolist() == [1.0, 1.0]


def test_value_is_a_property_that_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        sk.Variable(1.0).value = sk.zeros(())  # type: ignore[misc]


def test_assign_and_construction_do_not_share_with_the_tensor_given() -> None:
    x = sk.zeros(2)
    v, w = sk.Variable(x), sk.Variable(sk.ones(2))
    w.assign(x)
    x[0] = 5
    v[1] = 7
    assert (v.tolist(), w.tolist(), x.tolist()) == ([0.0, 7.0], [0.0, 0.0], [5.0, 0.0])


def test_a_variable_of_a_variable_is_another() -> None:
    v = sk.Variable(sk.zeros(1))
    w = sk.Variable(v)
    v.assign_add(sk.ones(1))
    assert w.tolist() == [0.0]


# Copies and pickles


def test_augmented_assignment_of_a_variable_gives_a_tensor() -> None:
    v = w = sk.Variable(sk.zeros(1))
    v += 1
    assert type(v) is sk.Tensor
    assert w.tolist() == [0.0]


Pair = namedtuple("Pair", "first second")


@dataclass
class Layer:
    weight: sk.Variable
    scale: Any


def by_pickle(obj: Any) -> Any:
    return pickle.loads(pickle.dumps(obj))


def by_old_pickle(obj: Any) -> Any:
    return pickle.loads(pickle.dumps(obj, protocol=2))


COPIES = [copy.deepcopy, by_pickle, by_old_pickle]


@pytest.mark.parametrize("duplicate", [*COPIES, copy.copy])
@pytest.mark.parametrize(
    "array",
    [np.float32(2.5), np.zeros((2, 0), np.int8), np.array([True]), np.arange(6).reshape(2, 3)],
)
def test_a_tensor_is_copied_by_value(duplicate: Callable[[Any], Any], array: Any) -> None:
    x = sk.asarray(array)
    y = duplicate(x)
    assert type(y) is sk.Tensor and y is not x
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    x[...] = 0
    np.testing.assert_array_equal(y.numpy(), array)
    with pytest.raises(ValueError):
        y.numpy()[...] = 1


@pytest.mark.parametrize("duplicate", [*COPIES, copy.copy])
def test_a_variable_is_copied_by_value_with_its_name(duplicate: Callable[[Any], Any]) -> None:
    v = sk.Variable(sk.ones(2), name="w")
    w = duplicate(v)
    assert type(w) is sk.Variable and w is not v and w.name == "w"
    v.assign_add(sk.ones(2))
    assert w.tolist() == [1.0, 1.0]
    w.assign_add(sk.asarray([5.0, 5.0]))
    assert v.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("duplicate", COPIES)
def test_one_variable_stays_one_within_a_copy(duplicate: Callable[[Any], Any]) -> None:
    v = sk.Variable(sk.zeros(1), name="shared")
    x = sk.ones(1)
    model = {"layers": [Layer(v, x), Layer(v, None)], "pair": Pair(v, (x, [v]))}
    twin = duplicate(model)
    first, second = twin["layers"]
    w, y = first.weight, first.scale
    assert second.weight is w and twin["pair"].first is w and twin["pair"].second[1][0] is w
    assert twin["pair"].second[0] is y
    assert w is not v and y is not x
    w.assign_add(sk.ones(1))
    y[0] = 3
    assert second.weight.tolist() == [1.0] and twin["pair"].second[0].tolist() == [3.0]
    assert v.tolist() == [0.0] and x.tolist() == [1.0]


class Named(sk.Tensor):
    """A subclass with state of its own."""

    label = "none"


@pytest.mark.parametrize("duplicate", [*COPIES, copy.copy])
def test_a_subclass_is_copied_with_its_class_and_attributes(
    duplicate: Callable[[Any], Any],
) -> None:
    x = Named(sk.ones(2).numpy())
    x.label = "mine"
    y = duplicate(x)
    assert type(y) is Named and y.label == "mine"
    assert y.tolist() == [1.0, 1.0]
    x[0] = 4
    assert y.tolist() == [1.0, 1.0]


def test_a_traced_tensor_refuses_to_be_pickled_or_copied() -> None:
    for duplicate in COPIES:
        specs = sk.TensorSpec((2,), sk.float32)
        with pytest.raises(sk.TraceError):
            sk.function(lambda x, duplicate=duplicate: duplicate(x) + 1).trace(specs)
