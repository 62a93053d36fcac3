"""The pictures of the docs, from real measured k-space: `python -m benchmarks.pictures DATA_FOLDER`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import h5py
import matplotlib
import numpy as np
from numpy.typing import NDArray

from koosh_gadgets.cli import main as koosh

matplotlib.use("Agg")
METHODS = ("gridding", "cg", "l1")


def slices(path: Path) -> NDArray[np.float64]:
    """(slice, y, x) magnitudes of an ISMRMRD image file, each slice scaled to its 99.5th percentile."""
    with h5py.File(path) as file:
        data = np.asarray(file["dataset/image_1/data"], np.float64).squeeze()
    data = data.reshape(-1, *data.shape[-2:])
    return data / np.percentile(data, 99.5, axis=(1, 2), keepdims=True)


def montage(scan: Path, out: Path) -> None:
    """One row a method, one column a slice."""
    import matplotlib.pyplot as plt

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            images = Path(folder) / f"{method}.h5"
            if koosh(["replay", str(scan), "-o", str(images), "--method", method]) != 0:
                raise SystemExit(f"{scan.name} could not be reconstructed by {method}")
            rows.append(slices(images))
    n = len(rows[0])
    figure, axes = plt.subplots(len(rows), n, figsize=(2.4 * n, 2.4 * len(rows)), squeeze=False)
    for method, row, line in zip(METHODS, rows, axes, strict=True):
        for image, axis in zip(row, line, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        line[0].set_title(method, fontsize=9, loc="left")
    figure.tight_layout(pad=0.3)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def main() -> None:
    """Every ISMRMRD file of the folder, on one side or the other of the paper."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for scan in sorted(options.data.glob("*.h5")):
        montage(scan, options.out / f"{scan.stem}.png")


if __name__ == "__main__":
    main()
