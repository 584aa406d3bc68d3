"""The table of workloads: every workload has its contenders, and the contest runs end to end.

In processes of their own: `import benchmarks` sets how many threads a BLAS may use. No timing is
asserted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

CONTENDERS = """
import importlib, json
from benchmarks.workloads import NAMES
modules = {name: importlib.import_module(f"benchmarks.workloads.{name}") for name in NAMES}
print(json.dumps({m.TITLE: [m.TOLERANCE, *m.contenders()] for m in modules.values()}))
"""

# What a contest says of a peer whose result is another, or no number.
WRONG = """
import json
from benchmarks import contest
from benchmarks.workloads import Report
import numpy as np
class Planted:
    def __init__(self, name, number):
        self.name, self.report = name, Report([0.1], [np.float32([number])], 0)
print(json.dumps(contest.differing([Planted("torch", 1), Planted("jax", 1.5)], 0.1)))
print(json.dumps(contest.differing([Planted("torch", 1), Planted("jax", float("nan"))], 0.1)))
"""


def output(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_every_workload_has_the_frameworks() -> None:
    found: dict[str, list[Any]] = json.loads(output("-c", CONTENDERS))
    assert len(found) == 13
    for tolerance, *names in found.values():
        assert 0 <= tolerance <= 1e-4
        assert {"stagekit", "stagekit eager", "torch", "torch compile", "jax"} <= {*names}


def test_a_contender_with_other_results_is_named() -> None:
    apart, not_a_number = map(json.loads, output("-c", WRONG).splitlines())
    assert list(apart) == list(not_a_number) == ["jax"]
    assert "5.0e-01 from torch's" in apart["jax"]


def test_a_contest_runs(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    options = ("--peers", "NumPy", "--threads", "1", "--budget", "0", "--json", str(file))
    printed = output("-m", "benchmarks", "workloads", "tiny_sgd", *options)
    assert "| linear regression 32x10, SGD step |" in printed
    assert "Not measured" not in printed
    found = json.loads(file.read_text(encoding="utf-8"))
    row = found["workloads"]["tiny_sgd"]
    assert row["best_peer"] == "NumPy" and row["ratio_to_best_peer"] > 0
    assert set(row["contenders"]) == {"stagekit", "stagekit eager", "NumPy"}
    assert row["contenders"]["stagekit"]["to_compiled_s"] > 0
    assert found["machine"]["threads"] == 1
