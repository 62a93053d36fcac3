"""What every benchmark prints and writes: rows of name, value, unit, goal, met, command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured number; `goal` in words and whether it is met, where there is one."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    command: str = ""


def arguments(description: str) -> argparse.ArgumentParser:
    """The two options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under a minute: smaller, fewer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    return parser


def command(module: str) -> str:
    """How this run was started."""
    return " ".join(["python -m", module, *sys.argv[1:]])


def show(rows: Sequence[Row], path: Path | None = None) -> None:
    """Print a table; write JSON if asked."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        verdict = "" if row.met is None else ("met" if row.met else "NOT MET")
        print(f"{row.name:<{width}}  {row.value:12.5g} {row.unit:<14} {row.goal:<28} {verdict}")
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
