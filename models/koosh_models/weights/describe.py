"""What a trajectory is, seen from its samples alone: its family and its acceleration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.scan import Scan

LOOK_AT = 512  # readouts; enough to tell the family, quick for any scan
STRAIGHT = 1e-2  # radians a voxel a sample may lie off its readout's line


@dataclass(frozen=True)
class Description:
    """What a card is compared with.

    family        radial, stack_of_stars, cartesian, stack_of_curves or curved
    acceleration  pi/2 N^(d-1) full diameters over those measured, curved readouts counted by their length;
                  Cartesian: the ellipse of lines over the lines measured
    """

    family: str
    acceleration: float
    matrix: tuple[int, ...]
    voxel_mm: tuple[float, ...]
    n_coils: int
    n_frames: int | None


def describe(scan: Scan) -> Description:
    """The family and size of a scan; of a series, those of its first frame."""
    one = scan if scan.n_frames is None else scan.frame(0)
    matrix = one.geometry.matrix
    readouts = one.omega.reshape(len(matrix), -1, one.readout).double().cpu()
    family = family_of(readouts)
    speed = acceleration(readouts, matrix, family)
    return Description(family, speed, matrix, one.geometry.voxel_mm, scan.n_coils, scan.n_frames)


def family_of(readouts: Tensor) -> str:
    """The family of (axis, readout, sample) in rad/voxel."""
    some = readouts[:, :: max(1, readouts.shape[1] // LOOK_AT)]
    if some.shape[2] < 3:
        return "curved"
    flat = some.shape[0] == 3 and float((some[0] - some[0, :, :1]).abs().max()) < STRAIGHT
    if not straight(some):
        return "stack_of_curves" if flat else "curved"
    way = some[:, :, -1] - some[:, :, 0]
    way = way / way.norm(dim=0).clamp_min(1e-9)
    parallel = float((way * way[:, :1]).sum(0).abs().min()) > 1 - 1e-6
    if parallel and some.shape[1] > 1:
        return "cartesian"
    return "stack_of_stars" if flat and float(some[0].abs().max()) > STRAIGHT else "radial"


def straight(readouts: Tensor) -> bool:
    """Whether every readout lies on a line."""
    start, way = readouts[:, :, :1], readouts[:, :, -1:] - readouts[:, :, :1]
    way = way / way.norm(dim=0, keepdim=True).clamp_min(1e-9)
    apart = readouts - start
    off = apart - (apart * way).sum(0, keepdim=True) * way
    return float(off.norm(dim=0).max()) < STRAIGHT


def acceleration(readouts: Tensor, matrix: tuple[int, ...], family: str) -> float:
    """R of (axis, readout, sample): the scan time of a fully sampled radial scan over this one's."""
    if family == "cartesian":
        lines = readouts.shape[1]
        ellipse = (math.pi / 4) ** (len(matrix) - 2) if len(matrix) == 3 else 1.0
        return ellipse * math.prod(matrix[:-1]) / lines
    step = (readouts[:, :, 1:] - readouts[:, :, :-1]).norm(dim=0)
    # the last sample of a full diameter stands one step short of the edge
    radii = float(step.sum() + step.mean(1).sum()) / math.pi if step.numel() else float(readouts.shape[1])
    if family.startswith("stack"):  # every partition is a scan of its own plane
        return math.pi * matrix[0] * math.sqrt(matrix[1] * matrix[2]) / max(radii, 1e-9)
    size = math.prod(matrix) ** (1 / len(matrix))
    return math.pi * size ** (len(matrix) - 1) / max(radii, 1e-9)


def finite(state: dict[str, Tensor]) -> list[str]:
    """Names of tensors that hold NaN or Inf."""
    return [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
