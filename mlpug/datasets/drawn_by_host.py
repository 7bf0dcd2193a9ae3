"""Training data that the host draws by itself: mlpug notes where it is, and on resume lets the host draw it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from mlpug.datasets.random_states import Snapshot


class DrawnByHost(ABC):
    """Stands for the training dataset of a run in which the host draws, shuffles and places the batches.

    An adapter's `as_dataset` returns one, and the run asks it where in the data it is: it stands in the place of
    `Epochs` too.

    Attributes:
        keeps_states: whether `state` will be asked for.
    """

    keeps_states = False

    @property
    def dataset(self) -> Any:
        """What the batches come from."""
        return self

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Batches to look at, in an order of their own: training isn't moved on by it."""

    @abstractmethod
    def configure(self, num_batches_per_epoch: int | None, seed: int | None, group_size: int) -> None:
        """Take what the training manager was told; see `Epochs`."""

    @abstractmethod
    def state(self, num_trained: int) -> dict[str, Any]:
        """Where the data is, as plain data and arrays, after this many batches of the epoch under way."""

    @abstractmethod
    def load_state(self, state: dict[str, Any], random: Snapshot) -> None:
        """Let the next epoch go on there: what `state` gave, and the global random state at that moment."""

    @abstractmethod
    def random_at_start(self) -> Snapshot:
        """The global random state with which a resumed training starts, which is now."""

    @abstractmethod
    def warn_if_not_rewindable(self) -> None:
        """Say that a resumed run can't give the same batches again; the host may know only later."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what loads the batches."""
