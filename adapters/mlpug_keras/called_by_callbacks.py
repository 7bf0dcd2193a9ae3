"""What a callback of Keras calls at its ``self.model``, done by the user's own model in a run of a training model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mlpug.errors import ConfigurationError

_COMPILED = ("evaluate", "test_on_batch")


def component_for(called: str, saved: Any, component_names: Sequence[str]) -> Any:
    """The one model component, if it can do what is called.

    Args:
        called: the name of a method, such as ``"predict"``, or ``"__call__"``.
        saved: the one component; anything else where there isn't one.
        component_names: of the trainer's model components.

    Raises:
        ConfigurationError: there is none, or there are several, or it can't; and what to call instead.
    """
    asked = "self.model(...)" if called == "__call__" else f"self.model.{called}(...)"
    if len(component_names) != 1:
        names = ", ".join(component_names)
        there_are = f"there are several model components ({names})" if names else "there are no model components"
        raise ConfigurationError(
            f"{asked} in a callback of Keras works on the model component of the trainer, and {there_are}. Call the "
            f"model that you mean: an attribute of self.model.training_model, or one that the callback is given."
        )
    name = type(saved).__name__
    if called != "__call__" and not isinstance(saved, keras.Model):
        raise ConfigurationError(
            f"{asked} needs a keras.Model, and the model component is a {name}: make it a keras.Model, or call "
            "self.model(x), which works on any layer."
        )
    if called in _COMPILED and not saved.compiled:
        raise ConfigurationError(
            f"{asked} needs a compiled model, and the model component, a {name}, isn't compiled: call "
            "compile(loss=..., metrics=...) on it, or let mlp.callbacks.TestMetricsLogger evaluate."
        )
    return saved


def refuse_training() -> None:
    """Refuse a batch that a callback wants to train on: it would be another step than those that mlpug counts.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        "self.model.train_on_batch(...) in a callback of Keras can't train a training model, whose step is mlpug's. "
        "Let the training dataset give that batch, or train a compiled model by DefaultTrainer.from_keras(model)."
    )
