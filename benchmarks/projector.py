"""PET projections against scikit-image and, where it is installed, astra-toolbox: `python -m benchmarks.projector`.

All on one thread, parallel beam, a stack of slices (the one 3D geometry that all have on a CPU). astra's wheel needs
CUDA's runtime library to be imported even for its CPU projectors: `pip install astra-toolbox nvidia-cuda-runtime-cu12`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from skimage.transform import radon
from torch import Tensor

from benchmarks.report import Row, arguments, command, show
from koosh_models.physics.pet.projector import Projector, ordered_subsets
from koosh_models.physics.pet.scanner import Scanner, natural
from koosh_models.scan import Geometry

MODULE = "benchmarks.projector"


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of some runs, in CPU seconds: all is on one thread, and other work on the machine doesn't count."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def phantom(n: int) -> Tensor:
    """A stack of shifted Gaussian blobs inside the circle that every bin sees."""
    place = torch.linspace(-1, 1, n)
    z, y, x = torch.meshgrid(place, place, place, indexing="ij")
    blobs = [
        torch.exp(-((y - a) ** 2 + (x - b) ** 2 + (z - c) ** 2) * 20) for a, b, c in ((0, 0.3, 0.1), (-0.4, -0.2, 0))
    ]
    return torch.where(y**2 + x**2 < 0.9, sum(blobs, torch.zeros(())), 0.0)


def slices(n: int, n_views: int) -> Projector:
    """Direct planes only, one a slice, 1 mm everywhere."""
    scanner = Scanner(n_views, n, 1.0, n_rings=n, ring_mm=1.0, diameter_mm=8.0 * n)
    return ordered_subsets(scanner, Geometry((n, n, n), (float(n),) * 3), 1)[0]


def own(n: int, n_views: int) -> tuple[list[Row], Tensor]:
    """Our times and accuracy, and the projection."""
    projector, image = slices(n, n_views), phantom(n)
    build = seconds(lambda: slices(n, n_views).blocks, 1)
    data = projector.forward(image)
    back = projector.adjoint(data)
    gap = abs(
        float((data.double() ** 2).sum() - (image.double() * back.double()).sum()) / float((data.double() ** 2).sum())
    )
    size = sum(p.matrix.values().numel() for block in projector.blocks for _, p in block.shifts)
    return [
        Row(f"koosh forward {n}^3", seconds(lambda: projector.forward(image)), "CPU s"),
        Row(f"koosh adjoint {n}^3", seconds(lambda: projector.adjoint(data)), "CPU s"),
        Row("koosh matrices, built once", build, "CPU s"),
        Row("koosh matrices", 2 * size * 8 / 2**20, "MiB"),
        Row("matched pair", gap, "relative", "<= 1e-5", gap <= 1e-5),
    ], data


def against_skimage(n: int, n_views: int, data: Tensor, mine: float) -> list[Row]:
    """Time of a slice times slices, and the difference of one projection. radon centres its grid on voxel n // 2."""
    image = phantom(n)[n // 2].double()
    theta = -np.rad2deg(np.arange(n_views) * np.pi / n_views)
    odd = Scanner(n_views, n - 1, 1.0)
    (flat,) = ordered_subsets(odd, natural(odd, n - 1), 1, torch.empty(0, dtype=torch.float64))
    cut = image[1:, 1:].contiguous()
    want = torch.from_numpy(radon(cut.numpy(), theta=theta, circle=True).T.copy())
    difference = float((flat.forward(cut) - want).norm() / want.norm())
    took = n * seconds(lambda: radon(image.numpy(), theta=theta, circle=True), 1)
    return [
        Row(f"scikit-image radon {n}^3 (one slice x {n})", took, "CPU s"),
        Row("koosh / scikit-image time", mine / took, "ratio"),
        Row("difference to scikit-image", difference, "relative", "<= 0.01", difference <= 0.01),
    ]


def against_astra(n: int, n_views: int, data: Tensor, mine: float) -> list[Row]:
    """Time of a loop over slices with astra's Joseph projector on the CPU, and the difference."""
    try:
        import astra
    except ImportError as error:
        print(f"astra-toolbox is left out: {error}")
        return []
    volume = astra.create_vol_geom(n, n)
    angles = np.arange(n_views) * np.pi / n_views
    projector = astra.create_projector("linear", astra.create_proj_geom("parallel", 1.0, n, angles), volume)
    operator = astra.OpTomo(projector)
    image = phantom(n).flip(1).contiguous().numpy()  # astra's rows count upwards
    out = np.stack([operator.FP(s) for s in image], axis=-1)
    planes = [np.ascontiguousarray(out[..., i]) for i in range(n)]
    took = seconds(lambda: [operator.FP(s) for s in image], 2)
    back = seconds(lambda: [operator.BP(s) for s in planes], 2)
    difference = float((data - torch.from_numpy(out)).norm() / data.norm())
    return [
        Row(f"astra-toolbox forward {n}^3 (CPU, linear)", took, "CPU s"),
        Row(f"astra-toolbox adjoint {n}^3 (CPU, linear)", back, "CPU s"),
        Row("koosh / astra-toolbox time", mine / took, "ratio", "<= 2", mine <= 2 * took),
        Row("difference to astra-toolbox", difference, "relative", "<= 0.01", difference <= 0.01),
    ]


def oblique(quick: bool) -> list[Row]:
    """A cylindrical scanner with ring differences, and its axial compression."""
    rings = 16 if quick else 32
    scanner = Scanner(90, 96, 2.7, n_rings=rings, ring_mm=5.4, max_difference=rings // 2, diameter_mm=700.0)
    rows = []
    for span in (1, 5):
        compressed = replace(scanner, span=span)
        (projector,) = ordered_subsets(compressed, natural(compressed, 96), 1)
        image = torch.rand(projector.geometry.matrix, generator=torch.Generator().manual_seed(0))
        projector.forward(image)
        took = seconds(lambda p=projector, x=image: p.forward(x), 2)
        rows.append(Row(f"koosh 3D, {rings} rings, {len(projector.blocks)} segments, span {span}", took, "CPU s"))
    return rows


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__ or "")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    n, n_views = (64, 90) if chosen.quick else (128, 180)
    rows, data = own(n, n_views)
    rows += against_skimage(n, n_views, data, rows[0].value)
    rows += against_astra(n, n_views, data, rows[0].value)
    rows += oblique(chosen.quick)
    line = command(MODULE)
    show([replace(row, command=line) for row in rows], chosen.json)


if __name__ == "__main__":
    main()
