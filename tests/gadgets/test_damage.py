"""`koosh info` and `koosh convert` on damaged HDF5: a sentence and exit code 2, whatever the library does over it."""

import os
import random
import signal

import pytest

from koosh_gadgets.cli import main
from koosh_gadgets.commands import convert, info
from tests.fakes.streams import point_file


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize(
    ("module", "name", "more"),
    [(info, "facts_of", []), (convert, "ismrmrd_arrays", ["x.npz"])],
    ids=["info", "convert"],
)
def test_damage_that_kills_its_reader_is_a_sentence(tmp_path, monkeypatch, caplog, module, name, more, number):
    path = point_file(tmp_path / "scan.h5")
    monkeypatch.setattr(module, name, lambda *_: os.kill(os.getpid(), number))
    assert main([module.__name__.split(".")[-1], str(path), *(str(tmp_path / m) for m in more)]) == 2
    assert f"scan.h5 is a damaged HDF5 file: reading it ended in {number.name}" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


@pytest.mark.slow
def test_flipped_and_cut_files_are_read_or_refused(tmp_path, capsys):
    whole, rng, codes = point_file(tmp_path / "scan.h5").read_bytes(), random.Random(8), []
    for k in range(40):
        raw = bytearray(whole)
        if k % 2:
            del raw[rng.randrange(1, len(raw)) :]
        else:
            for _ in range(8):
                raw[rng.randrange(len(raw) // 4)] ^= 1 << rng.randrange(8)  # where the library's own tables are
        (tmp_path / "broken.h5").write_bytes(raw)
        codes.append(main(["info", str(tmp_path / "broken.h5")]))
        codes.append(main(["convert", str(tmp_path / "broken.h5"), str(tmp_path / "o.npz")]))
    assert set(codes) <= {0, 2}
    assert codes.count(2) >= 40
