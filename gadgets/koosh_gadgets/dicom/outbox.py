"""Images on their way to a PACS: on disk until it has them, sent in the background."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from koosh_gadgets.dicom.archive import Archive, Refused, Unreachable
from koosh_gadgets.dicom.push import Journal, push
from koosh_models import private

log = logging.getLogger(__name__)

ABANDONED_S = 3600  # what a process that died was putting together is older than this
LONGEST_WAIT_S = 300.0
LOOK_S = 2.0


@dataclass(frozen=True, eq=False)
class Outbox:
    """A folder of entries, one a series (or a scan), each sent until the archive has all of it and then taken away.

    Only this user can read it. Entries appear whole: they are copied aside and renamed. Several processes may put into
    one outbox; one of them sends.
    """

    folder: Path
    archive: Archive
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    wake: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        private.folder(self.folder).chmod(0o700)

    @contextlib.contextmanager
    def entry(self) -> Iterator[Path]:
        """A folder to fill, which becomes an entry when the block ends well and vanishes when it doesn't."""
        aside = self.folder / f".new-{uuid.uuid4().hex}"
        try:
            aside.mkdir(mode=0o700)
            yield aside
            for file in aside.iterdir():
                _secure(file)
            _sync(aside)
            os.rename(aside, self.folder / f"{time.time_ns():020d}-{aside.name[-8:]}")
            _sync(self.folder)
        except OSError as error:
            raise OSError(error.errno, f"outbox {self.folder} can't take it: {error.strerror or error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.wake.set()

    def put(self, files: Iterable[Path]) -> None:
        """Copy files in as one entry and wake the sender; on a full disk there is an OSError and no entry."""
        files = list(files)
        if not files:
            raise ValueError("no files to put into the outbox")
        with self.entry() as aside:
            for file in files:
                shutil.copyfile(file, aside / file.name)

    def entries(self) -> list[Path]:
        """What waits, oldest first."""
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def drain(self, attempts: int = 1) -> list[str]:
        """Send every entry once; the errors of those that stay. One that is refused doesn't hold up the others."""
        errors = []
        with self._alone() as alone:
            if not alone:
                return ["another process sends from this outbox"]
            self._sweep()
            for entry in self.entries():
                if self.stop.is_set():
                    break
                if error := self._send(entry, attempts):
                    errors.append(error)
        return errors

    def run(self) -> None:
        """Send until stopped; after a failure wait longer and longer, but look at once when something new is put."""
        failed = 0
        while not self.stop.is_set():
            self.wake.clear()
            try:
                failed = failed + 1 if self.drain() else 0
            except OSError as error:  # the folder itself; what lies in it is still there when it is back
                log.error("outbox %s can't be read: %s", self.folder, error.strerror or error)
                failed += 1
            # another process may put something in without waking this one
            self.wake.wait(min(LONGEST_WAIT_S, 2.0**failed) if failed else LOOK_S)

    @contextlib.contextmanager
    def sending(self) -> Iterator[Outbox]:
        """The outbox with a thread that sends; what hasn't left when the block ends waits for the next time."""
        thread = threading.Thread(target=self.run, name="koosh-outbox", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            self.wake.set()
            thread.join(2 * self.archive.timeout_s)

    def _send(self, entry: Path, attempts: int) -> str:
        """Empty where the archive has all of the entry, which is then gone; else why it stays."""
        files = sorted(entry.glob("[!.]*"))
        try:
            outcome = push(files, self.archive, Journal(entry, self.archive), attempts, stop=self.stop)
        except (Unreachable, Refused, ValueError) as error:
            log.error("outbox entry %s stays: %s", entry.name, error)
            return str(error)
        if not outcome.complete:
            log.error("outbox entry %s stays: %d of %d objects refused", entry.name, len(outcome.refused), len(files))
            return "; ".join(outcome.refused.values()) or "the archive does not name all it has acknowledged"
        done = self.folder / f".done-{entry.name}"
        os.rename(entry, done)  # first out of sight: a kill while it is taken away must not leave half an entry
        shutil.rmtree(done, ignore_errors=True)
        log.info("outbox entry %s is at %s (%d objects)", entry.name, self.archive.name, len(files))
        return ""

    def _sweep(self) -> None:
        """Take away what a killed process left half done."""
        for path in self.folder.glob(".done-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".new-*"):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """True for the one process (and thread) that may send."""
        with open(os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _secure(file: Path) -> None:
    """Only this user can read it, and it is on the disk before the name of its entry is."""
    file.chmod(0o600)
    _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
