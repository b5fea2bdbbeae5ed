"""On a GPU every detector, its gradient and its decoding give what they give on the CPU."""

import copy
import dataclasses

import pytest
import torch

from tests.tiny import tiny_detector, tiny_inputs
from udx.models.detector import Detector
from udx.ops import bev_pool, pillar_scatter, voxelize

pytestmark = pytest.mark.gpu


def on_gpu(inputs):
    moved = {name: tensor.cuda() for name, tensor in dataclasses.asdict(inputs).items() if tensor is not None}
    return type(inputs)(**moved)


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
def test_detectors_agree(modality):
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cpu = Detector(tiny_detector(modality))
    gpu = copy.deepcopy(cpu).cuda()
    inputs = tiny_inputs()
    heads, its_heads = cpu(inputs).heads, gpu(on_gpu(inputs)).heads
    torch.testing.assert_close(its_heads.heatmap_BKHW.cpu(), heads.heatmap_BKHW, rtol=1e-3, atol=1e-3)
    heads.regression_BRHW.square().mean().backward()
    its_heads.regression_BRHW.square().mean().backward()
    for (name, weight), its_weight in zip(cpu.named_parameters(), gpu.parameters(), strict=True):
        if weight.grad is not None:
            torch.testing.assert_close(its_weight.grad.cpu(), weight.grad, rtol=2e-2, atol=1e-4, msg=name)


def test_voxelize_gives_the_same_cells_and_sums_in_any_order():
    grid = (-25.6, -12.8, 0.4, 64, 128, -3.0, 5.0)
    points = tiny_inputs(1).points[0]
    count = torch.tensor([2000]).int()
    cell, sums = voxelize(points, count, *grid)
    order = torch.randperm(2000)
    its_cell, its_sums = voxelize(points[order].cuda(), count.cuda(), *grid)
    # Division by a constant may round differently on the device: a point on an edge may change its cell.
    assert (its_cell.cpu() != cell[order]).float().mean() < 1e-3
    assert (its_sums.cpu() != sums).any(dim=1).sum() <= 4


def test_pooling_and_scattering_agree():
    inputs = tiny_inputs(2)
    depth = torch.rand(2, 6, 8, 2, 4)
    context = torch.rand(2, 6, 2, 4, 16)
    pooled = bev_pool(depth, context, inputs.pool_index, inputs.pool_offsets)
    plan = inputs.pool_index.cuda(), inputs.pool_offsets.cuda()
    torch.testing.assert_close(bev_pool(depth.cuda(), context.cuda(), *plan).cpu(), pooled)
    features, cell = torch.rand(500, 8), torch.randint(0, 51, (500,)).int()
    assert torch.equal(pillar_scatter(features.cuda(), cell.cuda(), 50).cpu(), pillar_scatter(features, cell, 50))
