"""The stubs: user lines pass a strict type checker, wrong lines do not, and nothing is made up.

`__init__.pyi` and `tensor.pyi` are held against the run-time objects, name by name and parameter
by parameter.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typing_sample

import stagekit as sk
import stagekit.ops as ops
from stagekit.op import Op

ROOT = Path(__file__).parents[1]
SAMPLE = Path(typing_sample.__file__)

# The checker

WRONG = """\
import stagekit as sk
x = sk.zeros(2)
f = sk.function(lambda t: t + 1)

@sk.function
def g(a: sk.Tensor, *, scale: float = 1.0) -> sk.Tensor:
    return a * scale

sk.zeros(2, dtypes=sk.float32)  # wrong: no such argument
sk.zeros("2")  # wrong: no shape
sk.zeroes(2)  # wrong: no such name
x.summ()  # wrong: no such method
x.sum(dim=0)  # wrong: axis
x.T()  # wrong: a property
x + "1"  # wrong: no operand
x.shape = (1,)  # wrong: read-only
x.at[0].subtract(1)  # wrong: no such update
g(1.0)  # wrong: no tensor
g(x, scale="2")  # wrong: no number
g(x, x)  # wrong: keyword only
g.traces()  # wrong: no such method
y: str = g(x)  # wrong: a tensor
sk.Variable(x).value = x  # wrong: read-only
sk.function(g, dynamic="maybe")  # wrong: no such choice
sk.grad(g)(x, shift=1)  # wrong: the signature of g
sk.pad(x)  # wrong: an argument is missing
sk.exp(x, 1)  # wrong: one operand
sk.config.traces  # wrong: no such setting
"""


@cache
def complaints(path: Path) -> dict[int, str]:
    """Line -> what the strict checker says about it."""
    run = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)]
    run += ["--config-file", str(ROOT / "pyproject.toml"), "--no-pretty"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for line in done.stdout.splitlines():
        file, number, _, text = line.split(":", 3)
        if Path(file).name == path.name:
            found[int(number)] = text
    return found


def test_user_lines_pass_a_strict_type_checker() -> None:
    assert complaints(SAMPLE) == {}
    main = inspect.getsource(typing_sample.main).splitlines()
    assert sum(bool(line.strip()) for line in main) >= 30


def test_wrong_lines_do_not(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(WRONG, encoding="utf-8")
    wrong = {k for k, line in enumerate(WRONG.splitlines(), 1) if "# wrong" in line}
    assert set(complaints(path)) == wrong


def test_user_lines_run(tmp_path: Path) -> None:
    assert typing_sample.main(str(tmp_path / "state.safetensors")) > 0


# The stubs as text


def definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Public names and dunders of a stub, with what defines each (the first of overloads)."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
        elif isinstance(node, ast.ImportFrom):
            found.update({item.name: node for item in node.names if item.name == item.asname})
    return {n: d for n, d in found.items() if not n.startswith("_") or n.endswith("__")}


def stub(name: str) -> dict[str, ast.stmt]:
    text = (ROOT / "stagekit" / name).read_text(encoding="utf-8")
    return definitions(ast.parse(text).body)


Parameter = tuple[str, str, bool]  # name, kind, whether it has a default

KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def declared(node: ast.FunctionDef) -> list[Parameter]:
    """The parameters in a stub."""

    def each() -> Iterator[Parameter]:
        args = node.args
        plain = [(a, "positional") for a in args.posonlyargs] + [(a, "either") for a in args.args]
        optional = len(plain) - len(args.defaults)
        for k, (arg, kind) in enumerate(plain):
            yield arg.arg, kind, k >= optional
        if args.vararg:
            yield args.vararg.arg, "*", False
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            yield arg.arg, "keyword", default is not None
        if args.kwarg:
            yield args.kwarg.arg, "**", False

    return list(each())


def actual(function: Any) -> list[Parameter]:
    """The parameters at run time."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, KINDS[p.kind], p.default is not p.empty) for p in parameters]


# The package


def test_the_stub_names_what_the_package_names() -> None:
    assert sorted(stub("__init__.pyi")) == sorted({*sk.__all__, "__version__"})


PACKAGE = stub("__init__.pyi")
ARITY_OPERANDS = [sk.asarray([1.5]), sk.asarray([1]), sk.asarray([True])]


def takes(op: Op, count: int) -> bool:
    """Whether an op takes this many operands, of floats, integers or bools."""
    for x in ARITY_OPERANDS:
        try:
            op(*[x] * count)
        except TypeError as error:
            if not isinstance(error, sk.DTypeError):
                continue
        else:
            return True
    return False


def agrees(name: str, node: ast.stmt, thing: Any) -> bool:
    """Whether a line of the stub is true of the object."""
    if isinstance(node, ast.ImportFrom):
        assert node.module is not None
        whole = f"{node.module}.{name}" if node.module == "stagekit" else node.module
        module = import_module(whole)
        return thing is (module if node.module == "stagekit" else getattr(module, name))
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.annotation) in (type(thing).__name__, str(thing))
    if isinstance(node, ast.Assign):
        return thing is getattr(sk, ast.unparse(node.value))
    if isinstance(node, ast.ClassDef):
        return isinstance(thing, type) and methods_agree(node, thing) == []
    assert isinstance(node, ast.FunctionDef)
    if isinstance(thing, Op):
        count = len(declared(node))
        return takes(thing, count) and not takes(thing, count + 1) and not takes(thing, count - 1)
    if name == "function":
        return options_agree(node)
    return declared(node) == actual(thing)


def options_agree(node: ast.FunctionDef) -> bool:
    """`function` takes its options as a record, which makes the signature."""
    options = import_module("stagekit.staged").Options
    stated = [(name, default) for name, _, default in declared(node)[1:]]
    return stated == [(name, name in options._field_defaults) for name in options._fields]


@pytest.mark.parametrize("name", PACKAGE)
def test_a_name_of_the_stub_is_what_it_says(name: str) -> None:
    assert agrees(name, PACKAGE[name], getattr(sk, name))


# Classes


def counterpart(cls: type, name: str) -> Any:
    """The attribute; of a method that passes everything on, the function that it passes it to."""
    method = inspect.getattr_static(cls, name)
    if callable(method) and any(kind == "**" for _, kind, _ in actual(method)):
        return getattr(ops, name, method)
    return method


def methods_agree(node: ast.ClassDef, cls: type) -> list[str]:
    """The members of a stub's class that are not so at run time."""
    return [name for name, stated in definitions(node.body).items() if not fits(cls, name, stated)]


def fits(cls: type, name: str, stated: ast.stmt) -> bool:
    if isinstance(stated, ast.AnnAssign):
        return hasattr(cls, name) or name in str(inspect.getsource(cls))
    assert isinstance(stated, ast.FunctionDef)
    if not hasattr(cls, name):
        return False
    thing = counterpart(cls, name)
    if isinstance(thing, property) or inspect.isdatadescriptor(thing):
        return any(ast.unparse(d) == "property" for d in stated.decorator_list)
    if stated.decorator_list and ast.unparse(stated.decorator_list[0]) == "property":
        return False
    given, real = declared(stated)[1:], actual(thing)[1:]
    if thing is not inspect.getattr_static(cls, name):  # its function: axis by position, too
        return [(n, d) for n, _, d in given] == [(n, d) for n, _, d in real]
    if name.startswith("__"):  # called by Python, by position
        return [(kind == "*", d) for _, kind, d in given] == [
            (kind == "*", d) for _, kind, d in real
        ]
    return given == real


TENSOR = stub("tensor.pyi")
CLASSES = {"Tensor": sk.Tensor, "Variable": sk.Variable}


@pytest.mark.parametrize("name", CLASSES)
def test_the_members_of_a_stub_class_are_so_at_run_time(name: str) -> None:
    node = TENSOR[name]
    assert isinstance(node, ast.ClassDef)
    assert methods_agree(node, CLASSES[name]) == []


INHERITED = {"__module__", "__doc__", "__slots__", "__weakref__", "__final__", "__slotnames__"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_stub_class_has_every_member(name: str) -> None:
    node = TENSOR[name]
    assert isinstance(node, ast.ClassDef)
    present = {n for n in vars(CLASSES[name]) if not n.startswith("_") or n.endswith("__")}
    stated = set(definitions(node.body))
    assert present - stated - INHERITED - ({"__repr__"} if name == "Variable" else set()) == set()


def test_at_has_the_members_of_its_stub() -> None:
    at = next(
        node
        for node in ast.parse((ROOT / "stagekit/tensor.pyi").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "_At"
    )
    assert methods_agree(at, ops.At) == []
    public = {name for name in vars(ops.At) if not name.startswith("_")}
    assert public <= set(definitions(at.body))


def test_the_other_names_of_the_tensor_stub_are_there() -> None:
    module = import_module("stagekit.tensor")
    for name, node in TENSOR.items():
        if isinstance(node, ast.FunctionDef):
            assert declared(node) == actual(getattr(module, name))
    public = {
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__
    }
    assert public == set(TENSOR)


def test_the_stub_of_export_names_what_it_names() -> None:
    found = stub("export/__init__.pyi")
    assert sorted(found) == sorted(sk.export.__all__)
    for name, node in found.items():
        assert isinstance(node, ast.ImportFrom) and node.module is not None
        if node.module == "stagekit.export":
            assert getattr(sk.export, name) is import_module(f"stagekit.export.{name}")
        else:
            assert getattr(sk.export, name) is getattr(import_module(node.module), name)


def test_staged_functions_have_the_members_of_their_stub() -> None:
    body = ast.parse((ROOT / "stagekit/__init__.pyi").read_text(encoding="utf-8")).body
    node = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == "_Function")
    staged = sk.function(lambda x: x + 1)
    assert [name for name in definitions(node.body) if not hasattr(staged, name)] == []


# The tests of the stubs catch what they are for

FAULTS: dict[str, tuple[str, str]] = {
    "zeros": ("def zeros(shape, *, dtype=None) -> Tensor: ...", "a parameter is missing"),
    "reshape": ("def reshape(x, /, shape, *, copy) -> Tensor: ...", "a default is missing"),
    "clip": ("def clip(x, min=None, max=None) -> Tensor: ...", "another kind"),
    "add": ("def add(x1, /) -> Tensor: ...", "another arity"),
    "exp": ("def exp(x1, x2, /) -> Tensor: ...", "another arity"),
    "pi": ("pi: int", "another type"),
    "float32": ("float32: float", "another type"),
    "concatenate": ("concatenate = stack", "another alias"),
    "save": ("from stagekit.saving import load as save", "another object"),
    "custom_vjp": ("class custom_vjp:\n    def defjvp(self, rule): ...", "another method"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_in_the_stub_is_found(name: str) -> None:
    text, what = FAULTS[name]
    if name == "save":
        node: ast.stmt = ast.parse("from stagekit.tree import register_pytree as save").body[0]
        with pytest.raises(AttributeError):
            agrees(name, node, sk.save)
        return
    assert not agrees(name, ast.parse(text).body[0], getattr(sk, name)), what


CLASS_FAULTS: list[Callable[[], str]] = [
    lambda: "class Tensor:\n    def sum(self, axis=None, *, keepdims=False): ...",
    lambda: "class Tensor:\n    def numpy(self, copy): ...",
    lambda: "class Tensor:\n    def T(self): ...",
    lambda: "class Tensor:\n    @property\n    def item(self): ...",
    lambda: "class Tensor:\n    def __add__(self): ...",
]


@pytest.mark.parametrize("make", CLASS_FAULTS, ids=range(len(CLASS_FAULTS)))
def test_a_planted_fault_in_a_class_is_found(make: Callable[[], str]) -> None:
    node = ast.parse(make()).body[0]
    assert isinstance(node, ast.ClassDef)
    assert len(methods_agree(node, sk.Tensor)) == 1


def test_arrays_are_operands_on_either_side_for_the_checker_too() -> None:
    x = np.ones(2) + sk.ones(2)
    assert type(x) is sk.Tensor
