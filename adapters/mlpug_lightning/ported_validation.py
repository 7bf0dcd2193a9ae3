"""A validation that an error ended begins again in a resumed run, as if it hadn't begun before."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

from mlpug.datasets import random_states
from mlpug.errors import StateError
from mlpug_lightning.host import before_validating, pl
from mlpug_lightning.kept_buffers import KeptBuffers
from mlpug_lightning.ported_kept import KeptLogs
from mlpug_lightning.ported_state import schedules_state, shown_state
from mlpug_lightning.state import callback_states


class BeforeValidation:
    """Notes before each validation of an epoch what it changes, for one that begins again: it would count it twice.

    That is the random state, metrics and what was logged, buffers, the states of Lightning's callbacks, and schedules.
    Lightning tells no callback there: its loaders draw before those hear of it.

    Args:
        trainer: Lightning's.
        module: the user's.
        data: of the run.
        keeps: whether a checkpoint may be asked for.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, data: Any, keeps: bool) -> None:
        self._trainer = trainer
        self._module = module
        self._data = data
        self._keeps = keeps
        self._kept: list[Any] = []
        self._host: dict[str, Any] = {}
        self._noted: Any = None
        self._to_restore: Any = None

    def forget(self) -> None:
        """A batch is asked for: no validation is under way, and none of the batch before is due."""
        if self._noted is not None and self._data is not None:
            self._data.validation.validation_ended()
        self._noted = self._to_restore = None
        self._kept, self._host = [], {}

    def undo(self) -> None:
        """After an error: what one that is under way has changed in the module is as it was before."""
        for kept in self._kept:
            kept.put_back()

    @property
    def host_state(self) -> dict[str, Any]:
        """The parts of Lightning's state that one that is under way may have changed, as they were before."""
        return self._host

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
        if self._keeps:
            self._keep()

    def _keep(self) -> None:
        self._kept = [KeptBuffers(self._module), KeptLogs(self._trainer, self._module, copies_lists=True)]
        for kept in self._kept:
            kept.keep()
        self._host = {"schedules": schedules_state(self._trainer), "logged": shown_state(self._trainer)}
        with suppress(StateError):  # which is told where it is saved
            self._host["callbacks"] = callback_states(self._trainer)
