"""Where something stands in a TOML text, and changes to what was read of it."""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOMLDecodeError, loads = tomllib.TOMLDecodeError, tomllib.loads


class RecipeError(ValueError):
    """A recipe that can't be used; the message names file, line and remedy."""


def value_of(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        return loads(f"v = {text}")["v"]
    except TOMLDecodeError:
        return text


def assign(tree: dict[str, Any], key: str, value: Any, file: str) -> None:
    """Set `a.b.0.c` in nested tables and arrays."""
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        if isinstance(node, list):
            node = node[index_of(node, name, key, file)]
        else:
            node = node.setdefault(name, {})
    if isinstance(node, list):
        node[index_of(node, last, key, file)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"{file}: {key} goes into {node!r}, which is no table")


def index_of(node: list[Any], name: str, key: str, file: str) -> int:
    """A position in an array of tables."""
    if not name.isdigit() or int(name) >= len(node):
        raise RecipeError(f"{file}: {key} names entry {name!r} of {len(node)}; they count from 0")
    return int(name)


HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")


def line_of(text: str, loc: tuple[int | str, ...]) -> str:
    """` line N` of a key, or of the nearest table around it; empty where the file does not have it."""
    table: tuple[int | str, ...] = ()
    counts: dict[str, int] = {}
    best, depth = 0, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            name = header[2]
            table = tuple(name.split("."))
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
            if table[0] in counts:
                table = (table[0], counts[str(table[0])], *table[1:])
            here = table
        elif "=" in line and not line.lstrip().startswith("#"):
            here = (*table, *(part.strip().strip("\"'") for part in line.split("=")[0].split(".")))
        else:
            continue
        if here == loc[: len(here)] and len(here) > depth:
            best, depth = number, len(here)
    return f" line {best}" if best else ""
