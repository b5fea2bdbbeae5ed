"""Small Q/DQ graphs, as ONNX Runtime's own quantiser writes them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

LAYERS = ["Conv", "ConvTranspose", "Gemm"]
OPTIONS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
"""What TensorRT reads: zero points of 0, and biases that stay FP32."""


class Frames(CalibrationDataReader):
    def __init__(self, frames: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._frames = iter([dict(frame) for frame in frames])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._frames, None)


def quantise(model: onnx.ModelProto, frames: Sequence[Mapping[str, np.ndarray]]) -> onnx.ModelProto:
    """INT8 convolutions with a pair of Q and DQ before each, calibrated on a few frames."""
    with tempfile.TemporaryDirectory() as folder:
        quantised = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            quantised,
            Frames(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=LAYERS,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options=OPTIONS,
        )
        return onnx.load(quantised)


def quantise_blindly(model: onnx.ModelProto, largest: float = 4.0) -> onnx.ModelProto:
    """As ``quantise``, every activation taken to lie within ±``largest``: for graphs too large to run here."""
    inferred = onnx.shape_inference.infer_shapes(model)
    ends = np.float32([-largest, largest])
    ranges = {name: TensorData(lowest=ends[0], highest=ends[1]) for node in model.graph.node for name in _floats(node)}
    quantiser = QDQQuantizer(
        inferred,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=LAYERS,
        extra_options=OPTIONS,
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    quantised: onnx.ModelProto = quantiser.model.model
    return quantised


def _floats(node: onnx.NodeProto) -> list[str]:
    return [*node.input[:1], *node.output[:1]] if node.op_type in LAYERS else []
