"""What a run's checkpoint tells of itself in everything that is made of it."""

from udx.config import to_plain
from udx.files import sha256_of
from udx.geometry import CameraRig
from udx.manifest import Manifest
from udx.train.checkpoint import CheckpointRecord
from udx.train.run import Run


def manifest_of(run: Run, record: CheckpointRecord) -> Manifest:
    """Tell everything of a checkpoint that its export's user needs."""
    metrics = run.read_metrics() or {}
    return Manifest(
        recipe=record.config.recipe,
        spec=record.config.detector.spec,
        max_boxes=record.config.detector.max_boxes,
        checkpoint_sha256=sha256_of(run.checkpoint),
        git_commit=record.git_commit,
        udx_version=record.udx_version,
        config=to_plain(record.config),
        metrics={name: metrics[name] for name in ("mAP", "NDS") if name in metrics},
        teacher=to_plain(record.teacher) if record.teacher else None,
        rig=CameraRig.from_json(record.rig) if record.rig else None,
    )
