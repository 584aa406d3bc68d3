"""Every op of the registry against central differences, to second order, in both modes; what the
derivative is at each documented kink; and `check_grads` itself against planted mistakes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import stagekit as sk
import stagekit.ops as ops
from stagekit import tree
from stagekit.nn import functional as F
from stagekit.op import OPS, weak_type
from stagekit.testing import check_grads
from tests.samples import Sample, random, smooth_samples

Function = Callable[..., Any]

# ----- every op -----------------------------------------------------------------------------------


def of_floats(sample: Sample) -> tuple[Function, list[np.ndarray]]:
    """A sample as a function of its float operands, and these."""
    operands = sample.tensors()
    kinds = ["" if weak_type(a) else np.asarray(a).dtype.kind for a in sample.args]
    places = [k for k, kind in enumerate(kinds) if kind in ("f", "c")]

    def call(*floats: Any) -> Any:
        args = list(operands)
        for k, x in zip(places, floats, strict=True):
            args[k] = x
        return OPS[sample.op](*args, **sample.attrs)

    call.__name__ = str(sample)
    return call, [np.asarray(sample.args[k]) for k in places]


def uncovered(name: str) -> str | None:
    """Why the derivative of an op goes unchecked although it should be, None if it does not."""
    op = OPS[name]
    if op.vjp is None:
        return None if op.nondifferentiable else "it has neither a derivative nor a reason"
    if op.jvp is None:
        return "it has a vjp and no jvp"
    if name != "custom" and not smooth_samples(name):
        return "it has no smooth samples in tests/samples/"
    return None


@pytest.mark.parametrize("name", list(OPS))
def test_every_op_is_covered(name: str) -> None:
    assert uncovered(name) is None, f"{name}: {uncovered(name)}"


def test_an_op_without_samples_or_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uncovered("exp") is None
    monkeypatch.setitem(globals(), "smooth_samples", lambda name: [])
    assert "samples" in str(uncovered("exp"))
    monkeypatch.setattr(OPS["exp"], "jvp", None)
    assert "jvp" in str(uncovered("exp"))
    monkeypatch.setattr(OPS["exp"], "vjp", None)
    assert "reason" in str(uncovered("exp"))


SMOOTH = [sample for name, op in OPS.items() if op.vjp for sample in smooth_samples(name)]


@pytest.mark.parametrize("sample", SMOOTH, ids=str)
def test_op(sample: Sample) -> None:
    check_grads(*of_floats(sample))


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.vjp and name != "custom"])
def test_op_at_random_points(name: str, full: bool) -> None:
    for seed in range(20 if full else 1):
        rng = np.random.default_rng([11, seed, *name.encode()])
        for sample in smooth_samples(name, rng)[: None if full else 3]:
            check_grads(*of_floats(sample))


def test_the_op_custom() -> None:
    @sk.custom_jvp
    def product(x: Any, y: Any) -> Any:
        return x * y, x - y

    @product.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x, y), (s, t) = primals, tangents
        return (x * y, x - y), (s * y + x * t, s - t)

    assert OPS["custom"] is ops.custom
    check_grads(product, (np.array([1.5, -2.0]), np.array([0.5, 3.0])), order=3)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.vjp])
def test_derivatives_keep_the_data_type(name: str) -> None:
    for sample in smooth_samples(name)[:1]:
        call, floats = of_floats(sample)
        if name in ("astype", "eig", "rdft") or floats[0].dtype.kind == "c":
            continue  # their results are of another type
        for kind in (sk.float16, sk.float32):
            xs = [sk.asarray(x, dtype=kind) for x in floats]
            out, pullback = sk.vjp(call, *xs)
            tangent = sk.jvp(call, xs, xs)[1]
            assert {y.dtype for y in tree.leaves((out, tangent))} == {kind}
            assert {g.dtype for g in pullback(out)} == {kind}


def test_a_cast_gives_the_cotangent_of_its_operand_s_type() -> None:
    x = sk.asarray([1.0, 2.0], dtype=sk.float16)
    assert sk.grad(lambda v: sk.sum(v.astype(sk.float32) * 2))(x).dtype == sk.float16
    assert sk.jvp(lambda v: v.astype(sk.float64), (x,), (x,))[1].dtype == sk.float64


def test_no_op_gives_its_operand_s_own_buffer() -> None:
    """A tape knows values by identity: an op must give a new one."""
    for sample in SMOOTH:
        tensors = sample.tensors()
        outs = tree.leaves(OPS[sample.op](*tensors, **sample.attrs))
        assert all(y._value is not x._value for x in tensors for y in outs), sample


# ----- kinks --------------------------------------------------------------------------------------

INF = math.inf


def gradients(f: Function, *args: Any) -> list[list[float]]:
    """The gradient of the sum of `f` with respect to every argument, the same in both modes."""
    xs = [sk.asarray(a, dtype=sk.float64) for a in args]
    reverse = sk.grad(lambda *x: sk.sum(f(*x)), tuple(range(len(xs))))(*xs)
    forward = sk.jacobian(lambda *x: sk.sum(f(*x)), tuple(range(len(xs))), mode="fwd")(*xs)
    for a, b in zip(reverse, forward, strict=True):
        np.testing.assert_array_equal(a, b)
    return [g.tolist() for g in reverse]


def diagonal(f: Function, *args: Any) -> list[Any]:
    """The second derivative of each element of `f` with respect to its own operand."""
    return gradients(lambda x: sk.grad(lambda v: sk.sum(f(v, *args[1:])))(x), args[0])[0]


@pytest.mark.parametrize(
    ("f", "args", "expected"),
    [
        (sk.abs, ([0.0, -0.0, 2.0, -3.0],), [[0, 0, 1, -1]]),
        (F.relu, ([0.0, -0.0, 2.0, -3.0],), [[0, 0, 1, 0]]),
        (sk.hypot, ([0.0, 3.0], [0.0, 4.0]), [[0, 0.6], [0, 0.8]]),
        (sk.maximum, ([1.0, 2.0, 0.0], [1.0, 3.0, -0.0]), [[0.5, 0, 0.5], [0.5, 1, 0.5]]),
        (sk.minimum, ([1.0, 2.0, 0.0], [1.0, 3.0, -0.0]), [[0.5, 1, 0.5], [0.5, 0, 0.5]]),
        (sk.max, ([2.0, 5.0, 5.0, 1.0, 5.0],), [[0, 1 / 3, 1 / 3, 0, 1 / 3]]),
        (sk.min, ([2.0, 1.0, 1.0],), [[0, 0.5, 0.5]]),
        (lambda x: sk.max(x, axis=0), ([[1.0, 2.0], [1.0, 0.0]],), [[[0.5, 1], [0.5, 0]]]),
        (lambda x: sk.clip(x, 0, 1), ([0.0, 0.5, 1.0, 2.0],), [[0.5, 1, 0.5, 0]]),
        (sk.std, ([3.0, 3.0, 3.0],), [[0, 0, 0]]),
        (sk.logsumexp, ([-INF, -INF],), [[0, 0]]),
        (sk.logsumexp, ([-INF, 0.0],), [[0, 1]]),
        (sk.logaddexp, ([-INF, 0.0], [-INF, -INF]), [[0.5, 1], [0.5, 0]]),
        (F.softmax, ([[-INF, 0.0]],), [[[0, 0]]]),
        (sk.prod, ([0.0, 2.0, 3.0],), [[6, 0, 0]]),
        (sk.prod, ([0.0, 0.0, 3.0],), [[0, 0, 0]]),
        (sk.copysign, ([2.0, -3.0], [-1.0, -1.0]), [[-1, 1], [0, 0]]),
        (lambda x, v: x.at[np.array([0, 0])].set(v), ([1.0, 2.0], [3.0, 4.0]), [[0, 1], [0, 1]]),
        (sk.sign, ([0.0, 2.0],), [[0, 0]]),
        (sk.floor, ([1.0, 2.5],), [[0, 0]]),
    ],
)
def test_kink(f: Function, args: tuple[Any, ...], expected: list[Any]) -> None:
    np.testing.assert_allclose(gradients(f, *args), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("x", "y", "by_x", "by_y"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 1.0, 1.0, 0.0),
        (0.0, 2.0, 0.0, 0.0),
        (0.0, 0.5, INF, 0.0),
        (-2.0, 2.0, -4.0, math.nan),
        (-2.0, 0.0, 0.0, math.nan),
        (-2.0, 3.0, 12.0, math.nan),
        (3.0, 0.0, 0.0, math.log(3)),
    ],
)
def test_power_at_its_edges(x: float, y: float, by_x: float, by_y: float) -> None:
    """d x**y / dx = y x**(y-1), 0 at y = 0 for every x; d x**y / dy = 0 at x = 0 for y >= 0."""
    np.testing.assert_allclose(gradients(sk.power, x, y), [by_x, by_y], rtol=1e-15)


def test_powers_of_zero_to_second_order() -> None:
    assert diagonal(lambda x: x**2, [0.0, 1.0, -3.0]) == [2, 2, 2]
    assert diagonal(lambda x: x**3, [0.0, 1.0, -3.0]) == [0, 6, -18]
    assert diagonal(lambda x: x**1, [0.0, 2.0]) == [0, 0]
    assert diagonal(lambda x: x**0, [0.0, 2.0]) == [0, 0]
    assert diagonal(sk.square, [0.0, 2.0]) == [2, 2]
    assert diagonal(sk.abs, [0.0, 2.0]) == [0, 0]


def test_the_branch_not_taken_does_not_spoil_the_gradient() -> None:
    """The unused branch is infinite or NaN where it is masked, and so are its derivatives."""
    safe = lambda x: sk.where(x > 0, sk.log(sk.where(x > 0, x, 1.0)), 0.0)
    assert gradients(safe, [0.0, -1.0, 2.0]) == [[0, 0, 0.5]]
    assert gradients(lambda x, y: sk.where(x > 0, x, y), [INF, -1.0], [1.0, INF]) == [
        [1, 0],
        [0, 1],
    ]
    assert gradients(lambda x: sk.where(x < 0, INF, x * 3), [-1.0, 1.0]) == [[0, 3]]


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_products_with_zeros_to_second_order(zeros: int) -> None:
    """The Hessian of a product is the product of all the others, which is no quotient at a zero."""
    x = np.array([2.0, -3.0, 5.0, 0.5])
    x[:zeros] = 0.0
    others = [[np.delete(x, [i, j]).prod() if i != j else 0.0 for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(sk.hessian(sk.prod)(x), others)
    check_grads(sk.prod, (x,), order=3)
    check_grads(lambda v: sk.prod(v, axis=1), (np.stack([x, x + 1]),))


def test_ties_share_in_scatter() -> None:
    index = np.array([0, 0, 2])
    for mode, x in (("max", [1.0, 0.0, 1.0]), ("min", [1.0, 9.0, 1.0])):
        write = lambda v, u: getattr(v.at[index], mode)(u)
        assert gradients(write, x, [1.0, 1.0, 1.0]) == [
            pytest.approx([1 / 3, 1, 1 / 2]),
            pytest.approx([1 / 3, 1 / 3, 1 / 2]),
        ]


# ----- compositions -------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return random(np.random.default_rng([seed, *shape]), "float64", shape)


LABELS = np.array([1, 3, 0])
MASK = np.array([True, False, True])
ROWS = np.array([2, 0, 2, -1])

COMPOSITES: dict[str, tuple[Function, Sequence[Any]]] = {
    "softmax": (F.softmax, [draw(3, 4)]),
    "softmax axis 0": (lambda x: F.softmax(x, axis=0), [draw(3, 4)]),
    "log_softmax": (F.log_softmax, [draw(3, 4)]),
    "softmax of large": (lambda x: F.softmax(x + 1000.0), [draw(3, 4)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS), [draw(3, 4)]),
    "cross_entropy sum": (lambda x: F.cross_entropy(x, LABELS, reduction="sum"), [draw(3, 4)]),
    "cross_entropy none": (lambda x: F.cross_entropy(x, LABELS, reduction="none"), [draw(3, 4)]),
    "cross_entropy smooth": (
        lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1), [draw(3, 4)],
    ),
    "cross_entropy ignore": (lambda x: F.cross_entropy(x, LABELS, ignore_index=3), [draw(3, 4)]),
    "cross_entropy all": (
        lambda x: F.cross_entropy(x, LABELS, ignore_index=3, label_smoothing=0.2), [draw(3, 4)],
    ),
    "cross_entropy of probabilities": (
        lambda x, p: F.cross_entropy(x, F.softmax(p)), [draw(3, 4), draw(3, 4, seed=1)],
    ),
    "cross_entropy of probabilities, smooth": (
        lambda x, p: F.cross_entropy(x, F.softmax(p), label_smoothing=0.3),
        [draw(3, 4), draw(3, 4, seed=1)],
    ),
    "cross_entropy of images": (
        lambda x: F.cross_entropy(x, np.array([[0, 2], [1, 1]])), [draw(2, 3, 2)],
    ),
    "cross_entropy of one": (lambda x: F.cross_entropy(x, np.array(2)), [draw(4)]),
    "mean": (sk.mean, [draw(3, 4)]),
    "mean axis": (lambda x: sk.mean(x, axis=1, keepdims=True), [draw(3, 4)]),
    "var": (sk.var, [draw(5)]),
    "var correction": (lambda x: sk.var(x, axis=0, correction=1), [draw(3, 4)]),
    "std": (lambda x: sk.std(x, axis=-1, correction=1), [draw(3, 4)]),
    "logsumexp": (lambda x: sk.logsumexp(x, axis=(0, 2)), [draw(2, 3, 4)]),
    "vecdot": (sk.vecdot, [draw(3, 4), draw(2, 1, 4)]),
    "matmul vectors": (sk.matmul, [draw(4), draw(4, seed=1)]),
    "matmul vector matrix": (sk.matmul, [draw(4), draw(2, 4, 3)]),
    "matmul matrix vector": (sk.matmul, [draw(2, 3, 4), draw(4)]),
    "matmul broadcast": (sk.matmul, [draw(2, 1, 3, 4), draw(5, 4, 2)]),
    "roll": (lambda x: sk.roll(x, (1, -2), axis=(0, 1)), [draw(3, 4)]),
    "roll flat": (lambda x: sk.roll(x, 5), [draw(3, 4)]),
    "tile": (lambda x: sk.tile(x, (2, 1, 3)), [draw(3, 2)]),
    "repeat": (lambda x: sk.repeat(x, 3, axis=1), [draw(2, 3)]),
    "repeat each": (lambda x: sk.repeat(x, [1, 0, 2], axis=1), [draw(2, 3)]),
    "repeat flat": (lambda x: sk.repeat(x, 2), [draw(2, 3)]),
    "split": (lambda x: [p * (k + 1) for k, p in enumerate(sk.split(x, [1, 3]))], [draw(5)]),
    "stack": (lambda x, y: sk.stack([x, y, x], axis=1), [draw(2, 3), draw(2, 3, seed=1)]),
    "concat flat": (lambda x, y: sk.concat([x, y], axis=None), [draw(2, 3), draw(2)]),
    "moveaxis": (lambda x: sk.moveaxis(x, (0, 2), (1, 0)), [draw(2, 3, 4)]),
    "squeeze": (lambda x: sk.squeeze(x, axis=(0, 2)), [draw(1, 3, 1)]),
    "triangles": (lambda x: (sk.tril(x, k=1), sk.triu(x, k=-1)), [draw(2, 3, 3)]),
    "clip": (lambda x: sk.clip(x, -0.9, 0.9), [draw(6)]),
    "clip by tensors": (
        lambda x, a, b: sk.clip(x, a, b),
        [np.array([-1.0, 0.2, 2.0]), np.array([-0.5, 0.0, 0.1]), np.array([0.5, 0.6, 0.7])],
    ),
    "take": (lambda x: sk.take(x, ROWS, axis=0), [draw(3, 2)]),
    "take_along_axis": (
        lambda x: sk.take_along_axis(x, np.array([[0, 0, 3], [-1, 2, 2]]), axis=1), [draw(2, 4)],
    ),
    "index int": (lambda x: x[1], [draw(3, 4)]),
    "index negative": (lambda x: x[-1, ..., -2], [draw(3, 2, 4)]),
    "index slice": (lambda x: x[1:, ::2], [draw(3, 4)]),
    "index reversed": (lambda x: x[::-2, None, 3:0:-1], [draw(5, 4)]),
    "index empty": (lambda x: x[2:1], [draw(3, 4)]),
    "index rows": (lambda x: x[ROWS], [draw(3, 4)]),
    "index pairs": (lambda x: x[ROWS, np.array([0, 0, 0, 1])], [draw(3, 4)]),
    "index apart": (lambda x: x[ROWS, :, np.array([0, 0, 0, 1])], [draw(3, 2, 4)]),
    "index grid": (lambda x: x[:, np.array([[0, 1], [1, 1]])], [draw(3, 4)]),
    "index mask": (lambda x: x[MASK], [draw(3, 4)]),
    "index mask inside": (lambda x: x[:, MASK], [draw(2, 3)]),
    "index own values": (lambda x: x[x > 0] * 2, [draw(6)]),
    "layer norm": (
        lambda x: (x - sk.mean(x, axis=-1, keepdims=True))
        * sk.rsqrt(sk.var(x, axis=-1, keepdims=True) + 1e-5),
        [draw(3, 4)],
    ),
    "attention": (
        lambda q, k, v: F.softmax(q @ k.mT / math.sqrt(3)) @ v,
        [draw(2, 4, 3), draw(2, 4, 3, seed=1), draw(2, 4, 2)],
    ),
}  # fmt: skip

for _mode in ("constant", "edge", "reflect", "symmetric", "wrap"):
    COMPOSITES[f"pad {_mode}"] = (
        lambda x, _mode=_mode: sk.pad(x, ((1, 2), (0, 3)), _mode),
        [draw(3, 4)],
    )
COMPOSITES["pad by a tensor"] = (
    lambda x, c: sk.pad(x, 1, constant_values=c),
    [draw(2, 3), np.array(1.5)],
)

KEYS: dict[str, Any] = {
    "repeated": ROWS,
    "pairs": (ROWS, np.array([1, 1, 1, 1])),
    "slice": (slice(None, None, -2), 1),
    "mask": MASK,
    "int": 1,
}
for _op in ("set", "add", "multiply", "min", "max"):
    for _key, _index in KEYS.items():
        _shape = np.empty((3, 2))[_index].shape
        COMPOSITES[f"at {_key} {_op}"] = (
            lambda x, v, _op=_op, _index=_index: getattr(x.at[_index], _op)(v),
            [draw(3, 2), draw(*_shape, seed=3)],
        )
    COMPOSITES[f"at {_op} of one value"] = (
        lambda x, v, _op=_op: getattr(x.at[ROWS], _op)(v),
        [draw(3, 2), np.array(0.37)],
    )
    COMPOSITES[f"at {_op} of nothing"] = (
        lambda x, v, _op=_op: getattr(x.at[np.array([], int)], _op)(v),
        [draw(3, 2), draw(0, 2)],
    )


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite(name: str) -> None:
    f, args = COMPOSITES[name]
    check_grads(f, args)


@pytest.mark.parametrize("op", ["set", "add", "multiply", "min", "max"])
def test_writes_with_repeated_places_and_zeros(op: str) -> None:
    """The values written hold zeros, of which two fall on one place."""
    x, v = np.array([2.0, 3.0, 5.0]), np.array([0.0, 7.0, 0.0, 0.0, 4.0])
    index = np.array([0, 0, 1, 1, 2])
    check_grads(lambda a, b: getattr(a.at[index], op)(b), (x, v), order=1)


def test_setitem_is_differentiated_as_at_set() -> None:
    def write(x: Any, v: Any) -> Any:
        y = x * 1.0
        y[ROWS] = v
        y[0] = y[1] * 2
        return y * x

    check_grads(write, [draw(3, 2), draw(4, 2)])


def test_zero_size_everywhere() -> None:
    check_grads(lambda x, y: F.softmax(x @ y), [draw(0, 3), draw(3, 2)])
    check_grads(lambda x: sk.mean(x, axis=1) + sk.sum(x), [draw(0, 3)])
    check_grads(lambda x: sk.concat([x, x * 2]), [draw(0, 3)])


# ----- check_grads against planted mistakes -------------------------------------------------------


def with_vjp(fn: Function, bwd: Function) -> Any:
    f = sk.custom_vjp(fn)
    f.defvjp(lambda x: (fn(x), x), lambda x, ct: (bwd(x, ct),))
    return f


def with_jvp(fn: Function, rule: Function) -> Any:
    f = sk.custom_jvp(fn)
    f.defjvp(lambda primals, tangents: (fn(*primals), rule(*primals, *tangents)))
    return f


X = np.array([[0.5, 1.5], [2.0, -1.0]])


def test_right_rules_pass() -> None:
    check_grads(with_vjp(lambda x: x**3, lambda x, ct: ct * 3 * x**2), (X,), 3, ["rev"])
    check_grads(with_jvp(lambda x: x**3, lambda x, t: t * 3 * x**2), (X,), 3)


@pytest.mark.parametrize(
    ("f", "modes", "order", "said"),
    [
        (with_vjp(sk.exp, lambda x, ct: ct * sk.exp(x) * 1.001), ["rev"], 1, "rev of"),
        (with_vjp(sk.exp, lambda x, ct: -ct), ["rev"], 1, "rev of"),
        (with_jvp(sk.exp, lambda x, t: t * sk.exp(x) * 1.001), ["fwd"], 1, "fwd of"),
        (with_jvp(sk.exp, lambda x, t: t * sk.exp(x) * 1.001), ["rev"], 1, "rev of"),
        (with_vjp(sk.exp, lambda x, ct: ct * math.nan), ["rev"], 1, "rev of"),
        # a first derivative that is right, and a constant for the second
        (
            with_vjp(sk.exp, lambda x, ct: ct * sk.stop_gradient(sk.exp(x))),
            ["rev"], 2, "rev of rev of",
        ),
        (
            with_jvp(sk.exp, lambda x, t: t * sk.stop_gradient(sk.exp(x))),
            ["fwd"], 2, "fwd of fwd of",
        ),
        (lambda x: x * sk.stop_gradient(x), ["fwd", "rev"], 1, "fwd of"),
    ],
)  # fmt: skip
def test_wrong_rules_are_caught(f: Any, modes: list[str], order: int, said: str) -> None:
    if order == 2:
        check_grads(f, (X,), 1, modes)
    with pytest.raises(AssertionError, match=rf"check_grads: {said} ?\S*: (out|args)") as caught:
        check_grads(f, (X,), order, modes)
    assert "by central differences" in str(caught.value)


def test_the_worst_element_is_named() -> None:
    wrong = with_vjp(lambda x: 3 * x, lambda x, ct: ct * sk.asarray([[3.0, 3.0], [4.0, 3.0]]))
    with pytest.raises(AssertionError, match=r"args\[0\]\[1, 0\] is \S+, by central differences"):
        check_grads(wrong, (X,), 1, ["rev"])
    tree = {"w": X, "b": X[0]}
    with pytest.raises(AssertionError, match=r"args\[0\]\['b'\]\["):
        check_grads(lambda p: p["w"] * sk.stop_gradient(p["b"]), (tree,), 1, ["rev"])


def test_modes_that_are_not_transposes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vjp off by less than differences show, against a jvp that is right."""
    op = OPS["sin"]
    vjp = op.vjp
    assert vjp is not None
    monkeypatch.setattr(op, "vjp", lambda *a: vjp(*a) * (1 + 1e-4))
    with pytest.raises(AssertionError, match=r"rev (against fwd )?of"):
        check_grads(sk.sin, (X,), 1)


def test_arguments_of_check_grads() -> None:
    calls: list[Any] = []

    def f(p: Any, x: Any) -> Any:
        calls.append((p["w"].dtype, x.dtype))
        return {"out": (p["w"] * x, 3)}, sk.argmax(x)

    check_grads(f, ({"w": np.ones(2, "f4")}, sk.ones(2)))
    assert set(calls) == {(sk.float64, sk.float64)}
    with pytest.raises(ValueError, match="modes"):
        check_grads(f, ({"w": np.ones(2)}, sk.ones(2)), modes=["sideways"])
    count = len(calls)
    check_grads(f, ({"w": np.ones(2)}, sk.ones(2)), order=0)
    assert len(calls) == count
