"""`x[key]`, `x.at[key]` and `x[key] = v` are NumPy's for random keys; who sees a write."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stagekit as sk
from stagekit.errors import BoundsError, DTypeError, ShapeError

SHAPES = [(), (4,), (3, 4), (2, 3, 4), (1, 3), (0, 3), (3, 0, 2), (2, 1, 3, 2)]
AT = {"add": np.add, "multiply": np.multiply, "min": np.minimum, "max": np.maximum}


@st.composite
def slices(draw: Any, n: int) -> slice:
    bound = st.none() | st.integers(-n - 2, n + 2)
    step = st.none() | st.integers(-3, 3).filter(bool)
    return slice(draw(bound), draw(bound), draw(step))


@st.composite
def integer_arrays(draw: Any, n: int, legal: bool) -> np.ndarray:
    """Index arrays whose shapes mostly broadcast with each other."""
    shape = draw(st.sampled_from([(), (1,), (2,), (2, 1), (1, 2), (0,)] if n else [(0,)]))
    low, high = (-n, max(n - 1, 0)) if legal else (-n - 1, n)
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(low, high), min_size=size, max_size=size))
    kind = draw(st.sampled_from(["int64", "int32", "int8"]))
    return np.array(values, kind).reshape(shape)


@st.composite
def masks(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    values = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return np.array(values, bool).reshape(shape)


@st.composite
def keys(draw: Any, shape: tuple[int, ...], legal: bool = True, whole: bool = False) -> Any:
    """A random NumPy index expression, for all axes (`whole`) or some, with None and bools."""
    items: list[Any] = []
    axis, end = 0, len(shape) if whole else draw(st.integers(0, len(shape)))
    while axis < end:
        n = shape[axis]
        kind = draw(st.sampled_from(["slice", "slice", "int", "array", "array", "mask", "mask2"]))
        if kind == "int" and (n or not legal):
            items.append(draw(st.integers(-n, n - 1) if legal else st.integers(-n - 1, n)))
        elif kind == "array":
            items.append(draw(integer_arrays(n, legal)))
        elif kind == "mask":
            items.append(draw(masks((n,))))
        elif kind == "mask2" and axis + 2 <= end:
            items.append(draw(masks(shape[axis : axis + 2])))
            axis += 1
        else:
            items.append(draw(slices(n)))
        axis += 1
    for extra in draw(st.lists(st.sampled_from([None, None, True, False]), max_size=2)):
        items.insert(draw(st.integers(0, len(items))), extra)
    if not whole and draw(st.booleans()):
        # the ellipsis stands for the axes that the items leave over, so it only fits at the end
        items.append(Ellipsis)
    return items[0] if len(items) == 1 and draw(st.booleans()) else tuple(items)


def _flat(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def with_tensors(key: Any) -> Any:
    """The same key with arrays as tensors."""
    if isinstance(key, tuple):
        return tuple(map(with_tensors, key))
    return sk.asarray(key) if isinstance(key, np.ndarray) else key


def numbered(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.arange(1, 1 + int(np.prod(shape))).reshape(shape).astype(dtype)


def same(got: sk.Tensor, want: Any) -> bool:
    return np.array_equal(got.numpy(), want) and got.dtype == np.asarray(want).dtype


@given(st.data())
def test_reading_is_numpys(data: st.DataObject) -> None:
    x = numbered(data.draw(st.sampled_from(SHAPES)))
    key = data.draw(keys(x.shape))
    try:
        want = x[key]
    except IndexError:  # arrays that do not broadcast with each other
        with pytest.raises((BoundsError, ShapeError)):
            sk.asarray(x)[key]
        return
    assert same(sk.asarray(x)[key], want)
    assert same(sk.asarray(x)[with_tensors(key)], want)


@given(st.data())
def test_keys_out_of_range_raise_as_numpy_raises(data: st.DataObject) -> None:
    x = numbered(data.draw(st.sampled_from(SHAPES)))
    key = data.draw(keys(x.shape, legal=False))
    try:
        want = x[key]
    except IndexError:
        try:
            got = sk.asarray(x)[key]
        except (BoundsError, ShapeError):
            with pytest.raises((BoundsError, ShapeError)):
                sk.asarray(x).at[key].set(0)
        else:  # an index array that broadcasts to nothing reads nothing
            assert got.size == 0
    else:
        assert same(sk.asarray(x)[key], want)


@given(st.data())
def test_an_ellipsis_may_stand_anywhere(data: st.DataObject) -> None:
    x = numbered(data.draw(st.sampled_from(SHAPES)))
    cut = data.draw(st.integers(0, x.ndim))
    front = data.draw(keys(x.shape[:cut]))
    back = data.draw(keys(x.shape[cut:], whole=True))
    parts = [p for p in _flat(front) if p is not Ellipsis]
    key = (*parts, Ellipsis, *(p for p in _flat(back) if p is not Ellipsis))
    try:
        want = x[key]
    except IndexError:
        with pytest.raises((BoundsError, ShapeError)):
            sk.asarray(x)[key]
        return
    assert same(sk.asarray(x)[key], want)


def trimmed(value: np.ndarray, ndim: int) -> np.ndarray:
    """Without leading axes of size 1 in excess, which NumPy takes with some keys only."""
    return value.reshape(value.shape[max(value.ndim - ndim, 0) :])


@given(st.data(), st.sampled_from(["int32", "float32"]))
def test_writing_is_numpys(data: st.DataObject, dtype: str) -> None:
    x = numbered(data.draw(st.sampled_from(SHAPES)), dtype)
    key = data.draw(keys(x.shape))
    try:
        selected = x[key]
    except IndexError:
        with pytest.raises((BoundsError, ShapeError)):
            sk.asarray(x).at[key].set(0)
        return
    value = _value(data, selected.shape, dtype)
    want = x.copy()
    want[key] = trimmed(value, selected.ndim)
    t = sk.asarray(x)
    assert same(t.at[key].set(value), want)
    assert same(t, x)
    t[with_tensors(key)] = sk.asarray(value)
    assert same(t, want)


@given(st.data(), st.sampled_from(sorted(AT)), st.sampled_from(["int32", "float32", "float16"]))
def test_combining_is_numpys(data: st.DataObject, mode: str, dtype: str) -> None:
    x = numbered(data.draw(st.sampled_from(SHAPES)), dtype)
    key = data.draw(keys(x.shape))
    try:
        selected = x[key]
    except IndexError:
        return
    value = _value(data, selected.shape, dtype)
    # `ufunc.at` itself refuses some keys that indexing takes
    want, places = x.flatten(), np.arange(x.size).reshape(x.shape)[key]
    fitted = np.broadcast_to(trimmed(value, places.ndim), places.shape)
    AT[mode].at(want, places.ravel(), fitted.ravel())
    assert same(getattr(sk.asarray(x).at[key], mode)(value), want.reshape(x.shape))


def _value(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A value that broadcasts to `shape`, with ones in front, or without axes in front."""
    sizes = [n if data.draw(st.booleans()) else 1 for n in shape]
    lead = data.draw(st.integers(0, len(sizes)))
    if all(n == 1 for n in sizes[:lead]):
        sizes = sizes[lead:]
    elif data.draw(st.booleans()):
        sizes = [1, *sizes]
    return (numbered(tuple(sizes)) % 5 - 2).astype(dtype)


# ----- single cases -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        (slice(None), [0, 1]),
        [0, 0, -1],
        ([0, 1], slice(None), [0, 3]),
        (0, slice(None), [0, 3]),
        ([0, 1], None, [2, 2]),
        (np.int64(1), np.int8(-1)),
        (..., None),
        True,
        (np.True_, 0),
        (slice(None), False),
        ([0], ..., [1]),
        (slice(None), [0, 1], ..., [1, 2]),
        ([[1], [0]], 2, ..., 1),
        (..., 0, [1, 2]),
        (0, ..., [1, 2]),
        (0, [1], 2, ...),
        np.array([[True, False, True], [False, True, True]]),
        (slice(None, None, -2), slice(5, 0, -1), slice(-100, 100)),
    ],
    ids=str,
)
def test_mixed_keys(key: Any) -> None:
    x = numbered((2, 3, 4))
    assert same(sk.asarray(x)[key], x[key])
    want = x.copy()
    want[key] = 7
    assert same(sk.asarray(x).at[key].set(7), want)


def test_a_tensor_is_an_index_of_python_sequences_and_of_tensors() -> None:
    i = sk.asarray(2)
    assert [10, 20, 30][i] == 30
    assert sk.arange(5)[i].item() == 2
    assert same(sk.arange(5)[i:], np.arange(2, 5))


@pytest.mark.parametrize("key", [1.0, "a", sk.asarray(1.0), {}, (0, 1.5)], ids=str)
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(DTypeError, match="index"):
        sk.ones((2, 2))[key]
    with pytest.raises(DTypeError, match="index"):
        sk.ones((2, 2)).at[key].set(0)


def test_a_repeated_place_takes_the_last_value() -> None:
    index = sk.asarray([1, 0, 1, 1])
    assert sk.zeros(2).at[index].set(sk.asarray([1.0, 2.0, 3.0, 4.0])).tolist() == [2.0, 4.0]


def test_values_are_cast_to_the_tensors_type() -> None:
    x = sk.zeros(2, dtype=sk.int32)
    x[0] = 2.7
    assert x.tolist() == [2, 0]
    assert x.at[1].add(sk.asarray(1.9, dtype=sk.float64)).dtype == sk.int32


# ----- who sees a write ---------------------------------------------------------------------------


def test_every_name_of_the_object_sees_a_write() -> None:
    x = sk.zeros(3)
    y, held = x, {"x": x}
    x[1] = 5
    assert x is y is held["x"]
    assert y.tolist() == held["x"].tolist() == [0.0, 5.0, 0.0]


@pytest.mark.parametrize(
    "take",
    [
        lambda x: x[0:2],
        lambda x: x[...],
        lambda x: x.reshape(3, 1),
        lambda x: sk.broadcast_to(x, (2, 3)),
        lambda x: sk.permute_dims(x, (0,)),
        lambda x: sk.flip(x),
        lambda x: sk.asarray(x, copy=True),
        lambda x: sk.astype(x, sk.float32),
        lambda x: sk.stop_gradient(x),
        lambda x: sk.squeeze(x),
        lambda x: x.copy(),
        lambda x: +x,
        copy.copy,
        copy.deepcopy,
    ],
)
def test_what_was_taken_before_does_not(take: Any) -> None:
    x = sk.zeros(3)
    before = take(x)
    x[1] = 5
    assert not before.numpy().any()
    before[0] = 3
    assert x.tolist() == [0.0, 5.0, 0.0]


def test_arrays_given_to_numpy_do_not_see_a_write() -> None:
    x = sk.zeros(3)
    views = [x.numpy(), np.asarray(x)]
    x[1] = 5
    for view in views:
        assert not view.any()
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_no_result_aliases_an_array_of_the_user() -> None:
    array = np.zeros((2, 3), "float32")
    index = np.array([0, 1])
    results = [
        sk.asarray(array),
        sk.asarray(array)[0],
        sk.asarray(array) + array,
        sk.concat([array]),
        sk.broadcast_to(array, (4, 2, 3)),
        sk.zeros((2, 3)).at[...].set(array),
        sk.asarray([array, array]),
    ]
    t = sk.zeros((2, 3))
    t[...] = array
    gathered = sk.asarray([5.0, 6.0])[index]
    array[...] = 7
    index[...] = 0
    assert not any(r.numpy().any() for r in [*results, t])
    assert gathered.tolist() == [5.0, 6.0]


def test_copy_false_wants_a_read_only_array() -> None:
    array = np.ones(3, "float32")
    with pytest.raises(ValueError, match="read-only"):
        sk.asarray(array, copy=False)
    array.flags.writeable = False
    assert sk.asarray(array, copy=False).tolist() == [1.0, 1.0, 1.0]


def test_an_augmented_assignment_makes_a_new_object() -> None:
    x = sk.zeros(3)
    y = x
    x += 1
    assert x is not y
    assert y.tolist() == [0.0, 0.0, 0.0]


def test_an_augmented_assignment_to_a_part_writes_into_the_cell() -> None:
    x = sk.zeros(3)
    y = x
    x[1] += 2
    assert x is y
    assert y.tolist() == [0.0, 2.0, 0.0]


def test_a_write_that_fails_changes_nothing() -> None:
    x = sk.zeros(3)
    for key, value in ((5, 1.0), (0, [1.0, 2.0]), (sk.asarray([0, 9]), 1.0)):
        with pytest.raises((BoundsError, ShapeError)):
            x[key] = value
    assert not x.numpy().any()


def test_a_value_that_is_the_tensor_itself() -> None:
    x = sk.arange(4)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2]
    x[...] = x[::-1]
    assert x.tolist() == [2, 1, 0, 0]
