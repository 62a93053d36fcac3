"""Images to a PACS: sent until they are there, told where they are not."""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.status import code_to_category

from koosh_gadgets.dicom.archive import Archive, Item, Refused, Unreachable, association, item
from koosh_gadgets.dicom.verify import commit, present

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
PER_LANE = 16  # an association for fewer objects costs more than it saves
DUPLICATE = 0x0111  # "already there": what a re-send wants to hear
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What became of the files.

    sent       objects that went over the wire now
    before     objects that were known to be there already
    verified   objects the archive named when asked afterwards; None where it can't be asked
    refused    file name -> why the archive doesn't want it
    """

    sent: int
    before: int
    verified: int | None
    refused: dict[str, str]

    @property
    def complete(self) -> bool:
        """Nothing was refused, and whatever could be verified was."""
        return not self.refused and self.verified in (None, self.sent + self.before)


class Journal:
    """UIDs that an archive has acknowledged, in a file of one line each; survives being killed at any byte."""

    def __init__(self, folder: Path, archive: Archive) -> None:
        name = hashlib.sha256(archive.name.encode()).hexdigest()[:12]
        self.path = folder / f".koosh-pushed-{name}"
        self.lock = threading.Lock()
        self.failed = False

    def read(self) -> set[str]:
        """UIDs of whole lines."""
        if not self.path.exists():
            return set()
        return {line for line in self.path.read_text(encoding="ascii", errors="replace").splitlines() if line}

    def add(self, uid: str) -> None:
        """Note one more; a folder that can't be written costs only the memory of it."""
        try:
            with self.lock, open(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
                file.write(f"\n{uid}\n")
        except OSError as error:
            if not self.failed:
                log.warning("what was sent can't be noted in %s (%s): a re-send starts over", self.path, error.strerror)
            self.failed = True

    def forget(self) -> None:
        """Start over."""
        self.path.unlink(missing_ok=True)


def files_of(folder: str | Path) -> list[Path]:
    """Every DICOM file below a folder (or the file itself), in order; those still being written are left alone."""
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such file or folder", str(folder))
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    found = [path for path in found if path.suffix.lower() in (".dcm", ".ima") or _is_dicom(path)]
    if not found:
        raise ValueError(f"{folder} holds no DICOM files")
    return found


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def push(
    files: Iterable[Path],
    archive: Archive,
    journal: Journal | None = None,
    attempts: int = 8,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    commit_port: int | None = None,
) -> Outcome:
    """Send files, again and again with longer and longer waits, and ask the archive for them afterwards.

    attempts   rounds without a single object stored before `Unreachable` is raised; what was stored stays noted in
               `journal`, so that the next call goes on from there
    stop       ends waiting and sending
    commit_port   ask for storage commitment, the report of which comes to this port, instead of querying
    """
    items = {found.uid: found for found in map(item, files)}
    known = (journal.read() if journal else set()) & set(items)
    sender = _Sender(archive, journal, progress or (lambda done, total: None), len(items), stop or threading.Event())
    sender.stored |= known
    sender.until_stored(items, attempts)
    there = sender.there(items, commit_port, attempts)
    if there is not None and (lost := sender.stored - there):
        log.warning("%s does not name %d objects it had acknowledged: they are sent again", archive.name, len(lost))
        sender.stored -= lost
        sender.until_stored(items, attempts)
        there = sender.there(items, commit_port, attempts)
    verified = None if there is None else len(there & sender.stored)
    return Outcome(len(sender.sent), len(sender.stored - sender.sent), verified, sender.refused)


class _Sender:
    """One push: what is stored, what was refused, and the lanes that work on the rest."""

    def __init__(
        self, archive: Archive, journal: Journal | None, progress: Progress, total: int, stop: threading.Event
    ) -> None:
        self.archive, self.journal, self.progress, self.total, self.stop = archive, journal, progress, total, stop
        self.stored: set[str] = set()
        self.sent: set[str] = set()
        self.refused: dict[str, str] = {}
        self.lock = threading.Lock()
        self.lanes = archive.lanes

    def until_stored(self, items: dict[str, Item], attempts: int) -> None:
        failed = 0
        while pending := [one for uid, one in items.items() if uid not in self.stored | set(self.refused)]:
            before = len(self.stored)
            error = self.round(pending)
            if error is None:
                continue
            failed = 1 if len(self.stored) > before else failed + 1
            self.lanes = max(1, self.lanes // 2)  # an archive in trouble, or short of associations, is spared
            self.wait(error, failed, attempts)

    def wait(self, error: Unreachable, failed: int, attempts: int) -> None:
        """Longer after every failure; `Unreachable` after the last, or when stopped."""
        state = f"{len(self.stored)} of {self.total} objects are stored"
        if failed >= attempts:
            raise Unreachable(f"{error}; {state}") from error
        seconds = min(LONGEST_WAIT_S, 2.0 ** (failed - 1)) * random.uniform(0.5, 1.0)  # not all clients at once
        log.warning("%s; again in %.1f s (%s)", error, seconds, state)
        if self.stop.wait(seconds):
            raise Unreachable(f"stopped; {state}") from error

    def there(self, items: dict[str, Item], port: int | None, attempts: int) -> set[str] | None:
        """What the archive says it has of what it acknowledged."""
        claimed = [items[uid] for uid in sorted(self.stored)]
        for failed in range(1, attempts + 1):
            try:
                return present(claimed, self.archive) if port is None else commit(claimed, self.archive, port)
            except Unreachable as error:
                self.wait(error, failed, attempts)
        raise AssertionError("the last wait raises")

    def round(self, pending: list[Item]) -> Unreachable | None:
        """Send what is pending over as many associations as pay; the error that ended it, if one did."""
        queue = collections.deque(pending)
        lanes = max(1, min(self.lanes, len(pending) // PER_LANE))
        with ThreadPoolExecutor(lanes) as pool:
            errors = [error for error in pool.map(lambda _: self.lane(queue), range(lanes)) if error is not None]
        refused = [error for error in errors if isinstance(error, Refused)]
        # an archive that allows fewer associations than there are lanes still takes everything
        if len(refused) == lanes:
            raise refused[0]
        lost = [error for error in errors if isinstance(error, Unreachable)]
        return lost[0] if lost and queue else None

    def lane(self, queue: collections.deque[Item]) -> Unreachable | Refused | None:
        """Send until the queue is empty; an object that didn't get through goes back."""
        contexts = sorted({(one.sop_class, one.syntax) for one in queue})
        if not contexts:
            return None
        try:
            with association(self.archive, contexts) as opened:
                while not self.stop.is_set():
                    try:
                        one = queue.popleft()
                    except IndexError:
                        return None
                    try:
                        self.send(opened, one)
                    except BaseException:
                        queue.append(one)
                        raise
        except (Unreachable, Refused) as error:
            return error
        return Unreachable("stopped") if queue else None

    def send(self, opened: Association, one: Item) -> None:
        accepted = {(context.abstract_syntax, *context.transfer_syntax) for context in opened.accepted_contexts}
        if (one.sop_class, one.syntax) not in accepted:
            self.refuse(one, f"the archive does not take {UID(one.sop_class).name} as {UID(one.syntax).name}")
            return
        try:
            answer = opened.send_c_store(one.path)
        except RuntimeError as error:  # the association ended between two objects
            raise Unreachable(f"{self.archive.name} ended the association") from error
        if "Status" not in answer:
            raise Unreachable(
                f"{self.archive.name} did not answer: connection lost or over {self.archive.timeout_s:g} s"
            )
        category = code_to_category(answer.Status)
        if category in ("Success", "Warning") or answer.Status == DUPLICATE:
            self.note(one)
        elif 0xA700 <= answer.Status <= 0xA7FF:
            raise Unreachable(f"{self.archive.name} is out of resources (status {answer.Status:#06x})")
        else:
            self.refuse(one, f"status {answer.Status:#06x} {answer.get('ErrorComment', '')}".strip())

    def note(self, one: Item) -> None:
        with self.lock:
            self.stored.add(one.uid)
            self.sent.add(one.uid)
            self.progress(len(self.stored), self.total)
        if self.journal:
            self.journal.add(one.uid)

    def refuse(self, one: Item, why: str) -> None:
        log.error("%s refuses %s: %s", self.archive.name, one.path.name, why)
        with self.lock:
            self.refused[one.uid] = f"{one.path.name}: {why}"
