"""Write a run's detector as one ONNX file that stock ONNX Runtime runs, and prove it against torch."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch.export import Dim

from udx.data.detections import Detections
from udx.data.inputs import Tensors
from udx.data.spec import Modality, SensorSpec
from udx.errors import UdxError
from udx.export.banned import require_no_banned_operators
from udx.export.deploy import OUTPUTS, DeployableDetector
from udx.export.description import manifest_of
from udx.export.parity import Agreement, Parity, agreement, compare, difference, values_of
from udx.export.portable import to_portable
from udx.export.precision import last_layers, to_fp16
from udx.export.probe import Probe, probe_halves, probing_frames
from udx.export.rounding import with_rounding
from udx.export.simplify import simplify
from udx.export.translate import translation_table
from udx.files import sha256_of, write_with
from udx.manifest import Manifest, Precision, PrecisionPlan
from udx.models.detector import Detector
from udx.operators import OPSET
from udx.ops.onnx_functions import function_protos
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.onnx_file import sealed
from udx.train.checkpoint import load_detector
from udx.train.run import Run, newest_run

TOLERANCE: Final = 1e-3
"""Largest difference between torch and the exported file, in the units of the outputs."""

HEAD_TOLERANCE: Final = 0.02
"""Largest difference between the head maps in FP16 and in FP32, in units of the largest value of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How an export compares on the frame that it was checked with.

    ``parity`` is that of the FP32 graph in ONNX Runtime with torch. For FP16 there are also the largest relative
    difference of its head maps from those in FP32, and how many of the FP32 graph's boxes it finds, both rounded as on
    a backend that computes in FP16.
    """

    parity: Parity
    heads: float | None = None
    agreement: Agreement | None = None
    probe: Probe | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = {
            "score": self.parity.score,
            "box": self.parity.box,
            "boxes": self.parity.boxes_compared,
        }
        if self.agreement is not None:
            plain |= {"heads": self.heads, "fp16_boxes": asdict(self.agreement)}
        if self.probe is not None:
            plain["fp16_probe"] = asdict(self.probe)
        return plain

    def __str__(self) -> str:
        said = f"differs from torch by at most {self.parity.largest:.1e} in {self.parity.boxes_compared} boxes"
        if self.agreement is None:
            return said
        return (
            f"in FP32 {said}; in FP16 head maps differ by at most {self.heads:.2%}, and "
            f"{self.agreement.matched} of {self.agreement.boxes} boxes are found again"
            f"{f'; {self.probe}' if self.probe is not None else ''}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written, and how it compares with torch."""

    path: Path
    run: Path
    manifest: Manifest
    proof: Proof

    @property
    def parity(self) -> Parity:
        """That of the FP32 graph with torch."""
        return self.proof.parity

    def to_json(self) -> dict[str, Any]:
        """What ``udx export --json`` writes."""
        return {
            "path": str(self.path),
            "run": str(self.run),
            "sha256": sha256_of(self.path),
            "bytes": self.path.stat().st_size,
            "parity": self.proof.to_json(),
            "manifest": json.loads(self.manifest.to_json()),
        }

    def summary(self) -> str:
        """One line for the terminal."""
        size = f"{self.path.stat().st_size / 2**20:.1f} MiB"
        manifest = self.manifest
        what = f"{'portable ' * manifest.portable}{manifest.spec.modality} detector, recipe {manifest.recipe}"
        return f"{self.path}: {what}, {size}, of run {self.run}; {self.proof}"


def find_run(student: str | None, run_folder: Path | None) -> tuple[Run, Modality]:
    """The run in a folder, or else the newest run of a student of these sensors; and its sensors.

    Raises:
        UdxError: there is no such run, or it has other sensors.
    """
    if run_folder is None:
        assert student is not None
        run = newest_run(student)
    else:
        run = Run(run_folder)
    modality = run.record().config.detector.spec.modality
    if student is not None and modality != student:
        raise UdxError(f"{run.folder} holds a {modality} detector, not {student}; leave --student out")
    return run, modality


def default_file(modality: Modality, precision: Precision, *, portable: bool = False) -> Path:
    """Name an export: ``student.onnx`` for cameras in FP32, else with sensors, precision and ``portable``."""
    parts = ["student", *([modality] if modality != "cam" else []), *([precision] if precision != "fp32" else [])]
    return Path("-".join([*parts, *(["portable"] if portable else [])]) + ".onnx")


def export_run(
    run: Run,
    out: Path,
    *,
    precision: Precision = "fp32",
    dynamic: Sequence[str] = (),
    portable: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Export:
    """Export the detector of a run; the file appears only if it passes the checker and agrees with torch.

    ``dynamic`` names dimensions to leave open: ``points``, the rows of the point buffer. A batch cannot be: a file
    is for one frame, and its boxes (K, 9) are those of one frame. ``portable`` writes standard operators alone, in
    fixed shapes, for programs that know no functions; TensorRT's plugins have no nodes there.

    Raises:
        UdxError: the run has no readable checkpoint, its detector has no such dimension, ``portable`` and ``dynamic``
            are both asked for, or ONNX Runtime disagrees with torch by more than ``TOLERANCE``, or FP16 with FP32 by
            more than ``HEAD_TOLERANCE``.
    """
    if portable and dynamic:
        raise UdxError(f"a portable file has fixed shapes, and --dynamic {dynamic[0]} opens one; leave one of them out")
    steps = 4
    progress(0, steps)
    detector, record = load_detector(run.checkpoint)
    open_dimensions = open_sizes(detector.config.spec, dynamic)
    manifest = replace(manifest_of(run, record), dynamic=open_dimensions, portable=portable)
    frame, _ = generated_frame(manifest, seed=0)
    tensors = dict(frame())
    module = DeployableDetector(detector)
    progress(1, steps)
    exact = to_onnx(module, tensors, manifest.dynamic)
    progress(2, steps)
    model, plan = to_fp16(exact) if precision == "fp16" else (exact, PrecisionPlan())
    halved = None if model is exact else model
    if portable:
        model = to_portable(model)
        plan = _of_nodes_in(model, plan)
    manifest = sealed(model, replace(manifest, precision=plan))
    model.doc_string = f"udx {manifest.udx_version}: {manifest.spec.modality} detector, recipe {manifest.recipe}"
    require_no_banned_operators(model)
    onnx.checker.check_model(model, full_check=True)
    progress(3, steps)
    proof: list[Proof] = []

    def write_and_prove(partial: Path) -> None:
        onnx.save(model, partial)
        proved = _prove(module, exact, halved, partial, tensors, same_graph=not portable)
        probe = probe_halves(exact, halved, probing_frames(manifest)) if halved is not None else None
        proof.append(replace(proved, probe=probe))

    write_with(out, write_and_prove)
    progress(steps, steps)
    return Export(path=out, run=run.folder, manifest=manifest, proof=proof[0])


def open_sizes(spec: SensorSpec, dynamic: Sequence[str]) -> dict[str, int]:
    """Largest sizes of the dimensions to leave open.

    Raises:
        UdxError: a detector for these sensors has no such dimension.
    """
    possible = {"points": spec.lidar.max_points} if spec.lidar else {}
    for name in dynamic:
        if name not in possible:
            has = " and ".join(possible) or "none"
            raise UdxError(
                f"a {spec.modality} detector has no dimension {name!r} to leave open (it has {has}); "
                "export it with fixed shapes"
            )
    return {name: possible[name] for name in dynamic}


def to_onnx(module: DeployableDetector, tensors: Tensors, dynamic: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """Translate the module; batch norms are folded, ``udx`` nodes keep their function bodies.

    Shapes are those of ``tensors``, but for the first dimension of the inputs that ``dynamic`` names.
    """
    sizes = dynamic or {}
    dims = [{0: Dim(name, min=2, max=sizes[name])} if name in sizes else None for name in tensors]
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(array) for array in tensors.values()),
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            input_names=list(tensors),
            output_names=list(OUTPUTS),
            dynamic_shapes={"tensors": tuple(dims)} if sizes else None,
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


def detections_of(detector: Detector, tensors: Tensors) -> Detections:
    """Run one frame of engine inputs through torch."""
    with torch.no_grad():
        outputs = DeployableDetector(detector)(*(torch.from_numpy(array) for array in tensors.values()))
    boxes, scores, labels = (output.numpy() for output in outputs)
    return Detections(boxes_K9=boxes, scores_K=scores, labels_K=labels)


def _of_nodes_in(model: onnx.ModelProto, plan: PrecisionPlan) -> PrecisionPlan:
    """Name in a plan only what is in a model."""
    names = {node.name for node in model.graph.node}
    kept = {reason: tuple(name for name in nodes if name in names) for reason, nodes in plan.float32.items()}
    return replace(plan, float32=kept)


def _prove(
    module: DeployableDetector,
    exact: onnx.ModelProto,
    halved: onnx.ModelProto | None,
    path: Path,
    tensors: Tensors,
    *,
    same_graph: bool,
) -> Proof:
    """Hold the FP32 graph to torch, the FP16 graph to the FP32 graph, and the file to what it was written from.

    ``same_graph`` says that the file holds the FP32 graph, or the FP16 graph if there is one, and not a rewritten one.
    """
    with open_engine(path) as runner:
        found = runner.detect(tensors)
    reference = found if halved is None else _detections(values_of(exact, OUTPUTS, tensors))
    parity = compare(detections_of(module.detector, tensors), reference)
    _require_parity(parity, "torch")
    if halved is None:
        return Proof(parity=parity)
    if not same_graph:
        _require_parity(compare(_detections(values_of(halved, OUTPUTS, tensors)), found), "the FP16 graph")
    return _prove_halves(exact, halved, tensors, parity)


def _require_parity(parity: Parity, reference: str) -> None:
    if parity.largest > TOLERANCE:
        raise UdxError(
            f"the export differs from {reference} by {parity.largest:.2g} (allowed: {TOLERANCE:g}), so it was not "
            "written; report this with the run's config.json"
        )


def _prove_halves(exact: onnx.ModelProto, halved: onnx.ModelProto, tensors: Tensors, parity: Parity) -> Proof:
    """Hold the FP16 graph, rounded as on a backend that computes in FP16, to the FP32 graph."""
    heads = last_layers(exact)
    one, two = (values_of(model, (*heads, *OUTPUTS), tensors) for model in (exact, with_rounding(halved)))
    largest = max(difference(one[name], two[name]).relative for name in heads)
    if largest > HEAD_TOLERANCE:
        raise UdxError(
            f"in FP16 the head maps differ from those in FP32 by {largest:.1%} of their range (allowed: "
            f"{HEAD_TOLERANCE:.0%}), so the export was not written; export it in FP32"
        )
    return Proof(parity=parity, heads=largest, agreement=agreement(_detections(one), _detections(two)))


def _detections(values: Tensors) -> Detections:
    boxes, scores, labels = (values[name] for name in OUTPUTS)
    return Detections(boxes_K9=boxes, scores_K=scores, labels_K=labels)


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
