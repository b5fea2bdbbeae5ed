"""The manifest inside an exported detector: whoever holds the file needs nothing else to run it."""

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from udx.config import from_plain, to_plain
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.files import parse_json
from udx.geometry import BOX_CONVENTION, CLASSES, CameraRig

FORMAT: Final = "udx-detector/2"
METADATA_KEY: Final = "udx"

Precision = Literal["fp32", "fp16", "int8", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a graph was when its manifest was written: the same for every student of one recipe.

    ``sha256`` is over topology, operators, attributes, shapes and types, not over weights; a reader computes it anew
    and refuses a file where it differs. The others are counted as ``udx.runtime.cost`` says, for open dimensions at
    their largest.
    """

    sha256: str
    nodes: int
    op_histogram: dict[str, int]
    parameters: int
    parameter_bytes: int
    macs: int
    peak_activation_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What a quantized graph's scales come from.

    ``method``: how they were chosen, or ``learned`` in training. ``source_graph``: structural hash of the FP32 graph.
    ``layers``: the nodes that compute in 8 bits.
    ``samples``: tokens of the keyframes that calibrated them, with their SHA-256, of ``split``.
    ``map_drop``: points of mAP lost against FP32 on other scenes of that split, where it was measured.
    """

    method: str
    source_graph: str
    layers: tuple[str, ...]
    split: str
    samples: tuple[str, ...]
    samples_sha256: str
    map_drop: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPlan:
    """What the network computes in: ``precision``, but for the nodes that ``float32`` names, by reason.

    In INT8 and FP8 it is the layers that ``quantization`` lists which compute so, and everything else is FP32;
    ``float32`` then names the layers that could have been quantized too.

    The plan follows from the graph's structure alone. ``converter`` is what applied it. What depends on weights is
    only reported: ``saturated`` is how many were larger than FP16 can hold and took its largest value, ``raised`` how
    many were smaller than it can tell from 0 and took its smallest.
    """

    precision: Precision = "fp32"
    float32: dict[str, tuple[str, ...]] = field(default_factory=dict)
    converter: str | None = None
    saturated: int = 0
    raised: int = 0
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if (self.precision in ("int8", "fp8")) != (self.quantization is not None):
            raise ValueError(f"a plan in {self.precision} with quantization {self.quantization}")

    @property
    def exact_nodes(self) -> frozenset[str]:
        """Names of all nodes that ``float32`` lists."""
        return frozenset(name for names in self.float32.values() for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an exported detector says of itself; stored as JSON under ``METADATA_KEY`` in the ONNX metadata.

    ``config`` is the run's complete resolved config, ``metrics`` its mAP and NDS if evaluated, ``teacher``
    the record of the teacher that it was distilled from, if any (facts only: no teacher weight is exported).
    ``rig`` is one real calibration at network size: an example input, never baked into the graph.

    ``dynamic`` names the dimensions that the graph leaves open, with the largest size that each may have: ``points``,
    the rows of the point buffer. ``portable`` says that the file holds neither functions nor operators of domain
    ``udx``, and that every shape in it is fixed. ``graph`` is not known before the file is written, and always in a
    file.
    """

    recipe: str
    spec: SensorSpec
    max_boxes: int
    checkpoint_sha256: str
    git_commit: str
    udx_version: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    rig: CameraRig | None = None
    dynamic: dict[str, int] = field(default_factory=dict)
    portable: bool = False
    precision: PrecisionPlan = field(default_factory=PrecisionPlan)
    graph: GraphFacts | None = None
    classes: tuple[str, ...] = CLASSES
    box_convention: str = BOX_CONVENTION

    def __post_init__(self) -> None:
        if self.max_boxes < 1:
            raise ValueError(f"a detector gives at least one box, not {self.max_boxes}")
        possible = {"points": self.spec.lidar.max_points} if self.spec.lidar else {}
        if not self.dynamic.items() <= possible.items():
            raise ValueError(f"dimensions {self.dynamic} are open, of {possible} that can be")
        if self.portable and self.dynamic:
            raise ValueError(f"dimensions {self.dynamic} of a portable file are open")

    def to_json(self) -> str:
        """One line of JSON."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        fields |= {name: to_plain(fields[name]) for name in ("spec", "precision")}
        fields["graph"] = to_plain(self.graph) if self.graph else None
        fields["rig"] = self.rig.to_json() if self.rig else None
        return json.dumps({"format": FORMAT, "student": self.spec.modality} | fields, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> "Manifest":
        """Read what ``to_json`` wrote; ``source`` names the file in errors.

        Raises:
            UdxError: the manifest is of another format or box convention, or is damaged.
        """
        try:
            fields = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise UdxError(f"{source} has a damaged udx manifest ({error}); export it again") from error
        return cls.from_fields(fields, source)

    @classmethod
    def from_fields(cls, given: Any, source: str) -> "Manifest":
        """Read the fields of what ``to_json`` wrote.

        Raises:
            UdxError: as ``from_json``.
        """
        try:
            fields = dict(given)
            # Surrogates without their other half cannot be written into a report or onto a terminal.
            json.dumps(fields, ensure_ascii=False).encode()
            written, convention, rig = fields.pop("format"), fields["box_convention"], fields.pop("rig", None)
            del fields["student"]
            if written != FORMAT:
                raise UdxError(f"{source} has manifest format {written!r}, this udx reads {FORMAT!r}; export it again")
            if convention != BOX_CONVENTION:
                raise UdxError(f"{source} has boxes as {convention!r}, udx uses {BOX_CONVENTION!r}; export it again")
            manifest = replace(_manifest_of(fields), rig=CameraRig.from_json(rig) if rig else None)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise UdxError(f"{source} has a damaged udx manifest ({error}); export it again") from error
        if manifest.classes != CLASSES:
            raise UdxError(f"{source} detects {manifest.classes}, this udx evaluates {CLASSES}; export it again")
        return manifest


def _manifest_of(fields: dict[str, Any]) -> Manifest:
    try:
        return from_plain(Manifest, fields, "it")
    except UdxError as error:
        raise ValueError(str(error)) from error
