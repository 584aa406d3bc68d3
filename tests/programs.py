"""Random programs over the registry: typed steps on named sizes, so that one program runs at many.

Step functions compute their attributes from `x.shape`, in plain Python: eagerly from ints, in a
polymorphic trace from `Dim`s. A program is made by running it, so that most of it is valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import stagekit as sk
import stagekit.ops as ops
from stagekit.errors import StagekitError
from stagekit.op import OPS
from tests.samples import ARITY

DTYPES = ["float32", "float64", "float16", "int32", "int8", "uint8", "int64", "bool"]
SIZES = ("a", "b")
LAYOUTS = ["C", "F", "strided", "broadcast"]


@dataclass(frozen=True)
class Input:
    """An argument: named or plain sizes, a data type, a memory layout."""

    shape: tuple[int | str, ...]
    dtype: str
    layout: str

    def draw(self, sizes: dict[str, int], rng: np.random.Generator, smooth: bool) -> np.ndarray:
        shape = tuple(sizes[n] if isinstance(n, str) else n for n in self.shape)
        return _laid_out(_values(shape, self.dtype, rng, smooth), self.layout)


def _values(
    shape: tuple[int, ...], name: str, rng: np.random.Generator, smooth: bool
) -> np.ndarray:
    if name == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if name.startswith("float"):
        x = rng.uniform(-2, 2, shape)
        if not smooth and x.size and rng.random() < 0.3:
            odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e-30]
            x.flat[rng.integers(x.size)] = odd[rng.integers(len(odd))]
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(name)
    low = 0 if name.startswith("u") else -5
    return np.asarray(rng.integers(low, 9, shape)).astype(name)


def _laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    if layout == "F" and x.ndim:
        return np.asfortranarray(x)
    if layout == "strided" and x.ndim:
        return np.repeat(x, 2, axis=0)[::2]
    if layout == "broadcast" and x.ndim:
        return np.broadcast_to(x[:1] if x.shape[0] else x, x.shape)
    return x


@dataclass(frozen=True)
class Step:
    """One application: the op it is for, the values it takes, the function on tensors."""

    op: str
    operands: tuple[int, ...]
    run: Callable[..., Any]
    note: str = ""

    def __str__(self) -> str:
        return f"{self.op}({', '.join(f'v{k}' for k in self.operands)}) {self.note}".rstrip()


class Program:
    """A list of inputs and steps; called on tensors it gives the values that no step uses."""

    def __init__(self, inputs: list[Input]) -> None:
        self.inputs = inputs
        self.steps: list[Step] = []

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        values = list(args)
        for step in self.steps:
            values.append(step.run(*(values[k] for k in step.operands)))
        used = {k for step in self.steps for k in step.operands}
        return tuple(v for k, v in enumerate(values) if k not in used and k >= len(args))

    def arguments(
        self, sizes: dict[str, int], rng: np.random.Generator, smooth: bool = False
    ) -> list[Any]:
        return [sk.Tensor(x.draw(sizes, rng, smooth)) for x in self.inputs]

    def __str__(self) -> str:
        lines = [f"v{k} = {x.dtype}{list(x.shape)} {x.layout}" for k, x in enumerate(self.inputs)]
        lines += [f"v{k} = {step}" for k, step in enumerate(self.steps, len(self.inputs))]
        return "\n".join(lines)


# ----- steps --------------------------------------------------------------------------------------

Pick = Callable[[Callable[[Any], bool]], int | None]
Built = tuple[tuple[int | None, ...], Callable[..., Any], str]
_BUILDERS: dict[str, Callable[[np.random.Generator, Pick, bool], Built]] = {}

# Functions of a float that bring it where an op is defined and smooth.
_POSITIVE = lambda x: sk.sigmoid(x) + 0.5
_INSIDE = lambda x: sk.tanh(x) * 0.8
_BEYOND = lambda x: sk.sigmoid(x) + 1.5
_DOMAIN: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "divide", "power"],
        _POSITIVE,
    ),
    "lgamma": _POSITIVE,
    **dict.fromkeys(["asin", "acos", "atanh", "tan"], _INSIDE),
    "acosh": _BEYOND,
}


def _float(x: Any) -> bool:
    return bool(x.dtype.kind == "float")


def _any(x: Any) -> bool:
    return True


def _ranked(n: int) -> Callable[[Any], bool]:
    return lambda x: x.ndim >= n


def builder(*names: str) -> Callable[[Any], Any]:
    def register(build: Any) -> Any:
        for name in names:
            _BUILDERS[name] = lambda rng, pick, smooth, name=name: build(name, rng, pick, smooth)
        return build

    return register


@builder(*ARITY)
def _elementwise(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    op, arity = OPS[name], ARITY[name]
    wanted = _float if smooth and op.vjp is not None else _any
    operands = tuple(pick(wanted) for _ in range(arity))
    domain = _DOMAIN.get(name) if smooth or rng.random() < 0.5 else None
    scalar = [None, 2, 0.5, -1.0][rng.integers(4)] if arity == 2 and not smooth else None
    condition = name == "where"

    def run(*xs: Any) -> Any:
        values = list(xs)
        if domain is not None and all(_float(x) for x in values):
            values = [domain(x) for x in values]
        elif smooth and op.vjp is not None:
            grows = name in ("exp", "exp2", "expm1", "sinh", "cosh")
            values = [sk.tanh(x) if grows else x for x in values]
        if condition:
            values[0] = values[0] > 0.3 if values[0].dtype.kind != "bool" else values[0]
        if scalar is not None:
            values[1] = scalar
        return op(*values)

    return operands, run, "" if scalar is None else f"with {scalar}"


@builder("real", "imag", "conj")
def _part(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    """Of a complex number made of a float, and a real number again."""
    op = OPS[name]

    def run(x: Any) -> Any:
        z = op(sk.sin(x) * (1 + 2j) + sk.cos(x) * 1j)
        return sk.real(z) - sk.imag(z) if name == "conj" else z

    return (pick(_float),), run, ""


@builder("polygamma")
def _polygamma(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    n = int(rng.integers(3))
    return (pick(_float if smooth else _any),), lambda x: sk.polygamma(n, sk.abs(x) + 1), f"{n}"


@builder("reshape")
def _reshape(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    flat = rng.random() < 0.5
    if flat:
        return (pick(_ranked(1)),), lambda x: sk.reshape(x, (x.size,)), "flat"
    return (pick(_any),), lambda x: sk.reshape(x, (1, *x.shape, 1)), "framed"


@builder("permute")
def _permute(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    seed = int(rng.integers(100))

    def run(x: Any) -> Any:
        return sk.permute_dims(x, tuple(np.random.default_rng(seed).permutation(x.ndim).tolist()))

    return (pick(_ranked(2)),), run, f"seed {seed}"


@builder("broadcast_to")
def _broadcast_to(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    return (pick(_any),), lambda x: sk.broadcast_to(x, (2, *x.shape)), ""


@builder("flip")
def _flip(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    return (pick(_ranked(1)),), lambda x: sk.flip(x, axis=-1), ""


@builder("slice")
def _slice(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    bounds = [(1, None), (None, None, 2), (-2, None), (None, None, -1), (0, -1)]
    keys = [slice(*each) for each in bounds]
    key = keys[rng.integers(len(keys))]
    return (pick(_ranked(1)),), lambda x: x[key], str(key)


@builder("pad")
def _pad(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    low, high = (int(n) for n in rng.integers(0, 3, 2))
    return (pick(_ranked(1)),), lambda x: sk.pad(x, (low, high), constant_values=1), f"{low} {high}"


@builder("concat")
def _concat(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    return (pick(_ranked(1)),), lambda x: sk.concat([x, x[:1], x], axis=0), ""


@builder("sum", "prod", "max", "min", "any", "all")
def _reduce(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    axis = [None, 0, -1][rng.integers(3)]
    keepdims = bool(rng.integers(2))
    function = getattr(sk, name)
    wanted = _float if smooth else _ranked(1)

    def run(x: Any) -> Any:
        return function(x, axis=axis if x.ndim else None, keepdims=keepdims)

    return (pick(wanted),), run, f"axis={axis}, keepdims={keepdims}"


@builder("argmax", "argmin")
def _arg(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    axis = [None, 0, -1][rng.integers(3)]
    return (pick(_ranked(1)),), lambda x: getattr(sk, name)(x, axis=axis), f"axis={axis}"


@builder("sort", "argsort")
def _sort(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    axis, descending = int(rng.integers(-1, 1)), bool(rng.integers(2))
    wanted = (lambda x: _float(x) and x.ndim > 0) if smooth else _ranked(1)
    function = getattr(sk, name)
    note = f"axis={axis}, descending={descending}"
    return (pick(wanted),), lambda x: function(x, axis=axis, descending=descending), note


@builder("argtopk")
def _argtopk(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    largest = bool(rng.integers(2))
    wanted = _float if smooth else _any
    few = lambda x: sk.topk(x, x.shape[0] // 2, axis=0, largest=largest).values
    return (pick(lambda x: wanted(x) and x.ndim > 0),), few, f"half, largest={largest}"


@builder("searchsorted")
def _searchsorted(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    side = ("left", "right")[rng.integers(2)]

    def run(x: Any) -> Any:
        return sk.searchsorted(sk.sort(sk.reshape(x, (x.size,))), x, side=side)

    return (pick(_any),), run, side


@builder("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min", "recurrence")
def _cumulative(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    axis = int(rng.integers(-1, 1))
    wanted = (lambda x: _float(x) and x.ndim > 0) if smooth else _ranked(1)
    if name == "recurrence":
        op = OPS[name]
        return (pick(wanted),), lambda x: op(sk.tanh(x), x, axis=axis % x.ndim), f"axis={axis}"
    function = getattr(sk, name)
    return (pick(wanted),), lambda x: function(x, axis=axis), f"axis={axis}"


@builder("matmul")
def _matmul(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    def rows(x: Any) -> Any:
        x = x if x.dtype.kind != "bool" else sk.astype(x, sk.float32)
        m = sk.reshape(x, (1, *x.shape)) if x.ndim == 1 else x
        return m @ m.mT

    return (pick(_ranked(1)),), rows, ""


@builder("convolution")
def _convolution(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    stride, dilation = (int(n) for n in rng.integers(1, 3, 2))

    def run(x: Any) -> Any:
        x = x if x.dtype.kind != "bool" else sk.astype(x, sk.float32)
        rows = sk.reshape(x, (1, 1, x.size))
        steps = {"stride": (stride,), "spacing": (1,), "dilation": (dilation,)}
        return ops.convolution(rows, rows, offset=(-1,), extent=(x.size,), groups=1, **steps)

    return (pick(_ranked(1)),), run, f"{stride} {dilation}"


def _halves(x: Any) -> Any:
    """As many windows of the last axis as elements in each, about."""
    n = x.shape[-1]
    extent, window = ((n + 1) // 2,), (n + 1 - (n + 1) // 2,)
    return ops.windows(x, extent=extent, window=window, stride=(1,), spacing=(1,))


@builder("windows", "fold")
def _windows(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    if name == "windows":
        return (pick(_ranked(1)),), _halves, ""

    def run(x: Any) -> Any:
        x = x if x.dtype.kind != "bool" else sk.astype(x, sk.float32)
        return ops.fold(_halves(x), extent=(x.shape[-1],), stride=(1,), spacing=(1,))

    return (pick(_ranked(1)),), run, ""


@builder("gather")
def _gather(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    if rng.random() < 0.5:
        return (pick(_ranked(1)),), lambda x: sk.take(x, sk.asarray([0, -1, 0]), axis=-1), "ends"
    index = pick(lambda x: x.dtype.kind == "int")
    if index is None:
        return (pick(_ranked(1)),), lambda x: x[sk.arange(x.shape[0]) // 2], "halves"

    def run(x: Any, i: Any) -> Any:
        return sk.take(x, sk.astype(i, sk.int64) % x.shape[0], axis=0)

    return (pick(_ranked(1)), index), run, "drawn"


@builder("scatter")
def _scatter(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    mode = ["set", "add", "multiply", "min", "max"][rng.integers(5)]
    if rng.random() < 0.5:
        return (pick(_ranked(1)),), lambda x: getattr(x.at[0], mode)(x[-1]), mode

    def run(x: Any) -> Any:
        x = x if x.dtype.kind != "bool" else sk.astype(x, sk.int32)
        return getattr(x.at[sk.arange(x.shape[0]) // 2], mode)(x)

    return (pick(_ranked(1)),), run, f"{mode} repeated"


@builder("out")
def _out(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    index = int(rng.integers(2))
    op = OPS[name]
    return (pick(_any), pick(_any)), lambda *xs: op(*xs, index=index), f"index={index}"


def _matrix(x: Any) -> Any:
    """A symmetric positive definite matrix that turns with the sum of x."""
    total = sk.tanh(sk.sum(x))
    total = sk.where(sk.isnan(total), 0.0, total)
    turned = total * sk.asarray([[0.0, 1.0], [1.0, 0.5]], dtype=x.dtype)
    return turned + sk.asarray([[2.0, 0.0], [0.0, 5.0]], dtype=x.dtype)


_COFACTOR = OPS["cofactor"]
_OF_A_MATRIX: dict[str, Callable[[Any], Any]] = {
    "eigh": sk.linalg.eigvalsh,
    "eig": lambda m: sk.abs(sk.linalg.eigvals(m)),
    "svd": sk.linalg.svdvals,
    "qr": lambda m: sk.linalg.qr(m).R,
    "slogdet": lambda m: sk.linalg.slogdet(m).logabsdet,
    "solve": lambda m: sk.linalg.solve(m, m[0]),
    "solve_triangular": lambda m: sk.linalg.solve_triangular(m, m[0], lower=True),
    "cofactor": lambda m: _COFACTOR(m, m.mT),
    **{name: getattr(sk.linalg, name) for name in ("inv", "det", "cholesky", "pinv", "expm")},
}


@builder(*_OF_A_MATRIX)
def _linalg(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    function = _OF_A_MATRIX[name]
    return (pick(_float),), lambda x: function(_matrix(x)), ""


@builder("undefined")
def _undefined(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    op = OPS[name]
    return (pick(_float),), lambda x: x + op(sk.zeros_like(x)), "of zeros"


@builder("dft", "rdft", "irdft")
def _fourier(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    inverse, op = bool(rng.random() < 0.5), OPS[name]

    def run(x: Any) -> Any:
        x = x[:1] + sk.zeros((3, *(1 for _ in x.shape[1:])), dtype=x.dtype)
        if name == "rdft":
            return sk.imag(op(x, axis=0))
        if name == "irdft":
            return op(x * (1 + 2j), axis=0, size=5)
        z = op(x * (1 + 2j), axis=0, inverse=inverse)
        return sk.real(z) - sk.imag(z)

    return (pick(lambda x: _float(x) and x.ndim > 0),), run, f"inverse={inverse}"


@builder("random_bits", "random_advance", "random_normal", "random_category")
def _random(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    kind = sk.uint32 if rng.random() < 0.5 else sk.uint64
    op, random_bits = OPS[name], OPS["random_bits"]

    def run(x: Any) -> Any:
        n = sk.sum(sk.astype(x == x, sk.uint64))
        state = sk.stack([n, n + 1, n + 2])
        if name == "random_advance":
            return sk.astype(op(state, shape=x.shape, dtype=kind), sk.int64)
        wide = name == "random_category" or kind is sk.uint64
        bits = random_bits(state, shape=x.shape, dtype=sk.uint64 if wide else kind)
        if name == "random_bits":
            return sk.astype(bits >> 3, sk.float64)
        if name == "random_category":
            return op(sk.astype(bits >> 11, sk.float64) * 2.0**-50, bits[..., :1])
        return sk.astype(op(bits), sk.float64)

    return (pick(_ranked(1)),), run, str(kind)


@builder("place")
def _place(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    def run(x: Any) -> Any:
        index = sk.argsort(x, axis=0)
        return ops.place(index, size=x.shape[0], what="an index")

    return (pick(_ranked(1)),), run, ""


@builder("astype")
def _astype(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    if smooth:
        back = lambda x: sk.astype(sk.astype(x, sk.float32), sk.float64)
        return (pick(_float),), back, "there and back"
    kind = DTYPES[rng.integers(len(DTYPES))]

    def run(x: Any) -> Any:
        if x.dtype.kind == "float" and not kind.startswith("float") and kind != "bool":
            x = sk.round(sk.clip(sk.where(sk.isfinite(x), x, 0.0), 0, 99))
        return sk.astype(x, kind)

    return (pick(_any),), run, kind


@builder("full", "iota")
def _creation(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    if name == "full":
        return (pick(_any),), lambda x: sk.full(x.shape, 1.5), ""
    return (pick(_ranked(1)),), lambda x: sk.arange(x.shape[0]) + 1, ""


@builder("number")
def _number(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    return (pick(_ranked(1)),), lambda x: sk.astype(x, sk.float32) / x.shape[0], ""


@builder("barrier", "stop_gradient", "alias")
def _identity(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    if name == "barrier":
        return (pick(_any),), lambda x: ops.barrier(x, serial=1), ""
    op = OPS[name]
    return (pick(_any),), lambda x: op(x), ""


@sk.custom_vjp
def doubled(x: Any) -> Any:
    return x * 2.0


doubled.defvjp(lambda x: (x * 2.0, None), lambda residuals, ct: (ct * 2.0,))


@builder("custom")
def _custom(name: str, rng: np.random.Generator, pick: Pick, smooth: bool) -> Built:
    return (pick(_float),), doubled, ""


# ----- generation ---------------------------------------------------------------------------------


def generate(
    rng: np.random.Generator, length: int, names: Sequence[str], sizes: dict[str, int], smooth: bool
) -> Program:
    """A program of up to `length` steps; each tries the ops of `names` in turn, as they come."""
    program = Program(_inputs(rng, smooth))
    values = program.arguments(sizes, rng, smooth)

    def pick(accept: Callable[[Any], bool]) -> int | None:
        fitting = [k for k, v in enumerate(values) if accept(v) and v.size <= 64]
        return int(fitting[rng.integers(len(fitting))]) if fitting else None

    for name in list(names)[:length]:
        for _ in range(6):
            operands, run, note = _BUILDERS[name](rng, pick, smooth)
            if any(k is None for k in operands):
                continue
            step = Step(name, tuple(k for k in operands if k is not None), run, note)
            try:
                value = run(*(values[k] for k in step.operands))
            except (StagekitError, ZeroDivisionError):
                continue
            program.steps.append(step)
            values.append(value)
            break
    return program


def _inputs(rng: np.random.Generator, smooth: bool) -> list[Input]:
    inputs = []
    for k in range(int(rng.integers(1, 4))):
        rank = int(rng.integers(0 if k else 1, 4))
        shape = tuple(("a", "b", 1, 2)[rng.integers(4)] for _ in range(rank))
        kind = "float64" if smooth else DTYPES[0 if k == 0 else rng.integers(len(DTYPES))]
        inputs.append(Input(shape, kind, LAYOUTS[rng.integers(len(LAYOUTS))]))
    return inputs


def unknown() -> list[str]:
    """The ops of the registry for which no step can be made."""
    return sorted(set(OPS) - set(_BUILDERS))
