"""DICOM over TLS: to an archive whose certificate the authority signed, and to no other."""

import dataclasses
import gc
import logging
import ssl
import subprocess

import pytest

from koosh_gadgets.dicom.archive import Unreachable
from koosh_gadgets.dicom.push import push
from koosh_gadgets.dicom.write import write_series
from tests.gadgets.dicom.pacs import QUIET, Pacs
from tests.gadgets.dicom.samples import series

pytestmark = [pytest.mark.system, QUIET]


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()  # while the filter holds


def certificate(folder, name):
    """A certificate that signs itself, and its key."""
    key, chain = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return chain, key


def test_everything_arrives_over_tls_and_nothing_at_a_stranger(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "pynetdicom")  # a log record with its traceback would keep the socket open
    files = write_series(series(), tmp_path / "d")
    ours, theirs = (certificate(tmp_path, name) for name in ("ours", "theirs"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours)
    with Pacs().running(context=context) as pacs:
        trusted = dataclasses.replace(pacs.archive, tls_ca=ours[0])
        assert push(files, trusted).verified == 7
        for archive in (dataclasses.replace(trusted, tls_ca=theirs[0]), dataclasses.replace(trusted, tls_ca=None)):
            with pytest.raises(Unreachable):
                push(files, dataclasses.replace(archive, timeout_s=2), attempts=1)
    assert len(pacs.received) == 7
