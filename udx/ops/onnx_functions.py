"""The BEV operators as ONNX functions of standard operators, so that stock ONNX Runtime runs an export.

A node of domain ``udx`` in an exported graph calls one of these; the attributes of ``PLUGIN_ATTRIBUTES`` on
the node let TensorRT take its plugin of the same name instead. Each function computes what the torch operator
of the same purpose in this package computes; a test holds them to it.

Sums and maxima are taken with ScatterElements. ScatterND would need smaller indices, but ONNX Runtime's CPU
kernel (seen in 1.32) runs its reductions in several threads without a lock: where two points of a cell meet, one
is lost now and then, and the same frame gives other boxes.
"""

from typing import Any, Final

import onnx
import onnxscript
from onnxscript import opset20 as op

DOMAIN: Final = "udx"
VERSION: Final = 1
OPSET: Final = 20
PLUGIN_ATTRIBUTES: Final[dict[str, Any]] = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION), "aot": 1}

_udx = onnxscript.values.Opset(DOMAIN, VERSION)


@onnxscript.script(_udx, default_opset=op)
def UdxBevPool(depth, context, point_index, cell_offsets):  # type: ignore[no-untyped-def]  # noqa: D103
    batch = op.Shape(depth, start=0, end=1)
    bins = op.Shape(depth, start=2, end=3)
    pixels = op.Mul(op.Shape(depth, start=3, end=4), op.Shape(depth, start=4, end=5))
    channels = op.Shape(context, start=4, end=5)
    slots = op.Shape(point_index, start=1, end=2)
    cells = op.Sub(op.Shape(cell_offsets, start=1, end=2), op.Constant(value_ints=[1]))
    rows_per_sample = op.Add(cells, op.Constant(value_ints=[1]))
    some = op.Constant(value_ints=[-1])
    # Depth and context of the point in every slot; point index is flat in (camera, bin, row, column).
    point = op.Cast(point_index, to=7)
    pixel = op.Add(op.Mul(op.Div(point, op.Mul(bins, pixels)), pixels), op.Mod(point, pixels))
    weight = op.GatherElements(op.Reshape(op.Cast(depth, to=1), op.Concat(batch, some, axis=0)), point, axis=1)
    features = op.Reshape(op.Cast(context, to=1), op.Concat(batch, some, channels, axis=0))
    taken = op.GatherND(features, op.Unsqueeze(pixel, op.Constant(value_ints=[2])), batch_dims=1)
    lifted = op.Mul(taken, op.Unsqueeze(weight, op.Constant(value_ints=[2])))
    # The cell of every slot: how many cells have ended before it. Padding comes out behind the last cell.
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
    row = op.Reshape(op.Add(cell, op.Mul(sample, rows_per_sample)), op.Constant(value_ints=[-1, 1]))
    terms = op.Reshape(lifted, op.Concat(some, channels, axis=0))
    summed = op.ScatterElements(
        op.Expand(op.Constant(value_floats=[0.0]), op.Concat(op.Mul(batch, rows_per_sample), channels, axis=0)),
        op.Expand(row, op.Shape(terms)),
        terms,
        axis=0,
        reduction="add",
    )
    pooled = op.Slice(
        op.Reshape(summed, op.Concat(batch, rows_per_sample, channels, axis=0)),
        op.Constant(value_ints=[0]),
        cells,
        op.Constant(value_ints=[1]),
    )
    return op.CastLike(pooled, context)


@onnxscript.script(_udx, default_opset=op)  # type: ignore[untyped-decorator]
def UdxVoxelize(  # type: ignore[no-untyped-def]  # noqa: D103
    points,
    num_points,
    x_min: float,
    y_min: float,
    cell_size: float,
    rows: int,
    columns: int,
    z_min: float,
    z_max: float,
    position_step: float,
):
    x_low = op.Constant(value_float=x_min)
    y_low = op.Constant(value_float=y_min)
    z_low = op.Constant(value_float=z_min)
    z_high = op.Constant(value_float=z_max)
    size = op.Constant(value_float=cell_size)
    row_count = op.Cast(op.Constant(value_int=rows), to=1)
    column_count = op.Cast(op.Constant(value_int=columns), to=1)
    nowhere = op.Mul(row_count, column_count)
    half = op.Constant(value_float=0.5)
    zero = op.Constant(value_float=0.0)
    x = op.Gather(points, op.Constant(value_int=0), axis=1)
    y = op.Gather(points, op.Constant(value_int=1), axis=1)
    z = op.Gather(points, op.Constant(value_int=2), axis=1)
    column = op.Floor(op.Div(op.Sub(x, x_low), size))
    row = op.Floor(op.Div(op.Sub(y, y_low), size))
    index = op.Range(op.Constant(value_int=0), op.Squeeze(op.Shape(points, start=0, end=1)), op.Constant(value_int=1))
    valid = op.Less(index, op.Cast(num_points, to=7))
    inside = op.And(
        op.And(valid, op.And(op.GreaterOrEqual(column, zero), op.Less(column, column_count))),
        op.And(
            op.And(op.GreaterOrEqual(row, zero), op.Less(row, row_count)),
            op.And(op.GreaterOrEqual(z, z_low), op.Less(z, z_high)),
        ),
    )
    cell = op.Cast(op.Where(inside, op.Add(op.Mul(row, column_count), column), nowhere), to=6)
    offset = op.Concat(
        op.Unsqueeze(op.Sub(x, op.Add(op.Mul(op.Add(column, half), size), x_low)), op.Constant(value_ints=[1])),
        op.Unsqueeze(op.Sub(y, op.Add(op.Mul(op.Add(row, half), size), y_low)), op.Constant(value_ints=[1])),
        op.Unsqueeze(
            op.Sub(z, op.Div(op.Add(z_low, z_high), op.Constant(value_float=2.0))), op.Constant(value_ints=[1])
        ),
        axis=1,
    )
    inside_column = op.Unsqueeze(inside, op.Constant(value_ints=[1]))
    steps = op.Cast(
        op.Where(inside_column, op.Round(op.Div(offset, op.Constant(value_float=position_step))), zero), to=6
    )
    ones = op.Cast(op.Expand(op.Constant(value_ints=[1]), op.Shape(inside_column)), to=6)
    empty = op.Cast(
        op.Expand(
            op.Constant(value_ints=[0]),
            op.Concat(
                op.Reshape(op.Cast(op.Add(nowhere, op.Constant(value_float=1.0)), to=7), op.Constant(value_ints=[1])),
                op.Constant(value_ints=[4]),
                axis=0,
            ),
        ),
        to=6,
    )
    terms = op.Concat(steps, ones, axis=1)
    totals = op.ScatterElements(
        empty,
        op.Expand(op.Unsqueeze(op.Cast(cell, to=7), op.Constant(value_ints=[1])), op.Shape(terms)),
        terms,
        axis=0,
        reduction="add",
    )
    sums = op.Slice(
        totals,
        op.Constant(value_ints=[0]),
        op.Reshape(op.Cast(nowhere, to=7), op.Constant(value_ints=[1])),
        op.Constant(value_ints=[0]),
    )
    return cell, sums


@onnxscript.script(_udx, default_opset=op)  # type: ignore[untyped-decorator]
def UdxPillarScatter(features, cell, num_cells: int):  # type: ignore[no-untyped-def]  # noqa: D103
    cells = op.Reshape(op.Constant(value_int=num_cells), op.Constant(value_ints=[1]))
    empty = op.CastLike(
        op.Expand(
            op.Constant(value_floats=[0.0]),
            op.Concat(op.Add(cells, op.Constant(value_ints=[1])), op.Shape(features, start=1, end=2), axis=0),
        ),
        features,
    )
    index = op.Unsqueeze(op.Cast(cell, to=7), op.Constant(value_ints=[1]))
    filled = op.ScatterElements(empty, op.Expand(index, op.Shape(features)), features, axis=0, reduction="max")
    return op.Slice(filled, op.Constant(value_ints=[0]), cells, op.Constant(value_ints=[0]))


FUNCTIONS: Final = (UdxBevPool, UdxVoxelize, UdxPillarScatter)


def function_protos() -> list[onnx.FunctionProto]:
    """Bodies of all functions, to be appended to a model."""
    return [function.to_function_proto() for function in FUNCTIONS]
