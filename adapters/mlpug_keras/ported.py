"""The adapter of ``DefaultTrainer.from_keras``: a compiled `keras.Model`, trained by its own ``fit``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import GeneratorType
from typing import Any

import keras

from mlpug.adapter import DataOptions, Holder, Process, Run, StepOutput
from mlpug.datasets.data_of_host import DataOfHost
from mlpug.errors import ConfigurationError, DatasetError
from mlpug.model_checkpoint import check_is_whole
from mlpug.stop_iteration import unwrapped
from mlpug_keras.batches import to_host
from mlpug_keras.bridge import Placeholders
from mlpug_keras.compiled_model import flat, is_built, metric_names, patched
from mlpug_keras.components import component_state
from mlpug_keras.devices import check_one_device, processes
from mlpug_keras.fit_callbacks import FitCallbacks, Moments
from mlpug_keras.fit_data import FitOptions, as_fit_batch, fit_data
from mlpug_keras.fit_draws import FitDraws
from mlpug_keras.fit_epochs import FitEpochs
from mlpug_keras.fit_feed import FitFeed
from mlpug_keras.fit_step import FitStep, Step, host
from mlpug_keras.fit_validation import Validation, Validations
from mlpug_keras.heard_half import HeardHalf
from mlpug_keras.held_variables import warn_of_untold
from mlpug_keras.holders import holder_of_data, holders_of_layers
from mlpug_keras.host import unchanged_errors
from mlpug_keras.native_callbacks import check_counting, is_native
from mlpug_keras.ported_state import PortedState
from mlpug_keras.state import NativeState
from mlpug_keras.targets import check_targets, checking_targets, without_targets_told
from mlpug_keras.trained_flags import KEY, TrainedFlags
from mlpug_keras.trained_weights import TrainedWeights

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
        self._validations = Validations(validation)
        self._of_validation: set[str] = set()  # names of what fit shows where it has validated
        self._draws: FitDraws | None = None  # None: the data isn't such that fit takes it
        self._step = FitStep(model, has_chunks)
        self._has_chunks = has_chunks
        self._state = PortedState(model)
        self._natives = NativeState()
        self._heard = HeardHalf(self._natives.key_of)
        self._heard_before: dict[str, Any] = {}  # in the run that is resumed
        self._trained = TrainedWeights()
        self._flags = TrainedFlags(lambda: {"model": model})
        self._can_evaluate = False
        self._feed: FitFeed | None = None
        self._natives_to_load: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None  # the whole state, until training has started
        self._is_stopped = False  # by `stop`, and not by one of Keras's callbacks
        self._at_cut: dict[str, Any] | None = None  # the state of Keras's callbacks where an epoch was cut short

    @property
    def process(self) -> Process:
        """There is one, but in a ``fit`` that somebody else calls."""
        return processes()

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

    def as_dataset(self, given: Any, options: DataOptions) -> Any:
        """What ``fit`` draws, where it takes it as data; else what gives the batches."""
        steps = options.num_batches_per_epoch
        data = fit_data(given, self._options, None if steps is None else steps * options.gradient_accumulation_steps)
        check_targets(self._model, (data.x, data.y) if data is not None and data.has_arrays else given)
        self._draws = None if data is None else FitDraws(data, options)
        return given if self._draws is None else self._draws

    def fit(self, run: Run) -> None:
        """Let the model's own ``fit`` train."""
        check_one_device("from_keras", [])  # since the trainer was made
        step, draws = self._step, self._draws
        if metric_names(self._model) is not None:  # else a step of the model's own tells what it likes
            run.on_names_known("training.batch", ["loss"])
        if self._natives_to_load is None:
            self._state.note_settings()
        self._is_stopped, self._at_cut = False, None
        self._natives.begin(run.listeners)
        self._heard.go_on(self._heard_before, run.first_batch)
        self._feed = feed = FitFeed(step.latest, run, self._accept, Step.concatenate, lambda: self._is_stopped)
        feed.on_first = self._build_chunks if self._has_chunks else None
        epochs = FitEpochs(run, feed) if draws is None else None
        if not run.first_batch:
            self._state.forget_metrics()
        keeper: Any = run.dataset
        step.keeps_states = keeper.keeps_states
        if keeper.keeps_states:
            self._validations.warn_if_not_rewindable()
        with ExitStack() as until_started, unwrapped(), unchanged_errors(), warnings.catch_warnings():
            if draws is None or not isinstance(draws.dataset, GeneratorType):  # which has nothing for the next epoch
                warnings.filterwarnings("ignore", "Your input ran out of data")  # how an epoch of unknown length ends
            if draws is not None and draws.data.has_arrays:
                until_started.enter_context(draws.order.used())
            moments = Moments(
                before_training=partial(self._before_training, until_started),
                training_started=self._load_natives,
                epoch_drawn=self._epoch_drawn,
                cut_short=self._cut_short,
                epoch_logs=partial(self._publish_epoch, run),
                stops=lambda: self._is_stopped,
                check_trained=step.check_trained,
            )
            callbacks = FitCallbacks(self._model, step.latest, run, feed, moments, self._of_validation, self._heard)
            arguments = {"x": Placeholders()} if draws is None else draws.data.arguments()
            with (
                without_targets_told(self._model),
                step.in_fit(feed, callbacks.batch_is_there, partial(self._publish_batch, run)),
                patched(self._model, **self._between_batches(feed, epochs), **checking_targets(self._model)),
                self._trained.noted(self._model.optimizer, run.listeners),
            ):
                self._fit(run, callbacks=callbacks, **arguments)

    def _fit(self, run: Run, **arguments: Any) -> None:
        try:
            self._model.fit(
                **arguments,
                **self._validation.arguments(),
                epochs=run.num_epochs,
                initial_epoch=run.first_epoch,
                verbose=0,
            )
        except ValueError as error:
            if isinstance(arguments["x"], GeneratorType) and "at least one batch" in str(error):
                raise _no_batches() from None
            raise

    def _between_batches(self, feed: FitFeed, epochs: FitEpochs | None) -> dict[str, Any]:
        """What ``fit`` calls of the model between batches, by name: it shows there what it does."""
        model = self._model
        reset_metrics, should_evaluate = model.reset_metrics, model._should_eval
        results_of, build = model._get_metrics_result_or_logs, getattr(model, host.BUILD)
        of_training: list[Any] = []

        def starts_epoch() -> None:
            reset_metrics()
            self._state.load_metrics()

        def validates(epoch: int, frequency: Any) -> bool:
            self._state.keep_metrics()
            if feed.is_cut_short or not should_evaluate(epoch, frequency):
                return False
            self._validations.begin()
            return True

        def results(logs: Any) -> Any:
            return results_of(logs) if feed.has_trained else logs  # metrics may have no variables before a step

        def builds(iterator: Any = None, data_batch: Any = None) -> None:
            if iterator is not None and not of_training:
                of_training.append(iterator)
                if self._draws is not None:
                    self._draws.observe(iterator, feed)
                elif epochs is not None:
                    epochs.observe(iterator)
                    if host.needs_batch(model):
                        iterator, data_batch = None, self._first_batch(epochs)
            elif iterator is not None and iterator is getattr(model, "_eval_epoch_iterator", None):
                self._validations.observe(iterator)
            build(iterator=iterator, data_batch=data_batch)

        return {
            "reset_metrics": starts_epoch,
            "_should_eval": validates,
            "_get_metrics_result_or_logs": results,
            host.BUILD: builds,
        }

    def _first_batch(self, epochs: FitEpochs) -> Any:
        try:
            first = epochs.first()
        except StopIteration:
            raise _no_batches() from None
        assert self._feed is not None
        _, chunks = self._feed.accepted(first)
        return chunks[0]

    def _before_training(self, until_started: ExitStack) -> None:
        until_started.close()
        if self._has_chunks and is_built(self._model):
            self._step.build_chunks()
        if self._draws is not None:
            self._draws.training_starts()

    def _epoch_drawn(self) -> None:
        if self._draws is not None:
            self._draws.epoch_ends()

    def attach(self, run: Run) -> FitStep:
        """For a ``fit`` that somebody else calls: the step that it does, and what it gave."""
        self._natives.begin(run.listeners)
        self._state.note_settings()
        self._step.keeps_states = run.listeners[-1].is_asked_for
        self._flags.note()
        return self._step

    def beside_fit(
        self, on_trained: Callable[[], None], on_error: Callable[[BaseException], None]
    ) -> AbstractContextManager[None]:
        """For a ``fit`` that somebody else calls: see `FitStep.beside_fit`."""
        return self._step.beside_fit(self._state.see, on_trained, on_error)

    def note_trained(self) -> None:
        """A ``fit`` that somebody else calls is about to end."""
        host.sync(self._model)
        self._trained.note(self._model.optimizer)

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
        self._is_stopped = True
        if self._feed is None or not self._feed.has_all_batches:  # else fit ends the epoch as it ends all of them
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
        return {
            **self._state.get(self._step.logs, self._trained.arrays()),
            "keras": self._natives_to_load or self._at_cut or self._natives.get(self._state.held()),
            "heard": self._heard.get_state(),
            "validations": self._validations.get_state() | {"names": sorted(self._of_validation)},
            KEY: self._flags.state(),
        }

    def load_state(self, state: dict[str, Any], optimizer_settings: str) -> None:
        """At once: what isn't built yet is built first."""
        with unchanged_errors(), self._flags.built_as(state.get(KEY, {})):
            self._step.logs = self._state.load(state, optimizer_settings)
        self._validations.set_state(state["validations"])
        self._of_validation.update(state["validations"]["names"])
        self._natives_to_load, self._resumed = state["keras"], state
        self._heard_before = state.get("heard", {})  # an earlier version has none
        if self._draws is not None and _is_of_native_run(state):
            self._draws.go_on_after_native(state["run"]["completed_epochs"])

    def holders(self) -> Iterator[Holder]:
        """The model and its layers, and data that ``fit`` draws; what Keras's callbacks have changed is kept."""
        yield from holders_of_layers(self._model)
        if self._draws is not None:
            yield holder_of_data(self._draws.dataset)

    def learning_rates(self) -> dict[str, float]:
        """That of the optimizer now, by its schedule if it has one; none of a model that has no optimizer."""
        return {} if self._model.optimizer is None else {"optimizer": host.learning_rate(self._model)}

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
        batch = (
            host.shown(given)
            if self._draws is not None
            else as_fit_batch(given, Step.is_native, self._options.class_weight)
        )
        self._state.see(batch)
        return batch

    def _build_chunks(self, first: Any) -> None:
        """Create what a step of chunks needs; ``fit`` on TensorFlow builds nothing before its own step."""
        self._model._symbolic_build(data_batch=first)
        self._step.build_chunks()

    def _publish_batch(self, run: Run) -> None:
        self._state.go_on()
        output = self._step.latest.step_output
        assert output is not None
        loss = output.loss
        run.on_metrics_logged("training.epoch", flat(self._step.logs))
        run.on_metrics_logged("training.batch", loss if isinstance(loss, Mapping) else {"loss": loss})

    def _publish_epoch(self, run: Run, logs: Mapping[str, Any]) -> None:
        of_validation = {name: value for name, value in logs.items() if self._is_of_validation(name)}
        of_training = {name: value for name, value in logs.items() if name not in of_validation}
        self._of_validation.update(of_validation)
        run.on_metrics_logged("training.epoch", of_training)
        if of_validation:
            without = {name.removeprefix(_VALIDATION): value for name, value in of_validation.items()}
            run.on_metrics_logged("validation.dataset", without)

    def _is_of_validation(self, name: str) -> bool:
        return name.startswith(_VALIDATION) and self._validation.is_done(self._options)

    def _cut_short(self) -> bool:
        """As in an ordinary run: Keras's own callbacks hear of it only where it was one of them that stopped."""
        self._at_cut = self._natives.get(self._state.held())
        return not self._is_stopped

    def _load_natives(self) -> None:
        """All have heard that training starts, and may have begun anew: what the run that is resumed goes on with."""
        whole, self._resumed = self._resumed, None
        if whole is not None:
            self._state.give_back(whole)
        self._flags.note()
        if whole is not None:
            self._flags.give_back(whole.get(KEY, {}))
        if not self._model.run_eagerly:
            self._step.first = self._flags.as_traced
        state, self._natives_to_load = self._natives_to_load, None
        held = self._state.held()
        if held.untold:
            warn_of_untold(held, "the model")
        self._natives.training_started(state, held, whole is not None and _is_of_native_run(whole))


def _is_of_native_run(state: Mapping[str, Any]) -> bool:
    """Whether `as_native` has made it, in a ``fit`` of a script's own."""
    return bool(state["processes"][0]["data"]["read_as"] == DataOfHost.__name__)


def _no_batches() -> DatasetError:
    return DatasetError(
        "The training dataset gave no batches, so that the model can't be built. If it is an iterator, it can be read "
        "only once."
    )
