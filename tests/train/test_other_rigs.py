"""Nothing outside ``udx.data`` knows nuScenes' names, its six cameras or the size of their images."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.tiny import FRUSTUM, tiny_run
from udx.data.spec import CameraSpec
from udx.geometry import CameraRig
from udx.runtime.engine import open_engine
from udx.train.checkpoint import load_detector
from udx.train.logbook import read_log
from udx.train.loop import Job, train
from udx.train.predict import predict
from udx.train.run import Run

NAMES = ("left.tele", "Front 120°", "rear", "roof-0", "roof-1")
SIZES = ((1920, 1080), (640, 480), (801, 333), (100, 300), (1600, 900))


@pytest.fixture(scope="module")
def five_cameras(keyframes, tmp_path_factory):
    """The synthetic keyframes, seen by five cameras of five sizes, whose files are PNGs of any name."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    found = []
    for at, keyframe in enumerate(keyframes):
        paths, intrinsics = [], []
        for name, (width, height) in zip(NAMES, SIZES, strict=True):
            paths.append(folder / f"{at}-{name.replace(' ', '_')}.png")
            Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(paths[-1])
            intrinsics.append([[width * 0.7, 0, width / 2], [0, width * 0.7, height / 2], [0, 0, 1]])
        rig = CameraRig(NAMES, np.array(intrinsics, float), keyframe.rig.ego_T_cam_N44[:5])
        found.append(dataclasses.replace(keyframe, image_paths=tuple(paths), rig=rig))
    return found


def five(config):
    spec = dataclasses.replace(config.detector.spec, camera=CameraSpec(names=NAMES, frustum=FRUSTUM))
    return dataclasses.replace(config, detector=dataclasses.replace(config.detector, spec=spec))


def test_five_cameras_of_mixed_sizes_train_teach_predict_and_export(five_cameras, tmp_path):
    from udx.data.inputs import inputs_of
    from udx.data.load import load_sample
    from udx.export.onnx_export import detections_of, export_run
    from udx.train.examiner import draw

    teacher = Run(tmp_path / "teacher")
    job = Job(
        config=five(tiny_run("fusion", epochs=2)), keyframes=five_cameras, data={"keyframes": "five"}, run=teacher
    )
    train(job)
    run = Run(tmp_path / "student")
    config = five(tiny_run("cam", epochs=2))
    detector = train(dataclasses.replace(job, config=config, run=run, teacher=teacher))
    log = read_log(run.log)
    assert len(log) == 2 and {"feature", "depth"} <= log[0].keys()
    found = predict(detector, five_cameras, workers=0)
    assert found.keys() == {keyframe.token for keyframe in five_cameras}
    (picture,) = draw(five_cameras, found, 1).values()
    assert picture.ndim == 3

    exported = export_run(run, tmp_path / "student.onnx")
    assert exported.manifest.spec.camera.names == NAMES
    tensors = inputs_of(load_sample(five_cameras[0], config.detector.spec), config.detector.spec)
    assert tensors["images"].shape == (5, 32, 64, 3)
    in_torch = detections_of(load_detector(run.checkpoint)[0], tensors)
    with open_engine(exported.path) as runner:
        in_engine = runner.detect(tensors)
    assert np.allclose(in_torch.scores_K, in_engine.scores_K, atol=1e-4)
