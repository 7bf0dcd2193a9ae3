"""Observes how ``fit`` draws the training data, and has a resumed run draw the same again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from mlpug.adapter import DataOptions
from mlpug.chunks import Group
from mlpug.datasets import DrawnByHost, random_states
from mlpug.datasets.data_of_host import DataOfHost
from mlpug.datasets.kinds import kind_of
from mlpug.datasets.random_states import Snapshot
from mlpug.datasets.shared_draws import SharedDraws
from mlpug.errors import CheckpointMismatchError, MlpugWarning
from mlpug_keras.background_draws import BackgroundDraws
from mlpug_keras.epoch_hooks import EpochHooks
from mlpug_keras.epoch_iterators import ObservedIterator
from mlpug_keras.fit_data import FitData, is_tf_dataset
from mlpug_keras.fit_feed import FitFeed
from mlpug_keras.fit_rounds import Pulls, RandomNumbers, Round, moment_to_plain
from mlpug_keras.fit_step import host


class FitDraws(DrawnByHost):
    """Training data that ``fit`` draws by itself.

    ``fit`` gets what the user gave. Where it is about to draw for an epoch the random states are noted, and how many
    iterators it has made of the data. A resumed run gives those back, makes as many iterators, lets ``fit`` draw, and
    leaves out what is done by asking the iterator of ``fit`` for it.

    Args:
        data: the arguments of ``fit``.
        options: with a seed, an epoch is drawn from random numbers that come from it and the epoch's number alone.
    """

    def __init__(self, data: FitData, options: DataOptions) -> None:
        super().__init__(data.x)
        self.data = data
        self._length = data.num_batches()
        self._kind = kind_of(data.x)
        self._read_as = "arrays" if data.has_arrays else type(self._kind).__name__
        self._group_size = options.gradient_accumulation_steps
        self._seed = options.seed
        if options.seed is not None:
            self._kind.seed(options.seed)
        self.order = host.OrderOfArrays(options.seed)
        self._numbers = RandomNumbers(data.x)
        self._hooks = EpochHooks(data.x, begins_with_reset=True)
        self._observed: ObservedIterator | None = None
        self._is_training = False  # else what is drawn is drawn to build the model
        self._made = 0
        self._next: tuple[int, Any] = (0, None)  # of the iterator that was made last: see `Round`
        self._round: Round | None = None
        self._epochs_done = 0
        self._epoch_at: Any = None  # the random states at the beginning of the epoch under way; None: there is none
        self._ended_at: Any = None  # the same of the latest epoch that has ended
        self._latest_at: Any = None  # the random states at the latest beginning, also one to build the model
        self._left_over: tuple[int, Any] = (0, None)  # see `ObservedIterator`, and the beginning that they come from
        self._taken_before = 0  # batches that were asked for to build the model
        self._earlier = 0  # batches of the round that belong to earlier epochs
        self._between: dict[str, Any] = {}  # the state before the epoch under way
        self._resumed: dict[str, Any] | None = None
        self._first_to_restore: Any = None
        self._rest: Snapshot | None = None
        self._shared_draws = SharedDraws()
        self._background = BackgroundDraws(is_seeded=options.seed is not None)

    @property
    def batch_size(self) -> int | None:
        """Of arrays and loaders, in samples."""
        size = self.data.options.batch_size if self.data.has_arrays else getattr(self.dataset, "batch_size", None)
        return size if type(size) is int else None

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"The length of a {type(self.dataset).__name__} isn't known.")
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """The batches, for somebody who evaluates them."""
        self._made += is_tf_dataset(self.dataset)
        return iter(self.data.batches_to_evaluate())

    def observe(self, epoch_iterator: Any, feed: FitFeed) -> None:
        """Note from now on what Keras's `EpochIterator` draws, and let the feed have it."""
        self._observed = ObservedIterator(epoch_iterator, self._before_iterator, self._iterator_made, self._hooks)
        self._observed.enumerate_by(partial(self._enumerated, feed))
        self._is_training = False
        if self._resumed is not None:
            self._hooks.set_state(self._resumed["hooks"], partial(self._leave_over_again, self._resumed))
            for _ in range(self._resumed["made"] if is_tf_dataset(self.dataset) else 0):
                iter(self.dataset)
            self._made = self._resumed["made"]

    def training_starts(self) -> None:
        """The model is built: what is drawn from here on is trained on."""
        self._is_training = True
        self._taken_before = 0 if self._round is None else self._round.pulled

    def epoch_ends(self) -> None:
        """``fit`` is through with an epoch, of which nothing is left."""
        self._epochs_done += 1
        self._epoch_at, self._ended_at = None, self._epoch_at

    def state(self, num_trained: int) -> dict[str, Any]:
        is_at_end = self._epoch_at is None and num_trained > 0  # drawn, but somebody failed before all had heard of it
        epoch_at = self._ended_at if is_at_end else self._epoch_at
        if epoch_at is None:
            return self._state_between()
        if not num_trained or self._round is None:
            return self._between
        return {
            **self._state_of_round(self._round, self._earlier),
            "epochs_done": self._epochs_done - is_at_end,
            "left_over": [self._left_over[0], moment_to_plain(self._left_over[1])],
            "epoch_at": moment_to_plain(epoch_at),
            "batches": min(num_trained * self._group_size, self._round.pulled - self._earlier),
            "hooks": self._hooks.state(is_within=True),
        }

    def load_state(self, state: dict[str, Any], random: Snapshot) -> None:
        self._rest = random
        if state["read_as"] == DataOfHost.__name__:  # see `go_on_after_native`
            return
        if state["read_as"] != self._read_as:
            raise CheckpointMismatchError(
                f"The checkpoint was made with another kind of training dataset (read as {state['read_as']}; here it "
                f"is {self._read_as}, a {type(self.dataset).__name__}): its place in the data means nothing here. Give "
                "the same kind of dataset."
            )
        self._resumed = state
        self._epochs_done = state["epochs_done"]
        self.order.set_state(state["order"])

    def go_on_after_native(self, num_epochs: int) -> None:
        """Begin where a ``fit`` that somebody else called was, after so many epochs: as far as that can be known."""
        self._epochs_done = num_epochs
        between = [["on_epoch_begin", None], ["on_epoch_end", None]]
        self._resumed = {
            **self._state_between(),
            "made": host.iterators_of_epoch(self._length) * num_epochs if is_tf_dataset(self.dataset) else 0,
            "hooks": {"calls": [["on_epoch_end", None], *between * num_epochs]},
        }

    def random_at_start(self) -> Snapshot:
        assert self._rest is not None
        return self._rest

    def warn_if_not_rewindable(self) -> None:
        why_not = None if self.data.has_arrays else self._kind.why_not_again() or self.data.why_not_again()
        if why_not is not None:
            warnings.warn(why_not, MlpugWarning, stacklevel=3)

    def close(self) -> None:
        self._round = None
        self._kind.close()

    # While an epoch is drawn.

    def _enumerated(self, feed: FitFeed, steps_of: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The steps of an epoch: (first, last, what gives the batches)."""
        number = 0
        steps = iter(self._steps(steps_of))
        if not self._is_training:
            self._latest_at = self._numbers.moment()
        else:
            resumed, self._resumed = self._resumed, None
            self._begin_epoch(resumed)
            number = 0 if resumed is None else self._leave_out(resumed, steps)
        last, has_yielded = number - 1, False
        for first, last, pulls in steps if self._group_size == 1 else self._groups(steps, number):
            has_yielded, feed.pulls = True, pulls
            yield first, last, pulls
            self._background.last_batch_is_done()
        if self._is_training and self.data.steps_per_epoch is None and host.reads_to_end(self.dataset):
            assert self._round is not None
            next(self._round.iterator, None)  # what the end draws is drawn before the state is noted
        if not has_yielded:
            feed.pulls = iter(())
            yield last, last, feed.pulls  # Keras needs a step in each epoch; this one finds no batch

    def _steps(self, steps_of: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Keras's own, observed."""
        steps = steps_of()
        pulls: Pulls | None = None
        draw = partial(next, steps, None)
        while (step := self._numbers.drawn(draw)) is not None:
            first, last, iterator = step
            if self._round is None or self._round.iterator is not iterator:
                self._round = Round(iterator, *self._next)
            if pulls is None or pulls.iterator is not iterator:
                pulls = Pulls(self._pull, iterator)
            yield first, last, pulls

    def _groups(self, steps: Iterator[Any], number: int) -> Iterator[Any]:
        """So many steps as one; fewer where the epoch ends."""
        number //= self._group_size
        for _, _, pulls in steps:
            batches = list(islice(pulls, 1))
            while batches and len(batches) < self._group_size and next(steps, None) is not None:
                more = list(islice(pulls, 1))
                batches += more
                if not more:
                    break
            yield number, number, iter([Group(batches)] if batches else [])
            number += 1

    def _begin_epoch(self, resumed: dict[str, Any] | None) -> None:
        assert self._observed is not None
        self._left_over = self._observed.num_left_over, self._latest_at
        self._between = self._state_between()
        if self._seed is not None:
            self._numbers.seed(self._seed, self._epochs_done)
        if resumed is not None:
            self._go_back(resumed)
        goes_on = self._observed.goes_on and self._round is not None
        self._earlier = self._round.pulled if goes_on and self._round is not None else 0
        self._epoch_at = self._latest_at = self._numbers.moment()

    def _go_back(self, resumed: dict[str, Any]) -> None:
        """To where the epoch that is resumed began."""
        assert self._observed is not None
        if not self._kind.can_begin_again:
            return
        if not self._hooks.is_needed:
            self._leave_over_again(resumed)
        if resumed["batches"] or resumed["earlier"]:
            self._kind.renew_workers()
            outer = random_states.capture()
            self._first_to_restore = resumed["first_at"], resumed["variables"]
            if resumed["earlier"]:
                self._numbers.restore(resumed["made_at"])
                iterator = self._numbers.drawn(partial(self._observed.begin_at, resumed["earlier"]))
                self._round = Round(iterator, *self._next)
                for _ in islice(Pulls(self._pull, iterator), resumed["earlier"]):
                    pass
            random_states.restore(outer)
        else:
            self._kind.assign(resumed["variables"])
        if resumed["epoch_at"] is not None:
            self._numbers.restore(resumed["epoch_at"])
        elif self._seed is None:  # else the epoch has begun with numbers of its own
            self._numbers.set_state({**resumed, "stream": None})

    def _leave_over_again(self, resumed: dict[str, Any]) -> None:
        """Have workers load what they had loaded and nobody had asked for when the epoch began."""
        num_left, loaded_at = resumed["left_over"]
        if not num_left or (self._length is not None and self.data.steps_per_epoch):
            return
        assert self._observed is not None
        outer = random_states.capture()
        self._numbers.restore(loaded_at)
        num_taken = resumed["taken_before"] if self._length is None else self._length - num_left
        self._observed.load_and_leave_over(num_taken)
        random_states.restore(outer)

    def _leave_out(self, resumed: dict[str, Any], steps: Iterator[Any]) -> int:
        """Leave out what is done of the epoch that goes on: how many batches that was."""
        number: int = resumed["batches"]
        for _ in range(number):
            step = next(steps, None)
            if step is None or (self._kind.can_begin_again and not list(islice(step[-1], 1))):
                raise CheckpointMismatchError(
                    f"The checkpoint was made after {number} batches of an epoch, and the training dataset has fewer "
                    "now. Give the dataset that it had then."
                )
        if number:
            assert self._rest is not None
            random_states.restore(self._rest, besides=self._drawn_in_background())
            if self._numbers.are_own and not (self._kind.reads_ahead or host.reads_in_background(self.dataset)):
                self._numbers.set_state(resumed)
            # Else the data's own generators have drawn again what they had drawn, also what was read ahead.
        return number

    def _drawn_in_background(self) -> set[str]:
        """The libraries from whose random numbers a thread of ``fit`` has drawn again, and goes on to draw."""
        current = self._round
        if not host.reads_in_background(self.dataset) or current is None or current.first_at is None:
            return set()
        return random_states.changed(current.first_at[0], random_states.capture())

    def _pull(self) -> Any:
        """The next batch of the round."""
        current = self._round
        assert current is not None
        looks = self.keeps_states and not self._numbers.are_own and self._kind.asks_again
        if not current.pulled:
            self._before_first(current)
        if looks:
            self._shared_draws.before_pull()
        pull = partial(next, current.iterator)
        if not current.pulled and self._looks_behind():
            pull = partial(self._background.first_batch, pull)
        batch = pull() if self._seed is None else self._numbers.drawn(pull)
        if looks:
            self._shared_draws.after_pull()
        current.pulled += 1
        # With a number of steps it reads on behind the last one.
        if current.pulled == self._length and self.data.steps_per_epoch is None and self._looks_behind():
            self._background.last_batch_is_there()
        return batch

    def _looks_behind(self) -> bool:
        """Whether a thread draws ahead what a resumed run has to draw again."""
        return self.keeps_states and self._kind.can_begin_again and host.reads_in_background(self.dataset)

    def _before_first(self, current: Round) -> None:
        to_restore, self._first_to_restore = self._first_to_restore, None
        if to_restore is not None:
            first_at, values = to_restore
            if not getattr(self.dataset, "workers", 0) > 1:  # else a thread has drawn the order, or is about to
                self._numbers.restore(first_at)
            self._kind.assign(values)
        self.order.begin(self._number(current.made_before))
        current.first_at = self._numbers.moment()
        current.variables = self._kind.values()
        self._shared_draws.round_begins()

    def _before_iterator(self) -> None:
        self._next = self._made, self._numbers.moment()
        if self._seed is not None and is_tf_dataset(self.dataset):
            assert self._observed is not None
            self._observed.dataset = self._kind.of_round(self._number(self._made))

    def _number(self, made_before: int) -> int:
        """Of the round, for what is to differ between rounds: that of the epoch where each is one."""
        return self._epochs_done if self.data.steps_per_epoch is None else made_before

    def _iterator_made(self) -> None:
        self._made += 1

    # States.

    def _state_between(self) -> dict[str, Any]:
        """That of a run between two epochs."""
        goes_on = self._observed is not None and self._observed.goes_on
        is_begun = goes_on and self._round is not None and self._observed.is_at(self._round.iterator)  # type: ignore[union-attr]
        state = self._state_of_round(self._round if is_begun else None, self._round.pulled if is_begun else 0)  # type: ignore[union-attr]
        if goes_on and not is_begun:  # an iterator was made, and not asked for a batch yet: it is made again
            state["made"] = self._next[0]
        return {**state, "epoch_at": None, "batches": 0, "hooks": self._hooks.state(is_within=False)}

    def _left_over_now(self) -> list[Any]:
        number, loaded_at = self._left_over
        if self._epoch_at is None and self._observed is not None:
            number, loaded_at = self._observed.num_left_over, self._latest_at
        return [number, moment_to_plain(loaded_at)]

    def _state_of_round(self, current: Round | None, earlier: int) -> dict[str, Any]:
        return {
            "read_as": self._read_as,
            "order": self.order.get_state(),
            "epochs_done": self._epochs_done,
            "made": self._made if current is None else current.made_before,
            "made_at": None if current is None else moment_to_plain(current.made_at),
            "first_at": None if current is None else moment_to_plain(current.first_at),
            "variables": self._kind.values() if current is None else current.variables,
            "earlier": earlier,
            "left_over": self._left_over_now(),
            "taken_before": self._taken_before,
            **self._numbers.get_state(),
        }
