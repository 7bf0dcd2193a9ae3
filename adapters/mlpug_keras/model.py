"""The keras.Model that ``fit`` trains: it wraps the user's training model, and does the step its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from mlpug.adapter import Clipping, StepOutput
from mlpug.step_output import checked_results
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug_keras.called_by_callbacks import component_for, refuse_training
from mlpug_keras.native_callbacks import RunningLoss


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
        keeps_states: whether the run may be resumed.

    Args:
        training_model: the user's.
        saved: what is saved where a callback of Keras saves "the model".
        component_names: of the trainer's model components.
    """

    def __init__(self, training_model: keras.Model, saved: Any, component_names: Sequence[str]) -> None:
        super().__init__()
        self.training_model = training_model
        self._saved = _Untracked(saved)
        self._component_names = tuple(component_names)
        self._mode = _Mode()
        self.built = True
        self.latest = Latest()
        self.step: Any = None
        self.evaluate_settings: Callable[[], Any] = lambda: None
        self.on_non_finite: Callable[[StepOutput], None] | None = None
        self.clipping: Clipping | None = None
        self.has_chunks = False
        self.keeps_states = False

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

        begin_losses(self.training_model)
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
        elif latest.running_loss is not None:
            latest.running_loss.add(output)
        return {}  # Keras would make Python numbers of these at each batch

    def __setattr__(self, name: str, value: Any) -> None:
        # fit leaves a state here at each batch on JAX. It is empty, and to track what is in it takes 20 µs.
        if name != "_jax_state":
            super().__setattr__(name, value)

    @property
    def saved(self) -> Any:
        """What is used after training: the one model component, or the training model where there are several."""
        return self._saved.layer

    def save(self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **options: Any) -> None:
        """Save what is used after training, and not this wrapper of it."""
        self._ready_to_be_saved().save(filepath, overwrite=overwrite, zipped=zipped, **options)

    def save_weights(self, filepath: Any, overwrite: bool = True, **options: Any) -> None:
        """Save its weights."""
        self._ready_to_be_saved().save_weights(filepath, overwrite=overwrite, **options)

    def load_weights(self, filepath: Any, **options: Any) -> None:
        """Load its weights."""
        self._ready_to_be_saved().load_weights(filepath, **options)

    def _ready_to_be_saved(self) -> Any:
        if self.saved is self.training_model:
            self.training_model.built = True  # its layers are; only by its own `__call__` would Keras have noticed
        return self.saved

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What a callback means by ``self.model(x)``: the model that is used after training."""
        return self._component_for("__call__")(*given, **named)

    def predict(self, *given: Any, **named: Any) -> Any:
        """That of the model component."""
        return self._component_for("predict").predict(*given, **named)

    def predict_on_batch(self, *given: Any, **named: Any) -> Any:
        """That of the model component."""
        return self._component_for("predict_on_batch").predict_on_batch(*given, **named)

    def evaluate(self, *given: Any, **named: Any) -> Any:
        """That of the model component, which must be compiled for it."""
        return self._component_for("evaluate").evaluate(*given, **named)

    def test_on_batch(self, *given: Any, **named: Any) -> Any:
        """That of the model component, which must be compiled for it."""
        return self._component_for("test_on_batch").test_on_batch(*given, **named)

    def train_on_batch(self, *_: Any, **__: Any) -> Any:
        """Refused: it would be one more step, of the batch that was trained on last."""
        refuse_training()

    def _component_for(self, called: str) -> Any:
        return component_for(called, self.saved, self._component_names)

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

    __slots__ = ("batch", "chunks", "did_update", "is_updating", "running_loss", "step_output")

    def __init__(self) -> None:
        self.batch: Any = None
        self.chunks: list[Any] = []  # of the batch
        self.step_output: StepOutput | None = None
        self.did_update = False
        self.is_updating = False  # an error at this moment leaves weights that are half updated
        self.running_loss: RunningLoss | None = None  # None where no callback of Keras's own listens


class _Untracked:
    """Holds a layer without making it one of the model's once more."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer


def begin_losses(model: keras.layers.Layer) -> None:
    """Let ``losses`` of the model, and of each layer in it, be those of the call that follows, and of no earlier one.

    Keras itself does so at a ``__call__`` that is within no other: none of the training model's layers is called so.
    """
    if in_stateless_scope():
        get_stateless_scope().collect_losses = True  # those of activity regularizers, and of add_loss
    model._clear_losses()
