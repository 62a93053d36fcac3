"""The training loop: one step after the other until the recipe's last, or until a signal; it names no strategy."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from koosh_models.losses import NonFiniteLossError
from koosh_models.memory import peak
from koosh_models.networks.unrolled import Unrolled, build
from koosh_models.physics.problem import Problem
from koosh_models.strategies import Apart, Strategy
from koosh_models.training import checkpoint, distributed, validate
from koosh_models.training.feed import AnyCase, Feed, Place, validation_cases
from koosh_models.training.journal import Journal, Progress, Rows
from koosh_models.training.plan import Misfit, Part, part_at, parts
from koosh_models.training.recipe import Recipe
from koosh_models.training.start import adam, begun

log = logging.getLogger(__name__)


@dataclass
class Stop:
    """Raised by SIGTERM and SIGUSR1, looked at between steps."""

    asked: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: it does nothing else, so that a step always ends whole."""
        self.asked = True

    def listen(self) -> None:
        """Handle the signals that schedulers send before they kill."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: after which step, whether it was stopped, and the last checkpoint."""

    step: int
    stopped: bool
    checkpoint: Path
    metrics: dict[str, float] = field(default_factory=dict)


class Run:
    """A training run in a folder. `steps()` does the work; everything that decides bits depends on the step alone."""

    def __init__(
        self, recipe: Recipe, folder: Path, cache: Path | None, me: distributed.Ranks, device: torch.device
    ) -> None:
        self.recipe, self.folder, self.me, self.device = recipe, folder, me, device
        self.print = checkpoint.fingerprint(recipe.model_dump_json(), me.world)
        self.misfit = Misfit()
        self.plan = parts(recipe, self.misfit)
        torch.manual_seed(recipe.training.seed)
        self.network = begun(recipe).to(device)
        distributed.same(self.network.state_dict().values())
        self.names: dict[Tensor, str] = {p: name for name, p in self.network.named_parameters()}
        self.mean = {name: p.detach().clone() for p, name in self.names.items()}
        self.optimizers: list[torch.optim.Optimizer] = []
        self.step, self.spent, self.stop, self.stopping = 0, 0.0, Stop(), False
        settings = recipe.training
        self.shared = settings.share == "coils" and me.world > 1
        self.part: Part | None = None
        place = self._place(self.plan[part_at(self.plan, 0)])
        self.feed = Feed(
            recipe.data, cache, place, settings.accumulate, settings.workers, settings.hold, device, late=settings.late
        )
        if self.feed.keeps:
            self.network.keep_starts()
        self.cache, self._cases = cache, list[tuple[AnyCase, Problem]]()

    def _place(self, part: Part) -> Place:
        """Which volumes this rank works on: some of its own, or the same as all others."""
        if part.apart and self.me.world == 1:
            raise ValueError(
                f"{part.phase.strategy} trains one module a rank and there is one rank: start more with torchrun, or "
                "take greedy, which gives the same weights"
            )
        if part.apart:
            return Place()
        return Place(coil=self.me.rank, coils=self.me.world) if self.shared else Place(self.me.rank, self.me.world)

    @property
    def apart(self) -> bool:
        """Whether each rank now trains a part of the network of its own."""
        return self.part is not None and self.part.apart

    @property
    def saves(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    def resume(self, state: checkpoint.State) -> None:
        """Go on from a checkpoint as if there had been no stop."""
        self.network.load_state_dict(state.network)
        self.mean = {name: tensor.to(self.device) for name, tensor in state.mean.items()}
        self.step, self.spent = state.step, state.facts.get("seconds", 0.0)
        if state.step < self.recipe.steps:
            part = self.plan[part_at(self.plan, state.step)]
            self._enter(part)
            if state.step > part.first:
                checkpoint.unpack(self.optimizers, self.names, state.optimizers, self.me.rank if self.apart else 0)

    def state(self) -> checkpoint.State:
        """The run as it stands, put together from all ranks where each trains a part; then all must ask."""
        optimizers = checkpoint.pack(self.optimizers, self.names, self.me.rank if self.apart else 0)
        if self.apart:
            self._gather()
            optimizers = distributed.collected(optimizers, self.device)
        facts = {"seconds": self.spent}
        return checkpoint.State(self.step, self.print, dict(self.network.state_dict()), self.mean, optimizers, facts)

    def save(self) -> Path:
        """Write a checkpoint; the first rank does, the others wait."""
        state = self.state() if self.me.first or self.apart else None
        if self.me.first and state is not None:
            checkpoint.write(self.saves, state)
        distributed.wait()
        return checkpoint.path_of(self.saves, self.step)

    def train(self, progress: Progress | None = None) -> Outcome:
        """All steps that are left."""
        journal = Journal(self.folder, self.step) if self.me.first else None
        stopped, found = False, dict[str, float]()
        try:
            while self.step < self.recipe.steps and not stopped:
                stopped = self._part(self.plan[part_at(self.plan, self.step)], journal, progress)
            if not stopped:
                found = self.validate(journal)
        finally:
            if journal is not None:
                journal.close()
        return Outcome(self.step, stopped, self.save(), found)

    @torch.no_grad()
    def _gather(self) -> None:
        """Give every rank the weights and running means that others have trained."""
        if self.part is None or not isinstance(self.part.strategy, Apart):
            return
        self.part.strategy.flush()
        own = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        weights = {f"network/{self.names[p]}": p for p in own}
        means = {f"mean/{self.names[p]}": self.mean[self.names[p]] for p in own}
        found = distributed.collected({**weights, **means}, self.device)
        for p, name in self.names.items():
            p.copy_(found[f"network/{name}"])
            self.mean[name].copy_(found[f"mean/{name}"])

    def _enter(self, part: Part) -> Strategy:
        """The part's strategy, with new optimizers for what it trains; it begins at the running means."""
        self._gather()
        if self.step == part.first:
            self.network.load_state_dict({**self.network.state_dict(), **self.mean})
        self.feed.place, self.part = self._place(part), part
        if part.phase.inherit and part.stage and self.step == part.first:
            self._inherit(part.stage)
        strategy = part.enter()
        self.optimizers = [adam(group) for group in strategy.phases(self.network)]
        return strategy

    @torch.no_grad()
    def _inherit(self, stage: int) -> None:
        """Give a stage the weights that the one before it ended with."""
        for kind in (self.network.regularizers, self.network.steps):
            for old, new in zip(kind[stage - 1].parameters(), kind[stage].parameters(), strict=True):
                new.copy_(old)
                self.mean[self.names[new]].copy_(old)

    def _part(self, part: Part, journal: Journal | None, progress: Progress | None) -> bool:
        """The steps of one part from here on; whether a signal ended it."""
        strategy = part.strategy if self.optimizers and self.step > part.first else self._enter(part)
        settings, begun = self.recipe.training, time.perf_counter()
        rows = Rows(journal, progress, distributed.Heard(self.device, self.me.world) if part.apart else None)
        for batch in self.feed.batches(self.step, part.last):
            loss, norm = self._step(strategy, batch, part)
            self.step += 1
            now = time.perf_counter()
            self.spent, seconds, begun = self.spent + now - begun, now - begun, now
            rows.add(
                self.stop.asked, step=self.step,
                phase=f"{part.phase.strategy}{'' if part.stage is None else part.stage}", loss=loss,
                rate=part.rate(self.step - 1), norm=norm, seconds=seconds, waiting=self.feed.waited,
                peak_mb=peak_mb(self.device),
            )  # fmt: skip
            validates = self.step % settings.validate_every == 0 and self.step < self.recipe.steps
            saves = self.step % settings.save_every == 0
            if validates or saves or self.step == part.last:
                rows.finish()
            if validates:
                self.validate(journal)
            if rows.stop or self.stopping or (self.me.world == 1 and self.stop.asked):
                rows.finish()
                return True
            if saves:
                self.save()
        return False

    def _step(self, strategy: Strategy, batch: list[tuple[AnyCase, Problem]], part: Part) -> tuple[float, float]:
        """One step of every optimizer; its mean loss and the largest norm of a gradient before clipping."""
        rate, place = part.rate(self.step), self.feed.place
        torch.manual_seed(self.recipe.training.seed * 1_000_003 + self.step * place.world + place.rank)
        self.network.zero_grad(set_to_none=True)
        losses = []
        for case, problem in batch:
            self.misfit.compared = self.feed.compared.get(case.name)
            losses.append(strategy.step(self.network, problem, case.goal(self.device))[-1])
        trained = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        if len(batch) > 1:
            for p in trained:
                if p.grad is not None:
                    p.grad /= len(batch)
        loss = sum(losses) / len(losses)
        if part.apart:
            loss *= self.me.rank + 1 == self.me.world  # the loss of the last module is that of the network
        elif self.me.world > 1:
            loss, asked = distributed.average(trained, loss, float(self.stop.asked))
            self.stopping = asked > 0
        norm = self._clip()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
        self._follow(trained)
        return loss, norm

    def _clip(self) -> float:
        """Shorten each group's gradient; the largest norm there was. Refuses gradients that are not finite."""
        most = 0.0
        limit = self.recipe.training.clip or float("inf")
        for optimizer in self.optimizers:
            group = [p for part in optimizer.param_groups for p in part["params"] if p.grad is not None]
            most = max(most, float(nn.utils.clip_grad_norm_(group, limit)))
        if not most < float("inf"):
            raise NonFiniteLossError(
                f"the gradient of step {self.step} is {most}: the weights are as they were before it; "
                "lower the learning rate, or look for NaN in the data"
            )
        return most

    @torch.no_grad()
    def _follow(self, trained: list[nn.Parameter]) -> None:
        """Move the running mean of the weights that are trained now; quickly in a part's first steps."""
        done = self.step - self.plan[part_at(self.plan, self.step)].first
        decay = min(self.recipe.training.ema, (1 + done) / (10 + done))
        for p in trained:
            self.mean[self.names[p]].lerp_(p, 1 - decay)

    def averaged(self) -> Unrolled:
        """A copy of the network with the running means for weights: what is validated and exported."""
        network = build(self.recipe.network).to(self.device)
        network.load_state_dict({**self.network.state_dict(), **self.mean})
        return network.eval()

    def cases(self) -> list[tuple[AnyCase, Problem]]:
        """The validation cases, made once."""
        if not self._cases:
            made = validation_cases(self.recipe.data, self.cache, self.recipe.data.validation_cases)
            self._cases = [(case, self.feed.problem(case)) for case in made]
        return self._cases

    def validate(self, journal: Journal | None) -> dict[str, float]:
        """Mean quality on the validation cases; the first rank does it while the others wait."""
        found = dict[str, float]()
        self._gather()
        if journal is not None or self.shared:  # where coils are shared, every rank is needed for the operator
            network = self.averaged()
            scores = [validate.score(case, problem, "network", network) for case, problem in self.cases()]
        if journal is not None:
            found = validate.means(scores)["network"]
            seconds = found.pop("seconds")
            del found["hfen"]
            journal.row(step=self.step, phase="validation", seconds=seconds, **found)
            journal.image("validation", validate.picture(self.cases()[0][0], scores[0].image), self.step)
            log.info("step %d: psnr %.2f dB, ssim %.4f", self.step, found["psnr"], found["ssim"])
        distributed.wait()
        return found


def peak_mb(device: torch.device) -> float:
    """Largest memory so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak() / 2**20
