"""What a regularizer declares about itself, and what its layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from koosh_models.networks.convolution import SLOPE


class Regularizer(Protocol):
    """The learned residual f of one stage: channels in, channels out, same axes; the stage adds the image itself.

    radius       voxels that an output depends on, each way, per axis
    stride       product of the down-samplings per axis: tiles start at its multiples
    activations  numbers saved for the backward pass per voxel (float32 or the precision of the stage)
    """

    radius: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def activations(self) -> float:
        """Numbers that autograd saves per voxel."""

    def __call__(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        """(channel, *axes) -> (channel, *axes)."""


def to_channels(image: Tensor, guide: Tensor | None) -> Tensor:
    """(2, *axes) real and imaginary part of a complex image, (1, *axes) of a real one; the guide's channels follow."""
    parts = torch.view_as_real(image).movedim(-1, 0) if image.is_complex() else image[None]
    return parts if guide is None else torch.cat([parts, guide.to(parts.dtype)])


def batched(channels: Tensor) -> Tensor:
    """(1, channel, *axes). A plain [None] has strides in which torch does not see that channels come last."""
    return channels.movedim(0, -1)[None].movedim(-1, 1)


def channels_last(axes: int) -> torch.memory_format:
    """What torch calls channels behind the axes of a slice or a volume."""
    return torch.channels_last_3d if axes == 3 else torch.channels_last


def to_image(channels: Tensor, like: Tensor) -> Tensor:
    """The image of these channels, complex or real as `like` is."""
    if not like.is_complex():
        return channels[0].to(like.dtype)
    return torch.view_as_complex(channels.movedim(0, -1).to(like.real.dtype).contiguous())


def shrink(layer: nn.Module, factor: float = 0.1) -> None:
    """Make a last layer small, not zero: with a zero one nothing before it receives a gradient at first."""
    with torch.no_grad():
        layer.weight.mul_(factor)  # type: ignore[operator]


class Film(nn.Module):
    """Scale and shift of each feature from the condition vector of the volume; the identity at first."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, 2 * features)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(1, feature, *axes) -> the same."""
        gain, shift = self.map(condition).view(2, 1, -1, *[1] * (features.ndim - 2))
        return features * (1 + gain) + shift


def activate(features: Tensor, film: nn.Module | None, condition: Tensor | None) -> Tensor:
    """Leaky ReLU after conditioning, in place: the convolution before it does not need its own output."""
    if film is not None and condition is not None:
        features = film(features, condition)
    return nn.functional.leaky_relu(features, SLOPE, inplace=True)


def films(width: int, features: Sequence[int]) -> nn.ModuleList | None:
    """One conditioning per layer, or None where the network is not conditioned."""
    return nn.ModuleList(Film(width, n) for n in features) if width else None
