"""A scan and its calibration as a problem that networks and baselines solve."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from koosh_models.physics import toeplitz
from koosh_models.physics.cartesian import Cartesian
from koosh_models.physics.dynamic import frame_wise
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.problem import LinearProblem
from koosh_models.physics.sense import Maps, PairNormal, Sense, SenseNormal
from koosh_models.physics.shifted import build_shifted
from koosh_models.scan import Scan

# Below this many samples a voxel the explicit pair beats the Toeplitz normal on the CPU (one thread, finufft eps 1e-4):
PAIR_BELOW = {2: 0.15, 3: 0.08}
LARGE = 256**3  # voxels from which a GPU uses the form with one volume of scratch


def use_pair(scan: Scan) -> bool:
    """Whether forward and adjoint are cheaper than Toeplitz: by a fixed rule, so that two runs agree to the bit."""
    density = scan.omega.shape[-1] / prod(scan.geometry.matrix)
    return scan.omega.device.type == "cpu" and density < PAIR_BELOW[len(scan.geometry.matrix)]


def non_cartesian(
    scan: Scan, maps: Tensor | Maps, eps: float = 1e-4, group: int = 4, lean: bool = False
) -> LinearProblem:
    """The density-weighted normal equations of one volume.

    maps  (coil, z, y, x), sum of squares 1 inside the object
    lean  a Toeplitz kernel in 16 bit
    """
    if scan.n_frames is not None:
        raise ValueError("this scan has frames; use dynamic(), or choose one with scan.frame(k)")
    if scan.weights is None:
        raise ValueError("the scan has no density weights: scan = with_weights(scan) first")
    sense = Sense(maps, Nufft(scan.omega, scan.geometry.matrix, eps), group)
    b = sense.adjoint(scan.kspace * scan.weights)
    return of_operator(normal_of(scan, sense, lean), b)


def of_operator(operator: SenseNormal | PairNormal, b: Tensor) -> LinearProblem:
    """The normal equations of a volume from their two sides."""
    return LinearProblem(operator.normal, b, robust_scale(b), nearby=lambda: operator.near(b))


def dynamic(scan: Scan, maps: Tensor | Maps, eps: float = 1e-4, group: int = 4) -> LinearProblem:
    """The density-weighted normal equations of a series, (frame, z, y, x) or (frame, y, x), with common maps."""
    if scan.n_frames is None:
        raise ValueError("this scan is a single volume; use non_cartesian()")
    frames = [non_cartesian(scan.frame(k), maps, eps, group) for k in range(scan.n_frames)]
    b = torch.stack([frame.b for frame in frames])
    return LinearProblem(frame_wise([frame.normal for frame in frames]), b, robust_scale(b))


def cartesian(kspace: Tensor, mask: Tensor, maps: Tensor | Maps, axes: tuple[int, ...] | None = None) -> LinearProblem:
    """The normal equations of Cartesian SENSE.

    kspace  (coil, z, y, x) on the grid, zero where not sampled; hybrid data of a slab where `axes` leaves some out
    mask    broadcasts to (z, y, x)
    maps    (coil, z, y, x)
    axes    negative, still Fourier encoded; all by default
    """
    if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
        raise ValueError("k-space contains NaN or Inf; drop those readouts first")
    fourier = Cartesian(mask, axes or tuple(range(-(kspace.ndim - 1), 0)))
    b = Sense(maps, fourier).adjoint(kspace)
    return LinearProblem(SenseNormal(maps, fourier).normal, b, robust_scale(b))


def cartesian_series(kspace: Tensor, masks: Tensor, maps: Tensor | Maps) -> LinearProblem:
    """The normal equations of a Cartesian series: kspace (frame, coil, y, x), masks (frame, y, x), common maps."""
    frames = [cartesian(one, mask, maps) for one, mask in zip(kspace, masks, strict=True)]
    b = torch.stack([frame.b for frame in frames])
    return LinearProblem(frame_wise([frame.normal for frame in frames]), b, robust_scale(b))


def normal_of(scan: Scan, sense: Sense, lean: bool = False) -> SenseNormal | PairNormal:
    """`x -> A^H W A x` in its cheaper form."""
    assert scan.weights is not None
    assert isinstance(sense.fourier, Nufft)
    if use_pair(scan):
        return PairNormal(sense, scan.weights)
    large = scan.omega.device.type == "cuda" and prod(scan.geometry.matrix) > LARGE
    kernel = (build_shifted if large else toeplitz.build)(sense.fourier, scan.weights)
    return SenseNormal(sense.maps, kernel.sixteen_bit() if lean else kernel)


def robust_scale(image: Tensor) -> float:
    """Typical magnitude of an image: its 99th percentile, on at most a million voxels evenly spread."""
    magnitude = image.abs().flatten()
    value = float(torch.quantile(magnitude[:: max(1, magnitude.numel() // 1_000_000)], 0.99))
    return value if value > 0 else float(magnitude.max()) or 1.0
