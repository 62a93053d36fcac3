"""PET networks from their recipes, through the loop that trains all networks."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch

from koosh_models.networks.unrolled import build
from koosh_models.strategies.sequential import Sequential
from koosh_models.training import checkpoint
from koosh_models.training.distributed import Ranks
from koosh_models.training.estimate import needs
from koosh_models.training.export import credits_of
from koosh_models.training.feed import fetch
from koosh_models.training.loop import Run
from koosh_models.training.plan import parts
from koosh_models.training.recipe import Recipe, read, recipe_path
from koosh_models.training.toml import RecipeError
from koosh_models.training.validate import compare

CPU = torch.device("cpu")
NAMES = ("fbsem2d", "fbsem2d_mr", "fbsem3d", "fbsem3d_deep")


def recipe(name: str, *changes: str, size: str = "test") -> Recipe:
    return read(recipe_path(name), list(changes), size)


@pytest.mark.parametrize("name", NAMES)
def test_every_pet_recipe_trains_at_its_test_size(tmp_path, name):
    outcome = Run(recipe(name), tmp_path, None, Ranks(), CPU).train()
    assert not outcome.stopped
    assert outcome.metrics["nrmse"] < 1.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Run(recipe("fbsem2d_mr"), tmp_path_factory.mktemp("whole"), None, Ranks(), CPU).train()


@pytest.mark.parametrize("stop_at", [3, 12, 15])
def test_a_run_stopped_inside_or_between_stages_ends_with_the_same_bits(tmp_path, whole, stop_at):
    first = Run(recipe("fbsem2d_mr"), tmp_path / "cut", None, Ranks(), CPU)

    def interrupt(step: int, loss: float) -> None:
        if step == stop_at:
            first.stop(signal.SIGTERM, None)

    assert first.train(interrupt).stopped
    again = Run(recipe("fbsem2d_mr"), tmp_path / "cut", None, Ranks(), CPU)
    again.resume(checkpoint.newest(again.saves, again.print))
    resumed, wanted = (checkpoint.read(o.checkpoint).network for o in (again.train(), whole))
    assert all(torch.equal(resumed[n], wanted[n]) for n in wanted)


def test_the_first_stage_takes_its_lead_and_the_others_start_from_the_one_before(tmp_path):
    found = recipe("fbsem2d_mr", "phases.0.steps=20", "network.stages=3")
    edges = [(part.stage, part.first, part.last) for part in parts(found)]
    assert edges == [(0, 0, 12), (1, 12, 16), (2, 16, 20)]
    run = Run(found, tmp_path, None, Ranks(), CPU)
    run.step = 12
    run._enter(run.plan[1])
    pairs = zip(run.network.regularizers[0].parameters(), run.network.regularizers[1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_stages_have_their_own_targets_where_the_recipe_says_iterates():
    case = fetch(recipe("fbsem2d_mr", "data.pet.targets='iterates'").data, None, "training", 0)
    goal = case.goal(CPU)
    assert not isinstance(goal, torch.Tensor)
    error = [float((goal(k) - case.target).norm()) for k in (1, 4, 16)]
    assert error[0] > error[1] > error[2]


def test_held_out_patients_are_others_and_cases_are_reproducible():
    data = recipe("fbsem2d").data
    one, again, held = (fetch(data, None, s, 1) for s in ("training", "training", "validation"))
    assert torch.equal(one.example.scan.counts, again.example.scan.counts)
    assert not torch.equal(one.target, held.target)


def test_the_memory_foretold_is_that_of_one_stage_whatever_the_depth():
    for stages in (2, 6):
        found = recipe("fbsem2d_mr", f"network.stages={stages}")
        with torch.device("meta"):
            network = build(found.network)
        problem = fetch(found.data, None, "training", 0).problem()
        assert {need.activations for need in needs(found)} == {Sequential().memory(network, problem)}


def test_the_network_is_compared_with_tuned_osem_and_map_em():
    found = recipe("fbsem2d_mr", "network.gamma=0.0")
    cases = [fetch(found.data, None, "validation", 0)]
    network = build(found.network)
    scores = {s.method: s.values["nrmse"] for s in compare(cases, ["osem", "map"], {"network": network})}
    assert scores["osem"] <= scores["network"]
    assert scores["map"] < 1.0
    with pytest.raises(ValueError, match="for PET: osem, map"):
        compare(cases, ["cg"], {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("network.guides=0", "network.guides is 0"),
        ("network.subsets=7", "network.subsets is 7"),
        ("network.consistency='cg'", "needs 'em'"),
        ("data.pet.first=3", "network.start_steps"),
        ("data.pet.counts=[1e6, 1e5]", "no interval"),
        ("data.pet.phantoms=['knee']", "known: head, chest"),
        ("data.pet.sizes=3", "unknown key"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        recipe("fbsem2d_mr", change)


def test_the_card_names_what_the_network_was_trained_on(tmp_path):
    found = recipe("fbsem2d_mr")
    assert credits_of(found.data) == ("head (phantom)", "chest (phantom)")
    meta = {"contrast": "labels", "split": "train", "source_repo": "owner/maps", "licence": "MIT"}
    for name, split in (("labels_a", "train"), ("labels_b", "validation")):
        np.savez(
            tmp_path / f"{name}.npz", image=np.ones((4, 4, 4), np.uint16), spacing_mm=(1.0, 1.0, 1.0), scale=1.0,
            meta=json.dumps({**meta, "name": name, "subject": name, "split": split}),
        )  # fmt: skip
    with_maps = recipe("fbsem2d_mr", f"data.volumes='{tmp_path}'")
    assert credits_of(with_maps.data)[0] == "labels_a (owner/maps, MIT)"
    assert not any("labels_b" in line for line in credits_of(with_maps.data))
