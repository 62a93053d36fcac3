"""A real Orthanc on loopback, with a database of its own in a temporary folder."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koosh_gadgets.dicom.archive import Archive
from tests.gadgets.dicom.pacs import free_port

PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"  # Debian puts it where only root looks


@dataclass
class Orthanc:
    """The running server: its ports, its process, what it says over HTTP."""

    folder: Path
    http: int
    dicom: int
    commit: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def archive(self) -> Archive:
        return Archive("127.0.0.1", self.dicom, "ORTHANC", timeout_s=20)

    def ask(self, path: str, content: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", content, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if answer.headers.get_content_type() == "application/json" else body

    def find(self, uid: str) -> str:
        """Orthanc's own id of a UID."""
        (found,) = self.ask("/tools/lookup", uid.encode())
        return found["ID"]

    def start(self) -> None:
        configuration = {
            "Name": "test", "StorageDirectory": "DB", "IndexDirectory": "DB", "HttpPort": self.http,
            "DicomPort": self.dicom, "DicomAet": "ORTHANC", "DicomCheckCalledAet": True, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowFind": True, "Plugins": [], "StableAge": 2,
            "DicomModalities": {"koosh": ["KOOSH", "127.0.0.1", self.commit]},
        }  # fmt: skip
        (self.folder / "orthanc.json").write_text(json.dumps(configuration))
        command = [PROGRAM, "--logfile=orthanc.log", "orthanc.json"]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                self.ask("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError((self.folder / "orthanc.log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def end(self, kill: bool = False) -> None:
        """Stop it; with `kill` as a power cut of the machine would."""
        assert self.process is not None
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(30)


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Running inside the block."""
    server = Orthanc(folder, free_port(), free_port(), free_port())
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.end()
