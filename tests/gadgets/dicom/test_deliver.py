"""A scan reconstructed by the real pipeline, as DICOM: beside the images, in an outbox, or not at all."""

import json
import logging
import subprocess
import sys

import numpy as np
import pydicom
import pytest

from koosh_gadgets.config import from_tables
from koosh_gadgets.dicom.check import check
from koosh_gadgets.dicom.outbox import Outbox
from koosh_gadgets.files import open_scan
from koosh_gadgets.imagefile import read_series
from koosh_gadgets.nifti import read_nifti
from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from tests.gadgets.dicom.pacs import QUIET, Pacs
from tests.gadgets.dicom.scans import koosh, simulated

pytestmark = QUIET


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("scan") / "scan.h5")


def reconstruct(path, outbox=None, **settings):
    """The images of a job, and the job."""
    with open_scan(path) as file:
        job = Job(file.xml, Settings(method="gridding", **settings), outbox=outbox)
        return list(job.images(file.items())), job


def test_every_series_of_the_scan_is_written_and_has_no_faults(scan, tmp_path):
    images, job = reconstruct(scan, dicom=str(tmp_path / "d"), phase=True)
    found = check(tmp_path / "d")
    assert job.delivery.problem == ""
    assert found.faults == []
    assert len(found.series) == 2
    assert sum(stack.files for stack in found.series.values()) == len(images)


def test_pixels_and_places_are_those_of_the_images_sent(scan, tmp_path):
    from koosh_gadgets.imagefile import series_of

    images, _ = reconstruct(scan, dicom=str(tmp_path / "d"))
    (sent,) = series_of(images)
    written = [pydicom.dcmread(path) for path in sorted((tmp_path / "d").glob("*.dcm"))]
    assert (np.stack([one.pixel_array for one in written]) == sent.volume).all()
    first = np.array(written[0].ImagePositionPatient, float)
    z, y, x = (n // 2 for n in sent.geometry.matrix)
    dz, dy, dx = sent.geometry.voxel_mm
    axes = np.array([sent.geometry.read_dir, sent.geometry.phase_dir, sent.geometry.slice_dir])
    assert np.allclose(first, sent.geometry.position_mm - np.array([x * dx, y * dy, z * dz]) @ axes, atol=1e-4)


def test_one_enhanced_object_by_parameter(scan, tmp_path):
    reconstruct(scan, dicom=str(tmp_path / "d"), enhanced=True)
    (path,) = (tmp_path / "d").glob("*.dcm")
    assert pydicom.dcmread(path).SOPClassUID.name == "Enhanced MR Image Storage"


def test_a_scan_done_twice_is_there_once(scan, tmp_path):
    for _ in range(2):
        images, _ = reconstruct(scan, dicom=str(tmp_path / "d"))
    assert len(list((tmp_path / "d").glob("*.dcm"))) == len(images)


def test_gadgetrons_dialect_does_not_move_the_dicom(scan, tmp_path):
    from koosh_gadgets.stages.image import Format

    for dialect in ("mrd", "gadgetron"):
        with open_scan(scan) as file:
            job = Job(
                file.xml, Settings(method="gridding", matrix=17, dicom=str(tmp_path / dialect)), form=Format(dialect)
            )
            list(job.images(file.items()))
    a, b = ([p.read_bytes() for p in sorted((tmp_path / d).glob("*.dcm"))] for d in ("mrd", "gadgetron"))
    assert a
    assert a == b


def test_a_scan_goes_to_the_pacs_by_the_outbox(scan, tmp_path):
    with Pacs().running() as pacs:
        box = Outbox(tmp_path / "box", pacs.archive)
        images, _ = reconstruct(scan, outbox=box)
        assert len(box.entries()) == 1
        assert box.drain() == []
    assert len(pacs.held) == len(images)


def test_a_folder_that_cannot_be_written_costs_the_dicom_but_not_the_scan(scan, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    (tmp_path / "d").write_text("a file where the folder should be")
    images, job = reconstruct(scan, dicom=str(tmp_path / "d"))
    assert len(images) > 0
    assert job.delivery.problem
    assert "no DICOM" in caplog.text


def test_what_is_reconstructed_is_kept_when_the_peer_leaves(scan, tmp_path):
    with open_scan(scan) as file:
        job = Job(file.xml, Settings(method="gridding", dicom=str(tmp_path / "d")))
        images = job.images(file.items())
        next(images)
        images.close()
    assert check(tmp_path / "d").faults == []


def test_the_pacs_of_a_server_comes_from_its_configuration(tmp_path):
    table = {"address": "127.0.0.1:4242", "called": "PACS", "outbox": "box", "lanes": 2}
    found = from_tables({"pacs": table}, tmp_path)
    assert found.outbox.folder == tmp_path / "box"
    assert (found.outbox.archive.name, found.outbox.archive.lanes) == ("PACS@127.0.0.1:4242", 2)
    assert found.service().outbox is found.outbox
    assert from_tables({}, tmp_path).outbox is None
    with pytest.raises(ValueError, match=r"\[pacs\] lacks called"):
        from_tables({"pacs": {"address": "h:104", "outbox": "box"}}, tmp_path)
    with pytest.raises(ValueError, match="unknown PACS setting"):
        from_tables({"pacs": {**table, "password": "x"}}, tmp_path)


def test_no_peer_can_name_a_pacs():
    from koosh_gadgets.settings import names

    assert not {"pacs", "outbox", "called", "address"} & set(names())


def test_replay_and_export_write_the_same_objects(scan, tmp_path):
    images, folders = tmp_path / "i.h5", [tmp_path / "a", tmp_path / "b"]
    assert koosh("replay", scan, "-o", images, "--method", "gridding", "--dicom", folders[0]).returncode == 0
    nifti = tmp_path / "v.nii.gz"
    done = koosh("dicom", "export", images, folders[1], "--nifti", nifti)
    assert done.returncode == 0, done.stderr
    a, b = ({path.name: path.read_bytes() for path in folder.glob("*.dcm")} for folder in folders)
    assert a
    assert a == b
    volume, affine = read_nifti(nifti)
    (source,) = read_series(images)
    assert (volume == source.volume).all()
    first = pydicom.dcmread(sorted(folders[1].glob("*.dcm"))[0])
    assert np.allclose(affine[:3, 3] * (-1, -1, 1), np.array(first.ImagePositionPatient, float), atol=1e-4)
    assert koosh("dicom", "check", folders[1]).returncode == 0


def test_the_command_says_what_is_wrong(scan, tmp_path):
    none = koosh("dicom", "export", tmp_path / "none.h5", tmp_path / "o")
    assert none.returncode == 2
    assert "none.h5" in none.stderr
    raw = koosh("dicom", "export", scan, tmp_path / "o")
    assert raw.returncode == 2
    assert "holds no images" in raw.stderr
    (tmp_path / "j.json").write_text(json.dumps({"PatientNam": "x"}))
    images = tmp_path / "i.h5"
    assert koosh("replay", scan, "-o", images, "--method", "gridding").returncode == 0
    unknown = koosh("dicom", "export", images, tmp_path / "o", "--json", tmp_path / "j.json")
    assert unknown.returncode == 2
    assert "known:" in unknown.stderr
    assert "no series 7" in koosh("dicom", "export", images, tmp_path / "o", "--series", "7").stderr
    assert not (tmp_path / "o").exists()


def test_check_counts_faults_and_exits_with_one(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"not dicom")
    done = koosh("dicom", "check", tmp_path)
    assert done.returncode == 1
    assert "1 faults" in done.stdout or "1 fault" in done.stdout


def test_torch_stays_out_of_export(tmp_path):
    code = "import sys, koosh_gadgets.commands.dicom, koosh_gadgets.dicom.push; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
