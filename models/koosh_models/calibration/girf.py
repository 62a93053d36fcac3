"""Gradients as the scanner plays them: impulse responses for trajectories, and the phase of its changing main field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Response:
    """Gradient impulse response functions in the frequency domain (Vannesjo et al. 2013, MRM 69:583).

    frequency_hz  (frequency) ascending, 0 and positive
    gain          (axis, frequency) complex, gradient played over gradient demanded, rows z, y, x of the gradients
    field         (axis, frequency) complex, change of the main field in rad/s for a gradient whose k-space velocity is
                  1 rad/voxel/s; None where it was not measured
    """

    frequency_hz: Tensor
    gain: Tensor
    field: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.frequency_hz)
        if n < 2 or not bool((self.frequency_hz.diff() > 0).all()) or float(self.frequency_hz[0]) < 0:
            raise ValueError("the frequencies of an impulse response must ascend from 0 Hz or above, two at least")
        for name, values in (("gain", self.gain), ("field", self.field)):
            if values is not None and (values.shape != (3, n) or not bool(torch.isfinite(values.abs()).all())):
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}; wanted finite numbers (3, {n}), rows z, y, x"
                )

    def at(self, values: Tensor, frequency_hz: Tensor) -> Tensor:
        """(axis, frequency) values between those measured; held constant beyond them."""
        known = self.frequency_hz.double().numpy()
        rows = [
            np.interp(frequency_hz.numpy(), known, row.real) + 1j * np.interp(frequency_hz.numpy(), known, row.imag)
            for row in values.to(torch.complex128).numpy()
        ]
        return torch.from_numpy(np.stack(rows))


def load(path: str | Path) -> Response:
    """An impulse response from JSON: `frequency_hz`; `gain` (and `field`) for z, y, x as [real, imaginary] pairs."""
    try:
        held = json.loads(Path(path).read_text())
        frequency = torch.tensor(held["frequency_hz"], dtype=torch.float64)
        gain = complex_rows(held["gain"])
        field = complex_rows(held["field"]) if "field" in held else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{Path(path).name} is no impulse response ({error}); wanted JSON with frequency_hz (numbers) and gain: "
            "z, y, x, each [[real, imaginary], ...]"
        ) from error
    return Response(frequency, gain, field)


def complex_rows(rows: list[list[list[float]]]) -> Tensor:
    """(axis, frequency) complex numbers of nested [real, imaginary] pairs."""
    return torch.view_as_complex(torch.tensor(rows, dtype=torch.float64).contiguous())


def played(omega: Tensor, readout: int, dwell_us: float, response: Response, turn: Tensor | None = None) -> Tensor:
    """The trajectory (axis, sample) that the gradients play when `omega` is demanded.

    omega  rad/voxel, isotropic voxels; each readout is preceded and followed by its own slow return to k = 0
    turn   (3, 3) image axes (rows z, y, x) in terms of the gradients' (columns z, y, x); identity where not given
    """
    speed, size = ramps(omega, readout)
    axes = len(omega)
    way = torch.eye(3, dtype=torch.float64)[-axes:] if turn is None else turn.double()[-axes:]
    spectrum = torch.fft.rfft(torch.einsum("ag,ars->grs", way, speed))
    frequency = torch.fft.rfftfreq(speed.shape[-1], dwell_us * 1e-6).double()
    spectrum = spectrum * response.at(response.gain, frequency)[:, None]
    out = torch.einsum("ag,grs->ars", way, torch.fft.irfft(spectrum, n=speed.shape[-1]))
    path = out.cumsum(-1)[..., size : size + readout].flatten(1)
    return path.clamp(-pi, pi).to(omega.dtype)


def field_phase(omega: Tensor, readout: int, dwell_us: float, response: Response) -> Tensor:
    """(sample) radians by which the gradients' effect on the main field (k0) turns the signal.

    The gradients lie along the image's axes.
    The data are corrected by `kspace * exp(-1j * phase)`.
    """
    if response.field is None:
        raise ValueError("this impulse response has no field term: k0 cannot be predicted from it")
    speed, size = ramps(omega, readout)
    dwell_s = dwell_us * 1e-6
    frequency = torch.fft.rfftfreq(speed.shape[-1], dwell_s).double()
    rows = response.at(response.field, frequency)[-len(omega) :, None]
    offset = torch.fft.irfft((torch.fft.rfft(speed / dwell_s) * rows).sum(0), n=speed.shape[-1])
    phase = offset.cumsum(-1) * dwell_s
    return phase[:, size : size + readout].flatten()


def ramps(omega: Tensor, readout: int) -> tuple[Tensor, int]:
    """(axis, readout, step) k-space velocity a sample of each readout with its way out and back, and steps before it.

    The way out takes as long as the readout, so that what it excites is as slow as a prephaser's.
    """
    if readout < 2 or omega.shape[-1] % readout:
        raise ValueError(f"{omega.shape[-1]} samples are no whole number of readouts of {readout} (two at least)")
    path = omega.double().reshape(len(omega), -1, readout)
    # a smooth step from 0 to 1 whose slope vanishes at both ends
    t = torch.arange(1, readout + 1, dtype=torch.float64) / (readout + 1)
    smooth = t * t * (3 - 2 * t)
    whole = torch.cat([path[..., :1] * smooth, path, path[..., -1:] * smooth.flip(0), 0 * path[..., :1]], -1)
    return whole.diff(dim=-1, prepend=torch.zeros_like(whole[..., :1])), readout
