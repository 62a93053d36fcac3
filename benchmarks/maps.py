"""Coil maps: exactness, time and memory of every method, beside BART's ecalib: `-m benchmarks.maps`."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import torch
from torch import Tensor

from benchmarks.problem import Case, one_thread, radial
from benchmarks.report import Row, arguments, command, show
from koosh_models.baselines import bart
from koosh_models.calibration import density
from koosh_models.calibration.maps import CoilMaps, angle
from koosh_models.reconstruction import MAPS, calibrate
from koosh_models.scan import Geometry, Scan
from koosh_models.simulation.cartesian import lines_to_omega
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory
from koosh_models.simulation.volumes import anatomy, load

THIS = "benchmarks.maps"
DATA = Path(__file__).parents[1].parent / "shared/data"
HEADS = ("brain_t1_eun", "head_t1_uih")


def seen(case: Case) -> Tensor:
    """Where there is anatomy."""
    return case.truth.abs() > 0.05


def measured_head(path: Path, size: int) -> Case:
    """A scan of a real anatomy."""
    head = anatomy(load(path), (size, size, size), vary=False)
    path3d = trajectory("radial3d", (size, size, size), 12)
    made = simulate(head.image, path3d, mask=head.mask)
    scan = replace(made.scan, weights=density.pipe_menon(path3d.omega, (size, size, size)))
    return Case(scan, made.truth, made.maps, made.mask)


def rows_of(case: Case, name: str, judge: bool) -> list[Row]:
    """Angle, time, memory and what the mask cuts, for every method; the goals are those of the default."""
    rows = []
    for method in MAPS:
        start = time.process_time()
        found = calibrate(case.scan, method)
        seconds = time.process_time() - start
        error = angle(found.maps.coils(0, case.scan.n_coils), case.maps, seen(case))
        cut = float((seen(case) & ~found.mask).sum() / seen(case).sum())
        goal = judge and method == "joint"
        label = f"{name}, {method}"
        rows += [
            Row(f"{label}: rms angle", error, "", "<= 0.020" * goal, error <= 0.02 if goal else None, command(THIS)),
            Row(f"{label}: time", seconds, "s", "<= 5" * goal, seconds <= 5 if goal else None, command(THIS)),
            Row(f"{label}: anatomy cut", 100 * cut, "%", "", None, command(THIS)),
        ]
    grown = megabytes(case.scan)
    return [*rows, Row(f"{name}, joint: memory", grown, "MB", "< 500" * judge, grown < 500 if judge else None)]


def megabytes(scan: Scan) -> float:
    """By how much the default method makes a fresh process grow."""
    # ru_maxrss would begin at what the parent held, the high-water mark of /proc begins anew
    code = (
        "import sys, torch; from koosh_models.reconstruction import calibrate; torch.set_num_threads(1);"
        "status = lambda name: int(open('/proc/self/status').read().split(name + ':')[1].split()[0]);"
        "scan = torch.load(sys.argv[1], weights_only=False); import finufft, ducc0; before = status('VmRSS');"
        "calibrate(scan); print((status('VmHWM') - before) / 1024)"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.pt"
        torch.save(scan, file)
        out = subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True, text=True)
    return float(out.stdout)


def beside_bart(case: Case, name: str, size: int) -> list[Row]:
    """BART: least-squares gridding of the centre, then ecalib."""
    with tempfile.TemporaryDirectory(prefix="koosh-bart-") as made:
        folder = Path(made)
        bart.export(case.scan, case.maps, folder)
        small = min(size, 32)
        dims = ":".join([str(small)] * 3)
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        for words in (
            ["nufft", "-i", "-d", dims, "traj", "ksp", "low"],
            ["fft", "-u", "7", "low", "cells"],
            ["resize", "-c", *[str(v) for axis in range(3) for v in (axis, size)], "cells", "wide"],
            ["ecalib", "-m", "1", "-r", "24", "wide", "esp"],
        ):
            environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin"}
            subprocess.run(["bart", *words], cwd=folder, check=True, capture_output=True, env=environment)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        theirs = torch.from_numpy(np.ascontiguousarray(bart.read(folder / "esp").transpose(3, 2, 1, 0)))
    seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    both = seen(case) & (theirs.norm(dim=0) > 0.5)
    return [
        Row(f"{name}, BART ecalib: rms angle where it has maps", angle(theirs, case.maps, both), "", "", None),
        Row(f"{name}, BART ecalib: time", seconds, "s", "", None),
        Row(f"{name}, BART ecalib: anatomy cut", 100 * float(1 - both.sum() / seen(case).sum()), "%", "", None),
    ]


def recorded(path: Path) -> tuple[Scan, Tensor]:
    """A fully sampled Cartesian scan of one slice, and its coil images (coil, y, x)."""
    data = ismrmrd.Dataset(str(path), "dataset", create_if_needed=False)
    readouts = [data.read_acquisition(i) for i in range(data.number_of_acquisitions())]
    readouts = [r for r in readouts if not r.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    steps = torch.tensor([r.idx.kspace_encode_step_1 for r in readouts])
    lines = torch.from_numpy(np.stack([r.data for r in readouts]).astype(np.complex64))
    order = steps.argsort(stable=True)
    n_y, n_x = int(steps.max()) + 1, lines.shape[2]
    if len(order) != n_y:
        raise SystemExit(f"{path.name}: {len(order)} lines for {n_y} steps; this table wants one fully sampled slice")
    grid = lines[order].movedim(1, 0).contiguous()
    omega = lines_to_omega(torch.arange(n_y)[:, None], (n_y, n_x))
    images = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(grid, dim=(1, 2)), norm="ortho"), dim=(1, 2))
    scan = Scan(grid.flatten(1), omega, Geometry((n_y, n_x), (float(n_y), float(n_x))), n_x)
    return replace(scan, weights=density.pipe_menon(omega, (n_y, n_x))), images


def unexplained(found: CoilMaps, images: Tensor) -> float:
    """Energy of the object's full-resolution coil images that lies off the maps: noise, and errors of the maps."""
    dense = found.maps.coils(0, len(images))
    rss = images.norm(dim=0)
    bright = rss > 0.15 * torch.quantile(rss, 0.99)
    off = images - dense * (dense.conj() * images).sum(0)
    return float((off[:, bright].abs().square().sum() / images[:, bright].abs().square().sum()).sqrt())


def real(path: Path) -> list[Row]:
    """Every method on a measured scan: the share of its image that the maps can't hold."""
    scan, images = recorded(path)
    return [
        Row(
            f"{path.stem}, {method}: off the maps", unexplained(calibrate(scan, method), images), "of |image|", "", None
        )
        for method in MAPS
    ]


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "").parse_args()
    one_thread()
    size = 48 if options.quick else 96
    case = radial(size, acceleration=6 if options.quick else 12)
    rows = rows_of(case, f"phantom {size}^3", True)
    if not options.quick:
        for name in HEADS:
            if (path := DATA / f"volumes/{name}.npz").exists():
                rows += rows_of(measured_head(path, size), f"{name} {size}^3", True)
    rows += [row for path in sorted((DATA / "raw").glob("cart2d*.h5")) for row in real(path)]
    if bart.installed() and not options.quick:
        rows += beside_bart(case, f"phantom {size}^3", size)
    show([replace(row, command=command(THIS)) for row in rows], options.json)


if __name__ == "__main__":
    main()
