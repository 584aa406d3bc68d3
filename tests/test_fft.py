"""`sk.fft`: NumPy's results for every function, length, norm, type; staged, at other sizes, from a
file; derivatives to second order in both modes; errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagekit as sk
from stagekit.errors import ArgumentError, DTypeError, ShapeError, StagekitError
from stagekit.export import runtime
from stagekit.testing import assert_staged_equal, check_grads

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 4, 5))
Z = X + 1j * RNG.standard_normal(X.shape)
ONE = {"fft": Z, "ifft": Z, "rfft": X, "irfft": Z, "hfft": Z, "ihfft": X}
MANY = {"fftn": Z, "ifftn": Z, "rfftn": X, "irfftn": Z}
NORMS = ("backward", "ortho", "forward")


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [None, 1, 3, 4, 8])
def test_along_one_axis(name: str, norm: str, n: int | None) -> None:
    for axis in (-1, 0, 1):
        want = getattr(np.fft, name)(ONE[name], n=n, axis=axis, norm=norm)
        got = getattr(sk.fft, name)(sk.asarray(ONE[name]), n=n, axis=axis, norm=norm)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("s", "axes"),
    [(None, None), ((2, 6), (0, 2)), (None, (2, 0)), ((4, 4), (-2, -1)), (None, (1,))],
)
def test_along_several_axes(name: str, norm: str, s: Any, axes: Any) -> None:
    want = getattr(np.fft, name)(MANY[name], s=s, axes=axes, norm=norm)
    got = getattr(sk.fft, name)(sk.asarray(MANY[name]), s=s, axes=axes, norm=norm)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_frequencies_and_shifts(n: int) -> None:
    assert np.array_equal(
        sk.fft.fftfreq(n, d=0.5, dtype=sk.float64), np.asarray(np.fft.fftfreq(n, 0.5))
    )
    assert np.array_equal(sk.fft.rfftfreq(n, dtype=sk.float64), np.asarray(np.fft.rfftfreq(n)))
    x = np.arange(3 * n).reshape(3, n)
    for name in ("fftshift", "ifftshift"):
        for axes in (None, 1, (0, 1), -2):
            mine = getattr(sk.fft, name)(sk.asarray(x), axes=axes)
            assert np.array_equal(mine, getattr(np.fft, name)(x, axes=axes))


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("float16", "complex64"), ("bfloat16", "complex64"), ("float32", "complex64"),
        ("float64", "complex128"), ("complex64", "complex64"), ("complex128", "complex128"),
        ("int8", "complex64"),
    ],
)  # fmt: skip
def test_types(kind: str, result: str) -> None:
    x = sk.asarray([1, 2, 3], dtype=kind)
    assert sk.fft.fft(x).dtype == sk.fft.ifft(x).dtype == getattr(sk, result)
    if x.dtype.kind != "complex":
        assert sk.fft.rfft(x).dtype == sk.fft.ihfft(x).dtype == getattr(sk, result)
    real = sk.float64 if result == "complex128" else sk.float32
    assert sk.fft.irfft(x).dtype == sk.fft.hfft(x).dtype == real


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(NORMS))
def test_there_and_back(size: int, lanes: int, norm: Any) -> None:
    x = np.random.default_rng([size, lanes]).standard_normal((lanes, size))
    mine = sk.asarray(x)
    np.testing.assert_allclose(
        sk.real(sk.fft.ifft(sk.fft.fft(mine, norm=norm), norm=norm)), x, rtol=1e-12, atol=1e-13
    )
    back = sk.fft.irfft(sk.fft.rfft(mine, norm=norm), n=size, norm=norm)
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("n", [None, 3, 8])
def test_derivatives(name: str, n: int | None) -> None:
    check_grads(lambda v: getattr(sk.fft, name)(v, n=n, norm="ortho"), (ONE[name][0],))


@pytest.mark.parametrize("name", MANY)
def test_derivatives_along_several_axes(name: str) -> None:
    check_grads(lambda v: getattr(sk.fft, name)(v, axes=(1, 0)), (MANY[name][0],), order=1)


def test_a_convolution_by_its_spectrum_descends() -> None:
    x, kernel = sk.asarray(X[0, 0]), sk.asarray(X[1, 0])

    def convolved(k: Any) -> Any:
        return sk.fft.irfft(sk.fft.rfft(x) * sk.fft.rfft(k), n=5)

    target = convolved(kernel)
    loss = sk.function(lambda k: sk.sum((convolved(k) - target) ** 2))
    k = sk.zeros(5, dtype=sk.float64)
    for _ in range(3):
        k = k - 0.02 * sk.grad(loss)(k)
    assert loss(k).item() < loss(sk.zeros(5, dtype=sk.float64)).item()


@pytest.mark.parametrize("name", ONE)
def test_every_stage_and_size(name: str, tmp_path: Path) -> None:
    f = lambda x: getattr(sk.fft, name)(x, axis=0, norm="ortho")
    kind = sk.complex64 if ONE[name] is Z else sk.float32
    x = sk.asarray(ONE[name][:, :, 0], dtype=kind)
    assert_staged_equal(f, x)
    staged = sk.function(f)
    sk.export.save(tmp_path / "f", f, sk.TensorSpec(("n", "m"), kind))
    program = runtime.load(tmp_path / "f")
    for n in (3, 2, 3, 1) if name not in ("irfft", "hfft") else (3, 2, 3):
        assert np.array_equal(staged(x[:n]), f(x[:n]))
        assert np.array_equal(program(x[:n].numpy()), f(x[:n]))
    assert staged.cache_info().traces <= 3


ERRORS: list[tuple[Callable[[Any], Any], type[StagekitError], str]] = [
    (lambda x: sk.fft.fft(x, axis=3), ShapeError, "fft: axis 3"),
    (lambda x: sk.fft.fft(x, n=0), ShapeError, "fft: a length of 0"),
    (lambda x: sk.fft.fft(x, norm="none"), ArgumentError, "fft: norm is 'none'"),
    (lambda x: sk.fft.fft(x[:0], axis=0), ShapeError, "fft: axis 0 .* is empty"),
    (lambda x: sk.fft.rfft(x * 1j), DTypeError, "rfft: the operand is complex128, not real"),
    (lambda x: sk.fft.irfft(x, n=-2), ShapeError, "irfft: a length of -2"),
    (lambda x: sk.fft.irfft(x[..., :1]), ShapeError, "irfft: a length of 0"),
    (lambda x: sk.fft.fftn(x, s=(1, 2), axes=(0,)), ShapeError, "fftn: 2 lengths for 1 axes"),
    (lambda x: sk.fft.fftn(x, axes=(0, 0)), ShapeError, "fftn: axis .* twice"),
    (lambda x: sk.fft.rfftn(x, axes=()), ShapeError, "rfftn: no axes"),
    (lambda x: sk.fft.fftfreq(0), ShapeError, "fftfreq: n is 0"),
]


@pytest.mark.parametrize("k", range(len(ERRORS)))
def test_errors(k: int) -> None:
    call, kind, text = ERRORS[k]
    messages = []
    for way in (call, sk.function(call)):
        with pytest.raises(kind, match=text) as caught:
            way(sk.asarray(X))
        assert caught.value.fix
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
