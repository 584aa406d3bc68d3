"""From LLVM IR text to machine code in this process: compile, load, look up addresses.

`compile_ir` makes object code for this CPU and `load` links object code into the process, so that
compiled code can be kept on disk: it holds no address, and names what lies outside it by symbols
(`symbol`). llvmlite is optional; `available` tells, and nothing else here works without it.
Every function may be called from any thread; a fork waits until no other thread is in LLVM.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

lock = threading.RLock()  # whoever is in LLVM holds it
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )


@cache
def available() -> bool:
    """Whether llvmlite is installed."""
    return importlib.util.find_spec("llvmlite") is not None


@cache
def _llvm() -> Any:
    """llvmlite's binding, ready for this CPU and for inline assembly."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return llvm


@cache
def _cpu() -> tuple[str, str]:
    """The CPU's name and its features, in LLVM's words."""
    llvm = _llvm()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _target_machine(codegen_level: int) -> Any:
    # The large code model: nothing promises that an object's code, its constants and the functions
    # it calls come to lie within 2 GB of each other.
    llvm = _llvm()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    cpu, features = _cpu()
    return target.create_target_machine(cpu, features, opt=codegen_level, codemodel="large")


@cache
def _emitter(codegen_level: int = 2) -> Any:
    """The target machine that every compilation of a level uses."""
    return _target_machine(codegen_level)


@cache
def target() -> str:
    """What object code depends on beyond its text: the CPU, its features, LLVM's version."""
    with lock:
        version = ".".join(map(str, _llvm().llvm_version_info))
        return " ".join(["LLVM", version, _llvm().get_process_triple(), *_cpu()])


@cache
def vector_bytes() -> int:
    """The width of this CPU's vector registers: 64 with AVX-512, 32 with AVX, else 16."""
    with lock:
        features = _cpu()[1].split(",")
    return 64 if "+avx512f" in features else 32 if "+avx" in features else 16


@contextmanager
def _parsed(text: str, speed_level: int | None) -> Iterator[Any]:
    """The verified module of a text, optimized if asked for, in a context of its own.

    LLVM's global context would keep the types and constants of every text for ever.
    """
    llvm = _llvm()
    context = llvm.create_context()
    try:
        with llvm.parse_assembly(text, context) as module:
            module.verify()
            if speed_level is not None:
                options = llvm.create_pipeline_tuning_options(speed_level=speed_level)
                # Kernels are written in vectors, unrolled as they should be.
                options.loop_vectorization = options.slp_vectorization = False
                options.loop_unrolling = False
                with llvm.create_pass_builder(_emitter(), options) as builder:
                    builder.getModulePassManager().run(module, builder)
            yield module
    finally:
        context.close()


def compile_ir(text: str, speed_level: int | None = None, codegen_level: int = 2) -> bytes:
    """Object code of an LLVM module for this CPU.

    Runs no passes over the IR unless `speed_level` (0, 1, 2) asks for LLVM's pipeline of that
    level: code in explicit vectors gains nothing from them and compiles several times sooner.
    `codegen_level` 0 compiles in a third of the time what need not be fast.

    Raises RuntimeError with LLVM's words where the text does not parse or verify.

    >>> library = load(compile_ir("define i64 @f(i64 %x) { %y = add i64 %x, 1 ret i64 %y }"))
    >>> ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("f"))(41)
    42
    """
    with lock, _parsed(text, speed_level) as module:
        return bytes(_emitter(codegen_level).emit_object(module))


def assembly(text: str, speed_level: int | None = None) -> str:
    """The assembly that `compile_ir` of the same arguments would make object code of."""
    with lock, _parsed(text, speed_level) as module:
        return str(_emitter().emit_assembly(module))


def symbol(name: str, address: int) -> None:
    """Let object code that is loaded from now on call what lies at an address by a name."""
    with lock:
        _llvm().add_symbol(name, address)


class Library:
    """Object code in this process; its machine code is freed with this object."""

    def __init__(self, object_code: bytes) -> None:
        llvm = _llvm()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(2))
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function or global of the object code lies; LookupError if it has none such."""
        with lock:
            found = self._engine.get_global_value_address(name)
        if not found:
            raise LookupError(f"the object code defines no {name!r}")
        return int(found)

    def keep(self) -> None:
        """Never free the machine code: a thread may stand in it even while the process ends."""
        self._engine.detach()


def load(object_code: bytes) -> Library:
    """Link object code into this process, about 1 ms.

    Raises LookupError where it calls a symbol that neither `symbol` nor the process defines.
    """
    with lock:
        # LLVM ends the process at a symbol that it cannot resolve.
        missing = [name for name in undefined(object_code) if not _resolves(name)]
        if missing:
            raise LookupError(f"object code calls what is not there: {', '.join(missing)}")
        return Library(object_code)


def _resolves(name: str) -> bool:
    return bool(_llvm().address_of_symbol(name)) or hasattr(_process(), name)


@cache
def _process() -> ctypes.CDLL:
    """What this process has loaded: memset and its like are found there."""
    return ctypes.CDLL(None)


def undefined(object_code: bytes) -> list[str]:
    """The symbols that object code takes from elsewhere (none are known if it is not ELF64)."""
    if object_code[:6] != b"\x7fELF\x02\x01":
        return []
    (table,) = struct.unpack_from("<Q", object_code, 40)
    size, count = struct.unpack_from("<HH", object_code, 58)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", object_code, table + i * size) for i in range(count)
    ]
    names: list[str] = []
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind != 2:  # SHT_SYMTAB; its entries' names lie in the section it links to
            continue
        strings = sections[link][4]
        for name, _, _, section, _, _ in struct.iter_unpack(
            "<IBBHQQ", object_code[start : start + length]
        ):
            if name and section == 0:
                end = object_code.index(b"\0", strings + name)
                names.append(object_code[strings + name : end].decode())
    return names
