"""The manifest inside an exported detector: whoever holds the file needs nothing else to run it."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Final

from udx.config import from_plain, to_plain
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.geometry import BOX_CONVENTION, CLASSES, CameraRig

FORMAT: Final = "udx-detector/1"
METADATA_KEY: Final = "udx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an exported detector says of itself; stored as JSON under ``METADATA_KEY`` in the ONNX metadata.

    ``config`` is the run's complete resolved config, ``metrics`` its mAP and NDS if evaluated, ``teacher``
    the record of the teacher that it was distilled from, if any (facts only: no teacher weight is exported).
    ``rig`` is one real calibration at network size: an example input, never baked into the graph.
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
    classes: tuple[str, ...] = CLASSES
    box_convention: str = BOX_CONVENTION

    def to_json(self) -> str:
        """One line of JSON."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        fields["spec"] = to_plain(self.spec)
        fields["rig"] = self.rig.to_json() if self.rig else None
        return json.dumps({"format": FORMAT, "student": self.spec.modality} | fields, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> "Manifest":
        """Read what ``to_json`` wrote; ``source`` names the file in errors.

        Raises:
            UdxError: the manifest is of another format or box convention, or is damaged.
        """
        try:
            fields = json.loads(text)
            written = fields.pop("format")
            fields.pop("student")
            if written != FORMAT:
                raise UdxError(f"{source} has manifest format {written!r}, this udx reads {FORMAT!r}; export it again")
            if fields["box_convention"] != BOX_CONVENTION:
                raise UdxError(
                    f"{source} has boxes as {fields['box_convention']!r}, udx uses {BOX_CONVENTION!r}; export it again"
                )
            fields["spec"] = from_plain(SensorSpec, fields["spec"], source)
            fields["rig"] = CameraRig.from_json(fields["rig"]) if fields["rig"] else None
            fields["classes"] = tuple(fields["classes"])
            manifest = cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UdxError(f"{source} has a damaged udx manifest ({error}); export it again") from error
        if manifest.classes != CLASSES:
            raise UdxError(f"{source} detects {manifest.classes}, this udx evaluates {CLASSES}; export it again")
        return manifest
