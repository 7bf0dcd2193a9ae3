"""The adapter of ``DefaultTrainer.from_keras``: a compiled `keras.Model`, trained by its own ``fit``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras

from mlpug.adapter import Process, Run, StepOutput
from mlpug.errors import ConfigurationError, DatasetError
from mlpug.model_checkpoint import check_is_whole
from mlpug.stop_iteration import unwrapped
from mlpug_keras.batches import to_host
from mlpug_keras.bridge import Callbacks, Feed, Placeholders, is_of_placeholders
from mlpug_keras.compiled_model import flat, patched
from mlpug_keras.components import component_state
from mlpug_keras.fit_data import FitOptions, as_batches, as_fit_batch
from mlpug_keras.fit_step import FitStep, Step, host
from mlpug_keras.fit_validation import Validation, Validations
from mlpug_keras.host import unchanged_errors
from mlpug_keras.native_callbacks import check_counting, is_native
from mlpug_keras.ported_state import PortedState
from mlpug_keras.state import load_native_state, native_state

_VALIDATION = "val_"


class PortedAdapter:
    """Trains a compiled model with its own ``fit``: its ``train_step``, loss, metrics and validation.

    Args:
        model: compiled.
        options: about training data.
        validation: about validation data.
        has_chunks: whether batches are computed in parts.
    """

    backend = "keras"  # weights can go from one backend of Keras to another

    def __init__(self, model: keras.Model, options: FitOptions, validation: Validation, has_chunks: bool) -> None:
        self._model = model
        self._options = options
        self._validation = validation
        self._validations = Validations(validation, options.batch_size)
        self._class_weight: Mapping[int, float] | None = None  # that is left to be applied to each batch
        self._data: Any = None
        self._step = FitStep(model, has_chunks)
        self._has_chunks = has_chunks
        self._state = PortedState(model)
        self._listeners: Sequence[Any] = ()
        self._can_evaluate = False
        self._epochs_done = 0
        self._num_batches: int | None = None  # in an epoch
        self._feed: Any = None
        self._natives_to_load: dict[str, Any] | None = None
        self._is_stopped = False  # by `stop`, and not by one of Keras's callbacks
        self._at_cut: dict[str, Any] | None = None  # the state of Keras's callbacks where an epoch was cut short

    @property
    def process(self) -> Process:
        """There is one."""
        return Process(rank=0, world_size=1)

    @property
    def native(self) -> keras.Model:
        """The model, with the latest values in its variables."""
        host.sync(self._model)
        return self._model

    def set_training_model(self, training_model: Any) -> None:
        """There is one: the compiled model."""
        raise ConfigurationError(
            "A trainer made by from_keras trains the compiled model that it was made from, by its own train_step: "
            "don't call set_training_model. To train another training model, make the trainer by DefaultTrainer(...)."
        )

    def as_dataset(self, given: Any) -> Any:
        """The batches of training data in any form that ``fit`` takes."""
        self._data, self._class_weight = as_batches(given, self._options)
        return self._data

    def fit(self, run: Run) -> None:
        """Let the model's own ``fit`` train."""
        model, step = self._model, self._step
        feed = Feed(model, step.latest, run, self._accept, Step.concatenate, self._build, self._run_out)
        publish_epoch = partial(self._publish_epoch, run)
        callbacks = Callbacks(model, step.latest, run, feed, self._load_natives, self._cut_short, publish_epoch)
        self._is_stopped, self._at_cut = False, None
        self._listeners = run.listeners
        epochs: Any = run.dataset
        epochs.asks_for_end = host.asks_for_end(self._data)
        self._epochs_done, self._num_batches, self._feed = run.first_epoch, run.num_batches_per_epoch, feed
        if not run.first_batch:
            self._state.forget_metrics()
        with unwrapped(), unchanged_errors(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your input ran out of data")  # how an epoch ends here
            if self._natives_to_load is None:  # and the run isn't resumed
                host.ask_before_first_epoch(model, self._data)
            self._fetch_to_build(feed, is_first=not run.first_epoch)
            with (
                step.in_fit(self._data, partial(self._publish_batch, run)),
                patched(model, **self._for_placeholders(feed)),
            ):
                model.fit(
                    x=Placeholders(),
                    epochs=run.num_epochs,
                    initial_epoch=run.first_epoch,
                    steps_per_epoch=run.num_batches_per_epoch,
                    batch_size=self._options.batch_size,
                    validation_data=self._validation.validation_data,
                    validation_steps=self._validation.validation_steps,
                    validation_batch_size=self._validation.validation_batch_size,
                    validation_freq=self._validation.validation_freq,
                    callbacks=callbacks,
                    verbose=0,
                )

    def _for_placeholders(self, feed: Feed) -> dict[str, Any]:
        """What ``fit`` calls of the model between batches, by name, where it isn't shown the data itself."""
        model = self._model
        reset_metrics, should_evaluate = model.reset_metrics, model._should_eval
        results_of, build = model._get_metrics_result_or_logs, model._symbolic_build

        def starts_epoch() -> None:
            reset_metrics()
            self._state.load_metrics()

        def validates(epoch: int, frequency: Any) -> bool:
            self._state.keep_metrics()
            is_cut = self._is_stopped and not feed.has_all_batches
            if is_cut or not should_evaluate(epoch, frequency):
                return False
            self._validations.begin(model)
            return True

        def results(logs: Any) -> Any:
            return results_of(logs) if feed.has_trained else logs  # metrics may have no variables before a step

        def builds(iterator: Any = None, data_batch: Any = None) -> None:
            # A layer that nothing calls never is built, for which fit would take a batch of the placeholders.
            if not is_of_placeholders(iterator):
                build(iterator=iterator, data_batch=data_batch)

        return {
            "reset_metrics": starts_epoch,
            "_should_eval": validates,
            "_get_metrics_result_or_logs": results,
            "_symbolic_build": builds,
        }

    def attach(self, run: Run) -> FitStep:
        """For a ``fit`` that somebody else calls: the step that it does, and what it gave."""
        self._listeners = run.listeners
        return self._step

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
        self._is_stopped = True
        self._model.stop_training = True

    def evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        """The compiled loss of the batch, in inference mode, and the predictions; a compiled model has no settings."""
        batch = as_fit_batch(batch, Step.is_native, None)
        with unwrapped(), unchanged_errors():
            host.sync(self._model)
            if not self._can_evaluate:
                self._model._symbolic_build(data_batch=batch)
                self._can_evaluate = True
            return self._step.evaluate(batch)

    def to_host(self, tree: Any) -> Any:
        """Tensors as numpy arrays and numbers."""
        return to_host(tree, Step.is_native, Step.read)

    def gather(self, tree: Any) -> list[Any]:
        """There is one process."""
        return [tree]

    def model_state(self) -> dict[str, dict[str, Any]]:
        """The weights of the model."""
        return {"model": component_state(self.native)}

    def state(self) -> dict[str, Any]:
        """Weights and seeds, optimizer and metrics, and what Keras's own callbacks remember."""
        check_is_whole(self._step.latest.is_updating)
        host.sync(self._model)
        of_natives = self._at_cut or native_state(self._listeners)
        of_model = self._state.get(self._step.logs, self._data)
        return {**of_model, "keras": of_natives, "validations": self._validations.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """At once: what isn't built yet is built first."""
        with unchanged_errors():
            self._step.logs = self._state.load(state, self._data)
        self._validations.set_state(state["validations"])
        self._natives_to_load = state["keras"]
        self._epochs_done, self._num_batches = 0, state["configuration"]["num_batches_per_epoch"]
        self._make_spare_iterators(state["run"]["completed_epochs"])

    def learning_rates(self) -> dict[str, float]:
        """That of the optimizer now, by its schedule if it has one."""
        return {"optimizer": host.learning_rate(self._model)}

    def set_learning_rate(self, optimizer_name: str, value: float) -> None:
        """Assign it; an optimizer that has a schedule of its own refuses."""
        host.sync(self._model)
        try:
            self._model.optimizer.learning_rate = value
        except (TypeError, AttributeError) as error:  # the second where it is a function
            raise ConfigurationError(
                "The model was compiled with an optimizer that has a schedule of its own, which sets its learning rate."
                " Compile it with a number, or leave the other schedule out."
            ) from error

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a callback of Keras 3."""
        if not is_native(candidate):
            return False
        check_counting(candidate)
        return True

    def native_metrics(self, callbacks: Sequence[Any]) -> None:
        """The model's own step may log anything."""

    def _accept(self, given: Any) -> Any:
        batch = as_fit_batch(given, Step.is_native, self._class_weight)
        self._state.see(batch)
        return batch

    def _build(self, first: Any) -> None:
        """Create what ``fit`` would create of a first batch, because it is shown placeholders."""
        if self._has_chunks:
            self._model._symbolic_build(data_batch=first)
            self._step.build_chunks()
        else:
            host.build(self._model, first)

    def _fetch_to_build(self, feed: Feed, is_first: bool) -> None:
        """Have the model built before ``fit`` starts, where that would take a batch."""
        if not host.needs_batch(self._model) and not self._has_chunks:
            return
        if is_first and hasattr(self._data, "draws_to_build"):
            self._data.draws_to_build = self._data.draws_to_build or host.needs_batch(self._model)
        feed.fetch_first()
        if host.needs_batch(self._model) and feed.is_empty:
            raise DatasetError(
                "The training dataset gave no batches, so that the model can't be built. If it is an iterator, it can "
                "be read only once."
            )

    def _run_out(self) -> None:
        self._step.run_out(self._state.like)

    def _publish_batch(self, run: Run) -> None:
        self._state.go_on()
        output = self._step.latest.step_output
        assert output is not None
        loss = output.loss
        run.on_metrics_logged("training.epoch", flat(self._step.logs))
        run.on_metrics_logged("training.batch", loss if isinstance(loss, Mapping) else {"loss": loss})

    def _publish_epoch(self, run: Run, logs: Mapping[str, Any]) -> None:
        if self._feed.is_epoch_completed:
            self._make_spare_iterators(self._epochs_done + 1)
        validates = self._validation.validation_data is not None
        of_validation = {
            name.removeprefix(_VALIDATION): value
            for name, value in logs.items()
            if validates and name.startswith(_VALIDATION)
        }
        of_training = {name: value for name, value in logs.items() if not (validates and name.startswith(_VALIDATION))}
        run.on_metrics_logged("training.epoch", of_training)
        if of_validation:
            run.on_metrics_logged("validation.dataset", of_validation)

    def _make_spare_iterators(self, num_epochs: int) -> None:
        """Those that ``fit`` makes by then, so that what they draw from gives the same to the next ones."""
        before, now = (host.spare_iterators(self._data, n, self._num_batches) for n in (self._epochs_done, num_epochs))
        for _ in range(now - before):
            iter(self._data)
        self._epochs_done = num_epochs

    def _cut_short(self) -> bool:
        """As in an ordinary run: Keras's own callbacks hear of it only where it was one of them that stopped."""
        self._at_cut = native_state(self._listeners)
        return not self._is_stopped

    def _load_natives(self) -> None:
        """What Keras's own callbacks remember of the run that is resumed."""
        if self._natives_to_load is not None:
            state, self._natives_to_load = self._natives_to_load, None
            load_native_state(self._listeners, state)
