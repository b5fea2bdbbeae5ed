"""Write a run's detector as one ONNX file that stock ONNX Runtime runs, and prove it against torch."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from udx.config import to_plain
from udx.data.detections import Detections
from udx.errors import UdxError
from udx.export.deploy import OUTPUTS, DeployableDetector
from udx.export.parity import Parity, compare
from udx.export.simplify import simplify
from udx.export.translate import translation_table
from udx.files import sha256_of, write_with
from udx.geometry import CameraRig
from udx.manifest import METADATA_KEY, Manifest
from udx.models.detector import Detector
from udx.operators import OPSET
from udx.ops.onnx_functions import function_protos
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame
from udx.train.checkpoint import CheckpointRecord, load_detector
from udx.train.run import Run, newest_run

TOLERANCE = 1e-3
"""Largest difference between torch and the exported file, in the units of the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written, and how far its outputs were from torch's on the frame it was checked with."""

    path: Path
    manifest: Manifest
    parity: Parity

    def to_json(self) -> dict[str, Any]:
        """What ``udx export --json`` writes."""
        return {
            "path": str(self.path),
            "sha256": sha256_of(self.path),
            "bytes": self.path.stat().st_size,
            "parity": {"score": self.parity.score, "box": self.parity.box, "boxes": self.parity.boxes_compared},
            "manifest": json.loads(self.manifest.to_json()),
        }

    def summary(self) -> str:
        """One line for the terminal."""
        size = f"{self.path.stat().st_size / 2**20:.1f} MiB"
        return (
            f"{self.path}: {self.manifest.spec.modality} detector, recipe {self.manifest.recipe}, {size}; "
            f"differs from torch by at most {self.parity.largest:.1e} in {self.parity.boxes_compared} boxes"
        )


def export_student(student: str, run_folder: Path | None, out: Path) -> Export:
    """Export the run in ``run_folder``, or else the newest run of a student of these sensors.

    Raises:
        UdxError: there is no such run, it has other sensors, or it cannot be exported.
    """
    run = Run(run_folder) if run_folder else newest_run(student)
    modality = run.record().config.detector.spec.modality
    if modality != student:
        raise UdxError(f"{run.folder} holds a {modality} detector, not {student}; export it with --student {modality}")
    return export_run(run, out)


def export_run(run: Run, out: Path) -> Export:
    """Export the detector of a run; the file appears only if it passes the checker and agrees with torch.

    Raises:
        UdxError: the run has no readable checkpoint, or ONNX Runtime disagrees with torch by more than ``TOLERANCE``.
    """
    detector, record = load_detector(run.checkpoint)
    manifest = manifest_of(run, record)
    frame, _ = generated_frame(manifest, seed=0)
    tensors = dict(frame())
    module = DeployableDetector(detector)
    model = to_onnx(module, tensors)
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    model.doc_string = f"udx {manifest.udx_version}: {manifest.spec.modality} detector, recipe {manifest.recipe}"
    onnx.checker.check_model(model, full_check=True)
    parity: list[Parity] = []

    def write_and_prove(partial: Path) -> None:
        onnx.save(model, partial)
        parity.append(_prove(module, partial, tensors))

    write_with(out, write_and_prove)
    return Export(path=out, manifest=manifest, parity=parity[0])


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


def to_onnx(module: DeployableDetector, tensors: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """Translate the module with fixed shapes; batch norms are folded, ``udx`` nodes keep their function bodies."""
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(array) for array in tensors.values()),
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            input_names=list(tensors),
            output_names=list(OUTPUTS),
            custom_translation_table=translation_table(),
            verbose=False,
        )
        assert program is not None
        simplify(program.model)
        # The bodies come after the simplification, which would inline them.
        model: onnx.ModelProto = program.model_proto
    used = {node.op_type for node in model.graph.node}
    model.functions.extend(function for function in function_protos() if function.name in used)
    _forget_sources(model)
    return model


def detections_of(detector: Detector, tensors: dict[str, NDArray[Any]]) -> Detections:
    """Run one frame of engine inputs through torch."""
    with torch.no_grad():
        outputs = DeployableDetector(detector)(*(torch.from_numpy(array) for array in tensors.values()))
    boxes, scores, labels = (output.numpy() for output in outputs)
    return Detections(boxes_K9=boxes, scores_K=scores, labels_K=labels)


def _prove(module: DeployableDetector, path: Path, tensors: dict[str, NDArray[Any]]) -> Parity:
    with open_engine(path) as runner:
        parity = compare(detections_of(module.detector, tensors), runner.detect(tensors))
    if parity.largest > TOLERANCE:
        raise UdxError(
            f"the export differs from torch by {parity.largest:.2g} (allowed: {TOLERANCE:g}), so it was not written; "
            "report this with the run's config.json"
        )
    return parity


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on source files: they hold paths of the machine that exported."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter (absent optional libraries, its own deprecations) off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
