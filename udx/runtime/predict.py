"""``udx predict``: what an engine sees in one keyframe, or in all of a split."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from udx.data.detections import Detections
from udx.data.frame import KeyFrame
from udx.data.inputs import Tensors
from udx.data.load import load_sample
from udx.files import write_with
from udx.runtime.draw import draw_frame
from udx.runtime.engine import open_engine
from udx.runtime.frames import tensors_of
from udx.runtime.runner import Runner

AHEAD: Final = 3
"""Keyframes that are decoded or waiting while one is inferred: enough to ride out a slow file, few in memory."""


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
        draw_to(png, keyframe, detections, score)
    return detections


def predict_all(
    runner: Runner,
    keyframes: Sequence[KeyFrame],
    *,
    progress: Callable[[int, int], None],
    png_folder: Path | None = None,
    score: float = 0.3,
) -> dict[str, Detections]:
    """Run an active engine on many keyframes; detections by sample token.

    With ``png_folder`` each keyframe is drawn into it, in a file named by its token.

    Raises:
        UdxError: as ``predict``.
    """
    found = {}
    for keyframe, detections in stream(runner, keyframes):
        found[keyframe.token] = detections
        if png_folder is not None:
            draw_to(png_folder / f"{keyframe.token}.png", keyframe, detections, score)
        progress(len(found), len(keyframes))
    return found


def stream(runner: Runner, keyframes: Sequence[KeyFrame]) -> Iterator[tuple[KeyFrame, Detections]]:
    """Infer keyframe after keyframe, the next ones being decoded meanwhile; few are in memory at a time.

    Raises:
        UdxError: the engine failed, or a file of a keyframe is missing or damaged, when its turn has come.
    """

    def load(keyframe: KeyFrame) -> Tensors:
        return tensors_of(load_sample(keyframe, runner.manifest.spec), runner.manifest)

    decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="udx-decode")
    try:
        upcoming = iter(keyframes)
        waiting: deque[tuple[KeyFrame, Future[Tensors]]] = deque(
            (keyframe, decoder.submit(load, keyframe)) for keyframe in itertools.islice(upcoming, AHEAD)
        )
        while waiting:
            keyframe, loading = waiting.popleft()
            tensors = loading.result()
            waiting.extend((another, decoder.submit(load, another)) for another in itertools.islice(upcoming, 1))
            yield keyframe, runner.detect(tensors)
    finally:
        decoder.shutdown(wait=False, cancel_futures=True)


def draw_to(png: Path, keyframe: KeyFrame, detections: Detections, score: float) -> None:
    """Write a picture of what scores at least ``score`` beside the ground truth.

    Raises:
        UdxError: an image of the keyframe is missing or damaged, or the picture cannot be written.
    """
    picture = draw_frame(keyframe, detections, score=score)
    write_with(png, lambda partial: picture.save(partial, format="PNG"))
