"""Which outputs of a plan may lie in the buffer of one of its inputs.

An output may if nothing reads the input once it has begun to be written: all steps that read it
come before, or the one that writes it reads, for each element, this very element and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stagekit.kernels.ir import Kernel, Stage, Store, Value, every, operands


def may_overwrite(
    steps: Sequence[Any],
    output: str,
    given: str,
    after: int = -1,
    times: Sequence[int] | None = None,
) -> bool:
    """Whether the buffer `output` may be that of `given`, both of the same type and size.

    `steps` have the names of the buffers that they read and write, and kernels a `scheduled`. Steps
    of one of the `times` run side by side. No step up to the time `after` may write `output`.
    """
    times = range(len(steps)) if times is None else times
    reading = [k for k, step in enumerate(steps) if given in step.reads]
    writing = [k for k, step in enumerate(steps) if output in step.writes]
    if not writing or times[writing[0]] <= after:
        return False
    last, first = max((times[k] for k in reading), default=-1), times[writing[0]]
    if last != first:
        return last < first
    if [k for k in reading if times[k] == first] != writing[:1]:
        return False
    scheduled = getattr(steps[writing[0]], "scheduled", None)
    return scheduled is not None and _element_by_element(scheduled.kernel, output, given)


def _element_by_element(kernel: Kernel, output: str, given: str) -> bool:
    """Whether a kernel reads of `given` only the elements that it writes of `output` just then."""
    storing = [stage for stage in kernel.stages if any(s.buffer == output for s in stage.stores)]
    if len(storing) != 1:
        return False
    stores = [store for store in storing[0].stores if store.buffer == output]
    elsewhere = [check.bad for check in kernel.checks]
    elsewhere += [root for s in kernel.stages if s is not storing[0] for root in s.roots]
    if len(stores) != 1 or any(_loads(root, given) for root in elsewhere):
        return False
    return _same_element(storing[0], stores[0], given)


def _same_element(stage: Stage, store: Store, given: str) -> bool:
    """Whether the stage loads one element of `given` at each place: the one that is stored then.

    The stored value must need it, so that it is loaded before, and whatever else needs it has it.
    """
    apart = [folded.body for folded in stage.folds] + [column.value for column in stage.columns]
    if any(_loads(root, given) for root in apart):
        return False
    found = {load for root in stage.roots for load in _loads(root, given)}
    if len(found) != 1:
        return False
    (load,) = found
    same = load.attr.offset == store.offset and load.attr.guard is None
    return same and load in operands([store.value])


def _loads(root: Value, buffer: str) -> list[Value]:
    """What a value reads of a buffer."""
    loads = [value for value in every(root) if value.op == "load"]
    return [load for load in loads if load.attr.buffer == buffer]
