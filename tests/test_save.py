"""`sk.save` and `sk.load`: round trips, structure, misfits, files that are not well-formed."""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import stagekit as sk
import stagekit.types
from stagekit.export.safetensors import read, write

Pair = namedtuple("Pair", "first second")


@dataclass
class Layer:
    w: Any
    b: Any = None


class Box:
    def __init__(self, *items: Any) -> None:
        self.items = items


sk.register_pytree(Box, lambda box: (box.items, None), lambda aux, items: Box(*items))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def exact(a: Any, b: Any) -> bool:
    """Equal in class, type, shape and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (sk.Tensor, np.ndarray, np.generic)):
        x, y = np.asarray(a), np.asarray(b)
        same = (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        return same and getattr(a, "name", None) == getattr(b, "name", None)
    if isinstance(a, dict):
        return list(a) == list(b) and all(exact(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(exact, a, b))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (a != a and b != b))
    return bool(a == b)


NAN = float("nan")
DTYPES = [kind.dtype for kind in stagekit.types.DTYPES.values()]

numbers = st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.none()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
arrays = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
leaves = (
    numbers
    | texts
    | arrays
    | arrays.map(sk.asarray)
    | st.builds(sk.Variable, arrays, st.none() | texts)
    | arrays.filter(lambda a: a.size > 0).map(lambda a: a.reshape(-1)[0])
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(texts | st.integers(-(2**63), 2**63 - 1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(trees)
def test_round_trip_without_and_with_like(tmp_path_factory: Any, tree: Any) -> None:
    path = tmp_path_factory.mktemp("saved") / "t.safetensors"
    sk.save(path, tree)
    assert exact(sk.load(path), tree)
    assert exact(sk.load(path, like=tree), tree)
    assert exact(sk.load(path, like=sk.load(path)), tree)


@pytest.mark.parametrize(
    "value",
    [True, False, 0, -1, 2**80, -(2**80), 0.0, -0.0, 0.1, NAN, -math.inf, 5e-324, "é\0", None],
)
def test_a_scalar_keeps_its_type_and_value(path: Path, value: Any) -> None:
    sk.save(path, {"x": value})
    assert exact(sk.load(path), {"x": value})
    if value is not None:
        assert exact(sk.load(path, like={"x": type(value)()}), {"x": value})


def test_special_values_keep_their_bits(path: Path) -> None:
    bits = np.array([0x7FC00001, 0x80000000, 0xFF800000, 0x7F800001, 1], np.uint32)
    sk.save(path, sk.asarray(bits.view(np.float32)))
    assert sk.load(path).numpy().view(np.uint32).tolist() == bits.tolist()


def test_other_containers_come_back_as_builtin_ones(path: Path) -> None:
    x = sk.ones(1)
    tree = [
        Pair(x, 1),
        Layer(x, 2),
        Box(x, 3),
        OrderedDict(b=1, a=2),
        defaultdict(list, z=1),
        deque([1, 2]),
        {},
        (),
        [],
        None,
    ]
    sk.save(path, tree)
    plain = sk.load(path)
    expected = [
        (x, 1),
        {"w": x, "b": 2},
        (x, 3),
        {"b": 1, "a": 2},
        {"z": 1},
        [1, 2],
        {},
        (),
        [],
        None,
    ]
    assert exact(plain, expected)
    full = sk.load(path, like=tree)
    assert [type(item) for item in full] == [type(item) for item in tree]
    assert full[1].b == 2 and full[2].items[1] == 3 and full[5] == deque([1, 2])


def test_a_dict_keeps_its_order(path: Path) -> None:
    sk.save(path, {"z": 1, "a": {"y": 2, "b": 3}, 5: 4})
    assert [list(sk.load(path)), list(sk.load(path)["a"])] == [["z", "a", 5], ["y", "b"]]


def test_buffers_are_named_by_their_paths_for_any_reader(path: Path) -> None:
    sk.save(path, {"layers": [Layer(sk.ones((2, 3)), sk.Variable(sk.zeros(3)))], "step": 4})
    contents = load_file(path)
    assert set(contents) == {"['layers'][0].w", "['layers'][0].b"}
    np.testing.assert_array_equal(contents["['layers'][0].w"], np.ones((2, 3)))


def test_a_tree_that_is_one_tensor(path: Path) -> None:
    sk.save(path, sk.arange(3))
    assert sk.load(path).tolist() == [0, 1, 2]
    assert list(load_file(path)) == [""]


def test_an_object_that_occurs_twice_is_stored_once_and_stays_one(path: Path) -> None:
    v, x = sk.Variable(sk.zeros(2), "tied"), sk.ones(2)
    sk.save(path, {"encoder": v, "decoder": [v, x], "x": x, "equal": sk.ones(2)})
    assert len(load_file(path)) == 3
    tree = sk.load(path)
    assert tree["encoder"] is tree["decoder"][0] and tree["x"] is tree["decoder"][1]
    assert tree["equal"] is not tree["x"]
    like = {"encoder": v, "decoder": [v, x], "x": sk.zeros(2), "equal": sk.zeros(2)}
    filled = sk.load(path, like=like)
    assert filled["encoder"] is filled["decoder"][0] and filled["x"] is not filled["decoder"][1]
    like["equal"] = like["x"]
    with pytest.raises(sk.ArtifactError, match="one object with"):
        sk.load(path, like=like)


def test_like_stays_as_it_is_and_gives_class_and_name(path: Path) -> None:
    v = sk.Variable(sk.zeros(2), "mine")
    sk.save(path, {"v": sk.Variable(sk.ones(2), "theirs"), "x": np.ones(2, np.float32)})
    tree = sk.load(path, like={"v": v, "x": sk.zeros(2)})
    assert v.tolist() == [0.0, 0.0]
    assert tree["v"] is not v and type(tree["v"]) is sk.Variable and tree["v"].name == "mine"
    assert type(tree["x"]) is sk.Tensor and tree["v"].tolist() == [1.0, 1.0]
    assert type(sk.load(path, like={"v": sk.zeros(2), "x": sk.zeros(2)})["v"]) is sk.Tensor


def test_loaded_leaves_have_buffers_of_their_own(path: Path) -> None:
    sk.save(path, {"x": sk.ones(2), "a": np.ones(2)})
    tree = sk.load(path)
    tree["a"][0] = 5
    tree["x"][0] = 5
    path.write_bytes(b"\0" * path.stat().st_size)
    assert (tree["x"].tolist(), tree["a"].tolist()) == ([5.0, 1.0], [5.0, 1.0])


def test_a_misfit_lists_every_path(path: Path) -> None:
    sk.save(path, {"w": sk.ones((2, 3)), "b": sk.ones(3), "n": 1, "s": "t", "old": [1, 2]})
    like = {
        "w": sk.ones((3, 2)),
        "b": sk.ones(3, dtype=sk.float64),
        "n": 1.0,
        "s": "u",
        "new": (1,),
    }
    with pytest.raises(sk.ArtifactError) as caught:
        sk.load(path, like=like)
    assert str(caught.value).splitlines() == [
        f"load: {path} does not fit `like`:",
        "  missing in the file: ['new'][0]",
        "  only in the file: ['old'][0]",
        "  only in the file: ['old'][1]",
        "  ['w']: float32 (2, 3) in the file, float32 (3, 2) in `like`",
        "  ['b']: float32 (3,) in the file, float64 (3,) in `like`",
        "  ['n']: int in the file, float in `like`",
        f"  at {caught.value.location}",
        "  fix: load it without `like` to see what it holds",
    ]
    assert caught.value.location.filename == __file__


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": [1, b"x"]}, r"\['a'\]\[1\] is a bytes"),
        ({"a": b"x"}, r"\['a'\] is a bytes"),
        (object(), "the root is a object"),
        ({"a": np.array(["x"])}, r"\['a'\] is an array of <U1"),
        ({"a": np.zeros(1, "M8[s]")}, r"\['a'\] is an array of datetime64"),
        ({(1, 2): 1}, r"dict key \(1, 2\)"),
        ({1.5: 1}, r"dict key 1\.5"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_by_path(path: Path, tree: Any, text: str) -> None:
    with pytest.raises(sk.DTypeError, match=text):
        sk.save(path, tree)
    assert not path.exists()


def test_a_tree_too_deep_or_not_unicode_is_refused_at_once(path: Path) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    for tree in (deep, {"\ud800": 1}, ["\ud800"]):
        with pytest.raises(sk.ArtifactError, match="cannot hold this tree"):
            sk.save(path, tree)
    assert not path.exists()


def test_a_failed_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sk.save(path, {"x": 1})

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        sk.save(path, {"x": sk.ones(10)})
    assert sk.load(path) == {"x": 1}
    assert [item.name for item in path.parent.iterdir()] == [path.name]


# Files of others, and malformed ones


def test_a_file_of_another_writer_is_a_dict_of_its_tensors(path: Path) -> None:
    save_file({"a.w": np.ones((2, 2), np.float32), "b": np.arange(3)}, path)
    tree = sk.load(path)
    assert {name: (x.dtype, x.shape) for name, x in tree.items()} == {
        "a.w": (sk.float32, (2, 2)),
        "b": (sk.int64, (3,)),
    }


def test_a_program_is_refused(path: Path) -> None:
    write(path, {}, {"stagekit.program": "{}"})
    with pytest.raises(sk.ArtifactError, match=r"sk\.export\.load"):
        sk.load(path)


def test_no_file_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sk.load(path)


Change = Callable[[dict[str, Any]], Any]


def put(*keys: str, to: Any) -> Change:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        return document

    return change


def drop(*keys: str) -> Change:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        return document

    return change


LEAF = "['x']"
MALFORMED: list[Change] = [
    lambda document: [],
    lambda document: 7,
    drop("version"),
    put("version", to=2),
    put("version", to="1"),
    drop("leaves"),
    put("leaves", to=[]),
    put("leaves", to={}),
    drop("leaves", LEAF),
    put("leaves", LEAF, to=3),
    put("leaves", LEAF, to={}),
    put("leaves", LEAF, "kind", to="code"),
    put("leaves", LEAF, "kind", to=[]),
    put("leaves", LEAF, to={"kind": "same", "as": "['n']"}),
    put("leaves", LEAF, to={"kind": "same", "as": LEAF}),
    put("leaves", LEAF, to={"kind": "same", "as": "nowhere"}),
    put("leaves", LEAF, to={"kind": "variable", "name": 3}),
    put("leaves", "['n']", to={"kind": "tensor"}),
    put("leaves", "['n']", "value", to="one"),
    put("leaves", "['n']", "value", to=1),
    put("leaves", "['n']", "value", to=None),
    put("leaves", "['n']", to={"kind": "bool", "value": "yes"}),
    put("leaves", "['n']", to={"kind": "float", "value": "x"}),
    put("leaves", "['n']", to={"kind": "str", "value": 1}),
    drop("structure"),
    put("structure", to=1),
    put("structure", to="nowhere"),
    put("structure", to={}),
    put("structure", to={"list": [LEAF], "tuple": []}),
    put("structure", to={"set": [LEAF]}),
    put("structure", to={"list": 5}),
    put("structure", to={"dict": {"a": LEAF}}),
    put("structure", to={"dict": [[[1], LEAF]]}),
    put("structure", to={"dict": [["a", LEAF], ["a", LEAF]]}),
    put("structure", to={"dict": [["a"]]}),
]


@pytest.mark.parametrize("change", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_entry_is_refused(path: Path, change: Change) -> None:
    sk.save(path, {"x": sk.ones(2), "n": 1})
    tensors, metadata, dtypes = read(path, mmap=False)
    document = json.loads(metadata["stagekit.tree"])
    write(path, tensors, {"stagekit.tree": json.dumps(change(document))}, dtypes)
    with pytest.raises(sk.ArtifactError, match="malformed"):
        sk.load(path)


@given(st.binary(max_size=64), st.integers(0, 400))
def test_noise_never_does_anything_but_raise(tmp_path_factory: Any, noise: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("noise") / "t.safetensors"
    sk.save(path, {"x": sk.ones(2), "n": [1, 2.0, "s"]})
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        tree = sk.load(path)
    except sk.ArtifactError:
        return
    assert isinstance(tree, (dict, list, tuple, sk.Tensor, int, float, str, type(None)))
