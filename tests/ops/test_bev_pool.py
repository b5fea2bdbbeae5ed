"""bev_pool in all its homes, against hand-computed cases and a plain loop; its gradients; what it refuses."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops import homes
from udx.ops import bev_pool
from udx.ops.bev_pool import _check
from udx.runtime import numpy_kernels

DTYPES = [*itertools.product([torch.float32, torch.float16, torch.bfloat16], repeat=2), (torch.float64,) * 2]
"""Of depth and context; autocast mixes them."""
ACCURACY = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def random_case(seed, batch=2, cameras=2, bins=3, height=2, width=2, channels=3, cells=5, dtypes=(torch.float64,) * 2):
    """Depth, context, and a plan whose last points land nowhere, as ``pooling_plan`` makes it."""
    rng = np.random.default_rng(seed)
    points = cameras * bins * height * width
    depth = torch.from_numpy(rng.random((batch, cameras, bins, height, width))).to(dtypes[0])
    context = torch.from_numpy(rng.normal(size=(batch, cameras, height, width, channels))).to(dtypes[1])
    index, offsets = [], []
    for _ in range(batch):
        cell_of_point = rng.integers(0, cells + 1, points)  # the last stands for nowhere
        index.append(np.argsort(cell_of_point, kind="stable"))
        offsets.append(np.concatenate([[0], np.cumsum(np.bincount(cell_of_point, minlength=cells + 1)[:cells])]))
    return depth, context, torch.tensor(np.array(index)).int(), torch.tensor(np.array(offsets)).int()


def loop(depth, context, index, offsets):
    """(sample, cell, (camera, bin, row, column)) of every pooled point."""
    for sample in range(len(depth)):
        for cell in range(offsets.shape[1] - 1):
            for point in index[sample, offsets[sample, cell] : offsets[sample, cell + 1]].tolist():
                yield sample, cell, np.unravel_index(point, depth.shape[1:])


def pooled_by_loop(depth, context, index, offsets):
    pooled = np.zeros((len(depth), offsets.shape[1] - 1, context.shape[-1]))
    for sample, cell, (n, d, y, x) in loop(depth, context, index, offsets):
        pooled[sample, cell] += depth[sample, n, d, y, x].item() * context[sample, n, y, x].double().numpy()
    return pooled


def gradients_by_loop(grad, depth, context, index, offsets):
    grad_depth, grad_context = np.zeros(depth.shape), np.zeros(context.shape)
    for sample, cell, (n, d, y, x) in loop(depth, context, index, offsets):
        row = grad[sample, cell].double().numpy()
        grad_depth[sample, n, d, y, x] += row @ context[sample, n, y, x].double().numpy()
        grad_context[sample, n, y, x] += row * depth[sample, n, d, y, x].item()
    return grad_depth, grad_context


def assert_close(got, expected, dtype):
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.double().numpy(), expected, rtol=ACCURACY[dtype], atol=ACCURACY[dtype] * max(1, np.abs(expected).max())
    )


def test_two_points_of_one_cell_add_up_by_hand(home):
    depth = torch.tensor([0.25, 0.75]).view(1, 1, 2, 1, 1)  # one pixel, two depth bins
    context = torch.tensor([10.0, -4.0]).view(1, 1, 1, 1, 2)
    both = home("bev_pool", depth, context, torch.tensor([[0, 1]]).int(), torch.tensor([[0, 0, 2, 2]]).int())
    assert both.tolist() == [[[0, 0], [10, -4], [0, 0]]]
    apart = home("bev_pool", depth, context, torch.tensor([[1, 0]]).int(), torch.tensor([[0, 1, 1, 2]]).int())
    assert apart.tolist() == [[[7.5, -3], [0, 0], [2.5, -1]]]


def test_what_stands_behind_the_last_offset_is_padding(home):
    depth, context = torch.ones(1, 1, 3, 1, 1), torch.ones(1, 1, 1, 1, 1)
    pooled = home("bev_pool", depth, context, torch.tensor([[2, 0, 1]]).int(), torch.tensor([[0, 1, 1]]).int())
    assert pooled.tolist() == [[[1], [0]]]


def test_a_plan_without_points_or_without_slots_pools_nothing(home):
    depth, context, _, _ = random_case(0, dtypes=(torch.float32,) * 2)
    for slots in (0, 24):
        pooled = home("bev_pool", depth, context, torch.zeros(2, slots).int(), torch.zeros(2, 4).int())
        assert torch.equal(pooled, torch.zeros(2, 3, 3))


sizes = {name: st.integers(1, 3) for name in ("batch", "cameras", "bins", "height", "width", "channels")}
dtypes = st.sampled_from(DTYPES)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), cells=st.integers(1, 12), dtypes=dtypes, **sizes)
def test_equals_a_plain_loop(home, seed, **shape):
    case = random_case(seed, **shape)
    assert_close(home("bev_pool", *case), pooled_by_loop(*case), case[1].dtype)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), cells=st.integers(1, 12), dtypes=dtypes, **sizes)
def test_gradients_equal_a_plain_loop(home, seed, **shape):
    depth, context, *plan = random_case(seed, **shape)
    grad = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(depth), shape["cells"], context.shape[-1])))
    grad = grad.to(context.dtype)
    of_depth, of_context = home.run(homes.gradients, "bev_pool", grad, 2, depth, context, *plan)
    expected = gradients_by_loop(grad, depth, context, *plan)
    assert_close(of_depth, expected[0], depth.dtype)
    assert_close(of_context, expected[1], context.dtype)


def test_cells_and_channels_beyond_one_block_of_a_kernel(home):
    case = random_case(3, batch=1, cameras=1, bins=40, channels=130, cells=2, dtypes=(torch.float32,) * 2)
    assert_close(home("bev_pool", *case), pooled_by_loop(*case), torch.float32)
    grad = torch.ones(1, 2, 130)
    got = home.run(homes.gradients, "bev_pool", grad, 2, *case)
    for its, expected in zip(got, gradients_by_loop(grad, *case), strict=True):
        assert_close(its, expected, torch.float32)


def crowded_case(seed, cells, channels, dtype, batch=1, crowding=4.0):
    """A case whose first cells hold most of 4000 points, one of them none."""
    rng = np.random.default_rng(seed)
    shape = (batch, 1, 40, 10, 10)
    depth = torch.from_numpy(rng.random(shape)).to(dtype)
    context = torch.from_numpy(rng.normal(size=(batch, 1, 10, 10, channels))).to(dtype)
    cell = (rng.random((batch, 4000)) ** crowding * (cells + 1)).astype(int)
    cell[cell == 2] = 0
    offsets = [np.concatenate([[0], np.cumsum(np.bincount(row, minlength=cells + 1)[:cells])]) for row in cell]
    return (
        depth,
        context,
        torch.from_numpy(np.argsort(cell, kind="stable")).int(),
        torch.tensor(np.array(offsets)).int(),
    )


def pooled_by_numpy(depth, context, index, offsets):
    """What the CPU's kernel pools, whose order of summation is that of the ONNX function."""
    pooled = np.zeros((len(depth), offsets.shape[1] - 1, context.shape[-1]), context.numpy().dtype)
    _, cameras, bins, height, width = depth.shape
    constants = {"BINS": bins, "PIXELS": height * width, "POINTS": cameras * bins * height * width}
    numpy_kernels.bev_pool([its.numpy() for its in (depth, context, index, offsets)], [pooled], constants)
    return pooled


@pytest.mark.parametrize(
    ("cells", "channels", "dtype", "crowding"),
    [
        (9, 20, torch.float32, 1.0),  # one tile of more than 3072 points, which four programs share
        (400, 80, torch.float16, 4.0),  # most cells of few points, some of hundreds
        (37, 66, torch.float32, 2.0),  # no square, and lanes beyond the last channel
    ],
)
def test_sums_are_those_of_the_cpu_bit_for_bit(kernel_home, cells, channels, dtype, crowding):
    case = crowded_case(4, cells, channels, dtype, crowding=crowding)
    assert np.diff(case[3].numpy()).max() > 48  # lanes share the chunks of such a cell
    pooled = kernel_home("bev_pool", *case)
    np.testing.assert_array_equal(pooled.numpy(), pooled_by_numpy(*case))


def test_the_gradient_is_that_of_finite_differences(home):
    case = random_case(1, batch=2, cameras=1, bins=3, height=1, channels=2, cells=3)
    assert home.run(homes.passes_gradcheck, "bev_pool", 2, *case)


def test_torch_sees_through_the_operator(home):
    case = random_case(2, dtypes=(torch.float32,) * 2)
    assert home.run(homes.opcheck, "bev_pool", 2, *case) == {"SUCCESS"}
    assert torch.equal(home.run(homes.compiled, "bev_pool", *case), home("bev_pool", *case))


def test_torch_exports_the_operator():
    class Pool(torch.nn.Module):
        def forward(self, *tensors):
            return bev_pool(*tensors)

    exported = torch.export.export(Pool(), random_case(2))
    assert torch.ops.udx.bev_pool.default in {node.target for node in exported.graph.nodes}
    case = random_case(3)
    assert torch.equal(exported.module()(*case), bev_pool(*case))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(home, dtype):
    # 1 + 4096 · 2⁻¹² is 2; summed in 16 bits the small ones would vanish beside 1.
    depth = torch.full((1, 1, 4097, 1, 1), 2.0**-12, dtype=dtype)
    depth[0, 0, 0] = 1.0
    context = torch.ones(1, 1, 1, 1, 1, dtype=dtype)
    pooled = home("bev_pool", depth, context, torch.arange(4097).int()[None], torch.tensor([[0, 4097]]).int())
    assert pooled.dtype == dtype
    assert pooled.item() == 2.0


@pytest.mark.parametrize(
    ("index", "offsets", "said"),
    [
        ([[0, 4]], [[0, 2]], "points 0 to 3, but holds others"),
        ([[0, -1]], [[0, 2]], "points 0 to 3, but holds others"),
        ([[0, 1]], [[0, 3]], "beyond the 2 slots"),
        ([[0, 1]], [[0, 2, 1]], "not decrease"),
        ([[0, 1]], [[1, 2]], "begin at 0"),
    ],
)
def test_the_reference_refuses_a_bad_plan(index, offsets, said):
    depth, context = torch.ones(1, 1, 4, 1, 1), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match=said):
        bev_pool(depth, context, torch.tensor(index).int(), torch.tensor(offsets).int())


def test_kernels_keep_a_bad_plan_from_memory(kernel_home):
    depth, context = torch.full((1, 1, 4, 1, 1), 2.0), torch.ones(1, 1, 1, 1, 1)
    index = torch.tensor([[-1, 0, 2**31 - 1, 4, 3, -(2**31)]]).int()  # 0 and 3 are points
    for offsets, expected in (
        ([0, 3, 6], [2, 2]),
        ([-(2**31), 5, 2**31 - 1], [4, 0]),
        ([4, 2, 6], [0, 2]),
        ([2**31 - 1, 2, 6], [0, 2]),
    ):
        plan = index, torch.tensor([offsets]).int()
        pooled = kernel_home.run(homes.launch, "bev_pool", "pool", depth, context, *plan)
        assert pooled.flatten().tolist() == expected
        grads = kernel_home.run(homes.launch, "bev_pool", "pool_backward", torch.ones(1, 2, 1), depth, context, *plan)
        pooled_points = sum(expected) // 2
        assert [int(its.sum()) for its in grads] == [pooled_points, 2 * pooled_points]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d, c, i, o: (d.int(), c, i, o), "depth must be float32 or float16 or .*, not int32"),
        (lambda d, c, i, o: (d, c.long(), i, o), "context must be float32 or .*, not int64"),
        (lambda d, c, i, o: (d, c, i.long(), o), "point_index must be int32, not int64"),
        (lambda d, c, i, o: (d, c, i, o.float()), "cell_offsets must be int32, not float32"),
        (lambda d, c, i, o: (d, c[:, :1], i, o), r"context must have shape \(2, 2, 2, 2, any\), not \(2, 1, 2, 2, 3\)"),
        (lambda d, c, i, o: (d, c, i[:1], o), r"point_index must have shape \(2, any\), not \(1, 24\)"),
        (lambda d, c, i, o: (d[0], c, i, o), r"depth must have shape \(any, any, any, any, any\), not"),
        (lambda d, c, i, o: (d, c, i, o[:, :0]), "one entry more than there are cells"),
        (lambda d, c, i, o: (d.transpose(3, 4), c, i, o), r"depth must be contiguous, not strided \(24, 12, 4, 1, 2\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        bev_pool(*change(*random_case(0, dtypes=(torch.float32,) * 2)))


@pytest.mark.parametrize(
    ("channels", "cells", "said"), [(2**26, 4, "context: 2147483648 entries"), (2**20, 2**11, "the map: 2147483648")]
)
def test_more_than_32_bits_can_number_is_refused(channels, cells, said):
    depth = torch.empty(1, 1, 1, 4, 8, device="meta")
    context = torch.empty(1, 1, 4, 8, channels, device="meta")
    index = torch.empty(1, 9, dtype=torch.int32, device="meta")
    offsets = torch.empty(1, cells + 1, dtype=torch.int32, device="meta")
    with pytest.raises(ValueError, match=said):
        _check(depth, context, index, offsets)
