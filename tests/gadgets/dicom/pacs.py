"""A PACS in this process, with faults on demand."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from koosh_gadgets.dicom.archive import Archive

# pynetdicom drops a socket that could not be connected without closing it
QUIET = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
FIND = StudyRootQueryRetrieveInformationModelFind


@dataclass(eq=False)
class Pacs:
    """Takes MR images and, unless told otherwise, says what it holds.

    statuses   answers to the next objects, before 0x0000
    die_after  objects after which it aborts the association
    forget     objects it drops after having acknowledged them
    """

    statuses: list[int] = field(default_factory=list)
    die_after: int | None = None
    forget: int = 0
    queries: bool = True
    largest: int = 10
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)
    bytes_of: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    @property
    def archive(self) -> Archive:
        return Archive("127.0.0.1", self.port, "PACS", timeout_s=20)

    def store(self, event: evt.Event) -> int:
        with self.lock:
            if self.die_after is not None and len(self.received) >= self.die_after:
                event.assoc.abort()
                return 0xC000
            uid = str(event.request.AffectedSOPInstanceUID)
            self.received.append(uid)
            status = self.statuses.pop(0) if self.statuses else 0x0000
            if status != 0x0000:
                return status
            data = event.dataset
            if self.forget:
                self.forget -= 1
            else:
                self.held[uid] = (str(data.StudyInstanceUID), str(data.SeriesInstanceUID))
                self.bytes_of[uid] = event.encoded_dataset(include_meta=False)
            return status

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for uid, (study, series) in list(self.held.items()):
            if (study, series) == (event.identifier.StudyInstanceUID, event.identifier.SeriesInstanceUID):
                found = Dataset()
                found.QueryRetrieveLevel, found.SOPInstanceUID = "IMAGE", uid
                found.StudyInstanceUID, found.SeriesInstanceUID = study, series
                yield 0xFF00, found

    @contextlib.contextmanager
    def running(self, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator["Pacs"]:
        """Serve on `port`, or a free one; with a context over TLS."""
        entity = AE(ae_title="PACS")
        entity.require_called_aet = True
        entity.maximum_associations = self.largest
        for sop_class in (MRImageStorage, EnhancedMRImageStorage):
            entity.add_supported_context(sop_class)
        if self.queries:
            entity.add_supported_context(FIND, ImplicitVRLittleEndian)
        handlers = [(evt.EVT_C_STORE, self.store), (evt.EVT_C_FIND, self.find)]
        server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()


def free_port() -> int:
    """A port nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
