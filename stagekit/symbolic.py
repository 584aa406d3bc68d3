"""Sizes and Python numbers that a trace knows by name as well as by value.

`Expr` is an integer polynomial over named symbols in canonical form, `Formula` a tree of Python
float arithmetic. `Dim` (an int) and `Number` (a float) pair such an expression with its value now:
arithmetic stays symbolic, a comparison is decided by the value and recorded as a `Fact` in `Facts`.
"""

from __future__ import annotations

import ast
import builtins
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from stagekit.errors import LeakedTensorError
from stagekit.source import Location, here

# ----- integer expressions ------------------------------------------------------------------------


class Call(NamedTuple):
    """An integer operation that is not a polynomial: `//`, `%`, `max`, `min`."""

    op: str
    left: Expr
    right: Expr

    def __str__(self) -> str:
        if self.op in ("max", "min"):
            return f"{self.op}({self.left}, {self.right})"
        sums = len(self.left.terms) > 1
        left = f"({self.left})" if sums else str(self.left)
        plain = self.right.constant is not None or self.right.is_atom
        return f"({left} {self.op} {self.right if plain else f'({self.right})'})"


Atom = str | Call
Monomial = tuple[Atom, ...]

_INTEGER: dict[str, Callable[[Any, Any], Any]] = {
    "//": operator.floordiv,
    "%": operator.mod,
    "max": lambda a, b: maximum(a, b),
    "min": lambda a, b: minimum(a, b),
}


def _exact(method: Callable[[Any, Expr], Expr]) -> Callable[[Any, Any], Expr]:
    """An operator that leaves what is no integer to the other operand."""

    def operate(self: Expr, other: Any) -> Expr:
        try:
            exact = Expr.of(other)
        except TypeError:
            return NotImplemented  # type: ignore[no-any-return]
        return method(self, exact)

    return operate


class Expr:
    """A polynomial with integer coefficients over names and `Call`s; equal polynomials are equal.

    >>> n = Expr.named("n")
    >>> print(n + n + 1, "|", (n * 2 + 2) // 2, "|", (n * 4) % 2)
    2*n + 1 | n + 1 | 0
    """

    __slots__ = ("_hash", "_names", "_text", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        kept = ((m, c) for m, c in terms.items() if c)
        self.terms = tuple(sorted(kept, key=lambda term: (-len(term[0]), str(term[0]))))
        self._hash = hash(self.terms)
        self._names: frozenset[str] | None = None
        self._text: str | None = None

    @staticmethod
    def named(name: str) -> Expr:
        return Expr({(name,): 1})

    @staticmethod
    def of(value: int | Expr) -> Expr:
        return value if isinstance(value, Expr) else Expr({(): int(value)})

    @property
    def constant(self) -> int | None:
        """The value, if no name occurs in it."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and self.terms[0][0] == ():
            return self.terms[0][1]
        return None

    @property
    def is_atom(self) -> bool:
        """Whether it is one name or one `Call`."""
        return len(self.terms) == 1 and len(self.terms[0][0]) == 1 and self.terms[0][1] == 1

    @property
    def names(self) -> frozenset[str]:
        if self._names is None:
            found: set[str] = set()
            for monomial, _ in self.terms:
                for atom in monomial:
                    found |= {atom} if isinstance(atom, str) else atom.left.names | atom.right.names
            self._names = frozenset(found)
        return self._names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    @_exact
    def __add__(self, other: Expr) -> Expr:
        terms = dict(self.terms)
        for monomial, c in other.terms:
            terms[monomial] = terms.get(monomial, 0) + c
        return Expr(terms)

    @_exact
    def __sub__(self, other: Expr) -> Expr:
        return self + other * -1

    @_exact
    def __mul__(self, other: Expr) -> Expr:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                monomial = tuple(sorted(left + right, key=str))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return Expr(terms)

    __radd__, __rmul__ = __add__, __mul__

    @_exact
    def __rsub__(self, other: Expr) -> Expr:
        return other - self

    @_exact
    def __floordiv__(self, other: Expr) -> Expr:
        k = other.constant
        if k and all(c % k == 0 for _, c in self.terms):
            return Expr({m: c // k for m, c in self.terms})
        return self._call("//", other)

    @_exact
    def __mod__(self, other: Expr) -> Expr:
        k = other.constant
        if k and all(c % k == 0 for _, c in self.terms):
            return Expr({})
        return self._call("%", other)

    @_exact
    def __rfloordiv__(self, other: Expr) -> Expr:
        return other // self

    @_exact
    def __rmod__(self, other: Expr) -> Expr:
        return other % self

    def _call(self, op: str, other: Expr) -> Expr:
        a, b = self.constant, other.constant
        if a is not None and b is not None and not (b == 0 and op in ("//", "%")):
            return Expr.of(_INTEGER[op](a, b))
        return Expr({(Call(op, self, other),): 1})

    def evaluate(self, env: Mapping[str, Any]) -> Any:
        """The value where each name has the value `env` gives it: an int, a `Dim` or an `Expr`."""
        return self._evaluated(env, {})

    def _evaluated(self, env: Mapping[str, Any], known: dict[Call, Any]) -> Any:
        total: Any = 0
        for monomial, c in self.terms:
            product: Any = c
            for atom in monomial:
                product = product * _evaluate_atom(atom, env, known)
            total = total + product
        return total

    def __str__(self) -> str:
        if self._text is None:
            text = " + ".join(_term_text(*term) for term in self.terms)
            self._text = text.replace("+ -", "- ") or "0"
        return self._text

    def __repr__(self) -> str:
        return f"Expr({self})"


def _evaluate_atom(atom: Atom, env: Mapping[str, Any], known: dict[Call, Any]) -> Any:
    """The value of a name or a call; calls occur often in each other, and are evaluated once."""
    if isinstance(atom, str):
        return env[atom]
    if atom not in known:
        left, right = (x._evaluated(env, known) for x in (atom.left, atom.right))
        known[atom] = _INTEGER[atom.op](left, right)
    return known[atom]


def _term_text(monomial: Monomial, c: int) -> str:
    if not monomial:
        return str(c)
    factors = "*".join(str(atom) for atom in monomial)
    return {1: factors, -1: f"-{factors}"}.get(c, f"{c}*{factors}")


def parse_expr(text: str | ast.expr) -> Expr:
    """The expression that `str` printed (integers, names, `+ - * // % max min`).

    Raises ValueError for anything else.

    >>> print(parse_expr("2*n + max(n, m) // 3"))
    2*n + (max(n, m) // 3)
    """
    tree = ast.parse(text, mode="eval").body if isinstance(text, str) else text
    match tree:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return Expr.of(value)
        case ast.Name(id=name):
            return Expr.named(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return parse_expr(operand) * -1
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _PARSED:
            return _PARSED[type(op)](parse_expr(left), parse_expr(right))
        case ast.Call(func=ast.Name(id="max" | "min" as name), args=[left, right]):
            return parse_expr(left)._call(name, parse_expr(right))
    raise ValueError(f"not a size expression: {ast.unparse(tree)}")


_PARSED: dict[type, Callable[[Expr, Expr], Expr]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

# ----- float formulas -----------------------------------------------------------------------------

_FLOAT: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "neg": operator.neg,
    "abs": builtins.abs,
    "name": lambda value: value,
}


class Formula(NamedTuple):
    """Python arithmetic on numbers, evaluated by Python itself: no algebra, so the same bits.

    An integer expression inside prints in braces.

    >>> half = Formula("*", (Formula.named("lr"), 0.5))
    >>> print(half, half.evaluate({"lr": 3.0}))
    (lr * 0.5) 1.5
    """

    op: str
    args: tuple[Any, ...]

    @staticmethod
    def named(name: str) -> Formula:
        return Formula("name", (name,))

    def evaluate(self, env: Mapping[str, Any]) -> Any:
        return _FLOAT[self.op](*(evaluate(arg, env) for arg in self.args))

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(names(arg) for arg in self.args))

    @property
    def constant(self) -> None:
        return None

    def __str__(self) -> str:
        if self.op == "name":
            return str(self.args[0])
        args = [f"{{{x}}}" if isinstance(x, Expr) else str(x) for x in self.args]
        return f"({args[0]} {self.op} {args[1]})" if len(args) == 2 else f"{self.op}({args[0]})"


def evaluate(expr: Any, env: Mapping[str, Any]) -> Any:
    """The value of an expression, a formula, a name or a plain number under `env`."""
    if isinstance(expr, str):
        return env[expr]
    return expr.evaluate(env) if isinstance(expr, (Expr, Formula)) else expr


def names(expr: Any) -> frozenset[str]:
    """The names that occur in an expression, a formula, a name or a plain number."""
    if isinstance(expr, str):
        return frozenset((expr,))
    return expr.names if isinstance(expr, (Expr, Formula)) else frozenset()


# ----- facts --------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equal as keys: of one type, NaN equal to NaN, -0.0 not equal to 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    return bool(a == b)


_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    "same": same,
}


class Fact(NamedTuple):
    """`left relation right` is `outcome`: what a trace relied on."""

    left: Any
    relation: str
    right: Any
    outcome: bool

    def holds(self, env: Mapping[str, Any]) -> bool:
        left, right = evaluate(self.left, env), evaluate(self.right, env)
        return _RELATIONS[self.relation](left, right) == self.outcome

    def __str__(self) -> str:
        relation = "==" if self.relation == "same" else self.relation
        if not self.outcome:
            relation = {"==": "!=", "<": ">=", "<=": ">"}[relation]
        return f"{self.left} {relation} {self.right}"


class Fixed(NamedTuple):
    """A symbol that Python needed as a plain number, and the user's line that did."""

    expr: Any
    value: Any
    location: Location | None


@dataclass(eq=False)
class Facts:
    """Everything a trace has relied on about its sizes and numbers, in the order it was asked."""

    known: dict[Fact, Location | None] = field(default_factory=dict)
    fixed: list[Fixed] = field(default_factory=list)
    closed: bool = False

    def require_open(self) -> None:
        if self.closed:
            raise LeakedTensorError(
                "a size or number of a trace is used after the trace ended",
                fix="return it from the function as a tensor, or keep `int(...)` of it",
            ).located(here())

    def decide(self, left: Any, relation: str, right: Any, outcome: bool) -> bool:
        """Record that the comparison came out as `outcome`, unless that can never change."""
        self.require_open()
        said = relation == "==" and Fact(right, relation, left, outcome) in self.known
        if not said and not _settled(left, relation, right):
            self.known.setdefault(Fact(left, relation, right, outcome), here())
        return outcome

    def fix(self, expr: Any, value: Any) -> Any:
        """Record that Python took the plain value."""
        self.require_open()
        if names(expr):
            fact = Fact(expr, "same", value, True)
            if fact not in self.known:
                self.known[fact] = here()
                self.fixed.append(Fixed(expr, value, here()))
        return value

    def hold(self, env: Mapping[str, Any]) -> bool:
        """Whether every fact is true of these values; a formula that raises is not."""
        try:
            return all(fact.holds(env) for fact in self.known)
        except ArithmeticError:
            return False


def _settled(left: Any, relation: str, right: Any) -> bool:
    if isinstance(left, Formula) or isinstance(right, Formula):
        return False
    if isinstance(left, float) or isinstance(right, float):
        return not (names(left) | names(right))
    return (Expr.of(left) - Expr.of(right)).constant is not None


# ----- concolic numbers ---------------------------------------------------------------------------

Plain = int | float


class Number:
    """A Python float that a trace knows by formula and by value.

    Arithmetic gives a `Number`; a comparison is decided by the value and recorded; what needs the
    plain float (`float(x)`, formatting, hashing) fixes the value by a fact.
    """

    __slots__ = ("expr", "facts", "value")
    __array_ufunc__ = None
    weak: type = float

    def __init__(self, expr: Any, value: Plain, facts: Facts) -> None:
        self.expr = expr
        self.value = value
        self.facts = facts

    def fix(self) -> Any:
        """The plain value; the trace is from now on for this value alone."""
        return self.facts.fix(self.expr, self.value)

    def _binary(self, op: str, other: Any, reflected: bool = False) -> Any:
        if isinstance(other, numpy.integer):
            other = int(other)
        if isinstance(other, (numpy.ndarray, numpy.generic)):
            pair = (other, self.fix()) if reflected else (self.fix(), other)
            return _FLOAT[op](*pair)
        if not isinstance(other, (int, float, Number)):
            return NotImplemented
        self.facts.require_open()
        left, right = (other, self) if reflected else (self, other)
        value = _FLOAT[op](_value(left), _value(right))
        args = (_expr(left), _expr(right))
        if op in _EXACT and not any(isinstance(x, (float, Formula)) for x in args):
            return Dim(_EXACT[op](Expr.of(args[0]), Expr.of(args[1])), value, self.facts)
        if not isinstance(value, float):  # int ** int, (-1.0) ** 0.5: neither a Dim nor a Number
            return _FLOAT[op](_fixed(left), _fixed(right))
        return Number(Formula(op, args), value, self.facts)

    def _compare(self, relation: str, other: Any, flip: bool = False) -> Any:
        if isinstance(other, numpy.ndarray):
            pair = (other, self.fix()) if flip else (self.fix(), other)
            return _RELATIONS[relation](*pair)
        if isinstance(other, numpy.generic):
            other = other.item()
        if not isinstance(other, (int, float, Number)):
            return NotImplemented
        left, right = (other, self) if flip else (self, other)
        outcome = _RELATIONS[relation](_value(left), _value(right))
        return self.facts.decide(_expr(left), relation, _expr(right), outcome)

    def __add__(self, other: Any) -> Any:
        return self._binary("+", other)

    def __radd__(self, other: Any) -> Any:
        return self._binary("+", other, True)

    def __sub__(self, other: Any) -> Any:
        return self._binary("-", other)

    def __rsub__(self, other: Any) -> Any:
        return self._binary("-", other, True)

    def __mul__(self, other: Any) -> Any:
        return self._binary("*", other)

    def __rmul__(self, other: Any) -> Any:
        return self._binary("*", other, True)

    def __truediv__(self, other: Any) -> Any:
        return self._binary("/", other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._binary("/", other, True)

    def __floordiv__(self, other: Any) -> Any:
        return self._binary("//", other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._binary("//", other, True)

    def __mod__(self, other: Any) -> Any:
        return self._binary("%", other)

    def __rmod__(self, other: Any) -> Any:
        return self._binary("%", other, True)

    def __pow__(self, other: Any) -> Any:
        return self._binary("**", other)

    def __rpow__(self, other: Any) -> Any:
        return self._binary("**", other, True)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __neg__(self) -> Any:
        return Number(Formula("neg", (self.expr,)), -self.value, self.facts)

    def __abs__(self) -> Any:
        return Number(Formula("abs", (self.expr,)), abs(self.value), self.facts)

    def __pos__(self) -> Any:
        return self

    def __eq__(self, other: object) -> Any:
        return self._compare("==", other)

    def __ne__(self, other: object) -> Any:
        equal = self._compare("==", other)
        return equal if equal is NotImplemented else not equal

    def __lt__(self, other: Any) -> Any:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("<", other, True)

    def __ge__(self, other: Any) -> Any:
        return self._compare("<=", other, True)

    def __bool__(self) -> bool:
        return not self._compare("==", 0)

    def __float__(self) -> float:
        return float(self.fix())

    def __int__(self) -> int:
        return int(self.fix())

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.fix(), digits)

    def __floor__(self) -> int:
        below: int = math.floor(self.fix())
        return below

    def __ceil__(self) -> int:
        above: int = math.ceil(self.fix())
        return above

    def __trunc__(self) -> int:
        whole: int = math.trunc(self.fix())
        return whole

    def __hash__(self) -> int:
        return hash(self.fix())

    def __str__(self) -> str:
        return str(self.fix())

    def __repr__(self) -> str:
        return repr(self.fix())

    def __format__(self, spec: str) -> str:
        return format(self.fix(), spec)

    def __reduce__(self) -> Any:
        return type(self.value), (self.fix(),)


class Dim(Number):
    """An int (a size, or an int argument) that a trace knows by expression and by value.

    `+ - * // %`, `max`, `min` with ints give a `Dim`, `/` a `Number`. It is no subclass of `int`:
    what needs a machine integer (`len(x)`, `range(n)`, formatting) fixes the value by a fact.
    """

    __slots__ = ()
    weak = int

    def __index__(self) -> int:
        return int(self.fix())

    def __neg__(self) -> Any:
        return self * -1

    def __abs__(self) -> Any:
        return self if self >= 0 else self * -1

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, int) and not isinstance(other, bool) and 0 <= other <= 8:
            return math.prod((self,) * other)
        return self._binary("**", other)


numbers.Real.register(Number)
numbers.Integral.register(Dim)

_EXACT: dict[str, Callable[[Expr, Expr], Expr]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Number) else x


def _expr(x: Any) -> Any:
    if isinstance(x, Number):
        return x.expr
    return int(x) if isinstance(x, bool) else x


def _fixed(x: Any) -> Any:
    return x.fix() if isinstance(x, Number) else x


def _extremum(op: str, a: Any, b: Any) -> Any:
    if isinstance(a, Expr) or isinstance(b, Expr):
        a, b = Expr.of(a), Expr.of(b)
        return a if a == b else a._call(op, b)
    if not isinstance(a, Dim) and not isinstance(b, Dim):
        return max(a, b) if op == "max" else min(a, b)
    facts = a.facts if isinstance(a, Dim) else b.facts
    value = max(_value(a), _value(b)) if op == "max" else min(_value(a), _value(b))
    left, right = Expr.of(_expr(a)), Expr.of(_expr(b))
    return a if left == right else Dim(left._call(op, right), value, facts)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two sizes, symbolic where one is.

    >>> maximum(2, 3)
    3
    """
    return _extremum("max", a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two sizes, symbolic where one is."""
    return _extremum("min", a, b)


def strip(value: Any) -> Any:
    """A size or number as data: the expression where it is symbolic, else the plain number."""
    if isinstance(value, Number):
        constant = value.expr.constant if isinstance(value.expr, Expr) else None
        return value.expr if constant is None else constant
    return value


def product(sizes: Iterable[Any]) -> Any:
    """The product of sizes, 1 for none."""
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


def plain(shape: Iterable[Any]) -> tuple[Any, ...]:
    """The sizes as they are now, for messages: nothing is fixed by it."""
    return tuple(_value(size) for size in shape)
