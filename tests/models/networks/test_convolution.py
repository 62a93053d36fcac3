"""The convolution of small volumes equals torch's own."""

import pytest
import torch

from koosh_models.networks import convolution
from koosh_models.networks.convolution import Volume


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 3, 3), (5, 3, 3)])
@pytest.mark.parametrize("shape", [(11, 7, 6), (10, 4, 9)])
@pytest.mark.parametrize("needs", [True, False])
def test_a_small_volume_is_convolved_as_torch_would(kernel, shape, needs, monkeypatch):
    torch.manual_seed(0)
    layer = convolution.convolution(8, 5, kernel)
    x, seen_by = torch.randn(1, 8, *shape, requires_grad=needs), torch.randn(1, 5, *shape)
    wanted = [*([x] if needs else []), layer.weight, layer.bias]
    results = []
    for smallest in (convolution.SMALL, 0):
        monkeypatch.setattr(convolution, "SMALL", smallest)
        y = layer(x)
        results.append([y, *torch.autograd.grad((y * seen_by).sum(), wanted)])
    assert "Halved" in results[0][0].grad_fn.name()
    for ours, torchs in zip(*results, strict=True):
        assert (ours - torchs).norm() <= 1e-6 * torchs.norm()


@pytest.mark.parametrize(
    "x",
    [torch.randn(1, 8, 41, 64, 4), torch.randn(2, 8, 8, 8, 8), torch.randn(1, 2, 8, 8, 8), torch.randn(1, 8, 5, 8, 8)],
)
def test_others_are_left_to_torch(x):
    layer = Volume(x.shape[1], 4, 3, padding=1)
    assert "Halved" not in layer(x).grad_fn.name()
