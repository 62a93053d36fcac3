"""DICOM: seconds to write and to push to an Orthanc beside storescu, judges' verdicts, geometry: `-m benchmarks.dicom`.

Needs the Debian packages orthanc, dcmtk, dicom3tools and dcm2niix, and highdicom. Both pushes go to one Orthanc on
loopback, one after the other, each with objects it has not seen.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.report import Row, arguments, command, show
from koosh_gadgets.dicom.push import push
from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, header, series
from tests.gadgets.orientations import NAMES
from tests.system.orthanc import Orthanc, orthanc
from tests.system.test_dicom_judges import by_dcm2niix, by_highdicom, complaints

THIS = "benchmarks.dicom"
FORMS = ((False, "classic"), (True, "enhanced"))


def volume(slices: int, number: int) -> Series:
    """A float volume of 256 x 256 slices, as a reconstruction leaves it."""
    pixels = np.random.default_rng(number).random((slices, 256, 256), np.float32)
    return Series(pixels, Geometry((slices, 256, 256), (float(slices), 256.0, 256.0)), META, header(), number)


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def writing(folder: Path, slices: int, full: bool) -> list[Row]:
    """The best of three: others use this machine too."""
    source, rows = volume(slices, 1), []
    for form, name in FORMS:
        places = [folder / f"{name}{k}" for k in range(3)]
        runs = [seconds(lambda place=place, form=form: write_series(source, place, enhanced=form)) for place in places]
        wall, cpu = min(runs)
        goal = ("<= 2 s", wall <= 2) if full else ("", None)
        rows.append(Row(f"write {slices} slices, {name}", wall, "s", *goal, command(THIS)))
        rows.append(Row(f"write {slices} slices, {name}, CPU", cpu, "s", command=command(THIS)))
    return rows


def storescu(server: Orthanc, folder: Path) -> None:
    """The client of dcmtk: one association, one object after the other. (pynetdicom has another of this name.)"""
    program = shutil.which("storescu", path="/usr/bin:/usr/local/bin") or "storescu"
    words = [program, "-aec", "ORTHANC", "+sd", "127.0.0.1", str(server.dicom), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"storescu: {done.stderr}")


def pushing(folder: Path, slices: int, full: bool) -> list[Row]:
    """Classic and enhanced, storescu and ours, with one association and with four."""
    rows = []
    with tempfile.TemporaryDirectory() as database, orthanc(Path(database)) as server:
        for form, name in FORMS:
            sent = [folder / f"{name}-{peer}" for peer in ("storescu", "one", "four")]
            files = [write_series(volume(slices, 10 + k), path, enhanced=form) for k, path in enumerate(sent)]
            peer, _ = seconds(lambda sent=sent: storescu(server, sent[0]))
            one, _ = seconds(lambda files=files: push(files[1], replace(server.archive, lanes=1)))
            four, cpu = seconds(lambda files=files: push(files[2], server.archive))
            title, how = f"push {slices} slices, {name}", command(THIS)
            goal = ("<= 2 s", four <= 2) if form else ("<= 1.1 x storescu", four <= 1.1 * peer)
            rows.append(Row(f"{title}, storescu", peer, "s", command=how))
            rows.append(Row(f"{title}, 1 association", one, "s", command=how))
            rows.append(Row(f"{title}, as shipped", four, "s", *goal if full else ("", None), how))
            rows.append(Row(f"{title}, as shipped / storescu", four / peer, "x", command=how))
            rows.append(Row(f"{title}, as shipped, CPU", cpu, "s", command=how))
    return rows


def judging(folder: Path) -> list[Row]:
    """Errors and warnings of dciodvfy and dcentvfy over 12 orientations in both forms."""
    rows = []
    for form in (False, True):
        found, objects = 0, 0
        for name in NAMES:
            files = write_series(series(name), folder / f"judge-{name}-{form}", enhanced=form)
            found += sum(len(complaints("dciodvfy", "-new", file)) for file in files)
            found += len(complaints("dcentvfy", *files))
            objects += len(files)
        title = f"errors and warnings in {objects} {'enhanced' if form else 'classic'} objects"
        rows.append(Row(title, found, "", "0", found == 0, command(THIS)))
    return rows


def distance(source: Series, affine: np.ndarray) -> float:
    """Largest distance in voxels of a corner from a voxel of the source."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in source.geometry.matrix[::-1]))).reshape(3, -1).T
    places = corners @ affine[:3, :3].T + affine[:3, 3]
    geometry = source.geometry
    axes = np.array([geometry.read_dir, geometry.phase_dir, geometry.slice_dir])
    index = (places - geometry.position_mm) @ axes.T / np.array(geometry.voxel_mm[::-1])
    return float(np.abs(index - np.rint(index)).max())


def placing(folder: Path) -> list[Row]:
    """The largest error of place over 12 orientations, as dcm2niix and highdicom read it."""
    rows = []
    for judge in (by_dcm2niix, by_highdicom):
        for form in (False, True):
            worst = 0.0
            for name in NAMES:
                path = folder / f"place-{judge.__name__}-{name}-{form}"
                source = series(name)
                write_series(source, path, enhanced=form)
                worst = max(worst, distance(source, judge(path)[1]))
            title = f"geometry, {'enhanced' if form else 'classic'}, {judge.__name__.replace('_', ' ')}"
            rows.append(Row(title, worst, "voxel", "<= 1e-4", worst <= 1e-4, command(THIS)))
    return rows


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__ or "").parse_args()
    slices = 32 if given.quick else 256
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        rows = writing(place, slices, not given.quick) + judging(place) + placing(place)
        rows += pushing(place, slices, not given.quick)
    show(rows, given.json)


if __name__ == "__main__":
    main()
