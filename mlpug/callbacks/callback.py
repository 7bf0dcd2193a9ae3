"""The base of all callbacks, and the names of its hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlpug.errors import ConfigurationError
from mlpug.logs import Logs

if TYPE_CHECKING:
    from mlpug.trainers.default_trainer import DefaultTrainer
    from mlpug.trainers.training_manager import TrainingManager


STATES = "states"  # of what a run may not give: see `Callback.required_of_run`


class Callback:
    """Something that happens while training: override the hooks you need, and only those.

    Hooks are called in list order, on the training thread, and return nothing. Each gets the `logs` object.
    Whatever a hook raises ends training and reaches the caller of ``start_training`` (see
    ``TrainingManager(on_callback_error=...)``).

    Args:
        name: how messages call it, and what its state is kept under; by default that of its class.

    Attributes:
        manager: the `TrainingManager` that calls this callback; set before the first hook is called.

    >>> class StopWhenGood(Callback):
    ...     def on_batch_training_completed(self, batch, logs):
    ...         if logs.at("training.batch.loss") < 0.1:
    ...             self.manager.stop_training()
    """

    manager: TrainingManager
    _given_name: str | None = None

    def __init__(self, *others: Any, name: str | None = None, **named_others: Any) -> None:
        if _is_mixed(type(self)):
            named_others |= {} if name is None else {"name": name}
        elif name is not None:
            self._take_name(name)
        super().__init__(*others, **named_others)

    def _take_name(self, name: Any) -> None:
        if not (isinstance(name, str) and name):
            raise ConfigurationError(f"The name of a callback must be a string that isn't empty, not {name!r}.")
        self._given_name = name
        if isinstance(inspect.getattr_static(type(self), "name"), str):  # that of the class, which this one overrides
            self.__dict__["name"] = name

    def __getstate__(self) -> dict[str, Any]:
        """Without the manager: a copy of a callback, or one that is pickled, belongs to no run."""
        return {name: value for name, value in vars(self).items() if name != "manager"}

    @property
    def name(self) -> str:
        """What the callback's state is kept under; two callbacks with state must differ in it."""
        return self._given_name or type(self).__name__

    def metric_paths(self) -> Iterable[str]:
        """The metric paths that this callback writes to the logs, such as ``"validation.dataset.loss"``."""
        return ()

    def required_metric_paths(self) -> Iterable[str]:
        """The metric paths, or beginnings of paths, that another callback has to write for this one."""
        return ()

    def required_of_run(self) -> Iterable[str]:
        """What the callback can't do without, and not every run that the host itself runs can give: see `as_native`.

        ``"batches"``: the batch that hooks get; ``"training_dataset"``; ``"optimizers"``, when the run is set up;
        ``"states"``: that of the run, or of the model, for a checkpoint.
        """
        return ()

    def check_trainer(self, trainer: DefaultTrainer) -> None:
        """Raise `ConfigurationError` where the callback can't work with this trainer; called when a manager is made."""

    def get_state(self) -> Any:
        """What a resumed run needs, as dicts, lists, numbers, strings, None and arrays; None: nothing."""
        return None

    def set_state(self, state: Any) -> None:
        """Take back what `get_state` gave."""

    def on_training_start(self, logs: Logs) -> None:
        """Training starts: the number of batches in an epoch is known, if it ever is."""

    def on_epoch_start(self, logs: Logs) -> None:
        """Before the first batch of an epoch."""

    def on_batch_training_start(self, batch: Any, logs: Logs) -> None:
        """The batch is on its device; nothing is computed from it yet."""

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """The optimizer step for the batch is done."""

    def on_epoch_completed(self, logs: Logs) -> None:
        """After the last batch of an epoch; not called for an epoch that a stop cut short.

        Where nobody knows how long an epoch is, a stop always cuts it short.
        """

    def on_rest(self, logs: Logs, is_last: bool) -> None:
        """Every callback, native ones too, has heard of the batch or the epoch that ended: nothing is under way.

        The one moment at which the state of the whole run can be taken (``self.manager.get_state()``).

        Args:
            logs: the logs.
            is_last: training ends here; once, before anybody hears of the end. After an error the state is what the
                last whole batch left.
        """

    def on_training_ended(
        self,
        logs: Logs,
        stopped_early: bool,
        stopped_on_error: bool,
        interrupted: bool,
        callback_calls_success: bool,
    ) -> None:
        """Always called last, once, also after an error.

        Args:
            logs: the logs as they were when training ended.
            stopped_early: fewer epochs were completed than asked for, because something asked to stop.
            stopped_on_error: an exception ended training.
            interrupted: Ctrl-C ended training.
            callback_calls_success: no callback raised so far.
        """


def called(callback: Callback, hook: str = "") -> str:
    """How messages call a callback, or its hook: by its class, and by a name that tells it from others of its class.

    >>> called(Callback(name="mine")), called(Callback(name="mine"), "on_epoch_start"), called(Callback())
    ("Callback 'mine'", "Callback.on_epoch_start of 'mine'", 'Callback')
    """
    kind = type(callback).__name__
    name = callback._given_name or callback.name
    what = f"{kind}.{hook}" if hook else kind
    if name.startswith(kind):
        return what
    return f"{what} of {name!r}" if hook else f"{what} {name!r}"


def _is_mixed(kind: type[Callback]) -> bool:
    """Whether another class comes behind `Callback`, whose own arguments pass through here."""
    behind = kind.__mro__[kind.__mro__.index(Callback) + 1]
    return inspect.getattr_static(behind, "__init__") is not object.__init__


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))
