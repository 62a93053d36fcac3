"""Asking an archive what it holds: query, or storage commitment where it offers that."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind

from koosh_gadgets.dicom.archive import Archive, Item, Refused, Unreachable, association

log = logging.getLogger(__name__)

PENDING = (0xFF00, 0xFF01)
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known instance of the service (PS3.4, J.3.5)


def present(items: Iterable[Item], archive: Archive) -> set[str] | None:
    """UIDs among those of `items` that the archive names when queried; None where it doesn't answer queries."""
    items = list(items)
    find = str(StudyRootQueryRetrieveInformationModelFind)
    if not items:
        return set()
    try:
        with association(archive, [(find, str(ImplicitVRLittleEndian))]) as opened:
            named: set[str] = set()
            for study, series in sorted({(one.study, one.series) for one in items}):
                query = Dataset()
                query.QueryRetrieveLevel = "IMAGE"
                query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = study, series, ""
                for status, answer in opened.send_c_find(query, find):
                    if "Status" not in status:
                        raise Unreachable(f"{archive.name} did not answer a query: connection lost")
                    if status.Status in PENDING and answer is not None and "SOPInstanceUID" in answer:
                        named.add(str(answer.SOPInstanceUID))
                    elif status.Status not in (*PENDING, 0x0000):
                        log.info("%s answers queries with %#06x: not verified", archive.name, status.Status)
                        return None
    except Refused as error:
        log.info("what is stored can't be verified by query: %s", error)
        return None
    return named & {one.uid for one in items}


def commit(items: Iterable[Item], archive: Archive, port: int, wait_s: float = 60.0) -> set[str]:
    """UIDs the archive commits itself to keep (storage commitment push model, PS3.4, annex J).

    The archive's report comes to `port` of this machine or on the request's own association; the archive must know our
    AE title with this address. None of it in `wait_s` is `Unreachable`, a refusal `Refused`.
    """
    items = list(items)
    report = _Report(str(generate_uid(prefix="2.25.")))
    listener = AE(ae_title=archive.calling)
    listener.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = listener.start_server(
        (_facing(archive), port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, report.received)]
    )
    try:
        _request(items, archive, report.transaction)
        if not report.ready.wait(wait_s):
            where = f"port {port} of this machine"
            raise Unreachable(
                f"{archive.name} sent no commitment within {wait_s:g} s; does it know {archive.calling} at {where}?"
            )
    finally:
        server.shutdown()
    return report.committed & {one.uid for one in items}


class _Report:
    """The archive's answer to one transaction."""

    def __init__(self, transaction: str) -> None:
        self.transaction = transaction
        self.committed: set[str] = set()
        self.ready = threading.Event()

    def received(self, event: evt.Event) -> tuple[int, None]:
        """Take the report of our transaction; others aren't ours to answer for, but are acknowledged."""
        content = event.event_information
        if content.get("TransactionUID") == self.transaction:
            self.committed = {str(one.ReferencedSOPInstanceUID) for one in content.get("ReferencedSOPSequence", ())}
            self.ready.set()
        return 0x0000, None


def _facing(archive: Archive) -> str:
    """The address of this machine that the archive sees: no other listens."""
    with socket.socket(socket.AF_INET6 if ":" in archive.host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((archive.host, archive.port))
        return str(probe.getsockname()[0])


def _request(items: list[Item], archive: Archive, transaction: str) -> None:
    wanted = Dataset()
    wanted.TransactionUID = transaction
    wanted.ReferencedSOPSequence = Sequence()
    for one in items:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.sop_class, one.uid
        wanted.ReferencedSOPSequence.append(reference)
    with association(archive, [(str(StorageCommitmentPushModel), str(ImplicitVRLittleEndian))]) as opened:
        status, _ = opened.send_n_action(wanted, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
        if "Status" not in status:
            raise Unreachable(f"{archive.name} did not answer the request for commitment")
        if status.Status != 0x0000:
            raise Refused(f"{archive.name} refuses storage commitment (status {status.Status:#06x})")
