"""The metrics against scikit-image and SciPy, and the properties that define them."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from koosh_models import metrics
from tests.properties import random_complex

SHAPES = [(24, 20), (12, 17, 10)]


def pair(shape):
    truth = random_complex(shape, 0) + 2
    return truth + 0.1 * random_complex(shape, 1), truth


def some_mask(shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(1, n - 2) for n in shape)] = True
    return mask


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_equals_scikit_image_on_the_box_of_the_mask(shape):
    image, truth = pair(shape)
    mask = some_mask(shape)
    seen, wanted, _ = metrics.fitted(image, truth, mask)
    box = metrics.bounding_box(mask)
    a, b = seen[box].numpy(), wanted[box].numpy()
    _, full = structural_similarity(a, b, data_range=b.max(), full=True)
    inner = full[tuple(slice(3, n - 3) for n in a.shape)]
    assert metrics.ssim(image, truth, mask) == pytest.approx(inner.mean(), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_laplacian_of_gaussian_equals_scipy_up_to_its_truncated_tails(shape):
    image = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = metrics.laplacian_of_gaussian(image).numpy()
    theirs = ndimage.gaussian_laplace(image.numpy(), metrics.SIGMA, mode="nearest", truncate=4.0)
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["psnr", "ssim", "nrmse", "hfen"])
def test_a_gain_and_a_phase_of_the_image_change_nothing(name):
    image, truth = pair((12, 17, 10))
    mask = some_mask((12, 17, 10))
    metric = getattr(metrics, name)
    assert metric(image * (3e5 * torch.exp(torch.tensor(1j))), truth, mask) == pytest.approx(
        metric(image, truth, mask), rel=1e-5
    )


@pytest.mark.parametrize("name", ["psnr", "nrmse"])
def test_voxels_outside_the_mask_do_not_count(name):
    image, truth = pair((12, 17, 10))
    mask = some_mask((12, 17, 10))
    spoiled = torch.where(mask, image, 1e6 + 0j)
    metric = getattr(metrics, name)
    assert metric(spoiled, truth, mask) == metric(image, truth, mask)


def test_psnr_is_that_of_its_definition():
    truth = torch.tensor([2.0, 0.0, 0.0, 0.0])
    image = torch.tensor([2.0, 0.2, 0.0, 0.0])
    gain = 4 / 4.04
    error = ((2 * gain - 2) ** 2 + (0.2 * gain) ** 2) / 4
    assert metrics.psnr(image, truth) == pytest.approx(10 * math.log10(4 / error), rel=1e-6)


def test_a_perfect_image_scores_best_on_all():
    _, truth = pair((12, 17, 10))
    truth = truth.to(torch.complex128)
    assert metrics.evaluate(truth, truth) == pytest.approx(
        {"psnr": math.inf, "ssim": 1.0, "nrmse": 0.0, "hfen": 0.0}, abs=1e-9
    )


def test_more_noise_is_worse_by_every_metric():
    image, truth = pair((12, 17, 10))
    worse = truth + 3 * (image - truth)
    good, bad = metrics.evaluate(image, truth), metrics.evaluate(worse, truth)
    assert good["psnr"] > bad["psnr"]
    assert good["ssim"] > bad["ssim"]
    assert good["nrmse"] < bad["nrmse"]
    assert good["hfen"] < bad["hfen"]


@pytest.mark.parametrize(
    ("image", "mask", "says"),
    [
        (torch.ones(3, 4), None, "differ in shape"),
        (torch.ones(4, 4), torch.zeros(4, 4), "mask is empty"),
        (torch.ones(4, 4), torch.ones(4, 3), "mask has shape"),
        (torch.full((4, 4), math.nan), None, "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(image, mask, says):
    with pytest.raises(ValueError, match=says):
        metrics.psnr(image, torch.ones(4, 4), mask)
