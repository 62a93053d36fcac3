"""Locally low rank: patches are exact, thresholds are those of singular values, and a cine gains by it."""

from dataclasses import replace

import pytest
import torch

from koosh_models.baselines import classical
from koosh_models.baselines import locally_low_rank as llr
from koosh_models.metrics import psnr
from koosh_models.physics.mri import dynamic
from koosh_models.physics.problem import LinearProblem
from koosh_models.reconstruction import calibrate, reconstruct, with_weights
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import Simulated, simulate
from koosh_models.simulation.trajectories import trajectory
from tests.properties import random_complex


def cine(family: str, acceleration: float, n_frames: int = 10) -> Simulated:
    path = trajectory(family, (48, 48), acceleration, n_frames=n_frames)
    made = simulate(phantom("cine", (48, 48), 0, n_frames).image, path, n_coils=6, noise=0.02)
    return replace(made, scan=with_weights(made.scan))


@pytest.mark.parametrize("sizes", [(12,), (8, 12), (4, 8, 12)])
def test_patches_put_together_are_the_series_they_were_cut_from(sizes):
    series = random_complex((5, *sizes))
    patches = llr.cut(series, 4)
    assert patches.shape == (series[0].numel() // 4 ** len(sizes), 5, 4 ** len(sizes))
    assert torch.equal(llr.joined(patches, list(sizes), 4), series)
    corner = series[(slice(None), *[slice(0, 4)] * len(sizes))]
    assert torch.equal(patches[0], corner.reshape(5, -1))


@pytest.mark.parametrize("shape", [(3, 4, 9), (3, 9, 4)])
def test_singular_values_are_lessened_and_vectors_kept(shape):
    patches = random_complex(shape, dtype=torch.complex128)
    u, s, v = torch.linalg.svd(patches, full_matrices=False)
    want = (u * (s - 1.5).clamp_min(0)[:, None, :]) @ v
    assert torch.allclose(llr.soft(patches, 1.5), want, atol=1e-10)


@pytest.mark.parametrize("matrix", [(13, 17), (5, 7, 9), (12, 12)])
def test_no_threshold_changes_nothing_on_odd_sizes(matrix):
    series = random_complex((4, *matrix))
    assert torch.allclose(llr.shrunk(series, 0.0, 4, torch.Generator().manual_seed(3)), series, atol=1e-5)


def test_a_threshold_above_every_singular_value_leaves_nothing():
    series = random_complex((4, 12, 12))
    assert float(llr.shrunk(series, 1e3, 4, torch.Generator().manual_seed(3)).abs().max()) == 0


@pytest.mark.parametrize(("family", "acceleration", "gain"), [("cine_radial", 5.0, 5.0), ("cine_cartesian", 3.0, 5.0)])
def test_a_cine_gains_over_frame_wise_reconstruction(family, acceleration, gain):
    made = cine(family, acceleration)
    problem = dynamic(made.scan, calibrate(made.scan).maps)
    inside = made.mask
    frame_wise = max(psnr(classical.cg_sense(problem, n).image, made.truth, inside) for n in (3, 5, 10, 20))
    together = psnr(llr.locally_low_rank(problem).image, made.truth, inside)
    assert together > frame_wise + gain


def test_few_iterations_go_further_from_an_image_that_stands_still():
    made = cine("cine_cartesian", 6.0)
    problem = dynamic(made.scan, calibrate(made.scan).maps)
    frozen = llr.still(problem)
    assert torch.equal(frozen[0], frozen[-1])
    from_zero = llr.locally_low_rank(problem, llr.STRONG, 10).image
    images = (from_zero, frozen, llr.few_patterns(problem, 10))
    found = [psnr(image, made.truth, made.mask) for image in images]
    assert found[2] > max(found[:2]) + 0.5


def test_reconstruct_offers_it_for_a_series():
    made = cine("cine_radial", 4.0)
    result = reconstruct(made.scan, "llr")
    assert result.volume.shape == made.truth.shape
    assert psnr(result.volume, made.truth, made.mask) > psnr(reconstruct(made.scan, "cg").volume, made.truth, made.mask)


def test_a_single_volume_and_a_negative_weight_are_refused():
    single = LinearProblem(lambda x: x, random_complex((8, 8)))
    with pytest.raises(ValueError, match="needs a series"):
        llr.locally_low_rank(single)
    with pytest.raises(ValueError, match="needs a series"):
        llr.few_patterns(single, 3)
    series = LinearProblem(lambda x: x, random_complex((3, 8, 8)))
    with pytest.raises(ValueError, match="wanted 0 or more"):
        llr.locally_low_rank(series, weight=-1)
