"""A scan through the pipeline without wire or file."""

from __future__ import annotations

import numpy as np

from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.image import Format
from koosh_gadgets.stages.journal import Journal
from tests.fakes.streams import header_xml


def run(items, header: str | None = None, dialect: str = "mrd", **settings):
    """(images, journal) of the items under gridding unless another method is asked for."""
    settings = {"method": "gridding", **settings}
    job = Job((header or header_xml()).encode(), Settings(**settings), Journal(), Format(dialect))
    return list(job.images(items)), job.journal


def volume(images) -> np.ndarray:
    """(z, y, x) pixels of 2D images in true units, in slice order."""
    parts = [im.data[0].astype(np.float64) * float(im.meta["RescaleSlope"]) for im in images]
    return np.concatenate(parts)
