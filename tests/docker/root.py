"""A Debian root made by debootstrap in which a Dockerfile's steps are done, and programs run as in its container.

What a container engine does with namespaces is done here by unshare, mount and chroot: mounts and network end with the
command. pip inside gets the configuration of pip outside; local folders that it names are mounted read-only.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from tests.docker.steps import ROOT, Stage, Step, built_from, lineage

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIKE_THE_BASE_IMAGE = ("python3", "python3-venv", "python-is-python3", "ca-certificates")
LOOPBACK_UP = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 65))"


def pip_settings() -> dict[str, str]:
    """Pip's configuration outside, as environment variables."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    return {f"PIP_{name.upper().replace('-', '_')}": value.replace("\\n", " ").strip() for name, value in rows}


def local(settings: dict[str, str]) -> list[Path]:
    """Files and folders of this machine that the settings name; of an index, the folder around it with its files."""
    words = [word for value in settings.values() for word in value.split()]
    plain = [Path(word) for word in words if word.startswith("/")]
    indexes = [Path(unquote(urlparse(word).path)).parent for word in words if word.startswith("file://")]
    return sorted({path for path in [*plain, *indexes] if path.exists()})


@dataclass(frozen=True)
class Root:
    """A root folder with what ENV, USER and WORKDIR have set in it."""

    folder: Path
    env: dict[str, str]
    user: str = "0"
    home: str = "/"

    @classmethod
    def debian(cls, folder: Path) -> Root:
        """A new minimal bookworm with Python."""
        include = ",".join(LIKE_THE_BASE_IMAGE)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={include}", "bookworm", str(folder)], check=True
        )
        return cls(folder, {"PATH": PATH})

    def copied(self, folder: Path) -> Root:
        """The same in another place."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Root(folder, dict(self.env), self.user, self.home)

    def run(
        self, command: str, *, volumes: dict[str, Path] | None = None, online: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """A shell command as the user; `online` for installs, else read-only but for /tmp and volumes, and offline."""
        settings = pip_settings() if online else {}
        shown = [*local(settings), Path("/etc/resolv.conf"), Path("/etc/hosts")] if online else []
        top = str(self.folder)
        script = ["set -e", f"mount --bind {top} {top}", f"mount -t tmpfs -o mode=1777 tmpfs {top}/tmp"]
        script += [f"mount -t proc proc {top}/proc", f"mount --rbind /dev {top}/dev"]
        script += [self.mount(path, str(path), "ro") for path in shown]
        script += [self.mount(outside, inside, "rw") for inside, outside in (volumes or {}).items()]
        if not online:
            script += [f"mount -o remount,ro,bind {top}", f"{sys.executable} -c {shlex.quote(LOOPBACK_UP)}"]
        env = [f"{key}={value}" for key, value in {**self.env, **settings}.items()]
        enter = ["chroot", f"--userspec={self.user}:{self.user}", top, "/usr/bin/env", "-i", *env]
        script.append(f"exec {shlex.join([*enter, '/bin/sh', '-c', f'cd {self.home} && {command}'])}")
        apart = ["unshare", "--mount", "--propagation", "private", *([] if online else ["--net"])]
        whole = [*apart, "/bin/sh", "-c", "\n".join(script)]
        return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=900)

    def mount(self, outside: Path, inside: str, how: str) -> str:
        """The command that shows a file or folder of ours inside."""
        there = self.folder / inside.lstrip("/")
        if outside.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        elif not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
        return f"mount --bind {outside} {there} && mount -o remount,{how},bind {there}"


def done(root: Root, step: Step, others: dict[str, Root]) -> Root:
    """The root after one more step; those that only say something to an engine change nothing."""
    if step.name == "RUN":
        result = root.run(step.text, online=True)
        if result.returncode:
            raise RuntimeError(f"RUN {step.text}\nexits with {result.returncode}\n{result.stdout}\n{result.stderr}")
    elif step.name == "COPY":
        copy(root, step, others)
    elif step.name in ("ENV", "ARG"):
        pairs = [word.partition("=") for word in step.words]
        values = {key: value.replace("$PATH", root.env["PATH"]) for key, _, value in pairs}
        return Root(root.folder, {**root.env, **values}, root.user, root.home)
    elif step.name == "USER":
        return Root(root.folder, root.env, step.text, root.home)
    elif step.name == "WORKDIR":
        (root.folder / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return Root(root.folder, root.env, root.user, step.text)
    return root


def copy(root: Root, step: Step, others: dict[str, Root]) -> None:
    """Files from the checkout, or moved out of an earlier stage, which nothing needs any more."""
    *sources, target = step.words
    mark = sources.pop(0).partition("=")[2] if sources[0].startswith("--from=") else ""
    into = root.folder / os.path.join(root.home, target).lstrip("/")
    for source in sources:
        if mark:
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(others[mark].folder / source.lstrip("/"), into)
        elif (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / source, into)


def built(stages: dict[str, Stage], target: str, base: Root, space: Path) -> Root:
    """The root of a target; `base` becomes it."""
    others = {}
    for name in built_from(stages, target):
        root = base.copied(space / name)
        for step in lineage(stages, name):
            root = done(root, step, others)
        others[name] = root
    for step in lineage(stages, target):
        base = done(base, step, others)
    return base
