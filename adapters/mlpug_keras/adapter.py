"""mlpug's adapter for Keras 3."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import keras

from mlpug.adapter import Process, Run, StepOutput
from mlpug.errors import ConfigurationError
from mlpug.step_output import counted
from mlpug.stop_iteration import unwrapped
from mlpug_keras.batches import to_host
from mlpug_keras.bridge import Callbacks, Feed, Placeholders
from mlpug_keras.host import unchanged_errors
from mlpug_keras.model import TrainingModel, checked_training_model
from mlpug_keras.signature import accepted


class KerasAdapter:
    """Trains with Keras's ``fit``.

    Args:
        optimizers: by name; one.
        model_components: by name.
        step: the class of the backend's step.
        eager: whether steps run without being compiled.
        compile_kwargs: for the backend's compiler.
        signature: what a batch must be like, or None.
    """

    def __init__(
        self,
        optimizers: Mapping[str, Any],
        model_components: Mapping[str, Any],
        step: type[Any],
        eager: bool,
        compile_kwargs: Mapping[str, Any],
        signature: Any,
    ) -> None:
        self._name, self._optimizer = _the_optimizer(optimizers)
        self._model_components = dict(model_components)
        self._step = step
        self._eager = eager
        self._compile_kwargs = compile_kwargs
        self._signature = signature
        self._accept = partial(accepted, is_native=step.is_native, signature=signature)
        self._model: Any = None

    @property
    def process(self) -> Process:
        """There is one."""
        return Process(rank=0, world_size=1)

    def set_training_model(self, training_model: Any) -> None:
        """Take a Keras model or layer."""
        model = TrainingModel(checked_training_model(training_model, self._model_components))
        model.step = self._step(model, self._optimizer, self._eager, self._compile_kwargs, self._signature)
        if _is_built(model):
            self._check_parameters(model)
        model.compile(optimizer=self._optimizer, run_eagerly=self._eager)
        self._model = model

    def fit(self, run: Run) -> None:
        """Let Keras train."""
        model = self._model
        feed = Feed(model, run, self._accept)
        callbacks = Callbacks(model, run, feed)
        model.evaluate_settings = run.evaluate_settings
        model.has_native_callbacks = any(isinstance(listener, keras.callbacks.Callback) for listener in run.listeners)
        with unwrapped(), unchanged_errors(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your input ran out of data")  # how an epoch ends here
            for batch in feed.peek():
                self._build(batch, run.evaluate_settings())
            model.fit(
                x=Placeholders(),
                epochs=run.num_epochs,
                steps_per_epoch=run.num_batches_per_epoch,
                callbacks=callbacks,
                verbose=0,
            )

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
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

    def learning_rates(self) -> dict[str, float]:
        """That of the optimizer now, by its schedule if it has one."""
        return {self._name: float(self._optimizer.learning_rate)}

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a callback of Keras 3."""
        return isinstance(candidate, keras.callbacks.Callback)

    def _build(self, batch: Any, settings: Any) -> None:
        """Create the variables of the layers and the optimizer, where they aren't there yet."""
        if self._optimizer.built:
            return
        model = self._model
        if not _is_built(model):
            model.step.build(batch, settings)
        self._check_parameters(model)
        self._optimizer.build(model.trainable_variables)

    def _check_parameters(self, model: TrainingModel) -> None:
        if not model.trainable_variables:
            raise ConfigurationError(
                f"The optimizer {self._name!r} has no parameters: the training model has no trainable variables. Make "
                "the model that you train an attribute of the training model, and don't freeze all of it."
            )


def _is_built(model: TrainingModel) -> bool:
    """Whether all layers inside the training model have their variables."""
    return all(layer.built for layer in model.training_model._flatten_layers(include_self=False))


def _the_optimizer(optimizers: Mapping[str, Any]) -> tuple[str, Any]:
    if len(optimizers) != 1:
        raise ConfigurationError(f"On Keras there is one optimizer, not {len(optimizers)}: {', '.join(optimizers)}.")
    ((name, optimizer),) = optimizers.items()
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ConfigurationError(
            f"The optimizer {name!r} must be a keras.optimizers.Optimizer of Keras 3, not {optimizer!r}."
        )
    return name, optimizer
