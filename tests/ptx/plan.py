"""Launch a compiled kernel as a plan does: arguments in TensorRT's order, block and shared memory as recorded.

    image = next(compiled([(BevPool().launch(types), 90)]))
    done = run_kernel(image, {"depth": depth, "context": context, "point_index": index, "cell_offsets": offsets})
    done.outputs["pooled"], done.counts.l2_bytes("context")

Arrays of bfloat16 are the bits, as ``uint16``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.ptx.counts import Counter, LaunchCounts
from tests.ptx.errors import PtxError
from tests.ptx.formats import Array
from tests.ptx.groups import Launch
from tests.ptx.machine import run
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import parse
from udx.ops.aot import CompiledImage


@dataclass(frozen=True)
class Done:
    """Outputs by name, and the counts if they were asked for."""

    outputs: dict[str, Array]
    counts: LaunchCounts | None


def numpy_type(dtype: str) -> np.dtype[np.generic]:
    """Return NumPy's type for a tensor of a launch."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def run_kernel(
    image: CompiledImage,
    inputs: Mapping[str, Array],
    *,
    counter: Counter | None = None,
    skew: int = 0,
    may_leave: frozenset[str] = frozenset(),
) -> Done:
    """Launch a kernel on copies of its inputs.

    Inputs cannot be written, except by an output that is the memory of one. Every byte of an output must be written.

    Args:
        image: the kernel for one architecture.
        inputs: its inputs by name.
        counter: counts the launch; ``Counter()`` where only ``Done.counts`` is wanted.
        skew: bytes that all addresses are beyond a multiple of 256.
        may_leave: names of outputs that may have bytes that were never written.

    Raises:
        PtxError: it cannot be executed, does what no kernel may do, or leaves a part of an output unwritten.
    """
    kernel, launch = image.kernel, image.kernel.launch
    program = parse(image.ptx.decode())
    if program.name != kernel.entry:
        raise PtxError(f"the PTX holds {program.name} and not {kernel.entry}")
    for tensor in launch.inputs:
        if inputs[tensor.name].dtype != numpy_type(tensor.dtype):
            raise PtxError(f"{kernel.entry} takes {tensor.name} in {tensor.dtype}, not {inputs[tensor.name].dtype}")
    shapes = {name: array.shape for name, array in inputs.items()}
    out_shapes = dict(zip((output.name for output in launch.outputs), launch.outputs_for(shapes), strict=True))
    types = {output.name: numpy_type(output.dtype) for output in launch.outputs}
    own = [output for output in launch.outputs if output.aliases is None]
    sizes = {tensor.name: inputs[tensor.name].nbytes for tensor in launch.inputs}
    sizes |= {output.name: int(np.prod(out_shapes[output.name])) * types[output.name].itemsize for output in own}
    written = {output.aliases or output.name for output in launch.outputs}
    memory = GlobalMemory(sizes, frozenset(written), skew)
    for tensor in launch.inputs:
        memory.fill(tensor.name, inputs[tensor.name])
    arguments = (
        *(memory.address_of(tensor.name) for tensor in launch.inputs),
        *launch.scalars_for(shapes),
        *(memory.address_of(output.aliases or output.name) for output in launch.outputs),
    )
    run(program, Launch(launch.grid_for(shapes), kernel.block, kernel.shared_bytes, arguments), memory, counter)
    for output in own:
        left = memory.unwritten(output.name)
        if len(left) and output.name not in may_leave:
            raise PtxError(
                f"{kernel.entry} leaves {len(left)} bytes of {output.name} unwritten, from byte {left[0]} on"
            )
    outputs = {
        output.name: memory.content(output.aliases or output.name).view(types[output.name]).reshape(shape)
        for output, shape in zip(launch.outputs, out_shapes.values(), strict=True)
    }
    counts = None if counter is None else counter.counts(kernel.entry, memory.names)
    return Done(outputs, counts)
