"""What can be seen of native code: kernels as text, plans, the files of STAGEKIT_DUMP, profiles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import stagekit as sk
from stagekit.kernels import backend, engine
from stagekit.kernels.listing import Listing

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


def test_a_plan_on_numpy_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "available", lambda: False)
    monkeypatch.setattr(backend, "_say_once", lambda: None)
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
def test_sizes_of_a_plan_may_be_symbolic() -> None:
    text = str(traced(lambda x: sk.sum(x, axis=0), ("n", 100)).plan)
    assert "in0: f32[n,100], 400*n bytes, input 0" in text
    assert "n rows, ((n + 63) // 64) chunks of 64" in text


@native
def test_decisions_give_reasons() -> None:
    text = str(traced(lambda x: sk.sort(x) + 1.0, (9,)).plan.decisions)
    assert "step 0 (library" in text and "add f32[9] in step 1: an operand comes from library" in text


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
