"""The spool: what was written can be read back up to the last whole message, and nothing damaged passes for data."""

import os
import random
import stat

import pytest

from koosh_gadgets.spool import Damaged, Recorded, Spool, is_recording
from koosh_gadgets.wire import messages
from tests.fakes.streams import point_scan, scan_stream


def recorded(spool, stream, end=True):
    recording = spool.begin()
    for raw in stream:
        recording.message(raw)
    if end:
        recording.end(True)
    recording.close()
    return recording.path


def test_a_recording_gives_back_every_message(tmp_path):
    stream = scan_stream()
    path = recorded(Spool(tmp_path / "s", sync=8), stream)
    assert list(Recorded(path).messages()) == stream
    assert Recorded(path).states() == [{"state": "end", "complete": True, "reason": ""}]
    assert bytes(Recorded(path).source().read(sum(map(len, stream)))) == b"".join(stream)
    assert is_recording(path)


def test_only_this_user_can_read_it(tmp_path):
    path = recorded(Spool(tmp_path / "s"), scan_stream())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_every_truncation_leaves_a_prefix_of_whole_messages(tmp_path):
    stream = scan_stream(point_scan(n=4, spokes=6, voxel=(1, 1, 1)))
    path = recorded(Spool(tmp_path / "s"), stream)
    raw = path.read_bytes()
    for size in range(8, len(raw), 13):
        path.write_bytes(raw[:size])
        found = list(Recorded(path).messages())
        assert found == stream[: len(found)]


def test_every_flipped_bit_is_noticed(tmp_path):
    path = recorded(Spool(tmp_path / "s"), scan_stream(point_scan(n=4, spokes=6, voxel=(1, 1, 1))))
    raw, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        broken = bytearray(raw)
        broken[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"damaged|claims|ends within|no spooled scan"):
            list(Recorded(path).records())


def test_only_delivered_scans_are_rotated_out_oldest_first(tmp_path):
    spool = Spool(tmp_path / "s", keep_bytes=0)
    kept = recorded(spool, scan_stream())
    done = spool.begin()
    done.message(messages.CLOSE)
    done.delivered(3)
    assert [p.name for p in spool.delivered()] == [done.path.with_suffix(".done").name]
    spool.rotate()
    assert spool.delivered() == []
    assert spool.unfinished() == [kept]


def test_old_deliveries_go_after_their_days(tmp_path):
    spool = Spool(tmp_path / "s", keep_days=1)
    done = spool.begin()
    done.delivered(1)
    (path,) = spool.delivered()
    os.utime(path, (0, 0))
    spool.rotate()
    assert spool.delivered() == []


def full_disk(monkeypatch, after):
    """os.writev that fails with ENOSPC once `after` bytes have been written."""
    real, written = os.writev, [0]

    def writev(fd, parts):
        if written[0] + sum(map(len, parts)) > after:
            if parts and written[0] < after:
                written[0] += real(fd, [bytes(parts[0])[:3]])
            raise OSError(28, "No space left on device")
        written[0] += real(fd, parts)
        return sum(map(len, parts))

    monkeypatch.setattr(os, "writev", writev)


def test_a_full_disk_ends_the_recording_but_not_the_scan(tmp_path, monkeypatch):
    stream = scan_stream()
    spool = Spool(tmp_path / "s")
    recording = spool.begin()
    full_disk(monkeypatch, 20_000)
    for raw in stream:
        recording.message(raw)
    recording.end(True)
    recording.close()
    assert "No space left" in recording.warning
    found = list(Recorded(recording.path).messages())
    assert 0 < len(found) < len(stream)
    assert found == stream[: len(found)]
    list(Recorded(recording.path).records())  # what is there is undamaged


def test_a_full_disk_takes_delivered_scans_first(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "s")
    old = spool.begin()
    old.delivered(1)
    recording = spool.begin()
    full_disk(monkeypatch, 200)
    recording.message(b"x" * 1000)
    recording.close()
    assert spool.delivered() == []


def test_a_spool_that_cannot_be_made_only_warns(tmp_path):
    (tmp_path / "file").write_text("in the way")
    recording = Spool(tmp_path / "file" / "s").begin()
    recording.message(b"x")
    recording.end(True)
    recording.delivered(1)
    assert recording.warning.startswith("not spooled")


def test_damage_is_an_error_of_its_own(tmp_path):
    path = recorded(Spool(tmp_path / "s"), scan_stream())
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Damaged):
        list(Recorded(path).records())


def test_images_of_queued_scans_go_after_their_days(tmp_path):
    spool = Spool(tmp_path / "s", keep_days=1)
    spool.folder.mkdir()
    old, new = spool.folder / "old.h5", spool.folder / "new.h5"
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    spool.rotate()
    assert not old.exists()
    assert new.exists()


def test_a_write_that_is_cut_short_goes_on_where_it_ended(tmp_path, monkeypatch):
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [bytes(parts[0])[:5] or parts[0]]))
    stream = scan_stream(point_scan()[:3])
    assert list(Recorded(recorded(Spool(tmp_path / "s"), stream)).messages()) == stream


def test_a_disk_that_cannot_be_synced_ends_the_recording_with_a_warning(tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    recording = Spool(tmp_path / "s", sync=2).begin()
    for raw in scan_stream()[:6]:
        recording.message(raw)
    assert "not spooled safely" in recording.warning
    recording.message(b"x")
    recording._sync()
    recording.close()


def test_an_empty_message_does_not_end_the_stream(tmp_path):
    path = recorded(Spool(tmp_path / "s"), [b"ab", b"", b"cd"])
    assert bytes(Recorded(path).source().read(4)) == b"abcd"
