"""Blocks that live at once lie apart, memory is used again, and views and in-place outputs lie where they must."""

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.steps import Doing, doing
from udx.build.memory_plan import Block, place, place_tensors
from udx.runtime.arena import ALIGNMENT, require_sound_memory
from udx.tensors import TensorSpec


@st.composite
def some_blocks(draw) -> list[Block]:
    blocks = []
    for at in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 8))
        blocks.append(Block(f"b{at}", draw(st.integers(1, 3000)), first, first + draw(st.integers(0, 5))))
    return blocks


def overlap(one: Block, other: Block, offsets: Mapping[str, int]) -> bool:
    begin, other_begin = offsets[one.name], offsets[other.name]
    return begin < other_begin + other.num_bytes and other_begin < begin + one.num_bytes


@given(blocks=some_blocks())
def test_no_two_live_blocks_overlap(blocks):
    plan = place(blocks)
    for one, other in itertools.combinations(blocks, 2):
        alive_together = set(range(one.first, one.last + 1)) & set(range(other.first, other.last + 1))
        assert not (alive_together and overlap(one, other, plan.offsets))
    for block in blocks:
        assert plan.offsets[block.name] % ALIGNMENT == 0
        assert 0 <= plan.offsets[block.name] <= plan.num_bytes - block.num_bytes
    assert plan.num_bytes <= sum(-(-block.num_bytes // ALIGNMENT) * ALIGNMENT for block in blocks)
    assert place(blocks[::-1]) == plan


@given(blocks=some_blocks())
def test_blocks_that_never_meet_take_the_room_of_the_largest(blocks):
    apart = [Block(block.name, block.num_bytes, at, at) for at, block in enumerate(blocks)]
    assert place(apart).num_bytes == max((-(-block.num_bytes // 256) * 256 for block in blocks), default=0)


def test_memory_is_used_again_by_hand():
    # b is dead when c is born, and c fits where b was; a lives throughout.
    plan = place([Block("a", 256, 0, 9), Block("b", 1024, 0, 3), Block("c", 512, 4, 9), Block("d", 300, 4, 9)])
    assert plan.offsets == {"b": 0, "c": 0, "d": 512, "a": 1024}
    assert plan.num_bytes == 1280


def test_the_smallest_gap_is_taken():
    blocks = [
        Block("a", 2048, 0, 0), Block("b", 1024, 0, 1), Block("c", 768, 0, 0), Block("d", 512, 0, 1),
        Block("small", 500, 1, 1),
    ]  # fmt: skip
    # Before b 2048 bytes are free at step 1, and 768 between b and d.
    assert place(blocks).offsets == {"a": 0, "b": 2048, "c": 3072, "d": 3840, "small": 3072}


def floats(count: int, *names: str) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, (count,), "float32") for name in names}


CHAIN = [
    doing("clear", "points", "cell zeros"),
    doing("add", "points cell zeros", "sums", sums="zeros"),
    doing("describe", "points cell sums_view", "features"),
    doing("net", "features", "boxes"),
]
SPECS = floats(100, "points") | floats(50, "cell", "zeros", "sums", "sums_view") | floats(90, "features", "boxes")


def test_what_is_written_in_place_and_views_lie_where_the_original_lies():
    tensors, size = place_tensors(SPECS, {"sums_view": "sums"}, ["points"], ["boxes"], CHAIN)
    at = {tensor.name: tensor for tensor in tensors}
    assert at["zeros"].offset == at["sums"].offset == at["sums_view"].offset
    assert at["sums_view"].view_of == "sums"
    # Boxes are written when the sums are long dead, and find room in their memory or the cells'.
    assert at["boxes"].offset in (at["sums"].offset, at["cell"].offset)
    assert size == 512 + 512 + 256 + 256
    require_sound_memory(at, ["points"], ["boxes"], CHAIN)


def test_inputs_outlive_the_frame_even_where_nothing_reads_them_any_more():
    steps = [doing("one", "a", "b"), doing("two", "b", "c"), doing("three", "c", "d")]
    tensors, _ = place_tensors(floats(64, "a", "b", "c", "d"), {}, ["a"], ["d"], steps)
    at = {tensor.name: tensor.offset for tensor in tensors}
    assert at["a"] not in (at["b"], at["c"], at["d"])
    assert at["b"] == at["d"]


@st.composite
def some_programs(draw):
    """Steps that read what earlier ones wrote; some write in place of what nobody reads any more."""
    count = draw(st.integers(1, 7))
    specs, steps, alive = dict(floats(draw(st.integers(1, 300)), "x0")), [], ["x0"]
    for at in range(count):
        reads = draw(st.lists(st.sampled_from(alive), min_size=1, max_size=3, unique=True))
        writes = {f"t{at}_{k}": draw(st.integers(1, 300)) for k in range(draw(st.integers(1, 2)))}
        specs |= {name: TensorSpec(name, (size,), "float32") for name, size in writes.items()}
        replaced = [name for name in reads if name != "x0"]
        replaces = {}
        if replaced and draw(st.booleans()):
            new = f"p{at}"
            specs[new] = TensorSpec(new, specs[replaced[0]].shape, "float32")
            replaces = {new: replaced[0]}
            alive.remove(replaced[0])
        steps.append(Doing(name=f"s{at}", inputs=tuple(reads), outputs=(*writes, *replaces), replaces=replaces))
        alive += [*writes, *replaces]
    outputs = draw(st.lists(st.sampled_from([name for name in alive if name != "x0"]), min_size=1, unique=True))
    return specs, outputs, steps


@given(program=some_programs())
def test_every_program_keeps_what_it_will_read(program):
    specs, outputs, steps = program
    tensors, size = place_tensors(specs, {}, ["x0"], outputs, steps)
    at = {tensor.name: tensor for tensor in tensors}
    require_sound_memory(at, ["x0"], outputs, steps)
    for step in steps:
        for name, replaced in step.replaces.items():
            assert at[name].offset == at[replaced].offset
    assert all(tensor.end <= size for tensor in tensors)


def test_a_type_that_cannot_pass_is_refused():
    with pytest.raises(ValueError, match=r"x float64\[3\] cannot pass from one step to another"):
        place_tensors({"x": TensorSpec("x", (3,), "float64")}, {}, ["x"], ["x"], [])
