"""The verifier: types every node of a graph again from its operands, by the op's own rule.

Sizes are `Dim`s with hints under fresh facts. A fault raises ValueError naming the node; the result
holds the facts about sizes on which the types rest. `sizes_fault` checks a node at given sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from stagekit.graph import Graph
from stagekit.node import Node, as_types, operand_types
from stagekit.op import Op
from stagekit.symbolic import Dim, Expr, Facts, Formula, evaluate, plain
from stagekit.types import DType, TensorType

Env = Mapping[str, Any]

# ----- attributes: what each name stands for, in every op -----------------------------------------


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_size(value: Any) -> bool:
    return isinstance(value, Expr) or _is_integer(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Formula) or _is_size(value) or type(value) is float


def _is_scalar(value: Any) -> bool:
    return type(value) in (bool, int, float)


def _is_step(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _all(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) is tuple and all(map(test, value))


_MODES = frozenset(["set", "add", "multiply", "min", "max"])

ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    "axes": _all(_is_integer),
    "axis": _is_integer,
    "checked": _is_bool,
    "complete": _is_bool,
    "descending": _is_bool,
    "dilation": _all(_is_step),
    "dtype": lambda value: isinstance(value, DType),
    "expr": _is_number,
    "extent": _all(_is_size),
    "full_matrices": _is_bool,
    "groups": _is_size,
    "high": _all(_is_size),
    "index": _is_integer,
    "inverse": _is_bool,
    "interior": _all(_is_integer),
    "k": _is_size,
    "largest": _is_bool,
    "low": _all(_is_size),
    "lower": _is_bool,
    "n": _is_integer,
    "mode": lambda value: value in _MODES,
    "offset": _all(_is_size),
    "rule": lambda value: value is not None,
    "serial": _is_integer,
    "shape": _all(_is_size),
    "side": lambda value: value in ("left", "right"),
    "size": _is_size,
    "sizes": _all(_is_size),
    "spacing": _all(_is_step),
    "starts": _all(_is_size),
    "stride": _all(_is_step),
    "strides": _all(_is_integer),
    "unit_diagonal": _is_bool,
    "value": _is_scalar,
    "what": lambda value: type(value) is str,
    "window": _all(_is_size),
}


def _attribute_fault(op: Op, attrs: Mapping[str, Any]) -> str | None:
    required, open_ended = _attribute_names(op)
    if attrs.keys() != required and not (open_ended and attrs.keys() >= required):
        return f"has the attributes {sorted(attrs)}, not {sorted(required)}"
    for name, value in attrs.items():
        if name not in ATTRIBUTES:
            return f"has an unknown attribute {name}"
        if not ATTRIBUTES[name](value):
            return f"has the attribute {name}={value!r}"
    return None


@cache
def _attribute_names(op: Op) -> tuple[frozenset[str], bool]:
    """The attributes an op requires, and whether it takes others."""
    parameters = inspect.signature(op.infer).parameters.values()
    required = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return required, any(p.kind is p.VAR_KEYWORD for p in parameters)


# ----- operands -----------------------------------------------------------------------------------


@cache
def arity(op: Op) -> tuple[int, int | None]:
    """The fewest and the most operands of an op; None for no limit.

    >>> import stagekit.ops
    >>> arity(OPS["add"]), arity(OPS["concat"])
    ((2, 2), (1, None))
    """
    if isinstance(op.evaluate, str):
        function = getattr(np, op.evaluate)
        count = function.nin if isinstance(function, np.ufunc) else _UNCOUNTED[op.evaluate]
        return count, count
    _, *parameters = inspect.signature(op.evaluate).parameters.values()
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return max(count, 1), None
    return count, count


_UNCOUNTED = {"where": 3}  # functions of NumPy that are no ufuncs and tell no signature


def _operand_fault(op: Op, types: Sequence[TensorType]) -> str | None:
    low, high = arity(op)
    if len(types) < low or (high is not None and len(types) > high):
        return f"takes {low} operands, not {len(types)}"
    found = [t.dtype for t in types]
    wanted = [t or d for t, d in zip(op.dtypes(op.name, found), found, strict=True)]
    if wanted != found:
        listed = ", ".join(map(str, found))
        return f"takes {', '.join(map(str, wanted))}, not {listed}"
    return None


# ----- conditions that the type rules take for granted --------------------------------------------


def _axes_fault(axes: Sequence[int], rank: int) -> str | None:
    if len(set(axes)) != len(axes) or any(not 0 <= a < rank for a in axes):
        return f"axes {tuple(axes)} in a tensor of {rank} axes"
    return None


def _permutation_fault(rank: int, axes: Sequence[int]) -> str | None:
    return None if len(axes) == rank else f"{len(axes)} axes of {rank}"


def _index_fault(op: Op, types: Sequence[TensorType], axes: Sequence[int]) -> str | None:
    indices = types[1 if op.name == "gather" else 2 :]
    if not indices or len(indices) != len(axes):
        return f"{len(indices)} indices for {len(axes)} axes"
    if any(len(t.shape) != len(indices[0].shape) for t in indices):
        return "indices of different ranks"
    return None


def _length_fault(attrs: Mapping[str, Any], rank: int) -> str | None:
    for name in ("starts", "sizes", "strides", "low", "high", "interior"):
        if name in attrs and len(attrs[name]) != rank:
            return f"{name} has {len(attrs[name])} entries for {rank} axes"
    return None


def _structure_fault(op: Op, types: Sequence[TensorType], attrs: Mapping[str, Any]) -> str | None:
    """What an op needs of the ranks of operands and the lengths of attributes."""
    rank = len(types[0].shape) if types else 0
    axes = attrs.get("axes", (attrs["axis"],) if "axis" in attrs else ())
    fault = _axes_fault(axes, rank) or _length_fault(attrs, rank)
    if fault is None and op.name == "permute":
        fault = _permutation_fault(rank, axes)
    if fault is None and op.name in ("gather", "scatter"):
        fault = _index_fault(op, types, axes)
    return fault


def sizes_fault(node: Node, env: Env) -> str | None:
    """What is wrong with a node at these sizes: a negative size, a slice beyond its operand."""
    attrs = {name: _now(value, env) for name, value in node.attrs if name in _SIZED}
    for type_ in node.types:
        shape = _now(type_.shape, env)
        if any(n < 0 for n in shape):
            return f"has the shape {shape}"
    for name in ("starts", "sizes", "low", "high", "interior", "shape"):
        if any(n < 0 for n in attrs.get(name, ())):
            return f"has the attribute {name}={attrs[name]}"
    if any(n < 1 for n in attrs.get("strides", ())):
        return f"has the attribute strides={attrs['strides']}"
    if attrs.get("groups", 1) < 1:
        return f"has the attribute groups={attrs['groups']}"
    if "window" in attrs:
        return _window_fault(node, attrs, _now(node.inputs[0].type.shape, env))
    if "starts" in attrs:
        return _slice_fault(attrs, _now(node.inputs[0].type.shape, env))
    if node.op is not None and node.op.name in ("gather", "scatter"):
        return _index_shapes_fault(node, env)
    return None


_SIZED = frozenset(
    ["starts", "sizes", "strides", "low", "high", "interior", "shape", "extent", "window", "groups"]
)


def _slice_fault(attrs: Mapping[str, Any], shape: Sequence[int]) -> str | None:
    parts = zip(attrs["starts"], attrs["sizes"], attrs["strides"], shape, strict=True)
    if any(size and start + (size - 1) * stride >= n for start, size, stride, n in parts):
        return f"reads beyond the shape {tuple(shape)}: {dict(attrs)}"
    return None


def _window_fault(node: Node, attrs: Mapping[str, Any], shape: Sequence[int]) -> str | None:
    steps = dict(node.attrs)
    sizes = shape[len(shape) - len(attrs["extent"]) :]
    names = ("extent", "stride", "window", "spacing")
    rows = zip(*({**steps, **attrs}[name] for name in names), sizes, strict=True)
    if any(t and k and s * (t - 1) + r * (k - 1) >= n for t, s, k, r, n in rows):
        return f"reads beyond the shape {tuple(shape)}: {steps}"
    return None


def _index_shapes_fault(node: Node, env: Env) -> str | None:
    assert node.op is not None
    indices = node.inputs[1 if node.op.name == "gather" else 2 :]
    shapes = {_now(x.type.shape, env) for x in indices}
    return f"has indices of the shapes {shapes}" if len(shapes) > 1 else None


def _now(value: Any, env: Env) -> Any:
    """An attribute or a shape with its expressions evaluated."""
    if isinstance(value, (Expr, Formula)):
        return evaluate(value, env)
    return tuple(_now(v, env) for v in value) if type(value) is tuple else value


# ----- the graph ----------------------------------------------------------------------------------


def verify(graph: Graph, env: Env | None = None) -> Facts:
    """Type every node again; ValueError names the first one that is not what it says.

    `env` has a hint for each named size, by default different primes. The result holds the facts
    about sizes on which the types rest.

    >>> import stagekit.ops
    >>> good = Graph.parse("graph f(%x: f32[n])\\n  %0: f32[n] = add(%x, %x)\\n  return %0")
    >>> list(verify(good).known)
    []
    >>> verify(Graph.parse("graph f(%x: f32[n])\\n  %0: f32[3] = add(%x, %x)\\n  return %0"))
    Traceback (most recent call last):
    ValueError: f: add of f32[n], f32[n]: is declared as f32[3] and has the type f32[n]
    """
    hints = _hints(graph) if env is None else env
    facts = Facts()
    dims = {name: Dim(Expr.named(name), hints[name], facts) for name in graph.symbols}
    _verify_inputs(graph)
    for node in (*graph.inputs, *graph.nodes):
        try:
            fault = _node_fault(graph, node, dims, hints)
        except Exception as error:  # a rule was given what it does not expect
            fault = f"{type(error).__name__}: {error}"
        if fault is not None:
            raise ValueError(f"{graph.name}: {_described(graph, node)}: {fault}")
    for node in graph.outputs:
        if node.is_several:
            raise ValueError(f"{graph.name}: {node!r} is an output: return each with out")
    facts.closed = True
    return facts


_PRIMES = (101, 211, 307, 401, 503, 601, 701, 809, 907, 1009, 1103, 1201, 1301, 1409, 1511)


def _hints(graph: Graph) -> dict[str, int]:
    rows = enumerate(graph.symbols)
    return {name: _PRIMES[k % len(_PRIMES)] + 1511 * (k // len(_PRIMES)) for k, name in rows}


def _verify_inputs(graph: Graph) -> None:
    inputs = {node.name: node for node in graph.inputs}
    for node in graph.inputs:
        if inputs[node.name] is not node:
            raise ValueError(f"{graph.name}: the input %{node.name} is defined twice")
    for node in graph.nodes:
        if node.op is None and node.constant is None:
            raise ValueError(f"{graph.name}: %{node.name} is used and not defined")
        if any(x.serial >= node.serial and inputs.get(x.name) is not x for x in node.inputs):
            raise ValueError(f"{graph.name}: {_described(graph, node)} is used before it is made")


def _node_fault(graph: Graph, node: Node, dims: Env, hints: Env) -> str | None:
    if node.op is None:
        return _array_fault(node) if node.constant is not None else sizes_fault(node, hints)
    op, attrs = node.op, dict(node.attrs)
    types = operand_types(node.inputs)
    fault = _projection_fault(node) or _attribute_fault(op, attrs) or _operand_fault(op, types)
    fault = fault or _structure_fault(op, types, attrs) or sizes_fault(node, hints)
    return fault or _type_fault(node, dims)


def _projection_fault(node: Node) -> str | None:
    """Several results are operands of `out` alone, one operand each."""
    if any(x.is_several for x in node.inputs):
        assert node.op is not None
        if node.op.name != "out" or len(node.inputs) > 1:
            return "takes several results in one: take each with out"
    return None


def _array_fault(node: Node) -> str | None:
    assert node.constant is not None
    type_, array = node.type, node.constant
    if type_.dtype.numpy != array.dtype or type_.shape != array.shape:
        return f"is declared as {type_} and holds {array.dtype} {array.shape}"
    return None


def _type_fault(node: Node, dims: Env) -> str | None:
    assert node.op is not None
    types = [t.with_shape(_now(t.shape, dims)) for t in operand_types(node.inputs)]
    inferred = node.op.infer(*types, **{name: _now(value, dims) for name, value in node.attrs})
    found = as_types(inferred)
    if tuple(t.stripped() for t in found) != node.types:
        listed = ", ".join(str(t.stripped()) for t in found)
        return f"is declared as {node.type_text} and has the type {listed}"
    for type_ in found:
        if any(n < 0 for n in plain(type_.shape)):
            return f"has the shape {plain(type_.shape)}"
    return None


def _described(graph: Graph, node: Node) -> str:
    if node.op is None:
        return f"%{node.name}" if node.name else f"constant {node.type_text}"
    at = graph.line(node)
    operands = ", ".join(x.type_text for x in node.inputs)
    return f"{node.op.name} of {operands or 'nothing'}" + (f" ({at})" if at else "")
