"""Work done while the scan still runs, on the trajectory that its readouts are going to have.

Nothing here changes a result: what was prepared is used only where the trajectory that arrived is the same to the bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.journal import Journal

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.physics.toeplitz import Toeplitz
    from koosh_models.scan import Scan
    from koosh_models.support import Box

EVEN = ("radial3d", "ute3d")  # golden-means orders, even over the sphere at any time
PART = 0.75
EPS = 1e-4  # the accuracy of `non_cartesian`


def expected_omega(space: Encoding, matrix: int) -> tuple[tuple[int, ...], Tensor] | None:
    """(grid, omega) that the readouts will have if they follow the header."""
    import torch

    from koosh_gadgets.stages.grid import grid
    from koosh_gadgets.stages.known import described

    place = grid(space, matrix)
    if space.samples is None or (place.stretch(space) != 1).any():
        return None
    table = described(space, space.samples)
    if table is None:
        return None
    scale = np.full(space.n_axes, 2 * math.pi, np.float32)
    omega = (table * scale)[:, :, ::-1].reshape(-1, space.n_axes).T
    return tuple(int(n) for n in place.matrix[::-1]), torch.from_numpy(np.ascontiguousarray(omega))


@dataclass(frozen=True, eq=False)
class Prefix:
    """What was made of the first part of a scan.

    digest   of the k-space of that part
    maps     coil maps from it
    box      of the object
    kernel   Toeplitz form of the normal operator inside the box, None where the explicit pair is cheaper
    """

    digest: bytes
    maps: CoilMaps
    box: Box
    kernel: Toeplitz | None


class Ahead:
    """A thread that works on an expected trajectory: density weights at once, coil maps and kernel late in the scan.

    The trajectory's order must be spread evenly over k-space at any time, so that its first part serves for maps.
    """

    def __init__(self, matrix: tuple[int, ...], omega: Tensor, samples: int, journal: Journal, iterate: bool) -> None:
        self.matrix, self.omega, self.samples, self.journal, self.iterate = matrix, omega, samples, journal, iterate
        self.n_prefix = int(PART * (omega.shape[1] // samples)) * samples
        self._weights: Future[Tensor] | None = None
        self._prefix: Future[Prefix | None] | None = None
        self._arrived: list[np.ndarray] = []
        self._pool = ThreadPoolExecutor(1, "koosh-ahead")

    @classmethod
    def of(cls, spaces: Sequence[Encoding], settings: Settings, journal: Journal) -> Ahead | None:
        """Work on the trajectory that the header describes; None where it describes none that can be computed."""
        plain = settings.delays.strip() in ("", "0") and not settings.trajectory_file and not settings.coils
        if len(spaces) != 1 or not plain or spaces[0].family not in EVEN:
            return None
        found = expected_omega(spaces[0], settings.matrix)
        if found is None or spaces[0].samples is None:
            return None
        ahead = cls(*found, spaces[0].samples, journal, settings.method != "gridding")
        ahead._weights = ahead._pool.submit(ahead._weigh)
        return ahead

    def close(self) -> None:
        """No more work is coming."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def offer(self, data: np.ndarray) -> None:
        """Imaging readouts (readout, coil, sample) in the order in which they come; enough of them start the maps."""
        if self._prefix is None:
            self._arrived.append(data)
            if sum(len(d) for d in self._arrived) * self.samples >= self.n_prefix:
                self._prefix = self._pool.submit(self._calibrate, self._arrived)
                self._arrived = []

    def matches(self, scan: Scan) -> bool:
        """Whether the scan is the one that was expected, to the bit."""
        same = scan.geometry.matrix == self.matrix and scan.omega.shape == self.omega.shape and scan.weights is None
        return same and bool((scan.omega == self.omega).all())

    def weights(self) -> Tensor:
        """(sample) density weights of the expected trajectory."""
        assert self._weights is not None
        return self._weights.result()

    def prefix(self, scan: Scan) -> Prefix:
        """What the first part of a matching, weighted scan gives: prepared where the data are those that were seen."""
        part = scan.kspace[:, : self.n_prefix]
        found = self._prefix.result() if self._prefix is not None else None
        if found is not None and found.digest == digest(part):
            return found
        return self._from(part)

    def _weigh(self) -> Tensor:
        from koosh_models.calibration.density import pipe_menon

        with self.journal.timed("density weights"):
            return pipe_menon(self.omega, self.matrix)

    def _calibrate(self, arrived: list[np.ndarray]) -> Prefix | None:
        import torch

        data = np.concatenate(arrived).transpose(1, 0, 2)
        if data.shape[2] != self.samples:
            return None
        flat = np.ascontiguousarray(data).reshape(len(data), -1)[:, : self.n_prefix]
        try:
            return self._from(torch.from_numpy(np.ascontiguousarray(flat)))
        except (ValueError, RuntimeError, MemoryError):  # NaN, or no signal: the whole scan is looked at later
            return None

    def _from(self, kspace: Tensor) -> Prefix:
        from koosh_models.reconstruction import calibrate
        from koosh_models.scan import Geometry, Scan
        from koosh_models.support import box_around

        weights = self.weights()
        n, place = self.n_prefix, Geometry(self.matrix, tuple(float(m) for m in self.matrix))
        with self.journal.timed("coil maps"):
            part = Scan(kspace, self.omega[:, :n].contiguous(), place, self.samples, weights[:n])
            maps = calibrate(part)
            box = box_around(maps.mask)
        return Prefix(digest(kspace), maps, box, self._kernel(box, weights) if self.iterate else None)

    def _kernel(self, box: Box, weights: Tensor) -> Toeplitz | None:
        from koosh_models.physics import toeplitz
        from koosh_models.physics.nufft import Nufft

        if not prefers_kernel(self.omega, box.size):
            return None
        share = math.prod(box.size) / math.prod(box.matrix)
        with self.journal.timed("kernel"):
            whole = weights if box.size == box.matrix else weights * share
            return toeplitz.build(Nufft(self.omega, box.size, EPS), whole)


def digest(kspace: Tensor) -> bytes:
    """What tells (coil, sample) data from any others."""
    found = hashlib.blake2b(str(tuple(kspace.shape)).encode(), digest_size=16)
    for row in kspace:
        found.update(row.contiguous().numpy())
    return found.digest()


def prefers_kernel(omega: Tensor, matrix: tuple[int, ...]) -> bool:
    """The fixed rule of `koosh_models.physics.mri.use_pair`, before there is a scan."""
    from koosh_models.physics.mri import PAIR_BELOW

    return bool(omega.device.type != "cpu" or omega.shape[-1] / math.prod(matrix) >= PAIR_BELOW[len(matrix)])
