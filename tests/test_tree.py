"""Pytrees: what is structure, in which order leaves come, and how a leaf is named."""

from __future__ import annotations

import collections
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stagekit as sk
from stagekit import tree


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Layer:
    w: Any
    b: Any = None


@dataclass(frozen=True, slots=True)
class Model:
    layers: list[Layer]
    scale: Any


@dataclass
class Derived(Layer):
    extra: Any = field(default=0, kw_only=True)


def roundtrip(obj: Any) -> Any:
    leaves, spec = tree.flatten(obj)
    return tree.unflatten(spec, leaves)


@pytest.mark.parametrize(
    ("obj", "leaves"),
    [
        (1, [1]),
        (None, []),
        ((), []),
        ([], []),
        ({}, []),
        ((1, [2, None, {"b": 3, "a": (4,)}]), [1, 2, 3, 4]),
        (Point(1, [2, 3]), [1, 2, 3]),
        (Model([Layer(1), Layer(2, 3)], {"s": 4}), [1, 2, 3, 4]),
        (Derived(1, 2, extra=3), [1, 2, 3]),
        (collections.OrderedDict(b=1, a=2), [1, 2]),
        (collections.defaultdict(list, b=1, a=2), [1, 2]),
        (collections.deque([1, 2]), [1, 2]),
        ({1: "a", "k": 2.5, None: True}, ["a", 2.5, True]),
        ({1, 2}, [{1, 2}]),
        ("text", ["text"]),
    ],
    ids=repr,
)
def test_structure(obj: Any, leaves: list[Any]) -> None:
    assert tree.leaves(obj) == leaves
    assert roundtrip(obj) == obj
    assert type(roundtrip(obj)) is type(obj)


def test_tensors_and_data_types_are_leaves() -> None:
    x, v = sk.ones(3), sk.Variable(0.0)
    spec = sk.TensorSpec(("n", 3))
    leaves = tree.leaves((x, {"v": v, "dtype": sk.float32, "spec": spec}))
    assert [a is b for a, b in zip(leaves, (x, v, sk.float32, spec), strict=True)] == [True] * 4
    assert roundtrip({"dtype": sk.int8})["dtype"] is sk.int8


def test_a_dict_keeps_its_order_and_fits_one_in_another() -> None:
    ab, ba = {"a": 1, "b": 2}, {"b": 20, "a": 10}
    assert tree.leaves(ba) == [20, 10]
    assert list(roundtrip(ba)) == ["b", "a"]
    assert tree.flatten(ab)[1] != tree.flatten(ba)[1]
    assert tree.map(lambda x, y: (x, y), ab, ba) == {"a": (1, 10), "b": (2, 20)}
    assert tree.flatten_as(tree.flatten((ab, [0]))[1], (ba, [5])) == [10, 20, 5]


def test_the_order_holds_in_a_new_process_and_leaves_others_alone() -> None:
    """Registering ends with the object that began it, which must therefore be kept."""
    code = (
        "import gc, optree\n"
        "from stagekit import tree\n"
        "gc.collect()\n"
        "print(tree.leaves({'b': 1, 'a': 2}), optree.tree_leaves({'b': 1, 'a': 2}))"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[1, 2] [2, 1]\n", "")


@pytest.mark.parametrize(
    "other",
    [(1, 2), [1, 2, 3], {"a": 1}, {"a": 1, "c": 2}, Point(1, 2), 7, [1, [2, 3]]],
    ids=repr,
)
def test_another_structure_is_refused(other: Any) -> None:
    structure = [1, [2, 3, 4]] if other == [1, [2, 3]] else {"a": 1, "b": 2}
    with pytest.raises(ValueError):
        tree.map(lambda x, y: x, structure, other)
    with pytest.raises(ValueError):
        tree.flatten_as(tree.flatten(structure)[1], other)


def test_paths_are_what_the_user_writes() -> None:
    obj = {"model": Model([Layer(1, None), Layer(2, 3)], 4), "p": Point(5, (6,)), 7: [8]}
    names = tree.paths(tree.flatten(obj)[1], "args[0]")
    assert names == [
        "args[0]['model'].layers[0].w",
        "args[0]['model'].layers[1].w",
        "args[0]['model'].layers[1].b",
        "args[0]['model'].scale",
        "args[0]['p'].x",
        "args[0]['p'].y[0]",
        "args[0][7][0]",
    ]
    for name, leaf in zip(names, tree.leaves(obj), strict=True):
        assert eval(name, {"args": [obj]}) == leaf
    assert tree.paths(tree.flatten(3)[1], "x") == ["x"]


def test_outline() -> None:
    spec = tree.flatten(({"b": 1, "a": [2, None]}, Point(3, 4)))[1]
    assert tree.outline(spec) == "({'b': *, 'a': [*, None]}, Point(x=*, y=*))"


def test_register_pytree() -> None:
    class Pair:
        def __init__(self, a: Any, b: Any, name: str) -> None:
            self.a, self.b, self.name = a, b, name

    assert len(tree.leaves(Pair(1, 2, "p"))) == 1
    sk.register_pytree(
        Pair, lambda p: ((p.a, p.b), p.name), lambda name, children: Pair(*children, name)
    )
    assert tree.leaves({"p": Pair(1, [2, 3], "p")}) == [1, 2, 3]
    other = tree.map(lambda x: x * 10, Pair(1, 2, "p"))
    assert (other.a, other.b, other.name) == (10, 20, "p")
    assert tree.flatten(Pair(1, 2, "p"))[1] != tree.flatten(Pair(1, 2, "q"))[1]
    with pytest.raises(ValueError, match="registered"):
        sk.register_pytree(Pair, lambda p: ((), None), lambda aux, c: Pair(1, 2, "p"))


def test_gradients_of_registered_types_and_dataclasses() -> None:
    model = Model([Layer(sk.ones(2), sk.zeros(2))], sk.asarray(3.0))
    g = sk.grad(lambda m, x: m.scale * sk.sum(m.layers[0].w * x + m.layers[0].b))(model, 2.0)
    assert isinstance(g, Model)
    assert (g.layers[0].w.tolist(), g.layers[0].b.tolist()) == ([6.0, 6.0], [3.0, 3.0])
    assert g.scale.item() == 4.0


def test_a_class_is_registered_once_by_many_threads() -> None:
    for _ in range(20):

        @dataclass
        class Local:
            a: int
            b: int

        found: list[list[int]] = []
        start = threading.Barrier(4)

        def work(cls: Any = Local, start: Any = start, found: Any = found) -> None:
            start.wait()
            found.append(tree.leaves([cls(1, 2), cls(3, 4)]))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[1, 2, 3, 4]] * 4


TREES = st.recursive(
    st.none() | st.integers() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Layer, inner, inner)
    ),
    max_leaves=12,
)


@given(TREES)
def test_any_tree_comes_back(obj: Any) -> None:
    leaves, spec = tree.flatten(obj)
    assert roundtrip(obj) == obj
    assert tree.map(lambda x: x, obj) == obj
    assert tree.flatten_as(spec, obj) == leaves
    assert len(tree.paths(spec, "t")) == len(leaves) == spec.num_leaves
    assert [eval(name, {"t": obj}) for name in tree.paths(spec, "t")] == leaves
