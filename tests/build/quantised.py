"""Small Q/DQ graphs, as ONNX Runtime's own quantiser writes them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

LAYERS = ["Conv", "ConvTranspose", "Gemm"]


class Frames(CalibrationDataReader):
    def __init__(self, frames: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._frames = iter([dict(frame) for frame in frames])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._frames, None)


def quantise(model: onnx.ModelProto, frames: Sequence[Mapping[str, np.ndarray]]) -> onnx.ModelProto:
    """INT8 convolutions with a pair of Q and DQ before each, calibrated on a few frames."""
    source = onnx.ModelProto()
    source.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder:
        quantised = Path(folder) / "quantised.onnx"
        quantize_static(
            source,
            quantised,
            Frames(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=LAYERS,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return onnx.load(quantised)
