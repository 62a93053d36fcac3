"""Foreign files read by a child process: damage on which the HDF5 library hangs or aborts ends the child alone."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ismrmrd
import numpy as np

from koosh_gadgets.files import open_scan
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Cut
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.readouts import HEAD, Readouts
from koosh_gadgets.wire.source import Source

SILENCE_S = 60.0  # without a block of a few MiB
SLOWEST = 5e6  # bytes a second of a file that is read as a whole
HEADER, BLOCK, WAVEFORM, FAILURE, END = 1, 2, 3, 4, 5
FRAME = struct.Struct("<BQ")  # kind, bytes that follow
SHAPE = struct.Struct("<5Q")  # readouts, coils, samples, trajectory axes, sample count of the trajectory
Put = Callable[[int, "list[bytes | memoryview]"], None]
Made = tuple[dict[str, dict[str, str]], dict[str, np.ndarray]]


@contextlib.contextmanager
def scan_in_child(
    path: Path, group: str | None = None, silence_s: float = SILENCE_S
) -> Iterator[tuple[bytes, Iterator[object]]]:
    """(header, items) of an ISMRMRD file; whatever is wrong with it is a ValueError that names it."""
    with path.open("rb"):
        pass  # the operating system's own word for what is missing or forbidden

    def read(put: Put) -> None:
        with open_scan(path, group) as file:
            put(HEADER, [file.xml])
            for item in file.items():
                put(*packed(item))

    with child(read, path.name, silence_s) as frames:
        kind, raw = next(frames)
        if kind != HEADER:
            raise ValueError(f"{path.name} holds no scan")
        yield bytes(raw), (unpacked(kind, raw) for kind, raw in frames)


def made_in_child(work: Callable[[], Made], path: Path) -> Made:
    """(facts, arrays by name) that `work` makes of a file in a process of its own; what is wrong is a ValueError."""
    with path.open("rb"):
        pass  # the operating system's own word for what is missing or forbidden

    def put_all(put: Put) -> None:
        facts, arrays = work()
        kinds = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        put(HEADER, [json.dumps({"facts": facts, "arrays": kinds}).encode()])
        for array in arrays.values():
            put(BLOCK, [raw_of(array)])

    with child(put_all, path.name, SILENCE_S + path.stat().st_size / SLOWEST) as frames:
        _, raw = next(frames)
        head = json.loads(bytes(raw))
        arrays = {
            name: np.frombuffer(raw, kind).reshape(shape)
            for (name, kind, shape), (_, raw) in zip(head["arrays"], frames, strict=True)
        }
    return head["facts"], arrays


@contextlib.contextmanager
def child(work: Callable[[Put], None], name: str, silence_s: float) -> Iterator[Iterator[tuple[int, memoryview]]]:
    """Frames that `work` puts in a process of its own, which is ended with the block."""
    receive, send = os.pipe()
    with warnings.catch_warnings():  # of threads: the child calls nothing that they could hold
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        os.close(receive)
        _run(work, send)
    os.close(send)
    status: list[int] = []
    try:
        yield _frames(receive, pid, name, silence_s, status)
    finally:
        os.close(receive)
        if not status:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _run(work: Callable[[Put], None], send: int) -> None:
    """The child: never returns, and says nothing of a death that its parent reports."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def put(kind: int, parts: list[bytes | memoryview]) -> None:
        for part in (FRAME.pack(kind, sum(map(len, parts))), *parts):
            view = memoryview(part)
            while len(view):
                view = view[os.write(send, view) :]

    code = 0
    try:
        work(put)
        put(END, [])
    except BaseException as error:  # a process that must not go on where its parent went
        with contextlib.suppress(OSError):
            put(FAILURE, [(str(error) or type(error).__name__).encode("utf-8", "replace")])
        code = 1
    os._exit(code)


def _frames(receive: int, pid: int, name: str, silence_s: float, status: list[int]) -> Iterator[tuple[int, memoryview]]:
    """(kind, content) up to the end; silence, a failure and an early end are errors."""

    def fill(out: memoryview) -> int:
        ready, _, _ = select.select([receive], [], [], silence_s)
        if not ready:
            raise ValueError(f"{name} is a damaged HDF5 file: reading it came to a halt for {silence_s:g} s")
        return os.readv(receive, [out])

    source = Source(fill)
    while True:
        try:
            kind, size = FRAME.unpack(source.read(FRAME.size))
            raw = memoryview(source.read(size))
        except Cut:
            status.append(_ending(pid))
            number = os.waitstatus_to_exitcode(status[0])
            how = signal.Signals(-number).name if number < 0 else f"exit code {number}"
            raise ValueError(f"{name} is a damaged HDF5 file: reading it ended in {how}") from None
        if kind == END:
            status.append(_ending(pid))
            return
        if kind == FAILURE:
            raise ValueError(bytes(raw).decode("utf-8", "replace"))
        yield kind, raw


def _ending(pid: int) -> int:
    """The child's status; it has closed its pipe, so it is ending."""
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def packed(item: Readouts | ismrmrd.Waveform) -> tuple[int, list[bytes | memoryview]]:
    """An item as a frame."""
    if isinstance(item, ismrmrd.Waveform):
        return WAVEFORM, messages.serialise(item)
    n, n_samples, n_axes = item.trajectory.shape
    head = SHAPE.pack(n, item.data.shape[1], item.data.shape[2], n_axes, n_samples)
    arrays: Iterable[np.ndarray] = (item.heads, item.trajectory, item.data)
    return BLOCK, [head, *(raw_of(a) for a in arrays)]


def raw_of(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def unpacked(kind: int, raw: memoryview) -> object:
    """The item of a frame."""
    if kind == WAVEFORM:
        left = [raw[2:]]

        def receive(out: memoryview) -> int:
            part, left[0] = left[0][: len(out)], left[0][len(out) :]
            out[: len(part)] = part
            return len(part)

        return messages.read_item(ids.WAVEFORM, Source(receive), Limits())
    n, n_coils, n_samples, n_axes, n_path = SHAPE.unpack_from(raw)
    at = SHAPE.size
    heads = np.frombuffer(raw, HEAD, n, at)
    at += heads.nbytes
    trajectory = np.frombuffer(raw, np.float32, n * n_path * n_axes, at).reshape(n, n_path, n_axes)
    at += trajectory.nbytes
    return Readouts(heads, trajectory, np.frombuffer(raw, np.complex64, offset=at).reshape(n, n_coils, n_samples))
