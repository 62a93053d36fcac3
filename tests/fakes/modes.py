"""Everything that koosh writes of a scan, written where the umask forbids nothing, and who may read it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from koosh_gadgets.workers import environment

WRITE = """
import sys
from pathlib import Path
import torch
from koosh_gadgets.cli import main
from koosh_models.training.checkpoint import State, write
from koosh_models.training.journal import Journal

home = Path(sys.argv[1])
scan, images = str(home / "scan.h5"), str(home / "images.h5")
size = ["--matrix", "16", "--coils", "2", "--acceleration", "2"]
for words in (
    ["simulate", scan, *size, "--truth", str(home / "truth.npz")],
    ["simulate", str(home / "other.h5"), *size],
    ["replay", scan, "-o", images, "--method", "gridding", "--dicom", str(home / "made/above/dicom")],
    ["report", images, "-o", str(home / "report.html"), "--scan", scan],
    ["convert", scan, str(home / "scan.cfl")],
    ["convert", scan, str(home / "scan.npz")],
    ["convert", str(home / "scan.npz"), str(home / "again.h5")],
    ["convert", images, str(home / "volume.nii.gz")],
    ["prepare", scan, str(home / "other.h5"), "--validation", scan, "-o", str(home / "cases/of/mine")],
):
    assert main(words) == 0, words
journal = Journal(home / "run", 0)
journal.row(step=1, loss=0.5)
journal.image("case", torch.zeros(8, 8), 1)
journal.close()
Journal(home / "run", 1).close()
part = {"w": torch.zeros(10)}
write(home / "run/saves", State(step=1, network=part, mean=part, optimizers=part, recipe="", facts={}))
"""
WRITTEN = ("report.html", "made/above/dicom", "scan.cfl", "volume.nii.gz", "cases/of/mine", "run/log.csv", "run/board")


def written(home: Path) -> None:
    """Write everything into a folder of this name, which is made; a failure says what was said."""
    home.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(home)],
        umask=0,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not all((home / name).exists() for name in WRITTEN):
        raise RuntimeError(f"not everything was written: {done.stderr[-2000:]}")


def loose(home: Path) -> list[str]:
    """What is not 0600, or 0700 where it is a folder, `home` included."""
    found = []
    for path in (home, *sorted(home.rglob("*"))):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode != (0o700 if path.is_dir() else 0o600):
            found.append(f"{oct(mode)} {path.relative_to(home)}")
    return found
