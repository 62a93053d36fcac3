"""Volumes of the real pipeline before the judges, and a server that sends them on to Orthanc."""

import json
import subprocess
import sys
import time
import urllib.error

import numpy as np
import pydicom
import pytest

from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.files import open_scan
from koosh_gadgets.geometry import planes
from koosh_gadgets.imagefile import read_series, series_of
from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.image import Format
from tests.gadgets.dicom.pacs import QUIET, free_port
from tests.gadgets.dicom.scans import koosh, simulated
from tests.system.orthanc import orthanc
from tests.system.test_dicom_judges import assert_same_place, by_dcm2niix, by_highdicom, complaints

pytestmark = [pytest.mark.system, QUIET]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("scan") / "scan.h5", (19, 31, 33), 2)


@pytest.fixture(scope="module")
def images(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "i.h5"
    assert koosh("replay", scan, "-o", path, "--method", "cg", "--phase").returncode == 0
    return path


@pytest.mark.parametrize("enhanced", [False, True])
def test_judges_pass_a_reconstructed_volume(images, tmp_path, enhanced):
    for source in read_series(images):
        folder = tmp_path / source.kind
        files = write_series(source, folder, enhanced=enhanced)
        for file in files:
            assert complaints("dciodvfy", "-new", file) == []
        assert complaints("dcentvfy", *files) == []
        assert_same_place(source, *by_highdicom(folder))
        volume, affine = by_dcm2niix(folder)
        if enhanced:  # it gives real values there: an enhanced object has its slope and intercept inside
            slope, intercept = (float(source.meta[f"Rescale{name}"]) for name in ("Slope", "Intercept"))
            volume = np.rint((volume - intercept) / slope)
        assert_same_place(source, volume, affine)


def test_gadgetrons_dicom_gadget_puts_odd_matrices_where_ours_lie(scan):
    """Its position is the centre less half a field of view along read and phase (wire of DicomFinishGadget)."""
    with open_scan(scan) as file:
        job = Job(file.xml, Settings(method="gridding"), form=Format("gadgetron"))
        sent = sorted(job.images(file.items()), key=lambda image: image.slice)
    with open_scan(scan) as file:
        (ours,) = series_of(Job(file.xml, Settings(method="gridding")).images(file.items()))
    stack = planes(ours.geometry)
    for k, image in enumerate(sent):
        nx, ny, _ = image.matrix_size
        dx, dy = image.field_of_view[0] / nx, image.field_of_view[1] / ny
        corner = (
            np.array(image.position)
            - (nx / 2 * dx) * np.array(image.read_dir)
            - (ny / 2 * dy) * np.array(image.phase_dir)
        )
        assert (nx, ny) == (33, 31)
        assert np.abs(corner - stack.position(k)).max() < 1e-4 * dx


def test_a_server_sends_its_scans_to_orthanc(scan, tmp_path):
    (tmp_path / "db").mkdir()
    with orthanc(tmp_path / "db") as pacs:
        port = free_port()
        (tmp_path / "koosh.toml").write_text(
            f'[settings]\nmethod = "gridding"\n[server]\nport = {port}\n[spool]\nfolder = "spool"\n'
            f'[pacs]\naddress = "127.0.0.1:{pacs.dicom}"\ncalled = "ORTHANC"\noutbox = "outbox"\n'
        )
        command = [sys.executable, "-m", "koosh_gadgets.cli", "serve", "--config", str(tmp_path / "koosh.toml")]
        with (tmp_path / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            pacs.end()
            out = tmp_path / "o.h5"
            done = patiently(lambda: koosh("replay", scan, "-o", out, "-a", "127.0.0.1", "-p", port, "-c", "koosh"))
            assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
            end = time.monotonic() + 60
            while not [path for path in (tmp_path / "outbox").iterdir() if not path.name.startswith(".")]:
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.1)
            pacs.start()
            state = waited(pacs)
        finally:
            server.terminate()
            server.wait(60)
        assert (state["Status"], len(state["Instances"])) == ("Complete", 19)
        assert (tmp_path / "outbox").stat().st_mode & 0o777 == 0o700
        name = json.dumps(state["MainDicomTags"])
        assert "koosh" in name


def patiently(action):
    """Until the server listens."""
    end = time.monotonic() + 60
    while (done := action()).returncode != 0 and "refused" in done.stderr and time.monotonic() < end:
        time.sleep(0.5)
    return done


def waited(pacs):
    """The one series of the archive, once it is complete."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        try:
            for found in pacs.ask("/series"):
                state = pacs.ask(f"/series/{found}")
                if state["Status"] == "Complete":
                    return state
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.2)
    raise AssertionError("the series never became complete")


def test_frames_of_unlike_scale_become_comparable(scan, tmp_path):
    """Each repetition has a scale of its own; one series of frames has one."""
    with open_scan(scan) as file:
        images = list(Job(file.xml, Settings(method="gridding")).images(file.items()))
    from koosh_gadgets.stages.image import Result
    from koosh_gadgets.stages.image import images as cut

    (first,) = series_of(images)
    volume = first.volume.astype("c8") * float(first.meta["RescaleSlope"])
    head = np.zeros(1, dtype=np.dtype([("x", "u1", 340)]))[0]
    frames = []
    for repetition, factor in enumerate((1.0, 0.25)):
        result = Result(volume * factor, first.geometry, head, 1, "frames")
        for image in cut(result, Format("mrd", "slices")):
            image.repetition = repetition
            frames.append(image)
    (both,) = series_of(frames)
    files = write_series(both, tmp_path)
    data = [pydicom.dcmread(file) for file in files]
    ratio = data[len(data) // 2 + 9].pixel_array.astype(float).sum() / data[9].pixel_array.sum()
    assert ratio == pytest.approx(0.25, rel=0.01)
