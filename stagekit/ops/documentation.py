"""What each elementwise op means, in a line and an example: the documentation of its object.

A test runs the examples.
"""

from __future__ import annotations

# op: meaning :: operands of an example :: its result
_TABLE = """
add: x + y; `or` of two bools :: [1.0, 2.0], 3 :: [4., 5.] float32
subtract: x - y :: [1.0, 2.0], 3 :: [-2., -1.] float32
multiply: x * y; `and` of two bools :: [1.0, 2.0], 3 :: [3., 6.] float32
divide: x / y in floats :: [1, 2], 4 :: [0.25, 0.5 ] float32
floor_divide: x / y rounded down; of integers by 0: 0 :: [7, -7], 2 :: [ 3, -4] int64
remainder: x - y * floor(x / y); of integers by 0: 0 :: [7, -7], 3 :: [1, 2] int64
power: x ** y; integers to a negative one: 0 or a unit :: [2.0, 3.0], 2 :: [4., 9.] float32
negative: -x; unsigned integers wrap :: [1.0, -2.0] :: [-1.,  2.] float32
positive: +x :: [1.0, -2.0] :: [ 1., -2.] float32
abs: The absolute value, with derivative 0 at 0 :: [1.0, -2.0] :: [1., 2.] float32
sign: -1, 0 or 1; NaN of NaN :: [3.0, -2.0, 0.0] :: [ 1., -1.,  0.] float32
real: The real part :: [1 + 2j] :: [1.] float32
imag: The imaginary part :: [1 + 2j] :: [2.] float32
conj: The complex conjugate :: [1 + 2j] :: [1.-2.j] complex64
floor: The nearest integer below :: [1.5, -1.5] :: [ 1., -2.] float32
ceil: The nearest integer above :: [1.5, -1.5] :: [ 2., -1.] float32
trunc: The nearest integer toward 0 :: [1.5, -1.5] :: [ 1., -1.] float32
round: The nearest integer, ties to even :: [0.5, 1.5, 2.5] :: [0., 2., 2.] float32
square: x * x :: [2.0, -3.0] :: [4., 9.] float32
sqrt: The square root; NaN below 0 :: [4.0, 9.0] :: [2., 3.] float32
reciprocal: 1 / x in floats :: [4, 2] :: [0.25, 0.5 ] float32
rsqrt: 1 / sqrt(x) :: [4.0, 1.0] :: [0.5, 1. ] float32
maximum: The larger; NaN if one is; ties share the gradient :: [1.0, 5.0], 3.0 :: [3., 5.] float32
minimum: The smaller; NaN if one is; ties share the gradient :: [1.0, 5.0], 3.0 :: [1., 3.] float32
exp: e to the power x :: [0.0, -sk.inf] :: [1., 0.] float32
exp2: 2 to the power x :: [0.0, 3.0] :: [1., 8.] float32
expm1: exp(x) - 1, accurate near 0 :: [0.0, -sk.inf] :: [ 0., -1.] float32
log: The natural logarithm :: [1.0, 0.0] :: [  0., -inf] float32
log1p: log(1 + x), accurate near 0 :: [0.0, -1.0] :: [  0., -inf] float32
log2: The logarithm to base 2 :: [1.0, 8.0] :: [0., 3.] float32
log10: The logarithm to base 10 :: [1.0, 0.0] :: [  0., -inf] float32
logaddexp: log(exp(x) + exp(y)) without overflow :: [1000.0], 0.0 :: [1000.] float32
sigmoid: 1 / (1 + exp(-x)) :: [0.0, 1000.0] :: [0.5, 1. ] float32
softplus: log(1 + exp(x)) without overflow :: [-1000.0, 1000.0] :: [   0., 1000.] float32
sin: The sine, in radians :: [0.0] :: [0.] float32
cos: The cosine, in radians :: [0.0] :: [1.] float32
tan: The tangent, in radians :: [0.0] :: [0.] float32
sinh: The hyperbolic sine :: [0.0] :: [0.] float32
cosh: The hyperbolic cosine :: [0.0] :: [1.] float32
tanh: The hyperbolic tangent :: [0.0, sk.inf] :: [0., 1.] float32
asin: The inverse sine; NaN outside [-1, 1] :: [0.0] :: [0.] float32
acos: The inverse cosine; NaN outside [-1, 1] :: [1.0] :: [0.] float32
atan: The inverse tangent :: [0.0] :: [0.] float32
asinh: The inverse hyperbolic sine :: [0.0] :: [0.] float32
acosh: The inverse hyperbolic cosine; NaN below 1 :: [1.0] :: [0.] float32
atanh: The inverse hyperbolic tangent; NaN outside [-1, 1] :: [0.0, 1.0] :: [ 0., inf] float32
atan2: The angle of the point (y, x), given in this order :: [0.0], 1.0 :: [0.] float32
hypot: sqrt(x**2 + y**2) without overflow :: [3.0, 0.0], 4.0 :: [5., 4.] float32
erf: The error function :: [0.0, 9.0] :: [0., 1.] float32
erfc: 1 - erf(x), accurate for large x :: [0.0, -9.0] :: [1., 2.] float32
lgamma: log |gamma(x)|; infinite at 0, -1, ... :: [1.0, 2.0, 0.0] :: [ 0.,  0., inf] float32
isfinite: Whether x is no infinity, no NaN :: [1.0, sk.inf, sk.nan] :: [ True, False, False] bool
isinf: Whether x is infinite :: [1.0, sk.inf, sk.nan] :: [False,  True, False] bool
isnan: Whether x is NaN :: [1.0, sk.inf, sk.nan] :: [False, False,  True] bool
signbit: Whether the sign of x is minus, -0.0 included :: [1.0, -0.0] :: [False,  True] bool
copysign: The size of x with the sign of y :: [1.0, -2.0], -1.0 :: [-1., -2.] float32
nextafter: The next float after x in the direction of y :: [1.0], 2.0 :: [1.0000001] float32
equal: x == y :: [1, 2, 3], 2 :: [False,  True, False] bool
not_equal: x != y :: [1, 2, 3], 2 :: [ True, False,  True] bool
less: x < y :: [1, 2, 3], 2 :: [ True, False, False] bool
less_equal: x <= y :: [1, 2, 3], 2 :: [ True,  True, False] bool
greater: x > y :: [1, 2, 3], 2 :: [False, False,  True] bool
greater_equal: x >= y :: [1, 2, 3], 2 :: [False,  True,  True] bool
logical_and: Whether both are true :: [True, False], True :: [ True, False] bool
logical_or: Whether one is true :: [True, False], True :: [ True,  True] bool
logical_xor: Whether exactly one is true :: [True, False], True :: [False,  True] bool
logical_not: Whether x is false :: [True, False] :: [False,  True] bool
bitwise_and: x & y, bit by bit :: [5, 6], 3 :: [1, 2] int64
bitwise_or: x | y, bit by bit :: [5, 6], 3 :: [7, 7] int64
bitwise_xor: x ^ y, bit by bit :: [5, 6], 3 :: [6, 5] int64
bitwise_invert: ~x, bit by bit; `not` of a bool :: [5, 6] :: [-6, -7] int64
bitwise_left_shift: x << y; by the width or more: 0 :: [1, 3], 2 :: [ 4, 12] int64
bitwise_right_shift: x >> y; by the width or more: 0 or -1 :: [8, -8], 2 :: [ 2, -2] int64
where: x where the condition is true, y elsewhere :: [True, False], 1.0, 0.0 :: [1., 0.] float32
"""

_SOURCE = {
    "abs": "numpy.absolute",
    "bitwise_left_shift": "numpy.left_shift",
    "bitwise_right_shift": "numpy.right_shift",
    "erf": "scipy.special.erf",
    "erfc": "scipy.special.erfc",
    "lgamma": "scipy.special.gammaln",
    "round": "numpy.rint",
    "rsqrt": "torch.rsqrt",
    "sigmoid": "scipy.special.expit",
    "softplus": "torch.nn.functional.softplus",
}

ROWS = {
    name: row.split(" :: ") for name, row in (r.split(": ", 1) for r in _TABLE.splitlines() if r)
}


def document(name: str, ufunc: str, operands: str | None) -> str:
    """The docstring of an elementwise op, whose operands are cast as `operands` says.

    >>> print(document("floor", "floor", "Any number.").splitlines()[2])
    Operands: any number. Shapes broadcast. As `numpy.floor`.
    """
    if name not in ROWS:
        return ""  # tests/test_complete.py asks for the row
    meaning, arguments, result = ROWS[name]
    numbers, kind = result.rsplit(" ", 1)
    accepted = f"{operands[:1].lower()}{operands[1:]}" if operands else ""
    example = f"sk.{name}({arguments.replace('[', 'sk.asarray([').replace(']', '])')})"
    return f"""{meaning}.

Operands: {accepted} Shapes broadcast. As `{_SOURCE.get(name, f"numpy.{ufunc}")}`.

>>> import stagekit as sk
>>> {example}
tensor({numbers}, dtype={kind})
"""
