"""The page: everything inside one file, no request to anywhere, readable on a phone."""

from __future__ import annotations

import platform
from pathlib import Path

from koosh_gadgets.atomic import write_atomic
from koosh_gadgets.report import parts
from koosh_gadgets.report.content import Content, Shown
from koosh_gadgets.report.parts import table, text

NOTICE = "Research output, not for diagnosis."
STYLE = """
:root{color-scheme:light dark;--line:#8884;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#b8860b}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:75rem;padding:1rem}
h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.4rem 0}h1,h2,h3,p,figcaption{overflow-wrap:break-word}
.grid{display:grid;gap:.5rem;grid-template-columns:repeat(auto-fill,minmax(min(9rem,46%),1fr))}
.row{display:grid;gap:.5rem;margin-bottom:.5rem;grid-template-columns:repeat(var(--n),minmax(0,1fr));
max-width:calc(var(--n)*20rem)}
.plots{display:grid;gap:1rem 2rem;grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr))}
figure{margin:0;min-width:0}figure img{width:100%;display:block;image-rendering:pixelated;background:#000}
figure svg{width:100%;display:block}.dark{background:#000;color:#7cf}figcaption{font-size:.8rem;opacity:.85}
.plot text{font-size:3.6px;fill:currentColor}.plot .frame{stroke:currentColor;opacity:.5;stroke-width:.3;fill:none}
.plot polyline{fill:none;stroke-width:.8}.key{white-space:nowrap;margin-right:.8rem}
.key i{display:inline-block;width:.9rem;height:.25rem;margin-right:.3rem;vertical-align:middle}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid var(--line);padding:.2rem .7rem .2rem 0;text-align:left;vertical-align:top}
th{font-weight:500;min-width:6rem}td{overflow-wrap:anywhere}
.times td,.scores td,.scores th+th{text-align:right;white-space:nowrap;min-width:0}.times th{white-space:nowrap}
.times td:last-child{width:40%;min-width:5rem}.bar{display:flex;height:.9rem;margin-top:.3rem}
.bar i{background:var(--c2)}.bar i+i{background:var(--c1)}.warn{border-left:.3rem solid #d80;padding:.3rem .8rem}
.notice{font-weight:600}@media(max-width:40rem){body{padding:.7rem;font-size:15px}
.row{grid-template-columns:repeat(2,minmax(0,1fr))}}
"""


def write_report(path: str | Path, content: Content) -> None:
    """Write the page; it is whole or absent."""
    if not content.shown:
        raise ValueError("a report needs at least one reconstruction")
    write_atomic(path, page(content).encode())


def page(content: Content) -> str:
    """The page as text; whatever came from a file is escaped."""
    body = [f"<h1>{text(content.title)}</h1>", f'<p class="notice">{NOTICE}</p>']
    body += [f'<p class="warn">{text(warning)}</p>' for warning in content.warnings]
    if any(one.scores for one in content.shown):
        body.append("<h2>Against the truth</h2>" + parts.scores(content.shown))
    body.append("<h2>Images</h2>" + parts.images(content))
    if content.maps:
        body.append("<h2>Where the image is doubtful</h2>" + parts.doubts(content.maps))
    if any(one.residual for one in content.shown):
        body.append("<h2>Residual in k-space</h2>" + parts.residuals(content.shown))
    if any(one.times for one in content.shown):
        body.append("<h2>Time</h2>" + parts.times(content.shown))
    body.append("<h2>Scan</h2>" + table(list(content.scan.items())))
    if content.measured is not None:
        body.append("<h2>Trajectory and density</h2>" + parts.trajectory(content.measured))
        body.append("<h2>Coil maps</h2>" + parts.coils(content.measured.coils))
    body += [provenance(one) for one in content.shown]
    body.append("<h2>Versions</h2>" + table(versions()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{text(content.title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def provenance(one: Shown) -> str:
    """What is known of one reconstruction, and the card of its network."""
    card = "<h3>Card of its weights</h3>" + table(list(one.card.items())) if one.card else ""
    return f"<h2>{text(one.title)}</h2>" + table(list(one.facts.items())) + card


def versions() -> list[tuple[str, object]]:
    """What made the page."""
    from importlib.metadata import PackageNotFoundError, version

    rows: list[tuple[str, object]] = [("Python", platform.python_version()), ("machine", platform.machine())]
    for name in ("koosh", "torch", "finufft", "ducc0", "ismrmrd", "numpy"):
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows
