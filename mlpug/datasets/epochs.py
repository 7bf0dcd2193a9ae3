"""Gives each epoch its batches, in an order that a resumed run goes on with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mlpug.chunks import Group, group_of, warn_of_none
from mlpug.datasets import random_states
from mlpug.datasets.data_of_host import DataOfHost
from mlpug.datasets.generators import OwnGenerators
from mlpug.datasets.kinds import check_same_kind, kind_of
from mlpug.datasets.random_states import Snapshot
from mlpug.datasets.shared_draws import SharedDraws
from mlpug.errors import MlpugWarning
from mlpug.validation import known_length


class Epochs:
    """What an adapter iterates once for each epoch.

    A dataset that knows its length is iterated from its start each epoch. One that doesn't, and whose epochs are given
    a length, goes on where the epoch before stopped: it may be endless, and nothing in it is trained on twice before
    all of it was seen. What follows is about such a round through the dataset, which usually is an epoch.

    Where a round's order comes from random numbers, it comes from the global random state just before its iterator is
    made, or its first batch is asked for: as in a loop without mlpug. Those two states are kept, and a resumed run
    begins the round again with them, leaves out what is done, and goes on.

    Args:
        dataset: the user's. An adapter may replace it by the host's own version of it before the first epoch.
        num_batches_per_epoch: no more than these from each epoch; None: all there are.
        group_size: how many of the dataset's batches make one of ours, a `Group` of those that aren't None; the last of
            an epoch may have fewer.
        seed: where it is given, a round draws from random numbers of its own, which come from the seed and the number
            of the round alone.

    Attributes:
        dataset: as above.
        keeps_states: whether `state` will be asked for.

    >>> epochs = Epochs(iter("abcde"), num_batches_per_epoch=2)
    >>> list(epochs), list(epochs), list(epochs)
    (['a', 'b'], ['c', 'd'], ['e'])
    """

    def __init__(
        self, dataset: Iterable[Any], num_batches_per_epoch: int | None, seed: int | None = None, group_size: int = 1
    ) -> None:
        self.dataset = dataset
        self.keeps_states = False
        self._group_size = group_size
        # What follows counts the dataset's batches.
        self._num_batches = None if num_batches_per_epoch is None else num_batches_per_epoch * group_size
        self._goes_on = num_batches_per_epoch is not None and known_length(dataset) is None
        self._seed = seed
        self._kind: Any = None
        self._kind_is_of: Any = None
        self._round = -1
        self._batches: Iterator[Any] | None = None  # of the round under way
        self._pulled = 0  # in this round
        self._first_of_epoch = 0  # how many of them belong to earlier epochs
        self._starts: tuple[Snapshot, Snapshot] | None = None  # before the iterator, and before its first batch
        self._generators: Any = {}  # states of the dataset's own at the start of the round
        self._values: list[Any] = []  # of its variables, at the start too
        self._stream: Snapshot | None = None  # the round's own random state, with a seed
        self._latest: list[Any] = []  # what was pulled last, a group at most, for kinds that can't pull it again
        self._resumed: dict[str, Any] | None = None
        self._rest: Snapshot | None = None  # the global random state where the resumed run stopped
        self._after_pull: Snapshot | None = None  # the same after batches that were pulled before training started
        self._has_started = True
        self._shared_draws = SharedDraws()
        self._has_warned_of_none = False

    def __len__(self) -> int:
        """Of an epoch: hosts fetch a batch ahead from what has no length, and it would be lost at an epoch's end."""
        if self._goes_on:
            assert self._num_batches is not None
            return self._num_batches // self._group_size
        length = len(self.dataset)  # type: ignore[arg-type]  # raises the TypeError by which a host knows there is none
        return -(-length // self._group_size)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the next epoch; nothing happens before the first is asked for."""
        batches = self._next_epoch()
        return batches if self._group_size == 1 else _groups(batches, self._group_size)

    def _next_epoch(self) -> Iterator[Any]:
        done = 0
        ahead: list[Any] = []
        if self._resumed is not None:
            state, self._resumed = self._resumed, None
            done, ahead = self._go_on(state)
        elif self._batches is None or not self._goes_on:
            if not self._has_started:  # of a native run that is resumed between epochs
                assert self._rest is not None
                random_states.restore(self._rest)
            self._begin()
        else:
            self._first_of_epoch = self._pulled
        while self._num_batches is None or done < self._num_batches:
            try:
                batch = self._pull(ahead, is_first_of_group=done % self._group_size == 0)
            except StopIteration:
                if done or not self._goes_on or self._pulled == 0:
                    break
                self._begin()  # nothing was left of the round before
                continue
            done += 1
            if batch is None and not self._has_warned_of_none:
                self._has_warned_of_none = True
                warn_of_none()
            yield batch
        if not self._goes_on:
            self._batches = None

    def state(self, num_trained: int) -> dict[str, Any]:
        """Where the data is, as plain data and arrays, after this many batches of the epoch under way were trained on.

        The host may have asked for one more.
        """
        if isinstance(self.dataset, DataOfHost):
            return {"read_as": DataOfHost.__name__}
        kind = self._of_kind()
        in_epoch = min(num_trained * self._group_size, self._pulled - self._first_of_epoch)  # the last may be short
        batches = in_epoch + self._first_of_epoch if num_trained or not self._goes_on else self._pulled
        state = {
            "read_as": type(kind).__name__,
            "round": self._round,
            "kind": kind.state(is_between=not batches),
            "generators": self._own().states_to_save(),
            "values": kind.values() if not batches else self._values,
            "batches": 0,
        }
        if not batches or self._starts is None:
            return state
        ahead = self._pulled - batches
        return state | {
            "batches": batches,
            "of_earlier_epochs": batches - in_epoch,
            "before_iterator": random_states.as_plain(self._starts[0]),
            "before_first": random_states.as_plain(self._starts[1]),
            "generators_at_start": self._generators,
            "position": kind.position(self._batches, ahead),
            "ahead": [kind.batch_to_plain(batch) for batch in self._latest[-ahead:]] if ahead else [],
            "stream": None if self._stream is None else random_states.as_plain(self._stream),
        }

    def load_state(self, state: dict[str, Any], random: Snapshot) -> None:
        """Let the next epoch go on there.

        Args:
            state: what `state` gave.
            random: the global random state at that moment.

        Raises:
            CheckpointMismatchError: it was another kind of dataset.
        """
        self._rest = random
        if state["read_as"] == DataOfHost.__name__:
            self._has_started = False
            return
        check_same_kind(state["read_as"], self.dataset)
        self._resumed = state
        self._has_started = False

    def random_at_start(self) -> Snapshot:
        """What the global random state has to be when the resumed training starts, which is now.

        That of the moment at which it stopped, or what was left of it by batches that the host has asked for since.
        """
        self._has_started = True
        snapshot = self._after_pull or self._rest
        assert snapshot is not None
        return snapshot

    def warn_if_not_rewindable(self) -> None:
        """Say that a resumed run can't give the same batches again, where it can't."""
        why_not = self._of_kind().why_not_again()
        if why_not is not None:
            warnings.warn(why_not, MlpugWarning, stacklevel=3)

    def close(self) -> None:
        """Let go of what loads the batches, such as processes."""
        self._batches, self._latest = None, []
        if self._kind is not None:
            self._kind.close()

    def _begin(self) -> None:
        self._batches = None
        self._round += 1
        kind = self._of_kind()
        outer = None
        if self._seed is not None and kind.draws:
            outer = random_states.capture()
            self._seed_from(self._round)
        kind.before_round(self._seed_from if self._seed is not None else None)
        self._generators, self._values = self._own().states(), kind.values()
        before_iterator = random_states.capture()
        self._batches = kind.iterator(self._round)
        self._starts = before_iterator, random_states.capture()
        self._pulled = self._first_of_epoch = 0
        self._shared_draws.round_begins()
        self._leave(outer)

    def _go_on(self, state: dict[str, Any]) -> tuple[int, list[Any]]:
        """Begin the round again, and leave out what is done: how much of this epoch, and what is to come again."""
        kind = self._of_kind()
        num_batches: int = state["batches"]
        self._round = state["round"]
        outer = random_states.capture()
        kind.load(
            state["kind"], self._round + (0 if num_batches else 1), self._seed_from if self._seed is not None else None
        )
        assert self._rest is not None
        if not num_batches:
            random_states.restore(outer if self._has_started else self._rest)
            self._own().set_states(state["generators"])
            kind.assign(state.get("values", ()))
            self._begin()
            return 0, []
        iterator, first = (random_states.from_plain(state[name]) for name in ("before_iterator", "before_first"))
        self._starts = iterator, first
        self._generators = state["generators_at_start"]
        self._values = state.get("values", [])
        self._own().set_states(self._generators)
        kind.assign(self._values)
        random_states.restore(iterator)
        self._batches = kind.iterator(self._round, state["position"])
        random_states.restore(first)
        kind.skip(self._batches, num_batches + len(state["ahead"]))
        self._pulled, self._first_of_epoch = num_batches, state["of_earlier_epochs"]
        if not kind.reads_ahead:
            self._own().set_states(state["generators"])
        self._stream = None if state["stream"] is None else random_states.from_plain(state["stream"])
        random_states.restore(self._rest)
        return num_batches - self._first_of_epoch, [kind.batch_from_plain(batch) for batch in state["ahead"]]

    def _pull(self, ahead: list[Any], is_first_of_group: bool) -> Any:
        kind, batches = self._of_kind(), self._batches
        assert batches is not None
        if is_first_of_group:
            self._latest = []
        if ahead:
            self._latest.append(ahead.pop(0))
            self._pulled += 1
            return self._latest[-1]
        outer = None
        if self._stream is not None:
            outer = random_states.capture()
            random_states.restore(self._stream)
        looks = self.keeps_states and outer is None and kind.asks_again
        try:
            if self.keeps_states:
                kind.before_pull(batches, is_first_of_group)
            if looks:
                self._shared_draws.before_pull()
            batch = next(batches)
        except StopIteration:
            kind.at_end(batches)
            raise
        finally:
            self._leave(outer)
        if looks:
            self._shared_draws.after_pull()
        self._pulled += 1
        if kind.keeps_ahead:
            self._latest.append(batch)
        if not self._has_started:
            self._after_pull = random_states.capture()
        return batch

    def _seed_from(self, number: int) -> None:
        assert self._seed is not None
        random_states.seed_from(self._seed, number)
        self._own().seed(self._seed, number)

    def _leave(self, outer: Snapshot | None) -> None:
        """Leave the data's own random numbers, where it has some, for everybody's."""
        if outer is not None:
            self._stream = random_states.capture()
            random_states.restore(outer)

    def _own(self) -> OwnGenerators:
        """The dataset's own random generators."""
        self._of_kind()
        return self._own_generators

    def _of_kind(self) -> Any:
        if self._kind is None or self._kind_is_of is not self.dataset:
            self._kind, self._kind_is_of = kind_of(self.dataset), self.dataset
            self._own_generators = OwnGenerators(self.dataset)
            if self._seed is not None:
                self._kind.seed(self._seed)
        return self._kind


def _groups(batches: Iterator[Any], size: int) -> Iterator[Group | None]:
    while group := tuple(islice(batches, size)):
        yield group_of(group)
