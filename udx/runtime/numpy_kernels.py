"""The kernels of ``udx.operators`` in NumPy, for plans that run on the CPU: no torch, no compiler.

Each takes a kernel's inputs, its outputs to write into, and the constants of its launch, and does what the kernel
does, rounding by rounding and guard by guard: the torch references and the Triton kernels are what it is held to.
Integers and maxima come out bit for bit; ``bev_pool`` adds in the order in which ONNX Runtime adds the function body,
chunk by chunk of the index. An output that is written in place is the very memory of an input, here as there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.errors import UdxError
from udx.launch import Launch

Array = NDArray[Any]
Constants = Mapping[str, Any]

LANES: Final = 16
"""Slots in a chunk of ``bev_pool``."""

LARGEST: Final = np.finfo(np.float32).max
"""Neither NaN nor an infinity is at most this."""


def run_kernel(launch: Launch, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Do what the kernel of ``launch`` does; no input but one that is written in place is changed."""
    with np.errstate(all="ignore"):  # garbage in a point buffer is no event
        KERNELS[launch.kernel](inputs, outputs, launch.constants)


def require_kernels(launches: Sequence[Launch], source: str) -> None:
    """Raise ``UdxError``, naming ``source``, if there is no NumPy version of a launch, or none for its types."""
    for launch in launches:
        if launch.kernel not in KERNELS:
            raise UdxError(f"{source} launches {launch.kernel}, which this udx does not know; build it again")
        taken, given = ({tensor.dtype for tensor in launch.inputs}, {tensor.dtype for tensor in launch.outputs})
        strange = (taken | given) - _TYPES
        if strange:
            raise UdxError(f"{source}: NumPy knows no {strange.pop()}, which {launch.kernel} takes; export in float32")


def bev_pool(inputs: Sequence[Array], outputs: Sequence[Array], constants: Constants) -> None:
    """Depth × context of every frustum point, summed per cell; a slot with an impossible index adds nothing.

    As in the function body, a cell's slots are cut into chunks of ``LANES``, and all chunks are summed lane by lane.
    """
    for depth, context, point_index, cell_offsets, pooled in zip(*inputs, *outputs, strict=True):
        slots = len(point_index)
        begin = np.clip(cell_offsets[:-1], 0, slots).astype(np.int64)
        counts = np.maximum(np.clip(cell_offsets[1:], 0, slots) - begin, 0)
        chunks = -(-counts // LANES)
        first_chunk = np.cumsum(chunks) - chunks
        cell = np.repeat(np.arange(len(counts)), chunks)
        first = begin[cell] + LANES * (np.arange(len(cell)) - first_chunk[cell])
        sums = np.zeros((len(cell), pooled.shape[-1]), np.float32)
        # What no slot fills reads a row of zeros behind the last pixel.
        pixels = np.pad(context.reshape(-1, context.shape[-1]).astype(np.float32), ((0, 1), (0, 0)))
        for slot in (first + lane for lane in range(LANES)):
            filled = slot < (begin + counts)[cell]
            point = point_index[np.where(filled, slot, begin[cell])]
            sums += _lifted(depth.reshape(-1), pixels, point, filled, constants)
        # The cells of most chunks first: those that have an n-th chunk are then always the first few.
        order = np.argsort(-chunks, kind="stable")
        having = np.searchsorted(-chunks[order], -np.arange(chunks.max(initial=0)), side="left")
        total = np.zeros(pooled.shape, np.float32)
        for rank, cells in enumerate(having):
            total[:cells] += sums[first_chunk[order[:cells]] + rank]
        pooled[order] = total.astype(pooled.dtype)


def _lifted(depth_P: Array, context_RC: Array, point: Array, filled: Array, constants: Constants) -> Array:
    """Depth × context (len(point), C) of points, in FP32; zero where not filled, or for an index that is no point's.

    The last row of ``context_RC`` is zeros.
    """
    bins, pixels = constants["BINS"], constants["PIXELS"]
    real = filled & (point >= 0) & (point < constants["POINTS"])
    known = np.where(real, point, 0)
    pixel = np.where(real, known // (bins * pixels) * pixels + known % pixels, len(context_RC) - 1)
    weight = np.where(real, depth_P[known].astype(np.float32), np.float32(0))
    product: Array = weight[:, None] * context_RC[pixel]
    return product


def voxel_cells(inputs: Sequence[Array], outputs: Sequence[Array], constants: Constants) -> None:
    """The cell of each point, or the number of cells where it is in none; and cleared sums."""
    points_BMF, num_points = inputs
    cell, cleared = outputs
    batch, capacity, _ = points_BMF.shape
    rows, columns = constants["ROWS"], constants["COLUMNS"]
    given = np.arange(capacity) < num_points.reshape(batch, 1)
    x, y, z = (points_BMF[..., axis] for axis in range(3))
    across = (x - np.float32(constants["X_MIN"])) / np.float32(constants["CELL"])
    along = (y - np.float32(constants["Y_MIN"])) / np.float32(constants["CELL"])
    inside = given & _finite(points_BMF)
    inside &= (across >= 0) & (across < columns) & (along >= 0) & (along < rows)
    inside &= (z >= np.float32(constants["Z_MIN"])) & (z < np.float32(constants["Z_MAX"]))
    column, row = (np.where(inside, position, 0).astype(np.int32) for position in (across, along))
    first = np.arange(batch, dtype=np.int32)[:, None] * (rows * columns)
    cell[...] = np.where(inside, first + row * columns + column, batch * rows * columns).reshape(-1)
    cleared[...] = 0


def voxel_sums(inputs: Sequence[Array], outputs: Sequence[Array], constants: Constants) -> None:
    """Sums of the positions and number of the points of each cell; the last row tallies the points in none."""
    points_BMF, num_points, cell, cleared = inputs
    (sums,) = outputs
    batch, capacity, _ = points_BMF.shape
    cells = len(cleared) - 1
    points = points_BMF.reshape(batch * capacity, -1)
    given = (np.arange(capacity) < num_points.reshape(batch, 1)).reshape(-1)
    inside = given & (cell >= 0) & (cell < cells)
    own_cell, (x, y, z) = cell[inside], _offsets(points[inside], constants)
    per_cell, per_metre = np.float32(constants["STEPS_PER_CELL"]), np.float32(constants["STEPS_PER_METRE"])
    # A histogram is by far the fastest sum per cell, and in FP64 one of whole numbers is exact.
    steps = (np.floor(x * per_cell), np.floor(y * per_cell), np.floor(z * per_metre), None)
    histograms = [np.bincount(own_cell, addend, minlength=cells) for addend in steps]
    np.add(cleared[:cells], np.stack(histograms, axis=1).astype(np.int32), out=sums[:cells])
    dropped = given & (cell == cells)
    outside = np.count_nonzero(dropped & _finite(points))
    not_finite = np.count_nonzero(dropped) - outside
    beyond = int(np.maximum(num_points.astype(np.int64) - capacity, 0).sum())
    tally = np.array([not_finite, outside, beyond, not_finite + outside + beyond])
    np.add(cleared[cells], tally.astype(np.int32), out=sums[cells])


def pillar_features(inputs: Sequence[Array], outputs: Sequence[Array], constants: Constants) -> None:
    """A point, its offsets to the mean of its cell, and to its cell's centre; zeros for points in no cell."""
    points_BMF, cell, sums = inputs
    (features,) = outputs
    width = points_BMF.shape[-1]
    size = np.float32(constants["CELL"])
    inside = np.flatnonzero((cell >= 0) & (cell < len(sums) - 1))
    points = points_BMF.reshape(len(cell), width)[inside]
    x, y, z = _offsets(points, constants)
    own_sums = sums[cell[inside]].astype(np.float32)
    # Each point was rounded down to a step, so the mean lies half a step higher.
    mean_x, mean_y, mean_z = (own_sums[:, :3] / own_sums[:, 3:] + np.float32(0.5)).T
    per_cell, per_metre = np.float32(constants["STEPS_PER_CELL"]), np.float32(constants["STEPS_PER_METRE"])
    described = np.empty((len(inside), width + 5), np.float32)
    described[:, :width] = points
    described[:, width] = (x - mean_x / per_cell) * size
    described[:, width + 1] = (y - mean_y / per_cell) * size
    described[:, width + 2] = z - mean_z / per_metre
    described[:, width + 3] = x * size
    described[:, width + 4] = y * size
    features[...] = 0
    features[inside] = described


def pillar_clear(inputs: Sequence[Array], outputs: Sequence[Array], constants: Constants) -> None:
    """Zeros."""
    outputs[0][...] = 0


def pillar_max(inputs: Sequence[Array], outputs: Sequence[Array], constants: Constants) -> None:
    """The maximum over each cell's points and what is there already; NaN is greater than all."""
    features_MC, cell, cleared = inputs
    (pillars,) = outputs
    inside = np.flatnonzero((cell >= 0) & (cell < len(cleared)))
    inside = inside[np.argsort(cell[inside], kind="stable")]
    held, first = np.unique(cell[inside], return_index=True)
    if pillars.ctypes.data != cleared.ctypes.data:
        pillars[...] = cleared
    if len(held):
        raised = features_MC[inside].astype(pillars.dtype)
        candidates = np.abs(np.where(raised <= 0, np.float32(0), raised))
        pillars[held] = np.maximum(cleared[held], np.maximum.reduceat(candidates, first, axis=0))


def _offsets(points_MF: Array, constants: Constants) -> tuple[Array, Array, Array]:
    """X and y from the centre of the own cell, in cells, and the height from the middle of the range, in metres."""
    size = np.float32(constants["CELL"])
    across = (points_MF[:, 0] - np.float32(constants["X_MIN"])) / size
    along = (points_MF[:, 1] - np.float32(constants["Y_MIN"])) / size
    half = np.float32(0.5)
    height: Array = points_MF[:, 2] - np.float32(constants["Z_MIDDLE"])
    return across - np.floor(across) - half, along - np.floor(along) - half, height


def _finite(points: Array) -> Array:
    finite: Array = (np.abs(points) <= LARGEST).all(axis=-1)
    return finite


KERNELS: Final[Mapping[str, Callable[[Sequence[Array], Sequence[Array], Constants], None]]] = {
    "bev_pool_kernel": bev_pool,
    "voxel_cells_kernel": voxel_cells,
    "voxel_sums_kernel": voxel_sums,
    "pillar_features_kernel": pillar_features,
    "pillar_clear_kernel": pillar_clear,
    "pillar_max_kernel": pillar_max,
}
_TYPES: Final = {"float32", "float16", "int32"}
