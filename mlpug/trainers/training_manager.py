"""Brings a trainer, a dataset and callbacks together, and trains."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from mlpug.adapter import Run, StepOutput
from mlpug.callbacks.callback import Callback
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.logging import get_logger
from mlpug.logs import Logs
from mlpug.trainers.callback_list import checked_callbacks
from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug.trainers.dispatch import CallbackErrors, CallbackGroup
from mlpug.trainers.epochs import epochs_of
from mlpug.trainers.interrupts import CtrlC
from mlpug.trainers.run_log import RunLog
from mlpug.validation import checked_count, checked_dataset, known_length


class TrainingManager:
    """Trains once: counts epochs and batches, keeps the logs, calls the callbacks.

    Args:
        trainer: what is trained.
        training_dataset: batches: a data loader, a list, a generator, any iterable; it may be endless.
        num_epochs: how often to go through the dataset.
        callbacks: mlpug's and the host trainer's own, called in this order.
        num_batches_per_epoch: an epoch ends after this many batches. A dataset that doesn't know its length goes on
            in the next epoch where this one stopped; leave it out to train on all batches each epoch.
        experiment_data: anything that describes the experiment; callbacks find it as ``manager.experiment_data``.
        on_callback_error: ``"raise"`` ends training with the callback's exception; ``"log"`` logs it with its
            traceback, goes on, and says so at the end.

    Raises:
        ConfigurationError: an argument that can't work, a callback that is neither mlpug's nor native, a misspelled
            hook, a metric path that nobody writes, or two callbacks whose state would collide.
        DatasetError: the dataset is empty.

    >>> from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
    >>> import numpy as np
    >>> model = LinearRegression(num_features=1)
    >>> trainer = fake_trainer(optimizers=GradientDescent(model.parameters, learning_rate=0.1), model_components=model)
    >>> batch = (np.array([[1.0], [2.0]]), np.array([2.0, 4.0]))
    >>> manager = TrainingManager(trainer, [batch], num_epochs=200)
    >>> trainer.set_training_model(model)
    >>> manager.start_training()
    >>> model.parameters["weight"].round(1)
    array([2.])
    """

    def __init__(
        self,
        trainer: DefaultTrainer,
        training_dataset: Iterable[Any],
        num_epochs: int = 1,
        callbacks: Sequence[Any] = (),
        num_batches_per_epoch: int | None = None,
        experiment_data: Mapping[str, Any] | None = None,
        on_callback_error: str = "raise",
    ) -> None:
        if not isinstance(trainer, DefaultTrainer):
            raise ConfigurationError(f"trainer must be an mlp.trainers.DefaultTrainer, not {trainer!r}.")
        self.trainer = trainer
        self.training_dataset = checked_dataset("training dataset", training_dataset)
        self.num_epochs = checked_count("num_epochs", num_epochs)
        self.num_batches_per_epoch = _batches_per_epoch(training_dataset, num_batches_per_epoch)
        self.experiment_data = experiment_data
        self._run_log = RunLog(self.num_epochs, trainer.adapter.learning_rates)
        self._errors = CallbackErrors(on_callback_error)
        self._listeners = self._as_listeners(checked_callbacks(callbacks, trainer))
        self._is_started = False
        self._interrupted = False

    @property
    def logs(self) -> Logs:
        """The logs of the run."""
        return self._run_log.logs

    @property
    def step_output(self) -> StepOutput | None:
        """What the training model gave for the batch that just ended; None before, and when the next one starts."""
        return self._run_log.step_output

    def stop_training(self) -> None:
        """End training after what is under way: the batch, or the end of the epoch."""
        self.trainer.adapter.stop()

    def start_training(self) -> None:
        """Train until all epochs are done, somebody stops it, or an exception ends it.

        Ctrl-C lets the batch finish, tells every callback, and returns; pressed twice it raises KeyboardInterrupt at
        once.

        Raises:
            ConfigurationError: no training model is set, or this manager has trained already.
            DatasetError: the dataset turns out to be empty.
            Exception: whatever the model, the data or a callback raised, unchanged.
        """
        self.trainer.check_ready()
        if self._is_started:
            raise ConfigurationError("This TrainingManager has trained already: make a new one to train again.")
        self._is_started = True
        try:
            with CtrlC(self._interrupt):
                self.trainer.adapter.fit(self._run())
        except BaseException as error:
            self._interrupted |= isinstance(error, KeyboardInterrupt)
            self._end(stopped_on_error=not isinstance(error, KeyboardInterrupt), ended_by=error)
            raise
        self._end(stopped_on_error=False)

    def _run(self) -> Run:
        return Run(
            dataset=epochs_of(self.training_dataset, self.num_batches_per_epoch),
            num_epochs=self.num_epochs,
            num_batches_per_epoch=self.num_batches_per_epoch,
            listeners=(self._run_log, *self._listeners),
            evaluate_settings=lambda: self.logs.get("training_settings"),
        )

    def _as_listeners(self, callbacks: Sequence[Any]) -> list[Any]:
        """Native callbacks as they are, and each run of mlpug's own between them as one listener."""
        listeners: list[Any] = []
        for is_ours, group in groupby(callbacks, key=lambda callback: isinstance(callback, Callback)):
            if is_ours:
                ours = list(group)
                for callback in ours:
                    callback.manager = self
                listeners.append(CallbackGroup(ours, self.logs, self._errors))
            else:
                listeners += group
        return listeners

    def _interrupt(self) -> None:
        self._interrupted = True
        self.trainer.adapter.stop()
        # The signal may have come in the middle of printing, and printing can't be entered again by the same thread.
        logger = get_logger("TrainingManager::start_training")
        message = "Interrupted: training stops after this batch. Press Ctrl-C again to stop at once."
        threading.Thread(target=logger.warning, args=[message]).start()

    def _end(self, stopped_on_error: bool, ended_by: BaseException | None = None) -> None:
        """Tell every callback and say how training ended; raise what a callback raises now, if nothing did before."""
        outcome = {
            "stopped_early": not (stopped_on_error or self._interrupted)
            and self._run_log.completed_epochs < self.num_epochs,
            "stopped_on_error": stopped_on_error,
            "interrupted": self._interrupted,
        }
        first_error = None
        for listener in self._listeners:
            if isinstance(listener, CallbackGroup):
                raises = ended_by is None and first_error is None
                first_error = listener.training_ended(raises, **outcome) or first_error
        if first_error is not None:
            raise first_error
        self._say(**outcome)

    def _say(self, stopped_early: bool, stopped_on_error: bool, interrupted: bool) -> None:
        if self.trainer.process.rank > 0 and not stopped_on_error:
            return
        logger = get_logger("TrainingManager::start_training")
        current = self.logs["current"]
        where = f"in epoch {current['epoch']}, at batch {current['batch_step']}"
        failed = self._errors.count
        if stopped_on_error:
            logger.error("Training stopped on an error %s.", where)
        elif interrupted:
            logger.warning("Training was interrupted %s.", where)
        else:
            ended = f"Training was stopped early, {where}" if stopped_early else "Training completed"
            if failed:
                logger.warning("%s, but %s callback calls failed: see the errors logged above.", ended, failed)
            else:
                logger.info("%s. All good! ❤️", ended)


def _batches_per_epoch(dataset: Any, asked_for: int | None) -> int | None:
    length = known_length(dataset)
    if asked_for is None:
        return length
    checked_count("num_batches_per_epoch", asked_for)
    if length is not None and length < asked_for:
        warnings.warn(
            f"The training dataset has {length} batches, fewer than num_batches_per_epoch={asked_for}: "
            "each epoch ends with the dataset.",
            MlpugWarning,
            stacklevel=3,
        )
        return length
    return asked_for
