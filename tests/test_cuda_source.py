"""Kernels as CUDA C: printed on every machine, run on the CPU behind tests/emulator, compiled by
NVRTC where it is installed, and launched through cupy (here one that emulates).

What a kernel gives must not depend on how many blocks it has, nor on the order of its threads.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.kernels.backend import settled
from stagekit.kernels.cuda import printer
from stagekit.kernels.cuda.printer import OPTIONS, THREADS, Source, kernel_source
from stagekit.kernels.fusion.steps import KernelStep, Steps
from stagekit.kernels.ir import Body, Buffer, Kernel, Loop, Stage, Store, Value
from stagekit.kernels.listing import Listing
from stagekit.kernels.scalars.spelling import TABLES, TEST, spell
from stagekit.nn import functional as F
from stagekit.plan import concrete
from stagekit.staging.concrete import ConcreteFunction
from stagekit.symbolic import Expr, evaluate
from stagekit.types import DTYPES, DType
from tests.emulator import COMPILER, Emulator
from tests.test_scalar_math import BINARY, crossed, ran, same

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]

# ----- workloads ----------------------------------------------------------------------------------


def draw(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng([*shape, 3]).normal(size=shape).astype(dtype)


def integers(low: int, high: int, *shape: int, dtype: str = "int64") -> Array:
    return np.random.default_rng([*shape, 4]).integers(low, high, shape, dtype)


def black_scholes(spot: Any, strike: Any, years: Any) -> tuple[Any, Any]:
    spread = 0.3 * sk.sqrt(years)
    d1 = (sk.log(spot / strike) + 0.065 * years) / spread
    normal = lambda d: 0.5 + 0.5 * sk.erf(d * 0.5**0.5)
    paid = strike * sk.exp(-0.02 * years)
    call = spot * normal(d1) - paid * normal(d1 - spread)
    return call, call - spot + paid


def adam(*tensors: Any) -> list[Any]:
    """Parameters, gradients, and both moments, each of two tensors."""
    out = []
    for p, g, m, v in zip(*(tensors[k : k + 2] for k in (0, 2, 4, 6)), strict=True):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        out += [p - 1e-3 * m / (sk.sqrt(v) + 1e-8), m, v]
    return out


def layer_norm_gradient(x: Any, weight: Any, bias: Any, ct: Any) -> Any:
    loss = lambda x, w, b: sk.sum(ct * F.layer_norm(x, w.shape, w, b))
    return sk.grad(loss, argnums=(0, 1, 2))(x, weight, bias)


def cross_entropy_gradient(logits: Any, labels: Any) -> Any:
    return sk.value_and_grad(lambda x: F.cross_entropy(x, labels))(logits)


def sums(x: Any) -> list[Any]:
    return [sk.sum(x, axis=a) for a in (0, 1, 2, (0, 2), (0, 1), None)]


def extremes(x: Any) -> list[Any]:
    return [sk.max(x, axis=0), sk.min(x, axis=1), sk.max(x), sk.argmax(x), sk.argmin(x, axis=0),
            sk.argmax(x, axis=1)]  # fmt: skip


def moved(x: Any) -> list[Any]:
    return [x.T, sk.flip(x, axis=1), sk.pad(x, ((1, 2), (0, 3))), sk.concat([x, x * 2], axis=1),
            sk.roll(x, 3, axis=1), x[:, ::2]]  # fmt: skip


def integer_ops(a: Any, b: Any) -> list[Any]:
    return [a // b, a % b, a * b, a << (b & 7), a >> (b & 7), a ^ b, abs(a), a ** (b & 3)]


NANS = draw(4, 300)
NANS[1, [5, 290]], NANS[2], NANS[3, 7] = np.nan, -np.inf, np.inf

CASES: dict[str, tuple[Function, list[Array]]] = {
    "softmax": (lambda x: F.softmax(x, -1), [draw(5, 100)]),
    "softmax_of_long_rows": (lambda x: F.softmax(x, -1), [draw(3, 1000)]),
    "log_softmax": (lambda x: F.log_softmax(x, 0), [draw(40, 7, dtype="float64")]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w.shape, w, b), [draw(9, 70), *draw(2, 70)]),
    "layer_norm_gradient": (
        layer_norm_gradient, [draw(70, 300), draw(300), draw(300), draw(70, 300)],
    ),
    "cross_entropy_gradient": (cross_entropy_gradient, [draw(6, 300), integers(0, 300, 6)]),
    "black_scholes": (black_scholes, [np.abs(draw(999)) + k for k in (9, 10, 0.2)]),
    "gelu": (lambda x, b: F.gelu(x + b), [draw(33, 40), draw(40)]),
    "adam": (adam, [np.abs(draw(*s)) for _ in range(4) for s in ((300, 7), (13,))]),
    "sums": (sums, [draw(7, 30, 9)]),
    "extremes": (extremes, [draw(70, 30)]),
    "extremes_of_nan": (extremes, [NANS]),
    "extremes_of_integers": (extremes, [integers(-4, 4, 20, 300, dtype="int16")]),
    "flat_folds": (lambda x: (sk.sum(x), sk.max(x * x)), [draw(40000)]),
    "long_sums": (lambda x: (sk.sum(x, axis=1), sk.sum(x)), [draw(2, 20000, dtype="float64")]),
    "tests": (
        lambda x: (sk.all(x > 0, axis=0), sk.any(x > 2), sk.prod(x, axis=1)), [draw(70, 9)],
    ),
    "moments": (lambda x: (sk.var(x, axis=1), sk.mean(x, axis=0)), [draw(80, 50)]),
    "one_fold_for_all": (lambda x, y: x + sk.sum(y), [draw(900), draw(40)]),
    "float16": (
        lambda x: (sk.sum(x, axis=1), sk.max(x, axis=0), sk.exp(x), sk.argmax(x, axis=1)),
        [draw(20, 30, dtype="float16")],
    ),
    "gather": (lambda x, i, j: (sk.take(x, i, axis=0), x[i, j]),
               [draw(20, 30), integers(-20, 20, 11), integers(0, 30, 11)]),
    "one_of_many": (lambda x, k: x[k], [draw(20, 300), np.asarray(-3)]),
    "casts": (
        lambda x: [sk.astype(x, t) for t in (sk.int8, sk.float64, sk.bool, sk.float16, sk.int64)],
        [draw(100) * 30],
    ),
    "integers_of_8_bits": (integer_ops, list(integers(-128, 128, 2, 300, dtype="int8"))),
    "integers_of_64_bits": (
        lambda a, b: (a // b, a % b, a * b + a, -a),
        [integers(-(2**62), 2**62, 300), integers(-3, 4, 300)],
    ),
    "random": (lambda: (sk.random.Generator(7).uniform(shape=(300,)),
                        sk.random.Generator(3).normal(shape=(99,))), []),
    "moved": (moved, [draw(10, 15)]),
    "pools": (lambda x: (F.max_pool2d(x, 2), F.avg_pool2d(x, 2)), [draw(2, 3, 8, 8)]),
    "one_number": (lambda x: x * 2 + 1, [draw()]),
    "no_rows": (lambda x: (sk.sum(x, axis=0), x + 1), [draw(0, 7)]),
    "empty_rows": (lambda x: (sk.sum(x, axis=1), x + 1), [draw(7, 0)]),
}  # fmt: skip

# Of symbolic sizes, which one source is right for: the names of sizes, and some of them.
SYMBOLIC: dict[str, tuple[Function, list[tuple[str, ...]], list[tuple[int, ...]]]] = {
    "softmax": (lambda x: F.softmax(x, -1), [("n", "m")], [(5, 100), (2, 1000), (1, 3), (0, 4)]),
    "layer_norm_gradient": (
        layer_norm_gradient, [("n", "m"), ("m",), ("m",), ("n", "m")], [(70, 300), (3, 2)],
    ),
    "sums": (sums, [("n", "m", "k")], [(7, 30, 9), (2, 300, 3), (3, 0, 2)]),
    "extremes": (extremes, [("n", "m")], [(70, 30), (2, 500)]),
    "flat_folds": (lambda x: (sk.sum(x), sk.max(x * x)), [("n",)], [(40000,), (3,)]),
    "moved": (moved, [("n", "m")], [(10, 15), (3, 31)]),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
    """A trace with its kernels, whose names are unlike those of other programs."""

    function: Function
    traced: ConcreteFunction
    steps: Steps
    sources: list[Source]


def program(name: str, function: Function, specs: list[sk.TensorSpec]) -> Program:
    traced = sk.function(function).trace(*specs)
    steps = Steps(settled(traced.optimized, traced.facts.known))
    sources = []
    for step in steps.steps:
        assert isinstance(step, KernelStep), f"{step.name} is no kernel"
        kernel = step.scheduled.kernel
        sources.append(kernel_source(dataclasses.replace(kernel, name=f"{name}_{kernel.name}")))
    return Program(function, traced, steps, sources)


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    found = {
        name: program(name, f, [sk.TensorSpec(a.shape, sk.asarray(a).dtype) for a in arrays])
        for name, (f, arrays) in CASES.items()
    }
    for name, (f, shapes, _) in SYMBOLIC.items():
        name = f"symbolic_{name}"
        found[name] = program(name, f, [sk.TensorSpec(shape) for shape in shapes])
    return found


def test_every_kernel_prints(programs: dict[str, Program]) -> None:
    for each in programs.values():
        assert each.sources
        for source in each.sources:
            assert f'extern "C" __global__ void __launch_bounds__({THREADS})' in source.source
            assert "atomic" not in source.source
            assert source.launch.endswith("blocks of 256 threads, or fewer")


def test_a_concrete_function_lists_them(
    programs: dict[str, Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    for name in ("softmax", "layer_norm_gradient", "symbolic_sums"):
        each = programs[name]
        listed = each.traced.kernels("cuda")
        assert [type(x) for x in listed] == [Listing] * len(each.sources)
        texts = [s.source.replace(f" {name}_kernel", " kernel") for s in each.sources]
        assert [str(x) for x in listed] == texts
        assert {x.backend for x in listed} == {"cuda"}


def test_a_source_reads_like_this(golden: Callable[[str, str], None]) -> None:
    f = sk.function(lambda x, b: x * b / sk.sum(x * b, axis=1, keepdims=True))
    short = f.trace(sk.TensorSpec((8, 100)), sk.TensorSpec((100,)))
    long = f.trace(sk.TensorSpec(("n", 1000)), sk.TensorSpec((1000,)))
    column = sk.function(lambda x: sk.sum(x, axis=0)).trace(sk.TensorSpec(("n", 512)))
    flip = sk.function(lambda x: x.T).trace(sk.TensorSpec(("n", "m")))
    listed = [x for c in (short, long, column, flip) for x in c.kernels("cuda")]
    golden("cuda_source", "\n".join(map(str, listed)))


def test_launch_shapes() -> None:
    (source,) = program("f", lambda x: x + 1, [sk.TensorSpec(("n",))]).sources
    assert [source.grid({"n": n}) for n in (0, 1, 256, 257, 1 << 40)] == [1, 1, 1, 2, 1 << 16]
    assert source.launch == "((n + 255) // 256) blocks of 256 threads, or fewer"


# ----- run on the CPU -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator(programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    if COMPILER is None:
        pytest.skip("no g++")
    sources = [s for p in programs.values() for s in p.sources]
    return Emulator([*sources, *faults(programs).values()], tmp_path_factory.mktemp("cuda"))


Run = Callable[[Source, Mapping[str, Array], Mapping[str, int]], int]


def outputs(each: Program, arrays: list[Array], run: Run) -> tuple[list[Array], int]:
    """What a program's kernels leave in memory for its outputs, and the error word."""
    steps, graph = each.steps, each.steps.graph
    env = each.traced.bind([sk.asarray(a) for a in arrays])
    memory = dict(steps.constants)
    memory |= {steps.buffers[n]: a for n, a in zip(graph.inputs, arrays, strict=True)}
    for name, type_ in steps.types.items():
        count = int(evaluate(steps.sizes[name], env))
        memory.setdefault(name, np.full(count, 77, type_.numpy))
    errors = [run(source, memory, env) for source in each.sources]
    return [
        memory[steps.buffers[n]].reshape(concrete(n.type.shape, env)) for n in graph.outputs
    ], max(errors)


def check(each: Program, arrays: list[Array], emulator: Emulator) -> None:
    """The program gives what eager gives, whatever the blocks and the order of threads."""
    few, error = outputs(each, arrays, lambda *a: emulator.run(*a, blocks=2, backwards=True))
    more, _ = outputs(each, arrays, lambda *a: emulator.run(*a, blocks=a[0].grid(a[2])))
    assert error == 0
    eager = sk.tree.leaves(each.function(*map(sk.asarray, arrays)))
    for one, two, want in zip(few, more, eager, strict=True):
        assert one.tobytes() == two.tobytes()
        np.testing.assert_allclose(one, want.numpy(), **_TOLERANCE.get(one.dtype.name, {}),
                                   equal_nan=True, strict=True)  # fmt: skip


_TOLERANCE = {
    "float16": {"rtol": 2e-3, "atol": 1e-4}, "float32": {"rtol": 2e-5, "atol": 4e-6},
    "float64": {"rtol": 1e-13, "atol": 1e-13},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_on_the_cpu_it_is_eager(
    name: str, programs: dict[str, Program], emulator: Emulator
) -> None:
    check(programs[name], CASES[name][1], emulator)


@pytest.mark.parametrize("name", SYMBOLIC)
def test_one_source_for_all_sizes(
    name: str, programs: dict[str, Program], emulator: Emulator
) -> None:
    _, shapes, all_sizes = SYMBOLIC[name]
    names = list(dict.fromkeys(n for shape in shapes for n in shape))
    for sizes in all_sizes:
        known = dict(zip(names, sizes, strict=True))
        arrays = [draw(*(known[n] for n in shape)) for shape in shapes]
        check(programs[f"symbolic_{name}"], arrays, emulator)


def test_a_sum_of_ones_is_exact(programs: dict[str, Program], emulator: Emulator) -> None:
    n = 1 << 25
    (found, _), _ = outputs(
        programs["symbolic_flat_folds"], [np.ones(n, np.float32)],
        lambda *a: emulator.run(*a, blocks=1 << 11),
    )  # fmt: skip
    assert found == n


def test_a_check_may_stand_beside_all_loops(
    programs: dict[str, Program], emulator: Emulator
) -> None:
    x, _ = CASES["one_of_many"][1]
    assert outputs(programs["one_of_many"], [x, np.asarray(20)], emulator.run)[1] > 0


def test_a_failed_check_is_noted(programs: dict[str, Program], emulator: Emulator) -> None:
    x, i, j = (a.copy() for a in CASES["gather"][1])
    for bad in (20, -21):
        i[7] = bad
        assert outputs(programs["gather"], [x, i, j], emulator.run)[1] > 0


# ----- faults that must be seen -------------------------------------------------------------------


def faults(programs: dict[str, Program]) -> dict[str, Source]:
    """The softmax of long rows with one word wrong."""
    (right,) = programs["softmax_of_long_rows"].sources
    swaps = {
        "missing_barrier": ("    __syncthreads();\n", ""),
        "short_shuffle": ("int k = 16", "int k = 8"),
        "wrong_stride": ("i2 += 256", "i2 += 255"),
        "divergent_barrier": ("    __syncthreads();\n", "    if (thread < 99) __syncthreads();\n"),
    }
    found = {}
    for name, (old, new) in swaps.items():
        assert old in right.source
        text = right.source.replace(old, new).replace(right.name, name)
        found[name] = right._replace(name=name, source=text)
    return found


@pytest.mark.parametrize("name", ["missing_barrier", "short_shuffle", "wrong_stride"])
def test_a_planted_fault_is_seen(
    name: str, programs: dict[str, Program], emulator: Emulator
) -> None:
    each = programs["softmax_of_long_rows"]
    faulty = dataclasses.replace(each, sources=[faults(programs)[name]])
    arrays = CASES["softmax_of_long_rows"][1]
    with pytest.raises(AssertionError):
        check(faulty, arrays, emulator)


def test_a_barrier_that_not_all_reach_is_an_error(emulator: Emulator) -> None:
    code = (
        "import ctypes; x = (ctypes.c_float * 3000)(); p = ctypes.c_void_p(ctypes.addressof(x));"
        "a = (ctypes.c_void_p * 2)(*[ctypes.addressof(p)] * 2);"
        f"run = ctypes.CDLL({str(emulator.path)!r}).run_divergent_barrier; run(1, 256, False, a)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "emulator: a thread waits for one that does not come" in done.stderr


# ----- scalar ops ---------------------------------------------------------------------------------

KINDS = ["bool", "int8", "uint32", "float16", "float32"]
MORE = ["uint8", "int16", "uint16", "int32", "int64", "uint64", "float64"]
I, N = Expr.named("i"), Expr.named("n")


def scalar_kernel(name: str, root: Value, operands: list[Value]) -> Kernel:
    """A loop that computes a value for all elements of its operands."""
    flat = Loop("i", N)
    buffers = [Buffer(v.attr.buffer, v.type) for v in operands]
    stage = Stage((flat,), (), (Store("out", I, root),))
    return Kernel(name, (*buffers, Buffer("out", root.type)), ("n",), (), (stage,), 1 << 14,
                  root.body, flat=flat)  # fmt: skip


def spelled(kind: DType) -> list[tuple[Source, Value, int]]:
    """Every scalar op of a type as a kernel, its value, and its number of operands."""
    found = []
    for op in sorted({*TABLES[kind.kind], *TEST[kind.kind]} - {"polygamma"}):
        count = 2 if op in BINARY | {"power", "atan2", "hypot", "logaddexp"} else 1
        body = Body()
        operands = [body.load("xy"[k], I, kind) for k in range(count)]
        root = spell(op, *operands)
        found.append((kernel_source(scalar_kernel(f"{op}_{kind}", root, operands)), root, count))
    return found


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_scalar_ops_are_their_instructions_to_the_bit(tmp_path: Path, full: bool) -> None:
    kernels = [(DTYPES[name], s) for name in KINDS + MORE * full for s in spelled(DTYPES[name])]
    emulator = Emulator([source for _, (source, _, _) in kernels], tmp_path)
    for kind, (source, root, count) in kernels:
        arrays = dict(zip("xy", crossed(*[kind] * count)))
        got = np.empty(arrays["x"].shape, root.type.numpy)
        emulator.run(source, {**arrays, "out": got}, {"n": got.size})
        right = same(got, ran(root, **arrays))
        assert right.all(), (source.name, [a[~right][:5] for a in arrays.values()], got[~right][:5])


# ----- compiled for a GPU -------------------------------------------------------------------------


class Nvrtc:
    """NVIDIA's compiler for sources in memory, from the wheel nvidia-cuda-nvrtc-cu12 or -cu13."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("nvidia")
        roots = [Path(p) for p in spec.submodule_search_locations or []] if spec else []
        libraries = [p for root in roots for p in sorted(root.glob("*/lib/libnvrtc.so.*"))]
        if not libraries:
            pytest.skip("no NVRTC")
        self.library = ctypes.CDLL(str(libraries[0]))
        self.includes = [p.parent for root in roots for p in root.glob("*/include/cuda_fp16.h")]

    def errors(self, text: str, architecture: str) -> str:
        """What the compiler says about a source; nothing where it compiles it."""
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        create = self.library.nvrtcCreateProgram
        create(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
        options = [*OPTIONS, f"--gpu-architecture={architecture}"]
        options += [f"-I{folder}" for folder in self.includes]
        words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        if not self.library.nvrtcCompileProgram(program, len(options), words):
            return ""
        self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, log)
        return log.value.decode() or "no log"


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles(
    architecture: str, programs: dict[str, Program], full: bool
) -> None:
    nvrtc = Nvrtc()
    sources = [s for p in programs.values() for s in p.sources]
    sources += [s for kind in KINDS + MORE * full for s, _, _ in spelled(DTYPES[kind])]
    sources = [s for s in sources if nvrtc.includes or "cuda_fp16.h" not in s.source]
    assert nvrtc.errors("".join(s.source for s in sources), architecture) == ""
    assert "undefined" in nvrtc.errors(sources[0].source + "int x = nowhere;", architecture)


# ----- launched -----------------------------------------------------------------------------------


def test_launch_through_cupy(
    programs: dict[str, Program], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cupy that emulates: it is asked to compile once, and for the right shape and arguments."""
    made: list[str] = []
    shapes: list[Any] = []

    class RawKernel:
        def __init__(self, source: str, name: str, options: tuple[str, ...]) -> None:
            assert options == ("--std=c++17", "--fmad=false")
            made.append(name)
            self.source = next(s for p in programs.values() for s in p.sources if s.name == name)

        def __call__(self, grid: Any, block: Any, arguments: tuple[Any, ...]) -> None:
            shapes.append((grid, block))
            kernel = self.source.kernel
            arrays = dict(zip([b.name for b in kernel.buffers], arguments))
            rest = arguments[len(arrays) :]
            sizes = dict(zip(kernel.sizes, map(int, rest)))
            assert all(type(n) is np.int64 for n in rest[: len(sizes)])
            error = emulator.run(self.source, arrays, sizes, *grid)
            if kernel.checks:
                rest[-1][0] = error

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(RawKernel=RawKernel))
    printer._loaded.cache_clear()
    word = np.zeros(1, np.int64)

    def run(source: Source, buffers: Mapping[str, Array], sizes: Mapping[str, int]) -> int:
        printer.launch(source, buffers, sizes, word)
        return int(word[0])

    each = programs["symbolic_softmax"]
    for rows in (5, 40):
        x = draw(rows, 100)
        (found,), error = outputs(each, [x], run)
        np.testing.assert_allclose(found, F.softmax(sk.asarray(x), -1).numpy(), rtol=2e-5)
        assert error == 0
    assert made == [each.sources[0].name]
    assert shapes == [((5,), (THREADS,)), ((40,), (THREADS,))]
    x, i, j = CASES["gather"][1]
    assert outputs(programs["gather"], [x, np.full_like(i, 20), j], run)[1] > 0
    printer._loaded.cache_clear()
