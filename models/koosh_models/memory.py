"""How much memory there is within every limit that holds for this process, a cap on what it takes, and its peaks."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)
ROOT = Path("/")
VICTIM = 500  # of -1000 to 1000: the kernel, short of memory, ends such a process before the one that started it
PLENTY = 1 << 40  # where the system does not say
WORDS = ("memory", "bad_alloc", "malloc", "allocat")


def available(root: Path = ROOT) -> int | None:
    """Bytes that can still be had: of the machine, of every cgroup above us, of the limits of this process."""
    found = [*machine(root), *(limit - used for limit, used in cgroups(root)), *own_limits(root)]
    return max(0, min(found)) if found else None


def free_mib(root: Path = ROOT) -> int:
    """MiB that can still be had; plenty where the system does not say."""
    free = available(root)
    return (PLENTY if free is None else free) >> 20


def machine(root: Path) -> Iterator[int]:
    """What the kernel reckons can be had without swapping."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        yield table(root / "proc/meminfo")["MemAvailable"] << 10


def own_limits(root: Path) -> Iterator[int]:
    """What RLIMIT_AS and RLIMIT_DATA leave."""
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            with contextlib.suppress(OSError, KeyError, ValueError):
                yield most - (table(root / "proc/self/status")[name] << 10)


def cgroups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes that can't be reclaimed) of each cgroup that holds this process, version 1 or 2, up to the top."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                    yield from chain(root / mount, path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield from chain(root / "sys/fs/cgroup/memory", path, *names)


def chain(mount: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    """Limits from a cgroup up to its mount; one that can't be seen from inside a container is passed over."""
    inner = mount / path.lstrip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(mount):
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            most = int((folder / limit).read_text())
            used = int((folder / usage).read_text())
            with contextlib.suppress(OSError, KeyError):
                used -= table(folder / "memory.stat", " ")[cache]
            yield most, max(0, used)


def table(path: Path, separator: str = ":") -> dict[str, int]:
    """Name -> first number of each line."""
    rows = (line.split(separator, 1) for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    parts = ((row[0], row[1].split()) for row in rows if len(row) == 2)
    return {name: int(words[0]) for name, words in parts if words and words[0].isdigit()}


def confine(share: float = 0.9) -> int:
    """Cap this process at what it has and `share` of what is free, so that it fails in words; the cap in bytes.

    An allocation beyond it is a MemoryError, for which there is a next method, and no kill by the kernel. The cap is
    on private writable memory (RLIMIT_DATA), which counts neither libraries nor a GPU driver's reservations.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    free = available()
    if free is None:
        return soft
    held = table(Path("/proc/self/status")).get("VmData", 0) << 10
    cap = held + int(share * free)
    cap = cap if hard == resource.RLIM_INFINITY else min(cap, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    return cap


def volunteer() -> None:
    """Let the kernel, should it run out of memory all the same, end this process rather than its parent."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        if int(score.read_text()) < VICTIM:
            score.write_text(str(VICTIM))


def resident() -> int:
    """Bytes of this process in memory."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        return table(Path("/proc/self/status"))["VmRSS"] << 10
    return most()


def peak() -> int:
    """The most bytes this process had in memory since its start or the last `forget_peak`."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        return table(Path("/proc/self/status"))["VmHWM"] << 10
    return most()


def peak_of(pid: int) -> int:
    """The most bytes another process had in memory since it was started, 0 where that can't be seen."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        return table(Path(f"/proc/{pid}/status"))["VmHWM"] << 10
    return 0


def give_back() -> None:
    """Give freed memory that the heap keeps back to the system, where the C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def most() -> int:
    """The peak where there is no /proc. On Linux it would begin at what the process that started this one held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Start a new peak, where the kernel offers it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of Python, torch, CUDA or a NUFFT library."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)
    )


def sized(n_bytes: int) -> str:
    """A number of bytes as a person reads it."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 1 << 30 else f"{max(1, -(-n_bytes >> 20))} MiB"
