"""What a code object reads and writes of the objects around it, from its bytecode alone.

`scan(code)` runs the bytecode once on symbolic values. A value is a set of expressions such as
`("attr", ("global", "cfg"), "lr")`; where control flow joins, sets are united. The result lists
each expression read, how it was used, and each store with its line. Nothing is executed, no
source is needed, and what is not understood becomes `WILD`: any object the trace has met.
"""

from __future__ import annotations

import dis
import heapq
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from types import CodeType
from typing import Any, NamedTuple

from stagekit.staging.python.callees import model_of
from stagekit.staging.python.symbols import (
    ANY,
    EMPTY,
    FRESH,
    NEW,
    PARTS,
    SLICE,
    WILD,
    Expr,
    Value,
    as_key,
    bounded,
    chain,
    component,
    const_each,
    const_item,
    constant,
    depth,
    inside,
    nested,
    root,
    widened,
)

MAX_STEPS = 200_000


class Read(NamedTuple):
    """`use`: load, get (load, or absent), has, iter, next, len, truth, compare, same, deep,
    content (of an array), attributes, return, or escape (an argument of `callee`)."""

    expr: Expr
    use: str
    line: int
    callee: Value = EMPTY


class Write(NamedTuple):
    """`kind`: attr, item, inplace, global or deref. `base` is the object written to."""

    kind: str
    base: Expr | None
    name: object
    line: int


@dataclass(frozen=True)
class Scan:
    """All reads and writes of one code object; `start` is the offset of its first RESUME."""

    reads: tuple[Read, ...]
    writes: tuple[Write, ...]
    start: int


class _State:
    """Stack and local variables before one instruction."""

    __slots__ = ("names", "stack")

    def __init__(self, stack: list[Value], names: dict[str, Value]) -> None:
        self.stack = stack
        self.names = names

    def merge(self, stack: list[Value], names: dict[str, Value]) -> bool:
        """Unite with another state that reaches the same instruction; True when it grew."""
        grew = False
        for i in range(min(len(self.stack), len(stack))):
            if not stack[i] <= self.stack[i]:
                united = widened(self.stack[i], stack[i])
                grew = grew or united != self.stack[i]
                self.stack[i] = united
        for name, value in names.items():
            old = self.names.get(name, EMPTY)
            if not value <= old:
                united = widened(old, value)
                grew = grew or united != old
                self.names[name] = united
        return grew


class _Machine:
    """The symbolic machine; a method named after an opcode gives its meaning."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        listing = dis.Bytecode(code)
        self.instructions = list(listing)
        self.handlers = list(getattr(listing, "exception_entries", ()))
        self.position = {i.offset: n for n, i in enumerate(self.instructions)}
        self.leaders = {0} | {e.target for e in self.handlers} | {e.start for e in self.handlers}
        jumps = (i.argval for i in self.instructions if i.opcode in _JUMPS)
        self.leaders.update(jumps)
        self.reads: dict[tuple[Expr, str, Value], tuple[int, int]] = {}
        self.writes: dict[tuple[str, Expr | None, object], tuple[int, int]] = {}
        self.cells: dict[str, Value] = {}
        self.pool: Value = EMPTY  # what was put into objects made inside the call
        self.states: dict[int, _State] = {}
        self.work: list[int] = []
        self.steps = 0
        self.here = (0, code.co_firstlineno)  # offset and line
        self.keywords: tuple[str, ...] = ()
        self.parameters = _parameters(code)

    # ------------------------------------------------------------------ control flow

    def run(self) -> Scan:
        for _ in range(4):
            before = self.pool, dict(self.cells)
            self._sweep()
            if before == (self.pool, self.cells):
                break
        start = next((i.offset for i in self.instructions if i.opname == "RESUME"), 0)
        reads = (Read(key[0], key[1], here[1], key[2]) for key, here in _ordered(self.reads))
        writes = (Write(key[0], key[1], key[2], here[1]) for key, here in _ordered(self.writes))
        return Scan(tuple(reads), tuple(writes), start)

    def _sweep(self) -> None:
        names = {name: frozenset([("local", name)]) for name in self.parameters}
        for name in set(self.code.co_cellvars) & set(names):
            self.cells[name] = self.cells.get(name, EMPTY) | names[name]
        self.states = {}
        self._flow(0, [], names)
        while self.work:
            self._block(heapq.heappop(self.work))  # in the order of the code: few are run twice

    def _flow(self, offset: int, stack: list[Value], names: dict[str, Value]) -> None:
        state = self.states.get(offset)
        if state is None:
            self.states[offset] = _State(list(stack), dict(names))
        elif not state.merge(stack, names):
            return
        if offset not in self.work:
            heapq.heappush(self.work, offset)

    def _block(self, offset: int) -> None:
        state = self.states[offset]
        self.stack, self.names = list(state.stack), dict(state.names)
        self._raise_to_handlers(offset)
        for instruction in self.instructions[self.position[offset] :]:
            if instruction.offset != offset and instruction.offset in self.leaders:
                self._flow(instruction.offset, self.stack, self.names)
                return
            if not self._step(instruction):
                return

    def _raise_to_handlers(self, offset: int) -> None:
        for entry in self.handlers:
            if entry.start <= offset < entry.end:
                kept = self.stack[: entry.depth]
                kept += [EMPTY] * (entry.depth - len(kept))
                self._flow(entry.target, [*kept, *([NEW] if entry.lasti else []), NEW], self.names)

    def _step(self, instruction: dis.Instruction) -> bool:
        """Run one instruction; False when control does not reach the next one."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise RecursionError("too many steps")
        positions = instruction.positions
        if positions is not None and positions.lineno is not None:
            self.here = instruction.offset, positions.lineno
        name = instruction.opname
        if instruction.opcode in _JUMPS:
            return self._jump(instruction)
        if name in _SIMPLE:
            self._simple(*_SIMPLE[name])
        elif (meaning := getattr(self, name, None)) is not None:
            meaning(instruction)
        else:
            self._effect(dis.stack_effect(instruction.opcode, instruction.arg))
        if "STORE_FAST" in name or name == "STORE_NAME":
            self._raise_to_handlers(instruction.offset)
        return not name.startswith(("RETURN_VALUE", "RETURN_CONST", "RAISE_", "RERAISE"))

    def _jump(self, instruction: dis.Instruction) -> bool:
        name, target = instruction.opname, instruction.argval
        if name == "FOR_ITER":
            iterator = self.stack[-1] if self.stack else EMPTY
            self._branch(instruction)
            self.push(self.each(iterator))
        elif name == "SEND":
            self._branch(instruction)
            self.pop()
            self.push(NEW)
        elif name.startswith("JUMP_IF"):
            self.read(self.top(), "truth")
            self._flow(target, self.stack, self.names)
            self.pop()
        elif name.startswith("POP_JUMP"):
            self.read(self.pop(), "same" if "NONE" in name else "truth")
            self._flow(target, self.stack, self.names)
        else:
            self._flow(target, self.stack, self.names)
            return False
        return True

    def _branch(self, instruction: dis.Instruction) -> None:
        """The taken side of an instruction whose stack effect differs by side."""
        effect = dis.stack_effect(instruction.opcode, instruction.arg, jump=True)
        stack = self.stack + [NEW] * effect if effect >= 0 else self.stack[:effect]
        if instruction.opname == "SEND" and stack:
            stack = [*stack[:-1], NEW]
        self._flow(instruction.argval, stack, self.names)

    # ------------------------------------------------------------------ stack and records

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        return self.stack.pop() if self.stack else EMPTY

    def top(self, depth: int = 1) -> Value:
        return self.stack[-depth] if len(self.stack) >= depth else EMPTY

    def pops(self, count: int) -> list[Value]:
        return [self.pop() for _ in range(count)][::-1]

    def _effect(self, effect: int) -> None:
        self.pops(-effect)
        self.stack += [NEW] * effect

    def _simple(self, pops: int, use: str, pushes: int) -> None:
        for value in self.pops(pops):
            self.read(value, use)
        self.stack += [NEW] * pushes

    def read(self, value: Value, use: str, callee: Value = EMPTY) -> Value:
        for expr in value:
            if expr[0] in PARTS:
                self.read(inside(expr), use, callee)
            elif expr[0] not in _ROOTLESS:
                if use != "load" and expr[0] == "attr" and expr[2] == "__dict__":
                    self.reads.setdefault((expr[1], "attributes", EMPTY), self.here)
                self.reads.setdefault((expr, use, callee), self.here)
        return value

    def write(self, kind: str, bases: Value, names: Iterable[object]) -> None:
        for base, name in product(bases, tuple(names)):
            self.writes.setdefault((kind, base, name), self.here)

    def keep(self, value: Value) -> None:
        """Something was put into an object: reading from a new object may give it back."""
        kept = (e for e in nested(value) if e[0] not in _ROOTLESS or e == WILD)
        self.pool = widened(self.pool, frozenset(kept))

    # ------------------------------------------------------------------ parts of a value

    def attr(self, value: Value, name: str) -> Value:
        out: set[Expr] = set()
        for expr in value or ANY:
            tag = expr[0]
            if tag == "fresh" or tag in PARTS:
                out |= self.pool | NEW
            elif tag == "wild":
                out |= {("attr", WILD, name), WILD}
            elif tag not in ("const", "slice"):
                out.add(chain(("attr", expr, name)))
                if root(expr) == WILD or tag == "result":
                    out |= {("attr", WILD, name), WILD}
        return bounded(out or NEW)

    def item(self, value: Value, keys: Value) -> Value:
        out: set[Expr] = set()
        for expr, key in product(value or ANY, frozenset(map(as_key, keys)) or NEW):
            tag = expr[0]
            if key == SLICE:
                out.add(expr)
            elif tag in PARTS:
                out |= component(expr, key) or self.pool | NEW
            elif tag == "fresh":
                out |= self.pool | NEW
            elif tag == "attr" and expr[2] == "__dict__" and key[:2] == ("const", str):
                out |= self.attr(frozenset([expr[1]]), key[2])
            elif tag == "const":
                out |= const_item(expr[2], key)
            elif tag == "globals" and key[:2] == ("const", str):
                out.add(("global", key[2]))
            elif tag == "wild":
                out |= {("item", WILD, key), WILD} if key[:2] == ("const", str) else ANY
            elif tag != "slice":
                out.add(chain(("item", expr, key)))
                if root(expr) == WILD or tag == "result":
                    out |= ANY
        return bounded(out or NEW)

    def each(self, value: Value) -> Value:
        """The elements of a value, read."""
        return self.read(self.elements(value), "load")

    def elements(self, value: Value) -> Value:
        out: set[Expr] = set()
        for expr in value or ANY:
            tag = expr[0]
            if tag == "fresh":
                out |= self.pool | NEW
            elif tag in PARTS:
                out |= inside(expr) | self.pool
            elif tag in _PAIRS:
                out.add(("display", self._pair(expr)))
            elif tag == "const":
                out |= const_each(expr[2])
            elif tag in ("wild", "slice", "code"):
                out.add(WILD)
            else:
                out.add(chain(("each", expr)))
                if root(expr) == WILD or tag == "result":
                    out.add(WILD)
        return bounded(out or NEW)

    def _pair(self, expr: Expr) -> tuple[Value, ...]:
        """What one step of enumerate, zip or items gives."""
        if expr[0] == "zip":
            return tuple(self.elements(part) for part in expr[1])
        if expr[0] == "enumerate":
            return NEW, self.elements(frozenset([expr[1]]))
        return frozenset([("each", expr[1])]), frozenset([("each", ("values", expr[1]))])

    # ------------------------------------------------------------------ loads

    def RESUME(self, _: dis.Instruction) -> None:
        pass

    def KW_NAMES(self, i: dis.Instruction) -> None:
        self.keywords = i.argval if isinstance(i.argval, tuple) else self.code.co_consts[i.arg or 0]

    def LOAD_CONST(self, i: dis.Instruction) -> None:
        self.push(constant(i.argval))

    def LOAD_FAST(self, i: dis.Instruction) -> None:
        names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
        for name in names:
            self.push(self.names.get(name, EMPTY) or self.cells.get(name, NEW))

    LOAD_FAST_LOAD_FAST = LOAD_FAST_CHECK = LOAD_FAST_AND_CLEAR = LOAD_FAST

    def STORE_FAST(self, i: dis.Instruction) -> None:
        self.names[i.argval] = self.pop()

    STORE_FAST_MAYBE_NULL = STORE_FAST

    def STORE_FAST_LOAD_FAST(self, i: dis.Instruction) -> None:
        self.names[i.argval[0]] = self.pop()
        self.push(self.names.get(i.argval[1], NEW))

    def STORE_FAST_STORE_FAST(self, i: dis.Instruction) -> None:
        for name in i.argval:
            self.names[name] = self.pop()

    def DELETE_FAST(self, i: dis.Instruction) -> None:
        self.names.pop(i.argval, None)

    def LOAD_GLOBAL(self, i: dis.Instruction) -> None:
        null = bool((i.arg or 0) & 1)
        if null and sys.version_info < (3, 13):
            self.push(EMPTY)
        self.push(self.read(frozenset([("global", i.argval)]), "load"))
        if null and sys.version_info >= (3, 13):
            self.push(EMPTY)

    def LOAD_NAME(self, i: dis.Instruction) -> None:
        known = self.names.get(i.argval, EMPTY)
        self.push(known or self.read(frozenset([("global", i.argval)]), "load"))

    def LOAD_FROM_DICT_OR_GLOBALS(self, i: dis.Instruction) -> None:
        self.pop()
        self.LOAD_NAME(i)

    def STORE_NAME(self, i: dis.Instruction) -> None:
        self.names[i.argval] = self.pop()

    def STORE_GLOBAL(self, i: dis.Instruction) -> None:
        self.pop()
        self.writes.setdefault(("global", None, i.argval), self.here)

    def DELETE_GLOBAL(self, i: dis.Instruction) -> None:
        self.writes.setdefault(("global", None, i.argval), self.here)

    def LOAD_DEREF(self, i: dis.Instruction) -> None:
        if i.argval in self.code.co_freevars:
            self.push(self.read(frozenset([("free", i.argval)]), "load"))
        else:
            self.push(self.cells.get(i.argval, NEW) | self.names.get(i.argval, EMPTY))

    LOAD_CLASSDEREF = LOAD_DEREF

    def LOAD_FROM_DICT_OR_DEREF(self, i: dis.Instruction) -> None:
        self.pop()
        self.LOAD_DEREF(i)

    def STORE_DEREF(self, i: dis.Instruction) -> None:
        value = self.pop()
        if i.argval in self.code.co_freevars:
            self.writes.setdefault(("deref", None, i.argval), self.here)
        else:
            self.cells[i.argval] = widened(self.cells.get(i.argval, EMPTY), value)

    def DELETE_DEREF(self, i: dis.Instruction) -> None:
        if i.argval in self.code.co_freevars:
            self.writes.setdefault(("deref", None, i.argval), self.here)

    def LOAD_ATTR(self, i: dis.Instruction) -> None:
        self.push(self.read(self.attr(self.pop(), i.argval), "load"))
        if i.opname == "LOAD_METHOD" or (sys.version_info >= (3, 12) and (i.arg or 0) & 1):
            self.push(EMPTY)

    LOAD_METHOD = LOAD_ATTR

    def LOAD_SUPER_ATTR(self, i: dis.Instruction) -> None:
        self.push(self.read(self.attr(self.pops(3)[2], i.argval), "load"))
        if (i.arg or 0) & 1:
            self.push(EMPTY)

    def BINARY_SUBSCR(self, _: dis.Instruction) -> None:
        base, key = self.pops(2)
        self.read(key, "compare")
        self.read(base, "content")
        self.push(self.read(self.item(base, key), "load"))

    def BINARY_SLICE(self, _: dis.Instruction) -> None:
        base = self.pops(3)[0]
        self.read(base, "content")
        self.push(self.read(base, "iter"))

    def BUILD_SLICE(self, i: dis.Instruction) -> None:
        self.pops(i.arg or 0)
        self.push(frozenset([SLICE]))

    def IMPORT_NAME(self, i: dis.Instruction) -> None:
        self.pops(2)
        self.push(self.read(frozenset([("import", i.argval)]), "load"))

    def IMPORT_FROM(self, i: dis.Instruction) -> None:
        self.push(self.read(self.attr(self.top(), i.argval), "load"))

    def GET_ITER(self, _: dis.Instruction) -> None:
        self.read(self.top(), "iter")

    GET_YIELD_FROM_ITER = GET_ITER

    def GET_LEN(self, _: dis.Instruction) -> None:
        self.read(self.top(), "len")
        self.push(NEW)

    def UNPACK_SEQUENCE(self, i: dis.Instruction) -> None:
        value = self.read(self.pop(), "iter")
        for k in reversed(range(i.arg or 0)):
            self.push(self.read(self.item(value, constant(k)), "load"))

    def UNPACK_EX(self, i: dis.Instruction) -> None:
        value = self.read(self.pop(), "iter")
        elements, arg = self.each(value), i.arg or 0
        before, after = arg & 0xFF, arg >> 8
        rest = frozenset([("bag", elements)])
        self.stack += [elements] * after + [rest] + [elements] * before

    # ------------------------------------------------------------------ stores

    def STORE_ATTR(self, i: dis.Instruction) -> None:
        value, owner = self.pops(2)
        self.keep(value)
        self.write("attr", owner, [i.argval])

    def DELETE_ATTR(self, i: dis.Instruction) -> None:
        self.write("attr", self.pop(), [i.argval])

    def STORE_SUBSCR(self, _: dis.Instruction) -> None:
        value, base, key = self.pops(3)
        self.keep(value)
        self.write("item", base, key)

    def STORE_SLICE(self, _: dis.Instruction) -> None:
        value, base, _start, _stop = self.pops(4)
        self.keep(self.each(value))
        self.write("item", base, [SLICE])

    def DELETE_SUBSCR(self, _: dis.Instruction) -> None:
        base, key = self.pops(2)
        self.write("item", base, key)

    # ------------------------------------------------------------------ operators and displays

    def BINARY_OP(self, i: dis.Instruction) -> None:
        left, right = self.pops(2)
        self._operands(left, right, "deep")
        joined = frozenset(e for e in left | right if e[0] not in _ROOTLESS)
        if i.argrepr.rstrip("=") not in ("+", "|", "*") or not joined:
            return self.push(NEW)
        parts = self.elements(joined)
        if "|" in i.argrepr:
            values = frozenset(("values", e) for e in joined if e[0] not in PARTS)
            parts = bounded(parts | self.elements(values))
        if not i.argrepr.endswith("="):
            return self.push(frozenset([("bag", nested(parts))]))
        self.write("inplace", left, [None])
        self.keep(parts)
        return self.push(left | NEW)

    def _operands(self, left: Value, right: Value, use: str) -> None:
        for value, other in ((left, right), (right, left)):
            self.read(value, use)
            if other and all(expr[0] == "const" for expr in other):
                self.read(value, "content")  # a constant and an array: NumPy computes

    def COMPARE_OP(self, _: dis.Instruction) -> None:
        left, right = self.pops(2)
        self._operands(left, right, "compare")
        self.push(NEW)

    def CONTAINS_OP(self, _: dis.Instruction) -> None:
        key, container = self.pops(2)
        self.read(key, "compare")
        consts = frozenset(k for k in key if k[:2] == ("const", str))
        if consts and consts == key:
            self.read(self.item(container, consts), "has")
            container = frozenset(e for e in container if e[0] in PARTS)
        self.read(container, "deep")
        self.push(NEW)

    def FORMAT_VALUE(self, i: dis.Instruction) -> None:
        self._simple(2 if (i.arg or 0) & 4 else 1, "deep", 1)

    def BUILD_STRING(self, i: dis.Instruction) -> None:
        self._simple(i.arg or 0, "deep", 1)

    def BUILD_TUPLE(self, i: dis.Instruction) -> None:
        parts = tuple(nested(part) for part in self.pops(i.arg or 0))
        keys = [tuple(e for e in part if e[0] == "const") for part in parts]
        if parts and all(len(k) == 1 == len(part) for k, part in zip(keys, parts, strict=True)):
            return self.push(constant(tuple(k[0][2] for k in keys)))
        return self.push(frozenset([("display", parts)]))

    def _bag(self, parts: list[Value]) -> None:
        self.push(frozenset([("bag", nested(bounded(frozenset().union(*parts))))]))

    def BUILD_LIST(self, i: dis.Instruction) -> None:
        self._bag(self.pops(i.arg or 0))

    def BUILD_SET(self, i: dis.Instruction) -> None:
        self._bag([self.read(v, "compare") for v in self.pops(i.arg or 0)])

    def BUILD_MAP(self, i: dis.Instruction) -> None:
        self._bag(self.pops(2 * (i.arg or 0))[1::2])

    def BUILD_CONST_KEY_MAP(self, i: dis.Instruction) -> None:
        self._bag(self.pops((i.arg or 0) + 1)[:-1])

    def _put(self, i: dis.Instruction, elements: Value) -> None:
        where = len(self.stack) - (i.arg or 1)
        if where >= 0:
            known = [e[1] for e in self.stack[where] if e[0] == "bag"]
            self.stack[where] = frozenset([("bag", nested(bounded(elements.union(*known))))])

    def LIST_APPEND(self, i: dis.Instruction) -> None:
        self._put(i, self.pop())

    SET_ADD = LIST_APPEND

    def MAP_ADD(self, i: dis.Instruction) -> None:
        self._put(i, self.pops(2)[1])

    def LIST_EXTEND(self, i: dis.Instruction) -> None:
        self._put(i, self.each(self.read(self.pop(), "iter")))

    SET_UPDATE = LIST_EXTEND

    def DICT_UPDATE(self, i: dis.Instruction) -> None:
        value = self.read(self.pop(), "deep")
        values = frozenset(("values", e) for e in value if e[0] not in PARTS)
        self._put(i, self.each(values) | self.each(value - values))

    DICT_MERGE = DICT_UPDATE

    def MATCH_KEYS(self, _: dis.Instruction) -> None:
        keys = self.each(self.top())
        parts = tuple(self.item(self.top(2), frozenset([k])) for k in keys if k[0] == "const")
        for part in parts:
            self.read(part, "get")
        self.push(frozenset([("bag", bounded(frozenset().union(*parts)))]))

    def MATCH_CLASS(self, _: dis.Instruction) -> None:
        subject, _cls, names = self.pops(3)
        self.read(subject, "attributes")
        parts = [self.attr(subject, n[2]) for n in self.each(names) if n[:2] == ("const", str)]
        self.push(frozenset([("bag", bounded(ANY.union(*parts)))]))

    def MATCH_MAPPING(self, _: dis.Instruction) -> None:
        self.read(self.top(), "len")
        self.push(NEW)

    MATCH_SEQUENCE = MATCH_MAPPING

    # ------------------------------------------------------------------ stack shuffles

    def COPY(self, i: dis.Instruction) -> None:
        self.push(self.top(i.arg or 1))

    def SWAP(self, i: dis.Instruction) -> None:
        n = i.arg or 1
        if len(self.stack) >= n:
            self.stack[-n], self.stack[-1] = self.stack[-1], self.stack[-n]

    def PUSH_NULL(self, _: dis.Instruction) -> None:
        self.push(EMPTY)

    def PUSH_EXC_INFO(self, _: dis.Instruction) -> None:
        error = self.pop()
        self.stack += [NEW, error]

    def BEFORE_WITH(self, _: dis.Instruction) -> None:
        manager = self.pop()
        self.read(self.attr(manager, "__enter__"), "load")
        self.stack += [NEW, bounded(manager | ANY)]

    def MAKE_FUNCTION(self, i: dis.Instruction) -> None:
        code = self.pop()
        if sys.version_info < (3, 13):
            for value in self.pops(((i.arg or 0) & 0xF).bit_count()):
                self.keep(value)
        self.push(frozenset(e for e in code if e[0] == "code") or NEW)

    def SET_FUNCTION_ATTRIBUTE(self, _: dis.Instruction) -> None:
        value, function = self.pops(2)
        self.keep(value)
        self.push(function)

    def LOAD_CLOSURE(self, _: dis.Instruction) -> None:
        self.push(NEW)

    def CALL_INTRINSIC_1(self, i: dis.Instruction) -> None:
        pass  # list to tuple, unary plus, print at a prompt: the value stays what it is

    LIST_TO_TUPLE = CONVERT_VALUE = CALL_INTRINSIC_1

    def YIELD_VALUE(self, _: dis.Instruction) -> None:
        self.read(self.pop(), "return")
        self.push(NEW)

    def RETURN_VALUE(self, _: dis.Instruction) -> None:
        self.read(self.pop(), "return")

    # ------------------------------------------------------------------ calls

    def PRECALL(self, _: dis.Instruction) -> None:
        pass

    def CALL(self, i: dis.Instruction) -> None:
        arguments = self.pops(i.arg or 0)
        first, second = self.pops(2)
        self._call(first | second, arguments)

    def CALL_KW(self, i: dis.Instruction) -> None:
        names = self.pop()
        self.keywords = next((k[2] for k in names if k[:2] == ("const", tuple)), ())
        self.CALL(i)

    def CALL_FUNCTION_EX(self, i: dis.Instruction) -> None:
        keywords = self.pop() if (i.arg or 0) & 1 else EMPTY
        positional = self.pop()
        first, second = self.pops(2)
        unpacked = frozenset(e for e in positional | keywords if e[0] not in PARTS)
        self.read(unpacked, "iter")
        parts = [inside(e) for e in positional | keywords if e[0] in PARTS]
        elements = [self.each(unpacked)] if unpacked else []
        self._call(first | second, [frozenset([e]) for e in EMPTY.union(*parts, *elements)])

    def CALL_INTRINSIC_2(self, _: dis.Instruction) -> None:
        self.pops(2)
        self.push(NEW)

    def _call(self, callee: Value, arguments: list[Value]) -> None:
        count = len(arguments) - len(self.keywords)
        positional, self.keywords = arguments[:count], ()
        out: set[Expr] = set()
        for expr in callee or ANY:
            model = model_of(expr)
            if model is None:
                for value in arguments:
                    self.read(value, "escape", frozenset([expr]))
                known = expr[0] not in PARTS and root(expr) not in (FRESH, WILD)
                out |= {chain(("result", expr)), WILD} if known else ANY
            else:
                out |= model(self, expr, positional, arguments)
        self.push(bounded(out))


_ROOTLESS = frozenset(["const", "wild", "fresh", "slice", "code"])
_PAIRS = frozenset(["enumerate", "zip", "items"])
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_SIMPLE: dict[str, tuple[int, str, int]] = {
    "UNARY_NEGATIVE": (1, "deep", 1),
    "UNARY_POSITIVE": (1, "deep", 1),
    "UNARY_INVERT": (1, "deep", 1),
    "UNARY_NOT": (1, "truth", 1),
    "TO_BOOL": (1, "truth", 1),
    "IS_OP": (2, "same", 1),
    "FORMAT_SIMPLE": (1, "deep", 1),
    "FORMAT_WITH_SPEC": (2, "deep", 1),
    "LOAD_ASSERTION_ERROR": (0, "load", 1),
    "LOAD_BUILD_CLASS": (0, "load", 1),
    "LOAD_LOCALS": (0, "load", 1),
}


# ---------------------------------------------------------------------- the scan


def _ordered(records: dict[Any, tuple[int, int]]) -> list[tuple[Any, tuple[int, int]]]:
    """By offset, and in the same order in every run although values are sets."""
    return sorted(records.items(), key=lambda item: (item[1], depth(item[0][0]), repr(item[0])))


def _parameters(code: CodeType) -> tuple[str, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    return code.co_varnames[:count]


def _by_name(code: CodeType) -> Scan:
    """The scan of code that the machine cannot run: every name may be a global or an attribute."""
    line = code.co_firstlineno
    exprs: list[Expr] = [("global", name) for name in code.co_names]
    exprs += [("free", name) for name in code.co_freevars]
    exprs += [("attr", WILD, name) for name in code.co_names]
    keys = [key for const in code.co_consts for key in constant(const) if key[:2] == ("const", str)]
    exprs += [("item", WILD, key) for key in keys]
    writes = [Write("attr", WILD, name, line) for name in code.co_names]
    writes += [Write("global", None, name, line) for name in code.co_names]
    writes += [Write("deref", None, name, line) for name in code.co_freevars]
    reads = [Read(expr, use, line) for expr in exprs for use in ("load", "deep")]
    return Scan(tuple(reads), tuple(writes), 0)


_scans: weakref.WeakKeyDictionary[CodeType, Scan] = weakref.WeakKeyDictionary()


def scan(code: CodeType) -> Scan:
    """What `code` reads and writes outside itself; remembered for as long as the code lives.

    >>> read = scan((lambda x: x * cfg.lr).__code__).reads
    >>> ("attr", ("global", "cfg"), "lr") in [r.expr for r in read]
    True
    """
    found = _scans.get(code)
    if found is None:
        try:
            found = _Machine(code).run()
        except RecursionError:
            found = _by_name(code)  # a huge function: over-approximate
        _scans[code] = found
    return found


def constants(code: CodeType) -> Iterator[CodeType]:
    """The code objects nested in `code`: its inner functions, classes and comprehensions."""
    return (c for c in code.co_consts if isinstance(c, CodeType))
