"""PET: projectors, priors, simulation, networks."""
