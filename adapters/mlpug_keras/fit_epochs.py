"""Batches that ``fit`` doesn't take as data, such as a list of them, given to the steps of a ``fit``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from mlpug.adapter import Run
from mlpug_keras.fit_feed import FitFeed


class FitEpochs:
    """Lets a ``fit`` that was given placeholders have the batches of a run's own dataset.

    Args:
        run: what is to be done.
        feed: has the batches.
    """

    def __init__(self, run: Run, feed: FitFeed) -> None:
        self._dataset: Iterable[Any] = run.dataset
        self._num_batches = run.num_batches_per_epoch
        self._feed = feed
        self._ahead: Ahead | None = None

    def observe(self, epoch_iterator: Any) -> None:
        """Have Keras's `EpochIterator` enumerate these."""
        epoch_iterator._enumerate_iterator = self._enumerated

    def first(self) -> Any:
        """The first batch, which is trained on later too; StopIteration where there is none."""
        self._ahead = Ahead(self._given())
        return self._ahead.look()

    def _given(self) -> Iterator[Any]:
        for given in self._dataset:
            if given is None:
                self._feed.leave_out()
            else:
                yield given

    def _enumerated(self) -> Iterator[Any]:
        batches, self._ahead = self._ahead or Ahead(self._given()), None
        self._feed.pulls = batches
        first = self._feed.first_batch
        steps = count(first) if self._num_batches is None else range(first, self._num_batches)
        for number in steps or (first - 1,):  # Keras needs a step in each epoch
            yield number, number, batches


class Ahead:
    """An iterator whose next item can be looked at."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._seen: list[Any] = []

    def look(self) -> Any:
        """The next item."""
        if not self._seen:
            self._seen = [next(self._items)]
        return self._seen[0]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._seen.pop() if self._seen else next(self._items)
