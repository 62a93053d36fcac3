"""CPU seconds until the packages are imported and help is printed: `-m benchmarks.start`.

Each figure is the least of several new interpreters, less that of an interpreter that does nothing beside it, so that
other work on the machine and the interpreter's own start do not count; the command's figure counts both.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from benchmarks.report import Row, arguments, command, show

THIS = "benchmarks.start"
IMPORTS = {
    "import koosh_models": 0.3,
    "import koosh_gadgets": 0.3,
    "import koosh_gadgets.entry": None,
    "import koosh_models.scan": None,
    "import koosh_models.reconstruction": None,
    "import torch": None,
}


def seconds(words: list[str]) -> float:
    """CPU seconds of one program and what it started."""
    before = used()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return used() - before


def used() -> float:
    """CPU seconds of all programs that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def row(name: str, value: float, limit: float | None) -> Row:
    """A figure beside its goal."""
    goal = ("", None) if limit is None else (f"<= {limit} s", value <= limit)
    return Row(name, value, "CPU s", *goal, command(THIS))


def measure(runs: int) -> list[Row]:
    """Interpreters in turn, the idle one beside each."""
    idle = min(seconds(["-c", "pass"]) for _ in range(runs))
    rows = [row("python -c pass", idle, None)]
    for code, limit in IMPORTS.items():
        rows.append(row(code, min(seconds(["-c", code]) for _ in range(runs)) - idle, limit))
    words = ["-m", "koosh_gadgets.cli"]
    rows.append(row("koosh -h", min(seconds([*words, "-h"]) for _ in range(runs)), 0.5))
    rows.append(row("koosh replay -h", min(seconds([*words, "replay", "-h"]) for _ in range(runs)), 0.5))
    return rows


def main() -> None:
    """Measure and show."""
    given = arguments(__doc__ or "").parse_args()
    show(measure(3 if given.quick else 9), given.json)


if __name__ == "__main__":
    main()
