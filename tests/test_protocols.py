"""NumPy's ufuncs and functions on tensors, DLPack, the array namespace, HTML, devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.eager import protocols

X = np.array([[0.5, -0.25, 1.0], [0.125, 2.0, -3.0]], np.float32)
Y = np.array([[1.0, 0.5, -0.5], [2.0, -1.5, 0.25]], np.float32)
N = np.array([[1, 2, 3], [4, 5, 6]], np.int32)


def tensors(arrays: Any) -> Any:
    return sk.asarray(arrays) if isinstance(arrays, np.ndarray) else arrays


def same(got: Any, expected: Any) -> None:
    """Equal in class, type, shape and value (to rounding)."""
    if isinstance(expected, (tuple, list)):
        assert isinstance(got, (tuple, list))
        assert len(got) == len(expected)
        for g, e in zip(got, expected, strict=True):
            same(g, e)
    elif isinstance(expected, (np.ndarray, np.generic)) and not isinstance(expected, bool):
        assert isinstance(got, sk.Tensor)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    else:
        assert type(got) is type(expected)
        assert got == expected


# Ufuncs

BITS = {"bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift", "right_shift"}


def operands(ufunc: np.ufunc) -> list[np.ndarray]:
    if ufunc.__name__ in BITS:
        return [N, N % 3][: ufunc.nin]
    if ufunc.__name__ == "matmul":
        return [X, Y.T.copy()]
    if ufunc.__name__ == "arccosh":
        return [np.abs(X) + 1]
    return [X, Y][: ufunc.nin]


@pytest.mark.parametrize("ufunc", protocols._UFUNCS, ids=lambda ufunc: ufunc.__name__)
def test_a_ufunc_of_a_tensor_is_the_op(ufunc: np.ufunc) -> None:
    arrays = operands(ufunc)
    with np.errstate(all="ignore"):
        expected = ufunc(*arrays)
    same(ufunc(*map(sk.asarray, arrays)), expected)
    if ufunc.nin == 2:
        same(ufunc(arrays[0], sk.asarray(arrays[1])), expected)
        same(ufunc(sk.asarray(arrays[0]), arrays[1]), expected)


def test_every_ufunc_with_an_op_of_its_name_is_mapped() -> None:
    ufuncs = {name: f for name, f in vars(np).items() if isinstance(f, np.ufunc)}
    missing = [n for n, f in ufuncs.items() if n in sk.__all__ and f not in protocols._UFUNCS]
    assert missing == []


@pytest.mark.parametrize("ufunc", protocols._REDUCTIONS, ids=lambda ufunc: ufunc.__name__)
def test_reduce(ufunc: np.ufunc) -> None:
    x = sk.asarray(X)
    same(ufunc.reduce(x), ufunc.reduce(X))
    same(ufunc.reduce(x, axis=1, keepdims=True), ufunc.reduce(X, axis=1, keepdims=True))
    same(ufunc.reduce(x, 1), ufunc.reduce(X, 1))


LEFT = [X, X[0], X[0, 0], np.float64(2), np.int8(3), np.array(2.0), 2, 2.5, True]


@pytest.mark.parametrize("left", LEFT, ids=lambda left: type(left).__name__)
def test_no_array_on_the_left_swallows_a_tensor(left: Any) -> None:
    x = sk.asarray(X)
    for got, op in [
        (left + x, sk.add),
        (left - x, sk.subtract),
        (left * x, sk.multiply),
        (left / x, sk.divide),
        (left // x, sk.floor_divide),
        (left % x, sk.remainder),
        (left < x, sk.less),
        (left == x, sk.equal),
        (x + left, lambda a, b: sk.add(b, a)),
    ]:
        expected = op(left, x)
        assert type(got) is sk.Tensor
        assert got.dtype is expected.dtype
        np.testing.assert_array_equal(got.numpy(), expected.numpy())


def test_a_matrix_on_the_left() -> None:
    same(X @ sk.asarray(Y.T), X @ Y.T)
    same(divmod(N, sk.asarray(N + 1)), divmod(N, N + 1))


def test_numpy_types_are_strong_and_python_numbers_weak() -> None:
    x = sk.asarray([1.0])
    assert (np.float64(2) * x).dtype is sk.float64
    assert np.multiply(2.0, x).dtype is sk.float32


class Foreign:
    """A type with its own reflected operators."""

    __array_ufunc__ = None

    def __radd__(self, other: Any) -> str:
        return "foreign"


def test_a_foreign_type_keeps_its_own_operators() -> None:
    assert sk.asarray([1.0]) + Foreign() == "foreign"
    with pytest.raises(TypeError):
        np.add(sk.asarray([1.0]), object())


REFUSED: list[tuple[Callable[[sk.Tensor], Any], str]] = [
    (lambda x: np.add(x, 1, out=np.zeros((2, 3))), "np.add: out="),
    (lambda x: np.zeros((2, 3)).__iadd__(x), "np.add: out="),
    (lambda x: np.add(X, 1, out=x), "np.add: out="),
    (lambda x: np.add(x, 1, where=X > 0), "np.add: where="),
    (lambda x: np.add(x, 1, dtype=np.float64), "np.add: dtype="),
    (lambda x: np.cbrt(x), "np.cbrt has no counterpart"),
    (lambda x: np.add.accumulate(x), "np.add.accumulate has no counterpart"),
    (lambda x: np.add.at(x, 0, 1), r"x\.at\[index\]"),
    (lambda x: np.add.reduce(x, initial=3), "initial="),
    (lambda x: np.linalg.norm(x), r"np\.norm has no counterpart"),
    (lambda x: np.median(x), r"x\.numpy\(\)"),
    (lambda x: np.sum(x, out=np.zeros(())), "np.sum: out="),
    (lambda x: np.sum(x, where=X > 0), "np.sum: where="),
    (lambda x: np.reshape(x, 6, order="F"), "np.reshape: order="),
    (lambda x: np.where(x), "np.where: missing"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED)
def test_what_has_no_counterpart_is_refused(call: Callable[[Any], Any], text: str) -> None:
    x = sk.asarray(X)
    with pytest.raises(TypeError, match=text) as caught:
        call(x)
    assert "fix:" in str(caught.value)
    assert "test_protocols.py" in str(caught.value)
    np.testing.assert_array_equal(x.numpy(), X)


# Functions: np.f(tensors) has the value of np.f(arrays)

M = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
CALLS: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "all": [((X,), {}), ((X,), {"axis": 0})],
    "any": [((X,), {}), ((X, 1), {"keepdims": True})],
    "argmax": [((X,), {"axis": 1})],
    "argmin": [((X, 0), {})],
    "count_nonzero": [((N,), {"axis": 0})],
    "max": [((X,), {}), ((X,), {"axis": (0, 1)})],
    "amax": [((X, 1), {})],
    "min": [((X,), {"axis": 0, "keepdims": True})],
    "amin": [((X,), {})],
    "sum": [((X,), {}), ((X, 0), {}), ((N,), {"dtype": np.float64})],
    "prod": [((X,), {"axis": -1})],
    "mean": [((X,), {"axis": 0}), ((X,), {"dtype": np.float64})],
    "std": [((X,), {}), ((X, 0), {"ddof": 1})],
    "var": [((X,), {"axis": 1, "correction": 1, "keepdims": True})],
    "clip": [((X, -0.5, 0.5), {}), ((X,), {"min": 0.0})],
    "round": [((X,), {}), ((X, 1), {})],
    "around": [((X,), {})],
    "real": [((X + 1j,), {})],
    "imag": [((X + 1j,), {})],
    "angle": [((X + 1j,), {})],
    "where": [((X > 0, X, Y), {})],
    "isclose": [((X, X), {}), ((X, Y), {"rtol": 2.0})],
    "allclose": [((X, X), {}), ((X, Y), {})],
    "array_equal": [((X, X), {}), ((X, X[0]), {}), ((X, Y), {})],
    "dot": [((X[0], Y[0]), {}), ((X, Y.T.copy()), {}), ((X, X[0, 0]), {})],
    "take": [((X, np.array([1, 0])), {"axis": 1}), ((X, np.array([5])), {})],
    "take_along_axis": [((X, np.array([[1], [0]])), {"axis": 1})],
    "nonzero": [((N - 2,), {})],
    "reshape": [((X, (3, 2)), {}), ((X, -1), {})],
    "ravel": [((X,), {})],
    "transpose": [((X,), {}), ((X, (1, 0)), {})],
    "matrix_transpose": [((X,), {})],
    "swapaxes": [((X, 0, 1), {})],
    "moveaxis": [((X, 0, 1), {})],
    "expand_dims": [((X, 1), {}), ((X,), {"axis": 0})],
    "squeeze": [((X[:1],), {}), ((X[:1],), {"axis": 0})],
    "broadcast_to": [((X[0], (2, 3)), {})],
    "broadcast_arrays": [((X, X[0]), {})],
    "flip": [((X,), {}), ((X, 1), {})],
    "roll": [((X, 1), {}), ((X, 1), {"axis": 0})],
    "tile": [((X, 2), {}), ((X, (2, 1)), {})],
    "repeat": [((X, 2), {}), ((X, 2), {"axis": 1})],
    "pad": [((X, 1), {}), ((X, ((0, 1), (2, 0))), {"constant_values": 7.0})],
    "concatenate": [(([X, Y],), {}), (((X, Y),), {"axis": 1})],
    "stack": [(([X, Y],), {}), (([X, Y], 1), {})],
    "unstack": [((X,), {}), ((X,), {"axis": 1})],
    "split": [((X, 3), {"axis": 1}), ((X, [1]), {})],
    "sort": [((X,), {}), ((X, 0), {}), ((X, None), {"kind": "stable"})],
    "argsort": [((X,), {}), ((X,), {"axis": 0, "stable": True})],
    "searchsorted": [((X[0], Y), {}), ((X[0], Y, "right", np.array([0, 1, 2])), {})],
    "cumsum": [((X,), {}), ((N, 1), {}), ((X,), {"axis": 0, "dtype": np.float64})],
    "cumprod": [((X,), {"axis": 1}), ((N,), {})],
    "cumulative_sum": [((X,), {"axis": 0, "include_initial": True}), ((N[0],), {})],
    "cumulative_prod": [((X,), {"axis": 0})],
    "diff": [((X,), {}), ((N, 2), {"axis": 1}), ((X, 1, 0), {"prepend": 1.0, "append": Y})],
    "isin": [((N, np.array([1, 3])), {}), ((N, np.array([1, 3])), {"invert": True})],
    "unique": [((N,), {}), ((N,), {"return_index": True, "return_counts": True})],
    "unique_all": [((N,), {})],
    "unique_counts": [((N,), {})],
    "unique_inverse": [((N,), {})],
    "unique_values": [((N[:1, :1],), {})],
    "argwhere": [((N - 2,), {})],
    "flatnonzero": [((N - 2,), {})],
    "inner": [((X, Y), {}), ((X, 2.0), {})],
    "outer": [((X, Y[0]), {})],
    "kron": [((M, X), {})],
    "tensordot": [((X, Y.T), {"axes": 1}), ((X, Y), {})],
    "einsum": [(("ij,kj", X, Y), {"optimize": True}), (("ij->i", X), {})],
    "diagonal": [((X,), {}), ((X, -1), {})],
    "trace": [((M,), {}), ((N, 1), {"dtype": np.float64})],
    "diag": [((X[0], 1), {}), ((X, -1), {})],
    "nan_to_num": [((np.array([np.inf, np.nan, 1.0], np.float32),), {"posinf": 1.0})],
    "sinc": [((X,), {})],
    "tril": [((M,), {})],
    "triu": [((M, 1), {})],
    "meshgrid": [((X[0], Y[1]), {}), ((X[0], Y[1]), {"indexing": "ij"})],
    "zeros_like": [((X,), {}), ((X,), {"dtype": np.int8})],
    "ones_like": [((N,), {})],
    "empty_like": [],
    "full_like": [((X, 3), {})],
    "copy": [((X,), {})],
    "astype": [((X, np.float64), {})],
    "shape": [((X,), {})],
    "ndim": [((X,), {})],
    "size": [((X,), {})],
    "result_type": [((X, np.float64), {})],
}


@pytest.mark.parametrize("name", protocols._FUNCTIONS)
def test_a_function_of_tensors_is_numpys(name: str) -> None:
    function = getattr(np, name)
    for args, kwargs in CALLS[name]:
        given = [[tensors(a) for a in arg] if isinstance(arg, list) else arg for arg in args]
        given = [tuple(map(tensors, a)) if isinstance(a, tuple) else a for a in given]
        same(function(*map(tensors, given), **kwargs), function(*args, **kwargs))


def test_empty_like() -> None:
    assert np.empty_like(sk.asarray(X)).shape == X.shape


def test_mixed_operands_of_a_function_give_a_tensor() -> None:
    same(np.concatenate([X, sk.asarray(Y)]), np.concatenate([X, Y]))
    same(np.where(X > 0, sk.asarray(X), Y), np.where(X > 0, X, Y))


def test_isclose_knows_infinities_and_nan() -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1.0, np.inf], np.float32)
    other = np.array([np.inf, np.inf, np.nan, 1.0, 1.0], np.float32)
    for equal_nan in (False, True):
        expected = np.isclose(values, other, equal_nan=equal_nan)
        same(np.isclose(sk.asarray(values), other, equal_nan=equal_nan), expected)


def test_numpys_own_testing_takes_tensors() -> None:
    np.testing.assert_allclose(sk.asarray(X), X)
    np.testing.assert_array_equal(sk.asarray(N), N)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(sk.asarray(N), N + 1)


# The same under a tape and in a trace


def numpy_code(x: Any) -> Any:
    return np.sum(np.exp(np.concatenate([x, np.ones((1, 3), np.float32)])) * X[0])


def test_numpy_code_is_differentiated() -> None:
    gradient = sk.grad(numpy_code)(sk.asarray(X))
    np.testing.assert_allclose(gradient.numpy(), np.exp(X) * X[0], rtol=1e-6)


def test_numpy_code_is_staged() -> None:
    staged = sk.function(numpy_code)
    for k in range(3):
        x = sk.asarray(X + k)
        np.testing.assert_allclose(staged(x).numpy(), numpy_code(X + k), rtol=1e-6)
    assert staged.cache_info().traces == 1
    assert staged.trace(sk.asarray(X)).graph.count("exp") == 1


# DLPack


def test_dlpack_gives_a_read_only_view() -> None:
    x = sk.asarray(X)
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.numpy())
    assert not array.flags.writeable
    assert x.__dlpack_device__() == (1, 0)


class Old:
    """A producer seen by a consumer that knows DLPack 0 only."""

    def __init__(self, x: Any, **keywords: Any) -> None:
        self.x, self.keywords = x, keywords

    def __dlpack__(self, **_: Any) -> Any:
        return self.x.__dlpack__(**self.keywords)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


def test_an_old_dlpack_consumer_gets_a_copy() -> None:
    x = sk.asarray(X)
    array = np.from_dlpack(Old(x))
    assert not np.shares_memory(array, x.numpy())
    np.testing.assert_array_equal(array, X)
    with pytest.raises(BufferError):
        np.from_dlpack(Old(x, copy=False))


def test_from_dlpack_copies() -> None:
    array = X.copy()
    x = sk.from_dlpack(array)
    array[:] = 0
    np.testing.assert_array_equal(x.numpy(), X)
    with pytest.raises(ValueError, match="read-only"):
        sk.from_dlpack(array, copy=False)
    same(sk.from_dlpack(x), X)


# The namespace, HTML, devices


def test_array_namespace() -> None:
    x = sk.zeros(2)
    assert x.__array_namespace__() is sk
    assert x.__array_namespace__(api_version="2025.12") is sk
    with pytest.raises(ValueError, match="1999"):
        x.__array_namespace__(api_version="1999.01")


def test_html_shows_type_shape_device_and_values_escaped() -> None:
    text = sk.asarray(X)._repr_html_()
    for part in ("Tensor", "float32", "(2, 3)", "cpu", "0.125"):
        assert part in text
    named = sk.Variable(sk.zeros(1), name="<script>")._repr_html_()
    assert "Variable &lt;script&gt;" in named
    assert "<script>" not in named
    assert len(sk.zeros(10**6)._repr_html_()) < 1000


def test_no_cuda_interface_on_the_cpu() -> None:
    assert not hasattr(sk.zeros(1), "__cuda_array_interface__")


def test_devices() -> None:
    assert sk.devices() == ["cpu"]
    with sk.device("cpu"):
        assert sk.zeros(1).device == "cpu"
    for name in ("cuda:0", "tpu", ""):
        with pytest.raises(sk.DeviceError, match="cpu"):
            sk.device(name)
        with pytest.raises(sk.DeviceError, match="cpu"):
            sk.zeros(1).to_device(name)
        with pytest.raises(sk.DeviceError, match="cpu"):
            sk.zeros(1, device=name)
    with pytest.raises(sk.DeviceError, match="cupy"):
        sk.device("cuda:0")


def test_a_device_block_is_of_its_thread() -> None:
    seen: list[str] = []
    with sk.device("cpu"):
        thread = threading.Thread(target=lambda: seen.append(sk.zeros(1).device))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_numpys_methods_of_the_later_families() -> None:
    x, z = sk.asarray(X), sk.asarray(X + 1j * X)
    same(x.argsort(), X.argsort(kind="stable"))
    same(x.argsort(0), X.argsort(0, kind="stable"))
    for axis in (None, 0, -1):
        same(x.cumsum(axis), X.cumsum(axis))
        same(x.cumprod(axis), X.cumprod(axis))
    same(x.diagonal(1), X.diagonal(1))
    same(x.trace(), X.trace())
    same(z.conj(), (X + 1j * X).conj())
    same(z.real, X)
    same(z.imag, X)
    same(x.imag, X * 0)
