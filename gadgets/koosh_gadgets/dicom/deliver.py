"""A scan's volumes as DICOM beside the images that are sent: into a folder, an outbox, or both."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import ismrmrd

from koosh_gadgets.dicom.outbox import Outbox
from koosh_gadgets.dicom.write import write_scan
from koosh_gadgets.imagefile import series_of
from koosh_gadgets.stages.image import Format, Result, images

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Delivery:
    """Collects the volumes of one scan and writes them at its end, when all frames of a series are known.

    problem   why something could not be written; empty where all went well
    """

    folder: Path | None
    outbox: Outbox | None
    enhanced: bool = False
    kinds: tuple[str, ...] = ("magnitude",)
    problem: str = ""
    _images: list[ismrmrd.Image] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Keep a volume, scaled to 16 bits, at its true place whatever the peer's dialect wants."""
        kinds = tuple(kind for kind in self.kinds if kind != "complex")
        self._images += images(result, Format("mrd", "slices", kinds))

    def finish(self, header: bytes, scan: str) -> None:
        """Write every series. A full disk or a volume that can't be shown costs the DICOM files, never the scan."""
        kept, self._images = self._images, []
        if not kept:
            return
        try:
            found = series_of(kept, header.decode("utf-8", "replace"))
            if self.folder is not None:
                write_scan(found, self.folder, enhanced=self.enhanced)
            if self.outbox is not None:
                with self.outbox.entry() as aside:
                    write_scan(found, aside, enhanced=self.enhanced)
        except (OSError, ValueError, MemoryError) as error:
            self.problem = " ".join(str(error).split())
            log.error("%s: no DICOM: %s", scan, self.problem)
