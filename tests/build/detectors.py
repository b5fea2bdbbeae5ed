"""A small detector with nodes of domain ``udx``: true to the contract, and quick to make."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.runtime.conftest import detector_model, manifest_of
from udx.operators import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from udx.ops.onnx_functions import function_protos
from udx.runtime.onnx_file import sealed

PLACE = {"x_min": -8.0, "y_min": -8.0, "cell_size": 2.0}
HEIGHTS = {"rows": 8, "columns": 8, "z_min": -5.0, "z_max": 3.0}


def voxelizing_detector(seed: int = 0, *, open_points: bool = False, **changes: Any) -> onnx.ModelProto:
    """A LiDAR detector that voxelizes its points; ``changes`` are to the attributes of its first ``udx`` node."""
    manifest = manifest_of("lidar")
    model = detector_model(manifest, seed=seed)
    if open_points:
        manifest = replace(manifest, dynamic={"points": 500})
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "points"
    first = {key: value for key, value in (PLACE | HEIGHTS | PLUGIN_ATTRIBUTES | changes).items() if value is not None}
    nodes = [
        helper.make_node("Unsqueeze", ["points", "batch"], ["points_batch"], "points_batch"),
        helper.make_node("Unsqueeze", ["num_points", "batch"], ["count_batch"], "count_batch"),
        helper.make_node(
            "UdxVoxelCells", ["points_batch", "count_batch"], ["cell", "cleared"], "cells", domain=DOMAIN,
            **first,
        ),
        helper.make_node(
            "UdxVoxelSums", ["points_batch", "count_batch", "cell", "cleared"], ["sums"], "sums", domain=DOMAIN,
            **PLACE, z_middle=-1.0, **PLUGIN_ATTRIBUTES,
        ),
        helper.make_node("Cast", ["sums"], ["sums_f"], "sums_f", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["sums_f"], ["sums_mean"], "sums_mean", keepdims=0),
    ]  # fmt: skip
    total = next(node for node in model.graph.node if node.op_type == "Sum")
    total.input.append("sums_mean")
    graph_nodes = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(graph_nodes)
    model.graph.initializer.append(helper.make_tensor("batch", TensorProto.INT64, [1], [0]))
    used = {"UdxVoxelCells", "UdxVoxelSums"}
    model.functions.extend(function for function in function_protos() if function.name in used)
    model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    onnx.checker.check_model(model, full_check=True)
    sealed(model, manifest)
    return model


def write_detector(path: Path, **changes: Any) -> Path:
    """Write a ``voxelizing_detector``."""
    onnx.save(voxelizing_detector(**changes), path)
    return path
