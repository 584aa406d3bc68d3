"""`sk.config` and the `STAGEKIT_*` variables: each setting does what it says."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import stagekit as sk


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dataclasses.asdict(sk.config)
    yield
    for name, value in before.items():
        setattr(sk.config, name, value)


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "", **{f"STAGEKIT_{k}": v for k, v in variables.items()}}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


TWICE = "import stagekit as sk; f = sk.function(lambda x: -(-x)); f(sk.zeros(2)); f(sk.zeros(2))"


def test_log_prints_traces_and_rewrites() -> None:
    lines = run(TWICE, LOG="trace,rewrite").stderr.splitlines()
    assert lines[0].startswith("stagekit.trace: <lambda>: trace 1: first call (")
    assert lines[1].startswith("stagekit.rewrite: <lambda>: double_negation (")
    assert len(lines) == 2
    assert run(TWICE).stderr == ""


def test_the_lines_go_to_the_standard_loggers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="stagekit"):
        sk.function(lambda x: x + 1)(sk.zeros(2))
    names = [r.name for r in caplog.records if r.name != "stagekit.cache"]  # as the disk has it
    assert names in (["stagekit.codegen", "stagekit.trace"], ["stagekit.trace"])


def test_dump_writes_the_graphs_of_each_trace(tmp_path: Path) -> None:
    sk.config.dump = str(tmp_path / "graphs")
    function = sk.function(lambda x: -(-x) + 1, name="f")
    function(sk.zeros(2))
    function(sk.zeros(3))
    files = sorted((tmp_path / "graphs").glob("f-?.txt"))  # beside the kernels of each
    assert [file.name for file in files] == ["f-1.txt", "f-2.txt"]
    text = files[0].read_text(encoding="utf-8")
    assert text.count("graph f(") == 2
    assert text.count("negative(") == 2  # as traced; the rewritten graph and the plan have none
    assert "plan f: 1 steps" in text


def test_disable_runs_eagerly() -> None:
    code = TWICE + "; print(f.cache_info().traces)"
    assert run(code, DISABLE="1").stdout == "0\n"
    assert run(code, DISABLE="0").stdout == "1\n"


def test_warn_float64_names_the_line() -> None:
    x, y = sk.ones(2), sk.ones(2, dtype=sk.float64)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        x + y
    assert found == []
    sk.config.warn_float64 = True
    with pytest.warns(sk.StagekitWarning, match=r"add: float32 widens to float64 at test_settings"):
        x + y
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x.astype(sk.float64) + y  # asked for


def test_trap_raises_where_a_nan_is_made() -> None:
    def f(x: sk.Tensor) -> sk.Tensor:
        return sk.log(x) * 2

    staged = sk.function(f)
    x = sk.asarray([-1.0])
    staged(x)
    sk.config.trap = "nan"
    for function in (f, staged, staged):
        with pytest.raises(sk.CheckError, match=r"log: the result holds NaN\n  at test_settings"):
            function(x)
    sk.config.trap = None
    assert staged(x).shape == (1,)
