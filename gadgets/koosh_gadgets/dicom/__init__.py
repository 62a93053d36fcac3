"""DICOM out: valid series, their geometry, a self-check, and a push that loses nothing."""
