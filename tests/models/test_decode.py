"""Targets and decoding are each other's inverse: what is drawn into the maps comes out as the same boxes."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from udx.geometry import CLASSES, BevGrid
from udx.models.center_head import REGRESSION_CHANNELS, TASKS
from udx.models.decode import decode
from udx.models.taps import HeadMaps
from udx.models.targets import make_targets

GRID = BevGrid(-20.0, 44.0, -8.0, 8.0, 0.5)


def ideal_heads(boxes, labels, grid=GRID):
    """Head maps of a network that has learned its targets to the letter."""
    targets = make_targets(boxes, labels, grid)
    height, width = grid.shape
    regression = torch.zeros(len(boxes), len(TASKS), REGRESSION_CHANNELS, height, width)
    regression[targets.sample_N, targets.task_N, :, targets.row_N, targets.column_N] = targets.regression_NR
    return HeadMaps(torch.logit(targets.heatmap_BKHW, eps=1e-6), regression.flatten(1, 2))


def test_one_box_by_hand():
    box = torch.tensor([[10.3, -3.1, 0.7, 4.6, 1.9, 1.5, 0.5, 3.0, -1.0]])
    targets = make_targets([box], [torch.tensor([0])], GRID)
    # Column 60 is x in [10, 10.5), row 9 is y in [-3.5, -3).
    assert (targets.column_N.item(), targets.row_N.item()) == (60, 9)
    assert targets.heatmap_BKHW[0, 0, 9, 60] == 1
    assert targets.heatmap_BKHW[0, 1:].max() == 0
    offset = targets.regression_NR[0, :2]
    np.testing.assert_allclose(offset, [(10.3 - 10.25) / 0.5, (-3.1 + 3.25) / 0.5], atol=1e-5)
    np.testing.assert_allclose(targets.regression_NR[0, 6:8], [math.sin(0.5), math.cos(0.5)], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_boxes_survive_the_way_through_the_maps(seed):
    rng = np.random.default_rng(seed)
    # One box in each 8 m field of the ground, so that no two share a peak.
    fields = [(x, y) for x in range(-16, 44, 8) for y in (-4, 4)]
    chosen = [fields[index] for index in rng.choice(len(fields), size=6, replace=False)]
    boxes = np.array(
        [
            [x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), rng.uniform(-1, 2), rng.uniform(0.4, 9),
             rng.uniform(0.4, 3), rng.uniform(0.5, 4), rng.uniform(-3.1, 3.1), *rng.uniform(-9, 9, 2)]
            for x, y in chosen
        ]
    )  # fmt: skip
    labels = rng.integers(0, len(CLASSES), 6)
    heads = ideal_heads([torch.from_numpy(boxes)], [torch.from_numpy(labels)])
    decoded = decode(heads, GRID, max_boxes=6)
    order = [int(np.argmin(np.hypot(*(boxes[:, :2] - box[:2]).T))) for box in decoded.boxes_BK9[0].numpy()]
    assert sorted(order) == list(range(6))
    np.testing.assert_allclose(decoded.boxes_BK9[0].numpy(), boxes[order], atol=1e-4)
    assert decoded.labels_BK[0].tolist() == labels[order].tolist()


def test_the_neighbours_of_a_peak_are_no_boxes():
    heatmap = torch.full((1, len(CLASSES), *GRID.shape), -9.0)
    heatmap[0, 3, 5, 7], heatmap[0, 3, 5, 8], heatmap[0, 3, 5, 10] = 4.0, 3.0, 2.0
    regression = torch.zeros(1, len(TASKS) * REGRESSION_CHANNELS, *GRID.shape)
    decoded = decode(HeadMaps(heatmap, regression), GRID, max_boxes=2)
    centres = decoded.boxes_BK9[0, :, 0].tolist()
    assert centres == [GRID.x_min + 7.5 * 0.5, GRID.x_min + 10.5 * 0.5]
    assert decoded.labels_BK[0].tolist() == [3, 3]


def test_boxes_off_the_grid_have_no_target_and_unknown_velocity_asks_for_nothing():
    boxes = torch.tensor([[50.0, 0, 0, 4, 2, 1, 0, 0, 0], [0.0, 0, 0, 4, 2, 1, 0, float("nan"), float("nan")]])
    targets = make_targets([boxes], [torch.tensor([0, 5])], GRID)
    assert len(targets.sample_N) == 1
    assert targets.known_NR[0].tolist() == [True] * 8 + [False] * 2
    assert targets.regression_NR.isfinite().all()


def test_no_boxes_give_empty_maps():
    targets = make_targets([torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.long)], GRID)
    assert targets.heatmap_BKHW.shape == (1, 10, 32, 128)
    assert not targets.heatmap_BKHW.any()


class Scores(nn.Module):
    def forward(self, heatmap_BKHW, regression_BRHW):
        return decode(HeadMaps(heatmap_BKHW, regression_BRHW), GRID, max_boxes=200).scores_BK


def test_no_score_of_an_export_is_above_one():
    """ONNX Runtime's sigmoid (1.32) rounds some logits around 17.8 up to the number after 1."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rows, columns = GRID.shape
    heatmap = torch.linspace(17, 18.5, len(CLASSES) * rows * columns).reshape(1, len(CLASSES), rows, columns)
    heatmap[0, 0, 0, 0] = 17.844
    regression = torch.zeros(1, len(TASKS) * REGRESSION_CHANNELS, rows, columns)
    file = io.BytesIO()
    program = torch.onnx.export(Scores().eval(), (heatmap, regression), dynamo=True, verbose=False)
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (scores,) = session.run(None, {"heatmap_bkhw": heatmap.numpy(), "regression_brhw": regression.numpy()})
    assert 0.9999 < scores.max() <= 1


def test_neighbours_whose_sigmoids_are_both_one_are_one_peak():
    logits = torch.full((1, len(CLASSES), *GRID.shape), -10.0)
    logits[0, 3, 4, 5], logits[0, 3, 4, 6] = 30.0, 40.0
    assert (logits[0, 3, 4, 5:7].sigmoid() == 1).all()
    regression = torch.zeros(1, len(TASKS) * REGRESSION_CHANNELS, *GRID.shape)
    found = decode(HeadMaps(logits, regression), GRID, 2)
    assert found.labels_BK[0, 0] == 3 and found.scores_BK[0, 0] == 1
    assert found.scores_BK[0, 1] < 0.5
