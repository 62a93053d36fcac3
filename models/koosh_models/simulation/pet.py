"""PET scans of known patients: attenuated, blurred, with randoms and scatter, and Poisson noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from koosh_models.baselines.pet import iterates
from koosh_models.physics.pet.emission import attenuation, emission_problem, expected, multiplicity, responses
from koosh_models.physics.pet.projector import Projector
from koosh_models.physics.pet.psf import Gaussian
from koosh_models.physics.problem import EmissionProblem
from koosh_models.simulation.tissue import Patient


@dataclass(frozen=True)
class Acquisition:
    """How a scan is taken.

    counts   prompts expected in all
    randoms, scatter  shares of the prompts
    fwhm_mm  resolution of the scanner, all axes; 0 is ideal
    """

    counts: float
    randoms: float = 0.2
    scatter: float = 0.2
    fwhm_mm: float = 4.5

    def __post_init__(self) -> None:
        if not (self.counts > 0 and self.randoms >= 0 and self.scatter >= 0 and self.randoms + self.scatter < 1):
            raise ValueError(f"wanted counts > 0 and shares of randoms and scatter that leave trues, got {self}")


@dataclass(frozen=True, eq=False)
class Measurement:
    """One simulated scan and its truth.

    counts, background, mean  (view, [tof,] bin[, plane]): prompts, mean randoms plus scatter, mean prompts
    factor   attenuation times normalisation, same shape
    truth    image in the units of the reconstruction (counts per mm of line at factor 1)
    fwhm_mm  resolution modelled
    """

    counts: Tensor
    background: Tensor
    mean: Tensor
    factor: Tensor
    truth: Tensor
    guide: Tensor
    fwhm_mm: float


def measure(patient: Patient, projectors: tuple[Projector, ...], how: Acquisition, seed: int) -> Measurement:
    """A scan of the patient; the projectors are all subsets of one scanner on the patient's grid."""
    generator = torch.Generator().manual_seed(seed)
    activity = patient.activity.to(projectors[0].at)
    factor = attenuation(projectors, patient.mu.to(projectors[0].at))
    if activity.ndim == 3:
        factor = factor * multiplicity(projectors[0].scanner, factor)
    trues = expected(responses(projectors, blur(projectors[0], how.fwhm_mm), factor), activity)
    if float(trues.sum()) <= 0:
        raise ValueError("the scanner sees no activity of this patient: check fields of view and the slice taken")
    gain = how.counts * (1 - how.randoms - how.scatter) / float(trues.sum())
    shape = factor / factor.mean() if activity.ndim == 3 else torch.ones_like(factor)
    randoms = torch.ones_like(trues) * shape.mean(0, keepdim=True)
    scatter = smooth_scatter(trues, projectors[0])
    background = how.counts * (how.randoms * randoms / randoms.sum() + how.scatter * scatter / scatter.sum())
    mean = gain * trues + background
    counts = torch.poisson(mean.cpu(), generator=generator).to(mean)
    return Measurement(counts, background, mean, factor, gain * activity, patient.guide.to(activity), how.fwhm_mm)


def blur(projector: Projector, fwhm_mm: float) -> Gaussian | None:
    """The scanner's resolution on the projector's grid."""
    voxel = projector.geometry.voxel_mm
    return Gaussian((fwhm_mm,) * len(voxel), voxel) if fwhm_mm > 0 else None


def smooth_scatter(trues: Tensor, projector: Projector) -> Tensor:
    """Scatter's broad distribution: the trues blurred by a third of the field of view along bins, and over views."""
    scanner = projector.scanner
    bin_axis = 1 if scanner.tof is None else 2
    radius = scanner.n_bins // 2
    t = torch.arange(-radius, radius + 1).to(trues) / (scanner.n_bins / 7)
    kernel = torch.exp(-t.square() / 2)
    rows = trues.mean(0, keepdim=True).expand_as(trues).movedim(bin_axis, -1) * 0.5 + trues.movedim(bin_axis, -1) * 0.5
    smooth = functional.conv1d(rows.reshape(-1, 1, scanner.n_bins), kernel[None, None], padding=radius)
    return smooth.reshape(rows.shape).movedim(-1, bin_axis).contiguous()


def problem_of(scan: Measurement, projectors: tuple[Projector, ...], guided: bool = False) -> EmissionProblem:
    """The problem of a scan, with the MR image as its guide if asked."""
    model = responses(projectors, blur(projectors[0], scan.fwhm_mm), scan.factor)
    return emission_problem(model, scan.counts, scan.background, scan.guide if guided else None)


def noise_free(scan: Measurement, projectors: tuple[Projector, ...], problem: EmissionProblem, n: int) -> list[Tensor]:
    """Targets T_1 ... T_n: the first n OSEM images of the noise-free data, same start, subsets and resolution.

    Corda-D'incan, Schnabel, Reader, IEEE TRPMS 2022.
    """
    model = responses(projectors, blur(projectors[0], scan.fwhm_mm), scan.factor)
    clean = emission_problem(model, scan.mean, scan.background, scale=problem.scale)
    images = iterates(clean, problem.flat())
    return [next(images) for _ in range(n)]
