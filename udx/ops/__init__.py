"""The BEV operators: each a torch op with autograd, a Triton kernel, a torch reference and an ONNX function.

Importing them needs no Triton; running them on a GPU does.
"""

from udx.ops.bev_pool import bev_pool as bev_pool
from udx.ops.pillar_features import pillar_features as pillar_features
from udx.ops.pillar_grid import PillarGrid as PillarGrid
from udx.ops.pillar_scatter import pillar_scatter as pillar_scatter
from udx.ops.voxelize import Dropped as Dropped
from udx.ops.voxelize import dropped_of as dropped_of
from udx.ops.voxelize import voxelize as voxelize
