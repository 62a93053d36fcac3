"""The table of R1 to R20 with figures: `python -m benchmarks.reliability [--quick] [--only R5,R9,fuzz,plan]`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.promises import content, endurance, peers, plan, rooms, starvation, survival
from benchmarks.promises.found import Found
from benchmarks.report import command

Row = Callable[[bool], Found]
ROWS: dict[str, tuple[str, str, Row]] = {
    "R1": ("the peer vanishes", "0 hangs, error with scan id within 1 s, next scan served", peers.vanished),
    "R2": ("mutated streams", "0 crashes, 0 hangs > 2 s, own errors only, memory < cap + 100 MB", peers.mutated),
    "R3": ("giant lengths", "refused before allocation, < 50 ms, < 5 MB", peers.giants),
    "R4": ("slow and silent clients", "others < 10 % longer; limits kept", peers.slow),
    "R5": ("damaged files", "0 crashes, truncation refused, every flip in our spool noticed", content.damaged_files),
    "R6": ("NaN, Inf", "dropped and said, or refused; never in an image", content.not_finite),
    "R7": ("readouts that are wrong", "message names readout and field, no traceback", content.named),
    "R8": ("doubled, shuffled, missing readouts", "same image to 1e-6; missing ones said", content.disorder),
    "R9": ("out of memory", "smaller, CPU, classical, spool kept; exit code", starvation.starved),
    "R10": ("SIGKILL at random points", "0 lost; bit-identical, or prefix marked truncated", survival.killed),
    "R11": ("SIGTERM during reconstruction", "finishes or spools, exits within 30 s", survival.stopped),
    "R12": ("full disk", "the scan goes out, no half file", endurance.full_disk),
    "R13": ("soak", "< 0.5 MB a scan; descriptors and threads constant", endurance.soak),
    "R14": ("4 clients, a 5th, one too many", "all correct, first in first out, queued, refused", endurance.crowded),
    "R15": ("names from the wire", "0 imports, 0 files", content.names),
    "R16": ("bad weights", "refused before use", content.weights),
    "R17": ("DICOM objects", "0 errors, 0 warnings, 12 orientations, AlreadyStored", rooms.objects),
    "R18": ("PACS down or killed", "nothing lost or doubled", rooms.archive),
    "R19": ("Slurm", "bit-exact final weights", rooms.cluster),
    "R20": ("patient data", "0 leaks, 0600", content.patients),
    "plan": ("memory foreseen", "at least 0.9 of what is taken", plan.planned),
}  # fmt: skip
DEFAULT = [name for name in ROWS if name.startswith("R")]


def options() -> argparse.Namespace:
    """Words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, fewer")
    parser.add_argument("--only", default=",".join(DEFAULT), metavar="ROWS", help="as R5,R9; also fuzz and plan")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the fuzzing (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    return parser.parse_args()


def measured(name: str, row: Row, full: bool) -> Found:
    """A row's outcome; an error of its own is a failure."""
    try:
        return row(full)
    except Exception as error:  # the other rows are still wanted
        logging.getLogger(__name__).exception("row %s", name)
        return Found(False, f"{type(error).__name__}: {error}"[:300])


def main() -> int:
    """Measure, print, and fail where a row does."""
    asked = options()
    logging.basicConfig(level=logging.CRITICAL)
    rows = dict(
        ROWS, fuzz=("fuzzing", "no finding", lambda _full: peers.fuzzed(10.0 if asked.quick else asked.seconds))
    )
    out = []
    for name in asked.only.split(","):
        title, bar, row = rows[name]
        begun, cpu = time.monotonic(), sum(os.times()[:4])
        found = measured(name, row, not asked.quick)
        seconds, cpu = time.monotonic() - begun, sum(os.times()[:4]) - cpu
        verdict = "passed" if found.passed else "FAILED" if not found.sound else "FAILED (time)"
        print(
            f"{name:4} {verdict:13} {title} [{bar}]\n     {found.measured} ({seconds:.0f} s, {cpu:.0f} s of CPU)",
            flush=True,
        )
        out.append({"name": f"{name} {title}", "value": found.measured, "unit": "", "goal": bar, "met": found.passed,
                    "command": command("benchmarks.reliability")})  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps(out, indent=1) + "\n")
    return int(not all(row["met"] for row in out))


if __name__ == "__main__":
    sys.exit(main())
