"""The keras.Model that ``fit`` trains: it wraps the user's training model, and does the step its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from mlpug.adapter import Clipping, StepOutput
from mlpug.errors import ConfigurationError
from mlpug.step_output import checked_results
from mlpug.stop_iteration import EscapedStopIterationError


class _Mode(keras.layers.Layer):
    """Calls something in training or inference mode: every layer inside follows, whatever is passed on to it."""

    def __init__(self) -> None:
        super().__init__(name="mode")
        self.built = True

    def call(self, run: Callable[[], Any], training: bool | None = None) -> Any:
        return run()


class TrainingModel(keras.Model):
    """What ``fit`` sees of the user's training model.

    The layers' and the optimizer's variables always hold the latest values. Keras's own way on JAX, to carry them from
    step to step and write them back once an epoch, would show callbacks old weights.

    Attributes:
        latest: the batch that is trained on, and what the training model gave for it.
        step: the backend's.
        evaluate_settings: gives those of the next step.
        on_non_finite: what a step calls that changed nothing because its loss or a gradient isn't finite; None: nobody
            looks.
        clipping: what is done to gradients.
        has_chunks: whether batches are computed in parts.
        has_native_callbacks: whether Keras's own callbacks listen.
    """

    def __init__(self, training_model: keras.Model) -> None:
        super().__init__()
        self.training_model = training_model
        self._mode = _Mode()
        self.built = True
        self.latest = Latest()
        self.step: Any = None
        self.evaluate_settings: Callable[[], Any] = lambda: None
        self.on_non_finite: Callable[[StepOutput], None] | None = None
        self.clipping: Clipping | None = None
        self.has_chunks = False
        self.has_native_callbacks = False

    @property
    def kept_variables(self) -> list[Any]:
        """What a step that is left out must not change, beside what the optimizer does: all but random seeds."""
        layers = self._flatten_layers()
        seeds = {id(generator.state) for layer in layers for generator in layer._seed_generators}
        return [variable for variable in self.non_trainable_variables if id(variable) not in seeds]

    def results(self, batch: Any, settings: Any, inference_mode: bool) -> tuple[Any, Any, Any]:
        """(loss, num_samples, auxiliary_results) of the batch, the last two None where they weren't returned."""

        def run() -> Any:
            try:
                # Not by __call__, which refuses what a batch may hold: text beside arrays, say.
                return self.training_model.call(batch, evaluate_settings=settings, inference_mode=inference_mode)
            except StopIteration as error:
                raise EscapedStopIterationError(error) from error

        returned: list[Any] = []
        self._mode(run=lambda: returned.append(run()), training=not inference_mode)
        return checked_results(returned[0])

    def make_train_function(self, force: bool = False) -> None:
        """Keras calls what is set here for each batch, with an iterator of its own, from which nothing is taken."""
        self.train_function = self.step.as_train_function(self._train)

    def _train(self) -> dict[str, Any]:
        latest = self.latest
        if latest.batch is None:
            return {}  # an epoch without batches: Keras has to call this once, all the same
        looks = self.on_non_finite is not None
        output, latest.did_update, is_finite = self.step.train(
            latest.chunks, self.evaluate_settings(), looks, self.clipping
        )
        latest.step_output = output
        if self.on_non_finite is not None and not is_finite:
            self.on_non_finite(latest.step_output)
        # Keras makes Python numbers of these at each batch: only where somebody may look at them.
        return {"loss": _total(output.loss)} if self.has_native_callbacks else {}

    def __setattr__(self, name: str, value: Any) -> None:
        # fit leaves a state here at each batch on JAX. It is empty, and to track what is in it takes 20 µs.
        if name != "_jax_state":
            super().__setattr__(name, value)

    def get_metrics_result(self) -> dict[str, Any]:
        """None of Keras's: mlpug's metrics are in the logs."""
        return {}

    def jax_state_sync(self) -> None:
        """Nothing to write back: the variables hold the latest values."""

    def _get_jax_state(self, **_: Any) -> tuple[None, ...]:
        return None, None, None, None

    def _symbolic_build(self, *_: Any, **__: Any) -> None:
        """Built before `fit`, by a batch."""


class Latest:
    """What changes at each batch; kept off the model, which tracks what is set on it."""

    __slots__ = ("batch", "chunks", "did_update", "is_updating", "step_output")

    def __init__(self) -> None:
        self.batch: Any = None
        self.chunks: list[Any] = []  # of the batch
        self.step_output: StepOutput | None = None
        self.did_update = False
        self.is_updating = False  # an error at this moment leaves weights that are half updated


def checked_training_model(training_model: Any, model_components: dict[str, Any]) -> Any:
    """The training model, if Keras can train it and finds the model components in it."""
    if not isinstance(training_model, keras.layers.Layer):
        raise ConfigurationError(
            "On Keras the training model must be a keras.Model or keras.layers.Layer of Keras 3, "
            f"not {training_model!r}. Its call takes (batch_data, evaluate_settings, inference_mode) and "
            "returns the loss."
        )
    found = {id(layer) for layer in training_model._flatten_layers()}
    for name, component in model_components.items():
        if isinstance(component, keras.layers.Layer) and id(component) not in found:
            raise ConfigurationError(
                f"The model component {name!r} is not part of the training model, so it would not be trained: "
                f"make it an attribute of {type(training_model).__name__}, or leave it out of model_components."
            )
    return training_model


def _total(loss: Any) -> Any:
    """One number for Keras's own callbacks, where each optimizer has a loss of its own."""
    return sum(loss.values()) if isinstance(loss, Mapping) else loss
