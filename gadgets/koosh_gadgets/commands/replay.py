"""`koosh replay`: a recorded scan through the same stages as at the scanner."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from koosh_gadgets import settings as parameters
from koosh_gadgets.settings import Settings

log = logging.getLogger(__name__)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("replay", help="reconstruct a recorded scan", description=__doc__)
    p.add_argument("scan", metavar="IN", help="ISMRMRD file, a spooled scan, or - for an MRD stream on stdin")
    p.add_argument("-o", "--out", required=True, metavar="OUT.h5", help="ISMRMRD image file, or - for MRD on stdout")
    parameters.add_arguments(p)
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct here."""
    settings = parameters.from_arguments(arguments, Settings())
    return to_file(Path(arguments.scan), Path(arguments.out), settings)


def to_file(scan: Path, out: Path, settings: Settings) -> int:
    """An ISMRMRD file to an ISMRMRD image file."""
    from koosh_gadgets.files import open_scan, write_images
    from koosh_gadgets.pipeline import Job
    from koosh_gadgets.stages.journal import Journal

    with open_scan(scan) as file:
        job = Job(file.xml, settings, Journal(scan.name))
        n = write_images(out, job.images(file.items(), depth=1), file.xml)
    sys.stdout.write(f"{n} images written to {out}\n")
    return 0
