"""The listeners of a run as the callbacks of a ``fit`` that trains a compiled model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import getrefcount
from typing import Any

import keras
from keras.src.utils.python_utils import pythonify_logs

from mlpug.adapter import Run
from mlpug.callbacks.native_names import NativeLogs
from mlpug_keras.bridge import Bridge, as_callbacks, listening, tell
from mlpug_keras.fit_feed import FitFeed
from mlpug_keras.heard_half import HeardHalf
from mlpug_keras.model import Latest
from mlpug_keras.native_callbacks import is_native


@dataclass(frozen=True, slots=True)
class Moments:
    """What is called besides the listeners.

    Each has a place between what ``fit`` does and what listeners hear of it.
    """

    before_training: Callable[[], None]
    training_started: Callable[[], None]  # all have heard of it
    epoch_drawn: Callable[[], None]  # an epoch ended, of which nothing is left
    cut_short: Callable[[], bool]  # a stop ended the epoch; says whether Keras's own callbacks are to hear of it
    epoch_logs: Callable[[Mapping[str, Any]], None]  # Keras's logs of an epoch, before anybody hears of its end
    stops: Callable[[], bool]  # whether ``fit`` is to end with the epoch
    check_trained: Callable[[], None]  # between epochs: a hook may have frozen what can't be frozen any more


class FitCallbacks(keras.callbacks.CallbackList):
    """The listeners in their order, and what ``fit`` shows to its callbacks.

    Keras's own callbacks hear what they would hear without mlpug. mlpug's hear of a batch when it is there, which is
    within the step.

    Args:
        model: that ``fit`` trains.
        latest: the batch, and what it gave.
        run: what is to be done.
        feed: has the batches.
        moments: what else is called.
        heard: what Keras's own callbacks have been told in the middle of.
        of_host: names that ``fit`` publishes at times: they show nothing of mlpug's where it doesn't.
    """

    def __init__(
        self,
        model: keras.Model,
        latest: Latest,
        run: Run,
        feed: FitFeed,
        moments: Moments,
        of_host: set[str],
        heard: HeardHalf,
    ) -> None:
        callbacks = as_callbacks(run, feed, latest)
        super().__init__(
            callbacks,
            add_history=True,
            model=model,
            verbose=int(any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in callbacks)),
            epochs=run.num_epochs,
            steps=run.num_batches_per_epoch,
        )
        natives = [callback for callback in self.callbacks if not isinstance(callback, Bridge)]
        self._bridges = [callback for callback in self.callbacks if isinstance(callback, Bridge)]
        self._natives_at_batch_begin = listening(natives, "on_train_batch_begin", "on_batch_begin")
        self._at_batch_end = listening(self.callbacks, "on_train_batch_end", "on_batch_end")
        self._natives_hear_of_batches = bool(listening(natives, "on_train_batch_end", "on_batch_end"))
        self._listeners = [listener for listener in run.listeners if not is_native(listener)]
        self._model_trained = model
        self._feed = feed
        self._latest = latest
        self._moments = moments
        self._logs = run.logs
        self._of_host = of_host
        self._logs_of_epoch: dict[str, Any] = {}
        self._heard = heard

    def batch_is_there(self) -> None:
        """The step has its batch."""
        for bridge in self._bridges:
            bridge.on_train_batch_begin(0)

    def on_train_begin(self, logs: Any = None) -> None:
        self._moments.before_training()
        super().on_train_begin(logs)
        self._moments.training_started()

    def on_train_end(self, logs: Any = None) -> None:
        tell(self._listeners, "training_ended")  # before any callback of Keras's own hears of it
        super().on_train_end(self._logs_of_epoch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._feed.begin_epoch()
        if not self._feed.first_batch:  # else this epoch's start was heard before the run was resumed
            for callback in self.callbacks:
                if isinstance(callback, Bridge):
                    callback.on_epoch_begin(epoch, {})
                else:
                    self._heard.begin_epoch(callback, epoch)
        self._moments.check_trained()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._feed.begin_step()
        if self._feed.expects_batch:
            self._heard.begin_batch(self._natives_at_batch_begin, batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._latest.batch is None:  # a step that found no batch: nothing was trained
            return
        self._heard.end_batch()
        native_logs = self._native_logs(logs) if self._natives_hear_of_batches else {}
        for hook in self._at_batch_end:
            hook(batch, native_logs)
        if isinstance(native_logs, NativeLogs) and getrefcount(native_logs) > 2:  # more than this function holds
            native_logs.freeze()  # somebody keeps it: as a dict of Keras's, it must stay as it is
        self._feed.end_step(self._model_trained.stop_training)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        feed, moments = self._feed, self._moments
        moments.check_trained()
        feed.end_epoch()
        if feed.is_epoch_completed:
            moments.epoch_drawn()
        logs = pythonify_logs(logs)
        moments.epoch_logs(logs)
        tells_natives = feed.is_epoch_completed or moments.cut_short()
        native_logs = self._native_logs(logs)
        for callback in self.callbacks:
            if isinstance(callback, Bridge):
                callback.on_epoch_end(epoch, native_logs)
            elif tells_natives:
                self._heard.end_epoch(callback, epoch, native_logs)
        self._heard.epoch_ended()
        if tells_natives:
            native_logs.freeze()  # which costs nothing more: Keras's history has read it
            self._logs_of_epoch = logs  # without what callbacks have added to theirs, as ``fit`` has it
        if moments.stops():
            self._model_trained.stop_training = True

    def _native_logs(self, logs: Any) -> NativeLogs:
        """What Keras's own callbacks are shown."""
        return NativeLogs(pythonify_logs(logs), logs=self._logs, shows_own_only=True, hidden=self._of_host)
