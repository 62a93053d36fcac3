"""The same promises on a CUDA device: exact gradients, and device memory that depth does not touch."""

from dataclasses import replace

import pytest
import torch

from koosh_models.networks import Dims, build
from koosh_models.physics.problem import LinearProblem
from koosh_models.strategies import Backprop, Blockwise, Checkpoint, Invertible
from koosh_models.strategies.meter import Meter
from tests.properties import random_complex

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DIMS = Dims(ndim=3, stages=4, features=8, layers=3, lam=3.0, cg_tolerance=1e-7)


def on_device(n: int) -> tuple[LinearProblem, torch.Tensor]:
    """A masked Fourier transform on the GPU."""
    truth = random_complex((n, n, n)).cuda()
    mask = torch.rand((n, n, n), device="cuda") < 0.5

    def normal(x):
        return torch.fft.ifftn(torch.fft.fftn(x) * mask)

    return LinearProblem(normal, normal(truth), 1.0), truth


@pytest.fixture(autouse=True)
def _exact_convolutions():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def grads(strategy, network, problem, truth):
    network.zero_grad()
    strategy.step(network, problem, truth)
    return torch.cat([p.grad.flatten() for p in network.parameters()])


@pytest.mark.parametrize(
    ("strategy", "limit"),
    [
        (Checkpoint(), 1e-5),
        (Blockwise(tile=12), 1e-5),
        (Blockwise(tile=12, boundaries="host"), 1e-5),
        (Invertible(), 1e-3),
    ],
    ids=str,
)
def test_gradient_equals_backpropagation(strategy, limit):
    torch.manual_seed(0)
    network = build(DIMS).cuda()
    problem, truth = on_device(32)
    ours = grads(strategy, network, problem, truth)
    want = grads(Backprop(), network, problem, truth)
    assert (ours - want).norm() <= limit * want.norm()


def test_the_peak_is_flat_in_depth_with_boundaries_on_the_host():
    problem, truth = on_device(64)
    seen = []
    for stages in (5, 20):
        network = build(replace(DIMS, stages=stages)).cuda()
        grads(Blockwise(tile=32, boundaries="host"), network, problem, truth)
        network.zero_grad()
        with Meter(torch.device("cuda")) as meter:
            Blockwise(tile=32, boundaries="host").step(network, problem, truth)
        seen.append(meter.peak)
    assert seen[1] <= 1.05 * seen[0]


def test_half_precision_trains():
    network = build(replace(DIMS, precision="bf16")).cuda()
    problem, truth = on_device(32)
    assert torch.isfinite(grads(Blockwise(tile=16), network, problem, truth)).all()
