"""The examples do what they say: `make demo` in two epochs, and the lecture's numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stagekit as sk
from examples import digits, lecture

ROOT = Path(__file__).parents[1]


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "digits.py"), "--epochs", "2", *options]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)


# ----- digits -------------------------------------------------------------------------------------


def test_two_epochs_train_stage_and_run_from_a_file() -> None:
    done = demo("--accuracy", "0.9")
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("eager", "staged"):
        assert stage in done.stdout.splitlines()
    assert len(re.findall(r"epoch +[12]/2 \[#{20}\] loss \d\.\d{4}", done.stdout)) == 4
    assert len(re.findall(r"[\d.]+ ms a step", done.stdout)) == 2
    assert len(re.findall(r"test accuracy 0\.9\d+", done.stdout)) == 2
    assert "step: 2 traces" in done.stdout
    assert "modules beyond the standard library: numpy, stagekit\n" in done.stdout
    assert re.search(r"digits\.stagekit: \d+ KiB", done.stdout)
    assert "360 of 360 predictions equal" in done.stdout


def test_a_low_accuracy_fails() -> None:
    done = demo("--accuracy", "1.01")
    assert done.returncode != 0 and "FAILED: accuracy below 1.01" in done.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0.95, 0.96, 0.0, 2, 0), "accuracy"),
        ((float("nan"), 0.96, 0.0, 2, 0), "accuracy"),
        ((0.97, 0.96, 2e-4, 2, 0), "differ"),
        ((0.97, 0.96, float("nan"), 2, 0), "differ"),
        ((0.97, 0.96, 0.0, 3, 0), "traces"),
        ((0.97, 0.96, 0.0, 2, 1), "predicts"),
    ],
)
def test_each_fault_is_found(given: tuple[float, float, float, int, int], words: str) -> None:
    (found,) = digits.faults(*given)
    assert words in found
    assert digits.faults(0.97, 0.96, 0.0, 2, 0) == []


def test_the_difference_is_over_all_parameters() -> None:
    a, b = digits.initial(), digits.initial()
    assert digits.difference(a, b) == 0
    for k, (w, bias) in enumerate(b.layers):
        for variable in (w, bias):
            variable.assign_add(sk.ones_like(variable) * 0.5)
            assert digits.difference(a, b) == pytest.approx(0.5), k
            variable.assign_sub(sk.ones_like(variable) * 0.5)


def test_the_batches_cover_the_data_with_a_smaller_last_one() -> None:
    training, test = digits.load()
    assert (len(training.y), len(test.y)) == (1437, 360)
    sizes = [len(batch.y) for batch in digits.batches(training, 0)]
    assert set(sizes[:-1]) == {64} and sizes[-1] == 29 and sum(sizes) == 1437


# ----- lecture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [lecture.by_tape, lecture.by_grad, lecture.by_jvp])
@pytest.mark.parametrize("stage", [lambda way: way, sk.function], ids=["eager", "staged"])
def test_the_lecture_example(way: object, stage: object) -> None:
    run = stage(way)  # type: ignore[operator]
    x = sk.asarray(np.float64(2.0)), sk.asarray(np.float64(5.0))
    for _ in range(2):
        found = [float(v.item()) for v in run(*x)]
        np.testing.assert_allclose(found, (11.652071, 5.5, 1.716338), rtol=1e-6)


def test_the_lecture_example_prints_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    lecture.main()
    printed = capsys.readouterr().out
    assert printed.count("11.652071  (5.500000, 1.716338)") == 6
    assert "graph by_grad(%x1: f64[], %x2: f64[])" in printed
