import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from koosh_gadgets.dicom import classic, enhanced
from koosh_gadgets.dicom.encode import Encoder
from koosh_gadgets.dicom.metadata import facts
from koosh_gadgets.dicom.uids import IMPLEMENTATION
from koosh_gadgets.dicom.write import prepared
from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, header, phantom, series


def by_pydicom(data):
    """The file that pydicom writes for an object."""
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
    )
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.ImplementationClassUID, data.file_meta.ImplementationVersionName = IMPLEMENTATION, "KOOSH"
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("form", [classic, enhanced])
@pytest.mark.parametrize(
    "source",
    [
        series(),
        series(header=header(name="山田^太郎", patient="Ä-1"), volume=phantom((7, 10, 13)) - 900.5),
        Series(phantom((3, 4, 5, 5)), Geometry((4, 5, 5), (8.0, 6, 5)), META, header(), frame_ms=40),
        Series(np.ones((3, 3, 3)), Geometry((3, 3, 3), (3.0, 3, 3))),
    ],
)
def test_bytes_are_those_that_pydicom_writes_for_each_object(form, source):
    ready, encode = prepared(source, facts(source.header), form is enhanced), Encoder(form.VARYING)
    for data in form.datasets(ready):
        assert encode(data) == by_pydicom(data)
