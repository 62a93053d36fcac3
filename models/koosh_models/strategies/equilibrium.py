"""Fixed-point training: the shared stage is run until its image stands still, and the gradient is that of one stage.

Deep equilibrium models with the Jacobian-free gradient (Bai et al. 2019, Gilton et al. 2021, Fung et al. 2022): a
descent direction, not the exact gradient of the fixed point.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from koosh_models.losses import Objective, Target
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.strategy import settle, stage_chain, stage_parameters, trainable, volume

log = logging.getLogger(__name__)


@dataclass
class Equilibrium:
    """Memory: one stage's graph, whatever the number of stages run.

    tolerance  relative change of the image below which it stands still
    limit      stages run at most
    run        stages run in the last step
    """

    tolerance: float = 1e-3
    limit: int = 30
    objective: Objective = field(default_factory=Objective)
    run: int = field(default=0, init=False)

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: all."""
        return [trainable(network)]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss at the fixed point; gradients are added to `.grad`."""
        x = self.settled(network, problem)
        image = network.stage(0)(problem, x, network.condition(problem))
        return [settle(self.objective([image], target, network.dims.stages), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`graph + z [+ x] + V`."""
        return stage_chain(network, problem, 1) + volume(network, problem)

    @torch.no_grad()
    def settled(self, network: Unrolled, problem: Problem) -> Tensor:
        """The image that the stage leaves as it is, to tolerance; logs where the limit came first."""
        if len(stage_parameters(network.stages)) > len(network.stage(0).parameters()):
            raise ValueError("equilibrium training repeats one stage: build the network with shared=True")
        x, condition, stage = network.start(problem), network.condition(problem), network.stage(0)
        for count in range(1, self.limit + 1):
            self.run = count
            before, x = x, stage(problem, x, condition)
            change = float(torch.linalg.vector_norm(x - before) / torch.linalg.vector_norm(x).clamp_min(1e-30))
            if change <= self.tolerance:
                break
        else:
            log.warning("equilibrium: after %d stages the image still changed by %.2g", self.limit, change)
        return x
