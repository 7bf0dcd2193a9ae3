"""Hands Keras's events to mlpug's listeners, and the batches to the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from sys import getrefcount
from typing import Any, Protocol

import keras
import numpy as np

from mlpug.adapter import Events, Run
from mlpug.callbacks.native_names import NativeLogs
from mlpug.chunks import Group
from mlpug.joining import joined_batches
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug_keras.model import Latest
from mlpug_keras.native_callbacks import is_native


class Feed(keras.callbacks.Callback):
    """Always the first callback: it fetches each batch before anybody hears of it, and knows how an epoch went.

    A StopIteration here is how Keras learns that the epoch has no more batches.
    """

    def __init__(
        self,
        model: keras.Model,
        latest: Latest,
        run: Run,
        accept: Callable[[Any], Any],
        concatenate: Callable[[list[Any]], Any],
        on_first: Callable[[Any], None],
    ) -> None:
        super().__init__()
        self._accept = accept
        self._concatenate = concatenate
        self._chunks_of = run.chunks_of or _as_one
        self._on_first: Callable[[Any], None] | None = on_first  # called with the first chunk that is fetched
        self._trained_model = model
        self._latest = latest
        self._dataset: Iterable[Any] = run.dataset
        self._num_batches = run.num_batches_per_epoch
        self._listeners = [listener for listener in run.listeners if not is_native(listener)]
        self._batches: Iterator[Any] | None = None
        self._fetched: list[tuple[Any, list[Any]]] = []  # a batch and its chunks
        self._resumed_at = run.first_batch  # of the epoch that comes next
        self._trained = 0  # batches of this epoch, here
        self._left_out = 0  # None in the place of batches, of which nobody has heard yet
        self._count = 0  # also those before the run was resumed
        self.first_batch = 0  # of this epoch that is trained here
        self.is_epoch_heard = False  # an epoch that is stopped before it starts isn't told
        self.is_epoch_completed = False

    def fetch_first(self) -> None:
        """Keep the first batch, if there is one, for when it is trained on."""
        self._batches = iter(self._dataset)
        self._fetch()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._batches is None:
            self._batches = iter(self._dataset)
        self.first_batch, self._resumed_at = self._resumed_at, 0
        self._count, self._trained = self.first_batch, 0
        self.is_epoch_heard = not self._trained_model.stop_training

    def has_next(self) -> bool:
        """Whether there is a next batch to train on, which is then the latest one; StopIteration ends the epoch."""
        model, latest = self._trained_model, self._latest
        latest.batch = latest.step_output = None
        latest.chunks = []
        if not model.stop_training:
            if self._left_out:
                self._tell_left_out()
            self._fetch(self._tell_left_out)
        if self._fetched and not model.stop_training:
            latest.batch, latest.chunks = self._fetched.pop()
            self._count += 1
            self._trained += 1
            return True
        if self._trained:
            raise StopIteration
        return False  # Keras gets to its step without a batch: it doesn't bear an epoch in which it never was there

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._trained == 0:
            raise StopIteration

    def on_train_end(self, logs: Any = None) -> None:
        tell(self._listeners, "training_ended")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._batches = None
        self.is_epoch_completed = not self._trained_model.stop_training or self.has_all_batches

    @property
    def has_all_batches(self) -> bool:
        """Whether the epoch is known to have no more of them."""
        return self._count == self._num_batches

    def _tell_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        self._count += count
        for _ in range(count):
            tell(self._listeners, "batch_left_out")

    def _fetch(self, on_left_out: Callable[[], None] | None = None) -> None:
        if not self._fetched and self._batches is not None:
            for given in self._batches:
                if given is not None:
                    self._fetched = [self._accepted(given)]
                    break
                self._left_out += 1
                if on_left_out is not None:
                    on_left_out()
            if self._fetched and self._on_first is not None:
                on_first, self._on_first = self._on_first, None
                (_, chunks) = self._fetched[0]
                on_first(chunks[0])

    def _accepted(self, given: Any) -> tuple[Any, list[Any]]:
        if not isinstance(given, Group):
            batch = self._accept(given)
            return batch, self._chunks_of(batch)
        group = Group(self._accept(each) for each in given)
        return joined_batches(group, self._concatenate), self._chunks_of(group)


class Epoch(Protocol):
    """What is to be known of the epoch under way."""

    is_epoch_heard: bool
    is_epoch_completed: bool


class Bridge(keras.callbacks.Callback):
    """A native callback for listeners that stand next to each other in the list."""

    def __init__(self, listeners: Sequence[Events], feed: Epoch, latest: Latest, run: Run) -> None:
        super().__init__()
        self._listeners = listeners
        self._feed = feed
        self._latest = latest
        self._num_batches = run.num_batches_per_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        tell(self._listeners, "training_started", self._num_batches)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._feed.is_epoch_heard:
            tell(self._listeners, "epoch_started")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        tell(self._listeners, "batch_started", self._latest.batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        tell(self._listeners, "batch_ended", self._latest.batch, self._latest.step_output, self._latest.did_update)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._feed.is_epoch_heard:
            tell(self._listeners, "epoch_ended", self._feed.is_epoch_completed)


class Callbacks(keras.callbacks.CallbackList):
    """The feed, and the listeners as Keras's callbacks, in the same order.

    At each batch only those are called that listen to batches, and always on this thread.

    Args:
        model: that ``fit`` trains.
        latest: the batch, and what it gave.
        run: what is to be done.
        feed: has the batches.
        on_started: called when all have heard that training starts.
        on_cut_short: called before anybody hears of the end of an epoch that a stop ended before its last batch; says
            whether Keras's own callbacks are to hear of it.
    """

    def __init__(
        self,
        model: keras.Model,
        latest: Latest,
        run: Run,
        feed: Feed,
        on_started: Callable[[], None],
        on_cut_short: Callable[[], bool],
    ) -> None:
        callbacks: list[keras.callbacks.Callback] = [feed, *as_callbacks(run, feed, latest)]
        super().__init__(
            callbacks,
            add_history=True,
            model=model,
            verbose=int(any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in callbacks)),
            epochs=run.num_epochs,
            steps=run.num_batches_per_epoch,
        )
        self._at_batch_begin = listening(self.callbacks[1:], "on_train_batch_begin", "on_batch_begin")
        self._at_batch_end = listening(self.callbacks, "on_train_batch_end", "on_batch_end")
        natives = [callback for callback in self.callbacks[1:] if not isinstance(callback, Bridge)]
        self._natives_hear_of_batches = bool(listening(natives, "on_train_batch_end", "on_batch_end"))
        self._feed = feed
        self._logs = run.logs
        self._running_loss = latest.running_loss
        self._logs_of_epoch: dict[str, Any] = {}
        self._on_started = on_started
        self._on_cut_short = on_cut_short
        self._step = model.step

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._on_started()

    def on_train_end(self, logs: Any = None) -> None:
        super().on_train_end(self._logs_of_epoch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._feed.on_epoch_begin(epoch, logs)
        if not self._feed.first_batch:  # else this epoch's start was heard before the run was resumed
            if self._running_loss is not None:
                self._running_loss.reset()
            for callback in self.callbacks[1:]:
                callback.on_epoch_begin(epoch, logs or {})
        self._step.check_trained()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._step.check_trained()
        self._feed.on_epoch_end(epoch, logs)
        tells_natives = self._feed.is_epoch_completed or self._on_cut_short()
        native_logs = self._native_logs(logs, within_epoch=False)
        for callback in self.callbacks[1:]:
            if tells_natives or isinstance(callback, Bridge):
                callback.on_epoch_end(epoch, native_logs)
        if tells_natives and isinstance(native_logs, NativeLogs):
            native_logs.freeze()  # which costs nothing more: Keras's history has read it
            # At the end of training ``fit`` shows what it knows itself, without what callbacks have added to theirs.
            self._logs_of_epoch = self._native_logs(logs, within_epoch=False).copy()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._feed.has_next():
            return
        batch += self._feed.first_batch
        for hook in self._at_batch_begin:
            hook(batch, {})

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        batch += self._feed.first_batch
        native_logs = self._native_logs(logs, within_epoch=True) if self._natives_hear_of_batches else {}
        for hook in self._at_batch_end:
            hook(batch, native_logs)
        if isinstance(native_logs, NativeLogs) and getrefcount(native_logs) > 2:  # more than this function holds
            native_logs.freeze()  # somebody keeps it: as a dict of Keras's, it must stay as it is

    def _native_logs(self, logs: Any, within_epoch: bool) -> dict[str, Any]:
        """What Keras's own callbacks are shown; nothing where there are none, Keras's history left aside."""
        if self._running_loss is None:
            return {}
        return NativeLogs(logs=self._logs, of_host={"loss": self._running_loss.value}, within_epoch=within_epoch)


def as_callbacks(run: Run, epoch: Epoch, latest: Latest) -> list[keras.callbacks.Callback]:
    """The listeners of a run in their order: native callbacks as they are, and a `Bridge` for mlpug's between them."""
    callbacks: list[keras.callbacks.Callback] = []
    for are_native, group in groupby(run.listeners, key=is_native):
        neighbours = list(group)
        callbacks += neighbours if are_native else [Bridge(neighbours, epoch, latest, run)]
    return callbacks


def tell(listeners: Sequence[Any], event: str, *arguments: Any) -> None:
    """Tell the event to each of them."""
    try:
        for listener in listeners:
            getattr(listener, event)(*arguments)
    except StopIteration as error:
        raise EscapedStopIterationError(error) from error


def _as_one(batch: Any) -> list[Any]:
    return [batch]


def listening(callbacks: Sequence[Any], *names: str) -> list[Callable[..., None]]:
    """The first of the hooks, of those callbacks that have any of them; Keras's own first calls the second."""
    base = keras.callbacks.Callback
    return [
        getattr(callback, names[0])
        for callback in callbacks
        if any(getattr(getattr(callback, name), "__func__", None) is not getattr(base, name) for name in names)
    ]


class Placeholders(keras.utils.PyDataset):
    """What ``fit`` is given for data: so many batches of nothing that the feed decides when an epoch ends."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (np.zeros((1, 1), "float32"),)
