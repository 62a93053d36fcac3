"""R12 to R14: a full disk, a hundred scans, more clients than places."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.promises.found import GRIDDING, Found, folder, pixels, small_disk
from koosh_gadgets.client import Answer
from koosh_gadgets.files import read_images, write_images
from koosh_gadgets.server import Server
from koosh_gadgets.spool import Recorded, Spool
from koosh_gadgets.workers import environment
from tests.fakes.runs import run
from tests.fakes.site import exchange, listen, running, until
from tests.fakes.streams import header_xml, point_scan, scan_stream


def filled(disk: Path) -> None:
    """Leave no byte."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def writers(disk: Path) -> dict[str, Callable[[], object]]:
    """Everything that writes files, aimed at a full disk."""
    from koosh_gadgets.atomic import write_atomic  # what writes a report
    from koosh_gadgets.dicom.write import write_series
    from koosh_gadgets.imagefile import Series
    from koosh_gadgets.nifti import write_nifti
    from koosh_models import weights
    from koosh_models.networks.unrolled import Dims, build
    from koosh_models.scan import Geometry
    from tests.gadgets.dicom.samples import META, header

    images, _ = run(point_scan())
    volume, place = np.zeros((8, 16, 16), "i2"), Geometry((8, 16, 16), (8.0, 16, 16))
    dims = Dims(stages=1, features=4, layers=2, cg_steps=2, start_steps=2)
    card = weights.Card(name="a", dims=dims, trained=weights.Range(), accepts=weights.Range())
    return {
        "images": lambda: write_images(disk / "i.h5", images, header_xml()),
        "DICOM": lambda: write_series(Series(volume, place, META, header()), disk / "d"),
        "NIfTI": lambda: write_nifti(disk / "v.nii", volume, place),
        "report": lambda: write_atomic(disk / "r.html", bytes(10_000)),
        "weights": lambda: weights.save(disk / "w.safetensors", build(dims), card),
        "checkpoint": lambda: checkpoint(disk / "c"),
    }


def checkpoint(place: Path) -> object:
    """A checkpoint of a small run."""
    import torch

    from koosh_models.training.checkpoint import State, write

    part = {"w": torch.zeros(1000)}
    return write(place, State(step=1, network=part, mean=part, optimizers=part, recipe="", facts={}))


def full_disk(_full: bool) -> Found:
    """R12: a disk of 2 MiB under the spool, and a full one under every writer."""
    with small_disk() as disk, folder() as other:
        if disk is None:
            return Found(True, "no tmpfs can be mounted here; tests/system/test_dicom_disk.py stands for it")
        n, spokes = 32, 1600
        items = point_scan(n=n, spokes=spokes, coils=6, voxel=(9, 6, 10))
        size = sum(len(raw) for raw in scan_stream(items))
        with running(other, spool=Spool(disk / "spool")) as server:
            answer = exchange(server.port, scan_stream(items, header_xml(n=n, spokes=spokes), name="koosh_gridding"))
        kept = [len(list(Recorded(path).messages())) for path in (disk / "spool").iterdir()]
        for path in (disk / "spool").iterdir():
            list(Recorded(path).records())  # raises where half a record is left
        filled(disk)
        silent, half, ending = apart(disk)
    text = f"scan of {size >> 20} MiB, spool of 2: {len(answer.images)} images out, {kept} messages kept whole; "
    text += f"6 writers on a full disk: {len(half)} half files {half[:2] or ''}, "
    text += f"{len(silent)} without an error {silent or ''}, their process ended with {ending}"
    return Found(len(answer.images) == n and not half and not silent and ending == 0, text)


def tried(disk: Path) -> tuple[list[str], list[str]]:
    """(writers that did not say that the disk is full, what they left there)."""
    half, silent = [], []
    for name, write in writers(disk).items():
        try:
            write()
            silent.append(name)
        except Exception as error:  # OSError mostly; safetensors has errors of its own
            known = getattr(error, "errno", None) == errno.ENOSPC
            silent += [] if known or re.search("no space|os error 28", str(error), re.I) else [name]
        half += [p.name for p in disk.rglob("*") if p.is_file() and p.name not in ("filler", ".lock")
                 and "spool" not in p.parts and p.suffix != ".part"]  # fmt: skip
        half += [p.name for p in disk.rglob("*.part")]
    return silent, half


def apart(disk: Path) -> tuple[list[str], list[str], int]:
    """The same from a process of its own, and how that ended: a library may end it over a file it can't close."""
    code = "import json, sys; from pathlib import Path; from benchmarks.promises import endurance as e; "
    code += "print(json.dumps(e.tried(Path(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, str(disk)], env=environment(), capture_output=True, check=False)
    silent, half = json.loads(done.stdout.splitlines()[-1]) if done.stdout else ([], ["nothing was tried"])
    return silent, half, done.returncode


def state(process: str) -> tuple[float, int, int]:
    """(resident MB, descriptors, threads) of a process."""
    place = Path("/proc") / process
    pages = int((place / "statm").read_text().split()[1])
    threads = len(list((place / "task").iterdir()))
    return pages * resource.getpagesize() / 1e6, len(list((place / "fd").iterdir())), threads


def soak(full: bool) -> Found:
    """R13: many scans, one after the other."""
    n, rows = 100 if full else 14, {"server": [], "worker": []}
    with folder() as home, running(home) as server:
        for _ in range(n):
            assert len(exchange(server.port, GRIDDING).images) == 16
            until(lambda: not server._clients)
            rows["server"].append(state("self"))
            rows["worker"].append(state(str(server.worker.pid)))
    slopes, grown = {}, {}
    for name, found in rows.items():
        table = np.array(found[10:], float)
        slopes[name] = float(np.polyfit(np.arange(len(table)), table[:, 0], 1)[0])
        grown[name] = [int(table[-3:, k].min() - table[:3, k].min()) for k in (1, 2)]
    text = f"{n} scans, after the 10th: " + ", ".join(
        f"{name} {slopes[name]:+.3f} MB a scan, descriptors {grown[name][0]:+d}, threads {grown[name][1]:+d}"
        for name in rows
    )
    steady = all(g[0] <= 0 and g[1] <= 0 for g in grown.values())
    return Found(steady and (not full or max(slopes.values()) < 0.5), text)


def crowded(_full: bool) -> Found:
    """R14: four clients and one queue, a fifth scan, a connection too many."""
    want, _ = run(point_scan())
    with folder() as home, running(home, connections=6) as server:
        assert len(exchange(server.port, GRIDDING).images) == 16
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        answers, order = [Answer() for _ in socks], []

        def take(k: int) -> None:
            listen(socks[k], answers[k], 120.0)
            order.append(k)

        readers = [threading.Thread(target=take, args=(k,)) for k in range(4)]
        for sock, reader in zip(socks, readers, strict=True):
            reader.start()
            for raw in GRIDDING[:30]:
                sock.sendall(raw)
        until(lambda: len(server._live) == 4)
        fifth = exchange(server.port, GRIDDING)
        spare = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        until(lambda: len(server._clients) == 6)
        begun = time.monotonic()
        seventh = exchange(server.port, GRIDDING)
        refused = time.monotonic() - begun
        for sock in spare:
            sock.close()
        for k in (2, 0, 3, 1):
            for raw in GRIDDING[30:]:
                socks[k].sendall(raw)
            time.sleep(0.3)
        for reader in readers:
            reader.join()
        later = queued(server, fifth)
        right = [pixels(a.images) == pixels(want) for a in answers]
        right.append(later is not None and pixels(read_images(later)) == pixels(want))
        for sock in socks:
            sock.close()
    busy = not seventh.images and any("busy" in t for t in seventh.texts + seventh.errors)
    text = f"{sum(right)} of 5 scans correct, finished in the order of their ends: {order == [2, 0, 3, 1]}, "
    text += f"fifth told 'queued as': {later is not None}, connection too many refused: {busy}, after {refused:.2f} s"
    return Found(all(right) and order == [2, 0, 3, 1] and busy, text, refused < 3)


def queued(server: Server, answer: Answer) -> Path | None:
    """Where the images of a queued scan have appeared."""
    names = [text.split("queued as ")[1].split(";")[0] for text in answer.texts if "queued as" in text]
    if not names or server.configuration.spool is None:
        return None
    path = server.configuration.spool.folder / f"{names[0]}.h5"
    return path if until(path.exists, 120) else None
