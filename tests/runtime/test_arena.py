"""Memory on paper: every way in which a plan could read or write what it must not is refused."""

from collections.abc import Mapping

import pytest

from tests.runtime.steps import doing
from udx.runtime.arena import PlacedTensor, bytes_of, require_sound_memory
from udx.tensors import TensorSpec


def tensors(view_of: Mapping[str, str] | None = None, **offsets: int) -> dict[str, PlacedTensor]:
    """Tensors of 256 bytes."""
    views = view_of or {}
    return {
        name: PlacedTensor(name=name, dtype="int32", shape=(8, 8), offset=offset, view_of=views.get(name))
        for name, offset in offsets.items()
    }


def test_sound_programs_pass():
    steps = [doing("one", "a", "b"), doing("two", "b", "c", c="b"), doing("three", "v", "d")]
    require_sound_memory(tensors({"v": "c"}, a=0, b=256, c=256, v=256, d=512), ["a"], ["d"], steps)
    require_sound_memory(tensors({"v": "a"}, a=0, v=0), ["a"], ["v"], [])


@pytest.mark.parametrize(
    ("placed", "steps", "said"),
    [
        ({"a": 0, "b": 256, "c": 256, "d": 512}, [("one", "a", "b"), ("two", "a", "c"), ("three", "b", "d")],
         "three reads b, which two has overwritten"),
        ({"a": 0, "b": 256, "d": 512}, [("one", "b", "d")], "one reads b, which nothing has written"),
        ({"a": 0, "b": 0, "d": 256}, [("one", "a", "d"), ("two", "d", "b")],
         "the next frame reads a, which two has overwritten"),
        ({"a": 0, "d": 256, "b": 256}, [("one", "a", "d"), ("two", "a", "b")],
         "the caller reads d, which two has overwritten"),
        ({"a": 0, "d": 256}, [], "the caller reads d, which nothing has written"),
        ({"a": 0, "d": 0}, [("one", "a", "d")], "one writes d over a"),
        ({"a": 0, "b": 256, "d": 256}, [("one", "a", "b d")], "one writes b over d"),
    ],
)  # fmt: skip
def test_lost_tensors_are_named(placed, steps, said):
    with pytest.raises(ValueError, match=said):
        require_sound_memory(tensors(None, **placed), ["a"], ["d"], [doing(*step) for step in steps])


def test_what_is_written_in_place_is_where_it_says_and_its_original_is_gone():
    with pytest.raises(ValueError, match="two writes d in place of b, and the two lie apart"):
        steps = [doing("one", "a", "b"), doing("two", "b", "d", d="b")]
        require_sound_memory(tensors(None, a=0, b=256, d=512), ["a"], ["d"], steps)
    with pytest.raises(ValueError, match="three reads b, which two has overwritten"):
        steps = [doing("one", "a", "b"), doing("two", "b", "d", d="b"), doing("three", "b", "e")]
        require_sound_memory(tensors(None, a=0, b=256, d=256, e=512), ["a"], ["d"], steps)
    with pytest.raises(ValueError, match="three reads v, which two has overwritten"):
        steps = [doing("one", "a", "b"), doing("two", "b", "d", d="b"), doing("three", "v", "e")]
        require_sound_memory(tensors({"v": "b"}, a=0, b=256, v=256, d=256, e=512), ["a"], ["d"], steps)


def test_a_view_is_of_something_and_nobody_writes_it():
    for placed, view_of in (({"a": 0, "v": 256}, {"v": "a"}), ({"a": 0, "v": 0}, {"v": "x"})):
        with pytest.raises(ValueError, match="v is no view of"):
            require_sound_memory(tensors(view_of, **placed), ["a"], [], [])
    with pytest.raises(ValueError, match="w is no view of v"):
        require_sound_memory(tensors({"v": "a", "w": "v"}, a=0, v=0, w=0), ["a"], [], [])
    with pytest.raises(ValueError, match="one writes v, which is a view"):
        require_sound_memory(tensors({"v": "b"}, a=0, b=256, v=256), ["a"], [], [doing("one", "a", "v")])


@pytest.mark.parametrize("offset", [-256, 128, 64 * 2**30])
def test_places_that_are_none_are_refused(offset):
    with pytest.raises(ValueError, match=rf"x int32\[8, 8\] cannot lie at byte {offset}"):
        tensors(None, x=offset)


def test_sizes_are_those_of_the_types():
    assert bytes_of(TensorSpec("x", (3, 5), "bfloat16")) == 30
    assert bytes_of(TensorSpec("x", (), "int64")) == 8
    for shape, dtype in (((0,), "int32"), ((-1, 2), "int32"), ((1,), "float64"), ((1,), "object")):
        with pytest.raises(ValueError, match="cannot pass"):
            bytes_of(TensorSpec("x", shape, dtype))
