"""A full disk: an error that says so, no half file, and the scan still goes out."""

import contextlib
import errno
import os
import subprocess

import numpy as np
import pytest

from koosh_gadgets.atomic import atomic_file
from koosh_gadgets.dicom import write
from koosh_gadgets.dicom.outbox import Outbox
from koosh_gadgets.dicom.push import Journal, push
from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.files import open_scan
from koosh_gadgets.imagefile import Series
from koosh_gadgets.nifti import write_nifti
from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from koosh_models.scan import Geometry
from tests.gadgets.dicom.pacs import QUIET, Pacs
from tests.gadgets.dicom.samples import META, header, series
from tests.gadgets.dicom.scans import simulated

pytestmark = [pytest.mark.system, QUIET]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A folder on a disk of 2 MiB; where this user can't mount one, writes fail after as much."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    left = [2 << 20]

    def write_file(content, path, whole=write._write_file):
        left[0] -= len(content)
        if left[0] < 0 and folder in path.parents:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(content, path)

    monkeypatch.setattr(write, "_write_file", write_file)
    yield folder


def large() -> Series:
    """Over 2 MiB of pixels that don't compress."""
    volume = np.random.default_rng(2).integers(0, 32000, (80, 128, 128)).astype("i2")
    return Series(volume, Geometry((80, 128, 128), (80.0, 128, 128)), META, header())


def left_over(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_series_is_written_whole_or_not_at_all(disk, enhanced):
    with pytest.raises(OSError, match="No space left") as caught:
        write_series(large(), disk / "d", enhanced=enhanced)
    assert caught.value.errno == errno.ENOSPC
    assert left_over(disk) == []
    assert len(write_series(series(), disk / "d")) == 7


def test_a_series_that_does_not_fit_leaves_the_one_before_it_whole(disk):
    files = write_series(series(), disk)
    before = [file.read_bytes() for file in files]
    with pytest.raises(OSError, match="No space left"):
        write_series(large(), disk)
    assert left_over(disk) == sorted(files)
    assert [file.read_bytes() for file in files] == before


def test_an_outbox_takes_an_entry_whole_or_not_at_all(disk, tmp_path):
    files = write_series(large(), tmp_path / "elsewhere")
    with Pacs().running() as pacs:
        box = Outbox(disk / "box", pacs.archive)
        with contextlib.suppress(OSError):
            box.put(files)
        kept = box.entries()
        assert [len(list(entry.iterdir())) for entry in kept] == [80] * len(kept)
        assert len(left_over(disk)) == 80 * len(kept)


def test_a_nifti_file_is_whole_or_absent(disk):
    source = large()
    written = disk / "v.nii"
    with contextlib.suppress(OSError):
        write_nifti(written, source.volume, source.geometry)
    assert left_over(disk) in ([], [written])
    assert not written.exists() or written.stat().st_size == 352 + source.volume.nbytes


def test_an_atomic_file_keeps_the_previous_one(tmp_path):
    path = tmp_path / "f"
    path.write_text("before")
    with contextlib.suppress(OSError), atomic_file(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "full")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_scan_goes_out_and_no_half_file_stays(disk, tmp_path):
    scan = simulated(tmp_path / "scan.h5", (16, 18, 20))
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            if disk.stat().st_dev == tmp_path.stat().st_dev and filler.stat().st_size > 2 << 20:
                break
    with open_scan(scan) as file:
        job = Job(file.xml, Settings(method="gridding", dicom=str(disk / "d")))
        images = list(job.images(file.items()))
    assert len(images) == 16
    if disk.stat().st_dev != tmp_path.stat().st_dev:
        assert "No space left" in job.delivery.problem
        assert left_over(disk) == [filler]


def test_a_push_from_a_full_disk_arrives_and_only_the_journal_is_missing(disk, tmp_path):
    files = write_series(series(), disk)
    with Pacs().running() as pacs:
        journal = Journal(tmp_path / "no folder", pacs.archive)
        outcome = push(files, pacs.archive, journal)
    assert outcome.complete
    assert journal.read() == set()
