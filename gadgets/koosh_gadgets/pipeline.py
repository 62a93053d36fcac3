"""The stages in order, the same for a socket, a file and a test: items in, images out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import ismrmrd
import numpy as np

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages import calibrate, trust
from koosh_gadgets.stages.ahead import Ahead, shown
from koosh_gadgets.stages.background import in_background
from koosh_gadgets.stages.budget import check_matrix, foreseen
from koosh_gadgets.stages.buffer import buffer
from koosh_gadgets.stages.encoding import Encoding, encodings
from koosh_gadgets.stages.frames import joined, reconstruct_series, stacked
from koosh_gadgets.stages.grid import Grid, cropped, grid, scan_of
from koosh_gadgets.stages.image import Format, Result, brightness, images
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.known import Known
from koosh_gadgets.stages.prepared import Prepared
from koosh_gadgets.stages.provenance import meta
from koosh_gadgets.stages.reconstruct import (
    Outcome,
    calibrated,
    device_of,
    gridded,
    reconstruct,
    sentence,
    with_residual,
)
from koosh_gadgets.stages.trajectory import with_trajectory
from koosh_gadgets.stages.unpack import unpacked
from koosh_gadgets.stages.volume import Volume
from koosh_gadgets.stages.whiten import whiten
from koosh_gadgets.wire.header import read_header
from koosh_models.memory import free_mib, ran_out

if TYPE_CHECKING:
    from koosh_gadgets.dicom.deliver import Delivery
    from koosh_gadgets.dicom.outbox import Outbox
    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.scan import Scan

log = logging.getLogger(__name__)
Turn = Callable[[], contextlib.AbstractContextManager[object]]
BASELINE_SERIES, PREVIEW_SERIES = 20, 90
LATERAL = ("HFDR", "HFDL", "FFDR", "FFDL")  # patient positions


@dataclass(eq=False)
class Job:
    """One scan's way through the stages.

    turn    entered around each reconstruction: the queue of a device
    device  where it runs: auto, cpu, cuda, cuda:1 ...
    outbox  takes every scan as DICOM on its way to a PACS
    """

    header: bytes
    settings: Settings
    journal: Journal = field(default_factory=Journal)
    form: Format = field(default_factory=Format)
    turn: Turn = contextlib.nullcontext
    outbox: Outbox | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.settings = dataclasses.replace(self.settings, memory=self.settings.memory or free_mib() // 2)
        self.parsed: ismrmrd.xsd.ismrmrdHeader = read_header(self.header)
        self.spaces: list[Encoding] = encodings(self.parsed)
        kinds = [k for k in ("phase", "complex") if getattr(self.settings, k)]
        self.form = dataclasses.replace(self.form, layout=self.settings.layout, kinds=("magnitude", *kinds))
        self.known: dict[int, Known] = {}
        self.first_counter: int | None = None
        self.next_index: dict[int, int] = {}
        self.doubted: list[trust.Doubted] = []
        self.places: dict[tuple[int, tuple[float, float, float]], dict[int, int]] = {}
        self.delivery = self._delivery()

    def volumes(self, items: Iterable[object], expected: Ahead | None = None) -> Iterator[Volume]:
        """Whole volumes out of a stream of items; `expected` is shown the readouts as they come."""
        settings, journal = self.settings, self.journal
        white = whiten(unpacked(items), journal, settings.noise_adjusted, noise_bandwidth(self.parsed))
        placed = with_trajectory(white, self.spaces, settings, journal, self.known)
        if expected is not None:
            placed = shown(placed, expected)
        placed = foreseen(placed, self.spaces, settings)
        return buffer(placed, self.spaces, journal, settings.coils, settings.memory << 20, settings.preview)

    def images(self, items: Iterable[object], depth: int = 0) -> Generator[ismrmrd.Image, None, None]:
        """Images of every volume in the stream, which is read on while a volume is being reconstructed.

        depth  volumes that may wait; 0: any number, so that a scanner is never held up
        """
        on_cpu = self.device == "cpu" or device_of(self.device).type == "cpu"
        expected = Ahead.of(self.spaces, self.settings, self.journal, self.known) if on_cpu else None
        try:
            solid = self.settings.method == "llr"
            for volumes in joined(in_background(self.volumes(items, expected), depth), solid):
                yield from self.reconstructed(volumes, expected)
            while self.doubted:  # no image waits for what takes as long as the images themselves
                yield from self._mapped(self.doubted.pop(0), "disagreement")
        finally:
            if expected is not None:
                expected.close()
            if self.delivery is not None:  # what is reconstructed is kept, whether or not the peer is still there
                self.delivery.finish(self.header, self.journal.scan)
        log.info("%s: done; before + after the last readout: %s", self.journal.scan, self.journal.times())

    def _delivery(self) -> Delivery | None:
        """Where DICOM goes, if it is wanted."""
        if not self.settings.dicom and self.outbox is None:
            return None
        from koosh_gadgets.dicom.deliver import Delivery

        folder = Path(self.settings.dicom) if self.settings.dicom else None
        return Delivery(folder, self.outbox, self.settings.enhanced, self.form.kinds)

    def reconstructed(self, volumes: tuple[Volume, ...], expected: Ahead | None = None) -> Iterator[ismrmrd.Image]:
        """The images of one volume, or of the frames of a series."""
        if self.first_counter is None:
            self.first_counter = min(int(v.heads["scan_counter"].min()) for v in volumes)
        place = grid(volumes[0].encoding, self.settings.matrix)
        check_matrix(tuple(int(n) for n in place.matrix), self.settings.memory)
        with self.turn():
            if len(volumes) > 1:
                outcomes = self._frames(volumes, place)
            else:
                outcomes = [(volumes[0], *o) for o in self._outcomes(volumes[0], place, expected)]
            if self.settings.even:
                outcomes = self._evened(outcomes)
        top = brightness(np.abs(np.stack([o.volume.cpu().numpy() for _, o, _, _ in outcomes]))) if volumes[1:] else 0.0
        doubted: list[trust.Doubted] = []
        with self.journal.timed("images"):
            for volume, outcome, scan, series in outcomes:
                result = dataclasses.replace(self._result(volume, place, scan, outcome, series), top=top)
                if self.delivery is not None and not volume.preview:
                    self.delivery.add(result)
                yield from images(result, self.form)
                if outcome.basis is not None:
                    doubted.append(trust.Doubted(outcome.basis, result, place))
        for one in doubted:
            yield from self._mapped(one, "residual")
        self.doubted += trust.waiting(doubted)

    def _mapped(self, doubted: trust.Doubted, kind: str) -> Iterator[ismrmrd.Image]:
        """The images of a map of where an image is doubtful."""
        for result in trust.mapped(doubted, kind, self.settings, self.journal, self.turn):
            if self.delivery is not None:
                self.delivery.add(result)
            kinds = tuple(k for k in self.form.kinds if k != "phase")
            yield from images(result, dataclasses.replace(self.form, kinds=kinds))

    def _frames(self, volumes: tuple[Volume, ...], place: Grid) -> list[tuple[Volume, Outcome, Scan, int]]:
        """The frames of a series, reconstructed together."""
        scans = [self._scan(volume, place) for volume in volumes]
        if self.settings.gating or any(scan.weights is not None for scan in scans):
            self.journal.note("the frames are reconstructed one by one: they are gated, or reach beyond the grid")
            return [(v, *o) for v in volumes for o in self._outcomes(v, place, None)]
        series = stacked(scans)
        found = [(reconstruct_series(series, self.settings, self.journal), 1)]
        if self.settings.baseline and found[0][0].method == "unrolled":
            classical = dataclasses.replace(self.settings, method="llr")
            found.append((reconstruct_series(series, classical, self.journal), BASELINE_SERIES))
        return [
            (volume, dataclasses.replace(whole, volume=whole.volume[k]), scan, number)
            for whole, number in found
            for k, (volume, scan) in enumerate(zip(volumes, scans, strict=True))
        ]

    def _scan(self, volume: Volume, place: Grid) -> Scan:
        """The volume's data on its grid, on the trajectory that the gradients played."""
        with self.journal.timed("grid"):
            scan = scan_of(volume, place, self.journal)
        if self.settings.girf:
            position = self.parsed.measurementInformation
            lateral = position is not None and str(position.patientPosition.value) in LATERAL
            dwell = float(volume.heads["sample_time_us"][0])
            scan = calibrate.played(scan, dwell, lateral, self.settings, self.journal)
        return scan.to(device_of(self.device))

    def _evened(self, outcomes: list[tuple[Volume, Outcome, Scan, int]]) -> list[tuple[Volume, Outcome, Scan, int]]:
        """The images without the shading that their coils leave: one shading for all of them, of the first series."""
        first = [outcome.volume for _, outcome, _, series in outcomes if series == outcomes[0][3]]
        try:
            with self.journal.timed("brightness"):
                shading = calibrate.shading(first)
        except (ValueError, RuntimeError) as error:
            self.journal.note(f"the coils' shading could not be estimated: {sentence(error)}")
            return outcomes
        self.journal.note("the coils' shading was estimated from the image and divided out", logging.INFO)
        for _, outcome, _, _ in outcomes:
            if outcome.basis is not None:
                outcome.basis.shading = shading
        return [
            (volume, dataclasses.replace(outcome, volume=calibrate.evened(outcome.volume, shading)), scan, series)
            for volume, outcome, scan, series in outcomes
        ]

    def _outcomes(self, volume: Volume, place: Grid, expected: Ahead | None) -> list[tuple[Outcome, Scan, int]]:
        """What is made of a volume, on the CPU where calibration alone is more than the device's memory holds."""
        device, scan = device_of(self.device), self._scan(volume, place)
        try:
            return self._outcomes_of(volume, scan.to(device), expected)
        except (RuntimeError, MemoryError) as error:
            if device.type == "cpu" or not ran_out(error):
                raise
            self.journal.note(f"the device's memory ran out ({sentence(error)}): reconstructed on the CPU")
        return self._outcomes_of(volume, scan.to("cpu"), None)

    def _outcomes_of(self, volume: Volume, scan: Scan, expected: Ahead | None) -> list[tuple[Outcome, Scan, int]]:
        """The reconstruction of a scan, and the baseline where that is asked for."""
        settings, journal = self.settings, self.journal
        numbers = volume.heads["scan_counter"].astype("int64")[: scan.n_readouts] - (self.first_counter or 0)
        expected = expected if expected is not None and expected.matches(scan) else None
        beyond = scan.weights is not None
        scan = calibrate.weighted(scan, numbers, settings, journal, expected)
        if settings.delays.strip() == "auto" and not volume.preview and not beyond:
            scan = calibrate.without_delays(scan, journal)
            scan = scan if scan.weights is not None else calibrate.weighted(scan, numbers, settings, journal, None)
        if volume.preview:
            ready = calibrated(scan, self._maps(scan), dataclasses.replace(settings, method="gridding"), journal)
            return [(Outcome(gridded(ready), "gridding"), scan, PREVIEW_SERIES)]
        prepared = self._prepared(scan, expected)
        maps = prepared.calibration.maps if prepared is not None else self._maps(scan)
        ready = calibrated(scan, maps, settings, journal, prepared)
        outcome = reconstruct(ready, settings, journal)
        outcome = trust.announced(outcome, ready, settings, journal, sum(d.basis.held for d in self.doubted))
        found = [(outcome, scan, 1)]
        if settings.baseline and outcome.method == "unrolled":
            classical = reconstruct(ready, dataclasses.replace(settings, method="l1"), journal)
            found.append((classical, scan, BASELINE_SERIES))
        if settings.residual:
            return [(with_residual(o, ready, journal), scan, series) for o, scan, series in found]
        return found

    def _prepared(self, scan: Scan, expected: Ahead | None) -> Prepared | None:
        """Maps, kernel and right-hand side from what was worked on while the scan ran."""
        if expected is None:
            return None
        try:
            return expected.prepared(scan)
        except (ValueError, RuntimeError, MemoryError) as error:
            log.info("%s: %s; the maps come from the whole scan", self.journal.scan, sentence(error))
            return None

    def _maps(self, scan: Scan) -> CoilMaps | None:
        try:
            return calibrate.maps_of(scan, self.journal)
        except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: a decomposition that fails
            if ran_out(error) and scan.kspace.device.type != "cpu":
                raise
            self.journal.note(f"no coil maps: {sentence(error)}; the coils are joined by root sum of squares")
            return None

    def _result(self, volume: Volume, place: Grid, scan: Scan, outcome: Outcome, series: int) -> Result:
        """The volume with its place and its story."""
        space = scan.geometry
        wanted = tuple(int(n) for n in place.wanted[::-1])
        fov = tuple(v * n for v, n in zip(space.voxel_mm, wanted, strict=True))
        what = " preview" if volume.preview else " baseline" if series == BASELINE_SERIES else ""
        number = self._series(volume, series, space.position_mm)
        first = self.next_index.get(number, 0)
        self.next_index[number] = first + (wanted[0] if len(wanted) == 3 else 1)
        return Result(
            volume=cropped(outcome.volume.cpu().numpy(), place),
            geometry=dataclasses.replace(space, matrix=wanted, fov_mm=fov),
            head=volume.heads[0],
            first=first,
            series=number,
            name=f"{self.settings.series} {outcome.method}{what}",
            meta=meta(volume, outcome, scan, self.settings.method, self.device, self.journal),
        )

    def _series(self, volume: Volume, series: int, position: tuple[float, float, float]) -> int:
        """The series a volume belongs to: one an encoding; slices that all claim one place get a series each."""
        if series != 1:
            return series
        own = self.places.setdefault((volume.key[0], position), {})
        offset = own.setdefault(volume.key[1], len(own))
        if offset:
            self.journal.note("several slices carry the same position: each goes into a series of its own")
        return series + 5 * int(volume.key[0]) + offset


def noise_bandwidth(header: ismrmrd.xsd.ismrmrdHeader) -> float:
    """The receiver's relative noise bandwidth, 1 where the header does not say."""
    system = header.acquisitionSystemInformation
    value = getattr(system, "relativeReceiverNoiseBandwidth", None)
    return float(value) if value and 0 < value <= 1 else 1.0
