"""The networks that ship are whole, small, and say honestly what they are."""

from __future__ import annotations

import pytest
import torch

from koosh_models import weights
from koosh_models.metrics import psnr
from koosh_models.reconstruction import reconstruct
from koosh_models.scan import Geometry
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory
from koosh_models.training.recipe import Recipe

SHIPPED = weights.names()


def test_a_network_for_3d_radial_scans_ships():
    assert "radial3d" in SHIPPED


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


@pytest.mark.slow
def test_the_radial_network_is_chosen_for_its_scans_and_beats_conjugate_gradients():
    matrix = (48, 48, 48)
    body = phantom("head", matrix, seed=77)
    path, place = trajectory("radial3d", matrix, 12), Geometry(matrix, (240.0,) * 3)
    made = simulate(body.image, path, mask=body.mask, n_coils=8, noise=0.03, seed=5, geometry=place)
    learned = reconstruct(made.scan, "unrolled")
    assert learned.weights.startswith("radial3d ")
    assert bool(torch.isfinite(torch.view_as_real(learned.volume)).all())
    plain = reconstruct(made.scan, "cg", learned.maps)
    assert psnr(learned.volume, made.truth, made.mask) > psnr(plain.volume, made.truth, made.mask)
