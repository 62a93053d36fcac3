"""Normal operator, CG-SENSE and L1-wavelet on one core, beside finufft, ducc0 and BART: `-m benchmarks.classical`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.problem import Case, cpu_seconds, one_thread, radial
from benchmarks.report import Row, arguments, command, show
from koosh_models.baselines import bart, classical
from koosh_models.metrics import psnr
from koosh_models.physics import toeplitz
from koosh_models.physics.mri import non_cartesian
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.sense import PairNormal, Sense, SenseNormal

OURS_LAMBDAS = (0.006, 0.009, 0.013, 0.018)
BART_LAMBDAS = (0.01, 0.015, 0.02)
THIS = "benchmarks.classical"


def normal(case: Case, size: int, peers_python: str | None) -> list[Row]:
    """Seconds of one application: ours, the pairs, and peers where their Python is named."""
    scan, x = case.scan, case.truth
    assert scan.weights is not None
    fine = Nufft(scan.omega, scan.geometry.matrix, 1e-4)
    kernel = toeplitz.build(fine, scan.weights)
    pairs = {
        f"{name} pair, eps 1e-3": PairNormal(
            Sense(case.maps, Nufft(scan.omega, scan.geometry.matrix, 1e-3, name)), scan.weights
        ).normal
        for name in ("finufft", "ducc0")
    }
    timed = {name: cpu_seconds(lambda run=run: run(x), 3) for name, run in pairs.items()}
    if peers_python:
        arrays = [t.numpy() for t in (scan.omega, case.maps, scan.weights, x)]
        timed |= peers.normal_seconds(peers_python, *arrays)
    best = min(timed.values())
    rows = [Row(f"normal {size}^3, {name}", t, "s", command=command(THIS)) for name, t in timed.items()]
    for name, form in (("Toeplitz", kernel), ("Toeplitz, 16 bit", kernel.sixteen_bit())):
        seconds = cpu_seconds(lambda form=form: SenseNormal(case.maps, form).normal(x), 3)
        met = seconds <= 0.9 * best
        rows.append(Row(f"normal {size}^3, {name}", seconds, "s", "<= 0.9 x the best of these", met, command(THIS)))
        rows.append(
            Row(f"normal {size}^3, {name}: scratch and kernel", scratch_mb(form), "MB", "", None, command(THIS))
        )
    return rows


def scratch_mb(form: toeplitz.Toeplitz) -> float:
    """What the operator holds: kernel, rows and slab."""
    return (sum(k.nbytes for k in form.kernel) + sum(a.nbytes for a in form._scratch)) / 2**20


def score(case: Case, image: Tensor) -> float:
    """PSNR inside the mask."""
    return psnr(image, case.truth, case.mask)


def timed(run: Callable[[], classical.Result]) -> tuple[Tensor, float]:
    """The image and its CPU seconds."""
    import time

    start = time.process_time()
    image = run().image
    return image, time.process_time() - start


def iterative(case: Case, size: int) -> list[Row]:
    """CG-SENSE and L1-wavelet, each method's weight tuned on the truth for ours and for BART."""
    rows, folder = [], Path(tempfile.mkdtemp(prefix="koosh-bart-"))
    cg, cg_time = timed(lambda: classical.cg_sense(non_cartesian(case.scan, case.maps), 10, tolerance=0))
    l1 = max(
        (score(case, image), seconds, weight) for weight in OURS_LAMBDAS for image, seconds in [l1_of(case, weight)]
    )
    rows += [
        Row(f"CG-SENSE x 10, {size}^3: ours", score(case, cg), "dB", "", None, command(THIS)),
        Row(f"CG-SENSE x 10, {size}^3: ours, with set-up", cg_time, "s", "", None, command(THIS)),
        Row(f"L1-wavelet, {size}^3: ours, weight {l1[2]}", l1[0], "dB", "", None, command(THIS)),
        Row(f"L1-wavelet, {size}^3: ours, with set-up", l1[1], "s", "", None, command(THIS)),
    ]
    if bart.installed():
        bart.export(case.scan, case.maps, folder)
        rows += beside_bart(case, folder, size, (score(case, cg), cg_time), (l1[0], l1[1]))
    return rows


def l1_of(case: Case, weight: float) -> tuple[Tensor, float]:
    """Our L1-wavelet at its defaults but for the weight."""
    return timed(lambda: classical.l1_wavelet(non_cartesian(case.scan, case.maps), weight))


def beside_bart(case: Case, folder: Path, size: int, cg: tuple[float, float], l1: tuple[float, float]) -> list[Row]:
    """BART's rows and the ratios."""
    theirs = bart.pics(folder, ["-l2", "-r", "0", "-i", "10"])
    tuned = max(
        ((score(case, run.image), run.seconds, r) for r in BART_LAMBDAS for run in [bart.l1_wavelet(folder, r)]),
        key=lambda entry: entry[0],
    )
    gap, ratio = cg[0] - score(case, theirs.image), theirs.seconds / cg[1]
    return [
        Row(f"CG-SENSE x 10, {size}^3: BART", score(case, theirs.image), "dB", "", None, command(THIS)),
        Row(f"CG-SENSE x 10, {size}^3: ours - BART", gap, "dB", ">= -0.05", gap >= -0.05, command(THIS)),
        Row(f"CG-SENSE x 10, {size}^3: BART / ours", ratio, "x time", ">= 6", ratio >= 6, command(THIS)),
        Row(f"L1-wavelet, {size}^3: BART, lambda {tuned[2]}", tuned[0], "dB", "", None, command(THIS)),
        Row(
            f"L1-wavelet, {size}^3: ours - BART",
            l1[0] - tuned[0],
            "dB",
            ">= -0.2",
            l1[0] - tuned[0] >= -0.2,
            command(THIS),
        ),
        Row(
            f"L1-wavelet, {size}^3: BART / ours",
            tuned[1] / l1[1],
            "x time",
            ">= 4",
            tuned[1] >= 4 * l1[1],
            command(THIS),
        ),
        Row("BART peak memory", theirs.megabytes, "MB", "", None, command(THIS)),
    ]


def main() -> None:
    """Run and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--peers", metavar="PYTHON", help="with sigpy, mri-nufft, torchkbnufft: see benchmarks/peers.py"
    )
    parser.add_argument("--only", choices=("normal", "iterative"), help="one of the two tables")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 160], help="voxels a side (%(default)s)")
    options = parser.parse_args()
    one_thread()
    sizes = [48] if options.quick else options.sizes
    rows: list[Row] = []
    with torch.no_grad():
        for size in sizes:
            case = radial(size)
            if options.only != "iterative":
                rows += normal(case, size, options.peers)
            if size < 160 and options.only != "normal":
                rows += iterative(case, size)
    show(rows, options.json)


if __name__ == "__main__":
    main()
