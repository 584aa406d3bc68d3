"""Which convolution a node of a graph is, and what of its operands need not be made.

The derivative in x is a convolution with kernels that were exchanged and reversed; the one in the
kernel a convolution of operands whose batch and channels were exchanged (`ops/convolution.py`).
Both are read where they lie: an operand that only moves elements of another node is an affine view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stagekit.kernels.llvm.vectors import Lanes
from stagekit.kernels.products.convolution import Axis, Code, Epilogue, Problem, Weights
from stagekit.kernels.products.convolution_gradient import kernel_gradient
from stagekit.kernels.products.convolution_product import product
from stagekit.node import Node
from stagekit.symbolic import Expr

Factor = tuple[Expr, Expr]  # a size, and a stride in elements
Loops = tuple[Factor, ...]

_MOVES = ("permute", "flip", "reshape", "alias", "stop_gradient")


@dataclass(frozen=True)
class View:
    """Elements in the memory of something else: each axis is loops, outermost first, over it."""

    start: Expr
    axes: tuple[Loops, ...]

    @staticmethod
    def plain(shape: tuple[Any, ...]) -> View:
        """A shape in C order."""
        axes: list[Loops] = []
        stride = Expr.of(1)
        for size in map(Expr.of, reversed(shape)):
            axes.append(_joined([(size, stride)]))
            stride = stride * size
        return View(Expr.of(0), tuple(reversed(axes)))

    @staticmethod
    def of(node: Node, base: Node) -> View | None:
        """A node as a view of what its permutations, reversals and reshapes start from; None if it
        is not affine.
        """
        if node is base:
            return View.plain(node.type.shape)
        assert node.op is not None
        inner, attrs, name = View.of(node.inputs[0], base), dict(node.attrs), node.op.name
        if inner is None:
            return None
        if name == "permute":
            return View(inner.start, tuple(inner.axes[k] for k in attrs["axes"]))
        if name == "flip":
            start, axes = inner.start, list(inner.axes)
            for k in attrs["axes"]:
                for n, s in axes[k]:
                    start = start + (n - 1) * s
                axes[k] = tuple((n, s * -1) for n, s in axes[k])
            return View(start, tuple(axes))
        if name == "reshape":
            split = _split([loop for axis in inner.axes for loop in axis], node.type.shape)
            return None if split is None else View(inner.start, split)
        return inner


def _bases(node: Node) -> list[Node]:
    """The nodes whose elements a node may be, the farthest first."""
    found = [node]
    while node.op is not None and node.op.name in _MOVES:
        node = node.inputs[0]
        found.insert(0, node)
    return found


def _joined(loops: Sequence[Factor]) -> Loops:
    """Loops that are one loop made one; loops of size 1 left out."""
    found: list[Factor] = []
    for size, stride in loops:
        if size.constant == 1:
            continue
        if found and found[-1][1] == stride * size:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def _split(loops: Sequence[Factor], shape: Sequence[Any]) -> tuple[Loops, ...] | None:
    """The loops dealt out to axes of the sizes of a shape; None where one is not affine."""
    for left in (list(loops), list(_joined(loops))):
        axes = [_dealt(left, Expr.of(size)) for size in shape]
        if None not in axes and not left:
            return tuple(axis for axis in axes if axis is not None)
    return None


def _dealt(left: list[Factor], size: Expr) -> Loops | None:
    """The first of some loops, taken away from them, up to a size."""
    taken: list[Factor] = []
    while size.constant != 1:
        if not left:
            return None
        inner, stride = left.pop(0)
        common, rest = _quotient(inner, size), _quotient(size, inner)
        if common is not None:  # the axis is the outer part of a loop, or all of it
            taken.append((size, stride * common))
            if common.constant != 1:
                left.insert(0, (common, stride))
            break
        if rest is None:
            return None
        taken.append((inner, stride))
        size = rest
    return _joined(taken)


def _quotient(x: Expr, y: Expr) -> Expr | None:
    """x / y where it is a whole number for all sizes."""
    if x == y:
        return Expr.of(1)
    if y.constant == 0:
        return None
    quotient = x // y
    return quotient if quotient * y == x else None


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

    A node that exchanges the first two axes of a kernel gradient is that gradient, too: who asks
    for it first need not make the inner node.
    """
    name, attrs = node.op.name if node.op is not None else "", dict(node.attrs)
    found: Convolution | str | None = None
    if name == "permute" and attrs["axes"] == (1, 0, *range(2, len(attrs["axes"]))):
        inner = node.inputs[0]
        if inner.op is not None and inner.op.name == "convolution":
            found = _gradient(inner, False)
    elif name == "convolution":
        found = _gradient(node, True) or _product(node)
    if found is None:
        return "no convolution"
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
    batch = Expr.of(x.type.shape[0])
    for base in _bases(w) if not p.refusal else ():
        view = View.of(w, base)
        weights = None if view is None else _weights(p, view)
        if weights is not None:
            return Convolution(p, batch, x, base, weights)
    return Convolution(p, batch, x, w, Weights.plain(p))


def _weights(p: Problem, view: View) -> Weights | None:
    """A view as weights: each axis one loop, the outputs one or (with groups) two."""
    outputs, channels, *taps = view.axes
    group = _split(outputs, (p.groups, p.outputs))
    if group is None:
        return None
    rows = [*group, channels, *([()] * (2 - len(taps))), *taps]
    numbers = [view.start.constant, *(row[0][1].constant if row else 0 for row in rows)]
    if any(len(row) > 1 for row in rows) or None in numbers:
        return None
    return Weights(*(n for n in numbers if n is not None))


def _gradient(node: Node, exchanged: bool) -> Convolution | None:
    """The convolution as the derivative of another one in its kernel, if it is one."""
    attrs = dict(node.attrs)
    x, ct = node.inputs
    groups = Expr.of(attrs["groups"]).constant
    channels, outputs = (Expr.of(a.type.shape[0]).constant for a in (x, ct))
    if not groups or channels is None or outputs is None:
        return None
    # The convolution's own names: its stride is the spacing of the taps, its extent their number.
    sizes = (x.type.shape[2:], ct.type.shape[2:], attrs["extent"], attrs["offset"])
    steps = (attrs["spacing"], attrs["stride"], attrs["dilation"])
    axes = _axes(list(zip(*sizes, *steps, strict=True)))
    batch = Expr.of(ct.type.shape[1])
    if axes is None:
        return None
    source, cotangent = _exchanged(x, batch, groups, channels), _exchanged(ct, batch, 1, outputs)
    if source is None or cotangent is None:
        return None
    p = Problem(node.type.dtype, groups, channels, outputs // groups, *axes)
    return Convolution(p, batch, source, cotangent, None, exchanged)


def _exchanged(node: Node, batch: Expr, groups: int, channels: int) -> Node | None:
    """What has the elements of a node in memory as (batch, groups, channels, ...)."""
    sizes = node.type.shape[2:]
    plain = View.plain((batch, groups, channels, *sizes))
    n, g, c, *rest = plain.axes
    wanted = View(plain.start, (c, _joined([*g, *n]), *rest))
    found = (base for base in _bases(node) if base is not node and View.of(node, base) == wanted)
    return next(found, None)
