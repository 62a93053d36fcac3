"""Whitening: noise readouts in, white data out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ismrmrd
import numpy as np

from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire.readouts import Readouts


def whiten(
    items: Iterable[object], journal: Journal, adjusted: bool = False, bandwidth: float = 1.0
) -> Iterator[object]:
    """The imaging readouts with unit, uncorrelated noise; noise readouts end here.

    adjusted   the data are white already: only the noise readouts are taken out
    bandwidth  the receiver's relative noise bandwidth
    """
    noise: list[Readouts] = []
    matrix: np.ndarray | None = None
    for item in items:
        if not isinstance(item, Readouts):
            yield item
            continue
        is_noise = item.flagged(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        if is_noise.any():
            noise.append(item[is_noise])
            matrix = None
            item = item[~is_noise]
        if not len(item):
            continue
        if noise and matrix is None and not adjusted:
            matrix = whitening_matrix(noise, item, journal, bandwidth)
        if matrix is None and not adjusted:
            journal.note("no noise measurement came before the scan: the data are not whitened")
        with journal.timed("whiten"):
            yield item if matrix is None else item.with_data(np.matmul(matrix, item.data))


def whitening_matrix(noise: list[Readouts], imaging: Readouts, journal: Journal, bandwidth: float) -> np.ndarray:
    """(coil, coil) W from the noise readouts that have the imaging readouts' coils."""
    import torch

    from koosh_models.calibration.noise import covariance, whitening

    n_coils = imaging.data.shape[1]
    usable = [b for b in noise if b.data.shape[1] == n_coils]
    if not usable:
        counts = sorted({b.data.shape[1] for b in noise})
        raise ValueError(
            f"readout {imaging.heads['scan_counter'][0]}: active_channels is {n_coils}, but the noise measurement has "
            f"{counts}; switch the same coils on for both"
        )
    samples = np.concatenate([b.data.transpose(1, 0, 2).reshape(n_coils, -1) for b in usable], axis=1)
    samples = samples[:, np.isfinite(samples).all(0)]
    dwell, noise_dwell = float(imaging.heads["sample_time_us"][0]), float(usable[0].heads["sample_time_us"][0])
    ratio = dwell / noise_dwell if dwell > 0 and noise_dwell > 0 else 1.0
    journal.facts["koosh_noise_samples"] = str(samples.shape[1])
    return whitening(covariance(torch.from_numpy(samples)), ratio, bandwidth).numpy()
