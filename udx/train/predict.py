"""What a trained detector says of keyframes, in torch: the yardstick that every engine is held to."""

from collections.abc import Callable, Sequence

import torch

from udx import processes
from udx.data.detections import Detections
from udx.data.frame import KeyFrame
from udx.data.load import ReadSweeps, read_sweeps
from udx.models.decode import decode
from udx.models.detector import Detector
from udx.train.batch import KeyFrames, batches, make_loader


@torch.no_grad()
def predict(
    detector: Detector,
    keyframes: Sequence[KeyFrame],
    *,
    batch_size: int = 4,
    workers: int = 1,
    read: ReadSweeps = read_sweeps,
    progress: Callable[[int, int], None] = lambda done, total: None,
    most: int | None = None,
) -> dict[str, Detections]:
    """Detections by sample token; the detector is put into eval mode and stays on its device.

    ``most``: how many boxes of a sample, those of the best scores; without it all that the detector has.
    """
    detector.eval()
    if not keyframes:
        return {}
    device = next(detector.parameters()).device
    config = detector.config
    dataset = KeyFrames(keyframes, config.spec, read=read)
    loader, _ = make_loader(dataset, min(batch_size, len(keyframes)), workers, seed=None, drop_last=False)
    found: dict[str, Detections] = {}
    for batch in batches(loader, device):
        decoded = decode(
            detector(batch.inputs).heads, config.spec.grid, min(config.max_boxes, most or config.max_boxes)
        )
        for token, boxes, scores, labels in zip(
            batch.tokens, decoded.boxes_BK9.cpu(), decoded.scores_BK.cpu(), decoded.labels_BK.cpu(), strict=True
        ):
            found[token] = Detections(boxes_K9=boxes.numpy(), scores_K=scores.numpy(), labels_K=labels.numpy())
        progress(len(found), len(keyframes))
    return found


def predict_together(
    detector: Detector,
    keyframes: Sequence[KeyFrame],
    *,
    workers: int = 1,
    read: ReadSweeps = read_sweeps,
    progress: Callable[[int, int], None] = lambda done, total: None,
    most: int | None = None,
) -> dict[str, Detections]:
    """``predict``, with every process of a distributed run taking its share; all of them get all detections."""
    share = keyframes[processes.rank() :: processes.count()]
    found = predict(detector, share, workers=workers, read=read, progress=progress, most=most)
    return {token: its for part in processes.of_all(found) for token, its in part.items()}
