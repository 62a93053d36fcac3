"""`koosh simulate`: a scan of a known truth as an ISMRMRD file."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from koosh_models.scan import Geometry, Vector
    from koosh_models.simulation.phantoms import Phantom
    from koosh_models.simulation.simulate import Simulated
    from koosh_models.simulation.trajectories import Trajectory
    from koosh_models.simulation.volumes import Volume

log = logging.getLogger(__name__)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("simulate", help="write a simulated scan as an ISMRMRD file", description=__doc__)
    p.add_argument("out", metavar="OUT.h5", help="ISMRMRD file to write")
    p.add_argument("--volume", metavar="FILE", help="anatomy from an .npz or NIfTI volume instead of a phantom")
    p.add_argument("--anatomy", default="head", help="phantom: head, knee, chest, abdomen, vessels, cine (%(default)s)")
    p.add_argument("--matrix", type=int, nargs="+", default=[96], metavar="N", help="one size, or z y x (%(default)s)")
    p.add_argument("--fov-mm", type=float, help="field of view of the longest axis (240, or the volume's)")
    p.add_argument("--trajectory", default="radial3d", help="family (%(default)s)")
    p.add_argument("--acceleration", type=float, default=12.0, metavar="R", help="(%(default)s)")
    p.add_argument("--frames", type=int, default=16, help="of a dynamic trajectory (%(default)s)")
    p.add_argument("--coils", type=int, default=8, help="(%(default)s)")
    p.add_argument("--noise", type=float, default=0.02, help="share of the mean signal (%(default)s)")
    p.add_argument("--noise-correlation", type=float, default=0.0, help="between neighbouring coils (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    p.add_argument("--position", type=float, nargs=3, default=(0, 0, 0), metavar="MM", help="centre, LPS")
    p.add_argument(
        "--orientation", type=float, nargs=3, default=(0, 0, 0), metavar="DEG", help="turn about x, then y, then z, LPS"
    )
    wrong = p.add_argument_group("what goes wrong in a scanner (all off by default)")
    wrong.add_argument("--off-resonance", type=float, default=0.0, metavar="HZ", help="peak of a smooth field map")
    wrong.add_argument("--delays", type=float, nargs=3, default=(0, 0, 0), metavar="X", help="x y z, in samples")
    wrong.add_argument(
        "--motion", type=float, nargs=2, default=(0, 0), metavar=("VOXELS", "DEGREES"), help="rigid, peak"
    )
    wrong.add_argument("--breathing", type=float, default=0.0, metavar="VOXELS", help="along z with every breath")
    p.add_argument("--truth", metavar="TRUTH.npz", help="also write image, mask and coil maps")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Simulate and write; the parts that need torch are imported here."""
    from koosh_models.simulation.header import Protocol
    from koosh_models.simulation.recordfile import write_scan
    from koosh_models.simulation.trajectories import FAMILIES_2D, trajectory

    if arguments.seed < 0:
        raise ValueError(f"the seed is {arguments.seed}; wanted 0 or more")
    matrix = matrix_of(arguments.matrix, 2 if arguments.trajectory in FAMILIES_2D else 3)
    path = trajectory(arguments.trajectory, matrix, arguments.acceleration, arguments.seed, arguments.frames)
    body = "HEAD" if arguments.volume else arguments.anatomy.upper()
    protocol = Protocol(body_part=body, correlation=arguments.noise_correlation)
    simulated = scanned(arguments, path, matrix, protocol.dwell_us)
    write_scan(arguments.out, simulated, path, protocol, arguments.seed)
    if arguments.truth:
        write_truth(Path(arguments.truth), simulated)
    frames = "" if path.n_frames is None else f" in each of {path.n_frames} frames"
    sys.stdout.write(
        f"{arguments.out}: {path.family}, {path.n_readouts} readouts of {path.readout} samples{frames}, "
        f"{arguments.coils} coils, matrix {' x '.join(map(str, matrix))}\n"
    )
    return 0


def scanned(arguments: argparse.Namespace, path: Trajectory, matrix: tuple[int, ...], dwell_us: float) -> Simulated:
    """The simulated scan that the arguments ask for."""
    from koosh_models.simulation.imperfections import Imperfections
    from koosh_models.simulation.simulate import simulate

    anatomy, fov_mm = anatomy_of(arguments, matrix, path.n_frames)
    wrong = Imperfections(
        off_resonance_hz=arguments.off_resonance, dwell_us=dwell_us, delays=vector(arguments.delays),
        motion_voxels=arguments.motion[0], motion_degrees=arguments.motion[1], breathing_voxels=arguments.breathing,
    )  # fmt: skip
    return simulate(
        anatomy.image, path, mask=anatomy.mask, n_coils=arguments.coils, noise=arguments.noise,
        seed=arguments.seed, geometry=geometry_of(arguments, matrix, fov_mm), imperfections=wrong,
    )  # fmt: skip


def matrix_of(sizes: list[int], n_axes: int) -> tuple[int, ...]:
    """(z, y, x) or (y, x) from what was given: one size for all axes, or each."""
    matrix = tuple(sizes) * n_axes if len(sizes) == 1 else tuple(sizes)
    if len(matrix) != n_axes or not all(4 <= n <= 1024 for n in matrix):
        raise ValueError(f"--matrix {' '.join(map(str, sizes))}: wanted one size or {n_axes}, each from 4 to 1024")
    return matrix


def anatomy_of(arguments: argparse.Namespace, matrix: tuple[int, ...], n_frames: int | None) -> tuple[Phantom, float]:
    """The image to scan, still or moving as the trajectory needs, and the field of view of its longest axis in mm."""
    from koosh_models.simulation import volumes
    from koosh_models.simulation.phantoms import phantom

    if arguments.volume is None:
        name = arguments.anatomy if n_frames is None else "cine"
        return phantom(name, matrix, arguments.seed, n_frames or 1), arguments.fov_mm or 240.0
    if n_frames is not None:
        raise ValueError(f"{arguments.volume} is one still volume, but {arguments.trajectory} needs frames")
    path = Path(arguments.volume)
    volume = volumes.load(path) if path.suffix == ".npz" else from_nifti(path)
    step = volumes.step_mm(volume.data, volume.voxel_mm, matrix)
    still = volumes.anatomy(volume, matrix, arguments.seed, vary=False)
    return still, arguments.fov_mm or step * max(matrix)


def from_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file, its axes turned to the nearest of LPS."""
    import numpy as np

    from koosh_gadgets.nifti import read_nifti
    from koosh_models.simulation.volumes import prepared, split_of

    image, affine = read_nifti(path)
    if image.ndim != 3:
        raise ValueError(f"{path.name} has shape {image.shape}; wanted one volume of three axes")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    rows = np.abs(affine[:3, :3] / size)
    # which index axis (x, y, z of the file) runs along each world axis
    order = [int(np.argmax(rows[world])) for world in range(3)]
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"{path.name} is turned by more than 45 degrees about two axes; resample it first")
    turned = np.transpose(image, [2 - order[2], 2 - order[1], 2 - order[0]])
    for world, axis in ((0, 2), (1, 1), (2, 0)):
        # RAS to LPS: x and y grow to the left and to the back
        if (affine[world, order[world]] < 0) == (world == 2):
            turned = np.flip(turned, axis)
    voxel = [float(size[order[world]]) for world in (2, 1, 0)]
    return prepared(np.ascontiguousarray(turned), voxel, False, 1.0, path.name.split(".")[0], split_of(path))


def geometry_of(arguments: argparse.Namespace, matrix: tuple[int, ...], fov_mm: float) -> Geometry:
    """Cubic voxels, centred and turned as asked."""
    import numpy as np

    from koosh_models.scan import Geometry

    voxel = fov_mm / max(matrix)
    x, y, z = np.deg2rad(arguments.orientation)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    read, phase, normal = (vector(column) for column in (about_z @ about_y @ about_x).T)
    position = vector(arguments.position)
    return Geometry(matrix, tuple(n * voxel for n in matrix), position, read, phase, normal, slice_mm=5.0)


def vector(values: Iterable[float]) -> Vector:
    """Three plain numbers."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def write_truth(path: Path, simulated: Simulated) -> None:
    """`image`, `mask`, `maps` and the noise `sigma` as .npz, whole or not at all."""
    import numpy as np

    from koosh_gadgets.atomic import atomic_file

    with atomic_file(path) as file:
        np.savez(
            file,
            image=simulated.truth.numpy(),
            mask=simulated.mask.numpy(),
            maps=simulated.maps.numpy(),
            sigma=simulated.sigma,
        )
