"""What flows through a graph: values of named tensors on frames, and how they are distributed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.data.inputs import Tensors
from udx.errors import UdxError, first_line
from udx.runtime.onnxruntime_runner import open_session

if TYPE_CHECKING:
    import onnx

BINS: Final = 2048


def values(
    model: "onnx.ModelProto", names: Sequence[str], frames: Iterable[Tensors], source: str
) -> Iterator[dict[str, NDArray[Any]]]:
    """Values of tensors inside a model, frame by frame; ``source`` names the model in errors.

    Raises:
        UdxError: ONNX Runtime refuses the model, or fails on a frame.
    """
    session = open_session(_with_outputs(model, names).SerializeToString(), source)
    for frame in frames:
        try:
            found = session.run(list(names), dict(frame))
        except Exception as error:  # onnxruntime's own classes derive from Exception directly
            raise UdxError(f"ONNX Runtime fails on {source} ({first_line(error)}); export it again") from error
        yield dict(zip(names, found, strict=True))


@dataclass(slots=True)
class Magnitudes:
    """Histogram of the absolute values of one tensor over all frames seen, in ``BINS`` bins from 0 to ``top``.

    The bins double in width whenever a larger value comes, so memory is bounded and no frame is read twice.
    ``seen`` is the largest value.
    """

    counts_B: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    top: float = 0.0
    seen: float = 0.0

    def observe(self, data: NDArray[np.float32]) -> None:
        """Count the values of one more frame, which are finite."""
        size = np.abs(data).ravel()
        largest = float(size.max(initial=0.0))
        if self.top == 0.0 and largest > 0.0:
            self.top = largest
        while largest > self.top:
            self.counts_B = np.concatenate([self.counts_B.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2.0
        scaled = size * (BINS / self.top) if self.top else size
        self.counts_B += np.bincount(np.minimum(scaled.astype(np.int64), BINS - 1), minlength=BINS)
        self.seen = max(self.seen, largest)

    @property
    def centres_B(self) -> NDArray[np.float64]:
        """Middle of every bin."""
        return (np.arange(BINS) + 0.5) * (self.top / BINS)


def record(
    model: "onnx.ModelProto", names: Sequence[str], frames: Iterable[tuple[str, Tensors]], source: str
) -> dict[str, Magnitudes]:
    """Distributions of tensors over frames, each with its sample's token.

    Raises:
        UdxError: a tensor holds infinities or NaN in some frame, or is 0 in all of them.
    """
    tokens: list[str] = []

    def tensors() -> Iterator[Tensors]:
        for token, frame in frames:
            tokens.append(token)
            yield frame

    found = {name: Magnitudes() for name in names}
    for arrays in values(model, names, tensors(), source):
        for name, data in arrays.items():
            if not np.isfinite(data).all():
                raise UdxError(
                    f"{source} computes infinities or NaN in {name} on sample {tokens[-1]}: no scale holds them; "
                    "look into that sample with udx predict, or train again with a lower rate"
                )
            found[name].observe(data)
    for name, magnitudes in found.items():
        if magnitudes.seen == 0.0:
            raise UdxError(
                f"{source} computes nothing but 0 in {name} on all {len(tokens)} samples: no scale can be told; "
                "calibrate with more samples, or train the detector longer"
            )
    return found


def _with_outputs(model: "onnx.ModelProto", names: Sequence[str]) -> "onnx.ModelProto":
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return watched
