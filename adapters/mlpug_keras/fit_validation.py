"""Validation data of a model's ``fit``, which a resumed run goes on to read as it would have been read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlpug.datasets.generators import OwnGenerators, restore_with_states, with_states
from mlpug.errors import MlpugWarning
from mlpug_keras.epoch_hooks import EpochHooks
from mlpug_keras.epoch_iterators import ObservedIterator
from mlpug_keras.fit_data import FitOptions, is_tf_dataset, leaves_batches_over


@dataclass(frozen=True, slots=True)
class Validation:
    """What ``fit`` is told about validation data."""

    validation_data: Any = None
    validation_steps: int | None = None
    validation_batch_size: int | None = None
    validation_freq: Any = 1  # every so many epochs, or the epochs, counted from 1

    def arguments(self) -> dict[str, Any]:
        """What ``fit`` is called with."""
        return {name: getattr(self, name) for name in self.__slots__}

    def is_done(self, options: FitOptions) -> bool:
        """Whether ``fit`` has data to validate."""
        return self.validation_data is not None or bool(options.validation_split)


class Validations:
    """Those that were done: what shuffles the data goes on from one to the next.

    Args:
        told: what ``fit`` is told.
    """

    def __init__(self, told: Validation) -> None:
        self._data = told.validation_data
        self._own = OwnGenerators(self._data, whose="validation data")
        self._steps = told.validation_steps
        self._hooks = EpochHooks(self._data, begins_with_reset=False)
        self._count = 0
        self._made = 0  # iterators of the data
        self._observed: Any = None
        self._before: Any = None  # the random states before a resumed run looks at the data once more

    def warn_if_not_rewindable(self) -> None:
        """Warn where a resumed run can't validate on the same batches."""
        if self._steps is not None and leaves_batches_over(self._data, self._steps):
            warnings.warn(
                f"The workers of the validation data, a {type(self._data).__name__}, load more batches than the "
                f"{self._steps} of a validation, and Keras begins the next one with those: a resumed run validates on "
                "other batches than this one would have. Leave out validation_steps, or give the dataset workers=1.",
                MlpugWarning,
                stacklevel=2,
            )

    def begin(self) -> None:
        """The next one begins: ``fit`` is about to look at what the data is like, which it does once in a run."""
        if self._before is not None:
            self._before = with_states(self._own)
        self._count += 1

    def observe(self, epoch_iterator: Any) -> None:
        """Note from now on what Keras's `EpochIterator` draws; it has looked, and is shown at each validation."""
        if epoch_iterator is self._observed:
            return
        self._observed = epoch_iterator
        ObservedIterator(epoch_iterator, _nothing, self._iterator_made, self._hooks)
        if self._before is not None:
            restore_with_states(self._before, self._own)
            self._before = None

    def get_state(self) -> dict[str, Any]:
        """How many were done, and the states of the data's own random generators."""
        return {
            "count": self._count,
            "made": self._made,
            "hooks": self._hooks.state(is_within=False),
            "generators": self._own.states(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._count, self._made = state["count"], state["made"]
        self._before = {} if self._count else None
        self._hooks.set_state(state["hooks"])
        if len(self._own.states()) == len(state["generators"]):  # else it is other data, which begins anew
            self._own.set_states(state["generators"])
        for _ in range(self._made if is_tf_dataset(self._data) else 0):
            iter(self._data)

    def _iterator_made(self) -> None:
        self._made += 1


def _nothing() -> None:
    """Nothing is to be noted."""
