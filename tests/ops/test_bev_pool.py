"""bev_pool against hand-computed cases and a plain loop, its gradients, and its ONNX function."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from udx.ops import bev_pool
from udx.ops.onnx_functions import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, function_protos


def random_case(seed: int, batch: int, cameras: int, bins: int, height: int, width: int, channels: int, cells: int):
    rng = np.random.default_rng(seed)
    points = cameras * bins * height * width
    depth = torch.from_numpy(rng.random((batch, cameras, bins, height, width)))
    context = torch.from_numpy(rng.normal(size=(batch, cameras, height, width, channels)))
    index, offsets = [], []
    for _ in range(batch):
        cell_of_point = rng.integers(0, cells + 1, points)  # the last stands for nowhere
        index.append(np.argsort(cell_of_point, kind="stable"))
        offsets.append(np.concatenate([[0], np.cumsum(np.bincount(cell_of_point, minlength=cells + 1)[:cells])]))
    return depth, context, torch.tensor(np.array(index)).int(), torch.tensor(np.array(offsets)).int()


def by_loop(depth, context, index, offsets):
    batch, cameras, bins, height, width = depth.shape
    pooled = np.zeros((batch, offsets.shape[1] - 1, context.shape[-1]))
    for b in range(batch):
        for cell in range(offsets.shape[1] - 1):
            for point in index[b, offsets[b, cell] : offsets[b, cell + 1]].tolist():
                n, d, y, x = np.unravel_index(point, (cameras, bins, height, width))
                pooled[b, cell] += depth[b, n, d, y, x].item() * context[b, n, y, x].numpy()
    return pooled


def test_two_points_of_one_cell_add_up_by_hand():
    depth = torch.tensor([0.25, 0.75]).view(1, 1, 2, 1, 1)  # one pixel, two depth bins
    context = torch.tensor([10.0, -4.0]).view(1, 1, 1, 1, 2)
    both = bev_pool(depth, context, torch.tensor([[0, 1]]).int(), torch.tensor([[0, 0, 2, 2]]).int())
    assert both.tolist() == [[[0, 0], [10, -4], [0, 0]]]
    apart = bev_pool(depth, context, torch.tensor([[1, 0]]).int(), torch.tensor([[0, 1, 1, 2]]).int())
    assert apart.tolist() == [[[7.5, -3], [0, 0], [2.5, -1]]]


def test_what_stands_behind_the_last_offset_is_padding():
    depth = torch.ones(1, 1, 3, 1, 1)
    context = torch.ones(1, 1, 1, 1, 1)
    pooled = bev_pool(depth, context, torch.tensor([[2, 0, 1]]).int(), torch.tensor([[0, 1, 1]]).int())
    assert pooled.tolist() == [[[1], [0]]]


sizes = {name: st.integers(1, 3) for name in ("batch", "cameras", "bins", "height", "width", "channels")}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), cells=st.integers(1, 12), **sizes)
def test_equals_a_plain_loop(seed, cells, **shape):
    case = random_case(seed, cells=cells, **shape)
    np.testing.assert_allclose(bev_pool(*case).numpy(), by_loop(*case), atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    depth, context, index, offsets = random_case(1, 2, 2, 3, 2, 2, 3, 5)
    inputs = depth.requires_grad_(), context.requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: bev_pool(d, c, index, offsets), inputs)


def test_torch_sees_through_the_operator():
    depth, context, index, offsets = random_case(2, 2, 1, 2, 2, 2, 3, 4)
    torch.library.opcheck(bev_pool, (depth.requires_grad_(), context.requires_grad_(), index, offsets))


def test_half_precision_is_summed_in_single():
    # 1 + 4096 · 2⁻¹² is 2; summed in FP16 the small ones would vanish beside 1.
    depth = torch.full((1, 1, 4097, 1, 1), 2.0**-12, dtype=torch.float16)
    depth[0, 0, 0] = 1.0
    context = torch.ones(1, 1, 1, 1, 1, dtype=torch.float16)
    pooled = bev_pool(depth, context, torch.arange(4097).int()[None], torch.tensor([[0, 4097]]).int())
    assert pooled.dtype == torch.float16
    assert pooled.item() == 2.0


@pytest.mark.parametrize(
    ("index", "offsets", "said"),
    [
        ([[0, 4]], [[0, 2]], "outside 0 to 3"),
        ([[0, -1]], [[0, 2]], "outside 0 to 3"),
        ([[0, 1]], [[0, 3]], "beyond the 2 points"),
        ([[0, 1]], [[0, 2, 1]], "not decrease"),
        ([[0, 1]], [[1, 2]], "begin at 0"),
        ([[0], [1]], [[0, 1], [0, 1]], "for each of 1 samples"),
    ],
)
def test_a_bad_plan_never_reaches_memory(index, offsets, said):
    depth, context = torch.ones(1, 1, 4, 1, 1), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match=said):
        bev_pool(depth, context, torch.tensor(index).int(), torch.tensor(offsets).int())


def onnx_session(batch: int = 2) -> ort.InferenceSession:
    node = helper.make_node(
        "UdxBevPool", ["depth", "context", "index", "offsets"], ["pooled"], domain=DOMAIN, **PLUGIN_ATTRIBUTES
    )
    graph = helper.make_graph(
        [node],
        "pool",
        [
            helper.make_tensor_value_info("depth", TensorProto.FLOAT, [batch, 2, 3, 2, 4]),
            helper.make_tensor_value_info("context", TensorProto.FLOAT, [batch, 2, 2, 4, 5]),
            helper.make_tensor_value_info("index", TensorProto.INT32, [batch, 48]),
            helper.make_tensor_value_info("offsets", TensorProto.INT32, [batch, 8]),
        ],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [batch, 7, 5])],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    bodies = [body for body in function_protos() if body.name == "UdxBevPool"]
    model = helper.make_model(graph, opset_imports=imports, functions=bodies, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_onnx_function_gives_the_same_for_every_plan():
    session = onnx_session()
    for seed in range(4):
        depth, context, index, offsets = random_case(seed, 2, 2, 3, 2, 4, 5, 7)
        tensors = {"depth": depth.float(), "context": context.float(), "index": index, "offsets": offsets}
        (pooled,) = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
        np.testing.assert_allclose(pooled, by_loop(depth, context, index, offsets), atol=1e-5)
