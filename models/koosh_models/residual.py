"""How far an image is from the data it was made of, by distance from the centre of k-space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.calibration.maps import CoilMaps
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.sense import Sense
from koosh_models.scan import Scan
from koosh_models.support import box_around, boxed_maps, boxed_scan

EPS = 1e-4
COIL_GROUP = 4


@dataclass(frozen=True)
class Residual:
    """`|y - a F S x| / |y|`, of all samples and shell by shell, after the one complex number a that fits best.

    total   of all samples, each weighted by the part of k-space it stands for
    shells  from k = 0 outwards, equally wide to pi; NaN where there is no sample
    noise   what unit white noise alone would leave in each shell: the floor of whitened data
    """

    total: float
    shells: tuple[float, ...]
    noise: tuple[float, ...]


def residual(scan: Scan, maps: CoilMaps, volume: Tensor, n_shells: int = 24) -> Residual:
    """The residual of a complex image (z, y, x) or (y, x) of a weighted scan, for a method's own choice of scale."""
    if scan.weights is None or volume.shape != scan.geometry.matrix:
        raise ValueError(f"wanted a weighted scan and its image of {scan.geometry.matrix}, got {tuple(volume.shape)}")
    box = box_around(maps.mask)
    inside = boxed_scan(scan, box)
    sense = Sense(boxed_maps(maps.maps, box), Nufft(inside.omega, box.size, EPS), COIL_GROUP)
    seen = sense.forward(box.cut(volume.to(scan.kspace.dtype)))
    energy = (seen.abs().square() * scan.weights).sum()
    gain = (seen.conj() * inside.kspace * scan.weights).sum() / energy if float(energy) > 0 else energy
    off = (inside.kspace - gain * seen).abs().square().sum(0)
    data = inside.kspace.abs().square().sum(0)
    shell = (scan.omega.norm(dim=0) * (n_shells / math.pi)).long().clamp(max=n_shells - 1)
    missed, measured = _summed(off, shell, n_shells), _summed(data, shell, n_shells)
    count = scan.n_coils * _summed(torch.ones_like(off), shell, n_shells)
    plain = _summed(scan.kspace.abs().square().sum(0), shell, n_shells)
    total = float((off * scan.weights).sum() / (data * scan.weights).sum())
    return Residual(math.sqrt(total), _roots(missed / measured), _roots(count / plain))


def _summed(values: Tensor, shell: Tensor, n_shells: int) -> Tensor:
    return torch.zeros(n_shells, dtype=torch.float64, device=values.device).index_add_(0, shell, values.double())


def _roots(ratios: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in ratios.sqrt().cpu())
