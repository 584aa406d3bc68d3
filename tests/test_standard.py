"""The signatures of the array API standard, revision 2025.12, and what it asks of a library."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import stagekit as sk
from stagekit.op import Op

# src/array_api_stubs/_2025_12 of github.com/data-apis/array-api, without annotations.
STUBS = """
arange(start, /, stop=None, step=1, *, dtype=None, device=None)
asarray(obj, /, *, dtype=None, device=None, copy=None)
empty(shape, *, dtype=None, device=None)
empty_like(x, /, *, dtype=None, device=None)
eye(n_rows, n_cols=None, /, *, k=0, dtype=None, device=None)
from_dlpack(x, /, *, device=None, copy=None)
full(shape, fill_value, *, dtype=None, device=None)
full_like(x, /, fill_value, *, dtype=None, device=None)
linspace(start, stop, /, num, *, dtype=None, device=None, endpoint=True)
meshgrid(*arrays, indexing='xy')
ones(shape, *, dtype=None, device=None)
ones_like(x, /, *, dtype=None, device=None)
tril(x, /, *, k=0)
triu(x, /, *, k=0)
zeros(shape, *, dtype=None, device=None)
zeros_like(x, /, *, dtype=None, device=None)
astype(x, dtype, /, *, copy=True, device=None)
can_cast(from_, to, /)
finfo(type, /)
iinfo(type, /)
isdtype(dtype, kind)
result_type(*arrays_and_dtypes)
broadcast_arrays(*arrays)
broadcast_shapes(*shapes)
broadcast_to(x, /, shape)
concat(arrays, /, *, axis=0)
expand_dims(x, /, axis)
flip(x, /, *, axis=None)
moveaxis(x, source, destination, /)
permute_dims(x, /, axes)
repeat(x, repeats, /, *, axis=None)
reshape(x, /, shape, *, copy=None)
roll(x, /, shift, *, axis=None)
squeeze(x, /, axis)
stack(arrays, /, *, axis=0)
tile(x, repetitions, /)
unstack(x, /, *, axis=0)
take(x, indices, /, *, axis=None)
take_along_axis(x, indices, /, *, axis=-1)
matmul(x1, x2, /)
matrix_transpose(x, /)
tensordot(x1, x2, /, *, axes=2)
vecdot(x1, x2, /, *, axis=-1)
argmax(x, /, *, axis=None, keepdims=False)
argmin(x, /, *, axis=None, keepdims=False)
count_nonzero(x, /, *, axis=None, keepdims=False)
nonzero(x, /)
searchsorted(x1, x2, /, *, side='left', sorter=None)
where(condition, x1, x2, /)
isin(x1, x2, /, *, invert=False)
unique_all(x, /)
unique_counts(x, /)
unique_inverse(x, /)
unique_values(x, /)
argsort(x, /, *, axis=-1, descending=False, stable=True)
sort(x, /, *, axis=-1, descending=False, stable=True)
cumulative_prod(x, /, *, axis=None, dtype=None, include_initial=False)
cumulative_sum(x, /, *, axis=None, dtype=None, include_initial=False)
max(x, /, *, axis=None, keepdims=False)
mean(x, /, *, axis=None, keepdims=False)
min(x, /, *, axis=None, keepdims=False)
prod(x, /, *, axis=None, dtype=None, keepdims=False)
std(x, /, *, axis=None, correction=0.0, keepdims=False)
sum(x, /, *, axis=None, dtype=None, keepdims=False)
var(x, /, *, axis=None, correction=0.0, keepdims=False)
all(x, /, *, axis=None, keepdims=False)
any(x, /, *, axis=None, keepdims=False)
diff(x, /, *, axis=-1, n=1, prepend=None, append=None)
abs(x, /)
acos(x, /)
acosh(x, /)
add(x1, x2, /)
asin(x, /)
asinh(x, /)
atan(x, /)
atan2(x1, x2, /)
atanh(x, /)
bitwise_and(x1, x2, /)
bitwise_left_shift(x1, x2, /)
bitwise_invert(x, /)
bitwise_or(x1, x2, /)
bitwise_right_shift(x1, x2, /)
bitwise_xor(x1, x2, /)
ceil(x, /)
clip(x, /, min=None, max=None)
copysign(x1, x2, /)
cos(x, /)
cosh(x, /)
divide(x1, x2, /)
equal(x1, x2, /)
exp(x, /)
expm1(x, /)
floor(x, /)
floor_divide(x1, x2, /)
greater(x1, x2, /)
greater_equal(x1, x2, /)
hypot(x1, x2, /)
isfinite(x, /)
isinf(x, /)
isnan(x, /)
less(x1, x2, /)
less_equal(x1, x2, /)
log(x, /)
log1p(x, /)
log2(x, /)
log10(x, /)
logaddexp(x1, x2, /)
logical_and(x1, x2, /)
logical_not(x, /)
logical_or(x1, x2, /)
logical_xor(x1, x2, /)
maximum(x1, x2, /)
minimum(x1, x2, /)
multiply(x1, x2, /)
negative(x, /)
nextafter(x1, x2, /)
not_equal(x1, x2, /)
positive(x, /)
pow(x1, x2, /)
reciprocal(x, /)
remainder(x1, x2, /)
round(x, /)
sign(x, /)
signbit(x, /)
sin(x, /)
sinh(x, /)
square(x, /)
sqrt(x, /)
subtract(x1, x2, /)
tan(x, /)
tanh(x, /)
trunc(x, /)
""".strip().splitlines()

# Where more is allowed than the standard asks: parameters by keyword, and defaults.
WIDER = {"nonzero": {"size", "fill_value"}}
OPTIONAL = {"permute_dims": {"axes"}, "squeeze": {"axis"}}

Row = tuple[str, str, Any]


def parameters(function: Any) -> list[Row]:
    return [
        (p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.partition("(")[0])
def test_a_signature_is_the_standards(stub: str) -> None:
    name = stub.partition("(")[0]
    scope: dict[str, Any] = {}
    exec(f"def {stub}: ...", scope)
    wanted, function = parameters(scope[name]), getattr(sk, name)
    if isinstance(function, Op):  # called by position alone
        assert function.operands == len(wanted)
        return
    found = [row for row in parameters(function) if row[0] not in WIDER.get(name, ())]
    optional = OPTIONAL.get(name, ())
    assert [(n, k, None if n in optional else d) for n, k, d in found] == [
        (n, k, None if n in optional else d) for n, k, d in wanted
    ]


def test_wider_signatures_stay_few() -> None:
    names = {stub.partition("(")[0] for stub in STUBS}
    assert WIDER.keys() | OPTIONAL.keys() <= names
    assert len(names) > 130


def test_the_tensor_has_the_methods_of_the_standard() -> None:
    x = sk.zeros(2)
    assert x.__array_namespace__(api_version="2025.12") is sk
    assert parameters(sk.Tensor.__array_namespace__)[1:] == [("api_version", "KEYWORD_ONLY", None)]
    wanted = ["stream", "max_version", "dl_device", "copy"]
    assert [(n, d) for n, _, d in parameters(sk.Tensor.__dlpack__)[1:]] == [
        (n, None) for n in wanted
    ]
    assert x.to_device("cpu", stream=None).device == "cpu"
    with pytest.raises(sk.DeviceError):
        x.to_device("tpu")
    assert x.astype(sk.int8, device="cpu").dtype is sk.int8
    with pytest.raises(sk.DeviceError):
        sk.astype(x, sk.int8, device="tpu")


# ----- inspection ---------------------------------------------------------------------------------


def test_the_namespace_tells_what_it_is() -> None:
    assert sk.__array_api_version__ == "2025.12"
    info = sk.__array_namespace_info__()
    assert info.capabilities() == {
        "boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64,
    }  # fmt: skip
    assert info.default_device() == "cpu"
    assert info.devices() == ("cpu",)
    defaults = info.default_dtypes(device="cpu")
    assert (defaults["real floating"], defaults["integral"]) == (sk.float32, sk.int64)
    assert defaults["indexing"] is sk.argsort(sk.zeros(1)).dtype
    with pytest.raises(sk.DeviceError):
        info.dtypes(device="tpu")


def test_64_axes_are_the_most() -> None:
    assert sk.zeros((1,) * 64).ndim == 64
    with pytest.raises(sk.ShapeError):
        sk.zeros((1,) * 65)


def test_types_by_kind() -> None:
    info = sk.__array_namespace_info__()
    assert set(info.dtypes(kind=("bool", "signed integer"))) == {
        "bool", "int8", "int16", "int32", "int64",
    }  # fmt: skip
    assert info.dtypes(kind="real floating") == {"float32": sk.float32, "float64": sk.float64}
    assert all(getattr(sk, name) is kind for name, kind in info.dtypes().items())
    assert {"float16", "bfloat16"}.isdisjoint(info.dtypes())
    with pytest.raises(sk.ArgumentError, match="no kind 'real'"):
        info.dtypes(kind="real")


@pytest.mark.parametrize("kind", [sk.float16, sk.float32, sk.float64])
def test_limits_of_floats_are_python_numbers(kind: Any) -> None:
    limits = sk.finfo(kind)
    assert {type(v) for k, v in vars(limits).items() if k not in ("bits", "dtype")} == {float}
    assert set(vars(limits)) == {"bits", "eps", "max", "min", "smallest_normal", "dtype"}
    assert type(limits.bits) is int
    assert limits.dtype is kind
    assert sk.finfo(sk.zeros(1, dtype=kind)) == limits


def test_limits_of_integers_are_python_numbers() -> None:
    limits = sk.iinfo(sk.asarray([1], dtype=sk.uint8))
    assert vars(limits) == {"bits": 8, "max": 255, "min": 0, "dtype": sk.uint8}


def test_shapes_broadcast() -> None:
    assert sk.broadcast_shapes() == ()
    assert sk.broadcast_shapes((2, 1), (3,), ()) == (2, 3)
    with pytest.raises(sk.ShapeError, match=r"broadcast_shapes: shapes \(2,\) and \(3,\)"):
        sk.broadcast_shapes((2,), (3,))
    with pytest.raises(ValueError, match="negative size"):
        sk.broadcast_shapes((-1,))
    staged = sk.function(lambda x, y: sk.zeros(sk.broadcast_shapes(x.shape, y.shape)), dynamic=True)
    for n in (3, 5):
        assert staged(sk.zeros((n, 1)), sk.zeros(n)).shape == (n, n)
