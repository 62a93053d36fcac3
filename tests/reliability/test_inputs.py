"""Files from elsewhere, cut, flipped and patched: what comes of them is a value or a ValueError, in bounded time."""

import json
import random
import time
import warnings

import numpy as np
import pytest

from koosh_gadgets import npz
from koosh_gadgets.convert import bart
from koosh_gadgets.dicom.metadata import facts
from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.nifti import read_nifti, write_nifti
from koosh_gadgets.petfile import read_pet
from koosh_gadgets.stages import pulseq
from koosh_gadgets.wire.errors import Malformed
from koosh_gadgets.wire.header import read_header
from koosh_gadgets.wire.parameters import from_text
from koosh_models.calibration import girf
from koosh_models.scan import Geometry
from tests.fakes.streams import header_xml
from tests.gadgets.dicom.samples import series
from tests.gadgets.test_pulseq import NEWER, SEQ

CHAIN = (
    '<configuration><property name="method" value="cg"/>'
    "<property><name>coils</name><value>4</value></property></configuration>"
)


def mutated(raw, rng):
    """A few bytes flipped, dropped, repeated or patched, or the end cut off."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 5)):
        at, n = rng.randrange(len(out) + 1), rng.randint(1, 12)
        piece = rng.choice(
            [bytes([rng.randrange(256)]), out[at : at + n] * 2, b"", b"9" * n, b"-1", b"\xff" * n, b"1e999"]
        )
        out[at : at + rng.randint(0, n)] = piece
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.2 else out)


def template(folder):
    return write_series(series(), folder / "made")[0].read_bytes()


def archive(folder):
    np.savez(folder / "made.npz", trajectory=np.zeros((4, 8, 3), "f4"), weights=np.ones(9))
    return (folder / "made.npz").read_bytes()


def nifti(folder):
    write_nifti(folder / "made.nii", np.zeros((4, 5, 6), "f4"), Geometry((4, 5, 6), (4.0, 5, 6)))
    return (folder / "made.nii").read_bytes()


def cfl(folder):
    bart.write_cfl(folder / "x", np.ones((2, 3, 4), np.complex64))
    return (folder / "x.hdr").read_bytes()


def response(_folder):
    axis = [[1.0, 0.0], [0.9, 0.1], [0.8, 0.0]]
    return json.dumps({"frequency_hz": [0.0, 1000.0, 2000.0], "gain": {"z": axis, "y": axis, "x": axis}}).encode()


KINDS = {
    "sequence 1.4": ("a.seq", lambda _: SEQ.encode(), lambda path: pulseq.trajectory_of(path, 8)),
    "sequence 1.5": ("a.seq", lambda _: NEWER.encode(), lambda path: pulseq.trajectory_of(path, 8)),
    "DICOM template": ("a.dcm", template, lambda path: facts("", template=path)),
    "archive": ("a.npz", archive, npz.arrays),
    "PET archive": ("a.npz", archive, read_pet),
    "NIfTI": ("a.nii", nifti, read_nifti),
    "BART header": ("x.hdr", cfl, bart.read_cfl),
    "impulse response": ("a.json", response, girf.load),
    "JSON of DICOM": ("a.json", lambda _: b'{"PatientID": "J-1", "SeriesNumber": 9}', lambda p: facts("", overrides=p)),
    "header": ("a.xml", lambda _: header_xml().encode(), lambda path: read_header(path.read_bytes())),
    "configuration": ("a.xml", lambda _: CHAIN.encode(), lambda path: from_text(path.read_text(errors="replace"))),
    "parameters": (
        "a.json",
        lambda _: b'{"parameters": {"method": "cg", "coils": 4}, "config": "koosh"}',
        lambda path: from_text(path.read_text(errors="replace")),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_a_value_or_a_sentence(kind, tmp_path):
    name, make, read = KINDS[kind]
    whole, rng, path, refused, slowest = make(tmp_path), random.Random(kind), tmp_path / name, 0, 0.0
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, over what they then refuse or repair
            try:
                read(path)
            except (ValueError, Malformed):
                refused += 1
        slowest = max(slowest, time.process_time() - started)
    assert refused
    assert slowest < 5.0


def test_a_sequence_that_claims_gigabytes_is_refused(tmp_path):
    (tmp_path / "a.seq").write_text(
        SEQ.replace("num_samples 60", "num_samples 6000000000").replace("0\n57", "0\n5000000000")
    )
    with pytest.raises(ValueError, match="samples"):
        pulseq.trajectory_of(tmp_path / "a.seq", 8)
