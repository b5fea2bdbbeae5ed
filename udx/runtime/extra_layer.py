"""The positive control: a detector with one small convolution more, which computes the same and costs a little.

    python -m udx.runtime.extra_layer student.onnx --out dearer.onnx

The convolution's kernel is 1 in the middle, from every channel to itself: outputs stay as they are, whatever follows.
A plan cannot be changed; to compare plans, build one from such a file and give it to ``udx bench`` as ``--positive``.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from udx.errors import UdxError
from udx.files import write_with
from udx.manifest import Manifest
from udx.runtime.cost import count_macs, known_tensors, skeleton_of, with_shapes
from udx.runtime.listing import is_standard
from udx.runtime.onnx_file import read_onnx, sealed
from udx.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx

SHARE: Final = 0.08
"""Share of the multiply-accumulates that the extra layer is to have: eight times the usual margin."""

KERNELS: Final = (1, 3, 5)
_FLOATS: Final = frozenset({"float32", "float16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraLayer:
    """A convolution of ``kernel`` × ``kernel`` behind tensor ``after``, and its share of the detector's former MACs."""

    after: str
    channels: int
    kernel: int
    macs: int
    share: float

    def __str__(self) -> str:
        return f"a {self.kernel}×{self.kernel} convolution of {self.channels} channels, {self.share:.1%} more MACs"


def write_with_extra_layer(path: Path, out: Path, share: float = SHARE) -> ExtraLayer:
    """Write the detector in ``path`` with one convolution more to ``out``, as an engine file of its own.

    Raises:
        UdxError: ``path`` is no readable detector, keeps its weights in another file, has no place for a convolution,
            or ``out`` cannot be written.
    """
    import onnx

    file = read_onnx(path)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in file.model.graph.initializer):
        raise UdxError(f"{path} keeps its weights in another file, and gets no extra layer; export it as one file")
    layer = add_layer(file.model, file.manifest, share, source=path)
    file.model.doc_string = f"positive control: {layer}"
    write_with(out, lambda partial: onnx.save(file.model, str(partial)))
    return layer


def add_layer(model: "onnx.ModelProto", manifest: Manifest, share: float, *, source: object) -> ExtraLayer:
    """Add the convolution whose MACs come closest to ``share`` of those of the model, and seal it again.

    Raises:
        UdxError: the model has no activation that a convolution fits behind; ``source`` names it.
    """
    skeleton = skeleton_of(model, manifest.dynamic)
    total, _ = count_macs(with_shapes(skeleton, inline=True).graph)
    graph = with_shapes(skeleton).graph
    sites = [
        ExtraLayer(after=spec.name, channels=spec.shape[1], kernel=kernel, macs=macs, share=macs / total)
        for spec in _activations(graph)
        for kernel in KERNELS
        for macs in [math.prod(spec.shape) * spec.shape[1] * kernel**2]
        if total
    ]
    if not sites:
        raise UdxError(f"{source} has no convolution that another one could follow; no positive control can be made")
    chosen = min(sites, key=lambda site: (abs(math.log(site.share / share)), site.after))
    _insert(model.graph, chosen, known_tensors(graph)[chosen.after].dtype)
    sealed(model, manifest)
    return chosen


def _activations(graph: "onnx.GraphProto") -> Iterator[TensorSpec]:
    """Maps (N, C, H, W) behind convolutions; behind the ReLU where one follows, for backends fuse the two."""
    known = known_tensors(graph)
    readers = Counter(name for node in graph.node for name in node.input)
    fused = {
        node.input[0]
        for node in graph.node
        if is_standard(node) and node.op_type == "Relu" and readers[node.input[0]] == 1
    }
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if not is_standard(node) or node.op_type not in ("Conv", "Relu"):
            continue
        spec = known.get(node.output[0])
        if spec and len(spec.shape) == 4 and spec.dtype in _FLOATS and spec.name not in fused | outputs:
            yield spec


def _insert(graph: "onnx.GraphProto", layer: ExtraLayer, dtype: str) -> None:
    from onnx import helper, numpy_helper

    kernel = np.zeros((layer.channels, layer.channels, layer.kernel, layer.kernel), dtype)
    kernel[range(layer.channels), range(layer.channels), layer.kernel // 2, layer.kernel // 2] = 1
    weight, output = "udx_extra_weight", "udx_extra_output"
    graph.initializer.append(numpy_helper.from_array(kernel, weight))
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == layer.after:
                node.input[position] = output
    pads = [layer.kernel // 2] * 4
    shape = [layer.kernel] * 2
    extra = helper.make_node(
        "Conv", [layer.after, weight], [output], name="udx_extra_layer", kernel_shape=shape, pads=pads
    )
    at = next(index for index, node in enumerate(graph.node) if layer.after in node.output)
    graph.node.insert(at + 1, extra)


def _main() -> None:
    import click

    from udx.console import say
    from udx.entry import run_command

    @click.command(help="Write the detector in FILE with one small convolution more.")
    @click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
    @click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
    @click.option("--share", default=SHARE, show_default=True, help="Share of the multiply-accumulates to add.")
    def command(file: Path, out: Path, share: float) -> None:
        say(f"{out}: {write_with_extra_layer(file, out, share)}")

    run_command(command)


if __name__ == "__main__":
    _main()
