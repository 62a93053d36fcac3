"""Density weights: cell volumes on known families, fixed points of the local density on all."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from koosh_models.calibration import density
from koosh_models.metrics import psnr
from koosh_models.physics.nufft import Nufft
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.trajectories import DYNAMIC, FAMILIES, FAMILIES_2D, Trajectory, trajectory

STILL = [family for family in FAMILIES if family not in DYNAMIC]


def path_of(family: str, acceleration: float = 1.0) -> tuple[Trajectory, tuple[int, ...]]:
    matrix = (40, 36) if family in FAMILIES_2D else (15, 20, 18)
    return trajectory(family, matrix, acceleration), matrix


def within(omega: Tensor, weights: Tensor, matrix: tuple[int, ...], cells: float) -> float:
    """Weight under a Gaussian of that many cells around k = 0, over the Gaussian's volume in cells."""
    radius = (omega * torch.tensor(matrix)[:, None] / (2 * math.pi)).norm(dim=0).double()
    volume = (2 * math.pi) ** (len(matrix) / 2) * cells ** len(matrix)
    return float((weights * torch.exp(-radius.square() / (2 * cells**2))).sum()) / volume


@pytest.mark.parametrize("family", STILL)
def test_every_known_family_has_analytic_weights_of_the_sampled_volume(family):
    path, matrix = path_of(family)
    weights = density.analytic(path.omega, matrix, family, path.readout)
    found = density.pipe_menon(path.omega, matrix)
    assert bool((weights >= 0).all())
    # both stand for the part of k-space that is covered; at full sampling they must agree on how much that is
    assert float(weights.sum() / found.sum()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("family", DYNAMIC)
def test_the_frames_of_a_series_have_analytic_weights(family):
    frames = trajectory(family, (32, 32), 2.0, n_frames=2)
    weights = density.analytic(frames.omega[1], (32, 32), family, frames.readout)
    assert weights.shape == frames.omega[1, 0].shape
    assert float(weights.sum()) > 100


@pytest.mark.parametrize("family", ["radial3d", "ute3d", "radial2d", "spiral2d"])
def test_analytic_weights_fill_each_shell_with_its_volume(family):
    path, matrix = path_of(family)
    weights = density.analytic(path.omega, matrix, family, path.readout)
    radius = path.omega.norm(dim=0)
    edges = torch.linspace(0.1, 1.0, 6) * float(radius.max())
    sums = torch.stack([weights[(radius >= a) & (radius < b)].sum() for a, b in itertools.pairwise(edges)])
    volumes = edges[1:] ** len(matrix) - edges[:-1] ** len(matrix)
    share = sums / volumes
    assert float((share / share.mean() - 1).abs().max()) < 0.25


def test_grid_samples_stand_for_one_cell_each():
    path, matrix = path_of("cartesian3d", 2.0)
    assert bool((density.analytic(path.omega, matrix, "cartesian3d", path.readout) == 1).all())


@pytest.mark.parametrize("family", STILL)
def test_the_local_density_of_iterated_weights_is_one(family):
    path, matrix = path_of(family, 2.0)
    weights = density.pipe_menon(path.omega, matrix)
    local = density.density_of(path.omega, matrix)(weights)
    assert float((local - 1).abs().mean()) < 0.05
    assert density.bound(path.omega, matrix, weights) < 1.4


@pytest.mark.parametrize("family", ["radial3d", "ute3d", "cones", "radial2d", "spiral2d"])
def test_the_cells_around_the_centre_are_not_too_heavy(family):
    matrix = (96, 96) if family in FAMILIES_2D else (32, 32, 32)
    path = trajectory(family, matrix)
    weights = density.pipe_menon(path.omega, matrix)
    # without the finer start the first is 1.2 to 2.0
    assert 0.95 < within(path.omega, weights, matrix, 0.4) < 1.1
    assert 0.98 < within(path.omega, weights, matrix, 2.0) < 1.02


def test_the_finer_start_beats_three_times_the_iterations_without_it():
    matrix = (96, 96)
    path, truth = trajectory("spiral2d", matrix), phantom("head", matrix).image
    nufft = Nufft(path.omega, matrix)
    kspace = nufft.forward(truth)
    plain, local = torch.ones_like(path.omega[0]), density.density_of(path.omega, matrix)
    for _ in range(30):
        plain = plain / local(plain)
    ours = density.pipe_menon(path.omega, matrix)
    inside = truth.abs() > 0.05
    scores = [psnr(nufft.adjoint(kspace * w), truth, inside) for w in (plain, ours)]
    assert scores[1] > scores[0] + 0.3


def test_without_finufft_the_whole_transform_gives_like_weights(monkeypatch):
    path, matrix = path_of("radial2d")
    spread = density.pipe_menon(path.omega, matrix)
    monkeypatch.setattr(density.engines, "available", lambda backend: backend == "ducc0")
    whole = density.pipe_menon(path.omega, matrix)
    ring = (path.omega.norm(dim=0) > 0.5) & (path.omega.norm(dim=0) < 2.5)
    assert float(whole[ring].sum() / spread[ring].sum()) == pytest.approx(1, abs=0.1)
    assert within(path.omega, whole, matrix, 3.0) == pytest.approx(within(path.omega, spread, matrix, 3.0), abs=0.2)


def test_unknown_families_and_broken_readouts_say_what_to_do():
    path, matrix = path_of("radial2d")
    with pytest.raises(ValueError, match="use pipe_menon"):
        density.analytic(path.omega, matrix, "rosette", path.readout)
    with pytest.raises(ValueError, match="whole number of readouts"):
        density.analytic(path.omega, matrix, "radial2d", 7)
