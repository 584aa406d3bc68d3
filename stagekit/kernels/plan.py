"""`NativePlan`: a graph as machine code. Kernels, products of matrices and library calls, in order.

Everything between two library calls is one native function; see `kernels/code.py`. A plan that is
one function alone is kept on disk, and comes back without its graph being rewritten.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from stagekit.evaluation import FAILURES, Array, explain, quietly, scalar, type_of
from stagekit.graph import Graph
from stagekit.kernels.code import Code, Layout, laid_out
from stagekit.kernels.fusion.partition import Partition
from stagekit.kernels.fusion.steps import KernelStep, LibraryStep, Steps
from stagekit.kernels.machine import blas, engine, threads, timing
from stagekit.kernels.machine.arena import Arenas
from stagekit.kernels.machine.cache import disk, key
from stagekit.kernels.machine.entry import CallType, Operand, Result
from stagekit.kernels.program import Program, key_of, program_of, toolchain
from stagekit.kernels.report import plan_text
from stagekit.node import Node, is_projection
from stagekit.plan import Env, Plan, clock, concrete, cost
from stagekit.settings import config, log
from stagekit.symbolic import Fact, evaluate

_LONG = 1 << 20  # operations, or bytes, from which other threads of Python may run meanwhile

Ready = tuple[Graph, tuple[Node, ...]]  # a graph made ready for code, and its numbers


class NativePlan:
    """A graph in machine code; `plan(arrays, env)` gives the outputs as NumPy arrays.

    Where a check fails the NumPy plan runs and raises its error, with the user's line. `ready`
    gives the rewritten graph, which a plan that comes from disk asks for only to show itself or to
    raise an error.
    """

    def __init__(self, ready: Callable[[], Ready], traced: Graph, facts: Iterable[Fact]) -> None:
        self._ready = ready
        self.traced = traced
        threads.start()
        blas.start()
        store = disk()
        if store is None:
            code = self._compiled()
        else:
            with store.building(key_of(traced, facts)) as found:
                code = self._compiled() if found is None else self._restored(*found)
                if found is None and self.program is not None:
                    store.put(key_of(traced, facts), self.program.data(), code)
        self.library = engine.load(code)
        self.entries = _entries(self.library, self.stretches)

    # ----- from a graph, or from disk

    def _compiled(self) -> bytes:
        self.stretches = self._stretches()
        self.program = program_of(self.steps, self.layout, self.numbers)
        if len(self.stretches) != 1 or isinstance(self.stretches[0], LibraryStep):
            self.program = None
        start = time.perf_counter()
        code = _object_code(self.text) if self.program is None else engine.compile_ir(self.text)
        ms = (time.perf_counter() - start) * 1e3
        log("codegen", f"{self.graph.name}: {len(self.steps.steps)} steps, {ms:.0f} ms in LLVM")
        self._forget()
        return code

    def _forget(self) -> None:
        """Drop what only making the code has needed: it is much, and made again if asked for."""
        steps = self.steps
        for name in ("text", "steps", "layout") if self.program is not None else ("text",):
            self.__dict__.pop(name, None)
        if self.program is not None:
            self.stretches = [()]
            for step in steps.steps:
                if isinstance(step, KernelStep):
                    step.scheduled.kernel.body.clear()

    def _restored(self, data: dict[str, Any], code: bytes) -> bytes:
        self.program = Program.of_data(data)
        self.stretches = [()]
        return code

    @cached_property
    def _made_ready(self) -> Ready:
        return self._ready()

    @property
    def graph(self) -> Graph:
        """The graph that the code is for: rewritten, and with inputs for Python numbers."""
        return self._made_ready[0]

    @property
    def numbers(self) -> tuple[Node, ...]:
        """The nodes that say what the numbers are that the code takes as its last inputs."""
        program: Program | None = self.__dict__.get("program")
        return self._made_ready[1] if program is None else program.numbers

    @cached_property
    def steps(self) -> Steps:
        """Kernels, products, convolutions and library calls."""
        return Steps(self.graph)

    @cached_property
    def layout(self) -> Layout:
        """Where the buffers of the steps lie."""
        return laid_out(self.steps)

    @cached_property
    def text(self) -> str:
        """The LLVM module."""
        return self._module(timed=False)

    def _module(self, timed: bool) -> str:
        code = Code(self.steps, self.layout, engine.vector_bytes() // 4, timed)
        for k, stretch in enumerate(self._stretches()):
            if not isinstance(stretch, LibraryStep):
                code.stretch(f"plan{k}", stretch)
        return code.text()

    def _stretches(self) -> list[Any]:
        """Native steps in a row together, library steps alone."""
        found: list[Any] = []
        for step in self.steps.steps:
            if isinstance(step, LibraryStep):
                found.append(step)
            elif found and not isinstance(found[-1], LibraryStep):
                found[-1].append(step)
            else:
                found.append([step])
        return found

    # ----- calls

    @cached_property
    def address(self) -> int | None:
        """Where the code lies, None where it is not one function that gives all outputs."""
        return None if self.program is None else self.library.address("plan0")

    @cached_property
    def arenas(self) -> Arenas:
        """The arenas of calls that do not come through here."""
        return Arenas()

    def call_type(
        self, operands: Sequence[Operand], written: Sequence[int | None], single: bool, env: Env
    ) -> CallType | None:
        """How cells like `operands` are given to the code; None where it does not give the outputs.

        `written` tells for each output which operand's new value it is, None if it is returned.
        """
        program = self.program
        if program is None:
            return None
        shown = {place.number for place in program.places if place.kind == "input"}
        results: list[Result] = []
        owners: dict[int, int] = {}  # those that are written come first, and own their buffers
        rows = list(zip(program.types, program.places, written, strict=True))
        for type_, (kind, number), cell in sorted(rows, key=lambda row: row[2] is None):
            shape = tuple(int(n) for n in concrete(type_.shape, env))
            result = Result(type_.dtype.numpy, shape, cell)
            if kind == "input":
                result = replace(result, view_of=number)
            elif number in owners:
                result = replace(result, view_of=owners[number])
            else:
                owners[number] = len(operands) + len(results)
                here = cell is not None and cell not in shown and (
                    (result.dtype, result.shape) == (operands[cell].dtype, operands[cell].shape)
                    and (number, cell) in program.overwrites
                )
                result = replace(result, in_place=here, output=number)
            results.append(result)
        words = tuple(_as_word(env[n]) for n in program.symbols)
        arena = int(evaluate(program.arena, env))
        work = cost(self.traced, env)
        is_long = max(work.flops, work.bytes) > _LONG
        return CallType(tuple(operands), tuple(results), single, words, arena, is_long)

    @cached_property
    def referee(self) -> Plan:
        """The plan on NumPy, which words the errors."""
        return Plan(self.graph)

    def __call__(self, arrays: Sequence[Array], env: Env) -> list[Array]:
        arrays = [*arrays, *map(partial(_number, env=env), self.numbers)]
        if config.trap is not None:
            return self.referee(arrays, env)
        return self._in_steps(arrays, env) if self.program is None else self._at_once(arrays, env)

    def timed(self, arrays: Sequence[Array], env: Env, times: Array) -> list[Array]:
        """As a call; row k of `times` becomes when step k began and ended, see `plan.clock`.

        It stays 0 where the step did not run, for NumPy had to.
        """
        arrays = [*arrays, *map(partial(_number, env=env), self.numbers)]
        if config.trap is not None:
            return self.referee(arrays, env)
        return self._in_steps(arrays, env, times)

    def prepare(self) -> None:
        """Compile what `timed` runs."""
        assert self._timed is not None

    @cached_property
    def _timed(self) -> list[Any]:
        """The entries of code with a clock before and after each step."""
        timing.start()
        library = engine.load(_object_code(self._module(timed=True)))
        return _entries(library, self._stretches())

    def _at_once(self, arrays: Sequence[Array], env: Env) -> list[Array]:
        """One call of the code."""
        program = self.program
        assert program is not None
        given = [np.ascontiguousarray(a) if a.ndim else a for a in arrays]
        outputs = [np.empty(concrete(t.shape, env), t.dtype.numpy) for t in program.buffers]
        arena = _aligned(int(evaluate(program.arena, env)))
        words = [a.ctypes.data for a in (*given, *outputs, arena)]
        words += [_as_word(env[n]) for n in program.symbols]
        (entry,) = self.entries
        if entry is None or entry((ctypes.c_int64 * len(words))(*words)):
            return self.referee(arrays, env)
        found = []
        for type_, (kind, number) in zip(program.types, program.places, strict=True):
            array = arrays[number] if kind == "input" else outputs[number]
            shape = concrete(type_.shape, env)
            found.append(array if array.shape == shape else array.reshape(shape))
        return found

    def _in_steps(
        self, arrays: Sequence[Array], env: Env, times: Array | None = None
    ) -> list[Array]:
        """Native functions and library calls in turn."""
        layout, steps = self.layout, self.steps
        stretches, entries = self.stretches, self.entries
        if times is not None:
            stretches, entries = self._stretches(), self._timed
        given = [np.ascontiguousarray(a) if a.ndim else a for a in arrays]
        types = {steps.buffers[n]: n.type for n in self.graph.outputs if n in steps.buffers}
        outputs = {
            name: np.empty(concrete(types[name].shape, env), types[name].dtype.numpy)
            for name in layout.outputs
        }
        size = int(evaluate(layout.arena.size, env))
        with self.arenas.taking(size) as address:
            arena = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
            words = [a.ctypes.data for a in (*given, *outputs.values(), arena)]
            words += [_as_word(env[n]) for n in self.graph.symbols]
            hosts: list[Array | None] = [None] * len(layout.hosts)
            block = (ctypes.c_int64 * (len(words) + len(hosts) + 1))(*words)
            block[len(words) + len(hosts)] = 0 if times is None else times.ctypes.data
            memory = _Memory(self, given, outputs, arena, hosts, env)
            for stretch, entry in zip(stretches, entries, strict=True):
                if entry is None:
                    begin = clock()
                    for name, array in memory.evaluated(stretch):
                        at = layout.hosts[name]
                        hosts[at] = array
                        block[len(words) + at] = array.ctypes.data
                    if times is not None:
                        times[steps.steps.index(stretch)] = begin, clock()
                elif entry(block):
                    return self.referee(arrays, env)
            return [self._output(node, arrays, memory) for node in self.graph.outputs]

    def _output(self, node: Node, arrays: Sequence[Array], memory: _Memory) -> Array:
        if node in self.graph.inputs:
            return arrays[self.graph.inputs.index(node)]
        return memory.array(node)

    @property
    def decisions(self) -> Partition:
        """Why each node stands in the step where it does; prints."""
        return self.steps.partition

    def __str__(self) -> str:
        return plan_text(self.steps, self.layout)


@dataclass(frozen=True, eq=False)
class _Memory:
    """The buffers of one call as NumPy arrays, for library calls and results."""

    plan: NativePlan
    inputs: Sequence[Array]
    outputs: Mapping[str, Array]
    arena: Array
    hosts: Sequence[Array | None]
    env: Env

    def array(self, node: Node) -> Array:
        """The elements of a node that lies in memory."""
        steps, layout = self.plan.steps, self.plan.layout
        name, type_ = steps.buffers[node], node.type
        shape = concrete(type_.shape, self.env)
        if name in layout.inputs:
            return self.inputs[layout.inputs[name]].reshape(shape)
        if name in self.outputs:
            return self.outputs[name].reshape(shape)
        if name in layout.hosts:
            found = self.hosts[layout.hosts[name]]
            assert found is not None
            return found.reshape(shape)
        if name in steps.constants:
            return steps.constants[name].reshape(shape)
        start = int(evaluate(layout.arena.offsets[name], self.env))
        return np.ndarray(shape, type_.dtype.numpy, self.arena.data, start)

    def evaluated(self, step: LibraryStep) -> list[tuple[str, Array]]:
        """What NumPy gives for a step: each result's buffer, and its array."""
        node = step.node
        assert node.op is not None
        operands = [self.array(x) for x in node.inputs]
        attrs = {key: concrete(value, self.env) for key, value in node.attrs}
        try:
            found = quietly(node.op.numpy, *operands, **attrs)
        except FAILURES as error:
            types = [type_of(array) for array in operands]
            line = self.plan.graph.line(node)
            raise explain(node.op, types, attrs, error, line) from None
        results = found if node.is_several else (found,)
        buffers = self.plan.steps.buffers
        places = [dict(n.attrs)["index"] if is_projection(n) else 0 for n in step.results]
        return [
            (buffers[n], self._own(results[k])) for n, k in zip(step.results, places, strict=True)
        ]

    def _own(self, result: Any) -> Array:
        """A contiguous result that is no view of memory which later steps write to."""
        array = np.asarray(result)
        if array.base is not None and np.may_share_memory(array, self.arena):
            return array.copy()
        return array if array.flags.c_contiguous else array.copy()


def _entries(library: engine.Library, stretches: Sequence[Any]) -> list[Any]:
    """The functions of a plan's native stretches, which keep their code; None for library steps."""
    signature = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    found: list[Any] = []
    for k, stretch in enumerate(stretches):
        found.append(None)
        if not isinstance(stretch, LibraryStep):
            found[k] = signature(library.address(f"plan{k}"))
            found[k].library = library
    return found


def _object_code(text: str) -> bytes:
    """The code of a module, from disk where it has been compiled before."""
    store = disk()
    if store is None:
        return engine.compile_ir(text)
    name = key("module", toolchain(), text)
    with store.building(name) as found:
        if found is not None:
            return found[1]
        code = engine.compile_ir(text)
        store.put(name, {}, code)
        return code


def _number(node: Node, env: Env) -> Array:
    """The value of a `number`."""
    return scalar(evaluate(dict(node.attrs)["expr"], env), node.type.dtype)


def _as_word(value: Any) -> int:
    """A size as a word of a block; the names of floats occur in library steps alone."""
    return value if isinstance(value, int) else 0


def _aligned(size: int) -> Array:
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
