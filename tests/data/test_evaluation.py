import json

import numpy as np
import pytest

from udx.data.detections import Detections
from udx.data.evaluation import ATTRIBUTES, MAX_BOXES, Metrics, evaluate, submission_of
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.errors import UdxError
from udx.geometry import CLASSES

TWO = ("CAM_FRONT", "CAM_BACK")


def detections_of(keyframe, change=lambda boxes: boxes):
    """The annotations as a detector would give them, all with score 1."""
    annotations = keyframe.annotations
    boxes = change(np.nan_to_num(annotations.boxes_N9)).astype(np.float32)
    return Detections(boxes_K9=boxes, scores_K=np.ones(len(boxes), np.float32), labels_K=annotations.labels_N)


def score(nusc, split, keyframes, change=lambda boxes: boxes):
    return evaluate(nusc, split, {frame.token: detections_of(frame, change) for frame in keyframes}, keyframes)


@pytest.fixture
def loaded(world_root):
    nusc = open_dataroot(world_root)
    return nusc, load_keyframes(nusc, "train", TWO)


def test_perfect_detections_of_a_custom_split_called_train(loaded):
    nusc, keyframes = loaded
    metrics = score(nusc, "train", keyframes)
    # One class of ten is there, and found; the metric counts absent classes as 0, their errors as 1.
    assert metrics.per_class == pytest.approx({name: float(name == "car") for name in CLASSES})
    assert metrics.mean_ap == pytest.approx(0.1)
    assert metrics.tp_errors == pytest.approx(
        {"mATE": 0.9, "mASE": 0.9, "mAOE": 8 / 9, "mAVE": 7 / 8, "mAAE": 7 / 8}, abs=2e-3
    )
    assert metrics.nds == pytest.approx((5 * 0.1 + 0.1 + 0.1 + 1 / 9 + 1 / 8 + 1 / 8) / 10, abs=1e-3)


def swapped(boxes):
    return boxes[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]


def turned(boxes):
    return boxes * [1, 1, 1, 1, 1, 1, -1, 1, 1]


def stopped(boxes):
    return boxes * [1, 1, 1, 1, 1, 1, 1, 0, 0]


def shifted(boxes):
    return boxes + np.array([0.3, 0.4, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        # w and l swapped: the boxes share 1.9 × 1.9 m of 4.5 × 1.9 + 1.9 × 4.5 − 1.9 × 1.9 m².
        (swapped, "mASE", (1 - 1.9**2 / (2 * 4.5 * 1.9 - 1.9**2) + 9) / 10),
        # The car heads atan(1/3) − 30° = −11.57° in the BEV frame: the wrong sign is off by twice as much.
        (turned, "mAOE", (2 * abs(np.arctan2(1, 3) - np.radians(30)) + 8) / 9),
        (stopped, "mAVE", (np.sqrt(10) + 7) / 8),
        (stopped, "mAAE", 1.0),  # it is taken to be parked, but moves
        (shifted, "mATE", (0.5 + 9) / 10),
    ],
)
def test_each_mistake_shows_in_its_error(loaded, change, error, expected):
    nusc, keyframes = loaded
    assert score(nusc, "train", keyframes, change).tp_errors[error] == pytest.approx(expected, abs=3e-3)


def test_no_detection_at_all(loaded):
    nusc, keyframes = loaded
    nothing = detections_of(keyframes[0])[np.zeros(1, bool)]
    metrics = evaluate(nusc, "train", dict.fromkeys(("t0", "t1"), nothing), keyframes)
    assert metrics.mean_ap == 0
    assert metrics.nds == 0


def test_submission_is_kept_and_in_the_global_frame(loaded, tmp_path):
    nusc, keyframes = loaded
    found = {frame.token: detections_of(frame) for frame in keyframes}
    evaluate(nusc, "train", found, keyframes, out_dir=tmp_path / "out", modality="cam")
    written = json.loads((tmp_path / "out" / "results_nusc.json").read_text())
    assert written["meta"]["use_camera"]
    assert not written["meta"]["use_lidar"]
    (box,) = written["results"]["t1"]
    assert box["translation"] == pytest.approx([121.5, 215.5, 1.0], abs=1e-4)
    assert box["size"] == pytest.approx([1.9, 4.5, 1.6])
    assert box["velocity"] == pytest.approx([3, 1], abs=0.02)
    assert box["attribute_name"] == "vehicle.moving"
    assert box["detection_name"] == "car"
    w, _, _, z = box["rotation"]
    assert np.linalg.norm(box["rotation"]) == pytest.approx(1)
    assert 2 * np.arctan2(z, w) == pytest.approx(np.arctan2(1, 3), abs=2e-3)


def test_best_boxes_are_kept(loaded):
    _, (keyframe, _) = loaded
    count = MAX_BOXES + 20
    boxes = np.tile(detections_of(keyframe).boxes_K9, (count, 1))
    scores = np.random.default_rng(0).permutation(count).astype(np.float32) / count
    many = Detections(boxes_K9=boxes, scores_K=scores, labels_K=np.zeros(count, np.int64))
    records = submission_of({"t0": many}, [keyframe])["results"]["t0"]
    assert len(records) == MAX_BOXES
    assert records[0]["detection_score"] == pytest.approx((count - 1) / count)
    assert min(record["detection_score"] for record in records) == pytest.approx(20 / count)


def test_attributes_are_those_of_the_class():
    from nuscenes.eval.detection.utils import detection_name_to_rel_attributes

    assert tuple(ATTRIBUTES) == CLASSES
    for name, pair in ATTRIBUTES.items():
        assert set(pair) <= set(detection_name_to_rel_attributes(name) or [""])


def test_keyframe_without_detections(loaded):
    nusc, keyframes = loaded
    with pytest.raises(UdxError, match="no detections of sample t1; run the detector"):
        evaluate(nusc, "train", {"t0": detections_of(keyframes[0])}, keyframes)


def test_split_without_boxes(world, tmp_path):
    for table in ("sample_annotation", "instance"):
        world.tables[table] = []
    nusc = open_dataroot(world.write(tmp_path / "w"))
    keyframes = load_keyframes(nusc, "train", TWO)
    assert [len(frame.annotations) for frame in keyframes] == [0, 0]
    with pytest.raises(UdxError, match=r"split 'train' .* has no box of a detection class"):
        score(nusc, "train", keyframes)


def test_metrics_are_json_without_nan():
    metrics = Metrics(mean_ap=0.5, nds=0.25, per_class={"car": 1.0}, tp_errors={"mATE": 0.1})
    expected = {"mAP": 0.5, "NDS": 0.25, "per_class": {"car": 1.0}, "tp_errors": {"mATE": 0.1}}
    assert json.loads(json.dumps(metrics.to_json(), allow_nan=False)) == expected
    with pytest.raises(ValueError, match="finite"):
        Metrics(mean_ap=float("nan"), nds=0.0, per_class={}, tp_errors={})


def test_evaluation_leaves_the_handle_as_it_was(loaded):
    nusc, keyframes = loaded
    before = nusc.dataroot
    score(nusc, "train", keyframes)
    assert nusc.dataroot == before
    assert score(nusc, "train", keyframes) == score(nusc, "train", keyframes)


@pytest.mark.parametrize("split", ["keyframe", "mini_train"])
def test_perfect_detections_of_the_real_keyframe(keyframe_root, split):
    nusc = open_dataroot(keyframe_root)
    metrics = score(nusc, split, load_keyframes(nusc, split))
    assert round(metrics.mean_ap, 3) == 0.494
    assert round(metrics.nds, 3) == 0.429
