"""A plan with the face of machine code that calls back into Python: every graph has one."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from stagekit.kernels.backend import fed
from stagekit.kernels.machine.arena import Arenas
from stagekit.kernels.machine.entry import CallType, Operand, Result
from stagekit.plan import Plan, concrete
from stagekit.staging.concrete import ConcreteFunction


class CallbackPlan:
    """Evaluates a graph on NumPy, from the words of a block to memory of the caller's.

    `direct` counts the calls of all such plans. Unless `shares`, no other thread may run meanwhile.
    """

    direct = 0
    shares = False

    def __init__(self, function: ConcreteFunction) -> None:
        self.graph, self.numbers = fed(function.optimized)
        graph = self.graph
        self.inputs = [node.type for node in graph.inputs]
        self.outputs = [node.type for node in graph.outputs]
        self.sizes = graph.symbols
        self.arenas = Arenas()
        self.plan = Plan(graph)
        self._function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self._run)
        self.address = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def call_type(
        self, operands: Sequence[Operand], written: Sequence[int | None], single: bool, env: Any
    ) -> CallType | None:
        """Everything that may be in place is."""
        sizes = tuple(env[name] for name in self.sizes)
        if any(type(size) is not int for size in sizes):
            return None
        results = []
        for k, (type_, cell) in enumerate(zip(self.outputs, written, strict=True)):
            dtype, shape = type_.dtype.numpy, concrete(type_.shape, env)
            same = cell is not None and operands[cell].shape == shape
            results.append(Result(dtype, shape, cell, same, output=k))
        returned = tuple(operands), tuple(results), single, sizes, 64
        return CallType(*returned, calls_python=self.shares)

    def _run(self, block: int) -> int:
        types = [*self.inputs, *self.outputs]
        words = iter((ctypes.c_int64 * (len(types) + 1 + len(self.sizes))).from_address(block))
        pointers = [next(words) for _ in types]
        assert next(words) % 64 == 0  # the arena
        env = dict(zip(self.sizes, words, strict=True))
        arrays = [_array(p, t, env) for p, t in zip(pointers, types, strict=True)]
        try:
            results = self.plan(arrays[: len(self.inputs)], env)
        except Exception:
            return 1
        results = [result.copy() for result in results]
        for place, result in zip(arrays[len(self.inputs) :], results, strict=True):
            assert place.shape == result.shape and place.dtype == result.dtype
            place[...] = result
        CallbackPlan.direct += 1
        return 0


def _array(pointer: int, type_: Any, env: Any) -> np.ndarray[Any, Any]:
    shape = concrete(type_.shape, env)
    dtype = type_.dtype.numpy
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype).reshape(shape)


def install(patch: pytest.MonkeyPatch) -> None:
    """Give every concrete function such a plan."""
    made = cached_property(CallbackPlan)
    made.__set_name__(ConcreteFunction, "native")
    patch.setattr(ConcreteFunction, "native", made)
