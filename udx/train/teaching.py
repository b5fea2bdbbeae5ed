"""The teacher's side of a training: who teaches, what is compared, and the lessons of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from udx.config import to_plain
from udx.data.frame import KeyFrame
from udx.data.spec import Modality, SensorSpec
from udx.errors import UdxError
from udx.files import sha256_of
from udx.models.detector import Detector
from udx.models.taps import DeclaredTaps
from udx.train.batch import Batch
from udx.train.checkpoint import TeacherRecord, load_detector
from udx.train.distiller import Distiller, FrozenTeacher, Lessons
from udx.train.lesson_cache import CacheKey, LessonCache, data_digest
from udx.train.methods import DistillationConfig, Inherit
from udx.train.objectives import Pair
from udx.train.recipes import RunConfig
from udx.train.run import Run

INHERITED: Final[dict[Inherit, tuple[str, ...]]] = {
    "nothing": (),
    "bev": ("bev_encoder", "head"),
    "all": ("camera", "lidar", "bev_encoder", "head"),
}
"""Modules of a detector by what is inherited."""

STRENGTH: Final[tuple[Modality, ...]] = ("cam", "lidar", "fusion")
"""Modalities from the weakest to the strongest detector, as on nuScenes."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """A teacher, what its students are compared in, and where its lessons are remembered, if anywhere."""

    teacher: FrozenTeacher
    spec: SensorSpec
    record: TeacherRecord
    distiller: Distiller
    cache: LessonCache | None = None

    @torch.no_grad()
    def lessons(self, batch: Batch) -> list[Lessons]:
        """The lessons of a batch: as remembered, and of the samples that are not by running the teacher."""
        new = [at for at, lessons in enumerate(batch.lessons) if lessons is None]
        if not new:
            return [lessons for lessons in batch.lessons if lessons is not None]
        taught = self.distiller.read(self.teacher(batch.teacher_inputs), batch.objects.of(new))
        if self.cache is not None:
            for at, lessons in zip(new, taught, strict=True):
                self.cache.add(*batch.addresses[at], lessons)
        fresh = dict(zip(new, taught, strict=True))
        return [fresh[at] if lessons is None else lessons for at, lessons in enumerate(batch.lessons)]


def begin_teaching(
    run: Run,
    student: Detector,
    config: RunConfig,
    keyframes: Sequence[KeyFrame],
    *,
    student_mAP: float | None,
    cache: Path | None,
    device: torch.device,
    warn: Callable[[str], None],
) -> Teaching:
    """Load a teacher, put the configuration's objectives between it and the student, and let it inherit.

    ``student_mAP``: of such a student without a teacher, where it is known. ``cache``: folder of remembered lessons.

    Raises:
        UdxError: the teacher cannot be read, the two cannot be compared, or the cache is damaged or of other lessons.
    """
    detector, record = load_teacher(run)
    return teaching_between(
        detector,
        record,
        student,
        config,
        keyframes,
        student_mAP=student_mAP,
        cache=cache,
        device=device,
        warn=warn,
    )


def teaching_between(
    detector: Detector,
    record: TeacherRecord,
    student: Detector,
    config: RunConfig,
    keyframes: Sequence[KeyFrame],
    *,
    student_mAP: float | None = None,
    cache: Path | None = None,
    device: torch.device,
    warn: Callable[[str], None] = lambda sentence: None,
) -> Teaching:
    """``begin_teaching`` with a teacher that is loaded already.

    Raises:
        UdxError: the two cannot be compared, or the cache is damaged or of other lessons.
    """
    modality = config.detector.spec.modality
    sentence = doubt(record, modality, student_mAP)
    if sentence:
        warn(sentence)
    sentence = futile_cache(config) if cache else None
    if sentence:
        warn(sentence)
    pair = Pair(
        student=student.taps,
        teacher=detector.taps,
        teacher_is_weaker=teacher_is_weaker(record, modality, student_mAP),
        adapter=config.distillation.adapter,
    )
    distiller = Distiller(config.distillation, pair)
    inherit(student, detector, config.distillation.inherit)
    detector = detector.to(device)
    remembered = (
        LessonCache.open(cache, cache_key(record, detector, student.taps, config, keyframes)) if cache else None
    )
    return Teaching(FrozenTeacher(detector), detector.config.spec, record, distiller, remembered)


def inherit(student: Detector, teacher: Detector, what: Inherit) -> None:
    """Copy weights of the teacher into the student, module by module.

    A student that is trained apart from its teacher finds its own order of channels, so that maps of the two cannot
    be compared but through an adapter; one that begins with the teacher's BEV encoder and head reads its own maps as
    the teacher reads its, and is left with learning to make them.

    Raises:
        UdxError: a module of both has another shape in one of them.
    """
    for name in INHERITED[what]:
        own, theirs = getattr(student, name), getattr(teacher, name)
        if own is None or theirs is None:
            continue
        try:
            own.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            raise UdxError(
                f"the student cannot inherit the teacher's {name.replace('_', ' ')}, whose layers are not the "
                "student's: give both the same widths, or set distillation.inherit=nothing"
            ) from error


def load_teacher(run: Run) -> tuple[Detector, TeacherRecord]:
    """Load a run's detector as a teacher, with the record that its student's checkpoint will carry.

    Raises:
        UdxError: the run has no readable checkpoint of this udx.
    """
    detector, record = load_detector(run.checkpoint)
    metrics = run.read_metrics() or {}
    return detector, TeacherRecord(
        run=str(run.folder),
        modality=record.config.detector.spec.modality,
        checkpoint_sha256=sha256_of(run.checkpoint),
        mAP=metrics.get("mAP"),
        NDS=metrics.get("NDS"),
    )


def teacher_is_weaker(teacher: TeacherRecord, student: Modality, student_mAP: float | None) -> bool:
    """Whether the student needs the paper's adaptive layers.

    By the measured mAP where both are known (the student's is that of one trained without a teacher), else by
    modality: of the paper's paths camera → LiDAR alone.
    """
    if teacher.mAP is not None and student_mAP is not None:
        return teacher.mAP < student_mAP
    return STRENGTH.index(teacher.modality) < STRENGTH.index(student)


def doubt(teacher: TeacherRecord, student: Modality, student_mAP: float | None) -> str | None:
    """One sentence on a teacher that is not known to be better than its student, if so it is."""
    if teacher.mAP is not None and student_mAP is not None:
        if teacher.mAP > student_mAP:
            return None
        return (
            f"the teacher {teacher.run} (mAP {teacher.mAP:.3f}) is not better than a {student} student without it "
            f"(mAP {student_mAP:.3f}): it may teach little"
        )
    if not teacher_is_weaker(teacher, student, student_mAP):
        return None
    return f"a {teacher.modality} teacher is as a rule weaker than a {student} student: it may teach little"


def futile_cache(config: RunConfig) -> str | None:
    """One sentence if no epoch of this training can find the lessons of an earlier one, because each draws anew."""
    augmentation = config.train.augmentation
    if augmentation is None or (augmentation.draws is not None and augmentation.draws < config.train.epochs):
        return None
    return (
        "the teacher cache will not be read in this run: every epoch draws other augmentations, and only a second run "
        "of the same seed would find their lessons; --set train.augmentation.draws=2 lets them repeat"
    )


def cache_key(
    record: TeacherRecord, teacher: Detector, student: DeclaredTaps, config: RunConfig, keyframes: Sequence[KeyFrame]
) -> CacheKey:
    """All that the lessons of this teacher for this student depend on."""
    augmentation = config.train.augmentation
    device = next(teacher.parameters()).device
    return CacheKey(
        teacher_sha256=record.checkpoint_sha256,
        dataset_sha256=data_digest(keyframes, teacher.config.spec),
        augmentation=to_plain(augmentation) if augmentation else None,
        augmentation_seed=config.train.seed if augmentation else None,
        objectives=_reading_settings(config.distillation),
        student=_of_bev(student),
        teacher=_of_bev(teacher.taps),
        precision=config.train.precision,
        device=device.type,
    )


def _reading_settings(config: DistillationConfig) -> dict[str, Any]:
    """What of a configuration decides what lessons hold: the objectives in use, but not their weights."""
    return {
        name: {field: value for field, value in settings.items() if field != "weight"}
        for name, settings in to_plain(config)["objectives"].items()
        if settings["weight"]
    }


def _of_bev(taps: DeclaredTaps) -> dict[str, Any]:
    """Grid and strides, without the widths, which adapters bridge."""
    strides = {name: tap.stride for name, tap in (("low", taps.low), ("high", taps.high), ("heads", taps.heads))}
    return {"grid": to_plain(taps.grid), "strides": strides}
