"""Complex numbers: derivatives by the contract's convention (the gradient of a real f is
df/dx + i df/dy), in both modes and to second order, for every op; special cases; all stages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.errors import DTypeError, ShapeError
from stagekit.export import runtime
from stagekit.op import OPS, weak_type
from stagekit.testing import check_grads
from tests.samples import Sample, samples

Z = np.array([1 + 2j, -0.5 + 0.3j, 0.7 - 1.1j])


def of_complex() -> list[Sample]:
    """For each differentiable op one sample of complex128 operands."""
    found = []
    for name, op in OPS.items():
        plain = [s for s in samples(name) if "complex128" in s.note and "special" not in s.note]
        if op.vjp is not None and name != "custom":
            found += [s for s in plain if "to " not in s.note][:3]
    return found


@pytest.mark.parametrize("sample", of_complex(), ids=str)
def test_derivatives_of_every_op(sample: Sample) -> None:
    places = [k for k, a in enumerate(sample.args) if not weak_type(a) and a.dtype.kind == "c"]

    def call(*zs: Any) -> Any:
        args = sample.tensors()
        for k, z in zip(places, zs, strict=True):
            args[k] = z
        return OPS[sample.op](*args, **sample.attrs)

    check_grads(call, [sample.args[k] for k in places])


def test_ops_of_every_family_are_among_them() -> None:
    names = {s.op for s in of_complex()}
    assert names >= {"multiply", "exp", "abs", "conj", "sum", "prod", "matmul", "gather", "scatter"}
    assert names >= {"permute", "concat", "pad", "where", "power", "sqrt", "real", "imag"}


@pytest.mark.parametrize(
    ("f", "gradient"),
    [
        (lambda z: sk.sum(sk.abs(z) ** 2), lambda z: 2 * z),
        (lambda z: sk.sum(sk.real(z)), lambda z: np.ones_like(z)),
        (lambda z: sk.sum(sk.imag(z)), lambda z: 1j * np.ones_like(z)),
        (lambda z: sk.sum(sk.real(z * z)), lambda z: 2 * np.conj(z)),
        (lambda z: sk.sum(sk.real(sk.exp(z))), lambda z: np.conj(np.exp(z))),
        (lambda z: sk.sum(sk.abs(z)), lambda z: z / abs(z)),
        (lambda z: sk.sum(sk.real(z * sk.conj(z))), lambda z: 2 * z),
    ],
)
def test_the_gradient_is_df_dx_plus_i_df_dy(f: Any, gradient: Callable[[Any], Any]) -> None:
    for way in (f, sk.function(f)):
        np.testing.assert_allclose(sk.grad(way)(sk.asarray(Z)).numpy(), gradient(Z), rtol=1e-14)
    with sk.GradientTape() as tape:
        z = sk.asarray(Z)
        tape.watch(z)
        y = f(z)
    np.testing.assert_allclose(tape.gradient(y, z).numpy(), gradient(Z), rtol=1e-14)


def test_descent_follows_minus_the_gradient() -> None:
    target, z = sk.asarray(Z), sk.asarray(Z * 0)
    loss = lambda z: sk.sum(sk.abs(z - target) ** 2)
    for _ in range(60):
        z = z - 0.2 * sk.grad(loss)(z)
    np.testing.assert_allclose(z.numpy(), Z, rtol=1e-6)


def test_a_real_parameter_of_a_complex_function_has_a_real_gradient() -> None:
    x = sk.asarray([0.3, 1.2])
    g = sk.grad(lambda x: sk.sum(sk.abs(sk.exp(1j * x) + 1) ** 2))(x)
    assert g.dtype is sk.float32
    np.testing.assert_allclose(g.numpy(), -2 * np.sin(x.numpy()), rtol=1e-5)
    check_grads(lambda x, z: sk.sin(x * z) * x, (np.array([0.3, 1.2]), Z[:2]))


def test_the_gradient_at_zero_of_the_modulus_is_zero() -> None:
    assert sk.grad(lambda z: sk.sum(sk.abs(z)))(sk.zeros(2, dtype=sk.complex64)).tolist() == [0, 0]


def test_a_complex_result_has_no_gradient() -> None:
    with pytest.raises(DTypeError, match="grad: the function gives complex64"):
        sk.grad(sk.sum)(sk.asarray([1j]))
    with pytest.raises(DTypeError, match=r"jacobian: .* complex64"):
        sk.jacobian(lambda z: z * z)(sk.asarray([1j]))
    with sk.GradientTape() as tape:
        z = sk.asarray([1j])
        tape.watch(z)
        y = z * z
    with pytest.raises(DTypeError, match="gradient: a target is complex64"):
        tape.gradient(y, z)
    assert issubclass(ShapeError, ValueError)


F: list[Callable[[Any], Any]] = [
    lambda z: z * sk.conj(z) + 2j,
    lambda z: sk.exp(z) / (1 + z),
    lambda z: sk.sum(z, axis=0) @ sk.ones((3,), dtype=sk.complex64),
    lambda z: sk.abs(z) + sk.real(z) - sk.imag(z),
    lambda z: sk.where(sk.real(z) > 0, z, 0),
    lambda z: z.at[0].add(1j),
    lambda z: z[:, ::-1] ** 2,
    lambda z: z == z[0, 0],
]


@pytest.mark.parametrize("k", range(len(F)))
def test_every_stage_gives_the_same(k: int, tmp_path: Path) -> None:
    f, z = F[k], np.stack([Z, Z * 2j]).astype("complex64")
    want = f(sk.asarray(z)).numpy()
    staged = sk.function(f)
    sk.export.save(tmp_path / "f", f, sk.TensorSpec(("n", 3), sk.complex64))
    ways = [staged(sk.asarray(z)), staged(sk.asarray(z)), runtime.load(tmp_path / "f")(z)]
    ways.append(sk.export.load(tmp_path / "f")(sk.asarray(z)))
    for got in ways:
        assert np.array_equal(np.asarray(got), want)


def test_a_python_complex_number_is_weak() -> None:
    assert (sk.ones(2) * 1j).dtype is sk.complex64
    assert (sk.ones(2, dtype=sk.float64) * 1j).dtype is sk.complex128
    assert (sk.ones(2, dtype=sk.int8) * 1j).dtype is sk.complex64
    assert (sk.asarray([1j]) * np.float64(1)).dtype is sk.complex128
    assert sk.full((2,), 1 + 2j).tolist() == [1 + 2j, 1 + 2j]
    assert sk.asarray(3, dtype=sk.complex64).item() == 3 + 0j


def test_state_of_a_complex_variable(tmp_path: Path) -> None:
    v = sk.Variable(sk.asarray(Z), name="v")

    @sk.function
    def step(z: Any) -> Any:
        v.assign_add(z * 1j)
        return sk.sum(sk.real(v))

    for _ in range(2):
        step(sk.asarray(Z))
    np.testing.assert_allclose(v.numpy(), Z * (1 + 2j))
    sk.save(tmp_path / "v", {"v": v, "k": 2 - 1j})
    back = sk.load(tmp_path / "v")
    assert np.array_equal(back["v"].numpy(), v.numpy())
    assert back["k"] == 2 - 1j


@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_complex_number_is_the_smallest_written(mode: str) -> None:
    def write(x: Any) -> Any:
        return getattr(x.at[0], mode)(2)

    texts = []
    for run in (write, sk.function(write)):
        with pytest.raises(DTypeError, match=f"scatter: complex128 has no {mode}") as caught:
            run(sk.asarray(Z))
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


NUMBERS = [0, 1, -1, 2, 0.0, -0.0, 0j, 1 + 0j, complex(-0.0, 0), 2j]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_rules_of_real_constants_leave_complex_ones_alone(number: complex) -> None:
    z = sk.asarray([1 + 2j, 0, complex(-0.0, -0.0), complex(np.inf, 1)])
    calls: list[Callable[[Any], Any]] = [
        lambda z: z + number, lambda z: number - z, lambda z: z - number, lambda z: z * number,
        lambda z: z / (number + 3), lambda z: z / 1,
        lambda z: z * sk.full((4,), number, dtype=z.dtype),
    ]  # fmt: skip
    for call in calls:
        assert repr(sk.function(call)(z)) == repr(call(z))


def test_a_complex_constant_is_compared_with_the_numbers_of_rules() -> None:
    x = sk.asarray([1 + 2j, -3j])
    for number in (1 + 0j, 0j, complex(0, -0.0), 1j):
        f = sk.function(lambda x: x * sk.full((2,), number) + number)
        traced, ran = f(x), f(x)
        assert np.array_equal(traced.numpy(), ran.numpy())
