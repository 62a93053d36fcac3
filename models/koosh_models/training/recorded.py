"""Cases made of recordings: fully sampled scans, of which the network is given a part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from koosh_models.baselines.classical import cg_sense
from koosh_models.physics.mri import dynamic, non_cartesian, robust_scale
from koosh_models.reconstruction import calibrate, with_weights
from koosh_models.scan import Scan
from koosh_models.training.cases import Case, first_iterates, readouts
from koosh_models.weights.describe import describe


def recorded(scan: Scan, keep: float, seed: int, name: str, iterates: int = 0) -> Case:
    """A case made of a fully sampled recording: its CG-SENSE image is the target, `keep` of its readouts the input.

    Kept are readouts at even distances from a random first one, so that a golden order stays even. A series has maps in
    common and other readouts in each frame.

    iterates  so many first iterates of CG-SENSE become targets of stages
    """
    if not 0 < keep <= 1:
        raise ValueError(f"{keep:g} of the readouts; wanted a share above 0, at most 1")
    whole = with_weights(scan)
    maps = calibrate(whole)
    dense = maps.maps.coils(0, scan.n_coils)
    problem = (non_cartesian if scan.n_frames is None else dynamic)(whole, dense)
    target = cg_sense(problem).image
    scale = robust_scale(target)
    seen = describe(scan)
    part = readouts(scan, evenly(scan, keep, np.random.default_rng([seed, 3])))
    facts: dict[str, float | str] = {
        "source": name, "subject": name, "acceleration": seen.acceleration / keep, "coils": float(scan.n_coils),
        "family": f"{seen.family}-recorded",
    }  # fmt: skip
    part = replace(part, kspace=part.kspace / scale)
    steps = first_iterates(problem, iterates) / scale if iterates else None
    return Case(name, part, dense, (target / scale).contiguous(), maps.mask.expand(target.shape), facts, steps)


def evenly(scan: Scan, keep: float, rng: np.random.Generator) -> Tensor:
    """(readout) or (frame, readout): indices of a share of the readouts, evenly spread from a random first one."""
    count = max(1, round(keep * scan.n_readouts))
    gap = scan.n_readouts / count
    first = torch.from_numpy(rng.uniform(0, gap, scan.n_frames or 1))
    which = (first[:, None] + torch.arange(count, dtype=torch.float64) * gap).long().clamp_max(scan.n_readouts - 1)
    return which if scan.n_frames is not None else which[0]
