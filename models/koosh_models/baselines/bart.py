"""BART's reconstructions of the same scan, where `bart` is installed: its files, its commands, its cost."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koosh_models import memory
from koosh_models.scan import Scan

ITERATIONS = 30
LOOK_S = 0.02  # from look to look at how much memory a program holds


@dataclass(frozen=True)
class Run:
    """An image (z, y, x) with its cost: CPU seconds and megabytes at the peak of the process."""

    image: Tensor
    seconds: float
    megabytes: float


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


def export(scan: Scan, maps: Tensor, folder: Path) -> None:
    """k-space, trajectory in cycles per field of view, (coil, z, y, x) maps and the square root of the weights."""
    if scan.weights is None or scan.n_frames is not None or len(scan.geometry.matrix) != 3:
        raise ValueError("BART is asked for single 3D volumes with density weights; this scan is none")
    shape = (scan.readout, scan.n_readouts)
    sizes = torch.tensor(scan.geometry.matrix)[:, None] / (2 * torch.pi)
    k = (scan.omega * sizes).flip(0).numpy().reshape(3, scan.n_readouts, scan.readout).transpose(0, 2, 1)
    samples = scan.kspace.numpy().reshape(scan.n_coils, scan.n_readouts, scan.readout)
    weights = scan.weights.sqrt().numpy().reshape(scan.n_readouts, scan.readout).T
    write(folder / "traj", k)
    write(folder / "ksp", samples.transpose(2, 1, 0)[None])
    write(folder / "maps", maps.numpy().transpose(3, 2, 1, 0))
    write(folder / "weights", weights.reshape(1, *shape))


def pics(folder: Path, options: Sequence[str]) -> Run:
    """`bart pics` with the exported scan, on as many threads as torch has."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["bart", "pics", *options, "-t", "traj", "-p", "weights", "ksp", "maps", "out"]
    peak = watched(command, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    image = torch.from_numpy(np.ascontiguousarray(read(folder / "out").transpose(2, 1, 0)))
    return Run(image, seconds, peak / 2**20)


def watched(command: Sequence[str], folder: Path) -> int:
    """Run a program; the most bytes it was seen to hold. getrusage would begin at what this process holds."""
    peak, environment = 0, {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=environment)
        while process.poll() is None:
            peak = max(peak, memory.peak_of(process.pid))
            time.sleep(LOOK_S)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command[:2])} ended with {process.returncode}: {said.read()[-300:].strip()}")
    return peak


def l1_wavelet(folder: Path, weight: float) -> Run:
    """L1-wavelet of an exported scan by FISTA, its step from the largest eigenvalue, as tuned on heads."""
    return pics(folder, ["-R", f"W:7:0:{weight:g}", "-e", "-i", str(ITERATIONS)])


@contextlib.contextmanager
def exported(scan: Scan, maps: Tensor) -> Iterator[Path]:
    """A folder with the scan in BART's files, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="koosh-bart-") as folder:
        export(scan, maps, Path(folder))
        yield Path(folder)
