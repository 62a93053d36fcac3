"""`koosh replay`: a recorded scan through the same stages as at the scanner."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from koosh_gadgets import settings as parameters


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("replay", help="reconstruct a recorded scan", description=__doc__)
    p.add_argument(
        "scan", metavar="IN", nargs="?", help="ISMRMRD file, a spooled scan, or - for an MRD stream on stdin"
    )
    p.add_argument("-f", "--filename", metavar="IN", help="the same, as gadgetron_ismrmrd_client has it")
    p.add_argument("-g", "--in-group", metavar="NAME", help="HDF5 group of the scan; the only one, or `dataset`")
    p.add_argument("-G", "--out-group", metavar="NAME", default="dataset", help="of the images (%(default)s)")
    p.add_argument("-o", "--out", required=True, metavar="OUT.h5", help="ISMRMRD image file, or - for MRD on stdout")
    p.add_argument("-a", "--address", help="send the scan to a Gadgetron or MRD server there")
    p.add_argument("-p", "--port", type=int, default=9002, help="of that server (%(default)s)")
    p.add_argument("-c", "--config", default="koosh_3d.xml", help="configuration there, or a file (%(default)s)")
    p.add_argument("-C", "--config-local", metavar="FILE", help="configuration file here whose text is sent there")
    p.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1; for what is reconstructed here (%(default)s)"
    )
    p.add_argument("--rate", type=float, default=0.0, help="readouts a second to send; 0: as fast as they are taken")
    p.add_argument(
        "--wait", type=float, default=3600.0, metavar="S", help="longest silence of the server (%(default)s)"
    )
    p.add_argument(
        "--report",
        metavar="FILE.html",
        help="also one page, classical images beside them",
    )
    parameters.add_arguments(p)
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct here, or have it done elsewhere; then report."""
    if (arguments.scan is None) == (arguments.filename is None):
        raise ValueError("name one scan: IN, or -f IN")
    arguments.scan = arguments.scan or arguments.filename
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", arguments.device):
        raise ValueError(f"the device is {arguments.device!r}; wanted auto, cpu, cuda or cuda:N")
    if arguments.report and arguments.out == "-":
        raise ValueError("a report is made from an image file; name one with -o")
    from koosh_gadgets.replay import reconstruct
    from koosh_models import memory

    if arguments.report and arguments.residual is None and not arguments.address:
        arguments.residual = True
    memory.confine()
    code = reconstruct(arguments)
    if arguments.report and code == 0:
        report(arguments)
    return code


def report(arguments: argparse.Namespace) -> None:
    """One page on the images just made, beside the classical methods on the same scan."""
    from koosh_gadgets.imagefile import read_series
    from koosh_gadgets.report.compare import compared
    from koosh_gadgets.report.gather import gathered
    from koosh_gadgets.report.page import write_report
    from koosh_gadgets.spool import is_recording

    scan, made = Path(arguments.scan), Path(arguments.out)
    here = scan.is_file()
    others = compared(scan, parameters.from_arguments(arguments), read_series(made)) if here else []
    known = scan if here and not is_recording(scan) else None
    write_report(arguments.report, gathered(scan.name, known, [made], None, others))
