"""What a reconstruction needs beside the data: density weights, gating, gradient delays, coil maps."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets import npz
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.ahead import Ahead
from koosh_gadgets.stages.journal import Journal

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.calibration.girf import Response
    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.scan import Scan


def weighted(scan: Scan, numbers: np.ndarray, settings: Settings, journal: Journal, ahead: Ahead | None) -> Scan:
    """The scan with density weights, those of a gating file multiplied in; `ahead` only where it matches the scan.

    numbers  (readout) scan_counter, counted from the first readout of the scan
    """
    import torch

    from koosh_models.calibration.density import pipe_menon

    with journal.timed("density weights"):
        inside = scan.weights
        if ahead is not None:
            weights = ahead.weights()
        elif inside is None:
            weights = pipe_menon(scan.omega, scan.geometry.matrix)
        else:  # samples beyond the grid: weight 0, and no part in the density of the others
            weights = torch.zeros_like(inside)
            chosen = inside > 0
            weights[chosen] = pipe_menon(scan.omega[:, chosen].contiguous(), scan.geometry.matrix)
        if settings.gating:
            gated = torch.from_numpy(gate(Path(settings.gating), numbers)).to(weights.device)
            weights = weights * gated.repeat_interleave(scan.readout)
        return replace(scan, weights=weights)


def gate(path: Path, numbers: np.ndarray) -> np.ndarray:
    """(readout) float32 weight of each readout, from the array `weights` of an .npz file."""
    if not path.is_file():
        raise ValueError(f"the gating file {path.name} does not exist")
    file = npz.arrays(path)
    if "weights" not in file:
        raise ValueError(f"{path.name} holds {sorted(file)}; wanted an array named weights")
    table = np.asarray(file["weights"], np.float32)
    if table.ndim != 1 or not np.isfinite(table).all() or (table < 0).any() or not table.any():
        raise ValueError(f"{path.name}: weights must be one non-negative number per readout, not all zero")
    if numbers.max() >= len(table):
        raise ValueError(f"{path.name} has {len(table)} weights, but readout number {numbers.max()} came")
    return np.asarray(table[numbers])


def maps_of(scan: Scan, journal: Journal) -> CoilMaps:
    """Coil maps from the scan itself."""
    from koosh_models.reconstruction import calibrate

    with journal.timed("coil maps"):
        return calibrate(scan)


def played(scan: Scan, dwell_us: float, lateral: bool, settings: Settings, journal: Journal) -> Scan:
    """The scan on the trajectory that its gradients play, by the impulse response that the settings name.

    lateral  the patient lies on a side, so that the gradients' x is the patient's y
    """
    from koosh_models.calibration import girf

    if not dwell_us > 0:
        raise ValueError(f"sample_time_us is {dwell_us:g}: the impulse response of the gradients needs the dwell time")
    path = Path(settings.girf)
    if not path.is_file():
        raise ValueError(f"the impulse response file {path.name} does not exist")
    with journal.timed("impulse response"):
        omega = played_path(scan, dwell_us, girf.load(path), lateral)
    moved = float((omega - scan.omega).abs().max())
    journal.note(f"the trajectory was corrected by the gradients' impulse response, up to {moved:.3g} rad/voxel",
                 logging.INFO)  # fmt: skip
    return replace(scan, omega=omega)


def played_path(scan: Scan, dwell_us: float, response: Response, lateral: bool) -> Tensor:
    """(axis, sample) rad/voxel in the scan's own voxels, whatever their shape and the slab's orientation."""
    import torch

    from koosh_models.calibration import girf

    place = scan.geometry
    turn = torch.tensor([place.slice_dir, place.phase_dir, place.read_dir], dtype=torch.float64).flip(1)
    if lateral:
        turn = turn[:, [0, 2, 1]]
    voxel = torch.tensor(place.voxel_mm, dtype=scan.omega.dtype)[:, None]
    even = voxel.min() / voxel  # from these voxels to cubes of the smallest side
    path = girf.played(scan.omega.cpu() * even, scan.readout, dwell_us, response, turn) / even
    return path.clamp(-torch.pi, torch.pi).to(scan.omega)


def without_delays(scan: Scan, journal: Journal) -> Scan:
    """The weighted scan on the trajectory that its gradients really drew, its density weights to be found anew."""
    from koosh_models.calibration.delays import corrected, estimate

    assert scan.weights is not None
    try:
        with journal.timed("gradient delays"):
            found = estimate(scan.kspace, scan.omega, scan.weights, scan.geometry.matrix, scan.readout)
            moved = corrected(scan.omega, found.tensor, scan.readout)
    except (ValueError, RuntimeError) as error:
        journal.note(f"gradient delays could not be estimated: {error}")
        return scan
    delays = ", ".join(f"{float(d):.3f}" for d in found.tensor.diagonal().flip(0))
    journal.facts["koosh_delays"] = delays
    journal.note(f"gradient delays of {delays} samples (x, y, z) were corrected", logging.INFO)
    return replace(scan, omega=moved, weights=None)


def shading(images: list[Tensor]) -> Tensor:
    """Smooth positive factor, (z, y, x) or (y, x), that the coils leave in images of one place."""
    import torch

    from koosh_models.calibration.intensity import bias_estimate

    magnitude = torch.stack([image.abs() for image in images]).mean(0)
    return bias_estimate(magnitude, magnitude > 0)


def evened(image: Tensor, shade: Tensor) -> Tensor:
    """The image with its shading divided out."""
    from koosh_models.calibration.intensity import evened as even

    return even(image, shade)
