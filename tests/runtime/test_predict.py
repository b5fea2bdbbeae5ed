"""From a keyframe on disk through an engine to a picture."""

import time
from pathlib import Path

import pytest
from PIL import Image

from udx.errors import UdxError
from udx.runtime import predict as module
from udx.runtime.bench import bench
from udx.runtime.frames import keyframe_frames
from udx.runtime.measure import Protocol
from udx.runtime.predict import AHEAD, predict, stream


def test_the_real_keyframe(keyframe_root: Path, make_engine, make_manifest, tmp_path: Path) -> None:
    from udx.data.nuscenes import load_keyframes

    keyframes = load_keyframes(keyframe_root, "keyframe")
    engine = make_engine(modality="fusion")
    found = predict(engine, keyframes[0], png=tmp_path / "picture.png", score=0.0)
    assert len(found) == make_manifest().max_boxes
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG" and picture.width > 2000
    frames = keyframe_frames(keyframes, make_manifest("fusion"))
    report = bench(engine, frames=frames, frames_are="1 keyframe", protocol=Protocol(warmup=1, blocks=2, frames=2))
    assert report.engine.inputs.median > report.engine.network.median  # decoding six JPEGs against a toy network


class Counting:
    """Stands for an engine: says what it was given, and how many keyframes had been loaded by then."""

    def __init__(self, manifest, loaded: list[int]) -> None:
        self.manifest = manifest
        self.loaded = loaded
        self.seen: list[tuple[int, int]] = []

    def detect(self, tensors: int) -> int:
        time.sleep(0.01)
        self.seen.append((tensors, len(self.loaded)))
        return tensors


def streaming(monkeypatch: pytest.MonkeyPatch, manifest, broken: int | None = None) -> Counting:
    loaded: list[int] = []

    def load(keyframe: int, spec) -> int:
        if keyframe == broken:
            raise UdxError(f"keyframe {keyframe} has no image; restore it")
        loaded.append(keyframe)
        return keyframe

    monkeypatch.setattr(module, "load_sample", load)
    monkeypatch.setattr(module, "tensors_of", lambda sample, manifest: sample)
    return Counting(manifest, loaded)


def test_keyframes_come_in_order_and_are_decoded_ahead(monkeypatch: pytest.MonkeyPatch, make_manifest) -> None:
    runner = streaming(monkeypatch, make_manifest())
    found = list(stream(runner, list(range(20))))  # type: ignore[arg-type]
    assert found == [(index, index) for index in range(20)]
    assert [seen for seen, _ in runner.seen] == list(range(20))
    ahead = [loaded - seen - 1 for seen, loaded in runner.seen[:-AHEAD]]
    assert max(ahead) >= 1  # overlapped
    assert all(count <= AHEAD for count in ahead)  # but never the whole split in memory


def test_a_broken_keyframe_ends_the_stream_when_its_turn_has_come(
    monkeypatch: pytest.MonkeyPatch, make_manifest
) -> None:
    runner = streaming(monkeypatch, make_manifest(), broken=5)
    found = []
    with pytest.raises(UdxError, match="keyframe 5 has no image"):
        for keyframe, _ in stream(runner, list(range(20))):  # type: ignore[arg-type]
            found.append(keyframe)
    assert found == list(range(5))
    assert len(runner.loaded) <= 5 + AHEAD  # nothing goes on behind the error


def test_no_keyframes_are_no_error(monkeypatch: pytest.MonkeyPatch, make_manifest) -> None:
    assert list(stream(streaming(monkeypatch, make_manifest()), [])) == []  # type: ignore[arg-type]
