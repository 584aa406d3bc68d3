"""Canonicalize: fewer nodes, or simpler ones, for the same bits. Every rule here is exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.node import Node
from stagekit.staging.rewrite import Builder, rewrite, rule
from stagekit.types import same_size

# ----- elementwise --------------------------------------------------------------------------------


@rule()
def double_negation(x: Any) -> Any:
    """-(-x) = x"""
    return -(-x), x


@rule()
def times_one(x: Any) -> Any:
    """x * 1 = x"""
    return x * 1.0, x


@rule()
def one_times(x: Any) -> Any:
    """1 * x = x"""
    return 1.0 * x, x


@rule()
def over_one(x: Any) -> Any:
    """x / 1 = x"""
    return x / 1.0, x


@rule()
def minus_zero(x: Any) -> Any:
    """x - 0 = x, also for x = -0"""
    return x - 0.0, x


@rule()
def plus_negation(x: Any, y: Any) -> Any:
    """x + (-y) = x - y"""
    return x + (-y), x - y


@rule()
def minus_negation(x: Any, y: Any) -> Any:
    """x - (-y) = x + y"""
    return x - (-y), x + y


@rule()
def equal_branches(c: Any, x: Any) -> Any:
    """where(c, x, x) = x"""
    return ops.where(c != 0, x, x), x


@rule()
def larger_of_itself(x: Any) -> Any:
    """maximum(x, x) = x"""
    return ops.maximum(x, x), x


@rule()
def smaller_of_itself(x: Any) -> Any:
    """minimum(x, x) = x"""
    return ops.minimum(x, x), x


@rule()
def abs_of_negation(x: Any) -> Any:
    """|-x| = |x|"""
    return ops.abs(-x), ops.abs(x)


@rule()
def negative_factor(x: Any, y: Any) -> Any:
    """(-x) y = -(x y)"""
    return (-x) * y, -(x * y)


@rule()
def negative_other_factor(x: Any, y: Any) -> Any:
    """x (-y) = -(x y)"""
    return x * (-y), -(x * y)


@rule()
def negative_numerator(x: Any, y: Any) -> Any:
    """(-x) / y = -(x / y)"""
    return (-x) / y, -(x / y)


@rule()
def negative_first_term(x: Any, y: Any) -> Any:
    """(-x) + y = y - x"""
    return (-x) + y, y - x


@rule()
def square_of_negation(x: Any) -> Any:
    """(-x)^2 = x^2"""
    return ops.square(-x), ops.square(x)


@rule()
def erf_is_odd(x: Any) -> Any:
    """erf(-x) = -erf(x)"""
    return ops.erf(-x), -ops.erf(x)


@rule()
def tanh_is_odd(x: Any) -> Any:
    """tanh(-x) = -tanh(x)"""
    return ops.tanh(-x), -ops.tanh(x)


# ----- movement -----------------------------------------------------------------------------------


@rewrite("reshape")
def reshape_of_reshape(node: Node, build: Builder) -> Node | None:
    """reshape(reshape(x, s), t) = reshape(x, t)"""
    inner = node.inputs[0]
    if inner.op is None or inner.op.name != "reshape":
        return None
    return build.apply("reshape", inner.inputs[0], **dict(node.attrs))


@rewrite("reshape")
def reshape_to_the_same(node: Node, build: Builder) -> Node | None:
    """reshape(x, x.shape) = x"""
    return node.inputs[0]


@rewrite("permute")
def permute_of_permute(node: Node, build: Builder) -> Node | None:
    """permute(permute(x, p), q) = permute(x, p[q])"""
    inner = node.inputs[0]
    if inner.op is None or inner.op.name != "permute":
        return None
    first, second = (dict(n.attrs)["axes"] for n in (inner, node))
    return build.apply("permute", inner.inputs[0], axes=tuple(first[a] for a in second))


@rewrite("permute")
def permute_in_order(node: Node, build: Builder) -> Node | None:
    """permute(x, (0, 1, ...)) = x"""
    axes = dict(node.attrs)["axes"]
    return node.inputs[0] if axes == tuple(range(len(axes))) else None


@rewrite("broadcast_to")
def broadcast_of_broadcast(node: Node, build: Builder) -> Node | None:
    """broadcast_to(broadcast_to(x, s), t) = broadcast_to(x, t)"""
    inner = node.inputs[0]
    if inner.op is None or inner.op.name != "broadcast_to":
        return None
    return build.apply("broadcast_to", inner.inputs[0], **dict(node.attrs))


@rewrite("flip")
def flip_of_flip(node: Node, build: Builder) -> Node | None:
    """flip(flip(x, axes), axes) = x"""
    inner = node.inputs[0]
    if inner.op is None or inner.op.name != "flip" or inner.attrs != node.attrs:
        return None
    return inner.inputs[0]


@rewrite("concat")
def concat_of_one(node: Node, build: Builder) -> Node | None:
    """concat(x) = x"""
    return node.inputs[0] if len(node.inputs) == 1 else None


@rewrite("pad")
def pad_of_nothing(node: Node, build: Builder) -> Node | None:
    """pad(x) = x where nothing is added"""
    widths = [w for _, value in node.attrs for w in value]
    return node.inputs[0] if set(widths) <= {0} else None


@rewrite("add")
def pads_side_by_side(node: Node, build: Builder) -> Node | None:
    """pad(x) + pad(y) = pad(concat(x + 0, y + 0)) where one lies just before the other

    The sum of the gradients of neighbouring slices: +0 is what the zeros do to -0.
    """
    a, b = node.inputs
    if not (_is_padded_with_zeros(a) and _is_padded_with_zeros(b)):
        return None
    for first, second in ((a, b), (b, a)):
        axis = _axis_of_neighbours(first, second)
        if axis is not None:
            parts = [*_parts(first.inputs[0], axis), *_parts(second.inputs[0], axis)]
            whole = build.apply("concat", *(_plus_zero(x, build) for x in parts), axis=axis)
            low, high = dict(first.attrs)["low"], dict(second.attrs)["high"]
            zero = first.inputs[1]
            none = dict(first.attrs)["interior"]
            return build.apply("pad", whole, zero, low=low, high=high, interior=none)
    return None


def _is_padded_with_zeros(node: Node) -> bool:
    if node.op is None or node.op.name != "pad" or set(dict(node.attrs)["interior"]) > {0}:
        return False
    value = node.inputs[1]
    if value.op is not None and value.op.name == "full":
        number = dict(value.attrs)["value"]
        return bool(number == 0) and math.copysign(1, number) > 0
    return value.constant is not None and not value.constant.any() and (
        not np.signbit(value.constant.real) if value.constant.dtype.kind in "fc" else True
    )


def _axis_of_neighbours(first: Node, second: Node) -> int | None:
    """The one axis along which the second operand begins where the first one ends."""
    x, y = dict(first.attrs), dict(second.attrs)
    apart = [
        k for k in range(len(x["low"]))
        if (x["low"][k], x["high"][k]) != (y["low"][k], y["high"][k])
    ]  # fmt: skip
    if len(apart) != 1:
        return None
    (k,) = apart
    return k if y["low"][k] == x["low"][k] + first.inputs[0].type.shape[k] else None


def _parts(node: Node, axis: int) -> tuple[Node, ...]:
    joined = node.op is not None and node.op.name == "concat" and dict(node.attrs)["axis"] == axis
    return node.inputs if joined else (node,)


def _plus_zero(x: Node, build: Builder) -> Node:
    added = x.op is not None and x.op.name == "add" and _is_zero(x.inputs[1])
    return x if added else build.apply("add", x, build.constant(0, x.type.with_shape(())))


def _is_zero(node: Node) -> bool:
    return node.constant is not None and node.constant.size == 1 and not node.constant.any()


@rewrite("fold")
def fold_side_by_side(node: Node, build: Builder) -> Node | None:
    """fold(y) = reshape(permute(y)) where windows lie side by side: each element has one term"""
    attrs, (y,) = dict(node.attrs), node.inputs
    rank, shape = len(attrs["extent"]), y.type.shape
    lead = len(shape) - 2 * rank
    rows = list(zip(shape[lead:], shape[lead + rank :], attrs["extent"], strict=False))
    if attrs["stride"] != shape[lead + rank :] or set(attrs["spacing"]) != {1}:
        return None
    if any(not same_size(n * k, size) for n, k, size in rows):
        return None
    pairs = [axis for k in range(lead, lead + rank) for axis in (k, k + rank)]
    moved = build.apply("permute", y, axes=(*range(lead), *pairs))
    return build.apply("reshape", moved, shape=node.type.shape)


RULES = [
    double_negation,
    times_one,
    one_times,
    over_one,
    minus_zero,
    plus_negation,
    minus_negation,
    equal_branches,
    larger_of_itself,
    smaller_of_itself,
    abs_of_negation,
    negative_factor,
    negative_other_factor,
    negative_numerator,
    negative_first_term,
    square_of_negation,
    erf_is_odd,
    tanh_is_odd,
    reshape_to_the_same,
    reshape_of_reshape,
    permute_in_order,
    permute_of_permute,
    broadcast_of_broadcast,
    flip_of_flip,
    concat_of_one,
    pad_of_nothing,
    pads_side_by_side,
    fold_side_by_side,
]
