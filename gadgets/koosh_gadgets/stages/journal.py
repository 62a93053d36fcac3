"""What is worth saying about one scan: notes for the images, and how long each part took before and after its end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from koosh_models import memory

log = logging.getLogger(__name__)


@dataclass
class Journal:
    """The record of one scan, shared by its stages.

    scan     a name without patient data, for logs and messages
    notes    sentences that belong to the images: assumptions, faults of the data, fallbacks
    before, after   seconds of each part while the scan ran and after its last readout
    facts    name -> value for the images' meta and the report
    peaks    highest resident memory in bytes of each part after the last readout
    counts   how many readouts were used, dropped, doubled, missing; images; volumes by another method than asked for
    outcome  how the scan ended
    """

    scan: str = "scan"
    notes: list[str] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outcome: str = "running"
    ended: bool = False
    truncated: str = ""

    def note(self, text: str, level: int = logging.WARNING) -> None:
        """Keep a sentence once, and log it."""
        if text not in self.notes:
            self.notes.append(text)
            log.log(level, "%s: %s", self.scan, text)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of the block towards `part`, and see how much memory it takes."""
        started, ended = time.perf_counter(), self.ended
        if ended:
            memory.forget_peak()
        try:
            yield
        finally:
            times = self.after if ended else self.before
            times[part] = times.get(part, 0.0) + time.perf_counter() - started
            if ended:
                self.peaks[part] = max(self.peaks.get(part, 0), memory.peak())

    def count(self, **numbers: int) -> None:
        """Add to the counts."""
        for name, n in numbers.items():
            self.counts[name] = self.counts.get(name, 0) + n

    def report(self) -> dict[str, object]:
        """What a log or a monitor wants of a scan: numbers and our own words, nothing of its header."""
        seconds = {part: round(s, 4) for part, s in self.after.items()}
        found = {"outcome": self.outcome, "counts": self.counts, "seconds": seconds, "peaks": self.peaks}
        return {"scan": self.scan, **found}

    def times(self) -> str:
        """One line: part, seconds before + after the last readout."""
        parts = sorted({*self.before, *self.after})
        return ", ".join(f"{p} {self.before.get(p, 0):.2f}+{self.after.get(p, 0):.2f} s" for p in parts)
