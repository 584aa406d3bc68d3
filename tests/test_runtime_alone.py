"""The minimal runtime in a process that can import only NumPy and the standard library."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.nn import functional as F
from tests.classes import near

ROOT = Path(__file__).parents[1]

# Refuses every import but NumPy, the standard library and the package, wherever it is written.
BLOCKER = """
import json, sys

class Only:
    allowed = {"numpy", "stagekit"} | set(sys.stdlib_module_names)
    refused = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            self.refused.append(name)
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Only())
sys.path[:0] = [sys.argv.pop(1), sys.argv.pop(1)]
"""

REPORT = """
loaded = {name: getattr(m, "__file__", None) for name, m in list(sys.modules.items())}
files = [file for name, file in loaded.items() if name.partition(".")[0] == "stagekit" and file]
print(json.dumps({
    "tops": sorted({name.partition(".")[0] for name in loaded}),
    "stagekit": sorted(name for name in loaded if name.partition(".")[0] == "stagekit"),
    "files": files,
    "refused": Only.refused,
}))
"""


def alone(code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter behind the blocker."""
    folders = [str(ROOT), str(Path(np.__file__).parents[1])]
    command = [sys.executable, "-I", "-S", "-c", BLOCKER + code, *folders, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)


def stripped(file: Path) -> bytes:
    """A source without docstrings and comments: what a bundle of the runtime has to carry.

    The examples of public names are a fifth of the sources, and no runtime reads them.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = ast.FunctionDef | ast.ClassDef | ast.Module
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng([*shape]).normal(size=shape).astype("f4")


w, b = sk.Variable(normal(6, 4)), sk.Variable(normal(4))
steps = sk.Variable(sk.zeros((), dtype=sk.int64))


def predict(x: Any) -> Any:
    return {"logits": F.log_softmax(sk.erf(x @ w) + b)}


def train(x: Any, y: Any) -> Any:
    def loss(w: Any, b: Any) -> Any:
        return F.cross_entropy(sk.tanh(x @ w + b), y)

    value, (dw, db) = sk.value_and_grad(loss, argnums=(0, 1))(w.value, b.value)
    w.assign_sub(0.1 * dw)
    b.assign_sub(0.1 * db)
    steps.assign_add(1)
    return value


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.stagekit"
    x, y = sk.TensorSpec(("n", 6)), sk.TensorSpec(("n",), sk.int64)
    sk.export.save(path, {"default": (predict, [x]), "train": (train, (x, y))})
    return path


RUN = (
    """
import numpy as np
from stagekit.export import runtime
program = runtime.load(sys.argv[1], verify=True)
with np.load(sys.argv[2]) as given:
    x, y = given["x"], given["y"]
losses = [program["train"](x, y) for _ in range(3)]
program.save(sys.argv[3])
np.savez(sys.argv[4], losses=losses, logits=program(x)["logits"], **program.state)
from stagekit.errors import ShapeError
try:
    program(x[:, :5])
    raise SystemExit("a wrong size was taken")
except ShapeError as error:
    assert "default(x: f32[n,6])" in str(error), error
"""
    + REPORT
)


def test_train_and_predict_alone_as_in_the_framework(model: Path, tmp_path: Path) -> None:
    x, y = normal(5, 6), np.array([0, 3, 1, 1, 2])
    np.savez(tmp_path / "given.npz", x=x, y=y)
    names = [str(tmp_path / n) for n in ("given.npz", "trained.stagekit", "found.npz")]
    done = alone(RUN, str(model), *names)
    report = json.loads(done.stdout)
    assert set(report["tops"]) <= {"numpy", "stagekit", "__main__"} | set(sys.stdlib_module_names)
    assert sum(len(stripped(Path(file))) for file in report["files"]) < 400_000
    loaded = sk.export.load(model)
    with np.load(names[2]) as found:
        for loss in found["losses"]:
            assert near(loss, loaded["train"](x, y))
        assert near(found["logits"], loaded(x)["logits"])
        for name, value in loaded.state.items():
            assert near(found[name], value)
    assert int(sk.export.load(names[1]).state["steps"]) == 3
    assert int(steps) == 0


def test_what_the_runtime_imports(model: Path) -> None:
    report = json.loads(alone("import stagekit.export.runtime" + REPORT).stdout)
    above = ("staging", "eager", "autodiff", "tree", "saving", "staged", "nn", "kernels")
    assert not [n for n in report["stagekit"] if n.split(".")[1:2] and n.split(".")[1] in above]
    assert not {"optree", "ml_dtypes", "llvmlite", "cupy"} & set(report["refused"])


def test_importing_the_package_imports_nothing() -> None:
    report = json.loads(alone("import stagekit, stagekit.export" + REPORT).stdout)
    assert report["stagekit"] == ["stagekit", "stagekit.export"]
    assert "numpy" not in report["tops"]


def test_command_alone(model: Path, tmp_path: Path) -> None:
    x = normal(3, 6)
    np.save(tmp_path / "x.npy", x)
    command = "import runpy\nrunpy.run_module('stagekit.export.runtime', run_name='__main__')"
    out = str(tmp_path / "out.npy")
    alone(command, str(model), "--input", f"x={tmp_path / 'x.npy'}", "--output", out)
    assert np.array_equal(np.load(out), np.asarray(sk.export.load(model)(x)["logits"]))
    described = alone(command, str(model), "--describe").stdout
    assert "train(x: f32[n,6], y: i64[n]) -> f32[]" in described
    assert "writes: " in described
    failed = alone(command, str(tmp_path / "x.npy"), "--describe", check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("ArtifactError")


def test_package_command(model: Path) -> None:
    run = [sys.executable, "-m", "stagekit"]
    done = subprocess.run(
        [*run, "describe", str(model)], capture_output=True, text=True, check=True
    )
    assert "default(x: f32[n,6]) -> {'logits': f32[n,4]}" in done.stdout
    wrong = subprocess.run([*run, "nothing"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("usage")
    missing = subprocess.run([*run, "describe", "no file"], capture_output=True, text=True)
    assert missing.returncode == 1
