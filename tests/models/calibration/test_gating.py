"""Breathing is found in the centre of k-space of a simulated scan, and gating on it sharpens the image."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from koosh_models.calibration import gating
from koosh_models.metrics import psnr
from koosh_models.reconstruction import reconstruct, with_weights
from koosh_models.simulation.imperfections import Imperfections, motion_of
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import Simulated, simulate
from koosh_models.simulation.trajectories import trajectory

DURATION_S = 80.0  # 20 breaths


@cache
def breathed(
    family: str, matrix: tuple[int, ...], acceleration: float, voxels: float
) -> tuple[Simulated, torch.Tensor]:
    """A scan of a moving abdomen, and the true position at each readout, 0 at the end of expiration."""
    path, what = trajectory(family, matrix, acceleration), Imperfections(breathing_voxels=voxels)
    made = simulate(phantom("abdomen", matrix).image, path, n_coils=6, noise=0.02, imperfections=what)
    motion = motion_of(Imperfections(breathing_voxels=1.0), path.n_readouts, len(matrix), 0)
    return made, motion.shifts[motion.state][:, 0].float()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


@pytest.mark.parametrize(
    ("family", "matrix", "acceleration", "voxels"),
    [("radial2d", (64, 64), 0.3, 4.0), ("ute3d", (24, 24, 24), 0.7, 1.5), ("radial3d", (32, 32, 32), 1.0, 2.0)],
)
def test_breathing_is_found_with_expiration_at_zero(family, matrix, acceleration, voxels):
    made, truth = breathed(family, matrix, acceleration, voxels)
    found = gating.breathing(gating.centre_signal(made.scan), DURATION_S / made.scan.n_readouts)
    assert correlation(found.position, truth) > 0.9
    assert found.share > 0.5
    assert 0 <= float(found.position.min()) <= float(found.position.max()) <= 1


def test_an_object_at_rest_shows_no_breathing():
    made, _ = breathed("radial2d", (64, 64), 0.3, 0.0)
    assert gating.breathing(gating.centre_signal(made.scan), DURATION_S / made.scan.n_readouts).share < 0.1


def test_a_drift_does_not_hide_the_breath():
    t = torch.linspace(0, 60, 3000)
    breath = torch.sin(math.pi * 0.25 * t) ** 4
    signal = torch.stack([1 + 0.02 * breath + 0.5 * torch.exp(-t / 15), 2 - 0.01 * breath + 0.004 * t])
    assert correlation(gating.breathing(signal, 60 / 3000).position, breath) > 0.9


def test_soft_gating_sharpens_what_breathing_blurs():
    made, _ = breathed("radial2d", (64, 64), 0.3, 4.0)
    scan = with_weights(made.scan)
    found = gating.breathing(gating.centre_signal(scan), DURATION_S / scan.n_readouts)
    blurred = psnr(reconstruct(scan, "cg").volume, made.truth, made.mask)
    sharp = psnr(reconstruct(gating.soft_gated(scan, found.position), "cg").volume, made.truth, made.mask)
    assert sharp > blurred + 3


def test_binning_gives_a_series_of_equal_frames_sorted_by_position():
    made, truth = breathed("radial2d", (64, 64), 0.3, 4.0)
    series = gating.binned(made.scan, truth, 4)
    assert series.n_frames == 4
    assert series.n_readouts == made.scan.n_readouts // 4
    chosen = gating.bins(truth, 4)
    means = truth[chosen].mean(1)
    assert bool((means.diff() >= 0).all())
    assert float(means[-1] - means[0]) > 0.5
    first = made.scan.kspace.reshape(6, -1, made.scan.readout)[:, chosen[2, 5]]
    assert torch.equal(series.kspace[2].reshape(6, -1, made.scan.readout)[:, 5], first)


def test_soft_weights_keep_the_wanted_position_and_fall_off():
    weights = gating.soft_weights(torch.tensor([0.0, 0.1, 0.3, 1.0]))
    assert weights.tolist()[:2] == [1, 1]
    assert bool((weights.diff() <= 0).all())
    assert float(weights[-1]) < 0.02


def test_waveforms_are_read_at_the_readouts_times():
    times = torch.arange(0, 20, 0.1)
    belt = torch.sin(times)[None]
    at = torch.linspace(0.05, 19, 500)
    assert torch.allclose(gating.resampled(belt, times, at)[0], torch.sin(at), atol=2e-3)
    with pytest.raises(ValueError, match="does not cover"):
        gating.resampled(belt, times, at + 30)


def test_signals_that_cannot_show_breathing_are_refused():
    signal = torch.rand(2, 400)
    with pytest.raises(ValueError, match="too short to gate"):
        gating.breathing(signal, 0.01)
    with pytest.raises(ValueError, match="cannot show"):
        gating.breathing(signal, 2.0)
    with pytest.raises(ValueError, match="finite numbers"):
        gating.breathing(signal / 0, 0.1)
    with pytest.raises(ValueError, match="does not change"):
        gating.breathing(torch.ones(2, 400), 0.1)


def test_readouts_that_miss_the_centre_and_wrong_positions_are_refused():
    made, truth = breathed("radial2d", (64, 64), 0.3, 4.0)
    off = replace(made.scan, omega=made.scan.omega * 0.5 + 1)
    with pytest.raises(ValueError, match="navigator"):
        gating.centre_signal(off)
    with pytest.raises(ValueError, match="wanted one each"):
        gating.binned(made.scan, truth[:-1])
    with pytest.raises(ValueError, match="with_weights"):
        gating.soft_gated(made.scan, truth)
