"""Patients for PET: activity, attenuation and an MR image painted from tissue classes, with lesions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from koosh_models.scan import Geometry


class Tissue(IntEnum):
    """What a voxel is made of."""

    AIR = 0
    SOFT = 1
    FAT = 2
    BONE = 3
    FLUID = 4
    GREY = 5
    WHITE = 6
    DEEP = 7
    LUNG = 8
    LIVER = 9
    MUSCLE_OF_HEART = 10
    BLOOD = 11


# activity (grey matter is 1, an FDG-like tracer), attenuation at 511 keV in 1/mm, brightness in a T1-like MR image
PROPERTIES: dict[Tissue, tuple[float, float, float]] = {
    Tissue.AIR: (0.0, 0.0, 0.0),
    Tissue.SOFT: (0.25, 0.0096, 0.55),
    Tissue.FAT: (0.08, 0.0090, 0.95),
    Tissue.BONE: (0.08, 0.0145, 0.12),
    Tissue.FLUID: (0.06, 0.0096, 0.22),
    Tissue.GREY: (1.0, 0.0099, 0.6),
    Tissue.WHITE: (0.3, 0.0099, 0.85),
    Tissue.DEEP: (1.1, 0.0099, 0.7),
    Tissue.LUNG: (0.1, 0.0026, 0.06),
    Tissue.LIVER: (0.5, 0.0099, 0.7),
    Tissue.MUSCLE_OF_HEART: (1.2, 0.0099, 0.5),
    Tissue.BLOOD: (0.35, 0.0099, 0.4),
}

# FreeSurfer's numbers, and those of SynthSeg's label maps for what lies outside the brain (found from where they lie)
FREESURFER: dict[Tissue, tuple[int, ...]] = {
    Tissue.GREY: (3, 8, 42, 47, 17, 18, 53, 54),
    Tissue.WHITE: (2, 7, 41, 46, 16, 28, 60, 77, 85),
    Tissue.DEEP: (10, 11, 12, 13, 26, 49, 50, 51, 52, 58, 136, 137, 163, 164),
    Tissue.FLUID: (4, 5, 14, 15, 24, 43, 44, 72, 506, 514, 530),
    Tissue.BLOOD: (30, 62),
    Tissue.BONE: (515, 516),
    Tissue.FAT: (511,),
}


@dataclass(frozen=True, eq=False)
class Patient:
    """What a scan would be of.

    activity  (z, y, x) or (y, x), grey matter is about 1
    mu        same grid, attenuation at 511 keV in 1/mm
    guide     (1, *image) T1-like MR of the same anatomy, of order 1; it need not show every lesion
    lesions   (*image) share of each voxel that is lesion
    """

    geometry: Geometry
    activity: Tensor
    mu: Tensor
    guide: Tensor
    lesions: Tensor


def paint(classes: Tensor, geometry: Geometry, generator: torch.Generator, max_lesions: int = 4) -> Patient:
    """The patient of a fine class map (z, y, x) that fills the field of view; values vary with the generator."""
    classes = classes.long()
    table = torch.tensor([PROPERTIES[t] for t in Tissue]).T
    spread = torch.tensor([0.12, 0.01, 0.12])[:, None]
    table = table * (1 + spread * torch.randn(table.shape, generator=generator)).clamp(0.5, 1.5)
    activity, mu, mr = (row[classes] for row in table)
    activity = activity * (1 + 0.1 * smooth_field(classes.shape, 12, generator)).clamp_min(0)
    mr = mr * (1 + 0.15 * smooth_field(classes.shape, 2, generator))  # bias field
    spots = torch.zeros(classes.shape)
    fine_mm = tuple(f / n for f, n in zip(fov3(geometry), classes.shape, strict=True))
    for _ in range(int(torch.randint(0, max_lesions + 1, (), generator=generator))):
        share = sphere(classes, fine_mm, generator)
        hot = bool(torch.rand((), generator=generator) < 0.7)
        value = float(torch.empty(()).uniform_(1.5, 3.0, generator=generator)) if hot else 0.15
        activity = torch.where(share, value, activity)
        if torch.rand((), generator=generator) < 0.5:
            mr = torch.where(share, mr * 0.7, mr)
        spots = torch.maximum(spots, share.float())
    coarse = [pooled(v, geometry) for v in (activity, mu, mr, spots)]
    noise = 0.02 * torch.randn(coarse[2].shape, generator=generator)
    return Patient(geometry, coarse[0], coarse[1], (coarse[2] + noise).abs()[None], coarse[3])


def sphere(classes: Tensor, voxel_mm: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """A ball of 3 to 8 mm radius around a random voxel of soft tissue, bool on the fine grid."""
    where = torch.nonzero((classes != Tissue.AIR) & (classes != Tissue.BONE))
    if len(where) == 0:
        return torch.zeros(classes.shape, dtype=torch.bool)
    centre = where[int(torch.randint(len(where), (), generator=generator))]
    radius = float(torch.empty(()).uniform_(3.0, 8.0, generator=generator))
    apart = torch.zeros(())
    for axis, (n, c, v) in enumerate(zip(classes.shape, centre.tolist(), voxel_mm, strict=True)):
        along = ((torch.arange(n) - c) * v).square()
        apart = apart + along.reshape([-1 if i == axis else 1 for i in range(3)])
    return apart < radius**2


def smooth_field(shape: torch.Size | tuple[int, ...], cells: int, generator: torch.Generator) -> Tensor:
    """(z, y, x) smooth noise of about unit deviation, `cells` undulations along the longest axis."""
    knots = [max(2, round(cells * n / max(shape)) + 1) for n in shape]
    coarse = torch.randn([1, 1, *knots], generator=generator)
    return 1.5 * functional.interpolate(coarse, tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def pooled(fine: Tensor, geometry: Geometry) -> Tensor:
    """The fine map averaged over the voxels of the geometry."""
    z, y, x = (1, *geometry.matrix)[-3:]
    return functional.adaptive_avg_pool3d(fine[None, None], (z, y, x))[0, 0].reshape(geometry.matrix).contiguous()


def fov3(geometry: Geometry) -> tuple[float, ...]:
    """Extent (z, y, x) in mm; a 2D image is as thick as its slice."""
    return (geometry.slice_mm, *geometry.fov_mm)[-3:]


def head(shape: tuple[int, int, int], level: float, generator: torch.Generator) -> Tensor:
    """Fine class map of a head: scalp, skull, folded cortex, ventricles, nuclei; different for every generator.

    level  where the middle of the volume lies between the base (-1) and the top (1) of the head
    """
    size = 1 + 0.05 * torch.randn(3, generator=generator)
    tilt = 0.2 * float(torch.randn((), generator=generator))
    z, y, x = _axes(shape)
    z = z * (0.45 if shape[0] > 1 else 1.0) + level
    y, x = y * math.cos(tilt) - x * math.sin(tilt), y * math.sin(tilt) + x * math.cos(tilt)
    radius = (
        (z / (0.95 * size[0])).square() + (y / (0.88 * size[1])).square() + (x / (0.72 * size[2])).square()
    ).sqrt()
    folds, coarse = smooth_field(shape, 24, generator), smooth_field(shape, 9, generator)
    classes = torch.zeros(shape, dtype=torch.long)
    for limit, tissue in (
        (torch.tensor(0.98), Tissue.FAT),
        (torch.tensor(0.93), Tissue.BONE),
        (torch.tensor(0.85), Tissue.FLUID),
        (0.82 + 0.012 * folds, Tissue.GREY),
        (0.68 + 0.06 * folds + 0.03 * coarse, Tissue.WHITE),
    ):
        classes[radius < limit] = tissue
    wide = 1 + 0.3 * float(torch.randn((), generator=generator))
    for side in (-1, 1):
        _ball(classes, (z, y, x), (0.0, 0.0, 0.2 * side), (0.2, 0.22, 0.1), Tissue.DEEP)
        _ball(classes, (z, y, x), (0.05, -0.2, 0.13 * side), (0.2, 0.12, 0.06), Tissue.DEEP)
        _ball(classes, (z, y, x), (0.12, 0.03, 0.09 * side), (0.15, 0.28, 0.05 * wide), Tissue.FLUID)
    return classes


def chest(shape: tuple[int, int, int], level: float, generator: torch.Generator) -> Tensor:
    """Fine class map of a chest: fat, muscle, lungs, heart with blood, spine, the dome of the liver."""
    size = 1 + 0.07 * torch.randn(3, generator=generator)
    z, y, x = _axes(shape)
    z = z * 0.5 + level
    wobble = 0.03 * smooth_field(shape, 6, generator)
    radius = ((y / (0.62 * size[1])).square() + (x / (0.92 * size[2])).square()).sqrt() + wobble
    classes = torch.zeros(shape, dtype=torch.long)
    classes[radius.expand(shape) < 1] = Tissue.FAT
    classes[radius.expand(shape) < 0.9] = Tissue.SOFT
    for side in (-1, 1):
        _ball(classes, (z, y, x), (0.1, -0.02, 0.42 * side), (0.9, 0.42, 0.3), Tissue.LUNG)
    _ball(classes, (z, y, x), (-1.0, 0.0, -0.35), (0.8, 0.42, 0.36), Tissue.LIVER)
    shift = 0.05 * torch.randn(2, generator=generator)
    centre = (0.0, -0.12 + float(shift[0]), 0.18 + float(shift[1]))
    _ball(classes, (z, y, x), centre, (0.5, 0.24, 0.24), Tissue.MUSCLE_OF_HEART)
    _ball(classes, (z, y, x), centre, (0.35, 0.14, 0.14), Tissue.BLOOD)
    _ball(classes, (z, y, x), (0.0, 0.4, 0.0), (9.0, 0.12, 0.12), Tissue.BONE)
    return classes


def _axes(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates from -1 to 1, broadcastable."""
    z, y, x = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in shape)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _ball(
    classes: Tensor,
    axes: tuple[Tensor, Tensor, Tensor],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    tissue: Tissue,
) -> None:
    parts = [((a - c) / r).square() for a, c, r in zip(axes, centre, radii, strict=True)]
    inside = (parts[0] + parts[1] + parts[2]) < 1
    classes[inside & (classes != Tissue.AIR)] = tissue


PHANTOMS = {"head": head, "chest": chest}


def procedural(name: str, geometry: Geometry, seed: int, fine: int = 2) -> Patient:
    """A patient that ships as code, painted `fine` times finer than the grid and averaged down."""
    if name not in PHANTOMS:
        raise ValueError(f"unknown PET phantom {name!r}; known: {', '.join(PHANTOMS)}")
    generator = torch.Generator().manual_seed(seed)
    z, y, x = (1, *geometry.matrix)[-3:]
    shape = (fine * z if len(geometry.matrix) == 3 else 1, fine * y, fine * x)
    level = float(torch.empty(()).uniform_(-0.25, 0.35, generator=generator))
    return paint(PHANTOMS[name](shape, level, generator), geometry, generator)


@dataclass(frozen=True, eq=False)
class Labels:
    """A tissue label map.

    classes     (z, y, x) values of Tissue, any integer type, axes towards S, P, L
    spacing_mm  (z, y, x)
    held_out    never to be trained on
    """

    classes: Tensor
    spacing_mm: tuple[float, ...]
    held_out: bool = False

    @cached_property
    def brain(self) -> tuple[Tensor, list[int]]:
        """Levels in z with at least 0.4 of the most brain that any has, and the middle (z, y, x) of the brain."""
        brain = torch.isin(self.classes, torch.tensor([int(Tissue.GREY), int(Tissue.WHITE)]))
        area = brain.flatten(1).sum(1)
        return torch.nonzero(area > 0.4 * area.max()).flatten(), _centre(brain)


def load_labels(path: str | Path) -> Labels:
    """The label map of an .npz with `image` (x, y, z towards R, A, S) in FreeSurfer's numbers and `spacing_mm`."""
    with np.load(path) as file:
        if "image" not in file or "spacing_mm" not in file:
            raise ValueError(f"{Path(path).name} holds {sorted(file)}; wanted image and spacing_mm")
        image, spacing = file["image"], tuple(float(s) for s in file["spacing_mm"])
        meta = json.loads(str(file["meta"])) if "meta" in file else {}
    if meta.get("contrast", "labels") != "labels" or image.ndim != 3:
        raise ValueError(f"{Path(path).name} is no label map: {meta.get('contrast')}, shape {image.shape}")
    lookup = np.full(int(image.max()) + 1, int(Tissue.SOFT), np.uint8)
    lookup[0] = int(Tissue.AIR)
    for tissue, numbers in FREESURFER.items():
        lookup[[n for n in numbers if n < len(lookup)]] = int(tissue)
    classes = torch.from_numpy(np.ascontiguousarray(lookup[image].transpose(2, 1, 0)[:, ::-1, ::-1]))
    return Labels(classes, spacing[::-1], meta.get("split", "train") != "train")


def labels_in(folder: str | Path) -> tuple[list[Labels], list[Labels]]:
    """The label maps of a folder (files labels*.npz), those to train on and those held out."""
    found = [load_labels(path) for path in sorted(Path(folder).glob("labels*.npz"))]
    if not found:
        raise ValueError(f"no labels*.npz in {folder}")
    return [m for m in found if not m.held_out], [m for m in found if m.held_out]


def from_labels(labels: Labels, geometry: Geometry, seed: int) -> Patient:
    """A patient of that anatomy: a random slice (2D) or slab (3D) with brain in it, random values and lesions."""
    generator = torch.Generator().manual_seed(seed)
    extent = [max(1, round(f / s)) for f, s in zip(fov3(geometry), labels.spacing_mm, strict=True)]
    levels, centre = labels.brain
    middle = [int(levels[int(torch.randint(len(levels), (), generator=generator))]), *centre[1:]]
    if len(geometry.matrix) == 3:
        middle[0] = round(0.7 * float(levels.float().mean()) + 0.3 * middle[0])
    classes = window(labels.classes, middle, extent)
    if torch.rand((), generator=generator) < 0.5:
        classes = classes.flip(2)
    return paint(classes, geometry, generator)


def _centre(mask: Tensor) -> list[int]:
    """Middle of the bounding box."""
    where = torch.nonzero(mask)
    return [int(v) for v in (where.amin(0) + where.amax(0)) // 2]


def window(volume: Tensor, middle: list[int], extent: list[int]) -> Tensor:
    """The part of `extent` voxels around `middle`; air beyond the border."""
    out = torch.zeros(extent, dtype=volume.dtype)
    source, target = [], []
    for n, c, e in zip(volume.shape, middle, extent, strict=True):
        start = c - e // 2
        low, high = max(0, start), min(n, start + e)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - start, max(low, high) - start))
    out[tuple(target)] = volume[tuple(source)]
    return out
