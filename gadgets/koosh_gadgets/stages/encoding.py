"""What the header says about one encoding, in plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ismrmrd
import numpy as np


@dataclass(frozen=True, eq=False)
class Encoding:
    """One encoding space.

    matrix, fov_mm              encoded, (x, y, z)
    recon_matrix, recon_fov_mm  wanted, (x, y, z)
    family      name of the trajectory: the description's identifier, else the header's word
    readouts    per volume, where the header says so outright
    samples     per readout, where the header says so
    limited     per volume, as the encoding limits have it (often wrong in converted files)
    centers     (step 1, step 2) of k = 0
    unit        of the trajectory, where the header names it
    phases      cardiac (or other) phases of a volume
    """

    matrix: np.ndarray
    fov_mm: np.ndarray
    recon_matrix: np.ndarray
    recon_fov_mm: np.ndarray
    family: str
    cartesian: bool
    readouts: int | None
    samples: int | None
    limited: int | None
    centers: tuple[int, int]
    unit: str | None
    phases: int = 1

    @property
    def n_axes(self) -> int:
        """2 for a slice, 3 for a volume."""
        return 2 if self.matrix[2] == 1 else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Encoded matrix, (z, y, x) or (y, x)."""
        return tuple(int(n) for n in self.matrix[: self.n_axes][::-1])

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Encoded field of view, same order."""
        return tuple(float(f) for f in self.fov_mm[: self.n_axes][::-1])


def encodings(header: ismrmrd.xsd.ismrmrdHeader) -> list[Encoding]:
    """Every encoding of a checked header."""
    unit = user_parameter(header.userParameters, "trajectoryUnit")
    total = user_parameter(header.userParameters, "expectedReadouts")
    return [_encoding(e, unit, total, len(header.encoding)) for e in header.encoding]


def user_parameter(parameters: object, name: str) -> str | None:
    """The value of a user parameter of any type, as text."""
    for kind in ("userParameterLong", "userParameterDouble", "userParameterString"):
        for item in getattr(parameters, kind, None) or []:
            if item.name == name:
                return str(item.value)
    return None


def count(text: str | None, name: str) -> int | None:
    """A user parameter that counts something; its value is never repeated, since it may be anything."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 2**63:
        raise ValueError(f"the header's user parameter for {name} is no number from 0 upwards")
    return int(value)


def _encoding(e: ismrmrd.xsd.encodingType, unit: str | None, total: str | None, n_encodings: int) -> Encoding:
    description = e.trajectoryDescription
    readouts = user_parameter(description, "readouts") or user_parameter(description, "interleaves")
    if readouts is None and total is not None and n_encodings == 1 and _volumes(e) == 1:
        readouts = total
    cartesian = e.trajectory.value == "cartesian"
    return Encoding(
        matrix=_xyz(e.encodedSpace.matrixSize),
        fov_mm=_xyz(e.encodedSpace.fieldOfView_mm),
        recon_matrix=_xyz(e.reconSpace.matrixSize),
        recon_fov_mm=_xyz(e.reconSpace.fieldOfView_mm),
        family=description.identifier if description is not None and description.identifier else e.trajectory.value,
        cartesian=cartesian,
        readouts=count(readouts, "readouts"),
        samples=count(user_parameter(description, "samples"), "samples"),
        limited=None if cartesian else _limited(e),
        centers=(_center(e, 1), _center(e, 2)),
        unit=unit,
        phases=_count(getattr(e.encodingLimits, "phase", None)),
    )


def _xyz(node: object) -> np.ndarray:
    return np.array([getattr(node, axis) for axis in "xyz"], dtype=np.float64)


def _count(limit: ismrmrd.xsd.limitType | None) -> int:
    return 1 if limit is None else max(1, int(limit.maximum) - int(limit.minimum or 0) + 1)


def _limited(e: ismrmrd.xsd.encodingType) -> int | None:
    """Readouts per volume by the counters' ranges."""
    limits = e.encodingLimits
    if limits is None or limits.kspace_encoding_step_1 is None:
        return None
    return _count(limits.kspace_encoding_step_1) * _count(limits.kspace_encoding_step_2)


def _volumes(e: ismrmrd.xsd.encodingType) -> int:
    """Volumes by the counters' ranges."""
    n = 1
    for name in ("slice", "contrast", "phase", "repetition", "set", "average"):
        n *= _count(getattr(e.encodingLimits, name, None))
    return n


def _center(e: ismrmrd.xsd.encodingType, step: int) -> int:
    limit = getattr(e.encodingLimits, f"kspace_encoding_step_{step}", None)
    return int(limit.center) if limit is not None and limit.center is not None else 0
