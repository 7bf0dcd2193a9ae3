"""Data that a host's own script gives to the host: nobody here knows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlpug.errors import CheckpointMismatchError, ConfigurationError


class DataOfHost:
    """In the place of a training dataset, in a run that the host's own script has started."""

    def __iter__(self) -> Iterator[Any]:
        raise ConfigurationError(
            "The training dataset of a native run isn't known to mlpug: train by a TrainingManager to have it."
        )


def check_is_between_epochs(num_batches: int) -> None:
    """Refuse to go on within an epoch of a run whose place in the data nobody knows.

    >>> check_is_between_epochs(0)
    """
    if num_batches:
        raise CheckpointMismatchError(
            f"The training checkpoint was made within an epoch of a native run, after {num_batches} batches of it, and "
            "the place in its data isn't known. Resume from one that was made at the end of an epoch: "
            "CheckpointManager(batch_level=False) makes those."
        )
