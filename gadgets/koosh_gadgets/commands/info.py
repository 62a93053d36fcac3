"""`koosh info`: what is in a file and what would be done with it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("info", help="describe a file and what would be done with it", description=__doc__)
    p.add_argument("file", metavar="FILE", help="ISMRMRD scan or images")
    p.add_argument(
        "-g", "--in-group", "--group", dest="group", help="HDF5 group of the scan, where a file holds several"
    )
    p.add_argument("--trajectory-unit", help="read the trajectory in this unit")
    p.add_argument("--json", action="store_true", help="the same as JSON")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the facts."""
    from koosh_gadgets.supervised import made_in_child

    path = Path(arguments.file)
    facts, _ = made_in_child(lambda: (facts_of(path, arguments.group, arguments.trajectory_unit), {}), path)
    sys.stdout.write(json.dumps(facts, indent=2) + "\n" if arguments.json else as_text(path, facts))
    return 0


def facts_of(path: Path, group: str | None, unit: str | None) -> dict[str, dict[str, str]]:
    """What is in the file, by encoding and kind; HDF5 reads it in this process."""
    from koosh_gadgets.files import hdf5, open_scan, opened
    from koosh_gadgets.survey import survey

    with opened(path) as file, hdf5(path.name):
        groups = [value for value in file.values() if hasattr(value, "keys")]
        scans = group is not None or any("data" in one for one in groups)
        images = any(
            {"header", "data"} <= set(part) for one in groups for part in one.values() if hasattr(part, "keys")
        )
    facts: dict[str, dict[str, str]] = {}
    if scans:
        with open_scan(path, group) as scan:
            for part in survey(scan, unit):
                facts[f"encoding {part.encoding}"] = part.facts
    if images:
        facts["images"] = image_facts(path)
    if not facts:
        raise ValueError(f"{path.name} is an HDF5 file but holds neither an ISMRMRD scan nor images")
    return facts


def image_facts(path: Path) -> dict[str, str]:
    """One line for every series of images."""
    from koosh_gadgets.imagefile import read_series

    return {
        f"series {part.number}": f"{part.kind}, {' x '.join(map(str, part.volume.shape))} {part.volume.dtype}, "
        f"voxels of {' x '.join(f'{v:.4g}' for v in part.geometry.voxel_mm)} mm (z, y, x)"
        for part in read_series(path)
    }


def as_text(path: Path, facts: dict[str, dict[str, str]]) -> str:
    """Aligned lines."""
    lines = [f"{path.name}, {path.stat().st_size / 1e6:.1f} MB"]
    for title, group in facts.items():
        lines.append(title)
        width = max(map(len, group))
        lines += [f"  {name:<{width}}  {text}" for name, text in group.items()]
    return "\n".join(lines) + "\n"
