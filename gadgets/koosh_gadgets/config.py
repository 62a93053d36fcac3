"""A site's configuration: what peers may name, where scans are kept, how many are taken at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from koosh_gadgets.peers import Network, networks
from koosh_gadgets.session import PRESETS, Service
from koosh_gadgets.settings import Folders, Settings, build
from koosh_gadgets.spool import Spool
from koosh_gadgets.wire.limits import Limits

if TYPE_CHECKING:
    from koosh_gadgets.dicom.outbox import Outbox

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("settings", "folders", "presets", "spool", "server", "pacs")
LIMITS = ("header_s", "idle_s", "total_s")
SERVER = ("address", "port", "device", "connections", "scans", "stop_s", "allow", "metrics", *LIMITS)
PACS = ("address", "called", "calling", "outbox", "lanes", "tls_ca")
SPOOL = ("folder", "keep_gib", "keep_days", "sync")


@dataclass(frozen=True)
class Configuration:
    """Everything a server needs to know that no peer may say.

    connections  taken at once; the next one is refused
    scans        reconstructed as they come in; further ones are spooled and reconstructed later
    stop_s       how long a stopping server lets reconstructions finish
    allow        networks whose peers may connect beside loopback; empty: all
    metrics      port on loopback for Prometheus and health checks; -1: none, 0: any free one
    """

    settings: Settings = field(default_factory=Settings)
    folders: Folders = field(default_factory=Folders)
    presets: dict[str, dict[str, str]] = field(default_factory=lambda: dict(PRESETS))
    spool: Spool | None = None
    outbox: Outbox | None = None
    address: str = "127.0.0.1"
    port: int = 9020
    device: str = "auto"
    connections: int = 16
    scans: int = 4
    limits: Limits = field(default_factory=Limits)
    stop_s: float = 25.0
    allow: tuple[Network, ...] = ()
    metrics: int = -1

    def service(self) -> Service:
        """What conversations are given."""
        return Service(self.settings, self.folders, self.presets, outbox=self.outbox)


def load(path: Path | None = None) -> Configuration:
    """The configuration of a TOML file: the one named, else $KOOSH_CONFIG, else the user's own, else the defaults."""
    if path is None:
        named = os.environ.get("KOOSH_CONFIG")
        home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "koosh" / "koosh.toml"
        path = Path(named) if named else home
        if not named and not home.is_file():
            return Configuration()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name} is no TOML: {error}") from error
    return from_tables(content, path.parent)


def from_tables(content: dict[str, dict[str, object]], root: Path) -> Configuration:
    """A configuration from TOML tables; relative folders start at the file's own."""
    known(content, TABLES, "table")
    folders = {k: root / str(v) for k, v in content.get("folders", {}).items()}
    known(folders, tuple(Folders.__dataclass_fields__), "folder")
    server = dict(content.get("server", {}))
    known(server, SERVER, "server setting")
    limits = limits_of({k: float(str(server.pop(k))) for k in LIMITS if k in server})
    allow = server.pop("allow", [])
    if not isinstance(allow, list):
        raise ValueError('the configuration\'s `allow` is no list of networks; wanted allow = ["10.0.0.0/8"]')
    presets = {str(n): texts(p) for n, p in content.get("presets", {}).items() if isinstance(p, dict)}
    settings = build(texts(content.get("settings", {})))
    for preset in presets.values():
        build(preset, settings)
    found = Configuration(settings=settings, folders=Folders(**folders), presets={**PRESETS, **presets}, limits=limits)
    spool = dict(content.get("spool", {}))
    known(spool, SPOOL, "spool setting")
    kinds = {name: type(getattr(found, name)) for name in server}
    found = replace(found, outbox=outbox_of(dict(content.get("pacs", {})), root))
    found = replace(found, allow=networks(map(str, allow)))
    return replace(found, spool=spool_of(spool, root), **{n: kinds[n](v) for n, v in server.items()})


def limits_of(times: dict[str, float]) -> Limits:
    """The limits with other times."""
    return replace(Limits(), **times)  # type: ignore[arg-type]  # its names are those of LIMITS, all numbers


def spool_of(table: dict[str, object], root: Path) -> Spool | None:
    """The spool a table describes, None where it names no folder."""
    if "folder" not in table:
        return None
    numbers = {k: float(str(table[k])) for k in ("keep_gib", "keep_days", "sync") if k in table}
    spool = Spool(root / str(table["folder"]))
    return replace(
        spool,
        keep_bytes=int(numbers["keep_gib"] * (1 << 30)) if "keep_gib" in numbers else spool.keep_bytes,
        keep_days=numbers.get("keep_days", spool.keep_days),
        sync=int(numbers.get("sync", spool.sync)),
    )


def outbox_of(table: dict[str, object], root: Path) -> Outbox | None:
    """The outbox of the PACS that a table describes, None where there is no table."""
    if not table:
        return None
    known(table, PACS, "PACS setting")
    if missing := {"address", "called", "outbox"} - set(table):
        raise ValueError(f"the configuration's [pacs] lacks {', '.join(sorted(missing))}")
    from koosh_gadgets.dicom.archive import Archive, address
    from koosh_gadgets.dicom.outbox import Outbox

    host, port = address(str(table["address"]))
    calling = str(table.get("calling", Archive.calling))
    ca = root / str(table["tls_ca"]) if "tls_ca" in table else None
    lanes = int(str(table.get("lanes", Archive.lanes)))
    archive = Archive(host, port, str(table["called"]), calling, lanes, ca)
    return Outbox(root / str(table["outbox"]), archive)


def texts(table: dict[str, object]) -> dict[str, str]:
    """TOML values as the texts that parameters are given in."""
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in table.items()}


def known(given: Iterable[str], names: tuple[str, ...], what: str) -> None:
    """Refuse names that mean nothing."""
    if extra := sorted(set(given) - set(names)):
        raise ValueError(f"unknown {what} {', '.join(extra)} in the configuration; known: {', '.join(names)}")
