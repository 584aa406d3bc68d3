"""Each op on its samples: eager = reference within its class of docs/equality.md, types as
inferred, NumPy's error state left alone, errors in the contract's words; composites = NumPy.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk
import stagekit.ops as ops
from stagekit.errors import AxisError, BoundsError, DTypeError, ShapeError, StagekitError
from stagekit.kernels.reference import reference
from stagekit.nn import functional
from stagekit.node import as_types
from stagekit.op import OPS, Op
from stagekit.tensor import Tensor
from stagekit.types import TensorType, dtype
from tests.classes import CLASS, CLASSES, admitted, class_of, outcome, rows
from tests.samples import (
    ARITY,
    DEFINITIONS,
    DOMAIN,
    LAYOUTS,
    Composite,
    Sample,
    composites,
    random,
    samples,
)

DEFINED = [name for name, op in OPS.items() if op.element is not None or name in DEFINITIONS]


def test_every_op_stands_in_the_table_once() -> None:
    assert sorted(name for name, _ in rows()) == sorted(OPS)
    assert set(CLASS.values()) == CLASSES


# ----- the classes --------------------------------------------------------------------------------


def defined(op: Op, arrays: list[np.ndarray], attrs: dict[str, Any]) -> np.ndarray:
    """What the op means: its element rule, or its definition in Python on arrays."""
    if op.element is not None:
        return reference(op, arrays, attrs)
    return DEFINITIONS[op.name](*arrays, **attrs)


def faults(op: Op, arrays: list[np.ndarray], attrs: dict[str, Any], got: np.ndarray) -> np.ndarray:
    """Where `got` is further from the definition than the op's class allows."""
    want = defined(op, arrays, attrs)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    kind = class_of(op, attrs) if got.dtype.kind in "fc" else "bits"
    if "c" in {a.dtype.kind for a in arrays} and (
        kind not in ("bits", "zero") or op.name in ROUNDED_IF_COMPLEX
    ):
        with np.errstate(all="ignore"):
            return _beyond_complex(op, arrays, attrs, got)
    if kind == "bits":
        return ~same_bits(got, want)
    if kind == "zero":
        return ~((got == want) | same_bits(got, want))
    with np.errstate(all="ignore"):
        return _beyond(kind, op, arrays, attrs, got)


# Sums of products of parts: to the bit of real numbers alone.
ROUNDED_IF_COMPLEX = {"multiply", "divide", "square", "reciprocal", "sqrt", "abs"}


def _beyond_complex(
    op: Op, arrays: list[np.ndarray], attrs: dict[str, Any], got: np.ndarray
) -> np.ndarray:
    """Against the definition in double precision: 16 eps of the modulus, or of what is summed."""
    wide = [a.astype("c16") if a.dtype.kind == "c" else a for a in arrays]
    want, eps = reference(op, wide, attrs), float(np.finfo(got.dtype).eps)
    size = np.abs(want)
    if op.name == "power":  # exp(y log x) magnifies the error of its exponent
        size = size * (1 + np.abs(wide[1] * np.log(np.where(wide[0] == 0, 1, wide[0]))))
    if class_of(op, attrs) == "sum":
        size = np.asarray(reference(op, [np.abs(a) for a in wide[:2]] + wide[2:], attrs))
    off = np.abs(got - want)
    return ~((off <= 16 * eps * size) | (~np.isfinite(got) & ~np.isfinite(want)))


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "c":
        return same_bits(a.real, b.real) & same_bits(a.imag, b.imag)
    if a.dtype.kind != "f":
        return a == b
    layout = f"u{a.itemsize}"
    plain = np.ascontiguousarray(a).view(layout) == np.ascontiguousarray(b).view(layout)
    return plain.reshape(a.shape) | (np.isnan(a) & np.isnan(b))


def _beyond(
    kind: str, op: Op, arrays: list[np.ndarray], attrs: dict[str, Any], got: np.ndarray
) -> np.ndarray:
    """Float results against the definition in double precision."""
    wide = [a.astype("f8") if a.dtype.kind == "f" else a for a in arrays]
    want, info = defined(op, wide, attrs), np.finfo(got.dtype)
    if kind in ("ulp", "operand"):
        largest = np.abs(want)
        if kind == "operand":
            largest = functools.reduce(np.maximum, map(np.abs, wide), largest)
        bound = 4 * np.maximum(2.0 ** np.floor(np.log2(largest)) * float(info.eps), tiny(info))
    elif kind == "sum":
        magnitude = np.asarray(defined(op, [_magnitude(a) for a in wide], attrs))
        bound = 8 * float(info.eps) * magnitude + 64 * tiny(info)
        bound = np.where(magnitude > float(info.max), np.inf, bound)
    else:
        bound = _product_bound(op, wide, attrs, want, got)
    off = np.abs(got.astype("f8") - want)
    near = (off <= bound) | (got == want.astype(got.dtype)) | np.isposinf(bound) & (kind != "ulp")
    # just below the point where rounding overflows, the largest number and infinity are neighbours
    edge = np.isinf(got) & (np.abs(want) > float(info.max) * (1 - 4 * float(info.eps)))
    return ~(near | (np.isnan(got) & np.isnan(want)) | edge & (np.sign(got) == np.sign(want)))


def tiny(info: Any) -> float:
    return float(info.smallest_subnormal)


def _magnitude(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), np.abs(x), 0) if x.dtype.kind == "f" else x


def _product_bound(
    op: Op, wide: list[np.ndarray], attrs: dict[str, Any], want: np.ndarray, got: np.ndarray
) -> np.ndarray:
    """n / 2 eps for float64, 8 eps below; none where partial products may leave the range."""
    sums = {"prod": "sum", "cumulative_prod": "cumulative_sum"}
    whole = op.name in sums
    n = wide[0].size if whole else wide[1].size + 1
    info = np.finfo(got.dtype)
    eps = max(n / 2, 2) * float(info.eps) if got.dtype == "f8" else 8 * float(info.eps)
    logs = [np.abs(np.log2(np.where(np.isfinite(x) & (x != 0), np.abs(x), 1.0))) for x in wide[:2]]
    summing = OPS[sums[op.name]] if whole else op
    more = attrs if whole else attrs | {"mode": "add"}
    spread = reference(summing, [logs[0]] if whole else [*logs, *wide[2:]], more)
    bound = eps * np.abs(want) + tiny(info)
    return np.where(
        spread > -float(info.minexp) if got.dtype == "f8" else spread > 1000, np.inf, bound
    )


def test_the_class_library_is_that_of_ops_without_an_element_rule() -> None:
    assert {name for name, kind in CLASS.items() if kind == "library"} == OPS.keys() - DEFINED


@pytest.mark.parametrize("name", DEFINED)
def test_eager_is_the_reference(name: str) -> None:
    op = OPS[name]
    for sample in samples(name):
        got = sample.call().numpy()
        arrays = sample.operands()
        wrong = faults(op, arrays, sample.attrs, got)
        if wrong.any():
            want = reference(op, arrays, sample.attrs)
            at = tuple(map(int, np.argwhere(wrong)[0]))
            near = [a[at] if a.shape == got.shape else a.ravel()[:5] for a in arrays]
            pytest.fail(
                f"{sample}: {wrong.sum()} wrong, {got[at]!r} not {want[at]!r} at {at}: {near}"
            )


@pytest.mark.parametrize("name", [n for n in OPS if CLASS[n] in ("ulp", "operand") and n in ARITY])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_many_random_points(name: str, kind: str, full: bool) -> None:
    rng = np.random.default_rng([3, *name.encode()])
    n = 20_000 if full else 500
    domain = DOMAIN.get(name, ((-2.0, 2.0),) * 2)
    wide = [
        np.concatenate([random(rng, kind, n, *d), random(rng, kind, n, -90, 90)]) for d in domain
    ]
    arrays = wide[: ARITY[name]]
    got = OPS[name](*map(Tensor, arrays)).numpy()
    wrong = faults(OPS[name], arrays, {}, got)
    assert not wrong.any(), [(a[wrong][:3], got[wrong][:3]) for a in arrays]


def test_the_measure_sees_faults_of_every_class() -> None:
    x = np.linspace(0.5, 0.9, 12, dtype="f4").reshape(3, 4)
    axes = {"axes": (0,)}
    for name, attrs, factor in (
        ("negative", {}, 1),
        ("max", axes, 1),
        ("exp", {}, 5),
        ("sum", axes, 40),
        ("prod", axes, 20),
    ):
        got = OPS[name](Tensor(x), **attrs).numpy()
        assert not faults(OPS[name], [x], attrs, got).any()
        assert faults(OPS[name], [x], attrs, got + factor * np.spacing(got)).all()


@pytest.mark.parametrize("name", list(OPS))
def test_types_are_inferred(name: str) -> None:
    for sample in samples(name):
        types = [TensorType(dtype(a.dtype), a.shape) for a in sample.operands()]
        inferred = as_types(OPS[name].infer(*types, **sample.attrs))
        for out, kind in zip(sample.results(), inferred, strict=True):
            assert (kind.dtype, tuple(kind.shape)) == (out.dtype, out.shape), sample


@pytest.mark.parametrize("name", [n for n in OPS if CLASS[n] in ("bits", "zero") and n in ARITY])
def test_layouts_give_equal_bits(name: str) -> None:
    for sample in samples(name):
        if sample.note in LAYOUTS:
            plain = Sample(name, tuple(map(np.ascontiguousarray, sample.args)), sample.attrs)
            assert same_bits(sample.call().numpy(), plain.call().numpy()).all(), sample


def test_results_are_buffers_that_nobody_can_change() -> None:
    for name in OPS:
        for sample in samples(name)[:3]:
            for out in sample.results():
                array = out.numpy()
                assert not array.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0


# ----- NumPy's error state ------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPS))
def test_the_users_error_state_is_neither_asked_nor_changed(name: str) -> None:
    with np.errstate(all="raise"):
        before = np.geterr()
        for sample in samples(name):
            if "special" in sample.note or "kink" in sample.note:
                sample.call()
        assert np.geterr() == before


# ----- sums of any length -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("shape", [(2**24, 2), (2, 2**24)])
def test_the_sum_of_2_25_ones_is_exact(
    shape: tuple[int, int], axis: int | None, order: Any
) -> None:
    ones = Tensor(np.ones(shape, "f4", order=order))
    want = np.sum(np.ones(shape, "i4"), axis=axis)
    assert np.array_equal(ops.sum(ones, axis=axis).numpy(), want)
    assert np.array_equal(ops.mean(ones, axis=axis).numpy(), np.ones_like(want))


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 1e-3])
@pytest.mark.parametrize("shape", [(2**20, 2), (3, 2**18, 2), (2, 2**20)])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_long_sums_of_one_value_keep_8_eps(value: float, shape: Any, kind: str) -> None:
    """The worst case: the rounding errors all have one sign."""
    x = np.full(shape, value, kind)
    for axis in range(len(shape)):
        exact = float(x.flat[0]) * shape[axis]
        got = ops.sum(Tensor(x), axis=axis).numpy().astype("f8")
        assert (np.abs(got - exact) <= 8 * np.finfo(kind).eps * exact).all()


@pytest.mark.parametrize("k", [2**8, 2**12, 2**15, 2**20])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_long_products_of_matrices_keep_8_eps(k: int, kind: str) -> None:
    rng = np.random.default_rng(k)
    x, y = random(rng, kind, (2, k), 0, 1), random(rng, kind, (k, 3), 0, 1)
    exact = np.array(
        [[math.fsum((row * column).tolist()) for column in y.T.astype("f8")] for row in x]
    )
    got = ops.matmul(Tensor(x), Tensor(y)).numpy().astype("f8")
    assert (np.abs(got - exact) <= 8 * float(np.finfo(kind).eps) * exact).all()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_product_of_long_rows_of_ones_is_exact(kind: str) -> None:
    ones = ops.ones((1, 2**25), dtype=kind)
    assert ops.matmul(ones, ones.T).item() == 2**25


def test_scatter_adds_up_any_number_of_float32() -> None:
    n = 2**24 + 2**10
    index = Tensor(np.zeros(n, "i4"))
    assert ops.zeros(2).at[index].add(1.0)[0].item() == n


# ----- public functions made of ops ---------------------------------------------------------------


def _leaves(result: Any) -> list[np.ndarray]:
    if isinstance(result, (list, tuple)):
        return [leaf for item in result for leaf in _leaves(item)]
    return [result.numpy() if isinstance(result, Tensor) else np.asarray(result)]


@pytest.mark.parametrize("call", composites(), ids=lambda c: c.name)
def test_composites_are_numpys(call: Composite) -> None:
    with np.errstate(all="ignore"):
        want = _leaves(call.expected())
    got = _leaves(call.call())
    assert len(got) == len(want), call
    for mine, theirs in zip(got, want):
        assert mine.shape == theirs.shape, call
        if mine.dtype.kind in "fc":
            np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-6, err_msg=str(call))
        else:
            assert np.array_equal(mine, theirs), call
            assert mine.dtype.kind == theirs.dtype.kind, call
            assert mine.dtype == theirs.dtype or call.name not in ("vecdot", "matmul"), call


# ----- errors -------------------------------------------------------------------------------------

M, V, I8 = ops.ones((2, 3)), ops.ones(4), ops.asarray(np.ones(2, "i1"))
C, U64, B = ops.ones((2, 2, 3)), ops.asarray(np.ones(2, "u8")), ops.asarray([True, False])
L = ops.asarray
OUTSIDE = "is out of bounds for axis 0 of size"

ERRORS: list[tuple[Callable[[], Any], type[StagekitError], str]] = [
    (lambda: ops.add(M, V), ShapeError, r"add: shapes \(2, 3\) and \(4,\) do not broadcast"),
    (lambda: M * V, ShapeError, r"multiply: shapes \(2, 3\) and \(4,\)"),
    (lambda: ops.where(B, M, 0.0), ShapeError, r"where: shapes \(2,\) and \(2, 3\)"),
    (lambda: ops.where(V, 1.0, 0.0), DTypeError, "where: the condition is float32"),
    (lambda: ops.add(U64, I8), DTypeError, "uint64 and int8 have no common"),
    (lambda: B - B, DTypeError, "subtract: bool"),
    (lambda: -B, DTypeError, "negative: bool"),
    (lambda: ops.square(B), DTypeError, "square: bool"),
    (lambda: V & V, DTypeError, "bitwise_and: operands are float32 and float32"),
    (lambda: V << 1, DTypeError, "bitwise_left_shift: operands are float32 and int"),
    (lambda: I8 + 300, DTypeError, "300 is out of bounds for int8"),
    (lambda: ops.full((2,), 300, dtype="int8"), DTypeError, "300 is out of bounds for int8"),
    (lambda: ops.full((2,), -1, dtype="uint8"), DTypeError, "-1 is out of bounds for uint8"),
    (lambda: ops.asarray(300, dtype="int8"), DTypeError, "300 is out of bounds for int8"),
    (lambda: ops.sum(M, axis=2), AxisError, "sum: axis 2 does not exist in a tensor of 2 axes"),
    (lambda: ops.sum(M, axis=(0, -2)), ShapeError, "sum: axis .* twice"),
    (lambda: ops.max(ops.zeros((0, 3)), axis=0), ShapeError, r"max: axis 0 of shape \(0, 3\)"),
    (lambda: ops.argmax(ops.zeros((0,))), ShapeError, r"argmax: axis 0 of shape \(0,\) is empty"),
    (lambda: M @ M, ShapeError, r"matmul: shapes \(2, 3\) and \(2, 3\) do not fit"),
    (lambda: M @ V, ShapeError, r"matmul: shapes \(2, 3\) and \(4,\) do not fit"),
    (lambda: M @ ops.asarray(1.0), ShapeError, "matmul: .* 0-d"),
    (lambda: C @ ops.ones((3, 3, 1)), ShapeError, r"matmul: .*\(2, 2, 3\) and \(3, 3, 1\)"),
    (lambda: B @ B, DTypeError, "matmul: bool"),
    (lambda: ops.reshape(M, (4, 2)), ShapeError, r"reshape: shape \(2, 3\) does not fit \(4, 2\)"),
    (lambda: ops.reshape(M, (4, -1)), ShapeError, r"reshape: .*\(2, 3\) does not fit \(4, -1\)"),
    (lambda: ops.reshape(M, (-1, -1)), ShapeError, "reshape: .* negative size"),
    (lambda: ops.squeeze(M, axis=0), ShapeError, r"squeeze: axis 0 of shape \(2, 3\) is not 1"),
    (lambda: ops.permute_dims(M, (0, 0)), ShapeError, "permute_dims: .* no permutation"),
    (lambda: ops.permute_dims(M, (0,)), ShapeError, "permute_dims: .* no permutation"),
    (lambda: ops.broadcast_to(M, (3, 2)), ShapeError, r"broadcast_to: .*\(2, 3\).*\(3, 2\)"),
    (lambda: ops.broadcast_to(M, (3,)), ShapeError, r"broadcast_to: .*\(2, 3\).*\(3,\)"),
    (lambda: ops.concat([M, V]), ShapeError, r"concat: shapes \(2, 3\) and \(4,\)"),
    (lambda: ops.concat([]), ShapeError, "concat: no tensors"),
    (lambda: ops.concat([ops.asarray(1.0)]), AxisError, "concat: axis 0 .* 0 axes"),
    (lambda: ops.stack([M, V]), ShapeError, r"stack: shapes \(2, 3\) and \(4,\)"),
    (lambda: ops.split(M, 2, axis=1), ShapeError, r"split: axis 1 of shape \(2, 3\)"),
    (lambda: ops.pad(M, -1), ShapeError, "pad: pad_width"),
    (lambda: ops.pad(M, ((1, 1),) * 3), ShapeError, "pad: pad_width"),
    (lambda: ops.repeat(M, -1, axis=0), ShapeError, "repeat: .*-1 times"),
    (lambda: ops.repeat(M, [1, 2, 3], axis=0), ShapeError, "repeat: 3 counts for axis 0 of shape"),
    (lambda: ops.tile(M, -1), ShapeError, "tile: .*negative"),
    (lambda: ops.zeros((-1,)), ShapeError, "negative size"),
    (lambda: ops.arange(0, 5, 0), ShapeError, "arange: the step is 0"),
    (lambda: ops.linspace(0, 1, -1), ShapeError, "linspace: .*-1"),
    (lambda: M[5], BoundsError, "index: index 5 is out of bounds for axis 0 of size 2"),
    (lambda: M[0, 0, 0], BoundsError, r"index: 3 indices for shape \(2, 3\)"),
    (lambda: M[1.5], DTypeError, "index: float is no index"),
    (lambda: M[V], DTypeError, "index: indices are float32"),
    (lambda: M[..., ...], BoundsError, "two ellipses"),
    (lambda: M[::0], ShapeError, "slice step is 0"),
    (lambda: M[ops.asarray([True])], BoundsError, r"index: a mask of shape \(1,\).*\(2, 3\)"),
    (lambda: M[L([0, 1]), L([0, 1, 2])], ShapeError, r"index: shapes \(2,\) and \(3,\)"),
    (lambda: M.at[5].set(0), BoundsError, "index 5 is out of bounds for axis 0 of size 2"),
    (lambda: M.at[L([5])].add(0), BoundsError, f"index 5 {OUTSIDE} 2"),
    (lambda: M.at[0].set(V), ShapeError, r"index: a value of shape \(4,\) .*\(3,\)"),
    (lambda: ops.take(V, L([4])), BoundsError, f"index 4 {OUTSIDE} 4"),
    (lambda: ops.take(V, ops.asarray([-5])), BoundsError, "index -5 is out of bounds"),
    (lambda: ops.take(M, ops.asarray([0])), ShapeError, "take: axis"),
    (lambda: ops.take_along_axis(M, ops.asarray([0])), ShapeError, "take_along_axis: .* rank"),
    (lambda: ops.asarray([[1], [1, 2]]), ShapeError, "asarray: "),
    (lambda: ops.asarray("three"), DTypeError, "asarray: "),
    (lambda: ops.astype(L([1j]), "float32"), DTypeError, "astype: complex64 to float32"),
    (lambda: ops.maximum(L([1j]), 0), DTypeError, "maximum: operands are complex64 and int"),
    (lambda: ops.asarray(1j, dtype="float32"), DTypeError, "1j is out of bounds for float32"),
    (lambda: ops.max(L([1j])), DTypeError, "max: .* complex64; complex numbers have no max"),
    (lambda: ops.astype(V, "float128x"), DTypeError, "float128x"),
    (lambda: ops.finfo(ops.asarray(1)), DTypeError, "finfo: int64"),
    (lambda: ops.iinfo(V), DTypeError, "iinfo: float32"),
    (lambda: V.T, ShapeError, r"T: shape \(4,\).*"),
    (lambda: ops.matrix_transpose(V), ShapeError, r"matrix_transpose: shape \(4,\)"),
    (lambda: functional.cross_entropy(M, L([0, 3])), BoundsError, "cross_entropy: a label is 3"),
    (lambda: functional.embedding(L([-1]), M), BoundsError, "embedding: an index is -1, of 2"),
    (lambda: functional.cross_entropy(M, ops.asarray([0])), ShapeError, r"cross_entropy: .*\(1,\)"),
    (lambda: functional.cross_entropy(M, B), DTypeError, "cross_entropy: labels are bool"),
    (lambda: functional.softmax(V, axis=1), AxisError, "softmax: axis 1"),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(ERRORS)))
def test_errors_name_the_op_the_shapes_and_the_line(k: int) -> None:
    call, kind, text = ERRORS[k]
    with pytest.raises(StagekitError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    assert re.search(text, caught.value.message), caught.value.message
    assert caught.value.fix
    location = caught.value.location
    assert location is not None
    assert location.filename == __file__
    assert location.lineno == call.__code__.co_firstlineno


def test_a_users_helper_is_the_users_line() -> None:
    def helper(x: Any) -> Any:
        return x + V

    with pytest.raises(ShapeError) as caught:
        helper(M)
    assert caught.value.location is not None
    assert caught.value.location.function == "helper"
    assert caught.value.location.lineno == helper.__code__.co_firstlineno + 1


def test_memory_errors_stay_memory_errors() -> None:
    huge = ops.broadcast_to(ops.ones(()), (sys.maxsize // 8,))
    with pytest.raises(MemoryError):
        huge + 1


# ----- sizes --------------------------------------------------------------------------------------

POLYMORPHIC: dict[str, Callable[[Any], Any]] = {
    "row": lambda x: x[0],
    "last row": lambda x: x[-1],
    "row as column": lambda x: x[0, :, None],
    "new axis": lambda x: x[None],
    "tail": lambda x: x[1:],
    "head": lambda x: x[:-1],
    "stride": lambda x: x[::2],
    "reversed": lambda x: x[::-1],
    "write": lambda x: x.at[0].set(1.0),
    "gather": lambda x: x[sk.asarray([0, 0])],
    "mean": lambda x: x - sk.mean(x, axis=0),
    "softmax": lambda x: functional.softmax(x, axis=0),
    "roll": lambda x: sk.roll(x, 1, axis=0),
    "tile": lambda x: sk.tile(x, 2),
    "pad": lambda x: sk.pad(x, 1, "edge"),
    "linspace": lambda x: sk.linspace(0, 1, x.shape[0]),
    "meshgrid": lambda x: sk.meshgrid(x[:, 0], x[0])[0],
    "split": lambda x: sk.split(sk.concat([x, x]), 2)[0],
    "cross_entropy": lambda x: functional.cross_entropy(x, sk.zeros(x.shape[0], dtype="int64")),
    "gradient of a row": sk.grad(lambda x: sk.sum(x[0] * x)),
    "gradient of max": sk.grad(lambda x: sk.sum(sk.max(x, axis=0))),
    "gradient of prod": sk.grad(lambda x: sk.sum(sk.prod(x, axis=1))),
    "gradient of matmul": sk.grad(lambda x: sk.sum(x.T @ x)),
    "gradient of log_softmax": sk.grad(lambda x: functional.log_softmax(x)[0, 0]),
}


@pytest.mark.parametrize("name", list(POLYMORPHIC))
def test_size_one_is_not_special(name: str) -> None:
    f = POLYMORPHIC[name]
    staged = sk.function(f)
    for n in (5, 2, 7, 1, 4):
        x = sk.reshape(sk.arange(1.0, 1 + 3.0 * n), (n, 3))
        assert admitted(f, [x], outcome(staged, [x])), n
    assert staged.cache_info().traces == 2
