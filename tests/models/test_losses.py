"""Losses are relative, complex, differentiable, and add up."""

import pytest
import torch

from koosh_models import losses, metrics
from tests.properties import random_complex

ALL = [losses.relative_l2, losses.relative_l1, losses.ssim_loss]


@pytest.mark.parametrize("loss", ALL)
def test_a_loss_is_zero_at_its_target_and_falls_along_its_gradient(loss):
    target = random_complex((9, 10), 0, torch.complex128) + 2
    image = (target + 0.3 * random_complex((9, 10), 1, torch.complex128)).requires_grad_()
    value = loss(image, target)
    (grad,) = torch.autograd.grad(value, image)
    assert loss(target, target) == pytest.approx(0, abs=1e-12)
    assert loss(image - 1e-3 * grad / grad.norm(), target) < value


@pytest.mark.parametrize("loss", ALL)
def test_the_scanners_scale_does_not_enter(loss):
    target, image = random_complex((9, 10), 0), random_complex((9, 10), 1)
    assert float(loss(image * 1e5, target * 1e5)) == pytest.approx(float(loss(image, target)), rel=1e-4)


def test_the_ssim_loss_is_one_minus_the_metric_where_gain_is_right():
    target = random_complex((9, 10), 0, torch.complex128) + 2
    image = target + 0.3 * random_complex((9, 10), 1, torch.complex128)
    seen, wanted, _ = metrics.fitted(image, target)
    assert float(losses.ssim_loss(seen, wanted)) == pytest.approx(1 - metrics.ssim(image, target), rel=1e-9)


def test_a_sum_of_losses_is_a_loss():
    target, image = random_complex((9, 10), 0), random_complex((9, 10), 1)
    both = losses.Sum(((1.0, losses.relative_l2), (0.5, losses.relative_l1)))
    want = losses.relative_l2(image, target) + 0.5 * losses.relative_l1(image, target)
    assert torch.equal(both(image, target), want)


def test_the_objective_weighs_early_images_against_their_own_targets():
    images = [random_complex((4, 5), k) for k in range(3)]
    goals = {k: random_complex((4, 5), 10 + k) for k in (1, 2, 3)}
    objective = losses.Objective(losses.relative_l2, every=0.5)
    parts = [losses.relative_l2(images[k], goals[k + 1]) for k in range(3)]
    assert float(objective(images, goals.__getitem__)) == pytest.approx(float(parts[2] + 0.25 * (parts[0] + parts[1])))
