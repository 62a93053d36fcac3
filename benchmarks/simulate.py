"""Simulating a scan and moving it through files: CPU seconds, and ratios to reading readout by readout."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import ismrmrd
import numpy as np

from benchmarks.problem import one_thread
from benchmarks.report import Row, arguments, command, show
from koosh_gadgets.files import open_scan
from koosh_models.simulation.coils import loop_maps
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.recordfile import write_scan
from koosh_models.simulation.simulate import Simulated, simulate
from koosh_models.simulation.trajectories import Trajectory, trajectory

GOAL_S = 10.0
COILS = 8


def timed(rows: list[Row], name: str, run: Callable[[], object]) -> float:
    """Run once, keep its CPU seconds as a row."""
    start = time.process_time()
    run()
    seconds = time.process_time() - start
    rows.append(Row(name, seconds, "CPU s", command=command("benchmarks.simulate")))
    return seconds


def whole(size: int, acceleration: float, path: Path) -> tuple[Simulated, Trajectory]:
    """Anatomy, coils, trajectory, noise and file: what `koosh simulate` does."""
    matrix = (size, size, size)
    head, spokes = phantom("head", matrix), trajectory("radial3d", matrix, acceleration)
    made = simulate(head.image, spokes, mask=head.mask, n_coils=COILS)
    write_scan(path, made, spokes)
    return made, spokes


def parts(rows: list[Row], size: int, acceleration: float, path: Path) -> None:
    """What the whole is made of, and reading the file back."""
    matrix = (size, size, size)
    head, spokes, maps = phantom("head", matrix), trajectory("radial3d", matrix, acceleration), loop_maps(matrix, COILS)
    made = simulate(head.image, spokes, mask=head.mask, maps=maps)
    timed(rows, "  phantom", lambda: phantom("head", matrix))
    timed(rows, "  coil maps", lambda: loop_maps(matrix, COILS))
    timed(rows, "  k-space and noise", lambda: simulate(head.image, spokes, mask=head.mask, maps=maps))
    timed(rows, "  file", lambda: write_scan(path, made, spokes))
    ours = timed(rows, "read in slabs", lambda: read_slabs(path))
    theirs = timed(rows, "read by ismrmrd, one by one", lambda: read_singly(path))
    rows.append(Row("ratio", theirs / ours, "x faster", command=command("benchmarks.simulate")))


def read_slabs(path: Path) -> float:
    """The file by blocks."""
    with open_scan(path) as scan:
        return sum(float(np.abs(block.data[0, 0, 0])) for block in scan.blocks())


def read_singly(path: Path) -> float:
    """The file by `Dataset.read_acquisition`."""
    with closing(ismrmrd.Dataset(path, create_if_needed=False)) as data:
        return sum(float(np.abs(data.read_acquisition(i).data[0, 0])) for i in range(data.number_of_acquisitions()))


def main() -> None:
    """Measure and show."""
    options = arguments(__doc__ or "").parse_args()
    one_thread()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        phantom("head", (16, 16, 16))  # torch's first calls are not the simulation's time
        seconds = timed(rows, "simulate 96^3, 8 coils, R = 12, to a file", lambda: whole(96, 12, path))
        rows[-1] = Row(rows[-1].name, seconds, "CPU s", f"<= {GOAL_S:g} s", seconds <= GOAL_S, rows[-1].command)
        parts(rows, 96, 12, path)
        if not options.quick:
            timed(rows, "simulate 160^3, 8 coils, R = 12, to a file", lambda: whole(160, 12, path))
    show(rows, options.json)


if __name__ == "__main__":
    main()
