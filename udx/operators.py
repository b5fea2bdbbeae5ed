"""The operators as an engine sees them: for every ONNX node of domain ``udx`` one kernel, its sizes and its types.

A node's attributes are the fields of its class, in the node's order. From the types and shapes of its inputs follow
the outputs and the ``Launch``; ``udx.ops.compile`` and the TensorRT plugins take both from here, and tests hold the
launches to those of ``udx.ops.kernels``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_type_hints

from udx.errors import UdxError
from udx.launch import Input, Launch, Output, Scalar, size_of
from udx.tensors import dtype_name, tensor_spec

if TYPE_CHECKING:
    import onnx

DOMAIN: Final = "udx"
VERSION: Final = 1
OPSET: Final = 20
"""Versions that exports are written with: of domain ``udx``, and of ONNX's own operators."""

PLUGIN_ATTRIBUTES: Final[dict[str, Any]] = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION), "aot": 1}
"""Attributes of every node of domain ``udx``: TensorRT takes its plugin of the node's name, in its compiled form."""

STEPS_PER_METRE: Final = 1024
"""Positions are summed as integers of this resolution, which makes the sum the same for any order of the points."""

FLOATS: Final = ("float32", "float16", "bfloat16")
VALUE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Type and shape of a node's input; an unknown dimension is −1."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operator(ABC):
    """A node of domain ``udx``. ``types`` are its supported combinations: inputs, then outputs."""

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    types: ClassVar[tuple[tuple[str, ...], ...]]

    @abstractmethod
    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """Outputs for inputs of these types."""

    @abstractmethod
    def launch(self, given: Sequence[TensorType]) -> Launch:
        """The kernel for inputs of these types and shapes.

        Raises:
            UdxError: the types are not supported, or a dimension is unknown that the kernel has as a constant.
        """

    @classmethod
    def named(cls, dtypes: Sequence[str]) -> tuple[Input, ...]:
        """Inputs of these types with their names.

        Raises:
            UdxError: the types are no supported combination.
        """
        supported = list(dict.fromkeys(combination[: len(cls.inputs)] for combination in cls.types))
        if tuple(dtypes) not in supported:
            expected = " or ".join(", ".join(combination) for combination in supported)
            raise UdxError(f"{cls.name} takes {expected}, not {', '.join(dtypes)}; cast the node's inputs")
        return tuple(Input(name=name, dtype=dtype) for name, dtype in zip(cls.inputs, dtypes, strict=True))

    @classmethod
    def attributes(cls) -> dict[str, type]:
        """Names and types of the node's attributes, in order."""
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in fields(cls)}

    def fixed(self, given: Sequence[TensorType], name: str, axis: int) -> int:
        """One dimension that is compiled into the kernel.

        Raises:
            UdxError: it is unknown.
        """
        size = given[self.inputs.index(name)].shape[axis]
        if size < 0:
            raise UdxError(f"dimension {axis} of {self.name}'s input {name} must be fixed; export with fixed shapes")
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTiling:
    """How the map of ``bev_pool_kernel`` is cut into programs: tiles of cells, and lanes of channel vectors.

    A lane holds ``vector`` channels, 16 bytes if the channels allow it, and ``lanes`` of them are a program's block
    of channels. ``items`` lanes run at a time, so that 7 to 13 cells do. ``columns`` is the width of the map.
    """

    columns: int
    tile_rows: int
    tile_columns: int
    vector: int
    lanes: int
    items: int

    @classmethod
    def of(cls, cells: int, channels: int, value_bytes: int) -> "PoolTiling":
        """Choose a tiling for a map of ``cells`` (−1: not known) and ``channels`` values of ``value_bytes`` bytes.

        An operator is not told how wide the map is. A number of cells that is a square is taken for a square map;
        for others a tile is a run of cells, which reads the context more often and is as right.
        """
        columns = isqrt(max(cells, 0))
        square = columns > 0 and columns * columns == cells
        # Small maps are cut finer, for all of a GPU's multiprocessors to have a tile.
        side = 8 if cells < 0 or cells >= 96 * 96 else 4
        vector = min(16 // value_bytes, channels & -channels) if channels else 1
        vectors = -(-channels // vector)
        lanes = -(-vectors // -(-vectors // 32))
        return cls(
            columns=columns if square else side * side,
            tile_rows=side if square else 1,
            tile_columns=side if square else side * side,
            vector=vector,
            lanes=lanes,
            items=max(32, 1 << ((13 * lanes).bit_length() - 1)),
        )

    @property
    def num_warps(self) -> int:
        """A thread for every item."""
        return self.items // 32

    @property
    def max_registers(self) -> int:
        """Of a thread: few enough for many warps, enough to spill none; a small program's threads need more."""
        return 64 if self.num_warps == 8 else 112

    def programs_size(self, cells: str) -> str:
        """Number of programs for a number of cells, as a size: four for each tile."""
        across = -(-self.columns // self.tile_columns)
        return f"cdiv({cells}, {self.columns * self.tile_rows}) * {4 * across}"

    def programs(self, cells: int) -> int:
        """Number of programs for a number of cells."""
        programs: int = size_of(self.programs_size(str(cells)), {})
        return programs

    def channel_blocks(self, channels: int) -> int:
        """Number of programs side by side that pool the same cells."""
        return -(-channels // (self.lanes * self.vector))

    def constants(self) -> dict[str, int]:
        """Constants of the kernel."""
        return {
            "COLUMNS": self.columns,
            "TILE_ROWS": self.tile_rows,
            "TILE_COLUMNS": self.tile_columns,
            "VECTOR": self.vector,
            "LANES": self.lanes,
            "ITEMS": self.items,
        }


@dataclass(frozen=True)
class BevPool(Operator):
    """Depth × context of every frustum point, summed per cell: see ``udx.ops.bev_pool``."""

    name = "UdxBevPool"
    inputs = ("depth", "context", "point_index", "cell_offsets")
    types = tuple((depth, context, "int32", "int32", context) for context in FLOATS for depth in FLOATS)

    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """The map (B, cells, C)."""
        shape = ("cell_offsets[0]", "cell_offsets[1] - 1", "context[4]")
        return (Output(name="pooled", dtype=dtypes[1], shape=shape),)

    def launch(self, given: Sequence[TensorType]) -> Launch:
        """Four programs for each tile of cells and block of channels."""
        inputs = self.named(_dtypes(given))
        cameras, bins, height, width = (self.fixed(given, "depth", axis) for axis in range(1, 5))
        channels = self.fixed(given, "context", 4)
        offsets = given[self.inputs.index("cell_offsets")].shape[1]
        tiling = PoolTiling.of(offsets - 1 if offsets > 0 else -1, channels, VALUE_BYTES[inputs[1].dtype])
        cells = "cell_offsets[1] - 1"
        return Launch(
            kernel="bev_pool_kernel",
            inputs=inputs,
            scalars=(Scalar(name="cells", value=cells), Scalar(name="slots", value="point_index[1]")),
            outputs=self.outputs(_dtypes(given)),
            constants={
                "POINTS": cameras * bins * height * width,
                "BINS": bins,
                "PIXELS": height * width,
                "CHANNELS": channels,
                "ACCUMULATE": "float32",
                **tiling.constants(),
            },
            grid=(tiling.programs_size(cells), str(tiling.channel_blocks(channels)), "cell_offsets[0]"),
            num_warps=tiling.num_warps,
            max_registers=tiling.max_registers,
        )


@dataclass(frozen=True)
class VoxelCells(Operator):
    """The cell of each point, and zeros for ``VoxelSums`` to add to: the first half of ``udx.ops.voxelize``."""

    x_min: float
    y_min: float
    cell_size: float
    rows: int
    columns: int
    z_min: float
    z_max: float

    name = "UdxVoxelCells"
    inputs = ("points", "num_points")
    types = (("float32", "int32", "int32", "int32"),)

    @property
    def cells(self) -> str:
        """Size: the cells of all samples."""
        return f"points[0] * {self.rows * self.columns}"

    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """Cells (B·M,) and cleared sums (B·cells + 1, 4)."""
        cell = Output(name="cell", dtype="int32", shape=("points[0] * points[1]",))
        return cell, Output(name="cleared", dtype="int32", shape=(f"{self.cells} + 1", "4"))

    def launch(self, given: Sequence[TensorType]) -> Launch:
        """A thread for each point, or for each row of the sums if there are more of them."""
        return Launch(
            kernel="voxel_cells_kernel",
            inputs=self.named(_dtypes(given)),
            scalars=(Scalar(name="slots", value="points[0] * points[1]"), Scalar(name="cells", value=self.cells)),
            outputs=self.outputs(_dtypes(given)),
            constants={
                "CAPACITY": max(self.fixed(given, "points", 1), 1),
                "FEATURES": self.fixed(given, "points", 2),
                "X_MIN": self.x_min,
                "Y_MIN": self.y_min,
                "CELL": self.cell_size,
                "ROWS": self.rows,
                "COLUMNS": self.columns,
                "Z_MIN": self.z_min,
                "Z_MAX": self.z_max,
                "BLOCK": 256,
            },
            grid=(f"cdiv(max(points[0] * points[1], {self.cells} + 1), 256)", "1", "1"),
            num_warps=4,
        )


@dataclass(frozen=True)
class VoxelSums(Operator):
    """The sums of each cell and the tally of dropped points, in the memory that ``VoxelCells`` cleared."""

    x_min: float
    y_min: float
    cell_size: float
    z_middle: float

    name = "UdxVoxelSums"
    inputs = ("points", "num_points", "cell", "cleared")
    types = (("float32", "int32", "int32", "int32", "int32"),)

    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """Sums (B·cells + 1, 4)."""
        return (Output(name="sums", dtype="int32", shape=("cleared[0]", "cleared[1]"), aliases="cleared"),)

    def launch(self, given: Sequence[TensorType]) -> Launch:
        """A thread for each point."""
        return Launch(
            kernel="voxel_sums_kernel",
            inputs=self.named(_dtypes(given)),
            scalars=(
                Scalar(name="slots", value="points[0] * points[1]"),
                Scalar(name="cells", value="cleared[0] - 1"),
                Scalar(name="batch", value="points[0]"),
            ),
            outputs=self.outputs(_dtypes(given)),
            constants={
                "CAPACITY": max(self.fixed(given, "points", 1), 1),
                "FEATURES": self.fixed(given, "points", 2),
                **_place(self.x_min, self.y_min, self.cell_size, self.z_middle),
                "BLOCK": 256,
            },
            grid=("cdiv(max(points[0] * points[1], points[0]), 256)", "1", "1"),
            num_warps=4,
        )


@dataclass(frozen=True)
class PillarFeatures(Operator):
    """What a pillar network reads of each point: see ``udx.ops.pillar_features``."""

    x_min: float
    y_min: float
    cell_size: float
    z_middle: float

    name = "UdxPillarFeatures"
    inputs = ("points", "cell", "sums")
    types = (("float32", "int32", "int32", "float32"),)

    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """Features (B·M, F + 5)."""
        return (Output(name="features", dtype="float32", shape=("cell[0]", "points[2] + 5")),)

    def launch(self, given: Sequence[TensorType]) -> Launch:
        """A thread for each point."""
        features = self.fixed(given, "points", 2)
        return Launch(
            kernel="pillar_features_kernel",
            inputs=self.named(_dtypes(given)),
            scalars=(Scalar(name="slots", value="cell[0]"), Scalar(name="cells", value="sums[0] - 1")),
            outputs=self.outputs(_dtypes(given)),
            constants={
                "FEATURES": features,
                **_place(self.x_min, self.y_min, self.cell_size, self.z_middle),
                "BLOCK": 128,
                "BLOCK_FEATURES": power_of_2(features + 5),
            },
            grid=("cdiv(cell[0], 128)", "1", "1"),
            num_warps=4,
        )


@dataclass(frozen=True)
class PillarClear(Operator):
    """The map of zeros that ``PillarMax`` raises: FP32 whatever the features are."""

    num_cells: int

    name = "UdxPillarClear"
    inputs = ("features",)
    types = tuple((kind, "float32") for kind in FLOATS)

    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """Zeros (cells, C)."""
        return (Output(name="cleared", dtype="float32", shape=(str(self.num_cells), "features[1]")),)

    def launch(self, given: Sequence[TensorType]) -> Launch:
        """A thread for each value of the map."""
        size = f"features[1] * {self.num_cells}"
        return Launch(
            kernel="pillar_clear_kernel",
            inputs=self.named(_dtypes(given)),
            scalars=(Scalar(name="size", value=size),),
            outputs=self.outputs(_dtypes(given)),
            constants={"BLOCK": 1024},
            grid=(f"cdiv({size}, 1024)", "1", "1"),
            num_warps=4,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PillarSteps:
    """How ``pillar_max_kernel`` walks over points: STEPS times as many values as there are threads, one a thread."""

    block_channels: int
    step_points: int
    steps: int = 16
    num_warps: int = 4

    @classmethod
    def of(cls, channels: int) -> "PillarSteps":
        """Choose blocks for features of ``channels`` values."""
        block_channels = min(power_of_2(channels), 128)
        return cls(block_channels=block_channels, step_points=128 // block_channels)

    @property
    def points(self) -> int:
        """Points of a program."""
        return self.step_points * self.steps

    def constants(self) -> dict[str, int]:
        """Constants of the kernel."""
        return {"STEP_POINTS": self.step_points, "STEPS": self.steps, "BLOCK_CHANNELS": self.block_channels}


@dataclass(frozen=True)
class PillarMax(Operator):
    """The maximum of each cell and channel, in the memory that ``PillarClear`` cleared."""

    name = "UdxPillarMax"
    inputs = ("features", "cell", "cleared")
    types = tuple((kind, "int32", "float32", "float32") for kind in FLOATS)

    def outputs(self, dtypes: Sequence[str]) -> tuple[Output, ...]:
        """The map (cells, C)."""
        return (Output(name="pillars", dtype="float32", shape=("cleared[0]", "cleared[1]"), aliases="cleared"),)

    def launch(self, given: Sequence[TensorType]) -> Launch:
        """A program for a few points and a block of channels."""
        channels = self.fixed(given, "features", 1)
        steps = PillarSteps.of(channels)
        return Launch(
            kernel="pillar_max_kernel",
            inputs=self.named(_dtypes(given)),
            scalars=(Scalar(name="points", value="features[0]"), Scalar(name="cells", value="cleared[0]")),
            outputs=self.outputs(_dtypes(given)),
            constants={"CHANNELS": channels, **steps.constants()},
            grid=(f"cdiv(features[0], {steps.points})", f"cdiv({channels}, {steps.block_channels})", "1"),
            num_warps=steps.num_warps,
        )


OPERATORS: Final[tuple[type[Operator], ...]] = (BevPool, VoxelCells, VoxelSums, PillarFeatures, PillarClear, PillarMax)
NAMES: Final = frozenset(kind.name for kind in OPERATORS)


def launches_of_graph(model: "onnx.ModelProto") -> list[Launch]:
    """Launches of the nodes of domain ``udx`` in a checked model, in the graph's order.

    Raises:
        UdxError: a node is of another version of udx, or the shapes before it are not fixed.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    constants = {
        tensor.name: TensorType(dtype_name(tensor.data_type), tuple(tensor.dims)) for tensor in graph.initializer
    }
    found = [tensor_spec(value) for value in (*graph.input, *graph.value_info)]
    types = constants | {spec.name: TensorType(spec.dtype, spec.shape) for spec in found}
    return [_launch_of(node, types) for node in graph.node if node.domain == DOMAIN]


def operator_of(node: "onnx.NodeProto") -> Operator:
    """The operator of a node of domain ``udx``.

    Raises:
        UdxError: it is of another version of udx, or lacks an attribute.
    """
    from onnx.helper import get_attribute_value

    kinds = {kind.name: kind for kind in OPERATORS}
    if node.op_type not in kinds:
        raise UdxError(f"node {node.name} is a {node.op_type}, which this udx does not know; export the detector again")
    kind = kinds[node.op_type]
    given = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    wanted = kind.attributes()
    for name, form in wanted.items():
        if type(given.get(name)) is not form:
            raise UdxError(
                f"node {node.name} ({node.op_type}) has no {form.__name__} {name}; export the detector again"
            )
    return kind(**{name: given[name] for name in wanted})


def _launch_of(node: "onnx.NodeProto", types: Mapping[str, TensorType]) -> Launch:
    operator = operator_of(node)
    if any(name not in types for name in node.input):
        raise UdxError(f"node {node.name} ({node.op_type}) lacks shapes; export the detector again")
    return operator.launch([types[name] for name in node.input])


def _dtypes(given: Sequence[TensorType]) -> list[str]:
    return [tensor.dtype for tensor in given]


def _place(x_min: float, y_min: float, cell_size: float, z_middle: float) -> dict[str, Any]:
    """Constants that say where a point lies in its cell."""
    return {
        "X_MIN": x_min,
        "Y_MIN": y_min,
        "CELL": cell_size,
        "STEPS_PER_CELL": cell_size * STEPS_PER_METRE,
        "Z_MIDDLE": z_middle,
        "STEPS_PER_METRE": STEPS_PER_METRE,
    }


def power_of_2(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()
