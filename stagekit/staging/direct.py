"""The direct way from a call to machine code: a Python function written for one entry.

It has the parameters of the staged function, looks at everything that the entry relies on (guards,
structures, numbers, which cells are one), reads the captures, and hands the cells to the builtin of
`kernels.entry`, which checks those. Its answer is the call's result, or NotImplemented where the
call must go the way of `Function`, which decides what it is. It is for the sizes of one call.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stagekit import tree
from stagekit.eager.interpreter import EAGER, as_array
from stagekit.evaluation import scalar
from stagekit.kernels.machine.entry import Ambient, Operand, Tally, entry
from stagekit.kernels.machine.entry_code import ORDERED
from stagekit.op import current_variable
from stagekit.placement import device_variable
from stagekit.random import holding, lock_of
from stagekit.settings import config
from stagekit.staging.ambient import eagerly_variable
from stagekit.staging.measure import listening
from stagekit.staging.python.paths import Guard, Path, Writer, hold
from stagekit.staging.signature import Binding, Call, Name, hashes_by_identity
from stagekit.staging.trace import Entry
from stagekit.symbolic import Formula, evaluate, names
from stagekit.tensor import Tensor, Variable
from stagekit.types import DType


class Given(NamedTuple):
    """A call that an entry is right for: its arguments as the caller passed them, and as the entry
    took them, with its cells, captures included, and the values of its names.
    """

    arguments: dict[str, Any]
    call: Call
    cells: list[Any]
    env: dict[str, Any]


class _Unfit(Exception):
    """This call has no direct way."""


def direct(
    name: str,
    binding: Binding,
    static: frozenset[str],
    device: str | None,
    found: Entry,
    given: Given,
    tally: Tally,
) -> Any:
    """The function for calls like `given`, None where there is none such."""
    assert found.concrete is not None
    plan = found.concrete.native
    if plan is None or plan.address is None or config.trap is not None:
        return None
    try:
        writer = _Direct(binding, static, found, given, plan)
        inputs = [given.cells[k] for k in found.take]
        place = {id(cell): k for k, cell in enumerate(inputs)}
        written = [place[id(given.cells[k])] for k in found.writes]
        returned = [None] * (len(plan.graph.outputs) - len(written))
        single = found.single is not None
        if single and len(returned) > 1:
            return None
        numbers = [Operand(Tensor, node.type.dtype.numpy, ()) for node in plan.numbers]
        operands = [*map(_operand, inputs), *numbers]
        call_type = plan.call_type(operands, [*returned, *written], single, given.env)
        if call_type is None:
            return None
        ambient: list[Ambient] = [
            (current_variable, (None, EAGER)),
            (eagerly_variable, (False,)),
            (listening, (None,)),
        ]
        if device is None:
            ambient.append((device_variable, (given.call.key[0][2],)))
        code = plan, plan.address
        call = entry(*code, call_type, plan.arenas, tally, found.stamp, ambient)
        return writer.function(name, call, inputs)
    except _Unfit:
        return None


def _operand(cell: Any) -> Operand:
    return Operand(type(cell), cell._value.dtype, cell._value.shape)


def varying(found: Entry) -> frozenset[str]:
    """The Python numbers that may differ from call to call: no size or index depends on them."""
    assert found.concrete is not None and found.concrete.native is not None
    known = {n.name for n in found.pattern.numbers if type(n) is Name}
    return frozenset(known.difference(found.concrete.native.graph.symbols))


def are_ordered(cells: Sequence[Any]) -> bool:
    """Whether all arrays are as machine code takes them."""
    return all(cell._value.flags.num & ORDERED == ORDERED for cell in cells)


# ----- the source ---------------------------------------------------------------------------------

_MISS = "NotImplemented"
_BUILTINS = frozenset(("NotImplemented", "all", "dict", "getattr", "hasattr", "len", "list", "map"))
_BUILTINS |= frozenset(("tuple", "type"))
_OWN = re.compile(r"_[cv]\d+")


class _Direct:
    """Writes the function for one entry and one call."""

    def __init__(
        self, binding: Binding, static: frozenset[str], found: Entry, given: Given, plan: Any
    ) -> None:
        self.binding, self.found, self.given, self.plan = binding, found, given, plan
        self.varying = varying(found)
        self.patterns = iter(found.pattern.numbers)
        self.named: dict[str, str] = {}  # the texts of the numbers that vary
        parameters = binding.names
        everything = ", ".join(f"{name!r}: {name}" for name in parameters)
        self.writer = Writer(_MISS, f"{{{everything}}}", lambda name: name)
        bound = {"Tensor": Tensor, "scalar": scalar, "as_array": as_array, "ndarray": np.ndarray}
        bound |= {"GONE": (*self.writer.bound["GONE"], ArithmeticError), "config": config}
        bound |= {"unflatten": tree.unflatten, "lock_of": lock_of, "holding": holding}
        bound |= {"call": None, **binding.defaults}
        self.writer.bound |= bound
        taken = _BUILTINS | self.writer.bound.keys()
        if any(name in taken or _OWN.fullmatch(name) for name in parameters):
            raise _Unfit
        self.cells: list[str] = []
        self.guards = list(found.guards)
        for name in parameters:
            value = given.arguments[name]
            if name in static:
                self._object(name, value)
            else:
                self._argument(name, value)
            if not isinstance(value, Tensor):  # what is read of it depends on its class
                self.guards.append(Guard(Path("argument", name), "type", hold(type(value))))
        self._captures()
        self._facts()

    # ----- what the entry relies on

    def _argument(self, text: str, value: Any) -> None:
        """One argument, or part of one: a cell, a number, an object, or structure of such."""
        kind = type(value)
        if kind is Tensor or kind is Variable:
            self.cells.append(text)
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(text, kind)
        elif kind in (tuple, list):
            self.writer.require(f"type({text}) is {kind.__name__} and len({text}) == {len(value)}")
            self._parts(text, value)
        elif kind is dict:
            if any(type(key) is not str for key in value):
                raise _Unfit
            keys = self.writer.constant(tuple(value))
            self.writer.require(f"type({text}) is dict and (*{text},) == {keys}")
            self._parts(f"{text}.values()", list(value.values()))
        elif kind in (int, float):
            self._number(text, value)
        elif value is None or tree.is_leaf(value):
            self._object(text, value)
        else:
            raise _Unfit

    def _parts(self, text: str, values: Sequence[Any]) -> None:
        parts = [self.writer.name() for _ in values]
        if parts:
            self.writer.lines.append(f"{', '.join(parts)}, = {text}")
        for part, value in zip(parts, values, strict=True):
            self._argument(part, value)

    def _array(self, text: str, kind: type) -> None:
        """An array of NumPy's, which each call copies."""
        known = "ndarray" if kind is np.ndarray else self.writer.constant(kind)
        self.writer.require(f"type({text}) is {known}")
        self.cells.append(self.writer.variable(f"Tensor(as_array({text}))"))

    def _number(self, text: str, value: Any) -> None:
        pattern = next(self.patterns, None)
        if pattern is None:
            raise _Unfit  # a fixed signature made a tensor of it
        if type(pattern) is Name and pattern.name in self.varying:
            self.named[pattern.name] = text
            self.writer.require(f"type({text}) is {type(value).__name__}")
        else:
            self.writer.scalar(text, value)

    def _facts(self) -> None:
        """What the trace relied on of numbers that vary; the rest holds for these sizes."""
        for fact in self.found.facts.known:
            if (names(fact.left) | names(fact.right)) & self.varying:
                self.writer.require(f"{self.writer.constant(fact.holds)}({self._env()})")

    def _env(self) -> str:
        """The text of the values of all names."""
        fixed = {k: v for k, v in self.given.env.items() if k not in self.varying}
        inside = "".join(f", {name!r}: {text}" for name, text in self.named.items())
        return f"{{**{self.writer.constant(fixed)}{inside}}}"

    def _value(self, expr: Any) -> str:
        """The text of an expression's value."""
        if not names(expr) & self.varying:
            return self.writer.constant(evaluate(expr, self.given.env))
        if isinstance(expr, Formula) and expr.op == "name":
            return self.named[expr.args[0]]
        return f"{self.writer.constant(expr.evaluate)}({self._env()})"

    def _object(self, text: str, value: Any) -> None:
        """What is no tensor: by value where that is plain, else by identity."""
        kind = type(value)
        if value is None:
            self.writer.require(f"{text} is None")
        elif kind in (bool, int, float, complex, str, bytes):
            self.writer.scalar(text, value)
        elif isinstance(value, (types.FunctionType, DType)) or hashes_by_identity(kind):
            self.writer.require(f"{text} is {self.writer.held(hold(value))}")
        else:
            raise _Unfit

    def _captures(self) -> None:
        """Guards and captured tensors, and the objects that the result holds."""
        captures, outputs = self.found.captures, self.found.outputs
        paths = [c.path for c in captures if c.path is not None]
        paths += [o.value for o in outputs if o.kind == "path"]
        read = iter(self.writer.write(self.guards, paths))
        for bound in captures:
            text = self.writer.constant(bound.held) if bound.path is None else next(read)
            if bound.kind is np.ndarray:
                self._array(text, np.ndarray)
            else:
                self.cells.append(text)
        self.paths = iter(list(read))

    def _operands(self, inputs: Sequence[Any]) -> list[str]:
        """The names of the cells to pass; of two that are one cell the second must be the first."""
        texts: dict[int, str] = {}
        for text, cell in zip(self.cells, self.given.cells, strict=True):
            if texts.setdefault(id(cell), text) is not text:
                self.writer.require(f"{text} is {texts[id(cell)]}")
        return [texts[id(cell)] for cell in inputs]

    # ----- the whole

    def function(self, name: str, call: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        """The function, which calls `call` with the cells `inputs`."""
        operands = self._operands(inputs)
        for node in self.plan.numbers:
            value = self._value(dict(node.attrs)["expr"])
            kind = self.writer.constant(node.type.dtype)
            operands.append(self.writer.variable(f"Tensor(scalar({value}, {kind}))"))
        outcome = list(self._outcome(f"call({', '.join(operands)})"))
        head = "if config.disable or config.trap is not None: return NotImplemented"
        lines = [head, "try:", *(f"    {line}" for line in self.writer.lines or ["pass"])]
        lines += ["except GONE:", "    return NotImplemented", *outcome]
        body = "".join(f"    {line}\n" for line in lines)
        self.writer.bound["call"] = call
        source = f"def direct({self.binding.header}):\n{body}"
        exec(compile(source, f"<stagekit way to {name}>", "exec"), self.writer.bound)
        made = self.writer.bound.pop("direct")
        return made

    def _outcome(self, called: str) -> Iterator[str]:
        """Lines that call, under the locks of the generators' states, and make the result."""
        states = [self.cells[k] for k in self.found.draws]
        result = self._result()
        indent = ""
        if states:
            each = f"holding(({', '.join(states)}))"
            yield f"with {each if len(states) > 1 else f'lock_of({states[0]})'}:"
            indent = "    "
        if result is None:
            yield f"{indent}return {called}"
        else:
            yield f"{indent}_r = {called}"
            yield f"return _r if _r is {_MISS} else {result}"

    def _result(self) -> str | None:
        """The text of the result where `_r` is the builtin's; None where it is that."""
        spec = self.found.spec
        assert spec is not None
        if self.found.single is not None:
            return None
        leaves = [_Text(self._leaf(output)) for output in self.found.outputs]
        whole = _text(tree.unflatten(spec, leaves))
        if whole is not None:
            return whole
        return f"unflatten({self.writer.constant(spec)}, [{', '.join(leaves)}])"

    def _leaf(self, output: Any) -> str:
        if output.kind == "node":
            return f"_r[{output.value}]"
        if output.kind == "cell":
            place: int = output.value
            return self.cells[place]
        if output.kind == "path":
            path: str = next(self.paths)
            return path
        if output.kind == "constant":
            return self.writer.constant(output.value)
        return self._value(output.value)


class _Text(str):
    """The source of a leaf."""

    __slots__ = ()


def _text(value: Any) -> str | None:
    """The source of plain containers of leaves, None for any other."""
    kind: Any = type(value)
    if kind is _Text or value is None:
        return f"{value}"
    if kind not in (tuple, list, dict):
        return None
    parts = [_text(part) for part in (value.values() if kind is dict else value)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or (kind is dict and any(type(key) is not str for key in value)):
        return None
    if kind is dict:
        return f"{{{', '.join(f'{k!r}: {v}' for k, v in zip(value, known, strict=True))}}}"
    inside = ", ".join(known)
    return f"[{inside}]" if kind is list else f"({inside}{',' if len(known) == 1 else ''})"
