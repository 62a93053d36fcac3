import errno
import os
import subprocess
import sys
import time

import pydicom
import pytest

from koosh_gadgets.dicom import outbox as module
from koosh_gadgets.dicom.archive import Archive
from koosh_gadgets.dicom.outbox import Outbox
from koosh_gadgets.dicom.write import write_series
from tests.fakes.site import until
from tests.gadgets.dicom.pacs import QUIET, Pacs, free_port
from tests.gadgets.dicom.samples import header, series

pytestmark = QUIET


@pytest.fixture
def files(tmp_path):
    return write_series(series(), tmp_path / "images")


def test_entries_leave_once_the_archive_has_them(tmp_path, files):
    with Pacs().running() as pacs:
        box = Outbox(tmp_path / "box", pacs.archive)
        box.put(files)
        assert len(box.entries()) == 1
        assert box.drain() == []
    assert box.entries() == []
    assert len(pacs.held) == 7
    assert [path.name for path in box.folder.iterdir()] == [".lock"]


def test_only_this_user_can_read_what_waits(tmp_path, files):
    box = Outbox(tmp_path / "box", Archive("127.0.0.1", free_port(), "PACS"))
    box.put(files)
    assert box.drain() != []
    (entry,) = box.entries()
    for path in [box.folder, entry, *entry.iterdir(), box.folder / ".lock"]:
        assert path.stat().st_mode & 0o077 == 0


def test_nothing_is_lost_while_the_archive_is_down_and_all_arrives_when_it_is_up(tmp_path, files, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.1)
    port = free_port()
    box = Outbox(tmp_path / "box", Archive("127.0.0.1", port, "PACS", timeout_s=5))
    with box.sending():
        box.put(files)
        box.put(write_series(series(header=header(measurement="m2")), tmp_path / "other"))
        time.sleep(0.5)
        assert len(box.entries()) == 2
        with Pacs().running(port) as pacs:
            assert until(lambda: not box.entries())
    assert len(pacs.held) == 14


def test_what_was_waiting_when_the_process_ended_is_sent_by_the_next(tmp_path, files):
    port = free_port()
    Outbox(tmp_path / "box", Archive("127.0.0.1", port, "PACS")).put(files)
    with Pacs().running(port) as pacs, Outbox(tmp_path / "box", pacs.archive).sending() as box:
        assert until(lambda: not box.entries())
    assert len(pacs.held) == 7


def test_a_wrong_title_keeps_everything(tmp_path, files):
    with Pacs().running() as pacs:
        box = Outbox(tmp_path / "box", Archive("127.0.0.1", pacs.port, "WRONG", timeout_s=5))
        box.put(files)
        (error,) = box.drain()
    assert "called AE title" in error
    assert len(list(box.entries()[0].glob("*.dcm"))) == 7


def test_an_archive_killed_in_the_middle_gets_the_rest_later_and_nothing_twice(tmp_path, files):
    port = free_port()
    with Pacs(die_after=3).running(port) as pacs:
        box = Outbox(tmp_path / "box", pacs.archive)
        box.put(files)
        assert box.drain() != []
    with Pacs(held=pacs.held).running(port) as again:
        assert box.drain() == []
    assert len(again.received) == 4
    assert len(again.held) == 7


def test_an_entry_that_is_refused_does_not_hold_up_the_next(tmp_path, files):
    with Pacs(statuses=[0xC000]).running() as pacs:
        box = Outbox(tmp_path / "box", pacs.archive)
        box.put(files[:1])
        box.put(files[1:])
        first = box.entries()[0]
        assert len(box.drain()) == 1
        assert box.entries() == [first]
        assert box.drain() == []
    assert len(pacs.held) == 7


def test_a_full_disk_leaves_no_entry_and_says_which_outbox(tmp_path, files, monkeypatch):
    box = Outbox(tmp_path / "box", Archive("127.0.0.1", free_port(), "PACS"))

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.shutil, "copyfile", full)
    with pytest.raises(OSError, match=r"box can't take it: No space left") as caught:
        box.put(files)
    assert caught.value.errno == errno.ENOSPC
    assert list(box.folder.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from koosh_gadgets.dicom import outbox
from koosh_gadgets.dicom.archive import Archive
whole, count = outbox.shutil.copyfile, iter(range(99))
def copy(source, target):
    if next(count) == 4:
        os.kill(os.getpid(), 9)
    whole(source, target)
outbox.shutil.copyfile = copy
outbox.Outbox(Path(sys.argv[1]), Archive("127.0.0.1", 104, "PACS")).put(sorted(Path(sys.argv[2]).glob("*.dcm")))
"""


def test_a_kill_while_files_are_put_in_leaves_no_half_entry(tmp_path, files, monkeypatch):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "box"), str(files[0].parent)]
    assert subprocess.run(command, check=False).returncode == -9
    with Pacs().running() as pacs:
        box = Outbox(tmp_path / "box", pacs.archive)
        assert box.entries() == []
        assert box.drain() == []
        monkeypatch.setattr(module, "ABANDONED_S", -1)
        assert box.drain() == []
    assert pacs.received == []
    assert [path.name for path in box.folder.iterdir()] == [".lock"]


def test_two_senders_of_one_outbox_do_not_send_twice(tmp_path, files):
    with Pacs().running() as pacs:
        box, other = (Outbox(tmp_path / "box", pacs.archive) for _ in range(2))
        box.put(files)
        with box._alone() as alone:
            assert alone
            assert other.drain() == ["another process sends from this outbox"]
        assert other.drain() == []
    assert len(pacs.received) == 7


def test_the_copies_are_those_of_the_files(tmp_path, files):
    box = Outbox(tmp_path / "box", Archive("127.0.0.1", free_port(), "PACS"))
    box.put(files)
    (entry,) = box.entries()
    assert [(entry / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]
    assert pydicom.dcmread(entry / files[0].name).InstanceNumber == 1
