"""Which convolution a node of a graph is, and what of its operands need not be made.

The derivative in x is a convolution with kernels that were exchanged and reversed; the one in the
kernel a convolution of operands whose batch and channels were exchanged (`ops/convolution.py`).
Both are read where they lie: an operand that only moves elements of another node is an affine view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stagekit.kernels.convolution import Axis, Code, Epilogue, Problem, Weights, product
from stagekit.kernels.kernel_gradient import kernel_gradient
from stagekit.kernels.vectors import Lanes
from stagekit.node import Node
from stagekit.symbolic import Expr

Factor = tuple[Expr, Expr]  # a size, and a stride in elements


@dataclass(frozen=True)
class View:
    """A node's elements in another one's memory: each axis is loops, outermost first, over it."""

    base: Node
    start: Expr
    axes: tuple[tuple[Factor, ...], ...]

    @staticmethod
    def plain(node: Node) -> View:
        """A node in its own memory."""
        axes: list[tuple[Factor, ...]] = []
        stride = Expr.of(1)
        for size in reversed(node.type.shape):
            axes.append(_joined([(Expr.of(size), stride)]))
            stride = stride * size
        return View(node, Expr.of(0), tuple(reversed(axes)))

    @staticmethod
    def of(node: Node) -> View:
        """A node as a view of what its permutations, reversals and reshapes start from."""
        name = node.op.name if node.op is not None else ""
        if name not in ("permute", "flip", "reshape"):
            return View.plain(node)
        attrs, inner = dict(node.attrs), View.of(node.inputs[0])
        if name == "permute":
            return View(inner.base, inner.start, tuple(inner.axes[k] for k in attrs["axes"]))
        if name == "flip":
            start, axes = inner.start, list(inner.axes)
            for k in attrs["axes"]:
                start = sum(((n - 1) * s for n, s in axes[k]), start)
                axes[k] = tuple((n, -s) for n, s in axes[k])
            return View(inner.base, start, tuple(axes))
        axes_ = _split([f for axis in inner.axes for f in axis], node.type.shape)
        return View.plain(node) if axes_ is None else View(inner.base, inner.start, axes_)


def _joined(factors: list[Factor]) -> tuple[Factor, ...]:
    """Loops that are one loop made one; loops of size 1 left out."""
    found: list[Factor] = []
    for size, stride in factors:
        if size == 1:
            continue
        if found and found[-1][1] == stride * size:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def _split(factors: list[Factor], shape: tuple[Any, ...]) -> tuple[tuple[Factor, ...], ...] | None:
    """The loops dealt out to axes of the sizes of a shape; None where one is not affine."""
    left, axes = list(_joined(factors)), []
    for size in map(Expr.of, shape):
        taken: list[Factor] = []
        while size != 1:
            if not left:
                return None
            inner, stride = left.pop(0)
            common = _quotient(inner, size)
            if common is not None:  # the axis is the outer part of a loop, or all of it
                taken.append((size, stride * common))
                left = ([] if common == 1 else [(common, stride)]) + left
                break
            rest = _quotient(size, inner)
            if rest is None:
                return None
            taken.append((inner, stride))
            size = rest
        axes.append(_joined(taken))
    return None if left else tuple(axes)


def _quotient(x: Expr, y: Expr) -> Expr | None:
    """x / y where it is a whole number for all sizes."""
    if x == y:
        return Expr.of(1)
    if x.constant is not None and y.constant is not None:
        return Expr.of(x.constant // y.constant) if y.constant and x.constant % y.constant == 0 else None
    quotient = x // y
    return quotient if quotient * y == x and not (quotient.names - x.names) else None


@dataclass(frozen=True)
class Convolution:
    """A convolution of what lies in memory: `x`, and weights or (of a kernel gradient) a cotangent.

    Both lie there as they are, and so does the result. `weights` is None for a kernel gradient.
    """

    problem: Problem
    batch: Expr
    x: Node
    w: Node
    weights: Weights | None
    exchanged: bool = False

    def code(self, name: str, lanes: Lanes, epilogue: Epilogue | None = None) -> Code:
        """Its LLVM text; a kernel gradient takes no epilogue."""
        if self.weights is None:
            return kernel_gradient(name, self.problem, lanes, self.exchanged)
        return product(name, self.problem, lanes, self.weights, epilogue)


def recognize(node: Node) -> Convolution | str:
    """The convolution that a node is, or why no kernel is generated for it.

    A node that exchanges the first two axes of a kernel gradient is that gradient, too: who asks for
    it first need not make the inner node.
    """
    name = node.op.name if node.op is not None else ""
    if name == "permute" and dict(node.attrs)["axes"][:2] == (1, 0):
        inner = node.inputs[0]
        axes = dict(node.attrs)["axes"]
        if axes[2:] == tuple(range(2, len(axes))) and inner.op is not None:
            found = _gradient(inner, False) if inner.op.name == "convolution" else None
            if found is not None:
                return found.problem.refusal or found
    if name != "convolution":
        return "no convolution"
    found = _gradient(node, True) or _product(node)
    return found if isinstance(found, str) else found.problem.refusal or found


def _axes(rows: list[tuple[Any, ...]]) -> tuple[Axis, Axis] | None:
    """Two axes of numbers that are known; one axis is a row."""
    if len(rows) not in (1, 2):
        return None
    numbers = [[Expr.of(n).constant for n in row] for row in rows]
    if any(n is None for row in numbers for n in row):
        return None
    found = [Axis(*row) for row in numbers]  # type: ignore[arg-type]
    return (Axis(1, 1, 1, 0, 1, 1, 1), found[0]) if len(found) == 1 else (found[0], found[1])


def _product(node: Node) -> Convolution | str:
    x, w = node.inputs
    attrs = dict(node.attrs)
    names = ("offset", "stride", "spacing", "dilation")
    sizes = (x.type.shape[2:], attrs["extent"], w.type.shape[2:])
    axes = _axes(list(zip(*sizes, *(attrs[name] for name in names), strict=True)))
    counts = [Expr.of(n).constant for n in (attrs["groups"], w.type.shape[0], w.type.shape[1])]
    if axes is None:
        return "a convolution of more than two axes, or of sizes that are not known"
    groups, outputs, channels = counts
    if groups is None or outputs is None or channels is None:
        return "a convolution whose channels are not known"
    p = Problem(x.type.dtype, groups, channels, outputs // max(groups, 1), *axes)
    batch, view = Expr.of(x.type.shape[0]), View.of(w)
    weights = None if p.refusal else _weights(p, view)
    if weights is not None:
        return Convolution(p, batch, x, view.base, weights)
    return Convolution(p, batch, x, w, Weights.plain(p))


def _weights(p: Problem, view: View) -> Weights | None:
    """A view as weights: each axis one loop, the outputs one or (with groups) two."""
    outputs, channels, *taps = view.axes
    group = _split(list(outputs), (p.groups, p.outputs))
    if group is None:
        return None
    rows: list[tuple[Factor, ...]] = [*group, channels, *([()] * (2 - len(taps))), *taps]
    if any(len(row) > 1 for row in rows):
        return None
    strides = [row[0][1].constant if row else 0 for row in rows]
    start = view.start.constant
    if start is None or any(stride is None for stride in strides):
        return None
    return Weights(start, *strides)  # type: ignore[arg-type]


def _gradient(node: Node, exchanged: bool) -> Convolution | None:
    """The convolution as the derivative of another one in its kernel, if it is one."""
    attrs = dict(node.attrs)
    x, ct = View.of(node.inputs[0]), View.of(node.inputs[1])
    groups = Expr.of(attrs["groups"]).constant
    source, cotangent = x.base.type.shape, ct.base.type.shape
    rank = len(node.type.shape)
    if not groups or len(source) != rank or len(cotangent) != rank:
        return None
    if x.base is node.inputs[0] or ct.base is node.inputs[1]:
        return None
    counts = [Expr.of(shape[1]).constant for shape in (source, cotangent)]
    channels, outputs = counts
    if channels is None or outputs is None or channels % groups or outputs % groups:
        return None
    # The convolution's own names: its stride is the spacing of the taps, its extent their number.
    sizes = (source[2:], cotangent[2:], attrs["extent"], attrs["offset"], attrs["spacing"])
    axes = _axes(list(zip(*sizes, attrs["stride"], attrs["dilation"], strict=True)))
    if axes is None or x != _expected(x.base, groups) or ct != _expected(ct.base, 1):
        return None
    dtype = node.type.dtype
    p = Problem(dtype, groups, channels // groups, outputs // groups, *axes)
    return Convolution(p, Expr.of(source[0]), x.base, ct.base, None, exchanged)


def _expected(base: Node, groups: int) -> View:
    """A node with channels of each group first, then groups and batch in one axis."""
    plain = View.plain(base)
    batch, channels, *sizes = plain.axes
    split = _split(list(channels), (groups, Expr.of(base.type.shape[1]) // groups))
    assert split is not None
    return View(base, plain.start, (split[1], _joined([*split[0], *batch]), *sizes))
