"""How torch's exporter writes the BEV operators: one ``udx`` node each, with the plugin's attributes."""

from collections.abc import Callable
from typing import Any, Final

import onnx
import torch
from onnxscript import values

from udx.ops import POSITION_STEP_M
from udx.ops.onnx_functions import DOMAIN, PLUGIN_ATTRIBUTES, VERSION

_FLOAT, _INT, _STRING = (getattr(onnx.defs.OpSchema.AttrType, kind) for kind in ("FLOAT", "INT", "STRING"))
_PLUGIN_TYPES: Final = {str: _STRING, int: _INT}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export(custom_translation_table=…)``."""
    bev_pool = _operator(
        "UdxBevPool",
        inputs={"depth": "T", "context": "T", "point_index": "I", "cell_offsets": "I"},
        outputs={"pooled": "T"},
        types={"T": _FLOATS, "I": ["tensor(int32)"]},
    )
    voxelize = _operator(
        "UdxVoxelize",
        inputs={"points": "T", "num_points": "I"},
        outputs={"cell": "I", "sums": "I"},
        types={"T": ["tensor(float)"], "I": ["tensor(int32)"]},
        attributes={
            "x_min": _FLOAT,
            "y_min": _FLOAT,
            "cell_size": _FLOAT,
            "rows": _INT,
            "columns": _INT,
            "z_min": _FLOAT,
            "z_max": _FLOAT,
            "position_step": _FLOAT,
        },
    )
    pillar_scatter = _operator(
        "UdxPillarScatter",
        inputs={"features": "T", "cell": "I"},
        outputs={"pillars": "T"},
        types={"T": _FLOATS, "I": ["tensor(int32)"]},
        attributes={"num_cells": _INT},
    )

    def write_bev_pool(depth: Any, context: Any, point_index: Any, cell_offsets: Any) -> Any:
        return bev_pool(depth, context, point_index, cell_offsets, **PLUGIN_ATTRIBUTES)

    def write_voxelize(
        points: Any,
        num_points: Any,
        x_min: float,
        y_min: float,
        cell: float,
        rows: int,
        columns: int,
        z_min: float,
        z_max: float,
    ) -> Any:
        shape = {"cell_size": cell, "rows": rows, "columns": columns, "position_step": POSITION_STEP_M}
        ranges = {"x_min": x_min, "y_min": y_min, "z_min": z_min, "z_max": z_max}
        return voxelize(points, num_points, **shape, **ranges, **PLUGIN_ATTRIBUTES)

    def write_pillar_scatter(features: Any, cell: Any, num_cells: int) -> Any:
        return pillar_scatter(features, cell, num_cells=num_cells, **PLUGIN_ATTRIBUTES)

    return {
        torch.ops.udx.bev_pool.default: write_bev_pool,
        torch.ops.udx.voxelize.default: write_voxelize,
        torch.ops.udx.pillar_scatter.default: write_pillar_scatter,
    }


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
