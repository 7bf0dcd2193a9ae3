"""Lightning asks for its loaders and draws from them: what is noted of it, and what a resumed run leaves out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlpug.chunks import Group
from mlpug.datasets import random_states
from mlpug.datasets.fingerprint import fingerprint_of
from mlpug.datasets.random_states import Snapshot
from mlpug.datasets.shared_draws import SharedDraws
from mlpug.validation import known_length
from mlpug_lightning.host import as_in_epoch, iterators_of, train_fetcher
from mlpug_lightning.observed_loader import combined, observed
from mlpug_lightning.ported_places import Place, Unfinished, check_fingerprints, warn_if_not_again
from mlpug_lightning.ported_rounds import Loaders, Round, check_place


class Draws:
    """Stands between Lightning's loop and its loaders in a run.

    Lightning asks the user's module or DataModule for loaders, makes their iterators, and asks those for batches. The
    random state is noted before each of the three. A resumed run gives it back, lets Lightning do the same again, and
    leaves out what is done.

    Args:
        trainer: Lightning's.
        first_epoch: of this training, as Lightning counts.
        group_size: how many of the loaders' batches make one.
        seed: where it is given, each epoch draws from random numbers of its own, which come from it.
        keeps_states: whether `state` will be asked for.
        before_fetch: called before each batch is asked for; False ends the epoch.
        place: of the run that is resumed; None: it begins.
        has_fingerprint: whether the run's own state says what the data is like.

    Attributes:
        is_exhausted: whether the epoch ended because there was no other batch.
    """

    def __init__(
        self,
        trainer: Any,
        first_epoch: int,
        group_size: int,
        seed: int | None,
        keeps_states: bool,
        before_fetch: Callable[[], bool],
        place: Place | None,
        has_fingerprint: bool,
    ) -> None:
        self._trainer = trainer
        self._first_epoch = first_epoch
        self._group_size = group_size
        self._seed = seed
        self._keeps_states = keeps_states
        self._before_fetch = before_fetch
        self._resumed = place
        self._has_fingerprint = has_fingerprint
        self._fingerprints: list[Any] = []
        self._between: Place | None = None  # the same, where an epoch is to begin
        self.is_exhausted = False
        self._loader: Any = None  # what Lightning iterates
        self._original: Any = None  # what it is without us
        self._loaders = Loaders([])
        self._pull: Callable[[], Any] = _nothing
        self._round: Round | None = None
        self._limit: int | None = None  # batches of the loaders in an epoch, where several make one
        self._ahead: list[Unfinished] = []  # where one is fetched ahead: it, and the one before it that is trained on
        self._length: int | None = None  # of an epoch
        self._has_given = False  # the first of those
        self._before: Unfinished | None = None  # what was noted before the latest batch was asked for
        self._at_reset: tuple[list[Any], list[Any]] | None = None  # loaders' states: within an epoch, and between two
        self._before_request: Snapshot | None = None
        self._requested_in: int | None = None  # Lightning's epoch
        self._rest: Snapshot | None = None  # to go on with, once
        self._has_warned = False
        self._shared_draws = SharedDraws()

    def request(self, ask: Callable[[], Any]) -> Any:
        """Lightning asks for the loaders: those of a resumed run are made of the random numbers that they had."""
        place = self._resumed
        if place is not None and place.before_request is not None and self._before_request is None:
            self._before_request, self._requested_in = place.before_request, place.requested_in
            random_states.restore(place.before_request)
            with as_in_epoch(self._trainer, place.requested_in):
                given = ask()
        else:
            self.give_back_random()
            self._before_request, self._requested_in = random_states.capture(), self._trainer.current_epoch
            given = ask()
        self._original = combined(given)
        if not self._has_fingerprint:
            self._fingerprints = [fingerprint_of(each, self._seed is not None) for each in self._original.flattened]
            if place is not None:
                check_fingerprints(place, self._fingerprints, warns=self._trainer.global_rank == 0)
        self._loader = observed(self._original, self)
        return self._loader

    def iterate(self, loader: Any, make_iterators: Callable[[], Any], pull: Callable[[], Any]) -> None:
        """Lightning makes the iterators of an epoch."""
        self._loaders, self._pull = Loaders(loader.flattened), pull
        self._ahead, self._at_reset, self._before = [], None, None
        self.is_exhausted = self._has_given = False
        if self._keeps_states and not self._has_warned:
            self._has_warned = True
            warn_if_not_again(self._loaders.kinds)
        place, self._resumed = self._resumed, None
        is_for_nothing = place is not None and place.round is None and self._trainer.current_epoch > 0
        if place is not None and place.round is not None:
            self._begin_again(place, loader, make_iterators)
        else:
            self._between = between = self._between if place is None else place
            if between is not None:
                between.give_back(self._loaders)
            self._begin(make_iterators)
        self._length = known_length(loader)
        self._limit = known_length(self._original) if self._group_size > 1 else None
        if self._length is None:
            # Lightning would do it itself, and nobody could stop, or take a state, before it does.
            train_fetcher(self._trainer).prefetch_batches = 0
            if not (self._ahead or is_for_nothing):  # Lightning makes them once more when the epoch begins
                self._fetch_ahead()

    def next_batch(self) -> Any:
        """Lightning asks for a batch, when it is done with the one before."""
        if not self._before_fetch() or (self._round is not None and self._round.is_over):  # resumed at an epoch's end
            raise StopIteration
        self._between = None
        self.give_back_random()
        if self._length is not None:
            return self._next()
        if self._has_given:
            del self._ahead[0]
        if not self._ahead:
            raise StopIteration
        self._has_given = True
        if not self.is_exhausted:
            self._fetch_ahead()
        train_fetcher(self._trainer).done = self.is_exhausted
        return self._ahead[0].batch

    def length(self, num_batches: float) -> Any:
        """How many batches Lightning gets of so many."""
        return num_batches if self._group_size == 1 else -(-num_batches // self._group_size)

    def before_reset(self) -> None:
        """Lightning drops the iterators, and with them some loaders drop their state."""
        if self._keeps_states and self._loaders.have_state:
            self._at_reset = self._loaders.states(), self._loaders.states_between()

    def end_epoch(self) -> None:
        """Nothing more comes of this epoch."""
        self._rest = None
        if self._round is not None:
            self._round.is_over = True

    def close(self) -> None:
        """The run has ended: Lightning's loop has its own loader again."""
        loop = self._trainer.fit_loop
        if self._loader is not None and loop._combined_loader is self._loader:
            loop._combined_loader = self._original

    def go_on_from(self, rest: Snapshot | None) -> None:
        """The epoch's next batch, or an epoch, is drawn with this random state; None: with that of the moment."""
        is_over = self._round is not None and self._round.is_over  # and other things draw before the next epoch
        self._rest = None if is_over else rest

    def give_back_random(self) -> None:
        """Before something draws that isn't of the start of a resumed run: what that drew doesn't count."""
        rest, self._rest = self._rest, None
        if rest is not None:
            random_states.restore(rest)

    @property
    def requested_in(self) -> int | None:
        """The epoch, as Lightning counts, in which the loaders were asked for."""
        return self._requested_in

    def state(self, num_trained: int) -> dict[str, Any]:
        """Where the data is after this many batches of the epoch under way, as a checkpoint holds it."""
        place = Place(self._before_request, self._requested_in, fingerprints=self._fingerprints)
        now = self._round
        if now is None:
            return (self._resumed or place).to_plain()
        if not num_trained and (now.is_over or self._trainer.current_epoch):
            place.generators = self._loaders.generators.states_to_save() if now.is_over else now.generators
            place.loaders = self._states_between() if now.is_over else now.loaders
            return place.to_plain()
        place.batches = min(num_trained * self._group_size, now.pulled)
        left = now.pulled - place.batches
        noted = Unfinished(None, self._loaders.generators.states_to_save(), self._states_within(), now.stream)
        if self._ahead:
            place.ahead, noted = self._not_trained(left, noted)
        elif left or (self.is_exhausted and self._before):  # at its end a loader says already where the next begins
            noted = self._before or noted
        place.round = replace(now, stream=noted.stream)
        place.generators, place.loaders = noted.generators, noted.loaders
        place.of_loaders = self._loaders.place(self._length)
        return place.to_plain()

    def _not_trained(self, left: int, now: Unfinished) -> tuple[list[Any], Unfinished]:
        """The batches that were fetched and aren't trained on, and what was noted where the loaders have to go on."""
        kept: list[Unfinished] = []
        for item in reversed(self._ahead):
            if left > 0:
                kept.insert(0, item)
                left -= len(item.batch) if isinstance(item.batch, Group) else 1
        if self._loaders.knows_its_place:  # it goes back itself
            return [], kept[0] if kept else now
        if kept and self._has_given and kept[0] is self._ahead[0]:
            # An error ended its step. What was asked for since is asked for again, with the random numbers of before.
            return [kept[0].batch], self._before or now
        return [item.batch for item in kept], now

    def _states_within(self) -> list[Any]:
        return self._loaders.states() if self._at_reset is None else self._at_reset[0]

    def _states_between(self) -> list[Any]:
        return self._loaders.states_between() if self._at_reset is None else self._at_reset[1]

    def _begin(self, make_iterators: Callable[[], Any]) -> None:
        number = self._trainer.current_epoch - self._first_epoch
        loaders, outer = self._loaders, None
        if self._seed is not None:
            outer = random_states.capture()
            random_states.seed_from(self._seed, number)
            loaders.generators.seed(self._seed, number)
        self._round = Round(number, random_states.capture(), loaders.generators.states())
        make_iterators()
        self._shared_draws.round_begins()
        if outer is not None:
            self._leave(outer)

    def _begin_again(self, place: Place, loader: Any, make_iterators: Callable[[], Any]) -> None:
        """Let Lightning draw again what is done, and leave it out."""
        assert place.round is not None
        loaders, outer, again = self._loaders, random_states.capture(), place.round
        self._round = again
        if again.number:
            loaders.live_on(self._trainer)
        loaders.load(place.loaders if loaders.knows_its_place else again.loaders)
        loaders.generators.set_states(again.generators)
        random_states.restore(again.before_iterators)
        make_iterators()
        check_place(place.of_loaders, loaders.place(known_length(loader)))
        if again.before_first is not None:
            random_states.restore(again.before_first)
        ahead, generators = place.ahead_again(self._group_size), place.generators or {}
        again.pulled = place.batches + place.num_ahead
        if not loaders.knows_its_place:
            loaders.skip(again.pulled, iterators_of(loader), self._pull, again.restarts)
        loaders.generators.set_states(generators)
        self._ahead = [Unfinished(batch, generators, place.loaders) for batch in ahead]
        random_states.restore(outer)

    def _fetch_ahead(self) -> None:
        try:
            batch = self._next()
        except StopIteration:
            return
        before = self._before or Unfinished(None, {}, [])
        self._ahead.append(replace(before, batch=batch))

    def _next(self) -> Any:
        """A batch, or a group of them."""
        now, loaders = self._round, self._loaders
        assert now is not None
        if self._keeps_states:
            generators = loaders.generators.states_where_found()
            self._before = Unfinished(None, generators, loaders.states(), now.stream)
            if not now.pulled:
                now.loaders = self._before.loaders
        return self._one(now) if self._group_size == 1 else self._several(now)

    def _several(self, now: Round) -> Group:
        batches: list[Any] = []
        with suppress(StopIteration):
            while len(batches) < self._group_size and (self._limit is None or now.pulled < self._limit):
                batches.append(self._one(now))
        if not batches:
            raise StopIteration
        return Group(batches)

    def _one(self, now: Round) -> Any:
        if self.is_exhausted:
            raise StopIteration
        outer = None
        if now.stream is not None:
            outer = random_states.capture()
            random_states.restore(now.stream)
        if not now.pulled:
            now.before_first = random_states.capture()
        looks = self._keeps_states and outer is None and self._loaders.ask_again
        try:
            if looks:
                self._shared_draws.before_pull()
            batch = self._pull() if self._loaders.is_one or not self._keeps_states else self._noting_restarts(now)
        except StopIteration:
            self.is_exhausted = True
            raise
        finally:
            if outer is not None:
                self._leave(outer)
        if looks:
            self._shared_draws.after_pull()
        now.pulled += 1
        return batch

    def _noting_restarts(self, now: Round) -> Any:
        """Of several loaders the shorter ones may begin again."""
        before, iterators = random_states.capture(), list(iterators_of(self._loader))
        batch = self._pull()
        for number, (one, other) in enumerate(zip(iterators, iterators_of(self._loader), strict=True)):
            if one is not other:
                now.restarts[number] = (now.pulled, before)
        return batch

    def _leave(self, outer: Snapshot) -> None:
        """Leave the data's own random numbers for everybody's."""
        assert self._round is not None
        self._round.stream = random_states.capture()
        random_states.restore(outer)


def _nothing() -> Any:
    raise StopIteration
