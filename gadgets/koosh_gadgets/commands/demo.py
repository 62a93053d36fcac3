"""`koosh demo`: a simulated scan streamed through a server, to images, DICOM and a report; no scanner needed."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from koosh_gadgets.wire.errors import WireError
from koosh_models import private

log = logging.getLogger(__name__)
METHODS = ("gridding", "unrolled", "l1")
STOP_S = 20.0


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("demo", help="simulate, serve, stream, images, DICOM, report", description=__doc__)
    p.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder to write (%(default)s)")
    p.add_argument("--matrix", type=int, default=64, help="(%(default)s)")
    p.add_argument("--acceleration", type=float, default=6.0, metavar="R", help="(%(default)s)")
    p.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME", help="(%(default)s)")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Every step, told as it ends."""
    out = private.folder(arguments.out)
    began = time.perf_counter()
    simulate(out, arguments.matrix, arguments.acceleration)
    told("simulated a 3D radial scan of a head", out / "scan.h5", began)
    try:
        with served(out) as port:
            made = all_streamed(out, port, arguments.methods)
    except WireError as error:
        # our own server failed on our own scan: no fault of the user's
        log.error("%s; its log is %s", error, out / "serve.log")
        return 1
    began = time.perf_counter()
    best = made.get("unrolled") or list(made.values())[-1]
    n = to_dicom(best, out / "dicom")
    told(f"wrote {n} DICOM slices", out / "dicom", began)
    began = time.perf_counter()
    report(out, list(made.values()))
    told("wrote the report", out / "report.html", began)
    sys.stdout.write(
        f"Next: open {(out / 'report.html').resolve()} in a browser, then reconstruct a scan of your own:\n"
        "      koosh info SCAN.h5 && koosh replay SCAN.h5 -o images.h5\n"
    )
    return 0


def told(what: str, where: Path, began: float) -> None:
    """One line on stdout when a step is done."""
    sys.stdout.write(f"{what}: {where} ({time.perf_counter() - began:.1f} s)\n")
    sys.stdout.flush()


def simulate(out: Path, size: int, acceleration: float) -> None:
    """A head, 8 coils, 2 % noise, lying obliquely."""
    from koosh_gadgets.cli import parser

    arguments = [
        "simulate", str(out / "scan.h5"), "--matrix", str(size), "--acceleration", str(acceleration),
        "--position", "5", "-12", "20", "--orientation", "8", "-5", "3", "--truth", str(out / "truth.npz"),
    ]  # fmt: skip
    chosen = parser("simulate").parse_args(arguments)
    chosen.run(chosen)


@contextlib.contextmanager
def served(out: Path) -> Iterator[int]:
    """The port of a server of our own on this machine, stopped afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "koosh_gadgets.cli", "serve", "-p", str(port), "--spool", str(out / "spool")]
    with open(os.open(out / "serve.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ.copy())
        try:
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def all_streamed(out: Path, port: int, methods: Sequence[str]) -> dict[str, Path]:
    """The image file of every method; what has already stood in for another is not done again."""
    made: dict[str, Path] = {}
    used: set[str] = set()
    for method in methods:
        if method not in used:
            made[method], by_method = streamed(out, port, method)
            used.add(by_method)
    return made


def streamed(out: Path, port: int, method: str) -> tuple[Path, str]:
    """The image file of the scan, sent over a socket and reconstructed by the server, and the method that made it."""
    from koosh_gadgets.client import Request, send_scan
    from koosh_gadgets.files import open_scan, write_images

    began = time.perf_counter()
    with open_scan(out / "scan.h5") as scan:
        request = Request("127.0.0.1", port, "koosh_3d.xml", wait_s=600.0, retry_s=30.0)
        answer = send_scan(request, scan.xml, scan.items(), json.dumps({"method": method, "residual": "true"}))
        write_images(out / f"{method}.h5", answer.images, scan.xml)
    told(f"streamed the scan, reconstructed by {by(answer.images[0].meta)}", out / f"{method}.h5", began)
    return out / f"{method}.h5", str(answer.images[0].meta.get("koosh_method", method))


def by(meta: dict[str, str]) -> str:
    """The method that an image came from, and the one it stands in for."""
    method, asked = meta.get("koosh_method", "?"), meta.get("koosh_asked", "?")
    stages = meta.get("koosh_seconds", "")
    return (method if method == asked else f"{method} in place of {asked}") + (f" [{stages}]" if stages else "")


def to_dicom(images: Path, folder: Path) -> int:
    """How many DICOM files the first series of an image file became."""
    from koosh_gadgets.dicom.write import write_series
    from koosh_gadgets.imagefile import read_series

    return len(write_series(read_series(images)[0], folder))


def report(out: Path, images: list[Path]) -> None:
    """The page with all reconstructions beside the truth."""
    from koosh_gadgets.report.gather import gathered, read_truth
    from koosh_gadgets.report.page import write_report

    content = gathered("koosh demo", out / "scan.h5", images, read_truth(out / "truth.npz"))
    write_report(out / "report.html", content)
    for one in content.shown:
        scores = ", ".join(f"{name} {value:.3g}" for name, value in one.scores.items())
        sys.stdout.write(f"  {one.title}: {scores}\n")
