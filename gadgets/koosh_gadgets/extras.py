"""Which extra of the distribution brings a package that is not there."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence


def require(extra: str, packages: Sequence[str]) -> None:
    """Nothing, or an ImportError that names the missing packages and the extra that brings them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{' and '.join(missing)} not installed: pip install 'koosh[{extra}]'", name=missing[0])
