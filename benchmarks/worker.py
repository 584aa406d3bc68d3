"""One contender at one workload, in a process of its own: `python -m benchmarks.worker`.

The driver (`benchmarks/table.py`) talks to it by pipes, one pickle a message. First the worker
says what its first calls took and gave (`Report`); then each integer k that it reads is answered
by the seconds that k calls took, and None by the peak of the memory meanwhile.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from benchmarks.workloads import Report, Work

# The calls before timing, whose last results are compared between the contenders.
CHECKED = 3

# What a contender's name begins with, and the module that is its library.
LIBRARIES = {
    "stagekit": "stagekit",
    "torch": "torch",
    "jax": "jax.numpy",
    "NumPy": "numpy",
    "numexpr": "numexpr",
    "autograd": "autograd.numpy",
    "copy": "numpy",
}


def arrays(tree: Any) -> Iterator[np.ndarray]:
    """The tensors of any library in nested sequences, as arrays."""
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from arrays(branch)
    else:
        yield np.array(tree.detach() if hasattr(tree, "detach") else tree)


def status(field: str) -> int | None:
    """Bytes by a line of Linux's account of this process; None elsewhere."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def peak() -> int:
    """The most bytes that were resident since `forget_peak`, or ever where that has no effect."""
    found = status("VmHWM")
    return found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Let the peak begin anew: it else counts what the imports needed and gave back."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def run(step: Callable[[], Any], calls: int) -> float:
    """Seconds that `calls` calls took, each result kept until the next one is there."""
    kept = None
    start = time.perf_counter()
    for _ in range(calls):
        kept = step()
    seconds = time.perf_counter() - start
    del kept
    return seconds


def first_calls(work: Work) -> tuple[list[float], list[np.ndarray]]:
    """Seconds of each of the first calls; the last one's results and the state after it."""
    seconds, kept = [], None
    for _ in range(CHECKED):
        start = time.perf_counter()
        kept = work.step()
        seconds.append(time.perf_counter() - start)
    return seconds, [*arrays(kept), *arrays(work.state())]


def main(workload: str, contender: str, threads: int) -> None:
    """Set up, report, and answer until the driver has no more questions."""
    answers: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    def answer(message: Any) -> None:
        pickle.dump(message, answers)
        answers.flush()

    module = importlib.import_module(f"benchmarks.workloads.{workload}")
    importlib.import_module(LIBRARIES[contender.split()[0]])
    forget_peak()
    base = status("VmRSS") or peak()
    work = module.contenders()[contender]()
    seconds, found = first_calls(work)
    answer(Report(seconds, found, peak() - base))
    del found
    forget_peak()
    try:
        for calls in iter(lambda: pickle.load(sys.stdin.buffer), None):
            answer(run(work.step, calls))
    except EOFError:
        return
    answer(peak() - base)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
