"""The BEV operators, each defined once: a torch op with autograd, and an ONNX function of standard ops."""

from udx.ops.bev_pool import bev_pool as bev_pool
from udx.ops.pillars import POSITION_STEP_M as POSITION_STEP_M
from udx.ops.pillars import pillar_scatter as pillar_scatter
from udx.ops.pillars import voxelize as voxelize
