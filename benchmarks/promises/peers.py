"""R1 to R4 and the fuzzing: what a peer may do to the wire."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import resource
import socket
import statistics
import threading
import time
import tracemalloc

from benchmarks.promises.found import GRIDDING, Found, folder
from koosh_gadgets.server import Server
from koosh_gadgets.wire.errors import Malformed, TooLarge, WireError
from koosh_gadgets.wire.header import read_header
from koosh_gadgets.wire.limits import Limits
from tests.fakes.cable import cut_cable
from tests.fakes.hostile import GIANTS, consume, drip, giant, mutate
from tests.fakes.pipes import connection_of
from tests.fakes.site import exchange, reset, running, until
from tests.fakes.streams import header_xml, noise_readout, opening, point_scan, scan_stream

SCAN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
CAP = 64 << 20


class Heard(logging.Handler):
    """When each scan's error was logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.times: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line that names a scan."""
        if SCAN.search(record.getMessage()):
            self.times.append(time.monotonic())


def served(server: Server) -> bool:
    """Whether the next scan works."""
    answer = exchange(server.port, GRIDDING)
    return len(answer.images) == 16 and answer.closed and not answer.errors


def vanished(full: bool) -> Found:
    """R1: the peer vanishes at message boundaries and random bytes, by reset or by closing its side."""
    whole, rng = b"".join(GRIDDING), random.Random(1)
    edges = [sum(map(len, GRIDDING[:k])) for k in range(len(GRIDDING))]
    cuts = edges + [rng.randrange(len(whole)) for _ in range(200)] if full else [*edges[::9], 900, 2500, 20_001]
    heard, slowest, images, unnamed, logger = Heard(), [0.0], 0, 0, logging.getLogger("koosh_gadgets.server")
    logger.addHandler(heard)
    logger.setLevel(logging.ERROR)
    with folder() as home, running(home, limits=Limits(drain_s=3.0)) as server:
        well = served(server)
        for number, at in enumerate(cuts):
            before, started = len(heard.times), time.monotonic()
            if number % 2:
                answer = exchange(server.port, [whole[:at]], half_close=True)
                images += len(answer.images)
                unnamed += not any(SCAN.search(text) for text in answer.texts + answer.errors)
            else:
                with socket.create_connection(("127.0.0.1", server.port)) as sock:
                    sock.sendall(whole[:at])
                    started = time.monotonic()
                    reset(sock)
            unnamed += not until(lambda n=before: len(heard.times) > n, 10)
            slowest.append((heard.times[-1] if len(heard.times) > before else time.monotonic()) - started)
        idle = until(lambda: not server._clients, 20)
        well &= served(server)
    logger.removeHandler(heard)
    text = f"{len(cuts)} cuts: 0 hangs, {images} images, {unnamed} without an error that names the scan; "
    text += (
        f"error after {statistics.median(slowest[1:]):.3f} s, at most {max(slowest):.2f} s; next scan served: {well}"
    )
    return Found(well and idle and not images and not unnamed, text, max(slowest) <= 1.0)


def streams() -> list[bytes]:
    """What is mutated: every kind of message a peer may send."""
    from tests.gadgets.wire.test_framing import ITEMS, wave

    items = [noise_readout(0), *point_scan(n=8, spokes=4, voxel=(4, 4, 4)), *ITEMS[:1], wave(), *ITEMS[-3:]]
    return [b"".join(scan_stream(items)), b"".join(scan_stream(items[:4], name="koosh"))]


def mutated(full: bool) -> Found:
    """R2: mutated streams, most of them into the reader, some into a server."""
    n, to_server, rng, foreign, slowest = 10_000 if full else 400, 200 if full else 4, random.Random(2), [], 0.0
    raw, limits, before = streams(), Limits(image=CAP, array=CAP), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(n):
        started = time.monotonic()
        try:
            consume(mutate(rng.choice(raw), rng), limits)
        except WireError:
            pass
        except Exception as error:  # what must not happen is counted
            foreign.append(f"{type(error).__name__}: {error}")
        slowest = max(slowest, time.monotonic() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    whole = b"".join(GRIDDING)
    with folder() as home, running(home, limits=Limits(idle_s=2.0, drain_s=2.0)) as server:
        for _ in range(to_server):
            exchange(server.port, [mutate(whole, rng)], half_close=True)
        well = served(server)
    text = f"{n} streams read: {len(foreign)} foreign errors {foreign[:1] or ''}, slowest {slowest:.2f} s, "
    text += f"{grown} MiB grown (cap {CAP >> 20}); {to_server} sent to a server: next scan served: {well}"
    return Found(not foreign and grown < (CAP >> 20) + 100 and well, text, slowest <= 2.0)


def giants(_full: bool) -> Found:
    """R3: lengths that claim gigabytes, refused before anything is allocated."""
    start = b"".join(opening(header_xml()))
    kept, worst, peak = 0, 0.0, 0
    for name in (*GIANTS, "image"):
        times = []
        for _ in range(3):
            connection = connection_of(start + giant(name))
            tracemalloc.start()
            begun = time.perf_counter()
            try:
                list(connection.items())
                kept += 1
            except (TooLarge, Malformed):
                times.append(time.perf_counter() - begun)
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        worst = max(worst, min(times, default=9.0))
    text = f"{len(GIANTS) + 1} kinds: {kept} accepted, refused in at most {1e3 * worst:.1f} ms, {peak / 1e6:.2f} MB"
    return Found(not kept and peak < 5e6, text, worst < 0.05)


def four(server: Server) -> float:
    """Seconds that four scans at a time take, summed."""
    times: list[float] = []

    def one() -> None:
        started = time.monotonic()
        if served(server):
            times.append(time.monotonic() - started)

    scans = [threading.Thread(target=one) for _ in range(4)]
    for scan in scans:
        scan.start()
    for scan in scans:
        scan.join()
    return sum(times) if len(times) == 4 else float("inf")


def slow(full: bool) -> Found:
    """R4: a dripping and a silent client beside four others; limits of silence and of the whole scan."""
    alone, beside = [], []
    with folder() as home, running(home) as server:
        four(server)
        for _ in range(15 if full else 1):
            alone.append(four(server))
            stop = threading.Event()
            silent = socket.create_connection(("127.0.0.1", server.port))
            thread = threading.Thread(target=drip, args=(server.port, stop))
            thread.start()
            beside.append(four(server))
            stop.set()
            thread.join()
            silent.close()
    more = 100 * (statistics.median(b / a for a, b in zip(alone, beside, strict=True)) - 1)
    ends = limits_kept()
    text = f"four scans beside a slow and a silent client take {more:+.1f} % (median of {len(alone)} pairs); {ends}"
    found, pulled = cable() if full else (True, "")
    return Found(max(beside) < float("inf") and "not" not in ends and found, text + pulled, more < 10)


def cable() -> tuple[bool, str]:
    """Whether a peer whose cable is pulled is found in about a minute, and holds up nobody until then."""
    if os.geteuid():
        return True, "; a cable can be pulled by root alone"
    with folder() as home:
        seen = cut_cable(home)
    text = f"; a pulled cable is found after {seen.silent_s:.0f} s in a silent scan, {seen.busy_s:.0f} s with data on "
    text += f"their way, all of the scan kept: {seen.kept}"
    return max(seen.silent_s, seen.busy_s) < 90 and seen.kept and seen.alive and seen.others == 16, text


def limits_kept() -> str:
    """Whether silence before the header, silence in the scan and a scan without end are ended, each in its way."""
    brief = Limits(header_s=1.0, idle_s=1.5, total_s=2.5, drain_s=0.5)
    with folder() as home, running(home, limits=brief) as server:
        until(lambda: server.worker.ready, 120)
        before = exchange(server.port, GRIDDING[:1])
        silent = exchange(server.port, GRIDDING[:40])
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            from koosh_gadgets.client import Answer
            from tests.fakes.site import listen

            endless = Answer()
            reader = threading.Thread(target=listen, args=(sock, endless, 30.0))
            reader.start()
            with contextlib.suppress(OSError):  # the server has heard enough
                for raw in GRIDDING[:64]:
                    sock.sendall(raw)
                    time.sleep(0.06)
            reader.join(30)
    kept = {
        "before the header refused": not before.images and bool(before.texts + before.errors),
        "silent scan reconstructed and marked": any(
            "sent nothing" in i.meta["koosh_truncated"] for i in silent.images[:1]
        ),
        "endless scan ended and marked": any("longer than" in i.meta["koosh_truncated"] for i in endless.images[:1]),
    }
    return ", ".join(what if well else f"not: {what}" for what, well in kept.items())


def fuzzed(seconds: float) -> Found:
    """Hypothesis on the wire reader and the header reader for a given time."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    raw, xml, limits = streams(), header_xml().encode(), Limits(image=CAP, array=CAP)
    pieces = st.one_of(
        st.binary(max_size=40), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"<!--", b"]]>", b"&#x0;", b"1e999"])
    )
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), pieces), min_size=1, max_size=8)
    quiet = settings(max_examples=500, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
                     suppress_health_check=list(HealthCheck))  # fmt: skip

    def edited(text: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
        for where, n, piece in changes:
            at = int(where * len(text))
            text = text[:at] + piece + text[at + n :]
        return text

    count = [0, 0]

    def wire(which: int, changes: list[tuple[float, int, bytes]]) -> None:
        count[0] += 1
        try:
            consume(edited(raw[which], changes), limits)
        except WireError:
            return

    def header(changes: list[tuple[float, int, bytes]]) -> None:
        count[1] += 1
        try:
            read_header(edited(xml, changes))
        except WireError:
            return

    until_then, findings, number = time.monotonic() + seconds, [], 0
    while time.monotonic() < until_then:
        number += 1
        for test in (given(st.integers(0, 1), edits)(wire), given(edits)(header)):
            try:
                seed(number)(quiet(test))()
            except Exception as error:  # a finding, shrunk
                findings.append(f"{type(error).__name__}: {error}"[:200])
    text = f"{seconds:g} s: {count[0]} streams, {count[1]} headers, {len(findings)} findings {findings[:1] or ''}"
    return Found(not findings, text)
