"""The program in an artifact: data classes, and their strict JSON as FORMAT.md says.

`encode` and `decode` are inverse. `decode` trusts nothing: keys, types, references, op names and
versions, and the type of every node are checked; nothing is computed; any fault is a ValueError.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import stagekit.ops  # noqa: F401  (fills the table of ops)
from stagekit.errors import ShapeError
from stagekit.export.safetensors import as_complex, strict_json
from stagekit.export.structure import (
    KINDS,
    NONE,
    VARIADIC,
    Branch,
    Computed,
    Fixed,
    Leaf,
    Parameter,
    Signature,
    Tree,
    leaves,
    put_together,
)
from stagekit.graph import Graph
from stagekit.node import Attrs, Node
from stagekit.op import OPS, Op
from stagekit.source import Location
from stagekit.symbolic import Expr, Fact, Formula, names, parse_expr
from stagekit.types import DTYPES, DType, TensorType, shape_text
from stagekit.verify import verify

Array = np.ndarray[Any, Any]
Json = Any

MAX_PROGRAM = 64 * 2**20  # bytes of JSON
MAX_RANK = 64
MAX_EXPRESSION = 1000  # characters
MAX_TERMS = 256  # of a size, and of the product of the sizes of one shape
MAX_LINES = 4  # of one node
MAX_INTEGER = 2**63 - 1

# ----- functions ----------------------------------------------------------------------------------


class Known(NamedTuple):
    """A fact on which the graph rests, and the user's line that needs it."""

    fact: Fact
    line: Location | None


@dataclass(frozen=True, eq=False)
class Exported:
    """A function of a program.

    The graph's inputs are the arguments, then the state that `reads` names. `writes` pairs the name
    of a state with the output that it becomes. `sizes` gives each named size a value at which
    every fact holds.
    """

    signature: Signature
    graph: Graph
    sizes: Mapping[str, int]
    facts: tuple[Known, ...]
    reads: tuple[str, ...]
    writes: tuple[tuple[str, int], ...]

    @property
    def draws(self) -> tuple[str, ...]:
        """The states of generators that a call advances."""
        advance = OPS["random_advance"]
        return tuple(name for name, k in self.writes if self.graph.outputs[k].op is advance)

    def bind(self, shapes: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The named sizes of a call; ShapeError, with the signature, where it does not fit."""
        env: dict[str, Any] = {}
        for place, (type_, shape) in enumerate(zip(self.signature.arguments, shapes, strict=True)):
            fits = len(shape) == len(type_.shape)
            if not fits or not all(_fits(w, n, env) for w, n in zip(type_.shape, shape)):
                path = self.signature.paths()[place]
                raise ShapeError(
                    f"{self.signature.name}: {path} has shape {shape_text(tuple(shape))}, "
                    f"the signature says {type_}",
                    fix=f"call it as {self.signature}",
                )
        for known in self.facts:
            if not _holds(known.fact, env):
                now = ", ".join(f"{n} = {env[n]}" for n in sorted(_names_of(known.fact)))
                raise ShapeError(
                    f"{self.signature.name}: it was made for {known.fact}, and {now}",
                    fix=f"call it with such sizes: {self.signature}",
                    location=known.line,
                )
        return env


def _fits(wanted: Any, size: Any, env: dict[str, Any]) -> bool:
    if isinstance(wanted, Expr):
        return bool(env.setdefault(str(wanted), size) == size)
    return bool(wanted == size)


def _holds(fact: Fact, env: Mapping[str, Any]) -> bool:
    try:
        return fact.holds(env)
    except (ArithmeticError, TypeError):  # a formula that raises, or leaves the real numbers
        return False


def _names_of(fact: Fact) -> frozenset[str]:
    return names(fact.left) | names(fact.right)


@dataclass(frozen=True, eq=False)
class Program:
    """Named functions and the types of the state that they share."""

    functions: Mapping[str, Exported]
    state: Mapping[str, TensorType]


# ----- encoding -----------------------------------------------------------------------------------


def encode(program: Program) -> tuple[str, dict[str, Array]]:
    """The JSON of a program, and the buffers of its large constants by name.

    Raises ValueError for what the format cannot hold.
    """
    writer = _Encoder(set(program.state))
    document = {
        "functions": {n: writer.function(f) for n, f in program.functions.items()},
        "state": {n: _type_json(t) for n, t in program.state.items()},
        "lines": [[line.filename, line.lineno, line.function] for line in writer.lines],
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    _require(len(text.encode()) <= MAX_PROGRAM, f"the program has more than {MAX_PROGRAM} bytes")
    return text, writer.buffers


class _Encoder:
    """Encodes functions into one document: one table of lines, one set of buffers."""

    def __init__(self, taken: set[str]) -> None:
        self.lines: dict[Location, int] = {}
        self.buffers: dict[str, Array] = {}
        self._taken = taken

    def function(self, f: Exported) -> Json:
        signature = f.signature
        return {
            "parameters": [
                {"name": p.name, "kind": p.kind, "tree": _tree_json(p.tree)}
                for p in signature.parameters
            ],
            "result": _tree_json(signature.result),
            "sizes": dict(f.sizes),
            "facts": [self._fact(known) for known in f.facts],
            "reads": list(f.reads),
            "writes": [[name, place] for name, place in f.writes],
            "graph": self._graph(f.graph),
        }

    def _fact(self, known: Known) -> Json:
        left, relation, right, outcome = known.fact
        return {
            "left": attribute_json(_plain(left)),
            "relation": relation,
            "right": attribute_json(_plain(right)),
            "outcome": outcome,
            "lines": self._line_numbers([known.line] if known.line else []),
        }

    def _graph(self, graph: Graph) -> Json:
        place = {node: k for k, node in enumerate((*graph.inputs, *graph.nodes))}
        return {
            "inputs": [{"name": n.name, "type": _type_json(n.type)} for n in graph.inputs],
            "nodes": [self._node(node, place, graph) for node in graph.nodes],
            "checks": [place[node] for node in graph.checks],
            "outputs": [place[node] for node in graph.outputs],
        }

    def _node(self, node: Node, place: Mapping[Node, int], graph: Graph) -> Json:
        lines = self._line_numbers(graph.lines.get(node, ()))
        types = [_type_json(type_) for type_ in node.types]
        common = {"type": types if node.is_several else types[0], "lines": lines}
        if node.op is None:
            assert node.constant is not None
            return {"constant": self._constant(node.constant), **common}
        return {
            "op": node.op.name,
            "version": node.op.version,
            "inputs": [place[x] for x in node.inputs],
            "attrs": {key: attribute_json(value) for key, value in node.attrs},
            **common,
        }

    def _constant(self, array: Array) -> Json:
        """A number where that is exact, else the name of a buffer."""
        if _is_exact_number(array):
            return attribute_json(array.item())
        name = f"constant {len(self.buffers)}"
        while name in self._taken:
            name += "'"
        self.buffers[name] = array
        return {"buffer": name}

    def _line_numbers(self, lines: Sequence[Location]) -> list[int]:
        """Places in the table of lines; only the last part of a file's path is kept."""
        bare = (Location(re.split(r"[\\/]", x.filename)[-1], x.lineno, x.function) for x in lines)
        return [self.lines.setdefault(line, len(self.lines)) for line in bare]


def _is_exact_number(array: Array) -> bool:
    """Whether a Python number says all of an array."""
    if array.ndim or array.dtype.kind not in "biuf":
        return False
    return np.array(array.item(), array.dtype).tobytes() == array.tobytes()


def _type_json(type_: TensorType) -> Json:
    sizes = [str(n) if isinstance(n, Expr) else n for n in type_.shape]
    return {"dtype": type_.dtype.name, "shape": sizes}


def _tree_json(tree: Tree) -> Json:
    if isinstance(tree, Leaf):
        return tree.place
    if isinstance(tree, Branch):
        items = [_tree_json(item) for item in tree.items]
        if tree.kind == "none":
            return None
        if tree.kind in ("tuple", "list"):
            return {tree.kind: items}
        pairs = [[key, item] for key, item in zip(tree.keys, items, strict=True)]
        return {tree.kind: pairs} if tree.kind == "dict" else {tree.kind: pairs, "name": tree.name}
    value = tree.value if isinstance(tree, Fixed) else tree.expr
    return {"fixed" if isinstance(tree, Fixed) else "computed": attribute_json(value)}


def attribute_json(value: Any) -> Json:
    """An attribute as JSON: bool, int, str and tuple as they are, all else in an object that says
    what it is. Raises ValueError for anything else.

    >>> attribute_json((2, -0.0, DTYPES["int8"], Expr.named("n") * 2))
    [2, {'float': '-0.0'}, {'dtype': 'int8'}, {'expr': '2*n'}]
    """
    if type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return {"float": repr(value)}
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, Expr):
        return {"expr": str(value)}
    if isinstance(value, Formula):
        return {"formula": [value.op, *map(attribute_json, _in_floats(value).args)]}
    if type(value) is tuple:
        return [attribute_json(item) for item in value]
    raise ValueError(f"an artifact cannot hold {value!r}")


def _in_floats(formula: Formula) -> Formula:
    """The same float, with a float among the operands of `**` (so that no integer can explode)."""
    if formula.op != "**" or any(map(_is_float, formula.args)):
        return formula
    base, exponent = formula.args
    wide = float(base) if isinstance(base, int) else Formula("*", (base, 1.0))
    return Formula("**", (wide, exponent))


# ----- decoding -----------------------------------------------------------------------------------


def decode(text: str, buffers: Mapping[str, Array]) -> Program:
    """The program of a JSON text, whose constants and state lie in `buffers`.

    The buffers are the state and the large constants, no more and no less. ValueError for faults.
    """
    _require(len(text) <= MAX_PROGRAM, f"the program has more than {MAX_PROGRAM} bytes")
    _require(len(text.encode()) <= MAX_PROGRAM, f"the program has more than {MAX_PROGRAM} bytes")
    document = strict_json(text)
    functions, state, lines = _fields(document, "functions", "state", "lines")
    _require(isinstance(state, dict), "the state is no object")
    _require(isinstance(functions, dict) and bool(functions), "there are no functions")
    types = {name: _state_type(name, entry, buffers) for name, entry in state.items()}
    decoder = _Decoder(types, buffers, [_line(entry) for entry in _list(lines)])
    found = {name: decoder.function(name, entry) for name, entry in functions.items()}
    unused = buffers.keys() - decoder.used - types.keys()
    _require(not unused, f"nothing uses the buffers {sorted(unused)}")
    return Program(found, types)


def _state_type(name: str, entry: Json, buffers: Mapping[str, Array]) -> TensorType:
    type_ = _type(entry, frozenset())
    _require(name in buffers, f"the state {name!r} has no buffer")
    typed(name, buffers[name], type_)
    return type_


def typed(name: str, array: Array, type_: TensorType) -> Array:
    """A buffer as an array of a type: complex numbers lie there as floats with a last axis of 2.

    Raises ValueError where it is of another type.
    """
    found = array
    if type_.dtype.kind == "complex" and array.dtype.kind == "f" and array.shape[-1:] == (2,):
        found = as_complex(array)
    fits = found.dtype == type_.dtype.numpy and found.shape == type_.shape
    _require(fits, f"the buffer {name!r} holds {array.dtype} {array.shape}, not {type_}")
    return found


class _Decoder:
    """Decodes functions over one state, one set of buffers, and one table of lines."""

    def __init__(
        self, state: Mapping[str, TensorType], buffers: Mapping[str, Array], lines: list[Location]
    ) -> None:
        self.state, self.buffers, self.lines = state, buffers, lines
        self.used: set[str] = set()

    def function(self, name: str, entry: Json) -> Exported:
        try:
            return self._function(name, entry)
        except ValueError as error:
            raise ValueError(f"function {name!r}: {error}") from None

    def _function(self, name: str, entry: Json) -> Exported:
        _require(bool(name) and name.isprintable(), "the name is empty or cannot be printed")
        parameters, result, sizes, facts, reads, writes, graph = _fields(
            entry, "parameters", "result", "sizes", "facts", "reads", "writes", "graph"
        )
        hints = _sizes(sizes)
        known = tuple(self._fact(fact, hints) for fact in _list(facts))
        program = self._graph(name, graph, frozenset(hints))
        arguments = len(program.inputs) - len(_list(reads))
        _require(arguments >= 0, "it reads more state than it has inputs")
        types = [node.type for node in program.inputs]
        signature = Signature(
            name,
            tuple(_parameter(p, frozenset(hints)) for p in _list(parameters)),
            _tree(result, frozenset(hints), is_result=True),
            tuple(types[:arguments]),
            tuple(node.type for node in program.outputs),
        )
        _require(all(isinstance(n, str) for n in reads), f"the state {reads}")
        found = Exported(signature, program, hints, known, tuple(reads), self._writes(writes))
        self._check(found)
        return found

    def _writes(self, entries: Json) -> tuple[tuple[str, int], ...]:
        pairs = [_list(entry) for entry in _list(entries)]
        _require(all(len(pair) == 2 for pair in pairs), "a write is a state and an output")
        typed = all(isinstance(name, str) and type(place) is int for name, place in pairs)
        _require(typed, "a write is a name and a number")
        return tuple((name, place) for name, place in pairs)

    def _check(self, f: Exported) -> None:
        """What holds between the parts of a function, and the types of all nodes."""
        count = len(f.signature.arguments)
        places = [place for p in f.signature.parameters for place in leaves(p.tree)]
        _require(sorted(places) == list(range(count)), f"{count} arguments at places {places}")
        results = [*leaves(f.signature.result), *(place for _, place in f.writes)]
        count = len(f.graph.outputs)
        _require(sorted(results) == list(range(count)), f"{count} outputs at places {results}")
        _check_parameters(f.signature)
        _check_computed(f)
        _check_state(f, self.state)
        _check_sizes(f)
        _check_types(f)

    def _fact(self, entry: Json, hints: Mapping[str, int]) -> Known:
        left, relation, right, outcome, lines = _fields(
            entry, "left", "relation", "right", "outcome", "lines"
        )
        _require(relation in ("==", "<", "<="), f"the relation {relation!r}")
        _require(type(outcome) is bool, "the outcome of a fact is no bool")
        sides = [attribute(side, frozenset(hints)) for side in (left, right)]
        _require(all(_is_real(side) for side in sides), "a side of a fact is no number")
        fact = Fact(sides[0], relation, sides[1], outcome)
        _require(_holds(fact, hints), f"{fact} does not hold at {dict(hints)}")
        found = self._lines(lines)
        return Known(fact, found[0] if found else None)

    def _lines(self, places: Json) -> tuple[Location, ...]:
        _require(len(_list(places)) <= MAX_LINES, "too many lines")
        return tuple(self.lines[_place(k, len(self.lines))] for k in places)

    def _graph(self, name: str, entry: Json, symbols: frozenset[str]) -> Graph:
        inputs, nodes, checks, outputs = _fields(entry, "inputs", "nodes", "checks", "outputs")
        made = [self._input(k, each, symbols) for k, each in enumerate(_list(inputs))]
        first, lines = tuple(made), {}
        for each in _list(nodes):
            node = self._node(each, made, symbols)
            lines[node] = self._lines(each["lines"])
            made.append(node)
        outs, checked = (
            tuple(made[_place(k, len(made))] for k in _list(places)) for places in (outputs, checks)
        )
        known = {node: found for node, found in lines.items() if found}
        return Graph(name, first, outs, checked, known)

    def _input(self, serial: int, entry: Json, symbols: frozenset[str]) -> Node:
        name, type_ = _fields(entry, "name", "type")
        _require(isinstance(name, str) and name.isidentifier(), f"the input {name!r} is no name")
        return Node(serial, None, (), (), (_type(type_, symbols),), name)

    def _node(self, entry: Json, made: Sequence[Node], symbols: frozenset[str]) -> Node:
        if isinstance(entry, dict) and "constant" in entry:
            constant, kind, _ = _fields(entry, "constant", "type", "lines")
            type_ = _type(kind, frozenset())
            return Node(len(made), None, (), (), (type_,), constant=self._array(constant, type_))
        name, version, inputs, attrs, kind, _ = _fields(
            entry, "op", "version", "inputs", "attrs", "type", "lines"
        )
        operands = tuple(made[_place(k, len(made))] for k in _list(inputs))
        op = _op(name, version)
        _require(op.several == isinstance(kind, list), f"the type of {name} is {str(kind)[:200]}")
        types = tuple(_type(each, symbols) for each in (kind if op.several else [kind]))
        return Node(len(made), op, operands, _attrs(attrs, symbols), types)

    def _array(self, entry: Json, type_: TensorType) -> Array:
        if isinstance(entry, dict) and "buffer" in entry:
            (name,) = _fields(entry, "buffer")
            _require(isinstance(name, str) and name in self.buffers, f"there is no buffer {name!r}")
            _require(name not in self.state, f"{name!r} is state and a constant")
            self.used.add(name)
            return typed(name, self.buffers[name], type_)
        value = attribute(entry, frozenset())
        kinds = {"bool": bool, "int": int, "uint": int, "float": float}
        _require(type(value) is kinds.get(type_.dtype.kind), f"{value!r} is no {type_.dtype}")
        _require(type_.shape == (), f"{value!r} is no {type_}")
        array = np.asarray(value, type_.dtype.numpy)
        array.flags.writeable = False
        return array


def _check_parameters(signature: Signature) -> None:
    kinds = [p.kind for p in signature.parameters]
    for p in signature.parameters:
        container = {"var_positional": "tuple", "var_keyword": "dict"}.get(p.kind)
        is_container = isinstance(p.tree, Branch) and p.tree.kind == container
        _require(container is None or is_container, f"*{p.name} is no {container}")
    _require(all(kinds.count(kind) <= 1 for kind in VARIADIC), "two parameters with a star")
    signature.python.replace()  # raises ValueError for a wrong order, or a name twice


def _check_computed(f: Exported) -> None:
    """Numbers among the results exist at the hints."""
    try:
        put_together(f.signature.result, range(len(f.graph.outputs)), f.sizes)
    except ArithmeticError as error:
        raise ValueError(f"a computed result: {error}") from None


def _check_state(f: Exported, state: Mapping[str, TensorType]) -> None:
    written = [name for name, _ in f.writes]
    for listed in (list(f.reads), written):
        known = all(name in state for name in listed)
        _require(known and len(set(listed)) == len(listed), f"the state {listed}")
    inputs = f.graph.inputs[len(f.signature.arguments) :]
    for name, node in zip(f.reads, inputs, strict=True):
        _require(node.type == state[name], f"it reads {name!r} as {node.type}, not {state[name]}")
    for name, place in f.writes:
        type_ = f.graph.outputs[place].type
        _require(type_ == state[name], f"it writes {type_} to {name!r}, which is {state[name]}")


def _check_sizes(f: Exported) -> None:
    """Arguments have plain sizes or names, and every name is the size of an argument."""
    found = {size for type_ in f.signature.arguments for size in type_.shape}
    symbols = {str(size) for size in found if isinstance(size, Expr)}
    _require(all(Expr.named(n) in found for n in symbols), "the size of an argument is no name")
    _require(symbols == set(f.sizes), f"the sizes {sorted(f.sizes)} and {sorted(symbols)}")


def _check_types(f: Exported) -> None:
    """Every node's type follows from its operands, given the facts that the function states."""
    stated = {known.fact for known in f.facts}
    for fact in verify(f.graph, f.sizes).known:
        plain = Fact(_plain(fact.left), fact.relation, _plain(fact.right), fact.outcome)
        _require(plain in stated, f"it rests on {fact} and does not say so")


def _plain(side: Any) -> Any:
    """A side of a fact; an expression without names is its value."""
    return side if not isinstance(side, Expr) or side.constant is None else side.constant


# ----- parts of a document ------------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _fields(entry: Json, *keys: str) -> list[Any]:
    """The values of an object that has exactly these keys."""
    if not isinstance(entry, dict) or entry.keys() != set(keys):
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"an object with the keys {list(keys)} is due, not {str(found)[:200]}")
    return [entry[key] for key in keys]


def _list(entry: Json) -> list[Any]:
    _require(isinstance(entry, list), f"a list is due, not {str(entry)[:200]}")
    return entry  # type: ignore[no-any-return]


def _place(k: Json, count: int) -> int:
    _require(
        type(k) is int and 0 <= k < count, f"the reference {str(k)[:40]} is to nothing defined"
    )
    return int(k)


def _op(name: Json, version: Json) -> Op:
    """The op of the table: names lead nowhere else."""
    op = OPS.get(name) if isinstance(name, str) else None
    if op is None or op.transparent or op.name in _UNWRITTEN:
        raise ValueError(f"the op {str(name)[:40]!r} is unknown")
    if type(version) is not int or version != op.version:
        raise ValueError(f"the op {name} has version {op.version} here and {version} in the file")
    return op


_UNWRITTEN = frozenset(["custom"])  # carries Python rules


def _line(entry: Json) -> Location:
    filename, lineno, function = [*_list(entry), None, None, None][:3]
    texts = isinstance(filename, str) and isinstance(function, str)
    _require(
        texts and type(lineno) is int and len(entry) == 3, "a line is [file, number, function]"
    )
    return Location(filename, lineno, function)


def _sizes(entry: Json) -> dict[str, int]:
    _require(isinstance(entry, dict), "the sizes are no object")
    for name, hint in entry.items():
        _require(
            name.isidentifier() and name not in ("max", "min"), f"the size {name!r} is no name"
        )
        _require(type(hint) is int and 0 <= hint <= MAX_INTEGER, f"the size {name} = {hint!r}")
    return dict(entry)


def _type(entry: Json, symbols: frozenset[str]) -> TensorType:
    name, shape = _fields(entry, "dtype", "shape")
    _require(isinstance(name, str) and name in DTYPES, f"the data type {name!r} is unknown")
    _require(len(_list(shape)) <= MAX_RANK, f"a shape of {len(shape)} axes")
    sizes = tuple(_size(size, symbols) for size in shape)
    _require_small(sizes)
    return TensorType(DTYPES[name], sizes)


def _require_small(sizes: Sequence[Any]) -> None:
    terms = 1
    for size in sizes:
        terms *= max(len(size.terms), 1) if isinstance(size, Expr) else 1
        _require(terms <= MAX_TERMS, f"a shape whose size has more than {MAX_TERMS} terms")


def _size(entry: Json, symbols: frozenset[str]) -> Any:
    if isinstance(entry, str):
        return expression(entry, symbols)
    _require(type(entry) is int and 0 <= entry <= MAX_INTEGER, f"the size {str(entry)[:40]}")
    return entry


def _tree(entry: Json, symbols: frozenset[str], is_result: bool = False) -> Tree:
    if entry is None:
        return NONE
    if type(entry) is int:
        return Leaf(entry)
    _require(isinstance(entry, dict) and bool(entry), f"a structure is due, not {entry!r}")
    kind = next(iter(entry))
    if kind in ("namedtuple", "dataclass"):
        pairs, name = _fields(entry, kind, "name")
        _require(isinstance(name, str), "the name of a class is no text")
        keys, items = _pairs(pairs, symbols, is_result)
        _require(all(isinstance(k, str) and k.isidentifier() for k in keys), f"the fields {keys}")
        return Branch(kind, items, keys, name)
    (value,) = _fields(entry, kind)
    if kind == "dict":
        keys, items = _pairs(value, symbols, is_result)
        return Branch(kind, items, keys)
    if kind in ("tuple", "list"):
        return Branch(kind, tuple(_tree(each, symbols, is_result) for each in _list(value)))
    return _fixed(kind, attribute(value, symbols), is_result)


def _fixed(kind: str, value: Any, is_result: bool) -> Tree:
    if kind == "fixed" and type(value) in (bool, int, float, str):
        return Fixed(value)
    if kind == "computed" and is_result and isinstance(value, (Expr, Formula)):
        return Computed(value)
    raise ValueError(f"the structure {kind!r} of {value!r}")


def _pairs(
    entries: Json, symbols: frozenset[str], is_result: bool
) -> tuple[tuple[Any, ...], tuple[Tree, ...]]:
    pairs = [_list(entry) for entry in _list(entries)]
    _require(all(len(pair) == 2 for pair in pairs), "an entry is a key and a structure")
    keys = tuple(key for key, _ in pairs)
    _require(all(type(key) in (str, int, bool) for key in keys), f"the keys {keys}")
    _require(len(set(keys)) == len(keys), f"a key twice in {keys}")
    return keys, tuple(_tree(item, symbols, is_result) for _, item in pairs)


def _parameter(entry: Json, symbols: frozenset[str]) -> Parameter:
    name, kind, tree = _fields(entry, "name", "kind", "tree")
    _require(isinstance(name, str) and name.isidentifier(), f"the parameter {name!r} is no name")
    _require(isinstance(kind, str) and kind in KINDS, f"a parameter of the kind {kind!r}")
    return Parameter(name, kind, _tree(tree, symbols))


def _attrs(entry: Json, symbols: frozenset[str]) -> Attrs:
    _require(isinstance(entry, dict), "the attributes are no object")
    found = tuple(sorted((name, attribute(value, symbols)) for name, value in entry.items()))
    for _, value in found:
        if type(value) is tuple:
            _require_small(value)
    return found


def attribute(entry: Json, symbols: frozenset[str]) -> Any:
    """What `attribute_json` encoded, with no names but `symbols`.

    >>> attribute([2, {"float": "-0.0"}, {"expr": "2*n"}], frozenset("n"))
    (2, -0.0, Expr(2*n))
    """
    if type(entry) in (bool, int, str):
        return entry
    if isinstance(entry, list):
        return tuple(attribute(each, symbols) for each in entry)
    if isinstance(entry, dict) and len(entry) == 1:
        ((kind, value),) = entry.items()
        if kind in _TAGGED:
            return _TAGGED[kind](value, symbols)
    raise ValueError(f"the attribute {str(entry)[:200]}")


_FLOAT = re.compile(r"-?(\d+\.\d+(e[+-]\d+)?|\d+e[+-]\d+|inf)|nan")


def _float(value: Json, symbols: frozenset[str]) -> float:
    text = isinstance(value, str) and len(value) <= 40 and _FLOAT.fullmatch(value)
    _require(bool(text), f"the float {str(value)[:40]!r}")
    return float(value)


def _dtype(value: Json, symbols: frozenset[str]) -> DType:
    _require(isinstance(value, str) and value in DTYPES, f"the data type {str(value)[:40]!r}")
    return DTYPES[value]


def _expr(value: Json, symbols: frozenset[str]) -> Expr:
    _require(isinstance(value, str), f"the expression {str(value)[:40]!r}")
    return expression(value, symbols)


_OPERANDS = {"+": 2, "-": 2, "*": 2, "/": 2, "//": 2, "%": 2, "**": 2, "neg": 1, "abs": 1}


def _formula(value: Json, symbols: frozenset[str]) -> Formula:
    """Arithmetic with a float in it at every step, so that it takes no time whatever it says."""
    op, *operands = _list(value) or [None]
    _require(isinstance(op, str) and op in _OPERANDS, f"the formula {str(op)[:40]!r}")
    _require(len(operands) == _OPERANDS[op], f"{len(operands)} operands of {op}")
    args = tuple(attribute(operand, symbols) for operand in operands)
    _require(all(map(_is_real, args)), f"an operand of {op} is no number")
    _require(op == "/" or any(map(_is_float, args)), f"the formula {op} of integers")
    return Formula(op, args)


_TAGGED: dict[str, Callable[[Json, frozenset[str]], Any]] = {
    "float": _float,
    "dtype": _dtype,
    "expr": _expr,
    "formula": _formula,
}


def _is_float(value: Any) -> bool:
    return isinstance(value, (float, Formula))


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) or isinstance(value, (Expr, Formula))


# ----- expressions --------------------------------------------------------------------------------

_EXPRESSION = re.compile(r"[\w+\-*/%(), ]*")


def expression(text: str, symbols: frozenset[str]) -> Expr:
    """A size expression over `symbols`; ValueError for any other text, and for what would be large.

    >>> print(expression("n + 2*n", frozenset("n")))
    3*n
    """
    _require(len(text) <= MAX_EXPRESSION, f"an expression of {len(text)} characters")
    _require(_EXPRESSION.fullmatch(text) is not None, f"the expression {text!r}")
    try:
        tree = ast.parse(text, mode="eval").body
        _count_terms(tree)
        expr = parse_expr(tree)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"the expression {text!r}") from None
    _require(expr.names <= symbols, f"the expression {text!r} names an unknown size")
    _require(expr.constant is None, f"the expression {text!r} is a number")
    return expr


def _count_terms(tree: ast.expr) -> int:
    """An upper bound on the terms of a written expression; ValueError beyond the limit."""
    count = 1
    match tree:
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _count_terms(left), _count_terms(right)
            count = a * b if isinstance(op, ast.Mult) else a + b
        case ast.UnaryOp(operand=operand):
            count = _count_terms(operand)
        case ast.Call(args=args):
            for arg in args:
                _count_terms(arg)
        case ast.Constant(value=int() as value):
            _require(value <= MAX_INTEGER, f"the integer {value} in an expression")
    _require(count <= MAX_TERMS, f"an expression of more than {MAX_TERMS} terms")
    return count
