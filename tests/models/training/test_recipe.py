"""A recipe is right, or the message names its line and the key that was meant."""

from __future__ import annotations

import pytest

from koosh_models.training.plan import parts
from koosh_models.training.recipe import FOLDER, parse, read, recipe_path
from koosh_models.training.toml import RecipeError, line_of
from tests.models.training.small import TEXT, recipe

SHIPPED = sorted(FOLDER.glob("*.toml"))


def line(text: str, start: str) -> int:
    return next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith(start))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("layers = 3", "layer = 3", "network has no 'layer', did you mean 'layers'?"),
        ("layers = 3", 'layers = "three"', "network.layers"),
        ("coils = [2, 3]", "coil = [2, 3]", "unknown key 'data.coil', did you mean 'coils'?"),
        ("coils = [2, 3]", "coils = [3, 2]", "3 to 2 is no interval"),
        ("accumulate = 2", "accumulate = 0", "training.accumulate: Input should be greater than or equal to 1"),
        ("steps = 3", "step = 3", "unknown key 'phases.1.step', did you mean 'steps'?"),
        ('phantoms = ["head"]', 'phantoms = ["heat"]', "unknown 'heat', did you mean 'head'?"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(before, after, message):
    text = TEXT.replace(before, after)
    with pytest.raises(RecipeError) as caught:
        parse(text, "mine.toml")
    assert message in str(caught.value)
    assert f"mine.toml line {line(text, after)}:" in str(caught.value)


def test_a_syntax_error_names_its_line():
    with pytest.raises(RecipeError, match="line 3"):
        parse('name = "a"\n\n[network\n', "mine.toml")


def test_a_missing_key_names_its_table():
    text = TEXT.replace('strategy = "blockwise"\n', "")
    with pytest.raises(RecipeError, match=r"mine.toml line \d+: phases.1.strategy"):
        parse(text, "mine.toml")


def test_an_unknown_strategy_and_an_unknown_option_name_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'blockwise'"):
        parts(recipe('phases.1.strategy="blockwize"'))
    with pytest.raises(RecipeError, match="blockwise has no 'tiles', did you mean 'tile'"):
        parts(recipe("phases.1.options={ tiles = 8 }"))


def test_a_pipeline_shares_no_volume():
    with pytest.raises(RecipeError, match="ranks of pipelined share no volume"):
        parts(recipe('phases.1.strategy="pipelined"', "phases.1.options={}", 'training.share="coils"'))


def test_axes_of_network_and_data_must_agree():
    with pytest.raises(RecipeError, match=r"network\.ndim is 2"):
        recipe("network.ndim=2")


def test_changes_reach_nested_tables_and_arrays():
    changed = recipe("phases.1.steps=9", "training.ema=0.5", 'data.phantoms=["knee"]', "name=other")
    assert (changed.phases[1].steps, changed.training.ema, changed.data.phantoms) == (9, 0.5, ("knee",))
    assert changed.name == "other"
    with pytest.raises(RecipeError, match="wanted key=value"):
        recipe("training.ema")


def test_lines_are_found_in_arrays_of_tables():
    assert line_of(TEXT, ("phases", 1, "options")) == f" line {line(TEXT, 'options')}"
    assert line_of(TEXT, ("nowhere", "at", "all")) == ""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_reads_at_every_size(path):
    sizes = [None, *read(path).sizes]
    assert {"small", "test"} <= set(sizes)
    for size in sizes:
        found = read(path, size=size)
        assert found.name == path.stem
        assert parts(found)[-1].last == found.steps


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean 'radial3d_blockwise'"):
        recipe_path("radial3d_blokwise")
