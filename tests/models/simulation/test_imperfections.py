import math

import pytest
import torch

from koosh_models.simulation.imperfections import (
    Imperfections,
    delayed,
    field_map,
    motion_of,
    moved,
    off_resonant,
    rotation,
)
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory
from tests.properties import random_complex


def grid(matrix: tuple[int, ...]) -> torch.Tensor:
    return torch.stack(torch.meshgrid(*[torch.arange(n) - n // 2 for n in matrix], indexing="ij")).flatten(1).double()


def kspace(path, image, **what):
    return simulate(image, path, n_coils=2, noise=0, imperfections=Imperfections(**what)).scan.kspace


@pytest.mark.parametrize("matrix", [(8, 9), (6, 8, 10)])
def test_off_resonance_is_the_direct_sum_over_time(matrix):
    path = trajectory("spiral2d" if len(matrix) == 2 else "radial3d", matrix, 1.0)
    image, field = random_complex(matrix, seed=1), field_map(matrix, 150.0, seed=2)
    times = 1e-5 * (torch.arange(path.readout) - path.center).double()
    t = times.repeat(path.n_readouts)
    phase = path.omega.double().T @ grid(matrix) + 2 * math.pi * t[:, None] * field.flatten().double()
    want = torch.exp(-1j * phase) @ image.flatten().to(torch.complex128) / image.numel() ** 0.5

    def plain(x, omega):
        return (torch.exp(-1j * (omega.double().T @ grid(matrix))) @ x.flatten().to(torch.complex128))[None] / (
            x.numel() ** 0.5
        )

    got = off_resonant(image, path.omega, field, times, plain)[0]
    assert (got - want).norm() < 1e-4 * want.norm()


def test_a_delay_moves_the_samples_along_each_spoke():
    path = trajectory("radial3d", (12, 12, 12), 2.0)
    step = path.omega.unflatten(1, (-1, path.readout)).diff(dim=2)[:, :, 5]
    true = delayed(path, (0.5, -0.25, 1.0)).unflatten(1, (-1, path.readout))
    nominal = path.omega.unflatten(1, (-1, path.readout))
    got = (true - nominal)[:, :, 10]
    want = -step * torch.tensor([1.0, -0.25, 0.5])[:, None]
    assert torch.allclose(got, want, atol=1e-5)


def test_a_common_whole_delay_shifts_the_readout_by_one_sample():
    path = trajectory("radial2d", (16, 16), 1.0)
    true = delayed(path, (1.0, 1.0, 0.0)).unflatten(1, (-1, path.readout))
    nominal = path.omega.unflatten(1, (-1, path.readout))
    turn = (true[:, :, 1:] - nominal[:, :, :-1]) / (2 * math.pi)
    assert torch.allclose(turn, turn.round(), atol=1e-5)


def test_a_whole_voxel_shift_rolls_the_image():
    image = random_complex((8, 9, 10), seed=3)
    got = moved(image, torch.eye(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    assert torch.allclose(got, image.roll((1, -2, 3), (0, 1, 2)), atol=1e-4)


def test_a_quarter_turn_is_exact():
    image = torch.zeros(17, 17, dtype=torch.complex64)
    image[4:9, 6:8] = random_complex((5, 2), seed=4)
    turn = rotation(torch.tensor([math.pi / 2, 0, 0]).numpy(), 2)
    assert torch.allclose(moved(image, turn, torch.zeros(2, dtype=torch.float64)), image.rot90(1), atol=1e-4)


def test_turns_there_and_back_keep_a_smooth_object():
    image = phantom("head", (32, 32, 32), seed=5).image
    turn, none = rotation(torch.tensor([0.1, -0.2, 0.05]).numpy(), 3), torch.zeros(3, dtype=torch.float64)
    back = moved(moved(image, turn, none), turn.T, none)
    assert (back - image).norm() < 0.1 * image.norm()
    assert float(moved(image, turn, none).abs().sum()) == pytest.approx(float(image.abs().sum()), rel=0.05)


def test_motion_starts_at_rest_and_visits_its_states():
    motion = motion_of(Imperfections(motion_voxels=2, motion_degrees=3), 200, 3, seed=1)
    assert motion.state.unique().tolist() == list(range(8))
    assert torch.equal(motion.turns[0], torch.eye(3, dtype=torch.float64))
    assert (motion.shifts[0] == 0).all()
    assert torch.allclose(torch.linalg.det(motion.turns), torch.ones(8, dtype=torch.float64))
    breathing = motion_of(Imperfections(breathing_voxels=4), 400, 3, seed=1)
    assert breathing.shifts[:, 0].max() == 4
    assert (breathing.shifts[:, 1:] == 0).all()
    assert (breathing.state == 0).float().mean() > 0.3  # end of exhalation lasts longest


def test_readouts_before_the_first_movement_are_those_of_a_still_object():
    path, image = trajectory("radial3d", (16, 16, 16), 2.0), phantom("head", (16, 16, 16)).image
    still, moved_scan = kspace(path, image), kspace(path, image, motion_voxels=1.5, motion_degrees=4)
    first = path.n_readouts // 8 * path.readout
    assert (still - moved_scan)[:, :first].norm() < 1e-3 * still[:, :first].norm()
    assert (still - moved_scan)[:, -first:].norm() > 0.05 * still[:, -first:].norm()


def test_breathing_shows_in_the_centre_of_k_space():
    path, image = trajectory("radial3d", (24, 24, 24), 2.0), phantom("chest", (24, 24, 24)).image
    simulated = simulate(image, path, n_coils=4, noise=0, imperfections=Imperfections(breathing_voxels=3, breaths=6))
    centre = simulated.scan.kspace.unflatten(1, (-1, path.readout))[:, :, path.center].abs()
    depth = simulated.motion.shifts[simulated.motion.state, 0].float()
    assert float(torch.corrcoef(torch.cat([depth[None], centre]))[0, 1:].abs().max()) > 0.9


def test_series_take_delays_and_fields_but_no_rigid_motion():
    path, image = trajectory("cine_radial", (12, 12), 1.0, n_frames=2), random_complex((2, 12, 12))
    ideal = kspace(path, image)
    assert (kspace(path, image, delays=(0.5, 0, 0)) - ideal).norm() > 0.01 * ideal.norm()
    assert (kspace(path, image, off_resonance_hz=200.0, dwell_us=20) - ideal).norm() > 0.01 * ideal.norm()
    with pytest.raises(ValueError, match="a series moves by itself"):
        kspace(path, image, motion_voxels=1)
