"""Where k-space is sampled: every family of trajectories, in rad/voxel, the same for the same arguments.

The acceleration R of radial families counts spokes: pi/2 N^2 / R full diameters in 3D, pi/2 N / R in 2D. Curved
families count the length of their readouts against half spokes of the radial family, so R means the same scan time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.simulation import cartesian, spirals

GOLDEN_MEANS = (0.46557123187676, 0.68232780382802)
"""Chan et al. 2009, MRM 61:354: the two-dimensional golden means."""
GOLDEN_ANGLE = math.pi * (math.sqrt(5.0) - 1.0) / 2.0
"""Winkelmann et al. 2007, IEEE TMI 26:68: 111.25 degrees."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A path through k-space.

    family   its name in `FAMILIES`
    omega    (axis, sample) or (frame, axis, sample), rad/voxel in [-pi, pi], rows z, y, x (2D: y, x)
    readout  samples in one readout
    center   sample of a readout that is nearest to k = 0, or where the echo is
    lines    Cartesian only: (readout, 2) or (frame, readout, 2), the indices of the phase encoding y and z
    """

    family: str
    omega: Tensor
    readout: int
    center: int
    lines: Tensor | None = None

    @property
    def n_readouts(self) -> int:
        """Readouts in one frame."""
        return int(self.omega.shape[-1]) // self.readout

    @property
    def n_frames(self) -> int | None:
        """Frames of a series, None for a single volume."""
        return int(self.omega.shape[0]) if self.omega.ndim == 3 else None


def trajectory(
    family: str, matrix: tuple[int, ...], acceleration: float = 1.0, seed: int = 0, n_frames: int = 16
) -> Trajectory:
    """The trajectory of that family for the matrix (z, y, x) or (y, x); the dynamic families have `n_frames` frames."""
    if family not in FAMILIES:
        raise ValueError(f"unknown trajectory {family!r}; known: {', '.join(FAMILIES)}")
    axes = 2 if family in FAMILIES_2D else 3
    if len(matrix) != axes:
        raise ValueError(f"{family} samples {axes} axes, but the matrix is {matrix}; give {axes} sizes")
    if not 0.1 <= acceleration <= 1000:
        raise ValueError(f"acceleration is {acceleration:g}; wanted a number between 0.1 and 1000")
    if family in DYNAMIC:
        return DYNAMIC[family](matrix, acceleration, seed, n_frames)
    return STATIC[family](matrix, acceleration, seed)


def full_spokes(matrix: tuple[int, ...], acceleration: float) -> int:
    """Diameters of a scan with this acceleration: pi/2 N^2 / R in 3D, pi/2 N / R in 2D; N is the geometric mean."""
    size = math.prod(matrix) ** (1.0 / len(matrix))
    return max(1, round(math.pi / 2 * size ** (len(matrix) - 1) / acceleration))


def golden_means(n_spokes: int, whole_sphere: bool = False, first: int = 0) -> Tensor:
    """(3, spoke) unit vectors z, y, x of the golden-means order; the upper half sphere unless `whole_sphere`."""
    index = torch.arange(first, first + n_spokes, dtype=torch.float64)
    z = (index * GOLDEN_MEANS[0]) % 1.0
    z = 2 * z - 1 if whole_sphere else z
    turn = 2 * math.pi * ((index * GOLDEN_MEANS[1]) % 1.0)
    flat = (1 - z.square()).sqrt()
    return torch.stack([z, flat * turn.sin(), flat * turn.cos()])


def golden_angles(n_spokes: int, first: int = 0) -> Tensor:
    """(2, spoke) unit vectors y, x, each turned by the golden angle."""
    angle = GOLDEN_ANGLE * torch.arange(first, first + n_spokes, dtype=torch.float64) % (2 * math.pi)
    return torch.stack([angle.sin(), angle.cos()])


def diameters(directions: Tensor, n_samples: int) -> Tensor:
    """(axis, sample) full spokes from -pi; sample n//2 of each is k = 0."""
    k = 2 * math.pi * (torch.arange(n_samples, dtype=torch.float64) - n_samples // 2) / n_samples
    return (directions[:, :, None] * k).flatten(1).float()


def radial3d(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Golden-means 3D radial, full diameters of 2N samples."""
    readout = 2 * max(matrix)
    directions = golden_means(full_spokes(matrix, acceleration))
    return Trajectory("radial3d", diameters(directions, readout), readout, readout // 2)


def ute3d(matrix: tuple[int, ...], acceleration: float, seed: int = 0, ramp: float = 0.1) -> Trajectory:
    """Golden-means 3D half spokes from k = 0 (ultra-short echo time), sampled while the gradient ramps up.

    `ramp` is the share of the readout's duration during which the gradient rises linearly.
    """
    readout = max(matrix)
    directions = golden_means(2 * full_spokes(matrix, acceleration), whole_sphere=True)
    omega = (directions[:, :, None] * ramped(readout, ramp)).flatten(1).float()
    return Trajectory("ute3d", omega, readout, 0)


def ramped(n_samples: int, ramp: float) -> Tensor:
    """|k| (sample) in rad/voxel, 0 to pi, under a gradient that rises linearly over the first `ramp` of the time."""
    if not 0 <= ramp <= 1:
        raise ValueError(f"the ramp takes {ramp:g} of the readout; wanted 0 to 1")
    t = torch.linspace(0, 1, n_samples, dtype=torch.float64)
    rising = t.square() / (2 * ramp) if ramp > 0 else t
    moment = torch.where(t < ramp, rising, t - ramp / 2)
    return math.pi * moment / (1 - ramp / 2)


def radial2d(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Golden-angle 2D radial, full diameters of 2N samples."""
    readout = 2 * max(matrix)
    directions = golden_angles(full_spokes(matrix, acceleration))
    return Trajectory("radial2d", diameters(directions, readout), readout, readout // 2)


def stack_of_stars(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """2D radial in every partition of z; angles go on from partition to partition by the golden angle."""
    readout, n_z = 2 * max(matrix[1:]), matrix[0]
    n_spokes = full_spokes(matrix[1:], acceleration)
    plane = diameters(golden_angles(n_spokes * n_z), readout)
    kz = partitions(n_z).repeat_interleave(n_spokes * readout)
    return Trajectory("stack_of_stars", torch.cat([kz[None], plane]), readout, readout // 2)


def partitions(n_z: int) -> Tensor:
    """(partition) kz in rad/voxel of a fully sampled stack."""
    return (2 * math.pi * (torch.arange(n_z, dtype=torch.float64) - n_z // 2) / n_z).float()


def spiral2d(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Archimedean interleaves from k = 0, turned by the golden angle."""
    omega, readout = spirals.interleaves(max(matrix), acceleration, spirals.n_interleaves(max(matrix), acceleration))
    return Trajectory("spiral2d", omega, readout, 0)


def stack_of_spirals(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Archimedean interleaves in every partition of z; angles go on from partition to partition."""
    n_arms = spirals.n_interleaves(max(matrix[1:]), acceleration)
    plane, readout = spirals.interleaves(max(matrix[1:]), acceleration, n_arms * matrix[0])
    kz = partitions(matrix[0]).repeat_interleave(n_arms * readout)
    return Trajectory("stack_of_spirals", torch.cat([kz[None], plane]), readout, 0)


def cones(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Spirals on cones whose axes are +z and -z, from k = 0; polar angles and turns by the golden means."""
    shape = spirals.Winding(max(matrix), windings=2.0)
    n_readouts = shorter(matrix, acceleration, shape.length)
    omega = spirals.on_cones(golden_means(n_readouts, whole_sphere=True), shape)
    return Trajectory("cones", omega, shape.n_samples, 0)


def spiral3d(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Seiffert spirals from k = 0 to the sphere, turned by the golden means."""
    curve, length = spirals.seiffert(max(matrix))
    n_readouts = shorter(matrix, acceleration, length)
    omega = spirals.turned(curve, golden_means(n_readouts, whole_sphere=True))
    return Trajectory("spiral3d", omega, curve.shape[1], 0)


def shorter(matrix: tuple[int, ...], acceleration: float, length: float) -> int:
    """Readouts of `length` radii each that take as long as the half spokes of a radial scan."""
    return max(1, round(2 * full_spokes(matrix, acceleration) / length))


def cartesian3d(matrix: tuple[int, ...], acceleration: float, seed: int = 0) -> Trajectory:
    """Lines along x at variable-density Poisson-disc places of (z, y), with a full centre."""
    mask = cartesian.poisson_disc(matrix[0], matrix[1], acceleration, seed)
    steps = mask.nonzero()
    omega = cartesian.lines_to_omega(steps, matrix)
    return Trajectory("cartesian3d", omega, matrix[-1], matrix[-1] // 2, steps.flip(1))


def cine_radial(matrix: tuple[int, ...], acceleration: float, seed: int = 0, n_frames: int = 16) -> Trajectory:
    """Golden-angle 2D radial that goes on from frame to frame."""
    readout = 2 * max(matrix)
    n_spokes = full_spokes(matrix, acceleration)
    omega = diameters(golden_angles(n_spokes * n_frames), readout)
    frames = omega.reshape(2, n_frames, -1).transpose(0, 1).contiguous()
    return Trajectory("cine_radial", frames, readout, readout // 2)


def cine_cartesian(matrix: tuple[int, ...], acceleration: float, seed: int = 0, n_frames: int = 16) -> Trajectory:
    """Lines along x at variable-density random y, different in every frame (k-t sampling)."""
    steps = cartesian.kt_lines(matrix[0], acceleration, n_frames, seed)
    omega = torch.stack([cartesian.lines_to_omega(frame[:, None], matrix) for frame in steps])
    lines = torch.stack([steps, torch.zeros_like(steps)], dim=2)
    return Trajectory("cine_cartesian", omega, matrix[-1], matrix[-1] // 2, lines)


STATIC: dict[str, Callable[[tuple[int, ...], float, int], Trajectory]] = {
    "radial3d": radial3d,
    "ute3d": ute3d,
    "cones": cones,
    "stack_of_stars": stack_of_stars,
    "stack_of_spirals": stack_of_spirals,
    "spiral3d": spiral3d,
    "radial2d": radial2d,
    "spiral2d": spiral2d,
    "cartesian3d": cartesian3d,
}
DYNAMIC: dict[str, Callable[[tuple[int, ...], float, int, int], Trajectory]] = {
    "cine_radial": cine_radial,
    "cine_cartesian": cine_cartesian,
}
FAMILIES = (*STATIC, *DYNAMIC)
FAMILIES_2D = ("radial2d", "spiral2d", *DYNAMIC)
