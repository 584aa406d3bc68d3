"""Convolution and sliding windows: primitives of one index rule, `offset + stride t + spacing k`.

A convolution's derivative in each operand is again a convolution; `windows` and `fold` are each
other's transposes. What they read outside of an operand counts as 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import ShapeError
from stagekit.op import Op, Speller
from stagekit.ops.contraction import blocked_matmul
from stagekit.ops.elementwise import number
from stagekit.ops.movement import linear
from stagekit.types import TensorType, same_size, shape_text

Index = Sequence[Any]
Shape = tuple[Any, ...]

# ----- convolution: type and element --------------------------------------------------------------


def require_channels(name: str, x: Any, w: Any, groups: Any) -> None:
    """ShapeError unless the kernel has the input's rank and channels, `groups` of them apart.

    >>> require_channels("conv1d", ops.ones((1, 4, 9)), ops.ones((6, 2, 3)), 2)
    """
    if len(x.shape) != len(w.shape) or len(x.shape) < 2:
        raise ShapeError(
            f"{_operands(name, x, w)} differ in rank",
            fix="give (batch, channels, ...) and (outputs, channels / groups, ...)",
        )
    if not same_size(x.shape[1], w.shape[1] * groups):
        raise ShapeError(
            f"{_operands(name, x, w)} do not fit in {groups} groups",
            fix="the input's channels are the kernel's axis 1 times groups",
        )
    if w.shape[0] % groups != 0:
        raise ShapeError(
            f"{_operands(name, x, w)} do not fit in {groups} groups",
            fix="groups must divide the number of output channels",
        )


def _operands(name: str, x: Any, w: Any) -> str:
    return f"{name}: input {shape_text(x.shape)} and kernel {shape_text(w.shape)}"


def _infer(
    x: TensorType,
    w: TensorType,
    *,
    offset: Shape,
    extent: Shape,
    stride: Shape,
    spacing: Shape,
    dilation: Shape,
    groups: Any,
) -> TensorType:
    require_channels("convolution", x, w, groups)
    return x.with_shape((x.shape[0], w.shape[0], *extent))


def _every(conditions: Sequence[Any]) -> Any:
    met: Any = True
    for condition in conditions:
        met = met & condition
    return met


def _element(
    e: Speller,
    out: TensorType,
    idx: Index,
    x: Any,
    w: Any,
    *,
    offset: Shape,
    extent: Shape,
    stride: Shape,
    spacing: Shape,
    dilation: Shape,
    groups: Any,
) -> Any:
    n, o, *ts = idx
    first = o // (w.shape[0] // groups) * w.shape[1]
    zero = e.constant(0, x.dtype)

    def term(c: Any, *ks: Any) -> Any:
        rows = zip(offset, stride, ts, spacing, ks, strict=True)
        places = [a + s * t + r * k for a, s, t, r, k in rows]
        source = [p // d for p, d in zip(places, dilation, strict=True)]
        hit = _every([p % d == 0 for p, d in zip(places, dilation, strict=True)])
        inside = _every([(i >= 0) & (i < m) for i, m in zip(source, x.shape[2:], strict=True)])

        def times() -> Any:
            value = e.select(inside, lambda: x(n, first + c, *source), lambda: zero)
            return e.apply("multiply", value, w(o, c, *ks))

        return e.select(hit, times, lambda: zero)

    return e.reduce("add", x.dtype, w.shape[1:], term)


# ----- convolution: value -------------------------------------------------------------------------

_BLOCK = 1 << 18  # elements of columns made at a time, so that they stay in the cache
_FEW = 16  # terms that may be added one by one


def _evaluate(
    xp: Any,
    x: Any,
    w: Any,
    *,
    offset: Shape,
    extent: Shape,
    stride: Shape,
    spacing: Shape,
    dilation: Shape,
    groups: int,
) -> Any:
    """A dilated operand is read by residues of the output: each is a convolution without holes."""
    out = xp.zeros((x.shape[0], w.shape[0], *extent), x.dtype)
    lead = (slice(None), slice(None))
    rows = zip(offset, stride, spacing, dilation, strict=True)
    for residues in itertools.product(*(list(_residues(*row)) for row in rows)):
        target = out[(*lead, *(residue[0] for residue in residues))]
        kernel = w[(*lead, *(residue[1] for residue in residues))]
        if target.size and kernel.size and x.size:
            steps = [tuple(residue[k] for residue in residues) for k in (2, 3, 4)]
            _fill(xp, target, x, kernel, steps, groups)
    return out


def _residues(a: int, s: int, r: int, d: int) -> Iterator[tuple[slice, slice, int, int, int]]:
    """The (outputs, taps) that hit multiples of `d`, with offset, stride and spacing among these.

    >>> list(_residues(-1, 1, 1, 2))
    [(slice(0, None, 2), slice(1, None, 2), 0, 1, 1),
     (slice(1, None, 2), slice(0, None, 2), 0, 1, 1)]
    """
    outputs, taps = d // math.gcd(s, d), d // math.gcd(r, d)
    for t, k in itertools.product(range(outputs), range(taps)):
        place = a + s * t + r * k
        if place % d == 0:
            steps = s * outputs // d, r * taps // d
            yield slice(t, None, outputs), slice(k, None, taps), place // d, *steps


def _fill(xp: Any, out: Any, x: Any, w: Any, attrs: Sequence[Shape], groups: int) -> None:
    """Write a convolution without holes into `out`, some of the batch at a time."""
    offset, stride, spacing = attrs
    taps, sizes = math.prod(w.shape[2:]), math.prod(out.shape[2:])
    steps = (out.shape[2:], stride, w.shape[2:], spacing)
    if w.shape[1] == 1 and w.shape[0] == groups and taps <= _FEW:
        fill, each = _by_tap, 4 * x[0].size
    else:
        fill, each = (_by_output if taps <= sizes else _by_kernel), x.shape[1] * taps * sizes
    step = max(1, _BLOCK // each)
    for start in range(0, x.shape[0], step):
        part = slice(start, start + step)
        seen = _within(xp, x[part], offset, [_reach(*row) for row in zip(*steps, strict=True)])
        view = _view(xp, seen, *steps)
        out[part] = fill(xp, view, w, groups).reshape(out[part].shape)


def _reach(size: int, stride: int, window: int, spacing: int) -> int:
    """How many places the windows of one axis span."""
    return stride * (size - 1) + spacing * (window - 1) + 1


def _within(xp: Any, x: Any, offset: Shape, reach: Sequence[int]) -> Any:
    """The places from `offset` on, `reach` of them along each axis after the second, 0 outside."""
    rows = list(zip(offset, reach, x.shape[2:], strict=True))
    inner = tuple(slice(max(a, 0), max(a + m, 0)) for a, m, _ in rows)
    kept = x[(slice(None), slice(None), *inner)]
    if all(a >= 0 and a + m <= n for a, m, n in rows):
        return kept
    out = xp.zeros((*x.shape[:2], *reach), x.dtype)
    starts = [max(-a, 0) for a in offset]
    place = tuple(slice(i, i + n) for i, n in zip(starts, kept.shape[2:], strict=True))
    if kept.size:
        out[(slice(None), slice(None), *place)] = kept
    return out


def _view(xp: Any, x: Any, sizes: Shape, stride: Shape, window: Shape, spacing: Shape) -> Any:
    """The windows of the last axes, without a copy: (..., *window, *sizes)."""
    lead = x.ndim - len(sizes)
    rows = zip(x.shape[lead:], sizes, stride, window, spacing, strict=True)
    if any(k and t and _reach(t, s, k, r) > n for n, t, s, k, r in rows):
        raise ShapeError(
            f"windows: {window} in steps of {stride} reach beyond the shape {x.shape}",
            fix="pad the operand, or take fewer windows",
        )
    bytes_ = x.strides[lead:]
    return xp.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:lead], *window, *sizes),
        (
            *x.strides[:lead],
            *(r * b for r, b in zip(spacing, bytes_, strict=True)),
            *(s * b for s, b in zip(stride, bytes_, strict=True)),
        ),
    )


def _by_tap(xp: Any, view: Any, w: Any, groups: int) -> Any:
    """One input channel for each output: a few scaled copies of the input."""
    rank = w.ndim - 2
    wide = np.float32 if view.dtype == np.float16 else view.dtype
    scales = w[:, 0].reshape(w.shape[0], *w.shape[2:], *(1,) * rank).astype(wide, copy=False)
    out = xp.zeros((*view.shape[:2], *view.shape[2 + rank :]), wide)
    term = xp.empty_like(out)
    for tap in np.ndindex(w.shape[2:]):
        xp.multiply(view[(slice(None), slice(None), *tap)], scales[(slice(None), *tap)], out=term)
        xp.add(out, term, out=out)
    return out


def _by_output(xp: Any, view: Any, w: Any, groups: int) -> Any:
    """Columns with the outputs last: (n, group, channels taps, outputs)."""
    inner = math.prod(w.shape[1:])
    columns = view.reshape(view.shape[0], groups, inner, -1)
    return blocked_matmul(xp, w.reshape(groups, -1, inner), columns)


def _by_kernel(xp: Any, view: Any, w: Any, groups: int) -> Any:
    """Columns with the taps last: (group, n outputs, channels taps)."""
    n, rank, inner = view.shape[0], w.ndim - 2, math.prod(w.shape[1:])
    sizes = view.shape[2 + rank :]
    view = view.reshape(n, groups, w.shape[1], *view.shape[2:])
    last = tuple(range(3 + rank, 3 + 2 * rank))
    columns = view.transpose(1, 0, *last, *range(2, 3 + rank)).reshape(groups, -1, inner)
    out = blocked_matmul(xp, columns, w.reshape(groups, -1, inner).transpose(0, 2, 1))
    out = out.reshape(groups, n, math.prod(sizes), -1)
    return out.transpose(1, 0, 3, 2)


# ----- convolution: derivative --------------------------------------------------------------------


def exchanged(w: Any, groups: Any) -> Any:
    """A kernel of outputs and inputs exchanged within each group, its taps in reverse.

    >>> exchanged(ops.ones((4, 3, 5)), 2).shape
    (6, 2, 5)
    """
    outputs, inputs, *taps = w.shape
    w = ops.flip(w, axis=tuple(range(2, w.ndim)))
    if isinstance(groups, int) and groups == 1:
        return ops.swapaxes(w, 0, 1)
    w = ops.reshape(w, (groups, outputs // groups, inputs, *taps))
    return ops.reshape(ops.swapaxes(w, 1, 2), (groups * inputs, outputs // groups, *taps))


def transposed(y: Any, w: Any, attrs: Any, extent: Shape) -> Any:
    """The transpose of `convolution(_, w, **attrs)`, of an input of size `extent`, on `y`.

    >>> steps = {"offset": (0,), "stride": (2,), "spacing": (1,), "dilation": (1,), "groups": 1}
    >>> transposed(ops.ones((1, 1, 2)), ops.ones((1, 1, 2)), steps, (4,))
    tensor([[[1., 1., 1., 1.]]], dtype=float32)
    """
    rows = zip(attrs["offset"], attrs["spacing"], w.shape[2:], strict=True)
    return convolution(
        y,
        exchanged(w, attrs["groups"]),
        offset=tuple(-a - r * (k - 1) for a, r, k in rows),
        extent=tuple(extent),
        stride=attrs["dilation"],
        spacing=attrs["spacing"],
        dilation=attrs["stride"],
        groups=attrs["groups"],
    )


def _kernel_cotangent(ct: Any, x: Any, w: Any, attrs: Any) -> Any:
    """Input and cotangent with batch and channels exchanged: the batch is what is summed."""
    groups, (n, channels, *sizes) = attrs["groups"], x.shape
    grouped = ops.reshape(x, (n, groups, channels // groups, *sizes))
    order = (2, 1, 0, *range(3, grouped.ndim))
    by_channel = ops.reshape(
        ops.permute_dims(grouped, order), (channels // groups, groups * n, *sizes)
    )
    out = convolution(
        by_channel,
        ops.swapaxes(ct, 0, 1),
        offset=attrs["offset"],
        extent=tuple(w.shape[2:]),
        stride=attrs["spacing"],
        spacing=attrs["stride"],
        dilation=attrs["dilation"],
        groups=groups,
    )
    return ops.swapaxes(out, 0, 1)


def _vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
    x, w = xs
    if i == 1:
        return _kernel_cotangent(ct, ops.conj(x), w, attrs)
    return transposed(ct, ops.conj(w), attrs, x.shape[2:])


def _jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
    (tx, tw), (x, w) = tangents, xs
    pairs = [(a, b) for a, b in ((tx, w), (x, tw)) if a is not None and b is not None]
    return ops.total([convolution(a, b, **attrs) for a, b in pairs])


def _batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    """Mapped inputs join the batch; mapped kernels are groups of one larger convolution."""
    x, w = args
    if not mapped[1]:
        out = convolution(ops.reshape(x, (size * x.shape[1], *x.shape[2:])), w, **attrs)
        return ops.reshape(out, (size, x.shape[1], *out.shape[1:]))
    if not mapped[0]:
        x = ops.broadcast_to(x, (size, *x.shape))
    n, outputs = x.shape[1], w.shape[1]
    x = ops.reshape(ops.swapaxes(x, 0, 1), (n, size * x.shape[2], *x.shape[3:]))
    w = ops.reshape(w, (size * outputs, *w.shape[2:]))
    out = convolution(x, w, **attrs | {"groups": size * attrs["groups"]})
    return ops.swapaxes(ops.reshape(out, (n, size, outputs, *out.shape[2:])), 0, 1)


convolution: Op = Op(
    "convolution",
    infer=_infer,
    evaluate=_evaluate,
    element=_element,
    dtypes=number,
    vjp=_vjp,
    jvp=_jvp,
    batch=_batch,
    family="contraction",
    doc="""out[n, o, t]: the sum of x[n, c, (offset + stride t + spacing k) / dilation] w[o, c, k].

    `x` is (n, channels, *sizes), `w` (outputs, channels / groups, *taps), t < `extent`. Outside
    of its sizes x is 0; a division with a remainder has no term. The same as XLA's
    ConvGeneralDilated, with the sizes of the result in place of the padding behind.

    >>> convolution(ops.ones((1, 1, 3)), ops.ones((1, 1, 2)), offset=(-1,), extent=(4,),
    ...             stride=(1,), spacing=(1,), dilation=(1,), groups=1)
    tensor([[[1., 2., 2., 1.]]], dtype=float32)
    """,
)

# ----- windows and fold: transposes of each other -------------------------------------------------


def _windows_type(
    x: TensorType, *, extent: Shape, window: Shape, stride: Shape, spacing: Shape
) -> TensorType:
    return x.with_shape((*x.shape[: len(x.shape) - len(extent)], *extent, *window))


def _windows_evaluate(
    xp: Any, x: Any, *, extent: Shape, window: Shape, stride: Shape, spacing: Shape
) -> Any:
    view, rank = _view(xp, x, extent, stride, window, spacing), len(extent)
    lead = view.ndim - 2 * rank
    order = (*range(lead), *range(lead + rank, view.ndim), *range(lead, lead + rank))
    return view.transpose(order)


def _windows_element(
    e: Speller,
    out: TensorType,
    idx: Index,
    x: Any,
    *,
    extent: Shape,
    window: Shape,
    stride: Shape,
    spacing: Shape,
) -> Any:
    rank = len(extent)
    lead, ts, ks = _parted(idx, rank)
    rows = zip(ts, stride, ks, spacing, strict=True)
    return x(*lead, *(s * t + r * k for t, s, k, r in rows))


def _parted(values: Sequence[Any], rank: int) -> tuple[Any, Any, Any]:
    """What stands for the axes in front, for the `rank` axes of windows, and for those within."""
    lead = len(values) - 2 * rank
    return values[:lead], values[lead : lead + rank], values[lead + rank :]


windows: Op = linear(
    "windows",
    lambda ct, x, *, extent, window, stride, spacing: fold(
        ct, extent=tuple(x.shape[x.ndim - len(extent) :]), stride=stride, spacing=spacing
    ),
    infer=_windows_type,
    evaluate=_windows_evaluate,
    element=_windows_element,
    batch=lambda size, args, mapped, attrs: windows(*args, **attrs),
    doc="""Sliding windows of the last axes: out[..., t, k] = x[..., stride t + spacing k].

    `extent` windows along each axis, of `window` elements. As
    `numpy.lib.stride_tricks.sliding_window_view`.

    >>> windows(ops.asarray([1, 2, 3, 4]), extent=(3,), window=(2,), stride=(1,), spacing=(1,))
    tensor([[1, 2],
            [2, 3],
            [3, 4]], dtype=int64)
    """,
)


def _fold_type(y: TensorType, *, extent: Shape, stride: Shape, spacing: Shape) -> TensorType:
    return y.with_shape((*y.shape[: len(y.shape) - 2 * len(extent)], *extent))


def _fold_evaluate(xp: Any, y: Any, *, extent: Shape, stride: Shape, spacing: Shape) -> Any:
    """Added tap by tap, or window by window where these are fewer."""
    lead, sizes, taps = _parted(y.shape, len(extent))
    overlaps = math.prod(map(min, sizes, taps))
    out = xp.zeros((*lead, *extent), _accumulator(y.dtype, overlaps))
    tapwise = math.prod(taps) <= math.prod(sizes)
    apart, inner = (spacing, zip(sizes, stride)) if tapwise else (stride, zip(taps, spacing))
    spans = [(step * (n - 1) + 1, step) for n, step in inner]
    every = (slice(None),) * len(extent)
    for at in np.ndindex(taps if tapwise else sizes) if y.size else ():
        starts = [step * i for step, i in zip(apart, at, strict=True)]
        rows = zip(starts, spans, strict=True)
        place = tuple(slice(a, a + span, step) for a, (span, step) in rows)
        out[(..., *place)] += y[(..., *every, *at) if tapwise else (..., *at, *every)]
    return out.astype(y.dtype, copy=False)


def _accumulator(kind: Any, terms: int) -> Any:
    """The type in which so many terms are added one by one."""
    if kind == np.float16:
        return np.float32
    if kind.kind not in "fc" or terms <= _FEW:
        return kind
    return np.result_type(kind, np.float64 if kind in (np.float32, np.complex64) else np.longdouble)


def _fold_element(
    e: Speller,
    out: TensorType,
    idx: Index,
    y: Any,
    *,
    extent: Shape,
    stride: Shape,
    spacing: Shape,
) -> Any:
    rank = len(extent)
    lead = idx[: len(idx) - rank]
    _, sizes, taps = _parted(y.shape, rank)

    def at(ts: Index, ks: Index, hits: Sequence[Any]) -> Any:
        rows = zip(ts, sizes, strict=True)
        inside = _every([*hits, *((t >= 0) & (t < n) for t, n in rows)])
        return e.select(inside, lambda: y(*lead, *ts, *ks), lambda: e.constant(0, y.dtype))

    def term(*ks: Any) -> Any:
        places = [i - r * k for i, k, r in zip(idx[len(lead) :], ks, spacing, strict=True)]
        ts = [p // s for p, s in zip(places, stride, strict=True)]
        return at(ts, ks, [p % s == 0 for p, s in zip(places, stride, strict=True)])

    def next_term(*ms: Any) -> Any:
        rows = list(zip(idx[len(lead) :], ms, stride, strict=True))
        ks = [i % s + s * m for i, m, s in rows]
        return at([i // s - m for i, m, s in rows], ks, [k < n for k, n in zip(ks, taps)])

    if all(r == 1 for r in spacing):  # the taps that hit lie a stride apart
        counts = [(k + s - 1) // s for k, s in zip(taps, stride, strict=True)]
        return e.reduce("add", y.dtype, counts, next_term)
    return e.reduce("add", y.dtype, taps, term)


def _fold_transpose(ct: Any, y: Any, *, extent: Shape, stride: Shape, spacing: Shape) -> Any:
    _, sizes, taps = _parted(tuple(y.shape), len(extent))
    return windows(ct, extent=sizes, window=taps, stride=stride, spacing=spacing)


fold: Op = linear(
    "fold",
    _fold_transpose,
    infer=_fold_type,
    evaluate=_fold_evaluate,
    moves=False,
    element=_fold_element,
    dtypes=number,
    batch=lambda size, args, mapped, attrs: fold(*args, **attrs),
    doc="""Windows added up where they overlap, the transpose of `windows`. As `torch.nn.Fold`.

    >>> fold(ops.ones((3, 2)), extent=(4,), stride=(1,), spacing=(1,))
    tensor([1., 2., 2., 1.], dtype=float32)
    """,
)
