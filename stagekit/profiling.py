"""`sk.profile()`: how long each step of the staged calls inside takes, as a table and a trace."""

from __future__ import annotations

import html
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextvars import Token
from pathlib import Path
from typing import Any, NamedTuple, Self

from stagekit.kernels.work import Work
from stagekit.plan import clock
from stagekit.source import Location
from stagekit.staging.measure import Call, listening


class Row(NamedTuple):
    """One step of one plan: seconds of all its runs, and what these moved and computed in all.

    `function` is the graph's name (`f`, `f_backward`; `f (2)` is another trace of it), `step` the
    name that the step has where the plan prints, `ops` and `lines` what it computes, and where the
    user wrote that.
    """

    function: str
    step: str
    ops: tuple[str, ...]
    calls: int
    total: float
    median: float
    bytes: int
    flops: int
    lines: tuple[Location, ...]

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes a second."""
        return self.bytes / self.total / 1e9 if self.total else 0.0

    @property
    def gf_per_s(self) -> float:
        """10^9 operations a second."""
        return self.flops / self.total / 1e9 if self.total else 0.0


class profile:
    """A context that times each kernel, product and library call of the staged calls inside.

    Calls of this thread count (of this context: `contextvars.copy_context().run` carries it into
    another); a call that traces runs eagerly, and counts no more than eager ops do, so let a
    function be called before. Profiles nest: each gets all calls inside it. Inside, calls take the
    long way, with fresh buffers, a clock of about 50 ns around each step, and no two steps side by
    side; outside nothing is slower than before. `docs/profiling.md` says what the numbers are.

    `rows` by time, `total` and `wall` in seconds, `chrome_trace(path)`; it prints as a table.
    Source: `torch.profiler`, `tf.profiler`.

    >>> import stagekit as sk
    >>> f = sk.function(lambda x: sk.exp(x) + 1.0)
    >>> _ = f(sk.ones(1000))
    >>> with sk.profile() as p:
    ...     for _ in range(3):
    ...         _ = f(sk.ones(1000))
    >>> [row.calls for row in p.rows][0], p.total <= p.wall
    (3, True)
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._tokens: list[tuple[Token[Any], int]] = []
        self.wall = 0.0

    def __enter__(self) -> Self:
        token = listening.set((*(listening.get() or ()), self._calls))
        self._tokens.append((token, clock()))
        return self

    def __exit__(self, *exc: object) -> None:
        token, begin = self._tokens.pop()
        self.wall += (clock() - begin) / 1e9
        listening.reset(token)

    # ----- numbers

    @property
    def total(self) -> float:
        """The seconds that all steps took."""
        return sum(row.total for row in self.rows)

    @property
    def rows(self) -> list[Row]:
        """A `Row` for each step that ran, those that took longest first."""
        works = _Works()
        plans: dict[int, list[Call]] = {}
        for call in self._calls:
            plans.setdefault(id(call.plan), []).append(call)
        names: Counter[str] = Counter()
        rows: list[Row] = []
        for calls in plans.values():
            name = calls[0].plan.graph.name
            names[name] += 1
            rows += _rows(name if names[name] == 1 else f"{name} ({names[name]})", calls, works)
        return sorted(rows, key=lambda row: -row.total)

    def chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write all calls and steps as a trace: open it in Perfetto, or as `chrome://tracing`."""
        events = list(_events(self._calls))
        document = {"traceEvents": events, "displayTimeUnit": "ns"}
        Path(path).write_text(json.dumps(document), encoding="utf-8")

    # ----- text

    def __str__(self) -> str:
        rows = self.rows
        if not rows:
            return "profile: no staged call ran (a call that traces runs eagerly)"
        total = sum(row.total for row in rows)
        cells = [_HEAD, *(_cells(row, total) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        calls = sum(call.end - call.begin for call in self._calls) / 1e9
        lines.append(
            f"{_time(total)} in steps, {_time(calls)} in {len(self._calls)} calls of plans, "
            f"{_time(self.wall)} in all"
        )
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class _Works:
    """The work of plans, found once for each plan and its sizes."""

    def __init__(self) -> None:
        self._known: dict[Any, list[Work]] = {}

    def __call__(self, call: Call) -> list[Work]:
        key = id(call.plan), call.sizes
        if key not in self._known:
            self._known[key] = call.work()
        return self._known[key]


def _rows(name: str, calls: Sequence[Call], works: _Works) -> Iterator[Row]:
    """The rows of one plan."""
    done = [works(call) for call in calls]
    for k, first in enumerate(done[0]):
        seconds = [float(call.times[k, 1] - call.times[k, 0]) / 1e9 for call in calls]
        moved, flops = (sum(getattr(work[k], what) for work in done) for what in ("bytes", "flops"))
        yield Row(
            name, first.step, first.ops, len(calls), sum(seconds), statistics.median(seconds),
            moved, flops, first.lines,
        )  # fmt: skip


def _events(calls: Sequence[Call]) -> Iterator[dict[str, Any]]:
    works = _Works()
    start = min((call.begin for call in calls), default=0)

    def event(call: Call, name: str, kind: str, begin: int, end: int, more: Any) -> dict[str, Any]:
        return {
            "name": name, "cat": kind, "ph": "X", "ts": (int(begin) - start) / 1e3,
            "dur": int(end - begin) / 1e3, "pid": os.getpid(), "tid": call.thread, "args": more,
        }  # fmt: skip

    for call in calls:
        yield event(call, call.plan.graph.name, "call", call.begin, call.end, {})
        for step, (begin, end) in zip(works(call), call.times, strict=True):
            more = {
                "ops": ", ".join(step.ops), "bytes": step.bytes, "flops": step.flops,
                "lines": [f"{x.filename}:{x.lineno}" for x in step.lines],
            }  # fmt: skip
            yield event(call, step.step, "step", begin, end, more)


# ----- the table ----------------------------------------------------------------------------------

_HEAD = ("function", "step", "calls", "total", "%", "median", "GB/s", "GF/s", "line", "ops")
_LEFT = {0, 1, 8, 9}  # columns of words
_OPS = 4  # how many are named


def _cells(row: Row, total: float) -> tuple[str, ...]:
    more = f" +{len(row.lines) - 1}" if len(row.lines) > 1 else ""
    ops = ", ".join(row.ops[:_OPS]) + (" ..." if len(row.ops) > _OPS else "")
    return (
        row.function, row.step, str(row.calls), _time(row.total),
        f"{100 * row.total / total if total else 0:.0f}", _time(row.median),
        f"{row.gb_per_s:.1f}", f"{row.gf_per_s:.1f}",
        f"{row.lines[0]}{more}" if row.lines else "", ops,
    )  # fmt: skip


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if k in _LEFT else cell.rjust(width)
        for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"
