"""`sk.random`: the same bits eager, staged, exported and without vector units; right distributions;
counters that advance once a draw, are committed, restored and never shared by threads.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import pickle
import statistics
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from scipy import stats

import stagekit as sk
import stagekit.ops as ops
from stagekit.errors import ArgumentError, ArtifactError, CheckError, DTypeError, ShapeError
from stagekit.export import runtime
from stagekit.random import Generator, _locks
from stagekit.testing import check_grads
from tests.test_runtime_alone import alone

GOLDEN = Path(__file__).parent / "golden" / "random.json"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ----- Philox -------------------------------------------------------------------------------------

ONES = 2**64 - 1
KNOWN = [  # Random123's kat_vectors, philox 4x32 10: key, stream (upper counter), counter, words
    ((0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES, ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("state", "words"), KNOWN)
def test_known_answers(state: tuple[int, ...], words: str) -> None:
    cell = sk.asarray(np.array(state, np.uint64))
    got = ops.random_bits(cell, shape=(4,), dtype=sk.uint32)
    assert " ".join(f"{word:08x}" for word in got.tolist()) == words
    pairs = ops.random_bits(cell, shape=(2,), dtype=sk.uint64)
    low, high = words.split()[::2], words.split()[1::2]
    assert [f"{pair:016x}" for pair in pairs.tolist()] == [h + w for w, h in zip(low, high)]


@given(st.integers(0, 300), st.integers(0, 100), st.sampled_from([sk.uint32, sk.uint64]))
@settings(max_examples=30)
def test_a_word_depends_on_seed_and_counter_alone(n: int, skip: int, dtype: Any) -> None:
    """A stream read from block k on is the stream without its first k blocks, whatever is asked."""
    per = 4 if dtype is sk.uint32 else 2
    whole = Generator(9)._bits((skip * per + n,), dtype).numpy()
    late = Generator(9)
    late.state.assign(np.array([9, 0, skip], np.uint64))
    assert np.array_equal(late._bits((n,), dtype).numpy(), whole[skip * per :])
    assert late.state.tolist()[2] == skip + math.ceil(n / per)


def test_many_blocks_are_those_of_one_at_a_time() -> None:
    n = 4 * 8192 * 2 + 5  # beyond the size of the evaluation's parts
    whole = Generator(1)._bits((n,), sk.uint32).numpy()
    last = Generator.of(sk.Variable(np.array([1, 0, n // 4], np.uint64)))
    assert np.array_equal(last._bits((1,), sk.uint32).numpy(), whole[-5 + 4 :][:1])


# ----- the same bits everywhere -------------------------------------------------------------------

N = 1_000_000
LOGITS = np.linspace(-3, 2, 7).astype("f4")
gen = Generator(2024)


DRAWS: dict[str, Callable[[], Any]] = {
    "uniform float16": lambda: gen.uniform(shape=N, dtype="float16"),
    "uniform bfloat16": lambda: sk.astype(gen.uniform(shape=N, dtype="bfloat16"), "float32"),
    "uniform float32": lambda: gen.uniform(shape=N),
    "uniform float64": lambda: gen.uniform(-1.0, 0.7, shape=N, dtype="float64"),
    "normal float16": lambda: gen.normal(shape=N, dtype="float16"),
    "normal bfloat16": lambda: sk.astype(gen.normal(shape=N, dtype="bfloat16"), "float32"),
    "normal float32": lambda: gen.normal(0.1, 2.5, shape=N),
    "normal float64": lambda: gen.normal(shape=N, dtype="float64"),
    "randint int8": lambda: gen.randint(-128, 128, shape=N, dtype="int8"),
    "randint int16": lambda: gen.randint(-7, 1000, shape=N, dtype="int16"),
    "randint int32": lambda: gen.randint(-(2**31), 2**31, shape=N, dtype="int32"),
    "randint int64": lambda: gen.randint(-(2**62), 2**62 + 1, shape=N),
    "randint uint8": lambda: gen.randint(3, 77, shape=N, dtype="uint8"),
    "randint uint16": lambda: gen.randint(0, 2**16, shape=N, dtype="uint16"),
    "randint uint32": lambda: gen.randint(0, 10**9, shape=N, dtype="uint32"),
    "randint uint64": lambda: gen.randint(0, 2**64, shape=N, dtype="uint64"),
    "bernoulli": lambda: gen.bernoulli(0.3, shape=N),
    "categorical": lambda: gen.categorical(LOGITS, shape=N),
    "permutation": lambda: gen.permutation(N),
}


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def committed() -> dict[str, str]:
    found: dict[str, str] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


def test_eager_and_staged_draws_are_the_committed_ones(request: pytest.FixtureRequest) -> None:
    gen.seed(2024)
    eager = {name: digest(draw().numpy()) for name, draw in DRAWS.items()}
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(eager, indent=1) + "\n", encoding="utf-8")
    assert eager == committed()
    staged = {name: sk.function(draw) for name, draw in DRAWS.items()}
    gen.seed(1)
    for function in staged.values():
        function()
    gen.seed(2024)
    assert {name: digest(f().numpy()) for name, f in staged.items()} == eager
    assert all(f.cache_info().hits == 1 for f in staged.values())


ALONE = """
import hashlib
import numpy as np
from stagekit.export import runtime
program = runtime.load(sys.argv[1])
found = {name: program[name]() for name in json.loads(sys.argv[2])}
print(json.dumps({k: hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()
                  for k, v in found.items()}))
program.save(sys.argv[1] + ".after")
"""


@pytest.mark.parametrize("vectors", [True, False])
def test_the_runtime_draws_the_committed_ones(
    vectors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NumPy alone, with all of the CPU's features and with none that can be disabled."""
    gen.seed(2024)
    path = tmp_path / "draws.stagekit"
    names = {name: name.replace(" ", "_") for name in DRAWS}
    sk.export.save(path, {names[name]: (sk.function(f), ()) for name, f in DRAWS.items()})
    if not vectors:
        present = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
        monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", " ".join(present))
    out = alone(ALONE, str(path), json.dumps(list(names.values())))
    found = json.loads(out.stdout)
    assert {name: found[names[name]] for name in DRAWS} == committed()
    if vectors:
        self_drawn = sk.export.load(f"{path}.after")
        gen.seed(2024)
        for draw in DRAWS.values():
            draw()
        again = np.asarray(self_drawn["uniform_float32"]())
        assert np.array_equal(again, gen.uniform(shape=N).numpy()), "the stream goes on"


def test_the_command_line_draws(tmp_path: Path) -> None:
    g = Generator(5)
    path, out = tmp_path / "p.stagekit", tmp_path / "out.npz"
    sk.export.save(path, sk.function(lambda x: x + g.normal(shape=x.shape)), sk.TensorSpec((3,)))
    np.save(tmp_path / "x.npy", np.zeros(3, "f4"))
    code = "from stagekit.export import runtime; sys.exit(runtime.main(sys.argv[1:]))"
    alone(code, str(path), "--input", f"x={tmp_path / 'x.npy'}", "--output", str(out))
    (drawn,) = np.load(out).values()
    assert np.array_equal(drawn, Generator(5).normal(shape=3).numpy())


# ----- distributions ------------------------------------------------------------------------------

M = 100_000
CHANCE = 1e-4  # of a test of a right distribution to fail; the seeds are fixed, faults give 1e-30


def test_normal_is_the_quantile() -> None:
    """Within 2e-15 of mpmath's, relatively, from the centre to both ends; near `statistics`'."""
    n = np.concatenate([2 ** np.arange(0, 53), [(2**53 - 1) // 3, 3 * 2**50, 2**52 - 1, 2**53 - 1]])
    n = np.concatenate([n, np.random.default_rng(1).integers(0, 2**53, 200)]).astype(np.uint64)
    got = ops.random_normal(sk.asarray(n << np.uint64(11))).numpy()
    with mpmath.workdps(40):
        for k, x in zip(n.tolist(), got.tolist()):
            p = (mpmath.mpf(k) + 0.5) / 2**53
            slope = mpmath.npdf(x)
            off = (mpmath.ncdf(x) - p) / slope
            assert abs(off) <= 2e-15 * abs(x), (k, x)
            if 1e-10 < p < 1 - 1e-5:  # where p is near enough to a double
                again = statistics.NormalDist().inv_cdf(float(p))
                assert again == pytest.approx(x, rel=1e-9, abs=1e-15)
    ends = ops.random_normal(sk.asarray([0, 2**32 - 1], dtype=sk.uint32)).tolist()
    assert ends[0] == -ends[1] == pytest.approx(stats.norm.ppf(2.0**-33), rel=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_continuous_distributions(dtype: str) -> None:
    g = Generator(3)
    for name, law in (("uniform", "uniform"), ("normal", "norm")):
        x = getattr(g, name)(shape=M, dtype=dtype).numpy().astype("f8")
        assert stats.kstest(x, law).pvalue > CHANCE
        assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 4 / M**0.5
    x = g.uniform(2.0, 5.0, shape=M, dtype=dtype).numpy()
    assert 2 <= x.min() < 2.001
    assert 4.999 < x.max() < 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_uniform_is_below_high(dtype: str) -> None:
    g = Generator(4)
    x = sk.astype(g.uniform(shape=M, dtype=dtype), "float64").numpy()
    assert 0 <= x.min() < x.max() < 1
    y = g.uniform(1000.0, 1001.0, shape=M, dtype=dtype)
    assert bool(sk.all((y >= 1000.0) & (y < 1001.0))) or dtype == "bfloat16"
    assert g.uniform(2.0, 2.0, shape=3, dtype=dtype).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-5, 12), (0, 2**40), (-(2**62), 2**61)])
def test_integers_are_uniform(low: int, high: int) -> None:
    g = Generator(5)
    for bounds in ((low, high), (sk.asarray(low), sk.asarray(high))):
        x = g.randint(*bounds, shape=M).numpy()
        assert low <= x.min()
        assert x.max() < high
        cells = min(high - low, 64)
        counts = np.bincount(((x.astype(object) - low) * cells // (high - low)).astype(int))
        assert len(counts) == cells
        assert stats.chisquare(counts).pvalue > CHANCE
        thirds = np.bincount((x % 3).astype(int)) if high - low > 1000 else counts
        assert stats.chisquare(thirds).pvalue > CHANCE


def test_integers_reach_both_ends_of_every_type() -> None:
    g = Generator(6)
    for name in ("int8", "uint8"):
        info = np.iinfo(name)
        x = g.randint(int(info.min), int(info.max) + 1, shape=20_000, dtype=name).numpy()
        assert len(np.unique(x)) == 256
    for name in ("int16", "int32", "int64", "uint16", "uint32", "uint64"):
        info = np.iinfo(name)
        x = g.randint(int(info.min), int(info.max) + 1, shape=4000, dtype=name).numpy()
        quarters = (x.astype(object) - int(info.min)) * 4 // (int(info.max) - int(info.min) + 1)
        assert stats.chisquare(np.bincount(quarters.astype(int))).pvalue > CHANCE
        top = g.randint(int(info.max), int(info.max) + 1, shape=3, dtype=name)
        assert top.tolist() == [info.max] * 3
    low = sk.asarray([0, 5, 9])
    assert g.randint(low, sk.asarray([1, 5, 3])).tolist() == [0, 5, 9]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_multiply_high(a: int, b: int) -> None:
    x, y = (np.array(n, np.uint64) for n in (a, b))
    assert int(ops.multiply_high(x, y)) == a * b >> 64
    assert ops.multiply_high(sk.asarray(x), sk.asarray(y)).item() == a * b >> 64


def test_bernoulli() -> None:
    g = Generator(7)
    assert not g.bernoulli(0.0, shape=M).numpy().any()
    assert g.bernoulli(1.0, shape=M).numpy().all()
    for p in (0.5, 0.01):
        hits = int(g.bernoulli(p, shape=M).numpy().sum())
        assert stats.binomtest(hits, M, p).pvalue > CHANCE
    few = sum(int(g.bernoulli(1e-7, shape=4 * N).numpy().sum()) for _ in range(5))
    assert 0 <= few <= 9  # 2 expected
    p = sk.asarray([0.0, 1.0, math.nan, -1.0, 2.0])
    assert g.bernoulli(p, shape=(50, 5)).numpy().all(axis=0).tolist() == [0, 1, 0, 0, 1]
    assert g.bernoulli(p, dtype="float32").dtype is sk.float32


def test_the_threshold_of_bernoulli_is_exact() -> None:
    """u < p for the 53 bits u: the chance is p to 2^-53, also where it is small."""
    words = Generator(8)._bits((1000,), sk.uint64).numpy()
    u = (words >> np.uint64(11)).astype("f8") * 2.0**-53
    for p in (1e-3, 0.3, float(u[5]), float(np.nextafter(u[5], 1))):
        assert np.array_equal(Generator(8).bernoulli(p, shape=1000).numpy(), u < p)


def test_categorical() -> None:
    g = Generator(9)
    logits = np.array([-np.inf, 0.3, -1.0, -40.0, 2.0, -np.inf])
    x = g.categorical(logits, shape=M).numpy()
    counts = np.bincount(x, minlength=6)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    chances = np.exp(logits[[1, 2, 4]])
    assert stats.chisquare(counts[[1, 2, 4]], M * chances / chances.sum()).pvalue > CHANCE
    assert g.categorical(logits + 1e4, shape=5).numpy().max() < 5
    rows = np.where(np.eye(4, dtype=bool), 0.0, -np.inf).astype("f4")
    assert g.categorical(rows).tolist() == [0, 1, 2, 3]
    assert (
        g.categorical(rows[:, ::-1].T.copy(), axis=0, dtype="int8").tolist() == [0, 1, 2, 3][::-1]
    )
    assert g.categorical(rows, shape=(3, 4)).tolist() == [[0, 1, 2, 3]] * 3
    assert g.categorical(np.zeros((2, 1))).tolist() == [0, 0]
    assert g.categorical(np.zeros((0, 3))).shape == (0,)


def test_categories_are_those_of_the_definition() -> None:
    """Against exact integers and mpmath's exp."""
    logits = np.random.default_rng(1).normal(size=9) * 6
    words = Generator(10)._bits((300,), sk.uint64)
    got = ops.random_category(sk.asarray(logits), words).tolist()
    top = max(logits)
    weights = [int(mpmath.exp(v - top) * 2**40 + 0.5) if v - top > -28 else 0 for v in logits]
    sums = np.cumsum([0, *weights], dtype=object)
    for word, k in zip(words.tolist(), got):
        limit = word * int(sums[-1]) >> 64
        assert sums[k] - 1e-3 * 2**40 <= limit < sums[k + 1] + 1e-3 * 2**40


def test_permutation() -> None:
    g = Generator(11)
    assert g.permutation(0).tolist() == []
    assert g.permutation(1).tolist() == [0]
    assert sorted(g.permutation(100, dtype="int16").tolist()) == list(range(100))
    x = sk.asarray([[1, 2], [3, 4], [5, 6]])
    assert sorted(g.permutation(x).tolist()) == x.tolist()
    assert g.permutation(sk.zeros((0, 2))).shape == (0, 2)
    many = g.permutation(4, shape=(24_000,)).numpy()
    counts = np.unique(many @ [64, 16, 4, 1], return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > CHANCE
    assert g.permutation(x, shape=(5,)).shape == (5, 3, 2)


def test_streams_are_independent() -> None:
    parent = Generator(12)
    streams = [*(Generator(seed) for seed in range(5)), *parent.split(4), parent]
    assert parent.state.tolist()[2] == 4
    x = np.stack([s.uniform(shape=M, dtype="float64").numpy() for s in streams])
    off = np.corrcoef(x) - np.eye(len(x))
    assert np.abs(off).max() < 4.5 / M**0.5
    for a, b in itertools.pairwise(x):
        cells = np.histogram2d(a, b, bins=10)[0].ravel()
        assert stats.chisquare(cells).pvalue > CHANCE
    assert len(np.unique(x)) == x.size
    assert Generator(1).split(0) == []


# ----- parameters ---------------------------------------------------------------------------------


def test_shapes_and_types() -> None:
    g = Generator(1)
    mean, std = sk.zeros((3, 1), dtype=sk.float64), sk.ones(4)
    assert (g.normal(mean, std).shape, g.normal(mean, std).dtype) == ((3, 4), sk.float64)
    assert g.normal(mean, 2.0, shape=(5, 3, 2)).shape == (5, 3, 2)
    assert g.normal(sk.asarray(1), 2).dtype is sk.float32
    assert g.uniform(shape=()).shape == ()
    assert g.uniform(shape=(0, 3)).shape == (0, 3)
    assert g.randint(sk.asarray([1], dtype=sk.int16), 9).dtype is sk.int16
    assert g.randint(0, sk.asarray([[3], [4]])).shape == (2, 1)
    assert sk.random.default_rng is Generator


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: sk.random.bernoulli(1.5), ValueError, "bernoulli: p is 1.5"),
    (lambda: sk.random.bernoulli(math.nan), ValueError, "bernoulli: p is nan"),
    (lambda: sk.random.randint(3, 3), ValueError, "randint: low 3 is not below high 3"),
    (lambda: sk.random.randint(0, 200, dtype="int8"), DTypeError, "0 to 199 is out of bounds"),
    (lambda: sk.random.randint(0.5, 3), ValueError, "low is 0.5"),
    (lambda: sk.random.randint(0, 3, dtype="float32"), DTypeError, "no integer type"),
    (lambda: sk.random.randint(sk.zeros(2), 3), DTypeError, "low is float32"),
    (lambda: sk.random.normal(shape=-1), ShapeError, "negative size"),
    (lambda: sk.random.normal(std=-1.0), ValueError, "std is -1.0"),
    (lambda: sk.random.normal(dtype="int32"), DTypeError, "int32 is no float type"),
    (lambda: sk.random.normal(1j), DTypeError, "normal: a parameter is complex64"),
    (lambda: sk.random.normal(generator=3), ValueError, "generator is a int"),
    (lambda: sk.random.uniform(2, 1), ValueError, "low 2 is not below high 1"),
    (lambda: sk.random.uniform(sk.zeros(3), 1, shape=2), ShapeError, "do not broadcast"),
    (lambda: sk.random.uniform(sk.zeros(3), 1, shape=1), ShapeError, "do not broadcast"),
    (lambda: sk.random.categorical(3.0), ShapeError, "axis -1 does not exist"),
    (lambda: sk.random.categorical(sk.zeros((2, 0))), ShapeError, "has 0 categories"),
    (lambda: sk.random.categorical(sk.asarray([-math.inf])), CheckError, "largest is NaN or inf"),
    (lambda: sk.random.categorical(sk.asarray([0, math.nan])), CheckError, "largest is NaN or inf"),
    (lambda: sk.random.categorical(sk.asarray([0, math.inf])), CheckError, "largest is NaN or inf"),
    (lambda: sk.random.permutation(-1), ValueError, "n is -1"),
    (lambda: sk.random.permutation(2.5), ValueError, "n is 2.5"),
    (lambda: sk.random.permutation(sk.asarray(3)), ShapeError, "0-d tensor"),
    (lambda: sk.random.seed(-1), ValueError, "out of range"),
    (lambda: sk.random.Generator(2**64), ValueError, "out of range"),
    (lambda: sk.random.Generator(1).split(-1), ValueError, "n is -1"),
]


@pytest.mark.parametrize(("call", "kind", "text"), BAD)
def test_what_is_refused_eager_and_staged(
    call: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    state = sk.random._default.state.tolist()
    with pytest.raises(kind, match=text) as eager:
        call()
    if kind is not CheckError:
        assert sk.random._default.state.tolist() == state
    state = sk.random._default.state.tolist()
    with pytest.raises(kind, match=text) as staged:
        sk.function(call)()
    assert (type(staged.value), str(staged.value)) == (type(eager.value), str(eager.value))
    assert sk.random._default.state.tolist() == state, "a call that raises draws nothing"


def test_a_category_that_fails_in_a_staged_call() -> None:
    pick = sk.function(lambda x: sk.random.categorical(x))
    pick(sk.zeros(3))
    state = sk.random._default.state.tolist()
    with pytest.raises(CheckError, match="largest is NaN"):
        pick(sk.full(3, math.nan))
    assert sk.random._default.state.tolist() == state


# ----- derivatives --------------------------------------------------------------------------------


def test_parameters_are_differentiable() -> None:
    mean, std = sk.asarray([1.0, 2.0], dtype=sk.float64), sk.asarray(0.5, dtype=sk.float64)
    check_grads(lambda m, s: Generator(1).normal(m, s), (mean, std))
    check_grads(lambda m, s: Generator(1).uniform(m - 5, s + 5), (mean, std))
    z = Generator(1).normal(shape=2, dtype="float64").numpy()
    pulled = sk.grad(lambda s: sk.sum(Generator(1).normal(mean, s)))(std)
    assert pulled.item() == pytest.approx(z.sum())


def test_checkpoint_draws_the_same_again() -> None:
    def loss(w: Any, g: Any) -> Any:
        return sk.sum((w * g.normal(shape=5)) ** 2)

    w = sk.ones(5)
    want = sk.grad(loss)(w, Generator(1)).numpy()
    for fn in (sk.checkpoint(loss), sk.function(loss), sk.function(sk.checkpoint(loss))):
        for _ in range(2):
            g = Generator(1)
            assert np.array_equal(sk.grad(fn)(w, g).numpy(), want)
            assert g.state.tolist() == [1, 0, 2], "a draw counts once"
        g = Generator(1)
        assert np.array_equal(sk.function(sk.grad(fn))(w, g).numpy(), want)
        assert g.state.tolist() == [1, 0, 2]
    closed = Generator(1)
    kept = sk.checkpoint(lambda w: loss(w, closed))
    assert np.array_equal(sk.grad(kept)(w).numpy(), want)
    with sk.GradientTape() as tape:
        tape.watch(w)
        y = loss(w, Generator(1))
    assert np.array_equal(tape.gradient(y, w).numpy(), want)


# ----- staging ------------------------------------------------------------------------------------


def test_each_call_advances_and_none_retraces() -> None:
    @sk.function
    def noisy(x: Any) -> Any:
        return x + sk.random.normal(shape=x.shape) * sk.random.uniform(shape=x.shape)

    def plain(x: Any) -> Any:
        return x + sk.random.normal(shape=x.shape) * sk.random.uniform(shape=x.shape)

    x = sk.zeros(3)
    sk.random.seed(1)
    want = [plain(x).tolist() for _ in range(200)]
    sk.random.seed(1)
    assert [noisy(x).tolist() for _ in range(200)] == want
    assert len({tuple(row) for row in want}) == 200
    assert noisy.cache_info().traces == 1
    assert "eager" not in str(noisy.explain())
    for n in range(9):
        assert noisy(sk.zeros(n)).shape == (n,)
    assert noisy.cache_info().traces <= 3


def test_symbolic_sizes_draw_as_eager_ones() -> None:
    def several(x: Any, g: Any) -> Any:
        n = x.shape[0]
        return (
            g.normal(shape=x.shape), g.uniform(x, 2.0), g.randint(0, n, shape=(2, n)),
            g.bernoulli(shape=(n, 2)), g.categorical(x), g.permutation(n), g.permutation(x),
        )  # fmt: skip

    staged = sk.function(several)
    for n in (3, 1, 2, 5, 8):
        a, b = Generator(n), Generator(n)
        x = sk.linspace(0, 1, n)
        for got, want in zip(staged(x, a), several(x, b)):
            assert np.array_equal(got.numpy(), want.numpy())
        assert a.state.tolist() == b.state.tolist()
    assert staged.cache_info().traces == 2


def test_two_draws_of_one_call_differ() -> None:
    twice = sk.function(lambda: (sk.random.uniform(), sk.random.uniform()))
    for _ in range(3):
        a, b = twice()
        assert a.item() != b.item()


def test_a_generator_goes_anywhere() -> None:
    class Model:
        def __init__(self, seed: int) -> None:
            self.g = Generator(seed)

        @sk.function
        def __call__(self, x: Any) -> Any:
            return x + self.g.uniform(shape=x.shape)

    x = sk.zeros(2)
    want = Generator(3)
    expected = [want.uniform(shape=2).tolist() for _ in range(3)]
    model = Model(3)
    assert [model(x).tolist() for _ in range(3)] == expected
    model.g = Generator(3)
    assert model(x).tolist() == expected[0], "another generator in its place is seen"

    @sk.function
    def given_one(x: Any, tree: Any) -> Any:
        return x + tree["g"].uniform(shape=x.shape)

    tree = {"g": Generator(3)}
    assert [given_one(x, tree).tolist() for _ in range(3)] == expected
    assert given_one(x, {"g": Generator(3)}).tolist() == expected[0]
    assert given_one.cache_info().traces == 1, "two generators share a trace"

    local = Generator(3)
    closure = sk.function(lambda x: x + local.uniform(shape=x.shape))
    assert [closure(x).tolist() for _ in range(3)] == expected


def test_seeds_and_generators_inside() -> None:
    @sk.function
    def seeded(n: Any) -> Any:
        sk.random.seed(n)
        return sk.random.uniform(shape=2)

    for n in (0, 1, 7, 8, 2**40):
        got = seeded(n).tolist()
        after = sk.random._default.state.tolist()
        assert got == Generator(n).uniform(shape=2).tolist()
        assert after == [n, 0, 1]
    assert seeded(sk.asarray(7)).tolist() == Generator(7).uniform(shape=2).tolist()

    @sk.function
    def fresh() -> Any:
        a, b = Generator(3).split(2)
        return a.uniform(), b.uniform(), Generator().uniform()

    rows = [[x.item() for x in fresh()] for _ in range(3)]
    assert rows[0][:2] == rows[1][:2] == rows[2][:2]
    assert len({row[2] for row in rows}) == 3, "entropy is never frozen"


def test_a_call_that_raises_draws_nothing() -> None:
    g = Generator(1)

    @sk.function
    def fails(x: Any, bad: Any) -> Any:
        y = g.uniform(shape=x.shape)
        if bad:
            raise ValueError("no")
        return x + y

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fails(sk.zeros(2), True)
        assert g.state.tolist() == [1, 0, 0]
    assert fails(sk.zeros(2), False).tolist() == Generator(1).uniform(shape=2).tolist()


def test_lanes_of_vmap_draw_their_own() -> None:
    g = Generator(1)
    got = sk.vmap(lambda x: x + g.uniform(shape=2))(sk.zeros(5))
    other = Generator(1)
    assert np.array_equal(got.numpy(), other.uniform(shape=(5, 2)).numpy())
    assert g.state.tolist() == other.state.tolist()
    nested = sk.vmap(sk.vmap(lambda x: x + g.uniform()))(sk.zeros((2, 3)))
    assert np.array_equal(nested.numpy(), other.uniform(shape=(2, 3)).numpy())
    given = sk.vmap(lambda x, g: x + g.uniform(), in_axes=(0, None))(sk.zeros(4), g)
    assert np.array_equal(given.numpy(), other.uniform(shape=4).numpy())
    assert g.state.tolist() == other.state.tolist()
    keys = sk.asarray(np.array([[1, 0, 0], [2, 0, 0]], np.uint64))
    words = sk.vmap(lambda s: ops.random_bits(s, shape=(3,), dtype=sk.uint32))(keys)
    assert words.tolist() == [Generator(n)._bits((3,), sk.uint32).tolist() for n in (1, 2)]
    after = sk.vmap(lambda s: ops.random_advance(s, shape=(3,), dtype=sk.uint32))(keys)
    assert after.tolist() == [[1, 0, 1], [2, 0, 1]]


# ----- copies and files ---------------------------------------------------------------------------


def test_copies_are_by_value() -> None:
    g = Generator(3)
    g.uniform()
    twins = [copy.deepcopy(g), pickle.loads(pickle.dumps(g))]
    want = g.uniform(shape=4).tolist()
    assert [twin.uniform(shape=4).tolist() for twin in twins] == [want, want]
    kept = g.state.value
    drawn = g.normal().item()
    g.state.assign(kept)
    assert g.normal().item() == drawn


def test_files_hold_generators(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    g = Generator(3)
    g.normal(shape=9)
    sk.save(path, {"rng": g, "w": [sk.ones(2), g]})
    found = sk.load(path)
    assert isinstance(found["rng"], Generator)
    assert found["w"][1].state is found["rng"].state
    like = sk.load(path, like={"rng": Generator(0), "w": [sk.zeros(2), Generator(0)]})
    assert like["rng"].uniform().item() == found["rng"].uniform().item() == g.uniform().item()
    with pytest.raises(ArtifactError, match="rng"):
        sk.load(path, like={"w": [sk.zeros(2), Generator(0)]})


# ----- threads ------------------------------------------------------------------------------------


@pytest.fixture
def _often() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def raced(workers: int, draw: Callable[[int], Any]) -> list[Any]:
    found: list[Any] = []

    def work() -> None:
        found.extend([draw(k) for k in range(30)])

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("way", ["eager", "staged", "both"])
@pytest.mark.usefixtures("_often")
def test_threads_never_draw_the_same(way: str) -> None:
    for trial in range(3):
        a, b = Generator(trial), Generator(trial + 10)

        def draw(a: Generator = a, b: Generator = b) -> Any:
            return a.uniform(shape=2, dtype="float64") + 2 * b.uniform(shape=2, dtype="float64") * 0

        staged = sk.function(draw)

        def one(k: int, staged: Any = staged, draw: Any = draw) -> float:
            fn = draw if way == "eager" or (way == "both" and k % 2) else staged
            return float(fn()[0].item())

        drawn = raced(4, one)
        assert len(set(drawn)) == len(drawn) == 120
        assert a.state.tolist()[2] == b.state.tolist()[2] == 120


def test_an_undone_call_takes_back_no_draw_of_another_thread() -> None:
    g = Generator(1)

    @sk.function
    def fails(x: Any) -> Any:
        g.uniform()
        if float(x.sum()) > 0:  # such calls run eagerly
            thread = threading.Thread(target=g.uniform)
            thread.start()
            thread.join()
            raise ValueError("no")
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fails(sk.zeros(1))
        for _ in range(3):
            before = g.state.tolist()[2]
            with pytest.raises(ValueError, match="no"):
                fails(sk.ones(1))
            assert g.state.tolist()[2] >= before + 1


def test_locks_are_dropped_with_their_generators() -> None:
    before = len(_locks)
    for seed in range(10):
        Generator(seed).uniform()
    assert len(_locks) <= before + 1


def test_the_default_generator_starts_from_entropy() -> None:
    code = "import stagekit as sk; print(sk.random._default.state.tolist())"
    starts = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(starts) == 2


# ----- threads and programs -----------------------------------------------------------------------


@pytest.mark.usefixtures("_often")
def test_threads_that_share_a_program_never_draw_the_same(tmp_path: Path) -> None:
    g, path = Generator(1), tmp_path / "p.stagekit"
    sk.export.save(path, lambda: g.randint(0, 2**63, shape=2))
    for program in (runtime.load(path), sk.export.load(path)):
        drawn = raced(4, lambda k, p=program: np.asarray(p()).tobytes())
        assert len(set(drawn)) == len(drawn) == 120


def test_a_first_call_with_an_effect_puts_no_counter_back() -> None:
    """Where another thread went on from the state that the trace of the call found."""
    for draws, others in ((1, 5), (5, 1)):
        g = Generator(1)

        @sk.function
        def effectful(x: Any, g: Generator = g, draws: int = draws, others: int = others) -> Any:
            for _ in range(draws):
                x = x + g.uniform()
            thread = threading.Thread(target=lambda: [g.uniform() for _ in range(others)])
            thread.start()
            thread.join()
            return x

        with pytest.warns(sk.StagekitWarning):
            effectful(0.0)
        assert g.state.tolist() == [1, 0, 5]


def test_the_default_generator_is_captured_by_name() -> None:
    f = sk.function(lambda: sk.random.uniform())
    f()
    assert "captures sk.random.state" in str(f.explain())
    assert "held by identity" not in str(f.explain())


@pytest.mark.parametrize("count", [1, 15, 16, 17, 8192, 8193])
def test_many_blocks_are_those_that_few_are(count: int) -> None:
    state = sk.asarray(np.array([3, 5, 2**64 - 9], np.uint64))
    many = ops.random_bits(state, shape=(count, 4), dtype=sk.uint32).numpy()
    for k in {0, 8, 9, count - 1} & set(range(count)):
        one = sk.asarray(np.array([3, 5, (2**64 - 9 + k) % 2**64], np.uint64))
        block = ops.random_bits(one, shape=(4,), dtype=sk.uint32)
        np.testing.assert_array_equal(many[k], block.numpy())


def test_a_range_that_the_type_cannot_hold_is_refused() -> None:
    wide: list[tuple[Any, ...]] = [(-3e38, 3e38, "float32"), (0, sk.inf, "float64")]
    for low, high, kind in [*wide, (0, 1e5, "float16")]:
        draw = lambda a=low, b=high, kind=kind: sk.random.uniform(a, b, dtype=kind)
        for fn in (draw, sk.function(draw)):
            with pytest.raises(ArgumentError, match="cannot hold high - low"):
                fn()
    assert sk.isfinite(sk.random.uniform(-3e38, 3e38, dtype="float64"))


def test_logits_that_choose_nothing_are_told_at_the_users_line() -> None:
    def draw(logits: Any) -> Any:
        return sk.random.categorical(logits)

    for run in (draw, sk.function(draw)):
        with pytest.raises(CheckError, match="categorical: logits") as caught:
            run(sk.full((2,), -sk.inf))
        assert caught.value.location is not None
        assert caught.value.location.lineno == draw.__code__.co_firstlineno + 1
