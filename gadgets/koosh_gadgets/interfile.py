"""Interfile 3.3 images, the header beside the raw voxels: what most PET programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from koosh_gadgets.atomic import atomic_file

if TYPE_CHECKING:
    from koosh_models.scan import Geometry


def write_interfile(path: str | Path, volume: NDArray[np.generic], geometry: Geometry) -> Path:
    """Write `path` (.hv) and the little-endian float32 voxels beside it (.v); the header comes last."""
    path = Path(path)
    if path.suffix != ".hv" or volume.shape != geometry.matrix:
        raise ValueError(f"{path.name} with a volume of {volume.shape}; wanted NAME.hv and shape {geometry.matrix}")
    voxels = path.with_suffix(".v")
    with atomic_file(voxels) as file:
        file.write(np.ascontiguousarray(volume, "<f4").tobytes())
    with atomic_file(path) as file:
        file.write(header(voxels.name, geometry).encode("ascii"))
    return path


def header(voxels: str, geometry: Geometry) -> str:
    """The header; axes x, y, z, sizes in mm, z the slowest."""
    z, y, x = (1, *geometry.matrix)[-3:]
    dz, dy, dx = (geometry.slice_mm, *geometry.voxel_mm)[-3:]
    lines = [
        "!INTERFILE  :=",
        "!imaging modality := PT",
        "; research output, not for diagnosis",
        f"!name of data file := {voxels}",
        "!version of keys := 3.3",
        "!GENERAL DATA :=",
        "!data offset in bytes := 0",
        "!GENERAL IMAGE DATA :=",
        "!type of data := PET",
        "imagedata byte order := LITTLEENDIAN",
        "!PET STUDY (General) :=",
        "!PET data type := Image",
        "process status := Reconstructed",
        "!number format := float",
        "!number of bytes per pixel := 4",
        "number of dimensions := 3",
        *(f"!matrix size [{i}] := {n}" for i, n in enumerate((x, y, z), 1)),
        *(f"scaling factor (mm/pixel) [{i}] := {v:.6g}" for i, v in enumerate((dx, dy, dz), 1)),
        "number of time frames := 1",
        "!END OF INTERFILE :=",
    ]
    return "\n".join(lines) + "\n"
