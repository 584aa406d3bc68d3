"""The classes of docs/equality.md, op by op, and what they allow a program.

A program may differ between two stages by what its ops may, and by what later ops make of that.
`admitted` measures it: it runs the program again with each op's result moved as far as the op's
class allows. A program of ops that are equal to the bit moves nowhere, and must be met exactly.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import stagekit as sk
from stagekit.narrow import BFLOAT16, narrowed, widened
from stagekit.op import Op, Over, current, using
from stagekit.tensor import Tensor

TABLE = (Path(__file__).parents[1] / "docs" / "equality.md").read_text(encoding="utf-8")
CLASSES = {"bits", "zero", "ulp", "operand", "sum", "product", "library"}
FAILURES = (sk.errors.StagekitError, ZeroDivisionError, ValueError)
RUNS = 10


def rows() -> list[tuple[str, str]]:
    """The op and the class of each row of the table "Op by op"."""
    return re.findall(r"^\| `(\w+)` \| (\w+) \|", TABLE.split("## Op by op")[1], re.MULTILINE)


CLASS = dict(rows())


def class_of(op: Op, attrs: dict[str, Any]) -> str:
    """The class of an op with these attributes."""
    if op.name == "scatter":
        return {"add": "sum", "multiply": "product", "set": "bits"}.get(attrs["mode"], "zero")
    if op.name == "polygamma" and attrs["n"] == 0:
        return "operand"
    return CLASS[op.name]


# ----- the ways a program may go ------------------------------------------------------------------


class Moved(Over):
    """Moves each result by as much as its op's class allows: up in the first run, down in the
    second, in others each element up or down.
    """

    def __init__(self, below: Any, run: int) -> None:
        super().__init__(below)
        self.run, self.rng = run, np.random.default_rng(run)

    def _signs(self, shape: tuple[int, ...]) -> np.ndarray:
        if self.run <= 2:
            return np.full(shape, 1 if self.run == 1 else -1)
        return self.rng.choice([-1, 1], shape)

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        out = self.below.apply(op, args, attrs)
        kind = class_of(op, attrs)
        if op.several:
            return out
        array = self.below.read(out)
        if array.dtype.kind == "f" and np.isnan(array).any():  # one NaN counts as another
            signs = self._signs(array.shape).astype(array.dtype)
            array = np.asarray(np.where(np.isnan(array), np.copysign(array, signs), array))
            out = Tensor(array)
        if kind in ("bits", "library"):
            return out
        if array.dtype == BFLOAT16:  # float32's result, rounded
            return Tensor(narrowed(self._moved(kind, op, args, attrs, widened(array))))
        if array.dtype.kind not in "fc":
            return out
        return Tensor(self._moved(kind, op, args, attrs, array))

    def _moved(self, kind: str, op: Op, args: Any, attrs: Any, array: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            if kind == "zero":
                signs = self._signs(array.shape)
                return np.where(array == 0, signs * array, array).astype(array.dtype)
            step = self._signs(array.shape) * self._reach(kind, op, args, attrs, array)
            step = np.where(np.isfinite(array) & np.isfinite(step), step, 0)
            return np.asarray(array + step).astype(array.dtype)

    def _reach(self, kind: str, op: Op, args: Any, attrs: Any, array: np.ndarray) -> np.ndarray:
        eps = float(np.finfo(array.dtype).eps)
        size = np.abs(array)
        if array.dtype.kind == "c":
            return 16 * eps * size
        if kind in ("ulp", "operand"):
            floats = [np.abs(self.below.read(a)) for a in args] if kind == "operand" else []
            largest = functools.reduce(np.maximum, floats, size)
            return 4 * np.spacing(largest.astype(array.dtype)).astype("f8")
        if kind == "sum":
            whole = tuple(self._absolute(a) for a in args)
            total = self.below.read(self.below.apply(op, whole, attrs))
            return 8 * eps * (widened(total) if total.dtype == BFLOAT16 else total)
        n = max((self.below.read(a).size for a in args), default=1)
        return (max(n / 2, 2) if array.dtype == "f8" else 8) * eps * size

    def _absolute(self, arg: Any) -> Any:
        array = self.below.read(arg)
        return Tensor(np.asarray(np.abs(array))) if array.dtype.kind in "fc" else arg


def outcome(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """The arrays a call gives, or its exception's class and text without the line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sk.errors.StagekitWarning)
            return [np.asarray(x) for x in sk.tree.leaves(function(*args))]
    except FAILURES as error:
        return type(error), str(error).split("\n")[0]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in type, shape and value, NaN equal to NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def agree(want: Any, got: Any) -> bool:
    """Whether two outcomes are equal: the same arrays, or the same failure."""
    if isinstance(want, tuple) or isinstance(got, tuple):
        return bool(want == got)
    return len(want) == len(got) and all(same(a, b) for a, b in zip(want, got, strict=True))


def near(a: Any, b: Any, eps: float = 64) -> bool:
    """Equal in type and shape, and floats within so many eps of the largest number in them.

    For what has a state, and cannot be run again: there it says how much ops may have added up.
    """
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(near(x, y, eps) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype.kind not in "fc" or x.dtype != y.dtype or x.shape != y.shape:
        return same(x, y)
    largest = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    bound = eps * float(np.finfo(x.dtype).eps) * largest
    return bool(np.allclose(x, y, rtol=0.0, atol=bound, equal_nan=True))


class Allowed:
    """The outcomes that the classes of its ops allow a program of some arguments.

    They are found by running it with all results moved up, all down, and then this way and that,
    until what is asked for lies among them.
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        self.function, self.args = function, args
        self.ways = [outcome(function, args)]

    def admits(self, got: Any) -> bool:
        """Whether an outcome is one of them."""
        if agree(self.ways[0], got):
            return True
        while not self._admitted(got):
            if len(self.ways) > RUNS:
                return False
            with using(Moved(current(), len(self.ways))):
                self.ways.append(outcome(self.function, self.args))
        return True

    def _admitted(self, got: Any) -> bool:
        failures = [way for way in self.ways if isinstance(way, tuple)]
        if failures or isinstance(got, tuple):  # whether it fails may depend on the last digit
            return bool(failures) and any(not agree(self.ways[0], way) for way in self.ways)
        return all(len(way) == len(got) for way in self.ways) and all(
            _among([way[k] for way in self.ways], found) for k, found in enumerate(got)
        )


def admitted(function: Callable[..., Any], args: Sequence[Any], got: Any) -> bool:
    """Whether an outcome of a program is one that the classes of its ops allow."""
    return Allowed(function, args).admits(got)


def assert_stages_agree(function: Callable[..., Any], *args: Any) -> None:
    """The first call of a staged function, which traces, and the second, which runs its code."""
    allowed, staged = Allowed(function, args), sk.function(function)
    for way in ("traced", "staged"):
        got = outcome(staged, args)
        assert allowed.admits(got), f"eager {allowed.ways[0]}\n{way} {got}"


def _among(ways: Sequence[np.ndarray], got: np.ndarray) -> bool:
    """Whether each element lies among those of `ways`, or beyond by no more than they spread."""
    if any((w.dtype, w.shape) != (got.dtype, got.shape) for w in ways):
        return False
    if got.dtype.kind == "c":
        return all(_among([f(w) for w in ways], f(got)) for f in (np.real, np.imag))
    if got.dtype == BFLOAT16:
        return _among([widened(w) for w in ways], widened(got))
    equal = [(w == got) | ((w != w) & (got != got)) for w in ways]
    same_ways = [(w == ways[0]) | ((w != w) & (ways[0] != ways[0])) for w in ways]
    decided = np.logical_and.reduce(same_ways)
    if got.dtype.kind != "f":
        return bool(np.all(np.logical_or.reduce(equal) | ~decided))
    with np.errstate(all="ignore"):
        wide = [w.astype("f8") for w in ways]
        low, high = np.minimum.reduce(wide), np.maximum.reduce(wide)
        spread = high - low
        near = (got >= low - spread) & (got <= high + spread)
    finite = np.logical_and.reduce([np.isfinite(w) for w in ways])
    return bool(np.all(np.logical_or.reduce(equal) | near | ~finite & ~decided))
