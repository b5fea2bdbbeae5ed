"""The verdict on samples whose truth is known."""

import numpy as np
import pytest

from udx.runtime.equivalence import Ratio, judge, paired_ratio

RNG = np.random.default_rng(0)
BASE = 20 + 5 * RNG.random(60)  # the machine's speed, the same for all engines of a block


def blocks(factor: float, noise: float, seed: int) -> np.ndarray:
    return BASE * factor * np.random.default_rng(seed).normal(1, noise, len(BASE))


DEARER = Ratio(ratio=1.05, ci90=(1.04, 1.06), blocks=60, ratios=(1.05,) * 60)


def verdict(
    factor: float, noise: float, control: float = 1.0, margin: float = 0.01, extra: float | None = 1.06
) -> tuple[str, str]:
    mine, other = blocks(factor, noise, 1), blocks(1.0, noise, 2)
    copy = blocks(factor * control, noise, 3)
    positive = None if extra is None else paired_ratio(blocks(factor * extra, noise, 4), mine, 0)
    found = judge(paired_ratio(mine, other, 0), paired_ratio(copy, mine, 0), positive, margin)
    return found.verdict, found.reason


def test_equal_engines_are_equivalent() -> None:
    assert verdict(1.0, 0.005)[0] == "equivalent"


@pytest.mark.parametrize(("factor", "word"), [(1.05, "more"), (0.95, "less")])
def test_five_per_cent_are_different(factor: float, word: str) -> None:
    found, reason = verdict(factor, 0.005)
    assert found == "different"
    assert word in reason


def test_noise_cannot_tell() -> None:
    found, reason = verdict(1.0, 0.2)
    assert found == "cannot tell"
    assert "same engine measured twice" in reason


def test_a_difference_at_the_margin_cannot_be_told() -> None:
    found, reason = verdict(1.01, 0.002)
    assert found == "cannot tell"
    assert "measure more blocks" in reason


def test_a_difference_within_the_margin_is_equivalent_even_if_certain() -> None:
    assert verdict(1.004, 0.001)[0] == "equivalent"


def test_a_failed_control_forbids_equivalence() -> None:
    found, reason = verdict(1.0, 0.002, control=1.03)
    assert found == "cannot tell"
    assert "same engine measured twice differs by +2." in reason or "+3." in reason


@pytest.mark.parametrize("control", [1.05, 0.95])
@pytest.mark.parametrize("factor", [1.04, 0.96])
def test_a_control_that_differs_as_much_forbids_difference(factor: float, control: float) -> None:
    assert verdict(factor, 0.002, control=control)[0] == "cannot tell"


def test_a_large_difference_survives_a_noisy_control() -> None:
    assert verdict(1.5, 0.03)[0] == "different"


def test_pairing_cancels_the_machine() -> None:
    drift = np.linspace(1, 3, 60)
    ratio = paired_ratio(1.02 * BASE * drift, BASE * drift, 0)
    assert ratio.ratio == pytest.approx(1.02)
    assert ratio.ci90 == pytest.approx((1.02, 1.02))


def test_interval_against_margin() -> None:
    ratio = Ratio(ratio=1.0, ci90=(0.995, 1.005), blocks=2, ratios=(1.0, 1.0))
    assert ratio.within(0.01) and not ratio.within(0.004)
    assert not ratio.beyond(0.01)
    assert Ratio(ratio=0.97, ci90=(0.96, 0.98), blocks=2, ratios=(0.97, 0.97)).beyond(0.01)


def test_difference_is_seldom_claimed_wrongly() -> None:
    """Equal engines on a machine so noisy that their own medians differ by more than the margin."""
    rng = np.random.default_rng(9)
    claimed = 0
    for trial in range(200):
        mine, other, copy = (20 * rng.normal(1, 0.3, 40).clip(0.3) for _ in range(3))
        claimed += (
            judge(paired_ratio(mine, other, trial), paired_ratio(copy, mine, trial), DEARER, 0.01).verdict
            == "different"
        )
    assert claimed <= 10


def test_equivalence_is_seldom_claimed_wrongly() -> None:
    """Two one-sided tests at 5 %: engines that differ by exactly the margin pass in about 5 % of trials."""
    rng = np.random.default_rng(8)
    claimed = 0
    for trial in range(200):
        speed = 20 + rng.random(40)
        mine = 1.01 * speed * rng.normal(1, 0.01, 40)
        other, copy = (speed * rng.normal(1, 0.01, 40) for _ in range(2))
        ab = paired_ratio(mine, other, trial)
        claimed += judge(ab, paired_ratio(1.01 * copy, mine, trial), DEARER, 0.01).verdict == "equivalent"
    assert claimed <= 22


@pytest.mark.parametrize("extra", [1.0, 1.008, 0.9])
def test_a_blind_measurement_is_not_trusted(extra: float) -> None:
    """The engine with an extra layer does not come out as dearer than the margin."""
    found, reason = verdict(1.0, 0.002, extra=extra)
    assert found == "cannot tell"
    assert "would not see a difference" in reason


def test_without_a_positive_control_there_is_no_equivalence() -> None:
    found, reason = verdict(1.0, 0.002, extra=None)
    assert found == "cannot tell"
    assert "no positive control" in reason
    assert verdict(1.05, 0.002, extra=None)[0] == "different"


def test_blocks_needed_follow_from_the_width_alone() -> None:
    """Half-widths of 0.8 % and 0.4 % at a margin of 1 %: four times the blocks, and just enough."""
    for middle in (0.9, 1.0, 1.3):
        wide = Ratio(ratio=middle, ci90=(middle - 0.008, middle + 0.008), blocks=50, ratios=(middle,) * 50)
        narrow = Ratio(ratio=middle, ci90=(middle - 0.0039, middle + 0.0039), blocks=50, ratios=(middle,) * 50)
        assert wide.blocks_needed(0.01) == pytest.approx(200, abs=1)
        assert narrow.blocks_needed(0.01) <= 50


def test_the_luck_of_an_opening_widens_the_interval() -> None:
    """Ten blocks of one opening share its luck: taken for independent, they would look three times as certain."""
    rng = np.random.default_rng(4)
    luck = np.repeat(rng.normal(1, 0.01, 30), 10)
    noise = rng.normal(1, 0.001, (2, 300))
    apart = paired_ratio(luck * noise[0], noise[1], 0)
    together = paired_ratio(luck * noise[0], noise[1], 0, together=10)
    assert together.half_width > 2 * apart.half_width


def test_stopping_at_precision_does_not_favour_a_verdict() -> None:
    """Engines that differ by the margin, measured until precise: equivalence is claimed in about 5 % of trials."""
    rng = np.random.default_rng(5)
    claimed = 0
    for trial in range(60):
        count = 20
        speed, noise = 20 + rng.random(400), rng.normal(1, 0.01, (3, 400))
        mine, other, copy = 1.01 * speed * noise[0], speed * noise[1], 1.01 * speed * noise[2]
        while True:
            ab = paired_ratio(mine[:count], other[:count], trial)
            aa = paired_ratio(copy[:count], mine[:count], trial)
            if count == 400 or max(one.blocks_needed(0.01) for one in (ab, aa)) <= count:
                break
            count = min(400, max(count + 10, min(one.blocks_needed(0.01) for one in (ab, aa))))
        claimed += judge(ab, aa, DEARER, 0.01).verdict == "equivalent"
    assert claimed <= 8
