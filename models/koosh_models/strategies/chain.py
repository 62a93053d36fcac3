"""All stages as one autograd function: images between stages come from `Boundaries`, graphs are one tile at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from koosh_models.networks import tiles
from koosh_models.networks.consistency import Linear
from koosh_models.networks.stage import Stage
from koosh_models.networks.tiles import Tile
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.physics.solve import Path
from koosh_models.strategies.strategy import stage_parameters


@dataclass(frozen=True, eq=False)
class Link:
    """A stage with what it runs on."""

    stage: Stage
    problem: Problem
    condition: Tensor | None
    tiles: Sequence[Tile]

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[Tensor, Path]:
        """The next image, no graph anywhere, and how a linear step found it."""
        z = tiles.regularize(self.stage, self.problem, x, self.condition, self.tiles)
        step = self.stage.consistency
        return step.value(self.problem, x, z) if isinstance(step, Linear) else (step(self.problem, x, z), ())


class Boundaries(Protocol):
    """Where the images between stages are while the chain runs forth and back."""

    def leave(self, k: int, link: Link, x: Tensor, out: Tensor) -> None:
        """Stage `k` has made `out` of `x`."""

    def held(self) -> list[Tensor]:
        """What autograd shall hold for the way back; called once, after the last stage."""

    def enter(self, k: int, link: Link, out: Tensor, held: Sequence[Tensor]) -> Tensor:
        """The input of stage `k`, whose output is `out`; called from the last stage to the first."""


@dataclass(frozen=True, eq=False)
class Chain:
    """The stages of a network over one measurement.

    every  return the image after each stage, not only the last
    """

    network: Unrolled
    problem: Problem
    tiles: Sequence[Tile]
    boundaries: Boundaries
    every: bool = False

    def __call__(self, start: Tensor) -> tuple[Tensor, ...]:
        """The images, under autograd."""
        condition = self.network.condition(self.problem)
        return _Chain.apply(self, start, condition, *stage_parameters(self.network.stages))  # type: ignore[no-untyped-call]

    def links(self, condition: Tensor | None) -> list[Link]:
        """The stages in order."""
        return [Link(stage, self.problem, condition, self.tiles) for stage in self.network.stages]


class _Chain(torch.autograd.Function):
    """Forward without a graph; backward stage by stage from the last."""

    @staticmethod
    def forward(
        ctx: Any, chain: Chain, start: Tensor, condition: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        x, images, ctx.paths = start, [], []
        for k, link in enumerate(chain.links(condition)):
            out, path = link.run(x)
            ctx.paths.append(path)
            chain.boundaries.leave(k, link, x, out)
            x = out
            if chain.every:
                images.append(out)
        ctx.chain, ctx.weights = chain, weights
        ctx.save_for_backward(condition, x, *chain.boundaries.held())
        return tuple(images) if chain.every else (x,)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        chain: Chain = ctx.chain
        condition, out, *held = ctx.saved_tensors
        sums = Sums(ctx.weights)
        grad = grads[-1] if grads[-1] is not None else torch.zeros_like(out)
        for k, link in reversed(list(enumerate(chain.links(condition)))):
            x = chain.boundaries.enter(k, link, out, held)
            grad = sums.pull(link, x, out, grad, ctx.paths[k])
            if chain.every and k and (more := grads[k - 1]) is not None:
                grad = grad + more
            out = x
        return None, None, sums.condition, *sums.weights()


class Sums:
    """Gradients of the weights and of the condition vector, summed over stages."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._order = weights
        self._total: dict[Tensor, Tensor] = {}
        self.condition: Tensor | None = None

    def weights(self) -> list[Tensor | None]:
        """In the order given."""
        return [self._total.get(w) for w in self._order]

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Add one stage's."""
        for weight, grad in zip(weights, grads, strict=True):
            if grad is not None and weight.requires_grad:
                self._total[weight] = self._total[weight].add_(grad) if weight in self._total else grad.clone()

    def pull(self, link: Link, x: Tensor, out: Tensor, grad: Tensor, path: Path) -> Tensor:
        """The gradient of a stage's input, from that of its output; what its weights get is added."""
        regularizer, step = link.stage.parts
        if isinstance(step, Linear):
            back = step.pull(link.problem, grad, path)
            to_x, to_z, probes = back.to_x, back.to_regularized, back.probes
        else:
            to_x, to_z = self._through(link, step, x, grad)
            probes = ()
        found = tiles.pull(link.stage, link.problem, x, link.condition, link.tiles, to_z, probes)
        if isinstance(step, Linear):
            self.add(list(step.parameters()), step.slopes(link.problem, grad, back, found.dots, x, out))
        self.add([p for p in regularizer.parameters() if p.requires_grad], found.parameters)
        if found.condition is not None:
            self.condition = found.condition if self.condition is None else self.condition + found.condition
        return found.x if to_x is None else found.x.add_(to_x)

    def _through(self, link: Link, step: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gradients through a step that is no linear one: its regularized image is made again, its graph is its own."""
        z = tiles.regularize(link.stage, link.problem, x, link.condition, link.tiles).requires_grad_()
        weights = [p for p in step.parameters() if p.requires_grad]
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            out = step(link.problem, start, z)
        to_x, to_z, *rest = torch.autograd.grad(out, [start, z, *weights], grad, allow_unused=True)
        self.add(weights, rest)
        return to_x, to_z if to_z is not None else torch.zeros_like(z)
