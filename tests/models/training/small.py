"""A recipe of seconds that the tests of training share."""

from __future__ import annotations

from koosh_models.training.recipe import Recipe, parse

TEXT = """
name = "small"

[network]
stages = 2
features = 4
layers = 3
cg_steps = 2
start_steps = 2

[data]
phantoms = ["head"]
matrix = [[12, 12, 12]]
coils = [2, 3]
cases = 2
validation_cases = 1
validation_coils = 2

[[phases]]
strategy = "warmstart"
steps = 4
warmup = 1

[[phases]]
strategy = "blockwise"
steps = 3
warmup = 1
options = { tile = 8 }

[training]
save_every = 2
validate_every = 100
accumulate = 2
"""


def recipe(*changes: str) -> Recipe:
    return parse(TEXT, "small.toml", list(changes))
