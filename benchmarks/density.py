"""Density weights: time and the gridded image of every way to find them: `-m benchmarks.density`."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problem import Case, one_thread, radial
from benchmarks.report import Row, arguments, command, show
from koosh_models.calibration import density
from koosh_models.metrics import nrmse, psnr
from koosh_models.physics.engines import available
from koosh_models.physics.nufft import Nufft

THIS = "benchmarks.density"


def plain(omega: Tensor, matrix: tuple[int, ...], iterations: int) -> Tensor:
    """Pipe and Menon's iteration from ones, without our finer start."""
    local, weights = density.density_of(omega, matrix), torch.ones_like(omega[0])
    for _ in range(iterations):
        weights = weights / local(weights).clamp_min(1e-12)
    return weights


def sigpy_weights(omega: Tensor, matrix: tuple[int, ...], iterations: int) -> Tensor:
    """Weights by sigpy."""
    import numpy as np
    from sigpy.mri import pipe_menon_dcf

    coord = (omega.numpy() * (np.array(matrix)[:, None] / (2 * np.pi))).T.copy()
    found = pipe_menon_dcf(coord, matrix, max_iter=iterations, show_pbar=False)
    return torch.from_numpy(np.asarray(found, np.float32))


def kb_weights(omega: Tensor, matrix: tuple[int, ...], iterations: int) -> Tensor:
    """Weights by torchkbnufft."""
    from torchkbnufft import calc_density_compensation_function

    return calc_density_compensation_function(omega, matrix, num_iterations=iterations)[0, 0].real


def gridded(case: Case, weights: Tensor) -> Tensor:
    """The weighted adjoint with the true maps."""
    nufft = Nufft(case.scan.omega, case.scan.geometry.matrix)
    return sum((m.conj() * nufft.adjoint(k * weights) for m, k in zip(case.maps, case.scan.kspace, strict=True)))  # type: ignore[return-value]


def rows_of(case: Case, peers: dict[str, Callable[[], Tensor]], goal_name: str) -> list[Row]:
    """Seconds, error and PSNR of the gridded image for each."""
    rows, errors, seconds = [], {}, {}
    for name, find in peers.items():
        start = time.process_time()
        weights = find()
        seconds[name] = time.process_time() - start
        image = gridded(case, weights)
        errors[name] = nrmse(image, case.truth, case.mask)
        rows += [
            Row(f"{name}: time", seconds[name], "s"),
            Row(f"{name}: NRMSE of the gridded image", errors[name], ""),
            Row(f"{name}: PSNR of the gridded image", psnr(image, case.truth, case.mask), "dB"),
        ]
    best_other = min(error for name, error in errors.items() if not name.startswith("ours"))
    rows += [
        Row(f"{goal_name}: time", seconds[goal_name], "s", "<= 1.2", seconds[goal_name] <= 1.2),
        Row("ours, 8 iterations: NRMSE / best other", errors["ours, 8 iterations"] / best_other, "x", "<= 1",
            errors["ours, 8 iterations"] <= best_other),
    ]  # fmt: skip
    return rows


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "").parse_args()
    one_thread()
    size = 48 if options.quick else 96
    case = radial(size, acceleration=6 if options.quick else 12)
    omega, matrix, readout = case.scan.omega, case.scan.geometry.matrix, case.scan.readout
    ways: dict[str, Callable[[], Tensor]] = {
        "ours, 8 iterations": lambda: density.pipe_menon(omega, matrix),
        "ours, 30 iterations": lambda: density.pipe_menon(omega, matrix, 30),
        "ours, analytic": lambda: density.analytic(omega, matrix, "radial3d", readout),
        "spreading from ones, 30 iterations": lambda: plain(omega, matrix, 30),
    }
    if available("sigpy"):
        ways["sigpy, 30 iterations"] = lambda: sigpy_weights(omega, matrix, 30)
    if available("torchkbnufft"):
        ways["torchkbnufft, 10 iterations"] = lambda: kb_weights(omega, matrix, 10)
    with torch.no_grad():
        rows = rows_of(case, ways, "ours, 30 iterations")
    show([Row(r.name, r.value, r.unit, r.goal, r.met, command(THIS)) for r in rows], options.json)


if __name__ == "__main__":
    main()
