"""`koosh dicom`: images as DICOM series, into a folder, past a check, to a PACS."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from koosh_gadgets.dicom.archive import Archive


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its three parts."""
    top = subparsers.add_parser("dicom", help="write, check and send DICOM series", description=__doc__)
    parts = top.add_subparsers(title="parts", metavar="PART", required=True)
    _add_export(parts.add_parser("export", help="write the images of an ISMRMRD file as DICOM (and NIfTI)"))
    _add_push(parts.add_parser("push", help="send a folder, or an outbox, to a PACS"))
    checked = parts.add_parser("check", help="say what is wrong with a folder of DICOM files")
    checked.add_argument("folder", type=Path, metavar="DIR", help="DICOM files")
    checked.add_argument("--json", action="store_true", help="series and faults as JSON")
    checked.set_defaults(run=run_check)


def _add_export(p: argparse.ArgumentParser) -> None:
    p.add_argument("images", type=Path, metavar="IMAGES.h5", help="ISMRMRD image file, as `koosh replay -o` writes it")
    p.add_argument("folder", type=Path, metavar="DIR", help="where the DICOM files go")
    p.add_argument("--enhanced", action="store_true", help="one Enhanced MR object a volume instead of one a slice")
    p.add_argument("--template", type=Path, metavar="FILE.dcm", help="patient, study and equipment as in this image")
    p.add_argument("--json", type=Path, metavar="FILE.json", help="DICOM keywords that override header and template")
    p.add_argument("--series", type=int, metavar="N", help="only the series of this index")
    p.add_argument("--nifti", type=Path, metavar="FILE.nii.gz", help="write the volume as NIfTI too")
    p.set_defaults(run=run_export)


def _add_push(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", type=Path, metavar="DIR", help="DICOM files, or an outbox with --outbox")
    p.add_argument("address", metavar="HOST:PORT", help="of the PACS")
    p.add_argument("--called", required=True, metavar="AET", help="AE title of the PACS")
    p.add_argument("--calling", default="KOOSH", metavar="AET", help="our AE title (%(default)s)")
    p.add_argument("--lanes", type=int, default=4, help="associations at a time, at most (%(default)s)")
    p.add_argument("--attempts", type=int, default=8, help="tries without any success before giving up (%(default)s)")
    p.add_argument("--commit-port", type=int, metavar="PORT", help="verify by storage commitment, reported here")
    p.add_argument("--tls-ca", type=Path, metavar="FILE.pem", help="speak TLS and trust this authority")
    p.add_argument("--outbox", action="store_true", help="DIR is an outbox: send its entries and take them away")
    p.set_defaults(run=run_push)


def run_export(arguments: argparse.Namespace) -> int:
    """Write every series of the file."""
    from koosh_gadgets.dicom.write import scan_name, write_series
    from koosh_gadgets.imagefile import read_series

    found = read_series(arguments.images)
    chosen = [one for one in found if arguments.series in (None, one.number)]
    if not chosen:
        raise ValueError(f"no series {arguments.series} in {arguments.images}; it has {[one.number for one in found]}")
    supplied = {"template": arguments.template, "overrides": arguments.json}
    name = scan_name(found)  # of the whole file, so that a series exported alone belongs to the same study
    for one in chosen:
        files = write_series(one, arguments.folder, enhanced=arguments.enhanced, scan_id=name, **supplied)
        size = " x ".join(map(str, one.volume.shape))
        count = "1 file" if len(files) == 1 else f"{len(files)} files"
        sys.stdout.write(f"series {one.number}: {size} -> {count} in {arguments.folder}\n")
    if arguments.nifti:
        from koosh_gadgets.nifti import write_nifti

        for one in chosen:
            path = arguments.nifti if len(chosen) == 1 else _numbered(arguments.nifti, one.number)
            write_nifti(path, one.frames[0] if len(one.frames) == 1 else one.frames, one.geometry, one.frame_ms / 1000)
            sys.stdout.write(f"series {one.number}: {path}\n")
    return 0


def _numbered(path: Path, number: int) -> Path:
    stem, dot, ending = path.name.partition(".")
    return path.with_name(f"{stem}-{number}{dot}{ending}")


def run_push(arguments: argparse.Namespace) -> int:
    """Send; 1 where something stays behind."""
    from koosh_gadgets.dicom.archive import Archive, address

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # its words for a failure repeat ours
    host, port = address(arguments.address)
    archive = Archive(host, port, arguments.called, arguments.calling, arguments.lanes, arguments.tls_ca)
    return _push_outbox(arguments, archive) if arguments.outbox else _push_folder(arguments, archive)


def _push_folder(arguments: argparse.Namespace, archive: Archive) -> int:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from koosh_gadgets.dicom.push import Journal, files_of, push

    files = files_of(arguments.folder)
    folder = arguments.folder if arguments.folder.is_dir() else arguments.folder.parent
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(archive.called, total=len(files))
        outcome = push(
            files,
            archive,
            Journal(folder, archive),
            arguments.attempts,
            lambda done, total: bar.update(task, completed=done, total=total),
            commit_port=arguments.commit_port,
        )
    verified = "not verified: it answers no queries" if outcome.verified is None else f"{outcome.verified} verified"
    sys.stdout.write(f"{archive.name}: {outcome.sent} sent, {outcome.before} there before, {verified}\n")
    for line in outcome.refused.values():
        sys.stdout.write(f"refused: {line}\n")
    return 0 if outcome.complete else 1


def _push_outbox(arguments: argparse.Namespace, archive: Archive) -> int:
    from koosh_gadgets.dicom.outbox import Outbox

    if not arguments.folder.is_dir():
        raise FileNotFoundError(2, "no such outbox", str(arguments.folder))
    outbox = Outbox(arguments.folder, archive)
    waiting = len(outbox.entries())
    errors = outbox.drain(arguments.attempts)
    left = len(outbox.entries())
    sys.stdout.write(f"{archive.name}: {max(0, waiting - left)} of {waiting} entries sent\n")
    return 1 if errors else 0


def run_check(arguments: argparse.Namespace) -> int:
    """Print faults; 1 where there are any."""
    from koosh_gadgets.dicom.check import check

    found = check(arguments.folder)
    if arguments.json:
        series = {
            uid: {"form": one.form, "objects": one.files, "images": len(one.planes)}
            for uid, one in found.series.items()
        }
        sys.stdout.write(json.dumps({"series": series, "faults": list(found.faults)}, indent=1) + "\n")
        return int(bool(found.faults))
    for uid, stack in found.series.items():
        sys.stdout.write(f"series {uid}: {stack.form}, {stack.files} objects, {len(stack.planes)} images\n")
    for fault in found.faults:
        sys.stdout.write(f"fault: {fault}\n")
    sys.stdout.write("no faults found\n" if not found.faults else f"{len(found.faults)} faults\n")
    return 1 if found.faults else 0
