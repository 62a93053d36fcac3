"""Simulated scans and the command, in this process."""

import contextlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

from koosh_gadgets.cli import main


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def koosh(*words: object) -> Done:
    """Run `koosh` with these words."""
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([str(word) for word in words])
            except SystemExit as ended:
                code = int(ended.code or 0)
    finally:
        root.removeHandler(handler)
    return Done(code, out.getvalue(), err.getvalue())


def simulated(path: Path, matrix: tuple[int, int, int] = (16, 18, 20), acceleration: float = 4) -> Path:
    """A small oblique 3D radial scan."""
    done = koosh(
        "simulate", path, "--matrix", *matrix, "--acceleration", acceleration, "--coils", 4,
        "--position", 10.5, -20.25, 30.75, "--orientation", 20, -10, 33,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path
