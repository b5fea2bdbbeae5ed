"""Batches: replayable augmentation, a teacher that sees the same sample, an order that can be resumed."""

import dataclasses

import torch

from tests.tiny import tiny_detector
from udx.data.augment import AugmentationConfig, BevAugmentation
from udx.train.batch import KeyFrames, make_loader

TURN = AugmentationConfig(bev=BevAugmentation(mirror_y_probability=0.5, rotation_rad=(-0.5, 0.5)))


def test_augmentation_is_replayed_by_epoch_and_index(keyframes):
    dataset = KeyFrames(keyframes, tiny_detector("lidar").spec, augmentation=TURN, seed=5)
    first, again, later = dataset[0, 3], dataset[0, 3], dataset[0, 4]
    assert torch.equal(first.inputs.points, again.inputs.points)
    assert not torch.equal(first.inputs.points, later.inputs.points)


def test_teacher_and_student_see_the_same_augmented_sample(keyframes):
    spec, teacher = tiny_detector("cam").spec, tiny_detector("fusion").spec
    batch = KeyFrames(keyframes, spec, teacher, TURN, seed=5)[1, 0]
    assert batch.inputs.points is None
    assert torch.equal(batch.inputs.pool_index, batch.teacher_inputs.pool_index)
    alone = KeyFrames(keyframes, teacher, None, TURN, seed=5)[1, 0]
    assert torch.equal(alone.inputs.points, batch.teacher_inputs.points)
    assert torch.equal(alone.objects.boxes[0], batch.objects.boxes[0])


def test_boxes_off_the_grid_or_without_points_are_no_targets(keyframes):
    spec = tiny_detector("lidar").spec
    batch = KeyFrames(keyframes, spec)[0, 0]
    kept, all_of_them = batch.objects.boxes[0], keyframes[0].annotations
    assert 0 < len(kept) < len(all_of_them)
    assert (kept[:, 0].abs() <= 25.6).all()
    assert (kept[:, 1].abs() <= 12.8).all()


def test_without_a_seed_the_order_is_the_datasets(keyframes):
    loader, _ = make_loader(KeyFrames(keyframes, tiny_detector("cam").spec), 2, 0, seed=None, drop_last=False)
    batches = list(loader)
    assert [token for batch in batches for token in batch.tokens] == [keyframe.token for keyframe in keyframes]
    assert batches[0].inputs.images.shape == (2, 6, 32, 64, 3)
    moved = batches[0].to(torch.device("cpu"))
    assert {field.name for field in dataclasses.fields(moved)} >= {"inputs", "objects", "lessons"}
