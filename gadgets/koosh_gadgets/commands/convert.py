"""`koosh convert`: scans between ISMRMRD, BART and .npz; images between those and NIfTI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from koosh_gadgets.convert.recording import Recording
    from koosh_models.scan import Geometry

Number = TypeVar("Number", int, float)
KINDS = {
    ".h5": "ISMRMRD",
    ".mrd": "ISMRMRD",
    ".cfl": "BART",
    ".hdr": "BART",
    ".npz": "npz",
    ".nii": "NIfTI",
    ".gz": "NIfTI",
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("convert", help="between ISMRMRD, BART, NIfTI and .npz", description=__doc__)
    p.add_argument("source", metavar="IN", help=".h5, .cfl, .nii, .nii.gz or .npz")
    p.add_argument("target", metavar="OUT", help="the same; a scan can't become NIfTI: reconstruct it first")
    p.add_argument("--trajectory-unit", help="read an ISMRMRD trajectory in this unit")
    p.add_argument("--matrix", type=int, nargs="+", metavar="N", help="of a BART scan: z y x (or y x)")
    p.add_argument("--fov-mm", type=float, nargs="+", metavar="MM", help="of a BART file: z y x (or y x)")
    p.add_argument("--series", type=int, help="image series to take, where a file holds several")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert what the file holds: a scan, or else an image."""
    source, target = Path(arguments.source), Path(arguments.target)
    wanted = kind_of(target)
    found = content_of(source, arguments)
    if not isinstance(found, tuple):
        if wanted == "NIfTI":
            raise ValueError(f"{source.name} is a scan and NIfTI holds images; reconstruct it first (koosh replay)")
        write_scan(target, wanted, found)
        what = f"scan {' x '.join(map(str, found.kspace.shape))}"
    else:
        image, geometry = found
        write_image(target, wanted, image, geometry)
        what = f"image {' x '.join(map(str, image.shape))}"
    sys.stdout.write(f"{target}: {what}\n")
    return 0


def kind_of(path: Path) -> str:
    """The format by the name's ending."""
    if path.suffix not in KINDS or (path.suffix == ".gz" and not path.name.endswith(".nii.gz")):
        raise ValueError(f"{path.name}: unknown ending; known: .h5, .mrd, .cfl, .npz, .nii, .nii.gz")
    return KINDS[path.suffix]


def content_of(source: Path, arguments: argparse.Namespace) -> Recording | tuple[np.ndarray, Geometry]:
    """The scan that the file holds, or else the image and where it lies."""
    kind = kind_of(source)
    if kind in ("ISMRMRD", "npz"):
        from koosh_gadgets import npz
        from koosh_gadgets.convert import archive
        from koosh_gadgets.supervised import made_in_child

        if kind == "npz":
            content = npz.arrays(source)
        else:
            _, content = made_in_child(lambda: ({}, ismrmrd_arrays(source, arguments)), source)
        return (archive.recording_of if "kspace" in content else archive.image_of)(content, source.name)
    if kind == "BART":
        from koosh_gadgets.convert import bart

        base = bart.bases(source)
        coils = bart.read_cfl(base).shape[::-1][bart.COIL]
        if coils > 1 or bart.beside(base, "traj.hdr").exists():
            return bart.read_recording(base, sizes(arguments.matrix), sizes(arguments.fov_mm))
    return image_in(source, arguments)


def ismrmrd_arrays(source: Path, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """The scan of an ISMRMRD file, or else its image, as an .npz would hold it; HDF5 reads it in this process."""
    from koosh_gadgets.convert import archive, recording
    from koosh_gadgets.files import hdf5, opened

    with opened(source) as file, hdf5(source.name):
        holds = any("data" in group and "xml" in group for group in file.values() if hasattr(group, "keys"))
    if holds:
        return archive.scan_arrays(recording.read_recording(source, arguments.trajectory_unit))
    return archive.image_arrays(*one_series(source, arguments.series))


def sizes(values: list[Number] | None) -> tuple[Number, ...] | None:
    """Two or three numbers."""
    if values is not None and len(values) not in (2, 3):
        raise ValueError(f"--matrix and --fov-mm take z y x or y x, got {len(values)} numbers")
    return None if values is None else tuple(values)


def write_scan(target: Path, wanted: str, found: Recording) -> None:
    """Write a scan in the wanted format."""
    from koosh_gadgets.convert import archive, bart, mrd

    if wanted == "BART":
        bart.write_recording(target, found)
    elif wanted == "npz":
        archive.write(target, archive.scan_arrays(found))
    else:
        mrd.write_recording(target, found)


def image_in(source: Path, arguments: argparse.Namespace) -> tuple[np.ndarray, Geometry]:
    """The image that a BART or NIfTI file holds and where it lies."""
    import numpy as np

    from koosh_gadgets.convert import bart
    from koosh_gadgets.geometry import from_affine
    from koosh_gadgets.nifti import read_nifti
    from koosh_models.scan import Geometry

    if kind_of(source) == "NIfTI":
        image, affine = read_nifti(source)
        return image, from_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, image.shape[-3:])
    image = bart.read_image(source)
    fov_mm = sizes(arguments.fov_mm) or tuple(float(n) for n in image.shape[-3:])
    return image, Geometry(image.shape[-3:], fov_mm)


def one_series(source: Path, number: int | None) -> tuple[np.ndarray, Geometry]:
    """The only image series of an ISMRMRD file, or the one that was asked for."""
    from koosh_gadgets.imagefile import read_series

    found = read_series(source)
    numbers = [part.number for part in found]
    if number is None and len(found) > 1:
        raise ValueError(f"{source.name} holds the series {', '.join(map(str, numbers))}; choose one with --series")
    if number is not None and number not in numbers:
        raise ValueError(f"{source.name} has no series {number}; it holds {', '.join(map(str, numbers))}")
    part = found[0] if number is None else found[numbers.index(number)]
    complex_volume = with_phase(source, part.number)
    return part.volume if complex_volume is None else complex_volume.reshape(part.volume.shape), part.geometry


def with_phase(source: Path, number: int) -> np.ndarray | None:
    """(n, z, y, x) complex images of a series by frame and place, None where they are real."""
    import numpy as np

    from koosh_gadgets.files import read_images

    images = [image for image in read_images(source) if image.image_series_index == number]
    if not np.iscomplexobj(images[0].data):
        return None
    images.sort(key=lambda i: (i.repetition, i.phase, i.contrast, i.set, i.average, np.dot(i.position, i.slice_dir)))
    return np.stack([image.data[0] for image in images])


def write_image(target: Path, wanted: str, image: np.ndarray, geometry: Geometry) -> None:
    """Write an image in the wanted format."""
    from koosh_gadgets.convert import archive, bart, mrd
    from koosh_gadgets.nifti import write_nifti

    if wanted == "BART":
        bart.write_image(target, image)
    elif wanted == "npz":
        archive.write(target, archive.image_arrays(image, geometry))
    elif wanted == "NIfTI":
        write_nifti(target, image, geometry)
    else:
        mrd.write_volume(target, image, geometry)
