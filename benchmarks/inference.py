"""Memory and CPU seconds of the network beside L1-wavelet, stage by stage: `python -m benchmarks.inference`.

Each scan is simulated in one process and reconstructed in two others, as at the scanner. The first gives the seconds;
the second returns what it frees at once, and its memory is counted above what it holds once everything is imported: the
scan itself counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import Row, arguments, command, show
from koosh_gadgets.workers import environment

THIS = "benchmarks.inference"
GOAL_MB = {160: 1024.0}
CALIBRATION = ("density weights", "coil maps")
COILS, ACCELERATION, NOISE = 8, 12.0, 0.02


def child(*words: str, lean: bool = False) -> str:
    """The last line that a process of this module printed, one thread; lean: freed memory leaves it, slowly."""
    env = {**environment(), "OMP_NUM_THREADS": "1", **({"MALLOC_MMAP_THRESHOLD_": "131072"} if lean else {})}
    done = subprocess.run([sys.executable, "-m", THIS, *words], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def make(path: Path, n: int) -> None:
    """Write the head phantom's scan with its truth."""
    from safetensors.torch import save_file

    from koosh_models.simulation.phantoms import phantom
    from koosh_models.simulation.simulate import simulate
    from koosh_models.simulation.trajectories import trajectory

    body = phantom("head", (n,) * 3)
    spokes = trajectory("radial3d", (n,) * 3, ACCELERATION)
    made = simulate(body.image, spokes, mask=body.mask, n_coils=COILS, noise=NOISE)
    scan = made.scan
    tensors = {"kspace": scan.kspace, "omega": scan.omega, "truth": made.truth, "mask": made.mask}
    save_file({k: t.contiguous() for k, t in tensors.items()}, path, {"readout": str(scan.readout)})
    print(path)


def widened(weight: str, folder: Path) -> str:
    """A copy of the weights whose card takes any matrix and voxel: what it costs is asked, not whether it is good."""
    from koosh_models import weights

    network, card = weights.load(weight)
    accepts = card.accepts.model_copy(update={"matrix": (1.0, 4096.0), "voxel_mm": (0.01, 100.0)})
    weights.save(folder / "wide.safetensors", network, card.model_copy(update={"accepts": accepts}))
    return str(folder / "wide.safetensors")


def measured(path: Path, method: str, allowed: int, weight: str) -> dict[str, Any]:
    """Stage -> (CPU seconds, bytes above the imports), the size of the object's box, PSNR."""
    import dataclasses
    import time

    import numpy as np
    import torch
    from safetensors import safe_open

    from koosh_gadgets.settings import Settings
    from koosh_gadgets.stages import calibrate, network
    from koosh_gadgets.stages.journal import Journal
    from koosh_gadgets.stages.reconstruct import calibrated, reconstruct
    from koosh_gadgets.worker import warm_transform
    from koosh_models import memory, metrics, reconstruction
    from koosh_models.scan import Geometry, Scan

    assert reconstruction.METHODS
    weight = widened(weight, path.parent)  # with all that reading weights imports
    torch.set_num_threads(1)
    warm_transform(torch.device("cpu"))
    memory.give_back()
    base, stages = memory.resident(), {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        memory.forget_peak()
        begun = time.process_time()
        found = work()
        stages[name] = (time.process_time() - begun, memory.peak() - base)
        return found

    def read() -> Scan:
        with safe_open(str(path), framework="pt") as file:
            kspace, omega = (file.get_tensor(name).clone() for name in ("kspace", "omega"))
            matrix = tuple(file.get_slice("truth").get_shape())
            return Scan(kspace, omega, Geometry(matrix, (240.0,) * 3), int(file.metadata()["readout"]))

    journal = Journal()
    settings = Settings(method=method, memory=allowed, weights=weight)
    scan = stage("scan", read)
    numbers = np.arange(scan.n_readouts)
    scan = stage("density weights", lambda: calibrate.weighted(scan, numbers, settings, journal, None))
    maps = stage("coil maps", lambda: calibrate.maps_of(scan, journal))
    if method == "unrolled":
        stage("weights", lambda: network.chosen(scan, settings))
    ready = stage("problem", lambda: calibrated(scan, maps, settings, journal))
    outcome = stage("solve", lambda: reconstruct(ready, settings, journal))
    with safe_open(str(path), framework="pt") as file:
        score = metrics.psnr(outcome.volume, file.get_tensor("truth"), file.get_tensor("mask"))
    box = list(ready.box.size) if ready.box is not None else []
    return {"stages": stages, "psnr": score, "box": box, "method": outcome.method, "reason": outcome.reason,
            "plan": dataclasses.asdict(ready.cut), "notes": journal.notes}  # fmt: skip


def rows_of(n: int, name: str, found: dict[str, Any]) -> list[Row]:
    """Every stage, the peak, the seconds with and without calibration."""
    told = f"{n}^3, {name}"
    if found["reason"]:
        told += f" (by {found['method']}: {found['reason']})"
    stages = {stage: (float(s), float(b) / 2**20) for stage, (s, b) in found["stages"].items()}
    rows = [Row(f"{told}: {stage}, CPU", s, "s", command=command(THIS)) for stage, (s, _) in stages.items()]
    rows += [Row(f"{told}: {stage}, peak", mb, "MiB", command=command(THIS)) for stage, (_, mb) in stages.items()]
    peak, goal = max(mb for _, mb in stages.values()), GOAL_MB.get(n) if name == "unrolled" else None
    wanted = ("", None) if goal is None else (f"<= {goal:g} MiB", peak <= goal)
    rows.append(Row(f"{told}: peak above the imports", peak, "MiB", *wanted, command(THIS)))
    rows.append(
        Row(f"{told}: calibration", sum(stages[s][0] for s in CALIBRATION), "s of CPU", "", None, command(THIS))
    )
    rows.append(Row(f"{told}: reconstruction", seconds(found), "s of CPU", "", None, command(THIS)))
    rows.append(Row(f"{told}: PSNR", found["psnr"], "dB", "", None, command(THIS)))
    return rows


def seconds(found: dict[str, Any]) -> float:
    """CPU seconds of problem and solution, without calibration."""
    return float(found["stages"]["problem"][0] + found["stages"]["solve"][0])


def compare(n: int, methods: list[str], allowed: int, weight: str, kept: Path | None) -> list[Row]:
    """All methods on one scan, and how much longer each takes than the network."""
    rows, found = [], {}
    with tempfile.TemporaryDirectory(prefix="koosh-inference-") as folder:
        path = (kept or Path(folder)) / f"scan{n}.safetensors"
        if not path.is_file():
            child("make", str(path), str(n))
        for method in methods:
            budget = allowed if method == "unrolled" else 0  # the others are to run, whatever they take
            words = ("measure", str(path), method, str(budget), weight)
            found[method], held = json.loads(child(*words)), json.loads(child(*words, lean=True))
            for stage, (_, most) in held["stages"].items():
                found[method]["stages"][stage][1] = most
            rows += rows_of(n, method, found[method])
            print(f"{n}^3, {method}: box {found[method]['box']}, {found[method]['plan']}", file=sys.stderr)
    for method in methods:
        if method != "unrolled" and "unrolled" in found:
            ratio = seconds(found[method]) / seconds(found["unrolled"])
            rows.append(Row(f"{n}^3: {method} / unrolled", ratio, "x time", command=command(THIS)))
    return rows


def main() -> None:
    """Run and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 160], help="voxels a side (%(default)s)")
    parser.add_argument("--methods", nargs="+", default=["unrolled", "l1"])
    parser.add_argument("--memory", type=int, default=1000, metavar="MIB", help="budget of the network (%(default)s)")
    parser.add_argument("--scans", type=Path, metavar="FOLDER", help="where the simulated scans are kept")
    parser.add_argument("--weights", default="radial3d", help="of the network")
    options = parser.parse_args()
    sizes = [48] if options.quick else options.sizes
    rows = []
    for n in sizes:
        rows += compare(n, options.methods, options.memory, options.weights, options.scans)
    show(rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        print(json.dumps(measured(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])))
    else:
        main()
