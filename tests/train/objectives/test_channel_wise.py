"""Channel-wise distillation: by hand, against NumPy, and by what it must not depend on."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.comparing import GRID, NO_BOXES, compare, declare, taps_of, with_maps
from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.taps import HeadMaps
from udx.train.objectives import Pair
from udx.train.objectives.channel_wise import ChannelWise, channel_divergence

BOTH = Pair(student=declare(), teacher=declare())


def test_divergence_by_hand() -> None:
    """One of two channels differs: shares of the teacher ¾ and ¼, of the student ½ and ½, at temperature 2."""
    teacher = torch.tensor([[[2 * np.log(3.0), 0.0], [5.0, 5.0]]])
    student = torch.zeros(1, 2, 2, dtype=torch.float64)
    want = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert channel_divergence(student, teacher, 2.0).item() == pytest.approx(4 * want / 2)


def np_divergence(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    total = 0.0
    for sample in range(len(student)):
        for channel in range(student.shape[1]):
            shares = []
            for maps in (student, teacher):
                grown = np.exp(maps[sample, channel] / temperature)
                shares.append(grown / grown.sum())
            total += (shares[1] * np.log(shares[1] / shares[0])).sum()
    return temperature**2 * total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize("at", ["low", "high", "heatmap"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_agrees_with_numpy(at, temperature: float) -> None:
    student, teacher = taps_of(BOTH.student), taps_of(BOTH.teacher, seed=1)
    maps = [
        (taps.heads.heatmap_BKHW if at == "heatmap" else getattr(taps, f"{at}_BCHW")).double().numpy()
        for taps in (student, teacher)
    ]
    loss = compare(ChannelWise(weight=1.0, at=at, temperature=temperature).build(BOTH), student, teacher, NO_BOXES)
    assert loss.item() == pytest.approx(np_divergence(*maps, temperature), rel=1e-4)


def test_it_is_about_where_not_how_much() -> None:
    """Offsets of a channel do not count; moving a peak does, and more along the axis that it is sharp in."""
    objective = ChannelWise(weight=1.0, temperature=1.0).build(BOTH)
    teacher = taps_of(BOTH.teacher)
    offset = torch.arange(8.0)[:, None, None]
    shifted = with_maps(teacher, high=teacher.high_BCHW + 10 * offset)
    assert compare(objective, shifted, teacher, NO_BOXES).item() == pytest.approx(0, abs=1e-4)
    height, width = GRID.shape
    ridge = torch.linspace(-1, 1, width).mul(6).square().neg().expand(2, 8, height, width).contiguous()
    along, across = (with_maps(teacher, high=ridge.roll(3, dim)) for dim in (-2, -1))
    ridge_taps = with_maps(teacher, high=ridge)
    assert (
        compare(objective, along, ridge_taps, NO_BOXES) < 1e-5 < 0.5 < compare(objective, across, ridge_taps, NO_BOXES)
    )


def test_only_common_ground_counts() -> None:
    smaller = Pair(student=declare(), teacher=declare(grid=BevGrid(-8.0, 0.0, -4.0, 4.0, 0.5)))
    student, teacher = taps_of(smaller.student), taps_of(smaller.teacher, seed=1)
    objective = ChannelWise(weight=1.0).build(smaller)
    beyond = torch.zeros_like(student.high_BCHW)
    beyond[..., 16:] = 30.0
    want = compare(objective, student, teacher, NO_BOXES)
    assert compare(objective, with_maps(student, high=student.high_BCHW + beyond), teacher, NO_BOXES) == want
    cut = [each.double().numpy() for each in (student.high_BCHW[..., :16], teacher.high_BCHW)]
    assert want.item() == pytest.approx(np_divergence(*cut, 4.0), rel=1e-4)


def test_heatmaps_have_no_adapter_and_must_mean_the_same() -> None:
    weaker = dataclasses.replace(BOTH, teacher_is_weaker=True)
    assert not list(ChannelWise(weight=1.0, at="heatmap").build(weaker).parameters())
    assert list(ChannelWise(weight=1.0, at="high").build(weaker).parameters())
    with pytest.raises(UdxError, match="70 channels and the teacher's 5"):
        ChannelWise(weight=1.0, at="heatmap").build(Pair(student=declare(), teacher=declare(heads=5)))


def test_heatmaps_on_another_grid() -> None:
    other = BevGrid(-8.0, 8.0, -4.0, 4.0, 1.0)
    both = Pair(student=declare(), teacher=declare(grid=other))
    x = [(grid.x_min + (torch.arange(grid.shape[1]) + 0.5) * grid.cell) for grid in (GRID, other)]
    taps = [taps_of(each) for each in (both.student, both.teacher)]
    student, teacher = (
        dataclasses.replace(
            its, heads=HeadMaps(line.expand_as(its.heads.heatmap_BKHW).contiguous(), its.heads.regression_BRHW)
        )
        for its, line in zip(taps, x, strict=True)
    )
    objective = ChannelWise(weight=1.0, at="heatmap", temperature=1.0).build(both)
    assert compare(objective, student, teacher, NO_BOXES) < 0.02
    backwards = dataclasses.replace(
        student, heads=HeadMaps(student.heads.heatmap_BKHW.flip(-1), student.heads.regression_BRHW)
    )
    assert compare(objective, backwards, teacher, NO_BOXES) > 5


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ChannelWise(weight=1.0, temperature=0.0)
