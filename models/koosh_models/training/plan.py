"""From the phases of a recipe to what happens at each step: strategy, stage, learning rate."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from koosh_models import strategies
from koosh_models.losses import Loss, Objective, Sum, relative_l1, relative_l2, ssim_loss
from koosh_models.physics.operator import inner
from koosh_models.physics.problem import LinearProblem
from koosh_models.strategies import Apart, Strategy
from koosh_models.training.recipe import Recipe
from koosh_models.training.tables import Phase, nearest
from koosh_models.training.toml import RecipeError
from koosh_models.training.warmstart import Warmstart

KNOWN: dict[str, Any] = {
    "warmstart": Warmstart,
    "backprop": strategies.Backprop,
    "checkpoint": strategies.Checkpoint,
    "blockwise": strategies.Blockwise,
    "invertible": strategies.Invertible,
    "greedy": strategies.Greedy,
    "pipelined": strategies.Pipelined,
    "sequential": strategies.Sequential,
    "equilibrium": strategies.Equilibrium,
}
STAGED = ("warmstart", "sequential")
"""Train one stage at a time; their phase is repeated for every stage."""


class Misfit:
    """The loss of self-supervised training: the distance to readouts that were held out.

    `|W^1/2 (A x - y)|^2 = <x, N x> - 2 Re<x, b> + |W^1/2 y|^2`; the last term is unknown and constant, so what is
    minimized is the rest over |b|.

    compared  the held-out readouts of the case that is trained on now; the loop sets it
    """

    def __init__(self) -> None:
        self.compared: LinearProblem | None = None

    def __call__(self, image: Tensor, target: Tensor) -> Tensor:
        """The loss; the target is not looked at."""
        if self.compared is None:
            raise ValueError("no readouts are held out: set data.split to a share, such as 0.2")
        b = self.compared.b
        value = inner(image, self.compared.normal(image)) - 2 * inner(image, b)
        return value / inner(b, b).clamp_min(1e-30)


@dataclass(frozen=True, eq=False)
class Part:
    """Steps `first` to `last` - 1 of the run, with one strategy and one set of optimizers.

    stage  the one trained, where the strategy trains one at a time
    """

    first: int
    last: int
    phase: Phase
    strategy: Strategy
    stage: int | None

    @property
    def apart(self) -> bool:
        """Whether each rank trains a part of the network of its own."""
        return isinstance(self.strategy, Apart)

    def enter(self) -> Strategy:
        """The strategy, set to this part's stage."""
        if self.stage is not None:
            self.strategy.stage = self.stage  # type: ignore[attr-defined]
        return self.strategy

    def rate(self, step: int) -> float:
        """The learning rate: a linear warm-up, then a cosine down to the last one."""
        done, total = step - self.first, self.last - self.first
        start = min(self.phase.warmup, total // 2)
        if done < start:
            return self.phase.rate * (done + 1) / start
        share = (done - start) / max(1, total - start)
        low = self.phase.last
        return self.phase.rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def parts(recipe: Recipe, misfit: Misfit | None = None) -> list[Part]:
    """The whole run in order; `misfit` is the loss where training is self-supervised."""
    out: list[Part] = []
    first = 0
    for number, phase in enumerate(recipe.phases):
        strategy = make(recipe, phase, number, misfit or Misfit())
        stages: list[int | None] = [None]
        if phase.strategy in STAGED and "stage" not in phase.options:
            stages = list(range(recipe.network.stages))
        shares = len(stages) - 1 + phase.lead  # the first stage counts `lead` times
        edges = [first, *(first + round((i + phase.lead) * phase.steps / shares) for i in range(len(stages)))]
        for stage, low, high in zip(stages, edges[:-1], edges[1:], strict=True):
            out.append(Part(low, high, phase, strategy, stage))
        first += phase.steps
    return out


def make(recipe: Recipe, phase: Phase, number: int, misfit: Misfit) -> Strategy:
    """The strategy of a phase; errors name the recipe's key."""
    if recipe.data.split and phase.strategy == "warmstart":
        raise RecipeError(
            f"phases.{number}: warmstart needs the truth; with data.split take sequential or greedy first"
        )
    if phase.strategy == "pipelined" and recipe.training.share == "coils":
        raise RecipeError(f'phases.{number}: the ranks of pipelined share no volume; set training.share = "volumes"')
    if phase.strategy not in KNOWN:
        raise RecipeError(
            f"phases.{number}.strategy is {phase.strategy!r}{nearest(phase.strategy, KNOWN)}; known: {', '.join(KNOWN)}"
        )
    kind = KNOWN[phase.strategy]
    known = [
        f.name for f in dataclasses.fields(kind) if f.init and not f.name.startswith("_") and f.name != "objective"
    ]
    for name in phase.options:
        if name not in known:
            raise RecipeError(
                f"phases.{number}.options: {phase.strategy} has no {name!r}{nearest(name, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in phase.options.items()}
    if "budget" in known and "budget" not in options:
        options["budget"] = recipe.training.memory_mb << 20
    return kind(objective=objective(recipe, misfit), **options)


def objective(recipe: Recipe, misfit: Misfit) -> Objective:
    """What every strategy of the recipe minimizes."""
    settings = recipe.training
    if recipe.data.split:
        return Objective(misfit, 0.0)
    loss: Loss = relative_l1 if settings.loss == "relative_l1" else relative_l2
    if settings.ssim:
        loss = Sum(((1.0, loss), (settings.ssim, ssim_loss)))
    return Objective(loss, settings.every)


def part_at(plan: list[Part], step: int) -> int:
    """Which part a step belongs to."""
    for index, part in enumerate(plan):
        if step < part.last:
            return index
    return len(plan) - 1
