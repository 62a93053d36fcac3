"""Breathing found in the centre of k-space, navigators or belts, and what a reconstruction makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.scan import Scan

BAND_HZ = (0.1, 0.5)  # of breathing: 6 to 30 breaths a minute
FEWEST_PERIODS = 3.0  # of the band's slowest breath in a scan, below which trend and breath can't be told apart
SOFTNESS = 6.0  # decay of soft weights over the whole range of positions
TOLERANCE = 0.15  # of the range: readouts this close to the wanted position count fully


@dataclass(frozen=True, eq=False)
class Breathing:
    """Where the chest is at each readout.

    position  (readout) 0 at the end of expiration, 1 at the end of inspiration (2nd and 98th percentile)
    share     of the signal's variance that breathing explains: below about 0.2 there may be none
    """

    position: Tensor
    share: float


def centre_signal(scan: Scan, reach: float = 0.6) -> Tensor:
    """(coil, readout) the mean of each readout's samples within `reach` cells of k = 0."""
    if scan.n_frames is not None:
        raise ValueError("this scan already has frames; take the signal before readouts are sorted into them")
    sizes = torch.tensor(scan.geometry.matrix, device=scan.omega.device)[:, None] / (2 * torch.pi)
    near = (scan.omega * sizes).norm(dim=0).reshape(-1, scan.readout) <= reach
    if not bool(near.any(1).all()):
        raise ValueError(
            f"{int((~near.any(1)).sum())} of {len(near)} readouts do not pass within {reach:g} cells of the centre of "
            "k-space, so they show no breathing: use a navigator or a belt's waveform with resampled()"
        )
    samples = scan.kspace.reshape(scan.n_coils, -1, scan.readout) * near
    return samples.sum(2) / near.sum(1)


def breathing(signal: Tensor, interval_s: float, band_hz: tuple[float, float] = BAND_HZ) -> Breathing:
    """The breathing that signals (channel, readout) have in common: their band-pass's first principal component.

    signal      of coils at k = 0 (complex: their magnitude is taken), of navigators, or of a belt (one row)
    interval_s  from readout to readout

    Self gating as in Larson et al. 2004 (MRM 51:93), channels combined as in Feng et al. 2016 (MRM 75:775). Exhalation
    is taken to be where most time is spent; where the signal saturates that can fail, and `1 - position` is right.
    """
    check(signal, interval_s, band_hz)
    values = (signal.abs() if signal.is_complex() else signal).double()
    level = values.mean(1, keepdim=True)
    values = detrended(values - level) / level.abs().clamp_min(1e-3 * float(level.abs().max()) + 1e-30)
    slow = band_passed(values, interval_s, band_hz)
    u, s, v = torch.linalg.svd(slow, full_matrices=False)
    if not float(s[0]) > 0:
        raise ValueError("the signal does not change within the breathing band: nothing to gate on")
    wave = v[0]
    # the weights of the channels, from the slow part, applied to all of it: what is not breathing is noise
    share = float(wave.var() * s[0] ** 2 / (u[:, 0] @ values).var().clamp_min(1e-30))
    # the pause after exhalation shows in the harmonics of the breath, which the band has cut away
    fuller = band_passed((u[:, :1].T @ values), interval_s, (band_hz[0], min(4 * band_hz[1], 0.5 / interval_s)))[0]
    if float((fuller - fuller.mean()).pow(3).sum()) < 0:
        wave = -wave
    low, high = float(torch.quantile(wave, 0.02)), float(torch.quantile(wave, 0.98))
    return Breathing(((wave - low) / (high - low)).clamp(0, 1).float(), min(1.0, share))


def check(signal: Tensor, interval_s: float, band_hz: tuple[float, float]) -> None:
    """Refuse signals in which breathing could not be seen."""
    if signal.ndim != 2 or not bool(torch.isfinite(signal.abs()).all()):
        raise ValueError(f"the signal has shape {tuple(signal.shape)}; wanted finite numbers (channel, readout)")
    duration, (low, high) = signal.shape[1] * interval_s, band_hz
    if not (interval_s > 0 and 0 < low < high):
        raise ValueError(f"interval {interval_s} s and band {band_hz} Hz must be positive and ascending")
    if duration * low < FEWEST_PERIODS:
        raise ValueError(
            f"the scan lasts {duration:.3g} s, under {FEWEST_PERIODS:g} breaths of {1 / low:.3g} s: too short to gate"
        )
    if high > 0.5 / interval_s:
        raise ValueError(f"one value every {interval_s:.3g} s cannot show {high:g} Hz: lower the band's upper end")


def detrended(values: Tensor) -> Tensor:
    """(channel, readout) less the parabola that fits it best: the approach to steady state, and drifts."""
    t = torch.linspace(-1, 1, values.shape[1], dtype=values.dtype, device=values.device)
    basis = torch.stack([torch.ones_like(t), t, t * t, t**3])
    q, _ = torch.linalg.qr(basis.T)
    return values - (values @ q) @ q.T


def band_passed(values: Tensor, interval_s: float, band_hz: tuple[float, float]) -> Tensor:
    """(channel, readout) with frequencies outside the band removed, edges a quarter of the lower limit wide."""
    n = values.shape[1]
    # reflected, so that the ends don't wrap around onto each other
    wide = torch.cat([values, values.flip(1)], 1)
    frequency = torch.fft.rfftfreq(2 * n, interval_s, dtype=values.dtype, device=values.device)
    edge = band_hz[0] / 4
    keep = ((frequency - band_hz[0]) / edge + 1).clamp(0, 1) * ((band_hz[1] - frequency) / edge + 1).clamp(0, 1)
    return torch.fft.irfft(torch.fft.rfft(wide) * keep, n=2 * n)[:, :n]


def resampled(values: Tensor, times_s: Tensor, at_s: Tensor) -> Tensor:
    """(channel, readout) navigator or belt values (channel, value) at the readouts' times, linear between values."""
    if values.ndim != 2 or values.shape[1] != len(times_s) or not bool((times_s.diff() > 0).all()):
        raise ValueError(f"{tuple(values.shape)} values need (channel, value) and {len(times_s)} ascending times")
    if float(at_s.min()) < float(times_s[0]) - 1 or float(at_s.max()) > float(times_s[-1]) + 1:
        raise ValueError("the waveform does not cover the scan: it must begin and end within a second of it")
    right = torch.searchsorted(times_s, at_s).clamp(1, len(times_s) - 1)
    share = ((at_s - times_s[right - 1]) / (times_s[right] - times_s[right - 1])).clamp(0, 1)
    return values[:, right - 1] + share * (values[:, right] - values[:, right - 1])


def soft_weights(position: Tensor, wanted: float = 0.0) -> Tensor:
    """(readout) weights that fall off exponentially away from a position (Johnson et al. 2012, MRM 67:1600)."""
    away = (position - wanted).abs() - TOLERANCE
    return torch.exp(-SOFTNESS * away.clamp_min(0))


def soft_gated(scan: Scan, position: Tensor, wanted: float = 0.0) -> Scan:
    """The scan with the weights of readouts lessened that were taken far from the wanted position.

    Weights are scaled so that their sum stays: images keep their amplitude about.
    """
    if scan.weights is None:
        raise ValueError("the scan has no density weights: scan = with_weights(scan) first")
    check_position(scan, position)
    factor = soft_weights(position, wanted).to(scan.weights).repeat_interleave(scan.readout)
    weights = scan.weights * factor
    return replace(scan, weights=weights * (scan.weights.sum() / weights.sum()))


def bins(position: Tensor, n_bins: int) -> Tensor:
    """(bin, readout of the bin) indices of the readouts sorted by position, equally many in each bin, in time order."""
    per_bin = len(position) // max(n_bins, 1)
    if n_bins < 1 or per_bin < 1:
        raise ValueError(f"{len(position)} readouts cannot be sorted into {n_bins} bins")
    order = position.argsort(stable=True)[: n_bins * per_bin]
    return order.reshape(n_bins, per_bin).sort(1).values


def binned(scan: Scan, position: Tensor, n_bins: int = 4) -> Scan:
    """The scan as a series: one frame for each range of positions, from expiration to inspiration, without weights."""
    check_position(scan, position)
    chosen = bins(position, n_bins).to(scan.omega.device)
    kspace = scan.kspace.reshape(scan.n_coils, -1, scan.readout)[:, chosen].movedim(1, 0).flatten(2)
    omega = scan.omega.reshape(len(scan.omega), -1, scan.readout)[:, chosen].movedim(1, 0).flatten(2)
    return replace(scan, kspace=kspace.contiguous(), omega=omega.contiguous(), weights=None)


def check_position(scan: Scan, position: Tensor) -> None:
    """Refuse positions that are not one a readout of a single volume."""
    if scan.n_frames is not None or len(position) != scan.n_readouts:
        raise ValueError(
            f"{len(position)} positions for {scan.n_readouts} readouts: wanted one each, and no frames yet"
        )
