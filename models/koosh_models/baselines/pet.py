"""MLEM, OSEM, MAP-EM and post-smoothed OSEM: what PET networks are compared with, and start from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from koosh_models.physics.pet.prior import Neighbours, access_order, fuse, relative
from koosh_models.physics.pet.psf import Gaussian
from koosh_models.physics.problem import EmissionProblem


def iterates(problem: EmissionProblem, start: Tensor | None = None) -> Iterator[Tensor]:
    """OSEM images after each subset's update, without end; with one subset this is MLEM.

    Hudson & Larkin, IEEE TMI 1994; Shepp & Vardi, IEEE TMI 1982.
    """
    x = checked(problem, start)
    while True:
        for subset in access_order(problem.n_subsets):
            x = problem.em(x, subset)
            yield x


def osem(problem: EmissionProblem, iterations: int, start: Tensor | None = None) -> Tensor:
    """The OSEM image after `iterations` passes over all subsets."""
    return last(iterates(problem, start), iterations * problem.n_subsets)


def map_iterates(
    problem: EmissionProblem, prior: Neighbours, strength: float, start: Tensor | None = None
) -> Iterator[Tensor]:
    """MAP-EM images after each subset's update, without end (De Pierro's modified EM).

    strength  of the prior against the data, free of units: beta = strength * sensitivity / scale
    """
    if strength < 0:
        raise ValueError(f"strength of the prior is {strength}, wanted >= 0")
    x = checked(problem, start)
    weights = [2 * strength * relative(problem, s) * prior.total for s in range(problem.n_subsets)]
    while True:
        for subset in access_order(problem.n_subsets):
            x = fuse(problem.em(x, subset), prior.middle(x), problem.inverse_sensitivity[subset], weights[subset])
            yield x


def map_em(
    problem: EmissionProblem, prior: Neighbours, strength: float, iterations: int, start: Tensor | None = None
) -> Tensor:
    """The MAP-EM image after `iterations` passes over all subsets."""
    return last(map_iterates(problem, prior, strength, start), iterations * problem.n_subsets)


def smoothed(image: Tensor, fwhm_mm: float, voxel_mm: tuple[float, ...]) -> Tensor:
    """The image after a Gaussian of `fwhm_mm`."""
    return Gaussian((fwhm_mm,) * image.ndim, voxel_mm).forward(image) if fwhm_mm > 0 else image


def checked(problem: EmissionProblem, start: Tensor | None) -> Tensor:
    """The start image, refused where EM can't run from it."""
    if start is None:
        return problem.flat()
    if tuple(start.shape) != problem.shape or start.is_complex() or not bool((start >= 0).all()):
        raise ValueError(f"the start image must be real, >= 0 and of shape {problem.shape}; got {tuple(start.shape)}")
    return start * problem.support


def last(images: Iterator[Tensor], n: int) -> Tensor:
    """The n-th image."""
    if n < 1:
        raise ValueError(f"{n} updates asked for, wanted at least one")
    return next(islice(images, n - 1, None))


def error(image: Tensor, truth: Tensor) -> float:
    """`|image - truth| / |truth|` over the whole grid, without any scaling: PET is quantitative."""
    return float(torch.linalg.vector_norm(image - truth) / torch.linalg.vector_norm(truth))


def quantities(image: Tensor, truth: Tensor, lesions: Tensor | None = None) -> dict[str, float]:
    """`nrmse` (not rescaled), `total` (activity found over true, minus 1) and `lesions` (the same in the lesions)."""
    found = {"nrmse": error(image, truth), "total": float(image.double().sum() / truth.double().sum()) - 1}
    if lesions is not None and bool((core := lesions > 0.5).any()):
        found["lesions"] = float(image[core].double().sum() / truth[core].double().sum()) - 1
    return found
