"""Greedy learning: the chain is cut into modules, each trained on its own loss; no gradient crosses a cut.

Ozturkler et al. 2022 (GLEAM).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn

from koosh_models.losses import Objective, Target
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.strategy import (
    require_own_weights,
    settle,
    stage_chain,
    stage_parameters,
    trainable,
    volume,
)


def cuts(network: Unrolled, modules: int) -> list[range]:
    """The stages of each module: contiguous, as even as can be."""
    require_own_weights(network, "greedy")
    stages = network.dims.stages
    if not 1 <= modules <= stages:
        raise ValueError(f"{modules} modules for {stages} stages; wanted 1 to {stages}")
    edges = [round(m * stages / modules) for m in range(modules + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def module_parameters(network: Unrolled, stages: range) -> list[nn.Parameter]:
    """What a module trains; the conditioning of the network belongs to the first."""
    own = stage_parameters([network.stage(k) for k in stages])
    return [*own, *trainable(network.conditioning)] if network.conditioning is not None and 0 in stages else own


def run_module(network: Unrolled, problem: Problem, stages: range, x: Tensor, condition: Tensor | None) -> list[Tensor]:
    """The image after each stage of a module, under autograd; a condition reaches only the first module's gradient."""
    images = []
    if condition is not None and 0 not in stages:
        condition = condition.detach()
    for k in stages:
        x = network.stage(k)(problem, x, condition)
        images.append(x)
    return images


@dataclass(frozen=True)
class Greedy:
    """Memory: one module's graphs, and the image handed on.

    modules  as many as there are cuts plus one; each has an optimizer of its own
    """

    modules: int = 2
    objective: Objective = field(default_factory=Objective)

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group a module."""
        return [module_parameters(network, stages) for stages in cuts(network, self.modules)]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss of each module; gradients are added to `.grad`."""
        x, condition, losses = network.start(problem), network.condition(problem), []
        for stages in cuts(network, self.modules):
            images = run_module(network, problem, stages, x, condition)
            x = images[-1].detach()
            losses.append(settle(self.objective(images, target, stages.start + 1), problem))
            del images
        return losses

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`(K / modules) (graph + z [+ x]) + V`, of the longest module."""
        longest = max(len(stages) for stages in cuts(network, self.modules))
        return stage_chain(network, problem, longest) + volume(network, problem)
