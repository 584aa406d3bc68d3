"""The table of native CPU code: `python -m benchmarks workloads [name ...]`.

A process for each library and workload (`benchmarks/worker.py`), asked in turn for a sample: so
that a busy machine disturbs all alike, and no library's threads or allocator another's. All
results are compared before anything is timed. How it is measured, and what it shows, is in
`benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import geometric_mean
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.timing import Timing, facts, machine, ratio, text
from benchmarks.workloads import NAMES, Report

SAMPLE = 0.01  # seconds that a sample should take
PAUSE = 0.005  # before each sample: threads that still spin for the last contender fall asleep
ROUNDS = 5, 100  # at least and at most

OURS, EAGER, EPILOGUE, COPY = "stagekit", "stagekit eager", "stagekit epilogue", "copy"
# Calls until the first one that ran compiled code has ended: stagekit's first call runs eagerly.
CALLS_TO_COMPILED = {"stagekit": 2, "jax": 1, "torch compile": 1}
# The training steps: their memory is compared.
STEPS = ("mlp_adam", "tiny_sgd", "cnn_sgd", "transformer_adam", "gru_sgd", "theano_mlp")
PEERS = ("torch", "torch compile", "jax", "NumPy", "numexpr", "autograd")


class Worker:
    """A contender's process, from its set-up to its end."""

    def __init__(self, workload: str, contender: str, threads: int, folder: Path) -> None:
        self.name = contender
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
        """Seconds a call, after as many calls as wake threads and fill caches."""
        time.sleep(PAUSE)
        self._ask(max(1, calls // 5))
        return float(self._ask(calls)) / calls

    def calls(self) -> int:
        """How many calls fill a sample."""
        seconds = min(self.sample(1) for _ in range(3))
        seconds = self.sample(max(1, min(1000, round(SAMPLE / 10 / seconds))))
        return max(1, round(SAMPLE / seconds))

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
    first_peak: int | None
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
                missing.append(f"{name}: {error}")
            else:
                stack.callback(workers[-1].close)
        compare(module, workers)
        ours = any(w.name == OURS for w in workers)
        warm = warm_start(name, threads, folder) if ours else None
        timings = interleaved(workers, budget)
        found = {w.name: result(w, t, warm) for w, t in zip(workers, timings, strict=True)}
    return Row(name, module.TITLE, found, missing)


def compare(module: ModuleType, workers: Sequence[Worker]) -> None:
    """Raise AssertionError where a contender's results are not the first peer's."""
    same = [w for w in workers if w.name not in (COPY, EPILOGUE)]
    expected = next((w for w in same if w.name in PEERS), same[0])
    for worker in same:
        for a, b in zip(expected.report.arrays, worker.report.arrays, strict=True):
            assert a.shape == b.shape, (worker.name, a.shape, b.shape)
            apart = np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1)
            assert apart <= module.TOLERANCE, (
                f"{module.__name__}: {worker.name} is {apart:.1e} from {expected.name}, "
                f"more than {module.TOLERANCE:.1e}"
            )


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


# ----- the tables ---------------------------------------------------------------------------------


def speeds(rows: Sequence[Row]) -> str:
    """Medians and least samples of all contenders, and how many times ours the best peer takes."""
    shown = [p for p in (EAGER, *PEERS, COPY) if any(p in r.results for r in rows)]
    lines = [
        f"| workload | {OURS} | best peer | ratio | of minima | {' | '.join(shown)} |",
        f"|---|{'---:|' * (4 + len(shown))}",
    ]
    for row in rows:
        best = row.best_peer
        cells = [both(row.timing(OURS)), best.name if best else "-"]
        cells += [share(row.ratio), share(row.ratio_of_minima)]
        cells += [both(row.timing(name)) for name in shown]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    means = (geometric_mean([x for x in xs if x is not None] or [1]) for xs in ratios(rows))
    lines += ["", "Geometric mean of the ratios: {:.2f}, of minima {:.2f}.".format(*means)]
    return "\n".join(lines)


def ratios(rows: Sequence[Row]) -> tuple[list[float | None], list[float | None]]:
    """By medians, and by minima."""
    return [row.ratio for row in rows], [row.ratio_of_minima for row in rows]


def both(timing: Timing | None) -> str:
    """The median, and the minimum in parentheses."""
    return "-" if timing is None else f"{text(timing.median)} ({text(timing.minimum)})"


def share(value: float | None) -> str:
    """A ratio, where there is one."""
    return "-" if value is None else f"{value:.2f}"


def starts(rows: Sequence[Row]) -> str:
    """Time to compiled code, and peaks of memory."""
    heads = ("to compiled code", "warm", "jax", "torch compile")
    heads += ("peak with the first calls", "jax", "peak of later calls", "jax")
    lines = [f"| workload | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in rows:
        ours, jax, compiled = (row.results.get(n) for n in (OURS, "jax", "torch compile"))
        seconds = [ours and ours.cold, ours and ours.warm, jax and jax.cold]
        seconds.append(compiled and compiled.cold)
        sizes = [r and getattr(r, f) for f in ("first_peak", "peak") for r in (ours, jax)]
        cells = ["-" if s is None else text(s) for s in seconds]
        cells += ["-" if s is None else f"{s / 2**20:.1f} MiB" for s in sizes]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def goals(rows: Sequence[Row]) -> Iterator[str]:
    """What is asked beyond the ratio to the best peer, with what was measured: a line each."""
    for row in rows:
        ours, eager, jax = (row.timing(name) for name in (OURS, EAGER, "jax"))
        times = {
            "of a copy's bandwidth, at least 0.80": ratio(row.timing(COPY), ours),
            "of the time with bias and gelu, at most 1.15": ratio(row.timing(EPILOGUE), ours),
        }
        if row.name == "one_op" and ours:
            times["us a call, at most 1"] = ours.median * 1e6
        if row.name == "tiny_sgd":
            times["of JAX's time, at most 0.20"] = ratio(ours, jax)
        if row.name == "leapfrog":
            times["of our eager time over ours, at least 10"] = ratio(eager, ours)
            times["of eager torch's time, eagerly, at most 1.5"] = ratio(eager, row.timing("torch"))
        for goal, value in {**times, **_goals_of_starts(row)}.items():
            if value is not None:
                yield f"- {row.title}: {value:.2f} {goal}"


def _goals_of_starts(row: Row) -> dict[str, float]:
    """The first call of the transformer's step, and the memory of every training step."""
    ours, jax = row.results.get(OURS), row.results.get("jax")
    found: dict[str, float] = {}
    if not ours or not jax:
        return found
    if row.name == "transformer_adam" and ours.cold and ours.warm and jax.cold:
        found["of JAX's first call, at most 1"] = ours.cold / jax.cold
        found["of it when warm, at most 0.25"] = ours.warm / jax.cold
    if row.name in STEPS:
        found["of JAX's peak memory, at most 1"] = ours.peak / jax.peak
    return found


def as_json(rows: Sequence[Row], threads: int) -> dict[str, Any]:
    """All that was measured, with the machine and the versions."""
    return {
        "machine": facts() | {"threads": threads},
        "workloads": {
            row.name: {
                "title": row.title,
                "ratio_to_best_peer": row.ratio,
                "ratio_of_minima": row.ratio_of_minima,
                "best_peer": row.best_peer and row.best_peer.name,
                "contenders": {name: r.as_json() for name, r in row.results.items()},
                "missing": list(row.missing),
            }
            for row in rows
        },
    }


def main(arguments: list[str]) -> None:
    """Measure the workloads named, or all, and print the tables."""
    parser = argparse.ArgumentParser("python -m benchmarks workloads", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--peers", default=",".join(PEERS), help="those to measure, by commas")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every library")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of timing a workload")
    parser.add_argument("--json", type=Path, help="a file for all that was measured")
    options = parser.parse_args(arguments)
    unknown = {*options.names} - {*NAMES} | {*options.peers.split(",")} - {*PEERS, ""}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or NAMES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            peers = options.peers.split(",")
            rows.append(measure(name, peers, options.threads, options.budget, Path(folder)))
    print(f"{machine(options.threads)}\n\n{speeds(rows)}\n\n{starts(rows)}\n")
    print("Goals:", *goals(rows), sep="\n")
    for why in (why for row in rows for why in row.missing):
        print(f"Not measured: {why}")
    if options.json:
        options.json.write_text(json.dumps(as_json(rows, options.threads), indent=1) + "\n")
