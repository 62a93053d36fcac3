"""The online half of koosh: the wire, the files, the scanner's words; no mathematics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from koosh_gadgets.imagefile import Series, read_series
    from koosh_gadgets.scans import read_scans, write_image

__all__ = ["Series", "read_scans", "read_series", "write_image"]

_HOMES = {"Series": "imagefile", "read_scans": "scans", "read_series": "imagefile", "write_image": "scans"}


def __getattr__(name: str) -> object:
    """A public name, its module imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'koosh_gadgets' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"koosh_gadgets.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
