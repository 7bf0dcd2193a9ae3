"""The weights as they were trained, where averages stand in their place.

An optimizer with ``use_ema=True`` keeps averages of the weights, and ``fit`` puts them into the model when it ends.
`keras.callbacks.SwapEMAWeights` exchanges the two for a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

from mlpug_keras.arrays import as_array
from mlpug_keras.compiled_model import patched


class TrainedWeights:
    """Knows what a training checkpoint is to hold of variables that hold something else now."""

    def __init__(self) -> None:
        self._optimizer: Any = None
        self._swapping: list[Any] = []
        self._kept: dict[int, Any] = {}  # by the variable's id

    @contextmanager
    def noted(self, optimizer: Any, listeners: Sequence[Any]) -> Iterator[None]:
        """Within a ``fit`` with this optimizer: the trained weights are noted before averages take their place.

        What was noted stays until the next ``fit``, because the last checkpoint may be written after this one.
        """
        self._optimizer, self._kept = optimizer, {}
        self._swapping = [each for each in listeners if isinstance(each, keras.callbacks.SwapEMAWeights)]
        with ExitStack() as stack:
            for each in averaging(optimizer):
                finalize = partial(self._finalize, each, each.finalize_variable_values)
                stack.enter_context(patched(each, finalize_variable_values=finalize))
            for callback in self._swapping:
                keep = partial(self._keep_average, callback._finalize_ema_values)
                stack.enter_context(patched(callback, _finalize_ema_values=keep))
            yield

    def note(self, optimizer: Any) -> None:
        """In a ``fit`` that somebody else calls: it is about to end."""
        self._optimizer, self._kept = optimizer, {}
        for each in averaging(optimizer):
            self._kept |= _values(each._trainable_variables, each._trainable_variables)

    def arrays(self) -> Mapping[int, Any]:
        """What is to be saved instead of a variable's value, by its id."""
        if self._kept or not any(callback._ema_weights_in_model for callback in self._swapping):
            return self._kept
        swapped: dict[int, Any] = {}
        for each in averaging(self._optimizer):
            weights, averages = each._trainable_variables, each._model_variables_moving_average
            swapped |= _values(weights, averages) | _values(averages, weights)
        return swapped

    def _finalize(self, optimizer: Any, finalize: Callable[..., None], *arguments: Any) -> None:
        if not self._kept:
            self._kept = dict(self.arrays()) or _values(optimizer._trainable_variables, optimizer._trainable_variables)
        finalize(*arguments)

    def _keep_average(self, finalize: Callable[[], None]) -> None:
        """The weights stand where the averages were, and are about to be lost."""
        for each in averaging(self._optimizer):
            self._kept |= _values(each._trainable_variables, each._model_variables_moving_average)
        finalize()


def averaging(optimizer: Any) -> list[Any]:
    """Those that average the weights, of an optimizer and those in it."""
    if optimizer is None:
        return []
    inner = getattr(optimizer, "inner_optimizer", None)
    among = [*getattr(optimizer, "optimizers", ()), *([] if inner is None else [inner])]
    if among:
        return [each for one in among for each in averaging(one)]
    return [optimizer] if getattr(optimizer, "use_ema", False) else []


def _values(variables: Sequence[Any], sources: Sequence[Any]) -> dict[int, Any]:
    """The values of the second for the first, in memory of their own."""
    pairs = zip(variables, sources, strict=False)
    return {id(variable): np.array(as_array(source)) for variable, source in pairs}
