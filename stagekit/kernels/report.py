"""What people are shown of native code: buffers and steps of a plan, the text of its kernels."""

from __future__ import annotations

from collections.abc import Iterator

from stagekit.kernels import engine, llvm
from stagekit.kernels.code import Layout, chunks_of
from stagekit.kernels.listing import Listing
from stagekit.kernels.matmul import View, row_major
from stagekit.kernels.program import overwrites
from stagekit.kernels.steps import ConvolutionStep, KernelStep, LibraryStep, MatmulStep, Step, Steps
from stagekit.kernels.text import nest, short


def plan_text(steps: Steps, layout: Layout) -> str:
    """The buffers of a plan, where each lies, and its steps in order."""
    return "\n".join(
        [
            f"plan {steps.graph.name}: {len(steps.steps)} steps, native",
            *_buffer_lines(steps, layout),
            *(f"  {_step_line(step)}" for step in steps.steps),
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


def _step_line(step: Step) -> str:
    """What a step writes and reads, and how it runs."""
    line = f"{', '.join(step.writes)} = {step.name}({', '.join(step.reads)})"
    if isinstance(step, LibraryStep):
        assert step.node.op is not None
        return f"{line}: {step.node.op.name} by NumPy"
    if isinstance(step, ConvolutionStep):
        return f"{line}: convolution, in parallel"
    if isinstance(step, MatmulStep):
        line += f": {_view_text(step.product.x)} @ {_view_text(step.product.y)}"
    elif isinstance(step, KernelStep):
        line += f": {step.scheduled.rows} rows"
    return line + _chunk_text(step)


def _chunk_text(step: Step) -> str:
    if not isinstance(step, (KernelStep, MatmulStep)):
        return ""
    chunks = chunks_of(step)
    number, grain, are_parallel = chunks.number, chunks.grain, chunks.are_parallel
    if number.constant == 1:
        return ", one chunk"
    return f", {number} chunks of {grain}{', in parallel' if are_parallel else ''}"


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
        written = llvm.function(kernel, engine.vector_bytes() // 4)
        return Listing(step.name, "cpu", llvm.module([written]), nest(kernel))
    if isinstance(step, ConvolutionStep):
        written = llvm.Written(step.code.text, tuple(sorted(step.code.declarations)))
        return Listing(step.name, "cpu", llvm.module([written]), _step_line(step))
    return None
