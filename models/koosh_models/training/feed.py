"""Cases in an order that depends on seed, step and rank alone, made ahead by worker processes."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from koosh_models import private
from koosh_models.physics.problem import LinearProblem, Problem
from koosh_models.training import distributed
from koosh_models.training.cases import Case, draw, read_case, sources, write_case
from koosh_models.training.pet import PetCase, draw_pet
from koosh_models.training.tables import Data
from koosh_models.training.volumes import Source

log = logging.getLogger(__name__)
AnyCase = Case | PetCase
Input = tuple[AnyCase, Problem, Problem | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """This process among those that share the work.

    rank, world  among those that have volumes of their own
    coil, coils  among those that share a volume, each with some of its coils
    """

    rank: int = 0
    world: int = 1
    coil: int = 0
    coils: int = 1


def number(data: Data, count: int) -> int:
    """Which case is the `count`-th: a new one each time, or those on disk in a new order every epoch."""
    if not data.cases:
        return count
    epoch, position = divmod(count, data.cases)
    return int(np.random.default_rng([data.seed, 7, epoch]).permutation(data.cases)[position])


def case_file(cache: Path, split: str, index: int) -> Path:
    """Where a case lies."""
    return cache / f"{split}-{index:05d}.safetensors"


def fetch(data: Data, cache: str | None, split: str, index: int, known: list[Source] | None = None) -> AnyCase:
    """A case in its object's box, from the cache; made and put there first where it is missing. PET is made anew."""
    if data.pet is not None:
        return draw_pet(data, split, index)
    if cache is None:
        return draw(data, split, index, known).inside()
    path = case_file(Path(cache), split, index)
    if not path.is_file():
        write_case(path, draw(data, split, index, known))
    return read_case(path).inside()


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, made by a thread while the loop works on those before: `depth` wait, one more is being made."""
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        # a thread that waits for ever would keep the interpreter from ending
        while not closed.is_set() and threading.main_thread().is_alive():
            with contextlib.suppress(queue.Full):
                made.put((item, error), timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    if not put(item, None):
                        return
            put(None, StopIteration())
        except BaseException as error:  # handed to the loop, which raises it
            put(None, error)

    thread = threading.Thread(target=make, name="cases")
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(T, item)
    finally:
        closed.set()


def quiet() -> None:
    """A worker uses one thread: there are others beside it."""
    torch.set_num_threads(1)


@dataclass
class Feed:
    """Problems with their targets for every step of a rank, made by a thread while the steps before them run.

    cache    folder of cases, None to make each anew
    waited   seconds that the loop waited for data
    late     keep of a problem its images alone, and make its operator again from the cache where it is applied
    compared  by case, the readouts that are held out where training is self-supervised
    """

    data: Data
    cache: Path | None
    place: Place
    accumulate: int
    workers: int = 0
    hold: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    waited: float = 0.0
    late: bool = False

    def __post_init__(self) -> None:
        self.compared: dict[str, LinearProblem] = {}
        self._held: dict[int, tuple[AnyCase, Problem]] = {}
        self._sources = [] if self.data.pet else sources(self.data)
        if self.cache is not None:
            private.folder(self.cache)

    def batches(self, first: int, last: int) -> Iterator[list[tuple[AnyCase, Problem]]]:
        """For each step from `first` to `last` - 1, the cases whose gradients are added up."""
        order = [number(self.data, c) for c in self._counts(first, last)]
        with contextlib.closing(self._made(order)) as made:
            for step in range(last - first):
                start = time.perf_counter()
                batch = [next(made) for _ in order[step * self.accumulate : (step + 1) * self.accumulate]]
                self.waited += time.perf_counter() - start
                yield batch

    def _counts(self, first: int, last: int) -> Iterator[int]:
        for count in range(first * self.accumulate, last * self.accumulate):
            yield count * self.place.world + self.place.rank

    def _made(self, order: list[int]) -> Generator[tuple[AnyCase, Problem], None, None]:
        missing = self._missing(order)
        with contextlib.closing(ahead(self._inputs(missing), depth=1)) as coming:
            for index in order:
                if index in self._held:
                    yield self._held[index]
                    continue
                case, own, compared = next(coming)
                if compared is not None:
                    self.compared[case.name] = cast(LinearProblem, self._joined(compared))
                pair = (case, self._joined(own))
                if self.keeps:
                    self._held[index] = pair
                yield pair

    def _inputs(self, order: list[int]) -> Generator[Input, None, None]:
        """For each index its case, what this rank measured of it, and the readouts held out to compare with."""
        coming = self._ahead(order) if self.workers else iter(self._fetch(i) for i in order)
        for index, case in zip(order, coming, strict=True):
            if self._late and isinstance(case, Case):
                assert self.cache is not None
                yield case.bare(), late(case, case_file(self.cache, "training", index), self.device), None
                continue
            if not self.data.split:
                yield case, self._own(case), None
                continue
            if not isinstance(case, Case):
                raise ValueError(f"{case.name} has no readouts to hold out: set data.split = 0")
            given, compared = case.parted(self.data.split, self.data.seed + index)
            yield case, self._own(given), self._own(compared)

    def problem(self, case: AnyCase) -> Problem:
        """The measurement of a case; where ranks share it, of all their coils together."""
        return self._joined(self._own(case))

    def _own(self, case: AnyCase) -> Problem:
        """Of this rank's coils; no message to others, so that it may be made ahead."""
        if self.place.coils == 1:
            return case.problem(self.device)
        if not isinstance(case, Case):
            raise ValueError(f'{case.name} has no coils to share: take training.share = "volumes"')
        return case.share(self.place.coil, self.place.coils).problem(self.device)

    def _joined(self, own: Problem) -> Problem:
        return own if self.place.coils == 1 else distributed.joined(cast(LinearProblem, own))

    @property
    def _late(self) -> bool:
        return self.late and self.cache is not None and not self.data.split and self.place.coils == 1

    @property
    def keeps(self) -> bool:
        """Whether the same problems come again every epoch."""
        return self.data.fit(self.hold)

    def _missing(self, order: list[int]) -> list[int]:
        """The indices to fetch, in order: each once where all are kept."""
        if not self.keeps:
            return order
        return list(dict.fromkeys(i for i in order if i not in self._held))

    def _fetch(self, index: int) -> AnyCase:
        return fetch(self.data, str(self.cache) if self.cache else None, "training", index, self._sources)

    def _ahead(self, order: list[int]) -> Iterator[AnyCase]:
        """Cases in order, two for each worker under way."""
        # spawned, not forked: OpenMP's threads do not survive a fork
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=quiet) as pool:
            under_way: list[Future[AnyCase]] = []
            rest = iter(order)
            cache = str(self.cache) if self.cache else None
            for index in rest:
                under_way.append(pool.submit(fetch, self.data, cache, "training", index))
                if len(under_way) >= 2 * self.workers:
                    yield under_way.pop(0).result()
            while under_way:
                yield under_way.pop(0).result()


@lru_cache(maxsize=1)
def opened(path: Path, device: torch.device) -> LinearProblem:
    """The problem of a case on disk; the one opened last is kept."""
    return read_case(path).inside().problem(device)


def late(case: Case, path: Path, device: torch.device) -> LinearProblem:
    """The problem of a case, holding its right side alone: kernels and maps come from the cache when they are used."""
    b = path.with_suffix(".b.safetensors")
    if not b.is_file():
        problem = opened(path, device)
        part = b.with_name(f".{b.stem}.{uuid.uuid4().hex[:8]}.part")
        save_file({"b": problem.b.cpu().contiguous()}, part, metadata={"scale": repr(problem.scale)})
        part.replace(b)
    with safe_open(str(b), framework="pt") as file:
        right, scale = file.get_tensor("b"), float(file.metadata()["scale"])

    def nearby(x: Tensor) -> Tensor:
        return opened(path, device).near(x)

    return LinearProblem(
        lambda x: opened(path, device).normal(x), right.to(device), scale, name=case.name, nearby=lambda: nearby
    )


def validation_cases(data: Data, cache: Path | None, count: int) -> list[AnyCase]:
    """The cases that quality is followed on."""
    known = [] if data.pet else sources(data)
    return [fetch(data, str(cache) if cache else None, "validation", index, known) for index in range(count)]
