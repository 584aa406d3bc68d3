"""Elementwise ops: a row says NumPy's name, the operand types, and the derivative per operand.

A derivative rule `(ct, out, *xs)` multiplies by the partial derivative; elementwise Jacobians are
diagonal, so the same rule serves forward and reverse. Ties in maximum and minimum share equally.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import stagekit.ops as ops
from stagekit.errors import DTypeError
from stagekit.op import OPS, DTypeRule, Op, Speller, keep
from stagekit.ops import gamma, special
from stagekit.ops.batching import pointwise
from stagekit.ops.documentation import document
from stagekit.types import (
    RANK,
    WEAK,
    DType,
    TensorType,
    bool_,
    broadcast_shapes,
    default_float,
    known_same,
    promote,
    real_of,
    same_size,
)

# ----- operand types ------------------------------------------------------------------------------


def numeric(name: str, operands: Sequence[Any]) -> list[DType]:
    """The common type, bool included."""
    return [promote(operands, name)] * len(operands)


def number(name: str, operands: Sequence[Any]) -> list[DType]:
    """The common type; bool is refused."""
    common = promote(operands, name)
    if common is bool_:
        raise DTypeError(f"{name}: bool operands have no {name}", fix="cast with astype first")
    return [common] * len(operands)


def floating(name: str, operands: Sequence[Any]) -> list[DType]:
    """The common float or complex type; integers and bool become the default float."""
    common = promote(operands, name)
    return [common if common.inexact else default_float] * len(operands)


def real_only(rule: DTypeRule, allowed: str) -> DTypeRule:
    """The same without complex numbers, of which the op has no value."""

    def checked(name: str, operands: Sequence[Any]) -> Sequence[DType | None]:
        found = rule(name, operands)
        if any(d is not None and d.kind == "complex" for d in found):
            raise DTypeError(
                f"{name}: operands are {_listed(operands)}; complex numbers have no {name}",
                fix="take sk.real, sk.imag or sk.abs first",
            )
        return found

    checked.__doc__ = allowed
    return checked


real_numeric = real_only(numeric, "The common real type, bool included.")
real_number = real_only(number, "The common real type; bool is refused.")
real_floating = real_only(
    floating, "The common float type; integers and bool become the default float."
)

ordered = real_only(keep, "A real type.")


def complex_only(name: str, operands: Sequence[Any]) -> list[DType]:
    """A complex type."""
    common = promote(operands, name)
    if common.kind != "complex":
        raise DTypeError(f"{name}: operands are {_listed(operands)}", fix="use complex numbers")
    return [common]


def logical(name: str, operands: Sequence[Any]) -> list[DType]:
    """bool: a number counts as true where it is not zero."""
    return [bool_] * len(operands)


def bits(name: str, operands: Sequence[Any]) -> list[DType]:
    """The common integer type, or bool."""
    common = promote(operands, name)
    if common.inexact:
        raise DTypeError(f"{name}: operands are {_listed(operands)}", fix="use integers or bool")
    return [common] * len(operands)


def integer(name: str, operands: Sequence[Any]) -> list[DType]:
    """The common integer type."""
    common = promote(operands, name)
    if RANK[common.kind] != 1:
        raise DTypeError(f"{name}: operands are {_listed(operands)}", fix="use integers")
    return [common] * len(operands)


def _listed(operands: Sequence[Any]) -> str:
    return " and ".join(d.name if isinstance(d, DType) else d.__name__ for d in operands)


# ----- the family ---------------------------------------------------------------------------------

Rule = Callable[..., Any]


def aligned(out: TensorType, idx: Sequence[Any], shape: Sequence[Any]) -> tuple[Any, ...]:
    """The indices at which an operand of `shape` is read for `out[idx]`, by broadcasting.

    >>> aligned(TensorType(default_float, (2, 3)), (1, 2), (3,))
    (2,)
    """
    lead = len(idx) - len(shape)
    pairs = zip(idx[lead:], shape, out.shape[lead:], strict=True)
    return tuple(i if same_size(n, m) else 0 for i, n, m in pairs)


def unbroadcast(ct: Any, like: Any) -> Any:
    """The cotangent summed over the axes along which `like` was broadcast.

    >>> unbroadcast(ops.ones((2, 3)), ops.ones(3))
    tensor([2., 2., 2.], dtype=float32)
    """
    if known_same(ct.shape, like.shape):
        return ct
    lead = ct.ndim - like.ndim
    pairs = enumerate(zip(like.shape, ct.shape[lead:], strict=True), lead)
    kept = tuple(axis for axis, (n, m) in pairs if _is_one(n) or not same_size(n, m))
    shape = tuple([1 if k in kept else n for k, n in enumerate(ct.shape) if k >= lead])
    axes = (*range(lead), *kept)
    out = OPS["sum"](ct, axes=axes) if axes else ct
    return OPS["reshape"](out, shape=shape) if kept else out


def _is_one(size: Any) -> bool:
    """Whether a size is the literal 1: summing such an axis is right whatever broadcast it."""
    return isinstance(size, int) and size == 1


def elementwise(
    name: str,
    dtypes: DTypeRule,
    *rules: Rule | None,
    evaluate: str | Callable[..., Any] | None = None,
    result: DType | Callable[[DType], DType] | None = None,
    pushes: Sequence[Rule] = (),
    reason: str | None = None,
    moves: bool = False,
) -> Op:
    """Declare an op on elements with broadcasting; `rules` has one derivative per operand.

    A rule multiplies by the partial derivative. Of complex numbers it is the complex derivative of
    an analytic function: a tangent is multiplied by it, a cotangent by its conjugate. An op that is
    not analytic gives its `rules` for cotangents and its `pushes` for tangents, each as it is.
    """

    def infer(*types: TensorType) -> TensorType:
        shape = broadcast_shapes(name, *(t.shape for t in types))
        kind = types[-1].dtype
        if result is not None:
            kind = result if isinstance(result, DType) else result(kind)
        return TensorType(kind, shape, types[0].device)

    def element(e: Speller, out: TensorType, idx: Sequence[Any], *xs: Any) -> Any:
        return e.apply(name, *(x(*aligned(out, idx, x.shape)) for x in xs))

    def vjp(i: int, ct: Any, out: Any, xs: Any, attrs: Any) -> Any:
        rule = rules[i]
        if rule is None:
            return None
        if pushes or ct.dtype.kind != "complex":
            return unbroadcast(rule(ct, out, *xs), xs[i])
        return unbroadcast(_conj(rule(_conj(ct), out, *xs)), xs[i])

    def jvp(tangents: Any, out: Any, xs: Any, attrs: Any) -> Any:
        terms = [
            rule(t, out, *xs)
            for t, rule in zip(tangents, pushes or rules, strict=True)
            if t is not None and rule is not None
        ]
        return ops.broadcast_to(ops.total(terms), out.shape) if terms else None

    op = Op(
        name,
        infer=infer,
        evaluate=evaluate or name,
        element=element,
        dtypes=dtypes,
        vjp=vjp if rules else None,
        jvp=jvp if rules else None,
        nondifferentiable=None if rules else reason,
        moves=moves,
        batch=pointwise(name),
        family="elementwise",
        doc=document(name, evaluate if isinstance(evaluate, str) else name, dtypes.__doc__),
    )
    op.__signature__ = signature_of(op.operands or 0)  # of help() and inspect.signature
    return op


def signature_of(operands: int) -> inspect.Signature:
    """The standard's names for the operands of an elementwise function.

    >>> signature_of(2)
    <Signature (x1, x2, /)>
    """
    names = {1: ["x"], 2: ["x1", "x2"], 3: ["condition", "x1", "x2"]}[operands]
    kind = inspect.Parameter.POSITIONAL_ONLY
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


def ours(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """The evaluation of a unary op that NumPy lacks."""
    return lambda xp, x: function(x)


# ----- arithmetic ---------------------------------------------------------------------------------

add = elementwise("add", numeric, lambda ct, out, x, y: ct, lambda ct, out, x, y: ct)
subtract = elementwise("subtract", number, lambda ct, out, x, y: ct, lambda ct, out, x, y: -ct)
multiply = elementwise(
    "multiply", numeric, lambda ct, out, x, y: ct * y, lambda ct, out, x, y: ct * x
)
divide = elementwise(
    "divide", floating, lambda ct, out, x, y: ct / y, lambda ct, out, x, y: -ct * out / y
)
_STEPS = "piecewise constant: the derivative is zero wherever it exists"


def _floor_divide(xp: Any, x: Any, y: Any) -> Any:
    """Of one infinity with a finite number the quotient itself, as the Array API standard has it.

    Of integers NumPy's own results are the contract's: x // 0 == x % 0 == 0, MIN // -1 == MIN.
    """
    out = xp.floor_divide(x, y)
    if x.dtype.kind == "f":
        infinite = xp.logical_xor(xp.isinf(x), xp.isinf(y))
        if infinite.any():
            out = xp.where(xp.logical_and(infinite, ~xp.isnan(x + y)), x / y, out)
    return out


floor_divide = elementwise("floor_divide", real_number, evaluate=_floor_divide, reason=_STEPS)
remainder = elementwise(
    "remainder",
    real_number,
    lambda ct, out, x, y: ct,
    lambda ct, out, x, y: -ct * floor_divide(x, y),
)


def _power(xp: Any, x: Any, y: Any) -> Any:
    """Integers to a negative power: 1 and -1 stay units, everything else is 0."""
    if x.dtype.kind == "f":
        return _float_power(xp, x, y)
    if x.dtype.kind != "i" or not xp.any(y < 0):
        return xp.power(x, y)
    unit = xp.where(x == -1, xp.where(y % 2 == 0, 1, -1), xp.where(x == 1, 1, 0)).astype(x.dtype)
    return xp.where(y < 0, unit, xp.power(x, xp.maximum(y, 0)))


def _float_power(xp: Any, x: Any, y: Any) -> Any:
    """As IEEE 754's pow: NumPy takes a repeated exponent of a half for a square root."""
    out = xp.power(x, y)
    if (y.ndim == 0 or y.shape != out.shape or y.size == 1) and xp.any(y == 0.5):
        edge = xp.logical_and(y == 0.5, xp.logical_or(x == 0, x == -math.inf))
        out = xp.where(edge, xp.abs(x), out)
    return out


def _power_base(ct: Any, out: Any, x: Any, y: Any) -> Any:
    """y x**(y-1), and 0 at y = 0 for every x."""
    flat = y == 0
    return ct * where(flat, 0.0, y * power(x, where(flat, 1.0, y) - 1.0))


def _power_exponent(ct: Any, out: Any, x: Any, y: Any) -> Any:
    """x**y log x, and its limit 0 at x = 0 for y >= 0."""
    zero = logical_and(x == 0, real(y) >= 0)
    return ct * where(zero, 0.0, out * log(where(zero, 1.0, x)))


power = elementwise("power", number, _power_base, _power_exponent, evaluate=_power)
negative = elementwise("negative", number, lambda ct, out, x: -ct)
positive = elementwise("positive", number, lambda ct, out, x: ct)




def _sign_or_unit(x: Any, size: Any) -> Any:
    """x / |x|, and 0 at 0."""
    return _over(x, size) if x.dtype.kind == "complex" else _sign(x)


abs = elementwise(
    "abs",
    numeric,
    lambda ct, out, x: ct * _sign_or_unit(x, out),
    pushes=[lambda t, out, x: real(t * conj(_sign_or_unit(x, out)))],
    evaluate="absolute",
    result=real_of,
)
_sign: Op = elementwise("sign", real_number, reason=_STEPS)


def sign(x: Any, /) -> Any:
    """-1, 0 or 1, NaN of NaN; of a complex number x / |x|, and 0 at 0. As `numpy.sign`.

    bool is refused. The derivative of real numbers is zero wherever it exists.

    >>> import stagekit as sk
    >>> sk.sign(sk.asarray([3.0, -2.0, 0.0]))
    tensor([ 1., -1.,  0.], dtype=float32)
    """
    x = ops.asarray(x)
    return _over(x, abs(x)) if x.dtype.kind == "complex" else _sign(x)

# ----- complex numbers ----------------------------------------------------------------------------

_real: Op = elementwise(
    "real",
    complex_only,
    lambda ct, out, x: ops.astype(ct, x.dtype),
    pushes=[lambda t, out, x: _real(t)],
    evaluate=lambda xp, x: x.real.copy(),
    result=real_of,
)
_imag: Op = elementwise(
    "imag",
    complex_only,
    lambda ct, out, x: ct * 1j,
    pushes=[lambda t, out, x: _imag(t)],
    evaluate=lambda xp, x: x.imag.copy(),
    result=real_of,
)
_conj: Op = elementwise(
    "conj",
    complex_only,
    lambda ct, out, x: _conj(ct),
    pushes=[lambda t, out, x: _conj(t)],
    evaluate="conjugate",
)


def real(x: Any, /) -> Any:
    """The real part; a real tensor is its own. As `numpy.real`.

    >>> import stagekit as sk
    >>> sk.real(sk.asarray([1 + 2j]))
    tensor([1.], dtype=float32)
    """
    x = ops.asarray(x)
    return _real(x) if x.dtype.kind == "complex" else ops.alias(x)


def imag(x: Any, /) -> Any:
    """The imaginary part; zeros of a real tensor. As `numpy.imag`.

    >>> import stagekit as sk
    >>> sk.imag(sk.asarray([1 + 2j]))
    tensor([2.], dtype=float32)
    """
    x = ops.asarray(x)
    return _imag(x) if x.dtype.kind == "complex" else ops.zeros_like(x)


def conj(x: Any, /) -> Any:
    """The complex conjugate; a real tensor is its own. As `numpy.conjugate`.

    >>> import stagekit as sk
    >>> sk.conj(sk.asarray([1 + 2j]))
    tensor([1.-2.j], dtype=complex64)
    """
    x = ops.asarray(x)
    return _conj(x) if x.dtype.kind == "complex" else ops.alias(x)


def angle(x: Any, /) -> Any:
    """The argument of a complex number in radians, in [-pi, pi]; as `numpy.angle`.

    >>> import stagekit as sk
    >>> sk.angle(sk.asarray([1j, -1.0]))
    tensor([1.5707964, 3.1415927], dtype=float32)
    """
    x = ops.asarray(x)
    return atan2(imag(x), real(x))



def _rounding(function: str) -> Callable[..., Any]:
    """A rounding function; integers and bool are their own."""

    def evaluate(xp: Any, x: Any) -> Any:
        return getattr(xp, function)(x) if x.dtype.kind in "fc" else x.copy()

    return evaluate


floor = elementwise("floor", real_numeric, evaluate=_rounding("floor"), reason=_STEPS)
ceil = elementwise("ceil", real_numeric, evaluate=_rounding("ceil"), reason=_STEPS)
trunc = elementwise("trunc", real_numeric, evaluate=_rounding("trunc"), reason=_STEPS)
round = elementwise("round", numeric, evaluate=_rounding("rint"), reason=_STEPS)

square = elementwise("square", number, lambda ct, out, x: ct * (2.0 * x))
sqrt = elementwise("sqrt", floating, lambda ct, out, x: 0.5 * ct / out)
reciprocal = elementwise("reciprocal", floating, lambda ct, out, x: -ct * out * out)


rsqrt = elementwise(
    "rsqrt", real_floating, lambda ct, out, x: -0.5 * ct * out / x, evaluate=ours(special.rsqrt)
)


def _half_where_tied(greater: Callable[[Any, Any], Any]) -> tuple[Rule, Rule]:
    """Derivatives of an extremum: all to the winner, half to each of two equals."""

    def rule(ct: Any, mine: Any, other: Any) -> Any:
        return where(greater(mine, other), ct, where(mine == other, 0.5 * ct, 0.0))

    return lambda ct, out, x, y: rule(ct, x, y), lambda ct, out, x, y: rule(ct, y, x)


maximum = elementwise("maximum", real_numeric, *_half_where_tied(lambda x, y: x > y))
minimum = elementwise("minimum", real_numeric, *_half_where_tied(lambda x, y: x < y))

# ----- exponentials and logarithms ----------------------------------------------------------------

exp = elementwise("exp", floating, lambda ct, out, x: ct * out)
exp2 = elementwise("exp2", real_floating, lambda ct, out, x: ct * out * math.log(2))
expm1 = elementwise(
    "expm1",
    floating,
    lambda ct, out, x: ct * exp(x),
    evaluate=lambda xp, x: special.complex_expm1(x) if x.dtype.kind == "c" else xp.expm1(x),
)
log = elementwise("log", floating, lambda ct, out, x: ct / x)
log1p = elementwise("log1p", floating, lambda ct, out, x: ct / (1.0 + x))
log2 = elementwise("log2", floating, lambda ct, out, x: ct / (x * math.log(2)))
log10 = elementwise("log10", floating, lambda ct, out, x: ct / (x * math.log(10)))


def _share(mine: Any, other: Any) -> Any:
    """exp(mine) / (exp(mine) + exp(other)), and a half where both are the same infinity."""
    equal = mine == other
    return where(equal, 0.5, sigmoid(where(equal, 0.0, mine - other)))


logaddexp = elementwise(
    "logaddexp",
    real_floating,
    lambda ct, out, x, y: ct * _share(x, y),
    lambda ct, out, x, y: ct * _share(y, x),
)


sigmoid: Op = elementwise(
    "sigmoid",
    real_floating,
    lambda ct, out, x: ct * out * sigmoid(-x),
    evaluate=ours(special.sigmoid),
)
softplus = elementwise(
    "softplus", real_floating, lambda ct, out, x: ct * sigmoid(x), evaluate=ours(special.softplus)
)

# ----- trigonometry -------------------------------------------------------------------------------

sin = elementwise("sin", floating, lambda ct, out, x: ct * cos(x))
cos: Op = elementwise("cos", floating, lambda ct, out, x: -ct * sin(x))
tan = elementwise("tan", floating, lambda ct, out, x: ct * (1.0 + out * out))
sinh = elementwise("sinh", floating, lambda ct, out, x: ct * cosh(x))
cosh: Op = elementwise("cosh", floating, lambda ct, out, x: ct * sinh(x))
tanh = elementwise(
    "tanh",
    floating,
    lambda ct, out, x: ct * (1.0 - out * out),
    evaluate=lambda xp, x: special.complex_tanh(x) if x.dtype.kind == "c" else xp.tanh(x),
)
asin = elementwise(
    "asin", floating, lambda ct, out, x: ct / sqrt((1.0 - x) * (1.0 + x)), evaluate="arcsin"
)
acos = elementwise(
    "acos", floating, lambda ct, out, x: -ct / sqrt((1.0 - x) * (1.0 + x)), evaluate="arccos"
)
atan = elementwise("atan", floating, lambda ct, out, x: ct / (1.0 + x * x), evaluate="arctan")


def _hypot_1(x: Any) -> Any:
    """sqrt(x**2 + 1)."""
    return sqrt(x * x + 1.0) if x.dtype.kind == "complex" else hypot(x, 1.0)


asinh = elementwise("asinh", floating, lambda ct, out, x: ct / _hypot_1(x), evaluate="arcsinh")
acosh = elementwise(
    "acosh", floating, lambda ct, out, x: ct / (sqrt(x - 1.0) * sqrt(x + 1.0)), evaluate="arccosh"
)
atanh = elementwise(
    "atanh", floating, lambda ct, out, x: ct / ((1.0 - x) * (1.0 + x)), evaluate="arctanh"
)
atan2 = elementwise(
    "atan2",
    real_floating,
    lambda ct, out, y, x: ct * x / (x * x + y * y),
    lambda ct, out, y, x: -ct * y / (x * x + y * y),
    evaluate="arctan2",
)


def _over(x: Any, norm: Any) -> Any:
    """x / norm, and 0 where the norm is 0."""
    zero = norm == 0
    return where(zero, 0.0, x / where(zero, 1.0, norm))


hypot: Op = elementwise(
    "hypot",
    real_floating,
    lambda ct, out, x, y: ct * _over(x, out),
    lambda ct, out, x, y: ct * _over(y, out),
)

# ----- error function -----------------------------------------------------------------------------


_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)
erf = elementwise(
    "erf",
    real_floating,
    lambda ct, out, x: ct * (_TWO_OVER_ROOT_PI * exp(-x * x)),
    evaluate=ours(special.erf),
)
erfc = elementwise(
    "erfc",
    real_floating,
    lambda ct, out, x: ct * (-_TWO_OVER_ROOT_PI * exp(-x * x)),
    evaluate=ours(special.erfc),
)

# ----- gamma function -----------------------------------------------------------------------------

lgamma = elementwise(
    "lgamma",
    real_floating,
    lambda ct, out, x: ct * polygamma_op(x, n=0),
    evaluate=ours(gamma.lgamma),
)
polygamma_op: Op = Op(
    "polygamma",
    infer=lambda x, *, n: x,
    evaluate=lambda xp, x, *, n: gamma.polygamma(n, x),
    element=lambda e, out, idx, x, *, n: e.apply("polygamma", e.constant(n, x.dtype), x(*idx)),
    dtypes=real_floating,
    vjp=lambda i, ct, out, xs, attrs: ct * polygamma_op(xs[0], n=attrs["n"] + 1),
    jvp=lambda tangents, out, xs, attrs: tangents[0] * polygamma_op(xs[0], n=attrs["n"] + 1),
    batch=lambda size, args, mapped, attrs: polygamma_op(*args, **attrs),
    family="elementwise",
    doc="""The n-th derivative of the digamma function. As `scipy.special.polygamma`.

    >>> polygamma_op(ops.asarray([1.0]), n=1)
    tensor([1.644934], dtype=float32)
    """,
)

# ----- floating-point representation --------------------------------------------------------------


def _is_float(function: str, otherwise: bool) -> Callable[..., Any]:
    """A test of floats; of integers the answer is always `otherwise`."""

    def evaluate(xp: Any, x: Any) -> Any:
        if x.dtype.kind in "fc":
            return getattr(xp, function)(x)
        return xp.full(x.shape, otherwise)

    return evaluate


_TEST = "the result is bool"
isfinite = elementwise(
    "isfinite", numeric, evaluate=_is_float("isfinite", True), result=bool_, reason=_TEST
)
isinf = elementwise(
    "isinf", numeric, evaluate=_is_float("isinf", False), result=bool_, reason=_TEST
)
isnan = elementwise(
    "isnan", numeric, evaluate=_is_float("isnan", False), result=bool_, reason=_TEST
)
signbit = elementwise("signbit", real_floating, result=bool_, reason=_TEST)
copysign = elementwise(
    "copysign",
    real_floating,
    lambda ct, out, x, y: where(logical_xor(signbit(x), signbit(y)), -ct, ct),
    None,
)
nextafter = elementwise(
    "nextafter", real_floating, reason="defined on the representation, not on real numbers"
)

# ----- comparison, logic, bits --------------------------------------------------------------------

equal = elementwise("equal", numeric, result=bool_, reason=_TEST)
not_equal = elementwise("not_equal", numeric, result=bool_, reason=_TEST)
less = elementwise("less", real_numeric, result=bool_, reason=_TEST)
less_equal = elementwise("less_equal", real_numeric, result=bool_, reason=_TEST)
greater = elementwise("greater", real_numeric, result=bool_, reason=_TEST)
greater_equal = elementwise("greater_equal", real_numeric, result=bool_, reason=_TEST)

logical_and = elementwise("logical_and", logical, result=bool_, reason=_TEST)
logical_or = elementwise("logical_or", logical, result=bool_, reason=_TEST)
logical_xor: Op = elementwise("logical_xor", logical, result=bool_, reason=_TEST)
logical_not = elementwise("logical_not", logical, result=bool_, reason=_TEST)

_BITS = "integers have no derivative"
bitwise_and = elementwise("bitwise_and", bits, reason=_BITS)
bitwise_or = elementwise("bitwise_or", bits, reason=_BITS)
bitwise_xor = elementwise("bitwise_xor", bits, reason=_BITS)
bitwise_invert = elementwise("bitwise_invert", bits, evaluate="invert", reason=_BITS)


# By the width or more a shift gives 0, and -1 for `>>` of a negative: NumPy's own results.
bitwise_left_shift = elementwise("bitwise_left_shift", integer, evaluate="left_shift", reason=_BITS)
bitwise_right_shift = elementwise(
    "bitwise_right_shift", integer, evaluate="right_shift", reason=_BITS
)

# ----- choice -------------------------------------------------------------------------------------


def _where_dtypes(name: str, operands: Sequence[Any]) -> list[DType]:
    """A bool condition and two branches of a common type."""
    condition = operands[0] if isinstance(operands[0], DType) else WEAK[operands[0]]
    if condition is not bool_:
        raise DTypeError(
            f"where: the condition is {condition}, not bool", fix="compare, for example `x != 0`"
        )
    return [bool_, *[promote(operands[1:])] * 2]


where: Op = elementwise(
    "where",
    _where_dtypes,
    None,
    lambda ct, out, c, x, y: where(c, ct, 0.0),
    lambda ct, out, c, x, y: where(c, 0.0, ct),
    moves=True,
)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Values limited to [min, max], each bound optional; as `numpy.clip`.

    `x`, `min`, `max` broadcast. At a bound the gradient is shared equally with the bound.

    >>> import stagekit as sk
    >>> sk.clip(sk.asarray([-1.0, 0.5, 9.0]), 0, 1)
    tensor([0. , 0.5, 1. ], dtype=float32)
    """
    out = ops.asarray(x)
    if min is not None:
        out = maximum(out, _bound(out, min))
    if max is not None:
        out = minimum(out, _bound(out, max))
    return out if min is not None or max is not None else positive(out)


def _bound(x: Any, bound: Any) -> Any:
    """A bound in the type of `x` where it is a float and `x` is not: the result keeps x's type."""
    if isinstance(bound, float) and not x.dtype.inexact and bound in (math.inf, -math.inf):
        info = ops.iinfo(x.dtype)
        return info.max if bound > 0 else info.min
    return bound
