"""The PET networks that ship, on patients that they never saw."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from koosh_models.baselines.pet import error, iterates, smoothed
from koosh_models.simulation.petset import Example
from koosh_models.training.pet import pet_set
from koosh_models.training.recipe import Recipe
from koosh_models.weights import load


def best_osem(example: Example) -> float:
    """The least error of OSEM, stopped or smoothed as is best for this scan."""
    voxel = example.projectors[0].geometry.voxel_mm
    images = list(islice(iterates(example.problem), 6 * example.problem.n_subsets))
    smooth = [smoothed(x, mm, voxel) for x in images[example.problem.n_subsets - 1 :: 12] for mm in (4.0, 6.0, 8.0)]
    return min(error(image, example.truth) for image in [*images, *smooth])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"),
    [("fbsem2d_mr", 0.85), ("fbsem2d", 1.0), ("fbsem3d", 1.0)],
)
def test_a_network_that_ships_beats_osem_tuned_for_each_scan(name: str, share: float) -> None:
    network, card = load(name)
    pet = Recipe.model_validate_json(card.recipe).data.pet
    assert pet is not None
    made = pet_set(pet, "", 77, "validation", "cpu")
    ours, theirs = 0.0, 0.0
    for example in made.take(2):
        with torch.no_grad():
            ours += error(network(example.problem), example.truth)
        theirs += best_osem(example)
    assert ours < share * theirs


def test_a_network_with_mr_refuses_a_scan_without() -> None:
    network, card = load("fbsem2d_mr")
    pet = Recipe.model_validate_json(card.recipe).data.pet
    assert pet is not None
    blind = replace(pet_set(pet, "", 77, "validation", "cpu").example(0).problem, guide=None)
    with pytest.raises(ValueError, match="takes 1 guide channel"):
        network(blind)
