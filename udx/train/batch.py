"""Keyframes to batches: loading and augmentation in worker processes, replayable from seed, epoch and index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from udx.data.augment import AugmentationConfig
from udx.data.frame import KeyFrame
from udx.data.inputs import inputs_of
from udx.data.load import load_sample, trainable
from udx.data.spec import SensorSpec
from udx.models.detector import DetectorInputs


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of B samples, their boxes (B tensors (N_i, 9) in the BEV frame), labels (N_i,) and sample tokens."""

    inputs: DetectorInputs
    boxes: list[Tensor]
    labels: list[Tensor]
    tokens: list[str]
    dropped_points: int = 0

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""
        moved = {item.name: getattr(self.inputs, item.name) for item in fields(self.inputs)}
        return Batch(
            DetectorInputs(**{k: v if v is None else v.to(device, non_blocking=True) for k, v in moved.items()}),
            [boxes.to(device, non_blocking=True) for boxes in self.boxes],
            [labels.to(device, non_blocking=True) for labels in self.labels],
            self.tokens,
            self.dropped_points,
        )

    def for_sensors(self, spec: SensorSpec) -> DetectorInputs:
        """Keep the inputs of a detector with fewer sensors, so that it never sees what it will not have."""
        return DetectorInputs(
            images=self.inputs.images if spec.camera else None,
            pool_index=self.inputs.pool_index if spec.camera else None,
            pool_offsets=self.inputs.pool_offsets if spec.camera else None,
            points=self.inputs.points if spec.lidar else None,
            num_points=self.inputs.num_points if spec.lidar else None,
        )


class KeyFrames(Dataset[Batch]):
    """Samples as batches of one; an index is (position, epoch), so that augmentation can be replayed."""

    def __init__(
        self, keyframes: Sequence[KeyFrame], spec: SensorSpec, augmentation: AugmentationConfig | None, seed: int
    ) -> None:
        self.keyframes, self.spec, self.augmentation, self.seed = keyframes, spec, augmentation, seed

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        position, epoch = index
        drawn = None
        if self.augmentation is not None:
            generator = np.random.default_rng((self.seed, epoch, position))
            drawn = self.augmentation.draw(generator, len(self.spec.camera.names) if self.spec.camera else 0)
        sample = load_sample(self.keyframes[position], self.spec, drawn)
        annotations = trainable(sample.annotations, self.spec.grid)
        tensors = {name: torch.from_numpy(array)[None] for name, array in inputs_of(sample, self.spec).items()}
        return Batch(
            DetectorInputs(**tensors),
            [torch.from_numpy(annotations.boxes_N9).float()],
            [torch.from_numpy(annotations.labels_N)],
            [sample.token],
            sample.dropped_points,
        )


class EpochSampler(Sampler[tuple[int, int]]):
    """Every sample once an epoch, shuffled by seed and epoch; ``skip`` samples are passed over when resuming."""

    def __init__(self, length: int, seed: int | None) -> None:
        self.length, self.seed, self.epoch, self.skip = length, seed, 0, 0

    def begin(self, epoch: int, skip: int) -> None:
        """Set the epoch that the next iteration runs."""
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return iter([(int(position), self.epoch) for position in order[self.skip :]])

    def __len__(self) -> int:
        return self.length - self.skip


def make_loader(
    dataset: KeyFrames, batch_size: int, workers: int, seed: int | None, drop_last: bool
) -> tuple[DataLoader[Batch], EpochSampler]:
    """Loader over a dataset; without a seed the order is the dataset's own."""
    sampler = EpochSampler(len(dataset), seed)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=join,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_one_thread,
    )
    return loader, sampler


def join(samples: Sequence[Batch]) -> Batch:
    """Collate batches of one into one batch."""
    inputs = {}
    for item in fields(DetectorInputs):
        parts = [getattr(sample.inputs, item.name) for sample in samples]
        inputs[item.name] = None if parts[0] is None else torch.cat(parts)
    return Batch(
        DetectorInputs(**inputs),
        [boxes for sample in samples for boxes in sample.boxes],
        [labels for sample in samples for labels in sample.labels],
        [token for sample in samples for token in sample.tokens],
        sum(sample.dropped_points for sample in samples),
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
