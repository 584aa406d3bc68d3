"""From cells to a plan of machine code and back: one builtin call, about 0.2 us.

`entry` makes the callable of a `CallType`: it takes cells, answers NotImplemented where they are
not what the type says (or the ambient state is not, or a check of the plan fails), and nothing has
happened then; else it runs the plan, puts the results that are written into their cells, no other
commit in between, and returns the others as tensors.

It reads structs of CPython and NumPy directly. Where `layout` finds them other than they should be
the same is done through ctypes, in about 10 us.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from stagekit.kernels.machine import cache as compiled
from stagekit.kernels.machine import engine
from stagekit.kernels.machine.arena import Arenas
from stagekit.kernels.machine.entry_code import ORDERED, Api, Object, Table, code
from stagekit.op import Cell, put
from stagekit.tensor import Tensor, Variable

# A context variable, and the one or two objects that it may hold.
Ambient = tuple[ContextVar[Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Operand:
    """A cell that is passed: its class, and what its array must be (C-contiguous, aligned)."""

    kind: type
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """A result: returned, or the new value of an operand's cell.

    `in_place`: the plan may be given the buffer that the cell holds, if nothing else holds it.
    `view_of`: it is no output of the plan, but a view of an operand's array (counted first) or an
    earlier result's. The outputs of the plan are the other results, in the order of `output`.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    operand: int | None = None
    in_place: bool = False
    view_of: int | None = None
    output: int = 0


@dataclass(frozen=True)
class CallType:
    """What a plan takes and gives. The results that are returned make a tuple, or if `single`,
    where there is one, are returned as it is.

    `sizes` are the values of the plan's symbolic sizes. `is_long`: other threads of Python may run
    meanwhile; `calls_python`: the plan calls back, so they always may. Then nothing is in place.
    """

    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    single: bool = False
    sizes: tuple[int, ...] = ()
    arena_bytes: int = 0
    is_long: bool = False
    calls_python: bool = False

    @property
    def returned(self) -> list[int]:
        """Which results are returned."""
        return [k for k, result in enumerate(self.results) if result.operand is None]

    @property
    def outputs(self) -> list[int]:
        """Which results are outputs of the plan, in its order."""
        own = [k for k, result in enumerate(self.results) if result.view_of is None]
        return sorted(own, key=lambda k: self.results[k].output)


class Tally:
    """A count of calls, and for whoever asks the number of the last one of each entry."""

    def __init__(self) -> None:
        self.calls = np.zeros(1, np.int64)

    def note(self, stamp: np.ndarray[Any, Any]) -> None:
        """Count a call."""
        self.calls[0] += 1
        stamp[0] = self.calls[0]


def entry(
    plan: Any,
    address: int,
    type_: CallType,
    arenas: Arenas,
    tally: Tally,
    stamp: np.ndarray[Any, Any],
    ambient: Sequence[Ambient] = (),
) -> Callable[..., Any]:
    """The callable of cells for a plan whose code lies at `address`; it keeps `plan` alive."""
    make = _native if engine.available() and layout() is not None else by_ctypes
    return make(plan, address, type_, arenas, tally, stamp, ambient)


# ----- through ctypes -----------------------------------------------------------------------------


def by_ctypes(
    plan: Any,
    address: int,
    type_: CallType,
    arenas: Arenas,
    tally: Tally,
    stamp: np.ndarray[Any, Any],
    ambient: Sequence[Ambient] = (),
) -> Callable[..., Any]:
    """As `entry`, in Python. Nothing is in place: it cannot tell who holds a buffer."""
    gives_up = type_.is_long or type_.calls_python
    prototype = ctypes.CFUNCTYPE if gives_up else ctypes.PYFUNCTYPE
    run = prototype(ctypes.c_int64, ctypes.c_void_p)(address)

    def call(*cells: Any) -> Any:
        arrays = _arrays(type_, cells)
        if arrays is None or any(
            not any(variable.get() is x for x in allowed) for variable, allowed in ambient
        ):
            return NotImplemented
        results = _results(type_, arrays)
        needed = type_.arena_bytes
        with arenas.taking(needed) if needed else nullcontext(0) as arena:
            outputs = [results[k] for k in type_.outputs]
            pointers = [array.ctypes.data for array in (*arrays, *outputs)]
            block = np.array([*pointers, arena, *type_.sizes], np.int64)
            if run(block.ctypes.data) != 0:
                return NotImplemented
        tally.note(stamp)
        return _delivered(type_, cells, results)

    call.plan = plan  # type: ignore[attr-defined]
    return call


def _arrays(type_: CallType, cells: Sequence[Any]) -> list[Any] | None:
    """The arrays of the cells, None where these are not what the type says."""
    if len(cells) != len(type_.operands) or len(set(map(id, cells))) < len(cells):
        return None
    arrays = []
    for cell, operand in zip(cells, type_.operands, strict=True):
        array = getattr(cell, "_value", None) if type(cell) is operand.kind else None
        if type(array) is not np.ndarray or array.dtype is not operand.dtype:
            return None
        if array.shape != operand.shape or array.flags.num & ORDERED != ORDERED:
            return None
        arrays.append(array)
    return arrays


def _results(type_: CallType, arrays: Sequence[Any]) -> list[Any]:
    """Fresh arrays for the results, and views."""
    known = list(arrays)
    for result in type_.results:
        if result.view_of is None:
            known.append(np.empty(result.shape, result.dtype))
        else:
            known.append(known[result.view_of].reshape(result.shape).view())
    return known[len(arrays) :]


def _delivered(type_: CallType, cells: Sequence[Any], results: Sequence[Any]) -> Any:
    """What a call returns, after the results that are written went into their cells."""
    pairs = list(zip(type_.results, results, strict=True))
    put([(cells[r.operand], array) for r, array in pairs if r.operand is not None])
    returned = tuple(Tensor(array) for r, array in pairs if r.operand is None)
    return returned[0] if type_.single else returned


# ----- as machine code ----------------------------------------------------------------------------


class Layout(NamedTuple):
    """What the machine code needs to know of this process: the offset of `_value`, and `Api`."""

    slot: int
    api: np.ndarray[Any, Any]


@cache
def layout() -> Layout | None:
    """The layout of this process, None where structs are not as the machine code reads them."""
    if (
        sys.implementation.name != "cpython"
        or sys.byteorder != "little"
        or ctypes.sizeof(ctypes.c_void_p) != 8
        or getattr(sys, "abiflags", "not POSIX") != ""  # builds for debugging, or without a GIL
    ):
        return None
    member = _word(Cell.__dict__["_value"], 5)  # a PyMemberDef: name, kind, offset
    slot = ctypes.c_ssize_t.from_address(member + 16).value
    samples: list[Any] = [np.ones((2, 3), np.float32), np.ones(()), np.arange(6)[::2]]
    samples += [np.ones((2, 3)).T, np.broadcast_to(np.ones(3), (2, 3))]
    cells = [kind.__new__(kind) for kind in (Tensor, Variable)]
    for cell, array in zip(cells, samples, strict=False):
        cell._value = array
    if not all(_is_array(x) for x in samples) or not all(_is_cell(x, slot) for x in cells):
        return None
    if _word((cells[0],), Object.ITEMS) != id(cells[0]):
        return None
    return Layout(slot, _api(slot))


def _word(obj: Any, place: int) -> int:
    """A word of an object's struct."""
    return ctypes.c_int64.from_address(id(obj) + 8 * place).value


def _is_cell(cell: Any, slot: int) -> bool:
    inside = 16 <= slot < type(cell).__basicsize__
    if not inside or _word(cell, Object.TYPE) != id(type(cell)):
        return False
    return ctypes.c_int64.from_address(id(cell) + slot).value == id(cell._value)


def _is_array(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array's words are where they are looked for."""
    shape = _word(array, Object.SHAPE)
    sizes = [ctypes.c_int64.from_address(shape + 8 * k).value for k in range(array.ndim)]
    half = 0xFFFFFFFF  # rank and flags are of 32 bits
    found = (
        _word(array, Object.TYPE),
        _word(array, Object.DATA),
        _word(array, Object.RANK) & half,
        tuple(sizes),
        _word(array, Object.BASE),
        _word(array, Object.DESCR),
        _word(array, Object.FLAGS) & half,
        _word(array, Object.WEAK_REFERENCES),
    )
    base = 0 if array.base is None else id(array.base)
    descr, data = id(array.dtype), array.__array_interface__["data"][0]
    known = id(np.ndarray), data, array.ndim, array.shape, base, descr, array.flags.num, 0
    # Both calls count the argument that they hold.
    return found == known and _word(array, Object.REFERENCES) == sys.getrefcount(array)


def _address(function: Any) -> int:
    """Where a C function lies."""
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _numpy_function(index: int) -> int:
    """A function of NumPy's C interface, by its place in the table that it exports."""
    core: Any = sys.modules.get("numpy._core._multiarray_umath")
    core = core or sys.modules["numpy.core._multiarray_umath"]  # before NumPy 2
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    table = pointer(core._ARRAY_API, None)
    return ctypes.c_int64.from_address(table + 8 * index).value


_NEW_FROM_DESCR, _SET_BASE_OBJECT = 94, 282


def _api(slot: int) -> np.ndarray[Any, Any]:
    """The words of `Api`."""
    python, process = ctypes.pythonapi, ctypes.CDLL(None)
    known = {
        Api.NOT_IMPLEMENTED: id(NotImplemented),
        Api.NDARRAY: id(np.ndarray),
        Api.TENSOR: id(Tensor),
        Api.SLOT: slot,
        Api.NEW_ARRAY: _numpy_function(_NEW_FROM_DESCR),
        Api.NEW_OBJECT: _address(python.PyType_GenericAlloc),
        Api.NEW_TUPLE: _address(python.PyTuple_New),
        Api.INCREF: _address(python.Py_IncRef),
        Api.DECREF: _address(python.Py_DecRef),
        Api.CONTEXT_GET: _address(python.PyContextVar_Get),
        Api.SAVE_THREAD: _address(python.PyEval_SaveThread),
        Api.RESTORE_THREAD: _address(python.PyEval_RestoreThread),
        Api.INTERPRETER: _address(python.PyInterpreterState_Get),
        Api.FIRST_THREAD: _address(python.PyInterpreterState_ThreadHead),
        Api.NEXT_THREAD: _address(python.PyThreadState_Next),
        Api.ALLOCATE: _address(process.aligned_alloc),
        Api.ADVISE: _address(process.madvise),
        Api.FREE: _address(process.free),
        Api.SET_BASE: _numpy_function(_SET_BASE_OBJECT),
    }
    return np.array([known[name] for name in Api], np.int64)


class _MethodDef(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_FASTCALL = 0x80


def _object_code() -> bytes:
    """The code of all entries, from the cache on disk where it is there."""
    text, disk = code(), compiled.disk()
    if disk is None:
        return engine.compile_ir(text)
    key = compiled.key("entry", engine.target(), text)
    with disk.building(key) as found:
        if found is not None:
            return found[1]
        made = engine.compile_ir(text)
        disk.put(key, {"name": "entry"}, made)
        return made


@cache
def _method() -> tuple[_MethodDef, engine.Library]:
    """The one function that all entries are; it stays, for builtins refer to it."""
    library = engine.load(_object_code())
    return _MethodDef(b"call", library.address("sk_call"), _FASTCALL, None), library


def _native(
    plan: Any,
    address: int,
    type_: CallType,
    arenas: Arenas,
    tally: Tally,
    stamp: np.ndarray[Any, Any],
    ambient: Sequence[Ambient],
) -> Callable[..., Any]:
    known = layout()
    assert known is not None
    returned = type_.returned
    words = _Words(len(Table))
    words.rows(Table.OPERANDS, Table.OPERAND_ROWS, _operand_rows(words, type_))
    words.rows(Table.RESULTS, Table.RESULT_ROWS, _result_rows(words, type_))
    words.rows(Table.SIZES, Table.SIZE_ROWS, [[size] for size in type_.sizes])
    rows = [[id(variable), id(allowed[0]), id(allowed[-1])] for variable, allowed in ambient]
    words.rows(Table.AMBIENT, Table.AMBIENT_ROWS, rows)
    words[Table.OUTPUTS] = len(type_.outputs)
    words[Table.RETURNED] = len(returned)
    words[Table.SINGLE] = returned[0] if type_.single else -1
    words[Table.PLAN] = address
    words[Table.ARENA_BYTES] = type_.arena_bytes
    words[Table.ARENAS] = arenas.address
    words[Table.LONG] = 2 if type_.calls_python else int(type_.is_long)
    words[Table.CALLS], words[Table.STAMP] = tally.calls.ctypes.data, stamp.ctypes.data
    words[Table.API] = known.api.ctypes.data
    held = (words.array(), plan, type_, arenas, tally, stamp, ambient)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    make.restype = ctypes.py_object
    made: Callable[..., Any] = make(ctypes.addressof(_method()[0]), held, None)
    return made


def _operand_rows(words: _Words, type_: CallType) -> list[list[Any]]:
    return [
        [id(x.kind), id(x.dtype), len(x.shape), words.place(x.shape)] for x in type_.operands
    ]


def _result_rows(words: _Words, type_: CallType) -> list[list[Any]]:
    first = len(type_.operands)
    word = {k: first + i for i, k in enumerate(type_.outputs)}
    return [
        [
            id(x.dtype),
            len(x.shape),
            words.place(x.shape),
            -1 if x.operand is None else x.operand,
            int(x.in_place),
            -1 if x.view_of is None else x.view_of,
            word.get(k, 0),
        ]
        for k, x in enumerate(type_.results)
    ]


class _Place(int):
    """The place of a word in the table, in whose stead its address is written."""


class _Words:
    """A table as it grows: the words of `Table`, then rows and sizes."""

    def __init__(self, count: int) -> None:
        self._words: list[int] = [0] * count

    def __setitem__(self, place: int, word: int) -> None:
        self._words[place] = word

    def place(self, words: Iterable[int]) -> _Place:
        """Where some words were laid."""
        place = _Place(len(self._words))
        self._words += words
        return place

    def rows(self, count: int, address: int, rows: Sequence[Sequence[int]]) -> None:
        """Lay some rows; their number and their address become words of the table."""
        self[count] = len(rows)
        self[address] = self.place([word for row in rows for word in row])

    def array(self) -> np.ndarray[Any, Any]:
        """The table in memory."""
        made = np.zeros(len(self._words), np.int64)
        base = made.ctypes.data
        made[:] = [base + 8 * word if type(word) is _Place else word for word in self._words]
        return made
