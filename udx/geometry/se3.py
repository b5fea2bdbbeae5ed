"""Rigid transforms as 4×4 matrices named ``dst_T_src``: ``p_dst = dst_T_src @ p_src``.

What every frame needs is computed without BLAS: for such small matrices its threads start, and then wait busily for a
tenth of a second, on the cores that the detector runs on.
"""

import numpy as np
from numpy.typing import ArrayLike

from udx.geometry.arrays import FloatArray, require_finite, require_shape


def from_quaternion(rotation_wxyz: ArrayLike, translation_m: ArrayLike) -> FloatArray:
    """Build a 4×4 transform from a quaternion (w, x, y, z), normalised here, and a translation in metres.

    Raises:
        ValueError: a value is not finite, or the quaternion is zero.
    """
    quaternion = np.asarray(rotation_wxyz, dtype=np.float64)
    translation = np.asarray(translation_m, dtype=np.float64)
    require_shape("rotation", quaternion, (4,))
    require_shape("translation", translation, (3,))
    require_finite("rotation", quaternion)
    require_finite("translation", translation)
    norm = np.linalg.norm(quaternion)
    if norm < 1e-6:
        raise ValueError("rotation must be a unit quaternion, but is zero")
    w, x, y, z = quaternion / norm
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


def yaw_rotation(yaw_rad: float) -> FloatArray:
    """4×4 rotation about +z, counter-clockwise seen from above."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    matrix = np.eye(4)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    return matrix


def quaternion_of_yaw(yaw_rad: float) -> FloatArray:
    """Quaternion (w, x, y, z) of a rotation about +z."""
    return np.array([np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)])


def quaternion_of(rotation: FloatArray) -> FloatArray:
    """Unit quaternion (w, x, y, z) with w ≥ 0 of a rotation matrix (3, 3).

    Its largest component is computed first, by Shepperd's method: a root of the largest number loses no digits.
    """
    m = np.asarray(rotation, np.float64)
    trace = np.trace(m)
    squares = np.array([trace, *np.diag(m)])
    largest = int(squares.argmax())
    if largest == 0:
        quaternion = np.array([1 + trace, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        i, j, k = ((0, 1, 2), (1, 2, 0), (2, 0, 1))[largest - 1]
        quaternion = np.empty(4)
        quaternion[0] = m[k, j] - m[j, k]
        quaternion[1 + i] = 1 + m[i, i] - m[j, j] - m[k, k]
        quaternion[1 + j] = m[j, i] + m[i, j]
        quaternion[1 + k] = m[k, i] + m[i, k]
    unit: FloatArray = quaternion / np.linalg.norm(quaternion)
    return -unit if unit[0] < 0 else unit


def inverse(dst_T_src: FloatArray) -> FloatArray:
    """Invert a rigid transform by its transpose, which is exact to rounding."""
    rotation, translation = dst_T_src[:3, :3], dst_T_src[:3, 3]
    src_T_dst = np.eye(4)
    src_T_dst[:3, :3] = rotation.T
    src_T_dst[:3, 3] = -rotation.T @ translation
    return src_T_dst


def affine_inverse(dst_T_src: FloatArray) -> FloatArray:
    """Invert affine transforms (…, 4, 4), which may scale and mirror.

    Raises:
        ValueError: one is singular.
    """
    linear = linear_inverse(dst_T_src[..., :3, :3])
    src_T_dst = np.zeros_like(dst_T_src)
    src_T_dst[..., :3, :3] = linear
    src_T_dst[..., :3, 3] = -(linear * dst_T_src[..., None, :3, 3]).sum(axis=-1)
    src_T_dst[..., 3, 3] = 1
    return src_T_dst


def linear_inverse(matrix: FloatArray) -> FloatArray:
    """Invert matrices (…, 3, 3) by their adjugates.

    Raises:
        ValueError: one is singular.
    """
    rows = matrix[..., 0, :], matrix[..., 1, :], matrix[..., 2, :]
    columns = [np.cross(rows[at - 2], rows[at - 1]) for at in range(3)]
    determinant = (rows[0] * columns[0]).sum(axis=-1)
    if (determinant == 0).any():
        raise ValueError("an intrinsic matrix or a pose is singular")
    inverted: FloatArray = np.stack(columns, axis=-1) / determinant[..., None, None]
    return inverted


def transform_points(dst_T_src: FloatArray, points_M3: FloatArray) -> FloatArray:
    """Bring points (M, 3), metres, from frame ``src`` to frames ``dst`` (…, M, 3); any affine (…, 4, 4) will do."""
    x, y, z = np.ascontiguousarray(points_M3.T)
    rows = (dst_T_src[..., row, :, None] for row in range(3))
    moved: FloatArray = np.stack(
        [x * row[..., 0, :] + y * row[..., 1, :] + z * row[..., 2, :] + row[..., 3, :] for row in rows], axis=-1
    )
    return moved
