"""The last listener of a run: when it hears of an event, every callback has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlpug.adapter import StepOutput
from mlpug.callbacks.callback import Callback
from mlpug.trainers.dispatch import CallbackErrors
from mlpug.trainers.run_log import RunLog
from mlpug.trainers.run_state import RunState


class Rest:
    """Calls `on_rest` where nothing is under way, and notes the random state there, which the next batch changes.

    Args:
        callbacks: mlpug's own.
        state: of the whole run.
        run_log: the counters and logs of the run.
        errors: what becomes of an error in `on_rest`.
        on_started: called when training has started.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        state: RunState,
        run_log: RunLog,
        errors: CallbackErrors,
        on_started: Callable[[], None],
    ) -> None:
        self._hooks = [callback.on_rest for callback in callbacks if type(callback).on_rest is not Callback.on_rest]
        self._state = state
        self._run_log = run_log
        self._logs = run_log.logs
        self._errors = errors
        self._on_started = on_started
        self._is_running = False

    @property
    def is_asked_for(self) -> bool:
        """Whether any callback takes states."""
        return bool(self._hooks)

    def training_started(self, num_batches_per_epoch: int | None) -> None:
        """Every callback has heard that training starts: a resumed run takes its state from here."""
        self._state.restore()
        if self._hooks:
            self._state.watch()
            self._state.mark()
        self._is_running = True
        self._on_started()

    def epoch_started(self) -> None:
        """Something is under way from here."""

    def batch_started(self, batch: Any) -> None:
        """Something is under way."""

    def batch_ended(self, batch: Any, output: StepOutput, did_update: bool) -> None:
        if self._hooks:
            self._rest()

    def batch_left_out(self) -> None:
        """Nothing has changed but the place in the data, and random numbers that loading it may have drawn."""
        if self._hooks:
            self._state.mark()

    def epoch_ended(self, completed: bool) -> None:
        if completed:
            self._run_log.complete_epoch()
            if self._hooks:
                self._rest()

    def training_ended(self) -> None:
        """The last rest is where the latest one was. After an error in it, `after_error` tries once more."""
        self._tell(is_last=True)
        self._is_running = False

    def after_error(self) -> None:
        """The same after an error, which matters more than one here: that is only logged."""
        if not self._is_running:  # there is no state yet, or the last rest was where the error came from
            return
        self._is_running = False
        if self._hooks:
            self._state.mark_after_error()
        for hook in self._hooks:
            try:
                hook(self._logs, True)
            except BaseException as error:  # noqa: BLE001 - another error is on its way to the user
                self._errors.log(error, hook)

    def _rest(self) -> None:
        self._state.mark()
        self._tell(is_last=False)

    def _tell(self, is_last: bool) -> None:
        for hook in self._hooks:
            try:
                hook(self._logs, is_last)
            except BaseException as error:  # noqa: BLE001 - raised again, unchanged, unless errors are to be logged
                self._errors.handle(error, hook)
