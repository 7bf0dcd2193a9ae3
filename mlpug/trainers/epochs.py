"""Gives each epoch its batches, whatever kind of iterable the dataset is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mlpug.validation import known_length


def epochs_of(dataset: Iterable[Any], num_batches_per_epoch: int | None) -> Iterable[Any]:
    """What an adapter iterates once for each epoch.

    A dataset that knows its length is iterated from its start each epoch. One that doesn't, and whose epochs are given
    a length, goes on where the epoch before stopped: it may be endless, and nothing in it is trained on twice before
    all of it was seen.

    >>> epochs = epochs_of(iter("abcde"), num_batches_per_epoch=2)
    >>> list(epochs), list(epochs), list(epochs)
    (['a', 'b'], ['c', 'd'], ['e'])
    """
    if num_batches_per_epoch is None or known_length(dataset) is not None:
        return dataset
    return _Continued(dataset, num_batches_per_epoch)


class _Continued:
    """Cuts one long iteration into epochs of a known length; starts the dataset again after its end.

    It has that length because hosts fetch a batch ahead from what has none, and such a batch would be lost at the end
    of each epoch.
    """

    def __init__(self, dataset: Iterable[Any], num_batches: int) -> None:
        self._dataset = dataset
        self._num_batches = num_batches
        self._batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for batch in islice(self._batches, self._num_batches):
            count += 1
            yield batch
        if count == 0:  # nothing was left of the last round
            self._batches = iter(self._dataset)
            yield from islice(self._batches, self._num_batches)
