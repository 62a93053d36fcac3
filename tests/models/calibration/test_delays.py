"""Known gradient delays are recovered from the data, and correcting for them mends the image."""

import json
import math

import pytest
import torch

from koosh_models.calibration import delays, density, girf
from koosh_models.metrics import psnr
from koosh_models.physics.nufft import Nufft
from koosh_models.simulation.imperfections import Imperfections, delayed
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import Simulated, simulate
from koosh_models.simulation.trajectories import Trajectory, trajectory
from tests.properties import random_complex

Lags = tuple[float, float, float]


def scan_with(
    family: str, matrix: tuple[int, ...], acceleration: float, lags: Lags, noise: float = 0.02
) -> tuple[Simulated, Trajectory, torch.Tensor]:
    path = trajectory(family, matrix, acceleration)
    made = simulate(
        phantom("head", matrix).image, path, n_coils=4, noise=noise, imperfections=Imperfections(delays=lags)
    )
    return made, path, density.pipe_menon(path.omega, matrix)


def found(family: str, matrix: tuple[int, ...], acceleration: float, lags: Lags) -> tuple[delays.Delays, torch.Tensor]:
    """What is estimated, and the true tensor, rows and columns z, y, x."""
    made, path, weights = scan_with(family, matrix, acceleration, lags)
    out = delays.estimate(made.scan.kspace, path.omega, weights, matrix, path.readout)
    return out, torch.diag(torch.tensor(lags[::-1], dtype=torch.float64)[-len(matrix) :])


@pytest.mark.parametrize("lags", [(0.0, 0.0, 0.0), (0.7, -0.4, 0.0), (2.2, 1.0, 0.0), (-1.5, -0.3, 0.0)])
@pytest.mark.parametrize(("matrix", "acceleration"), [((64, 64), 1.0), ((61, 72), 4.0)])
def test_delays_of_a_plane_of_spokes_are_found_to_a_hundredth_of_a_sample(matrix, acceleration, lags):
    out, truth = found("radial2d", matrix, acceleration, lags)
    assert float((out.tensor - truth).abs().max()) < 0.01
    assert out.after <= out.before * 1.01


@pytest.mark.parametrize("lags", [(0.7, -0.4, 0.0), (-0.7, 0.9, 0.0)])
def test_delays_of_spirals_are_found(lags):
    out, truth = found("spiral2d", (96, 96), 1.0, lags)
    assert float((out.tensor - truth).abs().max()) < 0.02
    assert out.after < 0.5 * out.before


@pytest.mark.slow
@pytest.mark.parametrize(("family", "bound"), [("radial3d", 0.01), ("cones", 0.03), ("ute3d", 0.1), ("spiral3d", 0.02)])
def test_delays_of_volumes_are_found(family, bound):
    out, truth = found(family, (32, 36, 34), 3.0, (0.7, -0.4, 1.1))
    assert float((out.tensor - truth).abs().max()) < bound
    assert out.after < 0.5 * out.before


def test_correcting_the_trajectory_mends_the_image():
    made, path, weights = scan_with("radial2d", (96, 96), 1.0, (1.2, -0.6, 0.0))
    tensor = delays.estimate(made.scan.kspace, path.omega, weights, (96, 96), path.readout).tensor

    def score(omega: torch.Tensor) -> float:
        images = Nufft(omega, (96, 96)).adjoint(made.scan.kspace * density.pipe_menon(omega, (96, 96)))
        return psnr((made.maps.conj() * images).sum(0), made.truth, made.mask)

    assert score(delays.corrected(path.omega, tensor, path.readout)) > score(path.omega) + 5


@pytest.mark.parametrize("family", ["radial2d", "spiral2d"])
def test_the_correction_is_what_the_scanner_did(family):
    path = trajectory(family, (48, 48))
    truth = delayed(path, (0.8, -0.5))
    ours = delays.corrected(path.omega, torch.diag(torch.tensor([-0.5, 0.8], dtype=torch.float64)), path.readout)
    inside = path.omega.abs().amax(0) < 2.9
    assert float((ours - truth)[:, inside].abs().max()) < 1e-5


def test_the_correction_of_a_series_is_that_of_its_frames():
    frames = trajectory("cine_radial", (32, 32), 2.0, n_frames=3)
    tensor = torch.tensor([[0.5, 0.1], [0.0, -0.7]], dtype=torch.float64)
    together = delays.corrected(frames.omega, tensor, frames.readout)
    assert torch.equal(together[1], delays.corrected(frames.omega[1], tensor, frames.readout))


def test_no_delay_changes_nothing_and_a_large_one_stays_within_the_matrix():
    path = trajectory("radial2d", (32, 32))
    assert torch.allclose(delays.corrected(path.omega, torch.zeros(2, 2).double(), path.readout), path.omega, atol=1e-6)
    far = delays.corrected(path.omega, 9 * torch.eye(2).double(), path.readout)
    assert float(far.abs().max()) <= math.pi * (1 + 1e-6)


def test_parallel_readouts_are_refused_because_they_cannot_show_delays():
    path = trajectory("cartesian3d", (16, 16, 16), 2.0)
    kspace = random_complex((2, path.omega.shape[1]))
    with pytest.raises(ValueError, match="do not move along every axis"):
        delays.estimate(kspace, path.omega, torch.ones_like(path.omega[0]), (16, 16, 16), path.readout)


def test_a_scan_of_zeros_and_a_scan_without_centre_say_so():
    path = trajectory("radial2d", (48, 48), 2.0)
    zeros = torch.zeros(2, path.omega.shape[1], dtype=torch.complex64)
    with pytest.raises(ValueError, match="all zero"):
        delays.estimate(zeros, path.omega, torch.ones_like(path.omega[0]), (48, 48), path.readout)
    rim = torch.stack([torch.linspace(2, 3, 60), torch.linspace(3, 2, 60).square() / 3])
    with pytest.raises(ValueError, match="has to pass the centre"):
        delays.estimate(random_complex((1, 60)), rim, torch.ones(60), (48, 48), 60)


def flat_response(gain: torch.Tensor, field: torch.Tensor | None = None) -> girf.Response:
    frequency = torch.linspace(0, 250_000, 400, dtype=torch.float64)
    return girf.Response(frequency, gain.to(torch.complex128).expand(3, 400), field)


@pytest.mark.parametrize("family", ["radial2d", "spiral2d", "radial3d"])
def test_a_perfect_response_plays_what_is_demanded(family):
    path = trajectory(family, (24,) * (2 if family.endswith("2d") else 3), 4.0)
    played = girf.played(path.omega, path.readout, 2.0, flat_response(torch.ones(3, 1)))
    assert float((played - path.omega).abs().max()) < 1e-4


def test_a_linear_phase_response_is_a_delay():
    path = trajectory("spiral2d", (64, 64))
    frequency = torch.linspace(0, 250_000, 2000, dtype=torch.float64)
    turn = torch.exp(-2j * math.pi * frequency * 3e-6).expand(3, 2000)
    played = girf.played(path.omega, path.readout, 2.0, girf.Response(frequency, turn))
    want = delays.corrected(path.omega, 1.5 * torch.eye(2).double(), path.readout)
    # the very ends of a readout depend on what the gradients do before and after it
    middle = (torch.arange(path.omega.shape[1]) % path.readout - path.readout / 2).abs() < path.readout / 2 - 5
    assert float((played - want)[:, middle].abs().max()) < 0.01


def test_the_turn_of_the_image_mixes_the_gradients():
    path = trajectory("radial2d", (32, 32))
    gain = torch.ones(3, 1)
    gain[1] = 0.9
    swap = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    played = girf.played(path.omega, path.readout, 2.0, flat_response(gain), swap)
    assert torch.allclose(played[0], path.omega[0], atol=1e-4)
    assert torch.allclose(played[1], 0.9 * path.omega[1], atol=1e-4)


def test_the_main_field_follows_the_gradients_where_the_response_says_so():
    path = trajectory("radial2d", (32, 32), 4.0)
    field = torch.zeros(3, 400, dtype=torch.complex128)
    field[2] = 0.01
    phase = girf.field_phase(path.omega, path.readout, 2.0, flat_response(torch.ones(3, 1), field))
    # a field proportional to the gradient adds a phase proportional to k
    assert torch.allclose(phase, 0.01 * path.omega[1].double(), atol=1e-5)
    with pytest.raises(ValueError, match="no field term"):
        girf.field_phase(path.omega, path.readout, 2.0, flat_response(torch.ones(3, 1)))


def test_responses_are_read_from_json_and_broken_files_are_named(tmp_path):
    held = {"frequency_hz": [0, 1000, 2000], "gain": [[[1, 0], [0.9, -0.1], [0.8, -0.2]]] * 3}
    file = tmp_path / "girf.json"
    file.write_text(json.dumps(held))
    response = girf.load(file)
    assert response.gain.shape == (3, 3)
    assert response.at(response.gain, torch.tensor([500.0]).double())[0, 0] == pytest.approx(0.95 - 0.05j)
    file.write_text(json.dumps({"gain": []}))
    with pytest.raises(ValueError, match=r"girf\.json is no impulse response"):
        girf.load(file)
    with pytest.raises(ValueError, match="must ascend"):
        girf.Response(torch.tensor([1.0, 0.0]), torch.ones(3, 2, dtype=torch.complex64))
