"""Hands Keras's events to mlpug's listeners, and the batches to the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import keras
import numpy as np

from mlpug.adapter import Events, Run
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug_keras.model import TrainingModel


class Feed(keras.callbacks.Callback):
    """Always the first callback: it fetches each batch before anybody hears of it, and knows how an epoch went.

    A StopIteration here is how Keras learns that the epoch has no more batches.
    """

    def __init__(self, training_model: TrainingModel, run: Run, accept: Callable[[Any], Any]) -> None:
        super().__init__()
        self._accept = accept
        self._model_of_ours = training_model
        self._dataset: Iterable[Any] = run.dataset
        self._num_batches = run.num_batches_per_epoch
        self._batches: Iterator[Any] | None = None
        self._fetched: list[Any] = []
        self._count = 0
        self.is_epoch_heard = False  # an epoch that is stopped before it starts isn't told
        self.is_epoch_completed = False

    def peek(self) -> list[Any]:
        """The first batch, if there is one, kept for when it is trained on."""
        self._batches = iter(self._dataset)
        self._fetch()
        return self._fetched

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._batches is None:
            self._batches = iter(self._dataset)
        self._count = 0
        self.is_epoch_heard = not self._model_of_ours.stop_training

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        model = self._model_of_ours
        latest = model.latest
        latest.batch = latest.step_output = None
        if not model.stop_training and self._count != self._num_batches:
            self._fetch()
        if self._fetched and not model.stop_training:
            latest.batch = self._fetched.pop()
            self._count += 1
        elif self._count:
            raise StopIteration
        # else Keras gets to its step without a batch: it doesn't bear an epoch in which it never was there

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._count == 0:
            raise StopIteration

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._batches = None
        self.is_epoch_completed = not self._model_of_ours.stop_training or self._count == self._num_batches

    def _fetch(self) -> None:
        if not self._fetched and self._batches is not None:
            self._fetched = [self._accept(batch) for batch in islice(self._batches, 1)]


class Bridge(keras.callbacks.Callback):
    """A native callback for listeners that stand next to each other in the list."""

    def __init__(self, listeners: Sequence[Events], feed: Feed, training_model: TrainingModel, run: Run) -> None:
        super().__init__()
        self._listeners = listeners
        self._feed = feed
        self._latest = training_model.latest
        self._num_batches = run.num_batches_per_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self._tell("training_started", self._num_batches)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._feed.is_epoch_heard:
            self._tell("epoch_started")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._latest.batch is not None:
            self._tell("batch_started", self._latest.batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._tell("batch_ended", self._latest.batch, self._latest.step_output, True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._feed.is_epoch_heard:
            self._tell("epoch_ended", self._feed.is_epoch_completed)

    def _tell(self, event: str, *arguments: Any) -> None:
        try:
            for listener in self._listeners:
                getattr(listener, event)(*arguments)
        except StopIteration as error:
            raise EscapedStopIterationError(error) from error


class Callbacks(keras.callbacks.CallbackList):
    """The feed, and the listeners as Keras's callbacks, in the same order.

    At each batch only those are called that listen to batches, and always on this thread.
    """

    def __init__(self, training_model: TrainingModel, run: Run, feed: Feed) -> None:
        callbacks: list[keras.callbacks.Callback] = [feed]
        for is_native, group in groupby(run.listeners, key=_is_native):
            neighbours = list(group)
            callbacks += neighbours if is_native else [Bridge(neighbours, feed, training_model, run)]
        epochs, steps = run.num_epochs, run.num_batches_per_epoch
        super().__init__(callbacks, add_history=True, model=training_model, verbose=0, epochs=epochs, steps=steps)
        self._at_batch_begin = _listening(self.callbacks, "on_train_batch_begin", "on_batch_begin")
        self._at_batch_end = _listening(self.callbacks, "on_train_batch_end", "on_batch_end")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        for hook in self._at_batch_begin:
            hook(batch, {})

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        numbers = {name: float(value) for name, value in logs.items()}
        for hook in self._at_batch_end:
            hook(batch, numbers)


def _is_native(listener: Any) -> bool:
    return isinstance(listener, keras.callbacks.Callback)


def _listening(callbacks: Sequence[Any], *names: str) -> list[Callable[..., None]]:
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
