"""Small things in an image that are there or not: inserted spots that it keeps, blobs that it invents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from koosh_models import metrics

DIAMETER = 4.0  # voxels, of the inserted spheres and of the blobs that count as invented
FAINTEST = 0.2  # contrast of the faintest inserted sphere
SMALLEST = 8  # voxels that an inserted spot changed at least
TISSUE = 0.25  # of the 99th percentile: what lies below is too dark to judge a blob's contrast in


@dataclass(frozen=True)
class Spot:
    """An inserted spot.

    contrast  largest change of the tissue that was there, as a share of it; negative where it became darker
    kept      share of the contrast that an image shows: 1 is all, 0 is none
    """

    contrast: float
    kept: float


def spots(image: Tensor, target: Tensor, plain: Tensor, mask: Tensor) -> list[Spot]:
    """Each inserted spot, and how much of it the image shows.

    The share that explains `|image| - |plain|` best by `|target| - |plain|` in each spot, both limited to the ball
    of k-space that is measured.

    plain  the target before anything was inserted
    """
    seen, wanted, _ = metrics.fitted(image, target, mask)
    before = plain.abs().double()
    change = in_ball(wanted - before)
    error = in_ball(seen - before)
    places = blobs((wanted - before).abs() > 0.05 * float(wanted.max()) * FAINTEST)
    out = []
    for place in places:
        energy = float(change[place].square().sum())
        if energy > 0 and len(place[0]) >= SMALLEST:
            ratio = (wanted[place] / before[place].clamp_min(1e-12)) - 1
            contrast = float(ratio[ratio.abs().argmax()])
            out.append(Spot(contrast, float((error[place] * change[place]).sum()) / energy))
    return out


def in_ball(image: Tensor) -> Tensor:
    """The image without the corners of k-space that no radial scan measures."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in image.shape]
    radius = sum(a.reshape([-1 if i == k else 1 for i in range(image.ndim)]).square() for k, a in enumerate(axes))
    assert isinstance(radius, Tensor)
    return torch.fft.ifftn(torch.fft.fftn(image) * (radius <= 0.25)).real


def invented(image: Tensor, target: Tensor, mask: Tensor) -> int:
    """Blobs of four voxels whose mean error exceeds half the faintest inserted contrast of the tissue around."""
    seen, wanted, inside = metrics.fitted(image, target, mask)
    kernel = ball(DIAMETER).to(wanted)
    around = mean_over(wanted, kernel)
    error = mean_over(seen - wanted, kernel).abs()
    bright = inside & (
        around > TISSUE * float(torch.quantile(wanted[inside][:: max(1, int(inside.sum()) // 10**6)], 0.99))
    )
    return len(blobs(bright & (error > 0.5 * FAINTEST * around)))


def ball(diameter: float) -> Tensor:
    """(z, y, x) weights of a sphere around the middle voxel, sum 1."""
    side = math.ceil(diameter) // 2 * 2 + 1
    t = torch.arange(side, dtype=torch.float64) - side // 2
    inside = (t[:, None, None] ** 2 + t[:, None] ** 2 + t**2 <= (diameter / 2) ** 2).double()
    return inside / inside.sum()


def mean_over(image: Tensor, kernel: Tensor) -> Tensor:
    """The mean over the kernel around each voxel."""
    sides = [n // 2 for n in kernel.shape]
    return functional.conv3d(image[None, None], kernel[None, None], padding=tuple(sides))[0, 0]


def blobs(mask: Tensor) -> list[tuple[Tensor, ...]]:
    """Indices of the voxels of each connected part (faces, edges, corners)."""
    labels = torch.where(mask, torch.arange(1, mask.numel() + 1).reshape(mask.shape).double(), 0.0)
    while True:  # each voxel takes the largest number around it until nothing changes
        spread = torch.where(mask, functional.max_pool3d(labels[None], 3, 1, 1)[0], 0.0)
        if torch.equal(spread, labels):
            break
        labels = spread
    return [torch.nonzero(labels == number, as_tuple=True) for number in torch.unique(labels).tolist() if number]
