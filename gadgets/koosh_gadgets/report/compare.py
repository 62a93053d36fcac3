"""The classical methods on the same scan, for the page that shows them beside an image."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from koosh_gadgets.imagefile import Series, series_of
from koosh_gadgets.settings import Settings

log = logging.getLogger(__name__)

OTHERS = {"unrolled": ("l1", "gridding"), "l1": ("cg", "gridding"), "cg": ("gridding",), "gridding": ("cg",)}
"""What each method is shown beside."""


def alone(settings: Settings) -> Settings:
    """The settings for one magnitude image and nothing else beside it."""
    return dataclasses.replace(
        settings, dicom="", preview=False, baseline=False, phase=False, complex=False, time_limit=0.0, residual=True,
        trust="none",
        layout="slices",
    )  # fmt: skip


def compared(scan: Path, settings: Settings, made: list[Series]) -> list[Series]:
    """The series of every method that the made ones lack, from the same file under the same settings."""
    have = {one.meta.get("koosh_method", "") for one in made}
    wanted = [name for name in OTHERS.get(settings.method, ()) if name not in have]
    found: list[Series] = []
    for method in wanted:
        if method not in have:
            series = by(scan, dataclasses.replace(alone(settings), method=method))
            have |= {one.meta.get("koosh_method", "") for one in series}
            found += series
    return found


def by(scan: Path, settings: Settings) -> list[Series]:
    """The magnitude series of a recorded scan by one method, or by the one that stands in for it."""
    from koosh_gadgets.pipeline import Job
    from koosh_gadgets.replay import open_recorded

    log.info("%s: %s for comparison", scan.name, settings.method)
    with open_recorded(scan) as (header, items, journal, _):
        return series_of(Job(header, settings, journal, device="auto").images(items, depth=1), header.decode())
