"""A ``fit`` of Keras's tests: natively, by from_keras, or with as_native."""

import functools
import importlib
import inspect
from dataclasses import dataclass
from typing import Any

import keras
from downstream.model_class import as_model
from fit_table.runs import state_of

from mlpug.callbacks import Callback
from mlpug.errors import ConfigurationError

BACKEND = keras.config.backend()
TRAINER = {"jax": "JAXTrainer", "tensorflow": "TensorFlowTrainer"}[BACKEND]
mlp = importlib.import_module(f"mlpug.{BACKEND}")


@dataclass(frozen=True)
class Left:
    """What a ``fit`` has left."""

    error: str | None  # the type of the exception that it raised
    state: dict[str, Any]
    history: dict[str, Any]


class Watches(Callback):
    """Reads all that mlpug's logs say, and does nothing."""

    def on_batch_training_completed(self, batch, logs):
        logs["current"].snapshot()

    def on_epoch_completed(self, logs):
        logs["current"].snapshot()


class Fits:
    """Replaces ``fit`` of all models, in this process, for good.

    Attributes:
        count: how many there were in this test.
        differences: what they left otherwise than was noted.
        refusal: what mlpug said where it refused one.
        works_natively: whether that one ends without an error natively.
    """

    def __init__(self, way, noted):
        self.way, self.noted = way, noted
        self.name, self.count, self.differences, self.refusal, self.works_natively = "", 0, [], None, False
        self._is_inside = False
        trainer = getattr(importlib.import_module(f"keras.src.backend.{BACKEND}.trainer"), TRAINER)
        self._native = trainer.fit
        trainer.fit = self._replacement()

    def begin(self, name):
        """Start with a test."""
        self.name, self.count, self.differences, self.refusal, self.works_natively = name, 0, [], None, False
        if self.way == "natively":
            self.noted[name] = []

    def _replacement(self):
        @functools.wraps(self._native)
        def fit(model, *args, **kwargs):
            if self._is_inside:
                return self._native(model, *args, **kwargs)
            self._is_inside = True
            try:
                return self._watched(model, args, kwargs)
            finally:
                self._is_inside = False

        return fit

    def _watched(self, model, args, kwargs):
        bound = inspect.signature(self._native).bind(model, *args, **kwargs)
        bound.apply_defaults()
        number, self.count = self.count, self.count + 1
        noted = self.noted[self.name]
        try:
            history = getattr(self, f"_{self.way}")(model, dict([*bound.arguments.items()][1:]))
        except Exception as error:
            self._end(number, Left(type(error).__name__, {}, {}))
            if isinstance(error, ConfigurationError):
                self.refusal = str(error)
                self.works_natively = number < len(noted) and noted[number].error is None
            raise
        self._end(number, Left(None, state_of(model), dict(history.history)))
        return history

    def _end(self, number, left):
        noted = self.noted[self.name]
        if self.way == "natively":
            noted.append(left)
        elif number >= len(noted):
            self.differences.append(f"there are only {len(noted)} calls of fit natively")
        elif left.error is None and noted[number].error is None:
            self.differences += [f"after call {number} of fit: {text}" for text in _differences(left, noted[number])]

    def _natively(self, model, given):
        return self._native(model, **given)

    _again = _natively

    def _as_native(self, model, given):
        callbacks, ours = given.pop("callbacks"), mlp.callbacks.as_native(Watches())
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(ours)
            return self._native(model, callbacks=callbacks, **given)
        return self._native(model, callbacks=[*keras.tree.flatten(callbacks or []), ours], **given)

    def _from_keras(self, model, given):
        """What isn't said to either is how it is shown, and from which epoch on: a run goes on by its checkpoints."""
        callbacks = given["callbacks"]
        callbacks = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
        names = ["batch_size", "shuffle", "class_weight", "validation_data", "validation_steps"]
        names += ["validation_batch_size", "validation_freq"]
        split = {"validation_split": given["validation_split"]} if given["validation_split"] else {}
        assert given["initial_epoch"] == 0
        with as_model(model):
            trainer = mlp.trainers.DefaultTrainer.from_keras(model, **{name: given[name] for name in names}, **split)
            manager = mlp.trainers.TrainingManager(
                trainer,
                _data(given["x"], given["y"], given["sample_weight"]),
                num_epochs=given["epochs"],
                num_batches_per_epoch=given["steps_per_epoch"],
                callbacks=keras.tree.flatten(callbacks or []),
            )
            manager.start_training()
        return model.history


def _data(x, y, sample_weight):
    """As from_keras takes it: arrays as a tuple, and what gives batches as it is."""
    if sample_weight is not None:
        return x, y, sample_weight
    if y is not None:
        return x, y
    gives_batches = hasattr(x, "__next__") or (hasattr(x, "__getitem__") and not hasattr(x, "shape"))
    return x if gives_batches or (hasattr(x, "__iter__") and not hasattr(x, "shape")) else (x,)


def _differences(left, noted):
    found = [] if repr(left.history) == repr(noted.history) else [f"the history is {left.history}, not {noted.history}"]
    if len(left.state) != len(noted.state):
        return [*found, f"there are {len(left.state)} variables, not {len(noted.state)}"]
    pairs = zip(left.state.items(), noted.state.values(), strict=True)
    return found + [f"{name} differs" for (name, value), other in pairs if value != other]
