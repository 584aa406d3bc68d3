"""Sums of products over named axes: `einsum`, and the products that are cases of it.

Each pair of operands becomes one `matmul` (or a product, where nothing is summed); the order of the
pairs is chosen by cost. Nothing here is a primitive.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple

import stagekit.ops as ops
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.source import here
from stagekit.symbolic import maximum, minimum, plain, product
from stagekit.types import (
    as_integer,
    bool_,
    broadcast_shapes,
    default_int,
    known_same,
    normalize_axis,
    same_size,
    shape_text,
)

Labels = tuple[Hashable, ...]


class Term(NamedTuple):
    """A tensor whose axes have names."""

    x: Any
    labels: Labels

    def size(self, label: Hashable) -> Any:
        return self.x.shape[self.labels.index(label)]


# ----- two operands -------------------------------------------------------------------------------


def _arranged(term: Term, *groups: Sequence[Hashable]) -> Any:
    """The tensor with its axes in the order of the groups."""
    order = tuple(term.labels.index(label) for group in groups for label in group)
    return term.x if order == tuple(range(len(order))) else ops.permute_dims(term.x, order)


def _contracted(left: Term, right: Term, kept: Collection[Hashable]) -> Term:
    """The product of two terms, summed over the names they share that are not kept."""
    shared = [label for label in left.labels if label in right.labels]
    batch = [label for label in shared if label in kept]
    summed = [label for label in shared if label not in kept]
    rows = [label for label in left.labels if label not in shared]
    columns = [label for label in right.labels if label not in shared]
    stack, k = [left.size(label) for label in batch], [left.size(label) for label in summed]
    n, m = [left.size(label) for label in rows], [right.size(label) for label in columns]
    x, y = _arranged(left, batch, rows, summed), _arranged(right, batch, summed, columns)
    if summed:
        x = ops.reshape(x, (*stack, product(n), product(k)))
        y = ops.reshape(y, (*stack, product(k), product(m)))
        out = ops.reshape(ops.matmul(x, y), (*stack, *n, *m))
    else:
        x = ops.reshape(x, (*stack, *n, *(1 for _ in m)))
        out = x * ops.reshape(y, (*stack, *(1 for _ in n), *m))
    return Term(out, (*batch, *rows, *columns))


def _reduced(term: Term, kept: Collection[Hashable]) -> Term:
    """A term without repeated names (its diagonal) and without names that nothing keeps."""
    x, labels = term
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            x = diagonal(x, axis1=first, axis2=second)
            labels = (*(n for k, n in enumerate(labels) if k not in (first, second)), label)
    lost = tuple(k for k, label in enumerate(labels) if label not in kept)
    if lost:
        x = ops.sum(x, axis=lost, dtype=x.dtype)
    return Term(x, tuple(label for label in labels if label in kept))


def _cost(left: Term, right: Term) -> int:
    """Multiplications of a pair at the sizes of now: any order of pairs is right for all sizes."""
    sizes = dict(zip(left.labels, left.x.shape, strict=True))
    sizes |= zip(right.labels, right.x.shape, strict=True)
    cost: int = product(plain(tuple(sizes.values())))
    return cost


def _contract(terms: list[Term], output: Labels) -> Any:
    """Pair by pair, the cheapest first, until one is left with the axes of the output."""

    def kept(among: Sequence[Term]) -> set[Hashable]:
        return {*output, *(label for term in among for label in term.labels)}

    terms = [_reduced(t, kept([*terms[:k], *terms[k + 1 :]])) for k, t in enumerate(terms)]
    while len(terms) > 1:
        pairs = itertools.combinations(range(len(terms)), 2)
        i, j = min(pairs, key=lambda pair: _cost(terms[pair[0]], terms[pair[1]]))
        others = [t for k, t in enumerate(terms) if k not in (i, j)]
        terms = [*others, _contracted(terms[i], terms[j], kept(others))]
    return _arranged(terms[0], output)


# ----- einsum -------------------------------------------------------------------------------------


def einsum(subscripts: str, /, *operands: Any) -> Any:
    """The sum of products that `subscripts` name, as `numpy.einsum`.

    A letter is an axis: repeated in one operand its diagonal, missing from the result summed. `...`
    are further axes, which broadcast. Without `->` the result has the letters that occur once, in
    order. Operands get one type; float16 is summed in float32. Raises ShapeError, DTypeError.

    >>> import stagekit as sk
    >>> sk.einsum("ij,jk->ik", sk.ones((2, 3)), sk.ones((3, 1)))
    tensor([[3.],
            [3.]], dtype=float32)
    """
    if not isinstance(subscripts, str):
        raise ArgumentError(
            f"einsum: subscripts are {subscripts!r}", fix='give a text such as "ij,jk->ik"'
        ).located(here())
    tensors = [ops.asarray(x) for x in operands]
    inputs, output = _parsed(subscripts, [x.ndim for x in tensors])
    kind = ops.result_type(*tensors)
    if kind is bool_ and len(tensors) > 1:
        error = DTypeError("einsum: bool operands have no products", fix="cast with astype first")
        raise error.located(here())
    sizes = _sizes(subscripts, tensors, inputs)
    terms = []
    for x, labels in zip(tensors, inputs, strict=True):
        shape = tuple(sizes[label] for label in labels)
        x = ops.astype(x, kind, copy=False)
        terms.append(Term(x if known_same(x.shape, shape) else ops.broadcast_to(x, shape), labels))
    out = _contract(terms, output)
    return ops.alias(out) if any(out is x for x in tensors) else out


def _misfit(subscripts: str, why: str, fix: str) -> ShapeError:
    return ShapeError(f"einsum: {subscripts!r} {why}", fix=fix).located(here())


def _parsed(subscripts: str, ranks: list[int]) -> tuple[list[Labels], Labels]:
    """The names of the axes of each operand and of the result; those of an ellipsis are ints."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(ranks):
        why = f"names {len(texts)} operands, {len(ranks)} are given"
        raise _misfit(subscripts, why, "separate the subscripts of the operands by commas")
    inputs = [_labels(subscripts, text, rank) for text, rank in zip(texts, ranks, strict=True)]
    found = [label for labels in inputs for label in labels]
    dots = tuple(sorted({label for label in found if isinstance(label, int)}))
    if not arrow:
        once = sorted(n for n in found if isinstance(n, str) and found.count(n) == 1)
        return inputs, (*dots, *once)
    if dots and "..." not in right:
        raise _misfit(
            subscripts, "has axes of `...` that the result lacks", "write `...` there too"
        )
    output = _labels(
        subscripts, right, len(right.replace("...", "")) + len(dots) * ("..." in right)
    )
    for label in output:
        if output.count(label) > 1 or label not in found:
            why = f"has {label!r} in the result twice or in no operand"
            raise _misfit(subscripts, why, "name each axis of the result once")
    return inputs, output


def _labels(subscripts: str, text: str, rank: int) -> Labels:
    """The names of the axes of one operand."""
    head, dots, tail = text.partition("...")
    letters = head + tail
    if letters and not (letters.isascii() and letters.isalpha()):
        raise _misfit(subscripts, "has other signs than letters, `...`, `,` and `->`", "drop them")
    extra = rank - len(letters)
    if extra < 0 or (extra and not dots):
        why = f"names {len(letters)} axes in {text!r}, the operand has {rank}"
        raise _misfit(subscripts, why, "name each axis, or write `...` for the others")
    return (*head, *range(-extra, 0), *tail)


def _sizes(subscripts: str, tensors: list[Any], inputs: list[Labels]) -> dict[Hashable, Any]:
    """The size of each name; sizes of 1 broadcast."""
    sizes: dict[Hashable, Any] = {}
    for x, labels in zip(tensors, inputs, strict=True):
        for label, n in zip(labels, x.shape, strict=True):
            try:
                (sizes[label],) = broadcast_shapes("einsum", (sizes.get(label, 1),), (n,))
            except ShapeError:
                shapes = " and ".join(shape_text(t.shape) for t in tensors)
                name = f"{label!r}" if isinstance(label, str) else "`...`"
                why = f"gives {name} the sizes {plain((sizes[label], n))} in shapes {shapes}"
                raise _misfit(subscripts, why, "sizes of one name must be equal, or 1") from None
    return sizes


# ----- cases of it --------------------------------------------------------------------------------


def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    """The sum of products over pairs of axes, as `numpy.tensordot`.

    `axes` is a number (the last ones of `x1`, the first ones of `x2`) or two sequences of axes.
    Raises ShapeError where they do not fit.

    >>> import stagekit as sk
    >>> sk.tensordot(sk.ones((2, 3)), sk.ones((3, 4)), axes=1).shape
    (2, 4)
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    if isinstance(axes, (tuple, list)):
        pair = [tuple(a) if isinstance(a, (tuple, list)) else (a,) for a in axes]
    else:
        axes = as_integer("tensordot", "axes", axes)
        fits = 0 <= axes <= min(x.ndim, y.ndim)
        pair = [tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))] if fits else [(), (0,)]
    if len(pair) != 2 or len(pair[0]) != len(pair[1]):
        raise _unpaired(x, y, axes)
    left, right = ([normalize_axis("tensordot", a, t.ndim) for a in p]
                   for t, p in ((x, pair[0]), (y, pair[1])))  # fmt: skip
    if len({*left}) != len(left) or len({*right}) != len(right):
        raise _unpaired(x, y, axes)
    if not all(same_size(x.shape[a], y.shape[b]) for a, b in zip(left, right, strict=True)):
        raise _unpaired(x, y, axes)
    names = {b: ("x", a) for a, b in zip(left, right, strict=True)}
    rows = tuple(("x", k) for k in range(x.ndim))
    columns = tuple(names.get(k, ("y", k)) for k in range(y.ndim))
    output = (*(n for n in rows if n not in columns), *(n for n in columns if n not in rows))
    common = ops.result_type(x, y)
    terms = [Term(ops.astype(x, common, copy=False), rows),
             Term(ops.astype(y, common, copy=False), columns)]  # fmt: skip
    return _contract(terms, output)


def _unpaired(x: Any, y: Any, axes: Any) -> ShapeError:
    return ShapeError(
        f"tensordot: axes {axes} of shapes {shape_text(x.shape)} and {shape_text(y.shape)} "
        "do not pair up",
        fix="give as many axes of each, of equal sizes, each once",
    ).located(here())


def outer(x1: Any, x2: Any, /) -> Any:
    """All products of an element of `x1` and one of `x2`, both flattened, as `numpy.outer`.

    >>> import stagekit as sk
    >>> sk.outer(sk.asarray([1, 2]), sk.asarray([3, 4]))
    tensor([[3, 4],
            [6, 8]], dtype=int64)
    """
    return ops.multiply(ops.reshape(x1, (-1, 1)), ops.reshape(x2, (1, -1)))


def inner(x1: Any, x2: Any, /) -> Any:
    """The sum of products over the last axes, as `numpy.inner`; the product for a scalar.

    >>> import stagekit as sk
    >>> sk.inner(sk.asarray([1, 2]), sk.asarray([3, 4])).item()
    11
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    return tensordot(x, y, axes=((-1,), (-1,))) if x.ndim and y.ndim else x * y


def dot(x1: Any, x2: Any, /) -> Any:
    """The sum of products over the last axis of `x1` and the last but one of `x2`: `numpy.dot`.

    The product for a scalar. Unlike `matmul` it broadcasts nothing.

    >>> import stagekit as sk
    >>> sk.dot(sk.ones((2, 3)), sk.ones(3))
    tensor([3., 3.], dtype=float32)
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    if x.ndim == 0 or y.ndim == 0:
        return x * y
    if x.ndim < 3 and y.ndim < 3:
        return ops.matmul(x, y)
    return tensordot(x, y, axes=((-1,), (-min(y.ndim, 2),)))


def kron(x1: Any, x2: Any, /) -> Any:
    """The Kronecker product, as `numpy.kron`: each element of `x1` times the whole of `x2`.

    >>> import stagekit as sk
    >>> sk.kron(sk.asarray([1, 10]), sk.asarray([1, 2]))
    tensor([ 1,  2, 10, 20], dtype=int64)
    """
    x, y = ops.asarray(x1), ops.asarray(x2)
    rank = max(x.ndim, y.ndim)
    n, m = ((1,) * (rank - t.ndim) + tuple(t.shape) for t in (x, y))
    wide = ops.reshape(x, tuple(s for size in n for s in (size, 1)))
    grid = wide * ops.reshape(y, tuple(s for size in m for s in (1, size)))
    return ops.reshape(grid, tuple(a * b for a, b in zip(n, m, strict=True)))


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """The dot product along one axis, the others broadcast, as `numpy.vecdot`.

    Of complex numbers those of `x1` are conjugated. Raises ShapeError where the sizes of that axis
    differ.

    >>> import stagekit as sk
    >>> sk.vecdot(sk.ones(3), sk.arange(3)).item()
    3.0
    """
    pair = [ops.asarray(x1), ops.asarray(x2)]
    places = [normalize_axis("vecdot", axis, x.ndim) for x in pair]
    x, y = (ops.moveaxis(t, a, -1) for t, a in zip(pair, places, strict=True))
    if not same_size(x.shape[-1], y.shape[-1]):
        shapes = " and ".join(shape_text(t.shape) for t in pair)
        raise ShapeError(
            f"vecdot: axis {axis} of shapes {shapes} differs", fix="the sizes must be equal"
        ).located(here())
    ops.located_shapes("vecdot", x.shape, y.shape)
    rows, columns = ops.expand_dims(ops.conj(x), axis=-2), ops.expand_dims(y, axis=-1)
    return ops.squeeze(ops.matmul(rows, columns), axis=(-2, -1))


# ----- diagonals ----------------------------------------------------------------------------------


def diagonal(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The elements whose places on two axes differ by `offset`, as a last axis: `numpy.diagonal`.

    >>> import stagekit as sk
    >>> sk.diagonal(sk.asarray([[1, 2], [3, 4]]))
    tensor([1, 4], dtype=int64)
    """
    x = ops.asarray(x)
    a, b = (normalize_axis("diagonal", k, x.ndim) for k in (axis1, axis2))
    offset = as_integer("diagonal", "offset", offset)
    if a == b:
        raise ShapeError(
            f"diagonal: axes {axis1} and {axis2} are one", fix="name two axes"
        ).located(here())
    x = ops.moveaxis(x, (a, b), (-2, -1))
    row, column = max(-offset, 0), max(offset, 0)
    size = maximum(minimum(x.shape[-2] - row, x.shape[-1] - column), 0)
    steps = ops.iota(size=size, dtype=default_int)
    return ops.gather(x, steps + row, steps + column, axes=(x.ndim - 2, x.ndim - 1))


def trace(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Any:
    """The sum of a diagonal, as `numpy.trace`; types as in `sum`.

    >>> import stagekit as sk
    >>> sk.trace(sk.asarray([[1, 2], [3, 4]])).item()
    5
    """
    return ops.sum(diagonal(x, offset, axis1, axis2), axis=-1, dtype=dtype)


def diag(x: Any, /, k: int = 0) -> Any:
    """The k-th diagonal of a matrix, or the matrix with a 1-d tensor there, as `numpy.diag`.

    >>> import stagekit as sk
    >>> sk.diag(sk.asarray([1, 2]))
    tensor([[1, 0],
            [0, 2]], dtype=int64)
    """
    x = ops.asarray(x)
    if x.ndim == 2:
        return diagonal(x, k)
    k = as_integer("diag", "k", k)
    if x.ndim != 1:
        raise ShapeError(
            f"diag: shape {shape_text(x.shape)} has {x.ndim} axes", fix="give 1 or 2 axes"
        ).located(here())
    size = x.shape[0] + abs(k)
    by_column = ops.pad(x, (max(k, 0), max(-k, 0)))
    steps = ops.iota(size=size, dtype=default_int)
    there = ops.equal(steps - ops.reshape(steps, (size, 1)), k)
    return ops.where(there, by_column, ops.zeros((), dtype=x.dtype))
