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

from typing import Final

import onnx
import onnxscript
from onnxscript import opset20 as op

from udx.operators import DOMAIN, STEPS_PER_METRE, VERSION

LARGEST: Final = 3.4028234663852886e38
"""The largest finite FP32: neither NaN nor an infinity is at most this."""

_udx = onnxscript.values.Opset(DOMAIN, VERSION)


@onnxscript.script(_udx, default_opset=op)
def UdxBevPool(depth, context, point_index, cell_offsets):  # type: ignore[no-untyped-def]  # noqa: D103
    batch = op.Shape(depth, start=0, end=1)
    pixels = op.Mul(op.Shape(depth, start=3, end=4), op.Shape(depth, start=4, end=5))
    points = op.Mul(op.Shape(depth, start=2, end=3), pixels)
    cameras = op.Shape(depth, start=1, end=2)
    channels = op.Shape(context, start=4, end=5)
    slots = op.Shape(point_index, start=1, end=2)
    cells = op.Sub(op.Shape(cell_offsets, start=1, end=2), op.Constant(value_ints=[1]))
    zero, one, some = op.Constant(value_ints=[0]), op.Constant(value_ints=[1]), op.Constant(value_ints=[-1])
    # The slots of every cell, of all samples in one row.
    sample = op.Range(op.Constant(value_int=0), op.Squeeze(batch), op.Constant(value_int=1))
    kept = op.Clip(op.Cast(cell_offsets, to=7), op.Constant(value_int=0), op.Squeeze(slots))
    offsets = op.Add(kept, op.Unsqueeze(op.Mul(sample, slots), one))
    begins = op.Reshape(op.Slice(offsets, zero, some, one), some)
    ends = op.Reshape(op.Slice(offsets, one, op.Constant(value_ints=[9223372036854775807]), one), some)
    # A cell's slots are cut into chunks of sixteen lanes, the last of which is padded, and all chunks are summed at
    # once, lane by lane: what is left to scatter is a tenth.
    size = op.Constant(value_ints=[16])
    chunks = op.Div(op.Add(op.Max(op.Sub(ends, begins), zero), op.Sub(size, one)), size)
    chunks_end = op.CumSum(chunks, op.Constant(value_int=0))
    chunks_begin = op.Sub(chunks_end, chunks)
    number = op.ReduceMax(op.Concat(chunks_end, zero, axis=0), keepdims=1)
    # The cell of every chunk is the last one that begins there: cells without a chunk come before it.
    begun = op.ScatterElements(
        op.Expand(zero, op.Add(number, one)), chunks_begin, op.Expand(one, op.Shape(chunks_begin)), reduction="add"
    )
    cell = op.Sub(op.Slice(op.CumSum(begun, op.Constant(value_int=0)), zero, number), one)
    chunk = op.Range(op.Constant(value_int=0), op.Squeeze(number), op.Constant(value_int=1))
    within = op.Mul(op.Sub(chunk, op.Gather(chunks_begin, cell)), size)
    lane = op.Range(op.Constant(value_int=0), op.Squeeze(size), op.Constant(value_int=1))
    slot = op.Add(op.Unsqueeze(op.Add(op.Gather(begins, cell), within), one), lane)
    filled = op.Less(slot, op.Unsqueeze(op.Gather(ends, cell), one))
    # Depth and context of the point in every slot; point index is flat in (camera, bin, row, column).
    every_point = op.Reshape(op.Cast(point_index, to=7), some)
    point = op.Gather(every_point, op.Where(filled, slot, op.Unsqueeze(op.Gather(begins, cell), one)))
    own_sample = op.Mul(op.Unsqueeze(op.Div(cell, cells), one), cameras)
    depths = op.Reshape(op.Cast(depth, to=1), some)
    features = op.Reshape(op.Cast(context, to=1), op.Concat(some, channels, axis=0))
    weight = op.Where(
        filled, op.Gather(depths, op.Add(point, op.Mul(own_sample, points))), op.Constant(value_float=0.0)
    )
    pixel = op.Add(op.Mul(op.Add(op.Div(point, points), own_sample), pixels), op.Mod(point, pixels))
    total = op.Expand(op.Constant(value_floats=[0.0]), op.Concat(number, channels, axis=0))
    for lane_index in range(16):
        taken = op.Gather(features, op.Gather(pixel, lane_index, axis=1))
        total = op.Add(total, op.Mul(taken, op.Unsqueeze(op.Gather(weight, lane_index, axis=1), one)))
    channel = op.Range(op.Constant(value_int=0), op.Squeeze(channels), op.Constant(value_int=1))
    place = op.Reshape(op.Add(op.Unsqueeze(op.Mul(cell, channels), one), channel), some)
    empty = op.Expand(op.Constant(value_floats=[0.0]), op.Mul(op.Mul(batch, cells), channels))
    pooled = op.ScatterElements(empty, place, op.Reshape(total, some), reduction="add")
    return op.CastLike(op.Reshape(pooled, op.Concat(batch, cells, channels, axis=0)), context)


@onnxscript.script(_udx, default_opset=op)  # type: ignore[untyped-decorator]
def UdxVoxelCells(  # type: ignore[no-untyped-def]  # noqa: D103
    points,
    num_points,
    x_min: float,
    y_min: float,
    cell_size: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
):
    batch = op.Shape(points, start=0, end=1)
    row_count = op.Cast(op.Constant(value_int=rows), to=6)
    column_count = op.Cast(op.Constant(value_int=columns), to=6)
    cells = op.Mul(row_count, column_count)
    nowhere = op.Mul(cells, op.Cast(batch, to=6))
    size = op.Constant(value_float=cell_size)
    zero = op.Constant(value_float=0.0)
    across = op.Div(op.Sub(op.Gather(points, 0, axis=2), op.Constant(value_float=x_min)), size)
    along = op.Div(op.Sub(op.Gather(points, 1, axis=2), op.Constant(value_float=y_min)), size)
    height = op.Gather(points, 2, axis=2)
    slot = op.Range(op.Constant(value_int=0), op.Squeeze(op.Shape(points, start=1, end=2)), op.Constant(value_int=1))
    given = op.Less(slot, op.Cast(num_points, to=7))
    small = op.LessOrEqual(op.Abs(points), op.Constant(value_float=LARGEST))
    finite = op.Cast(op.ReduceMin(op.Cast(small, to=6), op.Constant(value_ints=[2]), keepdims=0), to=9)
    in_range = op.And(
        op.And(op.GreaterOrEqual(across, zero), op.Less(across, op.Cast(column_count, to=1))),
        op.And(op.GreaterOrEqual(along, zero), op.Less(along, op.Cast(row_count, to=1))),
    )
    in_heights = op.And(
        op.GreaterOrEqual(height, op.Constant(value_float=z_min)), op.Less(height, op.Constant(value_float=z_max))
    )
    inside = op.And(op.And(given, finite), op.And(in_range, in_heights))
    column = op.Cast(op.Floor(op.Where(inside, across, zero)), to=6)
    row = op.Cast(op.Floor(op.Where(inside, along, zero)), to=6)
    sample = op.Range(op.Constant(value_int=0), op.Squeeze(batch), op.Constant(value_int=1))
    first = op.Mul(op.Unsqueeze(op.Cast(sample, to=6), op.Constant(value_ints=[1])), cells)
    own_cell = op.Add(op.Add(op.Mul(row, column_count), column), first)
    cell = op.Reshape(op.Where(inside, own_cell, nowhere), op.Constant(value_ints=[-1]))
    rows_of_sums = op.Add(op.Cast(nowhere, to=7), op.Constant(value_ints=[1]))
    cleared = op.Expand(
        op.Cast(op.Constant(value_int=0), to=6), op.Concat(rows_of_sums, op.Constant(value_ints=[4]), axis=0)
    )
    return cell, cleared


@onnxscript.script(_udx, default_opset=op)  # type: ignore[untyped-decorator]
def UdxVoxelSums(  # type: ignore[no-untyped-def]  # noqa: D103
    points, num_points, cell, cleared, x_min: float, y_min: float, cell_size: float, z_middle: float
):
    size = op.Constant(value_float=cell_size)
    half = op.Constant(value_float=0.5)
    zero = op.Constant(value_float=0.0)
    none = op.Cast(op.Constant(value_ints=[0]), to=6)
    flat = op.Constant(value_ints=[-1])
    across = op.Div(op.Sub(op.Gather(points, 0, axis=2), op.Constant(value_float=x_min)), size)
    along = op.Div(op.Sub(op.Gather(points, 1, axis=2), op.Constant(value_float=y_min)), size)
    height = op.Sub(op.Gather(points, 2, axis=2), op.Constant(value_float=z_middle))
    capacity = op.Shape(points, start=1, end=2)
    cells = op.Cast(op.Sub(op.Shape(cleared, start=0, end=1), op.Constant(value_ints=[1])), to=6)
    inside = op.Less(cell, cells)
    steps_per_metre = op.Constant(value_float=STEPS_PER_METRE)
    steps_per_cell = op.Mul(size, steps_per_metre)
    x = op.Reshape(op.Mul(op.Sub(op.Sub(across, op.Floor(across)), half), steps_per_cell), flat)
    y = op.Reshape(op.Mul(op.Sub(op.Sub(along, op.Floor(along)), half), steps_per_cell), flat)
    z = op.Reshape(op.Mul(height, steps_per_metre), flat)
    one = op.Constant(value_ints=[1])
    own_terms = op.Concat(
        op.Unsqueeze(op.Cast(op.Floor(op.Where(inside, x, zero)), to=6), one),
        op.Unsqueeze(op.Cast(op.Floor(op.Where(inside, y, zero)), to=6), one),
        op.Unsqueeze(op.Cast(op.Floor(op.Where(inside, z, zero)), to=6), one),
        op.Unsqueeze(op.Cast(inside, to=6), one),
        axis=1,
    )
    # The tally of the points in no cell goes to the last row.
    slot = op.Range(op.Constant(value_int=0), op.Squeeze(capacity), op.Constant(value_int=1))
    given = op.Reshape(op.Cast(op.Less(slot, op.Cast(num_points, to=7)), to=6), flat)
    small = op.LessOrEqual(op.Abs(points), op.Constant(value_float=LARGEST))
    finite = op.Reshape(op.ReduceMin(op.Cast(small, to=6), op.Constant(value_ints=[2]), keepdims=0), flat)
    given_finite = op.Mul(given, finite)
    outside = op.Sub(op.ReduceSum(given_finite), op.ReduceSum(op.Cast(inside, to=6)))
    not_finite = op.Sub(op.ReduceSum(given), op.ReduceSum(given_finite))
    beyond = op.ReduceSum(op.Max(op.Sub(num_points, op.Cast(capacity, to=6)), none))
    dropped = op.Add(op.Add(not_finite, outside), beyond)
    tally = op.Concat(
        op.Reshape(not_finite, op.Constant(value_ints=[1, 1])),
        op.Reshape(outside, op.Constant(value_ints=[1, 1])),
        op.Reshape(beyond, op.Constant(value_ints=[1, 1])),
        op.Reshape(dropped, op.Constant(value_ints=[1, 1])),
        axis=1,
    )
    terms = op.Concat(own_terms, tally, axis=0)
    row = op.Unsqueeze(op.Cast(op.Concat(cell, cells, axis=0), to=7), one)
    return op.ScatterElements(cleared, op.Expand(row, op.Shape(terms)), terms, axis=0, reduction="add")


@onnxscript.script(_udx, default_opset=op)  # type: ignore[untyped-decorator]
def UdxPillarFeatures(  # type: ignore[no-untyped-def]  # noqa: D103
    points, cell, sums, x_min: float, y_min: float, cell_size: float, z_middle: float
):
    size = op.Constant(value_float=cell_size)
    steps_per_metre = op.Constant(value_float=STEPS_PER_METRE)
    width = op.Shape(points, start=2, end=3)
    points_MF = op.Reshape(points, op.Concat(op.Constant(value_ints=[-1]), width, axis=0))
    low = op.Concat(
        op.Reshape(op.Constant(value_float=x_min), op.Constant(value_ints=[1])),
        op.Reshape(op.Constant(value_float=y_min), op.Constant(value_ints=[1])),
        axis=0,
    )
    position = op.Div(op.Sub(op.Gather(points_MF, op.Constant(value_ints=[0, 1]), axis=1), low), size)
    from_centre = op.Sub(op.Sub(position, op.Floor(position)), op.Constant(value_float=0.5))
    height = op.Sub(op.Gather(points_MF, op.Constant(value_ints=[2]), axis=1), op.Constant(value_float=z_middle))
    own_sums = op.Cast(op.Gather(sums, cell, axis=0), to=1)
    count = op.Gather(own_sums, op.Constant(value_ints=[3]), axis=1)
    # Each point was rounded down to a step, so the mean lies half a step higher.
    mean = op.Add(op.Div(own_sums, count), op.Constant(value_float=0.5))
    mean_across = op.Div(op.Gather(mean, op.Constant(value_ints=[0, 1]), axis=1), op.Mul(size, steps_per_metre))
    mean_height = op.Div(op.Gather(mean, op.Constant(value_ints=[2]), axis=1), steps_per_metre)
    described = op.Concat(
        points_MF,
        op.Mul(op.Sub(from_centre, mean_across), size),
        op.Sub(height, mean_height),
        op.Mul(from_centre, size),
        axis=1,
    )
    cells = op.Cast(op.Sub(op.Shape(sums, start=0, end=1), op.Constant(value_ints=[1])), to=6)
    inside = op.Unsqueeze(op.Less(cell, cells), op.Constant(value_ints=[1]))
    return op.Where(inside, described, op.Constant(value_float=0.0))


@onnxscript.script(_udx, default_opset=op)  # type: ignore[untyped-decorator]
def UdxPillarClear(features, num_cells: int):  # type: ignore[no-untyped-def]  # noqa: D103
    cells = op.Unsqueeze(op.Constant(value_int=num_cells), op.Constant(value_ints=[0]))
    return op.Expand(op.Constant(value_float=0.0), op.Concat(cells, op.Shape(features, start=1, end=2), axis=0))


@onnxscript.script(_udx, default_opset=op)
def UdxPillarMax(features, cell, cleared):  # type: ignore[no-untyped-def]  # noqa: D103
    # A point in no cell raises cell 0 to zero, which is what it is at least.
    none = op.Cast(op.Constant(value_int=0), to=6)
    cells = op.Cast(op.Shape(cleared, start=0, end=1), to=6)
    inside = op.And(op.GreaterOrEqual(cell, none), op.Less(cell, cells))
    one, some = op.Constant(value_ints=[1]), op.Constant(value_ints=[-1])
    value = op.Where(op.Unsqueeze(inside, one), op.Cast(features, to=1), op.Constant(value_float=0.0))
    channels = op.Shape(cleared, start=1, end=2)
    channel = op.Range(op.Constant(value_int=0), op.Squeeze(channels), op.Constant(value_int=1))
    row = op.Unsqueeze(op.Cast(op.Where(inside, cell, none), to=7), one)
    place = op.Reshape(op.Add(op.Mul(row, channels), channel), some)
    raised = op.ScatterElements(op.Reshape(cleared, some), place, op.Reshape(value, some), reduction="max")
    return op.Reshape(raised, op.Shape(cleared))


FUNCTIONS: Final = (UdxBevPool, UdxVoxelCells, UdxVoxelSums, UdxPillarFeatures, UdxPillarClear, UdxPillarMax)


def function_protos() -> list[onnx.FunctionProto]:
    """Bodies of all functions, to be appended to a model."""
    return [function.to_function_proto() for function in FUNCTIONS]
