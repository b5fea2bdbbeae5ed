"""A detector: sensor encoder, BEV encoder, centre head; and what it yields to whoever distils it."""

from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor, nn

from udx.data.spec import SensorSpec
from udx.geometry import CLASSES
from udx.models.bev_encoder import BevEncoder, BevEncoderConfig
from udx.models.blocks import MAX_CHANNELS
from udx.models.camera import CameraEncoder, CameraEncoderConfig
from udx.models.center_head import REGRESSION_CHANNELS, TASKS, CenterHead, CenterHeadConfig
from udx.models.fusion import GatedFusion
from udx.models.lidar import LidarEncoder, LidarEncoderConfig
from udx.models.taps import DeclaredTaps, EncoderTaps, PerspectiveTap, Tap, Taps
from udx.ranges import require_range

MAX_BOXES: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """A detector for the sensors of ``spec``: the encoders of the sensors it lacks are ignored.

    ``low_channels``: width of the BEV map before the BEV encoder; ``max_boxes``: how many boxes come out.
    """

    spec: SensorSpec
    camera: CameraEncoderConfig
    lidar: LidarEncoderConfig
    low_channels: int
    bev_encoder: BevEncoderConfig
    head: CenterHeadConfig
    max_boxes: int

    def __post_init__(self) -> None:
        require_range(at_least=1, at_most=MAX_CHANNELS, low_channels=self.low_channels)
        require_range(at_least=1, at_most=min(MAX_BOXES, self.spec.grid.num_cells), max_boxes=self.max_boxes)
        if any(cells % self.bev_encoder.stride for cells in self.spec.grid.shape):
            rows, columns = self.spec.grid.shape
            raise ValueError(
                f"a grid of {rows} × {columns} cells cannot be divided by the BEV encoder's strides "
                f"{list(self.bev_encoder.strides)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorInputs:
    """The tensors of ``udx.data.inputs`` with a batch dimension in front; a missing sensor is ``None``."""

    images: Tensor | None = None
    pool_index: Tensor | None = None
    pool_offsets: Tensor | None = None
    points: Tensor | None = None
    num_points: Tensor | None = None


class Detector(nn.Module):
    """LiDAR, camera or fusion detector, by the sensors of its spec."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        spec = config.spec
        self.camera = CameraEncoder(config.camera, spec.camera, spec.grid, config.low_channels) if spec.camera else None
        self.lidar = LidarEncoder(config.lidar, spec.grid, spec.z_range_m, config.low_channels) if spec.lidar else None
        self.fusion = GatedFusion(config.low_channels) if spec.camera and spec.lidar else None
        self.bev_encoder = BevEncoder(config.bev_encoder, config.low_channels)
        self.head = CenterHead(config.head, sum(config.bev_encoder.out_channels))

    @property
    def taps(self) -> DeclaredTaps:
        """What ``forward`` yields."""
        return DeclaredTaps(
            grid=self.config.spec.grid,
            low=Tap(self.config.low_channels, 1),
            high=Tap(sum(self.config.bev_encoder.out_channels), 1),
            heads=Tap(len(CLASSES) + len(TASKS) * REGRESSION_CHANNELS, 1),
            perspective=PerspectiveTap(self.camera.neck_channels, self.camera.frustum) if self.camera else None,
        )

    def forward(self, inputs: DetectorInputs) -> Taps:
        """All taps of a batch."""
        encoded = self.encode(inputs)
        high = self.bev_encoder(encoded.low_BCHW)
        return Taps(
            low_BCHW=encoded.low_BCHW,
            perspective_BNChw=encoded.perspective_BNChw,
            depth_BNDhw=encoded.depth_BNDhw,
            high_BCHW=high,
            heads=self.head(high),
        )

    def encode(self, inputs: DetectorInputs) -> EncoderTaps:
        """Taps of the sensor encoder alone."""
        of_camera: EncoderTaps | None = None
        low_of_lidar: Tensor | None = None
        if self.lidar is not None:
            assert inputs.points is not None and inputs.num_points is not None
            low_of_lidar = self.lidar(inputs.points, inputs.num_points)
        if self.camera is not None:
            assert inputs.images is not None and inputs.pool_index is not None and inputs.pool_offsets is not None
            of_camera = self.camera(inputs.images, inputs.pool_index, inputs.pool_offsets)
        if of_camera is None:
            assert low_of_lidar is not None
            return EncoderTaps(low_BCHW=low_of_lidar)
        if self.fusion is None:
            return of_camera
        return replace(of_camera, low_BCHW=self.fusion(low_of_lidar, of_camera.low_BCHW))
