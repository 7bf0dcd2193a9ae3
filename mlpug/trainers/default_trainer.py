"""What is trained: the optimizers, the model's components, the training model, and the adapter that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpug.adapter import Adapter, Process
from mlpug.errors import ConfigurationError


class DefaultTrainer:
    """Describes what is trained. Each backend's ``DefaultTrainer`` is this one with its own adapter.

    Args:
        adapter: the backend.
        optimizers: one optimizer, or several by name; one is called ``"optimizer"``.
        model_components: one model, or several by name; one is called ``"model"``. These are what checkpoints hold and
            what is used after training.

    Raises:
        ConfigurationError: there is no optimizer, or a name isn't a string.

    >>> from mlpug.testing import FakeAdapter, GradientDescent, LinearRegression
    >>> model = LinearRegression(num_features=2)
    >>> optimizer = GradientDescent(model.parameters)
    >>> trainer = DefaultTrainer(FakeAdapter({"optimizer": optimizer}), optimizer, model)
    >>> trainer.set_training_model(model)
    >>> list(trainer.optimizers), list(trainer.model_components)
    (['optimizer'], ['model'])
    """

    def __init__(self, adapter: Adapter, optimizers: Any, model_components: Any = None) -> None:
        self.adapter = adapter
        self.optimizers = named(optimizers, "optimizers", "optimizer")
        self.model_components = {} if model_components is None else named(model_components, "model_components", "model")
        self.training_model: Any = None

    @property
    def process(self) -> Process:
        """This process's rank, and the number of processes."""
        return self.adapter.process

    def set_training_model(self, training_model: Any) -> None:
        """Set what computes the loss of a batch.

        Args:
            training_model: called as ``training_model(batch_data, evaluate_settings=..., inference_mode=...)``. It
                returns the loss, or ``(loss, num_samples, auxiliary_results...)``, or a dict with those keys. The loss
                is a scalar, the mean over the batch's samples.

        Raises:
            ConfigurationError: the backend can't train this.
        """
        self.adapter.set_training_model(training_model)
        self.training_model = training_model

    def check_ready(self) -> None:
        """Raise `ConfigurationError` where no training model is set yet."""
        if self.training_model is None:
            raise ConfigurationError(
                "There is no training model: call trainer.set_training_model(train_model) before training "
                "or evaluating."
            )


def named(given: Any, argument: str, default_name: str) -> dict[str, Any]:
    """One object under the default name, or a dict of objects as it is.

    >>> named("Adam", "optimizers", "optimizer")
    {'optimizer': 'Adam'}
    """
    by_name = dict(given) if isinstance(given, Mapping) else {default_name: given}
    if not by_name or None in by_name.values():
        raise ConfigurationError(f"{argument} must be an object or a dict of objects by name, not {given!r}.")
    for name in by_name:
        if not isinstance(name, str):
            raise ConfigurationError(f"The names in {argument} must be strings, not {name!r}.")
    return by_name
