"""Finds data that draws from random numbers of everybody's in a thread of the backend, while others draw from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from mlpug.datasets import random_states
from mlpug.datasets.random_states import Snapshot
from mlpug.errors import MlpugWarning

Batch = TypeVar("Batch")


class BackgroundDraws:
    """Looks at the first batch and at the end of each epoch, and warns once where a resumed run draws something else.

    The thread reads some batches ahead, how many is up to its speed. So what it draws is known only where everybody
    else waits for it, and what others draw only where nothing is left for it to read.

    Args:
        is_seeded: whether the data is to draw from numbers of its own, which the thread gets only by chance.
    """

    def __init__(self, is_seeded: bool) -> None:
        self._is_seeded = is_seeded
        self._has_told = False
        self._of_data: set[str] = set()  # libraries
        self._all_read: Snapshot | None = None

    def first_batch(self, pull: Callable[[], Batch]) -> Batch:
        """The first batch of a round, which nobody has begun to read before."""
        before = random_states.capture()
        batch = pull()
        self._of_data |= random_states.changed(before, random_states.capture())
        if self._is_seeded and self._of_data:
            self._tell(self._of_data, "TrainingManager(seed=...) can't give numbers of the data's own to that thread")
        return batch

    def last_batch_is_there(self) -> None:
        """Nothing is left to read in this epoch."""
        self._all_read = random_states.capture() if self._of_data and not self._has_told else None

    def last_batch_is_done(self) -> None:
        """It was trained on, and callbacks have heard of it."""
        before, self._all_read = self._all_read, None
        if before is not None:
            shared = self._of_data & random_states.changed(before, random_states.capture())
            if shared:
                self._tell(shared, "something else, such as a callback, draws from them meanwhile")

    def _tell(self, libraries: set[str], why: str) -> None:
        if self._has_told:
            return
        self._has_told = True
        warnings.warn(
            f"The training dataset draws from the global random numbers of {', '.join(sorted(libraries))} in a thread "
            f"of TensorFlow's, some batches ahead, and {why}: neither a resumed run nor the same run once more draws "
            "the same. Give the dataset a random generator of its own, in an attribute.",
            MlpugWarning,
            stacklevel=4,
        )
