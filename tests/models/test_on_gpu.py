"""On a GPU every detector, its gradient and its decoding give what they give on the CPU."""

import copy
import dataclasses

import pytest
import torch

from tests.tiny import tiny_detector, tiny_inputs
from udx.models.detector import Detector

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
