"""What can be seen of native code: kernels as text, plans, the files of STAGEKIT_DUMP, profiles."""

from __future__ import annotations

import json
import re
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.kernels.listing import Listing
from stagekit.kernels.machine import engine
from stagekit.plan import clock

native = pytest.mark.skipif(not engine.available(), reason="no native code without llvmlite")

F = sk.nn.functional


def traced(function: Any, *shapes: tuple[int | str, ...]) -> sk.ConcreteFunction:
    """The concrete function for float32 tensors."""
    return sk.function(function).trace(*map(sk.TensorSpec, shapes))


def update(w: Any, x: Any, y: Any) -> Any:
    """A step of a linear regression."""
    loss, slope = sk.value_and_grad(lambda w: sk.mean((x @ w - y) ** 2))(w)
    return loss, w - 0.1 * slope


# ----- kernels ------------------------------------------------------------------------------------


@native
def test_a_kernel_prints_as_its_loop_nest() -> None:
    (kernel,) = traced(lambda x, y: (x + y) * x, (50, 40), (40,)).kernels("cpu")
    assert (kernel.name, kernel.backend) == ("kernel0", "cpu")
    assert str(kernel) == kernel.loops
    assert re.match(r"kernel0\(b\d+: f32, in0: f32, in1: f32\)\n", kernel.loops)
    assert "(v0 + in1[i2]) * v0" in kernel.loops and "for i1 < 50" in kernel.loops
    assert kernel.source == kernel.llvm


@native
def test_stages_folds_and_scratch_are_told() -> None:
    (kernel,) = traced(F.softmax, (64, 1000)).kernels()
    lines = [line.strip() for line in kernel.loops.splitlines()]
    assert lines[1] == "for i1 < 64, in 4 chunks of 16:"
    assert lines.count("for i2 < 1000:") == 3
    assert "max0 = max of in0[1000*i1 + i2]" in lines
    assert "scratch0: f32[1000]" in lines
    assert any(line.startswith("scratch0[i2] = ") for line in lines)
    assert re.match(r"b\d+\[1000\*i1 \+ i2\] = scratch0\[i2\] / sum\d+$", lines[-1])


@native
def test_columns_gathers_and_checks_are_told() -> None:
    first, second = traced(lambda x: sk.sum(x, axis=0), ("n", 100)).kernels()
    assert "kernel0_partial0[chunk][i2] += in0[100*i1 + i2]" in first.loops
    assert "for i1 < n, in ((n + 63) // 64) chunks of 64:" in first.loops
    assert "sum of kernel0_partial0[" in second.loops
    specs = sk.TensorSpec((1000, 16)), sk.TensorSpec((8,), sk.int64)
    (gather,) = sk.function(lambda x, i: x[i]).trace(*specs).kernels()
    assert "in1[" in gather.loops and "check 1 fails where" in gather.loops


@native
def test_llvm_compiles_to_the_assembly() -> None:
    (kernel,) = traced(lambda x: sk.exp(x) + 1.0, (1000,)).kernels()
    assert "define void @kernel0(" in kernel.llvm
    assert engine.compile_ir(kernel.llvm)
    assert "kernel0" in kernel.assembly and "define void" not in kernel.assembly


@native
def test_convolutions_are_kernels_and_products_are_not() -> None:
    (kernel,) = traced(F.conv2d, (8, 3, 9, 9), (4, 3, 3, 3)).kernels()
    assert kernel.name == "convolution0" and "(in0, in1)" in kernel.loops
    assert engine.compile_ir(kernel.llvm)
    assert traced(lambda x, y: x @ y, (8, 3), (3, 4)).kernels() == []


def test_a_plan_on_numpy_has_no_kernels(on_numpy: None) -> None:
    concrete = traced(lambda x: x + 1.0, (3,))
    assert concrete.kernels("cpu") == []
    assert "NumPy" in str(concrete.plan) and "NumPy" in str(concrete.plan.decisions)


def test_a_listing_for_another_backend_is_its_source() -> None:
    listing = Listing("kernel0", "cuda", "// text")
    assert str(listing) == listing.source
    with pytest.raises(AttributeError, match="cuda"):
        listing.llvm


# ----- plans --------------------------------------------------------------------------------------


@native
def test_a_plan_tells_its_buffers_and_its_steps() -> None:
    text = str(traced(update, (40, 1), (32, 40), (32, 1)).plan)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "plan update: 5 steps, native"
    assert "in1: f32[32,40], 5120 bytes, input 1" in lines
    assert any(re.match(r"b\d+: f32\[40,1\], 160 bytes, output ", line) for line in lines)
    assert any("arena at 0" in line for line in lines)
    assert any("= matmul0(in1, in0): [32,40] @ [40,1], one chunk" in line for line in lines)
    assert any("matmul3" in line and "[40,32] with strides [1,40]" in line for line in lines)
    assert re.search(r"in place: b\d+ over in0, if nothing else holds that", text)
    assert re.match(r"arena: \d+ bytes", lines[-1])


@native
def test_a_plan_tells_chunks_and_library_calls() -> None:
    text = str(traced(lambda x: sk.sort(sk.exp(x)), (512, 512)).plan)
    assert "chunks of 16384, in parallel" in text
    assert ": sort by NumPy" in text and "library result 0" in text


@native
def test_a_plan_tells_what_runs_side_by_side() -> None:
    text = str(traced(lambda x, y: (x @ x, sk.sum(y)), (512, 512), (20000,)).plan)
    (block,) = re.findall(r"  side by side, in parallel:\n    (.*)\n    (.*)\n", text)
    assert sorted(re.findall(r" = (\w+)\(", " ".join(block))) == ["kernel1", "matmul0"]


@native
def test_sizes_of_a_plan_may_be_symbolic() -> None:
    text = str(traced(lambda x: sk.sum(x, axis=0), ("n", 100)).plan)
    assert "in0: f32[n,100], 400*n bytes, input 0" in text
    assert "n rows, ((n + 63) // 64) chunks of 64" in text


@native
def test_decisions_give_reasons() -> None:
    text = str(traced(lambda x: sk.sort(x) + 1.0, (9,)).plan.decisions)
    assert "step 0 (library" in text
    assert "add f32[9] in step 1: an operand comes from library" in text


@native
def test_a_plan_from_disk_prints_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sk.config, "cache_dir", str(tmp_path))
    first, second = (traced(update, (40, 1), (32, 40), (32, 1)) for _ in range(2))
    assert str(first.plan) == str(second.plan)
    assert [k.llvm for k in first.kernels()] == [k.llvm for k in second.kernels()]


# ----- files --------------------------------------------------------------------------------------


@native
def test_a_dump_holds_graphs_plan_decisions_and_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sk.config, "dump", str(tmp_path))
    sk.function(lambda x: sk.exp(x) * 2.0, name="twice")(sk.ones(64))
    text = (tmp_path / "twice-1.txt").read_text()
    for part in ("graph twice(", "plan twice: 1 steps", "partition of twice"):
        assert part in text
    stem = tmp_path / "twice-1-kernel0"
    assert "for i1 < 64:" in stem.with_suffix(".txt").read_text()
    assert "define void @kernel0" in stem.with_suffix(".ll").read_text()
    assert "kernel0" in stem.with_suffix(".s").read_text()


# ----- profiles -----------------------------------------------------------------------------------


def line_of(function: Any, offset: int) -> str:
    """A line of a function's body as rows name it."""
    code = function.__code__
    return f"{Path(code.co_filename).name}:{code.co_firstlineno + offset} in {code.co_name}"


def mixed(x: Any) -> Any:
    """Two kernels with a library call between them."""
    y = sk.exp(x)
    z = sk.sort(y)
    return z * 2.0


def warm(function: Any, *args: Any) -> Any:
    """The staged function, with its trace and its direct way made."""
    staged = sk.function(function)
    for _ in range(4):
        staged(*args)
    return staged


@pytest.fixture(params=["native", "numpy"])
def backends(request: pytest.FixtureRequest) -> str:
    """Each way to run a plan."""
    if request.param == "numpy":
        request.getfixturevalue("on_numpy")
    elif not engine.available():
        pytest.skip("no native code without llvmlite")
    return str(request.param)


def test_a_profile_counts_calls_and_tells_lines(backends: str) -> None:
    x = sk.ones((40, 60))
    f = warm(mixed, x)
    with sk.profile() as p:
        for _ in range(5):
            assert float(f(x)[0, 0]) == pytest.approx(2 * np.e)
    assert len(p.rows) == 3 and {row.calls for row in p.rows} == {5}
    assert {row.function for row in p.rows} == {"mixed"}
    found = {row.ops: [str(line) for line in row.lines] for row in p.rows}
    assert found[("exp",)] == [line_of(mixed, 2)]
    assert found[("sort",)] == [line_of(mixed, 3)]
    assert found[("multiply",)] == [line_of(mixed, 4)]
    assert all(0 < row.median <= row.total for row in p.rows)


def test_rows_have_the_names_that_the_plan_prints(backends: str) -> None:
    x = sk.ones((40, 60))
    f = warm(mixed, x)
    with sk.profile() as p:
        f(x)
    text = str(p._calls[0].plan)
    assert all(re.search(rf"\b{row.step}\b", text) for row in p.rows)


def test_bytes_and_operations_are_those_of_all_runs(backends: str) -> None:
    x = sk.ones((40, 60))
    f = warm(lambda x, y: sk.exp(x @ y), x, x.T)
    with sk.profile() as p:
        f(x, x.T)
        f(x, x.T)
    rows = {row.ops: row for row in p.rows}
    product, exponential = rows[("matmul",)], rows[("exp",)]
    assert product.flops == 2 * 2 * 40 * 40 * 60
    assert product.bytes == 2 * 4 * (2 * 40 * 60 + 40 * 40)
    assert (exponential.flops, exponential.bytes) == (2 * 1600, 2 * 2 * 4 * 1600)
    assert product.gf_per_s == pytest.approx(product.flops / product.total / 1e9)
    assert product.gb_per_s == pytest.approx(product.bytes / product.total / 1e9)


@native
def test_a_gather_counts_what_it_reads() -> None:
    table, index = sk.ones((10000, 8)), sk.asarray([3, 1, 2])
    f = warm(lambda table, index: table[index], table, index)
    with sk.profile() as p:
        f(table, index)
    (row,) = p.rows
    assert row.bytes == 4 * 24 + 8 * 3 + 4 * 24


@native
def test_a_convolution_and_its_derivatives_count_alike() -> None:
    x, w = sk.ones((4, 8, 10, 10)), sk.ones((6, 8, 3, 3))
    slope = sk.grad(lambda x, w: sk.sum(sk.sin(F.conv2d(x, w))), argnums=(0, 1))
    f = warm(slope, x, w)
    with sk.profile() as p:
        f(x, w)
    rows = [row for row in p.rows if row.ops == ("convolution",)]
    terms = 2 * 4 * 6 * 8 * 9
    assert sorted(row.flops for row in rows) == [terms * 64, terms * 64, terms * 100]


def test_times_add_up(backends: str) -> None:
    x = sk.ones((400, 400))
    f = warm(lambda x: sk.sort(sk.exp(x), axis=0) @ x, x)
    with sk.profile():
        f(x)  # compiles what is timed
    with sk.profile() as p:
        for _ in range(5):
            f(x)
    assert 0.1 * p.wall < p.total <= p.wall
    assert p.total == pytest.approx(sum(row.total for row in p.rows))
    assert [row.total for row in p.rows] == sorted((r.total for r in p.rows), reverse=True)


def test_results_and_writes_are_as_without(backends: str) -> None:
    w, x = sk.Variable(sk.ones((6, 1))), sk.asarray(np.arange(24, dtype=np.float32).reshape(4, 6))

    @sk.function
    def step(x: Any) -> Any:
        with sk.GradientTape() as tape:
            loss = sk.mean((x @ w - 1.0) ** 2)
        w.assign_sub(1e-3 * tape.gradient(loss, w))
        return loss

    plain = [float(step(x)) for _ in range(8)]
    w.assign(sk.ones((6, 1)))
    with sk.profile() as p:
        assert [float(step(x)) for _ in range(8)] == plain
    assert {row.calls for row in p.rows} == {8}


@native
def test_steps_side_by_side_are_timed_one_by_one() -> None:
    x, y = sk.ones((256, 256)), sk.ones(20000)
    f = warm(lambda x, y: (x @ x, sk.sum(y)), x, y)
    with sk.profile() as p:
        f(x, y)
    (call,) = p._calls
    spans = sorted(call.times.tolist())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert {"matmul0", "kernel1"} < {row.step for row in p.rows}


@native
def test_nothing_is_slow_after_a_profile() -> None:
    x = sk.ones(8)
    f = warm(lambda x: x * 2.0, x)
    (way,) = f._cache.direct
    with sk.profile() as p:
        assert way(x) is NotImplemented
        f(x)
    assert way(x) is not NotImplemented
    f(x)
    assert [row.calls for row in p.rows] == [1]


@native
def test_a_failing_check_raises_and_is_not_counted() -> None:
    x = sk.ones(5)
    f = warm(lambda x, i: x[i] + 1.0, x, sk.asarray([1, 2]))
    with sk.profile() as p:
        f(x, sk.asarray([0, 1]))
        with pytest.raises(sk.BoundsError):
            f(x, sk.asarray([0, 7]))
        f(x, sk.asarray([3, 4]))
    assert {row.calls for row in p.rows} == {2}


def test_profiles_nest_and_add_up(backends: str) -> None:
    x = sk.ones(8)
    f = warm(lambda x: x * 2.0, x)
    with sk.profile() as outer:
        f(x)
        with sk.profile() as inner:
            f(x)
        f(x)
    f(x)
    assert [row.calls for row in outer.rows] == [3]
    assert [row.calls for row in inner.rows] == [1]
    with outer:
        f(x)
    assert [row.calls for row in outer.rows] == [4]


def test_a_profile_is_of_its_thread(backends: str) -> None:
    x = sk.ones(8)
    f = warm(lambda x: x * 2.0, x)
    found: dict[str, list[int]] = {}
    barrier = threading.Barrier(2)

    def work(name: str, times: int) -> None:
        with sk.profile() as p:
            barrier.wait()
            for _ in range(times):
                f(x)
            barrier.wait()
        found[name] = [row.calls for row in p.rows]

    threads = [threading.Thread(target=work, args=(f"{n}", n)) for n in (3, 70)]
    with sk.profile() as mine:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {"3": [3], "70": [70]} and mine.rows == []


def test_symbolic_sizes_count_by_call(backends: str) -> None:
    f = sk.function(lambda x: x * 2.0)
    for n in (3, 4, 5):
        f(sk.ones(n))
    with sk.profile() as p:
        f(sk.ones(6))
        f(sk.ones(10))
    (row,) = p.rows
    assert (row.calls, row.flops) == (2, 16)
    assert row.bytes - 8 * 16 in (0, 2 * 4)  # NumPy reads the constant too


def test_derivatives_are_rows_too(backends: str) -> None:
    x = sk.ones((30, 30))
    f = sk.function(lambda x: sk.sum(sk.exp(x) * x), name="f")

    def slope() -> Any:
        with sk.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    for _ in range(2):
        slope()
    with sk.profile() as p:
        slope()
    assert {row.function for row in p.rows} == {"f_forward", "f_backward"}


def test_the_table_names_what_took_longest_first(backends: str) -> None:
    x = sk.ones((300, 300))
    f = warm(mixed, x)
    with sk.profile() as p:
        f(x)
    head, first, *_, last = str(p).splitlines()
    assert head.split()[:4] == ["function", "step", "calls", "total"]
    assert p.rows[0].step in first and str(p.rows[0].lines[0]) in first
    assert "1 calls of plans" in last and str(p) == repr(p)
    assert p._repr_html_().startswith("<pre>function")


def test_an_empty_profile_says_why() -> None:
    with sk.profile() as p:
        sk.ones(3) + 1.0
    assert p.rows == [] and p.total == 0 and "eagerly" in str(p)


def test_a_trace_of_chrome_has_each_step(backends: str, tmp_path: Path) -> None:
    x = sk.ones((40, 60))
    f = warm(mixed, x)
    with sk.profile() as p:
        f(x)
        f(x)
    p.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    calls = [e for e in events if e["cat"] == "call"]
    steps = [e for e in events if e["cat"] == "step"]
    assert [e["name"] for e in calls] == ["mixed", "mixed"] and len(steps) == 6
    assert calls[0]["ts"] == 0 and all(e["ph"] == "X" and e["dur"] > 0 for e in events)
    for step in steps[:3]:
        inside = step["ts"] >= calls[0]["ts"]
        assert inside and step["ts"] + step["dur"] <= calls[0]["ts"] + calls[0]["dur"]
    assert steps[0]["args"]["lines"][0].endswith(f":{mixed.__code__.co_firstlineno + 2}")


@native
def test_native_code_reads_the_clock_of_python() -> None:
    x = sk.ones(8)
    f = warm(lambda x: x * 2.0, x)
    begin = clock()
    with sk.profile() as p:
        f(x)
    (call,) = p._calls
    (step,) = call.times.tolist()
    assert begin <= call.begin <= step[0] < step[1] <= call.end <= clock()
