"""The networks that ship are whole, small, and say honestly what they are."""

from __future__ import annotations

import pytest
import torch

from koosh_models import weights
from koosh_models.metrics import psnr
from koosh_models.reconstruction import reconstruct
from koosh_models.scan import Geometry
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import Simulated, simulate
from koosh_models.simulation.trajectories import trajectory
from koosh_models.training.recipe import Recipe

SHIPPED = weights.names()


def test_a_network_for_3d_radial_scans_ships():
    assert "radial3d" in SHIPPED


def test_a_network_for_cartesian_series_ships():
    assert "cine" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_whole_and_their_card_is_beside_them(name):
    path = weights.path_of(name)
    _, card = weights.verify(name)
    assert card.name == name
    assert weights.Card.model_validate_json(path.with_suffix(".json").read_text()) == card
    assert path.stat().st_size < 10_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_names_data_licences_recipe_and_its_peers(name):
    card = weights.read_card(name)
    assert card.data
    assert card.anatomy
    assert Recipe.model_validate_json(card.recipe).network == card.dims
    if "pet" not in card.accepts.families:
        assert {"gridding", "cg", "l1", "network"} <= {metric.method for metric in card.metrics}


def heart(family: str = "cine_cartesian", frames: int = 10, acceleration: float = 8) -> Simulated:
    matrix = (64, 64)
    body = phantom("cine", matrix, seed=77, n_frames=frames)
    path, place = trajectory(family, matrix, acceleration, 3, frames), Geometry(matrix, (240.0,) * 2)
    return simulate(body.image, path, mask=body.mask, n_coils=8, noise=0.02, seed=5, geometry=place)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"family": "cine_radial"}, "the trajectory is radial"),
        ({"acceleration": 16}, "acceleration"),
        ({"frames": 3}, "number of frames"),
    ],
)
def test_the_cine_network_takes_cartesian_series_and_says_why_not_others(change, reason):
    why = weights.read_card("cine").refuses(heart(**change).scan)
    assert why is None if reason is None else reason in why


def test_the_cine_network_refuses_a_volume():
    volume = simulate(phantom("head", (48, 48, 48)).image, trajectory("cartesian3d", (48, 48, 48), 8), n_coils=8)
    assert "a single image over 3 axes" in weights.read_card("cine").refuses(volume.scan)


@pytest.mark.slow
def test_the_cine_network_is_chosen_for_its_scans_and_beats_locally_low_rank():
    made = heart()
    learned = reconstruct(made.scan, "unrolled")
    assert learned.weights.startswith("cine ")
    assert learned.volume.shape == made.truth.shape
    plain = reconstruct(made.scan, "llr", learned.maps)
    assert psnr(learned.volume, made.truth, made.mask) > psnr(plain.volume, made.truth, made.mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name", "speed"),
    [("radial3d", "radial3d", 12), ("stack_of_stars", "radial3d", 8), ("cones", "radial3d", 8),
     ("cartesian3d", "knee3d", 8)],
)  # fmt: skip
def test_a_network_is_chosen_for_its_scans_and_beats_conjugate_gradients(family, name, speed):
    matrix = (48, 48, 48)
    body = phantom("head", matrix, seed=77)
    path, place = trajectory(family, matrix, speed), Geometry(matrix, (240.0,) * 3)
    made = simulate(body.image, path, mask=body.mask, n_coils=8, noise=0.03, seed=5, geometry=place)
    learned = reconstruct(made.scan, "unrolled")
    assert learned.weights.startswith(f"{name} ")
    assert bool(torch.isfinite(torch.view_as_real(learned.volume)).all())
    plain = reconstruct(made.scan, "cg", learned.maps)
    assert psnr(learned.volume, made.truth, made.mask) > psnr(plain.volume, made.truth, made.mask)
