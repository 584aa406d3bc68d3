"""bfloat16: float32's result rounded to nearest even, op by op, with the bits of ml_dtypes, in each
stage; movement keeps bits; derivatives keep the type.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagekit as sk
from stagekit import narrow
from stagekit.errors import DTypeError
from stagekit.export import runtime
from stagekit.op import OPS
from stagekit.tensor import Tensor
from tests.samples import Sample, samples

BF16 = np.dtype(ml_dtypes.bfloat16)
SOME = np.array([1.5, -2.25, 0.1, 3e38, -0.0, np.inf, -np.inf, np.nan, 1e-40]).astype(BF16)


def bits(x: Any) -> list[int]:
    """The bits of a tensor or array, one NaN for all."""
    array = np.asarray(x.numpy() if isinstance(x, Tensor) else x)
    assert array.dtype == BF16
    return np.where(np.isnan(array), 0x7FC0, array.view(np.uint16)).ravel().tolist()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rounding_is_that_of_ml_dtypes(pattern: int) -> None:
    x = np.array([pattern, pattern ^ 0x8000, pattern | 0x7FFF], np.uint32).view(np.float32)
    assert bits(narrow.exported(narrow.narrowed(x))) == bits(x.astype(BF16))


def test_every_bit_pattern_widens_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    wide = narrow.widened(every.view(narrow.BFLOAT16))
    assert np.array_equal(wide, every.view(BF16).astype(np.float32), equal_nan=True)
    finite = np.isfinite(wide)
    assert np.array_equal(narrow.narrowed(wide)[finite].view(np.uint16), every[finite])


@pytest.mark.parametrize("name", sorted(sk.types.DTYPES))
def test_casts_are_those_of_ml_dtypes(name: str) -> None:
    kind = sk.types.DTYPES[name]
    x = np.array([0, 1, 2, 100, 77]).astype(kind.dtype)
    back = sk.astype(sk.asarray(SOME[:3]), kind)
    if kind.kind != "complex":
        assert bits(sk.astype(sk.asarray(x), sk.bfloat16)) == bits(x.astype(BF16))
        assert np.array_equal(back.numpy(), SOME[:3].astype(kind.dtype))


def computing() -> list[Sample]:
    """Samples whose float32 operands can be bfloat16 ones, of the ops that compute."""
    found = []
    for name, op in OPS.items():
        plain = [s for s in samples(name) if s.note == "float32" or s.note.endswith(" float32")]
        found += [s for s in plain[:2] if not op.moves and op.family != "fourier"]
    return found


@pytest.mark.parametrize("sample", computing(), ids=str)
def test_an_op_rounds_the_result_of_float32(sample: Sample) -> None:
    narrowed = [_narrow(a) for a in sample.args]
    outs = OPS[sample.op](*map(sk.asarray, narrowed), **sample.attrs)
    wides = OPS[sample.op](*(sk.asarray(_widen(a)) for a in narrowed), **sample.attrs)
    for out, wide in zip(_several(outs), _several(wides), strict=True):
        assert out.dtype is (sk.bfloat16 if wide.dtype is sk.float32 else wide.dtype)
        if out.dtype is sk.bfloat16:
            assert bits(out) == bits(wide.numpy().astype(BF16))
        else:
            assert np.array_equal(out.numpy(), wide.numpy())


def _several(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def _narrow(a: Any) -> Any:
    return a.astype(BF16) if getattr(a, "dtype", None) == np.float32 else a


def _widen(a: Any) -> Any:
    return a.astype(np.float32) if getattr(a, "dtype", None) == BF16 else a


MOVES: list[Callable[[Any], Any]] = [
    lambda x: x.reshape(3, 3),
    lambda x: x.reshape(3, 3).T,
    lambda x: sk.flip(x),
    lambda x: x[1::2],
    lambda x: x[np.array([0, -1])],
    lambda x: sk.concat([x, x]),
    lambda x: sk.pad(x, 1),
    lambda x: sk.where(x > 0, x, 0),
    lambda x: sk.broadcast_to(x, (2, 9)),
    lambda x: x.at[0].set(2.5),
    lambda x: sk.stop_gradient(x),
    lambda x: sk.full_like(x, 0.1),
    lambda x: sk.maximum(x, 0.5),
    lambda x: sk.sum(x[:3]),
]


@pytest.mark.parametrize("k", range(len(MOVES)))
def test_every_stage_gives_the_same_bits(k: int, tmp_path: Path) -> None:
    f, x = MOVES[k], sk.asarray(SOME)
    want = bits(f(x))
    staged = sk.function(f)
    assert bits(staged(x)) == want
    assert bits(staged(x)) == want
    sk.export.save(tmp_path / "f", f, sk.TensorSpec((9,), sk.bfloat16))
    assert bits(runtime.load(tmp_path / "f")(SOME)) == want
    assert bits(sk.export.load(tmp_path / "f")(x)) == want


def test_scalars_are_rounded_as_ml_dtypes_rounds_them() -> None:
    x = sk.asarray(SOME[:3])
    for value, op in itertools.product((2.7, 3, 0.1), ("__mul__", "__add__", "__truediv__")):
        theirs = getattr(SOME[:3], op)(np.asarray(value, BF16))
        assert bits(getattr(x, op)(value)) == bits(theirs)


def test_promotion() -> None:
    b = sk.bfloat16
    assert sk.result_type(b, b) is b
    assert sk.result_type(b, sk.float16) is sk.float32
    assert sk.result_type(b, sk.float64) is sk.float64
    assert sk.result_type(b, sk.int64) is b
    assert sk.result_type(b, sk.complex64) is sk.complex64
    assert sk.result_type(b, 1.0) is b


def test_a_sum_is_rounded_once() -> None:
    x = sk.ones(1000, dtype=sk.bfloat16)
    assert sk.sum(x).item() == 1000.0
    assert sk.mean(x).item() == 1.0


def test_derivatives_are_of_the_type() -> None:
    x = sk.asarray([1.0, 2.0], dtype=sk.bfloat16)
    g = sk.grad(lambda v: sk.sum(sk.exp(v) * v))(x)
    assert g.dtype is sk.bfloat16
    out, tangent = sk.jvp(sk.exp, (x,), (x,))
    assert out.dtype is tangent.dtype is sk.bfloat16
    second = sk.grad(lambda v: sk.sum(sk.grad(lambda u: sk.sum(u**3))(v)))(x)
    assert second.tolist() == [6.0, 12.0]


def test_out_and_in() -> None:
    x = sk.asarray(SOME)
    assert x.numpy().dtype == BF16
    assert x[0].item() == 1.5
    assert isinstance(x[0].item(), float)
    assert str(sk.asarray([1.5], dtype="bfloat16")) == "tensor([1.5], dtype=bfloat16)"
    assert np.dtype(sk.bfloat16) == BF16
    assert sk.bfloat16 == BF16
    with pytest.raises(DTypeError, match="astype"):
        sk.astype(sk.asarray([1j]), sk.bfloat16)


def test_graph_text_parses_back() -> None:
    w = sk.asarray(SOME)
    graph = sk.function(lambda x: x * w + 0.1).trace(sk.TensorSpec((9,), sk.bfloat16)).graph
    text = "\n".join(line.split("  #")[0].rstrip() for line in str(graph).splitlines()) + "\n"
    assert str(sk.Graph.parse(text)) == text
