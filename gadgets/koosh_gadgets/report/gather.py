"""A report's content from the files of a reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from koosh_gadgets.files import open_scan
from koosh_gadgets.imagefile import Series, read_series
from koosh_gadgets.report.page import Content, Shown
from koosh_gadgets.survey import kinds, survey

NAMES = {
    "koosh_method": "method", "koosh_asked": "asked for", "koosh_weights": "weights", "koosh_readouts": "readouts",
    "koosh_complete": "complete", "koosh_notes": "notes", "koosh_seconds": "seconds before + after the last readout",
    "koosh_trajectory_unit": "trajectory unit",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Truth:
    """A known image and the object in it, (z, y, x)."""

    image: np.ndarray
    mask: np.ndarray


def read_truth(path: str | Path) -> Truth:
    """What `koosh simulate --truth` wrote."""
    from koosh_gadgets.convert.archive import opened

    with opened(path) as content:
        if not {"image", "mask"} <= set(content.files):
            raise ValueError(f"{Path(path).name} has {', '.join(content.files)}; a truth has `image` and `mask`")
        return Truth(np.abs(content["image"]), content["mask"])


def gathered(title: str, scan: Path | None, images: Sequence[Path], truth: Truth | None) -> Content:
    """The content of a report on image files, with the scan they were made from where it is there."""
    series = [part for path in images for part in read_series(path) if part.kind == "magnitude"]
    shown = [shown_series(part, truth) for part in series]
    notes = dict.fromkeys(one.facts["notes"] for one in shown if one.facts.get("notes", "None") != "None")
    facts, k, spread = ({}, None, None) if scan is None else scan_facts(scan)
    magnitude = None if truth is None else truth.image
    return Content(title, shown, facts, magnitude, k, spread, tuple(notes))


def shown_series(part: Series, truth: Truth | None) -> Shown:
    """One series as the page shows it."""
    facts = {name: part.meta[key] for key, name in NAMES.items() if key in part.meta}
    title = part.meta.get("SeriesDescription", f"series {part.number}")
    volume = part.frames[0]
    return Shown(title, volume, facts, {} if truth is None else scores(volume, truth))


def scores(volume: np.ndarray, truth: Truth) -> dict[str, float]:
    """The four measures against the truth; none where the sizes differ."""
    import torch

    from koosh_models.metrics import evaluate

    if volume.shape != truth.image.shape:
        return {}
    seen = torch.from_numpy(volume.astype(np.float32))
    return evaluate(seen, torch.from_numpy(truth.image), torch.from_numpy(truth.mask))


def scan_facts(path: Path) -> tuple[dict[str, str], np.ndarray | None, np.ndarray | None]:
    """What `koosh info` says, the trajectory in cycles per voxel, and the point-spread function's central plane."""
    from koosh_gadgets import units
    from koosh_gadgets.survey import sizes, user_parameter

    with open_scan(path) as file:
        facts = survey(file)[0].facts
        chosen = (kinds(file.heads) == "imaging") & (file.heads["trajectory_dimensions"] > 0)
        if not chosen.any():
            return facts, None, None
        raw = file.trajectory(chosen)
        matrix, fov_mm = sizes(file.header.encoding[0].encodedSpace)
        unit = user_parameter(file.header, "trajectoryUnit")
        n_samples = int(file.heads["number_of_samples"][chosen][0])
    choice = units.choose(raw, matrix, fov_mm, None, str(unit) if unit else None)
    omega = units.to_radians(raw, choice.unit, matrix, fov_mm)
    k = units.from_radians(omega, "cycles/voxel", matrix, fov_mm)
    return facts, k.reshape(-1, n_samples, k.shape[1]), point_spread(omega, matrix)


def point_spread(omega: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """(y, x) magnitude of the image of a point in the middle, its peak one, density weights applied."""
    import torch

    from koosh_models.calibration.density import pipe_menon
    from koosh_models.physics.nufft import Nufft

    path = torch.from_numpy(omega)
    weights = pipe_menon(path, matrix)
    image = Nufft(path, matrix).adjoint(weights.to(torch.complex64)).abs().numpy()
    plane = image if image.ndim == 2 else image[image.shape[0] // 2]
    spread: np.ndarray = plane / plane.max()
    return spread
