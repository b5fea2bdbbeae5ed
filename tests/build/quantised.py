"""Quantized detectors, as ``udx calibrate`` writes them, without its data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from tests.build.exported import write_sealed
from udx.calibration.activations import record
from udx.calibration.insert import Format, Scales, quantize
from udx.calibration.placement import place
from udx.calibration.thresholds import thresholds
from udx.manifest import Manifest, PrecisionPlan, Quantization
from udx.runtime.graph import structure_of


def write_quantised(
    path: Path,
    model: onnx.ModelProto,
    manifest: Manifest,
    frames: Sequence[Mapping[str, np.ndarray]] = (),
    to: Format = "int8",
) -> Path:
    """Calibrated on a few frames; without any, activations are taken to lie within ±4: nothing is run then."""
    placement = place(model)
    largest = dict.fromkeys(placement.tensors, 4.0)
    if frames:
        largest = thresholds(record(model, placement.tensors, (("", frame) for frame in frames), "it"), "max", to)
    plan = PrecisionPlan(
        precision=to,
        float32=placement.kept,
        quantization=Quantization(
            method="max",
            source_graph=structure_of(model).sha256,
            layers=placement.nodes,
            split="train",
            samples=(),
            samples_sha256="",
        ),
    )
    quantised = quantize(model, placement, Scales(largest, {}), to)
    return write_sealed(path, quantised, dataclasses.replace(manifest, precision=plan))
