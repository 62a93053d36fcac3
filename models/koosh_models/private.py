"""Folders that only this user can enter: what is made of scans may show patients."""

from __future__ import annotations

from pathlib import Path


def folder(path: str | Path) -> Path:
    """The folder, made 0700 with all missing ones above it, whatever the umask; one that exists stays as it is."""
    path = Path(path)
    for missing in reversed([above for above in path.parents if not above.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path
