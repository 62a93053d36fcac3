"""What the site needs beyond Markdown: equations as MathML, the reference out of docstrings, notebooks as pages."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from latex2mathml.converter import convert

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`]+)`\$")
REFERENCE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Make our packages importable, installed or not, and put pages that the contents don't name at their end."""
    named = str(config.nav)
    assert config.nav is not None
    (pages,) = config.nav[-1].values()
    pages += [path.name for path in sorted(HERE.glob("*.md")) if f"'{path.name}'" not in named]
    for root in ("gadgets", "models"):
        if (path := str(HERE.parent / root)) not in sys.path:
            sys.path.insert(0, path)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """One page for every notebook."""
    from mkdocs.structure.files import File

    for path in sorted((HERE / "notebooks").glob("*.py")):
        page = notebook(path.read_text(encoding="utf-8"), path.name)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations and reference entries in place of their sources."""
    markdown = BLOCK.sub(lambda found: f'<div style="overflow-x:auto">{mathml(found[1], "block")}</div>\n', markdown)
    # in a span, since a line that starts with an element of its own would end the paragraph
    markdown = INLINE.sub(lambda found: f"<span>{mathml(found[1], 'inline')}</span>", markdown)
    return REFERENCE.sub(lambda found: entry(found[1]), markdown)


def mathml(source: str, display: str) -> str:
    """LaTeX as MathML, which every browser draws by itself."""
    return convert(" ".join(source.split()), display=display)


def entry(name: str) -> str:
    """The reference entry of one object: signature, docstring, public methods."""
    parent, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(parent), last)
    lines = [f"### `{last}`", "", f"```python\n{signature(found, last)}\n```", "", prose(inspect.getdoc(found) or "")]
    if inspect.isclass(found):
        members = inspect.getmembers_static(found) if hasattr(inspect, "getmembers_static") else vars(found).items()
        for key, member in members:
            inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if key.startswith("_") or not inspect.isfunction(inner) or key not in vars(found):
                continue
            what = key if isinstance(member, property) else signature(inner, key)
            lines += ["", f"```python\n{what}\n```", "", prose(inspect.getdoc(inner) or "")]
    return "\n".join(lines) + f"\n\n*{inspect.getmodule(found).__name__}*\n"


def signature(found: object, name: str) -> str:
    """As one would call it."""
    text = str(inspect.signature(found)).replace("self, ", "").replace("(self)", "()")
    text = re.sub(r"'([^']*)'", r"\1", text)  # annotations are strings
    return f"{name}{text}"


def prose(doc: str) -> str:
    """The first paragraph as text, aligned tables of arguments as they stand."""
    parts = []
    for paragraph in doc.split("\n\n"):
        aligned = re.search(r"^\S.*? {2,}\S", paragraph, re.MULTILINE)
        parts.append("\n".join(f"    {line}" for line in paragraph.splitlines()) if aligned else paragraph)
    return "\n\n".join(parts)


def notebook(source: str, name: str) -> str:
    """A percent script as Markdown: comments of `[markdown]` cells are text, the rest is code."""
    cells = CELL.split(source)[1:]
    parts = []
    for kind, body in zip(cells[::2], cells[1::2], strict=True):
        if "[markdown]" in kind:
            parts.append("\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()))
        elif body.strip():
            parts.append(f"```python\n{body.strip()}\n```")
    run = f"Run it with `python docs/notebooks/{name}`, or cell by cell in an editor that knows `# %%`."
    return "\n\n".join([parts[0], run, *parts[1:]]) + "\n"
