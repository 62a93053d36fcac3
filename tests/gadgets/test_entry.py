"""Our targets under PyPI's `gadgetron`, started as Gadgetron starts them for every scan."""

import random

import ismrmrd
import numpy as np
import pytest

from koosh_gadgets.spool import Recorded
from tests.fakes.gadgetron import execute, home
from tests.fakes.runs import run
from tests.fakes.streams import header_xml, noise_readout, point_scan, scan_stream

pytestmark = pytest.mark.slow
GRIDDING = '<configuration><property name="method" value="gridding"/></configuration>'


def test_the_images_are_those_of_a_replay(tmp_path):
    found = execute("koosh", scan_stream(config=GRIDDING), **home(tmp_path))
    want, _ = run(point_scan(), dialect="gadgetron")
    assert [im.data.tobytes() for im in found.answer.images] == [im.data.tobytes() for im in want]
    assert (found.answer.closed, found.answer.errors, found.code) == (True, [], 0), found.log


def test_a_failure_reaches_gadgetron_and_the_exit_code(tmp_path):
    found = execute("koosh", scan_stream([noise_readout(0)], config=GRIDDING), **home(tmp_path))
    assert "no imaging readout" in found.answer.errors[0]
    assert found.answer.closed
    assert found.code != 0


def test_a_parent_that_dies_ends_the_process(tmp_path):
    found = execute("koosh", scan_stream(config=GRIDDING)[:20], drop=True, wait=30.0, **home(tmp_path))
    assert found.code not in (None, 0)


def test_a_site_may_spool_executed_scans(tmp_path):
    (tmp_path / "koosh").mkdir()
    (tmp_path / "koosh" / "koosh.toml").write_text('[spool]\nfolder = "kept"\n')
    stream = scan_stream(config=GRIDDING)
    found = execute("koosh", stream, **home(tmp_path))
    assert found.code == 0, found.log
    (path,) = (tmp_path / "koosh" / "kept").iterdir()
    assert path.suffix == ".done"
    assert list(Recorded(path).messages())[2:] == stream[2:]


@pytest.mark.parametrize(
    ("target", "parameters", "coils"), [("whiten", "", 4), ("compress", '<property name="coils" value="2"/>', 2)]
)
def test_single_stages_run_between_other_gadgets(target, parameters, coils, tmp_path):
    scan = [noise_readout(0, coils=4), *point_scan(coils=4)]
    config = f"<configuration>{parameters}</configuration>"
    found = execute(target, scan_stream(scan[target == "compress" :], config=config), **home(tmp_path))
    assert found.code == 0, found.log
    assert {a.data.shape[0] for a in found.answer.images} == {coils}
    assert len(found.answer.images) == 64


def test_the_trajectory_gadget_converts_to_cycles_per_voxel(tmp_path):
    scan = point_scan()
    for a in scan:
        a.traj[:] *= 16
    found = execute("trajectory", scan_stream(scan), **home(tmp_path))
    got = np.stack([a.traj for a in found.answer.images])
    assert np.allclose(got, np.stack([a.traj for a in point_scan()]), atol=1e-6)


def test_the_image_gadget_scales_complex_images(tmp_path):
    data = np.zeros((1, 2, 4, 4), np.complex64)
    data[0, 1, 2, 3] = 5j
    image = ismrmrd.Image(ismrmrd.ImageHeader(), data=data)
    image.image_type = ismrmrd.IMTYPE_COMPLEX
    config = '<configuration><property name="phase" value="true"/></configuration>'
    found = execute("images", scan_stream([image], header_xml(), config=config), **home(tmp_path))
    kinds = [im.image_type for im in found.answer.images]
    assert kinds == [ismrmrd.IMTYPE_MAGNITUDE, ismrmrd.IMTYPE_PHASE]
    magnitude = found.answer.images[0]
    assert magnitude.data.dtype == np.float32
    assert np.unravel_index(magnitude.data.argmax(), magnitude.data.shape) == (0, 1, 2, 3)


def test_the_buffer_gadget_sends_whole_volumes_and_the_reconstruct_gadget_takes_them(tmp_path):
    mixed = point_scan()
    random.Random(0).shuffle(mixed)
    collected = execute("buffer", scan_stream([noise_readout(1000), *mixed]), **home(tmp_path))
    (bucket,) = collected.answer.images
    assert [a.scan_counter for a in bucket.data] == list(range(64))
    found = execute("reconstruct", scan_stream([bucket], config=GRIDDING), **home(tmp_path))
    assert found.code == 0, found.log
    volume = np.concatenate([im.data[0] for im in found.answer.images])
    assert volume.dtype == np.complex64
    assert np.unravel_index(np.abs(volume).argmax(), volume.shape) == (9, 6, 10)
