"""One time through the training loaders: with what random numbers it began, so that it can be begun again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mlpug.datasets import random_states
from mlpug.datasets.any_iterable import AnyIterable, tensor_from_plain, tensor_to_plain
from mlpug.datasets.generators import OwnGenerators
from mlpug.datasets.kinds import OneIteration, Stateful, TorchLoader
from mlpug.datasets.random_states import Snapshot
from mlpug.errors import CheckpointMismatchError
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.host import set_sampler_epoch


@dataclass(slots=True)
class Round:
    """What is noted of an epoch's batches while Lightning draws them."""

    number: int  # epochs of this training before it
    before_iterators: Snapshot
    generators: Any  # states of the loaders' own random generators, at its start
    loaders: list[Any] = field(default_factory=list)  # states of the loaders that have one, before its first batch
    before_first: Snapshot | None = None  # the random state there; None: it wasn't asked for
    pulled: int = 0  # how many batches the loaders were asked for
    restarts: dict[int, tuple[int, Snapshot]] = field(default_factory=dict)
    # By the loader that had come to its end, and began again within the epoch: at which batch, and the state before.
    stream: Snapshot | None = None  # where it draws from random numbers of its own: theirs
    is_over: bool = False

    def to_plain(self) -> dict[str, Any]:
        """What begins it again, as a checkpoint holds it."""
        return {
            "number": self.number,
            "before_iterators": random_states.as_plain(self.before_iterators),
            "generators": self.generators,
            "loaders": self.loaders,
            "before_first": _plain(self.before_first),
            "restarts": [[which, at, random_states.as_plain(before)] for which, (at, before) in self.restarts.items()],
            "stream": _plain(self.stream),
        }

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> Round:
        """It again, with nothing asked for."""
        return cls(
            number=state["number"],
            before_iterators=random_states.from_plain(state["before_iterators"]),
            generators=state["generators"],
            loaders=state["loaders"],
            before_first=_snapshot(state["before_first"]),
            restarts={which: (at, random_states.from_plain(before)) for which, at, before in state["restarts"]},
            stream=_snapshot(state["stream"]),
        )


class Loaders:
    """The loaders of a run, as Lightning uses them.

    Args:
        flattened: all of them, in Lightning's order.

    Attributes:
        generators: the random generators that they have of their own.
    """

    def __init__(self, flattened: Sequence[Any]) -> None:
        self._flattened = list(flattened)
        self.kinds = [_kind_of(loader) for loader in flattened]
        self.is_one = len(self.kinds) == 1
        self.generators = OwnGenerators(*flattened)
        self._stateful = [kind.dataset for kind in self.kinds if isinstance(kind, Stateful)]

    @property
    def knows_its_place(self) -> bool:
        """Whether there is one loader, which goes on where its state says."""
        return self.is_one and bool(self._stateful)

    @property
    def have_state(self) -> bool:
        """Whether any of them has a state."""
        return bool(self._stateful)

    @property
    def ask_again(self) -> bool:
        """Whether batches that are done are asked for again, without what the model drew in between."""
        return not self.is_one or self.kinds[0].asks_again

    def states(self) -> list[Any]:
        """Of the loaders that have one, now."""
        return [to_plain(loader.state_dict(), tensor_to_plain, path=("data",)) for loader in self._stateful]

    def states_between(self) -> list[Any]:
        """The same between two epochs; None of a loader that Lightning stopped by its length, and begins anew."""
        return [kind.state(is_between=True) for kind in self.kinds if isinstance(kind, Stateful)]

    def load(self, states: Iterable[Any]) -> None:
        """Give the loaders that have a state what `states` gave."""
        for loader, state in zip(self._stateful, states, strict=True):
            if state is not None:
                loader.load_state_dict(from_plain(state, tensor_from_plain))

    def live_on(self, trainer: Any) -> None:
        """Make them what they are in a later epoch: with its number, and with workers from before."""
        set_sampler_epoch(trainer, self._flattened)
        for kind in self.kinds:
            loader = kind.dataset
            if isinstance(kind, TorchLoader) and loader.num_workers and loader.persistent_workers:
                iter(loader)

    def skip(
        self,
        count: int,
        iterators: Sequence[Any],
        pull: Callable[[], Any],
        restarts: Mapping[int, tuple[int, Snapshot]],
    ) -> None:
        """Leave out the first batches of a round that was begun again.

        Args:
            count: how many.
            iterators: of the loaders.
            pull: asks all of them.
            restarts: see `Round`.
        """
        if self.is_one:
            self.kinds[0].skip(iterators[0], count)
            return
        for number in range(count):
            for at, before in restarts.values():
                if at == number:
                    random_states.restore(before)
            pull()

    def place(self, num_batches: int | None) -> dict[str, Any]:
        """What the number of a batch within an epoch depends on."""
        sizes = [getattr(loader, "batch_size", None) for loader in self._flattened]
        return {
            "read_by": [type(kind).__name__ for kind in self.kinds],
            "num_batches_per_epoch": num_batches,
            "batch_size": [size if type(size) is int else None for size in sizes],
        }


def check_place(saved: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse to go on within an epoch of other loaders."""
    for what, expected in here.items():
        if saved[what] != expected:
            raise CheckpointMismatchError(
                f"The training checkpoint was made within an epoch, where {what} was {saved[what]}, and it is "
                f"{expected} now, so that its place in the data is unknown. Give the same loaders, batch sizes and "
                "num_batches_per_epoch; after a whole epoch they can change."
            )


def _kind_of(loader: Any) -> AnyIterable:
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return Stateful(loader)
    if hasattr(loader, "__next__"):
        return OneIteration(loader)
    torchs = torch.utils.data.DataLoader
    if isinstance(loader, torchs) and type(loader).__iter__ is torchs.__iter__:
        return TorchLoader(loader)
    return AnyIterable(loader)


def _plain(snapshot: Snapshot | None) -> Any:
    return None if snapshot is None else random_states.as_plain(snapshot)


def _snapshot(state: Any) -> Snapshot | None:
    return None if state is None else random_states.from_plain(state)
