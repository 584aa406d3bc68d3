"""`vmap` is a loop: for every op, public function and random program, alone and composed with
derivatives, staging and files. Where a loop has another rounding, docs/equality.md says how much.
"""

from __future__ import annotations

import contextlib
import doctest
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagekit as sk
import stagekit.ops as ops
from stagekit import tree
from stagekit.autodiff import Batch, mapping
from stagekit.errors import (
    ArgumentError,
    BoundsError,
    DataDependentError,
    ShapeError,
    StagekitError,
    TraceError,
)
from stagekit.op import OPS, Op, Over, current, using, weak_type
from stagekit.ops import batching
from stagekit.tensor import Tensor
from stagekit.types import TensorType
from tests.programs import generate
from tests.samples import Composite, Sample, composites, samples
from tests.samples.base import as_tensor
from tests.test_fuzz import SIZES, planted
from tests.test_ops import faults, same_bits

LANES = 3


def draw(*shape: int, seed: int = 0) -> Any:
    return sk.asarray(np.random.default_rng([seed, *shape]).uniform(-2, 2, shape))


def loop(fn: Callable[..., Any], *args: Any, in_axes: Any = 0) -> Any:
    """What `vmap` means: the function on each lane, the results stacked in front."""
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    (n,) = {a.shape[k] for a, k in zip(args, axes) if k is not None}
    lane = lambda i: [
        a if k is None else sk.take(a, sk.asarray(i), axis=k) for a, k in zip(args, axes)
    ]
    return tree.map(lambda *ys: sk.stack(ys), *(fn(*lane(i)) for i in range(n)))


def close(got: Any, want: Any, rtol: float = 1e-10) -> None:
    xs, ys = tree.leaves(got), tree.leaves(want)
    assert len(xs) == len(ys)
    for x, y in zip(xs, ys):
        assert x.shape == y.shape
        assert x.dtype is y.dtype
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=rtol, atol=rtol)


# ----- every op, on every sample ------------------------------------------------------------------


SCALED = {"cholesky"}  # the elements in another order are no operand of these


def lanes_of(x: np.ndarray, op: str = "") -> list[np.ndarray]:
    """Arrays of the type and shape of one, each as good an operand."""
    if x.ndim and op not in SCALED:
        return [np.roll(x, j).reshape(x.shape) for j in range(LANES)]
    if x.dtype.kind == "f":
        return [np.asarray(x * (1 + j / 2), x.dtype) for j in range(LANES)]
    moved = [x ^ (j == 1) if x.dtype.kind == "b" else x - j for j in range(LANES)]
    return [np.asarray(each, x.dtype) for each in moved]


def subsets(places: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every choice of operands but none."""
    for k in range(1, len(places) + 1):
        yield from itertools.combinations(places, k)


def apart(
    op: Op, operands: list[np.ndarray], attrs: dict[str, Any], got: np.ndarray, want: np.ndarray
) -> bool:
    """Whether a lane is no result of the op: other bits, and beyond its class."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return True
    if same_bits(got, want).all():
        return False
    if op.library:  # there is no definition to measure by: each call is as good as the other
        scale = np.abs(want).max(initial=0.0)
        return not np.allclose(got, want, rtol=0, atol=float(32 * np.finfo(got.dtype).eps * scale))
    return bool(faults(op, operands, attrs, got).any())


class Check:
    """Holds `vmap` of an op against the loop; the mapped axis goes round the places it can have."""

    def __init__(self) -> None:
        self.turn = 0

    def place(self, ndim: int) -> int:
        self.turn += 1
        return self.turn % (2 * ndim + 2) - ndim - 1

    def sample(self, sample: Sample) -> None:
        arrays = [k for k, a in enumerate(sample.args) if not weak_type(a)]
        for mapped in subsets(arrays):
            self.mapped(sample, mapped)

    def mapped(self, sample: Sample, mapped: tuple[int, ...]) -> None:
        op, args = OPS[sample.op], list(sample.tensors())
        lanes = {k: lanes_of(np.asarray(sample.args[k]), op.name) for k in mapped}
        axes: list[int | None] = [None] * len(args)
        for k, each in lanes.items():
            axes[k] = self.place(each[0].ndim)
            args[k] = Tensor(np.stack(each, axes[k]))
        alone = [
            Sample(
                op.name,
                tuple(lanes[k][j] if k in lanes else a for k, a in enumerate(sample.args)),
                sample.attrs,
            )
            for j in range(LANES)
        ]
        wanted = list(zip(*([y.numpy() for y in each.results()] for each in alone)))
        place = self.place(min(want[0].ndim for want in wanted))
        out = sk.vmap(lambda *xs: op(*xs, **sample.attrs), tuple(axes), place)(*args)
        for result, want in zip(out if op.several else (out,), wanted, strict=True):
            got = np.moveaxis(result.numpy(), place, 0)
            assert len(got) == LANES
            for each, mine, theirs in zip(alone, got, want):
                if apart(op, each.operands(), sample.attrs, mine, theirs):
                    pytest.fail(f"{each} mapped at {axes}: {mine} is not {theirs}")


MAPPED = [name for name, op in OPS.items() if callable(op.batch)]


@pytest.mark.parametrize("name", MAPPED)
def test_an_op_mapped_is_the_op_in_a_loop(name: str) -> None:
    check = Check()
    for sample in samples(name):
        check.sample(sample)


def test_every_op_has_a_rule_or_a_reason() -> None:
    for name, op in OPS.items():
        assert op.batch, f"op {name} has neither a batch rule nor the reason why it has none"
        if isinstance(op.batch, str) and name != "custom":
            assert op.operands == 0, f"op {name} has operands: {op.batch} is no reason"


def caught(name: str, **wrong: Any) -> bool:
    with planted(OPS[name], **wrong):
        try:
            test_an_op_mapped_is_the_op_in_a_loop(name)
        except (Exception, pytest.fail.Exception):
            return True
    return False


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("sum", lambda n, args, mapped, attrs: OPS["sum"](*args, axes=attrs["axes"])),
        ("flip", lambda n, args, mapped, attrs: OPS["flip"](*args, axes=attrs["axes"])),
        ("add", lambda n, args, mapped, attrs: OPS["add"](*args)),
        (
            "subtract",
            lambda n, args, mapped, attrs: OPS["subtract"](*batching.ranked(args, [True] * 2)),
        ),
        ("argmax", lambda n, args, mapped, attrs: OPS["argmax"](*args, axis=attrs["axis"])),
        (
            "permute",
            lambda n, args, mapped, attrs: OPS["permute"](
                OPS["permute"](*args, axes=(0, *batching.behind(attrs["axes"]))),
                axes=tuple(range(args[0].ndim))[::-1],
            ),
        ),
        (
            "gather",
            lambda n, args, mapped, attrs: OPS["gather"](
                *args, axes=batching.behind(attrs["axes"])
            ),
        ),
        (
            "concat",
            lambda n, args, mapped, attrs: OPS["concat"](
                *[batching.spread(n, x, m) for x, m in zip(args, mapped)], axis=attrs["axis"]
            ),
        ),
        ("sin", lambda n, args, mapped, attrs: OPS["sin"](OPS["flip"](args[0], axes=(0,)))),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_wrong_rule_is_caught(name: str, rule: Any) -> None:
    assert not caught(name)
    assert caught(name, batch=rule)


# ----- every public function ----------------------------------------------------------------------

# Functions whose result (or its size) Python makes of values.
VALUES = {
    "allclose", "array_equal", "argwhere", "flatnonzero", "nonzero", "unique", "unique_all",
    "unique_counts", "unique_inverse", "unique_values",
}  # fmt: skip


def needs_values(call: Composite) -> bool:
    """Whether it does: a size may be given, and unequal shapes are no values."""
    if call.name == "array_equal":
        return np.shape(call.args[0]) == np.shape(call.args[1])
    return call.name in VALUES and "size" not in call.keywords


def lanes_of_call(call: Composite, mapped: Sequence[int]) -> list[tuple[Any, ...]]:
    """The arguments of each lane: arrays rolled, alone or in a list."""

    def rolled(obj: Any, j: int) -> Any:
        if isinstance(obj, np.ndarray):
            return lanes_of(obj)[j]
        return type(obj)(rolled(x, j) for x in obj) if isinstance(obj, (list, tuple)) else obj

    return [
        tuple(rolled(a, j) if k in mapped else a for k, a in enumerate(call.args))
        for j in range(LANES)
    ]


def _has_array(obj: Any) -> bool:
    items = obj if isinstance(obj, (list, tuple)) else [obj]
    return any(isinstance(x, np.ndarray) for x in items)


@pytest.mark.parametrize("call", composites(), ids=lambda c: c.name)
def test_a_public_function_mapped_is_the_function_in_a_loop(call: Composite) -> None:
    places = [k for k, a in enumerate(call.args) if _has_array(a)]
    if call.name == "searchsorted":
        places = [1]  # lanes are rolled, and its first operand is sorted
    for mapped in subsets(places):
        _hold(call, mapped)


def _hold(call: Composite, mapped: Sequence[int]) -> None:
    lanes = lanes_of_call(call, mapped)
    each = [Composite(call.name, args, call.keywords, call.referee) for args in lanes]
    stacked = [
        tree.map(
            lambda *xs: Tensor(np.stack(xs)) if isinstance(xs[0], np.ndarray) else xs[0], *args
        )
        if k in mapped
        else as_tensor(call.args[k])
        for k, args in enumerate(zip(*lanes))
    ]
    axes = tuple(
        tree.map(lambda x: 0 if isinstance(x, np.ndarray) else None, a) if k in mapped else None
        for k, a in enumerate(call.args)
    )

    def function(*args: Any) -> Any:
        found = getattr(ops, call.name, None) or getattr(sk.nn.functional, call.name)
        return found(*args, **call.keywords)

    if needs_values(call):
        with pytest.raises(DataDependentError, match="mapped tensor"):
            sk.vmap(function, axes)(*stacked)
        return
    got = tree.leaves(sk.vmap(function, axes)(*stacked))
    want = [tree.leaves(c.call()) for c in each]
    assert len(got) == len(want[0])
    for mine, *theirs in zip(got, *want):
        expected = np.stack([np.asarray(y) for y in theirs])
        assert mine.shape == expected.shape, call
        assert mine.dtype.numpy == expected.dtype, call
        np.testing.assert_allclose(mine.numpy(), expected, rtol=2e-6, atol=1e-6, err_msg=str(call))


# ----- random programs ----------------------------------------------------------------------------


class Referee(Over):
    """Holds each op that a mapped function runs against the op on each lane."""

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        batch = self.below
        assert isinstance(batch, Batch)
        operands = [(np.array(batch.below.read(a)), batch.maps(a)) for a in args]
        out = batch.apply(op, args, attrs)
        mapped = any(m for _, m in operands)
        results = [np.array(batch.below.read(y)) for y in (out if op.several else (out,))]
        assert all(batch.maps(y) == mapped for y in (out if op.several else (out,)))
        if op is OPS["custom"] or max(got.size for got in results) > 256:
            return out
        for j in range(LANES if mapped else 0):
            lane = [np.asarray(x[j]) if m else x for x, m in operands]
            with using(batch.base):
                alone = op(*map(Tensor, lane), **attrs)
            for got, want in zip(results, alone if op.several else (alone,), strict=True):
                wrong = apart(op, lane, attrs, got[j], want.numpy())
                assert not wrong, f"{op.name}{attrs} of {lane} is {got[j]}, not {want}"
        return out


def stacks(program: Any, seed: int, smooth: bool) -> list[Any]:
    """The arguments of a program, with a mapped axis in front."""
    rngs = [np.random.default_rng([seed, j]) for j in range(LANES)]
    each = [program.arguments(SIZES[0], rng, smooth) for rng in rngs]
    return [Tensor(np.stack([x.numpy() for x in xs])) for xs in zip(*each)]


@given(st.integers(0, 2**31), st.data())
def test_random_programs_op_by_op(seed: int, data: Any) -> None:
    rng = np.random.default_rng([seed, 3])
    known = [name for name, op in OPS.items() if op.family != "random"]  # their lanes differ
    names = [known[k] for k in rng.integers(0, len(known), 8)]
    program = generate(rng, 8, names, SIZES[0], False)
    args = stacks(program, seed, False)
    axes = tuple(data.draw(st.sampled_from([0, None])) for _ in args)
    if not any(axis == 0 for axis in axes):
        axes = (0,) * len(args)
    given_ = [a if axis == 0 else a[0] for a, axis in zip(args, axes)]

    def refereed(*xs: Any) -> Any:
        with using(Referee(current())):
            return [y for y in program(*xs) if isinstance(y, Tensor)]

    with contextlib.suppress(ZeroDivisionError, BoundsError):
        sk.vmap(refereed, axes)(*given_)


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_smooth_programs_composed(seed: int) -> None:
    """vmap with grad, jvp and staging, each way round, against loops of the same."""
    rng = np.random.default_rng([seed, 4])
    smooth = [name for name, op in OPS.items() if op.vjp is not None]
    names = [smooth[k] for k in rng.integers(0, len(smooth), 5)]
    program = generate(rng, 5, names, SIZES[0], True)
    args = stacks(program, seed, True)

    def scalar(*xs: Any) -> Any:
        outs = [sk.astype(y, sk.float64) for y in program(*xs) if y.dtype.kind == "float"]
        return sum((sk.sum(sk.tanh(y)) for y in outs), start=sk.sum(xs[0]))

    rtol = 1e-3 if any(step.op == "astype" for step in program.steps) else 1e-7
    slope = sk.grad(scalar, tuple(range(len(args))))
    want = loop(slope, *args)
    if not all(np.isfinite(w.numpy()).all() for w in want):
        return
    mapped = sk.vmap(scalar)
    close(mapped(*args), loop(scalar, *args), rtol)
    close(sk.vmap(slope)(*args), want, rtol)
    whole = sk.grad(lambda *xs: sk.sum(mapped(*xs)), tuple(range(len(args))))
    close(whole(*args), want, rtol)
    staged = sk.function(sk.vmap(slope))
    close(staged(*args), want, rtol)
    close(staged(*args), want, rtol)
    inside = sk.function(scalar)
    close(sk.vmap(sk.grad(inside, tuple(range(len(args)))))(*args), want, rtol)
    if any(step.op == "custom" for step in program.steps):
        return
    pushed = sum(sk.sum(g * a) for g, a in zip(want, args))
    total = lambda *xs: sk.sum(mapped(*xs))
    close(sk.jvp(total, args, args)[1], pushed, 10 * rtol)
    each = sk.vmap(lambda *xs: sk.jvp(scalar, xs, xs)[1])(*args)
    close(sk.sum(each), pushed, 10 * rtol)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_programs_are_saved_and_run_at_any_size(seed: int, tmp_path_factory: Any) -> None:
    rng = np.random.default_rng([seed, 5])
    names = ["exp", "sum", "gather", "matmul", "reshape", "where", "concat", "scatter", "pad"]
    program = generate(rng, 4, [names[k] for k in rng.integers(0, len(names), 4)], SIZES[0], True)
    args = stacks(program, seed, True)
    mapped = sk.vmap(lambda *xs: [y for y in program(*xs) if isinstance(y, Tensor)])
    specs = [sk.TensorSpec(("lanes", *x.shape), x.dtype) for x in program.inputs]
    path = tmp_path_factory.mktemp("vmap") / "program.stagekit"
    try:
        sk.export.save(path, sk.function(lambda *xs: mapped(*xs)), *specs)
    except StagekitError:  # its sizes do not fit for any size
        return
    loaded = sk.export.load(path)
    for n in (LANES, 1, 0):
        some = [a[:n] for a in args]
        got, want = tree.leaves(loaded(*some)), mapped(*some)
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(mine), theirs.numpy(), rtol=1e-10)


# ----- axes ---------------------------------------------------------------------------------------

X, Y = draw(3, 4), draw(4)


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("place", [-2, -1, 0, 1])
def test_any_axis_goes_in_and_out(axis: int, place: int) -> None:
    x = draw(2, 3, 4)
    got = sk.vmap(lambda a: sk.sum(a, axis=0), axis, place)(x)
    want = np.moveaxis(np.moveaxis(x.numpy(), axis, 0).sum(1), 0, place)
    np.testing.assert_allclose(got.numpy(), want)


def test_axes_are_trees_that_may_end_above_the_leaves() -> None:
    w, b = draw(5, 2), draw(2, 5)
    tree_ = {"w": w, "deep": (b, [Y, None])}
    got = sk.vmap(
        lambda p, s: {"a": p["w"] + p["deep"][0], "b": (s, p["deep"][1][0])},
        in_axes=({"w": 0, "deep": (1, None)}, None),
        out_axes={"a": 1, "b": (None, 0)},
    )(tree_, 2.0)
    close(got["a"], sk.matrix_transpose(w + b.T))
    assert got["b"][0] == 2.0
    close(got["b"][1], sk.broadcast_to(Y, (5, 4)))


def test_keywords_are_mapped_over_the_first_axis() -> None:
    got = sk.vmap(lambda a, *, b: a * b, in_axes=1)(X, b=Y)
    close(got, (X * Y).T)


def test_what_no_lane_changes_is_repeated_or_given_as_it_is() -> None:
    seen: list[Any] = []
    mapped = sk.vmap(lambda a: (seen.append(Y * 2), Y * 2, 7, np.ones(2))[1:])
    got = mapped(X)
    close(got[0], sk.broadcast_to(Y * 2, (3, 4)))
    assert got[1].dtype is sk.int64
    assert got[1].shape == (3,)
    assert got[2].shape == (3, 2)
    same = sk.vmap(lambda a: (a, Y, "name"), out_axes=(0, None, None))(X)
    assert same[1] is Y
    assert same[2] == "name"
    assert seen[0].shape == (4,)


def test_each_lane_sees_shapes_without_the_axis() -> None:
    def look(a: Any) -> Any:
        assert (a.shape, a.ndim, a.size, len(a)) == ((4,), 1, 4, 4)
        return sum(list(a), start=a[0] * 0)

    close(sk.vmap(look)(X), loop(look, X))
    assert X.ndim == 2


@pytest.mark.parametrize("n", [0, 1, 2])
def test_any_number_of_lanes(n: int) -> None:
    def fn(a: Any, b: Any) -> Any:
        best = sk.max(a) + a[sk.argmax(b)]
        rolled = sk.concat([a, b])[sk.asarray([0, -1])] @ sk.ones((2, 2), dtype=a.dtype)
        return best, rolled, a.at[1].add(b[0]), sk.pad(a, 1, constant_values=2.0)

    x, y = draw(n, 4), draw(n, 4, seed=1)
    got = sk.vmap(fn)(x, y)
    assert [g.shape for g in got] == [(n,), (n, 2), (n, 4), (n, 6)]
    if n:
        close(got, loop(fn, x, y))
    staged = sk.function(sk.vmap(fn), dynamic=True)
    close(staged(x, y), got)
    more = draw(n + 3, 4, seed=2), draw(n + 3, 4, seed=3)
    close(staged(*more), sk.vmap(fn)(*more))


def test_a_trace_holds_for_any_number_of_lanes() -> None:
    f = sk.function(sk.vmap(lambda a, b: sk.sum(a * b) + a[0], in_axes=(0, None)))
    for n in (3, 5, 1, 0, 7):
        x = draw(n, 4)
        close(f(x, Y), sk.vmap(lambda a, b: sk.sum(a * b) + a[0], in_axes=(0, None))(x, Y))
    assert f.cache_info().traces <= 2


# ----- nesting ------------------------------------------------------------------------------------


def test_vmap_in_vmap() -> None:
    outer = sk.vmap(sk.vmap(lambda a, b: a * b + sk.sum(X), (0, None)), (None, 0))
    close(outer(Y, X[:, 0]), X[:, :1] * Y + sk.sum(X))
    pairs = sk.vmap(lambda a: sk.vmap(lambda b: a @ b)(X))(X)
    close(pairs, X @ X.T)
    deep = draw(2, 3, 4)
    swapped = sk.vmap(sk.vmap(lambda a: a * Y[0], 1, -1), 1, -1)(deep)
    close(swapped, sk.permute_dims(deep, (0, 2, 1)) * Y[0])
    close(sk.vmap(sk.vmap(lambda a: a[sk.argmax(a)]))(deep), sk.max(deep, axis=-1))


def test_a_tensor_closed_over_is_not_the_one_mapped() -> None:
    """Values are known by identity, and an argument is a value of its own."""
    close(sk.vmap(lambda a: a * sk.sum(X))(X), X * sk.sum(X))
    close(sk.vmap(lambda a, b: a @ b, (0, None))(X, X.T), X @ X.T)


cubes = lambda a: sk.sum(a**3 * Y)


def test_derivatives_of_lanes_and_of_the_whole() -> None:
    want = 3 * X**2 * Y
    close(sk.vmap(sk.grad(cubes))(X), want)
    close(sk.grad(lambda x: sk.sum(sk.vmap(cubes)(x)))(X), want)
    out, pull = sk.vjp(sk.vmap(cubes), X)
    close(pull(sk.ones_like(out))[0], want)
    close(sk.vmap(lambda a: sk.vjp(cubes, a)[1](1.0)[0])(X), want)
    close(sk.vmap(sk.vmap(lambda a, y: sk.grad(lambda t: t**3 * y)(a)), (0, None))(X, Y), want)
    second = sk.stack([np.diag(6 * x * Y.numpy()) for x in X.numpy()])
    close(sk.vmap(sk.hessian(cubes))(X), second)
    close(sk.vmap(sk.jacobian(sk.grad(cubes), mode="rev"))(X), second)
    t = draw(3, 4, seed=9)
    close(sk.vmap(lambda a, t: sk.hvp(cubes, (a,), (t,))[0])(X, t), 6 * X * Y * t)
    close(sk.jvp(sk.vmap(cubes), (X,), (t,))[1], sk.sum(want * t, axis=1))
    close(sk.vmap(lambda a, t: sk.jvp(cubes, (a,), (t,))[1])(X, t), sk.sum(want * t, axis=1))
    close(sk.vmap(lambda t: sk.jvp(cubes, (Y,), (t,))[1])(t), t @ (3 * Y**3))
    shared = sk.grad(lambda y: sk.sum(sk.vmap(lambda a: a @ y)(X)))
    close(shared(Y), sk.sum(X, axis=0))
    higher = sk.grad(lambda x: sk.sum(sk.vmap(sk.grad(cubes))(x)))
    close(higher(X), 6 * X * Y)


def test_tapes_inside_and_around() -> None:
    w = sk.Variable(Y)

    def inside(a: Any) -> Any:
        with sk.GradientTape() as tape:
            tape.watch(a)
            y = cubes(a) + sk.sum(w * a)
        return tape.gradient(y, (a, w))

    got = sk.vmap(inside)(X)
    close(got, (3 * X**2 * Y + Y, X))
    with sk.GradientTape() as tape:
        y = sk.vmap(lambda a: sk.sum(w * a))(X)
    close(tape.jacobian(y, w), X)
    with sk.GradientTape() as tape, pytest.raises(TraceError, match="inside a vmap but begun outs"):
        sk.vmap(lambda a: tape.watch(a))(X)


def test_an_outer_tape_can_be_stopped_inside() -> None:
    w = sk.Variable(Y)

    def fn(a: Any) -> Any:
        with tape.stop_recording():
            free = sk.sum(w * a)
        return free + w[0]

    with sk.GradientTape() as tape:
        y = sk.sum(sk.vmap(fn)(X))
    assert tape.gradient(y, w).numpy().tolist() == [3, 0, 0, 0]


def test_values_that_all_lanes_share_may_leave() -> None:
    flag = sk.asarray(2)
    fn = lambda a: a * flag.item() if Y[0] > -9 else -a
    close(sk.vmap(fn)(X), X * 2)
    close(
        sk.jacobian(lambda x: x * 3 if x[0] > -9 else -x, mode="fwd")(Y), 3 * sk.asarray(np.eye(4))
    )


def test_staged_inside_and_around() -> None:
    f = sk.function(cubes)
    close(sk.vmap(f)(X), loop(cubes, X))
    close(sk.vmap(sk.grad(f))(X), 3 * X**2 * Y)
    close(sk.grad(lambda x: sk.sum(sk.vmap(f)(x)))(X), 3 * X**2 * Y)
    g = sk.function(lambda x: sk.vmap(f)(x))
    for _ in range(2):
        close(g(X), loop(cubes, X))
        close(sk.grad(lambda x: sk.sum(g(x)))(X), 3 * X**2 * Y)
    once = sk.function(cubes, signature=sk.TensorSpec((4,), sk.float64))
    close(sk.vmap(once)(X), loop(cubes, X))


def test_a_graph_has_a_batched_variant_for_any_number_of_lanes() -> None:
    c = sk.function(lambda a, b: (sk.sum(a * b), sk.exp(b))).trace(
        sk.TensorSpec(("n",), "float64"), sk.TensorSpec(("n",), "float64")
    )
    for n in (3, 5, 0):
        x = draw(n, 4)
        total, e = sk.vmap(c, (0, None))(x, Y)
        close((total, e), (x @ Y, sk.broadcast_to(sk.exp(Y), (n, 4))))
    assert [d.mode for d in c.derivatives] == ["vmap"]
    squares = sk.vmap(sk.vmap(lambda a, b: c(a, b)[0]), (0, None))(sk.stack([X, -X]), X)
    close(squares, sk.stack([sk.sum(X * X, axis=1), -sk.sum(X * X, axis=1)]))
    close(sk.vmap(sk.grad(lambda a: c(a, Y)[0]))(X), sk.broadcast_to(Y, (3, 4)))
    lanes = sk.function(lambda a: a * 2).trace(sk.TensorSpec(("lanes",), "float64"))
    close(sk.vmap(lanes)(X), X * 2)


def test_ops_of_several_results() -> None:
    x = draw(3, 2, 2) * 0.1 + sk.asarray(np.diag([1.0, 2.0]))
    fn = lambda a: OPS["eigh"](a)
    of_both = lambda a: (lambda w, v: sk.sum(w**2) + sk.sum(v[0] ** 2 * w))(*fn(a))
    close(sk.vmap(fn)(x), loop(fn, x))
    slope = loop(sk.grad(of_both), x)
    close(sk.vmap(sk.grad(of_both))(x), slope)
    close(sk.grad(lambda x: sk.sum(sk.vmap(of_both)(x)))(x), slope)
    each = sk.vmap(lambda a: sk.jvp(of_both, (a,), (a,))[1])
    close(each(x), sk.sum(slope * x, axis=(1, 2)))
    close(sk.function(sk.vmap(fn))(x), loop(fn, x))
    graph = sk.function(fn).trace(sk.TensorSpec((2, 2), "float64"))
    close(sk.vmap(graph)(x), loop(fn, x))
    close(sk.jacobian(of_both)(x[0]), slope[0])


# ----- functions with a derivative of their own ---------------------------------------------------


@sk.custom_vjp
def scaled(x: Any, y: Any) -> Any:
    return x * y, sk.sum(y)


scaled.defvjp(
    lambda x, y: ((x * y, sk.sum(y)), (x, y)),
    lambda kept, ct: (10 * ct[0] * kept[1], ct[0] * kept[0] + (0.0 if ct[1] is None else ct[1])),
)


@sk.custom_jvp
def pushed(x: Any, y: Any) -> Any:
    return x * y, sk.sum(y)


pushed.defjvp(lambda p, t: (pushed(*p), (10 * t[0] * p[1] + p[0] * t[1], sk.sum(t[1]))))

checked = sk.checkpoint(lambda x, y: (x * y, sk.sum(y)))


CUSTOM = pytest.mark.parametrize(
    "fn", [scaled, pushed, checked], ids=["custom_vjp", "custom_jvp", "checkpoint"]
)


@CUSTOM
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_custom_rules_in_both_orders(fn: Any, axes: Any) -> None:
    args = tuple(X if axis == 0 else Y for axis in axes)
    if axes == (0, 0):
        args = (X, draw(3, 4, seed=5))
    mapped = sk.vmap(fn, axes)
    close(mapped(*args), loop(fn, *args, in_axes=axes))
    of_lane = lambda x, y: (lambda out: sk.sum(out[0] ** 2) + 3 * out[1])(fn(x, y))
    slope = sk.grad(of_lane, (0, 1))
    want = loop(slope, *args, in_axes=axes)
    close(sk.vmap(slope, axes)(*args), want)
    whole = lambda *xs: (lambda out: sk.sum(out[0] ** 2) + 3 * sk.sum(out[1]))(mapped(*xs))
    summed = [w if axis == 0 else sk.sum(w, axis=0) for w, axis in zip(want, axes)]
    for ways in (sk.grad(whole, (0, 1)), sk.function(sk.grad(whole, (0, 1)))):
        close(ways(*args), summed)
    close(sk.grad(sk.function(whole), (0, 1))(*args), summed)
    if fn is not scaled:
        tangents = tuple(draw(*a.shape, seed=7) for a in args)
        along = sum(sk.sum(g * t) for g, t in zip(summed, tangents))
        close(sk.jvp(whole, args, tangents)[1], along)
        pushes = loop(
            lambda x, y, tx, ty: sk.jvp(of_lane, (x, y), (tx, ty))[1],
            *args,
            *tangents,
            in_axes=axes * 2,
        )
        got = sk.vmap(lambda x, y, tx, ty: sk.jvp(of_lane, (x, y), (tx, ty))[1], axes * 2)
        close(got(*args, *tangents), pushes)


@CUSTOM
def test_custom_rules_in_nested_vmaps(fn: Any) -> None:
    both = sk.vmap(sk.vmap(fn, (0, None)), (None, 0))
    y = draw(2, 4, seed=3)
    whole = lambda x, y: (lambda out: sk.sum(out[0] ** 2) + sk.sum(out[1]))(both(x, y))
    slope = sk.grad(lambda x, y: sk.sum(fn(x, y)[0] ** 2) + fn(x, y)[1], (0, 1))
    rows = [slope(a, b) for b in y for a in X]
    want_x = sk.sum(sk.reshape(sk.stack([r[0] for r in rows]), (2, 3, 4)), axis=0)
    want_y = sk.sum(sk.reshape(sk.stack([r[1] for r in rows]), (2, 3, 4)), axis=1)
    close(sk.grad(whole, (0, 1))(X, y), (want_x, want_y))


def test_a_rule_that_closes_over_a_mapped_tensor() -> None:
    def fn(a: Any) -> Any:
        @sk.custom_vjp
        def inner(x: Any) -> Any:
            return x * a

        inner.defvjp(lambda x: (x * a, None), lambda kept, ct: (ct * a * 7,))
        return inner(Y)

    close(sk.vmap(fn)(X), X * Y)
    got = sk.grad(lambda y: sk.sum(sk.vmap(lambda a: fn(a) * y)(X)))(Y)
    close(got, sk.sum(X * Y, axis=0))
    scaled_by = sk.checkpoint(lambda x: sk.sin(x) * Y)
    slope = sk.vmap(sk.grad(lambda a: sk.sum(scaled_by(a) * a)))(X)
    close(slope, sk.cos(X) * X * Y + sk.sin(X) * Y)


# ----- Jacobians ----------------------------------------------------------------------------------


class Count(Over):
    """Counts the ops that run."""

    def __init__(self, below: Any) -> None:
        super().__init__(below)
        self.ops = 0

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        self.ops += 1
        return self.below.apply(op, args, attrs)


def counted(fn: Callable[..., Any], *args: Any) -> int:
    count = Count(current())
    with using(count):
        fn(*args)
    return count.ops


W1, W2 = draw(8, 30, seed=1), draw(30, 100, seed=2)
mlp = lambda x: sk.tanh(x @ W1) @ W2


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_a_jacobian_is_one_pass(mode: Any) -> None:
    x = draw(8)
    one = counted(sk.grad(lambda x: sk.sum(mlp(x))), x)
    assert counted(sk.jacobian(mlp, mode=mode), x) < 3 * one
    rows = sk.stack([sk.grad(lambda x, k=k: mlp(x)[k])(x) for k in range(100)])
    close(sk.jacobian(mlp, mode=mode)(x), rows)

    def by_tape() -> Any:
        with sk.GradientTape() as tape:
            tape.watch(x)
            y = mlp(x)
        return tape.jacobian(y, x)

    close(by_tape(), rows)
    assert counted(by_tape) < 3 * one


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_jacobians_of_trees(mode: Any) -> None:
    fn = lambda p: {"a": p["w"] * sk.sum(p["b"]), "b": (p["w"][:, None] * p["b"],)}
    p = {"w": draw(2), "b": draw(3)}
    got = sk.jacobian(fn, mode=mode)(p)
    close(got["a"]["w"], sk.asarray(np.eye(2)) * sk.sum(p["b"]))
    close(got["a"]["b"], sk.broadcast_to(p["w"][:, None], (2, 3)))
    close(got["b"][0]["w"], sk.asarray(np.einsum("ik,j->ijk", np.eye(2), p["b"].numpy())))
    close(got["b"][0]["b"], sk.asarray(np.einsum("i,jk->ijk", p["w"].numpy(), np.eye(3))))
    staged = sk.function(sk.jacobian(fn, mode=mode))
    close(staged(p), got)
    close(staged(p), got)


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_a_jacobian_holds_for_any_size(mode: Any) -> None:
    f = sk.function(sk.jacobian(lambda x: sk.sin(x) * 2, mode=mode), dynamic=True)
    for n in (3, 5, 1, 0):
        x = draw(n)
        close(f(x), sk.asarray(np.diag(2 * np.cos(x.numpy()))))
    assert f.cache_info().traces == 1


# ----- writes and Variables -----------------------------------------------------------------------


def test_writes_to_what_is_mapped_or_made_inside() -> None:
    outside = sk.zeros(4, dtype=sk.float64)

    def fn(a: Any) -> Any:
        made = sk.zeros(4, dtype=sk.float64)
        made[1] = a[2]
        made[sk.argmax(a)] = 5.0
        a[0] = 1.0
        a[a < 0] = 0.5
        outside[0] = 3.0
        return made, a

    x = sk.asarray(X, copy=True)
    close(sk.vmap(fn)(x), loop(fn, X))
    close(x, X)  # each lane writes to its own
    assert outside[0].item() == 3
    staged = sk.function(lambda x: sk.vmap(fn)(x))
    outside[0] = 0.0
    close(staged(X), loop(fn, X))
    outside[0] = 0.0
    close(staged(X), loop(fn, X))
    assert outside[0].item() == 3


def test_variables_are_read_and_assigned_what_all_lanes_share() -> None:
    v = sk.Variable(Y)

    def fn(a: Any) -> Any:
        v.assign_add(1.0)
        mine = sk.Variable(sk.zeros(()))
        mine.assign(2.0)
        return a * v + mine

    close(sk.vmap(fn)(X), X * (Y + 1) + 2)
    close(v.value, Y + 1)


# ----- errors -------------------------------------------------------------------------------------

OUT, VAR = sk.zeros(4, dtype=sk.float64), sk.Variable(Y)


def _branch(a: Any) -> Any:
    return a if a[0] > 0 else -a


def _write(a: Any) -> None:
    OUT[0] = a[0]


def _write_twice(a: Any) -> None:
    OUT[0] = 0.0
    OUT[1] = a[0]


ERRORS: list[tuple[Callable[[], Any], type[StagekitError], str]] = [
    (
        lambda: sk.vmap(_branch)(X),
        DataDependentError,
        r"bool\(\) needs the value of a mapped tensor \(bool \(\)\), which has one in each of 3 "
        r"lanes\n.*in _branch\n.*where\(...\) for a branch",
    ),
    (lambda: sk.vmap(lambda a: a[0].item())(X), DataDependentError, r"item\(\) needs"),
    (lambda: sk.vmap(lambda a: float(a[0]))(X), DataDependentError, r"float\(\) needs"),
    (lambda: sk.vmap(lambda a: np.asarray(a))(X), DataDependentError, "np.asarray needs"),
    (lambda: sk.vmap(repr)(X), DataDependentError, "needs the value of a mapped tensor"),
    (lambda: sk.vmap(lambda a: a[a > 0])(X), DataDependentError, "depends on the data needs"),
    (
        lambda: sk.vmap(lambda a: sk.repeat(a, sk.astype(a, int)))(X),
        DataDependentError,
        "repeat needs",
    ),
    (
        lambda: sk.vmap(lambda a: sk.add([a[0], a[1]], 1))(X),
        DataDependentError,
        "a list of tensors",
    ),
    (lambda: sk.vmap(lambda a: a + sk.ones(7))(X), ShapeError, r"add: shapes \(4,\) and \(7,\)"),
    (
        lambda: sk.vmap(lambda a: sk.sum(a, axis=1))(X),
        ShapeError,
        "sum: axis 1 does not exist in a tensor of 1 axes",
    ),
    (
        lambda: sk.vmap(lambda a: a @ sk.ones((3, 3)))(X),
        ShapeError,
        r"matmul: shapes \(4,\) and \(3, 3\)",
    ),
    (
        lambda: sk.vmap(lambda a: sk.reshape(a, (3, 2)))(X),
        ShapeError,
        r"reshape: shape \(4,\) does not fit \(3, 2\)",
    ),
    (
        lambda: sk.vmap(lambda a: a[9])(X),
        BoundsError,
        "index 9 is out of bounds for axis 0 of size 4",
    ),
    (
        lambda: sk.vmap(lambda a, i: sk.take(a, i))(X, sk.asarray([0, 9, 1])),
        BoundsError,
        "index 9 is out of bounds for axis 0 of size 4",
    ),
    (
        lambda: sk.vmap(lambda i: sk.take(Y, i))(sk.asarray([0, 9, 1])),
        BoundsError,
        "index 9 is out of bounds for axis 0 of size 4",
    ),
    (
        lambda: sk.vmap(sk.grad(lambda a: a * 2))(X),
        ShapeError,
        r"grad: the function gives shape \(4,\), not a scalar",
    ),
    (
        lambda: sk.vmap(_write)(X),
        TraceError,
        r"a mapped value is written into a tensor \(float64 \(4,\)\)(.|\n)*in _write\n",
    ),
    (lambda: sk.vmap(_write_twice)(X), TraceError, "a mapped value is written into a tensor"),
    (
        lambda: sk.vmap(lambda a: VAR.assign(a))(X),
        TraceError,
        r"a mapped value \(float64 \(4,\), in each of 3 lanes\) goes into a Variable",
    ),
    (lambda: sk.vmap(lambda a: sk.Variable(a))(X), TraceError, "goes into a Variable"),
    (lambda: sk.vmap(lambda a: VAR.__setitem__(0, a[0]))(X), TraceError, "mapped value"),
    (lambda: sk.vmap(sk.grad(lambda a: VAR.assign(a)))(X), TraceError, "goes into a Variable"),
    (
        lambda: sk.vmap(sk.add)(X, Y),
        ShapeError,
        r"the mapped axes differ in size: args\[0\] has 3 \(axis 0\), args\[1\] has 4 \(axis 0\)",
    ),
    (lambda: sk.vmap(lambda a, *, b: a)(X, b={"w": Y}), ShapeError, r"kwargs\['b'\]\['w'\] has 4"),
    (
        lambda: sk.vmap(sk.exp, in_axes=2)(X),
        ShapeError,
        r"vmap: args\[0\] of shape \(3, 4\) has no axis 2 to map",
    ),
    (
        lambda: sk.vmap(sk.add)(X, 1.0),
        ShapeError,
        r"vmap: args\[1\] of shape \(\) has no axis 0 to map",
    ),
    (
        lambda: sk.vmap(lambda a, s: a)(X, "name"),
        ArgumentError,
        r"vmap: args\[1\] is str, not a tensor",
    ),
    (lambda: sk.vmap(sk.exp, in_axes=None)(X), ArgumentError, "vmap: no argument is mapped"),
    (lambda: sk.vmap(lambda: Y)(), ArgumentError, "vmap: no argument is mapped"),
    (
        lambda: sk.vmap(sk.add, in_axes=(0,))(X, X),
        ArgumentError,
        r"vmap: in_axes=\(0,\) does not fit the arguments, \(\*, \*\)",
    ),
    (lambda: sk.vmap(sk.exp, in_axes=0.5)(X), ArgumentError, "vmap: in_axes holds 0.5"),
    (
        lambda: sk.vmap(sk.exp, out_axes=2)(X),
        ShapeError,
        r"vmap: out of shape \(4,\) has no place 2",
    ),
    (
        lambda: sk.vmap(sk.exp, out_axes=None)(X),
        ArgumentError,
        "vmap: out depends on a mapped argument, and out_axes says None",
    ),
    (
        lambda: sk.vmap(sk.exp, out_axes=(0, 0))(X),
        ArgumentError,
        r"vmap: out_axes=\(0, 0\) does not fit the results, \*",
    ),
    (
        lambda: sk.vmap(lambda a: (a, "x"))(X),
        ArgumentError,
        r"vmap: out\[1\] is str, not a tensor, and cannot be stacked",
    ),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_say_what_and_where(case: int) -> None:
    call, kind, text = ERRORS[case]
    with pytest.raises(kind, match=text) as caught_:
        call()
    assert caught_.value.location is not None
    assert caught_.value.location.filename == __file__
    assert caught_.value.fix
    assert not OUT[0].item()


def test_an_op_without_a_rule_is_refused() -> None:
    with (
        planted(OPS["exp"], batch=None),
        pytest.raises(TraceError, match=r"vmap: exp has no batching rule\n.*in "),
    ):
        sk.vmap(sk.exp)(X)


def test_an_error_leaves_the_interpreter_as_it_was() -> None:
    before = current()
    with pytest.raises(DataDependentError):
        sk.vmap(_branch)(X)
    assert current() is before
    assert X.shape == (3, 4)


# ----- ops whose lanes differ though no operand is mapped -----------------------------------------


@pytest.fixture
def lane_number() -> Iterator[Op]:
    op = Op(
        "lane_number",
        infer=lambda: TensorType(sk.int64, ()),
        evaluate=lambda xp: xp.asarray(-1),
        element=lambda e, out, idx: e.number(-1, sk.int64),
        nondifferentiable="for this test",
        batch=lambda size, args, mapped, attrs: ops.iota(size=size, dtype=sk.int64),
        per_lane=True,
    )
    yield op
    del OPS["lane_number"]


def test_an_op_may_give_each_lane_its_own(lane_number: Op) -> None:
    got = sk.vmap(lambda a: a * 0 + lane_number())(X)
    assert got[:, 0].numpy().tolist() == [0, 1, 2]
    c = sk.function(lambda a: lane_number()).trace(sk.TensorSpec((4,), "float64"))
    assert sk.vmap(c)(X).numpy().tolist() == [0, 1, 2]
    for mode in ("rev", "fwd"):  # the lanes of a Jacobian are of one call
        slopes = sk.jacobian(lambda x: x * lane_number(), mode=mode)(Y)
        close(slopes, sk.asarray(-np.eye(4)))


def test_a_value_that_nobody_holds_is_forgotten() -> None:
    known: list[int] = []

    def fn(a: Any) -> Any:
        for _ in range(50):
            a = a * 1.5
            known.append(len(current().values))  # type: ignore[attr-defined]
        return a

    sk.vmap(fn)(X)
    assert max(known) <= 4


@pytest.mark.parametrize("module", [batching, mapping, tree], ids=lambda m: m.__name__)
def test_examples_run(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_the_name_says_what_it_is() -> None:
    assert sk.vmap(cubes).__name__ == "vmap(<lambda>)"
