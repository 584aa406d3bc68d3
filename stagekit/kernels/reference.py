"""The living definition: `reference(op, arrays, attrs)` asks the element rule for each `out[i, j]`.

Slow and obvious. Scalar ops are spelled in Python numbers, independently of `op.evaluate`: integers
exactly and then wrapped, floats in double precision (sums and products exactly) and then rounded.
"""

from __future__ import annotations

import cmath
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import reduce
from typing import Any, final

import numpy as np

from stagekit.errors import BoundsError
from stagekit.narrow import BFLOAT16, narrowed, widened
from stagekit.op import Op
from stagekit.types import DType, TensorType, bfloat16, bool_, dtype, real_of

Array = np.ndarray[Any, Any]
INF, NAN = math.inf, math.nan

# ----- rounding and wrapping ----------------------------------------------------------------------


def wrapped(n: int, target: DType) -> int:
    """The integer modulo 2**bits, in the range of the type.

    >>> wrapped(200, dtype("int8")), wrapped(-1, dtype("uint8"))
    (-56, 255)
    """
    bits = 8 * target.itemsize
    n %= 1 << bits
    return n - (1 << bits) if target.kind == "int" and n >> (bits - 1) else n


def nearest(value: float | int | Fraction, target: DType) -> float:
    """The float of type `target` nearest to an exact value, ties to even, as a double."""
    if not isinstance(value, float):
        value = _double(_short(Fraction(value), target))
    with np.errstate(all="ignore"):
        return float(np.array(value, target.numpy))


def _short(value: Fraction, target: DType) -> Fraction:
    """`value` rounded to the type's digits, so that the double it passes through is exact."""
    if value == 0:
        return value
    info = np.finfo(target.numpy)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if abs(value) >= Fraction(2) ** exponent:
        exponent += 1  # now 2**(exponent - 1) <= |value| < 2**exponent
    unit = Fraction(2) ** max(exponent - info.nmant - 1, int(info.minexp) - info.nmant)
    return round(value / unit) * unit


def _double(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return INF if value > 0 else -INF


def scalar(value: Any, target: DType) -> Any:
    """A Python number as a NumPy scalar of a type: integers wrapped, floats rounded."""
    if target is bool_:
        return np.bool_(bool(value))
    if target is bfloat16:
        return narrowed(np.asarray(value, np.float32))[()]
    if target.kind == "float":
        return target.numpy.type(nearest(value, target))
    if target.kind == "complex":
        part = real_of(target)
        return target.numpy.type(complex(*(nearest(p, part) for p in (value.real, value.imag))))
    return target.numpy.type(wrapped(int(value), target))


# ----- scalar ops on Python floats ----------------------------------------------------------------


def _total(function: Callable[..., float], at_overflow: float = INF) -> Callable[..., float]:
    """A function of `math` with NaN where it is not defined and an infinity where it overflows."""

    def spelled(*xs: float) -> float:
        try:
            return function(*xs)
        except ValueError:
            return NAN
        except OverflowError:
            return at_overflow

    return spelled


def _odd(function: Callable[[float], float]) -> Callable[[float], float]:
    """An odd function that may overflow."""
    return lambda x: math.copysign(_total(function)(abs(x)), x) if x == x else NAN


def _divide(x: float, y: float) -> float:
    if y != 0:
        return x / y
    return NAN if x == 0 or x != x else math.copysign(INF, x) * math.copysign(1, y)


def _remainder(x: float, y: float) -> float:
    """x - y floor(x / y): the sign is that of y."""
    if x != x or y != y or math.isinf(x) or y == 0:
        return NAN
    rest = math.fmod(x, y)
    if rest == 0:
        return math.copysign(0.0, y)
    return rest + y if (rest < 0) != (y < 0) else rest


def _floor_divide(x: float, y: float, target: DType) -> float:
    """(x - x % y) / y to the nearest integer; each step rounds, in float32 for float16.

    x / y where one of them is infinite.
    """
    if x != x or y != y or math.isinf(x) or math.isinf(y) or y == 0:
        return _divide(x, y)
    step = dtype("float64") if target.itemsize == 8 else dtype("float32")
    rest = math.fmod(x, y)
    quotient = nearest(_divide(nearest(x - rest, step), y), step)
    if rest != 0 and (rest < 0) != (y < 0):
        quotient = nearest(quotient - 1, step)
    if quotient == 0:
        return math.copysign(0.0, _divide(x, y))
    if math.isinf(quotient):
        return quotient
    whole = float(math.floor(quotient))
    return nearest(whole + 1, step) if quotient - whole > 0.5 else whole


def _power(x: float, y: float) -> float:
    odd = not math.isinf(y) and math.fmod(y, 2) in (1, -1)
    negative = math.copysign(1, x) < 0 and odd
    if x == 0 and y < 0:
        return -INF if negative else INF
    return _total(math.pow, -INF if negative else INF)(x, y)


def _log(function: Callable[[float], float], pole: float = 0.0) -> Callable[[float], float]:
    return lambda x: -INF if x == pole else _total(function)(x)


def _logaddexp(x: float, y: float) -> float:
    if x == y:
        return x + math.log(2)
    top, low = (x, y) if x > y else (y, x)
    return top + math.log1p(math.exp(low - top)) if low == low and top == top else NAN


def _lgamma(x: float) -> float:
    """Stirling's series beyond 40, and steps down from there, in 60 digits."""
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return INF
    if x != x:
        return NAN
    with localcontext(prec=60):
        z, factors = Decimal(x), Decimal(1)
        while z < 40:
            factors, z = factors * z, z + 1
        out = (z - Decimal("0.5")) * z.ln() - z + _LOG_2PI / 2 - abs(factors).ln()
        for k, b in enumerate(_BERNOULLI, 1):
            out += b / (2 * k * (2 * k - 1) * z ** (2 * k - 1))
        return float(out)


def _polygamma(order: float, x: float) -> float:
    """Euler and Maclaurin's series beyond 40, and steps down from there, in 60 digits."""
    n, sign = int(order), (-1) ** (int(order) + 1)
    if x != x or x == -INF:
        return NAN
    if x == INF:
        return math.copysign(0.0, sign) if n else INF
    if x == 0:
        return math.copysign(INF, sign) if n else math.copysign(INF, -x)
    if x < 0 and x == math.floor(x):
        return INF if n % 2 else NAN
    with localcontext(prec=60):
        z, out, whole = Decimal(x), Decimal(0), math.factorial(n)
        while z < 40 + n:
            out, z = out + whole / z ** (n + 1), z + 1
        out += Decimal(whole) / (2 * z ** (n + 1))
        out += math.factorial(n - 1) / z**n if n else -z.ln()
        for k, b in enumerate(_BERNOULLI, 1):
            out += b * math.factorial(2 * k + n - 1) / math.factorial(2 * k) / z ** (2 * k + n)
        return float(sign * out)


_LOG_2PI = Decimal("1.8378770664093454835606594728112352797227949472755668")
with localcontext(prec=60):  # B(2), B(4), ... B(20)
    _BERNOULLI = [
        Decimal(p) / q
        for p, q in (
            (1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6), (-3617, 510),
            (43867, 798), (-174611, 330),
        )
    ]  # fmt: skip


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def _atanh(x: float) -> float:
    return math.copysign(INF, x) if abs(x) == 1 else _total(math.atanh)(x)


def _sign(x: float) -> float:
    return x if x != x else float((x > 0) - (x < 0))


def _toward(function: Callable[[float], int]) -> Callable[[float], float]:
    """A rounding to an integer that keeps infinities, NaN and the sign of zero."""
    return lambda x: math.copysign(function(x), x) if math.isfinite(x) else x


def _greatest(x: Any, y: Any) -> Any:
    return x if x != x or x > y else y


def _least(x: Any, y: Any) -> Any:
    return x if x != x or x < y else y


FLOAT: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _divide,
    "remainder": _remainder,
    "power": _power,
    "negative": operator.neg,
    "positive": operator.pos,
    "abs": abs,
    "sign": _sign,
    "floor": _toward(math.floor),
    "ceil": _toward(math.ceil),
    "trunc": _toward(math.trunc),
    "round": _toward(round),
    "square": lambda x: x * x,
    "sqrt": _total(math.sqrt),
    "reciprocal": lambda x: _divide(1.0, x),
    "rsqrt": lambda x: _divide(1.0, _total(math.sqrt)(x)),
    "maximum": _greatest,
    "minimum": _least,
    "exp": _total(math.exp),
    "exp2": _total(math.exp2),
    "expm1": _total(math.expm1),
    "log": _log(math.log),
    "log1p": _log(math.log1p, -1.0),
    "log2": _log(math.log2),
    "log10": _log(math.log10),
    "logaddexp": _logaddexp,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "sin": _total(math.sin),
    "cos": _total(math.cos),
    "tan": _total(math.tan),
    "sinh": _odd(math.sinh),
    "cosh": _total(math.cosh),
    "tanh": math.tanh,
    "asin": _total(math.asin),
    "acos": _total(math.acos),
    "atan": math.atan,
    "asinh": math.asinh,
    "acosh": _total(math.acosh),
    "atanh": _atanh,
    "atan2": math.atan2,
    "hypot": math.hypot,
    "erf": math.erf,
    "erfc": math.erfc,
    "copysign": math.copysign,
    "lgamma": _lgamma,
    "polygamma": _polygamma,
}

# ----- scalar ops on Python integers --------------------------------------------------------------


def _integer_power(x: int, y: int) -> int:
    if y >= 0:
        return pow(x, y, 1 << 64)
    return {1: 1, -1: 1 if y % 2 == 0 else -1}.get(x, 0)


def _left_shift(x: int, y: int, target: DType) -> int:
    return x << y if 0 <= y < 8 * target.itemsize else 0


def _right_shift(x: int, y: int, target: DType) -> int:
    return x >> (y if 0 <= y < 8 * target.itemsize else 64)


INTEGER: dict[str, Callable[..., int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "floor_divide": lambda x, y: x // y if y else 0,
    "remainder": lambda x, y: x % y if y else 0,
    "power": _integer_power,
    "negative": operator.neg,
    "positive": operator.pos,
    "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0),
    "floor": operator.pos,
    "ceil": operator.pos,
    "trunc": operator.pos,
    "round": operator.pos,
    "square": lambda x: x * x,
    "maximum": max,
    "minimum": min,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_invert": operator.invert,
}

BOOL: dict[str, Callable[..., bool]] = {
    "add": operator.or_,
    "multiply": operator.and_,
    "abs": bool,
    "floor": bool,
    "ceil": bool,
    "trunc": bool,
    "round": bool,
    "maximum": operator.or_,
    "minimum": operator.and_,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_invert": operator.not_,
    "logical_and": operator.and_,
    "logical_or": operator.or_,
    "logical_xor": operator.xor,
    "logical_not": operator.not_,
}

# Ops of numbers of any kind whose result is bool.
TEST: dict[str, Callable[..., bool]] = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "isfinite": math.isfinite,
    "isinf": math.isinf,
    "isnan": math.isnan,
    "signbit": lambda x: math.copysign(1, x) < 0,
}

# ----- scalar ops on Python complex numbers -------------------------------------------------------


def _parts(function: Callable[[float], float]) -> Callable[[complex], complex]:
    return lambda z: complex(function(z.real), function(z.imag))


def _log1p(z: complex) -> complex:
    x, y = z.real, z.imag
    return complex(_log(math.log1p, -1.0)(x * (2 + x) + y * y) / 2, math.atan2(y, 1 + x))


def _expm1(z: complex) -> complex:
    x, y = z.real, z.imag
    half = math.sin(y / 2)
    return complex(math.expm1(x) * math.cos(y) - 2 * half * half, math.exp(x) * math.sin(y))


def _with_poles(function: Callable[[complex], complex]) -> Callable[[complex], complex]:
    """A function of `cmath` that is infinite where it is not defined."""

    def spelled(z: complex) -> complex:
        try:
            return function(z)
        except ValueError:
            return complex(INF, INF)

    return spelled


def _complex_power(x: complex, y: complex) -> complex:
    if x == 0:
        return 1 if y == 0 else 0 if y.real > 0 else complex(NAN, NAN)
    return x**y


def _complex_log(base: float) -> Callable[[complex], complex]:
    def spelled(z: complex) -> complex:
        if z == 0:
            return complex(-INF, cmath.phase(z) / math.log(base))
        return cmath.log(z) / math.log(base)

    return spelled


def _complex_divide(x: complex, y: complex) -> complex:
    return x / y if y else complex(NAN, NAN) if not x else complex(INF, INF)


COMPLEX: dict[str, Callable[..., complex]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _complex_divide,
    "power": _complex_power,
    "negative": operator.neg,
    "positive": operator.pos,
    "conj": lambda z: z.conjugate(),
    "round": _parts(_toward(round)),
    "square": lambda z: z * z,
    "sqrt": cmath.sqrt,
    "reciprocal": lambda z: _complex_divide(1 + 0j, z),
    "exp": cmath.exp,
    "expm1": _expm1,
    "log": _complex_log(math.e),
    "log1p": _log1p,
    "log2": _complex_log(2),
    "log10": _complex_log(10),
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": _with_poles(cmath.atan),
    "asinh": cmath.asinh,
    "acosh": cmath.acosh,
    "atanh": _with_poles(cmath.atanh),
}
# Whose result is a real number.
PART: dict[str, Callable[[complex], float]] = {
    "abs": abs,
    "real": lambda z: z.real,
    "imag": lambda z: z.imag,
}
_TABLES = {"float": FLOAT, "int": INTEGER, "uint": INTEGER, "bool": BOOL, "complex": COMPLEX}
_OF_PARTS = {"isfinite": all, "isinf": any, "isnan": any}
_IDENTITY = {"add": 0, "multiply": 1, "logical_or": False, "logical_and": True}
_COMBINE = {"add": "add", "multiply": "multiply", "min": "minimum", "max": "maximum"}


def apply(name: str, *xs: Any) -> Any:
    """A scalar op on NumPy scalars of the types that `Op.dtypes` asks for.

    >>> print(apply("remainder", np.int8(-7), np.int8(3)), apply("round", np.float32(2.5)))
    2 2.0
    """
    target, values = dtype(xs[-1].dtype), [x.item() for x in xs]
    if name == "where":
        return xs[1] if values[0] else xs[2]
    if name in TEST:
        test = TEST[name]
        if target.kind == "complex" and name in _OF_PARTS:
            return np.bool_(_OF_PARTS[name](test(p) for p in (values[0].real, values[0].imag)))
        return np.bool_(test(*values))
    if target.kind == "complex" and name in PART:
        return scalar(PART[name](*values), real_of(target))
    if name == "nextafter":
        return scalar(_next_after(values[0], values[1], target), target)
    if name == "floor_divide" and target.kind == "float":
        return scalar(_floor_divide(values[0], values[1], target), target)
    if name in ("bitwise_left_shift", "bitwise_right_shift"):
        shift = _left_shift if name == "bitwise_left_shift" else _right_shift
        return scalar(shift(values[0], values[1], target), target)
    return scalar(_TABLES[target.kind][name](*values), target)


def _next_after(x: float, y: float, target: DType) -> float:
    """The neighbour of x on the side of y: one step of the integer that the bits spell."""
    if x != x or y != y:
        return NAN
    if x == y:
        return y
    layout = np.dtype(f"i{target.itemsize}")
    if x == 0:
        tiny = float(np.ones((), layout).view(target.numpy))
        return math.copysign(tiny, y)
    bits = int(np.array(x, target.numpy).view(layout))
    away = (y > x) == (x > 0)
    return float(np.array(bits + (1 if away else -1), layout).view(target.numpy))


# ----- the speller --------------------------------------------------------------------------------


class Loads:
    """An array as element rules see it: a callable from indices, with `shape` and `dtype`."""

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.dtype = array, array.shape, dtype(array.dtype)

    def __call__(self, *idx: int) -> Any:
        if any(not 0 <= i < n for i, n in zip(idx, self.shape, strict=True)):
            raise BoundsError(f"an element rule read {idx} of shape {self.shape}")
        return self.array[idx]


@final
class Reference:
    """The `Speller` of Python numbers: scalars are NumPy scalars, indices are ints."""

    def apply(self, op: str, *scalars: Any) -> Any:
        return apply(op, *scalars)

    def constant(self, value: Any, dtype: DType) -> Any:
        return scalar(value, dtype)

    def number(self, index: Any, dtype: DType) -> Any:
        return scalar(index, dtype)

    def cast(self, scalar_: Any, dtype: DType) -> Any:
        """Floats outside an integer type's range give 0, one of the values that are allowed."""
        value = float(widened(scalar_)) if scalar_.dtype == BFLOAT16 else scalar_.item()
        if isinstance(value, complex) and dtype.kind not in ("complex", "bool"):
            value = value.real
        if dtype.kind in ("int", "uint") and isinstance(value, float):
            value = math.trunc(value) if math.isfinite(value) else 0
            value = value if wrapped(value, dtype) == value else 0
        return scalar(value, dtype)

    def select(self, condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        return then() if condition else otherwise()

    def index(self, scalar_: Any, size: Any) -> int:
        i = int(scalar_)
        if not -size <= i < size:
            raise BoundsError(f"index: index {i} is out of bounds for an axis of size {size}")
        return i % int(size)

    def reduce(
        self, op: str, dtype: DType, extents: Sequence[Any], body: Callable[..., Any]
    ) -> Any:
        terms = [body(*ks) for ks in _places(extents)]
        if dtype.kind == "float" and op in ("add", "multiply"):
            return scalar(_exact(op, [t.item() for t in terms]), dtype)
        if dtype.kind == "complex" and op == "add":
            parts = [[t.item().real for t in terms], [t.item().imag for t in terms]]
            return scalar(complex(*(float(_exact(op, part)) for part in parts)), dtype)
        if dtype.kind == "complex" and op == "multiply":
            return scalar(math.prod((t.item() for t in terms), start=1 + 0j), dtype)
        if op in _IDENTITY:
            terms.insert(0, scalar(_IDENTITY[op], dtype))
        return reduce(lambda x, y: apply(op, x, y), terms)

    def argreduce(self, op: str, extent: Any, body: Callable[[Any], Any]) -> Any:
        """The first NaN, or else the first extremum."""
        values = [body(k).item() for k in range(extent)]
        nans = [k for k, x in enumerate(values) if x != x]
        extreme = max if op == "argmax" else min
        return np.int64(nans[0] if nans else values.index(extreme(values)))

    def scatter(
        self,
        mode: str,
        extents: Sequence[Any],
        old: Any,
        hit: Callable[..., Any],
        update: Callable[..., Any],
    ) -> Any:
        """`old` combined with the updates that hit this element, one after the other."""
        value = old
        for ks in _places(extents):
            if all(found == wanted for found, wanted in hit(ks)):
                value = update(ks) if mode == "set" else apply(_COMBINE[mode], value, update(ks))
        return value


def _places(extents: Iterable[Any]) -> Iterable[tuple[int, ...]]:
    return itertools.product(*(range(n) for n in extents))


def _exact(op: str, terms: Sequence[float]) -> float | Fraction:
    """The exact sum or product; by IEEE's rules where a term is no finite number or zero."""
    if not all(map(math.isfinite, terms)):
        return math.prod(terms) if op == "multiply" else sum(terms)
    if op == "add":
        exact = sum(map(Fraction, terms), start=Fraction(0))
        return exact or float(sum(terms, start=-0.0 if terms else 0.0))
    exact = math.prod(map(Fraction, terms), start=Fraction(1))
    return exact or math.prod([1.0, *terms])


def reference(op: Op, arrays: Sequence[Array], attrs: dict[str, Any]) -> Array:
    """What the element rule of `op` says, element by element.

    `arrays` have the types that `op.dtypes` asks for. Raises what the type rule and indices raise.

    >>> from stagekit.op import OPS
    >>> import stagekit.ops
    >>> reference(OPS["sum"], [np.array([1.5, 2.5])], {"axes": (0,)})
    array(4.)
    """
    if op.element is None:
        raise TypeError(f"{op.name} has no element rule: {op.library}")
    out = op.infer(*(TensorType(dtype(a.dtype), a.shape) for a in arrays), **attrs)
    loads = [Loads(a) for a in arrays]
    result = np.empty(out.shape, out.dtype.numpy)
    for idx in _places(out.shape):
        result[idx] = op.element(Reference(), out, idx, *loads, **attrs)
    return result
