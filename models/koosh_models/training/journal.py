"""What a run writes as it goes: a CSV, TensorBoard where it is installed, images of validation."""

from __future__ import annotations

import csv
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from koosh_models import private
from koosh_models.training.distributed import Heard

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)
Progress = Callable[[int, float], None]
Value = float | str | int
COLUMNS = ("step", "phase", "loss", "rate", "norm", "seconds", "waiting", "peak_mb", "psnr", "ssim", "nrmse")


class Journal:
    """One line a step in `log.csv`; lines beyond the step a run is resumed from are dropped."""

    def __init__(self, folder: Path, first: int, board: bool = True) -> None:
        private.folder(folder)
        self.path = folder / "log.csv"
        self._cut(first)
        self._file = open(self.path, "a", newline="", opener=own)  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, COLUMNS)
        if self.path.stat().st_size == 0:
            self._writer.writeheader()
        self._board = tensorboard(folder / "board", first) if board else None

    def _cut(self, first: int) -> None:
        if not self.path.is_file():
            return
        with open(self.path, newline="") as file:
            rows = [
                row for row in csv.DictReader(file) if (row.get("step") or "").isdigit() and int(row["step"]) <= first
            ]
        part = self.path.with_suffix(".part")
        with open(part, "w", newline="", opener=own) as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(part, self.path)

    def row(self, **values: Value) -> None:
        """One line; numbers go to TensorBoard as well."""
        self._writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, int(values["step"]))

    def image(self, name: str, picture: Tensor, step: int) -> None:
        """A grey image of values 0 to 1 for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, np.asarray(picture.clamp(0, 1))[None], step)

    def close(self) -> None:
        """Finish the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def tensorboard(folder: Path, first: int) -> SummaryWriter | None:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("the run is logged to CSV alone; for TensorBoard too: pip install 'koosh[train]'")
        return None
    writer = SummaryWriter(str(private.folder(folder)), purge_step=first or None)
    writer.flush()
    for file in folder.iterdir():  # TensorBoard leaves them to the umask
        file.chmod(0o600)
    return writer


def own(path: str, flags: int) -> int:
    """How a file is opened that only this user can read, whatever the umask."""
    return os.open(path, flags, 0o600)


def rows(path: Path) -> list[dict[str, str]]:
    """The lines of a log.csv."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@dataclass
class Rows:
    """Lines of the log, each written once the loss of its step is known.

    heard  sums over ranks that come later; None where every step's loss is known at once
    stop   whether any rank was asked to
    """

    journal: Journal | None
    progress: Progress | None
    heard: Heard | None
    stop: bool = False

    def __post_init__(self) -> None:
        self._waiting: deque[dict[str, Value]] = deque()

    def add(self, asked: bool, **row: Value) -> None:
        """One step's line; `asked` is whether this rank shall stop."""
        self._waiting.append(row)
        if self.heard is None:
            self._write()
        else:
            self.heard.tell(float(row["loss"]), float(asked))
            self._write_heard(everything=False)

    def finish(self) -> None:
        """Write what is left."""
        self._write_heard(everything=True)

    def _write_heard(self, everything: bool) -> None:
        for loss, asked in self.heard.hear(everything) if self.heard is not None else ():
            self.stop |= asked > 0
            self._waiting[0]["loss"] = loss
            self._write()

    def _write(self) -> None:
        row = self._waiting.popleft()
        if self.journal is not None:
            self.journal.row(**row)
        if self.progress is not None:
            self.progress(int(row["step"]), float(row["loss"]))
