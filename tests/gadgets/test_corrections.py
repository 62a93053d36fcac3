"""What a site may have corrected on the way: gradients by their impulse response, brightness by a smooth shading."""

import json

import ismrmrd
import numpy as np
import pytest
import torch

from koosh_gadgets.settings import Folders, Settings, from_wire, ladder
from koosh_gadgets.stages import calibrate
from koosh_models.calibration import girf
from koosh_models.scan import Geometry, Scan
from tests.fakes.runs import run, volume
from tests.fakes.streams import header_xml, point_scan

DWELL_US = 5.0


def late(folder, samples, axes=(0, 1, 2)):
    """A response that plays the gradients of some axes (z, y, x) later by a number of samples."""
    hertz = np.linspace(0, 1e6 / DWELL_US / 2, 400)
    delay = np.exp(-2j * np.pi * hertz * samples * DWELL_US * 1e-6)
    rows = [[[v.real, v.imag] for v in (delay if axis in axes else np.ones_like(delay))] for axis in range(3)]
    path = folder / "girf.json"
    path.write_text(json.dumps({"frequency_hz": hertz.tolist(), "gain": rows}))
    return str(path)


def advanced(samples):
    """A point scan whose readouts carry the nominal trajectory of gradients that come `samples` late."""
    out = []
    for a in point_scan(spokes=200):
        step = np.diff(a.traj[:2], axis=0)[0]
        out.append(ismrmrd.Acquisition(a.getHead(), a.data, (a.traj + samples * step).astype(np.float32)))
    return out


def test_a_response_that_only_delays_moves_the_trajectory_back(tmp_path):
    found, journal = run(
        advanced(0.5), header_xml(spokes=200), girf=late(tmp_path, 0.5), trajectory_unit="cycles/voxel"
    )
    want, _ = run(point_scan(spokes=200), header_xml(spokes=200))
    plain, _ = run(advanced(0.5), header_xml(spokes=200), trajectory_unit="cycles/voxel")
    # the ends of readouts of 16 samples depend on ramps that nobody knows: most of the error goes, not all
    assert np.abs(volume(found) - volume(want)).max() < 0.5 * np.abs(volume(plain) - volume(want)).max()
    assert any("impulse response" in note for note in journal.notes)


@pytest.mark.parametrize("lateral", [False, True])
def test_the_response_belongs_to_the_gradients_however_the_slab_and_the_patient_lie(tmp_path, lateral):
    # read along the patient's y: the gradient is y, or x for a patient on the side
    axis = 2 if lateral else 1
    line = torch.linspace(-2.5, 2.5, 64)
    omega = torch.stack([0 * line, 0 * line, line])
    place = Geometry((32, 32, 32), (64.0, 32.0, 32.0), read_dir=(0, 1, 0), phase_dir=(1, 0, 0), slice_dir=(0, 0, -1))
    scan = Scan(torch.ones(1, 64, dtype=torch.complex64), omega, place, 64)
    moved = calibrate.played_path(scan, DWELL_US, girf.load(late(tmp_path, 2.0, (axis,))), lateral)
    inner = slice(8, 56)
    step = float(line[1] - line[0])
    assert torch.allclose(moved[2, inner], line[inner] - 2 * step, atol=0.02)
    others = [a for a in (0, 1, 2) if a != axis]
    kept = calibrate.played_path(scan, DWELL_US, girf.load(late(tmp_path, 2.0, others)), lateral)
    assert torch.allclose(kept, omega, atol=1e-3)


def test_a_response_without_dwell_time_or_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        run(point_scan(), girf=str(tmp_path / "none.json"))
    bare = point_scan()
    for a in bare:
        a.sample_time_us = 0.0
    with pytest.raises(ValueError, match="sample_time_us is 0"):
        run(bare, girf=late(tmp_path, 0.5))


def test_a_peer_may_only_name_an_impulse_response(tmp_path):
    with pytest.raises(ValueError, match="bare name"):
        from_wire({"girf": "../girf.json"}, Settings(), Folders(girf=tmp_path))
    with pytest.raises(ValueError, match="no folder"):
        from_wire({"girf": "girf.json"}, Settings(), Folders())
    assert from_wire({"girf": "girf.json"}, Settings(), Folders(girf=tmp_path)).girf == str(tmp_path / "girf.json")


def test_smooth_shading_is_divided_out_and_said():
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    ball = (z**2 + y**2 + x**2 < 0.8).to(torch.complex64)
    shaded = ball * torch.exp(0.6 * x)
    even = calibrate.evened(shaded, calibrate.shading([shaded])).abs()[ball.real > 0]
    spread = shaded.abs()[ball.real > 0]
    assert even.std() / even.mean() < 0.5 * spread.std() / spread.mean()
    found, journal = run(point_scan(), even=True)
    assert any("shading" in note for note in journal.notes)
    assert len(found) == 16


def test_what_stands_in_for_a_method_depends_on_whether_there_is_a_series():
    assert ladder("unrolled") == ("unrolled", "l1", "cg", "gridding")
    assert ladder("unrolled", series=True) == ("unrolled", "llr", "l1", "cg", "gridding")
    assert ladder("llr") == ("llr", "l1", "cg", "gridding")
    assert ladder("cg", series=True) == ("cg", "gridding")
