"""One case for every operator: attributes that are all different, and the inputs of a small frame."""

from dataclasses import dataclass

from udx.operators import (
    OPERATORS,
    BevPool,
    Operator,
    PillarClear,
    PillarFeatures,
    PillarMax,
    TensorType,
    VoxelCells,
    VoxelSums,
)


@dataclass(frozen=True, slots=True)
class Case:
    """An operator with its attributes and inputs."""

    operator: Operator
    inputs: tuple[TensorType, ...]

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.operator.name

    @property
    def attributes(self) -> dict[str, float | int]:
        """Values of the node's attributes, in the operator's order."""
        return {name: getattr(self.operator, name) for name in self.operator.attributes()}


PLACE = {"x_min": -54.0, "y_min": -50.5, "cell_size": 0.25}
POINTS, COUNT = TensorType("float32", (2, 1000, 5)), TensorType("int32", (2, 1))
CELL, SUMS = TensorType("int32", (2000,)), TensorType("int32", (2 * 360 * 300 + 1, 4))
FEATURES = TensorType("float16", (2000, 24))

CASES = (
    Case(
        BevPool(),
        (
            TensorType("float16", (1, 6, 3, 16, 44)),
            TensorType("float16", (1, 6, 16, 44, 80)),
            TensorType("int32", (1, 5000)),
            TensorType("int32", (1, 128 * 96 + 1)),
        ),
    ),
    Case(VoxelCells(**PLACE, rows=360, columns=300, z_min=-3.0, z_max=5.0), (POINTS, COUNT)),
    Case(VoxelSums(**PLACE, z_middle=1.5), (POINTS, COUNT, CELL, SUMS)),
    Case(PillarFeatures(**PLACE, z_middle=1.5), (POINTS, CELL, SUMS)),
    Case(PillarClear(num_cells=108000), (FEATURES,)),
    Case(PillarMax(), (FEATURES, CELL, TensorType("float32", (108000, 24)))),
)
assert {type(case.operator) for case in CASES} == set(OPERATORS)
