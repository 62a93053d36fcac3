"""The measurements of the seed benchmarks: anatomies that ship as code, loop coils, two per cent noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.calibration.density import pipe_menon
from koosh_models.physics import toeplitz
from koosh_models.physics.mri import robust_scale
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.problem import LinearProblem
from koosh_models.physics.sense import SenseNormal, SmoothMaps
from koosh_models.simulation.cartesian import kt_lines, poisson_disc
from koosh_models.simulation.coils import loop_maps
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.trajectories import radial3d

NOISE = 0.02


@dataclass(frozen=True, eq=False)
class Case:
    """A measurement, its truth and the object's mask."""

    problem: LinearProblem
    truth: Tensor
    mask: Tensor


def cartesian(anatomy: str, shape: tuple[int, ...], acceleration: float, n_coils: int, seed: int) -> Case:
    """Cartesian SENSE: Poisson-disc phase encodes of a volume, random lines of a slice, k-t lines of a cine."""
    series = anatomy == "cine"
    matrix = shape[1:] if series else shape
    made = phantom(anatomy, matrix, seed, shape[0] if series else 16)
    maps = loop_maps(matrix, n_coils, seed)
    mask = sampling(anatomy, shape, acceleration, seed)
    if series:
        maps = maps[:, None]
    space = tuple(range(-len(matrix), 0))

    def normal(x: Tensor) -> Tensor:
        kspace = torch.fft.fftn(maps * x, dim=space, norm="ortho") * mask
        return (maps.conj() * torch.fft.ifftn(kspace, dim=space, norm="ortho")).sum(0)

    drawn = torch.Generator().manual_seed(seed + 10**6)
    sigma = NOISE * 2**0.5 * float(made.image.abs()[made.mask].mean())
    noise = sigma * torch.randn(n_coils, *shape, dtype=torch.complex64, generator=drawn)
    kspace = (torch.fft.fftn(maps * made.image, dim=space, norm="ortho") + noise) * mask
    b = (maps.conj() * torch.fft.ifftn(kspace, dim=space, norm="ortho")).sum(0)
    return Case(LinearProblem(normal, b, robust_scale(b), name=f"{anatomy} {seed}"), made.image, made.mask)


def sampling(anatomy: str, shape: tuple[int, ...], acceleration: float, seed: int) -> Tensor:
    """Which cells of k-space are measured, zero frequency first, ready to multiply an FFT."""
    if anatomy == "cine":
        lines = torch.zeros(shape[0], shape[1], dtype=torch.bool)
        lines.scatter_(1, kt_lines(shape[1], acceleration, shape[0], seed), True)
        return torch.fft.ifftshift(lines, dim=1)[:, :, None].expand(shape)
    if len(shape) == 2:
        lines = torch.zeros(1, shape[0], dtype=torch.bool)
        lines.scatter_(1, kt_lines(shape[0], acceleration, 1, seed), True)
        return torch.fft.ifftshift(lines[0])[:, None].expand(shape)
    mask = poisson_disc(shape[0], shape[1], acceleration, seed)
    return torch.fft.ifftshift(mask)[:, :, None].expand(shape)


def radial(shape: tuple[int, int, int], acceleration: float, n_coils: int, sixteen_bit: bool = False) -> Case:
    """3D radial golden means with coil maps kept as 16^3 coefficients: the memory of a large scan, and its operator.

    The right side is the normal operator of the truth: what a step costs does not depend on noise.
    """
    made = phantom("chest", shape, 0)
    omega = radial3d(shape, acceleration).omega
    kernel = toeplitz.build(Nufft(omega, shape, 1e-3), pipe_menon(omega, shape, 10))
    maps = smooth_maps(shape, n_coils)
    normal = SenseNormal(maps, kernel.sixteen_bit() if sixteen_bit else kernel).normal
    b = normal(made.image)
    return Case(LinearProblem(normal, b, robust_scale(b), name="radial"), made.image, made.mask)


def smooth_maps(shape: tuple[int, int, int], n_coils: int, kept: int = 16) -> SmoothMaps:
    """Random smooth sensitivities of unit root-sum-of-squares, from `kept`^3 coefficients each, coil by coil."""
    drawn = torch.Generator().manual_seed(0)
    far = torch.stack(torch.meshgrid(*[torch.arange(kept) - kept // 2.0] * 3, indexing="ij")).square().sum(0)
    draws = torch.randn(n_coils, kept, kept, kept, dtype=torch.complex64, generator=drawn)
    plain = SmoothMaps(draws * torch.exp(-far / 2), torch.ones(shape))
    power = torch.zeros(shape)
    for coil in range(n_coils):
        power += plain.coils(coil, coil + 1)[0].abs().square()
    return replace(plain, gain=power.rsqrt())
