"""Checkpointing per stage: only the images between stages are held, each stage is run again on the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from koosh_models.losses import Objective, Target
from koosh_models.networks.stage import Stage
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.strategy import settle, stage_chain, trainable, volume


class _Again(torch.autograd.Function):
    """A stage that saves its input and is recomputed, consistency included, when its gradient is asked for."""

    @staticmethod
    def forward(
        ctx: Any, stage: Stage, problem: Problem, x: Tensor, condition: Tensor | None, *weights: Tensor
    ) -> Tensor:
        ctx.stage, ctx.problem, ctx.weights = stage, problem, weights
        ctx.save_for_backward(x, condition)
        return stage(problem, x, condition)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, condition = ctx.saved_tensors
        with torch.enable_grad():
            part = x.detach().requires_grad_()
            vector = None if condition is None else condition.detach().requires_grad_()
            out = ctx.stage(ctx.problem, part, vector)
        wanted = [part, *([] if vector is None else [vector]), *ctx.weights]
        gx, *rest = torch.autograd.grad(out, wanted, grads[0], allow_unused=True)
        return None, None, gx, *([None] if vector is None else []), *rest


@dataclass(frozen=True)
class Checkpoint:
    """Memory: K images and one stage's graph, for one more pass through network and consistency."""

    objective: Objective = field(default_factory=Objective)

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: all."""
        return [trainable(network)]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss; gradients are added to `.grad`."""
        x, condition, images = network.start(problem), network.condition(problem), []
        for stage in network.stages:
            x = _Again.apply(stage, problem, x, condition, *stage.parameters())  # type: ignore[no-untyped-call]
            images.append(x)
        return [settle(self.objective(images, target), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`K V` and one stage as ordinary autograd holds it, less its input, which is one of the K."""
        shared = "x" in getattr(network.stage(0).consistency, "needs", ())
        return (network.dims.stages - shared) * volume(network, problem) + stage_chain(network, problem, 1)
