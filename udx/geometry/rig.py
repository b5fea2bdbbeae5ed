"""The cameras of one keyframe: intrinsics and poses, each camera at its own timestamp."""

from dataclasses import dataclass, replace

import numpy as np

from udx.geometry.arrays import FloatArray, require_finite, require_shape
from udx.geometry.se3 import affine_inverse, transform_points


@dataclass(frozen=True, eq=False, slots=True)
class CameraRig:
    """N pinhole cameras in the BEV frame.

    Pixel coordinates are (u, v) with whole numbers at pixel centres, as in OpenCV. ``ego_T_cam`` goes
    from the camera (x right, y down, z forward) at *its* timestamp to the BEV frame, so the ego motion
    between the camera's and the LiDAR's timestamps is in it. Augmentation may make it a similarity.

    Raises:
        ValueError: shapes disagree or a value is not finite.
    """

    names: tuple[str, ...]
    intrinsics_N33: FloatArray
    ego_T_cam_N44: FloatArray

    def __post_init__(self) -> None:
        require_shape("intrinsics", self.intrinsics_N33, (len(self.names), 3, 3))
        require_shape("ego_T_cam", self.ego_T_cam_N44, (len(self.names), 4, 4))
        require_finite("intrinsics", self.intrinsics_N33)
        require_finite("ego_T_cam", self.ego_T_cam_N44)

    def select(self, names: tuple[str, ...]) -> "CameraRig":
        """Return the cameras of these names, in their order.

        Raises:
            ValueError: there is none of such a name.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ValueError(f"there is no camera {missing[0]}, only {', '.join(self.names)}")
        order = [self.names.index(name) for name in names]
        return CameraRig(names, self.intrinsics_N33[order], self.ego_T_cam_N44[order])

    def with_image_transforms(self, new_T_old_N33: FloatArray) -> "CameraRig":
        """Return the rig after each image was warped by ``new_T_old`` on homogeneous pixel coordinates."""
        return replace(self, intrinsics_N33=new_T_old_N33 @ self.intrinsics_N33)

    def with_ego_transform(self, new_T_ego: FloatArray) -> "CameraRig":
        """Return the rig in another BEV frame."""
        return replace(self, ego_T_cam_N44=new_T_ego @ self.ego_T_cam_N44)

    @property
    def pixels_T_ego_N34(self) -> FloatArray:
        """Projections of homogeneous points of the BEV frame, metres, to (u·depth, v·depth, depth)."""
        projections: FloatArray = self.intrinsics_N33 @ affine_inverse(self.ego_T_cam_N44)[:, :3]
        return projections

    def project(self, points_M3: FloatArray) -> FloatArray:
        """Project points of the BEV frame, metres, to (N, M, 3): u, v in pixels and depth along z in metres."""
        homogeneous = transform_points(self.pixels_T_ego_N34, points_M3)
        depth = homogeneous[..., 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = homogeneous[..., :2] / depth
        return np.concatenate([pixels, depth], axis=-1)

    def to_json(self) -> dict[str, object]:
        """Plain lists, for manifests."""
        return {
            "names": list(self.names),
            "intrinsics": self.intrinsics_N33.tolist(),
            "ego_T_cam": self.ego_T_cam_N44.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, list[object]]) -> "CameraRig":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: a field is missing, of another type or shape, or not finite.
        """
        try:
            return cls(
                names=tuple(str(name) for name in value["names"]),
                intrinsics_N33=np.array(value["intrinsics"], dtype=np.float64),
                ego_T_cam_N44=np.array(value["ego_T_cam"], dtype=np.float64),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a rig has names, intrinsics and ego_T_cam, all of numbers ({error!r})") from error
