"""Which finished run is that of a configuration, and which changes of a student's configuration its teacher shares."""

from collections.abc import Iterable
from typing import Any, Final

from udx.config import has_field, to_plain, with_override
from udx.errors import UdxError
from udx.train.checkpoint import CheckpointRecord
from udx.train.recipes import RunConfig
from udx.train.state import FREE

INDIFFERENT: Final = tuple(
    {*FREE, "seed", "precision", "validate_every", "channels_last"}
    - {"batch_size", "accumulate"}  # which decides on the steps
)
"""Settings of ``TrainConfig`` under which one training stands for another: how it is computed, watched and kept."""


def stands_for(record: CheckpointRecord, config: RunConfig, keyframes: str) -> bool:
    """Whether a finished run is one of this configuration on these training samples, without teacher and start."""
    return (
        record.teacher is None
        and record.start_sha256 is None
        and record.data.get("keyframes") == keyframes
        and _deciding(record.config) == _deciding(config)
    )


def shared_overrides(config: RunConfig, assignments: Iterable[str]) -> list[str]:
    """Those of a student's ``--set`` that apply to its teacher as well, whose recipe is ``config``.

    That is all but the distillation's, and those of sensors that only one of the two has.
    """
    return [assignment for assignment in assignments if _applies(config, assignment)]


def _applies(config: RunConfig, assignment: str) -> bool:
    path = assignment.partition("=")[0]
    if path.split(".")[0] == "distillation" or not has_field(config, path):
        return False
    try:
        changed = with_override(config, assignment)
    except UdxError:
        return True  # perhaps valid together with another one; if not, it is refused when all are made
    return changed.detector.spec.modality == config.detector.spec.modality


def _deciding(config: RunConfig) -> dict[str, Any]:
    plain = to_plain(config)
    del plain["distillation"]
    for name in INDIFFERENT:
        plain["train"].pop(name, None)
    return plain
