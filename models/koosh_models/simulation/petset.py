"""Sets of simulated PET scans to train and to test on, with their noise-free targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from koosh_models.physics.pet.projector import Projector, ordered_subsets
from koosh_models.physics.pet.scanner import Scanner
from koosh_models.physics.problem import EmissionProblem
from koosh_models.scan import Geometry
from koosh_models.simulation.pet import Acquisition, Measurement, measure, noise_free, problem_of
from koosh_models.simulation.tissue import Labels, Patient, from_labels, procedural


@dataclass(frozen=True, eq=False)
class Example:
    """One scan with what a network is trained towards.

    first, stride  target k is the noise-free OSEM image after `first + k * stride` updates
    """

    patient: Patient
    scan: Measurement
    projectors: tuple[Projector, ...]
    problem: EmissionProblem
    first: int = 0
    stride: int = 1
    _targets: dict[int, Tensor] = field(default_factory=dict)

    def target(self, k: int) -> Tensor:
        """T_k, computed once for all k up to the largest asked for."""
        if k not in self._targets:
            n = 2 ** math.ceil(math.log2(max(k, 8)))
            images = noise_free(self.scan, self.projectors, self.problem, self.first + n * self.stride)
            self._targets.update({i: images[self.first + i * self.stride - 1] for i in range(1, n + 1)})
        return self._targets[k]

    @property
    def truth(self) -> Tensor:
        """The activity that was simulated."""
        return self.scan.truth


@dataclass(frozen=True, eq=False)
class PetSet:
    """How a set is drawn; example `i` of a seed is always the same.

    counts   lowest and highest, drawn log-uniformly
    labels   label maps that take turns with the phantoms; none leaves the phantoms alone
    guided   the MR image goes to the network
    """

    scanner: Scanner
    geometry: Geometry
    n_subsets: int
    counts: tuple[float, float]
    seed: int
    labels: Sequence[Labels] = ()
    phantoms: tuple[str, ...] = ("head", "chest")
    guided: bool = True
    fwhm_mm: float = 4.5
    first: int = 0
    stride: int = 1
    at: Tensor = field(default_factory=lambda: torch.empty(0))

    @cached_property
    def projectors(self) -> tuple[Projector, ...]:
        """Shared by all examples, with type and device of `at`."""
        return ordered_subsets(self.scanner, self.geometry, self.n_subsets, self.at)

    def example(self, index: int) -> Example:
        """Number `index` of the set."""
        seed = 1_000_003 * self.seed + index
        generator = torch.Generator().manual_seed(seed)
        share = float(torch.rand((), generator=generator))
        counts = self.counts[0] * (self.counts[1] / self.counts[0]) ** share
        patient = self.patient(index, seed)
        scan = measure(patient, self.projectors, Acquisition(counts, fwhm_mm=self.fwhm_mm), seed + 1)
        problem = problem_of(scan, self.projectors, self.guided)
        return Example(patient, scan, self.projectors, problem, self.first, self.stride)

    def patient(self, index: int, seed: int) -> Patient:
        """Three of four from label maps, where there are any; else the phantoms in turn."""
        if self.labels and index % 4 != 3:
            return from_labels(self.labels[(index - index // 4) % len(self.labels)], self.geometry, seed)
        return procedural(
            self.phantoms[(index // 4 if self.labels else index) % len(self.phantoms)], self.geometry, seed
        )

    def take(self, n: int) -> list[Example]:
        """The first `n` examples."""
        return [self.example(i) for i in range(n)]
