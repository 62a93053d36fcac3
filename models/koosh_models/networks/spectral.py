"""A bound on how much a plain convolutional residual can stretch a difference, and what keeps residuals below one."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from koosh_models.networks.cnn import Cnn

GRID = 12  # frequencies per axis at which a kernel is looked at


@torch.no_grad()
def convolution_bound(weight: Tensor) -> float:
    """Upper bound of the operator norm of a stride-1 convolution of any size with zeros around it.

    weight  (out, in, *kernel). The norm is at most the supremum over frequencies of the transfer matrix's; that is a
    trigonometric polynomial of degree kernel//2 per axis, which exceeds its maximum over GRID points by at most
    1 / cos(pi degree / GRID) per axis (Ehlich and Zeller 1964).
    """
    kernel = weight.shape[2:]
    axes = tuple(range(2, weight.ndim))
    transfer = torch.fft.rfftn(weight, s=[GRID] * len(kernel), dim=axes)
    matrices = transfer.flatten(2).permute(2, 0, 1)
    largest = float(torch.linalg.matrix_norm(matrices, ord=2).max())
    return largest / math.prod(math.cos(math.pi * (k // 2) / GRID) for k in kernel)


def bounds(regularizer: nn.Module) -> list[float]:
    """The bound of each layer of a plain chain; leaky ReLUs stretch nothing, so their product bounds the whole."""
    if not isinstance(regularizer, Cnn) or regularizer.films is not None:
        raise ValueError(
            "a Lipschitz bound is known for unconditioned chains of convolutions only (cnn, spacetime), "
            f"not for {type(regularizer).__name__}{'' if not isinstance(regularizer, Cnn) else ' with conditioning'}"
        )
    return [convolution_bound(cast(Tensor, layer.weight)) for layer in regularizer.layers]


@torch.no_grad()
def project(regularizer: nn.Module, limit: float) -> float:
    """Scale all layers alike where their bound exceeds `limit`; the bound that holds afterwards."""
    bound = math.prod(found := bounds(regularizer))
    if bound <= limit:
        return bound
    assert isinstance(regularizer, Cnn)
    for layer in regularizer.layers:
        cast(Tensor, layer.weight).mul_((limit / bound) ** (1 / len(found)))
    return limit


@torch.no_grad()
def scale(regularizer: nn.Module, factor: float) -> None:
    """Scale what a residual gives: its last layer."""
    last = regularizer.layers[-1] if isinstance(regularizer, Cnn) else regularizer.last
    for weight in cast(nn.Module, last).parameters():
        weight.mul_(factor)
