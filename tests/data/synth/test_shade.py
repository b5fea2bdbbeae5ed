import numpy as np
import pytest
import torch

from udx.data.synth.cast import Bundle, Pinhole, Posed, View, cast
from udx.data.synth.shade import DepthMap, contacts, far_eye, open_sky_map, photograph, scene_directions
from udx.data.synth.solids import Primitive, Solid, SolidArrays, turned
from udx.geometry.se3 import inverse

CPU = torch.device("cpu")
STEEP = np.array([0.6, 0.0, 0.8])


def sun_map(solids: list[Solid]) -> DepthMap:
    lattice, pose = far_eye(STEEP, np.zeros(3), cell_m=0.1, reach_m=10.0)
    bundle = Bundle([lattice], CPU)
    view = View(lattice, pose, np.tile(np.eye(4), (1, 1, 1)))
    hits = cast(bundle, Posed.of(SolidArrays.of([solids]), [view]))
    return DepthMap(lattice, inverse(pose), hits.distance_N.view(lattice.shape))


def test_a_column_shades_the_ground_on_the_side_away_from_the_sun() -> None:
    column = Solid(Primitive.BLOCK, (0.0, 0.0, 2.0), (0.5, 0.5, 2.0), (0, 0, 0))
    points = torch.tensor([[-1.5, 0, 0], [-3.0, 0, 0], [-4.2, 0, 0], [1.5, 0, 0], [-1.5, 1.0, 0], [0, 0, 4.0]])
    # The shadow of a top 4 m high reaches 4 · 0.6 / 0.8 = 3 m beyond the far edge at x = −0.5.
    assert sun_map([column]).lit_share(points).tolist() == pytest.approx([0, 0, 1, 1, 1, 1], abs=1e-6)


def test_outside_its_picture_everything_is_lit() -> None:
    ball = Solid(Primitive.BALL, (0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0, 0, 0))
    assert sun_map([ball]).lit_share(torch.tensor([[500.0, 0.0, 0.0]])).tolist() == [1.0]


def test_the_far_eye_looks_at_its_focus_from_above() -> None:
    focus = np.array([3.0, -2.0, 0.0])
    for to_eye in (STEEP, np.array([0.0, 0.0, 1.0])):
        lattice, pose = far_eye(to_eye, focus, 0.1, 10.0)
        np.testing.assert_allclose(pose @ inverse(pose), np.eye(4), atol=1e-9)
        np.testing.assert_allclose((inverse(pose) @ [*focus, 1.0])[:2], [0, 0], atol=1e-9)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
        assert lattice.shape[0] <= lattice.shape[1] + 40


@pytest.mark.parametrize("primitive", list(Primitive))
def test_normals_point_out_and_stand_on_the_surface(primitive: Primitive) -> None:
    taper = (0.4, 0.2, 0.3) if primitive is not Primitive.BALL else (0.0, 0.0, 0.0)
    solid = turned(Solid(primitive, (6.0, 0.0, 0.0), (1.5, 1.0, 2.0), (0, 0, 0), taper=taper), 0.3, 0.2, 0.7)
    camera = Pinhole((150.0, 150.0), (79.5, 79.5), (160, 160))
    pose = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    bundle = Bundle([camera], CPU)
    posed = Posed.of(SolidArrays.of([[solid]]), [View(camera, pose, np.tile(np.eye(4), (1, 1, 1)))])
    hits = cast(bundle, posed)
    rays = torch.nonzero(hits.solid_N >= 0).squeeze(1)
    directions = scene_directions(bundle, posed)
    seen = contacts(bundle, posed, hits, rays, directions)
    assert len(rays) > 100
    torch.testing.assert_close(seen.normal_M3.norm(dim=1), torch.ones(len(rays)))
    assert ((directions[rays] * seen.normal_M3).sum(1) < 1e-3).all()
    # Between two neighbouring hits on one smooth face one moves across the mean of their normals.
    first, second = seen.normal_M3[:-1], seen.normal_M3[1:]
    smooth = (rays[1:] == rays[:-1] + 1) & ((first * second).sum(1) > 0.995)
    step = (seen.point_M3[1:] - seen.point_M3[:-1])[smooth]
    tilt = (step * (first + second)[smooth] / 2).sum(1).abs() / step.norm(dim=1)
    assert smooth.sum() > 500
    assert tilt.quantile(0.95) < 0.01


def test_the_open_sky_is_dim_under_a_lorry_and_not_under_a_tree() -> None:
    depth = torch.full((40, 40), torch.inf)
    depth[5:15, 5:15] = 1000 - 2.5
    depth[25:35, 25:35] = 1000 - 6.0
    share = open_sky_map(depth)
    assert share[10, 10] < 0.2
    assert share[30, 30] == 1.0
    assert 0.3 < share[10, 15] < 1.0


def test_exposure_brightens_without_burning_out() -> None:
    radiance = torch.tensor([[0.0], [0.1], [0.4], [1.0]]).expand(4, 3)
    still = torch.zeros(4, 3)
    dim, bright = photograph(radiance, still, 0.7), photograph(radiance, still, 1.4)
    assert dim.dtype == torch.uint8
    assert (bright[1:].int() > dim[1:].int()).all()
    assert (dim[1:].int() - dim[:-1].int() > 0).all()
    assert dim[0].tolist() == [0, 0, 0]
