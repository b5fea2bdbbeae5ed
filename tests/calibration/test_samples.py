"""Which keyframes calibrate, and which judge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.calibration.samples import choose, digest, stratified
from udx.data.frame import Annotations, KeyFrame
from udx.errors import UdxError
from udx.geometry import CameraRig

RIG = CameraRig(("CAM",), np.eye(3)[None], np.eye(4)[None])


def frames(*lengths: int) -> list[KeyFrame]:
    """Keyframes of scenes of these lengths; nothing but their names is read."""
    return [
        KeyFrame(
            token=f"{scene}-{at}",
            scene=f"s{scene}",
            timestamp_us=0,
            image_paths=(),
            rig=RIG,
            sweeps=(),
            global_T_ego=np.eye(4),
            annotations=Annotations.none(),
        )
        for scene, length in enumerate(lengths)
        for at in range(length)
    ]


def by_scene(items: list[KeyFrame]) -> dict[str, list[KeyFrame]]:
    return {name: [item for item in items if item.scene == name] for name in dict.fromkeys(i.scene for i in items)}


def test_scenes_have_equal_shares_spread_over_time():
    chosen = stratified(by_scene(frames(8, 8, 2)), 8)
    assert [frame.token for frame in chosen] == ["0-1", "0-4", "0-6", "1-1", "1-4", "1-6", "2-0", "2-1"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 60))
def test_shares_differ_by_one_at_most_where_scenes_are_long_enough(lengths, count):
    chosen = stratified(by_scene(frames(*lengths)), count)
    assert len(chosen) == len(set(chosen)) == min(count, sum(lengths))
    shares = [sum(frame.scene == f"s{at}" for frame in chosen) for at in range(len(lengths))]
    open_shares = [share for share, length in zip(shares, lengths, strict=True) if share < length]
    assert not open_shares or max(shares) - min(open_shares) <= 1


def test_scenes_that_judge_do_not_calibrate():
    chosen = choose("train", frames(4, 4, 4, 4), count=6, judged=8)
    assert len(chosen.judged_scenes) == 2 and len(chosen.judged) == 8
    assert len(chosen.keyframes) == 6
    assert not {frame.scene for frame in chosen.keyframes} & set(chosen.judged_scenes)


def test_at_most_half_of_the_scenes_judge():
    assert len(choose("train", frames(4, 4, 4), count=2, judged=100).judged_scenes) == 1
    assert choose("train", frames(4), count=2, judged=100).judged == ()


def test_too_few_samples():
    with pytest.raises(UdxError, match="gives no sample"):
        choose("train", frames(4), count=0, judged=0)
    with pytest.raises(UdxError, match="a single sample"):
        choose("train", frames(4), count=1, judged=0)


def test_the_digest_is_of_order_and_names():
    assert digest(["a", "b"]) != digest(["b", "a"])
    assert len(digest([])) == 64
