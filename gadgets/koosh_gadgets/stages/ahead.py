"""Work done while the scan still runs, on the trajectory that its readouts are going to have.

What was prepared is used only where the trajectory that arrived is the same to the bit, and gives what the same steps
after the scan would give. A trajectory that only the readouts carry is calibrated from the whole scan instead.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.known import Known, Listed, described
from koosh_gadgets.stages.prepared import Block, Calibration, Plan, Prepared, block, calibration, digest, kernel
from koosh_gadgets.stages.trajectory import APART
from koosh_gadgets.wire.readouts import Readouts

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.scan import Scan

log = logging.getLogger(__name__)
ONE = threading.Lock()  # scans that run at once work ahead one after the other: together they would all be late


def expected_plan(space: Encoding, matrix: int, table: np.ndarray | None) -> Plan | None:
    """The plan of readouts that follow `table` (readout, sample, axis) in cycles per voxel."""
    import torch

    from koosh_gadgets.stages.grid import grid

    place = grid(space, matrix)
    if table is None or (place.stretch(space) != 1).any():
        return None
    scale = np.full(space.n_axes, 2 * math.pi, np.float32)
    omega = (table * scale)[:, :, ::-1].reshape(-1, space.n_axes).T
    size = tuple(int(n) for n in place.matrix[::-1])
    return Plan.of(size, torch.from_numpy(np.ascontiguousarray(omega)), table.shape[1])


class Ahead:
    """A thread that works on an expected trajectory: density weights at once, then block by block as readouts come.

    Beside the readouts themselves it holds one block's copy of them, a volume for each block, the maps and the kernel.
    """

    def __init__(self, space: Encoding, settings: Settings, journal: Journal, known: dict[int, Known]) -> None:
        self.space, self.matrix, self.journal, self.known = space, settings.matrix, journal, known
        self.iterate = settings.method != "gridding"
        self.plan: Plan | None = None
        self._weights: Future[Tensor] | None = None
        self._found: Calibration | None = None
        self._blocks: list[Future[Block | None]] = []
        self._arrived: list[np.ndarray] = []
        self._pool = ThreadPoolExecutor(1, "koosh-ahead")
        self._begin(described(space, space.samples) if space.samples and not settings.trajectory_file else None)

    @classmethod
    def of(
        cls, spaces: Sequence[Encoding], settings: Settings, journal: Journal, known: dict[int, Known]
    ) -> Ahead | None:
        """Work on the trajectory of the header or of a file; None where what arrives will not be what they say.

        known  filled by the trajectory stage with what it has read or computed
        """
        plain = settings.delays.strip() in ("", "0") and not (settings.coils or settings.gating or settings.girf)
        if len(spaces) != 1 or not plain or spaces[0].cartesian or spaces[0].phases > 1:
            return None
        return cls(spaces[0], settings, journal, known)

    def close(self) -> None:
        """No more work is coming."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, table: np.ndarray | None) -> None:
        self.plan = expected_plan(self.space, self.matrix, table)
        if self.plan is not None:
            self._weights = self._pool.submit(self._weigh, self.plan)

    def offer(self, data: np.ndarray) -> None:
        """Imaging readouts (readout, coil, sample) in the order in which they come; each whole block is worked on."""
        if self.plan is None and isinstance(listed := self.known.get(0), Listed):
            self._begin(listed.table)
        if self.plan is None or len(self._blocks) == len(self.plan.ends):
            return
        self._arrived.append(data)
        for at in list(self.plan.blocks())[len(self._blocks) :]:
            n = (at.stop - at.start) // self.plan.samples
            if sum(map(len, self._arrived)) < n:
                return
            self._blocks.append(self._pool.submit(self._work, self.plan, at, self._take(n)))

    def _take(self, n: int) -> list[np.ndarray]:
        """The first `n` readouts that wait."""
        taken: list[np.ndarray] = []
        while n:
            first = self._arrived.pop(0)
            taken.append(first[:n])
            if len(first) > n:
                self._arrived.insert(0, first[n:])
            n -= len(taken[-1])
        return taken

    def matches(self, scan: Scan) -> bool:
        """Whether the scan is the one that was expected, to the bit."""
        return self.plan is not None and self.plan.matches(scan)

    def weights(self) -> Tensor:
        """(sample) density weights of the expected trajectory."""
        assert self._weights is not None
        return self._weights.result()

    def prepared(self, scan: Scan) -> Prepared:
        """Calibration and right-hand side of a matching scan, from the blocks that held its data, else made now."""
        assert self.plan is not None
        pieces = [(at, scan.kspace[:, at]) for at in self.plan.blocks()]
        blocks = [future.result() for future in self._blocks]
        found = self._found
        if found is None or not same(blocks, 0, pieces[0][1]):
            blocks, found = [], self._calibrate(self.plan, pieces[0][1])
        total: Tensor | None = None
        for k, (at, piece) in enumerate(pieces):
            ready = blocks[k] if same(blocks, k, piece) else self._grid(self.plan, at, piece, found)
            assert ready is not None
            total = ready.b if total is None else total + ready.b
        assert total is not None
        return Prepared(found, total)

    def _weigh(self, plan: Plan) -> Tensor:
        from koosh_models.calibration.density import pipe_menon

        with ONE, self.journal.timed("density weights"):
            return pipe_menon(plan.omega, plan.matrix)

    def _work(self, plan: Plan, at: slice, pieces: list[np.ndarray]) -> Block | None:
        """One block as it came; None where that can't be done, and the whole scan is looked at later."""
        import torch

        if any(piece.shape[1:] != (pieces[0].shape[1], plan.samples) for piece in pieces):
            return None
        data = np.ascontiguousarray(np.concatenate(pieces).transpose(1, 0, 2))
        kspace = torch.from_numpy(data.reshape(len(data), -1))
        try:
            with ONE:
                if at.start == 0:
                    self._found = self._calibrate(plan, kspace)
                return None if self._found is None else self._grid(plan, at, kspace, self._found)
        except (ValueError, RuntimeError, MemoryError) as error:  # NaN, no signal, a coil count that changes
            log.debug("a block could not be worked on ahead: %s", error)
            return None

    def _calibrate(self, plan: Plan, kspace: Tensor) -> Calibration:
        weights = self.weights()
        with self.journal.timed("coil maps"):
            maps, box = calibration(plan, weights, kspace)
        with self.journal.timed("kernel"):
            return Calibration(maps, box, kernel(plan, weights, box) if self.iterate else None)

    def _grid(self, plan: Plan, at: slice, kspace: Tensor, found: Calibration) -> Block:
        weights = self.weights()
        with self.journal.timed("problem"):
            return block(plan, weights, kspace, at, found)


def shown(items: Iterable[object], expected: Ahead) -> Iterator[object]:
    """The same items, the imaging readouts among them shown to the work done ahead."""
    for item in items:
        if isinstance(item, Readouts) and not item.flagged(*APART).any():
            expected.offer(item.data)
        yield item


def same(blocks: Sequence[Block | None], k: int, kspace: Tensor) -> bool:
    """Whether the k-th block was made of this k-space."""
    held = blocks[k] if k < len(blocks) else None
    return held is not None and held.digest == digest(kspace)
