import contextlib
import errno
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from koosh_gadgets import files, survey
from koosh_gadgets.cli import main
from koosh_gadgets.wire.readouts import blocks, gather
from koosh_gadgets.workers import environment

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "scan.h5"
    assert main(["simulate", str(path), "--matrix", "16", "--coils", "3", "--acceleration", "1"]) == 0
    return path


def with_ismrmrd(path) -> list[ismrmrd.Acquisition]:
    with closing(ismrmrd.Dataset(path, create_if_needed=False)) as data:
        return [data.read_acquisition(i) for i in range(data.number_of_acquisitions())]


def test_blocks_hold_what_ismrmrd_reads_one_by_one(scan):
    want = with_ismrmrd(scan)
    with files.open_scan(scan) as file:
        got = [a for block in file.blocks() for a in block.acquisitions()]
    assert len(got) == len(want) == 402 + 16
    for a, b in zip(got, want, strict=True):
        assert bytes(a.getHead()) == bytes(b.getHead())
        assert np.array_equal(a.data, b.data)
        assert np.array_equal(a.traj, b.traj)


def test_the_file_is_cut_as_the_wire_cuts_it(scan):
    with files.open_scan(scan) as file:
        got = list(file.blocks())
    want = list(blocks(with_ismrmrd(scan)))
    assert [len(b) for b in got] == [len(b) for b in want] == [16, *[32] * 12, 18]


def test_readouts_of_other_shapes_start_a_new_block(tmp_path):
    with closing(ismrmrd.Dataset(tmp_path / "mixed.h5")) as data:
        data.write_xml_header(b"<ismrmrdHeader/>")
        for n in (4, 4, 6, 4):
            data.append_acquisition(ismrmrd.Acquisition.from_array(np.ones((2, n), np.complex64)))
    with files.open_scan(tmp_path / "mixed.h5") as file:
        assert [b.data.shape for b in file.blocks()] == [(2, 2, 4), (1, 2, 6), (1, 2, 4)]


def test_waveforms_are_read_with_their_headers(tmp_path):
    with closing(ismrmrd.Dataset(tmp_path / "w.h5")) as data:
        data.write_xml_header(b"<ismrmrdHeader/>")
        for i in range(3):
            data.append_waveform(
                ismrmrd.Waveform.from_array(np.full((2, 5), i, np.uint32), scan_counter=i, waveform_id=1)
            )
    with files.open_scan(tmp_path / "w.h5") as file:
        got = list(file.items())
    assert [(w.scan_counter, w.waveform_id, int(w.data[1, 4])) for w in got] == [(0, 1, 0), (1, 1, 1), (2, 1, 2)]


def image(series: int, index: int, dtype: type, size: int = 4) -> ismrmrd.Image:
    pixels = (np.arange(size * size).reshape(size, size) + index).astype(dtype)
    out = ismrmrd.Image.from_array(pixels, transpose=False, image_series_index=series, image_index=index, image_type=1)
    out.attribute_string = ismrmrd.Meta({"Slice": str(index)}).serialize()
    return out


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.complex64])
def test_images_read_back_as_written_here_and_by_ismrmrd(tmp_path, dtype):
    images = [image(s, i, dtype, 4 + s) for s in (0, 1) for i in range(3)]
    assert files.write_images(tmp_path / "i.h5", images, b"<ismrmrdHeader/>") == 6
    got = files.read_images(tmp_path / "i.h5")
    with closing(ismrmrd.Dataset(tmp_path / "i.h5", create_if_needed=False)) as data:
        assert data.number_of_images("image_1") == 3
        peer = data.read_image("image_1", 2)
    assert np.array_equal(peer.data, images[5].data)
    for a, b in zip(got, images, strict=True):
        assert bytes(a.getHead()) == bytes(b.getHead())
        assert np.array_equal(a.data, b.data)
        assert a.attribute_string == b.attribute_string


def test_a_failed_write_of_images_leaves_the_old_file(tmp_path):
    files.write_images(tmp_path / "i.h5", [image(0, 0, np.float32)])
    before = (tmp_path / "i.h5").read_bytes()

    def broken():
        yield image(0, 1, np.float32)
        raise RuntimeError("stage failed")

    with pytest.raises(RuntimeError, match="stage failed"):
        files.write_images(tmp_path / "i.h5", broken())
    assert (tmp_path / "i.h5").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["i.h5"]


def test_foreign_and_damaged_files_are_one_clear_sentence(tmp_path, scan):
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.h5 isn't an ISMRMRD file"), files.open_scan(tmp_path / "text.h5"):
        pass
    with pytest.raises(FileNotFoundError), files.open_scan(tmp_path / "none.h5"):
        pass
    (tmp_path / "cut.h5").write_bytes(scan.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.h5 is a damaged HDF5 file"), files.open_scan(tmp_path / "cut.h5"):
        pass
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    with (
        pytest.raises(ValueError, match="holds no ISMRMRD scan; its contents: numbers"),
        files.open_scan(tmp_path / "other.h5"),
    ):
        pass
    with pytest.raises(ValueError, match="holds no ISMRMRD images"):
        files.read_images(scan)


def test_records_that_contradict_their_header_are_refused(tmp_path):
    good = ismrmrd.Acquisition.from_array(np.ones((2, 4), np.complex64))
    with closing(ismrmrd.Dataset(tmp_path / "bad.h5")) as data:
        data.write_xml_header(b"<ismrmrdHeader/>")
        data.append_acquisition(good)
        record = data._file["dataset/data"][0]
        record["head"]["number_of_samples"] = 5
        data._file["dataset/data"][0] = record
    with (
        files.open_scan(tmp_path / "bad.h5") as file,
        pytest.raises(ValueError, match=r"readout 0 has 16 numbers .* 20"),
    ):
        list(file.blocks())


def test_gathered_acquisitions_equal_a_block(scan):
    with files.open_scan(scan) as file:
        block = next(file.blocks())
    again = gather(list(block.acquisitions()))
    assert again.heads.tobytes() == block.heads.tobytes()
    assert np.array_equal(again.data, block.data)


def tried(path) -> None:
    """Everything that reads a scan; only ValueError may come out."""
    with contextlib.suppress(ValueError), files.open_scan(path) as file:
        survey.survey(file)
        list(file.items())


def test_truncated_files_are_a_clear_error_wherever_they_end(tmp_path, scan):
    whole = scan.read_bytes()
    for end in np.linspace(1, len(whole) - 1, 40).astype(int):
        (tmp_path / "cut.h5").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.h5"), files.open_scan(tmp_path / "cut.h5") as file:
            list(file.blocks())


def test_overwritten_structures_are_no_crash(tmp_path, scan):
    """Zeroes where HDF5 keeps its tables. Random flips can send the HDF5 library itself into a loop, so none here."""
    whole = scan.read_bytes()
    for start in range(0, 4096, 128):
        damaged = bytearray(whole)
        damaged[start : start + 64] = bytes(64)
        (tmp_path / "bad.h5").write_bytes(damaged)
        tried(tmp_path / "bad.h5")


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from koosh_gadgets.cli import main
from koosh_gadgets.files import write_images
from tests.fakes.runs import run
from tests.fakes.streams import point_scan

home, images = Path(sys.argv[1]), run(point_scan())[0]
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_images(home / "i.h5", images)
except OSError as error:
    print("refused", error.errno)
print(main(["simulate", str(home / "s.h5"), "--matrix", "16", "--coils", "4", "--acceleration", "1"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 6000])
def test_a_disk_that_fills_up_ends_neither_the_process_nor_leaves_a_half_file(tmp_path, room):
    command = [sys.executable, "-c", FULL, str(tmp_path), str(room)]
    env = {**environment(), "PYTHONPATH": f"{ROOT}:{environment()['PYTHONPATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    refused, number, code = done.stdout.split()
    assert (refused, int(number)) == ("refused", errno.EFBIG)
    assert code != "0"
    assert list(tmp_path.iterdir()) == []
