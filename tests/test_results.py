"""Ops with several results: one node with a projection for each, a tuple in every interpreter.

`eigh` is one; `parts` is declared here: a float and an integer result, which can fail on values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.autodiff import Tape
from stagekit.errors import ArtifactError, BoundsError, CheckError, StagekitError
from stagekit.export import runtime
from stagekit.graph import Graph
from stagekit.op import OPS, Op, current, using
from stagekit.plan import Plan
from stagekit.staging.rewrite import apply_rules
from stagekit.testing import assert_staged_equal, check_grads
from stagekit.types import int64
from stagekit.verify import verify
from tests.test_artifact import parts as parts_of
from tests.test_artifact import rewritten

SPEC = sk.TensorSpec(("b", "n", "n"), sk.float64)


def eigh(x: Any) -> Any:
    return OPS["eigh"](x)


def matrices(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng([seed, *shape]).normal(size=(*shape, shape[-1]))
    return x + np.swapaxes(x, -1, -2)


X = matrices(2, 3)

# ----- an op of our own ---------------------------------------------------------------------------

given_to_vjp: list[Any] = []


def _parts_value(xp: Any, x: Any) -> Any:
    if (x > 1e6).any():
        raise BoundsError("parts: an element is too large", fix="give smaller ones")
    whole = xp.floor(x)
    return (x - whole)[()], whole.astype(np.int64)[()], (x * 3.0)[()]  # NumPy scalars if 0-d


def _parts_vjp(i: int, cts: Any, outs: Any, xs: Any, attrs: Any) -> Any:
    given_to_vjp.append([ct is not None for ct in cts])
    assert len(outs) == 3
    fraction, _, triple = cts
    found = [ct for ct in (fraction, None if triple is None else triple * 3.0) if ct is not None]
    return sum(found[1:], start=found[0])


@pytest.fixture
def parts() -> Iterator[Op]:
    given_to_vjp.clear()
    op = Op(
        "parts",
        several=True,
        infer=lambda x: (x, x.with_dtype(int64), x),
        evaluate=_parts_value,
        library="a test",
        vjp=_parts_vjp,
        jvp=lambda ts, outs, xs, attrs: (ts[0], None, ts[0] * 3.0),
        checks=True,
    )
    yield op
    del OPS["parts"]


def test_a_call_gives_a_tuple_of_tensors(parts: Op) -> None:
    for x in (np.array([1.5, -0.25]), np.array(2.75)):
        for f in (parts, sk.function(lambda x: OPS["parts"](x))):
            for _ in range(2):
                fraction, whole, triple = f(sk.asarray(x))
                assert np.array_equal(fraction, x - np.floor(x))
                assert np.array_equal(whole, np.floor(x))
                assert np.array_equal(triple, 3 * x)
                assert (fraction.dtype, whole.dtype) == (sk.float64, sk.int64)
                assert fraction.shape == x.shape


def test_integer_results_and_results_without_cotangent(parts: Op) -> None:
    x = np.array([1.5, -0.25])
    check_grads(lambda x: parts(x)[::2], (x,))
    given_to_vjp.clear()
    assert sk.grad(lambda x: sk.sum(parts(x)[2]))(x).tolist() == [3, 3]
    assert sk.grad(lambda x: sk.sum(parts(x)[0] * parts(x)[1]))(x).tolist() == [1, -1]
    assert given_to_vjp == [[False, False, True], [True, False, False]]
    given_to_vjp.clear()
    assert sk.grad(lambda x: sk.sum(sk.astype(parts(x)[1], sk.float64)))(x).tolist() == [0, 0]
    assert given_to_vjp == []


@pytest.mark.parametrize("wrap", [lambda f: f, sk.function], ids=["eager", "staged"])
def test_a_failed_check_is_raised_though_nothing_is_used(
    parts: Op, wrap: Callable[..., Any]
) -> None:
    def unused(x: Any) -> Any:
        OPS["parts"](x)
        return x

    f = wrap(unused)
    assert f(sk.ones(2)).tolist() == [1, 1]
    for _ in range(2):
        with pytest.raises(BoundsError, match="parts: an element is too large") as caught:
            f(sk.full((2,), 1e7))
        assert caught.value.location is not None
        assert caught.value.location.filename == __file__


def test_the_trap_looks_at_every_result(parts: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    f = sk.function(lambda x: OPS["parts"](x)[2])
    f(sk.ones(2)), f(sk.ones(2))
    monkeypatch.setattr(sk.config, "trap", "nan")
    for call in (parts, f, sk.function(lambda x: OPS["parts"](x))):
        with pytest.raises(CheckError, match="parts: the result holds NaN"):
            call(sk.asarray([sk.nan, 1.0]))


# ----- derivatives --------------------------------------------------------------------------------


def spectrum(x: Any) -> Any:
    return eigh(x)[0]


def root(x: Any) -> Any:
    """A matrix function: it does not depend on the signs of the eigenvectors."""
    w, v = eigh(x)
    return (v * sk.expand_dims(sk.tanh(w), axis=-2)) @ v.mT


@pytest.mark.parametrize("f", [spectrum, root, eigh])
def test_derivatives_of_any_order_through_both_stages(f: Callable[..., Any]) -> None:
    check_grads(f, (X,), order=2)
    check_grads(sk.function(f), (X,), order=2)
    check_grads(lambda x: sk.checkpoint(f)(x), (X,), order=1)


def test_higher_derivatives_of_eigenvalues() -> None:
    check_grads(spectrum, (X,), order=3)


def test_across_the_border_of_staging() -> None:
    inner = sk.function(root)
    loss = lambda x: sk.sum(inner(x) ** 2)
    want = sk.grad(lambda x: sk.sum(root(x) ** 2))(X)
    for gradient in (sk.grad(loss), sk.function(sk.grad(loss)), sk.grad(sk.function(loss))):
        for _ in range(2):
            np.testing.assert_allclose(gradient(X), want, rtol=1e-12, atol=1e-13)
    want = sk.jvp(root, (X,), (X,))[1]
    np.testing.assert_allclose(sk.jvp(inner, (X,), (X,))[1], want, rtol=1e-12, atol=1e-13)


def test_the_backward_keeps_single_results() -> None:
    """What a forward keeps for its backward are tensors, never several results in one."""
    staged = sk.function(root)
    for _ in range(2):
        sk.grad(lambda x: sk.sum(staged(x)))(X)
    (pair,) = [d.variant for d in staged._history[0].concrete.derivatives]
    for part in (pair.forward, pair.backward):
        assert not any(node.is_several for node in (*part.graph.inputs, *part.graph.outputs))
        verify(part.graph)
    assert pair.backward.graph.count("eigh") == 0


def test_a_tape_and_custom_derivatives() -> None:
    x = sk.asarray(X)
    with sk.GradientTape() as tape:
        tape.watch(x)
        w, _ = eigh(x)
        y = sk.sum(w**2)
    np.testing.assert_allclose(tape.gradient(y, x), 2 * X, rtol=1e-12)
    tape = Tape(current())
    with using(tape):
        eigh(x)
    assert tape.records == []


# ----- graphs -------------------------------------------------------------------------------------


def graph_of(f: Callable[..., Any]) -> Graph:
    concrete = sk.function(f).trace(SPEC)
    graph = concrete.graph
    return Graph("f", graph.inputs, graph.outputs, graph.checks)


TEXT = """graph f(%x: f64[b,n,n])
  %0: (f64[b,n], f64[b,n,n]) = eigh(%x)
  %1: f64[b,n] = out(%0, index=0)
  %2: f64[b,n,n] = out(%0, index=1)
  check %0
  return %2, %1
"""


def test_the_text_of_a_graph() -> None:
    assert str(graph_of(lambda x: eigh(x)[::-1])) == TEXT
    assert str(Graph.parse(TEXT)) == TEXT
    assert verify(Graph.parse(TEXT)).known.keys() == set()
    again, log = apply_rules(Graph.parse(TEXT), [])
    assert str(again) == TEXT and not log


def test_equal_calls_are_one_node() -> None:
    graph = graph_of(lambda x: (eigh(x)[0], eigh(x)[1], eigh(x)[0]))
    assert graph.count("eigh") == 1
    assert graph.count("out") == 2


def test_a_plan_frees_each_result_at_its_last_use() -> None:
    staged = sk.function(lambda x: sk.sum(eigh(x)[1]) + 1.0)
    plan = Plan(staged.trace(SPEC).optimized)
    lines = str(plan).splitlines()
    assert lines[1:3] == ["  s1, s2 = eigh(s0)  free s1, s0", "  s3 = sum(s2)  free s2"]
    assert len(plan.steps) == 3


def test_costs_count_every_result() -> None:
    concrete = sk.function(lambda x: eigh(x)).trace(sk.TensorSpec((5, 10, 10), sk.float64))
    assert concrete.cost().bytes == 8 * (500 + 500 + 50)
    assert concrete.cost().peak_bytes == 8 * (500 + 50)


def test_staged_is_eager_at_every_size() -> None:
    staged = sk.function(lambda x: eigh(x), dynamic=True)
    for b, n in ((2, 3), (1, 1), (0, 4), (3, 0), (4, 2)):
        x = sk.asarray(matrices(b, n))
        for want, got in zip(eigh(x), staged(x), strict=True):
            assert np.array_equal(want, got)
    assert_staged_equal(lambda x: eigh(x)[1], sk.asarray(X))


def test_a_result_may_be_left_out_and_returned_twice() -> None:
    f = sk.function(lambda x: [eigh(x)[0], (eigh(x)[0], x)])
    for _ in range(2):
        a, (b, c) = f(sk.asarray(X))
        assert a is not b
        assert np.array_equal(a, b)
        assert np.array_equal(c, X)


# ----- faults -------------------------------------------------------------------------------------

FAULTS = {
    "%0: (f64[n], f64[n,n]) = eigh(%x)\n return %0": "is an output: return each with out",
    "%0: (f64[n], f64[n,n]) = eigh(%x)\n %1: f64[n] = exp(%0)\n return %1": "take each with out",
    "%0: (f64[n], f64[n,n]) = eigh(%x)\n %1: f64[n] = out(%0, %0, index=0)\n return %1": "take ",
    "%0: (f64[n], f64[n,n]) = eigh(%x)\n %1: f64[n] = out(%0, index=2)\n return %1": "no result 2",
    "%0: (f64[n], f64[n,n]) = eigh(%x)\n %1: f64[n] = out(%0, index=-1)\n return %1": "result -1",
    "%0: (f64[n], f64[n,n]) = eigh(%x)\n %1: f64[n] = out(%0, index=1)\n return %1": "has the type",
    "%0: (f64[n], f64[n]) = eigh(%x)\n return %x\n check %0": "declared as (f64[n], f64[n]) and",
    "%0: (f64[n]) = eigh(%x)\n return %x\n check %0": "declared as (f64[n]) and",
    "%0: f64[n] = eigh(%x)\n return %x\n check %0": "declared as (f64[n]) and",
}


@pytest.mark.parametrize("body", FAULTS)
def test_the_verifier_names_the_fault(body: str) -> None:
    with pytest.raises(ValueError, match="f: ") as caught:
        verify(Graph.parse(f"graph f(%x: f64[n,n])\n {body}"))
    assert FAULTS[body] in str(caught.value)


def test_a_node_of_several_results_has_no_one_type() -> None:
    (node, *_) = Graph.parse(TEXT).nodes
    assert repr(node) == "<node eigh: (f64[b,n], f64[b,n,n])>"
    with pytest.raises(ValueError, match="take one with out"):
        node.type


# ----- files --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.stagekit"
    sk.export.save(path, lambda x: (sk.sum(eigh(x)[1]), eigh(x)[0]), SPEC)
    return path


def test_a_file_runs_as_eager_in_the_runtime_and_loaded_again(file: Path) -> None:
    want = [sk.sum(eigh(X)[1]), eigh(X)[0]]
    for program in (runtime.load(file), sk.export.load(file)):
        for a, b in zip(want, program(X), strict=True):
            assert np.array_equal(a, b)
    assert "eigh" in runtime.describe(file)
    check_grads(lambda x: sk.export.load(file)(x)[1], (X,))
    with pytest.raises(CheckError, match="max_bytes"):
        runtime.load(file, max_bytes=8 * 23)(X)
    runtime.load(file, max_bytes=8 * 100)(X)


def nodes(program: Any) -> Any:
    return program["functions"]["default"]["graph"]["nodes"]


def place(program: Any, op: str) -> Any:
    return next(node for node in nodes(program) if node.get("op") == op)


EDITS: dict[str, tuple[Callable[[Any], None], str]] = {
    "one type": (
        lambda p: place(p, "eigh").update(type=place(p, "out")["type"]),
        "the type of eigh is",
    ),
    "no types": (lambda p: place(p, "eigh").update(type=[]), "declared as"),
    "one type too few": (lambda p: place(p, "eigh")["type"].pop(), "declared as"),
    "types in a list": (lambda p: place(p, "sum").update(type=[]), "the type of sum is"),
    "a wrong index": (lambda p: place(p, "out").update(attrs={"index": 5}), "no result 5"),
    "a negative index": (lambda p: place(p, "out").update(attrs={"index": -1}), "no result -1"),
    "no text": (lambda p: place(p, "out").update(attrs={"index": "0"}), "attribute index"),
    "several as operand": (lambda p: place(p, "sum").update(inputs=[1]), "take each with out"),
    "several as result": (
        lambda p: p["functions"]["default"]["graph"].update(outputs=[1, 1]),
        "has several results",
    ),
    "a projection of a projection": (lambda p: place(p, "sum").update(op="out"), "attributes"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_damaged_file_is_refused(name: str, file: Path, tmp_path: Path) -> None:
    edit, text = EDITS[name]
    _, program = parts_of(file)
    assert [node.get("op") for node in nodes(program)][:2] == ["eigh", "out"], "as edited here"
    edit(program)
    with pytest.raises(ArtifactError) as caught:
        runtime.load(rewritten(tmp_path / "edited", file, json.loads(json.dumps(program))))
    assert text in str(caught.value)
    assert isinstance(caught.value, StagekitError)
