"""A workload's contest: a process for each library (`benchmarks/worker.py`), asked in turn.

So a busy machine disturbs all alike, and no library's threads or allocator another's. All results
are compared before anything is timed; a contender whose results differ is not timed.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.timing import Timing, ratio
from benchmarks.workloads import Report

SAMPLE = 0.01  # seconds that a sample should take
PAUSE = 0.005  # before each sample: threads that still spin for the last contender fall asleep
ROUNDS = 3, 100  # at least and at most

OURS, EAGER, EPILOGUE, COPY = "stagekit", "stagekit eager", "stagekit epilogue", "copy"
# Calls until the first one that ran compiled code has ended: stagekit's first call runs eagerly.
CALLS_TO_COMPILED = {"stagekit": 2, "jax": 1, "torch compile": 1}
PEERS = ("torch", "torch compile", "jax", "NumPy", "numexpr", "autograd")


class Worker:
    """A contender's process, from its set-up to its end."""

    def __init__(self, workload: str, contender: str, threads: int, folder: Path) -> None:
        self.name, self._slow = contender, True
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", workload, contender, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(threads, folder, workload),
        )
        try:
            self.report: Report = self._answer()
        except RuntimeError:
            self.close()
            raise

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-2:]
            raise RuntimeError(f"{self.name}: {' '.join(last) or 'ended'}") from None

    def _ask(self, question: int | None) -> Any:
        assert self._process.stdin is not None
        try:
            pickle.dump(question, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def sample(self, calls: int) -> float:
        """Seconds a call, after calls that wake threads and fill caches."""
        time.sleep(PAUSE)
        if not self._slow:
            self._ask(max(1, calls // 5))
        seconds = float(self._ask(calls)) / calls
        self._slow = seconds > 5 * SAMPLE
        return seconds

    def calls(self) -> int:
        """How many calls fill a sample."""
        calls = 1
        for _ in range(3):
            calls = min(round(SAMPLE / self.sample(calls)), 100 * calls) or 1
        return calls

    def peak(self) -> int:
        """Bytes above what the imports needed, since the first calls; the worker ends."""
        return int(self._ask(None))

    def close(self) -> None:
        """End the process, and with it those that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def environment(threads: int, folder: Path, workload: str) -> dict[str, str]:
    """A worker's: the same threads for all, caches that begin empty, no BLAS tuned by hand."""
    known = dict(os.environ)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "JAX_COMPILATION_CACHE_DIR"):
        known.pop(name, None)
    for name in ("OPENBLAS", "OMP", "MKL", "NUMEXPR", "STAGEKIT"):
        known[f"{name}_NUM_THREADS"] = str(threads)
    return known | {
        "XLA_FLAGS": "",  # it looks at the cores that the worker may use
        "JAX_PLATFORMS": "cpu",
        "STAGEKIT_CACHE_DIR": str(folder / "stagekit" / workload),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }


@dataclass(frozen=True)
class Result:
    """What one contender showed: samples, seconds to compiled code, bytes of peak memory."""

    timing: Timing
    cold: float | None
    warm: float | None
    first_peak: int
    peak: int

    def as_json(self) -> dict[str, Any]:
        """Microseconds, and all else in seconds and bytes."""
        return {
            "median_us": self.timing.median * 1e6,
            "minimum_us": self.timing.minimum * 1e6,
            "rounds": len(self.timing.samples),
            "to_compiled_s": self.cold,
            "to_compiled_warm_s": self.warm,
            "peak_with_first_calls_bytes": self.first_peak,
            "peak_bytes": self.peak,
        }


@dataclass(frozen=True)
class Row:
    """A workload's results by contender, and why others are missing."""

    name: str
    title: str
    results: Mapping[str, Result]
    missing: Sequence[str]

    def timing(self, contender: str) -> Timing | None:
        """A contender's samples, None where it was not measured."""
        found = self.results.get(contender)
        return None if found is None else found.timing

    @property
    def best_peer(self) -> Timing | None:
        """The fastest of the others."""
        return min(self._peers, key=lambda t: t.median, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times our duration the best peer takes."""
        return ratio(self.best_peer, self.timing(OURS))

    @property
    def ratio_of_minima(self) -> float | None:
        """The same of the fastest samples: what a machine without other guests would show."""
        ours, theirs = self.timing(OURS), [t.minimum for t in self._peers]
        return min(theirs) / ours.minimum if ours and theirs else None

    @property
    def _peers(self) -> list[Timing]:
        return [r.timing for name, r in self.results.items() if name in PEERS]


def measure(name: str, peers: Sequence[str], threads: int, budget: float, folder: Path) -> Row:
    """All contenders of a workload: set up, compared, timed for `budget` seconds."""
    module = importlib.import_module(f"benchmarks.workloads.{name}")
    workers: list[Worker] = []
    missing: list[str] = []
    with ExitStack() as stack:
        for contender in module.contenders():
            if contender in PEERS and contender not in peers:
                continue
            try:
                workers.append(Worker(name, contender, threads, folder))
            except RuntimeError as error:
                missing.append(str(error))
            else:
                stack.callback(workers[-1].close)
        wrong = differing(workers, module.TOLERANCE)
        workers = [w for w in workers if w.name not in wrong]
        ours = any(w.name == OURS for w in workers)
        warm = warm_start(name, threads, folder) if ours else None
        timings = interleaved(workers, budget)
        found = {w.name: result(w, t, warm) for w, t in zip(workers, timings, strict=True)}
    return Row(name, module.TITLE, found, [*missing, *wrong.values()])


def differing(workers: Sequence[Worker], tolerance: float) -> dict[str, str]:
    """The contenders whose results are not the first peer's, and by how much."""
    same = [w for w in workers if w.name not in (COPY, EPILOGUE)]
    expected = next((w for w in same if w.name in PEERS), same[0])
    found: dict[str, str] = {}
    for worker in same:
        pairs = zip(expected.report.arrays, worker.report.arrays, strict=True)
        apart = [distance(a, b) for a, b in pairs]
        if not all(x <= tolerance for x in apart):
            far = f"{max(apart):.1e} from {expected.name}'s, more than {tolerance:.0e}"
            found[worker.name] = f"{worker.name}: its results are {far}"
    return found


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, as a share of the largest element of a."""
    if a.shape != b.shape:
        return np.inf
    return float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1))


def to_compiled(contender: str, report: Report) -> float | None:
    """Seconds until the first call that ran compiled code had ended."""
    calls = CALLS_TO_COMPILED.get(contender)
    return None if calls is None else sum(report.first[:calls])


def warm_start(workload: str, threads: int, folder: Path) -> float | None:
    """Seconds to our compiled code in a second process, which finds the first one's cache."""
    worker = Worker(workload, OURS, threads, folder)
    worker.close()
    return to_compiled(OURS, worker.report)


def interleaved(workers: Sequence[Worker], budget: float) -> list[Timing]:
    """One sample of each contender a round, in an order of the round's own."""
    calls = {w: w.calls() for w in workers}
    samples: dict[Worker, list[float]] = {w: [] for w in workers}
    order, shuffled = list(workers), Random(0)
    fewest, most = ROUNDS
    end = time.monotonic() + budget
    for k in range(most):
        if k >= fewest and time.monotonic() > end:
            break
        shuffled.shuffle(order)
        for worker in order:
            samples[worker].append(worker.sample(calls[worker]))
    return [Timing(w.name, samples[w]) for w in workers]


def result(worker: Worker, timing: Timing, warm: float | None) -> Result:
    """What the contender showed; it ends."""
    cold = to_compiled(worker.name, worker.report)
    mine = worker.name == OURS
    return Result(timing, cold, warm if mine else None, worker.report.peak, worker.peak())
