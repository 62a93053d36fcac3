"""Matched projections of a cylindrical scanner: `y = G x` and `G^T y`, whole or in ordered subsets of views."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from koosh_models.physics.operator import linear
from koosh_models.physics.pet.joseph import Matched, Points, crossings
from koosh_models.physics.pet.scanner import Scanner, Segment, TimeOfFlight
from koosh_models.scan import Geometry

NOTHING = 1e-9  # interpolation weights below this are left out of the matrices


@dataclass(frozen=True, eq=False)
class Block:
    """One segment: `y[:, plane] = sum_k A_k x[:, first + k + plane * step]` on a zero-padded axial axis.

    All planes share their in-plane lines, so a segment is a few sparse matrices, one for each axial offset k, times a
    dense (pixel, slice) matrix. A line that leans the other way is the same segment seen in a mirror.
    """

    shifts: tuple[tuple[int, Matched], ...]
    first: int
    step: int
    n_planes: int
    mirrored: bool

    def padding(self, n_slices: int) -> tuple[int, int]:
        """Empty slices wanted before and after the volume."""
        low = self.first + self.shifts[0][0]
        high = self.first + self.shifts[-1][0] + (self.n_planes - 1) * self.step
        return max(0, -low), max(0, high - n_slices + 1)

    def slices(self, shift: int, before: int) -> slice:
        """The padded slices that the planes meet at this axial offset."""
        start = self.first + shift + before
        return slice(start, start + (self.n_planes - 1) * self.step + 1, self.step)

    def forward(self, x: Tensor) -> Tensor:
        """(pixel, slice) -> (ray, plane)."""
        before, after = self.padding(x.shape[1])
        x = torch.nn.functional.pad(x.flip(1) if self.mirrored else x, (before, after))
        y = x.new_zeros(self.shifts[0][1].matrix.shape[0], self.n_planes)
        for shift, pair in self.shifts:
            y.addmm_(pair.matrix, x[:, self.slices(shift, before)].contiguous())
        return y.flip(1) if self.mirrored else y

    def adjoint(self, y: Tensor, n_slices: int) -> Tensor:
        """(ray, plane) -> (pixel, slice)."""
        y = (y.flip(1) if self.mirrored else y).contiguous()
        before, after = self.padding(n_slices)
        x = y.new_zeros(self.shifts[0][1].matrix.shape[1], before + n_slices + after)
        for shift, pair in self.shifts:
            x[:, self.slices(shift, before)] += pair.transpose @ y
        x = x[:, before : before + n_slices]
        return x.flip(1) if self.mirrored else x


@dataclass(frozen=True, eq=False)
class Projector:
    """Line integrals in mm through an image, those of `views` only.

    scanner, geometry  what measures, and the grid it is seen on (2D with one ring, else 3D)
    views              which views of the scanner
    at                 an empty tensor whose type and device everything takes
    """

    scanner: Scanner
    geometry: Geometry
    views: tuple[int, ...]
    at: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        n_axes = len(self.geometry.matrix)
        if (n_axes == 3) != (self.scanner.n_rings > 1):
            raise ValueError(f"a {n_axes}D image grid and a scanner of {self.scanner.n_rings} ring(s) don't match")
        if not self.views or min(self.views) < 0 or max(self.views) >= self.scanner.n_views:
            raise ValueError(f"views {self.views} are not among the {self.scanner.n_views} of the scanner")
        if n_axes == 3:
            for segment in self.scanner.segments:
                axial(self.scanner, self.geometry, segment)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data: (view, [tof,] bin[, plane])."""
        return self.scanner.sinogram(len(self.geometry.matrix), len(self.views))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The segments in the order of the sinogram; those of one obliqueness share their matrices."""
        angles = self.scanner.angles()[list(self.views)]
        y, x = self.geometry.matrix[-2:], self.geometry.voxel_mm[-2:]
        points = crossings((y[0], y[1]), (x[0], x[1]), angles, self.scanner.s_mm)
        made: dict[int, Block] = {}
        for segment in self.scanner.segments:
            if segment.difference >= 0:
                made[segment.difference] = self._block(segment, points)
        return tuple(replace(made[abs(s.difference)], mirrored=s.difference < 0) for s in self.scanner.segments)

    def _block(self, segment: Segment, points: Points) -> Block:
        first, step, fraction, slope = 0, 1, 0.0, torch.zeros_like(self.scanner.s_mm)
        if len(self.geometry.matrix) == 3:
            first, step, fraction = axial(self.scanner, self.geometry, segment)
            slope = lean(self.scanner, segment)
        rise = points.along * slope[points.bin] / (self.geometry.voxel_mm[0] if step else 1.0) + fraction
        stretch = (1 + slope.square()).sqrt()[points.bin]
        row, point, weight = _rows(points, stretch, self.scanner)
        rise, column = rise[point], points.column[point]
        shape = (math.prod(self.shape[: 3 if self.scanner.tof else 2]), math.prod(self.geometry.matrix[-2:]))
        shifts = []
        for shift in range(int(rise.min().floor()), int(rise.max().floor()) + 2):
            share = weight * (1 - (rise - shift).abs())
            keep = torch.nonzero(share > NOTHING).flatten()
            if len(keep):
                shifts.append((shift, Matched.build(row[keep], column[keep], share[keep], shape, self.at)))
        return Block(tuple(shifts), first, step, len(segment.planes), mirrored=False)

    def forward(self, x: Tensor) -> Tensor:
        """Image (z, y, x) or (y, x) -> data (view, [tof,] bin[, plane])."""
        if tuple(x.shape) != self.geometry.matrix:
            raise ValueError(f"image has shape {tuple(x.shape)}, the projector's grid is {self.geometry.matrix}")
        return linear(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """Data (view, [tof,] bin[, plane]) -> image (z, y, x) or (y, x)."""
        if tuple(y.shape) != self.shape:
            raise ValueError(f"data have shape {tuple(y.shape)}, the projector's is {self.shape}")
        return linear(y, self._adjoint, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        columns = x.reshape(-1, math.prod(self.geometry.matrix[-2:])).T.contiguous()
        return torch.cat([block.forward(columns) for block in self.blocks], dim=1).reshape(self.shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        n_slices = self.geometry.matrix[0] if len(self.geometry.matrix) == 3 else 1
        rows = y.reshape(-1, sum(b.n_planes for b in self.blocks))
        parts = torch.split(rows, [b.n_planes for b in self.blocks], dim=1)
        image = sum(block.adjoint(part, n_slices) for block, part in zip(self.blocks, parts, strict=True))
        return torch.as_tensor(image).T.reshape(self.geometry.matrix)

    def to(self, device: torch.device | str) -> Projector:
        """The same projector on `device`; its matrices are built there anew."""
        return replace(self, at=self.at.to(device))


def lean(scanner: Scanner, segment: Segment) -> Tensor:
    """(bin) axial rise per mm in the plane: the ring difference over the chord between the two detectors."""
    chord = 2 * ((scanner.diameter_mm / 2) ** 2 - scanner.s_mm.square()).sqrt()
    return segment.difference * scanner.ring_mm / chord


def axial(scanner: Scanner, geometry: Geometry, segment: Segment) -> tuple[int, int, float]:
    """Slice of the first plane (whole and fraction) and slices from plane to plane; rings are centred on the grid."""
    rings = scanner.ring_mm / geometry.voxel_mm[0]
    step = segment.step / 2 * rings
    if abs(step - round(step)) > 1e-6 or round(step) < 1:
        raise ValueError(
            f"slices of {geometry.voxel_mm[0]:g} mm don't fit rings of {scanner.ring_mm:g} mm, "
            f"span {scanner.span}: planes are {step:g} slices apart, wanted a whole number (take half the ring pitch)"
        )
    first = (segment.planes[0] - scanner.n_rings + 1) / 2 * rings + (geometry.matrix[0] - 1) / 2
    whole = math.floor(first + 1e-6)
    return whole, round(step), max(0.0, first - whole)


def _rows(points: Points, stretch: Tensor, scanner: Scanner) -> tuple[Tensor, Tensor, Tensor]:
    """(row, point, weight) of every entry; with time of flight a point falls into several rows."""
    if scanner.tof is None:
        row = points.view * scanner.n_bins + points.bin
        return row, torch.arange(len(row)), points.weight * stretch
    share = arrival(points.along * stretch, scanner.tof)
    tof, point = torch.nonzero(share > NOTHING**0.5, as_tuple=True)
    row = (points.view[point] * scanner.tof.n_bins + tof) * scanner.n_bins + points.bin[point]
    return row, point, (points.weight * stretch)[point] * share[tof, point]


def arrival(along_mm: Tensor, tof: TimeOfFlight) -> Tensor:
    """(tof, point) chance that an event at `along_mm` from the middle of its line is put into each bin."""
    edges = (torch.arange(tof.n_bins + 1).to(along_mm) - tof.n_bins / 2) * tof.width_mm
    sigma = tof.fwhm_mm / math.sqrt(8 * math.log(2))
    below = torch.special.ndtr((edges[:, None] - along_mm) / sigma)
    return below[1:] - below[:-1]


def ordered_subsets(
    scanner: Scanner, geometry: Geometry, n_subsets: int, at: Tensor | None = None
) -> tuple[Projector, ...]:
    """One projector a subset; subset s has the views s, s + n, s + 2n ...; n need not divide the views."""
    if not 1 <= n_subsets <= scanner.n_views:
        raise ValueError(f"{n_subsets} subsets of {scanner.n_views} views; wanted 1..{scanner.n_views}")
    at = torch.empty(0) if at is None else at
    return tuple(
        Projector(scanner, geometry, tuple(range(s, scanner.n_views, n_subsets)), at) for s in range(n_subsets)
    )
