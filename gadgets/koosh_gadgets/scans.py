"""ISMRMRD files as scans for `koosh_models`, and its images as files: the way in and out for a program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from koosh_models.scan import Geometry, Scan


def read_scans(path: str | Path, matrix: int = 0) -> Iterator[Scan]:
    """Every volume of an ISMRMRD file (or of a spooled scan), whitened, its trajectory in rad/voxel.

    The phases of a 2D slice come together, as one series.

    matrix  voxels along each axis over the encoded field of view; 0: the header's
    """
    from koosh_gadgets.pipeline import Job
    from koosh_gadgets.replay import open_recorded
    from koosh_gadgets.settings import Settings
    from koosh_gadgets.stages.frames import joined, stacked
    from koosh_gadgets.stages.grid import grid, scan_of

    with open_recorded(Path(path)) as (header, items, journal, _):
        job = Job(header, Settings(matrix=matrix), journal)
        for volumes in joined(job.volumes(items)):
            scans = [scan_of(volume, grid(volume.encoding, matrix), journal) for volume in volumes]
            yield stacked(scans) if len(scans) > 1 else scans[0]


def write_image(path: str | Path, image: Tensor | np.ndarray, geometry: Geometry) -> None:
    """Write an image where it lies in the patient; the name's ending is the format: .h5, .nii, .nii.gz, .npz or .cfl.

    image  (z, y, x), (y, x) or with a leading frame axis; NIfTI takes the magnitude of a complex one
    """
    import numpy as np

    from koosh_gadgets.commands.convert import kind_of
    from koosh_gadgets.commands.convert import write_image as write

    target, values = Path(path), np.asarray(image)
    kind = kind_of(target)
    write(target, kind, np.abs(values) if kind == "NIfTI" and np.iscomplexobj(values) else values, geometry)
