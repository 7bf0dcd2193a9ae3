"""Validation data of a model's ``fit``, which a resumed run goes on to read as it would have been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from mlpug.datasets import random_states
from mlpug_keras.fit_step import host


@dataclass(frozen=True, slots=True)
class Validation:
    """What ``fit`` is told about validation data."""

    validation_data: Any = None
    validation_steps: int | None = None
    validation_batch_size: int | None = None
    validation_freq: Any = 1  # every so many epochs, or the epochs, counted from 1


class Validations:
    """Those that were done: what shuffles the data goes on from one to the next.

    Args:
        told: what ``fit`` is told.
        batch_size: of training data, which is that of validation data where it is told no other.
    """

    def __init__(self, told: Validation, batch_size: int | None) -> None:
        self._data = told.validation_data
        self._steps = told.validation_steps
        self._batch_size = told.validation_batch_size or batch_size
        self._count = 0
        self._has_looked = True  # at what batches are like, which is done once in a run, and may draw

    def begin(self, model: keras.Model) -> None:
        """The next one begins."""
        if not self._has_looked:
            self._has_looked = True
            before = random_states.with_generators(self._data)
            host.look_at_validation_data(model, self._data, self._steps, self._batch_size)
            random_states.restore_with_generators(before, self._data)
        self._count += 1

    def get_state(self) -> dict[str, Any]:
        """How many were done, and the states of the data's own random generators."""
        own = random_states.generators_of(self._data)
        return {"count": self._count, "generators": [random_states.generator_state(each) for each in own]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._count = state["count"]
        self._has_looked = not self._count
        own = random_states.generators_of(self._data)
        if len(own) == len(state["generators"]):  # else it is other data, which begins anew
            random_states.set_generator_states(own, state["generators"])
        for _ in range(self._count * host.iterators_of_validation(self._data, self._steps)):
            iter(self._data)
