"""Objects as files in memory; what the objects of a series share is encoded once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from koosh_gadgets.dicom.uids import IMPLEMENTATION


class Encoder:
    """Bytes of one object after the other, of which only the elements `varying` may differ from those of the first."""

    def __init__(self, varying: Iterable[str]) -> None:
        self.varying = frozenset(Tag(keyword) for keyword in varying)
        self.plan: list[bytes | BaseTag] = []

    def __call__(self, data: Dataset) -> bytes:
        """A DICOM file: preamble, file meta group, data set in explicit little endian."""
        self.plan = self.plan or self._plan(data)
        parts = (part if isinstance(part, bytes) else encoded(data, [part]) for part in self.plan)
        return b"".join([head(data), *parts])

    def _plan(self, data: Dataset) -> list[bytes | BaseTag]:
        """The shared elements as bytes, the varying ones as their tags, in the order of tags."""
        plan: list[bytes | BaseTag] = []
        for varies, group in itertools.groupby(sorted(data.keys()), self.varying.__contains__):
            tags = list(group)
            plan += tags if varies else [encoded(data, tags)]
        return plan


def encoded(data: Dataset, tags: Iterable[BaseTag]) -> bytes:
    """Some elements of a data set."""
    part = Dataset()
    for tag in tags:
        part[tag] = data[tag]
    file = _file()
    write_dataset(file, part, parent_encoding=data.SpecificCharacterSet)
    return file.getvalue()


def head(data: Dataset) -> bytes:
    """Preamble and file meta group."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION, "KOOSH"
    file = _file()
    write_file_meta_info(file, meta, enforce_standard=True)
    return bytes(128) + b"DICM" + file.getvalue()


def _file() -> DicomBytesIO:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    return file
