"""What people are shown of a native plan: its buffers and steps, and the text of its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stagekit.kernels import engine, llvm
from stagekit.kernels.aliasing import may_overwrite
from stagekit.kernels.listing import Listing
from stagekit.kernels.matmul import View
from stagekit.kernels.text import nest, short

if TYPE_CHECKING:
    from stagekit.kernels.plan import NativePlan, Step


def plan_text(plan: NativePlan) -> str:
    """The buffers of a plan, where each lies, and its steps in order."""
    stretches = sum(isinstance(stretch, list) for stretch in plan.stretches)
    steps = plan.steps.steps
    return "\n".join(
        [
            f"plan {plan.graph.name}: {len(steps)} steps, {stretches} native functions",
            "buffers:",
            *_buffer_lines(plan),
            "steps:",
            *(f"  {_step_line(step)}" for step in steps),
            *_in_place_lines(plan),
            f"arena: {plan.layout.arena.size} bytes",
        ]
    )


def _buffer_lines(plan: NativePlan) -> Iterator[str]:
    steps, layout = plan.steps, plan.layout
    shapes: dict[str, Any] = {}
    for node, name in steps.buffers.items():
        shapes.setdefault(name, node.type.shape)
    for name, size in steps.sizes.items():
        dtype = steps.types[name]
        shape = ",".join(map(str, shapes.get(name, (size,))))
        place = next(_places(plan, name), None)
        if place is None:
            offset = layout.arena.offsets.get(name)
            if offset is None:
                continue  # nothing needs it in memory
            place = f"arena, from {offset}"
        yield f"  {name}: {short(dtype)}[{shape}], {size * dtype.itemsize} bytes, {place}"


def _places(plan: NativePlan, name: str) -> Iterator[str]:
    layout = plan.layout
    for kind, places in (
        ("input", layout.inputs), ("output", layout.outputs), ("library result", layout.hosts),
    ):  # fmt: skip
        if name in places:
            yield f"{kind} {places[name]}"
    if name in plan.steps.constants:
        yield "constant"


def _step_line(step: Step) -> str:
    what = _what(step)
    line = f"{', '.join(step.writes)} = {step.name}({', '.join(step.reads)})"
    return f"{line}: {what}" if what else line


def _what(step: Any) -> str:
    """How a step is run."""
    if hasattr(step, "node"):
        return f"{step.node.op.name} by NumPy"
    if hasattr(step, "product"):
        x, y = (_view_text(v) for v in (step.product.x, step.product.y))
        return f"{x} @ {y}, {_chunks(step)}"
    if hasattr(step, "scheduled"):
        return _chunks(step)
    return "parallel loops of its own"


def _view_text(view: View) -> str:
    shape, strides = (",".join(map(str, xs)) for xs in (view.shape, view.strides))
    return f"[{shape}] strides [{strides}]"


def _chunks(step: Any) -> str:
    if step.chunks.constant == 1:
        return "one chunk"
    return f"{step.chunks} chunks, {'in parallel' if step.is_parallel else 'one after the other'}"


def _in_place_lines(plan: NativePlan) -> Iterator[str]:
    """Outputs that a call may write where an input lies, if nothing else holds that one."""
    steps, layout = plan.steps, plan.layout
    for output in layout.outputs:
        given = [
            name for name in layout.inputs
            if (steps.types[name], steps.sizes[name]) == (steps.types[output], steps.sizes[output])
            and may_overwrite(steps.steps, output, name, plan.checked)
        ]  # fmt: skip
        if given:
            yield f"in place: {output} may be written over {' or '.join(given)}"


def listings(plan: NativePlan) -> list[Listing]:
    """The kernels of a plan, those of convolutions among them, in the order in which they run."""
    return [found for step in plan.steps.steps if (found := _listing(step)) is not None]


def _listing(step: Any) -> Listing | None:
    if hasattr(step, "scheduled"):
        kernel = step.scheduled.kernel
        written = llvm.function(kernel, engine.vector_bytes() // 4)
        return Listing(step.name, "cpu", llvm.module([written]), nest(kernel))
    if hasattr(step, "code"):
        written = llvm.Written(step.code.text, tuple(sorted(step.code.declarations)))
        return Listing(step.name, "cpu", llvm.module([written]), _step_line(step))
    return None
