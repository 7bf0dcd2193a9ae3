"""The train function of a ``fit`` that somebody else calls, as it is, with what each step gave told to listeners."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import keras

from mlpug.errors import MlpugWarning
from mlpug_keras.batch_loss import BatchLoss, taken_from
from mlpug_keras.compiled_model import own_train_function, patched

Told = tuple[dict[str, Any], Any, Any, bool]  # what `taken_from` gives


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of each step."""

    on_data: Callable[[Any], None]  # gets the batch while a step is traced: its arrays have shapes and dtypes
    on_step: Callable[[Told], None]  # gets what it gave
    on_trained: Callable[[], None]  # the model can be asked for its state now
    on_error: Callable[[BaseException], None]  # gets what the step raised, before it is raised
    keeps_states: bool  # whether a run may go on from what it saves


class HeardFunction:
    """A model's train function that does its step as before, and tells listeners what it gave.

    Args:
        model: whose function it is, which is restored when nobody listens any more.
        host: what differs between TensorFlow and JAX.

    Attributes:
        listeners: in the order in which they hear of a step.
    """

    def __init__(self, model: keras.Model, host: Any) -> None:
        self._model = model
        self._host = host
        self._kept = model.train_function
        self.listeners: list[Listener] = []
        own = own_train_function(model)
        self._native = self._telling() if own is None else own
        if own is not None:
            warnings.warn(
                f"model.train_function is {own!r}, which isn't made by the model: as_native leaves it as it is, and "
                "knows no batch's own loss, but only the mean over the epoch so far, which fit shows. For the loss of "
                "each batch, change train_step instead.",
                MlpugWarning,
                stacklevel=2,
            )
        model.train_function = self

    def _telling(self) -> Any:
        """The function as the model makes it, of a step that tells its loss."""
        model, host = self._model, self._host
        telling = host.telling_loss(
            model,
            lambda usable: BatchLoss(model, usable, counts_whole_batch=False),
            lambda: any(listener.keeps_states for listener in self.listeners),
        )

        def step(*arguments: Any) -> Any:
            for listener in self.listeners:
                listener.on_data(arguments[-1])
            return telling(*arguments)

        model.train_function = None  # as ``fit`` finds it the first time: a model's own method may take no arguments
        with patched(model, train_step=step):
            model.make_train_function()
        return model.train_function

    def __call__(self, *arguments: Any) -> Any:
        """Train on the next batch; the same arguments and result as Keras's own function."""
        if _is_of_train_on_batch(arguments[-1]):
            return self._host.with_logs(self._native(*arguments), lambda logs: _told(logs)[0] if logs else logs)
        try:
            result = self._host.with_logs(self._native(*arguments), self._tell)
        except self._host.END_OF_DATA:
            raise
        except BaseException as error:
            for listener in self.listeners:
                listener.on_error(error)
            raise
        self._host.show_state(self._model, result)
        for listener in self.listeners:
            listener.on_trained()
        return result

    def leave(self, listener: Listener) -> None:
        """Tell this listener no more."""
        self.listeners.remove(listener)
        if not self.listeners and self._model.train_function is self:
            self._model.train_function = self._kept

    def _tell(self, logs: Any) -> Any:
        told = _told(logs)
        for listener in self.listeners:
            listener.on_step(told)
        return told[0] if isinstance(logs, Mapping) else logs


def heard_function(model: keras.Model, host: Any) -> HeardFunction:
    """The one that the model has for this ``fit``; it is made where nobody listens yet."""
    function = model.train_function
    return function if isinstance(function, HeardFunction) else HeardFunction(model, host)


def _is_of_train_on_batch(iterator: Any) -> bool:
    """Whether it comes from a callback's own ``model.train_on_batch``: that is no batch of this ``fit``."""
    return isinstance(iterator, GeneratorType) and "train_on_batch" in iterator.__qualname__


def _told(logs: Any) -> Told:
    """A model's own train function may give no logs."""
    return taken_from(logs if isinstance(logs, Mapping) else {})
