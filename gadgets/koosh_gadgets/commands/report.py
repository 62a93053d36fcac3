"""`koosh report`: reconstructions side by side on one HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("report", help="reconstructions side by side on one HTML page", description=__doc__)
    p.add_argument(
        "images", nargs="+", metavar="IMAGES.h5", help="ISMRMRD image files, as `koosh replay -o` writes them"
    )
    p.add_argument("-o", "--out", required=True, metavar="FILE.html", help="page to write")
    p.add_argument("--scan", metavar="SCAN.h5", help="what they were made from: trajectory, point spread, completeness")
    p.add_argument("--truth", metavar="TRUTH.npz", help="from `koosh simulate --truth`: errors and scores")
    p.add_argument("--title", default="Reconstruction", help="of the page (%(default)s)")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from koosh_gadgets.report.gather import gathered, read_truth
    from koosh_gadgets.report.page import write_report

    scan = Path(arguments.scan) if arguments.scan else None
    truth = read_truth(arguments.truth) if arguments.truth else None
    content = gathered(arguments.title, scan, [Path(p) for p in arguments.images], truth)
    write_report(arguments.out, content)
    sys.stdout.write(f"{arguments.out}: {len(content.shown)} reconstructions\n")
    return 0
