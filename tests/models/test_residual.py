import math

import pytest
import torch

from koosh_models import phantom, reconstruct, simulate, trajectory, with_weights
from koosh_models.calibration.maps import CoilMaps
from koosh_models.physics.sense import DenseMaps
from koosh_models.residual import residual


def measured(noise: float, matrix=(24, 20)):
    anatomy = phantom("head", matrix)
    image = anatomy.image * anatomy.mask
    found = simulate(image, trajectory("radial2d", matrix, 1.0), mask=anatomy.mask, n_coils=4, noise=noise)
    scan = with_weights(found.scan)
    return scan, CoilMaps(DenseMaps(found.maps * found.mask), found.mask, 1.0), found


@pytest.mark.parametrize("gain", [1.0, 7.0, 0.01j])
def test_the_truth_leaves_nothing_whatever_its_scale(gain):
    scan, maps, found = measured(0.0)
    got = residual(scan, maps, gain * found.truth)
    assert got.total < 1e-3
    assert max(got.shells) < 0.02  # the transform's own accuracy where the signal is weakest


def test_the_truth_leaves_the_noise_and_the_floor_says_so():
    scan, maps, found = measured(0.1)
    white = with_weights(type(scan)(scan.kspace / found.sigma, scan.omega, scan.geometry, scan.readout))
    got = residual(white, maps, found.truth)
    assert got.shells == pytest.approx(got.noise, rel=0.15)


def test_an_image_of_nothing_leaves_everything():
    scan, maps, found = measured(0.02)
    got = residual(scan, maps, torch.zeros_like(found.truth))
    assert got.total == pytest.approx(1.0)
    assert got.shells == pytest.approx([1.0] * 24)


def test_a_better_image_leaves_less_and_a_missing_edge_shows_where_it_is_missing():
    scan, maps, _ = measured(0.0)
    image = reconstruct(scan, "cg", maps).volume
    flat = torch.fft.ifftn(torch.fft.fftn(image) * low(image.shape))
    sharp, blurred = residual(scan, maps, image), residual(scan, maps, flat)
    assert sharp.total < blurred.total
    assert blurred.shells[0] < 0.2 < 0.9 < blurred.shells[20]


def low(shape):
    """Only the inner half of k-space passes."""
    axes = torch.meshgrid(*[torch.fft.fftfreq(n) for n in shape], indexing="ij")
    return (sum(a.square() for a in axes) < 0.25**2).float()


def test_shells_without_samples_are_not_numbers():
    scan, maps, found = measured(0.0)
    inner = scan.omega.norm(dim=0) < 2.0
    part = type(scan)(scan.kspace[:, inner], scan.omega[:, inner], scan.geometry, 1, scan.weights[inner])
    got = residual(part, maps, found.truth)
    assert math.isnan(got.shells[-1])
    assert got.shells[0] < 0.01


def test_an_image_of_another_size_is_refused():
    scan, maps, _ = measured(0.0)
    with pytest.raises(ValueError, match=r"its image of \(24, 20\), got \(8, 8\)"):
        residual(scan, maps, torch.zeros(8, 8))
