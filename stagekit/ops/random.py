"""Random bits of Philox4x32-10, and the primitives that make numbers of them: one value anywhere.

Every value is a fixed sequence of integer steps and IEEE + - * / and sqrt, whose result depends on
no library, no width of vectors and no device. `docs/random.md` is the definition in words.

A stream's state is uint64[3]: key, stream, block counter. Block b of a stream is Philox4x32-10 of
the counter words (low b, high b, low stream, high stream) under (low key, high key): four uint32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import stagekit.ops as ops
from stagekit.errors import CheckError, DTypeError, ShapeError
from stagekit.op import Op
from stagekit.ops.special import horner
from stagekit.types import (
    DType,
    Shape,
    TensorType,
    broadcast_shapes,
    float32,
    float64,
    int64,
    shape_text,
    uint32,
    uint64,
)

Array = np.ndarray[Any, Any]

_INTEGER = "its results are integers"

# ----- blocks -------------------------------------------------------------------------------------

# Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011): multipliers and Weyl constants.
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
INCREMENTS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
MASK = 0xFFFFFFFF
BLOCKS = 8192  # at a time: the temporaries stay in the cache
FEW = 16  # blocks that Python makes sooner than NumPy

PER_BLOCK = {uint32: 4, uint64: 2}  # elements of one block


def blocks(shape: Shape, dtype: DType) -> Any:
    """How many blocks a draw takes: its elements by those of a block, rounded up.

    >>> blocks((3, 3), uint32), blocks((3,), uint64), blocks((0,), uint64)
    (3, 2, 0)
    """
    count: Any = 1
    for size in shape:
        count = count * size
    per = PER_BLOCK[dtype]
    return (count + (per - 1)) // per


def _bits_type(state: TensorType, *, shape: Shape, dtype: DType) -> TensorType:
    _require_state("random_bits", state)
    _require_words("random_bits", dtype)
    return state.with_dtype(dtype).with_shape((*state.shape[:-1], *shape))


def _require_state(op: str, state: Any) -> None:
    """Raise for what is no state; `state` is a type, or an array."""
    if state.dtype != np.uint64:
        raise DTypeError(f"{op}: a state is uint64, not {state.dtype}", fix="use a generator's")
    if state.ndim < 1 or state.shape[-1] != 3:
        raise ShapeError(
            f"{op}: a state has shape (..., 3), not {shape_text(state.shape)}",
            fix="use a generator's",
        )


def _require_words(op: str, dtype: Any) -> None:
    if dtype not in (uint32, uint64):
        raise DTypeError(f"{op}: bits are uint32 or uint64, not {dtype}", fix="cast with astype")


def _bits(xp: Any, state: Array, *, shape: tuple[int, ...], dtype: DType) -> Array:
    _require_state("random_bits", state)
    lanes = state.reshape(-1, 3)
    count = int(np.prod(shape, dtype=np.int64))
    words = xp.empty((len(lanes), 4 * blocks(shape, dtype)), "<u4")
    for lane, row in zip(lanes, words, strict=True):
        _fill(xp, row.reshape(-1, 4), *map(int, lane))
    out: Array = words.view(f"<u{dtype.itemsize}")[:, :count].astype(dtype.numpy, copy=False)
    return out.reshape((*state.shape[:-1], *shape))


def _fill(xp: Any, out: Array, key: int, stream: int, counter: int) -> None:
    """Blocks `counter`, `counter + 1`, ... of a stream, as the rows of `out`."""
    if len(out) <= FEW:
        for k, row in enumerate(out):
            b = (counter + k) % 2**64
            row[:] = _philox([b & MASK, b >> 32, stream & MASK, stream >> 32], key)
        return
    for start in range(0, len(out), BLOCKS):
        part = out[start : start + BLOCKS]
        b = xp.arange(len(part), dtype=np.uint64)
        b += np.uint64((counter + start) % 2**64)
        words = [b & MASK, b >> 32]
        words += [xp.full_like(b, word) for word in (stream & MASK, stream >> 32)]
        for j, word in enumerate(_philox(words, key)):
            part[:, j] = word


def _philox(words: list[Any], key: int) -> list[Any]:
    """Ten rounds on four words: ints, or arrays of uint64, which are overwritten."""
    c0, c1, c2, c3 = words
    k0, k1 = key & MASK, key >> 32
    for _ in range(ROUNDS):
        c0 *= MULTIPLIERS[0]
        c2 *= MULTIPLIERS[1]
        c1 ^= k0
        c3 ^= k1
        c1 ^= c2 >> 32
        c3 ^= c0 >> 32
        c0 &= MASK
        c2 &= MASK
        c0, c1, c2, c3 = c1, c2, c3, c0
        k0, k1 = (k0 + INCREMENTS[0]) & MASK, (k1 + INCREMENTS[1]) & MASK
    return [c0, c1, c2, c3]


class _Scalar:
    """A scalar of an element rule, with the operators of the formulas; numbers are of its type."""

    def __init__(self, e: Any, value: Any, dtype: DType) -> None:
        self.e, self.value, self.dtype = e, value, dtype

    def _of(self, op: str, other: Any) -> _Scalar:
        if not isinstance(other, _Scalar):
            other = _Scalar(self.e, self.e.constant(other, self.dtype), self.dtype)
        return _Scalar(self.e, self.e.apply(op, self.value, other.value), self.dtype)

    def __add__(self, other: Any) -> _Scalar:
        return self._of("add", other)

    def __sub__(self, other: Any) -> _Scalar:
        return self._of("subtract", other)

    def __mul__(self, other: Any) -> _Scalar:
        return self._of("multiply", other)

    def __truediv__(self, other: Any) -> _Scalar:
        return self._of("divide", other)

    def __and__(self, other: Any) -> _Scalar:
        return self._of("bitwise_and", other)

    def __or__(self, other: Any) -> _Scalar:
        return self._of("bitwise_or", other)

    def __xor__(self, other: Any) -> _Scalar:
        return self._of("bitwise_xor", other)

    def __lshift__(self, other: Any) -> _Scalar:
        return self._of("bitwise_left_shift", other)

    def __rshift__(self, other: Any) -> _Scalar:
        return self._of("bitwise_right_shift", other)

    def called(self, op: str) -> _Scalar:
        return _Scalar(self.e, self.e.apply(op, self.value), self.dtype)

    def select(self, test: str, number: Any, then: Any, otherwise: Any) -> _Scalar:
        """What `then` gives where `self test number`, what `otherwise` gives elsewhere."""
        condition = self._of(test, number).value
        value = self.e.select(condition, lambda: then().value, lambda: otherwise().value)
        return _Scalar(self.e, value, self.dtype)


def _bits_element(
    e: Any, out: TensorType, idx: Any, state: Any, *, shape: Shape, dtype: DType
) -> Any:
    """Element k (in C order) of a draw: word k % 4 of block k // 4, or half k % 2 of k // 2."""
    lanes = len(idx) - len(shape)
    key, stream, counter = (_Scalar(e, state(*idx[:lanes], j), uint64) for j in range(3))
    k: Any = 0
    for i, size in zip(idx[lanes:], shape, strict=True):
        k = k * size + i
    place = _Scalar(e, e.number(k, uint64), uint64)
    words = _block(counter + (place >> (2 if dtype is uint32 else 1)), stream, key)
    if dtype is uint32:
        return e.cast(_chosen(place & 3, words).value, uint32)
    return _chosen(place & 1, [words[0] | words[1] << 32, words[2] | words[3] << 32]).value


def _block(b: _Scalar, stream: _Scalar, key: _Scalar) -> list[_Scalar]:
    c0, c1, c2, c3 = b & MASK, b >> 32, stream & MASK, stream >> 32
    k0, k1 = key & MASK, key >> 32
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + INCREMENTS[0]) & MASK, (k1 + INCREMENTS[1]) & MASK
    return [c0, c1, c2, c3]


def _chosen(place: _Scalar, words: Sequence[_Scalar]) -> _Scalar:
    """`words[place]`."""
    first, *rest = words
    if not rest:
        return first
    return place.select("equal", 0, lambda: first, lambda: _chosen(place - 1, rest))


def _bits_batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    """Lanes with states of their own draw from these; else one draw of all lanes is split."""
    if mapped[0]:
        return random_bits(args[0], **attrs)
    return random_bits(args[0], **attrs | {"shape": (size, *attrs["shape"])})


random_bits = Op(
    "random_bits",
    infer=_bits_type,
    evaluate=_bits,
    element=_bits_element,
    nondifferentiable=_INTEGER,
    batch=_bits_batch,
    per_lane=True,
    family="random",
    doc="""The next `shape` uint32 or uint64 of the stream whose state is given; states may be many.

    Source: Philox4x32-10 of Salmon et al. 2011.

    >>> state = ops.asarray([0, 0, 0], dtype=uint64)
    >>> [hex(word) for word in random_bits(state, shape=(4,), dtype=uint32).tolist()]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """,
)

# ----- the counter --------------------------------------------------------------------------------


def _advance_type(state: TensorType, *, shape: Shape, dtype: DType) -> TensorType:
    _require_state("random_advance", state)
    _require_words("random_advance", dtype)
    return state


def _advance(xp: Any, state: Array, *, shape: tuple[int, ...], dtype: DType) -> Array:
    _require_state("random_advance", state)
    out = state.copy()
    out[..., 2] += np.uint64(blocks(shape, dtype))
    return out


def _advance_element(
    e: Any, out: TensorType, idx: Any, state: Any, *, shape: Shape, dtype: DType
) -> Any:
    now = _Scalar(e, state(*idx), uint64)
    place, taken = (
        _Scalar(e, e.number(n, uint64), uint64) for n in (idx[-1], blocks(shape, dtype))
    )
    return place.select("equal", 2, lambda: now + taken, lambda: now).value


def _advance_batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    """One state for all lanes stays one (no axis in front), and counts what all of them take."""
    if mapped[0]:
        return random_advance(args[0], **attrs)
    return random_advance(args[0], **attrs | {"shape": (size, *attrs["shape"])})


random_advance = Op(
    "random_advance",
    infer=_advance_type,
    evaluate=_advance,
    element=_advance_element,
    nondifferentiable=_INTEGER,
    batch=_advance_batch,
    per_lane=True,
    counts=True,
    family="random",
    doc="""The state after `random_bits` of the same `shape` and `dtype`.

    >>> state = ops.asarray([7, 0, 0], dtype=uint64)
    >>> random_advance(state, shape=(5,), dtype=uint32)
    tensor([7, 0, 2], dtype=uint64)
    """,
)

# ----- normal -------------------------------------------------------------------------------------

# Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution (1988), PPND16:
# numerators and denominators, the highest power first.
CENTRAL = (
    (
        2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987,
        13731.69376550946, 1971.5909503065514, 133.14166789178438, 3.3871328727963665,
    ),
    (
        5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597,
        5394.196021424751, 687.1870074920579, 42.31333070160091, 1.0,
    ),
)  # fmt: skip
TAIL = (
    (
        0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684,
        3.6478483247632045, 5.769497221460691, 4.630337846156546, 1.4234371107496835,
    ),
    (
        1.0507500716444169e-09, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008,
        0.6897673349851, 1.6763848301838038, 2.053191626637759, 1.0,
    ),
)  # fmt: skip
FAR_TAIL = (
    (
        2.0103343992922881e-07, 2.7115555687434876e-05, 0.0012426609473880784,
        0.026532189526576124, 0.29656057182850487, 1.7848265399172913, 5.463784911164114,
        6.657904643501103,
    ),
    (
        2.0442631033899397e-15, 1.421511758316446e-07, 1.8463183175100548e-05,
        0.0007868691311456133, 0.014875361290850615, 0.1369298809227358, 0.599832206555888, 1.0,
    ),
)  # fmt: skip
ATANH = tuple(1.0 / k for k in range(21, 0, -2))  # atanh(f) / f in f^2, below 2^-54 for f < 0.172
ROOT_HALF, LOG_2 = 0.7071067811865476, 0.6931471805599453

_POINTS = {uint32: (32, float32), uint64: (53, float64)}  # bits that count, and the result's type


def _normal_type(bits: TensorType) -> TensorType:
    _require_words("random_normal", bits.dtype)
    return bits.with_dtype(_POINTS[bits.dtype][1])


def _normal(xp: Any, bits: Array) -> Array:
    _require_words("random_normal", bits.dtype)
    count, kind = (32, "f4") if bits.dtype == np.uint32 else (53, "f8")
    if count == 53:
        bits = bits >> np.uint64(11)
    out: Array = xp.empty(bits.size, kind)
    flat = bits.reshape(-1)
    for start in range(0, flat.size, BLOCKS):
        x = flat[start : start + BLOCKS].astype("f8")
        x += 0.5 - 2.0 ** (count - 1)
        x *= 2.0**-count
        out[start : start + BLOCKS] = _quantile(xp, x)
    return out.reshape(bits.shape)


def _quantile(xp: Any, q: Array) -> Array:
    """The normal quantile at 1/2 + q, for q from (1/2 - 2^53) 2^-53 to its opposite."""
    r = 0.180625 - q * q
    x: Array = q * (horner(CENTRAL[0], r) / horner(CENTRAL[1], r))
    outer = xp.flatnonzero(r < 0.0)
    x[outer] = xp.copysign(_tail_quantile(xp, 0.5 - xp.abs(q[outer])), q[outer])
    return x


def _tail_quantile(xp: Any, p: Array) -> Array:
    r = xp.sqrt(_minus_log(xp, p))
    near = r - 1.6
    x: Array = horner(TAIL[0], near) / horner(TAIL[1], near)
    far = r > 5.0
    if far.any():
        r = r[far] - 5.0
        x[far] = horner(FAR_TAIL[0], r) / horner(FAR_TAIL[1], r)
    return x


def _minus_log(xp: Any, p: Array) -> Array:
    """-log(p) for 0 < p < 1: p = m 2^-e, log(m) = 2 atanh((m - 1) / (m + 1))."""
    m, e = xp.frexp(p)
    small = m < ROOT_HALF
    m, e = xp.where(small, m * 2.0, m), (small - e).astype("f8")
    f = (m - 1.0) / (m + 1.0)
    result: Array = e * LOG_2 - 2.0 * f * horner(ATANH, f * f)
    return result


def _normal_element(e: Any, out: TensorType, idx: Any, bits: Any) -> Any:
    """The formula of `_quantile` for one element."""
    word = _Scalar(e, bits(*idx), bits.dtype)
    count = 32 if bits.dtype is uint32 else 53
    word = word if count == 32 else word >> 11
    q = _Scalar(e, e.cast(word.value, float64), float64)
    q = (q + (0.5 - 2.0 ** (count - 1))) * 2.0**-count
    r = _Scalar(e, e.constant(0.180625, float64), float64) - q * q
    half = _Scalar(e, e.constant(0.5, float64), float64)
    x = r.select(
        "less",
        0.0,
        lambda: _tail_element(half - q.called("abs"))._of("copysign", q),
        lambda: q * (_horner_element(CENTRAL[0], r) / _horner_element(CENTRAL[1], r)),
    )
    return e.cast(x.value, out.dtype)


def _tail_element(p: _Scalar) -> _Scalar:
    r = _minus_log_element(p).called("sqrt")
    near, far = r - 1.6, r - 5.0
    return r.select(
        "greater",
        5.0,
        lambda: _horner_element(FAR_TAIL[0], far) / _horner_element(FAR_TAIL[1], far),
        lambda: _horner_element(TAIL[0], near) / _horner_element(TAIL[1], near),
    )


def _minus_log_element(p: _Scalar) -> _Scalar:
    m, e = p, p - p
    for shift in (32, 16, 8, 4, 2, 1):  # m to [1/2, 1), e counts the doublings

        def double(x: _Scalar, m: _Scalar = m, shift: int = shift) -> _Scalar:
            return m.select("less", 2.0**-shift, lambda: x, lambda: m - m)

        m, e = m + double(m * (2.0**shift - 1.0)), e + double(m - m + float(shift))
    one = m - m + 1.0
    small = m.select("less", ROOT_HALF, lambda: one, lambda: m - m)
    m, e = m + small * m, e + small
    f = (m - 1.0) / (m + 1.0)
    return e * LOG_2 - f * 2.0 * _horner_element(ATANH, f * f)


def _horner_element(coefficients: Sequence[float], x: _Scalar) -> _Scalar:
    first, *rest = coefficients
    result = x * first + rest[0]
    for coefficient in rest[1:]:
        result = result * x + coefficient
    return result


random_normal: Op = Op(
    "random_normal",
    infer=_normal_type,
    evaluate=_normal,
    element=_normal_element,
    nondifferentiable="its operands are integers",
    batch=lambda size, args, mapped, attrs: random_normal(*args, **attrs),
    family="random",
    doc="""The standard normal quantile of bits: float32 of uint32, float64 of the top 53 of uint64.

    Source: Wichura 1988, algorithm AS 241 (PPND16).

    >>> random_normal(ops.asarray([0, 2**31, 2**32 - 1], dtype=uint32))
    tensor([-6.3379579e+00,  2.9180994e-10,  6.3379579e+00], dtype=float32)
    """,
)

# ----- categories ---------------------------------------------------------------------------------

FACTORIALS = tuple(1.0 / math.factorial(k) for k in range(14, -1, -1))  # of exp(h), |h| < 0.45
WEIGHT = 2.0**40  # of the likeliest category
SMALLEST = -28.125  # logits further below the largest have weight 0


def _category_type(logits: TensorType, words: TensorType) -> TensorType:
    if logits.dtype is not float64 or words.dtype is not uint64:
        raise DTypeError(
            f"random_category: takes float64 and uint64, not {logits.dtype} and {words.dtype}",
            fix="cast with astype",
        )
    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise ShapeError(
            f"random_category: no category in shape {shape_text(logits.shape)}",
            fix="the last axis of the logits holds the categories",
        )
    shape = broadcast_shapes("random_category", logits.shape[:-1], words.shape)
    return TensorType(int64, shape)


def _category(xp: Any, logits: Array, words: Array) -> Array:
    """The number of running sums of the weights that are at most words * total / 2^64."""
    y = logits - logits.max(axis=-1, keepdims=True)
    drawn = y >= SMALLEST  # False for NaN
    h = xp.where(drawn, y, 0.0) * 2.0**-6
    weight = horner(FACTORIALS, h)
    for _ in range(6):
        weight *= weight
    sums = xp.where(drawn, weight * WEIGHT + 0.5, 0.0).astype(np.uint64).cumsum(axis=-1)
    total = sums[..., -1]
    if not total.all():
        raise CheckError(
            "categorical: logits whose largest is NaN or infinite",
            fix="at least one logit must be finite, and none NaN or +inf",
        )
    limit = multiply_high(words, total)
    if sums.ndim == 1:
        found: Array = xp.searchsorted(sums, limit, side="right")
        return found
    count: Array = (sums <= limit[..., None]).sum(axis=-1, dtype=np.int64)
    return count


def multiply_high(a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two uint64, arrays or tensors.

    >>> multiply_high(np.uint64(2**63), np.uint64(6))
    np.uint64(3)
    """
    mask, half = np.uint64(MASK), np.uint64(32)
    a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
    middle = a1 * b0 + (a0 * b0 >> half)
    return a1 * b1 + (middle >> half) + ((a0 * b1 + (middle & mask)) >> half)


def _category_batch(size: Any, args: Any, mapped: Any, attrs: Any) -> Any:
    """The ranks of the batches are made equal, so that the lanes of both stand in front."""
    logits, words = args
    logits_rank, words_rank = (x.ndim - m - k for x, m, k in zip(args, mapped, (1, 0), strict=True))
    rank = max(logits_rank, words_rank)
    if mapped[0]:
        ones = (1,) * (rank - logits_rank)
        logits = ops.reshape(logits, (size, *ones, *logits.shape[1:]))
    if mapped[1]:
        ones = (1,) * (rank - words_rank)
        words = ops.reshape(words, (size, *ones, *words.shape[1:]))
    return random_category(logits, words)


random_category = Op(
    "random_category",
    infer=_category_type,
    evaluate=_category,
    library="it searches a running sum of integers",
    nondifferentiable=_INTEGER,
    checks=True,
    batch=_category_batch,
    family="random",
    doc="""An index of the last axis of float64 logits for each uint64, with chances as exp(logits).

    The weights are exp(logit - largest) 2^40 to the nearest integer, so that their running sum is
    exact. Raises CheckError where the largest logit is no finite number.

    >>> logits = ops.zeros(4, dtype=float64)
    >>> random_category(logits, ops.asarray([0, 2**62], dtype=uint64))
    tensor([0, 1], dtype=int64)
    """,
)
