"""A file that hangs or kills its reader costs a child process and a sentence, nothing more."""

import os
import time

import ismrmrd
import numpy as np
import pytest

from koosh_gadgets.files import open_scan
from koosh_gadgets.supervised import child, scan_in_child
from tests.fakes.streams import point_file


@pytest.fixture
def scan(tmp_path):
    return point_file(tmp_path / "scan.h5", ismrmrd.Waveform.from_array(np.arange(8, dtype=np.uint32).reshape(2, 4)))


def test_a_child_reads_what_the_process_itself_reads(scan):
    with open_scan(scan) as file, scan_in_child(scan) as (xml, items):
        assert xml == file.xml
        *found, wave = items
        *wanted, own = file.items()
        for a, b in zip(found, wanted, strict=True):
            assert a.heads.tobytes() == b.heads.tobytes()
            assert (a.data == b.data).all()
            assert (a.trajectory == b.trajectory).all()
        assert (wave.data == own.data).all()


def test_a_reader_that_is_left_early_is_ended(scan):
    with scan_in_child(scan):
        pass
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda put: os.abort(), "x.h5 is a damaged HDF5 file: reading it ended in SIGABRT"),
        (lambda put: os.kill(os.getpid(), 11), "ended in SIGSEGV"),
        (lambda put: time.sleep(60), "came to a halt for 0.3 s"),
        (lambda put: {}["key"], "key"),
        (lambda put: os._exit(7), "exit code 7"),
    ],
    ids=["abort", "fault", "hang", "error", "exit"],
)
def test_what_ends_the_reader_is_said_and_survived(work, message):
    with pytest.raises(ValueError, match=message), child(work, "x.h5", 0.3) as frames:
        next(frames)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_damage_is_named_as_before(tmp_path):
    (tmp_path / "scan.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(ValueError, match=r"scan\.h5 is a damaged HDF5 file"), scan_in_child(tmp_path / "scan.h5"):
        pass
    with pytest.raises(FileNotFoundError), scan_in_child(tmp_path / "none.h5"):
        pass
