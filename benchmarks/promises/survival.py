"""R10 and R11: servers that are killed or told to stop."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

from benchmarks.promises.found import GRIDDING, Found, Launched, folder, launched, pixels, reachable
from koosh_gadgets.client import Answer
from koosh_gadgets.files import read_images
from koosh_gadgets.spool import Recorded
from tests.fakes.runs import run
from tests.fakes.site import exchange, listen, until
from tests.fakes.streams import header_xml, point_scan, scan_stream


def kill_at(home: Path, rng: random.Random) -> tuple[int, int, int]:
    """(sent a second and more before the kill, recorded, sent) of a scan whose server dies at a random point."""
    sent: list[float] = []
    with launched(home) as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        stop = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                for raw in GRIDDING:
                    if stop.wait(0.03):
                        return
                    sock.sendall(raw)
                    sent.append(time.monotonic())

        thread = threading.Thread(target=send)
        thread.start()
        time.sleep(rng.uniform(1.1, 1.2 + 0.03 * len(GRIDDING)))
        killed = time.monotonic()
        server.end()
        stop.set()
        thread.join()
        (path,) = server.spool.iterdir()
        messages = list(Recorded(path).messages())
    assert messages == GRIDDING[: len(messages)]
    return sum(t <= killed - 1 for t in sent), len(messages), len(sent)


def killed(full: bool) -> Found:
    """R10: a server killed at random points of a scan, its recordings reconstructed by the next one."""
    n, rng, lost, sizes = 20 if full else 2, random.Random(10), 0, {}
    with folder() as home:
        again = home / "again"
        (again / "spool").mkdir(parents=True)
        for k in range(n):
            place = home / str(k)
            place.mkdir()
            due, recorded, _ = kill_at(place, rng)
            lost += recorded < due
            (path,) = (place / "spool").iterdir()
            if recorded > 2:  # less than a header is no scan
                sizes[f"k{k}"] = recorded
                shutil.copy(path, again / "spool" / f"k{k}.scan")
        whole = again / "spool" / "whole.scan"
        record_whole(whole)
        sizes["whole"] = len(GRIDDING)
        with launched(again) as server:
            made = until(lambda: len(list(server.spool.glob("*.h5"))) == len(sizes), 60 + 20 * n)
            same, marked = compared(server, sizes)
    cut = sum(size < len(GRIDDING) for size in sizes.values())
    text = f"{n} kills: {lost} lost a readout that was a second old; {same} of {len(sizes)} images equal to the bit to "
    text += f"that of the recorded part, {marked} of {cut} marked truncated"
    return Found(not lost and made and same == len(sizes) and marked == cut, text)


def record_whole(path: Path) -> None:
    """A recording of a scan whose server died after its last readout."""
    from koosh_gadgets.spool import Spool

    recording = Spool(path.parent).begin(path.stem)
    for raw in GRIDDING:
        recording.message(raw)
    recording.close()


def compared(server: Launched, sizes: dict[str, int]) -> tuple[int, int]:
    """(images equal to those of the recorded readouts, images marked truncated)."""
    same = marked = 0
    for name, size in sizes.items():
        with contextlib.suppress(OSError, ValueError):
            images = read_images(server.spool / f"{name}.h5")
            want, _ = run(point_scan()[: size - 2])
            same += pixels(images) == pixels(want)
            marked += "koosh_truncated" in images[0].meta
    return same, marked


def stopped(full: bool) -> Found:
    """R11: SIGTERM while a scan is reconstructed."""
    scan = point_scan(n=64 if full else 16, spokes=3000 if full else 64, coils=8 if full else 3, voxel=(9, 6, 10))
    header = header_xml(n=64 if full else 16, spokes=len(scan))
    stream = scan_stream(scan, header, name="koosh_l1" if full else "koosh_gridding")
    with folder() as home, launched(home) as server:
        exchange(server.port, GRIDDING, wait=300.0)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            answer = Answer()
            reader = threading.Thread(target=listen, args=(sock, answer, 120.0))
            reader.start()
            for raw in stream:
                sock.sendall(raw)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            closed = until(lambda: not reachable(server.port), 10)
            code = server.process.wait(120)
            took = time.monotonic() - begun
            reader.join(10)
        left = len(list(server.spool.glob("*.scan")))
    fate = f"{len(answer.images)} images" if answer.images else f"kept in the spool, peer told: {bool(answer.texts)}"
    well = code == 0 and closed and (bool(answer.images) or (left == 1 and bool(answer.texts)))
    return Found(well, f"no new connections, exit code {code} after {took:.1f} s; the scan: {fate}", took <= 30)
