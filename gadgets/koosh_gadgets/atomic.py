"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: str | Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A file open for writing that takes the name `path` when the block ends well, and vanishes when it doesn't.

    Only this user can read it, whatever the umask: it may show a patient.

    sync   reach the disk before the rename; without it a power cut can leave an empty file under the name
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:12]}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise


def write_atomic(path: str | Path, content: bytes | memoryview) -> None:
    """`content` under the name `path`, or the previous file untouched."""
    with atomic_file(path) as file:
        file.write(content)
