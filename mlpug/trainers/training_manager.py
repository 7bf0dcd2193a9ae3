"""Brings a trainer, a dataset and callbacks together, and trains."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from mlpug.adapter import DataOptions, Run, StepOutput
from mlpug.callbacks.callback import Callback
from mlpug.datasets import DrawnByHost, Epochs
from mlpug.errors import ConfigurationError, MlpugError, MlpugWarning, NonFiniteLoss
from mlpug.first_batch import as_told
from mlpug.logging import get_logger
from mlpug.logs import Logs
from mlpug.optimizer_settings import CHECKPOINT, check_source
from mlpug.tracebacks import shorten
from mlpug.trainers.callback_list import check_known_names, checked_callbacks
from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug.trainers.dispatch import CallbackErrors, CallbackGroup
from mlpug.trainers.held_files import HeldFiles
from mlpug.trainers.rest import Rest
from mlpug.trainers.resuming import state_to_resume
from mlpug.trainers.run_log import RunLog
from mlpug.trainers.run_state import RunState
from mlpug.trainers.signals import Signals
from mlpug.validation import checked_count, checked_dataset, known_length

PathLike: TypeAlias = str | os.PathLike[str]


class TrainingManager:
    """Trains once: counts epochs and batches, keeps the logs, calls the callbacks.

    Args:
        trainer: what is trained.
        training_dataset: batches: a data loader, a list, a generator, any iterable; it may be endless.
        num_epochs: how often to go through the dataset.
        callbacks: mlpug's and the host trainer's own, called in this order.
        num_batches_per_epoch: an epoch ends after this many batches, in the sense of the trainer's
            `gradient_accumulation_steps`. A dataset that doesn't know its length goes on
            in the next epoch where this one stopped; leave it out to train on all batches each epoch.
        experiment_data: anything that describes the experiment; callbacks find it as ``manager.experiment_data``.
        seed: makes the order of the data a function of (seed, epoch) alone. By default it is what the host trainer
            would draw, from the same random numbers as everything else.
        on_callback_error: ``"raise"`` ends training with the callback's exception; ``"log"`` logs it with its
            traceback, goes on, and says so at the end.

    Raises:
        ConfigurationError: an argument that can't work, a callback that is neither mlpug's nor native, a misspelled
            hook, a metric path that nobody writes, a native callback's monitor that nobody publishes, or two callbacks
            whose state would collide.
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
        seed: int | None = None,
        on_callback_error: str = "raise",
    ) -> None:
        if not isinstance(trainer, DefaultTrainer):
            raise ConfigurationError(f"trainer must be an mlp.trainers.DefaultTrainer, not {trainer!r}.")
        self.trainer = trainer
        self.num_epochs = checked_count("num_epochs", num_epochs)
        group_size = trainer.chunking.gradient_accumulation_steps
        options = DataOptions(
            None if num_batches_per_epoch is None else checked_count("num_batches_per_epoch", num_batches_per_epoch),
            None if seed is None else checked_count("seed", seed, at_least=0),
            group_size,
        )
        self.training_dataset = checked_dataset(
            "training dataset", trainer.adapter.as_dataset(training_dataset, options)
        )
        self.num_batches_per_epoch = _batches_per_epoch(self.training_dataset, num_batches_per_epoch, group_size)
        self.experiment_data = experiment_data
        self._run_log = RunLog(self.num_epochs, trainer.adapter.learning_rates, trainer.adapter.to_host)
        self._errors = CallbackErrors(on_callback_error)
        checked = checked_callbacks(callbacks, trainer)
        self._callbacks = [callback for callback in checked if isinstance(callback, Callback)]
        of_callbacks = [path for callback in self._callbacks for path in callback.metric_paths()]
        self._run_log.declare([*of_callbacks, *trainer.logs_itself])
        self._epochs = (
            self.training_dataset
            if isinstance(self.training_dataset, DrawnByHost)
            else Epochs(self.training_dataset, self.num_batches_per_epoch, options.seed, group_size)
        )
        self._state = RunState(
            trainer.adapter,
            self._run_log,
            self._callbacks,
            self._epochs,
            num_epochs=self.num_epochs,
            num_batches_per_epoch=self.num_batches_per_epoch,
            group_size=group_size,
            is_seeded=options.seed is not None,
            models=lambda: (trainer.training_model, *trainer.model_components.values()),
        )
        self._rest = Rest(self._callbacks, self._state, self._run_log, self._errors, self._stop_again)
        self._held = HeldFiles(self._callbacks, trainer)
        self._listeners = self._as_listeners(checked)
        self._signals = Signals(self._interrupt)
        self._is_started = False
        self._interrupted = False
        self.resume_optimizer_settings = CHECKPOINT  # schedulers ask for it

    @property
    def logs(self) -> Logs:
        """The logs of the run."""
        return self._run_log.logs

    @property
    def step_output(self) -> StepOutput | None:
        """What the training model gave for the batch that just ended; None before, and when the next one starts."""
        return self._run_log.step_output

    @property
    def global_iter(self) -> int:
        """How many batches are done, over all of training."""
        return self._run_log.position.global_iter

    def get_state(self) -> dict[str, Any]:
        """All that a run needs to go on from here, as plain data and arrays: what a training checkpoint holds.

        To be called in `on_rest` only, by every process. Arrays may be views of memory that the next batch changes.
        """
        self.trainer.check_can_save("TrainingManager.get_state")
        return self._state.get()

    def get_model_state(self) -> dict[str, dict[str, Any]]:
        """The weights: for each model component, by name, arrays by their path in it; views, where that's possible."""
        self.trainer.check_can_save("TrainingManager.get_model_state")
        return self.trainer.adapter.model_state()

    def stop_training(self) -> None:
        """End training after what is under way: the batch, or the end of the epoch."""
        self.trainer.adapter.stop()

    def start_training(self, resume_from: PathLike | None = None, resume_optimizer_settings: str = CHECKPOINT) -> None:
        """Train until all epochs are done, somebody stops it, or an exception ends it.

        Ctrl-C lets the batch finish, tells every callback, and returns; pressed twice it raises KeyboardInterrupt at
        once. SIGTERM, SIGUSR1 and SIGHUP do the same, and end the process with 128 + their number.

        Args:
            resume_from: a training checkpoint: training goes on from there as if it had never stopped. ``"auto"``: the
                newest intact one that the CheckpointManager in `callbacks` wrote, or the beginning where there is
                none. None: the beginning.
            resume_optimizer_settings: whose learning rates, weight decay and other settings of the optimizers a resumed
                run goes on with. ``"checkpoint"``: those that the run had. ``"script"``: those of this script;
                schedules take the rates from it too, and go on at their step.

        Raises:
            ConfigurationError: no training model is set, or this manager has trained already.
            DatasetError: the dataset turns out to be empty.
            CheckpointError: the training checkpoint can't be read, is damaged, or is that of another model or
                optimizer. With ``"auto"``: there are training checkpoints, but all of them are damaged.
            CheckpointInUseError: another run is writing the same checkpoints.
            NonFiniteLoss: a loss or a gradient isn't finite, and the trainer was told to raise.
            SystemExit: SIGTERM, SIGUSR1 or SIGHUP ended training.
            Exception: whatever the model, the data or a callback raised, unchanged; what the host says of types of
                numbers that don't fit in the first batch is the cause of a DatasetError.
        """
        try:
            self._start(resume_from, resume_optimizer_settings)
        except MlpugError as error:
            shorten(error)
            raise
        if self._signals.exit_status is not None:
            raise SystemExit(self._signals.exit_status)

    def _start(self, resume_from: PathLike | None, resume_optimizer_settings: str) -> None:
        self.trainer.check_ready()
        check_source(resume_optimizer_settings)
        if self._is_started:
            raise ConfigurationError("This TrainingManager has trained already: make a new one to train again.")
        if self._rest.is_asked_for:
            self._epochs.keeps_states = True
            self._epochs.warn_if_not_rewindable()
        if resume_from is not None:
            self.trainer.check_can_save("TrainingManager.start_training(resume_from=...)")
        with self._held:
            self.resume_optimizer_settings = resume_optimizer_settings
            self._resume(resume_from)
            self._is_started = True
            with self._signals:
                self._train()

    def attach(self) -> Run:
        """For adapters: the run of a host's own script, whose events go to its listeners; `detach` ends it."""
        self._held.hold(yields=True)  # not every host tells how its run ends
        self._is_started = True
        self._run_log.expects_batches = False
        return self._run()

    def detach(self, error: BaseException | None = None) -> None:
        """For adapters: the run that this manager was attached to has ended, perhaps by an error."""
        self._interrupted = isinstance(error, KeyboardInterrupt)
        try:
            self._end(error is not None and not self._interrupted, ended_by=error)
        finally:
            self._held.release()

    def _resume(self, resume_from: PathLike | None) -> None:
        resumed = state_to_resume(resume_from, self._callbacks, self._held.hold)
        if resumed is None:
            return
        path, state = resumed
        self._state.load(state, str(path), self.resume_optimizer_settings)
        for callback in self._callbacks:
            if hasattr(callback, "resumed_from"):  # a CheckpointManager, which may go on with the same files
                callback.resumed_from(path)
        self._say_resumed(path)

    def _train(self) -> None:
        try:
            self.trainer.adapter.fit(self._run())
        except BaseException as error:
            self._interrupted |= isinstance(error, KeyboardInterrupt)
            self._say(**self._end(stopped_on_error=not isinstance(error, KeyboardInterrupt), ended_by=error))
            told = self._told_of_first_batch(error)
            if told is not None:
                raise told from error
            raise
        finally:
            self._epochs.close()
        self._say(**self._end(stopped_on_error=False))

    def _told_of_first_batch(self, error: BaseException) -> Exception | None:
        if self.global_iter or not isinstance(error, Exception):
            return None
        try:
            weights = self.trainer.adapter.model_state()
        except MlpugError:  # there are none yet
            weights = {}
        return as_told(error, self._run_log.very_first_batch, weights)

    def _run(self) -> Run:
        position = self._run_log.position
        return Run(
            dataset=self._epochs,
            num_epochs=self.num_epochs,
            num_batches_per_epoch=self.num_batches_per_epoch,
            listeners=(self._run_log, *self._listeners, self._rest),
            evaluate_settings=lambda: self.logs.get("training_settings"),
            logs=self.logs,
            on_non_finite={"raise": self._raise_non_finite, "skip": self._run_log.found_non_finite}.get(
                self.trainer.on_non_finite
            ),
            chunks_of=self.trainer.chunking.chunks_of if self.trainer.chunking.is_needed else None,
            clipping=self.trainer.clipping,
            on_metrics_logged=self._run_log.metrics_logged,
            on_names_known=self._names_known,
            first_epoch=position.epoch,
            first_batch=position.batch,
        )

    def _names_known(self, level: str, names: Sequence[str]) -> None:
        check_known_names(self._callbacks, level, names)
        self._run_log.names_known(level, names)

    def _raise_non_finite(self, output: StepOutput) -> None:
        current = self.logs["current"]
        raise NonFiniteLoss(
            loss=self.trainer.adapter.to_host(output.loss),
            epoch=current["epoch"],
            batch_step=current["batch_step"],
            global_iter=current["global_iter"],
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

    def _interrupt(self, received: signal.Signals) -> None:
        self._interrupted = True
        self.trainer.adapter.stop()
        # The signal may have come in the middle of printing, and printing can't be entered again by the same thread.
        logger = get_logger("TrainingManager::start_training")
        is_ctrl_c = received == signal.SIGINT
        what = "Interrupted" if is_ctrl_c else f"Received {received.name}"
        again = "Press Ctrl-C again" if is_ctrl_c else "Send it again"
        message = f"{what}: training stops after this batch. {again} to stop at once."
        threading.Thread(target=logger.warning, args=[message]).start()

    def _stop_again(self) -> None:
        """A host forgets, when its loop starts, that it was asked to stop before."""
        if self._interrupted:
            self.trainer.adapter.stop()

    def _say_resumed(self, path: os.PathLike[str]) -> None:
        if self.trainer.process.rank == 0:
            position = self._run_log.position
            get_logger("TrainingManager::start_training").info(
                "Training goes on from %s: %s epochs and %s batches are done.",
                path,
                position.epoch,
                position.global_iter,
            )

    def _end(self, stopped_on_error: bool, ended_by: BaseException | None = None) -> dict[str, bool]:
        """Tell every callback how training ended; raise what a callback raises now, if nothing did before."""
        outcome = {
            "stopped_early": not (stopped_on_error or self._interrupted)
            and self._run_log.completed_epochs < self.num_epochs,
            "stopped_on_error": stopped_on_error,
            "interrupted": self._interrupted,
        }
        if ended_by is not None and not isinstance(ended_by, KeyboardInterrupt):
            self._rest.after_error()
        first_error = None
        for listener in self._listeners:
            if isinstance(listener, CallbackGroup):
                raises = ended_by is None and first_error is None
                first_error = listener.tell_training_ended(raises, **outcome) or first_error
        if first_error is not None:
            raise first_error
        return outcome

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


def _batches_per_epoch(dataset: Any, asked_for: int | None, group_size: int) -> int | None:
    of_dataset = known_length(dataset)
    length = None if of_dataset is None else -(-of_dataset // group_size)
    if asked_for is None:
        return length
    if length is not None and length < asked_for:
        of_several = "" if group_size == 1 else f" made of {group_size} of its own each"
        warnings.warn(
            f"The training dataset has {length} batches{of_several}, fewer than num_batches_per_epoch={asked_for}: "
            "each epoch ends with the dataset.",
            MlpugWarning,
            stacklevel=3,
        )
        return length
    return asked_for
