from contextlib import closing

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from koosh_models.scan import Geometry
from koosh_models.simulation.header import LIMIT, Protocol
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.recordfile import Record, heads, write_scan
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import Trajectory, trajectory
from tests.properties import random_complex


def direct(images: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """The forward model of CONTRIBUTING.md, term by term, in double precision."""
    matrix = images.shape[1:]
    r = torch.stack(torch.meshgrid(*[torch.arange(n) - n // 2 for n in matrix], indexing="ij")).flatten(1).double()
    return images.flatten(1).to(torch.complex128) @ torch.exp(-1j * (omega.double().T @ r)).T / r.shape[1] ** 0.5


@pytest.mark.parametrize("family", ["radial3d", "ute3d", "cones", "cartesian3d", "radial2d", "spiral2d"])
def test_k_space_is_the_direct_sum(family):
    matrix = (8, 10) if family.endswith("2d") else (6, 8, 10)
    path = trajectory(family, matrix, 2.0)
    image = random_complex(matrix, seed=1)
    simulated = simulate(image, path, n_coils=2, noise=0)
    want = direct(simulated.maps * image, path.omega)
    assert (simulated.scan.kspace - want).abs().max() < 1e-4 * want.abs().max()


def test_frames_are_scanned_one_by_one():
    path = trajectory("cine_radial", (8, 8), 1.0, n_frames=3)
    image = random_complex((3, 8, 8), seed=2)
    simulated = simulate(image, path, n_coils=2, noise=0)
    assert simulated.scan.n_frames == 3
    want = direct(simulated.maps * image[2], path.omega[2])
    assert (simulated.scan.kspace[2] - want).abs().max() < 1e-4 * want.abs().max()


def test_noise_has_the_defined_deviation_and_the_seed_decides_it():
    path, anatomy = trajectory("radial3d", (16, 16, 16), 1.0), phantom("head", (16, 16, 16))
    clean, one, again, other = (
        simulate(anatomy.image, path, mask=anatomy.mask, n_coils=4, noise=p, seed=s, maps=None).scan.kspace
        for p, s in ((0, 0), (0.05, 0), (0.05, 0), (0.05, 1))
    )
    sigma = 2**0.5 * 0.05 * float(anatomy.image.abs()[anatomy.mask].mean())
    assert float((one - clean).abs().square().mean().sqrt()) == pytest.approx(sigma, rel=0.02)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("bad", [float("nan"), 0.0])
def test_images_without_finite_signal_are_refused(bad):
    path = trajectory("radial3d", (8, 8, 8), 1.0)
    with pytest.raises(ValueError, match=r"NaN or Inf|zero everywhere"):
        simulate(torch.full((8, 8, 8), bad, dtype=torch.complex64), path)
    with pytest.raises(ValueError, match=r"shape \(8, 8\); radial3d needs 3 axes"):
        simulate(torch.ones(8, 8, dtype=torch.complex64), path)


def test_more_than_fits_into_memory_is_refused_before_anything_is_made():
    image, path = torch.ones(64, 64, 64, dtype=torch.complex64), trajectory("radial3d", (64, 64, 64), 50.0)
    with pytest.raises(ValueError, match=r"1000000 coils on 64 x 64 x 64 voxels need about .* GiB .* fewer coils"):
        simulate(image, path, n_coils=1_000_000)


@pytest.fixture
def written(tmp_path):
    path = trajectory("radial3d", (12, 14, 16), 2.0)
    geometry = Geometry((12, 14, 16), (24, 28, 32), (5, -6, 7), (0, 1, 0), (0, 0, 1), (1, 0, 0))
    simulated = simulate(random_complex((12, 14, 16)), path, n_coils=3, geometry=geometry, seed=4)
    write_scan(tmp_path / "scan.h5", simulated, path, seed=4)
    return tmp_path / "scan.h5", simulated, path


def test_the_file_reads_back_with_ismrmrd(written):
    name, simulated, path = written
    with closing(ismrmrd.Dataset(name, create_if_needed=False)) as data:
        header = ismrmrd.xsd.CreateFromDocument(data.read_xml_header())
        readouts = [data.read_acquisition(i) for i in range(data.number_of_acquisitions())]
    assert header.version is None
    assert header.encoding[0].encodedSpace.matrixSize.x == 16
    assert header.encoding[0].reconSpace.fieldOfView_mm.z == 24
    noise = [a for a in readouts if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    imaging = [a for a in readouts if not a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    assert (len(noise), len(imaging)) == (16, path.n_readouts)
    got = np.concatenate([a.data for a in imaging], axis=1)
    assert np.array_equal(got, simulated.scan.kspace.numpy())
    way = np.concatenate([a.traj for a in imaging])
    assert np.abs(way[:, ::-1].T * 2 * np.pi - path.omega.numpy()).max() < 1e-5
    assert np.abs(way).max() <= 0.5
    deviation = np.sqrt(np.mean([np.abs(a.data) ** 2 for a in noise]))
    assert deviation == pytest.approx(simulated.sigma, rel=0.1)
    assert imaging[-1].is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    assert list(imaging[5].position) == [5, -6, 7]
    assert list(imaging[5].read_dir) == [0, 1, 0]


def test_the_same_seed_writes_the_same_records(written, tmp_path):
    name, simulated, path = written
    write_scan(tmp_path / "again.h5", simulated, path, seed=4)
    with h5py.File(name) as a, h5py.File(tmp_path / "again.h5") as b:
        one, two = a["dataset/data"][:], b["dataset/data"][:]
        assert a["dataset/xml"][0] == b["dataset/xml"][0]
    assert np.array_equal(one["head"], two["head"])
    assert all(np.array_equal(x, y) for x, y in zip(one["data"], two["data"], strict=True))


def test_a_failed_write_leaves_nothing(written, tmp_path):
    _, simulated, path = written
    with pytest.raises(ValueError, match="noise correlation is 2"):
        write_scan(tmp_path / "bad.h5", simulated, path, Protocol(correlation=2.0))
    with pytest.raises(OSError):
        write_scan(tmp_path / "no" / "bad.h5", simulated, path)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


def test_correlated_noise_is_whitened_by_its_own_readouts(tmp_path):
    path = trajectory("radial3d", (16, 16, 16), 1.0)
    simulated = simulate(random_complex((16, 16, 16)), path, n_coils=3)
    write_scan(tmp_path / "c.h5", simulated, path, Protocol(n_noise=400, correlation=0.6))
    with h5py.File(tmp_path / "c.h5") as file:
        noise = np.concatenate(
            [d.view(np.complex64).reshape(3, -1) for d in file["dataset/data"][:400]["data"]], axis=1
        )
    covariance = noise @ noise.conj().T / noise.shape[1] / simulated.sigma**2
    assert np.allclose(np.abs(covariance), 0.6 ** np.abs(np.subtract.outer(range(3), range(3))), atol=0.05)


def test_more_readouts_than_16_bits_are_counted_without_wrapping():
    n = LIMIT + 100
    path = Trajectory("radial3d", torch.zeros(3, n), 1, 0)
    geometry = Geometry((8, 8, 8), (8.0, 8.0, 8.0))
    head = heads(Record(torch.zeros(1, n, dtype=torch.complex64), torch.zeros(0, 1, 1), path, geometry))
    assert head["scan_counter"][-1] == n
    steps = head["idx"]["kspace_encode_step_2"].astype(int) * (LIMIT + 1) + head["idx"]["kspace_encode_step_1"]
    assert np.array_equal(steps, np.arange(n))


def test_cartesian_files_hold_steps_and_no_trajectory(tmp_path):
    path = trajectory("cartesian3d", (12, 10, 8), 2.0)
    simulated = simulate(random_complex((12, 10, 8)), path, n_coils=2)
    write_scan(tmp_path / "c.h5", simulated, path)
    with closing(ismrmrd.Dataset(tmp_path / "c.h5", create_if_needed=False)) as data:
        header = ismrmrd.xsd.CreateFromDocument(data.read_xml_header())
        last = data.read_acquisition(data.number_of_acquisitions() - 1)
    assert header.encoding[0].trajectory.value == "cartesian"
    assert last.traj.size == 0
    assert (last.idx.kspace_encode_step_1, last.idx.kspace_encode_step_2) == tuple(path.lines[-1].tolist())


def test_frames_are_counted_as_phases(tmp_path):
    path = trajectory("cine_radial", (12, 12), 2.0, n_frames=3)
    simulated = simulate(random_complex((3, 12, 12)), path, n_coils=2)
    write_scan(tmp_path / "c.h5", simulated, path)
    with h5py.File(tmp_path / "c.h5") as file:
        head = file["dataset/data"][16:]["head"]
    assert head["idx"]["phase"].tolist() == np.repeat(range(3), path.n_readouts).tolist()
    assert (head["trajectory_dimensions"] == 2).all()
