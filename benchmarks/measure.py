"""What both benchmarks share: a clock that sits in the dataset, interleaved rounds, silence, and the table."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice, pairwise
from statistics import median
from typing import Any


class TimedBatches:
    """A sized dataset that holds the clock, so that no contestant carries a timer and all are cut at the same places.

    A loop asks for a batch when it is done with the one before. An epoch has two batches more than are timed: the clock
    starts when the second is asked for and stops when the last is. So the first batch, where optimizers make their
    state and caches fill, is not timed, nor is anything at the end of an epoch. `num_batches` is a multiple of the
    period of progress reports: what is put off until a report is paid for inside the clock.

    Attributes:
        batch_seconds: for each epoch, how long `num_batches` batches took.
        started: for each epoch, when its first batch was asked for.
    """

    def __init__(self, batches: Iterable[Any], num_batches: int) -> None:
        self._batches = batches
        self._num_batches = num_batches
        self.batch_seconds: list[float] = []
        self.started: list[float] = []

    def __len__(self) -> int:
        return self._num_batches + 2

    def __iter__(self) -> Iterator[Any]:
        batches = cycle(self._batches)
        self.started.append(time.perf_counter())
        yield next(batches)
        started = time.perf_counter()
        yield from islice(batches, self._num_batches)
        self.batch_seconds.append(time.perf_counter() - started)
        yield next(batches)

    def microseconds_a_batch(self, first_epoch: int = 0) -> float:
        """Mean over all timed batches, of all epochs from this one on."""
        seconds = self.batch_seconds[first_epoch:]
        return sum(seconds) / (len(seconds) * self._num_batches) * 1e6

    def microseconds_a_batch_with_epoch_end(self) -> float:
        """From the first epoch's first batch to the last epoch's first batch: all that happens between epochs too."""
        num_batches = (len(self.started) - 1) * len(self)
        return (self.started[-1] - self.started[0]) / num_batches * 1e6


class Seat:
    """A contestant's place among those that take turns.

    Attributes:
        microseconds: what its batches took, without the waiting.
    """

    def __init__(self, everybody_is_there: threading.Barrier) -> None:
        self.microseconds: list[float] = []
        self._everybody_is_there = everybody_is_there
        self._turn = threading.Semaphore(0)
        self._next = self
        self._has_left = False
        self._started: float | None = None

    def begin_batch(self) -> None:
        """A batch begins, and the one before is done: the others do one each first."""
        now = time.perf_counter()
        if self._started is None:
            if self._everybody_is_there.wait() == 0:
                self._turn.release()
        else:
            self.microseconds.append((now - self._started) * 1e6)
            self._pass_on()
        self._turn.acquire()
        self._started = time.perf_counter()

    def leave(self) -> None:
        """There are no more batches, or an error."""
        self._has_left = True
        self._everybody_is_there.abort()  # where somebody still waits for this one
        self._pass_on()

    def _pass_on(self) -> None:
        following = self._next
        while following._has_left and following is not self:
            following = following._next
        following._turn.release()


class BatchesOfSeat:
    """A sized dataset of so many batches, each of which begins when it is the contestant's turn."""

    def __init__(self, batches: Sequence[Any], num_batches: int, seat: Seat) -> None:
        self._batches = batches
        self._num_batches = num_batches
        self._seat = seat

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Any]:
        for batch in islice(cycle(self._batches), self._num_batches):
            self._seat.begin_batch()
            yield batch


def in_turns(contestants: Mapping[str, Callable[[Seat], None]]) -> dict[str, list[float]]:
    """What each batch of each contestant took, in microseconds.

    All train at the same time, each in a thread of its own, and at any moment one of them does a batch: the batches of
    the same number are done at the same speed of the machine, which changes by more than some microseconds a batch.
    """
    everybody_is_there = threading.Barrier(len(contestants))
    seats = {name: Seat(everybody_is_there) for name in contestants}
    for seat, following in pairwise([*seats.values(), next(iter(seats.values()))]):
        seat._next = following

    def train(name: str) -> None:
        try:
            contestants[name](seats[name])
        finally:
            seats[name].leave()

    with silence(), ThreadPoolExecutor(len(contestants)) as threads:
        for ended in [threads.submit(train, name) for name in contestants]:
            ended.result()
    return {name: seat.microseconds for name, seat in seats.items()}


def interleaved(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each contestant measured in each round: one block of each in turn, the first one a different one each round.

    A machine that slows down then slows all of them; what a contestant leaves behind for the next is garbage collected.
    """
    names = list(contestants)
    measured: dict[str, list[Any]] = {name: [] for name in names}
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            with silence():
                measured[name].append(contestants[name]())
    return measured


def print_medians(title: str, measured: Mapping[str, Sequence[float]]) -> None:
    """A line for each contestant: its median and its best block."""
    print(f"\n{title:<44} {'median µs':>10} {'min µs':>10}")
    for name, values in measured.items():
        print(f"{name:<44} {median(values):>10.2f} {min(values):>10.2f}")


def print_ratio(name: str, ours: Sequence[float], theirs: Sequence[float], target: str = "") -> None:
    """The ratio of two contestants in two ways; where they differ much, the machine was too noisy to say anything."""
    of_medians = median(ours) / median(theirs)
    paired = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    spread = f"{paired[len(paired) // 4]:.3f} .. {paired[-1 - len(paired) // 4]:.3f}"
    print(f"{name:<44} {of_medians:>10.3f} {median(paired):>10.3f} {spread:>18}   {target}")


def print_ratio_header() -> None:
    """Names the columns of `print_ratio`."""
    print(f"\n{'ratio':<44} {'of medians':>10} {'paired':>10} {'paired quartiles':>18}   target")


def print_added(turns: Mapping[str, Sequence[float]], native: str, targets: Mapping[str, str]) -> None:
    """How many microseconds contestants take more than the native one, batch by batch; the first tenth is left out."""
    later = {name: values[len(values) // 10 :] for name, values in turns.items()}
    title = f"batch by batch, beside {native}"
    print(f"\n{title:<48} {'of medians':>10} {'paired':>10} {'paired quartiles':>18}   target")
    for name, target in targets.items():
        paired = sorted(one - other for one, other in zip(later[name], later[native], strict=True))
        spread = f"{paired[len(paired) // 4]:.1f} .. {paired[-1 - len(paired) // 4]:.1f}"
        of_medians = median(later[name]) - median(later[native])
        print(f"{name + ', µs':<48} {of_medians:>10.1f} {median(paired):>10.1f} {spread:>18}   {target}")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Progress is made and written, as it would be for a user, but to nowhere."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
