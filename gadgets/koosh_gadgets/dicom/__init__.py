"""DICOM out: valid series, their geometry, a self-check, and a push that loses nothing; needs `koosh[dicom]`."""

from koosh_gadgets.extras import require

require("dicom", ("pydicom", "pynetdicom"))
