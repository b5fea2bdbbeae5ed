"""Detectors that were trained, distilled and exported: small, but nothing in them is left out."""

import dataclasses

import pytest

from tests.tiny import tiny_run
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.export.onnx_export import export_run
from udx.train.loop import Job, train
from udx.train.run import Run


@pytest.fixture(scope="session")
def keyframes(world_root):
    return load_keyframes(open_dataroot(world_root), "train", max_sweeps=1)


@pytest.fixture(scope="session")
def runs(keyframes, tmp_path_factory):
    """A fusion teacher, a LiDAR detector, and camera students: one alone, one with the teacher and an adapter.

    The LiDAR supervises the depth of all cameras.
    """
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Run] = {}
    for name, modality, teacher in (
        ("fusion", "fusion", None),
        ("lidar", "lidar", None),
        ("cam", "cam", None),
        ("distilled", "cam", "fusion"),
    ):
        made[name] = Run(folder / name)
        config = tiny_run(modality, epochs=25)  # flat heatmaps have ties, and a tie may fall either way
        assert config.loss.depth > 0
        adapted = dataclasses.replace(config.distillation, adapter="always")
        train(
            Job(
                config=dataclasses.replace(config, distillation=adapted),
                keyframes=keyframes,
                data={"keyframes": "tiny"},
                run=made[name],
                teacher=made[teacher] if teacher else None,
            )
        )
    return made


@pytest.fixture(scope="session")
def engines(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    return {name: export_run(run, folder / f"{name}.onnx") for name, run in runs.items()}


@pytest.fixture(scope="session")
def fp16_engines(runs, tmp_path_factory):
    """The fusion detector is exported in FP16 with an open point buffer, by the tests of that."""
    folder = tmp_path_factory.mktemp("halves")
    return {
        name: export_run(runs[name], folder / f"{name}.onnx", precision="fp16")
        for name in ("lidar", "cam", "distilled")
    }
