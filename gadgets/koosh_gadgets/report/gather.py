"""A report's content from the files of a reconstruction."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from koosh_gadgets import npz, units
from koosh_gadgets.convert.recording import SERIES, Recording, read_recording
from koosh_gadgets.files import open_scan
from koosh_gadgets.imagefile import Series, read_series
from koosh_gadgets.report.content import Content, Mapped, Measured, Shown
from koosh_gadgets.survey import kinds, survey

NAMES = {
    "koosh_method": "method", "koosh_asked": "asked for", "koosh_fallback": "why not what was asked for",
    "koosh_weights": "weights", "koosh_weights_sha256": "sha256 of the weights", "koosh_readouts": "readouts",
    "koosh_complete": "complete", "koosh_acceleration": "acceleration", "koosh_notes": "notes",
    "koosh_trajectory_unit": "trajectory unit", "koosh_residual": "residual of all samples",
    "koosh_memory": "memory", "koosh_plan": "plan", "koosh_trust": "maps of doubt",
}  # fmt: skip
TIME = re.compile(r"([^,]+?) (\d+\.?\d*)\+(\d+\.?\d*) s(?:, |$)")

MOST_COILS = 16


@dataclass(frozen=True, eq=False)
class Truth:
    """A known image and the object in it, (z, y, x)."""

    image: np.ndarray
    mask: np.ndarray


def read_truth(path: str | Path) -> Truth:
    """What `koosh simulate --truth` wrote."""
    content = npz.arrays(path)
    if not {"image", "mask"} <= set(content):
        raise ValueError(f"{Path(path).name} has {', '.join(content)}; a truth has `image` and `mask`")
    return Truth(np.abs(content["image"]), content["mask"])


def gathered(
    title: str, scan: Path | None, images: Sequence[Path], truth: Truth | None, beside: Sequence[Series] = ()
) -> Content:
    """The content of a report on image files, with the scan they were made from where it is there.

    beside  further reconstructions to compare them with
    """
    series = [part for path in images for part in read_series(path)]
    found = [part for part in (*series, *beside) if part.kind == "magnitude"]
    maps = tuple(mapped(part) for part in found if "koosh_map" in part.meta)
    shown = [shown_series(part, truth) for part in found if "koosh_map" not in part.meta]
    notes = dict.fromkeys(one.facts["notes"] for one in shown if "notes" in one.facts)
    facts: dict[str, str] = {}
    measured = None
    if scan is not None:
        facts, measured = scan_facts(scan)
    fits = truth is not None and all(one.volume.shape == truth.image.shape for one in shown)
    if truth is not None and not fits:
        sizes = {one.volume.shape for one in shown}
        notes[f"the truth has {truth.image.shape} voxels and the images {sizes}: no comparison"] = None
    known = truth.image if truth is not None and fits else None
    return Content(title, shown, facts, known, measured, tuple(notes), maps)


def mapped(part: Series) -> Mapped:
    """A map of where an image is doubtful as the page shows it, of a series its first frame."""
    top, white, slope = (float(part.meta.get(k, 1)) for k in ("koosh_map_top", "koosh_map_white", "RescaleSlope"))
    volume = part.frames[0][0] if part.frames.shape[1] == 1 else part.frames[0]
    title = part.meta.get("SeriesDescription", f"series {part.number}")
    return Mapped(title, volume, top * white / slope, part.meta.get("koosh_map_shows", part.meta["koosh_map"]))


def shown_series(part: Series, truth: Truth | None) -> Shown:
    """One series as the page shows it."""
    facts = {name: part.meta[key] for key, name in NAMES.items() if part.meta.get(key) not in (None, "", "None")}
    title = part.meta.get("SeriesDescription", f"series {part.number}")
    # of a series the first frame, of a slice its plane
    volume = part.frames[0][0] if part.frames.shape[1] == 1 else part.frames[0]
    return Shown(
        title, volume, facts,
        scores={} if truth is None else scores(volume, truth),
        times=[(what, float(a), float(b)) for what, a, b in TIME.findall(part.meta.get("koosh_seconds", ""))],
        residual=numbers(part.meta.get("koosh_residual_shells", "")),
        noise=numbers(part.meta.get("koosh_residual_noise", "")),
        card=card_of(part.meta),
    )  # fmt: skip


def numbers(written: str) -> list[float]:
    """Numbers from a text that holds nothing else; none where it does."""
    try:
        return [float(word) for word in written.split()]
    except ValueError:
        return []


def card_of(meta: Mapping[str, str]) -> dict[str, str]:
    """The card of the weights an image was made with, where this machine has the same weights."""
    from koosh_models.weights import names, read_card

    name = meta.get("koosh_weights", "")
    if not name or name not in names():
        return {"card": f"{name} is not among the weights here"} if name else {}
    card = read_card(name)
    if card.sha256 != meta.get("koosh_weights_sha256"):
        return {"card": f"the weights called {name} here are others: {card.sha256}"}
    fit = card.trained
    lines = {
        "name": card.name, "made": f"{card.created}, {card.software}",
        "weights": f"{card.parameters}, {card.steps} steps",
        "trained on": f"{'/'.join(fit.families)} over {fit.axes} axes, {card.anatomy}",
        "acceleration": span(fit.acceleration), "matrix": span(fit.matrix), "voxel, mm": span(fit.voxel_mm),
        "coils": span(fit.coils), "noise": span(fit.noise), "data": "; ".join(card.data), "notes": card.notes,
    }  # fmt: skip
    lines |= {f"validation, {m.method}": f"{m.psnr:.2f} dB on {m.data}" for m in card.metrics if m.psnr is not None}
    return {what: value for what, value in lines.items() if value.strip(" ,")}


def span(interval: tuple[float, float]) -> str:
    """From lowest to highest."""
    low, high = interval
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def scores(volume: np.ndarray, truth: Truth) -> dict[str, float]:
    """The four measures against the truth; none where the sizes differ."""
    import torch

    from koosh_models.metrics import evaluate

    if volume.shape != truth.image.shape:
        return {}
    seen = torch.from_numpy(volume.astype(np.float32))
    return evaluate(seen, torch.from_numpy(truth.image), torch.from_numpy(truth.mask))


def scan_facts(path: Path) -> tuple[dict[str, str], Measured | None]:
    """What `koosh info` says, and the pictures of a non-Cartesian scan whose volumes have equally many readouts."""
    with open_scan(path) as file:
        facts = survey(file)[0].facts
        chosen = (kinds(file.heads) == "imaging") & (file.heads["trajectory_dimensions"] > 0)
    if not chosen.any():
        return facts, None
    try:
        found = read_recording(path)
    except ValueError as error:
        return {**facts, "pictures of the scan": f"none: {error}"}, None
    return facts, None if found.omega is None else measured(found)


def measured(found: Recording) -> Measured:
    """Trajectory, point-spread function and coil maps of the first volume of a recording."""
    import torch

    from koosh_models.calibration.density import pipe_menon
    from koosh_models.calibration.joint import joint
    from koosh_models.physics.nufft import Nufft

    assert found.omega is not None
    matrix, first = found.geometry.matrix, (0,) * len(SERIES)
    paths = found.omega[first]
    k = units.from_radians(paths.reshape(len(matrix), -1), "cycles/voxel", matrix, found.geometry.fov_mm)
    omega = torch.from_numpy(paths.reshape(len(matrix), -1).copy())
    weights = pipe_menon(omega, matrix)
    spread = middle(Nufft(omega, matrix).adjoint(weights.to(torch.complex64)).abs().numpy())
    kspace = torch.from_numpy(found.kspace[first].reshape(found.n_coils, -1).copy())
    maps = joint(kspace, omega, weights, matrix).maps
    shown = [middle(maps.coils(coil, coil + 1)[0].abs().numpy()) for coil in range(min(found.n_coils, MOST_COILS))]
    shape = paths.shape[1:]
    return Measured(
        matrix, k.reshape(*shape, -1), weights.numpy().reshape(shape), spread / spread.max(), np.stack(shown)
    )


def middle(image: np.ndarray) -> np.ndarray:
    """The central plane of a volume; a plane is its own."""
    return image if image.ndim == 2 else image[image.shape[0] // 2]
