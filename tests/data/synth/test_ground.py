import numpy as np
import pytest
import torch

from udx.data.synth.ground import NOISE_CELLS, ground_surface, noise_texture, sample_noise
from udx.data.synth.street import KERB_M, LANE_WIDTH_M, Scene, make_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(np.random.default_rng(2), 1.0)


@pytest.fixture(scope="module")
def texture() -> torch.Tensor:
    return torch.tensor(noise_texture(3), dtype=torch.float32)


def surface(scene: Scene, texture: torch.Tensor, s: np.ndarray, d: float) -> tuple[torch.Tensor, torch.Tensor]:
    places = scene.road.to_scene(s, np.full_like(s, d))[:, :2]
    return ground_surface(scene, texture, torch.tensor(places, dtype=torch.float32), torch.full((len(s),), 5.0))


def test_noise_is_tileable_and_centred() -> None:
    noise = noise_texture(0)
    assert noise.shape == (NOISE_CELLS, NOISE_CELLS)
    assert abs(noise.mean()) < 0.02 and 0.4 < noise.std() < 0.55 and np.abs(noise).max() <= 1.5
    inside = np.abs(np.diff(noise, axis=0)).mean()
    seam = np.abs(noise[0] - noise[-1]).mean()
    assert seam < 2 * inside


def test_noise_repeats_beyond_its_edge(texture: torch.Tensor) -> None:
    x, y = torch.tensor([1.23, -4.56]), torch.tensor([7.0, 8.0])
    period = NOISE_CELLS * 0.25
    torch.testing.assert_close(sample_noise(texture, x, y, 0.25), sample_noise(texture, x + period, y - period, 0.25))


def test_the_middle_line_is_yellow_and_solid(scene: Scene, texture: torch.Tensor) -> None:
    albedo, paint = surface(scene, texture, np.linspace(-50, -40, 50), 0.14)
    assert (paint > 0.5).float().mean() > 0.95
    assert (albedo[:, 0] > 2 * albedo[:, 2]).float().mean() > 0.95


def test_lane_lines_are_dashed(scene: Scene, texture: torch.Tensor) -> None:
    far_from_crossings = np.linspace(-70, -34, 400)
    _, paint = surface(scene, texture, far_from_crossings, LANE_WIDTH_M)
    share = (paint > 0.5).float().mean()
    assert 0.25 < share < 0.42  # 3 m of 9
    flips = (paint[1:] > 0.5) != (paint[:-1] > 0.5)
    assert flips.sum() == 8  # four dashes in 36 m


def test_asphalt_is_darker_than_the_pavement(scene: Scene, texture: torch.Tensor) -> None:
    s = np.linspace(-60, -40, 100)
    road, _ = surface(scene, texture, s, 1.7)
    pavement, _ = surface(scene, texture, s, -KERB_M - 2)
    assert pavement.mean() > 2 * road.mean()


def test_a_crossing_has_stripes_across_the_whole_road(scene: Scene, texture: torch.Tensor) -> None:
    crossing = np.array([scene.crossings_s_m[0]])
    white = [float(surface(scene, texture, crossing, d)[1]) for d in np.arange(-6.6, 6.6, 0.6)]
    assert 8 <= sum(value > 0.5 for value in white) <= 14
