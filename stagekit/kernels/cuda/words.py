"""CUDA C's words for scalars: types, constants, and every machine instruction of `ir.py`.

An instruction on names is one expression. Integers wrap, so they are computed unsigned and cast
back; float16 is computed in float32 and rounded. A library function is named only where it is the
instruction itself on every argument. Sources are compiled with `--fmad=false`: `fma` is `fma`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from stagekit.kernels.ir import COMPARISONS
from stagekit.types import DType, bool_, float16, float32, float64, int32, int64, uint16

_TYPES = {
    "bool": "bool", "int8": "signed char", "uint8": "unsigned char", "int16": "short",
    "uint16": "unsigned short", "int32": "int", "uint32": "unsigned int", "int64": "long long",
    "uint64": "unsigned long long", "float16": "__half", "bfloat16": "unsigned short",
    "float32": "float", "float64": "double",
}  # fmt: skip

# Functions of ours that a source brings along where it names them.
_HELPERS = {
    "floor_div": """\
static __device__ __forceinline__ long long floor_div(long long a, long long b) {
  b = b > 0 ? b : 1;
  return a / b - (a % b < 0);
}""",
    "floor_mod": """\
static __device__ __forceinline__ long long floor_mod(long long a, long long b) {
  b = b > 0 ? b : 1;
  return a % b + (a % b < 0 ? b : 0);
}""",
    "add_exactly": """\
// sum + term, and what rounding loses of it, which is added up apart (of infinities nothing is)
static __device__ __forceinline__ void add_exactly(double &sum, double &lost, double term) {
  const double total = sum + term, part = total - sum;
  const double rest = (sum - (total - part)) + (term - part);
  sum = total;
  lost = lost + (rest == rest ? rest : 0.0);
}""",
}


def preamble(code: str) -> str:
    """What must precede a source: the header of float16 and functions of ours, where it names them.

    >>> preamble("x = 1;")
    ''
    """
    parts = ["#include <cuda_fp16.h>"] if "__half" in code else []
    for name, text in _HELPERS.items():
        if f"{name}(" in code:
            guard = f"STAGEKIT_{name.upper()}"
            parts += [f"#ifndef {guard}", f"#define {guard}", text, "#endif"]
    return "".join(f"{part}\n" for part in parts)


def c_type(type: DType) -> str:
    """A type in registers."""
    return _TYPES[type.name]


def memory_type(type: DType) -> str:
    """A type in memory: a bool is a byte of 0 or 1."""
    return "unsigned char" if type is bool_ else c_type(type)


def literal(value: Any, type: DType) -> str:
    """A constant.

    >>> literal(0.1, float32), literal(-math.inf, float64), literal(True, bool_)
    ('0.1f', '__longlong_as_double(0xfff0000000000000)', 'true')
    """
    if type is bool_:
        return "true" if value else "false"
    if type is float16:
        return f"__ushort_as_half(0x{struct.unpack('<H', struct.pack('<e', value))[0]:04x})"
    if type.kind == "float":
        return _float(value, type)
    return _integer(int(value), type)


def _float(value: float, type: DType) -> str:
    if math.isfinite(value):
        return f"{np.float32(value)!s}f" if type is float32 else repr(float(value))
    if type is float32:
        return f"__int_as_float(0x{struct.unpack('<I', struct.pack('<f', value))[0]:08x})"
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    return f"__longlong_as_double(0x{bits:016x})"


def _integer(value: int, type: DType) -> str:
    suffix = {"int64": "LL", "uint32": "u", "uint64": "ULL"}.get(type.name, "")
    if type.itemsize >= 4 and type.kind == "int" and value == type.lowest:
        return f"({value + 1}{suffix} - 1)"
    return f"{value}{suffix}"


def inner(text: str) -> str:
    """An expression as an operand of another one.

    >>> inner("v1"), inner("-1e-05f"), inner("i1 + 1")
    ('v1', '-1e-05f', '(i1 + 1)')
    """
    return text if _CLOSED.fullmatch(text) else f"({text})"


_CLOSED = re.compile(r"-?[\w.]+(e[+-]\d+f?)?|\w*\([^()]*\)|\w+\[\w+\]|\([a-z ]+\)\w+")


# ----- instructions -------------------------------------------------------------------------------

_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "quotient": "/", "modulus": "%", "and": "&",
    "or": "|", "xor": "^", "shift_left": "<<", "shift_right": ">>", "eq": "==", "ne": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_WRAPPING = ("add", "sub", "mul", "shift_left")
_CALLS = {"abs": "fabs", "sqrt": "sqrt", "fma": "fma", "floor": "floor", "ceil": "ceil",
          "trunc": "trunc", "rint": "rint", "copysign": "copysign"}  # fmt: skip


def instruction(op: str, type: DType, *args: str) -> str:
    """An instruction on operands of a type (of `select`, the type of the last two).

    >>> from stagekit.types import int32
    >>> print(instruction("fma", float32, "x", "y", "z"), "|", instruction("add", int32, "x", "1"))
    fmaf(x, y, z) | (int)((unsigned int)x + 1u)
    """
    if op == "select":
        return f"{args[0]} ? {args[1]} : {args[2]}"
    args = tuple(map(inner, args))
    if type is float16:
        return _of_half(op, args)
    if op in COMPARISONS:
        return f"{args[0]} {_SIGNS[op]} {args[1]}"
    if type.kind == "float":
        return _of_float(op, type, args)
    return _of_integer(op, type, args)


def _of_half(op: str, args: Sequence[str]) -> str:
    wide = [f"__half2float({a})" for a in args]
    text = instruction(op, float32, *wide)
    return text if op in COMPARISONS else f"__float2half_rn({text})"


def _of_float(op: str, type: DType, args: Sequence[str]) -> str:
    if op in _CALLS:
        return f"{_CALLS[op]}{'f' if type is float32 else ''}({', '.join(args)})"
    return f"-({args[0]})" if op == "neg" else f"{args[0]} {_SIGNS[op]} {args[1]}"


def _of_integer(op: str, type: DType, args: Sequence[str]) -> str:
    if type is bool_:
        return f"{args[0]} {_SIGNS[op]} {args[1]}"
    kind = c_type(type)
    if op == "neg":
        return f"({kind})(0 - {_unsigned(args[0], type)})"
    if op in _WRAPPING:
        right = args[1] if op == "shift_left" else _unsigned(args[1], type)
        return f"({kind})({_unsigned(args[0], type)} {_SIGNS[op]} {right})"
    text = f"{args[0]} {_SIGNS[op]} {args[1]}"
    return text if type.itemsize >= 4 else f"({kind})({text})"


def _unsigned(x: str, type: DType) -> str:
    wide = type.itemsize == 8
    digits = re.fullmatch(r"(\d+)(u|U?LL)?", x)
    if digits is not None:
        return f"{digits[1]}{'ULL' if wide else 'u'}"
    return f"({'unsigned long long' if wide else 'unsigned int'}){x}"


def converted(x: str, old: DType, new: DType) -> str:
    """The number in another type, rounded to nearest even, or truncated and saturated (NaN: 0)."""
    if old is float16:
        x, old = f"__half2float({x})", float32
    if old is new:
        return x
    if new is float16:
        return f"__double2half({x})" if old is float64 else f"__float2half_rn((float){inner(x)})"
    kind = c_type(new)
    if old.kind != "float" or new.kind == "float":
        return f"({kind}){inner(x)}"
    low, high = (_float(float(limit), old) for limit in (new.lowest, new.highest + 1))
    return (
        f"{x} != {x} ? 0 : {x} <= {low} ? {literal(new.lowest, new)} : "
        f"{x} >= {high} ? {literal(new.highest, new)} : ({kind}){inner(x)}"
    )


_BITS = {
    float16: ("__half_as_ushort", "__ushort_as_half", uint16),
    float32: ("__float_as_int", "__int_as_float", int32),
    float64: ("__double_as_longlong", "__longlong_as_double", int64),
}


def reinterpreted(x: str, old: DType, new: DType) -> str:
    """The same bits as another type of the same width; bfloat16 is nothing but bits here."""
    if old in _BITS:
        function, _, plain = _BITS[old]
        return converted(f"{function}({x})", plain, new)
    if new in _BITS:
        _, function, plain = _BITS[new]
        return f"{function}({converted(x, old, plain)})"
    return f"({c_type(new)}){inner(x)}"


def combined(op: str, type: DType, a: str, b: str) -> str:
    """One step of a fold, from `a` by `b`: of `max` and `min` a NaN stays."""
    if op not in ("max", "min"):
        return instruction(op, type, a, b)
    better = instruction("gt" if op == "max" else "lt", type, b, a)
    if type.kind == "float":
        better = f"{better} || {instruction('ne', type, b, b)}"
    return f"{better} ? {b} : {a}"


def shuffled(function: str, x: str, type: DType, lane: str) -> str:
    """What another lane of the warp holds, by one of CUDA's functions for that.

    >>> shuffled("__shfl_down_sync", "a", bool_, "k")
    '(bool)__shfl_down_sync(0xffffffff, (int)a, k)'
    """
    if type is float16:
        found = shuffled(function, f"(int)__half_as_ushort({x})", int32, lane)
        return f"__ushort_as_half((unsigned short){found})"
    if type.itemsize < 4:
        return f"({c_type(type)}){shuffled(function, f'(int){x}', int32, lane)}"
    return f"{function}(0xffffffff, {x}, {lane})"
