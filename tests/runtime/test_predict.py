"""From a keyframe on disk through an engine to a picture."""

from pathlib import Path

from PIL import Image

from udx.runtime.bench import bench
from udx.runtime.frames import keyframe_frames
from udx.runtime.measure import Protocol
from udx.runtime.predict import predict


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
