"""The seed benchmarks measure what they say, in miniature."""

import pytest
import torch
from scipy import stats

from benchmarks.seeds import blockwise, gleam, mel
from benchmarks.seeds.measure import interval
from benchmarks.seeds.problems import cartesian, radial, smooth_maps
from benchmarks.seeds.quality import fit, gain, mean, scores
from koosh_models.networks import Dims, build
from koosh_models.strategies import Greedy


def test_the_interval_covers_what_scipy_says():
    values = [0.3, 0.5, 0.1, 0.7, 0.4]
    middle, low, high = interval(values)
    want = stats.t.interval(0.95, 4, loc=middle, scale=stats.sem(values))
    assert (low, high) == pytest.approx(want, rel=1e-2)


@pytest.mark.parametrize(("anatomy", "shape"), [("knee", (24, 22)), ("knee", (10, 12, 14)), ("cine", (4, 20, 22))])
def test_a_measurement_fits_its_truth_up_to_noise_and_lacks_what_was_not_sampled(anatomy, shape):
    case = cartesian(anatomy, shape, 4.0, 4, 0)
    misfit = (case.problem.normal(case.truth) - case.problem.b).norm() / case.problem.b.norm()
    assert 0 < misfit < 0.1
    assert (case.problem.b - case.truth).norm() > 0.1 * case.truth.norm()
    x, y = (torch.randn(shape, dtype=torch.complex64) for _ in range(2))
    left, right = (
        torch.vdot(case.problem.normal(x).flatten(), y.flatten()),
        torch.vdot(x.flatten(), case.problem.normal(y).flatten()),
    )
    assert abs(left - right) <= 1e-4 * x.norm() * y.norm()


@pytest.mark.slow
def test_the_radial_measurement_is_self_adjoint_with_maps_of_unit_length():
    case = radial((16, 14, 16), 4, 4, sixteen_bit=True)
    x, y = (torch.randn(16, 14, 16, dtype=torch.complex64) for _ in range(2))
    normal = case.problem.normal
    left, right = torch.vdot(normal(x).flatten(), y.flatten()), torch.vdot(x.flatten(), normal(y).flatten())
    assert abs(left - right) <= 1e-4 * normal(x).norm() * y.norm()
    maps = smooth_maps((16, 14, 16), 4)
    assert torch.allclose(maps.coils(0, 4).abs().square().sum(0), torch.ones(16, 14, 16), atol=1e-4)


@pytest.mark.slow
def test_training_improves_the_cases_it_sees():
    data = [cartesian("knee", (24, 24), 3.0, 4, seed) for seed in range(4)]
    torch.manual_seed(0)
    network = build(Dims(ndim=2, stages=4, layers=3, features=8, lam=0.3))
    before = scores(network, data)
    losses = fit(network, Greedy(2), data, 60, 3e-3, 0)
    after = scores(network, data)
    assert sum(losses[-12:]) < 0.8 * sum(losses[:12])
    rows = gain("training", [after], [before], "psnr", 0.0)
    assert rows[0].value == pytest.approx(mean(after) - mean(before))
    assert rows[0].value > 1


@pytest.mark.slow
def test_the_exactness_tables_are_met():
    assert all(row.met for row in blockwise.exactness((16, 16, 16)))


@pytest.mark.slow
def test_the_memory_tables_are_met_where_they_have_goals():
    rows = mel.memory("cine", (8, 16, 16), (10,), fresh=False)
    assert [row.met for row in rows if row.goal] == [True, True]


def test_equal_memory_is_equal():
    case = cartesian("knee", (24, 24), 3.0, 4, 0)
    held = [
        gleam.peak(Dims(ndim=2, stages=k, features=8, layers=3, consistency="gradient"), strategy, case)
        for k, strategy in ((24, Greedy(3)), (8, Greedy(1)))
    ]
    assert held[0] == held[1]
