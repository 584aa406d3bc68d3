"""Every function of the array API standard against `array-api-strict`: types, shapes and values.

hypothesis draws the calls (`CALLS`); each runs in array_api_strict, eagerly, and twice staged: as
it is traced, and from its trace. Values agree within twice the class of docs/equality.md, as each
side may be that far from the exact one. Where nothing says which float is meant, stagekit makes
float32 and array_api_strict float64: `default` names these calls.
`pytest -s tests/test_strict.py` prints how many calls of each function were compared.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import array_api_strict as strict
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import stagekit as sk
from tests.test_ops import CLASS, same_bits
from tests.test_standard import STUBS

strict.set_array_api_strict_flags(api_version="2025.12", enabled_extensions=("linalg", "fft"))


class DType(str):
    """A data type as an argument, by the name that both namespaces give it."""


class Call(NamedTuple):
    """Operands, as one list where `listed`; then what is no array, by position and by keyword."""

    operands: tuple[np.ndarray, ...] = ()
    rest: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    listed: bool = False
    default: str = ""  # the type of stagekit's result where it is not array_api_strict's

    def run(self, xp: Any, name: str, operands: tuple[Any, ...]) -> Any:
        function = xp
        for part in name.split("."):
            function = getattr(function, part)
        arrays = (list(operands),) if self.listed else operands
        named = {key: argument(xp, value) for key, value in self.keywords.items()}
        return function(*arrays, *(argument(xp, value) for value in self.rest), **named)


def argument(xp: Any, value: Any) -> Any:
    return getattr(xp, value) if isinstance(value, DType) else value


Calls = st.SearchStrategy[Call]


def calls(*parts: Any, **named: Any) -> Calls:
    """Of strategies for the fields; the others keep their defaults."""
    return st.builds(lambda *args, **keywords: Call(*args, **keywords), *parts, **named)


# ----- operands -----------------------------------------------------------------------------------

UNSIGNED = ["uint8", "uint16", "uint32", "uint64"]
SIGNED = ["int8", "int16", "int32", "int64"]
INTEGER = SIGNED + UNSIGNED
REAL, COMPLEX = ["float32", "float64"], ["complex64", "complex128"]
FLOATING = REAL + COMPLEX
ORDERED = INTEGER + REAL
NUMERIC = INTEGER + FLOATING
ALL = ["bool", *NUMERIC]

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
MATRICES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=3)
FULL_SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=3)  # no size is 0


def elements(kind: str, special: bool, limit: int = 10) -> st.SearchStrategy[Any]:
    """Integers of the whole range if `special`, floats with infinities and NaN; else up to limit"""
    dtype = np.dtype(kind)
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low = info.min if special else max(int(info.min), -limit)
        return st.integers(low, info.max if special else limit)
    if dtype.kind == "c":
        part = elements("float32", False, limit)
        return st.builds(complex, part, part)
    plain = st.floats(-limit, limit, width=32, allow_subnormal=False)
    odd = [np.inf, -np.inf, np.nan, -0.0, 0.5, 1.0, -1.0]
    return plain | st.sampled_from(odd) if special else plain


def arrays(
    kinds: list[str], shapes: Any = SHAPES, special: bool = False, limit: int = 10
) -> st.SearchStrategy[np.ndarray]:
    def of(kind: str) -> st.SearchStrategy[np.ndarray]:
        return hnp.arrays(kind, shapes, elements=elements(kind, special, limit))

    return st.sampled_from(kinds).flatmap(of)


@st.composite
def alike(
    draw: Any, kinds: list[str], n: int, special: bool = False, same: bool = False
) -> tuple[np.ndarray, ...]:
    """`n` arrays whose shapes broadcast, of types that the standard promotes; or of one shape."""
    first = draw(st.sampled_from(kinds))
    family = next(f for f in (["bool"], SIGNED, UNSIGNED, REAL, COMPLEX) if first in f)
    shapes = [draw(SHAPES)] * n
    if not same:
        drawn = hnp.mutually_broadcastable_shapes(num_shapes=n, max_dims=3, max_side=3)
        shapes = list(draw(drawn).input_shapes)
    chosen = [first] + [draw(st.sampled_from([k for k in family if k in kinds])) for _ in shapes]
    return tuple(draw(arrays([k], s, special)) for k, s in zip(chosen, shapes, strict=False))


def call(*operands: Any, rest: Any = (), **more: Any) -> Calls:
    """A call of drawn operands; `rest` and `keywords` are strategies of what else is given."""
    named = st.fixed_dictionaries({}, optional=more)
    tail = rest if isinstance(rest, st.SearchStrategy) else st.just(rest)
    return calls(st.tuples(*operands), tail, named)


def unary(kinds: list[str], special: bool = True) -> Calls:
    return call(arrays(kinds, special=special))


def binary(kinds: list[str], special: bool = True) -> Calls:
    """Two tensors, or a tensor and a Python number, which takes the tensor's type."""
    pair = alike(kinds, 2, special).map(Call)
    number = {"b": st.booleans(), "i": st.integers(0, 5), "u": st.integers(0, 5)}
    number |= {"f": st.sampled_from([2, 0.5, -1.0]), "c": st.sampled_from([2, 0.5, 1 - 2j])}
    mixed = arrays(kinds, special=special).flatmap(
        lambda x: calls(st.just((x,)), st.tuples(number[x.dtype.kind]))
    )
    return pair | mixed


@st.composite
def along(
    draw: Any, kinds: list[str], special: bool = False, many: bool = False,
    whole: bool = True, none: bool = True, **more: Any,
) -> Call:  # fmt: skip
    """One tensor and `axis`, an int, None or with `many` a tuple; keywords of `more`."""
    x = draw(arrays(kinds, FULL_SHAPES if whole else SHAPES.filter(len), special))
    axes: Any = st.integers(-x.ndim, x.ndim - 1)
    if many:
        axes |= st.sets(st.integers(0, x.ndim - 1), min_size=1).map(lambda s: tuple(sorted(s)))
    keywords = draw(st.fixed_dictionaries({}, optional=more))
    return Call((x,), (), keywords | {"axis": draw(axes | st.none() if none else axes)})


KEEP = {"keepdims": st.booleans()}
FLAGS = st.booleans()


def dtypes(kinds: list[str]) -> st.SearchStrategy[DType]:
    return st.sampled_from(kinds).map(DType)


@st.composite
def summed(draw: Any, **more: Any) -> Call:
    """`dtype` is of the kind of the operand."""
    made = draw(along(NUMERIC, **more))
    family = next(f for f in (INTEGER, REAL, COMPLEX) if made.operands[0].dtype.name in f)
    chosen = draw(st.none() | dtypes([family[-1]] if family is not INTEGER else ["int64"]))
    return made._replace(keywords=made.keywords | ({"dtype": chosen} if chosen else {}))


# ----- creation -----------------------------------------------------------------------------------


@st.composite
def made(draw: Any, rest: Any, kinds: list[str] = ALL, default: str = "float32") -> Call:
    """What is made from nothing: of a type that is named, or of the default."""
    kind = draw(st.none() | dtypes(kinds))
    keywords = {"dtype": kind} if kind else {}
    return Call((), draw(rest), keywords, default="" if kind else default)


SMALL = st.integers(-5, 5)
FILLS: Calls = st.one_of(
    made(st.tuples(SHAPES, st.sampled_from([0.5, -1.0])), REAL),
    made(st.tuples(SHAPES, st.sampled_from([True, False])), ["bool"], ""),
    made(st.tuples(SHAPES, st.integers(0, 5)), INTEGER, ""),
)
RANGES: Calls = st.one_of(
    made(st.tuples(SMALL, SMALL, st.sampled_from([1, 2, -1])), SIGNED + REAL, ""),
    made(st.tuples(SMALL, SMALL, st.sampled_from([0.5, -0.25])), REAL),
)
LISTS: Calls = st.one_of(
    made(st.tuples(st.sampled_from([[[1.0, 2.5]], 0.5, [[], []]])), REAL),
    made(st.tuples(st.sampled_from([[1, 2], 3])), INTEGER, ""),
    made(st.tuples(st.sampled_from([[1j, 2.0]])), COMPLEX, "complex64"),
)


def like(*rest: Any) -> Calls:
    return call(arrays(ALL), rest=st.tuples(*rest), dtype=dtypes(ALL))


CREATION: dict[str, Calls] = {
    "zeros": made(st.tuples(SHAPES)),
    "ones": made(st.tuples(SHAPES)),
    "empty": made(st.tuples(SHAPES)),
    "full": FILLS,
    "arange": RANGES,
    "linspace": made(st.tuples(SMALL, SMALL, st.integers(2, 5)), REAL),
    "eye": made(st.tuples(st.integers(0, 3), st.integers(0, 3)), NUMERIC),
    "asarray": LISTS,
    "zeros_like": like(),
    "ones_like": like(),
    "empty_like": like(),
    "full_like": call(arrays(FLOATING), rest=st.tuples(st.sampled_from([1, 2.5]))),
    "from_dlpack": call(arrays(ALL)),
    "tril": call(arrays(ALL, MATRICES), k=SMALL),
    "triu": call(arrays(ALL, MATRICES), k=SMALL),
    "meshgrid": calls(
        arrays(NUMERIC, (3,)).map(lambda x: (x, x[:2])),
        keywords=st.fixed_dictionaries({"indexing": st.sampled_from(["xy", "ij"])}),
    ),
}

# ----- elementwise --------------------------------------------------------------------------------

UNARY = {
    "numeric": "abs negative positive sign square round isfinite isinf isnan",
    "real": "ceil floor trunc",
    "floating": "exp expm1 log log1p log2 log10 reciprocal sqrt sin cos tan sinh cosh tanh "
    "asin acos atan asinh acosh atanh",
    "real floating": "signbit",
    "integer": "bitwise_invert",
    "bool": "logical_not",
    "complex": "real imag conj",
}
BINARY = {
    "all": "equal not_equal",
    "numeric": "add subtract multiply",
    "real": "less less_equal greater greater_equal maximum minimum floor_divide remainder",
    "floating": "divide",
    "real floating": "atan2 copysign hypot logaddexp nextafter",
    "integer": "bitwise_and bitwise_or bitwise_xor",
    "bool": "logical_and logical_or logical_xor",
}
KINDS = {
    "all": ALL, "numeric": NUMERIC, "real": ORDERED, "floating": FLOATING, "real floating": REAL,
    "integer": INTEGER, "bool": ["bool"], "complex": COMPLEX,
}  # fmt: skip


@st.composite
def shifts(draw: Any) -> Call:
    x, y = draw(alike(INTEGER, 2))
    return Call((x, np.abs(y) % np.asarray(8, y.dtype)))


@st.composite
def powers(draw: Any) -> Call:
    """Integers to small powers that are not negative: others are an error in NumPy."""
    x, y = draw(alike(INTEGER + REAL, 2))
    return Call((x, y if y.dtype.kind == "f" else np.abs(y) % np.asarray(4, y.dtype)))


@st.composite
def clips(draw: Any) -> Call:
    x = draw(arrays(ORDERED, special=True))
    return Call((x,), draw(st.sampled_from([(1, 3), (None, 2), (2, None), (0, 0)])))


ELEMENTWISE: dict[str, Calls] = {
    **{name: unary(KINDS[kind]) for kind, names in UNARY.items() for name in names.split()},
    **{name: binary(KINDS[kind]) for kind, names in BINARY.items() for name in names.split()},
    "bitwise_left_shift": shifts(),
    "bitwise_right_shift": shifts(),
    "pow": powers(),
    "clip": clips(),
    "where": alike(NUMERIC, 3, special=True).map(lambda xs: Call((xs[0] == xs[0], *xs[1:]))),
}

# ----- reductions, order and sets -----------------------------------------------------------------

ORDER = {"descending": FLAGS, "stable": st.just(True)}


@st.composite
def moments(draw: Any) -> Call:
    x = draw(arrays(REAL, hnp.array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=4)))
    return Call((x,), (), {"axis": draw(st.sampled_from([None, 0, -1])),
                           "correction": draw(st.sampled_from([0.0, 1.0, 0.5]))})  # fmt: skip


@st.composite
def searches(draw: Any) -> Call:
    kind = draw(st.sampled_from(ORDERED))
    sorted_ = np.sort(draw(arrays([kind], st.tuples(st.integers(0, 5)))))
    side = draw(st.sampled_from(["left", "right"]))
    return Call((sorted_, draw(arrays([kind]))), (), {"side": side})


REDUCTIONS: dict[str, Calls] = {
    **{name: along(ALL, many=True, whole=False, **KEEP) for name in ("all", "any")},
    "count_nonzero": along(NUMERIC, many=True, **KEEP),
    "sum": summed(many=True, whole=False, **KEEP),
    "prod": summed(many=True, whole=False, **KEEP),
    "mean": along(FLOATING, many=True, **KEEP),
    "var": moments(),
    "std": moments(),
    **{name: along(ORDERED, True, True, **KEEP) for name in ("max", "min")},
    **{name: along(ORDERED, True, **KEEP) for name in ("argmax", "argmin")},
    "sort": along(ORDERED, none=False, whole=False, **ORDER),
    "argsort": along(ORDERED, none=False, whole=False, **ORDER),
    "searchsorted": searches(),
    # array_api_strict 2.6 ignores `invert`
    "isin": call(arrays(["int8"]), arrays(["int8"])),
    "nonzero": call(arrays(NUMERIC, FULL_SHAPES)),
    **{f"unique_{part}": call(arrays(ORDERED)) for part in ("all", "counts", "inverse", "values")},
    "cumulative_sum": summed(none=False, include_initial=FLAGS),
    "cumulative_prod": summed(none=False, include_initial=FLAGS),
    "diff": along(NUMERIC, none=False, n=st.integers(0, 2)),
}

# ----- movement -----------------------------------------------------------------------------------


def about(strategy: Callable[[np.ndarray], Any], whole: bool = True) -> Calls:
    """A tensor with an axis, and what `strategy` draws for it by position."""
    shapes = FULL_SHAPES if whole else SHAPES.filter(len)
    return arrays(ALL, shapes).flatmap(lambda x: calls(st.just((x,)), st.tuples(*strategy(x))))


def axis(x: np.ndarray) -> Any:
    return st.integers(-x.ndim, x.ndim - 1)


def lists() -> Calls:
    """Some tensors of one shape and of mixed types."""
    mixed = alike(NUMERIC, 3, same=True).filter(lambda xs: xs[0].ndim > 0)
    keyword = st.fixed_dictionaries({"axis": st.sampled_from([0, -1])})
    return calls(mixed, keywords=keyword, listed=st.just(True))


@st.composite
def gathers(draw: Any, aligned: bool = False) -> Call:
    x = draw(arrays(ALL, FULL_SHAPES))
    n = x.shape[-1]
    shape = (*x.shape[:-1], draw(st.integers(1, 4))) if aligned else (draw(st.integers(0, 4)),)
    indices = draw(hnp.arrays("int64", shape, elements=st.integers(-n if aligned else 0, n - 1)))
    return Call((x, indices % n), (), {"axis": -1})


def broadcasts(x: np.ndarray) -> Any:
    return [st.sampled_from([x.shape, (2, *x.shape), (0, *x.shape)])]


def shapes_of(x: np.ndarray) -> Any:
    return [st.sampled_from([(x.size,), (-1,), (1, x.size), x.shape[::-1]])]


MOVEMENT: dict[str, Calls] = {
    "reshape": about(shapes_of),
    "broadcast_to": about(broadcasts),
    "broadcast_arrays": alike(ALL, 2).map(Call),
    "permute_dims": about(lambda x: [st.permutations(range(x.ndim)).map(tuple)], whole=False),
    "expand_dims": about(lambda x: [st.integers(-x.ndim - 1, x.ndim)]),
    "squeeze": arrays(ALL, FULL_SHAPES).map(lambda x: Call((x[None],), (0,))),
    "moveaxis": about(lambda x: [axis(x), axis(x)], whole=False),
    "matrix_transpose": call(arrays(ALL, MATRICES)),
    "flip": along(ALL, many=True, whole=False),
    "roll": about(lambda x: [st.integers(-5, 5)], whole=False),
    "repeat": about(lambda x: [st.integers(0, 3)]),
    "tile": about(lambda x: [st.lists(st.integers(0, 2), max_size=3).map(tuple)]),
    "concat": lists(),
    "stack": lists(),
    "unstack": along(ALL, none=False),
    "take": gathers(),
    "take_along_axis": gathers(aligned=True),
}

# ----- types --------------------------------------------------------------------------------------

SIZES = hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3)
TYPES: dict[str, Calls] = {
    "astype": call(arrays([*ALL[:9], *REAL]), rest=st.tuples(dtypes(FLOATING))),
    # between kinds the standard leaves it open
    "can_cast": call(rest=st.tuples(dtypes(SIGNED), dtypes(SIGNED))),
    "result_type": call(arrays(SIGNED), rest=st.tuples(dtypes(SIGNED), st.integers(0, 5))),
    "isdtype": call(rest=st.tuples(dtypes(ALL), st.sampled_from(sorted(KINDS.keys() - {
        "all", "floating", "integer", "complex", "real"}) + ["integral", "complex floating"]))),
    "finfo": call(rest=st.tuples(dtypes(FLOATING))),
    "iinfo": call(rest=st.tuples(dtypes(INTEGER))),
    "broadcast_shapes": SIZES.map(lambda drawn: Call(rest=tuple(drawn.input_shapes))),
    "__array_namespace_info__": st.just(Call()),
}  # fmt: skip

# ----- linear algebra and Fourier transforms ------------------------------------------------------


@st.composite
def matrices(draw: Any, kinds: list[str] = FLOATING, square: bool = True) -> np.ndarray:
    """A stack of matrices whose diagonal outweighs the rest, so that they are well-conditioned."""
    m = draw(st.integers(1, 3))
    n = m if square else draw(st.integers(1, 3))
    shape = (*draw(st.sampled_from([(), (2,)])), m, n)
    x = draw(arrays(kinds, shape, limit=1))
    scale = np.diag(np.arange(4.0, 7.0))[:m, :n]
    return (x + scale).astype(x.dtype)


def hermitian(x: np.ndarray) -> np.ndarray:
    return ((x + np.conj(np.swapaxes(x, -1, -2))) / 2).astype(x.dtype)


@st.composite
def products(draw: Any) -> Call:
    n, m, k = (draw(st.integers(1, 3)) for _ in range(3))
    kind = [draw(st.sampled_from(NUMERIC))]
    return Call((draw(arrays(kind, (n, m))), draw(arrays(kind, (m, k)))))


def vectors(shapes: Any) -> Calls:
    """Two tensors of one type and shape."""
    pair = st.tuples(st.sampled_from(NUMERIC), shapes).flatmap(
        lambda drawn: st.tuples(*[arrays([drawn[0]], drawn[1])] * 2)
    )
    return calls(pair)


SQUARE, ANY, REALS = matrices(), matrices(square=False), matrices(REAL)
SYMMETRIC = SQUARE.map(hermitian)
VECTORS = st.integers(1, 4).map(lambda n: (n,))
ORDERS = st.sampled_from(["fro", "nuc", 1, 2, np.inf, -np.inf])
LINALG: dict[str, Calls] = {
    "matmul": products(),
    "tensordot": products().map(lambda c: c._replace(keywords={"axes": 1})),
    "vecdot": vectors(FULL_SHAPES),
    "linalg.cholesky": call(SYMMETRIC, upper=FLAGS),
    "linalg.cross": vectors(st.sampled_from([(3,), (2, 3)])),
    "linalg.det": call(SQUARE),
    "linalg.diagonal": call(ANY, offset=st.integers(-1, 1)),
    "linalg.eig": call(SQUARE),
    "linalg.eigvals": call(SQUARE),
    "linalg.eigh": call(SYMMETRIC),
    "linalg.eigvalsh": call(SYMMETRIC),
    "linalg.inv": call(SQUARE),
    "linalg.matmul": products(),
    "linalg.matrix_norm": call(ANY, ord=ORDERS, keepdims=FLAGS),
    "linalg.matrix_power": SQUARE.flatmap(
        lambda x: calls(st.just((x,)), st.tuples(st.integers(-2, 3)))
    ),
    "linalg.matrix_rank": call(ANY),
    "linalg.matrix_transpose": call(ANY),
    "linalg.outer": vectors(VECTORS),
    "linalg.pinv": call(ANY),
    "linalg.qr": call(ANY, mode=st.just("reduced")),
    "linalg.slogdet": call(SQUARE),
    "linalg.solve": SQUARE.map(lambda x: Call((x, x[..., ::-1]))),
    "linalg.svd": ANY.map(lambda x: Call((x,), (), {"full_matrices": False})),
    "linalg.svdvals": call(ANY),
    "linalg.tensordot": products().map(lambda c: c._replace(keywords={"axes": 1})),
    "linalg.trace": call(ANY, offset=st.integers(-1, 1)),
    "linalg.vecdot": vectors(FULL_SHAPES),
    "linalg.vector_norm": along(FLOATING, many=True, ord=st.sampled_from([0, 1, 2, 3, np.inf])),
}

NORM = {"norm": st.sampled_from(["backward", "ortho", "forward"])}
LINES = FULL_SHAPES.filter(lambda s: s[-1] > 1)


def transform(kinds: list[str], **more: Any) -> Calls:
    return call(arrays(kinds, LINES), **NORM, **more)


LENGTH = {"n": st.integers(2, 5)}
FREQUENCIES = made(st.tuples(st.integers(1, 6)), REAL)
FOURIER: dict[str, Calls] = {
    **{f"fft.{name}": transform(COMPLEX, **LENGTH) for name in ("fft", "ifft", "irfft", "hfft")},
    **{f"fft.{name}": transform(REAL, **LENGTH) for name in ("rfft", "ihfft")},
    **{f"fft.{name}": transform(COMPLEX) for name in ("fftn", "ifftn", "irfftn")},
    "fft.rfftn": transform(REAL),
    "fft.fftfreq": FREQUENCIES,
    "fft.rfftfreq": FREQUENCIES,
    "fft.fftshift": call(arrays(FLOATING, FULL_SHAPES)),
    "fft.ifftshift": call(arrays(FLOATING, FULL_SHAPES)),
}

CALLS = {
    **CREATION, **ELEMENTWISE, **REDUCTIONS, **MOVEMENT, **TYPES, **LINALG, **FOURIER,
}  # fmt: skip


# ----- comparison ---------------------------------------------------------------------------------

# Their results' shapes depend on data: a staged call runs them eagerly, and warns.
EAGER = {"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"}
# Their results are objects that are no tensors, which does the same.
EAGER |= {"finfo", "iinfo", "__array_namespace_info__"}

OP_OF = {"pow": "power", "permute_dims": "permute"}

# The class of functions that are made of several ops; "square" is the sum of a few products.
COMPOSITE = {
    "mean": "sum", "vecdot": "sum", "tensordot": "sum", "trace": "sum", "cross": "square",
    "var": "square", "std": "operand", "linspace": "ulp", "fftfreq": "ulp", "rfftfreq": "ulp",
    "clip": "bits", "diff": "bits", "outer": "bits",
}  # fmt: skip

# Factors are known up to signs and phases: what is compared of them.
KNOWN: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "linalg.eigh": lambda w, v: (w, v * w[..., None, :] @ np.conj(np.swapaxes(v, -1, -2))),
    "linalg.svd": lambda u, s, vh: (s, u * s[..., None, :] @ vh),
    "linalg.qr": lambda q, r: (np.abs(np.diagonal(r, axis1=-2, axis2=-1)), q @ r),
}
UNSET = {"empty", "empty_like"}
INFO = ["bits", "eps", "max", "min", "smallest_normal"]


def leaves(result: Any) -> Iterator[Any]:
    """Arrays as NumPy's, types as their names, limits as their numbers."""
    if isinstance(result, (sk.Tensor, type(strict.asarray(0)))):
        yield np.asarray(result)
    elif isinstance(result, (tuple, list)):
        yield len(result)
        for part in result:
            yield from leaves(part)
    elif hasattr(result, "bits"):
        yield from (getattr(result, name) for name in INFO if hasattr(result, name))
        yield from leaves(result.dtype)
    elif hasattr(result, "dtypes"):
        yield from (result.capabilities(), sorted(result.dtypes()))
    elif isinstance(result, (bool, int)):
        yield result
    else:
        yield str(result).removeprefix("array_api_strict.")


def class_of(name: str) -> str:
    short = name.rpartition(".")[2]
    if short in COMPOSITE:
        return COMPOSITE[short]
    if short in CLASS:
        return CLASS[short]
    return "library" if "." in name else CLASS[OP_OF.get(short, "reshape")]


def bound(name: str, call: Call, want: np.ndarray) -> Any:
    """How far apart two results of the same class may be."""
    info, kind = np.finfo(want.dtype), class_of(name)
    eps, operands = float(info.eps), call.operands
    largest = max([0.0, *(float(np.abs(x).max()) for x in operands if x.size)])
    if kind in ("bits", "zero") and want.dtype.kind == "f":
        return 0.0
    if kind == "sum":
        moduli = tuple(strict.asarray(np.abs(x)) for x in operands)
        return 16 * eps * np.asarray(call.run(strict, name, moduli))
    if kind == "product":
        return (16 + operands[0].size) * eps * np.abs(want)
    if kind == "square":
        return 64 * eps * largest**2
    if kind == "operand":
        return 32 * eps * np.maximum(np.abs(want), largest)
    if kind == "library":
        return 500 * eps * max(largest, float(np.abs(want).max())) if want.size else 0.0
    unit = 32 if want.dtype.kind == "c" else 8
    return unit * eps * np.abs(want) + 8 * float(info.smallest_subnormal)


def agree(name: str, call: Call, got: Any, want: Any) -> None:
    if not isinstance(want, np.ndarray):
        assert got == want
        return
    expected = np.dtype(call.default or want.dtype)
    assert (got.dtype, got.shape) == (expected, want.shape)
    if name in UNSET or want.size == 0:
        return
    want = want.astype(expected)
    near = same_bits(got, want)
    if want.dtype.kind in "fc":
        if class_of(name) != "bits" or want.dtype.kind == "c":
            near |= got == want
        near |= np.abs(got - want) <= bound(name, call, want)
        if want.dtype.kind == "c":
            near |= ~np.isfinite(got) & ~np.isfinite(want)
    assert near.all(), (got, want)


def known(name: str, result: Any) -> list[Any]:
    if name in KNOWN:
        factors = tuple(np.asarray(part) for part in result)
        return list(KNOWN[name](*factors))
    return list(leaves(result))


COMPARED: Counter[str] = Counter()


def compare(name: str, call: Call) -> None:
    wanted = known(name, call.run(strict, name, tuple(map(strict.asarray, call.operands))))
    operands = tuple(map(sk.asarray, call.operands))
    eager = lambda *xs: call.run(sk, name, xs)
    staged = sk.function(eager)
    with warnings.catch_warnings():
        if name in EAGER:
            warnings.simplefilter("ignore", sk.StagekitWarning)
        for run in (eager, staged, staged):  # as it is traced, and from the trace
            got = known(name, run(*operands))
            assert len(got) == len(wanted)
            for a, b in zip(got, wanted, strict=True):
                agree(name, call, a, b)
    COMPARED[name] += 1


@pytest.mark.parametrize("name", list(CALLS))
def test_a_function_agrees(name: str, full: bool) -> None:
    @settings(max_examples=200 if full else 4, phases=[Phase.generate])  # small as they are
    @given(CALLS[name])
    def check(call: Call) -> None:
        with np.errstate(all="ignore"):
            compare(name, call)

    check()


# ----- nothing is left out ------------------------------------------------------------------------


def of_the_standard() -> set[str]:
    """Functions of the stubs and those that array_api_strict offers."""
    own = {n for n in strict.__all__ if "strict" not in n.lower()} - {"Device", "__version__"}
    names = {stub.partition("(")[0] for stub in STUBS}
    names |= {n for n in own if callable(getattr(strict, n)) and not n.endswith(tuple("0123468"))}
    for extension in ("linalg", "fft"):
        names |= {f"{extension}.{n}" for n in getattr(strict, extension).__all__}
    return names | {"linalg.eig", "linalg.eigvals"}


def test_every_function_of_the_standard_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert of_the_standard() == CALLS.keys()
    rows = [f"{name:28}{COMPARED[name]:6}" for name in CALLS]
    third = -(-len(rows) // 3)
    with capsys.disabled():
        print(f"\ncalls compared of {len(rows)} functions: {COMPARED.total()}")
        for row in range(third):
            print("".join(rows[row::third]))
