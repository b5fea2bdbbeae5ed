"""From the distribution of an activation to the largest magnitude that it is quantized to; larger ones saturate.

``max`` keeps everything. ``percentile`` gives up the largest hundredth of a per cent. ``mse`` has the smallest mean
squared error of rounding and saturation together. ``entropy`` loses least information (Migacz, "8-bit inference with
TensorRT", GTC 2017). Percentile and entropy are ONNX Runtime's own.
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from udx.calibration.activations import BINS, Magnitudes
from udx.calibration.insert import LARGEST, Format

Method = Literal["entropy", "mse", "percentile", "max"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

PERCENTILE: Final = 99.99
ENTROPY_BINS: Final = 256
"""ONNX Runtime's search takes time that grows with their square."""

LEVELS: Final = 128
CANDIDATES: Final = 128


def thresholds(found: Mapping[str, Magnitudes], method: Method, to: Format) -> dict[str, float]:
    """Largest magnitude to keep of every tensor."""
    return {name: min(_threshold(seen, method, to), seen.seen) for name, seen in found.items()}


def rounded(values: NDArray[np.float64], largest: float, to: Format) -> NDArray[np.float64]:
    """What quantization to a format makes of values, ``largest`` being its largest magnitude."""
    scale = largest / LARGEST[to]
    scaled = np.clip(values / scale, -LARGEST[to], LARGEST[to])
    if to == "int8":
        return np.asarray(np.rint(scaled) * scale)
    import ml_dtypes

    return np.asarray(scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale)


def _threshold(seen: Magnitudes, method: Method, to: Format) -> float:
    match method:
        case "entropy":
            return _entropy(seen)
        case "percentile":
            return _percentile(seen)
        case "mse":
            return _mse(seen, to)
        case "max":
            return seen.seen


def _mse(seen: Magnitudes, to: Format) -> float:
    centres, counts = seen.centres_B, seen.counts_B
    candidates = seen.seen * np.arange(1, CANDIDATES + 1) / CANDIDATES
    errors = [float((counts * (rounded(centres, largest, to) - centres) ** 2).sum()) for largest in candidates]
    return float(candidates[int(np.argmin(errors))])


def _percentile(seen: Magnitudes) -> float:
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector("percentile", True, BINS, LEVELS, PERCENTILE, "same")
    edges = np.linspace(0.0, seen.top, BINS + 1, dtype=np.float32)
    limits = np.float32(-seen.seen), np.float32(seen.seen)
    collector.histogram_dict = {"": (seen.counts_B, edges, *limits)}
    with contextlib.redirect_stdout(io.StringIO()):
        return float(collector.compute_percentile()[""][1])


def _entropy(seen: Magnitudes) -> float:
    from onnxruntime.quantization.calibrate import HistogramCollector

    half = seen.counts_B.reshape(ENTROPY_BINS, -1).sum(axis=1)
    # Zeros are exact at any scale; a rectified map has so many that nothing else would be looked at.
    half[0] = half[1]
    counts = np.concatenate([half[::-1], half])
    edges = np.linspace(-seen.top, seen.top, 2 * ENTROPY_BINS + 1, dtype=np.float32)
    limits = np.float32(-seen.seen), np.float32(seen.seen)
    collector = HistogramCollector("entropy", True, 2 * ENTROPY_BINS, LEVELS, PERCENTILE, "same")
    return float(collector.get_entropy_threshold((counts, edges, *limits), LEVELS)[1])
