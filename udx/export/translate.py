"""How torch's exporter writes the BEV operators: one ``udx`` node for each kernel, with the plugin's attributes.

And how it divides indices: ONNX's Div of integers rounds toward zero, and the exporter's own way there is by FP32.
"""

from collections.abc import Callable
from typing import Any, Final

import onnx
import torch
from onnxscript import ir, opset20, values

from udx.operators import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from udx.ops import PillarGrid

_FLOAT, _INT, _STRING = (getattr(onnx.defs.OpSchema.AttrType, kind) for kind in ("FLOAT", "INT", "STRING"))
_PLUGIN_TYPES: Final = {str: _STRING, int: _INT}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export(custom_translation_table=…)``."""
    ints, single = ["tensor(int32)"], ["tensor(float)"]
    place = {"x_min": _FLOAT, "y_min": _FLOAT, "cell_size": _FLOAT}
    bev_pool = _operator(
        "UdxBevPool",
        inputs={"depth": "D", "context": "C", "point_index": "I", "cell_offsets": "I"},
        outputs={"pooled": "C"},
        types={"D": _FLOATS, "C": _FLOATS, "I": ints},
    )
    voxel_cells = _operator(
        "UdxVoxelCells",
        inputs={"points": "F", "num_points": "I"},
        outputs={"cell": "I", "cleared": "I"},
        types={"F": single, "I": ints},
        attributes=place | {"rows": _INT, "columns": _INT, "z_min": _FLOAT, "z_max": _FLOAT},
    )
    voxel_sums = _operator(
        "UdxVoxelSums",
        inputs={"points": "F", "num_points": "I", "cell": "I", "cleared": "I"},
        outputs={"sums": "I"},
        types={"F": single, "I": ints},
        attributes=place | {"z_middle": _FLOAT},
    )
    described = _operator(
        "UdxPillarFeatures",
        inputs={"points": "F", "cell": "I", "sums": "I"},
        outputs={"features": "F"},
        types={"F": single, "I": ints},
        attributes=place | {"z_middle": _FLOAT},
    )
    pillar_clear = _operator(
        "UdxPillarClear",
        inputs={"features": "T"},
        outputs={"cleared": "F"},
        types={"T": _FLOATS, "F": single},
        attributes={"num_cells": _INT},
    )
    pillar_max = _operator(
        "UdxPillarMax",
        inputs={"features": "T", "cell": "I", "cleared": "F"},
        outputs={"pillars": "F"},
        types={"T": _FLOATS, "I": ints, "F": single},
    )

    def write_bev_pool(depth: Any, context: Any, point_index: Any, cell_offsets: Any) -> Any:
        return bev_pool(depth, context, point_index, cell_offsets, **PLUGIN_ATTRIBUTES)

    def write_voxelize(points: Any, num_points: Any, *scalars: Any) -> Any:
        grid = PillarGrid(*scalars)
        cell, cleared = voxel_cells(
            points,
            num_points,
            **_place(grid),
            rows=grid.rows,
            columns=grid.columns,
            z_min=grid.z_min,
            z_max=grid.z_max,
            **PLUGIN_ATTRIBUTES,
        )
        sums = voxel_sums(
            points, num_points, cell, cleared, **_place(grid), z_middle=grid.z_middle, **PLUGIN_ATTRIBUTES
        )
        return cell, sums

    def write_pillar_features(points: Any, cell: Any, sums: Any, *scalars: Any) -> Any:
        grid = PillarGrid(*scalars)
        return described(points, cell, sums, **_place(grid), z_middle=grid.z_middle, **PLUGIN_ATTRIBUTES)

    def write_pillar_scatter(features: Any, cell: Any, num_cells: int) -> Any:
        cleared = pillar_clear(features, num_cells=num_cells, **PLUGIN_ATTRIBUTES)
        pillars = pillar_max(features, cell, cleared, **PLUGIN_ATTRIBUTES)
        # The map is FP32 because atomics are; no cast is left in a graph that is FP32 anyway.
        return pillars if features.dtype == ir.DataType.FLOAT else opset20.CastLike(pillars, features)

    def write_index_division(index: Any, divisor: Any, rounding_mode: str | None = None) -> Any:
        if not (index.dtype.is_integer() and isinstance(divisor, int) and rounding_mode == "trunc"):
            raise NotImplementedError("a detector divides indices by whole numbers, rounded toward zero, and no others")
        return opset20.Div(index, opset20.CastLike(opset20.Constant(value=ir.tensor(divisor)), index))

    return {
        torch.ops.aten.div.Tensor_mode: write_index_division,
        torch.ops.udx.bev_pool.default: write_bev_pool,
        torch.ops.udx.voxelize.default: write_voxelize,
        torch.ops.udx.pillar_features.default: write_pillar_features,
        torch.ops.udx.pillar_scatter.default: write_pillar_scatter,
    }


def _place(grid: PillarGrid) -> dict[str, float]:
    return {"x_min": grid.x_min, "y_min": grid.y_min, "cell_size": grid.cell}


_FLOATS: Final = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


def _operator(
    name: str,
    inputs: dict[str, str],
    outputs: dict[str, str],
    types: dict[str, list[str]],
    attributes: dict[str, Any] | None = None,
) -> values.Op:
    schema = onnx.defs.OpSchema
    plugin = {key: _PLUGIN_TYPES[type(value)] for key, value in PLUGIN_ATTRIBUTES.items()}
    declared = schema(
        name,
        DOMAIN,
        VERSION,
        inputs=[schema.FormalParameter(key, kind) for key, kind in inputs.items()],
        outputs=[schema.FormalParameter(key, kind) for key, kind in outputs.items()],
        type_constraints=[(kind, allowed, "") for kind, allowed in types.items()],
        attributes=[schema.Attribute(key, kind, "") for key, kind in ((attributes or {}) | plugin).items()],
    )
    return values.Op(values.Opset(DOMAIN, VERSION), name, declared)
