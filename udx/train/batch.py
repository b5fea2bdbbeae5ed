"""Keyframes to batches: loading and augmentation in worker processes, replayable from seed, turn and position."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from udx.data.augment import AugmentationConfig
from udx.data.depth import depth_targets
from udx.data.frame import KeyFrame, Sample
from udx.data.inputs import inputs_of
from udx.data.load import Reading, ReadSweeps, read_sweeps, trainable
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.models.detector import DetectorInputs
from udx.train.distiller import Lessons
from udx.train.interrupt import held_back_from_children, ignore_in_worker
from udx.train.objectives import Objects
from udx.train.sampling import BatchShare, EpochSampler
from udx.workers import kill_workers_at_exit


@runtime_checkable
class Remembered(Protocol):
    """Where lessons of the teacher may be kept, by position in the training set and draw of the augmentation."""

    def lookup(self, position: int, draw: int) -> Lessons | None:
        """The lessons of a sample, if they are there."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples: the detector's inputs, the objects in them, sample tokens.

    ``lessons`` are the teacher's where they are remembered; ``teacher_inputs`` are the other samples, under the same
    augmentation, as the teacher reads them; ``None`` where there are none. ``addresses`` are the samples' positions
    in the training set and their draws of the augmentation. ``dropped_points`` counts the LiDAR points that did not
    fit the buffer; ``depth_BNhw`` are the bins of ``depth_targets``, if the cameras' depth is supervised.
    """

    inputs: DetectorInputs
    teacher_inputs: DetectorInputs | None
    objects: Objects
    tokens: list[str]
    dropped_points: int
    addresses: list[tuple[int, int]]
    lessons: list[Lessons | None]
    depth_BNhw: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor but those of the lessons, which go where they are compared."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Copy every tensor but those of the lessons to where a GPU can fetch it while it computes."""
        return self._with_each(torch.Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        def changed(inputs: DetectorInputs) -> DetectorInputs:
            tensors = {item.name: getattr(inputs, item.name) for item in fields(inputs)}
            return DetectorInputs(**{name: v if v is None else change(v) for name, v in tensors.items()})

        cameras = self.objects.pixels_T_ego_BN34
        return replace(
            self,
            inputs=changed(self.inputs),
            teacher_inputs=changed(self.teacher_inputs) if self.teacher_inputs else None,
            objects=Objects(
                [change(boxes) for boxes in self.objects.boxes],
                [change(labels) for labels in self.objects.labels],
                cameras if cameras is None else change(cameras),
            ),
            depth_BNhw=self.depth_BNhw if self.depth_BNhw is None else change(self.depth_BNhw),
        )


class KeyFrames(Dataset[Batch]):
    """Samples as batches of one; an index is (position, turn), so that augmentation can be replayed."""

    def __init__(
        self,
        keyframes: Sequence[KeyFrame],
        spec: SensorSpec,
        teacher_spec: SensorSpec | None = None,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        with_depth: bool = False,
        remembered: Remembered | None = None,
        read: ReadSweeps = read_sweeps,
    ) -> None:
        self.keyframes, self.spec, self.teacher_spec = keyframes, spec, teacher_spec
        self.augmentation, self.seed, self.with_depth = augmentation, seed, with_depth
        self.remembered, self.read = remembered, read

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        position, turn = index
        keyframe, augmentation, draw = self.keyframes[position], None, 0
        if self.augmentation is not None:
            draw = self.augmentation.draw_of(turn)
            generator = np.random.default_rng((self.seed, draw, position))
            augmentation = self.augmentation.draw(generator, len(keyframe.rig.names))
        reading = Reading(keyframe, augmentation, self.read)
        sample = reading.sample(self.spec)
        lessons = self.remembered.lookup(position, draw) if self.remembered is not None else None
        teacher_inputs = None
        if self.teacher_spec is not None and lessons is None:
            teacher_inputs = _inputs(reading.sample(self.teacher_spec), self.teacher_spec)
        return Batch(
            _inputs(sample, self.spec),
            teacher_inputs,
            self._objects(sample),
            [sample.token],
            sample.dropped_points,
            [(position, draw)],
            [lessons],
            self._depth(reading, sample) if self.with_depth else None,
        )

    def _objects(self, sample: Sample) -> Objects:
        annotations = trainable(sample.annotations, self.spec.grid)
        return Objects(
            [torch.from_numpy(annotations.boxes_N9).float()],
            [torch.from_numpy(annotations.labels_N)],
            torch.from_numpy(sample.rig.pixels_T_ego_N34).float()[None] if sample.rig is not None else None,
        )

    def _depth(self, reading: Reading, sample: Sample) -> Tensor:
        assert self.spec.camera is not None and sample.rig is not None
        points = reading.points(self.spec, 1)
        return torch.from_numpy(depth_targets(points, sample.rig, self.spec.camera.frustum))[None]


def make_loader(
    dataset: KeyFrames,
    batch_size: int,
    workers: int,
    seed: int | None,
    drop_last: bool,
    *,
    positions: Sequence[int] | None = None,
    share: tuple[int, int] = (0, 1),
    accumulate: int = 1,
) -> tuple[DataLoader[Batch], EpochSampler]:
    """Loader over a dataset; without a seed the order is the dataset's own.

    ``positions``: what an epoch consists of, by default every sample once. ``share``: which process's part, of how
    many; ``batch_size`` is that of one process, of which ``accumulate`` make a step.
    """
    if workers:
        kill_workers_at_exit()
    sampler = EpochSampler(range(len(dataset)) if positions is None else positions, seed)
    loader = DataLoader(
        dataset,
        batch_sampler=BatchShare(sampler, batch_size * accumulate, share, drop_last=drop_last, pieces=accumulate),
        num_workers=workers,
        collate_fn=join,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_begin_worker,
        # Else every new iteration would draw from the generator that training draws from.
        generator=torch.Generator(),
    )
    return loader, sampler


def batches(loader: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield a loader's batches on a device.

    Raises:
        UdxError: a file is missing or damaged; in the words of whoever found it, without a worker's traceback.
    """
    try:
        with held_back_from_children():
            loading = iter(loader)
        for batch in loading:
            yield batch.to(device)
    except UdxError as error:
        # Of the whole message: as a sentence it would be cut before the end of the traceback, where the sentence is.
        raise UdxError(str(error.args[0]).rsplit("UdxError: ", 1)[-1].strip()) from None


def join(samples: Sequence[Batch]) -> Batch:
    """Collate batches of one into one batch."""

    def together(inputs: Sequence[DetectorInputs]) -> DetectorInputs:
        columns = {item.name: [getattr(one, item.name) for one in inputs] for item in fields(DetectorInputs)}
        return DetectorInputs(
            **{name: None if parts[0] is None else torch.cat(parts) for name, parts in columns.items()}
        )

    depths = [sample.depth_BNhw for sample in samples if sample.depth_BNhw is not None]
    teacher_inputs = [sample.teacher_inputs for sample in samples if sample.teacher_inputs is not None]
    cameras = [its for sample in samples if (its := sample.objects.pixels_T_ego_BN34) is not None]
    return Batch(
        together([sample.inputs for sample in samples]),
        together(teacher_inputs) if teacher_inputs else None,
        Objects(
            [boxes for sample in samples for boxes in sample.objects.boxes],
            [labels for sample in samples for labels in sample.objects.labels],
            torch.cat(cameras) if cameras else None,
        ),
        [token for sample in samples for token in sample.tokens],
        sum(sample.dropped_points for sample in samples),
        [address for sample in samples for address in sample.addresses],
        [lessons for sample in samples for lessons in sample.lessons],
        torch.cat(depths) if depths else None,
    )


def _inputs(sample: Sample, spec: SensorSpec) -> DetectorInputs:
    return DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in inputs_of(sample, spec).items()})


def _begin_worker(_: int) -> None:
    ignore_in_worker()
    torch.set_num_threads(1)
