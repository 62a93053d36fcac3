"""Plain convolutional residuals: isotropic for volumes and slices, space then time for cine."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from koosh_models.networks.convolution import convolution
from koosh_models.networks.regularizer import activate, batched, films, shrink


class Cnn(nn.Module):
    """A chain of convolutions with leaky ReLUs between them; what the kernels are decides space or space-time.

    n_in, n_out  channels of input and output
    kernels      one per layer, each over all axes
    condition    width of the condition vector, 0 for none
    """

    def __init__(
        self, n_in: int, n_out: int, features: int, kernels: Sequence[Sequence[int]], condition: int = 0
    ) -> None:
        super().__init__()
        if len(kernels) < 2:
            raise ValueError(f"{len(kernels)} layer(s); a residual needs at least two")
        sizes = [n_in, *[features] * (len(kernels) - 1), n_out]
        self.layers = nn.ModuleList(
            convolution(a, b, k) for a, b, k in zip(sizes[:-1], sizes[1:], kernels, strict=True)
        )
        shrink(self.layers[-1])
        self.films = films(condition, sizes[1:-1])
        self.radius = tuple(sum(k[axis] // 2 for k in kernels) for axis in range(len(kernels[0])))
        self.stride = (1,) * len(self.radius)
        self.n_in, self.features = n_in, features

    @property
    def activations(self) -> float:
        """Numbers saved per voxel: the input and what every activation gives (twice where conditioned)."""
        hidden = len(self.layers) - 1
        return self.n_in + hidden * self.features * (2 if self.films is not None else 1)

    def forward(self, channels: Tensor, condition: Tensor | None = None) -> Tensor:
        """(channel, *axes) -> (channel, *axes)."""
        x = batched(channels)
        for index, layer in enumerate(self.layers[:-1]):
            x = activate(layer(x), None if self.films is None else self.films[index], condition)
        return self.layers[-1](x)[0]


def residual_cnn(n_in: int, n_out: int, features: int, layers: int, ndim: int, condition: int = 0) -> Cnn:
    """3^ndim kernels throughout: slices (2) or volumes (3)."""
    return Cnn(n_in, n_out, features, [(3,) * ndim] * layers, condition)


def space_time_cnn(n_in: int, n_out: int, features: int, layers: int, condition: int = 0) -> Cnn:
    """(2+1)D for (frame, y, x): each layer a kernel in space, then one in time (Tran et al. 2018)."""
    return Cnn(n_in, n_out, features, [(1, 3, 3), (3, 1, 1)] * layers, condition)
