"""R9: memory that runs out."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.promises.found import GRIDDING, Found, children, folder, launched
from koosh_gadgets.client import Answer
from koosh_models import memory
from tests.fakes.runs import run
from tests.fakes.site import exchange, listen, until
from tests.fakes.streams import header_xml, point_scan

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
