"""A validation that an error ended begins again in a resumed run, with the random numbers that it had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlpug.datasets import random_states
from mlpug_lightning.host import pl


class BeforeValidation:
    """Notes the random state before each validation of an epoch, and gives it back to one that begins again.

    Lightning calls a hook of the module there, and none of the callbacks: its loaders draw before those hear of it.

    Args:
        module: the user's.
        data: of the run.
    """

    def __init__(self, module: pl.LightningModule, data: Any) -> None:
        self._module: Any = module
        self._data = data
        self._noted: Any = None
        self._to_restore: Any = None

    def forget(self) -> None:
        """A batch is asked for: no validation is under way, and none of the batch before is due."""
        self._noted = self._to_restore = None

    def state(self) -> Any:
        """Of a validation that is under way; else None."""
        return None if self._noted is None else random_states.as_plain(self._noted)

    def load(self, state: Any) -> None:
        """The next validation is that of the batch before, which isn't done with."""
        self._to_restore = self._data.random_at_rest if state is None else random_states.from_plain(state)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """For the time of a ``fit``."""
        original = self._module.on_validation_model_zero_grad

        def on_validation_model_zero_grad() -> None:
            if self._to_restore is not None:
                random_states.restore(self._to_restore)
                self._to_restore = None
                self._data.draws.go_on_from(None)  # what comes next goes on from what the validation leaves
            self._noted = random_states.capture()
            original()

        self._module.on_validation_model_zero_grad = on_validation_model_zero_grad
        try:
            yield
        finally:
            del self._module.on_validation_model_zero_grad
