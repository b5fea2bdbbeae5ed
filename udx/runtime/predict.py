"""``udx predict``: what an engine sees in one keyframe."""

from pathlib import Path

from udx.data.detections import Detections
from udx.data.frame import KeyFrame
from udx.data.load import load_sample
from udx.files import write_with
from udx.runtime.draw import draw_frame
from udx.runtime.engine import open_engine
from udx.runtime.frames import tensors_of


def predict(
    engine: Path,
    keyframe: KeyFrame,
    *,
    backend: str = "auto",
    threads: int | None = None,
    png: Path | None = None,
    score: float = 0.3,
) -> Detections:
    """Run an engine on a keyframe; with ``png``, draw what scores at least ``score`` beside the ground truth.

    Raises:
        UdxError: the engine cannot be opened or run, a file of the keyframe is missing or damaged, or the
            picture cannot be written.
    """
    with open_engine(engine, backend, threads) as runner:
        detections = runner.detect(tensors_of(load_sample(keyframe, runner.manifest.spec), runner.manifest))
    if png is not None:
        picture = draw_frame(keyframe, detections, score=score)
        write_with(png, lambda partial: picture.save(partial, format="PNG"))
    return detections
