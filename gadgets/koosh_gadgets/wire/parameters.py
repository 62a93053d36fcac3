"""Parameters as peers send them: Gadgetron's XML properties, JSON, or the bare name of a configuration."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as plain

from koosh_gadgets.wire.errors import Malformed

DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


def from_text(text: str) -> tuple[str, dict[str, str]]:
    """(configuration name, parameters) of a configuration message or of a JSON text."""
    text = DECLARATION.sub("", text, count=1).strip()  # Gadgetron's empty document is a declaration alone
    if not text:
        return "", {}
    if text.startswith("<"):
        return "", from_xml(text)
    if text.startswith("{"):
        return from_json(text)
    return text, {}


def from_xml(text: str) -> dict[str, str]:
    """Properties of `<configuration><property name= value=/></configuration>`, or of a chain's <external> parts."""
    import defusedxml.ElementTree as safe

    try:
        root: plain.Element = safe.fromstring(text, forbid_dtd=True)
    except Exception as error:  # defusedxml raises several unrelated classes
        raise Malformed(f"the configuration is no XML that can be accepted: {type(error).__name__}: {error}") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    homes = [c for e in root.iter("external") for c in e.iter("configuration")] or [root]
    found: dict[str, str] = {}
    for home in homes:
        for node in home.iter("property"):
            name = node.get("name") or node.findtext("name") or ""
            found[name] = node.get("value") or node.findtext("value") or ""
    return found


def from_json(text: str) -> tuple[str, dict[str, str]]:
    """A JSON object, its parameters at the top or under `parameters`; `config` names the configuration."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the parameters are no JSON: {error}") from error
    inner = content.get("parameters", content) if isinstance(content, dict) else None
    if not isinstance(inner, dict):
        raise Malformed("the JSON parameters are no object of names and values")
    found = {}
    for name, value in inner.items():
        if isinstance(value, dict | list) or value is None:
            raise Malformed(f"parameter {name!r} is no plain value")
        found[str(name)] = str(value).lower() if isinstance(value, bool) else str(value)
    return found.pop("config", ""), found
