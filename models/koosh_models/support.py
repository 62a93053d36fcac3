"""Reconstruction inside the object's bounding box: the same image from a smaller problem.

Coil maps are zero outside the object, so an image that SENSE can explain is zero there too, and the normal operator
only ever meets the box. A head often fills less than half of its field of view; every iteration gets that much cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from types import EllipsisType

import torch
from torch import Tensor

from koosh_models.calibration.maps import CoilMaps
from koosh_models.physics.sense import DenseMaps, Maps, SmoothMaps, synthesised
from koosh_models.scan import Geometry, Scan

MULTIPLE = 8  # box sizes are multiples of this where the matrix has room: fast transforms, whole strides of a U-Net
MARGIN = 3  # voxels between the object and the side of its box


@dataclass(frozen=True)
class Box:
    """A part of a matrix: `first` and `size` on each axis, z, y, x."""

    first: tuple[int, ...]
    size: tuple[int, ...]
    matrix: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """For indexing the last axes of an image."""
        return tuple(slice(f, f + s) for f, s in zip(self.first, self.size, strict=True))

    @property
    def shift(self) -> tuple[int, ...]:
        """From the matrix's central voxel (index n//2) to the box's."""
        return tuple(f + s // 2 - n // 2 for f, s, n in zip(self.first, self.size, self.matrix, strict=True))

    def cut(self, image: Tensor) -> Tensor:
        """(..., *matrix) -> (..., *size)."""
        return image[_last(self.slices)].contiguous()

    def embed(self, image: Tensor) -> Tensor:
        """(..., *size) -> (..., *matrix), zero outside the box."""
        whole = image.new_zeros((*image.shape[: image.ndim - len(self.size)], *self.matrix))
        whole[_last(self.slices)] = image
        return whole


def _last(slices: tuple[slice, ...]) -> tuple[slice | EllipsisType, ...]:
    return (..., *slices)


def box_around(mask: Tensor, margin: int = MARGIN, multiple: int = MULTIPLE) -> Box:
    """The smallest box that holds the mask with a margin; the whole matrix where the mask is empty."""
    first, size = [], []
    for axis, n in enumerate(mask.shape):
        others = [a for a in range(mask.ndim) if a != axis]
        hit = mask.amax(dim=others).nonzero().flatten() if others else mask.nonzero().flatten()
        low, high = (max(0, int(hit[0]) - margin), min(n, int(hit[-1]) + 1 + margin)) if len(hit) else (0, n)
        length = min(n, -(-(high - low) // multiple) * multiple)
        first.append(min(low, n - length))
        size.append(length)
    return Box(tuple(first), tuple(size), tuple(mask.shape))


@dataclass(frozen=True, eq=False)
class BoxedMaps:
    """Smooth maps inside a box, synthesised there only."""

    maps: SmoothMaps
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        """(coil, z, y, x) of the box."""
        return (self.maps.shape[0], *self.box.size)

    @cached_property
    def waves(self) -> list[Tensor]:
        """The rows of the maps' waves that lie in the box."""
        return [wave[part].contiguous() for wave, part in zip(self.maps.waves, self.box.slices, strict=True)]

    @cached_property
    def gain(self) -> Tensor:
        """The maps' gain in the box."""
        return self.box.cut(self.maps.gain)

    def coils(self, first: int, last: int) -> Tensor:
        """(last - first, z, y, x) of the box."""
        return synthesised(self.maps.coefficients[first:last], self.waves).mul_(self.gain)

    def to(self, device: torch.device | str) -> BoxedMaps:
        """The same maps on `device`."""
        return BoxedMaps(self.maps.to(device), self.box)

    def combined(self, matrix: Tensor) -> BoxedMaps:
        """The maps of virtual coils."""
        return BoxedMaps(self.maps.combined(matrix), self.box)


def boxed_maps(maps: Maps | Tensor, box: Box) -> Maps:
    """Coil maps inside the box."""
    if isinstance(maps, SmoothMaps):
        return BoxedMaps(maps, box)
    dense = maps if isinstance(maps, Tensor) else maps.coils(0, maps.shape[0])
    return DenseMaps(box.cut(dense))


def boxed_scan(scan: Scan, box: Box) -> Scan:
    """The scan as one of the box alone: samples get the phase of its centre, and its number of voxels in their scale.

    Exact for an object that lies inside the box.
    """
    if box.size == box.matrix:
        return scan
    share = prod(box.size) / prod(box.matrix)
    shift = torch.tensor(box.shift, dtype=scan.omega.dtype, device=scan.omega.device)
    phase = (scan.omega * shift[:, None]).sum(-2)
    turn = torch.polar(torch.full_like(phase, share**-0.5), phase).unsqueeze(-2)
    weights = None if scan.weights is None else scan.weights * share
    return replace(scan, kspace=scan.kspace * turn, geometry=boxed_geometry(scan.geometry, box), weights=weights)


def boxed_geometry(geometry: Geometry, box: Box) -> Geometry:
    """Where the box lies in the patient."""
    fov = tuple(v * n for v, n in zip(geometry.voxel_mm, box.size, strict=True))
    position = torch.tensor(geometry.position_mm, dtype=torch.float64)
    directions = (geometry.read_dir, geometry.phase_dir, geometry.slice_dir)
    for move, voxel, direction in zip(reversed(box.shift), reversed(geometry.voxel_mm), directions, strict=False):
        position += move * voxel * torch.tensor(direction, dtype=torch.float64)
    x, y, z = position.tolist()
    return replace(geometry, matrix=box.size, fov_mm=fov, position_mm=(x, y, z))


def boxed(scan: Scan, maps: CoilMaps) -> tuple[Scan, Maps, Box]:
    """A calibrated scan inside its object's bounding box."""
    box = box_around(maps.mask)
    return boxed_scan(scan, box), boxed_maps(maps.maps, box), box
