"""No op, and no public function made of ops, lacks a rule, a derivative, a sample or an example.

`pytest -s tests/test_complete.py` prints the ops with an element rule and those of a library.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stagekit as sk
import stagekit.ops as ops
from stagekit import export, fft, linalg, random, testing
from stagekit.errors import StagekitError
from stagekit.kernels.reference import BOOL, COMPLEX, FLOAT, INTEGER, PART, TEST, reference
from stagekit.nn import functional
from stagekit.op import OPS, Op
from tests.samples import composites, samples

FAMILIES = [
    "elementwise", "creation", "movement", "reduction", "contraction", "convolution", "indexing",
    "linalg", "fourier", "sorting", "cumulative", "decomposition", "random", "checks",
]  # fmt: skip
OPS_FOLDER = Path(ops.__file__).parent

# Names of `ops` that rules, methods and other floors use, and users do not.
INTERNAL = {
    "At", "aligned", "as_shape", "getitem", "host_integers", "located_shapes", "maximum_size",
    "multiply_high", "on_host", "require_channels", "root", "scalar", "setitem",
    "total", "transposed", "unbroadcast",
}  # fmt: skip

# Ops whose first operand has an axis.
NEVER_0D = {"concat", "convolution", "dft", "irdft", "rdft", "gather", "matmul", "scatter"}
NEVER_0D |= {"undefined"}
NEVER_0D |= {"sort", "recurrence", *(f"cumulative_{f}" for f in ("sum", "prod", "max", "min"))}
NEVER_0D |= {name for name, op in OPS.items() if op.family == "linalg"}

# Functions about types, which tests/test_dtypes.py holds against NumPy.
OF_TYPES = {"can_cast", "finfo", "iinfo", "isdtype", "result_type"}

# The elementwise functions of the Array API standard (revision 2025.12) of real numbers.
STANDARD = """
    abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_invert
    bitwise_or bitwise_right_shift bitwise_xor ceil clip copysign cos cosh divide equal exp expm1
    floor floor_divide greater greater_equal hypot isfinite isinf isnan less less_equal log log1p
    log2 log10 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply
    negative nextafter not_equal positive pow reciprocal remainder round sign signbit sin sinh
    square sqrt subtract tan tanh trunc
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", list(OPS))
def test_an_op_says_everything(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert callable(op.infer)
    assert callable(op.numpy)
    assert (op.element is None) == bool(op.library)
    assert (op.vjp is None) == bool(op.nondifferentiable)
    assert (op.vjp is None) == (op.jvp is None), "one of vjp and jvp is missing"
    assert op.version >= 1


@pytest.mark.parametrize("name", list(OPS))
def test_an_op_has_samples_of_its_kinds(name: str) -> None:
    found = samples(name)
    assert len(found) >= 3
    if OPS[name].vjp is not None and name != "custom":
        smooth = [s for s in found if s.smooth]
        assert smooth, f"{name}: no sample at which its derivative can be measured"
        floats = [a for s in smooth for a in s.operands() if a.dtype.kind in "fc"]
        assert len({a.dtype.name for a in floats} & {"float64", "complex128"}) == 1
        assert any(a.size == 0 for a in floats), f"{name}: no zero-size sample"
        assert any(a.ndim == 0 for a in floats) or name in NEVER_0D, f"{name}: no 0-d sample"


def test_samples_are_refused_for_an_unknown_op() -> None:
    with pytest.raises(KeyError, match="no samples"):
        samples("frobnicate")


def test_the_two_lists(capsys: pytest.CaptureFixture[str]) -> None:
    element = [name for name, op in OPS.items() if op.element is not None]
    library = {name: op.library for name, op in OPS.items() if op.library is not None}
    with capsys.disabled():
        print(f"\n{len(element)} element ops: {' '.join(element)}")
        print(f"{len(library)} library ops: {library or 'none'}")
    assert len(element) + len(library) == len(OPS)


def test_the_reference_spells_every_elementwise_op() -> None:
    special = {"where", "nextafter", "floor_divide", "bitwise_left_shift", "bitwise_right_shift"}
    spelled = {*FLOAT, *INTEGER, *BOOL, *COMPLEX, *PART, *TEST, *special}
    assert {name for name, op in OPS.items() if op.family == "elementwise"} <= spelled


def test_the_standards_elementwise_functions_are_there() -> None:
    missing = [name for name in STANDARD if not hasattr(sk, name)]
    assert not missing


def test_the_names_of_ops_are_its_all() -> None:
    exported = {name for name in vars(ops) if not name.startswith("_")}
    modules = {name for name in exported if isinstance(getattr(ops, name), ModuleType)}
    modules -= {"methods"}
    assert set(ops.__all__) >= exported - modules - {"stagekit", "methods"}


def functions() -> list[str]:
    """The public names that are functions made of ops."""
    names = {n for n in ops.__all__ if not isinstance(getattr(ops, n), Op)} - {"methods"}
    return sorted(names | set(functional.__all__))


def test_every_public_function_has_sample_calls() -> None:
    sampled = {call.name for call in composites()}
    primitives = {name for name in functions() if isinstance(getattr(ops, name, None), Op)}
    missing = set(functions()) - sampled - primitives - INTERNAL - OF_TYPES
    assert not missing
    assert sampled <= set(functions())


def test_no_name_is_listed_in_vain() -> None:
    assert set(functions()) >= INTERNAL | OF_TYPES
    assert not INTERNAL & set(dir(sk))


# ----- documentation ------------------------------------------------------------------------------


PUBLIC = [sk, linalg, fft, random, functional, testing, export]
CLASSES = [sk.Tensor, sk.Variable, sk.random.Generator, sk.GradientTape]

# A function of another library, the standard, a paper, or a function here that says its own.
SOURCE = re.compile(
    r"`(numpy|scipy|torch|jax|tf)\.[\w.]+`|Source:|[Ss]ee `\w+`|[Aa]s `sk\."
    r"|[Aa]rray API standard|of the standard|the standard's"
)


def public() -> dict[str, Any]:
    """Functions, classes and methods that users call, an alias once, with errors left out."""
    found: dict[int, tuple[str, Any]] = {}
    for module in PUBLIC:
        for name in module.__all__:
            obj = getattr(module, name)
            plain = isinstance(obj, (ModuleType, float, str, type(None), type(sk.bool)))
            if not plain and not (isinstance(obj, type) and issubclass(obj, Exception | Warning)):
                found.setdefault(id(obj), (f"{module.__name__}.{name}", obj))
    for cls in CLASSES:
        for name in dir(cls):
            obj = getattr(cls, name)
            if not name.startswith("_") and callable(obj):
                found.setdefault(id(obj), (f"{cls.__name__}.{name}", obj))
    return dict(found.values())


def documented() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every object whose examples are run here, with the names its examples may use."""
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, op in OPS.items():
        found[f"op {name}"] = op, _namespace_of(op)
    for name in ops.__all__:
        obj = getattr(ops, name)
        if not isinstance(obj, Op) and not isinstance(obj, ModuleType):
            found[f"{ops.__name__}.{name}"] = obj, inspect.getmodule(obj).__dict__
    known = {id(obj) for obj, _ in found.values()}
    for name, obj in public().items():
        if id(obj) not in known:
            home = inspect.getmodule(obj) or inspect.getmodule(type(obj))
            found[name] = obj, vars(home)
    return found


def test_a_public_name_says_where_it_comes_from() -> None:
    methods = tuple(f"{cls.__name__}." for cls in CLASSES)  # a class says it for its methods
    named = {n: obj.__doc__ or "" for n, obj in public().items() if not n.startswith(methods)}
    assert [name for name, text in named.items() if not SOURCE.search(text)] == []


def _namespace_of(op: Op) -> dict[str, Any]:
    for family in FAMILIES:
        module = importlib.import_module(f"stagekit.ops.{family}")
        if any(value is op for value in vars(module).values()):
            return vars(module)
    raise AssertionError(f"{op.name} is declared outside stagekit/ops")


@pytest.mark.parametrize("name", list(documented()))
def test_a_public_name_has_an_example_that_runs(name: str) -> None:
    obj, namespace = documented()[name]
    text = obj.__doc__ or ""
    assert len(text.splitlines()[0].split()) >= 2 or name.startswith("op "), "no meaning is given"
    examples = doctest.DocTestParser().get_doctest(text, dict(namespace), name, None, 0)
    assert examples.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    report: list[str] = []
    assert runner.run(examples, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("module", ["settings", "types", "kernels.reference", "ops.documentation"])
def test_examples_of_modules_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"stagekit.{module}"))
    assert result.attempted
    assert not result.failed


def test_private_functions_of_the_op_set_are_used() -> None:
    """A rule nobody calls is a rule nobody tests."""
    for path in OPS_FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        private = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] == "_"}
        read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert private <= read, f"{path.name}: {private - read} is not used"


# ----- what the checks see ------------------------------------------------------------------------


def declare(**facts: Any) -> Callable[[], Op]:
    base: dict[str, Any] = {"infer": lambda x: x, "evaluate": "exp"}
    return lambda: Op("exp", **base, **facts)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"nondifferentiable": "x"}, "element rule, or the reason"),
        ({"element": len, "library": "x", "nondifferentiable": "x"}, "element rule, or the reason"),
        ({"element": len}, "derivative, or the reason"),
        ({"element": len, "vjp": len, "nondifferentiable": "x"}, "derivative, or the reason"),
    ],
)
def test_an_incomplete_op_cannot_be_declared(facts: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        declare(**facts)()


def test_a_library_op_has_no_reference() -> None:
    op = OPS["exp"]
    try:
        library = declare(library="LAPACK", nondifferentiable="for this test")()
    finally:
        OPS["exp"] = op
    with pytest.raises(TypeError, match="no element rule: LAPACK"):
        reference(library, [], {})


def test_the_reference_raises_what_the_type_rule_raises() -> None:
    with pytest.raises(StagekitError, match="do not broadcast"):
        reference(OPS["add"], [sk.ones(2).numpy(), sk.ones(3).numpy()], {})
    with pytest.raises(StagekitError, match="out of bounds"):
        x, index = sk.ones(2).numpy(), sk.asarray([2]).numpy()
        reference(OPS["gather"], [x, index], {"axes": (0,)})
