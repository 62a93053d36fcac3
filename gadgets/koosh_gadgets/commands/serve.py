"""`koosh serve`: one warm process for Gadgetron's <connect>, MRD clients and FIRE."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from pathlib import Path

from koosh_gadgets import settings as parameters


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("serve", help="reconstruct scans that arrive over the network", description=__doc__)
    p.add_argument("-a", "--address", default=None, help="address to listen on (127.0.0.1)")
    p.add_argument("-p", "--port", type=int, default=None, help="port, 0: any free one (9020)")
    p.add_argument("--device", default=None, help="auto, cpu, cuda, cuda:1 (auto)")
    p.add_argument("--spool", metavar="DIR", default=None, help="where scans are kept; `none`: nowhere")
    p.add_argument("--allow", metavar="NETWORK", action="append", help="take peers of this network only, as 10.0.0.0/8")
    p.add_argument("--metrics", type=int, metavar="PORT", help="counters for Prometheus on loopback, 0: any free port")
    p.add_argument("--log", choices=("text", "json"), default="text", help="form of the log (%(default)s)")
    p.add_argument("-c", "--config", type=Path, metavar="FILE", default=None, help="TOML: folders, presets, limits ...")
    parameters.add_arguments(p)
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop."""
    from koosh_gadgets.config import load
    from koosh_gadgets.observe import LOG, log_as_json
    from koosh_gadgets.peers import networks
    from koosh_gadgets.server import serve
    from koosh_gadgets.spool import Spool

    found = load(arguments.config)
    if arguments.log == "json":
        log_as_json()
        os.environ[LOG] = "json"  # for the worker
    names = ("address", "port", "device", "metrics")
    given = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    if arguments.allow:
        given["allow"] = networks(arguments.allow)
    found = dataclasses.replace(found, **given, settings=parameters.from_arguments(arguments, found.settings))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", found.device):
        raise ValueError(f"the device is {found.device!r}; wanted auto, cpu, cuda or cuda:N")
    if arguments.spool == "none":
        found = dataclasses.replace(found, spool=None)
    elif arguments.spool is not None or found.spool is None:
        folder = Path(arguments.spool) if arguments.spool else default_spool()
        spool = found.spool or Spool(folder)
        found = dataclasses.replace(found, spool=dataclasses.replace(spool, folder=folder))
    serve(found, arguments.config)
    return 0


def default_spool() -> Path:
    """The user's own state folder."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "koosh" / "spool"
