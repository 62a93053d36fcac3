"""Work done while the scan runs changes nothing but the time of the image."""

import random

import ismrmrd
import numpy as np
import pytest

from koosh_gadgets.files import open_scan
from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.ahead import Ahead
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.prepared import Plan, serves
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.recordfile import write_scan
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory
from tests.fakes.runs import volume


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A simulated 3D radial scan: header and single readouts."""
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    way = trajectory("radial3d", (16, 16, 16), 2.0)
    anatomy = phantom("head", (16, 16, 16))
    write_scan(path, simulate(anatomy.image, way, mask=anatomy.mask, n_coils=4, noise=0.01), way)
    with open_scan(path) as file:
        return file.xml, [a for block in file.blocks() for a in block.acquisitions()]


def images(recorded, items=None, **settings):
    xml, own = recorded
    job = Job(xml, Settings(**{"method": "cg", **settings}), Journal())
    return list(job.images(own if items is None else items)), job.journal


def test_maps_and_kernel_are_ready_before_the_scan_ends_and_give_the_same_bits(recorded, monkeypatch):
    early, journal = images(recorded)
    assert "kernel" in {**journal.before, **journal.after}
    monkeypatch.setattr(Ahead, "offer", lambda self, data: None)
    late, _ = images(recorded)
    assert [im.data.tobytes() for im in early] == [im.data.tobytes() for im in late]


def test_shuffled_readouts_of_a_known_trajectory_give_the_same_image(recorded):
    want = volume(images(recorded)[0])
    mixed = recorded[1][16:]
    random.Random(2).shuffle(mixed)
    got = volume(images(recorded, recorded[1][:16] + mixed)[0])
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def test_a_trajectory_that_is_not_the_expected_one_is_reconstructed_from_its_own(recorded):
    found, journal = images(recorded, recorded[1][:100] + recorded[1][130:])
    assert any("incomplete" in note for note in journal.notes)
    assert np.isfinite(volume(found)).all()


def test_readouts_without_trajectory_get_it_from_the_header(recorded):
    got, journal = images(recorded, bare(recorded[1]))
    want, _ = images(recorded)
    assert [im.data.tobytes() for im in got] == [im.data.tobytes() for im in want]
    assert any("computed from the header" in note for note in journal.notes)


def bare(readouts):
    """The readouts without trajectory."""
    out = []
    for a in readouts:
        head = a.getHead()
        head.trajectory_dimensions = 0
        out.append(ismrmrd.Acquisition(head, a.data, np.zeros((a.number_of_samples, 0), np.float32)))
    return out


def test_a_trajectory_file_is_worked_on_ahead_too(recorded, tmp_path, monkeypatch):
    xml, own = recorded
    np.savez(tmp_path / "k.npz", trajectory=np.stack([a.traj for a in own if a.traj.size]))
    scan = (xml.replace(b"radial3d", b"unheard-of"), None)
    chosen = {"trajectory_file": str(tmp_path / "k.npz"), "trajectory_unit": "cycles/voxel", "method": "gridding"}
    seen = []
    matches = Ahead.matches
    monkeypatch.setattr(Ahead, "matches", lambda self, scan: seen.append(matches(self, scan)) or seen[-1])
    early, _ = images(scan, bare(own), **chosen)
    monkeypatch.setattr(Ahead, "_work", lambda *_: None)
    late, _ = images(scan, bare(own), **chosen)
    assert seen == [True, True]
    assert [im.data.tobytes() for im in early] == [im.data.tobytes() for im in late]


@pytest.mark.parametrize(
    ("family", "blocks"), [("radial3d", 4), ("cones", 4), ("spiral3d", 4), ("stack_of_stars", 3), ("radial2d", 4)]
)
def test_maps_wait_until_the_centre_of_k_space_is_filled(family, blocks):
    way = trajectory(family, (64, 64) if family == "radial2d" else (48, 48, 48), 8.0)
    plan = Plan.of((64, 64) if family == "radial2d" else (48, 48, 48), way.omega, way.readout)
    assert len(plan.ends) == blocks
    assert plan.ends[-1] == way.omega.shape[1]
    assert all(end % way.readout == 0 for end in plan.ends)


def test_readouts_of_the_centre_alone_serve_for_maps():
    way = trajectory("stack_of_stars", (64, 64, 64), 8.0)
    assert serves(way.omega, (64, 64, 64), int(0.9 * way.omega.shape[1]))
    assert not serves(way.omega, (64, 64, 64), way.omega.shape[1] // 2)
