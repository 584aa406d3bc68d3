"""Samples of the ops that are not elementwise: creation, movement, reduction, products, indices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stagekit.op import OPS
from stagekit.types import DTYPES
from tests.samples.base import (
    ALL,
    COMPLEX,
    FLOATS,
    INF,
    INTEGERS,
    LAYOUTS,
    NAN,
    Sample,
    accepts,
    generator,
    laid_out,
    random,
    special_values,
)


@generator("full")
def _full(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in ALL:
        for shape, value in (((2, 3), 1), ((), 0), ((0, 2), 1)):
            yield Sample(name, (), {"shape": shape, "value": value, "dtype": DTYPES[kind]})
    for value in (-0.0, INF, NAN, 0.1):
        yield Sample(name, (), {"shape": (2,), "value": value, "dtype": DTYPES["float32"]})


@generator("iota")
def _iota(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind, size in itertools.product(ALL, (0, 1, 2, 5)):
        if (kind, size) != ("bool", 5):
            yield Sample(name, (), {"size": size, "dtype": DTYPES[kind]})
    yield Sample(name, (), {"size": 300, "dtype": DTYPES["uint8"]}, note="wraps")


@generator("number")
def _number(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind, value in itertools.product(["int64", "float32", "float64"], (0, 1, 7)):
        yield Sample(name, (), {"expr": value, "dtype": DTYPES[kind]})
    yield Sample(name, (), {"expr": 0.1, "dtype": DTYPES["float32"]})


@generator("astype")
def _astype(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for source, target in itertools.product(ALL, ALL):
        if DTYPES[source].kind == "complex" and DTYPES[target].kind in ("int", "uint"):
            continue
        attrs = {"dtype": DTYPES[target]}
        values = special_values(source)
        if DTYPES[source].kind == "float" and DTYPES[target].kind in ("int", "uint"):
            limits = np.iinfo(target)
            values = values[np.isfinite(values)]
            wide = values.astype("float64")
            values = values[(wide > float(limits.min) - 1) & (wide < float(limits.max) * 0.99)]
        yield Sample(name, (values,), attrs, False, f"{source} to {target}")
    for layout, x in laid_out(random(rng, "float64", (3, 4))):
        yield Sample(name, (x,), {"dtype": DTYPES["float32"]}, False, layout)
    big = np.array([2**53 + 1, 2**62 + 2**38 + 1, -(2**40) - 2**16 - 1, 2**24 + 1, 2**24 + 3])
    yield Sample(name, (big,), {"dtype": DTYPES["float32"]}, False, "rounded once")
    for shape in ((2, 3), (), (0, 2)):
        x = random(rng, "float64", shape)
        yield Sample(name, (x,), {"dtype": DTYPES["float64"]}, True, f"shape {shape}")


@generator("alias", "barrier", "stop_gradient")
def _identity(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    attrs = {"serial": 1} if name == "barrier" else {}
    smooth = OPS[name].vjp is not None
    for kind in ALL:
        yield Sample(name, (special_values(kind),), attrs, False, kind)
    for shape in ((2, 3), (), (0, 2)):
        yield Sample(name, (random(rng, "float64", shape),), attrs, smooth, f"shape {shape}")
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x,), attrs, False, layout)


@generator("custom")
def _custom(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    """The value alone; the rule is what `sk.custom_vjp` and `sk.custom_jvp` make."""
    attrs = {"rule": None, "index": 0}
    for kind in ALL:
        args = (random(rng, kind, (2, 3)), random(rng, "float32", (4,)))
        yield Sample(name, args, attrs, False, kind)


@generator("out")
def _out(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in ALL:
        yield Sample(name, (random(rng, kind, (2, 3)),), {"index": 0}, False, kind)
    for shape in ((2, 3), (), (0, 2)):
        pair = random(rng, "float64", shape), random(rng, "float64", (4,))
        yield Sample(name, pair, {"index": 0}, True, f"shape {shape}")
        yield Sample(name, pair[::-1], {"index": 1}, True, f"shape {shape}, second")


def movement(name: str, rng: np.random.Generator, *cases: tuple[Any, dict[str, Any]]) -> Any:
    """An op that moves elements: the cases in float64, the first in every type and layout."""
    for shape, attrs in cases:
        yield Sample(name, (random(rng, "float64", shape),), attrs, True, f"shape {shape}")
    shape, attrs = cases[0]
    for kind in ALL:
        yield Sample(name, (random(rng, kind, shape),), attrs, False, kind)
    for layout, x in laid_out(random(rng, "float32", shape)):
        yield Sample(name, (x,), attrs, False, layout)
    special = np.resize(special_values("float32"), shape)
    yield Sample(name, (special,), attrs, False, "special")


@generator("reshape")
def _reshape(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 4), (2, 6)), ((2, 3), (6,)), ((6,), (1, 2, 3)), ((), (1, 1)), ((1,), ()),
        ((0, 3), (3, 0, 2)), ((2, 3, 4), (4, 6)), ((4,), (4,)),
    ]  # fmt: skip
    yield from movement(name, rng, *((a, {"shape": b}) for a, b in pairs))


@generator("permute")
def _permute(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 4), (1, 0)),
        ((2, 3, 4), (2, 0, 1)),
        ((2, 3, 4), (0, 1, 2)),
        ((), ()),
        ((4,), (0,)),
    ]
    yield from movement(name, rng, *((s, {"axes": a}) for s, a in [*pairs, ((0, 3), (1, 0))]))


@generator("broadcast_to")
def _broadcast_to(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 1), (3, 4)), ((3,), (2, 3)), ((), (2, 2)), ((1, 3), (0, 3)), ((2, 1, 3), (4, 2, 5, 3)),
        ((1,), (1,)), ((1, 1), (2, 3)), ((1, 2), (3, 2)), ((0, 3), (2, 0, 3)),
    ]  # fmt: skip
    yield from movement(name, rng, *((a, {"shape": b}) for a, b in pairs))


@generator("flip")
def _flip(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((3, 4), (0, 1)),
        ((3, 4), (1,)),
        ((2, 3, 4), (0, 2)),
        ((0, 3), (0,)),
        ((4,), ()),
        ((), ()),
    ]
    yield from movement(name, rng, *((s, {"axes": a}) for s, a in pairs))


@generator("slice")
def _slice(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ((5, 6), (1, 0), (2, 3), (2, 2)),
        ((7,), (2,), (3,), (2,)),
        ((7,), (6,), (1,), (5,)),
        ((4, 3), (0, 3), (4, 0), (1, 1)),
        ((4, 0), (4, 0), (0, 0), (2, 1)),
        ((), (), (), ()),
        ((3,), (0,), (3,), (1,)),
    ]
    yield from movement(
        name, rng, *((s, {"starts": a, "sizes": n, "strides": d}) for s, a, n, d in cases)
    )


@generator("pad")
def _pad(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ((3, 4), (1, 0), (0, 2), (0, 0)),
        ((3,), (2,), (1,), (2,)),
        ((2, 3), (0, 1), (3, 0), (1, 2)),
        ((0, 2), (1, 0), (1, 0), (0, 0)),
        ((0,), (0,), (0,), (3,)),
        ((1,), (0,), (0,), (3,)),
        ((), (), (), ()),
    ]
    for shape, low, high, interior in cases:
        attrs = {"low": low, "high": high, "interior": interior}
        x = random(rng, "float64", shape)
        yield Sample(name, (x, np.array(1.5)), attrs, True, f"shape {shape}")
    attrs = {"low": (1, 0), "high": (0, 2), "interior": (1, 0)}
    for kind in ALL:
        yield Sample(name, (random(rng, kind, (2, 3)), np.array(1, kind)), attrs, False, kind)
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, np.array(NAN, "float32")), attrs, False, layout)
    yield Sample(name, (random(rng, "float16", (2, 3)), 0), attrs, False, "a Python scalar")


@generator("concat")
def _concat(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ([(2, 3), (1, 3)], 0), ([(2, 3), (2, 1), (2, 2)], 1), ([(3,)], 0), ([(0,), (2,), (0,)], 0),
        ([(2, 0), (2, 0)], 1), ([(2, 2, 2), (2, 2, 2)], 1), ([(0, 3), (0, 3)], 1),
    ]  # fmt: skip
    for shapes, axis in cases:
        args = tuple(random(rng, "float64", s) for s in shapes)
        yield Sample(name, args, {"axis": axis}, True, f"shapes {shapes}")
    for kind in ALL:
        args = (special_values(kind), random(rng, kind, (2,)))
        yield Sample(name, args, {"axis": 0}, False, kind)
    for a, b in (("int8", "float16"), ("bool", "uint8"), ("float32", "float64")):
        args = (random(rng, a, (2, 1)), random(rng, b, (2, 2)))
        yield Sample(name, args, {"axis": 1}, False, f"{a} with {b}")
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, x), {"axis": 1}, False, layout)


_REDUCED: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 4), (0,)), ((3, 4), (1,)), ((3, 4), (0, 1)), ((2, 3, 4), (0, 2)), ((2, 3, 4), (1,)),
    ((5,), (0,)), ((), ()), ((2, 3), ()), ((1, 3), (0,)),
]  # fmt: skip
_EMPTY: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((0, 3), (0,)), ((2, 0), (0, 1))]


def _accepted_by(name: str) -> list[str]:
    return [t for t in ALL if accepts(OPS[name], [DTYPES[t]])]


@generator("sum", "prod", "max", "min", "any", "all")
def _reduction(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    smooth = OPS[name].vjp is not None
    cases = [*_REDUCED, ((0, 3), (1,))]
    cases += _EMPTY if name not in ("max", "min") else []
    for shape, axes in cases:
        x = random(rng, "float64", shape)
        yield Sample(name, (x,), {"axes": axes}, smooth, f"shape {shape}")
    for kind in _accepted_by(name):
        for axes in ((0,), (1,), (0, 1)):
            yield Sample(name, (random(rng, kind, (3, 4)),), {"axes": axes}, False, kind)
        extreme = np.resize(special_values(kind), (7, 5))
        yield Sample(name, (extreme,), {"axes": (0,)}, False, f"special {kind}")
        yield Sample(name, (extreme,), {"axes": (1,)}, False, f"special {kind}")
    for layout, x in laid_out(random(rng, "float32", (5, 4))):
        for axes in ((0,), (1,), (0, 1)):
            yield Sample(name, (x,), {"axes": axes}, False, layout)
    tall = random(rng, "float32", (150, 3), 0.99, 1.01)
    for layout, x in laid_out(tall):
        for axes in ((0,), (0, 1)):
            yield Sample(name, (x,), {"axes": axes}, False, f"long {layout}")
    if smooth:
        ties = np.array([[0.0, 0.0, -1.0], [2.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
        yield Sample(name, (ties,), {"axes": (1,)}, name in ("sum", "prod"), "kink")


@generator("argmax", "argmin")
def _arg(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axes in _REDUCED:
        if len(axes) == 1:
            x = random(rng, "float64", shape)
            yield Sample(name, (x,), {"axis": axes[0]}, False, f"shape {shape}")
    for kind in _accepted_by(name):
        x = np.resize(special_values(kind), (7, 5))
        yield Sample(name, (x,), {"axis": 0}, False, f"special {kind}")
        yield Sample(name, (x,), {"axis": 1}, False, f"special {kind}")
    yield Sample(name, (np.zeros((0, 3)),), {"axis": 1}, False, "zero-size")
    for layout, x in laid_out(random(rng, "int8", (3, 4))):
        yield Sample(name, (x,), {"axis": 1}, False, layout)


@generator("matmul")
def _matmul(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    pairs = [
        ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((2, 2, 3), (3, 2)), ((2, 1, 2, 3), (4, 3, 2)),
        ((2, 0), (0, 3)), ((0, 3), (3, 2)), ((2, 3), (5, 3, 2)), ((3, 2, 2), (3, 2, 2)),
        ((0, 2, 3), (3, 2)),
    ]  # fmt: skip
    for shapes in pairs:
        args = tuple(random(rng, "float64", s) for s in shapes)
        yield Sample(name, args, {}, True, f"shapes {shapes}")
    for kind in _accepted_by(name):
        args = (random(rng, kind, (3, 20)), random(rng, kind, (20, 2)))
        yield Sample(name, args, {}, False, kind)
    for kind in FLOATS:
        x = np.array([[1, INF], [0, NAN], [-0.0, -INF]], kind)
        y = np.array([[INF, 1, 0], [1, 2, -0.0]], kind)
        yield Sample(name, (x, y), {}, False, f"special {kind}")
    for (layout, x), (_, y) in zip(
        laid_out(random(rng, "float32", (3, 4))), laid_out(random(rng, "float32", (4, 2)))
    ):
        yield Sample(name, (x, y), {}, False, layout)
    for a, b in (("int8", "float16"), ("float32", "float64")):
        args = (random(rng, a, (2, 3)), random(rng, b, (3, 2)))
        yield Sample(name, args, {}, False, f"{a} with {b}")


# (shape, indices, axes): repeated, negative, 0-d, several axes, separated axes, none at all
_INDEXED: list[tuple[tuple[int, ...], tuple[Any, ...], tuple[int, ...]]] = [
    ((5,), ([0, 2, 2, -1],), (0,)),
    ((4, 3), ([3, 0, -4],), (0,)),
    ((4, 3), ([[0, 2], [1, 1]],), (1,)),
    ((4, 3), ([0, 3, 3], [2, 0, 0]), (0, 1)),
    ((2, 3, 4), ([0, 1, 1], [3, -1, 0]), (0, 2)),
    ((2, 3, 4), ([2, 0, 2], [1, 1, 1]), (1, 2)),
    ((4, 3), (2,), (0,)),
    ((4, 3), (1, -1), (0, 1)),
    ((4, 3), ([],), (0,)),
    ((0, 3), ([],), (0,)),
    ((0, 3), ([1],), (1,)),
]


def _index_arrays(indices: Sequence[Any], kind: str = "int64") -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(i, kind) for i in indices)


@generator("gather")
def _gather(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, indices, axes in _INDEXED:
        args = (random(rng, "float64", shape), *_index_arrays(indices))
        yield Sample(name, args, {"axes": axes}, True, f"shape {shape}")
    for kind in ALL:
        args = (random(rng, kind, (4, 3)), np.array([3, 0, 1]))
        yield Sample(name, args, {"axes": (0,)}, False, kind)
    for kind in INTEGERS:
        args = (random(rng, "float32", (4, 3)), np.array([3, 0, 1], kind))
        yield Sample(name, args, {"axes": (0,)}, False, f"{kind} indices")
    for layout, x in laid_out(random(rng, "float32", (3, 4))):
        yield Sample(name, (x, LAYOUTS["strided"](np.array([0, 2]))), {"axes": (1,)}, False, layout)


@generator("scatter")
def _scatter(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for mode in ("set", "add", "multiply", "min", "max"):
        for shape, indices, axes in _INDEXED:
            x = random(rng, "float64", shape)
            index = _index_arrays(indices)
            written = x[
                tuple(dict(zip(axes, index)).get(k, slice(None)) for k in range(len(shape)))
            ]
            args = (x, random(rng, "float64", written.shape), *index)
            yield Sample(name, args, {"axes": axes, "mode": mode}, True, f"{mode} shape {shape}")
        for kind in ALL if mode in ("set", "add", "multiply") else ALL[: -len(COMPLEX)]:
            args = (random(rng, kind, (5,)), random(rng, kind, (4,)), np.array([1, 1, -1, 3]))
            yield Sample(name, args, {"axes": (0,), "mode": mode}, False, f"{mode} {kind}")
        ties = (np.array([1.0, 0.0, 2.0]), np.array([1.0, 0.0, 0.0, 1.0]), np.array([0, 1, 1, 0]))
        yield Sample(name, ties, {"axes": (0,), "mode": mode}, False, f"kink {mode}")
        for layout, x in laid_out(random(rng, "float32", (3, 4))):
            args = (x, random(rng, "float32", (3, 2)), np.array([1, 1]))
            yield Sample(name, args, {"axes": (1,), "mode": mode}, False, f"{mode} {layout}")
