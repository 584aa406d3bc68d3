"""Calls of plans with the time of each step, for the profiles that are active in a context."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from stagekit.evaluation import Array
from stagekit.kernels.plan import NativePlan
from stagekit.kernels.work import Work, work
from stagekit.plan import Env, Plan, clock

# The lists of calls that want each call; None where there is none, so that calls take no detour.
listening: ContextVar[tuple[list[Call], ...] | None] = ContextVar("listening", default=None)


class Call(NamedTuple):
    """A call of a plan: when it began and ended, and each of its steps, in ns of `plan.clock`."""

    plan: Plan | NativePlan
    env: dict[str, Any]
    thread: int
    begin: int
    end: int
    times: Array

    @property
    def sizes(self) -> tuple[Any, ...]:
        """The values of the plan's names."""
        return tuple(self.env[name] for name in self.plan.graph.symbols)

    def work(self) -> list[Work]:
        """What the steps did."""
        return work(self.plan, self.env)


def run(plan: Plan | NativePlan, arrays: Sequence[Array], env: Env) -> list[Array]:
    """The outputs of a plan."""
    wanted = listening.get()
    if wanted is None:
        return plan(arrays, env)
    if isinstance(plan, NativePlan):
        plan.prepare()  # what that takes is no part of the call
    steps = plan.steps.steps if isinstance(plan, NativePlan) else plan.steps
    times = np.zeros((len(steps), 2), np.int64)
    begin = clock()
    outputs = plan.timed(arrays, env, times)
    call = Call(plan, dict(env), threading.get_ident(), begin, clock(), times)
    if times.all():  # else a check failed, and NumPy ran
        for calls in wanted:
            calls.append(call)
    return outputs
