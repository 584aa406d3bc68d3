"""Matrix products for object code: `sk_sgemm` and `sk_dgemm`, out of the BLAS that NumPy brought.

Both have the signature of cblas with 64-bit sizes, `(i32 order, i32 transA, i32 transB, i64 m,
i64 n, i64 k, alpha, ptr A, i64 lda, ptr B, i64 ldb, beta, ptr C, i64 ldc)`, and run on the caller's
thread alone: the loops around them are parallel already, and OpenBLAS's own threads would fight
with the pool's. Where the library's sizes have 32 bits, none may be larger.

OpenBLAS has one number of threads for the whole process. While a product large enough for threads
runs here the number is 1, for NumPy in other threads as well; the last one to end restores it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy

from stagekit.kernels.machine import engine

# Prefix and suffix of the symbols: NumPy's own build, scipy-openblas, OpenBLAS with 64-bit sizes;
# then those with 32-bit sizes.
_NAMES = {
    ("scipy_", "64_"): 64, ("", "64_"): 64, ("", "_64"): 64, ("scipy_", ""): 32, ("", ""): 32,
}  # fmt: skip


class Blas(NamedTuple):
    """A library with cblas: where its functions lie, 0 for one it lacks, the bits of its sizes."""

    path: str
    bits: int
    sgemm: int
    dgemm: int
    get_threads: int
    set_threads: int


def _loaded() -> Iterator[str]:
    """The shared objects of this process, NumPy's BLAS among them (Linux; else none)."""
    if sys.platform == "linux":
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            yield line[73:]


def _candidates() -> Iterator[str]:
    """Files that may be a BLAS, NumPy's first."""
    yield from (path for path in _loaded() if "blas" in os.path.basename(path))
    package = Path(numpy.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        yield from map(str, sorted(folder.glob("*blas*")))
    for name in ("openblas", "cblas", "blas"):
        if found := ctypes.util.find_library(name):
            yield found


def _opened(path: str) -> Blas | None:
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return None
    for (prefix, suffix), bits in _NAMES.items():

        def address(name: str, prefix: str = prefix, suffix: str = suffix) -> int:
            function = getattr(library, f"{prefix}{name}{suffix}", None)
            return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0

        sgemm, dgemm = address("cblas_sgemm"), address("cblas_dgemm")
        if sgemm and dgemm:
            threads = address("openblas_get_num_threads"), address("openblas_set_num_threads")
            return Blas(path, bits, sgemm, dgemm, *threads)
    return None


@cache
def find() -> Blas | None:
    """The first library that has cblas, None if there is none."""
    return next(filter(None, map(_opened, _candidates())), None)


def available() -> bool:
    """Whether there is a BLAS to call (and llvmlite, to call it from)."""
    return engine.available() and find() is not None


# The number of threads while products run: who entered first keeps what it was, who leaves last
# restores it. The lock is held for some ten nanoseconds.
_GUARD = """\
@lock = internal global i64 0, align 64
@running = internal global i64 0
@threads = internal global i32 0
define internal void @acquire() {
entry:
  br label %try
try:
  %pair = cmpxchg ptr @lock, i64 0, i64 1 acquire monotonic, align 8
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %end, label %try
end:
  ret void
}
define internal void @enter() {
entry:
  call void @acquire()
  %running = load i64, ptr @running
  %more = add i64 %running, 1
  store i64 %more, ptr @running
  %first = icmp eq i64 %running, 0
  br i1 %first, label %one, label %end
one:
  %threads = call i32 @sk_get_blas_threads()
  store i32 %threads, ptr @threads
  call void @sk_set_blas_threads(i32 1)
  br label %end
end:
  store atomic i64 0, ptr @lock release, align 8
  ret void
}
define internal void @leave() {
entry:
  call void @acquire()
  %running = load i64, ptr @running
  %fewer = sub i64 %running, 1
  store i64 %fewer, ptr @running
  %last = icmp eq i64 %fewer, 0
  br i1 %last, label %restore, label %end
restore:
  %threads = load i32, ptr @threads
  call void @sk_set_blas_threads(i32 %threads)
  br label %end
end:
  store atomic i64 0, ptr @lock release, align 8
  ret void
}
define void @sk_forked() {
entry:
  store i64 0, ptr @lock
  %running = load i64, ptr @running
  store i64 0, ptr @running
  %none = icmp eq i64 %running, 0
  br i1 %none, label %end, label %restore
restore:
  %threads = load i32, ptr @threads
  call void @sk_set_blas_threads(i32 %threads)
  br label %end
end:
  ret void
}
declare i32 @sk_get_blas_threads()
declare void @sk_set_blas_threads(i32)
"""

# OpenBLAS multiplies up to this m * n * k on one thread anyway (interface/gemm.c).
_SINGLE = 64**3

_PRODUCT = """\
define void @sk_{x}gemm(i32 %order, i32 %ta, i32 %tb, i64 %m, i64 %n, i64 %k, {real} %alpha, ptr %a,
    i64 %lda, ptr %b, i64 %ldb, {real} %beta, ptr %c, i64 %ldc) {{
entry:
{narrow}
  %mn = mul i64 %m, %n
  %mnk = mul i64 %mn, %k
  %small = icmp ule i64 %mnk, {small}
  br i1 %small, label %plain, label %guard
guard:
  call void @enter()
  {call}
  call void @leave()
  ret void
plain:
  {call}
  ret void
}}
declare void @sk_cblas_{x}gemm({types})
"""


def source(blas: Blas) -> str:
    """The LLVM IR of `sk_sgemm` and `sk_dgemm` over a library."""
    guarded = blas.get_threads and blas.set_threads
    text = [_GUARD] if guarded else []
    for x, real in (("s", "float"), ("d", "double")):
        sizes = ("m", "n", "k", "lda", "ldb", "ldc")
        given = {name: f"i64 %{name}" for name in sizes}
        narrow = []
        if blas.bits == 32:
            given = {name: f"i32 %{name}32" for name in sizes}
            narrow = [f"  %{name}32 = trunc i64 %{name} to i32" for name in sizes]
        arguments = [
            "i32 %order", "i32 %ta", "i32 %tb", given["m"], given["n"], given["k"],
            f"{real} %alpha", "ptr %a", given["lda"], "ptr %b", given["ldb"], f"{real} %beta",
            "ptr %c", given["ldc"],
        ]  # fmt: skip
        call = f"call void @sk_cblas_{x}gemm({', '.join(arguments)})"
        types = ", ".join(argument.split()[0] for argument in arguments)
        parts = {"x": x, "real": real, "narrow": "\n".join(narrow), "call": call, "types": types}
        text.append(_PRODUCT.format(small=_SINGLE if guarded else -1, **parts))
    return "\n".join(text)


@cache
def _started() -> bool:
    blas = find()
    if blas is None:
        return False
    engine.symbol("sk_cblas_sgemm", blas.sgemm)
    engine.symbol("sk_cblas_dgemm", blas.dgemm)
    engine.symbol("sk_get_blas_threads", blas.get_threads)
    engine.symbol("sk_set_blas_threads", blas.set_threads)
    library = engine.load(engine.compile_ir(source(blas), codegen_level=0))
    engine.symbol("sk_sgemm", library.address("sk_sgemm"))
    engine.symbol("sk_dgemm", library.address("sk_dgemm"))
    if blas.set_threads:
        os.register_at_fork(after_in_child=ctypes.CFUNCTYPE(None)(library.address("sk_forked")))
    library.keep()
    return True


def start() -> bool:
    """Give object code `sk_sgemm` and `sk_dgemm`; False where there is no BLAS. Needs llvmlite."""
    with engine.lock:
        return _started()
