# %% [markdown]
# # A scan through Gadgetron
# Gadgetron sends a scan to an external gadget over a socket and takes images back. This notebook plays Gadgetron's part with
# koosh's own client against a real `koosh serve`, message by message as Gadgetron version 4 does; then it starts
# `koosh_gadgets.entry` the way Gadgetron's `<execute>` does, with the `gadgetron` package in the gadget's process.

# %%
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from koosh_gadgets.cli import main
from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.files import open_scan, write_images

folder = Path(tempfile.mkdtemp())
file = folder / "scan.h5"
main(
    [
        "simulate",
        str(file),
        "--matrix",
        "24",
        "--coils",
        "4",
        "--acceleration",
        "2",
        "--truth",
        str(folder / "truth.npz"),
    ]
)

# %% [markdown]
# **A warm server**, as `koosh_3d.xml` expects it behind `<connect port="9020"/>`.

# %%
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
command = [sys.executable, "-m", "koosh_gadgets.cli", "serve", "-p", str(port), "--spool", "none", "--method", "cg"]
server = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
try:
    with open_scan(file) as scan:
        answer = send_scan(Request("127.0.0.1", port, "koosh_3d.xml", retry_s=60.0), scan.xml, scan.items())
        write_images(folder / "images.h5", answer.images, scan.xml)
finally:
    server.terminate()
    server.wait(30)
meta = answer.images[0].meta
print(len(answer.images), "images by", meta["koosh_method"], "from", meta["koosh_readouts"], "readouts")
print("before + after the last readout:", meta["koosh_seconds"])

# %% [markdown]
# **One process a scan.** Gadgetron listens, starts `python -m gadgetron PORT koosh_gadgets.entry koosh`, sends configuration,
# header and readouts, and reads images until the close message.

# %%
from koosh_gadgets.client import singly
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.framing import frames
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.source import SocketReceiver, Source

configuration = '<configuration><property name="method" value="gridding"/></configuration>'
received = []


def listen(peer):
    """Count the messages that come back, by their number."""
    for number, _ in frames(Source(SocketReceiver(peer, 120.0)), Limits()):
        received.append(number)
        if number == ids.CLOSE:
            return


with socket.create_server(("127.0.0.1", 0)) as parent, open_scan(file) as scan:
    started = [sys.executable, "-m", "gadgetron", str(parent.getsockname()[1]), "koosh_gadgets.entry", "koosh"]
    child = subprocess.Popen(started, env=os.environ, stderr=subprocess.DEVNULL)
    parent.settimeout(120)
    peer, _ = parent.accept()
    with peer:
        reader = threading.Thread(target=listen, args=(peer,))
        reader.start()
        peer.sendall(messages.script(ids.CONFIG_TEXT, configuration))
        peer.sendall(messages.script(ids.HEADER, scan.xml))
        for item in singly(scan.items()):
            peer.sendall(b"".join(messages.serialise(item)))
        peer.sendall(messages.CLOSE)
        reader.join(120)
    code = child.wait(60)
images = received.count(ids.IMAGE)
print(images, "images from the executed gadget, which ended with", code)
assert (len(answer.images), images, code) == (24, 24, 0)

# %% [markdown]
# The images as DICOM, for whoever reads them next.

# %%
assert main(["dicom", "export", str(folder / "images.h5"), str(folder / "dicom")]) == 0
assert main(["dicom", "check", str(folder / "dicom")]) == 0
