"""Density weights, coil maps, conjugate gradients, wavelets and the classical reconstructions."""

import pytest
import torch
from torch import Tensor

from koosh_models.baselines import classical, wavelet
from koosh_models.calibration import density, maps
from koosh_models.metrics import psnr
from koosh_models.physics.mri import non_cartesian
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.sense import SenseNormal
from koosh_models.physics.solve import conjugate_gradient, largest_eigenvalue
from koosh_models.reconstruction import reconstruct, with_weights
from koosh_models.scan import Geometry, Scan
from tests.properties import random_complex


def spokes(n_spokes: int, matrix: tuple[int, ...], n_samples: int | None = None) -> tuple[Tensor, int]:
    """Golden-means full spokes in 2D or 3D, (axis, sample) and samples a spoke."""
    n = n_samples or 2 * max(matrix)
    radius = (torch.arange(n) - n // 2) / (n / 2) * torch.pi
    k = torch.arange(n_spokes, dtype=torch.float64)
    if len(matrix) == 2:
        angle = k * 1.9416110387254666
        directions = torch.stack((angle.sin(), angle.cos()))
    else:
        z, angle = 2 * (k * 0.465571231876768 % 1) - 1, 2 * torch.pi * (k * 0.682327803828019 % 1)
        directions = torch.stack((z, (1 - z * z).sqrt() * angle.sin(), (1 - z * z).sqrt() * angle.cos()))
    return (directions[:, :, None] * radius).flatten(1).float(), n


def smooth_object(matrix: tuple[int, ...]) -> Tensor:
    """A textured ellipsoid with smooth phase."""
    grids = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in matrix], indexing="ij")
    radius = torch.stack(grids).norm(dim=0)
    body = torch.sigmoid((0.7 - radius) * 20) * (1 + 0.3 * torch.cos(7 * grids[-1]) * torch.cos(5 * grids[-2]))
    return torch.polar(body, grids[-1] * grids[-2])


def smooth_coils(n: int, matrix: tuple[int, ...]) -> Tensor:
    """Maps of n coils with unit root-sum-of-squares."""
    grids = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, m) for m in matrix], indexing="ij"))
    generator = torch.Generator().manual_seed(1)
    centres = torch.nn.functional.normalize(torch.randn(n, len(matrix), generator=generator), dim=1) * 1.3
    d2 = ((grids[None] - centres.reshape(n, len(matrix), *[1] * len(matrix))) ** 2).sum(1)
    coils = torch.polar(1 / (0.5 + d2), torch.arange(n).reshape(n, *[1] * len(matrix)) + 0.5 * d2)
    return coils / coils.norm(dim=0)


def scan_of(matrix: tuple[int, ...], n_spokes: int, n_coils: int = 4) -> tuple[Scan, Tensor, Tensor]:
    """A noiseless scan with its truth and coils."""
    omega, readout = spokes(n_spokes, matrix)
    truth, coils = smooth_object(matrix), smooth_coils(n_coils, matrix)
    kspace = Nufft(omega, matrix, 1e-5).forward(coils * truth)
    return Scan(kspace, omega, Geometry(matrix, tuple(float(n) for n in matrix)), readout), truth, coils


@pytest.mark.parametrize("matrix", [(24, 24), (20, 24, 24)])
def test_pipe_menon_gives_cell_volumes_on_a_dense_radial_scan(matrix):
    omega, readout = spokes(40 * len(matrix) ** 3, matrix)
    weights = density.pipe_menon(omega, matrix)
    want = density.analytic(omega, matrix, "radial2d" if len(matrix) == 2 else "radial3d", readout)
    ring = (omega.norm(dim=0) > 1.2) & (omega.norm(dim=0) < 2.2)
    assert abs(float(weights[ring].sum() / want[ring].sum()) - 1) < 0.2


def test_spread_density_equals_the_whole_transforms_fixed_point():
    omega, _ = spokes(200, (24, 24))
    weights = density.pipe_menon(omega, (24, 24), iterations=30)
    assert density.bound(omega, (24, 24), weights) < 1.3
    assert weights.min() > 0


@pytest.mark.parametrize("matrix", [(32, 32), (27, 31), (20, 22, 24)])
def test_gridding_keeps_the_amplitude_of_a_well_sampled_scan(matrix):
    scan, truth, _ = scan_of(matrix, 80 if len(matrix) == 2 else 1200)
    result = reconstruct(scan, "gridding")
    inside = truth.abs() > 0.5
    assert abs(float(result.volume.abs()[inside].mean() / truth.abs()[inside].mean()) - 1) < 0.1


@pytest.mark.parametrize("matrix", [(40, 40), (24, 28, 26)])
def test_low_frequency_maps_are_close_to_the_truth_and_normalised(matrix):
    scan, truth, coils = scan_of(matrix, 60 if len(matrix) == 2 else 700)
    scan = with_weights(scan)
    found = maps.low_frequency(scan.kspace, scan.omega, scan.weights, matrix)
    got, inside = found.maps.coils(0, 4), truth.abs() > 0.5
    assert bool(found.mask[inside].all())
    assert torch.allclose(got.norm(dim=0)[found.mask], torch.ones(()), atol=1e-3)
    assert maps.angle(got, coils, inside) < 0.05


def test_maps_refuse_a_scan_that_misses_the_centre():
    omega = torch.full((3, 40), 3.0)
    with pytest.raises(ValueError, match="too few for coil maps"):
        maps.low_frequency(random_complex((4, 40)), omega, torch.ones(40), (64, 64, 64))


def test_maps_refuse_an_all_zero_scan():
    omega, _ = spokes(50, (32, 32))
    zeros = torch.zeros(2, omega.shape[1], dtype=torch.complex64)
    with pytest.raises(ValueError, match="all zero"):
        maps.low_frequency(zeros, omega, torch.ones(omega.shape[1]), (32, 32))


def test_conjugate_gradients_solve_and_stop_on_the_residual():
    a = random_complex((12, 12), dtype=torch.complex128)
    matrix = a.conj().T @ a + torch.eye(12)
    b = random_complex((12,), 1, torch.complex128)
    solution = conjugate_gradient(lambda x: matrix @ x, b, iterations=100, tolerance=1e-10)
    assert solution.iterations < 40
    assert solution.residual <= 1e-10
    assert torch.allclose(matrix @ solution.x, b)
    again = conjugate_gradient(lambda x: matrix @ x, b, x0=solution.x, iterations=100, tolerance=1e-9)
    assert again.iterations == 0


def test_conjugate_gradients_of_zero_are_zero_not_nan():
    solution = conjugate_gradient(lambda x: 2 * x, torch.zeros(5, dtype=torch.complex64), iterations=20)
    assert solution.iterations == 0
    assert bool((solution.x == 0).all())


def test_independent_systems_do_not_disturb_each_other():
    diagonal = torch.linspace(1, 5, 8)
    b = random_complex((3, 8))
    b[1] = 0
    together = conjugate_gradient(lambda x: diagonal * x, b, iterations=30, independent=1).x
    assert torch.allclose(together, b / diagonal, atol=1e-4)


def test_power_iteration_finds_the_largest_eigenvalue():
    diagonal = torch.linspace(0.1, 3, 50)
    value = largest_eigenvalue(lambda x: diagonal * x, random_complex((50,)), iterations=200)
    assert 2.9 < value <= 3.001


@pytest.mark.parametrize("matrix", [(32, 48), (16, 24, 40), (1, 64), (128,)])
def test_the_wavelet_transform_is_orthonormal_on_padded_sizes(matrix):
    count = wavelet.levels(matrix)
    assert wavelet.padded(matrix, count) == matrix
    x, y = random_complex(matrix), random_complex(matrix, 1)
    wx, wy = wavelet.forward(x, count), wavelet.forward(y, count)
    assert torch.allclose(wavelet.inverse(wx, count), x, atol=1e-5)
    assert abs(torch.vdot(wx.flatten(), wy.flatten()) - torch.vdot(x.flatten(), y.flatten())) < 1e-3
    assert wavelet.forward(torch.ones(matrix), count).abs().gt(1e-3).float().mean() < 0.2


def test_shrink_lessens_magnitudes_and_keeps_phases():
    c = random_complex((100,))
    s = wavelet.shrink(c, 0.5)
    assert torch.allclose(s.abs(), (c.abs() - 0.5).clamp_min(0), atol=1e-6)
    kept = s.abs() > 0
    assert torch.allclose(s[kept].angle(), c[kept].angle(), atol=1e-4)


@pytest.mark.parametrize("matrix", [(33, 35), (17, 20, 23)])
def test_denoising_with_no_threshold_changes_nothing_on_odd_sizes(matrix):
    x = random_complex(matrix)
    assert torch.allclose(classical.denoise(x, 0.0, torch.Generator().manual_seed(0)), x, atol=1e-5)


def noisy_case() -> tuple[Scan, Tensor]:
    scan, truth, _ = scan_of((24, 24, 24), 90)
    noise = random_complex(tuple(scan.kspace.shape), 5) * 0.01
    return Scan(scan.kspace + noise, scan.omega, scan.geometry, scan.readout), truth


def test_cg_beats_gridding_and_l1_beats_cg_on_an_undersampled_noisy_scan():
    scan, truth = noisy_case()
    inside = truth.abs() > 0.1
    scores = [psnr(reconstruct(scan, method).volume, truth, inside) for method in ("gridding", "cg", "l1")]
    assert scores[0] + 2 < scores[1] < scores[2]


def test_the_problem_is_self_adjoint_and_its_image_has_the_scans_amplitude():
    scan, truth, coils = scan_of((16, 18, 20), 400)
    problem = non_cartesian(with_weights(scan), coils)
    x, y = random_complex((16, 18, 20)), random_complex((16, 18, 20), 1)
    left = torch.vdot(problem.normal(x).flatten(), y.flatten())
    right = torch.vdot(x.flatten(), problem.normal(y).flatten())
    assert abs(left - right) < 1e-3 * x.norm() * y.norm()
    assert (problem.normal(truth) - problem.b).norm() < 1e-3 * problem.b.norm()
    assert isinstance(getattr(problem.normal, "__self__", None), SenseNormal)


def test_a_series_is_reconstructed_frame_by_frame_with_common_maps():
    omega, readout = spokes(48, (24, 24))
    truth, coils = smooth_object((24, 24)), smooth_coils(3, (24, 24))
    kspace = Nufft(omega, (24, 24), 1e-5).forward(coils * truth)
    frames = torch.stack(torch.split(kspace, 24 * readout, dim=1))
    series = Scan(
        frames, torch.stack(torch.split(omega, 24 * readout, dim=1)), Geometry((24, 24), (24.0, 24.0)), readout
    )
    result = reconstruct(series, "cg")
    assert result.volume.shape == (2, 24, 24)
    assert psnr(result.volume[1], truth, truth.abs() > 0.1) > 20


def test_an_unknown_method_names_the_known_ones():
    scan, _, _ = scan_of((16, 16), 30)
    with pytest.raises(ValueError, match="gridding, cg, l1"):
        reconstruct(scan, "magic")


def test_scan_refuses_what_does_not_belong_together():
    omega, geometry = torch.zeros(3, 20), Geometry((8, 8, 8), (8.0, 8.0, 8.0))
    with pytest.raises(ValueError, match="trajectory has shape"):
        Scan(random_complex((2, 20)), omega[:2], geometry, 10)
    with pytest.raises(ValueError, match="NaN"):
        Scan(torch.full((2, 20), float("nan"), dtype=torch.complex64), omega, geometry, 10)
    with pytest.raises(ValueError, match="whole number of readouts"):
        Scan(random_complex((2, 20)), omega, geometry, 7)
    with pytest.raises(ValueError, match="empty"):
        Scan(torch.zeros(2, 0, dtype=torch.complex64), torch.zeros(3, 0), geometry, 1)
    with pytest.raises(ValueError, match="trajectory_unit"):
        Scan(random_complex((2, 20)), omega + 9, geometry, 10)


def test_an_operator_that_is_positive_but_for_its_accuracy_is_solved_where_it_was_sampled():
    values = torch.cat([torch.linspace(0.5, 2, 40), -1e-4 * torch.ones(24)])
    b = torch.cat([torch.ones(40), 1e-5 * torch.ones(24)]).to(torch.complex64)
    found = conjugate_gradient(lambda x: values * x, b, iterations=60, tolerance=1e-7).x
    assert found.isfinite().all()
    assert (values * found - b)[:40].abs().max() <= 1e-2
