"""mlpug's callbacks in a script that calls Keras's ``fit`` itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import keras
from keras.src.utils.python_utils import default

from mlpug.errors import ConfigurationError
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug.trainers.attached import Attached
from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug_keras.bridge import tell
from mlpug_keras.compiled_model import is_made_by_keras
from mlpug_keras.devices import no_checkpoints
from mlpug_keras.fit_data import FitOptions
from mlpug_keras.fit_validation import Validation
from mlpug_keras.native_callbacks import is_native
from mlpug_keras.ported import PortedAdapter

_LOGS = ("training.batch", "training.epoch", "validation.dataset")


def as_native(*callbacks: Any) -> keras.callbacks.Callback:
    """One callback for ``model.fit(callbacks=[...])`` that calls mlpug's, in this order, in a run of Keras's own.

    The run isn't changed by it. The logs have what ``fit`` knows: ``training.batch.loss`` is the loss of the batch
    alone (see `DefaultTrainer.from_keras`), ``training.epoch.<name>`` are the means over the epoch so far that Keras
    shows, ``validation.dataset.<name>`` is what ``fit`` validates. Checkpoints are as always; of a training checkpoint
    that was made at an epoch's end, ``from_keras(model)`` goes on by ``start_training(resume_from=path)``. They hear of
    a batch before Keras's own callbacks do, and ``fit`` waits for no number because of them. Where Keras doesn't know
    how many batches there are, they hear of the start of one after its step, which fetches it. Keras tells its
    callbacks nothing of an error outside of a step: then ``on_training_ended`` isn't called.

    Args:
        callbacks: mlpug's. Keras gives its callbacks no batches: hooks get None.

    Raises:
        ConfigurationError: a callback that isn't mlpug's, or that needs what such a run doesn't give: batches, the
            training dataset, or the optimizers before training starts. When training starts: a model that runs several
            steps at once.

    >>> from mlpug.callbacks import LogProgress
    >>> callbacks = [as_native(LogProgress())]
    """
    lacking = ("batches", "training_dataset", "optimizers")
    return _Native(Attached(callbacks, is_native, lacking, logs_itself=_LOGS))


class _Native(keras.callbacks.Callback):
    """Hands Keras's events to mlpug's listeners."""

    def __init__(self, attached: Attached) -> None:
        super().__init__()
        self._attached = attached
        self._listeners: tuple[Any, ...] = ()
        self._log: Any = None  # what Keras computes
        self._latest: Any = None
        self._adapter: Any = None
        self._step: Any = None
        self._hearing = ExitStack()
        self._function: Any = None  # that ``fit`` calls for each step
        self._num_batches: int | None = None  # in an epoch, where Keras knows it
        self._count = 0  # of them that are done
        self._started_at: float | None = None  # the batch that is under way in a run that this hears of
        self._is_stopped = False  # within the epoch
        self._is_first_epoch = True

    def __reduce__(self) -> Any:
        """A copy, or one that is pickled, belongs to no run, and hears of the next one."""
        return _Native, (self._attached,)

    def on_train_begin(self, logs: Any = None) -> None:
        trained: Any = self._model  # `self.model` would have Keras write all values into the variables on JAX
        if trained.steps_per_execution != 1:
            raise ConfigurationError(
                f"as_native hears of every batch, and the model runs steps_per_execution={trained.steps_per_execution} "
                "of them at once: compile it without."
            )
        self._adapter = adapter = PortedAdapter(trained, FitOptions(), Validation(), has_chunks=False)
        trainer = DefaultTrainer(adapter, None, trained, logs_itself=_LOGS, no_checkpoints=no_checkpoints())
        params = self.params or {}  # a script's own CallbackList may have none
        run = self._attached.start(trainer, max(params.get("epochs") or 1, 1))  # 0 where nothing is to be trained
        self._listeners, self._log, self._num_batches = run.listeners, run.on_metrics_logged, params.get("steps")
        self._is_first_epoch = True
        self._step = adapter.attach(run)
        self._latest = self._step.latest
        self._hear()
        self._tell("training_started", self._num_batches)

    def _hear(self) -> None:
        self._hearing.enter_context(self._adapter.beside_fit(self._batch_trained, self._end))
        self._function = self._model.train_function

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._is_first_epoch and epoch:  # by fit(initial_epoch=...)
            self._attached.count_from(epoch, epoch * (self._num_batches or 0))
        self._is_first_epoch = False
        self._count, self._is_stopped = 0, False
        self._tell("epoch_started")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._is_made_anew():
            self._hearing.close()
            self._hear()
        self._started_at = time.perf_counter()
        if self._num_batches is not None:  # else it is the step that finds out whether there is another one
            self._tell("batch_started", None)

    def _is_made_anew(self) -> bool:
        """Say whether a callback had Keras make the train function again: one that wraps it calls it all the same."""
        function = self._model.train_function
        return function is not self._function and is_made_by_keras(function)

    def _batch_trained(self) -> None:
        started_at, self._started_at = self._started_at, None
        if started_at is None:  # Keras doesn't say where a run ends by an error: this is the next one
            return
        if self._num_batches is None:
            self._tell("batch_started", None)
            self._attached.batch_began(started_at)
        output = self._latest.step_output
        self._count += 1
        self._log("training.epoch", self._step.logs)
        loss = output.loss
        self._log("training.batch", loss if isinstance(loss, Mapping) else {"loss": loss})
        self._tell("batch_ended", None, output, self._latest.did_update)
        self._latest.step_output = None

    @default  # type: ignore[untyped-decorator]  # in whose presence ``fit`` waits for no number of a batch
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._is_stopped = self._model.stop_training

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        of_validation = {name: value for name, value in logs.items() if name.startswith("val_")}
        of_training = {name: value for name, value in logs.items() if name not in of_validation}
        self._log("training.epoch", of_training)
        if of_validation:
            without = {name.removeprefix("val_"): value for name, value in of_validation.items()}
            self._log("validation.dataset", without)
        self._tell("epoch_ended", not self._is_stopped or self._count == self._num_batches)
        if self._model.stop_training or epoch + 1 == (self.params or {}).get("epochs"):
            self._adapter.note_trained()

    def on_train_end(self, logs: Any = None) -> None:
        self._tell("training_ended")
        self._end()

    def _tell(self, event: str, *arguments: Any) -> None:
        try:
            tell(self._listeners, event, *arguments)
        except EscapedStopIterationError as error:  # not the end of the data, for which ``fit`` would take it
            escaped = RuntimeError("A callback raised StopIteration.")
            self._end(escaped)
            raise escaped from error.error
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, error: BaseException | None = None) -> None:
        self._hearing.close()
        self._attached.end(error)
