"""What Keras can train by mlpug's own step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from mlpug.errors import ConfigurationError
from mlpug.validation import check_training_call, raise_not_callable


def checked_training_model(training_model: Any, model_components: Mapping[str, Any]) -> Any:
    """The training model, if Keras can train it, it is called as mlpug calls it, and it has the model components.

    Raises:
        ConfigurationError: it is something else; where it is a compiled model, with the way to train that.
    """
    if not isinstance(training_model, keras.layers.Layer):
        raise ConfigurationError(
            "On Keras the training model must be a keras.Model or keras.layers.Layer of Keras 3, "
            f"not {training_model!r}. Its call takes (batch_data, evaluate_settings, inference_mode) and "
            "returns the loss."
        )
    _check_call(training_model)
    found = {id(layer) for layer in training_model._flatten_layers()}
    for name, component in model_components.items():
        if isinstance(component, keras.layers.Layer) and id(component) not in found:
            raise ConfigurationError(
                f"The model component {name!r} is not part of the training model, so it would not be trained: "
                f"make it an attribute of {type(training_model).__name__}, or leave it out of model_components."
            )
    return training_model


def _check_call(model: Any) -> None:
    """A model of Keras's own classes takes any arguments, and gives predictions: what it gives tells."""
    name = type(model).__name__
    instead = f"{name} is a compiled keras.Model: to train it as its own fit does, make the trainer by "
    instead = f"{instead}DefaultTrainer.from_keras(model), and leave out set_training_model" * _is_compiled(model)
    written_as = f"{name}.call"
    if _gives_predictions(model):
        raise_not_callable(f"this {name} is made of layers alone, and returns predictions", written_as, instead)
    if "call" not in vars(model) and type(model).call in (keras.Model.call, keras.layers.Layer.call):
        raise_not_callable(f"{name} has no call", written_as, instead)
    check_training_call(model.call, written_as, instead)


def _is_compiled(model: Any) -> bool:
    return isinstance(model, keras.Model) and bool(model.compiled)


def _gives_predictions(model: Any) -> bool:
    """Whether it is a graph of layers of whose outputs none is a scalar, as a loss is."""
    is_graph = type(model).call in (keras.Sequential.call, keras.src.models.Functional.call)
    if not is_graph or "call" in vars(model):
        return False
    if not model.built or not getattr(model, "outputs", None):  # a Sequential that knows no input yet
        return _is_compiled(model) and model.loss is not None
    return all(len(output.shape) > 0 for output in model.outputs)
