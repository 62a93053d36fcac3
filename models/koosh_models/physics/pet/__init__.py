"""Positron emission tomography: scanner, matched projectors, resolution and the Poisson problem made of them."""
