"""One detector in every form that it is run in, behind one interface: a frame in, head maps and boxes out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from udx.build.partitioned import build_partitioned
from udx.console import phases
from udx.data.detections import Detections
from udx.data.inputs import Tensors
from udx.export.deploy import OUTPUTS, DeployableDetector
from udx.export.onnx_export import detections_of, to_onnx
from udx.export.parity import values_of
from udx.export.precision import last_layers, to_fp16
from udx.export.rounding import with_rounding
from udx.manifest import Manifest
from udx.models.detector import Detector, DetectorConfig, DetectorInputs
from udx.runtime.engine import open_engine
from udx.runtime.onnx_file import sealed
from udx.runtime.onnxruntime_runner import open_session
from udx.runtime.runner import Runner

HEATMAP_SPREAD = 2.0
"""Standard deviation of random heatmaps, in logits: those of a detector that was not trained are flat, and of equal
scores any may be the best."""

Maps = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A detector, and where its weights are from."""

    recipe: str
    modality: str
    detector: Detector
    weights: str

    @property
    def trained(self) -> bool:
        """Whether its boxes mean anything."""
        return not self.weights.startswith("random")


class Engine(Protocol):
    """A detector in one form."""

    def detect(self, tensors: Tensors) -> Detections:
        """Boxes of a frame."""

    def heads(self, tensors: Tensors) -> Maps | None:
        """Heatmap and regression map of a frame; None where they cannot be seen from outside."""


def random_subject(recipe: str, config: DetectorConfig, frame: Tensors) -> Subject:
    """Random weights of a fixed seed, with batch norms and heatmaps as wide as a frame makes them."""
    torch.manual_seed(0)
    # Nothing is downloaded for weights that are random anyway.
    detector = Detector(replace(config, camera=replace(config.camera, pretrained=None)))
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    inputs = DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in frame.items()})
    with torch.no_grad():
        maps = detector.train()(inputs).heads.heatmap_BKHW
        for heatmap in detector.head.heatmaps:
            heatmap.weight *= HEATMAP_SPREAD / maps.std()
    return Subject(recipe=recipe, modality=config.spec.modality, detector=detector.eval(), weights="random weights")


@dataclass(frozen=True, slots=True)
class TorchEngine:
    """The module that is exported, in torch."""

    detector: Detector

    def detect(self, tensors: Tensors) -> Detections:
        """Boxes of a frame."""
        return detections_of(self.detector, tensors)

    def heads(self, tensors: Tensors) -> Maps:
        """Both maps of a frame."""
        inputs = DetectorInputs(**{name: torch.from_numpy(array)[None] for name, array in tensors.items()})
        with torch.no_grad():
            heads = self.detector(inputs).heads
        return {"heatmap": heads.heatmap_BKHW.numpy(), "regression": heads.regression_BRHW.numpy()}


@dataclass(frozen=True, slots=True)
class FileEngine:
    """A file in the backend that runs it; ``model`` is its graph, if its maps are within reach."""

    runner: Runner
    class_order: Sequence[int]
    model: onnx.ModelProto | None

    def detect(self, tensors: Tensors) -> Detections:
        """Boxes of a frame."""
        return self.runner.detect(tensors)

    def heads(self, tensors: Tensors) -> Maps | None:
        """Both maps, by a session of its own: a value that is shown from outside is not fused away."""
        return None if self.model is None else maps_of(self.model, self.class_order, tensors)


@dataclass(frozen=True, slots=True)
class GraphEngine:
    """A graph that is no export, in ONNX Runtime."""

    session: Any
    class_order: Sequence[int]
    model: onnx.ModelProto

    def detect(self, tensors: Tensors) -> Detections:
        """Boxes of a frame."""
        boxes, scores, labels = self.session.run(list(OUTPUTS), dict(tensors))
        return Detections(boxes_K9=boxes, scores_K=scores, labels_K=labels)

    def heads(self, tensors: Tensors) -> Maps:
        """Both maps of a frame."""
        return maps_of(self.model, self.class_order, tensors)


def maps_of(model: onnx.ModelProto, class_order: Sequence[int], tensors: Tensors) -> Maps:
    """Both maps of a graph: its last layers are the heatmaps task by task, and the regression."""
    *heatmaps, regression = values_of(model, last_layers(model), tensors).values()
    return {"heatmap": np.concatenate(heatmaps, axis=1)[:, class_order], "regression": regression}


Opener = Callable[[], AbstractContextManager[Engine]]


def forms_of(subject: Subject, frame: Tensors, folder: Path) -> dict[str, Opener]:
    """Every form of a detector: in torch, which all others are held to, and as files that are written to ``folder``.

    One at a time should be open: a session keeps its memory, gigabytes of it at full size.
    """
    exact = to_onnx(DeployableDetector(subject.detector), frame)
    halved, plan = to_fp16(exact)
    manifest = _manifest(subject)
    order = subject.detector.head.class_order
    fp32 = _written(folder / "fp32.onnx", exact, manifest)
    fp16 = _written(folder / "fp16.onnx", halved, replace(manifest, precision=plan))
    with phases("building the plan") as display:
        partitioned = build_partitioned(fp32, folder / "student.plan", backend="onnxruntime", display=display).path
    return {
        "torch": lambda: nullcontext(TorchEngine(subject.detector)),
        "ONNX Runtime FP32": lambda: _file_engine(fp32, order, exact),
        "ONNX Runtime FP16": lambda: _file_engine(fp16, order, halved),
        "partitioned": lambda: _file_engine(partitioned, order, None),
        "FP16, rounded": lambda: nullcontext(_graph_engine(with_rounding(halved), order)),
    }


@contextmanager
def _file_engine(path: Path, class_order: Sequence[int], model: onnx.ModelProto | None) -> Iterator[Engine]:
    with open_engine(path) as runner:
        yield FileEngine(runner, class_order, model)


def _graph_engine(model: onnx.ModelProto, class_order: Sequence[int]) -> Engine:
    return GraphEngine(open_session(model.SerializeToString(), "the rounded graph"), class_order, model)


def _written(path: Path, model: onnx.ModelProto, manifest: Manifest) -> Path:
    sealed(model, manifest)
    onnx.save(model, path)
    return path


def _manifest(subject: Subject) -> Manifest:
    config = subject.detector.config
    return Manifest(
        recipe=subject.recipe,
        spec=config.spec,
        max_boxes=config.max_boxes,
        checkpoint_sha256="0" * 64,
        git_commit="unknown",
        udx_version="0",
    )
