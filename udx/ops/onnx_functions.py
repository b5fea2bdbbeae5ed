"""The BEV operators as ONNX functions of standard operators, so that stock ONNX Runtime runs an export.

A node of domain ``udx`` in an exported graph calls one of these; its ``PLUGIN_ATTRIBUTES`` (``udx.operators``)
let TensorRT take its plugin of the same name instead. There is a node for every kernel, because a plugin
is one launch: ``voxelize`` is UdxVoxelCells and UdxVoxelSums, ``pillar_scatter`` is UdxPillarClear and UdxPillarMax,
and in both the second gets what the first cleared as its last input, for the plugin to write its output into. The
functions know nothing of that; together they compute what the torch operators compute, and a test holds them to it.

Sums and maxima are taken with ScatterElements. ScatterND would need smaller indices, but ONNX Runtime's CPU
kernel (seen in 1.32) runs its reductions in several threads without a lock: where two points of a cell meet, one
is lost now and then, and the same frame gives other boxes.
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
    bins = op.Shape(depth, start=2, end=3)
    pixels = op.Mul(op.Shape(depth, start=3, end=4), op.Shape(depth, start=4, end=5))
    channels = op.Shape(context, start=4, end=5)
    slots = op.Shape(point_index, start=1, end=2)
    cells = op.Sub(op.Shape(cell_offsets, start=1, end=2), op.Constant(value_ints=[1]))
    some = op.Constant(value_ints=[-1])
    # Depth and context of the point in every slot; point index is flat in (camera, bin, row, column).
    point = op.Cast(point_index, to=7)
    pixel = op.Add(op.Mul(op.Div(point, op.Mul(bins, pixels)), pixels), op.Mod(point, pixels))
    weight = op.GatherElements(op.Reshape(op.Cast(depth, to=1), op.Concat(batch, some, axis=0)), point, axis=1)
    features = op.Reshape(op.Cast(context, to=1), op.Concat(batch, some, channels, axis=0))
    taken = op.GatherND(features, op.Unsqueeze(pixel, op.Constant(value_ints=[2])), batch_dims=1)
    # The cell of every slot: how many cells have ended before it. Padding comes out behind the last cell,
    # and adds zeros to the first.
    ends = op.Slice(
        op.Cast(cell_offsets, to=7),
        op.Constant(value_ints=[1]),
        op.Constant(value_ints=[9223372036854775807]),
        op.Constant(value_ints=[1]),
    )
    ended = op.ScatterElements(
        op.Expand(op.Constant(value_ints=[0]), op.Concat(batch, op.Add(slots, op.Constant(value_ints=[1])), axis=0)),
        ends,
        op.Expand(op.Constant(value_ints=[1]), op.Shape(ends)),
        axis=1,
        reduction="add",
    )
    cell = op.Slice(
        op.CumSum(ended, op.Constant(value_int=1)),
        op.Constant(value_ints=[0]),
        slots,
        op.Constant(value_ints=[1]),
    )
    sample = op.Unsqueeze(
        op.Range(op.Constant(value_int=0), op.Squeeze(batch), op.Constant(value_int=1)), op.Constant(value_ints=[1])
    )
    in_cell = op.Less(cell, cells)
    own_row = op.Add(op.Where(in_cell, cell, op.Constant(value_int=0)), op.Mul(sample, cells))
    row = op.Reshape(own_row, op.Constant(value_ints=[-1, 1]))
    lifted = op.Mul(taken, op.Unsqueeze(weight, op.Constant(value_ints=[2])))
    counted = op.Where(op.Unsqueeze(in_cell, op.Constant(value_ints=[2])), lifted, op.Constant(value_float=0.0))
    terms = op.Reshape(counted, op.Concat(some, channels, axis=0))
    summed = op.ScatterElements(
        op.Expand(op.Constant(value_floats=[0.0]), op.Concat(op.Mul(batch, cells), channels, axis=0)),
        op.Expand(row, op.Shape(terms)),
        terms,
        axis=0,
        reduction="add",
    )
    pooled = op.Reshape(summed, op.Concat(batch, cells, channels, axis=0))
    return op.CastLike(pooled, context)


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
    one = op.Constant(value_ints=[1])
    value = op.Where(op.Unsqueeze(inside, one), op.Cast(features, to=1), op.Constant(value_float=0.0))
    row = op.Unsqueeze(op.Cast(op.Where(inside, cell, none), to=7), one)
    return op.ScatterElements(cleared, op.Expand(row, op.Shape(value)), value, axis=0, reduction="max")


FUNCTIONS: Final = (UdxBevPool, UdxVoxelCells, UdxVoxelSums, UdxPillarFeatures, UdxPillarClear, UdxPillarMax)


def function_protos() -> list[onnx.FunctionProto]:
    """Bodies of all functions, to be appended to a model."""
    return [function.to_function_proto() for function in FUNCTIONS]
