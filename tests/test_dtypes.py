"""Data types: every defined result, promotion, Python scalars, conversion, the DType object."""

from __future__ import annotations

import itertools
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.errors import DTypeError
from stagekit.types import DTYPES, LONG, SHORT, DType, dtype

SIGNED = [sk.int8, sk.int16, sk.int32, sk.int64]
UNSIGNED = [sk.uint8, sk.uint16, sk.uint32, sk.uint64]
INTEGERS = [*SIGNED, *UNSIGNED]
FLOATS = [sk.float16, sk.float32, sk.float64]
INF, NAN = math.inf, math.nan


def tensor(values: Any, kind: DType) -> sk.Tensor:
    return sk.asarray(np.asarray(values, kind.numpy))


def limits(kind: DType) -> tuple[int, int]:
    info = np.iinfo(kind.numpy)
    return int(info.min), int(info.max)


# ----- defined results of integers ----------------------------------------------------------------


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_division_by_zero_is_zero(kind: DType) -> None:
    low, high = limits(kind)
    x, zero = tensor([low, 0, 1, high], kind), tensor(0, kind)
    for result in (x // zero, x % zero, *divmod(x, zero)):
        assert result.dtype == kind
        assert result.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", SIGNED, ids=str)
def test_the_least_integer_has_no_negative(kind: DType) -> None:
    low, _ = limits(kind)
    x = tensor(low, kind)
    assert (x // -1).item() == low
    assert (x % -1).item() == 0
    assert (-x).item() == low
    assert abs(x).item() == low


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_floor_division_and_remainder_go_down(kind: DType) -> None:
    values = [-7, -1, 0, 1, 7] if kind in SIGNED else [0, 1, 7]
    for a, b in itertools.product(values, values):
        if b:
            assert (tensor(a, kind) // tensor(b, kind)).item() == a // b
            assert (tensor(a, kind) % tensor(b, kind)).item() == a % b


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_a_shift_by_the_width_or_more_empties_the_number(kind: DType) -> None:
    width = 8 * kind.itemsize
    low, high = limits(kind)
    for count in (width, width + 1, 100):
        assert (tensor(high, kind) << count).item() == 0
        assert (tensor(high, kind) >> count).item() == 0
        assert (tensor(low, kind) >> count).item() == (-1 if low else 0)
    assert (tensor(1, kind) << 3).item() == 8
    assert (tensor(high, kind) << 1).item() == (-2 if low else high - 1)
    assert (tensor(low, kind) >> (width - 1)).item() == (-1 if low else 0)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_overflow_wraps(kind: DType) -> None:
    low, high = limits(kind)
    assert (tensor(high, kind) + 1).item() == low
    assert (tensor(low, kind) - 1).item() == high
    assert (tensor(high, kind) * 2).item() == (-2 if low else high - 1)
    assert (tensor(high, kind) ** 2).item() == 1
    assert sk.square(tensor(high, kind)).item() == 1


@pytest.mark.parametrize("kind", UNSIGNED, ids=str)
def test_the_negative_of_an_unsigned_wraps(kind: DType) -> None:
    assert (-tensor(1, kind)).item() == limits(kind)[1]


@pytest.mark.parametrize("kind", SIGNED, ids=str)
def test_a_negative_power_is_zero_but_for_units(kind: DType) -> None:
    x = tensor([-2, -1, 0, 1, 2], kind)
    assert (x ** tensor(-1, kind)).tolist() == [0, -1, 0, 1, 0]
    assert (x ** tensor(-2, kind)).tolist() == [0, 1, 0, 1, 0]
    assert (x ** tensor(0, kind)).tolist() == [1, 1, 1, 1, 1]


def test_sums_of_small_integers_widen() -> None:
    assert sk.sum(tensor([100, 100], sk.int8)).dtype == sk.int64
    assert sk.sum(tensor([100, 100], sk.int8)).item() == 200
    assert sk.sum(tensor([200, 200], sk.uint8)).dtype == sk.uint64
    assert sk.prod(tensor([True, True], sk.bool)).dtype == sk.int64
    assert sk.sum(tensor([100, 100], sk.int8), dtype=sk.int8).item() == -56


# ----- defined results of floats ------------------------------------------------------------------


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("function", [sk.maximum, sk.minimum], ids=["maximum", "minimum"])
def test_maximum_and_minimum_propagate_nan(function: Callable[..., Any], kind: DType) -> None:
    x, y = tensor([NAN, 1, NAN, INF], kind), tensor([1, NAN, NAN, NAN], kind)
    assert np.isnan(function(x, y).numpy()).all()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("n", [1, 3, 16, 100])
def test_max_and_min_propagate_nan_and_arg_finds_it(n: int, kind: DType) -> None:
    for at in {0, n // 2, n - 1}:
        values = np.arange(n, dtype=kind.numpy)
        values[at] = NAN
        x = sk.asarray(values)
        assert math.isnan(sk.max(x).item())
        assert math.isnan(sk.min(x).item())
        assert sk.argmax(x).item() == sk.argmin(x).item() == at


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_round_goes_to_even(kind: DType) -> None:
    x = tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4, INF], kind)
    assert sk.round(x).tolist() == [-2, -2, 0, 0, 2, 2, 2, INF]
    assert np.signbit(sk.round(x).numpy()[2])


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_the_float_remainder_has_the_divisors_sign(kind: DType) -> None:
    x, y = tensor([7, -7, 7, -7, 1, -1], kind), tensor([3, 3, -3, -3, INF, INF], kind)
    assert (x % y).tolist() == [1, 2, -2, -1, 1, INF]
    assert (x // y).tolist() == [2, -3, -3, 2, 0, 0]
    assert math.isnan((x % 0.0)[0].item())


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_powers_of_zero_one_and_nan(kind: DType) -> None:
    x, y = tensor([0, NAN, 1, 1, 0, -0.0, -8], kind), tensor([0, 0, NAN, INF, -1, -1, 1 / 3], kind)
    out = (x**y).tolist()
    assert out[:6] == [1, 1, 1, 1, INF, -INF]
    assert math.isnan(out[6])


@pytest.mark.parametrize("target", INTEGERS, ids=str)
@pytest.mark.parametrize("source", FLOATS, ids=str)
def test_a_cast_from_outside_the_range_never_traps(source: DType, target: DType) -> None:
    x = tensor([NAN, INF, -INF, 6e4, -6e4, 300, -1, 1.9, -0.9], source)
    with np.errstate(all="raise"):
        out = sk.astype(x, target)
    assert out.dtype == target
    assert out.tolist()[-2:] == [1, 0]


def test_casts_to_bool_ask_for_not_zero() -> None:
    assert sk.astype(sk.asarray([0.0, -0.0, 0.1, NAN]), sk.bool).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_floats_are_rounded_to_nearest_even() -> None:
    x = sk.asarray(np.array([2049, 2051, 65519, 65520], "float64"))
    assert sk.astype(x, sk.float16).tolist() == [2048, 2052, 65504, INF]
    assert sk.astype(sk.asarray([2**24 + 1, 2**24 + 3]), sk.float32).tolist() == [2**24, 2**24 + 4]


# ----- promotion ----------------------------------------------------------------------------------

# Between kinds the higher kind's own type wins. Rows and columns: two tensors, or a tensor and a
# Python scalar (bool, int, float).
CROSS = """
        bool   i1    i4    i8    u1    u8    f2    f4    f8    PB    PI    PF
bool    bool   i1    i4    i8    u1    u8    f2    f4    f8    bool  i8    f4
i1      i1     .     .     .     .     .     f2    f4    f8    i1    i1    f4
i4      i4     .     .     .     .     .     f2    f4    f8    i4    i4    f4
i8      i8     .     .     .     .     .     f2    f4    f8    i8    i8    f4
u1      u1     .     .     .     .     .     f2    f4    f8    u1    u1    f4
u8      u8     .     .     .     .     .     f2    f4    f8    u8    u8    f4
f2      f2     f2    f2    f2    f2    f2    .     .     .     f2    f2    f2
f4      f4     f4    f4    f4    f4    f4    .     .     .     f4    f4    f4
f8      f8     f8    f8    f8    f8    f8    .     .     .     f8    f8    f8
"""
NAMES = {"bool": "bool", "i1": "int8", "i4": "int32", "i8": "int64", "u1": "uint8", "u8": "uint64"}
NAMES |= {"f2": "float16", "f4": "float32", "f8": "float64"}
PYTHON: dict[str, Any] = {"PB": True, "PI": 3, "PF": 0.5}


def cross_kind() -> list[tuple[str, str, str]]:
    head, *rows = [line.split() for line in CROSS.strip().splitlines()]
    return [(row[0], c, r) for row in rows for c, r in zip(head, row[1:]) if r != "."]


@pytest.mark.parametrize(("left", "right", "result"), cross_kind())
def test_promotion_between_kinds(left: str, right: str, result: str) -> None:
    x = sk.ones((2,), dtype=NAMES[left])
    y: Any = PYTHON[right] if right in PYTHON else sk.ones((2,), dtype=NAMES[right])
    want = DTYPES[NAMES[result]]
    assert sk.result_type(x, y) is sk.result_type(y, x) is want
    assert (x + y).dtype is (y + x).dtype is want
    assert sk.where(sk.asarray(True), x, y).dtype is want


@pytest.mark.parametrize("family", [INTEGERS, FLOATS], ids=["integers", "floats"])
def test_promotion_within_a_kind_is_numpys(family: list[DType]) -> None:
    for a, b in itertools.product(family, family):
        want = np.result_type(a.numpy, b.numpy)
        x, y = sk.ones((), dtype=a), sk.ones((1,), dtype=b)
        if want.kind == "f" and family is INTEGERS:
            with pytest.raises(DTypeError, match="no common integer type"):
                x + y
            with pytest.raises(DTypeError, match="no common integer type"):
                sk.result_type(a, b)
        else:
            assert (x + y).dtype == sk.result_type(a, b) == want


def test_promotion_does_not_depend_on_order() -> None:
    kinds = [*DTYPES.values(), bool, int, float]
    for a, b, c in itertools.product(kinds, repeat=3):
        operands = [k(1) if isinstance(k, type) else k for k in (a, b, c)]
        results = set()
        for order in itertools.permutations(operands):
            try:
                results.add(sk.result_type(*order))
            except DTypeError:
                results.add(None)
        assert len(results) == 1, (a, b, c, results)


def test_the_whole_table(golden: Callable[[str, str], None]) -> None:
    """The matrix of all types and Python scalars, for readers of tests/golden/promotion.txt."""
    columns: list[tuple[str, Any]] = [(SHORT[name], d) for name, d in DTYPES.items()]
    columns += [("True", True), ("3", 3), ("0.5", 0.5)]
    lines = ["      " + " ".join(f"{name:>5}" for name, _ in columns)]
    for name, a in columns:
        cells = []
        for _, b in columns:
            try:
                cells.append(SHORT[sk.result_type(a, b).name])
            except DTypeError:
                cells.append("-")
        lines.append(f"{name:>5} " + " ".join(f"{cell:>5}" for cell in cells))
    golden("promotion", "\n".join(lines) + "\n")


@pytest.mark.parametrize("function", [operator.add, operator.mul, operator.truediv, sk.maximum])
def test_numpy_scalars_are_strong(function: Callable[..., Any]) -> None:
    x = sk.ones(2, dtype=sk.float16)
    for scalar in (np.float64(2), np.float32(2)):
        assert function(x, scalar).dtype == scalar.dtype
        assert function(sk.asarray(scalar), x).dtype == scalar.dtype
    assert function(sk.ones(2, dtype=sk.int8), np.int32(2)).dtype in (sk.int32, sk.float32)
    assert (sk.ones(2, dtype=sk.int8) + np.int32(2)).dtype == sk.int32
    assert (sk.ones(2, dtype=sk.int8) + np.bool_(True)).dtype == sk.int8


def test_only_exact_python_numbers_are_weak() -> None:
    class Number(float):
        pass

    assert (sk.ones(1, dtype=sk.float16) + 2.5).dtype == sk.float16
    assert (sk.ones(1, dtype=sk.float16) + sk.asarray(2.5)).dtype == sk.float32
    assert sk.result_type(sk.float16, np.float32(1)) == sk.float32
    assert sk.add(sk.ones(1, dtype=sk.float16), Number(2.5)).dtype == sk.float32


def test_integers_take_part_in_float_functions_as_float32() -> None:
    for kind in INTEGERS:
        assert sk.sin(sk.ones(1, dtype=kind)).dtype == sk.float32
        assert (sk.ones(1, dtype=kind) / 2).dtype == sk.float32
        assert sk.mean(sk.ones(1, dtype=kind)).dtype == sk.float32
    assert sk.exp(2).dtype == sk.float32
    assert sk.sin(sk.ones(1, dtype=sk.float64)).dtype == sk.float64


@pytest.mark.parametrize(
    ("kind", "value"),
    [(sk.int8, 128), (sk.uint8, -1), (sk.int8, 1e9), (sk.int64, 2**63), (sk.int8, NAN)],
)
def test_python_numbers_out_of_range_are_refused(kind: DType, value: Any) -> None:
    for call in (
        lambda: sk.asarray(value, dtype=kind),
        lambda: sk.full((2,), value, dtype=kind),
    ):
        with pytest.raises(DTypeError, match="out of bounds"):
            call()
    if isinstance(value, int):
        with pytest.raises(DTypeError, match="out of bounds"):
            sk.zeros(1, dtype=kind) + value


def test_python_numbers_too_large_for_a_float() -> None:
    assert sk.asarray(1e300).item() == INF
    assert (sk.ones(1, dtype=sk.float16) * 1e6).item() == INF
    with pytest.raises(DTypeError, match="out of bounds"):
        sk.ones(1) * 10**400


# ----- making tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "want"),
    [
        (1.5, sk.float32),
        (1, sk.int64),
        (True, sk.bool),
        ([1, 2.5], sk.float32),
        ([[True], [False]], sk.bool),
        ([], sk.float32),
        (np.float64(1.5), sk.float64),
        (np.int8(1), sk.int8),
        ([np.float64(1.5), 2.0], sk.float64),
        ([np.float16(1.5), 2.0], sk.float16),
        ([np.float16(1.5), np.float16(2)], sk.float16),
        ([1, np.float16(2)], sk.float16),
        (np.zeros(2, ">f4"), sk.float32),
        (np.zeros(2, ">i8"), sk.int64),
        ([np.int8(1), 2], sk.int8),
        ([True, 2], sk.int64),
        ([np.int64(1), 2.5], sk.float32),
        ([sk.asarray([1, 2]), [0.5, 1.5]], sk.float32),
        ([np.int8(1), np.int16(2)], sk.int16),
    ],
    ids=str,
)
def test_what_asarray_makes(obj: Any, want: DType) -> None:
    x = sk.asarray(obj)
    assert x.dtype is want
    assert np.array_equal(x.numpy(), np.asarray(obj).astype(want.numpy))
    assert x.numpy().dtype.isnative


def test_creation_is_float32() -> None:
    made = [sk.zeros(1), sk.ones(1), sk.empty(1), sk.eye(1), sk.linspace(0, 1, 2), sk.arange(1.0)]
    assert {x.dtype for x in made} == {sk.float32}
    assert sk.full((1,), 1).dtype == sk.arange(3).dtype == sk.int64


def test_lists_of_numbers_that_fit_no_type() -> None:
    for obj in ([2**63], [2**70], [np.int8(1), 300], [np.uint64(1), np.int64(1)]):
        with pytest.raises(DTypeError):
            sk.asarray(obj)


@pytest.mark.parametrize(
    "obj", ["x", None, object(), [{}], np.array(["a"]), np.zeros(1, "M8[s]")]
)
def test_what_is_no_tensor(obj: Any) -> None:
    with pytest.raises(DTypeError):
        sk.asarray(obj)


# ----- the DType object ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DTYPES))
def test_a_dtype_is_numpys(name: str) -> None:
    kind = DTYPES[name]
    assert kind == np.dtype(name)
    assert np.dtype(kind) == np.dtype(name)
    assert np.zeros(1, kind).dtype == np.dtype(name)
    assert kind == np.dtype(name).type
    assert kind != "float33"
    assert hash(kind) == hash(np.dtype(name))
    assert dtype(name) is dtype(np.dtype(name)) is dtype(np.dtype(name).type) is kind
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert LONG[SHORT[name]] == name
    assert repr(kind) == name
    assert kind.itemsize == np.dtype(name).itemsize


def test_type_information() -> None:
    for kind in FLOATS:
        assert sk.finfo(kind).eps == np.finfo(kind.numpy).eps
    for kind in INTEGERS:
        assert (sk.iinfo(kind).min, sk.iinfo(kind).max) == limits(kind)
    assert sk.isdtype(sk.int8, ("signed integer", "real floating"))
    assert not sk.isdtype(sk.bool, "numeric")
    assert sk.can_cast(sk.int8, sk.int16)
    assert not sk.can_cast(sk.float32, sk.int64)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="numeric"):
        sk.isdtype(sk.int8, "nummeric")


def test_lists_go_straight_to_their_type_in_both_stages() -> None:
    """Not by way of the default float: 16777217 is no float32."""
    f = sk.function(lambda x, k: sk.asarray([[x, k]], dtype=sk.float64))
    for x in (16777217.0, 16777219.0, 0.1):
        assert f(x, 0.3).tolist() == [[x, 0.3]]


def test_a_number_is_written_into_a_tensor_in_its_type() -> None:
    x = sk.zeros(3, dtype=sk.float64)
    x[0] = 16777217.0
    x[np.array([False, True, False])] = 16777217.0
    assert x.at[2].add(0.1).tolist() == [16777217.0, 16777217.0, 0.1]


# ----- functions that make their type -------------------------------------------------------------

MADE: dict[str, tuple[Callable[[], Any], Any]] = {
    "arange of Python floats": (lambda: sk.arange(2.0), [0.0, 1.0]),
    "arange of a wide scalar": (lambda: sk.arange(np.float64(2)), [0.0, 1.0]),
    "arange of an integer tensor": (lambda: sk.arange(sk.asarray(2)), [0, 1]),
    "arange of a narrow tensor": (lambda: sk.arange(sk.asarray(2, dtype=sk.float16)), [0.0, 1.0]),
    "linspace of Python numbers": (lambda: sk.linspace(0, 1, 2), [0.0, 1.0]),
    "linspace of a wide scalar": (lambda: sk.linspace(np.float64(0), 0.1, 2), [0.0, 0.1]),
    "linspace of bool arrays": (lambda: sk.linspace(np.array(False), np.array(True), 2), [0.0, 1]),
    "linspace of a complex number": (lambda: sk.linspace(0, 1j, 2), [0, 1j]),
    "xlogy with a narrow tensor": (lambda: sk.xlogy(2, sk.ones(2, dtype=sk.float16)), [0.0, 0.0]),
    "xlogy of a narrow tensor": (lambda: sk.xlogy(sk.ones(2, dtype=sk.bfloat16), 1), [0.0, 0.0]),
    "xlogy of integers": (lambda: sk.xlogy(sk.asarray([0, 1]), 1), [0.0, 0.0]),
}
KINDS = "float32 float64 int64 float16 float32 float64 float32 complex64 float16 bfloat16 float32"


@pytest.mark.filterwarnings("ignore:.*needs a value of the trace")
@pytest.mark.parametrize("name, kind", [*zip(MADE, KINDS.split(), strict=True)])
def test_a_function_keeps_the_type_of_its_operands(name: str, kind: str) -> None:
    make, expected = MADE[name]
    for run in (make, sk.function(make)):
        made = run()
        assert made.dtype is DTYPES[kind]
        wide = sk.complex128 if made.dtype.kind == "complex" else sk.float64
        assert sk.astype(made, wide).numpy() == pytest.approx(np.array(expected))


def test_the_distance_of_integers_does_not_wrap() -> None:
    low, high = sk.asarray([-128], dtype=sk.int8), sk.asarray([127], dtype=sk.int8)
    assert not sk.isclose(low, high, rtol=0, atol=2).item()
    three, five = (sk.asarray([n], dtype=sk.uint8) for n in (3, 5))
    assert sk.isclose(three, five, rtol=0, atol=3).item()
    assert sk.isclose(sk.asarray([3], dtype=sk.uint64), 3).item()
    assert sk.isclose([True], [True]).item()


def test_lists_of_integers_go_straight_to_their_type() -> None:
    for make in (sk.asarray, sk.function(lambda x, dtype: sk.asarray(x, dtype=dtype))):
        wide = make([2**63 + 1, 0], dtype=sk.uint64)
        assert wide.dtype is sk.uint64 and wide.numpy().tolist() == [2**63 + 1, 0]
    with pytest.raises(DTypeError, match="300 is out of bounds for uint8"):
        sk.asarray([300], dtype=sk.uint8)
    assert sk.asarray([1.5, 2], dtype=sk.int8).numpy().tolist() == [1, 2]
    assert sk.asarray([True, 2], dtype=sk.uint8).numpy().tolist() == [1, 2]


def test_a_mean_of_float16_is_in_range_where_the_sum_is_not() -> None:
    x = sk.full((8,), 6e4, dtype=sk.float16)
    for function, expected in ((sk.mean, x[0].item()), (sk.var, 0.0), (sk.std, 0.0)):
        for run in (function, sk.function(function)):
            assert run(x).dtype is sk.float16
            assert run(x).item() == expected
    assert sk.grad(sk.mean)(x).numpy().tolist() == [0.125] * 8
    assert sk.mean(sk.astype(x, sk.bfloat16)).dtype is sk.var(sk.astype(x, sk.bfloat16)).dtype


def test_lists_of_wide_integers() -> None:
    assert sk.asarray([0, 2**63], dtype=sk.uint64).tolist() == [0, 2**63]
    assert sk.asarray([[True, 2**64 - 1]], dtype="uint64").tolist() == [[1, 2**64 - 1]]
    with pytest.raises(DTypeError, match="out of bounds for uint8"):
        sk.asarray([0, 256], dtype=sk.uint8)
    assert sk.asarray([], dtype=sk.int8).dtype is sk.int8
    assert sk.eye(2, k=2**63).tolist() == sk.triu(sk.ones((2, 2)), k=2**70).tolist()
