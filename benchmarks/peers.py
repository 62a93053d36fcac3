"""Peers on the same scan, in a Python of their own: their packages' needs clash with ours.

`python -m venv peers && peers/bin/pip install sigpy mri-nufft finufft torch==2.13.0 torchkbnufft`, then name its
python with `--peers peers/bin/python`. This file runs there: it reads a case and prints seconds as JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def best(run: Callable[[], object], repeats: int = 3) -> float:
    """Fewest CPU seconds after a first run to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def sigpy_pair(omega: Array, maps: Array, weights: Array, x: Array) -> float:
    """sigpy: SENSE forward and adjoint, oversampling 1.25."""
    import sigpy

    coord = (omega * (np.array(x.shape)[:, None] / (2 * np.pi))).T.copy()

    def run() -> None:
        for one in maps:
            y = sigpy.nufft(one * x, coord, oversamp=1.25, width=4) * weights
            sigpy.nufft_adjoint(y, coord, x.shape, oversamp=1.25, width=4)

    return best(run, 1)


def mri_nufft_pair(omega: Array, maps: Array, weights: Array, x: Array) -> float:
    """mri-nufft on finufft at its own settings, eps 1e-3."""
    from mrinufft import get_operator

    samples = (omega / (2 * np.pi)).T.astype(np.float32).copy()
    operator = get_operator("finufft")(samples, x.shape, n_coils=len(maps), smaps=maps, squeeze_dims=True, eps=1e-3)
    return best(lambda: operator.adj_op(operator.op(x) * weights), 2)


def torchkbnufft_toeplitz(omega: Array, maps: Array, weights: Array, x: Array) -> float:
    """torchkbnufft: its Toeplitz normal, all coils at once."""
    import torch
    from torchkbnufft import ToepNufft, calc_toeplitz_kernel

    torch.set_num_threads(1)
    kernel = calc_toeplitz_kernel(torch.from_numpy(omega), list(x.shape), weights=torch.from_numpy(weights)[None])
    image, coils, operator = torch.from_numpy(x)[None, None], torch.from_numpy(maps)[None], ToepNufft()
    with torch.no_grad():
        return best(lambda: operator(image, kernel, smaps=coils), 2)


PEERS = {
    "sigpy pair": ("sigpy", sigpy_pair),
    "mri-nufft pair": ("mrinufft", mri_nufft_pair),
    "torchkbnufft Toeplitz": ("torchkbnufft", torchkbnufft_toeplitz),
}


def normal_seconds(python: str, omega: Array, maps: Array, weights: Array, x: Array) -> dict[str, float]:
    """Seconds of one normal operator of each peer that `python` has; asked from our side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(path, omega=omega, maps=maps, weights=weights, x=x)
        single = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(
            [python, __file__, str(path)], capture_output=True, text=True, env={**single, "PATH": "/usr/bin:/bin"}
        )
    if done.returncode != 0:
        raise SystemExit(f"the peers' run failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """In the peers' Python: run those that are installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", type=Path)
    with np.load(parser.parse_args().case) as case:
        parts = [case[name] for name in ("omega", "maps", "weights", "x")]
    found = {}
    for name, (package, run) in PEERS.items():
        if importlib.util.find_spec(package) is not None:
            found[name] = run(*parts)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
