"""BART on the same scan: files in its layout and units, its commands, its CPU time."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.problem import Case


def installed() -> bool:
    """Whether the command `bart` is there (Debian's package bart)."""
    return shutil.which("bart") is not None


def write(path: Path, array: NDArray[np.complex64]) -> None:
    """A .cfl/.hdr pair; `array` has BART's dimensions in order, the first running fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read(path: Path) -> NDArray[np.complex64]:
    """The array of a .cfl/.hdr pair, without trailing axes of one."""
    shape = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    data = np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F")
    return data.reshape(shape[: max(i for i, n in enumerate(shape) if n > 1) + 1])


@dataclass(frozen=True)
class Run:
    """An image (z, y, x) with its cost."""

    image: Tensor
    seconds: float
    megabytes: float


def export(case: Case, folder: Path) -> None:
    """k-space, trajectory in cycles per field of view, maps and the square root of the weights."""
    scan, (nz, ny, nx) = case.scan, case.scan.geometry.matrix
    shape = (scan.readout, scan.n_readouts)
    sizes = torch.tensor([nz, ny, nx])[:, None] / (2 * torch.pi)
    k = (scan.omega * sizes).flip(0).numpy().reshape(3, scan.n_readouts, scan.readout).transpose(0, 2, 1)
    samples = scan.kspace.numpy().reshape(scan.n_coils, scan.n_readouts, scan.readout)
    assert scan.weights is not None
    weights = scan.weights.sqrt().numpy().reshape(scan.n_readouts, scan.readout).T
    write(folder / "traj", k)
    write(folder / "ksp", samples.transpose(2, 1, 0)[None])
    write(folder / "maps", case.maps.numpy().transpose(3, 2, 1, 0))
    write(folder / "weights", weights.reshape(1, *shape))


def pics(folder: Path, options: Sequence[str]) -> Run:
    """`bart pics` with the exported scan; CPU seconds and peak memory of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["bart", "pics", *options, "-t", "traj", "-p", "weights", "ksp", "maps", "out"]
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    image = torch.from_numpy(np.ascontiguousarray(read(folder / "out").transpose(2, 1, 0)))
    return Run(image, seconds, after.ru_maxrss / 1024)
