import numpy as np
import pytest

from udx.data.synth.solids import Primitive, Solid, SolidArrays, bounds_of, turned


def solid(primitive: Primitive, taper: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Solid:
    return Solid(primitive, (10.0, 20.0, 30.0), (2.0, 1.0, 0.5), (0.5, 0.5, 0.5), taper=taper)


@pytest.mark.parametrize("primitive", list(Primitive))
def test_upright_solids_fill_their_half_size(primitive: Primitive) -> None:
    low, high = solid(primitive).bounds_m()
    np.testing.assert_allclose(low, [8.0, 19.0, 29.5])
    np.testing.assert_allclose(high, [12.0, 21.0, 30.5])


def test_a_quarter_turn_swaps_the_extents() -> None:
    low, high = turned(solid(Primitive.BLOCK), yaw_rad=np.pi / 2).bounds_m()
    np.testing.assert_allclose(high - low, [2.0, 4.0, 1.0])


def test_a_positive_pitch_lowers_the_front() -> None:
    front = turned(solid(Primitive.BLOCK), pitch_rad=0.3).rotation_33 @ [1.0, 0.0, 0.0]
    np.testing.assert_allclose(front, [np.cos(0.3), 0.0, -np.sin(0.3)])


def test_the_bounds_of_a_leaning_ball_are_those_of_its_surface() -> None:
    ball = turned(solid(Primitive.BALL), pitch_rad=0.4, yaw_rad=0.7)
    unit = np.random.default_rng(0).standard_normal((200_000, 3))
    surface = unit / np.linalg.norm(unit, axis=1, keepdims=True) * ball.half_m @ ball.rotation_33.T + ball.centre_m
    low, high = ball.bounds_m()
    np.testing.assert_allclose(low, surface.min(axis=0), atol=1e-3)
    np.testing.assert_allclose(high, surface.max(axis=0), atol=1e-3)


def test_a_taper_draws_in_the_top_of_a_leaning_block() -> None:
    wedge = turned(solid(Primitive.BLOCK, (1.0, 0.0, 0.0)), pitch_rad=np.pi / 2)
    low, high = wedge.bounds_m()  # the top, half as long, now faces forward
    np.testing.assert_allclose([low[2], high[2]], [28.0, 32.0])
    np.testing.assert_allclose([low[0], high[0]], [9.5, 10.5])


def test_bounds_of_several_solids() -> None:
    other = Solid(Primitive.BALL, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0, 0, 0))
    low, high = bounds_of([solid(Primitive.BLOCK), other])
    np.testing.assert_allclose(low, [-1, -1, -1])
    np.testing.assert_allclose(high, [12, 21, 30.5])


def test_owners_count_the_objects() -> None:
    arrays = SolidArrays.of([[solid(Primitive.BLOCK)] * 2, [], [solid(Primitive.BALL)]])
    assert arrays.owner_S.tolist() == [0, 0, 2]
    assert arrays.primitive_S.tolist() == [0, 0, 2]
