"""The card: what weights were trained on, and for which scans they may be used."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from koosh_models.networks.unrolled import Dims
from koosh_models.scan import Geometry, Scan
from koosh_models.weights.describe import describe

LARGEST = {"stages": 256, "features": 4096, "layers": 64, "guides": 16, "traits": 64, "degree": 16}
Interval = tuple[float, float]


class Range(BaseModel):
    """A set of scans.

    axes          of the image: 2 or 3
    families      trajectories, as `describe` names them
    acceleration, matrix, voxel_mm, coils   lowest and highest; of matrix and voxel the smallest and largest axis
    noise         share of the mean signal; recorded, a scan does not tell it
    dynamic       series (frame, y, x) instead of single images
    frames        lowest and highest number of them in a series
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    axes: Literal[2, 3] = 3
    families: tuple[str, ...] = ("radial",)
    acceleration: Interval = (1.0, 1000.0)
    matrix: Interval = (1.0, 4096.0)
    voxel_mm: Interval = (0.01, 100.0)
    coils: Interval = (1.0, 1024.0)
    noise: Interval = (0.0, 1.0)
    dynamic: bool = False
    frames: Interval = (1.0, 4096.0)

    @field_validator("acceleration", "matrix", "voxel_mm", "coils", "noise", "frames")
    @classmethod
    def ordered(cls, value: Interval) -> Interval:
        """Refuse an interval that holds nothing."""
        if not (math.isfinite(value[0]) and math.isfinite(value[1]) and 0 <= value[0] <= value[1]):
            raise ValueError(f"{value[0]:g} to {value[1]:g} is no interval of numbers >= 0")
        return value

    def refuses(self, scan: Scan) -> str | None:
        """Why a scan is none of these, with what was seen and what is known; None where it is one."""
        seen = describe(scan)
        if len(seen.matrix) != self.axes or (seen.n_frames is not None) != self.dynamic:
            frames = "a series" if seen.n_frames is not None else "a single image"
            return f"the scan is {frames} over {len(seen.matrix)} axes, the network is for {self._kind()}"
        if seen.family not in self.families:
            return f"the trajectory is {seen.family}, the network knows {', '.join(self.families)}"
        checks: tuple[tuple[str, tuple[float, ...], Interval], ...] = (
            ("acceleration", (seen.acceleration,), self.acceleration),
            ("matrix", tuple(float(n) for n in seen.matrix), self.matrix),
            ("voxel size in mm", seen.voxel_mm, self.voxel_mm),
            ("number of coils", (float(seen.n_coils),), self.coils),
            ("number of frames", () if seen.n_frames is None else (float(seen.n_frames),), self.frames),
        )
        for what, values, (low, high) in checks:
            # a tenth of slack: spokes are rounded, and a range is no cliff
            if any(v < 0.9 * low or v > 1.1 * high for v in values):
                return f"the {what} is {' x '.join(f'{v:.4g}' for v in values)}, the network knows {low:g} to {high:g}"
        return None

    def refuses_pet(self, grid: Geometry) -> str | None:
        """Why PET scans reconstructed on that grid are none of these; None where they are."""
        if "pet" not in self.families or len(grid.matrix) != self.axes:
            known = ", ".join(self.families)
            return f"the scan is PET over {len(grid.matrix)} axes, the network is for {known} over {self.axes}"
        low, high = self.voxel_mm
        if min(grid.voxel_mm) < 0.9 * low or max(grid.voxel_mm) > 1.1 * high:
            seen = " x ".join(f"{v:.4g}" for v in grid.voxel_mm)
            return f"the voxel size is {seen} mm, the network knows {low:g} to {high:g}"
        return None

    def _kind(self) -> str:
        return f"{'series' if self.dynamic else 'single images'} over {self.axes} axes"


class Metric(BaseModel):
    """One measured number: what was measured on which data by which method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    method: str
    psnr: float | None = None
    ssim: float | None = None
    nrmse: float | None = None
    hfen: float | None = None
    seconds: float | None = None


class Card(BaseModel):
    """Travels inside the weights file and beside it.

    dims      the network
    trained   what it saw in training
    accepts   scans it may be used for; measured beyond `trained` where the metrics say so
    anatomy   body parts seen, in words
    data      names and licences of the training data
    recipe    the text of the recipe
    metrics   validation, with the peers of the same run
    sha256    of the tensors
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    dims: Dims
    trained: Range
    accepts: Range
    anatomy: str = ""
    data: tuple[str, ...] = ()
    recipe: str = ""
    metrics: tuple[Metric, ...] = ()
    notes: str = ""
    steps: int = 0
    created: str = ""
    software: str = ""
    parameters: int = 0
    sha256: str = ""

    @field_validator("dims")
    @classmethod
    def buildable(cls, dims: Dims) -> Dims:
        """Refuse sizes that would exhaust memory before anything could be checked."""
        for name, most in LARGEST.items():
            if not 0 <= getattr(dims, name) <= most:
                raise ValueError(f"{name} is {getattr(dims, name)}; wanted 0 to {most}")
        return dims

    def refuses(self, scan: Scan) -> str | None:
        """Why this network must not reconstruct the scan; None where it may."""
        return self.accepts.refuses(scan)
