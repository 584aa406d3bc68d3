"""Random programs drawn from the registry, run every way: eager, staged, symbolic, differentiated
and exported. The run prints how often each op went each way and fails on a cell that is too empty.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.export import runtime
from stagekit.op import OPS, Op, Over, current, using
from stagekit.plan import Plan, concrete
from stagekit.staging.signature import take_apart
from stagekit.types import TensorType
from tests import programs
from tests.classes import Allowed, agree, outcome, same
from tests.programs import Program, generate
from tests.test_ops import faults

WAYS = ("eager", "staged", "symbolic", "vjp", "jvp", "exported")
LEAST = {True: 20, False: 6}  # runs of an op in each way, --full or not: each is compiled

# Cells that no program can fill, with the reason.
NOT_APPLICABLE = {
    ("alias", way): "only tapes see it: a graph never holds it"
    for way in ("staged", "symbolic", "exported")
}
NOT_APPLICABLE |= {("number", "eager"): "eagerly a size is a Python int"}
NOT_APPLICABLE |= {("number", "staged"): "a trace for plain sizes holds no number"}
NOT_APPLICABLE |= {("custom", "jvp"): "a vjp alone has no forward mode"}
NOT_APPLICABLE |= {("custom", "exported"): "an artifact holds its operand"}


def applicable(name: str, way: str) -> bool:
    if (name, way) in NOT_APPLICABLE:
        return False
    return way not in ("vjp", "jvp") or OPS[name].vjp is not None


# ----- watching -----------------------------------------------------------------------------------


class Referee(Over):
    """Notes each primitive with the arrays it took and gave."""

    def __init__(self, below: Any) -> None:
        super().__init__(below)
        self.seen: list[tuple[Op, list[np.ndarray], dict[str, Any], np.ndarray]] = []

    def apply(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        arrays = [np.array(self.below.read(a)) for a in args]
        out = self.below.apply(op, args, attrs)
        for result in out if op.several else (out,):
            self.seen.append((op, arrays, attrs, np.array(self.below.read(result))))
        for array, a in zip(arrays, args, strict=True):
            assert same(array, self.below.read(a)), f"{op.name} wrote into its operand"
        return out


def judged(program: Program, args: list[Any]) -> Counter[str]:
    """Run eagerly, each primitive held against its element rule; what ran."""
    referee = Referee(current())
    with using(referee):
        program(*args)
    for op, arrays, attrs, got in referee.seen:
        if op.name == "custom" or op.library or got.size > 256:
            continue
        wrong = faults(op, arrays, attrs, got)
        assert not wrong.any(), f"{op.name}{attrs} of {arrays} is {got}"
    return Counter(op.name for op, *_ in referee.seen)


def graph_ops(graph: Any) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes if node.op is not None)


# ----- the ways -----------------------------------------------------------------------------------

SIZES = [{"a": 3, "b": 2}, {"a": 2, "b": 5}, {"a": 1, "b": 3}, {"a": 5, "b": 0}, {"a": 4, "b": 4}]


@dataclass
class Run:
    """One program and everything known of it."""

    program: Program
    seed: int
    smooth: bool
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])

    def note(self, way: str, names: Counter[str]) -> None:
        for name, n in names.items():
            self.counts[name, way] += n

    def check(self, ok: bool, what: str, *more: Any) -> None:
        assert ok, f"seed {self.seed}: {what}\n{self.program}\n" + "\n".join(map(str, more))

    def eager(self) -> None:
        self.note("eager", judged(self.program, self._args(SIZES[0])))

    def _args(self, sizes: dict[str, int]) -> list[Any]:
        return self.program.arguments(sizes, self.rng(), self.smooth)

    def staged(self) -> None:
        """A trace for plain sizes: its first call, its replay, and the types of its nodes."""
        args, function = self._args(SIZES[0]), sk.function(lambda *args: self.program(*args))
        allowed = Allowed(self.program, args)
        want = allowed.ways[0]
        for what in ("first call", "replay"):
            got = outcome(function, args)
            self.check(allowed.admits(got), f"staged {what} differs", want, got)
        entries = function._history  # the trace just made
        if not isinstance(want, tuple) and entries[0].concrete is not None:
            graph = entries[0].concrete.graph
            self.check(str(sk.Graph.parse(str(graph))) == strip_lines(graph), "text", graph)
            self.note("staged", self.typed(entries[0], args))

    def typed(self, entry: Any, args: list[Any]) -> Counter[str]:
        """Run the graph with every node as a result: each has the type that was inferred."""
        cells, env = entry.match(take_apart_like(entry, args))
        graph = entry.concrete.graph
        inner = [node for node in graph.nodes if node.op is not None and not node.is_several]
        arrays = Plan(type(graph)(graph.name, graph.inputs, tuple(inner)))(
            [cells[k]._value for k in entry.take], {**entry.concrete.env, **env}
        )
        for node, array in zip(inner, arrays, strict=True):
            shape = concrete(node.type.shape, env)
            self.check(array.shape == shape, f"{node} has shape {array.shape}, not {shape}", graph)
            self.check(array.dtype == node.type.dtype.numpy, f"{node} is {array.dtype}", graph)
        return graph_ops(graph)

    def symbolic(self) -> None:
        """Traces that hold for many sizes, called at sizes they were not made at."""
        function = sk.function(lambda *args: self.program(*args), dynamic=True)
        for sizes in SIZES:
            args = self._args(sizes)
            allowed = Allowed(self.program, args)
            for what in ("call", "replay"):
                got, want = outcome(function, args), allowed.ways[0]
                self.check(allowed.admits(got), f"symbolic {what} at {sizes}", want, got)
        self.note("symbolic", self._polymorphic(function))

    def _polymorphic(self, function: Any) -> Counter[str]:
        """The types of the first trace that holds for some of the sizes."""
        for sizes in SIZES:
            args = self._args(sizes)
            for entry in function._history:
                if entry.concrete is not None and entry.match(take_apart_like(entry, args)):
                    return self.typed(entry, args)
        return Counter()

    def derivatives(self) -> None:
        """vjp and jvp, both stages, against central differences where those are steady."""
        args = self._args(SIZES[0])
        rng = self.rng()
        ways = [k for k, x in enumerate(self.program.inputs) if x.dtype == "float64"]
        tangents = [rng.standard_normal(args[k].shape) for k in ways]

        def along(*xs: Any) -> Any:
            full = list(args)
            for k, x in zip(ways, xs, strict=True):
                full[k] = x
            floats = [y for y in self.program(*full) if y.dtype.kind == "float"]
            outs = [sk.astype(y, sk.float64) for y in floats]
            terms = [sk.sum(y * (0.3 + 0.1 * k)) for k, y in enumerate(outs)]
            return sum(terms, start=sk.zeros((), dtype=sk.float64))

        primals = [args[k] for k in ways]
        coarse = any(step.op == "astype" for step in self.program.steps)  # float32 inside
        tolerance = 2e-3 if coarse else 1e-5
        slope = steady_slope(along, primals, tangents, 1e-2 if coarse else 1e-4, tolerance)
        if slope is None:
            return
        recorded = recorded_ops(along, primals)
        with_grad = sk.grad(along, argnums=tuple(range(len(ways))))
        for name, function in (("eager", with_grad), ("staged", sk.function(with_grad))):
            found = function(*primals)
            pairs = zip(found, tangents, strict=True)
            got = sum(float(np.sum(np.asarray(g) * t)) for g, t in pairs)
            self.check(close(got, slope, tolerance), f"vjp {name}: {got} is not the slope {slope}")
        self.note("vjp", recorded)
        if any(step.op == "custom" for step in self.program.steps):
            return
        for name, function in (("eager", along), ("staged", sk.function(along))):
            _, pushed = sk.jvp(function, primals, tangents)
            text = f"jvp {name}: {pushed} is not {slope}"
            self.check(close(pushed.item(), slope, tolerance), text)
        self.note("jvp", recorded)

    def exported(self, folder: Path) -> None:
        """Saved with named sizes, run by the NumPy runtime at other sizes."""
        specs = [sk.TensorSpec(x.shape, x.dtype) for x in self.program.inputs]
        path = folder / "program.stagekit"
        try:
            with warnings.catch_warnings():  # a derivative of one's own is not stored
                warnings.simplefilter("ignore", sk.errors.StagekitWarning)
                sk.export.save(path, sk.function(lambda *args: self.program(*args)), *specs)
        except sk.errors.StagekitError:
            return  # without values there is none: sizes do not fit, or a value is asked for
        loaded = runtime.load(path)
        for sizes in SIZES[:3]:
            arrays = [np.ascontiguousarray(x).reshape(x.shape) for x in self._args(sizes)]
            want = outcome(self.program, [sk.asarray(x) for x in arrays])
            got = outcome(loaded, arrays)
            refused = isinstance(got, tuple) and issubclass(got[0], sk.errors.ShapeError)
            self.check(refused or agree(want, got), f"exported at {sizes}", want, got)
            if not refused and not isinstance(want, tuple):
                self.note("exported", Counter(step.op for step in self.program.steps))


def take_apart_like(entry: Any, args: list[Any]) -> Any:
    """The call of a program, whose parameters are `*args`, as the cache sees it."""
    return take_apart({"args": tuple(args)}, frozenset(), None)


def strip_lines(graph: Any) -> str:
    bare = type(graph)(graph.name, graph.inputs, graph.outputs, graph.checks)
    return str(bare)


def recorded_ops(function: Any, primals: list[Any]) -> Counter[str]:
    """The differentiable ops that ran."""
    referee = Referee(current())
    with using(referee):
        function(*primals)
    return Counter(op.name for op, *_ in referee.seen if op.vjp is not None)


def steady_slope(
    function: Any, primals: list[Any], tangents: list[np.ndarray], step: float, tolerance: float
) -> float | None:
    """The directional derivative by central differences.

    None where two step sizes disagree, or the two sides do: a pole or a kink.
    """

    def at(h: float) -> float:
        moved = [sk.asarray(np.asarray(x) + h * t) for x, t in zip(primals, tangents)]
        return float(function(*moved).item())

    def slope(h: float) -> float:
        return (at(h) - at(-h)) / (2 * h)

    rough, fine = slope(step), slope(step / 10)
    right, left = ((at(h) - at(0.0)) / h for h in (step / 100, -step / 100))
    steady = close(rough, fine, tolerance / 10) and close(right, left, 10 * tolerance)
    return fine if steady and np.isfinite(fine) else None


def close(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


# ----- the run ------------------------------------------------------------------------------------


def needed(counts: Counter[tuple[str, str]], ways: tuple[str, ...]) -> list[str]:
    """The ops in order of how much they are missed, most first."""
    least = {
        name: min(counts[name, way] for way in ways if applicable(name, way))
        for name in OPS
        if any(applicable(name, way) for way in ways)
    }
    return sorted(least, key=lambda name: (least[name], name))


def batches(seed: int, smooth: bool, counts: Counter[Any], least: int) -> Iterator[Run]:
    """Programs that favour the ops seen least so far."""
    ways = ("vjp", "jvp") if smooth else ("eager", "staged", "symbolic", "exported")
    while True:
        rng = np.random.default_rng([seed, int(smooth)])
        order = needed(counts, ways)
        if min(counts[n, w] for n in order for w in ways if applicable(n, w)) >= least:
            return
        length = int(rng.integers(1, 26)) if not smooth else int(rng.integers(1, 7))
        head = order[: max(length // 2, 1)]
        names = [*head, *(order[k] for k in rng.integers(0, len(order), length - len(head)))]
        rng.shuffle(names)
        yield Run(generate(rng, length, names, SIZES[0], smooth), seed, smooth)
        seed += 1


def test_every_op_can_be_drawn() -> None:
    assert programs.unknown() == []


@pytest.mark.parametrize("smooth", [False, True], ids=["values", "derivatives"])
def test_random_programs(smooth: bool, tmp_path: Path, full: bool, capsys: Any) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    limit = 4000 if full else 600
    ran = 0
    for ran, run in enumerate(batches(0, smooth, counts, LEAST[full]), 1):
        if smooth:
            run.derivatives()
        else:
            run.eager()
            run.staged()
            run.symbolic()
            run.exported(tmp_path)
        counts += run.counts
        if ran >= limit:
            break
    ways = ("vjp", "jvp") if smooth else ("eager", "staged", "symbolic", "exported")
    with capsys.disabled():
        print(f"\n{table(counts, ways)}\n{ran} programs")
    missing = [
        f"{name} {way}: {counts[name, way]}"
        for name in sorted(OPS)
        for way in ways
        if applicable(name, way) and counts[name, way] < LEAST[full]
    ]
    assert not missing, missing


def table(counts: Counter[tuple[str, str]], ways: tuple[str, ...]) -> str:
    rows = [f"{'op':<20}" + "".join(f"{way:>10}" for way in ways)]
    for name in sorted(OPS):
        cells = [str(counts[name, way]) if applicable(name, way) else "-" for way in ways]
        rows.append(f"{name:<20}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(rows)


# ----- the generator is itself tested: planted faults are caught ----------------------------------


@contextlib.contextmanager
def planted(op: Op, **wrong: Any) -> Iterator[None]:
    """An op with a wrong rule, for a while."""
    right = {key: getattr(op, key) for key in wrong}
    for key, value in wrong.items():
        setattr(op, key, value)
    try:
        yield
    finally:
        for key, value in right.items():
            setattr(op, key, value)


def caught(name: str, smooth: bool, way: str) -> bool:
    """Whether one of 40 programs around an op finds something wrong."""
    for seed in range(40):
        rng = np.random.default_rng([seed, 7])
        names = ["add", name, "multiply", name, "exp", "reshape"]
        run = Run(generate(rng, 6, names, SIZES[0], smooth), seed, smooth)
        try:
            getattr(run, way)()
        except (AssertionError, sk.errors.StagekitError, ValueError, TypeError):
            return True
    return False


def test_a_wrong_derivative_is_caught() -> None:
    right = OPS["sin"].vjp
    assert right is not None
    assert not caught("sin", True, "derivatives")
    with planted(OPS["sin"], vjp=lambda i, ct, out, xs, attrs: -right(i, ct, out, xs, attrs)):
        assert caught("sin", True, "derivatives")


@pytest.mark.usefixtures("on_numpy")
def test_a_wrong_broadcast_is_caught() -> None:
    def first_shape(x: TensorType, y: TensorType) -> TensorType:
        return x

    assert not caught("multiply", False, "symbolic")
    with planted(OPS["multiply"], infer=first_shape):
        assert caught("multiply", False, "symbolic")


@pytest.mark.usefixtures("on_numpy")
def test_a_wrong_symbolic_size_is_caught() -> None:
    right = OPS["reshape"].infer

    def frozen(x: TensorType, *, shape: Any) -> TensorType:
        kind = right(x, shape=shape)
        return kind.with_shape(getattr(n, "value", n) for n in kind.shape)

    assert not caught("reshape", False, "symbolic")
    with planted(OPS["reshape"], infer=frozen):
        assert caught("reshape", False, "symbolic")


def test_a_write_into_an_operand_is_caught() -> None:
    def in_place(x: np.ndarray) -> np.ndarray:
        out = x if x.flags.writeable else x.copy()
        return np.negative(out, out=out)

    assert not caught("negative", False, "eager")
    with planted(OPS["negative"], numpy=in_place):
        assert caught("negative", False, "eager")


def test_a_wrong_cast_is_caught() -> None:
    def rounding(x: np.ndarray, *, dtype: Any) -> np.ndarray:
        return (np.rint(x * 1.3) if x.dtype.kind == "f" else x).astype(dtype.numpy)

    assert not caught("astype", False, "eager")
    with planted(OPS["astype"], numpy=rounding):
        assert caught("astype", False, "eager")
