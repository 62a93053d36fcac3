"""Small Cartesian measurements of slices, volumes and cine: exact, quick, in any precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from koosh_models.physics.problem import LinearProblem
from tests.properties import random_complex

SHAPES = {"2d": (14, 11), "3d": (10, 13, 9), "cine": (8, 11, 12)}


def coil_maps(n_coils: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Smooth complex maps, unit root-sum-of-squares."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    maps = []
    for coil in range(n_coils):
        angle = 2 * math.pi * coil / n_coils
        centre = torch.zeros(len(shape), dtype=torch.float64)
        centre[-1], centre[-2] = 1.2 * math.cos(angle), 1.2 * math.sin(angle)
        away = (grid - centre.view(-1, *[1] * len(shape))).square().sum(0)
        maps.append(torch.polar(torch.exp(-away / 2), grid[-1] * (coil + 1) / 2 + angle))
    stack = torch.stack(maps)
    return (stack / stack.abs().square().sum(0).sqrt()).to(dtype)


def cartesian(
    kind: str = "3d",
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
    n_coils: int = 3,
    kept: float = 0.5,
    dtype: torch.dtype = torch.complex64,
) -> tuple[LinearProblem, Tensor]:
    """A problem whose normal operator is `sum_c S_c^H F^H M F S_c`, and the image it was made of."""
    shape = SHAPES[kind] if shape is None else shape
    drawn = torch.Generator().manual_seed(seed)
    space = (-2, -1) if kind == "cine" else tuple(range(-len(shape), 0))
    maps = coil_maps(n_coils, shape[1:], dtype)[:, None] if kind == "cine" else coil_maps(n_coils, shape, dtype)
    mask = torch.rand(shape, generator=drawn) < kept
    mask[(..., *(slice(0, 2) for _ in space))] = True

    def normal(x: Tensor) -> Tensor:
        kspace = torch.fft.fftn(maps * x, dim=space, norm="ortho") * mask
        return (maps.conj() * torch.fft.ifftn(kspace, dim=space, norm="ortho")).sum(0)

    truth = smooth(random_complex(shape, seed + 1, torch.complex128)).to(dtype)
    noise = 0.02 * normal(random_complex(shape, seed + 2, dtype))
    b = normal(truth) + noise
    return LinearProblem(normal, b, scale=float(truth.abs().max())), truth


def smooth(image: Tensor) -> Tensor:
    """The image with its high frequencies damped."""
    kspace = torch.fft.fftn(image)
    for axis, n in enumerate(image.shape):
        damp = torch.exp(-((torch.fft.fftfreq(n) * 6) ** 2))
        kspace = kspace * damp.view([-1 if a == axis else 1 for a in range(image.ndim)])
    return torch.fft.ifftn(kspace)
