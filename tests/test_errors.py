"""Forty mistakes: each is raised eagerly, staged, two calls deep and in the backward of a gradient,
and is every time the same class with the same text and the same user line.

The golden file holds the texts with `LINE` for the number of the line; the tests hold that number
against the source: the last line of a mistake is the one that fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit import errors
from stagekit.op import OPS
from stagekit.source import is_framework

Mistake = Callable[[Any, Any], Any]

MISTAKES: dict[str, Mistake] = {}
DEPENDENT: dict[str, Mistake] = {}  # those that fail for some values of `i` alone


def mistake(fn: Mistake) -> Mistake:
    MISTAKES[fn.__name__] = fn
    return fn


def value_mistake(fn: Mistake) -> Mistake:
    """A mistake that is none for the indices `GOOD`."""
    DEPENDENT[fn.__name__] = fn
    return mistake(fn)


X = sk.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
BAD = sk.asarray([0, 7])
GOOD = sk.asarray([0, 1])

# ----- shapes -------------------------------------------------------------------------------------


@mistake
def broadcast(x: Any, i: Any) -> Any:
    return x + sk.ones(4)


@mistake
def broadcast_where(x: Any, i: Any) -> Any:
    return sk.where(x > 0, x, sk.ones((2, 4)))


@mistake
def matmul(x: Any, i: Any) -> Any:
    return x @ x


@mistake
def matmul_scalar(x: Any, i: Any) -> Any:
    return sk.matmul(x, 2.0)


@mistake
def matmul_vector(x: Any, i: Any) -> Any:
    return x @ sk.ones(2)


@mistake
def reshape(x: Any, i: Any) -> Any:
    return x.reshape(4, 2)


@mistake
def reshape_unknown(x: Any, i: Any) -> Any:
    return sk.reshape(x, (4, -1))


@mistake
def reshape_float(x: Any, i: Any) -> Any:
    return sk.reshape(x, (3.0, 2))


@mistake
def squeeze(x: Any, i: Any) -> Any:
    return sk.squeeze(x, axis=0)


@mistake
def expand_dims(x: Any, i: Any) -> Any:
    return sk.expand_dims(x, axis=4)


@mistake
def concat(x: Any, i: Any) -> Any:
    return sk.concat([x, sk.ones((2, 2))], axis=0)


@mistake
def stack(x: Any, i: Any) -> Any:
    return sk.stack([x, sk.ones((3, 2))])


@mistake
def axis_out_of_range(x: Any, i: Any) -> Any:
    return x.sum(axis=2)


@mistake
def axis_twice(x: Any, i: Any) -> Any:
    return sk.sum(x, axis=(0, -2))


@mistake
def axis_float(x: Any, i: Any) -> Any:
    return sk.mean(x, axis=1.0)


@mistake
def permute(x: Any, i: Any) -> Any:
    return sk.permute_dims(x, (0, 0))


@mistake
def transpose_property(x: Any, i: Any) -> Any:
    return sk.stack([x, x]).T


@mistake
def broadcast_to(x: Any, i: Any) -> Any:
    return sk.broadcast_to(x, (3, 2))


@mistake
def split(x: Any, i: Any) -> Any:
    return sk.split(x, 2, axis=1)


@mistake
def pad_negative(x: Any, i: Any) -> Any:
    return sk.pad(x, (-1, 0))


@mistake
def repeat_negative(x: Any, i: Any) -> Any:
    return sk.repeat(x, -2)


@mistake
def negative_size(x: Any, i: Any) -> Any:
    return sk.zeros((2, -3))


@mistake
def arange_step(x: Any, i: Any) -> Any:
    return sk.arange(0, 5, 0)


@mistake
def max_of_empty(x: Any, i: Any) -> Any:
    return x[:0].max(axis=0)


@mistake
def argmax_of_empty(x: Any, i: Any) -> Any:
    return sk.argmax(x[:, 3:], axis=1)


@mistake
def length_of_scalar(x: Any, i: Any) -> Any:
    return len(x.sum())


@mistake
def iterate_scalar(x: Any, i: Any) -> Any:
    return list(x.sum())


@mistake
def item_of_many(x: Any, i: Any) -> Any:
    return sk.ones(3).item()


# ----- indices ------------------------------------------------------------------------------------


@mistake
def slice_step(x: Any, i: Any) -> Any:
    return x[::0]


@mistake
def too_many_indices(x: Any, i: Any) -> Any:
    return x[0, 1, 2]


@mistake
def index_out_of_bounds(x: Any, i: Any) -> Any:
    return x[5]


@mistake
def index_float(x: Any, i: Any) -> Any:
    return x[1.0]


@mistake
def index_float_tensor(x: Any, i: Any) -> Any:
    return x[x[0]]


@mistake
def index_text(x: Any, i: Any) -> Any:
    return x["weights"]


@mistake
def mask_shape(x: Any, i: Any) -> Any:
    return sk.where(x[:, :2] > 0, 1.0, 0.0)[sk.asarray([True, False, True])]


@mistake
def at_shape(x: Any, i: Any) -> Any:
    return x.at[0].set(sk.ones(2))


@mistake
def setitem_shape(x: Any, i: Any) -> Any:
    y = x + 0
    y[:, 1] = sk.ones(3)


@value_mistake
def index_tensor(x: Any, i: Any) -> Any:
    return x[i].sum()


@value_mistake
def take(x: Any, i: Any) -> Any:
    return sk.take(x, i, axis=1).sum()


@value_mistake
def take_along_axis(x: Any, i: Any) -> Any:
    return sk.take_along_axis(x, i.reshape(-1, 1), axis=1).sum()


@value_mistake
def at_add(x: Any, i: Any) -> Any:
    return x.at[i].add(1.0).sum()


@value_mistake
def class_out_of_range(x: Any, i: Any) -> Any:
    return sk.nn.functional.cross_entropy(x, i)


@value_mistake
def class_negative(x: Any, i: Any) -> Any:
    return sk.nn.functional.cross_entropy(x, sk.where(i > 5, -1, i))


@mistake
def labels_shape(x: Any, i: Any) -> Any:
    return sk.nn.functional.cross_entropy(x, sk.asarray([0, 1, 2]))


# ----- data types ---------------------------------------------------------------------------------


@mistake
def bitwise_of_floats(x: Any, i: Any) -> Any:
    return x & 1


@mistake
def shift_of_floats(x: Any, i: Any) -> Any:
    return x << 2


@mistake
def subtract_bools(x: Any, i: Any) -> Any:
    return (x > 0) - (x > 1)


@mistake
def no_common_type(x: Any, i: Any) -> Any:
    return i.astype(sk.uint64) + i


@mistake
def condition_not_bool(x: Any, i: Any) -> Any:
    return sk.where(x, x, x)


@mistake
def type_unknown(x: Any, i: Any) -> Any:
    return x.astype("datetime64")


@mistake
def scalar_overflow(x: Any, i: Any) -> Any:
    return i.astype(sk.int8) + 300


@mistake
def full_overflow(x: Any, i: Any) -> Any:
    return sk.full((2,), -1, dtype=sk.uint8)


@mistake
def text_operand(x: Any, i: Any) -> Any:
    return sk.add(x, "one")


@mistake
def ragged(x: Any, i: Any) -> Any:
    return sk.asarray([[1.0, 2.0], [3.0]])


@mistake
def float_as_index(x: Any, i: Any) -> Any:
    return [1, 2, 3][x[0, 0]]


# ----- derivatives --------------------------------------------------------------------------------


@mistake
def grad_of_non_scalar(x: Any, i: Any) -> Any:
    return sk.grad(lambda v: v * v)(x)


@mistake
def grad_of_integer(x: Any, i: Any) -> Any:
    return sk.grad(lambda n: sk.sum(n * n))(i)


@mistake
def grad_of_integer_result(x: Any, i: Any) -> Any:
    return sk.grad(lambda v: sk.argmax(v))(x)


@mistake
def argnums(x: Any, i: Any) -> Any:
    return sk.grad(lambda v: sk.sum(v), argnums=1)(x)


@mistake
def aux(x: Any, i: Any) -> Any:
    return sk.grad(lambda v: sk.sum(v), has_aux=True)(x)


@mistake
def tangent_shape(x: Any, i: Any) -> Any:
    return sk.jvp(lambda v: v * v, (x,), (sk.ones(3),))


@mistake
def tangent_structure(x: Any, i: Any) -> Any:
    return sk.jvp(lambda v: v * v, (x,), (x, x))


@mistake
def cotangent_structure(x: Any, i: Any) -> Any:
    return sk.vjp(lambda v: (v, v), x)[1](x)


@mistake
def cotangent_shape(x: Any, i: Any) -> Any:
    return sk.vjp(lambda v: v, x)[1](sk.ones(2))


@mistake
def jacobian_mode(x: Any, i: Any) -> Any:
    return sk.jacobian(lambda v: v, mode="backwards")


@mistake
def tape_used_twice(x: Any, i: Any) -> Any:
    with sk.GradientTape() as tape:
        tape.watch(x)
        y = sk.sum(x * x)
    tape.gradient(y, x)
    return tape.gradient(y, x)


@mistake
def no_forward_rule(x: Any, i: Any) -> Any:
    f = sk.custom_vjp(lambda v: v * 2)
    f.defvjp(lambda v: (v * 2, None), lambda res, ct: (ct * 2,))
    return sk.jvp(f, (x,), (x,))


# ----- state --------------------------------------------------------------------------------------


@mistake
def assign_shape(x: Any, i: Any) -> Any:
    v = sk.Variable(sk.zeros((2, 3)))
    v.assign(sk.ones(2))


@mistake
def assign_type(x: Any, i: Any) -> Any:
    v = sk.Variable(sk.zeros(2))
    v.assign(sk.ones(2, dtype=sk.float64))


# ----- the ways -----------------------------------------------------------------------------------


def middle(fn: Mistake, x: Any, i: Any) -> Any:
    return fn(x, i)


def outer(fn: Mistake, x: Any, i: Any) -> Any:
    return middle(fn, x, i)


def backward_of(fn: Mistake) -> Callable[[Any, Any], Any]:
    """A scalar function whose forward is right, and whose backward runs `fn`."""

    @sk.custom_vjp
    def scalar(x: Any, i: Any) -> Any:
        return sk.sum(x)

    def forward(x: Any, i: Any) -> Any:
        return sk.sum(x), (x, i)

    def backward(residuals: Any, ct: Any) -> Any:
        fn(*residuals)
        return sk.zeros_like(residuals[0]), None

    scalar.defvjp(forward, backward)
    return scalar


def taped(fn: Mistake) -> Callable[[Any, Any], Any]:
    """The gradient of a staged function by a tape outside of it."""

    def run(x: Any, i: Any) -> Any:
        return sk.grad(sk.function(backward_of(fn).__call__))(x, i)

    return run


WAYS: dict[str, Callable[[Mistake], Callable[[Any, Any], Any]]] = {
    "eager": lambda fn: fn,
    "staged": lambda fn: sk.function(fn),
    "helper": lambda fn: lambda x, i: outer(fn, x, i),
    "staged helper": lambda fn: sk.function(lambda x, i: outer(fn, x, i)),
    "staged in a helper": lambda fn: lambda x, i: outer(sk.function(fn), x, i),
    "nested": lambda fn: sk.function(lambda x, i: sk.function(fn)(x, i)),
    "backward": lambda fn: sk.grad(backward_of(fn)),
    "staged backward": lambda fn: sk.function(sk.grad(backward_of(fn))),
    "backward of staged": taped,
}


def raised(fn: Callable[[Any, Any], Any], x: Any, i: Any) -> sk.StagekitError:
    with pytest.raises(sk.StagekitError) as info:
        fn(x, i)
    return info.value


def last_line(fn: Mistake) -> int:
    return max(line for _, _, line in fn.__code__.co_lines() if line)


def text_of(error: sk.StagekitError) -> str:
    """The class and text, with the number of the line blanked."""
    text = re.sub(r"(test_errors\.py):\d+", r"\1:LINE", str(error))
    bases = [kind.__name__ for kind in type(error).__mro__[1:] if kind.__module__ == "builtins"]
    return f"{type(error).__name__} ({bases[0]}): {text}"


def test_there_are_forty() -> None:
    assert len(MISTAKES) >= 40


def test_golden(golden: Callable[[str, str], None]) -> None:
    texts = [f"--- {name}\n{text_of(raised(fn, X, BAD))}" for name, fn in MISTAKES.items()]
    golden("errors", "\n".join(texts))


@pytest.mark.parametrize("name", MISTAKES)
def test_every_message_names_the_line_and_the_cure(name: str) -> None:
    error = raised(MISTAKES[name], X, BAD)
    assert error.fix and error.location is not None
    assert error.location.filename == __file__
    assert error.location.lineno == last_line(MISTAKES[name])
    assert error.location.function == name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MISTAKES)
def test_the_same_in_every_way(name: str, way: str) -> None:
    expected, found = raised(MISTAKES[name], X, BAD), raised(WAYS[way](MISTAKES[name]), X, BAD)
    assert (type(found), str(found)) == (type(expected), str(expected))
    assert found.location == expected.location


@pytest.mark.parametrize("name", MISTAKES)
def test_the_same_in_a_trace_without_values(name: str) -> None:
    fn = MISTAKES[name]
    staged = sk.function(fn)
    specs = sk.TensorSpec((2, 3)), sk.TensorSpec((2,), sk.int64)
    found = raised(lambda x, i: staged.trace(*specs)(x, i), X, BAD)
    expected = raised(fn, X, BAD)
    assert (type(found), str(found)) == (type(expected), str(expected))


# ----- calls that come later ----------------------------------------------------------------------

REPLAYED = {way: make for way, make in WAYS.items() if "staged" in way}


@pytest.mark.parametrize("way", REPLAYED)
@pytest.mark.parametrize("name", DEPENDENT)
def test_the_same_in_a_call_that_is_replayed(name: str, way: str) -> None:
    fn = DEPENDENT[name]
    run = REPLAYED[way](fn)
    for _ in range(2):
        run(X, GOOD)
    found, expected = raised(run, X, BAD), raised(fn, X, BAD)
    assert (type(found), str(found)) == (type(expected), str(expected))
    run(X, GOOD)


@pytest.mark.parametrize("way", REPLAYED)
@pytest.mark.parametrize("name", DEPENDENT)
def test_the_same_where_the_sizes_are_symbolic(name: str, way: str) -> None:
    fn = DEPENDENT[name]
    run = REPLAYED[way](fn)
    for n in (3, 4):
        run(sk.ones((n, 5)), sk.zeros(n, dtype=sk.int64))
    found, expected = raised(run, X, BAD), raised(fn, X, BAD)
    assert (type(found), str(found)) == (type(expected), str(expected))


def add_sizes(x: Any, n: Any) -> Any:
    return x + n


def multiply_matrices(x: Any, n: Any) -> Any:
    return sk.reshape(x, (1, -1)) @ sk.reshape(n, (-1, 1))


def fold(x: Any, n: Any) -> Any:
    return sk.reshape(n, (-1, 2)) + sk.sum(x)


def largest(x: Any, n: Any) -> Any:
    return sk.max(n) + sk.sum(x)


def first(x: Any, n: Any) -> Any:
    return n[0] + sk.sum(x)


def halves(x: Any, n: Any) -> Any:
    return sk.split(n, 2)[0] + sk.sum(x)


SIZES = [
    (add_sizes, [(2, 2), (4, 4), (6, 1), (1, 6)], (2, 3)),
    (multiply_matrices, [(2, 2), (4, 4)], (2, 3)),
    (fold, [(1, 2), (1, 4), (1, 8)], (1, 5)),
    (largest, [(1, 2), (1, 4), (1, 1)], (1, 0)),
    (first, [(1, 2), (1, 4), (1, 1)], (1, 0)),
    (halves, [(1, 2), (1, 4), (1, 8)], (1, 3)),
]


@pytest.mark.parametrize(("fn", "good", "bad"), SIZES)
def test_a_size_that_does_not_fit_a_symbolic_trace(fn: Mistake, good: Any, bad: Any) -> None:
    staged = sk.function(fn)
    for n, m in good:
        assert staged(sk.ones(n), sk.ones(m)).shape == fn(sk.ones(n), sk.ones(m)).shape
    arguments = [sk.ones(n) for n in bad]
    found, expected = raised(staged, *arguments), raised(fn, *arguments)
    assert (type(found), str(found)) == (type(expected), str(expected))


def test_a_failed_call_leaves_state_as_before() -> None:
    v = sk.Variable(sk.zeros(2))

    @sk.function
    def step(x: Any, i: Any) -> Any:
        v.assign_add(sk.ones(2))
        return x[i]

    with pytest.raises(sk.BoundsError):
        step(X, BAD)
    step(X, GOOD)
    with pytest.raises(sk.BoundsError):
        step(X, BAD)
    assert v.value.tolist() == [1.0, 1.0]


# ----- tracebacks ---------------------------------------------------------------------------------


def shown(error: BaseException) -> list[str]:
    """The files of a printed traceback."""
    return [f.filename for f in traceback.extract_tb(error.__traceback__)]


def names(error: BaseException) -> list[str]:
    return [f.name for f in traceback.extract_tb(error.__traceback__)]


def inner_loss(w: Any) -> Any:
    return sk.sum(w @ w)


staged_loss = sk.function(inner_loss)


def outer_loss(w: Any) -> Any:
    return staged_loss(w)


def test_a_traceback_shows_the_users_frames() -> None:
    with pytest.raises(sk.ShapeError) as info:
        sk.function(sk.grad(outer_loss))(X)
    assert names(info.value)[1:] == ["outer_loss", "inner_loss"]
    assert not any(map(is_framework, shown(info.value)))
    assert info.value.__cause__ is None and info.value.__suppress_context__


def test_the_whole_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sk.config, "traceback", "full")
    with pytest.raises(sk.ShapeError) as info:
        sk.function(sk.grad(outer_loss))(X)
    assert sum(map(is_framework, shown(info.value))) > 10
    assert [n for n in names(info.value) if n.endswith("_loss")] == ["outer_loss", "inner_loss"]


def test_an_error_of_the_users_own_shows_their_frames() -> None:
    def fails(w: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError) as info:
        sk.function(sk.grad(fails))(X)
    assert names(info.value)[1:] == ["fails"]


def test_an_error_in_numpy_called_by_the_user_shows_numpy() -> None:
    def fails(w: Any) -> Any:
        return np.linalg.inv(np.zeros((2, 2)))

    with pytest.raises(np.linalg.LinAlgError) as info:
        sk.function(fails)(X)
    assert "fails" in names(info.value) and "inv" in names(info.value)


def test_a_fault_of_the_framework_keeps_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: dict[str, Any] = {}
    exec(compile("def fault(*arrays): return {}['fault']", errors.__file__, "exec"), inside)
    monkeypatch.setattr(OPS["matmul"], "numpy", inside["fault"])
    with pytest.raises(KeyError) as info:
        sk.grad(inner_loss)(sk.eye(2))
    assert names(info.value)[1] == "inner_loss"
    assert names(info.value)[-1] == "fault"


def test_few_frames_remain_of_an_op() -> None:
    for name, fn in MISTAKES.items():
        error = raised(fn, X, BAD)
        frames = [f for f in shown(error) if is_framework(f)]
        assert len(frames) <= 6, name


SCRIPT = """
import stagekit as sk

def loss(w):
    return sk.sum(sk.squeeze(w, axis=0))

{call}
"""


@pytest.mark.parametrize("call", ["loss(sk.ones((2, 3)))", "sk.grad(loss)(sk.ones((2, 3)))"])
@pytest.mark.parametrize("setting", ["filtered", "full"])
def test_an_uncaught_error_prints_the_users_frames(call: str, setting: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(call=call))
    package = Path(sk.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "STAGEKIT_TRACEBACK": setting, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    lines = [line for line in run.stderr.splitlines() if line.startswith("  File")]
    own = [line for line in lines if "script.py" not in line]
    assert bool(own) == (setting == "full"), run.stderr
    assert "script.py:5 in loss\n  fix: name axes of size 1" in run.stderr


def test_a_notebook_shows_the_users_frames() -> None:
    error = raised(MISTAKES["squeeze"], X, BAD)
    text = "\n".join(error._render_traceback_())
    assert "sk.squeeze(x, axis=0)" in text and "stagekit" + os.sep not in text
    assert text.endswith(str(error))


# ----- arguments that are none --------------------------------------------------------------------

ONES = sk.ones((2, 2))
ARGUMENTS: list[tuple[Callable[[], Any], str]] = [
    (lambda: sk.arange(float("nan")), "arange: from 0 to nan by 1"),
    (lambda: sk.arange(2j), "arange: from 0 to 2j by 1"),
    (lambda: sk.eye(1.5), "eye: a size is 1.5"),
    (lambda: sk.eye(2, k=0.5), "eye: k is 0.5"),
    (lambda: sk.meshgrid(ONES), r"meshgrid: an operand has the shape \(2, 2\)"),
    (lambda: sk.pad(ONES, 1.5), "pad: a width is 1.5"),
    (lambda: sk.pad(ONES[:0], 1, "edge"), r"pad: axis 0 of shape \(0, 2\) has nothing to repeat"),
    (lambda: sk.roll(ONES, (1, 2, 3), axis=(0, 1)), "roll: 3 shifts of 2 axes"),
    (lambda: sk.roll(ONES, 1.5), "roll: shift is 1.5"),
    (lambda: sk.diag(ONES[0], 1.5), "diag: k is 1.5"),
    (lambda: sk.diagonal(ONES, "x"), "diagonal: offset is 'x'"),
    (lambda: sk.tril(ONES, k="x"), "tril: k is 'x'"),
    (lambda: sk.tensordot(ONES, ONES, axes=None), "tensordot: axes is None"),
    (lambda: sk.permute_dims(ONES, 1), "permute_dims: axes"),
    (lambda: sk.einsum(3, ONES), "einsum: subscripts are 3"),
    (lambda: sk.zeros(2, dtype=ONES), "dtype: tensor"),
]  # fmt: skip


@pytest.mark.parametrize("call, text", ARGUMENTS, ids=[text for _, text in ARGUMENTS])
def test_a_wrong_argument_is_named_alike_in_both_stages(call: Callable[[], Any], text: str) -> None:
    found = []
    for run in (call, sk.function(call)):
        with pytest.raises(errors.StagekitError, match=text) as caught:
            run()
        assert caught.value.fix
        found.append((type(caught.value), str(caught.value)))
    assert found[0] == found[1]


def test_lists_and_scalars_are_operands() -> None:
    rows = [[1, 2], [3, 4]]
    for name in ("zeros_like", "ones_like", "tril", "triu", "matrix_transpose", "unstack"):
        made = getattr(sk, name)(rows)
        wanted = getattr(sk, name)(sk.asarray(rows))
        assert np.array_equal(np.asarray(made), np.asarray(wanted))
    assert np.array_equal(sk.swapaxes(rows, 0, 1).numpy(), np.array(rows).T)
    assert np.array_equal(sk.moveaxis(rows, 0, 1).numpy(), np.array(rows).T)
    for mine, numpys in zip(sk.meshgrid(1, [2, 3]), np.meshgrid(1, [2, 3]), strict=True):
        assert np.array_equal(mine.numpy(), numpys)
