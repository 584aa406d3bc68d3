"""Every scalar op in instructions of the machine: what all code generators share.

`spell(op, *xs)` is the op on values of the types that `Op.dtypes` asks for, with the meaning that
`stagekit/kernels/reference.py` gives it, within its class of docs/equality.md; `cast` is `astype`.
Nothing here traps or branches. float16 and bfloat16 are computed in float32 and rounded once.
An op without a spelling, and every complex number, raises KeyError.
"""

from __future__ import annotations

from collections.abc import Callable

from stagekit.kernels.ir import (
    Value,
    bits,
    convert,
    copysign,
    equal,
    like,
    select,
    unary,
    unequal,
)
from stagekit.kernels.scalars import division, gamma, scalar_math, trigonometry
from stagekit.types import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int16,
    int32,
    int64,
    uint16,
    uint32,
)

Rule = Callable[..., Value]
INF = float("inf")
SIGNED = {float16: int16, bfloat16: int16, float32: int32, float64: int64}  # of the same width
NARROW = (float16, bfloat16)


def spell(op: str, *xs: Value) -> Value:
    """A scalar op; KeyError where it has no spelling for the type of its last operand.

    >>> from stagekit.kernels.ir import Body
    >>> spell("reciprocal", Body().constant(7.0, float32)).op
    'div'
    """
    kind = xs[-1].type.kind
    if op == "where":
        return select(*xs)
    if kind == "complex":
        raise KeyError(f"{op} of {xs[-1].type}")
    if op in REPRESENTATION and kind == "float":
        return REPRESENTATION[op](*xs)
    if xs[-1].type in NARROW:
        out = spell(op, *(cast(x, float32) for x in xs))
        return cast(out, xs[-1].type) if out.type is float32 else out
    table = TEST[kind] if op in TEST[kind] else TABLES[kind]
    return table[op](*xs)


# ----- casts --------------------------------------------------------------------------------------


def cast(x: Value, target: DType) -> Value:
    """`astype`: to bool whether x is not 0; a float outside an integer type saturates (NaN: 0)."""
    if x.type is target:
        return x
    if "complex" in (x.type.kind, target.kind):
        raise KeyError(f"astype of {x.type} to {target}")
    if target is bool_:
        return unequal(cast(x, float32) if x.type in NARROW else x, 0)
    if x.type is bfloat16:
        return cast(bits(convert(bits(x, uint16), uint32) << 16, float32), target)
    if target is bfloat16:
        return _bfloat16(cast(x, float32))
    if x.type is bool_:
        return select(x, x.body.constant(1, target), x.body.constant(0, target))
    if target is float16:  # from integers too: those that are no float32 are infinite
        return convert(_to_odd(x) if x.type is float64 else convert(x, float32), float16)
    if x.type is float16 and target is not float32:
        return convert(convert(x, float32), target)
    return convert(x, target)


def _to_odd(x: Value) -> Value:
    """A float64 as a float32 that rounds to float16 as x itself: to odd where it is not exact."""
    near = convert(x, float32)
    back, whole = convert(near, float64), bits(near, int32)
    beyond = unary("abs", back) > unary("abs", x)
    odd = bits(select(beyond, whole - 1, whole) | 1, float32)
    return select((back < x) | (back > x), odd, near)


def _bfloat16(x: Value) -> Value:
    """The upper half of a float32, to nearest even; a NaN keeps its sign and becomes quiet."""
    whole = bits(x, uint32)
    rounded = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16
    quiet = ((whole >> 16) & 0x8000) | 0x7FC0
    return bits(convert(select(unequal(x, x), quiet, rounded), uint16), bfloat16)


# ----- floats as bits -----------------------------------------------------------------------------


def _signbit(x: Value) -> Value:
    return bits(x, SIGNED[x.type]) < 0


def _next_after(x: Value, y: Value) -> Value:
    """One step of the integer that the bits spell, away from zero or toward it."""
    layout = SIGNED[x.type]
    wide_x, wide_y = (cast(v, float32) if v.type in NARROW else v for v in (x, y))
    whole = bits(x, layout)
    away = (wide_y > wide_x) ^ (whole < 0)
    moved = bits(whole + select(away, like(whole, 1), -1), x.type)
    tiny = bits((bits(y, layout) & layout.lowest) | 1, x.type)
    moved = select(equal(wide_x, 0.0), tiny, moved)
    moved = select(equal(wide_x, wide_y) | unequal(wide_y, wide_y), y, moved)
    return select(unequal(wide_x, wide_x), x, moved)


REPRESENTATION: dict[str, Rule] = {"signbit": _signbit, "nextafter": _next_after}

# ----- rules for several kinds --------------------------------------------------------------------


def _machine(op: str) -> Rule:
    return lambda *xs: xs[0].body.make(op, *xs)


def _itself(x: Value) -> Value:
    return x


def _known(answer: bool) -> Rule:
    return lambda x: x.body.constant(answer, bool_)


def _extreme(relation: str, x: Value, y: Value) -> Value:
    """The first where it stands in the relation or is NaN; a constant is no NaN that one asks for
    in each turn, so it is the first.
    """
    if y.op == "constant":
        x, y = y, x
    return select(x.body.make(relation, x, y) | unequal(x, x), x, y)


def _greatest(x: Value, y: Value) -> Value:
    return select(x > y, x, y)


def _least(x: Value, y: Value) -> Value:
    return select(x < y, x, y)


def _square(x: Value) -> Value:
    return x * x


# ----- floats -------------------------------------------------------------------------------------


def _float_sign(x: Value) -> Value:
    """0 of both zeros, NaN of NaN."""
    beside = select(equal(x, 0.0), like(x, 0.0), x)
    return select(x > 0.0, 1.0, select(x < 0.0, -1.0, beside))


FLOAT: dict[str, Rule] = {
    "add": _machine("add"),
    "subtract": _machine("sub"),
    "multiply": _machine("mul"),
    "divide": _machine("div"),
    "floor_divide": division.float_floor_divide,
    "remainder": division.float_remainder,
    "negative": _machine("neg"),
    "positive": _itself,
    "abs": _machine("abs"),
    "sign": _float_sign,
    "floor": _machine("floor"),
    "ceil": _machine("ceil"),
    "trunc": _machine("trunc"),
    "round": _machine("rint"),
    "square": _square,
    "sqrt": _machine("sqrt"),
    "reciprocal": lambda x: 1.0 / x,
    "maximum": lambda x, y: _extreme("gt", x, y),
    "minimum": lambda x, y: _extreme("lt", x, y),
    "copysign": copysign,
}
FLOAT |= {
    function.__name__: function
    for function in (
        scalar_math.exp, scalar_math.exp2, scalar_math.expm1, scalar_math.log, scalar_math.log1p,
        scalar_math.log2, scalar_math.log10, scalar_math.logaddexp, scalar_math.sigmoid,
        scalar_math.softplus, scalar_math.sinh, scalar_math.cosh, scalar_math.tanh,
        scalar_math.asinh, scalar_math.acosh, scalar_math.atanh, scalar_math.power,
        scalar_math.rsqrt, scalar_math.hypot, scalar_math.erf, scalar_math.erfc,
        trigonometry.sin, trigonometry.cos, trigonometry.tan, trigonometry.asin,
        trigonometry.acos, trigonometry.atan, trigonometry.atan2, gamma.lgamma, gamma.polygamma,
    )
}  # fmt: skip

# ----- integers -----------------------------------------------------------------------------------


def _integer_abs(x: Value) -> Value:
    return x if x.type.kind == "uint" else select(x < 0, -x, x)


def _integer_sign(x: Value) -> Value:
    positive = select(x > 0, like(x, 1), 0)
    return positive if x.type.kind == "uint" else select(x < 0, -1, positive)


def _integer_power(x: Value, y: Value) -> Value:
    """By squaring, modulo 2^width: no exponent bit beyond that of the width counts.

    For an even x every power from the width on is 0, for an odd one 2^width is a period; so all
    bits of y do count for it, and are taken one by one. Of negative powers only units are not 0.
    """
    if y.op == "constant" and y.attr >= 0:
        return _known_power(x, int(y.attr))
    out, base = like(x, 1), x
    for k in range(8 * y.type.itemsize - (y.type.kind == "int")):
        out = select(equal((y >> k) & 1, 0), out, out * base)
        base = base * base
    if y.type.kind == "uint":
        return out
    unit = select(equal(x, -1), select(equal(y & 1, 0), like(x, 1), -1), 0)
    return select(y < 0, select(equal(x, 1), 1, unit), out)


def _known_power(x: Value, n: int) -> Value:
    out = like(x, 1)
    while n:
        out = out * x if n & 1 and out.op != "constant" else x if n & 1 else out
        x, n = x * x, n >> 1
    return out


def _inside(y: Value) -> tuple[Value, Value]:
    """Whether a shift is below the width, and a shift that always is."""
    width = 8 * y.type.itemsize
    inside = y < width if y.type.kind == "uint" else (y >= 0) & (y < width)
    return inside, y & (width - 1)


def _left_shift(x: Value, y: Value) -> Value:
    if y.op == "constant":
        return x << y if 0 <= y.attr < 8 * y.type.itemsize else like(x, 0)
    inside, amount = _inside(y)
    return select(inside, x << amount, 0)


def _right_shift(x: Value, y: Value) -> Value:
    last = 8 * y.type.itemsize - 1
    if y.op == "constant" and 0 <= y.attr <= last:
        return x >> y
    beyond = like(x, 0) if y.type.kind == "uint" else x >> last
    if y.op == "constant":
        return beyond
    inside, amount = _inside(y)
    return select(inside, x >> amount, beyond)


INTEGER: dict[str, Rule] = {
    "add": _machine("add"),
    "subtract": _machine("sub"),
    "multiply": _machine("mul"),
    "floor_divide": division.integer_floor_divide,
    "remainder": division.integer_remainder,
    "power": _integer_power,
    "negative": _machine("neg"),
    "positive": _itself,
    "abs": _integer_abs,
    "sign": _integer_sign,
    "floor": _itself,
    "ceil": _itself,
    "trunc": _itself,
    "round": _itself,
    "square": _square,
    "maximum": _greatest,
    "minimum": _least,
    "bitwise_and": _machine("and"),
    "bitwise_or": _machine("or"),
    "bitwise_xor": _machine("xor"),
    "bitwise_invert": lambda x: ~x,
    "bitwise_left_shift": _left_shift,
    "bitwise_right_shift": _right_shift,
}

# ----- bool ---------------------------------------------------------------------------------------

BOOL: dict[str, Rule] = {
    "add": _machine("or"),
    "multiply": _machine("and"),
    "maximum": _machine("or"),
    "minimum": _machine("and"),
    "bitwise_and": _machine("and"),
    "bitwise_or": _machine("or"),
    "bitwise_xor": _machine("xor"),
    "bitwise_invert": lambda x: ~x,
    "logical_and": _machine("and"),
    "logical_or": _machine("or"),
    "logical_xor": _machine("xor"),
    "logical_not": lambda x: ~x,
} | dict.fromkeys(("abs", "floor", "ceil", "trunc", "round"), _itself)

# ----- tests, whose result is bool ----------------------------------------------------------------

COMPARISON: dict[str, Rule] = {
    "equal": _machine("eq"),
    "not_equal": _machine("ne"),
    "less": _machine("lt"),
    "less_equal": _machine("le"),
    "greater": _machine("gt"),
    "greater_equal": _machine("ge"),
}
OF_BOOL: dict[str, Rule] = {
    "equal": lambda x, y: ~(x ^ y),
    "not_equal": _machine("xor"),
    "less": lambda x, y: ~x & y,
    "less_equal": lambda x, y: ~x | y,
    "greater": lambda x, y: x & ~y,
    "greater_equal": lambda x, y: x | ~y,
}
OF_FLOAT: dict[str, Rule] = {
    "isfinite": lambda x: unary("abs", x) < INF,
    "isinf": lambda x: equal(unary("abs", x), INF),
    "isnan": lambda x: unequal(x, x),
}
OF_EXACT: dict[str, Rule] = {
    "isfinite": _known(True),
    "isinf": _known(False),
    "isnan": _known(False),
}
TEST: dict[str, dict[str, Rule]] = {
    "bool": OF_BOOL | OF_EXACT,
    "int": COMPARISON | OF_EXACT,
    "uint": COMPARISON | OF_EXACT,
    "float": COMPARISON | OF_FLOAT,
}
TABLES: dict[str, dict[str, Rule]] = {
    "bool": BOOL,
    "int": INTEGER,
    "uint": INTEGER,
    "float": FLOAT,
}
