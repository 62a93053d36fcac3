"""Scans, and parts of them."""

import pytest
import torch

from koosh_models.scan import Geometry, Scan


def scan(*frames: int) -> Scan:
    """5 readouts of 3 samples that all differ, 2 coils."""
    kspace = torch.arange(30.0).reshape(2, 15).to(torch.complex64).expand(*frames, 2, 15)
    omega = torch.linspace(-3, 3, 45).reshape(3, 15).expand(*frames, 3, 15)
    return Scan(kspace, omega, Geometry((4, 4, 4), (4.0, 4.0, 4.0)), 3, torch.arange(15.0).expand(*frames, 15))


def test_some_readouts_keep_their_samples_places_and_weights():
    whole, which = scan(), torch.tensor([4, 1])
    part = whole.only(which)
    samples = torch.tensor([12, 13, 14, 3, 4, 5])
    assert part.n_readouts == 2
    assert torch.equal(part.kspace, whole.kspace[:, samples])
    assert torch.equal(part.omega, whole.omega[:, samples])
    assert part.weights is not None
    assert torch.equal(part.weights, samples.float())


def test_readouts_of_a_series_are_taken_frame_by_frame():
    with pytest.raises(ValueError, match="one frame after the other"):
        scan(2).only(torch.tensor([0]))
