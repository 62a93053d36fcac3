"""PET networks under the strategies that all networks share."""

import copy
import gc
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from koosh_models.networks import Dims, Unrolled, build
from koosh_models.physics.pet.scanner import Scanner, natural
from koosh_models.physics.problem import EmissionProblem
from koosh_models.simulation.petset import Example, PetSet
from koosh_models.strategies.backprop import Backprop
from koosh_models.strategies.blockwise import Blockwise
from koosh_models.strategies.checkpoint import Checkpoint
from koosh_models.strategies.greedy import Greedy
from koosh_models.strategies.meter import Meter
from koosh_models.strategies.sequential import Sequential

SCANNER = Scanner(18, 24, 8.0)
DIMS = Dims(
    ndim=2, stages=4, features=6, layers=3, consistency="em", channels=1, guides=1, gamma=0.5,
    start="osem", start_steps=3,
)  # fmt: skip


def examples(n: int = 1, stride: int = 1) -> list[Example]:
    return PetSet(SCANNER, natural(SCANNER, 24), 3, (1e5, 2e5), 0, first=3, stride=stride).take(n)


def network(**change: object) -> Unrolled:
    torch.manual_seed(0)
    return build(replace(DIMS, **change))  # type: ignore[arg-type]


def gradients(net: Unrolled) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


@pytest.mark.parametrize("strategy", [Checkpoint(), Blockwise(tile=(10, 10))], ids=["checkpoint", "blockwise"])
def test_recomputing_strategies_give_the_gradient_of_backprop(strategy: Checkpoint | Blockwise) -> None:
    (example,) = examples()
    one, other = network(), network()
    (loss,), (same,) = (s.step(n, example.problem, example.truth) for s, n in ((Backprop(), one), (strategy, other)))
    assert abs(loss - same) <= 1e-6 * loss
    assert (gradients(one) - gradients(other)).norm() <= 1e-5 * gradients(one).norm()


def counted(problem: EmissionProblem, calls: list[int]) -> EmissionProblem:
    """The problem, writing down the subset of every projection."""

    def ratio(x: Tensor, subset: int) -> Tensor:
        calls.append(subset)
        return problem.ratio(x, subset)

    return replace(problem, ratio=ratio)


def test_no_projector_runs_inside_the_training_of_a_stage() -> None:
    (example,) = examples()
    calls: list[int] = []
    problem, net, strategy = counted(example.problem, calls), network(), Sequential(stage=2)
    strategy.step(net, problem, example.target)
    assert len(calls) == 3 + 3  # three updates of the start image, two stages before, and x_em of this one
    for _ in range(5):
        strategy.step(net, problem, example.target)
    assert len(calls) == 6
    strategy.advance(net)
    strategy.step(net, problem, example.target)
    assert len(calls) == 8  # this stage's image, and x_em of the next


@pytest.mark.parametrize("stage", range(4))
def test_sequential_training_resumes_at_any_stage(stage: int) -> None:
    train = examples(2)
    net, strategy = network(), Sequential()
    for k in range(stage + 1):
        if k:
            strategy.advance(net)
        learn(net, strategy, train, 3)
    kept = copy.deepcopy(net.state_dict())
    learn(net, strategy, train, 3)

    resumed = network()
    resumed.load_state_dict(kept)
    learn(resumed, Sequential(stage=stage), train, 3)
    for name, value in net.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def learn(net: Unrolled, strategy: Sequential, train: list[Example], steps: int) -> list[float]:
    optimizer = torch.optim.SGD(strategy.phases(net)[0], lr=0.01)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        example = train[step % len(train)]
        losses += strategy.step(net, example.problem, example.target)
        optimizer.step()
    return losses


def test_stages_before_the_one_trained_are_left_alone() -> None:
    train, net = examples(), network()
    before = copy.deepcopy(net.state_dict())
    learn(net, Sequential(stage=2), train, 2)
    changed = {name.split(".")[1] for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"2"}


@pytest.mark.parametrize("stages", [2, 10, 60])
def test_sequential_training_holds_one_stage_of_many(stages: int) -> None:
    (example,) = examples()
    net = network(stages=stages)
    strategies = (Sequential(stage=stages - 1), Backprop())
    strategies[0].inputs(net, example.problem)
    peaks = []
    for strategy in strategies:
        gc.collect()
        with Meter(ignored=(*net.parameters(), example.problem.inverse_sensitivity)) as meter:
            strategy.step(net, example.problem, example.truth)
        peaks.append(meter.peak)
    assert peaks[0] <= 1.1 / stages * peaks[1]
    assert abs(strategies[0].memory(net, example.problem) - peaks[0]) <= 0.05 * peaks[0]


def test_a_stage_learns_its_own_target() -> None:
    train, net = examples(2), network()
    losses = learn(net, Sequential(), train, 40)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_greedy_modules_train_on_counts_too() -> None:
    (example,) = examples()
    net = network()
    losses = Greedy(2).step(net, example.problem, example.truth)
    assert len(losses) == 2
    assert bool(torch.isfinite(gradients(net)).all())


def test_gradients_stop_at_the_projections_where_truncated() -> None:
    (example,) = examples()
    full, cut = network(), network(truncated=True)
    losses = [Backprop().step(n, example.problem, example.truth)[0] for n in (full, cut)]
    assert losses[0] == losses[1]
    assert not torch.allclose(gradients(full), gradients(cut))
    last = [p.grad for n in (full, cut) for p in n.stage(3).parameters()]
    assert all(torch.equal(a, b) for a, b in zip(last[: len(last) // 2], last[len(last) // 2 :], strict=True))  # type: ignore[arg-type]


def test_examples_are_reproducible_and_their_targets_run_ahead_by_the_stride() -> None:
    (one,), (again,), (ahead,) = examples(), examples(), examples(stride=3)
    assert torch.equal(one.scan.counts, again.scan.counts)
    assert torch.equal(one.target(3), ahead.target(1))
    assert torch.equal(one.target(6), ahead.target(2))


def test_flips_train_on_mirrored_images_without_a_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = examples()
    calls: list[int] = []
    problem = counted(example.problem, calls)
    plain, flipped = (Sequential(stage=1, flips=flips) for flips in (False, True))
    losses = []
    for drawn in (0.9, 0.1):  # no axis is mirrored, then all are
        monkeypatch.setattr(torch, "rand", lambda *a, drawn=drawn, **k: torch.tensor(drawn))
        losses.append(flipped.step(network(), problem, example.truth)[0])
    assert losses[0] == plain.step(network(), problem, example.truth)[0]
    assert losses[1] != losses[0]

    symmetric = network()  # kernels that are their own mirror images can't tell the two apart
    with torch.no_grad():
        for layer in symmetric.regularizers[1].layers:  # type: ignore[union-attr]
            w = layer.weight
            layer.weight.copy_((w + w.flip(-1) + w.flip(-2) + w.flip((-1, -2))) / 4)
    seen = []
    for drawn in (0.9, 0.1):
        monkeypatch.setattr(torch, "rand", lambda *a, drawn=drawn, **k: torch.tensor(drawn))
        symmetric.zero_grad()
        loss = flipped.step(symmetric, problem, example.truth)[0]
        raw = symmetric.stage(1).parameters()[-1].grad
        assert raw is not None
        seen.append((loss, float(raw)))
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)


def test_flips_are_refused_where_the_operator_runs_in_every_step() -> None:
    net = build(Dims(ndim=2, stages=2, features=4, layers=2, consistency="gradient", start="adjoint"))
    with pytest.raises(ValueError, match="flips need a consistency step that can be cached"):
        Sequential(flips=True).phases(net)
