"""Scans and images between ISMRMRD, BART, NIfTI and numpy, with the units and axes of each."""
