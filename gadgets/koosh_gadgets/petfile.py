"""PET scans as .npz files: counts, background, factors and, where simulated, the truth; scanner and grid as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets import npz
from koosh_gadgets.atomic import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.physics.pet.scanner import Scanner
    from koosh_models.scan import Geometry

REQUIRED = ("counts", "scanner", "geometry")
IMAGES = ("truth", "lesions")


@dataclass(frozen=True, eq=False)
class PetFile:
    """What a PET scan file holds.

    counts      (view, [tof,] bin[, plane]) prompts
    background  same shape, mean of randoms and scatter; None is none
    factor      same shape, attenuation times normalisation; None is 1 everywhere
    guide       (channel, *image) MR on the same grid, None without
    truth       (*image) what was simulated, None for a real scan
    lesions     (*image) share of each voxel that is lesion, None without
    fwhm_mm     resolution to be modelled, 0 for none
    """

    scanner: Scanner
    geometry: Geometry
    counts: Tensor
    background: Tensor | None = None
    factor: Tensor | None = None
    guide: Tensor | None = None
    truth: Tensor | None = None
    lesions: Tensor | None = None
    fwhm_mm: float = 0.0


def write_pet(path: str | Path, scan: PetFile) -> None:
    """Write the file, whole or not at all."""
    names = ("counts", "background", "factor", "guide", *IMAGES)
    arrays = {n: getattr(scan, n).cpu().numpy() for n in names if getattr(scan, n) is not None}
    with atomic_file(Path(path)) as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            scanner=json.dumps(asdict(scan.scanner)),
            geometry=json.dumps(asdict(scan.geometry)),
            fwhm_mm=scan.fwhm_mm,
            **arrays,
        )


def read_pet(path: str | Path) -> PetFile:
    """The scan of a file; a damaged or foreign one is a ValueError that says what is missing."""
    import torch

    from koosh_models.physics.pet.scanner import Scanner, TimeOfFlight

    name = Path(path).name
    held = npz.arrays(path)
    if missing := [n for n in REQUIRED if n not in held]:
        raise ValueError(f"{name} is no PET scan: it holds {sorted(held)}, {', '.join(missing)} missing")
    try:
        scanner = json.loads(str(held["scanner"]))
        tof = scanner.pop("tof", None)
        built = Scanner(**scanner, tof=None if tof is None else TimeOfFlight(**tof))
        geometry = geometry_from(json.loads(str(held["geometry"])))
        fwhm_mm = float(held.get("fwhm_mm", 0.0))
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{name}: scanner or geometry can't be read ({error})") from error
    data: dict[str, Tensor] = {
        n: torch.from_numpy(held[n].astype(np.float32)) for n in ("counts", "background", "factor") if n in held
    }
    images: dict[str, Tensor] = {
        n: torch.from_numpy(held[n].astype(np.float32)) for n in (*IMAGES, "guide") if n in held
    }
    check_shapes(name, built.sinogram(len(geometry.matrix)), data, geometry.matrix, images)
    return PetFile(built, geometry, fwhm_mm=fwhm_mm, **data, **images)


def geometry_from(fields: dict[str, object]) -> Geometry:
    """The geometry of its JSON form."""
    from koosh_models.scan import Geometry

    return Geometry(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


def check_shapes(
    name: str,
    sinogram: tuple[int, ...],
    data: dict[str, Tensor],
    matrix: tuple[int, ...],
    images: dict[str, Tensor],
) -> None:
    """Refuse arrays that don't belong to the scanner and the grid of the file."""
    for key, value in data.items():
        if tuple(value.shape) != sinogram:
            raise ValueError(f"{name}: {key} has shape {tuple(value.shape)}, the scanner measures {sinogram}")
    for key, value in images.items():
        if tuple(value.shape[-len(matrix) :]) != matrix:
            raise ValueError(f"{name}: {key} has shape {tuple(value.shape)}, the image grid is {matrix}")
