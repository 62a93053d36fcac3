"""The tables of a recipe: data, phases, schedule. Unknown keys and values out of range are refused."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from koosh_models.simulation.phantoms import ANATOMIES
from koosh_models.simulation.trajectories import DYNAMIC, FAMILIES
from koosh_models.training.pet import PetData

Interval = tuple[float, float]
Option = bool | int | float | str | list[int]


class Strict(BaseModel):
    """No unknown keys, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Strict):
    """What is scanned, and how.

    volumes        folder of .npz volumes and label maps; empty: phantoms only
    phantoms       anatomies that ship as code
    phantom_share  of the training cases, where there are volumes too
    validation     subjects or files held out, besides those that the files mark so
    trajectory     families, one drawn for each case
    matrix         sizes, one drawn for each case; its longest axis spans fov_mm
    acceleration, noise, coils   lowest and highest; acceleration is drawn evenly on a logarithmic scale
    maps           "estimated" from the scan, as at the scanner, or the "true" ones
    off_resonance_hz   lowest and highest peak of a smooth field map, at dwell_us from sample to sample
    delays         lowest and highest delay of each gradient, in samples
    motion_voxels, motion_degrees   lowest and highest spread of the poses a lying object takes in turn
    iterates       so many stages are trained towards the first iterates of CG-SENSE of the fully sampled scan without
                   noise, one each; those behind them towards the truth; 0: all towards the truth
    cases          on disk, made once and used in every epoch; 0: a new one each step
    split          self-supervised: the share of the readouts whose samples are only compared with; 0: truth is known
    pet            PET scans instead, of the label maps in `volumes` and of phantoms; the MRI keys don't count then
    """

    volumes: str = ""
    phantoms: tuple[str, ...] = ("head",)
    phantom_share: float = Field(default=0.2, ge=0, le=1)
    validation: tuple[str, ...] = ()
    trajectory: tuple[str, ...] = ("radial3d",)
    matrix: tuple[tuple[int, ...], ...] = ((64, 64, 64),)
    frames: int = Field(default=8, ge=1)
    fov_mm: float = Field(default=240.0, gt=0)
    acceleration: Interval = (6.0, 20.0)
    noise: Interval = (0.0, 0.04)
    coils: tuple[int, int] = (4, 12)
    rotate: bool = True
    maps: Literal["estimated", "true"] = "estimated"
    off_resonance_hz: Interval = (0.0, 0.0)
    dwell_us: float = Field(default=4.0, gt=0)
    delays: Interval = (0.0, 0.0)
    motion_voxels: Interval = (0.0, 0.0)
    motion_degrees: Interval = (0.0, 0.0)
    iterates: int = Field(default=0, ge=0)
    cases: int = Field(default=0, ge=0)
    validation_cases: int = Field(default=4, ge=1)
    validation_acceleration: float | None = 12.0
    validation_noise: float = Field(default=0.02, ge=0)
    validation_coils: int = Field(default=8, ge=1)
    split: float = Field(default=0.0, ge=0, lt=1)
    pet: PetData | None = None
    seed: int = Field(default=0, ge=0)

    @property
    def dynamic(self) -> bool:
        """Whether the scans are series."""
        return any(name in DYNAMIC for name in self.trajectory)

    def fit(self, hold: int) -> bool:
        """Whether all cases, if their number is fixed, are among the `hold` problems that are kept in memory."""
        return 0 < self.cases <= hold

    @field_validator("phantoms", "trajectory")
    @classmethod
    def known(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        """Refuse names that nothing is known by."""
        names = ANATOMIES if info.field_name == "phantoms" else FAMILIES
        for name in value:
            if name not in names:
                raise ValueError(f"unknown {name!r}{nearest(name, names)}; known: {', '.join(names)}")
        return value

    @field_validator("acceleration", "noise", "coils", "off_resonance_hz", "delays", "motion_voxels", "motion_degrees")
    @classmethod
    def ordered(cls, value: Interval) -> Interval:
        """Refuse intervals that hold nothing."""
        if not all(math.isfinite(v) and v >= 0 for v in value) or value[0] > value[1]:
            raise ValueError(f"{value[0]:g} to {value[1]:g} is no interval of numbers >= 0")
        return value

    @field_validator("matrix")
    @classmethod
    def sizes(cls, value: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        """Refuse sizes that no phantom has."""
        if not value or any(len(m) not in (2, 3) or min(m) < 8 or max(m) > 1024 for m in value):
            raise ValueError("each matrix has two or three sizes of 8 to 1024")
        return value


class Phase(Strict):
    """A part of the training: one strategy, so many steps.

    strategy  warmstart, backprop, checkpoint, blockwise, invertible, greedy, sequential, equilibrium
    options   of that strategy, e.g. tile, modules
    rate      the learning rate after its warm-up; it falls to `last` times that by a cosine
    inherit   a stage trained apart starts from the weights of the one before it
    lead      the first of such stages takes so many times the steps of each other
    """

    strategy: str
    steps: int = Field(ge=1)
    rate: float = Field(1e-3, gt=0)
    last: float = Field(default=0.05, ge=0, le=1)
    warmup: int = Field(default=20, ge=0)
    inherit: bool = False
    lead: float = Field(default=1.0, ge=1)
    options: dict[str, Option] = {}


class Training(Strict):
    """The schedule common to all phases.

    accumulate   cases whose gradients are added up for one step of the optimizer
    clip         largest norm of the gradient of one group, 0 for no limit
    ema          decay of the running mean of the weights; those means are what is exported
    memory_mb    what a step may take; the tile of a strategy that has tiles is chosen to fit
    save_every, validate_every   steps
    workers      processes that make or read cases ahead; 0: in the loop itself
    hold         problems kept in memory between epochs
    late         keep of those their images alone; operators are made again from the cache where they are applied
    loss         relative_l1 or relative_l2; `ssim` of it is added
    every        weight of the images before the last one
    init         name or path of weights to begin with; empty: drawn from the seed
    share        what ranks share: "volumes", each has its own, or "coils": all work on one volume, each on some coils
    """

    accumulate: int = Field(default=1, ge=1)
    clip: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    memory_mb: int = Field(default=1024, ge=1)
    save_every: int = Field(default=200, ge=1)
    validate_every: int = Field(default=500, ge=1)
    workers: int = Field(default=0, ge=0)
    hold: int = Field(default=0, ge=0)
    late: bool = False
    loss: Literal["relative_l1", "relative_l2"] = "relative_l2"
    ssim: float = Field(default=0.0, ge=0)
    every: float = Field(default=0.0, ge=0)
    share: Literal["volumes", "coils"] = "volumes"
    init: str = ""
    seed: int = Field(default=0, ge=0)


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` where something is alike."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
