"""A validation that an error ended begins again in a resumed run, with the random numbers that it had."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from mlpug.datasets import random_states
from mlpug_lightning.host import before_validating, pl


class BeforeValidation:
    """Notes the random state before each validation of an epoch, and gives it back to one that begins again.

    Lightning tells no callback there: its loaders draw before those hear of it.

    Args:
        trainer: Lightning's.
        data: of the run.
    """

    def __init__(self, trainer: pl.Trainer, data: Any) -> None:
        self._trainer = trainer
        self._data = data
        self._noted: Any = None
        self._to_restore: Any = None

    def forget(self) -> None:
        """A batch is asked for: no validation is under way, and none of the batch before is due."""
        if self._noted is not None and self._data is not None:
            self._data.validation.validation_ended()
        self._noted = self._to_restore = None

    def state(self) -> Any:
        """Of a validation that is under way; else None."""
        return None if self._noted is None else random_states.as_plain(self._noted)

    def load(self, state: Any) -> None:
        """The next validation is that of the batch before, which isn't done with."""
        self._to_restore = self._data.random_at_rest if state is None else random_states.from_plain(state)

    def noted(self) -> AbstractContextManager[None]:
        """For the time of a ``fit``."""
        return before_validating(self._trainer, self._note)

    def _note(self) -> None:
        if self._to_restore is not None:
            random_states.restore(self._to_restore)
            self._to_restore = None
            self._data.draws.go_on_from(None)  # what comes next goes on from what the validation leaves
        self._noted = random_states.capture()
        self._data.validation.validation_begins()
