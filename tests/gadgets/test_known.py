"""Trajectories that come without the readouts: .npz, ISMRMRD, Pulseq; and what is wrong with them."""

import contextlib

import ismrmrd
import numpy as np
import pytest

from tests.fakes.runs import run, volume
from tests.fakes.streams import header_xml, point_scan

TABLE = np.stack([a.traj for a in point_scan()])


def bare():
    scan = []
    for a in point_scan():
        head = a.getHead()
        head.trajectory_dimensions = 0
        scan.append(ismrmrd.Acquisition(head, a.data, np.zeros((a.number_of_samples, 0), np.float32)))
    return scan


@pytest.mark.parametrize(("unit", "scale"), [("auto", 1), ("cycles/FOV", 16), ("rad/voxel", 2 * np.pi), ("1/m", 100)])
def test_an_npz_file_gives_the_image_of_a_scan_with_trajectories(unit, scale, tmp_path):
    np.savez(tmp_path / "k.npz", trajectory=TABLE * scale)
    found, _ = run(bare(), trajectory_file=str(tmp_path / "k.npz"), trajectory_unit=unit)
    want, _ = run(point_scan())
    # a trajectory known beforehand is calibrated from the first readouts: the object's edge may differ by single voxels
    inside = (volume(found) > 0) & (volume(want) > 0)
    assert inside.mean() >= 0.9 * max((volume(found) > 0).mean(), (volume(want) > 0).mean())
    assert np.abs(volume(found) - volume(want))[inside].max() <= 1e-4 * volume(want).max()


def test_an_ismrmrd_file_lends_its_trajectories(tmp_path):
    with contextlib.closing(ismrmrd.Dataset(str(tmp_path / "k.h5"), "dataset")) as file:
        file.write_xml_header(header_xml().encode())
        for a in point_scan():
            file.append_acquisition(a)
    np.savez(tmp_path / "k.npz", trajectory=TABLE)
    found, _ = run(bare(), trajectory_file=str(tmp_path / "k.h5"))
    want, _ = run(bare(), trajectory_file=str(tmp_path / "k.npz"))
    assert (volume(found) == volume(want)).all()


def test_missing_readouts_keep_their_places_in_the_file(tmp_path):
    np.savez(tmp_path / "k.npz", trajectory=TABLE)
    scan = bare()
    found, _ = run(scan[:20] + scan[25:], trajectory_file=str(tmp_path / "k.npz"))
    whole = point_scan()
    assert (volume(found) == volume(run(whole[:20] + whole[25:])[0])).all()


BAD = {
    "short": (TABLE[:10], "scan_counter is number 10 of the scan, but the trajectory file has 10 readouts"),
    "samples": (TABLE[:, :9], "number_of_samples is 16, but the trajectory file has 9 samples"),
    "range": (TABLE * 1.3, "fits none of"),
    "nan": (TABLE * np.nan, "NaN"),
    "shape": (TABLE[0], "wanted (readout, sample, 3)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_named(name, tmp_path):
    table, message = BAD[name]
    np.savez(tmp_path / "k.npz", trajectory=table)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        run(bare(), trajectory_file=str(tmp_path / "k.npz"))


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "k.npz", trajectory=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        run(bare(), trajectory_file=str(tmp_path / "k.npz"))


def test_gradient_delays_given_by_number_move_the_trajectory_back():
    late = []
    for a in point_scan(spokes=200):
        moved = a.traj.copy()
        moved[:, 0] += 0.5 / 16 * np.diff(a.traj[:2], axis=0)[0, 0] * 16  # half a sample of x
        late.append(ismrmrd.Acquisition(a.getHead(), a.data, moved))
    found, _ = run(late, header_xml(spokes=200), delays="0.5,0,0", trajectory_unit="cycles/voxel")
    want, _ = run(point_scan(spokes=200), header_xml(spokes=200))
    assert np.abs(volume(found) - volume(want)).max() <= 1e-3 * volume(want).max()


@pytest.mark.parametrize("text", ["1", "a,b,c", "1,2,nan", "100,0,0"])
def test_delays_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match="delays is"):
        run(point_scan(), delays=text)


def test_cartesian_readouts_are_placed_by_their_counters():
    n, voxel = 16, (9, 6, 10)
    r = np.array(voxel[::-1]) - n // 2
    kx = (np.arange(n) - n // 2) / n
    scan = []
    for number, (z, y) in enumerate(np.ndindex(n, n)):
        signal = np.exp(-2j * np.pi * (kx * r[0] + (y - 8) / n * r[1] + (z - 8) / n * r[2])) * n**-1.5
        a = ismrmrd.Acquisition.from_array(signal[None].astype(np.complex64), scan_counter=number, center_sample=8)
        a.idx.kspace_encode_step_1, a.idx.kspace_encode_step_2 = y, z
        scan.append(a)
    step = "kspace_encoding_step_{}"
    limits = "".join(
        f"<{step.format(i)}><minimum>0</minimum><maximum>15</maximum><center>8</center></{step.format(i)}>"
        for i in (1, 2)
    )
    xml = header_xml().replace(">radial<", ">cartesian<")
    start, stop = xml.index("<encodingLimits>") + 16, xml.index("</encodingLimits>")
    images, _ = run(scan, xml[:start] + limits + xml[stop:])
    found = volume(images)
    assert np.unravel_index(found.argmax(), found.shape) == voxel
