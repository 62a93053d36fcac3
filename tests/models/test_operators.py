"""Cartesian sampling, series of frames, off-resonance: the shared properties and what is special to each."""

import pytest
import torch
from torch import Tensor

from koosh_models.physics.cartesian import Cartesian, centred_fft, decouple
from koosh_models.physics.dynamic import Frames
from koosh_models.physics.mri import cartesian, cartesian_series, dynamic, non_cartesian
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.offresonance import with_off_resonance
from koosh_models.physics.sense import Sense, SenseNormal
from koosh_models.physics.solve import conjugate_gradient
from koosh_models.scan import Geometry, Scan
from tests.models.test_nufft import direct_sum, trajectory
from tests.properties import assert_adjoint, assert_double_backward, assert_gradient, assert_normal, random_complex

SIZES = [(6, 8, 10), (9, 4, 7), (8, 11), (1, 5)]


def mask_of(matrix: tuple[int, ...]) -> Tensor:
    return (torch.rand(matrix, generator=torch.Generator().manual_seed(4)) < 0.5).float()


@pytest.mark.parametrize("matrix", SIZES)
def test_cartesian_sampling_passes_the_shared_properties(matrix):
    op = Cartesian(mask_of(matrix), tuple(range(-len(matrix), 0)))
    x, y = random_complex((2, *matrix)), random_complex((2, *matrix), 1)
    assert_adjoint(op, x, y, 1e-5)
    assert_normal(op, x, 1e-5)
    assert_gradient(op, x, y, 1e-5)
    assert_double_backward(op, x, 1e-5)


@pytest.mark.parametrize("matrix", SIZES)
def test_the_cartesian_grid_is_the_nufft_on_its_points(matrix):
    steps = [(torch.arange(n) - n // 2) * (2 * torch.pi / n) for n in matrix]
    omega = torch.stack([g.flatten() for g in torch.meshgrid(*steps, indexing="ij")])
    x = random_complex(matrix)
    got = centred_fft(x, tuple(range(-len(matrix), 0))).flatten()
    assert (got - direct_sum(omega, x)).norm() <= 1e-5 * got.norm()


@pytest.mark.parametrize("matrix", [(6, 8, 10), (5, 7, 9)])
def test_slabs_of_decoupled_data_give_the_whole_problem(matrix):
    maps, mask = random_complex((3, *matrix), 2), mask_of((*matrix[:2], 1))
    whole = Sense(maps, Cartesian(mask, (-3, -2, -1)))
    kspace = whole.forward(random_complex(matrix))
    want = cartesian(kspace, mask, maps)
    parts = decouple(kspace, mask)
    for first, last in ((0, 3), (3, matrix[-1])):
        slab = cartesian(parts.slab(first, last), parts.fourier.mask, maps[..., first:last], parts.fourier.axes)
        assert torch.allclose(slab.b, want.b[..., first:last], atol=1e-5)
        x = random_complex(matrix, 6)
        assert torch.allclose(slab.normal(x[..., first:last].contiguous()), want.normal(x)[..., first:last], atol=1e-4)


def test_data_that_is_not_fully_sampled_along_an_axis_is_not_decoupled():
    with pytest.raises(ValueError, match="not fully sampled"):
        decouple(random_complex((2, 4, 4, 4)), mask_of((4, 4, 4)))


def test_a_fully_sampled_cartesian_scan_is_its_own_inverse():
    maps = random_complex((3, 6, 8), 2)
    maps = maps / maps.norm(dim=0)
    truth, mask = random_complex((6, 8)), torch.ones(6, 8)
    problem = cartesian(Sense(maps, Cartesian(mask, (-2, -1))).forward(truth), mask, maps)
    assert torch.allclose(problem.b, truth, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_series_passes_the_shared_properties(frames):
    maps = random_complex((2, 7, 6), 2)
    op = Frames(tuple(Sense(maps, Nufft(trajectory(2, seed=k), (7, 6), 1e-5)) for k in range(frames)))
    x, y = random_complex((frames, 7, 6)), random_complex((frames, 2, 50), 1)
    assert_adjoint(op, x, y, 1e-4)
    assert_gradient(op, x, y, 1e-3)
    assert_double_backward(op, x, 1e-3)
    with pytest.raises(ValueError, match="frames"):
        op.forward(random_complex((frames + 1, 7, 6)))


@pytest.mark.parametrize("matrix", [(8, 7), (4, 6, 5)])
def test_a_dynamic_problem_is_its_frames_side_by_side(matrix):
    maps = random_complex((2, *matrix), 2)
    omega = torch.stack([trajectory(len(matrix), seed=k) for k in range(3)])
    geometry = Geometry(matrix, tuple(float(n) for n in matrix))
    scan = Scan(random_complex((3, 2, 50)), omega, geometry, 10, torch.rand(3, 50))
    series, one = dynamic(scan, maps), non_cartesian(scan.frame(1), maps)
    x = random_complex((3, *matrix))
    assert torch.allclose(series.b[1], one.b)
    assert torch.allclose(series.normal(x)[1], one.normal(x[1]), atol=1e-4)


def test_a_cartesian_series_solves_each_frame():
    maps = random_complex((4, 8, 8), 2)
    maps = maps / maps.norm(dim=0)
    truth = random_complex((2, 8, 8))
    masks = torch.ones(2, 8, 8)
    masks[0, ::4] = 0
    kspace = torch.stack([Sense(maps, Cartesian(m, (-2, -1))).forward(t) for m, t in zip(masks, truth, strict=True)])
    problem = cartesian_series(kspace, masks, maps)
    found = conjugate_gradient(problem.normal, problem.b, iterations=200, tolerance=1e-7).x
    assert (found - truth).norm() < 1e-3 * truth.norm()


def test_sense_with_a_normal_of_its_own_serves_cartesian_data():
    maps, fourier = random_complex((3, 6, 8), 2), Cartesian(mask_of((6, 8)), (-2, -1))
    sense, x = Sense(maps, fourier), random_complex((6, 8))
    want = sense.adjoint(sense.forward(x))
    assert torch.allclose(SenseNormal(maps, fourier).normal(x), want, atol=1e-4)


@pytest.mark.parametrize("matrix", [(6, 8, 10), (8, 11)])
def test_off_resonance_equals_the_direct_sum_and_passes_the_shared_properties(matrix):
    omega, times = trajectory(len(matrix)), torch.linspace(0, 5e-3, 50)
    field = 120 * torch.randn(matrix, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    op = with_off_resonance(Nufft(omega, matrix, 1e-5), field, times)
    x, y = random_complex(matrix), random_complex((50,), 1)
    want = torch.stack(
        [direct_sum(omega[:, k : k + 1], x * torch.exp(-2j * torch.pi * field * t))[0] for k, t in enumerate(times)]
    )
    assert (op.forward(x) - want).norm() <= 2e-3 * want.norm()
    assert_adjoint(op, x, y, 1e-4)
    assert_gradient(op, x, y, 1e-3)
    assert_double_backward(op, x, 1e-3)


def test_no_off_resonance_changes_nothing():
    nufft, x = Nufft(trajectory(2), (8, 11), 1e-5), random_complex((8, 11))
    op = with_off_resonance(nufft, torch.zeros(8, 11), torch.linspace(0, 1e-2, 50))
    assert torch.allclose(op.forward(x), nufft.forward(x), atol=1e-4)
