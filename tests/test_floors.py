"""The house rules that a machine can check: floors, lazy imports, names and sizes.

Every check is a function of a package root that gives a list of faults; the tests run it on
stagekit, where the list is empty, and on packages with a planted fault, where it is not.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "stagekit"

# Floors, low to high; a file stands on the floor of the first pattern that matches its path, and
# imports from lower floors, or from its own floor where that makes no cycle.
FLOORS = [
    ["errors.py", "source.py", "settings.py"],
    ["symbolic.py", "placement.py", "narrow.py", "export/safetensors.py"],
    ["types.py"],
    ["op.py"],
    ["node.py"],
    ["tensor.py", "graph.py", "printer.py", "verify.py", "cost.py", "state.py"],
    ["ops/*.py"],
    ["evaluation.py", "plan.py"],
    [f"export/{name}.py" for name in ("structure", "format", "artifact", "runtime")],
    ["eager/*.py"],
    ["random.py", "linalg.py", "fft.py", "nn/functional/*.py"],
    ["autodiff/*.py", "tree.py", "saving.py"],
    ["kernels/ir.py", "kernels/sizes.py", "kernels/machine/*.py"],
    ["kernels/scalars/*.py", "kernels/llvm/*.py"],
    ["kernels/products/*.py"],
    ["kernels/fusion/*.py"],
    ["kernels/cuda/*.py", "kernels/*.py"],
    ["staging/python/*.py"],
    ["staging/*.py", "staging/rules/*.py"],
    ["control.py"],
    ["staged.py", "profiling.py", "testing.py"],
    ["export/__init__.py", "export/writer.py", "export/loader.py"],
    ["nn/*.py"],
    ["__init__.py", "__main__.py"],
]

# What may be imported inside a function, at its first use, because it may be missing or is costly.
OPTIONAL = {"cupy", "llvmlite", "ml_dtypes", "optree"}

# Files that may import by name: lazy public names, and code generators found by name.
DYNAMIC = {"__init__.py", "__main__.py", "export/__init__.py", "nn/__init__.py"}
DYNAMIC |= {"kernels/backend.py"}

# The minimal runtime: these files, and all they reach, import NumPy and the standard library.
RUNTIME = ["export/runtime.py"]
RUNTIME_MAY_IMPORT = {"numpy"} | set(sys.stdlib_module_names)

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, its alias, where it is written."""

    module: str
    alias: str | None
    line: int
    in_function: bool


def files(root: Path) -> dict[str, ast.Module]:
    return {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.py"))
    }


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def statements(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes with whether a function holds them; bodies of ``if TYPE_CHECKING`` are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            child = ast.Module(child.orelse, [])
        yield child, in_function
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from statements(child, in_function or is_function)


def imports(root: Path, path: str, tree: ast.Module) -> Iterator[Import]:
    package = [root.name, *PurePosixPath(path).parent.parts]
    for node, inside in statements(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, name.asname, node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for name in node.names:
                whole = f"{module}.{name.name}"
                if file_of(root, whole):
                    yield Import(whole, name.asname or name.name, node.lineno, inside)
                else:
                    yield Import(module, None, node.lineno, inside)


def file_of(root: Path, module: str) -> str | None:
    """The file of a module of the package, None for modules from elsewhere."""
    first, *rest = module.split(".")
    if first != root.name:
        return None
    for candidate in ("/".join([*rest, "__init__.py"]), "/".join(rest) + ".py"):
        if (root / candidate).is_file():
            return candidate
    return None


def floor_of(path: str) -> int | None:
    for floor, patterns in enumerate(FLOORS):
        if any(match(path, pattern) for pattern in patterns):
            return floor
    return None


def match(path: str, pattern: str) -> bool:
    parts, wanted = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    return len(parts) == len(wanted) and PurePosixPath(path).match(pattern)


def is_ops_cycle(path: str, imported: Import) -> bool:
    """The one cycle allowed: files of ops/ name each other by ``import stagekit.ops as ops``."""
    inside = path.startswith("ops/") and path != "ops/__init__.py"
    return inside and imported.module.endswith(".ops") and imported.alias == "ops"


# The checks


def floor_faults(root: Path) -> list[str]:
    faults: list[str] = []
    same_floor: dict[str, set[str]] = {}
    for path, tree in files(root).items():
        here = floor_of(path)
        if here is None:
            faults.append(f"{path}: stands on no floor; add it to FLOORS in tests/test_floors.py")
            continue
        for imported in imports(root, path, tree):
            target = file_of(root, imported.module)
            floor = None if target is None else floor_of(target)
            if target is None or floor is None or is_ops_cycle(path, imported):
                continue
            if floor > here:
                faults.append(f"{path}:{imported.line}: imports {target}, which stands above it")
            elif floor == here and target != path:
                same_floor.setdefault(path, set()).add(target)
    try:
        TopologicalSorter(same_floor).prepare()
    except CycleError as error:
        faults.append("cycle on one floor: " + " -> ".join(reversed(error.args[1])))
    return faults


def unknown_module_faults(root: Path) -> list[str]:
    """Imports from the package that name no file of it (they would bypass the floors)."""
    return [
        f"{path}:{imported.line}: no such module: {imported.module}"
        for path, tree in files(root).items()
        for imported in imports(root, path, tree)
        if imported.module.split(".")[0] == root.name and not file_of(root, imported.module)
    ]


def lazy_import_faults(root: Path) -> list[str]:
    faults = []
    for path, tree in files(root).items():
        for imported in imports(root, path, tree):
            if imported.in_function and imported.module.split(".")[0] not in OPTIONAL:
                faults.append(f"{path}:{imported.line}: imports {imported.module} in a function")
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            dynamic = called in ("__import__", "import_module", "importlib.import_module")
            if dynamic and path not in DYNAMIC:
                faults.append(f"{path}:{node.lineno}: imports by name")
    return faults


def reached(root: Path, start: list[str]) -> dict[str, ast.Module]:
    """The files that importing ``start`` runs: their imports, and every parent package."""
    trees, found = files(root), {}
    todo = [path for path in start if path in trees]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = trees[path]
        parents = [parent / "__init__.py" for parent in PurePosixPath(path).parents]
        todo += [str(parent) for parent in parents if str(parent) in trees]
        for imported in imports(root, path, trees[path]):
            target = file_of(root, imported.module)
            todo += [target] if target else []
    return found


def runtime_faults(root: Path) -> list[str]:
    return [
        f"{path}:{imported.line}: the minimal runtime reaches an import of {imported.module}"
        for path, tree in reached(root, RUNTIME).items()
        for imported in imports(root, path, tree)
        if imported.module.split(".")[0] not in RUNTIME_MAY_IMPORT | {root.name}
        and not (imported.in_function and imported.module.split(".")[0] in OPTIONAL)
    ]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its ``def``, without its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def size_faults(root: Path) -> list[str]:
    faults = []
    for path, tree in files(root).items():
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            faults.append(f"{path}: {lines} lines, more than {MAX_FILE_LINES}")
        for node in ast.walk(tree):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and length(node) > MAX_FUNCTION_LINES:
                faults.append(f"{path}:{node.lineno}: {node.name} has {length(node)} lines")
    return faults


CHECKS = [
    floor_faults,
    unknown_module_faults,
    lazy_import_faults,
    runtime_faults,
    size_faults,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_house_rule(check: Callable[[Path], list[str]]) -> None:
    assert files(PACKAGE), "the package has files"
    assert check(PACKAGE) == []


# Faults planted to test the checks

PLANTED = {
    "upward import": (floor_faults, {"op.py": "from stagekit.staged import f\n", "staged.py": ""}),
    "upward from-package": (floor_faults, {"op.py": "from stagekit import tree\n", "tree.py": ""}),
    "upward relative": (floor_faults, {"ops/a.py": "from ..tree import x\n", "tree.py": ""}),
    "package root from below": (floor_faults, {"op.py": "import stagekit as sk\n"}),
    "cycle": (
        floor_faults,
        {
            "tensor.py": "from stagekit.cost import c\n",
            "cost.py": "from stagekit.state import s\n",
            "state.py": "import stagekit.tensor\n",
        },
    ),
    "cycle in ops": (
        floor_faults,
        {"ops/a.py": "from stagekit.ops import b\n", "ops/b.py": "import stagekit.ops.a\n"},
    ),
    "no floor": (floor_faults, {"helpers.py": ""}),
    "no floor below a folder": (floor_faults, {"ops/deep/a.py": ""}),
    "missing module": (unknown_module_faults, {"op.py": "import stagekit.nowhere\n"}),
    "import in function": (lazy_import_faults, {"op.py": "def f():\n    import json\n"}),
    "import in lambda's class": (
        lazy_import_faults,
        {"op.py": "def f():\n    class C:\n        import json\n"},
    ),
    "import by name": (lazy_import_faults, {"op.py": "import_module('json')\n"}),
    "runtime reaches optree": (
        runtime_faults,
        {"export/runtime.py": "import stagekit.types\n", "types.py": "import optree\n"},
    ),
    "runtime's parent imports": (
        runtime_faults,
        {"export/runtime.py": "", "export/__init__.py": "import typing_extensions\n"},
    ),
    "long file": (size_faults, {"op.py": "x = 1\n" * (MAX_FILE_LINES + 1)}),
    "long function": (size_faults, {"op.py": "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES}),
}

ALLOWED = {
    "errors.py": "import sys\n",
    "op.py": "from __future__ import annotations\nfrom . import errors\n",
    "tensor.py": "import typing\nif typing.TYPE_CHECKING:\n    from stagekit import tree\n",
    "cost.py": "from stagekit.tensor import Tensor\n",
    "tree.py": "def f():\n    import optree.pytree\n",
    "ops/__init__.py": "from stagekit.ops.a import *\nfrom stagekit.ops.b import *\n",
    "ops/a.py": "import stagekit.ops as ops\nfrom stagekit.ops import b\n",
    "ops/b.py": "from stagekit import op, ops\n",
    "export/runtime.py": "import numpy as np\nimport stagekit.ops as ops\n",
    "__init__.py": "import importlib\nimportlib.import_module('stagekit.tree')\n",
    "staged.py": 'def f():\n    """d' + "\n" * 99 + '"""\n' + "    x = 1\n" * 59,
}


def lay(folder: Path, sources: dict[str, str]) -> Path:
    root = folder / "stagekit"
    for path, text in {"__init__.py": "", **sources}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    check, sources = PLANTED[name]
    root = lay(tmp_path, sources)
    assert len(check(root)) == 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_allowed_package_has_no_fault(check: Callable[[Path], list[str]], tmp_path: Path) -> None:
    assert check(lay(tmp_path, ALLOWED)) == []


# Names

SURVEY = """
import importlib, json, pkgutil, sys, types
import stagekit as sk
first = {name: getattr(sk, name) for name in sk.__all__} if sys.argv[1] == "before" else {}
for module in pkgutil.walk_packages(sk.__path__, "stagekit."):
    importlib.import_module(module.name)
now = {name: getattr(sk, name) for name in sk.__all__}
print(json.dumps({
    "names": sk.__all__,
    "dir": dir(sk),
    "changed": [name for name in first if first[name] is not now[name]],
    "modules": [n for n, it in (first or now).items() if isinstance(it, types.ModuleType)],
    "submodules": [module.name for module in pkgutil.iter_modules(sk.__path__)],
}))
"""


@cache
def survey(root: Path, when: str) -> dict[str, list[str]]:
    """Public names in a fresh process that reads them ``before`` importing every submodule, or
    only ``after`` it."""
    run = [sys.executable, "-c", SURVEY, when]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=root.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def name_faults(root: Path) -> list[str]:
    before, after = survey(root, "before"), survey(root, "after")
    names, modules = before["names"], set(before["modules"])
    faults = [f"{name}: importing every submodule changes it" for name in before["changed"]]
    faults += [
        f"{name}: is a module in one order of imports only"
        for name in sorted(modules ^ set(after["modules"]))
    ]
    faults += [
        f"{name}: a module bears the name of a public object"
        for name in sorted(set(names) & set(before["submodules"]) - modules)
    ]
    faults += [f"{name}: listed twice" for name in sorted(set(names)) if names.count(name) > 1]
    faults += [f"{name}: not in dir()" for name in sorted(set(names) - set(before["dir"]))]
    return faults


def test_public_names_keep_their_meaning() -> None:
    assert survey(PACKAGE, "before")["names"], "stagekit.__all__ is not empty"
    assert name_faults(PACKAGE) == []


LAZY = """
import importlib
__all__ = ["f", "random"]
def __getattr__(name):
    if name == "f":
        return importlib.import_module("stagekit.staged").f
    if name == "random":
        return importlib.import_module("stagekit.random")
    raise AttributeError(name)
def __dir__():
    return [*__all__]
"""


BEARS = "f: a module bears the name of a public object"


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        ({"staged.py": "def f(): ..."}, None),
        ({"staged.py": "def f(): ...", "f.py": ""}, BEARS),
        ({"staged.py": "from stagekit.f import f", "f.py": "def f(): ..."}, BEARS),
        (
            {
                "staged.py": "",
                "__init__.py": LAZY.replace('"stagekit.staged").f', '"json").loads')
                + "from stagekit import f as module\n",
                "f.py": "",
            },
            "f: importing every submodule changes it",
        ),
        ({"staged.py": "f = 1", "__init__.py": LAZY + "__all__ += ['f']"}, "f: listed twice"),
        ({"staged.py": "f = 1", "__init__.py": LAZY + "del __dir__"}, "f: not in dir()"),
    ],
)
def test_planted_name_is_found(sources: dict[str, str], fault: str | None, tmp_path: Path) -> None:
    faults = name_faults(lay(tmp_path, {"__init__.py": LAZY, "random.py": "", **sources}))
    assert fault in faults if fault else not faults
