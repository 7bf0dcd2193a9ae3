"""Training data that the host trainer draws by itself, in a run that a TrainingManager started."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from mlpug.datasets.random_states import Snapshot
from mlpug.errors import ConfigurationError


class DrawnByHost(ABC):
    """What a run knows of data that only its host iterates: where it is, and how a resumed run gets there again.

    Attributes:
        dataset: what the user gave.
        keeps_states: whether `state` will be asked for.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.keeps_states = False

    def __iter__(self) -> Iterator[Any]:
        raise ConfigurationError(
            f"The training data is a {type(self.dataset).__name__} that the host trainer draws by itself: iterate the "
            "object that you gave to the TrainingManager."
        )

    @abstractmethod
    def state(self, num_trained: int) -> dict[str, Any]:
        """Where the data is, as plain data and arrays, after this many batches of the epoch under way."""

    @abstractmethod
    def load_state(self, state: dict[str, Any], random: Snapshot) -> None:
        """Let the next epoch go on there.

        Args:
            state: what `state` gave.
            random: the global random state at that moment.

        Raises:
            CheckpointMismatchError: it was another kind of dataset.
        """

    @abstractmethod
    def random_at_start(self) -> Snapshot:
        """The global random state of a resumed run, once all have heard that training starts."""

    @abstractmethod
    def warn_if_not_rewindable(self) -> None:
        """Warn where a resumed run can't give the same batches again."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what loads the batches, such as processes."""
