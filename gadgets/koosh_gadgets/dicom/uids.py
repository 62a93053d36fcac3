"""UIDs that follow from what they name: the same scan by the same recipe always gets the same ones."""

from __future__ import annotations

import uuid

# Ours; changing it would give every image already in a PACS a new name.
NAMESPACE = uuid.UUID("6a1f1e0c-3f0e-5b57-9c55-6b6f6f73682e")


def derived_uid(*parts: object) -> str:
    """A UID under 2.25 (ISO/IEC 9834-8) from a name-based UUID of all parts."""
    return f"2.25.{uuid.uuid5(NAMESPACE, repr(tuple(str(part) for part in parts))).int}"


IMPLEMENTATION = derived_uid("koosh", "implementation")
