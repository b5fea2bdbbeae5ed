"""Generated frames are plausible, equal for equal seeds, and fit the engine."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from udx.data.inputs import CALIBRATION, input_shapes
from udx.data.load import load_sample
from udx.errors import UdxError
from udx.runtime import open_engine
from udx.runtime.frames import generated_frame, lidar_rings, tensors_of


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
def test_frames_fit_and_repeat(make_manifest, modality: str) -> None:
    manifest = make_manifest(modality)
    frame, said = generated_frame(manifest, seed=3)
    again, _ = generated_frame(manifest, seed=3)
    tensors = frame()
    assert {name: (array.shape, array.dtype.name) for name, array in tensors.items()} == input_shapes(manifest.spec)
    for name, array in again().items():
        np.testing.assert_array_equal(array, tensors[name])
    if modality != "lidar":
        other, _ = generated_frame(manifest, seed=4)
        assert not np.array_equal(other()["images"], tensors["images"])
        assert tensors["pool_offsets"][-1] > 0
        assert "6 images of noise at 32×64 px" in said
    if modality != "cam":
        assert f"{tensors['num_points'][0]} points" in said


def test_points_lie_on_flat_ground_in_the_grid(make_manifest) -> None:
    spec = make_manifest("lidar").spec
    roomy = dataclasses.replace(spec.lidar, max_points=10**6)
    points = lidar_rings(spec, roomy)
    assert (spec.grid.flat_index(points[:, :2].astype(np.float64)) >= 0).all()
    assert np.abs(points[:, 2]).max() < 1e-3  # within 8 m every beam meets the ground
    assert np.unique(points[:, 4]).tolist() == pytest.approx([0.0, 0.05])
    # Beams at −30.67° to −14.7° or so reach the ground within the grid: more than ten rings.
    rings = np.unique(np.hypot(points[:, 0] - 0.94, points[:, 1]).round(2))
    assert 10 < len(rings) < 20


def test_the_buffer_bounds_the_points(make_manifest) -> None:
    spec = make_manifest("lidar").spec
    assert len(lidar_rings(spec, spec.lidar)) == spec.lidar.max_points


def test_cameras_without_a_rig(make_manifest) -> None:
    with pytest.raises(UdxError, match="holds no camera rig"):
        generated_frame(dataclasses.replace(make_manifest("cam"), rig=None), 0)


def test_a_frame_has_the_bits_that_training_reads(keyframe_root: Path, make_manifest) -> None:
    import torch

    from udx.data.nuscenes import load_keyframes
    from udx.train.batch import KeyFrames, batches, make_loader

    manifest = make_manifest("fusion")
    keyframes = load_keyframes(keyframe_root, "keyframe")
    loader, _ = make_loader(KeyFrames(keyframes, manifest.spec), 1, 0, seed=None, drop_last=False)
    (batch,) = batches(loader, torch.device("cpu"))
    for name, tensor in tensors_of(load_sample(keyframes[0], manifest.spec), manifest).items():
        np.testing.assert_array_equal(tensor, getattr(batch.inputs, name)[0].numpy(), err_msg=name)


def test_a_rig_as_the_images_are_on_disk_equals_the_frame_s_own(keyframe_root: Path, make_engine) -> None:
    from udx.data.nuscenes import load_keyframes

    keyframe = load_keyframes(keyframe_root, "keyframe")[0]
    with open_engine(make_engine(modality="cam")) as runner:
        frame = tensors_of(load_sample(keyframe, runner.manifest.spec), runner.manifest)
        expected = runner.infer(frame)["scores"]
        runner.set_rig(keyframe.rig, image_size_px=(1600, 900))
        images = {name: tensor for name, tensor in frame.items() if name not in CALIBRATION}
        np.testing.assert_array_equal(runner.infer(images)["scores"], expected)
        runner.set_rig(keyframe.rig)  # of other images: another calibration
        assert not np.array_equal(runner.infer(images)["scores"], expected)
