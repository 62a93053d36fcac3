import math

import pytest
import torch

from koosh_models.simulation import cartesian, spirals
from koosh_models.simulation.trajectories import (
    DYNAMIC,
    FAMILIES,
    FAMILIES_2D,
    full_spokes,
    golden_means,
    ramped,
    trajectory,
)


def matrix_for(family: str) -> tuple[int, ...]:
    return (20, 24) if family in FAMILIES_2D else (18, 20, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_stays_inside_the_matrix_and_is_the_same_twice(family):
    first, second = (trajectory(family, matrix_for(family), 3.0, seed=5, n_frames=3) for _ in range(2))
    assert torch.equal(first.omega, second.omega)
    assert float(first.omega.abs().max()) <= math.pi * (1 + 1e-6)
    assert first.omega.dtype == torch.float32
    assert first.omega.shape[-1] == first.n_readouts * first.readout
    assert first.n_frames == (3 if family in DYNAMIC else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_centre_sample_is_the_nearest_to_the_centre_along_the_readout(family):
    path = trajectory(family, matrix_for(family), 3.0, n_frames=2)
    omega = path.omega if path.omega.ndim == 3 else path.omega[None]
    readouts = omega.unflatten(2, (-1, path.readout)).norm(dim=1)
    assert (readouts[..., path.center] <= readouts.amin(-1) + 1e-6).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_twice_the_acceleration_takes_about_half_the_readouts(family):
    matrix = (64, 64) if family in FAMILIES_2D else (24, 24, 24)
    few, many = (trajectory(family, matrix, r, n_frames=2).n_readouts for r in (4.0, 2.0))
    assert 0.4 <= few / many <= 0.6


def test_the_number_of_spokes_is_the_defined_one():
    assert full_spokes((96, 96, 96), 12) == round(math.pi / 2 * 96**2 / 12) == 1206
    assert trajectory("radial3d", (96, 96, 96), 12).omega.shape == (3, 1206 * 192)
    assert full_spokes((128, 128), 4) == round(math.pi / 2 * 128 / 4)


def test_golden_means_cover_the_sphere_evenly_after_any_number_of_spokes():
    for n in (100, 233, 1000):
        way = golden_means(n, whole_sphere=True)
        assert torch.allclose(way.norm(dim=0), torch.ones(n, dtype=torch.float64))
        assert way.mean(1).abs().max() < 4 / n**0.5 / 3
        assert torch.allclose((way @ way.T) / n, torch.eye(3, dtype=torch.float64) / 3, atol=0.03)


def test_the_ramp_keeps_the_ends_and_rises_quadratically_at_first():
    k = ramped(101, 0.2)
    assert k[0] == 0
    assert k[-1] == pytest.approx(math.pi)
    assert k[10] / k[5] == pytest.approx(4)
    steps = k.diff()[30:]
    assert torch.allclose(steps, steps[0].expand_as(steps))


def test_curves_are_sampled_at_equal_arc_length():
    angle = 3 * torch.linspace(0, 1, 4000, dtype=torch.float64) ** 2
    points = spirals.equal_steps(torch.stack([angle.sin(), angle.cos()]), 50)
    step = points.diff(dim=1).norm(dim=0)
    assert torch.allclose(step, step[0].expand_as(step), rtol=1e-4)


@pytest.mark.parametrize("family", ["spiral2d", "spiral3d", "cones"])
def test_curved_readouts_start_at_the_centre_and_reach_the_edge(family):
    path = trajectory(family, matrix_for(family), 3.0)
    radius = path.omega.unflatten(1, (-1, path.readout)).norm(dim=0)
    assert torch.allclose(radius[:, 0], torch.zeros(path.n_readouts))
    assert torch.allclose(radius[:, -1], torch.full((path.n_readouts,), math.pi), rtol=1e-4)


def test_jacobi_functions_become_circular_and_keep_their_identity():
    u = torch.linspace(0, 10, 50, dtype=torch.float64)
    sn, cn = spirals.jacobi(u, 0.0)
    assert torch.allclose(sn, u.sin())
    assert torch.allclose(cn, u.cos())
    quarter = math.pi / 2 / 0.847213084793979  # K(0.5) by the arithmetic-geometric mean of 1 and sqrt(0.5)
    sn, cn = spirals.jacobi(torch.tensor([quarter], dtype=torch.float64), 0.5)
    assert sn.item() == pytest.approx(1, abs=1e-12)
    assert cn.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("acceleration", [2.0, 4.0, 8.0])
def test_poisson_discs_meet_the_acceleration_and_hold_the_centre(acceleration):
    mask = cartesian.poisson_disc(48, 40, acceleration, seed=1)
    ellipse = math.pi / 4 * 48 * 40
    assert int(mask.sum()) == pytest.approx(ellipse / acceleration, rel=0.08)
    assert mask[22:27, 18:23].all()


def test_cartesian_lines_are_the_indices_of_their_frequencies():
    path = trajectory("cartesian3d", (12, 10, 8), 3.0)
    first = path.omega.unflatten(1, (-1, 8))[:, :, 0]
    want = 2 * math.pi * torch.stack([(path.lines[:, 1] - 6) / 12, (path.lines[:, 0] - 5) / 10])
    assert torch.allclose(first[:2], want, atol=1e-6)


def test_kt_frames_differ_and_together_cover_k_space():
    path = trajectory("cine_cartesian", (32, 32), 4.0, n_frames=12)
    assert len({tuple(frame.tolist()) for frame in path.lines[:, :, 0]}) > 8
    assert len(path.lines[:, :, 0].unique()) >= 30


def test_bad_requests_say_what_is_wanted():
    with pytest.raises(ValueError, match=r"unknown trajectory 'radial4d'; known: radial3d"):
        trajectory("radial4d", (8, 8, 8))
    with pytest.raises(ValueError, match="samples 3 axes"):
        trajectory("radial3d", (8, 8))
    with pytest.raises(ValueError, match="acceleration is 0"):
        trajectory("radial3d", (8, 8, 8), 0.0)
