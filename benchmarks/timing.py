"""Timing of contenders at the same work, interleaved so that a busy machine disturbs all alike.

A sample is the mean of enough calls to last `SAMPLE` seconds, a result the median of the samples,
a ratio the median of the ratios of samples taken one after the other.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from random import Random
from statistics import median, quantiles
from typing import Any

SAMPLE = 2e-3
ROUNDS = 60
PACKAGES = ("numpy", "llvmlite", "torch", "jax", "numexpr", "autograd")


@dataclass(frozen=True)
class Timing:
    """The samples of one contender, in seconds a call."""

    name: str
    samples: Sequence[float]

    @property
    def median(self) -> float:
        """The middle sample."""
        return median(self.samples)

    @property
    def minimum(self) -> float:
        """The least sample."""
        return min(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles: half of the samples lie between them."""
        low, _, high = quantiles(self.samples, n=4)
        return low, high


@dataclass(frozen=True)
class Comparison:
    """Timings of one piece of work, and the goals set for it with their measured values."""

    title: str
    timings: Sequence[Timing]
    goals: Sequence[str] = ()

    def __getitem__(self, name: str) -> Timing | None:
        """A contender's samples, None where it is not installed here."""
        return next((t for t in self.timings if t.name == name), None)

    @property
    def best_peer(self) -> Timing | None:
        """The fastest of the other frameworks; bare NumPy is the work itself, not a peer."""
        peers = [t for t in self.timings if not t.name.startswith(("stagekit", "NumPy"))]
        return min(peers, key=lambda t: t.median, default=None)

    def __str__(self) -> str:
        """A Markdown table."""
        head = f"| {self.title} | median | quartiles | to the best peer |"
        lines = [head, "|---|---:|---:|---:|"]
        best = self.best_peer
        for t in self.timings:
            low, high = t.spread
            share = "" if best is None else f"{ratio(t, best):.2f}"
            lines.append(f"| {t.name} | {text(t.median)} | {text(low)} to {text(high)} | {share} |")
        return "\n".join([*lines, "", *self.goals])


def text(seconds: float) -> str:
    """A duration with its unit.

    >>> text(0.00123)
    '1.23 ms'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def goal(wish: str, value: float | None, limit: float, unit: str = "x") -> str:
    """A line that says what was wished for, what was measured, and whether that is enough."""
    if value is None:
        return f"Goal: {wish}: not measured, the peer is not installed."
    verdict = "met" if value < limit else "missed"
    return f"Goal: {wish}: {value:.2f} {unit}, {verdict}."


def ratio(a: Timing | None, b: Timing | None) -> float | None:
    """How many times b's duration a takes, round by round; None where one was not measured."""
    if a is None or b is None:
        return None
    return median(x / y for x, y in zip(a.samples, b.samples, strict=True))


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, length: float = SAMPLE
) -> list[Timing]:
    """One sample of each contender, `rounds` times, after a warm-up.

    Each round has an order of its own (by a fixed seed): threads of a framework that still spin
    after its sample would else disturb always the same one.
    """
    numbers = {name: _calls(run, length) for name, run in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffled = list(contenders), Random(0)
    gc.collect()
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            samples[name].append(sample(contenders[name], numbers[name]))
    return [Timing(name, found) for name, found in samples.items()]


def sample(run: Callable[[], object], number: int) -> float:
    """Seconds a call, as the mean of `number` calls."""
    start = time.perf_counter()
    for _ in range(number):
        run()
    return (time.perf_counter() - start) / number


def _calls(run: Callable[[], object], length: float) -> int:
    """How many calls fill a sample."""
    sample(run, 3)
    return max(1, round(length / sample(run, 3)))


def peer(name: str) -> Any:
    """A peer's module, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def facts() -> dict[str, Any]:
    """Where this is measured: processor, cores, load, and versions; None where not installed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def machine(threads: int = 1) -> str:
    """The facts in a line of text."""
    known = facts()
    load = "unknown" if known["load"] is None else f"{known['load']:.1f}"
    versions = [f"{package} {known[package] or 'not installed'}" for package in PACKAGES]
    share = "one thread" if threads == 1 else f"{threads} threads"
    return (
        f"{known['processor']}, {known['cores']} cores, load {load}, {share} for each library; "
        f"Python {known['python']}, {', '.join(versions)}"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor()} ({platform.machine()})"
