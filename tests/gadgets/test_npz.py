"""Numpy archives from anywhere: whole arrays of numbers, or a sentence that names the file."""

import io
import pickle
import random
import zipfile

import numpy as np
import pytest

from koosh_gadgets import npz
from koosh_models import memory


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.arange(12.0).reshape(3, 4), two=np.array("name"), none=np.zeros((0, 3), "c8"))
    return tmp_path / "a.npz"


def member(array, version=None):
    raw = io.BytesIO()
    np.lib.format.write_array(raw, array, version)
    return raw.getvalue()


def packed(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(f"{name}.npy", raw)
    return path


def test_arrays_come_as_they_were_written(path):
    found = npz.arrays(path)
    assert list(found) == ["one", "two", "none"]
    assert found["one"].tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert (str(found["two"]), found["none"].shape, found["none"].dtype) == ("name", (0, 3), np.complex64)
    packed(path, later=member(np.ones(3), (2, 0)))
    assert npz.arrays(path)["later"].tolist() == [1, 1, 1]


def test_objects_are_not_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    np.savez(tmp_path / "a.npz", objects=np.array([Evil()], object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Evil()))
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is no \.npz archive of numbers"):
            npz.arrays(tmp_path / f"{name}.npz")
    assert not (tmp_path / "run").exists()


def test_more_than_memory_allows_is_refused_unread(tmp_path, monkeypatch):
    bomb = packed(tmp_path / "bomb.npz", zeros=member(np.zeros(1 << 20)))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(ValueError, match="holds arrays of 8388736 bytes; at most 1048576 are read"):
        npz.arrays(bomb, 1 << 20)
    monkeypatch.setattr(memory, "available", lambda: 4 << 20)
    with pytest.raises(ValueError, match="at most 2097152 are read"):
        npz.arrays(bomb)
    monkeypatch.setattr(memory, "available", lambda: None)
    assert npz.arrays(bomb)["zeros"].size == 1 << 20


def test_a_header_that_claims_more_than_is_there_is_refused_before_anything_is_allocated(tmp_path):
    raw = member(np.zeros(4)).replace(b"(4,), }        ", b"(1099511627776,), }"[:15].ljust(15))
    lying = member(np.zeros(4)).replace(b"'shape': (4,), }", b"'shape': (4<<40,)"[:16])
    claims = member(np.zeros(4)).replace(b"(4,), }          ", b"(9999999999,), } ")
    assert claims != member(np.zeros(4))
    for text in (raw, lying, claims):
        with pytest.raises(ValueError, match=r"c\.npz is no \.npz archive of numbers, or is damaged"):
            npz.arrays(packed(tmp_path / "c.npz", a=text))


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_damage_is_a_sentence_or_changes_nothing(path):
    whole, rng = path.read_bytes(), random.Random(4)
    wanted, refused = npz.arrays(path), 0
    for k in range(300):
        raw = bytearray(whole)
        if k % 3:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        else:
            del raw[rng.randrange(len(raw)) :]
        path.write_bytes(raw)
        try:
            found = npz.arrays(path)
        except ValueError as error:
            assert str(error).startswith("a.npz")  # noqa: PT017
            refused += 1
            continue
        for name in set(found) & set(wanted):
            assert found[name].tobytes() == wanted[name].tobytes()
    assert refused > 200
