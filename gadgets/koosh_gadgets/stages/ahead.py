"""Work done while the scan still runs, on the trajectory that its readouts are going to have.

Nothing here changes a result: what was prepared is used only where the trajectory that arrived is the same to the bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.encoding import Encoding

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.scan import Scan


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


@dataclass(eq=False)
class Prepared:
    """omega and what was computed from it."""

    omega: Tensor
    weights: Tensor


@dataclass(eq=False)
class Ahead:
    """A thread that computes density weights for an expected trajectory."""

    matrix: tuple[int, ...]
    omega: Tensor
    prepared: list[Prepared] = field(default_factory=list)
    thread: threading.Thread | None = None

    @classmethod
    def of(cls, spaces: Sequence[Encoding], settings: Settings) -> Ahead | None:
        """Work on the trajectory that the header describes, None where it describes none that can be computed."""
        if len(spaces) != 1 or spaces[0].cartesian or settings.trajectory_file or settings.delays not in ("", "0"):
            return None
        found = expected_omega(spaces[0], settings.matrix)
        return None if found is None else cls(*found).start()

    def start(self) -> Ahead:
        """Begin; the result is asked for with `weights`."""
        self.thread = threading.Thread(target=self._work, name="koosh-ahead", daemon=True)
        self.thread.start()
        return self

    def _work(self) -> None:
        from koosh_models.calibration.density import pipe_menon

        self.prepared.append(Prepared(self.omega, pipe_menon(self.omega, self.matrix)))

    def weights(self, scan: Scan) -> Tensor | None:
        """Density weights of the scan, if its trajectory is the expected one."""
        if self.thread is None or scan.geometry.matrix != self.matrix or scan.omega.shape != self.omega.shape:
            return None
        if not bool((scan.omega == self.omega).all()):
            return None
        self.thread.join()
        return self.prepared[0].weights if self.prepared else None
