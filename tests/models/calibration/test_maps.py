"""Coil maps by three methods on simulated scans whose maps are known."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from koosh_models.calibration import cells, espirit, joint, maps
from koosh_models.physics.sense import SmoothMaps
from koosh_models.reconstruction import MAPS, calibrate, with_weights
from koosh_models.scan import Scan
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import Simulated, simulate
from koosh_models.simulation.trajectories import trajectory
from tests.properties import random_complex

METHODS = tuple(MAPS)


@cache
def head(family: str, matrix: tuple[int, ...], acceleration: float = 1.0, n_coils: int = 6) -> Simulated:
    """A noisy scan of a head (or of a heart, for the dynamic families) with its density weights."""
    path = trajectory(family, matrix, acceleration, n_frames=5)
    anatomy = "cine" if family.startswith("cine") else "head"
    still = simulate(phantom(anatomy, matrix, 0, 5).image, path, n_coils=n_coils, noise=0.02)
    return replace(still, scan=with_weights(still.scan))


def seen(simulated: Simulated) -> Tensor:
    """Where there is anatomy."""
    truth = simulated.truth.abs()
    return (truth.mean(0) if simulated.scan.n_frames else truth) > 0.05


def error(found: maps.CoilMaps, simulated: Simulated) -> float:
    return maps.angle(found.maps.coils(0, simulated.scan.n_coils), simulated.maps, seen(simulated))


def with_kspace(scan: Scan, kspace: Tensor) -> Scan:
    return replace(scan, kspace=kspace)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("matrix", [(64, 64), (49, 56)])
def test_maps_are_close_to_the_truth_on_even_and_odd_planes(method, matrix):
    simulated = head("radial2d", matrix)
    found = calibrate(simulated.scan, method)
    assert error(found, simulated) < {"joint": 0.012, "espirit": 0.03, "low-frequency": 0.03}[method]
    assert bool(found.mask[seen(simulated)].all()), "anatomy was cut"
    assert torch.allclose(found.maps.coils(0, 6).norm(dim=0), found.mask.float(), atol=1e-3)
    assert 0.98 < found.quality <= 1


@pytest.mark.parametrize(
    ("family", "matrix", "bound"),
    [
        ("radial2d", (48, 64), 0.012),
        ("spiral2d", (128, 128), 0.02),
        ("cine_radial", (48, 48), 0.012),
        ("cine_cartesian", (48, 48), 0.02),
    ],
)
def test_joint_maps_are_close_to_the_truth_on_every_planar_family(family, matrix, bound):
    simulated = head(family, matrix)
    found = calibrate(simulated.scan)
    assert error(found, simulated) < bound
    assert bool(found.mask[seen(simulated)].all()), "anatomy was cut"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "bound"),
    [
        ("radial3d", 0.02),
        ("ute3d", 0.02),
        ("cones", 0.03),
        ("stack_of_stars", 0.02),
        ("spiral3d", 0.02),
        ("cartesian3d", 0.03),
    ],
)
def test_joint_maps_are_close_to_the_truth_on_every_family_of_volumes(family, bound):
    simulated = head(family, (25, 32, 30), 2.0)
    found = calibrate(simulated.scan)
    assert error(found, simulated) < bound
    assert float(found.mask[seen(simulated)].float().mean()) > 0.999, "anatomy was cut"


@pytest.mark.slow
def test_espirit_maps_of_a_volume_are_close_to_the_truth():
    simulated = head("radial3d", (25, 32, 30), 2.0)
    assert error(calibrate(simulated.scan, "espirit"), simulated) < 0.04


def test_joint_maps_have_less_bias_than_a_ratio_of_blurred_images():
    simulated = head("radial2d", (64, 64))
    ratio, both = (error(calibrate(simulated.scan, m), simulated) for m in ("low-frequency", "joint"))
    assert both < 0.7 * ratio


def test_joint_maps_use_the_samples_themselves_where_the_centre_is_undersampled():
    simulated = head("spiral2d", (128, 128), 3.0)
    ratio, both = (error(calibrate(simulated.scan, m), simulated) for m in ("low-frequency", "joint"))
    assert both < 0.5 * ratio


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_coil_gets_no_sensitivity_and_does_not_disturb_the_others(method):
    simulated = head("radial2d", (64, 64))
    kspace = simulated.scan.kspace.clone()
    kspace[2] = 0
    found = calibrate(with_kspace(simulated.scan, kspace), method)
    got = found.maps.coils(0, 6)
    truth = simulated.maps.clone()
    truth[2] = 0
    assert float(got[2].abs().max()) < 1e-3
    assert maps.angle(got, truth, seen(simulated)) < 0.04


@pytest.mark.parametrize("method", METHODS)
def test_a_coil_of_noise_alone_gets_next_to_no_sensitivity(method):
    simulated = head("radial2d", (64, 64))
    kspace = simulated.scan.kspace.clone()
    kspace[1] = simulated.sigma * random_complex(tuple(kspace[1].shape), 3)
    found = calibrate(with_kspace(simulated.scan, kspace), method)
    inside = simulated.truth.abs() > 0.3
    # in the ratio of images the noise is what it is in the image; the smooth methods average it away
    assert float(found.maps.coils(1, 2)[0, inside].abs().mean()) < (0.05 if method == "low-frequency" else 0.01)
    assert bool(found.mask[seen(simulated)].all())


@pytest.mark.parametrize("method", METHODS)
def test_a_single_coil_has_a_map_of_magnitude_one(method):
    simulated = head("radial2d", (48, 48), n_coils=1)
    found = calibrate(simulated.scan, method)
    assert torch.allclose(found.maps.coils(0, 1)[0].abs(), found.mask.float(), atol=1e-4)


def test_the_mask_keeps_weak_anatomy_and_leaves_out_the_air():
    simulated = head("radial2d", (96, 96))
    found = calibrate(simulated.scan)
    assert bool(found.mask[simulated.truth.abs() > 0.05].all())
    assert float(found.mask.float().mean()) < 0.8


def test_the_quality_falls_where_no_maps_explain_the_coils():
    simulated = head("radial2d", (64, 64))
    noise = random_complex(tuple(simulated.scan.kspace.shape), 4)
    good = calibrate(simulated.scan).quality
    bad = calibrate(with_kspace(simulated.scan, noise)).quality
    assert bad < 0.7 < 0.98 < good


def test_stretched_waves_fit_sensitivities_that_are_not_periodic():
    simulated = head("radial2d", (64, 64))

    def misfit(stretch: float) -> float:
        waves = SmoothMaps(torch.zeros(1, 7, 7, dtype=torch.complex64), torch.ones(64, 64), stretch).waves
        basis = torch.einsum("ai,bj->abij", *waves).reshape(64 * 64, -1).to(torch.complex128)
        target = simulated.maps.flatten(1).T.to(torch.complex128)
        found = torch.linalg.lstsq(basis, target).solution
        return float((basis @ found - target).norm() / target.norm())

    assert misfit(1.5) < misfit(1.0) / 6


def test_the_sampled_diameter_is_the_full_centre_of_an_undersampled_cartesian_scan():
    path = trajectory("cartesian3d", (48, 48, 48), 6.0)
    local, small = cells.scaled(path.omega, (48, 48, 48), 32)
    assert 4 <= cells.sampled_diameter(local, small) <= 10
    full = trajectory("cartesian3d", (48, 48, 48), 1.0)
    local, small = cells.scaled(full.omega, (48, 48, 48), 32)
    assert cells.sampled_diameter(local, small) == 32


def test_the_gram_of_lags_is_the_gram_of_the_waves():
    density = random_complex((9, 8)).abs().to(torch.complex128)
    model = joint.SmoothModel.of_images(torch.ones(1, 9, 8, dtype=torch.complex128))
    basis = torch.einsum("ai,bj->abij", *model.waves).reshape(72, -1)
    want = basis.mH @ (density.flatten()[:, None] * basis)
    got = joint.lags_to_gram(density, [w.shape[1] for w in model.waves])
    assert torch.allclose(got, want, atol=1e-9)


def test_analysis_is_the_adjoint_of_synthesis():
    model = joint.SmoothModel.of_images(random_complex((2, 12, 11)))
    coefficients, images = random_complex((2, 7, 7), 1), random_complex((2, 12, 11), 2)
    left = torch.vdot(model.synthesis(coefficients).flatten(), images.flatten())
    right = torch.vdot(coefficients.flatten(), model.analysis(images).flatten())
    assert abs(left - right) < 1e-4 * abs(left)


def test_a_kernel_shrinks_as_coils_multiply():
    places = [len(espirit.kernel(3, n, 24.0)) for n in (4, 8, 32, 64)]
    assert places == sorted(places, reverse=True)
    assert all(n * p <= espirit.COLUMNS for n, p in zip((4, 8, 32), places, strict=False))


def test_power_iteration_finds_the_leading_vectors_of_many_matrices():
    a = random_complex((20, 5, 5))
    matrices = a @ a.mH
    vectors, values = espirit.leading(matrices, random_complex((20, 5, 1), 1))
    want, basis = torch.linalg.eigh(matrices)
    assert torch.allclose(values, want[:, -1], rtol=1e-3)
    assert float((vectors * basis[..., -1].conj()).sum(1).abs().min()) > 0.99


def test_an_unknown_method_of_maps_names_the_known_ones():
    with pytest.raises(ValueError, match="joint, espirit, low-frequency"):
        calibrate(head("radial2d", (48, 48)).scan, "magic")


def test_maps_without_density_weights_say_what_to_do():
    with pytest.raises(ValueError, match="with_weights"):
        calibrate(replace(head("radial2d", (48, 48)).scan, weights=None))
