"""Every rewrite rule is a true theorem, keeps the type, ends, and fires; a false one is caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.graph import Graph
from stagekit.plan import Plan
from stagekit.staging.rewrite import CLASSES, Rule, apply_rules, rule
from stagekit.staging.rules import PHASES, optimize
from tests.samples import special_values

RULES = [each for rules in PHASES.values() for each in rules]
TRACED = [each for each in RULES if each.sides is not None]

# Graphs on which the rules that look at a node fire, each with a shape for its input.
LOOKED_AT = {
    "reshape_of_reshape": ("f32[2,3]", ["reshape(%x, shape=(6,))", "reshape(%0, shape=(3, 2))"]),
    "reshape_to_the_same": ("f32[2,3]", ["reshape(%x, shape=(2, 3))"]),
    "permute_of_permute": (
        "f32[2,3,4]",
        ["permute(%x, axes=(2, 0, 1))", "permute(%0, axes=(0, 2, 1))"],
    ),
    "permute_in_order": ("f32[2,3]", ["permute(%x, axes=(0, 1))"]),
    "broadcast_of_broadcast": (
        "f32[1,3]",
        ["broadcast_to(%x, shape=(2, 3))", "broadcast_to(%0, shape=(4, 2, 3))"],
    ),
    "flip_of_flip": ("f32[2,3]", ["flip(%x, axes=(0,))", "flip(%0, axes=(0,))"]),
    "concat_of_one": ("f32[2,3]", ["concat(%x, axis=0)"]),
    "pad_of_nothing": (
        "f32[2,3]",
        ["full(dtype=float32, shape=(), value=0)",
         "pad(%x, %0, low=(0, 0), high=(0, 0), interior=(0, 0))"],
    ),
    "pads_side_by_side": (
        "f32[2,3]",
        ["full(dtype=float32, shape=(), value=0)",
         "pad(%x, %0, low=(0, 1), high=(0, 4), interior=(0, 0))",
         "pad(%x, %0, low=(0, 4), high=(0, 1), interior=(0, 0))", "add(%2, %1)"],
    ),
    "fold_side_by_side": (
        "f32[5,2,4,3,2]",
        ["fold(%x, extent=(6, 8), spacing=(1, 1), stride=(3, 2))"],
    ),
}
SHAPES = {
    "reshape_of_reshape": ["6", "3,2"],
    "reshape_to_the_same": ["2,3"],
    "permute_of_permute": ["4,2,3", "4,3,2"],
    "permute_in_order": ["2,3"],
    "broadcast_of_broadcast": ["2,3", "4,2,3"],
    "flip_of_flip": ["2,3", "2,3"],
    "concat_of_one": ["2,3"],
    "pad_of_nothing": ["", "2,3"],
    "pads_side_by_side": ["", "2,8", "2,8", "2,8"],
    "fold_side_by_side": ["5,6,8"],
}
SPELLED_OUT = {"fold_side_by_side", "pads_side_by_side"}  # in more nodes, but simpler ones


def graph_of(function: Any, *specs: Any) -> Graph:
    return sk.function(function).trace(*specs).graph


def bits(array: np.ndarray) -> Any:
    """The array with every NaN made the same."""
    kind = array.dtype
    return np.where(np.isnan(array), np.array(np.nan, kind), array).tobytes()


def is_true(each: Rule) -> bool:
    """Whether both sides agree on every combination of special and random values."""
    assert each.sides is not None
    function, count = each.sides
    rng = np.random.default_rng(1)
    for kind in ("float32", "float64", "float16"):
        pool = np.concatenate([special_values(kind), rng.normal(0, 3, 8).astype(kind)])
        grids = np.meshgrid(*[pool] * count)
        sides = function(*(sk.asarray(g.ravel()) for g in grids))
        left, right = (np.broadcast_to(np.asarray(side), grids[0].size) for side in sides)
        if bits(left) != bits(right):
            return False
    return True


def test_rules_have_names_theorems_and_classes() -> None:
    assert len({each.name for each in RULES}) == len(RULES)
    for each in RULES:
        assert each.theorem
        assert each.kind in CLASSES
        assert each.kind == "exact"  # the only class that equality bit by bit can check


@pytest.mark.parametrize("each", TRACED, ids=lambda each: each.name)
def test_a_traced_rule_is_true_and_fires(each: Rule) -> None:
    assert is_true(each)
    assert each.sides is not None
    function, count = each.sides
    specs = [sk.TensorSpec(("n", 3)) for _ in range(count)]
    graph = graph_of(lambda *xs: function(*xs)[0], *specs)
    better, log = apply_rules(graph, [each])
    assert [fired.rule for fired in log].count(each.name) >= 1
    assert better.outputs[0].type == graph.outputs[0].type
    assert len(better.nodes) <= len(graph.nodes)


@pytest.mark.parametrize("name", list(LOOKED_AT))
def test_a_rule_on_nodes_is_true_and_fires(name: str) -> None:
    kind, lines = LOOKED_AT[name]
    body = [f"  %{k}: f32[{SHAPES[name][k]}] = {line}" for k, line in enumerate(lines)]
    text = "\n".join([f"graph g(%x: {kind})", *body, f"  return %{len(lines) - 1}"])
    graph = Graph.parse(text)
    (each,) = (r for r in RULES if r.name == name)
    better, log = apply_rules(graph, [each])
    assert [fired.rule for fired in log] == [name]
    x = np.random.default_rng(0).normal(size=graph.inputs[0].type.shape).astype("float32")
    assert np.array_equal(Plan(graph)([x], {})[0], Plan(better)([x], {})[0])
    assert len(better.nodes) < len(graph.nodes) or name in SPELLED_OUT


def test_every_rule_is_tested() -> None:
    assert {each.name for each in RULES} == {each.name for each in TRACED} | set(LOOKED_AT)


def test_a_false_rule_is_caught() -> None:
    @rule()
    def product_with_zero(x: Any) -> Any:
        """x * 0 = 0"""
        return x * 0.0, sk.zeros_like(x)

    @rule()
    def plus_zero(x: Any) -> Any:
        """x + 0 = x"""
        return x + 0.0, x

    assert not is_true(product_with_zero)
    assert not is_true(plus_zero)  # -0 + 0 is 0


def test_a_result_of_another_type_is_refused() -> None:
    graph = graph_of(lambda x: x * sk.ones((4, 1)), sk.TensorSpec(("n",)))
    better, log = optimize(graph)
    assert log == []
    assert str(better.outputs[0].type) == "f32[4,n]"


def test_the_log_names_rule_and_line() -> None:
    concrete = sk.function(lambda x: -(-x) * 1.0).trace(sk.TensorSpec((3,)))
    assert [fired.rule for fired in concrete.log] == ["double_negation", "times_one"]
    assert all("test_rules.py" in str(fired.line) for fired in concrete.log)
    assert concrete.optimized.nodes == ()


def test_rules_keep_lines_and_checks() -> None:
    concrete = sk.function(lambda x, i: -(-x)[i]).trace(
        sk.TensorSpec((3,)), sk.TensorSpec((), sk.int64)
    )
    graph = concrete.optimized
    assert len(graph.checks) == 1
    assert all(graph.line(node) is not None for node in graph.nodes)
