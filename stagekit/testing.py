"""Checks for tests: derivatives against finite differences, staged calls against eager ones.

Each raises AssertionError saying what differs, where, and both values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit import tree
from stagekit.autodiff import jvp, vjp
from stagekit.ops import asarray
from stagekit.staged import Function, function
from stagekit.tensor import Tensor

__all__ = ["assert_staged_equal", "check_grads", "count_traces"]

Array = np.ndarray[Any, np.dtype[Any]]

# ----- derivatives --------------------------------------------------------------------------------


def check_grads(
    fn: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    modes: Sequence[str] = ("fwd", "rev"),
    *,
    eps: float = 1e-4,
    rtol: float = 1e-6,
    atol: float = 1e-7,
) -> None:
    """Compare the derivatives of `fn` at `args` with central differences, up to `order`.

    `args` is a sequence of trees of float or complex tensors or arrays, taken in float64
    (complex128 as a pair of them); of the result the float and complex tensors count. In each of
    the `modes` the derivative along a random direction must equal the fourth-order difference with
    step `eps`, within `atol + rtol * |difference|`; both modes must be each other's transpose; and
    so must, recursively, be the derivatives of derivatives.
    Raises AssertionError. Source: `autograd.test_util.check_grads`.

    >>> import stagekit as sk
    >>> sk.testing.check_grads(lambda x: sk.sin(x) * x, (1.5,))
    """
    if unknown := set(modes) - {"fwd", "rev"}:
        raise ValueError(f"check_grads: modes {sorted(unknown)}\n  fix: use 'fwd' and 'rev'")
    leaves, spec = tree.flatten(tuple(args))
    names = tree.paths(spec, "args")

    parts = [_parts(leaf) for leaf in leaves]

    def of_leaves(*xs: Any) -> list[Any]:
        flat = iter(xs)
        given = [_joined(*(next(flat) for _ in part)) for part in parts]
        out = tree.leaves(fn(*tree.unflatten(spec, given)))
        return [p for y in out if isinstance(y, Tensor) and y.dtype.inexact for p in _halves(y)]

    names = [name for name, part in zip(names, parts, strict=True) for _ in part]
    xs = [x for part in parts for x in part]
    checker = _Checker(getattr(fn, "__name__", str(fn)), tuple(modes), eps, rtol, atol)
    if order > 0:
        checker.check(of_leaves, xs, names, order, "")


def _parts(leaf: Any) -> list[Any]:
    """A real leaf in float64; the real and the imaginary part of a complex one."""
    x = asarray(leaf)
    if x.dtype.kind != "complex":
        return [asarray(leaf, dtype="float64")]
    x = asarray(x, dtype="complex128")
    return [ops.real(x), ops.imag(x)]


def _joined(x: Any, y: Any = None) -> Any:
    return x if y is None else x + y * 1j


def _halves(y: Any) -> list[Any]:
    return [ops.real(y), ops.imag(y)] if y.dtype.kind == "complex" else [y]


@dataclass(frozen=True)
class _Point:
    """A function of float64 tensors at `xs`, with directions there and cotangents of its results.

    `path` says which derivative of the user's function it is: "rev of fwd of ".
    """

    f: Callable[..., list[Any]]
    xs: list[Any]
    names: list[str]
    moves: list[Any]
    cts: list[Any]
    path: str


@dataclass(frozen=True)
class _Checker:
    name: str
    modes: tuple[str, ...]
    eps: float
    rtol: float
    atol: float

    def check(
        self, f: Callable[..., list[Any]], xs: list[Any], names: list[str], order: int, path: str
    ) -> None:
        rng = np.random.default_rng([len(path), len(xs)])
        moves, cts = [_drawn(rng, x) for x in xs], [_drawn(rng, y) for y in f(*xs)]
        point = _Point(f, xs, names, moves, cts, path)
        expected = self.difference(point, moves)
        if "fwd" in self.modes:
            pushed = [y.numpy() for y in jvp(f, xs, moves)[1]]
            self.compare(f"fwd of {path}", pushed, expected, "out")
        if "rev" in self.modes:
            pulled = [g.numpy() for g in vjp(f, *xs)[1](cts)]
            self.compare_inner(f"rev of {path}", point, pulled, expected)
        if len(set(self.modes)) == 2:
            self.compare_inner(f"rev against fwd of {path}", point, pulled, pushed)
        if order > 1:
            for mode in self.modes:
                self.check(_derivative(point, mode), xs, names, order - 1, f"{mode} of {path}")

    def difference(self, point: _Point, moves: Sequence[Any]) -> list[Array]:
        """The derivative along `moves` by central differences of fourth order."""

        def at(k: int) -> list[Array]:
            moved = [x + k * self.eps * t for x, t in zip(point.xs, moves, strict=True)]
            return [y.numpy().astype("f8") for y in point.f(*moved)]

        return [
            (8.0 * (b - a) - (d - c)) / (12.0 * self.eps)
            for a, b, c, d in zip(at(-1), at(1), at(-2), at(2), strict=True)
        ]

    def compare_inner(
        self, what: str, point: _Point, pulled: list[Array], pushed: list[Array]
    ) -> None:
        """Raise unless <gradient, move> is <ct, derivative along move>."""
        got, want = _products(pulled, point.moves), _products(pushed, point.cts)
        sizes = np.abs(got).sum() + np.abs(want).sum()
        if abs(got.sum() - want.sum()) <= self.atol + self.rtol * sizes:
            return
        for k, name in enumerate(point.names):
            self.compare(what, [pulled[k]], [self.slopes(point, k)], name)
        sums = [np.asarray(products.sum()) for products in (got, want)]
        self.compare(what, sums[:1], sums[1:], "<gradient, direction>")

    def slopes(self, point: _Point, k: int) -> Array:
        """The gradient with respect to the k-th x, element by element."""
        found = np.zeros(point.xs[k].shape)
        for index in np.ndindex(*found.shape):
            units = [np.zeros(x.shape) for x in point.xs]
            units[k][index] = 1.0
            moved = self.difference(point, list(map(asarray, units)))
            found[index] = _products(moved, point.cts).sum()
        return found

    def compare(self, what: str, got: list[Array], want: list[Array], root: str) -> None:
        """Raise where an array is not the expected one, naming the worst element."""
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            off = np.abs(a - b) / (self.atol + self.rtol * np.abs(b))
            if np.all(off <= 1.0):
                continue
            worst = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), a.shape)
            place = f"{root}[{k}]" if len(got) > 1 else root
            index = f"[{', '.join(map(str, worst))}]" if worst else ""
            raise AssertionError(
                f"check_grads: {what}{self.name}: {place}{index} is {a[worst]!s}, "
                f"by central differences {b[worst]!s}"
            )


def _derivative(point: _Point, mode: str) -> Callable[..., list[Any]]:
    """The derivative along fixed directions as a function of the point."""
    if mode == "fwd":
        return lambda *xs: list(jvp(point.f, xs, point.moves)[1])
    return lambda *xs: list(vjp(point.f, *xs)[1](point.cts))


def _drawn(rng: np.random.Generator, like: Any) -> Any:
    """A direction: numbers of both signs, none near zero."""
    sign = np.where(rng.random(like.shape) < 0.5, -1.0, 1.0)
    return asarray(sign * rng.uniform(0.5, 1.5, like.shape), dtype=like.dtype)


def _products(xs: Sequence[Any], ys: Sequence[Any]) -> Array:
    """The products of all elements of two lists of tensors."""
    parts = [np.ravel(np.asarray(x) * np.asarray(y)) for x, y in zip(xs, ys, strict=True)]
    return np.concatenate([np.zeros(1), *parts])


# ----- staging ------------------------------------------------------------------------------------

_EPS = 64


def assert_staged_equal(
    fn: Callable[..., Any], *args: Any, rtol: float | None = None, **kwargs: Any
) -> None:
    """Assert that `fn(*args)` gives the same eagerly, when traced, and when run from its trace.

    The same: structure, data types, shapes and elements, or the same class and text of an
    exception. Floats may differ by `rtol` of their size; by default by 64 eps of the largest in
    their tensor, which is what `docs/equality.md` leaves to a few operations; with 0 they are equal
    to the bit. `fn` must not change what it reads. Source:
    `numpy.testing.assert_equal`, over the stages of `docs/architecture.md`.

    >>> import stagekit as sk
    >>> sk.testing.assert_staged_equal(lambda x: x / 3, sk.arange(4))
    """
    staged = fn if isinstance(fn, Function) else function(fn)
    eager = _outcome(staged.python_function, args, kwargs)
    for way in ("traced", "staged"):
        other = _outcome(staged, args, kwargs)
        assert type(other) is type(eager), f"eager {eager!r}, {way} {other!r}"
        if isinstance(eager, Exception):
            assert str(other) == str(eager), f"eager {eager}\n{way} {other}"
        else:
            _assert_equal(eager, other, way, rtol)


def _outcome(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return fn(*args, **kwargs)
    except Exception as error:  # the exception is what is compared
        return error


def _assert_equal(eager: Any, other: Any, way: str, rtol: float | None) -> None:
    xs, spec = tree.flatten(eager)
    ys, other_spec = tree.flatten(other)
    assert spec == other_spec, f"eager {spec}, {way} {other_spec}"
    for x, y, path in zip(xs, ys, tree.paths(spec, "out"), strict=True):
        if not isinstance(x, Tensor):
            assert x == y, f"{path}: eager {x!r}, {way} {y!r}"
            continue
        kinds = [f"{t.dtype} {tuple(t.shape)}" for t in (x, y)]
        assert kinds[0] == kinds[1], f"{path}: eager {kinds[0]}, {way} {kinds[1]}"
        want, atol = x.numpy(), 0.0
        if rtol is None and want.dtype.kind in "fc":
            finite = np.abs(want[np.isfinite(want)])
            atol = _EPS * float(np.finfo(want.dtype).eps * finite.max(initial=0.0))
        message = f"{path}: eager is not {way}"
        np.testing.assert_allclose(y.numpy(), want, rtol=rtol or 0.0, atol=atol, err_msg=message)


@contextmanager
def count_traces(fn: Function) -> Iterator[Callable[[], int]]:
    """Count the traces that a staged function makes inside the block.

    Source: `sk.function(f).cache_info()`.

    >>> import stagekit as sk
    >>> f = sk.function(lambda x: x + 1)
    >>> with sk.testing.count_traces(f) as traces:
    ...     _ = f(sk.zeros(3)), f(sk.ones(3))
    >>> traces()
    1
    """
    before = fn.cache_info().traces
    yield lambda: fn.cache_info().traces - before
