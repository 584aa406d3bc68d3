"""What people are shown of native code: buffers and steps of a plan, the text of its kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stagekit.kernels.code import Layout, are_parallel, chunks_of
from stagekit.kernels.fusion.steps import (
    ConvolutionStep,
    KernelStep,
    LibraryStep,
    MatmulStep,
    Step,
    Steps,
    regions,
)
from stagekit.kernels.listing import Listing
from stagekit.kernels.llvm import printer
from stagekit.kernels.machine import engine
from stagekit.kernels.products.matmul import View, row_major
from stagekit.kernels.program import overwrites
from stagekit.kernels.text import nest, short

_ONE_CHUNK = "one chunk"


def plan_text(steps: Steps, layout: Layout) -> str:
    """The buffers of a plan, where each lies, and its steps in order."""
    return "\n".join(
        [
            f"plan {steps.graph.name}: {len(steps.steps)} steps, native",
            *_buffer_lines(steps, layout),
            *(line for region in regions(steps.steps) for line in _region_lines(region)),
            *_in_place_lines(steps, layout),
            f"  arena: {layout.arena.size} bytes",
        ]
    )


def _buffer_lines(steps: Steps, layout: Layout) -> Iterator[str]:
    shapes: dict[str, tuple[object, ...]] = {}
    for node, name in steps.buffers.items():
        shapes.setdefault(name, node.type.shape)
    used = {name for step in steps.steps for name in (*step.reads, *step.writes)}
    for name, size in steps.sizes.items():
        place = _place(steps, layout, name)
        if place is None or (place == "constant" and name not in used):
            continue  # nothing needs it in memory
        dtype = steps.types[name]
        shape = ",".join(map(str, shapes.get(name, (size,))))
        yield f"  {name}: {short(dtype)}[{shape}], {size * dtype.itemsize} bytes, {place}"


def _place(steps: Steps, layout: Layout, name: str) -> str | None:
    """Where a buffer lies."""
    kinds = ("input", layout.inputs), ("output", layout.outputs), ("library result", layout.hosts)
    for kind, places in kinds:
        if name in places:
            return f"{kind} {places[name]}"
    if name in steps.constants:
        return "constant"
    offset = layout.arena.offsets.get(name)
    return None if offset is None else f"arena at {offset}"


def _region_lines(region: Sequence[Step]) -> Iterator[str]:
    """A step, or several that run side by side."""
    costs = (chunks_of(x).cost for x in region if isinstance(x, (KernelStep, MatmulStep)))
    parallel = ", in parallel" if are_parallel(costs) else ""
    if len(region) == 1:
        line = _step_line(region[0])
        yield f"  {line}{'' if line.endswith(_ONE_CHUNK) else parallel}"
        return
    yield f"  side by side{parallel}:"
    yield from (f"    {_step_line(step)}" for step in region)


def _step_line(step: Step) -> str:
    """What a step writes and reads, and how it runs."""
    line = f"{', '.join(step.writes)} = {step.name}({', '.join(step.reads)})"
    if isinstance(step, LibraryStep):
        assert step.node.op is not None
        return f"{line}: {step.node.op.name} by NumPy"
    if isinstance(step, MatmulStep):
        x, y = map(_view_text, (step.product.x, step.product.y))
        return f"{line}: {x} @ {y}, {_chunk_text(step)}"
    if isinstance(step, KernelStep):
        return f"{line}: {step.scheduled.rows} rows, {_chunk_text(step)}"
    return f"{line}: in parallel loops of its own"


def _chunk_text(step: KernelStep | MatmulStep) -> str:
    chunks = chunks_of(step)
    if chunks.number.constant == 1:
        return _ONE_CHUNK
    return f"{chunks.number} chunks of {chunks.grain}"


def _view_text(view: View) -> str:
    """The shape of an operand, and its strides where they are not those of its shape."""
    shape, strides = (",".join(map(str, sizes)) for sizes in (view.shape, view.strides))
    if view.strides == row_major(view.shape):
        return f"[{shape}]"
    return f"[{shape}] with strides [{strides}]"


def _in_place_lines(steps: Steps, layout: Layout) -> Iterator[str]:
    """Outputs that a call may write where an input lies, if nothing else holds that one."""
    outputs, inputs = ({k: name for name, k in x.items()} for x in (layout.outputs, layout.inputs))
    for out, given in sorted(overwrites(steps, layout)):
        yield f"  in place: {outputs[out]} over {inputs[given]}, if nothing else holds that"


def listings(steps: Steps) -> list[Listing]:
    """The kernels among some steps, those of convolutions too, in the order in which they run."""
    return [found for step in steps.steps if (found := _listing(step)) is not None]


def _listing(step: Step) -> Listing | None:
    if isinstance(step, KernelStep):
        kernel = step.scheduled.kernel
        written = printer.function(kernel, engine.vector_bytes() // 4)
        return Listing(step.name, "cpu", printer.module([written]), nest(kernel))
    if isinstance(step, ConvolutionStep):
        written = printer.Written(step.code.text, tuple(sorted(step.code.declarations)))
        return Listing(step.name, "cpu", printer.module([written]), _step_line(step))
    return None
