"""Orders: complete, replayable, shared between processes without a sample lost or taken twice."""

import dataclasses
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from udx.data.frame import Annotations
from udx.geometry import BOX_SIZE
from udx.train.sampling import BatchShare, EpochSampler, class_balanced


def test_an_order_can_be_taken_up_in_the_middle():
    sampler = EpochSampler(range(10), seed=1)
    sampler.begin(2, 0)
    whole = list(sampler)
    sampler.begin(2, 4)
    assert list(sampler) == whole[4:]
    assert sorted(position for position, _ in whole) == list(range(10))
    sampler.begin(3, 0)
    assert [position for position, _ in sampler] != [position for position, _ in whole]


@given(length=st.integers(1, 40), size=st.integers(1, 4), count=st.integers(1, 4), skipped=st.integers(0, 2))
def test_processes_together_take_what_one_would_take(length, size, count, skipped):
    sampler = EpochSampler(range(length), seed=1)
    sampler.begin(2, skipped * size * count)
    alone = list(BatchShare(sampler, size * count, (0, 1), drop_last=True))
    shares = [list(BatchShare(sampler, size, (rank, count), drop_last=True)) for rank in range(count)]
    assert [list(chain(*batches)) for batches in zip(*shares, strict=True)] == alone
    taken = [position for batch in alone for position, _ in batch]
    assert len(set(taken)) == len(taken) == max(0, length - skipped * size * count) // (size * count) * size * count


@given(length=st.integers(0, 30), size=st.integers(1, 4), count=st.integers(1, 4))
def test_without_dropping_every_sample_is_taken_once(length, size, count):
    sampler = EpochSampler(range(length), seed=None)
    shares = [BatchShare(sampler, size, (rank, count), drop_last=False) for rank in range(count)]
    taken = [position for share in shares for batch in share for position, _ in batch]
    assert sorted(taken) == list(range(length))
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]


def test_what_an_epoch_leaves_out_is_another_rest_each_time():
    sampler = EpochSampler(range(5), seed=0)
    left_out = set()
    for epoch in range(8):
        sampler.begin(epoch, 0)
        taken = {position for batch in BatchShare(sampler, 2, (0, 1), drop_last=True) for position, _ in batch}
        left_out |= set(range(5)) - taken
    assert len(left_out) > 1


def test_a_sample_that_comes_again_has_another_turn():
    sampler = EpochSampler([7, 3, 7, 7], seed=4)
    turns = {7: [], 3: []}
    for epoch in range(3):
        sampler.begin(epoch, 0)
        for position, turn in sampler:
            turns[position].append(turn)
    assert sorted(turns[7]) == list(range(9))
    assert sorted(turns[3]) == list(range(3))


def annotated(keyframe, *labels, points=5):
    boxes = np.ones((len(labels), BOX_SIZE))
    annotations = Annotations(boxes, np.array(labels, np.int64), np.full(len(labels), points))
    return dataclasses.replace(keyframe, annotations=annotations)


def test_classes_are_drawn_alike(keyframes):
    common, rare = annotated(keyframes[0], 0, 0), annotated(keyframes[0], 0, 5)
    unseen = annotated(keyframes[0], 9, points=0)
    positions = class_balanced([common] * 30 + [rare] * 2 + [unseen], seed=3)
    # 32 keyframes with class 0, 2 with class 5: 17 draws for each.
    assert len(positions) == 34
    assert np.isin(positions[17:], [30, 31]).all()
    assert 32 not in positions
    assert np.array_equal(positions, class_balanced([common] * 30 + [rare] * 2 + [unseen], seed=3))
    assert not np.array_equal(positions, class_balanced([common] * 30 + [rare] * 2 + [unseen], seed=4))


def test_without_a_box_every_keyframe_comes_once(keyframes):
    assert class_balanced([annotated(keyframes[0])] * 3, seed=0).tolist() == [0, 1, 2]
