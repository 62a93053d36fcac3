"""Anatomy, coils, trajectory and noise in; scans (and ISMRMRD files) with a known truth out."""
