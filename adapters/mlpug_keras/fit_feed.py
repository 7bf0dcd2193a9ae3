"""Takes the batches of a ``fit`` from what gives them, one for each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlpug.adapter import Run
from mlpug.chunks import Group
from mlpug.joining import joined_batches
from mlpug_keras.bridge import tell
from mlpug_keras.model import Latest
from mlpug_keras.native_callbacks import is_native


class FitFeed:
    """What a step trains on.

    Args:
        latest: gets the batch.
        run: what is to be done.
        accept: makes of what the data gave what a step is given.
        concatenate: joins arrays of batches.
        is_stopped: whether no further batch is to be trained on.

    Attributes:
        pulls: what gives the batches of the epoch.
        given: the batch as it came from there.
        first_batch: of this epoch that is trained here.
        is_exhausted: whether it had no batch where one was asked for.
        has_stepped: whether ``fit`` has made a step of this epoch here.
        is_epoch_heard: whether this epoch is told of: not one that was stopped before it began.
        is_epoch_completed: whether nothing was left of it.
        on_first: called with the first chunk of all.
    """

    def __init__(
        self,
        latest: Latest,
        run: Run,
        accept: Callable[[Any], Any],
        concatenate: Callable[[list[Any]], Any],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._latest = latest
        self._accept = accept
        self._concatenate = concatenate
        self._is_stopped = is_stopped
        self._chunks_of = run.chunks_of or _as_one
        self._num_batches = run.num_batches_per_epoch
        self._resumed_at = run.first_batch  # of the epoch that comes next
        self._count = 0  # batches of this epoch, also those before the run was resumed
        self.on_first: Callable[[Any], None] | None = None
        self._is_cut = self._is_taking = False
        self._left_out = 0  # None in the place of batches, of which nobody has heard yet
        self._listeners = [listener for listener in run.listeners if not is_native(listener)]
        self.pulls: Any = None
        self.given: Any = None
        self.first_batch = 0
        self.has_stepped = self.is_exhausted = False
        self.is_epoch_heard = False
        self.is_epoch_completed = False

    def begin_epoch(self) -> None:
        """``fit`` begins one."""
        self.first_batch, self._resumed_at = self._resumed_at, 0
        self._count = self.first_batch
        self.has_stepped = self.is_exhausted = self._is_cut = False
        self.is_epoch_heard = not self._is_stopped()

    def begin_step(self) -> None:
        """Let go of the batch before."""
        latest = self._latest
        latest.batch = latest.step_output = None
        latest.chunks = []

    def take(self) -> bool:
        """Make the next batch the latest one, if there is one and it is to be trained on."""
        if self._is_stopped():
            return False
        self._is_taking = True
        if self._left_out:
            self._tell_left_out()
        try:
            given = next(self.pulls)
        except StopIteration:
            self.is_exhausted = True
            return False
        finally:
            self._is_taking = False
        latest, self.given = self._latest, given
        latest.batch, latest.chunks = self.accepted(given)
        if self.on_first is not None:
            on_first, self.on_first = self.on_first, None
            on_first(latest.chunks[0])
        self._count += 1
        return True

    def leave_out(self) -> None:
        """The data gave None for a batch: it counts, once the epoch has begun."""
        self._left_out += 1
        if self._is_taking:
            self._tell_left_out()

    def _tell_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        self._count += count
        for _ in range(count):
            tell(self._listeners, "batch_left_out")

    def end_step(self, is_last: bool) -> None:
        """A step was made; `is_last` where somebody stops training by it."""
        self._is_cut = is_last

    def end_epoch(self) -> None:
        """``fit`` ends one."""
        self.is_epoch_completed = self.has_all_batches or not (self._is_cut or self._is_stopped())

    @property
    def is_cut_short(self) -> bool:
        """Whether the epoch was stopped where it isn't known to have no more batches."""
        return self._is_stopped() and not self.has_all_batches

    @property
    def has_all_batches(self) -> bool:
        """Whether the epoch is known to have no more of them."""
        return self._count == self._num_batches

    @property
    def expects_batch(self) -> bool:
        """Whether there may be another one: `fit` makes a step in an epoch that is resumed at its end, too."""
        return not (self.is_exhausted or self.has_all_batches or self._is_stopped())

    @property
    def has_trained(self) -> bool:
        """Whether a batch of this epoch was trained on, or is now."""
        return self._count > 0

    def accepted(self, given: Any) -> tuple[Any, list[Any]]:
        """The batch as a step gets it, and its chunks."""
        if not isinstance(given, Group):
            batch = self._accept(given)
            return batch, self._chunks_of(batch)
        group = Group(self._accept(each) for each in given)
        return joined_batches(group, self._concatenate), self._chunks_of(group)


def _as_one(batch: Any) -> list[Any]:
    return [batch]
