"""`koosh doctor`: is everything here that a reconstruction needs, how fast is it, and how is what's missing mended."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import platform
import shutil
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from koosh_gadgets.extras import require

BACKENDS = ("finufft", "ducc0", "torchkbnufft", "cufinufft")
WANTED_GIB, WANTED_DISK_GIB = 4, 10
CONFIG_FILE, CLOSE = 1, 4  # message ids of the wire


@dataclass(frozen=True)
class Finding:
    """One check. `state` is ok, warning or fault; `mend` says what to do where it is not ok."""

    name: str
    state: str
    found: str
    mend: str = ""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("doctor", help="check this machine, a server or a PACS", description=__doc__)
    p.add_argument("-p", "--port", type=int, help="only ask the koosh server on this port whether it is well")
    p.add_argument("-a", "--address", default="127.0.0.1", help="of that server (%(default)s)")
    p.add_argument("--pacs", metavar="HOST:PORT", help="also send a DICOM echo there")
    p.add_argument("--called", default="ANY-SCP", metavar="AET", help="name of the PACS (%(default)s)")
    p.add_argument("--calling", default="KOOSH", metavar="AET", help="our own name (%(default)s)")
    p.add_argument("--spool", type=Path, default=Path.cwd(), metavar="DIR", help="disk to look at (%(default)s)")
    p.add_argument("--json", action="store_true", help="for machines")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 where one is a fault."""
    if arguments.port is not None:
        findings = [server(arguments.address, arguments.port)]
    else:
        findings = [python(), torch_build(), *backends(), memory(), disk(arguments.spool), network_weights()]
    if arguments.pacs:
        findings.append(pacs(arguments.pacs, arguments.called, arguments.calling))
    if arguments.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(one) for one in findings], indent=1) + "\n")
    else:
        sys.stdout.writelines(line(one) for one in findings)
    return int(any(one.state == "fault" for one in findings))


def line(one: Finding) -> str:
    """A finding as text."""
    mend = f"\n{'':21}-> {one.mend}" if one.mend else ""
    return f"{one.state:8} {one.name:12} {one.found}{mend}\n"


def python() -> Finding:
    """The interpreter."""
    return Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}")


def torch_build() -> Finding:
    """torch, its threads and devices."""
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "fault", str(error), "pip install -c constraints.txt torch")
    if not torch.cuda.is_available():
        mend = "for a GPU, install the CUDA build of torch that suits the driver" if torch.version.cuda is None else ""
        return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, no GPU", mend)
    names = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    devices = ", ".join(f"{p.name} {p.total_memory >> 30} GiB" for p in names)
    return Finding("torch", "ok", f"{torch.__version__}, {devices}")


def backends() -> list[Finding]:
    """Each NUFFT backend with its time for one forward and adjoint of 32^3."""
    found = [backend(name) for name in BACKENDS]
    if not any(one.state == "ok" for one in found):
        found.append(Finding("nufft", "fault", "no backend works", "pip install finufft"))
    return found


def backend(name: str) -> Finding:
    """One backend, tried."""
    import torch

    from koosh_models.physics import engines
    from koosh_models.physics.nufft import Nufft

    if importlib.util.find_spec(name) is None:
        return Finding(name, "warning", "not installed", f"optional: {engines.install(name)}")
    if not engines.available(name):
        return Finding(name, "warning", "installed, but there is no device for it")
    device = "cuda" if name == "cufinufft" else "cpu"
    generator = torch.Generator().manual_seed(0)
    omega = ((torch.rand(3, 8000, generator=generator) * 2 - 1) * torch.pi).to(device)
    try:
        nufft = Nufft(omega, (32, 32, 32), backend=name)
        image = torch.ones(32, 32, 32, dtype=torch.complex64, device=device)
        nufft.adjoint(nufft.forward(image))
        start = time.perf_counter()
        nufft.adjoint(nufft.forward(image))
    except (RuntimeError, ImportError, OSError) as error:
        return Finding(name, "warning", f"fails: {error}", f"pip install --force-reinstall {name}")
    return Finding(name, "ok", f"{(time.perf_counter() - start) * 1e3:.0f} ms for 32^3, 8,000 samples there and back")


def memory() -> Finding:
    """What is free, the container's limit included."""
    from koosh_models.memory import available

    free = available()
    if free is None:
        return Finding("memory", "warning", "unknown on this system")
    text = f"{free / 2**30:.1f} GiB free"
    if free < WANTED_GIB << 30:
        return Finding("memory", "warning", text, f"3D scans want {WANTED_GIB} GiB: close programs, or set --memory")
    return Finding("memory", "ok", text)


def disk(folder: Path) -> Finding:
    """Room for the spool."""
    place = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.0f} GiB free at {place}"
    if free < WANTED_DISK_GIB << 30:
        return Finding("disk", "warning", text, "scans are spooled here: free some room, or name another with --spool")
    return Finding("disk", "ok", text)


def network_weights() -> Finding:
    """Weights in the zoo."""
    from koosh_models.weights import names as known

    names = known()
    if not names:
        return Finding(
            "weights", "warning", "none installed: L1-wavelet stands in", "koosh train, koosh weights export"
        )
    return Finding("weights", "ok", ", ".join(names))


def server(address: str, port: int) -> Finding:
    """Whether a server answers a connection that asks for nothing by closing it in order."""
    name = b"koosh_3d.xml".ljust(1024, b"\0")
    where = f"{address}:{port}"
    try:
        with socket.create_connection((address, port), timeout=5) as peer:
            peer.settimeout(5)
            peer.sendall(struct.pack("<H", CONFIG_FILE) + name + struct.pack("<H", CLOSE))
            while peer.recv(4096):
                pass
    except OSError as error:
        return Finding("server", "fault", f"{where}: {error}", f"start it: koosh serve -a {address} -p {port}")
    return Finding("server", "ok", f"{where} answers")


def pacs(where: str, called: str, calling: str) -> Finding:
    """A DICOM echo."""
    try:
        require("dicom", ("pynetdicom",))
    except ImportError as error:
        return Finding("pacs", "fault", f"{where} not asked: {error.name} is not here", str(error))
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification

    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--pacs is {where!r}; wanted HOST:PORT")
    try:  # before an association: pynetdicom leaks the socket of one that can't connect
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        return Finding("pacs", "fault", f"{where} does not answer: {error}", "check host, port and firewall")
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5
    entity.add_requested_context(Verification)
    link = entity.associate(host, int(port), ae_title=called)
    if not link.is_established:
        why = "refused our or its name" if link.is_rejected else "ended the association"
        return Finding("pacs", "fault", f"{where} {why}", f"check host, port, --called {called}, --calling {calling}")
    status = link.send_c_echo()
    link.release()
    well = bool(status) and status.Status == 0
    return Finding("pacs", "ok" if well else "fault", f"{where} {'answers' if well else 'fails the echo'} as {called}")
