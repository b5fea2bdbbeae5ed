"""The BEV operators as ONNX functions of standard operators, so that stock ONNX Runtime runs an export.

A node of domain ``udx`` in an exported graph calls one of these; its ``PLUGIN_ATTRIBUTES`` (``udx.operators``)
let TensorRT take its plugin of the same name instead. There is a node for every kernel, because a plugin
is one launch: ``voxelize`` is UdxVoxelCells and UdxVoxelSums, ``pillar_scatter`` is UdxPillarClear and UdxPillarMax,
and in both the second gets what the first cleared as its last input, for the plugin to write its output into. The
functions know nothing of that; together they compute what the torch operators compute, and a test holds them to it.

Sums and maxima are taken with ScatterElements, in one dimension, for which it needs half the time of two. ScatterND
would need smaller indices, but ONNX Runtime's CPU kernel (seen in 1.32) runs its reductions in several threads without
a lock: where two points of a cell meet, one is lost now and then, and the same frame gives other boxes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from udx.operators import (
    STEPS_PER_METRE,
    BevPool,
    Operator,
    PillarClear,
    PillarFeatures,
    PillarMax,
    VoxelCells,
    VoxelSums,
)
from udx.ops.function_body import FunctionBody, Value

LARGEST: Final = float(np.finfo(np.float32).max)
"""The largest finite FP32: neither NaN nor an infinity is at most this."""

LANES: Final = 16
"""Slots in a chunk of ``UdxBevPool``: as in ``udx.runtime.numpy_kernels``."""

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def function_protos() -> list[onnx.FunctionProto]:
    """Bodies of all functions, to be appended to a model."""
    return [_function(kind, body) for kind, body in _BODIES.items()]


def fixed_function_protos(pooled_slots: int, pooled_cells: int) -> list[onnx.FunctionProto]:
    """Bodies whose tensors have shapes that follow from their inputs' shapes alone; they give the same bits.

    The pooling takes room for the chunks of any plan then, about twice what a plan needs, and is as much slower.

    Args:
        pooled_slots: how many slots the point index of the model's UdxBevPool nodes has, of all samples together.
        pooled_cells: how many cells those nodes write, of all samples together.
    """
    fixed = partial(_bev_pool, chunks_of=partial(_fixed_chunks, num_slots=pooled_slots, num_cells=pooled_cells))
    bodies: dict[type[Operator], Body] = {**_BODIES, BevPool: fixed}
    return [_function(kind, body) for kind, body in bodies.items()]


def _function(kind: type[Operator], body: "Body") -> onnx.FunctionProto:
    op = FunctionBody()
    attributes = {name: op.attribute(name, form) for name, form in kind.attributes().items()}
    outputs = body(op, *kind.inputs, **attributes)
    return op.to_function(kind.name, kind.inputs, outputs, list(attributes))


# -- bev_pool ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slots:
    """The slots of every cell, of all samples in one row: ``begins`` and ``ends`` have an entry a cell."""

    begins: Value
    ends: Value


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Rows that sum up to ``LANES`` slots each: ``cell`` (rows,) that a row belongs to, its ``first`` slot (rows,)."""

    cell: Value
    first: Value


def _bev_pool(
    op: FunctionBody,
    depth: Value,
    context: Value,
    point_index: Value,
    cell_offsets: Value,
    chunks_of: "Callable[[FunctionBody, _Slots], _Chunks] | None" = None,
) -> list[Value]:
    """Sum the slots of a cell in chunks of ``LANES``, all chunks at once, lane by lane; then the chunks of a cell.

    What is left to scatter then is a tenth. The lanes are unrolled, because few programs run an ONNX Loop.
    """
    batch, cameras = op.Shape(depth, start=0, end=1), op.Shape(depth, start=1, end=2)
    pixels = op.Mul(op.Shape(depth, start=3, end=4), op.Shape(depth, start=4, end=5))
    points = op.Mul(op.Shape(depth, start=2, end=3), pixels)
    channels = op.Shape(context, start=4, end=5)
    cells = op.Sub(op.Shape(cell_offsets, start=1, end=2), [1])
    slots = _slots_of_cells(op, point_index, cell_offsets, batch)
    chunks = (chunks_of or _packed_chunks)(op, slots)
    slot = op.Add(chunks.first, np.arange(LANES)[:, None])
    filled = op.Less(slot, op.Gather(slots.ends, chunks.cell))
    # Depth and context of the point in every slot; its index is flat in (camera, bin, row, column). What is not filled
    # reads a row of zeros behind the last pixel.
    every_point = op.Cast(op.Reshape(point_index, [-1]), to=INT64)
    point = op.Gather(every_point, op.Where(filled, slot, 0))
    first_camera = op.Mul(op.Div(chunks.cell, cells), cameras)
    depths = op.Reshape(op.Cast(depth, to=FLOAT), [-1])
    weight = op.Where(filled, op.Gather(depths, op.Add(point, op.Mul(first_camera, points))), 0.0)
    own_pixel = op.Add(op.Mul(op.Add(op.Div(point, points), first_camera), pixels), op.Mod(point, pixels))
    pixel = op.Where(filled, own_pixel, op.Mul(op.Mul(batch, cameras), pixels))
    width = op.Concat([1], channels, axis=0)
    features = op.Reshape(op.Cast(context, to=FLOAT), op.Concat([-1], channels, axis=0))
    features = op.Concat(features, op.Expand(0.0, width), axis=0)
    total: Value | None = None
    lanes = (op.split(pixel, LANES, axis=0), op.split(op.Unsqueeze(weight, [2]), LANES, axis=0))
    for lane_pixel, lane_weight in zip(*lanes, strict=True):
        term = op.Mul(op.Gather(features, lane_pixel), lane_weight)
        total = op.Add(0.0 if total is None else total, term)  # a sum of −0 alone is 0, as from a cleared accumulator
    channel = _range(op, channels)
    place = op.Add(op.Unsqueeze(op.Mul(chunks.cell, channels), [1]), channel)
    empty = op.Expand(0.0, op.Mul(op.Mul(batch, cells), channels))
    pooled = op.ScatterElements(empty, op.Reshape(place, [-1]), op.Reshape(total, [-1]), reduction="add")
    return [op.CastLike(op.Reshape(pooled, op.Concat(batch, cells, channels, axis=0)), context)]


def _slots_of_cells(op: FunctionBody, point_index: Value, cell_offsets: Value, batch: Value) -> _Slots:
    slots = op.Shape(point_index, start=1, end=2)
    kept = op.Min(op.Max(op.Cast(cell_offsets, to=INT64), [0]), slots)
    offsets = op.Add(kept, op.Unsqueeze(op.Mul(_range(op, batch), slots), [1]))
    end = np.iinfo(np.int64).max
    begins = op.Reshape(op.Slice(offsets, [0], [-1], [1]), [-1])
    return _Slots(begins=begins, ends=op.Reshape(op.Slice(offsets, [1], [end], [1]), [-1]))


def _packed_chunks(op: FunctionBody, slots: _Slots) -> _Chunks:
    """As many rows as this plan has chunks, those of a cell one behind the other."""
    counts = op.Max(op.Sub(slots.ends, slots.begins), [0])
    chunks = op.Div(op.Add(counts, [LANES - 1]), [LANES])
    chunks_end = op.CumSum(chunks, 0)
    chunks_begin = op.Sub(chunks_end, chunks)
    number = op.ReduceMax(op.Concat(chunks_end, [0], axis=0), keepdims=1)
    # The cell of every chunk is the last one that begins there: cells without a chunk come before it.
    ones = op.Expand([1], op.Shape(chunks_begin))
    begun = op.ScatterElements(op.Expand([0], op.Add(number, [1])), chunks_begin, ones, reduction="add")
    cell = op.Sub(op.Slice(op.CumSum(begun, 0), [0], number), [1])
    before = op.Mul(op.Sub(_range(op, number), op.Gather(chunks_begin, cell)), [LANES])
    return _Chunks(cell=cell, first=op.Add(op.Gather(slots.begins, cell), before))


def _fixed_chunks(op: FunctionBody, slots: _Slots, num_slots: int, num_cells: int) -> _Chunks:
    """As many rows as any plan can have chunks; those that a plan does not need are behind the end of their cell.

    The chunks of cell c start at row begin // LANES + c: a cell of n slots has rows enough before the next one's,
    n // LANES + 1 at least.
    """
    rows = num_slots // LANES + num_cells
    first_row = op.Add(op.Div(slots.begins, LANES), np.arange(num_cells))
    cell = op.ScatterElements(np.zeros(rows, np.int64), first_row, np.arange(num_cells))
    # A row without a cell is its predecessor's: the running maximum, over twice as many rows in every step.
    for step in range((num_slots // LANES + 1).bit_length()):
        reach = 1 << step
        if reach >= rows:
            break
        head, tail = op.Slice(cell, [0], [reach], [0]), op.Slice(cell, [reach], [rows], [0])
        cell = op.Concat(head, op.Max(tail, op.Slice(cell, [0], [rows - reach], [0])), axis=0)
    before = op.Mul(op.Sub(np.arange(rows), op.Gather(first_row, cell)), [LANES])
    return _Chunks(cell=cell, first=op.Add(op.Gather(slots.begins, cell), before))


# -- pillars -----------------------------------------------------------------------------------------------------------


def _voxel_cells(
    op: FunctionBody,
    points: Value,
    num_points: Value,
    x_min: Value,
    y_min: Value,
    cell_size: Value,
    rows: Value,
    columns: Value,
    z_min: Value,
    z_max: Value,
) -> list[Value]:
    batch = op.Shape(points, start=0, end=1)
    row_count, column_count = op.Cast(rows, to=INT32), op.Cast(columns, to=INT32)
    cells = op.Mul(row_count, column_count)
    nowhere = op.Mul(cells, op.Cast(batch, to=INT32))
    across = op.Div(op.Sub(op.Gather(points, 0, axis=2), x_min), cell_size)
    along = op.Div(op.Sub(op.Gather(points, 1, axis=2), y_min), cell_size)
    height = op.Gather(points, 2, axis=2)
    given = op.Less(_range(op, op.Shape(points, start=1, end=2)), op.Cast(num_points, to=INT64))
    finite = op.Cast(op.ReduceMin(_is_finite(op, points), [2], keepdims=0), to=TensorProto.BOOL)
    in_range = op.And(
        op.And(op.GreaterOrEqual(across, 0.0), op.Less(across, op.Cast(column_count, to=FLOAT))),
        op.And(op.GreaterOrEqual(along, 0.0), op.Less(along, op.Cast(row_count, to=FLOAT))),
    )
    in_heights = op.And(op.GreaterOrEqual(height, z_min), op.Less(height, z_max))
    inside = op.And(op.And(given, finite), op.And(in_range, in_heights))
    column = op.Cast(op.Floor(op.Where(inside, across, 0.0)), to=INT32)
    row = op.Cast(op.Floor(op.Where(inside, along, 0.0)), to=INT32)
    first = op.Mul(op.Unsqueeze(op.Cast(_range(op, batch), to=INT32), [1]), cells)
    own_cell = op.Add(op.Add(op.Mul(row, column_count), column), first)
    cell = op.Reshape(op.Where(inside, own_cell, nowhere), [-1])
    rows_of_sums = op.Add(op.Cast(nowhere, to=INT64), [1])
    return [cell, op.Expand(np.int32(0), op.Concat(rows_of_sums, [4], axis=0))]


def _voxel_sums(
    op: FunctionBody,
    points: Value,
    num_points: Value,
    cell: Value,
    cleared: Value,
    x_min: Value,
    y_min: Value,
    cell_size: Value,
    z_middle: Value,
) -> list[Value]:
    across = op.Div(op.Sub(op.Gather(points, 0, axis=2), x_min), cell_size)
    along = op.Div(op.Sub(op.Gather(points, 1, axis=2), y_min), cell_size)
    height = op.Sub(op.Gather(points, 2, axis=2), z_middle)
    capacity = op.Shape(points, start=1, end=2)
    cells = op.Cast(op.Sub(op.Shape(cleared, start=0, end=1), [1]), to=INT32)
    inside = op.Less(cell, cells)
    steps_per_cell = op.Mul(cell_size, float(STEPS_PER_METRE))
    x = op.Reshape(op.Mul(op.Sub(op.Sub(across, op.Floor(across)), 0.5), steps_per_cell), [-1])
    y = op.Reshape(op.Mul(op.Sub(op.Sub(along, op.Floor(along)), 0.5), steps_per_cell), [-1])
    z = op.Reshape(op.Mul(height, float(STEPS_PER_METRE)), [-1])
    own_terms = op.Concat(
        *(op.Unsqueeze(op.Cast(op.Floor(op.Where(inside, step, 0.0)), to=INT32), [1]) for step in (x, y, z)),
        op.Unsqueeze(op.Cast(inside, to=INT32), [1]),
        axis=1,
    )
    # The tally of the points in no cell goes to the last row.
    given_mask = op.Less(_range(op, capacity), op.Cast(num_points, to=INT64))
    given = op.Reshape(op.Cast(given_mask, to=INT32), [-1])
    finite = op.Reshape(op.ReduceMin(_is_finite(op, points), [2], keepdims=0), [-1])
    given_finite = op.Mul(given, finite)
    outside = op.Sub(op.ReduceSum(given_finite), op.ReduceSum(op.Cast(inside, to=INT32)))
    not_finite = op.Sub(op.ReduceSum(given), op.ReduceSum(given_finite))
    beyond = op.ReduceSum(op.Max(op.Sub(num_points, op.Cast(capacity, to=INT32)), np.zeros(1, np.int32)))
    dropped = op.Add(op.Add(not_finite, outside), beyond)
    tally = op.Concat(*(op.Reshape(count, [1, 1]) for count in (not_finite, outside, beyond, dropped)), axis=1)
    terms = op.Concat(own_terms, tally, axis=0)
    row = op.Unsqueeze(op.Cast(op.Concat(cell, cells, axis=0), to=INT64), [1])
    return [op.ScatterElements(cleared, op.Expand(row, op.Shape(terms)), terms, axis=0, reduction="add")]


def _pillar_features(
    op: FunctionBody,
    points: Value,
    cell: Value,
    sums: Value,
    x_min: Value,
    y_min: Value,
    cell_size: Value,
    z_middle: Value,
) -> list[Value]:
    points_MF = op.Reshape(points, op.Concat([-1], op.Shape(points, start=2, end=3), axis=0))
    low = op.Concat(op.Reshape(x_min, [1]), op.Reshape(y_min, [1]), axis=0)
    position = op.Div(op.Sub(op.Gather(points_MF, [0, 1], axis=1), low), cell_size)
    from_centre = op.Sub(op.Sub(position, op.Floor(position)), 0.5)
    height = op.Sub(op.Gather(points_MF, [2], axis=1), z_middle)
    own_sums = op.Cast(op.Gather(sums, cell, axis=0), to=FLOAT)
    count = op.Gather(own_sums, [3], axis=1)
    # Each point was rounded down to a step, so the mean lies half a step higher.
    mean = op.Add(op.Div(own_sums, count), 0.5)
    mean_across = op.Div(op.Gather(mean, [0, 1], axis=1), op.Mul(cell_size, float(STEPS_PER_METRE)))
    mean_height = op.Div(op.Gather(mean, [2], axis=1), float(STEPS_PER_METRE))
    described = op.Concat(
        points_MF,
        op.Mul(op.Sub(from_centre, mean_across), cell_size),
        op.Sub(height, mean_height),
        op.Mul(from_centre, cell_size),
        axis=1,
    )
    cells = op.Cast(op.Sub(op.Shape(sums, start=0, end=1), [1]), to=INT32)
    return [op.Where(op.Unsqueeze(op.Less(cell, cells), [1]), described, 0.0)]


def _pillar_clear(op: FunctionBody, features: Value, num_cells: Value) -> list[Value]:
    return [op.Expand(0.0, op.Concat(op.Unsqueeze(num_cells, [0]), op.Shape(features, start=1, end=2), axis=0))]


def _pillar_max(op: FunctionBody, features: Value, cell: Value, cleared: Value) -> list[Value]:
    # A point in no cell raises cell 0 to zero, which is what it is at least.
    none = np.int32(0)
    cells = op.Cast(op.Shape(cleared, start=0, end=1), to=INT32)
    inside = op.And(op.GreaterOrEqual(cell, none), op.Less(cell, cells))
    value = op.Where(op.Unsqueeze(inside, [1]), op.Cast(features, to=FLOAT), 0.0)
    channels = op.Shape(cleared, start=1, end=2)
    row = op.Unsqueeze(op.Cast(op.Where(inside, cell, none), to=INT64), [1])
    place = op.Reshape(op.Add(op.Mul(row, channels), _range(op, channels)), [-1])
    raised = op.ScatterElements(op.Reshape(cleared, [-1]), place, op.Reshape(value, [-1]), reduction="max")
    return [op.Reshape(raised, op.Shape(cleared))]


# -- what several share ------------------------------------------------------------------------------------------------


def _range(op: FunctionBody, length: Value) -> Value:
    """0, 1, … below a length, a tensor of one element."""
    return op.Range(0, op.Squeeze(length, [0]), 1)


def _is_finite(op: FunctionBody, values: Value) -> Value:
    """1 where a value is a finite number, else 0."""
    return op.Cast(op.LessOrEqual(op.Abs(values), LARGEST), to=INT32)


Body = Callable[..., list[Value]]

_BODIES: Final[Mapping[type[Operator], Body]] = {
    BevPool: _bev_pool,
    VoxelCells: _voxel_cells,
    VoxelSums: _voxel_sums,
    PillarFeatures: _pillar_features,
    PillarClear: _pillar_clear,
    PillarMax: _pillar_max,
}
