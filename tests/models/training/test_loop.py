"""A run that is stopped and resumed ends with the bits of one that was not; nothing is lost on the way."""

from __future__ import annotations

import signal

import pytest
import torch

from koosh_models import weights
from koosh_models.losses import NonFiniteLossError
from koosh_models.training import checkpoint, export
from koosh_models.training.cases import draw
from koosh_models.training.distributed import Ranks, ranks
from koosh_models.training.journal import rows
from koosh_models.training.loop import Run
from koosh_models.training.plan import parts
from koosh_models.training.warmstart import turned
from tests.models.training.small import recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cases")


def run(folder, cache, *changes):
    return Run(recipe(*changes), folder, cache, Ranks(), CPU)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    whole = run(tmp_path_factory.mktemp("whole"), cache)
    outcome = whole.train()
    return checkpoint.read(outcome.checkpoint)


def same(a: checkpoint.State, b: checkpoint.State) -> bool:
    pairs = ((a.network, b.network), (a.mean, b.mean), (a.optimizers, b.optimizers))
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5, 6])
def test_stopped_anywhere_and_resumed_ends_with_the_same_bits(tmp_path, cache, undisturbed, stop_at):
    first = run(tmp_path, cache)

    def interrupt(step: int, loss: float) -> None:
        if step == stop_at:
            first.stop(signal.SIGTERM, None)

    outcome = first.train(interrupt)
    assert outcome.stopped
    assert outcome.step == stop_at
    again = run(tmp_path, cache)
    again.resume(checkpoint.newest(again.saves, again.print))
    final = again.train()
    assert not final.stopped
    assert same(checkpoint.read(final.checkpoint), undisturbed)
    steps = [int(row["step"]) for row in rows(tmp_path / "log.csv") if row["phase"] != "validation"]
    assert steps == list(range(1, 8))


def test_a_killed_run_goes_on_from_its_last_periodic_checkpoint(tmp_path, cache, undisturbed):
    killed = run(tmp_path, cache)

    def die(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.train(die)
    again = run(tmp_path, cache)
    state = checkpoint.newest(again.saves, again.print)
    assert state.step == 4
    again.resume(state)
    assert same(checkpoint.read(again.train().checkpoint), undisturbed)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, cache, undisturbed):
    first = run(tmp_path, cache)
    first.train()
    last = sorted(first.saves.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-40])
    again = run(tmp_path, cache)
    state = checkpoint.newest(again.saves, again.print)
    assert state.step == 6
    again.resume(state)
    assert same(checkpoint.read(again.train().checkpoint), undisturbed)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, cache):
    first = run(tmp_path, cache, "phases.0.steps=1", "phases.1.steps=1")
    outcome = first.train()
    with pytest.raises(ValueError, match="another recipe"):
        checkpoint.read(outcome.checkpoint, run(tmp_path, cache, "training.ema=0.5").print)


def test_a_full_disk_loses_nothing(tmp_path, cache, monkeypatch):
    first = run(tmp_path, cache)
    first.save()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    first.step = 1
    with pytest.raises(OSError, match="the one before it is whole"):
        first.save()
    assert [p.name for p in first.saves.iterdir()] == ["step-00000000.safetensors"]
    assert checkpoint.newest(first.saves, first.print).step == 0


def test_nan_stops_the_run_and_keeps_the_last_good_weights(tmp_path, cache):
    broken = run(tmp_path, cache)

    def poison(step: int, loss: float) -> None:
        if step == 3:
            for case, _ in broken.feed._held.values():
                case.target.fill_(float("nan"))

    broken.feed.hold = 2
    with pytest.raises(NonFiniteLossError, match="head"):
        broken.train(poison)
    state = checkpoint.newest(broken.saves, broken.print)
    assert state.step == 2
    assert all(bool(torch.isfinite(t).all()) for t in state.network.values())


def test_stages_are_warm_started_one_after_the_other(tmp_path, cache):
    changed = run(tmp_path, cache, "phases.1.steps=1")
    before = {k: v.clone() for k, v in changed.network.state_dict().items()}
    seen = {}

    def look(step: int, loss: float) -> None:
        now = changed.network.state_dict()
        seen[step] = {k.split(".")[1] for k in now if not torch.equal(now[k], before[k])}

    changed.train(look)
    assert seen[1] == seen[2] == {"0"}
    assert seen[3] == {"0", "1"}


@pytest.mark.parametrize("strategy", ["backprop", "checkpoint", "blockwise", "greedy", "sequential", "warmstart"])
def test_the_loop_runs_every_strategy_and_the_weights_move(tmp_path, cache, strategy):
    changed = run(tmp_path, cache, f"phases.1.strategy={strategy}", "phases.1.options={}", "phases.0.steps=1")
    before = [p.detach().clone() for p in changed.network.parameters()]
    changed.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, changed.network.parameters(), strict=True))


def test_launchers_tell_the_rank_and_a_missing_variable_is_named():
    assert ranks({}) == Ranks()
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    assert ranks(torchrun) == Ranks(1, 2, 0)
    with pytest.raises(ValueError, match="RANK is set but not LOCAL_RANK"):
        ranks({k: v for k, v in torchrun.items() if k != "LOCAL_RANK"})
    with pytest.raises(ValueError, match="no MASTER_ADDR"):
        ranks({k: v for k, v in torchrun.items() if k != "MASTER_ADDR"})
    srun = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    assert ranks(srun) == Ranks()
    assert ranks({**srun, "KOOSH_DISTRIBUTED": "1"}) == Ranks(1, 2, 1)


def test_self_supervised_training_needs_no_truth(tmp_path):
    changes = ("data.split=0.25", "phases.0.strategy=sequential", "phases.1.options={}", "data.coils=[3, 3]")
    blind = run(tmp_path, None, *changes, "data.cases=0", "phases.0.steps=2", "phases.1.steps=1")
    draw = blind.feed._fetch

    def without_truth(index: int):
        case = draw(index)
        case.target.fill_(float("nan"))
        return case

    blind.feed._fetch = without_truth
    before = [p.detach().clone() for p in blind.network.parameters()]
    blind.train()
    after = list(blind.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in after)


def test_held_out_readouts_and_the_others_are_the_scan():
    case = draw(recipe("data.coils=[3, 3]").data, "training", 0)
    given, compared = case.parted(0.25, 1)
    assert given.scan.n_readouts + compared.scan.n_readouts == case.scan.n_readouts
    both = torch.cat([given.scan.omega, compared.scan.omega], 1)
    assert torch.equal(both.sort(1).values, case.scan.omega.sort(1).values)


def test_a_warm_start_without_truth_is_refused():
    with pytest.raises(ValueError, match="warmstart needs the truth"):
        parts(recipe("data.split=0.25"))


def test_a_run_begins_with_the_weights_it_is_told_and_refuses_others(tmp_path, cache):
    first = run(tmp_path, cache)
    made = export.card_of(first.recipe, "begun", 0)
    weights.save(tmp_path / "begun.safetensors", first.network, made)
    with torch.no_grad():
        next(first.network.parameters()).add_(1)
    second = run(tmp_path, cache, f"training.init={tmp_path}/begun.safetensors", "training.seed=5")
    kept, _ = weights.load(tmp_path / "begun.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(second.network.parameters(), kept.parameters(), strict=True))
    fewer = run(tmp_path, cache, f"training.init={tmp_path}/begun.safetensors", "network.cg_steps=1")
    assert fewer.network.dims.cg_steps == 1
    with pytest.raises(ValueError, match="the recipe's is"):
        run(tmp_path, cache, f"training.init={tmp_path}/begun.safetensors", "network.features=5")


def test_start_images_of_problems_that_come_again_are_made_once(tmp_path, cache):
    kept, anew = run(tmp_path, cache, "training.hold=8"), run(tmp_path, cache)
    assert anew.network.starts is None
    made = next(iter(kept.feed.batches(0, 1)))[0][1]
    first = kept.network.start(made)
    assert kept.network.start(made) is first
    torch.testing.assert_close(first, anew.network.start(made))


def test_images_on_disk_and_late_operators_change_no_bit(tmp_path, cache):
    plain = run(tmp_path / "plain", cache, "training.hold=8").train()
    folder = tmp_path / "images"
    kept = ["training.hold=8", "training.late=true", f'phases.0.options={{folder="{folder}"}}']
    for name in ("first", "again"):  # made, then read
        other = run(tmp_path / name, cache, *kept).train()
        states = checkpoint.read(plain.checkpoint), checkpoint.read(other.checkpoint)
        assert same(*states)
    assert len(list(folder.glob("*.safetensors"))) == 2 * 2  # cases times stages


def test_a_turned_pair_of_images_stays_a_pair():
    torch.manual_seed(3)
    image = torch.randn(4, 5, 6, dtype=torch.complex64)
    shapes = set()
    for _ in range(20):
        given, wanted = turned(image, 2 * image)
        assert torch.equal(2 * given, wanted)
        assert torch.allclose(given.abs().flatten().sort().values, image.abs().flatten().sort().values)
        shapes.add(tuple(given.shape))
    assert len(shapes) > 3


def test_a_stage_begins_with_the_running_means_of_the_ones_before(tmp_path, cache):
    whole = run(tmp_path, cache)
    whole.train(lambda step, loss: setattr(whole.stop, "asked", step == 2))
    before = {k: v for k, v in whole.mean.items() if k.startswith("regularizers.0.")}
    whole.stop.asked = False
    whole.train(lambda step, loss: setattr(whole.stop, "asked", step == 3))
    now = dict(whole.network.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
