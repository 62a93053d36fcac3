"""`koosh prepare`: recorded, fully sampled scans become training cases; a network is then trained on real data."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

log = logging.getLogger(__name__)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("prepare", help="make training cases of recorded scans", description=__doc__)
    p.add_argument("scans", nargs="+", metavar="IN.h5", help="ISMRMRD files, one subject each")
    p.add_argument("-o", "--out", required=True, metavar="FOLDER", help="for `koosh train --cache`")
    p.add_argument("--keep", type=float, default=0.25, metavar="SHARE", help="of the readouts (%(default)s)")
    p.add_argument("--validation", nargs="*", default=[], metavar="IN.h5", help="of these files, to validate on")
    p.add_argument("--matrix", type=int, default=0, help="voxels along each axis; 0: the header's (%(default)s)")
    p.add_argument("--iterates", type=int, default=0, metavar="N", help="targets of the first N stages: CG iterates")
    p.add_argument("--seed", type=int, default=0, help="of the choice of readouts (%(default)s)")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """One case a volume or series; the counts that the recipe needs are printed."""
    from koosh_gadgets.scans import read_scans
    from koosh_models import private
    from koosh_models.training.cases import write_case
    from koosh_models.training.feed import case_file
    from koosh_models.training.recorded import recorded

    files, held = [Path(p) for p in arguments.scans], {Path(p).resolve() for p in arguments.validation}
    if stray := [p for p in held if p not in {f.resolve() for f in files}]:
        raise ValueError(f"--validation names {stray[0].name}, which is none of the scans given")
    if len(held) == len(files):
        raise ValueError("every scan is held out for validation: nothing is left to train on")
    out = private.folder(arguments.out)
    counts = {"training": 0, "validation": 0}
    for path in files:
        split = "validation" if path.resolve() in held else "training"
        for number, scan in enumerate(read_scans(path, arguments.matrix)):
            name, seed = f"{path.stem}-{number}", arguments.seed + counts[split]
            case = recorded(scan, arguments.keep, seed, name, arguments.iterates)
            write_case(case_file(out, split, counts[split]), case)
            counts[split] += 1
            log.info("%s: %s case, %d coils, R %.1f", case.name, split, scan.n_coils, case.facts["acceleration"])
    sys.stdout.write(
        f"{out}: {counts['training']} training and {counts['validation']} validation cases; train with --cache {out} "
        f"--set data.cases={counts['training']} --set data.validation_cases={max(1, counts['validation'])}\n"
    )
    return 0
