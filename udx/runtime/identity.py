"""Which engine was measured: hashes, manifest, structure."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udx.files import sha256_of
from udx.manifest import Manifest
from udx.runtime.cost import MAC_RULE, PEAK_RULE
from udx.runtime.engine_file import EngineFile, read_engine
from udx.runtime.graph import Structure, structure_of
from udx.runtime.onnx_file import OnnxFile
from udx.runtime.partitioned import PartitionedFile
from udx.runtime.plan_file import PlanFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An engine file and what is in it; ``file`` is its name without the folder."""

    file: str
    bytes: int
    sha256: str
    manifest: Manifest
    structure: Structure

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the manifest what distinguishes detectors, of the structure all but its listing."""
        structure = asdict(self.structure)
        del structure["listing"]
        manifest = self.manifest
        return {
            "file": self.file,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "manifest": {
                "student": manifest.spec.modality,
                "recipe": manifest.recipe,
                "spec": asdict(manifest.spec),
                "max_boxes": manifest.max_boxes,
                "checkpoint_sha256": manifest.checkpoint_sha256,
                "git_commit": manifest.git_commit,
                "udx_version": manifest.udx_version,
                "metrics": manifest.metrics,
                "teacher": manifest.teacher,
                "box_convention": manifest.box_convention,
            },
            "structure": structure | {"mac_rule": MAC_RULE, "peak_rule": PEAK_RULE},
        }


def identify(path: Path) -> Identity:
    """Identify an engine; its file is read and checked like any other.

    The structure of a plan is that of the ONNX file that it was built from.

    Raises:
        UdxError: as ``read_engine``.
    """
    return identity_of(read_engine(path))


def identity_of(file: EngineFile) -> Identity:
    """Identify an engine whose file was read."""
    manifest, structure = _contents(file)
    return Identity(
        file=file.path.name,
        bytes=file.path.stat().st_size,
        sha256=sha256_of(file.path),
        manifest=manifest,
        structure=structure,
    )


def _contents(file: EngineFile) -> tuple[Manifest, Structure]:
    match file:
        case OnnxFile():
            return file.manifest, structure_of(file.model, file.manifest.dynamic)
        case PartitionedFile():
            return file.manifest, file.plan.structure
        case PlanFile():
            return file.manifest, file.record.structure
