"""The mathematics of koosh: operators, calibration, baselines, networks and their training; no sockets."""
