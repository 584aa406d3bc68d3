"""Convolutions as machine code: against sums in more precision, on memory between guard pages."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.kernels.llvm.vectors import Lanes, Vectors
from stagekit.kernels.machine import engine, threads
from stagekit.kernels.products import convolution_gradient, convolution_product
from stagekit.kernels.products.convolution import Axis, Code, Place, Problem, Weights, bands
from stagekit.kernels.products.convolution_gradient import kernel_gradient
from stagekit.kernels.products.convolution_nodes import Convolution, recognize
from stagekit.kernels.products.convolution_product import product
from stagekit.op import OPS
from stagekit.plan import concrete
from stagekit.settings import config
from stagekit.types import dtype

pytest.importorskip("llvmlite")

Array = np.ndarray[Any, Any]
PAGE = mmap.PAGESIZE
WIDTHS = [width for width in (64, 32, 16) if width <= engine.vector_bytes()]


@pytest.fixture(autouse=True)
def pool() -> Iterator[None]:
    """The worker pool, with as many threads afterwards as before."""
    threads.start()
    before = config.num_threads
    config.num_threads = 2
    yield
    config.num_threads = before


class Guarded:
    """Memory that ends (or starts) where a page begins that nobody may touch, filled with NaN.

    Whoever reads or writes beyond it ends the process: faulthandler then names the test.
    """

    def __init__(self, bytes: int, at_end: bool = True) -> None:
        inner = max(1, -(-bytes // PAGE)) * PAGE
        self._map = mmap.mmap(-1, inner + 2 * PAGE)
        self._view = ctypes.c_char.from_buffer(self._map)
        base = ctypes.addressof(self._view)
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (base, base + PAGE + inner):
            assert libc.mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
        start = PAGE + (inner - bytes if at_end else 0)
        self.address = base + start
        self.bytes = np.frombuffer(self._map, np.uint8, bytes, start)
        self.bytes[:] = 255

    def array(self, like: Array) -> Array:
        """An array of this memory, with the elements of another."""
        out = self.bytes.view(like.dtype).reshape(like.shape)
        out[...] = like
        return out


class Built:
    """A kernel that can be called."""

    def __init__(self, code: Code) -> None:
        text = "\n".join([*sorted(code.declarations), code.text])
        self.code, self._library = code, engine.load(engine.compile_ir(text))
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._library.address(code.name))

    def __call__(self, x: Array, w: Array, out: Array, *more: Array, at_end: bool = True) -> Array:
        """The result, of the shape and type of `out`."""
        memory = [Guarded(a.nbytes, at_end) for a in (x, w, out, *more)]
        for block, array in zip(memory[:2] + memory[3:], (x, w, *more), strict=True):
            block.array(array)
        scratch = Guarded(self.code.scratch, at_end)
        pointers = [block.address for block in memory]
        words = [*pointers[:3], scratch.address, x.shape[0], *pointers[3:]]
        frame = (ctypes.c_int64 * len(words))(*words)
        self._call(ctypes.addressof(frame))
        return memory[2].bytes.view(out.dtype).reshape(out.shape).copy()


# ----- problems and what is right -----------------------------------------------------------------


def axis(
    size: int, taps: int, low: int = 0, high: int = 0, stride: int = 1, spacing: int = 1,
    dilation: int = 1,
) -> Axis:  # fmt: skip
    """An axis with padding, as functions of neural networks say it."""
    spread = (size - 1) * dilation + 1 + low + high
    extent = (spread - (taps - 1) * spacing - 1) // stride + 1
    return Axis(size, extent, taps, -low, stride, spacing, dilation)


def columns(p: Problem, x: Array) -> Iterator[tuple[int, int, Array]]:
    """For each tap the elements of x that it reads: (batch, group, channel, row, column)."""
    n = x.shape[0]
    x = x.reshape(n, p.groups, p.channels, p.rows.size, p.columns.size)
    for k in range(p.rows.taps):
        for l in range(p.columns.taps):
            out = x
            for number, a, place in ((3, p.rows, k), (4, p.columns, l)):
                at = a.offset + a.stride * np.arange(a.extent) + a.spacing * place
                hit = (at % a.dilation == 0) & (at >= 0) & (at < a.size * a.dilation)
                out = np.take(out, np.where(hit, at // a.dilation, 0), axis=number)
                out = np.where(hit.reshape(-1, *[1] * (4 - number)), out, 0)
            yield k, l, out


def forward(p: Problem, x: Array, w: Array) -> Array:
    """The convolution."""
    w = w.reshape(p.groups, p.outputs, p.channels, p.rows.taps, p.columns.taps)
    out = np.zeros((x.shape[0], p.groups, p.outputs, p.rows.extent, p.columns.extent), x.dtype)
    for k, l, read in columns(p, x):
        out += np.einsum("ngchw,goc->ngohw", read, w[..., k, l])
    return out.reshape(x.shape[0], p.groups * p.outputs, *out.shape[3:])


def backward(p: Problem, x: Array, ct: Array) -> Array:
    """Its derivative in the kernel."""
    ct = ct.reshape(x.shape[0], p.groups, p.outputs, *ct.shape[2:])
    out = np.zeros((p.groups, p.outputs, p.channels, p.rows.taps, p.columns.taps), x.dtype)
    for k, l, read in columns(p, x):
        out[..., k, l] = np.einsum("ngohw,ngchw->goc", ct, read)
    return out.reshape(-1, *out.shape[2:])


def operands(p: Problem, batch: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """An input, a kernel, and a cotangent of the result."""
    rng, kind = np.random.default_rng(seed), p.dtype.numpy
    shapes = (
        (batch, p.groups * p.channels, p.rows.size, p.columns.size),
        (p.groups * p.outputs, p.channels, p.rows.taps, p.columns.taps),
        (batch, p.groups * p.outputs, p.rows.extent, p.columns.extent),
    )
    x, w, ct = (rng.standard_normal(shape).astype(kind) for shape in shapes)
    return x, w, ct


def check(out: Array, exact: Any, p: Problem, *parts: Array) -> None:
    """Within 8 eps of the sum of the absolute products: the class `sum` of docs/equality.md."""
    wide = np.longdouble if out.dtype == np.float64 else np.float64
    a, b = (part.astype(wide) for part in parts)
    limit = 8 * np.finfo(out.dtype).eps * exact(p, abs(a), abs(b))
    error = abs(out - exact(p, a, b))
    assert (error <= limit).all(), float((error / np.maximum(limit, 1e-300)).max())


F32, F64 = dtype("float32"), dtype("float64")

# A batch, and a problem: groups, channels and outputs of each, rows, columns.
CASES = {
    "3x3": (3, Problem(F32, 1, 5, 17, axis(9, 3, 1, 1), axis(11, 3, 1, 1))),
    "3x3 of one channel": (3, Problem(F32, 1, 1, 16, axis(28, 3, 1, 1), axis(28, 3, 1, 1))),
    "5x5 to six": (2, Problem(F32, 1, 1, 6, axis(28, 5, 2, 2), axis(28, 5, 2, 2))),
    "5x5 without padding": (3, Problem(F32, 1, 6, 16, axis(14, 5), axis(14, 5))),
    "1x1": (2, Problem(F32, 1, 17, 40, axis(7, 1), axis(7, 1))),
    "one element": (1, Problem(F64, 1, 1, 1, axis(1, 1), axis(1, 1))),
    "no image": (0, Problem(F32, 1, 3, 5, axis(6, 3), axis(6, 3))),
    "many images": (64, Problem(F32, 1, 2, 9, axis(4, 2), axis(5, 3, 1, 1))),
    "strides": (2, Problem(F32, 1, 4, 20, axis(15, 3, 1, 1, 2), axis(16, 3, 1, 1, 3))),
    "long strides": (1, Problem(F64, 1, 3, 8, axis(32, 8, 0, 0, 8), axis(33, 8, 0, 0, 8))),
    "uneven padding": (2, Problem(F64, 1, 3, 10, axis(8, 4, 0, 3), axis(9, 2, 5, 1))),
    "cut": (2, Problem(F32, 1, 3, 10, axis(9, 3, -2, -1), axis(9, 2, -3, 2))),
    "spaced taps": (2, Problem(F32, 1, 3, 10, axis(14, 3, 2, 2, 1, 2), axis(15, 3, 3, 3, 2, 3))),
    "dilated input": (
        2, Problem(F32, 1, 6, 18, axis(7, 3, 1, 2, 1, 1, 2), axis(6, 4, 2, 2, 1, 1, 2)),
    ),
    "holes": (2, Problem(F64, 1, 3, 7, axis(5, 2, 1, 1, 1, 1, 3), axis(5, 1, 0, 0, 2, 1, 4))),
    "all at once": (2, Problem(F32, 2, 3, 5, axis(7, 3, 1, 3, 3, 2, 2), axis(8, 2, 4, 0, 2, 3, 3))),
    "groups": (3, Problem(F32, 3, 2, 4, axis(9, 3, 1, 1), axis(9, 3, 1, 1))),
    "depthwise": (2, Problem(F32, 17, 1, 1, axis(13, 3, 1, 1), axis(21, 3, 1, 1))),
    "depthwise, double": (2, Problem(F64, 5, 1, 2, axis(9, 5, 2, 2), axis(16, 5, 2, 2, 2))),
    "one row": (3, Problem(F32, 1, 4, 12, axis(1, 1), axis(50, 5, 4, 0))),
    "bands of columns": (1, Problem(F32, 1, 300, 3, axis(1, 1), axis(700, 3, 1, 1))),
    "bands of rows": (1, Problem(F32, 1, 70, 3, axis(60, 3, 1, 1), axis(40, 3, 1, 1))),
    "wide kernel": (1, Problem(F32, 1, 2, 3, axis(5, 2, 1, 1), axis(24, 41, 30, 30))),
    "whole vectors": (1, Problem(F32, 2, 1, 1, axis(56, 3, 1, 1), axis(56, 3, 1, 1))),
    "more residues than lanes": (
        1, Problem(F64, 1, 2, 3, axis(4, 2), axis(5, 3, 1, 1, 1, 1, 7)),
    ),
    "some taps hit": (
        1, Problem(F64, 1, 4, 5, axis(16, 4, 1, 2), axis(16, 3, -1, 0, 2, 3, 2)),
    ),
    "no tap hits": (1, Problem(F32, 1, 2, 3, Axis(5, 4, 1, 1, 2, 1, 2), axis(4, 2))),
    "nothing but padding": (1, Problem(F32, 1, 2, 3, axis(3, 2, 9, -4), axis(4, 2, 8, 0))),
}  # fmt: skip


@pytest.fixture
def one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bands by one chunk, whose scratch ends at the guard."""
    for module in (convolution_product, convolution_gradient):
        monkeypatch.setattr(module, "PARTS", 1)


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", [convolution_product.ByColumns, convolution_product.ByOutputs])
def test_the_product(way: Any, name: str) -> None:
    """Both kernels, whichever is faster; vectors of each width in turn."""
    batch, p = CASES[name]
    lanes = Lanes.of(p.dtype, WIDTHS[len(name) % len(WIDTHS)])
    s = bands(p, lanes, p.channels, 1 << 17, 1 << 16)
    kernel = way("kernel", s, None)
    if kernel.cycles() == float("inf"):
        return
    call = Built(kernel.code(Weights.plain(p)))
    x, w, ct = operands(p, batch)
    for at_end in (True, False):
        check(call(x, w, ct, at_end=at_end), forward, p, x, w)


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", [convolution_gradient.ByColumns, convolution_gradient.ByOutputs])
def test_the_kernel_gradient(way: Any, name: str) -> None:
    """Both kernels; that of columns is not for dilated inputs."""
    batch, p = CASES[name]
    lanes = Lanes.of(p.dtype, WIDTHS[len(name) % len(WIDTHS)])
    if way.cycles(p, lanes) == float("inf"):
        return
    call = Built(way("kernel", p, lanes).code(False))
    x, w, ct = operands(p, batch)
    for at_end in (True, False):
        check(call(x, ct, w, at_end=at_end), backward, p, x, ct)


def random_axis(rng: np.random.Generator) -> Axis:
    low, high = rng.integers(-1, 4, 2)
    numbers = [low, high, *rng.integers(1, 4, 3)]
    found = axis(int(rng.integers(1, 20)), int(rng.integers(1, 6)), *map(int, numbers))
    return found if found.extent > 0 else random_axis(rng)


@pytest.mark.usefixtures("one_part")
def test_random_problems(full: bool) -> None:
    """Any strides, paddings, dilations and groups, as `product` and `kernel_gradient` choose."""
    rng = np.random.default_rng(7)
    for k in range(100 if full else 8):
        groups, channels, outputs = (int(rng.integers(1, n)) for n in (4, 9, 40))
        axes = random_axis(rng), random_axis(rng)
        p = Problem((F32, F64)[k % 2], groups, channels, outputs, *axes)
        lanes = Lanes.of(p.dtype, WIDTHS[k % len(WIDTHS)])
        x, w, ct = operands(p, int(rng.integers(1, 4)))
        check(Built(product("kernel", p, lanes, Weights.plain(p)))(x, w, ct), forward, p, x, w)
        check(Built(kernel_gradient("kernel", p, lanes))(x, ct, w), backward, p, x, ct)


# ----- sums, threads, epilogues -------------------------------------------------------------------


def test_long_sums_stay_accurate() -> None:
    """Sums of some thousand numbers of one sign: where errors add up most."""
    lanes = Lanes.of(F32, engine.vector_bytes())
    p = Problem(F32, 1, 512, 16, axis(7, 3, 1, 1), axis(7, 3, 1, 1))
    x, w, ct = (abs(a) for a in operands(p, 2))
    check(Built(product("kernel", p, lanes, Weights.plain(p)))(x, w, ct), forward, p, x, w)
    for outputs in (4, 16):
        p = Problem(F32, 1, 2, outputs, axis(12, 3, 1, 1), axis(12, 3, 1, 1))
        x, w, ct = (abs(a) for a in operands(p, 500))
        check(Built(kernel_gradient("kernel", p, lanes))(x, ct, w), backward, p, x, ct)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    p = Problem(F32, 1, 6, 16, axis(14, 5), axis(14, 5))
    lanes = Lanes.of(F32, engine.vector_bytes())
    codes = product("kernel", p, lanes, Weights.plain(p)), kernel_gradient("kernel", p, lanes)
    calls, (x, w, ct) = [Built(code) for code in codes], operands(p, 37)
    found = []
    for number in (1, 2, 3):
        config.num_threads = number
        found.append((calls[0](x, w, ct).tobytes(), calls[1](x, ct, w).tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("outputs", [3, 20])
def test_an_epilogue_sees_where_it_writes(outputs: int) -> None:
    """A bias for each channel, a residual for each element, and a ramp."""
    p = Problem(F32, 2, 3, outputs, axis(9, 3, 1, 1), axis(13, 3, 1, 2, 1, 1, 2))
    kind = Lanes.of(F32, engine.vector_bytes()).vector

    def epilogue(w: Vectors, value: str, place: Place) -> str:
        bias = w.splat(w.scalar(w.at(w.word(place.frame, 5), place.channel)))
        more = w.load(w.at(w.word(place.frame, 6), place.offset), place.mask)
        total = w.fadd(w.fadd(value, bias), more)
        over = w.emit(f"fcmp ogt {kind} {total}, zeroinitializer")
        flags = f"<{w.lanes.count} x i1>"
        return w.emit(f"select {flags} {over}, {kind} {total}, {kind} zeroinitializer")

    lanes = Lanes.of(F32, engine.vector_bytes())
    call = Built(product("kernel", p, lanes, Weights.plain(p), epilogue))
    plain = Built(product("kernel", p, lanes, Weights.plain(p)))
    x, w, ct = operands(p, 3)
    bias = operands(p, 1, 5)[2][0, :, 0, 0].copy()
    expected = np.maximum(plain(x, w, ct) + bias[:, None, None] + ct, 0)
    np.testing.assert_array_equal(call(x, w, ct, bias, ct), expected)


def test_what_lies_outside_counts_as_zero_times_a_weight() -> None:
    """An infinite weight at the border gives NaN; holes of a dilated input have no product."""
    p = Problem(F32, 1, 2, 3, axis(4, 3, 1, 1, 1, 1, 2), axis(5, 2, 1, 1))
    x, w, ct = operands(p, 2)
    w[1, 0, 0, 0] = x[1, 1, 2, 2] = np.inf
    call = Built(product("kernel", p, Lanes.of(F32, 32), Weights.plain(p)))
    attrs = {"offset": (-1, -1), "stride": (1, 1), "spacing": (1, 1), "dilation": (2, 1)}
    with np.errstate(all="ignore"):
        eager = OPS["convolution"].numpy(x, w, extent=ct.shape[2:], groups=1, **attrs)
    np.testing.assert_allclose(call(x, w, ct), eager, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (Problem(dtype("float16"), 1, 1, 1, axis(3, 3), axis(3, 3)), "float16"),
        (Problem(F32, 1, 0, 1, axis(3, 3), axis(3, 3)), "empty"),
        (Problem(F32, 1, 1, 1, axis(99, 30), axis(99, 30)), "taps"),
        (Problem(F32, 1, 1, 1, axis(99, 3, 0, 0, 17), axis(9, 3)), "stride"),
        (Problem(F32, 1, 1, 1, axis(9, 3, 0, 0, 1, 1, 9), axis(9, 3)), "dilated"),
    ],
)
def test_what_no_kernel_is_made_for_says_why(p: Problem, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        product("kernel", p, Lanes.of(F32, 32), Weights.plain(p))
    with pytest.raises(ValueError, match=words):
        kernel_gradient("kernel", p, Lanes.of(F32, 32))


# ----- graphs -------------------------------------------------------------------------------------

functional = sk.nn.functional


def two_layers(x: Any, v: Any, w: Any) -> Any:
    x = sk.reshape(x, (x.shape[0], 4, 9, 9))
    h = functional.conv2d(x, v, stride=2, padding=1)
    return sk.sum(functional.conv2d(h, w, groups=2, dilation=2, padding=2) ** 2)


def transposed_layer(x: Any, w: Any) -> Any:
    return sk.sum(functional.conv_transpose2d(x, w, padding=1, stride=2) ** 2)


def one_axis(x: Any, w: Any) -> Any:
    return sk.sum(functional.conv1d(sk.permute_dims(x, (1, 2, 0)), w, padding=1) ** 2)


# A function, its arguments, and the kinds of the convolutions that its gradient's graph has.
GRAPHS: list[tuple[Any, list[Any], list[str]]] = [
    (
        two_layers,
        [(3, 324), (6, 4, 3, 3), (8, 3, 3, 3)],
        ["plain", "plain", "reversed", "gradient", "reversed", "gradient"],
    ),
    (transposed_layer, [(3, 4, 5, 5), (4, 6, 3, 3)], ["reversed", "plain", "gradient"]),
    (one_axis, [(9, 2, 4), (5, 4, 3)], ["plain", "reversed", "gradient"]),
    (lambda x, w: sk.sum(functional.conv2d(x, w, padding=1, groups=4) ** 2),
     [(2, 4, 7, 7), (4, 1, 3, 3)], ["plain", "reversed", "gradient"]),
]  # fmt: skip


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("number", range(len(GRAPHS)))
def test_a_graphs_convolutions_are_read_where_their_operands_lie(
    number: int, symbolic: bool
) -> None:
    """Neither permuted kernels nor exchanged batches are made: each node from its bases alone."""
    f, shapes, kinds = GRAPHS[number]
    arrays = [operands_of(shape) for shape in shapes]
    at = 1 if f is one_axis else 0  # the axis that is the batch
    batch = shapes[0][at]
    first = tuple("n" if symbolic and k == at else n for k, n in enumerate(shapes[0]))
    specs = [sk.TensorSpec(first), *map(sk.TensorSpec, shapes[1:])]
    traced = sk.function(lambda *xs: sk.grad(f, tuple(range(len(xs))))(*xs)).trace(*specs)
    values = values_of(traced.optimized, arrays, {"n": batch})
    found = []
    for node in traced.optimized.nodes:
        is_convolution = node.op is not None and node.op.name == "convolution"
        c = recognize(node)
        if isinstance(c, str):
            assert not is_convolution, c
            continue
        expected = values[node]
        x, w = values[c.x].reshape(batch, -1), values[c.w]
        call = Built(c.code("kernel", Lanes.of(F32, engine.vector_bytes())))
        assert concrete(c.batch, {"n": batch}) == batch
        np.testing.assert_allclose(call(x, w, expected), expected, 1e-3, 1e-3)
        if is_convolution:
            found.append(kind_of(c))
    assert found == kinds


def kind_of(c: Convolution) -> str:
    if c.weights is None:
        return "gradient"
    return "reversed" if c.weights.column < 0 else "plain"


def operands_of(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def values_of(graph: Any, arrays: list[Array], env: dict[str, int]) -> dict[Any, Array]:
    """What each node of a graph is, on NumPy."""
    values = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        if node.constant is not None:
            values[node] = node.constant
            continue
        attrs = {key: concrete(value, env) for key, value in node.attrs}
        values[node] = np.asarray(node.op.numpy(*(values[x] for x in node.inputs), **attrs))
    return values


def test_a_graph_says_why_a_convolution_has_no_kernel() -> None:
    def why(f: Any, *specs: Any) -> list[Any]:
        nodes = sk.function(f).trace(*specs).optimized.nodes
        return [recognize(n) for n in nodes if n.op is not None and n.op.name == "convolution"]

    three = why(functional.conv3d, sk.TensorSpec((1, 2, 4, 4, 4)), sk.TensorSpec((2, 2, 3, 3, 3)))
    assert three == ["a convolution of more than two axes, or of sizes that are not known"]
    sizes = why(functional.conv1d, sk.TensorSpec((1, 2, "n")), sk.TensorSpec((2, 2, 3)))
    assert sizes == three
    half = sk.TensorSpec((1, 2, 9), sk.float16), sk.TensorSpec((2, 2, 3), sk.float16)
    assert why(functional.conv1d, *half) == ["convolution of float16"]
