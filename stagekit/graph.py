"""`Graph`: a typed program and its text. `print(graph)` is readable, `Graph.parse` gives it back.

    graph mean(%x: f32[n,3])
      %0: f32[] = sum(%x, axes=(0, 1))          # mlp.py:12 in mean
      %1: f32[] = number(dtype=float32, expr=3*n)
      %2: f32[] = divide(%0, %1)
      return %2

An op with several results shows all their types; `out` takes one of them:

      %0: (f32[n,2], f32[2,2]) = qr(%x)
      %1: f32[2,2] = out(%0, index=1)
"""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from stagekit.node import Attrs, Interned, Node, attribute_names, reachable
from stagekit.op import OPS
from stagekit.source import Location
from stagekit.symbolic import Expr, Formula, parse_expr
from stagekit.types import DTYPES, LONG, DType, TensorType


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, outputs, and the `checks` that must run though nothing uses their values.

    `lines` gives a node the user's source lines that made it (several, where equal nodes merged).
    Source: `docs/architecture.md`.

    >>> text = "graph twice(%x: f32[n])\\n  %0: f32[n] = add(%x, %x)\\n  return %0\\n"
    >>> str(Graph.parse(text)) == text
    True
    """

    name: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    checks: tuple[Node, ...] = ()
    lines: Mapping[Node, tuple[Location, ...]] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every op and constant needed, in the order of the trace (inputs left out)."""
        inputs = set(self.inputs)
        return tuple(n for n in reachable((*self.checks, *self.outputs)) if n not in inputs)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The names of sizes and numbers that occur in it, sorted."""
        found: set[str] = set()
        for node in (*self.inputs, *self.nodes):
            found |= attribute_names(tuple([type_.shape for type_ in node.types]))
            found |= attribute_names(tuple(value for _, value in node.attrs))
        return tuple(sorted(found))

    def line(self, node: Node) -> Location | None:
        """The user's line that made a node first."""
        lines = self.lines.get(node)
        return lines[0] if lines else None

    def count(self, op: str) -> int:
        """How often an op occurs."""
        return sum(node.op is not None and node.op.name == op for node in self.nodes)

    def __str__(self) -> str:
        return _Printer(self).text()

    def _repr_html_(self) -> str:
        escaped = str(self).replace("&", "&amp;").replace("<", "&lt;")
        return f"<pre>{escaped}</pre>"

    @classmethod
    def parse(cls, text: str) -> Graph:
        """The graph that `str` printed; ValueError names the line that is not understood."""
        return _parse(text)


# ----- printing -----------------------------------------------------------------------------------


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names: dict[Node, str] = {node: f"%{node.name}" for node in graph.inputs}

    def text(self) -> str:
        params = ", ".join(f"{self.names[n]}: {n.type}" for n in self.graph.inputs)
        lines = [f"graph {self.graph.name}({params})"]
        for node in self.graph.nodes:
            self.names[node] = f"%{len(self.names) - len(self.graph.inputs)}"
            lines.append(self._line(node))
        if self.graph.checks:
            lines.append(f"  check {self._refs(self.graph.checks)}")
        lines.append(f"  return {self._refs(self.graph.outputs)}".rstrip())
        return "\n".join(lines) + "\n"

    def _refs(self, nodes: tuple[Node, ...]) -> str:
        return ", ".join(self.names[node] for node in nodes)

    def _line(self, node: Node) -> str:
        body = f"  {self.names[node]}: {node.type_text} = {self._value(node)}"
        lines = self.graph.lines.get(node)
        return f"{body:<64}  # {'; '.join(map(str, lines))}" if lines else body

    def _value(self, node: Node) -> str:
        if node.op is None:
            assert node.constant is not None
            return f"constant({_array_text(node.constant)})"
        args = [self.names[operand] for operand in node.inputs]
        args += [f"{key}={attribute_text(value)}" for key, value in node.attrs]
        return f"{node.op.name}({', '.join(args)})"


def attribute_text(value: Any) -> str:
    """An attribute as it prints: Python literals, data types by name, sizes as expressions.

    >>> attribute_text((Expr.named("n"), 3)), attribute_text("add"), attribute_text(DTYPES["int8"])
    ('(n, 3)', "'add'", 'int8')
    """
    if isinstance(value, Formula):
        return f"formula({str(value)!r})"
    if isinstance(value, tuple):
        items = [attribute_text(item) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, (Expr, DType)):
        return str(value)
    return repr(value)


def _array_text(array: np.ndarray[Any, Any]) -> str:
    if array.ndim == 0 and array.dtype.kind in "biuf" and np.isfinite(array):
        return repr(array.item())
    return f"base64={base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()!r}"


# ----- parsing ------------------------------------------------------------------------------------

_HEAD = re.compile(r"graph ([^\s(]+)\((.*)\)$")
_TYPE = re.compile(r"\w+\[[^\]]*\](?:@[\w:]+)?")
_PARAM = re.compile(rf"%(\S+?): ({_TYPE.pattern})(?:, |$)")
_LINE = re.compile(r"%(\d+): (\S+|\([^=]*\)) = (\w+)\((.*)\)$")
_COMMENT = re.compile(r"  # [^'\"]*$")


def parse_type(text: str) -> TensorType:
    """A printed tensor type.

    >>> print(parse_type("f32[n,2*n+1]@cuda:0"))
    f32[n,2*n+1]@cuda:0
    """
    match = re.fullmatch(r"(\w+)\[(.*)\](?:@(.+))?", text)
    if match is None or match[1] not in LONG:
        raise ValueError(f"not a tensor type: {text!r}")
    tree = ast.parse(f"({match[2]},)" if match[2] else "()", mode="eval").body
    assert isinstance(tree, ast.Tuple)
    return TensorType(
        DTYPES[LONG[match[1]]], tuple(_size(e) for e in tree.elts), match[3] or "cpu"
    )


def _size(tree: ast.expr) -> Any:
    expr = parse_expr(tree)
    return expr if expr.constant is None else expr.constant


def _parse(text: str) -> Graph:
    first, *rest = [_COMMENT.sub("", line).strip() for line in text.strip().splitlines()]
    head = _HEAD.match(first)
    if head is None:
        raise ValueError(f"not the head of a graph: {first!r}")
    interned = Interned()
    nodes = {name: interned.input(name, parse_type(kind)) for name, kind in _PARAM.findall(head[2])}
    inputs = tuple(nodes.values())
    checks: tuple[Node, ...] = ()
    outputs: tuple[Node, ...] = ()
    for line in rest:
        if line.startswith("check "):
            checks = _refs(nodes, line.removeprefix("check "))
        elif line.startswith("return"):
            outputs = _refs(nodes, line.removeprefix("return"))
        else:
            name, node = _parse_line(interned, nodes, line)
            nodes[name] = node
    return Graph(head[1], inputs, outputs, checks)


def _refs(nodes: Mapping[str, Node], text: str) -> tuple[Node, ...]:
    return tuple(nodes[ref.strip().removeprefix("%")] for ref in text.split(",") if ref.strip())


def _parse_line(interned: Interned, nodes: Mapping[str, Node], line: str) -> tuple[str, Node]:
    match = _LINE.match(line)
    if match is None:
        raise ValueError(f"not a line of a graph: {line!r}")
    name, kind, op, arguments = match.groups()
    if op == "constant":
        kind_of = parse_type(kind)
        return name, interned.constant(_parse_array(arguments, kind_of), kind_of)
    if op not in OPS:
        raise ValueError(f"unknown op {op!r} in {line!r}")
    refs = re.match(r"(?:%\w+(?:, |$))*", arguments)
    assert refs is not None
    attrs = _parse_attributes(arguments[refs.end() :])
    return name, interned.apply(OPS[op], _refs(nodes, refs[0]), dict(attrs), _parse_types(kind))


def _parse_types(text: str) -> TensorType | tuple[TensorType, ...]:
    """The type of a node, or of each of its several results."""
    if text.startswith("("):
        return tuple(parse_type(each) for each in _TYPE.findall(text))
    return parse_type(text)


def _parse_attributes(text: str) -> Attrs:
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return tuple((str(k.arg), _parse_attribute(k.value)) for k in call.keywords)


def _parse_attribute(tree: ast.expr) -> Any:
    match tree:
        case ast.Tuple(elts=elements):
            return tuple(_parse_attribute(element) for element in elements)
        case ast.Name(id=name) if name in DTYPES:
            return DTYPES[name]
        case ast.Call(func=ast.Name(id="formula"), args=[ast.Constant(value=str() as text)]):
            return _parse_formula(ast.parse(text, mode="eval").body)
        case ast.Constant(value=value) if not isinstance(value, int) or isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float() as value)):
            return -value
    return strip_constant(parse_expr(tree))


def strip_constant(expr: Expr) -> Any:
    """An expression, or the int that it is."""
    return expr if expr.constant is None else expr.constant


_OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//",
    ast.Mod: "%", ast.Pow: "**",
}  # fmt: skip


def _parse_formula(tree: ast.expr) -> Any:
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return Formula.named(name)
        case ast.BinOp(left=left, op=op, right=right):
            return Formula(_OPERATORS[type(op)], (_parse_formula(left), _parse_formula(right)))
        case ast.Set(elts=[expr]):
            return parse_expr(expr)
        case ast.Call(func=ast.Name(id="neg" | "abs" as op), args=[operand]):
            return Formula(op, (_parse_formula(operand),))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_parse_formula(operand)
    raise ValueError(f"not a formula: {ast.unparse(tree)}")


def _parse_array(text: str, type: TensorType) -> np.ndarray[Any, Any]:
    match = re.fullmatch(r"base64='(.*)'", text)
    if match is None:
        return np.array(ast.literal_eval(text), type.dtype.numpy)
    flat = np.frombuffer(base64.b64decode(match[1]), type.dtype.numpy)
    return flat.reshape(type.shape)


