"""Which layers suffer from quantization: the error that each causes at the heads, alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udx.calibration.activations import values
from udx.calibration.insert import Format, Scales, quantize
from udx.calibration.placement import Placement
from udx.data.inputs import Tensors
from udx.export.precision import last_layers

if TYPE_CHECKING:
    import onnx

Maps = Sequence[Mapping[str, NDArray[np.float32]]]
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Relative error of the head maps when nothing is quantized but this layer, or the layers of this block.

    0.01 is noise of 1 % of the maps' standard deviation (over all frames, root of the mean square, mean of the maps).
    """

    name: str
    block: str
    layers: int
    error: float


@dataclass(frozen=True, slots=True)
class Analysis:
    """Sensitivities of the layers and of the blocks, each from the worst on, and the error with all quantized."""

    layers: tuple[Sensitivity, ...]
    blocks: tuple[Sensitivity, ...]
    together: float


class Probe:
    """A graph with its calibrated scales, its head maps on a few frames, and any part of it quantized."""

    def __init__(
        self,
        model: "onnx.ModelProto",
        placement: Placement,
        scales: Scales,
        to: Format,
        frames: Sequence[Tensors],
        source: str,
    ) -> None:
        self.model = model
        self.placement = placement
        self.scales = scales
        self.to = to
        self.frames = frames
        self.source = source
        self.heads = last_layers(model)
        self.exact = self._maps(model)

    def error(self, part: Placement) -> float:
        """Relative error of the head maps with this part of the placement quantized."""
        return relative_error(self.exact, self._maps(quantize(self.model, part, self.scales, self.to)))

    def analyse(self, tick: Tick) -> Analysis:
        """Quantize layer by layer, block by block, and everything."""
        blocks = self.placement.blocks
        parts: list[tuple[str, str, tuple[str, ...]]]
        parts = [(node, block, (node,)) for block, nodes in blocks.items() for node in nodes]
        parts += [(block, block, nodes) for block, nodes in blocks.items() if len(nodes) > 1]
        found = []
        for done, (name, block, nodes) in enumerate(parts, start=1):
            found.append(Sensitivity(name, block, len(nodes), self.error(self.placement.only(nodes))))
            tick(done, len(parts))
        layers = found[: len(self.placement.layers)]
        lone = {item.block: item for item in layers if len(blocks[item.block]) == 1}
        whole = [Sensitivity(name, name, 1, item.error) for name, item in lone.items()] + found[len(layers) :]
        return Analysis(_worst_first(layers), _worst_first(whole), self.error(self.placement))

    def _maps(self, model: "onnx.ModelProto") -> Maps:
        return list(values(model, self.heads, self.frames, self.source))


def relative_error(exact: Maps, other: Maps) -> float:
    """Noise over signal of each map over all frames, in root mean squares; the mean of the maps."""
    ratios = []
    for name in exact[0]:
        reference = np.stack([maps[name] for maps in exact]).astype(np.float64)
        noise = np.stack([maps[name] for maps in other]) - reference
        ratios.append(np.sqrt((noise**2).mean()) / max(float(reference.std()), 1e-12))
    return float(np.mean(ratios))


def _worst_first(items: Sequence[Sensitivity]) -> tuple[Sensitivity, ...]:
    return tuple(sorted(items, key=lambda item: -item.error))
