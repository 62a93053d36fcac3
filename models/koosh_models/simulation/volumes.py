"""Real anatomy as the truth of a simulation: magnitude volumes and tissue label maps, resampled and varied by seed."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from koosh_models.simulation.phantoms import Phantom, smooth_phase
from koosh_models.simulation.shapes import band_limited

TABLE = 65536
RIGHT_OF = 39
"""FreeSurfer numbers the structures of the right hemisphere 41 to 60: those of the left one plus 39."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One subject's magnitude image or label map.

    data      (z, y, x) float32, 1 at the 99th percentile of the object; or int32 labels, 0 outside
    voxel_mm  (z, y, x)
    """

    data: Tensor
    voxel_mm: tuple[float, float, float]
    subject: str
    split: str

    @property
    def labels(self) -> bool:
        """Whether the numbers are tissue labels."""
        return not self.data.is_floating_point()


def load(path: str | Path) -> Volume:
    """The volume of an .npz file: `image` with axes x, y, z in RAS, `spacing_mm`, `scale`, `meta` (JSON text)."""
    path = Path(path)
    with archive(path) as content:
        meta = metadata(content, path)
        if "image" not in content:
            raise ValueError(f"{path.name} has no array `image`; it has {', '.join(content.files) or 'nothing'}")
        image = content["image"]
        scale = float(content["scale"]) if "scale" in content else 1.0
        spacing = [float(s) for s in content["spacing_mm"]] if "spacing_mm" in content else [1.0, 1.0, 1.0]
    labels = "label" in str(meta.get("contrast", meta.get("modality", ""))).lower()
    return prepared(oriented(image, path.name), spacing[::-1], labels, scale, subject_of(meta, path), split_of(path))


def archive(path: Path) -> np.lib.npyio.NpzFile:
    """The open archive; what isn't one is a clear error. Pickled arrays are refused by numpy."""
    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is no .npz archive that can be read: {error}") from error
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ValueError(f"{path.name} holds one bare array; wanted an .npz archive with `image` and `spacing_mm`")
    return content


def metadata(content: np.lib.npyio.NpzFile, path: Path) -> dict[str, object]:
    """The JSON in `meta`, or nothing where the archive has none."""
    if "meta" not in content:
        return {}
    try:
        meta = json.loads(str(content["meta"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: `meta` is no JSON: {error}") from error
    return meta if isinstance(meta, dict) else {}


def oriented(image: np.ndarray, name: str) -> np.ndarray:
    """(z, y, x) with x to the left and y to the back (LPS), from x, y, z in RAS."""
    if image.ndim != 3 or min(image.shape) < 2:
        raise ValueError(f"{name}: the image has shape {image.shape}; wanted three axes")
    return np.ascontiguousarray(image[::-1, ::-1].T)


def prepared(
    image: np.ndarray, voxel_mm: Iterable[float], labels: bool, scale: float, subject: str, split: str
) -> Volume:
    """A volume from (z, y, x) numbers: labels as they are, magnitudes divided by their 99th percentile."""
    z, y, x = (float(v) for v in voxel_mm)
    if not all(math.isfinite(v) and v > 0 for v in (z, y, x)):
        raise ValueError(f"{subject}: voxel size {(z, y, x)} mm; wanted three positive numbers")
    if labels:
        return Volume(torch.from_numpy(image.astype(np.int32)), (z, y, x), subject, split)
    magnitude = torch.from_numpy(np.abs(image).astype(np.float32) * np.float32(scale))
    if not bool(torch.isfinite(magnitude).all()) or not bool((magnitude > 0).any()):
        raise ValueError(f"{subject}: the volume contains NaN or Inf, or nothing but zeros")
    return Volume(magnitude / percentile(magnitude[magnitude > 0], 0.99), (z, y, x), subject, split)


def percentile(values: Tensor, share: float) -> float:
    """The value that `share` of all are below; at most a million of them, evenly chosen, are looked at."""
    few = values.flatten()[:: max(1, values.numel() // 1_000_000)]
    return float(few.kthvalue(max(1, round(share * few.numel()))).values)


def subject_of(meta: dict[str, object], path: Path) -> str:
    """The subject that the file says, or its name."""
    return str(meta.get("subject") or path.name.split(".")[0])


def split_of(path: str | Path) -> str:
    """`train`, `val` or `test`: what the file's `meta` says, else a tenth of all subjects, by name, for validation."""
    path = Path(path)
    meta: dict[str, object] = {}
    if path.suffix == ".npz":
        with archive(path) as content:
            meta = metadata(content, path)
    if meta.get("split") in ("train", "val", "test"):
        return str(meta["split"])
    digest = hashlib.sha256(subject_of(meta, path).encode()).digest()
    return "val" if digest[0] % 10 == 0 else "train"


def of_split(paths: Iterable[str | Path], split: str) -> list[Path]:
    """The files of that split; a subject found in two splits is an error."""
    seen: dict[str, str] = {}
    chosen = []
    for path in sorted(Path(p) for p in paths):
        with archive(path) as content:
            subject = subject_of(metadata(content, path), path)
        where = split_of(path)
        if seen.setdefault(subject, where) != where:
            raise ValueError(f"subject {subject!r} is in the splits {seen[subject]} and {where} ({path.name})")
        if where == split:
            chosen.append(path)
    return chosen


def anatomy(volume: Volume, matrix: tuple[int, ...], seed: int = 0, vary: bool = True) -> Phantom:
    """The volume as the truth of a scan: resampled to the matrix, with a smooth phase; labels get a random contrast.

    vary   also turn, shift, scale and mirror it a little, and change its grey scale
    A 2D matrix is the central plane.
    """
    rng = np.random.default_rng([seed, 11])
    grey = random_contrast(volume.data, rng) if volume.labels else volume.data
    shape = (1, *matrix) if len(matrix) == 2 else matrix
    image = resampled(grey, volume.voxel_mm, shape, random_turn(rng) if vary else torch.eye(3, 4))
    image = image.clamp_min(0)
    if volume.labels:
        image = image * (1 + float(rng.uniform(0.01, 0.06)) * torch.from_numpy(band_limited(shape, rng, 0.05)))
    elif vary:
        image = image ** float(rng.uniform(0.75, 1.3))
    image = image / max(percentile(image, 0.995), 1e-3)
    phase = torch.from_numpy(smooth_phase(shape, rng))
    mask = object_mask(image)
    return Phantom((image * torch.polar(torch.ones(()), phase)).reshape(matrix), mask.reshape(matrix))


def random_contrast(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """A grey image from tissue labels: a random mean for each tissue, left like right."""
    means = rng.uniform(0.08, 1.0, TABLE).astype(np.float32)
    means[0] = 0
    means[41:61] = means[41 - RIGHT_OF : 61 - RIGHT_OF]
    return torch.from_numpy(means)[labels.clamp(0, TABLE - 1)]


def random_turn(rng: np.random.Generator) -> Tensor:
    """(3, 4) affine of a small rotation, shift, stretch and mirror image in x, for coordinates x, y, z."""
    a, b, c = rng.normal(0, 0.15, 3)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    stretch = np.diag(rng.uniform(0.9, 1.1, 3)) @ np.diag([rng.choice([-1, 1]), 1, 1])
    shift = rng.uniform(-0.05, 0.05, (3, 1))
    return torch.from_numpy(np.concatenate([about_z @ about_y @ about_x @ stretch, shift], axis=1)).float()


def resampled(image: Tensor, voxel_mm: tuple[float, float, float], shape: tuple[int, ...], turn: Tensor) -> Tensor:
    """(z, y, x) on a grid of `shape` whose longest side just holds the volume's, without aliasing.

    `turn` (3, 4) maps coordinates x, y, z of the new grid (-1 to 1 over its field of view) into the old one's.
    """
    extent = [n * v for n, v in zip(image.shape, voxel_mm, strict=True)]
    step = step_mm(image, voxel_mm, shape)
    smooth = image.float()
    for axis in range(3):
        factor = step / voxel_mm[axis]
        if shape[axis] > 1 and factor > 1:
            smooth = blurred(smooth, axis, 0.4 * math.sqrt(factor**2 - 1))
    grid = [(torch.arange(n) - n // 2) * step / (e / 2) for n, e in zip(shape, extent, strict=True)]
    z, y, x = torch.meshgrid(*grid, indexing="ij")
    wide = torch.tensor([extent[2], extent[1], extent[0]])
    # rotate in millimetres, not in shares of unequal sides
    points = torch.stack([x, y, z], dim=-1).float() * wide
    # voxel n//2 stays voxel n//2, so that the same grid gives the same image
    centre = torch.tensor([(1 - n % 2) / n for n in image.shape[::-1]])
    points = (points @ turn[:, :3].T) / wide + turn[:, 3] + centre
    return functional.grid_sample(smooth[None, None], points[None], align_corners=False, padding_mode="zeros")[0, 0]


def step_mm(image: Tensor, voxel_mm: tuple[float, float, float], matrix: tuple[int, ...]) -> float:
    """The voxel size (mm, cubic) with which the whole volume, or its plane, just fits into the matrix."""
    extent = [n * v for n, v in zip(image.shape, voxel_mm, strict=True)][-len([n for n in matrix if n > 1]) :]
    return max(e / n for e, n in zip(extent, [n for n in matrix if n > 1], strict=True))


def blurred(image: Tensor, axis: int, sigma: float) -> Tensor:
    """(z, y, x) smoothed along one axis by a Gaussian of `sigma` voxels; outside is zero."""
    reach = max(1, math.ceil(2.5 * sigma))
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    out, n = image * (weights[0] / total), image.shape[axis]
    # shifted sums: torch's convolution of one channel is some ten times slower
    for k, weight in enumerate(weights[1:], start=1):
        if k < n:
            out.narrow(axis, k, n - k).add_(image.narrow(axis, 0, n - k), alpha=weight / total)
            out.narrow(axis, 0, n - k).add_(image.narrow(axis, k, n - k), alpha=weight / total)
    return out


def object_mask(image: Tensor, level: float = 0.06) -> Tensor:
    """(z, y, x) bool: the object without the noise around it, small holes closed."""
    thick = image.shape[0] > 1
    window, pad = (3, 3, 3) if thick else (1, 3, 3), (1, 1, 1) if thick else (0, 1, 1)
    near = functional.avg_pool3d(image[None, None], window, 1, pad) > level
    grown = functional.max_pool3d(near.float(), window, 1, pad)
    return (1 - functional.max_pool3d(1 - grown, window, 1, pad))[0, 0] > 0
