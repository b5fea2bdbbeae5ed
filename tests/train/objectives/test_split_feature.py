"""Foreground and background apart: attention and regions by hand, the whole against NumPy."""

import numpy as np
import pytest
import torch

from tests.comparing import BOXES, GRID, NO_BOXES, compare, declare, objects_of, taps_of, with_maps
from tests.second_opinion import np_cells_of_box
from udx.geometry import BevGrid
from udx.train.objectives import Pair
from udx.train.objectives.split_feature import SplitFeature, attention

BOTH = Pair(student=declare(), teacher=declare())


def test_attention_by_hand() -> None:
    """Mean magnitudes 1 and 0 of two cells, and of two channels; with a temperature of 1 / ln 3 that is 3 to 1."""
    maps = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    found = attention(maps, 1 / np.log(3.0))
    torch.testing.assert_close(found.spatial_BP, 2 * torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(found.channel_BC, 2 * torch.tensor([[0.75, 0.25]]))
    assert attention(maps, 1e6).spatial_BP[0].tolist() == pytest.approx([1.0, 1.0], rel=1e-4)


def test_regions_by_hand() -> None:
    """Hardly any attention. The student is off by 3 in one of a box's two cells, by 2 in one cell of the background."""
    both = Pair(student=declare(1, 1), teacher=declare(1, 1))
    teacher = taps_of(both.teacher, batch=1)
    off = torch.zeros_like(teacher.high_BCHW)
    off[0, 0, 8, 18], off[0, 0, 8, 20] = 3, 2
    student = with_maps(teacher, high=teacher.high_BCHW + off)
    boxes = [torch.tensor([[1.5, 0.25, 0, 1.0, 0.5, 1, 0, 0, 0]])]
    parts = {"foreground": 9 / 2, "background": 4 / (512 - 2)}
    for part, want in parts.items():
        weights = dict.fromkeys(parts, 0.0) | {part: 2.0}
        objective = SplitFeature(weight=1.0, temperature=1e6, **weights).build(both)
        assert compare(objective, student, teacher, boxes).item() == pytest.approx(2 * want, rel=1e-3)


def test_objects_weigh_the_same_whatever_their_size() -> None:
    """The student is off by 1 everywhere: large or small, a box adds the same; twice the error on one adds the same."""
    teacher = taps_of(BOTH.teacher, batch=1)
    objective = SplitFeature(weight=1.0, background=0.0, temperature=1e6).build(BOTH)
    boxes = [torch.tensor([[-4.0, 0.0, 0, 6, 4, 1, 0, 0, 0], [4.25, 0.25, 0, 0.5, 0.5, 1, 0, 0, 0]])]
    for columns in (slice(0, 16), slice(16, 32)):
        off = torch.zeros_like(teacher.high_BCHW)
        off[..., columns] = 1.0
        student = with_maps(teacher, high=teacher.high_BCHW + off)
        assert compare(objective, student, teacher, boxes).item() == pytest.approx(0.5, rel=1e-3)


def test_false_positives_by_hand() -> None:
    """The teacher is sure at two cells, one of them in a box: the other is the region, and the lesson says so."""
    teacher = taps_of(BOTH.teacher, batch=1)
    teacher.heads.heatmap_BKHW.fill_(-5.0)
    teacher.heads.heatmap_BKHW[0, 3, 8, 18] = teacher.heads.heatmap_BKHW[0, 7, 2, 5] = 2.0
    boxes = [torch.tensor([[1.5, 0.25, 0, 1.0, 0.5, 1, 0, 0, 0]])]
    settings = {"foreground": 0.0, "background": 0.0, "false_positives": 1.0, "temperature": 1e6}
    objective = SplitFeature(weight=1.0, **settings).build(BOTH)
    (lesson,) = objective.read(teacher, objects_of(boxes))
    assert lesson["false_positives"].nonzero().tolist() == [[0, 2, 5]]
    off = torch.ones_like(teacher.high_BCHW)
    off[..., 2, 5] = 3.0
    loss = compare(objective, with_maps(teacher, high=teacher.high_BCHW + off), teacher, boxes)
    assert loss.item() == pytest.approx(9, rel=1e-3)
    surer = SplitFeature(weight=1.0, confident=0.9, **settings).build(BOTH)
    assert compare(surer, with_maps(teacher, high=teacher.high_BCHW + off), teacher, boxes) == 0


def np_attention(map_CP: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    def softmax(values: np.ndarray) -> np.ndarray:
        grown = np.exp(values - values.max())
        return grown / grown.sum()

    strength = np.abs(map_CP)
    return (
        map_CP.shape[1] * softmax(strength.mean(axis=0) / temperature),
        map_CP.shape[0] * softmax(strength.mean(axis=1) / temperature),
    )


def test_agrees_with_numpy() -> None:
    config = SplitFeature(
        weight=1.0, foreground=1.5, background=0.7, false_positives=0.4, imitate_attention=0.3, confident=0.8
    )
    student, teacher = taps_of(BOTH.student), taps_of(BOTH.teacher, seed=1)
    sums = np.zeros((3, 2))  # of region: weighted differences, weights
    strange = []
    for sample, rows in enumerate(BOXES):
        maps = [taps.high_BCHW[sample].double().numpy().reshape(8, -1) for taps in (student, teacher)]
        (own_where, own_which), (where, which) = (np_attention(each, config.temperature) for each in maps)
        strange.append([np.abs(own_where - where).mean(), np.abs(own_which - which).mean()])
        difference = ((maps[0] - maps[1]) ** 2 * which[:, None]).mean(axis=0) * where
        cells = [np_cells_of_box(row, GRID).ravel() for row in rows.double().numpy()]
        shares = [each / each.sum() for each in cells]
        inside = np.any([*cells, np.zeros(len(where), bool)], axis=0)
        heat = 1 / (1 + np.exp(-teacher.heads.heatmap_BKHW[sample].double().numpy().max(axis=0).ravel()))
        foreground = np.max([*shares, np.zeros(len(where))], axis=0)
        behind = ~inside / (~inside).sum()
        for region, weight in enumerate((foreground, behind, (heat > config.confident) & ~inside)):
            sums[region] += [(difference * weight).sum(), weight.sum()]
    parts = sums[:, 0] / (sums[:, 1] + 1e-4)
    want = parts @ [1.5, 0.7, 0.4] + 0.3 * np.mean(strange, axis=0).sum()
    assert compare(config.build(BOTH), student, teacher, BOXES).item() == pytest.approx(want, rel=1e-4)


def test_without_background_no_boxes_cost_nothing() -> None:
    maps = taps_of(BOTH.student), taps_of(BOTH.teacher, seed=1)
    assert compare(SplitFeature(weight=1.0, background=0.0).build(BOTH), *maps, NO_BOXES) == 0


def test_beyond_the_teachers_ground_nothing_counts() -> None:
    """Neither in the difference nor in the attention, where a strong value draws weight from everywhere else."""
    smaller = Pair(student=declare(), teacher=declare(grid=BevGrid(-8.0, 0.0, -4.0, 4.0, 0.5)))
    student, teacher = taps_of(smaller.student), taps_of(smaller.teacher, seed=1)
    objective = SplitFeature(weight=1.0, imitate_attention=1.0).build(smaller)
    beyond = torch.zeros_like(student.high_BCHW)
    beyond[..., 16:] = 30.0
    moved = with_maps(student, high=student.high_BCHW + beyond)
    torch.testing.assert_close(compare(objective, moved, teacher, BOXES), compare(objective, student, teacher, BOXES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foreground": -1.0}, "at least 0"),
        ({"foreground": 0.0, "background": 0.0}, "one above it"),
        ({"confident": 1.0}, "between 0 and 1"),
        ({"temperature": 0.0}, "must be positive"),
        ({"weight": -1.0}, "at least 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitFeature(**({"weight": 1.0} | settings))
