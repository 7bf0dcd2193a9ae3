"""mlpug's adapter for Keras 3."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras

from mlpug.adapter import DataOptions, Holder, Process, Run, StepOutput
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.model_checkpoint import check_is_whole
from mlpug.optimizer_settings import CHECKPOINT
from mlpug.step_output import counted
from mlpug.stop_iteration import unwrapped
from mlpug_keras.batches import to_host
from mlpug_keras.bridge import Callbacks, Feed, Placeholders
from mlpug_keras.components import component_state
from mlpug_keras.devices import check_no_scope, check_one_device
from mlpug_keras.held_variables import HeldVariables, arrays_of, assign, warn_of_untold
from mlpug_keras.holders import holders_of_layers
from mlpug_keras.host import unchanged_errors
from mlpug_keras.model import TrainingModel
from mlpug_keras.native_callbacks import (
    RunningLoss,
    check_can_save,
    check_native,
    is_native,
    monitored_besides,
    settle_modes,
)
from mlpug_keras.optimizers import Optimizers
from mlpug_keras.precision import computes_in_float16, set_precision
from mlpug_keras.settings import ScriptSettings
from mlpug_keras.signature import accepted
from mlpug_keras.state import (
    NativeState,
    check_optimizers,
    held_variables,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)
from mlpug_keras.trained_flags import KEY, TrainedFlags
from mlpug_keras.trained_weights import TrainedWeights
from mlpug_keras.training_model import checked_training_model


class KerasAdapter:
    """Trains with Keras's ``fit``.

    Args:
        optimizers: by name.
        model_components: by name.
        step: the class of the backend's step.
        eager: whether steps run without being compiled.
        compile_kwargs: for the backend's compiler.
        signature: what a batch must be like, or None.
        trainable_variables: what each optimizer trains, where there are several.
        precision: one of mlpug's words; None: as the model was made.
    """

    def __init__(
        self,
        optimizers: Mapping[str, Any],
        model_components: Mapping[str, Any],
        step: type[Any],
        eager: bool,
        compile_kwargs: Mapping[str, Any],
        signature: Any,
        trainable_variables: Mapping[str, Any] | None = None,
        precision: str | None = None,
    ) -> None:
        self._optimizers = Optimizers(optimizers, trainable_variables)
        self._model_components = dict(model_components)
        self._step = step
        self._eager = eager
        self._compile_kwargs = compile_kwargs
        self._signature = signature
        self._precision = precision
        self._accept = partial(accepted, is_native=step.is_native, signature=signature)
        self._model: Any = None
        self._natives = NativeState()
        self._trained = TrainedWeights()
        self._flags = TrainedFlags(self._parts)
        self._weights_to_load: dict[str, Any] | None = None
        self._natives_to_load: dict[str, Any] | None = None
        self._script = ScriptSettings({})
        self._optimizer_settings = CHECKPOINT  # whose, of a resumed run
        self._resumed: dict[str, Any] | None = None  # the whole state, until training has started
        self._is_stopped = False  # by `stop`, and not by one of Keras's callbacks
        self._at_cut: dict[str, Any] | None = None  # the state of Keras's callbacks where an epoch was cut short
        self._check_devices([*optimizers.values(), *_layers(model_components.values())])

    @staticmethod
    def _check_devices(parts: list[Any]) -> None:
        check_one_device("DefaultTrainer", parts)
        check_no_scope("DefaultTrainer")

    @property
    def backend(self) -> str:
        """What checkpoints say: weights can go from one backend of Keras to another."""
        return "keras"

    @property
    def process(self) -> Process:
        """There is one."""
        return Process(rank=0, world_size=1)

    @property
    def native(self) -> Any:
        """The `keras.Model` that ``fit`` trains; None before a training model is set."""
        return self._model

    def set_training_model(self, training_model: Any) -> None:
        """Take a Keras model or layer."""
        self._check_devices(_layers([training_model]))
        components = list(self._model_components.values())
        model = TrainingModel(
            checked_training_model(training_model, self._model_components),
            saved=components[0] if len(components) == 1 else training_model,
            component_names=list(self._model_components),
        )
        if self._precision is not None:
            set_precision(training_model, self._precision, dict(self._optimizers.items()))
        if computes_in_float16(training_model):
            self._optimizers.scale_losses()
        model.step = self._step(model, self._optimizers, self._eager, self._compile_kwargs, self._signature)
        model.step.tracing = self._flags.as_traced
        if _is_built(model):
            self._optimizers.build(model)
        (_, first), *_ = self._optimizers.items()  # Keras's own callbacks find one at the model
        model.compile(optimizer=first, run_eagerly=self._eager)
        self._model = model

    def as_dataset(self, given: Any, options: DataOptions) -> Any:
        """Anything that can be iterated."""
        return given

    def fit(self, run: Run) -> None:
        """Let Keras train."""
        self._check_devices([])  # since the trainer was made
        model = self._model
        natives = [listener for listener in run.listeners if is_native(listener)]
        check_can_save(natives, model.saved)
        settle_modes(natives)
        model.latest.running_loss = RunningLoss(self.to_host) if natives else None
        feed = Feed(
            model,
            model.latest,
            run,
            self._accept,
            self._step.concatenate,
            lambda chunk: self._build(chunk, run.evaluate_settings()),
        )
        callbacks = Callbacks(model, model.latest, run, feed, self._load_natives, self._cut_short)
        self._is_stopped, self._at_cut = False, None
        if self._natives_to_load is None:
            self._script = ScriptSettings(dict(self._optimizers.items()))
        self._natives.begin(run.listeners)
        model.evaluate_settings = run.evaluate_settings
        model.on_non_finite = run.on_non_finite
        model.clipping = run.clipping
        model.has_chunks = run.chunks_of is not None
        keeper: Any = run.dataset
        model.keeps_states = getattr(keeper, "keeps_states", False)
        trained = self._trained.noted(model.optimizer, run.listeners)
        with unwrapped(), unchanged_errors(), warnings.catch_warnings(), trained:
            warnings.filterwarnings("ignore", "Your input ran out of data")  # how an epoch ends here
            if _is_built(model):
                self._build(None, None)
            else:  # by the first batch, because Keras's own callbacks may look at the variables when training starts
                feed.fetch_first()
            model.fit(
                x=Placeholders(),
                epochs=run.num_epochs,
                initial_epoch=run.first_epoch,
                steps_per_epoch=run.num_batches_per_epoch,
                callbacks=callbacks,
                verbose=0,
            )

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
        self._is_stopped = True
        if self._model is not None:
            self._model.stop_training = True

    def evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        """Call the training model on one batch in inference mode."""
        step = self._model.step
        batch = self._accept(batch)
        with unwrapped(), unchanged_errors():
            self._build(batch, evaluate_settings)
            loss, num_samples, auxiliary_results = step.evaluate(batch, evaluate_settings)
        return StepOutput(loss, counted(num_samples, batch), auxiliary_results)

    def to_host(self, tree: Any) -> Any:
        """Tensors as numpy arrays and numbers."""
        return to_host(tree, self._step.is_native, self._step.read)

    def gather(self, tree: Any) -> list[Any]:
        """There is one process."""
        return [tree]

    def model_state(self) -> dict[str, dict[str, Any]]:
        """The weights of each component."""
        return {name: component_state(part) for name, part in self._model_components.items()}

    def state(self) -> dict[str, Any]:
        """Weights and seeds, the optimizer, and what Keras's own callbacks remember."""
        check_is_whole(self._model.latest.is_updating)
        instead = self._trained.arrays()
        optimizers = {
            name: self._script.added_to(optimizer_state(optimizer, instead), name, optimizer)
            for name, optimizer in self._optimizers.items()
        }
        weights = model_state(self._model.training_model, self._model_components, instead)
        natives = self._natives_to_load or self._at_cut or self._native_state()
        held = arrays_of(self._held().all())
        flags = {KEY: self._flags.state()}
        return {**weights, "optimizers": optimizers, "held": held, "keras": natives, **flags}

    def _parts(self) -> dict[str, Any]:
        return {**self._model_components, "": self._model.training_model}

    def _native_state(self) -> dict[str, Any]:
        running_loss = self._model.latest.running_loss
        loss = None if running_loss is None else running_loss.get_state()
        return {**self._natives.get(self._held()), "running_loss": loss}

    def _cut_short(self) -> bool:
        """A stop ends an epoch before its last batch: a resumed run will go on from here, and tell its end then.

        Keras's own callbacks take it for the end of a whole epoch, and may miss the metrics of one. They hear of it
        only where it was one of them that stopped, as they would without mlpug.
        """
        self._at_cut = self._native_state()
        return not self._is_stopped

    def load_state(self, state: dict[str, Any], optimizer_settings: str) -> None:
        """At once where everything is built; else when the first batch has built it."""
        self._script = ScriptSettings(dict(self._optimizers.items()))
        self._optimizer_settings = optimizer_settings
        self._weights_to_load = self._resumed = state
        self._natives_to_load = state["keras"]
        model = self._model
        if _is_built(model):
            self._optimizers.build(model)
            self._load_weights()

    def holders(self) -> Iterator[Holder]:
        """The training model, the components and their layers; what Keras's callbacks have changed is kept."""
        return holders_of_layers(self._model.training_model, *self._model_components.values())

    def learning_rates(self) -> dict[str, float]:
        """That of each optimizer now, by its schedule if it has one."""
        return {name: float(optimizer.learning_rate) for name, optimizer in self._optimizers.items()}

    def set_learning_rate(self, optimizer_name: str, value: float) -> None:
        """Assign it; an optimizer that has a schedule of its own refuses."""
        try:
            self._optimizers[optimizer_name].learning_rate = value
        except (TypeError, AttributeError) as error:  # the second where it is a function
            raise ConfigurationError(
                f"The optimizer {optimizer_name!r} has a schedule of its own, which sets its learning rate. Give the "
                "optimizer a number, or leave the other schedule out."
            ) from error

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a callback of Keras 3."""
        if not is_native(candidate):
            return False
        check_native(candidate)
        return True

    def native_metrics(self, callbacks: Sequence[Any]) -> set[str] | None:
        """Keras's own loss, and the learning rate where a callback writes it."""
        return monitored_besides(callbacks)

    def _build(self, batch: Any, settings: Any) -> None:
        """Create the variables of the layers and the optimizer, where they aren't there yet."""
        model = self._model
        if not self._optimizers.is_built:
            if not _is_built(model):
                model.step.build(batch, settings)
            self._optimizers.build(model)
        self._load_weights()

    def _load_weights(self) -> None:
        """Those of a resumed run, once there are variables for them."""
        if self._weights_to_load is None:
            return
        state, self._weights_to_load = self._weights_to_load, None
        check_optimizers(dict(self._optimizers.items()), state["optimizers"])
        self._give_back(state)

    def _give_back(self, state: dict[str, Any]) -> None:
        load_model_state(self._model.training_model, self._model_components, state)
        for name, optimizer in self._optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"][name])
        self._script.load(dict(self._optimizers.items()), state["optimizers"], self._optimizer_settings)
        assign(self._held().all(), state.get("held", {}), "the training model")

    def _held(self) -> HeldVariables:
        """What the training model and the components hold besides their weights, seeds and metrics."""
        optimizers = [optimizer for _, optimizer in self._optimizers.items()]
        return held_variables({"": self._model.training_model, **self._model_components}, optimizers)

    def _load_natives(self) -> None:
        """All have heard that training starts, and may have begun anew: what the run that is resumed goes on with."""
        whole, self._resumed = self._resumed, None
        if whole is not None and self._weights_to_load is None:  # else the first batch will build the model for them
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MlpugWarning)  # which was said when it was loaded
                self._give_back(whole)
        self._flags.note()
        if whole is not None:
            self._flags.give_back(whole.get(KEY, {}))
        state, self._natives_to_load = self._natives_to_load, None
        held = self._held()
        if held.untold:
            warn_of_untold(held, "the training model")
        self._natives.training_started(state, held)
        if state is not None:
            running_loss, sums = self._model.latest.running_loss, state.get("running_loss")
            if running_loss is not None and sums is not None:
                running_loss.set_state(sums)


def _layers(parts: Iterable[Any]) -> list[Any]:
    """Those that have weights; what else was given is looked at elsewhere."""
    return [part for part in parts if isinstance(part, keras.layers.Layer)]


def _is_built(model: TrainingModel) -> bool:
    """Whether all layers inside the training model have their variables."""
    return all(layer.built for layer in model.training_model._flatten_layers(include_self=False))
