"""Expected counts of a PET scan, and the ordered-subsets Poisson problem of one measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.physics.pet.projector import Projector
from koosh_models.physics.pet.psf import Gaussian
from koosh_models.physics.pet.scanner import Scanner
from koosh_models.physics.problem import EmissionProblem

BLIND = 1e-4  # a voxel seen with less than this share of the highest sensitivity is left at zero


@dataclass(frozen=True, eq=False)
class Response:
    """What one subset of views counts on average, background apart: `P x = factor * G (B x)`.

    projector  G, line integrals in mm
    blur       B, resolution; None is ideal
    factor     attenuation times normalisation, shape of the data; None is 1
    """

    projector: Projector
    blur: Gaussian | None = None
    factor: Tensor | None = None

    def __post_init__(self) -> None:
        if self.factor is None:
            return
        if tuple(self.factor.shape) != self.projector.shape:
            raise ValueError(f"factor has shape {tuple(self.factor.shape)}, the data {self.projector.shape}")
        if not bool(torch.isfinite(self.factor).all()) or float(self.factor.min()) < 0:
            raise ValueError(
                "attenuation and normalisation factors must be finite and >= 0; they multiply the projection"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Image -> mean counts of the subset."""
        y = self.projector.forward(x if self.blur is None else self.blur.forward(x))
        return y if self.factor is None else self.factor * y

    def adjoint(self, y: Tensor) -> Tensor:
        """Counts -> image."""
        x = self.projector.adjoint(y if self.factor is None else self.factor * y)
        return x if self.blur is None else self.blur.adjoint(x)


def responses(
    projectors: tuple[Projector, ...], blur: Gaussian | None = None, factor: Tensor | None = None
) -> tuple[Response, ...]:
    """One response a subset; `factor` is that of the whole scan, (view, [tof,] bin[, plane])."""
    return tuple(Response(p, blur, None if factor is None else factor[list(p.views)]) for p in projectors)


def attenuation(projectors: tuple[Projector, ...], mu: Tensor) -> Tensor:
    """exp(-line integral of `mu`) of the whole scan; mu in 1/mm on the projectors' grid."""
    if not bool(torch.isfinite(mu).all()) or float(mu.min()) < 0:
        raise ValueError("the attenuation map must be finite and >= 0, in 1/mm (water is 0.0096)")
    if float(mu.max()) > 0.1:
        raise ValueError(f"attenuation reaches {float(mu.max()):.3g} 1/mm, ten times water: is the map in 1/cm?")
    silent = tuple(replace(p, scanner=replace(p.scanner, tof=None)) for p in projectors)
    through = torch.exp(-whole(silent, tuple(p.forward(mu) for p in silent)))
    tof = projectors[0].scanner.tof
    return through if tof is None else through[:, None].expand(-1, tof.n_bins, *through.shape[1:])


def multiplicity(scanner: Scanner, like: Tensor) -> Tensor:
    """(plane) ring pairs added up in each plane: the part of normalisation that axial compression causes."""
    return torch.tensor([float(m) for s in scanner.segments for m in s.multiplicity]).to(like)


def whole(projectors: tuple[Projector, ...], parts: tuple[Tensor, ...]) -> Tensor:
    """The data of all views from those of the subsets."""
    data = parts[0].new_empty(sum(len(p.views) for p in projectors), *parts[0].shape[1:])
    for projector, part in zip(projectors, parts, strict=True):
        data[list(projector.views)] = part
    return data


def expected(model: tuple[Response, ...], x: Tensor) -> Tensor:
    """Mean counts of the whole scan, background apart."""
    return whole(tuple(r.projector for r in model), tuple(r.forward(x) for r in model))


@dataclass(frozen=True, eq=False)
class Poisson:
    """The data term of one scan, in the order of its subsets.

    counts      measured prompts of each subset, >= 0
    background  mean randoms and scatter of each subset, >= 0
    inverse_sensitivity  (subset, *image), 1 / P_s^T 1; zero where a subset sees nothing
    support     (*image) bool, seen by any subset
    """

    model: tuple[Response, ...]
    counts: tuple[Tensor, ...]
    background: tuple[Tensor, ...]
    inverse_sensitivity: Tensor
    support: Tensor

    def ratio(self, x: Tensor, subset: int) -> Tensor:
        """`S_s P_s^T (y_s / (P_s x + r_s))`: what EM multiplies the image by.

        Lines that expect nothing are left out. Voxels that only other subsets see keep their value (1), those that
        none sees are 0.
        """
        mean = self.model[subset].forward(x) + self.background[subset]
        expects = mean > torch.finfo(mean.dtype).tiny * 1e6
        quotient = torch.where(expects, self.counts[subset] / torch.where(expects, mean, 1), 0)
        inverse = self.inverse_sensitivity[subset]
        unseen = (self.support & (inverse == 0)).to(x)
        return inverse * self.model[subset].adjoint(quotient) + unseen

    def log_likelihood(self, x: Tensor) -> float:
        """Poisson log-likelihood of the image over all subsets, constant terms apart; -inf if it rules out the data."""
        total = 0.0
        for response, counts, background in zip(self.model, self.counts, self.background, strict=True):
            mean = (response.forward(x) + background).double()
            total += float((torch.xlogy(counts.double(), mean) - mean).sum())
        return total


def emission_problem(
    model: tuple[Response, ...],
    counts: Tensor,
    background: Tensor | float = 0.0,
    guide: Tensor | None = None,
    scale: float | None = None,
) -> EmissionProblem:
    """The problem of one scan as networks and baselines take it.

    counts, background  (view, [tof,] bin[, plane]) prompts, and the mean of randoms plus scatter
    guide               (channel, *image) other images of the same patient, MR say, on the same grid
    scale               typical activity; None estimates it from one EM pass
    """
    term = data_term(model, counts, background)
    if scale is None:
        scale = typical(term)
    return EmissionProblem(term.ratio, term.inverse_sensitivity, scale, (noise(term, scale),), guide)


def data_term(model: tuple[Response, ...], counts: Tensor, background: Tensor | float = 0.0) -> Poisson:
    """The checked data term of one scan."""
    views = sum(len(r.projector.views) for r in model)
    shape = (views, *model[0].projector.shape[1:])
    if tuple(counts.shape) != shape:
        raise ValueError(
            f"counts have shape {tuple(counts.shape)}, the scanner measures {shape} (view, [tof,] bin[, plane])"
        )
    background = torch.as_tensor(background).to(counts).expand(shape)
    check_counts(counts, background)
    index = [list(r.projector.views) for r in model]
    inverse = torch.stack([inverse_sensitivity(r, counts) for r in model])
    return Poisson(
        model, tuple(counts[i] for i in index), tuple(background[i] for i in index), inverse, (inverse > 0).any(0)
    )


def check_counts(counts: Tensor, background: Tensor) -> None:
    """Refuse data that no Poisson process gives."""
    if not counts.is_floating_point() or not bool(torch.isfinite(counts).all() and torch.isfinite(background).all()):
        raise ValueError(f"counts and background must be finite floating-point numbers, counts are {counts.dtype}")
    if float(counts.min()) < 0:
        raise ValueError(
            f"counts go down to {float(counts.min()):.3g}: randoms seem to be subtracted already; "
            "give the prompts and pass the randoms as background"
        )
    if float(background.min()) < 0:
        raise ValueError(
            f"background goes down to {float(background.min()):.3g}; it is a mean count and can't be negative"
        )
    if float(counts.sum()) == 0:
        raise ValueError("the scan holds no counts at all")


def inverse_sensitivity(response: Response, like: Tensor) -> Tensor:
    """1 / P^T 1, zero in voxels that are as good as unseen (where it would blow noise up)."""
    ones = torch.ones(response.projector.shape, dtype=like.dtype, device=like.device)
    sensitivity = response.adjoint(ones)
    seen = sensitivity > BLIND * sensitivity.max()
    return torch.where(seen, 1 / torch.where(seen, sensitivity, 1), 0)


def typical(term: Poisson) -> float:
    """95th percentile of the image after one EM pass from a flat start: a robust unit of activity."""
    x = flat_start(term)
    x = x * torch.stack([term.ratio(x, s) for s in range(len(term.model))]).mean(0)
    inside = x[term.support]
    return max(float(torch.quantile(inside[:: max(1, len(inside) // 100_000)], 0.95)), 1e-30)


def flat_start(term: Poisson) -> Tensor:
    """Flat image inside the support that explains the measured total."""
    net = sum(float((y - r).sum()) for y, r in zip(term.counts, term.background, strict=True))
    flat = term.support.to(term.inverse_sensitivity)
    seen = sum(float(response.forward(flat).sum()) for response in term.model)
    return flat * (max(net, 1.0) / max(seen, 1e-30))


def noise(term: Poisson, scale: float) -> float:
    """Trait of the scan: log10 of the events that a voxel of typical activity sends into the data."""
    inverse = term.inverse_sensitivity[:, term.support]
    sensitivity = torch.where(inverse > 0, 1 / torch.where(inverse > 0, inverse, 1), 0).sum(0)
    return math.log10(max(scale * float(sensitivity.median()), 1e-30))
