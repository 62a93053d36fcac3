"""Anatomies to simulate scans of: volume files, label maps with random contrasts, and phantoms that ship as code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from koosh_models.simulation.phantoms import Phantom, phantom, smooth_phase

BODY = 0.06  # of the 99th percentile: what counts as object in a magnitude volume


@dataclass(frozen=True)
class Source:
    """A volume file, or a phantom where `path` is None.

    name     of the file or anatomy
    subject  whom it shows; a subject is in one split only
    split    training or validation
    labels   a tissue label map, painted anew each time
    credit   where it comes from and under which licence
    """

    name: str
    subject: str
    split: str
    labels: bool = False
    path: Path | None = None
    credit: str = ""


def sources_of(folder: str | Path, validation: Sequence[str] = ()) -> list[Source]:
    """The volumes (.npz) of a folder; those whose subject is named go to validation besides those marked so."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"no folder of volumes at {root}: set data.volumes to one that holds .npz files")
    found = [read_source(path) for path in sorted(root.glob("*.npz"))]
    if not found:
        raise ValueError(f"{root} holds no .npz volume")
    known = {name for s in found for name in (s.subject, s.name)}
    if unknown := sorted(set(validation) - known):
        raise ValueError(f"data.validation names {', '.join(unknown)}; known subjects: {', '.join(sorted(known))}")
    held = {s.subject for s in found if s.name in validation or s.subject in validation or s.split == "validation"}
    return [Source(s.name, s.subject, split_of(s, held), s.labels, s.path, s.credit) for s in found]


def split_of(source: Source, held: set[str]) -> str:
    """Validation for all files of a subject of which one is held out."""
    return "validation" if source.subject in held else "training"


def read_source(path: Path) -> Source:
    """What a volume file says about itself."""
    try:
        with np.load(path) as file:
            meta = json.loads(str(file["meta"])) if "meta" in file else {}
            if "image" not in file:
                raise ValueError(f"it holds {', '.join(file)} but no `image`")
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"{path.name} is no volume: {error}; wanted .npz with `image`, `spacing_mm`, `meta`"
        ) from error
    labels = meta.get("contrast") == "labels"
    split = "validation" if str(meta.get("split", "train")).startswith("val") else "training"
    credit = ", ".join(str(meta[key]) for key in ("source_repo", "licence") if key in meta)
    return Source(path.stem, str(meta.get("subject", path.stem)), split, labels, path, credit)


def check_splits(sources: Sequence[Source]) -> None:
    """Refuse a subject that is in both splits."""
    by_split = {s: {source.subject for source in sources if source.split == s} for s in ("training", "validation")}
    if both := sorted(by_split["training"] & by_split["validation"]):
        raise ValueError(f"{', '.join(both)}: in training and in validation; a subject belongs to one split only")


@lru_cache(maxsize=4)
def loaded(path: Path) -> tuple[Tensor, tuple[float, ...]]:
    """(z, y, x) float32 volume or labels, axes towards S, P, L, and its voxel size."""
    with np.load(path) as file:
        image = np.ascontiguousarray(file["image"].transpose(2, 1, 0)[:, ::-1, ::-1]).astype(np.float32)
        spacing = tuple(float(s) for s in file["spacing_mm"])[::-1] if "spacing_mm" in file else (1.0,) * 3
    return torch.from_numpy(image), spacing


def anatomy(source: Source, matrix: tuple[int, ...], rng: np.random.Generator, frames: int = 8) -> Phantom:
    """The source on this matrix, differently placed, turned, contrasted and phased for every `rng`."""
    if source.path is None:
        return phantom(source.name, matrix, int(rng.integers(2**31)), frames)
    volume, spacing = loaded(source.path)
    cube = (1, *matrix) if len(matrix) == 2 else matrix
    if source.labels:
        painted, inside = contrast(volume, rng), (volume > 0).float()
    else:
        painted = (volume / percentile(volume)) ** float(rng.uniform(0.75, 1.3))
        inside = (painted > BODY).float()
    both = placed(torch.stack([painted, inside]), spacing, cube, rng)
    magnitude, mask = both[0].clamp_min(0), both[1] > 0.5
    mask = functional.max_pool3d((magnitude * mask > 0).float()[None], 3, 1, 1)[0] > 0
    magnitude = magnitude * mask / percentile(magnitude)
    phase = torch.from_numpy(smooth_phase(cube, rng, float(rng.uniform(0.2, 0.9))))
    image = torch.polar(magnitude, phase.expand_as(magnitude).contiguous())
    return Phantom(image.reshape(matrix).to(torch.complex64), mask.reshape(matrix))


def percentile(volume: Tensor) -> float:
    """99th percentile of the voxels above zero."""
    above = volume[volume > 0].flatten()
    return float(torch.quantile(above[:: max(1, above.numel() // 1_000_000)], 0.99)) if above.numel() else 1.0


def contrast(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """A brightness for every label, with texture inside tissues and a smooth bias."""
    index = labels.long()
    value = rng.uniform(0.1, 1.0, int(index.max()) + 1).astype(np.float32)
    value[0] = 0
    painted = torch.from_numpy(value)[index]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for cells, amount in ((48, 0.08), (20, 0.06), (3, 0.15)):
        knots = [max(2, round(cells * n / max(index.shape))) for n in index.shape]
        field = torch.randn([1, 1, *knots], generator=generator)
        field = functional.interpolate(field, tuple(index.shape), mode="trilinear", align_corners=True)[0, 0]
        painted = painted * (1 + float(rng.uniform(0, amount)) * 1.5 * field)
    return painted.clamp_min(0)


def placed(volume: Tensor, spacing: tuple[float, ...], matrix: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """(channel, *matrix): the volume shrunk to fill most of the field of view, shifted, turned and perhaps mirrored."""
    where = (volume[1] > 0).nonzero()
    low, high = where.amin(0), where.amax(0) + 1
    box = volume[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    extent = [(int(b) - int(a)) * s for a, b, s in zip(low, high, spacing, strict=True)]
    voxel = max(e / n for e, n in zip(extent, matrix, strict=True) if n > 1) * float(rng.uniform(1.05, 1.25))
    # averaged to about the wanted voxel first: sampling a fine grid sparsely would alias
    sizes = [max(2, min(b, round(1.4 * e / voxel))) for b, e in zip(box.shape[1:], extent, strict=True)]
    box = functional.adaptive_avg_pool3d(box[None], (sizes[0], sizes[1], sizes[2]))
    half = [n * voxel / e if n > 1 else 0.0 for n, e in zip(matrix, extent, strict=True)]
    angles, shift = rng.normal(0, 0.12, 3), rng.uniform(-0.08, 0.08, 3)
    if matrix[0] == 1:
        angles[1:], shift[0] = 0, rng.uniform(-0.4, 0.6)
    theta = torch.zeros(1, 3, 4)
    turn = rotation(angles) @ torch.diag(torch.tensor([1.0, 1.0, -1.0 if rng.random() < 0.5 else 1.0]))
    # grid_sample counts axes x, y, z
    scale = torch.tensor(half, dtype=torch.float32)
    theta[0, :, :3] = (turn * scale[None, :]).flip(0, 1)
    theta[0, :, 3] = torch.tensor(shift[::-1].copy(), dtype=torch.float32)
    grid = functional.affine_grid(theta, [1, 1, *matrix], align_corners=False)
    return functional.grid_sample(box, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def rotation(angles: np.ndarray) -> Tensor:
    """Rotation matrix of axes (z, y, x) by three angles: in the plane, then about the others."""
    total = torch.eye(3)
    for angle, (a, b) in zip(angles.tolist(), ((1, 2), (0, 2), (0, 1)), strict=True):
        turn = torch.eye(3)
        turn[a, a] = turn[b, b] = float(np.cos(angle))
        turn[a, b], turn[b, a] = -float(np.sin(angle)), float(np.sin(angle))
        total = total @ turn
    return total
