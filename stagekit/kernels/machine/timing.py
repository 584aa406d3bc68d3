"""The clock of native code: the symbol `sk_clock`, which reads what `plan.clock` reads."""

from __future__ import annotations

import ctypes
import time
from functools import cache
from typing import Any

from stagekit.kernels.machine import engine
from stagekit.plan import clock

_CLOCK = """
declare i32 @clock_gettime(i32, ptr)
define i64 @sk_clock() {{
  %time = alloca [2 x i64]
  %status = call i32 @clock_gettime(i32 {kind}, ptr %time)
  %seconds = load i64, ptr %time
  %at = getelementptr i64, ptr %time, i64 1
  %rest = load i64, ptr %at
  %scaled = mul i64 %seconds, 1000000000
  %all = add i64 %scaled, %rest
  ret i64 %all
}}
"""


@cache
def start() -> Any:
    """Let code that is loaded from now on call `sk_clock`; what that is stays alive."""
    kind = getattr(time, "CLOCK_MONOTONIC", None)
    if kind is None:
        called = ctypes.CFUNCTYPE(ctypes.c_int64)(clock)
        engine.symbol("sk_clock", ctypes.cast(called, ctypes.c_void_p).value or 0)
        return called
    library = engine.load(engine.compile_ir(_CLOCK.format(kind=kind)))
    engine.symbol("sk_clock", library.address("sk_clock"))
    return library
