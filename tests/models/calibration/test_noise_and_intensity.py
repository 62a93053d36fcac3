"""Noise, coil compression and shading on data whose truth is known."""

import pytest
import torch

from koosh_models.calibration import intensity, noise
from koosh_models.physics import compress
from koosh_models.simulation.coils import loop_maps
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.recordfile import mixing
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory
from tests.properties import random_complex

MIX = torch.from_numpy(mixing(6, 0.6))


def off_white(samples: torch.Tensor) -> float:
    """Largest entry of covariance minus identity."""
    return float((noise.covariance(samples) - torch.eye(len(samples))).abs().max())


def test_whitened_noise_is_white_with_unit_variance():
    samples = 3e-4 * MIX @ random_complex((6, 40_000))
    matrix = noise.whitening(noise.covariance(samples))
    assert off_white(matrix @ (3e-4 * MIX @ random_complex((6, 40_000), 1))) < 0.03


@pytest.mark.parametrize(("ratio", "bandwidth"), [(2.0, 1.0), (0.5, 0.79)])
def test_whitening_allows_for_another_dwell_time(ratio, bandwidth):
    measured = MIX @ random_complex((6, 40_000)) * bandwidth**0.5
    # a longer dwell time in the scan narrows the band: less variance
    scan = MIX @ random_complex((6, 40_000), 1) / ratio**0.5
    assert off_white(noise.whitening(noise.covariance(measured), ratio, bandwidth) @ scan) < 0.04


def test_a_dead_coil_stays_dead_and_the_others_become_white():
    samples = MIX @ random_complex((6, 20_000))
    samples[3] = 0
    white = noise.whitening(noise.covariance(samples)) @ samples
    alive = [0, 1, 2, 4, 5]
    assert float(white[3].abs().max()) == 0
    assert off_white(white[alive]) < 0.02


def test_the_edge_of_kspace_shows_the_noise_of_a_scan_without_noise_readouts():
    path = trajectory("radial2d", (96, 96))
    made = simulate(phantom("head", (96, 96)).image, path, n_coils=6, noise=0.2)
    found = noise.from_edge(MIX @ made.scan.kspace, path.omega)
    white = noise.whitening(found) @ (made.sigma * MIX @ random_complex((6, 20_000), 5))
    variance = noise.covariance(white).diagonal().real
    # signal at the edge counts as noise, so the variance is at most one
    assert 0.7 < float(variance.min()) <= float(variance.max()) < 1.1


def test_too_little_or_no_noise_says_so():
    with pytest.raises(ValueError, match="too few"):
        noise.covariance(random_complex((6, 8)))
    with pytest.raises(ValueError, match="noise readouts empty"):
        noise.whitening(torch.zeros(3, 3, dtype=torch.complex128))


def test_compression_keeps_the_energy_it_reports_and_leaves_noise_white():
    path = trajectory("radial2d", (48, 48))
    kspace = simulate(phantom("head", (48, 48)).image, path, n_coils=16, noise=0.01).scan.kspace
    found = compress.compression(compress.gram(kspace), 6)
    kept = found.apply(kspace).norm() ** 2 / kspace.norm() ** 2
    assert float(kept) == pytest.approx(found.kept, abs=1e-4)
    assert torch.allclose(found.matrix @ found.matrix.mH, torch.eye(6, dtype=torch.complex64), atol=1e-5)


def test_as_few_coils_are_kept_as_the_energy_needs():
    path = trajectory("radial2d", (48, 48))
    correlation = compress.gram(simulate(phantom("head", (48, 48)).image, path, n_coils=16).scan.kspace)
    n = compress.coils_for(correlation, 0.99)
    assert 1 <= n < 16
    assert compress.compression(correlation, n).kept >= 0.99
    assert n == 1 or compress.compression(correlation, n - 1).kept < 0.99
    assert compress.coils_for(correlation, 1.0) == 16
    with pytest.raises(ValueError, match="above 0"):
        compress.coils_for(correlation, 0)


def shaded(matrix: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image, its smooth shading and its mask."""
    head = phantom("head", matrix)
    grids = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in matrix], indexing="ij")
    shading = 1 / (0.5 + (grids[-1] - 1.2).square() + 0.5 * (grids[-2] + 0.4).square())
    return head.image, shading / shading[head.mask].log().mean().exp(), head.mask


def unevenness(found: torch.Tensor, truth: torch.Tensor, inside: torch.Tensor) -> float:
    """Standard deviation of the logarithm of what remains of the shading."""
    return float((found / truth)[inside].log().std())


@pytest.mark.parametrize(("matrix", "left"), [((80, 80), 0.3), ((45, 48, 48), 0.55)])
def test_the_bias_estimate_takes_much_of_a_shading_away(matrix, left):
    image, shading, mask = shaded(matrix)
    found = intensity.bias_estimate(image * shading, mask)
    plain = torch.ones_like(shading)
    assert unevenness(found, shading, mask) < left * unevenness(plain, shading, mask)


def test_an_even_image_is_changed_little():
    image, shading, mask = shaded((80, 80))
    found = intensity.bias_estimate(image, mask)
    assert unevenness(found, torch.ones_like(found), mask) < 0.5 * float(shading[mask].log().std())


def test_a_body_coil_image_shows_the_shading_of_an_array():
    image, shading, mask = shaded((80, 80))
    body = image * loop_maps((80, 80), 1)[0].abs() + 0.01 * random_complex((80, 80))
    found = intensity.shading_from_body(image * shading, body)
    inside = mask & (image.abs() > 0.3)
    assert unevenness(found, shading, inside) < 0.1
    even = intensity.evened(image * shading, found)
    assert float((even.abs() / image.abs())[inside].log().std()) < 0.1


def test_evening_brightens_no_voxel_more_than_tenfold():
    shading = torch.tensor([[1.0, 1.0, 1.0, 1e-6]])
    assert float(intensity.evened(torch.ones(1, 4), shading).max()) == pytest.approx(10)


def test_images_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="resample one"):
        intensity.shading_from_body(torch.ones(4, 4), torch.ones(5, 4))
    with pytest.raises(ValueError, match="all zero"):
        intensity.shading_from_body(torch.ones(4, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="must agree and hold signal"):
        intensity.bias_estimate(torch.zeros(4, 4), torch.ones(4, 4))
