"""Samples of linear algebra: matrices far from singular, their singular values apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.samples.base import FLOATS, LAYOUTS, Sample, generator, random

Shape = tuple[int, ...]
SQUARE = ((3, 3), (2, 2, 2), (1, 1), (0, 0), (0, 2, 2))


def spread(rng: np.random.Generator, kind: str, shape: Shape) -> np.ndarray:
    """Near a matrix of 2, 3, ... on the diagonal."""
    x = random(rng, kind, shape, -0.2, 0.2)
    diagonal = np.arange(2, 2 + min(shape[-2:]), dtype=kind)
    middle = np.zeros(shape[-2:], kind)
    np.fill_diagonal(middle, diagonal)
    return x + middle


def symmetric(rng: np.random.Generator, kind: str, shape: Shape) -> np.ndarray:
    x = spread(rng, kind, shape)
    return (x + np.swapaxes(x, -1, -2)) / np.asarray(2, kind)


Make = Callable[[np.random.Generator, str, Shape], np.ndarray]


def of_matrix(
    name: str, rng: np.random.Generator, make: Make, shapes: tuple[Shape, ...], *attrs: Any
) -> Iterator[Sample]:
    """Calls on one matrix: types, shapes and layouts."""
    for each in attrs or ({},):
        for kind in FLOATS:
            yield Sample(name, (make(rng, kind, (2, 3, 3)),), each, False, kind)
        for shape in shapes:
            yield Sample(name, (make(rng, "float64", shape),), each, True, f"shape {shape}")
    for layout, lay in LAYOUTS.items():
        if layout != "broadcast":
            matrix = lay(make(rng, "float32", (3, 3)))
            yield Sample(name, (matrix,), (attrs or ({},))[0], False, layout)


@generator("eigh", "cholesky")
def _symmetric(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    yield from of_matrix(name, rng, symmetric, SQUARE)


@generator("det", "slogdet", "expm")
def _of_square(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    yield from of_matrix(name, rng, spread, SQUARE)


@generator("eig")
def _eig(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    """Eigenvectors are measured in tests/test_linalg.py, by functions that know no phase."""
    for kind in (*FLOATS, "complex64"):
        yield Sample(name, (random(rng, kind, (2, 3, 3)),), {}, False, kind)
    for shape in ((0, 0), (0, 2, 2)):
        yield Sample(name, (random(rng, "float64", shape),), {}, True, f"shape {shape}")


@generator("inv")
def _inv(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    yield from of_matrix(name, rng, spread, SQUARE, {"checked": True}, {"checked": False})


@generator("svd")
def _svd(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    shapes = ((3, 2), (2, 2, 3), (1, 1), (0, 0), (0, 2, 2), (2, 0))
    yield from of_matrix(name, rng, spread, shapes, {"full_matrices": False})
    for shape in ((3, 2), (2, 0), (0, 2), (2, 2, 2)):
        square = shape[-1] == shape[-2]
        x = spread(rng, "float64", shape)
        yield Sample(name, (x,), {"full_matrices": True}, square, f"full, shape {shape}")


@generator("qr")
def _qr(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    shapes = ((3, 2), (2, 2, 3), (1, 1), (0, 0), (0, 2, 2), (2, 0))
    yield from of_matrix(name, rng, spread, shapes, {"complete": False})
    for shape in ((3, 2), (2, 3), (2, 2, 2)):
        x = spread(rng, "float64", shape)
        yield Sample(name, (x,), {"complete": True}, shape != (3, 2), f"complete, shape {shape}")


@generator("solve", "solve_triangular")
def _solve(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    flags = [(False, False), (True, False), (True, True)]
    kinds = [{"lower": a, "unit_diagonal": b} for a, b in flags]
    pairs = [
        ((3, 3), (3, 2)), ((2, 2, 2), (2, 1)), ((2, 2), (3, 2, 1)), ((1, 1), (1, 1)),
        ((0, 0), (0, 2)), ((2, 2), (2, 0)), ((0, 2, 2), (2, 1)), ((3, 1, 2, 2), (2, 2, 2)),
    ]  # fmt: skip
    for attrs in kinds if name == "solve_triangular" else [{}]:
        for kind in FLOATS:
            pair = spread(rng, kind, (2, 3, 3)), random(rng, kind, (3, 2))
            yield Sample(name, pair, attrs, False, kind)
        for a, b in pairs:
            pair = spread(rng, "float64", a), random(rng, "float64", b)
            yield Sample(name, pair, attrs, True, f"shapes {a} {b}")
    wide = spread(rng, "float64", (70, 70)), random(rng, "float64", (70, 2))
    yield Sample(name, wide, attrs, False, "large")
    mixed = spread(rng, "float32", (2, 2)), random(rng, "float64", (2, 2))
    yield Sample(name, mixed, attrs, False, "two types")


@generator("cofactor")
def _cofactor(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in FLOATS:
        yield Sample(name, (spread(rng, kind, (2, 3, 3)),), {}, False, kind)
    for shape, count in (((3, 3), 1), ((2, 3, 3), 2), ((2, 2), 3), ((0, 0), 2), ((1, 1), 1)):
        args = [spread(rng, "float64", shape) for _ in range(count)]
        yield Sample(name, tuple(args), {}, True, f"shape {shape}, {count} operands")
    yield Sample(name, (np.zeros((3, 3)),), {}, True, "zero")


@generator("pinv")
def _pinv(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    for kind in FLOATS:
        yield Sample(name, (spread(rng, kind, (2, 3, 2)), np.array(0.01, kind)), {}, False, kind)
    for shape in ((3, 2), (2, 2, 3), (1, 1), (0, 0), (3, 0), (0, 2, 2)):
        pair = spread(rng, "float64", shape), np.array(1e-9)
        yield Sample(name, pair, {}, True, f"shape {shape}")
    pair = spread(rng, "float64", (2, 3)), np.array([1e-9, 0.1])
    yield Sample(name, pair, {}, True, "two tolerances")


@generator("undefined")
def _undefined(name: str, rng: np.random.Generator) -> Iterator[Sample]:
    """Differentiable nowhere, and so measured on nothing alone."""
    for kind in FLOATS:
        x = np.array([0.0, -0.0, 1.0, -2.0, np.inf, np.nan], kind)
        yield Sample(name, (x,), {}, False, kind)
    for shape in ((0, 2), (0,)):
        yield Sample(name, (np.zeros(shape),), {}, True, f"shape {shape}")
