"""The online half: reading, spooling, stages, latency, images out, reliability. `python -m benchmarks.online`."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import random
import resource
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ismrmrd
import numpy as np

from benchmarks.crowd import compared, timed
from benchmarks.report import Row, arguments, command, show
from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.config import Configuration
from koosh_gadgets.files import open_scan
from koosh_gadgets.pipeline import Job
from koosh_gadgets.server import Server
from koosh_gadgets.settings import Settings
from koosh_gadgets.spool import Spool
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.connection import Connection, connect
from koosh_gadgets.wire.errors import WireError
from koosh_gadgets.wire.framing import SocketOutput
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import Opening
from koosh_gadgets.wire.source import Source
from tests.fakes.hostile import consume, mutate

log = logging.getLogger(__name__)
THIS = command("benchmarks.online")


def sender(port: int, header: str, n: int) -> None:
    """Send `n` readouts of 16 coils x 256 samples as fast as the socket takes them."""
    readout = ismrmrd.Acquisition.from_array(np.ones((16, 256), np.complex64), np.zeros((256, 3), np.float32))
    many = b"".join(b"".join(messages.serialise(readout)) for _ in range(64))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(messages.script(ids.CONFIG_TEXT, "") + messages.script(ids.HEADER, header))
        for _ in range(n // 64):
            sock.sendall(many)
        sock.sendall(messages.CLOSE)
        sock.recv(1)


@contextlib.contextmanager
def incoming(header: str, n: int) -> Iterator[Connection]:
    """A connection from a sender in another process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = multiprocessing.Process(target=sender, args=(server.getsockname()[1], header, n))
        process.start()
        sock, _ = server.accept()
    with sock, connect(sock, Limits()) or contextlib.nullcontext() as connection:  # type: ignore[attr-defined]
        yield connection
    process.join()


def reading(header: str, n: int, folder: Path | None) -> tuple[float, float]:
    """(readouts a second, CPU microseconds a readout) from the socket to blocks, spooled where there is a folder."""
    recording = Spool(folder).begin() if folder is not None else None
    with incoming(header, n) as connection:
        connection.listener = recording.message if recording is not None else None
        started, cpu = time.perf_counter(), time.process_time()
        got = sum(len(block) for block in connection.items())  # type: ignore[arg-type, misc]
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
    if recording is not None:
        recording.end(True)
        recording.close()
    assert got == n // 64 * 64
    return got / took, 1e6 * cpu / got


def reading_rows(header: str, quick: bool) -> list[Row]:
    """Rows of the wire, with and without the spool."""
    n = 6400 if quick else 25600
    plain, cpu = reading(header, n, None)
    with tempfile.TemporaryDirectory() as folder:
        kept, kept_cpu = reading(header, n, Path(folder))
    return [
        Row("read 16 x 256 from a socket", plain, "readouts/s", ">= 10000", plain >= 10_000, THIS),
        Row("  CPU of it", cpu, "us/readout", "", None, THIS),
        Row("read and spool", kept, "readouts/s", ">= 4000", kept >= 4000, THIS),
        Row("  CPU of it", kept_cpu, "us/readout", "", None, THIS),
    ]


def simulated(folder: Path, size: int, coils: int, acceleration: float = 12.0) -> Path:
    """A 3D radial scan of a head phantom."""
    from koosh_models.simulation.phantoms import phantom
    from koosh_models.simulation.recordfile import write_scan
    from koosh_models.simulation.simulate import simulate
    from koosh_models.simulation.trajectories import trajectory

    way, anatomy = trajectory("radial3d", (size,) * 3, acceleration), phantom("head", (size,) * 3)
    path = folder / "scan.h5"
    write_scan(path, simulate(anatomy.image, way, mask=anatomy.mask, n_coils=coils, noise=0.02), way)
    return path


def stage_rows(quick: bool) -> list[Row]:
    """Our stages' time for each readout of 16 coils x 256 samples: whitening, trajectory, buffer."""
    from koosh_gadgets.wire.readouts import blocks

    rng, header = np.random.default_rng(0), header_of(128)
    data = (rng.standard_normal((2048, 16, 256)) + 1j).astype(np.complex64)
    turn = rng.standard_normal((2048, 3))
    ways = np.linspace(-0.5, 0.5, 256)[:, None] * (turn / np.linalg.norm(turn, axis=1, keepdims=True))[:, None]
    noise = [acquisition(i, data[i], np.zeros((256, 0))) for i in range(8)]
    for a in noise:
        a.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    scan = [acquisition(100 + i, data[i], ways[i]) for i in range(1024 if quick else 2048)]
    times: list[float] = []

    def timed(items: Iterator[object]) -> Iterator[object]:
        """The blocks; what passes between two of them is the stages' time."""
        for block in items:
            started = time.process_time()
            yield block
            times.append((time.process_time() - started) / len(block))  # type: ignore[arg-type]

    job = Job(header.encode(), Settings(trajectory_unit="cycles/voxel"), Journal())
    list(job.volumes(timed(iter(list(blocks([*noise, *scan]))))))
    median = 1e6 * statistics.median(times)
    return [Row("our stages, median", median, "us/readout", "<= 50", median <= 50, THIS)]


def acquisition(number: int, data: np.ndarray, way: np.ndarray) -> ismrmrd.Acquisition:
    """One readout."""
    return ismrmrd.Acquisition.from_array(data, way.astype(np.float32), scan_counter=number, sample_time_us=4.0)


def header_of(size: int) -> str:
    """A header without anything special."""
    space = "".join(f"<{a}>{size}</{a}>" for a in "xyz")
    spaces = "".join(
        f"<{name}><matrixSize>{space}</matrixSize><fieldOfView_mm>{space}</fieldOfView_mm></{name}>"
        for name in ("encodedSpace", "reconSpace")
    )
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>{spaces}</encoding></ismrmrdHeader>'


def latency_rows(path: Path, quick: bool) -> list[Row]:
    """What remains after the last readout, beside the iterations, when readouts come at a scanner's rate."""
    rows = []
    with open_scan(path) as file:
        readouts = [a for block in file.blocks() for a in block.acquisitions()]
        for method in ("l1",) if quick else ("l1", "cg"):
            job, ended = Job(file.xml, Settings(method=method), Journal()), [0.0]
            list(job.images(timed(readouts, 8.0 if quick else 30.0, ended)))
            whole = time.monotonic() - ended[0]
            share = 100 * (1 - sum(t for part, t in job.journal.after.items() if part.startswith("solve")) / whole)
            rows.append(Row(f"after the last readout beside iterations, {method}", share, "% of the time", "<= 10",
                            share <= 10, THIS))  # fmt: skip
            logging.getLogger(__name__).info(
                "%s: %.2f s after the last readout; %s", method, whole, job.journal.times()
            )
    return rows


def crowd_rows(path: Path, rounds: int) -> list[Row]:
    """Latency of four scans at once, with and without a client at one byte a second and a silent one."""
    with tempfile.TemporaryDirectory() as spool, serving(Path(spool)) as server:
        alone, beside = compared(server.port, path, rounds)
    more = 100 * (beside / alone - 1)
    return [
        Row("4 scans at once, last readout to last image", alone, "s", "", None, THIS),
        Row("  beside a slow and a silent client", beside, "s", "", None, THIS),
        Row("  longer by", more, "%", "< 10", more < 10, THIS),
    ]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A warm server."""
    server = Server(Configuration(port=0, settings=Settings(method="gridding"), spool=Spool(folder), stop_s=2.0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        thread.join()


def server_rows(path: Path, scans: int) -> list[Row]:
    """A second scan on a warm server, and what many scans leave behind."""
    sizes: dict[str, list[float]] = {"server": [], "worker": []}
    first: list[float] = []
    with tempfile.TemporaryDirectory() as spool, serving(Path(spool)) as server, open_scan(path) as file:
        request = Request("127.0.0.1", server.port, "koosh_gridding")
        readouts = [a for block in file.blocks() for a in block.acquisitions()]
        for _ in range(scans):
            answer = send_scan(request, file.xml, readouts)
            first.append(float(answer.images[0].meta["koosh_first_item_ms"]))
            sizes["server"].append(resident("self"))
            sizes["worker"].append(resident(str(server.worker.pid)))
    warm = statistics.median(first[1:])
    rows = [Row("warm server, connect to first block", warm, "ms", "<= 50", warm <= 50, THIS)]
    if scans >= 40:
        for name, found in sizes.items():
            slope = float(np.polyfit(np.arange(len(found) - 10), found[10:], 1)[0])
            rows.append(Row(f"soak of {scans} scans, {name}", slope, "MB/scan", "< 0.5", slope < 0.5, THIS))
    return rows


def resident(process: str) -> float:
    """Resident megabytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def image_rows(size: int) -> list[Row]:
    """A complex volume from our sender through a socket into another process."""
    image = ismrmrd.Image(ismrmrd.ImageHeader(), data=np.ones((1, size, size, size), np.complex64))
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = multiprocessing.Process(target=swallow, args=(server.getsockname()[1], image.data.nbytes))
        process.start()
        sock, _ = server.accept()
    with sock:
        output = SocketOutput(sock, 60.0)
        connection = Connection(Opening("mrd"), Source(lambda out: 0), output, Limits())
        started = time.perf_counter()
        connection.send(image)
        sock.settimeout(60.0)
        sock.recv(1)
        rate = image.data.nbytes / 1e6 / (time.perf_counter() - started)
        output.close()
    process.join()
    return [Row(f"{size}^3 complex image out", rate, "MB/s", ">= 300", rate >= 300, THIS)]


def swallow(port: int, size: int) -> None:
    """Read `size` bytes and answer with one."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        buffer, got = bytearray(1 << 20), 0
        while got < size:
            got += sock.recv_into(buffer)
        sock.sendall(b"x")


def mutation_rows(n: int) -> list[Row]:
    """Mutated streams: errors that are not ours, and the slowest."""
    scan = [acquisition(i, np.ones((3, 16), np.complex64), np.zeros((16, 3))) for i in range(6)]
    opening = [messages.script(ids.CONFIG_TEXT, ""), messages.script(ids.HEADER, header_of(16))]
    whole = b"".join([*opening, *(b"".join(messages.serialise(a)) for a in scan), messages.CLOSE])
    rng, foreign, slowest = random.Random(0), 0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(n):
        started = time.perf_counter()
        foreign += not ends_well(functools.partial(consumed, mutate(whole, rng)))
        slowest = max(slowest, time.perf_counter() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return [
        Row(f"{n} mutated streams, foreign errors", foreign, "", "0", foreign == 0, THIS),
        Row("  slowest", slowest, "s", "<= 2", slowest <= 2, THIS),
        Row("  memory grown", grown, "MiB", "< 100 + cap", grown < 100, THIS),
    ]


def consumed(raw: bytes) -> None:
    """Read a whole stream as a conversation would."""
    consume(raw, Limits(image=1 << 26, array=1 << 26))


def ends_well(action: Callable[[], None]) -> bool:
    """Whether the action ends at all, or in an error of our own."""
    try:
        action()
    except WireError:
        return True
    except Exception as error:
        print(f"foreign: {type(error).__name__}: {error}")
        return False
    return True


PARTS = ("reading", "stages", "images", "mutations", "latency", "server", "r4")


def main() -> None:
    """Measure and print."""
    parser = arguments(str(__doc__))
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    options = parser.parse_args()
    quick = options.quick
    logging.basicConfig(level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("koosh_gadgets").setLevel(logging.ERROR)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], list[Row]]] = {
            "reading": lambda: reading_rows(header_of(128), quick),
            "stages": lambda: stage_rows(quick),
            "images": lambda: image_rows(160 if quick else 320),
            "mutations": lambda: mutation_rows(500 if quick else 10_000),
            "latency": lambda: latency_rows(simulated(folder, 48 if quick else 96, 8), quick),
            "server": lambda: server_rows(simulated(folder, 32, 4), 5 if quick else 100),
            "r4": lambda: crowd_rows(simulated(folder, 32, 4, 2.0), 1 if quick else 6),
        }
        for part in (options.only,) if options.only else PARTS:
            rows += parts[part]()
    show(rows, options.json)


if __name__ == "__main__":
    main()
