"""Noise between coils, and the matrix that makes it white with unit variance."""

from __future__ import annotations

import torch
from torch import Tensor


def covariance(noise: Tensor) -> Tensor:
    """(coil, coil) complex128 covariance of noise samples (coil, sample), mean removed."""
    n_coils, n_samples = noise.shape
    if n_samples < 2 * n_coils:
        raise ValueError(f"{n_samples} noise samples are too few for {n_coils} coils; wanted at least {2 * n_coils}")
    centred = noise.to(torch.complex128)
    centred = centred - centred.mean(1, keepdim=True)
    return centred @ centred.mH / (n_samples - 1)


def whitening(cov: Tensor, dwell_ratio: float = 1.0, bandwidth: float = 1.0) -> Tensor:
    """(coil, coil) complex64 W such that `W n` has unit variance in every coil and no correlation.

    cov          covariance of the noise measurement
    dwell_ratio  dwell time of the imaging readouts over that of the noise readouts: variance goes as 1/dwell
    bandwidth    the receiver's relative noise bandwidth: the part of the nominal band that the measured noise fills

    The inverse Cholesky factor (Hansen and Kellman 2015, JMRI 41:573, eq. 4); a dead coil (no noise) keeps weight 0.
    """
    if not (0 < dwell_ratio < float("inf") and 0 < bandwidth <= 1):
        raise ValueError(f"dwell ratio {dwell_ratio} and noise bandwidth {bandwidth} must be positive, the latter <= 1")
    power = cov.diagonal().real
    if not bool(torch.isfinite(torch.view_as_real(cov)).all()) or float(power.max()) <= 0:
        raise ValueError("the noise covariance is zero or not finite: are the noise readouts empty?")
    alive = power > 1e-12 * power.max()
    factor = torch.linalg.cholesky(cov[alive][:, alive] + 1e-10 * power.max() * torch.eye(int(alive.sum())))
    out = torch.zeros_like(cov)
    inside = torch.outer(alive, alive)
    out[inside] = torch.linalg.inv(factor).flatten()
    return (out * (dwell_ratio * bandwidth) ** 0.5).to(torch.complex64)


def from_edge(kspace: Tensor, omega: Tensor, fraction: float = 0.02) -> Tensor:
    """(coil, coil) covariance from the outermost samples, where scans without noise readouts have least signal.

    kspace (coil, sample), omega (axis, sample). A bound from above: fine structure counts as noise.
    """
    radius = omega.norm(dim=0)
    n = max(4 * kspace.shape[0], int(fraction * radius.numel()))
    return covariance(kspace[:, radius.topk(min(n, radius.numel())).indices])
