"""The table of native CPU code: `python -m benchmarks workloads [name ...]`.

How it is measured, and what it shows, is in `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.contest import COPY, EAGER, EPILOGUE, OURS, PEERS, Row, measure
from benchmarks.timing import Timing, facts, machine, ratio, text
from benchmarks.workloads import NAMES

# The training steps: their memory is compared.
STEPS = ("mlp_adam", "tiny_sgd", "cnn_sgd", "transformer_adam", "gru_sgd", "theano_mlp")


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
    heads = ["to compiled code", "warm", "jax", "torch compile"]
    heads += ["peak with the first calls", "jax", "peak of later calls", "jax"]
    lines = [f"| workload | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in rows:
        ours, jax, compiled = (row.results.get(n) for n in (OURS, "jax", "torch compile"))
        cells = [duration(ours.cold if ours else None), duration(ours.warm if ours else None)]
        cells += [duration(r.cold if r else None) for r in (jax, compiled)]
        cells += [size(r.first_peak if r else None) for r in (ours, jax)]
        cells += [size(r.peak if r else None) for r in (ours, jax)]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """Seconds, where there are any."""
    return "-" if seconds is None else text(seconds)


def size(count: int | None) -> str:
    """Bytes, where there are any."""
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def goals(rows: Sequence[Row]) -> Iterator[str]:
    """What is asked beyond the ratio to the best peer, with what was measured: a line each."""
    for row in rows:
        ours, eager, jax = (row.timing(name) for name in (OURS, EAGER, "jax"))
        times = {
            "of a copy's bandwidth, at least 0.80": ratio(row.timing(COPY), ours),
            "times as long with bias and gelu, at most 1.15": ratio(row.timing(EPILOGUE), ours),
        }
        if row.name == "one_op" and ours:
            times["us a call, at most 1"] = ours.median * 1e6
        if row.name == "tiny_sgd":
            times["of JAX's time, at most 0.20"] = ratio(ours, jax)
        if row.name == "leapfrog":
            times["times as fast as eagerly, at least 10"] = ratio(eager, ours)
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
        found["of JAX's first call when warm, at most 0.25"] = ours.warm / jax.cold
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
    options = parsed(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or NAMES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            peers = options.peers.split(",")
            rows.append(measure(name, peers, options.threads, options.budget, Path(folder)))
            if options.json:
                options.json.write_text(json.dumps(as_json(rows, options.threads), indent=1) + "\n")
    print(machine(options.threads), speeds(rows), starts(rows), sep="\n\n", end="\n\n")
    print("Goals:", *goals(rows), sep="\n")
    for row in rows:
        for why in row.missing:
            print(f"Not measured: {row.title}: {why}")


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options, all of them known."""
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
    return options
