"""Keyframes to batches: loading and augmentation in worker processes, replayable from seed, epoch and index."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from udx.data.augment import Augmentation, AugmentationConfig
from udx.data.depth import depth_targets
from udx.data.frame import KeyFrame, Sample
from udx.data.inputs import inputs_of
from udx.data.load import load_points, load_sample, trainable
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.models.detector import DetectorInputs


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples: the detector's inputs, boxes (B tensors (N_i, 9) in the BEV frame), labels (N_i,), sample tokens.

    ``teacher_inputs`` are the same samples, under the same augmentation, as the teacher reads them.
    ``dropped_points`` counts the LiDAR points that did not fit the buffer; ``depth_BNhw`` are the bins of
    ``depth_targets``, if the cameras' depth is supervised.
    """

    inputs: DetectorInputs
    teacher_inputs: DetectorInputs | None
    boxes: list[Tensor]
    labels: list[Tensor]
    tokens: list[str]
    dropped_points: int
    depth_BNhw: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""

        def moved(inputs: DetectorInputs) -> DetectorInputs:
            tensors = {item.name: getattr(inputs, item.name) for item in fields(inputs)}
            return DetectorInputs(
                **{k: v if v is None else v.to(device, non_blocking=True) for k, v in tensors.items()}
            )

        return Batch(
            moved(self.inputs),
            moved(self.teacher_inputs) if self.teacher_inputs else None,
            [boxes.to(device, non_blocking=True) for boxes in self.boxes],
            [labels.to(device, non_blocking=True) for labels in self.labels],
            self.tokens,
            self.dropped_points,
            self.depth_BNhw if self.depth_BNhw is None else self.depth_BNhw.to(device, non_blocking=True),
        )


class KeyFrames(Dataset[Batch]):
    """Samples as batches of one; an index is (position, epoch), so that augmentation can be replayed."""

    def __init__(
        self,
        keyframes: Sequence[KeyFrame],
        spec: SensorSpec,
        teacher_spec: SensorSpec | None = None,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        with_depth: bool = False,
    ) -> None:
        self.keyframes, self.spec, self.teacher_spec = keyframes, spec, teacher_spec
        self.augmentation, self.seed, self.with_depth = augmentation, seed, with_depth

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        position, epoch = index
        keyframe, augmentation = self.keyframes[position], None
        if self.augmentation is not None:
            generator = np.random.default_rng((self.seed, epoch, position))
            augmentation = self.augmentation.draw(generator, len(keyframe.rig.names))
        loaded, sample = self._load(keyframe, self.spec, augmentation)
        teacher_inputs = None
        if self.teacher_spec is not None:
            teacher_inputs, _ = self._load(keyframe, self.teacher_spec, augmentation)
        annotations = trainable(sample.annotations, self.spec.grid)
        return Batch(
            loaded,
            teacher_inputs,
            [torch.from_numpy(annotations.boxes_N9).float()],
            [torch.from_numpy(annotations.labels_N)],
            [sample.token],
            sample.dropped_points,
            self._depth(keyframe, sample, augmentation) if self.with_depth else None,
        )

    def _depth(self, keyframe: KeyFrame, sample: Sample, augmentation: Augmentation | None) -> Tensor:
        assert self.spec.camera is not None and sample.rig is not None
        points = load_points(keyframe, self.spec, 1, (augmentation or Augmentation()).bev.new_T_ego)
        return torch.from_numpy(depth_targets(points, sample.rig, self.spec.camera.frustum))[None]

    def _load(
        self, keyframe: KeyFrame, spec: SensorSpec, augmentation: Augmentation | None
    ) -> tuple[DetectorInputs, Sample]:
        sample = load_sample(keyframe, spec, augmentation)
        return DetectorInputs(**{k: torch.from_numpy(v)[None] for k, v in inputs_of(sample, spec).items()}), sample


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


def batches(loader: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield a loader's batches on a device.

    Raises:
        UdxError: a file is missing or damaged; in the words of whoever found it, without a worker's traceback.
    """
    try:
        for batch in loader:
            yield batch.to(device)
    except UdxError as error:
        raise UdxError(str(error).rsplit("UdxError: ", 1)[-1].strip()) from None


def join(samples: Sequence[Batch]) -> Batch:
    """Collate batches of one into one batch."""

    def together(inputs: Sequence[DetectorInputs]) -> DetectorInputs:
        columns = {item.name: [getattr(one, item.name) for one in inputs] for item in fields(DetectorInputs)}
        return DetectorInputs(
            **{name: None if parts[0] is None else torch.cat(parts) for name, parts in columns.items()}
        )

    depths = [sample.depth_BNhw for sample in samples if sample.depth_BNhw is not None]
    teacher_inputs = [sample.teacher_inputs for sample in samples if sample.teacher_inputs is not None]
    return Batch(
        together([sample.inputs for sample in samples]),
        together(teacher_inputs) if teacher_inputs else None,
        [boxes for sample in samples for boxes in sample.boxes],
        [labels for sample in samples for labels in sample.labels],
        [token for sample in samples for token in sample.tokens],
        sum(sample.dropped_points for sample in samples),
        torch.cat(depths) if depths else None,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
