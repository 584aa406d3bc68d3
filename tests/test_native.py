"""Machine code against NumPy: every op, sizes, layouts, threads, faults; within docs/equality.md.

What an op may differ by is `tests/classes.py`'s to say. The run prints which ops are native, and
fails where one is not that should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.graph import Graph
from stagekit.kernels import engine
from stagekit.kernels.backend import fed
from stagekit.kernels.partition import is_projection
from stagekit.kernels.plan import NativePlan, _refused
from stagekit.op import OPS
from stagekit.plan import Plan
from stagekit.settings import config
from stagekit.types import dtype
from tests.classes import CLASS
from tests.samples import Sample, samples
from tests.test_ops import DEFINED, faults, same_bits

pytestmark = [
    pytest.mark.skipif(not engine.available(), reason="could not import 'llvmlite'"),
    pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning"),
]

Array = np.ndarray[Any, Any]

# Ops that may stay on NumPy, beside those of the class "library", and why.
ON_NUMPY = {
    "alias": "only tapes see it: a graph never holds it",
    **dict.fromkeys(
        ("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min", "recurrence"),
        "a running fold: element by element it takes the square of the time",
    ),
    "convolution": "the same product has better ways than element by element",
    **dict.fromkeys(("sort", "argsort", "argtopk", "searchsorted"), "NumPy's sorting"),
    **dict.fromkeys(("lgamma", "polygamma"), "a series of many cases"),
    **dict.fromkeys(("random_category", "random_advance"), "rare"),
    "undefined": "it raises or is NaN",
    "imag": "of a real number it is 0, of a complex one NumPy's",
}
COMPLEX = ("complex64", "complex128", "bfloat16")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; it is as before afterwards."""
    before = config.num_threads
    yield lambda n: setattr(config, "num_threads", n)
    config.num_threads = before


def native(graph: Graph) -> NativePlan:
    """A graph in machine code, as a call has it."""
    return NativePlan(*fed(graph))


def traced(function: Any, *args: Any) -> Graph:
    """What a function does, as it is written."""
    return sk.function(function).trace(*args).graph


# ----- every op -----------------------------------------------------------------------------------


def chosen(name: str, full: bool) -> list[Sample]:
    """A few samples of an op with every kind of operand, special values and layouts."""
    found = [s for s in samples(name) if not any(str(k) in COMPLEX for k in kinds(s))]
    found = [s for s in found if all(np.asarray(a).size <= 4096 for a in s.args)]
    if full or len(found) <= 6:
        return found
    rng = np.random.default_rng([5, *name.encode()])
    special = [s for s in found if "special" in s.note][:4]
    rest = [s for s in found if "special" not in s.note]
    return [*special, *(rest[k] for k in sorted(rng.choice(len(rest), 4, replace=False)))]


def kinds(sample: Sample) -> list[Any]:
    return [dtype(np.asarray(a).dtype) for a in sample.args]


def of_samples(found: Sequence[Sample]) -> tuple[Graph, list[Array]]:
    """One graph of all calls, and the arrays that it takes."""

    def calls(*tensors: Any) -> Any:
        left = iter(tensors)
        results = []
        for s in found:
            args = [a if isinstance(a, (bool, int, float, complex)) else next(left) for a in s.args]
            out = OPS[s.op](*args, **s.attrs)
            results.append(out[0] if OPS[s.op].several else out)
        return tuple(results)

    tensors = [x for s in found for x in s.tensors() if isinstance(x, sk.Tensor)]
    return traced(calls, *tensors), [x._value for x in tensors]


def why_not(plan: NativePlan, name: str) -> set[str]:
    """The reasons for which nodes of an op are left to NumPy."""
    partition = plan.steps.partition
    return {
        reason for node, cluster, reason in partition.decisions
        if node.op is OPS[name] and cluster.home.kind == "library" and not is_projection(node)
    }  # fmt: skip


TABLE: dict[str, str] = {}


@pytest.mark.parametrize("name", [n for n in OPS if CLASS[n] != "library"])
def test_an_op_is_what_it_means(name: str, full: bool) -> None:
    found = chosen(name, full)
    graph, arrays = of_samples(found)
    plan = native(graph)
    got, want = plan(arrays, {}), Plan(graph)(arrays, {})
    for sample, mine, theirs in zip(found, got, want, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), sample
        if same_bits(mine, theirs).all():
            continue
        assert name in DEFINED, sample
        wrong = faults(OPS[name], sample.operands(), sample.attrs, mine)
        assert not wrong.any(), f"{sample}: {mine[wrong][:5]}, NumPy {theirs[wrong][:5]}"
    reasons = why_not(plan, name)
    TABLE[name] = "; ".join(sorted(reasons)) or "native"
    if name not in ON_NUMPY:
        assert not reasons, reasons


def test_the_table_of_ops(capsys: Any) -> None:
    with capsys.disabled():
        print("\nops that have no kernel for some of their operands:")
        for name, text in sorted(TABLE.items()):
            if text != "native":
                print(f"  {name:<20}{text}")
        print(f"  native: {sum(t == 'native' for t in TABLE.values())} of {len(TABLE)} ops")
        for kind, reason in sorted(_refused.items(), key=str):
            print(f"  refused: {kind}: {reason}")
    stale = [n for n in ON_NUMPY if TABLE.get(n) == "native" and n != "alias"]
    assert not stale, f"these are native: take them from ON_NUMPY: {stale}"
