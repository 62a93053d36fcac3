import dataclasses
import threading

import pydicom
import pytest

from koosh_gadgets.dicom import push as sending
from koosh_gadgets.dicom.archive import Archive, Refused, Unreachable, address, item
from koosh_gadgets.dicom.push import Journal, files_of, push
from koosh_gadgets.dicom.write import write_series
from tests.gadgets.dicom.pacs import QUIET, Pacs, free_port
from tests.gadgets.dicom.samples import series

pytestmark = QUIET


@pytest.fixture
def files(tmp_path):
    return write_series(series(), tmp_path / "images")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(sending, "LONGEST_WAIT_S", 0.05)


def uids(files):
    return {pydicom.dcmread(file).SOPInstanceUID for file in files}


def test_everything_arrives_byte_for_byte_and_is_verified(files):
    with Pacs().running() as pacs:
        outcome = push(files, pacs.archive)
    assert outcome.complete
    assert (outcome.sent, outcome.before, outcome.verified) == (7, 0, 7)
    assert set(pacs.held) == uids(files)
    for file in files:
        data = pydicom.dcmread(file)
        assert file.read_bytes().endswith(pacs.bytes_of[data.SOPInstanceUID])


def test_progress_counts_up_to_all(files):
    seen = []
    with Pacs().running() as pacs:
        push(files, pacs.archive, progress=lambda done, total: seen.append((done, total)))
    assert sorted(seen) == [(n, 7) for n in range(1, 8)]


def test_an_archive_that_answers_no_queries_is_not_verified_but_complete(files):
    with Pacs(queries=False).running() as pacs:
        outcome = push(files, pacs.archive)
    assert outcome.verified is None
    assert outcome.complete


def test_a_wrong_called_title_is_refused_at_once_and_says_so(files):
    with Pacs().running() as pacs, pytest.raises(Refused, match="called AE title is not its own"):
        push(files, dataclasses.replace(pacs.archive, called="WRONG"))
    assert pacs.received == []


def test_an_archive_that_is_down_is_unreachable_and_the_message_counts_what_is_stored(files):
    with pytest.raises(Unreachable, match=r"can't be reached: Connection refused.*0 of 7"):
        push(files, Archive("127.0.0.1", free_port(), "PACS"), attempts=2)


def test_an_archive_that_dies_again_and_again_gets_everything_once(files, tmp_path):
    """It aborts after two objects of each life; nothing acknowledged is sent again."""

    class Mortal(Pacs):
        def store(self, event):
            status = super().store(event)
            if len(self.received) % 2 == 0:
                threading.Timer(0.05, event.assoc.abort).start()
            return status

    with Mortal().running() as pacs:
        outcome = push(files, pacs.archive, Journal(tmp_path, pacs.archive), attempts=4)
    assert outcome.complete
    assert set(pacs.held) == uids(files)


def test_a_push_that_was_broken_off_goes_on_where_it_ended(files, tmp_path):
    port = free_port()
    with Pacs(die_after=3).running(port) as pacs:
        journal = Journal(tmp_path, pacs.archive)
        with pytest.raises(Unreachable, match="3 of 7"):
            push(files, pacs.archive, journal, attempts=2)
    with Pacs(held=pacs.held).running(port) as again:
        outcome = push(files, again.archive, journal)
    assert (outcome.sent, outcome.before, outcome.verified) == (4, 3, 7)
    assert len(again.received) == 4


def test_a_journal_cut_anywhere_costs_at_most_its_last_line(files, tmp_path):
    with Pacs().running() as pacs:
        journal = Journal(tmp_path, pacs.archive)
        push(files, pacs.archive, journal)
        whole = journal.path.read_bytes()
        for size in range(0, len(whole), 11):
            journal.path.write_bytes(whole[:size])
            journal.add("1.2.3")
            known = journal.read() & uids(files)
            assert len(known) >= whole[:size].count(b"\n") // 2 - 1
            assert "1.2.3" in journal.read()
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_objects_an_archive_acknowledged_and_lost_are_sent_again(files):
    with Pacs(forget=2).running() as pacs:
        outcome = push(files, pacs.archive)
    assert outcome.verified == 7
    assert set(pacs.held) == uids(files)


def test_an_archive_out_of_resources_is_tried_again(files):
    with Pacs(statuses=[0xA700, 0xA701]).running() as pacs:
        outcome = push(files, pacs.archive)
    assert outcome.complete
    assert set(pacs.held) == uids(files)


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_warnings_and_already_stored_count_as_stored(files, status):
    with Pacs(statuses=[status] * 7, queries=False).running() as pacs:
        outcome = push(files, pacs.archive)
    assert outcome.complete
    assert outcome.sent == 7


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122])
def test_one_refused_object_is_named_and_does_not_hold_up_the_others(files, status):
    with Pacs(statuses=[0x0000, status]).running() as pacs:
        outcome = push(files, pacs.archive)
    assert not outcome.complete
    assert len(outcome.refused) == 1
    assert f"{status:#06x}" in next(iter(outcome.refused.values()))
    assert len(pacs.held) == 6


def test_an_archive_with_room_for_one_association_takes_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "LONGEST_WAIT_S", 0.5)
    files = write_series(series(matrix=(64, 4, 4)), tmp_path)
    with Pacs(largest=1).running() as pacs:
        outcome = push(files, pacs.archive)
    assert outcome.complete
    assert set(pacs.held) == uids(files)


def test_stopping_ends_a_long_wait(files, monkeypatch):
    monkeypatch.setattr(sending, "LONGEST_WAIT_S", 1000.0)
    monkeypatch.setattr(sending.random, "uniform", lambda low, high: 1000.0)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Unreachable, match="stopped"):
        push(files, Archive("127.0.0.1", free_port(), "PACS"), stop=stop)


def test_a_cut_file_is_refused_before_anything_is_sent(files):
    files[3].write_bytes(files[3].read_bytes()[:-20])
    with Pacs().running() as pacs, pytest.raises(ValueError, match="no whole DICOM file"):
        push(files, pacs.archive)
    assert pacs.received == []


def test_a_whole_file_is_named_by_its_uids(files):
    data = pydicom.dcmread(files[0])
    found = item(files[0])
    assert (found.uid, found.series, found.study) == (
        data.SOPInstanceUID,
        data.SeriesInstanceUID,
        data.StudyInstanceUID,
    )


def test_files_being_written_and_journals_are_no_dicom_files(files):
    folder = files[0].parent
    (folder / ".koosh-x.part").mkdir()
    (folder / ".koosh-x.part" / "a.dcm").write_bytes(b"half")
    (folder / "readme.txt").write_text("x")
    assert files_of(folder) == files
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no DICOM"):
        files_of(folder / "empty")


@pytest.mark.parametrize("title", ["", " ", "x" * 17, "a\\b", "ä"])
def test_a_title_that_is_none_is_refused(title):
    with pytest.raises(ValueError, match="AE title"):
        Archive("host", 104, title)


@pytest.mark.parametrize(("text", "wanted"), [("h:104", ("h", 104)), ("[::1]:4242", ("::1", 4242))])
def test_addresses_are_host_and_port(text, wanted):
    assert address(text) == wanted


@pytest.mark.parametrize("text", ["host", "host:", ":104", "host:x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        address(text)
