"""Storage at a real PACS: complete, placed, the same bytes, and nothing lost when it is killed."""

import dataclasses
import gc
import subprocess
import sys
import threading
import time

import pydicom
import pytest

from koosh_gadgets.dicom.archive import Refused, item
from koosh_gadgets.dicom.outbox import Outbox
from koosh_gadgets.dicom.push import Journal, push
from koosh_gadgets.dicom.verify import commit, present
from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.dicom.pacs import QUIET
from tests.gadgets.dicom.samples import META, header, phantom, series
from tests.gadgets.orientations import NAMES
from tests.system.orthanc import orthanc

pytestmark = [pytest.mark.system, QUIET]


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()  # while the filter holds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def scan(number, **given):
    """A series of a scan of its own."""
    words = {"header": header(measurement=f"m{number}", study=f"1.2.3.{number}"), **given}
    return series(**words)


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_series_is_complete_and_understood_as_a_volume(server, tmp_path, number):
    files = write_series(scan(100 + number, name=NAMES[number]), tmp_path)
    assert push(files, server.archive).complete
    found = server.find(pydicom.dcmread(files[0]).SeriesInstanceUID)
    state = server.ask(f"/series/{found}")
    assert (state["Status"], state["ExpectedNumberOfInstances"]) == ("Complete", 7)
    ordered = server.ask(f"/series/{found}/ordered-slices")
    assert ordered["Type"] == "Volume"
    assert len(ordered["Dicom"]) == 7


def test_frames_of_a_series_are_all_counted(server, tmp_path):
    source = Series(
        phantom((3, 4, 6, 5)), Geometry((4, 6, 5), (8.0, 6, 5)), META, header(study="1.2.3.120"), frame_ms=40
    )
    files = write_series(source, tmp_path)
    push(files, server.archive)
    state = server.ask(f"/series/{server.find(pydicom.dcmread(files[0]).SeriesInstanceUID)}")
    assert (state["Status"], len(state["Instances"])) == ("Complete", 12)


@pytest.mark.parametrize("enhanced", [False, True])
def test_the_bytes_read_back_are_those_of_the_file_and_a_second_store_is_told_so(server, tmp_path, enhanced):
    files = write_series(scan(130 + enhanced), tmp_path, enhanced=enhanced)
    assert push(files, server.archive).verified == len(files)
    for file in files:
        found = server.find(pydicom.dcmread(file).SOPInstanceUID)
        back = pydicom.dcmread(pydicom.filebase.DicomBytesIO(server.ask(f"/instances/{found}/file")))
        ours = pydicom.dcmread(file)
        assert back == ours
        assert dataset_bytes(server.ask(f"/instances/{found}/file")) == dataset_bytes(file.read_bytes())
        assert server.ask("/instances", file.read_bytes())["Status"] == "AlreadyStored"


def dataset_bytes(content: bytes) -> bytes:
    """What follows the file meta group, which is the receiver's own."""
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


def test_the_same_reconstruction_written_again_is_already_stored(server, tmp_path):
    for folder in ("first", "second"):
        files = write_series(scan(140), tmp_path / folder)
        assert push(files, server.archive).complete
    found = server.find(pydicom.dcmread(files[0]).SeriesInstanceUID)
    assert len(server.ask(f"/series/{found}")["Instances"]) == 7
    assert {server.ask("/instances", file.read_bytes())["Status"] for file in files} == {"AlreadyStored"}


def test_a_wrong_called_title_is_refused_with_the_reason(server, tmp_path):
    files = write_series(scan(150), tmp_path)
    with pytest.raises(Refused, match="called AE title is not its own"):
        push(files, dataclasses.replace(server.archive, called="WRONG"))


def test_storage_commitment_is_given_for_what_is_stored_only(server, tmp_path):
    files = write_series(scan(160), tmp_path)
    assert push(files[:5], server.archive, commit_port=server.commit).verified == 5
    items = [item(file) for file in files]
    assert commit(items, server.archive, server.commit) == {one.uid for one in items[:5]}
    assert present(items, server.archive) == {one.uid for one in items[:5]}


def test_names_not_ascii_arrive_as_they_are(server, tmp_path):
    source = series(header=header(name="山田^太郎", patient="Ä-1", study="1.2.3.170", measurement="m170"))
    files = write_series(source, tmp_path)
    push(files, server.archive)
    tags = server.ask(f"/instances/{server.find(pydicom.dcmread(files[0]).SOPInstanceUID)}/simplified-tags")
    assert (tags["PatientName"], tags["PatientID"]) == ("山田^太郎", "Ä-1")


def test_a_server_killed_in_the_middle_has_everything_once_in_the_end(tmp_path):
    (tmp_path / "db").mkdir()
    source = Series(phantom((48, 16, 16)), Geometry((48, 16, 16), (48.0, 16, 16)), META, header(study="1.2.3.180"))
    files = write_series(source, tmp_path / "images")
    with orthanc(tmp_path / "db") as mortal:
        journal, stored = Journal(tmp_path, mortal.archive), threading.Event()
        result = []

        def progress(done, total):
            if done == 12:
                stored.set()

        sender = threading.Thread(target=lambda: result.append(push(files, mortal.archive, journal, progress=progress)))
        sender.start()
        assert stored.wait(60)
        mortal.end(kill=True)
        time.sleep(0.5)
        mortal.start()
        sender.join(120)
        assert result[0].complete
        assert result[0].verified == 48
        found = mortal.find(pydicom.dcmread(files[0]).SeriesInstanceUID)
        state = mortal.ask(f"/series/{found}")
        assert (state["Status"], len(state["Instances"])) == ("Complete", 48)


def test_a_client_killed_in_the_middle_goes_on_where_it_ended(server, tmp_path):
    source = Series(phantom((48, 16, 16)), Geometry((48, 16, 16), (48.0, 16, 16)), META, header(study="1.2.3.210"))
    write_series(source, tmp_path)
    words = ["dicom", "push", str(tmp_path), f"127.0.0.1:{server.dicom}", "--called", "ORTHANC", "--lanes", "1"]
    command = [sys.executable, "-m", "koosh_gadgets.cli", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, end = Journal(tmp_path, server.archive), time.monotonic() + 60
    while len(journal.read()) < 10:
        assert time.monotonic() < end
        time.sleep(0.02)
    first.kill()
    first.wait(10)
    noted = len(journal.read())
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert again.returncode == 0, again.stderr
    assert f"{48 - noted} sent, {noted} there before, 48 verified" in again.stdout
    assert noted < 48


def test_an_outbox_empties_itself_when_the_server_comes_up(tmp_path):
    (tmp_path / "db").mkdir()
    files = write_series(scan(190), tmp_path / "images")
    with orthanc(tmp_path / "db") as server:
        server.end()
        with Outbox(tmp_path / "box", server.archive).sending() as box:
            box.put(files)
            time.sleep(0.5)
            assert len(box.entries()) == 1
            server.start()
            end = time.monotonic() + 60
            while box.entries():
                assert time.monotonic() < end
                time.sleep(0.1)
        found = server.find(pydicom.dcmread(files[0]).SeriesInstanceUID)
        assert server.ask(f"/series/{found}")["Status"] == "Complete"


def test_the_command_pushes_a_folder_and_says_what_became_of_it(server, tmp_path):
    files = write_series(scan(200), tmp_path)
    command = [sys.executable, "-m", "koosh_gadgets.cli", "dicom", "push", str(tmp_path), f"127.0.0.1:{server.dicom}"]
    first = subprocess.run([*command, "--called", "ORTHANC"], capture_output=True, text=True, check=False, timeout=60)
    assert (first.returncode, first.stderr.strip()) == (0, "")
    assert "7 sent, 0 there before, 7 verified" in first.stdout
    again = subprocess.run([*command, "--called", "ORTHANC"], capture_output=True, text=True, check=False, timeout=60)
    assert "0 sent, 7 there before, 7 verified" in again.stdout
    wrong = subprocess.run([*command, "--called", "WRONG"], capture_output=True, text=True, check=False, timeout=60)
    assert wrong.returncode == 2
    assert "check --called" in wrong.stderr
    assert len(files) == 7
