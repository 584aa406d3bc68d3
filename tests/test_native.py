"""Machine code against NumPy: every op, sizes, layouts, threads, faults; within docs/equality.md.

What an op may differ by is `tests/classes.py`'s to say. The run prints which ops are native, and
fails where one is not that should be.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import stagekit as sk
import stagekit.ops as ops
from stagekit.graph import Graph
from stagekit.kernels.backend import native
from stagekit.kernels.fusion.steps import _refused
from stagekit.kernels.machine import engine
from stagekit.kernels.plan import NativePlan
from stagekit.nn import functional
from stagekit.node import is_projection
from stagekit.op import OPS
from stagekit.plan import Plan
from stagekit.settings import config
from stagekit.types import dtype
from tests.classes import CLASS, admitted, agree, outcome
from tests.samples import LAYOUTS, Sample, samples
from tests.test_ops import DEFINED, faults, same_bits

pytestmark = [
    pytest.mark.skipif(not engine.available(), reason="could not import 'llvmlite'"),
    pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning"),
]

Array = np.ndarray[Any, Any]

# Ops that may stay on NumPy, beside those of the class "library", and why.
ON_NUMPY = {
    "alias": "only tapes see it: a graph never holds it",
    **dict.fromkeys(
        ("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min", "recurrence"),
        "a running fold: element by element it takes the square of the time",
    ),
    "convolution": "the same product has better ways than element by element",
    **dict.fromkeys(("sort", "argsort", "argtopk", "searchsorted"), "NumPy's sorting"),
    **dict.fromkeys(("lgamma", "polygamma"), "a series of many cases"),
    "random_category": "rare",
    "undefined": "it raises or is NaN",
    "scatter": "several updates may meet in one element",
}
COMPLEX = ("complex64", "complex128", "bfloat16")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; it is as before afterwards."""
    before = config.num_threads
    yield lambda n: setattr(config, "num_threads", n)
    config.num_threads = before


def traced(function: Any, *args: Any) -> Graph:
    """What a function does, as it is written."""
    return sk.function(function).trace(*args).graph


# ----- every op -----------------------------------------------------------------------------------


def chosen(name: str, full: bool) -> list[Sample]:
    """A few samples of an op with every kind of operand, special values and layouts."""
    found = [s for s in samples(name) if not any(str(k) in COMPLEX for k in kinds(s))]
    found = [s for s in found if all(np.asarray(a).size <= 4096 for a in s.args)]
    if full or len(found) <= 6:
        return found
    rng = np.random.default_rng([5, *name.encode()])
    special = [s for s in found if "special" in s.note][:4]
    rest = [s for s in found if "special" not in s.note]
    return [*special, *(rest[k] for k in sorted(rng.choice(len(rest), 4, replace=False)))]


def kinds(sample: Sample) -> list[Any]:
    return [dtype(np.asarray(a).dtype) for a in sample.args]


def of_samples(found: Sequence[Sample]) -> tuple[Graph, list[Array]]:
    """One graph of all calls, and the arrays that it takes."""

    def calls(*tensors: Any) -> Any:
        left = iter(tensors)
        results = []
        for s in found:
            args = [a if isinstance(a, (bool, int, float, complex)) else next(left) for a in s.args]
            out = OPS[s.op](*args, **s.attrs)
            results.append(out[0] if OPS[s.op].several else out)
        return tuple(results)

    tensors = [x for s in found for x in s.tensors() if isinstance(x, sk.Tensor)]
    return traced(calls, *tensors), [x._value for x in tensors]


def why_not(plan: NativePlan, name: str) -> set[str]:
    """The reasons for which nodes of an op, of types that kernels have, are left to NumPy."""
    return {
        reason for node, cluster, reason in plan.steps.partition.decisions
        if node.op is OPS[name] and cluster.home.kind == "library" and not is_projection(node)
        and not any(t.dtype.name in COMPLEX for n in (node, *node.inputs) for t in n.types)
        and not (name == "matmul" and node.type.dtype.name not in ("float32", "float64"))
    }  # fmt: skip


TABLE: dict[str, str] = {}


@pytest.mark.parametrize("name", [n for n in OPS if CLASS[n] != "library"])
def test_an_op_is_what_it_means(name: str, full: bool) -> None:
    found = chosen(name, full)
    graph, arrays = of_samples(found)
    plan = native(graph)
    got, want = plan(arrays, {}), Plan(graph)(arrays, {})
    for sample, mine, theirs in zip(found, got, want, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), sample
        if same_bits(mine, theirs).all():
            continue
        assert name in DEFINED, sample
        wrong = faults(OPS[name], sample.operands(), sample.attrs, mine)
        assert not wrong.any(), f"{sample}: {mine[wrong][:5]}, NumPy {theirs[wrong][:5]}"
    reasons = why_not(plan, name)
    TABLE[name] = "; ".join(sorted(reasons)) or "native"
    if name not in ON_NUMPY:
        assert not reasons, reasons


def test_the_table_of_ops(capsys: Any) -> None:
    with capsys.disabled():
        print("\nops that have no kernel for some of their operands:")
        for name, text in sorted(TABLE.items()):
            if text != "native":
                print(f"  {name:<20}{text}")
        print(f"  native: {sum(t == 'native' for t in TABLE.values())} of {len(TABLE)} ops")
        for kind, reason in sorted(_refused.items(), key=str):
            print(f"  refused: {kind}: {reason}")
    stale = [n for n in ON_NUMPY if TABLE.get(n) == "native" and n != "alias"]
    assert not stale, f"these are native: take them from ON_NUMPY: {stale}"


# ----- functions of several kernels ---------------------------------------------------------------


def f32(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape).astype("f4")


def held(function: Any, *args: Array) -> None:
    """A function's machine code gives what NumPy may."""
    tensors = [sk.Tensor(a) for a in args]
    graph = traced(function, *tensors)
    plan = native(graph)
    assert admitted(function, tensors, plan(args, {})), f"{graph}\n{plan}"


def normed(x: Any, w: Any) -> Any:
    """With so few rows that the sum over them is written out."""
    gradient = sk.grad(lambda x, w: sk.sum(sk.sin(functional.rms_norm(x, (3, 4), w))), (0, 1))
    return gradient(x, w)


FOLDED: list[tuple[Any, ...]] = [
    (normed, (2, 3, 4), (3, 4)),
    (lambda x, w: sk.sum(x) * w, (5,), (2, 2)),
    (lambda x, w: sk.sum(x) * w, (1000,), (70000,)),
    (lambda x, w: (sk.mean(x) * w, sk.sum(w) * x), (20,), (50,)),
    (lambda x, w: sk.sum(x, axis=0) * w, (20, 30), (7, 30)),
    (lambda x, w: sk.sum(x, axis=(0, 2))[:, None] * w, (20, 5, 3), (5, 4)),
    (lambda x, w: sk.sum(x, axis=2)[:, :, None] * w + sk.max(x), (20, 5, 3), (20, 5, 9)),
    (lambda x, w: x / sk.sum(x) + sk.sum(w), (20,), (30,)),
    (lambda x, w: (x / sk.max(x, axis=0), sk.sum(x, axis=0) * w), (20, 30), (3, 30)),
]


@pytest.mark.parametrize("k", range(len(FOLDED)))
def test_what_is_folded_over_some_loops_is_used_over_others(k: int) -> None:
    function, *shapes = FOLDED[k]
    held(function, *(f32(*shape) for shape in shapes))


def test_a_product_with_a_matrix_of_numbers_that_the_program_knows() -> None:
    held(lambda x: x @ (sk.ones((3, 2)) * 0.5).T, f32(4, 2))
    held(lambda x: x @ sk.where(sk.arange(3)[:, None] > 1, sk.ones((3, 2)) * 0.5, 0.0), f32(4, 3))


def test_one_refused_scatter_refuses_no_other() -> None:
    """Updates that may meet are NumPy's; those of places of their own are not."""

    def both(x: Any, i: Any) -> Any:
        return x.at[i, i].add(1.0), sk.grad(functional.cross_entropy)(x, i)

    graph = traced(both, sk.ones((5, 5)), sk.asarray([0, 2, 0, 1, 1]))
    kinds = [
        cluster.home.kind for node, cluster, _ in native(graph).steps.partition.decisions
        if node.op is OPS["scatter"]
    ]  # fmt: skip
    assert sorted(kinds) == ["kernel", "library"]


# ----- sizes, layouts -----------------------------------------------------------------------------

PROGRAMS: dict[str, Callable[..., Any]] = {
    "elements": lambda x: sk.where(x > 0, sk.exp(x) * 3 - x / 7, sk.sin(x)),
    "softmax": lambda x: functional.softmax(x, axis=1),
    "rows and columns": lambda x: (sk.sum(x, axis=0), sk.mean(x, axis=1), sk.sum(x * x)),
    "moved": lambda x: sk.concat([x[::-1], sk.pad(x, 1)[1:-1, 2:], x[:, ::-1]], axis=0) * 2,
    "transposed": lambda x: (x.T + 1, sk.sum(x.T, axis=0)),
    "product": lambda x: sk.tanh(x @ x.T) + 1,
    "gathered": lambda x: sk.take(x, sk.arange(x.shape[0])[::-1] // 2, axis=0) + x,
    "found": lambda x: (sk.any(x > 1, axis=1), sk.all(x > -9), sk.cumulative_sum(x, axis=1)),
    "integers": lambda x: sk.sum(sk.astype(x * 9, "int32") // 3 % 5, axis=1),
    "gradient": sk.grad(lambda x: sk.mean(sk.square(functional.log_softmax(x, axis=1)))),
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_one_plan_for_symbolic_sizes(name: str) -> None:
    function = PROGRAMS[name]
    concrete = sk.function(function).trace(sk.TensorSpec(("n", "m")))
    plan = native(concrete.optimized)
    for n, m in [(3, 5), (0, 4), (4, 0), (1, 1), (1, 17), (33, 1), (16, 64), (7, 129), (70, 65)]:
        x = f32(n, m)
        got = outcome(lambda x, n=n, m=m: plan([x], {"n": n, "m": m}), [x])
        assert admitted(function, [sk.Tensor(x)], got), (n, m)


@contextmanager
def fenced() -> Iterator[None]:
    """Whatever a plan allocates in the block lies between fences, which nothing writes to."""
    fences: list[Array] = []

    def between(shape: Any, kind: Any = float, **more: Any) -> Array:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        whole = np.full(size + 512, 0xAB, np.uint8)
        fences.extend([whole[:256], whole[256 + size :]])
        return whole[256 : 256 + size].view(kind).reshape(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", between)
        yield
    assert fences and all((fence == 0xAB).all() for fence in fences)


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3), (17, 2)])
def test_plain_sizes_and_nothing_beyond(name: str, shape: tuple[int, ...]) -> None:
    x = f32(*shape)
    plan = native(traced(PROGRAMS[name], sk.Tensor(x)))
    with fenced():
        got = plan([x], {})
    assert admitted(PROGRAMS[name], [sk.Tensor(x)], got)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_layouts(name: str) -> None:
    function = PROGRAMS[name]
    x = f32(6, 10)
    plan = native(traced(function, sk.Tensor(x)))
    for layout, lay in LAYOUTS.items():
        given = lay(x)
        plain = plan([np.ascontiguousarray(given)], {})
        assert agree(outcome(lambda *a: plan(a, {}), [given]), plain), layout
        assert admitted(function, [sk.Tensor(given)], plain), layout


def test_inputs_that_share_memory() -> None:
    x = f32(8, 9)
    function = lambda x, y: (x + y, sk.sum(x * y, axis=0), x @ y.T, y[::-1] - x)
    plan = native(traced(function, sk.Tensor(x[:7]), sk.Tensor(x[1:])))
    apart = plan([x[:7].copy(), x[1:].copy()], {})
    assert agree(apart, plan([x[:7], x[1:]], {}))
    assert agree(plan([x[:7].copy(), x[:7].copy()], {}), plan([x[:7], x[:7]], {}))
    assert agree(plan([x[:7], x[6::-1].copy()], {}), plan([x[:7], x[6::-1]], {}))


# ----- the same bits ------------------------------------------------------------------------------


def test_bits_depend_neither_on_the_run_nor_on_the_threads(
    threads: Callable[[int], None],
) -> None:
    def function(x: Any, w: Any) -> Any:
        y = functional.softmax(x @ w, axis=1)
        return y, sk.sum(y * y, axis=0), sk.sum(x), sk.max(x, axis=0), sk.var(x)

    x, w = f32(700, 300), f32(300, 200)
    plan = native(traced(function, sk.Tensor(x), sk.Tensor(w)))
    threads(1)
    want = [a.tobytes() for a in plan([x, w], {})]
    for n in (1, 2, 2, 3, 2):
        threads(n)
        assert [a.tobytes() for a in plan([x, w], {})] == want, n


# ----- sums of any length -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2**25,), (2**24, 2), (2, 2**24)])
def test_the_sum_of_2_25_ones_is_exact(shape: tuple[int, ...]) -> None:
    ones = np.ones(shape, "f4")
    for axis in {None, 0, len(shape) - 1}:
        plan = native(traced(lambda x, axis=axis: sk.sum(x, axis=axis), sk.Tensor(ones)))
        assert np.array_equal(plan([ones], {})[0], np.sum(np.ones(shape, "i4"), axis=axis))


@pytest.mark.parametrize("value", [0.1, 1 / 3])
@pytest.mark.parametrize("shape", [(2**20, 2), (3, 2**18, 2), (2, 2**20)])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_long_sums_of_one_value_keep_8_eps(value: float, shape: Any, kind: str) -> None:
    x = np.full(shape, value, kind)
    axes = range(len(shape))
    plan = native(traced(lambda x: tuple(sk.sum(x, axis=k) for k in axes), sk.Tensor(x)))
    for axis, got in enumerate(plan([x], {})):
        exact = float(x.flat[0]) * shape[axis]
        assert (np.abs(got.astype("f8") - exact) <= 8 * np.finfo(kind).eps * exact).all()


def test_products_of_float16_are_rounded_once() -> None:
    for shape in ((5,), (9, 3), (3, 70)):
        x = f32(*shape).astype("f2")
        held(lambda x: sk.prod(x, axis=0), x)


# ----- threads, forks -----------------------------------------------------------------------------


def test_one_plan_called_from_four_threads() -> None:
    function = lambda x, w: (sk.sum(sk.tanh(x @ w), axis=0), x[::-1] * 2, sk.linalg.inv(x @ x.T))
    inputs = [(f32(64, 64, seed=k) + 9 * np.eye(64, dtype="f4"), f32(64, 80)) for k in range(4)]
    plan = native(traced(function, *map(sk.Tensor, inputs[0])))
    wants = [plan(list(xs), {}) for xs in inputs]
    stop = time.monotonic() + 0.7

    def work(k: int) -> int:
        n = 0
        while time.monotonic() < stop:
            assert agree(wants[k], plan(list(inputs[k]), {}))
            n += 1
        return n

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(work, range(4))) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_between_calls() -> None:
    f = sk.function(lambda x: sk.sum(sk.exp(x), axis=0))
    x = sk.asarray(f32(500, 400))
    want = [f(x).tolist() for _ in range(3)][-1]
    child = os.fork()
    if child == 0:
        same = f(x).tolist() == want and f(x * 1).tolist() == want
        os._exit(0 if same else 1)
    killer = threading.Timer(20, os.kill, (child, 9))
    killer.start()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    assert status == 0
    assert f(x).tolist() == want


# ----- faults -------------------------------------------------------------------------------------


def test_where_compilation_fails_numpy_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> bytes:
        raise RuntimeError("no such instruction")

    v = sk.Variable(sk.zeros(3))

    @sk.function
    def step(x: Any) -> Any:
        v.assign_add(x)
        return v * 2

    with monkeypatch.context() as patch:
        patch.setattr(engine, "compile_ir", fail)
        with pytest.warns(sk.errors.StagekitWarning, match="step: no native code .*no such instr"):
            assert step(sk.ones(3)).tolist() == [2.0] * 3
        assert step(sk.ones(3)).tolist() == [4.0] * 3
    assert step(sk.ones(3)).tolist() == [6.0] * 3
    assert v.value.tolist() == [3.0] * 3


OUTSIDE: dict[str, Callable[[Any, Any], Any]] = {
    "gather": lambda x, i: sk.take(x, i, axis=0) * 2,
    "gathered before a product": lambda x, i: sk.exp(sk.take(x, i, axis=0)) @ x.T,
    "scatter": lambda x, i: x.at[i].add(1.0) * 2,
    "one scatter": lambda x, i: x.at[i[0]].set(0.0) * 2,
    "place": lambda x, i: sk.sum(x) + ops.place(sk.abs(i), size=x.shape[0], what="an index"),
}


@pytest.mark.parametrize("name", list(OUTSIDE))
def test_an_index_outside_raises_as_eager_and_commits_nothing(name: str) -> None:
    function = OUTSIDE[name]
    v = sk.Variable(sk.zeros((4, 2)))

    @sk.function
    def step(x: Any, i: Any) -> Any:
        v.assign_add(x)
        out = function(v.value, i)
        v.assign(v.value * 2)
        return out

    x, good = sk.ones((4, 2)), sk.asarray([3, 0, -1])
    for _ in range(3):
        step(x, good)
    before = v.value.tolist()
    for k, bad in ((4, 4), (-5, -5), (2**40, 2**40)):
        i = sk.asarray([k, 1, bad])
        with pytest.raises(sk.errors.StagekitError) as eager:
            function(v.value + x, i)
        with pytest.raises(type(eager.value)) as staged:
            step(x, i)
        assert str(staged.value).split("\n")[0] == str(eager.value).split("\n")[0]
        assert v.value.tolist() == before
    step(x, good)
    assert v.value.tolist() != before


def test_a_result_that_is_an_argument_in_another_shape_has_that_shape() -> None:
    f = sk.function(lambda x, y: (sk.reshape(x, -1), sk.reshape(x, (3, 2)), y + 1.0))
    x, y = sk.ones((2, 3)), sk.zeros(2)
    shapes = [[r.shape for r in f(x, y)] for _ in range(3)]
    assert shapes == [[(6,), (3, 2), (2,)]] * 3
    strided = sk.asarray(np.ones((3, 2), np.float32).T)
    assert [r.shape for r in f(strided, y)] == [(6,), (3, 2), (2,)]
