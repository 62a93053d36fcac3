"""R5 to R8, R15, R16 and R20: files, numbers, names, weights, patients."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from pathlib import Path

import ismrmrd
import numpy as np

from benchmarks.promises.found import GRIDDING, Found, folder, launched
from koosh_gadgets.spool import Recorded, Spool
from tests.fakes.hostile import CANARY, NAMES, WRONG, canary_header, copies, disordered, wrong
from tests.fakes.modes import loose, written
from tests.fakes.runs import run, volume
from tests.fakes.site import exchange, until
from tests.fakes.streams import header_xml, noise_readout, point_scan, scan_stream


def damaged_files(full: bool) -> Found:
    """R5: truncated and flipped ISMRMRD files, each read as `koosh replay` reads it; flipped recordings of our own."""
    from koosh_gadgets.supervised import scan_in_child

    n, rng, taken, refused, other = 500 if full else 24, random.Random(5), 0, 0, []
    with folder() as home:
        path = home / "scan.h5"
        with contextlib.closing(ismrmrd.Dataset(str(path), "dataset")) as file:
            file.write_xml_header(header_xml().encode())
            for a in point_scan():
                file.append_acquisition(a)
        whole, broken = path.read_bytes(), home / "broken.h5"
        cuts = 0
        for k in range(n):
            raw = bytearray(whole)
            if k % 2:
                del raw[rng.randrange(1, len(raw)) :]
            else:
                for _ in range(rng.randint(1, 8)):
                    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            broken.write_bytes(raw)
            try:
                with scan_in_child(broken, silence_s=20.0) as (_, items):
                    taken += sum(1 for _ in items) > 0
                cuts += k % 2
            except ValueError:
                refused += 1
            except Exception as error:  # what must not happen is counted
                other.append(f"{type(error).__name__}: {error}")
        missed = unnoticed(home, n)
    text = f"{n} files: 0 crashes, {len(other)} foreign errors {other[:1] or ''}, {refused} refused, {cuts} truncated "
    text += f"ones accepted, {taken} flipped ones read; {n} flips of our own recordings: {missed} unnoticed"
    return Found(not other and not cuts and not missed, text)


def unnoticed(home: Path, n: int) -> int:
    """Flips of a recording that nothing notices."""
    recording = Spool(home / "s").begin()
    for raw in GRIDDING:
        recording.message(raw)
    recording.end(True)
    recording.close()
    assert recording.path is not None
    whole, rng, missed = recording.path.read_bytes(), random.Random(6), 0
    for _ in range(n):
        raw = bytearray(whole)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        recording.path.write_bytes(raw)
        with contextlib.suppress(ValueError):
            list(Recorded(recording.path).records())
            missed += 1
    return missed


def not_finite(_full: bool) -> Found:
    """R6: NaN, Inf and overflows in one readout, in 1 % and in all of them."""
    bad, dropped, refused = 0, 0, 0
    for value in (np.nan, np.inf, 1e30):
        for share in (1, 3, 300):
            scan = copies(point_scan(spokes=300))
            for a in scan[:share]:
                a.data[1, 3] = value
            if share == 300:
                with contextlib.suppress(ValueError):
                    run(scan, header_xml(spokes=300))
                    refused -= 1
                refused += 1
                continue
            images, journal = run(scan, header_xml(spokes=300))
            bad += not np.isfinite(volume(images)).all()
            dropped += any(f"{share} readouts with NaN or Inf were dropped" in note for note in journal.notes)
    text = f"{dropped} of 6 scans: readouts dropped and said; {refused} of 3 scans of nothing else refused; "
    text += f"{bad} images with NaN"
    return Found(dropped == 6 and refused == 3 and not bad, text)


def named(_full: bool) -> Found:
    """R7: readouts with something wrong in them; the message names readout and field."""
    vague, traces = [], 0
    for name in WRONG:
        items, message, settings = wrong(name)
        try:
            run(items, **settings)
            vague.append(name)
        except ValueError as error:
            vague += [] if re.search(message, str(error)) else [name]
            traces += "Traceback" in str(error)
    notes = run(point_scan())[1].notes
    said = any("no noise measurement" in note for note in notes)
    text = f"{len(WRONG)} faults: {len(vague)} without readout and field {vague or ''}, {traces} tracebacks; "
    return Found(not vague and not traces and said, text + f"a missing noise scan is said: {said}")


def disorder(_full: bool) -> Found:
    """R8: doubled, shuffled and missing readouts."""
    scan, mixed = disordered()
    want = volume(run(scan, header_xml(spokes=100))[0])
    images, journal = run(mixed, header_xml(spokes=100))
    off = float(np.abs(volume(images) - want).max() / want.max())
    images, less = run([*scan[:40], *scan[45:]], header_xml(spokes=100))
    said = any("5 readouts came twice" in n for n in journal.notes) and any("(5 missing)" in n for n in less.notes)
    said &= images[0].meta["koosh_complete"] == "false"
    return Found(off < 1e-6 and said, f"5 % doubled and shuffled: image off by {off:.1e}; 5 % missing: said {said}")


def names(_full: bool) -> Found:
    """R15: names from the wire; what Python imports and opens on their account."""
    from koosh_gadgets.session import Service
    from koosh_gadgets.wire.errors import WireError
    from tests.fakes.pipes import connection_of

    events: list[str] = []
    watching = [False]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and event in ("import", "open", "exec", "os.system", "subprocess.Popen", "os.listdir"):
            events.append(f"{event} {arguments[:1]}")

    sys.addaudithook(hook)
    Service().settings("koosh", {})
    accepted = 0
    for name in NAMES:
        for config, parameters in ((name, {}), ("koosh", {"weights": name}), ("koosh", {"dicom": name})):
            watching[0] = True
            try:
                Service().settings(config, parameters)
                accepted += "weights" not in parameters or bool(re.search(r"[^A-Za-z0-9._-]", name))
            except ValueError:
                pass
            finally:
                watching[0] = False
    raw = b"\1\0" + b"x" * 1024 + b"".join(GRIDDING[1:])
    with contextlib.suppress(WireError):
        connection_of(raw)
        accepted += 1
    text = f"{len(NAMES)} names as configuration, weights and folder, 1024 bytes without end: {accepted} accepted, "
    return Found(not accepted and not events, text + f"{len(events)} imports, opens or processes {events[:1] or ''}")


class Evil:
    """A pickle that would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (self.path, "w"))


def weights(full: bool) -> Found:
    """R16: weights that are not what their card says."""
    import pickle

    import torch
    from safetensors.torch import load_file, save_file

    from koosh_models import weights as room
    from koosh_models.networks.unrolled import Dims, build
    from koosh_models.weights.store import KEY

    dims = Dims(stages=1, features=4, layers=2, cg_steps=2, start_steps=2)
    card = room.Card(name="a", dims=dims, trained=room.Range(), accepts=room.Range())
    n, refused, used = 200 if full else 20, 0, 0
    with folder() as home:
        bad = home / "a.safetensors"
        card = room.save(bad, build(dims), card)
        state, whole, rng = load_file(bad), bad.read_bytes(), random.Random(16)
        first = sorted(state)[0]

        def tried(make: bytes | dict[str, torch.Tensor]) -> None:
            nonlocal refused, used
            if isinstance(make, bytes):
                bad.write_bytes(make)
            else:
                save_file(make, bad, metadata={KEY: card.model_dump_json()})
            try:
                room.load(bad)
                used += 1
            except ValueError:
                refused += 1

        tried(pickle.dumps(Evil(str(home / "run"))))
        tried({**state, first: torch.zeros(3, 5)})
        tried({**state, first: state[first] + 1})
        tried({**state, first: state[first] * float("nan")})
        for _ in range(n):
            raw = bytearray(whole)
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            tried(bytes(raw))
        ran = (home / "run").exists()
    text = (
        f"a pickle, a wrong shape, changed numbers, NaN and {n} flips: {refused} refused, {used} used, code run: {ran}"
    )
    return Found(refused == n + 4 and not used and not ran, text)


def patients(_full: bool) -> Found:
    """R20: a header full of one name, good and bad scans; the name is looked for in logs and answers."""
    header = canary_header()
    broken = header.replace("<x>16</x>", "<x>0</x>", 1)
    unit, number = (
        header.replace(f"<name>{CANARY}<", f"<name>{name}<") for name in ("trajectoryUnit", "expectedReadouts")
    )
    kind = header.replace("<trajectory>radial<", f"<trajectory>{CANARY}<")
    bad = header.replace(
        f"<patientName>{CANARY}<", f"<patientBirthdate>{CANARY}</patientBirthdate><patientName>{CANARY}<"
    )
    scans = [
        scan_stream(header=header, name="koosh_gridding"), scan_stream(header=broken, name="koosh_gridding"),
        scan_stream(header=bad, name="koosh_gridding"), scan_stream([noise_readout(0)], header, name="koosh_gridding"),
        scan_stream(header=header, name="koosh_gridding")[:30],
        *(scan_stream(header=one, name="koosh_gridding") for one in (unit, number, kind, header[:-30])),
        *(scan_stream(wrong(name)[0], header, name="koosh_gridding") for name in ("2D", "coils")),
    ]  # fmt: skip
    old = os.umask(0)
    try:
        with folder() as home, launched(home, "--log", "json") as server:
            until(lambda: b"ready on" in server.log.read_bytes(), 120)
            answers = [exchange(server.port, stream, half_close=True) for stream in scans]
            open_to_others = loose(server.spool)
            log, n = server.log.read_text(), len(list(server.spool.iterdir()))
            written(home / "written")
            open_to_others += loose(home / "written")
            n += len(list((home / "written").rglob("*")))
    finally:
        os.umask(old)
    texts = " ".join(text for a in answers for text in a.texts + a.errors)
    leaks = sum("Canary" in text or "4711" in text for text in (log, texts))
    text = f"{len(scans)} scans, {log.count(chr(10))} lines of log, {len(texts)} characters to peers: {leaks} leaks; "
    text += f"{n} files and folders under umask 0 (spool, images, DICOM, report, conversions, training): "
    text += f"others than 0600 and 0700: {open_to_others or 0}"
    return Found(not leaks and not open_to_others and len(answers[0].images) == 16, text)
