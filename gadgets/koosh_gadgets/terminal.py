"""Colour and alignment on a terminal, plain lines everywhere else: in a log, a pipe, a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence


def log_handler() -> logging.Handler:
    """Log lines on stderr."""
    if not sys.stderr.isatty():
        plain = logging.StreamHandler(sys.stderr)
        plain.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        return plain
    from rich.console import Console
    from rich.logging import RichHandler

    # file names and times would push the sentence off the line; the text of a file is no markup
    return RichHandler(console=Console(stderr=True), show_time=False, show_path=False, markup=False)


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, its first column left and the others right."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, name in enumerate(head):
            table.add_column(Text(name), justify="right" if index else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
