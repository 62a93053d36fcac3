"""A small U-Net residual whose reach and grid are known, so that it can be tiled exactly."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from koosh_models.networks.convolution import convolution, convolved
from koosh_models.networks.regularizer import activate, batched, channels_last, films, shrink


class Unet(nn.Module):
    """One convolution per level down and up, means of 2^n voxels down, repetition up, features doubled per level.

    n_in, n_out  channels of input and output
    levels       down-samplings
    condition    width of the condition vector, 0 for none

    Sizes that are no multiple of 2^levels are continued by zeros at the far end, as the convolutions do.
    """

    def __init__(self, n_in: int, n_out: int, features: int, levels: int, ndim: int, condition: int = 0) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"{levels} levels; a U-Net has at least one")
        kernel = (3,) * ndim
        sizes = [features * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            convolution(n_in if level == 0 else sizes[level - 1], sizes[level], kernel) for level in range(levels + 1)
        )
        self.up = nn.ModuleList(
            convolution(sizes[level] + sizes[level + 1], sizes[level], kernel) for level in range(levels)
        )
        self.last = convolution(features, n_out, kernel)
        shrink(self.last)
        self.films = films(condition, [*sizes, *sizes[:-1]])
        self.radius = (reach(levels),) * ndim
        self.stride = (2**levels,) * ndim
        self.n_in, self.features, self.levels, self.ndim = n_in, features, levels, ndim

    @property
    def activations(self) -> float:
        """Numbers saved per voxel, levels below the first at their smaller share."""
        conditioned = 2 if self.films is not None else 1
        total = float(self.n_in)
        for level in range(self.levels + 1):
            n, share = self.features * 2**level, 2.0 ** (-self.ndim * level)
            halved = n / 2 if level else 0.0
            way_up = conditioned * n if level < self.levels else 0.0
            total += share * (halved + conditioned * n + way_up)
        return total

    @property
    def repeating(self) -> tuple[int, int]:
        """Weights that meet repeated voxels, and the numbers of the kernels that `merged` makes of them."""
        pairs = 2 * sum((self.features * 2**level) ** 2 for level in range(self.levels))
        return 3**self.ndim * pairs, 4**self.ndim * pairs

    def forward(self, channels: Tensor, condition: Tensor | None = None) -> Tensor:
        """(channel, *axes) -> (channel, *axes)."""
        x, skips = batched(self._padded(channels)), []
        for level, layer in enumerate(self.down):
            x = self._activate(layer(halved(x) if level else x), level, condition)
            skips.append(x)
        for level in reversed(range(self.levels)):
            joined = merged(x, skips[level], cast(nn.Conv3d, self.up[level]))
            x = self._activate(joined, self.levels + 1 + level, condition)
        inside = tuple(slice(n) for n in channels.shape[1:])
        return self.last(x)[(0, slice(None), *inside)]

    def _activate(self, features: Tensor, index: int, condition: Tensor | None) -> Tensor:
        return activate(features, None if self.films is None else self.films[index], condition)

    def _padded(self, channels: Tensor) -> Tensor:
        missing = [-n % s for n, s in zip(channels.shape[1:], self.stride, strict=True)]
        return functional.pad(channels, [p for m in reversed(missing) for p in (0, m)]) if any(missing) else channels


def halved(x: Tensor) -> Tensor:
    """Means of 2^n voxels, summed in float32 at least; unlike torch's pooling, nothing is saved for the way back."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.dtype != wide:
        return cast(Tensor, _Means.apply(x, wide))  # type: ignore[no-untyped-call]
    for axis in range(2, x.ndim):
        one, other = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]).unbind(axis + 1)
        x = one + other
    return x / 2 ** (x.ndim - 2)


class _Means(torch.autograd.Function):
    """The means of 16-bit volumes, which torch converts quickly only into strides that it is told."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wide: torch.dtype) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        first, *others = corners(x.ndim - 2)
        out = x[first].to(wide, memory_format=channels_last(x.ndim - 2))
        for corner in others:
            out.add_(x[corner])
        return out.mul_(0.5 ** (x.ndim - 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ndim = len(ctx.shape) - 2
        out = torch.empty(ctx.shape, dtype=ctx.dtype, device=grads[0].device, memory_format=channels_last(ndim))
        share = (grads[0] * 0.5**ndim).to(ctx.dtype)
        for corner in corners(ndim):
            out[corner] = share
        return out, None


def corners(ndim: int) -> list[tuple[slice, ...]]:
    """Of the 2^n voxels that become one, where each lies in (batch, channel, *axes)."""
    return [(slice(None), slice(None), *(slice(k, None, 2) for k in at)) for at in product((0, 1), repeat=ndim)]


def merged(coarse: Tensor, skip: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    """`layer` of the channels of `coarse`, each voxel repeated 2^n times, and those of `skip` behind them.

    The repeated volume is never formed: repeating and a kernel of 3 are together one transposed convolution with a
    kernel of 4 and a stride of 2, of which only 2^n taps meet each voxel.
    """
    weight, bias = layer.weight, layer.bias
    n, ndim = coarse.shape[1], coarse.ndim - 2
    kernel = weight[:, :n].transpose(0, 1)
    device = coarse.device.type
    if torch.is_autocast_enabled(device):
        # rounded before taps are added, so that rounded weights give the same
        kernel = kernel.to(torch.get_autocast_dtype(device)).to(weight.dtype)
    for axis in range(2, ndim + 2):
        kernel = repeated(kernel, axis)
    up = functional.conv_transpose2d if ndim == 2 else functional.conv_transpose3d
    return convolved(skip, weight[:, n:], bias).add_(up(coarse, kernel, stride=2, padding=1))


def repeated(kernel: Tensor, axis: int) -> Tensor:
    """A kernel of 3 along an axis as the transposed one of 4 over repeated voxels."""
    before, here, after = kernel.unbind(axis)
    return torch.stack([after, here + after, before + here, before], axis)


def reach(levels: int) -> int:
    """Voxels that an output of the U-Net depends on, each way: the indices of its deepest path, followed back."""
    farthest = 0
    for start in range(2**levels):
        low, high = start - 1, start + 1
        for _ in range(levels):
            low, high = (low - 1) // 2, (high + 1) // 2
        for _ in range(levels):
            low, high = 2 * (low - 1), 2 * (high + 1) + 1
        farthest = max(farthest, start - (low - 1), high + 1 - start)
    return farthest
