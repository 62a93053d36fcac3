"""PET cases for the training loop: simulated scans, made from nothing but a seed and a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from koosh_models.baselines.pet import error, iterates, map_em, smoothed
from koosh_models.losses import Target
from koosh_models.physics.pet.prior import bowsher, quadratic
from koosh_models.physics.pet.scanner import Scanner, natural
from koosh_models.physics.problem import EmissionProblem
from koosh_models.scan import Geometry
from koosh_models.simulation.petset import Example, PetSet
from koosh_models.simulation.tissue import PHANTOMS, labels_in

if TYPE_CHECKING:
    from koosh_models.training.tables import Data

SMOOTHINGS_MM = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
STRENGTHS = (0.003, 0.01, 0.03, 0.06, 0.12, 0.25)


class PetData(BaseModel):
    """What is scanned by PET, and how.

    size, fov_mm    voxels across and what they cover; bins are as wide as voxels
    rings           1 is 2D; half of the ring differences are measured
    subsets         ordered subsets, as the network's
    counts          lowest and highest prompts, drawn evenly on a logarithmic scale
    phantoms        bodies that ship as code; with label maps (`data.volumes`) they make up a quarter
    targets         the "truth" for every stage, or noise-free OSEM "iterates", `stride` updates apart
    guided          the MR image goes to the network
    first           updates of OSEM before the first stage: the network's start_steps where it starts with "osem"
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=64, ge=8, le=512)
    fov_mm: float = Field(default=256.0, gt=0)
    views: int = Field(default=96, ge=1)
    rings: int = Field(default=1, ge=1)
    ring_mm: float = Field(default=10.0, gt=0)
    span: int = Field(default=1, ge=1)
    subsets: int = Field(default=12, ge=1)
    counts: tuple[float, float] = (1e5, 1e6)
    fwhm_mm: float = Field(default=4.5, ge=0)
    phantoms: tuple[str, ...] = ("head", "chest")
    targets: Literal["truth", "iterates"] = "truth"
    stride: int = Field(default=1, ge=1)
    guided: bool = False
    first: int = Field(default=0, ge=0)

    @field_validator("counts")
    @classmethod
    def ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        """Refuse an interval that holds nothing."""
        if not 0 < value[0] <= value[1] < float("inf"):
            raise ValueError(f"{value[0]:g} to {value[1]:g} is no interval of counts")
        return value

    @field_validator("phantoms")
    @classmethod
    def known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse names that nothing is known by."""
        if not value or set(value) - set(PHANTOMS):
            raise ValueError(f"unknown or no PET phantom in {list(value)}; known: {', '.join(PHANTOMS)}")
        return value

    @property
    def scanner(self) -> Scanner:
        """The scanner."""
        return Scanner(
            self.views, self.size, self.fov_mm / self.size, n_rings=self.rings, ring_mm=self.ring_mm,
            max_difference=self.rings // 2, span=self.span, diameter_mm=max(700.0, 2 * self.fov_mm),
        )  # fmt: skip

    @property
    def geometry(self) -> Geometry:
        """Its image grid."""
        return natural(self.scanner, self.size, self.fov_mm)


@dataclass(frozen=True, eq=False)
class PetCase:
    """What one step of training needs of a PET scan.

    target  the simulated activity; `goal` may be images of their own for each stage
    mask    where quality is judged, bool: the body
    """

    name: str
    example: Example
    iterated: bool
    mask: Tensor
    facts: dict[str, float | str]

    @property
    def target(self) -> Tensor:
        """What the finished image is compared with."""
        return self.example.truth.cpu()

    def goal(self, device: torch.device) -> Target:
        """What the strategy trains towards."""
        if self.iterated:
            return lambda k: self.example.target(k).to(device)
        return self.example.truth.to(device)

    def problem(self, device: torch.device | str = "cpu") -> EmissionProblem:
        """The measurement as networks and baselines see it; the case is made where its set is."""
        if torch.device(device).type != self.example.problem.device.type:
            raise ValueError(f"the case is on {self.example.problem.device}, asked for on {device}")
        return self.example.problem


@lru_cache(maxsize=4)
def pet_set(pet: PetData, volumes: str, seed: int, split: str, device: str) -> PetSet:
    """The set of a split; held-out patients are other label maps and other phantoms."""
    maps = labels_in(volumes) if volumes else ([], [])
    return PetSet(
        pet.scanner, pet.geometry, pet.subsets, pet.counts, 2 * seed + (split != "training"),
        maps[split != "training"], pet.phantoms, pet.guided, pet.fwhm_mm, pet.first, pet.stride,
        torch.empty(0, device=device),
    )  # fmt: skip


def draw_pet(data: Data, split: str, index: int, device: str = "cpu") -> PetCase:
    """Case number `index` of a split: the same arguments give the same bits."""
    pet = data.pet
    assert pet is not None
    example = pet_set(pet, data.volumes, data.seed, split, device).example(index)
    mask = example.patient.mu.cpu() > 0.001
    facts: dict[str, float | str] = {"counts": float(example.scan.counts.sum()), "family": "pet"}
    return PetCase(f"pet-{split}-{index}", example, pet.targets == "iterates", mask, facts)


def best(images: Iterable[Tensor], case: PetCase) -> Tensor:
    """The image nearest to the truth: no one could tune a method better."""
    return min(images, key=lambda image: error(image.cpu(), case.target))


def best_osem(problem: EmissionProblem, case: PetCase) -> Tensor:
    """OSEM, stopped and smoothed as is best for this case."""
    voxel = case.example.projectors[0].geometry.voxel_mm
    images = list(islice(iterates(problem), 6 * problem.n_subsets))
    return best(
        [*images, *(smoothed(x, mm, voxel) for x in images[problem.n_subsets :: 6] for mm in SMOOTHINGS_MM)], case
    )


def best_map(problem: EmissionProblem, case: PetCase) -> Tensor:
    """MAP-EM whose prior, quadratic or Bowsher's, and strength are the best for this case."""
    voxel = case.example.projectors[0].geometry.voxel_mm
    priors = quadratic(problem.shape, voxel, case.example.truth), bowsher(case.example.scan.guide, voxel)
    return best([map_em(problem, prior, strength, 6) for prior in priors for strength in STRENGTHS], case)
