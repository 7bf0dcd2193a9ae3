"""Calls the hooks of the callbacks, in list order, and keeps to the error policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlpug.adapter import StepOutput
from mlpug.callbacks.callback import Callback, called
from mlpug.errors import ConfigurationError
from mlpug.logging import get_logger
from mlpug.logs import Logs


class CallbackErrors:
    """What becomes of an exception in a callback: raised, or logged and counted."""

    def __init__(self, policy: str) -> None:
        if policy not in ("raise", "log"):
            raise ConfigurationError(f'on_callback_error must be "raise" or "log", not {policy!r}.')
        self.policy = policy
        self.count = 0

    def handle(self, error: BaseException, hook: Callable[..., None]) -> None:
        """Count and log the error, or raise it unchanged."""
        self.count += 1
        if self.policy == "log" and isinstance(error, Exception):
            self.log(error, hook)
            return
        raise error

    def log(self, error: BaseException, hook: Callable[..., None]) -> None:
        """Log the error with its traceback."""
        owner = getattr(hook, "__self__", None)
        what = called(owner, hook.__name__) if isinstance(owner, Callback) else hook.__qualname__
        get_logger("TrainingManager").error("%s failed", what, exc_info=error)


class CallbackGroup:
    """A run of callbacks that stand next to each other in the list, as one listener of the adapter's events.

    Only overridden hooks are called: a callback costs nothing at the hooks that it doesn't use.
    """

    def __init__(self, callbacks: Sequence[Callback], logs: Logs, errors: CallbackErrors) -> None:
        self._logs = logs
        self._errors = errors
        self._on_training_start = _overridden(callbacks, "on_training_start")
        self._on_epoch_start = _overridden(callbacks, "on_epoch_start")
        self._on_batch_training_start = _overridden(callbacks, "on_batch_training_start")
        self._on_batch_training_completed = _overridden(callbacks, "on_batch_training_completed")
        self._on_epoch_completed = _overridden(callbacks, "on_epoch_completed")
        self._on_training_ended = _overridden(callbacks, "on_training_ended")

    def training_started(self, num_batches_per_epoch: int | None) -> None:
        for hook in self._on_training_start:
            self._call(hook, self._logs)

    def epoch_started(self) -> None:
        for hook in self._on_epoch_start:
            self._call(hook, self._logs)

    def batch_started(self, batch: Any) -> None:
        for hook in self._on_batch_training_start:
            self._call(hook, batch, self._logs)

    def batch_ended(self, batch: Any, output: StepOutput, did_update: bool) -> None:
        for hook in self._on_batch_training_completed:
            self._call(hook, batch, self._logs)

    def batch_left_out(self) -> None:
        """The callbacks hear of batches that are trained on."""

    def epoch_ended(self, completed: bool) -> None:
        if completed:
            for hook in self._on_epoch_completed:
                self._call(hook, self._logs)

    def training_ended(self) -> None:
        """The callbacks hear of it when the host is done too: see `tell_training_ended`."""

    def tell_training_ended(self, raises: bool, **outcome: bool) -> BaseException | None:
        """Tell every callback, whatever they raise; return the first error where it is to be raised, log the others."""
        first: BaseException | None = None
        for hook in self._on_training_ended:
            try:
                hook(self._logs, **outcome, callback_calls_success=self._errors.count == 0)
            except BaseException as error:  # noqa: BLE001 - every callback has to be told before it is raised
                self._errors.count += 1
                is_logged = self._errors.policy == "log" and isinstance(error, Exception)
                if is_logged or first is not None or not raises:
                    self._errors.log(error, hook)
                else:
                    first = error
        return first

    def _call(self, hook: Callable[..., None], *arguments: Any) -> None:
        try:
            hook(*arguments)
        except BaseException as error:  # noqa: BLE001 - CallbackErrors raises it again, unchanged
            self._errors.handle(error, hook)


def _overridden(callbacks: Sequence[Callback], hook: str) -> list[Callable[..., None]]:
    base = getattr(Callback, hook)
    return [
        getattr(callback, hook)
        for callback in callbacks
        if getattr(type(callback), hook) is not base or hook in vars(callback)
    ]
