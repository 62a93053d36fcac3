"""What a run begins with: the network's weights, and an optimizer for each group that a strategy trains."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from koosh_models.networks.unrolled import Unrolled, build
from koosh_models.training.recipe import Recipe
from koosh_models.weights import verify

SCALARS = 20.0  # Adam moves a parameter by about its rate a step: a logarithm has further to go than a kernel's entries

FREE = (
    "start",
    "start_steps",
    "cg_steps",
    "cg_early",
    "cg_tolerance",
    "cg_near",
    "step",
    "lam",
    "gamma",
    "precision",
    "upright",
)
"""What may differ where a training goes on from weights: it changes no weight's shape, and learned ones stay."""


def begun(recipe: Recipe) -> Unrolled:
    """The network before the first step: drawn from torch's generator, or that of weights to go on with."""
    network = build(recipe.network)
    if recipe.training.init:
        state, card = verify(recipe.training.init)
        if replace(card.dims, **{key: getattr(recipe.network, key) for key in FREE}) != recipe.network:
            raise ValueError(
                f"training.init names {card.name}, a network of {card.dims}; the recipe's is {recipe.network} "
                f"(only {', '.join(FREE)} may differ)"
            )
        network.load_state_dict(state)
    return network


def adam(group: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam for one group; its scalars (logarithms of lambda and step) take longer steps than its kernels."""
    kinds = [([p for p in group if p.ndim > 0], 1.0), ([p for p in group if p.ndim == 0], SCALARS)]
    return torch.optim.Adam([{"params": params, "share": share} for params, share in kinds if params])
