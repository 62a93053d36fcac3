"""Strategies that train parts of the chain by themselves: greedy, pipelined over ranks, sequential, equilibrium."""

from dataclasses import replace

import pytest
import torch
from torch import distributed, multiprocessing, nn

from koosh_models.networks import Dims, build
from koosh_models.networks.unrolled import Unrolled, regularizer
from koosh_models.strategies import Backprop, Equilibrium, Greedy, Pipelined, Sequential
from koosh_models.strategies.greedy import cuts
from tests.models.problems import cartesian

DIMS = Dims(ndim=2, stages=4, layers=3, features=6, consistency="proximal")


def flat(network) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def train(strategy, network, problems, rate=1e-3):
    """A bare training loop that knows no strategy: one optimizer a phase."""
    optimizers = [torch.optim.Adam(group, rate) for group in strategy.phases(network)]
    losses = []
    for problem, truth in problems:
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses.append(strategy.step(network, problem, truth))
        for optimizer in optimizers:
            optimizer.step()
    return losses


def test_no_gradient_crosses_a_cut():
    torch.manual_seed(0)
    network = build(DIMS)
    problem, truth = cartesian("2d")
    losses = Greedy(2).step(network, problem, truth)
    assert len(losses) == 2
    first = [p.grad.clone() for k in (0, 1) for p in network.stage(k).parameters()]
    network.zero_grad()
    Greedy(2).step(network, problem, lambda k: truth if k == 2 else 5 * truth)
    again = [p.grad for k in (0, 1) for p in network.stage(k).parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_module_gets_the_gradient_of_its_own_short_network():
    torch.manual_seed(0)
    network = build(DIMS)
    problem, truth = cartesian("2d")
    Greedy(2).step(network, problem, truth)
    with torch.no_grad():
        middle = list(network.images(problem))[1]
    second = Unrolled(replace(DIMS, stages=2), list(network.regularizers[2:]), list(network.steps[2:]))
    got = [p.grad.clone() for p in second.parameters()]
    second.zero_grad()
    second.start = lambda _: middle
    Backprop().step(second, problem, truth)
    assert all(torch.equal(a, p.grad) for a, p in zip(got, second.parameters(), strict=True))


def test_one_module_is_ordinary_backpropagation_and_the_cuts_cover_all_stages():
    assert [list(r) for r in cuts(build(replace(DIMS, stages=8)), 3)] == [[0, 1, 2], [3, 4], [5, 6, 7]]
    problem, truth = cartesian("2d")
    nets = []
    for strategy in (Greedy(1), Backprop()):
        torch.manual_seed(0)
        nets.append(build(DIMS))
        strategy.step(nets[-1], problem, truth)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def one_rank(rank: int, ranks: int, store: str, result: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    network, strategy = build(DIMS), Pipelined()
    train(strategy, network, [cartesian("2d", seed) for seed in range(5)])
    strategy.flush()
    torch.save([p.detach() for group in strategy.phases(network) for p in group], f"{result}.{rank}")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_in_a_pipeline_end_with_the_weights_of_the_sequential_schedule_to_the_bit(tmp_path):
    ranks = 2
    arguments = (ranks, str(tmp_path / "store"), str(tmp_path / "weights"))
    multiprocessing.spawn(one_rank, arguments, nprocs=ranks)
    torch.manual_seed(0)
    network, strategy = build(DIMS), Greedy(ranks)
    train(strategy, network, [cartesian("2d", seed) for seed in range(5)])
    for rank, group in enumerate(strategy.phases(network)):
        for ours, wanted in zip(torch.load(f"{arguments[2]}.{rank}"), group, strict=True):
            assert torch.equal(ours, wanted)


def test_a_pipeline_without_ranks_says_how_to_get_them():
    with pytest.raises(RuntimeError, match="torchrun"):
        Pipelined().phases(build(DIMS))


def test_sequential_training_moves_one_stage_and_freezes_those_before():
    torch.manual_seed(0)
    network, strategy = build(DIMS), Sequential()
    pairs = [cartesian("2d", seed) for seed in range(2)]
    for k in range(DIMS.stages):
        before = [[p.detach().clone() for p in network.stage(j).parameters()] for j in range(DIMS.stages)]
        train(strategy, network, pairs)
        for j in range(DIMS.stages):
            same = all(torch.equal(a, b) for a, b in zip(before[j], network.stage(j).parameters(), strict=True))
            assert same == (j != k)
        assert strategy.advance(network) == (k + 1 < DIMS.stages)


def test_sequential_training_aims_each_stage_at_its_own_target():
    network, strategy, asked = build(DIMS), Sequential(stage=2), []
    problem, truth = cartesian("2d")
    strategy.step(network, problem, lambda k: asked.append(k) or truth)
    assert asked == [3]


def test_the_cached_input_is_the_image_of_the_stages_before():
    torch.manual_seed(0)
    network, strategy = build(DIMS), Sequential(stage=2)
    problem, _ = cartesian("2d")
    with torch.no_grad():
        images = list(network.images(problem))
    assert torch.equal(strategy.inputs(network, problem).x, images[1])
    assert strategy.inputs(network, problem) is strategy.inputs(network, problem)
    strategy.advance(network)
    assert torch.equal(strategy.inputs(network, problem).x, images[2])
    strategy.stage = 1
    assert torch.equal(strategy.inputs(network, problem).x, images[0])


class Counted(nn.Module):
    """A split step that counts how often its costly part runs."""

    kind, runs = "counted", 0

    def data(self, problem, x):
        self.runs += 1
        return x - (problem.normal(x) - problem.b)

    def fuse(self, problem, data, regularized):
        return (data + regularized) / 2

    def forward(self, problem, x, regularized):
        return self.fuse(problem, self.data(problem, x), regularized)


def test_sequential_training_runs_the_costly_part_of_a_split_step_once_per_measurement():
    torch.manual_seed(0)
    steps = [Counted() for _ in range(DIMS.stages)]
    network = Unrolled(DIMS, [regularizer(DIMS) for _ in steps], steps)
    problem, truth = cartesian("2d")
    strategy = Sequential(stage=2)
    losses = train(strategy, network, [(problem, truth)] * 6)
    assert [step.runs for step in steps] == [1, 1, 1, 0]
    grads = [p.grad.clone() for p in network.stage(2).parameters()]
    Backprop(last=2).step(network, problem, truth)
    assert losses[-1][0] < losses[0][0]
    assert all(float(g.norm()) > 0 for g in grads)


def test_equilibrium_finds_an_image_that_its_stage_leaves_as_it_is():
    torch.manual_seed(0)
    network = build(replace(DIMS, shared=True, consistency="cg", lam=0.5))
    problem, truth = cartesian("2d", kept=1.0)  # nothing unmeasured, so an untrained stage contracts
    strategy = Equilibrium(tolerance=1e-4, limit=200)
    x = strategy.settled(network, problem)
    assert 1 < strategy.run < 200
    with torch.no_grad():
        assert (network.stage(0)(problem, x) - x).norm() <= 2e-4 * x.norm()
    losses = train(strategy, network, [(problem, truth)] * 15)
    assert losses[-1][0] < losses[0][0]


def test_equilibrium_says_when_the_image_does_not_settle(caplog):
    torch.manual_seed(0)
    network = build(replace(DIMS, shared=True))
    Equilibrium(tolerance=0.0, limit=3).settled(network, cartesian("2d")[0])
    assert "after 3 stages the image still changed" in caplog.text
