"""What the memory budget foresees, beside what a reconstruction takes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.promises.found import Found
from koosh_gadgets.workers import environment


def child(n: int, coils: int, acceleration: float, method: str) -> dict[str, tuple[int, int]]:
    """Stage -> (foreseen, taken) bytes, measured in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.promises.plan", str(n), str(coils), str(acceleration), method]
    env = {
        **environment(),
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "OMP_NUM_THREADS": "1",
    }  # what is freed leaves the process
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(n: int, coils: int, acceleration: float, method: str) -> dict[str, tuple[int, int]]:
    """The stages of one reconstruction, one after the other."""
    import dataclasses

    import numpy as np

    from koosh_gadgets.settings import Settings
    from koosh_gadgets.stages import budget, calibrate
    from koosh_gadgets.stages.journal import Journal
    from koosh_gadgets.stages.reconstruct import calibrated, reconstruct
    from koosh_models import memory
    from koosh_models.simulation.phantoms import phantom
    from koosh_models.simulation.simulate import simulate
    from koosh_models.simulation.trajectories import trajectory

    anatomy = phantom("head", (n,) * 3)
    made = simulate(anatomy.image, trajectory("radial3d", (n,) * 3, acceleration), mask=anatomy.mask, n_coils=coils)
    scan = dataclasses.replace(made.scan, weights=None)
    del made, anatomy
    gc.collect()
    journal, settings, base, taken = Journal(), Settings(method=method, memory=1 << 20), memory.resident(), {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        memory.forget_peak()
        found = work()
        taken[name] = memory.peak() - base
        return found

    numbers = np.arange(scan.n_readouts)
    scan = stage("density weights", lambda: calibrate.weighted(scan, numbers, settings, journal, None))
    maps = stage("coil maps", lambda: calibrate.maps_of(scan, journal))
    ready = stage("problem", lambda: calibrated(scan, maps, settings, journal))
    stage(f"solve {method}", lambda: reconstruct(ready, settings, journal))
    foreseen = budget.needs(budget.size_of(scan, ready.box), method)
    if method == "gridding":
        foreseen["solve gridding"] = foreseen.pop("problem")
    return {name: (foreseen[name], taken[name]) for name in foreseen if name in taken}


def planned(full: bool) -> Found:
    """The peaks of each stage against what was foreseen."""
    cases = [(64, 8, 6.0, "l1"), (64, 4, 6.0, "gridding"), (64, 16, 2.0, "cg"), (96, 8, 12.0, "l1")] if full else []
    parts, worst = [], []
    for case in cases or [(32, 4, 6.0, "cg")]:
        table = child(*case)
        ratio = max(f for f, _ in table.values()) / max(t for _, t in table.values())
        worst.append(ratio)
        foreseen, taken = (max(pair[k] for pair in table.values()) >> 20 for k in (0, 1))
        parts.append(f"{case[0]}^3 x {case[1]} coils {case[3]}: {foreseen} MiB foreseen, {taken} taken")
    return Found(min(worst) >= 0.9 if full else True, "; ".join(parts))


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])))
