"""Every recipe that ships trains at its test size, to finite weights that differ from where they began."""

from __future__ import annotations

import pytest
import torch

from koosh_models import weights
from koosh_models.networks.unrolled import build
from koosh_models.training import export
from koosh_models.training.distributed import Ranks
from koosh_models.training.loop import Run
from koosh_models.training.recipe import FOLDER, read
from koosh_models.training.report import of_run
from koosh_models.training.validate import score

SHIPPED = sorted(FOLDER.glob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_recipe_trains_at_its_test_size(path, tmp_path):
    recipe = read(path, size="test")
    run = Run(recipe, tmp_path, tmp_path / "cases", Ranks(), torch.device("cpu"))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    outcome = run.train()
    assert outcome.step == recipe.steps
    assert outcome.metrics["psnr"] > 10
    torch.manual_seed(recipe.training.seed)
    begun = build(recipe.network).state_dict()
    network, _, step = export.network_of(tmp_path)
    assert step == recipe.steps
    assert any(not torch.equal(begun[k], v) for k, v in network.state_dict().items())
    case, problem = run.cases()[0]
    found = score(case, problem, "network", network)
    card = weights.save(tmp_path / "out.safetensors", network, export.card_of(recipe, "out", step, [found], "held out"))
    again, _ = weights.load(tmp_path / "out.safetensors")
    with torch.no_grad():
        assert torch.equal(again(problem), network(problem))
    if recipe.data.pet is not None:
        assert card.accepts.refuses_pet(recipe.data.pet.geometry) is None
    else:
        assert card.refuses(case.scan) is None
    assert "data:image/png" in of_run(tmp_path, [found], [case])
