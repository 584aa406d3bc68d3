"""`sk.random`: a `Generator` is a stream of Philox4x32-10 whose counter is state, as a Variable is.

Functions draw from the default generator or from `generator=`; its methods are the same functions.
Every distribution is a fixed sequence of integer steps and IEEE arithmetic: see `docs/random.md`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import numpy as np

import stagekit.ops as ops
from stagekit.eager.interpreter import EAGER
from stagekit.errors import ArgumentError, DTypeError, ShapeError
from stagekit.op import Cell, using
from stagekit.source import here
from stagekit.symbolic import Number
from stagekit.tensor import Tensor, Variable
from stagekit.types import (
    DType,
    as_integer,
    bool_,
    default_float,
    default_int,
    float32,
    float64,
    normalize_axis,
    promote,
    same_shape,
    shape_text,
    uint32,
    uint64,
)
from stagekit.types import dtype as as_dtype

__all__ = [
    "Generator",
    "bernoulli",
    "categorical",
    "default_rng",
    "normal",
    "permutation",
    "randint",
    "seed",
    "uniform",
]

# ----- the locks of states ------------------------------------------------------------------------

_locks: dict[int, Any] = {}  # by the identity of the Variable
_making = threading.Lock()


def lock_of(state: Any) -> Any:
    """The lock held while a state is read and advanced."""
    known = _locks.get(id(state))
    if known is not None:
        return known
    with _making:
        lock = _locks.get(id(state))
        if lock is None:
            lock = _locks[id(state)] = threading.RLock()
            weakref.finalize(state, _locks.pop, id(state), None).atexit = False
    return lock


def is_state(cell: Any) -> bool:
    """Whether a generator has drawn from this Variable."""
    return id(cell) in _locks


@contextmanager
def holding(states: Iterable[Any]) -> Iterator[None]:
    """Let no other thread draw from these states; locks are taken in one order."""
    with ExitStack() as stack:
        for state in sorted(states, key=id):
            stack.enter_context(lock_of(state))
        yield


# ----- generators ---------------------------------------------------------------------------------


@final
class Generator:
    """A stream of random numbers: the i-th depends on the seed and the counter alone.

    `seed` is an integer from 0 to 2**64 - 1 (or a 0-d tensor); without it the stream is split off
    the default generator. `state` is a Variable of key, stream and counter: keep `state.value` and
    `assign` it to draw the same again. A generator may be an argument, an attribute or a global of
    a staged function, a leaf of `sk.save`, and is pickled and deep-copied by value.
    Raises ArgumentError for a seed out of range. Source: `numpy.random.Generator`; Salmon et al.,
    "Parallel random numbers: as easy as 1, 2, 3", 2011.

    >>> import stagekit as sk
    >>> sk.random.Generator(1).randint(0, 10, shape=(5,))
    tensor([8, 7, 8, 6, 5], dtype=int64)
    """

    state: Variable

    def __init__(self, seed: Any = None) -> None:
        self.state = _default.split(1)[0].state if seed is None else Variable(_seeded(seed))

    @classmethod
    def of(cls, state: Any) -> Generator:
        """The generator that draws from a state: a Variable of uint64[3].

        >>> import stagekit as sk
        >>> sk.random.Generator.of(sk.random.Generator(3).state)
        Generator(state=[3, 0, 0])
        """
        made = object.__new__(cls)
        made.state = state
        return made

    def __repr__(self) -> str:
        return f"Generator(state={ops.on_host(self.state, 'repr()').tolist()})"

    def __reduce__(self) -> Any:
        return Generator.of, (self.state,)

    def seed(self, seed: Any) -> None:
        """Start the stream of another seed.

        >>> import stagekit as sk
        >>> g = sk.random.Generator(1)
        >>> g.seed(2)
        >>> g
        Generator(state=[2, 0, 0])
        """
        self.state.assign(_seeded(seed))

    def split(self, n: int) -> list[Generator]:
        """`n` new generators, independent of each other and of this one, which advances.

        Raises ArgumentError where `n` is negative or no integer.

        >>> import stagekit as sk
        >>> a, b = sk.random.Generator(1).split(2)
        >>> a.uniform().item() == b.uniform().item()
        False
        """
        n = int(as_integer("split", "n", n))
        if n < 0:
            raise ArgumentError(f"split: n is {n}", fix="give 0 or more").located(here())
        if n == 0:
            return []
        words = self._bits((n, 2), uint64)
        states = ops.concat([words, ops.zeros((n, 1), dtype=uint64)], axis=1)
        return [Generator.of(Variable(states[k])) for k in range(n)]

    def _bits(self, shape: tuple[Any, ...], dtype: DType) -> Any:
        """The next bits: the only place where a counter advances."""
        with lock_of(self.state):
            state = self.state.value
            self.state.assign(ops.random_advance(state, shape=shape, dtype=dtype))
        return ops.random_bits(state, shape=shape, dtype=dtype)

    # ----- distributions

    def uniform(
        self, low: Any = 0.0, high: Any = 1.0, *, shape: Any = None, dtype: Any = None
    ) -> Any:
        """As `sk.random.uniform`, from this generator.

        >>> import stagekit as sk
        >>> sk.random.Generator(1).uniform(shape=2)
        tensor([0.89025915, 0.8946847 ], dtype=float32)
        """
        low, high = _parameters("uniform", low, high)
        _require_order("uniform", low, high, strict=False)
        kind, sizes = _float_type("uniform", dtype, low, high), _sizes("uniform", shape, low, high)
        if _is_number(low) and _is_number(high) and not high - low <= _LARGEST[kind.name]:
            raise ArgumentError(
                f"uniform: {kind} cannot hold high - low", fix="draw in a wider data type"
            ).located(here())
        u = self._unit(sizes, kind)
        if type(low) in _NUMBERS and type(high) in _NUMBERS and (low, high) == (0, 1):
            return u
        low, high = _cast(low, kind), _cast(high, kind)
        out = low + (high - low) * u
        return ops.where(out < high, out, low)  # the sum may round to high

    def _unit(self, sizes: tuple[Any, ...], kind: DType) -> Any:
        """[0, 1) on the grid of the type's digits."""
        words = uint64 if kind is float64 else uint32
        digits, work = _DIGITS[kind.name], float64 if kind is float64 else float32
        bits = self._bits(sizes, words) >> (8 * words.itemsize - digits)
        return ops.astype(ops.astype(bits, work) * 2.0**-digits, kind, copy=False)

    def normal(
        self, mean: Any = 0.0, std: Any = 1.0, *, shape: Any = None, dtype: Any = None
    ) -> Any:
        """As `sk.random.normal`, from this generator.

        >>> import stagekit as sk
        >>> sk.random.Generator(1).normal(shape=2)
        tensor([1.2279077, 1.2518334], dtype=float32)
        """
        mean, std = _parameters("normal", mean, std)
        if _is_number(std) and not std >= 0:
            raise ArgumentError(f"normal: std is {std}", fix="give 0 or more").located(here())
        kind, sizes = _float_type("normal", dtype, mean, std), _sizes("normal", shape, mean, std)
        bits = self._bits(sizes, uint64 if kind is float64 else uint32)
        z = ops.astype(ops.random_normal(bits), kind, copy=False)
        if type(mean) in _NUMBERS and type(std) in _NUMBERS and (mean, std) == (0, 1):
            return z
        return _cast(mean, kind) + _cast(std, kind) * z

    def bernoulli(self, p: Any = 0.5, *, shape: Any = None, dtype: Any = None) -> Any:
        """As `sk.random.bernoulli`, from this generator.

        >>> import stagekit as sk
        >>> sk.random.Generator(1).bernoulli(0.5, shape=3)
        tensor([False, False, False], dtype=bool)
        """
        (p,) = _parameters("bernoulli", p)
        if _is_number(p) and not 0 <= p <= 1:
            raise ArgumentError(f"bernoulli: p is {p}", fix="give a number from 0 to 1").located(
                here()
            )
        kind = bool_ if dtype is None else as_dtype(dtype)
        u = self._unit(_sizes("bernoulli", shape, p), float64)
        return ops.astype(u < _cast(p, float64), kind, copy=False)

    def randint(self, low: Any, high: Any, *, shape: Any = None, dtype: Any = None) -> Any:
        """As `sk.random.randint`, from this generator.

        >>> import stagekit as sk
        >>> sk.random.Generator(1).randint(0, 10, shape=3)
        tensor([8, 7, 8], dtype=int64)
        """
        low, high = (_integer("randint", name, x) for name, x in (("low", low), ("high", high)))
        kind = _integer_type("randint", dtype, low, high)
        sizes = _sizes("randint", shape, low, high)
        if _is_number(low) and _is_number(high):
            span = _span(low, high, kind)
        else:
            low, high = (ops.asarray(x) for x in (low, high))
            wrapped = ops.astype(high, uint64) - ops.astype(low, uint64)
            span = ops.where(high > low, wrapped, ops.asarray(1, dtype=uint64))
        below = self._below(sizes, span, kind)
        return ops.astype(below, kind) + (low if _is_number(low) else ops.astype(low, kind))

    def _below(self, sizes: tuple[Any, ...], span: Any, kind: DType) -> Any:
        """uint64 from 0 to span - 1: 64 bits or 128 times the span, without their fraction."""
        if _is_number(span) and span == 2**64:
            return self._bits(sizes, uint64)
        narrow = kind.itemsize < 8 or (_is_number(span) and span <= 2**32)
        span = ops.asarray(span, dtype=uint64)
        if narrow:
            return ops.multiply_high(self._bits(sizes, uint64), span)
        words = self._bits((*sizes, 2), uint64)
        upper, lower = words[..., 0], words[..., 1]
        rest = ops.multiply_high(lower, span)
        carry = upper * span + rest < rest
        return ops.multiply_high(upper, span) + ops.astype(carry, uint64)

    def categorical(
        self, logits: Any, axis: int = -1, *, shape: Any = None, dtype: Any = None
    ) -> Any:
        """As `sk.random.categorical`, from this generator.

        >>> import stagekit as sk
        >>> sk.random.Generator(1).categorical(sk.asarray([0.0, 0.0, 5.0]), shape=3)
        tensor([2, 2, 2], dtype=int64)
        """
        (logits,) = map(ops.asarray, _parameters("categorical", logits))
        kind = _integer_type("categorical", dtype)
        axis = normalize_axis("categorical", axis, logits.ndim)
        logits = ops.moveaxis(ops.astype(logits, float64, copy=False), axis, -1)
        if not 1 <= logits.shape[-1] <= _CATEGORIES:
            raise ShapeError(
                f"categorical: the axis has {logits.shape[-1]} categories",
                fix=f"give 1 to {_CATEGORIES}",
            ).located(here())
        sizes = _fitted("categorical", shape, logits.shape[:-1])
        drawn = ops.random_category(logits, self._bits(sizes, uint64))
        return ops.astype(drawn, kind, copy=False)

    def permutation(self, x: Any, *, shape: Any = (), dtype: Any = None) -> Any:
        """As `sk.random.permutation`, from this generator.

        >>> import stagekit as sk
        >>> sk.random.Generator(1).permutation(5)
        tensor([4, 3, 1, 2, 0], dtype=int64)
        """
        whole = not isinstance(x, (Cell, np.ndarray, list, tuple))
        n = as_integer("permutation", "n", x) if whole else _length(ops.asarray(x))
        if n < 0:
            raise ArgumentError(f"permutation: n is {n}", fix="give 0 or more").located(here())
        sizes = (*ops.as_shape("permutation", shape), n)
        order = ops.argsort(self._bits(sizes, uint64))
        if whole:
            return ops.astype(order, _integer_type("permutation", dtype), copy=False)
        out = ops.asarray(x)[order]
        return out if dtype is None else ops.astype(out, dtype, copy=False)


_NUMBERS = (bool, int, float)
_CATEGORIES = 2**24
_LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": (2 - 2**-23) * 2.0**127,
    "float64": (2 - 2**-52) * 2.0**1023,
}
_DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


def _seeded(seed: Any) -> Any:
    """The state at the start of a seed's stream."""
    if isinstance(seed, (Tensor, np.ndarray)) and seed.ndim == 0:
        key = ops.astype(ops.asarray(seed), uint64)
    else:
        key = as_integer("seed", "seed", seed)
        if not 0 <= key < 2**64:
            raise ArgumentError(f"seed: {key} is out of range", fix="give 0 to 2**64 - 1").located(
                here()
            )
    return ops.stack([ops.asarray(n, dtype=uint64) for n in (key, 0, 0)])


# ----- parameters ---------------------------------------------------------------------------------


def _is_number(x: Any) -> bool:
    return type(x) in _NUMBERS or isinstance(x, Number)


def _parameters(op: str, *params: Any) -> list[Any]:
    """Python numbers as they are, all else as tensors; DTypeError for complex numbers."""
    found = [p if _is_number(p) else ops.asarray(p) for p in params]
    for p in found:
        if not _is_number(p) and p.dtype.kind == "complex":
            raise DTypeError(f"{op}: a parameter is {p.dtype}", fix="give reals").located(here())
    return found


def _cast(x: Any, kind: DType) -> Any:
    return ops.asarray(x, dtype=kind) if _is_number(x) else ops.astype(x, kind, copy=False)


def _integer(op: str, name: str, x: Any) -> Any:
    if isinstance(x, (Cell, np.ndarray, list)):
        x = ops.asarray(x)
        if x.dtype.kind not in ("int", "uint"):
            raise DTypeError(f"{op}: {name} is {x.dtype}", fix="give integers").located(here())
        return x
    return as_integer(op, name, x)


def _require_order(op: str, low: Any, high: Any, *, strict: bool) -> None:
    if not (_is_number(low) and _is_number(high)):
        return
    if not (low < high if strict else low <= high):
        raise ArgumentError(
            f"{op}: low {low} is not below high {high}", fix="give low < high"
        ).located(here())


def _span(low: Any, high: Any, kind: DType) -> Any:
    """high - low of two Python numbers, whose integers the type must hold."""
    _require_order("randint", low, high, strict=True)
    if low < kind.lowest or high - 1 > kind.highest:
        raise DTypeError(
            f"randint: {low} to {high - 1} is out of bounds for {kind}",
            fix="use a wider data type",
        ).located(here())
    return high - low


def _float_type(op: str, dtype: Any, *params: Any) -> DType:
    """The type asked for, or that of the float parameters."""
    if dtype is None:
        found = [p.dtype for p in params if not _is_number(p) and p.dtype.kind == "float"]
        return promote(found, op) if found else default_float
    kind = as_dtype(dtype)
    if kind.name not in _DIGITS:
        raise DTypeError(f"{op}: {kind} is no float type", fix="use sk.float32").located(here())
    return kind


def _integer_type(op: str, dtype: Any, *params: Any) -> DType:
    if dtype is None:
        found = [p.dtype for p in params if not _is_number(p)]
        return promote(found, op) if found else default_int
    kind = as_dtype(dtype)
    if kind.kind not in ("int", "uint"):
        raise DTypeError(f"{op}: {kind} is no integer type", fix="use sk.int64").located(here())
    return kind


def _sizes(op: str, shape: Any, *params: Any) -> tuple[Any, ...]:
    """The shape asked for, or that of the parameters, which must broadcast to it."""
    found = ops.located_shapes(op, *(p.shape for p in params if not _is_number(p)))
    return _fitted(op, shape, found)


def _fitted(op: str, shape: Any, found: tuple[Any, ...]) -> tuple[Any, ...]:
    if shape is None:
        return found
    sizes = ops.as_shape(op, shape)
    if found and not same_shape(ops.located_shapes(op, sizes, found), sizes):
        raise ShapeError(
            f"{op}: parameters {shape_text(found)} do not broadcast to shape {shape_text(sizes)}",
            fix="leave shape out, or make it the broadcast shape or larger",
        ).located(here())
    return sizes


def _length(x: Any) -> Any:
    if x.ndim == 0:
        raise ShapeError("permutation: a 0-d tensor has no axis", fix="give an int").located(here())
    return x.shape[0]


# ----- functions ----------------------------------------------------------------------------------

with using(EAGER):
    _default = Generator(int.from_bytes(os.urandom(8), "little"))
default_rng = Generator

# The generators that are there without a name of the user's, as a trace names them.
ROOTS = {"sk.random": _default}


def _from(generator: Any) -> Generator:
    if generator is None:
        return _default
    if not isinstance(generator, Generator):
        raise ArgumentError(
            f"random: generator is a {type(generator).__name__}", fix="give a sk.random.Generator"
        ).located(here())
    return generator


def seed(n: Any) -> None:
    """Seed the default generator, which else starts from the system's entropy.

    `n` is an integer from 0 to 2**64 - 1, or a 0-d tensor. Source: `numpy.random.seed`.

    >>> import stagekit as sk
    >>> sk.random.seed(1)
    >>> sk.random.uniform()
    tensor(0.89025915, dtype=float32)
    """
    _default.seed(n)


def uniform(
    low: Any = 0.0, high: Any = 1.0, *, shape: Any = None, dtype: Any = None, generator: Any = None
) -> Any:
    """Numbers of [low, high), differentiable in both. As `numpy.random.Generator.uniform`.

    `shape` is by default that of the parameters, `dtype` theirs if float, else float32. Raises
    ArgumentError for Python numbers with low > high or more apart than the type holds, ShapeError,
    and DTypeError for no float type.

    >>> import stagekit as sk
    >>> sk.random.uniform(-1, 1, shape=2, generator=sk.random.Generator(1))
    tensor([0.7805183 , 0.78936934], dtype=float32)
    """
    return _from(generator).uniform(low, high, shape=shape, dtype=dtype)


def normal(
    mean: Any = 0.0, std: Any = 1.0, *, shape: Any = None, dtype: Any = None, generator: Any = None
) -> Any:
    """mean + std z for standard normal z; differentiable in both.

    As `numpy.random.Generator.normal`, by inversion (Wichura 1988). `shape` and `dtype` as in
    `uniform`. Raises ArgumentError for a negative Python number as `std`, ShapeError, DTypeError.

    >>> import stagekit as sk
    >>> sk.random.normal(10.0, 0.5, shape=2, generator=sk.random.Generator(1))
    tensor([10.613954 , 10.6259165], dtype=float32)
    """
    return _from(generator).normal(mean, std, shape=shape, dtype=dtype)


def bernoulli(p: Any = 0.5, *, shape: Any = None, dtype: Any = None, generator: Any = None) -> Any:
    """True with chance `p`, to 2^-53; bool unless `dtype` says otherwise.

    A tensor's p below 0 or NaN counts as 0, above 1 as 1; a Python number outside of [0, 1] raises
    ArgumentError. As `torch.bernoulli`.

    >>> import stagekit as sk
    >>> sk.random.bernoulli(1.0, shape=2)
    tensor([ True,  True], dtype=bool)
    """
    return _from(generator).bernoulli(p, shape=shape, dtype=dtype)


def randint(
    low: Any, high: Any, *, shape: Any = None, dtype: Any = None, generator: Any = None
) -> Any:
    """Integers from `low` to `high` - 1, int64 unless `dtype` or tensors say otherwise.

    As `numpy.random.Generator.integers`. No chance is off by more than 2^-32 of itself. Raises
    ArgumentError where low >= high as Python numbers, DTypeError where the type does not hold them;
    where tensors have low >= high, the result is low.

    >>> import stagekit as sk
    >>> sk.random.randint(0, 10, shape=5, generator=sk.random.Generator(1))
    tensor([8, 7, 8, 6, 5], dtype=int64)
    """
    return _from(generator).randint(low, high, shape=shape, dtype=dtype)


def categorical(
    logits: Any, axis: int = -1, *, shape: Any = None, dtype: Any = None, generator: Any = None
) -> Any:
    """Indices along `axis` with chances in proportion to exp(logits). As `jax.random.categorical`.

    `shape` is by default that of the logits without `axis`, which must broadcast to it. A logit of
    -inf, or more than 28 below the largest, is never drawn. Raises CheckError where the largest
    logit is no finite number, ShapeError where there is no category.

    >>> import stagekit as sk
    >>> sk.random.categorical(sk.asarray([-sk.inf, 0.0]), shape=3)
    tensor([1, 1, 1], dtype=int64)
    """
    return _from(generator).categorical(logits, axis, shape=shape, dtype=dtype)


def permutation(x: Any, *, shape: Any = (), dtype: Any = None, generator: Any = None) -> Any:
    """The numbers below the int `x`, or a tensor along its first axis, in random order.

    `shape` asks for so many independent ones. As `numpy.random.Generator.permutation`. Raises
    ArgumentError for a negative or fractional number, ShapeError for a 0-d tensor.

    >>> import stagekit as sk
    >>> sk.random.permutation(5, generator=sk.random.Generator(1))
    tensor([4, 3, 1, 2, 0], dtype=int64)
    """
    return _from(generator).permutation(x, shape=shape, dtype=dtype)
