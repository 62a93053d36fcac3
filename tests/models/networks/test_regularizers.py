"""Regularizers: their declared reach and memory, and what comes out at the start."""

import pytest
import torch

from koosh_models.networks import Dims
from koosh_models.networks.convolution import convolution
from koosh_models.networks.regularizer import batched, to_channels, to_image
from koosh_models.networks.unet import halved, merged
from koosh_models.networks.unrolled import regularizer
from tests.properties import random_complex

KINDS = {
    "cnn2d": (Dims(ndim=2, layers=4, features=5), (23, 21)),
    "cnn3d": (Dims(ndim=3, layers=2, features=4), (9, 11, 10)),
    "unet2d-1": (Dims(ndim=2, regularizer="unet", layers=1, features=4), (40, 37)),
    "unet2d-2": (Dims(ndim=2, regularizer="unet", layers=2, features=3), (61, 64)),
    "unet3d-1": (Dims(ndim=3, regularizer="unet", layers=1, features=2), (24, 25, 23)),
    "cine": (Dims(ndim=3, regularizer="spacetime", layers=2, features=4), (9, 10, 11)),
}


@pytest.mark.parametrize("name", KINDS)
def test_one_voxel_reaches_as_far_as_the_declared_radius_and_no_farther(name):
    torch.manual_seed(0)
    dims, shape = KINDS[name]
    made = regularizer(dims).double()
    image = torch.randn(2, *shape, dtype=torch.float64)
    plain, reached = made(image), torch.zeros(len(shape), dtype=torch.int)
    middle = [n // 2 for n in shape]
    for offset in range(made.stride[-1]):
        at = [m + offset for m in middle]
        moved = image.clone()
        moved[(slice(None), *at)] += 1
        where = (made(moved) - plain).abs().sum(0).nonzero() - torch.tensor(at)
        reached = torch.maximum(reached, where.abs().amax(0).to(torch.int))
    assert tuple(reached.tolist()) == made.radius


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("traits", [0, 2])
def test_autograd_saves_the_declared_numbers_per_voxel(name, traits):
    dims, shape = KINDS[name]
    made = regularizer(Dims(**{**dims.__dict__, "traits": traits}))
    shape = tuple(-(-n // s) * s for n, s in zip(shape, made.stride, strict=True))
    held: dict[int, int] = {}

    def pack(t):
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    condition = torch.randn(16, requires_grad=True) if traits else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = made(torch.randn(2, *shape, requires_grad=True), condition)
    saved = sum(n for where, n in held.items() if where not in own)
    voxels = out[0].numel()
    kernels = getattr(made, "repeating", (0, 0))[1]
    assert saved == pytest.approx((made.activations * voxels + kernels) * 4, rel=0.02)


@pytest.mark.parametrize("name", KINDS)
def test_the_residual_starts_small_but_every_layer_learns(name):
    torch.manual_seed(0)
    dims, shape = KINDS[name]
    made = regularizer(dims)
    image = torch.randn(2, *shape)
    out = made(image)
    assert 0 < out.norm() < 0.5 * image.norm()
    out.square().sum().backward()
    assert all(float(p.grad.norm()) > 0 for p in made.parameters())


def test_channels_and_image_are_inverse_and_the_guide_goes_last():
    image, guide = random_complex((3, 4, 5)), torch.full((1, 3, 4, 5), 7.0)
    channels = to_channels(image, guide)
    assert channels.shape == (3, 3, 4, 5)
    assert (channels[2] == 7).all()
    assert torch.equal(to_image(channels[:2], image), image)
    assert torch.equal(to_image(to_channels(image.real, None), image.real), image.real)


@pytest.mark.parametrize(
    "make", [lambda: Dims(ndim=4), lambda: Dims(stages=0), lambda: Dims(ndim=2, regularizer="spacetime")]
)
def test_dimensions_that_fit_nothing_are_refused(make):
    with pytest.raises(ValueError, match="axes"):
        make()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_way_up_is_the_layer_of_the_repeated_volume_beside_the_skip(ndim):
    torch.manual_seed(ndim)
    layer = convolution(5 + 3, 4, (3,) * ndim).double()
    coarse = torch.randn(1, 5, *(4, 6, 5)[:ndim], dtype=torch.float64)
    skip = torch.randn(1, 3, *(8, 12, 10)[:ndim], dtype=torch.float64)
    wanted = layer(torch.cat([torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest"), skip], 1))
    torch.testing.assert_close(merged(coarse, skip, layer), wanted)


@pytest.mark.parametrize("ndim", [2, 3])
def test_halving_takes_means(ndim):
    volume = torch.randn(1, 3, *(4, 6, 10)[:ndim])
    pool = torch.nn.functional.avg_pool2d if ndim == 2 else torch.nn.functional.avg_pool3d
    torch.testing.assert_close(halved(volume), pool(volume, 2))
    rounded = halved(volume.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, pool(volume.bfloat16().float(), 2))


@pytest.mark.parametrize("ndim", [2, 3])
def test_halving_in_16_bit_gives_every_voxel_its_share_of_the_gradient(ndim):
    volume = torch.randn(1, 3, *(4, 6, 10)[:ndim]).bfloat16().requires_grad_()
    grad = torch.randn(1, 3, *(2, 3, 5)[:ndim])
    (found,) = torch.autograd.grad(halved(volume), volume, grad)
    assert found.dtype == torch.bfloat16
    wanted = torch.nn.functional.interpolate(grad / 2**ndim, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(found, wanted.bfloat16())


def test_torch_sees_that_channels_come_last():
    channels = torch.view_as_real(torch.zeros(4, 5, 6, dtype=torch.complex64)).movedim(-1, 0)
    seen = batched(channels)
    assert seen.shape == (1, 2, 4, 5, 6)
    assert seen.stride() == torch.empty(1, 2, 4, 5, 6, memory_format=torch.channels_last_3d).stride()
