"""R9 to R11: memory that runs out, processes that are killed or told to stop."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.promises.found import GRIDDING, Found, Launched, children, folder, launched, pixels, reachable
from koosh_gadgets.client import Answer
from koosh_gadgets.files import read_images
from koosh_gadgets.spool import Recorded
from koosh_models import memory
from tests.fakes.runs import run
from tests.fakes.site import exchange, listen, until
from tests.fakes.streams import header_xml, point_scan, scan_stream

LEFT = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 400)  # MiB
ENDS = {
    0: "as asked",
    10: "another method",
    3: "out of memory, said",
    4: "refused at once, said",
    1: "FOREIGN ERROR",
    -6: "process ended by a library",
}
CGROUPS = Path("/sys/fs/cgroup/memory")


def tight(left_mib: float) -> str:
    """How a reconstruction by L1 ends in a child process that may take `left_mib` more than it has."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            held = memory.table(Path("/proc/self/status"))["VmData"] << 10
            limit = held + int(left_mib * (1 << 20))
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            images, _ = run(point_scan(n=32, spokes=600, coils=4), header_xml(n=32, spokes=600), method="l1")
            code = 0 if images[0].meta["koosh_method"] == "l1" else 10
        except MemoryError:
            code = 3
        except RuntimeError as error:
            code = 3 if memory.ran_out(error) else 1
        except ValueError as error:  # before anything was tried
            code = 4 if "MiB" in str(error) else 1
        except BaseException:  # the parent wants to know of every other one
            code = 1
        finally:
            os._exit(code)
    end = time.monotonic() + 300
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return ENDS.get(os.waitstatus_to_exitcode(status), f"SIGNAL {-os.waitstatus_to_exitcode(status)}")
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "HANG"


def limited(full: bool) -> tuple[bool, str]:
    """Real limits of a process, from too little for anything to plenty."""
    run(point_scan(n=32, spokes=600, coils=4), header_xml(n=32, spokes=600), method="l1")  # libraries, thread pools
    ends = Counter(tight(left) for left in (LEFT if full else LEFT[2::3]))
    bad = any(word.isupper() for end in ends for word in end.split())
    words = ", ".join(f"{n} {end}" for end, n in ends.items())
    return not bad and ends["as asked"] > 0, f"RLIMIT_DATA at {sum(ends.values())} levels: {words}"


def injected() -> tuple[bool, str]:
    """Allocations that fail at the first, second ... attempt: the order in which things are tried."""
    from koosh_gadgets.stages import reconstruct as stage

    real, seen = stage.solved, []

    def starved(upto: int) -> str:
        tried: list[str] = []

        def solved(ready: Any, problem: Any, method: str, settings: Any, journal: Any) -> Any:
            tried.append(f"{method}/{ready.cut.group}")
            if len(tried) <= upto:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return real(ready, problem, method, settings, journal)

        stage.solved = solved
        try:
            images, _ = run(point_scan(spokes=200), header_xml(spokes=200), method="l1")
        except MemoryError:
            return " ".join([*tried, "-> said"])
        finally:
            stage.solved = real
        return " ".join([*tried, f"-> {images[0].meta['koosh_method']}"])

    seen += [starved(upto) for upto in (0, 1, 2, 3, 9)]
    wanted = [
        "l1/4 -> l1", "l1/4 l1/1 -> l1", "l1/4 l1/1 cg/1 -> cg", "l1/4 l1/1 cg/1 gridding/1 -> gridding",
        "l1/4 l1/1 cg/1 gridding/1 -> said",
    ]  # fmt: skip
    return seen == wanted, f"injected failures (method/coils at a time): {'; '.join(seen)}"


@contextlib.contextmanager
def cgroup(limit: int) -> Iterator[Path | None]:
    """A memory cgroup of our own, None where this user can't make one."""
    place = CGROUPS / f"koosh-{os.getpid()}"
    try:
        place.mkdir()
        (place / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        with contextlib.suppress(OSError):
            place.rmdir()
        yield None
        return
    try:
        yield place
    finally:
        until(lambda: not (place / "cgroup.procs").read_text().strip(), 20)
        with contextlib.suppress(OSError):
            place.rmdir()


def squeezed() -> tuple[bool, str]:
    """Server and worker in a cgroup whose limit falls below what they hold: which one ends, and what then."""
    with folder() as home, cgroup(4 << 30) as group:
        if group is None:
            return True, "no cgroup can be made here, so RLIMIT_DATA stands for it"
        enter = home / "enter"
        enter.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs\nexec "$@"\n')
        enter.chmod(0o700)
        with launched(home, prepare=str(enter)) as server:
            first = exchange(server.port, GRIDDING, wait=300.0)
            used = int((group / "memory.usage_in_bytes").read_text())
            stop = threading.Event()
            grow = threading.Thread(target=hold_down, args=(group, used // 2, stop))
            grow.start()
            hit = exchange(server.port, GRIDDING, wait=60.0)
            stop.set()
            grow.join()
            until(lambda: b"ready on" in server.log.read_bytes()[-4000:], 60)
            after = exchange(server.port, GRIDDING, wait=300.0)
            alive = server.process.poll() is None
            deaths = server.log.read_text().count("the worker ended (signal 9)")
    told = len(hit.images) == 16 or bool(hit.texts + hit.errors)
    text = f"cgroup squeezed to half: worker killed {deaths} times, server alive {alive}, peer told or given images "
    text += f"{told}, scans before and after: {len(first.images)}, {len(after.images)} images"
    return alive and told and len(first.images) == len(after.images) == 16, text


def hold_down(group: Path, limit: int, stop: threading.Event) -> None:
    """Keep a cgroup's limit low as far as the kernel lets us, for ten seconds, then let it go."""
    end = time.monotonic() + 10
    while time.monotonic() < end and not stop.is_set():
        with contextlib.suppress(OSError):  # busy: what can be reclaimed is, and it is tried again
            (group / "memory.limit_in_bytes").write_text(str(limit))
        time.sleep(0.1)
    (group / "memory.limit_in_bytes").write_text(str(4 << 30))


def worker_killed(times: int) -> tuple[bool, str]:
    """The worker is killed in the middle of a scan `times` times."""
    with folder() as home, launched(home) as server:
        exchange(server.port, GRIDDING, wait=300.0)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            for raw in GRIDDING[:40]:
                sock.sendall(raw)
            for _ in range(times):
                (worker,) = children(server.process.pid)
                os.kill(worker, signal.SIGKILL)
                until(lambda w=worker: children(server.process.pid) not in ([w], []), 120)
            for raw in GRIDDING[40:]:
                sock.sendall(raw)
            answer = Answer()
            listen(sock, answer, 300.0)
        after = exchange(server.port, GRIDDING, wait=300.0)
    well = len(answer.images) == 16 and len(after.images) == 16
    return well, f"worker killed {times} time(s) mid-scan: {len(answer.images)} images, next scan {len(after.images)}"


def starved(full: bool) -> Found:
    """R9: memory runs out."""
    parts = [limited(full), injected()]
    if full:
        parts += [squeezed(), worker_killed(2), exit_code()]
    return Found(all(well for well, _ in parts), "; ".join(text for _, text in parts))


def exit_code() -> tuple[bool, str]:
    """What `koosh` exits with where nothing can be made for want of memory."""
    from koosh_gadgets import cli
    from koosh_gadgets.replay import reconstruct

    def none(_arguments: object) -> int:
        raise MemoryError("no method could reconstruct the scan")

    import koosh_gadgets.replay as module

    module.reconstruct = none
    soft = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        code = cli.main(["replay", "scan.h5", "-o", "out.h5"])
    finally:
        module.reconstruct = reconstruct
        resource.setrlimit(resource.RLIMIT_DATA, (soft[1], soft[1]))
    return code == 3, f"exit code {code}"


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
