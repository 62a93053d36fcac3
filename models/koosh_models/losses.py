"""Training losses between an image and its target, complex or real; all are relative, so no scanner scale enters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.metrics import similarity

Loss = Callable[[Tensor, Tensor], Tensor]
Target = Tensor | Callable[[int], Tensor]


class NonFiniteLossError(ArithmeticError):
    """The loss is NaN or infinite: no gradients were left, and the last good checkpoint is the one to go back to."""


def relative_l2(image: Tensor, target: Tensor) -> Tensor:
    """`|image - target| / |target|` (Miller et al. 2023)."""
    return torch.linalg.vector_norm(image - target) / torch.linalg.vector_norm(target)


def relative_l1(image: Tensor, target: Tensor) -> Tensor:
    """Sum of the magnitudes of the complex error over that of the target."""
    return (image - target).abs().sum() / target.abs().sum()


def ssim_loss(image: Tensor, target: Tensor) -> Tensor:
    """`1 - SSIM` of the magnitudes over the whole image, range the target's peak."""
    wanted = target.abs()
    return 1 - similarity(image.abs(), wanted, float(wanted.max())).mean()


@dataclass(frozen=True)
class Sum:
    """A weighted sum of losses, itself a loss: `Sum(((1.0, relative_l2), (0.1, ssim_loss)))`."""

    parts: tuple[tuple[float, Loss], ...]

    def __call__(self, image: Tensor, target: Tensor) -> Tensor:
        """The sum."""
        return sum((weight * loss(image, target) for weight, loss in self.parts), start=image.real.new_zeros(()))


def target_after(target: Target, k: int) -> Tensor:
    """What the image after `k` stages (1, 2, ...) should be: the k-th target of a series, or the one image for all."""
    return target if isinstance(target, Tensor) else target(k)


@dataclass(frozen=True)
class Objective:
    """What a strategy minimizes: `loss` of the last image, plus `every` times the mean over the images before it."""

    loss: Loss = relative_l2
    every: float = 0.0

    def __call__(self, images: Sequence[Tensor], target: Target, first: int = 1) -> Tensor:
        """The loss of the images after stages `first`, `first` + 1, ...; only the last is used where `every` is 0."""
        last = first + len(images) - 1
        total = self.loss(images[-1], target_after(target, last))
        if self.every and len(images) > 1:
            early = [self.loss(x, target_after(target, first + k)) for k, x in enumerate(images[:-1])]
            total = total + self.every * torch.stack(early).mean()
        return total


def checked(loss: Tensor, name: str) -> Tensor:
    """The loss, if it is finite."""
    if not math.isfinite(value := float(loss.detach())):
        what = f"measurement {name!r}" if name else "this measurement"
        raise NonFiniteLossError(
            f"the loss of {what} is {value}: stop here and go back to the last good weights; "
            "look for NaN in its data, or lower the learning rate"
        )
    return loss
