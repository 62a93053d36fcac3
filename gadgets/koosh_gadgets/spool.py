"""Every scan on disk before and while it is reconstructed: append-only, checksummed, readable up to the last byte."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from koosh_gadgets.wire.source import Source
from koosh_models import private

log = logging.getLogger(__name__)
MAGIC = b"KOOSHSP1"
RECORD = struct.Struct("<IIB")  # checksum of all that follows, length of the payload, kind
MESSAGE, STATE = 1, 2
OPEN, DONE = ".scan", ".done"  # not yet delivered, delivered
LONGEST = 1 << 32


@dataclass(frozen=True)
class Spool:
    """A folder of recorded scans that only this user can read.

    keep_bytes  delivered scans are removed, oldest first, while all together take more than this
    keep_days   and when they are older than this, as are images of scans that were queued (`.h5`); scans that were not
                delivered are never removed
    sync        at most so many readouts are lost in a power cut
    """

    folder: Path
    keep_bytes: int = 200 << 30
    keep_days: float = 30.0
    sync: int = 1000

    def begin(self, scan: str | None = None) -> Recording:
        """A new recording; without a disk to write to it only carries a warning."""
        name = scan or new_name()
        try:
            private.folder(self.folder)
            self.rotate()
            path = self.folder / f"{name}{OPEN}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError as error:
            return Recording(self, name, None, None, f"not spooled: {error.strerror}")
        recording = Recording(self, name, path, fd)
        recording.write([MAGIC])
        return recording

    def unfinished(self) -> list[Path]:
        """Recordings whose images were not delivered, oldest first."""
        return sorted(self.folder.glob(f"*{OPEN}")) if self.folder.is_dir() else []

    def delivered(self) -> list[Path]:
        """Recordings whose images were delivered, oldest first."""
        return sorted(self.folder.glob(f"*{DONE}")) if self.folder.is_dir() else []

    def rotate(self) -> None:
        """Remove delivered scans beyond the retention."""
        now, sizes = time.time(), [(p, p.stat()) for p in self.delivered()]
        total = sum(s.st_size for _, s in sizes)
        for path, stat in sizes:
            if total > self.keep_bytes or now - stat.st_mtime > self.keep_days * 86400:
                path.unlink(missing_ok=True)
                total -= stat.st_size
        for path in self.folder.glob("*.h5"):
            if now - path.stat().st_mtime > self.keep_days * 86400:
                path.unlink(missing_ok=True)

    def make_room(self) -> bool:
        """Remove the oldest delivered scan; whether there was one."""
        for path in self.delivered():
            with contextlib.suppress(OSError):
                path.unlink()
                log.warning("the spool is full: removed %s, which was delivered", path.name)
                return True
        return False


def new_name() -> str:
    """A scan's name: time and chance, nothing of the patient."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:8]


class Recording:
    """A scan being written. A disk that fails or fills up ends the recording, never the scan."""

    def __init__(self, spool: Spool, name: str, path: Path | None, fd: int | None, warning: str = "") -> None:
        self.spool, self.name, self.path, self._fd, self.warning = spool, name, path, fd, warning
        self._size = self._unsynced = 0
        self._syncer = ThreadPoolExecutor(1, "koosh-sync") if fd is not None else None
        self._syncing: Future[None] | None = None
        if warning:
            log.warning("scan %s: %s", name, warning)

    def message(self, raw: bytes | memoryview) -> None:
        """Keep one message as it came."""
        self._record(MESSAGE, raw)
        self._unsynced += 1
        if 2 * self._unsynced >= self.spool.sync:
            self._sync()

    def state(self, **facts: object) -> None:
        """Keep facts about the scan: settings, its end, its delivery."""
        self._record(STATE, json.dumps(facts).encode())

    def _record(self, kind: int, payload: bytes | memoryview) -> None:
        if self._fd is not None:
            length = struct.pack("<IB", len(payload), kind)
            self.write([struct.pack("<I", zlib.crc32(payload, zlib.crc32(length))) + length, payload])

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append, whole or not at all."""
        if self._fd is None:
            return
        size = sum(map(len, parts))
        try:
            self._append(list(parts), size)
            self._size += size
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            self._stop(f"not spooled beyond {self._size} bytes: {error.strerror}")

    def _append(self, parts: list[bytes | memoryview], size: int) -> None:
        assert self._fd is not None
        while True:
            try:
                done = os.writev(self._fd, parts)
            except OSError:
                if not self.spool.make_room():
                    raise
                continue
            if done == size:
                return
            size, parts = size - done, [memoryview(b"".join(parts))[done:]]

    def _sync(self) -> None:
        """Push to the disk in the background; at most one push is under way, so at most `sync` readouts are at risk."""
        self._unsynced = 0
        if self._fd is None or self._syncer is None:
            return
        try:
            if self._syncing is not None:
                self._syncing.result()
            self._syncing = self._syncer.submit(os.fdatasync, self._fd)
        except OSError as error:
            self._stop(f"not spooled safely: {error.strerror}")

    def _stop(self, warning: str) -> None:
        self.warning = warning
        log.warning("scan %s: %s", self.name, warning)
        self.close()

    def end(self, complete: bool, reason: str = "") -> None:
        """The scan is over; everything of it is pushed to the disk."""
        self.state(state="end", complete=complete, reason=reason)
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._fd)

    def delivered(self, n_images: int) -> None:
        """Its images are with the peer: the recording may be rotated out from now on."""
        self.state(state="delivered", images=n_images)
        self.close()
        if self.path is not None:
            mark_delivered(self.path)

    def close(self) -> None:
        """Let the file go."""
        if self._syncer is not None:
            self._syncer.shutdown()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def mark_delivered(path: Path) -> None:
    """Rename a recording whose images were delivered."""
    with contextlib.suppress(OSError):
        path.rename(path.with_suffix(DONE))


@dataclass(frozen=True)
class Recorded:
    """What a recording holds.

    states   facts in their order
    damage   why reading stopped early, or ""
    """

    path: Path

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(kind, payload) up to the end or the first damage."""
        with open(self.path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{self.path.name} is no spooled scan")
            size = self.path.stat().st_size
            while head := file.read(RECORD.size):
                if len(head) < RECORD.size:
                    raise Damaged(f"{self.path.name} ends within a record")
                checksum, length, kind = RECORD.unpack(head)
                if length > size:
                    raise Damaged(f"{self.path.name}: a record claims {length} bytes of a file of {size}")
                payload = file.read(length)
                if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[4:])) != checksum:
                    raise Damaged(f"{self.path.name}: the record at byte {file.tell() - len(payload)} is damaged")
                yield kind, payload

    def states(self) -> list[dict[str, object]]:
        """Facts that were recorded, up to the first damage."""
        found: list[dict[str, object]] = []
        with contextlib.suppress(Damaged):
            found.extend(json.loads(payload) for kind, payload in self.records() if kind == STATE)
        return found

    def messages(self) -> Iterator[bytes]:
        """Messages as they came, up to the first damage, which is logged."""
        try:
            for kind, payload in self.records():
                if kind == MESSAGE:
                    yield payload
        except Damaged as error:
            log.warning("%s; what came before is used", error)

    def source(self) -> Source:
        """The messages as one stream."""
        parts, left = self.messages(), memoryview(b"")

        def receive(out: memoryview) -> int:
            nonlocal left
            while not left:
                if (part := next(parts, None)) is None:
                    return 0
                left = memoryview(part)
            n = min(len(out), len(left))
            out[:n] = left[:n]
            left = left[n:]
            return n

        return Source(receive)


class Damaged(ValueError):
    """A recording whose bytes are not those that were written."""


def is_recording(path: Path) -> bool:
    """Whether the file begins as a spooled scan does."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
