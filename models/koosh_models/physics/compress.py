"""Fewer virtual coils with nearly all of the signal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Compression:
    """matrix (virtual, coil) complex64 with orthonormal rows, so white noise stays white; kept: part of the energy."""

    matrix: Tensor
    kept: float

    def apply(self, kspace: Tensor) -> Tensor:
        """(..., coil, sample) -> (..., virtual, sample)."""
        return self.matrix @ kspace


def gram(kspace: Tensor) -> Tensor:
    """(coil, coil) complex128 correlation of (coil, sample); the sum over parts is that of the whole."""
    return (kspace @ kspace.mH).to(torch.complex128)


def compression(correlation: Tensor, n_virtual: int) -> Compression:
    """The `n_virtual` strongest principal components (Buehrer et al. 2007, MRM 57:1131) of a correlation matrix."""
    n_coils = len(correlation)
    if not 1 <= n_virtual <= n_coils:
        raise ValueError(f"{n_virtual} virtual coils of {n_coils}: wanted 1 to {n_coils}")
    values, vectors = torch.linalg.eigh((correlation + correlation.mH) / 2)
    total = float(values.clamp_min(0).sum())
    if not total > 0:
        raise ValueError("the data to derive the compression from are all zero or not finite")
    strongest = vectors[:, -n_virtual:].flip(1)
    # eigenvectors have free phases; pin them, so that equal data give equal coils on every machine
    anchor = strongest.gather(0, strongest.abs().argmax(0, keepdim=True))
    strongest = strongest * (anchor.conj() / anchor.abs())
    return Compression(strongest.mH.to(torch.complex64).contiguous(), float(values[-n_virtual:].sum()) / total)


def coils_for(correlation: Tensor, kept: float) -> int:
    """The fewest virtual coils that hold this part of the energy."""
    if not 0 < kept <= 1:
        raise ValueError(f"the energy to keep is {kept}; wanted above 0, at most 1")
    values = torch.linalg.eigvalsh((correlation + correlation.mH) / 2).clamp_min(0).flip(0)
    share = values.cumsum(0) / values.sum().clamp_min(1e-300)
    return min(len(values), int((share < kept).sum()) + 1) if kept < 1 else len(values)
