"""What objectives in the cameras' own view share."""

from jaxtyping import Float
from torch import Tensor

from udx.errors import UdxError
from udx.models.taps import EncoderTaps, PerspectiveTap
from udx.train.objectives.base import Pair


def require_same_view(pair: Pair) -> tuple[PerspectiveTap, PerspectiveTap]:
    """The cameras' feature maps of student and teacher, whose rows and columns are the same.

    Raises:
        UdxError: one of the two has no cameras, or they see images of another size or in other strides.
    """
    student, teacher = pair.student.perspective, pair.teacher.perspective
    if student is None or teacher is None:
        blind = "student" if student is None else "teacher"
        raise UdxError(
            f"the {blind} has no cameras, so that there are no camera features to compare: distil between detectors "
            "with cameras, or set the weights of the perspective losses to 0"
        )
    sizes = [
        f"{frustum.image_height_px}×{frustum.image_width_px} in strides of {frustum.stride_px}"
        for frustum in (student.frustum, teacher.frustum)
    ]
    if sizes[0] != sizes[1]:
        raise UdxError(
            f"the student's images are {sizes[0]} and the teacher's {sizes[1]}: give both the same frustum, or set the "
            "weights of the perspective losses to 0"
        )
    return student, teacher


def feature_maps(taps: EncoderTaps) -> Float[Tensor, "B N C h w"]:
    """The cameras' feature maps, which are there if they are declared."""
    assert taps.perspective_BNChw is not None, "a detector with cameras yields their feature maps"
    return taps.perspective_BNChw
