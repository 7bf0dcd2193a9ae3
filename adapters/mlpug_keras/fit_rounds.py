"""What a round through the data of ``fit`` begins with, and the random numbers that it is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mlpug.datasets import random_states
from mlpug.datasets.generators import OwnGenerators, restore_with_states
from mlpug.datasets.random_states import Snapshot

Drawn = TypeVar("Drawn")
Moment = tuple[Snapshot, Any]  # the random states that all share, and those of the data's own generators


@dataclass(slots=True)
class Round:
    """One iterator of the data: an epoch's, or with ``steps_per_epoch`` that of several."""

    iterator: Any
    made_before: int  # iterators that were made of the data before it
    made_at: Moment  # the random states then
    first_at: Moment | None = None  # the random states just before its first batch was asked for
    variables: Any = None  # that a tf.data.Dataset draws from: their values at that moment
    pulled: int = 0  # batches


class Pulls:
    """What gives the batches of an epoch to the steps of ``fit``.

    Attributes:
        iterator: where they come from.
    """

    def __init__(self, pull: Callable[[], Any], iterator: Any) -> None:
        self._pull = pull
        self.iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._pull()


class RandomNumbers:
    """What data is drawn from: the random numbers that all share, or with a seed its own, and its own generators.

    Args:
        dataset: the data.
    """

    def __init__(self, dataset: Any) -> None:
        self._own = OwnGenerators(dataset)
        self._stream: Snapshot | None = None  # the data's own, with a seed
        self._is_drawing = False

    @property
    def are_own(self) -> bool:
        """Whether they come from a seed."""
        return self._stream is not None

    def seed(self, seed: int, epoch: int) -> None:
        """Begin an epoch whose random numbers come from these alone."""
        outer = random_states.capture()
        random_states.seed_from(seed, epoch)
        self._own.seed(seed, epoch)
        self._stream = random_states.capture()
        random_states.restore(outer)

    def drawn(self, draw: Callable[[], Drawn]) -> Drawn:
        """What a function draws from them."""
        if self._stream is None or self._is_drawing:
            return draw()
        outer = random_states.capture()
        random_states.restore(self._stream)
        self._is_drawing = True
        try:
            return draw()
        finally:
            self._is_drawing = False
            self._stream = random_states.capture()
            random_states.restore(outer)

    def moment(self) -> Moment:
        """Their states now."""
        return self.drawn(lambda: (random_states.capture(), self._own.states()))

    def restore(self, moment: Any) -> None:
        """Give back what `moment_to_plain` gave."""
        self.drawn(lambda: restore_with_states(moment, self._own))

    def get_state(self) -> dict[str, Any]:
        """Those that nobody else has."""
        return {
            "generators": self._own.states(),
            "stream": None if self._stream is None else random_states.as_plain(self._stream),
        }

    def set_state(self, state: Any) -> None:
        """Give them back."""
        self._own.set_states(state["generators"])
        if state["stream"] is not None:
            self._stream = random_states.from_plain(state["stream"])


def moment_to_plain(moment: Moment | None) -> dict[str, Any] | None:
    """As a checkpoint holds it."""
    if moment is None:
        return None
    shared, own = moment
    return {"shared": random_states.as_plain(shared), "own": own}
