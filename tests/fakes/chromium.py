"""A browser without a window: pictures of a page, what it measures, and what it asks of the network."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# what the browser asks for itself, whatever page it shows: the time, updates, its user's account
OWN = ("clients2.google.com", "update.googleapis.com", "accounts.google.com")
# of a page in a frame of that width: how wide its content is, how high, and pictures that failed
PROBE = """<!doctype html><body style="margin:0"><iframe id=f style="width:{width}px;height:800px;border:0"
srcdoc="{page}"></iframe><script>onload=()=>{{const d=document.getElementById('f').contentDocument,e=d.documentElement;
document.body.innerHTML='<pre>'+JSON.stringify({{width:e.scrollWidth,height:e.scrollHeight,
broken:[...d.images].filter(i=>!i.naturalWidth).length,images:d.images.length,
wide:[...d.body.querySelectorAll('*')].filter(n=>n.getBoundingClientRect().right>{width}+1&&!n.closest('.wide'))
.map(n=>n.tagName+' '+n.textContent.slice(0,30))}})+'</pre>'}}</script>"""


def chromium(tmp_path: Path, *words: str) -> str:
    """What the browser prints."""
    command = ["chromium", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def screenshot(tmp_path: Path, page: Path, width: int, height: int) -> Path:
    """A picture of the top of a page."""
    out = tmp_path / f"{page.stem}-{width}.png"
    chromium(tmp_path, f"--window-size={width},{height}", f"--screenshot={out}", page.as_uri())
    return out


def measured(tmp_path: Path, page: Path, width: int) -> dict[str, object]:
    """What a page of that width measures: `width`, `height`, `images`, `broken`, elements too `wide`."""
    probe = tmp_path / "probe.html"
    # a framed text has no place of its own: its styles and pictures lie beside the page
    based = page.read_text().replace("<head>", f'<head><base href="{page.parent.as_uri()}/">', 1)
    probe.write_text(PROBE.format(width=width, page=escape(based)))
    said = chromium(tmp_path, "--dump-dom", "--virtual-time-budget=5000", probe.as_uri())
    found = re.search(r"<pre>(\{.*?\})</pre>", said, re.DOTALL)
    assert found is not None, said[-500:]
    return dict(json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")))


@dataclass
class Proxy:
    """Takes every request that a browser makes over the network, and answers none."""

    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Proxy:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.flag = f"--proxy-server=127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.listen, daemon=True).start()
        return self

    def listen(self) -> None:
        while True:
            try:
                peer, _ = self.server.accept()
            except OSError:
                return
            with peer:
                self.asked.append(peer.recv(4096).split(b"\r\n")[0].decode(errors="replace"))

    def __exit__(self, *_: object) -> None:
        self.server.close()


def requests(tmp_path: Path, page: Path) -> list[str]:
    """The first line of every request that the page makes."""
    with Proxy() as proxy:
        chromium(tmp_path, proxy.flag, "--virtual-time-budget=5000", "--dump-dom", page.as_uri())
        return [line for line in proxy.asked if not any(host in line for host in OWN)]
