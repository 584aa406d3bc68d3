"""Machine code in this process: compiling and loading it, the worker pool, the BLAS it calls.

What the pool promises is tested by tasks that cannot pass otherwise: chunks that count how often
each ran, and chunks that wait for each other, which only two threads at once can do.
"""

from __future__ import annotations

import ctypes
import doctest
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import stagekit as sk
from stagekit.kernels.machine import blas, engine, threads

pytest.importorskip("llvmlite")

ROOT = Path(__file__).parents[1]
LINUX = sys.platform == "linux"


def function(
    library: engine.Library, name: str, *types: type, result: type | None = None
) -> Callable:
    """A function of a library, which keeps the library."""
    found = ctypes.CFUNCTYPE(result, *types)(library.address(name))
    found.library = library
    return found


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The engine

ADD = "define i64 @add(i64 %x) { %y = add i64 %x, NUMBER ret i64 %y }"
FILL = """
define void @fill(ptr %p, i64 %n) {
  call void @llvm.memset.p0.i64(ptr %p, i8 7, i64 %n, i1 false)
  ret void
}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""


@pytest.mark.parametrize("level", [None, 0, 1, 2])
def test_compile_load_call(level: int | None) -> None:
    code = engine.compile_ir(ADD.replace("NUMBER", "5"), level)
    library = engine.load(code)
    assert function(library, "add", ctypes.c_int64, result=ctypes.c_int64)(37) == 42
    with pytest.raises(LookupError, match="defines no 'subtract'"):
        library.address("subtract")


def test_the_example_runs() -> None:
    assert doctest.testmod(engine) == (0, 2)


def test_equal_texts_give_equal_code() -> None:
    text = ADD.replace("NUMBER", "5")
    assert engine.compile_ir(text) == engine.compile_ir(text)
    assert "LLVM" in engine.target()
    assert engine.vector_bytes() in (16, 32, 64)


def test_assembly_is_of_the_same_code() -> None:
    text = "define i64 @f(i64 %x) { %y = sub i64 %x, %x %z = add i64 %y, 77 ret i64 %z }"
    assert "77" in engine.assembly(text)
    assert "add" not in engine.assembly(text, speed_level=1)


@pytest.mark.parametrize(
    "text",
    [
        "define void @f( { ret void }",
        "define void @f() { %x = add i32 %y, 1 %y = add i32 %x, 1 ret void }",
    ],
    ids=["does not parse", "does not verify"],
)
def test_wrong_text_is_an_error(text: str) -> None:
    with pytest.raises(RuntimeError):
        engine.compile_ir(text)


def test_what_llvm_calls_by_itself_is_found() -> None:
    code = engine.compile_ir(FILL)
    assert engine.undefined(code) == ["memset"]
    array = np.zeros(100, "u1")
    function(engine.load(code), "fill", ctypes.c_void_p, ctypes.c_int64)(array.ctypes.data, 99)
    assert (array[:99] == 7).all() and array[99] == 0


def test_symbols() -> None:
    code = engine.compile_ir(
        "declare i64 @sk_test_outside(i64)\n"
        "define i64 @f(i64 %x) { %y = call i64 @sk_test_outside(i64 %x) ret i64 %y }"
    )
    with pytest.raises(LookupError, match="sk_test_outside"):
        engine.load(code)
    outside = engine.load(engine.compile_ir(ADD.replace("NUMBER", "1")))
    engine.symbol("sk_test_outside", outside.address("add"))
    found = function(engine.load(code), "f", ctypes.c_int64, result=ctypes.c_int64)
    assert found(1) == 2


def test_libraries_are_freed() -> None:
    filler = "\n".join(f"%v{i} = mul i64 %v{i - 1}, {2 * i + 1}" for i in range(1, 1000))
    code = engine.compile_ir(f"define i64 @f(i64 %v0) {{ {filler} ret i64 %v999 }}")
    sizes = []
    for i in range(1000):
        engine.load(code).address("f")
        if i in (199, 999):
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 1 << 20, sizes


def test_texts_are_forgotten() -> None:
    sizes = []
    for i in range(300):
        engine.compile_ir(ADD.replace("NUMBER", str(i)).replace("add(", f"a_rather_long_name_{i}("))
        if i in (99, 299):
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 1 << 20, sizes


def test_compiling_in_several_threads() -> None:
    found: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            library = engine.load(engine.compile_ir(ADD.replace("NUMBER", str(number))))
            found.append(function(library, "add", ctypes.c_int64, result=ctypes.c_int64)(-number))

    at_once([lambda k=k: work(k) for k in range(4)])
    assert found == [0] * 40


def at_once(works: list[Callable[[], None]]) -> None:
    started = [threading.Thread(target=work) for work in works]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


# The pool. The frame of these tasks is { ptr counts, ptr identities, i64 patience, i64 late }.

TASKS = """
declare void @sk_parallel(ptr, ptr, i64)
declare i64 @pthread_self()

; Counts that chunk k ran.
define void @count(ptr %frame, i64 %k) {
  %counts = load ptr, ptr %frame
  %slot = getelementptr i64, ptr %counts, i64 %k
  %old = atomicrmw add ptr %slot, i64 1 monotonic
  ret void
}

; Counts, and says on which thread.
define void @who(ptr %frame, i64 %k) {
  call void @count(ptr %frame, i64 %k)
  %at = getelementptr ptr, ptr %frame, i64 1
  %identities = load ptr, ptr %at
  %slot = getelementptr i64, ptr %identities, i64 %k
  %self = call i64 @pthread_self()
  store i64 %self, ptr %slot
  ret void
}

; Waits until two chunks have come here, or for as long as its patience lasts. Then one of them is
; late, and both say whether they met.
define void @meet(ptr %frame, i64 %k) {
entry:
  call void @who(ptr %frame, i64 %k)
  %counts = load ptr, ptr %frame
  %at = getelementptr ptr, ptr %frame, i64 2
  %patience = load i64, ptr %at
  %other = sub i64 1, %k
  %slot = getelementptr i64, ptr %counts, i64 %other
  br label %wait
wait:
  %i = phi i64 [ 0, %entry ], [ %next, %wait ]
  %next = add i64 %i, 1
  %seen = load atomic i64, ptr %slot monotonic, align 8
  %alone = icmp eq i64 %seen, 0
  %patient = icmp ult i64 %next, %patience
  %again = and i1 %alone, %patient
  br i1 %again, label %wait, label %end
end:
  %which = getelementptr i64, ptr %frame, i64 3
  %late = load i64, ptr %which
  %slow = icmp eq i64 %k, %late
  br i1 %slow, label %dawdle, label %say
dawdle:
  %j = phi i64 [ 0, %end ], [ %later, %dawdle ]
  %later = add i64 %j, 1
  store volatile i64 %later, ptr %at
  %more = icmp ult i64 %later, 20000000
  br i1 %more, label %dawdle, label %say
say:
  %mine = getelementptr i64, ptr %counts, i64 %k
  %after = getelementptr i64, ptr %mine, i64 2
  store i64 %seen, ptr %after
  ret void
}

; A loop of 10 chunks in each chunk.
define void @nest(ptr %frame, i64 %k) {
  call void @sk_parallel(ptr @count, ptr %frame, i64 10)
  ret void
}

define void @run(ptr %task, ptr %frame, i64 %n) {
  call void @sk_parallel(ptr %task, ptr %frame, i64 %n)
  ret void
}

; Loops of 1 to 16 chunks, of sizes that look random.
define void @stress(ptr %frame, i64 %times) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %mixed = mul i64 %i, -7046029254386353131
  %high = lshr i64 %mixed, 60
  %n = add i64 %high, 1
  call void @sk_parallel(ptr @count, ptr %frame, i64 %n)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %times
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""
PATIENCE = 1 << 33  # some seconds


class Frame:
    """Counts of chunks, the threads they ran on, and the words through which tasks know them."""

    def __init__(self, chunks: int, patience: int = 0, late: int = -1) -> None:
        self.counts, self.identities = np.zeros(chunks, "i8"), np.zeros(chunks, "i8")
        places = self.counts.ctypes.data, self.identities.ctypes.data
        self.words = np.array([*places, patience, late], "i8")
        self.address = self.words.ctypes.data


class Tasks:
    """The compiled tasks; `run(name, frame, n)` is a parallel loop over one of them."""

    def __init__(self) -> None:
        threads.start()
        self.library = engine.load(engine.compile_ir(TASKS))
        self.native = function(
            self.library, "run", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
        )

    def run(self, name: str, frame: Frame, n: int) -> None:
        self.native(self.library.address(name), frame.address, n)

    def stress(self, frame: Frame, times: int) -> None:
        loop = function(self.library, "stress", ctypes.c_void_p, ctypes.c_int64)
        loop(frame.address, times)


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = sk.config.num_threads
    sk.config.num_threads = 2
    yield
    sk.config.num_threads = before


@pytest.mark.parametrize("number", [-1, 1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_every_chunk_runs_once(tasks: Tasks, n: int, number: int) -> None:
    sk.config.num_threads = number
    frame = Frame(n + 1)
    tasks.run("count", frame, n)
    assert frame.counts.tolist() == [1] * n + [0]


def stressed(times: int) -> list[int]:
    """How often chunk k of 16 runs in `stress`."""
    mixed = np.arange(times, dtype="u8") * np.uint64(-7046029254386353131 % 2**64)
    sizes = (mixed >> np.uint64(60)).astype(int) + 1
    return [int((sizes > k).sum()) for k in range(16)]


def test_200_000_loops(tasks: Tasks) -> None:
    frame = Frame(16)
    tasks.stress(frame, 200_000)
    assert frame.counts.tolist() == stressed(200_000)


def test_four_python_threads_at_once(tasks: Tasks) -> None:
    frames = [Frame(16) for _ in range(4)]
    at_once([lambda frame=frame: tasks.stress(frame, 10_000) for frame in frames])
    assert [frame.counts.tolist() for frame in frames] == [stressed(10_000)] * 4


def test_nested_loops(tasks: Tasks) -> None:
    frame = Frame(10)
    tasks.run("nest", frame, 50)
    assert frame.counts.tolist() == [50] * 10


def met(frame: Frame) -> bool:
    return bool(frame.counts[2:4].all())


@pytest.mark.skipif(not LINUX, reason="serial")
def test_workers_need_no_python(tasks: Tasks) -> None:
    """Two chunks meet while this thread holds Python's lock."""
    holding = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    frame = Frame(4, PATIENCE)
    holding(tasks.library.address("run"))(tasks.library.address("meet"), frame.address, 2)
    assert met(frame)
    assert len(set(frame.identities[:2].tolist())) == 2


@pytest.mark.skipif(not LINUX, reason="serial")
@pytest.mark.parametrize("late", [0, 1])
def test_the_loop_ends_when_all_chunks_have(tasks: Tasks, late: int) -> None:
    """Whichever of two chunks is on the worker, it is waited for."""
    for _ in range(2):
        frame = Frame(4, PATIENCE, late)
        tasks.run("meet", frame, 2)
        assert met(frame)


@pytest.mark.skipif(not LINUX, reason="serial")
def test_a_sleeping_worker_is_woken(tasks: Tasks) -> None:
    for _ in range(3):
        tasks.run("count", Frame(8), 8)
        time.sleep(0.03)
        frame = Frame(4, PATIENCE)
        tasks.run("meet", frame, 2)
        assert met(frame)


@pytest.mark.skipif(not LINUX, reason="serial")
def test_the_number_of_threads_may_change_between_loops(tasks: Tasks) -> None:
    for number in (1, 2, 1, 3):
        sk.config.num_threads = number
        frame = Frame(4, PATIENCE if number > 1 else 1000)
        tasks.run("meet", frame, 2)
        assert frame.counts[:2].tolist() == [1, 1]
        assert len(set(frame.identities[:2].tolist())) == min(number, 2)
        if number == 1:
            assert frame.counts[2] == 0  # the first chunk was alone


@pytest.mark.skipif(not LINUX, reason="serial")
def test_workers_leave_and_take_no_signals(tasks: Tasks) -> None:
    """Fewer threads wanted: the others end. Those that stay block every signal they can."""

    def workers() -> list[str]:
        texts = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
        masks = [text.split("SigBlk:")[1].split()[0] for text in texts]
        return [mask for mask in masks if int(mask, 16).bit_count() > 32]

    for number in (5, 2):
        sk.config.num_threads = number
        deadline = time.monotonic() + 10
        while len(workers()) != number - 1 and time.monotonic() < deadline:
            tasks.run("count", Frame(8), 8)
            time.sleep(0.001)
        assert len(workers()) == number - 1
    tasks.run("count", Frame(8), 8)


def test_where_there_is_no_pool_loops_are_serial() -> None:
    library = engine.load(engine.compile_ir(threads.source(None)))
    tasks = engine.load(engine.compile_ir(TASKS))
    parallel = function(library, "sk_parallel", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    for n in (0, 1, 9):
        frame = Frame(n + 1)
        parallel(tasks.address("count"), frame.address, n)
        assert frame.counts.tolist() == [1] * n + [0]


def test_the_pool_of_every_machine_verifies() -> None:
    import llvmlite.binding as llvm

    for machine in ("x86_64", "aarch64"):
        llvm.parse_assembly(threads.source(machine)).verify()


FORK = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import stagekit as sk
from test_engine import PATIENCE, Frame, Tasks, met
sk.config.num_threads = 2
tasks = Tasks()

def together():
    frame = Frame(4, PATIENCE)
    tasks.run("meet", frame, 2)
    frame16 = Frame(16)
    tasks.stress(frame16, 1000)
    return met(frame) and frame16.counts[0] == 1000

assert together()
for _ in range(3):
    child = os.fork()
    if not child:
        os._exit(0 if together() else 3)  # on workers of its own
    assert together()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not LINUX, reason="no fork")
def test_forked_children_have_workers_and_exit_is_clean() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    command += [str(ROOT), str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_number_of_threads_by_default_and_by_variable() -> None:
    code = "import stagekit; print(stagekit.config.num_threads)"
    given = {**os.environ, "STAGEKIT_NUM_THREADS": "7", "PYTHONPATH": str(ROOT)}
    for number, environment in ((7, given), (None, {**given, "STAGEKIT_NUM_THREADS": ""})):
        done = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        cores = len(os.sched_getaffinity(0)) if LINUX else os.cpu_count()
        assert int(done) == (number or cores)


# BLAS

PRODUCT = """
declare void @sk_Xgemm(i32, i32, i32, i64, i64, i64, REAL, ptr, i64, ptr, i64, REAL, ptr, i64)
define void @product(ptr %a, ptr %b, ptr %c, i64 %m, i64 %n, i64 %k, i32 %ta, i64 %lda) {
  call void @sk_Xgemm(i32 101, i32 %ta, i32 111, i64 %m, i64 %n, i64 %k, REAL 2.0, ptr %a,
    i64 %lda, ptr %b, i64 %n, REAL 1.0, ptr %c, i64 %n)
  ret void
}
"""
PRODUCT_TYPES = (*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3, ctypes.c_int32, ctypes.c_int64)


def product(x: str) -> Callable:
    text = PRODUCT.replace("X", x).replace("REAL", {"s": "float", "d": "double"}[x])
    return function(engine.load(engine.compile_ir(text)), "product", *PRODUCT_TYPES)


@pytest.mark.parametrize("x", ["s", "d"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (3, 5, 7), (130, 70, 90), (0, 3, 3)])
def test_products(x: str, m: int, n: int, k: int, transposed: bool) -> None:
    assert blas.start()
    native = product(x)
    make = np.random.default_rng([m, n, k]).normal
    dtype = {"s": "f4", "d": "f8"}[x]
    a, b, c = (make(size=s).astype(dtype) for s in ((m, k), (k, n), (m, n)))
    expected = c + 2 * (a @ b)
    stored = np.ascontiguousarray(a.T if transposed else a)
    places = [array.ctypes.data for array in (stored, b, c)]
    native(*places, m, n, k, 112 if transposed else 111, max(stored.shape[1], 1))
    np.testing.assert_allclose(c, expected, rtol=1e-4 if x == "s" else 1e-12, atol=1e-5)


FAKE = """
@threads = global i32 8
@seen = global i32 0
@sizes = global [6 x i64] zeroinitializer
define i32 @get() { %t = load i32, ptr @threads ret i32 %t }
define void @set(i32 %t) { store i32 %t, ptr @threads ret void }
define void @gemm(i32 %o, i32 %ta, i32 %tb, INT %m, INT %n, INT %k, float %x, ptr %a, INT %lda,
    ptr %b, INT %ldb, float %y, ptr %c, INT %ldc) {
  %t = load i32, ptr @threads
  store i32 %t, ptr @seen
STORES
  ret void
}
"""


def fake(bits: int) -> engine.Library:
    """A library that notes with which sizes, and on how many threads, it was called."""
    stores = []
    for i, name in enumerate(("m", "n", "k", "lda", "ldb", "ldc")):
        value = f"%{name}" if bits == 64 else f"%{name}64"
        if bits == 32:
            stores.append(f"  {value} = sext i32 %{name} to i64")
        stores.append(f"  %p{i} = getelementptr i64, ptr @sizes, i64 {i}")
        stores.append(f"  store i64 {value}, ptr %p{i}")
    text = FAKE.replace("INT", f"i{bits}").replace("STORES", "\n".join(stores))
    return engine.load(engine.compile_ir(text))


@pytest.mark.parametrize("bits", [32, 64])
def test_sizes_of_32_bits_and_one_thread(bits: int) -> None:
    """Large products run on one thread, the number is restored; small ones touch nothing."""
    below = fake(bits)
    places = [below.address(name) for name in ("gemm", "gemm", "get", "set")]
    text = blas.source(blas.Blas("fake", bits, *places))
    for name, place in zip(("sgemm", "dgemm"), places):
        text = text.replace(f"sk_cblas_{name}", f"sk_fake_{name}")
        engine.symbol(f"sk_fake_{name}", place)
    for name, place in zip(("get", "set"), places[2:]):
        text = text.replace(f"sk_{name}_blas_threads", f"sk_fake_{name}")
        engine.symbol(f"sk_fake_{name}", place)
    above = engine.load(engine.compile_ir(text))
    types = [ctypes.c_int32] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_float]
    types += [ctypes.c_void_p, ctypes.c_int64] * 2 + [ctypes.c_float, ctypes.c_void_p]
    gemm = function(above, "sk_sgemm", *types, ctypes.c_int64)
    number, seen = (ctypes.c_int32.from_address(below.address(n)) for n in ("threads", "seen"))
    for size, expected in ((10, 8), (1000, 1)):
        gemm(101, 111, 111, size, 200, 30, 1.0, 0, 4, 0, 5, 0.0, 0, 6)
        sizes = (ctypes.c_int64 * 6).from_address(below.address("sizes"))
        assert list(sizes) == [size, 200, 30, 4, 5, 6]
        assert (seen.value, number.value) == (expected, 8)


def test_numpy_keeps_its_threads() -> None:
    """Products in four threads at once leave the number of BLAS's threads as it was."""
    found = blas.find()
    assert found is not None and blas.start()
    if not found.get_threads:
        return
    native = product("s")
    get = ctypes.CFUNCTYPE(ctypes.c_int)(found.get_threads)
    before = get()
    a, outs = np.ones((96, 96), "f4"), [np.zeros((96, 96), "f4") for _ in range(4)]

    def work(out: np.ndarray) -> None:
        for _ in range(50):
            native(a.ctypes.data, a.ctypes.data, out.ctypes.data, 96, 96, 96, 111, 96)

    at_once([lambda out=out: work(out) for out in outs])
    assert get() == before
    assert all((out == 50 * 2 * 96).all() for out in outs)
