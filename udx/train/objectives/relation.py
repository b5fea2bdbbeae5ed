"""UniDistill's relation objective: how the crucial points of a box resemble each other after the BEV encoder."""

from jaxtyping import Float
from torch import Tensor

from udx.models.taps import Taps
from udx.train.losses import Boxes, relation_loss
from udx.train.objectives.base import GridPair, Objective, Path, adapter


class RelationObjective(Objective):
    """``relation_loss`` of the ``high`` taps, whose channels may differ: a cosine has none."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        student, teacher = path.student.high, path.teacher.high
        self.grids = GridPair.of(path, student, teacher)
        self.adapter = adapter(path, student, teacher, channels_must_match=False)

    def forward(self, student: Taps, teacher: Taps, boxes: Boxes) -> Float[Tensor, ""]:
        """Compare the ``high`` maps at the crucial points."""
        return relation_loss(
            self.adapter(student.high_BCHW),
            teacher.high_BCHW,
            self.grids.comparable(boxes),
            self.grids.student,
            self.grids.teacher,
        )
