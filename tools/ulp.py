"""Measures the functions of stagekit/kernels/scalar_math.py in units in the last place.

    python tools/ulp.py [--quick] [NAME ...]    # all arguments of float32; 10^7 of float64

Each function is compiled to a loop over vectors. float32 is compared with float64 functions of NumPy
and SciPy at all 2^32 arguments (of two operands: at 10^8 pairs), float64 with extended precision
where NumPy has it and otherwise with mpmath. `--quick` takes a sample. A run of everything writes
docs/scalar_math.md.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import mpmath as mp
import numpy as np
import scipy.special

from stagekit.kernels.ir import Body, Value, bits, convert, equal, operands, select, unary, unequal
from stagekit.kernels.spelling import spell
from stagekit.symbolic import Expr
from stagekit.types import DType, bool_, float32, float64, int64

Array = np.ndarray[Any, Any]
PAGE = Path(__file__).parents[1] / "docs" / "scalar_math.md"
BLOCK = 1 << 16

# ----- values as LLVM's vectors -------------------------------------------------------------------

LANES = 16
BINARY = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor",
          "shift_left": "shl", "div": "fdiv"}  # fmt: skip
CALLS = {"abs": "fabs", "sqrt": "sqrt", "fma": "fma", "floor": "floor", "ceil": "ceil",
         "trunc": "trunc", "rint": "rint", "copysign": "copysign"}  # fmt: skip
ORDERED = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def element(kind: DType) -> str:
    if kind.kind == "float":
        return {2: "half", 4: "float", 8: "double"}[kind.itemsize]
    return "i1" if kind is bool_ else f"i{8 * kind.itemsize}"


def vector(kind: DType) -> str:
    return f"<{LANES} x {element(kind)}>"


def literal(value: Any, kind: DType) -> str:
    if kind.kind == "float":
        word = np.float64(value).view(np.uint64)
        one = f"0x{int(word):016X}" if kind is not float64 or value == value else "0x7FF8000000000000"
    else:
        one = str(value).lower()
    return f"splat ({element(kind)} {one})"


def instruction(value: Value, names: dict[Value, str], declared: set[str]) -> str:
    args, kind = [names[a] for a in value.args], vector(value.type)
    source = value.args[0].type
    if value.op in ORDERED:
        if source.kind == "float":
            return f"fcmp {ORDERED[value.op]} {vector(source)} {args[0]}, {args[1]}"
        sign = "" if value.op in ("eq", "ne") else "s" if source.kind == "int" else "u"
        return f"icmp {sign}{value.op} {vector(source)} {args[0]}, {args[1]}"
    if value.op == "select":
        return f"select {vector(bool_)} {args[0]}, {kind} {args[1]}, {kind} {args[2]}"
    if value.op == "bits":
        return f"bitcast {vector(source)} {args[0]} to {kind}"
    if value.op == "convert":
        return conversion(source, value.type, args[0])
    if value.op == "neg":
        zero = "fneg" if value.type.kind == "float" else "sub"
        return f"fneg {kind} {args[0]}" if zero == "fneg" else f"sub {kind} splat ({element(value.type)} 0), {args[0]}"
    if value.op in CALLS:
        name = f"@llvm.{CALLS[value.op]}.v{LANES}f{8 * value.type.itemsize}"
        declared.add(f"declare {kind} {name}({', '.join([kind] * len(args))})")
        return f"call {kind} {name}({', '.join(f'{kind} {a}' for a in args)})"
    if value.op == "shift_right":
        return f"{'ashr' if value.type.kind == 'int' else 'lshr'} {kind} {args[0]}, {args[1]}"
    if value.op in ("quotient", "modulus"):
        sign = "s" if value.type.kind == "int" else "u"
        return f"{sign}{'div' if value.op == 'quotient' else 'rem'} {kind} {args[0]}, {args[1]}"
    prefix = "f" if value.type.kind == "float" and value.op in ("add", "sub", "mul") else ""
    return f"{prefix}{BINARY[value.op]} {kind} {args[0]}, {args[1]}"


def conversion(source: DType, target: DType, arg: str) -> str:
    if source.kind == "float" and target.kind == "float":
        op = "fpext" if target.itemsize > source.itemsize else "fptrunc"
    elif target.kind == "float":
        op = "sitofp" if source.kind == "int" else "uitofp"
    elif source.kind == "float":
        op = "fptosi" if target.kind == "int" else "fptoui"
    else:
        op = "trunc" if target.itemsize < source.itemsize else "sext" if source.kind == "int" else "zext"
    return f"{op} {vector(source)} {arg} to {vector(target)}"


def loop(root: Value, loads: list[str]) -> str:
    """A function of pointers (those of `loads`, then that of the result) and a count."""
    names: dict[Value, str] = {}
    declared: set[str] = set()
    lines = []
    for value in operands([root]):
        if value.op == "constant":
            names[value] = literal(value.attr, value.type)
            continue
        names[value] = f"%v{value.serial}"
        if value.op == "load":
            lines.append(f"  %p{value.serial} = getelementptr {element(value.type)}, "
                         f"ptr %{value.attr.buffer}, i64 %i")  # fmt: skip
            text = f"load {vector(value.type)}, ptr %p{value.serial}, align 1"
        else:
            text = instruction(value, names, declared)
        lines.append(f"  {names[value]} = {text}")
    pointers = ", ".join(f"ptr noalias %{p}" for p in [*loads, "out"])
    return "\n".join([
        *sorted(declared), f"define void @f({pointers}, i64 %n) {{", "entry:", "  br label %loop",
        "loop:", "  %i = phi i64 [0, %entry], [%next, %loop]", *lines,
        f"  %po = getelementptr {element(root.type)}, ptr %out, i64 %i",
        f"  store {vector(root.type)} {names[root]}, ptr %po, align 1",
        f"  %next = add i64 %i, {LANES}", "  %more = icmp slt i64 %next, %n",
        "  br i1 %more, label %loop, label %done", "done:", "  ret void", "}",
    ])  # fmt: skip


class Compiled:
    """A loop in machine code; keeps its engine."""

    def __init__(self, root: Value, loads: list[str]) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features, opt=2
        )
        module = llvm.parse_assembly(loop(root, loads))
        module.verify()
        self.assembly = machine.emit_assembly(module)
        self.engine = llvm.create_mcjit_compiler(module, machine)
        self.engine.finalize_object()
        address = self.engine.get_function_address("f")
        kinds = [ctypes.c_void_p] * (len(loads) + 1)
        self.call = ctypes.CFUNCTYPE(None, *kinds, ctypes.c_int64)(address)
        self.kind = root.type.numpy

    def __call__(self, *arrays: Array) -> Array:
        out = np.empty(arrays[0].shape, self.kind)
        self.call(*(a.ctypes.data for a in arrays), out.ctypes.data, len(out))
        return out

    @property
    def instructions(self) -> int:
        """Those in the loop, for LANES elements."""
        body = self.assembly.split("f:", 1)[1]
        blocks = body.split(".LBB0_")
        inner = max(blocks, key=len)
        return sum(line.startswith("\t") and not line.startswith("\t.") for line in inner.splitlines())
