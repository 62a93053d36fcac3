"""What a training strategy offers, and the arithmetic of memory that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from koosh_models.losses import Target, checked
from koosh_models.networks.consistency import Linear
from koosh_models.networks.stage import Stage
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem


class Strategy(Protocol):
    """A way to compute gradients. The training loop knows these three and no strategy by name."""

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """Groups of parameters trained now, one optimizer each."""

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The losses; gradients are added to `.grad`."""

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """Bytes that autograd holds at the peak of a step: stored images and the largest graph."""


@runtime_checkable
class Apart(Protocol):
    """A strategy whose ranks each train a part of the network of their own, on the same measurements."""

    def flush(self) -> None:
        """Wait until others have what was sent to them."""


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Parameters that take gradients."""
    return [p for p in network.parameters() if p.requires_grad]


def stage_parameters(stages: Sequence[Stage]) -> list[nn.Parameter]:
    """Trainable parameters of these stages, each once."""
    return list(dict.fromkeys(p for stage in stages for p in stage.parameters()))


def settle(loss: Tensor, problem: Problem) -> float:
    """The value of a finite loss, after its backward pass."""
    checked(loss, getattr(problem, "name", "")).backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def volume(network: Unrolled, problem: Problem) -> int:
    """Bytes of one image, V."""
    return math.prod(problem.shape) * real_size(network) * network.dims.channels


def real_size(network: Unrolled) -> int:
    """Bytes of one real number of an image: that of the weights."""
    return next(network.parameters()).element_size()


def graph(network: Unrolled, voxels: int) -> int:
    """Bytes that autograd holds of one regularizer over so many voxels, kernels made from its weights included."""
    regularizer = network.stage(0).regularizer
    size = real_size(network) if network.dims.precision == "fp32" else 2
    return round(voxels * size * regularizer.activations) + copies(network)


def copies(network: Unrolled) -> int:
    """Bytes of the kernels that autograd holds of one regularizer besides its weights: derived ones, 16-bit copies."""
    regularizer = network.stage(0).parts[0]
    repeating = tuple(getattr(regularizer, "repeating", (0, 0)))
    if network.dims.precision == "fp32":
        return repeating[1] * real_size(network)
    plain = sum(p.numel() for p in regularizer.parameters() if p.ndim > 1)
    return 2 * (plain - repeating[0] + repeating[1])


def stage_chain(network: Unrolled, problem: Problem, stages: int) -> int:
    """Bytes that ordinary autograd holds of so many stages: graphs, regularized images, and iterates where needed."""
    step = network.stage(0).consistency
    if isinstance(step, Linear):
        volumes = stages + ("out" in step.needs or "x" in step.needs) * stages + len(step.needs) // 2
    else:
        volumes = stages * int(getattr(step, "saved", 2))
    return stages * graph(network, math.prod(problem.shape)) + volumes * volume(network, problem)


def require_own_weights(network: Unrolled, strategy: str) -> None:
    """Refuse a network whose stages share any weight, where stages are trained apart."""
    each = sum(len(stage.parameters()) for stage in network.stages)
    if each > len(stage_parameters(network.stages)):
        raise ValueError(f"{strategy} training needs weights of their own for each stage; build with shared=False")
