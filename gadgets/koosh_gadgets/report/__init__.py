"""A reconstruction on one self-contained HTML page: slices, errors, trajectory, timings, provenance."""
