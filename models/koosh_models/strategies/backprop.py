"""Ordinary backpropagation through the whole chain: every graph of every stage is held."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from koosh_models.losses import Objective, Target
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.strategy import settle, stage_chain, stage_parameters, trainable, volume


@dataclass(frozen=True)
class Backprop:
    """Memory: K stages' graphs and images.

    last  truncated: only so many of the last stages are trained, those before them run without a graph
    """

    objective: Objective = field(default_factory=Objective)
    last: int | None = None

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: all, or those of the last stages."""
        kept = self._kept(network)
        if kept == network.dims.stages:
            return [trainable(network)]
        conditioning = [] if network.conditioning is None else trainable(network.conditioning)
        return [[*stage_parameters(network.stages[-kept:]), *conditioning]]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss; gradients are added to `.grad`."""
        kept = self._kept(network)
        x, condition, images = network.start(problem), network.condition(problem), []
        for k, stage in enumerate(network.stages):
            with torch.set_grad_enabled(k >= network.dims.stages - kept):
                x = stage(problem, x, condition)
            images.append(x)
        first = network.dims.stages - kept
        return [settle(self.objective(images[first:], target, first + 1), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`K (graph + z [+ x]) + V`."""
        return stage_chain(network, problem, self._kept(network)) + volume(network, problem)

    def _kept(self, network: Unrolled) -> int:
        return network.dims.stages if self.last is None else min(self.last, network.dims.stages)
