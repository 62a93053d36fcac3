"""A cylindrical scanner as its projection data: views, bins, rings, segments of ring difference, time of flight."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.scan import Geometry


@dataclass(frozen=True)
class Segment:
    """Planes of one mean ring difference.

    difference    mean ring difference, rings; the sign says which way the lines lean
    planes        ring sums r1 + r2 of the planes, ascending in constant steps
    multiplicity  ring pairs added up in each plane (all 1 without axial compression)
    """

    difference: int
    planes: tuple[int, ...]
    multiplicity: tuple[int, ...]

    @property
    def step(self) -> int:
        """Distance of neighbouring planes in half rings."""
        return self.planes[1] - self.planes[0] if len(self.planes) > 1 else 2


@dataclass(frozen=True)
class TimeOfFlight:
    """Bins along the line of response.

    n_bins    bins, centred on the middle of the line
    width_mm  width of one
    fwhm_mm   timing resolution as a length along the line (c * FWHM / 2)
    """

    n_bins: int
    width_mm: float
    fwhm_mm: float

    def __post_init__(self) -> None:
        if self.n_bins < 1 or self.width_mm <= 0 or self.fwhm_mm <= 0:
            raise ValueError(f"time of flight needs positive bins, width and resolution, got {self}")


@dataclass(frozen=True)
class Scanner:
    """Arc-corrected projection data of a cylindrical scanner; one ring is 2D parallel beam.

    n_views, n_bins   views over 180 degrees, radial bins of a view
    bin_mm            radial distance of neighbouring bins
    n_rings, ring_mm  detector rings and their pitch
    max_difference    largest ring difference recorded; 0 keeps the direct planes only
    span              ring differences added up in one segment (odd); 1 is no axial compression
    diameter_mm       detector ring diameter: sets how oblique a ring difference is
    """

    n_views: int
    n_bins: int
    bin_mm: float
    n_rings: int = 1
    ring_mm: float = 4.0
    max_difference: int = 0
    span: int = 1
    diameter_mm: float = 800.0
    tof: TimeOfFlight | None = None

    def __post_init__(self) -> None:
        if min(self.n_views, self.n_bins, self.n_rings) < 1 or min(self.bin_mm, self.ring_mm, self.diameter_mm) <= 0:
            raise ValueError(f"views, bins, rings and their sizes must be positive, got {self}")
        if not 0 <= self.max_difference < self.n_rings:
            raise ValueError(
                f"max_difference is {self.max_difference}, wanted 0..{self.n_rings - 1} for {self.n_rings} rings"
            )
        if self.span < 1 or self.span % 2 == 0:
            raise ValueError(f"span is {self.span}, wanted an odd number (1: no axial compression)")
        if self.bin_mm * self.n_bins >= self.diameter_mm:
            raise ValueError(
                f"{self.n_bins} bins of {self.bin_mm} mm are wider than the ring ({self.diameter_mm} mm); "
                "enlarge diameter_mm or take fewer bins"
            )

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments in the order of the sinogram: 0, +1, -1, +2, -2, ... (means, in steps of the span)."""
        half = self.span // 2
        found = [self._segment(0)]
        for mean in range(self.span, self.max_difference + half + 1, self.span):
            found += [s for s in (self._segment(mean), self._segment(-mean)) if s.planes]
        return tuple(found)

    def _segment(self, mean: int) -> Segment:
        half = self.span // 2
        counts: dict[int, int] = {}
        for difference in range(mean - half, mean + half + 1):
            if abs(difference) > self.max_difference:
                continue
            for ring_sum in range(abs(difference), 2 * self.n_rings - 1 - abs(difference), 2):
                counts[ring_sum] = counts.get(ring_sum, 0) + 1
        planes = tuple(sorted(counts))
        return Segment(mean, planes, tuple(counts[m] for m in planes))

    @property
    def n_planes(self) -> int:
        """Planes of all segments together."""
        return sum(len(s.planes) for s in self.segments)

    @property
    def s_mm(self) -> Tensor:
        """(bin) distance of each line from the axis, mm, symmetric about it; float64."""
        return (torch.arange(self.n_bins, dtype=torch.float64) - (self.n_bins - 1) / 2) * self.bin_mm

    def angles(self) -> Tensor:
        """(view) angle of the s axis to +x, rad in [0, pi); float64."""
        return torch.arange(self.n_views, dtype=torch.float64) * torch.pi / self.n_views

    def sinogram(self, n_dimensions: int, n_views: int | None = None) -> tuple[int, ...]:
        """Shape of the measured data: (view, [tof,] bin[, plane])."""
        views = self.n_views if n_views is None else n_views
        tof = () if self.tof is None else (self.tof.n_bins,)
        return (views, *tof, self.n_bins, *((self.n_planes,) if n_dimensions == 3 else ()))

    def flat(self) -> Scanner:
        """The same scanner with one ring: 2D."""
        return replace(self, n_rings=1, max_difference=0, span=1)


def natural(scanner: Scanner, size: int, fov_mm: float | None = None) -> Geometry:
    """Image grid that suits a scanner: `size` voxels square over `fov_mm`, planes half a ring apart (3D).

    Without `fov_mm` the grid just contains the circle that the bins see.
    """
    side = scanner.n_bins * scanner.bin_mm if fov_mm is None else fov_mm
    if scanner.n_rings == 1:
        return Geometry((size, size), (side, side), slice_mm=scanner.ring_mm)
    n_z = 2 * scanner.n_rings - 1
    return Geometry((n_z, size, size), (n_z * scanner.ring_mm / 2, side, side))
